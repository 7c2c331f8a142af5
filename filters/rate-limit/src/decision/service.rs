//! The rate limit service's part in a decision: when it is asked, and what its answer or its silence means.

use std::cell::Cell;
use std::cmp::Reverse;

use plugin_kit::host::HostError;

use super::outcome::{Counted, Decision, Denial, Outcome, Question, ServiceStats, denied, unavailable};
use super::{Limits, severity, without_clock};
use crate::config::OnFailure;
use crate::limits::charge::ChargeRequest;
use crate::limits::slots::SharedStore;
use crate::reply::{DenyReason, HeadersOn, Shown};
use crate::service::health::{Breaker, OverLimits};
use crate::service::protocol::{Descriptor, Failure, Response, Status, request};

/// What a worker knows about the rate limit service. A [`Cell`] lends nothing, so another request may run
/// during any host call.
#[derive(Debug, Default)]
pub(super) struct Service {
    breaker: Cell<Breaker>,
    over_limits: OverLimits,
    pub(super) stats: Cell<ServiceStats>,
}

impl Service {
    fn with_breaker<T>(&self, change: impl FnOnce(&mut Breaker) -> T) -> T {
        let mut breaker = self.breaker.get();
        let result = change(&mut breaker);
        self.breaker.set(breaker);
        result
    }

    fn count(&self, count: impl FnOnce(&mut ServiceStats) -> &mut u32) {
        let mut stats = self.stats.get();
        let count = count(&mut stats);
        *count = count.saturating_add(1);
        self.stats.set(stats);
    }
}

/// In the place of a failure's code: the service was not asked, since it has failed several times.
const SKIPPED: &str = "skipped";

impl Limits {
    /// Denies the request if a key is known to be over its limit, since the service is not asked about such a
    /// key again. A limit that only reports is reported, and not asked about.
    pub(super) fn deny_remembered(
        &self,
        counted: &mut [Counted],
        now: u64,
        reported: &mut Vec<usize>,
    ) -> Result<(), Denial> {
        let Some(service) = &self.service else { return Ok(()) };
        let mut longest: Option<(Denial, u64)> = None;
        for counted in counted.iter_mut().filter(|counted| counted.is_asked()) {
            let Some(wait) = service.over_limits.wait(counted.charge.hash, now) else { continue };
            if !counted.enforced {
                reported.push(counted.index);
                counted.descriptor = None;
            } else if longest.as_ref().is_none_or(|(_, longest)| wait > *longest) {
                longest = Some((counted.denied(DenyReason::Limited(Some(wait))), wait));
            }
        }
        let Some((denial, _)) = longest else { return Ok(()) };
        service.count(|stats| &mut stats.remembered);
        Err(denial)
    }

    /// Asks the service, unless the circuit breaker is open or a limit of this proxy denies the request.
    pub(super) fn ask(
        &self,
        store: &impl SharedStore,
        counted: Vec<Counted>,
        now: u64,
        reported: &mut Vec<usize>,
    ) -> Result<Outcome, Denial> {
        if let Some(service) = self.service.as_ref().filter(|service| !service.breaker.get().lets(now)) {
            service.count(|stats| &mut stats.skipped);
            return self.decide_without_answer(store, counted, SKIPPED, now, reported);
        }
        let enforced: Vec<&Counted> = counted.iter().filter(|counted| counted.enforced).collect();
        let charges: Vec<ChargeRequest> = enforced.iter().map(|counted| counted.charge).collect();
        let snapshots = self.limiter.peek(store, &charges, now).map_err(unavailable)?.unwrap_or_default();
        let worst = enforced.iter().zip(&snapshots).max_by_key(|(_, snapshot)| severity(snapshot));
        if let Some((counted, snapshot)) = worst {
            return Err(self.denial(counted, snapshot));
        }
        if let Some(service) = &self.service {
            service.with_breaker(|breaker| breaker.asked(now));
        }
        let descriptors: Vec<(&Descriptor, u32)> = counted
            .iter()
            .filter_map(|counted| {
                // A cost above the burst is not asked about, see `counted_by`.
                let cost = u32::try_from(counted.charge.cost).unwrap_or(u32::MAX);
                Some((counted.descriptor.as_ref()?, cost))
            })
            .collect();
        let domain = self.config.global.as_ref().map_or("", |global| global.domain.as_str());
        let message = request(domain, &descriptors);
        Ok(Outcome::Ask(Box::new(Question { message, counted })))
    }

    /// Decides about a request with the service's answer, which has come at the time `now`. The client of the
    /// request may have left meanwhile.
    pub fn on_service_response(
        &self,
        store: &impl SharedStore,
        question: Question,
        answer: Result<Response, Failure>,
        now: Result<u64, HostError>,
    ) -> Decision {
        let mut reported = Vec::new();
        let now = match now {
            Ok(now) => now,
            // Without a clock, nothing can be counted.
            Err(error) => {
                let outcome = without_clock(&question.counted, error, &mut reported);
                let outcome = outcome.map(|()| Outcome::default());
                return self.decision(outcome.unwrap_or_else(Outcome::Denied), reported);
            }
        };
        let outcome = match answer {
            Ok(response) => self.decide_with_answer(store, &question.counted, response, now, &mut reported),
            Err(failure) => {
                if let Some(service) = &self.service {
                    service.count(|stats| &mut stats.failed);
                    let opened = service.with_breaker(|breaker| breaker.failed(now));
                    let before = service.stats.get();
                    service.stats.set(ServiceStats { opened: before.opened || opened, ..before });
                }
                self.decide_without_answer(store, question.counted, failure.code, now, &mut reported)
            }
        };
        self.decision(outcome.unwrap_or_else(Outcome::Denied), reported)
    }

    fn decide_with_answer(
        &self,
        store: &impl SharedStore,
        counted: &[Counted],
        response: Response,
        now: u64,
        reported: &mut Vec<usize>,
    ) -> Result<Outcome, Denial> {
        let asked: Vec<&Counted> = counted.iter().filter(|counted| counted.is_asked()).collect();
        // Unless there is a status for each descriptor, the overall code applies to every descriptor.
        let whole = Status { over_limit: response.over_limit, ..Status::default() };
        let of_each = response.statuses.len() == asked.len();
        let status = |n: usize| response.statuses.get(n).filter(|_| of_each).copied().unwrap_or(whole);
        let statuses = || asked.iter().enumerate().map(|(n, asked)| (*asked, status(n)));
        // A service in shadow mode answers OK as the overall code, whatever the statuses are.
        let over = || statuses().filter(|(_, status)| response.over_limit && status.over_limit);
        if let Some(service) = &self.service {
            let closed = service.with_breaker(Breaker::answered);
            let before = service.stats.get();
            service.stats.set(ServiceStats { closed: before.closed || closed, ..before });
            service.count(|stats| if response.over_limit { &mut stats.over_limit } else { &mut stats.ok });
            // If something is left, a cheaper request may still be admitted.
            for (asked, status) in over().filter(|(_, status)| status.remaining == 0 && status.reset > 0) {
                service.over_limits.note(asked.charge.hash, now.saturating_add(status.reset));
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
            return Err(Denial { headers, body, ..asked.denied(DenyReason::Limited(wait)) });
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

    /// Decides about a request without the service, as `onFailure` says. `failure` is why it has not
    /// answered.
    fn decide_without_answer(
        &self,
        store: &impl SharedStore,
        mut counted: Vec<Counted>,
        failure: &'static str,
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
                let denial = denied(enforced, DenyReason::ServiceUnavailable);
                return Err(Denial { failure: Some(failure), ..denial });
            }
            _ => {}
        }
        let (mut admission, _) = self.charge(store, &counted, now, reported)?;
        admission.uncounted |= uncounted;
        Ok(Outcome::Admitted(admission))
    }
}
