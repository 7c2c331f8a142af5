//! Who sent a request: the client's address, and the peer's identity. One set of trust rules for keys and
//! conditions.

use std::net::{IpAddr, SocketAddr};

use crate::config::{ErrorList, JsonPath};
use crate::host::{Environment, HostError};
use crate::request::exchange::Exchange;

mod cidr;
mod principal;

pub use cidr::Cidr;
pub use principal::{Principal, principal};

crate::config_choice! {
    /// How the client's address is found.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum AddressFrom {
        /// Envoy's `source.address` is believed. This is for an edge proxy with `use_remote_address: true`,
        /// which takes the address from the connection or counts trusted hops itself
        /// (`xff_num_trusted_hops`).
        Envoy,
        /// The address is that of the peer, or the one that a trusted peer has forwarded.
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

/// The result of looking for the client's address.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Its address. An IPv4 address is one however it was written.
    Address(IpAddr),
    /// A peer without an address of the Internet, such as a Unix domain socket.
    Peer(Vec<u8>),
    /// No address that can be believed.
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
    /// Envoy's `source.address` is the peer's own only as long as there is no `x-forwarded-for`: a sidecar
    /// takes the last entry of that header in its place, whoever wrote it. So with that header and a peer
    /// that is not trusted the address is not known. At a gateway, the first proxy that clients meet, Envoy
    /// itself has appended what it saw.
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

/// What a proxy is, by its node id: Istio names the nodes of sidecars `sidecar~…`, those of gateways
/// `router~…`, and its waypoints `waypoint~…`.
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

#[cfg(test)]
mod tests;
