//! The filters' own parsers without a proxy, which the command line and the tests of the manifests share.
#![allow(clippy::restriction)]

pub mod decide;
pub mod filters;
