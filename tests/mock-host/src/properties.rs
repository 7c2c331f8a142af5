//! Properties: Envoy's attributes, the node, and filter state.

use crate::stream::headers::HeaderMap;
use crate::vm::abi::{Status, marshal_pairs};

/// A value of an attribute, as CEL types it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text or bytes.
    Bytes(Vec<u8>),
    /// Signed number, such as a port or a response code.
    Int(i64),
    /// Unsigned number, such as a connection ID.
    Uint(u64),
    /// Number of a `google.protobuf.Struct`.
    Double(f64),
    /// Truth value.
    Bool(bool),
    /// List.
    List(Vec<Value>),
    /// Map, or message with named fields.
    Map(Vec<(String, Value)>),
}

impl Value {
    /// A map of text values, such as the node's labels.
    pub fn map<'a>(pairs: impl IntoIterator<Item = (&'a str, Value)>) -> Self {
        Self::Map(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// `serializeValue` (Envoy `context.cc`): numbers are 8 bytes in the host's order, a bool is one byte, a
    /// map comes as pairs and a list as pairs with empty values.
    pub(crate) fn serialize(&self) -> Result<Vec<u8>, Status> {
        Ok(match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Int(number) => number.to_le_bytes().to_vec(),
            Self::Uint(number) => number.to_le_bytes().to_vec(),
            Self::Double(number) => number.to_le_bytes().to_vec(),
            Self::Bool(truth) => vec![u8::from(*truth)],
            Self::List(items) => {
                let pairs = items.iter().map(|item| Ok((item.serialize()?, Vec::new())));
                marshal_pairs(&pairs.collect::<Result<Vec<_>, Status>>()?)
            }
            Self::Map(fields) => {
                let pairs = fields.iter().map(|(name, value)| Ok((name.clone(), value.serialize()?)));
                marshal_pairs(&pairs.collect::<Result<Vec<_>, Status>>()?)
            }
        })
    }

    /// A map with more fields.
    pub(crate) fn with(self, more: impl IntoIterator<Item = (String, Value)>) -> Self {
        match self {
            Self::Map(fields) => Self::Map(fields.into_iter().chain(more).collect()),
            other => other,
        }
    }

    /// One step of `Context::getProperty`: into a map by name, into a list by index.
    fn step(self, part: &str) -> Option<Self> {
        match self {
            Self::Map(fields) => fields.into_iter().find(|(name, _)| name == part).map(|(_, value)| value),
            Self::List(items) => items.into_iter().nth(part.parse().ok()?),
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Bytes(text.as_bytes().to_vec())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Bytes(text.into_bytes())
    }
}

/// The parts of a property path, which are parted by zero bytes (`Context::getProperty`).
pub(crate) fn parts(path: &[u8]) -> Vec<String> {
    let mut parts: Vec<_> =
        path.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect();
    if path.is_empty() || path.ends_with(&[0]) {
        parts.pop();
    }
    parts
}

/// Walks from a top-level value down the rest of the path.
pub(crate) fn descend(top: Value, rest: &[String]) -> Result<Value, Status> {
    rest.iter().try_fold(top, |value, part| value.step(part)).ok_or(Status::NOT_FOUND)
}

/// The `request` attributes (`RequestLookupValues`, Envoy
/// `source/extensions/filters/common/expr/context.cc`). Without headers (`None`: outside the request
/// callbacks of a filter that let the request go on) those that come from headers are missing.
pub(crate) fn request(headers: Option<&HeaderMap>, body_size: usize, start: std::time::Duration) -> Value {
    let mut fields = Vec::new();
    let mut put = |name: &str, value: Value| fields.push((name.to_owned(), value));
    put("headers", header_map(headers));
    put("headers_bytes", Value::Int(headers.map_or(0, size_of)));
    put("time", Value::Int(i64::try_from(start.as_nanos()).unwrap_or(i64::MAX)));
    put("protocol", "HTTP/1.1".into());
    let body = i64::try_from(body_size).unwrap_or(i64::MAX);
    put("total_size", Value::Int(body + headers.map_or(0, size_of)));
    let length = headers.and_then(|map| map.get("content-length")).map(str::parse::<i64>);
    match length {
        Some(Ok(length)) => put("size", Value::Int(length)),
        Some(Err(_)) => {}
        None => put("size", Value::Int(body)),
    }
    if let Some(headers) = headers {
        let path = headers.get_bytes(":path").unwrap_or_default();
        let (url_path, query) = match path.iter().position(|byte| *byte == b'?') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (path, &b""[..]),
        };
        let query = query.split(|byte| *byte == b'#').next().unwrap_or_default();
        put("url_path", Value::Bytes(url_path.to_vec()));
        put("query", Value::Bytes(query.to_vec()));
        for (attribute, header) in [
            ("path", ":path"),
            ("host", ":authority"),
            ("scheme", ":scheme"),
            ("method", ":method"),
            ("referer", "referer"),
            ("id", "x-request-id"),
            ("useragent", "user-agent"),
        ] {
            if let Some(value) = headers.get_bytes(header) {
                put(attribute, Value::Bytes(value.to_vec()));
            }
        }
    }
    Value::Map(fields)
}

/// The `response` attributes (`ResponseLookupValues`).
pub(crate) fn response(
    headers: Option<&HeaderMap>,
    code: Option<u16>,
    details: Option<&str>,
    sent: usize,
) -> Value {
    let mut fields = vec![
        ("headers".to_owned(), header_map(headers)),
        ("headers_bytes".to_owned(), Value::Int(headers.map_or(0, size_of))),
        ("trailers".to_owned(), Value::Map(Vec::new())),
        ("flags".to_owned(), Value::Int(0)),
        ("size".to_owned(), Value::Int(i64::try_from(sent).unwrap_or(i64::MAX))),
    ];
    if let Some(code) = code {
        fields.push(("code".to_owned(), Value::Int(i64::from(code))));
    }
    if let Some(details) = details {
        fields.push(("code_details".to_owned(), details.into()));
    }
    if let Some(Ok(status)) = headers.and_then(|map| map.get("grpc-status")).map(str::parse) {
        fields.push(("grpc_status".to_owned(), Value::Int(status)));
    }
    Value::Map(fields)
}

fn size_of(headers: &HeaderMap) -> i64 {
    i64::try_from(headers.byte_size()).unwrap_or(i64::MAX)
}

/// A map from header name to all of its values joined by a comma (`HeadersWrapper`).
fn header_map(headers: Option<&HeaderMap>) -> Value {
    let mut fields: Vec<(String, Value)> = Vec::new();
    for (name, _) in headers.into_iter().flat_map(HeaderMap::iter) {
        if fields.iter().all(|(have, _)| have != name) {
            let joined = headers.and_then(|map| map.joined(name)).unwrap_or_default();
            fields.push((name.to_owned(), Value::Bytes(joined)));
        }
    }
    Value::Map(fields)
}

/// The connection that a request came in by.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The peer's address, ip:port. It is `source.address` unless the request has `x-forwarded-for`.
    pub source: String,
    /// `destination.address`, ip:port.
    pub destination: String,
    /// `connection.uri_san_peer_certificate`: the peer's SPIFFE identity; `None` without mutual TLS.
    pub peer: Option<String>,
    /// `connection.requested_server_name` (SNI).
    pub server_name: String,
    /// `connection.id` and `connection_id`.
    pub id: u64,
}

impl Default for Connection {
    /// A client on 10.0.0.7 without TLS.
    fn default() -> Self {
        Self {
            source: "10.0.0.7:41234".to_owned(),
            destination: "10.0.0.1:8080".to_owned(),
            peer: None,
            server_name: String::new(),
            id: 1,
        }
    }
}

impl Connection {
    /// The remote address is what the last entry of `x-forwarded-for` says, if that is an address: a
    /// sidecar's connection manager does not use the peer's (`use_remote_address` is false;
    /// `ConnectionManagerUtility::mutateRequestHeaders` and `Utility::getLastAddressFromXFF`, Envoy
    /// `source/common/http/`).
    pub(crate) fn trust_forwarded_for(&mut self, request: &HeaderMap) {
        let last = request.get("x-forwarded-for").and_then(|value| value.rsplit(',').next());
        if let Some(Ok(address)) = last.map(|last| last.trim().parse()) {
            self.source = std::net::SocketAddr::new(address, 0).to_string();
        }
    }

    /// With `use_remote_address` the remote address is the connection's, and goes to the end of
    /// `x-forwarded-for`.
    pub(crate) fn append_forwarded_for(&self, request: &mut HeaderMap) {
        let address = self.source.parse().map(|source: std::net::SocketAddr| source.ip().to_string());
        if let Ok(address) = address {
            let list = request.joined("x-forwarded-for").unwrap_or_default();
            let list = String::from_utf8_lossy(&list).into_owned();
            let list = if list.is_empty() { address } else { format!("{list},{address}") };
            request.set("x-forwarded-for", list);
        }
    }

    /// The `connection` attributes (`ConnectionLookupValues`, `SslExtractorsValues`). `source.principal` is
    /// not among Envoy's attributes.
    pub(crate) fn attributes(&self) -> Value {
        let mut fields = vec![
            ("mtls".to_owned(), Value::Bool(self.peer.is_some())),
            ("requested_server_name".to_owned(), self.server_name.as_str().into()),
            ("id".to_owned(), Value::Uint(self.id)),
        ];
        if let Some(peer) = &self.peer {
            fields.push(("uri_san_peer_certificate".to_owned(), peer.as_str().into()));
        }
        Value::Map(fields)
    }
}

/// The `source` or `destination` attributes (`PeerWrapper`).
pub(crate) fn peer(address: &str) -> Value {
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).map(Value::Int);
    let fields = [Some(("address".to_owned(), address.into())), port.map(|port| ("port".to_owned(), port))];
    Value::Map(fields.into_iter().flatten().collect())
}

/// The route that a request took, as the `xds` attributes show it in an injected Istio sidecar.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "each is the xds attribute of that name")]
pub struct Route {
    pub cluster_name: String,
    pub route_name: String,
    pub virtual_host_name: String,
    /// 1 is inbound, 2 outbound (`core.v3.TrafficDirection`).
    pub listener_direction: i64,
}

impl Default for Route {
    /// Inbound to port 8080.
    fn default() -> Self {
        Self {
            cluster_name: "inbound|8080||".to_owned(),
            route_name: "default".to_owned(),
            virtual_host_name: "inbound|http|8080".to_owned(),
            listener_direction: 1,
        }
    }
}

impl Route {
    /// The `xds` attributes of a stream (`XDSLookupValues`).
    pub(crate) fn attributes(&self) -> Vec<(String, Value)> {
        vec![
            ("cluster_name".to_owned(), self.cluster_name.as_str().into()),
            ("route_name".to_owned(), self.route_name.as_str().into()),
            ("virtual_host_name".to_owned(), self.virtual_host_name.as_str().into()),
            ("listener_direction".to_owned(), Value::Int(self.listener_direction)),
            ("filter_chain_name".to_owned(), "".into()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_parted_by_zero_bytes() {
        assert_eq!(parts(b"xds\0node\0id"), ["xds", "node", "id"]);
        assert_eq!(parts(b"x\0"), ["x"]);
        assert_eq!(parts(b""), Vec::<String>::new());
    }

    #[test]
    fn a_url_path_has_no_query_and_a_query_no_fragment() {
        let map: HeaderMap = [(":path", "/a?b=c#d")].into_iter().collect();
        let request = request(Some(&map), 0, std::time::Duration::ZERO);
        assert_eq!(descend(request.clone(), &["url_path".into()]), Ok("/a".into()));
        assert_eq!(descend(request, &["query".into()]), Ok("b=c".into()));
    }
}
