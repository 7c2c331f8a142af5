//! The filter without a proxy: from a request to a decision.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell, RefCell, RefMut};
use std::rc::Rc;
use std::time::Duration;

use plugin_kit::host::HostError;
use plugin_kit::request::cel::Expression;
use plugin_kit::request::exchange::Exchange;
use plugin_kit::request::headers::{HeaderMap, NameLengths};
use plugin_kit::request::matcher::Request;
use plugin_kit::request::path::Readings;
use plugin_kit::request::path_index::PathIndex;
use plugin_kit::wire::bytes::equal;
use serde_json::{Map, Value};
use smallvec::SmallVec;

use crate::config::{AmbiguousPath, Config, CorsPreflight, SeveralTokens};
use crate::fetch::revocation::{OnFailure, Revoked};
use crate::fetch::schedule::{Fetched, Fetching, JwksCache, Missing, SharedByUrl};
use crate::keys::jwk::KeySet;
use crate::keys::signature::{Verdict, Verifier};
use crate::policy::condition;
use crate::policy::provider::{KeySource, Provider, Remote};
use crate::policy::rules::{
    Access, Met, Refusal, Requirement, Rule, Tokens, Verify, first_match, first_match_without_path,
};
use crate::reply::DenyReason;
use crate::token::cache::TokenCache;
use crate::token::claims::ClaimError;
use crate::token::compact::UntrustedToken;
use crate::token::location::{self, Edit, TokenLocation, behind_prefix};
use crate::token::output;
use crate::token::refused::RefusedTokens;
use crate::token::verified::{Named, Verified};

/// What to do with a request. The client's copies of the filter's own headers are gone by now, whatever the outcome.
#[derive(Debug)]
pub struct Decision<'a> {
    /// Whether it goes on.
    pub outcome: Outcome<'a>,
    /// Whether a condition was shown claims that the request does not go on with.
    pub clear_claims: bool,
}

/// Removes every value of a header from the request, in the proxy: what a core asks of its shell while it decides.
pub type RemoveHeader<'a> = &'a dyn Fn(&str) -> Result<(), HostError>;

/// What the first walk over the head found.
#[derive(Default)]
struct FirstLook<'a> {
    /// The client's copies of headers that only this filter may set.
    copies: Vec<String>,
    /// The values of the header that carries tokens, where there is one such place.
    bearing: One<&'a [u8]>,
}

/// Whether a request goes on.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// It goes on.
    Allow(Pass<'a>),
    /// It is refused, or in report mode it goes on without claims.
    Deny(Denial<'a>),
    /// It waits for this document.
    Wait {
        /// What is missing.
        document: Document,
        /// Whether to start a fetch of it.
        fetch: bool,
    },
}

/// What is fetched for the provider at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// Its keys.
    Keys(usize),
    /// Its list of revoked tokens.
    Revoked(usize),
}

impl Document {
    /// The media types to ask for, for `accept`. Kubernetes serves its keys as `application/jwk-set+json` only, and others
    /// know nothing but `application/json`.
    pub fn accept(self) -> &'static str {
        match self {
            Self::Keys(_) => "application/jwk-set+json, application/json, */*;q=0.5",
            Self::Revoked(_) => "application/json, */*;q=0.5",
        }
    }

    /// The position of the provider.
    pub fn provider(self) -> usize {
        let (Self::Keys(provider) | Self::Revoked(provider)) = self;
        provider
    }

    /// Why a request is refused that needs it.
    fn unavailable(self) -> DenyReason {
        match self {
            Self::Keys(_) => DenyReason::KeysUnavailable,
            Self::Revoked(_) => DenyReason::RevocationUnavailable,
        }
    }
}

/// Nearly always one.
pub type One<T> = SmallVec<[T; 1]>;

/// A request that goes on.
#[derive(Debug, Default)]
pub struct Pass<'a> {
    /// Headers to replace, or to remove where there is no value: those that carried a token.
    pub spent: One<Edit<'a>>,
    /// The one token that says who makes the request; none where nobody does.
    pub identity: Option<Granted>,
    /// Why it goes on, for the metrics.
    pub why: Why,
    /// The position of the rule that let it in, if one did.
    pub rule: Option<usize>,
}

/// Why a request goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Why {
    /// Its token is good.
    Token,
    /// Anyone may.
    #[default]
    Anyone,
    /// It is a CORS preflight.
    Preflight,
}

/// A verified token that counts for a request.
#[derive(Debug, Clone)]
pub struct Granted {
    all: Rc<[Verified]>,
    position: usize,
}

impl Granted {
    /// The token.
    pub fn verified(&self) -> Option<&Verified> {
        self.all.get(self.position)
    }

    /// Whether it is the same token, confirmed by the same provider.
    fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.all, &other.all) && self.position == other.position
    }
}

/// A request that is refused.
#[derive(Debug)]
pub struct Denial<'a> {
    /// Why.
    pub reason: DenyReason,
    /// The scopes that the rule asks for.
    pub scopes: &'a [String],
    /// The position of the rule that refused it, if one did.
    pub rule: Option<usize>,
}

impl Denial<'_> {
    fn of(reason: DenyReason) -> Self {
        Self { reason, scopes: &[], rule: None }
    }
}

/// How many times a request waits: once for the first keys, and once for a new one or a list of revoked tokens.
const MOST_WAITS: u8 = 2;

/// What is remembered of a request that has waited for keys. It goes on in a callback that is not its own, where the host
/// evaluates nothing about it; so what the host must be asked about it is asked before it waits.
#[derive(Debug, Default)]
pub struct Waited {
    times: u8,
    /// The positions of the rules that decide about it.
    rules: Option<Vec<Option<usize>>>,
    foreseen: Option<Foreseen>,
    /// What it cannot wait for, and why.
    given_up: One<(Document, DenyReason)>,
}

/// What the conditions of rules say, if the claims of one token turn out to be good, or of none.
#[derive(Debug)]
struct Foreseen {
    /// Those of each token.
    claims: Vec<Map<String, Value>>,
    answers: Vec<Answer>,
}

#[derive(Debug)]
struct Answer {
    rule: Option<usize>,
    /// The position of the claims that the condition was asked about; `None` for none.
    claims: Option<usize>,
    holds: Option<bool>,
}

impl Waited {
    /// Whether the request has waited before.
    pub fn has_waited(&self) -> bool {
        self.times > 0
    }

    /// A request that has waited so many times.
    pub fn after(times: u8) -> Self {
        Self { times, ..Self::default() }
    }

    /// To be called in the callback in which a request was to wait for a document and cannot, with the reason: the next
    /// decision, in the same callback, is made without it, and where too many wait without any.
    pub fn give_up(&mut self, document: Document, reason: DenyReason) {
        self.times = self.times.saturating_sub(1);
        if self.times == 0 {
            // It is still the request's own callback.
            self.foreseen = None;
        }
        self.given_up.push((document, reason));
    }

    /// Whether the request may wait for a document, and if not, why.
    fn may_wait_for(&self, document: Document) -> Result<(), DenyReason> {
        let reason = self.given_up.iter().find_map(|(given_up, reason)| {
            (*given_up == document || *reason == DenyReason::TooManyWaiting).then_some(*reason)
        });
        match reason {
            Some(reason) => Err(reason),
            None if self.times < MOST_WAITS => Ok(()),
            None => Err(document.unavailable()),
        }
    }
}

impl Foreseen {
    /// What the condition of a rule says; `None` also where nobody asked about these claims.
    fn answer(&self, rule: Option<usize>, claims: Option<&Map<String, Value>>) -> Option<bool> {
        let claims = match claims {
            Some(claims) => Some(self.claims.iter().position(|known| known == claims)?),
            None => None,
        };
        let answer = self.answers.iter().find(|answer| answer.rule == rule && answer.claims == claims)?;
        answer.holds
    }
}

/// The filter.
pub struct Authenticator {
    config: Config,
    rules: PathIndex,
    /// Whether a rule looks at the host.
    reads_host: bool,
    verifier: Box<dyn Verifier>,
    tokens: RefCell<TokenCache>,
    refused: RefCell<RefusedTokens>,
    remote: Vec<Option<RefCell<JwksCache>>>,
    lists: Vec<Option<RefCell<Fetched<Revoked>>>>,
    hits: Cell<u32>,
    misses: Cell<u32>,
    conditions_failed: Cell<u32>,
    /// When what a request was last refused for may be there.
    next_fetch: Cell<Option<Duration>>,
}

/// Why there is no verified token.
enum Stop {
    Deny(DenyReason),
    Wait { document: Document, fetch: bool },
}

impl From<DenyReason> for Stop {
    fn from(reason: DenyReason) -> Self {
        Self::Deny(reason)
    }
}

/// A token that was found, and the position of its place.
type Found<'a> = (usize, Cow<'a, [u8]>);

/// So many tokens of one request are looked at.
const MOST_TOKENS: usize = 16;

/// A token that was found and confirmed.
struct Confirmed {
    place: usize,
    all: Rc<[Verified]>,
    /// Why a further provider that looks there could not say whether it confirms the token.
    undecided: Option<DenyReason>,
}

/// What the providers say of a token.
struct Judgement {
    all: Rc<[Verified]>,
    /// The positions of those that could not say, and why.
    undecided: One<(usize, DenyReason)>,
}

/// How a rule lets a request in.
enum Entry {
    /// By this token, which says who makes it.
    Token(Granted),
    /// As nobody.
    Anyone,
    /// As a CORS preflight.
    Preflight,
}

/// Key sets and lists of revoked tokens that the configurations in one VM share.
#[derive(Debug)]
pub struct SharedDocuments {
    keys: SharedByUrl<KeySet>,
    lists: SharedByUrl<Revoked>,
}

impl SharedDocuments {
    /// None yet.
    pub const fn new() -> Self {
        Self { keys: SharedByUrl::new(), lists: SharedByUrl::new() }
    }
}

impl Default for SharedDocuments {
    fn default() -> Self {
        Self::new()
    }
}

impl Authenticator {
    /// The filter with this configuration, which shares nothing. `seed` is any number that clients cannot know.
    pub fn new(config: Config, verifier: Box<dyn Verifier>, seed: u64) -> Self {
        Self::sharing(&mut SharedDocuments::new(), b"", config, verifier, seed)
    }

    /// The same with the keys and lists that other configurations of the plugin of this name have fetched. Verdicts about tokens
    /// are not shared: they hold what the configuration says of claims.
    #[inline(never)]
    pub fn sharing(
        documents: &mut SharedDocuments,
        plugin: &[u8],
        config: Config,
        verifier: Box<dyn Verifier>,
        seed: u64,
    ) -> Self {
        let remote = config.providers.iter().map(|provider| match &provider.keys {
            KeySource::Inline(_) => None,
            KeySource::Remote(remote) => {
                let shared = documents.keys.of(plugin, remote);
                Some(RefCell::new(JwksCache::new(remote.settings, shared)))
            }
        });
        let remote = remote.collect();
        let lists = config.providers.iter().map(|provider| {
            let remote = &provider.revoked_elsewhere.as_ref()?.remote;
            Some(RefCell::new(Fetched::new(remote.settings, documents.lists.of(plugin, remote))))
        });
        Self {
            remote,
            rules: PathIndex::new(config.rules.iter().map(|rule| &rule.condition)),
            reads_host: config.rules.iter().any(|rule| rule.condition.reads_host()),
            lists: lists.collect(),
            refused: RefCell::new(RefusedTokens::new(config.refused_tokens, seed)),
            tokens: RefCell::new(TokenCache::new(config.cached_tokens, seed)),
            config,
            verifier,
            hits: Cell::new(0),
            misses: Cell::new(0),
            conditions_failed: Cell::new(0),
            next_fetch: Cell::new(None),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The cache of the remote provider at this position.
    pub fn remote(&self, provider: usize) -> Option<&RefCell<JwksCache>> {
        self.remote.get(provider)?.as_ref()
    }

    /// Everything that is fetched.
    pub fn documents(&self) -> impl Iterator<Item = Document> {
        let keys = self.remote.iter().enumerate().filter(|(_, keys)| keys.is_some());
        let lists = self.lists.iter().enumerate().filter(|(_, list)| list.is_some());
        keys.map(|(n, _)| Document::Keys(n)).chain(lists.map(|(n, _)| Document::Revoked(n)))
    }

    /// Where a document is, and the state of its fetching.
    pub fn fetching(&self, document: Document) -> Option<(&Remote, RefMut<'_, dyn Fetching>)> {
        let provider = self.config.providers.get(document.provider())?;
        match (document, &provider.keys, &provider.revoked_elsewhere) {
            (Document::Keys(n), KeySource::Remote(remote), _) => Some((remote, self.remote(n)?.borrow_mut())),
            (Document::Revoked(n), _, Some(list)) => Some((&list.remote, self.list(n)?.borrow_mut())),
            _ => None,
        }
    }

    fn list(&self, provider: usize) -> Option<&RefCell<Fetched<Revoked>>> {
        self.lists.get(provider)?.as_ref()
    }

    /// To be called for each document about once a second; whether to start a fetch of it.
    pub fn tick(&self, document: Document, now: Duration) -> bool {
        let due = self.fetching(document).is_some_and(|(_, mut fetching)| fetching.tick(now));
        let too_old = match document {
            // The keys themselves may live on: another configuration may use them for longer.
            Document::Keys(n) => self.remote(n).is_some_and(|keys| keys.borrow().keys().is_none()),
            Document::Revoked(n) => self.denies_without_list(n),
        };
        if too_old {
            // What was verified by what is too old now is not known any more.
            self.tokens.borrow_mut().retain(|verified| verified.provider != document.provider());
        }
        due
    }

    /// A fetch brought the list of revoked tokens of the provider at this position, to be used for `max_age` if the server
    /// said so. It is in force for tokens that were verified before, too.
    pub fn revoke(&self, position: usize, now: Duration, list: Revoked, max_age: Option<Duration>) {
        if let Some(cache) = self.list(position) {
            cache.borrow_mut().received(now, list, max_age);
        }
        self.apply_new_lists();
    }

    /// Forgets the tokens that a list has revoked which came since the last call, perhaps to another configuration.
    fn apply_new_lists(&self) {
        for (position, cache) in self.lists.iter().enumerate() {
            let Some(cache) = cache else { continue };
            let mut cache = cache.borrow_mut();
            if cache.take_news()
                && let Some(list) = cache.value()
            {
                self.tokens.borrow_mut().retain(|verified| {
                    verified.provider != position || !list.contains(&verified.claims, verified.kid.as_deref())
                });
            }
        }
    }

    /// Whether the provider has a list of revoked tokens that is missing, and is to take no token without it.
    fn denies_without_list(&self, position: usize) -> bool {
        let list =
            self.config.providers.get(position).and_then(|provider| provider.revoked_elsewhere.as_ref());
        list.is_some_and(|list| list.on_failure == OnFailure::Deny)
            && self.list(position).is_some_and(|list| list.borrow().value().is_none())
    }

    /// Hits and misses of the token cache since the last call.
    pub fn take_cache_counts(&self) -> (u32, u32) {
        (self.hits.take(), self.misses.take())
    }

    /// How many conditions had no value since the last call.
    pub fn take_conditions_failed(&self) -> u32 {
        self.conditions_failed.take()
    }

    /// When the keys or the list may be there for want of which a request was refused since the last call: a time on the
    /// monotonic clock.
    pub fn take_next_fetch(&self) -> Option<Duration> {
        self.next_fetch.take()
    }

    /// Decides about a request. Notes in `waited` what is to be remembered where it waits.
    ///
    /// The client's copies of headers that only this filter may set are removed before anything else looks at the request: a
    /// rule or a condition that tests such a header must not believe the client.
    ///
    /// # Errors
    /// The request could not be read or changed. What is to be taken from it is unknown, so it must not go on in any mode.
    pub fn decide(
        &self,
        exchange: &Exchange<'_>,
        waited: &mut Waited,
        remove: RemoveHeader<'_>,
    ) -> Result<Decision<'_>, HostError> {
        self.apply_new_lists();
        // All headers by one call: to read one, and to remove each of a client's copies, there or not, is dearer.
        let received = exchange.headers()?;
        if received.is_empty() {
            // No request is without headers.
            return Err(HostError { call: "get_header_map_pairs", status: HostError::MALFORMED });
        }
        let FirstLook { copies, bearing } = self.first_look(&received);
        copies.iter().try_for_each(|copy| remove(copy))?;
        if let Some(outcome) = self.quick(&bearing, exchange) {
            return Ok(Decision { outcome, clear_claims: false });
        }
        let cleaned =
            (!copies.is_empty()).then(|| received.without(|name| self.config.own_headers.contain(name)));
        let head = cleaned.as_ref().unwrap_or(&received);
        let mut clear_claims = false;
        let outcome = self.full(head, exchange, waited, &mut clear_claims);
        let outcome = outcome.unwrap_or_else(|error| {
            // Without the facts nothing can be checked.
            log::warn!("jwt-auth: {error}");
            Outcome::Deny(Denial::of(DenyReason::Internal))
        });
        if matches!(outcome, Outcome::Allow(Pass { identity: Some(_), .. })) {
            // They are the claims that conditions were shown.
            clear_claims = false;
        }
        Ok(Decision { outcome, clear_claims })
    }

    fn first_look<'a>(&self, head: &'a HeaderMap) -> FirstLook<'a> {
        let own = &self.config.own_headers;
        let bearer = match self.config.locations.as_slice() {
            [(TokenLocation::Header { name, .. }, _)] => name.as_str(),
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

    /// The shortest way, for a known token where no rule needs a look at the rest of the request. `None` where it does not
    /// decide.
    fn quick(&self, bearing: &[&[u8]], exchange: &Exchange<'_>) -> Option<Outcome<'_>> {
        let [(TokenLocation::Header { name, prefix }, users)] = self.config.locations.as_slice() else {
            return None;
        };
        let [value] = bearing else { return None };
        if !self.config.rules.is_empty() {
            return None;
        }
        // A header that was there twice is joined by a comma, which no known token has.
        let token = behind_prefix(value, prefix)?;
        let now = exchange.recent_unix_time().ok()?.as_secs();
        let all = self.tokens.borrow_mut().find(token, now)?;
        let position = all.iter().position(|verified| users.contains(&verified.provider))?;
        self.hits.set(self.hits.get().wrapping_add(1));
        let forward = self.forwards(&all);
        let spent = if forward { One::new() } else { One::from([(Cow::Borrowed(name.as_str()), None)]) };
        let identity = Some(Granted { all, position });
        Some(Outcome::Allow(Pass { spent, identity, why: Why::Token, rule: None }))
    }

    /// Notes in `shown` whether a condition was shown claims, which it can read until others are shown.
    #[inline(never)]
    fn full(
        &self,
        head: &HeaderMap,
        exchange: &Exchange<'_>,
        waited: &mut Waited,
        shown: &mut bool,
    ) -> Result<Outcome<'_>, HostError> {
        let rules = match waited.rules.take() {
            Some(rules) => Ok(rules),
            None => self.rules_of(exchange, &Request::of(head))?,
        };
        let rules = match rules {
            Ok(rules) => rules,
            Err(reason) => return Ok(Outcome::Deny(Denial::of(reason))),
        };
        let deciding: Vec<Deciding<'_>> = rules.iter().map(|rule| self.deciding(*rule)).collect();
        let looks = deciding.iter().any(Deciding::verifies);
        let found = if looks { self.found(head) } else { Ok(Vec::new()) };
        let confirmed = match &found {
            Ok(found) => self.confirmed(found, exchange, waited),
            Err(reason) => Err(Stop::Deny(*reason)),
        };
        if let Err(Stop::Wait { document, fetch }) = confirmed {
            if waited.times == 0 {
                *shown = true;
                waited.foreseen = foresee(&deciding, exchange, found.as_deref().unwrap_or_default())?;
                *shown = false;
            }
            waited.rules = Some(rules);
            waited.times = waited.times.saturating_add(1);
            return Ok(Outcome::Wait { document, fetch });
        }
        // Every rule is asked: one for each reading of the path.
        let (mut identity, mut anyone, mut preflight) = (None::<Granted>, false, false);
        for rule in &deciding {
            let entry = match self.judge(rule, &confirmed, head) {
                Ok(entry) => entry,
                Err(Refusal { reason, scopes }) => {
                    return Ok(Outcome::Deny(Denial { reason, scopes, rule: rule.rule }));
                }
            };
            let deny = |reason| Ok(Outcome::Deny(Denial { rule: rule.rule, ..Denial::of(reason) }));
            let token = match &entry {
                Entry::Token(granted) => granted.verified(),
                Entry::Anyone | Entry::Preflight => None,
            };
            *shown |= rule.when.is_some() && token.is_some() && waited.foreseen.is_none();
            if !matches!(entry, Entry::Preflight) && !self.condition_holds(rule, token, exchange, waited)? {
                return deny(DenyReason::ConditionForbidden);
            }
            match (entry, &identity) {
                // Who it is must not depend on how the path is read.
                (Entry::Token(new), Some(known)) if !new.is(known) => return deny(DenyReason::AmbiguousPath),
                (Entry::Token(new), _) => identity = Some(new),
                (Entry::Anyone, _) => anyone = true,
                (Entry::Preflight, _) => preflight = true,
            }
        }
        let identity = identity.filter(|_| !anyone && !preflight);
        let why = match identity {
            Some(_) => Why::Token,
            None if preflight => Why::Preflight,
            None => Why::Anyone,
        };
        // Also where a rule lets it in as if it had no token: the service must not take for checked what is not.
        let spent = if looks { self.spent(head, &confirmed.unwrap_or_default()).into() } else { One::new() };
        let rule = deciding.first().and_then(|deciding| deciding.rule);
        Ok(Outcome::Allow(Pass { spent, identity, why, rule }))
    }

    /// Whether a rule lets the request in with these tokens, its condition apart.
    fn judge<'a>(
        &self,
        rule: &Deciding<'a>,
        confirmed: &Result<Vec<Confirmed>, Stop>,
        head: &HeaderMap,
    ) -> Result<Entry, Refusal<'a>> {
        let bare = |reason| Refusal { reason, scopes: &[] };
        let confirmed = match (rule.access, confirmed) {
            (Access::Nobody, _) => return Err(bare(DenyReason::Nobody)),
            (Access::Anyone(Verify::Never), _) | (Access::Anyone(Verify::BestEffort), Err(_)) => {
                return Ok(Entry::Anyone);
            }
            (_, Err(Stop::Deny(reason))) => return Err(bare(*reason)),
            (_, Err(Stop::Wait { document, .. })) => return Err(bare(document.unavailable())),
            (Access::Anyone(_), Ok(confirmed)) if confirmed.is_empty() => return Ok(Entry::Anyone),
            (Access::Require(_), Ok(confirmed)) if confirmed.is_empty() => {
                let passes = self.config.cors_preflight == CorsPreflight::Allow && head.is_preflight();
                return if passes { Ok(Entry::Preflight) } else { Err(bare(DenyReason::TokenMissing)) };
            }
            (_, Ok(confirmed)) => confirmed,
        };
        let candidates = self.candidates(confirmed);
        let all: Vec<&Verified> = candidates.iter().filter_map(|(_, granted)| granted.verified()).collect();
        let first = candidates.iter().take_while(|(token, _)| *token == 0).count();
        let met = match rule.access {
            Access::Require(requirement) => {
                requirement.check(Tokens { all: &all, first }).map_err(|refusal| {
                    let undecided = confirmed.iter().find_map(|confirmed| confirmed.undecided);
                    undecided.map_or(refusal, bare)
                })?
            }
            Access::Anyone(_) | Access::Nobody => vec![Met { by: 0, named: false }],
        };
        let Some((speaker, identity)) = met.first().and_then(|met| candidates.get(met.by)) else {
            return Err(bare(DenyReason::TokenMissing));
        };
        let provider = |granted: &Granted| granted.verified().map(|verified| verified.provider);
        // Somebody else's token is welcome where a demand names its provider, and that is not the speaker's.
        let is_asked_for = |token: usize| {
            let others = met.iter().filter(|met| met.named).filter_map(|met| candidates.get(met.by));
            let mut others = others.filter(|(_, granted)| provider(granted) != provider(identity));
            others.any(|(other, _)| *other == token)
        };
        for (_, other) in confirmed.iter().enumerate().filter(|(n, _)| n != speaker && !is_asked_for(*n)) {
            if !is_same_subject(identity.verified(), other.all.first()) {
                return match rule.access {
                    Access::Anyone(Verify::BestEffort) => Ok(Entry::Anyone),
                    _ => Err(bare(DenyReason::SeveralTokens)),
                };
            }
        }
        Ok(Entry::Token(identity.clone()))
    }

    /// The positions of the rules that decide about `request`: one, or one for each reading of its path, and those of which it is
    /// not known whether they do; otherwise why the request is refused whatever they say: a path that must not be read in more than
    /// one way and is, or an authority that is no host.
    fn rules_of(
        &self,
        exchange: &Exchange<'_>,
        request: &Request<'_>,
    ) -> Result<Result<Vec<Option<usize>>, DenyReason>, HostError> {
        if self.reads_host && !request.has_host() {
            return Ok(Err(DenyReason::InvalidAuthority));
        }
        let mut found = Vec::with_capacity(1);
        let mut rule = |reading: &[u8]| {
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

    fn deciding(&self, rule: Option<usize>) -> Deciding<'_> {
        const ANY_TOKEN: &Access = &Access::Require(Requirement::ANY_TOKEN);
        match rule.and_then(|n| self.config.rules.get(n)) {
            Some(Rule { access, when, .. }) => Deciding { rule, access, when: *when },
            None => Deciding { rule: None, access: ANY_TOKEN, when: None },
        }
    }

    /// Whether the rule has no condition, or it holds for the request and the claims of `token`. One without a value does not
    /// hold, and is counted.
    fn condition_holds(
        &self,
        rule: &Deciding<'_>,
        token: Option<&Verified>,
        exchange: &Exchange<'_>,
        waited: &Waited,
    ) -> Result<bool, HostError> {
        let Some(when) = rule.when else { return Ok(true) };
        let holds = if let Some(foreseen) = &waited.foreseen {
            foreseen.answer(rule.rule, token.map(|token| &token.claims))
        } else {
            let claims = token.map_or(Some(condition::NO_CLAIMS), Verified::typed);
            condition::holds(when, exchange, claims)?
        };
        if holds.is_none() {
            self.conditions_failed.set(self.conditions_failed.get().wrapping_add(1));
        }
        Ok(holds == Some(true))
    }

    /// The tokens of a request, in the order in which they speak for it.
    fn found<'a>(&self, head: &'a HeaderMap) -> Result<Vec<Found<'a>>, DenyReason> {
        let mut found = Vec::new();
        for (n, (place, _)) in self.config.locations.iter().enumerate() {
            let tokens = place.tokens(head).map_err(|_| DenyReason::SeveralTokens)?;
            found.extend(tokens.into_iter().map(|token| (n, token)));
        }
        let most = if self.config.several_tokens == SeveralTokens::Reject { 1 } else { MOST_TOKENS };
        if found.len() > most { Err(DenyReason::SeveralTokens) } else { Ok(found) }
    }

    /// The confirmed ones of the tokens that were found: all of them, or the first that is good where that one speaks alone.
    #[inline(never)]
    fn confirmed(
        &self,
        found: &[Found<'_>],
        exchange: &Exchange<'_>,
        waited: &Waited,
    ) -> Result<Vec<Confirmed>, Stop> {
        let first_good = self.config.several_tokens == SeveralTokens::FirstGood;
        let (mut all, mut refused) = (Vec::with_capacity(found.len()), None);
        for (place, token) in found {
            match self.confirmed_at(*place, token, exchange, waited) {
                Ok(confirmed) if first_good => {
                    // The service could take the other one where both stay.
                    let here = found.iter().filter(|(other, _)| other == place).count();
                    if here > 1 && self.forwards(&confirmed.all) {
                        return Err(DenyReason::SeveralTokens.into());
                    }
                    return Ok(vec![confirmed]);
                }
                Ok(confirmed) => all.push(confirmed),
                Err(Stop::Deny(reason)) if first_good && !reason.is_undecided() => {
                    refused.get_or_insert(reason);
                }
                Err(stop) => return Err(stop),
            }
        }
        refused.map_or(Ok(all), |reason| Err(reason.into()))
    }

    /// A token that was found at this place, if a provider that looks there confirms it.
    fn confirmed_at(
        &self,
        place: usize,
        token: &[u8],
        exchange: &Exchange<'_>,
        waited: &Waited,
    ) -> Result<Confirmed, Stop> {
        let seconds = |now: Result<Duration, HostError>| match now {
            Ok(now) => Ok(now.as_secs()),
            Err(_) => Err(Stop::from(DenyReason::Internal)),
        };
        let recently = seconds(exchange.recent_unix_time())?;
        let known = self.tokens.borrow_mut().find(token, recently);
        let count = if known.is_some() { &self.hits } else { &self.misses };
        count.set(count.get().wrapping_add(1));
        let Judgement { all, undecided } = match known {
            Some(all) => Judgement { all, undecided: One::new() },
            None => self.verify(token, seconds(exchange.unix_time())?, exchange, waited)?,
        };
        let users = self.users(place);
        let undecided = undecided.into_iter().find(|(provider, _)| users.contains(provider));
        let undecided = undecided.map(|(_, reason)| reason);
        if !all.iter().any(|verified| users.contains(&verified.provider)) {
            return Err(undecided.unwrap_or(DenyReason::UnknownIssuer).into());
        }
        Ok(Confirmed { place, all, undecided })
    }

    /// The positions of the providers that look at a place.
    fn users(&self, place: usize) -> &[usize] {
        self.config.locations.get(place).map(|(_, users)| users.as_slice()).unwrap_or_default()
    }

    /// Every provider's confirmation of `token`; at least one, or a provider that cannot say.
    #[inline(never)]
    fn verify(
        &self,
        token: &[u8],
        now: u64,
        exchange: &Exchange<'_>,
        waited: &Waited,
    ) -> Result<Judgement, Stop> {
        let known = self.refused.borrow_mut().find(token);
        if let Some(reason) = known {
            return Err(reason.into());
        }
        let untrusted = match UntrustedToken::parse(token) {
            Ok(untrusted) => untrusted,
            Err(error) => {
                let reason = DenyReason::Malformed(error);
                self.refused.borrow_mut().insert(token, reason, None);
                return Err(reason.into());
            }
        };
        let mut refused = DenyReason::UnknownIssuer;
        let (mut verified, mut undecided) = (Vec::new(), One::new());
        let mut asked = 0_u32;
        for (n, provider) in self.config.providers.iter().enumerate() {
            if !provider.is_issuer_of(&untrusted.claims) {
                continue;
            }
            asked = asked.saturating_add(1);
            match self.verify_by(n, provider, &untrusted, now, exchange, waited) {
                Ok(confirmed) => verified.push(confirmed),
                Err(Stop::Deny(reason)) if reason.is_undecided() => undecided.push((n, reason)),
                Err(Stop::Deny(reason)) => refused = reason,
                Err(wait @ Stop::Wait { .. }) => return Err(wait),
            }
        }
        if verified.is_empty() && undecided.is_empty() {
            if refused == DenyReason::BadSignature && asked == 1 {
                self.remember_bad_signature(token, &untrusted);
            }
            return Err(refused.into());
        }
        let all: Rc<[Verified]> = verified.into();
        if undecided.is_empty() {
            self.tokens.borrow_mut().insert(token, Rc::clone(&all), now);
        }
        Ok(Judgement { all, undecided })
    }

    fn verify_by(
        &self,
        position: usize,
        provider: &Provider,
        token: &UntrustedToken<'_>,
        now: u64,
        exchange: &Exchange<'_>,
        waited: &Waited,
    ) -> Result<Verified, Stop> {
        if !provider.algorithms.contains(&token.algorithm) {
            return Err(DenyReason::AlgorithmNotAllowed.into());
        }
        // Claims before the signature: they are cheap to check.
        let validity = provider.policy.check(token).map_err(DenyReason::BadClaims)?;
        validity.check(now).map_err(DenyReason::BadClaims)?;
        let keys = self.keys(position, provider, token, exchange, waited)?;
        let candidates = keys.candidates(token);
        if candidates.is_empty() {
            // The key is there, but bound to another algorithm.
            return Err(DenyReason::AlgorithmNotAllowed.into());
        }
        for key in candidates.iter().take(provider.most_tried) {
            match self.verifier.verify(key, token) {
                Verdict::Valid => {
                    let kid = key.kid.clone().or_else(|| token.kid.clone());
                    self.check_revoked(position, provider, &token.claims, kid.as_deref(), exchange, waited)?;
                    let publish = self.config.publish.iter().map(|(path, key)| (path, Rc::clone(key)));
                    let (published, unpublished) = output::published(&token.claims, publish);
                    let (headers, unset) = provider.headers(token);
                    return Ok(Verified {
                        provider: position,
                        validity,
                        headers,
                        published,
                        outputs_failed: unpublished.saturating_add(unset),
                        claims: token.claims.clone(),
                        typed: OnceCell::new(),
                        kid,
                        key: Rc::downgrade(key),
                    });
                }
                Verdict::Invalid => {}
                Verdict::Overloaded => return Err(DenyReason::Overloaded.into()),
            }
        }
        if candidates.len() > provider.most_tried {
            keys.tell_untried(&provider.name, candidates.len(), provider.most_tried);
        }
        Err(DenyReason::BadSignature.into())
    }

    /// A set with a key that the token may be signed with.
    fn keys(
        &self,
        position: usize,
        provider: &Provider,
        token: &UntrustedToken<'_>,
        exchange: &Exchange<'_>,
        waited: &Waited,
    ) -> Result<Rc<KeySet>, Stop> {
        let kid = token.kid.as_deref();
        let cache = match (&provider.keys, self.remote(position)) {
            (KeySource::Inline(set), _) if set.knows(kid) => return Ok(Rc::clone(set)),
            (KeySource::Inline(_), _) | (_, None) => return Err(DenyReason::UnknownKey.into()),
            (KeySource::Remote(_), Some(cache)) => cache,
        };
        // No borrow outlives its statement: whatever the host is asked, it may run another callback of this filter.
        let set = cache.borrow().keys().filter(|set| set.knows(kid));
        if let Some(set) = set {
            return Ok(set);
        }
        let now = exchange.monotonic_time().map_err(|_| DenyReason::Internal)?;
        let missing = cache.borrow().missing(now);
        self.next_fetch.set(Some(cache.borrow().next_fetch()));
        let document = Document::Keys(position);
        match missing {
            Missing::Fetch | Missing::Wait => {
                waited.may_wait_for(document)?;
                Err(Stop::Wait { document, fetch: missing == Missing::Fetch })
            }
            Missing::Unknown => Err(DenyReason::UnknownKey.into()),
            Missing::Unavailable => Err(document.unavailable().into()),
        }
    }

    /// Whether the provider takes a token with these claims, which the key of this name has signed.
    fn check_revoked(
        &self,
        position: usize,
        provider: &Provider,
        claims: &Map<String, Value>,
        kid: Option<&str>,
        exchange: &Exchange<'_>,
        waited: &Waited,
    ) -> Result<(), Stop> {
        if provider.revoked.contains(claims, kid) {
            return Err(DenyReason::Revoked.into());
        }
        let (Some(elsewhere), Some(cache)) = (&provider.revoked_elsewhere, self.list(position)) else {
            return Ok(());
        };
        let list = cache.borrow().value();
        if let Some(list) = list {
            return if list.contains(claims, kid) { Err(DenyReason::Revoked.into()) } else { Ok(()) };
        }
        let now = exchange.monotonic_time().map_err(|_| DenyReason::Internal)?;
        let missing = cache.borrow().missing(now);
        self.next_fetch.set(Some(cache.borrow().next_fetch()));
        let document = Document::Revoked(position);
        let unavailable = match missing {
            Missing::Fetch | Missing::Wait => match waited.may_wait_for(document) {
                Ok(()) => return Err(Stop::Wait { document, fetch: missing == Missing::Fetch }),
                Err(reason) => reason,
            },
            Missing::Unknown | Missing::Unavailable => document.unavailable(),
        };
        match elsewhere.on_failure {
            OnFailure::Allow => Ok(()),
            OnFailure::Deny => Err(unavailable.into()),
        }
    }

    /// Remembers a token whose signature is by none of the keys that its one issuer has now.
    fn remember_bad_signature(&self, token: &[u8], untrusted: &UntrustedToken<'_>) {
        let mut issuers = self.config.providers.iter().enumerate();
        let Some((n, provider)) = issuers.find(|(_, provider)| provider.is_issuer_of(&untrusted.claims))
        else {
            return;
        };
        let fetched = self.remote(n).map(RefCell::borrow);
        let keys = match &provider.keys {
            KeySource::Inline(set) => Some(Rc::clone(set)),
            KeySource::Remote(_) => fetched.as_ref().and_then(|fetched| fetched.keys()),
        };
        if let Some(keys) = keys {
            self.refused.borrow_mut().insert(token, DenyReason::BadSignature, Some(&keys));
        }
    }

    /// Each confirmation of each token by a provider that looks where the token was, with the position of the token.
    fn candidates(&self, confirmed: &[Confirmed]) -> Vec<(usize, Granted)> {
        let mut candidates = Vec::new();
        for (token, Confirmed { place, all, .. }) in confirmed.iter().enumerate() {
            let users = self.users(*place);
            for (position, verified) in all.iter().enumerate() {
                if users.contains(&verified.provider) {
                    candidates.push((token, Granted { all: Rc::clone(all), position }));
                }
            }
        }
        candidates
    }

    fn forwards(&self, all: &[Verified]) -> bool {
        all.iter().any(|verified| self.config.providers.get(verified.provider).is_some_and(|p| p.forward))
    }

    /// Whether every provider that looks at a place leaves tokens there.
    fn forwards_all_at(&self, place: usize) -> bool {
        self.users(place).iter().all(|user| self.config.providers.get(*user).is_some_and(|p| p.forward))
    }

    /// What to do to the headers that carried tokens which no provider forwards, confirmed or not.
    fn spent(&self, head: &HeaderMap, confirmed: &[Confirmed]) -> Vec<Edit<'_>> {
        let spent = |n: usize, place: &TokenLocation| {
            let mut here = confirmed.iter().filter(|confirmed| confirmed.place == n).peekable();
            match here.peek() {
                Some(_) => here.any(|confirmed| !self.forwards(&confirmed.all)),
                None => !self.forwards_all_at(n) && place.is_taken(head),
            }
        };
        let places = self.config.locations.iter().enumerate().filter(|(n, (place, _))| spent(*n, place));
        let places: Vec<&TokenLocation> = places.map(|(_, (place, _))| place).collect();
        if places.is_empty() { Vec::new() } else { location::without_tokens(&places, head) }
    }
}

/// Whether two tokens are about the same subject of the same issuer.
fn is_same_subject(one: Option<&Verified>, other: Option<&Verified>) -> bool {
    let (Some(one), Some(other)) = (one, other) else { return false };
    ["iss", "sub"].iter().all(|claim| one.claims.get(*claim) == other.claims.get(*claim))
}

/// The rule that decides about one reading of a request; without a position where none matches.
struct Deciding<'a> {
    rule: Option<usize>,
    access: &'a Access,
    when: Option<Expression>,
}

impl Deciding<'_> {
    fn verifies(&self) -> bool {
        !matches!(self.access, Access::Nobody | Access::Anyone(Verify::Never))
    }
}

/// Asks for the conditions of these rules before the request waits, about each of its tokens. The claims are not verified
/// yet: the last question, about no claims at all, leaves none of them behind.
fn foresee(
    rules: &[Deciding<'_>],
    exchange: &Exchange<'_>,
    found: &[Found<'_>],
) -> Result<Option<Foreseen>, HostError> {
    if rules.iter().all(|rule| rule.when.is_none()) {
        return Ok(None);
    }
    let tokens = found.iter().filter_map(|(_, token)| UntrustedToken::parse(token).ok());
    let claims: Vec<Map<String, Value>> = tokens.map(|token| token.claims).collect();
    let typed: Vec<Option<Vec<u8>>> = claims.iter().map(condition::typed).collect();
    let mut answers = Vec::new();
    for Deciding { rule, when, .. } in rules {
        let Some(when) = *when else { continue };
        for (n, typed) in typed.iter().enumerate() {
            let holds = condition::holds(when, exchange, typed.as_deref())?;
            answers.push(Answer { rule: *rule, claims: Some(n), holds });
        }
        let holds = condition::holds(when, exchange, Some(condition::NO_CLAIMS))?;
        answers.push(Answer { rule: *rule, claims: None, holds });
    }
    Ok(Some(Foreseen { claims, answers }))
}

impl Provider {
    /// The headers that the service gets for this token, and how many claims could not become one.
    fn headers(&self, token: &UntrustedToken<'_>) -> (Vec<Named>, u32) {
        let outputs = self.claim_headers.iter().map(|(path, header)| (path, Rc::clone(header)));
        let (mut headers, failed) = output::headers(&token.claims, outputs);
        if let Some(header) = &self.payload_header {
            let payload = token.signing_input.split('.').nth(1).unwrap_or_default();
            headers.push((Rc::clone(header), payload.as_bytes().into()));
        }
        (headers, failed)
    }
}

impl From<ClaimError> for DenyReason {
    fn from(error: ClaimError) -> Self {
        Self::BadClaims(error)
    }
}
