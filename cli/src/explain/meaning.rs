//! The meaning of each deny code, and the fields of the configuration that can cause it. A code without a
//! meaning does not compile.

use jwt_auth::reply::DenyCode;
use rate_limit::reply::DenyReason;

/// The meaning of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meaning {
    /// The code.
    pub(crate) code: &'static str,
    /// The filter that uses the code.
    pub(crate) filter: &'static str,
    /// What happened.
    pub(crate) happened: &'static str,
    /// What the reader can do about it.
    pub(crate) advice: &'static str,
    /// The fields of a provider that can cause it.
    pub(crate) of_provider: &'static [&'static str],
    /// The fields of the rule or the limit that can cause it.
    pub(crate) of_rule: &'static [&'static str],
    /// The fields at the top level that can cause it.
    pub(crate) at_top: &'static [&'static str],
}

const NOTHING: &[&str] = &[];

/// The meaning of a code of jwt-auth.
#[allow(clippy::too_many_lines, reason = "each code has one arm")]
pub(crate) fn of_auth(code: DenyCode) -> Meaning {
    type Row = (
        &'static str,
        &'static str,
        &'static [&'static str],
        &'static [&'static str],
        &'static [&'static str],
    );
    let (happened, advice, of_provider, of_rule, at_top): Row = match code {
        DenyCode::TokenMissing => (
            "The request had no token where the configuration looks for one, and the rule demands a token.",
            "Send `authorization: Bearer TOKEN`, or look whether a plugin or a proxy before this one has removed it.",
            &["from"],
            &["require"],
            NOTHING,
        ),
        DenyCode::SeveralTokens => (
            "The request had more than one token, or the header that carries it holds two.",
            "Send one token. `severalTokens` says what else may happen.",
            &["from"],
            NOTHING,
            &["severalTokens"],
        ),
        DenyCode::TokenMalformed => (
            "What stood in the place of the token is not a signed JWT in compact form, or has `alg: none`, a critical parameter or a key of its own.",
            "`mesh-filters token inspect` shows what the token is.",
            NOTHING,
            NOTHING,
            NOTHING,
        ),
        DenyCode::IssuerUnknown => (
            "No provider has the `iss` of the token, or none that looks where the token was.",
            "Compare `iss` of the token with `issuer`, with its scheme and its last slash.",
            &["issuer", "from"],
            NOTHING,
            NOTHING,
        ),
        DenyCode::AlgorithmNotAllowed => (
            "The provider does not accept the `alg` of the token, or its key is for another algorithm.",
            "Name the algorithm in `algorithms`, or let the issuer use one that is accepted.",
            &["algorithms"],
            NOTHING,
            NOTHING,
        ),
        DenyCode::KeyUnknown => (
            "The issuer was asked and has no key with the `kid` of the token.",
            "The token is of another environment, or its key was removed; a new key is found within `jwksCache.refetchUnknownKid.minInterval`.",
            &["jwksUri", "jwks", "secrets"],
            NOTHING,
            NOTHING,
        ),
        DenyCode::SignatureInvalid => (
            "The signature is by none of the issuer's keys: the token was changed, or another environment has signed it.",
            "Get a new token from the issuer whose keys are configured.",
            &["jwksUri", "jwks", "secrets"],
            NOTHING,
            NOTHING,
        ),
        DenyCode::ClaimsInvalid => (
            "A claim is missing or has a wrong type, or the token does not meet a demand of its provider.",
            "`mesh-filters explain` with the token says which claim.",
            &["requireExpiration", "maxLifetime", "typ", "subjects", "authorizedParties", "requiredClaims"],
            NOTHING,
            NOTHING,
        ),
        DenyCode::AudienceMismatch => (
            "`aud` of the token names none of the provider's audiences.",
            "Ask the issuer for a token for this service, or name the audience in `audiences`.",
            &["audiences"],
            NOTHING,
            NOTHING,
        ),
        DenyCode::TokenExpired => (
            "The time `exp` of the token has passed.",
            "Get a new token; if it is new, compare the clocks of issuer and proxy.",
            &["clockSkew"],
            NOTHING,
            NOTHING,
        ),
        DenyCode::TokenNotYetValid => (
            "`nbf` or `iat` of the token is in the future.",
            "Compare the clocks of issuer and proxy.",
            &["clockSkew"],
            NOTHING,
            NOTHING,
        ),
        DenyCode::TokenRevoked => (
            "The token, its subject or its key is on the list of revoked ones.",
            "The list says which; the user needs a new token.",
            &["revoked"],
            NOTHING,
            NOTHING,
        ),
        DenyCode::RevocationUnavailable => (
            "The list of revoked tokens could not be fetched, and `onFailure: deny` applies.",
            "Look at the cluster of `revoked.uri` and at the filter's log of failed fetches.",
            &["revoked.uri", "revoked.onFailure"],
            NOTHING,
            NOTHING,
        ),
        DenyCode::TokenInactive => (
            "The issuer was asked about the token and says that it is not active: it has expired, was revoked, or was never issued.",
            "Get a new token.",
            &["introspection"],
            NOTHING,
            NOTHING,
        ),
        DenyCode::IntrospectionUnavailable => (
            "The issuer was asked about an opaque token and gave no answer that can be read, or is not asked for a while because of that.",
            "Look at the cluster of `introspection.uri` and at the filter's log. `mesh-filters explain --introspection` takes the answer from a file.",
            &["introspection"],
            NOTHING,
            NOTHING,
        ),
        DenyCode::ProviderForbidden => (
            "The token is good, but of another provider than the rule demands.",
            "Use a token of the provider that the rule names.",
            NOTHING,
            &["require"],
            NOTHING,
        ),
        DenyCode::ClaimsForbidden => (
            "The token is good, but its claims are not those that the rule demands.",
            "Compare the claims of the token with the rule.",
            NOTHING,
            &["require"],
            NOTHING,
        ),
        DenyCode::InsufficientScope => (
            "The token is good, but lacks a scope that the rule demands; `www-authenticate` names the scopes.",
            "Ask the issuer for a token with these scopes.",
            NOTHING,
            &["require"],
            NOTHING,
        ),
        DenyCode::ConditionForbidden => (
            "The `when` of the rule is not true, or has no value: something that it asks for is missing.",
            "`has(…)` tests whether something is there before it is compared.",
            NOTHING,
            &["when"],
            NOTHING,
        ),
        DenyCode::Forbidden => (
            "The rule lets nobody in.",
            "A rule with `allow: nobody` matched; an earlier rule would have to match instead.",
            NOTHING,
            &["allow"],
            NOTHING,
        ),
        DenyCode::PathAmbiguous => (
            "Servers read this path in more than one way, and the rules differ about the readings.",
            "Send the path without encoded slashes, dots and empty segments. `ambiguousPath` says what else may happen.",
            NOTHING,
            NOTHING,
            &["ambiguousPath"],
        ),
        DenyCode::AuthorityInvalid => (
            "A rule tests the host, and the authority of the request is not a host with or without a port.",
            "Send the name of the host.",
            NOTHING,
            &["match.hosts"],
            NOTHING,
        ),
        DenyCode::KeysUnavailable => (
            "The issuer's keys could not be fetched.",
            "Look at the cluster of `jwksUri` and at the filter's log of failed fetches; `retry-after` is the time until the next attempt.",
            &["jwksUri", "cluster"],
            NOTHING,
            NOTHING,
        ),
        DenyCode::TooManyWaiting => (
            "Too many requests wait for the issuer's keys already.",
            "The issuer is slow or does not answer.",
            &["jwksUri"],
            NOTHING,
            &["maxWaitingRequests"],
        ),
        DenyCode::Overloaded => (
            "The worker has checked as many signatures in this second as it may.",
            "The proxy checks RS256 and ES256 itself, without this limit.",
            &["algorithms"],
            NOTHING,
            &["slowVerificationsPerSecond"],
        ),
        DenyCode::Internal => (
            "The proxy did not let the filter read or change the request.",
            "The filter's log says which call failed.",
            NOTHING,
            NOTHING,
            NOTHING,
        ),
    };
    Meaning {
        code: code.presentation().code,
        filter: "jwt-auth",
        happened,
        advice,
        of_provider,
        of_rule,
        at_top,
    }
}

/// The reason after this one, so that [`REASONS`] cannot miss one.
const fn after(reason: Option<DenyReason>) -> Option<DenyReason> {
    match reason {
        None => Some(DenyReason::Limited(None)),
        Some(DenyReason::Limited(_)) => Some(DenyReason::KeyMissing),
        Some(DenyReason::KeyMissing) => Some(DenyReason::CostInvalid),
        Some(DenyReason::CostInvalid) => Some(DenyReason::Conflict),
        Some(DenyReason::Conflict) => Some(DenyReason::Unavailable),
        Some(DenyReason::Unavailable) => Some(DenyReason::ServiceUnavailable),
        Some(DenyReason::ServiceUnavailable) => None,
    }
}

/// The meaning of a reason of rate-limit.
pub(crate) fn of_limit(reason: DenyReason) -> Meaning {
    let (happened, advice, of_rule, at_top): (_, _, &[&str], &[&str]) = match reason {
        DenyReason::Limited(_) => (
            "A limit is used up for the key of this request.",
            "`retry-after` is the time until the next request is admitted; without it, the request costs more than the limit ever admits.",
            &["rate", "plans", "key", "cost", "costFrom"],
            NOTHING,
        ),
        DenyReason::KeyMissing => (
            "A part of the limit's key is missing, and `onMissingKey: deny` applies.",
            "The claim is not published (`publishClaims`), the header is not sent, or the limit runs before the token is verified.",
            &["key", "onMissingKey"],
            NOTHING,
        ),
        DenyReason::CostInvalid => (
            "The cost of the request is not a number, and `onInvalidCost: deny` applies.",
            "Whoever sets the source of the cost has to write a number.",
            &["costFrom", "onInvalidCost"],
            NOTHING,
        ),
        DenyReason::Conflict => (
            "The request could not be counted, since other workers were faster in every attempt, and `onConflict: deny` applies.",
            "Very many requests share one key.",
            &["key"],
            &["onConflict"],
        ),
        DenyReason::Unavailable => (
            "The proxy did not answer the filter, so that the request could not be counted.",
            "The filter's log says which call failed.",
            NOTHING,
            NOTHING,
        ),
        DenyReason::ServiceUnavailable => (
            "The rate limit service gave no usable answer in time, and `onFailure: deny` applies.",
            "Look at the cluster of the service.",
            &["global"],
            &["global"],
        ),
    };
    Meaning {
        code: reason.code(),
        filter: "rate-limit",
        happened,
        advice,
        of_provider: NOTHING,
        of_rule,
        at_top,
    }
}

/// The codes with which a proxy answers for a filter that does not run.
const NOT_RUNNING: [Meaning; 2] = [
    Meaning {
        code: "not_configured",
        filter: "the proxy",
        happened: "A filter has no configuration that it accepts, so that every request is denied.",
        advice: "`mesh-filters check` says what is wrong with it; the log of the proxy has `configuration refused`.",
        of_provider: NOTHING,
        of_rule: NOTHING,
        at_top: NOTHING,
    },
    Meaning {
        code: "wasm_fail_stream",
        filter: "the proxy",
        happened: "A module did not load or has crashed, and its plugin fails closed.",
        advice: "The log of the proxy says why; with `failStrategy: FAIL_RELOAD` it is loaded again.",
        of_provider: NOTHING,
        of_rule: NOTHING,
        at_top: NOTHING,
    },
];

/// All meanings.
pub(crate) fn all() -> Vec<Meaning> {
    let limits = std::iter::successors(after(None), |reason| after(Some(*reason)));
    let auth = DenyCode::ALL.iter().map(|code| of_auth(*code));
    auth.chain(limits.map(of_limit)).chain(NOT_RUNNING).collect()
}

/// The meaning of a code, in the form that a reply, an access log or response code details have.
pub(crate) fn of(code: &str) -> Option<Meaning> {
    let code = code.trim();
    let own = code.strip_prefix("jwt_auth_").unwrap_or(code);
    let is_it = |meaning: &Meaning| {
        meaning.code == own || (meaning.filter == "the proxy" && code.ends_with(meaning.code))
    };
    all().into_iter().find(is_it)
}

/// The deny code whose replies have this title.
pub(crate) fn of_title(text: &str) -> Option<&'static str> {
    DenyCode::ALL
        .iter()
        .map(|code| code.presentation())
        .find(|one| one.title == text.trim())
        .map(|one| one.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_of_the_documents_has_a_meaning() {
        let tables = [include_str!("../../../docs/jwt-auth.md"), include_str!("../../../docs/rate-limit.md")];
        let mut codes = Vec::new();
        for (document, heading) in tables.iter().zip(["| code | status |", "| code, also in"]) {
            let (_, table) = document.split_once(heading).unwrap();
            let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
            codes.extend(rows.filter_map(|line| line.split('`').nth(1)));
        }
        assert_eq!(codes.len() + NOT_RUNNING.len(), all().len(), "{codes:?}");
        for code in codes {
            assert!(of(code).is_some_and(|meaning| meaning.code == code), "{code}");
        }
        assert_eq!(of("jwt_auth_token_expired").unwrap().code, "token_expired");
        assert_eq!(of("jwt-auth_not_configured").unwrap().code, "not_configured");
        assert_eq!(of("via_upstream"), None);
    }
}
