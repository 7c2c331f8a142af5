//! What a request charges a limit with, and what the limit answers.

use crate::limits::gcra::{Rate, Retry};
use crate::limits::slots::{KeyHash, OnFull, Table};

/// What a request charges one limit with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChargeRequest {
    /// The table with the keys of the limit.
    pub table: Table,
    /// The request's key.
    pub hash: KeyHash,
    /// The rate of the key.
    pub rate: Rate,
    /// How many units of the limit the request consumes.
    pub cost: u64,
    /// What happens if the key finds no free place.
    pub on_full: OnFull,
    /// If the limit has only this key, its number among such limits.
    pub single: Option<usize>,
    /// Whether the charge may be given back when the response is known
    /// ([`Limiter::refund`](crate::limits::limiter::Limiter::refund)). Then nothing is leased.
    pub refundable: bool,
}

/// What a charge took: the stretch of the key's virtual time from `start` to `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    pub(super) start: u64,
    pub(super) end: u64,
}

/// The state of a key when a request was looked at, in whole requests and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// How many requests would be admitted now.
    pub remaining: u64,
    /// The time until the whole burst is available again.
    pub whole_in: u64,
    /// The time until the next request would be admitted: 0 if it would be now, `None` if it never would.
    pub next_in: Option<u64>,
    /// What the limit says to the request.
    pub verdict: Verdict,
    /// If the charge may be given back, what it took.
    pub receipt: Option<Receipt>,
}

/// What one limit says to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The request is admitted.
    Admitted,
    /// The request is denied. It would be admitted after this many nanoseconds; `None` if it never would at
    /// this cost.
    Denied(Option<u64>),
    /// The request could not be counted because other workers were faster in every attempt.
    Conflict,
}

/// What happened while limits were charged, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Writes that were tried again because another worker was faster.
    pub conflicts: u32,
    /// Charges that were undone because another limit of the request denied it.
    pub undone: u32,
    /// Charges that were given back when the response was known.
    pub refunded: u32,
    /// Keys that were forgotten, or shared, though they still owed.
    pub evicted: u32,
    /// Costs that were not numbers.
    pub invalid_costs: u32,
}

/// The snapshot of a key with this TAT.
pub(super) fn snapshot(request: &ChargeRequest, tat: u64, now: u64, verdict: Verdict) -> Snapshot {
    let next_in = match request.rate.charge(tat, now, 1) {
        Ok(_) => Some(0),
        Err(Retry::At(at)) => Some(at.saturating_sub(now)),
        Err(Retry::Never) => None,
    };
    let remaining = request.rate.remaining(tat, now);
    Snapshot { remaining, whole_in: tat.saturating_sub(now), next_in, verdict, receipt: None }
}

/// The snapshot of a key that denies the request.
pub(super) fn denied(request: &ChargeRequest, tat: u64, now: u64, retry: Retry) -> Snapshot {
    let wait = match retry {
        Retry::At(at) => Some(at.saturating_sub(now)),
        Retry::Never => None,
    };
    snapshot(request, tat, now, Verdict::Denied(wait))
}
