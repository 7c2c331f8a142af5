//! rate-limit: limits requests in the proxy, exactly over all of its workers, all or nothing over several
//! limits, in fixed memory.
#![cfg_attr(test, allow(clippy::restriction))]
//!
//! [`config`] reads what an operator writes. [`decision`] finds the limits that count a request, by which
//! [`keys`], and decides what becomes of it. [`limits`] has the algorithm and the state. A rate limit service
//! ([`service`]) counts over several proxies. [`reply`] is what a client sees, and `metrics` what the
//! operator sees. `plugin` is the shell between these and the proxy.

pub mod config;
pub mod decision;
pub mod keys;
pub mod limits;
#[cfg(any(target_os = "wasi", feature = "native"))]
mod metrics;
#[cfg(any(target_os = "wasi", feature = "native"))]
pub mod plugin;
pub mod reply;
pub mod service;
pub mod testing;

#[cfg(all(target_os = "wasi", feature = "module"))]
#[allow(missing_docs, unreachable_pub)]
mod entry {
    plugin_kit::module!(super::plugin::RateLimit);
}
