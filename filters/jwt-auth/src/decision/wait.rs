//! Requests that wait for a document, and what is remembered of them.
//!
//! A request that needs keys or a list of revoked tokens waits until they are fetched, and is then decided
//! again:
//!
//! ```text
//! client        filter                                proxy                       issuer
//!   |  request    |                                     |                           |
//!   |------------>| decide: the keys are missing        |                           |
//!   |             | ask about conditions (Foreseen)     |                           |
//!   |             |------- fetch of the JWKS ---------->|----------- GET ---------->|
//!   |             |------- pause the request ---------->|                           |
//!   |             |   further requests pause, too       |                           |
//!   |             |<------ response, or a timeout ------|<---------- 200 -----------|
//!   |             | decide again (Waited): allow or deny|                           |
//!   |             |------- continue or reply ---------->|                           |
//!   |<----------------------- response -----------------|                           |
//! ```
//!
//! The second decision happens in the callback of the fetch. There the host evaluates nothing about the
//! paused request, so the filter asks about the request's conditions before it waits, for each of the
//! request's tokens and for none.

use std::rc::Rc;

use plugin_kit::host::HostError;
use plugin_kit::request::cel::Expression;
use plugin_kit::request::exchange::Exchange;
use serde_json::{Map, Value};
use smallvec::SmallVec;

use crate::fetch::documents::Document;
use crate::policy::condition;
use crate::reply::DenyReason;
use crate::token::compact::UntrustedToken;

/// How many times a request waits: once for the first keys, and once for a new key or a list of revoked
/// tokens.
const MOST_WAITS: u8 = 2;

/// What is remembered of a request between its decisions.
#[derive(Debug, Default)]
pub struct Waited {
    times: u8,
    /// The positions of the rules that decide about it.
    rules: Option<Vec<Option<usize>>>,
    foreseen: Option<Foreseen>,
    /// The documents that it cannot wait for, each with the reason.
    given_up: SmallVec<[(Document, DenyReason); 1]>,
}

/// What the conditions of rules say, for the claims of each token if it turns out to be good, and for no
/// claims.
#[derive(Debug)]
pub(super) struct Foreseen {
    /// The claims of each token.
    claims: Vec<Rc<Map<String, Value>>>,
    answers: Vec<Answer>,
}

#[derive(Debug)]
struct Answer {
    rule: Option<usize>,
    /// The position of the claims that the condition was asked about; `None` if it was asked about no claims.
    claims: Option<usize>,
    holds: Option<bool>,
}

/// The condition of the rule at a position.
pub(super) type RuleCondition = (Option<usize>, Expression);

impl Waited {
    /// Whether the request has waited before.
    pub fn has_waited(&self) -> bool {
        self.times > 0
    }

    /// A request that has waited so many times.
    pub fn after(times: u8) -> Self {
        Self { times, ..Self::default() }
    }

    /// To be called in the callback in which a request was to wait for a document and cannot, with the
    /// reason. The next decision, in the same callback, is made without this document, and if too many
    /// requests wait, without any.
    pub fn give_up(&mut self, document: Document, reason: DenyReason) {
        self.times = self.times.saturating_sub(1);
        if self.times == 0 {
            // This is still the request's own callback.
            self.foreseen = None;
        }
        self.given_up.push((document, reason));
    }

    /// The request begins to wait; these rules decide about it later.
    pub(super) fn begin(&mut self, rules: Vec<Option<usize>>) {
        self.rules = Some(rules);
        self.times = self.times.saturating_add(1);
    }

    /// The rules that decide about the request, if it has waited.
    pub(super) fn take_rules(&mut self) -> Option<Vec<Option<usize>>> {
        self.rules.take()
    }

    /// What conditions say, if the request has waited.
    pub(super) fn foreseen(&self) -> Option<&Foreseen> {
        self.foreseen.as_ref()
    }

    /// Asks about the conditions of rules before the request waits, for each of its tokens. The claims are
    /// not verified yet: the last question, about no claims, leaves none of them behind in the host.
    pub(super) fn foresee(
        &mut self,
        conditions: &[RuleCondition],
        exchange: &Exchange<'_>,
        tokens: &[&[u8]],
    ) -> Result<(), HostError> {
        self.foreseen =
            if conditions.is_empty() { None } else { Some(foresee(conditions, exchange, tokens)?) };
        Ok(())
    }

    /// Whether the request may wait for a document, and if not, why.
    pub(super) fn may_wait_for(&self, document: Document) -> Result<(), DenyReason> {
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
    /// What the condition of a rule says about these claims; `None` also if nobody asked about them.
    pub(super) fn answer(&self, rule: Option<usize>, claims: Option<&Map<String, Value>>) -> Option<bool> {
        let claims = match claims {
            Some(claims) => Some(self.claims.iter().position(|known| **known == *claims)?),
            None => None,
        };
        let answer = self.answers.iter().find(|answer| answer.rule == rule && answer.claims == claims)?;
        answer.holds
    }
}

fn foresee(
    conditions: &[RuleCondition],
    exchange: &Exchange<'_>,
    tokens: &[&[u8]],
) -> Result<Foreseen, HostError> {
    let tokens = tokens.iter().filter_map(|token| UntrustedToken::parse(token).ok());
    let claims: Vec<Rc<Map<String, Value>>> = tokens.map(|token| token.claims).collect();
    let typed: Vec<Option<Vec<u8>>> = claims.iter().map(|claims| condition::typed(claims)).collect();
    let mut answers = Vec::new();
    for (rule, when) in conditions {
        for (n, typed) in typed.iter().enumerate() {
            let holds = condition::holds(*when, exchange, typed.as_deref())?;
            answers.push(Answer { rule: *rule, claims: Some(n), holds });
        }
        let holds = condition::holds(*when, exchange, Some(condition::NO_CLAIMS))?;
        answers.push(Answer { rule: *rule, claims: None, holds });
    }
    Ok(Foreseen { claims, answers })
}
