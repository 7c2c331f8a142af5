//! From a request to a decision, without a proxy.
#![allow(clippy::restriction)]

mod common;

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use common::{ISSUER, NOW, claims, jwks, mint, mint_raw, mint_with};
use jwt_auth::config::Config;
use jwt_auth::decision::{Authenticator, Decision, Granted, Observed, Outcome, Waited, Why};
use jwt_auth::fetch::documents::Document;
use jwt_auth::fetch::revocation::Revoked;
use jwt_auth::fetch::schedule::Fetching;
use jwt_auth::keys::jwk::KeySet;
use jwt_auth::keys::key::Key;
use jwt_auth::keys::pure_rust;
use jwt_auth::keys::signature::{Verdict, Verifier};
use jwt_auth::reply::DenyReason;
use jwt_auth::token::compact::UntrustedToken;
use plugin_kit::host::Variable;
use plugin_kit::host::{HostError, RequestHost};
use plugin_kit::request::exchange::Exchange;
use plugin_kit::request::headers::HeaderMap;
use plugin_kit::testing::{AnyCel, FakeHost};
use serde_json::{Value, json};

struct PureRust;

impl Verifier for PureRust {
    fn verify(&self, key: &Key, token: &UntrustedToken<'_>) -> Verdict {
        if pure_rust::verify(key, token) { Verdict::Valid } else { Verdict::Invalid }
    }
}

/// Must not be asked.
struct NoVerifier;

impl Verifier for NoVerifier {
    fn verify(&self, _: &Key, _: &UntrustedToken<'_>) -> Verdict {
        panic!("a signature was checked")
    }
}

fn authenticator(config: &Value) -> Authenticator {
    Authenticator::new(parse(config).unwrap(), Box::new(PureRust), 7)
}

/// With two secrets in the environment.
fn parse(config: &Value) -> Result<Config, String> {
    let env = |name: &str| match name {
        "LONG" => Some(SECRET.to_owned()),
        "SHORT" => Some(SECRET[..31].to_owned()),
        "EXAMPLE" => Some("change-me-to-32-random-characters".to_owned()),
        _ => None,
    };
    Config::parse(config.to_string().as_bytes(), &env).map_err(|errors| errors.to_string())
}

const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef";

fn inline(names: &[&str]) -> Value {
    json!({ "providers": { "platform": { "issuer": ISSUER, "jwks": jwks(names) } } })
}

fn remote() -> Value {
    json!({ "providers": { "platform": {
        "issuer": ISSUER,
        "jwksUri": "http://issuer.test:8080/jwks.json",
        "jwksCache": { "refetchUnknownKid": { "minInterval": "30s" } },
    }}})
}

fn request(token: &str) -> FakeHost {
    FakeHost::request("GET", "/api").header("authorization", &format!("Bearer {token}")).at(NOW)
}

thread_local! {
    /// What the decisions of one test observed, in all.
    static OBSERVED: Cell<Observed> = const { Cell::new(Observed {
        cache_hits: 0, cache_misses: 0, conditions_failed: 0, next_fetch: None,
    }) };
}

/// Hits and misses of the token cache since the last call.
fn take_cache_counts() -> (u32, u32) {
    let observed = OBSERVED.get();
    OBSERVED.set(Observed { cache_hits: 0, cache_misses: 0, ..observed });
    (observed.cache_hits, observed.cache_misses)
}

/// How many conditions had no value since the last call.
fn take_conditions_failed() -> u32 {
    let observed = OBSERVED.get();
    OBSERVED.set(Observed { conditions_failed: 0, ..observed });
    observed.conditions_failed
}

/// What is decided, in a word: `alice` for a token of hers, `anyone`, `preflight`, a deny code, `fetch` or
/// `wait`, or `unread`.
fn decide(authenticator: &Authenticator, facts: &FakeHost) -> String {
    decide_after(authenticator, facts, 0)
}

fn decide_after(authenticator: &Authenticator, facts: &FakeHost, waits: u8) -> String {
    let (decision, _) = decided(authenticator, facts, &mut Waited::after(waits));
    decision.map_or_else(|_| "unread".to_owned(), |decision| word(&decision))
}

/// What is decided, and the headers that the request lost before that.
fn decided<'a>(
    authenticator: &'a Authenticator,
    facts: &dyn RequestHost,
    waited: &mut Waited,
) -> (Result<Decision<'a>, HostError>, Vec<String>) {
    let removed = RefCell::new(Vec::new());
    let remove = |name: &str| {
        removed.borrow_mut().push(name.to_owned());
        Ok(())
    };
    let decision = authenticator.decide(&Exchange::new(1, facts), waited, &remove);
    if let Ok(Decision { observed, .. }) = &decision {
        let so_far = OBSERVED.get();
        OBSERVED.set(Observed {
            cache_hits: so_far.cache_hits + observed.cache_hits,
            cache_misses: so_far.cache_misses + observed.cache_misses,
            conditions_failed: so_far.conditions_failed + observed.conditions_failed,
            next_fetch: observed.next_fetch,
        });
    }
    (decision, removed.into_inner())
}

fn word(decision: &Decision<'_>) -> String {
    match &decision.outcome {
        Outcome::Allow(pass) => match pass.why {
            Why::Anyone => "anyone".to_owned(),
            Why::Preflight => "preflight".to_owned(),
            Why::Token => {
                let identity = pass.identity.as_ref().unwrap().verified().unwrap();
                identity.claims["sub"].as_str().unwrap().to_owned()
            }
        },
        Outcome::Deny(denial) => denial.reason.presentation().code.to_owned(),
        Outcome::Wait { fetch: true, .. } => "fetch".to_owned(),
        Outcome::Wait { fetch: false, .. } => "wait".to_owned(),
    }
}

fn at(mut facts: FakeHost, monotonic: u64) -> FakeHost {
    facts.monotonic_time = Duration::from_secs(monotonic);
    facts
}

#[test]
fn token_by_each_kind_of_key_is_accepted() {
    let mut config = inline(&["rsa-1", "ec-1", "ed-1"]);
    config["providers"]["platform"]["algorithms"] = json!(["RS256", "ES256", "EdDSA"]);
    let authenticator = authenticator(&config);
    for key in ["rsa-1", "ec-1", "ed-1"] {
        assert_eq!(decide(&authenticator, &request(&mint(key, &claims()))), "alice", "{key}");
    }
}

#[test]
fn eddsa_not_named_is_refused() {
    let token = mint("ed-1", &claims());
    assert_eq!(decide(&authenticator(&inline(&["ed-1"])), &request(&token)), "algorithm_not_allowed");
}

#[test]
fn cached_token_is_not_verified_again() {
    let authenticator = authenticator(&inline(&["rsa-1"]));
    let token = mint("rsa-1", &claims());
    assert_eq!(decide(&authenticator, &request(&token)), "alice");
    assert_eq!(take_cache_counts(), (0, 1));
    assert_eq!(decide(&authenticator, &request(&token)), "alice");
    assert_eq!(take_cache_counts(), (1, 0));
}

#[test]
fn token_with_signature_of_cached_one_is_refused() {
    let authenticator = authenticator(&inline(&["rsa-1"]));
    let token = mint("rsa-1", &claims());
    decide(&authenticator, &request(&token));
    let mallory = mint("rsa-1", &json!({ "iss": ISSUER, "sub": "mallory", "exp": NOW + 300 }));
    let forged = format!("{}.{}", mallory.rsplit_once('.').unwrap().0, token.rsplit_once('.').unwrap().1);
    assert_eq!(decide(&authenticator, &request(&forged)), "signature_invalid");
}

#[test]
fn cached_token_after_expiration_is_refused() {
    let authenticator = authenticator(&inline(&["rsa-1"]));
    let token = mint("rsa-1", &claims());
    assert_eq!(decide(&authenticator, &request(&token)), "alice");
    // 300 s of life and 60 s of clock skew.
    assert_eq!(decide(&authenticator, &request(&token).at(NOW + 359)), "alice");
    assert_eq!(decide(&authenticator, &request(&token).at(NOW + 360)), "token_expired");
}

#[test]
fn missing_or_malformed_token_checks_no_signature() {
    let authenticator = Authenticator::new(parse(&inline(&["rsa-1"])).unwrap(), Box::new(NoVerifier), 7);
    // Without an authorization header everything is looked at; with an unknown token too.
    let facts = FakeHost::request("GET", "/api").at(NOW);
    assert_eq!(decide(&authenticator, &facts), "token_missing");
    assert_eq!(decide(&authenticator, &request("a.b.c")), "token_malformed");
}

#[test]
fn unreadable_request_is_refused() {
    let failure = HostError { call: "get_header_map_pairs", status: 10 };
    let token = mint("rsa-1", &claims());
    let facts = FakeHost { failure: Some(failure), ..request(&token) };
    assert_eq!(decide(&authenticator(&inline(&["rsa-1"])), &facts), "unread");
    let public = json!({
        "providers": inline(&["rsa-1"])["providers"],
        "rules": [{ "match": { "paths": ["/*"] }, "allow": "anyone" }],
    });
    assert_eq!(decide(&authenticator(&public), &facts), "unread");
    assert_eq!(decide(&authenticator(&public), &FakeHost::default().at(NOW)), "unread");
}

#[test]
fn alg_of_another_key_is_refused() {
    let authenticator = authenticator(&inline(&["rsa-1", "ec-1"]));
    for alg in ["none", "None", "HS256", "PS256", "RS384", "ES256", "ES384", "", "rs256", "RS256 "] {
        let token = mint_with("rsa-1", &json!({ "alg": alg, "kid": "rsa-1" }), &claims());
        let code = decide(&authenticator, &request(&token));
        assert!(["token_malformed", "algorithm_not_allowed"].contains(&code.as_str()), "{alg}: {code}");
    }
}

#[test]
fn duplicate_json_name_is_refused() {
    let authenticator = authenticator(&inline(&["rsa-1"]));
    let (header, payload) = (r#"{"alg":"RS256","kid":"rsa-1"}"#, claims().to_string());
    assert_eq!(decide(&authenticator, &request(&mint_raw("rsa-1", header, &payload))), "alice");
    for (header, payload) in [
        (r#"{"alg":"none","alg":"RS256","kid":"rsa-1"}"#, payload.clone()),
        (header, payload.replacen('{', r#"{"sub":"mallory","#, 1)),
        (header, payload.replacen('{', r#"{"x":{"a":1,"a":2},"#, 1)),
        (
            header,
            format!(
                "{}{}{}",
                payload.replacen('}', "", 1),
                r#","x":"#,
                "[".repeat(40) + &"]".repeat(40) + "}"
            ),
        ),
        (header, format!("[{payload}]")),
        (header, format!("\u{feff}{payload}")),
    ] {
        assert_eq!(decide(&authenticator, &request(&mint_raw("rsa-1", header, &payload))), "token_malformed");
    }
}

#[test]
fn preflight_with_token_is_checked() {
    let authenticator = authenticator(&inline(&["rsa-1"]));
    let preflight = FakeHost::request("OPTIONS", "/api")
        .header("origin", "https://app.test")
        .header("access-control-request-method", "PUT")
        .at(NOW);
    assert_eq!(decide(&authenticator, &preflight), "preflight");
    let with_bad_token = preflight.clone().header("authorization", "Bearer x");
    assert_eq!(decide(&authenticator, &with_bad_token), "token_malformed");
    let plain = FakeHost::request("OPTIONS", "/api").header("origin", "https://app.test").at(NOW);
    assert_eq!(decide(&authenticator, &plain), "token_missing");
}

#[test]
fn two_tokens_are_refused_or_must_both_be_good() {
    let mut config = inline(&["rsa-1"]);
    config["providers"]["platform"]["from"] = json!([{ "header": "authorization" }, { "cookie": "session" }]);
    let with = |bearer: &str, cookie: &str| {
        request(bearer).header("cookie", &format!("theme=dark; session={cookie}; lang=en"))
    };
    let (alice, bob) = (token_of("alice"), token_of("bob"));
    assert_eq!(decide(&authenticator(&config), &with(&alice, &bob)), "several_tokens");
    config["severalTokens"] = json!("verifyAll");
    let both = authenticator(&config);
    assert_eq!(decide(&both, &with(&alice, &bob)), "several_tokens");
    let later = mint("rsa-1", &json!({ "iss": ISSUER, "sub": "alice", "exp": NOW + 600 }));
    assert_eq!(decide(&both, &with(&alice, &later)), "alice");
    assert_eq!(decide(&both, &with(&alice, "x")), "token_malformed");
    assert_eq!(decide(&both, &with("x", &bob)), "token_malformed");
}

#[test]
fn inline_keys_without_kid_deny_key_unknown() {
    assert_eq!(
        decide(&authenticator(&inline(&["ec-1"])), &request(&mint("rsa-1", &claims()))),
        "key_unknown"
    );
}

#[test]
fn missing_keys_are_fetched_once_and_waited_for() {
    let authenticator = authenticator(&remote());
    let token = mint("rsa-1", &claims());
    assert_eq!(decide(&authenticator, &at(request(&token), 100)), "fetch");
    let cache = authenticator.remote(0).unwrap();
    cache.borrow_mut().started(Duration::from_secs(100));
    assert_eq!(decide(&authenticator, &at(request(&token), 101)), "wait");
    let set = KeySet::parse(jwks(&["rsa-1"]).to_string().as_bytes()).unwrap();
    cache.borrow_mut().succeeded(Duration::from_secs(102), set, None);
    assert_eq!(decide_after(&authenticator, &at(request(&token), 102), 1), "alice");
}

#[test]
fn unknown_kid_is_fetched_once_an_interval() {
    let authenticator = authenticator(&remote());
    let cache = authenticator.remote(0).unwrap();
    let bring = |keys: &[&str], now: u64| {
        let set = KeySet::parse(jwks(keys).to_string().as_bytes()).unwrap();
        cache.borrow_mut().started(Duration::from_secs(now));
        cache.borrow_mut().succeeded(Duration::from_secs(now), set, None);
    };
    bring(&["rsa-1"], 100);
    let rotated = mint("rsa-2", &claims());
    assert_eq!(decide(&authenticator, &at(request(&rotated), 129)), "key_unknown");
    assert_eq!(decide(&authenticator, &at(request(&rotated), 130)), "fetch");
    bring(&["rsa-1", "rsa-2"], 130);
    assert_eq!(decide(&authenticator, &at(request(&rotated), 131)), "alice");
}

#[test]
fn removed_key_evicts_its_cached_tokens_only() {
    let authenticator = authenticator(&remote());
    let cache = authenticator.remote(0).unwrap();
    let bring = |keys: &[&str], now: u64| {
        let set = KeySet::parse(jwks(keys).to_string().as_bytes()).unwrap();
        cache.borrow_mut().succeeded(Duration::from_secs(now), set, None);
    };
    let (old, new) = (mint("rsa-1", &claims()), mint("rsa-2", &claims()));
    bring(&["rsa-1", "rsa-2"], 100);
    for token in [&old, &new] {
        assert_eq!(decide(&authenticator, &at(request(token), 101)), "alice");
    }
    take_cache_counts();
    bring(&["rsa-2"], 102);
    assert_eq!(decide(&authenticator, &at(request(&old), 103)), "key_unknown");
    assert_eq!(decide(&authenticator, &at(request(&new), 103)), "alice");
    assert_eq!(take_cache_counts(), (1, 1));
}

#[test]
fn request_waits_at_most_twice() {
    let authenticator = authenticator(&remote());
    authenticator.remote(0).unwrap().borrow_mut().started(Duration::from_secs(100));
    let facts = at(request(&mint("rsa-1", &claims())), 100);
    assert_eq!(decide_after(&authenticator, &facts, 1), "wait");
    assert_eq!(decide_after(&authenticator, &facts, 2), "keys_unavailable");
}

#[test]
fn failed_fetch_is_retried_later() {
    let authenticator = authenticator(&remote());
    let facts = request(&mint("rsa-1", &claims()));
    let cache = authenticator.remote(0).unwrap();
    cache.borrow_mut().started(Duration::from_secs(100));
    cache.borrow_mut().failed(Duration::from_secs(100));
    assert_eq!(decide(&authenticator, &at(facts.clone(), 100)), "keys_unavailable");
    assert_eq!(decide(&authenticator, &at(facts, 101)), "fetch");
}

#[test]
fn providers_of_one_issuer_keep_their_own_rules() {
    let config = json!({
        "providers": {
            "browser": { "issuer": ISSUER, "jwks": jwks(&["rsa-1"]), "audiences": ["web"] },
            "device": { "issuer": ISSUER, "jwks": jwks(&["rsa-1"]), "audiences": ["tv"] },
            "any": { "issuer": "https://*.example/", "jwks": jwks(&["rsa-2"]) },
        },
        "rules": [{ "match": { "paths": ["/tv/*"] }, "require": { "provider": "device" } }],
    });
    let authenticator = authenticator(&config);
    let token =
        |aud: &str| mint("rsa-1", &json!({ "iss": ISSUER, "sub": aud, "aud": aud, "exp": NOW + 300 }));
    assert_eq!(decide(&authenticator, &request(&token("web"))), "web");
    assert_eq!(decide(&authenticator, &request(&token("tv"))), "tv");
    assert_eq!(decide(&authenticator, &request(&token("car"))), "audience_mismatch");
    let tv = |token: &str| {
        FakeHost::request("GET", "/tv/1").header("authorization", &format!("Bearer {token}")).at(NOW)
    };
    assert_eq!(decide(&authenticator, &tv(&token("tv"))), "tv");
    assert_eq!(decide(&authenticator, &tv(&token("web"))), "provider_forbidden");
    let tenant = |iss: &str| mint("rsa-2", &json!({ "iss": iss, "sub": "tenant", "exp": NOW + 300 }));
    assert_eq!(decide(&authenticator, &request(&tenant("https://a.example/"))), "tenant");
    assert_eq!(decide(&authenticator, &request(&tenant("https://a.example/b.example/"))), "issuer_unknown");
    assert_eq!(decide(&authenticator, &request(&tenant("https://.example.evil/"))), "issuer_unknown");
}

#[test]
fn claims_that_miss_a_demand_are_refused() {
    let mut config = inline(&["rsa-1"]);
    config["providers"]["platform"].as_object_mut().unwrap().extend(
        json!({
            "subjects": ["alice", "service-*"],
            "authorizedParties": ["app"],
            "requiredClaims": ["tenant.id"],
            "maxLifetime": "10m",
            "clockSkew": "0s",
            "typ": ["at+jwt"],
        })
        .as_object()
        .unwrap()
        .clone(),
    );
    let authenticator = authenticator(&config);
    let good = json!({ "iss": ISSUER, "sub": "alice", "azp": "app", "tenant": { "id": 7 }, "iat": NOW, "exp": NOW + 600 });
    let try_with = |typ: &str, changes: Value| {
        let mut claims = good.clone();
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
                value => claims[name] = value.clone(),
            }
        }
        let header = json!({ "alg": "RS256", "kid": "rsa-1", "typ": typ });
        decide(&authenticator, &request(&mint_with("rsa-1", &header, &claims)))
    };
    assert_eq!(try_with("at+jwt", json!({})), "alice");
    assert_eq!(try_with("AT+JWT", json!({ "sub": "service-7" })), "service-7");
    assert_eq!(try_with("at+jwt", json!({ "azp": null, "client_id": "app" })), "alice");
    assert_eq!(try_with("JWT", json!({})), "claims_invalid");
    let untyped = mint_with("rsa-1", &json!({ "alg": "RS256", "kid": "rsa-1" }), &good);
    assert_eq!(decide(&authenticator, &request(&untyped)), "claims_invalid");
    for wrong in [
        json!({ "sub": "mallory" }),
        json!({ "sub": "service-/x" }),
        json!({ "sub": null }),
        json!({ "azp": "other" }),
        json!({ "azp": null }),
        json!({ "azp": 7, "client_id": "app" }),
        json!({ "tenant": { "id": null } }),
        json!({ "tenant": null }),
        json!({ "exp": NOW + 601 }),
        json!({ "iat": null }),
    ] {
        assert_eq!(try_with("at+jwt", wrong.clone()), "claims_invalid", "{wrong}");
    }
    assert_eq!(try_with("at+jwt", json!({ "exp": NOW })), "token_expired");
    assert_eq!(try_with("at+jwt", json!({ "exp": 1_800_000_000.9 })), "token_expired");
    assert_eq!(try_with("at+jwt", json!({ "nbf": 1_800_000_000.1 })), "token_not_yet_valid");
}

#[test]
fn registered_claim_of_wrong_type_is_refused() {
    let authenticator = authenticator(&inline(&["rsa-1"]));
    for (name, value) in [
        ("exp", json!("99999999999")),
        ("exp", json!("soon")),
        ("exp", json!(null)),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("exp", json!(9_007_199_254_740_992_u64)),
        ("exp", json!(u64::MAX)),
        ("nbf", json!("0")),
        ("nbf", json!(null)),
        ("iat", json!(true)),
        ("sub", json!(7)),
        ("sub", json!(null)),
        ("sub", json!(["alice"])),
        ("aud", json!(null)),
        ("aud", json!([7])),
        ("aud", json!({ "api": true })),
        ("jti", json!(7)),
        ("nonce", json!(7)),
    ] {
        let mut claims = claims();
        claims[name] = value;
        assert_eq!(decide(&authenticator, &request(&mint("rsa-1", &claims))), "claims_invalid", "{claims}");
    }
}

fn with_secret(algorithms: &Value, env: &str) -> Value {
    json!({ "providers": { "platform": {
        "issuer": ISSUER, "algorithms": algorithms, "secrets": [{ "env": env, "kid": "s" }],
    }}})
}

#[test]
fn secret_verifies_named_algorithms_only() {
    let authenticator = authenticator(&with_secret(&json!(["HS256"]), "LONG"));
    let mac = |algorithm: &str, secret: &[u8]| {
        let header = json!({ "alg": algorithm, "kid": "s" });
        common::mint_mac(algorithm, secret, &header, &claims())
    };
    assert_eq!(decide(&authenticator, &request(&mac("HS256", SECRET.as_bytes()))), "alice");
    assert_eq!(decide(&authenticator, &request(&mac("HS256", b""))), "signature_invalid");
    assert_eq!(decide(&authenticator, &request(&mac("HS256", &SECRET.as_bytes()[1..]))), "signature_invalid");
    assert_eq!(decide(&authenticator, &request(&mac("HS384", SECRET.as_bytes()))), "algorithm_not_allowed");
    assert_eq!(decide(&authenticator, &request(&mint("rsa-1", &claims()))), "algorithm_not_allowed");
}

#[test]
fn short_secret_is_refused_and_not_shown() {
    for (algorithms, env, expected) in [
        (json!(["HS256"]), "SHORT", "`SHORT` has 31 bytes; expected at least 32 for HS256"),
        (json!(["HS256", "HS512"]), "LONG", "`LONG` has 48 bytes; expected at least 64 for HS512"),
        (json!(["HS256"]), "OTHER", "secrets[0]: vmConfig.env has no variable of this name"),
        (json!(["HS256"]), &SECRET[..40], "secrets[0]: vmConfig.env has no variable of this name"),
        (json!(["HS256"]), "EXAMPLE", "secrets[0]: the variable `EXAMPLE` holds a placeholder"),
        (json!(["RS256"]), "LONG", "`RS256` does not fit"),
        (json!(null), "LONG", "algorithms: expected a list, found null"),
    ] {
        let error = parse(&with_secret(&algorithms, env)).unwrap_err();
        assert!(error.contains(expected) && !error.contains(&SECRET[..8]), "{error}");
    }
    let mut unsaid = with_secret(&json!(["HS256"]), "LONG");
    unsaid["providers"]["platform"].as_object_mut().unwrap().remove("algorithms");
    assert!(parse(&unsaid).unwrap_err().contains("expected `algorithms` with `HS256`"));
    let mut public = inline(&["rsa-1"]);
    public["providers"]["platform"]["algorithms"] = json!(["RS256", "HS256"]);
    assert!(parse(&public).unwrap_err().contains("algorithms[1]: `HS256` does not fit"));
}

#[test]
fn revoked_token_is_refused() {
    let mut config = inline(&["rsa-1", "ec-1"]);
    config["providers"]["platform"]["revoked"] = json!({ "jti": ["1"], "sub": ["mallory"], "kid": ["ec-1"] });
    let authenticator = authenticator(&config);
    let with = |name: &str, value: &str| {
        let mut claims = claims();
        claims[name] = json!(value);
        request(&mint("rsa-1", &claims))
    };
    assert_eq!(decide(&authenticator, &with("jti", "2")), "alice");
    assert_eq!(decide(&authenticator, &with("jti", "1")), "token_revoked");
    assert_eq!(decide(&authenticator, &with("sub", "mallory")), "token_revoked");
    assert_eq!(decide(&authenticator, &request(&mint("ec-1", &claims()))), "token_revoked");
}

#[test]
fn oversize_token_is_refused_undecoded() {
    let claims = json!({ "iss": ISSUER, "sub": "alice", "exp": NOW + 300, "x": "y".repeat(20_000) });
    assert_eq!(
        decide(&authenticator(&inline(&["rsa-1"])), &request(&mint("rsa-1", &claims))),
        "token_malformed"
    );
}

/// Counts how often a signature is checked.
struct Counting(std::rc::Rc<std::cell::Cell<u32>>);

impl Verifier for Counting {
    fn verify(&self, key: &Key, token: &UntrustedToken<'_>) -> Verdict {
        self.0.set(self.0.get() + 1);
        PureRust.verify(key, token)
    }
}

#[test]
fn bad_signature_is_checked_once_per_key_set() {
    let count = std::rc::Rc::new(std::cell::Cell::new(0));
    let authenticator = Authenticator::new(parse(&remote()).unwrap(), Box::new(Counting(count.clone())), 7);
    let bring = |keys: &[&str], now: u64| {
        let set = KeySet::parse(jwks(keys).to_string().as_bytes()).unwrap();
        authenticator.remote(0).unwrap().borrow_mut().succeeded(Duration::from_secs(now), set, None);
    };
    let renamed = |key: &str| mint_with(key, &json!({ "alg": "RS256", "kid": "rsa-1" }), &claims());
    let forged = renamed("rsa-2");
    bring(&["rsa-1"], 100);
    for _ in 0..3 {
        assert_eq!(decide(&authenticator, &at(request(&forged), 101)), "signature_invalid");
    }
    assert_eq!(count.get(), 1);
    bring(&["rsa-1"], 102);
    assert_eq!(decide(&authenticator, &at(request(&forged), 103)), "signature_invalid");
    assert_eq!(count.get(), 2);
    // The token of another is not that token.
    assert_eq!(decide(&authenticator, &at(request(&renamed("rsa-1")), 103)), "alice");
}

#[test]
fn denial_that_time_can_change_is_not_cached() {
    let authenticator = authenticator(&inline(&["rsa-1"]));
    let later = mint("rsa-1", &json!({ "iss": ISSUER, "sub": "alice", "nbf": NOW + 100, "exp": NOW + 300 }));
    assert_eq!(decide(&authenticator, &request(&later)), "token_not_yet_valid");
    assert_eq!(decide(&authenticator, &request(&later).at(NOW + 100)), "alice");
}

#[test]
fn bad_signature_of_one_of_two_providers_is_not_cached() {
    let config = json!({ "providers": {
        "a": { "issuer": ISSUER, "jwks": jwks(&["rsa-1"]) },
        "b": { "issuer": ISSUER, "jwksUri": "http://issuer.test/" },
    }});
    let authenticator = authenticator(&config);
    let facts = at(request(&mint_with("rsa-2", &json!({ "alg": "RS256", "kid": "rsa-1" }), &claims())), 100);
    assert_eq!(decide(&authenticator, &facts), "fetch");
    let mut set = jwks(&["rsa-2"]);
    set["keys"][0]["kid"] = json!("rsa-1");
    let set = KeySet::parse(set.to_string().as_bytes()).unwrap();
    authenticator.remote(1).unwrap().borrow_mut().succeeded(Duration::from_secs(100), set, None);
    assert_eq!(decide(&authenticator, &facts), "alice");
}

fn with_list(on_failure: &str) -> Authenticator {
    let mut config = inline(&["rsa-1"]);
    config["providers"]["platform"]["revoked"] =
        json!({ "uri": "http://issuer.test/revoked.json", "staleIfError": "1m", "onFailure": on_failure });
    authenticator(&config)
}

#[test]
fn missing_list_is_fetched_once_and_waited_for() {
    let authenticator = with_list("deny");
    let list = Document::Revoked(0);
    assert_eq!(authenticator.documents().collect::<Vec<_>>(), [list]);
    let facts = |now| at(request(&mint("rsa-1", &claims())), now);
    assert_eq!(decide(&authenticator, &facts(100)), "fetch");
    authenticator.fetching(list).unwrap().1.started(Duration::from_secs(100));
    assert_eq!(decide(&authenticator, &facts(100)), "wait");
    assert_eq!(decide_after(&authenticator, &facts(100), 2), "revocation_unavailable");
    authenticator.revoke(0, Duration::from_secs(101), Revoked::default(), None);
    assert_eq!(decide(&authenticator, &facts(101)), "alice");
    let list = Revoked::parse(br#"{"sub":["alice"]}"#).unwrap();
    authenticator.revoke(0, Duration::from_secs(102), list, None);
    assert_eq!(decide(&authenticator, &facts(102)), "token_revoked");
}

#[test]
fn outdated_list_follows_on_failure() {
    for (on_failure, expected) in [("deny", "revocation_unavailable"), ("allow", "alice")] {
        let authenticator = with_list(on_failure);
        let list = Document::Revoked(0);
        let facts = |now| at(request(&mint("rsa-1", &claims())), now);
        authenticator.revoke(0, Duration::from_secs(100), Revoked::default(), None);
        assert_eq!(decide(&authenticator, &facts(101)), "alice");
        // A minute until it is to be fetched again, and one more.
        assert!(authenticator.tick(list, Duration::from_secs(160)));
        authenticator.fetching(list).unwrap().1.failed(Duration::from_secs(219));
        assert_eq!(decide(&authenticator, &facts(219)), "alice");
        authenticator.tick(list, Duration::from_secs(220));
        authenticator.fetching(list).unwrap().1.failed(Duration::from_secs(220));
        assert_eq!(decide(&authenticator, &facts(220)), expected, "{on_failure}");
        // For a token that was not seen before, likewise.
        let bobs = if expected == "alice" { "bob" } else { expected };
        assert_eq!(decide(&authenticator, &at(request(&token_of("bob")), 220)), bobs, "{on_failure}");
    }
}

#[test]
fn one_of_several_audiences_is_accepted() {
    let mut config = inline(&["rsa-1"]);
    config["providers"]["platform"]["audiences"] = json!(["api", "web"]);
    let authenticator = authenticator(&config);
    let decide_for = |aud: Value| {
        let claims = json!({ "iss": ISSUER, "sub": "alice", "aud": aud, "exp": NOW + 300 });
        decide(&authenticator, &request(&mint("rsa-1", &claims)))
    };
    assert_eq!(decide_for(json!(["x", "web"])), "alice");
    assert_eq!(decide_for(json!("api")), "alice");
    assert_eq!(decide_for(json!(["x"])), "audience_mismatch");
    assert_eq!(decide_for(json!([])), "audience_mismatch");
    assert_eq!(decide_for(json!(["api", 7])), "claims_invalid");
}

/// `sub` is alice, if there is any claim; without claims true, and of mallory no value.
fn is_alice(_: u32, claims: &[u8]) -> Option<Vec<u8>> {
    let has = |name: &[u8]| claims.windows(name.len()).any(|window| window == name);
    if has(b"mallory") { None } else { Some(vec![u8::from(claims.is_empty() || has(b"alice"))]) }
}

fn with_condition(keys: &Value, rule: &Value) -> Authenticator {
    let config = json!({ "providers": keys["providers"], "rules": [rule] });
    let config = Config::parse(config.to_string().as_bytes(), &AnyCel::default()).unwrap();
    Authenticator::new(config, Box::new(PureRust), 7)
}

fn evaluated(mut facts: FakeHost) -> FakeHost {
    facts.evaluate = Some(is_alice);
    facts
}

fn token_of(subject: &str) -> String {
    mint("rsa-1", &json!({ "iss": ISSUER, "sub": subject, "exp": NOW + 300 }))
}

#[test]
fn condition_that_does_not_hold_denies() {
    let authenticator = with_condition(&inline(&["rsa-1"]), &json!({ "require": {}, "when": "…" }));
    let decide_token = |token: &str| decide(&authenticator, &evaluated(request(token)));
    assert_eq!(decide_token(&token_of("alice")), "alice");
    assert_eq!(decide_token(&token_of("bob")), "condition_forbidden");
    assert_eq!(take_conditions_failed(), 0);
    assert_eq!(decide_token(&token_of("mallory")), "condition_forbidden");
    assert_eq!(take_conditions_failed(), 1);
    assert_eq!(take_conditions_failed(), 0);
    let huge = mint(
        "rsa-1",
        &json!({ "iss": ISSUER, "sub": "alice", "exp": NOW + 300, "n": 9_007_199_254_740_993_u64 }),
    );
    assert_eq!(decide_token(&huge), "condition_forbidden");
    assert_eq!(take_conditions_failed(), 1);
}

#[test]
fn condition_without_token_sees_no_claims() {
    let rule = json!({ "match": { "any": true }, "allow": "anyone", "verify": "bestEffort", "when": "…" });
    let authenticator = with_condition(&inline(&["rsa-1"]), &rule);
    let facts = evaluated(FakeHost::request("GET", "/api").at(NOW));
    assert_eq!(decide(&authenticator, &facts), "anyone");
    assert_eq!(decide(&authenticator, &evaluated(request(&token_of("bob")))), "condition_forbidden");
    assert_eq!(decide(&authenticator, &evaluated(request("bad"))), "anyone");
    // It may read the path.
    let odd = evaluated(FakeHost::request("GET", "/a/../b").at(NOW));
    assert_eq!(decide(&authenticator, &odd), "path_ambiguous");
}

/// Decides twice: before keys are there, and after, when the host evaluates nothing any more.
fn decide_around_a_wait(rule: &Value, first: &str, then: &str) -> (String, u32) {
    let authenticator = with_condition(&remote(), rule);
    let mut waited = Waited::default();
    let facts = at(evaluated(request(first)), 100);
    let outcome = decided(&authenticator, &facts, &mut waited).0.unwrap().outcome;
    assert!(matches!(outcome, Outcome::Wait { document: Document::Keys(0), fetch: true }));
    let set = KeySet::parse(jwks(&["rsa-1"]).to_string().as_bytes()).unwrap();
    authenticator.remote(0).unwrap().borrow_mut().succeeded(Duration::from_secs(100), set, None);
    let facts = at(request(then), 100);
    let decided = match decided(&authenticator, &facts, &mut waited).0.unwrap().outcome {
        Outcome::Allow(pass) if pass.why == Why::Token => "token",
        Outcome::Allow(_) => "anyone",
        Outcome::Deny(denial) => denial.reason.presentation().code,
        Outcome::Wait { .. } => "wait",
    };
    (decided.to_owned(), take_conditions_failed())
}

#[test]
fn condition_is_asked_before_a_wait() {
    let rule = json!({ "require": {}, "when": "…" });
    let of = |subject: &str| decide_around_a_wait(&rule, &token_of(subject), &token_of(subject));
    assert_eq!(of("alice"), ("token".to_owned(), 0));
    assert_eq!(of("bob"), ("condition_forbidden".to_owned(), 0));
    assert_eq!(of("mallory"), ("condition_forbidden".to_owned(), 1));
    // What was said of one token is not said of another.
    let other = decide_around_a_wait(&rule, &token_of("alice"), &token_of("bob"));
    assert_eq!(other, ("condition_forbidden".to_owned(), 1));
    let rule = json!({ "match": { "any": true }, "allow": "anyone", "verify": "bestEffort", "when": "…" });
    let forged = mint_with("rsa-2", &json!({ "alg": "RS256", "kid": "rsa-1" }), &claims());
    assert_eq!(decide_around_a_wait(&rule, &forged, &forged), ("anyone".to_owned(), 0));
}

#[test]
fn each_provider_has_its_documents_fetched() {
    let config = json!({ "providers": {
        "a": { "issuer": "a", "jwks": jwks(&["rsa-1"]) },
        "b": { "issuer": "b", "jwksUri": "http://b.test/keys", "revoked": { "uri": "http://b.test/revoked" } },
    }});
    let authenticator = authenticator(&config);
    let documents: Vec<Document> = authenticator.documents().collect();
    assert_eq!(documents, [Document::Keys(1), Document::Revoked(1)]);
    assert_eq!(documents.iter().map(|document| document.provider()).collect::<Vec<_>>(), [1, 1]);
    let path = |document| authenticator.fetching(document).map(|(remote, _)| remote.path.clone());
    assert_eq!(path(Document::Keys(1)).as_deref(), Some("/keys"));
    assert_eq!(path(Document::Revoked(1)).as_deref(), Some("/revoked"));
    for none in [Document::Keys(0), Document::Revoked(0), Document::Keys(2)] {
        assert_eq!(path(none), None);
    }
}

#[test]
fn new_list_evicts_revoked_tokens_of_its_provider_only() {
    let config = json!({ "providers": {
        "a": { "issuer": ISSUER, "jwks": jwks(&["rsa-1"]), "revoked": { "uri": "http://a.test/" } },
        "b": { "issuer": "b", "jwks": jwks(&["rsa-1"]) },
    }});
    let authenticator = authenticator(&config);
    let of = |iss: &str, sub: &str| mint("rsa-1", &json!({ "iss": iss, "sub": sub, "exp": NOW + 300 }));
    let (alice, bob, others) = (of(ISSUER, "alice"), of(ISSUER, "bob"), of("b", "alice"));
    let now = Duration::from_secs(100);
    authenticator.revoke(0, now, Revoked::default(), None);
    let decide_all = || [&alice, &bob, &others].map(|token| decide(&authenticator, &at(request(token), 100)));
    assert_eq!(decide_all(), ["alice", "bob", "alice"]);
    take_cache_counts();
    authenticator.tick(Document::Revoked(0), now);
    assert_eq!(decide_all(), ["alice", "bob", "alice"]);
    assert_eq!(take_cache_counts(), (3, 0));
    authenticator.revoke(0, now, Revoked::parse(br#"{"sub":["alice"]}"#).unwrap(), None);
    assert_eq!(decide_all(), ["token_revoked", "bob", "alice"]);
    assert_eq!(take_cache_counts(), (2, 1));
}

#[test]
fn cached_token_without_list_stays_if_allowed() {
    let authenticator = with_list("allow");
    let facts = at(request(&mint("rsa-1", &claims())), 100);
    authenticator.revoke(0, Duration::from_secs(100), Revoked::default(), None);
    assert_eq!(decide(&authenticator, &facts), "alice");
    take_cache_counts();
    authenticator.tick(Document::Revoked(0), Duration::from_secs(1000));
    assert_eq!(decide(&authenticator, &facts), "alice");
    assert_eq!(take_cache_counts(), (1, 0));
}

/// What a request that goes on loses: the client's copies of headers, and what carried a token; and whether
/// it has an identity then.
fn passed(authenticator: &Authenticator, facts: &FakeHost) -> (Vec<String>, Vec<String>, bool) {
    let (decision, removed) = decided(authenticator, facts, &mut Waited::default());
    let Outcome::Allow(pass) = decision.unwrap().outcome else { panic!("refused") };
    let spent = pass.spent.iter().map(|(name, _)| name.to_string()).collect();
    (removed, spent, pass.identity.is_some())
}

/// Who a request that goes on is.
fn identity(authenticator: &Authenticator, facts: &FakeHost) -> Granted {
    match decided(authenticator, facts, &mut Waited::default()).0.unwrap().outcome {
        Outcome::Allow(pass) => pass.identity.unwrap(),
        other => panic!("{other:?}"),
    }
}

fn with_rules(rules: &Value) -> Value {
    let mut config = inline(&["rsa-1"]);
    config["providers"]["platform"]["outputClaimToHeaders"] =
        json!([{ "claim": "sub", "header": "x-user-id" }]);
    config["rules"] = rules.clone();
    config
}

#[test]
fn allowed_request_loses_client_copies_of_headers() {
    let rules = json!([{ "match": { "methods": ["PUT"] }, "allow": "anyone" }]);
    let authenticator = authenticator(&with_rules(&rules));
    let copies = |facts: FakeHost| facts.header("x_user_id", "mallory").header("x-other", "1").at(NOW);
    let preflight = FakeHost::request("OPTIONS", "/")
        .header("origin", "https://app.test")
        .header("access-control-request-method", "PUT");
    for facts in
        [copies(request(&token_of("alice"))), copies(FakeHost::request("PUT", "/")), copies(preflight)]
    {
        assert_eq!(passed(&authenticator, &facts).0, ["x_user_id"]);
    }
    assert_eq!(passed(&authenticator, &request(&token_of("alice"))).0, Vec::<String>::new());
}

#[test]
fn rules_do_not_see_client_copies_of_headers() {
    let rules = json!([
        { "match": { "headers": { "x-user-id": { "present": false } }, "methods": ["PUT"] }, "allow": "nobody" },
        { "match": { "headers": { "x_user_id": { "anyOf": ["alice"] } } }, "allow": "anyone" },
        { "match": { "headers": { "x-user-id": { "anyOf": ["alice"] } } }, "allow": "anyone" },
    ]);
    let authenticator = authenticator(&with_rules(&rules));
    let with_copies = |method| {
        let facts = FakeHost::request(method, "/").at(NOW);
        facts.header("x-user-id", "alice").header("x_user_id", "alice")
    };
    assert_eq!(decide(&authenticator, &with_copies("GET")), "token_missing");
    assert_eq!(decide(&authenticator, &with_copies("PUT")), "forbidden");
}

#[test]
fn verify_never_leaves_token_and_identity_alone() {
    let rules = json!([
        { "match": { "paths": ["/never"] }, "allow": "anyone", "verify": "never" },
        { "match": { "paths": ["/maybe"] }, "allow": "anyone" },
        { "match": { "paths": ["/must"] }, "require": {} },
    ]);
    let authenticator = authenticator(&with_rules(&rules));
    let to = |path: &str| {
        let bearer = format!("Bearer {}", token_of("alice"));
        passed(&authenticator, &FakeHost::request("GET", path).header("authorization", &bearer).at(NOW))
    };
    assert_eq!(to("/never"), (vec![], vec![], false));
    for path in ["/maybe", "/must"] {
        assert_eq!(to(path), (vec![], vec!["authorization".to_owned()], true));
    }
}

#[test]
fn path_with_one_denied_reading_is_refused() {
    let rules = json!([
        { "match": { "paths": ["/public/*"] }, "allow": "anyone" },
        { "match": { "paths": ["/closed/*"] }, "allow": "nobody" },
    ]);
    let to =
        |config: &Value, path: &str| decide(&authenticator(config), &FakeHost::request("GET", path).at(NOW));
    let strict = with_rules(&rules);
    let mut lenient = strict.clone();
    lenient["ambiguousPath"] = json!("everyReading");
    for (path, by_strict, by_lenient) in [
        ("/public/a", "anyone", "anyone"),
        ("/public//a", "path_ambiguous", "anyone"),
        ("/public/../closed", "path_ambiguous", "forbidden"),
        ("/closed/../public", "path_ambiguous", "forbidden"),
        ("/public/%00", "path_ambiguous", "path_ambiguous"),
    ] {
        assert_eq!(to(&strict, path), by_strict, "{path}");
        assert_eq!(to(&lenient, path), by_lenient, "{path}");
    }
}

#[test]
fn encoded_path_end_hides_no_path() {
    let rules = json!([{ "match": { "paths": ["/closed"] }, "allow": "nobody" }, { "match": { "any": true }, "allow": "anyone" }]);
    let mut config = with_rules(&rules);
    let to =
        |config: &Value, path: &str| decide(&authenticator(config), &FakeHost::request("GET", path).at(NOW));
    for path in ["/closed%3Fx", "/closed%2523x", "/x%3F/../closed%23x"] {
        assert_eq!(to(&config, path), "path_ambiguous", "{path}");
    }
    config["ambiguousPath"] = json!("everyReading");
    for path in ["/closed%3Fx", "/closed%2523x", "/x%3F/../closed%23x"] {
        assert_eq!(to(&config, path), "forbidden", "{path}");
    }
    assert_eq!(to(&config, "/closed-not%3Fx"), "anyone");
}

#[test]
fn invalid_authority_is_refused_if_rules_have_hosts() {
    let closed = json!({ "match": { "hosts": ["closed.test", "*.deep.test"] }, "allow": "nobody" });
    let open = json!({ "match": { "paths": ["/*"] }, "allow": "anyone" });
    let to = |rules: Value, authority: &str| {
        let facts = FakeHost::default().header(":method", "GET").header(":path", "/");
        decide(&authenticator(&with_rules(&rules)), &facts.header(":authority", authority).at(NOW))
    };
    for odd in ["closed.test:80:80", "u@closed.test", "closed.test..", "closed%2etest", ".deep.test", ""] {
        // Wherever the rule stands.
        assert_eq!(to(json!([closed, open]), odd), "authority_invalid", "{odd}");
        assert_eq!(to(json!([open, closed]), odd), "authority_invalid", "{odd}");
        assert_eq!(to(json!([open]), odd), "anyone", "{odd}");
    }
    for (authority, expected) in [
        ("closed.test:8443", "forbidden"),
        ("CLOSED.test.", "forbidden"),
        ("a.deep.test", "forbidden"),
        ("deep.test", "anyone"),
        ("[::1]:80", "anyone"),
    ] {
        assert_eq!(to(json!([closed, open]), authority), expected, "{authority}");
    }
}

#[test]
fn silent_reading_publishes_no_claims() {
    let rules = json!([
        { "match": { "paths": ["/never/*"] }, "allow": "anyone", "verify": "never" },
        { "match": { "paths": ["/maybe/*"] }, "allow": "anyone" },
    ]);
    let mut config = with_rules(&rules);
    config["ambiguousPath"] = json!("everyReading");
    let bearer = format!("Bearer {}", token_of("alice"));
    for path in ["/never/../maybe", "/maybe/../never"] {
        let facts = FakeHost::request("GET", path).header("authorization", &bearer).at(NOW);
        let spent = vec!["authorization".to_owned()];
        assert_eq!(passed(&authenticator(&config), &facts), (vec![], spent, false), "{path}");
    }
}

#[test]
fn token_of_forwarding_provider_stays() {
    for (forward, spent) in [(false, vec!["authorization".to_owned()]), (true, vec![])] {
        let mut config = inline(&["rsa-1"]);
        config["providers"]["platform"]["forwardOriginalToken"] = json!(forward);
        let authenticator = authenticator(&config);
        // First as a new token, then as a known one.
        for _ in 0..2 {
            assert_eq!(passed(&authenticator, &request(&token_of("alice"))).1, spent);
        }
    }
}

#[test]
fn claims_and_payload_become_headers() {
    let mut config = inline(&["rsa-1"]);
    config["providers"]["platform"]["outputClaimToHeaders"] = json!([
        { "claim": "sub", "header": "x-user-id" },
        { "claim": "email", "header": "x-email" },
    ]);
    config["providers"]["platform"]["outputPayloadToHeader"] = json!("x-payload");
    let authenticator = authenticator(&config);
    let token = token_of("alice");
    let identity = identity(&authenticator, &request(&token));
    let verified = identity.verified().unwrap();
    let headers: Vec<(&str, &str)> =
        verified.headers.iter().map(|(name, value)| (&**name, std::str::from_utf8(value).unwrap())).collect();
    assert_eq!(headers, [("x-user-id", "alice"), ("x-payload", token.split('.').nth(1).unwrap())]);
    assert_eq!(verified.outputs_failed, 0, "a claim that is missing is no failure");
}

#[test]
fn allow_anyone_identity_is_of_provider_at_location() {
    let provider = |header: &str| json!({ "issuer": ISSUER, "jwks": jwks(&["rsa-1"]), "from": [{ "header": header, "prefix": "" }] });
    let config = json!({
        "providers": { "a": provider("x-a"), "b": provider("x-b") },
        "rules": [{ "match": { "any": true }, "allow": "anyone" }],
    });
    let authenticator = authenticator(&config);
    for (header, position) in [("x-a", 0), ("x-b", 1)] {
        let facts = FakeHost::request("GET", "/api").header(header, &token_of("alice")).at(NOW);
        let identity = identity(&authenticator, &facts);
        assert_eq!(identity.verified().unwrap().provider, position, "{header}");
    }
}

/// A host in which each call runs other callbacks of the filter before it answers.
struct Nesting<'a> {
    facts: &'a FakeHost,
    within: &'a dyn Fn(),
}

impl RequestHost for Nesting<'_> {
    fn headers(&self) -> Result<HeaderMap, HostError> {
        (self.within)();
        self.facts.headers()
    }

    fn header_first(&self, name: &str) -> Result<Option<Vec<u8>>, HostError> {
        (self.within)();
        self.facts.header_first(name)
    }

    fn header_joined(&self, name: &str) -> Result<Option<Vec<u8>>, HostError> {
        (self.within)();
        self.facts.header_joined(name)
    }

    fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, HostError> {
        (self.within)();
        self.facts.property(path)
    }

    fn evaluate(&self, number: u32, variable: Option<Variable<'_>>) -> Result<Option<Vec<u8>>, HostError> {
        (self.within)();
        self.facts.evaluate(number, variable)
    }

    fn unix_time(&self) -> Result<Duration, HostError> {
        (self.within)();
        self.facts.unix_time()
    }

    fn recent_unix_time(&self) -> Result<Duration, HostError> {
        (self.within)();
        self.facts.recent_unix_time()
    }

    fn monotonic_time(&self) -> Result<Duration, HostError> {
        (self.within)();
        self.facts.monotonic_time()
    }
}

/// A verifier that runs other callbacks before it answers, as a host that checks signatures may.
struct NestingVerifier(Rc<OnceCell<Rc<dyn Fn()>>>);

impl Verifier for NestingVerifier {
    fn verify(&self, key: &Key, token: &UntrustedToken<'_>) -> Verdict {
        if let Some(within) = self.0.get() {
            within();
        }
        PureRust.verify(key, token)
    }
}

#[test]
fn reentrant_host_calls_find_no_borrow() {
    let mut config = remote();
    config["providers"]["platform"]["revoked"] = json!({ "uri": "http://issuer.test/revoked.json" });
    config["rules"] = json!([{ "match": { "paths": ["/api"] }, "require": {}, "when": "…" }]);
    let config = || Config::parse(config.to_string().as_bytes(), &AnyCel::default()).unwrap();
    // Before there are keys; with keys and no list; with both.
    for state in 0..3 {
        let nested = Rc::new(OnceCell::new());
        let authenticator =
            Rc::new(Authenticator::new(config(), Box::new(NestingVerifier(Rc::clone(&nested))), 7));
        let bring_keys = |authenticator: &Authenticator| {
            let set = KeySet::parse(jwks(&["rsa-1"]).to_string().as_bytes()).unwrap();
            authenticator.remote(0).unwrap().borrow_mut().succeeded(Duration::from_secs(100), set, None);
        };
        if state > 0 {
            bring_keys(&authenticator);
        }
        if state > 1 {
            authenticator.revoke(0, Duration::from_secs(100), Revoked::default(), None);
        }
        let forged = mint_with("rsa-2", &json!({ "alg": "RS256", "kid": "rsa-1" }), &claims());
        let unknown = mint_with("rsa-2", &json!({ "alg": "RS256", "kid": "x" }), &claims());
        let requests: Rc<Vec<FakeHost>> = Rc::new(
            [token_of("alice"), forged, unknown, "x".to_owned()]
                .map(|token| at(evaluated(request(&token)), 200))
                .into(),
        );
        let (inside, count) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        let within: Rc<dyn Fn()> = {
            let (authenticator, requests) = (Rc::clone(&authenticator), Rc::clone(&requests));
            let (inside, count) = (Rc::clone(&inside), Rc::clone(&count));
            Rc::new(move || {
                if inside.replace(true) {
                    return;
                }
                count.set(count.get() + 1);
                for facts in requests.iter() {
                    decide(&authenticator, facts);
                }
                for document in authenticator.documents() {
                    authenticator.tick(document, Duration::from_secs(100));
                    authenticator.fetching(document).unwrap().1.failed(Duration::from_secs(0));
                }
                if state > 0 {
                    bring_keys(&authenticator);
                }
                if state > 1 {
                    authenticator.revoke(0, Duration::from_secs(100), Revoked::default(), None);
                }
                inside.set(false);
            })
        };
        assert!(nested.set(Rc::clone(&within)).is_ok());
        for facts in requests.iter() {
            let nesting = Nesting { facts, within: &*within };
            decided(&authenticator, &nesting, &mut Waited::default()).0.unwrap();
        }
        assert!(count.get() > requests.len(), "{}", count.get());
    }
}

#[test]
fn denied_or_waiting_request_loses_client_headers() {
    let provider = |keys: Value| {
        let mut provider = json!({
            "issuer": ISSUER,
            "outputClaimToHeaders": [{ "claim": "sub", "header": "x-user-id" }],
            "from": [{ "header": "authorization" }, { "cookie": "session" }],
        });
        provider.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        json!({ "platform": provider })
    };
    let rules = json!([
        { "match": { "paths": ["/nobody"] }, "allow": "nobody" },
        { "match": { "paths": ["/scope"] }, "require": { "scopes": ["x"] } },
        { "match": { "paths": ["/when"] }, "require": {}, "when": "…" },
    ]);
    let with = |keys: Value| {
        let config = json!({ "providers": provider(keys), "rules": rules });
        let config = Config::parse(config.to_string().as_bytes(), &AnyCel::default()).unwrap();
        Authenticator::new(config, Box::new(PureRust), 7)
    };
    let inline = with(json!({ "jwks": jwks(&["rsa-1"]) }));
    let remote = with(json!({ "jwksUri": "http://issuer.test/" }));
    let asking = |path: &str, token: &str| {
        let facts = FakeHost::request("GET", path).header("authorization", &format!("Bearer {token}"));
        let facts = facts.header("x-user-id", "mallory").header("x_user-id", "mallory");
        at(evaluated(facts.at(NOW)), 100)
    };
    let (alice, bob) = (token_of("alice"), token_of("bob"));
    for (authenticator, facts, expected) in [
        (&inline, asking("/nobody", &alice), "forbidden"),
        (&inline, asking("/scope", &alice), "insufficient_scope"),
        (&inline, asking("/when", &bob), "condition_forbidden"),
        (&inline, asking("//", &alice), "path_ambiguous"),
        (&inline, asking("/", "x"), "token_malformed"),
        (&inline, asking("/", &alice).header("cookie", "session=x"), "several_tokens"),
        (&remote, asking("/", &alice), "fetch"),
    ] {
        let (decision, removed) = decided(authenticator, &facts, &mut Waited::default());
        assert_eq!(word(&decision.unwrap()), expected);
        assert_eq!(removed, ["x-user-id", "x_user-id"], "{expected}");
    }
    let facts = asking("/", &alice);
    for reason in [DenyReason::TooManyWaiting, DenyReason::KeysUnavailable] {
        let mut waited = Waited::default();
        assert!(decided(&remote, &facts, &mut waited).0.is_ok());
        waited.give_up(Document::Keys(0), reason);
        let (decision, removed) = decided(&remote, &facts, &mut waited);
        assert_eq!(word(&decision.unwrap()), reason.presentation().code);
        assert_eq!(removed, ["x-user-id", "x_user-id"]);
    }
    for (authenticator, path, clock) in
        [(&inline, "/when", true), (&remote, "/", false), (&remote, "/when", true)]
    {
        let facts = Failing { facts: asking(path, &alice), clock };
        let (decision, removed) = decided(authenticator, &facts, &mut Waited::default());
        let decision = decision.unwrap();
        assert_eq!((word(&decision).as_str(), removed.len()), ("internal", 2), "{path}");
        // The condition may have been shown the claims.
        assert_eq!(decision.clear_claims, path == "/when");
    }
    let failing = |_: &str| Err(HostError { call: "remove_header_map_value", status: 1 });
    let facts = asking("/", &alice);
    let decision = inline.decide(&Exchange::new(1, &facts), &mut Waited::default(), &failing);
    assert!(decision.is_err(), "a copy that cannot be removed lets nothing go on");
}

/// A host that evaluates nothing, and may have no clock, once the headers are there.
struct Failing {
    facts: FakeHost,
    clock: bool,
}

impl RequestHost for Failing {
    fn headers(&self) -> Result<HeaderMap, HostError> {
        self.facts.headers()
    }

    fn header_first(&self, name: &str) -> Result<Option<Vec<u8>>, HostError> {
        self.facts.header_first(name)
    }

    fn header_joined(&self, name: &str) -> Result<Option<Vec<u8>>, HostError> {
        self.facts.header_joined(name)
    }

    fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, HostError> {
        RequestHost::property(&self.facts, path)
    }

    fn evaluate(&self, _: u32, _: Option<Variable<'_>>) -> Result<Option<Vec<u8>>, HostError> {
        Err(HostError { call: "expr_evaluate", status: 2 })
    }

    fn unix_time(&self) -> Result<Duration, HostError> {
        self.facts.unix_time()
    }

    fn monotonic_time(&self) -> Result<Duration, HostError> {
        if self.clock {
            return self.facts.monotonic_time();
        }
        Err(HostError { call: "clock_time_get", status: 2 })
    }
}

/// What is decided about a request that cannot wait for what it would wait for.
fn decide_without(authenticator: &Authenticator, facts: &FakeHost, reason: DenyReason) -> String {
    let mut waited = Waited::default();
    for _ in 0..9 {
        let decision = decided(authenticator, facts, &mut waited).0.unwrap();
        match decision.outcome {
            Outcome::Wait { document, .. } => waited.give_up(document, reason),
            _ => return word(&decision),
        }
    }
    "never".to_owned()
}

#[test]
fn request_that_cannot_wait_for_keys_follows_its_rule() {
    for (rule, expected) in [
        (json!({ "require": {} }), None),
        (json!({ "match": { "any": true }, "allow": "anyone" }), None),
        (json!({ "match": { "any": true }, "allow": "anyone", "verify": "bestEffort" }), Some("anyone")),
        (
            json!({ "match": { "any": true }, "allow": "anyone", "verify": "bestEffort", "when": "…" }),
            Some("anyone"),
        ),
        (json!({ "match": { "any": true }, "allow": "anyone", "verify": "never" }), Some("anyone")),
    ] {
        let authenticator = with_condition(&remote(), &rule);
        let facts = at(evaluated(request(&token_of("alice"))), 100);
        for reason in [DenyReason::TooManyWaiting, DenyReason::KeysUnavailable] {
            let decided = decide_without(&authenticator, &facts, reason);
            assert_eq!(decided, expected.unwrap_or(reason.presentation().code), "{rule}");
        }
    }
}

#[test]
fn request_that_cannot_wait_for_list_follows_on_failure() {
    let facts = at(request(&token_of("alice")), 100);
    for reason in [DenyReason::TooManyWaiting, DenyReason::RevocationUnavailable] {
        assert_eq!(decide_without(&with_list("allow"), &facts, reason), "alice");
        assert_eq!(decide_without(&with_list("deny"), &facts, reason), reason.presentation().code);
    }
    // Without keys nobody is taken.
    let mut config = remote();
    config["providers"]["platform"]["revoked"] =
        json!({ "uri": "http://issuer.test/revoked.json", "onFailure": "allow" });
    let authenticator = authenticator(&config);
    let reason = DenyReason::KeysUnavailable;
    assert_eq!(decide_without(&authenticator, &facts, reason), "keys_unavailable");
}

#[test]
fn unavailable_document_allows_wait_for_another() {
    let provider = |uri: &str| json!({ "issuer": ISSUER, "jwksUri": uri });
    let config = json!({ "providers": { "a": provider("http://a.test/"), "b": provider("http://b.test/") } });
    let authenticator = authenticator(&config);
    let facts = at(request(&token_of("alice")), 100);
    let mut waited = Waited::default();
    let decide = |waited: &mut Waited| {
        let outcome = decided(&authenticator, &facts, waited).0.unwrap().outcome;
        if let Outcome::Wait { document, .. } = outcome { Some(document) } else { None }
    };
    assert_eq!(decide(&mut waited), Some(Document::Keys(0)));
    waited.give_up(Document::Keys(0), DenyReason::KeysUnavailable);
    assert_eq!(decide(&mut waited), Some(Document::Keys(1)));
    waited.give_up(Document::Keys(1), DenyReason::TooManyWaiting);
    assert_eq!(decide(&mut waited), None);
}

#[test]
fn undecided_provider_prevents_caching() {
    let config = json!({
        "providers": {
            "a": { "issuer": ISSUER, "jwks": jwks(&["rsa-1"]) },
            "b": { "issuer": ISSUER, "jwksUri": "http://b.test/" },
        },
        "rules": [{ "match": { "paths": ["/b"] }, "require": { "provider": "b" } }],
    });
    let authenticator = authenticator(&config);
    authenticator.fetching(Document::Keys(1)).unwrap().1.failed(Duration::from_secs(100));
    let to = |path: &str, now| {
        let bearer = format!("Bearer {}", token_of("alice"));
        at(FakeHost::request("GET", path).header("authorization", &bearer).at(NOW), now)
    };
    assert_eq!(decide(&authenticator, &to("/a", 100)), "alice");
    assert_eq!(decide(&authenticator, &to("/b", 100)), "keys_unavailable");
    let set = KeySet::parse(jwks(&["rsa-1"]).to_string().as_bytes()).unwrap();
    authenticator.remote(1).unwrap().borrow_mut().succeeded(Duration::from_secs(101), set, None);
    assert_eq!(decide(&authenticator, &to("/b", 101)), "alice");
}

#[test]
fn preflight_passes_if_every_reading_allows() {
    let rules = json!([
        { "match": { "paths": ["/internal/*"] }, "allow": "nobody" },
        { "match": { "paths": ["/public/*"] }, "allow": "anyone" },
        { "match": { "paths": ["/when/*"] }, "allow": "anyone", "when": "…" },
    ]);
    let mut config = with_rules(&rules);
    config["ambiguousPath"] = json!("everyReading");
    let config = Config::parse(config.to_string().as_bytes(), &AnyCel::default()).unwrap();
    let authenticator = Authenticator::new(config, Box::new(PureRust), 7);
    for (path, expected) in [
        ("/api", "preflight"),
        ("/api//x", "preflight"),
        ("/public/../api", "preflight"),
        ("/x/../internal/a", "forbidden"),
        ("/internal/../x", "forbidden"),
        ("//internal/a", "forbidden"),
        ("/%69nternal/a", "forbidden"),
        ("/x/../when", "condition_forbidden"),
    ] {
        let facts = FakeHost::request("OPTIONS", path)
            .header("origin", "https://app.test")
            .header("access-control-request-method", "PUT")
            .at(NOW);
        assert_eq!(decide(&authenticator, &facts), expected, "{path}");
    }
}

#[test]
fn readings_with_two_identities_are_refused() {
    let provider = |aud: &str| json!({ "issuer": ISSUER, "jwks": jwks(&["rsa-1"]), "audiences": [aud] });
    let config = json!({
        "ambiguousPath": "everyReading",
        "providers": { "browser": provider("web"), "device": provider("tv") },
        "rules": [
            { "match": { "paths": ["/web/*"] }, "require": { "provider": "browser" } },
            { "match": { "paths": ["/tv/*"] }, "require": { "provider": "device" } },
        ],
    });
    let authenticator = authenticator(&config);
    let token =
        mint("rsa-1", &json!({ "iss": ISSUER, "sub": "alice", "aud": ["web", "tv"], "exp": NOW + 300 }));
    let to = |path: &str| {
        FakeHost::request("GET", path).header("authorization", &format!("Bearer {token}")).at(NOW)
    };
    assert_eq!(decide(&authenticator, &to("/web/x")), "alice");
    assert_eq!(decide(&authenticator, &to("/tv/x")), "alice");
    assert_eq!(decide(&authenticator, &to("/web/../tv/x")), "path_ambiguous");
}

/// A provider that takes tokens of a key from these places.
fn looking(key: &str, from: &Value) -> Value {
    json!({ "issuer": format!("https://{key}.test/"), "jwks": jwks(&[key]), "from": from })
}

/// A token of the issuer that has this key.
fn token_by(key: &str, subject: &str, more: &Value) -> String {
    let mut claims = json!({ "iss": format!("https://{key}.test/"), "sub": subject, "exp": NOW + 300 });
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    mint(key, &claims)
}

#[test]
fn tokens_speak_in_order_of_kind_provider_and_location() {
    let config = json!({
        "severalTokens": "verifyAll",
        "providers": {
            "z": looking("rsa-1", &json!([{ "queryParam": "q" }, { "cookie": "c" }, { "header": "x-z2", "prefix": "" }, { "header": "x-z1", "prefix": "" }])),
            "a": looking("rsa-1", &json!([{ "queryParam": "p" }, { "header": "x-a", "prefix": "" }])),
        },
    });
    let authenticator = authenticator(&config);
    // The level says where the token is.
    let at_place = |place: &str| token_by("rsa-1", "alice", &json!({ "level": place }));
    let order = ["x-a", "x-z2", "x-z1", "c", "p", "q"];
    for skipped in 0..order.len() {
        let left = &order[skipped..];
        let token = |name: &str| if left.contains(&name) { at_place(name) } else { String::new() };
        let query: Vec<String> = ["q", "p"]
            .iter()
            .filter(|name| left.contains(name))
            .map(|name| format!("{name}={}", token(name)))
            .collect();
        let mut facts = FakeHost::request("GET", &format!("/?{}", query.join("&"))).at(NOW);
        for header in ["x-z1", "x-z2", "x-a"].iter().filter(|name| left.contains(name)) {
            facts = facts.header(header, &token(header));
        }
        if left.contains(&"c") {
            facts = facts.header("cookie", &format!("c={}", token("c")));
        }
        let identity = identity(&authenticator, &facts);
        assert_eq!(identity.verified().unwrap().claims["level"], json!(left[0]));
    }
}

/// With a place for the tokens of each of two issuers, and these rules.
fn two_issuers(several: &str, rules: &Value) -> Value {
    json!({
        "severalTokens": several,
        "providers": {
            "a": looking("rsa-1", &json!([{ "header": "x-a", "prefix": "" }, { "cookie": "c" }])),
            "b": looking("rsa-2", &json!([{ "header": "x-b", "prefix": "" }])),
        },
        "rules": rules,
    })
}

fn with_tokens(tokens: &[(&str, &str)]) -> FakeHost {
    let facts = FakeHost::request("GET", "/").at(NOW);
    tokens.iter().fold(facts, |facts, (name, token)| match *name {
        "c" => facts.header("cookie", &format!("c={token}")),
        name => facts.header(name, token),
    })
}

#[test]
fn one_token_is_the_identity_of_a_request() {
    let (alice, bob) = (token_by("rsa-1", "alice", &json!({})), token_by("rsa-1", "bob", &json!({})));
    let admin = token_by("rsa-1", "alice", &json!({ "role": "admin" }));
    let (partner, other) = (token_by("rsa-2", "shop", &json!({})), token_by("rsa-2", "alice", &json!({})));
    let demand = |provider: &str| json!({ "provider": provider });
    let scoped = token_by("rsa-2", "shop", &json!({ "scope": "s" }));
    let admins = json!({ "claims": { "role": { "anyOf": ["admin"] } } });
    let mut in_a = admins.clone();
    in_a["provider"] = json!("a");
    let both = json!({ "allOf": [demand("b"), demand("a")] });
    for (rule, tokens, expected) in [
        (
            json!({ "match": { "any": true }, "allow": "anyone" }),
            vec![("x-a", &alice), ("c", &bob)],
            "several_tokens",
        ),
        (
            json!({ "match": { "any": true }, "allow": "anyone" }),
            vec![("x-a", &alice), ("x-b", &other)],
            "several_tokens",
        ),
        (
            json!({ "match": { "any": true }, "allow": "anyone" }),
            vec![("x-a", &alice), ("c", &admin)],
            "alice",
        ),
        (
            json!({ "match": { "any": true }, "allow": "anyone", "verify": "bestEffort" }),
            vec![("x-a", &alice), ("c", &bob)],
            "anyone",
        ),
        (json!({ "require": {} }), vec![("x-a", &alice), ("c", &bob)], "several_tokens"),
        (json!({ "require": admins }), vec![("x-a", &admin), ("c", &alice)], "alice"),
        (json!({ "require": admins }), vec![("x-a", &alice), ("c", &admin)], "claims_forbidden"),
        (json!({ "require": both }), vec![("x-a", &alice), ("x-b", &partner)], "shop"),
        (json!({ "require": both }), vec![("x-a", &alice), ("c", &bob), ("x-b", &partner)], "several_tokens"),
        // Nobody borrows a claim of another, where the demands do not ask for two.
        (
            json!({ "require": { "allOf": [admins, {}] } }),
            vec![("x-a", &admin), ("c", &bob)],
            "several_tokens",
        ),
        (
            json!({ "require": { "allOf": [{}, admins] } }),
            vec![("x-a", &bob), ("c", &admin)],
            "several_tokens",
        ),
        (
            json!({ "require": { "allOf": [{ "scopes": ["s"] }, admins] } }),
            vec![("x-a", &admin), ("x-b", &scoped)],
            "several_tokens",
        ),
        (
            json!({ "require": { "allOf": [demand("a"), in_a] } }),
            vec![("x-a", &bob), ("c", &admin)],
            "several_tokens",
        ),
        (
            json!({ "require": { "allOf": [{ "scopes": ["s"] }, in_a] } }),
            vec![("x-a", &admin), ("x-b", &scoped)],
            "shop",
        ),
        (json!({ "require": both }), vec![("x-a", &alice)], "token_missing"),
        (json!({ "require": both }), vec![("x-b", &partner)], "token_missing"),
        (json!({ "require": both }), vec![], "token_missing"),
        (json!({ "require": demand("a") }), vec![("x-b", &partner)], "provider_forbidden"),
        (
            json!({ "require": { "anyOf": [demand("a"), both] } }),
            vec![("x-a", &alice), ("x-b", &partner)],
            "several_tokens",
        ),
        (
            json!({ "require": { "anyOf": [both, demand("a")] } }),
            vec![("x-a", &alice), ("x-b", &partner)],
            "shop",
        ),
    ] {
        let authenticator = authenticator(&two_issuers("verifyAll", &json!([rule])));
        let tokens: Vec<(&str, &str)> =
            tokens.into_iter().map(|(name, token)| (name, token.as_str())).collect();
        assert_eq!(decide(&authenticator, &with_tokens(&tokens)), expected, "{rule}");
    }
}

#[test]
fn first_good_token_speaks_alone() {
    let alice = token_by("rsa-1", "alice", &json!({}));
    let admin = token_by("rsa-1", "carol", &json!({ "role": "admin" }));
    let expired = token_by("rsa-1", "alice", &json!({ "exp": NOW - 300 }));
    let forged = mint_with(
        "rsa-2",
        &json!({ "alg": "RS256", "kid": "rsa-1" }),
        &json!({ "iss": "https://rsa-1.test/", "sub": "mallory", "exp": NOW + 300 }),
    );
    let partner = token_by("rsa-2", "shop", &json!({}));
    let admins = json!({ "require": { "claims": { "role": { "anyOf": ["admin"] } } } });
    let any = json!({ "require": {} });
    for (rule, tokens, expected) in [
        (&any, vec![("x-a", &alice), ("c", &admin)], "alice"),
        (&any, vec![("x-a", &expired), ("c", &admin)], "carol"),
        (&any, vec![("x-a", &forged), ("x-b", &partner), ("c", &alice)], "shop"),
        (&any, vec![("x-a", &forged), ("c", &expired)], "signature_invalid"),
        (&any, vec![("x-a", &expired), ("c", &forged)], "token_expired"),
        (&any, vec![("x-b", &alice), ("c", &admin)], "carol"),
        (&admins, vec![("x-a", &alice), ("c", &admin)], "claims_forbidden"),
        (
            &json!({ "match": { "any": true }, "allow": "anyone", "verify": "bestEffort" }),
            vec![("x-a", &forged), ("c", &expired)],
            "anyone",
        ),
    ] {
        let authenticator = authenticator(&two_issuers("firstGood", &json!([rule])));
        let tokens: Vec<(&str, &str)> =
            tokens.into_iter().map(|(name, token)| (name, token.as_str())).collect();
        assert_eq!(decide(&authenticator, &with_tokens(&tokens)), expected, "{rule}");
    }
}

#[test]
fn undecided_token_ends_first_good_search() {
    let mut config = two_issuers("firstGood", &json!([]));
    config["providers"]["a"]["jwksUri"] = json!("http://a.test/");
    config["providers"]["a"].as_object_mut().unwrap().remove("jwks");
    let authenticator = authenticator(&config);
    let (alice, partner) = (token_by("rsa-1", "alice", &json!({})), token_by("rsa-2", "shop", &json!({})));
    let facts = at(with_tokens(&[("x-a", &alice), ("x-b", &partner)]), 100);
    assert_eq!(decide(&authenticator, &facts), "fetch");
    assert_eq!(decide_without(&authenticator, &facts, DenyReason::KeysUnavailable), "keys_unavailable");
    assert_eq!(decide(&authenticator, &at(with_tokens(&[("x-b", &partner)]), 100)), "shop");
}

#[test]
fn first_good_removes_other_tokens_unless_forwarded() {
    let (alice, partner) = (token_by("rsa-1", "alice", &json!({})), token_by("rsa-2", "shop", &json!({})));
    for (forwards, expected) in [
        ([false, false], vec!["x-a", "x-b", "cookie"]),
        ([true, false], vec!["x-b"]),
        ([false, true], vec!["x-a", "cookie"]),
    ] {
        let mut config = two_issuers("firstGood", &json!([]));
        for (name, forward) in ["a", "b"].iter().zip(forwards) {
            config["providers"][name]["forwardOriginalToken"] = json!(forward);
        }
        let facts = with_tokens(&[("x-a", &alice), ("x-b", &partner), ("c", "x")]);
        assert_eq!(passed(&authenticator(&config), &facts).1, expected, "{forwards:?}");
    }
}

#[test]
fn first_good_refuses_two_forwarded_tokens_at_one_location() {
    let alice = token_by("rsa-1", "alice", &json!({}));
    let facts = FakeHost::request("GET", "/").header("cookie", &format!("c=x; c={alice}")).at(NOW);
    let mut config = two_issuers("firstGood", &json!([]));
    assert_eq!(passed(&authenticator(&config), &facts), (vec![], vec!["cookie".to_owned()], true));
    config["providers"]["a"]["forwardOriginalToken"] = json!(true);
    assert_eq!(decide(&authenticator(&config), &facts), "several_tokens");
}

#[test]
fn more_than_sixteen_tokens_are_refused() {
    let alice = token_by("rsa-1", "alice", &json!({}));
    for several in ["verifyAll", "firstGood"] {
        let authenticator = authenticator(&two_issuers(several, &json!([])));
        let with = |count: usize| {
            FakeHost::request("GET", "/").header("cookie", &format!("c={alice}; ").repeat(count)).at(NOW)
        };
        assert_eq!(decide(&authenticator, &with(16)), "alice");
        assert_eq!(decide(&authenticator, &with(17)), "several_tokens");
    }
}

#[test]
fn condition_is_asked_for_each_token_before_a_wait() {
    let mut config = two_issuers("firstGood", &json!([{ "require": {}, "when": "…" }]));
    config["providers"]["a"]["jwksUri"] = json!("http://a.test/");
    config["providers"]["a"].as_object_mut().unwrap().remove("jwks");
    let config = Config::parse(config.to_string().as_bytes(), &AnyCel::default()).unwrap();
    let authenticator = Authenticator::new(config, Box::new(PureRust), 7);
    let expired = token_by("rsa-1", "bob", &json!({}));
    let tokens = [("x-a", expired.as_str()), ("x-b", &token_by("rsa-2", "alice", &json!({})))];
    let mut waited = Waited::default();
    let facts = at(evaluated(with_tokens(&tokens)), 100);
    let outcome = decided(&authenticator, &facts, &mut waited).0.unwrap().outcome;
    assert!(matches!(outcome, Outcome::Wait { .. }));
    // Its key is not there, so the second one speaks.
    let set = KeySet::parse(jwks(&["ec-1"]).to_string().as_bytes()).unwrap();
    authenticator.remote(0).unwrap().borrow_mut().succeeded(Duration::from_secs(100), set, None);
    let (decision, _) = decided(&authenticator, &at(with_tokens(&tokens), 100), &mut waited);
    assert_eq!(word(&decision.unwrap()), "alice");
}

#[test]
fn connect_request_skips_rules_about_paths() {
    let tunnel = || {
        let facts = FakeHost::default().header(":method", "CONNECT").header(":authority", "a.test:443");
        facts.at(NOW)
    };
    let bearer = |token: &str| tunnel().header("authorization", &format!("Bearer {token}"));
    let path = |access: &str| json!({ "match": { "paths": ["/*"] }, "allow": access });
    for (rules, without, with) in [
        (json!([path("anyone")]), "token_missing", "alice"),
        (json!([path("nobody")]), "token_missing", "alice"),
        (json!([path("nobody"), { "match": { "any": true }, "allow": "anyone" }]), "token_missing", "alice"),
        (
            json!([path("nobody"), { "match": { "any": true }, "allow": "anyone", "verify": "never" }]),
            "token_missing",
            "alice",
        ),
        (
            json!([path("nobody"), { "match": { "methods": ["CONNECT"] }, "allow": "anyone" }]),
            "anyone",
            "alice",
        ),
        (
            json!([path("anyone"), { "match": { "hosts": ["a.test"] }, "allow": "nobody" }]),
            "forbidden",
            "forbidden",
        ),
        (json!([path("anyone"), { "require": { "scopes": ["x"] } }]), "token_missing", "insufficient_scope"),
        (json!([{ "match": { "hosts": ["a.test"] }, "allow": "anyone" }]), "anyone", "alice"),
    ] {
        let authenticator = authenticator(&with_rules(&rules));
        assert_eq!(decide(&authenticator, &tunnel()), without, "{rules}");
        assert_eq!(decide(&authenticator, &bearer(&token_of("alice"))), with, "{rules}");
    }
    // No other method goes without a path.
    let odd = FakeHost::default().header(":method", "GET").at(NOW);
    let authenticator = authenticator(&with_rules(&json!([path("anyone")])));
    assert_eq!(decide(&authenticator, &odd), "path_ambiguous");
}
