//! What a denial carries beyond its reason: a body of the user's, headers of the user's, and what a browser
//! needs so that a page may read it.

use serde_json::Value;

#[cfg(not(target_os = "wasi"))]
use crate::config::Definitions;
use crate::config::{
    ByName, Code, ConfigReader, ErrorList, FromConfig, JsonPath, NonEmpty, not_one_of, one_of, shown_name,
};
use crate::reply::{Problem, Reply};
use crate::request::header_names::header_name;

crate::config_object! {
    /// A body of the operator's own.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Template {
        /// The media type of the body, such as `text/html`.
        pub content_type: String,
        /// The body. `{code}`, `{status}`, `{title}` and `{requestId}` in it are replaced, and in rate-limit
        /// `{limit}` and `{retryAfter}`, too. None of these values holds a quote, a backslash or a `<`.
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
        serde_json::json!({ "anyOf": [
            { "const": "problem+json", "description": "The body is a JSON object of RFC 9457." },
            { "const": "text", "description": "The body is a line of text." },
            { "const": "none", "description": "The reply has no body." },
            template,
        ] })
    }

    #[cfg(not(target_os = "wasi"))]
    fn to_json(&self) -> Option<Value> {
        match self {
            Self::Problem => Some("problem+json".into()),
            Self::Text => Some("text".into()),
            Self::Empty => Some("none".into()),
            Self::Template(template) => template.to_json(),
        }
    }
}

impl Body {
    /// Notes under `path` what is wrong with it. `more` are names that a template may have beside those of
    /// every problem.
    pub fn check(&self, more: &[&str], path: &JsonPath, errors: &mut ErrorList) {
        let Self::Template(Template { content_type, template }) = self else { return };
        if !is_quotable(content_type) {
            errors.add(&path.field("contentType"), "expected a media type");
        }
        for part in template.split('{').skip(1) {
            let name = part.split_once('}').map(|(name, _)| name).unwrap_or_default();
            let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphabetic());
            let known: Vec<&str> =
                ["code", "status", "title", "requestId"].iter().chain(more).copied().collect();
            if is_name && !known.contains(&name) {
                let known: Vec<String> = known.iter().map(|name| format!("{{{name}}}")).collect();
                let message =
                    format!("`{{{}}}` is not replaced; expected {}", shown_name(name), one_of(&known));
                errors.note(Code::UnknownPlaceholder, &path.field("template"), message);
                return;
            }
        }
    }

    /// Media type and bytes; nothing for no body. `text_type` is the media type of a line of text, and `more`
    /// are names that a template may have beside those of every problem, with their values.
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
    /// The pages that may read a denial. The filter runs before Envoy's own CORS filter, which adds nothing
    /// to denials.
    #[derive(Debug, Clone, Default)]
    pub struct RawCors {
        /// The origins of these pages: `https://app.example`, `https://*.example` for all hosts below one, or
        /// `*` alone for any. The denial then has `access-control-allow-origin`,
        /// `access-control-expose-headers` with the names of its headers, and `vary: origin`.
        pub allow_origins: NonEmpty<Vec<String>>,
        /// Whether the pages may also read denials of requests that were made with cookies or client
        /// certificates. It cannot be combined with `*`, nor with a pattern such as `https://*.com`: at least
        /// two names must follow `*.`. A public suffix of two names, such as `co.uk`, is not known to the
        /// filter.
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
        /// The scheme, including `://`.
        scheme: String,
        /// The end of the host and the port, including the dot before them.
        suffix: String,
    },
}

impl Origin {
    fn parse(text: &str) -> Result<Self, String> {
        let expected = |what: &str| {
            format!(
                "is not an origin{what}; expected one such as `https://app.example` or `https://*.example`"
            )
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
mod tests;
