//! The stream on which host calls act, and how its request ends or goes on.

use super::answer::{Answer, done, property};
use crate::host::wasm::abi;
use crate::reply::Reply;
use crate::request::headers::HeaderMap;

/// Makes the following host calls act on another stream, or on the root context.
pub fn set_effective_context(context: u32) -> Answer<()> {
    // SAFETY: no pointers.
    done("set_effective_context", unsafe { abi::proxy_set_effective_context(context) })
}

/// Makes the following host calls act on another stream, and says whether it is there. One that has left is not: the proxy does
/// not know it any more, or it has ended.
pub fn enter_stream(context: u32) -> bool {
    set_effective_context(context).is_ok() && !has_ended()
}

/// Whether the stream of the effective context has ended. Envoy destroys its filters then, but knows its context until the worker has
/// handled the events that came in together. To resume or to answer it in between crashes the proxy (seen in Envoy 1.39).
fn has_ended() -> bool {
    // A request that goes on has no duration yet.
    matches!(property(&["request", "duration"]), Ok(Some(_)))
}

const REQUEST_STREAM: u32 = 0;

/// Lets a paused request go on.
pub(crate) fn resume_request() -> Answer<()> {
    // SAFETY: no pointers.
    done("continue_stream", unsafe { abi::proxy_continue_stream(REQUEST_STREAM) })
}

/// Resets the stream: the last resort for a request that must not go on.
pub(crate) fn reset_stream() -> Answer<()> {
    // SAFETY: no pointers.
    done("close_stream", unsafe { abi::proxy_close_stream(REQUEST_STREAM) })
}

/// Answers the request in the place of the service.
pub(crate) fn send_reply(reply: &Reply) -> Answer<()> {
    let headers = HeaderMap::from_pairs(reply.headers.iter().map(|(n, v)| (n, v))).into_raw();
    // SAFETY: all buffers are live for the call.
    done("send_local_response", unsafe {
        abi::proxy_send_local_response(
            u32::from(reply.status),
            reply.details.as_ptr(),
            reply.details.len(),
            reply.body.as_ptr(),
            reply.body.len(),
            headers.as_ptr(),
            headers.len(),
            reply.grpc_status.map_or(-1, i32::from),
        )
    })
}
