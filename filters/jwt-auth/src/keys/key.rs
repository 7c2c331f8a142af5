//! A key that checks signatures.

use crate::keys::algorithm::Algorithm;
use crate::keys::refused::KeyError;

/// A public key, or a secret, that checks signatures of some algorithms and no others.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// The key ID, which names it in its set.
    pub kid: Option<String>,
    /// The algorithms that the key is for.
    pub algorithms: Vec<Algorithm>,
    /// The key itself.
    pub material: Material,
    /// `SubjectPublicKeyInfo` in DER; empty if no host accepts the key.
    pub spki: Vec<u8>,
}

/// A key in the form of its kind.
#[derive(PartialEq, Eq)]
pub enum Material {
    /// Modulus, unsigned and big endian. The exponent is 65537.
    Rsa(Vec<u8>),
    /// A point in the uncompressed form of SEC 1, on the curve.
    P256(Vec<u8>),
    /// A point in the uncompressed form of SEC 1, on the curve.
    P384(Vec<u8>),
    /// A point in the uncompressed form of SEC 1. The host checks each time whether it is on the curve.
    P521(Vec<u8>),
    /// A point as RFC 8032 encodes it.
    Ed25519(Vec<u8>),
    /// A secret for message authentication codes.
    Secret(Vec<u8>),
}

/// Shows the kind only, since one kind is a secret.
impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rsa(_) => "RSA",
            Self::P256(_) => "P-256",
            Self::P384(_) => "P-384",
            Self::P521(_) => "P-521",
            Self::Ed25519(_) => "Ed25519",
            Self::Secret(_) => "secret",
        })
    }
}

impl Material {
    /// The RSA key with this modulus and exponent.
    ///
    /// # Errors
    /// The key is too short or too long, or has another exponent than 65537.
    pub fn rsa(n: Vec<u8>, e: Vec<u8>) -> Result<Self, KeyError> {
        let without_zeros =
            |number: Vec<u8>| -> Vec<u8> { number.into_iter().skip_while(|b| *b == 0).collect() };
        let n = without_zeros(n);
        let unused = n.first().map_or(0, |first| first.leading_zeros() as usize);
        let bits = n.len().saturating_mul(8).saturating_sub(unused);
        if !(2048..=4096).contains(&bits) {
            return Err(KeyError::RsaSize(bits));
        }
        if without_zeros(e) != RSA_EXPONENT {
            return Err(KeyError::RsaExponent);
        }
        Ok(Self::Rsa(n))
    }
}

impl Key {
    /// Whether a token that names `kid` may mean this key. If the key or the token has no key ID, it may.
    pub fn is_named(&self, kid: Option<&str>) -> bool {
        match (&self.kid, kid) {
            (Some(own), Some(kid)) => own == kid,
            _ => true,
        }
    }
}

/// The one public exponent of RSA that is accepted, 65537, in big endian.
pub const RSA_EXPONENT: [u8; 3] = [1, 0, 1];
