//! An issuer of tokens with one key, made for the run.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};

pub(crate) struct Issuer {
    key: EcdsaKeyPair,
    random: SystemRandom,
}

impl Issuer {
    pub(crate) fn new() -> Self {
        Self {
            key: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            random: SystemRandom::new(),
        }
    }

    /// The key set that it publishes.
    pub(crate) fn keys(&self) -> Value {
        // The point is uncompressed: 4, x, y.
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        let [x, y] = [x, y].map(|part| BASE64URL.encode(part));
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "one", "x": x, "y": y }] })
    }

    /// An `authorization` header with a token for `alice`; `times` are further claims.
    pub(crate) fn bearer(&self, times: &Value) -> String {
        let header = json!({ "alg": "ES256", "kid": "one" });
        let mut claims = json!({ "iss": "https://issuer.test/", "aud": "api", "sub": "alice" });
        claims.as_object_mut().unwrap().extend(times.as_object().unwrap().clone());
        let [header, claims] = [header, claims].map(|part| BASE64URL.encode(part.to_string()));
        let signed = format!("{header}.{claims}");
        let signature = self.key.sign(&self.random, signed.as_bytes()).unwrap();
        format!("Bearer {signed}.{}", BASE64URL.encode(signature))
    }
}

/// pluginConfig of jwt-auth for this issuer; `keys` is where they come from, `value` is they.
pub(crate) fn jwt_auth(keys: &str, value: &Value) -> Value {
    let mut provider = json!({ "issuer": "https://issuer.test/", "audiences": ["api"] });
    provider[keys] = value.clone();
    provider["outputClaimToHeaders"] = json!([{ "claim": "sub", "header": "x-user-id" }]);
    json!({ "providers": { "platform": provider } })
}
