//! The detail of a refusal, for access logs and spans: the rule, the check that failed, and what it expected.
//!
//! It is made after the decision, from the request as it came, so a request that goes on pays nothing for it. Of a token
//! it shows the issuer, the audiences, the type, the key ID and the algorithm, and the names of claims. Everything that
//! no signature vouches for is marked as unverified.

use plugin_kit::config::Mode;
use plugin_kit::reply::detail::Detail;
use plugin_kit::request::exchange::Exchange;
use plugin_kit::request::headers::HeaderMap;
use serde_json::Value;

use super::tokens::{self, FoundToken};
use super::{Authenticator, Denial};
use crate::policy::provider::Provider;
use crate::policy::rules::{Access, Requirement};
use crate::reply::DenyReason;
use crate::token::claims::{self, ClaimError, ClaimPath};
use crate::token::compact::{TokenError, UntrustedToken, is_opaque};
use crate::token::location::TokenLocation;
use crate::token::verified::Verified;

/// The token that a request was refused for, and its issuer, if the configuration knows that.
struct Culprit<'a> {
    token: UntrustedToken<'a>,
    issuer: Option<(usize, &'a Provider)>,
}

impl Authenticator {
    /// The name of the rule at this position, or of what holds if no rule matches.
    pub fn rule_name(&self, rule: Option<usize>) -> &str {
        rule.and_then(|rule| self.config.rules.get(rule)).map_or("default", |rule| rule.name.as_str())
    }

    /// The detail of a refusal.
    #[inline(never)]
    pub fn detail(&self, denial: &Denial<'_>, exchange: &Exchange<'_>) -> String {
        let mut detail = Detail::default();
        if self.config.mode == Mode::Report {
            detail.add("mode", "report");
        }
        detail.add("rule", self.rule_name(denial.rule));
        if let Some(verified) = denial.verified() {
            self.tell_of_rule(denial, verified, &mut detail);
        } else {
            let head = exchange.headers().ok();
            self.tell_of_request(denial, head.as_deref(), exchange, &mut detail);
        }
        detail.into_text()
    }

    /// What a rule expected of a token that is good.
    #[inline(never)]
    fn tell_of_rule(&self, denial: &Denial<'_>, verified: &Verified, detail: &mut Detail) {
        let requirement = denial.rule.and_then(|rule| match &self.config.rules.get(rule)?.access {
            Access::Require(requirement) => Some(requirement),
            Access::Anyone(_) | Access::Nobody => None,
        });
        match denial.reason {
            DenyReason::ClaimsForbidden => {
                detail.add("check", "claims");
                let failing = requirement.into_iter().flat_map(|demand| demand.failing(verified));
                let mut names: Vec<String> = failing.map(|test| test.path.text()).collect();
                names.dedup();
                detail.list("claim", names.iter().map(String::as_str));
            }
            DenyReason::InsufficientScope => {
                detail.add("check", "scope");
                detail.list("expected", denial.scopes.iter().map(String::as_str));
            }
            DenyReason::ProviderForbidden => {
                detail.add("check", "provider");
                let named = requirement.into_iter().flat_map(Requirement::providers);
                detail.list("expected", named.map(|provider| self.name_of(provider)));
            }
            DenyReason::ConditionForbidden => detail.add("check", "when"),
            reason => detail.add("check", check(reason)),
        }
        detail.add("provider", self.name_of(verified.provider));
    }

    /// What was wrong with a request without a good token.
    #[inline(never)]
    fn tell_of_request(
        &self,
        &Denial { reason, rule, .. }: &Denial<'_>,
        head: Option<&HeaderMap>,
        exchange: &Exchange<'_>,
        detail: &mut Detail,
    ) {
        let found = head.map(|head| tokens::find(&self.config, head, &[rule]));
        let found = found.and_then(Result::ok).unwrap_or_default();
        detail.add("check", check(reason));
        match reason {
            DenyReason::TokenMissing if found.is_empty() => {
                let places = self.config.places.iter();
                let places = places.filter(|place| !place.providers_for(&[rule]).is_empty());
                let places: Vec<String> = places.map(|place| named(&place.location)).collect();
                detail.list("expected", places.iter().map(String::as_str));
            }
            DenyReason::Malformed(error) => tell_of_form(error, detail),
            _ => {}
        }
        if !is_about_token(reason) {
            return;
        }
        if let Some(provider) = self.asked_about(&found) {
            detail.add("provider", &provider.name);
            return tell_of_answer(reason, provider, detail);
        }
        let now = exchange.recent_unix_time().map(|now| now.as_secs()).ok();
        let Some(Culprit { token, issuer }) = self.culprit(reason, &found, now) else { return };
        if let Some((_, provider)) = issuer {
            detail.add("provider", &provider.name);
        }
        self.tell_of_token(reason, &token, issuer, now, detail);
    }

    /// The provider that was asked about the first opaque token.
    fn asked_about(&self, found: &[FoundToken<'_>]) -> Option<&Provider> {
        let opaque = found
            .iter()
            .find(|found| is_opaque(&found.token) && UntrustedToken::parse(&found.token).is_err())?;
        let mut looking = opaque.providers.iter().filter_map(|n| self.config.providers.get(*n));
        looking.find(|provider| provider.keys.introspection().is_some())
    }

    /// The token that was refused for this reason: the first that some issuer would refuse for it.
    #[inline(never)]
    fn culprit<'a>(
        &'a self,
        reason: DenyReason,
        found: &'a [FoundToken<'_>],
        now: Option<u64>,
    ) -> Option<Culprit<'a>> {
        let mut first = None;
        for FoundToken { token, .. } in found {
            let Ok(token) = UntrustedToken::parse(token) else { continue };
            let issuers = || {
                let all = self.config.providers.iter().enumerate();
                all.filter(|(_, provider)| provider.is_issuer_of(&token.claims))
            };
            let issuer = issuers().find(|(_, provider)| is_refused_by(reason, &token, provider, now));
            if issuer.is_some() || (reason == DenyReason::UnknownIssuer && issuers().next().is_none()) {
                return Some(Culprit { token, issuer });
            }
            let issuer = issuers().next();
            first.get_or_insert(Culprit { token, issuer });
        }
        first
    }

    #[inline(never)]
    fn tell_of_token(
        &self,
        reason: DenyReason,
        token: &UntrustedToken<'_>,
        issuer: Option<(usize, &Provider)>,
        now: Option<u64>,
        detail: &mut Detail,
    ) {
        let iss = token.claims.get("iss").and_then(Value::as_str);
        match (reason, issuer) {
            (DenyReason::UnknownIssuer, None) => {
                let known: Vec<String> = self.config.providers.iter().map(|p| p.issuer.to_string()).collect();
                detail.list("expected", known.iter().map(String::as_str));
                return detail.unverified("received", iss);
            }
            (DenyReason::UnknownIssuer, Some(_)) => {
                detail.add("expected", "the token at another place");
            }
            (DenyReason::AlgorithmNotAllowed, Some((_, provider))) => {
                detail.list("expected", provider.algorithms.iter().map(|algorithm| algorithm.name()));
                detail.unverified("received", Some(token.algorithm.name()));
                detail.unverified("key_id", token.kid.as_deref());
            }
            (DenyReason::UnknownKey, Some((position, provider))) => {
                let set = self.verification.documents.key_set(position, provider);
                let known = set.iter().flat_map(|set| &set.keys).filter_map(|key| key.kid.as_deref());
                detail.list("expected", known);
                detail.unverified("received", token.kid.as_deref());
            }
            (DenyReason::BadSignature | DenyReason::Revoked, _) => {
                detail.unverified("key_id", token.kid.as_deref());
            }
            (DenyReason::BadClaims(error), Some((_, provider))) => {
                tell_of_claims(error, token, provider, now, detail);
            }
            _ => {}
        }
        detail.unverified("issuer", iss);
    }

    fn name_of(&self, provider: usize) -> &str {
        self.config.providers.get(provider).map_or("", |provider| provider.name.as_str())
    }
}

/// Whether the reason is a token that came, or what its issuer should have provided.
fn is_about_token(reason: DenyReason) -> bool {
    match reason {
        DenyReason::UnknownIssuer
        | DenyReason::AlgorithmNotAllowed
        | DenyReason::UnknownKey
        | DenyReason::BadSignature
        | DenyReason::BadClaims(_)
        | DenyReason::Revoked
        | DenyReason::RevocationUnavailable
        | DenyReason::Inactive
        | DenyReason::IntrospectionUnavailable
        | DenyReason::TooManyIntrospections
        | DenyReason::KeysUnavailable => true,
        DenyReason::TokenMissing
        | DenyReason::SeveralTokens
        | DenyReason::Malformed(_)
        | DenyReason::ProviderForbidden
        | DenyReason::ClaimsForbidden
        | DenyReason::InsufficientScope
        | DenyReason::ConditionForbidden
        | DenyReason::Nobody
        | DenyReason::AmbiguousPath
        | DenyReason::InvalidAuthority
        | DenyReason::TooManyWaiting
        | DenyReason::Overloaded
        | DenyReason::Internal => false,
    }
}

/// Whether this issuer may have refused the token for this reason.
fn is_refused_by(
    reason: DenyReason,
    token: &UntrustedToken<'_>,
    issuer: &Provider,
    now: Option<u64>,
) -> bool {
    match reason {
        DenyReason::BadClaims(error) => match issuer.policy.check(token) {
            Err(found) => found == error,
            Ok(validity) => now.is_some_and(|now| validity.check(now) == Err(error)),
        },
        _ => true,
    }
}

/// The check that a request fails for this reason.
fn check(reason: DenyReason) -> &'static str {
    match reason {
        DenyReason::TokenMissing => "token",
        DenyReason::SeveralTokens => "one token",
        DenyReason::Malformed(_) => "form",
        DenyReason::UnknownIssuer => "issuer",
        DenyReason::AlgorithmNotAllowed => "algorithm",
        DenyReason::UnknownKey => "key ID",
        DenyReason::BadSignature => "signature",
        DenyReason::BadClaims(error) => match error {
            ClaimError::Type(_) => "type of claim",
            ClaimError::Missing => "required claims",
            ClaimError::Audience => "audience",
            ClaimError::Subject => "subject",
            ClaimError::AuthorizedParty => "authorized party",
            ClaimError::TokenType => "type",
            ClaimError::Signer => "signer",
            ClaimError::Lifetime => "lifetime",
            ClaimError::Expired => "expiration",
            ClaimError::NotYetValid => "start of validity",
        },
        DenyReason::Revoked => "revocation",
        DenyReason::RevocationUnavailable => "list of revoked tokens",
        DenyReason::Inactive | DenyReason::IntrospectionUnavailable | DenyReason::TooManyIntrospections => {
            "introspection"
        }
        DenyReason::ProviderForbidden => "provider",
        DenyReason::ClaimsForbidden => "claims",
        DenyReason::InsufficientScope => "scope",
        DenyReason::ConditionForbidden => "when",
        DenyReason::Nobody => "allow: nobody",
        DenyReason::AmbiguousPath => "path",
        DenyReason::InvalidAuthority => "authority",
        DenyReason::KeysUnavailable => "keys",
        DenyReason::TooManyWaiting => "maxWaitingRequests",
        DenyReason::Overloaded => "slowVerificationsPerSecond",
        DenyReason::Internal => "host call",
    }
}

fn tell_of_form(error: TokenError, detail: &mut Detail) {
    detail.add("found", &error.to_string());
}

/// What an issuer must say of a token. What it has said of this one is not known any more.
fn tell_of_answer(reason: DenyReason, Provider { policy, issuer, .. }: &Provider, detail: &mut Detail) {
    match reason {
        DenyReason::UnknownIssuer => detail.add("expected", &issuer.to_string()),
        DenyReason::BadClaims(ClaimError::Audience) => {
            detail.list("expected", policy.audiences.iter().map(String::as_str));
        }
        DenyReason::BadClaims(ClaimError::Type(name)) => detail.add("claim", name),
        _ => {}
    }
}

/// What an issuer's tokens must say, and what this one says.
#[inline(never)]
fn tell_of_claims(
    error: ClaimError,
    token: &UntrustedToken<'_>,
    Provider { policy, .. }: &Provider,
    now: Option<u64>,
    detail: &mut Detail,
) {
    let claims = &token.claims;
    // As a whole number: the code that prints fractions is 15 KB. These claims are dates, or else their type is what is wrong.
    let seconds = |name: &str| Some(claims::whole_seconds(claims.get(name)?)?.to_string());
    let mut time = |name: &str| {
        if let Some(now) = now {
            detail.add("now", &now.to_string());
        }
        detail.unverified(name, seconds(name).as_deref());
    };
    match error {
        ClaimError::Type(name) => detail.add("claim", name),
        ClaimError::Missing => {
            let mut missing: Vec<String> = policy.missing(claims).map(ClaimPath::text).collect();
            if policy.require_expiration && !claims.contains_key("exp") {
                missing.push("exp".to_owned());
            }
            detail.list("claim", missing.iter().map(String::as_str));
        }
        ClaimError::Audience => {
            detail.list("expected", policy.audiences.iter().map(String::as_str));
            let received: Vec<&str> = claims::audiences(claims).collect();
            let received = (!received.is_empty()).then(|| received.join(","));
            detail.unverified("received", received.as_deref());
        }
        ClaimError::TokenType => {
            let untyped = policy.untyped.then_some("(none)");
            detail.list("expected", policy.types.iter().map(String::as_str).chain(untyped));
            detail.unverified("received", token.typ.as_deref());
        }
        ClaimError::Signer => {
            detail.list("expected", policy.signers.iter().map(String::as_str));
            detail.unverified("received", token.signer.as_deref());
        }
        // Who it is about is not shown: nobody has verified it, and it may be personal.
        ClaimError::Subject => detail.add("claim", "sub"),
        ClaimError::AuthorizedParty => {
            detail.add("claim", if claims.contains_key("azp") { "azp" } else { "client_id" });
        }
        ClaimError::Lifetime => {
            let longest = policy.max_lifetime.map(|seconds| format!("{seconds} s from iat to exp"));
            detail.add("expected", &longest.unwrap_or_default());
            detail.unverified("iat", seconds("iat").as_deref());
            detail.unverified("exp", seconds("exp").as_deref());
        }
        ClaimError::Expired => time("exp"),
        ClaimError::NotYetValid => time(if claims.contains_key("nbf") { "nbf" } else { "iat" }),
    }
}

/// A place where tokens are looked for.
fn named(place: &TokenLocation) -> String {
    match place {
        TokenLocation::Header { name, prefix } => format!("header {name}: {prefix}..."),
        TokenLocation::QueryParam(name) => format!("query parameter {name}"),
        TokenLocation::Cookie(name) => format!("cookie {name}"),
    }
}
