//! The core in wasm32 as in native code: decisions about requests.
#![allow(clippy::restriction)]

use std::time::Duration;

use plugin_kit::request::exchange::Exchange;
use plugin_kit::testing::FakeHost;
use rate_limit::config::Config;
use rate_limit::decision::{Limits, Outcome, Stage};
use rate_limit::testing::MemoryStore;

#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn limits(store: &MemoryStore, json: &str) -> Limits {
    Limits::new(Config::parse(json.as_bytes(), &|_: &str| None).unwrap(), store, b"", || Ok([7; 16])).unwrap()
}

fn request(user: &str, seconds: u64) -> FakeHost {
    let mut facts = FakeHost::request("GET", "/a").header("x-user", user);
    facts.monotonic_time = Duration::from_secs(seconds);
    facts
}

fn is_admitted(limits: &Limits, store: &MemoryStore, facts: &FakeHost) -> bool {
    let decision = limits.decide(store, &Exchange::new(1, facts), Stage::All).unwrap_or_default();
    matches!(decision.outcome, Outcome::Admitted(_))
}

#[test]
fn each_key_has_its_limit_and_two_workers_share_it() {
    let store = MemoryStore::default();
    let json = r#"{"limits":[{"name":"user","key":[{"header":"x-user"}],"rate":{"requests":2,"per":"1m"}}]}"#;
    let workers = [limits(&store, json), limits(&store, json)];
    let admitted = [("a", 0), ("a", 0), ("a", 29), ("a", 30), ("b", 30), ("b", 30), ("b", 30)]
        .iter()
        .enumerate()
        .map(|(n, (user, at))| is_admitted(&workers[n % 2], &store, &request(user, 1_000 + at)));
    assert_eq!(admitted.collect::<Vec<_>>(), [true, true, false, true, true, true, false]);
}

#[test]
fn denial_has_a_retry_after() {
    let store = MemoryStore::default();
    let limits = limits(&store, r#"{"limits":[{"name":"total","rate":{"requests":1,"per":"90s"}}]}"#);
    assert!(is_admitted(&limits, &store, &request("a", 1_000)));
    let facts = request("a", 1_030);
    let decision = limits.decide(&store, &Exchange::new(1, &facts), Stage::All).unwrap_or_default();
    let Outcome::Denied(denial) = decision.outcome else { panic!("admitted") };
    let reply = limits.reply(&Exchange::new(1, &facts), denial);
    let header = |name: &str| reply.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    assert_eq!(reply.status, 429);
    assert_eq!(header("retry-after"), Some("60"));
    assert_eq!(header("ratelimit-policy"), Some("\"total\";q=1;w=90"));
    assert_eq!(header("ratelimit"), Some("\"total\";r=0;t=60"));
}
