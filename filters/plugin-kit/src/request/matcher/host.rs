//! The matcher of hosts: what host an authority names, and the patterns `hosts` of a configuration.

use std::net::Ipv6Addr;

/// Whether the text is empty, or a colon and digits.
pub(super) fn is_port(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b":");
    text.is_empty() || digits.is_some_and(|port| !port.is_empty() && port.iter().all(u8::is_ascii_digit))
}

/// A host (RFC 3986 section 3.2.2), in the forms that services have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host<'a> {
    /// A name or an IPv4 address, without a trailing dot.
    Name(&'a [u8]),
    Address(Ipv6Addr),
}

impl<'a> Host<'a> {
    /// Reads the text between the brackets of an IPv6 address.
    pub(super) fn address(text: &[u8]) -> Option<Self> {
        std::str::from_utf8(text).ok()?.parse().ok().map(Self::Address)
    }

    pub(super) fn name(text: &'a [u8]) -> Option<Self> {
        let name = text.strip_suffix(b".").unwrap_or(text);
        let good = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_~".contains(byte);
        let mut labels = name.split(|byte| *byte == b'.');
        labels.all(|label| !label.is_empty() && label.iter().all(good)).then_some(Self::Name(name))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HostPattern {
    Name(Vec<u8>),
    /// All names with this suffix, which starts with the dot.
    Below(Vec<u8>),
    /// An IPv6 address; all its spellings are equal.
    Address(Ipv6Addr),
}

impl HostPattern {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let literal = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let below = text.strip_prefix("*.");
        let host = match literal {
            Some(address) => Host::address(address.as_bytes()),
            None => Host::name(below.unwrap_or(text).as_bytes()),
        };
        match host {
            Some(Host::Address(address)) => Ok(Self::Address(address)),
            Some(Host::Name(name)) if below.is_some() => {
                Ok(Self::Below([b".", name].concat().to_ascii_lowercase()))
            }
            Some(Host::Name(name)) => Ok(Self::Name(name.to_ascii_lowercase())),
            None => Err("is not a host; expected `api.example` or `*.example`, without port".to_owned()),
        }
    }

    /// Whether every host that `other` means is meant.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Below(own), Self::Name(name) | Self::Below(name)) => {
                name.ends_with(own) && (name.len() > own.len() || self == other)
            }
            _ => self == other,
        }
    }

    pub(super) fn matches(&self, host: Host<'_>) -> bool {
        match (self, host) {
            (Self::Name(name), Host::Name(host)) => name.eq_ignore_ascii_case(host),
            (Self::Below(suffix), Host::Name(host)) => {
                let start = host.len().checked_sub(suffix.len()).filter(|start| *start > 0);
                let end = start.and_then(|start| host.get(start..));
                end.is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            }
            (Self::Address(address), Host::Address(host)) => *address == host,
            _ => false,
        }
    }
}
