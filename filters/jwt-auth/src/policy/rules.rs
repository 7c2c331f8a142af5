//! What a request must show: the first rule that matches it decides.

use plugin_kit::config_choice;
use plugin_kit::host::HostError;
use plugin_kit::request::cel::Expression;
use plugin_kit::request::claim::ClaimValues;
use plugin_kit::request::exchange::Exchange;
use plugin_kit::request::matcher::{Request, RequestMatch, ValueTest};
use plugin_kit::request::path_index::PathIndex;
use plugin_kit::trace::{self, Note};

use crate::reply::DenyReason;
use crate::token::claims::{self, ClaimPath, Found};
use crate::token::verified::Verified;

/// A rule.
#[derive(Debug)]
pub struct Rule {
    /// Its name in logs and metrics.
    pub name: String,
    /// Whether the operator gave it the name; only then it has metrics.
    pub named: bool,
    /// The requests that the rule is about.
    pub condition: RequestMatch,
    /// Who may make them.
    pub access: Access,
    /// A CEL condition on the request and the claims of its token, which must hold as well.
    pub when: Option<Expression>,
}

/// Who may make a request.
#[derive(Debug)]
pub enum Access {
    /// Anyone may make it.
    Anyone(Verify),
    /// Nobody may make it.
    Nobody,
    /// Clients with a token that meets the requirement may make it.
    Require(Requirement),
}

config_choice! {
    /// What happens to a token that is there although none is needed.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum Verify {
        /// The token must be valid.
        #[default]
        IfPresent,
        /// An invalid token is ignored, and removed unless its provider has `forwardOriginalToken: true`.
        BestEffort,
        /// The filter does not look at the token and publishes nothing.
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

/// What one token must show. An empty requirement asks for a token that some provider confirms.
#[derive(Debug, Default)]
pub struct TokenRequirement {
    /// Positions of providers, one of which must have confirmed the token; empty for any provider.
    pub providers: Vec<usize>,
    /// Claims and the tests of their values.
    pub claims: Vec<ClaimTest>,
    /// Scopes, all of which the token must grant.
    pub scopes: Vec<String>,
}

/// A test of one claim.
#[derive(Debug)]
pub struct ClaimTest {
    /// The claim.
    pub path: ClaimPath,
    /// Whether a string is a list of words, separated by white space.
    pub space_delimited: bool,
    /// The test.
    pub test: ValueTest,
}

/// The tokens of a request as a requirement sees them.
#[derive(Debug, Clone, Copy)]
pub struct Tokens<'a> {
    /// What each provider confirms of each token, in the order of the tokens.
    pub all: &'a [&'a Verified],
    /// How many of these are about the first token, which says who makes the request.
    pub first: usize,
}

/// A demand that is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Met {
    /// The position of the confirmation that meets it.
    pub by: usize,
    /// Whether the demand names the provider of this token.
    pub named: bool,
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
    /// Whether the rule looks at the path, or may: a condition can look at it.
    pub fn reads_path(&self) -> bool {
        self.condition.reads_path() || self.when.is_some()
    }
}

impl Requirement {
    /// Any token that a provider confirms: this is required if no rule matches.
    pub const ANY_TOKEN: Self =
        Self::Token(TokenRequirement { providers: Vec::new(), claims: Vec::new(), scopes: Vec::new() });

    /// Checks that the first token meets the requirement, or under `allOf` that some token meets each demand.
    /// Returns the demands that are met, of which there is at least one; the first is met by the token that
    /// says who makes the request.
    ///
    /// # Errors
    /// The requirement is not met.
    pub fn check(&self, tokens: Tokens<'_>) -> Result<Vec<Met>, Refusal<'_>> {
        match self {
            Self::Token(token) => Ok(vec![token.check(tokens.all.get(..tokens.first).unwrap_or_default())?]),
            Self::AllOf(all) => Self::check_all(all, Tokens { first: tokens.all.len(), ..tokens }),
            Self::AnyOf(any) => {
                let mut refusal = None;
                for requirement in any {
                    match requirement.check(tokens) {
                        Ok(used) => return Ok(used),
                        // A good token that lacks something is a better reason than a missing token of
                        // another provider.
                        Err(new) if refusal.is_none() || new.reason != DenyReason::ProviderForbidden => {
                            refusal = Some(new);
                        }
                        Err(_) => {}
                    }
                }
                Err(refusal.unwrap_or(Refusal { reason: DenyReason::Nobody, scopes: &[] }))
            }
        }
    }

    /// The tests of claims that the token fails, of those demands that it could meet.
    pub fn failing<'a>(&'a self, token: &'a Verified) -> Box<dyn Iterator<Item = &'a ClaimTest> + 'a> {
        match self {
            Self::Token(TokenRequirement { providers, claims, .. }) => {
                let asked = providers.is_empty() || providers.contains(&token.provider);
                Box::new(claims.iter().filter(move |claim| asked && !claim.holds(token)))
            }
            Self::AnyOf(parts) | Self::AllOf(parts) => {
                Box::new(parts.iter().flat_map(|part| part.failing(token)))
            }
        }
    }

    /// The positions of the providers that it names.
    pub fn providers(&self) -> Box<dyn Iterator<Item = usize> + '_> {
        match self {
            Self::Token(token) => Box::new(token.providers.iter().copied()),
            Self::AnyOf(parts) | Self::AllOf(parts) => Box::new(parts.iter().flat_map(Self::providers)),
        }
    }

    fn check_all<'a>(all: &'a [Self], tokens: Tokens<'_>) -> Result<Vec<Met>, Refusal<'a>> {
        let is_of_another = |refusal: &Refusal<'_>| refusal.reason == DenyReason::ProviderForbidden;
        let mut demands = Vec::new();
        for requirement in all {
            match requirement.check(tokens) {
                Ok(met) => demands.extend(met),
                // If a token meets another demand, a further token is missing.
                Err(refusal) if is_of_another(&refusal) => {
                    let wanted =
                        |demand: &Self| !demand.check(tokens).is_err_and(|refusal| is_of_another(&refusal));
                    let reason =
                        if all.iter().any(wanted) { DenyReason::TokenMissing } else { refusal.reason };
                    return Err(Refusal { reason, ..refusal });
                }
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(demands)
    }
}

impl TokenRequirement {
    /// The position of the first token that shows all of this.
    fn check(&self, tokens: &[&Verified]) -> Result<Met, Refusal<'_>> {
        let mut reason =
            if tokens.is_empty() { DenyReason::TokenMissing } else { DenyReason::ProviderForbidden };
        for (n, token) in tokens.iter().enumerate() {
            let of_provider = self.providers.is_empty() || self.providers.contains(&token.provider);
            trace::note(|| Note::new("require.provider").at(token.provider).holds(of_provider));
            if !of_provider {
                continue;
            }
            if !self.claims.iter().all(|claim| claim.holds(token)) {
                reason = DenyReason::ClaimsForbidden;
            } else if !self.scopes.iter().all(|scope| {
                let granted = claims::scopes(&token.claims).any(|granted| granted == scope.as_str());
                trace::note(|| {
                    Note::new("require.scope")
                        .named(scope)
                        .holds(granted)
                        .received(claims::scopes(&token.claims).collect::<Vec<_>>().join(" "))
                });
                granted
            }) {
                reason = DenyReason::InsufficientScope;
            } else {
                return Ok(Met { by: n, named: !self.providers.is_empty() });
            }
        }
        Err(Refusal { reason, scopes: &self.scopes })
    }
}

impl ClaimTest {
    fn holds(&self, token: &Verified) -> bool {
        let claim = match self.path.find(&token.claims) {
            Found::Claim(claim) => Some(claim),
            Found::Missing => None,
            // A test that cannot be decided fails.
            Found::Undecided => {
                trace::note(|| Note::new("require.claim").named(self.path.text()).holds(false));
                return false;
            }
        };
        let holds = self.test.decides_claim(&ClaimValues::of(claim, self.space_delimited)) == Some(true);
        trace::note(|| {
            let note = Note::new("require.claim").named(self.path.text()).holds(holds);
            if let Some(claim) = claim { note.received(claim) } else { note }
        });
        holds
    }
}

/// Adds to `found` the position of the first rule that matches `request` when its path is read as `reading`,
/// or `None` if no rule matches. `index` is the index of the rules' conditions. A rule before it of which it
/// is not known whether it matches is added, too: the request must pass both, since either could be the one
/// that decides.
pub fn first_match(
    rules: &[Rule],
    index: &PathIndex,
    exchange: &Exchange<'_>,
    request: &Request<'_>,
    reading: &[u8],
    found: &mut Vec<Option<usize>>,
) -> Result<(), HostError> {
    let candidates = index.candidates(reading).filter_map(|n| Some((n, rules.get(n)?)));
    first_of(candidates, exchange, request, reading, found)
}

fn first_of<'r>(
    rules: impl Iterator<Item = (usize, &'r Rule)>,
    exchange: &Exchange<'_>,
    request: &Request<'_>,
    reading: &[u8],
    found: &mut Vec<Option<usize>>,
) -> Result<(), HostError> {
    for (n, rule) in rules {
        let matches = rule.condition.matches(exchange, request, reading)?;
        trace::note(|| Note::new("rule").at(n).holds(matches));
        if matches != Some(false) {
            found.push(Some(n));
        }
        if matches == Some(true) {
            return Ok(());
        }
    }
    trace::note(|| Note::new("rule").holds(true));
    found.push(None);
    Ok(())
}

/// The same for a request to open a tunnel (`CONNECT`), which has no path, so that rules about paths do not
/// match it. Nothing looks into the tunnel, where requests for any path can follow, so only a rule that names
/// the method lets it in without a token.
pub fn first_match_without_path(
    rules: &[Rule],
    exchange: &Exchange<'_>,
    request: &Request<'_>,
    found: &mut Vec<Option<usize>>,
) -> Result<(), HostError> {
    let applying = rules.iter().enumerate().filter(|(_, rule)| {
        let too_open =
            matches!(rule.access, Access::Anyone(_)) && !rule.condition.names_method(request.method);
        !rule.condition.reads_path() && !too_open
    });
    first_of(applying, exchange, request, b"", found)
}

#[cfg(test)]
mod tests {
    use std::cell::OnceCell;
    use std::rc::Weak;

    use plugin_kit::config::{ErrorList, JsonPath};
    use plugin_kit::request::matcher::RawValueTest;
    use serde_json::{Value, json};

    use super::*;
    use crate::token::claims::Validity;

    fn verified(provider: usize, claims: &Value) -> Verified {
        Verified {
            provider,
            validity: Validity::default(),
            claims: claims.as_object().unwrap().clone().into(),
            typed: OnceCell::new(),
            headers: Vec::new(),
            published: Vec::new(),
            outputs_failed: 0,
            kid: None,
            key: Weak::new(),
        }
    }

    fn of(provider: usize) -> TokenRequirement {
        TokenRequirement { providers: vec![provider], ..TokenRequirement::default() }
    }

    fn role(role: &str) -> ClaimTest {
        let raw = RawValueTest { any_of: vec![role.into()].into(), ..RawValueTest::default() };
        let test = ValueTest::compile(&raw, &JsonPath::root(), &mut ErrorList::default()).unwrap();
        ClaimTest { path: ClaimPath::parse("roles").unwrap(), space_delimited: true, test }
    }

    /// The positions of the tokens that meet it, or why they do not. Each is a token of its own.
    fn check(requirement: &Requirement, tokens: &[Verified]) -> Result<Vec<usize>, DenyReason> {
        check_with(requirement, tokens, 1)
    }

    /// The same, where the first so many are about one token.
    fn check_with(
        requirement: &Requirement,
        tokens: &[Verified],
        first: usize,
    ) -> Result<Vec<usize>, DenyReason> {
        let all: Vec<&Verified> = tokens.iter().collect();
        let met = requirement.check(Tokens { all: &all, first }).map_err(|refusal| refusal.reason)?;
        Ok(met.into_iter().map(|met| met.by).collect())
    }

    #[test]
    fn first_token_must_be_of_a_named_provider() {
        let tokens = [verified(0, &json!({})), verified(1, &json!({}))];
        assert_eq!(check_with(&Requirement::ANY_TOKEN, &tokens, 2), Ok(vec![0]));
        assert_eq!(check_with(&Requirement::Token(of(1)), &tokens, 2), Ok(vec![1]));
        assert_eq!(check_with(&Requirement::Token(of(2)), &tokens, 2), Err(DenyReason::ProviderForbidden));
        // Another token does not speak for the request.
        assert_eq!(check(&Requirement::Token(of(1)), &tokens), Err(DenyReason::ProviderForbidden));
        assert_eq!(check(&Requirement::ANY_TOKEN, &[]), Err(DenyReason::TokenMissing));
    }

    #[test]
    fn claims_are_checked_before_scopes() {
        let requirement = || {
            Requirement::Token(TokenRequirement {
                claims: vec![role("admin")],
                scopes: vec!["read".to_owned(), "write".to_owned()],
                ..TokenRequirement::default()
            })
        };
        for (claims, expected) in [
            (json!({ "roles": "x admin", "scope": "write read" }), Ok(vec![0])),
            (json!({ "roles": ["admin"], "scope": "read", "scp": ["write"] }), Ok(vec![0])),
            (json!({ "roles": "administrator", "scope": "read write" }), Err(DenyReason::ClaimsForbidden)),
            (json!({ "scope": "read write" }), Err(DenyReason::ClaimsForbidden)),
            (json!({ "roles": "admin", "scope": "read" }), Err(DenyReason::InsufficientScope)),
            (json!({ "roles": "admin" }), Err(DenyReason::InsufficientScope)),
            (json!({ "roles": "admin", "scope": "reads writes" }), Err(DenyReason::InsufficientScope)),
        ] {
            assert_eq!(check(&requirement(), &[verified(0, &claims)]), expected, "{claims}");
        }
        let refusal = requirement();
        let refusal = refusal.check(Tokens { all: &[], first: 0 }).unwrap_err();
        assert_eq!(refusal.scopes, ["read", "write"]);
    }

    #[test]
    fn test_of_claim_that_cannot_be_compared_fails() {
        for (test, claims, expected) in [
            (r#"{"noneOf":["banned"]}"#, json!({ "a": { "banned": true } }), false),
            (r#"{"noneOf":["banned"]}"#, json!({ "a": [{}] }), false),
            (r#"{"noneOf":["banned"]}"#, json!({ "a": [] }), true),
            (r#"{"noneOf":["banned"]}"#, json!({}), true),
            (r#"{"present":true}"#, json!({ "a": {} }), true),
            (r#"{"present":true}"#, json!({ "a": [] }), true),
            (r#"{"present":false}"#, json!({ "a": { "sub": "x" } }), false),
            (r#"{"present":false}"#, json!({ "a": null }), true),
            (r#"{"anyOf":["x"]}"#, json!({ "a": "[\"x\"]" }), false),
        ] {
            let raw = plugin_kit::config::read(&serde_json::from_str(test).unwrap()).unwrap();
            let test = ValueTest::compile(&raw, &JsonPath::root(), &mut ErrorList::default()).unwrap();
            let claim = ClaimTest { path: ClaimPath::parse("a").unwrap(), space_delimited: false, test };
            assert_eq!(claim.holds(&verified(0, &claims)), expected, "{claims}");
        }
    }

    #[test]
    fn any_of_is_met_by_one_and_refused_for_the_most_telling() {
        let admin = || Requirement::Token(TokenRequirement { claims: vec![role("admin")], ..of(0) });
        let any = |demands: Vec<Requirement>| Requirement::AnyOf(demands);
        let (user, boss) = (verified(0, &json!({})), verified(0, &json!({ "roles": ["admin"] })));
        assert_eq!(check(&any(vec![Requirement::Token(of(1)), admin()]), &[boss]), Ok(vec![0]));
        // What a good token lacks, wherever it stands in the list.
        let user = [user];
        for demands in [vec![Requirement::Token(of(1)), admin()], vec![admin(), Requirement::Token(of(1))]] {
            assert_eq!(check(&any(demands), &user), Err(DenyReason::ClaimsForbidden));
        }
        let scoped = Requirement::Token(TokenRequirement { scopes: vec!["s".to_owned()], ..of(0) });
        assert_eq!(check(&any(vec![admin(), scoped]), &user), Err(DenyReason::InsufficientScope));
        assert_eq!(check(&any(vec![Requirement::Token(of(1))]), &user), Err(DenyReason::ProviderForbidden));
        assert_eq!(check(&any(Vec::new()), &user), Err(DenyReason::Nobody));
    }

    #[test]
    fn met_demand_says_whether_it_names_the_provider() {
        let tokens = [verified(0, &json!({}))];
        let all: Vec<&Verified> = tokens.iter().collect();
        let demands = Requirement::AllOf(vec![Requirement::ANY_TOKEN, Requirement::Token(of(0))]);
        let met = demands.check(Tokens { all: &all, first: 1 }).unwrap();
        assert_eq!(met, [Met { by: 0, named: false }, Met { by: 0, named: true }]);
    }

    #[test]
    fn all_of_needs_a_token_for_each() {
        let tokens = [verified(0, &json!({})), verified(1, &json!({}))];
        let all = |providers: &[usize]| {
            Requirement::AllOf(providers.iter().map(|provider| Requirement::Token(of(*provider))).collect())
        };
        assert_eq!(check(&all(&[1, 0, 1]), &tokens), Ok(vec![1, 0, 1]));
        // One more token would do, which those are that nobody asks for would not.
        for demands in [[0, 2], [2, 0]] {
            assert_eq!(check(&all(&demands), &tokens), Err(DenyReason::TokenMissing));
        }
        assert_eq!(check(&all(&[2, 3]), &tokens), Err(DenyReason::ProviderForbidden));
        let admin = Requirement::Token(TokenRequirement { claims: vec![role("admin")], ..of(1) });
        let demands = Requirement::AllOf(vec![admin, Requirement::Token(of(2))]);
        assert_eq!(check(&demands, &tokens), Err(DenyReason::ClaimsForbidden));
    }

    #[test]
    fn token_of_failed_alternative_does_not_speak() {
        let tokens = [verified(0, &json!({})), verified(1, &json!({}))];
        let both = Requirement::AllOf(vec![Requirement::Token(of(1)), Requirement::Token(of(2))]);
        let requirement = Requirement::AnyOf(vec![both, Requirement::Token(of(0))]);
        assert_eq!(check(&requirement, &tokens), Ok(vec![0]));
    }

    #[test]
    fn rule_reads_path_if_its_condition_does() {
        let rule = |paths: &[&str]| {
            let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
            let parts = plugin_kit::request::matcher::Parts { paths: &paths, ..Default::default() };
            let (case, env) = (plugin_kit::request::path::PathCase::Sensitive, |_: &str| None);
            let condition =
                RequestMatch::compile(parts, case, &env, &JsonPath::root(), &mut ErrorList::default())
                    .unwrap();
            Rule { name: String::new(), named: false, condition, access: Access::Nobody, when: None }
        };
        assert!(rule(&["/a"]).reads_path());
        assert!(!rule(&[]).reads_path());
    }
}
