//! Many requests that wait at once: however that ends, each gets its answer, none passes unchecked, and no VM
//! dies. All combinations of the table are tried; with `BURSTS=all` each with as many requests as one worker
//! may have.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crate::support::built;
use crate::support::burst::{Burst, Ends, Form, LEAVES, Loaded, OPAQUE, ROOM, SECRET, Then, USER, Waits};
use crate::support::issuer::Issuer;
use mock_host::{Answer, Exchange, FailurePolicy, Outcome, Plugin, Proxy, Request, Response, StreamHandle};
use serde_json::{Value, json};

const NOW: u64 = 1_800_000_000;
/// Some times as many as would survive if all were answered from within each other.
const MANY: usize = 200;
/// As many as one worker of a busy gateway may have.
const MOST: usize = 5000;
/// Long enough for all of them to run, at 32 a millisecond.
const SOON: Duration = Duration::from_millis(500);

/// A proxy with one worker, for a burst.
struct Scene {
    burst: Burst,
    proxy: Proxy,
    issuer: Issuer,
    /// Whoever signs tokens that are forged.
    forger: Issuer,
}

fn plugin(loaded: &Loaded) -> Plugin {
    let plugin = built(loaded.filter, &loaded.configuration.to_string()).named(loaded.name);
    let plugin = plugin.env(SECRET.0, SECRET.1);
    plugin.on_failure(FailurePolicy::Close)
}

impl Scene {
    /// What the requests wait for does not come yet.
    fn new(burst: Burst) -> Self {
        Self::with(burst, |_| {})
    }

    /// The same, where the first plugin's part for the burst is changed.
    fn with(burst: Burst, change: impl FnOnce(&mut Value)) -> Self {
        let (issuer, forger) = (Issuer::new(), Issuer::new());
        let mut plugins = burst.plugins(&issuer.keys());
        change(part(burst, &mut plugins[0].configuration));
        let mut builder = Proxy::builder().clock(NOW);
        for loaded in &plugins {
            builder = builder.plugin(plugin(loaded));
        }
        builder = builder.cluster("nobody", |_| Answer::Unavailable);
        if burst.then == Then::RouterAnswers {
            builder = builder.upstream(|_| Response::new(503).header("x-router", "1"));
        }
        let proxy = builder.cluster(burst.waits.cluster(), |_| Answer::Hold).build();
        let proxy = proxy.unwrap_or_else(|rejected| panic!("{rejected}; `make filters` builds the modules"));
        Self { burst, proxy, issuer, forger }
    }

    fn request(&self) -> Request {
        let request = Request::get("/");
        if self.burst.waits == Waits::Service {
            return request;
        }
        if self.burst.waits == Waits::Answer {
            return request.header("authorization", format!("Bearer {OPAQUE}"));
        }
        let signer = if self.burst.forged() { &self.forger } else { &self.issuer };
        request.header("authorization", signer.bearer(&json!({ "exp": NOW + 360_000 })))
    }

    /// What the requests wait for.
    fn good_answer(&self) -> Answer {
        let json = |value: &Value| Response::new(200).body(value.to_string()).into();
        match self.burst.waits {
            Waits::Keys => json(&self.issuer.keys()),
            Waits::List => json(&json!({ "sub": if self.burst.revoked() { vec!["alice"] } else { vec![] } })),
            Waits::Answer => json(&json!({
                "active": !self.burst.inactive(), "aud": "api", "sub": "alice", "exp": NOW + 360_000,
            })),
            // RateLimitResponse { overall_code }: OVER_LIMIT or OK.
            Waits::Service => grpc(vec![8, if self.burst.over_limit() { 2 } else { 1 }]),
        }
    }

    /// So many streams that wait.
    fn waiting(&self, count: usize) -> Vec<StreamHandle> {
        // One token: what it costs to sign it is not the filter's.
        let request = self.request();
        let worker = self.proxy.worker(0);
        let streams: Vec<StreamHandle> = (0..count).map(|_| worker.start(request.clone())).collect();
        if let Some(stream) = streams.iter().find(|stream| !stream.is_paused()) {
            panic!("{:?}: a request does not wait: {:?}", self.burst, stream.exchange());
        }
        streams
    }

    /// Answers every call of the worker that is under way.
    fn answer(&self, answer: &Answer) {
        for call in self.proxy.callouts().into_iter().filter(|call| call.thread == 1) {
            self.proxy.answer(call.id, answer.clone());
        }
    }

    /// What the streams wait for ends as the burst says. The streams whose clients have stayed.
    fn end(&self, mut streams: Vec<StreamHandle>) -> Vec<StreamHandle> {
        let good = self.good_answer();
        match self.burst.ends {
            Ends::Arrives => self.answer(&good),
            // Longer than a call may take.
            Ends::TimesOut => self.proxy.advance(Duration::from_secs(3)),
            Ends::ClusterGone => self.proxy.remove_cluster(self.burst.waits.cluster()),
            Ends::Rubbish => self.answer(&match self.burst.waits {
                Waits::Service => grpc(vec![0xff; 9]),
                _ => Response::new(200).body("<html>Bad gateway</html>").into(),
            }),
            Ends::Reconfigured => {
                let loaded = self.burst.reconfigured(&self.issuer.keys());
                self.proxy.update(loaded.name, loaded.configuration.to_string()).unwrap();
                self.answer(&good);
            }
            Ends::ClientsLeave => {
                let mut number = 0_usize;
                streams.retain(|_| {
                    number += 1;
                    !number.is_multiple_of(LEAVES)
                });
                self.answer(&good);
            }
            Ends::Drains => {
                self.proxy.drain();
                self.answer(&good);
            }
            Ends::Terminates => self.proxy.terminate(),
        }
        self.proxy.advance(SOON);
        streams
    }

    /// That no stream is lost, and what passed was checked.
    fn check(&self, streams: &[StreamHandle], before: usize) {
        let burst = self.burst;
        let exchanges = exchanges(streams);
        if burst.ends == Ends::Terminates {
            self.no_vm_died();
            for Exchange { outcome, upstream, .. } in exchanges {
                assert_eq!((outcome, upstream), (Outcome::Reset, None), "{burst:?}");
            }
            return;
        }
        let expected = burst.statuses(streams.len(), before);
        let other =
            exchanges.iter().find(|exchange| expected.iter().all(|(known, _)| *known != exchange.status));
        assert_eq!(self.statuses(&exchanges), expected, "{burst:?}; for instance {other:?}");
        for exchange in exchanges {
            let passes = exchange.status == 200 || burst.then == Then::RouterAnswers;
            assert_eq!(exchange.upstream.is_some(), passes, "{burst:?}: {exchange:?}");
            let user = exchange.upstream.as_ref().and_then(|upstream| upstream.header(USER));
            assert_eq!(user, burst.user().filter(|_| passes), "{burst:?}: {exchange:?}");
        }
    }

    fn no_vm_died(&self) {
        let failures = self.proxy.failures();
        assert!(failures.is_empty(), "{:?}: a VM died: {failures:?}", self.burst);
    }

    /// How often each status was seen. Every stream must have its answer, and no VM may have died.
    fn statuses(&self, exchanges: &[Exchange]) -> Vec<(u16, usize)> {
        self.no_vm_died();
        let mut statuses = std::collections::BTreeMap::new();
        for Exchange { status, outcome, .. } in exchanges {
            assert_ne!(*status, 0, "{:?}: a request has no answer: {outcome:?}", self.burst);
            *statuses.entry(*status).or_default() += 1;
        }
        statuses.into_iter().collect()
    }

    /// All is well for a while, and then requests have to wait again.
    fn begin_again(&self) {
        let (cluster, good) = (self.burst.waits.cluster(), self.good_answer());
        self.proxy.set_cluster(cluster, move |_| good.clone());
        // Longer than the longest pause after failures.
        self.proxy.advance(Duration::from_secs(40));
        self.proxy.worker(0).request(self.request());
        self.proxy.set_cluster(cluster, |_| Answer::Hold);
        if self.burst.waits == Waits::Service {
            return;
        }
        if self.burst.waits == Waits::Answer {
            // Longer than the answer is used.
            self.proxy.advance(Duration::from_secs(12));
            return;
        }
        // Until new keys, or a new list, are fetched, and the old ones are too old.
        while !self.proxy.callouts().iter().any(|call| call.thread == 1) {
            self.proxy.advance(Duration::from_millis(100));
        }
        self.proxy.advance(Duration::from_millis(1100));
    }
}

/// What the filter that the requests wait in is configured with.
fn part(burst: Burst, configuration: &mut Value) -> &mut Value {
    match (burst.form, burst.waits) {
        (Form::Apart, _) => configuration,
        (Form::Joined, Waits::Service) => &mut configuration["rateLimit"],
        (Form::Joined, _) => &mut configuration["jwtAuth"],
    }
}

fn exchanges(streams: &[StreamHandle]) -> Vec<Exchange> {
    streams.iter().map(StreamHandle::exchange).collect()
}

fn grpc(body: Vec<u8>) -> Answer {
    Answer::Grpc { status: 0, message: String::new(), body }
}

/// Whether a burst is as large as it can be: one of each ending is.
fn is_large(burst: Burst) -> bool {
    if std::env::var("BURSTS").is_ok_and(|bursts| bursts == "all") {
        return true;
    }
    let n = Ends::ALL.iter().position(|ends| *ends == burst.ends).unwrap_or(0);
    let (waits, then, form) = (Waits::ALL[n % 4], Then::ALL[n % 5], Form::ALL[n % 2]);
    burst == Burst { waits, then, form, ..burst }
}

/// What a request may take of the VM's memory while it waits, in bytes.
const SHARE: usize = 1024;
/// Memory comes in pages, and hash tables are seeded at random.
const PAGES: usize = 4 * 65536;

/// Carries out the bursts of the table, each twice where the proxy goes on: what the first one has taken must
/// do for the second.
fn all_bursts(waits: Waits) {
    for burst in Burst::all().filter(|burst| burst.waits == waits) {
        let count = if is_large(burst) { MOST } else { MANY };
        let scene = Scene::new(burst);
        let (contexts, memory) = (scene.proxy.contexts(0), scene.proxy.memory(0));
        let streams = scene.end(scene.waiting(count));
        scene.check(&streams, 0);
        drop(streams);
        let gone = matches!(burst.ends, Ends::Drains | Ends::Terminates);
        assert_eq!(scene.proxy.contexts(0), if gone { 0 } else { contexts }, "{burst:?}: contexts");
        let taken = scene.proxy.memory(0);
        assert!(taken <= memory + count * SHARE + PAGES, "{burst:?}: {count} took {} bytes", taken - memory);
        if gone {
            continue;
        }
        scene.begin_again();
        let streams = scene.end(scene.waiting(count));
        scene.check(&streams, if burst.then == Then::Limited { ROOM } else { 0 });
        drop(streams);
        let again = scene.proxy.memory(0);
        assert!(again <= taken + (taken - memory) / 4 + PAGES, "{burst:?}: {taken} bytes, then {again}");
    }
}

#[test]
fn bursts_that_wait_for_keys_are_answered() {
    all_bursts(Waits::Keys);
}

#[test]
fn bursts_that_wait_for_a_list_are_answered() {
    all_bursts(Waits::List);
}

#[test]
fn bursts_that_wait_for_what_the_issuer_says_are_answered() {
    all_bursts(Waits::Answer);
}

#[test]
fn bursts_that_wait_for_the_rate_limit_service_are_answered() {
    all_bursts(Waits::Service);
}

/// Bursts that wait for keys and get them, with no more than a limit behind that.
fn for_keys() -> impl Iterator<Item = Burst> {
    Burst::all().filter(|burst| {
        let passes = matches!(burst.then, Then::GoesOn | Then::Limited);
        passes && burst.waits == Waits::Keys && burst.ends == Ends::Arrives
    })
}

#[test]
fn clients_that_leave_are_passed_over_and_give_their_places_back() {
    for burst in for_keys() {
        let scene = Scene::with(burst, |jwt_auth| jwt_auth["maxWaitingRequests"] = json!(1000));
        let streams = scene.waiting(1000);
        assert_eq!(scene.proxy.worker(0).request(scene.request()).status, 503, "all places are taken");
        drop(streams);
        // Those that are gone are looked for once a tick.
        scene.proxy.advance(Duration::from_secs(1));
        let streams = scene.end(scene.waiting(100));
        scene.check(&streams, 0);
    }
}

#[test]
fn a_client_that_left_gives_its_place_back_before_its_stream_is_deleted() {
    let burst = Burst { waits: Waits::Keys, ends: Ends::Arrives, then: Then::GoesOn, form: Form::Apart };
    let scene = Scene::with(burst, |jwt_auth| jwt_auth["maxWaitingRequests"] = json!(10));
    let mut streams = scene.waiting(10);
    scene.proxy.in_one_iteration(|| {
        streams.truncate(9);
        streams.extend(scene.waiting(1));
    });
    let streams = scene.end(streams);
    scene.check(&streams, 0);
}

#[test]
fn a_burst_that_was_woken_keeps_its_places_until_it_has_run() {
    let burst = Burst { waits: Waits::Keys, ends: Ends::Arrives, then: Then::Unavailable, form: Form::Apart };
    let scene = Scene::with(burst, |jwt_auth| jwt_auth["maxWaitingRequests"] = json!(100));
    let streams = scene.waiting(100);
    scene.answer(&Answer::Reset);
    let answered = streams.iter().filter(|stream| !stream.is_paused()).count();
    assert!((1..100).contains(&answered), "{answered} ran at once");
    scene.proxy.advance(SOON);
    assert_eq!(scene.statuses(&exchanges(&streams)), [(503, 100)]);
}

/// The timer of a root context whose queue is empty is slow again: the proxy keeps it when the root is gone.
#[test]
fn the_timer_is_slow_again_when_the_burst_is_over() {
    for burst in for_keys() {
        let scene = Scene::new(burst);
        let streams = scene.end(scene.waiting(MANY));
        scene.check(&streams, 0);
        let before = scene.proxy.ticks();
        scene.proxy.advance(Duration::from_secs(10));
        let ticks = scene.proxy.ticks() - before;
        // Each plugin has a timer on the main thread and on the worker.
        assert!(ticks <= 2 * 2 * 11, "{ticks} ticks in ten seconds");
    }
}

/// With the same module a new configuration is a new root context in the same VM: the keys that the old one
/// has fetched are good for the new one too.
#[test]
fn a_new_configuration_while_the_issuer_is_down_keeps_the_keys() {
    for burst in for_keys().filter(|burst| burst.then == Then::GoesOn) {
        let cache = json!({ "duration": "10m", "staleIfError": "1h" });
        let scene =
            Scene::with(burst, |jwt_auth| jwt_auth["providers"]["platform"]["jwksCache"] = cache.clone());
        let (proxy, status) = (&scene.proxy, || scene.proxy.worker(0).request(scene.request()).status);
        proxy.advance(Duration::from_millis(10));
        scene.answer(&scene.good_answer());
        assert_eq!(status(), 200);
        let fetches = Rc::new(RefCell::new(0));
        let counted = Rc::clone(&fetches);
        proxy.set_cluster(burst.waits.cluster(), move |_| {
            *counted.borrow_mut() += 1;
            Answer::Reset
        });
        proxy.advance(Duration::from_mins(15));
        assert_ne!(*fetches.borrow(), 0, "the keys are old enough to be fetched again");
        let mut loaded = burst.reconfigured(&scene.issuer.keys());
        part(burst, &mut loaded.configuration)["providers"]["platform"]["jwksCache"] = cache.clone();
        let before = *fetches.borrow();
        proxy.update(loaded.name, loaded.configuration.to_string()).unwrap();
        assert_eq!(status(), 200);
        proxy.advance(Duration::from_millis(10));
        assert!(*fetches.borrow() - before <= 2, "the wait after failures is kept too");
        proxy.advance(Duration::from_hours(1));
        assert_eq!(status(), 503, "the keys are as old as they are for the new configuration too");
    }
}

/// Envoy knows a stream's context for a moment after its end. Whoever resumes the stream then, or answers it,
/// crashes the proxy.
#[test]
fn a_client_that_leaves_just_before_the_answer_comes_is_not_resumed() {
    for burst in Burst::all().filter(|burst| burst.ends == Ends::Arrives) {
        for fails in [false, true] {
            let scene = Scene::new(burst);
            let mut streams = scene.waiting(10);
            let leaving: Vec<StreamHandle> = streams.drain(..5).collect();
            scene.proxy.in_one_iteration(|| {
                drop(leaving);
                scene.answer(&if fails { Answer::Reset } else { scene.good_answer() });
            });
            scene.proxy.advance(SOON);
            let expected = if fails { vec![(503, 5)] } else { burst.statuses(5, 0) };
            assert_eq!(scene.statuses(&exchanges(&streams)), expected, "{burst:?}");
        }
    }
}
