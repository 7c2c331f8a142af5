//! The mock host's own tests, and the filters' modules in it, as one program: each program of tests links the
//! WebAssembly runtime.
#![allow(clippy::restriction)]

mod bursts;
mod callouts;
mod clocks;
mod config_warnings;
mod counters;
mod faults;
mod filters_under_faults;
mod forgotten;
mod headers;
mod known_tokens;
mod lifecycle;
mod limit_service;
mod limits_of_workers;
mod opaque_tokens;
mod properties;
mod shared;
mod streams;
#[path = "../support/mod.rs"]
mod support;
