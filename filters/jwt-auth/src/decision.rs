//! The decision about a request. [`Authenticator`] makes it: it finds the request's [`tokens`], has them
//! confirmed ([`verification`]), which may mean that the request has to [`wait`], and asks the rules
//! ([`admission`]).

mod admission;
mod context;
mod detail;
mod outcome;
mod tokens;
mod verification;
mod wait;

use std::borrow::Cow;
use std::cell::{RefCell, RefMut};
use std::rc::Rc;
use std::time::Duration;

use plugin_kit::host::HostError;
use plugin_kit::reply::Reply;
use plugin_kit::request::exchange::Exchange;
use plugin_kit::request::headers::{HeaderMap, NameLengths};
use plugin_kit::request::matcher::Request;
use plugin_kit::request::path::Readings;
use plugin_kit::request::path_index::PathIndex;
use plugin_kit::trace::{self, Note};
use plugin_kit::wire::bytes::equal;

use self::admission::{Admission, Deciding, admit};
use self::context::Context;
use self::tokens::FoundToken;
use self::verification::{Stop, Verification};
use crate::config::{AmbiguousPath, Config};
use crate::fetch::documents::{Document, Documents, SharedDocuments};
use crate::fetch::introspection::{Answer, Introspection};
use crate::fetch::remote::Remote;
use crate::fetch::revocation::Revoked;
use crate::fetch::schedule::{Fetching, JwksCache};
use crate::keys::jwk::KeySet;
use crate::keys::signature::Verifier;
use crate::policy::place::Place;
use crate::policy::rules::{Rule, first_match, first_match_without_path};
use crate::reply::DenyReason;
use crate::token::location::{TokenLocation, behind_prefix};

pub use self::outcome::{Decision, Denial, Granted, Observed, One, Outcome, Pass, Why};
pub use self::wait::Waited;

/// Removes every value of a header from the request, in the proxy: what a core asks of its shell while it
/// decides.
pub type RemoveHeader<'a> = &'a dyn Fn(&str) -> Result<(), HostError>;

/// What the first walk over the headers found.
#[derive(Default)]
struct FirstLook<'a> {
    /// The client's copies of headers that only this filter may set.
    copies: Vec<String>,
    /// The values of the header that carries tokens, if a header is the only location.
    bearing: One<&'a [u8]>,
}

/// Decides about requests.
pub struct Authenticator {
    config: Config,
    rules: PathIndex,
    /// Whether a rule looks at the host.
    reads_host: bool,
    verification: Verification,
}

impl Authenticator {
    /// Decides by this configuration, and shares nothing. `seed` is any number that clients cannot know.
    pub fn new(config: Config, verifier: Box<dyn Verifier>, seed: u64) -> Self {
        Self::sharing(&mut SharedDocuments::new(), b"", config, verifier, seed)
    }

    /// The same with the keys and lists that other configurations of the plugin of this name have fetched.
    /// Verdicts about tokens are not shared, since they depend on what the configuration says about claims.
    #[inline(never)]
    pub fn sharing(
        documents: &mut SharedDocuments,
        plugin: &[u8],
        config: Config,
        verifier: Box<dyn Verifier>,
        seed: u64,
    ) -> Self {
        let documents = Documents::sharing(documents, plugin, &config.providers, seed);
        Self {
            rules: PathIndex::new(config.rules.iter().map(|rule| &rule.condition)),
            reads_host: config.rules.iter().any(|rule| rule.condition.reads_host()),
            verification: Verification::new(&config, verifier, documents, seed),
            config,
        }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The reply to a request for the metadata of the resource, if it is one. It is not decided about.
    pub fn metadata(&self, exchange: &Exchange<'_>) -> Option<Reply> {
        let metadata = self.config.deny_response.metadata.as_ref()?;
        let head = exchange.headers().ok()?;
        metadata.reply(&head)
    }

    /// The fetched keys of the provider at this position, if its keys are fetched.
    pub fn remote(&self, provider: usize) -> Option<&RefCell<JwksCache>> {
        self.verification.documents.keys(provider)
    }

    /// The keys that each provider has now.
    pub fn key_sets(&self) -> impl Iterator<Item = Rc<KeySet>> {
        let documents = &self.verification.documents;
        self.config.providers.iter().enumerate().filter_map(|(n, provider)| documents.key_set(n, provider))
    }

    /// Every document that is fetched.
    pub fn documents(&self) -> impl Iterator<Item = Document> {
        self.verification.documents.iter()
    }

    /// Where a document is fetched, and how far that is; `None` for an answer about a token.
    pub fn fetching(&self, document: Document) -> Option<(&Remote, RefMut<'_, dyn Fetching>)> {
        self.verification.documents.fetching(document, &self.config.providers)
    }

    /// To be called for each document about once a second; says whether to start a fetch of it.
    pub fn tick(&self, document: Document, now: Duration) -> bool {
        self.verification.tick(&self.config, document, now)
    }

    /// Takes the list of revoked tokens that a fetch brought for the provider at this position, to be used
    /// for `max_age` if the server said so. It applies to tokens that were verified before, too.
    pub fn revoke(&self, position: usize, now: Duration, list: Revoked, max_age: Option<Duration>) {
        self.verification.revoke(position, now, list, max_age);
    }

    /// Whether it asks the issuer of some provider about tokens.
    pub fn asks_about_tokens(&self) -> bool {
        self.config.providers.iter().any(|provider| provider.keys.introspection().is_some())
    }

    /// The question to an issuer that a request waits for: the endpoint and the body.
    pub fn question(&self, document: Document) -> Option<(&Introspection, String)> {
        let Document::Answer(provider, number) = document else { return None };
        let endpoint = self.config.providers.get(provider)?.keys.introspection()?;
        let questions = self.verification.documents.questions(provider)?.borrow();
        Some((endpoint, endpoint.body(questions.token(number)?)))
    }

    /// The question was sent.
    pub fn asked(&self, document: Document, now: Duration) {
        if let Document::Answer(provider, number) = document
            && let Some(questions) = self.verification.documents.questions(provider)
        {
            questions.borrow_mut().started(number, now);
        }
    }

    /// Takes what the issuer has said, or `None` if it said nothing.
    pub fn answered(&self, document: Document, answer: Option<Answer>, now: Duration) {
        let Document::Answer(provider, number) = document else { return };
        let endpoint = self.config.providers.get(provider).and_then(|p| p.keys.introspection());
        let questions = self.verification.documents.questions(provider);
        if let (Some(endpoint), Some(questions)) = (endpoint, questions) {
            let mut questions = questions.borrow_mut();
            match answer {
                Some(answer) => questions.answered(number, answer, now, endpoint.longest),
                None => questions.failed(number, now),
            }
        }
    }

    /// To be called about once a second. Returns the questions that are given up, on which requests need not wait.
    pub fn tick_questions(&self, now: Duration) -> Vec<Document> {
        self.verification.documents.tick_questions(now)
    }

    /// Decides about a request. `waited` gets what is to be remembered if the request waits.
    ///
    /// The client's copies of headers that only this filter may set are removed before anything else looks at
    /// the request: a rule or a condition that tests such a header must not believe the client.
    ///
    /// # Errors
    /// The request could not be read or changed. What is to be taken from it is unknown, so it must not go on
    /// in any mode.
    pub fn decide(
        &self,
        exchange: &Exchange<'_>,
        waited: &mut Waited,
        remove: RemoveHeader<'_>,
    ) -> Result<Decision<'_>, HostError> {
        self.verification.apply_new_lists();
        // One call reads all headers: to read one, and to remove each copy of a client's, there or not, costs
        // more.
        let received = exchange.headers()?;
        if received.is_empty() {
            // No request is without headers.
            return Err(HostError { call: "get_header_map_pairs", status: HostError::MALFORMED });
        }
        let FirstLook { copies, bearing } = self.first_look(&received);
        copies.iter().try_for_each(|copy| remove(copy))?;
        if let Some(outcome) = self.fast_path(&bearing, exchange) {
            let observed = Observed { cache_hits: 1, ..Observed::default() };
            return Ok(Decision { outcome, clear_claims: false, observed });
        }
        let cleaned =
            (!copies.is_empty()).then(|| received.without(|name| self.config.own_headers.contain(name)));
        let head = cleaned.as_ref().unwrap_or(&received);
        let mut context = Context { exchange, waited, observed: Observed::default(), shown_claims: false };
        let outcome = self.evaluate(head, &mut context).unwrap_or_else(|error| {
            // Nothing can be checked without what the host did not tell.
            log::warn!("jwt-auth: {error}");
            Outcome::Deny(Denial::of(DenyReason::Internal))
        });
        // If a token says who makes the request, its claims are those that conditions were shown.
        let keeps_claims = matches!(outcome, Outcome::Allow(Pass { identity: Some(_), .. }));
        let clear_claims = context.shown_claims && !keeps_claims;
        Ok(Decision { outcome, clear_claims, observed: context.observed })
    }

    fn first_look<'a>(&self, head: &'a HeaderMap) -> FirstLook<'a> {
        let own = &self.config.own_headers;
        let bearer = match self.config.places.as_slice() {
            [Place { location: TokenLocation::Header { name, .. }, .. }] => name.as_str(),
            _ => "",
        };
        let mut look = FirstLook::default();
        for (name, value) in head.with_name_lengths(own.lengths().and(NameLengths::of([bearer]))) {
            if equal(name, bearer.as_bytes()) {
                look.bearing.push(value);
            } else if own.contain(name) && !look.copies.iter().any(|copy| copy.as_bytes() == name) {
                // Names of headers are ASCII.
                look.copies.extend(String::from_utf8(name.to_vec()));
            }
        }
        look
    }

    /// Fast path: a token that is in the cache, and no rules. `None` if the request has to be evaluated.
    fn fast_path(&self, bearing: &[&[u8]], exchange: &Exchange<'_>) -> Option<Outcome<'_>> {
        let [Place { location: TokenLocation::Header { name, prefix }, providers, .. }] =
            self.config.places.as_slice()
        else {
            return None;
        };
        let [value] = bearing else { return None };
        if !self.config.rules.is_empty() {
            return None;
        }
        // A header that was there twice is joined by a comma, which no known token has.
        let token = behind_prefix(value, prefix)?;
        let now = exchange.recent_unix_time().ok()?.as_secs();
        let all = self.verification.known(token, now)?;
        let position = all.iter().position(|verified| providers.contains(&verified.provider))?;
        let forward = tokens::forwards(&self.config, &all, providers);
        let spent = if forward { One::new() } else { One::from([(Cow::Borrowed(name.as_str()), None)]) };
        let identity = Some(Granted { all, position });
        Some(Outcome::Allow(Pass { spent, identity, why: Why::Token, rule: None }))
    }

    /// Decides with the rules, the tokens, and what has to be fetched for these.
    #[inline(never)]
    fn evaluate(&self, head: &HeaderMap, context: &mut Context<'_, '_>) -> Result<Outcome<'_>, HostError> {
        let rules = match self.rules(head, context)? {
            Ok(rules) => rules,
            Err(reason) => return Ok(Outcome::Deny(Denial::of(reason))),
        };
        let deciding: Vec<Deciding<'_>> =
            rules.iter().map(|rule| Deciding::at(&self.config, *rule)).collect();
        let verifies = deciding.iter().any(Deciding::verifies);
        let looking = deciding.iter().filter(|deciding| deciding.verifies()).map(|deciding| deciding.rule);
        let looking: One<Option<usize>> = looking.collect();
        let found = if verifies { tokens::find(&self.config, head, &looking) } else { Ok(Vec::new()) };
        let confirmed = match &found {
            Ok(found) => self.verification.confirm(&self.config, found, context),
            Err(reason) => Err(Stop::Deny(*reason)),
        };
        if let Err(Stop::Wait { document, fetch }) = confirmed {
            foresee(&deciding, found.as_deref().unwrap_or_default(), context)?;
            context.waited.begin(rules);
            return Ok(Outcome::Wait { document, fetch });
        }
        let Admission { identity, why } = match admit(&self.config, &deciding, &confirmed, head, context)? {
            Ok(admission) => admission,
            Err(denial) => return Ok(Outcome::Deny(denial)),
        };
        // Tokens leave the request even if a rule lets it in as if it had none: the service must not take
        // them for checked.
        let spent = if verifies {
            tokens::spent(&self.config, head, &confirmed.unwrap_or_default()).into()
        } else {
            One::new()
        };
        let rule = deciding.first().and_then(|deciding| deciding.rule);
        Ok(Outcome::Allow(Pass { spent, identity, why, rule }))
    }

    /// The positions of the rules that decide about the request, remembered if it has waited; or why it is
    /// refused whatever they say.
    fn rules(
        &self,
        head: &HeaderMap,
        context: &mut Context<'_, '_>,
    ) -> Result<Result<Vec<Option<usize>>, DenyReason>, HostError> {
        match context.waited.take_rules() {
            Some(rules) => Ok(Ok(rules)),
            None => self.match_rules(context.exchange, &Request::of(head)),
        }
    }

    /// The positions of the rules that decide about `request`: one, or one for each reading of its path, and
    /// those of which it is not known whether they do. Otherwise why the request is refused whatever they
    /// say: its path is read differently and must not be, or its authority is not a host.
    #[inline(never)]
    fn match_rules(
        &self,
        exchange: &Exchange<'_>,
        request: &Request<'_>,
    ) -> Result<Result<Vec<Option<usize>>, DenyReason>, HostError> {
        if self.reads_host && !request.has_host() {
            return Ok(Err(DenyReason::InvalidAuthority));
        }
        let mut found = Vec::with_capacity(1);
        let mut rule = |reading: &[u8]| {
            trace::note(|| Note::new("reading").received_bytes(Some(reading)));
            first_match(&self.config.rules, &self.rules, exchange, request, reading, &mut found)
        };
        if !self.config.rules.iter().any(Rule::reads_path) {
            rule(b"")?;
            return Ok(Ok(found));
        }
        if request.method == b"CONNECT" && request.target.is_empty() {
            first_match_without_path(&self.config.rules, exchange, request, &mut found)?;
            return Ok(Ok(found));
        }
        match Readings::of(request.target, self.config.path_case) {
            Readings::One(path) => rule(&path)?,
            Readings::Several(paths) if self.config.ambiguous_path == AmbiguousPath::EveryReading => {
                paths.iter().try_for_each(|path| rule(path))?;
            }
            Readings::Several(_) | Readings::None => return Ok(Err(DenyReason::AmbiguousPath)),
        }
        Ok(Ok(found))
    }
}

/// Asks about the rules' conditions before the request waits for the first time: later the host cannot be
/// asked.
fn foresee(
    rules: &[Deciding<'_>],
    found: &[FoundToken<'_>],
    context: &mut Context<'_, '_>,
) -> Result<(), HostError> {
    if context.waited.has_waited() {
        return Ok(());
    }
    let conditions: Vec<_> = rules.iter().filter_map(Deciding::condition).collect();
    let tokens: Vec<&[u8]> = found.iter().map(|found| found.token.as_ref()).collect();
    context.shown_claims = true;
    context.waited.foresee(&conditions, context.exchange, &tokens)?;
    context.shown_claims = false;
    Ok(())
}
