//! JSON Web Keys and sets of them (RFC 7517, RFC 7518 section 6, RFC 8037).

use std::cell::Cell;
use std::rc::Rc;

use plugin_kit::wire::json;
use serde_json::{Map, Value};

use crate::keys::algorithm::Algorithm;
use crate::keys::key::{Key, Material, RSA_EXPONENT};
use crate::keys::refused::{KeyError, MOST_KEYS};
use crate::keys::{der, pem, pure_rust};
use crate::token::base64url;

/// The most keys that one token is tried against if it has no `kid`, or several keys have this `kid`, unless
/// the configuration says otherwise. Issuers have two or three keys.
pub const MOST_TRIED: usize = 10;

/// The keys of an issuer.
#[derive(Debug, Default)]
pub struct KeySet {
    /// The keys in use.
    pub keys: Vec<Rc<Key>>,
    /// The keys that are not used: position, or of fetched keys the key ID, and the reason.
    pub refused: Vec<(String, KeyError)>,
    /// Whether the log already says that not every key was tried.
    told: Cell<bool>,
}

/// The bytes are not a key set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a JWK set: expected a JSON object with a list `keys`, and no name twice; or PEM, or a map from key IDs to PEM"
)]
pub struct NotAKeySet;

/// What the keys of a set are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Purpose {
    /// Signatures (RFC 7517 section 4.2).
    #[default]
    Signatures,
    /// The JWT-SVIDs of a trust domain: the set is its bundle, which has keys for other purposes, too.
    JwtSvids,
}

impl KeySet {
    /// A set of these keys.
    pub fn of(keys: Vec<Rc<Key>>) -> Self {
        Self { keys, ..Self::default() }
    }

    /// Reads a key set: a JWK set, a map from key IDs to PEM, or PEM. A key that cannot be used is noted with the
    /// reason, and the other keys are used.
    ///
    /// # Errors
    /// The bytes are not a key set.
    pub fn parse(bytes: &[u8]) -> Result<Self, NotAKeySet> {
        Self::parse_for(bytes, Purpose::Signatures)
    }

    /// The same for keys that are for this purpose.
    ///
    /// # Errors
    /// The bytes are not a key set.
    pub fn parse_for(bytes: &[u8], purpose: Purpose) -> Result<Self, NotAKeySet> {
        Self::read(&Self::value(bytes)?, purpose)
    }

    /// The JSON of a key set; PEM is a text.
    fn value(bytes: &[u8]) -> Result<Value, NotAKeySet> {
        match std::str::from_utf8(bytes) {
            Ok(text) if pem::is_pem(text) => Ok(Value::String(text.to_owned())),
            _ => json::value(bytes).map_err(|_| NotAKeySet),
        }
    }

    /// Reads the set that an issuer has sent. A set in which no key can be used is an error, since it must
    /// not take the place of good keys.
    ///
    /// # Errors
    /// The bytes are not a key set, or no key of it can be used.
    pub fn fetched(bytes: &[u8], purpose: Purpose) -> Result<Self, String> {
        let named = |n, kid: Option<&str>| kid.map_or_else(|| position(n), printable);
        let set = Self::value(bytes).and_then(|value| Self::read_naming(&value, purpose, named));
        let set = set.map_err(|error| error.to_string())?;
        if set.keys.is_empty() { Err(set.why_empty()) } else { Ok(set) }
    }

    /// Why no key of the set can be used, for a log or an error.
    pub fn why_empty(&self) -> String {
        const SHOWN: usize = 5;
        if self.refused.is_empty() {
            return "no key that can be used".to_owned();
        }
        let reasons = self.refused.iter().take(SHOWN).map(|(kid, reason)| format!("{kid}: {reason}"));
        let reasons: Vec<String> = reasons.collect();
        let more = if self.refused.len() > SHOWN { ", …" } else { "" };
        format!("no key that can be used ({}{more})", reasons.join(", "))
    }

    /// The same as [`KeySet::parse`], from JSON that has been read already, in which JSON and PEM may also stand
    /// as a text.
    ///
    /// # Errors
    /// The value is not a key set.
    pub fn read(set: &Value, purpose: Purpose) -> Result<Self, NotAKeySet> {
        // Keys are not named by their key IDs: in a configuration, a secret may stand in the place of one.
        Self::read_naming(set, purpose, |n, _| position(n))
    }

    /// The same, where `name` names a key that cannot be used.
    fn read_naming(
        set: &Value,
        purpose: Purpose,
        name: impl Fn(usize, Option<&str>) -> String,
    ) -> Result<Self, NotAKeySet> {
        let mut found = Self::default();
        let mut add = |n, kid: Option<&str>, key: Result<Key, KeyError>| match key {
            _ if n >= MOST_KEYS => found.refused.push((name(n, kid), KeyError::TooMany)),
            Ok(key) => found.keys.push(Rc::new(key)),
            Err(error) => found.refused.push((name(n, kid), error)),
        };
        match (set, set.get("keys")) {
            (_, Some(Value::Array(list))) => {
                for (n, member) in list.iter().enumerate().take(MOST_KEYS.saturating_add(1)) {
                    let kid = member.get("kid").and_then(Value::as_str);
                    let key = if n < MOST_KEYS { parse_key(member, purpose) } else { Err(KeyError::TooMany) };
                    add(n, kid, key);
                }
            }
            // A key without a purpose is none of a trust domain's.
            _ if purpose == Purpose::JwtSvids => return Err(NotAKeySet),
            (Value::Object(members), _) if is_map_of_pem(members) => {
                for (n, (kid, text)) in members.iter().enumerate().take(MOST_KEYS.saturating_add(1)) {
                    add(n, Some(kid), key_in_pem(text.as_str().unwrap_or_default(), kid));
                }
            }
            (Value::String(text), _) if pem::is_pem(text) => {
                for (n, material) in pem::keys(text, MOST_KEYS.saturating_add(1)).into_iter().enumerate() {
                    add(n, None, material.and_then(|material| key(None, material, None)));
                }
            }
            _ => return Err(NotAKeySet),
        }
        Ok(found)
    }

    /// The same set, in which a key that `old` has, too, is the very same value. So whatever depends on a key
    /// outlives a refresh that does not change the key, and no other refresh.
    #[must_use]
    pub fn keeping(mut self, old: &Self) -> Self {
        for key in &mut self.keys {
            if let Some(same) = old.keys.iter().find(|known| *known == key) {
                *key = Rc::clone(same);
            }
        }
        self
    }

    /// The keys that may have signed a token with this `kid` and `alg`; first those that have the key ID of
    /// the token.
    pub fn candidates(&self, kid: Option<&str>, algorithm: Algorithm) -> Vec<&Rc<Key>> {
        let fits = |key: &&Rc<Key>| key.is_named(kid) && key.algorithms.contains(&algorithm);
        let is_named = |key: &&Rc<Key>| key.kid.as_deref() == kid;
        let (mut candidates, nameless): (Vec<_>, Vec<_>) = self.keys.iter().filter(fits).partition(is_named);
        candidates.extend(nameless);
        candidates
    }

    /// Writes to the log that a token was refused without being tried against every key that fits. This
    /// happens once for each set, since clients send such tokens as often as they like.
    pub fn tell_untried(&self, provider: &str, fitting: usize, tried: usize) {
        if !self.told.replace(true) {
            log::warn!(
                "jwt-auth: provider {provider}: a token fits {fitting} keys, of which {tried} were tried: its signature is by \
                 none of these; `maxKeysTried` says how many are"
            );
        }
    }

    /// Whether a token with this `kid` may be signed by a key of this set.
    pub fn knows(&self, kid: Option<&str>) -> bool {
        self.keys.iter().any(|key| key.is_named(kid))
    }
}

fn position(n: usize) -> String {
    format!("#{n}")
}

/// A key ID from outside, as a log may show it.
fn printable(name: &str) -> String {
    name.chars().take(64).flat_map(char::escape_default).collect()
}

/// Whether the names of a JSON object are key IDs, and its values keys or certificates in PEM.
fn is_map_of_pem(members: &Map<String, Value>) -> bool {
    !members.is_empty() && members.values().all(|value| value.as_str().is_some_and(pem::is_pem))
}

/// The key in a text that holds one.
fn key_in_pem(text: &str, kid: &str) -> Result<Key, KeyError> {
    let mut keys = pem::keys(text, 2).into_iter();
    match (keys.next(), keys.next()) {
        (Some(material), None) => key(Some(kid.to_owned()), material?, None),
        // Of a chain, only the first certificate is the issuer's own.
        _ => Err(KeyError::Pem),
    }
}

/// The key of this material, for these algorithms or else for all of its kind.
fn key(kid: Option<String>, material: Material, algorithms: Option<Vec<Algorithm>>) -> Result<Key, KeyError> {
    if !pure_rust::is_valid(&material) {
        return Err(KeyError::Invalid);
    }
    let spki = match &material {
        Material::Rsa(n) => der::rsa_public_key(n, &RSA_EXPONENT),
        Material::P256(point) => der::p256_public_key(point),
        Material::P384(point) => der::p384_public_key(point),
        Material::P521(point) => der::p521_public_key(point),
        Material::Ed25519(_) | Material::Secret(_) => Vec::new(),
    };
    let algorithms = algorithms.unwrap_or_else(|| possible(&material).to_vec());
    Ok(Key { kid, algorithms, material, spki })
}

/// The algorithms of a key that does not name its own. RSASSA-PSS is not among them, because otherwise the
/// client would choose the padding.
fn possible(material: &Material) -> &'static [Algorithm] {
    match material {
        Material::Rsa(_) => &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512],
        Material::P256(_) => &[Algorithm::ES256],
        Material::P384(_) => &[Algorithm::ES384],
        Material::P521(_) => &[Algorithm::ES512],
        Material::Ed25519(_) => &[Algorithm::EdDSA],
        Material::Secret(_) => &[],
    }
}

/// Reads one key of a JWK set.
fn parse_key(member: &Value, purpose: Purpose) -> Result<Key, KeyError> {
    let member = member.as_object().ok_or(KeyError::NotAnObject)?;
    let kid = match member.get("kid") {
        None => None,
        Some(Value::String(kid)) => Some(kid.clone()),
        Some(_) => return Err(KeyError::Member("kid")),
    };
    let key_type = text(member, "kty")?;
    let material = match key_type {
        "RSA" => Material::rsa(bytes(member, "n")?, bytes(member, "e")?)?,
        "EC" => match text(member, "crv")? {
            "P-256" => Material::P256(point(member, 32)?),
            "P-384" => Material::P384(point(member, 48)?),
            "P-521" => Material::P521(point(member, 66)?),
            _ => return Err(KeyError::Curve),
        },
        "OKP" => match text(member, "crv")? {
            "Ed25519" => Material::Ed25519(bytes(member, "x")?),
            _ => return Err(KeyError::Curve),
        },
        "oct" => return Err(KeyError::Symmetric),
        _ => return Err(KeyError::KeyType),
    };
    if member.contains_key("d") {
        return Err(KeyError::Private);
    }
    check_purpose(member, purpose)?;
    let algorithms = named_algorithms(member, key_type, possible(&material))?;
    key(kid, material, algorithms)
}

fn text<'a>(member: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, KeyError> {
    member.get(name).and_then(Value::as_str).ok_or(KeyError::Member(name))
}

fn bytes(member: &Map<String, Value>, name: &'static str) -> Result<Vec<u8>, KeyError> {
    base64url::decode(text(member, name)?.as_bytes()).ok_or(KeyError::Encoding(name))
}

/// x and y, which must have their full length (RFC 7518 section 6.2.1.2).
fn point(member: &Map<String, Value>, size: usize) -> Result<Vec<u8>, KeyError> {
    let (x, y) = (bytes(member, "x")?, bytes(member, "y")?);
    if x.len() != size || y.len() != size {
        return Err(KeyError::Invalid);
    }
    Ok([&[4][..], &x, &y].concat())
}

fn check_purpose(member: &Map<String, Value>, purpose: Purpose) -> Result<(), KeyError> {
    let own = member.get("use");
    let use_fits = match purpose {
        Purpose::Signatures => own.is_none_or(|own| own == "sig"),
        // A key without `use` is to be ignored (SPIFFE Trust Domain and Bundle, section 4.2.2).
        Purpose::JwtSvids => own.is_some_and(|own| own == "jwt-svid"),
    };
    let operations_fit = member.get("key_ops").is_none_or(|operations| {
        operations.as_array().is_some_and(|list| list.iter().any(|operation| operation == "verify"))
    });
    if use_fits && operations_fit { Ok(()) } else { Err(KeyError::Purpose) }
}

/// The algorithm that a key names, if it names one.
fn named_algorithms(
    member: &Map<String, Value>,
    key_type: &str,
    possible: &[Algorithm],
) -> Result<Option<Vec<Algorithm>>, KeyError> {
    let Some(named) = member.get("alg") else { return Ok(None) };
    let named = named.as_str().ok_or(KeyError::Member("alg"))?;
    let fits = |algorithm: &Algorithm| {
        let pss = [Algorithm::PS256, Algorithm::PS384, Algorithm::PS512].contains(algorithm);
        possible.contains(algorithm) || (key_type == "RSA" && pss)
    };
    match Algorithm::named(named).filter(fits) {
        Some(algorithm) => Ok(Some(vec![algorithm])),
        None => Err(KeyError::Algorithm),
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn public_keys() -> Value {
        serde_json::from_str(include_str!("../../../../testdata/keys/jwks.json")).unwrap()
    }

    fn key(kid: &str) -> Value {
        public_keys()["keys"].as_array().unwrap().iter().find(|key| key["kid"] == kid).unwrap().clone()
    }

    #[test]
    fn elements_beyond_the_hundredth_are_told_of_once() {
        let mut keys = vec![key("rsa-1")];
        keys.resize(10_000, json!(1));
        let set = KeySet::read(&json!({ "keys": keys }), Purpose::Signatures).unwrap();
        assert_eq!((set.keys.len(), set.refused.len()), (1, MOST_KEYS));
    }

    /// The key with these members changed; null removes one.
    #[allow(clippy::needless_pass_by_value)]
    fn with(kid: &str, changes: Value) -> Result<Key, KeyError> {
        let mut key = key(kid);
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => drop(key.as_object_mut().unwrap().remove(name)),
                value => key[name] = value.clone(),
            }
        }
        parse_key(&key, Purpose::Signatures)
    }

    #[test]
    fn key_is_bound_to_its_algorithm() {
        let algorithms = |kid, changes| with(kid, changes).unwrap().algorithms;
        let all_of_rsa = vec![Algorithm::RS256, Algorithm::RS384, Algorithm::RS512];
        assert_eq!(algorithms("rsa-1", json!({})), [Algorithm::RS256]);
        assert_eq!(algorithms("rsa-1", json!({ "alg": null })), all_of_rsa);
        assert_eq!(algorithms("rsa-1", json!({ "alg": "PS256" })), [Algorithm::PS256]);
        assert_eq!(algorithms("ec-1", json!({ "alg": null })), [Algorithm::ES256]);
        assert_eq!(algorithms("ed-1", json!({ "alg": null })), [Algorithm::EdDSA]);
        for (kid, alg) in [
            ("rsa-1", "ES256"),
            ("rsa-1", "HS256"),
            ("rsa-1", "none"),
            ("ec-1", "ES384"),
            ("ec-1", "RS256"),
            ("ed-1", "ES256"),
        ] {
            assert_eq!(with(kid, json!({ "alg": alg })), Err(KeyError::Algorithm), "{kid} {alg}");
        }
    }

    #[test]
    fn key_for_another_use_is_refused() {
        for changes in [
            json!({ "use": "enc" }),
            json!({ "key_ops": ["sign"] }),
            json!({ "key_ops": "verify" }),
            json!({ "key_ops": [] }),
        ] {
            assert_eq!(with("rsa-1", changes), Err(KeyError::Purpose));
        }
        assert!(with("rsa-1", json!({ "use": null, "key_ops": ["verify"] })).is_ok());
    }

    #[test]
    fn weak_rsa_keys_are_refused() {
        let n = |bytes: usize, first: u8| {
            let mut n = vec![0xff; bytes];
            n[0] = first;
            URL_SAFE_NO_PAD.encode(n)
        };
        assert_eq!(with("rsa-1", json!({ "n": n(128, 0xff) })), Err(KeyError::RsaSize(1024)));
        assert_eq!(with("rsa-1", json!({ "n": n(256, 0x7f) })), Err(KeyError::RsaSize(2047)));
        assert_eq!(with("rsa-1", json!({ "n": n(513, 1) })), Err(KeyError::RsaSize(4097)));
        assert!(with("rsa-1", json!({ "n": n(512, 0xff) })).is_ok());
        let even = URL_SAFE_NO_PAD.encode([&[0xff; 255][..], &[0xfe]].concat());
        assert_eq!(with("rsa-1", json!({ "n": even })), Err(KeyError::Invalid));
        for e in ["AQ", "Aw", "AAEAAQ", "AQAC", ""] {
            let expected = if e == "AAEAAQ" { Ok(()) } else { Err(KeyError::RsaExponent) };
            assert_eq!(with("rsa-1", json!({ "e": e })).map(drop), expected, "{e}");
        }
    }

    #[test]
    fn point_off_its_curve_is_refused() {
        let x = key("ec-1")["x"].clone();
        assert_eq!(with("ec-1", json!({ "y": x })), Err(KeyError::Invalid));
        assert_eq!(with("ec-1", json!({ "x": "AA" })), Err(KeyError::Invalid));
        assert_eq!(with("ec-1", json!({ "crv": "P-384" })), Err(KeyError::Invalid));
        assert_eq!(with("ec-1", json!({ "crv": "secp256k1" })), Err(KeyError::Curve));
        // Nobody here looks whether a point is on P-521, but its halves have their length.
        for (x, y) in [(66, 66), (65, 66), (66, 65), (65, 67)] {
            let half = |bytes: usize| URL_SAFE_NO_PAD.encode(vec![1; bytes]);
            let key = with("ec-1", json!({ "crv": "P-521", "alg": null, "x": half(x), "y": half(y) }));
            assert_eq!(key.map(drop), if (x, y) == (66, 66) { Ok(()) } else { Err(KeyError::Invalid) });
        }
        let zeros = "A".repeat(43);
        assert_eq!(with("ed-1", json!({ "x": zeros })), Err(KeyError::Invalid));
        assert_eq!(with("ed-1", json!({ "x": "AA" })), Err(KeyError::Invalid));
    }

    #[test]
    fn private_or_symmetric_key_is_refused() {
        assert_eq!(with("rsa-1", json!({ "d": "AQAB" })), Err(KeyError::Private));
        assert_eq!(with("rsa-1", json!({ "kty": "oct", "k": "AQAB" })), Err(KeyError::Symmetric));
    }

    #[test]
    fn bad_key_leaves_others_in_use() {
        let mut set = public_keys();
        set["keys"].as_array_mut().unwrap().extend([json!(7), json!({ "kty": "new\nkind", "kid": "a\nb" })]);
        let set = KeySet::parse(set.to_string().as_bytes()).unwrap();
        assert_eq!(set.keys.len(), 4);
        assert_eq!(set.refused[0], ("#4".to_owned(), KeyError::NotAnObject));
        assert_eq!(set.refused[1], ("#5".to_owned(), KeyError::KeyType));
    }

    #[test]
    fn fetched_key_is_named_and_configured_one_numbered() {
        for member in [
            json!({ "kty": "s3cr3t", "kid": "a\nb" }),
            json!({ "kty": "EC", "crv": "s3cr3t", "kid": "a\nb" }),
            json!({ "kty": "OKP", "crv": "s3cr3t", "kid": "a\nb" }),
        ] {
            let set = json!({ "keys": [member] });
            let fetched = KeySet::fetched(set.to_string().as_bytes(), Purpose::Signatures).unwrap_err();
            assert!(
                fetched.starts_with("no key that can be used (a\\nb: its ") && !fetched.contains("s3cr3t"),
                "{fetched}"
            );
            let configured = KeySet::read(&set, Purpose::Signatures).unwrap().why_empty();
            assert!(configured.starts_with("no key that can be used (#0: its "), "{configured}");
        }
        let mut alg = key("ec-1");
        alg["alg"] = json!("s3cr3t");
        assert!(
            !KeySet::read(&json!({ "keys": [alg] }), Purpose::Signatures)
                .unwrap()
                .why_empty()
                .contains("s3cr3t")
        );
    }

    #[test]
    fn fetched_set_without_usable_key_is_refused() {
        let fetched = |set: Value| KeySet::fetched(set.to_string().as_bytes(), Purpose::Signatures);
        assert_eq!(fetched(json!({ "keys": [] })).unwrap_err(), "no key that can be used");
        let secrets = json!({ "keys": vec![json!({ "kty": "oct", "kid": "s" }); 6] });
        let error = fetched(secrets).unwrap_err();
        assert!(error.starts_with("no key that can be used (s: a symmetric key"), "{error}");
        assert!(error.ends_with(", …)"), "{error}");
        assert_eq!(fetched(json!({ "keys": [key("ec-1"), 7] })).unwrap().keys.len(), 1);
        assert!(fetched(json!({})).is_err());
    }

    #[test]
    fn candidates_with_the_kid_come_first() {
        let mut nameless = key("rsa-2");
        nameless.as_object_mut().unwrap().remove("kid");
        let set = json!({ "keys": [nameless, key("ec-1"), key("rsa-2"), key("rsa-1")] });
        let set = KeySet::parse(set.to_string().as_bytes()).unwrap();
        let names = |kid: Option<&str>, algorithm| -> Vec<Option<String>> {
            set.candidates(kid, algorithm).iter().map(|key| key.kid.clone()).collect()
        };
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(names(Some("rsa-1"), Algorithm::RS256), [some("rsa-1"), None]);
        assert_eq!(names(None, Algorithm::RS256), [None, some("rsa-2"), some("rsa-1")]);
        assert_eq!(names(Some("rsa-1"), Algorithm::ES256), []);
    }

    #[test]
    fn keys_beyond_a_hundred_are_refused() {
        let keys = vec![key("ec-1"); MOST_KEYS + 1];
        let set = KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
        assert_eq!((set.keys.len(), set.refused.len()), (MOST_KEYS, 1));
    }

    #[test]
    fn malformed_set_is_refused() {
        for text in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#, "<html>"] {
            assert!(KeySet::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn unchanged_key_stays_the_same_value() {
        let parse = |keys: &[Value]| KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
        let old = parse(&[key("rsa-1"), key("ec-1")]);
        let mut renamed = key("ec-1");
        renamed["kid"] = json!("ec-2");
        let new = parse(&[renamed, key("rsa-1")]).keeping(&old);
        assert!(Rc::ptr_eq(&new.keys[1], &old.keys[0]));
        assert!(!Rc::ptr_eq(&new.keys[0], &old.keys[1]));
    }

    #[test]
    fn debug_output_shows_no_key() {
        let secret = Material::Secret(b"secret".to_vec());
        assert_eq!(format!("{secret:?}"), "secret");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_set_or_refused(bytes: Vec<u8>) {
            let _ = KeySet::parse(&bytes);
        }

        #[test]
        fn any_members_make_a_key_or_a_reason(
            kty in "(RSA|EC|OKP|oct|x)",
            crv in "(P-256|P-384|Ed25519|x)",
            n in "[A-Za-z0-9_-]{0,12}",
            x in "[A-Za-z0-9_-]{0,66}",
        ) {
            let _ = parse_key(&json!({ "kty": kty, "crv": crv, "n": n, "e": "AQAB", "x": x, "y": x }), Purpose::Signatures);
        }
    }
}
