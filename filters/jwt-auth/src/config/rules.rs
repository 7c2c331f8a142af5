//! Compiles rules: which requests they are about, and what these must show.

use plugin_kit::config::{Code, ErrorList, JsonPath, not_one_of, shown_name};
use plugin_kit::host::Environment;
use plugin_kit::request::cel::Expression;
use plugin_kit::request::matcher::{RequestMatch, ValueTest};
use plugin_kit::request::path::PathCase;
use plugin_kit::request::source::{names, warn_of_response};

use crate::config::raw::{RawAllow, RawRequirement, RawRule};
use crate::policy::provider::Provider;
use crate::policy::rules::{Access, ClaimTest, Requirement, Rule, TokenRequirement, Verify};
use crate::token::claims::ClaimPath;

impl RawRule {
    #[inline(never)]
    pub(super) fn compile(
        self,
        (n, is_last): (usize, bool),
        providers: &[String],
        case: PathCase,
        env: &dyn Environment,
        path: &JsonPath,
        errors: &mut ErrorList,
    ) -> Option<Rule> {
        let condition = self.condition(is_last, case, env, path, errors);
        let access = match (self.allow, self.verify, &self.require) {
            (Some(RawAllow::Anyone), verify, None) => Some(Access::Anyone(verify.unwrap_or_default())),
            (Some(RawAllow::Nobody), None, None) => Some(Access::Nobody),
            (None, None, Some(require)) => {
                require.compile(providers, &path.field("require"), errors).map(Access::Require)
            }
            (_, Some(_), _) => {
                errors.add(&path.field("verify"), "goes with `allow: anyone`");
                None
            }
            _ => {
                errors.add(path, "expected either `allow` or `require`");
                None
            }
        };
        let named = self.name.is_some();
        let name = self.name.unwrap_or_else(|| format!("rules[{n}]"));
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if named && (name.is_empty() || !name.bytes().all(good)) {
            errors.add(
                &path.field("name"),
                "is not a valid name for a metric; expected letters, digits, `-` and `_`",
            );
        }
        let when = self.when.as_deref().and_then(|when| {
            let path = path.field("when");
            if self.allow == Some(RawAllow::Nobody) {
                errors.add(&path, "goes with `allow: anyone` or `require`");
            }
            if self.verify == Some(Verify::Never) && names(when, "jwt") {
                errors.note(
                    Code::WhenWithoutClaims,
                    &path,
                    "asks for claims, and `verify: never` looks at no token",
                );
            }
            warn_of_response(when, &path, errors);
            errors.check(&path, Expression::condition(when, env))
        });
        Some(Rule { name, named, condition: condition?, access: access?, when })
    }
}

impl RawRule {
    #[inline(never)]
    fn condition(
        &self,
        is_last: bool,
        case: PathCase,
        env: &dyn Environment,
        path: &JsonPath,
        errors: &mut ErrorList,
    ) -> Option<RequestMatch> {
        let Some(raw) = &self.r#match else {
            if self.allow == Some(RawAllow::Anyone) {
                let message = "has no `match`, and so lets anyone make every request; expected `match: { any: true }` if that is meant";
                errors.note(Code::OpenToAll, path, message);
            } else if !is_last {
                let message = "has no `match`, so that no rule behind it is asked; expected `match`, or this rule as the last";
                errors.note(Code::RuleForAll, path, message);
            }
            return Some(RequestMatch::default());
        };
        let (parts, path) = (raw.parts(), path.field("match"));
        match (raw.any, parts.is_empty()) {
            (None, true) => {
                let message = "is empty; expected a condition, or `{ any: true }` for every request";
                errors.note(Code::EmptyList, &path, message);
            }
            (Some(true), false) => {
                errors.add(&path.field("any"), "stands alone; expected no other part beside it");
            }
            (Some(false), _) => {
                errors.add(&path.field("any"), "expected `true`, or other parts in its place");
            }
            (None, false) | (Some(true), true) => {}
        }
        RequestMatch::compile(parts, case, env, &path, errors)
    }
}

impl RawRequirement {
    fn compile(&self, providers: &[String], path: &JsonPath, errors: &mut ErrorList) -> Option<Requirement> {
        let mut all = |list: &[Self], name: &str| -> Vec<Requirement> {
            let path = path.field(name);
            list.iter()
                .enumerate()
                .filter_map(|(n, raw)| raw.compile(providers, &path.index(n), errors))
                .collect()
        };
        let (any_of, all_of) = (all(&self.any_of, "anyOf"), all(&self.all_of, "allOf"));
        let own = self.provider.is_some() || !self.claims.0.is_empty() || !self.scopes.is_empty();
        match (own, self.any_of.is_empty(), self.all_of.is_empty()) {
            (false, false, true) => return Some(Requirement::AnyOf(any_of)),
            (false, true, false) => return Some(Requirement::AllOf(all_of)),
            (_, true, true) => {}
            _ => {
                errors.add(path, "mixes `anyOf`, `allOf` and other requirements; expected one of them");
                return None;
            }
        }
        let mut token = TokenRequirement { scopes: self.scopes.to_vec(), ..TokenRequirement::default() };
        for (n, scope) in self.scopes.iter().enumerate() {
            let good = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
            if scope.is_empty() || !scope.bytes().all(good) {
                errors.add(
                    &path.field("scopes").index(n),
                    "is not a scope (RFC 6749 section 3.3); expected one word of printable ASCII",
                );
            }
        }
        if let Some(name) = &self.provider {
            if let Some(position) = providers.iter().position(|known| known == name) {
                token.providers.push(position);
            } else {
                errors.add(
                    &path.field("provider"),
                    format!("there is no provider of this name; {}", not_one_of(name, providers)),
                );
            }
        }
        for (claim, test) in &self.claims.0 {
            let path = path.field("claims").field(claim);
            let found = errors.check(&path, ClaimPath::parse(claim));
            let test = ValueTest::compile(test, &path, errors);
            let space_delimited = claim == "scope" || self.space_delimited_claims.contains(claim);
            token.claims.extend(found.zip(test).map(|(path, test)| ClaimTest {
                path,
                space_delimited,
                test,
            }));
        }
        Some(Requirement::Token(token))
    }
}

/// Adds an error for an `allOf` at or below `path` that no single token can meet, since each token is of one
/// issuer. To be called where only one token of a request counts.
pub(super) fn check_one_token_can_meet(
    requirement: &Requirement,
    providers: &[Provider],
    path: &JsonPath,
    errors: &mut ErrorList,
) {
    let (all, field) = match requirement {
        Requirement::Token(_) => return,
        Requirement::AllOf(all) => (all, "allOf"),
        Requirement::AnyOf(any) => (any, "anyOf"),
    };
    let path = path.field(field);
    for (n, part) in all.iter().enumerate() {
        check_one_token_can_meet(part, providers, &path.index(n), errors);
    }
    let of: Vec<&Provider> = needed(requirement).into_iter().filter_map(|n| providers.get(n)).collect();
    let strangers = of.iter().enumerate().find_map(|(n, provider)| {
        let other = of.iter().skip(n).find(|other| !provider.issuer.may_share(&other.issuer))?;
        Some((provider, other))
    });
    if let (Requirement::AllOf(_), Some((a, b))) = (requirement, strangers) {
        errors.add(
            &path,
            format_args!(
                "cannot be met: the issuers of the providers `{}` and `{}` differ, and only one token counts; expected \
                 `severalTokens: verifyAll`, or `anyOf`",
                shown_name(&a.name),
                shown_name(&b.name)
            ),
        );
    }
}

/// The providers each of which must have confirmed a token, in whichever way the requirement is met.
fn needed(requirement: &Requirement) -> Vec<usize> {
    match requirement {
        Requirement::Token(token) => token.providers.clone(),
        Requirement::AllOf(all) => all.iter().flat_map(needed).collect(),
        Requirement::AnyOf(any) => {
            let mut ways = any.iter().map(needed);
            let first = ways.next().unwrap_or_default();
            ways.fold(first, |both, way| both.into_iter().filter(|n| way.contains(n)).collect())
        }
    }
}
