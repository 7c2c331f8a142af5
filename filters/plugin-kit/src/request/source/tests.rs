use std::fmt::Write;

use super::*;
use crate::testing::{AnyCel, FakeHost, Node};
use proptest::prelude::*;

fn parsed(json: &str) -> Result<Source, String> {
    let raw = crate::config::read::<RawSource>(&serde_json::from_str(json).unwrap())
        .map_err(|error| error.to_string())?;
    let mut errors = ErrorList::default();
    let source = raw.parse(&JsonPath::root().field("from"), &mut errors, &Sidecar);
    errors.finish(source).map_err(|errors| errors.to_string())
}

struct Sidecar;

impl Environment for Sidecar {
    fn variable(&self, name: &str) -> Option<String> {
        (name == "VERSION").then(|| "v7".to_owned())
    }

    fn node_id(&self) -> Option<Vec<u8>> {
        Node::SIDECAR.node_id()
    }
}

fn value(json: &str, facts: &FakeHost) -> Option<String> {
    let source = parsed(json).unwrap();
    let exchange = Exchange::new(1, facts);
    source.value(&exchange).unwrap().map(|value| String::from_utf8(value.into_owned()).unwrap())
}

fn request() -> FakeHost {
    FakeHost::request("GET", "/learn/%61?a=1&user=al%69ce+b&user=second&empty=")
}

#[test]
fn each_kind_finds_its_value() {
    let facts = request()
        .header("x-user", "one")
        .header("x-user", "two")
        .header("baggage", "x=1;p=2, tenant = a+b%20c;q")
        .header("baggage", "tenant=later")
        .header("cookie", "a=1; session=s1,t")
        .header("cookie", "session=later; q=\"quoted\"")
        .header("x-request-id", "r-1")
        .property("jwt.org.id", "acme")
        .property("jwt.nothing", "\"\"")
        .property("tag.x", "t")
        .property("filter_state.native.key", "n")
        .property("request.protocol", "HTTP/2")
        .property("connection.uri_san_peer_certificate", "spiffe://cluster.local/ns/a/sa/b")
        .property("xds.node.metadata.LABELS.version", "v2");
    let cases = [
        (r#"{"claim":"org.id"}"#, Some("acme")),
        (r#"{"claim":"sub"}"#, None),
        (r#"{"claim":"nothing"}"#, None),
        (r#"{"header":"X-User"}"#, Some("one,two")),
        (r#"{"header":"x-none"}"#, None),
        (r#"{"queryParam":"user"}"#, Some("alice b")),
        (r#"{"queryParam":"empty"}"#, None),
        (r#"{"queryParam":"none"}"#, None),
        (r#"{"cookie":"session"}"#, Some("s1,t")),
        (r#"{"cookie":"q"}"#, Some("quoted")),
        (r#"{"cookie":"sess"}"#, None),
        (r#"{"baggage":"tenant"}"#, Some("a+b c")),
        (r#"{"baggage":"ten"}"#, None),
        (r#"{"principal":{}}"#, Some("spiffe://cluster.local/ns/a/sa/b")),
        (r#"{"requestId":{}}"#, Some("r-1")),
        (r#"{"pathTemplate":["/learn/b","/learn/{*}","/*"]}"#, Some("/learn/{*}")),
        (r#"{"pathTemplate":["/Learn/A"]}"#, Some("/Learn/A")),
        (r#"{"pathTemplate":["/learn"]}"#, None),
        (r#"{"path":{}}"#, Some("/learn/%61")),
        (r#"{"method":{}}"#, Some("GET")),
        (r#"{"workloadLabel":"version"}"#, Some("v2")),
        (r#"{"workloadLabel":"none"}"#, None),
        (r#"{"env":"VERSION"}"#, Some("v7")),
        (r#"{"env":"NONE"}"#, None),
        (r#"{"filterState":"wasm.tag.x"}"#, Some("t")),
        (r#"{"filterState":"native.key"}"#, Some("n")),
        (r#"{"property":["request","protocol"]}"#, Some("HTTP/2")),
        (r#"{"literal":"fixed"}"#, Some("fixed")),
    ];
    for (json, expected) in cases {
        assert_eq!(value(json, &facts).as_deref(), expected, "{json}");
    }
}

#[test]
fn the_address_is_what_the_peer_has_or_a_trusted_peer_has_seen() {
    let plain = r#"{"sourceAddress":{}}"#;
    let gateway = "spiffe://cluster.local/ns/istio-ingress/sa/gateway";
    let trust = r#"{"sourceAddress":{"trustForwardedFrom":["cluster.local/ns/istio-ingress/sa/gateway"]}}"#;
    let behind = r#"{"sourceAddress":{"trustForwardedFrom":["spiffe://cluster.local/ns/istio-ingress/sa/gateway"],"numTrustedProxies":1}}"#;
    let direct = request().property("source.address", "10.0.0.1:4711");
    // What Envoy makes of it.
    let forwarded = request()
        .header("x-forwarded-for", "6.6.6.6, 9.9.9.9")
        .header("x-forwarded-for", "8.8.8.8")
        .property("source.address", "8.8.8.8:0");
    let from = |facts: &FakeHost, principal: &str| {
        facts.clone().property("connection.uri_san_peer_certificate", principal)
    };
    for json in [plain, trust, behind] {
        assert_eq!(value(json, &direct).unwrap(), "10.0.0.1");
        assert_eq!(value(json, &from(&direct, gateway)).unwrap(), "10.0.0.1");
    }
    assert_eq!(value(trust, &from(&forwarded, gateway)).unwrap(), "8.8.8.8");
    assert_eq!(value(behind, &from(&forwarded, gateway)).unwrap(), "9.9.9.9");
    // A peer that nobody trusts may have written anything.
    assert_eq!(value(plain, &from(&forwarded, gateway)), None);
    assert_eq!(value(trust, &forwarded), None);
    assert_eq!(value(trust, &from(&forwarded, "spiffe://cluster.local/ns/istio-ingress/sa/other")), None);
    let odd = request().header("x-forwarded-for", "unknown").property("source.address", "10.0.0.1:4711");
    assert_eq!(value(trust, &from(&odd, gateway)), None);
    // At the edge Envoy has seen the client itself.
    let raw = crate::config::read::<RawSource>(&serde_json::from_str(plain).unwrap()).unwrap();
    let edge = raw.parse(
        &JsonPath::root(),
        &mut ErrorList::default(),
        &Node("router~10.0.0.9~gateway.istio-ingress~svc"),
    );
    let edge = edge.unwrap();
    assert_eq!(edge.value(&Exchange::new(1, &forwarded)).unwrap().as_deref(), Some(&b"8.8.8.8"[..]));
    assert_eq!(
        (edge.head_use(), parsed(plain).unwrap().head_use()),
        (HeaderReads::Nothing, HeaderReads::One(FORWARDED_FOR.to_owned()))
    );
}

#[test]
fn ipv4_addresses_of_one_network_are_one_where_a_prefix_is_given() {
    let at = |address: &str| request().property("source.address", address);
    let by_24 = r#"{"sourceAddress":{"ipv4Prefix":24}}"#;
    assert_eq!(value(by_24, &at("192.0.2.7:80")).unwrap(), "192.0.2.0/24");
    assert_eq!(value(by_24, &at("[::ffff:192.0.2.9]:80")).unwrap(), "192.0.2.0/24");
    assert_eq!(value(r#"{"sourceAddress":{}}"#, &at("192.0.2.7:80")).unwrap(), "192.0.2.7");
    assert_eq!(value(by_24, &at("[fe80::1%2]:80")).unwrap(), "fe80::/64");
}

#[test]
fn ipv6_addresses_of_one_network_are_one() {
    let at = |address: &str| request().property("source.address", address);
    let all = r#"{"sourceAddress":{"ipv6Prefix":128}}"#;
    assert_eq!(value(r#"{"sourceAddress":{}}"#, &at("[2001:db8:1:2:3::4]:80")).unwrap(), "2001:db8:1:2::/64");
    assert_eq!(value(all, &at("[2001:db8:1:2:3::4]:80")).unwrap(), "2001:db8:1:2:3::4");
    assert_eq!(value(all, &at("[::ffff:1.2.3.4]:80")).unwrap(), "1.2.3.4");
    assert_eq!(value(r#"{"sourceAddress":{}}"#, &at("/run/socket")).unwrap(), "/run/socket");
}

#[test]
fn a_cel_expression_is_a_source_and_one_without_a_value_is_none() {
    let parse = |json: &str| {
        let raw = crate::config::read::<RawSource>(&serde_json::from_str(json).unwrap()).unwrap();
        let source = raw.parse(&JsonPath::root(), &mut ErrorList::default(), &AnyCel::default()).unwrap();
        (raw.is_unverified(&source), source)
    };
    let (is_unverified, source) = parse(r#"{"cel":"request.headers['x']"}"#);
    assert!(is_unverified);
    assert!(!parse(r#"{"cel":"source.address","trust":true}"#).0);
    let mut facts = request();
    assert_eq!(source.value(&Exchange::new(1, &facts)), Ok(None));
    facts.expressions.insert(AnyCel::NUMBER, Some(b"v".to_vec()));
    assert_eq!(source.value(&Exchange::new(1, &facts)).unwrap().as_deref(), Some(&b"v"[..]));
    let error = parsed(r#"{"cel":"x"}"#).unwrap_err();
    assert_eq!(error, "from.cel: the proxy evaluates no CEL");
}

#[test]
fn what_a_client_can_write_is_unverified_unless_the_user_vouches_for_it() {
    let is_unverified = |json: &str| {
        let raw = crate::config::read::<RawSource>(&serde_json::from_str(json).unwrap()).unwrap();
        raw.is_unverified(&raw.parse(&JsonPath::root(), &mut ErrorList::default(), &Sidecar).unwrap())
    };
    for written in [
        r#""header":"x""#,
        r#""queryParam":"x""#,
        r#""cookie":"x""#,
        r#""baggage":"x""#,
        r#""requestId":{}"#,
        r#""path":{}"#,
        r#""pathTemplate":["/a"]"#,
        r#""method":{}"#,
        r#""property":["request","headers","x"]"#,
        r#""property":["request","path"]"#,
        r#""property":["request","url_path"]"#,
        r#""property":["request","query"]"#,
        r#""property":["request","host"]"#,
        r#""property":["request","id"]"#,
        r#""property":["request","referer"]"#,
        r#""property":["request","useragent"]"#,
        r#""property":["request","scheme"]"#,
        r#""property":["source","address"]"#,
        r#""property":["connection","requested_server_name"]"#,
    ] {
        assert!(is_unverified(&format!("{{{written}}}")), "{written}");
        assert!(is_unverified(&format!(r#"{{{written},"trust":false}}"#)), "{written}");
        assert!(!is_unverified(&format!(r#"{{{written},"trust":true}}"#)), "{written}");
    }
    for known in [
        r#""claim":"sub""#,
        r#""principal":{}"#,
        r#""sourceAddress":{}"#,
        r#""workloadLabel":"version""#,
        r#""env":"VERSION""#,
        r#""filterState":"wasm.x""#,
        r#""literal":"x""#,
        r#""property":["request","protocol"]"#,
        r#""property":["connection","uri_san_peer_certificate"]"#,
        r#""property":["xds","cluster_name"]"#,
    ] {
        assert!(!is_unverified(&format!("{{{known}}}")), "{known}");
        let trusted = parsed(&format!(r#"{{{known},"trust":true}}"#)).unwrap_err();
        assert!(trusted.starts_with("from.trust: only what a client can write needs it"), "{trusted}");
    }
}

#[test]
fn a_label_is_read_once() {
    let source = parsed(r#"{"workloadLabel":"version"}"#).unwrap();
    let first = request().property("xds.node.metadata.LABELS.version", "v1");
    let later = request().property("xds.node.metadata.LABELS.version", "v2");
    for facts in [first, later] {
        assert_eq!(source.value(&Exchange::new(1, &facts)).unwrap().as_deref(), Some(&b"v1"[..]));
    }
}

#[test]
fn what_the_host_fails_to_answer_is_an_error() {
    let failure = HostError { call: "get_property", status: 10 };
    let facts = FakeHost { failure: Some(failure), ..request() };
    for json in [r#"{"header":"a"}"#, r#"{"cookie":"a"}"#, r#"{"claim":"a"}"#, r#"{"sourceAddress":{}}"#] {
        assert_eq!(parsed(json).unwrap().value(&Exchange::new(1, &facts)), Err(failure), "{json}");
    }
}

#[test]
fn wrong_sources_say_what_is_expected() {
    let cases = [
        ("{}", "from: expected exactly one of `claim`, "),
        (r#"{"claim":"a","header":"b"}"#, "found `claim` and `header`"),
        (
            r#"{"claim":"a","trust":true}"#,
            "from.trust: only what a client can write needs it, which `claim` here is not",
        ),
        (r#"{"header":"a b"}"#, "from.header: expected the name of a header"),
        (r#"{"clam":"sub"}"#, "did you mean `claim`?"),
        (r#"{"claim":""}"#, "from.claim: expected the name of a claim"),
        (r#"{"literal":""}"#, "from.literal: expected text"),
        (r#"{"pathTemplate":[]}"#, "pathTemplate: is empty; expected at least one entry"),
        (r#"{"pathTemplate":["/a","b"]}"#, "from.pathTemplate[1]: must start with `/`"),
        (r#"{"property":[]}"#, "property: is empty; expected at least one entry"),
        (r#"{"property":["source"]}"#, "property: `source` is an object; expected one of its attributes"),
        (r#"{"sourceAddress":{"ipv6Prefix":0}}"#, "from.sourceAddress.ipv6Prefix: expected 1 to 128 bits"),
        (r#"{"sourceAddress":{"ipv4Prefix":33}}"#, "from.sourceAddress.ipv4Prefix: expected 1 to 32 bits"),
        (
            r#"{"sourceAddress":{"trustForwardedFrom":["a/b","10.0.0.0/8"]}}"#,
            "from.sourceAddress.trustForwardedFrom[1]: is an address",
        ),
        (r#"{"sourceAddress":{"from":"envoy"}}"#, "from.sourceAddress.from: a sidecar takes"),
        (
            r#"{"sourceAddress":{"numTrustedProxies":1}}"#,
            "from.sourceAddress.numTrustedProxies: only has a meaning",
        ),
    ];
    for (json, expected) in cases {
        let error = parsed(json).unwrap_err();
        assert!(error.contains(expected), "{json}: {error}");
    }
}

#[test]
fn a_template_is_found_however_the_path_is_written() {
    let source = r#"{"pathTemplate":["/users/{*}/orders","/search"]}"#;
    for (path, expected) in [
        ("/users/7/orders?page=2", Some("/users/{*}/orders")),
        ("/USERS/7/%6frders/", Some("/users/{*}/orders")),
        ("/users//7/orders", Some("/users/{*}/orders")),
        ("/x/../search", Some("/search")),
        ("/search;v=1", Some("/search")),
        ("/search%3Fv=1", Some("/search")),
        ("/search%23", Some("/search")),
        ("/users/1/orders%3fx", Some("/users/{*}/orders")),
        ("/users/1/orders%253Fx", Some("/users/{*}/orders")),
        ("/users/7", None),
        ("/%zz", None),
    ] {
        let found = value(source, &FakeHost::request("GET", path));
        assert_eq!(found.as_deref(), expected, "{path}");
    }
}

#[test]
fn one_header_is_read_alone_and_several_together() {
    let head_use = |json: &str| parsed(json).unwrap().head_use();
    let one = head_use(r#"{"header":"a"}"#);
    assert_eq!(one, HeaderReads::One("a".to_owned()));
    assert_eq!(one.clone().and(head_use(r#"{"claim":"sub"}"#)), one);
    assert_eq!(one.clone().and(one.clone()), one);
    assert_eq!(one.and(head_use(r#"{"path":{}}"#)), HeaderReads::Whole);
}

proptest! {
    #[test]
    fn any_query_cookie_and_forwarded_list_is_read_without_a_panic(
        path in ".{0,40}",
        cookie in ".{0,40}",
        forwarded in "[0-9a-f:., \\[\\]]{0,40}",
    ) {
        let facts = FakeHost::request("GET", &path)
            .header("cookie", &cookie)
            .header("x-forwarded-for", &forwarded)
            .property("connection.uri_san_peer_certificate", "spiffe://a/b");
        let exchange = Exchange::new(1, &facts);
        for json in [
            r#"{"queryParam":"a"}"#,
            r#"{"cookie":"a"}"#,
            r#"{"sourceAddress":{"trustForwardedFrom":["a/b"]}}"#,
        ] {
            let raw = crate::config::read::<RawSource>(&serde_json::from_str(json).unwrap()).unwrap();
            let source = raw.parse(&JsonPath::root(), &mut ErrorList::default(), &Sidecar).unwrap();
            prop_assert!(source.value(&exchange).is_ok());
        }
    }

    #[test]
    fn an_encoded_query_parameter_comes_back(value in "[ -~]{1,20}") {
        let mut path = "/?x=1&k=".to_owned();
        for byte in value.bytes() {
            let _ = write!(path, "%{byte:02x}");
        }
        prop_assert_eq!(query_param(path.as_bytes(), b"k"), Some(value.into_bytes()));
    }
}
