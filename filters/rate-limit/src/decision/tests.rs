//! Tests of the decision. The tests of matching and of the rate limit service's part are beside this file.

mod matching;
mod service;

use std::time::Duration;

use plugin_kit::testing::FakeHost;

use super::*;
use crate::limits::slots::WorkerStore;
use crate::testing::MemoryStore;

const FAILURE: HostError = HostError { call: "any", status: 10 };

fn limits(store: &MemoryStore, json: &str) -> Limits {
    let config = Config::parse(json.as_bytes(), &|_: &str| None).unwrap();
    Limits::new(config, store, b"", || Ok([1; 16])).unwrap()
}

fn request(method: &str, path: &str) -> FakeHost {
    FakeHost { monotonic_time: Duration::from_secs(1_000), ..FakeHost::request(method, path) }
}

fn decide(limits: &Limits, store: &MemoryStore, request: &FakeHost) -> Decision {
    limits.decide(store, &Exchange::new(1, request), Stage::All).unwrap_or_default()
}

/// `A` for admitted, `?` for asked, otherwise the code.
fn verdict(decision: &Decision) -> &'static str {
    match &decision.outcome {
        Outcome::Admitted(_) => "A",
        Outcome::Denied(denial) => denial.reason.code(),
        Outcome::Ask(_) => "?",
    }
}

const ONE: &str = r#"{"limits":[{"name":"total","rate":{"requests":1,"per":"1h"}}]}"#;

#[test]
fn failed_host_call_request_is_denied() {
    let store = MemoryStore::default();
    let limits = limits(&store, ONE);
    let request = request("GET", "/");
    let no_clock = FakeHost { failure: Some(FAILURE), ..request.clone() };
    assert_eq!(verdict(&decide(&limits, &store, &no_clock)), "rate_limit_unavailable");
    store.failure.set(Some(FAILURE));
    assert_eq!(verdict(&decide(&limits, &store, &request)), "rate_limit_unavailable");
    store.failure.set(None);
    assert_eq!(verdict(&decide(&limits, &store, &request)), "A");
    let keyed =
        r#"{"limits":[{"name":"user","key":[{"header":"a"}],"rate":{"requests":1,"per":"1h"}}]}"#.to_owned();
    let keyed = super::tests::limits(&store, &keyed);
    assert_eq!(verdict(&decide(&keyed, &store, &no_clock)), "rate_limit_unavailable");
}

#[test]
fn preflight_only_limits_keyed_by_a_claim_skip_it() {
    let store = MemoryStore::default();
    let limit = |name: &str, key: &str, rest: &str| {
        format!(r#"{{"name":"{name}","key":[{key}],"rate":{{"requests":0,"burst":0,"per":"1h"}}{rest}}}"#)
    };
    let decided = |limit: String, request: &FakeHost| {
        let limits = limits(&store, &format!(r#"{{"limits":[{limit}]}}"#));
        let verdict = verdict(&decide(&limits, &store, request));
        let missing_keys: Vec<_> = limits.take_missing_keys().collect();
        assert_eq!(limits.take_missing_keys().count(), 0, "each is told once");
        (verdict, missing_keys)
    };
    let preflight =
        request("OPTIONS", "/").header("origin", "a").header("access-control-request-method", "GET");
    let by_claim = || limit("a", r#"{"method":{}},{"claim":"sub"}"#, "");
    let denying = || limit("a", r#"{"claim":"sub"}"#, r#","onMissingKey":"deny""#);
    assert_eq!(decided(by_claim(), &preflight), ("A", vec![]));
    assert_eq!(decided(denying(), &preflight), ("A", vec![]));
    let counted = ("rate_limit_exceeded", vec![(0, 1)]);
    for other in [
        request("GET", "/").header("origin", "a").header("access-control-request-method", "GET"),
        request("OPTIONS", "/").header("origin", "a"),
        request("OPTIONS", "/").header("access-control-request-method", "GET"),
    ] {
        assert_eq!(decided(by_claim(), &other), counted, "{other:?}");
    }
    assert_eq!(decided(denying(), &request("GET", "/")), ("rate_limit_key_missing", vec![(0, 1)]));
    assert_eq!(decided(limit("a", r#"{"header":"x"}"#, ""), &preflight), counted);
    // Whoever sends a token is known by it.
    let known = preflight.clone().property("jwt.sub", "alice");
    assert_eq!(decided(by_claim(), &known), ("rate_limit_exceeded", vec![]));
}

#[test]
fn configuration_without_slots_or_random_number_is_refused() {
    let store = MemoryStore::default();
    let config = || Config::parse(ONE.as_bytes(), &|_: &str| None).unwrap();
    let refused = |random: Result<[u8; 16], HostError>| {
        Limits::new(config(), &store, b"", || random).err().unwrap().to_string()
    };
    assert_eq!(refused(Err(FAILURE)), format!("$: {FAILURE}"));
    store.failure.set(Some(FAILURE));
    assert_eq!(refused(Ok([1; 16])), format!("$: {FAILURE}"));
    // There is no room for the limit alone, and nothing is written; or none beside what is there.
    let full = "limits[0].maxKeys: the state of all limits of the proxy would take more than 256 MiB";
    store.failure.set(None);
    store.most.set(Some(100));
    assert_eq!((refused(Ok([1; 16])).as_str(), store.len()), (full, 0));
    store.most.set(Some(10_000_000));
    store.set("rate-limit.1.hash-key", &[1; 16], 0).unwrap();
    store.full.set(true);
    assert_eq!(refused(Ok([1; 16])), full);
}

#[test]
fn second_worker_creates_no_slots() {
    let store = MemoryStore::default();
    let two = r#"{"limits":[{"name":"total","rate":{"requests":1,"per":"1h"}},
        {"name":"user","key":[{"header":"x"}],"rate":{"requests":1,"per":"1h"}}]}"#;
    assert_eq!((limits(&store, two).created(), limits(&store, two).created()), (2, 0));
}

#[test]
fn limit_with_changed_rates_is_reported_once() {
    let store = MemoryStore::default();
    let changed = |requests: u32, pro: u32, scope: &[u8]| {
        let json = format!(
            r#"{{"limits":[{{"name":"other","rate":{{"requests":1,"per":"1h"}}}},{{"name":"user","rate":{{"requests":{requests},"per":"1h"}},
            "plans":{{"from":{{"claim":"plan"}},"rates":{{"pro":{{"requests":{pro},"per":"1h"}}}}}}}}]}}"#
        );
        let config = Config::parse(json.as_bytes(), &|_: &str| None).unwrap();
        let limits = Limits::new(config, &store, scope, || Ok([1; 16])).unwrap();
        limits.changed().map(|limit| limit.name.clone()).collect::<Vec<_>>()
    };
    for (requests, pro, expected) in
        [(1, 2, false), (1, 2, false), (3, 2, true), (3, 2, false), (3, 4, true), (4, 3, true)]
    {
        let expected: &[&str] = if expected { &["user"] } else { &[] };
        assert_eq!(changed(requests, pro, b"a"), expected);
    }
    // Another plugin's limit of that name is another limit.
    assert!(changed(9, 9, b"b").is_empty());
}

#[test]
fn scope_worker_workers_share_no_counts() {
    let json = r#"{"limits":[{"name":"user","key":[{"header":"x"}],"rate":{"requests":2,"per":"1h"}}],"scope":"worker"}"#;
    let worker = || {
        let store = WorkerStore::default();
        let config = Config::parse(json.as_bytes(), &|_: &str| None).unwrap();
        (Limits::new(config, &store, b"", || Ok([1; 16])).unwrap(), store)
    };
    for (limits, store) in [worker(), worker()] {
        for (user, expected) in [("a", "AAD"), ("b", "AAD"), ("a", "D")] {
            let request = request("GET", "/").header("x", user);
            let ask = |_| limits.decide(&store, &Exchange::new(1, &request), Stage::All).unwrap_or_default();
            let asked = expected.chars().map(ask).map(|d| if verdict(&d) == "A" { 'A' } else { 'D' });
            assert_eq!(asked.collect::<String>(), expected, "{user}");
        }
    }
}

#[test]
fn each_stage_checks_only_its_own_limits() {
    let limit = |name: &str, requests: u32, more: &str| {
        format!(r#"{{"name":"{name}","rate":{{"requests":{requests},"per":"1h","burst":{requests}}}{more}}}"#)
    };
    let of = |before: u32, after: u32| {
        let (before, after) = (limit("early", before, r#","before":"auth""#), limit("late", after, ""));
        format!(r#"{{"limits":[{before},{after}]}}"#)
    };
    let request = request("GET", "/");
    for (json, early, late, all) in [
        (of(0, 0), Some(0), Some(1), Some(1)),
        (of(0, 1), Some(0), None, Some(0)),
        (of(1, 0), None, Some(1), Some(1)),
        (format!(r#"{{"limits":[{}]}}"#, limit("late", 0, "")), None, Some(0), Some(0)),
    ] {
        for (stage, denies) in [(Stage::BeforeAuth, early), (Stage::AfterAuth, late), (Stage::All, all)] {
            let store = MemoryStore::default();
            let decision = limits(&store, &json).decide(&store, &Exchange::new(1, &request), stage);
            let denied = match decision.unwrap_or_default().outcome {
                Outcome::Denied(denial) => denial.limit,
                _ => None,
            };
            assert_eq!(denied, denies, "{json} {stage:?}");
        }
    }
}

#[test]
fn response_with_other_status_charge_is_given_back() {
    let json =
        r#"{"limits":[{"name":"failures","countStatuses":[401,403],"rate":{"requests":2,"per":"1h"}}]}"#;
    let store = MemoryStore::default();
    let limits = limits(&store, json);
    let request = request("GET", "/");
    let answer = |status| {
        let Outcome::Admitted(admission) = decide(&limits, &store, &request).outcome else {
            return false;
        };
        let stats = limits.settle(&store, &Exchange::new(1, &request), admission.pending, status);
        assert_eq!(stats.refunded, u32::from(status == Some(200)));
        true
    };
    assert!((0..9).all(|_| answer(Some(200))));
    // Without a status nothing is known of the response: the charge stays.
    assert_eq!([Some(401), None, Some(200)].map(answer), [true, true, false]);
}

#[test]
fn missing_key_on_missing_key_decides() {
    for (more, expected, reported) in [
        ("", "rate_limit_exceeded", 0),
        (r#","onMissingKey":"skip""#, "A", 0),
        (r#","onMissingKey":"deny""#, "rate_limit_key_missing", 0),
        (r#","onMissingKey":"deny","mode":"report""#, "A", 1),
    ] {
        let json = format!(
            r#"{{"limits":[{{"name":"user","key":[{{"header":"x"}}],"rate":{{"requests":0,"per":"1h","burst":0}}{more}}}]}}"#
        );
        let store = MemoryStore::default();
        let decision = decide(&limits(&store, &json), &store, &request("GET", "/"));
        assert_eq!((verdict(&decision), decision.reported.len()), (expected, reported), "{more}");
    }
}

#[test]
fn conflict_in_every_attempt_on_conflict_decides() {
    let store = MemoryStore::default();
    store.conflicts.set(u32::MAX);
    let deny = limits(&store, ONE);
    assert_eq!(verdict(&decide(&deny, &store, &request("GET", "/"))), "rate_limit_conflict");
    let allow = ONE.replace(r#"{"limits""#, r#"{"onConflict":"allow","limits""#);
    let decision = decide(&limits(&store, &allow), &store, &request("GET", "/"));
    assert!(matches!(decision.outcome, Outcome::Admitted(Admission { uncounted: true, .. })));
    assert_eq!(decision.stats.conflicts, 32);
}

#[test]
fn plugins_with_different_names_share_no_limit() {
    let store = MemoryStore::default();
    let of = |scope: &[u8]| {
        Limits::new(Config::parse(ONE.as_bytes(), &|_: &str| None).unwrap(), &store, scope, || Ok([1; 16]))
            .unwrap()
    };
    let request = request("GET", "/");
    assert_eq!(verdict(&decide(&of(b"a"), &store, &request)), "A");
    assert_eq!(verdict(&decide(&of(b"b"), &store, &request)), "A");
    assert_eq!(verdict(&decide(&of(b"a"), &store, &request)), "rate_limit_exceeded");
}

#[test]
fn enforce_percent_with_key_denies_its_share_of_keys() {
    let limit = |percent| {
        format!(
            r#"{{"limits":[{{"name":"a","key":[{{"header":"x"}}],"enforcePercent":{percent},"rate":{{"requests":0,"per":"1h","burst":0}}}}]}}"#
        )
    };
    let store = MemoryStore::default();
    let denied = |percent| {
        let limits = limits(&store, &limit(percent));
        let key = |n: u32| request("GET", "/").header("x", &n.to_string());
        let decisions = (0..1_000).map(|n| decide(&limits, &store, &key(n)));
        decisions.map(|d| (verdict(&d) != "A", d.reported.len())).collect::<Vec<_>>()
    };
    let (none, few, all) = (denied(0), denied(30), denied(100));
    let count = |decisions: &[(bool, usize)]| decisions.iter().filter(|(denied, _)| *denied).count();
    assert_eq!((count(&none), count(&all)), (0, 1_000));
    assert!((200..400).contains(&count(&few)), "{}", count(&few));
    assert!(none.iter().chain(&few).chain(&all).all(|(denied, reported)| *denied == (*reported == 0)));
}

/// For each request, whether it was denied; otherwise it was reported.
fn ramp(percent: u8, more: &str, requests: impl Iterator<Item = FakeHost>) -> Vec<bool> {
    let json = format!(
        r#"{{"limits":[{{"name":"a","enforcePercent":{percent},"rate":{{"requests":0,"per":"1h","burst":0}}{more}}}]}}"#
    );
    let store = MemoryStore::default();
    let limits = limits(&store, &json);
    let denied = |request: FakeHost| {
        let decision = decide(&limits, &store, &request);
        let denied = matches!(decision.outcome, Outcome::Denied(_));
        assert_eq!(decision.reported.len(), usize::from(!denied));
        denied
    };
    requests.map(denied).collect()
}

#[test]
fn enforce_percent_without_key_denies_its_share_of_requests() {
    let same = || (0..1_000).map(|_| request("GET", "/"));
    let count = |denied: &[bool]| denied.iter().filter(|denied| **denied).count();
    for more in [
        "",
        r#","key":[{"header":"x"}]"#,
        r#","key":[{"literal":"search"},{"header":"x"}]"#,
        r#","key":[{"header":"x"}],"onMissingKey":"deny""#,
    ] {
        assert_eq!(count(&ramp(0, more, same())), 0, "{more}");
        assert_eq!(count(&ramp(100, more, same())), 1_000, "{more}");
        let denied = ramp(30, more, same());
        assert!((230..370).contains(&count(&denied)), "{more}: {}", count(&denied));
        // No client that takes turns with others is always, or never, denied.
        for period in 2..10 {
            for first in 0..period {
                let one: Vec<bool> = denied.iter().skip(first).step_by(period).copied().collect();
                assert!(count(&one) > 0 && count(&one) < one.len(), "{more}: {first} of {period}");
            }
        }
    }
    // A part that tells requests apart is a key, whatever else is missing.
    let user = |user: &str| {
        let request = request("GET", "/").header("x", user);
        (0..9).map(move |_| request.clone())
    };
    let more = r#","key":[{"header":"x"},{"header":"y"}]"#;
    let shares: Vec<usize> = (0..50).map(|n| count(&ramp(50, more, user(&n.to_string())))).collect();
    assert!(shares.contains(&0) && shares.contains(&9), "{shares:?}");
    assert!(shares.iter().all(|share| [0, 9].contains(share)), "{shares:?}");
}

#[test]
fn cost_from_request_costs_what_it_says() {
    for (cost, expected) in [
        (Some("0"), "AAAAAAAA"),
        (Some("0.0"), "AAAAAAAA"),
        (Some("1"), "AAAAA---"),
        (Some("1.5"), "AA------"),
        (Some("2.0"), "AA------"),
        (Some("0.5e1"), "A-------"),
        (Some("6"), "--------"),
        (Some("1e2"), "--------"),
        (Some("4294967295"), "--------"),
        (Some("4294967296"), "--------"),
        (Some("99999999999999999999"), "--------"),
        (None, "AA------"),
        (Some("none"), "!!!!!!!!"),
        (Some("-1"), "!!!!!!!!"),
        (Some(""), "AA------"),
    ] {
        for (more, invalid) in [("", "!!!!!!!!"), (r#","onInvalidCost":"useCost""#, "AA------")] {
            let json = format!(
                r#"{{"limits":[{{"name":"a","cost":2,"costFrom":{{"header":"x-cost","trust":true}},"rate":{{"requests":5,"per":"1h"}}{more}}}]}}"#
            );
            let store = MemoryStore::default();
            let limits = limits(&store, &json);
            let mut request = request("GET", "/");
            if let Some(cost) = cost {
                request = request.header("x-cost", cost);
            }
            let expected = if expected.starts_with('!') { invalid } else { expected };
            let seen: String = (0..8)
                .map(|_| {
                    let decision = decide(&limits, &store, &request);
                    let is_invalid = matches!(cost, Some("none" | "-1"));
                    assert_eq!(decision.stats.invalid_costs, u32::from(is_invalid), "{cost:?}");
                    match verdict(&decision) {
                        "A" => 'A',
                        "rate_limit_cost_invalid" => '!',
                        "rate_limit_exceeded" => '-',
                        other => panic!("{other}"),
                    }
                })
                .collect();
            assert_eq!(seen, expected, "{cost:?} {more}");
        }
    }
}

#[test]
fn reporting_limit_invalid_cost_or_failed_host_call_is_admitted() {
    let json = r#"{"limits":[{"name":"a","mode":"report","costFrom":{"header":"x-cost","trust":true},"rate":{"requests":5,"per":"1h"}}]}"#;
    let store = MemoryStore::default();
    let limits = limits(&store, json);
    let reports = |request: &FakeHost| {
        let decision = decide(&limits, &store, request);
        assert_eq!((verdict(&decision), &*decision.reported), ("A", &[0][..]));
    };
    reports(&request("GET", "/").header("x-cost", "none"));
    reports(&FakeHost { failure: Some(FAILURE), ..request("GET", "/") });
    store.failure.set(Some(FAILURE));
    reports(&request("GET", "/"));
}

#[test]
fn free_request_is_admitted_unless_the_rate_is_zero() {
    for (limit, expected) in [
        (r#""cost":0,"rate":{"requests":1,"per":"1h"}"#, "A"),
        (r#""cost":0,"rate":{"requests":0,"per":"1h","burst":0}"#, "rate_limit_exceeded"),
    ] {
        let store = MemoryStore::default();
        let limits = limits(&store, &format!(r#"{{"limits":[{{"name":"a",{limit}}}]}}"#));
        for _ in 0..9 {
            assert_eq!(verdict(&decide(&limits, &store, &request("GET", "/"))), expected, "{limit}");
        }
    }
}

#[test]
fn denial_shows_what_is_left_and_the_request_id() {
    let store = MemoryStore::default();
    let limits = limits(&store, &ONE.replace(r#""requests":1"#, r#""requests":0,"burst":0"#));
    let request = request("GET", "/").header("x-request-id", "r-1");
    let Outcome::Denied(denial) = decide(&limits, &store, &request).outcome else { panic!("admitted") };
    let reply = limits.reply(&Exchange::new(1, &request), denial);
    let header = |name: &str| reply.headers.iter().any(|(found, _)| found.eq_ignore_ascii_case(name));
    assert!(header("ratelimit") && header("ratelimit-policy"), "{reply:?}");
    // It never comes back, so no time is told at which it does.
    assert!(reply.headers.contains(&("ratelimit".to_owned(), r#""total";r=0"#.to_owned())), "{reply:?}");
    assert!(!header("retry-after"), "{reply:?}");
    assert!(String::from_utf8_lossy(&reply.body).contains("r-1"), "{reply:?}");
}
