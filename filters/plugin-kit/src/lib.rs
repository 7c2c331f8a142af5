//! What more than one filter needs, and nothing else.
#![cfg_attr(test, allow(clippy::restriction))]
//!
//! The cores of the filters are functions of (configuration, [`request::exchange::Exchange`], now); they and most of this crate
//! name no host. [`host`] is the seam: what a core may ask, and what a shell does for it.

pub mod config;
pub mod hash;
pub mod host;
pub mod reply;
pub mod request;
pub mod testing;
pub mod trace;
pub mod wire;
