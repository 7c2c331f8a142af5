//! Rate limits in the proxy: exact over all of its workers, all or nothing over several limits, in fixed memory.
#![cfg_attr(test, allow(clippy::restriction))]
//!
//! [`gcra`] is the algorithm, [`slots`] keeps the state of all keys in shared data, [`limiter`] charges several limits
//! at once and lets a worker work ahead, [`filter`] decides about a request. Limits over several proxies are asked of a
//! service: [`protocol`] has its messages, [`global`] is what a worker remembers of it. `plugin` ties
//! them to the proxy.

pub mod config;
pub mod cost;
pub mod filter;
pub mod gcra;
pub mod global;
pub mod key;
pub mod limiter;
#[cfg(target_os = "wasi")]
pub mod plugin;
pub mod protocol;
pub mod reply;
pub mod slots;
pub mod testing;

#[cfg(all(target_os = "wasi", feature = "module"))]
#[allow(missing_docs, unreachable_pub)]
mod entry {
    proxy_wasm::main!({ plugin_kit::plugin::start::<super::plugin::RateLimit>() });
}
