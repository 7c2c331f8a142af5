//! What the command line and the tests of the manifests share: the filters' own parsers, without a proxy.
#![allow(clippy::restriction)]

pub mod decide;
pub mod filters;
