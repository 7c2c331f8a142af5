//! The cores natively, without a proxy: what to improve. `make bench-cores`, or `make bench-cores ONLY=jwt`
//! for some.
#![allow(clippy::restriction)]

use std::cell::Cell;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use divan::{Bencher, black_box};
use jwt_auth::config::Config as JwtConfig;
use jwt_auth::decision::{Authenticator, Waited};
use jwt_auth::keys::jwk::KeySet;
use jwt_auth::keys::key::Key;
use jwt_auth::keys::signature::{Verdict, Verifier};
use jwt_auth::token::compact::UntrustedToken;
use plugin_kit::request::exchange::Exchange;
use plugin_kit::request::headers::HeaderMap;
use plugin_kit::request::path::{PathCase, Readings};
use plugin_kit::testing::FakeHost;
use rate_limit::config::Config as LimitConfig;
use rate_limit::decision::{Limits, Stage};
use rate_limit::testing::MemoryStore;
use serde_json::{Value, json};
use trace_tags::decision::Core;
use trace_tags::tags::tag::Phase;

fn main() {
    divan::main();
}

const NOW: u64 = 1_800_000_000;

/// Says yes: what is measured is what surrounds a signature.
struct Yes;

impl Verifier for Yes {
    fn verify(&self, _: &Key, _: &UntrustedToken<'_>) -> Verdict {
        Verdict::Valid
    }
}

const JWKS: &str = include_str!("../../../testdata/keys/jwks.json");

fn token(sub: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string().as_bytes());
    let header = part(&json!({ "alg": "RS256", "typ": "JWT", "kid": "rsa-1" }));
    let claims = part(&json!({
        "iss": "https://issuer.example/", "aud": "bench", "sub": sub, "iat": NOW, "nbf": NOW, "exp": NOW + 21_600,
        "scope": "openid profile content.read", "realm_access": { "roles": ["user", "author"] },
    }));
    format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode([0x5a; 256]))
}

fn request(token: &str) -> FakeHost {
    FakeHost::request("GET", "/content/lessons/42?part=3")
        .header("user-agent", "bench/1")
        .header("accept", "application/json")
        .header("x-user-id", "user-1")
        .header("x-request-id", "0b8a2a3e-0000-4000-8000-000000000000")
        .header("authorization", &format!("Bearer {token}"))
        .at(NOW)
}

fn jwt_config(rules: usize) -> Vec<u8> {
    let rules: Vec<Value> = (1..rules)
        .map(|n| json!({ "match": { "paths": [format!("/service-{n}/*")] }, "allow": "nobody" }))
        .chain(
            (rules > 0)
                .then(|| json!({ "match": { "paths": ["/content/*"] }, "require": { "provider": "bench" } })),
        )
        .collect();
    let config = json!({
        "providers": { "bench": {
            "issuer": "https://issuer.example/", "audiences": ["bench"],
            "jwks": serde_json::from_str::<Value>(JWKS).unwrap(),
            "outputClaimToHeaders": [{ "claim": "sub", "header": "x-user-sub" }],
        } },
        "rules": rules,
    });
    config.to_string().into_bytes()
}

fn authenticator(rules: usize) -> Authenticator {
    Authenticator::new(JwtConfig::parse(&jwt_config(rules), &|_: &str| None).unwrap(), Box::new(Yes), 7)
}

#[divan::bench(args = [0, 1, 1000])]
fn jwt_auth_seen_token(bencher: Bencher<'_, '_>, rules: usize) {
    let (authenticator, facts) = (authenticator(rules), request(&token("alice")));
    bencher.bench_local(|| {
        black_box(authenticator.decide(&Exchange::new(1, &facts), &mut Waited::default(), &|_| Ok(())))
    });
}

#[divan::bench]
fn jwt_auth_new_token_without_its_signature(bencher: Bencher<'_, '_>) {
    let (authenticator, users) = (authenticator(0), Cell::new(0_u64));
    bencher
        .with_inputs(|| {
            users.set(users.get() + 1);
            request(&token(&format!("user-{}", users.get())))
        })
        .bench_local_refs(|facts| {
            black_box(authenticator.decide(&Exchange::new(1, facts), &mut Waited::default(), &|_| Ok(())))
        });
}

#[divan::bench]
fn jwt_auth_token_parse(bencher: Bencher<'_, '_>) {
    let token = token("alice");
    bencher.bench_local(|| black_box(UntrustedToken::parse(black_box(token.as_bytes()))));
}

#[divan::bench]
fn jwt_auth_key_set(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| black_box(KeySet::parse(black_box(JWKS.as_bytes()))));
}

#[divan::bench(args = [1, 1000])]
fn jwt_auth_configuration(bencher: Bencher<'_, '_>, rules: usize) {
    let config = jwt_config(rules);
    bencher.bench_local(|| black_box(JwtConfig::parse(black_box(&config), &|_: &str| None)));
}

fn limits(key: &Value) -> (Limits, MemoryStore) {
    let config =
        json!({ "limits": [{ "name": "all", "key": key, "rate": { "requests": 1_000_000, "per": "1s" } }] });
    let config = LimitConfig::parse(config.to_string().as_bytes(), &|_: &str| None).unwrap();
    let store = MemoryStore::default();
    (Limits::new(config, &store, b"bench", || Ok([7; 16])).unwrap(), store)
}

fn charge(bencher: Bencher<'_, '_>, key: &Value) {
    let (limits, store) = limits(key);
    let mut facts = request("");
    let mut now = Duration::from_secs(1_000);
    bencher.bench_local(|| {
        now += Duration::from_micros(20);
        facts.monotonic_time = now;
        black_box(limits.decide(&store, &Exchange::new(1, &facts), Stage::All))
    });
}

#[divan::bench]
fn rate_limit_hot(bencher: Bencher<'_, '_>) {
    charge(bencher, &json!([]));
}

#[divan::bench]
fn rate_limit_by_a_header(bencher: Bencher<'_, '_>) {
    charge(bencher, &json!([{ "header": "x-user-id", "trust": true }]));
}

#[divan::bench]
fn trace_tags_three_tags(bencher: Bencher<'_, '_>) {
    let config = json!({ "tags": [
        { "name": "enduser.pseudo.id", "from": [{ "header": "x-user-id", "trust": true }], "pseudonym": {} },
        { "name": "request.id", "from": [{ "requestId": {} }] },
        { "name": "service.version", "from": [{ "literal": "v1" }] },
    ] });
    let key = |_: &str| Some("0123456789abcdef0123456789abcdef".to_owned());
    let config =
        trace_tags::config::Config::parse(config.to_string().as_bytes(), &key, Phase::Request).unwrap();
    let (core, facts) = (Core::new(config), request(""));
    bencher.bench_local(|| {
        let mut stream = trace_tags::decision::Stream::default();
        let exchange = Exchange::new(1, &facts);
        black_box(core.on_request(&mut stream, &exchange, || Ok(0))).tags.len()
    });
}

#[divan::bench(args = ["/content/lessons/42?part=3", "/a/%2e%2e/b;x=1//c"])]
fn path_readings(bencher: Bencher<'_, '_>, path: &str) {
    bencher.bench_local(|| black_box(Readings::of(black_box(path.as_bytes()), PathCase::Sensitive)));
}

#[divan::bench(args = [5, 25])]
fn head_parse_and_find(bencher: Bencher<'_, '_>, headers: usize) {
    let names: Vec<String> = (0..headers).map(|n| format!("x-header-{n}")).collect();
    let raw = HeaderMap::from_pairs(names.iter().map(|name| (name.as_str(), "value"))).into_raw();
    bencher
        .with_inputs(|| raw.clone())
        .bench_local_values(|raw| HeaderMap::parse(raw).unwrap().first("authorization").map(<[u8]>::len));
}
