//! From a request to a decision, without a proxy.

mod common;

use std::time::Duration;

use common::{ISSUER, NOW, claims, jwks, mint, mint_raw, mint_with};
use jwt_auth::authenticator::{Authenticator, Decision, Why};
use jwt_auth::config::Config;
use jwt_auth::jwk::{Key, KeySet};
use jwt_auth::pure_rust;
use jwt_auth::signature::{Verdict, Verifier};
use jwt_auth::token::UntrustedToken;
use plugin_kit::exchange::{Exchange, HostError};
use plugin_kit::testing::TableFacts;
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

fn request(token: &str) -> TableFacts {
    TableFacts::request("GET", "/api").header("authorization", &format!("Bearer {token}")).at(NOW)
}

/// What is decided, in a word: `alice` for a token of hers, `anyone`, `preflight`, a deny code, `fetch` or `wait`.
fn decide(authenticator: &Authenticator, facts: &TableFacts) -> String {
    decide_after(authenticator, facts, 0)
}

fn decide_after(authenticator: &Authenticator, facts: &TableFacts, waits: u8) -> String {
    match authenticator.decide(&Exchange::new(1, facts), waits) {
        Decision::Allow(pass) => match pass.why {
            Why::Anyone => "anyone".to_owned(),
            Why::Preflight => "preflight".to_owned(),
            Why::Token => {
                let subjects = pass.tokens.iter().filter_map(|token| token.verified());
                let subjects = subjects.map(|token| token.claims["sub"].as_str().unwrap().to_owned());
                subjects.collect::<Vec<_>>().join("+")
            }
        },
        Decision::Deny(denial) => denial.reason.outside().code.to_owned(),
        Decision::Wait { fetch: true, .. } => "fetch".to_owned(),
        Decision::Wait { fetch: false, .. } => "wait".to_owned(),
    }
}

fn at(mut facts: TableFacts, monotonic: u64) -> TableFacts {
    facts.monotonic_time = Duration::from_secs(monotonic);
    facts
}

#[test]
fn every_kind_of_key_is_verified() {
    let mut config = inline(&["rsa-1", "ec-1", "ed-1"]);
    config["providers"]["platform"]["algorithms"] = json!(["RS256", "ES256", "EdDSA"]);
    let authenticator = authenticator(&config);
    for key in ["rsa-1", "ec-1", "ed-1"] {
        assert_eq!(decide(&authenticator, &request(&mint(key, &claims()))), "alice", "{key}");
    }
}

#[test]
fn ed_dsa_must_be_named() {
    let token = mint("ed-1", &claims());
    assert_eq!(decide(&authenticator(&inline(&["ed-1"])), &request(&token)), "algorithm_not_allowed");
}

#[test]
fn a_known_token_is_not_verified_again() {
    let authenticator = authenticator(&inline(&["rsa-1"]));
    let token = mint("rsa-1", &claims());
    assert_eq!(decide(&authenticator, &request(&token)), "alice");
    assert_eq!(authenticator.take_cache_counts(), (0, 1));
    assert_eq!(decide(&authenticator, &request(&token)), "alice");
    assert_eq!(authenticator.take_cache_counts(), (1, 0));
}

#[test]
fn a_token_that_only_ends_like_a_known_one_is_not_known() {
    let authenticator = authenticator(&inline(&["rsa-1"]));
    let token = mint("rsa-1", &claims());
    decide(&authenticator, &request(&token));
    let mallory = mint("rsa-1", &json!({ "iss": ISSUER, "sub": "mallory", "exp": NOW + 300 }));
    let forged = format!("{}.{}", mallory.rsplit_once('.').unwrap().0, token.rsplit_once('.').unwrap().1);
    assert_eq!(decide(&authenticator, &request(&forged)), "signature_invalid");
}

#[test]
fn a_cached_token_is_denied_when_its_time_has_come() {
    let authenticator = authenticator(&inline(&["rsa-1"]));
    let token = mint("rsa-1", &claims());
    assert_eq!(decide(&authenticator, &request(&token)), "alice");
    // 300 s of life and 60 s of clock skew.
    assert_eq!(decide(&authenticator, &request(&token).at(NOW + 359)), "alice");
    assert_eq!(decide(&authenticator, &request(&token).at(NOW + 360)), "token_expired");
}

#[test]
fn the_shortest_way_reads_one_header_and_no_signature() {
    let authenticator = Authenticator::new(parse(&inline(&["rsa-1"])).unwrap(), Box::new(NoVerifier), 7);
    // Without an authorization header everything is looked at; with an unknown token too.
    let facts = TableFacts::request("GET", "/api").at(NOW);
    assert_eq!(decide(&authenticator, &facts), "token_missing");
    assert_eq!(decide(&authenticator, &request("a.b.c")), "token_malformed");
}

#[test]
fn what_the_proxy_does_not_tell_denies() {
    let failure = HostError { call: "get_header_map_pairs", status: 10 };
    let token = mint("rsa-1", &claims());
    let facts = TableFacts { failure: Some(failure), ..request(&token) };
    assert_eq!(decide(&authenticator(&inline(&["rsa-1"])), &facts), "internal");
    let public = json!({
        "providers": inline(&["rsa-1"])["providers"],
        "rules": [{ "match": { "paths": ["/*"] }, "allow": "anyone" }],
    });
    assert_eq!(decide(&authenticator(&public), &facts), "internal");
}

#[test]
fn an_algorithm_of_the_header_never_reaches_a_key_of_another() {
    let authenticator = authenticator(&inline(&["rsa-1", "ec-1"]));
    for alg in ["none", "None", "HS256", "PS256", "RS384", "ES256", "ES384", "", "rs256", "RS256 "] {
        let token = mint_with("rsa-1", &json!({ "alg": alg, "kid": "rsa-1" }), &claims());
        let code = decide(&authenticator, &request(&token));
        assert!(["token_malformed", "algorithm_not_allowed"].contains(&code.as_str()), "{alg}: {code}");
    }
}

#[test]
fn a_name_that_occurs_twice_makes_no_token() {
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
fn a_preflight_passes_only_without_a_token_of_its_own() {
    let authenticator = authenticator(&inline(&["rsa-1"]));
    let preflight = TableFacts::request("OPTIONS", "/api")
        .header("origin", "https://app.test")
        .header("access-control-request-method", "PUT")
        .at(NOW);
    assert_eq!(decide(&authenticator, &preflight), "preflight");
    let with_bad_token = preflight.clone().header("authorization", "Bearer x");
    assert_eq!(decide(&authenticator, &with_bad_token), "token_malformed");
    let plain = TableFacts::request("OPTIONS", "/api").header("origin", "https://app.test").at(NOW);
    assert_eq!(decide(&authenticator, &plain), "token_missing");
}

#[test]
fn keys_are_fetched_once_and_waited_for() {
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
fn an_unknown_key_is_asked_for_once_in_an_interval() {
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
fn a_key_that_leaves_the_set_takes_its_cached_tokens_along_and_no_others() {
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
    authenticator.take_cache_counts();
    bring(&["rsa-2"], 102);
    assert_eq!(decide(&authenticator, &at(request(&old), 103)), "key_unknown");
    assert_eq!(decide(&authenticator, &at(request(&new), 103)), "alice");
    assert_eq!(authenticator.take_cache_counts(), (1, 1));
}

#[test]
fn a_request_waits_twice_at_most() {
    let authenticator = authenticator(&remote());
    authenticator.remote(0).unwrap().borrow_mut().started(Duration::from_secs(100));
    let facts = at(request(&mint("rsa-1", &claims())), 100);
    assert_eq!(decide_after(&authenticator, &facts, 1), "wait");
    assert_eq!(decide_after(&authenticator, &facts, 2), "keys_unavailable");
}

#[test]
fn a_failed_fetch_is_tried_again_after_a_while() {
    let authenticator = authenticator(&remote());
    let facts = request(&mint("rsa-1", &claims()));
    let cache = authenticator.remote(0).unwrap();
    cache.borrow_mut().started(Duration::from_secs(100));
    cache.borrow_mut().failed(Duration::from_secs(100));
    assert_eq!(decide(&authenticator, &at(facts.clone(), 100)), "keys_unavailable");
    assert_eq!(decide(&authenticator, &at(facts, 101)), "fetch");
}

#[test]
fn providers_share_an_issuer_and_each_keeps_its_rules() {
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
        TableFacts::request("GET", "/tv/1").header("authorization", &format!("Bearer {token}")).at(NOW)
    };
    assert_eq!(decide(&authenticator, &tv(&token("tv"))), "tv");
    assert_eq!(decide(&authenticator, &tv(&token("web"))), "issuer_unknown");
    let tenant = |iss: &str| mint("rsa-2", &json!({ "iss": iss, "sub": "tenant", "exp": NOW + 300 }));
    assert_eq!(decide(&authenticator, &request(&tenant("https://a.example/"))), "tenant");
    assert_eq!(decide(&authenticator, &request(&tenant("https://a.example/b.example/"))), "issuer_unknown");
    assert_eq!(decide(&authenticator, &request(&tenant("https://.example.evil/"))), "issuer_unknown");
}

#[test]
fn demands_on_claims() {
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
fn registered_claims_have_their_types() {
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
fn a_secret_checks_what_is_named_and_nothing_else() {
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
fn a_secret_is_long_enough_and_not_in_the_error() {
    for (algorithms, env, expected) in [
        (json!(["HS256"]), "SHORT", "`SHORT` has 31 bytes; expected at least 32 for HS256"),
        (json!(["HS256", "HS512"]), "LONG", "`LONG` has 48 bytes; expected at least 64 for HS512"),
        (json!(["HS256"]), "OTHER", "`OTHER` is not set; expected it in vmConfig.env"),
        (json!(["RS256"]), "LONG", "`RS256` does not fit"),
        (json!(null), "LONG", "expected `algorithms` with `HS256`"),
    ] {
        let error = parse(&with_secret(&algorithms, env)).unwrap_err();
        assert!(error.contains(expected) && !error.contains(&SECRET[..8]), "{error}");
    }
    let mut public = inline(&["rsa-1"]);
    public["providers"]["platform"]["algorithms"] = json!(["RS256", "HS256"]);
    assert!(parse(&public).unwrap_err().contains("algorithms[1]: `HS256` does not fit"));
}

#[test]
fn the_revoked_are_refused() {
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
fn an_oversize_token_is_not_even_decoded() {
    let claims = json!({ "iss": ISSUER, "sub": "alice", "exp": NOW + 300, "x": "y".repeat(20_000) });
    assert_eq!(
        decide(&authenticator(&inline(&["rsa-1"])), &request(&mint("rsa-1", &claims))),
        "token_malformed"
    );
}
