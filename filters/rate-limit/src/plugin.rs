//! The shell: reads the configuration, asks [`Limits`], counts, and answers.

use std::hash::{BuildHasher, RandomState};

use plugin_kit::config::{ConfigError, ConfigErrors};
use plugin_kit::exchange::{Exchange, HostError};
use plugin_kit::host::{self, Counter, Headers};
use plugin_kit::plugin::{Filter, Flow};
use serde_json::Value;

use crate::config::Config;
use crate::filter::{Limits, Outcome, Pending, Stage};
use crate::limiter::Tally;
use crate::reply::DenyReason;
use crate::slots::SharedStore;

/// The shared data of the proxy.
struct HostStore;

impl SharedStore for HostStore {
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, HostError> {
        Ok(host::shared_data(key)?.map(|value| (value.bytes, value.cas)))
    }

    fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<bool, HostError> {
        host::set_shared_data(key, value, cas)
    }
}

/// The filter.
pub struct RateLimit {
    limits: Limits,
    counters: Counters,
    by_limit: Vec<LimitCounters>,
}

struct Counters {
    allowed: Counter,
    denied: Counter,
    failed: Counter,
    uncounted: Counter,
    conflicts: Counter,
    undone: Counter,
    refunded: Counter,
    evicted: Counter,
}

struct LimitCounters {
    denied: Counter,
    reported: Counter,
}

/// What the response of the stream's request needs.
#[derive(Default)]
pub struct Stream {
    headers: Vec<(String, String)>,
    pending: Vec<Pending>,
}

impl RateLimit {
    fn count(&self, tally: Tally) {
        let counters = &self.counters;
        for (counter, count) in [
            (counters.conflicts, tally.conflicts),
            (counters.undone, tally.undone),
            (counters.refunded, tally.refunded),
            (counters.evicted, tally.evicted),
        ] {
            if count > 0 {
                counter.add(count);
            }
        }
    }

    /// Checks the limits of one stage.
    pub fn check(&self, stream: &mut Stream, exchange: &Exchange<'_>, stage: Stage) -> Flow {
        let decision = self.limits.decide(&HostStore, exchange, stage);
        let counters = &self.counters;
        self.count(decision.tally);
        for index in &decision.reported {
            if let Some(counters) = self.by_limit.get(*index) {
                counters.reported.increment();
            }
        }
        match decision.outcome {
            Outcome::Admitted { headers, pending, uncounted } => {
                stream.headers.extend(headers);
                stream.pending.extend(pending);
                if uncounted {
                    counters.uncounted.increment();
                }
                if stage != Stage::BeforeAuth {
                    counters.allowed.increment();
                }
                Flow::Continue
            }
            Outcome::Denied { reply, limit, reason } => {
                let limit = limit.and_then(|index| {
                    Some((self.by_limit.get(index)?, self.limits.config().limits.get(index)?))
                });
                counters.denied.increment();
                if let Some((counters, limit)) = limit {
                    counters.denied.increment();
                    note(exchange, &limit.name);
                }
                if matches!(reason, DenyReason::Conflict | DenyReason::Unavailable) {
                    counters.failed.increment();
                    log::error!(
                        "{}: a request was denied since it could not be counted: {}",
                        Self::NAME,
                        reason.code()
                    );
                }
                Flow::Deny(reply)
            }
        }
    }
}

/// Shows the name of the limit that denied to access logs and other filters.
fn note(exchange: &Exchange<'_>, limit: &str) {
    const KEY: &str = "ratelimit.limit";
    if let Err(error) = host::set_filter_state(KEY, limit.as_bytes()) {
        log::warn!("{}: {KEY} was not published: {error}", RateLimit::NAME);
    }
    exchange.note_published(KEY, limit.as_bytes());
}

impl Filter for RateLimit {
    const NAME: &'static str = "rate-limit";
    type Stream = Stream;

    fn configure(configuration: &Value, _root: u32) -> Result<Self, ConfigErrors> {
        let config = Config::read(configuration, &|name| std::env::var(name).ok())?;
        let failed = |error: HostError| ConfigError { path: "$".to_owned(), message: error.to_string() };
        // Two plugins with limits of the same name do not share them.
        let scope = host::property(&["plugin_name"]).ok().flatten().unwrap_or_default();
        let limits = Limits::new(config, &HostStore, &scope, random).map_err(failed)?;
        if limits.created() > 0 {
            log::info!("{}: slots created for {} limits", Self::NAME, limits.created());
        }
        let by_limit = limits.config().limits.iter().map(|limit| {
            let define = |what| Counter::define(&format!("rate_limit_limit_{}_{what}", limit.name));
            LimitCounters { denied: define("denied"), reported: define("reported") }
        });
        Ok(Self {
            by_limit: by_limit.collect(),
            limits,
            counters: Counters {
                allowed: Counter::define("rate_limit_requests_allowed"),
                denied: Counter::define("rate_limit_requests_denied"),
                failed: Counter::define("rate_limit_requests_failed"),
                uncounted: Counter::define("rate_limit_requests_uncounted"),
                conflicts: Counter::define("rate_limit_writes_conflicted"),
                undone: Counter::define("rate_limit_charges_undone"),
                refunded: Counter::define("rate_limit_charges_refunded"),
                evicted: Counter::define("rate_limit_keys_evicted"),
            },
        })
    }

    fn on_request(&self, stream: &mut Stream, exchange: &Exchange<'_>) -> Flow {
        self.check(stream, exchange, Stage::All)
    }

    fn keeps(&self, stream: &Stream) -> bool {
        !stream.pending.is_empty() || !stream.headers.is_empty()
    }

    fn on_response(&self, stream: &mut Stream, exchange: &Exchange<'_>) {
        if !stream.pending.is_empty() {
            // Without a status the charges stay.
            let status = Headers::Response.first(":status").ok().flatten();
            let status = status.and_then(|status| std::str::from_utf8(&status).ok()?.parse().ok());
            let pending = std::mem::take(&mut stream.pending);
            self.count(self.limits.settle(&HostStore, exchange, pending, status));
        }
        for (name, value) in stream.headers.drain(..) {
            if let Err(error) = Headers::Response.set(&name, value.as_bytes()) {
                log::warn!("{}: {name} is not on the response: {error}", Self::NAME);
            }
        }
    }
}

/// Sixteen random bytes. The standard library asks the host for two random numbers once in each VM; what it hashes with
/// them is as random.
fn random() -> [u8; 16] {
    let state = RandomState::new();
    let mut bytes = [0; 16];
    let (low, high) = bytes.split_at_mut(8);
    low.copy_from_slice(&state.hash_one(0_u8).to_le_bytes());
    high.copy_from_slice(&state.hash_one(1_u8).to_le_bytes());
    bytes
}
