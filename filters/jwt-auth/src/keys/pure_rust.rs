//! Signatures checked in Rust, for hosts and algorithms without a check of their own.
//!
//! The cryptography is that under jwt-simple, and so are the rules for valid keys. The parser of tokens in
//! jwt-simple is not used: each algorithm would bring a copy of it, and [`crate::token::compact`] has read
//! the token already. Nor are its public keys, whose errors bring all the code that prints a backtrace: 40 KB
//! of a module.

use ed25519_compact::{PublicKey as Ed25519Key, Signature as Ed25519Signature};
use hmac_sha512::sha384;
use jwt_simple::prelude::{HS256Key, HS384Key, HS512Key, MACLike};
use jwt_simple::reexports::ct_codecs;
use superboring::bn::BigNum;
use superboring::hash::MessageDigest;
use superboring::pkey::{PKey, Public};
use superboring::rsa::{Padding, Rsa};
use superboring::sign::Verifier;

use crate::keys::algorithm::Algorithm;
use crate::keys::key::{Key, Material, RSA_EXPONENT};
use crate::token::compact::UntrustedToken;

/// Whether `token` carries a signature by `key`.
pub fn verify(key: &Key, token: &UntrustedToken<'_>) -> bool {
    let (signed, signature) = (token.signing_input.as_bytes(), token.signature.as_slice());
    match (&key.material, token.algorithm) {
        (Material::Rsa(n), algorithm) => rsa(n, algorithm, signed, signature).unwrap_or(false),
        (Material::P256(point), Algorithm::ES256) => p256(point, signed, signature).is_some(),
        (Material::P384(point), Algorithm::ES384) => p384(point, signed, signature).is_some(),
        (Material::Ed25519(point), Algorithm::EdDSA) => ed25519(point, signed, signature).is_some(),
        (Material::Secret(secret), algorithm) => {
            tag(secret, algorithm, signed).is_some_and(|tag| ct_codecs::verify(&tag, signature))
        }
        _ => false,
    }
}

// Each algorithm has a function of its own: a host compiles a function in one piece, and needs memory for the
// largest one.

#[inline(never)]
fn rsa(n: &[u8], algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> Option<bool> {
    let (digest, padding) = match algorithm {
        Algorithm::RS256 => (MessageDigest::sha256(), Padding::PKCS1),
        Algorithm::RS384 => (MessageDigest::sha384(), Padding::PKCS1),
        Algorithm::RS512 => (MessageDigest::sha512(), Padding::PKCS1),
        Algorithm::PS256 => (MessageDigest::sha256(), Padding::PKCS1_PSS),
        Algorithm::PS384 => (MessageDigest::sha384(), Padding::PKCS1_PSS),
        Algorithm::PS512 => (MessageDigest::sha512(), Padding::PKCS1_PSS),
        _ => return None,
    };
    let key = PKey::from_rsa(rsa_key(n)?).ok()?;
    let mut verifier = Verifier::new(digest, &key).ok()?;
    verifier.set_rsa_padding(padding).ok()?;
    verifier.update(signed).ok()?;
    verifier.verify(signature).ok()
}

/// The key with a modulus, which has 2048 to 4096 bits: [`crate::keys::jwk`] has checked it.
fn rsa_key(n: &[u8]) -> Option<Rsa<Public>> {
    n.last().filter(|last| *last & 1 == 1)?;
    let number = |bytes| BigNum::from_slice(bytes).ok();
    Rsa::from_public_components(number(n)?, number(&RSA_EXPONENT)?).ok()
}

#[inline(never)]
fn p256(point: &[u8], signed: &[u8], signature: &[u8]) -> Option<()> {
    use p256::ecdsa::{Signature, VerifyingKey, signature::DigestVerifier};

    let key = VerifyingKey::from_sec1_bytes(point).ok()?;
    let signature = Signature::from_slice(signature).ok()?;
    let digest = |hash: &mut hmac_sha256::Hash| {
        hash.update(signed);
        Ok(())
    };
    key.verify_digest(digest, &signature).ok()
}

#[inline(never)]
fn p384(point: &[u8], signed: &[u8], signature: &[u8]) -> Option<()> {
    use p384::ecdsa::{Signature, VerifyingKey, signature::DigestVerifier};

    let key = VerifyingKey::from_sec1_bytes(point).ok()?;
    let signature = Signature::from_slice(signature).ok()?;
    let digest = |hash: &mut sha384::Hash| {
        hash.update(signed);
        Ok(())
    };
    key.verify_digest(digest, &signature).ok()
}

#[inline(never)]
fn ed25519(point: &[u8], signed: &[u8], signature: &[u8]) -> Option<()> {
    ed25519_key(point)?.verify(signed, &Ed25519Signature::from_slice(signature).ok()?).ok()
}

fn ed25519_key(point: &[u8]) -> Option<Ed25519Key> {
    let key = Ed25519Key::from_slice(point).ok()?;
    key.validate().is_ok().then_some(key)
}

/// The message authentication code of `signed`; `None` if `algorithm` is not symmetric.
#[inline(never)]
fn tag(secret: &[u8], algorithm: Algorithm, signed: &[u8]) -> Option<Vec<u8>> {
    Some(match algorithm {
        Algorithm::HS256 => HS256Key::from_bytes(secret).authentication_tag(signed),
        Algorithm::HS384 => HS384Key::from_bytes(secret).authentication_tag(signed),
        Algorithm::HS512 => HS512Key::from_bytes(secret).authentication_tag(signed),
        _ => return None,
    })
}

/// Whether the numbers make a valid key: the modulus is odd, the point is on its curve and not of small
/// order.
pub fn is_valid(material: &Material) -> bool {
    match material {
        Material::Rsa(n) => rsa_key(n).is_some(),
        Material::P256(point) => p256::ecdsa::VerifyingKey::from_sec1_bytes(point).is_ok(),
        Material::P384(point) => p384::ecdsa::VerifyingKey::from_sec1_bytes(point).is_ok(),
        Material::P521(point) => !point.is_empty(),
        Material::Ed25519(point) => ed25519_key(point).is_some(),
        Material::Secret(secret) => !secret.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use jwt_simple::prelude::{ES256PublicKey, ES384PublicKey, Ed25519PublicKey, RS256PublicKey};
    use proptest::prelude::*;

    use super::*;

    fn by_jwt_simple(material: &Material) -> bool {
        match material {
            Material::Rsa(n) => RS256PublicKey::from_components(n, &RSA_EXPONENT).is_ok(),
            Material::P256(point) => ES256PublicKey::from_bytes(point).is_ok(),
            Material::P384(point) => ES384PublicKey::from_bytes(point).is_ok(),
            Material::Ed25519(point) => Ed25519PublicKey::from_bytes(point).is_ok(),
            Material::P521(_) | Material::Secret(_) => false,
        }
    }

    proptest! {
        /// A point is good half of the time in its compressed form.
        #[test]
        fn key_validity_agrees_with_jwt_simple(bytes in prop::collection::vec(any::<u8>(), 48), n in 256_usize..=512) {
            let compressed = |size: usize| [&[2][..], &bytes[..size]].concat();
            let modulus = [&[0xff][..], &bytes.iter().copied().cycle().take(n - 1).collect::<Vec<_>>()].concat();
            for material in [
                Material::Rsa(modulus),
                Material::P256(compressed(32)),
                Material::P384(compressed(48)),
                Material::Ed25519(bytes[..32].to_vec()),
                Material::Ed25519([&bytes[..1], &[0; 31]].concat()),
            ] {
                prop_assert_eq!(is_valid(&material), by_jwt_simple(&material), "{:?}", material);
            }
        }
    }
}
