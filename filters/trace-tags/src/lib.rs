//! trace-tags: user, request and version on spans and in access logs.
#![cfg_attr(test, allow(clippy::restriction))]
//!
//! Tags are written as filter state (`wasm.tag.<name>`), which no client and no service sees; Envoy's tracing and
//! access logs read it from there. Where a tag comes from ends when it is known: the request itself, the claims that a
//! later filter verifies, or the response. A tag is written as soon as nothing can change it any more, so that a stream
//! that ends early carries what was known.
//!
//! [`config`] is what a user writes, [`decision`] says what is to be done at each moment of a stream, and [`tags`] has what a tag
//! is. `plugin` carries decisions out.

pub mod config;
pub mod decision;
#[cfg(target_os = "wasi")]
mod metrics;
#[cfg(target_os = "wasi")]
pub mod plugin;
pub mod tags;

#[cfg(all(target_os = "wasi", feature = "module"))]
#[allow(missing_docs, unreachable_pub)]
mod entry {
    plugin_kit::module!(super::plugin::TraceTags);
}
