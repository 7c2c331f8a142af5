//! The proxy: what a test does with it.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use crate::host::callouts::{Answer, CalloutRequest, Handler};
use crate::host::faults::Fault;
use crate::host::logs::Log;

mod builder;
mod plugin;
mod threads;
mod worker;

pub use builder::Builder;
pub use plugin::{FailurePolicy, Plugin, Rejected};
pub use worker::{StreamHandle, Worker};

pub(crate) use plugin::PluginConfig;
pub(crate) use threads::{Inner, Root};

use threads::Slot;

/// A proxy with a chain of Wasm filters. See the crate for an example.
#[derive(Clone)]
pub struct Proxy {
    inner: Rc<Inner>,
}

impl Proxy {
    /// Changes a plugin's configuration, as an xDS update does: a canary tries it, then each thread makes a
    /// new root context in the VM that it has, and the old root lives until its last stream ends.
    ///
    /// # Errors
    /// If the canary refuses; then the configuration in force stays.
    ///
    /// # Panics
    /// If there is no plugin of that name.
    pub fn update(&self, name: &str, configuration: impl Into<Vec<u8>>) -> Result<(), Rejected> {
        let inner = &self.inner;
        let slot = inner.threads.borrow()[0].slots.iter().position(|slot| slot.plugin.name == name);
        let slot = slot.unwrap_or_else(|| panic!("no plugin {name}"));
        let mut plugin = PluginConfig::clone(&inner.threads.borrow()[0].slots[slot].plugin);
        plugin.configuration = configuration.into();
        let plugin = Rc::new(plugin);
        inner.canary(&plugin)?;
        let threads = inner.threads.borrow().len();
        for thread in 0..threads {
            let root = inner.create_root(thread, &plugin);
            let loaded = inner.host.borrow().clock.monotonic();
            let fresh = Slot { plugin: Rc::clone(&plugin), root, loaded };
            let old = std::mem::replace(&mut inner.threads.borrow_mut()[thread].slots[slot], fresh);
            if let Some(root) = old.root {
                inner.release(root);
            }
        }
        self.settle();
        Ok(())
    }

    /// Moves both clocks forward; timers fire and callouts time out on the way, each at its moment.
    pub fn advance(&self, by: Duration) {
        let inner = &self.inner;
        let until = inner.host.borrow().clock.monotonic() + by;
        loop {
            let timer = inner.next_timer(until);
            let deadline = inner.host.borrow().callouts.next_deadline().filter(|deadline| *deadline <= until);
            let next = timer.as_ref().map(|(due, ..)| *due).into_iter().chain(deadline).min();
            let Some(next) = next else { break };
            {
                let mut host = inner.host.borrow_mut();
                let gap = next.saturating_sub(host.clock.monotonic());
                host.clock.advance(gap);
                host.callouts.expire(next);
            }
            if let Some((due, vm, root)) = timer
                && due == next
            {
                inner.tick(&vm, root);
            }
            inner.settle();
        }
        let mut host = inner.host.borrow_mut();
        let gap = until.saturating_sub(host.clock.monotonic());
        host.clock.advance(gap);
    }

    /// Sets the wall clock alone, in seconds since the Unix epoch; the monotonic clock and timers don't
    /// notice.
    pub fn set_clock(&self, unix: u64) {
        self.inner.host.borrow_mut().clock.set_wall(Duration::from_secs(unix));
    }

    /// The wall clock, in seconds since the Unix epoch.
    pub fn now(&self) -> u64 {
        self.inner.host.borrow().clock.wall().as_secs()
    }

    /// Replaces or adds a cluster.
    pub fn set_cluster<A: Into<Answer>>(&self, name: &str, answer: impl Fn(&CalloutRequest) -> A + 'static) {
        let handler: Handler = Rc::new(move |request| answer(request).into());
        self.inner.host.borrow_mut().callouts.clusters.insert(name.to_owned(), handler);
    }

    /// A cluster vanishes: the calls to it that are under way are reset (`ClusterEntry::~ClusterEntry`), and
    /// none is known by that name.
    pub fn remove_cluster(&self, name: &str) {
        {
            let mut host = self.inner.host.borrow_mut();
            host.callouts.clusters.remove(name);
            let lost = host.callouts.pending.iter_mut().filter(|pending| pending.request.cluster == name);
            for pending in lost {
                pending.answer.get_or_insert(Answer::Reset);
            }
        }
        self.settle();
    }

    /// The listener is removed: no request comes any more, and the plugins live until the last stream ends.
    pub fn drain(&self) {
        let threads = self.inner.threads.borrow().len();
        for thread in 0..threads {
            let slots = std::mem::take(&mut self.inner.threads.borrow_mut()[thread].slots);
            for root in slots.into_iter().filter_map(|slot| slot.root) {
                self.inner.release(root);
            }
        }
        self.settle();
    }

    /// SIGTERM: the workers end their connections, then the plugins go.
    pub fn terminate(&self) {
        let mut streams: Vec<u64> = self.inner.host.borrow().streams.keys().copied().collect();
        streams.sort_unstable();
        for stream in streams {
            self.inner.reset_stream(stream);
        }
        self.drain();
    }

    /// Callouts that wait for an answer.
    pub fn callouts(&self) -> Vec<CalloutRequest> {
        self.inner.host.borrow().callouts.pending.iter().map(|pending| pending.request.clone()).collect()
    }

    /// Answers a callout that was held, and delivers the answer.
    ///
    /// # Panics
    /// If no callout of that ID waits.
    pub fn answer(&self, id: u64, answer: impl Into<Answer>) {
        {
            let mut host = self.inner.host.borrow_mut();
            let pending = host.callouts.pending.iter_mut().find(|pending| pending.request.id == id);
            pending.unwrap_or_else(|| panic!("no callout {id} waits")).answer = Some(answer.into());
        }
        self.settle();
    }

    /// Does what comes in one iteration of a worker's event loop: what ends meanwhile is destroyed at once
    /// and deleted at the end (`Dispatcher::deferredDelete`), and until then the VM can still name it.
    pub fn in_one_iteration(&self, events: impl FnOnce()) {
        self.inner.host.borrow_mut().one_iteration = true;
        events();
        for vm in self.inner.all_vms() {
            vm.borrow_mut().state().contexts.retain(|_, context| !context.destroyed);
        }
        let mut host = self.inner.host.borrow_mut();
        host.one_iteration = false;
        for stream in std::mem::take(&mut host.dropped) {
            host.streams.remove(&stream);
        }
    }

    /// Delivers all answers that are there.
    pub fn settle(&self) {
        self.inner.settle();
    }

    /// Adds a fault.
    pub fn fault(&self, fault: Fault) {
        self.inner.host.borrow_mut().faults.add(fault);
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.inner.host.borrow_mut().faults.clear();
    }

    /// Everything that was logged, canaries included.
    pub fn logs(&self) -> Vec<Log> {
        self.inner.host.borrow().logs.clone()
    }

    /// Counters and gauges by name, without Envoy's prefix `wasmcustom.`.
    pub fn metrics(&self) -> BTreeMap<String, u64> {
        self.inner.host.borrow().metrics.values()
    }

    /// A counter or gauge, 0 if there is none.
    pub fn metric(&self, name: &str) -> u64 {
        self.metrics().get(name).copied().unwrap_or_default()
    }

    /// What was recorded in a histogram.
    pub fn samples(&self, name: &str) -> Vec<u64> {
        self.inner.host.borrow().metrics.samples(name)
    }

    /// Shared data of a `vm_id` (Istio's is empty), by key.
    pub fn shared_data(&self, vm_id: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.inner.host.borrow().shared_data.entries(vm_id)
    }

    /// Writes shared data, as another plugin of the proxy could.
    ///
    /// # Panics
    /// Never: a CAS of 0 overwrites.
    pub fn set_shared_data(&self, vm_id: &str, key: &[u8], value: &[u8]) {
        self.inner.host.borrow_mut().shared_data.set(vm_id, key, value, 0).expect("a CAS of 0 overwrites");
    }

    /// Host calls made so far by all VMs, by import name.
    pub fn calls(&self) -> BTreeMap<String, u64> {
        self.inner.host.borrow().calls.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    /// Which host calls were made in which callback so far, as (export, import) names: the moments at which a
    /// fault can strike.
    pub fn moments(&self) -> Vec<(String, String)> {
        let host = self.inner.host.borrow();
        host.moments.iter().map(|(callback, call)| (callback.clone(), (*call).to_owned())).collect()
    }

    /// How often a timer has fired so far, of all VMs.
    pub fn ticks(&self) -> u64 {
        self.inner.host.borrow().ticks
    }

    /// Why VMs are dead, empty if all live.
    pub fn failures(&self) -> Vec<String> {
        self.inner.all_vms().iter().filter_map(|vm| vm.borrow().failed.clone()).collect()
    }

    /// Bytes of memory that a worker's VMs have, all pages that they ever asked for: Wasm memory never
    /// shrinks.
    pub fn memory(&self, worker: usize) -> usize {
        let threads = self.inner.threads.borrow();
        threads[worker + 1].vms.values().map(|vm| vm.borrow_mut().memory_size()).sum()
    }

    /// Number of contexts that live in a worker's VMs, roots included: a leak shows here.
    pub fn contexts(&self, worker: usize) -> usize {
        let threads = self.inner.threads.borrow();
        let vms = threads[worker + 1].vms.values();
        vms.map(|vm| vm.borrow_mut().state().contexts.len() - 1).sum()
    }
}
