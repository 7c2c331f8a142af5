//! What becomes of a stream, and on which stream host calls act.

use super::guest::{Done, Guest};
use crate::stream::local_reply::LocalReply;
use crate::vm::AfterCall;
use crate::vm::abi::{Direction, Status, to_pairs};

pub(super) fn continue_stream(guest: &mut Guest, kind: u32) -> Done {
    let direction = match kind {
        0 => Direction::Request,
        1 => Direction::Response,
        2 => return Ok(()),
        3 => return Err(Status::UNIMPLEMENTED.into()),
        _ => return Err(Status::BAD_ARGUMENT.into()),
    };
    let state = guest.state();
    let acting = state.acting();
    if let Some(context) = state.context_mut(acting) {
        // `Context::continueStream` forgets the request's parts, whichever direction goes on.
        context.request_headers = false;
        context.request_body = false;
        if context.stream.is_some() {
            state.after_call.push_back(AfterCall::Continue { context: acting, direction });
        }
    }
    Ok(())
}

pub(super) fn close_stream(guest: &mut Guest, kind: u32) -> Done {
    if kind > 3 {
        return Err(Status::BAD_ARGUMENT.into());
    }
    let state = guest.state();
    let context = state.acting();
    if kind < 2 && state.context(context).is_some_and(|context| context.stream.is_some()) {
        state.after_call.push_back(AfterCall::Reset { context });
    }
    Ok(())
}

#[allow(clippy::too_many_arguments, reason = "the ABI's")]
pub(super) fn send_local_response(
    guest: &mut Guest,
    status: u32,
    details: u32,
    details_size: u32,
    body: u32,
    body_size: u32,
    headers: u32,
    headers_size: u32,
    grpc_status: u32,
) -> Done {
    let details = guest.read_text(details, details_size)?;
    let body = guest.read(body, body_size)?;
    let headers = to_pairs(&guest.read(headers, headers_size)?);
    let state = guest.state();
    let context = state.acting();
    // A context without a stream has no decoder callbacks: the call succeeds and does nothing.
    if state.context(context).is_some_and(|context| context.stream.is_some()) {
        let reply = LocalReply::new(status, grpc_status, headers, body, &details);
        state.after_call.push_back(AfterCall::LocalReply { context, reply });
    }
    // `stopNextIteration`: whatever the callback answers, its filter chain stops.
    state.stop_iteration = true;
    Ok(())
}

pub(super) fn set_effective_context(guest: &mut Guest, context: u32) -> Done {
    let state = guest.state();
    if state.context(context).is_none() {
        return Err(Status::BAD_ARGUMENT.into());
    }
    state.effective = context;
    Ok(())
}

/// `WasmBase::done`: only for a root that answered false to `proxy_on_done`.
pub(super) fn done(guest: &mut Guest) -> Done {
    let state = guest.state();
    let root = state.acting();
    let index = state.pending_done.iter().position(|pending| *pending == root).ok_or(Status::NOT_FOUND)?;
    state.pending_done.remove(index);
    state.after_call.push_back(AfterCall::DeleteRoot { root });
    Ok(())
}
