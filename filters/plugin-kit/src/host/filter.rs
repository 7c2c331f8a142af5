//! What a shell offers its host: a filter, by its callbacks.

use std::time::Duration;

use serde_json::Value;

use crate::config::{ConfigErrors, Diagnostic};
use crate::host::HostError;
use crate::reply::Reply;
use crate::request::exchange::Exchange;
use crate::request::headers::HeaderMap;

/// What a filter does with a request.
#[derive(Debug)]
pub enum Flow {
    /// The request goes on to the service.
    Continue,
    /// The request waits until the filter names its stream in [`Filter::on_tick`], [`Filter::on_call`] or [`Filter::on_grpc`].
    /// Then [`Filter::on_request`] runs again: at once, or in one of the next ticks if many streams are named.
    Pause,
    /// The filter answers the request in the place of the service.
    Deny(Reply),
}

/// The outcome of an HTTP call.
pub struct CallResponse {
    /// The response headers; `None` if no response came, since the cluster is down or the time is over.
    pub head: Option<HeaderMap>,
    /// Length of the body in bytes. Read it with `host::call_response_body`, with a bound.
    pub body_size: usize,
    /// Why the call was not even sent, on a host that takes a call before it knows whether it can.
    pub not_sent: Option<HostError>,
}

/// A call of the same filter on another thread, and its response. Hosts whose threads share the answers tell of them: of the latest
/// to each call, and also of the latest that failed.
pub struct ElsewhereCall<'a> {
    /// The cluster.
    pub cluster: &'a str,
    /// The request headers.
    pub headers: &'a [(String, String)],
    /// The response, as in [`Filter::on_call`].
    pub response: &'a CallResponse,
    /// When it came, by `host::monotonic_time`.
    pub at: Duration,
    /// How often the call has failed in a row, with this time; 0 if it was answered with 200.
    pub failures: u32,
}

/// Why a gRPC call brought no message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrpcFailure {
    /// The gRPC status, or [`NOT_SENT`].
    pub status: u32,
    /// What came with it: the text of the server, or what the proxy says in its place, see
    /// [`Trouble::of`](crate::host::cluster::Trouble::of). Empty if there was none.
    pub said: String,
    /// The call was cut off after it had begun, as far as the host tells.
    pub cut_off: bool,
}

/// In the place of a gRPC status: the call was not sent, since there is no such cluster, or it has no host.
pub const NOT_SENT: u32 = u32::MAX;

/// A filter as the host runs it: one value for each configuration and worker.
///
/// Methods take `&self`: a filter keeps what changes in cells and never holds a borrow over a host call.
pub trait Filter: Sized + 'static {
    /// The name of the filter in logs and metrics.
    const NAME: &'static str;
    /// Whether this is several filters in one module, some of which read what others have changed or published.
    const COMPOSED: bool = false;
    /// The state that is kept for one stream.
    type Stream: Default;

    /// Makes the filter from its pluginConfig. An error refuses the configuration, and Envoy keeps the last good one.
    /// `root` is the caller of HTTP calls that outlive their stream, see `host::http_call`.
    fn configure(configuration: &Value, root: u32) -> Result<Self, ConfigErrors>;

    /// What may surprise in the configuration that the filter was made from. The host logs each once.
    fn warnings(&self) -> Vec<Diagnostic> {
        Vec::new()
    }

    /// Decides about a request. It runs again for a paused stream that was named to run again.
    fn on_request(&self, stream: &mut Self::Stream, exchange: &Exchange<'_>) -> Flow;

    /// Whether [`Filter::on_response`] and [`Filter::on_end`] are to see this stream, which is not paused. Returning false ends
    /// tracking: the stream costs nothing more. The host asks after the request headers, and again after the response headers.
    fn keeps(&self, _stream: &Self::Stream) -> bool {
        true
    }

    /// Sees the response headers pass, also those of a local reply.
    fn on_response(&self, _stream: &mut Self::Stream, _exchange: &Exchange<'_>) {}

    /// Sees the stream end, before the access log is written. It may have ended without a response.
    fn on_end(&self, _stream: &mut Self::Stream, _exchange: &Exchange<'_>) {}

    /// Whether the first tick comes [`SHORT_TICK`] after the filter was configured, and not [`TICK`] after it.
    fn ticks_at_once(&self) -> bool {
        false
    }

    /// Runs every [`TICK`], and every [`SHORT_TICK`] while streams are waiting to run again. Returns the streams to run
    /// again.
    fn on_tick(&self) -> Vec<u32> {
        Vec::new()
    }

    /// Receives the outcome of an HTTP call. Returns the streams to run again.
    fn on_call(&self, _token: u32, _response: &CallResponse) -> Vec<u32> {
        Vec::new()
    }

    /// Receives what a call on another thread has brought, which this thread need not ask for. Returns the streams to run again.
    fn on_call_elsewhere(&self, _call: &ElsewhereCall<'_>) -> Vec<u32> {
        Vec::new()
    }

    /// Receives the outcome of a gRPC call: the length of the message in bytes, which `host::grpc_message` reads, or why there is
    /// none. Returns the streams to run again.
    fn on_grpc(&self, _token: u32, _reply: Result<usize, GrpcFailure>) -> Vec<u32> {
        Vec::new()
    }

    /// Receives a stream that was named to run again, but has ended before it ran. Each stream that is named either runs or is
    /// passed here, exactly once.
    fn on_gone(&self, _stream: u32) {}
}

/// The period of the timer.
pub const TICK: Duration = Duration::from_secs(1);

/// The period of the timer while streams wait to run again, and before the first tick of a filter that
/// [`ticks_at_once`](Filter::ticks_at_once).
pub const SHORT_TICK: Duration = Duration::from_millis(1);
