//! What a client whose request is refused gets: the reply, by the reason and its deny code.

mod deny_code;
mod metadata;
mod reason;
mod sign_in;

use std::time::Duration;

use plugin_kit::reply::denial::{Body, Extras, printable_id};
use plugin_kit::reply::{Problem, Reply};
use plugin_kit::request::headers::HeaderMap;

use self::deny_code::FORBIDDEN;
use crate::policy::place::Place;

pub use self::deny_code::{DenyCode, DenyPresentation};
pub use self::metadata::Metadata;
pub use self::reason::DenyReason;
pub use self::sign_in::{SignIn, origin_of, percent_encode};

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
    /// The status that hides the reason of a denial, by the class of the denial.
    pub hide: Hide,
    /// Where a browser is sent to sign in, in the place of a 401.
    pub sign_in: Option<SignIn>,
    /// The metadata of the resource, at which challenges point.
    pub metadata: Option<Metadata>,
}

/// The status that denials of a class have in the place of their own, and then tell nothing of the reason.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hide {
    /// The status in the place of 401.
    pub unauthenticated: Option<Hidden>,
    /// The status in the place of 403.
    pub forbidden: Option<Hidden>,
}

plugin_kit::config_choice! {
    /// What a client is told in the place of the reason.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Hidden {
        /// The status is 400.
        BadRequest,
        /// The status is 401, with a challenge.
        Unauthorized,
        /// The status is 403.
        Forbidden,
        /// The status is 404, as if there were nothing. Its gRPC status is 5.
        NotFound,
    }
}

impl Hidden {
    fn presentation(self) -> DenyPresentation {
        let (code, status, grpc_status, title) = match self {
            Self::BadRequest => ("bad_request", 400, 3, "Bad Request"),
            Self::Unauthorized => ("unauthorized", 401, 16, "Unauthorized"),
            Self::Forbidden => ("forbidden", 403, 7, "Forbidden"),
            Self::NotFound => ("not_found", 404, 5, "Not Found"),
        };
        DenyPresentation { code, status, grpc_status, error: None, title }
    }
}

/// What a reply depends on besides the reason.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    /// What the configuration says about replies.
    pub response: &'a DenyResponse,
    /// The scopes that the rule requires.
    pub scopes: &'a [String],
    /// The request's headers, if the proxy shows them.
    pub head: Option<&'a HeaderMap>,
    /// Where requests carry tokens.
    pub places: &'a [Place],
    /// How long the client should wait before it tries again, if the status is 503.
    pub retry_in: Duration,
}

/// The reply to a request that is refused.
pub fn reply(reason: DenyReason, context: &Context<'_>) -> Reply {
    const TEXT: &str = "text/plain; charset=utf-8";
    let DenyResponse { body, extras, code_header, wrong_audience, hide, sign_in, .. } = context.response;
    let first = |name| context.head.and_then(|head| head.first(name));
    // In gRPC the body is a message for people.
    let grpc = first("content-type").is_some_and(|media_type| media_type.starts_with(b"application/grpc"));
    let details = format!("jwt_auth_{}", reason.presentation().code);
    let DenyPresentation { mut code, mut status, mut grpc_status, mut error, mut title } =
        reason.presentation();
    if reason.code() == DenyCode::AudienceMismatch && *wrong_audience == WrongAudience::Forbidden {
        (status, grpc_status) = FORBIDDEN;
    }
    if status == 401
        && let Some(location) =
            sign_in.as_ref().zip(context.head).and_then(|(to, head)| to.location(head, context.places))
    {
        return redirect(location, details, extras, first("origin"));
    }
    let hidden = match status {
        401 => hide.unauthenticated,
        403 => hide.forbidden,
        _ => None,
    };
    if let Some(hidden) = hidden {
        DenyPresentation { code, status, grpc_status, error, title } = hidden.presentation();
    }
    let (kind, request_id) = ("about:blank", first("x-request-id").and_then(printable_id));
    let problem = Problem { kind, title, status, detail: None, code, request_id, violated_policies: &[] };
    let body = if grpc { &Body::Text } else { body };
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
        // This is rounded up, so that the client never tries too early.
        let seconds = context.retry_in.as_nanos().div_ceil(1_000_000_000).max(1);
        add("retry-after", &seconds.to_string());
    }
    if let Some(name) = code_header {
        add(name, code);
    }
    let body = body.unwrap_or_default();
    let mut reply = Reply { status, grpc_status: Some(grpc_status), headers, body, details };
    extras.add_to(&mut reply, first("origin"));
    reply
}

/// The reply that sends a browser to another page.
fn redirect(location: String, details: String, extras: &Extras, origin: Option<&[u8]>) -> Reply {
    let headers =
        vec![("location".to_owned(), location), ("cache-control".to_owned(), "no-store".to_owned())];
    let mut reply = Reply { status: 302, grpc_status: None, headers, body: Vec::new(), details };
    extras.add_to(&mut reply, origin);
    reply
}

/// The `WWW-Authenticate` header of RFC 6750 section 3. Realm and scopes come from the configuration, which
/// accepts no quote in them.
fn challenge(error: Option<&str>, context: &Context<'_>) -> String {
    let mut parameters = vec![format!("Bearer realm=\"{}\"", context.response.realm)];
    if let Some(error) = error {
        parameters.push(format!("error=\"{error}\""));
        if error == "insufficient_scope" && !context.scopes.is_empty() {
            parameters.push(format!("scope=\"{}\"", context.scopes.join(" ")));
        }
    }
    if let Some(metadata) = &context.response.metadata {
        // RFC 9728 section 5.1.
        parameters.push(format!("resource_metadata=\"{}\"", metadata.url));
    }
    parameters.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unavailable_reply_retry_after_is_rounded_up() {
        let response = DenyResponse {
            body: Body::Problem,
            extras: Extras::default(),
            realm: "service".to_owned(),
            code_header: None,
            wrong_audience: WrongAudience::Unauthenticated,
            hide: Hide::default(),
            sign_in: None,
            metadata: None,
        };
        let retry_after = |reason, millis| {
            let retry_in = Duration::from_millis(millis);
            let context = Context { response: &response, scopes: &[], head: None, places: &[], retry_in };
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
