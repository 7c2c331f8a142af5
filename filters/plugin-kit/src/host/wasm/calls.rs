//! Every host call that the filters make. Nothing else in the project calls the host.
//!
//! The functions of the SDK panic on a status that they do not expect, which kills the VM and with it every stream of
//! the worker; these return it as a [`HostError`](crate::host::HostError). They also take arguments in serialised form and hand
//! buffers over without copying them into strings.
#![allow(unsafe_code)]

mod answer;
mod callouts;
mod environment;
mod exchange;
mod log;
mod metrics;
mod shared;
mod stream;
mod ticks;

pub use answer::call_foreign_function;
pub use callouts::{call_response_body, grpc_call, grpc_message, http_call};
pub use environment::{HostEnvironment, declare_variables, plugin_name};
pub use exchange::{Headers, WasmHost, monotonic_time, random, set_filter_state};
pub use metrics::{Counter, Gauge};
pub use shared::{set_shared_data, shared_data};
pub use stream::{enter_stream, set_effective_context};

pub(super) use callouts::{call_response_head, grpc_status_text};
pub(super) use environment::plugin_configuration;
pub(super) use log::start_log;
pub(super) use stream::{reset_stream, resume_request, send_reply};
pub(super) use ticks::{set_tick_period, start_ticks, tick};
