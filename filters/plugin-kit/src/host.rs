//! The seam between a filter and its host: what a core may ask, what a shell must offer, and what a host module must export.
//! Whoever adds a host beside [`wasm`] needs nothing but this page and the items that it names.
//!
//! A filter has a core, which decides, and a shell (`plugin.rs`), which carries the decision out. The core is plain Rust and does
//! not know which host it has. The shell knows that there is one, but not which.
//!
//! # What a core may ask
//! - While it decides about a request: [`RequestHost`], by way of an [`Exchange`](crate::request::exchange::Exchange).
//! - While it reads a configuration: [`Environment`].
//!
//! Both fail with a [`HostError`], and the filters fail closed on it. Tests implement both with the tables in
//! [`testing`](crate::testing).
//!
//! # What a shell offers its host
//! It implements [`Filter`]. The host makes one value of it for each configuration and each worker, on one thread. Its methods take
//! `&self` and no method holds a borrow while it calls the host, so a host may call the filter from within a call that the filter
//! made.
//!
//! # What a host module exports
//! Shells use these names as `plugin_kit::host::NAME`. A host module exports all of them, with the signatures that they have in
//! [`wasm`], and this file re-exports those of one host, chosen by `cfg`. `Result` stands for one with a [`HostError`].
//!
//! | Name | What it does |
//! |---|---|
//! | `HostEnvironment` | A unit struct that implements [`Environment`], for use in [`Filter::configure`]. |
//! | `declare_variables() -> Result<()>` | Tells the host's CEL the types of the variables [`CLAIMS`](crate::request::cel::CLAIMS), a `google.protobuf.Struct`, and [`TEXT`](crate::request::cel::TEXT), a string. Called in `configure`. |
//! | `plugin_name() -> Vec<u8>` | The name of the plugin that is being configured; empty if it has none. |
//! | `random() -> Result<[u8; 16]>` | Random bytes that nobody can predict. |
//! | `monotonic_time() -> Result<Duration>` | The clock of [`RequestHost::monotonic_time`], in any callback. |
//! | `Headers::{Request, Response}` | The header map of the current stream. `set(name, value)` replaces every value, `add(name, value)` adds one, `remove(name)` removes every value, `first(name)` returns the first. `remove` fails if the host has no such header: the filter has seen it, so it would go on to the service. |
//! | `set_filter_state(key, value) -> Result<()>` | Writes the filter state `wasm.<key>` of the current stream. It shows in access logs, and [`RequestHost::property`] with the path `[key]` reads it. |
//! | `Counter::define(name)`, `increment()`, `add(n)` | A counter. Defining the same name again gives the same counter. None of these fails: a lost count is not worth a failed request. |
//! | `Gauge::define(name)`, `set(value)` | A gauge, likewise. |
//! | `shared_data(key) -> Result<Option<SharedValue>>` | Reads the data that all workers share, see [`SharedValue`]. |
//! | `set_shared_data(key, bytes, cas) -> Result<bool>` | Writes shared data if it still has this `cas`, or whatever it has if `cas` is 0. `false` says that somebody else has written it. |
//! | `http_call(caller, current, cluster, headers, body, timeout) -> Result<u32>` | Starts an HTTP call and returns its token. [`Filter::on_call`] gets the outcome exactly once. `caller` is the root or the stream whose end cancels the call, `current` the one whose callback is running. |
//! | `call_response_body(max) -> Result<Vec<u8>>` | In `on_call`: at most `max` bytes of the body. |
//! | `grpc_call(caller, current, to, message, timeout) -> Result<u32>` | The same for a unary gRPC call of a [`GrpcMethod`]; [`Filter::on_grpc`] gets the outcome. Its token may be equal to that of an HTTP call. |
//! | `grpc_message(max) -> Result<Vec<u8>>` | In `on_grpc`: at most `max` bytes of the message. |
//! | `set_effective_context(context) -> Result<()>` | Makes the following calls act on that stream or root. |
//! | `enter_stream(context) -> bool` | The same for a stream; `false` if that has ended, so that it must be neither resumed nor answered. |
//! | `call_foreign_function(name, argument) -> Result<Vec<u8>>` | Calls a function that only some hosts have, such as Envoy's `verify_signature`. A host without it fails with [`HostError::NOT_FOUND`], and the filter does the work itself. |
//!
//! A host module also sends the records of the `log` crate to the proxy's log, and has an entry point that takes the type of the
//! filter (for Proxy-Wasm the macro [`module!`](crate::module)).
//!
//! # What a host must do with a filter
//! [`wasm::dispatcher`] does this for Proxy-Wasm:
//!
//! 1. *Configure.* It reads the pluginConfig with [`config::document`](crate::config::document) and calls [`Filter::configure`]. On an
//!    error it logs the error and keeps the configuration that is in force. On success it sets the gauge
//!    [`config_hash_metric`](crate::config::config_hash_metric) to the [`fingerprint`](crate::config::fingerprint) of the document and
//!    [`config_warnings_metric`](crate::config::config_warnings_metric) to the number of [`Filter::warnings`], logs each of
//!    these, sets [`report_mode_metric`](crate::config::report_mode_metric), sets the gauge [`build_info_metric`](crate::config::build_info_metric) to the time, and starts the timer. Streams
//!    keep the filter with which they began.
//! 2. *Request headers.* It calls [`Filter::on_request`] with a new [`Filter::Stream`] and does what the [`Flow`] says. If there is no
//!    configuration, it denies the request with 503. If a denial cannot be sent, it resets the stream: no request goes on unless
//!    the answer was [`Flow::Continue`].
//! 3. *Paused streams.* When `on_tick`, `on_call` or `on_grpc` names a stream, the host runs `on_request` for it again and resumes it on
//!    `Continue`. If the stream has ended meanwhile, the host calls [`Filter::on_gone`] instead. Every named stream gets
//!    exactly one of the two. A host may spread many streams over several ticks of [`SHORT_TICK`]. One that shares the answers to calls
//!    between threads names them in `on_call_elsewhere`.
//! 4. *Response and end.* For a stream that [`Filter::keeps`] it calls [`Filter::on_response`] when the response headers pass, also
//!    those of a local reply, and [`Filter::on_end`] before the access log is written.
//! 5. *Timer.* It calls [`Filter::on_tick`] every [`TICK`]. If [`Filter::ticks_at_once`], the first tick comes after [`SHORT_TICK`].
//! 6. *Composed filters.* If [`Filter::COMPOSED`], the `Exchange` of each callback continues with what was published in the one before
//!    ([`Exchange::continued`](crate::request::exchange::Exchange::continued)). Otherwise it is
//!    [`Exchange::alone`](crate::request::exchange::Exchange::alone).

mod ask;
pub mod cluster;
pub mod filter;
#[cfg(any(target_os = "wasi", all(feature = "native", not(target_family = "wasm"))))]
mod logger;
#[cfg(all(feature = "native", not(target_family = "wasm")))]
pub mod native;
#[cfg(any(target_os = "wasi", test))]
pub mod wasm;

pub use ask::{
    Environment, GrpcMethod, HostError, RequestHost, SHARED_DATA_BYTES, SharedValue, Variable,
    shared_value_size,
};
pub use filter::{CallResponse, ElsewhereCall, Filter, Flow, GrpcFailure, NOT_SENT, SHORT_TICK, TICK};
#[cfg(all(feature = "native", not(target_family = "wasm")))]
pub use native::calls::{
    Counter, Gauge, Headers, HostEnvironment, call_foreign_function, call_response_body, declare_variables,
    enter_stream, grpc_call, grpc_message, http_call, monotonic_time, plugin_name, random,
    set_effective_context, set_filter_state, set_shared_data, shared_data,
};
#[cfg(target_os = "wasi")]
pub use wasm::calls::{
    Counter, Gauge, Headers, HostEnvironment, call_foreign_function, call_response_body, declare_variables,
    enter_stream, grpc_call, grpc_message, http_call, monotonic_time, plugin_name, random,
    set_effective_context, set_filter_state, set_shared_data, shared_data,
};
