//! Signatures checked by the host: Envoy's foreign function `verify_signature`, which is its `BoringSSL`.

use plugin_kit::host::HostError;
use plugin_kit::wire::protobuf::Message;

use crate::keys::algorithm::Algorithm;
use crate::keys::der;
use crate::keys::jwk::KeySet;
use crate::keys::key::{Key, Material};
use crate::token::compact::UntrustedToken;

/// The name of the foreign function.
pub const FUNCTION: &str = "verify_signature";

/// Calls the foreign function with a serialised argument.
pub type Call = Box<dyn Fn(&[u8]) -> Result<Vec<u8>, HostError>>;

/// The host's signature check, for the algorithms for which it has passed its test.
pub struct HostCrypto {
    call: Call,
    passed: Vec<Algorithm>,
}

impl HostCrypto {
    /// Tests the host with a known answer for each of these algorithms: it must accept a good signature, and
    /// refuse the same signature of another text.
    pub fn tested(call: Call, algorithms: &[Algorithm]) -> Self {
        let mut host = Self { call, passed: Vec::new() };
        host.passed = algorithms.iter().copied().filter(|algorithm| host.passes(*algorithm)).collect();
        host
    }

    /// Whether the host checks signatures of this algorithm.
    pub fn checks(&self, algorithm: Algorithm) -> bool {
        self.passed.contains(&algorithm)
    }

    /// Whether `token` carries a signature by `key`; `None` if the host does not say.
    pub fn verify(&self, key: &Key, token: &UntrustedToken<'_>) -> Option<bool> {
        if !self.checks(token.algorithm) {
            return None;
        }
        self.ask(key, token)
    }

    fn ask(&self, key: &Key, token: &UntrustedToken<'_>) -> Option<bool> {
        let Some(hash) = hash(token.algorithm, &key.material) else { return Some(false) };
        let signature = match &key.material {
            Material::P256(_) => der::ecdsa_signature(&token.signature, 32),
            Material::P384(_) => der::ecdsa_signature(&token.signature, 48),
            Material::P521(_) => der::ecdsa_signature(&token.signature, 66),
            // RFC 8017 section 8.2.2: as long as the modulus.
            Material::Rsa(n) if token.signature.len() == n.len() => Some(token.signature.clone()),
            _ => None,
        };
        let Some(signature) = signature else { return Some(false) };
        let answer = (self.call)(&argument(hash, &key.spki, &signature, token.signing_input.as_bytes()));
        answer.ok().and_then(|answer| result(&answer))
    }

    fn passes(&self, algorithm: Algorithm) -> bool {
        let Some((key, token)) = known_answer(algorithm) else { return false };
        let Ok(good) = UntrustedToken::parse(token.as_bytes()) else { return false };
        let Some(key) = KeySet::parse(key.as_bytes()).ok().and_then(|set| set.keys.into_iter().next()) else {
            return false;
        };
        let tampered = UntrustedToken { signing_input: "e30.e30", ..good.clone() };
        self.ask(&key, &good) == Some(true) && self.ask(&key, &tampered) == Some(false)
    }
}

fn hash(algorithm: Algorithm, material: &Material) -> Option<&'static str> {
    match (algorithm, material) {
        (Algorithm::RS256, Material::Rsa(_)) | (Algorithm::ES256, Material::P256(_)) => Some("sha256"),
        (Algorithm::RS384, Material::Rsa(_)) | (Algorithm::ES384, Material::P384(_)) => Some("sha384"),
        (Algorithm::RS512, Material::Rsa(_)) | (Algorithm::ES512, Material::P521(_)) => Some("sha512"),
        _ => None,
    }
}

/// `VerifySignatureArguments { hash_function = 1, public_key = 2, signature = 3, text = 4 }` as protobuf.
fn argument(hash: &str, public_key: &[u8], signature: &[u8], text: &[u8]) -> Vec<u8> {
    Message::with_capacity(text.len().saturating_add(1024))
        .bytes(1, hash.as_bytes())
        .bytes(2, public_key)
        .bytes(3, signature)
        .bytes(4, text)
        .into_bytes()
}

/// `VerifySignatureResult { bool result = 1; string error = 2 }`: a true `result`, or no `result` and an
/// error of less than 128 bytes. Envoy writes fields in the order of their numbers, and omits a false one.
/// `None` if it is another message.
fn result(message: &[u8]) -> Option<bool> {
    match message {
        [0x08, 0x01] => Some(true),
        [0x12, length, error @ ..] if usize::from(*length) == error.len() && error.len() < 0x80 => {
            Some(false)
        }
        _ => None,
    }
}

/// A JWK set with one key, and a token that this key has signed. Made once by another library, see
/// `testdata/known-answers/README.md`.
pub fn known_answer(algorithm: Algorithm) -> Option<(&'static str, &'static str)> {
    macro_rules! files {
        ($name:literal) => {
            Some((
                include_str!(concat!("../../../../testdata/known-answers/", $name, ".jwks.json")),
                include_str!(concat!("../../../../testdata/known-answers/", $name, ".jwt")).trim_ascii_end(),
            ))
        };
    }
    match algorithm {
        Algorithm::RS256 => files!("RS256"),
        Algorithm::RS384 => files!("RS384"),
        Algorithm::RS512 => files!("RS512"),
        Algorithm::ES256 => files!("ES256"),
        Algorithm::ES384 => files!("ES384"),
        Algorithm::ES512 => files!("ES512"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_host_answer_is_refused() {
        assert_eq!(result(&[8, 1]), Some(true));
        assert_eq!(result(b"\x12\x03bad"), Some(false));
        for other in [
            &b""[..],
            &[8],
            &[8, 0],
            &[8, 2],
            &[8, 1, 8, 1],
            b"\x12\x03ba",
            b"\x12\x03bad!",
            b"\x12",
            &[0xff; 9],
        ] {
            assert_eq!(result(other), None, "{other:?}");
        }
        assert_eq!(result(&[&[0x12, 0x80][..], &[b'x'; 0x80]].concat()), None);
    }
}
