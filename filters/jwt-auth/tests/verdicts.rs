//! Both ways to check a signature come to one verdict.

mod common;

use common::{NOW, claims, jwks, mint, mint_with};
use jwt_auth::host_crypto::HostCrypto;
use jwt_auth::jwk::KeySet;
use jwt_auth::pure_rust;
use jwt_auth::signature::Algorithm;
use jwt_auth::token::UntrustedToken;
use plugin_kit::exchange::HostError;
use ring::signature as rings;
use serde_json::json;

/// The fields of `VerifySignatureArguments`, read by hand: tag, length, bytes.
fn fields(mut message: &[u8]) -> Vec<Vec<u8>> {
    let mut fields = Vec::new();
    while let Some((tag, mut rest)) = message.split_first() {
        assert_eq!(usize::from(*tag), (fields.len() + 1) * 8 + 2);
        let (mut length, mut shift) = (0_usize, 0);
        loop {
            length |= usize::from(rest[0] & 0x7f) << shift;
            let last = rest[0] & 0x80 == 0;
            rest = &rest[1..];
            shift += 7;
            if last {
                break;
            }
        }
        fields.push(rest[..length].to_vec());
        message = &rest[length..];
    }
    fields
}

/// A host as Envoy is one, with another library: `ring`.
fn ring(argument: &[u8]) -> Vec<u8> {
    let fields = fields(argument);
    let [hash, spki, signature, text] = fields.as_slice() else { panic!("four fields") };
    let algorithm: (&'static dyn rings::VerificationAlgorithm, usize) = match (hash.as_slice(), spki.len()) {
        (b"sha256", 91) => (&rings::ECDSA_P256_SHA256_ASN1, 65),
        (b"sha384", 120) => (&rings::ECDSA_P384_SHA384_ASN1, 97),
        (b"sha256", 294) => (&rings::RSA_PKCS1_2048_8192_SHA256, 270),
        (b"sha384", 294) => (&rings::RSA_PKCS1_2048_8192_SHA384, 270),
        (b"sha512", 294) => (&rings::RSA_PKCS1_2048_8192_SHA512, 270),
        other => panic!("{other:?}"),
    };
    let key = &spki[spki.len() - algorithm.1..];
    let valid = rings::UnparsedPublicKey::new(algorithm.0, key).verify(text, signature).is_ok();
    if valid { vec![8, 1] } else { [&[0x12, 3][..], b"bad"].concat() }
}

fn host() -> HostCrypto {
    HostCrypto::tested(Box::new(|argument| Ok(ring(argument))), Algorithm::ALL)
}

fn known(name: &str) -> (KeySet, String) {
    let file = |extension: &str| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/known-answers");
        std::fs::read_to_string(format!("{folder}/{name}.{extension}")).unwrap()
    };
    (KeySet::parse(file("jwks.json").as_bytes()).unwrap(), file("jwt").trim_end().to_owned())
}

/// The verdict of jwt-simple, and the same of the host where it has one.
fn verdict(host: &HostCrypto, set: &KeySet, token: &str) -> bool {
    let Ok(token) = UntrustedToken::parse(token.as_bytes()) else { return false };
    let pure = pure_rust::verify(&set.keys[0], &token);
    if let Some(hosts) = host.verify(&set.keys[0], &token) {
        assert_eq!(hosts, pure, "{} by host and by jwt-simple", token.algorithm);
    }
    pure
}

#[test]
fn known_answers_are_accepted_and_no_other_signature_is() {
    let host = host();
    let names = Algorithm::ALL.iter().filter(|algorithm| !algorithm.is_symmetric());
    for algorithm in names {
        let (set, token) = known(algorithm.name());
        assert_eq!(host.checks(*algorithm), Algorithm::DEFAULT.contains(algorithm), "{algorithm}");
        assert!(verdict(&host, &set, &token), "{algorithm}");
        let (text, signature) = token.rsplit_once('.').unwrap();
        let raw = jwt_auth::base64url::decode(signature.as_bytes()).unwrap();
        let half = raw.len() / 2;
        let zero = |range: std::ops::Range<usize>| {
            let mut raw = raw.clone();
            raw[range].fill(0);
            raw
        };
        let mut variants: Vec<Vec<u8>> = (0..8)
            .map(|n| {
                let mut raw = raw.clone();
                let at = n * (raw.len() - 1) / 7;
                raw[at] ^= 1 << n;
                raw
            })
            .collect();
        variants.extend([
            zero(0..half),
            zero(half..raw.len()),
            zero(0..raw.len()),
            raw[1..].to_vec(),
            raw[..raw.len() - 1].to_vec(),
            [&[0][..], &raw].concat(),
            [&raw[..], &[0]].concat(),
            [&raw[half..], &raw[..half]].concat(),
            vec![0xff; raw.len()],
            jwt_auth::der::ecdsa_signature(&raw, half).unwrap(),
            vec![1],
        ]);
        for variant in variants {
            let forged = format!("{text}.{}", encode(&variant));
            assert!(!verdict(&host, &set, &forged), "{algorithm} {variant:?}");
        }
        // One character of the text is enough.
        let other = token.replacen("eyJzdWIiOi", "eyJzdWIiOj", 1);
        assert_ne!(other, token);
        assert!(!verdict(&host, &set, &other), "{algorithm}");
    }
}

fn encode(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

#[test]
fn tokens_of_another_library_are_accepted() {
    let host = host();
    for key in ["rsa-1", "rsa-2", "ec-1", "ed-1"] {
        let set = KeySet::parse(jwks(&[key]).to_string().as_bytes()).unwrap();
        assert!(verdict(&host, &set, &mint(key, &claims())), "{key}");
    }
}

/// jwt-simple looks at claims and header too. What it would refuse must be refused before, on both ways.
#[test]
fn what_jwt_simple_reads_beyond_the_signature_changes_no_verdict() {
    let host = host();
    let set = KeySet::parse(jwks(&["rsa-1"]).to_string().as_bytes()).unwrap();
    for claims in [
        json!({}),
        json!({ "exp": 0, "nbf": NOW * 2, "iat": NOW * 2 }),
        json!({ "exp": 9_007_199_254_740_991_u64, "nbf": 9_007_199_254_740_991_u64, "iat": 1.5 }),
        json!({ "aud": [], "sub": "", "jti": "", "nonce": "", "kid": 7, "iss": "x" }),
        json!({ "a": { "b": [null, { "c": 1.5e300 }] } }),
    ] {
        assert!(verdict(&host, &set, &mint("rsa-1", &claims)), "{claims}");
    }
    for header in [
        json!({ "alg": "RS256" }),
        json!({ "alg": "RS256", "typ": "jwt", "cty": "x", "x5t": "x", "x5c": ["x"], "jku": "x", "other": {} }),
        json!({ "alg": "RS256", "typ": "at+jwt", "salt": "c2FsdA", "zip": "DEF", "enc": "x" }),
    ] {
        assert!(verdict(&host, &set, &mint_with("rsa-1", &header, &claims())), "{header}");
    }
}

#[test]
fn a_host_that_always_agrees_or_never_answers_is_not_trusted() {
    let (set, token) = known("RS256");
    let token = UntrustedToken::parse(token.as_bytes()).unwrap();
    let agreeing = HostCrypto::tested(Box::new(|_| Ok(vec![8, 1])), Algorithm::ALL);
    let refusing = HostCrypto::tested(Box::new(|_| Ok(Vec::new())), Algorithm::ALL);
    let failing = HostCrypto::tested(
        Box::new(|_| Err(HostError { call: "call_foreign_function", status: 1 })),
        Algorithm::ALL,
    );
    for host in [agreeing, refusing, failing] {
        assert!(Algorithm::ALL.iter().all(|algorithm| !host.checks(*algorithm)));
        assert_eq!(host.verify(&set.keys[0], &token), None);
    }
}
