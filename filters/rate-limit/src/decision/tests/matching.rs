//! Which requests a limit counts, and which are exempt.

use super::*;

#[test]
fn unreadable_path_as_key_is_not_skipped() {
    let json = r#"{"limits":[{"name":"orders","key":[{"pathTemplate":["/users/{*}/orders"]}],"onMissingKey":"skip",
        "rate":{"requests":1,"per":"1h"}}]}"#;
    let store = MemoryStore::default();
    let limits = limits(&store, json);
    let verdicts =
        |paths: [&str; 3]| paths.map(|path| verdict(&decide(&limits, &store, &request("GET", path))));
    assert_eq!(verdicts(["/users/1", "/", "/users/1/orders/x"]), ["A", "A", "A"]);
    let ways = ["/users/1/orders%3Fx", "/users/2/orders%23", "/users/3/orders%253Fx/.."];
    assert_eq!(verdicts(ways), ["A", "rate_limit_exceeded", "rate_limit_exceeded"]);
    let long = format!("/users/1/orders;{}", "a".repeat(3_000));
    assert_eq!(verdicts([&long, &long, "/%zz"]), ["A", "rate_limit_exceeded", "rate_limit_exceeded"]);
}

#[test]
fn invalid_authority_limit_counts_and_exemption_does_not_exempt() {
    let limit = r#""name":"a","rate":{"requests":1,"per":"1h"}"#;
    let counted = |json: &str, authority: &str| {
        let store = MemoryStore::default();
        let limits = limits(&store, json);
        let request = FakeHost { monotonic_time: Duration::from_secs(1_000), ..FakeHost::default() };
        let request = request.header(":method", "GET").header(":path", "/").header(":authority", authority);
        decide(&limits, &store, &request);
        verdict(&decide(&limits, &store, &request)) != "A"
    };
    let by_host = format!(r#"{{"limits":[{{{limit},"match":{{"hosts":["api.test"]}}}}]}}"#);
    let by_both =
        format!(r#"{{"limits":[{{{limit},"match":{{"hosts":["api.test"],"paths":["/other"]}}}}]}}"#);
    let exempt = format!(r#"{{"limits":[{{{limit}}}],"exempt":[{{"match":{{"hosts":["api.test"]}}}}]}}"#);
    for (authority, by_host_too, not_exempt) in [
        ("api.test", true, false),
        ("API.test.:80", true, false),
        ("other.test", false, true),
        ("u@api.test", true, true),
        ("api.test:80:80", true, true),
        ("api.test..", true, true),
        ("api%2etest", true, true),
    ] {
        assert_eq!(counted(&by_host, authority), by_host_too, "{authority}");
        assert_eq!(counted(&exempt, authority), not_exempt, "{authority}");
        assert!(!counted(&by_both, authority), "{authority}");
    }
}

#[test]
fn ambiguous_path_limit_counts_and_exemption_does_not_exempt() {
    let json = r#"{"limits":[{"name":"a","match":{"paths":["/a/*"],"methods":["GET"]},"rate":{"requests":0,"per":"1h","burst":0}}],
        "exempt":[{"match":{"paths":["/a/free"]}}]}"#;
    let store = MemoryStore::default();
    let limits = limits(&store, json);
    for (method, path, expected) in [
        ("GET", "/a", "rate_limit_exceeded"),
        ("GET", "/b", "A"),
        ("POST", "/a", "A"),
        ("GET", "/b/../a/x", "rate_limit_exceeded"),
        ("GET", "/%zz", "rate_limit_exceeded"),
        ("POST", "/%zz", "A"),
        ("GET", "/a/free", "A"),
        ("GET", "/a/x/../free", "rate_limit_exceeded"),
    ] {
        let verdict = verdict(&decide(&limits, &store, &request(method, path)));
        assert_eq!(verdict, expected, "{method} {path}");
    }
}

#[test]
fn incomparable_claim_limit_counts_and_exemption_does_not_exempt() {
    let limit = |name: &str, claim: &str, test: &str| {
        format!(
            r#"{{"name":"{name}","match":{{"claims":{{"{claim}":{test}}}}},"rate":{{"requests":0,"per":"1h","burst":0}}}}"#
        )
    };
    let admin = limit("a", "roles", r#"{"anyOf":["admin"]}"#);
    let others = limit("a", "roles", r#"{"noneOf":["admin"]}"#);
    let reads = limit("a", "scope", r#"{"anyOf":["read"]}"#);
    let exempt = r#"{"name":"a","rate":{"requests":0,"per":"1h","burst":0}}],"exempt":[{"match":{"claims":{"roles":{"noneOf":["admin"]}}}}"#;
    for (json, claim, published, denied) in [
        (&*admin, "roles", None, false),
        (&admin, "roles", Some(r#"["user","admin"]"#), true),
        (&admin, "roles", Some(r#"["user"]"#), false),
        (&admin, "roles", Some("admin"), true),
        (&admin, "roles", Some(r#""[\"admin\"]""#), false),
        (&admin, "roles", Some(r#"{"admin":1}"#), true),
        (&admin, "roles", Some("[admin"), true),
        (&admin, "roles", Some(""), true),
        (&others, "roles", None, true),
        (&others, "roles", Some("[]"), true),
        (&others, "roles", Some("{}"), true),
        (&others, "roles", Some(r#"["admin",{}]"#), false),
        (&reads, "scope", Some("write read"), true),
        (&reads, "scope", Some("reads"), false),
        (exempt, "roles", None, false),
        (exempt, "roles", Some("[]"), false),
        (exempt, "roles", Some("user"), false),
        (exempt, "roles", Some(r#"{"admin":1}"#), true),
        (exempt, "roles", Some("[{}]"), true),
        (exempt, "roles", Some(""), true),
    ] {
        let store = MemoryStore::default();
        let limits = limits(&store, &format!(r#"{{"limits":[{json}]}}"#));
        let mut request = request("GET", "/");
        if let Some(published) = published {
            request = request.property(&format!("jwt.{claim}"), published);
        }
        let decision = decide(&limits, &store, &request);
        assert_eq!(verdict(&decision) != "A", denied, "{json} {published:?}");
    }
}
