//! The rate limit service's part in a decision.

use plugin_kit::host::GrpcFailure;

use super::*;
use crate::service::protocol::{Failure, Response, Status};

#[test]
fn free_or_too_expensive_request_service_is_not_asked() {
    for (on_failure, more) in [("deny", ""), ("allow", ""), ("local", ""), ("deny", r#","mode":"report""#)] {
        let json = format!(
            r#"{{"limits":[{{"name":"user","key":[{{"header":"x"}}],"rate":{{"requests":5,"per":"1d"}},
            "global":{{"entries":["user"]}},"costFrom":{{"header":"x-cost","trust":true}}{more}}}],
            "global":{{"domain":"d","cluster":"c","onFailure":"{on_failure}"}}}}"#
        );
        let store = MemoryStore::default();
        let limits = limits(&store, &json);
        let ask = |cost: &str| {
            let request = request("GET", "/").header("x", "a").header("x-cost", cost);
            decide(&limits, &store, &request)
        };
        assert_eq!(verdict(&ask("0")), "A");
        let decision = ask("6");
        let expected = if more.contains("report") { ("A", 1) } else { ("rate_limit_exceeded", 0) };
        assert_eq!((verdict(&decision), decision.reported.len()), expected, "{on_failure}");
        assert_eq!(verdict(&ask("5")), "?");
        // Not while it is left alone either.
        for _ in 0..5 {
            limits.on_service_response(&store, question(ask("1")), Err(Failure::malformed()), Ok(NOW));
        }
        let decision = ask("6");
        assert_eq!((verdict(&decision), decision.reported.len()), expected, "{on_failure}");
    }
}

#[test]
fn answer_without_clock_enforced_limit_denies() {
    for (more, expected) in [("", ("rate_limit_unavailable", 0)), (r#","mode":"report""#, ("A", 1))] {
        for answer in [
            Ok(OK),
            Ok(over(0, 5_000)),
            Err(Failure::of_call(&GrpcFailure { status: 14, ..GrpcFailure::default() }, "c")),
        ] {
            let json = format!(
                r#"{{"limits":[{{"name":"user","key":[{{"header":"x"}}],"rate":{{"requests":5,"per":"1d"}},"global":{{"entries":["user"]}}{more}}}],
                "global":{{"domain":"d","cluster":"c","onFailure":"allow"}}}}"#
            );
            let store = MemoryStore::default();
            let limits = limits(&store, &json);
            let decision =
                limits.on_service_response(&store, ask(&limits, &store, "a"), answer, Err(FAILURE));
            assert_eq!((verdict(&decision), decision.reported.len()), expected);
        }
    }
}

/// A limit of 5 a day that is asked globally, and one of 5 a day that is not.
fn asking(store: &MemoryStore, on_failure: &str, more: &str) -> Limits {
    let json = format!(
        r#"{{"limits":[
            {{"name":"user","key":[{{"header":"x"}}],"rate":{{"requests":5,"per":"1d"}},"global":{{"entries":["user"]}}{more}}},
            {{"name":"total","rate":{{"requests":5,"per":"1d"}}}}],
        "global":{{"domain":"d","cluster":"c","onFailure":"{on_failure}"}},"response":{{"headersOn":"always"}}}}"#
    );
    limits(store, &json)
}

fn question(decision: Decision) -> Question {
    match decision.outcome {
        Outcome::Ask(question) => *question,
        other => panic!("{other:?}"),
    }
}

fn ask(limits: &Limits, store: &MemoryStore, user: &str) -> Question {
    question(decide(limits, store, &request("GET", "/").header("x", user)))
}

const NOW: u64 = 1_000_000_000_000;

const OK: Response = Response {
    over_limit: false,
    statuses: Vec::new(),
    response_headers: Vec::new(),
    request_headers: Vec::new(),
    body: Vec::new(),
};

fn over(remaining: u64, reset: u64) -> Response {
    let status = Status { over_limit: true, requests: 5, window: 86_400, remaining, reset };
    Response { over_limit: true, statuses: vec![status], ..OK }
}

/// How many requests of fresh users the limit that is not asked globally still admits.
fn left(limits: &Limits, store: &MemoryStore) -> usize {
    let admits = |n: usize| {
        let user = request("GET", "/").header("x", &format!("fresh-{n}"));
        match decide(limits, store, &user).outcome {
            Outcome::Ask(question) => {
                let decision = limits.on_service_response(store, *question, Ok(OK), Ok(NOW));
                matches!(decision.outcome, Outcome::Admitted(_))
            }
            _ => false,
        }
    };
    (0..6).filter(|n| admits(*n)).count()
}

#[test]
fn service_over_limit_no_local_limit_is_charged() {
    let store = MemoryStore::default();
    let limits = asking(&store, "deny", "");
    let decision = limits.on_service_response(&store, ask(&limits, &store, "a"), Ok(OK), Ok(NOW));
    assert!(matches!(decision.outcome, Outcome::Admitted(Admission { uncounted: false, .. })));
    assert_eq!(decision.service, ServiceStats { ok: 1, ..ServiceStats::default() });
    for n in 0..20 {
        let decision = limits.on_service_response(
            &store,
            ask(&limits, &store, &format!("b{n}")),
            Ok(over(0, 5_000)),
            Ok(NOW),
        );
        assert_eq!(verdict(&decision), "rate_limit_exceeded");
        assert_eq!(decision.service.over_limit, 1);
    }
    assert_eq!(left(&limits, &store), 4);
}

#[test]
fn key_over_its_limit_service_is_not_asked_until_the_window_ends() {
    let store = MemoryStore::default();
    let limits = asking(&store, "deny", "");
    let reset = 7_000_000_000;
    limits.on_service_response(&store, ask(&limits, &store, "a"), Ok(over(0, reset)), Ok(NOW));
    let reads = store.reads.get();
    let decision = decide(&limits, &store, &request("GET", "/").header("x", "a"));
    let Outcome::Denied(denial) = &decision.outcome else { panic!("{decision:?}") };
    assert_eq!((denial.limit, denial.reason), (Some(0), DenyReason::Limited(Some(reset))));
    assert_eq!((decision.service.remembered, store.reads.get() - reads), (1, 0));
    ask(&limits, &store, "b");
    let mut later = request("GET", "/").header("x", "a");
    later.monotonic_time += Duration::from_nanos(reset);
    question(decide(&limits, &store, &later));
    // Something is left for a cheaper request: nothing is remembered.
    limits.on_service_response(&store, ask(&limits, &store, "c"), Ok(over(2, reset)), Ok(NOW));
    ask(&limits, &store, "c");
}

fn failure_of(decision: &Decision) -> Option<&'static str> {
    let Outcome::Denied(denial) = &decision.outcome else { return None };
    denial.failure
}

#[test]
fn failed_service_on_failure_decides() {
    let failure = || Err(Failure::of_call(&GrpcFailure { status: 14, ..GrpcFailure::default() }, "c"));
    for (on_failure, expected, uncounted, user_left, total_left) in [
        ("deny", "rate_limit_service_unavailable", false, 5, 5),
        ("allow", "A", true, 5, 4),
        ("local", "A", false, 4, 4),
    ] {
        let store = MemoryStore::default();
        let limits = asking(&store, on_failure, "");
        let decision = limits.on_service_response(&store, ask(&limits, &store, "a"), failure(), Ok(NOW));
        assert_eq!(verdict(&decision), expected);
        assert_eq!(failure_of(&decision), (on_failure == "deny").then_some("status"));
        let is_uncounted = matches!(decision.outcome, Outcome::Admitted(Admission { uncounted: true, .. }));
        assert_eq!((is_uncounted, decision.service.failed), (uncounted, 1), "{on_failure}");
        let charge = ask(&limits, &store, "a").counted[0].charge;
        let remaining =
            limits.limiter.charge(&store, &[ChargeRequest { cost: 99, ..charge }], NOW).unwrap()[0].remaining;
        assert_eq!((remaining, left(&limits, &store)), (user_left, total_left), "{on_failure}");
    }
}

#[test]
fn service_failing_repeatedly_breaker_opens_and_on_failure_decides() {
    let store = MemoryStore::default();
    let limits = asking(&store, "deny", "");
    let opened = (0..5).map(|_| {
        limits
            .on_service_response(&store, ask(&limits, &store, "a"), Err(Failure::malformed()), Ok(NOW))
            .service
            .opened
    });
    assert_eq!(opened.collect::<Vec<_>>(), [false, false, false, false, true]);
    let request = request("GET", "/").header("x", "a");
    let decision = decide(&limits, &store, &request);
    assert_eq!(verdict(&decision), "rate_limit_service_unavailable");
    assert_eq!(failure_of(&decision), Some("skipped"));
    assert_eq!(decision.service.skipped, 1);
    let mut later = request;
    later.monotonic_time += Duration::from_secs(1);
    let probe = question(decide(&limits, &store, &later));
    assert_eq!(verdict(&decide(&limits, &store, &later)), "rate_limit_service_unavailable");
    let decision = limits.on_service_response(&store, probe, Ok(OK), Ok(NOW + 1_000_000_000));
    assert!(decision.service.closed && verdict(&decision) == "A");
    question(decide(&limits, &store, &later));
}

#[test]
fn reporting_limit_service_is_asked_and_nothing_is_denied() {
    for more in [r#","mode":"report""#, r#","enforcePercent":0"#] {
        let store = MemoryStore::default();
        let limits = asking(&store, "deny", more);
        let decision =
            limits.on_service_response(&store, ask(&limits, &store, "a"), Ok(over(0, 5_000)), Ok(NOW));
        assert_eq!((verdict(&decision), &*decision.reported), ("A", &[0][..]));
        // From memory too, and a failure of the service is no reason to deny.
        let decision = decide(&limits, &store, &request("GET", "/").header("x", "a"));
        assert_eq!((verdict(&decision), &*decision.reported), ("A", &[0][..]));
        let decision =
            limits.on_service_response(&store, ask(&limits, &store, "b"), Err(Failure::malformed()), Ok(NOW));
        assert_eq!((verdict(&decision), decision.reported.len()), ("A", 0));
    }
}

#[test]
fn busy_key_with_service_or_headers_takes_no_fast_path() {
    let limit = |more: &str, rest: &str| {
        format!(
            r#"{{"limits":[{{"name":"user","key":[{{"header":"x"}}],"rate":{{"requests":1000,"per":"1s"}}{more}}}]{rest}}}"#
        )
    };
    let request = |n: u64| {
        let mut request = request("GET", "/").header("x", "a");
        request.monotonic_time += Duration::from_millis(n);
        request
    };
    let store = MemoryStore::default();
    let asked = limits(
        &store,
        &limit(r#","global":{"entries":["user"]}"#, r#","global":{"domain":"d","cluster":"c"}"#),
    );
    for n in 0..20 {
        let decision = decide(&asked, &store, &request(n));
        let now = nanoseconds(request(n).monotonic_time);
        assert_eq!(verdict(&asked.on_service_response(&store, question(decision), Ok(OK), Ok(now))), "A");
    }
    let shown = limits(&store, &limit("", r#","response":{"headersOn":"always"}"#));
    for n in 0..20 {
        let Outcome::Admitted(admission) = decide(&shown, &store, &request(n)).outcome else { panic!("{n}") };
        assert!(!admission.headers.is_empty(), "{n}");
    }
}

#[test]
fn several_keys_over_their_limits_longest_wait_is_shown() {
    let json = r#"{"limits":[
        {"name":"a","key":[{"header":"x"}],"rate":{"requests":5,"per":"1d"},"global":{"entries":["a"]}},
        {"name":"b","key":[{"header":"x"}],"rate":{"requests":5,"per":"1d"},"global":{"entries":["b"]}}],
        "global":{"domain":"d","cluster":"c"}}"#;
    for resets in [[5_000, 9_000], [9_000, 5_000]] {
        let store = MemoryStore::default();
        let limits = limits(&store, json);
        let status = |reset| Status { over_limit: true, requests: 5, window: 86_400, remaining: 0, reset };
        let answer = Response { over_limit: true, statuses: resets.map(status).to_vec(), ..OK };
        let request = request("GET", "/").header("x", "k");
        let first = limits.on_service_response(
            &store,
            question(decide(&limits, &store, &request)),
            Ok(answer),
            Ok(NOW),
        );
        for decision in [first, decide(&limits, &store, &request)] {
            let Outcome::Denied(denial) = decision.outcome else { panic!("{decision:?}") };
            assert_eq!(denial.reason, DenyReason::Limited(Some(9_000)));
            assert_eq!(denial.limit, Some(usize::from(resets[1] == 9_000)));
        }
    }
}

#[test]
fn service_denial_headers_and_body_reach_the_client() {
    let store = MemoryStore::default();
    let limits = asking(&store, "deny", "");
    let answer = Response {
        response_headers: vec![("x-from-service".to_owned(), "7".to_owned())],
        body: b"come back later".to_vec(),
        ..over(0, 5_000)
    };
    let request = request("GET", "/").header("x", "a");
    let decision = limits.on_service_response(&store, ask(&limits, &store, "a"), Ok(answer), Ok(NOW));
    let Outcome::Denied(denial) = decision.outcome else { panic!("{decision:?}") };
    let reply = limits.reply(&Exchange::new(1, &request), denial);
    assert!(reply.headers.contains(&("x-from-service".to_owned(), "7".to_owned())), "{reply:?}");
    assert_eq!(reply.body, b"come back later");
}

#[test]
fn service_without_statuses_overall_code_applies() {
    let store = MemoryStore::default();
    let limits = asking(&store, "deny", "");
    let decision = limits.on_service_response(
        &store,
        ask(&limits, &store, "a"),
        Ok(Response { over_limit: true, ..OK }),
        Ok(NOW),
    );
    let Outcome::Denied(denial) = decision.outcome else { panic!("{decision:?}") };
    assert_eq!((denial.limit, denial.reason), (Some(0), DenyReason::Limited(None)));
    // A service that only reports says OK of the whole.
    let shadow = Response { over_limit: false, ..over(0, 5_000) };
    assert_eq!(
        verdict(&limits.on_service_response(&store, ask(&limits, &store, "a"), Ok(shadow), Ok(NOW))),
        "A"
    );
    ask(&limits, &store, "a");
}

#[test]
fn local_limit_that_denies_service_is_not_asked() {
    let store = MemoryStore::default();
    let limits = asking(&store, "deny", "");
    for _ in 0..5 {
        limits.on_service_response(&store, ask(&limits, &store, "a"), Ok(OK), Ok(NOW));
    }
    let decision = decide(&limits, &store, &request("GET", "/").header("x", "b"));
    let Outcome::Denied(denial) = decision.outcome else { panic!("{decision:?}") };
    assert_eq!(denial.limit, Some(1));
}

#[test]
fn concurrent_requests_are_charged_when_the_service_has_answered() {
    let store = MemoryStore::default();
    let limits = asking(&store, "deny", "");
    let questions: Vec<_> = (0..8).map(|n| ask(&limits, &store, &format!("u{n}"))).collect();
    let admitted = questions
        .into_iter()
        .map(|question| verdict(&limits.on_service_response(&store, question, Ok(OK), Ok(NOW))))
        .collect::<Vec<_>>();
    let expected = [["A"; 5].as_slice(), ["rate_limit_exceeded"; 3].as_slice()].concat();
    assert_eq!(admitted, expected);
}

#[test]
fn headers_on_always_tightest_limit_is_shown() {
    let store = MemoryStore::default();
    let limits = asking(&store, "deny", "");
    let shown = |remaining| {
        let status =
            Status { over_limit: false, requests: 100, window: 60, remaining, reset: 30_000_000_000 };
        let response = Response { statuses: vec![status], ..OK };
        match limits.on_service_response(&store, ask(&limits, &store, "a"), Ok(response), Ok(NOW)).outcome {
            Outcome::Admitted(admission) => {
                admission.headers.into_iter().map(|(_, value)| value).collect::<Vec<_>>().join(" ")
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(shown(2), r#""user";q=100;w=60 "user";r=2;t=30"#);
    assert!(shown(50).contains("q=5;w=86400"));
}
