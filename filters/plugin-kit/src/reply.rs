//! Replies that a filter sends in the place of the service.

pub mod denial;
pub mod detail;
pub mod repeats;

/// A local reply. For a gRPC request Envoy turns it into HTTP 200 with `grpc-status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// `grpc-status` for a gRPC request; `None` leaves Envoy's own mapping of the HTTP status.
    pub grpc_status: Option<u8>,
    /// Response headers; no name twice.
    pub headers: Vec<(String, String)>,
    /// Response body.
    pub body: Vec<u8>,
    /// A stable code, shown as `RESPONSE_CODE_DETAILS` in access logs.
    pub details: String,
}

/// The body of a reply in the form of RFC 9457.
#[derive(Debug, serde::Serialize)]
pub struct Problem<'a> {
    /// URI that names the kind of problem; `about:blank` where the status says it all.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// A short summary, the same for every occurrence.
    pub title: &'a str,
    /// HTTP status.
    pub status: u16,
    /// The part of the reason that the client may know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'a str>,
    /// The deny code, stable and listed in the documentation.
    pub code: &'a str,
    /// The request ID, so that a user who quotes it is found.
    #[serde(rename = "requestId", skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
    /// Names of the policies that were violated (draft-ietf-httpapi-ratelimit-headers).
    #[serde(rename = "violated-policies", skip_serializing_if = "<[_]>::is_empty")]
    pub violated_policies: &'a [&'a str],
}

impl Problem<'_> {
    /// Media type of [`Problem::to_body`].
    pub const CONTENT_TYPE: &'static str = "application/problem+json";

    /// The problem as JSON.
    pub fn to_body(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}
