//! The few DER structures that the host's signature check takes.

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;

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
