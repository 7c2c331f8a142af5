//! What a host must do so that cases can run on it.

use crate::repository;
use crate::schema::Case;
use envoy::{Answer, RateLimitAnswer, Received, Request, Response, Role};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// One filter of a chain.
#[derive(Debug, Clone)]
pub struct Filter {
    /// `jwt-auth`, `rate-limit`, `trace-tags`, `mesh-filters`.
    pub name: String,
    /// `pluginConfig`, byte for byte.
    pub configuration: String,
}

/// Everything a proxy is started with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The chain, in order.
    pub filters: Vec<Filter>,
    /// `vmConfig.env` of each.
    pub env: BTreeMap<String, String>,
    /// What the key server answers at first.
    pub issuer: Answer,
    /// What the rate limit service answers at first.
    pub limit_service: RateLimitAnswer,
    /// Filter state keys (without `wasm.`) that [`Exchange::filter_state`] must hold.
    pub filter_state: Vec<String>,
    /// Tags that [`Exchange::span`] must hold, each from filter state `wasm.tag.<name>`.
    pub span_tags: Vec<String>,
    /// What kind of proxy it is.
    pub role: Role,
    /// The case will call [`Proxy::configure`].
    pub reconfigures: bool,
}

/// A host did not start or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A filter refused its configuration. Holds the log.
    #[error("refused: {0}")]
    Refused(String),
    /// Anything else.
    #[error("{0}")]
    Broken(String),
}

/// One request and what became of it.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// What the client got.
    pub response: Response,
    /// What reached the service behind the filters, if anything did.
    pub upstream: Option<Received>,
    /// Those of [`Setup::filter_state`] that were set.
    pub filter_state: BTreeMap<String, String>,
    /// Response code details, as in an access log.
    pub details: String,
    /// The attributes of the request's span; empty on a host without tracing.
    pub span: BTreeMap<String, String>,
}

/// A kind of proxy with a number of workers.
pub trait Host: Send + Sync {
    /// `mock host` or `Envoy`, with what distinguishes it from others of its kind.
    fn name(&self) -> String;

    /// Is it the mock host, with a clock that can be moved?
    fn is_mock(&self) -> bool;

    /// Why this case fails here, if it is known that it does.
    fn lacks(&self, _case: &Case) -> Option<&'static str> {
        None
    }

    /// Starts a proxy with nothing left over from another.
    fn start(&self, setup: &Setup) -> Result<Box<dyn Proxy + '_>, HostError>;
}

/// A running proxy.
pub trait Proxy {
    /// Sends one request and waits until it ended everywhere.
    fn send(&mut self, request: &Request) -> Result<Exchange, HostError>;

    /// Sends a request many times, so many at once, over connections of their own; gives the statuses.
    fn send_many(&mut self, request: &Request, times: u32, parallel: u32) -> Result<Vec<u16>, HostError>;

    /// Gives the filters new configurations; [`HostError::Refused`] leaves the old ones in force.
    fn configure(&mut self, filters: &[Filter]) -> Result<(), HostError>;

    /// Changes what the key server answers.
    fn set_issuer(&mut self, answer: Answer);

    /// Changes what the rate limit service answers.
    fn set_limit_service(&mut self, answer: RateLimitAnswer);

    /// Changes what the service behind the filters answers.
    fn set_upstream(&mut self, answer: Answer);

    /// Moves the clock. Only the mock host can.
    fn advance(&mut self, time: Duration) -> Result<(), HostError>;

    /// Lets some time pass: filters hold counts back for up to a second where they are many.
    fn wait(&mut self);

    /// The counters of the filters, without `wasmcustom.`.
    fn metrics(&self) -> Result<BTreeMap<String, i64>, HostError>;

    /// Whether it has counters and a log. Without them, a case is compared in everything else.
    fn is_observed(&self) -> bool {
        true
    }

    /// What was logged since the start of this proxy.
    fn log(&self) -> String;

    /// Ends the proxy and gives its whole log. Not called after a failure.
    fn finish(self: Box<Self>) -> Result<String, HostError>;
}

/// The built native module, which has all filters: `$NATIVE_MODULE`, or the one for this machine.
pub fn native_module() -> Result<PathBuf, HostError> {
    let built = || repository().join("target/filters/libmesh_filters.so");
    let path = std::env::var_os("NATIVE_MODULE").map_or_else(built, PathBuf::from);
    if path.is_file() {
        Ok(path)
    } else {
        Err(HostError::Broken(format!("no {}: run `make native`", path.display())))
    }
}

/// The built module of a filter.
pub fn module(filter: &str) -> Result<PathBuf, HostError> {
    let path = repository().join("target/filters").join(format!("{filter}.wasm"));
    if path.is_file() {
        Ok(path)
    } else {
        Err(HostError::Broken(format!("no target/filters/{filter}.wasm: run `make filters`")))
    }
}
