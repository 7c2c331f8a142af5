//! What the tests with a real Envoy share.

use envoy::{Envoy, wait_for};

/// The counter `rate_limit_<name>`, once every one of `sent` requests is counted: a busy worker tells its
/// counts once a second.
pub(crate) fn counter(envoy: &Envoy, sent: u64, name: &str) -> u64 {
    wait_for("the counts of all workers", || {
        let stats = envoy.stats().unwrap();
        let of = |name| stats.get(&format!("wasmcustom.rate_limit_{name}")).copied().unwrap_or_default();
        (of("requests_allowed") + of("requests_denied") >= sent).then(|| of(name))
    })
    .unwrap()
}
