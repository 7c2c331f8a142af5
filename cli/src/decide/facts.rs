//! A request as the cores see it, and the changes that the filters make to it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use plugin_kit::host::{HostError, RequestHost, Variable};
use plugin_kit::request::headers::HeaderMap;
use plugin_kit::trace::{self, Note};

use super::{Evaluated, Headers, Request, Response, Shared};

/// A change by a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A request header was set, replacing all of its values.
    Set(String, String),
    /// A request header was removed.
    Removed(String),
    /// A response header was set.
    SetOnResponse(String, String),
    /// Filter state `wasm.<key>` was written.
    State(String, Vec<u8>),
}

/// Request headers whose values Envoy joins to one, by a comma.
const INLINE: [&str; 29] = [
    "accept",
    "accept-encoding",
    "access-control-request-headers",
    "access-control-request-method",
    "authorization",
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "grpc-timeout",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "keep-alive",
    "origin",
    "pragma",
    "referer",
    "te",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-request-id",
];

/// A request on its way through the filters, and its response.
pub struct Facts<'a> {
    shared: &'a Shared,
    headers: RefCell<Vec<(String, Vec<u8>)>>,
    state: RefCell<BTreeMap<String, Vec<u8>>>,
    source: String,
    peer: Option<String>,
    response: RefCell<Option<(u16, Headers, String)>>,
    changes: RefCell<Vec<Change>>,
}

impl<'a> Facts<'a> {
    /// The request as Envoy's connection manager hands it to the filters.
    pub(super) fn new(shared: &'a Shared, request: &Request) -> Self {
        let mut headers = vec![
            (":authority".to_owned(), request.authority.clone()),
            (":path".to_owned(), request.path.clone()),
            (":method".to_owned(), request.method.clone()),
            (":scheme".to_owned(), "http".to_owned()),
        ];
        if request.method == "CONNECT" {
            headers.retain(|(name, _)| name != ":path");
        }
        for (name, value) in &request.headers {
            let name = name.to_ascii_lowercase();
            let known =
                headers.iter_mut().find(|(known, _)| *known == name && INLINE.contains(&name.as_str()));
            match known {
                Some((_, list)) => {
                    let separator = if list.is_empty() || value.is_empty() { "" } else { "," };
                    *list = format!("{list}{separator}{value}");
                }
                None => headers.push((name, value.clone())),
            }
        }
        for (name, value) in
            [("x-forwarded-proto", "http"), ("x-request-id", "00000000-0000-4000-8000-000000000001")]
        {
            if !headers.iter().any(|(known, _)| known == name) {
                headers.push((name.to_owned(), value.to_owned()));
            }
        }
        let forwarded: Vec<&str> = headers
            .iter()
            .filter(|(name, _)| name == "x-forwarded-for")
            .map(|(_, value)| value.as_str())
            .collect();
        let mut source = request.source.clone();
        let address = source.parse::<std::net::SocketAddr>().map(|source| source.ip().to_string());
        if shared.proxy.is_edge {
            if let Ok(address) = address {
                let list = forwarded.iter().copied().chain([address.as_str()]).collect::<Vec<_>>().join(",");
                headers.retain(|(name, _)| name != "x-forwarded-for");
                headers.push(("x-forwarded-for".to_owned(), list));
            }
        } else if let Some(Ok(address)) = forwarded
            .first()
            .and_then(|value| value.rsplit(',').next())
            .map(|last| last.trim().parse::<std::net::IpAddr>())
        {
            // A sidecar takes the last entry as the client's address, no matter who wrote it.
            source = std::net::SocketAddr::new(address, 0).to_string();
        }
        Self {
            shared,
            headers: RefCell::new(
                headers.into_iter().map(|(name, value)| (name, value.into_bytes())).collect(),
            ),
            state: RefCell::default(),
            source,
            peer: request.peer.clone(),
            response: RefCell::default(),
            changes: RefCell::default(),
        }
    }

    /// The first value of a request header.
    pub fn header(&self, name: &str) -> Option<String> {
        let headers = self.headers.borrow();
        let value = headers.iter().find(|(known, _)| known == name);
        value.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    }

    /// All request headers.
    pub(super) fn sent(&self) -> Headers {
        let headers = self.headers.borrow();
        headers
            .iter()
            .map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned()))
            .collect()
    }

    pub(super) fn set(&self, name: &str, value: &[u8]) {
        self.headers.borrow_mut().retain(|(known, _)| known != name);
        self.add(name, value);
    }

    pub(super) fn add(&self, name: &str, value: &[u8]) {
        self.headers.borrow_mut().push((name.to_owned(), value.to_vec()));
        self.changed(Change::Set(name.to_owned(), String::from_utf8_lossy(value).into_owned()));
    }

    pub(super) fn remove(&self, name: &str) {
        let mut headers = self.headers.borrow_mut();
        let before = headers.len();
        headers.retain(|(known, _)| known != name);
        if headers.len() < before {
            self.changed(Change::Removed(name.to_owned()));
        }
    }

    pub(super) fn set_state(&self, key: &str, value: &[u8]) {
        self.state.borrow_mut().insert(key.to_owned(), value.to_vec());
        self.changed(Change::State(key.to_owned(), value.to_vec()));
    }

    /// Records the response, which from now on passes the filters.
    pub(super) fn answer(&self, response: &Response, details: &str) {
        self.response.replace(Some((response.status, response.headers.clone(), details.to_owned())));
    }

    pub(super) fn set_on_response(&self, name: &str, value: &str) {
        if let Some((_, headers, _)) = &mut *self.response.borrow_mut() {
            headers.retain(|(known, _)| known != name);
            headers.push((name.to_owned(), value.to_owned()));
        }
        self.changed(Change::SetOnResponse(name.to_owned(), value.to_owned()));
    }

    /// All request headers, as bytes.
    pub(super) fn request_headers(&self) -> Vec<(String, Vec<u8>)> {
        self.headers.borrow().clone()
    }

    /// The labels of the pod.
    pub(super) fn labels(&self) -> impl Iterator<Item = (&String, &String)> {
        self.shared.proxy.labels.iter()
    }

    pub(super) fn response_headers(&self) -> Headers {
        self.response.borrow().as_ref().map(|(_, headers, _)| headers.clone()).unwrap_or_default()
    }

    /// The status of the response.
    pub fn status(&self) -> Option<u16> {
        self.response.borrow().as_ref().map(|(status, ..)| *status)
    }

    pub(super) fn filter_state(&self) -> BTreeMap<String, Vec<u8>> {
        self.state.borrow().clone()
    }

    pub(super) fn take_changes(&self) -> Vec<Change> {
        self.changes.take()
    }

    fn changed(&self, change: Change) {
        self.changes.borrow_mut().push(change);
    }

    /// An attribute of Envoy or a filter state, in the encoding of the Proxy-Wasm ABI.
    pub fn attribute(&self, path: &[&str]) -> Option<Vec<u8>> {
        let text = |text: &str| Some(text.as_bytes().to_vec());
        let number = |number: i64| Some(number.to_le_bytes().to_vec());
        let header = |name: &str| self.header(name).map(String::into_bytes);
        match path {
            [key] => self.state.borrow().get(*key).cloned(),
            ["request", "headers", name] => self.header_joined(name).ok().flatten(),
            ["request", "url_path"] => {
                let path = self.header(":path")?;
                text(path.split('?').next().unwrap_or_default())
            }
            ["request", "query"] => {
                let path = self.header(":path")?;
                let query = path.split_once('?').map_or("", |(_, query)| query);
                text(query.split('#').next().unwrap_or_default())
            }
            ["request", "path"] => header(":path"),
            ["request", "host"] => header(":authority"),
            ["request", "scheme"] => header(":scheme"),
            ["request", "method"] => header(":method"),
            ["request", "id"] => header("x-request-id"),
            ["request", "useragent"] => header("user-agent"),
            ["request", "referer"] => header("referer"),
            ["request", "protocol"] => text("HTTP/1.1"),
            ["source", "address"] => text(&self.source),
            ["source", "port"] => number(self.source.rsplit_once(':')?.1.parse().ok()?),
            ["connection", "uri_san_peer_certificate"] => text(self.peer.as_deref()?),
            ["connection", "mtls"] => Some(vec![u8::from(self.peer.is_some())]),
            ["connection", "requested_server_name"] => text(""),
            ["response", "code"] => number(i64::from(self.status()?)),
            ["response", "code_details"] => text(&self.response.borrow().as_ref()?.2),
            ["response", "headers", name] => {
                let response = self.response.borrow();
                let (_, headers, _) = response.as_ref()?;
                text(&headers.iter().find(|(known, _)| known == name)?.1)
            }
            ["xds", "node", "id"] => text(&self.shared.proxy.node),
            ["xds", "node", "metadata", "NAMESPACE"] => text(&self.shared.proxy.namespace),
            ["xds", "node", "metadata", "LABELS", name] => text(self.shared.proxy.labels.get(*name)?),
            ["xds", "cluster_name"] => text("inbound|8080||"),
            ["xds", "route_name"] => text("default"),
            _ => None,
        }
    }
}

impl RequestHost for Facts<'_> {
    fn headers(&self) -> Result<HeaderMap, HostError> {
        Ok(HeaderMap::from_pairs(self.headers.borrow().iter().map(|(name, value)| (name, value))))
    }

    fn header_first(&self, name: &str) -> Result<Option<Vec<u8>>, HostError> {
        Ok(self.headers()?.first(name).map(<[u8]>::to_vec))
    }

    fn header_joined(&self, name: &str) -> Result<Option<Vec<u8>>, HostError> {
        Ok(self.headers()?.joined(name))
    }

    fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, HostError> {
        Ok(self.attribute(path))
    }

    fn evaluate(
        &self,
        expression: u32,
        variable: Option<Variable<'_>>,
    ) -> Result<Option<Vec<u8>>, HostError> {
        if let Some((name, value)) = variable {
            // A filter state cannot be removed, so an empty value stays.
            self.state.borrow_mut().insert(name.to_owned(), value.to_vec());
        }
        let evaluated = self.shared.expressions.evaluate(expression, Some(self));
        trace::note(|| Note::new("expression").holds(evaluated != Evaluated::NotHere));
        Ok(match evaluated {
            Evaluated::Value(value) => Some(value),
            Evaluated::Nothing => None,
            Evaluated::NotHere => self.shared.world.assume(self.shared.expressions.is_condition(expression)),
        })
    }

    fn unix_time(&self) -> Result<Duration, HostError> {
        Ok(self.shared.unix_time.get())
    }

    fn monotonic_time(&self) -> Result<Duration, HostError> {
        Ok(self.shared.monotonic_time.get())
    }
}
