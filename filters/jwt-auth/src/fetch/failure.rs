//! Why a document was not fetched: what the proxy knows about the call, and what the server has sent in its place.

use std::fmt;
use std::time::Duration;

use plugin_kit::host::HostError;
use plugin_kit::host::cluster::{self, Trouble};
use plugin_kit::reply::detail::printable;
use plugin_kit::request::headers::HeaderMap;
use plugin_kit::wire::json;
use serde_json::{Map, Value};

/// The longest text of a server or of the proxy that the log shows, in bytes.
pub(super) const LONGEST: usize = 256;

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal,)*) => {
        /// The kinds of failures, which the metrics tell apart.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind { $($(#[doc = $doc])* $name,)* }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The end of the metric's name.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }
        }
    };
}

kinds! {
    /// The proxy has no such cluster, or could not send the request.
    NoCluster = "no_cluster",
    /// No connection, or no host that could be asked.
    Connect = "connect",
    /// The TLS handshake failed.
    Tls = "tls",
    /// The connection ended before the response.
    Reset = "reset",
    /// The response did not come in time.
    Timeout = "timeout",
    /// The response has another status than 200.
    Status = "status",
    /// The response is a redirect, which is not followed.
    Redirect = "redirect",
    /// The content is not the document.
    Content = "content",
}

/// Why a document was not fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind of failure.
    pub kind: Kind,
    text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Failure {
    fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// The proxy did not send the request.
    #[inline(never)]
    pub fn not_sent(cluster: &str, error: HostError) -> Self {
        let text = match error.status {
            HostError::BAD_ARGUMENT => cluster::missing(cluster),
            HostError::INTERNAL_FAILURE => {
                return Self::new(
                    Kind::Connect,
                    format!("cluster `{cluster}` has no host that can be asked"),
                );
            }
            _ => format!("cluster `{cluster}`: {error}"),
        };
        Self::new(Kind::NoCluster, text)
    }

    /// The content is not what it must be, for this reason.
    pub fn wrong(reason: String) -> Self {
        Self::new(Kind::Content, reason)
    }

    /// The response is too long.
    pub fn too_long(size: usize, most: usize) -> Self {
        Self::new(Kind::Content, format!("{size} bytes; expected at most {most}"))
    }

    /// The host did not hand the content over.
    pub fn unread(error: HostError) -> Self {
        Self::new(Kind::Content, error.to_string())
    }

    /// The content is not the document, for this reason.
    #[inline(never)]
    pub fn content(body: &[u8], reason: &str) -> Self {
        let found = kind_of(body).map(|found| format!("; found {found}")).unwrap_or_default();
        Self::new(Kind::Content, format!("{reason}{found}"))
    }

    /// The response is not one with the document: it has no head, or another status than 200, or is compressed. `body` is
    /// its beginning, and `timeout` how long the filter has waited.
    #[inline(never)]
    pub fn of_response(head: Option<&HeaderMap>, body: &[u8], timeout: Duration) -> Option<Self> {
        let Some(head) = head else {
            return Some(Self::new(Kind::Reset, "no response: the connection was reset"));
        };
        let status = head.first(":status").unwrap_or_default();
        if status == b"200" {
            let encoding = head.first("content-encoding").filter(|encoding| *encoding != b"identity")?;
            let encoding = shown(encoding);
            let text = format!("the content is compressed ({encoding}), which was not asked for");
            return Some(Self::new(Kind::Content, text));
        }
        let status = shown(status);
        let said = shown(body);
        if let Some(failure) = of_proxy(&status, &said, timeout) {
            return Some(failure);
        }
        if status.starts_with('3')
            && let Some(location) = head.first("location")
        {
            let location = shown_url(&String::from_utf8_lossy(location));
            let text = format!("status {status}: a redirect, which is not followed, to `{location}`");
            return Some(Self::new(Kind::Redirect, text));
        }
        Some(Self::new(Kind::Status, format!("status {status}")))
    }
}

/// What Envoy says in the place of the server, in this proxy or in that of the server.
#[inline(never)]
fn of_proxy(status: &str, said: &str, timeout: Duration) -> Option<Failure> {
    let (kind, more) = match Trouble::of(said)? {
        Trouble::Timeout => {
            let text = format!("no response within {} ms (status {status})", timeout.as_millis());
            return Some(Failure::new(Kind::Timeout, text));
        }
        Trouble::Forbidden => (Kind::Status, " (an AuthorizationPolicy at the server refuses this workload)"),
        Trouble::Connect => (Kind::Connect, ""),
        Trouble::Tls => (Kind::Tls, ""),
        Trouble::Reset => (Kind::Reset, ""),
    };
    Some(Failure::new(kind, format!("status {status}: {said}{more}")))
}

fn shown(bytes: &[u8]) -> String {
    printable(String::from_utf8_lossy(bytes).trim(), LONGEST)
}

/// What kind of content arrived in the place of a key set, as far as that is easy to see.
#[inline(never)]
fn kind_of(body: &[u8]) -> Option<String> {
    let text = body.trim_ascii();
    if text.is_empty() {
        return Some("nothing".to_owned());
    }
    if body.starts_with(b"\x1f\x8b") {
        return Some("compressed content (gzip)".to_owned());
    }
    if text.starts_with(b"<") {
        return Some("a page (HTML or XML)".to_owned());
    }
    if text.starts_with(b"eyJ") {
        return Some("a token".to_owned());
    }
    kind_of_object(&json::object(body).ok()?)
}

/// A URL that a server has named, for the log: without user information and query, which can hold secrets.
pub(super) fn shown_url(url: &str) -> String {
    let place = url.trim().split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = place.split_once("//") else { return printable(place, LONGEST) };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    printable(&[scheme, "//", host, path].concat(), LONGEST)
}

fn kind_of_object(members: &Map<String, Value>) -> Option<String> {
    if let Some(url) = members.get("jwks_uri").and_then(Value::as_str) {
        let url = shown_url(url);
        return Some(format!(
            "an OpenID Connect discovery document, which says that the keys are at `{url}`"
        ));
    }
    members.contains_key("kty").then(|| "a single key".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: &str, headers: &[(&str, &str)], body: &str) -> Option<(Kind, String)> {
        let headers = [(":status", status)].into_iter().chain(headers.iter().copied());
        let head = HeaderMap::from_pairs(headers);
        let failure = Failure::of_response(Some(&head), body.as_bytes(), Duration::from_secs(5))?;
        Some((failure.kind, failure.to_string()))
    }

    #[test]
    fn what_envoy_says_about_a_call_is_told() {
        let reset = |reason: &str| {
            format!("upstream connect error or disconnect/reset before headers. reset reason: {reason}")
        };
        for (kind, status, body) in [
            (
                Kind::Connect,
                "503",
                reset(
                    "remote connection failure, transport failure reason: delayed connect error: Connection refused",
                ),
            ),
            (
                Kind::Tls,
                "503",
                reset(
                    "remote connection failure, transport failure reason: TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end",
                ),
            ),
            (Kind::Reset, "503", reset("connection termination")),
            (Kind::Connect, "503", reset("overflow")),
            (Kind::Connect, "503", "no healthy upstream".to_owned()),
        ] {
            let (found, text) = of(status, &[], &body).unwrap();
            assert_eq!(found, kind, "{body}");
            assert_eq!(text, format!("status 503: {body}"));
        }
        assert_eq!(
            of("504", &[], "upstream request timeout").unwrap(),
            (Kind::Timeout, "no response within 5000 ms (status 504)".to_owned())
        );
        let (kind, text) = of("403", &[], "RBAC: access denied").unwrap();
        assert_eq!((kind, text.contains("AuthorizationPolicy")), (Kind::Status, true));
        let failure = Failure::of_response(None, b"", Duration::ZERO).unwrap();
        assert_eq!(failure.kind, Kind::Reset);
    }

    #[test]
    fn response_of_the_server_is_told_by_its_status_and_nothing_of_its_body() {
        assert_eq!(of("200", &[("content-encoding", "identity")], ""), None);
        assert_eq!(of("200", &[], ""), None);
        assert_eq!(of("500", &[], "s3cr3t").unwrap(), (Kind::Status, "status 500".to_owned()));
        let redirect = of("302", &[("location", "https://login.test/x?code=s3cr3t")], "").unwrap();
        assert_eq!(
            redirect,
            (
                Kind::Redirect,
                "status 302: a redirect, which is not followed, to `https://login.test/x`".to_owned()
            )
        );
        for location in ["https://u:s3cr3t@login.test/x", "//u:s3cr3t@login.test/x#s3cr3t"] {
            let (_, text) = of("302", &[("location", location)], "").unwrap();
            assert!(text.contains("//login.test/x`") && !text.contains("s3cr3t"), "{text}");
        }
        let (kind, text) = of("200", &[("content-encoding", "gzip")], "").unwrap();
        assert_eq!((kind, text.contains("(gzip)")), (Kind::Content, true));
    }

    #[test]
    fn content_that_is_no_key_set_is_told() {
        for (body, expected) in [
            (
                &b"{\"issuer\":\"a\",\"jwks_uri\":\"https://a.test/keys\"}"[..],
                "discovery document, which says that the keys are at `https://a.test/keys`",
            ),
            (
                b"{\"jwks_uri\":\"https://u:s3cr3t@a.test/keys?s3cr3t\"}",
                "discovery document, which says that the keys are at `https://a.test/keys`",
            ),
            (b"\x1f\x8b\x08", "compressed content (gzip)"),
            (b" <!DOCTYPE html>", "a page (HTML or XML)"),
            (b"eyJhbGciOi", "a token"),
            (b"{\"kty\":\"RSA\"}", "a single key"),
            (b" \n", "nothing"),
        ] {
            let text = Failure::content(body, "not a JWK set").to_string();
            assert!(text.starts_with("not a JWK set; found ") && text.contains(expected), "{text}");
        }
        for body in [&b"[]"[..], b"{}", b"{\"a\":1}", b"\xff\xff", b"text"] {
            assert_eq!(Failure::content(body, "no").to_string(), "no");
        }
    }

    #[test]
    fn request_that_was_not_sent_says_what_is_missing() {
        let of = |status| Failure::not_sent("idp", HostError { call: "http_call", status });
        assert!(
            of(HostError::BAD_ARGUMENT).to_string().starts_with("this proxy has no cluster `idp`; expected")
        );
        assert_eq!(of(HostError::INTERNAL_FAILURE).kind, Kind::Connect);
        assert_eq!(of(12).kind, Kind::NoCluster);
    }
}
