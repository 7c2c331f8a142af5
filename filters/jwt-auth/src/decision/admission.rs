//! Whether rules let a request in with the tokens that were confirmed.

use plugin_kit::host::HostError;
use plugin_kit::request::cel::Expression;
use plugin_kit::request::headers::HeaderMap;
use plugin_kit::trace::{self, Note};
use serde_json::Value;
use std::rc::Rc;

use crate::config::{Config, CorsPreflight};
use crate::decision::context::Context;
use crate::decision::outcome::{Denial, Granted, Why};
use crate::decision::tokens::Confirmed;
use crate::decision::verification::Stop;
use crate::decision::wait::RuleCondition;
use crate::policy::condition;
use crate::policy::rules::{Access, Met, Refusal, Requirement, Rule, Tokens, Verify};
use crate::reply::DenyReason;
use crate::token::verified::Verified;

/// The rule that decides about one reading of a request; without a position if no rule matches.
pub(super) struct Deciding<'a> {
    pub(super) rule: Option<usize>,
    access: &'a Access,
    when: Option<Expression>,
}

impl<'a> Deciding<'a> {
    /// The rule at this position of the configuration, or what holds if no rule matches.
    pub(super) fn at(config: &'a Config, rule: Option<usize>) -> Self {
        const ANY_TOKEN: &Access = &Access::Require(Requirement::ANY_TOKEN);
        match rule.and_then(|n| config.rules.get(n)) {
            Some(Rule { access, when, .. }) => Self { rule, access, when: *when },
            None => Self { rule: None, access: ANY_TOKEN, when: None },
        }
    }

    /// Whether the rule looks at tokens.
    pub(super) fn verifies(&self) -> bool {
        !matches!(self.access, Access::Nobody | Access::Anyone(Verify::Never))
    }

    /// The rule's condition, with the position of the rule.
    pub(super) fn condition(&self) -> Option<RuleCondition> {
        self.when.map(|when| (self.rule, when))
    }
}

/// How a rule lets a request in.
enum Entry {
    /// By this token, which says who makes the request.
    Token(Granted),
    /// As a request without an identity.
    Anyone,
    /// As a CORS preflight.
    Preflight,
}

/// How all rules that decide about a request let it in.
pub(super) struct Admission {
    /// The token that says who makes the request, if one does.
    pub(super) identity: Option<Granted>,
    /// Why the request goes on.
    pub(super) why: Why,
}

/// Asks every rule that decides: there is one for each reading of the path. All must let the request in, and
/// agree on who makes it.
pub(super) fn admit<'a>(
    config: &'a Config,
    rules: &[Deciding<'a>],
    confirmed: &Result<Vec<Confirmed<'_>>, Stop>,
    head: &HeaderMap,
    context: &mut Context<'_, '_>,
) -> Result<Result<Admission, Denial<'a>>, HostError> {
    let (mut identity, mut anyone, mut preflight) = (None::<Granted>, false, false);
    for rule in rules {
        trace::note(|| Note { index: rule.rule, ..Note::new("deciding") });
        let deny = |reason| Ok(Err(refused(rule, Refusal { reason, scopes: &[] }, confirmed)));
        let entry = match judge(config, rule, confirmed, head) {
            Ok(entry) => entry,
            Err(refusal) => return Ok(Err(refused(rule, refusal, confirmed))),
        };
        if !condition_admits(rule, &entry, context)? {
            return deny(DenyReason::ConditionForbidden);
        }
        match (entry, &identity) {
            // Who makes the request must not depend on how the path is read.
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
    Ok(Ok(Admission { identity, why }))
}

/// The denial by a rule. Where the client is known and may not make the request, it says who the client is.
#[inline(never)]
fn refused<'a>(
    rule: &Deciding<'a>,
    Refusal { reason, scopes }: Refusal<'a>,
    confirmed: &Result<Vec<Confirmed<'_>>, Stop>,
) -> Denial<'a> {
    let confirmed = confirmed.as_deref().ok().filter(|_| reason.presentation().status == 403);
    let mut known = confirmed.map(|confirmed| candidates(confirmed)).unwrap_or_default().into_iter();
    let identity = known.next().map(|(_, granted)| granted);
    Denial { reason, scopes, rule: rule.rule, identity }
}

/// Whether a rule lets the request in with these tokens, apart from the rule's condition.
fn judge<'a>(
    config: &Config,
    rule: &Deciding<'a>,
    confirmed: &Result<Vec<Confirmed<'_>>, Stop>,
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
            let passes = config.cors_preflight == CorsPreflight::Allow && head.is_preflight();
            return if passes { Ok(Entry::Preflight) } else { Err(bare(DenyReason::TokenMissing)) };
        }
        (_, Ok(confirmed)) => confirmed,
    };
    let candidates = candidates(confirmed);
    let met = demands_met(rule.access, &candidates, confirmed)?;
    let Some((speaker, identity)) = met.first().and_then(|met| candidates.get(met.by)) else {
        return Err(bare(DenyReason::TokenMissing));
    };
    let provider = |granted: &Granted| granted.verified().map(|verified| verified.provider);
    // Another person's token is welcome if a demand names its provider, and this is not the provider of the
    // speaker.
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

/// The demands of a rule that the tokens meet, first that of the token that says who makes the request.
fn demands_met<'a>(
    access: &'a Access,
    candidates: &[(usize, Granted)],
    confirmed: &[Confirmed<'_>],
) -> Result<Vec<Met>, Refusal<'a>> {
    let Access::Require(requirement) = access else { return Ok(vec![Met { by: 0, named: false }]) };
    let all: Vec<&Verified> = candidates.iter().filter_map(|(_, granted)| granted.verified()).collect();
    let first = candidates.iter().take_while(|(token, _)| *token == 0).count();
    requirement.check(Tokens { all: &all, first }).map_err(|refusal| {
        let undecided = confirmed.iter().find_map(|confirmed| confirmed.undecided);
        undecided.map_or(refusal, |reason| Refusal { reason, scopes: &[] })
    })
}

/// Each confirmation of each token by a provider that looks where the token was, with the position of the
/// token.
fn candidates(confirmed: &[Confirmed<'_>]) -> Vec<(usize, Granted)> {
    let mut candidates = Vec::new();
    for (token, Confirmed { providers, all, .. }) in confirmed.iter().enumerate() {
        for (position, verified) in all.iter().enumerate() {
            if providers.contains(&verified.provider) {
                candidates.push((token, Granted { all: Rc::clone(all), position }));
            }
        }
    }
    candidates
}

/// Whether two tokens are about the same subject of the same issuer. Tokens without a subject are so only if they say the same.
fn is_same_subject(one: Option<&Verified>, other: Option<&Verified>) -> bool {
    let (Some(one), Some(other)) = (one, other) else { return false };
    let same = |claim: &str| one.claims.get(claim) == other.claims.get(claim);
    let named = one.claims.get("sub").is_some_and(Value::is_string);
    (named && same("iss") && same("sub")) || one.claims == other.claims
}

/// Whether the rule has no condition, or its condition holds for the request and the claims of its token, or
/// is not asked about preflights. A condition without a value does not hold, and is counted.
fn condition_admits(
    rule: &Deciding<'_>,
    entry: &Entry,
    context: &mut Context<'_, '_>,
) -> Result<bool, HostError> {
    let token = match entry {
        Entry::Token(granted) => granted.verified(),
        Entry::Anyone => None,
        Entry::Preflight => return Ok(true),
    };
    let Some(when) = rule.when else { return Ok(true) };
    let holds = if let Some(foreseen) = context.waited.foreseen() {
        foreseen.answer(rule.rule, token.map(|token| &*token.claims))
    } else {
        context.shown_claims |= token.is_some();
        let claims = token.map_or(Some(condition::NO_CLAIMS), Verified::typed);
        condition::holds(when, context.exchange, claims)?
    };
    trace::note(|| Note::new("when").holds(holds));
    if holds.is_none() {
        context.observed.conditions_failed = context.observed.conditions_failed.saturating_add(1);
    }
    Ok(holds == Some(true))
}
