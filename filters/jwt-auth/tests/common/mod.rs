//! Tokens for tests, minted by `jsonwebtoken`: another library than those that verify.
#![allow(dead_code, unreachable_pub, missing_docs)]

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

/// "Now" of the tests, in seconds since the epoch.
pub const NOW: u64 = 1_800_000_000;

pub const ISSUER: &str = "https://issuer.test/";

/// The public keys `names` of testdata/keys as a JWK set.
pub fn jwks(names: &[&str]) -> Value {
    let all: Value = serde_json::from_str(include_str!("../../../../testdata/keys/jwks.json")).unwrap();
    let keys = all["keys"].as_array().unwrap();
    let with_kid = |kid: &&str| keys.iter().find(|key| key["kid"] == **kid).unwrap().clone();
    json!({ "keys": names.iter().map(with_kid).collect::<Vec<_>>() })
}

/// A good payload.
pub fn claims() -> Value {
    json!({ "iss": ISSUER, "sub": "alice", "exp": NOW + 300 })
}

/// A token of this key.
pub fn mint(key: &str, claims: &Value) -> String {
    let algorithm = match key {
        "ec-1" => "ES256",
        "ed-1" => "EdDSA",
        _ => "RS256",
    };
    mint_with(key, &json!({ "alg": algorithm, "typ": "JWT", "kid": key }), claims)
}

/// A token of this key with any header at all.
pub fn mint_with(key: &str, header: &Value, claims: &Value) -> String {
    mint_raw(key, &header.to_string(), &claims.to_string())
}

/// A token of this key with any texts as header and payload.
pub fn mint_raw(key: &str, header: &str, payload: &str) -> String {
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let pem = |name: &str| {
        std::fs::read(format!("{}/../../testdata/keys/{name}.pem", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    let (key, algorithm) = match key {
        "ec-1" => (EncodingKey::from_ec_pem(&pem(key)).unwrap(), Algorithm::ES256),
        "ed-1" => (EncodingKey::from_ed_pem(&pem(key)).unwrap(), Algorithm::EdDSA),
        _ => (EncodingKey::from_rsa_pem(&pem(key)).unwrap(), Algorithm::RS256),
    };
    let signature = jsonwebtoken::crypto::sign(text.as_bytes(), &key, algorithm).unwrap();
    format!("{text}.{signature}")
}

/// A token with a message authentication code.
pub fn mint_mac(algorithm: &str, secret: &[u8], header: &Value, claims: &Value) -> String {
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let algorithm = algorithm.parse().unwrap();
    let mac =
        jsonwebtoken::crypto::sign(text.as_bytes(), &EncodingKey::from_secret(secret), algorithm).unwrap();
    format!("{text}.{mac}")
}
