//! Rate limits in the proxy: exact over all of its workers, all or nothing over several limits, in fixed memory.
#![cfg_attr(test, allow(clippy::restriction))]
//!
//! [`config`] is what a user writes. [`decision`] says which limits count a request, by which [`keys`], and what becomes of it.
//! [`limits`] has the algorithm and the state. Limits over several proxies are asked of a rate limit service ([`service`]).
//! [`reply`] is what a client learns. `plugin` carries decisions out.

pub mod config;
pub mod decision;
pub mod keys;
pub mod limits;
#[cfg(target_os = "wasi")]
mod metrics;
#[cfg(target_os = "wasi")]
pub mod plugin;
pub mod reply;
pub mod service;
pub mod testing;

#[cfg(all(target_os = "wasi", feature = "module"))]
#[allow(missing_docs, unreachable_pub)]
mod entry {
    plugin_kit::module!(super::plugin::RateLimit);
}
