//! Questions to an issuer about opaque tokens: how many are asked, who waits for which, and what happens when the issuer is down.

use std::time::Duration;

use mock_host::{Answer, Proxy, Request, Response};
use serde_json::{Value, json};

use crate::support::built;

const NOW: u64 = 1_800_000_000;

/// A proxy with one worker, whose issuer does not answer yet.
fn proxy(filter: &str) -> Proxy {
    let jwt_auth = json!({ "providers": { "opaque": {
        "issuer": "https://issuer.test/",
        "introspection": {
            "uri": "http://issuer.test/introspect",
            "cluster": "issuer",
            "clientId": "gateway",
            "clientSecret": { "env": "INTROSPECTION_SECRET" },
        },
    }}});
    let configuration = if filter == "jwt-auth" { jwt_auth } else { json!({ "jwtAuth": jwt_auth }) };
    let plugin = built(filter, &configuration.to_string()).env("INTROSPECTION_SECRET", "p4ssw0rd-of-it");
    let built = Proxy::builder().clock(NOW).cluster("issuer", |_| Answer::Hold).plugin(plugin).build();
    built.unwrap_or_else(|rejected| panic!("{rejected}; `make filters` builds the modules"))
}

fn modules() -> [Proxy; 2] {
    ["jwt-auth", "mesh-filters"].map(proxy)
}

fn with(token: &str) -> Request {
    Request::get("/").header("authorization", format!("Bearer {token}"))
}

fn says(answer: &Value) -> Answer {
    Response::new(200).body(answer.to_string()).into()
}

fn active() -> Answer {
    says(&json!({ "active": true, "sub": "alice", "exp": NOW + 3600 }))
}

/// How many of the statuses are this one.
fn count(statuses: &[u16], status: u16) -> usize {
    statuses.iter().filter(|known| **known == status).count()
}

#[test]
fn requests_with_one_token_wait_for_one_answer() {
    for proxy in modules() {
        let worker = proxy.worker(0);
        let streams: Vec<_> = (0..10).map(|_| worker.start(with("one-token"))).collect();
        let other = worker.start(with("another-token"));
        let calls = proxy.callouts();
        let bodies: Vec<String> =
            calls.iter().map(|call| String::from_utf8(call.body.clone()).unwrap()).collect();
        let hint = "&token_type_hint=access_token";
        assert_eq!(bodies, [format!("token=one-token{hint}"), format!("token=another-token{hint}")]);
        // The last is answered first.
        proxy.answer(calls[1].id, says(&json!({ "active": false })));
        assert_eq!(other.exchange().status, 401);
        assert!(streams.iter().all(mock_host::StreamHandle::is_paused));
        proxy.answer(calls[0].id, active());
        proxy.advance(Duration::from_millis(10));
        assert!(streams.iter().all(|stream| stream.exchange().status == 200));
        assert_eq!((worker.request(with("one-token")).status, proxy.callouts().len()), (200, 0));
        assert_eq!(proxy.failures(), Vec::<String>::new());
    }
}

#[test]
fn made_up_tokens_do_not_flood_the_issuer() {
    for proxy in modules() {
        let worker = proxy.worker(0);
        let streams: Vec<_> = (0..200).map(|n| worker.start(with(&format!("made-up-{n}")))).collect();
        assert_eq!(proxy.callouts().len(), 32, "so many are under way");
        let (waiting, done): (Vec<_>, Vec<_>) =
            streams.into_iter().partition(mock_host::StreamHandle::is_paused);
        assert_eq!((waiting.len(), done.len()), (32, 168));
        for stream in done {
            let exchange = stream.exchange();
            let header = |name: &str| exchange.headers.get(name).map(str::to_owned);
            assert_eq!((exchange.status, header("retry-after").as_deref()), (503, Some("1")));
            assert_eq!(exchange.details, "jwt_auth_overloaded");
        }
        // An issuer that answers at once is asked so often in a second.
        for call in proxy.callouts() {
            proxy.answer(call.id, says(&json!({ "active": false })));
        }
        assert!(waiting.iter().all(|stream| stream.exchange().status == 401));
        proxy.set_cluster("issuer", |_| says(&json!({ "active": false })));
        let statuses: Vec<u16> =
            (200..400).map(|n| worker.request(with(&format!("made-up-{n}"))).status).collect();
        assert_eq!((count(&statuses, 401), count(&statuses, 503)), (50 - 32, 200 - 18));
        // Who is known is not held up.
        assert_eq!(worker.request(with("made-up-0")).status, 401);
        let memory = proxy.memory(0);
        for second in 0..40 {
            proxy.advance(Duration::from_secs(1));
            for n in 0..60 {
                worker.request(with(&format!("made-up-in-{second}-{n}")));
            }
        }
        assert!(proxy.memory(0) <= memory + 2 * 65536, "{} bytes", proxy.memory(0) - memory);
    }
}

#[test]
fn answer_that_is_too_long_lets_nobody_in() {
    for proxy in modules() {
        let long = json!({ "active": true, "exp": NOW + 3600, "a": "a".repeat(16 * 1024) });
        proxy.set_cluster("issuer", move |_| says(&long));
        let exchange = proxy.worker(0).request(with("one-token"));
        assert_eq!((exchange.status, exchange.upstream.is_some()), (503, false));
        assert_eq!(exchange.details, "jwt_auth_introspection_unavailable");
    }
}

#[test]
fn issuer_that_is_down_is_asked_ever_less() {
    for proxy in modules() {
        proxy.set_cluster("issuer", |_| Response::new(500));
        let worker = proxy.worker(0);
        let failed = || proxy.metric("jwt_auth_introspection_failed");
        let mut asked = Vec::new();
        for n in 0..64 {
            // The same token is not asked about again at once.
            for token in ["a", "a", "b", "c", "d", "e", "f", "g"] {
                assert_eq!(worker.request(with(&format!("{token}-{n}"))).status, 503);
            }
            asked.push(failed());
            proxy.advance(Duration::from_secs(1));
        }
        // Five, and then one after one second, after two, four, eight and so on.
        let increases: Vec<usize> =
            (1..asked.len()).filter(|second| asked[*second] > asked[*second - 1]).collect();
        assert_eq!((asked[0], increases), (5, vec![1, 3, 7, 15, 31, 61]));
        assert_eq!(failed(), 5 + 6);
        proxy.set_cluster("issuer", |_| active());
        proxy.advance(Duration::from_secs(30));
        assert_eq!(worker.request(with("h")).status, 200);
        let lines = proxy.logs().iter().filter(|log| log.message.contains("did not say")).count();
        assert!(lines <= 3, "{lines} lines in a minute and a half");
    }
}

#[test]
fn known_token_stays_good_while_the_issuer_is_down() {
    for proxy in modules() {
        proxy.set_cluster("issuer", |_| active());
        let worker = proxy.worker(0);
        assert_eq!(worker.request(with("known")).status, 200);
        proxy.set_cluster("issuer", |_| Answer::Unavailable);
        proxy.advance(Duration::from_secs(20));
        assert_eq!((worker.request(with("known")).status, worker.request(with("new")).status), (200, 503));
        proxy.advance(Duration::from_secs(12));
        assert_eq!(worker.request(with("known")).status, 503);
    }
}

#[test]
fn question_without_any_answer_is_given_up() {
    for proxy in modules() {
        let stream = proxy.worker(0).start(with("one-token"));
        proxy.advance(Duration::from_secs(3));
        assert_eq!(stream.exchange().status, 503);
    }
}
