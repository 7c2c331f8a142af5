//! The filters as a native module in a proxy that has the ABI and nothing behind it: each hook, and streams, configurations and calls
//! that end where nobody expects it. `make memcheck-native` runs these tests under memcheck.
#![allow(clippy::restriction, clippy::needless_pass_by_value)]

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fake_envoy::{Call, Configuration, Manners, Part, Stream};
use plugin_kit::host::native::Entry;
use serde_json::{Value, json};

static FILTERS: &[Entry] = &[
    Entry::of::<jwt_auth::plugin::JwtAuth>(),
    Entry::of::<mesh_filters::plugin::MeshFilters>(),
    Entry::of::<rate_limit::plugin::RateLimit>(),
    Entry::of::<trace_tags::plugin::TraceTags>(),
    Entry::of::<panicking::Panicking>(),
];

/// One test at a time, since each sees that all that was given came back.
struct Alone(#[allow(dead_code)] MutexGuard<'static, ()>);

fn alone() -> Alone {
    static ONE: Mutex<()> = Mutex::new(());
    let alone = Alone(ONE.lock().unwrap_or_else(PoisonError::into_inner));
    fake_envoy::load(FILTERS);
    fake_envoy::take_log();
    alone
}

impl Drop for Alone {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(fake_envoy::given(), 0, "the module keeps what the proxy has given");
        }
    }
}

const BOTH: [Manners; 2] = [Manners::Patient, Manners::Hasty];

fn configure(filter: &str, config: Value) -> Configuration {
    let config = json!({ "pluginName": "shop.x", "pluginConfig": config });
    Configuration::new(filter, &config).unwrap_or_else(|log| panic!("{log:?}"))
}

fn get<'a>(config: &'a Configuration, manners: Manners, headers: &[(&str, &str)]) -> Stream<'a> {
    let own = [(":method", "GET"), (":path", "/a?b=c"), (":authority", "a.test"), (":scheme", "http")];
    let all =
        own.iter().chain(headers).map(|(name, value)| (name.as_bytes().into(), value.as_bytes().into()));
    config.open(manners, all.collect(), &[(24, b"10.0.0.7:4711"), (37, b"spiffe://mesh/ns/a/sa/b")])
}

fn header(stream: &Stream<'_>, name: &str) -> Option<String> {
    let headers = stream.headers();
    let found = headers.iter().find(|(known, _)| known == name.as_bytes());
    found.map(|(_, value)| String::from_utf8(value.clone()).unwrap())
}

fn token(subject: &str) -> String {
    let claims =
        json!({ "iss": "https://issuer.test/", "aud": "api", "sub": subject, "exp": 9_999_999_999_u64 });
    format!("Bearer {}", cases::Token::new("rsa-1", claims).mint().unwrap())
}

fn forged() -> String {
    let token = token("alice");
    let (rest, _) = token.rsplit_once('.').unwrap();
    format!("{rest}.{}", "A".repeat(342))
}

fn keys() -> Value {
    cases::public_keys(&["rsa-1"]).unwrap()
}

fn jwt_auth(keys: Value) -> Value {
    let mut provider = json!({
        "issuer": "https://issuer.test/", "audiences": ["api"],
        "outputClaimToHeaders": [{ "claim": "sub", "header": "x-user-id" }],
    });
    provider.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    json!({
        "providers": { "platform": provider },
        "rules": [{ "name": "cel", "match": { "paths": ["/cel"] }, "require": { "provider": "platform" }, "when": "jwt.sub == 'bob' && request.headers['x-a'] != 'b'" },
                  { "require": { "provider": "platform" } }],
    })
}

fn remote() -> Configuration {
    configure("jwt-auth", jwt_auth(json!({ "jwksUri": "http://issuer.test/jwks.json", "cluster": "issuer" })))
}

const OK: &[(&str, &str)] = &[(":status", "200"), ("content-type", "application/json")];

/// Runs all that is due, and takes the calls that come of it.
fn turn(config: &Configuration, streams: &[&Stream<'_>]) -> Vec<Call> {
    let mut calls = Vec::new();
    for _ in 0..3 {
        config.turn();
        calls.extend(config.take_calls());
        for stream in streams {
            stream.turn();
        }
    }
    calls
}

#[test]
fn a_token_is_verified_and_taken_away() {
    let _alone = alone();
    let config = configure("jwt-auth", jwt_auth(json!({ "jwks": keys() })));
    for manners in BOTH {
        for _ in 0..3 {
            let stream =
                get(&config, manners, &[("authorization", &token("alice")), ("x-user-id", "mallory")]);
            assert!(stream.request_headers());
            assert_eq!(header(&stream, "authorization"), None);
            assert_eq!(header(&stream, "x-user-id").as_deref(), Some("alice"));
            assert_eq!(stream.filter_state("wasm.jwt.sub").as_deref(), Some(&b"alice"[..]));
            stream.request_rest();
            stream.response(&[(":status", "200")]);
        }
        let stream = get(&config, manners, &[("authorization", &forged())]);
        assert!(!stream.request_headers());
        assert_eq!(stream.sent().unwrap().status, 401);
    }
    assert_eq!(config.value("jwt_auth_requests_allowed"), 6);
}

#[test]
fn requests_wait_for_keys_and_go_on() {
    let _alone = alone();
    for manners in BOTH {
        for (answered, chunk) in [(true, 1), (true, 4096), (false, 1)] {
            let config = remote();
            let (good, bad) = (token("alice"), forged());
            let streams: Vec<_> = [&good, &bad, &good]
                .iter()
                .map(|token| get(&config, manners, &[("authorization", token)]))
                .collect();
            let calls = {
                for stream in &streams {
                    assert!(!stream.request_headers());
                    assert!(stream.sent().is_none());
                }
                turn(&config, &streams.iter().collect::<Vec<_>>())
            };
            assert_eq!(calls.len(), 1, "{calls:?}");
            assert_eq!((calls[0].cluster.as_str(), calls[0].stream), ("issuer", false));
            let body = keys().to_string();
            config.answer(calls[0].id, answered.then_some((OK, body.as_bytes())), chunk);
            turn(&config, &streams.iter().collect::<Vec<_>>());
            let ends: Vec<_> =
                streams.iter().map(|s| if s.resumed() { 200 } else { s.sent().unwrap().status }).collect();
            assert_eq!(ends, if answered { [200, 401, 200] } else { [503, 503, 503] }, "{manners:?} {chunk}");
        }
    }
}

#[test]
fn streams_and_configurations_end_while_requests_wait() {
    let _alone = alone();
    for manners in BOTH {
        let config = remote();
        let leaving = get(&config, manners, &[("authorization", &token("alice"))]);
        let staying = get(&config, manners, &[("authorization", &token("alice"))]);
        assert!(!leaving.request_headers() && !staying.request_headers());
        let calls = turn(&config, &[&staying]);
        leaving.end();
        // What comes for a call that nobody made, or twice.
        config.answer(999, Some((OK, b"{}")), 1);
        config.answer(calls[0].id, Some((OK, keys().to_string().as_bytes())), 7);
        config.answer(calls[0].id, Some((OK, b"{}")), 1);
        // A response of the proxy itself to a request that waits.
        staying.response(&[(":status", "504")]);
        turn(&config, &[&staying]);
        assert!(staying.resumed());
        drop(staying);
        // A configuration beside one that has the keys gets them.
        let other = remote();
        assert!(get(&other, manners, &[("authorization", &token("alice"))]).request_headers());
        drop((config, other));
        // The configuration ends with a call under way, and with one that was not sent yet.
        let config = remote();
        let stream = get(&config, manners, &[("authorization", &token("alice"))]);
        assert!(!stream.request_headers());
        assert_eq!(turn(&config, &[]).len(), 1);
        drop(stream);
        drop(config);
        let config = remote();
        let stream = get(&config, manners, &[("authorization", &token("alice"))]);
        assert!(!stream.request_headers());
    }
}

#[test]
fn a_document_that_is_too_long_or_odd_is_refused() {
    let _alone = alone();
    let long = format!("{{\"keys\":[{}]}}", " ".repeat(2 << 20));
    for body in [long.as_bytes(), b"", b"{", b"\xff\xfe", br#"{"keys":[{"kty":"RSA","n":"AA","e":""}]}"#] {
        let config = remote();
        let stream = get(&config, Manners::Patient, &[("authorization", &token("alice"))]);
        assert!(!stream.request_headers());
        let calls = turn(&config, &[&stream]);
        config.answer(calls[0].id, Some((OK, body)), 1000);
        turn(&config, &[&stream]);
        assert_eq!(stream.sent().unwrap().status, 503);
    }
    let config =
        json!({ "pluginConfig": jwt_auth(json!({ "jwksUri": "http://issuer.test/a", "cluster": "none" })) });
    let config = Configuration::without_clusters("jwt-auth", &config).unwrap();
    let stream = get(&config, Manners::Patient, &[("authorization", &token("alice"))]);
    assert!(!stream.request_headers());
    turn(&config, &[&stream]);
    assert_eq!(stream.sent().unwrap().status, 503);
}

#[test]
fn workers_share_limits_and_hear_of_calls() {
    let _alone = alone();
    let rule = json!({ "limits": [{ "name": "shared", "rate": { "requests": 20, "per": "1h" } }] });
    let (limits, auth) = (configure("rate-limit", rule), remote());
    let admitted: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let good = token("alice");
                    (0..10)
                        .filter(|n| {
                            let waits = get(&auth, BOTH[n % 2], &[("authorization", &good)]);
                            assert!(!waits.request_headers());
                            let stream = get(&limits, BOTH[n % 2], &[]);
                            let goes_on = stream.request_headers();
                            assert!(goes_on || stream.sent().unwrap().status == 429);
                            goes_on
                        })
                        .count()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!(admitted, 20);
    // The threads are gone, and so are their mailboxes.
    let calls = turn(&auth, &[]);
    assert_eq!(calls.len(), 1, "{calls:?}");
    auth.answer(calls[0].id, Some((OK, keys().to_string().as_bytes())), 64);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                assert!(get(&auth, Manners::Patient, &[("authorization", &token("bob"))]).request_headers());
            });
        }
    });
    assert!(turn(&auth, &[]).is_empty());
}

/// The status of a request with a good token in a worker of its own, 0 if it waits; and how many calls it has made.
fn status_elsewhere(config: &Configuration) -> (u32, usize) {
    let token = token("bob");
    let status = std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let stream = get(config, Manners::Patient, &[("authorization", &token)]);
            if stream.request_headers() { 200 } else { stream.sent().map_or(0, |sent| sent.status) }
        });
        worker.join().unwrap()
    });
    (status, turn(config, &[]).len())
}

#[test]
fn a_failed_call_makes_all_workers_pause() {
    let _alone = alone();
    // The pause is one second, which a busy machine may miss.
    let paused = (0..10).any(|_| {
        let config = remote();
        let calls = turn(&config, &[]);
        assert_eq!(calls.len(), 1);
        let begin = Instant::now();
        config.answer(calls[0].id, None, 1);
        let (status, calls) = status_elsewhere(&config);
        assert_eq!(config.value("jwt_auth_jwks_fetch_failed"), 1, "counted once");
        begin.elapsed() < Duration::from_millis(900) && (status, calls) == (503, 0)
    });
    assert!(paused, "each worker asks for itself");
}

#[test]
fn metadata_and_keys_are_fetched_once_for_all_workers() {
    let _alone = alone();
    let config = configure("jwt-auth", jwt_auth(json!({})));
    let metadata = turn(&config, &[]);
    assert_eq!(metadata.len(), 1);
    let body =
        json!({ "issuer": "https://issuer.test/", "jwks_uri": "https://issuer.test/keys" }).to_string();
    config.answer(metadata[0].id, Some((OK, body.as_bytes())), 9);
    let calls = turn(&config, &[]);
    assert_eq!(calls.len(), 1);
    // The keys are on their way: a request waits for them.
    assert_eq!(status_elsewhere(&config), (0, 0));
    config.answer(calls[0].id, Some((OK, keys().to_string().as_bytes())), 9);
    assert_eq!(status_elsewhere(&config), (200, 0));
}

/// A message with the byte for no compression and its length in front.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], message].concat()
}

#[test]
fn a_service_answers_in_parts_late_or_never() {
    let _alone = alone();
    let global = json!({
        "limits": [{ "name": "total", "rate": { "requests": 5, "per": "1d" }, "global": {} }],
        "global": { "domain": "shop", "cluster": "ratelimit", "timeout": "5s" },
    });
    let (passes, over) = (framed(&[8, 1]), framed(&[8, 2]));
    let (head, end): (&[_], &[_]) = (&[(":status", "200")], &[("grpc-status", "0")]);
    let long = vec![0; 2 << 20];
    let ways: &[(&[Part<'_>], u32)] = &[
        (&[Part::Headers(head), Part::Data(&passes, 1), Part::Trailers(end), Part::Complete], 200),
        (&[Part::Headers(head), Part::Data(&over, 3), Part::Trailers(end), Part::Complete], 429),
        (&[Part::Headers(head), Part::Data(&passes, 9), Part::Reset], 503),
        (
            &[
                Part::Headers(&[(":status", "503"), ("grpc-status", "14"), ("grpc-message", "no")]),
                Part::Complete,
            ],
            503,
        ),
        (&[Part::Headers(head), Part::Data(&long, 5000), Part::Trailers(end), Part::Complete], 503),
        (&[Part::Headers(head), Part::Data(b"\x01\0\0\0\x02", 1), Part::Data(b"", 1), Part::Complete], 503),
        (&[Part::Complete, Part::Reset, Part::Headers(head), Part::Complete], 503),
        (&[Part::Reset], 503),
    ];
    for manners in BOTH {
        for (parts, expected) in ways {
            let mut strict = global.clone();
            strict["global"]["onFailure"] = json!("deny");
            let config = configure("rate-limit", strict);
            let (stays, leaves) = (get(&config, manners, &[]), get(&config, manners, &[]));
            assert!(!stays.request_headers() && !leaves.request_headers());
            let calls = turn(&config, &[&stays]);
            assert_eq!(calls.iter().filter(|call| call.stream && call.cluster == "ratelimit").count(), 2);
            leaves.end();
            for call in &calls {
                for part in *parts {
                    config.answer_part(call.id, *part);
                }
            }
            turn(&config, &[&stays]);
            let status = if stays.resumed() { 200 } else { stays.sent().unwrap().status };
            assert_eq!(status, *expected, "{manners:?} {parts:?}");
        }
        // The call ends within the call that begins it, before its number is known.
        let mut strict = global.clone();
        strict["global"]["onFailure"] = json!("deny");
        let config = configure("rate-limit", strict);
        config.answer_at_once();
        let stream = get(&config, manners, &[]);
        assert!(!stream.request_headers());
        turn(&config, &[&stream]);
        assert_eq!(stream.sent().unwrap().status, 503);
    }
}

#[test]
fn all_filters_change_a_request_and_its_response() {
    let _alone = alone();
    let config = configure(
        "mesh-filters",
        json!({
            "jwtAuth": jwt_auth(json!({ "jwks": keys() })),
            "rateLimit": { "limits": [{ "name": "user", "key": [{ "claim": "sub" }], "rate": { "requests": 3, "per": "1h" } }] },
            "traceTags": { "tags": [{ "name": "path", "from": [{ "path": {}, "trust": true }] }], "requestId": {}, "baggage": { "keep": ["m"], "send": ["path"] } },
        }),
    );
    for manners in BOTH {
        let user = format!("{manners:?}");
        let good = token(&user);
        let mut ends = Vec::new();
        for n in 0..5 {
            let path_of_cel = n == 4;
            let mut headers = vec![("authorization", good.as_str()), ("baggage", "m=1,x=2"), ("x-a", "a")];
            headers.extend([("cookie", "a=1"), ("cookie", "b=2")]);
            let stream = get(&config, manners, &headers);
            let goes_on = stream.request_headers();
            if goes_on {
                stream.request_rest();
                stream.response(&[(":status", "200")]);
            }
            ends.push(if goes_on { 200 } else { stream.sent().unwrap().status });
            assert!(!path_of_cel || !goes_on);
        }
        assert_eq!(ends, [200, 200, 200, 429, 429]);
    }
}

#[test]
fn expressions_ask_the_stream_of_their_request() {
    let _alone = alone();
    let config = configure("jwt-auth", jwt_auth(json!({ "jwks": keys() })));
    for (user, x_a, expected) in [("bob", "a", 200), ("bob", "b", 403), ("alice", "a", 403)] {
        let headers =
            [(":method", "GET"), (":path", "/cel"), ("x-a", x_a)].map(|(n, v)| (n.into(), v.into()));
        let mut headers = headers.to_vec();
        headers.push(("authorization".into(), token(user).into_bytes()));
        let stream = config.open(Manners::Patient, headers, &[]);
        let status = if stream.request_headers() { 200 } else { stream.sent().unwrap().status };
        assert_eq!(status, expected, "{user} {x_a}");
    }
}

#[test]
fn a_panic_anywhere_denies_the_request() {
    let _alone = alone();
    for manners in BOTH {
        let config = configure("panicking", json!({}));
        for place in ["request", "response", "end", "keeps", ""] {
            let stream = get(&config, manners, &[("x-panic", place)]);
            let goes_on = stream.request_headers();
            assert_eq!(goes_on, !matches!(place, "request" | "keeps"), "{place}");
            if goes_on {
                stream.response(&[(":status", "200")]);
            } else {
                assert_eq!(stream.sent().unwrap().details, "panicking_panicked");
            }
        }
        for place in ["call", "again"] {
            let config = configure("panicking", json!({}));
            let stream = get(&config, manners, &[("x-panic", place)]);
            assert!(!stream.request_headers());
            let calls = turn(&config, &[]);
            config.answer(calls[0].id, Some((OK, b"")), 1);
            turn(&config, &[&stream]);
            assert_eq!(stream.sent().unwrap().status, 500, "{place}");
        }
    }
    let refused = Configuration::new("panicking", &json!({ "pluginConfig": { "configure": "panic" } }));
    let log = refused.err().unwrap().join("\n");
    assert!(log.contains("panic at") && !log.contains("a secret"), "{log}");
}

#[test]
fn a_configuration_is_refused_with_its_place_and_no_control_characters() {
    let _alone = alone();
    let refused = |filter: &str, config: &Value| Configuration::new(filter, config).err().unwrap().join("\n");
    let log = refused("rate\0\x1b[1m\nlimit", &json!({}));
    assert!(log.contains(r"no filter `rate\0\u{1b}[1m\nlimit`"), "{log:?}");
    let limit = |n: usize| json!({ "name": format!("large{n}"), "key": [{ "header": "x" }], "rate": { "requests": 1, "per": "1s" }, "maxKeys": 1_048_576 });
    let limits: Vec<_> = (0..7).map(limit).collect();
    for _ in 0..2 {
        let log = refused("rate-limit", &json!({ "pluginConfig": { "limits": limits } }));
        let place = "configuration refused: limits[6].maxKeys: the state of all limits of the proxy would take more than 256 MiB";
        assert!(log.contains(place), "{log}");
    }
}

#[test]
fn a_proxy_that_lacks_a_function_is_told_so_in_its_log() {
    let _alone = alone();
    assert!(!fake_envoy::loads_without(FILTERS, "_http_filter_scheduler_new"));
    let log = fake_envoy::take_log();
    let expected = "(Envoy 1.39): envoy_dynamic_module_callback_http_filter_scheduler_new";
    assert!(log.len() == 1 && log[0].ends_with(expected), "{log:?}");
}
