//! What the filters decide about a request, without a proxy. The cores are the filters' own, and each module
//! below does for its core what the filter's shell does in a proxy.
//!
//! A [`Chain`] holds the plugins of one workload in the order of the mesh. [`Chain::send`] takes a request
//! through them and the response back. It returns what each plugin decided, what it noted on its way, and
//! what the client and the service get. `explain` shows that. The cases of `testdata/cases` are decided by it
//! too, which holds it to what a proxy does.

mod auth;
pub(crate) mod cel;
mod facts;
mod limits;
mod tags;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use jwt_auth::fetch::documents::SharedDocuments;
use jwt_auth::fetch::remote::Remote;
use plugin_kit::config::ConfigErrors;
use plugin_kit::host::{Environment, Flow, GrpcFailure, HostError};
use plugin_kit::reply::Reply;
use plugin_kit::request::exchange::{Exchange, Published};
use plugin_kit::trace::{self, Note};
use rate_limit::config::Global;
use rate_limit::decision::Stage as LimitStage;
use rate_limit::testing::MemoryStore;
use serde_json::Value;
use trace_tags::tags::tag::Phase;

pub use cel::{Evaluated, Expressions, is_function};
pub use facts::{Change, Facts};

/// Header fields, in order.
pub type Headers = Vec<(String, String)>;

/// A plugin of the chain.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// Its name, which keeps its limits apart from those of other plugins.
    pub name: String,
    /// The filter. Any name other than those of the three single filters means mesh-filters.
    pub filter: String,
    /// The pluginConfig.
    pub config: Value,
    /// `vmConfig.env`.
    pub variables: BTreeMap<String, String>,
}

/// The proxy around the plugins.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// The node ID.
    pub node: String,
    /// The labels of the pod.
    pub labels: BTreeMap<String, String>,
    /// The namespace of the pod.
    pub namespace: String,
    /// Whether the proxy takes the client's address from the connection, as an edge proxy does.
    pub is_edge: bool,
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            node: "sidecar~10.0.0.1~explain.default~default.svc.cluster.local".to_owned(),
            labels: BTreeMap::new(),
            namespace: "default".to_owned(),
            is_edge: false,
        }
    }
}

/// The services outside the proxy that the filters ask.
pub trait World {
    /// Answers a request for a document.
    fn fetch(&self, document: &Remote, accept: &str) -> Fetch;
    /// Whether [`World::fetch`] also serves the metadata of issuers, which says where their keys are. If not,
    /// it answers a request for the metadata with the keys.
    fn has_metadata(&self) -> bool {
        true
    }
    /// Answers the question of a provider about a token, which is this form.
    fn introspect(&self, provider: &str, endpoint: &Remote, form: &str) -> Fetch;
    /// Answers as the rate limit service does, with a message of its protocol, or returns why there is no
    /// answer.
    fn ask_rate_limit_service(&self, service: &Global, message: &[u8]) -> Result<Vec<u8>, GrpcFailure>;
    /// The value that is assumed for an expression that only the proxy can evaluate.
    fn assume(&self, is_condition: bool) -> Option<Vec<u8>>;
}

/// The outcome of a fetch.
#[derive(Debug, Clone)]
pub enum Fetch {
    /// The server has answered.
    Answer {
        /// The status.
        status: u16,
        /// `cache-control`.
        cache_control: Option<String>,
        /// The body.
        body: Vec<u8>,
    },
    /// There is no answer.
    Failed,
    /// The caller has no keys: each signature is assumed to be valid. Nothing is known of an opaque token.
    AssumeGood,
}

/// A request as a client sends it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path and the query; empty for `CONNECT`.
    pub path: String,
    /// The authority.
    pub authority: String,
    /// The other headers.
    pub headers: Headers,
    /// The client's address and port.
    pub source: String,
    /// The peer's identity, if it has proved one by mutual TLS.
    pub peer: Option<String>,
}

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
}

/// What one filter did in one callback.
#[derive(Debug, Clone)]
pub struct Step {
    /// The position of the plugin in the chain.
    pub plugin: usize,
    /// The filter. In mesh-filters it is the one of the three that acted.
    pub filter: &'static str,
    /// The key of the filter's part in the configuration of mesh-filters.
    pub part: Option<&'static str>,
    /// The callback.
    pub moment: Moment,
    /// The notes on what the filter tested, and with which result.
    pub notes: Vec<Note>,
    /// What the filter changed.
    pub changes: Vec<Change>,
    /// What the filter decided.
    pub verdict: Verdict,
}

/// When a filter acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The request arrives.
    Request,
    /// The request arrives, and its token is not verified yet.
    BeforeAuth,
    /// The filters that verify claims have run.
    Claims,
    /// The response passes.
    Response,
}

/// What a filter decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The request goes on, by the rule at this position, if a rule let it in.
    Passed(Option<usize>),
    /// The request is denied.
    Denied(Denied),
    /// The filter is in report mode and would otherwise deny the request.
    Reported(Denied),
}

/// A denial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// The deny code.
    pub code: &'static str,
    /// The deny code, followed by its cause.
    pub cause: String,
    /// The position of the rule or of the limit.
    pub index: Option<usize>,
    /// The scopes that the rule demands.
    pub scopes: Vec<String>,
}

/// The outcome of a request.
#[derive(Debug, Clone)]
pub struct Decided {
    /// What the filters did, in order.
    pub steps: Vec<Step>,
    /// The response that the client gets.
    pub response: Response,
    /// Envoy's response code details.
    pub details: String,
    /// The headers with which the request reached the service, including pseudo-headers; `None` if it did not
    /// reach it.
    pub upstream: Option<Headers>,
    /// The filter state, by its key without `wasm.`.
    pub filter_state: BTreeMap<String, Vec<u8>>,
}

/// The state that all filters of a chain share.
pub(crate) struct Shared {
    pub(crate) proxy: Proxy,
    pub(crate) world: Box<dyn World>,
    pub(crate) unix_time: Cell<Duration>,
    pub(crate) monotonic_time: Cell<Duration>,
    pub(crate) documents: RefCell<SharedDocuments>,
    pub(crate) store: MemoryStore,
    pub(crate) expressions: Expressions,
}

#[allow(clippy::large_enum_variant, reason = "there are few")]
enum Filter {
    Auth(auth::Auth),
    Limits(limits::RateLimits),
    Tags(trace_tags::decision::Core),
    Mesh {
        tags: Option<trace_tags::decision::Core>,
        auth: Option<auth::Auth>,
        limits: Option<limits::RateLimits>,
    },
}

/// The state of one plugin for one request.
#[derive(Default)]
struct Kept {
    tags: trace_tags::decision::Stream,
    limits: limits::Kept,
    published: Published,
    /// Whether the request has reached the plugin.
    seen: bool,
}

/// The plugins of a workload, in the order of the mesh.
pub struct Chain {
    shared: Shared,
    filters: Vec<Filter>,
}

struct ChainEnvironment<'a> {
    shared: &'a Shared,
    variables: &'a BTreeMap<String, String>,
}

impl Environment for ChainEnvironment<'_> {
    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    fn node_id(&self) -> Option<Vec<u8>> {
        Some(self.shared.proxy.node.clone().into_bytes())
    }

    fn compile(&self, expression: &str) -> Result<u32, HostError> {
        self.shared.expressions.compile(expression)
    }

    fn evaluate(&self, expression: u32) -> Result<Option<Vec<u8>>, HostError> {
        Ok(match self.shared.expressions.evaluate(expression, None) {
            Evaluated::Value(value) => Some(value),
            Evaluated::Nothing => None,
            // It is assumed to be valid, since only the proxy can tell.
            Evaluated::NotHere => Some(vec![0]),
        })
    }
}

impl Chain {
    /// Makes a proxy with these plugins. `now` is the time since the Unix epoch.
    ///
    /// # Errors
    /// A plugin refuses its configuration. The error names the first such plugin and its message.
    pub fn start(
        plugins: &[Plugin],
        proxy: Proxy,
        world: Box<dyn World>,
        now: Duration,
    ) -> Result<Self, (usize, ConfigErrors)> {
        let shared = Shared {
            proxy,
            world,
            unix_time: Cell::new(now),
            monotonic_time: Cell::new(Duration::from_hours(1)),
            documents: RefCell::new(SharedDocuments::new()),
            store: MemoryStore::default(),
            expressions: Expressions::default(),
        };
        let mut chain = Self { shared, filters: Vec::new() };
        chain.configure(plugins)?;
        Ok(chain)
    }

    /// Whether some expression of the configurations can only be evaluated by a proxy.
    pub fn leaves_expressions_to_proxy(&self) -> bool {
        self.shared.expressions.any_not_here()
    }

    /// Gives the plugins new configurations. If one is refused, all plugins keep the configuration that they
    /// have.
    ///
    /// # Errors
    /// A plugin refuses its configuration. The error names the first such plugin and its message.
    pub fn configure(&mut self, plugins: &[Plugin]) -> Result<(), (usize, ConfigErrors)> {
        let mut filters = Vec::new();
        for (n, plugin) in plugins.iter().enumerate() {
            filters.push(self.filter(plugin).map_err(|errors| (n, errors))?);
        }
        self.filters = filters;
        self.tick();
        Ok(())
    }

    fn filter(&self, plugin: &Plugin) -> Result<Filter, ConfigErrors> {
        let shared = &self.shared;
        let environment = ChainEnvironment { shared, variables: &plugin.variables };
        let auth = |config: &Value| auth::Auth::configure(config, &environment, shared, &plugin.name);
        let limits =
            |config: &Value| limits::RateLimits::configure(config, &environment, shared, &plugin.name);
        let tags = |config: &Value, sent_at| {
            trace_tags::config::Config::read(config, &environment, sent_at)
                .map(trace_tags::decision::Core::new)
        };
        Ok(match plugin.filter.as_str() {
            "jwt-auth" => Filter::Auth(auth(&plugin.config)?),
            "rate-limit" => Filter::Limits(limits(&plugin.config)?),
            "trace-tags" => Filter::Tags(tags(&plugin.config, Phase::Request)?),
            _ => {
                let parts = mesh_filters::config::Parts::parse(&plugin.config)?;
                let mut errors = None;
                let filter = Filter::Mesh {
                    tags: mesh_filters::config::part(
                        "traceTags",
                        parts.trace_tags.as_ref(),
                        &mut errors,
                        |config| tags(config, Phase::Claims),
                    ),
                    auth: mesh_filters::config::part("jwtAuth", parts.jwt_auth.as_ref(), &mut errors, auth),
                    limits: mesh_filters::config::part(
                        "rateLimit",
                        parts.rate_limit.as_ref(),
                        &mut errors,
                        limits,
                    ),
                };
                if let Some(errors) = errors {
                    return Err(errors);
                }
                parts.check_claims()?;
                filter
            }
        })
    }

    /// Lets time pass.
    pub fn advance(&mut self, time: Duration) {
        let Shared { unix_time, monotonic_time, .. } = &self.shared;
        let end = monotonic_time.get() + time;
        let second = Duration::from_secs(1);
        while monotonic_time.get() < end {
            let step = second.min(end.saturating_sub(monotonic_time.get()));
            unix_time.set(unix_time.get() + step);
            monotonic_time.set(monotonic_time.get() + step);
            self.tick();
        }
    }

    fn tick(&self) {
        for filter in &self.filters {
            if let Filter::Auth(auth) | Filter::Mesh { auth: Some(auth), .. } = filter {
                auth.tick(&self.shared);
            }
        }
    }

    /// Takes a request through the chain to the service, and the service's response back.
    pub fn send(&self, request: &Request, answer: &Response) -> Decided {
        let facts = Facts::new(&self.shared, request);
        let mut steps = Vec::new();
        let mut kept: Vec<Kept> = self.filters.iter().map(|_| Kept::default()).collect();
        let mut reply = None;
        for (n, filter) in self.filters.iter().enumerate() {
            let Some(kept) = kept.get_mut(n) else { break };
            kept.seen = true;
            let mut run =
                Run { shared: &self.shared, facts: &facts, steps: &mut steps, plugin: n, part: None };
            if let Flow::Deny(denial) = run.request(filter, kept) {
                reply = Some(denial);
                break;
            }
        }
        let (upstream, details) = match &reply {
            None => (Some(facts.sent()), "via_upstream".to_owned()),
            Some(reply) => (None, reply.details.clone()),
        };
        let response = reply.map_or_else(|| answer.clone(), |reply| local_reply(reply, &facts));
        facts.answer(&response, &details);
        for (n, (filter, kept)) in self.filters.iter().zip(&mut kept).enumerate().rev() {
            if kept.seen {
                let mut run =
                    Run { shared: &self.shared, facts: &facts, steps: &mut steps, plugin: n, part: None };
                run.response(filter, kept);
            }
        }
        let headers = facts.response_headers();
        Decided {
            steps,
            response: Response { headers, ..response },
            details,
            upstream,
            filter_state: facts.filter_state(),
        }
    }
}

/// One plugin's part in one request.
struct Run<'a> {
    shared: &'a Shared,
    facts: &'a Facts<'a>,
    steps: &'a mut Vec<Step>,
    plugin: usize,
    part: Option<&'static str>,
}

impl Run<'_> {
    /// Runs a filter and records what it noted and changed.
    fn step<T>(
        &mut self,
        filter: &'static str,
        moment: Moment,
        run: impl FnOnce(&Shared, &Facts<'_>) -> (T, Verdict),
    ) -> T {
        let ((result, verdict), notes) = trace::collect(|| run(self.shared, self.facts));
        let part = self.part.map(|_| match filter {
            "jwt-auth" => "jwtAuth",
            "rate-limit" => "rateLimit",
            _ => "traceTags",
        });
        let changes = self.facts.take_changes();
        self.steps.push(Step { plugin: self.plugin, filter, part, moment, notes, changes, verdict });
        result
    }

    fn request(&mut self, filter: &Filter, kept: &mut Kept) -> Flow {
        let facts = self.facts;
        let exchange = || Exchange::alone(1, facts);
        match filter {
            Filter::Auth(auth) => self.auth(auth, &exchange()),
            Filter::Limits(limits) => self.limits(limits, kept, &exchange(), LimitStage::All),
            Filter::Tags(core) => {
                let exchange = exchange();
                self.step("trace-tags", Moment::Request, |_, facts| {
                    let mut effects = core.on_request(&mut kept.tags, &exchange, tags::random);
                    core.known_so_far(&kept.tags, &mut effects);
                    core.on_pass(&kept.tags, &exchange, &mut effects);
                    (tags::carry_out(effects, facts, &exchange), Verdict::Passed(None))
                });
                Flow::Continue
            }
            Filter::Mesh { tags, auth, limits } => {
                self.part = Some("mesh-filters");
                let exchange = Exchange::continued(1, facts, std::mem::take(&mut kept.published));
                let flow = self.mesh(tags.as_ref(), auth.as_ref(), limits.as_ref(), kept, &exchange);
                kept.published = exchange.into_published();
                flow
            }
        }
    }

    /// Runs the three filters in the order of mesh-filters.
    fn mesh(
        &mut self,
        tags: Option<&trace_tags::decision::Core>,
        auth: Option<&auth::Auth>,
        limits: Option<&limits::RateLimits>,
        kept: &mut Kept,
        exchange: &Exchange<'_>,
    ) -> Flow {
        if let Some(core) = tags {
            self.step("trace-tags", Moment::Request, |_, facts| {
                if core.reads_headers() {
                    let _ = exchange.headers();
                }
                let effects = core.on_request(&mut kept.tags, exchange, tags::random);
                (tags::carry_out(effects, facts, exchange), Verdict::Passed(None))
            });
        }
        let mut flow = Flow::Continue;
        if let (Some(_), Some(limits)) = (auth, limits) {
            flow = self.limits(limits, kept, exchange, LimitStage::BeforeAuth);
        }
        if let (Flow::Continue, Some(auth)) = (&flow, auth) {
            flow = self.auth(auth, exchange);
        }
        if let (Flow::Continue, Some(limits)) = (&flow, limits) {
            let stage = if auth.is_some() { LimitStage::AfterAuth } else { LimitStage::All };
            flow = self.limits(limits, kept, exchange, stage);
        }
        if let Some(core) = tags {
            let passes = matches!(flow, Flow::Continue);
            self.step("trace-tags", Moment::Claims, |_, facts| {
                let mut effects = core.on_claims(&mut kept.tags, exchange);
                core.known_so_far(&kept.tags, &mut effects);
                if passes {
                    core.on_pass(&kept.tags, exchange, &mut effects);
                }
                (tags::carry_out(effects, facts, exchange), Verdict::Passed(None))
            });
        }
        flow
    }

    fn auth(&mut self, auth: &auth::Auth, exchange: &Exchange<'_>) -> Flow {
        self.step("jwt-auth", Moment::Request, |shared, facts| auth.request(shared, facts, exchange))
    }

    fn limits(
        &mut self,
        limits: &limits::RateLimits,
        kept: &mut Kept,
        exchange: &Exchange<'_>,
        stage: LimitStage,
    ) -> Flow {
        let moment = if stage == LimitStage::BeforeAuth { Moment::BeforeAuth } else { Moment::Request };
        self.step("rate-limit", moment, |shared, facts| {
            limits.request(shared, facts, &mut kept.limits, exchange, stage)
        })
    }

    fn response(&mut self, filter: &Filter, kept: &mut Kept) {
        let facts = self.facts;
        let (exchange, tags, limits) = match filter {
            Filter::Auth(_) => return,
            Filter::Limits(limits) => (Exchange::alone(1, facts), None, Some(limits)),
            Filter::Tags(core) => (Exchange::alone(1, facts), Some(core), None),
            Filter::Mesh { tags, limits, .. } => {
                self.part = Some("mesh-filters");
                let published = std::mem::take(&mut kept.published);
                (Exchange::continued(1, facts, published), tags.as_ref(), limits.as_ref())
            }
        };
        if let Some(limits) = limits.filter(|_| kept.limits.is_needed()) {
            self.step("rate-limit", Moment::Response, |shared, facts| {
                (limits.response(shared, facts, &mut kept.limits, &exchange), Verdict::Passed(None))
            });
        }
        if let Some(core) = tags.filter(|core| core.keeps(&kept.tags)) {
            self.step("trace-tags", Moment::Response, |_, facts| {
                let status = if core.reads_status() { facts.status() } else { None };
                let effects = core.on_response(&mut kept.tags, &exchange, status);
                (tags::carry_out(effects, facts, &exchange), Verdict::Passed(None))
            });
        }
    }
}

/// The response that Envoy makes from a filter's reply (`Utility::prepareLocalReply`).
fn local_reply(reply: Reply, facts: &Facts<'_>) -> Response {
    let Reply { status, grpc_status, headers, body, .. } = reply;
    let mut response = Response { status, headers, body };
    let has = |response: &Response, name: &str| response.headers.iter().any(|(known, _)| known == name);
    let is_head = facts.header(":method").as_deref() == Some("HEAD");
    if facts.header("content-type").is_some_and(|media_type| is_grpc(&media_type)) {
        response.headers.retain(|(name, _)| name != "content-type" && name != "content-length");
        response.headers.push(("content-type".to_owned(), "application/grpc".to_owned()));
        let status = grpc_status.unwrap_or(match status {
            400 => 13,
            401 => 16,
            403 => 7,
            404 => 12,
            429 | 502..=504 => 14,
            _ => 2,
        });
        response.headers.push(("grpc-status".to_owned(), status.to_string()));
        if !response.body.is_empty() && !is_head {
            response.headers.push(("grpc-message".to_owned(), percent_encoded(&response.body)));
        }
        return Response { status: 200, body: Vec::new(), ..response };
    }
    if response.body.is_empty() {
        response.headers.retain(|(name, _)| name != "content-type");
    } else {
        if !has(&response, "content-type") {
            response.headers.push(("content-type".to_owned(), "text/plain".to_owned()));
        }
        response.headers.push(("content-length".to_owned(), response.body.len().to_string()));
    }
    if is_head {
        response.body.clear();
    }
    response
}

fn is_grpc(media_type: &str) -> bool {
    media_type.strip_prefix("application/grpc").is_some_and(|rest| rest.is_empty() || rest.starts_with('+'))
}

fn percent_encoded(bytes: &[u8]) -> String {
    let escape = |byte: &u8| match byte {
        b' '..=b'~' if *byte != b'%' => char::from(*byte).to_string(),
        other => format!("%{other:02X}"),
    };
    bytes.iter().map(escape).collect()
}
