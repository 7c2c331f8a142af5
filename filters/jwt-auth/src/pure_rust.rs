//! Signatures checked by jwt-simple, for hosts and algorithms without a check of their own.
//!
//! jwt-simple decides about signatures only. Its checks of claims are turned off here: they are this crate's, with its
//! own clock. What it refuses beyond RFC 7515, [`crate::token`] and [`crate::claims`] refuse as well, so that both ways
//! to check a signature come to one verdict.

use jwt_simple::prelude::*;

use crate::jwk::{Key, Material, RSA_EXPONENT};
use crate::signature::Algorithm;
use crate::token::UntrustedToken;

/// Checks with the key that `$key` makes.
macro_rules! check {
    ($key:expr, $token:expr) => {
        $key.is_ok_and(|key| key.verify_token::<NoCustomClaims>($token, Some(signature_only())).is_ok())
    };
}

/// Whether `token` carries a signature by `key`.
pub fn verify(key: &Key, token: &UntrustedToken<'_>) -> bool {
    let text = token.compact;
    match (&key.material, token.algorithm) {
        (Material::Rsa(n), Algorithm::RS256) => {
            check!(RS256PublicKey::from_components(n, &RSA_EXPONENT), text)
        }
        (Material::Rsa(n), Algorithm::RS384) => {
            check!(RS384PublicKey::from_components(n, &RSA_EXPONENT), text)
        }
        (Material::Rsa(n), Algorithm::RS512) => {
            check!(RS512PublicKey::from_components(n, &RSA_EXPONENT), text)
        }
        (Material::Rsa(n), Algorithm::PS256) => {
            check!(PS256PublicKey::from_components(n, &RSA_EXPONENT), text)
        }
        (Material::Rsa(n), Algorithm::PS384) => {
            check!(PS384PublicKey::from_components(n, &RSA_EXPONENT), text)
        }
        (Material::Rsa(n), Algorithm::PS512) => {
            check!(PS512PublicKey::from_components(n, &RSA_EXPONENT), text)
        }
        (Material::P256(point), Algorithm::ES256) => check!(ES256PublicKey::from_bytes(point), text),
        (Material::P384(point), Algorithm::ES384) => check!(ES384PublicKey::from_bytes(point), text),
        (Material::Ed25519(point), Algorithm::EdDSA) => check!(Ed25519PublicKey::from_bytes(point), text),
        (Material::Secret(secret), Algorithm::HS256) => {
            check!(Ok::<_, ()>(HS256Key::from_bytes(secret)), text)
        }
        (Material::Secret(secret), Algorithm::HS384) => {
            check!(Ok::<_, ()>(HS384Key::from_bytes(secret)), text)
        }
        (Material::Secret(secret), Algorithm::HS512) => {
            check!(Ok::<_, ()>(HS512Key::from_bytes(secret)), text)
        }
        _ => false,
    }
}

/// No claim is checked: at the epoch nothing has expired, and what lies in the future is accepted.
fn signature_only() -> VerificationOptions {
    VerificationOptions {
        accept_future: true,
        artificial_time: Some(UnixTimeStamp::from_secs(0)),
        time_tolerance: None,
        max_validity: None,
        max_token_length: None,
        ..VerificationOptions::default()
    }
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
