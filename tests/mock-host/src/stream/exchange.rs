//! One HTTP exchange: what the client sent, what the service saw, what the client got.

use std::collections::BTreeMap;

use crate::host::logs::Log;
use crate::properties::{Connection, Route};
use crate::stream::headers::HeaderMap;

/// A request as the client sends it. The proxy adds what Envoy's connection manager adds: `x-forwarded-proto`
/// and `x-request-id`, if the client sent none.
#[derive(Debug, Clone)]
pub struct Request {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) connection: Connection,
    pub(crate) route: Route,
}

impl Request {
    /// A GET of a path.
    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// A POST to a path.
    pub fn post(path: &str) -> Self {
        Self::new("POST", path)
    }

    /// A request with any method. The authority is `app.example.com` until [`Request::host`] says otherwise.
    /// One to open a tunnel (`CONNECT`) has no path.
    pub fn new(method: &str, path: &str) -> Self {
        let pseudo =
            [(":authority", "app.example.com"), (":path", path), (":method", method), (":scheme", "http")];
        Self {
            headers: pseudo.into_iter().filter(|(name, _)| method != "CONNECT" || *name != ":path").collect(),
            body: Vec::new(),
            connection: Connection::default(),
            route: Route::default(),
        }
    }

    /// Adds a header; the same name again is a duplicate.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.add(name, value);
        self
    }

    /// Sets the authority.
    #[must_use]
    pub fn host(mut self, authority: &str) -> Self {
        self.headers.set(":authority", authority);
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Makes it a gRPC request (`Grpc::Common::isGrpcRequestHeaders`: a POST with content type
    /// `application/grpc`).
    #[must_use]
    pub fn grpc(self) -> Self {
        self.header("content-type", "application/grpc").header("te", "trailers")
    }

    /// The connection it came in by.
    #[must_use]
    pub fn on(mut self, connection: Connection) -> Self {
        self.connection = connection;
        self
    }

    /// The client's address, ip:port.
    #[must_use]
    pub fn source(mut self, address: &str) -> Self {
        address.clone_into(&mut self.connection.source);
        self
    }

    /// The peer's SPIFFE identity (`connection.uri_san_peer_certificate`).
    #[must_use]
    pub fn peer(mut self, identity: &str) -> Self {
        self.connection.peer = Some(identity.to_owned());
        self
    }

    /// The route it takes.
    #[must_use]
    pub fn route(mut self, route: Route) -> Self {
        self.route = route;
        self
    }
}

/// A response of a service, or of a cluster to a callout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// An empty response with a status.
    pub fn new(status: u16) -> Self {
        Self { headers: [(":status", status.to_string())].into_iter().collect(), body: Vec::new() }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.add(name, value);
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

/// A request as the service saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamRequest {
    /// Headers, with the pseudo headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Vec<u8>,
}

/// How an exchange stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The client has its response.
    Complete,
    /// A filter holds the request or the response back.
    Paused,
    /// The client left, or the proxy closed the stream, before the response was complete.
    Reset,
}

/// What became of a request.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// How it stands.
    pub outcome: Outcome,
    /// HTTP status that the client got; 0 without a response, as `%RESPONSE_CODE%` shows it.
    pub status: u16,
    /// Headers that the client got, with `:status`.
    pub headers: HeaderMap,
    /// Body that the client got.
    pub body: Vec<u8>,
    /// `%RESPONSE_CODE_DETAILS%`: `via_upstream`, or what a local reply gave.
    pub details: String,
    /// The request as the service saw it; `None` if it was not reached.
    pub upstream: Option<UpstreamRequest>,
    /// Filter state by key, such as `wasm.jwt.sub`.
    pub filter_state: BTreeMap<String, Vec<u8>>,
    /// What the filters logged while one of the stream's contexts was current.
    pub logs: Vec<Log>,
    /// How counters and gauges changed since the request began, by name without `wasmcustom.`; what did not
    /// change is left out. Other streams and timers in between count too.
    pub metrics: BTreeMap<String, i64>,
    /// Host calls made by the stream's contexts, by import name: a budget to hold a filter to.
    pub calls: BTreeMap<String, u64>,
    /// Whether a filter made the router look for the route anew.
    pub route_cache_cleared: bool,
}

impl Exchange {
    /// The first value of a response header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// The body as text.
    ///
    /// # Panics
    /// If it is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    /// Filter state as text, by its full key.
    pub fn state(&self, key: &str) -> Option<&str> {
        self.filter_state.get(key).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The change of a metric, 0 if none.
    pub fn metric(&self, name: &str) -> i64 {
        self.metrics.get(name).copied().unwrap_or_default()
    }

    /// The number of host calls of that name.
    pub fn calls(&self, name: &str) -> u64 {
        self.calls.get(name).copied().unwrap_or_default()
    }

    /// The request as the service saw it.
    ///
    /// # Panics
    /// If the service was not reached.
    pub fn seen_upstream(&self) -> &UpstreamRequest {
        self.upstream.as_ref().unwrap_or_else(|| panic!("the service was not reached: {self:?}"))
    }
}

impl UpstreamRequest {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }
}
