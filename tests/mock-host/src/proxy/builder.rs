//! How a test describes a proxy.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::time::Duration;

use super::Proxy;
use super::plugin::{Plugin, Rejected};
use super::threads::{Inner, Slot, Thread};
use crate::host::Host;
use crate::host::callouts::{Answer, CalloutRequest, Callouts, Handler};
use crate::host::clock::Clock;
use crate::host::faults::{Fault, Faults};
use crate::host::metrics::Metrics;
use crate::host::random::Random;
use crate::host::shared_data::SharedData;
use crate::properties::Value;
use crate::stream::exchange::{Response, UpstreamRequest};

/// Describes a proxy.
pub struct Builder {
    workers: usize,
    plugins: Vec<Plugin>,
    clusters: HashMap<String, Handler>,
    upstream: Rc<dyn Fn(&UpstreamRequest) -> Response>,
    node: Value,
    edge: bool,
    unix: Duration,
    seed: u64,
    faults: Faults,
}

impl Builder {
    /// Number of workers, 1 unless said. The main thread comes on top.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Adds a plugin to the end of the filter chain.
    #[must_use]
    pub fn plugin(mut self, plugin: Plugin) -> Self {
        self.plugins.push(plugin);
        self
    }

    /// A cluster that callouts can reach, and what becomes of them.
    #[must_use]
    pub fn cluster<A: Into<Answer>>(
        mut self,
        name: &str,
        answer: impl Fn(&CalloutRequest) -> A + 'static,
    ) -> Self {
        self.clusters.insert(name.to_owned(), Rc::new(move |request| answer(request).into()));
        self
    }

    /// The service behind the proxy; unless said it answers 200 with the body `ok`.
    #[must_use]
    pub fn upstream(mut self, service: impl Fn(&UpstreamRequest) -> Response + 'static) -> Self {
        self.upstream = Rc::new(service);
        self
    }

    /// `xds.node`: a map with `id`, `cluster`, `metadata`.
    #[must_use]
    pub fn node(mut self, node: Value) -> Self {
        self.node = node;
        self
    }

    /// Whether the connection manager takes the client's address from its connection (`use_remote_address`).
    #[must_use]
    pub fn edge(mut self, edge: bool) -> Self {
        self.edge = edge;
        self
    }

    /// Wall-clock time at the start, in seconds since the Unix epoch.
    #[must_use]
    pub fn clock(mut self, unix: u64) -> Self {
        self.unix = Duration::from_secs(unix);
        self
    }

    /// Seed of the generator behind WASI's `random_get`.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// A fault that is there from the start, while plugins are configured too.
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Self {
        self.faults.add(fault);
        self
    }

    /// Starts the proxy: for each plugin a throwaway canary VM, then its root context on the main thread and
    /// each worker.
    ///
    /// # Errors
    /// If a module can't be loaded or linked, or its canary refuses the configuration.
    pub fn build(self) -> Result<Proxy, Rejected> {
        let host = Host {
            clock: Clock::new(self.unix),
            shared_data: SharedData::default(),
            metrics: Metrics::default(),
            logs: Vec::new(),
            callouts: Callouts { clusters: self.clusters, ..Callouts::default() },
            faults: self.faults,
            random: Random::new(self.seed),
            node: self.node,
            streams: HashMap::new(),
            calls: BTreeMap::new(),
            moments: BTreeSet::new(),
            nested: 0,
            one_iteration: false,
            dropped: Vec::new(),
            ticks: 0,
        };
        let inner = Inner {
            host: Rc::new(RefCell::new(host)),
            upstream: self.upstream,
            edge: self.edge,
            threads: RefCell::new((0..=self.workers).map(|_| Thread::default()).collect()),
            vms: RefCell::default(),
            canaries: RefCell::default(),
            envs: RefCell::default(),
            next: Cell::new(0),
        };
        for plugin in self.plugins {
            let plugin = Rc::new(plugin.load()?);
            inner.canary(&plugin)?;
            for thread in 0..=self.workers {
                let root = inner.create_root(thread, &plugin);
                let loaded = inner.host.borrow().clock.monotonic();
                let slot = Slot { plugin: Rc::clone(&plugin), root, loaded };
                inner.threads.borrow_mut()[thread].slots.push(slot);
            }
        }
        let proxy = Proxy { inner: Rc::new(inner) };
        proxy.settle();
        Ok(proxy)
    }
}

/// 2026-01-01T00:00:00Z.
const START: u64 = 1_767_225_600;

impl Proxy {
    /// Describes a proxy with one worker and no plugin, at 2026-01-01T00:00:00Z.
    pub fn builder() -> Builder {
        let labels = Value::map([("app", "shop".into()), ("version", "v1".into())]);
        let metadata =
            [("NAMESPACE", "shop".into()), ("WORKLOAD_NAME", "shop-v1".into()), ("LABELS", labels)];
        let id = "sidecar~10.0.0.1~shop-v1-0.shop~shop.svc.cluster.local";
        Builder {
            workers: 1,
            plugins: Vec::new(),
            clusters: HashMap::new(),
            upstream: Rc::new(|_| Response::new(200).body("ok")),
            node: Value::map([
                ("id", id.into()),
                ("cluster", "shop.shop".into()),
                ("metadata", Value::map(metadata)),
            ]),
            edge: false,
            unix: Duration::from_secs(START),
            seed: 1,
            faults: Faults::default(),
        }
    }
}
