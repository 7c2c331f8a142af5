//! The metrics of the filter.

use plugin_kit::host::Counter;

use crate::config::Config;
use crate::decision::ServiceStats;
use crate::limits::charge::Stats;
use crate::reply::DenyReason;
use crate::service::protocol::Failure;

/// The counters of one configuration.
pub(crate) struct Metrics {
    /// Requests that were admitted.
    pub(crate) allowed: Counter,
    /// Requests that were admitted without being counted.
    pub(crate) uncounted: Counter,
    denied: Counter,
    failed: Counter,
    conflicts: Counter,
    undone: Counter,
    refunded: Counter,
    evicted: Counter,
    costs_invalid: Counter,
    /// The counters, in the order of the limits.
    by_limit: Vec<LimitCounters>,
    /// Only if limits are asked of the rate limit service.
    service: Option<ServiceCounters>,
}

struct LimitCounters {
    denied: Counter,
    reported: Counter,
    key_missing: Counter,
}

struct ServiceCounters {
    ok: Counter,
    over_limit: Counter,
    remembered: Counter,
    failed: Counter,
    /// Failures by their codes.
    failures: Vec<(&'static str, Counter)>,
    skipped: Counter,
    opened: Counter,
}

impl Metrics {
    pub(crate) fn define(config: &Config) -> Self {
        let by_limit = config.limits.iter().map(|limit| {
            let define = |what| Counter::define(&format!("rate_limit_limit_{}_{what}", limit.name));
            LimitCounters {
                denied: define("denied"),
                reported: define("reported"),
                key_missing: define("key_missing"),
            }
        });
        let service = config.global.as_ref().map(|_| {
            let define = |what: &str| Counter::define(&format!("rate_limit_service_{what}"));
            ServiceCounters {
                ok: define("ok"),
                over_limit: define("over_limit"),
                remembered: define("remembered"),
                failed: define("failed"),
                failures: Failure::CODES.map(|code| (code, define(&format!("failure_{code}")))).to_vec(),
                skipped: define("skipped"),
                opened: define("opened"),
            }
        });
        Self {
            allowed: Counter::define("rate_limit_requests_allowed"),
            denied: Counter::define("rate_limit_requests_denied"),
            failed: Counter::define("rate_limit_requests_failed"),
            uncounted: Counter::define("rate_limit_requests_uncounted"),
            conflicts: Counter::define("rate_limit_writes_conflicted"),
            undone: Counter::define("rate_limit_charges_undone"),
            refunded: Counter::define("rate_limit_charges_refunded"),
            evicted: Counter::define("rate_limit_keys_evicted"),
            costs_invalid: Counter::define("rate_limit_costs_invalid"),
            by_limit: by_limit.collect(),
            service,
        }
    }

    /// Counts a denial, by its limit (an index) if one limit was the reason.
    pub(crate) fn count_denial(&self, limit: Option<usize>, reason: DenyReason) {
        self.denied.increment();
        if let Some(counters) = limit.and_then(|index| self.by_limit.get(index)) {
            counters.denied.increment();
        }
        if reason.is_failure() {
            self.failed.increment();
        }
    }

    /// Counts what the limits of these indexes would have denied if they were enforced.
    pub(crate) fn count_reported(&self, limits: &[usize]) {
        for counters in limits.iter().filter_map(|index| self.by_limit.get(*index)) {
            counters.reported.increment();
        }
    }

    /// Counts the requests that lacked a part of a limit's key, by the index of the limit.
    pub(crate) fn count_missing_keys(&self, limits: impl Iterator<Item = (usize, u32)>) {
        for (index, count) in limits {
            if let Some(counters) = self.by_limit.get(index) {
                counters.key_missing.add(count);
            }
        }
    }

    pub(crate) fn count(&self, stats: Stats) {
        for (counter, count) in [
            (self.conflicts, stats.conflicts),
            (self.undone, stats.undone),
            (self.refunded, stats.refunded),
            (self.evicted, stats.evicted),
            (self.costs_invalid, stats.invalid_costs),
        ] {
            counter.add(count);
        }
    }

    /// Counts why the rate limit service gave no usable answer.
    pub(crate) fn count_failure(&self, failure: &Failure) {
        let failures = self.service.iter().flat_map(|service| &service.failures);
        for (_, counter) in failures.filter(|(code, _)| *code == failure.code) {
            counter.increment();
        }
    }

    /// Counts what the rate limit service did.
    pub(crate) fn count_service(&self, stats: ServiceStats) {
        let Some(counters) = &self.service else { return };
        for (counter, count) in [
            (counters.ok, stats.ok),
            (counters.over_limit, stats.over_limit),
            (counters.remembered, stats.remembered),
            (counters.failed, stats.failed),
            (counters.skipped, stats.skipped),
            (counters.opened, u32::from(stats.opened)),
        ] {
            counter.add(count);
        }
    }
}
