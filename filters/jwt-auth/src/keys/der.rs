//! The few DER structures that the host's signature check takes, and those in which keys come.

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
/// `version` of a certificate.
const VERSION: u8 = 0xa0;

/// `AlgorithmIdentifier { rsaEncryption, NULL }` (RFC 8017 appendix A.1).
const RSA: &[u8] =
    &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
/// `AlgorithmIdentifier { id-ecPublicKey, secp256r1 }` (RFC 5480).
const P256: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07,
];
/// `AlgorithmIdentifier { id-ecPublicKey, secp384r1 }` (RFC 5480).
const P384: &[u8] = &[
    0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00,
    0x22,
];

/// `AlgorithmIdentifier { id-ecPublicKey, secp521r1 }` (RFC 5480).
const P521: &[u8] = &[
    0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00,
    0x23,
];

/// `AlgorithmIdentifier { id-Ed25519 }` (RFC 8410).
const ED25519: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut encoded = vec![tag];
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX).to_be_bytes();
    let significant: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    match significant.as_slice() {
        [] => encoded.push(0),
        [short] if *short < 0x80 => encoded.push(*short),
        long => {
            encoded.push(u8::try_from(long.len()).unwrap_or(4) | 0x80);
            encoded.extend_from_slice(long);
        }
    }
    encoded.extend_from_slice(content);
    encoded
}

/// An INTEGER from an unsigned big-endian number.
fn integer(number: &[u8]) -> Vec<u8> {
    let mut content: Vec<u8> = number.iter().copied().skip_while(|byte| *byte == 0).collect();
    if content.first().is_none_or(|first| first & 0x80 != 0) {
        content.insert(0, 0);
    }
    element(INTEGER, &content)
}

fn public_key_info(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let key = element(BIT_STRING, &[&[0], key].concat());
    element(SEQUENCE, &[algorithm, &key].concat())
}

/// `SubjectPublicKeyInfo` of an RSA key with modulus `n` and exponent `e`, both unsigned and big endian.
pub fn rsa_public_key(n: &[u8], e: &[u8]) -> Vec<u8> {
    public_key_info(RSA, &element(SEQUENCE, &[integer(n), integer(e)].concat()))
}

/// `SubjectPublicKeyInfo` of a P-256 key; `point` in the uncompressed form of SEC 1.
pub fn p256_public_key(point: &[u8]) -> Vec<u8> {
    public_key_info(P256, point)
}

/// `SubjectPublicKeyInfo` of a P-384 key; `point` in the uncompressed form of SEC 1.
pub fn p384_public_key(point: &[u8]) -> Vec<u8> {
    public_key_info(P384, point)
}

/// `SubjectPublicKeyInfo` of a P-521 key; `point` in the uncompressed form of SEC 1.
pub fn p521_public_key(point: &[u8]) -> Vec<u8> {
    public_key_info(P521, point)
}

/// The first element of `der`: its tag and its content, and what is behind it.
fn first(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        short @ ..=0x7f => (usize::from(*short), rest),
        long @ 0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            (bytes.iter().fold(0, |length: usize, byte| length.wrapping_shl(8) | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// The first element of `der` as a whole, and what is behind it.
fn whole(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, _, rest) = first(der)?;
    der.split_at_checked(der.len().checked_sub(rest.len())?)
}

/// The `SubjectPublicKeyInfo` in a certificate (RFC 5280 section 4.1). Nothing else in it is checked: who
/// publishes it vouches for the key.
pub fn key_of_certificate(certificate: &[u8]) -> Option<&[u8]> {
    let (SEQUENCE, certificate, []) = first(certificate)? else { return None };
    let (SEQUENCE, mut fields, _) = first(certificate)? else { return None };
    if let (VERSION, _, rest) = first(fields)? {
        fields = rest;
    }
    // Serial number, algorithm of the signature, issuer, validity and subject.
    for tag in [INTEGER, SEQUENCE, SEQUENCE, SEQUENCE, SEQUENCE] {
        let (found, _, rest) = first(fields)?;
        if found != tag {
            return None;
        }
        fields = rest;
    }
    whole(fields).map(|(key, _)| key)
}

/// A public key as its `SubjectPublicKeyInfo` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicKey<'a> {
    /// Modulus and exponent, in big endian.
    Rsa {
        /// The modulus.
        n: &'a [u8],
        /// The exponent.
        e: &'a [u8],
    },
    /// A point in a form of SEC 1.
    P256(&'a [u8]),
    /// A point in a form of SEC 1.
    P384(&'a [u8]),
    /// A point in a form of SEC 1.
    P521(&'a [u8]),
    /// A point as RFC 8032 encodes it.
    Ed25519(&'a [u8]),
}

/// Reads a `SubjectPublicKeyInfo`. `None` if it is none, or the key is of another kind.
pub fn public_key(info: &[u8]) -> Option<PublicKey<'_>> {
    let (SEQUENCE, content, []) = first(info)? else { return None };
    let (algorithm, rest) = whole(content)?;
    let (BIT_STRING, [0, key @ ..], []) = first(rest)? else { return None };
    match algorithm {
        RSA => {
            let (SEQUENCE, numbers, []) = first(key)? else { return None };
            let (INTEGER, n, rest) = first(numbers)? else { return None };
            let (INTEGER, e, []) = first(rest)? else { return None };
            Some(PublicKey::Rsa { n, e })
        }
        P256 => Some(PublicKey::P256(key)),
        P384 => Some(PublicKey::P384(key)),
        P521 => Some(PublicKey::P521(key)),
        ED25519 => Some(PublicKey::Ed25519(key)),
        _ => None,
    }
}

/// `ECDSA-Sig-Value` (RFC 3279) of a signature in the form of JWS: r and s of `size` bytes each. `None` where
/// it has another length or a number is zero.
pub fn ecdsa_signature(signature: &[u8], size: usize) -> Option<Vec<u8>> {
    if signature.len() != size.checked_mul(2)? {
        return None;
    }
    let (r, s) = signature.split_at_checked(size)?;
    if [r, s].iter().any(|number| number.iter().all(|byte| *byte == 0)) {
        return None;
    }
    Some(element(SEQUENCE, &[integer(r), integer(s)].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn der_integers_are_minimal_and_positive() {
        assert_eq!(integer(&[0, 0, 1]), [INTEGER, 1, 1]);
        assert_eq!(integer(&[0x80]), [INTEGER, 2, 0, 0x80]);
        assert_eq!(integer(&[0, 0]), [INTEGER, 1, 0]);
    }

    #[test]
    fn der_lengths_take_short_and_long_form() {
        assert_eq!(element(4, &[7; 0x7f])[..2], [4, 0x7f]);
        assert_eq!(element(4, &[7; 0x80])[..3], [4, 0x81, 0x80]);
        assert_eq!(element(4, &[7; 0x123])[..4], [4, 0x82, 0x01, 0x23]);
        assert_eq!(element(4, &[]), [4, 0]);
    }

    #[test]
    fn written_keys_are_read() {
        let (n, e) = ([&[0][..], &[0x80; 256]].concat(), [1, 0, 1]);
        assert_eq!(public_key(&rsa_public_key(&n, &e)), Some(PublicKey::Rsa { n: &n, e: &e }));
        let point = [4; 97];
        assert_eq!(public_key(&p384_public_key(&point)), Some(PublicKey::P384(&point)));
        let mut longer = p256_public_key(&point);
        longer.push(0);
        assert_eq!(public_key(&longer), None);
    }

    #[test]
    fn element_that_ends_too_early_is_none() {
        assert_eq!(first(&[4, 2, 7, 8, 9]), Some((4, &[7, 8][..], &[9][..])));
        assert_eq!(first(&element(4, &[7; 0x123])).map(|(_, content, _)| content.len()), Some(0x123));
        for bytes in [
            &[][..],
            &[4],
            &[4, 2, 7],
            &[4, 0x80],
            &[4, 0x81],
            &[4, 0x83, 0xff, 0xff, 0xff, 1],
            &[4, 0x84, 0, 0, 0, 1, 7],
        ] {
            assert_eq!(first(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn ecdsa_signature_of_wrong_length_or_zero_is_refused() {
        let good = [vec![0; 31], vec![9], vec![0x80; 32]].concat();
        let der = ecdsa_signature(&good, 32).unwrap();
        assert_eq!(der[..7], [0x30, 38, 2, 1, 9, 2, 33]);
        for wrong in [
            &good[1..],
            &[good.clone(), vec![0]].concat(),
            &[],
            &[0; 64],
            &[vec![0; 32], vec![1; 32]].concat(),
            &[vec![1; 32], vec![0; 32]].concat(),
        ] {
            assert_eq!(ecdsa_signature(wrong, 32), None);
        }
    }
}
