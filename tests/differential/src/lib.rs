//! The same requests on every host.
//!
//! [`MockHost`] and [`CommandLine`] are hosts of cases; a real Envoy is in the crate `cases`.
#![allow(clippy::restriction)]

mod command_line;
mod mock;

pub use command_line::CommandLine;
pub use mock::MockHost;
