//! Starts real Envoy as a sidecar for tests and the demonstration, with the servers around it.
//!
//! - [`Envoy`] is a running process. Every port is chosen by the kernel on 127.0.0.1, and the process and
//!   its files go away with the value, with a panic and with the death of this process.
//! - [`Bootstrap`] and [`Listener`] say how it is configured, in the shape of an Istio sidecar.
//! - [`Upstream`], [`JwksServer`], [`RateLimitService`] and [`SpanCollector`] are the servers around it;
//!   [`Request::send`] is a client that can send what well-behaved clients can't.
//!
//! [`Daemon`] is any other program that a test starts.
//!
//! The binary is `$ENVOY_BIN`, or `.tools/envoy/$ENVOY_VERSION/envoy` in the repository
//! (the version in `tools/versions` unless said).
#![allow(clippy::restriction)]

mod client;
mod config;
mod daemon;
mod process;
pub mod rate_limit;
mod server;
mod spans;
mod wait;

pub use client::{Burst, ClientError, Protocol, Request, Response};
pub use config::{
    AccessLog, Bootstrap, Cluster, Delivery, Endpoint, FailurePolicy, HttpFilter, Listener, Node, Role,
    Tracing, Wasm,
};
pub use daemon::Daemon;
pub use process::{Envoy, Error, binary};
pub use rate_limit::{RateLimitAnswer, RateLimitService};
pub use server::{Answer, Gate, JwksServer, Received, Server, Upstream};
pub use spans::{Span, SpanCollector};
pub use wait::{TimedOut, wait_for};

use std::sync::OnceLock;

/// Headers in the order in which they came, duplicates included.
pub type Headers = Vec<(String, String)>;

/// The values of every header of that name, in order; names are compared without case.
pub fn values<'a>(headers: &'a Headers, name: &str) -> Vec<&'a str> {
    headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
}

/// The runtime that the helper servers share.
fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime for the helper servers")
    })
}
