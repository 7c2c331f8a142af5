//! Both ways to check a signature come to one verdict.
#![allow(clippy::restriction)]

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use aws_lc_rs::signature as native;
use common::{NOW, claims, jwks, mint, mint_with};
use jwt_auth::keys::algorithm::Algorithm;
use jwt_auth::keys::crypto::{Budget, Crypto};
use jwt_auth::keys::host_crypto::HostCrypto;
use jwt_auth::keys::jwk::KeySet;
use jwt_auth::keys::key::{Key, Material};
use jwt_auth::keys::pure_rust;
use jwt_auth::keys::signature::{Verdict, Verifier};
use jwt_auth::token::compact::{TokenError, UntrustedToken};
use plugin_kit::host::HostError;
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

/// A host as Envoy is one, with another library.
fn aws_lc(argument: &[u8]) -> Vec<u8> {
    let fields = fields(argument);
    let [hash, spki, signature, text] = fields.as_slice() else { panic!("four fields") };
    let algorithm: (&'static dyn native::VerificationAlgorithm, usize) = match (hash.as_slice(), spki.len()) {
        (b"sha256", 91) => (&native::ECDSA_P256_SHA256_ASN1, 65),
        (b"sha384", 120) => (&native::ECDSA_P384_SHA384_ASN1, 97),
        (b"sha256", 294) => (&native::RSA_PKCS1_2048_8192_SHA256, 270),
        (b"sha384", 294) => (&native::RSA_PKCS1_2048_8192_SHA384, 270),
        (b"sha512", 294) => (&native::RSA_PKCS1_2048_8192_SHA512, 270),
        (b"sha512", 158) => (&native::ECDSA_P521_SHA512_ASN1, 133),
        other => panic!("{other:?}"),
    };
    let key = &spki[spki.len() - algorithm.1..];
    let valid = native::UnparsedPublicKey::new(algorithm.0, key).verify(text, signature).is_ok();
    if valid { vec![8, 1] } else { [&[0x12, 3][..], b"bad"].concat() }
}

fn host() -> HostCrypto {
    HostCrypto::tested(Box::new(|argument| Ok(aws_lc(argument))), Algorithm::ALL)
}

fn known(name: &str) -> (KeySet, String) {
    let file = |extension: &str| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/known-answers");
        std::fs::read_to_string(format!("{folder}/{name}.{extension}")).unwrap()
    };
    (KeySet::parse(file("jwks.json").as_bytes()).unwrap(), file("jwt").trim_end().to_owned())
}

/// jwt-simple has no P-521: the host alone says.
#[test]
fn es512_is_checked_by_host_only() {
    let host = HostCrypto::tested(Box::new(|argument| Ok(aws_lc(argument))), &[Algorithm::ES512]);
    assert!(host.checks(Algorithm::ES512));
    let (set, token) = known("ES512");
    let verify = |token: &str| {
        let token = UntrustedToken::parse(token.as_bytes()).unwrap();
        assert!(!pure_rust::verify(&set.keys[0], &token));
        host.verify(&set.keys[0], &token)
    };
    assert_eq!(verify(&token), Some(true));
    let (text, signature) = token.rsplit_once('.').unwrap();
    let raw = jwt_auth::token::base64url::decode(signature.as_bytes()).unwrap();
    for variant in [&raw[1..], &raw[..131], &[0; 132], &[&raw[66..], &raw[..66]].concat()] {
        assert_eq!(verify(&format!("{text}.{}", encode(variant))), Some(false));
    }
    let without = HostCrypto::tested(Box::new(|_| Ok(Vec::new())), &[Algorithm::ES512]);
    assert!(!without.checks(Algorithm::ES512));
}

/// The verdict of the module itself, and the same of the host where it has one.
fn verdict(host: &HostCrypto, set: &KeySet, token: &str) -> bool {
    let Ok(token) = UntrustedToken::parse(token.as_bytes()) else { return false };
    let pure = pure_rust::verify(&set.keys[0], &token);
    if let Some(hosts) = host.verify(&set.keys[0], &token) {
        assert_eq!(hosts, pure, "{} by host and in the module", token.algorithm);
    }
    pure
}

#[test]
fn known_answers_alone_are_accepted() {
    let host = host();
    let names = Algorithm::ALL.iter().filter(|a| !a.is_symmetric() && !a.is_for_the_host_alone());
    for algorithm in names {
        let (set, token) = known(algorithm.name());
        assert_eq!(host.checks(*algorithm), Algorithm::DEFAULT.contains(algorithm), "{algorithm}");
        assert!(verdict(&host, &set, &token), "{algorithm}");
        let (text, signature) = token.rsplit_once('.').unwrap();
        let raw = jwt_auth::token::base64url::decode(signature.as_bytes()).unwrap();
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
            jwt_auth::keys::der::ecdsa_signature(&raw, half).unwrap(),
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

/// Whoever checks a signature looks at nothing else.
#[test]
fn unsigned_content_changes_no_verdict() {
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
fn host_that_fails_its_test_is_not_trusted() {
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

/// The first line of RFC 7515's example payload and the rest of it.
const JOE: &str =
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

/// The set with one key, for RFC examples whose `alg` must be named.
#[allow(clippy::needless_pass_by_value)]
fn set_of(key: serde_json::Value) -> KeySet {
    let set = KeySet::parse(json!({ "keys": [key] }).to_string().as_bytes()).unwrap();
    assert_eq!(set.keys.len(), 1, "{:?}", set.refused);
    set
}

/// RFC 7515 appendix A.1: HS256, whose secret comes from the environment, base64url.
fn joes_secret() -> (Rc<KeySet>, String) {
    let secret = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let config = json!({ "providers": { "joe": {
        "issuer": "joe", "algorithms": ["HS256"], "secrets": [{ "env": "SECRET", "encoding": "base64url" }],
    }}});
    let env = |_: &str| Some(secret.to_owned());
    let config = jwt_auth::config::Config::parse(config.to_string().as_bytes(), &env).unwrap();
    let set = config.providers[0].keys.inline().unwrap();
    let token =
        format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{JOE}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    (Rc::clone(set), token)
}

#[test]
fn rfc_7515_a1() {
    let (set, token) = joes_secret();
    assert!(verdict(&host(), &set, &token));
    assert!(!verdict(&host(), &set, &token.replace("dBjf", "dBjg")));
}

#[test]
fn slow_checks_over_budget_are_refused() {
    let budget = Budget::new(2);
    let taken = [5000, 5500, 5999, 6000, 6001, 6999, 7000].map(|now| budget.take(Duration::from_millis(now)));
    assert_eq!(taken, [true, true, false, true, true, false, true]);
    assert!(!Budget::new(0).take(Duration::ZERO));
}

/// Where the host checks nothing: what this module can check has a budget, but for secrets, which take no
/// time; what it cannot check is not decided.
#[test]
fn slow_checks_without_host_are_limited() {
    let deaf = || HostCrypto::tested(Box::new(|_| Ok(Vec::new())), Algorithm::ALL);
    let verdicts = |set: &KeySet, token: &str, crypto: &Crypto| {
        let token = UntrustedToken::parse(token.as_bytes()).unwrap();
        [(); 2].map(|()| crypto.verify(&set.keys[0], &token))
    };
    let one_a_second = Crypto::new(deaf(), 1, || Some(Duration::from_secs(9)));
    let (rs256, token) = known("RS256");
    assert_eq!(verdicts(&rs256, &token, &one_a_second), [Verdict::Valid, Verdict::Overloaded]);
    let without_a_clock = Crypto::new(deaf(), 1, || None);
    assert_eq!(verdicts(&rs256, &token, &without_a_clock), [Verdict::Overloaded; 2]);
    let plenty = Crypto::new(deaf(), 100, || Some(Duration::from_secs(9)));
    let (es512, token) = known("ES512");
    assert_eq!(verdicts(&es512, &token, &plenty), [Verdict::Overloaded; 2]);
    let none = Crypto::new(deaf(), 0, || Some(Duration::from_secs(9)));
    let (secret, token) = joes_secret();
    assert_eq!(verdicts(&secret, &token, &none), [Verdict::Valid; 2]);
    assert_eq!(verdicts(&secret, &token.replace("dBjf", "dBjg"), &none), [Verdict::Invalid; 2]);
}

/// RFC 7515 appendix A.2: RS256.
#[test]
fn rfc_7515_a2() {
    let set = set_of(json!({ "kty": "RSA", "e": "AQAB", "n": concat!(
        "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZ",
        "S-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2",
        "R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcD",
        "TW9gb54h4FRWyuXpoQ",
    )}));
    let signature = concat!(
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CU",
        "Ar7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_d",
        "O--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0ig",
        "cN_IoypGlUPQGe77Rw",
    );
    assert!(verdict(&host(), &set, &format!("eyJhbGciOiJSUzI1NiJ9.{JOE}.{signature}")));
    // RS512 under the same signature.
    assert!(!verdict(&host(), &set, &format!("eyJhbGciOiJSUzUxMiJ9.{JOE}.{signature}")));
}

/// RFC 7515 appendix A.3: ES256.
#[test]
fn rfc_7515_a3() {
    let set = set_of(json!({ "kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" }));
    let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    assert!(verdict(&host(), &set, &format!("eyJhbGciOiJFUzI1NiJ9.{JOE}.{signature}")));
}

/// RFC 7515 appendix A.5: `alg: none`.
#[test]
fn rfc_7515_a5() {
    let token = format!("eyJhbGciOiJub25lIn0.{JOE}.");
    assert_eq!(UntrustedToken::parse(token.as_bytes()).err(), Some(TokenError::NotCompact));
    let signed = format!("eyJhbGciOiJub25lIn0.{JOE}.AA");
    assert_eq!(UntrustedToken::parse(signed.as_bytes()).err(), Some(TokenError::UnknownAlgorithm));
}

/// RFC 7515 appendix E: a critical header parameter that nobody understands.
#[test]
fn rfc_7515_e() {
    let token = "eyJhbGciOiJub25lIiwNCiAiY3JpdCI6WyJodHRwOi8vZXhhbXBsZS5jb20vVU5ERUZJTkVEIl0sDQogImh0dHA6Ly9leGFtcGxlLmNvbS9VTkRFRklORUQiOnRydWUNCn0.RkFJTA.AA";
    assert_eq!(UntrustedToken::parse(token.as_bytes()).err(), Some(TokenError::Critical));
}

/// RFC 7520 sections 4.1 to 4.4, and RFC 8037 appendix A.4: good signatures over texts that are no claims. No
/// such token is taken, whoever checks; the host agrees with the RFC about the signatures that it can check.
#[test]
fn rfc_7520_and_rfc_8037() {
    const FRODO: &str = "SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4";
    const RS256: &str = concat!(
        "MRjdkly7_-oTPTS3AXP41iQIGKa80A0ZmTuV5MEaHoxnW2e5CZ5NlKtainoFmKZopdHM1O2U4mwzJdQx996ivp83xuglII7PNDi84wnB-BDk",
        "oBwA78185hX-Es4JIwmDLJK3lfWRa-XtL0RnltuYv746iYTh_qHRD68BNt1uSNCrUCTJDt5aAE6x8wW1Kt9eRo4QPocSadnHXFxnt8Is9Uzp",
        "ERV0ePPQdLuW3IS_de3xyIrDaLGdjluPxUAhb6L2aXic1U12podGU0KLUQSE_oI-ZnmKJ3F4uOZDnd6QZWJushZ41Axf_fcIe8u9ipH84ogo",
        "ree7vjbU5y18kDquDg",
    );
    const PS384: &str = concat!(
        "cu22eBqkYDKgIlTpzDXGvaFfz6WGoz7fUDcfT0kkOy42miAh2qyBzk1xEsnk2IpN6-tPid6VrklHkqsGqDqHCdP6O8TTB5dDDItllVo6_1OL",
        "PpcbUrhiUSMxbbXUvdvWXzg-UD8biiReQFlfz28zGWVsdiNAUf8ZnyPEgVFn442ZdNqiVJRmBqrYRXe8P_ijQ7p8Vdz0TTrxUeT3lm8d9shn",
        "r2lfJT8ImUjvAA2Xez2Mlp8cBE5awDzT0qI0n6uiP1aCN_2_jLAeQTlqRHtfa64QQSUmFAAjVKPbByi7xho0uTOcbH510a6GYmJUAfmWjwZ6",
        "oD4ifKo8DYM-X72Eaw",
    );
    const ES512: &str = concat!(
        "AE_R_YZCChjn4791jSQCrdPZCNYqHXCTZH0-JZGYNlaAjP2kqaluUIIUnC9qvbu9Plon7KRTzoNEuT4Va2cmL1eJAQy3mtPBu_u_sDDyYjnA",
        "MDxXPn7XrT0lw-kvAD890jl8e2puQens_IEKBpHABlsbEPX6sFY8OcGDqoRuBomu9xQ2",
    );
    let bilbo = |header: &str, signature: &str| format!("{header}.{FRODO}.{signature}");
    let rs256 = bilbo("eyJhbGciOiJSUzI1NiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9", RS256);
    let ps384 = bilbo("eyJhbGciOiJQUzM4NCIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9", PS384);
    let es512 = bilbo("eyJhbGciOiJFUzUxMiIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9", ES512);
    let hs256 = bilbo(
        "eyJhbGciOiJIUzI1NiIsImtpZCI6IjAxOGMwYWU1LTRkOWItNDcxYi1iZmQ2LWVlZjMxNGJjNzAzNyJ9",
        "s0h6KThzkfBBBkLspW1h84VsJZFTsPPqMDA7g1Md7p0",
    );
    let ed25519 = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    for token in [&rs256, &ps384, &es512, &hs256, ed25519] {
        assert_eq!(UntrustedToken::parse(token.as_bytes()).err(), Some(TokenError::PayloadJson), "{token}");
    }
    let rsa = set_of(json!({
        "kty": "RSA", "kid": "bilbo.baggins@hobbiton.example", "use": "sig", "e": "AQAB", "n": concat!(
            "n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmSCpMaJMRBSFKrKb2w",
            "qVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bT",
            "wJlsde3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_qixoR7jig3__kRhuaxwUkRz5",
            "iaiQkqgc5gHdrNP5zw",
    )}));
    let p521 = set_of(json!({
        "kty": "EC", "kid": "bilbo.baggins@hobbiton.example", "use": "sig", "crv": "P-521",
        "x": "AHKZLLOsCOzz5cY97ewNUajB957y-C-U88c3v13nmGZx6sYl_oJXu9A5RkTKqjqvjyekWF-7ytDyRXYgCF5cj0Kt",
        "y": "AdymlHvOiLxXkEhayXQnNCvDX4h9htZaCJN34kfmC6pV5OhQHiraVySsUdaQkAgDPrwQrJmbnX9cwlGfP-HqHZR1",
    }));
    // RFC 7520 section 3.5, and RFC 8037 appendix A.2.
    let secret = Key {
        kid: None,
        algorithms: vec![Algorithm::HS256],
        material: Material::Secret(
            jwt_auth::token::base64url::decode(b"hJtXIZ2uSN5kbQfbtTNWbpdmhkV8FJG-Onbc6mxCcYg").unwrap(),
        ),
        spki: Vec::new(),
    };
    let okp =
        set_of(json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }));
    for (key, compact, algorithm, who) in [
        (&*rsa.keys[0], &*rs256, Algorithm::RS256, [Some(true), Some(true)]),
        (&rsa.keys[0], &ps384, Algorithm::PS384, [None, Some(true)]),
        (&p521.keys[0], &es512, Algorithm::ES512, [Some(true), None]),
        (&secret, &hs256, Algorithm::HS256, [None, Some(true)]),
        (&okp.keys[0], ed25519, Algorithm::EdDSA, [None, Some(true)]),
    ] {
        let (signing_input, signature) = compact.rsplit_once('.').unwrap();
        let mut token = UntrustedToken {
            signing_input,
            algorithm,
            kid: None,
            typ: None,
            signer: None,
            padded: false,
            claims: std::rc::Rc::default(),
            signature: jwt_auth::token::base64url::decode(signature.as_bytes()).unwrap(),
        };
        let verdicts = |token: &UntrustedToken<'_>| {
            let pure = (!algorithm.is_for_the_host_alone()).then(|| pure_rust::verify(key, token));
            [host().verify(key, token), pure]
        };
        assert_eq!(verdicts(&token), who, "{algorithm}");
        token.signature[9] ^= 1;
        assert_eq!(verdicts(&token), who.map(|verdict| verdict.map(|_| false)), "{algorithm}");
    }
}

/// RFC 8017 section 8.2.2: the host is not even asked about an RSA signature that is not as long as the
/// modulus.
#[test]
fn rsa_signature_of_another_length_is_refused() {
    let (trusting, asked) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
    let call = {
        let (trusting, asked) = (Rc::clone(&trusting), Rc::clone(&asked));
        move |argument: &[u8]| {
            asked.set(true);
            Ok(if trusting.get() { vec![8, 1] } else { aws_lc(argument) })
        }
    };
    let host = HostCrypto::tested(Box::new(call), &[Algorithm::RS256]);
    trusting.set(true);
    let (set, token) = known("RS256");
    let mut token = UntrustedToken::parse(token.as_bytes()).unwrap();
    token.signature.insert(0, 0);
    asked.set(false);
    assert_eq!(host.verify(&set.keys[0], &token), Some(false));
    assert!(!asked.get());
}
