//! The end-to-end cases: data in `testdata/cases/**/*.yaml`, run by one runner on every host.
//!
//! A host is a proxy with the built filters: the mock host and real Envoy, so that the two can't drift.
//! `testdata/cases/README.md` documents the format.
#![allow(clippy::restriction)]

mod check;
mod envoy_host;
mod harness;
mod host;
mod schema;
mod tokens;
mod values;

pub use check::{Failure, Minted, Observed, run};
pub use envoy_host::{EnvoyHost, Form, ISSUER_CLUSTERS, LIMIT_CLUSTERS};
pub use harness::{main, trial};
pub use host::{Exchange, Filter, Host, HostError, Proxy, Setup, module, native_module};
pub use schema::{Case, LoadError, load, load_all, parse};
pub use tokens::{KEYS, Token, TokenError, Tokens, public_keys};

use std::path::PathBuf;

/// The root of the repository.
pub fn repository() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
