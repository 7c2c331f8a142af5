//! Why a request is refused, and what the client then sees.

use std::time::Duration;

use plugin_kit::reply::denial::{Body, Extras, printable_id};
use plugin_kit::reply::{Problem, Reply};

use crate::token::claims::ClaimError;
use crate::token::compact::TokenError;

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenyReason {
    /// No token where one is required.
    TokenMissing,
    /// More than one token, or the header that carries it twice.
    SeveralTokens,
    /// The token is none.
    Malformed(TokenError),
    /// No provider has this issuer, or none that looks where the token is.
    UnknownIssuer,
    /// The provider does not take this algorithm.
    AlgorithmNotAllowed,
    /// The issuer has no such key.
    UnknownKey,
    /// The signature is not by the issuer's key.
    BadSignature,
    /// The claims are not what the provider demands.
    BadClaims(ClaimError),
    /// The token, its subject or its key is on the list of revoked ones.
    Revoked,
    /// The list of revoked tokens could not be had.
    RevocationUnavailable,
    /// The token is good, but of another provider than the rule wants.
    ProviderForbidden,
    /// The token is good, but the rule wants other claims.
    ClaimsForbidden,
    /// The token is good, but lacks a scope.
    InsufficientScope,
    /// The rule's condition does not hold, or has no value.
    ConditionForbidden,
    /// The rule lets nobody in.
    Nobody,
    /// The path can be read in more than one way, or in none.
    AmbiguousPath,
    /// The authority is no host with or without a port, and a rule asks for the host.
    InvalidAuthority,
    /// The issuer's keys could not be had.
    KeysUnavailable,
    /// Too many requests wait for keys already.
    TooManyWaiting,
    /// The worker checks as many signatures as it may.
    Overloaded,
    /// The proxy did not answer.
    Internal,
}

/// How a reason looks from outside.
pub struct Outside {
    /// Stable code: in the body, the metrics, filter state and `RESPONSE_CODE_DETAILS`.
    pub code: &'static str,
    /// HTTP status.
    pub status: u16,
    /// gRPC status.
    pub grpc_status: u8,
    /// `error` of RFC 6750 section 3.1.
    pub error: Option<&'static str>,
    /// What the client is told, the same for every occurrence.
    pub title: &'static str,
}

const UNAUTHENTICATED: u8 = 16;
const PERMISSION_DENIED: u8 = 7;
const UNAVAILABLE: u8 = 14;
const INVALID_ARGUMENT: u8 = 3;

impl DenyReason {
    /// One of each code, for what must be known before it happens: metrics and documentation.
    pub const EACH: &[Self] = &[
        Self::TokenMissing,
        Self::SeveralTokens,
        Self::Malformed(TokenError::NotCompact),
        Self::UnknownIssuer,
        Self::AlgorithmNotAllowed,
        Self::UnknownKey,
        Self::BadSignature,
        Self::BadClaims(ClaimError::Missing),
        Self::BadClaims(ClaimError::Audience),
        Self::BadClaims(ClaimError::Expired),
        Self::BadClaims(ClaimError::NotYetValid),
        Self::Revoked,
        Self::RevocationUnavailable,
        Self::ProviderForbidden,
        Self::ClaimsForbidden,
        Self::InsufficientScope,
        Self::ConditionForbidden,
        Self::Nobody,
        Self::AmbiguousPath,
        Self::InvalidAuthority,
        Self::KeysUnavailable,
        Self::TooManyWaiting,
        Self::Overloaded,
        Self::Internal,
    ];

    /// How the reason looks from outside.
    pub fn outside(self) -> Outside {
        let invalid = |code, title| Outside {
            code,
            status: 401,
            grpc_status: UNAUTHENTICATED,
            error: Some("invalid_token"),
            title,
        };
        let forbidden =
            |code, error, title| Outside { code, status: 403, grpc_status: PERMISSION_DENIED, error, title };
        let unavailable =
            |code, title| Outside { code, status: 503, grpc_status: UNAVAILABLE, error: None, title };
        let bad_request =
            |code, error, title| Outside { code, status: 400, grpc_status: INVALID_ARGUMENT, error, title };
        match self {
            Self::TokenMissing => Outside { error: None, ..invalid("token_missing", "A token is required") },
            Self::SeveralTokens => {
                bad_request("several_tokens", Some("invalid_request"), "More than one token")
            }
            Self::Malformed(_) => invalid("token_malformed", "The token is malformed"),
            Self::UnknownIssuer => invalid("issuer_unknown", "The token's issuer is not accepted"),
            Self::AlgorithmNotAllowed => {
                invalid("algorithm_not_allowed", "The token's algorithm is not accepted")
            }
            Self::UnknownKey => invalid("key_unknown", "The token's key is unknown"),
            Self::BadSignature => invalid("signature_invalid", "The token's signature is invalid"),
            Self::BadClaims(error) => match error {
                ClaimError::Expired => invalid("token_expired", "The token has expired"),
                ClaimError::NotYetValid => invalid("token_not_yet_valid", "The token is not yet valid"),
                ClaimError::Audience => invalid("audience_mismatch", "The token is for another audience"),
                ClaimError::Type(_)
                | ClaimError::Missing
                | ClaimError::Subject
                | ClaimError::AuthorizedParty
                | ClaimError::TokenType
                | ClaimError::Lifetime => invalid("claims_invalid", "The token's claims are not accepted"),
            },
            Self::RevocationUnavailable => {
                unavailable("revocation_unavailable", "The list of revoked tokens is not available")
            }
            Self::Revoked => invalid("token_revoked", "The token has been revoked"),
            Self::ProviderForbidden => {
                forbidden("provider_forbidden", None, "The token's issuer is not the one for this")
            }
            Self::ClaimsForbidden => forbidden("claims_forbidden", None, "The token does not permit this"),
            Self::InsufficientScope => {
                forbidden("insufficient_scope", Some("insufficient_scope"), "The token lacks a scope")
            }
            Self::ConditionForbidden => {
                forbidden("condition_forbidden", None, "The condition for this does not hold")
            }
            Self::Nobody => forbidden("forbidden", None, "Nobody may do this"),
            Self::AmbiguousPath => {
                bad_request("path_ambiguous", None, "The path can be read in more than one way")
            }
            Self::InvalidAuthority => bad_request("authority_invalid", None, "The authority is not a host"),
            Self::KeysUnavailable => unavailable("keys_unavailable", "The issuer's keys are not available"),
            Self::TooManyWaiting => {
                unavailable("too_many_waiting", "Too many requests wait for the issuer's keys")
            }
            Self::Overloaded => unavailable("overloaded", "Too many tokens to verify"),
            Self::Internal => unavailable("internal", "The request could not be checked"),
        }
    }

    /// Whether it says nothing of the token, which could not be judged.
    pub fn is_undecided(self) -> bool {
        self.outside().status == 503
    }

    /// The specific cause, for the log. It holds nothing of the token.
    pub fn cause(self) -> String {
        match self {
            Self::Malformed(error) => format!("{}: {error}", self.outside().code),
            Self::BadClaims(error) => format!("{}: {error}", self.outside().code),
            _ => self.outside().code.to_owned(),
        }
    }
}

plugin_kit::config_choice! {
    /// The status of the reply to a token for another audience.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum WrongAudience {
        /// The status is 401, as RFC 9068 section 4 says.
        #[default]
        Unauthenticated,
        /// The status is 403, as that of Envoy's own filter.
        Forbidden,
    }
}

/// How denied requests are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DenyResponse {
    /// The body.
    pub body: Body,
    /// Headers that every denial gets, and the pages that may read it.
    pub extras: Extras,
    /// The `realm` of challenges.
    pub realm: String,
    /// The response header that gets the deny code.
    pub code_header: Option<String>,
    /// See [`WrongAudience`].
    pub wrong_audience: WrongAudience,
}

/// What a reply needs to know besides the reason.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    /// What the configuration says about replies.
    pub response: &'a DenyResponse,
    /// The scopes that the rule wants.
    pub scopes: &'a [String],
    /// `x-request-id` as it was sent.
    pub request_id: Option<&'a [u8]>,
    /// `origin` as it was sent: the page that asks, where it is of another origin than the service.
    pub origin: Option<&'a [u8]>,
    /// How long it takes until another try makes sense, where the status is 503.
    pub retry_in: Duration,
    /// Whether the client speaks gRPC, where the body is a message for people.
    pub grpc: bool,
}

/// The reply to a request that is refused.
pub fn reply(reason: DenyReason, context: &Context<'_>) -> Reply {
    const TEXT: &str = "text/plain; charset=utf-8";
    let DenyResponse { body, extras, code_header, wrong_audience, .. } = context.response;
    let Outside { code, mut status, mut grpc_status, error, title } = reason.outside();
    if reason == DenyReason::BadClaims(ClaimError::Audience) && *wrong_audience == WrongAudience::Forbidden {
        (status, grpc_status) = (403, PERMISSION_DENIED);
    }
    let (kind, request_id) = ("about:blank", context.request_id.and_then(printable_id));
    let problem = Problem { kind, title, status, detail: None, code, request_id, violated_policies: &[] };
    let body = if context.grpc { &Body::Text } else { body };
    let (media_type, body) = body.of(&problem, TEXT, &[]).unzip();
    let mut headers = Vec::new();
    let mut add = |name: &str, value: &str| headers.push((name.to_owned(), value.to_owned()));
    if let Some(media_type) = media_type {
        add("content-type", media_type);
    }
    if status == 401 || error.is_some() {
        add("www-authenticate", &challenge(error, context));
    }
    if status == 503 {
        // Rounded up: never too early.
        let seconds = context.retry_in.as_nanos().div_ceil(1_000_000_000).max(1);
        add("retry-after", &seconds.to_string());
    }
    if let Some(name) = code_header {
        add(name, code);
    }
    let (body, details) = (body.unwrap_or_default(), format!("jwt_auth_{code}"));
    let mut reply = Reply { status, grpc_status: Some(grpc_status), headers, body, details };
    extras.add_to(&mut reply, context.origin);
    reply
}

/// `WWW-Authenticate` of RFC 6750 section 3. Realm and scopes come from the configuration, which lets no quote in.
fn challenge(error: Option<&str>, context: &Context<'_>) -> String {
    let mut parameters = vec![format!("Bearer realm=\"{}\"", context.response.realm)];
    if let Some(error) = error {
        parameters.push(format!("error=\"{error}\""));
        if error == "insufficient_scope" && !context.scopes.is_empty() {
            parameters.push(format!("scope=\"{}\"", context.scopes.join(" ")));
        }
    }
    parameters.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_when_the_next_try_makes_sense() {
        let response = DenyResponse {
            body: Body::Problem,
            extras: Extras::default(),
            realm: "service".to_owned(),
            code_header: None,
            wrong_audience: WrongAudience::Unauthenticated,
        };
        let retry_after = |reason, millis| {
            let retry_in = Duration::from_millis(millis);
            let context = Context {
                response: &response,
                scopes: &[],
                request_id: None,
                origin: None,
                retry_in,
                grpc: false,
            };
            let headers = reply(reason, &context).headers;
            headers.into_iter().find(|(name, _)| name == "retry-after").map(|(_, value)| value)
        };
        for (millis, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (29_500, "30")] {
            assert_eq!(
                retry_after(DenyReason::KeysUnavailable, millis).as_deref(),
                Some(seconds),
                "{millis}"
            );
        }
        assert_eq!(retry_after(DenyReason::TokenMissing, 5000), None);
    }
}
