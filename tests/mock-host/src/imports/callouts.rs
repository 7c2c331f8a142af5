//! HTTP and gRPC calls to other services.

use std::time::Duration;

use super::guest::{Done, Guest};
use crate::foreign;
use crate::host::callouts::{Answer, CalloutRequest, Pending};
use crate::stream::headers::HeaderMap;
use crate::vm::AfterCall;
use crate::vm::abi::{Status, to_pairs};

#[allow(clippy::too_many_arguments, reason = "the ABI's")]
pub(super) fn http_call(
    guest: &mut Guest,
    cluster: u32,
    cluster_size: u32,
    headers: u32,
    headers_size: u32,
    body: u32,
    body_size: u32,
    trailers: u32,
    trailers_size: u32,
    timeout: u32,
    token_to: u32,
) -> Done {
    let cluster = guest.read_text(cluster, cluster_size)?;
    let body = guest.read(body, body_size)?;
    let headers = to_pairs(&guest.read(headers, headers_size)?);
    guest.read(trailers, trailers_size)?;
    guest.write_word(token_to, 0)?;
    // `Context::httpCall`.
    let timeout = u64::try_from(timeout.cast_signed()).map_err(|_| Status::BAD_ARGUMENT)?;
    if !guest.state().host.borrow().callouts.clusters.contains_key(&cluster) {
        return Err(Status::BAD_ARGUMENT.into());
    }
    let mut headers: HeaderMap = headers.into_iter().collect();
    if [":path", ":method", ":authority"].iter().any(|name| !headers.contains(name)) {
        return Err(Status::BAD_ARGUMENT.into());
    }
    if !body.is_empty() {
        headers.set("content-length", body.len().to_string());
    }
    let token = guest.state().next_http_call();
    if !dispatch(guest, token, cluster, headers, body, timeout, None) {
        return Err(Status::INTERNAL_FAILURE.into());
    }
    Ok(guest.write_word(token_to, token)?)
}

#[allow(clippy::too_many_arguments, reason = "the ABI's")]
pub(super) fn grpc_call(
    guest: &mut Guest,
    service: u32,
    service_size: u32,
    name: u32,
    name_size: u32,
    method: u32,
    method_size: u32,
    metadata: u32,
    metadata_size: u32,
    message: u32,
    message_size: u32,
    timeout: u32,
    token_to: u32,
) -> Done {
    let service = guest.read(service, service_size)?;
    let name = guest.read_text(name, name_size)?;
    let method = guest.read_text(method, method_size)?;
    let metadata = to_pairs(&guest.read(metadata, metadata_size)?).into_iter().collect();
    let message = guest.read(message, message_size)?;
    // `Context::grpcCall`: the service is a serialised `GrpcService`, or else a cluster's name.
    let known = |guest: &mut Guest, cluster: &str| {
        guest.state().host.borrow().callouts.clusters.contains_key(cluster)
    };
    let plain = String::from_utf8_lossy(&service).into_owned();
    let (cluster, exists) = if known(guest, &plain) {
        (plain, true)
    } else {
        let cluster = foreign::grpc_service_cluster(&service).ok_or(Status::PARSE_FAILURE)?;
        let exists = known(guest, &cluster);
        (cluster, exists)
    };
    let token = guest.state().next_grpc_call();
    let timeout = u64::from(timeout);
    if !exists || !dispatch(guest, token, cluster, metadata, message, timeout, Some((name, method))) {
        // The client fails within the call; its close is delivered after the call into the VM.
        let Some((root, _)) = guest.root() else { return Err(Status::INTERNAL_FAILURE.into()) };
        let message = "Cluster not available".to_owned();
        guest.state().after_call.push_back(AfterCall::GrpcClosed { root, token, status: 14, message });
        return Err(Status::INTERNAL_FAILURE.into());
    }
    Ok(guest.write_word(token_to, token)?)
}

/// Hands a callout to its cluster; false if no host of it is there.
fn dispatch(
    guest: &mut Guest,
    token: u32,
    cluster: String,
    headers: HeaderMap,
    body: Vec<u8>,
    timeout: u64,
    grpc: Option<(String, String)>,
) -> bool {
    let Some((root, _)) = guest.root() else { return false };
    let state = guest.state();
    let (vm, thread) = (state.serial, state.thread);
    let (handler, id, now) = {
        let mut host = state.host.borrow_mut();
        host.callouts.made += 1;
        let handler = host.callouts.clusters.get(&cluster).cloned();
        (handler, host.callouts.made, host.clock.monotonic())
    };
    let timeout = (timeout > 0).then(|| Duration::from_millis(timeout));
    let request = CalloutRequest { id, cluster, headers, body, timeout, grpc, thread };
    // The handler runs without a borrow of the host, so that it may look at the proxy.
    let answer = match handler.map(|handler| handler(&request)) {
        None | Some(Answer::Unavailable) => return false,
        Some(Answer::Hold) => None,
        Some(answer) => Some(answer),
    };
    let deadline = timeout.map(|timeout| now + timeout);
    state.host.borrow_mut().callouts.pending.push(Pending { request, vm, root, token, answer, deadline });
    true
}

/// Streams of gRPC are not made here.
#[allow(clippy::too_many_arguments, reason = "the ABI's")]
pub(super) fn grpc_stream(
    _: &mut Guest,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
) -> Done {
    Err(Status::UNIMPLEMENTED.into())
}

pub(super) fn grpc_cancel(guest: &mut Guest, token: u32) -> Done {
    if token & 3 != 1 {
        return Err(Status::BAD_ARGUMENT.into());
    }
    let Some((root, _)) = guest.root() else { return Err(Status::NOT_FOUND.into()) };
    let state = guest.state();
    let serial = state.serial;
    let mut host = state.host.borrow_mut();
    let pending = &mut host.callouts.pending;
    let index = pending
        .iter()
        .position(|pending| pending.vm == serial && pending.root == root && pending.token == token)
        .ok_or(Status::NOT_FOUND)?;
    pending.remove(index);
    Ok(())
}

pub(super) fn grpc_close(guest: &mut Guest, token: u32) -> Done {
    grpc_cancel(guest, token)
}

pub(super) fn grpc_send(_: &mut Guest, token: u32, _: u32, _: u32, _: u32) -> Done {
    Err(if token & 3 == 2 { Status::NOT_FOUND } else { Status::BAD_ARGUMENT }.into())
}

/// What the last callout that failed said.
pub(super) fn get_status(guest: &mut Guest, code_to: u32, pointer_to: u32, size_to: u32) -> Done {
    let (code, message) = guest.root().map(|(_, root)| root.status.clone()).unwrap_or_default();
    guest.write_word(code_to, code)?;
    guest.give(message.as_bytes(), pointer_to, size_to)
}
