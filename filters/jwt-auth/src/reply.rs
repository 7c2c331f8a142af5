//! What a client whose request is refused gets: the reply, by the reason and its deny code.

mod deny_code;
mod reason;

use std::time::Duration;

use plugin_kit::reply::denial::{Body, Extras, printable_id};
use plugin_kit::reply::{Problem, Reply};

use self::deny_code::FORBIDDEN;

pub use self::deny_code::{DenyCode, DenyPresentation};
pub use self::reason::DenyReason;

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

/// What a reply depends on besides the reason.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    /// What the configuration says about replies.
    pub response: &'a DenyResponse,
    /// The scopes that the rule requires.
    pub scopes: &'a [String],
    /// `x-request-id` as it was sent.
    pub request_id: Option<&'a [u8]>,
    /// `origin` as it was sent: that of the page that made the request, if the page is of another origin than
    /// the service.
    pub origin: Option<&'a [u8]>,
    /// How long the client should wait before it tries again, if the status is 503.
    pub retry_in: Duration,
    /// Whether the client speaks gRPC, in which the body is a message for people.
    pub grpc: bool,
}

/// The reply to a request that is refused.
pub fn reply(reason: DenyReason, context: &Context<'_>) -> Reply {
    const TEXT: &str = "text/plain; charset=utf-8";
    let DenyResponse { body, extras, code_header, wrong_audience, .. } = context.response;
    let DenyPresentation { code, mut status, mut grpc_status, error, title } = reason.presentation();
    if reason.code() == DenyCode::AudienceMismatch && *wrong_audience == WrongAudience::Forbidden {
        (status, grpc_status) = FORBIDDEN;
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
        // This is rounded up, so that the client never tries too early.
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
