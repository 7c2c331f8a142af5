//! From a request to a decision, without a proxy.

mod common;

use std::time::Duration;

use common::{ISSUER, NOW, claims, jwks, mint, mint_raw, mint_with};
use jwt_auth::authenticator::{Authenticator, Decision, Document, Pass, Waited, Why};
use jwt_auth::config::Config;
use jwt_auth::jwk::{Key, KeySet};
use jwt_auth::jwks_cache::Fetching;
use jwt_auth::pure_rust;
use jwt_auth::revocation::Revoked;
use jwt_auth::signature::{Verdict, Verifier};
use jwt_auth::token::UntrustedToken;
use plugin_kit::exchange::{Exchange, HostError};
use plugin_kit::testing::{AnyCel, TableFacts};
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
    match authenticator.decide(&Exchange::new(1, facts), &mut Waited::after(waits)) {
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
fn tokens_in_two_places_are_refused_or_must_both_be_good() {
    let mut config = inline(&["rsa-1"]);
    config["providers"]["platform"]["from"] = json!([{ "header": "authorization" }, { "cookie": "session" }]);
    let with = |bearer: &str, cookie: &str| {
        request(bearer).header("cookie", &format!("theme=dark; session={cookie}; lang=en"))
    };
    let (alice, bob) = (token_of("alice"), token_of("bob"));
    assert_eq!(decide(&authenticator(&config), &with(&alice, &bob)), "several_tokens");
    config["severalTokens"] = json!("verifyAll");
    let both = authenticator(&config);
    assert_eq!(decide(&both, &with(&alice, &bob)), "alice");
    assert_eq!(decide(&both, &with(&alice, "x")), "token_malformed");
    assert_eq!(decide(&both, &with("x", &bob)), "token_malformed");
}

#[test]
fn a_key_that_the_configuration_does_not_have_is_named_as_the_reason() {
    assert_eq!(
        decide(&authenticator(&inline(&["ec-1"])), &request(&mint("rsa-1", &claims()))),
        "key_unknown"
    );
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

/// Counts how often a signature is checked.
struct Counting(std::rc::Rc<std::cell::Cell<u32>>);

impl Verifier for Counting {
    fn verify(&self, key: &Key, token: &UntrustedToken<'_>) -> Verdict {
        self.0.set(self.0.get() + 1);
        PureRust.verify(key, token)
    }
}

#[test]
fn a_bad_signature_is_checked_once_as_long_as_the_keys_are_the_same() {
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
fn what_time_can_change_is_looked_at_again() {
    let authenticator = authenticator(&inline(&["rsa-1"]));
    let later = mint("rsa-1", &json!({ "iss": ISSUER, "sub": "alice", "nbf": NOW + 100, "exp": NOW + 300 }));
    assert_eq!(decide(&authenticator, &request(&later)), "token_not_yet_valid");
    assert_eq!(decide(&authenticator, &request(&later).at(NOW + 100)), "alice");
}

#[test]
fn a_bad_signature_for_one_provider_says_nothing_where_there_are_two() {
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
fn a_list_of_revoked_tokens_is_fetched_once_and_waited_for() {
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
fn a_list_that_is_too_old_denies_or_not_as_it_is_configured() {
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
fn one_of_several_audiences_is_enough() {
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

fn evaluated(mut facts: TableFacts) -> TableFacts {
    facts.evaluate = Some(is_alice);
    facts
}

fn token_of(subject: &str) -> String {
    mint("rsa-1", &json!({ "iss": ISSUER, "sub": subject, "exp": NOW + 300 }))
}

#[test]
fn only_a_condition_that_holds_lets_in() {
    let authenticator = with_condition(&inline(&["rsa-1"]), &json!({ "require": {}, "when": "…" }));
    let decide_token = |token: &str| decide(&authenticator, &evaluated(request(token)));
    assert_eq!(decide_token(&token_of("alice")), "alice");
    assert_eq!(decide_token(&token_of("bob")), "condition_forbidden");
    assert_eq!(authenticator.take_conditions_failed(), 0);
    assert_eq!(decide_token(&token_of("mallory")), "condition_forbidden");
    assert_eq!(authenticator.take_conditions_failed(), 1);
    assert_eq!(authenticator.take_conditions_failed(), 0);
    let huge = mint(
        "rsa-1",
        &json!({ "iss": ISSUER, "sub": "alice", "exp": NOW + 300, "n": 9_007_199_254_740_993_u64 }),
    );
    assert_eq!(decide_token(&huge), "condition_forbidden");
    assert_eq!(authenticator.take_conditions_failed(), 1);
}

#[test]
fn without_a_token_a_condition_sees_no_claims() {
    let rule = json!({ "allow": "anyone", "verify": "bestEffort", "when": "…" });
    let authenticator = with_condition(&inline(&["rsa-1"]), &rule);
    let facts = evaluated(TableFacts::request("GET", "/api").at(NOW));
    assert_eq!(decide(&authenticator, &facts), "anyone");
    assert_eq!(decide(&authenticator, &evaluated(request(&token_of("bob")))), "condition_forbidden");
    assert_eq!(decide(&authenticator, &evaluated(request("bad"))), "anyone");
    // It may read the path.
    let odd = evaluated(TableFacts::request("GET", "/a/../b").at(NOW));
    assert_eq!(decide(&authenticator, &odd), "path_ambiguous");
}

/// Decides twice: before keys are there, and after, when the host evaluates nothing any more.
fn decide_around_a_wait(rule: &Value, first: &str, then: &str) -> (String, u32) {
    let authenticator = with_condition(&remote(), rule);
    let mut waited = Waited::default();
    let facts = at(evaluated(request(first)), 100);
    let decision = authenticator.decide(&Exchange::new(1, &facts), &mut waited);
    assert!(matches!(decision, Decision::Wait { document: Document::Keys(0), fetch: true }));
    let set = KeySet::parse(jwks(&["rsa-1"]).to_string().as_bytes()).unwrap();
    authenticator.remote(0).unwrap().borrow_mut().succeeded(Duration::from_secs(100), set, None);
    let facts = at(request(then), 100);
    let decided = match authenticator.decide(&Exchange::new(1, &facts), &mut waited) {
        Decision::Allow(pass) if pass.why == Why::Token => "token",
        Decision::Allow(_) => "anyone",
        Decision::Deny(denial) => denial.reason.outside().code,
        Decision::Wait { .. } => "wait",
    };
    (decided.to_owned(), authenticator.take_conditions_failed())
}

#[test]
fn a_condition_is_asked_before_a_request_waits() {
    let rule = json!({ "require": {}, "when": "…" });
    let of = |subject: &str| decide_around_a_wait(&rule, &token_of(subject), &token_of(subject));
    assert_eq!(of("alice"), ("token".to_owned(), 0));
    assert_eq!(of("bob"), ("condition_forbidden".to_owned(), 0));
    assert_eq!(of("mallory"), ("condition_forbidden".to_owned(), 1));
    // What was said of one token is not said of another.
    let other = decide_around_a_wait(&rule, &token_of("alice"), &token_of("bob"));
    assert_eq!(other, ("condition_forbidden".to_owned(), 1));
    let rule = json!({ "allow": "anyone", "verify": "bestEffort", "when": "…" });
    let forged = mint_with("rsa-2", &json!({ "alg": "RS256", "kid": "rsa-1" }), &claims());
    assert_eq!(decide_around_a_wait(&rule, &forged, &forged), ("anyone".to_owned(), 0));
}

#[test]
fn documents_of_each_provider_are_fetched() {
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
fn a_new_list_forgets_revoked_tokens_of_its_provider_alone() {
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
    authenticator.take_cache_counts();
    authenticator.tick(Document::Revoked(0), now);
    assert_eq!(decide_all(), ["alice", "bob", "alice"]);
    assert_eq!(authenticator.take_cache_counts(), (3, 0));
    authenticator.revoke(0, now, Revoked::parse(br#"{"sub":["alice"]}"#).unwrap(), None);
    assert_eq!(decide_all(), ["token_revoked", "bob", "alice"]);
    assert_eq!(authenticator.take_cache_counts(), (2, 1));
}

#[test]
fn without_a_list_cached_tokens_stay_where_they_may() {
    let authenticator = with_list("allow");
    let facts = at(request(&mint("rsa-1", &claims())), 100);
    authenticator.revoke(0, Duration::from_secs(100), Revoked::default(), None);
    assert_eq!(decide(&authenticator, &facts), "alice");
    authenticator.take_cache_counts();
    authenticator.tick(Document::Revoked(0), Duration::from_secs(1000));
    assert_eq!(decide(&authenticator, &facts), "alice");
    assert_eq!(authenticator.take_cache_counts(), (1, 0));
}

/// What a request that goes on is given.
fn pass<'a>(authenticator: &'a Authenticator, facts: &TableFacts) -> Pass<'a> {
    match authenticator.decide(&Exchange::new(1, facts), &mut Waited::default()) {
        Decision::Allow(pass) => pass,
        other => panic!("{other:?}"),
    }
}

/// What a request that goes on loses: the client's copies of headers, and what carried a token; and who it is then.
fn passed(authenticator: &Authenticator, facts: &TableFacts) -> (Vec<String>, Vec<String>, usize) {
    let pass = pass(authenticator, facts);
    let spent = pass.spent.iter().map(|(name, _)| name.to_string()).collect();
    (pass.strip, spent, pass.tokens.len())
}

fn with_rules(rules: &Value) -> Value {
    let mut config = inline(&["rsa-1"]);
    config["providers"]["platform"]["outputClaimToHeaders"] =
        json!([{ "claim": "sub", "header": "x-user-id" }]);
    config["rules"] = rules.clone();
    config
}

#[test]
fn a_clients_copies_of_headers_go_whatever_lets_the_request_in() {
    let rules = json!([{ "match": { "methods": ["PUT"] }, "allow": "anyone" }]);
    let authenticator = authenticator(&with_rules(&rules));
    let copies = |facts: TableFacts| facts.header("x_user_id", "mallory").header("x-other", "1").at(NOW);
    let preflight = TableFacts::request("OPTIONS", "/")
        .header("origin", "https://app.test")
        .header("access-control-request-method", "PUT");
    for facts in
        [copies(request(&token_of("alice"))), copies(TableFacts::request("PUT", "/")), copies(preflight)]
    {
        assert_eq!(passed(&authenticator, &facts).0, ["x_user_id"]);
    }
    assert_eq!(passed(&authenticator, &request(&token_of("alice"))).0, Vec::<String>::new());
}

#[test]
fn where_no_token_is_looked_at_it_stays_and_says_nothing() {
    let rules = json!([
        { "match": { "paths": ["/never"] }, "allow": "anyone", "verify": "never" },
        { "match": { "paths": ["/maybe"] }, "allow": "anyone" },
        { "match": { "paths": ["/must"] }, "require": {} },
    ]);
    let authenticator = authenticator(&with_rules(&rules));
    let to = |path: &str| {
        let bearer = format!("Bearer {}", token_of("alice"));
        passed(&authenticator, &TableFacts::request("GET", path).header("authorization", &bearer).at(NOW))
    };
    assert_eq!(to("/never"), (vec![], vec![], 0));
    for path in ["/maybe", "/must"] {
        assert_eq!(to(path), (vec![], vec!["authorization".to_owned()], 1));
    }
}

#[test]
fn every_reading_of_a_path_must_let_in_or_none_does() {
    let rules = json!([
        { "match": { "paths": ["/public/*"] }, "allow": "anyone" },
        { "match": { "paths": ["/closed/*"] }, "allow": "nobody" },
    ]);
    let to = |config: &Value, path: &str| {
        decide(&authenticator(config), &TableFacts::request("GET", path).at(NOW))
    };
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
fn a_publishing_reading_next_to_a_silent_one_publishes_nothing() {
    let rules = json!([
        { "match": { "paths": ["/never/*"] }, "allow": "anyone", "verify": "never" },
        { "match": { "paths": ["/maybe/*"] }, "allow": "anyone" },
    ]);
    let mut config = with_rules(&rules);
    config["ambiguousPath"] = json!("everyReading");
    let bearer = format!("Bearer {}", token_of("alice"));
    for path in ["/never/../maybe", "/maybe/../never"] {
        let facts = TableFacts::request("GET", path).header("authorization", &bearer).at(NOW);
        assert_eq!(passed(&authenticator(&config), &facts), (vec![], vec![], 0), "{path}");
    }
}

#[test]
fn a_token_goes_on_to_the_service_where_its_provider_says_so() {
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
    let pass = pass(&authenticator, &request(&token));
    let verified = pass.tokens[0].verified().unwrap();
    let headers: Vec<(&str, &str)> =
        verified.headers.iter().map(|(name, value)| (&**name, std::str::from_utf8(value).unwrap())).collect();
    assert_eq!(headers, [("x-user-id", "alice"), ("x-payload", token.split('.').nth(1).unwrap())]);
    assert_eq!(verified.outputs_failed, 0, "a claim that is missing is no failure");
}

#[test]
fn where_anyone_may_pass_the_provider_that_looks_at_the_place_counts() {
    let provider = |header: &str| json!({ "issuer": ISSUER, "jwks": jwks(&["rsa-1"]), "from": [{ "header": header, "prefix": "" }] });
    let config = json!({
        "providers": { "a": provider("x-a"), "b": provider("x-b") },
        "rules": [{ "allow": "anyone" }],
    });
    let authenticator = authenticator(&config);
    for (header, position) in [("x-a", 0), ("x-b", 1)] {
        let facts = TableFacts::request("GET", "/api").header(header, &token_of("alice")).at(NOW);
        let pass = pass(&authenticator, &facts);
        assert_eq!(pass.tokens[0].verified().unwrap().provider, position, "{header}");
    }
}
