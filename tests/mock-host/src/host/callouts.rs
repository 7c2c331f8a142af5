//! Callouts: HTTP and unary gRPC calls that filters make to clusters.
//!
//! A callout belongs to the root context of the filter that made it (`http_call` and `grpc_call` in
//! proxy-wasm-cpp-host `src/exports.cc` take `contextOrEffectiveContext()->root_context()`), so it outlives
//! the stream, and its answer comes with the root context's ID.

use std::rc::Rc;
use std::time::Duration;

use crate::stream::exchange::Response;
use crate::stream::headers::HeaderMap;

/// A callout as the cluster sees it.
#[derive(Debug, Clone)]
pub struct CalloutRequest {
    /// Identifies the callout in [`crate::Proxy::answer`].
    pub id: u64,
    /// Cluster.
    pub cluster: String,
    /// Headers, with `:method`, `:path` and `:authority`; initial metadata for gRPC.
    pub headers: HeaderMap,
    /// Body; the message for gRPC.
    pub body: Vec<u8>,
    /// Time limit; `None` without one.
    pub timeout: Option<Duration>,
    /// Service and method of a gRPC call.
    pub grpc: Option<(String, String)>,
    /// The thread that makes it: 0 is the main thread, then the workers.
    pub thread: usize,
}

impl CalloutRequest {
    /// The path, empty for gRPC.
    pub fn path(&self) -> &str {
        self.headers.get(":path").unwrap_or_default()
    }
}

/// What becomes of a callout.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The cluster responds. A connection that fails is a 503 made by Envoy's router, a timeout a 504.
    Respond(Response),
    /// A gRPC service responds: a message with status 0, else the status and its text.
    Grpc {
        /// gRPC status.
        status: u32,
        /// Text of a status that is not 0.
        message: String,
        /// The reply's message.
        body: Vec<u8>,
    },
    /// The stream is reset (`onHttpCallFailure`, `onGrpcCloseWrapper`).
    Reset,
    /// Nothing yet: the test answers by [`crate::Proxy::answer`], or time runs out.
    Hold,
    /// No host of the cluster is healthy: the host call itself answers `INTERNAL_FAILURE`.
    Unavailable,
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Self::Respond(response)
    }
}

/// Decides what becomes of the callouts to a cluster.
pub(crate) type Handler = Rc<dyn Fn(&CalloutRequest) -> Answer>;

/// A callout that has not been delivered.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) request: CalloutRequest,
    pub(crate) vm: u64,
    pub(crate) root: u32,
    pub(crate) token: u32,
    pub(crate) answer: Option<Answer>,
    /// On the monotonic clock.
    pub(crate) deadline: Option<Duration>,
}

/// All callouts of a proxy.
#[derive(Default)]
pub(crate) struct Callouts {
    pub(crate) clusters: std::collections::HashMap<String, Handler>,
    pub(crate) pending: Vec<Pending>,
    pub(crate) made: u64,
}

impl Callouts {
    /// The next callout whose answer is there.
    pub(crate) fn take_ready(&mut self) -> Option<Pending> {
        let index = self.pending.iter().position(|pending| pending.answer.is_some())?;
        Some(self.pending.remove(index))
    }

    /// Answers the callouts whose time is up. For HTTP the router sends a 504, which arrives as a response; a
    /// gRPC client sees 504 as `UNAVAILABLE` (`Grpc::Utility::httpToGrpcStatus`).
    pub(crate) fn expire(&mut self, now: Duration) {
        for pending in &mut self.pending {
            if pending.answer.is_none() && pending.deadline.is_some_and(|deadline| deadline <= now) {
                let message = "upstream request timeout";
                pending.answer = Some(if pending.request.grpc.is_some() {
                    Answer::Grpc { status: 14, message: message.to_owned(), body: Vec::new() }
                } else {
                    let size = message.len().to_string();
                    let response = Response::new(504).header("content-length", size);
                    Answer::Respond(response.header("content-type", "text/plain").body(message))
                });
            }
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.pending
            .iter()
            .filter(|pending| pending.answer.is_none())
            .filter_map(|pending| pending.deadline)
            .min()
    }
}
