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

/// The warnings of a configuration with this provider and these rules, each with its code; or the errors.
fn found(provider: &Value, rules: &Value) -> Vec<String> {
    let key = json!({ "keys": [{
        "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    }] });
    let mut document = json!({
        "providers": { "a": { "issuer": "https://a.test/", "jwks": key } }, "rules": rules,
    });
    for (name, value) in provider.as_object().unwrap() {
        document["providers"]["a"][name] = value.clone();
    }
    let shown = |found: &plugin_kit::config::Diagnostic| format!("{} {}", found.code.name(), found.path);
    match Config::parse(document.to_string().as_bytes(), &plugin_kit::testing::AnyCel::default()) {
        Ok(config) => config.warnings.iter().map(shown).collect(),
        Err(errors) => errors.all().iter().map(shown).collect(),
    }
}

fn in_rules(rules: &Value) -> Vec<String> {
    found(&json!({}), rules)
}

#[test]
fn rule_without_match_may_stand_last_only_and_not_open_everything() {
    let last = json!({ "require": {} });
    let open = json!({ "allow": "anyone" });
    let some = json!({ "match": { "paths": ["/a/*"] }, "require": {} });
    let any = json!({ "match": { "any": true }, "allow": "anyone" });
    assert_eq!(in_rules(&json!([some, last])), [""; 0]);
    assert_eq!(in_rules(&json!([some, any])), [""; 0]);
    assert_eq!(in_rules(&json!([some, open])), ["open-to-all rules[1]"]);
    assert_eq!(in_rules(&json!([last, some])), ["rule-for-all rules[0]"]);
    let with = |condition: Value| in_rules(&json!([{ "match": condition, "allow": "anyone" }]));
    assert_eq!(with(json!({})), ["empty-list rules[0].match"]);
    assert_eq!(with(json!(null)), ["wrong-type rules[0].match"]);
    assert_eq!(with(json!({ "any": false })), ["invalid-value rules[0].match.any"]);
    assert_eq!(with(json!({ "any": true, "paths": ["/a"] })), ["invalid-value rules[0].match.any"]);
}

#[test]
fn rule_that_never_decides_is_told() {
    let rule = |condition: Value| json!({ "match": condition, "require": {} });
    let users = || rule(json!({ "paths": ["/users/*"] }));
    for (first, second, expected) in [
        (users(), rule(json!({ "paths": ["/users/me", "/users/{*}/x"] })), "hidden-rule rules[1].match"),
        (users(), rule(json!({ "paths": ["/users/*"], "methods": ["GET"] })), "hidden-rule rules[1].match"),
        (users(), users(), "same-match-twice rules[1].match"),
        (rule(json!({ "any": true })), users(), "catch-all-first rules[0].match"),
        (rule(json!({ "paths": ["/*"] })), users(), "catch-all-first rules[0].match"),
        (
            rule(json!({ "hosts": ["*.test"], "methodsExcept": ["PUT"] })),
            rule(json!({ "hosts": ["a.test"], "methods": ["GET"] })),
            "hidden-rule rules[1].match",
        ),
    ] {
        assert_eq!(in_rules(&json!([first, second])), [expected], "{first} {second}");
    }
    for (first, second) in [
        (users(), rule(json!({ "paths": ["/users", "/other"] }))),
        (rule(json!({ "paths": ["/users/*"], "methods": ["GET"] })), users()),
        (rule(json!({ "paths": ["/users/{*}"] })), users()),
        (users(), rule(json!({ "pathRegexes": ["/users/.*"] }))),
        (rule(json!({ "pathRegexes": ["/v[0-9]+/health"] })), users()),
        (rule(json!({ "methodsExcept": ["PUT"] })), rule(json!({ "methods": ["PUT"] }))),
        (rule(json!({ "headers": { "a": { "present": true } } })), users()),
        (rule(json!({ "hosts": ["*.test"] })), rule(json!({ "hosts": ["test"] }))),
    ] {
        assert_eq!(in_rules(&json!([first, second])), [""; 0], "{first} {second}");
    }
}

#[test]
fn two_rules_of_one_name_are_told() {
    let rule = |path: &str, name: &str| json!({ "name": name, "match": { "paths": [path] }, "require": {} });
    assert_eq!(in_rules(&json!([rule("/a", "x"), rule("/b", "x")])), ["same-rule-name rules[1].name"]);
    assert_eq!(in_rules(&json!([rule("/a", "x"), rule("/b", "y")])), [""; 0]);
}

#[test]
fn method_that_a_weaker_rule_gets_is_told() {
    let scopes = json!({ "scopes": ["write"] });
    let write = |methods: Value| json!({ "match": { "paths": ["/orders/*"], "methods": methods }, "require": scopes });
    let rest = json!({ "match": { "paths": ["/orders/*"] }, "require": {} });
    let told = ["method-left rules[0].match.methods"];
    assert_eq!(in_rules(&json!([write(json!(["POST", "PUT", "DELETE"])), rest])), told);
    assert_eq!(in_rules(&json!([write(json!(["POST", "PUT", "DELETE"]))])), told);
    for fine in [
        json!([write(json!(["POST", "PUT", "PATCH", "DELETE"])), rest]),
        json!([write(json!(["POST"])), rest]),
        json!([write(json!(["POST", "PUT", "DELETE"])), write(json!(["PATCH"])), rest]),
        json!([write(json!(["POST", "PUT", "DELETE"])), { "match": { "paths": ["/*"] }, "allow": "nobody" }]),
    ] {
        assert_eq!(in_rules(&fine), [""; 0], "{fine}");
    }
}

#[test]
fn paths_below_that_a_weaker_rule_gets_are_told() {
    let admin = |paths: Value| json!({ "match": { "paths": paths }, "require": { "scopes": ["admin"] } });
    assert_eq!(in_rules(&json!([admin(json!(["/admin"]))])), ["paths-below-left rules[0].match.paths[0]"]);
    for fine in [
        json!([admin(json!(["/admin/*"]))]),
        json!([admin(json!(["/admin"])), admin(json!(["/admin/users/*"]))]),
        json!([admin(json!(["/"]))]),
        json!([admin(json!(["/admin"])), { "match": { "any": true }, "allow": "nobody" }]),
        json!([{ "match": { "paths": ["/healthz"] }, "allow": "anyone" }]),
        json!([{ "match": { "paths": ["/me"] }, "require": {} }]),
    ] {
        assert_eq!(in_rules(&fine), [""; 0], "{fine}");
    }
}

#[test]
fn what_means_something_else_than_it_seems_is_told() {
    let rule = |condition: Value| in_rules(&json!([{ "match": condition, "allow": "anyone" }]));
    for regex in ["^/admin", "admin", "(a"] {
        let told = rule(json!({ "pathRegexes": [regex] }));
        let expected: &[&str] =
            if regex == "(a" { &[] } else { &["regex-is-whole-path rules[0].match.pathRegexes[0]"] };
        assert_eq!(told, expected, "{regex}");
    }
    for fine in ["/admin/.*", "^/admin/.*$", ".*\\.png", "(/a|/b)"] {
        assert_eq!(rule(json!({ "pathRegexes": [fine] })), [""; 0], "{fine}");
    }
    assert_eq!(rule(json!({ "paths": ["/users/:id"] })), ["segment-as-written rules[0].match.paths[0]"]);
    assert_eq!(rule(json!({ "paths": ["/a:b"] })), [""; 0]);
    for test in [
        json!({ "present": false, "anyOf": ["a"] }),
        json!({ "allOf": ["a"], "noneOf": ["a", "b"] }),
        json!({ "anyOf": ["a"], "noneOf": ["a"] }),
    ] {
        assert_eq!(rule(json!({ "headers": { "x": test } })), ["never-holds rules[0].match.headers.x"]);
    }
    assert_eq!(rule(json!({ "headers": { "x": { "anyOf": ["a", "b"], "noneOf": ["a"] } } })), [""; 0]);
    let when = |when: &str| {
        in_rules(&json!([{ "match": { "any": true }, "allow": "anyone", "verify": "never", "when": when }]))
    };
    assert_eq!(when("jwt.sub == 'a'"), ["when-without-claims rules[0].when"]);
    assert_eq!(when("request.path != '/jwt'"), [""; 0]);
}

#[test]
fn provider_that_means_something_else_than_it_seems_is_told() {
    let told = |fields: Value| found(&fields, &json!([]));
    assert_eq!(told(json!({ "audiences": ["https://*"] })), ["star-as-written providers.a.audiences[0]"]);
    assert_eq!(told(json!({ "revoked": { "sub": ["a*"] } })), ["star-as-written providers.a.revoked.sub[0]"]);
    assert_eq!(told(json!({ "audiences": [""] })), ["invalid-value providers.a.audiences[0]"]);
    assert_eq!(told(json!({ "issuer": "https://*" })), ["any-issuer providers.a.issuer"]);
    assert_eq!(told(json!({ "issuer": "https://*/x" })), ["any-issuer providers.a.issuer"]);
    assert_eq!(told(json!({ "issuer": "https://*.example/" })), [""; 0]);
    assert_eq!(told(json!({ "clockSkew": "5m" })), [""; 0]);
    assert_eq!(told(json!({ "clockSkew": "301s" })), ["wide-clock-skew providers.a.clockSkew"]);
    let header = json!([{ "claim": "sub", "header": "x-user" }]);
    assert_eq!(
        told(json!({ "outputClaimToHeaders": header, "from": [{ "header": "x_user" }] })),
        ["token-header-is-output providers.a.from"]
    );
    let rules = json!([{ "match": { "headers": { "x-user": { "present": true } } }, "allow": "anyone" }]);
    assert_eq!(
        found(&json!({ "outputClaimToHeaders": header }), &rules),
        ["test-of-own-header rules[0].match.headers.x-user"]
    );
    assert_eq!(
        told(json!({ "requiredClaims": ["https://shop.example/roles"] })),
        ["invalid-value providers.a.requiredClaims[0]"]
    );
    assert_eq!(told(json!({ "requiredClaims": ["https://shop\\.example/roles", "org.id"] })), [""; 0]);
}
