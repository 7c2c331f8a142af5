//! Many requests that wait at once, and are answered or go on at once: no VM dies, and each gets its answer.

#![allow(clippy::restriction)]

mod support;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use mock_host::{Answer, Exchange, FailurePolicy, Proxy, Request, Response, StreamHandle};
use serde_json::{Value, json};
use support::built;
use support::issuer::{Issuer, jwt_auth};

const NOW: u64 = 1_800_000_000;
const KEYS: &str = "outbound|80||jwks.test";
/// Some times as many as would survive if all were answered from within each other.
const MANY: usize = 500;

/// Where a burst of requests waits, in what form the filters are loaded, and what becomes of the requests.
struct Burst {
    /// Filter and configuration, in the order of the chain.
    filters: Vec<(&'static str, Value)>,
    issuer: Issuer,
}

fn keys_from_issuer() -> Value {
    let mut configuration = jwt_auth("jwksUri", &json!("http://jwks.test/keys"));
    configuration["maxWaitingRequests"] = json!(1000);
    configuration
}

fn limits() -> Value {
    json!({ "limits": [{ "name": "total", "rate": { "requests": 10, "per": "1h" } }] })
}

fn asked_limits() -> Value {
    json!({
        "limits": [{ "name": "total", "rate": { "requests": 10, "per": "1h" }, "global": {} }],
        "global": { "domain": "d", "cluster": "ratelimit", "timeout": "5s", "onFailure": "allow" },
    })
}

/// The forms in which jwt-auth can be loaded.
fn forms() -> [Vec<(&'static str, Value)>; 3] {
    [
        vec![("jwt-auth", keys_from_issuer())],
        vec![("jwt-auth", keys_from_issuer()), ("rate-limit", limits())],
        vec![("mesh-filters", json!({ "jwtAuth": keys_from_issuer(), "rateLimit": limits() }))],
    ]
}

impl Burst {
    fn new(filters: Vec<(&'static str, Value)>) -> Self {
        Self { filters, issuer: Issuer::new() }
    }

    /// A proxy with one worker; the issuer and the rate limit service hold their answers back.
    fn proxy(&self) -> Proxy {
        let mut builder = Proxy::builder().clock(NOW);
        for (filter, configuration) in &self.filters {
            let plugin = built(filter, &configuration.to_string());
            builder = builder.plugin(plugin.on_failure(FailurePolicy::Close));
        }
        let builder = builder.cluster(KEYS, |_| Answer::Hold).cluster("ratelimit", |_| Answer::Hold);
        builder.build().unwrap_or_else(|rejected| panic!("{rejected}; `make filters` builds the modules"))
    }

    fn good(&self) -> Request {
        Request::get("/").header("authorization", self.issuer.bearer(&json!({ "exp": NOW + 36_000 })))
    }

    fn keys(&self) -> Response {
        Response::new(200).body(self.issuer.keys().to_string())
    }
}

/// So many streams that wait.
fn waiting(proxy: &Proxy, count: usize, request: impl Fn() -> Request) -> Vec<StreamHandle> {
    let streams: Vec<StreamHandle> = (0..count).map(|_| proxy.worker(0).start(request())).collect();
    let waiting = streams.iter().filter(|stream| stream.is_paused()).count();
    assert_eq!(waiting, count, "{:?}", streams.iter().find(|s| !s.is_paused()).map(StreamHandle::exchange));
    streams
}

/// Answers every call of the worker that is under way.
fn answer(proxy: &Proxy, answer: &(impl Into<Answer> + Clone)) {
    for call in proxy.callouts().into_iter().filter(|call| call.thread == 1) {
        proxy.answer(call.id, answer.clone());
    }
}

/// How often each status was seen. Every stream must have its answer, and no VM may have died.
fn statuses(proxy: &Proxy, streams: &[StreamHandle]) -> Vec<(u16, usize)> {
    assert!(proxy.failures().is_empty(), "a VM died: {:?}", proxy.failures());
    let mut statuses: Vec<(u16, usize)> = Vec::new();
    for Exchange { status, outcome, .. } in streams.iter().map(StreamHandle::exchange) {
        assert_ne!(status, 0, "a request has no answer: {outcome:?}");
        match statuses.iter_mut().find(|(known, _)| *known == status) {
            Some((_, count)) => *count += 1,
            None => statuses.push((status, 1)),
        }
    }
    statuses.sort_unstable();
    statuses
}

/// Long enough for all of [`MANY`] to run, at 32 a millisecond.
const SOON: Duration = Duration::from_millis(100);

#[test]
fn a_burst_that_waits_for_keys_is_answered_when_they_do_not_come() {
    for filters in forms() {
        let burst = Burst::new(filters);
        let proxy = burst.proxy();
        let streams = waiting(&proxy, MANY, || burst.good());
        answer(&proxy, &Answer::Reset);
        proxy.advance(SOON);
        assert_eq!(statuses(&proxy, &streams), [(503, MANY)]);
    }
}

#[test]
fn a_burst_that_waits_for_keys_runs_when_they_come() {
    for filters in forms() {
        let limited = filters.len() == 2 || filters[0].0 == "mesh-filters";
        let burst = Burst::new(filters);
        let proxy = burst.proxy();
        let streams = waiting(&proxy, MANY, || burst.good());
        answer(&proxy, &burst.keys());
        proxy.advance(SOON);
        let expected = if limited { vec![(200, 10), (429, MANY - 10)] } else { vec![(200, MANY)] };
        assert_eq!(statuses(&proxy, &streams), expected);
    }
}

#[test]
fn a_burst_of_tokens_with_another_signature_is_refused() {
    for filters in forms() {
        let burst = Burst::new(filters);
        let proxy = burst.proxy();
        let other = Issuer::new();
        let forged =
            || Request::get("/").header("authorization", other.bearer(&json!({ "exp": NOW + 36_000 })));
        let streams = waiting(&proxy, MANY, forged);
        answer(&proxy, &burst.keys());
        proxy.advance(SOON);
        assert_eq!(statuses(&proxy, &streams), [(401, MANY)]);
    }
}

#[test]
fn a_burst_whose_fetch_never_ends_is_answered() {
    for filters in forms() {
        let burst = Burst::new(filters);
        let proxy = burst.proxy();
        let streams = waiting(&proxy, MANY, || burst.good());
        proxy.advance(Duration::from_secs(10));
        assert_eq!(statuses(&proxy, &streams), [(503, MANY)]);
    }
}

#[test]
fn a_burst_that_waits_for_the_rate_limit_service_is_answered() {
    for (filter, configuration) in
        [("rate-limit", asked_limits()), ("mesh-filters", json!({ "rateLimit": asked_limits() }))]
    {
        // RateLimitResponse { overall_code: OVER_LIMIT }, and a failure, where the limit lets everything pass.
        let over = Answer::Grpc { status: 0, message: String::new(), body: vec![8, 2] };
        for (reply, expected) in [(over, 429), (Answer::Reset, 200)] {
            let burst = Burst::new(vec![(filter, configuration.clone())]);
            let proxy = burst.proxy();
            let streams = waiting(&proxy, MANY, || Request::get("/"));
            answer(&proxy, &reply);
            proxy.advance(SOON);
            assert_eq!(statuses(&proxy, &streams), [(expected, MANY)]);
        }
    }
}

#[test]
fn clients_that_leave_are_passed_over_and_give_their_places_back() {
    for filters in forms() {
        let burst = Burst::new(filters);
        let proxy = burst.proxy();
        let streams = waiting(&proxy, 1000, || burst.good());
        assert_eq!(proxy.worker(0).request(burst.good()).status, 503, "all places are taken");
        drop(streams);
        // Those that are gone are looked for once a tick.
        proxy.advance(Duration::from_secs(1));
        let streams = waiting(&proxy, 100, || burst.good());
        answer(&proxy, &burst.keys());
        proxy.advance(SOON);
        let answered = statuses(&proxy, &streams);
        assert_eq!(answered.iter().map(|(_, count)| count).sum::<usize>(), 100);
        assert!(answered.iter().all(|(status, _)| [200, 429].contains(status)), "{answered:?}");
    }
}

#[test]
fn a_client_that_left_gives_its_place_back_before_its_stream_is_deleted() {
    let mut configuration = keys_from_issuer();
    configuration["maxWaitingRequests"] = json!(10);
    let burst = Burst::new(vec![("jwt-auth", configuration)]);
    let proxy = burst.proxy();
    let mut streams = waiting(&proxy, 10, || burst.good());
    proxy.in_one_iteration(|| {
        streams.truncate(9);
        streams.extend(waiting(&proxy, 1, || burst.good()));
    });
    answer(&proxy, &burst.keys());
    proxy.advance(SOON);
    assert_eq!(statuses(&proxy, &streams), [(200, 10)]);
}

#[test]
fn a_burst_that_was_woken_keeps_its_places_until_it_has_run() {
    let mut configuration = keys_from_issuer();
    configuration["maxWaitingRequests"] = json!(100);
    let burst = Burst::new(vec![("jwt-auth", configuration)]);
    let proxy = burst.proxy();
    let streams = waiting(&proxy, 100, || burst.good());
    answer(&proxy, &Answer::Reset);
    let answered = streams.iter().filter(|stream| !stream.is_paused()).count();
    assert!((1..100).contains(&answered), "{answered} ran at once");
    proxy.advance(SOON);
    assert_eq!(statuses(&proxy, &streams), [(503, 100)]);
}

#[test]
fn a_new_configuration_in_a_burst_loses_no_request() {
    for filters in forms() {
        let burst = Burst::new(filters.clone());
        let proxy = burst.proxy();
        let streams = waiting(&proxy, MANY, || burst.good());
        let (filter, mut configuration) = filters[0].clone();
        let part = if filter == "mesh-filters" { &mut configuration["jwtAuth"] } else { &mut configuration };
        part["publishClaims"] = json!(["sub", "iss"]);
        proxy.update(filter, configuration.to_string()).unwrap();
        answer(&proxy, &Answer::Reset);
        proxy.advance(SOON);
        assert_eq!(statuses(&proxy, &streams), [(503, MANY)]);
    }
}

/// The timer of a root context whose queue is empty is slow again: the proxy keeps it when the root is gone.
#[test]
fn the_timer_is_slow_again_when_the_burst_is_over() {
    let burst = Burst::new(vec![("jwt-auth", keys_from_issuer())]);
    let proxy = burst.proxy();
    let streams = waiting(&proxy, MANY, || burst.good());
    answer(&proxy, &burst.keys());
    proxy.advance(SOON);
    statuses(&proxy, &streams);
    let before = proxy.ticks();
    proxy.advance(Duration::from_secs(10));
    assert!(proxy.ticks() - before <= 2 * 11, "{} ticks in ten seconds", proxy.ticks() - before);
}

/// With the same module a new configuration is a new root context in the same VM: the keys that the old one has fetched are good
/// for the new one too.
#[test]
fn a_new_configuration_while_the_issuer_is_down_keeps_the_keys() {
    for filters in forms() {
        let burst = Burst::new(filters.clone());
        let proxy = burst.proxy();
        proxy.advance(Duration::from_millis(10));
        answer(&proxy, &burst.keys());
        assert_eq!(proxy.worker(0).request(burst.good()).status, 200);
        let fetches = Rc::new(RefCell::new(0));
        let counted = Rc::clone(&fetches);
        proxy.set_cluster(KEYS, move |_| {
            *counted.borrow_mut() += 1;
            Answer::Reset
        });
        proxy.advance(Duration::from_mins(15));
        assert_ne!(*fetches.borrow(), 0, "the keys are old enough to be fetched again");
        let (filter, mut configuration) = filters[0].clone();
        let part = if filter == "mesh-filters" { &mut configuration["jwtAuth"] } else { &mut configuration };
        part["publishClaims"] = json!(["sub", "iss"]);
        let before = *fetches.borrow();
        proxy.update(filter, configuration.to_string()).unwrap();
        assert_eq!(proxy.worker(0).request(burst.good()).status, 200);
        proxy.advance(Duration::from_millis(10));
        assert!(*fetches.borrow() - before <= 2, "the wait after failures is kept too");
        proxy.advance(Duration::from_hours(1));
        let late = proxy.worker(0).request(burst.good()).status;
        assert_eq!(late, 503, "the keys are as old as they are for the new configuration too");
    }
}

/// Envoy knows a stream's context for a moment after its end. Whoever resumes the stream then, or answers it, crashes the proxy.
#[test]
fn a_client_that_leaves_just_before_the_answer_comes_is_not_resumed() {
    for filters in forms().into_iter().chain([
        vec![("rate-limit", asked_limits())],
        vec![("mesh-filters", json!({ "rateLimit": asked_limits() }))],
    ]) {
        let keys = filters.iter().any(|(_, configuration)| configuration.to_string().contains("jwksUri"));
        let burst = Burst::new(filters);
        let over = Answer::Grpc { status: 0, message: String::new(), body: vec![8, 1] };
        for reply in [if keys { burst.keys().into() } else { over }, Answer::Reset] {
            let proxy = burst.proxy();
            let mut streams = waiting(&proxy, 10, || burst.good());
            let leaving: Vec<StreamHandle> = streams.drain(..5).collect();
            proxy.in_one_iteration(|| {
                drop(leaving);
                answer(&proxy, &reply);
            });
            proxy.advance(SOON);
            let answered = statuses(&proxy, &streams);
            assert_eq!(answered.iter().map(|(_, count)| count).sum::<usize>(), 5);
        }
    }
}
