//! Small filters in WebAssembly text, one for each rule.

#![allow(dead_code, reason = "each test file uses a part")]

pub(crate) mod burst;
pub(crate) mod issuer;

use std::fmt::Write as _;
use std::path::PathBuf;

use mock_host::{Builder, Exchange, Log, Plugin, Proxy};

/// Calls that every small filter imports: their names without `proxy_`, parameters, result.
const IMPORTS: [(&str, &str); 30] = [
    ("log", "i32 i32 i32"),
    ("get_status", "i32 i32 i32"),
    ("set_property", "i32 i32 i32 i32"),
    ("get_property", "i32 i32 i32 i32"),
    ("send_local_response", "i32 i32 i32 i32 i32 i32 i32 i32"),
    ("get_shared_data", "i32 i32 i32 i32 i32"),
    ("set_shared_data", "i32 i32 i32 i32 i32"),
    ("get_header_map_value", "i32 i32 i32 i32 i32"),
    ("add_header_map_value", "i32 i32 i32 i32 i32"),
    ("replace_header_map_value", "i32 i32 i32 i32 i32"),
    ("remove_header_map_value", "i32 i32 i32"),
    ("get_header_map_pairs", "i32 i32 i32"),
    ("get_header_map_size", "i32 i32"),
    ("get_buffer_bytes", "i32 i32 i32 i32 i32"),
    ("set_buffer_bytes", "i32 i32 i32 i32 i32"),
    ("http_call", "i32 i32 i32 i32 i32 i32 i32 i32 i32 i32"),
    ("grpc_call", "i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32"),
    ("set_tick_period_milliseconds", "i32"),
    ("get_current_time_nanoseconds", "i32"),
    ("define_metric", "i32 i32 i32 i32"),
    ("increment_metric", "i32 i64"),
    ("record_metric", "i32 i64"),
    ("get_metric", "i32 i32"),
    ("set_effective_context", "i32"),
    ("done", ""),
    ("call_foreign_function", "i32 i32 i32 i32 i32 i32"),
    ("continue_stream", "i32"),
    ("close_stream", "i32"),
    ("get_buffer_status", "i32 i32 i32"),
    ("get_log_level", "i32"),
];

/// A module with the imports, an allocator and helpers around `body`.
///
/// In `body`, `'text'` stands for a pointer and a length, with `\0` for a zero byte. Helpers: `$out` is where
/// a call leaves a pointer (16) and a size (20): write it as `(i32.const 16) (i32.const 20)`, or `@out`.
/// `(call $tell)` logs those bytes, `(call $say X)` logs a number, `(call $note 'text')` logs a text.
pub(crate) fn module(body: &str) -> Vec<u8> {
    let mut imports = String::new();
    for (name, parameters) in IMPORTS {
        writeln!(
            imports,
            r#"(import "env" "proxy_{name}" (func ${name} (param {parameters}) (result i32)))"#
        )
        .unwrap();
    }
    let mut data = String::new();
    let mut at = 4096;
    let mut code = String::new();
    for (index, part) in body.split('\'').enumerate() {
        if index % 2 == 0 {
            code.push_str(&part.replace("@out", "(i32.const 16) (i32.const 20)"));
            continue;
        }
        let bytes = part.replace("\\0", "\0");
        let escaped: String = bytes.bytes().fold(String::new(), |mut out, byte| {
            write!(out, "\\{byte:02x}").unwrap();
            out
        });
        writeln!(data, r#"(data (i32.const {at}) "{escaped}")"#).unwrap();
        write!(code, "(i32.const {at}) (i32.const {})", bytes.len()).unwrap();
        at += bytes.len() + 1;
    }
    let text = format!(
        r#"(module
        {imports}
        (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
        (memory (export "memory") 4)
        (global $heap (mut i32) (i32.const 65536))
        {data}
        (func (export "proxy_abi_version_0_2_1"))
        (func (export "_initialize"))
        (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
          (local $at i32)
          (local.set $at (global.get $heap))
          (global.set $heap (i32.add (global.get $heap) (local.get $size)))
          (local.get $at))
        (func $note (param i32 i32) (drop (call $log (i32.const 2) (local.get 0) (local.get 1))))
        (func $tell (call $note (i32.load (i32.const 16)) (i32.load (i32.const 20))))
        (func $say (param $number i32)
          (local $at i32)
          (local.set $at (i32.const 64))
          (loop $digit
            (local.set $at (i32.sub (local.get $at) (i32.const 1)))
            (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $number) (i32.const 10))))
            (local.set $number (i32.div_u (local.get $number) (i32.const 10)))
            (br_if $digit (local.get $number)))
          (call $note (local.get $at) (i32.sub (i32.const 64) (local.get $at))))
        {code})"#
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// A callback of a stream that runs `code` and answers `status`.
pub(crate) fn on_request(code: &str, status: u32) -> String {
    format!(
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) {code} (i32.const {status}))"#
    )
}

/// As [`on_request`], for the response.
pub(crate) fn on_response(code: &str, status: u32) -> String {
    format!(
        r#"(func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) {code} (i32.const {status}))"#
    )
}

/// The body of `proxy_on_configure`, accepting.
pub(crate) fn on_configure(code: &str) -> String {
    format!(r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) {code} (i32.const 1))"#)
}

/// A plugin of one small filter.
pub(crate) fn plugin(name: &str, body: &str) -> Plugin {
    Plugin::from_bytes(name, module(body))
}

/// One of the filters that `make filters` has built.
pub(crate) fn built(filter: &str, configuration: &str) -> Plugin {
    let module =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../../target/filters/{filter}.wasm"));
    Plugin::new(filter, module).configuration(configuration)
}

/// A proxy with one worker and one small filter.
pub(crate) fn proxy(body: &str) -> Proxy {
    started(Proxy::builder().plugin(plugin("filter", body)))
}

/// Starts a proxy that must start.
pub(crate) fn started(builder: Builder) -> Proxy {
    builder.build().unwrap_or_else(|rejected| panic!("{rejected}"))
}

/// What an exchange's filters logged.
pub(crate) fn said(exchange: &Exchange) -> Vec<&str> {
    messages(&exchange.logs)
}

/// The texts of logs.
pub(crate) fn messages(logs: &[Log]) -> Vec<&str> {
    logs.iter().map(|log| log.message.as_str()).collect()
}
