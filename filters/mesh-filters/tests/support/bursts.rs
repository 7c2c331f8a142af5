//! A thousand requests that wait at once on one worker of a real Envoy, and how that ends: each gets its answer, none passes
//! unchecked, and no VM or native module fails. And what a new configuration keeps of what that worker has fetched.
//!
//! Each thing to wait for ends in each way. With `BURSTS=pairs` each two values of the table's columns meet in some burst, with
//! `BURSTS=all` all combinations are tried, and with `BURSTS="Keys Joined"` those of these values.

#[allow(dead_code, reason = "the mock host's tests use the rest")]
#[path = "../../../../tests/mock-host/tests/support/burst.rs"]
mod burst;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use burst::{Burst, Ends, Form, LEAVES, Loaded, OPAQUE, SECRET, Then, USER, Waits};
use cases::{Token, public_keys};
use envoy::rate_limit::{OK, OVER_LIMIT, RateLimitResponse};
use envoy::{
    Answer, Bootstrap, ClientError, Cluster, Delivery, Envoy, Gate, HttpFilter, JwksServer, Listener,
    RateLimitAnswer, RateLimitService, Request, Upstream, Wasm, values, wait_for,
};
use serde_json::{Value, json};

const MANY: usize = 1000;
/// Of which so many stay where some leave.
const STAY: usize = MANY - MANY / LEAVES;

/// What runs the filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "each test program has one of them")]
pub(crate) enum Host {
    Wasm,
    Native,
}

/// One burst at a time: the machine is for one of them.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An Envoy with one worker, for a burst.
struct Scene {
    host: Host,
    burst: Burst,
    envoy: Envoy,
    upstream: Upstream,
    /// Has the keys and the list.
    documents: JwksServer,
    limits: RateLimitService,
    /// Holds back what the requests wait for.
    gate: Gate,
}

fn plugin(host: Host, loaded: &Loaded) -> Wasm {
    let (file, native) = match host {
        Host::Wasm => (format!("{}.wasm", loaded.filter), None),
        Host::Native => ("libmesh_filters.so".to_owned(), Some(loaded.filter.to_owned())),
    };
    let module = cases::repository().join("target/filters").join(file);
    let configuration = loaded.configuration.to_string();
    let environment = BTreeMap::from([(SECRET.0.to_owned(), SECRET.1.to_owned())]);
    Wasm {
        delivery: Delivery::Discovery,
        environment,
        native,
        ..Wasm::new(loaded.name, module, configuration)
    }
}

fn keys() -> Value {
    public_keys(&["rsa-1"]).unwrap()
}

impl Scene {
    /// What the requests wait for does not come yet.
    fn new(host: Host, burst: Burst) -> Self {
        let (upstream, limits) = (Upstream::start().unwrap(), RateLimitService::start().unwrap());
        let (documents, gate) = (JwksServer::start(&json!({ "keys": [] })).unwrap(), Gate::closed());
        let at = if burst.waits == Waits::Service { limits.address() } else { documents.address() };
        let http2 = burst.waits == Waits::Service;
        let clusters = vec![
            match burst.then {
                Then::RouterAnswers => Cluster::empty("service"),
                _ => Cluster::new("service", upstream.address()),
            },
            Cluster::empty("nobody"),
            Cluster { http2, discovered: true, ..Cluster::new(burst.waits.cluster(), at) },
        ];
        let document = match burst.waits {
            Waits::Keys => keys(),
            Waits::Answer => {
                json!({ "active": !burst.inactive(), "aud": "api", "sub": "alice", "exp": 4_102_444_800_u64 })
            }
            _ => json!({ "sub": if burst.revoked() { vec!["alice"] } else { vec![] } }),
        };
        let rubbish = burst.ends == Ends::Rubbish;
        let mut answer = Answer { gate: Some(gate.clone()), ..Answer::json(&document) };
        if rubbish {
            answer.body = b"<html>Bad gateway</html>".to_vec();
        }
        documents.answer(answer);
        let overall_code = if burst.over_limit() { OVER_LIMIT } else { OK };
        limits.answer(RateLimitAnswer {
            response: RateLimitResponse { overall_code, ..RateLimitResponse::default() },
            raw: rubbish.then(|| vec![0xff; 9]),
            gate: Some(gate.clone()),
            ..RateLimitAnswer::default()
        });
        let plugins = burst.plugins(&keys());
        let plugins = plugins.iter().map(|loaded| HttpFilter::Wasm(plugin(host, loaded))).collect();
        let listener = Listener::new("inbound", "service", plugins);
        let bootstrap = Bootstrap { clusters, ..Bootstrap::default() };
        let envoy = Envoy::start(&bootstrap, &[listener], 1).unwrap();
        Self { host, burst, envoy, upstream, documents, limits, gate }
    }

    fn request(&self) -> Request {
        let request = Request::new("GET", "/");
        if self.burst.waits == Waits::Service {
            return request;
        }
        if self.burst.waits == Waits::Answer {
            return request.header("authorization", &format!("Bearer {OPAQUE}"));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims = json!({ "iss": "https://issuer.test/", "aud": "api", "sub": "alice", "exp": now + 600 });
        let key = if self.burst.forged() { "rsa-2" } else { "rsa-1" };
        let token = Token::new(key, claims).mint().unwrap();
        request.header("authorization", &format!("Bearer {token}"))
    }

    fn stat(&self, name: &str) -> u64 {
        self.envoy.stats().unwrap().get(name).copied().unwrap_or_default()
    }

    /// How many requests wait, or have waited.
    fn waited(&self) -> u64 {
        match self.burst.waits {
            Waits::Service => self.limits.asked(),
            _ => self.stat("wasmcustom.jwt_auth_requests_waited"),
        }
    }

    /// Sends the burst, and has it end. What each client got that stayed.
    fn run(&mut self) -> Vec<Result<u16, ClientError>> {
        let (many, stay) = (u64::try_from(MANY).unwrap(), u64::try_from(STAY).unwrap());
        let before = self.waited();
        let mut requests = self.request().begin_burst(self.envoy.address("inbound").unwrap(), MANY).unwrap();
        if self.burst.ends == Ends::TimesOut {
            let answers = requests.answers();
            assert_ne!(self.waited(), before, "none has waited");
            return answers;
        }
        wait_for("requests that wait", || (self.waited() >= before + many).then_some(())).unwrap();
        match self.burst.ends {
            Ends::Arrives | Ends::Rubbish | Ends::TimesOut => {}
            Ends::ClusterGone => self.envoy.set_clusters(&[]).unwrap(),
            Ends::Reconfigured => {
                self.envoy.reconfigure(&plugin(self.host, &self.burst.reconfigured(&keys()))).unwrap();
            }
            Ends::ClientsLeave => {
                requests.leave(LEAVES);
                let open = "http.inbound.downstream_rq_active";
                wait_for("clients that leave", || (self.stat(open) <= stay).then_some(())).unwrap();
            }
            Ends::Drains => drop(self.envoy.admin("POST", "/drain_listeners?graceful").unwrap()),
            Ends::Terminates => {
                let status = self.envoy.terminate().unwrap();
                assert!(status.success(), "{status}");
            }
        }
        if self.burst.ends != Ends::ClusterGone {
            self.gate.open();
        }
        requests.answers()
    }

    /// That no request is lost, and what passed was checked.
    fn check(&self, answers: Vec<Result<u16, ClientError>>) {
        let burst = self.burst;
        let log = self.envoy.log();
        // Filters may log that something else has failed.
        let failed = |line: &&str| {
            let by_host = !line.contains("wasm log");
            let in_vm = line.contains("[wasm]")
                && (line.contains("Uncaught ")
                    || line.contains("panicked at")
                    || (by_host && line.contains("failed: ")));
            in_vm || (line.contains("[dynamic_modules]") && line.contains("panic"))
        };
        assert_eq!(log.lines().find(failed), None, "{burst:?}: a filter failed");
        let received = self.upstream.take_received();
        if burst.ends == Ends::Terminates {
            assert!(answers.iter().all(Result::is_err), "{burst:?}");
            assert_eq!(received.len(), 0, "{burst:?}");
            return;
        }
        let count = if burst.ends == Ends::ClientsLeave { STAY } else { MANY };
        assert_eq!(answers.len(), count);
        let mut statuses = BTreeMap::new();
        for answer in answers {
            *statuses.entry(answer.unwrap_or_else(|error| panic!("{burst:?}: {error}"))).or_default() += 1;
        }
        let statuses: Vec<(u16, usize)> = statuses.into_iter().collect();
        assert_eq!(statuses, burst.statuses(count, 0), "{burst:?}");
        let passed = statuses.iter().find(|(status, _)| *status == 200).map_or(0, |(_, count)| *count);
        assert_eq!(received.len(), passed, "{burst:?}");
        for request in received {
            let user: Vec<&str> = burst.user().into_iter().collect();
            assert_eq!(values(&request.headers, USER), user, "{burst:?}");
        }
    }
}

pub(crate) fn bursts_are_answered_however_their_waiting_ends(host: Host) {
    let _turn = turn();
    let wanted = std::env::var("BURSTS").unwrap_or_default();
    let mut bursts = Burst::wanted(&wanted);
    if wanted.is_empty() {
        // Two plugins of one module share a VM, and what resumes a stream of the first enters it for the second.
        let (ends, then, form) = (Ends::ClusterGone, Then::Unauthorized, Form::Apart);
        bursts.push(Burst { waits: Waits::Keys, ends, then, form });
    }
    for burst in bursts {
        let mut scene = Scene::new(host, burst);
        let answers = scene.run();
        scene.check(answers);
    }
}

/// Resident memory in MB, without the pages of files.
fn memory(envoy: &Envoy) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", envoy.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? / 1024)
}

pub(crate) fn the_memory_of_a_burst_is_used_again(host: Host) {
    let _turn = turn();
    for form in Form::ALL {
        let burst = Burst { waits: Waits::Service, ends: Ends::Arrives, then: Then::GoesOn, form };
        let mut scene = Scene::new(host, burst);
        let fresh = memory(&scene.envoy).unwrap();
        let mut taken = Vec::new();
        for _ in 0..6 {
            let gate = Gate::closed();
            scene.limits.answer(RateLimitAnswer { gate: Some(gate.clone()), ..RateLimitAnswer::default() });
            scene.gate = gate;
            let answers = scene.run();
            scene.check(answers);
            taken.push(memory(&scene.envoy).unwrap());
        }
        let (first, second, last) = (taken[0], taken[1], taken[5]);
        assert!(first <= fresh + 100, "{form:?}: from {fresh} MB to {taken:?}");
        assert!(last <= second + 8, "{form:?}: from {fresh} MB to {taken:?}");
    }
}

pub(crate) fn a_new_configuration_while_the_issuer_is_down_has_the_keys(host: Host) {
    let _turn = turn();
    let burst = Burst { waits: Waits::Keys, ends: Ends::Reconfigured, then: Then::GoesOn, form: Form::Apart };
    let mut scene = Scene::new(host, burst);
    scene.gate.open();
    let address = scene.envoy.address("inbound").unwrap();
    let request = scene.request();
    assert_eq!(request.send(address).unwrap().status, 200);
    scene.documents.answer(Answer { status: 500, ..Answer::default() });
    let mut loaded = burst.reconfigured(&keys());
    loaded.configuration["denyResponse"] = json!({ "realm": "new" });
    scene.envoy.reconfigure(&plugin(host, &loaded)).unwrap();
    let realm = || Request::new("GET", "/").send(address).unwrap().headers;
    assert!(realm().iter().any(|(_, value)| value.contains("realm=\"new\"")), "it is in force");
    assert_eq!(request.send(address).unwrap().status, 200);
}
