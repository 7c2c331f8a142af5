//! The messages of Envoy's rate limit protocol, version 3:
//! `envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit`.

use std::fmt;
use std::time::Duration;

use plugin_kit::host::cluster::{Trouble, missing};
use plugin_kit::host::{GrpcFailure, NOT_SENT};
use plugin_kit::reply::detail::printable;
use plugin_kit::request::header_names::header_name;
use plugin_kit::wire::protobuf::{Fields, Malformed, Message, Value};

use crate::limits::gcra::Rate;

/// The full name of the gRPC service.
pub const SERVICE: &str = "envoy.service.ratelimit.v3.RateLimitService";
/// The method of the service.
pub const METHOD: &str = "ShouldRateLimit";
/// The longest answer in bytes. A longer one counts as a failure of the service.
pub const LONGEST_ANSWER: usize = 64 << 10;
/// The length in bytes at which a value is cut, since a client must not be able to fill the memory of the
/// service.
pub const LONGEST_VALUE: usize = 256;

/// How the proxy reaches the service: an `envoy.config.core.v3.GrpcService` of a cluster. The authority of
/// Istio's clusters, `outbound|8081||host`, is their host, since a server may refuse an authority with a `|`.
pub fn grpc_service(cluster: &str) -> Vec<u8> {
    let authority = cluster.rsplit_once('|').map_or("", |(_, host)| host);
    let envoy_grpc = Message::default().text(1, cluster).text(2, authority);
    Message::default().message(1, &envoy_grpc).into_bytes()
}

/// A descriptor: what the service counts by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Descriptor(Message);

impl Descriptor {
    /// Adds an entry. The protocol requires UTF-8, so invalid bytes are replaced.
    #[must_use]
    pub fn entry(self, key: &str, value: &[u8]) -> Self {
        let value = value.get(..LONGEST_VALUE).unwrap_or(value);
        let entry = Message::default().text(1, key).text(2, &String::from_utf8_lossy(value));
        Self(self.0.message(1, &entry))
    }

    /// Asks the service to count with this rate instead of its own. [`unit`] must know the window of the
    /// rate.
    #[must_use]
    pub fn limit(self, rate: &Rate) -> Self {
        let unit = unit(rate.per()).unwrap_or_default();
        let limit = Message::default().number(1, u64::from(rate.requests())).number(2, unit);
        Self(self.0.message(2, &limit))
    }
}

/// The number of the unit that is as long as this window, if the protocol has one.
pub fn unit(window: Duration) -> Option<u64> {
    UNITS.iter().find(|(_, seconds)| Duration::from_secs(*seconds) == window).map(|(unit, _)| *unit)
}

/// Units and their seconds: second, minute, hour, day.
const UNITS: [(u64, u64); 4] = [(1, 1), (2, 60), (3, 3_600), (4, 86_400)];

/// A `RateLimitRequest`: descriptors, each with its cost.
pub fn request(domain: &str, descriptors: &[(&Descriptor, u32)]) -> Vec<u8> {
    // A service that does not support the cost of a single descriptor takes the highest cost for all.
    let most = descriptors.iter().map(|(_, cost)| *cost).max().unwrap_or(1);
    let mut request = Message::default().text(1, domain);
    for (Descriptor(descriptor), cost) in descriptors {
        let own = Message::default().number(1, u64::from(*cost));
        let costed = (*cost != most).then(|| descriptor.clone().message(3, &own));
        request = request.message(2, costed.as_ref().unwrap_or(descriptor));
    }
    // 0 stands for 1.
    let most = if most == 1 { 0 } else { most };
    request.number(3, u64::from(most)).into_bytes()
}

/// A header that the service adds to the request or the response.
pub type Header = (String, String);

/// A `RateLimitResponse`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// Whether the request is over a limit.
    pub over_limit: bool,
    /// The statuses of the descriptors, in order. Some services send none.
    pub statuses: Vec<Status>,
    /// Headers for the response.
    pub response_headers: Vec<Header>,
    /// Headers for the request.
    pub request_headers: Vec<Header>,
    /// The body of the denial.
    pub body: Vec<u8>,
}

/// What the service says about one descriptor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether the descriptor is over its limit.
    pub over_limit: bool,
    /// How many requests are admitted in each window.
    pub requests: u64,
    /// The window in seconds; 0 if the service has no limit for the descriptor, or did not name it.
    pub window: u64,
    /// How many requests are left.
    pub remaining: u64,
    /// Nanoseconds until the window ends.
    pub reset: u64,
}

/// Why there is no usable answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind of failure, which the metrics, the detail of a denial and the log tell apart.
    pub code: &'static str,
    text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Failure {
    /// Every kind: the proxy has no such cluster, or no host in it; no connection; a TLS failure; the
    /// connection ended before the answer; no answer in time; another gRPC status; an answer that is not of
    /// the protocol.
    pub const CODES: [&str; 7] = [NO_CLUSTER, CONNECT, TLS, RESET, TIMEOUT, STATUS, CONTENT];

    fn new(code: &'static str, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// The proxy could not send the call to this cluster.
    pub fn not_sent(cluster: &str) -> Self {
        Self::new(NO_CLUSTER, format!("{}, or the cluster has no host", missing(cluster)))
    }

    /// The call failed. A text of the service itself is not shown.
    #[inline(never)]
    pub fn of_call(failure: &GrpcFailure, cluster: &str) -> Self {
        let status = failure.status;
        let (code, why) = match Trouble::of(&failure.said) {
            _ if status == NOT_SENT => return Self::not_sent(cluster),
            Some(trouble) => {
                let code = match trouble {
                    Trouble::Connect => CONNECT,
                    Trouble::Tls => TLS,
                    Trouble::Reset => RESET,
                    Trouble::Timeout => TIMEOUT,
                    Trouble::Forbidden => STATUS,
                };
                (code, printable(&failure.said, LONGEST_TEXT))
            }
            None if failure.cut_off => (RESET, "the connection was reset".to_owned()),
            None if status == DEADLINE_EXCEEDED => (TIMEOUT, "no answer in time".to_owned()),
            None => (STATUS, hint(status).to_owned()),
        };
        let separator = if why.is_empty() { "" } else { ": " };
        Self::new(code, format!("gRPC status {status}{separator}{why}"))
    }

    /// The answer is too long, or is not a message of the protocol.
    pub fn malformed() -> Self {
        Self::new(CONTENT, "the answer is not of the protocol")
    }
}

const NO_CLUSTER: &str = "no_cluster";
const CONNECT: &str = "connect";
const TLS: &str = "tls";
const RESET: &str = "reset";
const TIMEOUT: &str = "timeout";
const STATUS: &str = "status";
const CONTENT: &str = "content";

const DEADLINE_EXCEEDED: u32 = 4;

/// The longest text of the proxy that the log shows, in bytes.
const LONGEST_TEXT: usize = 256;

fn hint(status: u32) -> &'static str {
    match status {
        7 | 16 => "the server refuses this workload",
        12 => "the server does not offer the rate limit service",
        13 => "the connection ended within the answer, or the answer is not gRPC",
        14 => "the service says that it is not available",
        _ => "",
    }
}

impl From<Malformed> for Failure {
    fn from(_: Malformed) -> Self {
        Self::malformed()
    }
}

const OK: u64 = 1;
const OVER_LIMIT: u64 = 2;

impl Response {
    /// Reads an answer.
    ///
    /// # Errors
    /// The answer is malformed, or its overall code is unknown.
    pub fn parse(message: &[u8]) -> Result<Self, Failure> {
        let mut response = Self::default();
        let mut code = 0;
        for field in Fields(message) {
            match field? {
                (1, Value::Number(number)) => code = number,
                (2, Value::Bytes(status)) => response.statuses.push(Status::parse(status)?),
                (3, Value::Bytes(header)) => response.response_headers.extend(parse_header(header)?),
                (4, Value::Bytes(header)) => response.request_headers.extend(parse_header(header)?),
                (5, Value::Bytes(body)) => response.body = body.to_vec(),
                _ => {}
            }
        }
        response.over_limit = match code {
            OK => false,
            OVER_LIMIT => true,
            other => return Err(Failure::new(CONTENT, format!("the answer has code {other}"))),
        };
        Ok(response)
    }
}

impl Status {
    fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let mut status = Self::default();
        for field in Fields(message) {
            match field? {
                (1, Value::Number(code)) => status.over_limit = code == OVER_LIMIT,
                (2, Value::Bytes(limit)) => {
                    for field in Fields(limit) {
                        match field? {
                            (1, Value::Number(requests)) => status.requests = requests,
                            (2, Value::Number(unit)) => {
                                let known = UNITS.iter().find(|(number, _)| *number == unit);
                                status.window = known.map_or(0, |(_, seconds)| *seconds);
                            }
                            _ => {}
                        }
                    }
                }
                (3, Value::Number(remaining)) => status.remaining = remaining,
                (4, Value::Bytes(duration)) => status.reset = parse_duration(duration)?,
                _ => {}
            }
        }
        Ok(status)
    }
}

/// A `google.protobuf.Duration` in nanoseconds; 0 if it is negative.
fn parse_duration(message: &[u8]) -> Result<u64, Malformed> {
    let mut nanoseconds = 0_u64;
    for field in Fields(message) {
        let unit = match field? {
            (1, Value::Number(number)) => (number, 1_000_000_000),
            (2, Value::Number(number)) => (number, 1),
            _ => continue,
        };
        if i64::try_from(unit.0).is_ok() {
            nanoseconds = nanoseconds.saturating_add(unit.0.saturating_mul(unit.1));
        }
    }
    Ok(nanoseconds)
}

/// An `envoy.config.core.v3.HeaderValue`; `None` if a proxy could not send it.
fn parse_header(message: &[u8]) -> Result<Option<Header>, Malformed> {
    let (mut name, mut value) = (&[][..], &[][..]);
    for field in Fields(message) {
        match field? {
            (1, Value::Bytes(bytes)) => name = bytes,
            // `value` or `raw_value`.
            (2 | 3, Value::Bytes(bytes)) if !bytes.is_empty() => value = bytes,
            _ => {}
        }
    }
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let header = text(&name.to_ascii_lowercase()).zip(text(value));
    Ok(header.filter(|(name, value)| {
        header_name(name).is_ok()
            // The service must not change how a message is framed or where it goes.
            && !["host", "content-length", "transfer-encoding", "connection"].contains(&name.as_str())
            && !value.bytes().any(|byte| byte.is_ascii_control())
    }))
}

/// Compared with the encoding of prost.
#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    use envoy::rate_limit as proto;

    #[derive(Clone, PartialEq, prost::Message)]
    struct GrpcService {
        #[prost(message, optional, tag = "1")]
        envoy_grpc: Option<EnvoyGrpc>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct EnvoyGrpc {
        #[prost(string, tag = "1")]
        cluster_name: String,
        #[prost(string, tag = "2")]
        authority: String,
    }

    #[test]
    fn istio_cluster_authority_is_its_host() {
        let service = |cluster: &str| {
            let service = GrpcService::decode(&*grpc_service(cluster)).unwrap();
            let to = service.envoy_grpc.unwrap();
            (to.cluster_name, to.authority)
        };
        let istio = "outbound|8081||ratelimit.limits.svc.cluster.local";
        assert_eq!(service(istio), (istio.to_owned(), "ratelimit.limits.svc.cluster.local".to_owned()));
        assert_eq!(service("ratelimit"), ("ratelimit".to_owned(), String::new()));
    }

    #[test]
    fn client_value_becomes_utf8_of_bounded_length() {
        let descriptor = Descriptor::default().entry("user", b"a\xff\xfeb").entry("path", &[b'x'; 10_000]);
        let sent = proto::RateLimitRequest::decode(&*request("d", &[(&descriptor, 1)])).unwrap();
        let values: Vec<_> = sent.descriptors[0].entries.iter().map(|entry| entry.value.clone()).collect();
        assert_eq!(values, ["a\u{fffd}\u{fffd}b".to_owned(), "x".repeat(LONGEST_VALUE)]);
    }

    #[test]
    fn headers_that_a_proxy_could_not_send_are_left_out() {
        let response = proto::RateLimitResponse {
            overall_code: 1,
            response_headers_to_add: [
                ("X-Quota", "one"),
                ("x-empty", ""),
                (":status", "200"),
                ("", "x"),
                ("a b", "x"),
                ("x-split", "a\r\nb: c"),
                ("Content-Length", "5"),
                ("host", "x"),
            ]
            .map(|(key, value)| proto::HeaderValue::new(key, value))
            .to_vec(),
            request_headers_to_add: vec![proto::HeaderValue {
                raw_value: b"raw".to_vec(),
                ..proto::HeaderValue::new("x-raw", "")
            }],
            ..Default::default()
        };
        let read = Response::parse(&response.encode_to_vec()).unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(read.response_headers, [pair("x-quota", "one"), pair("x-empty", "")]);
        assert_eq!(read.request_headers, [pair("x-raw", "raw")]);
    }

    #[test]
    fn answer_without_a_known_code_is_a_failure() {
        assert_eq!(Response::parse(b""), Err(Failure::new(CONTENT, "the answer has code 0")));
        let unknown = proto::RateLimitResponse { overall_code: 7, ..Default::default() };
        assert_eq!(
            Response::parse(&unknown.encode_to_vec()),
            Err(Failure::new(CONTENT, "the answer has code 7"))
        );
        for malformed in
            [&b"\x08"[..], b"\x08\x80", b"\x12\x05\x08", b"\x0b", b"\x08\x01\x12\x02\x22\x05", b"<html>"]
        {
            assert_eq!(Response::parse(malformed), Err(Failure::malformed()), "{malformed:?}");
        }
    }

    #[test]
    fn negative_or_too_long_duration_is_clamped() {
        for (seconds, nanos, expected) in
            [(5, 7, 5_000_000_007), (-1, 0, 0), (0, -1, 0), (i64::MAX, 0, u64::MAX), (0, 0, 0)]
        {
            let duration = proto::ProtoDuration { seconds, nanos }.encode_to_vec();
            assert_eq!(parse_duration(&duration), Ok(expected));
        }
    }

    prop_compose! {
        fn any_descriptor()(
            entries in prop::collection::vec(("[a-z]{1,8}", ".{0,40}"), 1..4),
            limit in prop::option::of((any::<u32>(), 0_usize..4)),
            cost in 1_u32..1_000,
        ) -> (Vec<(String, String)>, Option<(u32, usize)>, u32) {
            (entries, limit, cost)
        }
    }

    proptest! {
        #[test]
        fn encoded_request_prost_decodes_the_same(
            domain in "[a-z]{1,20}", descriptors in prop::collection::vec(any_descriptor(), 1..4),
        ) {
            let ours: Vec<(Descriptor, u32)> = descriptors.iter().map(|(entries, limit, cost)| {
                let descriptor = entries.iter().fold(Descriptor::default(), |d, (key, value)| d.entry(key, value.as_bytes()));
                let rate = limit.map(|(requests, unit)| {
                    let window = Duration::from_secs(UNITS[unit].1);
                    let requests = requests.clamp(1, 1_000_000_000);
                    Rate::new(requests, window, 1).unwrap()
                });
                (rate.iter().fold(descriptor, Descriptor::limit), *cost)
            }).collect();
            let sent: Vec<_> = ours.iter().map(|(descriptor, cost)| (descriptor, *cost)).collect();
            let read = proto::RateLimitRequest::decode(&*request(&domain, &sent)).unwrap();
            prop_assert_eq!(read.domain, domain);
            prop_assert_eq!(read.descriptors.len(), descriptors.len());
            for ((entries, limit, cost), read_descriptor) in descriptors.iter().zip(&read.descriptors) {
                let read_entries: Vec<_> = read_descriptor.entries.iter().map(|e| (e.key.clone(), e.value.clone())).collect();
                prop_assert_eq!(&read_entries, entries);
                let expected = limit.map(|(requests, unit)| proto::RateLimitOverride {
                    requests_per_unit: requests.clamp(1, 1_000_000_000), unit: i32::try_from(UNITS[unit].0).unwrap(),
                });
                prop_assert_eq!(&read_descriptor.limit, &expected);
                let counted = read_descriptor.hits_addend.unwrap_or_else(|| u64::from(read.hits_addend.max(1)));
                prop_assert_eq!(counted, u64::from(*cost));
            }
        }

        #[test]
        fn response_encoded_by_prost_is_read(
            over in any::<bool>(),
            statuses in prop::collection::vec((1_i32..3, any::<u32>(), 0_usize..4, any::<u32>(), 0_i64..1_000_000, 0_i32..1_000_000_000), 0..4),
            headers in prop::collection::vec(("[a-z-]{1,10}", "[ -~]{0,20}"), 0..4),
            body: Vec<u8>,
        ) {
            let response = proto::RateLimitResponse {
                overall_code: if over { 2 } else { 1 },
                statuses: statuses.iter().map(|(code, requests, unit, remaining, seconds, nanos)| proto::DescriptorStatus {
                    code: *code,
                    current_limit: Some(proto::RateLimit {
                        requests_per_unit: *requests, unit: i32::try_from(UNITS[*unit].0).unwrap(), name: "name".to_owned(),
                    }),
                    limit_remaining: *remaining,
                    duration_until_reset: Some(proto::ProtoDuration { seconds: *seconds, nanos: *nanos }),
                }).collect(),
                response_headers_to_add: headers.iter().map(|(key, value)| proto::HeaderValue::new(key, value)).collect(),
                request_headers_to_add: Vec::new(),
                raw_body: body.clone(),
            };
            let expected = Response {
                over_limit: over,
                statuses: statuses.iter().map(|(code, requests, unit, remaining, seconds, nanos)| Status {
                    over_limit: *code == 2,
                    requests: u64::from(*requests),
                    window: UNITS[*unit].1,
                    remaining: u64::from(*remaining),
                    reset: u64::try_from(*seconds).unwrap() * 1_000_000_000 + u64::try_from(*nanos).unwrap(),
                }).collect(),
                response_headers: headers,
                request_headers: Vec::new(),
                body,
            };
            prop_assert_eq!(Response::parse(&response.encode_to_vec()), Ok(expected));
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>) {
            let _ = Response::parse(&bytes);
        }
    }

    #[test]
    fn failed_call_is_told_by_what_the_proxy_says_and_nothing_that_the_service_says() {
        let of = |status, said: &str| {
            let failure = GrpcFailure { status, said: said.to_owned(), cut_off: false };
            let failure = Failure::of_call(&failure, "c");
            assert!(Failure::CODES.contains(&failure.code));
            (failure.code, failure.to_string())
        };
        let reset = |reason: &str| {
            format!("upstream connect error or disconnect/reset before headers. reset reason: {reason}")
        };
        for (code, said) in [
            (
                "connect",
                reset(
                    "remote connection failure, transport failure reason: delayed connect error: Connection refused",
                ),
            ),
            ("connect", "no healthy upstream".to_owned()),
            (
                "tls",
                reset(
                    "remote connection failure, transport failure reason: TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end",
                ),
            ),
            ("reset", reset("connection termination")),
            ("timeout", "upstream request timeout".to_owned()),
        ] {
            assert_eq!(of(14, &said), (code, format!("gRPC status 14: {said}")));
        }
        assert_eq!(of(7, "RBAC: access denied").0, "status");
        assert_eq!(of(4, ""), ("timeout", "gRPC status 4: no answer in time".to_owned()));
        for (status, text) in [
            (14, "gRPC status 14: the service says that it is not available"),
            (12, "gRPC status 12: the server does not offer the rate limit service"),
            (2, "gRPC status 2"),
        ] {
            assert_eq!(of(status, "s3cr3t"), ("status", text.to_owned()));
        }
        assert_eq!(of(NOT_SENT, "").0, "no_cluster");
        let cut_off = GrpcFailure { status: 14, cut_off: true, ..GrpcFailure::default() };
        assert_eq!(Failure::of_call(&cut_off, "c").code, "reset");
    }
}
