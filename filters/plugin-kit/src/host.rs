//! The seam between a filter and its host.
//!
//! - What a core may ask while it decides about a request: [`RequestHost`]. While a configuration is read: [`Environment`].
//! - What a shell offers its host: [`Filter`], whose methods the host's callbacks run.
//! - What a shell may ask of its host: the functions and types that the host's own module exports here, [`wasm`] for Proxy-Wasm.
//!
//! A core names the first of these alone, and so is not aware of which host it has.

use std::time::Duration;

use crate::request::cel::Variable;
use crate::request::headers::HeaderMap;

pub mod filter;
#[cfg(any(target_os = "wasi", test))]
pub mod wasm;

pub use filter::{CallResponse, Filter, Flow, SHORT_TICK, TICK};
#[cfg(target_os = "wasi")]
pub use wasm::calls::*;

/// A host call that did not do what it should. Filters fail closed on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("host call {call} answered status {status}")]
pub struct HostError {
    /// The ABI function without its `proxy_` prefix.
    pub call: &'static str,
    /// The status of the Proxy-Wasm ABI, or [`HostError::MALFORMED`].
    pub status: u32,
}

impl HostError {
    /// There is no such thing, or no such foreign function.
    pub const NOT_FOUND: u32 = 1;
    /// The host does not take the argument.
    pub const BAD_ARGUMENT: u32 = 2;
    /// Somebody else has written the shared data, again and again.
    pub const CAS_MISMATCH: u32 = 8;
    /// The host failed; for CEL: the expression has no value.
    pub const INTERNAL_FAILURE: u32 = 10;
    /// Stands for an answer that was OK, with bytes that are not what the ABI says.
    pub const MALFORMED: u32 = u32::MAX;
}

/// Where the facts of an exchange come from: the host in a proxy, a table in a test.
///
/// Every call here costs (with Envoy about 11,000 to 20,000 instructions where it returns data), so cores ask through
/// [`Exchange`], which asks once.
pub trait RequestHost {
    /// All request headers.
    fn headers(&self) -> Result<HeaderMap, HostError>;
    /// The first value of one request header: the cheapest where a duplicate does not matter.
    fn header_first(&self, name: &str) -> Result<Option<Vec<u8>>, HostError>;
    /// All values of one request header, joined by a comma; cheaper than [`RequestHost::headers`] where one header is all that
    /// is needed, and a duplicate still shows.
    fn header_joined(&self, name: &str) -> Result<Option<Vec<u8>>, HostError>;
    /// An attribute or a filter state of the exchange; `None` where there is none.
    fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, HostError>;
    /// The value of a CEL expression of the host, after `variable` was set; `None` where it has none.
    fn evaluate(&self, expression: u32, variable: Option<Variable<'_>>)
    -> Result<Option<Vec<u8>>, HostError>;
    /// Time since the Unix epoch.
    fn unix_time(&self) -> Result<Duration, HostError>;
    /// The same, up to about a second late, and at no cost for most requests.
    fn recent_unix_time(&self) -> Result<Duration, HostError> {
        self.unix_time()
    }
    /// Time on a clock that only runs forward and that all workers of the proxy share. Its zero means nothing.
    fn monotonic_time(&self) -> Result<Duration, HostError>;
}

/// The plugin's environment variables, and the host's CEL. A closure that looks up variables is an environment without
/// CEL.
pub trait Environment {
    /// The variable of that name (vmConfig.env).
    fn variable(&self, name: &str) -> Option<String>;

    /// The proxy's node id, where it has one: what kind of proxy this is.
    fn node_id(&self) -> Option<Vec<u8>> {
        None
    }

    /// Compiles a CEL expression, and gives the number to evaluate it by.
    ///
    /// # Errors
    /// The host refuses it, or has no CEL ([`HostError::NOT_FOUND`]).
    fn compile(&self, _expression: &str) -> Result<u32, HostError> {
        Err(HostError { call: "expr_create", status: HostError::NOT_FOUND })
    }

    /// Evaluates an expression that asks for nothing of a request; `None` where it has no value.
    ///
    /// # Errors
    /// The host did not evaluate it.
    fn evaluate(&self, _expression: u32) -> Result<Option<Vec<u8>>, HostError> {
        Err(HostError { call: "expr_evaluate", status: HostError::NOT_FOUND })
    }
}

impl<F: Fn(&str) -> Option<String>> Environment for F {
    fn variable(&self, name: &str) -> Option<String> {
        self(name)
    }
}
