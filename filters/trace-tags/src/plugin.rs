//! The shell between the core and the proxy: it reads the configuration, makes the host calls and counts.

use plugin_kit::config::{ConfigErrors, Diagnostic};
use plugin_kit::host::HostError;
use plugin_kit::host::{self, Headers};
use plugin_kit::host::{Filter, Flow};
use plugin_kit::request::exchange::Exchange;
use serde_json::Value;

use crate::config::Config;
use crate::decision::{Change, Core, Effects, Stream};
use crate::metrics::Metrics;
use crate::tags::baggage;
use crate::tags::request_id::HEADER;
use crate::tags::tag::Phase;

/// trace-tags as the proxy runs it.
pub struct TraceTags {
    core: Core,
    metrics: Metrics,
}

impl TraceTags {
    /// Handles the request in a filter that combines this one with others that read headers too. It runs
    /// before those that verify claims, and [`TraceTags::on_claims`] runs after them.
    pub fn before_claims(&self, stream: &mut Stream, exchange: &Exchange<'_>) {
        if self.core.reads_headers() {
            // One call reads all headers. If it fails, the error shows when a header is looked up.
            let _ = exchange.headers();
        }
        self.carry_out(self.core.on_request(stream, exchange, random), exchange);
    }

    /// Writes the tags that come from claims, and what is known about those that wait for the response. If
    /// the request `passes`, the baggage goes on with it.
    pub fn on_claims(&self, stream: &mut Stream, exchange: &Exchange<'_>, passes: bool) {
        let mut effects = self.core.on_claims(stream, exchange);
        self.core.known_so_far(stream, &mut effects);
        if passes {
            self.core.on_pass(stream, exchange, &mut effects);
        }
        self.carry_out(effects, exchange);
    }

    /// As [`Filter::configure`], for a filter that combines this one with those that verify claims.
    pub fn configure_with_claims(configuration: &Value) -> Result<Self, ConfigErrors> {
        Self::from_config(configuration, Phase::Claims)
    }

    fn from_config(configuration: &Value, sent_at: Phase) -> Result<Self, ConfigErrors> {
        let config = Config::read(configuration, &host::HostEnvironment, sent_at)?;
        Ok(Self { core: Core::new(config), metrics: Metrics::define() })
    }

    fn carry_out(&self, effects: Effects<'_>, exchange: &Exchange<'_>) {
        let mut failures = effects.failures;
        let mut done = |result: Result<(), _>| failures.extend(result.err());
        let mut written = 0_u32;
        for (key, value) in &effects.tags {
            done(host::set_filter_state(key, value));
            written = written.saturating_add(1);
        }
        if let Some(id) = effects.request_header {
            done(Headers::Request.set(HEADER, id.as_bytes()));
            exchange.note_header(HEADER, id.as_bytes());
        }
        match effects.baggage {
            Change::None => {}
            Change::Set(value) => {
                done(Headers::Request.set(baggage::HEADER, value.as_bytes()));
                exchange.note_header(baggage::HEADER, value.as_bytes());
            }
            Change::Remove => {
                done(Headers::Request.remove(baggage::HEADER));
                exchange.note_header_removed(baggage::HEADER);
            }
        }
        if let Some(id) = effects.response_header {
            done(Headers::Response.set(HEADER, id.as_bytes()));
        }
        self.metrics.count(written, effects.missing, effects.origin);
        for failure in failures {
            self.metrics.host_calls_failed.increment();
            log::debug!("trace-tags: {failure}");
        }
    }
}

/// The status of the response; `None` if it cannot be read, which counts as an error.
fn status() -> Option<u16> {
    let status = Headers::Response.first(":status").ok()??;
    std::str::from_utf8(&status).ok()?.parse().ok()
}

fn random() -> Result<u128, HostError> {
    host::random().map(u128::from_le_bytes)
}

impl Filter for TraceTags {
    const NAME: &'static str = "trace-tags";
    type Stream = Stream;

    fn configure(configuration: &Value, _root: u32) -> Result<Self, ConfigErrors> {
        Self::from_config(configuration, Phase::Request)
    }

    fn warnings(&self) -> Vec<Diagnostic> {
        self.core.config().warnings.clone()
    }

    fn on_request(&self, stream: &mut Stream, exchange: &Exchange<'_>) -> Flow {
        let mut effects = self.core.on_request(stream, exchange, random);
        self.core.known_so_far(stream, &mut effects);
        self.core.on_pass(stream, exchange, &mut effects);
        self.carry_out(effects, exchange);
        Flow::Continue
    }

    fn keeps(&self, stream: &Stream) -> bool {
        self.core.keeps(stream)
    }

    fn on_response(&self, stream: &mut Stream, exchange: &Exchange<'_>) {
        let status = if self.core.reads_status() { status() } else { None };
        self.carry_out(self.core.on_response(stream, exchange, status), exchange);
    }

    fn on_end(&self, stream: &mut Stream, exchange: &Exchange<'_>) {
        self.carry_out(self.core.on_end(stream, exchange), exchange);
    }
}
