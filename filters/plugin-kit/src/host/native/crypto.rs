//! Signatures: the function `verify_signature` of Envoy's Wasm host, by aws-lc, which is a sibling of `BoringSSL`. Envoy does not export its
//! own.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ECDSA_P521_SHA512_ASN1, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey, VerificationAlgorithm,
};

use crate::wire::protobuf::{Fields, Value};

/// `VerifySignatureArguments` to `VerifySignatureResult`.
pub(super) fn verify(argument: &[u8]) -> Vec<u8> {
    /// `{ bool result = 1 }`, and `{ string error = 2 }`.
    const GOOD: &[u8] = b"\x08\x01";
    const BAD: &[u8] = b"\x12\x03bad";
    let [mut hash, mut key, mut signature, mut text] = [&b""[..]; 4];
    for field in Fields(argument) {
        match field {
            Ok((1, Value::Bytes(value))) => hash = value,
            Ok((2, Value::Bytes(value))) => key = value,
            Ok((3, Value::Bytes(value))) => signature = value,
            Ok((4, Value::Bytes(value))) => text = value,
            _ => return BAD.to_vec(),
        }
    }
    let Some(algorithm) = algorithm(hash, key) else { return BAD.to_vec() };
    let good = UnparsedPublicKey::new(algorithm, key).verify(text, signature).is_ok();
    if good { GOOD.to_vec() } else { BAD.to_vec() }
}

/// What checks a signature with this hash and key (a `SubjectPublicKeyInfo`). Each curve has one hash in JSON Web Tokens.
fn algorithm(hash: &[u8], key: &[u8]) -> Option<&'static dyn VerificationAlgorithm> {
    /// The object identifiers of RSA keys and of the curves, as DER.
    const RSA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";
    const P256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
    const P384: &[u8] = b"\x06\x05\x2b\x81\x04\x00\x22";
    const P521: &[u8] = b"\x06\x05\x2b\x81\x04\x00\x23";
    // They are near the start; the key's parser checks that the rest fits.
    let head = key.get(..key.len().min(40))?;
    let has = |identifier: &[u8]| head.windows(identifier.len()).any(|window| window == identifier);
    Some(match hash {
        b"sha256" if has(RSA) => &RSA_PKCS1_2048_8192_SHA256,
        b"sha384" if has(RSA) => &RSA_PKCS1_2048_8192_SHA384,
        b"sha512" if has(RSA) => &RSA_PKCS1_2048_8192_SHA512,
        b"sha256" if has(P256) => &ECDSA_P256_SHA256_ASN1,
        b"sha384" if has(P384) => &ECDSA_P384_SHA384_ASN1,
        b"sha512" if has(P521) => &ECDSA_P521_SHA512_ASN1,
        _ => return None,
    })
}
