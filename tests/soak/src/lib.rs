//! The soak: real Envoy with the filters for minutes, with a judge beside every request.
//!
//! This library is what the judge knows, without a proxy: [`plan`] says what each version of the
//! configuration holds, [`world`] what happened around the proxy, [`model`] what may then become of a
//! request, and [`judge`] compares. The program (`main.rs`) starts the proxy, the servers, the clients and
//! the troubles.

#![allow(clippy::restriction)]

pub mod judge;
pub mod model;
pub mod plan;
pub mod random;
pub mod world;
