//! rate-limit without a proxy. This module does for the core what the shell does in a proxy.

use std::hash::{BuildHasher, RandomState};

use plugin_kit::config::ConfigErrors;
use plugin_kit::host::{Environment, Flow, GrpcFailure, HostError, NOT_SENT};
use plugin_kit::request::exchange::Exchange;
use plugin_kit::trace::{self, Note};
use rate_limit::config::Config;
use rate_limit::decision::{Admission, Denial, Limits, Outcome, Pending, Stage};
use rate_limit::limits::gcra::nanoseconds;
use rate_limit::service::protocol::{Failure, Response};
use serde_json::Value;

use super::facts::Facts;
use super::{Denied, Shared, Verdict};

/// The limits of a plugin.
pub(super) struct RateLimits {
    limits: Limits,
}

/// The state of a request until its response.
#[derive(Default)]
pub(super) struct Kept {
    headers: Vec<(String, String)>,
    pending: Vec<Pending>,
}

impl Kept {
    pub(super) fn is_needed(&self) -> bool {
        !self.headers.is_empty() || !self.pending.is_empty()
    }
}

#[allow(clippy::unnecessary_wraps, reason = "the core takes what a host may fail to give")]
fn random() -> Result<[u8; 16], HostError> {
    let part = || RandomState::new().hash_one(0);
    Ok((u128::from(part()) << 64 | u128::from(part())).to_le_bytes())
}

impl RateLimits {
    pub(super) fn configure(
        config: &Value,
        environment: &dyn Environment,
        shared: &Shared,
        plugin: &str,
    ) -> Result<Self, ConfigErrors> {
        let config = Config::read(config, environment)?;
        let limits =
            Limits::new(config, &shared.store, plugin.as_bytes(), random).expect("memory does not fail");
        Ok(Self { limits })
    }

    pub(super) fn request(
        &self,
        shared: &Shared,
        facts: &Facts<'_>,
        kept: &mut Kept,
        exchange: &Exchange<'_>,
        stage: Stage,
    ) -> (Flow, Verdict) {
        let Some(mut decision) = self.limits.decide(&shared.store, exchange, stage) else {
            return (Flow::Continue, Verdict::Passed(None));
        };
        loop {
            for limit in &decision.reported {
                trace::note(|| Note::new("reported").at(*limit));
            }
            match decision.outcome {
                Outcome::Admitted(Admission { headers, request_headers, pending, .. }) => {
                    if !decision.reported.is_empty() {
                        let detail = self.limits.detail_of_reported(&decision.reported);
                        note_detail(facts, &detail, exchange);
                    }
                    kept.headers.extend(headers);
                    kept.pending.extend(pending);
                    for (name, value) in request_headers {
                        facts.set(&name, value.as_bytes());
                        exchange.note_header(name, value.as_bytes());
                    }
                    return (Flow::Continue, Verdict::Passed(None));
                }
                Outcome::Denied(denial) => return self.deny(facts, exchange, denial),
                Outcome::Ask(question) => {
                    let service = self.limits.config().global.as_ref();
                    let cluster = service.map_or("", |service| service.cluster.as_str());
                    let not_sent = || GrpcFailure { status: NOT_SENT, ..GrpcFailure::default() };
                    let message = &question.message;
                    let answer = service
                        .ok_or_else(not_sent)
                        .and_then(|service| shared.world.ask_rate_limit_service(service, message));
                    let answer = match answer {
                        Ok(message) => Response::parse(&message),
                        Err(failure) => Err(Failure::of_call(&failure, cluster)),
                    };
                    trace::note(|| {
                        Note::new("service").holds(answer.as_ref().ok().map(|answer| !answer.over_limit))
                    });
                    let now = Ok(nanoseconds(shared.monotonic_time.get()));
                    decision = self.limits.on_service_response(&shared.store, *question, answer, now);
                }
            }
        }
    }

    fn deny(&self, facts: &Facts<'_>, exchange: &Exchange<'_>, denial: Denial) -> (Flow, Verdict) {
        let index = denial.limit;
        let (detail, _) = trace::collect(|| self.limits.detail(&denial, exchange));
        note_detail(facts, &detail, exchange);
        if let Some(limit) = index.and_then(|index| self.limits.config().limits.get(index)) {
            facts.set_state("ratelimit.limit", limit.name.as_bytes());
            exchange.note_published("ratelimit.limit", limit.name.as_bytes());
        }
        let code = denial.reason.code();
        let denied = Denied { code, cause: code.to_owned(), index, scopes: Vec::new() };
        (Flow::Deny(self.limits.reply(exchange, denial)), Verdict::Denied(denied))
    }

    pub(super) fn response(
        &self,
        shared: &Shared,
        facts: &Facts<'_>,
        kept: &mut Kept,
        exchange: &Exchange<'_>,
    ) {
        if !kept.pending.is_empty() {
            let pending = std::mem::take(&mut kept.pending);
            self.limits.settle(&shared.store, exchange, pending, facts.status());
        }
        for (name, value) in kept.headers.drain(..) {
            facts.set_on_response(&name, &value);
        }
    }
}

fn note_detail(facts: &Facts<'_>, detail: &str, exchange: &Exchange<'_>) {
    const DETAIL: &str = "ratelimit.detail";
    facts.set_state(DETAIL, detail.as_bytes());
    exchange.note_published(DETAIL, detail.as_bytes());
}
