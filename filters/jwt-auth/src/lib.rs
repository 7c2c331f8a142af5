//! jwt-auth: lets requests in by JSON Web Tokens.
//!
//! [`config`] is what an operator writes. [`decision`] goes from a request to a decision: it finds and
//! verifies a [`token`] with the [`keys`] of its issuer, which are known or have to be fetched ([`fetch`]),
//! and asks the rules ([`policy`]). [`reply`] is what a client gets whose request is refused. `plugin`
//! carries decisions out in the proxy, and `metrics` counts them.
#![cfg_attr(test, allow(clippy::restriction))]

pub mod config;
pub mod decision;
pub mod fetch;
pub mod keys;
#[cfg(any(target_os = "wasi", feature = "native"))]
mod metrics;
#[cfg(any(target_os = "wasi", feature = "native"))]
pub mod plugin;
pub mod policy;
pub mod reply;
pub mod token;

#[cfg(all(target_os = "wasi", feature = "module"))]
#[allow(missing_docs, unreachable_pub)]
mod entry {
    plugin_kit::module!(super::plugin::JwtAuth);
}
