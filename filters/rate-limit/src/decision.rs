//! The decision about a request: which limits count it, by which keys, and what becomes of it.
//!
//! [`Limits::decide`] finds the limits that count the request and charges them. A limit that is asked of the
//! rate limit service makes the request wait; [`Limits::on_service_response`] then decides.
//! [`Limits::settle`] gives charges back when the response is known.

mod detail;
mod fast_path;
mod matching;
mod outcome;
mod service;
#[cfg(test)]
mod tests;

use std::cell::{Cell, OnceCell};

use plugin_kit::config::Diagnostic;
use plugin_kit::host::{HostError, SHARED_DATA_BYTES};
use plugin_kit::reply::Reply;
use plugin_kit::request::exchange::Exchange;
use plugin_kit::trace::{self, Note};

use self::fast_path::FastPath;
use self::matching::{Doubt, RequestView};
use self::outcome::{Counted, denied, unavailable};
use self::service::Service;
use crate::config::{Config, Limit, Mode, OnConflict, OnInvalidCost, OnMissingKey};
use crate::keys::cost::Cost;
use crate::keys::hasher::KeyHasher;
use crate::keys::request_key::{RequestKey, is_keyed_by_claim, is_preflight, request_key};
use crate::limits::charge::{ChargeRequest, Snapshot, Stats, Verdict};
use crate::limits::gcra::{Rate, nanoseconds};
use crate::limits::limiter::Limiter;
use crate::limits::slots::{KeyHash, SharedStore, hash_key};
use crate::reply::{self, DenyReason, HeaderStyle, HeadersOn, Shown, limit_headers};
use crate::service::protocol::Header;

pub use self::outcome::{Admission, Decision, Denial, Outcome, Pending, Question, ServiceStats, Stage};

/// The limits of one configuration, as one worker applies them.
#[derive(Debug)]
pub struct Limits {
    config: Config,
    /// For each limit, the hasher for its own rate and those for its plans.
    hashers: Vec<(KeyHasher, Vec<KeyHasher>)>,
    limiter: Limiter,
    /// How many requests without a key were drawn for a limit with `enforcePercent`.
    drawn: Cell<u64>,
    /// For each stage.
    fast_paths: [FastPath; 3],
    created: usize,
    changed: Vec<usize>,
    /// For each limit, how many requests lacked a part of the key.
    missing_keys: Vec<Cell<u32>>,
    service: Option<Service>,
}

impl Limits {
    /// Prepares the limits of `config`, in `on_configure`. Limits of the same name, rate and `scope` share
    /// their state. `random` makes the number that keys are hashed with, if the process has none yet.
    pub fn new(
        mut config: Config,
        store: &impl SharedStore,
        scope: &[u8],
        random: impl FnOnce() -> Result<[u8; 16], HostError>,
    ) -> Result<Self, Diagnostic> {
        let of = |limit: usize| format!("limits[{limit}].maxKeys");
        let full = |limit: usize| {
            let most = SHARED_DATA_BYTES >> 20;
            let message = format!("the state of all limits of the proxy would take more than {most} MiB");
            Diagnostic::invalid(&of(limit), message)
        };
        // Before anything is written that nobody removes.
        let mut sizes = config.limits.iter().map(|limit| limit.table.size());
        let over = |most| {
            let mut size = 0_usize;
            sizes.position(|more| {
                size = size.saturating_add(more);
                size > most
            })
        };
        if let Some(limit) = store.most().and_then(over) {
            return Err(full(limit));
        }
        let failed = |path: &str, error: HostError| Diagnostic::invalid(path, error.to_string());
        let hasher = KeyHasher::new(&hash_key(store, random).map_err(|error| failed("$", error))?);
        let mut hashers = Vec::with_capacity(config.limits.len());
        let (mut created, mut changed) = (0_usize, Vec::new());
        for (index, limit) in config.limits.iter_mut().enumerate() {
            let failed = |error: HostError| match error.status {
                HostError::FULL => full(index),
                _ => failed(&of(index), error),
            };
            let (table, is_new) = limit.table.create(store).map_err(failed)?;
            limit.table = table;
            created = created.saturating_add(usize::from(is_new));
            let plan_rates = limit.plans.iter().flat_map(|plans| plans.rates.iter().map(|(_, rate)| rate));
            let rates = std::iter::once(&limit.rate).chain(plan_rates);
            let (name, rates) = hasher.of_rates(scope, &limit.name, rates);
            if table.changes_rates(store, name, rates).map_err(failed)? {
                changed.push(index);
            }
            let of = |rate: &Rate| hasher.of_limit(scope, &limit.name, rate);
            let plans = limit
                .plans
                .as_ref()
                .map_or(Vec::new(), |plans| plans.rates.iter().map(|(_, rate)| of(rate)).collect());
            hashers.push((of(&limit.rate), plans));
        }
        let alone = config.limits.len() == 1 && config.limits.iter().all(|l| l.count_statuses.is_empty());
        let limiter = Limiter::new(config.singles, config.longest_lease, alone);
        let service = config.global.is_some().then(Service::default);
        let stages = [Stage::BeforeAuth, Stage::AfterAuth, Stage::All];
        let fast_paths = stages.map(|stage| FastPath::of(&config, &hashers, stage));
        let missing_keys = config.limits.iter().map(|_| Cell::default()).collect();
        Ok(Self {
            config,
            hashers,
            limiter,
            drawn: Cell::default(),
            fast_paths,
            created,
            changed,
            missing_keys,
            service,
        })
    }

    /// The limits whose rate, or a plan of which, was changed by this configuration.
    pub fn changed(&self) -> impl Iterator<Item = &Limit> {
        self.changed.iter().filter_map(|index| self.config.limits.get(*index))
    }

    /// The number of limits for which slots had to be created.
    pub fn created(&self) -> usize {
        self.created
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Decides about a request and counts it. `None` if the request goes on and there is nothing else to do.
    pub fn decide(
        &self,
        store: &impl SharedStore,
        exchange: &Exchange<'_>,
        stage: Stage,
    ) -> Option<Decision> {
        let mut reported = Vec::new();
        let outcome = match self.outcome(store, exchange, stage, &mut reported) {
            Ok(None) if reported.is_empty() && !self.limiter.has_stats() => return None,
            Ok(outcome) => outcome.unwrap_or_default(),
            Err(denial) => Outcome::Denied(denial),
        };
        Some(self.decision(outcome, reported))
    }

    fn decision(&self, outcome: Outcome, reported: Vec<usize>) -> Decision {
        let stats = self.limiter.take_stats();
        let service = self.service.as_ref().map(|service| service.stats.take());
        Decision { outcome, reported, stats, service: service.unwrap_or_default() }
    }

    fn outcome(
        &self,
        store: &impl SharedStore,
        exchange: &Exchange<'_>,
        stage: Stage,
        reported: &mut Vec<usize>,
    ) -> Result<Option<Outcome>, Denial> {
        let (mut counted, now) = match self.fast_paths.get(stage as usize) {
            Some(FastPath::NoLimit) => return Ok(None),
            Some(FastPath::OneLimit(index, charge)) => {
                let one = match *charge {
                    Some(charge) => {
                        let (index, enforced, shared) = (*index, true, false);
                        Some(Counted { index, enforced, shared, charge, descriptor: None })
                    }
                    None => self.counted_by(*index, exchange, reported)?,
                };
                let Some(one) = one else { return Ok(None) };
                let Some(now) = time_for(exchange, std::slice::from_ref(&one), reported)? else {
                    return Ok(None);
                };
                if self.try_spend_lease(&one, now) {
                    trace::note(|| Note::new("lease").at(one.index).holds(true));
                    return Ok(None);
                }
                (vec![one], now)
            }
            Some(FastPath::None) | None => {
                let counted = self.counted(exchange, stage, reported)?;
                if counted.is_empty() {
                    return Ok(None);
                }
                let Some(now) = time_for(exchange, &counted, reported)? else { return Ok(None) };
                if let [one] = counted.as_slice()
                    && self.try_spend_lease(one, now)
                {
                    trace::note(|| Note::new("lease").at(one.index).holds(true));
                    return Ok(None);
                }
                (counted, now)
            }
        };
        if counted.iter().any(Counted::is_asked) {
            self.deny_remembered(&mut counted, now, reported)?;
        }
        if counted.iter().any(Counted::is_asked) {
            return self.ask(store, counted, now, reported).map(Some);
        }
        let (admission, _) = self.charge(store, &counted, now, reported)?;
        Ok(Some(Outcome::Admitted(admission)))
    }

    /// Charges all limits that are enforced, or none of them, and each of the others for itself. If every
    /// response shows how its limit stands, the second value is what is left of the limit that is shown.
    fn charge(
        &self,
        store: &impl SharedStore,
        counted: &[Counted],
        now: u64,
        reported: &mut Vec<usize>,
    ) -> Result<(Admission, Option<u64>), Denial> {
        let enforced: Vec<&Counted> = counted.iter().filter(|counted| counted.enforced).collect();
        let charges: Vec<ChargeRequest> = enforced.iter().map(|counted| counted.charge).collect();
        let snapshots = self.limiter.charge(store, &charges, now).map_err(unavailable)?;
        trace::note(|| Note::new("now").received(now));
        for (counted, snapshot) in enforced.iter().zip(&snapshots) {
            trace::note(|| charged(counted, snapshot));
        }
        let mut admission = Admission::default();
        let worst = enforced.iter().zip(&snapshots).max_by_key(|(_, snapshot)| severity(snapshot));
        if let Some((counted, snapshot)) = worst {
            match snapshot.verdict {
                Verdict::Admitted => {}
                Verdict::Conflict if self.config.on_conflict == OnConflict::Allow => {
                    admission.uncounted = true;
                }
                _ => return Err(self.denial(counted, snapshot)),
            }
        }
        let pending = enforced.iter().zip(&snapshots);
        admission.pending.extend(pending.filter_map(|(counted, snapshot)| counted.pending(snapshot)));
        for counted in counted.iter().filter(|counted| !counted.enforced) {
            // A limit that is not enforced reports the failure of a host call too.
            let snapshots = self.limiter.charge(store, &[counted.charge], now).unwrap_or_default();
            let snapshot = snapshots.first();
            if let Some(snapshot) = snapshot {
                trace::note(|| charged(counted, snapshot));
            }
            admission.pending.extend(snapshot.and_then(|snapshot| counted.pending(snapshot)));
            if snapshot.is_none_or(|snapshot| matches!(snapshot.verdict, Verdict::Denied(_))) {
                reported.push(counted.index);
            }
        }
        let shown = worst.filter(|_| self.config.reply.headers_on == HeadersOn::Always);
        if let Some((counted, snapshot)) = shown {
            admission.headers = self.headers(counted.index, || Shown::of(&counted.charge.rate, snapshot));
        }
        Ok((admission, shown.map(|(_, snapshot)| snapshot.remaining)))
    }

    fn denial(&self, counted: &Counted, snapshot: &Snapshot) -> Denial {
        let reason = match snapshot.verdict {
            Verdict::Denied(wait) => DenyReason::Limited(wait),
            Verdict::Conflict | Verdict::Admitted => DenyReason::Conflict,
        };
        let headers = self.headers(counted.index, || Shown::of(&counted.charge.rate, snapshot));
        Denial { headers, ..counted.denied(reason) }
    }

    /// How many requests since the last call lacked a part of a limit's key, with the index of the limit.
    pub fn take_missing_keys(&self) -> impl Iterator<Item = (usize, u32)> {
        self.missing_keys.iter().map(Cell::take).enumerate().filter(|(_, count)| *count > 0)
    }

    /// The reply to a request that is denied.
    pub fn reply(&self, exchange: &Exchange<'_>, denial: Denial) -> Reply {
        let Denial { limit, reason, headers, body, .. } = denial;
        let name = limit.and_then(|index| self.config.limits.get(index)).map(|limit| limit.name.as_str());
        let options = &self.config.reply;
        let header = |name| exchange.header_joined(name).ok().flatten();
        let request_id = header("x-request-id");
        let origin = if options.extras.asks_origin() { header("origin") } else { None };
        let context =
            reply::Context { limit: name, request_id: request_id.as_deref(), origin: origin.as_deref() };
        reply::denial(options, reason, context, headers, &body)
    }

    /// Gives back those charges of a request whose limits do not count responses with this status.
    pub fn settle(
        &self,
        store: &impl SharedStore,
        exchange: &Exchange<'_>,
        pending: Vec<Pending>,
        status: Option<u16>,
    ) -> Stats {
        let Ok(now) = now(exchange) else { return Stats::default() };
        for Pending { limit, charge, receipt } in pending {
            let counts = self.config.limits.get(limit).zip(status);
            if counts.is_some_and(|(limit, status)| !limit.count_statuses.contains(&status)) {
                self.limiter.refund(store, &charge, receipt, now);
            }
        }
        self.limiter.take_stats()
    }

    /// The limits that count the request.
    fn counted(
        &self,
        exchange: &Exchange<'_>,
        stage: Stage,
        reported: &mut Vec<usize>,
    ) -> Result<Vec<Counted>, Denial> {
        let headers = OnceCell::new();
        let view = RequestView {
            exchange,
            path_case: self.config.path_case,
            headers: &headers,
            request: OnceCell::new(),
            readings: OnceCell::new(),
        };
        let mut counted = Vec::with_capacity(self.config.limits.len());
        for (index, exemption) in self.config.exempt.iter().enumerate() {
            let exempts = view.matches(exemption, Doubt::No).map_err(unavailable)?;
            trace::note(|| Note::new("exempt").at(index).holds(exempts));
            if exempts {
                return Ok(counted);
            }
        }
        for (index, limit) in self.config.limits.iter().enumerate() {
            if !stage.checks(limit) {
                continue;
            }
            let counts = view.matches(&limit.selector, Doubt::Yes).map_err(unavailable)?;
            trace::note(|| Note::new("limit").at(index).holds(counts));
            if counts {
                counted.extend(self.counted_by(index, exchange, reported)?);
            }
        }
        Ok(counted)
    }

    /// What the limit with this index charges for the request; `None` if the limit does not count it.
    fn counted_by(
        &self,
        index: usize,
        exchange: &Exchange<'_>,
        reported: &mut Vec<usize>,
    ) -> Result<Option<Counted>, Denial> {
        let Some((limit, hashers)) = self.config.limits.get(index).zip(self.hashers.get(index)) else {
            return Ok(None);
        };
        let mut refused = |reason, enforced| {
            if enforced {
                return Err(denied(Some(index), reason));
            }
            reported.push(index);
            Ok(None)
        };
        let denies = limit.mode == Mode::Enforce;
        trace::note(|| Note::new("counts").at(index));
        let mut incomplete = false;
        let Ok(key) = request_key(limit, hashers, exchange, &mut incomplete) else {
            return refused(DenyReason::Unavailable, denies);
        };
        if incomplete {
            match is_keyed_by_claim(limit)
                .then(|| is_preflight(exchange))
                .transpose()
                .map(|found| found == Some(true))
            {
                Ok(false) => {}
                Ok(true) => return Ok(None),
                Err(_) => return refused(DenyReason::Unavailable, denies),
            }
            if let Some(count) = self.missing_keys.get(index) {
                count.set(count.get().saturating_add(1));
            }
        }
        let known = key.as_ref().filter(|key| key.is_known).map(|key| key.hash);
        let enforced = denies && self.is_enforced_for(limit, &hashers.0, known);
        let Some(key) = key else {
            return match limit.on_missing_key {
                OnMissingKey::Skip => Ok(None),
                _ => refused(DenyReason::KeyMissing, enforced),
            };
        };
        let cost = match Cost::of(limit, exchange) {
            Ok(Cost::Of(cost)) => cost,
            Ok(Cost::Invalid) => {
                self.limiter.note_invalid_cost();
                match limit.on_invalid_cost {
                    OnInvalidCost::Deny => return refused(DenyReason::CostInvalid, enforced),
                    OnInvalidCost::UseCost => limit.cost,
                }
            }
            Err(_) => return refused(DenyReason::Unavailable, enforced),
        };
        trace::note(|| Note::new("cost").at(index).holds(enforced).received(cost));
        let RequestKey { hash, rate, single, descriptor, .. } = key;
        if cost == 0 && rate.burst() > 0 {
            return Ok(None);
        }
        // The service is not asked about a cost that this proxy never admits.
        let descriptor = descriptor.filter(|_| cost <= u64::from(rate.burst()));
        let refundable = !limit.count_statuses.is_empty();
        let charge = ChargeRequest {
            table: limit.table,
            hash,
            rate,
            cost,
            on_full: limit.on_full,
            single,
            refundable,
        };
        Ok(Some(Counted { index, enforced, shared: incomplete, charge, descriptor }))
    }

    /// Whether `enforcePercent` enforces the limit for this key. The same keys are chosen every time, and
    /// stay chosen when the percentage grows. Without a key, requests are chosen, which only somebody who
    /// knows the number that keys are hashed with can foresee.
    fn is_enforced_for(&self, limit: &Limit, hasher: &KeyHasher, key: Option<KeyHash>) -> bool {
        if limit.enforce_percent >= 100 {
            return true;
        }
        let hash = key.unwrap_or_else(|| {
            let drawn = self.drawn.get();
            self.drawn.set(drawn.wrapping_add(1));
            let mut hasher = hasher.clone();
            hasher.part(Some(&drawn.to_le_bytes()));
            hasher.finish()
        });
        (hash.tag >> 1) % 100 < u64::from(limit.enforce_percent)
    }

    fn headers(&self, limit: usize, shown: impl FnOnce() -> Shown) -> Vec<Header> {
        let style = self.config.reply.headers;
        match self.config.limits.get(limit) {
            Some(limit) if style != HeaderStyle::None => limit_headers(style, &limit.name, &shown()),
            _ => Vec::new(),
        }
    }
}

/// The time at which these limits count; `None` if the clock fails and no limit is enforced.
fn time_for(
    exchange: &Exchange<'_>,
    counted: &[Counted],
    reported: &mut Vec<usize>,
) -> Result<Option<u64>, Denial> {
    now(exchange).map(Some).or_else(|error| without_clock(counted, error, reported).map(|()| None))
}

/// Decides about a request when the clock fails: it is denied if one of its limits is enforced.
fn without_clock(counted: &[Counted], error: HostError, reported: &mut Vec<usize>) -> Result<(), Denial> {
    if counted.iter().any(|counted| counted.enforced) {
        return Err(unavailable(error));
    }
    reported.extend(counted.iter().map(|counted| counted.index));
    Ok(())
}

/// A note about what a limit says to a request, and what is left of its key: requests, the nanoseconds until
/// the whole burst is there again, the burst, and the nanoseconds that a denied request has to wait (0: for
/// ever).
fn charged(counted: &Counted, snapshot: &Snapshot) -> Note {
    let Snapshot { remaining, whole_in, verdict, .. } = snapshot;
    let (holds, wait) = match verdict {
        Verdict::Admitted => (Some(true), 0),
        Verdict::Denied(wait) => (Some(false), wait.unwrap_or_default()),
        Verdict::Conflict => (None, 0),
    };
    let burst = counted.charge.rate.burst();
    let left = format_args!("{remaining} {whole_in} {burst} {wait}").to_string();
    Note::new("charge").at(counted.index).holds(holds).received(left)
}

/// Nanoseconds on the proxy's monotonic clock.
fn now(exchange: &Exchange<'_>) -> Result<u64, HostError> {
    exchange.monotonic_time().map(nanoseconds)
}

/// Orders snapshots by severity: a denial by its wait, then a conflict, then an admission by how little is
/// left.
fn severity(snapshot: &Snapshot) -> (u64, u64) {
    match snapshot.verdict {
        Verdict::Denied(wait) => (2, wait.unwrap_or(u64::MAX)),
        Verdict::Conflict => (1, 0),
        Verdict::Admitted => (0, u64::MAX.saturating_sub(snapshot.remaining)),
    }
}
