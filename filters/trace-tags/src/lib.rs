//! trace-tags: user, request and version on spans and in access logs.
#![cfg_attr(test, allow(clippy::restriction))]
//!
//! Tags are written as filter state (`wasm.tag.<name>`), which no client and no service sees; Envoy's tracing
//! and access logs read it from there. The sources of a tag decide when it is known: when the request
//! arrives, when a later filter has verified claims, or when the response passes. A tag is written as soon as
//! nothing can change it any more, so that a stream that ends early carries what was known. [`config`] reads
//! what an operator writes, [`decision`] decides what is done in each phase of a stream, and [`tags`] has
//! what a tag is. `metrics` is what the operator sees, and `plugin` is the shell between these and the proxy.

pub mod config;
pub mod decision;
#[cfg(any(target_os = "wasi", feature = "native"))]
mod metrics;
#[cfg(any(target_os = "wasi", feature = "native"))]
pub mod plugin;
pub mod tags;

#[cfg(all(target_os = "wasi", feature = "module"))]
#[allow(missing_docs, unreachable_pub)]
mod entry {
    plugin_kit::module!(super::plugin::TraceTags);
}
