//! What a client sees: the reply to a denied request, and the headers that show the state of its limit.

use plugin_kit::config_choice;
use plugin_kit::reply::denial::{Body, Extras, printable_id};
use plugin_kit::reply::{Problem, Reply};

use crate::limits::charge::Snapshot;
use crate::limits::gcra::Rate;
use crate::service::protocol::Status;

config_choice! {
    /// Which headers tell a client how much is left of its limit.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum HeaderStyle {
        /// The headers `ratelimit-policy` and `ratelimit` of draft-ietf-httpapi-ratelimit-headers-10 are set.
        #[default]
        Ietf,
        /// The headers `x-ratelimit-limit`, `x-ratelimit-remaining` and `x-ratelimit-reset` are set.
        Legacy,
        /// The headers of both kinds are set.
        Both,
        /// None of these headers is set.
        None,
    }
}

config_choice! {
    /// Which responses have these headers.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum HeadersOn {
        /// Denials have them.
        #[default]
        Denied,
        /// Every response to a counted request has them, for the limit with the least left. Leases of other
        /// workers are not seen in them.
        Always,
    }
}

/// How a denied request is answered.
#[derive(Debug, Clone)]
pub struct ReplyOptions {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Body,
    /// Headers that every denial gets, with those by which pages may read it.
    pub extras: Extras,
    /// Which headers show the state of the limit.
    pub headers: HeaderStyle,
    /// Which responses have these headers.
    pub headers_on: HeadersOn,
}

/// Why a request is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenyReason {
    /// A limit is used up. The request would be admitted after this many nanoseconds; `None` if it costs more
    /// than the burst.
    Limited(Option<u64>),
    /// The request lacks a part of the key, and the limit denies such requests.
    KeyMissing,
    /// The cost of the request is not a number.
    CostInvalid,
    /// The request could not be counted because other workers were faster in every attempt.
    Conflict,
    /// The host failed.
    Unavailable,
    /// The rate limit service gave no usable answer.
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

    /// Whether the request could not be counted, for a reason that is not the client's.
    pub fn is_failure(self) -> bool {
        match self {
            Self::CostInvalid | Self::Conflict | Self::Unavailable | Self::ServiceUnavailable => true,
            Self::Limited(_) | Self::KeyMissing => false,
        }
    }

    /// The nanoseconds after which a retry makes sense.
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

/// What the reply says beside the reason.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context<'a> {
    /// The limit that denies.
    pub limit: Option<&'a str>,
    /// The header `x-request-id` of the request.
    pub request_id: Option<&'a [u8]>,
    /// The header `origin` of the request.
    pub origin: Option<&'a [u8]>,
}

/// Makes the reply to a denied request. `headers`, and `own_body` unless it is empty, replace those that the
/// reply has otherwise.
pub fn denial(
    options: &ReplyOptions,
    reason: DenyReason,
    context: Context<'_>,
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
    let retry_after = reason.retry_in().map(|wait| seconds(wait).max(1).to_string());
    if let Some(seconds) = &retry_after {
        add("retry-after", seconds.clone());
    }
    // Envoy does not retry a response with this header.
    add("x-envoy-ratelimited", "true".to_owned());
    let Context { limit, request_id, origin } = context;
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
    let request_id = request_id.and_then(printable_id);
    let problem = Problem { kind, title, status, detail: None, code, request_id, violated_policies };
    let more =
        [("limit", limit.unwrap_or_default()), ("retryAfter", retry_after.as_deref().unwrap_or_default())];
    let body = if own_body.is_empty() {
        let (media_type, body) = options.body.of(&problem, "text/plain", &more).unzip();
        if let Some(media_type) = media_type {
            add("content-type", media_type.to_owned());
        }
        body.unwrap_or_default()
    } else {
        own_body.to_vec()
    };
    let mut reply = Reply { status, grpc_status: Some(grpc_status), headers, body, details: code.to_owned() };
    options.extras.add_to(&mut reply, origin);
    reply
}

/// The state of a limit as clients see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// How many requests are admitted at once after a pause of `window`.
    pub quota: u64,
    /// The time in which the quota refills, in seconds.
    pub window: u64,
    /// How many requests are left.
    pub remaining: u64,
    /// Nanoseconds until there are more; `None` if there never are.
    pub reset: Option<u64>,
}

impl Shown {
    /// A limit of this proxy. The quota is the burst, and the window is the time in which it refills. If no
    /// request is left, the reset is the time until the next request would be admitted, otherwise the time
    /// until the whole burst would be.
    pub fn of(rate: &Rate, snapshot: &Snapshot) -> Self {
        let remaining = snapshot.remaining;
        Self {
            quota: u64::from(rate.burst()),
            window: seconds(rate.tolerance()).max(1),
            remaining,
            reset: if remaining == 0 { snapshot.next_in } else { Some(snapshot.whole_in) },
        }
    }

    /// A limit of the rate limit service; `None` if the service did not describe it.
    pub fn by_service(status: &Status) -> Option<Self> {
        let Status { requests, window, remaining, reset, .. } = *status;
        (window > 0).then_some(Self { quota: requests, window, remaining, reset: Some(reset) })
    }
}

/// The headers that show the state of a limit. Times are rounded up.
pub fn limit_headers(style: HeaderStyle, name: &str, shown: &Shown) -> Vec<(String, String)> {
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

/// Whole seconds, rounded up, so that no client comes back too early.
fn seconds(nanoseconds: u64) -> u64 {
    nanoseconds.div_ceil(SECOND)
}
