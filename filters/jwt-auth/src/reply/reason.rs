//! Why a request is refused.

use crate::reply::deny_code::{DenyCode, DenyPresentation};
use crate::token::claims::ClaimError;
use crate::token::compact::TokenError;

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenyReason {
    /// There is no token where one is required.
    TokenMissing,
    /// There is more than one token, or the header that carries it is there twice.
    SeveralTokens,
    /// The token is malformed.
    Malformed(TokenError),
    /// No provider has this issuer, or none that looks where the token is.
    UnknownIssuer,
    /// The provider does not take this algorithm.
    AlgorithmNotAllowed,
    /// The issuer has no such key.
    UnknownKey,
    /// The signature is not by the issuer's key.
    BadSignature,
    /// The claims are not what the provider requires.
    BadClaims(ClaimError),
    /// The token, its subject or its key is on the list of revoked ones.
    Revoked,
    /// The list of revoked tokens is not available.
    RevocationUnavailable,
    /// The issuer says that the token is not active.
    Inactive,
    /// The issuer does not say whether the token is active.
    IntrospectionUnavailable,
    /// The issuer is asked about as many tokens as it may be.
    TooManyIntrospections,
    /// The token is good, but another provider than the one that the rule names has confirmed it.
    ProviderForbidden,
    /// The token is good, but its claims are not those that the rule requires.
    ClaimsForbidden,
    /// The token is good, but lacks a scope.
    InsufficientScope,
    /// The rule's condition does not hold, or has no value.
    ConditionForbidden,
    /// The rule lets nobody in.
    Nobody,
    /// Servers read the path differently, or cannot read it.
    AmbiguousPath,
    /// The authority is not a host with or without a port, and a rule asks for the host.
    InvalidAuthority,
    /// The issuer's keys are not available.
    KeysUnavailable,
    /// Too many requests wait for keys or lists already.
    TooManyWaiting,
    /// The worker has checked as many signatures in this second as it may.
    Overloaded,
    /// The proxy did not answer.
    Internal,
}

impl DenyReason {
    /// The deny code of the reason.
    pub fn code(self) -> DenyCode {
        match self {
            Self::TokenMissing => DenyCode::TokenMissing,
            Self::SeveralTokens => DenyCode::SeveralTokens,
            Self::Malformed(_) => DenyCode::TokenMalformed,
            Self::UnknownIssuer => DenyCode::IssuerUnknown,
            Self::AlgorithmNotAllowed => DenyCode::AlgorithmNotAllowed,
            Self::UnknownKey => DenyCode::KeyUnknown,
            Self::BadSignature => DenyCode::SignatureInvalid,
            Self::BadClaims(ClaimError::Expired) => DenyCode::TokenExpired,
            Self::BadClaims(ClaimError::NotYetValid) => DenyCode::TokenNotYetValid,
            Self::BadClaims(ClaimError::Audience) => DenyCode::AudienceMismatch,
            Self::BadClaims(
                ClaimError::Type(_)
                | ClaimError::Missing
                | ClaimError::Subject
                | ClaimError::AuthorizedParty
                | ClaimError::TokenType
                | ClaimError::Signer
                | ClaimError::Lifetime,
            ) => DenyCode::ClaimsInvalid,
            Self::Revoked => DenyCode::TokenRevoked,
            Self::RevocationUnavailable => DenyCode::RevocationUnavailable,
            Self::Inactive => DenyCode::TokenInactive,
            Self::IntrospectionUnavailable => DenyCode::IntrospectionUnavailable,
            Self::ProviderForbidden => DenyCode::ProviderForbidden,
            Self::ClaimsForbidden => DenyCode::ClaimsForbidden,
            Self::InsufficientScope => DenyCode::InsufficientScope,
            Self::ConditionForbidden => DenyCode::ConditionForbidden,
            Self::Nobody => DenyCode::Forbidden,
            Self::AmbiguousPath => DenyCode::PathAmbiguous,
            Self::InvalidAuthority => DenyCode::AuthorityInvalid,
            Self::KeysUnavailable => DenyCode::KeysUnavailable,
            Self::TooManyWaiting => DenyCode::TooManyWaiting,
            Self::Overloaded | Self::TooManyIntrospections => DenyCode::Overloaded,
            Self::Internal => DenyCode::Internal,
        }
    }

    /// How the reason looks from outside.
    pub fn presentation(self) -> DenyPresentation {
        self.code().presentation()
    }

    /// Whether the token could not be judged, so that the reason says nothing about it.
    pub fn is_undecided(self) -> bool {
        self.presentation().status == 503
    }

    /// Whether the request was refused for want of something that is fetched, and may be there later.
    pub fn waits(self) -> bool {
        matches!(
            self,
            Self::KeysUnavailable
                | Self::RevocationUnavailable
                | Self::IntrospectionUnavailable
                | Self::TooManyWaiting
        )
    }

    /// The specific cause, for the log. It holds no part of the token.
    pub fn cause(self) -> String {
        match self {
            Self::Malformed(error) => format!("{}: {error}", self.presentation().code),
            Self::BadClaims(error) => format!("{}: {error}", self.presentation().code),
            _ => self.presentation().code.to_owned(),
        }
    }
}
