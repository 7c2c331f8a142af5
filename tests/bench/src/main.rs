//! What each filter costs, side by side with Envoy's native filters. See docs/benchmarks.md.

fn main() {}
