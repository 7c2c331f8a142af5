//! Cases on real Envoy. A case takes some milliseconds: an Envoy is started once and used by one case after
//! the other, each with a new listener, and with VMs and shared data of its own.

use crate::host::{Exchange, Filter, Host, HostError, Proxy, Setup, module, native_module};
use crate::schema::Case;
use crate::tokens::public_keys;
use envoy::{
    Answer, Bootstrap, Cluster, Delivery, Envoy, Error, HttpFilter, JwksServer, Listener, Node,
    RateLimitAnswer, RateLimitService, Request, Role, SpanCollector, Tracing, Upstream, Wasm,
};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The names of the cluster by which plugins may call the key server.
pub const ISSUER_CLUSTERS: [&str; 5] = [
    "jwks",
    "outbound|80||issuer.test",
    "outbound|443||issuer.test",
    "outbound|8080||issuer.test",
    "outbound|8080||auth-service.adaptive-learning.svc.cluster.local",
];

/// The names of the cluster by which plugins may call the rate limit service.
pub const LIMIT_CLUSTERS: [&str; 2] = ["ratelimit", "outbound|8081||ratelimit.test"];

/// Real Envoy with a number of workers.
#[derive(Debug)]
pub struct EnvoyHost {
    workers: usize,
    form: Form,
    /// Empty before the first case and after one that failed: the next starts another Envoy.
    slot: Mutex<Option<Slot>>,
}

/// How Envoy runs the filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As Wasm plugins.
    Wasm,
    /// As native modules. Which cases fail there, and why: each by the start of its file's name and of its
    /// own.
    Native(&'static [(&'static str, &'static str, &'static str)]),
}

/// An Envoy and the servers around it, in the hands of one case at a time.
#[derive(Debug)]
struct Slot {
    role: Role,
    envoy: Envoy,
    upstream: Upstream,
    issuer: JwksServer,
    limit_service: RateLimitService,
    spans: SpanCollector,
    used: u32,
    /// Listeners that nobody calls. V8 keeps a module's machine code as long as some VM lives that runs it,
    /// and to compile one takes longer than many cases.
    kept: Vec<Listener>,
}

impl EnvoyHost {
    /// Starts nothing yet.
    pub fn new(workers: usize, form: Form) -> Self {
        Self { workers, form, slot: Mutex::default() }
    }
}

impl Slot {
    fn start(workers: usize, role: Role) -> Result<Self, HostError> {
        let broken = |error: std::io::Error| HostError::Broken(error.to_string());
        let upstream = Upstream::start().map_err(broken)?;
        let issuer = JwksServer::start(&json!({ "keys": [] })).map_err(broken)?;
        let limit_service = RateLimitService::start().map_err(broken)?;
        let spans = SpanCollector::start().map_err(broken)?;
        let mut clusters = vec![
            Cluster::new("upstream", upstream.address()),
            Cluster::new("collector", spans.address()),
            // Port 1 of loopback: nobody listens there.
            Cluster::new("unreachable", SocketAddr::from(([127, 0, 0, 1], 1))),
        ];
        clusters.extend(ISSUER_CLUSTERS.map(|name| Cluster::new(name, issuer.address())));
        clusters.extend(
            LIMIT_CLUSTERS.map(|name| Cluster { http2: true, ..Cluster::new(name, limit_service.address()) }),
        );
        let bootstrap = Bootstrap { clusters, node: Node { role, ..Node::default() } };
        let envoy = Envoy::start(&bootstrap, &[], workers)?;
        Ok(Self { role, envoy, upstream, issuer, limit_service, spans, used: 0, kept: Vec::new() })
    }

    /// Sees to it that a filter's module stays compiled.
    fn keep(&mut self, filter: &str) -> Result<(), HostError> {
        let name = format!("kept-{filter}");
        let configuration = match filter {
            "jwt-auth" => json!({ "providers": { "kept": {
                "issuer": "https://kept.test/", "audiences": ["kept"], "jwks": public_keys(&["rsa-1"]).map_err(HostError::Broken)?,
            }}}),
            "rate-limit" => json!({ "limits": [{ "name": "kept", "rate": { "requests": 1, "per": "1h" } }] }),
            "trace-tags" => json!({ "tags": [] }),
            "mesh-filters" => json!({ "traceTags": { "tags": [] } }),
            _ => return Ok(()),
        };
        if self.kept.iter().any(|listener| listener.name == name) {
            return Ok(());
        }
        let mut wasm = Wasm::new(&name, module(filter)?, configuration.to_string());
        wasm.vm_id.clone_from(&name);
        self.kept.push(Listener::new(&name, "upstream", vec![HttpFilter::Wasm(wasm)]));
        self.envoy.set_listeners(&self.kept).map_err(|error| HostError::Broken(format!("{name}: {error}")))
    }
}

impl From<Error> for HostError {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(log) => Self::Refused(log),
            other => Self::Broken(other.to_string()),
        }
    }
}

impl Host for EnvoyHost {
    fn name(&self) -> String {
        let form = if self.form == Form::Wasm { "Envoy" } else { "native Envoy" };
        format!("{form}, {} worker{}", self.workers, if self.workers == 1 { "" } else { "s" })
    }

    fn lacks(&self, case: &Case) -> Option<&'static str> {
        let Form::Native(lacks) = self.form else { return None };
        let found =
            lacks.iter().find(|(file, name, _)| case.file.starts_with(file) && case.name.starts_with(name));
        found.map(|(_, _, reason)| *reason)
    }

    fn is_mock(&self) -> bool {
        false
    }

    fn start(&self, setup: &Setup) -> Result<Box<dyn Proxy + '_>, HostError> {
        let mut place = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        let mut slot = match place.take() {
            Some(slot) if slot.role == setup.role => slot,
            _ => Slot::start(self.workers, setup.role)?,
        };
        if self.form == Form::Wasm {
            for filter in &setup.filters {
                slot.keep(&filter.name)?;
            }
        }
        slot.used += 1;
        slot.upstream.answer(Answer::default());
        slot.upstream.take_received();
        slot.issuer.answer(setup.issuer.clone());
        slot.limit_service.answer(setup.limit_service.clone());
        let name = format!("case-{}", slot.used);
        let log = slot.envoy.log_length();
        let proxy = EnvoyProxy { place, name, form: self.form, setup: setup.clone(), log, slot };
        proxy.listen()
    }
}

struct EnvoyProxy<'a> {
    /// Held, so that no other case starts; the slot goes back when this one has ended well.
    place: MutexGuard<'a, Option<Slot>>,
    slot: Slot,
    name: String,
    form: Form,
    setup: Setup,
    log: u64,
}

impl<'a> EnvoyProxy<'a> {
    fn listen(mut self) -> Result<Box<dyn Proxy + 'a>, HostError> {
        let plugins = self.plugins(&self.setup.filters)?;
        let mut listener =
            Listener::new(&self.name, "upstream", plugins.into_iter().map(HttpFilter::Wasm).collect());
        listener.use_remote_address = self.setup.role.is_edge();
        listener.access_log.filter_state.clone_from(&self.setup.filter_state);
        if !self.setup.span_tags.is_empty() {
            let tag = |name: &String| (name.clone(), format!("%FILTER_STATE(wasm.tag.{name}:PLAIN)%"));
            listener.tracing = Some(Tracing {
                cluster: "collector".to_owned(),
                service: "server.shop".to_owned(),
                custom_tags: self.setup.span_tags.iter().map(tag).collect(),
            });
        }
        let listeners = [&*self.slot.kept, &[listener]].concat();
        match self.slot.envoy.set_listeners(&listeners) {
            Ok(()) => Ok(Box::new(self)),
            Err(Error::Refused(log)) => {
                self.give_back();
                Err(HostError::Refused(log))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn plugins(&self, filters: &[Filter]) -> Result<Vec<Wasm>, HostError> {
        let plugin = |filter: &Filter| {
            // The case's name keeps discovery files and statistics of cases apart.
            let name = format!("{}-{}", self.name, filter.name);
            let module = if self.form == Form::Wasm { module(&filter.name) } else { native_module() };
            let mut wasm = Wasm::new(&name, module?, &filter.configuration);
            wasm.native = (self.form != Form::Wasm).then(|| filter.name.clone());
            wasm.environment.clone_from(&self.setup.env);
            wasm.vm_id.clone_from(&self.name);
            wasm.delivery = if self.setup.reconfigures { Delivery::Discovery } else { Delivery::Inline };
            Ok(wasm)
        };
        filters.iter().map(plugin).collect()
    }

    fn give_back(mut self) {
        *self.place = Some(self.slot);
    }
}

impl Proxy for EnvoyProxy<'_> {
    fn send(&mut self, request: &Request) -> Result<Exchange, HostError> {
        let address = self.slot.envoy.address(&self.name)?;
        self.slot.upstream.take_received();
        let mark = self.slot.envoy.access_log_length();
        let response = request.send(address).map_err(|error| HostError::Broken(error.to_string()))?;
        let entry = self.slot.envoy.access_log_entry_since(mark, response.client_port)?;
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let filter_state = entry["filter_state"]
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| {
                (key.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            })
            .collect();
        let span = if self.setup.span_tags.is_empty() {
            BTreeMap::new()
        } else {
            let spans = self.slot.spans.wait_for_trace(&text(&entry["trace_id"]), 1);
            let mut spans = spans.map_err(|error| HostError::Broken(error.to_string()))?;
            let mut tags = spans.remove(0).attributes;
            // Envoy writes `-` where there is no filter state.
            tags.retain(|_, value| value != "-");
            tags
        };
        let upstream = self.slot.upstream.take_received().pop();
        Ok(Exchange { response, upstream, filter_state, details: text(&entry["details"]), span })
    }

    fn send_many(&mut self, request: &Request, times: u32, parallel: u32) -> Result<Vec<u16>, HostError> {
        let address = self.slot.envoy.address(&self.name)?;
        let senders: Vec<_> = (0..parallel)
            .map(|sender| {
                let request = request.clone();
                // Every sender takes each parallel-th request.
                let share = (sender..times).step_by(parallel as usize).len();
                std::thread::spawn(move || {
                    (0..share)
                        .map(|_| request.send(address).map(|response| response.status))
                        .collect::<Result<Vec<_>, _>>()
                })
            })
            .collect();
        let mut statuses = Vec::new();
        for sender in senders {
            let sent = sender.join().map_err(|_| HostError::Broken("a client panicked".to_owned()))?;
            statuses.extend(sent.map_err(|error| HostError::Broken(error.to_string()))?);
        }
        Ok(statuses)
    }

    fn configure(&mut self, filters: &[Filter]) -> Result<(), HostError> {
        for plugin in self.plugins(filters)? {
            self.slot.envoy.reconfigure(&plugin)?;
        }
        Ok(())
    }

    fn set_issuer(&mut self, answer: Answer) {
        self.slot.issuer.answer(answer);
    }

    fn set_limit_service(&mut self, answer: RateLimitAnswer) {
        self.slot.limit_service.answer(answer);
    }

    fn set_upstream(&mut self, answer: Answer) {
        self.slot.upstream.answer(answer);
    }

    fn advance(&mut self, _: Duration) -> Result<(), HostError> {
        Err(HostError::Broken("real Envoy has no clock to advance".to_owned()))
    }

    fn wait(&mut self) {
        std::thread::sleep(Duration::from_millis(5));
    }

    fn metrics(&self) -> Result<BTreeMap<String, i64>, HostError> {
        let stats = self.slot.envoy.stats()?;
        let counter = |(name, value): (String, u64)| {
            Some((name.strip_prefix("wasmcustom.")?.to_owned(), i64::try_from(value).ok()?))
        };
        Ok(stats.into_iter().filter_map(counter).collect())
    }

    fn log(&self) -> String {
        self.slot.envoy.log_since(self.log)
    }

    fn finish(mut self: Box<Self>) -> Result<String, HostError> {
        let kept = self.slot.kept.clone();
        self.slot.envoy.set_listeners(&kept)?;
        // The last line of this case: what came before it is in the file by now.
        let last = format!("remove listener '{}'", self.name);
        let log =
            envoy::wait_for("the end of the log", || Some(self.log()).filter(|log| log.contains(&last)));
        let log = log.map_err(|error| HostError::Broken(error.to_string()))?;
        self.give_back();
        Ok(log)
    }
}
