//! The filter without a proxy: from a request to a decision.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell, RefCell, RefMut};
use std::rc::Rc;
use std::time::Duration;

use plugin_kit::bytes::equal;
use plugin_kit::cel::Expression;
use plugin_kit::exchange::{Exchange, HostError};
use plugin_kit::head::{Head, NameLengths};
use plugin_kit::matcher::Request;
use plugin_kit::path::Readings;
use plugin_kit::path_index::PathIndex;
use serde_json::{Map, Value};
use smallvec::SmallVec;

use crate::claims::ClaimError;
use crate::condition;
use crate::config::{AmbiguousPath, Config, CorsPreflight, SeveralTokens};
use crate::deny::DenyReason;
use crate::jwk::KeySet;
use crate::jwks_cache::{Fetched, Fetching, JwksCache, Missing};
use crate::output;
use crate::place::{self, Edit, Place, behind_prefix};
use crate::provider::{KeySource, Provider, Remote};
use crate::refused_tokens::RefusedTokens;
use crate::revocation::{OnFailure, Revoked};
use crate::rules::{Access, Requirement, Rule, Verify, first_match};
use crate::signature::{Verdict, Verifier};
use crate::token::UntrustedToken;
use crate::token_cache::TokenCache;
use crate::verified::{Named, Verified};

/// What to do with a request.
#[derive(Debug)]
pub enum Decision<'a> {
    /// It goes on.
    Allow(Pass<'a>),
    /// It is refused, or in report mode it goes on with these edits and no claims.
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
    /// The position of the provider.
    pub fn provider(self) -> usize {
        let (Self::Keys(provider) | Self::Revoked(provider)) = self;
        provider
    }
}

/// Nearly always one.
pub type One<T> = SmallVec<[T; 1]>;

/// A request that goes on.
#[derive(Debug, Default)]
pub struct Pass<'a> {
    /// Headers that a client must not set and has set: to remove, or to replace where a token sets one.
    pub strip: Vec<String>,
    /// Headers to replace, or to remove where there is no value: those that carried a token.
    pub spent: One<Edit<'a>>,
    /// The tokens that let it in, if any did.
    pub tokens: One<Granted>,
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
    /// Headers to remove where the request goes on all the same.
    pub strip: Vec<String>,
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
}

/// What the conditions of rules say, if these claims turn out to be good.
#[derive(Debug)]
struct Foreseen {
    claims: Map<String, Value>,
    outcomes: Vec<Outcome>,
}

#[derive(Debug)]
struct Outcome {
    rule: Option<usize>,
    with_claims: Option<bool>,
    without: Option<bool>,
}

impl Waited {
    /// A request that has waited so many times.
    pub fn after(times: u8) -> Self {
        Self { times, ..Self::default() }
    }
}

impl Foreseen {
    /// What the condition of a rule says; `None` also where nobody asked about these claims.
    fn outcome(&self, rule: Option<usize>, claims: Option<&Map<String, Value>>) -> Option<bool> {
        let outcome = self.outcomes.iter().find(|outcome| outcome.rule == rule)?;
        match claims {
            Some(claims) if *claims == self.claims => outcome.with_claims,
            Some(_) => None,
            None => outcome.without,
        }
    }
}

/// The filter.
pub struct Authenticator {
    config: Config,
    rules: PathIndex,
    verifier: Box<dyn Verifier>,
    tokens: RefCell<TokenCache>,
    refused: RefCell<RefusedTokens>,
    remote: Vec<Option<RefCell<JwksCache>>>,
    lists: Vec<Option<RefCell<Fetched<Revoked>>>>,
    hits: Cell<u32>,
    misses: Cell<u32>,
    conditions_failed: Cell<u32>,
}

/// Why there is no verified token.
enum Stop {
    Deny(DenyReason),
    /// For what a token that makes these claims needs.
    Wait {
        document: Document,
        fetch: bool,
        claims: Map<String, Value>,
    },
}

impl From<DenyReason> for Stop {
    fn from(reason: DenyReason) -> Self {
        Self::Deny(reason)
    }
}

/// A token that was found and confirmed.
struct Confirmed {
    place: usize,
    all: Rc<[Verified]>,
}

impl Authenticator {
    /// The filter with this configuration. `seed` is any number that clients cannot know.
    #[inline(never)]
    pub fn new(config: Config, verifier: Box<dyn Verifier>, seed: u64) -> Self {
        let remote = config.providers.iter().map(|provider| match &provider.keys {
            KeySource::Inline(_) => None,
            KeySource::Remote(remote) => Some(RefCell::new(JwksCache::new(remote.settings))),
        });
        let lists = config.providers.iter().map(|provider| {
            let list = provider.revoked_elsewhere.as_ref()?;
            Some(RefCell::new(Fetched::new(list.remote.settings)))
        });
        Self {
            remote: remote.collect(),
            rules: PathIndex::new(config.rules.iter().map(|rule| &rule.condition)),
            lists: lists.collect(),
            refused: RefCell::new(RefusedTokens::new(config.refused_tokens, seed)),
            tokens: RefCell::new(TokenCache::new(config.cached_tokens, seed)),
            config,
            verifier,
            hits: Cell::new(0),
            misses: Cell::new(0),
            conditions_failed: Cell::new(0),
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
        if let Document::Revoked(n) = document
            && self.denies_without_list(n)
        {
            // What was verified under a list that is too old is not known any more.
            self.tokens.borrow_mut().retain(|verified| verified.provider != n);
        }
        due
    }

    /// A fetch brought the list of revoked tokens of the provider at this position, to be used for `max_age` if the server
    /// said so. It is in force for tokens that were verified before, too.
    pub fn revoke(&self, position: usize, now: Duration, list: Revoked, max_age: Option<Duration>) {
        let Some(cache) = self.list(position) else { return };
        self.tokens.borrow_mut().retain(|verified| {
            verified.provider != position || !list.contains(&verified.claims, verified.kid.as_deref())
        });
        cache.borrow_mut().received(now, list, max_age);
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

    /// Decides about a request. Notes in `waited` what is to be remembered where it waits.
    pub fn decide(&self, exchange: &Exchange<'_>, waited: &mut Waited) -> Decision<'_> {
        match self.quick(exchange).unwrap_or_else(|| self.full(exchange, waited)) {
            Ok(decision) => decision,
            Err(error) => {
                // Without the facts nothing can be checked.
                log::warn!("jwt-auth: {error}");
                Decision::Deny(Denial {
                    reason: DenyReason::Internal,
                    scopes: &[],
                    rule: None,
                    strip: Vec::new(),
                })
            }
        }
    }

    /// The shortest way, for a known token where no rule needs a look at the rest of the request. `None` where it does not
    /// decide.
    fn quick(&self, exchange: &Exchange<'_>) -> Option<Result<Decision<'_>, HostError>> {
        let [(Place::Header { name, prefix }, users)] = self.config.places.as_slice() else { return None };
        if !self.config.rules.is_empty() {
            return None;
        }
        // All headers by one call: to read one, and to remove each of a client's copies, there or not, is dearer.
        let head = exchange.head().ok()?;
        let (mut value, mut strip) = (None, Vec::new());
        let lengths = self.config.own_headers.lengths().and(NameLengths::of([name]));
        for (found, text) in head.with_name_lengths(lengths) {
            if equal(found, name.as_bytes()) {
                if value.replace(text).is_some() {
                    return None;
                }
            } else if self.config.own_headers.contain(found) {
                strip.push(String::from_utf8(found.to_vec()).ok()?);
            }
        }
        // A header that was there twice is joined by a comma, which no known token has.
        let token = behind_prefix(value?, prefix)?;
        let now = exchange.recent_unix_time().ok()?.as_secs();
        let all = self.tokens.borrow_mut().find(token, now)?;
        let position = all.iter().position(|verified| users.contains(&verified.provider))?;
        self.hits.set(self.hits.get().wrapping_add(1));
        let forward = self.forwards(&all);
        let spent = if forward { One::new() } else { One::from([(Cow::Borrowed(name.as_str()), None)]) };
        let tokens = One::from([Granted { all, position }]);
        Some(Ok(Decision::Allow(Pass { strip, spent, tokens, why: Why::Token, rule: None })))
    }

    #[inline(never)]
    fn full(&self, exchange: &Exchange<'_>, waited: &mut Waited) -> Result<Decision<'_>, HostError> {
        let head = exchange.head()?;
        let strip = self.foreign_copies(&head);
        let rules = match waited.rules.take() {
            Some(rules) => Some(rules),
            None => self.rules_of(exchange, &Request::of(&head))?,
        };
        let Some(rules) = rules else {
            let reason = DenyReason::AmbiguousPath;
            return Ok(Decision::Deny(Denial { reason, scopes: &[], rule: None, strip }));
        };
        let accesses: Vec<Deciding<'_>> = rules.iter().map(|rule| self.deciding(*rule)).collect();
        let deny = |reason, scopes, rule, strip| Ok(Decision::Deny(Denial { reason, scopes, rule, strip }));
        let confirmed = if accesses.iter().any(Deciding::verifies) {
            self.confirmed(&head, exchange, waited.times)
        } else {
            Ok(Vec::new())
        };
        if let Err(Stop::Wait { document, fetch, claims }) = confirmed {
            if waited.times == 0 {
                waited.foreseen = foresee(&accesses, exchange, claims)?;
            }
            waited.rules = Some(rules);
            waited.times = waited.times.saturating_add(1);
            return Ok(Decision::Wait { document, fetch });
        }
        let mut tokens: One<Granted> = One::new();
        let mut publish = true;
        for rule in &accesses {
            publish &= rule.verifies();
            let of_others = tokens.len();
            let refused = match (&rule.access, &confirmed) {
                (Access::Nobody, _) => Some((DenyReason::Nobody, &[][..])),
                (Access::Anyone(Verify::Never | Verify::BestEffort), Err(_)) => None,
                (_, Err(Stop::Deny(reason))) => Some((*reason, &[][..])),
                (_, Err(Stop::Wait { .. })) => Some((DenyReason::KeysUnavailable, &[][..])),
                (Access::Anyone(_), Ok(confirmed)) => {
                    tokens.extend(
                        confirmed.iter().map(|c| Granted { all: Rc::clone(&c.all), position: self.first(c) }),
                    );
                    None
                }
                (Access::Require(_), Ok(confirmed)) if confirmed.is_empty() => {
                    if self.config.cors_preflight == CorsPreflight::Allow && is_preflight(&head) {
                        return Ok(Decision::Allow(Pass { strip, why: Why::Preflight, ..Pass::default() }));
                    }
                    Some((DenyReason::TokenMissing, &[][..]))
                }
                (Access::Require(requirement), Ok(confirmed)) => {
                    let candidates = self.candidates(confirmed);
                    let verified: Vec<&Verified> = candidates.iter().filter_map(Granted::verified).collect();
                    let mut used = Vec::new();
                    match requirement.check(&verified, &mut used) {
                        Ok(()) => {
                            tokens.extend(used.into_iter().filter_map(|n| candidates.get(n).cloned()));
                            None
                        }
                        Err(refusal) => Some((refusal.reason, refusal.scopes)),
                    }
                }
            };
            if let Some((reason, scopes)) = refused {
                return deny(reason, scopes, rule.rule, strip);
            }
            let token = tokens.get(of_others).and_then(Granted::verified);
            if !self.condition_holds(rule, token, exchange, waited)? {
                return deny(DenyReason::ConditionForbidden, &[][..], rule.rule, strip);
            }
        }
        if !publish {
            tokens.clear();
        }
        let why = if tokens.is_empty() { Why::Anyone } else { Why::Token };
        let spent = match confirmed {
            Ok(confirmed) if publish => self.spent(&head, &confirmed).into(),
            _ => One::new(),
        };
        let rule = accesses.first().and_then(|deciding| deciding.rule);
        Ok(Decision::Allow(Pass { strip, spent, tokens, why, rule }))
    }

    /// The client's copies of headers that only this filter may set.
    fn foreign_copies(&self, head: &Head) -> Vec<String> {
        let entries = head.with_name_lengths(self.config.own_headers.lengths());
        let foreign = entries.map(|(name, _)| name).filter(|name| self.config.own_headers.contain(name));
        foreign.filter_map(|name| String::from_utf8(name.to_vec()).ok()).collect()
    }

    /// The positions of the rules that decide about `request`: one, or one for each reading of its path; `None` where the
    /// path must not be read in more than one way and is.
    fn rules_of(
        &self,
        exchange: &Exchange<'_>,
        request: &Request<'_>,
    ) -> Result<Option<Vec<Option<usize>>>, HostError> {
        let rule = |reading: &[u8]| first_match(&self.config.rules, &self.rules, exchange, request, reading);
        if !self.config.rules.iter().any(Rule::reads_path) {
            return Ok(Some(vec![rule(b"")?]));
        }
        Ok(match Readings::of(request.target, self.config.path_case) {
            Readings::One(path) => Some(vec![rule(&path)?]),
            Readings::Several(paths) if self.config.ambiguous_path == AmbiguousPath::EveryReading => {
                Some(paths.iter().map(|path| rule(path)).collect::<Result<_, _>>()?)
            }
            Readings::Several(_) | Readings::None => None,
        })
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
            foreseen.outcome(rule.rule, token.map(|token| &token.claims))
        } else {
            let claims = token.map_or(Some(condition::NO_CLAIMS), Verified::typed);
            condition::holds(when, exchange, claims)?
        };
        if holds.is_none() {
            self.conditions_failed.set(self.conditions_failed.get().wrapping_add(1));
        }
        Ok(holds == Some(true))
    }

    /// The tokens of a request, all of them confirmed.
    #[inline(never)]
    fn confirmed(&self, head: &Head, exchange: &Exchange<'_>, waits: u8) -> Result<Vec<Confirmed>, Stop> {
        let mut found: Vec<(usize, Cow<'_, [u8]>)> = Vec::new();
        for (n, (place, _)) in self.config.places.iter().enumerate() {
            let tokens = place.tokens(head).map_err(|_| DenyReason::SeveralTokens)?;
            found.extend(tokens.into_iter().map(|token| (n, token)));
        }
        if found.len() > 1 && self.config.several_tokens == SeveralTokens::Reject {
            return Err(DenyReason::SeveralTokens.into());
        }
        let seconds = |now: Result<Duration, HostError>| match now {
            Ok(now) => Ok(now.as_secs()),
            Err(_) => Err(Stop::from(DenyReason::Internal)),
        };
        let mut confirmed = Vec::with_capacity(found.len());
        for (place, token) in found {
            let recently = seconds(exchange.recent_unix_time())?;
            let known = self.tokens.borrow_mut().find(&token, recently);
            let count = if known.is_some() { &self.hits } else { &self.misses };
            count.set(count.get().wrapping_add(1));
            let all = match known {
                Some(all) => all,
                None => self.verify(&token, seconds(exchange.unix_time())?, exchange, waits)?,
            };
            let users = self.config.places.get(place).map(|(_, users)| users.as_slice()).unwrap_or_default();
            if !all.iter().any(|verified| users.contains(&verified.provider)) {
                return Err(DenyReason::UnknownIssuer.into());
            }
            confirmed.push(Confirmed { place, all });
        }
        Ok(confirmed)
    }

    /// Every provider's confirmation of `token`; at least one.
    #[inline(never)]
    fn verify(
        &self,
        token: &[u8],
        now: u64,
        exchange: &Exchange<'_>,
        waits: u8,
    ) -> Result<Rc<[Verified]>, Stop> {
        if let Some(reason) = self.refused.borrow_mut().find(token) {
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
        let mut verified = Vec::new();
        let mut asked = 0_u32;
        for (n, provider) in self.config.providers.iter().enumerate() {
            if !provider.is_issuer_of(&untrusted.claims) {
                continue;
            }
            asked = asked.saturating_add(1);
            match self.verify_by(n, provider, &untrusted, now, exchange, waits) {
                Ok(confirmed) => verified.push(confirmed),
                Err(Stop::Deny(reason)) => refused = reason,
                Err(Stop::Wait { document, fetch, .. }) => {
                    return Err(Stop::Wait { document, fetch, claims: untrusted.claims });
                }
            }
        }
        if verified.is_empty() {
            if refused == DenyReason::BadSignature && asked == 1 {
                self.remember_bad_signature(token, &untrusted);
            }
            return Err(refused.into());
        }
        let verified: Rc<[Verified]> = verified.into();
        self.tokens.borrow_mut().insert(token, Rc::clone(&verified), now);
        Ok(verified)
    }

    fn verify_by(
        &self,
        position: usize,
        provider: &Provider,
        token: &UntrustedToken<'_>,
        now: u64,
        exchange: &Exchange<'_>,
        waits: u8,
    ) -> Result<Verified, Stop> {
        if !provider.algorithms.contains(&token.algorithm) {
            return Err(DenyReason::AlgorithmNotAllowed.into());
        }
        // Claims before the signature: they are cheap to check.
        let validity = provider.policy.check(token).map_err(DenyReason::BadClaims)?;
        validity.check(now).map_err(DenyReason::BadClaims)?;
        let keys = self.keys(position, provider, token, exchange, waits)?;
        let mut candidates = keys.candidates(token).peekable();
        if candidates.peek().is_none() {
            // The key is there, but bound to another algorithm.
            return Err(DenyReason::AlgorithmNotAllowed.into());
        }
        for key in candidates {
            match self.verifier.verify(key, token) {
                Verdict::Valid => {
                    let kid = key.kid.clone().or_else(|| token.kid.clone());
                    self.check_revoked(position, provider, &token.claims, kid.as_deref(), exchange, waits)?;
                    let publish = self.config.publish.iter().map(|(path, key)| (path, Rc::clone(key)));
                    let (published, unpublished) =
                        output::texts(&token.claims, publish, output::published_text);
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
        Err(DenyReason::BadSignature.into())
    }

    /// A set with a key that the token may be signed with.
    fn keys(
        &self,
        position: usize,
        provider: &Provider,
        token: &UntrustedToken<'_>,
        exchange: &Exchange<'_>,
        waits: u8,
    ) -> Result<Rc<KeySet>, Stop> {
        let kid = token.kid.as_deref();
        let cache = match (&provider.keys, self.remote(position)) {
            (KeySource::Inline(set), _) if set.knows(kid) => return Ok(Rc::clone(set)),
            (KeySource::Inline(_), _) | (_, None) => return Err(DenyReason::UnknownKey.into()),
            (KeySource::Remote(_), Some(cache)) => cache.borrow(),
        };
        if let Some(set) = cache.keys().filter(|set| set.knows(kid)) {
            return Ok(Rc::clone(set));
        }
        let now: Duration = exchange.monotonic_time().map_err(|_| DenyReason::Internal)?;
        let missing = cache.missing(now);
        match missing {
            Missing::Fetch | Missing::Wait if waits < MOST_WAITS => {
                let fetch = missing == Missing::Fetch;
                Err(Stop::Wait { document: Document::Keys(position), fetch, claims: Map::new() })
            }
            Missing::Unknown => Err(DenyReason::UnknownKey.into()),
            Missing::Fetch | Missing::Wait | Missing::Unavailable => Err(DenyReason::KeysUnavailable.into()),
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
        waits: u8,
    ) -> Result<(), Stop> {
        if provider.revoked.contains(claims, kid) {
            return Err(DenyReason::Revoked.into());
        }
        let (Some(elsewhere), Some(cache)) = (&provider.revoked_elsewhere, self.list(position)) else {
            return Ok(());
        };
        let cache = cache.borrow();
        if let Some(list) = cache.value() {
            return if list.contains(claims, kid) { Err(DenyReason::Revoked.into()) } else { Ok(()) };
        }
        let missing = cache.missing(exchange.monotonic_time().map_err(|_| DenyReason::Internal)?);
        match missing {
            Missing::Fetch | Missing::Wait if waits < MOST_WAITS => {
                let fetch = missing == Missing::Fetch;
                Err(Stop::Wait { document: Document::Revoked(position), fetch, claims: Map::new() })
            }
            _ if elsewhere.on_failure == OnFailure::Allow => Ok(()),
            _ => Err(DenyReason::RevocationUnavailable.into()),
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
            KeySource::Inline(set) => Some(set),
            KeySource::Remote(_) => fetched.as_ref().and_then(|fetched| fetched.keys()),
        };
        if let Some(keys) = keys {
            self.refused.borrow_mut().insert(token, DenyReason::BadSignature, Some(keys));
        }
    }

    /// Each confirmation of each token by a provider that looks where the token was.
    fn candidates(&self, confirmed: &[Confirmed]) -> Vec<Granted> {
        let mut candidates = Vec::new();
        for Confirmed { place, all } in confirmed {
            let users = self.config.places.get(*place).map(|(_, users)| users.as_slice()).unwrap_or_default();
            for (position, verified) in all.iter().enumerate() {
                if users.contains(&verified.provider) {
                    candidates.push(Granted { all: Rc::clone(all), position });
                }
            }
        }
        candidates
    }

    fn first(&self, confirmed: &Confirmed) -> usize {
        let users =
            self.config.places.get(confirmed.place).map(|(_, users)| users.as_slice()).unwrap_or_default();
        confirmed.all.iter().position(|verified| users.contains(&verified.provider)).unwrap_or(0)
    }

    fn forwards(&self, all: &[Verified]) -> bool {
        all.iter().any(|verified| self.config.providers.get(verified.provider).is_some_and(|p| p.forward))
    }

    /// What to do to the headers that carried tokens which no provider forwards.
    fn spent(&self, head: &Head, confirmed: &[Confirmed]) -> Vec<Edit<'_>> {
        let spent = confirmed.iter().filter(|confirmed| !self.forwards(&confirmed.all));
        let places = spent.filter_map(|confirmed| self.config.places.get(confirmed.place));
        let places: Vec<&Place> = places.map(|(place, _)| place).collect();
        place::without_tokens(&places, head)
    }
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

/// Asks for the conditions of these rules before the request waits. The claims are not verified yet: the last question,
/// about no claims at all, leaves none of them behind.
fn foresee(
    rules: &[Deciding<'_>],
    exchange: &Exchange<'_>,
    claims: Map<String, Value>,
) -> Result<Option<Foreseen>, HostError> {
    let mut outcomes = Vec::new();
    let typed = condition::typed(&claims);
    for Deciding { rule, when, .. } in rules {
        let Some(when) = *when else { continue };
        outcomes.push(Outcome {
            rule: *rule,
            with_claims: condition::holds(when, exchange, typed.as_deref())?,
            without: condition::holds(when, exchange, Some(condition::NO_CLAIMS))?,
        });
    }
    Ok(if outcomes.is_empty() { None } else { Some(Foreseen { claims, outcomes }) })
}

impl Provider {
    /// The headers that the service gets for this token, and how many claims could not become one.
    fn headers(&self, token: &UntrustedToken<'_>) -> (Vec<Named>, u32) {
        let outputs = self.claim_headers.iter().map(|(path, header)| (path, Rc::clone(header)));
        let (mut headers, failed) = output::texts(&token.claims, outputs, output::header_text);
        if let Some(header) = &self.payload_header {
            let payload = token.signing_input.split('.').nth(1).unwrap_or_default();
            headers.push((Rc::clone(header), payload.as_bytes().into()));
        }
        (headers, failed)
    }
}

/// A CORS preflight (fetch standard, section 4.8).
fn is_preflight(head: &Head) -> bool {
    head.method() == b"OPTIONS"
        && head.first("origin").is_some()
        && head.first("access-control-request-method").is_some()
}

impl From<ClaimError> for DenyReason {
    fn from(error: ClaimError) -> Self {
        Self::BadClaims(error)
    }
}
