//! Tokens minted when a case runs, by another library than the one that verifies them.

use crate::repository;
use crate::values::{offset, unix_now};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;

/// The keys of `testdata/keys`.
pub const KEYS: [&str; 4] = ["rsa-1", "rsa-2", "ec-1", "ed-1"];

/// How to make one token.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Token {
    /// Another token of the case, to which this one is compared: what is not said here is as there.
    like: Option<String>,
    /// The key in `testdata/keys` that signs; `rsa-1` unless said.
    key: Option<String>,
    /// `RS256`, `ES256` or `EdDSA` as the key is, unless said: `none`, `HS256`, `RS512` …
    algorithm: Option<String>,
    /// The HMAC key of an `HS…` token; `${pem:rsa-1}` for the classic confusion of algorithms.
    secret: Option<String>,
    /// The claims; `exp`, `nbf`, `iat` may be relative to now: `+5m`. Null removes what `like` brought.
    #[serde(default)]
    claims: Map<String, Value>,
    /// Header parameters beyond `alg`, `typ` and `kid`; null removes one.
    #[serde(default)]
    header: Map<String, Value>,
    /// Whether the parts are padded with `=`, against RFC 7515.
    padded: Option<bool>,
    /// What is changed after signing.
    tamper: Option<Tamper>,
    /// The token's text, instead of everything above.
    text: Option<String>,
}

/// The part of a token that is changed after signing.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Tamper {
    /// One bit of the signature.
    Signature,
    /// The subject becomes `mallory`.
    Payload,
    /// The signature is cut off, its dot stays.
    NoSignature,
}

/// A token can't be minted as told.
#[derive(Debug, thiserror::Error)]
#[error("token {name}: {reason}")]
pub struct TokenError {
    name: String,
    reason: String,
}

/// The tokens of one case.
#[derive(Debug, Clone, Default)]
pub struct Tokens {
    minted: BTreeMap<String, String>,
}

impl Tokens {
    /// Mints all of them, now.
    pub fn mint(tokens: &BTreeMap<String, Token>) -> Result<Self, TokenError> {
        let mut minted = BTreeMap::new();
        for name in tokens.keys() {
            let error = |reason| TokenError { name: name.clone(), reason };
            let token = resolve(tokens, name, 0).map_err(error)?;
            minted.insert(name.clone(), token.mint().map_err(error)?);
        }
        Ok(Self { minted })
    }

    /// A token's text.
    pub fn text(&self, name: &str) -> Result<&str, TokenError> {
        self.minted.get(name).map(String::as_str).ok_or_else(|| TokenError {
            name: name.to_owned(),
            reason: "not among the tokens of the case".to_owned(),
        })
    }

    /// The signature of each token, or an opaque token: what must never be seen outside of the requests that carry it.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.minted
            .values()
            .map(|token| token.rsplit_once('.').map_or(token.as_str(), |(_, signature)| signature))
            .filter(|signature| signature.len() >= 32)
    }
}

impl Token {
    /// A token by key and claims, for the demonstration and other programs.
    pub fn new(key: &str, claims: Value) -> Self {
        let claims = if let Value::Object(claims) = claims { claims } else { Map::new() };
        Self { key: Some(key.to_owned()), claims, ..Self::default() }
    }

    /// Makes the token's text, with times relative to now.
    pub fn mint(&self) -> Result<String, String> {
        if let Some(text) = &self.text {
            return Ok(text.clone());
        }
        let key = self.key.as_deref().unwrap_or("rsa-1");
        let algorithm = self.algorithm.as_deref().unwrap_or(match key {
            "ec-1" => "ES256",
            "ed-1" => "EdDSA",
            _ => "RS256",
        });
        let mut header = Map::new();
        merge(
            &mut header,
            json!({ "alg": algorithm, "typ": "JWT", "kid": key }).as_object().into_iter().flatten(),
        );
        merge(&mut header, &self.header);
        let mut claims = self.claims.clone();
        for name in ["exp", "nbf", "iat", "auth_time"] {
            // Other texts are of a wrong type on purpose.
            if let Some(Value::String(text)) = claims.get(name)
                && text.starts_with(['+', '-'])
            {
                let seconds =
                    offset(text).ok_or_else(|| format!("{name}: {text:?} is no offset such as +5m"))?;
                claims[name] = json!(unix_now() + seconds);
            }
        }
        let padded = |part: String| {
            let missing = if self.padded == Some(true) { part.len().wrapping_neg() % 4 } else { 0 };
            part + &"=".repeat(missing)
        };
        let part = |value: Map<String, Value>| {
            padded(BASE64_URL_SAFE_NO_PAD.encode(Value::Object(value).to_string()))
        };
        let message = format!("{}.{}", part(header), part(claims.clone()));
        let signature = match algorithm {
            "none" => String::new(),
            _ => padded(self.sign(key, algorithm, message.as_bytes())?),
        };
        Ok(match self.tamper {
            None => format!("{message}.{signature}"),
            Some(Tamper::NoSignature) => format!("{message}."),
            Some(Tamper::Signature) => {
                let mut bytes =
                    BASE64_URL_SAFE_NO_PAD.decode(&signature).map_err(|error| error.to_string())?;
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
            }
            Some(Tamper::Payload) => {
                claims.insert("sub".to_owned(), json!("mallory"));
                let head = message.split_once('.').map(|(head, _)| head).unwrap_or_default();
                format!("{head}.{}.{signature}", part(claims))
            }
        })
    }

    fn sign(&self, key: &str, algorithm: &str, message: &[u8]) -> Result<String, String> {
        let algorithm: Algorithm = algorithm.parse().map_err(|_| format!("unknown algorithm {algorithm}"))?;
        let key = match algorithm {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
                let secret = self.secret.as_deref().ok_or("an HS… token needs a secret")?;
                Ok(EncodingKey::from_secret(expand_pem(secret)?.as_bytes()))
            }
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(&private_key(key)?),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(&private_key(key)?),
            _ => EncodingKey::from_rsa_pem(&private_key(key)?),
        };
        let key = key.map_err(|error| error.to_string())?;
        crypto::sign(message, &key, algorithm).map_err(|error| error.to_string())
    }
}

/// The JWK set of these keys of `testdata/keys`.
pub fn public_keys(names: &[&str]) -> Result<Value, String> {
    let text = include_str!("../../../testdata/keys/jwks.json");
    let all: Value = serde_json::from_str(text).map_err(|error| format!("jwks.json: {error}"))?;
    let known = all["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    let key = |name: &&str| {
        let key = known.iter().find(|key| key["kid"] == *name);
        key.ok_or_else(|| format!("no key {name} in testdata/keys"))
    };
    let keys = names.iter().map(key).collect::<Result<Vec<_>, _>>()?;
    Ok(json!({ "keys": keys }))
}

fn private_key(name: &str) -> Result<Vec<u8>, String> {
    let path = repository().join("testdata/keys").join(format!("{name}.pem"));
    fs::read(&path).map_err(|error| format!("key {name}: {error}"))
}

fn expand_pem(text: &str) -> Result<String, String> {
    match text.strip_prefix("${pem:").and_then(|text| text.strip_suffix('}')) {
        Some(name) => private_key(name).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        None => Ok(text.to_owned()),
    }
}

fn resolve(tokens: &BTreeMap<String, Token>, name: &str, depth: usize) -> Result<Token, String> {
    let token = tokens.get(name).ok_or_else(|| format!("like: no token {name}"))?.clone();
    let Some(like) = &token.like else { return Ok(token) };
    if depth > tokens.len() {
        return Err("like: goes round in circles".to_owned());
    }
    let mut base = resolve(tokens, like, depth + 1)?;
    merge(&mut base.claims, &token.claims);
    // Null in a header removes a parameter that minting would add: it stays until then.
    base.header.extend(token.header);
    Ok(Token {
        like: None,
        key: token.key.or(base.key),
        algorithm: token.algorithm.or(base.algorithm),
        secret: token.secret.or(base.secret),
        tamper: token.tamper.or(base.tamper),
        text: token.text.or(base.text),
        ..base
    })
}

/// Null removes.
fn merge<'a>(into: &mut Map<String, Value>, from: impl IntoIterator<Item = (&'a String, &'a Value)>) {
    for (name, value) in from {
        if value.is_null() {
            into.remove(name);
        } else {
            into.insert(name.clone(), value.clone());
        }
    }
}
