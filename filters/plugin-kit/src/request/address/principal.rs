//! Identities of peers (SPIFFE IDs), by their certificates.

use std::net::IpAddr;

use super::cidr::Cidr;
use crate::host::HostError;
use crate::request::exchange::Exchange;

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
        let Some((domain, path)) = name.split_once('/') else { return wrong("is not a SPIFFE ID") };
        if Cidr::parse(text).is_ok() || domain.parse::<IpAddr>().is_ok() {
            return wrong("is an address, which anybody may have");
        }
        if domain == "ns" && name.len() == text.len() {
            return wrong("is a SPIFFE ID without its trust domain");
        }
        let in_domain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        let in_path = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let segment = |text: &str| !matches!(text, "" | "." | "..") && text.bytes().all(in_path);
        if domain.is_empty() || !domain.bytes().all(in_domain) || !path.split('/').all(segment) {
            return wrong("is not a SPIFFE ID");
        }
        // What begins as an identity of Istio is one, with namespace and service account.
        if let Some(workload) = path.strip_prefix("ns/") {
            let names: Vec<&str> = workload.split('/').collect();
            let [namespace, "sa", account] = names.as_slice() else {
                return wrong(
                    "is not the identity of a peer, which is `TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`",
                );
            };
            // Names of Kubernetes: a DNS label, and a DNS subdomain.
            let in_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            if !namespace.bytes().all(in_name)
                || !account.bytes().all(|byte| in_name(byte) || byte == b'.')
                || namespace.len() > 63
            {
                return wrong(
                    "has a namespace or an account that Kubernetes does not know: their names have lower-case letters, digits and `-`",
                );
            }
        } else if matches!(path.split('/').next(), Some("ns" | "sa")) {
            return wrong("is not the identity of a peer, which is `TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`");
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
