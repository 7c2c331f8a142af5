use crate::server::Stateful;
use crate::{Answer, TimedOut, wait_for};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use prost::Message;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;

/// A span as the collector got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// `service.name` of its resource.
    pub service: String,
    /// What it names: the operation.
    pub name: String,
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// The parent's span ID; empty for a root.
    pub parent_id: String,
    /// Nanoseconds since the epoch.
    pub start: u64,
    /// Nanoseconds since the epoch.
    pub end: u64,
    /// The attributes, numbers and booleans as text.
    pub attributes: BTreeMap<String, String>,
}

/// An OTLP/HTTP collector that keeps every span.
#[derive(Debug)]
pub struct SpanCollector(Stateful<Vec<Span>>);

impl SpanCollector {
    /// Starts it.
    pub fn start() -> io::Result<Self> {
        Stateful::start(Vec::new(), |spans, request| {
            match ExportTraceServiceRequest::decode(request.body.as_slice()) {
                Ok(export) => {
                    spans.extend(decode(export));
                    let headers = vec![("content-type".to_owned(), "application/x-protobuf".to_owned())];
                    Answer { headers, ..Answer::default() }
                }
                Err(_) => Answer { status: 400, ..Answer::default() },
            }
        })
        .map(Self)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.0.state().clone()
    }

    /// Takes the spans that came since the last call.
    pub fn take_spans(&self) -> Vec<Span> {
        std::mem::take(&mut *self.0.state())
    }

    /// Waits until a trace has that many spans and gives them in order of start.
    pub fn wait_for_trace(&self, trace_id: &str, count: usize) -> Result<Vec<Span>, TimedOut> {
        wait_for(&format!("trace {trace_id} with {count} spans"), || {
            let mut spans = self.spans();
            spans.retain(|span| span.trace_id == trace_id);
            spans.sort_by_key(|span| span.start);
            (spans.len() >= count).then_some(spans)
        })
    }
}

fn decode(export: ExportTraceServiceRequest) -> Vec<Span> {
    let mut spans = Vec::new();
    for resource in export.resource_spans {
        let service = resource
            .resource
            .and_then(|resource| attributes(resource.attributes).remove("service.name"))
            .unwrap_or_default();
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push(Span {
                service: service.clone(),
                name: span.name,
                trace_id: hex(&span.trace_id),
                span_id: hex(&span.span_id),
                parent_id: hex(&span.parent_span_id),
                start: span.start_time_unix_nano,
                end: span.end_time_unix_nano,
                attributes: attributes(span.attributes),
            });
        }
    }
    spans
}

fn attributes(pairs: Vec<KeyValue>) -> BTreeMap<String, String> {
    pairs
        .into_iter()
        .filter_map(|pair| {
            let value = match pair.value?.value? {
                Value::StringValue(text) => text,
                Value::BoolValue(value) => value.to_string(),
                Value::IntValue(value) => value.to_string(),
                Value::DoubleValue(value) => value.to_string(),
                other => format!("{other:?}"),
            };
            Some((pair.key, value))
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
