//! The fast path: a limit that counts every request needs no matching, and a worker that holds a lease needs
//! no shared data.

use super::Limits;
use super::outcome::{Counted, Stage};
use crate::config::{Config, Limit, Mode};
use crate::keys::hasher::KeyHasher;
use crate::limits::charge::ChargeRequest;
use crate::reply::HeadersOn;

/// What is known of a stage before any request: which limits count its requests.
#[derive(Debug)]
pub(super) enum FastPath {
    /// No limit counts a request.
    NoLimit,
    /// The only limit, by its index, is enforced and counts every request. The charge is there if it is the
    /// same for every request.
    OneLimit(usize, Option<ChargeRequest>),
    /// There is no fast path: each limit is matched against the request.
    None,
}

impl FastPath {
    pub(super) fn of(config: &Config, hashers: &[(KeyHasher, Vec<KeyHasher>)], stage: Stage) -> Self {
        let limits = config.limits.iter().zip(hashers).enumerate();
        let mut checked = limits.filter(|(_, (limit, _))| stage.checks(limit));
        let Some((index, (limit, (hasher, _)))) = checked.next() else { return Self::NoLimit };
        let denies = limit.mode == Mode::Enforce && limit.enforce_percent >= 100;
        if checked.next().is_none() && config.exempt.is_empty() && limit.selector.is_always() && denies {
            Self::OneLimit(index, constant_charge(limit, hasher))
        } else {
            Self::None
        }
    }
}

/// What the limit charges for every request, if it does not depend on the request.
fn constant_charge(limit: &Limit, hasher: &KeyHasher) -> Option<ChargeRequest> {
    let is_constant = limit.key.is_empty()
        && limit.plans.is_none()
        && limit.cost_from.is_none()
        && limit.cost > 0
        && limit.global.is_none()
        && limit.count_statuses.is_empty();
    is_constant.then(|| ChargeRequest {
        hash: hasher.clone().finish(),
        rate: limit.rate,
        cost: limit.cost,
        single: limit.single,
        table: limit.table,
        on_full: limit.on_full,
        refundable: false,
    })
}

impl Limits {
    /// Charges a busy key from the lease that this worker holds, where nothing else is to be done for the
    /// request.
    pub(super) fn try_spend_lease(&self, counted: &Counted, now: u64) -> bool {
        counted.enforced
            && !counted.is_asked()
            && self.config.reply.headers_on == HeadersOn::Denied
            && self.limiter.try_spend_lease(&counted.charge, now)
    }
}
