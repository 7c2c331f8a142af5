use super::text::{RawTextTest, matches_regex};
use super::*;
use crate::request::claim::ClaimValues;
use crate::request::headers::HeaderMap;
use crate::testing::{AnyCel, FakeHost, Node};

crate::request_match! {
    /// The parts that are the same in every filter.
    #[derive(Debug)]
    struct RawMatch {}
}

fn compile(json: &str) -> Result<RequestMatch, String> {
    let raw =
        crate::config::read::<RawMatch>(&serde_json::from_str(json).unwrap()).map_err(|e| e.to_string())?;
    let mut errors = ErrorList::default();
    let compiled = RequestMatch::compile(
        raw.parts(),
        PathCase::Sensitive,
        &|_: &str| None,
        &JsonPath::root().field("match"),
        &mut errors,
    );
    errors.finish(compiled).map_err(|errors| errors.to_string())
}

fn matches(json: &str, headers: &[(&str, &str)]) -> bool {
    let head = HeaderMap::from_pairs(headers.iter().copied());
    let request = Request::of(&head);
    let facts = crate::testing::FakeHost::default();
    compile(json).unwrap().matches(&Exchange::new(1, &facts), &request, request.target).unwrap() == Some(true)
}

const REQUEST: [(&str, &str); 6] = [
    (":authority", "API.example.:8080"),
    (":path", "/a/b"),
    (":method", "GET"),
    (":scheme", "http"),
    ("x-env", "test"),
    ("x-env", "blue"),
];

#[test]
fn nothing_said_matches_everything() {
    assert!(compile("{}").unwrap().is_always());
    assert!(matches("{}", &REQUEST));
    assert!(!compile(r#"{"methods":["GET"]}"#).unwrap().is_always());
}

#[test]
fn every_part_must_hold() {
    assert!(matches(r#"{"paths":["/x","/a/*"],"methods":["GET"],"hosts":["api.example"]}"#, &REQUEST));
    assert!(!matches(r#"{"paths":["/a/*"],"methods":["POST"]}"#, &REQUEST));
    assert!(!matches(r#"{"paths":["/b"],"methods":["GET"]}"#, &REQUEST));
    assert!(!matches(r#"{"paths":["/a/b"],"hosts":["other.example"]}"#, &REQUEST));
}

#[test]
fn methods_except() {
    assert!(!matches(r#"{"methodsExcept":["GET","HEAD"]}"#, &REQUEST));
    assert!(matches(r#"{"methodsExcept":["POST"]}"#, &REQUEST));
}

#[test]
fn hosts_ignore_case_port_and_trailing_dot() {
    assert!(matches(r#"{"hosts":["api.example"]}"#, &REQUEST));
    assert!(matches(r#"{"hosts":["*.example"]}"#, &REQUEST));
    assert!(!matches(r#"{"hosts":["*.api.example"]}"#, &REQUEST));
    assert!(!matches(r#"{"hosts":["*.example"]}"#, &[(":authority", ".example")]));
    assert!(!matches(r#"{"hosts":["*.example"]}"#, &[(":authority", "badexample")]));
    assert!(matches(r#"{"hosts":["[::1]"]}"#, &[(":authority", "[::1]:80")]));
    assert!(matches(r#"{"hosts":["[::1]"]}"#, &[(":authority", "[::1]")]));
    assert!(matches(r#"{"hosts":["[0:0::1]"]}"#, &[(":authority", "[::0001]:80")]));
    assert!(matches(r#"{"hosts":["api.Example."]}"#, &REQUEST));
    assert!(matches(r#"{"hosts":["*.Example."]}"#, &REQUEST));
    assert!(matches(r#"{"hosts":["10.0.0.1"]}"#, &[(":authority", "10.0.0.1:8080")]));
}

#[test]
fn a_condition_on_hosts_is_in_doubt_where_the_authority_is_no_host() {
    let condition = compile(r#"{"hosts":["internal.example","*.example","[::1]"],"methods":["GET"]}"#);
    let condition = condition.unwrap();
    let facts = FakeHost::default();
    let exchange = Exchange::new(1, &facts);
    let holds = |authority: &str, method: &str| {
        let head = HeaderMap::from_pairs([(":authority", authority), (":method", method)]);
        let request = Request::of(&head);
        let holds = condition.matches(&exchange, &request, b"/").unwrap();
        assert!(method != "GET" || request.has_host() == holds.is_some(), "{authority}");
        holds
    };
    for odd in [
        "",
        ".",
        ":80",
        "internal.example:",
        "internal.example:80:80",
        "internal.example:80x",
        "internal.example:+80",
        "u@internal.example",
        "u:p@internal.example",
        "internal.example..",
        "internal..example",
        ".deep.example",
        "internal%2eexample",
        "internal.example%00",
        "internal.example/",
        "internal.example?x",
        "internal.example#x",
        "internal.example\\",
        "internal.example ",
        "internal.example,other",
        "ınternal.example",
        "[::1",
        "::1",
        "[::1]x",
        "[::1]:",
        "[::1%25eth0]",
        "[v1.x]",
        "[internal.example]",
        "[::1].",
        "x[::1]",
    ] {
        assert_eq!(holds(odd, "GET"), None, "{odd}");
        // What another part decides is decided.
        assert_eq!(holds(odd, "POST"), Some(false), "{odd}");
    }
    for (host, expected) in [
        ("internal.example", true),
        ("INTERNAL.example.:8443", true),
        ("a_b.example", true),
        ("example", false),
        ("[::2]", false),
        ("192.0.2.1:80", false),
    ] {
        assert_eq!(holds(host, "GET"), Some(expected), "{host}");
    }
    let without = compile(r#"{"methods":["GET"]}"#).unwrap();
    assert!(condition.reads_host() && !without.reads_host());
    let head = HeaderMap::from_pairs([(":authority", "a@b"), (":method", "GET")]);
    assert_eq!(without.matches(&exchange, &Request::of(&head), b"/"), Ok(Some(true)));
}

#[test]
fn a_header_test_sees_every_value() {
    assert!(matches(r#"{"headers":{"x-env":{"anyOf":["blue","red"]}}}"#, &REQUEST));
    assert!(matches(r#"{"headers":{"x-env":{"allOf":["blue","test"]}}}"#, &REQUEST));
    assert!(!matches(r#"{"headers":{"x-env":{"allOf":["blue","red"]}}}"#, &REQUEST));
    assert!(!matches(r#"{"headers":{"x-env":{"noneOf":["blue"]}}}"#, &REQUEST));
    assert!(matches(r#"{"headers":{"x-other":{"noneOf":["blue"]}}}"#, &REQUEST));
    assert!(matches(r#"{"headers":{"x-other":{"present":false},"x-env":{"present":true}}}"#, &REQUEST));
    assert!(!matches(r#"{"headers":{"x-env":{"present":false}}}"#, &REQUEST));
}

#[test]
fn a_claim_test_is_undecided_where_no_text_can_be_compared() {
    let decides = |test: &str, claim: &str| {
        let raw = crate::config::read::<RawValueTest>(&serde_json::from_str(test).unwrap()).unwrap();
        let test = ValueTest::compile(&raw, &JsonPath::root(), &mut ErrorList::default()).unwrap();
        let claim: Option<serde_json::Value> =
            (!claim.is_empty()).then(|| serde_json::from_str(claim).unwrap());
        test.decides_claim(&ClaimValues::of(claim.as_ref(), false))
    };
    let (yes, no, undecided) = (Some(true), Some(false), None);
    let claims = ["", "null", r#""a""#, r#""b""#, "[]", r#"["a","b"]"#, r#"{"a":1}"#, "[{}]", r#"["a",{}]"#];
    for (test, expected) in [
        (r#"{"present":true}"#, [no, no, yes, yes, yes, yes, yes, yes, yes]),
        (r#"{"present":false}"#, [yes, yes, no, no, no, no, no, no, no]),
        (r#"{"anyOf":["a","c"]}"#, [no, no, yes, no, no, yes, undecided, undecided, yes]),
        (r#"{"allOf":["a"]}"#, [no, no, yes, no, no, yes, undecided, undecided, yes]),
        (r#"{"allOf":["a","b"]}"#, [no, no, no, no, no, yes, undecided, undecided, undecided]),
        (r#"{"noneOf":["a","c"]}"#, [yes, yes, no, yes, yes, no, undecided, undecided, no]),
        (r#"{"noneOf":["c"],"present":true}"#, [no, no, yes, yes, yes, yes, undecided, undecided, undecided]),
        (r#"{"noneOf":["c"],"present":false}"#, [yes, yes, no, no, no, no, no, no, no]),
    ] {
        for (claim, expected) in claims.iter().zip(expected) {
            assert_eq!(decides(test, claim), expected, "{test} {claim}");
        }
    }
}

#[test]
fn numbers_of_claims_are_compared_however_they_are_written() {
    let decides = |test: &str, claim: &str| {
        let raw = crate::config::read::<RawValueTest>(&serde_json::from_str(test).unwrap()).unwrap();
        let test = ValueTest::compile(&raw, &JsonPath::root(), &mut ErrorList::default()).unwrap();
        let claim = crate::wire::json::value(claim.as_bytes()).unwrap();
        let decided = test.decides_claim(&ClaimValues::of(Some(&claim), false));
        let published = crate::request::claim::published_text(&claim).unwrap();
        assert_eq!(test.decides_claim(&ClaimValues::published(Some(&published), false)), decided);
        decided
    };
    let (yes, no, undecided) = (Some(true), Some(false), None);
    for (number, claim, equal) in [
        ("5", "5.0", yes),
        ("5", "5e0", yes),
        ("5", "0.5E+1", yes),
        ("5.0", "5", yes),
        ("5e0", "[1, 5.0]", yes),
        ("0.50", "0.5", yes),
        ("5e-1", "0.5", yes),
        ("0", "-0.0", yes),
        ("-7", "-7.0", yes),
        ("5", "50", no),
        ("5", "0.5", no),
        ("5", "-5", no),
        ("5", "\"5.0\"", no),
        ("5.0", "\"5.0\"", yes),
        ("9007199254740993", "9007199254740993", yes),
        ("9007199254740993.0", "9007199254740993", yes),
        ("9007199254740992", "9007199254740993", no),
        ("18446744073709551615", "18446744073709551615", yes),
        ("18446744073709551616", "18446744073709551615", no),
        // A double would be another number.
        ("9007199254740992", "9007199254740993.0", undecided),
        ("9007199254740993", "9007199254740993.0", undecided),
        ("18446744073709551616", "18446744073709551616", undecided),
        ("1e300", "1e300", undecided),
        ("a", "1e300", undecided),
    ] {
        assert_eq!(decides(&format!(r#"{{"anyOf":["{number}"]}}"#), claim), equal, "{number} {claim}");
        let none_of = decides(&format!(r#"{{"noneOf":["{number}"]}}"#), claim);
        assert_eq!(none_of, equal.map(|equal| !equal), "none of {number} {claim}");
    }
    // The value of a header is a text.
    assert!(!matches(r#"{"headers":{"x":{"anyOf":["5.0"]}}}"#, &[("x", "5")]));
}

#[test]
fn what_is_wrong_is_named_with_its_path() {
    for (json, path) in [
        (r#"{"paths":["/a","b"]}"#, "match.paths[1]: "),
        (r#"{"pathRegexes":["/a"]}"#, "match.pathRegexes[0]: the proxy evaluates no CEL"),
        (r#"{"methods":["get"]}"#, "match.methods[0]: "),
        (r#"{"hosts":["a.example:80"]}"#, "match.hosts[0]: "),
        (r#"{"hosts":["*a.example"]}"#, "match.hosts[0]: "),
        (r#"{"hosts":["a..example"]}"#, "match.hosts[0]: "),
        (r#"{"hosts":["*..example"]}"#, "match.hosts[0]: "),
        (r#"{"hosts":["[a]"]}"#, "match.hosts[0]: "),
        (r#"{"hosts":["*.[::1]"]}"#, "match.hosts[0]: "),
        (r#"{"hosts":["a.*"]}"#, "match.hosts[0]: "),
        (r#"{"methods":["GET"],"methodsExcept":["PUT"]}"#, "match: "),
        (r#"{"headers":{"X-Env":{"present":true}}}"#, "match.headers.X-Env: "),
        (r#"{"headers":{"x-env":{}}}"#, "match.headers.x-env: "),
        (r#"{"path":["/a"]}"#, "path: unknown field `path`"),
        (
            r#"{"principals":["mesh/a","ns/a/sa/b"]}"#,
            "match.principals[1]: is a SPIFFE ID without its trust domain",
        ),
        (r#"{"sourceAddress":{"cidrs":["10.0.0.0/8"]}}"#, "match.sourceAddress: the node id of this proxy"),
        (r#"{"sourceAddress":{"cidrs":["10.0.0.1/8"],"from":"envoy"}}"#, "match.sourceAddress.cidrs[0]: "),
        (r#"{"sourceAddress":{}}"#, "sourceAddress: missing field `cidrs`"),
    ] {
        let error = compile(json).unwrap_err();
        assert!(error.starts_with(path), "{json}: {error}");
    }
}

#[test]
fn an_empty_part_is_refused_as_it_would_match_everything_or_nothing() {
    for (json, path) in [
        (r#"{"paths":["/a"],"hosts":[]}"#, "hosts"),
        (r#"{"methods":[]}"#, "methods"),
        (r#"{"methodsExcept":[]}"#, "methodsExcept"),
        (r#"{"paths":[],"methods":["GET"]}"#, "paths"),
        (r#"{"pathRegexes":[]}"#, "pathRegexes"),
        (r#"{"headers":{}}"#, "headers"),
        (r#"{"headers":{"x":{"anyOf":[]}}}"#, "headers.x.anyOf"),
        (r#"{"headers":{"x":{"allOf":[],"present":true}}}"#, "headers.x.allOf"),
        (r#"{"headers":{"x":{"noneOf":[],"anyOf":["a"]}}}"#, "headers.x.noneOf"),
        (r#"{"principals":[]}"#, "principals"),
        (r#"{"sourceAddress":{"cidrs":[],"from":"envoy"}}"#, "sourceAddress.cidrs"),
    ] {
        let expected = format!("{path}: is empty; expected at least one entry");
        assert!(compile(json).unwrap_err().starts_with(&expected), "{json}: {:?}", compile(json));
    }
    // A null is no list, and not as if nothing were written.
    assert_eq!(compile(r#"{"principals":null}"#).unwrap_err(), "principals: expected a list, found null");
    assert_eq!(
        compile(r#"{"sourceAddress":null}"#).unwrap_err(),
        "sourceAddress: expected an object, found null"
    );
    assert!(
        compile(r#"{"sourceAddress":{"cidrs":["10.0.0.0/8"],"from":"envoy","trustForwardedFrom":[]}}"#)
            .is_ok()
    );
}

#[test]
fn what_may_be_a_secret_is_not_shown() {
    for json in [
        r#"{"headers":{"x-key":{"anyOf":["s3cr3t*"]}}}"#,
        r#"{"headers":{"x-key":{"anyOf":[{"regex":"s3cr3t("}]}}}"#,
        r#"{"headers":{"s3cr3t ":{"present":true}}}"#,
        r#"{"pathRegexes":["s3cr3t("]}"#,
        r#"{"methods":["s3cr3t"]}"#,
        r#"{"hosts":["s3cr3t:"]}"#,
        r#"{"paths":["s3cr3t"]}"#,
        r#"{"paths":["/s3cr3t*"]}"#,
        r#"{"principals":["s3cr3t"]}"#,
        r#"{"sourceAddress":{"cidrs":["s3cr3t"],"from":"envoy"}}"#,
        r#"{"sourceAddress":{"cidrs":["10.0.0.0/8"],"from":"s3cr3t"}}"#,
        r#"{"hosts":"s3cr3t"}"#,
    ] {
        let error = compile(json).unwrap_err();
        assert!(!error.contains("s3cr3t"), "{error}");
    }
}

#[test]
fn the_client_is_known_by_its_address_and_the_peer_by_its_certificate() {
    let json =
        r#"{"sourceAddress":{"cidrs":["10.0.0.0/8"]},"principals":["mesh/ns/a/sa/b","mesh/ns/c/sa/d"]}"#;
    let raw = crate::config::read::<RawMatch>(&serde_json::from_str(json).unwrap()).unwrap();
    let (path, mut errors) = (JsonPath::root(), ErrorList::default());
    let condition =
        RequestMatch::compile(raw.parts(), PathCase::Sensitive, &Node::SIDECAR, &path, &mut errors).unwrap();
    assert!(!condition.is_always());
    let peer = |name: &str| {
        FakeHost::request("GET", "/")
            .property("source.address", "10.0.0.1:80")
            .property("connection.uri_san_peer_certificate", name)
    };
    let elsewhere = |facts: FakeHost| facts.property("source.address", "11.0.0.1:80");
    let claimed = |facts: FakeHost| facts.header("x-forwarded-for", "10.0.0.1");
    for (facts, expected) in [
        (peer("spiffe://mesh/ns/c/sa/d"), Some(true)),
        (peer("spiffe://mesh/ns/c/sa/other"), Some(false)),
        (peer(""), Some(false)),
        (FakeHost::request("GET", "/").property("source.address", "10.0.0.1:80"), Some(false)),
        (elsewhere(peer("spiffe://mesh/ns/c/sa/d")), Some(false)),
        (claimed(peer("spiffe://mesh/ns/c/sa/d")), None),
        (claimed(peer("spiffe://mesh/ns/c/sa/other")), Some(false)),
    ] {
        let exchange = Exchange::new(1, &facts);
        let head = exchange.headers().unwrap();
        assert_eq!(condition.matches(&exchange, &Request::of(&head), b"/"), Ok(expected), "{facts:?}");
    }
}

#[test]
fn a_regular_expression_is_the_hosts_to_evaluate() {
    let path_regexes = ["/v[0-9]".to_owned()];
    let parts = Parts { path_regexes: &path_regexes, ..Parts::default() };
    let compile = |case| {
        let (host, mut errors) = (AnyCel::default(), ErrorList::default());
        let condition = RequestMatch::compile(parts, case, &host, &JsonPath::root(), &mut errors).unwrap();
        (condition, host.compiled.into_inner().concat())
    };
    let (condition, text) = compile(PathCase::Sensitive);
    assert!(text.contains("/v[0-9]") && !text.contains("(?i)"), "{text}");
    assert!(compile(PathCase::Insensitive).1.contains("(?i)/v[0-9]"));

    let mut facts = FakeHost::request("GET", "/");
    facts.evaluate =
        Some(|_, path| if path == b"/broken" { None } else { Some(vec![u8::from(path == b"/v1")]) });
    let exchange = Exchange::new(1, &facts);
    let head = exchange.headers().unwrap();
    let holds = |path: &[u8]| condition.matches(&exchange, &Request::of(&head), path);
    assert_eq!(holds(b"/v1"), Ok(Some(true)));
    assert_eq!(holds(b"/v2"), Ok(Some(false)));
    assert_eq!(holds(b"/broken"), Ok(None));
    assert_eq!(holds(b"/\xff"), Ok(None));
}

#[test]
fn a_value_is_compared_as_the_test_says() {
    for (test, value, expected) in [
        (r#""a""#, "a", true),
        (r#""a""#, "ab", false),
        (r#"{"exact":"a*"}"#, "a*", true),
        (r#"{"exact":"a","ignoreCase":true}"#, "A", true),
        (r#"{"exact":"a"}"#, "A", false),
        (r#"{"prefix":"application/grpc"}"#, "application/grpc;a=b", true),
        (r#"{"prefix":"application/grpc"}"#, "application/grpc", true),
        (r#"{"prefix":"application/grpc"}"#, "application/grp", false),
        (r#"{"prefix":"application/grpc"}"#, "Application/gRPC", false),
        (r#"{"prefix":"application/grpc","ignoreCase":true}"#, "Application/gRPC+proto", true),
        (r#"{"suffix":".example"}"#, "a.example", true),
        (r#"{"suffix":".example"}"#, "example", false),
        (r#"{"suffix":".example"}"#, "a.example.evil", false),
        (r#"{"suffix":".Example","ignoreCase":true}"#, "A.eXample", true),
    ] {
        let json = format!(r#"{{"headers":{{"x":{{"anyOf":["no",{test}]}}}}}}"#);
        assert_eq!(matches(&json, &[("x", "other"), ("x", value)]), expected, "{test} {value}");
        let json = format!(r#"{{"headers":{{"x":{{"noneOf":[{test}]}}}}}}"#);
        assert_eq!(matches(&json, &[("x", "other"), ("x", value)]), !expected, "none of {test} {value}");
    }
}

/// What a test says of these values, where the host says of a value that it matches, does not, or nothing.
fn truth(test: &str, values: &[&[u8]]) -> Option<bool> {
    let raw = crate::config::read::<RawValueTest>(&serde_json::from_str(test).unwrap()).unwrap();
    let (path, mut errors, host) = (JsonPath::root(), ErrorList::default(), AnyCel::default());
    let test = ValueTest::compile_with(&raw, Some(&host), &path, &mut errors);
    // `truth` also reads tests that never hold.
    drop(errors);
    let test = test.unwrap();
    let evaluate = |_, value: &[u8]| match value {
        b"broken" => None,
        value => Some(vec![u8::from(value == b"yes")]),
    };
    let facts = FakeHost { evaluate: Some(evaluate), ..FakeHost::default() };
    let exchange = Exchange::new(1, &facts);
    test.truth_of_header(values.iter().copied(), &|regex, value| matches_regex(regex, value, &exchange))
        .unwrap()
}

#[test]
fn regular_expression_without_a_value_leaves_the_test_in_doubt() {
    let any = r#"{"anyOf":[{"regex":"y.*"},"plain"]}"#;
    for (test, values, expected) in [
        (any, &["yes"][..], Some(true)),
        (any, &["no"], Some(false)),
        (any, &[], Some(false)),
        (any, &["broken"], None),
        (any, &["broken", "no"], None),
        (any, &["broken", "yes"], Some(true)),
        (any, &["broken", "plain"], Some(true)),
        (r#"{"noneOf":[{"regex":"y.*"}]}"#, &["no"], Some(true)),
        (r#"{"noneOf":[{"regex":"y.*"}]}"#, &["yes", "broken"], Some(false)),
        (r#"{"noneOf":[{"regex":"y.*"}]}"#, &["broken"], None),
        (r#"{"allOf":[{"regex":"y.*"},"plain"]}"#, &["yes", "plain"], Some(true)),
        (r#"{"allOf":[{"regex":"y.*"},"plain"]}"#, &["broken", "plain"], None),
        (r#"{"allOf":[{"regex":"y.*"},"plain"]}"#, &["broken"], Some(false)),
        (r#"{"anyOf":[{"regex":"y.*"}],"present":false}"#, &["broken"], Some(false)),
    ] {
        let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
        assert_eq!(truth(test, &values), expected, "{test} {values:?}");
    }
    assert_eq!(truth(any, &[b"\xff"]), None, "what is no UTF-8");
}

#[test]
fn a_comparison_that_means_something_else_than_it_seems_is_refused() {
    for (test, expected) in [
        (
            r#""application/*""#,
            "x.anyOf[0]: a text with `*` would be compared as it stands; expected `{ prefix: … }`",
        ),
        (r#"{"prefix":""}"#, "x.anyOf[0]: expected a text that is not empty"),
        (r#"{"regex":""}"#, "x.anyOf[0]: expected a text that is not empty"),
        (r#"{"prefix":"a","suffix":"b"}"#, "x.anyOf[0]: expected exactly one of `exact`"),
        (r#"{"prefix":"a","regex":"b"}"#, "x.anyOf[0]: expected exactly one of `exact`"),
        (r#"{"ignoreCase":true}"#, "x.anyOf[0]: expected exactly one of `exact`"),
        (r#"{"prefx":"a"}"#, "did you mean `prefix`?"),
        ("1", "expected a text, or an object such as"),
    ] {
        let error = compile(&format!(r#"{{"headers":{{"x":{{"anyOf":[{test}]}}}}}}"#)).unwrap_err();
        assert!(error.contains(expected), "{test}: {error}");
    }
    let raw = RawTextTest { regex: Some("a".to_owned()), ..RawTextTest::default() };
    let raw = RawValueTest { none_of: vec![RawText::As(raw)].into(), ..RawValueTest::default() };
    let mut errors = ErrorList::default();
    let test = ValueTest::compile(&raw, &JsonPath::root().field("claims").field("a"), &mut errors);
    let error = errors.finish(test).unwrap_err().to_string();
    assert!(error.starts_with("claims.a.noneOf[0].regex: a claim is tested by no regular"), "{error}");
}
