//! mesh-filters: trace-tags, jwt-auth and rate-limit in one module and one HTTP context.
#![cfg_attr(test, allow(clippy::restriction))]
//!
//! Same configuration, same results as the three plugins in a row, and less work: a proxy enters one module
//! in the place of three for every callback, headers are read once, and verified claims pass in memory. There
//! is no logic here but the order.

pub mod config;
#[cfg(any(target_os = "wasi", feature = "native"))]
pub mod plugin;

#[cfg(all(target_os = "wasi", feature = "module"))]
#[allow(missing_docs, unreachable_pub)]
mod entry {
    plugin_kit::module!(super::plugin::MeshFilters);
}
