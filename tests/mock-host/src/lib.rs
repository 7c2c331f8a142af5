//! A Proxy-Wasm host for tests: it runs a built filter as Envoy does, in one thread and without a clock of
//! its own.
//!
//! A test gives state (plugins, clusters, a clock, a request) and asserts on the [`Exchange`]: what the
//! client got, what the service saw, filter state, metrics, logs. It never scripts host calls.
//!
//! The rules are those of Envoy (`source/extensions/common/wasm/`) and proxy-wasm-cpp-host (`src/`); comments
//! name the function that each comes from. What Envoy lacks, this host lacks: a module with another import is
//! refused.
//!
//! ```
//! use mock_host::{Plugin, Proxy, Request, Response};
//!
//! // A filter that answers every request for itself: 403, no body.
//! let wasm = wat::parse_str(r#"
//!     (module
//!       (import "env" "proxy_send_local_response"
//!         (func $reply (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
//!       (memory (export "memory") 1)
//!       (func (export "proxy_abi_version_0_2_1"))
//!       (func (export "_initialize"))
//!       (func (export "malloc") (param i32) (result i32) i32.const 1024)
//!       (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
//!         (drop (call $reply (i32.const 403) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
//!           (i32.const 0) (i32.const 0) (i32.const -1)))
//!         i32.const 1))
//! "#).unwrap();
//!
//! let proxy = Proxy::builder()
//!     .workers(2)
//!     .plugin(Plugin::from_bytes("deny", wasm))
//!     .upstream(|_| Response::new(200).body("hello"))
//!     .build()
//!     .unwrap();
//! let exchange = proxy.worker(0).request(Request::get("/").header("x-user", "alice"));
//! assert_eq!(exchange.status, 403);
//! assert_eq!(exchange.upstream, None);
//! assert_eq!(exchange.calls("proxy_send_local_response"), 1);
//! ```
//!
//! What harms Envoy itself panics here, with the reason: two local replies or a resume within one response
//! callback, a local reply while the stream is logged.
//!
//! What is not here: bodies in more than one piece (and the service sees a request only after its body has
//! passed the filters), trailers, gRPC streams, `proxy_on_queue_ready`, TCP. `tests/same_as_envoy.rs` runs
//! small filters here and in real Envoy and compares what shows.
#![allow(clippy::restriction)]

mod foreign;
mod host;
mod imports;
mod properties;
mod proxy;
mod stream;
mod vm;

pub use host::callouts::{Answer, CalloutRequest};
pub use host::faults::Fault;
pub use host::logs::{Level, Log};
pub use properties::{Connection, Route, Value};
pub use proxy::{Builder, FailurePolicy, Plugin, Proxy, Rejected, StreamHandle, Worker};
pub use stream::exchange::{Exchange, Outcome, Request, Response, UpstreamRequest};
pub use stream::headers::HeaderMap;
pub use vm::abi::Status;
