//! Envoy's rate limit protocol, version 3, and a service that speaks it and answers as told.

use crate::server::{Answer, Gate, Received, Stateful};
use prost::Message;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// `envoy.service.ratelimit.v3.RateLimitRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct RateLimitRequest {
    /// Which configuration of the service is meant.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// What is counted.
    #[prost(message, repeated, tag = "2")]
    pub descriptors: Vec<RateLimitDescriptor>,
    /// As how many requests; 0 is 1.
    #[prost(uint32, tag = "3")]
    pub hits_addend: u32,
}

/// `envoy.extensions.common.ratelimit.v3.RateLimitDescriptor`.
#[derive(Clone, PartialEq, Message)]
pub struct RateLimitDescriptor {
    /// Its entries in order.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<Entry>,
    /// In the place of the service's own limit.
    #[prost(message, optional, tag = "2")]
    pub limit: Option<RateLimitOverride>,
    /// In the place of the request's.
    #[prost(message, optional, tag = "3")]
    pub hits_addend: Option<u64>,
}

/// An entry of a descriptor.
#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    /// Its key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// A limit that the proxy sends.
#[derive(Clone, PartialEq, Message)]
pub struct RateLimitOverride {
    /// How many.
    #[prost(uint32, tag = "1")]
    pub requests_per_unit: u32,
    /// Second, minute, hour, day: 1 to 4.
    #[prost(int32, tag = "2")]
    pub unit: i32,
}

/// `envoy.service.ratelimit.v3.RateLimitResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct RateLimitResponse {
    /// [`OK`] or [`OVER_LIMIT`].
    #[prost(int32, tag = "1")]
    pub overall_code: i32,
    /// One for each descriptor, or none.
    #[prost(message, repeated, tag = "2")]
    pub statuses: Vec<DescriptorStatus>,
    /// For the client.
    #[prost(message, repeated, tag = "3")]
    pub response_headers_to_add: Vec<HeaderValue>,
    /// For the service behind the proxy.
    #[prost(message, repeated, tag = "4")]
    pub request_headers_to_add: Vec<HeaderValue>,
    /// For a client that is over its limit.
    #[prost(bytes = "vec", tag = "5")]
    pub raw_body: Vec<u8>,
}

/// `RateLimitResponse.Code`.
pub const OK: i32 = 1;
/// `RateLimitResponse.Code`.
pub const OVER_LIMIT: i32 = 2;

/// What is said of one descriptor.
#[derive(Clone, PartialEq, Message)]
pub struct DescriptorStatus {
    /// [`OK`] or [`OVER_LIMIT`].
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// Its limit.
    #[prost(message, optional, tag = "2")]
    pub current_limit: Option<RateLimit>,
    /// What is left.
    #[prost(uint32, tag = "3")]
    pub limit_remaining: u32,
    /// Until its window ends.
    #[prost(message, optional, tag = "4")]
    pub duration_until_reset: Option<ProtoDuration>,
}

/// A limit of the service.
#[derive(Clone, PartialEq, Message)]
pub struct RateLimit {
    /// How many.
    #[prost(uint32, tag = "1")]
    pub requests_per_unit: u32,
    /// Second, minute, hour, day: 1 to 4.
    #[prost(int32, tag = "2")]
    pub unit: i32,
    /// Its name.
    #[prost(string, tag = "3")]
    pub name: String,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
pub struct ProtoDuration {
    /// Whole seconds.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// The rest.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// `envoy.config.core.v3.HeaderValue`.
#[derive(Clone, PartialEq, Message)]
pub struct HeaderValue {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub value: String,
    /// In the place of `value`.
    #[prost(bytes = "vec", tag = "3")]
    pub raw_value: Vec<u8>,
}

impl HeaderValue {
    /// A header with a value of text.
    pub fn new(key: &str, value: &str) -> Self {
        Self { key: key.to_owned(), value: value.to_owned(), raw_value: Vec::new() }
    }
}

/// The request header in which [`RateLimitAnswer`] shows what was asked.
pub const ASKED: &str = "x-asked";

/// What the service answers.
#[derive(Debug, Clone)]
pub struct RateLimitAnswer {
    /// The message; what was asked comes on top of it as the request header [`ASKED`].
    pub response: RateLimitResponse,
    /// Bytes in its place.
    pub raw: Option<Vec<u8>>,
    /// A gRPC status in its place, if not 0.
    pub grpc_status: u32,
    /// How long it takes.
    pub delay: Duration,
    /// What holds it back beyond that.
    pub gate: Option<Gate>,
}

impl Default for RateLimitAnswer {
    fn default() -> Self {
        Self {
            response: RateLimitResponse { overall_code: OK, ..RateLimitResponse::default() },
            raw: None,
            grpc_status: 0,
            delay: Duration::ZERO,
            gate: None,
        }
    }
}

impl RateLimitAnswer {
    /// The message of the reply to a request.
    pub fn message(&self, request: &[u8]) -> Vec<u8> {
        if let Some(raw) = &self.raw {
            return raw.clone();
        }
        let mut response = self.response.clone();
        let asked = RateLimitRequest::decode(request).map_or_else(|error| error.to_string(), |r| r.to_line());
        response.request_headers_to_add.push(HeaderValue::new(ASKED, &asked));
        response.encode_to_vec()
    }
}

impl RateLimitRequest {
    /// On one line: `domain user=alice,path=/a 5/3 x2; …`, of a limit that is sent along with the request its
    /// size and unit, and of a cost of more than 1 this.
    fn to_line(&self) -> String {
        let descriptor = |descriptor: &RateLimitDescriptor| {
            let entries: Vec<_> =
                descriptor.entries.iter().map(|entry| format!("{}={}", entry.key, entry.value)).collect();
            let limit = descriptor.limit.as_ref();
            let limit = limit.map(|limit| format!(" {}/{}", limit.requests_per_unit, limit.unit));
            let cost = match descriptor.hits_addend.unwrap_or(u64::from(self.hits_addend)) {
                0 | 1 => String::new(),
                cost => format!(" x{cost}"),
            };
            entries.join(",") + &limit.unwrap_or_default() + &cost
        };
        let descriptors: Vec<_> = self.descriptors.iter().map(descriptor).collect();
        format!("{} {}", self.domain, descriptors.join("; "))
    }
}

/// A rate limit service that counts nothing and answers as told.
#[derive(Debug)]
pub struct RateLimitService(Stateful<State>);

#[derive(Debug, Default)]
struct State {
    answer: RateLimitAnswer,
    asked: u64,
}

impl RateLimitService {
    /// Starts it; it finds every request within its limits.
    pub fn start() -> io::Result<Self> {
        Stateful::start(State::default(), |state, request| {
            state.asked += 1;
            http(&state.answer, &request)
        })
        .map(Self)
    }

    /// Where it listens, for HTTP/2.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Changes what it answers from now on.
    pub fn answer(&self, answer: RateLimitAnswer) {
        self.0.state().answer = answer;
    }

    /// How often it was asked.
    pub fn asked(&self) -> u64 {
        self.0.state().asked
    }
}

fn http(answer: &RateLimitAnswer, request: &Received) -> Answer {
    // A compression flag and the length come before a message.
    let message = answer.message(request.body.get(5..).unwrap_or_default());
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    body.extend(message);
    let known = request.path == "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
    let status = if known { answer.grpc_status } else { 12 };
    let body = if status == 0 { body } else { Vec::new() };
    let headers = vec![("grpc-status".to_owned(), status.to_string())];
    Answer { headers, body, delay: answer.delay, gate: answer.gate.clone(), ..Answer::default() }
}
