use super::*;
use crate::request::matcher::{AddressMatch, RawAddressMatch};
use crate::testing::{FakeHost, Node};
use proptest::prelude::*;
use std::net::Ipv6Addr;

const GATEWAY: &str = "spiffe://cluster.local/ns/istio-ingress/sa/gateway";

fn compile(json: &str, node: &'static str) -> Result<AddressMatch, String> {
    let raw = crate::config::read::<RawAddressMatch>(&serde_json::from_str(json).unwrap())
        .map_err(|error| error.to_string())?;
    let mut errors = ErrorList::default();
    let test = AddressMatch::compile(&raw, &JsonPath::root().field("a"), &mut errors, &Node(node));
    errors.finish(test).map_err(|errors| errors.to_string())
}

fn holds(json: &str, node: &'static str, facts: &FakeHost) -> Option<bool> {
    compile(json, node).unwrap().holds(&Exchange::new(1, facts)).unwrap()
}

fn from(address: &str) -> FakeHost {
    FakeHost::request("GET", "/").property("source.address", address)
}

#[test]
fn an_address_is_in_its_networks_however_it_is_written() {
    let inside = r#"{"cidrs":["10.0.0.0/8","192.0.2.7","2001:db8::/32","::ffff:172.16.0.0/108"]}"#;
    for (address, expected) in [
        ("10.0.0.1:4711", true),
        ("10.255.255.255:1", true),
        ("11.0.0.0:1", false),
        ("[::ffff:10.0.0.1]:4711", true),
        ("[::ffff:a00:1]:4711", true),
        ("::ffff:10.0.0.1", true),
        ("192.0.2.7:1", true),
        ("192.0.2.8:1", false),
        ("[2001:db8::1]:1", true),
        ("[2001:db8::1%2]:1", true),
        ("[2001:db9::1]:1", false),
        ("172.31.0.1:1", true),
        ("172.32.0.1:1", false),
        ("[::10.0.0.1]:1", false),
    ] {
        assert_eq!(holds(inside, "sidecar~", &from(address)), Some(expected), "{address}");
    }
    assert_eq!(holds(inside, "sidecar~", &from("/run/socket")), None);
    assert_eq!(holds(inside, "sidecar~", &FakeHost::request("GET", "/")), None);
}

#[test]
fn an_address_that_an_untrusted_peer_claims_leaves_the_test_in_doubt() {
    let plain = r#"{"cidrs":["10.0.0.0/8"]}"#;
    let trusting =
        r#"{"cidrs":["10.0.0.0/8"],"trustForwardedFrom":["cluster.local/ns/istio-ingress/sa/gateway"]}"#;
    // What Envoy makes of it.
    let claimed = from("10.6.6.6:0").header("x-forwarded-for", "10.6.6.6");
    assert_eq!(holds(plain, "sidecar~", &claimed), None);
    assert_eq!(holds(trusting, "sidecar~", &claimed), None);
    let by_gateway = claimed.clone().property("connection.uri_san_peer_certificate", GATEWAY);
    assert_eq!(holds(trusting, "sidecar~", &by_gateway), Some(true));
    assert_eq!(holds(plain, "sidecar~", &by_gateway), None);
    assert_eq!(holds(plain, "router~", &claimed), Some(true), "there it is what Envoy has seen");
    let odd = from("10.6.6.6:0").header("x-forwarded-for", "unknown");
    let odd = odd.property("connection.uri_san_peer_certificate", GATEWAY);
    assert_eq!(holds(trusting, "sidecar~", &odd), None);
}

#[test]
fn a_proxy_that_is_not_known_must_be_told_where_the_address_comes_from() {
    let json = |fields: &str| format!(r#"{{"cidrs":["10.0.0.0/8"]{fields}}}"#);
    let trust = r#","trustForwardedFrom":["mesh/a"]"#;
    for node in ["", "envoy-1", "waypoint~10.0.0.1~w.shop~shop.svc", "ingress~1"] {
        for fields in ["", trust] {
            let error = compile(&json(fields), node).unwrap_err();
            assert!(error.starts_with(&format!("a: the node id of this proxy, `{node}`, is not")), "{error}");
        }
        let envoy = json(r#","from":"envoy""#);
        let claimed = from("10.6.6.6:0").header("x-forwarded-for", "11.1.1.1");
        assert_eq!(holds(&envoy, node, &claimed), Some(true));
        let forwarded = json(&format!(r#","from":"forwarded"{trust}"#));
        assert_eq!(holds(&forwarded, node, &claimed), None);
        let trusted = claimed.property("connection.uri_san_peer_certificate", "spiffe://mesh/a");
        assert_eq!(holds(&forwarded, node, &trusted), Some(false));
    }
    for (fields, node, expected) in [
        (r#","from":"envoy""#, "sidecar~", "a.from: a sidecar takes the address from `x-forwarded-for`"),
        (
            r#","from":"envoy","trustForwardedFrom":["mesh/a"]"#,
            "envoy",
            "a.trustForwardedFrom: with `from: envoy`",
        ),
        (r#","from":"forwarded""#, "envoy", "a.trustForwardedFrom: expected the principals"),
        (r#","from":"forwarded""#, "sidecar~", "a.trustForwardedFrom: expected the principals"),
        (r#","from":"envoi""#, "envoy", "did you mean `envoy`?"),
        (r#","numTrustedProxies":1"#, "sidecar~", "a.numTrustedProxies: only has a meaning"),
    ] {
        let error = compile(&json(fields), node).unwrap_err();
        assert!(error.contains(expected), "{fields}: {error}");
    }
    assert!(
        compile(r#"{"cidrs":[]}"#, "sidecar~")
            .unwrap_err()
            .contains("cidrs: is empty; expected at least one")
    );
    assert!(
        compile(r#"{"cidrs":["10.0.0.0/8","x"]}"#, "sidecar~")
            .unwrap_err()
            .contains("a.cidrs[1]: is not a network")
    );
}

#[test]
fn what_is_no_principal_is_refused_with_what_was_expected() {
    const PARTIAL: &str = "is not the identity of a peer, which is `TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`";
    const NAMES: &str = "has a namespace or an account that Kubernetes does not know";
    for text in [
        "cluster.local/ns/shop-2/sa/web.v2",
        "cluster.local/ns/a/sa/b",
        "spiffe://cluster.local/ns/a/sa/b",
        "mesh-1.example/x",
        "spiffe://ns/x/sa/y",
    ] {
        assert!(Principal::parse(text).is_ok(), "{text}");
    }
    for (text, why) in [
        ("10.0.0.0/8", "is an address, which anybody may have"),
        ("2001:db8::/32", "is an address, which anybody may have"),
        ("10.0.0.1", "is not a SPIFFE ID"),
        ("10.0.0.1/x", "is an address, which anybody may have"),
        ("ns/x/sa/y", "is a SPIFFE ID without its trust domain"),
        ("*", "a text with `*` would be compared as it stands"),
        ("cluster.local/ns/*/sa/a", "a text with `*` would be compared as it stands"),
        ("cluster.local", "is not a SPIFFE ID"),
        ("cluster.local/", "is not a SPIFFE ID"),
        ("/ns/a/sa/b", "is not a SPIFFE ID"),
        ("cluster.local/ns/a", PARTIAL),
        ("cluster.local/ns/a/sa", PARTIAL),
        ("cluster.local/ns", PARTIAL),
        ("spiffe://cluster.local/ns/a/sa/b/c", PARTIAL),
        ("cluster.local/ns/a/as/b", PARTIAL),
        ("cluster.local/sa/b", PARTIAL),
        ("cluster.local/ns/Shop/sa/web", NAMES),
        ("cluster.local/ns/shop/sa/Web", NAMES),
        ("cluster.local/ns/the.shop/sa/web", NAMES),
        ("cluster.local/ns/the_shop/sa/web", NAMES),
        ("Cluster.Local/ns/a", "is not a SPIFFE ID"),
        ("cluster.local/ns//a", "is not a SPIFFE ID"),
        ("cluster.local/ns/../a", "is not a SPIFFE ID"),
        ("https://a/b", "is not a SPIFFE ID"),
        ("cluster.local/ns/a b", "is not a SPIFFE ID"),
        ("", "is not a SPIFFE ID"),
    ] {
        let error = Principal::parse(text).unwrap_err();
        assert!(error.starts_with(why) && error.contains("; expected a principal such as"), "{error}");
    }
    let principal = Principal::parse("cluster.local/ns/a/sa/b").unwrap();
    assert!(principal.is(b"spiffe://cluster.local/ns/a/sa/b"));
    for other in
        ["spiffe://cluster.local/ns/a/sa/b2", "cluster.local/ns/a/sa/b", "spiffe://cluster.local/ns/a", ""]
    {
        assert!(!principal.is(other.as_bytes()), "{other}");
    }
}

#[test]
fn what_is_no_network_is_refused() {
    for text in [
        "",
        "/",
        "10.0.0.0/",
        "10.0.0.0/33",
        "::/129",
        "10.0.0.0/+8",
        "10.0.0.0/08",
        "10.0.0/8",
        "010.0.0.0/8",
        "[::1]",
        "10.0.0.0/8/8",
        "10.0.0.0 /8",
        "fe80::1%1/64",
        "example",
        "10.0.0.0:80",
        "0x0a.0.0.0/8",
    ] {
        assert!(Cidr::parse(text).unwrap_err().contains("is not a network; expected one such as"), "{text}");
    }
    assert_eq!(
        Cidr::parse("10.0.0.1/8").unwrap_err(),
        "`10.0.0.1/8` has bits behind its prefix; expected `10.0.0.0/8`"
    );
    assert_eq!(
        Cidr::parse("2001:db8::1/32").unwrap_err(),
        "`2001:db8::1/32` has bits behind its prefix; expected `2001:db8::/32`"
    );
}

/// Addresses, some near each other.
fn addresses() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from),
        (0_u8..4).prop_map(|last| IpAddr::from([10, 0, 0, last])),
        any::<u8>().prop_map(|last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into()),
    ]
}

/// The bits of an address, as the standard library has its bytes.
fn bits(address: IpAddr) -> Vec<bool> {
    let bytes = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| (byte >> bit) & 1 == 1)).collect()
}

proptest! {
    #[test]
    fn a_network_has_the_addresses_that_share_its_leading_bits(
        base in addresses(),
        other in addresses(),
        prefix in 0_u8..=128,
    ) {
        let longest = bits(base).len();
        let prefix = prefix.min(u8::try_from(longest).unwrap());
        let network = Cidr::of(base.to_canonical(), prefix.min(if base.to_canonical().is_ipv4() { 32 } else { 128 }));
        prop_assert_eq!(Cidr::parse(&network.to_string()), Ok(network));
        prop_assert!(network.contains(base.to_canonical()));
        let (base, other) = (bits(base.to_canonical()), bits(other.to_canonical()));
        let shares = base.len() == other.len() && base.iter().zip(&other).take(network.prefix.into()).all(|(a, b)| a == b);
        let as_address = match <[bool; 32]>::try_from(other.clone()) {
            Ok(bits) => IpAddr::V4(bits.iter().fold(0_u32, |all, bit| (all << 1) | u32::from(*bit)).into()),
            Err(_) => IpAddr::V6(Ipv6Addr::from_bits(other.iter().fold(0_u128, |all, bit| (all << 1) | u128::from(*bit)))),
        };
        prop_assert_eq!(network.contains(as_address), shares);
    }

    #[test]
    fn an_address_of_the_standard_library_is_found_in_its_texts(address in addresses(), port: u16) {
        let canonical = Some(address.to_canonical());
        prop_assert_eq!(parse(address.to_string().as_bytes()), canonical);
        prop_assert_eq!(parse(SocketAddr::new(address, port).to_string().as_bytes()), canonical);
        prop_assert_eq!(parse(format!(" [{address}] ").as_bytes()), canonical);
    }

    #[test]
    fn any_text_is_a_network_and_a_principal_or_refused(text in ".{0,30}", near in "[0-9a-f:./]{0,24}") {
        for text in [text, near] {
            let _ = (parse(text.as_bytes()), Principal::parse(&text));
            if let Ok(network) = Cidr::parse(&text) {
                let address = text.split('/').next().unwrap().parse::<IpAddr>();
                prop_assert_eq!(address.map(|address| address.to_canonical()), Ok(network.first));
            }
        }
    }
}
