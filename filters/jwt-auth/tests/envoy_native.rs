//! The same requests through this filter and through Envoy's own `jwt_authn`, in one Envoy. Every difference
//! is in the table below and in docs/jwt-auth.md, with its reason.
#![allow(clippy::restriction)]
#![cfg(not(target_family = "wasm"))]

mod common;

use std::time::{SystemTime, UNIX_EPOCH};

use common::{ISSUER, jwks, mint, mint_raw, mint_with};
use envoy::{Bootstrap, Cluster, Envoy, HttpFilter, Listener, Node, Request, Upstream, Wasm};
use serde_json::{Value, json};

fn start(upstream: &Upstream) -> Envoy {
    let mut keys = jwks(&["rsa-1", "ec-1"]);
    let mut for_encryption = jwks(&["rsa-2"])["keys"][0].clone();
    for_encryption["use"] = json!("enc");
    keys["keys"].as_array_mut().unwrap().push(for_encryption);
    let headers = json!([{ "claim": "sub", "header": "x-user-id" }]);
    let ours = json!({ "providers": { "platform": {
        "issuer": ISSUER, "audiences": ["api"], "jwks": keys, "outputClaimToHeaders": headers,
    }}});
    let native = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        "providers": { "platform": {
            "issuer": ISSUER,
            "audiences": ["api"],
            "local_jwks": { "inline_string": keys.to_string() },
            "claim_to_headers": [{ "claim_name": "sub", "header_name": "x-user-id" }],
        }},
        "rules": [{ "match": { "prefix": "/" }, "requires": { "provider_name": "platform" } }],
        "bypass_cors_preflight": true,
    });
    let module = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/filters/jwt-auth.wasm");
    let ours = HttpFilter::Wasm(Wasm::new("jwt-auth", module, ours.to_string()));
    let native = HttpFilter::Native { name: "envoy.filters.http.jwt_authn".to_owned(), config: native };
    let bootstrap = Bootstrap {
        node: Node::new("server", "shop", "v1"),
        clusters: vec![Cluster::new("service", upstream.address())],
    };
    let listeners =
        [Listener::new("ours", "service", vec![ours]), Listener::new("native", "service", vec![native])];
    Envoy::start(&bootstrap, &listeners, 1).unwrap()
}

/// The status, and `x-user-id` as the service saw it.
type Outcome = (u16, Option<String>);

fn outcome(envoy: &Envoy, upstream: &Upstream, listener: &str, request: &Request) -> Outcome {
    let status = request.send(envoy.address(listener).unwrap()).unwrap().status;
    let received = upstream.take_received();
    let user = received.iter().flat_map(|request| &request.headers).find(|(name, _)| name == "x-user-id");
    (status, user.map(|(_, value)| value.clone()))
}

#[test]
fn every_difference_to_the_native_filter_is_known() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let good = json!({ "iss": ISSUER, "aud": "api", "sub": "alice", "exp": now + 300 });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        mint("rsa-1", &claims)
    };
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(name);
        mint("rsa-1", &claims)
    };
    let header = |header: Value| mint_with("rsa-1", &header, &good);
    let raw = |payload: &str| mint_raw("rsa-1", r#"{"alg":"RS256","kid":"rsa-1"}"#, payload);
    let token = mint("rsa-1", &good);
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let forged = format!("{signed}.{}", signature.chars().rev().collect::<String>());

    // What both say, then where they differ: ours and native.
    let same: &[(&str, &str, u16)] = &[
        ("good", &token, 200),
        ("ES256", &mint("ec-1", &good), 200),
        ("without kid", &header(json!({ "alg": "RS256" })), 200),
        ("audience in a list", &with("aud", json!(["x", "api"])), 200),
        ("nbf in the past", &with("nbf", json!(now - 100)), 200),
        (
            "other key of the same name",
            &mint_with("rsa-2", &json!({ "alg": "RS256", "kid": "rsa-1" }), &good),
            401,
        ),
        ("unknown kid", &header(json!({ "alg": "RS256", "kid": "x" })), 401),
        ("bad signature", &forged, 401),
        ("no signature", &format!("{signed}."), 401),
        ("alg none", &mint_raw("rsa-1", r#"{"alg":"none"}"#, &good.to_string()), 401),
        ("alg of another key", &header(json!({ "alg": "ES256", "kid": "rsa-1" })), 401),
        ("alg unknown", &header(json!({ "alg": "XS256", "kid": "rsa-1" })), 401),
        ("expired", &with("exp", json!(now - 100)), 401),
        ("expired within the skew", &with("exp", json!(now - 30)), 200),
        ("not yet valid", &with("nbf", json!(now + 100)), 401),
        ("exp as text", &with("exp", json!("tomorrow")), 401),
        ("exp negative", &with("exp", json!(-1)), 401),
        ("other issuer", &with("iss", json!("https://other.test/")), 401),
        ("no issuer", &without("iss"), 401),
        ("not a token", "opaque", 401),
        ("two parts", "e30.e30", 401),
        ("payload no object", &raw("[]"), 401),
        ("payload no JSON", &raw("{"), 401),
        ("a claim twice", &raw(&good.to_string().replacen('{', r#"{"sub":"mallory","#, 1)), 401),
        ("sub as number", &with("sub", json!(7)), 401),
    ];
    let different: &[(&str, &str, u16, u16)] = &[
        // RFC 9068 section 4; `denyResponse.wrongAudience: forbidden` answers as Envoy does.
        ("other audience", &with("aud", json!("x")), 401, 403),
        ("no audience", &without("aud"), 401, 403),
        // An audience is compared exactly.
        ("audience with a scheme", &with("aud", json!("https://api/")), 401, 200),
        // A token without end must be asked for: `requireExpiration: false`.
        ("no exp", &without("exp"), 401, 200),
        ("exp zero", &with("exp", json!(0)), 401, 200),
        // No critical parameter that is not understood (RFC 7515 section 4.1.11).
        ("crit", &header(json!({ "alg": "RS256", "kid": "rsa-1", "crit": ["x"], "x": 1 })), 401, 200),
        ("b64", &header(json!({ "alg": "RS256", "kid": "rsa-1", "crit": ["b64"], "b64": false })), 401, 200),
        // Token types (RFC 8725 section 3.11).
        (
            "typ of a logout token",
            &header(json!({ "alg": "RS256", "kid": "rsa-1", "typ": "logout+jwt" })),
            401,
            200,
        ),
        (
            "a key that the token brings",
            &header(json!({ "alg": "RS256", "kid": "rsa-1", "jwk": {} })),
            401,
            200,
        ),
        // `use` of a key counts.
        ("key for encryption", &mint("rsa-2", &good), 401, 200),
        // Issued in the future.
        ("iat in the future", &with("iat", json!(now + 100)), 401, 200),
    ];
    let upstream = Upstream::start().unwrap();
    let envoy = start(&upstream);
    let mut wrong = Vec::new();
    let rows = same.iter().map(|(name, token, both)| (*name, *token, *both, *both));
    for (name, token, ours, native) in rows.chain(different.iter().copied()) {
        let request = Request::new("GET", "/")
            .header("authorization", &format!("Bearer {token}"))
            .header("x-user-id", "mallory");
        for (listener, expected) in [("ours", ours), ("native", native)] {
            let (status, user) = outcome(&envoy, &upstream, listener, &request);
            let user_is_good = match status {
                200 => user.as_deref() == Some("alice"),
                _ => user.is_none(),
            };
            if status != expected || !user_is_good {
                wrong.push(format!(
                    "{name}: {listener} answered {status} with user {user:?}, expected {expected}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), envoy.log_tail());
}

#[test]
fn preflight_brings_no_client_header_past_the_filter() {
    let upstream = Upstream::start().unwrap();
    let envoy = start(&upstream);
    let preflight = Request::new("OPTIONS", "/")
        .header("origin", "https://app.test")
        .header("access-control-request-method", "PUT")
        .header("x-user-id", "mallory");
    assert_eq!(outcome(&envoy, &upstream, "ours", &preflight), (200, None));
    // The native filter removes it since Envoy 1.40.
    let native = if minor_version(&envoy) < 40 { Some("mallory".to_owned()) } else { None };
    assert_eq!(outcome(&envoy, &upstream, "native", &preflight), (200, native));
}

/// 39 of Envoy 1.39.0; `server_info` has the version as `commit/1.39.0/…`.
fn minor_version(envoy: &Envoy) -> u32 {
    let info: Value = serde_json::from_str(&envoy.admin("GET", "/server_info").unwrap()).unwrap();
    let version = info["version"].as_str().unwrap().split('/').nth(1).unwrap();
    version.split('.').nth(1).unwrap().parse().unwrap()
}
