//! Who checks a signature: the host if it can, and otherwise this module.

use std::cell::Cell;
use std::time::Duration;

use crate::keys::host_crypto::HostCrypto;
use crate::keys::key::Key;
use crate::keys::pure_rust;
use crate::keys::signature::{Verdict, Verifier};
use crate::token::compact::UntrustedToken;

/// The host's check for the algorithms for which it passed its test, and the module's own check for the
/// others.
///
/// A check in this module takes most of a millisecond, during which the worker does nothing else. So these
/// checks have a budget, and a flood of tokens with bad signatures does not starve the proxy.
pub struct Crypto {
    host: HostCrypto,
    budget: Budget,
    monotonic_time: fn() -> Option<Duration>,
}

impl Crypto {
    /// At most `slow_per_second` checks a second in this module.
    pub fn new(host: HostCrypto, slow_per_second: u32, monotonic_time: fn() -> Option<Duration>) -> Self {
        Self { host, budget: Budget::new(slow_per_second), monotonic_time }
    }
}

impl Verifier for Crypto {
    fn verify(&self, key: &Key, token: &UntrustedToken<'_>) -> Verdict {
        let valid = match self.host.verify(key, token) {
            Some(valid) => valid,
            // The host was to check the signature and failed, and the module cannot.
            None if token.algorithm.is_for_the_host_alone() => return Verdict::Overloaded,
            // This check is quick enough to need no budget.
            None if token.algorithm.is_symmetric() => pure_rust::verify(key, token),
            None if (self.monotonic_time)().is_some_and(|now| self.budget.take(now)) => {
                pure_rust::verify(key, token)
            }
            None => return Verdict::Overloaded,
        };
        if valid { Verdict::Valid } else { Verdict::Invalid }
    }
}

/// A number of checks a second.
#[derive(Debug)]
pub struct Budget {
    per_second: u32,
    second: Cell<u64>,
    used: Cell<u32>,
}

impl Budget {
    /// A budget of so many checks a second.
    pub fn new(per_second: u32) -> Self {
        Self { per_second, second: Cell::new(0), used: Cell::new(0) }
    }

    /// Takes one check, if this second has one left.
    pub fn take(&self, now: Duration) -> bool {
        if self.second.replace(now.as_secs()) != now.as_secs() {
            self.used.set(0);
        }
        let left = self.used.get() < self.per_second;
        if left {
            self.used.set(self.used.get().saturating_add(1));
        }
        left
    }
}
