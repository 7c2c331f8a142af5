//! The deny codes, one table: to add a code, add a row here and to the table in `docs/jwt-auth.md`.

/// How a denial looks from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DenyPresentation {
    /// The stable code: in the body, the metrics, filter state and `RESPONSE_CODE_DETAILS`.
    pub code: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// The gRPC status.
    pub grpc_status: u8,
    /// The `error` of RFC 6750 section 3.1.
    pub error: Option<&'static str>,
    /// What the client is told, the same for every occurrence.
    pub title: &'static str,
}

/// An HTTP status and the gRPC status that goes with it.
type Status = (u16, u8);

const BAD_REQUEST: Status = (400, 3);
const UNAUTHENTICATED: Status = (401, 16);
/// The status of a request that the client may not make.
pub(super) const FORBIDDEN: Status = (403, 7);
const UNAVAILABLE: Status = (503, 14);

/// The errors of RFC 6750 section 3.1.
const INVALID_REQUEST: Option<&str> = Some("invalid_request");
const INVALID_TOKEN: Option<&str> = Some("invalid_token");
const INSUFFICIENT_SCOPE: Option<&str> = Some("insufficient_scope");

macro_rules! deny_codes {
    ($($name:ident: $code:literal, $status:expr, $error:expr, $title:literal;)*) => {
        /// A deny code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the title of each says what it means")]
        pub enum DenyCode { $($name),* }

        impl DenyCode {
            /// Every deny code, for what must be known before one occurs: metrics and documents.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// How a denial with this code looks from outside.
            pub fn presentation(self) -> DenyPresentation {
                let (code, (status, grpc_status), error, title): (_, Status, _, _) = match self {
                    $(Self::$name => ($code, $status, $error, $title),)*
                };
                DenyPresentation { code, status, grpc_status, error, title }
            }
        }
    };
}

deny_codes! {
    TokenMissing: "token_missing", UNAUTHENTICATED, None, "A token is required";
    SeveralTokens: "several_tokens", BAD_REQUEST, INVALID_REQUEST, "More than one token";
    TokenMalformed: "token_malformed", UNAUTHENTICATED, INVALID_TOKEN, "The token is malformed";
    IssuerUnknown: "issuer_unknown", UNAUTHENTICATED, INVALID_TOKEN, "The token's issuer is not accepted";
    AlgorithmNotAllowed: "algorithm_not_allowed", UNAUTHENTICATED, INVALID_TOKEN,
        "The token's algorithm is not accepted";
    KeyUnknown: "key_unknown", UNAUTHENTICATED, INVALID_TOKEN, "The token's key is unknown";
    SignatureInvalid: "signature_invalid", UNAUTHENTICATED, INVALID_TOKEN, "The token's signature is invalid";
    ClaimsInvalid: "claims_invalid", UNAUTHENTICATED, INVALID_TOKEN, "The token's claims are not accepted";
    AudienceMismatch: "audience_mismatch", UNAUTHENTICATED, INVALID_TOKEN, "The token is for another audience";
    TokenExpired: "token_expired", UNAUTHENTICATED, INVALID_TOKEN, "The token has expired";
    TokenNotYetValid: "token_not_yet_valid", UNAUTHENTICATED, INVALID_TOKEN, "The token is not yet valid";
    TokenRevoked: "token_revoked", UNAUTHENTICATED, INVALID_TOKEN, "The token has been revoked";
    RevocationUnavailable: "revocation_unavailable", UNAVAILABLE, None,
        "The list of revoked tokens is not available";
    TokenInactive: "token_inactive", UNAUTHENTICATED, INVALID_TOKEN, "The token is not active";
    IntrospectionUnavailable: "introspection_unavailable", UNAVAILABLE, None,
        "The issuer does not say whether the token is active";
    ProviderForbidden: "provider_forbidden", FORBIDDEN, None, "The token's issuer is not the one for this";
    ClaimsForbidden: "claims_forbidden", FORBIDDEN, None, "The token does not permit this";
    InsufficientScope: "insufficient_scope", FORBIDDEN, INSUFFICIENT_SCOPE, "The token lacks a scope";
    ConditionForbidden: "condition_forbidden", FORBIDDEN, None, "The condition for this does not hold";
    Forbidden: "forbidden", FORBIDDEN, None, "Nobody may do this";
    PathAmbiguous: "path_ambiguous", BAD_REQUEST, None, "The path can be read in more than one way";
    AuthorityInvalid: "authority_invalid", BAD_REQUEST, None, "The authority is not a host";
    KeysUnavailable: "keys_unavailable", UNAVAILABLE, None, "The issuer's keys are not available";
    TooManyWaiting: "too_many_waiting", UNAVAILABLE, None, "Too many requests wait for the issuer's keys";
    Overloaded: "overloaded", UNAVAILABLE, None, "Too many tokens to verify";
    Internal: "internal", UNAVAILABLE, None, "The request could not be checked";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deny_codes_are_the_rows_of_the_documents_table() {
        let document = include_str!("../../../../docs/jwt-auth.md");
        let (_, replies) = document.split_once("\n## Replies\n").unwrap();
        let replies = replies.split("\n## ").next().unwrap();
        let rows = replies.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        let documented: Vec<(&str, &str)> = rows.collect();
        let mut missing = Vec::new();
        for code in DenyCode::ALL {
            let DenyPresentation { code, status, grpc_status, .. } = code.presentation();
            let columns = format!(" | {status} | {grpc_status} |");
            if !documented.iter().any(|(name, row)| *name == code && row.starts_with(&columns)) {
                missing.push(format!("`{code}`{columns}"));
            }
        }
        assert!(missing.is_empty(), "not in the table of docs/jwt-auth.md: {missing:?}");
        let unknown = documented
            .iter()
            .filter(|(name, _)| !DenyCode::ALL.iter().any(|code| code.presentation().code == *name));
        assert_eq!(unknown.count(), 0, "{documented:?}");
    }
}
