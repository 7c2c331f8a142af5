//! The core in wasm32 as in native code, with the vectors of RFC 7515 appendix A.
#![allow(clippy::restriction)]

use std::rc::Rc;
use std::time::Duration;

use jwt_auth::config::Config;
use jwt_auth::decision::{Authenticator, Outcome, Waited, Why};
use jwt_auth::fetch::remote::Settings;
use jwt_auth::fetch::schedule::{Fetching, JwksCache, Missing};
use jwt_auth::keys::algorithm::Algorithm;
use jwt_auth::keys::host_crypto::known_answer;
use jwt_auth::keys::jwk::KeySet;
use jwt_auth::keys::key::Key;
use jwt_auth::keys::pure_rust;
use jwt_auth::keys::signature::{Verdict, Verifier};
use jwt_auth::token::compact::UntrustedToken;
use plugin_kit::request::exchange::Exchange;
use plugin_kit::testing::FakeHost;

#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const PAYLOAD: &str =
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

/// `exp` of that payload.
const EXP: u64 = 1_300_819_380;

const RSA_KEY: &str = r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#;

const EC_KEY: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

fn rs256() -> String {
    format!(
        "eyJhbGciOiJSUzI1NiJ9.{PAYLOAD}.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
    )
}

fn es256() -> String {
    format!(
        "eyJhbGciOiJFUzI1NiJ9.{PAYLOAD}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    )
}

struct PureRust;

impl Verifier for PureRust {
    fn verify(&self, key: &Key, token: &UntrustedToken<'_>) -> Verdict {
        if pure_rust::verify(key, token) { Verdict::Valid } else { Verdict::Invalid }
    }
}

fn authenticator() -> Authenticator {
    let config = format!(
        r#"{{
            "providers": {{ "joe": {{ "issuer": "joe", "jwks": {{ "keys": [{RSA_KEY}, {EC_KEY}] }} }} }},
            "rules": [
                {{ "match": {{ "paths": ["/public/*"] }}, "allow": "anyone" }},
                {{ "match": {{ "paths": ["/root/*"] }},
                   "require": {{ "claims": {{ "http://example\\.com/is_root": {{ "anyOf": ["true"] }} }} }} }},
                {{ "match": {{ "paths": ["/admin/*"] }}, "require": {{ "claims": {{ "admin": {{ "present": true }} }} }} }}
            ]
        }}"#
    );
    Authenticator::new(Config::parse(config.as_bytes(), &|_: &str| None).unwrap(), Box::new(PureRust), 7)
}

fn decide(path: &str, token: Option<&str>, now: u64) -> &'static str {
    let mut facts = FakeHost::request("GET", path).at(now);
    if let Some(token) = token {
        facts = facts.header("authorization", &format!("Bearer {token}"));
    }
    let authenticator = authenticator();
    match authenticator
        .decide(&Exchange::new(1, &facts), &mut Waited::default(), &|_| Ok(()))
        .unwrap()
        .outcome
    {
        Outcome::Allow(pass) if pass.why == Why::Token => "token",
        Outcome::Allow(_) => "anyone",
        Outcome::Deny(denial) => denial.reason.presentation().code,
        Outcome::Wait { .. } => "wait",
    }
}

#[test]
fn tokens_of_rfc_7515_are_accepted_until_they_expire() {
    for token in [rs256(), es256()] {
        assert_eq!(decide("/", Some(&token), EXP - 1), "token");
        assert_eq!(decide("/root", Some(&token), EXP + 59), "token");
        assert_eq!(decide("/", Some(&token), EXP + 60), "token_expired");
    }
}

#[test]
fn rules_decide() {
    assert_eq!(decide("/public/x", None, EXP - 1), "anyone");
    assert_eq!(decide("/public/../admin", None, EXP - 1), "path_ambiguous");
    assert_eq!(decide("/admin", Some(&rs256()), EXP - 1), "claims_forbidden");
    assert_eq!(decide("/", None, EXP - 1), "token_missing");
}

#[test]
fn changed_token_is_refused() {
    let swapped = rs256().replace("eyJhbGciOiJSUzI1NiJ9", "eyJhbGciOiJFUzI1NiJ9");
    assert_eq!(decide("/", Some(&swapped), EXP - 1), "signature_invalid");
    let none = format!("eyJhbGciOiJub25lIn0.{PAYLOAD}.AA");
    assert_eq!(decide("/", Some(&none), EXP - 1), "token_malformed");
    let (text, signature) = rs256().rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let changed = format!("{text}.d{}", &signature[1..]);
    assert_eq!(decide("/", Some(&changed), EXP - 1), "signature_invalid");
}

#[test]
fn known_answers_hold() {
    for algorithm in Algorithm::DEFAULT {
        let (jwks, token) = known_answer(*algorithm).unwrap();
        let set = KeySet::parse(jwks.as_bytes()).unwrap();
        let token = UntrustedToken::parse(token.as_bytes()).unwrap();
        assert!(pure_rust::verify(&set.keys[0], &token), "{algorithm}");
    }
}

#[test]
fn keys_are_fetched_kept_and_dropped() {
    let seconds = Duration::from_secs;
    let mut cache = JwksCache::new(
        Settings {
            duration: seconds(600),
            min_interval: seconds(30),
            timeout: seconds(2),
            stale_if_error: seconds(3600),
        },
        Rc::default(),
    );
    assert!(cache.tick(seconds(0)));
    cache.started(seconds(0));
    assert!(!cache.tick(seconds(1)));
    assert_eq!(cache.missing(seconds(1)), Missing::Wait);
    let set = || KeySet::parse(format!(r#"{{"keys":[{EC_KEY}]}}"#).as_bytes()).unwrap();
    cache.succeeded(seconds(1), set(), Some(seconds(60)));
    assert_eq!(cache.missing(seconds(29)), Missing::Unknown);
    assert_eq!(cache.missing(seconds(30)), Missing::Fetch);
    // Its time is over after the 60 s that the issuer set.
    assert!(!cache.tick(seconds(60)));
    assert!(cache.tick(seconds(61)));
    // A fetch that never ends is given up.
    cache.started(seconds(61));
    assert!(!cache.tick(seconds(63)));
    assert!(cache.is_fetching());
    assert!(!cache.tick(seconds(64)));
    assert!(!cache.is_fetching());
    assert_eq!(cache.missing(seconds(64)), Missing::Unavailable);
    assert!(cache.tick(seconds(65)));
    // Old keys stay for an hour.
    assert!(cache.keys().is_some());
    cache.tick(seconds(61 + 3600));
    assert!(cache.keys().is_none());
}
