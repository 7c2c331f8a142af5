//! The verification of a token by the providers of its issuer, with what is remembered about tokens and
//! fetched for it.

use std::borrow::Cow;
use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use plugin_kit::host::HostError;
use plugin_kit::trace::{self, Note};
use serde_json::{Map, Value};
use smallvec::SmallVec;

use crate::config::{Config, SeveralTokens};
use crate::decision::context::Context;
use crate::decision::tokens::{Confirmed, FoundToken, forwards};
use crate::fetch::documents::{Document, Documents};
use crate::fetch::introspection::{Answer, Introspection, Known};
use crate::fetch::revocation::{OnFailure, Revoked};
use crate::fetch::schedule::{Fetched, Missing};
use crate::keys::jwk::KeySet;
use crate::keys::key::Key;
use crate::keys::signature::{Verdict, Verifier};
use crate::policy::provider::Provider;
use crate::reply::DenyReason;
use crate::token::cache::TokenCache;
use crate::token::claims::{Validity, whole_seconds};
use crate::token::compact::{TokenError, UntrustedToken, is_opaque};
use crate::token::output;
use crate::token::refused::RefusedTokens;
use crate::token::verified::Verified;

/// So far, in seconds, may the time of one request be behind that of another.
const CLOCK_STEP: u64 = 2;

/// Why there is no verified token.
pub(super) enum Stop {
    Deny(DenyReason),
    Wait { document: Document, fetch: bool },
}

impl From<DenyReason> for Stop {
    fn from(reason: DenyReason) -> Self {
        Self::Deny(reason)
    }
}

/// The verdict of the providers on a token.
struct Judgement {
    all: Rc<[Verified]>,
    /// The positions of those that could not say, and why.
    undecided: SmallVec<[(usize, DenyReason); 1]>,
}

/// The provider at a position.
#[derive(Clone, Copy)]
struct ProviderAt<'a> {
    position: usize,
    provider: &'a Provider,
}

/// Verifies tokens, and remembers those that it has verified or refused.
pub(super) struct Verification {
    verifier: Box<dyn Verifier>,
    verified: RefCell<TokenCache>,
    refused: RefCell<RefusedTokens>,
    pub(super) documents: Documents,
}

impl Verification {
    pub(super) fn new(config: &Config, verifier: Box<dyn Verifier>, documents: Documents, seed: u64) -> Self {
        Self {
            verifier,
            verified: RefCell::new(TokenCache::new(config.cached_tokens, seed)),
            refused: RefCell::new(RefusedTokens::new(config.refused_tokens, seed)),
            documents,
        }
    }

    /// What is known of a token that was verified before and is still good at `now` (seconds since the
    /// epoch).
    pub(super) fn known(&self, token: &[u8], now: u64) -> Option<Rc<[Verified]>> {
        self.verified.borrow_mut().find(token, now)
    }

    /// Drops what is too old; says whether to start a fetch of the document.
    pub(super) fn tick(&self, config: &Config, document: Document, now: Duration) -> bool {
        let fetching = self.documents.fetching(document, &config.providers);
        let due = fetching.is_some_and(|(_, mut fetching)| fetching.tick(now));
        let too_old = match document {
            // The keys themselves may live on: another configuration may use them for longer.
            Document::Keys(n) => self.documents.keys(n).is_some_and(|keys| keys.borrow().keys().is_none()),
            Document::Revoked(n) => {
                config.providers.get(n).is_some_and(|p| self.documents.denies_without_list(n, p))
            }
            Document::Answer(..) => false,
        };
        if too_old {
            // Tokens that were verified with what is too old now have to be verified again.
            self.verified.borrow_mut().retain(|verified| verified.provider != document.provider());
        }
        due
    }

    /// Takes the list of revoked tokens that a fetch brought. It applies to tokens that were verified before,
    /// too.
    pub(super) fn revoke(&self, position: usize, now: Duration, list: Revoked, max_age: Option<Duration>) {
        if let Some(cache) = self.documents.list(position) {
            cache.borrow_mut().received(now, list, max_age);
        }
        self.apply_new_lists();
    }

    /// Forgets the tokens that are revoked by a list which came since the last call, perhaps to another
    /// configuration.
    pub(super) fn apply_new_lists(&self) {
        for (position, cache) in self.documents.lists() {
            let mut cache = cache.borrow_mut();
            if cache.take_news()
                && let Some(list) = cache.value()
            {
                self.verified.borrow_mut().retain(|verified| {
                    verified.provider != position || !list.contains(&verified.claims, verified.kid.as_deref())
                });
            }
        }
    }

    /// The confirmed ones of the tokens that were found: all of them, or with `firstGood` the first good one.
    #[inline(never)]
    pub(super) fn confirm<'a>(
        &self,
        config: &Config,
        found: &'a [FoundToken<'_>],
        context: &mut Context<'_, '_>,
    ) -> Result<Vec<Confirmed<'a>>, Stop> {
        let first_good = config.several_tokens == SeveralTokens::FirstGood;
        let (mut all, mut refused) = (Vec::with_capacity(found.len()), None);
        for token in found {
            match self.confirm_one(config, token, context) {
                Ok(confirmed) if first_good => {
                    // If both tokens stay, the service could take the other one.
                    let here = found.iter().filter(|other| other.place == token.place).count();
                    if here > 1 && forwards(config, &confirmed.all, &confirmed.providers) {
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

    /// A token that was found, if a provider that looks there confirms it.
    fn confirm_one<'a>(
        &self,
        config: &Config,
        FoundToken { token, place, providers }: &'a FoundToken<'_>,
        context: &mut Context<'_, '_>,
    ) -> Result<Confirmed<'a>, Stop> {
        let seconds = |now: Result<Duration, HostError>| match now {
            Ok(now) => Ok(now.as_secs()),
            Err(_) => Err(Stop::from(DenyReason::Internal)),
        };
        let known = self.known(token, seconds(context.exchange.recent_unix_time())?);
        trace::note(|| {
            let note = Note::new("token").at(*place).holds(known.is_some().then_some(true));
            let place = config.places.get(*place);
            place.map_or(note.clone(), |place| note.received(&place.location))
        });
        let observed = &mut context.observed;
        let count = if known.is_some() { &mut observed.cache_hits } else { &mut observed.cache_misses };
        *count = count.saturating_add(1);
        let Judgement { all, undecided } = match known {
            Some(all) => Judgement { all, undecided: SmallVec::new() },
            None => self.verify(config, token, providers, seconds(context.exchange.unix_time())?, context)?,
        };
        let undecided = undecided.into_iter().find(|(provider, _)| providers.contains(provider));
        let undecided = undecided.map(|(_, reason)| reason);
        if !all.iter().any(|verified| providers.contains(&verified.provider)) {
            return Err(undecided.unwrap_or(DenyReason::UnknownIssuer).into());
        }
        Ok(Confirmed { place: *place, providers: Cow::Borrowed(providers), all, undecided })
    }

    /// Every provider's confirmation of `token`; at least one, or a provider that cannot say. It was found where `looking`
    /// providers look.
    #[inline(never)]
    fn verify(
        &self,
        config: &Config,
        token: &[u8],
        looking: &[usize],
        now: u64,
        context: &mut Context<'_, '_>,
    ) -> Result<Judgement, Stop> {
        let known = self.refused.borrow_mut().find(token);
        if let Some(reason) = known {
            trace::note(|| Note::new("remembered").holds(false).received(reason.cause()));
            return Err(reason.into());
        }
        let untrusted = match UntrustedToken::parse(token) {
            Ok(untrusted) => untrusted,
            Err(TokenError::NotCompact) if self.documents.asks() && is_opaque(token) => {
                return self.ask_about_opaque(config, token, looking, now, context);
            }
            Err(error) => {
                trace::note(|| Note::new("format").holds(false).received(error));
                let reason = DenyReason::Malformed(error);
                self.refused.borrow_mut().insert(token, reason, None);
                return Err(reason.into());
            }
        };
        if untrusted.padded && !config.providers.iter().any(Provider::takes_padding) {
            trace::note(|| Note::new("format").holds(false).received(TokenError::Encoding));
            let reason = DenyReason::Malformed(TokenError::Encoding);
            self.refused.borrow_mut().insert(token, reason, None);
            return Err(reason.into());
        }
        trace::note(|| {
            let iss = untrusted.claims.get("iss").and_then(Value::as_str);
            Note::new("format").holds(true).named(untrusted.algorithm).received_bytes(iss.map(str::as_bytes))
        });
        let mut refused = DenyReason::UnknownIssuer;
        let (mut verified, mut undecided) = (Vec::new(), SmallVec::new());
        let mut asked = 0_u32;
        for (position, provider) in config.providers.iter().enumerate() {
            let is_issuer = provider.is_issuer_of(&untrusted.claims);
            trace::note(|| {
                let domain = provider.issuer.trust_domain.as_ref();
                let sub = domain.and_then(|_| untrusted.claims.get("sub")?.as_str());
                Note::new("issuer").at(position).holds(is_issuer).received_bytes(sub.map(str::as_bytes))
            });
            if !is_issuer {
                continue;
            }
            let at = ProviderAt { position, provider };
            let judged = match provider.keys.introspection() {
                None => self.verify_by(config, at, &untrusted, now, context),
                Some(endpoint) if endpoint.jwts && looking.contains(&position) => {
                    self.ask(config, at, endpoint, token, now, context)
                }
                Some(_) => continue,
            };
            asked = asked.saturating_add(1);
            match judged {
                Ok(confirmed) => verified.push(confirmed),
                Err(Stop::Deny(reason)) if reason.is_undecided() => undecided.push((position, reason)),
                Err(Stop::Deny(reason)) => refused = reason,
                Err(wait @ Stop::Wait { .. }) => return Err(wait),
            }
        }
        if verified.is_empty() && undecided.is_empty() {
            if refused == DenyReason::BadSignature && asked == 1 {
                self.remember_bad_signature(config, token, &untrusted);
            }
            return Err(refused.into());
        }
        let all: Rc<[Verified]> = verified.into();
        if undecided.is_empty() {
            self.verified.borrow_mut().insert(token, Rc::clone(&all), now);
        }
        Ok(Judgement { all, undecided })
    }

    /// What the provider that looks where an opaque token was found says of it. Of those there is at most one, so that no
    /// provider sees another's tokens.
    #[inline(never)]
    fn ask_about_opaque(
        &self,
        config: &Config,
        token: &[u8],
        looking: &[usize],
        now: u64,
        context: &mut Context<'_, '_>,
    ) -> Result<Judgement, Stop> {
        let asking = looking.iter().find_map(|position| {
            let provider = config.providers.get(*position)?;
            Some((ProviderAt { position: *position, provider }, provider.keys.introspection()?))
        });
        let Some((at, endpoint)) = asking else {
            trace::note(|| Note::new("format").holds(false).received(TokenError::NotCompact));
            return Err(DenyReason::Malformed(TokenError::NotCompact).into());
        };
        let all: Rc<[Verified]> = [self.ask(config, at, endpoint, token, now, context)?].into();
        self.verified.borrow_mut().insert(token, Rc::clone(&all), now);
        Ok(Judgement { all, undecided: SmallVec::new() })
    }

    /// What the provider's endpoint says of a token.
    #[inline(never)]
    fn ask(
        &self,
        config: &Config,
        at: ProviderAt<'_>,
        endpoint: &Introspection,
        token: &[u8],
        now: u64,
        context: &mut Context<'_, '_>,
    ) -> Result<Verified, Stop> {
        let Some(questions) = self.documents.questions(at.position) else {
            return Err(DenyReason::Internal.into());
        };
        let clock = context.exchange.monotonic_time().map_err(|_| DenyReason::Internal)?;
        let known = questions.borrow_mut().about(token, clock);
        let claims = match known {
            Known::Answer(Answer::Active(claims)) => claims,
            Known::Answer(Answer::Inactive) => {
                trace::note(|| Note::new("introspection").at(at.position).holds(false));
                return Err(DenyReason::Inactive.into());
            }
            Known::Refused(reason) => {
                trace::note(|| Note::new("remembered").holds(false).received(reason.cause()));
                return Err(reason.into());
            }
            Known::Unavailable(reason) => {
                trace::note(|| Note::new("introspection").at(at.position));
                context.observed.next_fetch = Some(questions.borrow().next(clock));
                return Err(reason.into());
            }
            Known::Question { number, ask } => {
                let document = Document::Answer(at.position, number);
                context.waited.may_wait_for(document)?;
                return Err(Stop::Wait { document, fetch: ask });
            }
        };
        trace::note(|| Note::new("introspection").at(at.position).holds(true));
        let judged = self.judge_answer(config, at, endpoint, &claims, now, context);
        if let Err(Stop::Deny(reason)) = &judged
            && !reason.is_undecided()
        {
            questions.borrow_mut().refuse(token, *reason, clock, endpoint.longest);
        }
        judged
    }

    /// Checks what the provider's endpoint says of a token, as the claims of a token are checked.
    fn judge_answer(
        &self,
        config: &Config,
        at: ProviderAt<'_>,
        endpoint: &Introspection,
        claims: &Rc<Map<String, Value>>,
        now: u64,
        context: &mut Context<'_, '_>,
    ) -> Result<Verified, Stop> {
        let is_issuer = at.provider.issuer.may_have_made(claims);
        trace::note(|| Note::new("issuer").at(at.position).holds(is_issuer));
        if !is_issuer {
            return Err(DenyReason::UnknownIssuer.into());
        }
        let validity = at.provider.policy.check_answer(claims).map_err(DenyReason::BadClaims)?;
        let in_time = validity.check(now);
        trace::note(|| Note::new("time").holds(in_time.is_ok()).named(validity).received(now));
        in_time.map_err(DenyReason::BadClaims)?;
        self.check_revoked(at, claims, None, context)?;
        // The issuer is asked again after a while, and when the token ends by its own clock.
        let exp = claims.get("exp").and_then(whole_seconds).map(|exp| exp.max(now.saturating_add(1)));
        let until = now.saturating_add(endpoint.longest).min(exp.unwrap_or(u64::MAX));
        // A clock that is set back does not make it last.
        let validity = Validity { from: now.saturating_sub(CLOCK_STEP), until: Some(until) };
        Ok(confirmation(config, at, (claims, None), validity, &endpoint.key, None))
    }

    fn verify_by(
        &self,
        config: &Config,
        at: ProviderAt<'_>,
        token: &UntrustedToken<'_>,
        now: u64,
        context: &mut Context<'_, '_>,
    ) -> Result<Verified, Stop> {
        let provider = at.provider;
        if token.padded && !provider.takes_padding() {
            return Err(DenyReason::Malformed(TokenError::Encoding).into());
        }
        let accepts = provider.algorithms.contains(&token.algorithm);
        trace::note(|| Note::new("algorithms").holds(accepts).received(token.algorithm));
        if !accepts {
            return Err(DenyReason::AlgorithmNotAllowed.into());
        }
        // Claims come before the signature, since they are cheap to check.
        let validity = provider.policy.check(token).map_err(DenyReason::BadClaims)?;
        let in_time = validity.check(now);
        trace::note(|| Note::new("time").holds(in_time.is_ok()).named(validity).received(now));
        in_time.map_err(DenyReason::BadClaims)?;
        let keys = self.keys_for(at, token, context).inspect_err(|_| {
            trace::note(|| Note::new("key").holds(false).received(token.kid.as_deref().unwrap_or_default()));
        })?;
        let candidates = keys.candidates(token.kid.as_deref(), token.algorithm);
        trace::note(|| {
            let known = keys.keys.iter().filter_map(|key| key.kid.as_deref()).collect::<Vec<_>>().join(", ");
            let received = token.kid.as_deref().unwrap_or_default();
            Note::new("key").holds(!candidates.is_empty()).named(known).received(received)
        });
        if candidates.is_empty() {
            // The key is there, but bound to another algorithm.
            return Err(DenyReason::AlgorithmNotAllowed.into());
        }
        for key in candidates.iter().take(provider.most_tried) {
            let verdict = self.verifier.verify(key, token);
            trace::note(|| {
                let note = Note::new("signature").holds(verdict == Verdict::Valid);
                note.received(key.kid.as_deref().unwrap_or_default())
            });
            match verdict {
                Verdict::Valid => {
                    let kid = key.kid.clone().or_else(|| token.kid.clone());
                    self.check_revoked(at, &token.claims, kid.as_deref(), context)?;
                    let payload = token.signing_input.split('.').nth(1);
                    return Ok(confirmation(config, at, (&token.claims, payload), validity, key, kid));
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

    /// A key set with a key that the token may be signed with.
    fn keys_for(
        &self,
        at: ProviderAt<'_>,
        token: &UntrustedToken<'_>,
        context: &mut Context<'_, '_>,
    ) -> Result<Rc<KeySet>, Stop> {
        let kid = token.kid.as_deref();
        let set = self.documents.key_set(at.position, at.provider).filter(|set| set.knows(kid));
        if let Some(set) = set {
            return Ok(set);
        }
        let Some(cache) = self.documents.keys(at.position) else { return Err(DenyReason::UnknownKey.into()) };
        let document = Document::Keys(at.position);
        match missing(cache, context)? {
            missing @ (Missing::Fetch | Missing::Wait) => {
                context.waited.may_wait_for(document)?;
                Err(Stop::Wait { document, fetch: missing == Missing::Fetch })
            }
            Missing::Unknown => Err(DenyReason::UnknownKey.into()),
            Missing::Unavailable => Err(document.unavailable().into()),
        }
    }

    /// Checks that a token with these claims, signed by the key with this key ID, is not revoked.
    fn check_revoked(
        &self,
        at: ProviderAt<'_>,
        claims: &Map<String, Value>,
        kid: Option<&str>,
        context: &mut Context<'_, '_>,
    ) -> Result<(), Stop> {
        let revoked = at.provider.revoked.contains(claims, kid);
        trace::note(|| Note::new("revoked").holds(!revoked));
        if revoked {
            return Err(DenyReason::Revoked.into());
        }
        let (Some(elsewhere), Some(cache)) =
            (&at.provider.revoked_elsewhere, self.documents.list(at.position))
        else {
            return Ok(());
        };
        let list = cache.borrow().value();
        if let Some(list) = list {
            let revoked = list.contains(claims, kid);
            trace::note(|| Note::new("revokedUri").holds(!revoked));
            return if revoked { Err(DenyReason::Revoked.into()) } else { Ok(()) };
        }
        let document = Document::Revoked(at.position);
        let unavailable = match missing(cache, context)? {
            missing @ (Missing::Fetch | Missing::Wait) => match context.waited.may_wait_for(document) {
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
    fn remember_bad_signature(&self, config: &Config, token: &[u8], untrusted: &UntrustedToken<'_>) {
        let mut issuers = config.providers.iter().enumerate();
        let issuer = issuers.find(|(_, provider)| provider.is_issuer_of(&untrusted.claims));
        if let Some(keys) = issuer.and_then(|(n, provider)| self.documents.key_set(n, provider)) {
            self.refused.borrow_mut().insert(token, DenyReason::BadSignature, Some(&keys));
        }
    }
}

/// How a request that needs this missing document proceeds. The time of the next fetch is noted.
fn missing<T>(cache: &RefCell<Fetched<T>>, context: &mut Context<'_, '_>) -> Result<Missing, DenyReason> {
    let now = context.exchange.monotonic_time().map_err(|_| DenyReason::Internal)?;
    let cache = cache.borrow();
    context.observed.next_fetch = Some(cache.next_fetch());
    Ok(cache.missing(now))
}

/// What the provider confirms of a token with these claims and this payload that `key` has signed, with all that follows from
/// it.
fn confirmation(
    config: &Config,
    at: ProviderAt<'_>,
    (claims, payload): (&Rc<Map<String, Value>>, Option<&str>),
    validity: Validity,
    key: &Rc<Key>,
    kid: Option<String>,
) -> Verified {
    let publish = config.publish.iter().map(|(path, key)| (path, Rc::clone(key)));
    let (published, unpublished) = output::published(claims, publish);
    let (headers, unset) = at.provider.headers(claims, payload);
    Verified {
        provider: at.position,
        validity,
        headers,
        published,
        outputs_failed: unpublished.saturating_add(unset),
        claims: Rc::clone(claims),
        typed: OnceCell::new(),
        kid,
        key: Rc::downgrade(key),
    }
}
