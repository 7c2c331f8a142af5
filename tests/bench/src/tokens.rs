//! Tokens and key sets, from the keys for tests.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::Result;

/// `iss` of every token.
pub(crate) const ISSUER: &str = "https://issuer.example/";
/// `aud` of every token.
pub(crate) const AUDIENCE: &str = "bench";

/// Signs tokens.
#[derive(Clone)]
pub(crate) struct Issuer {
    rsa: EncodingKey,
    ec: EncodingKey,
    keys: Vec<Value>,
    now: u64,
}

impl Issuer {
    /// Reads the keys in `folder`.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let rsa = EncodingKey::from_rsa_pem(&fs::read(folder.join("rsa-1.pem"))?)?;
        let ec = EncodingKey::from_ec_pem(&fs::read(folder.join("ec-1.pem"))?)?;
        let keys: Value = serde_json::from_slice(&fs::read(folder.join("jwks.json"))?)?;
        let keys = keys["keys"].as_array().ok_or("jwks.json has no keys")?.clone();
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        Ok(Self { rsa, ec, keys, now })
    }

    /// A token for the user `sub`, of about `size` bytes where it would be smaller.
    pub(crate) fn token(&self, algorithm: Algorithm, sub: &str, size: usize) -> Result<String> {
        let (key, kid) =
            if algorithm == Algorithm::RS256 { (&self.rsa, "rsa-1") } else { (&self.ec, "ec-1") };
        let mut header = Header::new(algorithm);
        header.kid = Some(kid.to_owned());
        let mut claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": sub, "iat": self.now, "nbf": self.now, "exp": self.now + 21_600,
            "scope": "openid profile content.read",
        });
        let token = encode(&header, &claims, key)?;
        let missing = size.saturating_sub(token.len());
        if missing == 0 {
            return Ok(token);
        }
        claims["profile"] = "x".repeat(missing * 3 / 4).into();
        Ok(encode(&header, &claims, key)?)
    }

    /// A key set that has the keys of the tokens behind so many RSA keys that `count` are in it.
    pub(crate) fn key_set(&self, count: usize) -> String {
        let ours: Vec<Value> =
            self.keys.iter().filter(|key| key["kid"] == "rsa-1" || key["kid"] == "ec-1").cloned().collect();
        let others = count.saturating_sub(ours.len());
        // Nobody has the private halves: any odd number will do as a modulus.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut keys: Vec<Value> = (0..others)
            .map(|number| {
                let mut modulus: Vec<u8> = (0..256)
                    .map(|_| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        state.to_be_bytes()[0]
                    })
                    .collect();
                modulus[0] |= 0x80;
                modulus[255] |= 1;
                let modulus = URL_SAFE_NO_PAD.encode(modulus);
                json!({
                    "kty": "RSA", "alg": "RS256", "use": "sig", "kid": format!("other-{number}"),
                    "e": "AQAB", "n": modulus,
                })
            })
            .collect();
        keys.extend(ours);
        json!({ "keys": keys }).to_string()
    }
}
