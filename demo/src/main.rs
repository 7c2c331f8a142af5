//! The demonstration: two services, each behind a real Envoy sidecar with the filters.
fn main() {}
