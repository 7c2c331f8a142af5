//! What a denial carries beyond its reason: a body of the user's, headers of the user's, and what a browser needs so that
//! a page may read it.

use serde_json::Value;

#[cfg(not(target_os = "wasi"))]
use crate::config::Definitions;
use crate::config::{ByName, ConfigReader, ErrorList, FromConfig, JsonPath, NonEmpty, not_one_of};
use crate::reply::{Problem, Reply};
use crate::request::matcher::header_name;

crate::config_object! {
    /// A body with `{code}`, `{status}`, `{title}` and `{requestId}` in it. None of these holds a quote, a backslash or a `<`.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Template {
        /// Media type.
        pub content_type: String,
        /// The text.
        pub template: String,
    }
}

/// The body of a denial.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Body {
    /// `application/problem+json` (RFC 9457).
    #[default]
    Problem,
    /// A line of text.
    Text,
    /// Nothing.
    Empty,
    /// A text of the user's.
    Template(Template),
}

impl FromConfig for Body {
    fn read(value: &Value, reader: &mut ConfigReader) -> Option<Self> {
        match value {
            Value::String(name) if name == "problem+json" => Some(Self::Problem),
            Value::String(name) if name == "text" => Some(Self::Text),
            Value::String(name) if name == "none" => Some(Self::Empty),
            Value::Object(_) => Template::read(value, reader).map(Self::Template),
            Value::String(name) => {
                let expected = not_one_of(name, &["problem+json", "text", "none"]);
                reader.add(format!("{expected}; or `{{ contentType, template }}`"));
                None
            }
            _ => reader.expected("`problem+json`, `text`, `none` or `{ contentType, template }`", value),
        }
    }

    #[cfg(not(target_os = "wasi"))]
    fn schema(definitions: &mut Definitions) -> Value {
        let template = Template::schema(definitions);
        serde_json::json!({ "anyOf": [{ "enum": ["problem+json", "text", "none"] }, template] })
    }
}

impl Body {
    /// Notes under `path` what is wrong with it.
    pub fn check(&self, path: &JsonPath, errors: &mut ErrorList) {
        if let Self::Template(Template { content_type, .. }) = self
            && !is_quotable(content_type)
        {
            errors.add(&path.field("contentType"), "expected a media type");
        }
    }

    /// Media type and bytes; nothing for no body. `text_type` is the media type of a line of text, and `more` are names that
    /// a template may have beside those of every problem, with their values.
    pub fn of<'a>(
        &'a self,
        problem: &Problem<'_>,
        text_type: &'a str,
        more: &[(&str, &str)],
    ) -> Option<(&'a str, Vec<u8>)> {
        match self {
            Self::Problem => Some((Problem::CONTENT_TYPE, problem.to_body())),
            Self::Text => Some((text_type, problem.title.as_bytes().to_vec())),
            Self::Empty => None,
            Self::Template(Template { content_type, template }) => {
                let status = problem.status.to_string();
                let request_id = problem.request_id.unwrap_or_default();
                let usual = [
                    ("code", problem.code),
                    ("status", status.as_str()),
                    ("title", problem.title),
                    ("requestId", request_id),
                ];
                let value = |name: &str| {
                    usual.iter().chain(more).find(|(known, _)| *known == name).map(|(_, value)| *value)
                };
                Some((content_type, filled(template, value).into_bytes()))
            }
        }
    }
}

/// A template in which each known `{name}` is replaced, once: a value is not looked into again.
fn filled<'v>(template: &str, value: impl Fn(&str) -> Option<&'v str>) -> String {
    let (mut text, mut rest) = (String::with_capacity(template.len()), template);
    while let Some((before, behind)) = rest.split_once('{') {
        text.push_str(before);
        let known = behind.split_once('}').and_then(|(name, behind)| Some((value(name)?, behind)));
        let (text_here, behind) = known.unwrap_or(("{", behind));
        text.push_str(text_here);
        rest = behind;
    }
    text + rest
}

/// Printable ASCII without quote and backslash: what may stand in a quoted string.
pub fn is_quotable(text: &str) -> bool {
    let good = |byte: u8| matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\';
    !text.is_empty() && text.bytes().all(good)
}

/// A request ID as a reply may repeat it: short and without anything that means something elsewhere.
pub fn printable_id(request_id: &[u8]) -> Option<&str> {
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
    let short = !request_id.is_empty() && request_id.len() <= 128;
    (short && request_id.iter().all(good)).then(|| std::str::from_utf8(request_id).ok()).flatten()
}

crate::config_object! {
    /// Which pages may read a denial. A filter stands before Envoy's own CORS filter, which does not see denials.
    #[derive(Debug, Clone, Default)]
    pub struct RawCors {
        /// Origins such as `https://app.example`, `https://*.example` for all below a host, or `*` alone for any.
        pub allow_origins: NonEmpty<Vec<String>>,
        /// Whether they may read it also where the request was made with cookies or client certificates.
        pub allow_credentials: bool = false,
    }
}

/// Which pages may read a denial.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cors {
    /// Empty for any.
    origins: Vec<Origin>,
    credentials: bool,
}

/// An origin, as a browser writes it (RFC 6454 section 6.2), or all whose host is below one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Exact(String),
    Below {
        /// With the slashes.
        scheme: String,
        /// With the dot before it and the port behind it.
        suffix: String,
    },
}

impl Origin {
    fn parse(text: &str) -> Result<Self, String> {
        let expected = |what: &str| {
            format!("no origin{what}; expected one such as `https://app.example` or `https://*.example`")
        };
        if text == "null" {
            return Err(
                "any page can be the origin `null`; expected one such as `https://app.example`".to_owned()
            );
        }
        let (scheme, authority) = text.split_once("://").ok_or_else(|| expected(""))?;
        let below = authority.strip_prefix("*.");
        let (host, port) = match below.unwrap_or(authority).rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (below.unwrap_or(authority), None),
        };
        let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let good_scheme = |c: char| lower(c) || "+-.".contains(c);
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let good_host = match literal {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok() && below.is_none(),
            None => !host.is_empty() && host.chars().all(|c| lower(c) || "-.".contains(c)),
        };
        let port_number = port.map(str::parse::<u16>).transpose();
        if scheme.is_empty() || !scheme.chars().all(good_scheme) || !good_host || port_number.is_err() {
            let upper = text.chars().any(char::is_uppercase);
            return Err(expected(if upper { ", which is in lower case" } else { "" }));
        }
        if matches!((scheme, port), ("http", Some("80")) | ("https", Some("443"))) {
            return Err(expected(": browsers leave out the port that goes without saying"));
        }
        Ok(match below {
            None => Self::Exact(text.to_owned()),
            Some(rest) => Self::Below { scheme: format!("{scheme}://"), suffix: format!(".{rest}") },
        })
    }

    /// Whether it is all below a single name, such as `com`, where anybody can have a host.
    fn is_below_a_suffix(&self) -> bool {
        matches!(self, Self::Below { suffix, .. } if !suffix.trim_matches('.').contains('.'))
    }

    fn is(&self, origin: &str) -> bool {
        match self {
            Self::Exact(own) => own == origin,
            Self::Below { scheme, suffix } => {
                let host =
                    origin.strip_prefix(scheme.as_str()).and_then(|host| host.strip_suffix(suffix.as_str()));
                let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
                host.is_some_and(|host| !host.is_empty() && host.bytes().all(good))
            }
        }
    }
}

impl Cors {
    fn compile(raw: &RawCors, path: &JsonPath, errors: &mut ErrorList) -> Self {
        let at = path.field("allowOrigins");
        let mut origins = Vec::new();
        let any = raw.allow_origins.iter().any(|origin| origin == "*");
        if any && raw.allow_origins.len() > 1 {
            errors.add(&at, "has `*` and others; expected `*` alone, or none");
        }
        if any && raw.allow_credentials {
            errors.add(
                &path.field("allowCredentials"),
                "any page could read what a user is answered; expected the origins that may, by name",
            );
        }
        for (n, origin) in raw.allow_origins.iter().enumerate().filter(|(_, origin)| *origin != "*") {
            let origin = errors.check(&at.index(n), Origin::parse(origin));
            if raw.allow_credentials && origin.as_ref().is_some_and(Origin::is_below_a_suffix) {
                errors.add(
                    &at.index(n),
                    "any page below a domain that is everybody's could read what a user is answered; expected two names or \
                     more behind `*.`, such as `https://*.shop.example`",
                );
            }
            origins.extend(origin);
        }
        Self { origins, credentials: raw.allow_credentials }
    }

    /// The headers for a page of this origin, by which it may read these headers of the reply too.
    fn headers(&self, origin: Option<&[u8]>, exposed: &str) -> Vec<(String, String)> {
        let mut headers = Vec::new();
        let mut add = |name: &str, value: &str| headers.push((name.to_owned(), value.to_owned()));
        let origin = origin.and_then(|origin| std::str::from_utf8(origin).ok());
        let allowed = match origin {
            _ if self.origins.is_empty() => Some("*"),
            origin => origin.filter(|origin| self.origins.iter().any(|own| own.is(origin))),
        };
        if let Some(allowed) = allowed {
            add("access-control-allow-origin", allowed);
            if self.credentials {
                add("access-control-allow-credentials", "true");
            }
            if !exposed.is_empty() {
                add("access-control-expose-headers", exposed);
            }
        }
        if !self.origins.is_empty() {
            // What one origin may read must not come to another one from a cache.
            add("vary", "origin");
        }
        headers
    }
}

/// Headers that a denial gets beside those that say why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extras {
    headers: Vec<(String, String)>,
    cors: Option<Cors>,
}

/// Headers that frame the message, or that the filters set by themselves.
const NOT_TO_ADD: [&str; 14] = [
    "connection",
    "content-length",
    "content-type",
    "date",
    "keep-alive",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "www-authenticate",
    "x-envoy-ratelimited",
];

impl Extras {
    /// Reads `addHeaders` and `cors` under `path`, or notes what is wrong with them.
    pub fn compile(
        headers: ByName<String>,
        cors: Option<&RawCors>,
        path: &JsonPath,
        errors: &mut ErrorList,
    ) -> Self {
        let at = path.field("addHeaders");
        for (name, value) in &headers.0 {
            let at = at.field(name);
            if let Err(message) = header_name(name) {
                errors.add(&at, message);
            }
            if name.starts_with("access-control-") {
                errors.add(&at, "is one of `cors`; expected it there");
            } else if NOT_TO_ADD.contains(&name.as_str()) || name.starts_with("grpc-") {
                errors.add(
                    &at,
                    format_args!("`{name}` is set by the proxy or the filter; expected another header"),
                );
            }
            let good = |byte: u8| matches!(byte, 0x20..=0x7e);
            if value.is_empty() || value.trim() != value || !value.bytes().all(good) {
                errors.add(&at, "expected printable ASCII, without blanks around it");
            }
        }
        Self { headers: headers.0, cors: cors.map(|cors| Cors::compile(cors, &path.field("cors"), errors)) }
    }

    /// Whether a reply depends on the request's `Origin`.
    pub fn asks_origin(&self) -> bool {
        self.cors.as_ref().is_some_and(|cors| !cors.origins.is_empty())
    }

    /// Adds the headers to a reply to a request with this `Origin`.
    pub fn add_to(&self, reply: &mut Reply, origin: Option<&[u8]>) {
        reply.headers.retain(|(name, _)| !self.headers.iter().any(|(own, _)| own == name));
        reply.headers.extend(self.headers.iter().cloned());
        if let Some(cors) = &self.cors {
            // Pages see these few by themselves (fetch standard, section 3.3.2).
            let hidden = |name: &&str| !matches!(*name, "content-type" | "cache-control");
            let exposed: Vec<&str> =
                reply.headers.iter().map(|(name, _)| name.as_str()).filter(hidden).collect();
            let headers = cors.headers(origin, &exposed.join(", "));
            for (name, value) in headers {
                match reply.headers.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, known)) if name == "vary" => *known = format!("{known}, {value}"),
                    Some((_, known)) => *known = value,
                    None => reply.headers.push((name, value)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    crate::config_object! {
        #[derive(Debug)]
        struct Raw {
            body: Body = Body::default(),
            cors: Option<RawCors>,
            add_headers: ByName<String> = ByName::default(),
        }
    }

    fn parse(raw: &Value) -> Result<(Body, Extras), String> {
        let raw: Raw = crate::config::read(raw).map_err(|errors| errors.to_string())?;
        let (path, mut errors) = (JsonPath::root().field("response"), ErrorList::default());
        raw.body.check(&path.field("body"), &mut errors);
        let extras = Extras::compile(raw.add_headers, raw.cors.as_ref(), &path, &mut errors);
        errors.finish(Some((raw.body, extras))).map_err(|errors| errors.to_string())
    }

    fn reply() -> Reply {
        let headers = [("content-type", "text/plain"), ("retry-after", "1"), ("x-code", "a")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Reply { status: 401, grpc_status: None, headers, body: Vec::new(), details: String::new() }
    }

    fn headers(raw: &Value, origin: Option<&str>) -> Vec<String> {
        let mut reply = reply();
        parse(raw).unwrap().1.add_to(&mut reply, origin.map(str::as_bytes));
        reply.headers.iter().skip(2).map(|(name, value)| format!("{name}: {value}")).collect()
    }

    #[test]
    fn a_page_of_an_allowed_origin_may_read_a_denial_and_its_headers() {
        let one =
            json!({ "cors": { "allowOrigins": ["https://app.example", "https://*.shop.example:8443"] } });
        for origin in ["https://app.example", "https://a.b.shop.example:8443"] {
            assert_eq!(
                headers(&one, Some(origin)),
                [
                    "x-code: a",
                    &format!("access-control-allow-origin: {origin}"),
                    "access-control-expose-headers: retry-after, x-code",
                    "vary: origin"
                ]
            );
        }
        for origin in [
            None,
            Some(""),
            Some("null"),
            Some("https://app.example.evil.test"),
            Some("https://evil.test/.app.example"),
            Some("http://app.example"),
            Some("https://app.example:443"),
            Some("https://app.example,https://app.example"),
            Some("https://shop.example:8443"),
            Some("https://.shop.example:8443"),
            Some("https://evil.test:1/.shop.example:8443"),
            Some("https://evil.test@a.shop.example:8443"),
            Some("https://a.shop.example"),
        ] {
            assert_eq!(headers(&one, origin), ["x-code: a", "vary: origin"], "{origin:?}");
        }
    }

    #[test]
    fn any_page_may_read_what_no_credential_was_sent_for() {
        let any = json!({ "cors": { "allowOrigins": ["*"] } });
        assert_eq!(headers(&any, Some("https://a"))[1], "access-control-allow-origin: *");
        assert_eq!(headers(&any, None)[1], "access-control-allow-origin: *");
        assert!(!parse(&any).unwrap().1.asks_origin());
        let with = json!({ "cors": { "allowOrigins": ["https://a"], "allowCredentials": true } });
        assert_eq!(headers(&with, Some("https://a"))[2], "access-control-allow-credentials: true");
        assert_eq!(headers(&with, Some("https://b")), ["x-code: a", "vary: origin"]);
        assert!(parse(&with).unwrap().1.asks_origin());
    }

    #[test]
    fn no_header_of_a_reply_is_there_twice() {
        let mut reply = reply();
        for (name, value) in [("vary", "accept"), ("access-control-allow-origin", "*")] {
            reply.headers.push((name.to_owned(), value.to_owned()));
        }
        let one = json!({ "cors": { "allowOrigins": ["https://a"] } });
        parse(&one).unwrap().1.add_to(&mut reply, Some(b"https://a"));
        let all = |name: &str| -> Vec<&str> {
            reply.headers.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str()).collect()
        };
        assert_eq!(
            (all("vary"), all("access-control-allow-origin")),
            (vec!["accept, origin"], vec!["https://a"])
        );
    }

    #[test]
    fn headers_of_the_users_take_the_place_of_others() {
        let raw = json!({ "addHeaders": { "cache-control": "no-store", "x-code": "b" } });
        assert_eq!(headers(&raw, None), ["cache-control: no-store", "x-code: b"]);
        assert_eq!(headers(&json!({}), None), ["x-code: a"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_path() {
        for (raw, expected) in [
            (
                json!({ "body": "txt" }),
                "body: expected one of `problem+json`, `text`, `none`, found `txt`; did you mean `text`?; or `{ contentType, template }`",
            ),
            (
                json!({ "body": { "contentType": "a\"b", "template": "" } }),
                "response.body.contentType: expected a media",
            ),
            (json!({ "cors": {} }), "cors: missing field `allowOrigins`"),
            (
                json!({ "cors": { "allowOrigins": [] } }),
                "cors.allowOrigins: is empty; expected at least one entry",
            ),
            (
                json!({ "cors": { "allowOrigins": ["*", "https://a"] } }),
                "response.cors.allowOrigins: has `*` and others",
            ),
            (
                json!({ "cors": { "allowOrigins": ["*"], "allowCredentials": true } }),
                "response.cors.allowCredentials: any page could",
            ),
            (
                json!({ "cors": { "allowOrigins": ["https://a", "https://*.com"], "allowCredentials": true } }),
                "response.cors.allowOrigins[1]: any page below a domain that is everybody's",
            ),
            (
                json!({ "cors": { "allowOrigins": ["https://*.com:8443"], "allowCredentials": true } }),
                "response.cors.allowOrigins[0]: any page below a domain that is everybody's",
            ),
            (
                json!({ "cors": { "allowOrigins": ["null"] } }),
                "allowOrigins[0]: any page can be the origin `null`",
            ),
            (json!({ "cors": { "allowOrigins": ["https://A"] } }), "no origin, which is in lower case"),
            (json!({ "cors": { "allowOrigins": ["https://a:443"] } }), "browsers leave out the port"),
            (json!({ "addHeaders": { "X-A": "b" } }), "response.addHeaders.X-A: no header name"),
            (json!({ "addHeaders": { "vary": "b" } }), "response.addHeaders.vary: `vary` is set by"),
            (json!({ "addHeaders": { "grpc-status": "0" } }), "`grpc-status` is set by"),
            (json!({ "addHeaders": { "access-control-allow-origin": "*" } }), "is one of `cors`"),
            (
                json!({ "addHeaders": { "x-a": "b\r\nx: y" } }),
                "response.addHeaders.x-a: expected printable ASCII",
            ),
            (json!({ "addHeaders": { "x-a": " b" } }), "response.addHeaders.x-a: expected printable ASCII"),
        ] {
            let error = parse(&raw).unwrap_err();
            assert!(error.contains(expected), "{raw}: {error}");
        }
        for origin in [
            "app.example",
            "https://",
            "https://a/",
            "https://a b",
            "https://*",
            "https://a.*.b",
            "https://a:x",
            "://a",
        ] {
            let raw = json!({ "cors": { "allowOrigins": [origin] } });
            assert!(parse(&raw).unwrap_err().contains("no origin"), "{origin}");
        }
        for origin in
            ["http://localhost:3000", "https://[::1]", "https://[::1]:8443", "capacitor://localhost"]
        {
            assert!(parse(&json!({ "cors": { "allowOrigins": [origin] } })).is_ok(), "{origin}");
        }
    }

    #[test]
    fn a_template_is_filled_once() {
        let body = |template: &str, title: &str| {
            let (kind, request_id) = ("about:blank", Some("r"));
            let problem = Problem {
                kind,
                title,
                status: 401,
                detail: None,
                code: "c",
                request_id,
                violated_policies: &[],
            };
            let template = Template { content_type: "a/b".to_owned(), template: template.to_owned() };
            let body = Body::Template(template);
            let (media_type, body) = body.of(&problem, "text/plain", &[("limit", "l")]).unwrap();
            assert_eq!(media_type, "a/b");
            String::from_utf8(body).unwrap()
        };
        assert_eq!(
            body(r#"{"a":"{code}","b":{status},"c":"{title} {requestId} {limit}"}"#, "t"),
            r#"{"a":"c","b":401,"c":"t r l"}"#
        );
        assert_eq!(body("{title}{", "{code}"), "{code}{");
        assert_eq!(body("{other} {co{code}", ""), "{other} {coc");
    }

    #[test]
    fn only_a_harmless_request_id_is_repeated() {
        assert_eq!(printable_id(b"a-Z_0.9:"), Some("a-Z_0.9:"));
        for wrong in [&b""[..], b"a b", b"a\"", b"{code}", b"<", b"\xff", &[b'a'; 129]] {
            assert_eq!(printable_id(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        /// Whatever a client sends as its origin: what it gets back is an origin that was configured, or below one.
        #[test]
        fn no_origin_is_repeated_that_was_not_allowed(origin in "(https?://)?[a.:/@*x-]{0,12}(\\.example|/|:1)?") {
            let raw = json!({ "cors": { "allowOrigins": ["https://a.example", "https://*.x.example"] } });
            let lines = headers(&raw, Some(&origin));
            let allowed = lines.iter().any(|line| line.starts_with("access-control-allow-origin"));
            let host = origin.strip_prefix("https://").unwrap_or_default();
            let below = host.strip_suffix(".x.example").is_some_and(|rest| !rest.is_empty() && !rest.contains(['/', ':', '@', '*']));
            prop_assert_eq!(allowed, origin == "https://a.example" || below);
        }

        #[test]
        fn any_template_is_filled(template in "[a{}code]{0,20}") {
            let _ = filled(&template, |name| (name == "code").then_some("{code}"));
        }
    }
}
