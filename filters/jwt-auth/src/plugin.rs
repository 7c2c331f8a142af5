//! The shell: carries the authenticator's decisions out in the proxy.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use plugin_kit::config::{ConfigErrors, Diagnostic};
use plugin_kit::host::HostError;
use plugin_kit::host::{self, Gauge, Headers, HostEnvironment};
use plugin_kit::host::{CallResponse, ElsewhereCall, Filter, Flow};
use plugin_kit::reply::detail::of_request;
use plugin_kit::reply::repeats::{LeftOut, Repeats};
use plugin_kit::request::cel::CLAIMS;
use plugin_kit::request::exchange::Exchange;
use serde_json::Value;

use crate::config::{Config, Mode};
use crate::decision::{Authenticator, Decision, Denial, Granted, Observed, Outcome, Pass, Waited, Why};
use crate::fetch::documents::{Document, SharedDocuments};
use crate::fetch::failure::{Failure, Kind};
use crate::fetch::introspection::{self, Answer};
use crate::fetch::remote::Remote;
use crate::fetch::revocation::Revoked;
use crate::fetch::schedule::{self, max_age};
use crate::fetch::waiting::{Waiting, WaitingPlace};
use crate::keys::algorithm::Algorithm;
use crate::keys::crypto::Crypto;
use crate::keys::host_crypto::{self, HostCrypto};
use crate::keys::jwk::KeySet;
use crate::metrics::Metrics;
use crate::policy::provider::Provider;
use crate::reply::{self, DenyReason};

thread_local! {
    /// A new configuration is a new filter in the same VM.
    static DOCUMENTS: RefCell<SharedDocuments> = const { RefCell::new(SharedDocuments::new()) };
}

/// Filter state that holds the deny code: `wasm.jwt.deny_code`.
const DENY_CODE: &str = "jwt.deny_code";
/// Filter state that holds the detail of a refusal: `wasm.jwt.deny_detail`.
const DENY_DETAIL: &str = "jwt.deny_detail";

/// jwt-auth in a proxy.
pub struct JwtAuth {
    authenticator: Authenticator,
    root: u32,
    metrics: Metrics,
    /// The fetches under way.
    calls: RefCell<Vec<Call>>,
    waiting: RefCell<Waiting>,
    /// Where other threads have found documents by the metadata of an issuer.
    discovered: RefCell<Vec<(Document, Rc<Remote>)>>,
    /// The lines about refusals, by reason and by the position of the rule.
    refusals: Repeats<(DenyReason, Option<usize>)>,
    /// The lines about questions without an answer, by the provider and the kind of failure.
    unanswered: Repeats<(usize, Kind)>,
}

/// A fetch that is under way.
struct Call {
    token: u32,
    /// What it brings.
    document: Document,
    /// Where it is fetched, if the metadata of an issuer has said that.
    discovered: Option<Rc<Remote>>,
}

impl Filter for JwtAuth {
    const NAME: &'static str = "jwt-auth";
    type Stream = Waited;

    fn configure(configuration: &Value, root: u32) -> Result<Self, ConfigErrors> {
        let config = Config::read(configuration, &HostEnvironment)?;
        let algorithms = config.algorithms();
        let call = Box::new(|argument: &[u8]| host::call_foreign_function(host_crypto::FUNCTION, argument));
        let host_crypto = HostCrypto::tested(call, &algorithms);
        if let Some(unchecked) =
            algorithms.iter().find(|a| a.is_for_the_host_alone() && !host_crypto.checks(**a))
        {
            let message =
                format!("`{unchecked}` is checked by the proxy alone, and this one does not check it");
            return Err(Diagnostic::invalid("providers", message).into());
        }
        for algorithm in algorithms {
            show_who_checks(algorithm, host_crypto.checks(algorithm));
        }
        for provider in &config.providers {
            if let Some(set) = provider.keys.inline() {
                warn_of_refused_keys(&provider.name, set);
            }
        }
        if config.publish_all
            && let Err(error) = host::declare_variables()
        {
            let message = format!("the proxy has no typed filter state: {error}");
            return Err(Diagnostic::invalid("publishAllClaims", message).into());
        }
        let crypto = Crypto::new(host_crypto, config.slow_verifications, || host::monotonic_time().ok());
        // Without a random seed, a client could choose tokens that push others out of the caches.
        let random = host::random().map_err(|error| {
            Diagnostic::invalid("$", format!("the proxy gives no random number: {error}"))
        })?;
        let seed = random.first_chunk().map_or(0, |half| u64::from_le_bytes(*half));
        let fetches = config.providers.iter().any(Provider::fetches);
        let (metrics, plugin) = (Metrics::define(&config.rules, fetches), host::plugin_name());
        let waiting = RefCell::new(Waiting::new(config.most_waiting));
        let authenticator = DOCUMENTS.with_borrow_mut(|documents| {
            Authenticator::sharing(documents, &plugin, config, Box::new(crypto), seed)
        });
        if let Ok(now) = host::monotonic_time() {
            // Documents that an older configuration has fetched are used, if they are young enough for this
            // one.
            for document in authenticator.documents() {
                authenticator.tick(document, now);
            }
        }
        let filter = Self {
            metrics,
            authenticator,
            root,
            calls: RefCell::default(),
            waiting,
            discovered: RefCell::default(),
            refusals: Repeats::default(),
            unanswered: Repeats::default(),
        };
        filter.show_keys();
        Ok(filter)
    }

    fn warnings(&self) -> Vec<Diagnostic> {
        self.authenticator.config().warnings.clone()
    }

    fn on_request(&self, stream: &mut Waited, exchange: &Exchange<'_>) -> Flow {
        if let Some(reply) = self.authenticator.metadata(exchange) {
            return Flow::Deny(reply);
        }
        if stream.has_waited() {
            self.waiting.borrow_mut().leave(exchange.id());
        }
        let Decision { outcome, clear_claims, observed } = match self.decide(stream, exchange) {
            Ok(decision) => decision,
            Err(error) => {
                log::warn!("jwt-auth: the request was not read, or not changed: {error}");
                return self.refuse(&internal(), None, exchange);
            }
        };
        match outcome {
            Outcome::Allow(pass) => self.allow(&pass, clear_claims, exchange),
            Outcome::Deny(denial) => self.deny(&denial, clear_claims, observed.next_fetch, exchange),
            Outcome::Wait { .. } => {
                self.metrics.waited.increment();
                Flow::Pause
            }
        }
    }

    fn keeps(&self, _stream: &Waited) -> bool {
        false
    }

    fn ticks_at_once(&self) -> bool {
        self.authenticator.documents().next().is_some()
    }

    fn on_tick(&self) -> Vec<u32> {
        self.sum_up_refusals();
        let asks = self.authenticator.asks_about_tokens();
        if !asks && self.authenticator.documents().next().is_none() {
            return Vec::new();
        }
        let Ok(now) = host::monotonic_time() else { return Vec::new() };
        let mut settled = if asks { self.authenticator.tick_questions(now) } else { Vec::new() };
        for document in self.authenticator.documents() {
            if self.authenticator.tick(document, now) {
                self.fetch(document, self.root);
            }
            if self.authenticator.fetching(document).is_some_and(|(_, fetching)| !fetching.is_fetching()) {
                settled.push(document);
            }
        }
        self.show_keys();
        let mut waiting = self.waiting.borrow_mut();
        waiting.tick();
        settled.into_iter().flat_map(|document| waiting.wake(document)).collect()
    }

    fn on_call(&self, token: u32, response: &CallResponse) -> Vec<u32> {
        let position = self.calls.borrow().iter().position(|call| call.token == token);
        let Some(position) = position else { return Vec::new() };
        let Call { document, discovered, .. } = self.calls.borrow_mut().swap_remove(position);
        let Ok(now) = host::monotonic_time() else { return Vec::new() };
        if let Document::Answer(..) = document {
            self.take_answer(document, response, now);
            return self.waiting.borrow_mut().wake(document);
        }
        if discovered.is_none()
            && let Some(metadata) = self.metadata(document)
        {
            match discover(metadata, response) {
                // The requests wait on, for the keys.
                Ok(keys) if self.call(document, &keys, Some(&keys), self.root, now) => return Vec::new(),
                Ok(_) => {}
                Err(error) => self.fetch_failed(document, now, &error),
            }
            return self.waiting.borrow_mut().wake(document);
        }
        if let Err(error) = self.receive(document, discovered.as_deref(), response, now, true) {
            self.fetch_failed(document, now, &error);
        }
        self.waiting.borrow_mut().wake(document)
    }

    fn on_call_elsewhere(&self, call: &ElsewhereCall<'_>) -> Vec<u32> {
        let documents: Vec<Document> = self.authenticator.documents().collect();
        let heard = documents.into_iter().filter(|document| self.hear(*document, call));
        heard.flat_map(|document| self.waiting.borrow_mut().wake(document)).collect()
    }

    fn on_gone(&self, stream: u32) {
        self.waiting.borrow_mut().leave(stream);
    }
}

impl JwtAuth {
    /// Takes what a call elsewhere means for a document: it is there, or it is asked for again after the same pause. What is wrong with
    /// it is told and counted where it was asked for. Whether requests that wait for it are to be seen again.
    fn hear(&self, document: Document, call: &ElsewhereCall<'_>) -> bool {
        // The very same call: what comes for the secret in a header is for nobody who does not send it.
        let is_for = |remote: &Remote| {
            let sent = call.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            remote.cluster == call.cluster && sent.eq(request_headers(remote, document))
        };
        let Some(remote) = self.authenticator.fetching(document).map(|(remote, _)| remote) else {
            return false;
        };
        let is_metadata = remote.discovery.is_some() && is_for(remote);
        let place =
            self.discovered.borrow().iter().find(|(of, _)| *of == document).map(|(_, at)| Rc::clone(at));
        let place = place.filter(|_| remote.discovery.is_some() && !is_metadata);
        let outcome = if is_metadata {
            discover(remote, call.response).map(|keys| {
                let mut discovered = self.discovered.borrow_mut();
                discovered.retain(|(of, _)| *of != document);
                discovered.push((document, keys));
            })
        } else if place.as_deref().or(remote.discovery.is_none().then_some(remote)).is_some_and(is_for) {
            self.receive(document, place.as_deref(), call.response, call.at, false)
        } else {
            return false;
        };
        let own = self.calls.borrow().iter().any(|call| call.document == document);
        if let (Some((_, mut fetching)), false) = (self.authenticator.fetching(document), own) {
            match outcome {
                // Whoever has read the metadata asks for the keys next.
                Ok(()) if is_metadata => fetching.started(call.at),
                Ok(()) => {}
                Err(_) => fetching.failed_elsewhere(call.at, call.failures),
            }
        }
        !is_metadata || outcome.is_err()
    }

    /// Decides about the request. If it is to wait, it has begun to. A request that cannot wait is decided
    /// again, since some rules let it in without the document that it would wait for.
    fn decide(&self, stream: &mut Waited, exchange: &Exchange<'_>) -> Result<Decision<'_>, HostError> {
        let remove = |name: &str| {
            Headers::Request.remove(name)?;
            exchange.note_header_removed(name);
            Ok(())
        };
        loop {
            let decision = self.authenticator.decide(exchange, stream, &remove)?;
            self.count(&decision.observed);
            let Outcome::Wait { document, fetch } = decision.outcome else { return Ok(decision) };
            match self.wait(document, fetch, exchange.id()) {
                Ok(()) => return Ok(decision),
                // The request does not wait for this document again, so the loop ends.
                Err(reason) => stream.give_up(document, reason),
            }
        }
    }

    fn count(&self, observed: &Observed) {
        for (count, counter) in [
            (observed.cache_hits, self.metrics.cache_hits),
            (observed.cache_misses, self.metrics.cache_misses),
            (observed.conditions_failed, self.metrics.conditions_failed),
        ] {
            counter.add(count);
        }
    }

    fn allow(&self, pass: &Pass<'_>, clear_claims: bool, exchange: &Exchange<'_>) -> Flow {
        if let Err(error) = self.apply(pass, clear_claims, exchange) {
            // The service must not see a token that it should not get.
            log::warn!("jwt-auth: the request was not changed: {error}");
            return self.refuse(&internal(), None, exchange);
        }
        match pass.why {
            Why::Token => self.metrics.allowed.increment(),
            Why::Anyone => self.metrics.anonymous.increment(),
            Why::Preflight => self.metrics.preflights.increment(),
        }
        if let Some((allowed, _)) = self.metrics.of_rule(pass.rule) {
            allowed.increment();
        }
        Flow::Continue
    }

    fn apply(&self, pass: &Pass<'_>, clear: bool, exchange: &Exchange<'_>) -> Result<(), HostError> {
        let token = pass.identity.as_ref().and_then(Granted::verified);
        clear_claims(clear)?;
        for (name, value) in &pass.spent {
            match value {
                Some(value) => Headers::Request.set(name, value)?,
                None => Headers::Request.remove(name)?,
            }
            match value {
                Some(value) => exchange.note_header(&**name, value.as_slice()),
                None => exchange.note_header_removed(&**name),
            }
        }
        let Some(token) = token else { return Ok(()) };
        if self.authenticator.config().publish_all {
            match token.typed() {
                Some(claims) => host::set_filter_state(CLAIMS, claims)?,
                None => self.metrics.outputs_failed.increment(),
            }
        }
        for (name, value) in &token.headers {
            // The client's copies are gone, and to add a header costs half as much as to set it.
            Headers::Request.add(name, value)?;
            exchange.note_header(Rc::clone(name), Rc::clone(value));
        }
        for (key, value) in &token.published {
            host::set_filter_state(key, value)?;
            exchange.note_published(Rc::clone(key), Rc::clone(value));
        }
        self.metrics.outputs_failed.add(token.outputs_failed);
        Ok(())
    }

    fn deny(
        &self,
        denial: &Denial<'_>,
        clear: bool,
        next_fetch: Option<Duration>,
        exchange: &Exchange<'_>,
    ) -> Flow {
        if self.authenticator.config().mode == Mode::Enforce {
            return self.refuse(denial, next_fetch, exchange);
        }
        self.note(denial, exchange);
        self.metrics.reported.increment();
        if let Err(error) = clear_claims(clear) {
            log::warn!("jwt-auth: the request was not changed: {error}");
            return self.refuse(&internal(), None, exchange);
        }
        Flow::Continue
    }

    fn refuse(&self, denial: &Denial<'_>, next_fetch: Option<Duration>, exchange: &Exchange<'_>) -> Flow {
        let Denial { reason, scopes, .. } = *denial;
        self.note(denial, exchange);
        publish_user(denial, exchange);
        self.metrics.denied.increment();
        let config = self.authenticator.config();
        let head = exchange.headers().ok();
        let context = reply::Context {
            response: &config.deny_response,
            scopes,
            head: head.as_deref(),
            places: &config.places,
            retry_in: retry_in(reason, next_fetch),
        };
        Flow::Deny(reply::reply(reason, &context))
    }

    /// Counts, logs and publishes why a request is refused, or would be.
    fn note(&self, denial: &Denial<'_>, exchange: &Exchange<'_>) {
        let Denial { reason, rule, .. } = *denial;
        let code = reason.presentation().code;
        if let Some(counter) = self.metrics.of_code(reason.code()) {
            counter.increment();
        }
        if let Some((_, denied)) = self.metrics.of_rule(rule) {
            denied.increment();
        }
        let detail = self.authenticator.detail(denial, exchange);
        if self.refusals.is_first(&(reason, rule)) {
            let rule = self.authenticator.rule_name(rule);
            let request = of_request(exchange);
            log::info!("jwt-auth: {} by {rule}: {}; {request}; {detail}", self.outcome(), reason.cause());
        }
        publish(DENY_CODE, code, exchange);
        publish(DENY_DETAIL, &detail, exchange);
    }

    fn outcome(&self) -> &'static str {
        match self.authenticator.config().mode {
            Mode::Enforce => "refused",
            Mode::Report => "would be refused",
        }
    }

    /// Says how many refusals of each kind the log does not have, once a period.
    fn sum_up_refusals(&self) {
        let LeftOut { kinds, others } = self.refusals.tick(|| host::monotonic_time().ok());
        for ((reason, rule), count) in kinds {
            let rule = self.authenticator.rule_name(rule);
            log::info!(
                "jwt-auth: {count} more {} by {rule} in the last minute: {}",
                self.outcome(),
                reason.cause()
            );
        }
        for ((provider, _), count) in self.unanswered.tick(|| host::monotonic_time().ok()).kinds {
            let name = self.name(provider);
            log::warn!("jwt-auth: provider {name}: {count} more questions in the last minute had no answer");
        }
        if others > 0 {
            log::info!("jwt-auth: {others} more {} in the last minute for other reasons", self.outcome());
        }
    }

    /// Makes a stream wait for a document.
    fn wait(&self, document: Document, fetch: bool, stream: u32) -> Result<(), DenyReason> {
        if !self.has_place(stream) {
            return Err(DenyReason::TooManyWaiting);
        }
        if fetch && !self.fetch(document, stream) {
            return Err(document.unavailable());
        }
        self.waiting.borrow_mut().enter(document, stream);
        Ok(())
    }

    /// Whether one more request may wait. If all places are taken, it looks for those of clients that have
    /// left.
    fn has_place(&self, current: u32) -> bool {
        let suspects = match self.waiting.borrow_mut().place() {
            WaitingPlace::Free => return true,
            WaitingPlace::None => return false,
            WaitingPlace::Suspects(suspects) => suspects,
        };
        let gone = suspects.into_iter().filter(|stream| !host::enter_stream(*stream));
        let gone: Vec<u32> = gone.collect();
        let _ = host::set_effective_context(current);
        self.waiting.borrow_mut().leave_all(&gone);
        !gone.is_empty()
    }

    /// Takes the document that a fetch brought, which was this worker's `own`.
    fn receive(
        &self,
        document: Document,
        discovered: Option<&Remote>,
        response: &CallResponse,
        now: Duration,
        own: bool,
    ) -> Result<(), Failure> {
        let remote = discovered.or(self.authenticator.fetching(document).map(|(remote, _)| remote));
        let (body, max_age) = body(response, remote, schedule::LARGEST)?;
        match document {
            Document::Keys(provider) => {
                let purpose = remote.map(|remote| remote.purpose).unwrap_or_default();
                let set =
                    KeySet::fetched(&body, purpose).map_err(|reason| Failure::content(&body, &reason))?;
                if own {
                    warn_of_refused_keys(self.name(provider), &set);
                    self.metrics.fetched.increment();
                }
                if let Some(cache) = self.authenticator.remote(provider) {
                    cache.borrow_mut().succeeded(now, set, max_age);
                }
                self.show_keys();
            }
            Document::Revoked(provider) => {
                let list =
                    Revoked::parse(&body).map_err(|error| Failure::content(&body, &error.to_string()))?;
                self.authenticator.revoke(provider, now, list, max_age);
                self.metrics.lists_fetched.add(u32::from(own));
            }
            // It is taken elsewhere.
            Document::Answer(..) => {}
        }
        Ok(())
    }

    fn fetch_failed(&self, document: Document, now: Duration, failure: &Failure) {
        if let Some((_, mut fetching)) = self.authenticator.fetching(document) {
            fetching.failed(now);
        }
        let (failures, what) = match document {
            Document::Keys(_) => (self.metrics.fetches_failed, "the keys were"),
            Document::Revoked(_) => (self.metrics.list_fetches_failed, "the list of revoked tokens was"),
            Document::Answer(provider, _) => return self.question_failed(provider, failure),
        };
        failures.increment();
        if let Some(counter) = self.metrics.of_failure(failure.kind) {
            counter.increment();
        }
        log::warn!("jwt-auth: provider {}: {what} not fetched: {failure}", self.name(document.provider()));
    }

    /// Where the metadata is that says where a document is, if that is how it is found.
    fn metadata(&self, document: Document) -> Option<&Remote> {
        self.authenticator
            .fetching(document)
            .map(|(remote, _)| remote)
            .filter(|remote| remote.discovery.is_some())
    }

    /// Takes what an issuer has said about a token.
    #[inline(never)]
    fn take_answer(&self, document: Document, response: &CallResponse, now: Duration) {
        let endpoint = self.authenticator.question(document).map(|(endpoint, _)| &endpoint.remote);
        let answer = body(response, endpoint, introspection::LARGEST);
        let answer = answer.and_then(|(body, _)| Answer::parse(&body));
        match &answer {
            Ok(_) => self.metrics.answers.increment(),
            Err(error) => self.question_failed(document.provider(), error),
        }
        self.authenticator.answered(document, answer.ok(), now);
    }

    fn question_failed(&self, provider: usize, failure: &Failure) {
        self.metrics.answers_missing.increment();
        if let Some(counter) = self.metrics.of_failure(failure.kind) {
            counter.increment();
        }
        if self.unanswered.is_first(&(provider, failure.kind)) {
            let name = self.name(provider);
            log::warn!(
                "jwt-auth: provider {name}: the issuer did not say whether a token is active: {failure}"
            );
        }
    }

    /// Asks an issuer about a token. Returns whether the question was sent.
    #[inline(never)]
    fn ask(&self, document: Document, current: u32) -> bool {
        let (Some((endpoint, question)), Ok(now)) =
            (self.authenticator.question(document), host::monotonic_time())
        else {
            return false;
        };
        let Remote { cluster, scheme, authority, path, headers, settings, .. } = &endpoint.remote;
        let length = question.len().to_string();
        let usual = [
            (":method", "POST"),
            (":scheme", *scheme),
            (":authority", authority),
            (":path", path),
            ("accept", document.accept()),
            ("content-type", "application/x-www-form-urlencoded"),
            ("content-length", &length),
        ];
        let own = headers.0.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let all: Vec<(&str, &str)> = usual.into_iter().chain(own).collect();
        match host::http_call(self.root, current, cluster, &all, question.as_bytes(), settings.timeout) {
            Ok(token) => {
                self.calls.borrow_mut().push(Call { token, document, discovered: None });
                self.authenticator.asked(document, now);
                true
            }
            Err(error) => {
                self.question_failed(document.provider(), &Failure::not_sent(cluster, error));
                self.authenticator.answered(document, None, now);
                false
            }
        }
    }

    /// Starts to fetch a document, while the callback of `current` runs. Returns whether the fetch started.
    fn fetch(&self, document: Document, current: u32) -> bool {
        if let Document::Answer(..) = document {
            return self.ask(document, current);
        }
        let remote = self.authenticator.fetching(document).map(|(remote, _)| remote);
        let (Some(remote), Ok(now)) = (remote, host::monotonic_time()) else { return false };
        self.call(document, remote, None, current, now)
    }

    /// The same from this place, at which it was `discovered` or is always.
    fn call(
        &self,
        document: Document,
        remote: &Remote,
        discovered: Option<&Rc<Remote>>,
        current: u32,
        now: Duration,
    ) -> bool {
        let Remote { cluster, settings, .. } = remote;
        let all = request_headers(remote, document);
        match host::http_call(self.root, current, cluster, &all, b"", settings.timeout) {
            Ok(token) => {
                self.calls.borrow_mut().push(Call { token, document, discovered: discovered.map(Rc::clone) });
                if let Some((_, mut fetching)) = self.authenticator.fetching(document) {
                    fetching.started(now);
                }
                true
            }
            Err(error) => {
                self.fetch_failed(document, now, &Failure::not_sent(cluster, error));
                false
            }
        }
    }

    fn name(&self, provider: usize) -> &str {
        self.authenticator.config().providers.get(provider).map_or("", |provider| provider.name.as_str())
    }

    fn show_keys(&self) {
        let count = self.authenticator.key_sets().map(|set| set.keys.len());
        self.metrics.keys.set(u64::try_from(count.sum::<usize>()).unwrap_or(u64::MAX));
    }
}

/// The denial of a request that the proxy did not let the filter read or change.
fn internal() -> Denial<'static> {
    Denial::of(DenyReason::Internal)
}

/// Publishes who makes a request whose token is good and which a rule refuses, for access logs and tags. No filter decides
/// about the request any more.
fn publish_user(denial: &Denial<'_>, exchange: &Exchange<'_>) {
    let published = denial.verified().map(|token| token.published.as_slice()).unwrap_or_default();
    for (key, value) in published {
        let _ = host::set_filter_state(key, value);
        exchange.note_published(Rc::clone(key), Rc::clone(value));
    }
}

/// Publishes a text for access logs, spans and other filters.
fn publish(key: &'static str, text: &str, exchange: &Exchange<'_>) {
    let _ = host::set_filter_state(key, text.as_bytes());
    exchange.note_published(key, text.as_bytes());
}

/// How long it takes until the document may be there that a request was refused for.
fn retry_in(reason: DenyReason, next_fetch: Option<Duration>) -> Duration {
    let next_fetch = next_fetch.filter(|_| reason.waits());
    let now = next_fetch.and_then(|_| host::monotonic_time().ok());
    next_fetch.zip(now).map_or(Duration::ZERO, |(next_fetch, now)| next_fetch.saturating_sub(now))
}

/// Clears the claims that a condition has seen, if later filters must not see them.
fn clear_claims(clear: bool) -> Result<(), HostError> {
    if clear { host::set_filter_state(CLAIMS, b"") } else { Ok(()) }
}

/// The body of the response to a fetch from this place, of at most so many bytes, and how long the server says that it is good.
fn body(
    response: &CallResponse,
    remote: Option<&Remote>,
    largest: usize,
) -> Result<(Vec<u8>, Option<Duration>), Failure> {
    /// Where the proxy answers in the place of the server, its text is short.
    const LONGEST_TEXT: usize = 512;
    if let Some(error) = response.not_sent {
        return Err(Failure::not_sent(remote.map_or("", |remote| remote.cluster.as_str()), error));
    }
    let timeout = remote.map(|remote| remote.settings.timeout).unwrap_or_default();
    let head = response.head.as_ref();
    let is_good = head.is_some_and(|head| head.first(":status") == Some(b"200"));
    if is_good && response.body_size > largest {
        return Err(Failure::too_long(response.body_size, largest));
    }
    let size = response.body_size.min(if is_good { largest } else { LONGEST_TEXT });
    let body = if size == 0 { Ok(Vec::new()) } else { host::call_response_body(size) };
    if !is_good {
        let body = body.as_deref().unwrap_or_default();
        let failure = Failure::of_response(head, body, timeout);
        return Err(failure.unwrap_or_else(|| Failure::content(b"", "no status")));
    }
    if let Some(failure) = Failure::of_response(head, b"", timeout) {
        return Err(failure);
    }
    let max_age = head.and_then(|head| head.first("cache-control")).and_then(max_age);
    Ok((body.map_err(Failure::unread)?, max_age))
}

/// The headers of the request for a document.
fn request_headers(remote: &Remote, document: Document) -> Vec<(&str, &str)> {
    let usual = [
        (":method", "GET"),
        (":scheme", remote.scheme),
        (":authority", remote.authority.as_str()),
        (":path", remote.path.as_str()),
        ("accept", document.accept()),
    ];
    let own = remote.headers.0.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    usual.into_iter().chain(own).collect()
}

/// Where the keys are, as the metadata says that a fetch brought.
fn discover(metadata: &Remote, response: &CallResponse) -> Result<Rc<Remote>, Failure> {
    let (body, _) = body(response, Some(metadata), schedule::LARGEST)?;
    let keys = metadata.discovery.as_ref().map(|discovery| discovery.keys(&body, metadata));
    keys.unwrap_or_else(|| Ok(metadata.clone())).map(Rc::new)
}

fn warn_of_refused_keys(provider: &str, set: &KeySet) {
    for (kid, reason) in &set.refused {
        log::warn!("jwt-auth: provider {provider}: key {kid} is not used: {reason}");
    }
}

/// Sets the gauge of the algorithm: 1 if the host checks its signatures, 0 if this module does.
fn show_who_checks(algorithm: Algorithm, host: bool) {
    let name = algorithm.name().to_ascii_lowercase();
    Gauge::define(&format!("jwt_auth_host_crypto_{name}")).set(u64::from(host));
    if !host && Algorithm::DEFAULT.contains(&algorithm) {
        log::warn!("jwt-auth: the host does not check {algorithm}; this module does, which is much slower");
    }
}
