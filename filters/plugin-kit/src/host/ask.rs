//! What a core may ask its host, and how that can fail.

use std::time::Duration;

use crate::request::headers::HeaderMap;

/// A variable to set before an expression is evaluated: its name, which is [`CLAIMS`](crate::request::cel::CLAIMS) or
/// [`TEXT`](crate::request::cel::TEXT), and its serialised value. It stays set.
pub type Variable<'a> = (&'static str, &'a [u8]);

/// A host call failed. Filters fail closed on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("host call {call} answered status {status}")]
pub struct HostError {
    /// The ABI function without its `proxy_` prefix.
    pub call: &'static str,
    /// The status of the Proxy-Wasm ABI, or [`HostError::MALFORMED`].
    pub status: u32,
}

impl HostError {
    /// The host has no such thing, or no such foreign function.
    pub const NOT_FOUND: u32 = 1;
    /// The host refuses the argument.
    pub const BAD_ARGUMENT: u32 = 2;
    /// Other workers have written the shared data in between, in each of several attempts.
    pub const CAS_MISMATCH: u32 = 8;
    /// The host failed; for CEL: the expression has no value.
    pub const INTERNAL_FAILURE: u32 = 10;
    /// The shared data has no room for the value, see [`SHARED_DATA_BYTES`].
    pub const FULL: u32 = u32::MAX - 1;
    /// The call succeeded, but its answer is not in the format of the ABI.
    pub const MALFORMED: u32 = u32::MAX;
}

/// A method of a gRPC service.
#[derive(Debug, Clone, Copy)]
pub struct GrpcMethod<'a> {
    /// How the proxy reaches the service: a serialised `envoy.config.core.v3.GrpcService`.
    pub via: &'a [u8],
    /// Its name with its package.
    pub service: &'a str,
    /// The method.
    pub method: &'a str,
}

/// The most bytes that the shared data takes in a native module. Envoy has no bound for those of Wasm plugins.
pub const SHARED_DATA_BYTES: usize = 256 << 20;

/// The most bytes that a value of the shared data takes in a native module, with its key: two allocations, and the entry of a map while
/// the map grows.
pub const fn shared_value_size(key: usize, value: usize) -> usize {
    const ENTRY: usize = 160;
    key.saturating_add(value).saturating_add(ENTRY)
}

/// A value of the data that all workers share, and the number that a compare-and-swap on it takes.
pub struct SharedValue {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Changes with every write; never 0.
    pub cas: u32,
}

/// What a core may ask about the exchange that it decides about. In a proxy the host answers, in a test a table does.
///
/// Every call costs: with Envoy about 11,000 to 20,000 instructions where it returns data. So cores ask through
/// [`Exchange`](crate::request::exchange::Exchange), which remembers the answers.
pub trait RequestHost {
    /// All request headers.
    fn headers(&self) -> Result<HeaderMap, HostError>;
    /// The first value of one request header: the cheapest call where a duplicate does not matter.
    fn header_first(&self, name: &str) -> Result<Option<Vec<u8>>, HostError>;
    /// All values of one request header, joined by a comma. It is cheaper than [`RequestHost::headers`] where only one header is
    /// needed, and a duplicate still shows.
    fn header_joined(&self, name: &str) -> Result<Option<Vec<u8>>, HostError>;
    /// An attribute of Envoy or an entry of the filter state; `None` if there is none of that path.
    fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, HostError>;
    /// The value of a CEL expression that [`Environment::compile`] has compiled, after `variable` was set; `None` if the
    /// expression has no value for this request.
    fn evaluate(&self, expression: u32, variable: Option<Variable<'_>>)
    -> Result<Option<Vec<u8>>, HostError>;
    /// Time since the Unix epoch.
    fn unix_time(&self) -> Result<Duration, HostError>;
    /// The same, but up to about a second late, and without a host call for most requests.
    fn recent_unix_time(&self) -> Result<Duration, HostError> {
        self.unix_time()
    }
    /// Time on a clock that never goes back and that all workers of the proxy share. Where it starts is undefined.
    fn monotonic_time(&self) -> Result<Duration, HostError>;
}

/// What a core may ask while it reads a configuration: the plugin's environment variables, and the host's CEL (Common Expression
/// Language). A closure that looks up variables is an environment without CEL.
pub trait Environment {
    /// The variable of that name (vmConfig.env).
    fn variable(&self, name: &str) -> Option<String>;

    /// The proxy's node ID, if it has one. It tells what kind of proxy this is.
    fn node_id(&self) -> Option<Vec<u8>> {
        None
    }

    /// Compiles a CEL expression, and returns the number by which it is evaluated.
    ///
    /// # Errors
    /// The host refuses the expression, or it has no CEL ([`HostError::NOT_FOUND`]).
    fn compile(&self, _expression: &str) -> Result<u32, HostError> {
        Err(HostError { call: "expr_create", status: HostError::NOT_FOUND })
    }

    /// Evaluates an expression that needs no request; `None` if it has no value.
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
