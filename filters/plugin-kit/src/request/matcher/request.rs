//! The parts of a request that matchers look at.

use super::host::{Host, is_port};
use crate::request::headers::HeaderMap;

/// The parts of a request that a matcher looks at, found in one walk over the headers.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `:authority`, with a port when the client sent one.
    pub authority: &'a [u8],
    /// `:method`.
    pub method: &'a [u8],
    /// `:path`, with the query.
    pub target: &'a [u8],
    pub(super) head: &'a HeaderMap,
}

impl<'a> Request<'a> {
    /// Finds the pseudo-headers.
    pub fn of(head: &'a HeaderMap) -> Self {
        let mut request =
            Self { authority: b"".as_slice(), method: b"".as_slice(), target: b"".as_slice(), head };
        for (name, value) in head {
            match name {
                b":authority" => request.authority = value,
                b":method" => request.method = value,
                b":path" => request.target = value,
                _ => {}
            }
        }
        request
    }

    /// The host without port and without a trailing dot; `None` if the authority is not `host[:port]`, since servers could differ
    /// in which host it names.
    pub(super) fn host(&self) -> Option<Host<'a>> {
        if let Some(literal) = self.authority.strip_prefix(b"[") {
            let end = literal.iter().position(|byte| *byte == b']')?;
            let (address, port) = literal.split_at_checked(end)?;
            return is_port(port.strip_prefix(b"]")?).then(|| Host::address(address)).flatten();
        }
        let colon = self.authority.iter().position(|byte| *byte == b':').unwrap_or(self.authority.len());
        let (name, port) = self.authority.split_at_checked(colon)?;
        is_port(port).then(|| Host::name(name)).flatten()
    }

    /// Whether the authority is a host with or without a port, so that conditions on hosts can be decided.
    pub fn has_host(&self) -> bool {
        self.host().is_some()
    }
}
