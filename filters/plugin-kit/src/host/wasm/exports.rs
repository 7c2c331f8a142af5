//! The exports. Each is renamed to `proxy_on_…` where a filter uses it, and dropped where not.
#![allow(unsafe_code)]

use proxy_wasm::types::Action;

use super::dispatcher::with_module;

#[unsafe(export_name = "kit_on_context_create")]
extern "C" fn context_create(context: u32, root: u32) {
    with_module(|module| module.context_create(context, root));
}

#[unsafe(export_name = "kit_on_vm_start")]
extern "C" fn vm_start(_root: u32, _size: usize) -> bool {
    true
}

#[unsafe(export_name = "kit_on_configure")]
extern "C" fn configure(root: u32, size: usize) -> bool {
    with_module(|module| module.configure(root, size)).unwrap_or(false)
}

#[unsafe(export_name = "kit_on_request_headers")]
extern "C" fn request_headers(context: u32, _count: usize, _end_of_stream: bool) -> Action {
    with_module(|module| module.request_headers(context)).unwrap_or(Action::Pause)
}

#[unsafe(export_name = "kit_on_response_headers")]
extern "C" fn response_headers(context: u32, _count: usize, _end_of_stream: bool) -> Action {
    with_module(|module| module.response_headers(context));
    Action::Continue
}

#[unsafe(export_name = "kit_on_log")]
extern "C" fn log(context: u32) {
    with_module(|module| module.end(context));
}

#[unsafe(export_name = "kit_on_tick")]
extern "C" fn tick(root: u32) {
    with_module(|module| module.tick(root));
}

#[unsafe(export_name = "kit_on_http_call_response")]
extern "C" fn http_call_response(root: u32, token: u32, headers: usize, body: usize, _trailers: usize) {
    with_module(|module| module.http_call_response(root, token, headers, body));
}

#[unsafe(export_name = "kit_on_grpc_receive")]
extern "C" fn grpc_receive(root: u32, token: u32, size: usize) {
    with_module(|module| module.grpc_reply(root, token, Ok(size)));
}

#[unsafe(export_name = "kit_on_grpc_close")]
extern "C" fn grpc_close(root: u32, token: u32, status: u32) {
    with_module(|module| module.grpc_reply(root, token, Err(status)));
}
