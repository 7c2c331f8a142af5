//! What more than one filter needs, and nothing else.
#![cfg_attr(test, allow(clippy::restriction))]
//!
//! The cores of the filters are functions of (configuration, [`exchange::Exchange`], now); they and most of this crate
//! name no host. [`host`] makes every host call and [`plugin`] receives every callback; both exist only where a proxy
//! is on the other side (`wasm32-wasip1`).

pub mod address;
#[cfg(any(target_os = "wasi", test))]
mod allocator;
pub mod bytes;
pub mod cel;
pub mod claim;
pub mod config;
#[cfg(any(target_os = "wasi", test))]
mod counts;
pub mod denial;
pub mod environment;
pub mod exchange;
pub mod head;
#[cfg(target_os = "wasi")]
pub mod host;
pub mod json;
pub mod matcher;
pub mod path;
pub mod path_index;
#[cfg(target_os = "wasi")]
pub mod plugin;
pub mod protobuf;
pub mod reply;
pub mod secret;
pub mod source;
pub mod testing;
