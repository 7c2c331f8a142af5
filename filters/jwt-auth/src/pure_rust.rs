//! Signatures checked in Rust, for hosts and algorithms without a check of their own.
//!
//! Keys are jwt-simple's, with its rules for what makes one, and so is the cryptography. Its reading of tokens is not used:
//! each algorithm would bring a copy of it, and [`crate::token`] has read the token already.

use ed25519_compact::Signature as Ed25519Signature;
use hmac_sha512::sha384;
use jwt_simple::prelude::*;
use jwt_simple::reexports::ct_codecs;
use superboring::hash::MessageDigest;
use superboring::pkey::PKey;
use superboring::rsa::Padding;
use superboring::sign::Verifier;

use crate::jwk::{Key, Material, RSA_EXPONENT};
use crate::signature::Algorithm;
use crate::token::UntrustedToken;

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

// Each in a function of its own: a host compiles a function in one piece, and its memory goes with the largest.

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
    let key = RS256PublicKey::from_components(n, &RSA_EXPONENT).ok()?;
    let key = PKey::from_rsa(key.public_key().as_ref().clone()).ok()?;
    let mut verifier = Verifier::new(digest, &key).ok()?;
    verifier.set_rsa_padding(padding).ok()?;
    verifier.update(signed).ok()?;
    verifier.verify(signature).ok()
}

#[inline(never)]
fn p256(point: &[u8], signed: &[u8], signature: &[u8]) -> Option<()> {
    use p256::ecdsa::{Signature, signature::DigestVerifier};

    let key = ES256PublicKey::from_bytes(point).ok()?;
    let signature = Signature::from_slice(signature).ok()?;
    let digest = |hash: &mut hmac_sha256::Hash| {
        hash.update(signed);
        Ok(())
    };
    key.public_key().as_ref().verify_digest(digest, &signature).ok()
}

#[inline(never)]
fn p384(point: &[u8], signed: &[u8], signature: &[u8]) -> Option<()> {
    use p384::ecdsa::{Signature, signature::DigestVerifier};

    let key = ES384PublicKey::from_bytes(point).ok()?;
    let signature = Signature::from_slice(signature).ok()?;
    let digest = |hash: &mut sha384::Hash| {
        hash.update(signed);
        Ok(())
    };
    key.public_key().as_ref().verify_digest(digest, &signature).ok()
}

#[inline(never)]
fn ed25519(point: &[u8], signed: &[u8], signature: &[u8]) -> Option<()> {
    let key = Ed25519PublicKey::from_bytes(point).ok()?;
    key.public_key().as_ref().verify(signed, &Ed25519Signature::from_slice(signature).ok()?).ok()
}

/// The authentication code of `signed`; `None` where `algorithm` has none.
#[inline(never)]
fn tag(secret: &[u8], algorithm: Algorithm, signed: &[u8]) -> Option<Vec<u8>> {
    Some(match algorithm {
        Algorithm::HS256 => HS256Key::from_bytes(secret).authentication_tag(signed),
        Algorithm::HS384 => HS384Key::from_bytes(secret).authentication_tag(signed),
        Algorithm::HS512 => HS512Key::from_bytes(secret).authentication_tag(signed),
        _ => return None,
    })
}

/// Whether the numbers make a key: an odd modulus of a good size, a point on its curve and not of small order.
pub fn is_valid(material: &Material) -> bool {
    match material {
        Material::Rsa(n) => RS256PublicKey::from_components(n, &RSA_EXPONENT).is_ok(),
        Material::P256(point) => ES256PublicKey::from_bytes(point).is_ok(),
        Material::P384(point) => ES384PublicKey::from_bytes(point).is_ok(),
        Material::P521(point) => !point.is_empty(),
        Material::Ed25519(point) => Ed25519PublicKey::from_bytes(point).is_ok(),
        Material::Secret(secret) => !secret.is_empty(),
    }
}
