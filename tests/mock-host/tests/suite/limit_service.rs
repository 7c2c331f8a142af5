//! Requests that wait for a rate limit service: who leaves, what overtakes, what is configured meanwhile.

use std::path::PathBuf;
use std::time::Duration;

use mock_host::{Answer, Fault, Plugin, Proxy, Request, Status};

const CONFIGURATION: &str = r#"{
    "limits": [{ "name": "user", "key": [{ "header": "x-user" }], "rate": { "requests": 3, "per": "1d" }, "global": { "entries": ["user"] } }],
    "global": { "domain": "shop", "cluster": "ratelimit" }
}"#;

fn proxy(module: &str, configuration: &str) -> Proxy {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/filters").join(module);
    let plugin = Plugin::new("filter", file.with_extension("wasm")).configuration(configuration);
    let built = Proxy::builder().cluster("ratelimit", |_| Answer::Hold).plugin(plugin).build();
    built.unwrap_or_else(|rejected| panic!("{rejected}; `make filters` builds the modules"))
}

/// Each test in the filter's own module and in that of all filters.
fn modules() -> [Proxy; 2] {
    let in_mesh = format!(r#"{{ "rateLimit": {CONFIGURATION} }}"#);
    [proxy("rate-limit", CONFIGURATION), proxy("mesh-filters", &in_mesh)]
}

fn message(bytes: &[u8]) -> Answer {
    Answer::Grpc { status: 0, message: String::new(), body: bytes.to_vec() }
}

/// `overall_code: OK`.
fn ok() -> Answer {
    message(&[8, 1])
}

/// `overall_code: OVER_LIMIT`, and of the descriptor the same, with a reset in 60 seconds.
fn over_limit() -> Answer {
    message(&[8, 2, 18, 6, 8, 2, 34, 2, 8, 60])
}

fn user(name: &str) -> Request {
    Request::get("/").header("x-user", name)
}

#[test]
fn requests_that_wait_together_get_the_answer_to_their_own_question() {
    for proxy in modules() {
        let worker = proxy.worker(0);
        let streams = ["a", "b", "c"].map(|name| worker.start(user(name)));
        assert!(streams.iter().all(mock_host::StreamHandle::is_paused));
        let calls = proxy.callouts();
        // The last is answered first.
        for (call, answer) in calls.iter().rev().zip([ok(), over_limit(), ok()]) {
            proxy.answer(call.id, answer);
        }
        assert_eq!(streams.map(|stream| stream.exchange().status), [200, 429, 200]);
    }
}

#[test]
fn a_client_that_leaves_while_it_waits_harms_nobody() {
    for proxy in modules() {
        let worker = proxy.worker(0);
        let leaves = worker.start(user("a"));
        let stays = worker.start(user("b"));
        let calls = proxy.callouts();
        drop(leaves.abort());
        proxy.answer(calls[0].id, over_limit());
        assert!(stays.is_paused());
        proxy.answer(calls[1].id, ok());
        assert_eq!(stays.exchange().status, 200);
        // What was said of the client that left is remembered: to leave early does not help an attacker.
        assert_eq!(worker.request(user("a")).status, 429);
        assert!(proxy.callouts().is_empty());
        assert_eq!(
            (proxy.metric("rate_limit_service_over_limit"), proxy.metric("rate_limit_service_remembered")),
            (1, 1)
        );
        assert_eq!(proxy.failures(), Vec::<String>::new());
    }
}

#[test]
fn a_request_that_waits_goes_on_under_the_configuration_that_it_came_to() {
    let proxy = proxy("rate-limit", CONFIGURATION);
    let waits = proxy.worker(0).start(user("a"));
    let call = proxy.callouts().remove(0);
    proxy
        .update(
            "filter",
            r#"{ "limits": [{ "name": "none", "rate": { "requests": 0, "burst": 0, "per": "1d" } }] }"#,
        )
        .unwrap();
    assert_eq!(proxy.worker(0).request(user("a")).status, 429);
    proxy.answer(call.id, ok());
    assert_eq!(waits.exchange().status, 200);
    assert_eq!(proxy.failures(), Vec::<String>::new());
}

#[test]
fn a_service_that_does_not_answer_is_asked_by_one_request_a_second() {
    for proxy in modules() {
        let worker = proxy.worker(0);
        let asks = |name: &str| {
            let stream = worker.start(user(name));
            let asked = stream.is_paused();
            proxy.advance(Duration::from_millis(20));
            assert_eq!(stream.exchange().status, 503);
            asked
        };
        let asked: Vec<bool> = (0..8).map(|n| asks(&n.to_string())).collect();
        assert_eq!(asked, [true, true, true, true, true, false, false, false]);
        proxy.advance(Duration::from_secs(1));
        assert_eq!(["a", "b"].map(asks), [true, false]);
        // The next pause is two seconds.
        proxy.advance(Duration::from_secs(1));
        assert!(!asks("c"));
        proxy.advance(Duration::from_secs(1));
        let stream = worker.start(user("d"));
        proxy.answer(proxy.callouts()[0].id, ok());
        assert_eq!(stream.exchange().status, 200);
        assert!(worker.start(user("e")).is_paused() && worker.start(user("f")).is_paused());
        assert_eq!(proxy.metric("rate_limit_service_opened"), 1);
        assert_eq!(
            (proxy.metric("rate_limit_service_failed"), proxy.metric("rate_limit_service_skipped")),
            (6, 5)
        );
    }
}

#[test]
fn a_header_of_the_service_that_cannot_be_set_is_not_left_to_the_client() {
    // `overall_code: OK`, and `request_headers_to_add` with `x-tier: gold`.
    let header = [&[10, 6][..], b"x-tier", &[18, 4], b"gold"].concat();
    let answer = message(&[&[8, 1, 34, 14][..], &header].concat());
    for proxy in modules() {
        for (fails, expected) in [(false, 200), (true, 503)] {
            let stream = proxy.worker(0).start(user("a").header("x-tier", "platinum"));
            if fails {
                let call = Fault::on("proxy_replace_header_map_value").during("proxy_on_grpc_receive");
                proxy.fault(call.status(Status::BAD_ARGUMENT));
            }
            proxy.answer(proxy.callouts()[0].id, answer.clone());
            let exchange = stream.exchange();
            assert_eq!(exchange.status, expected);
            let tier = exchange.upstream.map(|upstream| upstream.headers.get("x-tier").map(str::to_owned));
            assert_eq!(tier, (!fails).then(|| Some("gold".to_owned())));
        }
    }
}
