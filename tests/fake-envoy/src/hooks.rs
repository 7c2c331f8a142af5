//! The functions of the module that the proxy calls.

use std::ffi::c_void;

use super::{Buffer, Given, Header};

type Module = *const c_void;

macro_rules! hooks {
    ($($name:ident = $hook:literal($($argument:ident: $type:ty),*) $(-> $answer:ty)?;)*) => {
        unsafe extern "C" {
            $(#[link_name = $hook] pub(super) fn $name($($argument: $type),*) $(-> $answer)?;)*
        }
    };
}

hooks! {
    config_new = "envoy_dynamic_module_on_http_filter_config_new"(given: Given, name: Buffer, json: Buffer) -> Module;
    config_destroy = "envoy_dynamic_module_on_http_filter_config_destroy"(module: Module);
    config_scheduled = "envoy_dynamic_module_on_http_filter_config_scheduled"(given: Given, module: Module, event: u64);
    callout_done = "envoy_dynamic_module_on_http_filter_config_http_callout_done"(given: Given, module: Module, id: u64, result: u32, headers: *const Header, count: usize, chunks: *const Buffer, chunk_count: usize);
    stream_headers = "envoy_dynamic_module_on_http_filter_config_http_stream_headers"(given: Given, module: Module, id: u64, headers: *const Header, count: usize, end: bool);
    stream_data = "envoy_dynamic_module_on_http_filter_config_http_stream_data"(given: Given, module: Module, id: u64, chunks: *const Buffer, count: usize, end: bool);
    stream_trailers = "envoy_dynamic_module_on_http_filter_config_http_stream_trailers"(given: Given, module: Module, id: u64, trailers: *const Header, count: usize);
    stream_complete = "envoy_dynamic_module_on_http_filter_config_http_stream_complete"(given: Given, module: Module, id: u64);
    stream_reset = "envoy_dynamic_module_on_http_filter_config_http_stream_reset"(given: Given, module: Module, id: u64, reason: u32);
    stream_new = "envoy_dynamic_module_on_http_filter_new"(module: Module, given: Given) -> Module;
    stream_destroy = "envoy_dynamic_module_on_http_filter_destroy"(stream: Module);
    request_headers = "envoy_dynamic_module_on_http_filter_request_headers"(given: Given, stream: Module, end: bool) -> u32;
    request_body = "envoy_dynamic_module_on_http_filter_request_body"(given: Given, stream: Module, end: bool) -> u32;
    request_trailers = "envoy_dynamic_module_on_http_filter_request_trailers"(given: Given, stream: Module) -> u32;
    response_headers = "envoy_dynamic_module_on_http_filter_response_headers"(given: Given, stream: Module, end: bool) -> u32;
    response_body = "envoy_dynamic_module_on_http_filter_response_body"(given: Given, stream: Module, end: bool) -> u32;
    response_trailers = "envoy_dynamic_module_on_http_filter_response_trailers"(given: Given, stream: Module) -> u32;
    complete = "envoy_dynamic_module_on_http_filter_stream_complete"(given: Given, stream: Module);
    scheduled = "envoy_dynamic_module_on_http_filter_scheduled"(given: Given, stream: Module, event: u64);
}
