//! The three filters as one: the order in which they see a request.

use jwt_auth::plugin::JwtAuth;
use plugin_kit::config::{ConfigErrors, Diagnostic};
use plugin_kit::host::{CallResponse, ElsewhereCall, Filter, Flow, GrpcFailure};
use plugin_kit::request::exchange::Exchange;
use rate_limit::decision::Stage as Limits;
use rate_limit::plugin::RateLimit;
use serde_json::Value;
use trace_tags::plugin::TraceTags;

use crate::config::{Parts, part};

/// The filters that are configured.
pub struct MeshFilters {
    trace_tags: Option<TraceTags>,
    jwt_auth: Option<JwtAuth>,
    rate_limit: Option<RateLimit>,
    /// The warnings about how the parts fit together.
    warnings: Vec<Diagnostic>,
}

/// What the filters keep for one stream, and which has it next.
#[derive(Default)]
pub struct Stream {
    stage: Stage,
    trace_tags: <TraceTags as Filter>::Stream,
    jwt_auth: <JwtAuth as Filter>::Stream,
    rate_limit: <RateLimit as Filter>::Stream,
}

/// A request passes each stage once. One that waits goes on at the stage where it stopped, so that nothing is
/// charged twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    #[default]
    Tags,
    LimitsBeforeAuth,
    Auth,
    Limits,
    Passed,
}

impl Stage {
    fn next(self) -> Self {
        match self {
            Self::Tags => Self::LimitsBeforeAuth,
            Self::LimitsBeforeAuth => Self::Auth,
            Self::Auth => Self::Limits,
            Self::Limits | Self::Passed => Self::Passed,
        }
    }
}

impl MeshFilters {
    fn run(&self, stage: Stage, stream: &mut Stream, exchange: &Exchange<'_>) -> Flow {
        match (stage, &self.trace_tags, &self.jwt_auth, &self.rate_limit) {
            (Stage::Tags, Some(filter), _, _) => {
                filter.before_claims(&mut stream.trace_tags, exchange);
                Flow::Continue
            }
            (Stage::LimitsBeforeAuth, _, Some(_), Some(filter)) => {
                filter.check(&mut stream.rate_limit, exchange, Limits::BeforeAuth)
            }
            (Stage::Auth, _, Some(filter), _) => filter.on_request(&mut stream.jwt_auth, exchange),
            (Stage::Limits, _, Some(_), Some(filter)) => {
                filter.check(&mut stream.rate_limit, exchange, Limits::AfterAuth)
            }
            (Stage::Limits, _, None, Some(filter)) => filter.on_request(&mut stream.rate_limit, exchange),
            _ => Flow::Continue,
        }
    }
}

impl Filter for MeshFilters {
    const NAME: &'static str = "mesh-filters";
    const COMPOSED: bool = true;
    type Stream = Stream;

    fn configure(configuration: &Value, root: u32) -> Result<Self, ConfigErrors> {
        let parts = Parts::parse(configuration)?;
        let mut errors = None;
        let mut filter = Self {
            trace_tags: part("traceTags", parts.trace_tags.as_ref(), &mut errors, |json| {
                TraceTags::configure_with_claims(json)
            }),
            jwt_auth: part("jwtAuth", parts.jwt_auth.as_ref(), &mut errors, |json| {
                JwtAuth::configure(json, root)
            }),
            rate_limit: part("rateLimit", parts.rate_limit.as_ref(), &mut errors, |json| {
                RateLimit::configure(json, root)
            }),
            warnings: Vec::new(),
        };
        if let Some(errors) = errors {
            return Err(errors);
        }
        filter.warnings = parts.check_claims()?;
        Ok(filter)
    }

    fn warnings(&self) -> Vec<Diagnostic> {
        let of = [
            ("traceTags", self.trace_tags.as_ref().map(Filter::warnings)),
            ("jwtAuth", self.jwt_auth.as_ref().map(Filter::warnings)),
            ("rateLimit", self.rate_limit.as_ref().map(Filter::warnings)),
        ];
        let mut all = self.warnings.clone();
        for (key, warnings) in of {
            for warning in warnings.unwrap_or_default() {
                all.push(warning.under(key));
            }
        }
        all
    }

    fn on_request(&self, stream: &mut Stream, exchange: &Exchange<'_>) -> Flow {
        let flow = loop {
            match self.run(stream.stage, stream, exchange) {
                Flow::Continue if stream.stage != Stage::Passed => stream.stage = stream.stage.next(),
                flow => break flow,
            }
        };
        if let (Some(filter), Flow::Continue | Flow::Deny(_)) = (&self.trace_tags, &flow) {
            filter.on_claims(&mut stream.trace_tags, exchange, matches!(flow, Flow::Continue));
        }
        flow
    }

    fn keeps(&self, stream: &Stream) -> bool {
        self.trace_tags.as_ref().is_some_and(|filter| filter.keeps(&stream.trace_tags))
            || self.jwt_auth.as_ref().is_some_and(|filter| filter.keeps(&stream.jwt_auth))
            || self.rate_limit.as_ref().is_some_and(|filter| filter.keeps(&stream.rate_limit))
    }

    fn on_response(&self, stream: &mut Stream, exchange: &Exchange<'_>) {
        if let Some(filter) = &self.rate_limit {
            filter.on_response(&mut stream.rate_limit, exchange);
        }
        if let Some(filter) = &self.jwt_auth {
            filter.on_response(&mut stream.jwt_auth, exchange);
        }
        if let Some(filter) = &self.trace_tags {
            filter.on_response(&mut stream.trace_tags, exchange);
        }
    }

    fn on_end(&self, stream: &mut Stream, exchange: &Exchange<'_>) {
        if let Some(filter) = &self.rate_limit {
            filter.on_end(&mut stream.rate_limit, exchange);
        }
        if let Some(filter) = &self.jwt_auth {
            filter.on_end(&mut stream.jwt_auth, exchange);
        }
        if let Some(filter) = &self.trace_tags {
            filter.on_end(&mut stream.trace_tags, exchange);
        }
    }

    fn ticks_at_once(&self) -> bool {
        self.jwt_auth.as_ref().is_some_and(Filter::ticks_at_once)
    }

    fn on_tick(&self) -> Vec<u32> {
        let woken = [
            self.trace_tags.as_ref().map(Filter::on_tick),
            self.jwt_auth.as_ref().map(Filter::on_tick),
            self.rate_limit.as_ref().map(Filter::on_tick),
        ];
        woken.into_iter().flatten().flatten().collect()
    }

    fn on_call(&self, token: u32, response: &CallResponse) -> Vec<u32> {
        // A call is known to the filter that made it; the others pass it over.
        let woken = [
            self.trace_tags.as_ref().map(|filter| filter.on_call(token, response)),
            self.jwt_auth.as_ref().map(|filter| filter.on_call(token, response)),
            self.rate_limit.as_ref().map(|filter| filter.on_call(token, response)),
        ];
        woken.into_iter().flatten().flatten().collect()
    }

    fn on_call_elsewhere(&self, call: &ElsewhereCall<'_>) -> Vec<u32> {
        // Only jwt-auth makes calls.
        self.jwt_auth.as_ref().map(|filter| filter.on_call_elsewhere(call)).unwrap_or_default()
    }

    fn on_grpc(&self, token: u32, reply: Result<usize, GrpcFailure>) -> Vec<u32> {
        // Only limits ask by gRPC.
        self.rate_limit.as_ref().map(|filter| filter.on_grpc(token, reply)).unwrap_or_default()
    }

    fn on_gone(&self, stream: u32) {
        if let Some(filter) = &self.jwt_auth {
            filter.on_gone(stream);
        }
        if let Some(filter) = &self.rate_limit {
            filter.on_gone(stream);
        }
    }
}
