//! What a client learns: the reply to a denied request, and the headers that tell how its limit stands.

use plugin_kit::config_choice;
use plugin_kit::reply::{Problem, Reply};

use crate::gcra::Rate;
use crate::limiter::Standing;
use crate::protocol::Status;

config_choice! {
    /// Which headers tell a client how it stands. `retry-after` is always there on a denial.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum HeaderStyle {
        /// `ratelimit-policy` and `ratelimit`, draft-ietf-httpapi-ratelimit-headers-10.
        #[default]
        Ietf,
        /// `x-ratelimit-limit`, `-remaining` and `-reset`.
        Legacy,
        /// Both.
        Both,
        /// None.
        None,
    }
}

config_choice! {
    /// On which responses these headers are.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum HeadersOn {
        /// On denials.
        #[default]
        Denied,
        /// On every response to a request that a limit counted.
        Always,
    }
}

config_choice! {
    /// The body of a denial.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum ReplyBody {
        /// RFC 9457.
        #[default]
        ProblemJson = "problem+json",
        /// One line.
        Text = "text",
        /// Nothing.
        Empty = "none",
    }
}

/// How a denied request is answered.
#[derive(Debug, Clone, Copy)]
pub struct ReplyOptions {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: ReplyBody,
    /// Which headers tell how the limit stands.
    pub headers: HeaderStyle,
    /// On which responses.
    pub headers_on: HeadersOn,
}

/// Why a request is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenyReason {
    /// A limit is used up. Nanoseconds until the request would be admitted; `None`: it costs more than the burst.
    Limited(Option<u64>),
    /// It has no key, and the limit wants one.
    KeyMissing,
    /// What it says that it costs is no number.
    CostInvalid,
    /// Other workers were faster, again and again.
    Conflict,
    /// The host failed.
    Unavailable,
    /// The rate limit service did not answer.
    ServiceUnavailable,
}

impl DenyReason {
    /// The code in the reply, in access logs and in the documentation.
    pub fn code(self) -> &'static str {
        match self {
            Self::Limited(_) => "rate_limit_exceeded",
            Self::KeyMissing => "rate_limit_key_missing",
            Self::CostInvalid => "rate_limit_cost_invalid",
            Self::Conflict => "rate_limit_conflict",
            Self::Unavailable => "rate_limit_unavailable",
            Self::ServiceUnavailable => "rate_limit_service_unavailable",
        }
    }

    /// Whether the request was not counted, for a reason that is not its client's.
    pub fn is_failure(self) -> bool {
        match self {
            Self::CostInvalid | Self::Conflict | Self::Unavailable | Self::ServiceUnavailable => true,
            Self::Limited(_) | Self::KeyMissing => false,
        }
    }

    /// Nanoseconds after which it makes sense to try again.
    fn retry_in(self) -> Option<u64> {
        match self {
            Self::Limited(wait) => wait,
            Self::Conflict | Self::Unavailable | Self::ServiceUnavailable => Some(0),
            Self::KeyMissing | Self::CostInvalid => None,
        }
    }
}

const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";
const GRPC_RESOURCE_EXHAUSTED: u8 = 8;
const GRPC_UNAVAILABLE: u8 = 14;
const SECOND: u64 = 1_000_000_000;

/// The reply to a denied request. `headers` and a `body` that is not empty replace those of the reply.
pub fn denial(
    options: &ReplyOptions,
    reason: DenyReason,
    limit: Option<&str>,
    request_id: Option<&str>,
    mut headers: Vec<(String, String)>,
    own_body: &[u8],
) -> Reply {
    let (status, grpc_status) = match reason {
        DenyReason::Limited(_) | DenyReason::Conflict | DenyReason::KeyMissing => {
            (options.status, GRPC_RESOURCE_EXHAUSTED)
        }
        DenyReason::CostInvalid | DenyReason::Unavailable | DenyReason::ServiceUnavailable => {
            (503, GRPC_UNAVAILABLE)
        }
    };
    let mut add = |name: &str, value: String| {
        if !headers.iter().any(|(known, _)| known == name) {
            headers.push((name.to_owned(), value));
        }
    };
    if let Some(wait) = reason.retry_in() {
        add("retry-after", seconds(wait).max(1).to_string());
    }
    // Envoy does not retry a response that says this.
    add("x-envoy-ratelimited", "true".to_owned());
    let limits = limit.as_slice();
    let (title, kind) = match reason {
        DenyReason::Limited(_) => ("Too many requests", QUOTA_EXCEEDED),
        DenyReason::KeyMissing => ("The request lacks what it is counted by", "about:blank"),
        DenyReason::Conflict => ("Too many requests at the same time", "about:blank"),
        DenyReason::CostInvalid | DenyReason::Unavailable | DenyReason::ServiceUnavailable => {
            ("The request could not be counted", "about:blank")
        }
    };
    let violated_policies = if kind == QUOTA_EXCEEDED { limits } else { &[] };
    let code = reason.code();
    let body = match options.body {
        _ if !own_body.is_empty() => own_body.to_vec(),
        ReplyBody::ProblemJson => {
            add("content-type", Problem::CONTENT_TYPE.to_owned());
            let problem = Problem { kind, title, status, detail: None, code, request_id, violated_policies };
            problem.to_body()
        }
        ReplyBody::Text => {
            add("content-type", "text/plain".to_owned());
            title.as_bytes().to_vec()
        }
        ReplyBody::Empty => Vec::new(),
    };
    Reply { status, grpc_status: Some(grpc_status), headers, body, details: code.to_owned() }
}

/// How a limit stands, as clients are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Requests that are admitted at once after a pause of `window`.
    pub quota: u64,
    /// In seconds.
    pub window: u64,
    /// Requests that are left.
    pub remaining: u64,
    /// Nanoseconds until there are more; `None`: there never are.
    pub reset: Option<u64>,
}

impl Shown {
    /// A limit of this proxy. The quota is the burst, and the window the time in which it refills. The reset is the time
    /// until the next request would be admitted where none is left, else until the whole burst would be.
    pub fn of(rate: &Rate, standing: &Standing) -> Self {
        let remaining = standing.remaining;
        Self {
            quota: u64::from(rate.burst()),
            window: seconds(rate.tolerance()).max(1),
            remaining,
            reset: if remaining == 0 { standing.next_in } else { Some(standing.whole_in) },
        }
    }

    /// A limit of the rate limit service; `None` where it did not say.
    pub fn by_service(status: &Status) -> Option<Self> {
        let Status { requests, window, remaining, reset, .. } = *status;
        (window > 0).then_some(Self { quota: requests, window, remaining, reset: Some(reset) })
    }
}

/// The headers that tell how a limit stands; times are rounded up.
pub fn standing_headers(style: HeaderStyle, name: &str, shown: &Shown) -> Vec<(String, String)> {
    let Shown { quota, window, remaining, reset } = *shown;
    let reset = reset.map(seconds);
    let mut headers = Vec::with_capacity(5);
    let mut add = |name: &str, value: String| headers.push((name.to_owned(), value));
    if matches!(style, HeaderStyle::Ietf | HeaderStyle::Both) {
        add("ratelimit-policy", format!("\"{name}\";q={quota};w={window}"));
        let reset = reset.map(|reset| format!(";t={reset}")).unwrap_or_default();
        add("ratelimit", format!("\"{name}\";r={remaining}{reset}"));
    }
    if matches!(style, HeaderStyle::Legacy | HeaderStyle::Both) {
        add("x-ratelimit-limit", quota.to_string());
        add("x-ratelimit-remaining", remaining.to_string());
        if let Some(reset) = reset {
            add("x-ratelimit-reset", reset.to_string());
        }
    }
    headers
}

/// Whole seconds, rounded up: never too early.
fn seconds(nanoseconds: u64) -> u64 {
    nanoseconds.div_ceil(SECOND)
}
