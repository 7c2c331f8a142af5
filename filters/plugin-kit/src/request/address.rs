//! Who sent a request: the client's address, and the peer's identity. One set of trust rules for keys and conditions.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::config::{ErrorList, JsonPath, NonEmpty};
use crate::host::Environment;
use crate::host::HostError;
use crate::request::exchange::Exchange;

crate::config_choice! {
    /// Where the client's address comes from. On a sidecar or a gateway of Istio nothing needs to be said.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum AddressFrom {
        /// The proxy finds it itself: at an edge, from the connection or by its own count of trusted hops.
        Envoy,
        /// The peer's address, or where the peer is trusted what it has forwarded.
        Forwarded,
    }
}

/// How the client's address is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAddress {
    /// Envoy's `source.address` is the client's whatever the request says.
    known_to_envoy: bool,
    /// Whose `x-forwarded-for` is believed.
    trust_forwarded_from: Vec<Principal>,
    /// How many proxies stand in front of the trusted peer and append to `x-forwarded-for` before it does.
    num_trusted_proxies: usize,
}

/// What there is in the place of the client's address.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Its address. An IPv4 address is one however it was written.
    Address(IpAddr),
    /// A peer without an address of the Internet, such as a Unix domain socket.
    Peer(Vec<u8>),
    /// Nothing that could be believed.
    Unknown,
}

/// `x-forwarded-for`.
pub const FORWARDED_FOR: &str = "x-forwarded-for";

impl ClientAddress {
    /// Reads how the address is to be found, or notes under `path` what is wrong with it.
    pub fn parse(
        from: Option<AddressFrom>,
        trust_forwarded_from: &[String],
        num_trusted_proxies: usize,
        path: &JsonPath,
        errors: &mut ErrorList,
        environment: &dyn Environment,
    ) -> Option<Self> {
        let list = path.field("trustForwardedFrom");
        let mut trusted = Vec::new();
        for (n, principal) in trust_forwarded_from.iter().enumerate() {
            trusted.push(errors.check(&list.index(n), Principal::parse(principal))?);
        }
        if num_trusted_proxies > 0 && trusted.is_empty() {
            errors.add(
                &path.field("numTrustedProxies"),
                "only has a meaning with the principals in `trustForwardedFrom`",
            );
            return None;
        }
        let known_to_envoy = match (from, Node::of(environment)) {
            (Some(AddressFrom::Envoy), Node::Sidecar) => {
                errors.add(
                    &path.field("from"),
                    "a sidecar takes the address from `x-forwarded-for`, whoever wrote that; expected no `from`, and \
                     `trustForwardedFrom` with the principals that are believed",
                );
                return None;
            }
            (Some(AddressFrom::Envoy), _) if !trusted.is_empty() => {
                errors.add(
                    &list,
                    "with `from: envoy` the proxy's own configuration says whom it believes (`xff_num_trusted_hops`); expected \
                     `from: forwarded`, or no `trustForwardedFrom`",
                );
                return None;
            }
            (Some(AddressFrom::Forwarded), _) if trusted.is_empty() => {
                errors.add(&list, "expected the principals whose `x-forwarded-for` is believed");
                return None;
            }
            (Some(from), _) => from == AddressFrom::Envoy,
            (None, Node::Gateway) => true,
            (None, Node::Sidecar) => false,
            (None, Node::Other(id)) => {
                errors.add(
                    path,
                    format_args!(
                        "the node id of this proxy, `{id}`, is not that of a sidecar or gateway of Istio, so how it finds the \
                         client's address is not known; expected `from: envoy` where it does so itself (`use_remote_address: \
                         true`, as in Envoy Gateway), or `from: forwarded` with the peers to believe in `trustForwardedFrom`"
                    ),
                );
                return None;
            }
        };
        Some(Self { known_to_envoy, trust_forwarded_from: trusted, num_trusted_proxies })
    }

    /// Whether `x-forwarded-for` is looked at.
    pub fn reads_forwarded(&self) -> bool {
        !self.known_to_envoy || !self.trust_forwarded_from.is_empty()
    }

    /// The client's address.
    ///
    /// Envoy's `source.address` is the peer's own only as long as there is no `x-forwarded-for`: a sidecar takes the last
    /// entry of that header in its place, whoever wrote it. So with that header and a peer that is not trusted the
    /// address is not known. At a gateway, the first proxy that clients meet, Envoy itself has appended what it saw.
    ///
    /// # Errors
    /// The host did not answer.
    pub fn find(&self, exchange: &Exchange<'_>) -> Result<Found, HostError> {
        if self.reads_forwarded()
            && let Some(list) = exchange.header_joined(FORWARDED_FOR)?
        {
            if self.trusts_peer(exchange)? {
                let entry = list.rsplit(|byte| *byte == b',').nth(self.num_trusted_proxies);
                return Ok(entry.and_then(parse).map_or(Found::Unknown, Found::Address));
            }
            if !self.known_to_envoy {
                return Ok(Found::Unknown);
            }
        }
        let Some(peer) = exchange.property(&["source", "address"])? else { return Ok(Found::Unknown) };
        Ok(parse(&peer).map_or(Found::Peer(peer), Found::Address))
    }

    fn trusts_peer(&self, exchange: &Exchange<'_>) -> Result<bool, HostError> {
        if self.trust_forwarded_from.is_empty() {
            return Ok(false);
        }
        let peer = principal(exchange)?;
        Ok(peer.is_some_and(|peer| self.trust_forwarded_from.iter().any(|trusted| trusted.is(&peer))))
    }
}

/// What a proxy is, by its node id: Istio names the nodes of sidecars `sidecar~…`, those of gateways `router~…`, and its
/// waypoints `waypoint~…`.
enum Node {
    Sidecar,
    Gateway,
    Other(String),
}

impl Node {
    fn of(environment: &dyn Environment) -> Self {
        let id = environment.node_id().unwrap_or_default();
        if id.starts_with(b"sidecar~") {
            Self::Sidecar
        } else if id.starts_with(b"router~") {
            Self::Gateway
        } else {
            Self::Other(String::from_utf8_lossy(&id).chars().take(100).collect())
        }
    }
}

/// The address in a text, with or without a port, brackets and a zone.
fn parse(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let bare =
        text.strip_prefix('[').and_then(|text| text.split_once(']')).map_or(text, |(address, _)| address);
    let bare = bare.split_once('%').map_or(bare, |(address, _)| address);
    let address = bare.parse::<IpAddr>().or_else(|_| text.parse().map(|address: SocketAddr| address.ip()));
    address.ok().map(|address| address.to_canonical())
}

/// The address, or the network that it is in, as a text: so many leading bits of it count.
pub fn network(address: IpAddr, ipv4_prefix: u8, ipv6_prefix: u8) -> String {
    match address {
        IpAddr::V4(_) if ipv4_prefix >= 32 => address.to_string(),
        IpAddr::V6(_) if ipv6_prefix >= 128 => address.to_string(),
        IpAddr::V4(_) => Cidr::of(address, ipv4_prefix).to_string(),
        IpAddr::V6(_) => Cidr::of(address, ipv6_prefix).to_string(),
    }
}

/// A network: the addresses that share so many leading bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// Its lowest address.
    first: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// The network of that size that an address is in.
    fn of(address: IpAddr, prefix: u8) -> Self {
        let first = match address {
            IpAddr::V4(address) => {
                let host_bits = 32_u32.saturating_sub(u32::from(prefix));
                let mask = u32::MAX.checked_shl(host_bits).unwrap_or_default();
                IpAddr::V4((address.to_bits() & mask).into())
            }
            IpAddr::V6(address) => {
                let host_bits = 128_u32.saturating_sub(u32::from(prefix));
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or_default();
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        };
        Self { first, prefix }
    }

    /// Reads a network in CIDR notation, or a single address. One of IPv4 addresses in IPv6 (`::ffff:10.0.0.0/104`) is that of
    /// the IPv4 addresses.
    ///
    /// # Errors
    /// Says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || "no network; expected one such as `10.0.0.0/8`, `2001:db8::/32` or `192.0.2.7`".to_owned();
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, prefix)| (a, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            // `+8` and `08` are numbers to the standard library.
            Some(text) => {
                text.parse().ok().filter(|prefix: &u8| *prefix <= longest && prefix.to_string() == text)
            }
            None => Some(longest),
        };
        let prefix = prefix.ok_or_else(wrong)?;
        let network = Self::of(address, prefix);
        if network.first != address {
            return Err(format!("`{text}` has bits behind its prefix; expected `{network}`"));
        }
        Ok(match (address.to_canonical(), prefix.checked_sub(96)) {
            (IpAddr::V4(mapped), Some(prefix)) if address.is_ipv6() => Self::of(mapped.into(), prefix),
            _ => network,
        })
    }

    /// Whether the address, an IPv4 address as such, is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && Self::of(address, self.prefix).first == self.first
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

/// A peer's identity (SPIFFE ID), without `spiffe://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal(String);

impl Principal {
    /// Reads a SPIFFE ID, with or without `spiffe://`: a trust domain and a path.
    ///
    /// # Errors
    /// Says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let name = without_scheme(text);
        let wrong = |why: &str| {
            Err(format!("{why}; expected a principal such as `cluster.local/ns/istio-ingress/sa/gateway`"))
        };
        if name.contains('*') {
            return wrong("a text with `*` would be compared as it stands");
        }
        let Some((domain, path)) = name.split_once('/') else { return wrong("no SPIFFE ID") };
        if Cidr::parse(text).is_ok() || domain.parse::<IpAddr>().is_ok() {
            return wrong("an address, which anybody may have");
        }
        if domain == "ns" && name.len() == text.len() {
            return wrong("a SPIFFE ID without its trust domain");
        }
        let in_domain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        let in_path = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let segment = |text: &str| !matches!(text, "" | "." | "..") && text.bytes().all(in_path);
        if domain.is_empty() || !domain.bytes().all(in_domain) || !path.split('/').all(segment) {
            return wrong("no SPIFFE ID");
        }
        // What begins as an identity of Istio is one, with namespace and service account.
        let mut names = path.split('/');
        if names.next() == Some("ns")
            && !matches!(
                (names.next(), names.next(), names.next(), names.next()),
                (Some(_), Some("sa"), Some(_), None)
            )
        {
            return wrong("no identity of a peer, which is `TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`");
        }
        Ok(Self(name.to_owned()))
    }

    /// Whether a peer's identity, as Envoy shows it, is this one.
    pub fn is(&self, peer: &[u8]) -> bool {
        peer.strip_prefix(b"spiffe://") == Some(self.0.as_bytes())
    }
}

fn without_scheme(principal: &str) -> &str {
    principal.strip_prefix("spiffe://").unwrap_or(principal)
}

/// The peer's identity from its verified certificate.
///
/// # Errors
/// The host did not answer.
pub fn principal(exchange: &Exchange<'_>) -> Result<Option<Vec<u8>>, HostError> {
    exchange.property(&["connection", "uri_san_peer_certificate"])
}

crate::config_object! {
    /// Tests the client's address.
    #[derive(Debug, Clone)]
    pub struct RawAddressMatch {
        /// Networks, in one of which the address is: `10.0.0.0/8`, `2001:db8::/32`, or single addresses.
        pub cidrs: NonEmpty<Vec<String>>,
        /// Where the client's address comes from, see the source `sourceAddress`.
        pub from: Option<AddressFrom>,
        /// Principals whose `x-forwarded-for` is believed.
        pub trust_forwarded_from: Vec<String> = Vec::new(),
        /// How many proxies stand before those and append to `x-forwarded-for`.
        pub num_trusted_proxies: usize = 0,
    }
}

/// A test of the client's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressMatch {
    client: ClientAddress,
    cidrs: Vec<Cidr>,
}

impl AddressMatch {
    /// Reads a test, or notes under `path` what is wrong with it.
    pub fn compile(
        raw: &RawAddressMatch,
        path: &JsonPath,
        errors: &mut ErrorList,
        environment: &dyn Environment,
    ) -> Option<Self> {
        let list = path.field("cidrs");
        let cidr = |(n, text): (usize, &String)| errors.check(&list.index(n), Cidr::parse(text));
        let cidrs: Vec<Cidr> = raw.cidrs.iter().enumerate().filter_map(cidr).collect();
        let (trust, proxies) = (&raw.trust_forwarded_from, raw.num_trusted_proxies);
        let client = ClientAddress::parse(raw.from, trust, proxies, path, errors, environment)?;
        (cidrs.len() == raw.cidrs.len()).then_some(Self { client, cidrs })
    }

    /// Whether the client's address is in one of the networks; `None` where it is not known.
    ///
    /// # Errors
    /// The host did not answer.
    pub fn holds(&self, exchange: &Exchange<'_>) -> Result<Option<bool>, HostError> {
        Ok(match self.client.find(exchange)? {
            Found::Address(address) => Some(self.cidrs.iter().any(|cidr| cidr.contains(address))),
            Found::Peer(_) | Found::Unknown => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeHost, Node};
    use proptest::prelude::*;

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
                assert!(
                    error.starts_with(&format!("a: the node id of this proxy, `{node}`, is not")),
                    "{error}"
                );
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
                .contains("a.cidrs[1]: no network")
        );
    }

    #[test]
    fn what_is_no_principal_is_refused_with_what_was_expected() {
        const PARTIAL: &str = "no identity of a peer, which is `TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`";
        for text in [
            "cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/b",
            "mesh-1.example/x",
            "spiffe://ns/x/sa/y",
        ] {
            assert!(Principal::parse(text).is_ok(), "{text}");
        }
        for (text, why) in [
            ("10.0.0.0/8", "an address, which anybody may have"),
            ("2001:db8::/32", "an address, which anybody may have"),
            ("10.0.0.1", "no SPIFFE ID"),
            ("10.0.0.1/x", "an address, which anybody may have"),
            ("ns/x/sa/y", "a SPIFFE ID without its trust domain"),
            ("*", "a text with `*` would be compared as it stands"),
            ("cluster.local/ns/*/sa/a", "a text with `*` would be compared as it stands"),
            ("cluster.local", "no SPIFFE ID"),
            ("cluster.local/", "no SPIFFE ID"),
            ("/ns/a/sa/b", "no SPIFFE ID"),
            ("cluster.local/ns/a", PARTIAL),
            ("cluster.local/ns/a/sa", PARTIAL),
            ("cluster.local/ns", PARTIAL),
            ("spiffe://cluster.local/ns/a/sa/b/c", PARTIAL),
            ("cluster.local/ns/a/as/b", PARTIAL),
            ("Cluster.Local/ns/a", "no SPIFFE ID"),
            ("cluster.local/ns//a", "no SPIFFE ID"),
            ("cluster.local/ns/../a", "no SPIFFE ID"),
            ("https://a/b", "no SPIFFE ID"),
            ("cluster.local/ns/a b", "no SPIFFE ID"),
            ("", "no SPIFFE ID"),
        ] {
            let error = Principal::parse(text).unwrap_err();
            assert!(error.starts_with(&format!("{why}; expected a principal such as")), "{error}");
        }
        let principal = Principal::parse("cluster.local/ns/a/sa/b").unwrap();
        assert!(principal.is(b"spiffe://cluster.local/ns/a/sa/b"));
        for other in [
            "spiffe://cluster.local/ns/a/sa/b2",
            "cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a",
            "",
        ] {
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
            assert!(Cidr::parse(text).unwrap_err().contains("no network; expected one such as"), "{text}");
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
}
