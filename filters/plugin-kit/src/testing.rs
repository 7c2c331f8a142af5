//! A table of facts in the place of a host, for tests of the cores.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::host::Environment;
use crate::host::{HostError, RequestHost, Variable};
use crate::request::headers::HeaderMap;

/// The value of a CEL expression by its number and what the variable was set to.
pub type Evaluate = fn(u32, &[u8]) -> Option<Vec<u8>>;

/// Facts of one exchange, as a test states them.
#[derive(Debug, Clone, Default)]
pub struct FakeHost {
    /// Request headers in order, pseudo-headers among them.
    pub headers: Vec<(String, String)>,
    /// Properties by their path, joined by a dot.
    pub properties: BTreeMap<String, Vec<u8>>,
    /// Values of CEL expressions by their number; one that is not here has none.
    pub expressions: BTreeMap<u32, Option<Vec<u8>>>,
    /// If it is set, used instead of `expressions`: the value of an expression by its number and the value of
    /// its variable.
    pub evaluate: Option<Evaluate>,
    /// Time since the Unix epoch.
    pub unix_time: Duration,
    /// Time on the monotonic clock.
    pub monotonic_time: Duration,
    /// If it is set, every call fails with this error.
    pub failure: Option<HostError>,
}

impl FakeHost {
    /// A request with this method and path, at `unix_time` seconds.
    pub fn request(method: &str, path: &str) -> Self {
        Self::default()
            .header(":method", method)
            .header(":path", path)
            .header(":authority", "service.example")
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with a property; `path` is joined by dots.
    #[must_use]
    pub fn property(mut self, path: &str, value: impl Into<Vec<u8>>) -> Self {
        self.properties.insert(path.to_owned(), value.into());
        self
    }

    /// The same at this time, in seconds since the Unix epoch.
    #[must_use]
    pub fn at(mut self, seconds: u64) -> Self {
        self.unix_time = Duration::from_secs(seconds);
        self
    }

    fn check(&self) -> Result<(), HostError> {
        self.failure.map_or(Ok(()), Err)
    }
}

impl RequestHost for FakeHost {
    fn headers(&self) -> Result<HeaderMap, HostError> {
        self.check()?;
        Ok(HeaderMap::from_pairs(self.headers.iter().map(|(n, v)| (n, v))))
    }

    fn header_first(&self, name: &str) -> Result<Option<Vec<u8>>, HostError> {
        Ok(self.headers()?.first(name).map(<[u8]>::to_vec))
    }

    fn header_joined(&self, name: &str) -> Result<Option<Vec<u8>>, HostError> {
        Ok(self.headers()?.joined(name))
    }

    fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, HostError> {
        self.check()?;
        Ok(self.properties.get(&path.join(".")).cloned())
    }

    fn evaluate(
        &self,
        expression: u32,
        variable: Option<Variable<'_>>,
    ) -> Result<Option<Vec<u8>>, HostError> {
        self.check()?;
        if let Some(evaluate) = self.evaluate {
            return Ok(evaluate(expression, variable.map_or(&[], |(_, value)| value)));
        }
        Ok(self.expressions.get(&expression).cloned().flatten())
    }

    fn unix_time(&self) -> Result<Duration, HostError> {
        self.check()?;
        Ok(self.unix_time)
    }

    fn monotonic_time(&self) -> Result<Duration, HostError> {
        self.check()?;
        Ok(self.monotonic_time)
    }
}

/// The environment of a configuration whose host takes every CEL expression; each has the number
/// [`AnyCel::NUMBER`].
#[derive(Debug, Default)]
pub struct AnyCel {
    /// The expressions that it took.
    pub compiled: RefCell<Vec<String>>,
}

impl AnyCel {
    /// By which [`FakeHost`] evaluate any of the expressions.
    pub const NUMBER: u32 = 1;
}

impl Environment for AnyCel {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn compile(&self, expression: &str) -> Result<u32, HostError> {
        self.compiled.borrow_mut().push(expression.to_owned());
        Ok(Self::NUMBER)
    }

    fn evaluate(&self, _: u32) -> Result<Option<Vec<u8>>, HostError> {
        Ok(Some(vec![0]))
    }
}

/// A proxy with this node id, without variables and CEL.
#[derive(Debug, Clone, Copy)]
pub struct Node(pub &'static str);

impl Node {
    /// A sidecar of Istio.
    pub const SIDECAR: Self = Self("sidecar~10.0.0.9~server.shop~shop.svc.cluster.local");
}

impl Environment for Node {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn node_id(&self) -> Option<Vec<u8>> {
        Some(self.0.as_bytes().to_vec())
    }
}
