//! HTTP and gRPC calls to other services.

use std::time::Duration;

use proxy_wasm::types::{BufferType, MapType};

use super::answer::{Answer, buffer, bytes, done, head};
use super::stream::set_effective_context;
use crate::host::GrpcMethod;
use crate::host::wasm::abi;
use crate::request::headers::HeaderMap;

/// A header list in the serialised form of the ABI.
fn serialised(headers: &[(&str, &str)]) -> Vec<u8> {
    HeaderMap::from_pairs(headers.iter().copied()).into_raw()
}

/// Starts a call as the context `caller` and returns its token; afterwards `current` is the effective context again. `start`
/// is given the timeout in milliseconds and the place of the token.
fn call_as(
    caller: u32,
    current: u32,
    call: &'static str,
    timeout: Duration,
    start: impl FnOnce(u32, *mut u32) -> u32,
) -> Answer<u32> {
    let timeout = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    let mut token = 0_u32;
    set_effective_context(caller)?;
    let status = start(timeout, &raw mut token);
    set_effective_context(current)?;
    done(call, status).map(|()| token)
}

/// Starts an HTTP call as the context `caller` and returns its token; afterwards `current` is the effective context
/// again. A call of a stream's context ends with the stream, one of the root context does not.
///
/// # Errors
/// With Envoy `BadArgument` (2) where there is no such cluster, or `:method`, `:path` or `:authority` is missing.
pub fn http_call(
    caller: u32,
    current: u32,
    cluster: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    timeout: Duration,
) -> Answer<u32> {
    let (headers, trailers) = (serialised(headers), serialised(&[]));
    // SAFETY: all buffers and the pointer are live for the call.
    call_as(caller, current, "http_call", timeout, |timeout, token| unsafe {
        abi::proxy_http_call(
            cluster.as_ptr(),
            cluster.len(),
            headers.as_ptr(),
            headers.len(),
            body.as_ptr(),
            body.len(),
            trailers.as_ptr(),
            trailers.len(),
            timeout,
            token,
        )
    })
}

/// Starts a unary gRPC call with a serialised message, as [`http_call`] does. Its token may be that of an HTTP call too.
///
/// # Errors
/// With Envoy `InternalFailure` (10) where there is no such cluster, or no host in it that could be asked.
pub fn grpc_call(
    caller: u32,
    current: u32,
    to: GrpcMethod<'_>,
    message: &[u8],
    timeout: Duration,
) -> Answer<u32> {
    let metadata = serialised(&[]);
    // SAFETY: all buffers and the pointer are live for the call.
    call_as(caller, current, "grpc_call", timeout, |timeout, token| unsafe {
        abi::proxy_grpc_call(
            to.via.as_ptr(),
            to.via.len(),
            to.service.as_ptr(),
            to.service.len(),
            to.method.as_ptr(),
            to.method.len(),
            metadata.as_ptr(),
            metadata.len(),
            message.as_ptr(),
            message.len(),
            timeout,
            token,
        )
    })
}

/// At most `max` bytes of the message that a gRPC call was answered with, in its callback.
pub fn grpc_message(max: usize) -> Answer<Vec<u8>> {
    bytes(BufferType::GrpcReceiveBuffer, max).map(Option::unwrap_or_default)
}

/// What came with the status of a gRPC call that failed, in its callback.
pub(crate) fn grpc_status_text() -> Vec<u8> {
    let mut status = 0_u32;
    // SAFETY: the three pointers are live for the call.
    let text = buffer("get_status", |data, len| unsafe { abi::proxy_get_status(&raw mut status, data, len) });
    text.ok().flatten().unwrap_or_default()
}

/// The headers of the response to an HTTP call, in its callback.
pub(crate) fn call_response_head() -> Answer<HeaderMap> {
    head(MapType::HttpCallResponseHeaders)
}

/// At most `max` bytes of the body of the response to an HTTP call, in its callback.
pub fn call_response_body(max: usize) -> Answer<Vec<u8>> {
    bytes(BufferType::HttpCallResponseBody, max).map(Option::unwrap_or_default)
}
