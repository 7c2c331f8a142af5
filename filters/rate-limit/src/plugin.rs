//! The shell between [`Limits`] and the proxy: it reads the configuration, makes the host calls, counts and
//! answers.

use std::cell::RefCell;
use std::collections::VecDeque;

use plugin_kit::config::{ConfigErrors, Diagnostic};
use plugin_kit::host::HostError;
use plugin_kit::host::{self, GrpcMethod, Headers};
use plugin_kit::host::{Filter, Flow, GrpcFailure};
use plugin_kit::reply::detail::of_request;
use plugin_kit::reply::repeats::{LeftOut, Repeats};
use plugin_kit::request::exchange::Exchange;
use serde_json::Value;

use crate::config::{Config, Scope};
use crate::decision::{Admission, Decision, Denial, Limits, Outcome, Pending, Question, ServiceStats, Stage};
use crate::limits::gcra::nanoseconds;
use crate::limits::slots::{SharedStore, WorkerStore};
use crate::metrics::Metrics;
use crate::reply::DenyReason;
use crate::service::protocol::{Failure, LONGEST_ANSWER, METHOD, Response, SERVICE};

/// Where the state of the limits is.
enum Store {
    /// In the shared data of the proxy.
    Proxy,
    /// In this worker.
    Worker(WorkerStore),
}

impl SharedStore for Store {
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, HostError> {
        match self {
            Self::Proxy => Ok(host::shared_data(key)?.map(|value| (value.bytes, value.cas))),
            Self::Worker(store) => store.get(key),
        }
    }

    fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<bool, HostError> {
        match self {
            Self::Proxy => host::set_shared_data(key, value, cas),
            Self::Worker(store) => store.set(key, value, cas),
        }
    }

    fn most(&self) -> Option<usize> {
        // Envoy has no bound for the data of Wasm plugins.
        (matches!(self, Self::Proxy) && cfg!(not(target_os = "wasi"))).then_some(host::SHARED_DATA_BYTES)
    }
}

/// rate-limit as the proxy runs it.
pub struct RateLimit {
    limits: Limits,
    store: Store,
    metrics: Metrics,
    /// There if some limits are asked of the rate limit service.
    service: Option<Service>,
    refusals: Repeats<Refusal>,
}

/// A kind of line about refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// Requests that the limit of this index, if it is one, has denied for the reason with this code.
    Denied(Option<usize>, &'static str),
    /// Requests that the limit of this index would have denied.
    Reported(usize),
    /// Calls of the rate limit service that failed for the reason with this code.
    Service(&'static str),
}

/// The rate limit service as this worker asks it.
struct Service {
    /// The root context makes the calls: they outlive the stream, so that no answer is lost when a client
    /// leaves.
    root: u32,
    /// The calls that have no answer yet: the token of the call, the stream that waits, and what was asked.
    /// The circuit breaker of the service's cluster bounds their number.
    calls: RefCell<Vec<(u32, u32, Question)>>,
    /// The decisions for streams that are to run again. Each stays until its stream runs or is gone.
    decisions: RefCell<VecDeque<(u32, Decision)>>,
}

/// What is kept of a request until its response.
#[derive(Default)]
pub struct Stream {
    headers: Vec<(String, String)>,
    pending: Vec<Pending>,
    /// The rate limit service was asked and has not answered yet.
    asking: bool,
}

impl RateLimit {
    /// Counts what the rate limit service did, and logs when this worker stops and when it resumes asking it.
    fn count_service(&self, stats: ServiceStats) {
        self.metrics.count_service(stats);
        if stats.opened {
            log::warn!(
                "{}: the rate limit service is asked once in a while only, until it answers",
                Self::NAME
            );
        }
        if stats.closed {
            log::info!("{}: the rate limit service answers again", Self::NAME);
        }
    }

    /// Checks the limits of one stage.
    pub fn check(&self, stream: &mut Stream, exchange: &Exchange<'_>, stage: Stage) -> Flow {
        let decision = if stream.asking {
            // Only the answer wakes the stream.
            let Some(decision) = self.take_decision(exchange.id()) else { return Flow::Pause };
            stream.asking = false;
            decision
        } else {
            let decided = self.limits.decide(&self.store, exchange, stage);
            self.metrics.count_missing_keys(self.limits.take_missing_keys());
            let Some(decision) = decided else { return self.allow(stage) };
            decision
        };
        self.metrics.count(decision.stats);
        self.count_service(decision.service);
        self.metrics.count_reported(&decision.reported);
        match decision.outcome {
            Outcome::Admitted(admission) => {
                if !decision.reported.is_empty() {
                    self.report(&decision.reported, exchange);
                }
                self.admit(stream, exchange, stage, admission)
            }
            Outcome::Denied(denial) => self.deny(exchange, denial),
            Outcome::Ask(question) => {
                stream.asking = true;
                if self.ask(*question, exchange.id()) {
                    Flow::Pause
                } else {
                    self.check(stream, exchange, stage)
                }
            }
        }
    }

    fn admit(
        &self,
        stream: &mut Stream,
        exchange: &Exchange<'_>,
        stage: Stage,
        admission: Admission,
    ) -> Flow {
        let Admission { headers, request_headers, pending, uncounted } = admission;
        stream.headers.extend(headers);
        stream.pending.extend(pending);
        for (name, value) in request_headers {
            if let Err(error) = Headers::Request.set(&name, value.as_bytes()) {
                // The service behind the proxy must not take a client's header for that of the rate limit
                // service.
                log::warn!("{}: {name} is not on the request: {error}", Self::NAME);
                return self.deny(exchange, Denial::unavailable());
            }
            exchange.note_header(name, value.as_bytes());
        }
        if uncounted {
            self.metrics.uncounted.increment();
        }
        self.allow(stage)
    }

    fn allow(&self, stage: Stage) -> Flow {
        if stage != Stage::BeforeAuth {
            self.metrics.allowed.increment();
        }
        Flow::Continue
    }

    fn deny(&self, exchange: &Exchange<'_>, denial: Denial) -> Flow {
        let reason = denial.reason;
        self.metrics.count_denial(denial.limit, reason);
        let detail = self.limits.detail(&denial, exchange);
        if self.refusals.is_first(&Refusal::Denied(denial.limit, reason.code())) {
            let (code, request) = (reason.code(), of_request(exchange));
            log::log!(level_of(reason), "{}: refused: {code}; {request}; {detail}", Self::NAME);
        }
        if denial.limit.is_some() {
            note(LIMIT, self.limits.name(denial.limit), exchange);
        }
        note(DETAIL, &detail, exchange);
        Flow::Deny(self.limits.reply(exchange, denial))
    }

    /// Logs and publishes which limits would have denied the request if they were enforced.
    fn report(&self, limits: &[usize], exchange: &Exchange<'_>) {
        let detail = self.limits.detail_of_reported(limits);
        let new = limits.iter().filter(|limit| self.refusals.is_first(&Refusal::Reported(**limit))).count();
        if new > 0 {
            log::info!("{}: would be refused; {}; {detail}", Self::NAME, of_request(exchange));
        }
        note(DETAIL, &detail, exchange);
    }

    /// Says how many refusals of each kind the log does not have, once a period.
    fn sum_up_refusals(&self) {
        let LeftOut { kinds, others } = self.refusals.tick(|| host::monotonic_time().ok());
        for (kind, count) in kinds {
            let (outcome, limit, code) = match kind {
                Refusal::Denied(limit, code) => ("refused", limit, code),
                Refusal::Reported(limit) => ("would be refused", Some(limit), "report"),
                Refusal::Service(code) => {
                    log::warn!(
                        "{}: the rate limit service failed {count} times more in the last minute: {code}",
                        Self::NAME
                    );
                    continue;
                }
            };
            let limit = self.limits.name(limit);
            log::info!("{}: {count} more {outcome} in the last minute: {code}; limit={limit}", Self::NAME);
        }
        if others > 0 {
            log::info!("{}: {others} more refused in the last minute for other reasons", Self::NAME);
        }
    }

    /// Asks the rate limit service. Returns `false` if the call was not sent; the decision is there then.
    fn ask(&self, question: Question, stream: u32) -> bool {
        let (Some(service), Some(global)) = (&self.service, &self.limits.config().global) else {
            return false;
        };
        let method = GrpcMethod { via: &global.via, service: SERVICE, method: METHOD };
        let sent = host::grpc_call(service.root, stream, method, &question.message, global.timeout);
        if let Ok(token) = sent {
            service.calls.borrow_mut().push((token, stream, question));
        } else {
            self.on_service_response(service, stream, question, Err(Failure::not_sent(&global.cluster)));
        }
        sent.is_ok()
    }

    fn on_service_response(
        &self,
        service: &Service,
        stream: u32,
        question: Question,
        answer: Result<Response, Failure>,
    ) {
        if let Err(failure) = &answer {
            self.tell_of_failure(failure);
        }
        let now = host::monotonic_time().map(nanoseconds);
        let mut decision = self.limits.on_service_response(&self.store, question, answer, now);
        // The client may have left; what happened counts nevertheless.
        self.metrics.count(std::mem::take(&mut decision.stats));
        self.count_service(std::mem::take(&mut decision.service));
        service.decisions.borrow_mut().push_back((stream, decision));
    }

    /// Counts and logs why the service gave no usable answer.
    fn tell_of_failure(&self, failure: &Failure) {
        self.metrics.count_failure(failure);
        if self.refusals.is_first(&Refusal::Service(failure.code)) {
            log::warn!("{}: the rate limit service did not answer: {failure}", Self::NAME);
        }
    }

    fn take_decision(&self, stream: u32) -> Option<Decision> {
        let mut decisions = self.service.as_ref()?.decisions.borrow_mut();
        // Streams run in the order in which their answers came, so the decision is the first or not far from
        // it.
        let position = decisions.iter().position(|(for_stream, _)| *for_stream == stream)?;
        decisions.remove(position).map(|(_, decision)| decision)
    }
}

/// Filter state that holds the name of the limit that denied: `wasm.ratelimit.limit`.
const LIMIT: &str = "ratelimit.limit";
/// Filter state that holds the detail of a denial: `wasm.ratelimit.detail`.
const DETAIL: &str = "ratelimit.detail";

/// Publishes a text for access logs, spans and other filters.
fn note(key: &'static str, text: &str, exchange: &Exchange<'_>) {
    let _ = host::set_filter_state(key, text.as_bytes());
    exchange.note_published(key, text.as_bytes());
}

/// The level of the line about a denial: what is not the client's doing shows at Istio's default level.
fn level_of(reason: DenyReason) -> log::Level {
    match reason {
        DenyReason::Limited(_) | DenyReason::KeyMissing | DenyReason::CostInvalid => log::Level::Info,
        DenyReason::Conflict | DenyReason::Unavailable => log::Level::Error,
        DenyReason::ServiceUnavailable => log::Level::Warn,
    }
}

impl Filter for RateLimit {
    const NAME: &'static str = "rate-limit";
    type Stream = Stream;

    fn configure(configuration: &Value, root: u32) -> Result<Self, ConfigErrors> {
        let config = Config::read(configuration, &host::HostEnvironment)?;
        let store = match config.scope {
            Scope::Proxy => Store::Proxy,
            Scope::Worker => Store::Worker(WorkerStore::default()),
        };
        // The plugin name keeps apart limits of the same name in two plugins.
        let limits = Limits::new(config, &store, &host::plugin_name(), host::random)?;
        for limit in limits.changed() {
            log::info!("{}: the rate of `{}` was changed: its keys begin anew", Self::NAME, limit.name);
        }
        if limits.created() > 0 && matches!(store, Store::Proxy) {
            log::info!("{}: slots created for {} limits", Self::NAME, limits.created());
        }
        let metrics = Metrics::define(limits.config());
        let service = limits.config().global.as_ref().map(|_| Service {
            root,
            calls: RefCell::default(),
            decisions: RefCell::default(),
        });
        Ok(Self { limits, store, metrics, service, refusals: Repeats::default() })
    }

    fn warnings(&self) -> Vec<Diagnostic> {
        self.limits.config().warnings.clone()
    }

    fn on_request(&self, stream: &mut Stream, exchange: &Exchange<'_>) -> Flow {
        self.check(stream, exchange, Stage::All)
    }

    fn keeps(&self, stream: &Stream) -> bool {
        !stream.pending.is_empty() || !stream.headers.is_empty()
    }

    fn on_tick(&self) -> Vec<u32> {
        self.sum_up_refusals();
        Vec::new()
    }

    fn on_grpc(&self, token: u32, reply: Result<usize, GrpcFailure>) -> Vec<u32> {
        let (Some(service), Some(global)) = (&self.service, &self.limits.config().global) else {
            return Vec::new();
        };
        let position = service.calls.borrow().iter().position(|(call, ..)| *call == token);
        let Some(position) = position else { return Vec::new() };
        let (_, stream, question) = service.calls.borrow_mut().swap_remove(position);
        let answer = match reply {
            Ok(size) if size <= LONGEST_ANSWER => match host::grpc_message(size) {
                Ok(message) => Response::parse(&message),
                Err(_) => Err(Failure::malformed()),
            },
            Ok(_) => Err(Failure::malformed()),
            Err(failure) => Err(Failure::of_call(&failure, &global.cluster)),
        };
        self.on_service_response(service, stream, question, answer);
        vec![stream]
    }

    fn on_gone(&self, stream: u32) {
        // The charges stay: the rate limit service has counted the request too.
        self.take_decision(stream);
    }

    fn on_response(&self, stream: &mut Stream, exchange: &Exchange<'_>) {
        if !stream.pending.is_empty() {
            // Without a status, the charges stay.
            let status = Headers::Response.first(":status").ok().flatten();
            let status = status.and_then(|status| std::str::from_utf8(&status).ok()?.parse().ok());
            let pending = std::mem::take(&mut stream.pending);
            self.metrics.count(self.limits.settle(&self.store, exchange, pending, status));
        }
        for (name, value) in stream.headers.drain(..) {
            if let Err(error) = Headers::Response.set(&name, value.as_bytes()) {
                log::warn!("{}: {name} is not on the response: {error}", Self::NAME);
            }
        }
    }
}
