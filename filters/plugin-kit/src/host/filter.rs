//! What a host runs: a filter, by its callbacks.

use std::time::Duration;

use serde_json::Value;

use crate::config::ConfigErrors;
use crate::reply::Reply;
use crate::request::exchange::Exchange;
use crate::request::headers::HeaderMap;

/// What a filter does with a request.
#[derive(Debug)]
pub enum Flow {
    /// It goes on.
    Continue,
    /// It waits until the filter names its stream in [`Filter::on_tick`], [`Filter::on_call`] or [`Filter::on_grpc`];
    /// then [`Filter::on_request`] runs again: at once, or where many streams are named in one of the next ticks.
    Pause,
    /// It is answered here.
    Deny(Reply),
}

/// The outcome of an HTTP call.
pub struct CallResponse {
    /// The response headers; `None` where no response came (the cluster is down, the time is over).
    pub head: Option<HeaderMap>,
    /// Length of the body in bytes. Read it with [`host::call_response_body`], with a bound.
    pub body_size: usize,
}

/// A filter as the proxy runs it: one value for each configuration and worker.
///
/// Methods take `&self`: a filter keeps what changes in cells and never holds a borrow over a host call.
pub trait Filter: Sized + 'static {
    /// Name in logs.
    const NAME: &'static str;
    /// Whether this is several filters, one of which reads what another has changed or published.
    const COMPOSED: bool = false;
    /// What is kept for one stream.
    type Stream: Default;

    /// Makes the filter from its pluginConfig. An error refuses the configuration: Envoy keeps the last good one.
    /// `root` is the context to make HTTP calls as, see [`host::http_call`].
    fn configure(configuration: &Value, root: u32) -> Result<Self, ConfigErrors>;

    /// Decides about a request. Runs again for a paused stream that was woken.
    fn on_request(&self, stream: &mut Self::Stream, exchange: &Exchange<'_>) -> Flow;

    /// Whether a stream that is not paused is to be seen again, by [`Filter::on_response`] or [`Filter::on_end`]. One
    /// that is not costs nothing more. Asked after a request has passed, and again after its response headers have.
    fn keeps(&self, _stream: &Self::Stream) -> bool {
        true
    }

    /// Sees the response headers pass, also those of a local reply.
    fn on_response(&self, _stream: &mut Self::Stream, _exchange: &Exchange<'_>) {}

    /// Sees the stream end, before the access log is written. It may have ended without a response.
    fn on_end(&self, _stream: &mut Self::Stream, _exchange: &Exchange<'_>) {}

    /// Whether the first tick is to come as soon as the filter is configured, and not after [`TICK`].
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

    /// Receives the outcome of a gRPC call: the length of the message in bytes, to be read with
    /// [`host::grpc_message`], or the gRPC status of a call that failed. Returns the streams to run again.
    fn on_grpc(&self, _token: u32, _reply: Result<usize, u32>) -> Vec<u32> {
        Vec::new()
    }

    /// A stream that was named to run again has ended before it could. Each stream that is named either runs or comes
    /// here, once.
    fn on_gone(&self, _stream: u32) {}
}

/// Period of the timer.
pub const TICK: Duration = Duration::from_secs(1);

/// Period of the timer while streams are waiting to run again, and until the first tick of a filter that asks for it.
pub const SHORT_TICK: Duration = Duration::from_millis(1);
