//! Signature checks as Envoy's `Common::Crypto::UtilityImpl` makes them with `BoringSSL`.

use aws_lc_rs::signature::{
    self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};

/// A public key as `EVP_parse_public_key` accepts it.
#[derive(Debug)]
pub(crate) enum PublicKey<'a> {
    Rsa { modulus: &'a [u8], exponent: &'a [u8] },
    Ec { curve: Curve, point: &'a [u8] },
    Ed25519,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

/// Parses a `SubjectPublicKeyInfo` in DER (RFC 5280 §4.1), or `None` where `BoringSSL` would give no key.
pub(crate) fn parse_public_key(der: &[u8]) -> Option<PublicKey<'_>> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
    const P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
    const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

    let mut info = element(&mut { der }, 0x30)?;
    let mut algorithm = element(&mut info, 0x30)?;
    let object = element(&mut algorithm, 0x06)?;
    let (unused, key) = element(&mut info, 0x03)?.split_first()?;
    if *unused != 0 {
        return None;
    }
    match object {
        RSA => {
            let mut sequence = element(&mut { key }, 0x30)?;
            let modulus = unsigned(element(&mut sequence, 0x02)?);
            let exponent = unsigned(element(&mut sequence, 0x02)?);
            Some(PublicKey::Rsa { modulus, exponent })
        }
        EC => {
            let curve = match element(&mut algorithm, 0x06)? {
                P256 => Curve::P256,
                P384 => Curve::P384,
                P521 => Curve::P521,
                _ => return None,
            };
            Some(PublicKey::Ec { curve, point: key })
        }
        ED25519 => (key.len() == 32).then_some(PublicKey::Ed25519),
        _ => None,
    }
}

/// `UtilityImpl::verifySignature` (Envoy `source/common/crypto/utility_impl.cc`): `Err` holds its message.
///
/// AWS-LC's interface has fewer combinations than `BoringSSL`'s; the ones that a JWS algorithm needs are all
/// there. Ed25519 fails in Envoy because `EVP_DigestVerifyInit` refuses a digest for it.
pub(crate) fn verify(hash: &str, key: &PublicKey<'_>, signature: &[u8], text: &[u8]) -> Result<(), String> {
    let hash = hash.to_ascii_lowercase();
    if !matches!(hash.as_str(), "sha1" | "sha224" | "sha256" | "sha384" | "sha512") {
        return Err(format!("{hash} is not supported."));
    }
    let valid = match key {
        PublicKey::Rsa { modulus, exponent } => {
            let parameters: &RsaParameters = match hash.as_str() {
                "sha1" => &signature::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
                "sha256" => &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
                "sha384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                "sha512" => &signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
                other => unimplemented!("the mock host has no RSA with {other}"),
            };
            RsaPublicKeyComponents { n: modulus, e: exponent }.verify(parameters, text, signature).is_ok()
        }
        PublicKey::Ec { curve, point } => {
            let algorithm: &'static dyn VerificationAlgorithm = match (curve, hash.as_str()) {
                (Curve::P256, "sha256") => &signature::ECDSA_P256_SHA256_ASN1,
                (Curve::P256, "sha384") => &signature::ECDSA_P256_SHA384_ASN1,
                (Curve::P384, "sha256") => &signature::ECDSA_P384_SHA256_ASN1,
                (Curve::P384, "sha384") => &signature::ECDSA_P384_SHA384_ASN1,
                (Curve::P521, "sha512") => &signature::ECDSA_P521_SHA512_ASN1,
                (_, other) => unimplemented!("the mock host has no ECDSA with {other}"),
            };
            UnparsedPublicKey::new(algorithm, point).verify(text, signature).is_ok()
        }
        PublicKey::Ed25519 => return Err("Failed to initialize digest verify.".to_owned()),
    };
    if valid { Ok(()) } else { Err("Failed to verify digest. Error code: 0".to_owned()) }
}

/// Decodes the body of a PEM block `PUBLIC KEY`.
pub(crate) fn pem_to_der(pem: &str) -> Option<Vec<u8>> {
    let body = pem.split("-----BEGIN PUBLIC KEY-----").nth(1)?.split("-----END PUBLIC KEY-----").next()?;
    let mut out = Vec::new();
    let mut buffer = 0_u32;
    let mut bits = 0;
    for character in body.bytes().filter(|c| !c.is_ascii_whitespace() && *c != b'=') {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        buffer = buffer << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((buffer >> bits).to_le_bytes()[0]);
        }
    }
    Some(out)
}

/// The content of the DER element that `rest` begins with, if its tag is `tag`; moves `rest` behind it.
fn element<'a>(rest: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (have, tail) = rest.split_first()?;
    let (first, mut tail) = tail.split_first()?;
    if *have != tag {
        return None;
    }
    let length = if *first < 0x80 {
        usize::from(*first)
    } else {
        let (octets, after) = tail.split_at_checked(usize::from(*first & 0x7f))?;
        tail = after;
        octets
            .iter()
            .try_fold(0_usize, |sum, octet| sum.checked_mul(256)?.checked_add(usize::from(*octet)))?
    };
    let (content, after) = tail.split_at_checked(length)?;
    *rest = after;
    Some(content)
}

/// A DER INTEGER without its sign octet.
fn unsigned(integer: &[u8]) -> &[u8] {
    integer.strip_prefix(&[0]).unwrap_or(integer)
}
