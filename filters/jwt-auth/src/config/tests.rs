use serde_json::{Value, json};

use crate::config::Config;
use crate::token::claims::Pattern;

/// The errors of a configuration whose provider `a`, rules and other fields are these; empty if it is
/// accepted.
fn wrong(provider: &Value, rules: &Value, others: &Value) -> String {
    let key = json!({ "keys": [{
        "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    }] });
    let mut document = json!({
        "providers": {
            "a": { "issuer": "https://a.test/", "jwks": key },
            "b": { "issuer": "https://b.test/", "jwks": key },
            "any": { "issuer": "https://*.test/", "jwks": key },
        },
        "rules": rules,
    });
    for (name, value) in provider.as_object().unwrap() {
        document["providers"]["a"][name] = value.clone();
    }
    for (name, value) in others.as_object().unwrap() {
        document[name] = value.clone();
    }
    let config = Config::parse(document.to_string().as_bytes(), &|_: &str| None);
    config.map_or_else(|errors| errors.to_string(), |_| String::new())
}

fn provider(fields: &Value) -> String {
    wrong(fields, &json!([]), &json!({}))
}

fn require(requirement: &Value) -> String {
    wrong(&json!({}), &json!([{ "require": requirement }]), &json!({}))
}

#[test]
fn empty_list_that_means_all_or_nothing_is_refused() {
    for field in ["audiences", "subjects", "authorizedParties", "typ", "algorithms", "from", "secrets"] {
        let expected = format!("providers.a.{field}: is empty; expected at least one entry");
        assert_eq!(provider(&json!({ field: [] })), expected);
        let expected = format!("providers.a.{field}: expected a list, found null");
        assert_eq!(provider(&json!({ field: null })), expected);
    }
    for (requirement, path) in [
        (json!({ "claims": {} }), "claims"),
        (json!({ "claims": { "a": { "anyOf": [] } } }), "claims.a.anyOf"),
        (json!({ "claims": { "a": { "allOf": [] } } }), "claims.a.allOf"),
        (json!({ "claims": { "a": { "noneOf": [], "present": true } } }), "claims.a.noneOf"),
        (json!({ "scopes": [] }), "scopes"),
        (json!({ "anyOf": [] }), "anyOf"),
        (json!({ "allOf": [] }), "allOf"),
        (json!({ "provider": "a", "anyOf": [] }), "anyOf"),
    ] {
        let expected = format!("rules[0].require.{path}: is empty; expected at least one entry");
        assert_eq!(require(&requirement), expected);
    }
    assert_eq!(
        require(&json!({ "provider": null })),
        "rules[0].require.provider: expected a text, found null"
    );
    assert_eq!(
        wrong(&json!({}), &json!([{ "match": { "principals": [] }, "allow": "anyone" }]), &json!({})),
        "rules[0].match.principals: is empty; expected at least one entry"
    );
    assert!(wrong(&json!({}), &json!([]), &json!({ "providers": {} })).starts_with("providers: is empty"));
}

#[test]
fn empty_list_that_means_none_is_accepted() {
    let fields = json!({
        "requiredClaims": [], "outputClaimToHeaders": [], "revoked": { "jti": [], "sub": [], "kid": [] },
    });
    assert_eq!(provider(&fields), "");
    assert_eq!(wrong(&json!({}), &json!([]), &json!({ "publishClaims": [] })), "");
    assert_eq!(require(&json!({})), "");
}

#[test]
fn error_shows_no_value_that_may_be_secret() {
    for fields in [
        json!({ "algorithms": ["s3cr3t"] }),
        json!({ "issuer": "**s3cr3t" }),
        json!({ "clockSkew": "s3cr3t" }),
        json!({ "jwksCache": { "duration": "s3cr3t" } }),
        json!({ "typ": ["s3cr3t"] }),
        json!({ "subjects": ["**s3cr3t"] }),
        json!({ "requiredClaims": ["s3cr3t..a"] }),
        json!({ "from": [{ "header": "S3cr3t s3cr3t" }] }),
        json!({ "outputClaimToHeaders": [{ "claim": "a", "header": "s3cr3t s" }] }),
        json!({ "jwks": { "keys": [{ "kty": "s3cr3t" }] } }),
        json!({ "jwks": { "keys": [{ "kty": "oct", "kid": "s3cr3t" }] } }),
        json!({ "jwks": "s3cr3t" }),
        json!({ "revoked": { "uri": "s3cr3t" } }),
        json!({ "s3cr3t value": 1 }),
    ] {
        let error = provider(&fields);
        assert!(error.contains("providers.a") && !error.contains("s3cr3t"), "{fields}: {error}");
    }
    for rule in [
        json!({ "require": {}, "when": "s3cr3t ==" }),
        json!({ "require": { "provider": "s3cr3t" } }),
        json!({ "require": { "scopes": ["s3cr3t s"] } }),
        json!({ "require": { "claims": { "a": { "anyOf": ["s3cr3t*"] } } } }),
        json!({ "allow": "s3cr3t" }),
        json!({ "allow": "nobody", "name": "s3cr3t s" }),
    ] {
        let error = wrong(&json!({}), &json!([rule]), &json!({}));
        assert!(error.contains("rules[0]") && !error.contains("s3cr3t"), "{rule}: {error}");
    }
    for others in [
        json!({ "denyResponse": { "addHeaders": { "s3cr3t ": "x" } } }),
        json!({ "denyResponse": { "addHeaders": { "x": " s3cr3t" } } }),
        json!({ "denyResponse": { "codeHeader": "s3cr3t s" } }),
        json!({ "denyResponse": { "body": "s3cr3t" } }),
        json!({ "denyResponse": { "realm": "s3cr3t\"" } }),
        json!({ "denyResponse": { "cors": { "allowOrigins": ["s3cr3t"] } } }),
        json!({ "publishClaims": ["s3cr3t..a"] }),
    ] {
        let error = wrong(&json!({}), &json!([]), &others);
        assert!(!error.is_empty() && !error.contains("s3cr3t"), "{others}: {error}");
    }
}

#[test]
fn misspelt_name_is_shown_with_the_nearest_one() {
    assert_eq!(
        provider(&json!({ "algorithms": ["RS25"] })),
        "providers.a.algorithms[0]: expected one of `RS256`, `RS384`, `RS512`, `PS256`, `PS384`, `PS512`, `ES256`, `ES384`, \
         `ES512`, `EdDSA`, `HS256`, `HS384`, `HS512`, found `RS25`; did you mean `RS256`?"
    );
    assert_eq!(
        require(&json!({ "provider": "anyy" })),
        "rules[0].require.provider: there is no provider of this name; expected one of `a`, `any`, `b`, found `anyy`; did you mean \
         `any`?"
    );
}

#[test]
fn clock_skew_over_an_hour_is_refused() {
    assert_eq!(provider(&json!({ "clockSkew": "1h" })), "");
    for skew in ["3601s", "60m1ms", "100d"] {
        let error = provider(&json!({ "clockSkew": skew }));
        assert!(error.starts_with("providers.a.clockSkew: expected at most `1h`"), "{error}");
    }
}

#[test]
fn output_header_with_a_meaning_is_refused() {
    let claim =
        provider(&json!({ "outputClaimToHeaders": [{ "claim": "a", "header": "x-forwarded-client-cert" }] }));
    assert!(
        claim.starts_with(
            "providers.a.outputClaimToHeaders[0].header: `x-forwarded-client-cert` has a meaning"
        ),
        "{claim}"
    );
    let payload = provider(&json!({ "outputPayloadToHeader": "x-envoy-internal" }));
    assert!(payload.starts_with("providers.a.outputPayloadToHeader: `x-envoy-*` has a meaning"), "{payload}");
    for name in ["access-control-allow-origin", "www-authenticate", "set-cookie"] {
        let code = wrong(&json!({}), &json!([]), &json!({ "denyResponse": { "codeHeader": name } }));
        assert!(
            code.starts_with("denyResponse.codeHeader: `") && code.contains("expected another header"),
            "{code}"
        );
    }
}

#[test]
fn all_of_that_no_single_token_meets_is_refused() {
    let of = |name: &str| json!({ "provider": name });
    let (a, b, any) = (of("a"), of("b"), of("any"));
    for (requirement, path) in [
        (json!({ "allOf": [a, b] }), Some("rules[0].require.allOf")),
        (json!({ "allOf": [any, a, { "allOf": [b] }] }), Some("rules[0].require.allOf")),
        (json!({ "allOf": [a, { "anyOf": [b, { "allOf": [b, any] }] }] }), Some("rules[0].require.allOf")),
        (json!({ "anyOf": [a, { "allOf": [a, b] }] }), Some("rules[0].require.anyOf[1].allOf")),
        (json!({ "allOf": [a, { "anyOf": [a, b] }] }), None),
        (json!({ "allOf": [a, any] }), None),
        (json!({ "allOf": [a, {}] }), None),
        (json!({ "anyOf": [a, b] }), None),
    ] {
        for several in ["reject", "firstGood"] {
            let error =
                wrong(&json!({}), &json!([{ "require": requirement }]), &json!({ "severalTokens": several }));
            match path {
                Some(path) => {
                    let expected =
                        format!("{path}: cannot be met: the issuers of the providers `a` and `b` differ");
                    assert!(error.starts_with(&expected), "{requirement}: {error}");
                }
                None => assert_eq!(error, "", "{requirement}"),
            }
        }
        let all = json!({ "severalTokens": "verifyAll" });
        assert_eq!(wrong(&json!({}), &json!([{ "require": requirement }]), &all), "", "{requirement}");
    }
}

#[test]
fn patterns_that_fit_one_text_may_share_it() {
    for (a, b, expected) in [
        ("x", "x", true),
        ("x", "y", false),
        ("https://*.test/", "https://a.test/", true),
        ("https://a.test/", "https://*.test/", true),
        ("https://*.test/", "https://a.other/", false),
        ("https://*.test/", "https://a*", true),
        ("https://*.test/", "http://*", false),
        ("https://*.test/", "https://*.other/", false),
    ] {
        let pattern = |text: &str| Pattern::parse(text).unwrap();
        assert_eq!(pattern(a).may_share(&pattern(b)), expected, "{a} {b}");
    }
}
