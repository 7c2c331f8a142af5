//! The same load on this filter and on Envoy's own `local_ratelimit`, in one Envoy with two workers. Every
//! difference is here and in docs/rate-limit.md.
#![allow(clippy::restriction)]
#![cfg(not(target_family = "wasm"))]

use envoy::{
    Bootstrap, Cluster, Envoy, HttpFilter, Listener, Node, Protocol, Request, Response, Upstream, Wasm,
    values,
};
use serde_json::{Value, json};

struct Both {
    envoy: Envoy,
    _upstream: Upstream,
}

impl Both {
    fn start(ours: &Value, native: Value) -> Self {
        let upstream = Upstream::start().unwrap();
        let module = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/filters/rate-limit.wasm");
        let ours = HttpFilter::Wasm(Wasm::new("rate-limit", module, ours.to_string()));
        let native =
            HttpFilter::Native { name: "envoy.filters.http.local_ratelimit".to_owned(), config: native };
        let bootstrap = Bootstrap {
            node: Node::new("server", "shop", "v1"),
            clusters: vec![Cluster::new("service", upstream.address())],
        };
        let listeners =
            [Listener::new("ours", "service", vec![ours]), Listener::new("native", "service", vec![native])];
        let envoy = Envoy::start(&bootstrap, &listeners, 2).unwrap();
        Self { envoy, _upstream: upstream }
    }

    fn send(&self, listener: &str, request: &Request) -> Response {
        request.send(self.envoy.address(listener).unwrap()).unwrap()
    }

    /// How many of these requests each lets through, ours first, sent over several connections at once.
    fn admitted(&self, requests: &[Request]) -> [usize; 2] {
        ["ours", "native"].map(|listener| {
            std::thread::scope(|scope| {
                let senders: Vec<_> = (0..6)
                    .map(|sender| {
                        let mine = requests.iter().skip(sender).step_by(6);
                        scope.spawn(move || mine.filter(|r| self.send(listener, r).status == 200).count())
                    })
                    .collect();
                senders.into_iter().map(|sender| sender.join().unwrap()).sum()
            })
        })
    }
}

fn get(path: &str, user: &str) -> Request {
    Request::new("GET", path).header("x-user", user)
}

fn bucket(tokens: u32) -> Value {
    json!({ "max_tokens": tokens, "tokens_per_fill": tokens, "fill_interval": "86400s" })
}

/// The native filter with a bucket for all requests.
fn native(tokens: u32) -> Value {
    let all = json!({ "default_value": { "numerator": 100, "denominator": "HUNDRED" } });
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "native",
        "token_bucket": bucket(tokens),
        "filter_enabled": all,
        "filter_enforced": all,
        "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
        "rate_limited_as_resource_exhausted": true,
    })
}

fn ours(limits: &Value) -> Value {
    json!({ "limits": limits, "response": { "headers": "legacy", "headersOn": "always" } })
}

fn daily(name: &str, requests: u32) -> Value {
    json!({ "name": name, "rate": { "requests": requests, "per": "1d" } })
}

#[test]
fn both_admit_exactly_the_burst() {
    let both = Both::start(&ours(&json!([daily("total", 60)])), native(60));
    assert_eq!(both.admitted(&vec![get("/", "a"); 150]), [60, 60]);
}

#[test]
fn both_tell_clients_their_limit() {
    let both = Both::start(&ours(&json!([daily("total", 3)])), native(3));
    let headers = |listener: &str, request: &Request| {
        let response = both.send(listener, request);
        let header = |name: &str| values(&response.headers, name).join(",");
        (
            response.status,
            header("x-ratelimit-limit"),
            header("x-ratelimit-remaining"),
            header("x-ratelimit-reset"),
        )
    };
    let request = get("/", "a");
    // The time until the next request is let in where nothing is left. Else ours is the time until all is
    // back, theirs 0.
    for (left, ours, theirs) in [("2", 28_800, 0), ("1", 57_600, 0), ("0", 28_800, 28_800)] {
        for (listener, expected) in [("ours", ours), ("native", theirs)] {
            let (status, limit, remaining, reset) = headers(listener, &request);
            assert_eq!((status, &*limit, &*remaining), (200, "3", left), "{listener}");
            assert!(reset.parse::<u64>().unwrap().abs_diff(expected) < 60, "{listener} {left}: {reset}");
        }
    }
    for (listener, expected) in [("ours", &["true"][..]), ("native", &[])] {
        let denied = both.send(listener, &request);
        assert_eq!(denied.status, 429);
        // Without it Envoy's retry policies may try again.
        assert_eq!(values(&denied.headers, "x-envoy-ratelimited"), expected, "{listener}");
    }
    let denied = both.send("ours", &request);
    assert_eq!(values(&denied.headers, "retry-after").len(), 1);
    assert!(denied.text().contains("rate_limit_exceeded"));
    assert_eq!(both.send("native", &request).text(), "local_rate_limited");
    let grpc = Request { protocol: Protocol::Grpc, ..Request::new("POST", "/shop.v1.Items/List") };
    for listener in ["ours", "native"] {
        let denied = both.send(listener, &grpc);
        let status =
            [values(&denied.headers, "grpc-status"), values(&denied.trailers, "grpc-status")].concat();
        assert_eq!(status, ["8"], "{listener}");
    }
}

/// A request that one limit denies costs the others nothing here. There the bucket that fills up most slowly
/// is charged first, and stays charged where the next one denies.
#[test]
fn local_ratelimit_denied_request_costs_the_other_limit() {
    let user =
        json!({ "name": "user", "key": [{ "header": "x-user" }], "rate": { "requests": 20, "per": "1d" } });
    let narrow = json!({ "name": "narrow", "match": { "paths": ["/narrow"] }, "rate": { "requests": 2, "per": "1d" } });
    let mut native = native(1_000_000);
    let slow = json!({ "max_tokens": 20, "tokens_per_fill": 1, "fill_interval": "86400s" });
    native["descriptors"] = json!([
        { "entries": [{ "key": "user", "value": "a" }], "token_bucket": slow },
        { "entries": [{ "key": "path", "value": "/narrow" }], "token_bucket": bucket(2) },
    ]);
    let header = |name: &str, key: &str| json!({ "actions": [{ "request_headers": { "header_name": name, "descriptor_key": key } }] });
    native["rate_limits"] = json!([header(":path", "path"), header("x-user", "user")]);
    let both = Both::start(&ours(&json!([narrow, user])), native);
    assert_eq!(both.admitted(&vec![get("/narrow", "a"); 12]), [2, 2]);
    assert_eq!(both.admitted(&vec![get("/other", "a"); 40]), [18, 8]);
}

/// A bucket for each value of a header: there 20 of them, and who was forgotten starts anew.
#[test]
fn local_ratelimit_forgotten_key_starts_anew() {
    let user =
        json!({ "name": "user", "key": [{ "header": "x-user" }], "rate": { "requests": 1, "per": "1d" } });
    let mut native = native(1_000_000);
    native["descriptors"] = json!([{ "entries": [{ "key": "user" }], "token_bucket": bucket(1) }]);
    native["rate_limits"] = json!([{ "actions": [{ "request_headers": { "header_name": "x-user", "descriptor_key": "user" } }] }]);
    let both = Both::start(&ours(&json!([user])), native);
    let users: Vec<Request> = (0..60).map(|n| get("/", &format!("user-{n}"))).collect();
    assert_eq!(both.admitted(&users), [60, 60]);
    let [ours, native] = both.admitted(&users);
    println!("of 60 users who have used up their limit {ours} are let in here and {native} there");
    assert_eq!(ours, 0);
    assert!(native >= 40, "{native}");
}
