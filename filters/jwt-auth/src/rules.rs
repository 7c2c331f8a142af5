//! Which request needs what: the first rule that matches decides.

use plugin_kit::cel::Expression;
use plugin_kit::config_choice;
use plugin_kit::exchange::{Exchange, HostError};
use plugin_kit::matcher::{Request, RequestMatch, ValueTest};
use plugin_kit::path_index::PathIndex;

use crate::claims::{self, ClaimPath};
use crate::deny::DenyReason;
use crate::verified::Verified;

/// A rule.
#[derive(Debug)]
pub struct Rule {
    /// Its name in logs and metrics.
    pub name: String,
    /// Whether the user gave it the name; only then it has metrics.
    pub named: bool,
    /// The requests that it is about.
    pub condition: RequestMatch,
    /// Who may make them.
    pub access: Access,
    /// What must hold beyond that: a CEL condition on the request and the claims of its token.
    pub when: Option<Expression>,
}

/// Who may make a request.
#[derive(Debug)]
pub enum Access {
    /// Anyone.
    Anyone(Verify),
    /// Nobody.
    Nobody,
    /// Whoever has a token that fits.
    Require(Requirement),
}

config_choice! {
    /// What happens to a token where none is needed.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Verify {
        /// A token that is there must be good.
        IfPresent,
        /// A good token counts, a bad one is as good as none.
        BestEffort,
        /// No token is looked at, and nothing is published.
        Never,
    }
}

/// What tokens must show.
#[derive(Debug)]
pub enum Requirement {
    /// One token that shows all of this.
    Token(TokenRequirement),
    /// One of these.
    AnyOf(Vec<Requirement>),
    /// Each of these.
    AllOf(Vec<Requirement>),
}

/// What one token must show; nothing asks for a token that some provider confirms.
#[derive(Debug, Default)]
pub struct TokenRequirement {
    /// Positions of providers, one of which must have confirmed it; empty for any.
    pub providers: Vec<usize>,
    /// Claims and the tests of their values.
    pub claims: Vec<ClaimTest>,
    /// Scopes that it must grant, all of them.
    pub scopes: Vec<String>,
}

/// A test of one claim.
#[derive(Debug)]
pub struct ClaimTest {
    /// The claim.
    pub path: ClaimPath,
    /// Whether a string is a list of words.
    pub space_delimited: bool,
    /// The test.
    pub test: ValueTest,
}

/// Why a requirement is not met, and the scopes that it asks for.
#[derive(Debug)]
pub struct Refusal<'a> {
    /// The reason.
    pub reason: DenyReason,
    /// The scopes of the requirement.
    pub scopes: &'a [String],
}

impl Rule {
    /// Whether it looks at the path, or may: a condition can.
    pub fn reads_path(&self) -> bool {
        self.condition.reads_path() || self.when.is_some()
    }
}

impl Requirement {
    /// Any token that a provider confirms: what holds where no rule matches.
    pub const ANY_TOKEN: Self =
        Self::Token(TokenRequirement { providers: Vec::new(), claims: Vec::new(), scopes: Vec::new() });

    /// Whether `tokens` meet it; notes in `used` the positions of those that do.
    ///
    /// # Errors
    /// Why they do not.
    pub fn check(&self, tokens: &[&Verified], used: &mut Vec<usize>) -> Result<(), Refusal<'_>> {
        match self {
            Self::Token(token) => token.check(tokens, used),
            Self::AllOf(all) => all.iter().try_for_each(|requirement| requirement.check(tokens, used)),
            Self::AnyOf(any) => {
                let mut refusal = None;
                for requirement in any {
                    match requirement.check(tokens, used) {
                        Ok(()) => return Ok(()),
                        // What a good token lacks says more than that there is no token of another provider.
                        Err(new) if refusal.is_none() || new.reason != DenyReason::UnknownIssuer => {
                            refusal = Some(new);
                        }
                        Err(_) => {}
                    }
                }
                Err(refusal.unwrap_or(Refusal { reason: DenyReason::Nobody, scopes: &[] }))
            }
        }
    }
}

impl TokenRequirement {
    fn check(&self, tokens: &[&Verified], used: &mut Vec<usize>) -> Result<(), Refusal<'_>> {
        let mut reason = DenyReason::UnknownIssuer;
        for (n, token) in tokens.iter().enumerate() {
            if !self.providers.is_empty() && !self.providers.contains(&token.provider) {
                continue;
            }
            if !self.claims.iter().all(|claim| claim.holds(token)) {
                reason = DenyReason::ClaimsForbidden;
            } else if !self
                .scopes
                .iter()
                .all(|scope| claims::scopes(&token.claims).any(|granted| granted == scope.as_str()))
            {
                reason = DenyReason::InsufficientScope;
            } else {
                if !used.contains(&n) {
                    used.push(n);
                }
                return Ok(());
            }
        }
        Err(Refusal { reason, scopes: &self.scopes })
    }
}

impl ClaimTest {
    fn holds(&self, token: &Verified) -> bool {
        let values = claims::values(self.path.find(&token.claims), self.space_delimited);
        self.test.holds(values.iter().map(|value| value.as_bytes()))
    }
}

/// The position of the rule for `request` when its path is read as `reading`; none where a valid token is required.
/// `index` is that of the rules' conditions.
pub fn first_match(
    rules: &[Rule],
    index: &PathIndex,
    exchange: &Exchange<'_>,
    request: &Request<'_>,
    reading: &[u8],
) -> Result<Option<usize>, HostError> {
    for n in index.candidates(reading) {
        let Some(rule) = rules.get(n) else { continue };
        if rule.condition.matches(exchange, request, reading)? {
            return Ok(Some(n));
        }
    }
    Ok(None)
}
