//! The decision about a request: which limits count it, by which keys, and what becomes of it.

use std::cell::{Cell, OnceCell};
use std::cmp::Reverse;

use plugin_kit::host::HostError;
use plugin_kit::reply::Reply;
use plugin_kit::request::claim::ClaimValues;
use plugin_kit::request::exchange::{CurrentHeaders, Exchange};
use plugin_kit::request::matcher::{Request, RequestMatch};
use plugin_kit::request::path::{PathCase, Readings};
use plugin_kit::request::source::Source;

use crate::config::{
    Config, GlobalLimit, Limit, Mode, OnConflict, OnFailure, OnInvalidCost, OnMissingKey, Plans, Selector,
};
use crate::keys::cost;
use crate::keys::key::KeyHasher;
use crate::limits::gcra::{Rate, nanoseconds};
use crate::limits::limiter::{Demand, Limiter, Receipt, Standing, Tally, Verdict};
use crate::limits::slots::{KeyHash, SharedStore, hash_key};
use crate::reply::{self, DenyReason, HeaderStyle, HeadersOn, Shown, standing_headers};
use crate::service::health::{Breaker, OverLimits};
use crate::service::protocol::{Descriptor, Failure, Header, Response, Status, request};

/// Which limits are to be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Those that stand before authentication.
    BeforeAuth,
    /// The others.
    AfterAuth,
    /// All: for a plugin that is only asked once.
    All,
}

impl Stage {
    fn asks(self, limit: &Limit) -> bool {
        match self {
            Self::BeforeAuth => limit.before_auth,
            Self::AfterAuth => !limit.before_auth,
            Self::All => true,
        }
    }
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on.
    Admitted(Admission),
    /// It is answered here.
    Denied(Denial),
    /// It waits for the rate limit service.
    Ask(Box<Question>),
}

impl Default for Outcome {
    fn default() -> Self {
        Self::Admitted(Admission::default())
    }
}

/// A request that goes on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Headers for its response.
    pub headers: Vec<Header>,
    /// Headers for the request, from the rate limit service.
    pub request_headers: Vec<Header>,
    /// Charges that depend on the response, for [`Limits::settle`].
    pub pending: Vec<Pending>,
    /// It was not counted, and the configuration lets it through.
    pub uncounted: bool,
}

/// A request that is answered here; [`Limits::reply`] makes the answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Denial {
    /// The index of the limit that denies; `None`: the host failed before one was found.
    pub limit: Option<usize>,
    /// Why.
    pub reason: DenyReason,
    headers: Vec<Header>,
    body: Vec<u8>,
}

/// What the rate limit service is asked, and of which request, for [`Limits::hear`].
#[derive(Debug, PartialEq, Eq)]
pub struct Question {
    /// A serialised `RateLimitRequest`.
    pub message: Vec<u8>,
    counted: Vec<Counted>,
}

/// A charge that is given back unless the response has one of the limit's statuses.
#[derive(Debug, PartialEq, Eq)]
pub struct Pending {
    limit: usize,
    demand: Demand,
    receipt: Receipt,
}

/// The decision, and what is to be counted.
#[derive(Debug, Default)]
pub struct Decision {
    /// What becomes of the request.
    pub outcome: Outcome,
    /// Indices of the limits that only report and would have denied.
    pub reported: Vec<usize>,
    /// What happened on the way.
    pub tally: Tally,
    /// What happened between the rate limit service and this worker.
    pub service: ServiceTally,
}

/// What happened between the rate limit service and this worker, for counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServiceTally {
    /// It found the request within all limits.
    pub ok: u32,
    /// It found the request over a limit.
    pub over_limit: u32,
    /// It was not asked, since a key is known to be over its limit.
    pub remembered: u32,
    /// It did not answer, or nothing that counts.
    pub failed: u32,
    /// It was not asked, since it has failed too often.
    pub skipped: u32,
    /// It is left alone from now on.
    pub opened: bool,
    /// It has answered again.
    pub closed: bool,
}

/// The limits of one configuration, as one worker applies them.
#[derive(Debug)]
pub struct Limits {
    config: Config,
    /// For each limit: for its rate and for each plan.
    hashers: Vec<(KeyHasher, Vec<KeyHasher>)>,
    limiter: Limiter,
    /// How many requests without a key a limit was to deny for a share of.
    drawn: Cell<u64>,
    /// For each stage.
    ways: [Way; 3],
    created: usize,
    changed: Vec<usize>,
    /// For each limit: how many requests had no key, or a part of it only.
    without_key: Vec<Cell<u32>>,
    service: Option<Service>,
}

/// How the limits that count a request are found.
#[derive(Debug)]
enum Way {
    /// There is none.
    Free,
    /// This one counts every request and denies; with what each demands, where all demand the same.
    One(usize, Option<Demand>),
    /// Each is looked at.
    Each,
}

/// What a worker knows of the rate limit service, in cells that lend nothing.
#[derive(Debug, Default)]
struct Service {
    breaker: Cell<Breaker>,
    over_limits: OverLimits,
    tally: Cell<ServiceTally>,
}

impl Service {
    fn tell<T>(&self, tell: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breaker = self.breaker.get();
        let answer = tell(&mut breaker);
        self.breaker.set(breaker);
        answer
    }

    fn count(&self, count: impl FnOnce(&mut ServiceTally) -> &mut u32) {
        let mut tally = self.tally.get();
        let count = count(&mut tally);
        *count = count.saturating_add(1);
        self.tally.set(tally);
    }
}

/// A limit that counts the request, and as what.
#[derive(Debug, PartialEq, Eq)]
struct Counted {
    index: usize,
    enforced: bool,
    demand: Demand,
    /// What the rate limit service is asked of it.
    descriptor: Option<Descriptor>,
}

impl Counted {
    fn is_asked(&self) -> bool {
        self.descriptor.is_some()
    }

    fn pending(&self, standing: &Standing) -> Option<Pending> {
        Some(Pending { limit: self.index, demand: self.demand, receipt: standing.receipt? })
    }
}

impl Limits {
    /// Prepares the limits of `config`, in `on_configure`. Limits of the same name, rate and `scope` share their state;
    /// `random` makes the number that keys are hashed with, if there is none yet.
    pub fn new(
        mut config: Config,
        store: &impl SharedStore,
        scope: &[u8],
        random: impl FnOnce() -> Result<[u8; 16], HostError>,
    ) -> Result<Self, HostError> {
        let hasher = KeyHasher::new(&hash_key(store, random)?);
        let mut hashers = Vec::with_capacity(config.limits.len());
        let (mut created, mut changed) = (0_usize, Vec::new());
        for (index, limit) in config.limits.iter_mut().enumerate() {
            let (table, is_new) = limit.table.create(store)?;
            limit.table = table;
            created = created.saturating_add(usize::from(is_new));
            let plan_rates = limit.plans.iter().flat_map(|plans| plans.rates.iter().map(|(_, rate)| rate));
            let rates = std::iter::once(&limit.rate).chain(plan_rates);
            let (name, rates) = hasher.of_rates(scope, &limit.name, rates);
            if table.changes_rates(store, name, rates)? {
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
        let ways =
            [Stage::BeforeAuth, Stage::AfterAuth, Stage::All].map(|stage| way(&config, &hashers, stage));
        let without_key = config.limits.iter().map(|_| Cell::default()).collect();
        Ok(Self {
            config,
            hashers,
            limiter,
            drawn: Cell::default(),
            ways,
            created,
            changed,
            without_key,
            service,
        })
    }

    /// The limits whose rate, or that of a plan, is another one than before.
    pub fn changed(&self) -> impl Iterator<Item = &Limit> {
        self.changed.iter().filter_map(|index| self.config.limits.get(*index))
    }

    /// For how many limits slots had to be created.
    pub fn created(&self) -> usize {
        self.created
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Decides about a request and counts it. `None`: it goes on, and there is nothing else to say.
    pub fn decide(
        &self,
        store: &impl SharedStore,
        exchange: &Exchange<'_>,
        stage: Stage,
    ) -> Option<Decision> {
        let mut reported = Vec::new();
        let outcome = match self.outcome(store, exchange, stage, &mut reported) {
            Ok(None) if reported.is_empty() && !self.limiter.has_tally() => return None,
            Ok(outcome) => outcome.unwrap_or_default(),
            Err(denial) => Outcome::Denied(denial),
        };
        Some(self.decision(outcome, reported))
    }

    fn decision(&self, outcome: Outcome, reported: Vec<usize>) -> Decision {
        let tally = self.limiter.take_tally();
        let service = self.service.as_ref().map(|service| service.tally.take());
        Decision { outcome, reported, tally, service: service.unwrap_or_default() }
    }

    fn outcome(
        &self,
        store: &impl SharedStore,
        exchange: &Exchange<'_>,
        stage: Stage,
        reported: &mut Vec<usize>,
    ) -> Result<Option<Outcome>, Denial> {
        let (mut counted, now) = match self.ways.get(stage as usize) {
            Some(Way::Free) => return Ok(None),
            Some(Way::One(index, alike)) => {
                let one = match *alike {
                    Some(demand) => Some(Counted { index: *index, enforced: true, demand, descriptor: None }),
                    None => self.counted_by(*index, exchange, reported)?,
                };
                let Some(one) = one else { return Ok(None) };
                let Some(now) = now_for(exchange, std::slice::from_ref(&one), reported)? else {
                    return Ok(None);
                };
                if self.spends(&one, now) {
                    return Ok(None);
                }
                (vec![one], now)
            }
            Some(Way::Each) | None => {
                let counted = self.counted(exchange, stage, reported)?;
                if counted.is_empty() {
                    return Ok(None);
                }
                let Some(now) = now_for(exchange, &counted, reported)? else { return Ok(None) };
                if let [one] = counted.as_slice()
                    && self.spends(one, now)
                {
                    return Ok(None);
                }
                (counted, now)
            }
        };
        if counted.iter().any(Counted::is_asked) {
            self.remembered(&mut counted, now, reported)?;
        }
        if counted.iter().any(Counted::is_asked) {
            return self.ask(store, counted, now, reported).map(Some);
        }
        let (admission, _) = self.charge(store, &counted, now, reported)?;
        Ok(Some(Outcome::Admitted(admission)))
    }

    /// The shortest way, for a busy key: from a lease.
    fn spends(&self, one: &Counted, now: u64) -> bool {
        one.enforced
            && !one.is_asked()
            && self.config.reply.headers_on == HeadersOn::Denied
            && self.limiter.spends(&one.demand, now)
    }

    /// Charges the limits, all that are enforced or none. With what is left, where clients are told.
    fn charge(
        &self,
        store: &impl SharedStore,
        counted: &[Counted],
        now: u64,
        reported: &mut Vec<usize>,
    ) -> Result<(Admission, Option<u64>), Denial> {
        let enforced: Vec<&Counted> = counted.iter().filter(|counted| counted.enforced).collect();
        let demands: Vec<Demand> = enforced.iter().map(|counted| counted.demand).collect();
        let standings = self.limiter.charge(store, &demands, now).map_err(unavailable)?;
        let mut admission = Admission::default();
        let worst = enforced.iter().zip(&standings).max_by_key(|(_, standing)| severity(standing));
        if let Some((counted, standing)) = worst {
            match standing.verdict {
                Verdict::Admitted => {}
                Verdict::Conflict if self.config.on_conflict == OnConflict::Allow => {
                    admission.uncounted = true;
                }
                _ => return Err(self.denial(counted, standing)),
            }
        }
        let pending = enforced.iter().zip(&standings);
        admission.pending.extend(pending.filter_map(|(counted, standing)| counted.pending(standing)));
        for counted in counted.iter().filter(|counted| !counted.enforced) {
            // Of a limit that only reports a failure too is only reported.
            let standings = self.limiter.charge(store, &[counted.demand], now).unwrap_or_default();
            let standing = standings.first();
            admission.pending.extend(standing.and_then(|standing| counted.pending(standing)));
            if standing.is_none_or(|standing| matches!(standing.verdict, Verdict::Denied(_))) {
                reported.push(counted.index);
            }
        }
        let shown = worst.filter(|_| self.config.reply.headers_on == HeadersOn::Always);
        if let Some((counted, standing)) = shown {
            admission.headers = self.headers(counted.index, || Shown::of(&counted.demand.rate, standing));
        }
        Ok((admission, shown.map(|(_, standing)| standing.remaining)))
    }

    fn denial(&self, counted: &Counted, standing: &Standing) -> Denial {
        let reason = match standing.verdict {
            Verdict::Denied(wait) => DenyReason::Limited(wait),
            Verdict::Conflict | Verdict::Admitted => DenyReason::Conflict,
        };
        let headers = self.headers(counted.index, || Shown::of(&counted.demand.rate, standing));
        Denial { headers, ..denied(Some(counted.index), reason) }
    }

    /// Looks for keys that are known to be over their limit: the service is not asked for them again.
    fn remembered(&self, counted: &mut [Counted], now: u64, reported: &mut Vec<usize>) -> Result<(), Denial> {
        let Some(service) = &self.service else { return Ok(()) };
        let mut longest: Option<(usize, u64)> = None;
        for counted in counted.iter_mut().filter(|counted| counted.is_asked()) {
            let Some(wait) = service.over_limits.wait(counted.demand.hash, now) else { continue };
            if !counted.enforced {
                reported.push(counted.index);
                counted.descriptor = None;
            } else if longest.is_none_or(|(_, longest)| wait > longest) {
                longest = Some((counted.index, wait));
            }
        }
        let Some((index, wait)) = longest else { return Ok(()) };
        service.count(|tally| &mut tally.remembered);
        Err(denied(Some(index), DenyReason::Limited(Some(wait))))
    }

    /// Asks the service, unless it is left alone or a limit of this proxy denies.
    fn ask(
        &self,
        store: &impl SharedStore,
        counted: Vec<Counted>,
        now: u64,
        reported: &mut Vec<usize>,
    ) -> Result<Outcome, Denial> {
        if let Some(service) = self.service.as_ref().filter(|service| !service.breaker.get().lets(now)) {
            service.count(|tally| &mut tally.skipped);
            return self.without_answer(store, counted, now, reported);
        }
        let enforced: Vec<&Counted> = counted.iter().filter(|counted| counted.enforced).collect();
        let demands: Vec<Demand> = enforced.iter().map(|counted| counted.demand).collect();
        let standings = self.limiter.peek(store, &demands, now).map_err(unavailable)?.unwrap_or_default();
        let worst = enforced.iter().zip(&standings).max_by_key(|(_, standing)| severity(standing));
        if let Some((counted, standing)) = worst {
            return Err(self.denial(counted, standing));
        }
        if let Some(service) = &self.service {
            service.tell(|breaker| breaker.asked(now));
        }
        let descriptors: Vec<(&Descriptor, u32)> = counted
            .iter()
            .filter_map(|counted| {
                // What is more than a burst is not asked, see `counted_by`.
                let cost = u32::try_from(counted.demand.cost).unwrap_or(u32::MAX);
                Some((counted.descriptor.as_ref()?, cost))
            })
            .collect();
        let domain = self.config.global.as_ref().map_or("", |global| global.domain.as_str());
        let message = request(domain, &descriptors);
        Ok(Outcome::Ask(Box::new(Question { message, counted })))
    }

    /// Takes the service's answer to a question, at the time `now`: what becomes of the request, which still waits or has
    /// left.
    pub fn hear(
        &self,
        store: &impl SharedStore,
        question: Question,
        answer: Result<Response, Failure>,
        now: Result<u64, HostError>,
    ) -> Decision {
        let mut reported = Vec::new();
        let now = match now {
            Ok(now) => now,
            // Without a time nothing can be counted.
            Err(error) => {
                let outcome = untimed(&question.counted, error, &mut reported);
                let outcome = outcome.map(|()| Outcome::default());
                return self.decision(outcome.unwrap_or_else(Outcome::Denied), reported);
            }
        };
        let outcome = if let Ok(response) = answer {
            self.answered(store, &question.counted, response, now, &mut reported)
        } else {
            if let Some(service) = &self.service {
                service.count(|tally| &mut tally.failed);
                let opened = service.tell(|breaker| breaker.failed(now));
                let tally = service.tally.get();
                service.tally.set(ServiceTally { opened: tally.opened || opened, ..tally });
            }
            self.without_answer(store, question.counted, now, &mut reported)
        };
        self.decision(outcome.unwrap_or_else(Outcome::Denied), reported)
    }

    fn answered(
        &self,
        store: &impl SharedStore,
        counted: &[Counted],
        response: Response,
        now: u64,
        reported: &mut Vec<usize>,
    ) -> Result<Outcome, Denial> {
        let asked: Vec<&Counted> = counted.iter().filter(|counted| counted.is_asked()).collect();
        // Without one status for each descriptor what is said of the whole is said of each.
        let whole = Status { over_limit: response.over_limit, ..Status::default() };
        let of_each = response.statuses.len() == asked.len();
        let status = |n: usize| response.statuses.get(n).filter(|_| of_each).copied().unwrap_or(whole);
        let statuses = || asked.iter().enumerate().map(|(n, asked)| (*asked, status(n)));
        // A service that only reports says OK of the whole.
        let over = || statuses().filter(|(_, status)| response.over_limit && status.over_limit);
        if let Some(service) = &self.service {
            let closed = service.tell(Breaker::answered);
            let tally = service.tally.get();
            service.tally.set(ServiceTally { closed: tally.closed || closed, ..tally });
            service.count(|tally| if response.over_limit { &mut tally.over_limit } else { &mut tally.ok });
            // Where something is left a cheaper request may have it.
            for (asked, status) in over().filter(|(_, status)| status.remaining == 0 && status.reset > 0) {
                service.over_limits.note(asked.demand.hash, now.saturating_add(status.reset));
            }
        }
        reported.extend(over().filter(|(asked, _)| !asked.enforced).map(|(asked, _)| asked.index));
        let longest = over().filter(|(asked, _)| asked.enforced).min_by_key(|(_, s)| Reverse(s.reset));
        if let Some((asked, status)) = longest {
            let wait = (status.reset > 0).then_some(status.reset);
            let mut headers = response.response_headers;
            if let Some(shown) = Shown::by_service(&status) {
                headers.extend(self.headers(asked.index, || shown));
            }
            let body = response.body;
            return Err(Denial { headers, body, ..denied(Some(asked.index), DenyReason::Limited(wait)) });
        }
        let (mut admission, remaining) = self.charge(store, counted, now, reported)?;
        if self.config.reply.headers_on == HeadersOn::Always {
            let shown = statuses().filter(|(asked, _)| asked.enforced);
            let shown = shown.filter_map(|(asked, status)| Some((asked.index, Shown::by_service(&status)?)));
            if let Some((index, tightest)) = shown.min_by_key(|(_, shown)| shown.remaining)
                && remaining.is_none_or(|remaining| tightest.remaining < remaining)
            {
                admission.headers = self.headers(index, || tightest);
            }
        }
        admission.headers.extend(response.response_headers);
        admission.request_headers = response.request_headers;
        Ok(Outcome::Admitted(admission))
    }

    /// What becomes of a request that the service did not judge.
    fn without_answer(
        &self,
        store: &impl SharedStore,
        mut counted: Vec<Counted>,
        now: u64,
        reported: &mut Vec<usize>,
    ) -> Result<Outcome, Denial> {
        let enforced = counted.iter().find(|counted| counted.enforced && counted.is_asked());
        let enforced = enforced.map(|counted| counted.index);
        let mut uncounted = false;
        match self.config.global.as_ref().map(|global| global.on_failure) {
            Some(OnFailure::Allow) => {
                uncounted = enforced.is_some();
                counted.retain(|counted| !counted.is_asked());
            }
            Some(OnFailure::Deny) | None if enforced.is_some() => {
                return Err(denied(enforced, DenyReason::ServiceUnavailable));
            }
            _ => {}
        }
        let (mut admission, _) = self.charge(store, &counted, now, reported)?;
        admission.uncounted |= uncounted;
        Ok(Outcome::Admitted(admission))
    }

    /// In how many requests since the last call a limit found no key, or a part of it only; with the limit's position.
    pub fn take_without_key(&self) -> impl Iterator<Item = (usize, u32)> {
        self.without_key.iter().map(Cell::take).enumerate().filter(|(_, count)| *count > 0)
    }

    /// The answer to a request that is denied.
    pub fn reply(&self, exchange: &Exchange<'_>, denial: Denial) -> Reply {
        let Denial { limit, reason, headers, body } = denial;
        let name = limit.and_then(|index| self.config.limits.get(index)).map(|limit| limit.name.as_str());
        let options = &self.config.reply;
        let header = |name| exchange.header_joined(name).ok().flatten();
        let request_id = header("x-request-id");
        let origin = if options.extras.asks_origin() { header("origin") } else { None };
        let context =
            reply::Context { limit: name, request_id: request_id.as_deref(), origin: origin.as_deref() };
        reply::denial(options, reason, context, headers, &body)
    }

    /// Gives back the charges of a request that was answered with this status, where their limits count others only.
    pub fn settle(
        &self,
        store: &impl SharedStore,
        exchange: &Exchange<'_>,
        pending: Vec<Pending>,
        status: Option<u16>,
    ) -> Tally {
        let Ok(now) = now(exchange) else { return Tally::default() };
        for Pending { limit, demand, receipt } in pending {
            let counts = self.config.limits.get(limit).zip(status);
            if counts.is_some_and(|(limit, status)| !limit.count_statuses.contains(&status)) {
                self.limiter.refund(store, &demand, receipt, now);
            }
        }
        self.limiter.take_tally()
    }

    /// The limits that count the request.
    fn counted(
        &self,
        exchange: &Exchange<'_>,
        stage: Stage,
        reported: &mut Vec<usize>,
    ) -> Result<Vec<Counted>, Denial> {
        let head = OnceCell::new();
        let seen = Seen {
            exchange,
            path_case: self.config.path_case,
            head: &head,
            request: OnceCell::new(),
            readings: OnceCell::new(),
        };
        let mut counted = Vec::with_capacity(self.config.limits.len());
        for exemption in &self.config.exempt {
            if seen.holds(exemption, Doubt::No).map_err(unavailable)? {
                return Ok(counted);
            }
        }
        for (index, limit) in self.config.limits.iter().enumerate() {
            if stage.asks(limit) && seen.holds(&limit.selector, Doubt::Yes).map_err(unavailable)? {
                counted.extend(self.counted_by(index, exchange, reported)?);
            }
        }
        Ok(counted)
    }

    /// As what the limit at this position counts the request; `None` where it does not.
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
        let mut incomplete = false;
        let Ok(key) = key(limit, hashers, exchange, &mut incomplete) else {
            return refused(DenyReason::Unavailable, denies);
        };
        if incomplete {
            match keyed_by_claim(limit)
                .then(|| is_preflight(exchange))
                .transpose()
                .map(|found| found == Some(true))
            {
                Ok(false) => {}
                Ok(true) => return Ok(None),
                Err(_) => return refused(DenyReason::Unavailable, denies),
            }
            if let Some(count) = self.without_key.get(index) {
                count.set(count.get().saturating_add(1));
            }
        }
        let known = key.as_ref().filter(|key| key.is_known).map(|key| key.hash);
        let enforced = denies && self.is_in_share(limit, &hashers.0, known);
        let Some(key) = key else {
            return match limit.on_missing_key {
                OnMissingKey::Skip => Ok(None),
                _ => refused(DenyReason::KeyMissing, enforced),
            };
        };
        let cost = match cost(limit, exchange) {
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
        let Key { hash, rate, single, descriptor, .. } = key;
        if cost == 0 && rate.burst() > 0 {
            return Ok(None);
        }
        // The service is not asked for what this proxy never admits.
        let descriptor = descriptor.filter(|_| cost <= u64::from(rate.burst()));
        let refundable = !limit.count_statuses.is_empty();
        let demand =
            Demand { table: limit.table, hash, rate, cost, on_full: limit.on_full, single, refundable };
        Ok(Some(Counted { index, enforced, demand, descriptor }))
    }

    /// A ramp takes the same keys each time, and keeps them as it grows. Where there is no key it takes requests, which
    /// nobody can foresee who does not know the number that keys are hashed with.
    fn is_in_share(&self, limit: &Limit, hasher: &KeyHasher, key: Option<KeyHash>) -> bool {
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
            Some(limit) if style != HeaderStyle::None => standing_headers(style, &limit.name, &shown()),
            _ => Vec::new(),
        }
    }
}

impl Denial {
    /// The host failed, and no limit is concerned.
    pub fn unavailable() -> Self {
        denied(None, DenyReason::Unavailable)
    }
}

fn denied(limit: Option<usize>, reason: DenyReason) -> Denial {
    Denial { limit, reason, headers: Vec::new(), body: Vec::new() }
}

fn unavailable(_: HostError) -> Denial {
    denied(None, DenyReason::Unavailable)
}

/// The time at which these limits count; `None` where there is none and they all only report.
fn now_for(
    exchange: &Exchange<'_>,
    counted: &[Counted],
    reported: &mut Vec<usize>,
) -> Result<Option<u64>, Denial> {
    now(exchange).map(Some).or_else(|error| untimed(counted, error, reported).map(|()| None))
}

/// What becomes of a request where the clock fails.
fn untimed(counted: &[Counted], error: HostError, reported: &mut Vec<usize>) -> Result<(), Denial> {
    if counted.iter().any(|counted| counted.enforced) {
        return Err(unavailable(error));
    }
    reported.extend(counted.iter().map(|counted| counted.index));
    Ok(())
}

/// Nanoseconds on the proxy's monotonic clock.
fn now(exchange: &Exchange<'_>) -> Result<u64, HostError> {
    exchange.monotonic_time().map(nanoseconds)
}

fn way(config: &Config, hashers: &[(KeyHasher, Vec<KeyHasher>)], stage: Stage) -> Way {
    let limits = config.limits.iter().zip(hashers).enumerate();
    let mut asked = limits.filter(|(_, (limit, _))| stage.asks(limit));
    let Some((index, (limit, (hasher, _)))) = asked.next() else { return Way::Free };
    let denies = limit.mode == Mode::Enforce && limit.enforce_percent >= 100;
    if asked.next().is_none() && config.exempt.is_empty() && limit.selector.is_always() && denies {
        Way::One(index, alike(limit, hasher))
    } else {
        Way::Each
    }
}

/// What each request demands where nothing of it changes that.
fn alike(limit: &Limit, hasher: &KeyHasher) -> Option<Demand> {
    let plain = limit.key.is_empty()
        && limit.plans.is_none()
        && limit.cost_from.is_none()
        && limit.cost > 0
        && limit.global.is_none()
        && limit.count_statuses.is_empty();
    plain.then(|| Demand {
        hash: hasher.clone().finish(),
        rate: limit.rate,
        cost: limit.cost,
        single: limit.single,
        table: limit.table,
        on_full: limit.on_full,
        refundable: false,
    })
}

/// Orders standings: a denial before room, the longer wait first, the less room first.
fn severity(standing: &Standing) -> (u64, u64) {
    match standing.verdict {
        Verdict::Denied(wait) => (2, wait.unwrap_or(u64::MAX)),
        Verdict::Conflict => (1, 0),
        Verdict::Admitted => (0, u64::MAX.saturating_sub(standing.remaining)),
    }
}

/// What a request is counted by.
struct Key {
    hash: KeyHash,
    rate: Rate,
    single: Option<usize>,
    /// What the rate limit service is asked.
    descriptor: Option<Descriptor>,
    /// A part of it tells requests apart.
    is_known: bool,
}

/// Whether a part of the limit's key is a claim.
fn keyed_by_claim(limit: &Limit) -> bool {
    limit.key.iter().any(|source| matches!(source, Source::Claim(_)))
}

/// Whether the request is a CORS preflight, which browsers send without a token.
fn is_preflight(exchange: &Exchange<'_>) -> Result<bool, HostError> {
    Ok(exchange.header_first(":method")?.as_deref() == Some(b"OPTIONS") && exchange.headers()?.is_preflight())
}

/// The limit's key of the request; `None` where a part is missing. Notes in `incomplete` whether one is.
fn key(
    limit: &Limit,
    (hasher, plan_hashers): &(KeyHasher, Vec<KeyHasher>),
    exchange: &Exchange<'_>,
    incomplete: &mut bool,
) -> Result<Option<Key>, HostError> {
    limit.head_use.prepare(exchange)?;
    let (mut rate, mut hasher, mut single) = (limit.rate, hasher, limit.single);
    if let Some(Plans { from, rates }) = &limit.plans {
        let plan = from.value(exchange)?;
        let known =
            rates.iter().zip(plan_hashers).find(|((name, _), _)| plan.as_deref() == Some(name.as_bytes()));
        if let Some(((_, plan_rate), plan_hasher)) = known {
            (rate, hasher, single) = (*plan_rate, plan_hasher, None);
        }
    }
    let mut hasher = hasher.clone();
    let mut descriptor = limit.global.as_ref().map(|_| Descriptor::default());
    let mut is_known = false;
    for (n, source) in limit.key.iter().enumerate() {
        // Of a header the first value, as Envoy's own limits take it: to send more must not make a new key.
        let part = source.first_value(exchange)?;
        *incomplete |= part.is_none();
        let gives_up = match limit.on_missing_key {
            OnMissingKey::ShareOne => false,
            // What may be there is not skipped.
            OnMissingKey::Skip => part.is_none() && !source.is_in_doubt(exchange)?,
            OnMissingKey::Deny => part.is_none(),
        };
        if gives_up {
            return Ok(None);
        }
        hasher.part(part.as_deref());
        is_known |= part.is_some() && !matches!(source, Source::Fixed(_) | Source::WorkloadLabel(_));
        if let Some(GlobalLimit { entries, .. }) = &limit.global {
            let entry = entries.get(n).map_or("", String::as_str);
            descriptor = descriptor.map(|d| d.entry(entry, part.as_deref().unwrap_or_default()));
        }
    }
    if let Some(GlobalLimit { send_rate, .. }) = &limit.global {
        if limit.key.is_empty() {
            descriptor = descriptor.map(|d| d.entry("generic_key", limit.name.as_bytes()));
        }
        if *send_rate {
            descriptor = descriptor.map(|d| d.limit(&rate));
        }
    }
    Ok(Some(Key { hash: hasher.finish(), rate, single, descriptor, is_known }))
}

/// As how many requests one counts.
enum Cost {
    Of(u64),
    /// What the request says is no number.
    Invalid,
}

fn cost(limit: &Limit, exchange: &Exchange<'_>) -> Result<Cost, HostError> {
    let Some(source) = &limit.cost_from else { return Ok(Cost::Of(limit.cost)) };
    Ok(match source.value(exchange)? {
        Some(text) => cost::parse(&text).map_or(Cost::Invalid, Cost::Of),
        None => Cost::Of(limit.cost),
    })
}

/// What a condition on a path says where the path has several readings, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// It holds if one reading says so.
    Yes,
    /// It holds only if every reading says so.
    No,
}

/// The request as conditions see it, read when the first of them looks and once for all.
struct Seen<'a> {
    exchange: &'a Exchange<'a>,
    path_case: PathCase,
    head: &'a OnceCell<CurrentHeaders<'a>>,
    request: OnceCell<Request<'a>>,
    readings: OnceCell<Readings<'a>>,
}

impl<'a> Seen<'a> {
    fn request(&self) -> Result<&Request<'a>, HostError> {
        let head = if let Some(head) = self.head.get() {
            head
        } else {
            let head = self.exchange.headers()?;
            self.head.get_or_init(|| head)
        };
        Ok(self.request.get_or_init(|| Request::of(head)))
    }

    fn holds(&self, selector: &Selector, doubt: Doubt) -> Result<bool, HostError> {
        for (key, test) in &selector.claims {
            let value = self.exchange.published(key)?;
            let claim = ClaimValues::published(value.as_deref(), *key == SCOPE);
            if !test.decides_claim(&claim).unwrap_or(doubt == Doubt::Yes) {
                return Ok(false);
            }
        }
        if !self.request_holds(&selector.request, &selector.any_path, doubt)? {
            return Ok(false);
        }
        // Last: it costs most. Without a value, as where a header that it asks for is missing, it is in doubt.
        match selector.when {
            Some(when) => Ok(when.holds(self.exchange, None)?.unwrap_or(doubt == Doubt::Yes)),
            None => Ok(true),
        }
    }

    fn request_holds(
        &self,
        condition: &RequestMatch,
        any_path: &RequestMatch,
        doubt: Doubt,
    ) -> Result<bool, HostError> {
        if condition.is_always() {
            return Ok(true);
        }
        let request = self.request()?;
        // Not known, for one, is what a regular expression says in a callback that is not the request's own.
        let matches = |condition: &RequestMatch, reading: &[u8]| {
            let holds = condition.matches(self.exchange, request, reading)?;
            Ok(holds.unwrap_or(doubt == Doubt::Yes))
        };
        if !condition.reads_path() {
            return matches(condition, b"");
        }
        match self.readings.get_or_init(|| Readings::of(request.target, self.path_case)) {
            Readings::One(reading) => matches(condition, reading),
            Readings::Several(readings) => {
                for reading in readings {
                    let holds = matches(condition, reading)?;
                    if holds == (doubt == Doubt::Yes) {
                        return Ok(holds);
                    }
                }
                Ok(doubt == Doubt::No)
            }
            Readings::None => Ok(doubt == Doubt::Yes && matches(any_path, b"")?),
        }
    }
}

/// The claim that is a list of words (RFC 8693), as jwt-auth has it too.
const SCOPE: &str = "jwt.scope";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use plugin_kit::testing::FakeHost;

    use super::*;
    use crate::limits::slots::WorkerStore;
    use crate::testing::MemoryStore;

    const FAILURE: HostError = HostError { call: "any", status: 10 };

    fn limits(store: &MemoryStore, json: &str) -> Limits {
        let config = Config::parse(json.as_bytes(), &|_: &str| None).unwrap();
        Limits::new(config, store, b"", || Ok([1; 16])).unwrap()
    }

    fn facts(method: &str, path: &str) -> FakeHost {
        FakeHost { monotonic_time: Duration::from_secs(1_000), ..FakeHost::request(method, path) }
    }

    fn decide(limits: &Limits, store: &MemoryStore, facts: &FakeHost) -> Decision {
        limits.decide(store, &Exchange::new(1, facts), Stage::All).unwrap_or_default()
    }

    /// `A` for admitted, `?` for asked, otherwise the code.
    fn verdict(decision: &Decision) -> &'static str {
        match &decision.outcome {
            Outcome::Admitted(_) => "A",
            Outcome::Denied(denial) => denial.reason.code(),
            Outcome::Ask(_) => "?",
        }
    }

    const ONE: &str = r#"{"limits":[{"name":"total","rate":{"requests":1,"per":"1h"}}]}"#;

    #[test]
    fn what_the_host_fails_to_do_denies() {
        let store = MemoryStore::default();
        let limits = limits(&store, ONE);
        let request = facts("GET", "/");
        let no_clock = FakeHost { failure: Some(FAILURE), ..request.clone() };
        assert_eq!(verdict(&decide(&limits, &store, &no_clock)), "rate_limit_unavailable");
        store.failure.set(Some(FAILURE));
        assert_eq!(verdict(&decide(&limits, &store, &request)), "rate_limit_unavailable");
        store.failure.set(None);
        assert_eq!(verdict(&decide(&limits, &store, &request)), "A");
        let keyed = format!(r#"{{"limits":[{},"key":[{{"header":"a"}}]}}]}}"#, &ONE[11..ONE.len() - 3]);
        let keyed = super::tests::limits(&store, &keyed);
        assert_eq!(verdict(&decide(&keyed, &store, &no_clock)), "rate_limit_unavailable");
    }

    #[test]
    fn a_preflight_is_skipped_by_limits_keyed_by_a_claim_and_by_no_others() {
        let store = MemoryStore::default();
        let limit = |name: &str, key: &str, rest: &str| {
            format!(r#"{{"name":"{name}","key":[{key}],"rate":{{"requests":0,"burst":0,"per":"1h"}}{rest}}}"#)
        };
        let decided = |limit: String, facts: &FakeHost| {
            let limits = limits(&store, &format!(r#"{{"limits":[{limit}]}}"#));
            let verdict = verdict(&decide(&limits, &store, facts));
            let without_key: Vec<_> = limits.take_without_key().collect();
            assert_eq!(limits.take_without_key().count(), 0, "each is told once");
            (verdict, without_key)
        };
        let preflight =
            facts("OPTIONS", "/").header("origin", "a").header("access-control-request-method", "GET");
        let by_claim = || limit("a", r#"{"method":{}},{"claim":"sub"}"#, "");
        let denying = || limit("a", r#"{"claim":"sub"}"#, r#","onMissingKey":"deny""#);
        assert_eq!(decided(by_claim(), &preflight), ("A", vec![]));
        assert_eq!(decided(denying(), &preflight), ("A", vec![]));
        let counted = ("rate_limit_exceeded", vec![(0, 1)]);
        for other in [
            facts("GET", "/").header("origin", "a").header("access-control-request-method", "GET"),
            facts("OPTIONS", "/").header("origin", "a"),
            facts("OPTIONS", "/").header("access-control-request-method", "GET"),
        ] {
            assert_eq!(decided(by_claim(), &other), counted, "{other:?}");
        }
        assert_eq!(decided(denying(), &facts("GET", "/")), ("rate_limit_key_missing", vec![(0, 1)]));
        assert_eq!(decided(limit("a", r#"{"header":"x"}"#, ""), &preflight), counted);
        // Whoever sends a token is known by it.
        let known = preflight.clone().property("jwt.sub", "alice");
        assert_eq!(decided(by_claim(), &known), ("rate_limit_exceeded", vec![]));
    }

    #[test]
    fn a_path_that_cannot_be_read_is_not_skipped() {
        let json = r#"{"limits":[{"name":"orders","key":[{"pathTemplate":["/users/{*}/orders"]}],"onMissingKey":"skip",
            "rate":{"requests":1,"per":"1h"}}]}"#;
        let store = MemoryStore::default();
        let limits = limits(&store, json);
        let verdicts =
            |paths: [&str; 3]| paths.map(|path| verdict(&decide(&limits, &store, &facts("GET", path))));
        assert_eq!(verdicts(["/users/1", "/", "/users/1/orders/x"]), ["A", "A", "A"]);
        let ways = ["/users/1/orders%3Fx", "/users/2/orders%23", "/users/3/orders%253Fx/.."];
        assert_eq!(verdicts(ways), ["A", "rate_limit_exceeded", "rate_limit_exceeded"]);
        let long = format!("/users/1/orders;{}", "a".repeat(3_000));
        assert_eq!(verdicts([&long, &long, "/%zz"]), ["A", "rate_limit_exceeded", "rate_limit_exceeded"]);
    }

    #[test]
    fn in_doubt_about_the_host_a_limit_counts_and_an_exemption_does_not_exempt() {
        let limit = r#""name":"a","rate":{"requests":1,"per":"1h"}"#;
        let counted = |json: &str, authority: &str| {
            let store = MemoryStore::default();
            let limits = limits(&store, json);
            let facts = FakeHost { monotonic_time: Duration::from_secs(1_000), ..FakeHost::default() };
            let facts = facts.header(":method", "GET").header(":path", "/").header(":authority", authority);
            decide(&limits, &store, &facts);
            verdict(&decide(&limits, &store, &facts)) != "A"
        };
        let by_host = format!(r#"{{"limits":[{{{limit},"match":{{"hosts":["api.test"]}}}}]}}"#);
        let by_both =
            format!(r#"{{"limits":[{{{limit},"match":{{"hosts":["api.test"],"paths":["/other"]}}}}]}}"#);
        let exempt = format!(r#"{{"limits":[{{{limit}}}],"exempt":[{{"match":{{"hosts":["api.test"]}}}}]}}"#);
        for (authority, by_host_too, not_exempt) in [
            ("api.test", true, false),
            ("API.test.:80", true, false),
            ("other.test", false, true),
            ("u@api.test", true, true),
            ("api.test:80:80", true, true),
            ("api.test..", true, true),
            ("api%2etest", true, true),
        ] {
            assert_eq!(counted(&by_host, authority), by_host_too, "{authority}");
            assert_eq!(counted(&exempt, authority), not_exempt, "{authority}");
            assert!(!counted(&by_both, authority), "{authority}");
        }
    }

    #[test]
    fn no_configuration_without_its_slots_or_a_random_number() {
        let store = MemoryStore::default();
        let config = || Config::parse(ONE.as_bytes(), &|_: &str| None).unwrap();
        assert_eq!(Limits::new(config(), &store, b"", || Err(FAILURE)).err(), Some(FAILURE));
        store.failure.set(Some(FAILURE));
        assert_eq!(Limits::new(config(), &store, b"", || Ok([1; 16])).err(), Some(FAILURE));
    }

    #[test]
    fn slots_are_created_once_for_all_workers() {
        let store = MemoryStore::default();
        let two = r#"{"limits":[{"name":"total","rate":{"requests":1,"per":"1h"}},
            {"name":"user","key":[{"header":"x"}],"rate":{"requests":1,"per":"1h"}}]}"#;
        assert_eq!((limits(&store, two).created(), limits(&store, two).created()), (2, 0));
    }

    #[test]
    fn a_limit_whose_rates_were_changed_is_named_once() {
        let store = MemoryStore::default();
        let changed = |requests: u32, pro: u32, scope: &[u8]| {
            let json = format!(
                r#"{{"limits":[{{"name":"other","rate":{{"requests":1,"per":"1h"}}}},{{"name":"user","rate":{{"requests":{requests},"per":"1h"}},
                "plans":{{"from":{{"claim":"plan"}},"rates":{{"pro":{{"requests":{pro},"per":"1h"}}}}}}}}]}}"#
            );
            let config = Config::parse(json.as_bytes(), &|_: &str| None).unwrap();
            let limits = Limits::new(config, &store, scope, || Ok([1; 16])).unwrap();
            limits.changed().map(|limit| limit.name.clone()).collect::<Vec<_>>()
        };
        for (requests, pro, expected) in
            [(1, 2, false), (1, 2, false), (3, 2, true), (3, 2, false), (3, 4, true), (4, 3, true)]
        {
            let expected: &[&str] = if expected { &["user"] } else { &[] };
            assert_eq!(changed(requests, pro, b"a"), expected);
        }
        // Another plugin's limit of that name is another limit.
        assert!(changed(9, 9, b"b").is_empty());
    }

    #[test]
    fn workers_that_count_alone_share_nothing() {
        let json = r#"{"limits":[{"name":"user","key":[{"header":"x"}],"rate":{"requests":2,"per":"1h"}}],"scope":"worker"}"#;
        let worker = || {
            let store = WorkerStore::default();
            let config = Config::parse(json.as_bytes(), &|_: &str| None).unwrap();
            (Limits::new(config, &store, b"", || Ok([1; 16])).unwrap(), store)
        };
        for (limits, store) in [worker(), worker()] {
            for (user, expected) in [("a", "AAD"), ("b", "AAD"), ("a", "D")] {
                let request = facts("GET", "/").header("x", user);
                let ask =
                    |_| limits.decide(&store, &Exchange::new(1, &request), Stage::All).unwrap_or_default();
                let asked = expected.chars().map(ask).map(|d| if verdict(&d) == "A" { 'A' } else { 'D' });
                assert_eq!(asked.collect::<String>(), expected, "{user}");
            }
        }
    }

    #[test]
    fn each_stage_asks_its_own_limits() {
        let limit = |name: &str, requests: u32, more: &str| {
            format!(r#"{{"name":"{name}","rate":{{"requests":{requests},"per":"1h"}}{more}}}"#)
        };
        let of = |before: u32, after: u32| {
            let (before, after) = (limit("early", before, r#","before":"auth""#), limit("late", after, ""));
            format!(r#"{{"limits":[{before},{after}]}}"#)
        };
        let request = facts("GET", "/");
        for (json, early, late, all) in [
            (of(0, 0), Some(0), Some(1), Some(1)),
            (of(0, 1), Some(0), None, Some(0)),
            (of(1, 0), None, Some(1), Some(1)),
            (format!(r#"{{"limits":[{}]}}"#, limit("late", 0, "")), None, Some(0), Some(0)),
        ] {
            for (stage, denies) in [(Stage::BeforeAuth, early), (Stage::AfterAuth, late), (Stage::All, all)] {
                let store = MemoryStore::default();
                let decision = limits(&store, &json).decide(&store, &Exchange::new(1, &request), stage);
                let denied = match decision.unwrap_or_default().outcome {
                    Outcome::Denied(denial) => denial.limit,
                    _ => None,
                };
                assert_eq!(denied, denies, "{json} {stage:?}");
            }
        }
    }

    #[test]
    fn a_response_of_another_status_gives_the_charge_back() {
        let json =
            r#"{"limits":[{"name":"failures","countStatuses":[401,403],"rate":{"requests":2,"per":"1h"}}]}"#;
        let store = MemoryStore::default();
        let limits = limits(&store, json);
        let request = facts("GET", "/");
        let answer = |status| {
            let Outcome::Admitted(admission) = decide(&limits, &store, &request).outcome else {
                return false;
            };
            let tally = limits.settle(&store, &Exchange::new(1, &request), admission.pending, status);
            assert_eq!(tally.refunded, u32::from(status == Some(200)));
            true
        };
        assert!((0..9).all(|_| answer(Some(200))));
        // Without a status nothing is known of the response: the charge stays.
        assert_eq!([Some(401), None, Some(200)].map(answer), [true, true, false]);
    }

    #[test]
    fn a_missing_key_is_what_the_configuration_says_of_it() {
        for (more, expected, reported) in [
            ("", "rate_limit_exceeded", 0),
            (r#","onMissingKey":"skip""#, "A", 0),
            (r#","onMissingKey":"deny""#, "rate_limit_key_missing", 0),
            (r#","onMissingKey":"deny","mode":"report""#, "A", 1),
        ] {
            let json = format!(
                r#"{{"limits":[{{"name":"user","key":[{{"header":"x"}}],"rate":{{"requests":0,"per":"1h"}}{more}}}]}}"#
            );
            let store = MemoryStore::default();
            let decision = decide(&limits(&store, &json), &store, &facts("GET", "/"));
            assert_eq!((verdict(&decision), decision.reported.len()), (expected, reported), "{more}");
        }
    }

    #[test]
    fn what_cannot_be_counted_is_denied_unless_the_configuration_says_otherwise() {
        let store = MemoryStore::default();
        store.conflicts.set(u32::MAX);
        let deny = limits(&store, ONE);
        assert_eq!(verdict(&decide(&deny, &store, &facts("GET", "/"))), "rate_limit_conflict");
        let allow = format!(r#"{}, "onConflict": "allow" }}"#, &ONE[..ONE.len() - 1]);
        let decision = decide(&limits(&store, &allow), &store, &facts("GET", "/"));
        assert!(matches!(decision.outcome, Outcome::Admitted(Admission { uncounted: true, .. })));
        assert_eq!(decision.tally.conflicts, 32);
    }

    #[test]
    fn plugins_of_different_names_share_no_limit() {
        let store = MemoryStore::default();
        let of =
            |scope: &[u8]| {
                Limits::new(Config::parse(ONE.as_bytes(), &|_: &str| None).unwrap(), &store, scope, || {
                    Ok([1; 16])
                })
                .unwrap()
            };
        let request = facts("GET", "/");
        assert_eq!(verdict(&decide(&of(b"a"), &store, &request)), "A");
        assert_eq!(verdict(&decide(&of(b"b"), &store, &request)), "A");
        assert_eq!(verdict(&decide(&of(b"a"), &store, &request)), "rate_limit_exceeded");
    }

    #[test]
    fn a_path_in_doubt_is_counted_and_not_exempt() {
        let json = r#"{"limits":[{"name":"a","match":{"paths":["/a/*"],"methods":["GET"]},"rate":{"requests":0,"per":"1h"}}],
            "exempt":[{"match":{"paths":["/a/free"]}}]}"#;
        let store = MemoryStore::default();
        let limits = limits(&store, json);
        for (method, path, expected) in [
            ("GET", "/a", "rate_limit_exceeded"),
            ("GET", "/b", "A"),
            ("POST", "/a", "A"),
            ("GET", "/b/../a/x", "rate_limit_exceeded"),
            ("GET", "/%zz", "rate_limit_exceeded"),
            ("POST", "/%zz", "A"),
            ("GET", "/a/free", "A"),
            ("GET", "/a/x/../free", "rate_limit_exceeded"),
        ] {
            let verdict = verdict(&decide(&limits, &store, &facts(method, path)));
            assert_eq!(verdict, expected, "{method} {path}");
        }
    }

    #[test]
    fn a_claim_is_tested_as_it_is_in_the_token_and_in_doubt_it_counts() {
        let limit = |name: &str, claim: &str, test: &str| {
            format!(
                r#"{{"name":"{name}","match":{{"claims":{{"{claim}":{test}}}}},"rate":{{"requests":0,"per":"1h"}}}}"#
            )
        };
        let admin = limit("a", "roles", r#"{"anyOf":["admin"]}"#);
        let others = limit("a", "roles", r#"{"noneOf":["admin"]}"#);
        let reads = limit("a", "scope", r#"{"anyOf":["read"]}"#);
        let exempt = r#"{"name":"a","rate":{"requests":0,"per":"1h"}}],"exempt":[{"match":{"claims":{"roles":{"noneOf":["admin"]}}}}"#;
        for (json, claim, published, denied) in [
            (&*admin, "roles", None, false),
            (&admin, "roles", Some(r#"["user","admin"]"#), true),
            (&admin, "roles", Some(r#"["user"]"#), false),
            (&admin, "roles", Some("admin"), true),
            (&admin, "roles", Some(r#""[\"admin\"]""#), false),
            (&admin, "roles", Some(r#"{"admin":1}"#), true),
            (&admin, "roles", Some("[admin"), true),
            (&admin, "roles", Some(""), true),
            (&others, "roles", None, true),
            (&others, "roles", Some("[]"), true),
            (&others, "roles", Some("{}"), true),
            (&others, "roles", Some(r#"["admin",{}]"#), false),
            (&reads, "scope", Some("write read"), true),
            (&reads, "scope", Some("reads"), false),
            (exempt, "roles", None, false),
            (exempt, "roles", Some("[]"), false),
            (exempt, "roles", Some("user"), false),
            (exempt, "roles", Some(r#"{"admin":1}"#), true),
            (exempt, "roles", Some("[{}]"), true),
            (exempt, "roles", Some(""), true),
        ] {
            let store = MemoryStore::default();
            let limits = limits(&store, &format!(r#"{{"limits":[{json}]}}"#));
            let mut facts = facts("GET", "/");
            if let Some(published) = published {
                facts = facts.property(&format!("jwt.{claim}"), published);
            }
            let decision = decide(&limits, &store, &facts);
            assert_eq!(verdict(&decision) != "A", denied, "{json} {published:?}");
        }
    }

    #[test]
    fn a_ramp_enforces_for_its_share_of_keys() {
        let limit = |percent| {
            format!(
                r#"{{"limits":[{{"name":"a","key":[{{"header":"x"}}],"enforcePercent":{percent},"rate":{{"requests":0,"per":"1h"}}}}]}}"#
            )
        };
        let store = MemoryStore::default();
        let denied = |percent| {
            let limits = limits(&store, &limit(percent));
            let key = |n: u32| facts("GET", "/").header("x", &n.to_string());
            let decisions = (0..1_000).map(|n| decide(&limits, &store, &key(n)));
            decisions.map(|d| (verdict(&d) != "A", d.reported.len())).collect::<Vec<_>>()
        };
        let (none, few, all) = (denied(0), denied(30), denied(100));
        let count = |decisions: &[(bool, usize)]| decisions.iter().filter(|(denied, _)| *denied).count();
        assert_eq!((count(&none), count(&all)), (0, 1_000));
        assert!((200..400).contains(&count(&few)), "{}", count(&few));
        assert!(none.iter().chain(&few).chain(&all).all(|(denied, reported)| *denied == (*reported == 0)));
    }

    /// For each request, whether it was denied; otherwise it was reported.
    fn ramp(percent: u8, more: &str, requests: impl Iterator<Item = FakeHost>) -> Vec<bool> {
        let json = format!(
            r#"{{"limits":[{{"name":"a","enforcePercent":{percent},"rate":{{"requests":0,"per":"1h"}}{more}}}]}}"#
        );
        let store = MemoryStore::default();
        let limits = limits(&store, &json);
        let denied = |request: FakeHost| {
            let decision = decide(&limits, &store, &request);
            let denied = matches!(decision.outcome, Outcome::Denied(_));
            assert_eq!(decision.reported.len(), usize::from(!denied));
            denied
        };
        requests.map(denied).collect()
    }

    #[test]
    fn a_ramp_without_a_key_enforces_for_its_share_of_requests() {
        let same = || (0..1_000).map(|_| facts("GET", "/"));
        let count = |denied: &[bool]| denied.iter().filter(|denied| **denied).count();
        for more in [
            "",
            r#","key":[{"header":"x"}]"#,
            r#","key":[{"literal":"search"},{"header":"x"}]"#,
            r#","key":[{"header":"x"}],"onMissingKey":"deny""#,
        ] {
            assert_eq!(count(&ramp(0, more, same())), 0, "{more}");
            assert_eq!(count(&ramp(100, more, same())), 1_000, "{more}");
            let denied = ramp(30, more, same());
            assert!((230..370).contains(&count(&denied)), "{more}: {}", count(&denied));
            // No client that takes turns with others is always, or never, denied.
            for period in 2..10 {
                for first in 0..period {
                    let one: Vec<bool> = denied.iter().skip(first).step_by(period).copied().collect();
                    assert!(count(&one) > 0 && count(&one) < one.len(), "{more}: {first} of {period}");
                }
            }
        }
        // A part that tells requests apart is a key, whatever else is missing.
        let user = |user: &str| {
            let request = facts("GET", "/").header("x", user);
            (0..9).map(move |_| request.clone())
        };
        let more = r#","key":[{"header":"x"},{"header":"y"}]"#;
        let shares: Vec<usize> = (0..50).map(|n| count(&ramp(50, more, user(&n.to_string())))).collect();
        assert!(shares.contains(&0) && shares.contains(&9), "{shares:?}");
        assert!(shares.iter().all(|share| [0, 9].contains(share)), "{shares:?}");
    }

    #[test]
    fn a_request_costs_what_it_says() {
        for (cost, expected) in [
            (Some("0"), "AAAAAAAA"),
            (Some("0.0"), "AAAAAAAA"),
            (Some("1"), "AAAAA---"),
            (Some("1.5"), "AA------"),
            (Some("2.0"), "AA------"),
            (Some("0.5e1"), "A-------"),
            (Some("6"), "--------"),
            (Some("1e2"), "--------"),
            (Some("4294967295"), "--------"),
            (Some("4294967296"), "--------"),
            (Some("99999999999999999999"), "--------"),
            (None, "AA------"),
            (Some("none"), "!!!!!!!!"),
            (Some("-1"), "!!!!!!!!"),
            (Some(""), "AA------"),
        ] {
            for (more, invalid) in [("", "!!!!!!!!"), (r#","onInvalidCost":"useCost""#, "AA------")] {
                let json = format!(
                    r#"{{"limits":[{{"name":"a","cost":2,"costFrom":{{"header":"x-cost","trust":true}},"rate":{{"requests":5,"per":"1h"}}{more}}}]}}"#
                );
                let store = MemoryStore::default();
                let limits = limits(&store, &json);
                let mut request = facts("GET", "/");
                if let Some(cost) = cost {
                    request = request.header("x-cost", cost);
                }
                let expected = if expected.starts_with('!') { invalid } else { expected };
                let seen: String = (0..8)
                    .map(|_| {
                        let decision = decide(&limits, &store, &request);
                        let is_invalid = matches!(cost, Some("none" | "-1"));
                        assert_eq!(decision.tally.invalid_costs, u32::from(is_invalid), "{cost:?}");
                        match verdict(&decision) {
                            "A" => 'A',
                            "rate_limit_cost_invalid" => '!',
                            "rate_limit_exceeded" => '-',
                            other => panic!("{other}"),
                        }
                    })
                    .collect();
                assert_eq!(seen, expected, "{cost:?} {more}");
            }
        }
    }

    #[test]
    fn a_limit_that_only_reports_denies_nothing_for_a_cost_or_a_host_that_fails() {
        let json = r#"{"limits":[{"name":"a","mode":"report","costFrom":{"header":"x-cost","trust":true},"rate":{"requests":5,"per":"1h"}}]}"#;
        let store = MemoryStore::default();
        let limits = limits(&store, json);
        let reports = |request: &FakeHost| {
            let decision = decide(&limits, &store, request);
            assert_eq!((verdict(&decision), &*decision.reported), ("A", &[0][..]));
        };
        reports(&facts("GET", "/").header("x-cost", "none"));
        reports(&FakeHost { failure: Some(FAILURE), ..facts("GET", "/") });
        store.failure.set(Some(FAILURE));
        reports(&facts("GET", "/"));
    }

    #[test]
    fn a_limit_that_counts_nothing_admits_all_and_one_of_0_denies_what_is_free() {
        for (limit, expected) in [
            (r#""cost":0,"rate":{"requests":1,"per":"1h"}"#, "A"),
            (r#""cost":0,"rate":{"requests":0,"per":"1h"}"#, "rate_limit_exceeded"),
        ] {
            let store = MemoryStore::default();
            let limits = limits(&store, &format!(r#"{{"limits":[{{"name":"a",{limit}}}]}}"#));
            for _ in 0..9 {
                assert_eq!(verdict(&decide(&limits, &store, &facts("GET", "/"))), expected, "{limit}");
            }
        }
    }

    #[test]
    fn the_service_is_asked_neither_for_what_is_free_nor_for_what_is_too_much() {
        for (on_failure, more) in
            [("deny", ""), ("allow", ""), ("local", ""), ("deny", r#","mode":"report""#)]
        {
            let json = format!(
                r#"{{"limits":[{{"name":"user","key":[{{"header":"x"}}],"rate":{{"requests":5,"per":"1d"}},
                "global":{{"entries":["user"]}},"costFrom":{{"header":"x-cost","trust":true}}{more}}}],
                "global":{{"domain":"d","cluster":"c","onFailure":"{on_failure}"}}}}"#
            );
            let store = MemoryStore::default();
            let limits = limits(&store, &json);
            let ask = |cost: &str| {
                let request = facts("GET", "/").header("x", "a").header("x-cost", cost);
                decide(&limits, &store, &request)
            };
            assert_eq!(verdict(&ask("0")), "A");
            let decision = ask("6");
            let expected = if more.contains("report") { ("A", 1) } else { ("rate_limit_exceeded", 0) };
            assert_eq!((verdict(&decision), decision.reported.len()), expected, "{on_failure}");
            assert_eq!(verdict(&ask("5")), "?");
            // Not while it is left alone either.
            for _ in 0..5 {
                limits.hear(&store, question(ask("1")), Err(Failure::Malformed), Ok(NOW));
            }
            let decision = ask("6");
            assert_eq!((verdict(&decision), decision.reported.len()), expected, "{on_failure}");
        }
    }

    #[test]
    fn an_answer_at_no_known_time_lets_nothing_through_that_a_limit_enforces() {
        for (more, expected) in [("", ("rate_limit_unavailable", 0)), (r#","mode":"report""#, ("A", 1))] {
            for answer in [Ok(OK), Ok(over(0, 5_000)), Err(Failure::Grpc(14))] {
                let json = format!(
                    r#"{{"limits":[{{"name":"user","key":[{{"header":"x"}}],"rate":{{"requests":5,"per":"1d"}},"global":{{"entries":["user"]}}{more}}}],
                    "global":{{"domain":"d","cluster":"c","onFailure":"allow"}}}}"#
                );
                let store = MemoryStore::default();
                let limits = limits(&store, &json);
                let decision = limits.hear(&store, ask(&limits, &store, "a"), answer, Err(FAILURE));
                assert_eq!((verdict(&decision), decision.reported.len()), expected);
            }
        }
    }

    /// A limit of 5 a day that is asked globally, and one of 5 a day that is not.
    fn asking(store: &MemoryStore, on_failure: &str, more: &str) -> Limits {
        let json = format!(
            r#"{{"limits":[
                {{"name":"user","key":[{{"header":"x"}}],"rate":{{"requests":5,"per":"1d"}},"global":{{"entries":["user"]}}{more}}},
                {{"name":"total","rate":{{"requests":5,"per":"1d"}}}}],
            "global":{{"domain":"d","cluster":"c","onFailure":"{on_failure}"}},"response":{{"headersOn":"always"}}}}"#
        );
        limits(store, &json)
    }

    fn question(decision: Decision) -> Question {
        match decision.outcome {
            Outcome::Ask(question) => *question,
            other => panic!("{other:?}"),
        }
    }

    fn ask(limits: &Limits, store: &MemoryStore, user: &str) -> Question {
        question(decide(limits, store, &facts("GET", "/").header("x", user)))
    }

    const NOW: u64 = 1_000_000_000_000;
    const OK: Response = Response {
        over_limit: false,
        statuses: Vec::new(),
        response_headers: Vec::new(),
        request_headers: Vec::new(),
        body: Vec::new(),
    };

    fn over(remaining: u64, reset: u64) -> Response {
        let status = Status { over_limit: true, requests: 5, window: 86_400, remaining, reset };
        Response { over_limit: true, statuses: vec![status], ..OK }
    }

    /// How many requests of fresh users the limit that is not asked globally still admits.
    fn left(limits: &Limits, store: &MemoryStore) -> usize {
        let admits = |n: usize| {
            let user = facts("GET", "/").header("x", &format!("fresh-{n}"));
            match decide(limits, store, &user).outcome {
                Outcome::Ask(question) => {
                    let decision = limits.hear(store, *question, Ok(OK), Ok(NOW));
                    matches!(decision.outcome, Outcome::Admitted(_))
                }
                _ => false,
            }
        };
        (0..6).filter(|n| admits(*n)).count()
    }

    #[test]
    fn the_service_decides_and_what_it_denies_costs_no_limit_anything() {
        let store = MemoryStore::default();
        let limits = asking(&store, "deny", "");
        let decision = limits.hear(&store, ask(&limits, &store, "a"), Ok(OK), Ok(NOW));
        assert!(matches!(decision.outcome, Outcome::Admitted(Admission { uncounted: false, .. })));
        assert_eq!(decision.service, ServiceTally { ok: 1, ..ServiceTally::default() });
        for n in 0..20 {
            let decision =
                limits.hear(&store, ask(&limits, &store, &format!("b{n}")), Ok(over(0, 5_000)), Ok(NOW));
            assert_eq!(verdict(&decision), "rate_limit_exceeded");
            assert_eq!(decision.service.over_limit, 1);
        }
        assert_eq!(left(&limits, &store), 4);
    }

    #[test]
    fn a_key_that_is_over_its_limit_is_not_asked_for_until_its_window_ends() {
        let store = MemoryStore::default();
        let limits = asking(&store, "deny", "");
        let reset = 7_000_000_000;
        limits.hear(&store, ask(&limits, &store, "a"), Ok(over(0, reset)), Ok(NOW));
        let reads = store.reads.get();
        let decision = decide(&limits, &store, &facts("GET", "/").header("x", "a"));
        let Outcome::Denied(denial) = &decision.outcome else { panic!("{decision:?}") };
        assert_eq!((denial.limit, denial.reason), (Some(0), DenyReason::Limited(Some(reset))));
        assert_eq!((decision.service.remembered, store.reads.get() - reads), (1, 0));
        ask(&limits, &store, "b");
        let mut later = facts("GET", "/").header("x", "a");
        later.monotonic_time += Duration::from_nanos(reset);
        question(decide(&limits, &store, &later));
        // Something is left for a cheaper request: nothing is remembered.
        limits.hear(&store, ask(&limits, &store, "c"), Ok(over(2, reset)), Ok(NOW));
        ask(&limits, &store, "c");
    }

    #[test]
    fn a_service_that_fails_is_what_the_configuration_says() {
        let failure = || Err(Failure::Grpc(14));
        for (on_failure, expected, uncounted, user_left, total_left) in [
            ("deny", "rate_limit_service_unavailable", false, 5, 5),
            ("allow", "A", true, 5, 4),
            ("local", "A", false, 4, 4),
        ] {
            let store = MemoryStore::default();
            let limits = asking(&store, on_failure, "");
            let decision = limits.hear(&store, ask(&limits, &store, "a"), failure(), Ok(NOW));
            assert_eq!(verdict(&decision), expected);
            let is_uncounted =
                matches!(decision.outcome, Outcome::Admitted(Admission { uncounted: true, .. }));
            assert_eq!((is_uncounted, decision.service.failed), (uncounted, 1), "{on_failure}");
            let demand = ask(&limits, &store, "a").counted[0].demand;
            let remaining =
                limits.limiter.charge(&store, &[Demand { cost: 99, ..demand }], NOW).unwrap()[0].remaining;
            assert_eq!((remaining, left(&limits, &store)), (user_left, total_left), "{on_failure}");
        }
    }

    #[test]
    fn a_service_that_keeps_failing_is_left_alone_and_the_configuration_decides_without_it() {
        let store = MemoryStore::default();
        let limits = asking(&store, "deny", "");
        let opened = (0..5).map(|_| {
            limits.hear(&store, ask(&limits, &store, "a"), Err(Failure::Malformed), Ok(NOW)).service.opened
        });
        assert_eq!(opened.collect::<Vec<_>>(), [false, false, false, false, true]);
        let request = facts("GET", "/").header("x", "a");
        let decision = decide(&limits, &store, &request);
        assert_eq!(verdict(&decision), "rate_limit_service_unavailable");
        assert_eq!(decision.service.skipped, 1);
        let mut later = request;
        later.monotonic_time += Duration::from_secs(1);
        let probe = question(decide(&limits, &store, &later));
        assert_eq!(verdict(&decide(&limits, &store, &later)), "rate_limit_service_unavailable");
        let decision = limits.hear(&store, probe, Ok(OK), Ok(NOW + 1_000_000_000));
        assert!(decision.service.closed && verdict(&decision) == "A");
        question(decide(&limits, &store, &later));
    }

    #[test]
    fn a_limit_that_only_reports_is_asked_and_denies_nothing() {
        for more in [r#","mode":"report""#, r#","enforcePercent":0"#] {
            let store = MemoryStore::default();
            let limits = asking(&store, "deny", more);
            let decision = limits.hear(&store, ask(&limits, &store, "a"), Ok(over(0, 5_000)), Ok(NOW));
            assert_eq!((verdict(&decision), &*decision.reported), ("A", &[0][..]));
            // From memory too, and a failure of the service is no reason to deny.
            let decision = decide(&limits, &store, &facts("GET", "/").header("x", "a"));
            assert_eq!((verdict(&decision), &*decision.reported), ("A", &[0][..]));
            let decision = limits.hear(&store, ask(&limits, &store, "b"), Err(Failure::Code(0)), Ok(NOW));
            assert_eq!((verdict(&decision), decision.reported.len()), ("A", 0));
        }
    }

    #[test]
    fn a_busy_key_is_asked_for_each_time_and_shown_each_time() {
        let limit = |more: &str, rest: &str| {
            format!(
                r#"{{"limits":[{{"name":"user","key":[{{"header":"x"}}],"rate":{{"requests":1000,"per":"1s"}}{more}}}]{rest}}}"#
            )
        };
        let request = |n: u64| {
            let mut request = facts("GET", "/").header("x", "a");
            request.monotonic_time += Duration::from_millis(n);
            request
        };
        let store = MemoryStore::default();
        let asked = limits(
            &store,
            &limit(r#","global":{"entries":["user"]}"#, r#","global":{"domain":"d","cluster":"c"}"#),
        );
        for n in 0..20 {
            let decision = decide(&asked, &store, &request(n));
            let now = nanoseconds(request(n).monotonic_time);
            assert_eq!(verdict(&asked.hear(&store, question(decision), Ok(OK), Ok(now))), "A");
        }
        let shown = limits(&store, &limit("", r#","response":{"headersOn":"always"}"#));
        for n in 0..20 {
            let Outcome::Admitted(admission) = decide(&shown, &store, &request(n)).outcome else {
                panic!("{n}")
            };
            assert!(!admission.headers.is_empty(), "{n}");
        }
    }

    #[test]
    fn of_several_keys_over_their_limits_the_longest_wait_is_told() {
        let json = r#"{"limits":[
            {"name":"a","key":[{"header":"x"}],"rate":{"requests":5,"per":"1d"},"global":{"entries":["a"]}},
            {"name":"b","key":[{"header":"x"}],"rate":{"requests":5,"per":"1d"},"global":{"entries":["b"]}}],
            "global":{"domain":"d","cluster":"c"}}"#;
        for resets in [[5_000, 9_000], [9_000, 5_000]] {
            let store = MemoryStore::default();
            let limits = limits(&store, json);
            let status =
                |reset| Status { over_limit: true, requests: 5, window: 86_400, remaining: 0, reset };
            let answer = Response { over_limit: true, statuses: resets.map(status).to_vec(), ..OK };
            let request = facts("GET", "/").header("x", "k");
            let first = limits.hear(&store, question(decide(&limits, &store, &request)), Ok(answer), Ok(NOW));
            for decision in [first, decide(&limits, &store, &request)] {
                let Outcome::Denied(denial) = decision.outcome else { panic!("{decision:?}") };
                assert_eq!(denial.reason, DenyReason::Limited(Some(9_000)));
                assert_eq!(denial.limit, Some(usize::from(resets[1] == 9_000)));
            }
        }
    }

    #[test]
    fn what_the_service_says_to_a_denied_client_is_told() {
        let store = MemoryStore::default();
        let limits = asking(&store, "deny", "");
        let answer = Response {
            response_headers: vec![("x-from-service".to_owned(), "7".to_owned())],
            body: b"come back later".to_vec(),
            ..over(0, 5_000)
        };
        let request = facts("GET", "/").header("x", "a");
        let decision = limits.hear(&store, ask(&limits, &store, "a"), Ok(answer), Ok(NOW));
        let Outcome::Denied(denial) = decision.outcome else { panic!("{decision:?}") };
        let reply = limits.reply(&Exchange::new(1, &request), denial);
        assert!(reply.headers.contains(&("x-from-service".to_owned(), "7".to_owned())), "{reply:?}");
        assert_eq!(reply.body, b"come back later");
    }

    #[test]
    fn a_denial_tells_what_is_left_and_a_request_id() {
        let store = MemoryStore::default();
        let limits = limits(&store, &ONE.replace(r#""requests":1"#, r#""requests":0"#));
        let request = facts("GET", "/").header("x-request-id", "r-1");
        let Outcome::Denied(denial) = decide(&limits, &store, &request).outcome else { panic!("admitted") };
        let reply = limits.reply(&Exchange::new(1, &request), denial);
        let header = |name: &str| reply.headers.iter().any(|(found, _)| found.eq_ignore_ascii_case(name));
        assert!(header("ratelimit") && header("ratelimit-policy"), "{reply:?}");
        // It never comes back, so no time is told at which it does.
        assert!(reply.headers.contains(&("ratelimit".to_owned(), r#""total";r=0"#.to_owned())), "{reply:?}");
        assert!(!header("retry-after"), "{reply:?}");
        assert!(String::from_utf8_lossy(&reply.body).contains("r-1"), "{reply:?}");
    }

    #[test]
    fn what_is_said_of_the_whole_counts_where_nothing_is_said_of_each() {
        let store = MemoryStore::default();
        let limits = asking(&store, "deny", "");
        let decision =
            limits.hear(&store, ask(&limits, &store, "a"), Ok(Response { over_limit: true, ..OK }), Ok(NOW));
        let Outcome::Denied(denial) = decision.outcome else { panic!("{decision:?}") };
        assert_eq!((denial.limit, denial.reason), (Some(0), DenyReason::Limited(None)));
        // A service that only reports says OK of the whole.
        let shadow = Response { over_limit: false, ..over(0, 5_000) };
        assert_eq!(verdict(&limits.hear(&store, ask(&limits, &store, "a"), Ok(shadow), Ok(NOW))), "A");
        ask(&limits, &store, "a");
    }

    #[test]
    fn the_limits_of_this_proxy_come_first() {
        let store = MemoryStore::default();
        let limits = asking(&store, "deny", "");
        for _ in 0..5 {
            limits.hear(&store, ask(&limits, &store, "a"), Ok(OK), Ok(NOW));
        }
        let decision = decide(&limits, &store, &facts("GET", "/").header("x", "b"));
        let Outcome::Denied(denial) = decision.outcome else { panic!("{decision:?}") };
        assert_eq!(denial.limit, Some(1));
    }

    #[test]
    fn requests_that_wait_together_are_charged_when_the_service_has_said_yes() {
        let store = MemoryStore::default();
        let limits = asking(&store, "deny", "");
        let questions: Vec<_> = (0..8).map(|n| ask(&limits, &store, &format!("u{n}"))).collect();
        let admitted = questions
            .into_iter()
            .map(|question| verdict(&limits.hear(&store, question, Ok(OK), Ok(NOW))))
            .collect::<Vec<_>>();
        let expected = [["A"; 5].as_slice(), ["rate_limit_exceeded"; 3].as_slice()].concat();
        assert_eq!(admitted, expected);
    }

    #[test]
    fn the_tightest_of_all_limits_is_shown() {
        let store = MemoryStore::default();
        let limits = asking(&store, "deny", "");
        let shown = |remaining| {
            let status =
                Status { over_limit: false, requests: 100, window: 60, remaining, reset: 30_000_000_000 };
            let response = Response { statuses: vec![status], ..OK };
            match limits.hear(&store, ask(&limits, &store, "a"), Ok(response), Ok(NOW)).outcome {
                Outcome::Admitted(admission) => {
                    admission.headers.into_iter().map(|(_, value)| value).collect::<Vec<_>>().join(" ")
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(shown(2), r#""user";q=100;w=60 "user";r=2;t=30"#);
        assert!(shown(50).contains("q=5;w=86400"));
    }
}
