//! What becomes of a request.

use std::rc::Rc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::fetch::documents::Document;
use crate::reply::DenyReason;
use crate::token::location::Edit;
use crate::token::verified::Verified;

/// What to do with a request. Whatever the outcome, the client's copies of the filter's own headers are
/// removed by now.
#[derive(Debug)]
pub struct Decision<'a> {
    /// Whether the request goes on.
    pub outcome: Outcome<'a>,
    /// Whether a condition was shown claims that the request does not go on with.
    pub clear_claims: bool,
    /// What happened on the way.
    pub observed: Observed,
}

/// What happened while a decision was made, for metrics and replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Observed {
    /// Tokens that were found in the cache.
    pub cache_hits: u32,
    /// Tokens that were not found in the cache.
    pub cache_misses: u32,
    /// Conditions that had no value.
    pub conditions_failed: u32,
    /// When a document that the request needed may be there: a time on the monotonic clock.
    pub next_fetch: Option<Duration>,
}

/// Whether a request goes on.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// The request goes on.
    Allow(Pass<'a>),
    /// The request is refused, or in report mode it goes on without claims.
    Deny(Denial<'a>),
    /// The request waits for a document.
    Wait {
        /// The document that is missing.
        document: Document,
        /// Whether to start a fetch of it.
        fetch: bool,
    },
}

/// A list that nearly always has one element.
pub type One<T> = SmallVec<[T; 1]>;

/// A request that goes on.
#[derive(Debug, Default)]
pub struct Pass<'a> {
    /// The headers that carried a token, each with its new value, or without one if it is to be removed.
    pub spent: One<Edit<'a>>,
    /// The one token that says who makes the request, if one does.
    pub identity: Option<Granted>,
    /// Why the request goes on, for the metrics.
    pub why: Why,
    /// The position of the rule that let it in, if one did.
    pub rule: Option<usize>,
}

/// Why a request goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Why {
    /// Its token is good.
    Token,
    /// Anyone may make it.
    #[default]
    Anyone,
    /// The request is a CORS preflight.
    Preflight,
}

/// A verified token that counts for a request.
#[derive(Debug, Clone)]
pub struct Granted {
    pub(super) all: Rc<[Verified]>,
    pub(super) position: usize,
}

impl Granted {
    /// The token.
    pub fn verified(&self) -> Option<&Verified> {
        self.all.get(self.position)
    }

    /// Whether the other one is the same token, confirmed by the same provider.
    pub(super) fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.all, &other.all) && self.position == other.position
    }
}

/// A request that is refused.
#[derive(Debug)]
pub struct Denial<'a> {
    /// Why it is refused.
    pub reason: DenyReason,
    /// The scopes that the rule asks for.
    pub scopes: &'a [String],
    /// The position of the rule that refused it, if one did.
    pub rule: Option<usize>,
    /// The verified token that says who makes the request, where that is not the reason for the refusal.
    pub identity: Option<Granted>,
}

impl Denial<'_> {
    /// A denial by no rule.
    pub fn of(reason: DenyReason) -> Self {
        Self { reason, scopes: &[], rule: None, identity: None }
    }

    /// The token that was verified before a rule refused the request.
    pub fn verified(&self) -> Option<&Verified> {
        self.identity.as_ref()?.verified()
    }
}
