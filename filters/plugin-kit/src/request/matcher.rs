//! Which requests a rule or a limit is about: one matcher for all filters.

use std::net::Ipv6Addr;

use serde_json::Value;

#[cfg(not(target_os = "wasi"))]
use crate::config::Definitions;
use crate::config::{ByName, ConfigReader, ErrorList, FromConfig, JsonPath, NonEmpty};
use crate::host::Environment;
use crate::host::HostError;
use crate::request::address::{AddressMatch, Principal, RawAddressMatch, principal};
use crate::request::cel::{self, Expression};
use crate::request::claim::{ClaimValues, number_text};
use crate::request::exchange::Exchange;
use crate::request::headers::HeaderMap;
use crate::request::path::{PathCase, PathPattern};

crate::config_object! {
    /// The condition as a user writes it. Every part that is given must hold; within a list one entry is enough.
    #[derive(Debug, Clone, Default)]
    pub struct RawRequestMatch {
        /// Host names, without port: `api.example`, or `*.example` for all below `example`.
        pub hosts: NonEmpty<Vec<String>> = NonEmpty::default(),
        /// Methods, in capitals.
        pub methods: NonEmpty<Vec<String>> = NonEmpty::default(),
        /// All methods but these.
        pub methods_except: NonEmpty<Vec<String>> = NonEmpty::default(),
        /// Patterns of paths, see [`PathPattern`].
        pub paths: NonEmpty<Vec<String>> = NonEmpty::default(),
        /// Regular expressions (RE2) of paths, evaluated by the host; each is about the whole path.
        pub path_regexes: NonEmpty<Vec<String>> = NonEmpty::default(),
        /// Tests of header values by header name.
        pub headers: NonEmpty<ByName<RawValueTest>> = NonEmpty::default(),
        /// A test of the client's address.
        pub source_address: Option<RawAddressMatch>,
        /// Identities of peers (SPIFFE IDs), by their certificates.
        pub principals: NonEmpty<Vec<String>> = NonEmpty::default(),
    }
}

crate::config_object! {
    /// A test of the values that a header or a claim has.
    #[derive(Debug, Clone, Default)]
    pub struct RawValueTest {
        /// One of the values is one of these.
        pub any_of: NonEmpty<Vec<RawText>> = NonEmpty::default(),
        /// Each of these is one of the values.
        pub all_of: NonEmpty<Vec<RawText>> = NonEmpty::default(),
        /// None of the values is one of these. Holds where there is no value.
        pub none_of: NonEmpty<Vec<RawText>> = NonEmpty::default(),
        /// There is a value, or there is none. A claim that is null is not there.
        pub present: Option<bool>,
    }
}

/// What a value is compared with: a text, which is the whole value, or an object that says how.
#[derive(Debug, Clone)]
pub enum RawText {
    /// The whole value.
    Whole(String),
    /// As it says.
    As(RawTextTest),
}

crate::config_object! {
    /// How a value is compared: exactly one of `exact`, `prefix`, `suffix` and `regex`.
    #[derive(Debug, Clone, Default)]
    pub struct RawTextTest {
        /// It is the whole value.
        pub exact: Option<String>,
        /// The value begins with it.
        pub prefix: Option<String>,
        /// The value ends with it.
        pub suffix: Option<String>,
        /// A regular expression (RE2) about the whole value, evaluated by the host. Not for claims.
        pub regex: Option<String>,
        /// The case of ASCII letters does not count.
        pub ignore_case: bool = false,
    }
}

impl From<&str> for RawText {
    fn from(text: &str) -> Self {
        Self::Whole(text.to_owned())
    }
}

impl FromConfig for RawText {
    fn read(value: &Value, reader: &mut ConfigReader) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self::Whole(text.clone())),
            Value::Object(_) => RawTextTest::read(value, reader).map(Self::As),
            _ => reader.expected("a text, or an object such as `{ prefix: application/ }`", value),
        }
    }

    #[cfg(not(target_os = "wasi"))]
    fn schema(definitions: &mut Definitions) -> Value {
        // A text with `*` is refused.
        let text = serde_json::json!({ "type": "string", "pattern": "^[^*]*$" });
        serde_json::json!({ "anyOf": [text, RawTextTest::schema(definitions)] })
    }
}

/// Whether something holds; `None` where that is not known: in doubt.
type Truth = Result<Option<bool>, HostError>;

/// Whether one of them holds; in doubt where none does, and one is.
fn any<T>(items: impl IntoIterator<Item = T>, holds: impl Fn(T) -> Truth) -> Truth {
    let mut found = Some(false);
    for item in items {
        match holds(item)? {
            Some(true) => return Ok(Some(true)),
            Some(false) => {}
            None => found = None,
        }
    }
    Ok(found)
}

/// Whether all of them hold; in doubt where one is, and no other does not.
fn all<T>(items: impl IntoIterator<Item = T>, holds: impl Fn(T) -> Truth) -> Truth {
    not(any(items, |item| not(holds(item))))
}

fn not(truth: Truth) -> Truth {
    truth.map(|truth| truth.map(|truth| !truth))
}

/// What a value is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TextTest {
    kind: Comparison,
    text: Vec<u8>,
    /// Of a claim: the number that the whole text is, as claims have it, where that is another text.
    number: Option<Vec<u8>>,
    ignore_case: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Exact,
    Prefix,
    Suffix,
    Regex(Expression),
}

impl TextTest {
    /// Without an `environment`, which evaluates them, there are no regular expressions.
    fn compile(
        raw: &RawText,
        environment: Option<&dyn Environment>,
        path: &JsonPath,
        errors: &mut ErrorList,
    ) -> Option<Self> {
        let raw = match raw {
            RawText::Whole(text) if text.contains('*') => {
                errors.add(
                    path,
                    "a text with `*` would be compared as it stands; expected `{ prefix: … }`, `{ suffix: … }` or `{ regex: … }`, \
                     or `{ exact: … }` for a value with `*`",
                );
                return None;
            }
            RawText::Whole(text) => &RawTextTest { exact: Some(text.clone()), ..RawTextTest::default() },
            RawText::As(raw) => raw,
        };
        if [&raw.prefix, &raw.suffix, &raw.regex].into_iter().flatten().any(String::is_empty) {
            errors.add(
                path,
                "expected a text that is not empty; `present: true` beside the list holds for any value",
            );
            return None;
        }
        let kinds = [
            (Comparison::Exact, &raw.exact),
            (Comparison::Prefix, &raw.prefix),
            (Comparison::Suffix, &raw.suffix),
        ];
        let mut given = kinds.into_iter().filter_map(|(kind, text)| Some((kind, text.as_ref()?)));
        let (kind, text) = match (given.next(), given.next(), &raw.regex) {
            (Some(one), None, None) => one,
            (None, None, Some(regex)) => {
                let path = path.field("regex");
                let Some(environment) = environment else {
                    errors.add(
                        &path,
                        "a claim is tested by no regular expression; expected `exact`, `prefix` or `suffix`",
                    );
                    return None;
                };
                let flag = if raw.ignore_case { "(?i)" } else { "" };
                let compiled = Expression::text_matches(&format!("{flag}{regex}"), environment);
                (Comparison::Regex(errors.check(&path, compiled)?), regex)
            }
            _ => {
                errors.add(path, "expected exactly one of `exact`, `prefix`, `suffix` and `regex`");
                return None;
            }
        };
        let number = number_text(text)
            .filter(|number| kind == Comparison::Exact && environment.is_none() && number != text);
        let number = number.map(String::into_bytes);
        Some(Self { kind, text: text.clone().into_bytes(), number, ignore_case: raw.ignore_case })
    }

    fn holds(&self, value: &[u8], regex: Regexes<'_>) -> Truth {
        let part = match self.kind {
            Comparison::Exact => Some(value),
            Comparison::Prefix => value.get(..self.text.len()),
            Comparison::Suffix => {
                value.len().checked_sub(self.text.len()).and_then(|start| value.get(start..))
            }
            Comparison::Regex(expression) => return regex(expression, value),
        };
        let holds = part.is_some_and(|part| {
            if self.ignore_case { part.eq_ignore_ascii_case(&self.text) } else { part == self.text }
        });
        Ok(Some(holds || self.number.as_deref() == Some(value)))
    }
}

/// How a regular expression is evaluated.
type Regexes<'a> = &'a dyn Fn(Expression, &[u8]) -> Truth;

/// Evaluates a regular expression. What is no UTF-8 is not for it to judge: `.` does not match such bytes.
fn matches_regex(expression: Expression, text: &[u8], exchange: &Exchange<'_>) -> Truth {
    match std::str::from_utf8(text) {
        Ok(_) => expression.holds(exchange, Some((cel::TEXT, text))),
        Err(_) => Ok(None),
    }
}

/// A test of the values that a header or a claim has; all parts that are given must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueTest {
    any_of: Vec<TextTest>,
    all_of: Vec<TextTest>,
    none_of: Vec<TextTest>,
    present: Option<bool>,
}

impl ValueTest {
    /// Reads a test of a claim, or notes under `path` what is wrong with it.
    pub fn compile(raw: &RawValueTest, path: &JsonPath, errors: &mut ErrorList) -> Option<Self> {
        Self::compile_with(raw, None, path, errors)
    }

    /// The same of a header, whose values regular expressions can test where there is an `environment`.
    fn compile_with(
        raw: &RawValueTest,
        environment: Option<&dyn Environment>,
        path: &JsonPath,
        errors: &mut ErrorList,
    ) -> Option<Self> {
        if raw.any_of.is_empty() && raw.all_of.is_empty() && raw.none_of.is_empty() && raw.present.is_none() {
            errors.add(path, "tests nothing; expected `anyOf`, `allOf`, `noneOf` or `present`");
            return None;
        }
        let mut list = |texts: &[RawText], name: &str| {
            let path = path.field(name);
            let compiled = texts
                .iter()
                .enumerate()
                .filter_map(|(n, text)| TextTest::compile(text, environment, &path.index(n), errors));
            let mut tests: Vec<TextTest> = compiled.collect();
            // Those that cost host calls last.
            tests.sort_by_key(|test| matches!(test.kind, Comparison::Regex(_)));
            (tests.len() == texts.len()).then_some(tests)
        };
        let lists = (list(&raw.any_of, "anyOf"), list(&raw.all_of, "allOf"), list(&raw.none_of, "noneOf"));
        let (Some(any_of), Some(all_of), Some(none_of)) = lists else { return None };
        Some(Self { any_of, all_of, none_of, present: raw.present })
    }

    /// Whether the test holds for a header with these values.
    fn truth_of_header<'a>(
        &self,
        values: impl Iterator<Item = &'a [u8]> + Clone,
        regex: Regexes<'_>,
    ) -> Truth {
        let present = values.clone().next().is_some();
        self.truth(values, present, false, regex)
    }

    /// Whether the test holds for a claim; `None` where that cannot be told, since the claim has something that no text is
    /// equal or unequal to. A demand then fails, a limit counts, and an exemption does not exempt.
    pub fn decides_claim(&self, claim: &ClaimValues<'_>) -> Option<bool> {
        let known = claim.known().iter().map(|value| value.as_bytes());
        // There is no regular expression in it, and so no host to fail.
        self.truth(known, claim.is_present(), claim.has_more(), &|_, _| Ok(None)).ok().flatten()
    }

    /// Whether the test holds for something that is `present` or not, of whose values these are known, and that has `more`.
    #[allow(clippy::needless_pass_by_value)]
    fn truth<'a>(
        &self,
        known: impl Iterator<Item = &'a [u8]> + Clone,
        present: bool,
        more: bool,
        regex: Regexes<'_>,
    ) -> Truth {
        if self.present.is_some_and(|wanted| wanted != present) {
            return Ok(Some(false));
        }
        let has = |test: &TextTest| {
            let found = any(known.clone(), |value| test.holds(value, regex))?;
            Ok(found.filter(|found| *found || !more))
        };
        let parts: [&dyn Fn() -> Truth; 3] = [
            &|| if self.any_of.is_empty() { Ok(Some(true)) } else { any(&self.any_of, has) },
            &|| all(&self.all_of, has),
            &|| not(any(&self.none_of, has)),
        ];
        all(parts, |part| part())
    }
}

/// What a matcher looks at, found in one walk over the head.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `:authority`, with a port when the client sent one.
    pub authority: &'a [u8],
    /// `:method`.
    pub method: &'a [u8],
    /// `:path`, with the query.
    pub target: &'a [u8],
    head: &'a HeaderMap,
}

impl<'a> Request<'a> {
    /// Finds the pseudo-headers.
    pub fn of(head: &'a HeaderMap) -> Self {
        let mut request =
            Self { authority: b"".as_slice(), method: b"".as_slice(), target: b"".as_slice(), head };
        for (name, value) in head {
            match name {
                b":authority" => request.authority = value,
                b":method" => request.method = value,
                b":path" => request.target = value,
                _ => {}
            }
        }
        request
    }

    /// The host without port and without a trailing dot; `None` where the authority is no `host[:port]`: servers could differ
    /// in what host it names.
    fn host(&self) -> Option<Host<'a>> {
        if let Some(literal) = self.authority.strip_prefix(b"[") {
            let end = literal.iter().position(|byte| *byte == b']')?;
            let (address, port) = literal.split_at_checked(end)?;
            return is_port(port.strip_prefix(b"]")?).then(|| Host::address(address)).flatten();
        }
        let colon = self.authority.iter().position(|byte| *byte == b':').unwrap_or(self.authority.len());
        let (name, port) = self.authority.split_at_checked(colon)?;
        is_port(port).then(|| Host::name(name)).flatten()
    }

    /// Whether the authority is a host with or without a port, so that conditions on hosts can be decided.
    pub fn has_host(&self) -> bool {
        self.host().is_some()
    }
}

/// Nothing, or a colon and digits.
fn is_port(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b":");
    text.is_empty() || digits.is_some_and(|port| !port.is_empty() && port.iter().all(u8::is_ascii_digit))
}

/// A host (RFC 3986 section 3.2.2), of those that services have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host<'a> {
    /// A name or an IPv4 address, without a trailing dot.
    Name(&'a [u8]),
    Address(Ipv6Addr),
}

impl<'a> Host<'a> {
    /// Reads what stands between brackets.
    fn address(text: &[u8]) -> Option<Self> {
        std::str::from_utf8(text).ok()?.parse().ok().map(Self::Address)
    }

    fn name(text: &'a [u8]) -> Option<Self> {
        let name = text.strip_suffix(b".").unwrap_or(text);
        let good = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_~".contains(byte);
        let mut labels = name.split(|byte| *byte == b'.');
        labels.all(|label| !label.is_empty() && label.iter().all(good)).then_some(Self::Name(name))
    }
}

/// A condition on requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestMatch {
    hosts: Vec<HostPattern>,
    methods: Vec<Vec<u8>>,
    methods_except: Vec<Vec<u8>>,
    paths: Vec<PathPattern>,
    path_regexes: Vec<Expression>,
    headers: Vec<(String, ValueTest)>,
    source_address: Option<AddressMatch>,
    principals: Vec<Principal>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostPattern {
    Name(Vec<u8>),
    /// Starts with the dot.
    Below(Vec<u8>),
    /// However it is written.
    Address(Ipv6Addr),
}

impl HostPattern {
    fn parse(text: &str) -> Result<Self, String> {
        let literal = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let below = text.strip_prefix("*.");
        let host = match literal {
            Some(address) => Host::address(address.as_bytes()),
            None => Host::name(below.unwrap_or(text).as_bytes()),
        };
        match host {
            Some(Host::Address(address)) => Ok(Self::Address(address)),
            Some(Host::Name(name)) if below.is_some() => {
                Ok(Self::Below([b".", name].concat().to_ascii_lowercase()))
            }
            Some(Host::Name(name)) => Ok(Self::Name(name.to_ascii_lowercase())),
            None => Err("no host; expected `api.example` or `*.example`, without port".to_owned()),
        }
    }

    fn matches(&self, host: Host<'_>) -> bool {
        match (self, host) {
            (Self::Name(name), Host::Name(host)) => name.eq_ignore_ascii_case(host),
            (Self::Below(suffix), Host::Name(host)) => {
                let start = host.len().checked_sub(suffix.len()).filter(|start| *start > 0);
                let end = start.and_then(|start| host.get(start..));
                end.is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            }
            (Self::Address(address), Host::Address(host)) => *address == host,
            _ => false,
        }
    }
}

impl RequestMatch {
    /// Reads a condition, or notes under `path` what is wrong with it.
    pub fn compile(
        raw: &RawRequestMatch,
        case: PathCase,
        environment: &dyn Environment,
        path: &JsonPath,
        errors: &mut ErrorList,
    ) -> Option<Self> {
        fn list<T>(
            texts: &[String],
            path: &JsonPath,
            errors: &mut ErrorList,
            parse: impl Fn(&str) -> Result<T, String>,
        ) -> Vec<T> {
            let parsed = |(n, text): (usize, &String)| errors.check(&path.index(n), parse(text));
            texts.iter().enumerate().filter_map(parsed).collect()
        }
        let method = |text: &str| {
            let wrong =
                text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
            if wrong {
                Err("no method; expected one in capitals, such as `GET`".to_owned())
            } else {
                Ok(text.as_bytes().to_vec())
            }
        };
        let hosts = list(&raw.hosts, &path.field("hosts"), errors, HostPattern::parse);
        let methods = list(&raw.methods, &path.field("methods"), errors, method);
        let methods_except = list(&raw.methods_except, &path.field("methodsExcept"), errors, method);
        if !methods.is_empty() && !methods_except.is_empty() {
            errors.add(path, "has `methods` and `methodsExcept`; expected one of them");
        }
        let paths = list(&raw.paths, &path.field("paths"), errors, |text| PathPattern::parse(text, case));
        let regex = |text: &str| {
            // Paths are folded to lower case where case does not matter.
            let flag = if case == PathCase::Insensitive { "(?i)" } else { "" };
            Expression::text_matches(&format!("{flag}{text}"), environment)
        };
        let path_regexes = list(&raw.path_regexes, &path.field("pathRegexes"), errors, regex);
        let mut headers = Vec::new();
        for (name, test) in &raw.headers.0 {
            let path = path.field("headers").field(name);
            if let Err(message) = header_name(name) {
                errors.add(&path, message);
            }
            if let Some(test) = ValueTest::compile_with(test, Some(environment), &path, errors) {
                headers.push((name.clone(), test));
            }
        }
        let source_address = match &raw.source_address {
            Some(raw) => Some(AddressMatch::compile(raw, &path.field("sourceAddress"), errors, environment)?),
            None => None,
        };
        let principals = list(&raw.principals, &path.field("principals"), errors, Principal::parse);
        Some(Self {
            hosts,
            methods,
            methods_except,
            paths,
            path_regexes,
            headers,
            source_address,
            principals,
        })
    }

    /// Whether the condition holds for `request` when its path is read as `reading` (see [`crate::request::path::Readings`]); `None`
    /// where that is not known, as where a regular expression has no value: in doubt.
    ///
    /// # Errors
    /// The host did not answer.
    pub fn matches(
        &self,
        exchange: &Exchange<'_>,
        request: &Request<'_>,
        reading: &[u8],
    ) -> Result<Option<bool>, HostError> {
        if !self.method_matches(request) {
            return Ok(Some(false));
        }
        let host = || Ok(self.host_matches(request));
        let path = || {
            if (self.paths.is_empty() && self.path_regexes.is_empty())
                || self.paths.iter().any(|pattern| pattern.matches(reading))
            {
                return Ok(Some(true));
            }
            any(&self.path_regexes, |regex| matches_regex(*regex, reading, exchange))
        };
        let header = |(name, test): &(String, ValueTest)| {
            test.truth_of_header(request.head.all(name), &|regex, value| {
                matches_regex(regex, value, exchange)
            })
        };
        let headers = || all(&self.headers, header);
        let principal = || self.principal_matches(exchange);
        let address = || self.source_address.as_ref().map_or(Ok(Some(true)), |test| test.holds(exchange));
        // The regular expressions of paths last: each costs two host calls.
        let parts: [&dyn Fn() -> Truth; 5] = [&host, &headers, &principal, &address, &path];
        all(parts, |part| part())
    }

    /// A peer without a certificate has no identity.
    fn principal_matches(&self, exchange: &Exchange<'_>) -> Truth {
        if self.principals.is_empty() {
            return Ok(Some(true));
        }
        let peer = principal(exchange)?;
        Ok(Some(peer.is_some_and(|peer| self.principals.iter().any(|principal| principal.is(&peer)))))
    }

    fn method_matches(&self, request: &Request<'_>) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|method| method == request.method))
            && !self.methods_except.iter().any(|method| method == request.method)
    }

    /// In doubt where the request names no host.
    fn host_matches(&self, request: &Request<'_>) -> Option<bool> {
        if self.hosts.is_empty() {
            return Some(true);
        }
        let host = request.host()?;
        Some(self.hosts.iter().any(|pattern| pattern.matches(host)))
    }

    /// Whether it looks at the host.
    pub fn reads_host(&self) -> bool {
        !self.hosts.is_empty()
    }

    /// Whether it is about this method by name.
    pub fn names_method(&self, method: &[u8]) -> bool {
        self.methods.iter().any(|named| named == method)
    }

    /// Whether it holds for every request, so that none needs to be looked at.
    pub fn is_always(&self) -> bool {
        *self == Self::default()
    }

    /// The first segments of all paths for which it can hold; `None` where the path can be any.
    pub fn first_segments(&self) -> Option<Vec<&[u8]>> {
        if self.paths.is_empty() || !self.path_regexes.is_empty() {
            return None;
        }
        self.paths.iter().map(PathPattern::first_segment).collect()
    }

    /// Whether it looks at the path.
    pub fn reads_path(&self) -> bool {
        !self.paths.is_empty() || !self.path_regexes.is_empty()
    }
}

/// Checks the name of a header, as a configuration gives it: lower case, since Envoy keeps names so.
///
/// # Errors
/// Says what is wrong.
pub fn header_name(name: &str) -> Result<(), String> {
    let good =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !name.is_empty() && name.bytes().all(good) {
        return Ok(());
    }
    Err("no header name; expected lower-case letters, digits and `-`".to_owned())
}

/// Headers that browsers, proxies and servers act on, or that say who a client is; and beginnings of such names.
const RESERVED: [&str; 37] = [
    "authorization",
    "cache-control",
    "connection",
    "cookie",
    "date",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "location",
    "origin",
    "range",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
    "www-authenticate",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
    "access-control-*",
    "content-*",
    "grpc-*",
    "proxy-*",
    "sec-*",
    "x-envoy-*",
];

/// Checks the name of a header that gets a value of the filter's own, such as a claim.
///
/// # Errors
/// It is no header name, or that of a header with a meaning of its own.
pub fn output_header_name(name: &str) -> Result<(), String> {
    header_name(name)?;
    let is_named = |reserved: &&&str| match reserved.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == **reserved,
    };
    match RESERVED.iter().find(is_named) {
        Some(reserved) => Err(format!(
            "`{reserved}` has a meaning of its own to browsers, proxies or servers; expected another header, such as `x-user-id`"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{AnyCel, FakeHost, Node};

    fn compile(json: &str) -> Result<RequestMatch, String> {
        let raw = crate::config::read::<RawRequestMatch>(&serde_json::from_str(json).unwrap())
            .map_err(|e| e.to_string())?;
        let mut errors = ErrorList::default();
        let compiled = RequestMatch::compile(
            &raw,
            PathCase::Sensitive,
            &|_: &str| None,
            &JsonPath::root().field("match"),
            &mut errors,
        );
        errors.finish(compiled).map_err(|errors| errors.to_string())
    }

    fn matches(json: &str, headers: &[(&str, &str)]) -> bool {
        let head = HeaderMap::from_pairs(headers.iter().copied());
        let request = Request::of(&head);
        let facts = crate::testing::FakeHost::default();
        compile(json).unwrap().matches(&Exchange::new(1, &facts), &request, request.target).unwrap()
            == Some(true)
    }

    const REQUEST: [(&str, &str); 6] = [
        (":authority", "API.example.:8080"),
        (":path", "/a/b"),
        (":method", "GET"),
        (":scheme", "http"),
        ("x-env", "test"),
        ("x-env", "blue"),
    ];

    #[test]
    fn nothing_said_matches_everything() {
        assert!(compile("{}").unwrap().is_always());
        assert!(matches("{}", &REQUEST));
        assert!(!compile(r#"{"methods":["GET"]}"#).unwrap().is_always());
    }

    #[test]
    fn every_part_must_hold() {
        assert!(matches(r#"{"paths":["/x","/a/*"],"methods":["GET"],"hosts":["api.example"]}"#, &REQUEST));
        assert!(!matches(r#"{"paths":["/a/*"],"methods":["POST"]}"#, &REQUEST));
        assert!(!matches(r#"{"paths":["/b"],"methods":["GET"]}"#, &REQUEST));
        assert!(!matches(r#"{"paths":["/a/b"],"hosts":["other.example"]}"#, &REQUEST));
    }

    #[test]
    fn methods_except() {
        assert!(!matches(r#"{"methodsExcept":["GET","HEAD"]}"#, &REQUEST));
        assert!(matches(r#"{"methodsExcept":["POST"]}"#, &REQUEST));
    }

    #[test]
    fn hosts_ignore_case_port_and_trailing_dot() {
        assert!(matches(r#"{"hosts":["api.example"]}"#, &REQUEST));
        assert!(matches(r#"{"hosts":["*.example"]}"#, &REQUEST));
        assert!(!matches(r#"{"hosts":["*.api.example"]}"#, &REQUEST));
        assert!(!matches(r#"{"hosts":["*.example"]}"#, &[(":authority", ".example")]));
        assert!(!matches(r#"{"hosts":["*.example"]}"#, &[(":authority", "badexample")]));
        assert!(matches(r#"{"hosts":["[::1]"]}"#, &[(":authority", "[::1]:80")]));
        assert!(matches(r#"{"hosts":["[::1]"]}"#, &[(":authority", "[::1]")]));
        assert!(matches(r#"{"hosts":["[0:0::1]"]}"#, &[(":authority", "[::0001]:80")]));
        assert!(matches(r#"{"hosts":["api.Example."]}"#, &REQUEST));
        assert!(matches(r#"{"hosts":["*.Example."]}"#, &REQUEST));
        assert!(matches(r#"{"hosts":["10.0.0.1"]}"#, &[(":authority", "10.0.0.1:8080")]));
    }

    #[test]
    fn a_condition_on_hosts_is_in_doubt_where_the_authority_is_no_host() {
        let condition = compile(r#"{"hosts":["internal.example","*.example","[::1]"],"methods":["GET"]}"#);
        let condition = condition.unwrap();
        let facts = FakeHost::default();
        let exchange = Exchange::new(1, &facts);
        let holds = |authority: &str, method: &str| {
            let head = HeaderMap::from_pairs([(":authority", authority), (":method", method)]);
            let request = Request::of(&head);
            let holds = condition.matches(&exchange, &request, b"/").unwrap();
            assert!(method != "GET" || request.has_host() == holds.is_some(), "{authority}");
            holds
        };
        for odd in [
            "",
            ".",
            ":80",
            "internal.example:",
            "internal.example:80:80",
            "internal.example:80x",
            "internal.example:+80",
            "u@internal.example",
            "u:p@internal.example",
            "internal.example..",
            "internal..example",
            ".deep.example",
            "internal%2eexample",
            "internal.example%00",
            "internal.example/",
            "internal.example?x",
            "internal.example#x",
            "internal.example\\",
            "internal.example ",
            "internal.example,other",
            "ınternal.example",
            "[::1",
            "::1",
            "[::1]x",
            "[::1]:",
            "[::1%25eth0]",
            "[v1.x]",
            "[internal.example]",
            "[::1].",
            "x[::1]",
        ] {
            assert_eq!(holds(odd, "GET"), None, "{odd}");
            // What another part decides is decided.
            assert_eq!(holds(odd, "POST"), Some(false), "{odd}");
        }
        for (host, expected) in [
            ("internal.example", true),
            ("INTERNAL.example.:8443", true),
            ("a_b.example", true),
            ("example", false),
            ("[::2]", false),
            ("192.0.2.1:80", false),
        ] {
            assert_eq!(holds(host, "GET"), Some(expected), "{host}");
        }
        let without = compile(r#"{"methods":["GET"]}"#).unwrap();
        assert!(condition.reads_host() && !without.reads_host());
        let head = HeaderMap::from_pairs([(":authority", "a@b"), (":method", "GET")]);
        assert_eq!(without.matches(&exchange, &Request::of(&head), b"/"), Ok(Some(true)));
    }

    #[test]
    fn a_header_test_sees_every_value() {
        assert!(matches(r#"{"headers":{"x-env":{"anyOf":["blue","red"]}}}"#, &REQUEST));
        assert!(matches(r#"{"headers":{"x-env":{"allOf":["blue","test"]}}}"#, &REQUEST));
        assert!(!matches(r#"{"headers":{"x-env":{"allOf":["blue","red"]}}}"#, &REQUEST));
        assert!(!matches(r#"{"headers":{"x-env":{"noneOf":["blue"]}}}"#, &REQUEST));
        assert!(matches(r#"{"headers":{"x-other":{"noneOf":["blue"]}}}"#, &REQUEST));
        assert!(matches(r#"{"headers":{"x-other":{"present":false},"x-env":{"present":true}}}"#, &REQUEST));
        assert!(!matches(r#"{"headers":{"x-env":{"present":false}}}"#, &REQUEST));
    }

    #[test]
    fn a_claim_test_is_undecided_where_no_text_can_be_compared() {
        let decides = |test: &str, claim: &str| {
            let raw = crate::config::read::<RawValueTest>(&serde_json::from_str(test).unwrap()).unwrap();
            let test = ValueTest::compile(&raw, &JsonPath::root(), &mut ErrorList::default()).unwrap();
            let claim: Option<serde_json::Value> =
                (!claim.is_empty()).then(|| serde_json::from_str(claim).unwrap());
            test.decides_claim(&ClaimValues::of(claim.as_ref(), false))
        };
        let (yes, no, undecided) = (Some(true), Some(false), None);
        let claims =
            ["", "null", r#""a""#, r#""b""#, "[]", r#"["a","b"]"#, r#"{"a":1}"#, "[{}]", r#"["a",{}]"#];
        for (test, expected) in [
            (r#"{"present":true}"#, [no, no, yes, yes, yes, yes, yes, yes, yes]),
            (r#"{"present":false}"#, [yes, yes, no, no, no, no, no, no, no]),
            (r#"{"anyOf":["a","c"]}"#, [no, no, yes, no, no, yes, undecided, undecided, yes]),
            (r#"{"allOf":["a"]}"#, [no, no, yes, no, no, yes, undecided, undecided, yes]),
            (r#"{"allOf":["a","b"]}"#, [no, no, no, no, no, yes, undecided, undecided, undecided]),
            (r#"{"noneOf":["a","c"]}"#, [yes, yes, no, yes, yes, no, undecided, undecided, no]),
            (
                r#"{"noneOf":["c"],"present":true}"#,
                [no, no, yes, yes, yes, yes, undecided, undecided, undecided],
            ),
            (r#"{"noneOf":["c"],"present":false}"#, [yes, yes, no, no, no, no, no, no, no]),
        ] {
            for (claim, expected) in claims.iter().zip(expected) {
                assert_eq!(decides(test, claim), expected, "{test} {claim}");
            }
        }
    }

    #[test]
    fn numbers_of_claims_are_compared_however_they_are_written() {
        let decides = |test: &str, claim: &str| {
            let raw = crate::config::read::<RawValueTest>(&serde_json::from_str(test).unwrap()).unwrap();
            let test = ValueTest::compile(&raw, &JsonPath::root(), &mut ErrorList::default()).unwrap();
            let claim = crate::wire::json::value(claim.as_bytes()).unwrap();
            let decided = test.decides_claim(&ClaimValues::of(Some(&claim), false));
            let published = crate::request::claim::published_text(&claim).unwrap();
            assert_eq!(test.decides_claim(&ClaimValues::published(Some(&published), false)), decided);
            decided
        };
        let (yes, no, undecided) = (Some(true), Some(false), None);
        for (number, claim, equal) in [
            ("5", "5.0", yes),
            ("5", "5e0", yes),
            ("5", "0.5E+1", yes),
            ("5.0", "5", yes),
            ("5e0", "[1, 5.0]", yes),
            ("0.50", "0.5", yes),
            ("5e-1", "0.5", yes),
            ("0", "-0.0", yes),
            ("-7", "-7.0", yes),
            ("5", "50", no),
            ("5", "0.5", no),
            ("5", "-5", no),
            ("5", "\"5.0\"", no),
            ("5.0", "\"5.0\"", yes),
            ("9007199254740993", "9007199254740993", yes),
            ("9007199254740993.0", "9007199254740993", yes),
            ("9007199254740992", "9007199254740993", no),
            ("18446744073709551615", "18446744073709551615", yes),
            ("18446744073709551616", "18446744073709551615", no),
            // A double would be another number.
            ("9007199254740992", "9007199254740993.0", undecided),
            ("9007199254740993", "9007199254740993.0", undecided),
            ("18446744073709551616", "18446744073709551616", undecided),
            ("1e300", "1e300", undecided),
            ("a", "1e300", undecided),
        ] {
            assert_eq!(decides(&format!(r#"{{"anyOf":["{number}"]}}"#), claim), equal, "{number} {claim}");
            let none_of = decides(&format!(r#"{{"noneOf":["{number}"]}}"#), claim);
            assert_eq!(none_of, equal.map(|equal| !equal), "none of {number} {claim}");
        }
        // The value of a header is a text.
        assert!(!matches(r#"{"headers":{"x":{"anyOf":["5.0"]}}}"#, &[("x", "5")]));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_path() {
        for (json, path) in [
            (r#"{"paths":["/a","b"]}"#, "match.paths[1]: "),
            (r#"{"pathRegexes":["/a"]}"#, "match.pathRegexes[0]: the proxy evaluates no CEL"),
            (r#"{"methods":["get"]}"#, "match.methods[0]: "),
            (r#"{"hosts":["a.example:80"]}"#, "match.hosts[0]: "),
            (r#"{"hosts":["*a.example"]}"#, "match.hosts[0]: "),
            (r#"{"hosts":["a..example"]}"#, "match.hosts[0]: "),
            (r#"{"hosts":["*..example"]}"#, "match.hosts[0]: "),
            (r#"{"hosts":["[a]"]}"#, "match.hosts[0]: "),
            (r#"{"hosts":["*.[::1]"]}"#, "match.hosts[0]: "),
            (r#"{"hosts":["a.*"]}"#, "match.hosts[0]: "),
            (r#"{"methods":["GET"],"methodsExcept":["PUT"]}"#, "match: "),
            (r#"{"headers":{"X-Env":{"present":true}}}"#, "match.headers.X-Env: "),
            (r#"{"headers":{"x-env":{}}}"#, "match.headers.x-env: "),
            (r#"{"path":["/a"]}"#, "path: unknown field `path`"),
            (
                r#"{"principals":["mesh/a","ns/a/sa/b"]}"#,
                "match.principals[1]: a SPIFFE ID without its trust domain",
            ),
            (
                r#"{"sourceAddress":{"cidrs":["10.0.0.0/8"]}}"#,
                "match.sourceAddress: the node id of this proxy",
            ),
            (
                r#"{"sourceAddress":{"cidrs":["10.0.0.1/8"],"from":"envoy"}}"#,
                "match.sourceAddress.cidrs[0]: ",
            ),
            (r#"{"sourceAddress":{}}"#, "sourceAddress: missing field `cidrs`"),
        ] {
            let error = compile(json).unwrap_err();
            assert!(error.starts_with(path), "{json}: {error}");
        }
    }

    #[test]
    fn an_empty_part_is_refused_as_it_would_match_everything_or_nothing() {
        for (json, path) in [
            (r#"{"paths":["/a"],"hosts":[]}"#, "hosts"),
            (r#"{"methods":[]}"#, "methods"),
            (r#"{"methodsExcept":[]}"#, "methodsExcept"),
            (r#"{"paths":[],"methods":["GET"]}"#, "paths"),
            (r#"{"pathRegexes":[]}"#, "pathRegexes"),
            (r#"{"headers":{}}"#, "headers"),
            (r#"{"headers":{"x":{"anyOf":[]}}}"#, "headers.x.anyOf"),
            (r#"{"headers":{"x":{"allOf":[],"present":true}}}"#, "headers.x.allOf"),
            (r#"{"headers":{"x":{"noneOf":[],"anyOf":["a"]}}}"#, "headers.x.noneOf"),
            (r#"{"principals":[]}"#, "principals"),
            (r#"{"sourceAddress":{"cidrs":[],"from":"envoy"}}"#, "sourceAddress.cidrs"),
        ] {
            let expected = format!("{path}: is empty; expected at least one entry");
            assert!(compile(json).unwrap_err().starts_with(&expected), "{json}: {:?}", compile(json));
        }
        // A null is no list, and not as if nothing were written.
        assert_eq!(compile(r#"{"principals":null}"#).unwrap_err(), "principals: expected a list, found null");
        assert_eq!(
            compile(r#"{"sourceAddress":null}"#).unwrap_err(),
            "sourceAddress: expected an object, found null"
        );
        assert!(
            compile(r#"{"sourceAddress":{"cidrs":["10.0.0.0/8"],"from":"envoy","trustForwardedFrom":[]}}"#)
                .is_ok()
        );
    }

    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        for json in [
            r#"{"headers":{"x-key":{"anyOf":["s3cr3t*"]}}}"#,
            r#"{"headers":{"x-key":{"anyOf":[{"regex":"s3cr3t("}]}}}"#,
            r#"{"headers":{"s3cr3t ":{"present":true}}}"#,
            r#"{"pathRegexes":["s3cr3t("]}"#,
            r#"{"methods":["s3cr3t"]}"#,
            r#"{"hosts":["s3cr3t:"]}"#,
            r#"{"paths":["s3cr3t"]}"#,
            r#"{"paths":["/s3cr3t*"]}"#,
            r#"{"principals":["s3cr3t"]}"#,
            r#"{"sourceAddress":{"cidrs":["s3cr3t"],"from":"envoy"}}"#,
            r#"{"sourceAddress":{"cidrs":["10.0.0.0/8"],"from":"s3cr3t"}}"#,
            r#"{"hosts":"s3cr3t"}"#,
        ] {
            let error = compile(json).unwrap_err();
            assert!(!error.contains("s3cr3t"), "{error}");
        }
    }

    #[test]
    fn a_header_with_a_meaning_of_its_own_gets_no_value_of_the_filter() {
        for name in [
            "host",
            "cookie",
            "set-cookie",
            "transfer-encoding",
            "connection",
            "retry-after",
            "www-authenticate",
            "x-forwarded-for",
            "x-forwarded-client-cert",
            "x-forwarded-proto",
            "x-forwarded-host",
            "x-envoy-internal",
            "access-control-allow-origin",
            "content-type",
        ] {
            let error = output_header_name(name).unwrap_err();
            assert!(
                error.contains("has a meaning of its own") && error.contains("expected another header"),
                "{error}"
            );
        }
        for name in ["", "X-A", ":path", "a b"] {
            assert!(output_header_name(name).unwrap_err().starts_with("no header name; expected"), "{name}");
        }
        for name in ["x-user-id", "x-forwarded-user", "x-forwarded-email", "x-content-type", "contents"] {
            assert_eq!(output_header_name(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn the_client_is_known_by_its_address_and_the_peer_by_its_certificate() {
        let json =
            r#"{"sourceAddress":{"cidrs":["10.0.0.0/8"]},"principals":["mesh/ns/a/sa/b","mesh/ns/c/sa/d"]}"#;
        let raw = crate::config::read::<RawRequestMatch>(&serde_json::from_str(json).unwrap()).unwrap();
        let (path, mut errors) = (JsonPath::root(), ErrorList::default());
        let condition =
            RequestMatch::compile(&raw, PathCase::Sensitive, &Node::SIDECAR, &path, &mut errors).unwrap();
        assert!(!condition.is_always());
        let peer = |name: &str| {
            FakeHost::request("GET", "/")
                .property("source.address", "10.0.0.1:80")
                .property("connection.uri_san_peer_certificate", name)
        };
        let elsewhere = |facts: FakeHost| facts.property("source.address", "11.0.0.1:80");
        let claimed = |facts: FakeHost| facts.header("x-forwarded-for", "10.0.0.1");
        for (facts, expected) in [
            (peer("spiffe://mesh/ns/c/sa/d"), Some(true)),
            (peer("spiffe://mesh/ns/c/sa/other"), Some(false)),
            (peer(""), Some(false)),
            (FakeHost::request("GET", "/").property("source.address", "10.0.0.1:80"), Some(false)),
            (elsewhere(peer("spiffe://mesh/ns/c/sa/d")), Some(false)),
            (claimed(peer("spiffe://mesh/ns/c/sa/d")), None),
            (claimed(peer("spiffe://mesh/ns/c/sa/other")), Some(false)),
        ] {
            let exchange = Exchange::new(1, &facts);
            let head = exchange.headers().unwrap();
            assert_eq!(condition.matches(&exchange, &Request::of(&head), b"/"), Ok(expected), "{facts:?}");
        }
    }

    #[test]
    fn a_regular_expression_is_the_hosts_to_evaluate() {
        let raw =
            RawRequestMatch { path_regexes: vec!["/v[0-9]".to_owned()].into(), ..RawRequestMatch::default() };
        let compile = |case| {
            let (host, mut errors) = (AnyCel::default(), ErrorList::default());
            let condition = RequestMatch::compile(&raw, case, &host, &JsonPath::root(), &mut errors).unwrap();
            (condition, host.compiled.into_inner().concat())
        };
        let (condition, text) = compile(PathCase::Sensitive);
        assert!(text.contains("/v[0-9]") && !text.contains("(?i)"), "{text}");
        assert!(compile(PathCase::Insensitive).1.contains("(?i)/v[0-9]"));

        let mut facts = FakeHost::request("GET", "/");
        facts.evaluate =
            Some(|_, path| if path == b"/broken" { None } else { Some(vec![u8::from(path == b"/v1")]) });
        let exchange = Exchange::new(1, &facts);
        let head = exchange.headers().unwrap();
        let holds = |path: &[u8]| condition.matches(&exchange, &Request::of(&head), path);
        assert_eq!(holds(b"/v1"), Ok(Some(true)));
        assert_eq!(holds(b"/v2"), Ok(Some(false)));
        assert_eq!(holds(b"/broken"), Ok(None));
        assert_eq!(holds(b"/\xff"), Ok(None));
    }

    #[test]
    fn a_value_is_compared_as_the_test_says() {
        for (test, value, expected) in [
            (r#""a""#, "a", true),
            (r#""a""#, "ab", false),
            (r#"{"exact":"a*"}"#, "a*", true),
            (r#"{"exact":"a","ignoreCase":true}"#, "A", true),
            (r#"{"exact":"a"}"#, "A", false),
            (r#"{"prefix":"application/grpc"}"#, "application/grpc;a=b", true),
            (r#"{"prefix":"application/grpc"}"#, "application/grpc", true),
            (r#"{"prefix":"application/grpc"}"#, "application/grp", false),
            (r#"{"prefix":"application/grpc"}"#, "Application/gRPC", false),
            (r#"{"prefix":"application/grpc","ignoreCase":true}"#, "Application/gRPC+proto", true),
            (r#"{"suffix":".example"}"#, "a.example", true),
            (r#"{"suffix":".example"}"#, "example", false),
            (r#"{"suffix":".example"}"#, "a.example.evil", false),
            (r#"{"suffix":".Example","ignoreCase":true}"#, "A.eXample", true),
        ] {
            let json = format!(r#"{{"headers":{{"x":{{"anyOf":["no",{test}]}}}}}}"#);
            assert_eq!(matches(&json, &[("x", "other"), ("x", value)]), expected, "{test} {value}");
            let json = format!(r#"{{"headers":{{"x":{{"noneOf":[{test}]}}}}}}"#);
            assert_eq!(matches(&json, &[("x", "other"), ("x", value)]), !expected, "none of {test} {value}");
        }
    }

    /// What a test says of these values, where the host says of a value that it matches, does not, or nothing.
    fn truth(test: &str, values: &[&[u8]]) -> Option<bool> {
        let raw = crate::config::read::<RawValueTest>(&serde_json::from_str(test).unwrap()).unwrap();
        let (path, mut errors, host) = (JsonPath::root(), ErrorList::default(), AnyCel::default());
        let test = ValueTest::compile_with(&raw, Some(&host), &path, &mut errors);
        let test = errors.finish(test).unwrap();
        let evaluate = |_, value: &[u8]| match value {
            b"broken" => None,
            value => Some(vec![u8::from(value == b"yes")]),
        };
        let facts = FakeHost { evaluate: Some(evaluate), ..FakeHost::default() };
        let exchange = Exchange::new(1, &facts);
        test.truth_of_header(values.iter().copied(), &|regex, value| matches_regex(regex, value, &exchange))
            .unwrap()
    }

    #[test]
    fn a_regular_expression_without_a_value_leaves_a_test_in_doubt_unless_the_rest_decides() {
        let any = r#"{"anyOf":[{"regex":"y.*"},"plain"]}"#;
        for (test, values, expected) in [
            (any, &["yes"][..], Some(true)),
            (any, &["no"], Some(false)),
            (any, &[], Some(false)),
            (any, &["broken"], None),
            (any, &["broken", "no"], None),
            (any, &["broken", "yes"], Some(true)),
            (any, &["broken", "plain"], Some(true)),
            (r#"{"noneOf":[{"regex":"y.*"}]}"#, &["no"], Some(true)),
            (r#"{"noneOf":[{"regex":"y.*"}]}"#, &["yes", "broken"], Some(false)),
            (r#"{"noneOf":[{"regex":"y.*"}]}"#, &["broken"], None),
            (r#"{"allOf":[{"regex":"y.*"},"plain"]}"#, &["yes", "plain"], Some(true)),
            (r#"{"allOf":[{"regex":"y.*"},"plain"]}"#, &["broken", "plain"], None),
            (r#"{"allOf":[{"regex":"y.*"},"plain"]}"#, &["broken"], Some(false)),
            (r#"{"anyOf":[{"regex":"y.*"}],"present":false}"#, &["broken"], Some(false)),
        ] {
            let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
            assert_eq!(truth(test, &values), expected, "{test} {values:?}");
        }
        assert_eq!(truth(any, &[b"\xff"]), None, "what is no UTF-8");
    }

    #[test]
    fn a_comparison_that_means_something_else_than_it_seems_is_refused() {
        for (test, expected) in [
            (
                r#""application/*""#,
                "x.anyOf[0]: a text with `*` would be compared as it stands; expected `{ prefix: … }`",
            ),
            (r#"{"prefix":""}"#, "x.anyOf[0]: expected a text that is not empty"),
            (r#"{"regex":""}"#, "x.anyOf[0]: expected a text that is not empty"),
            (r#"{"prefix":"a","suffix":"b"}"#, "x.anyOf[0]: expected exactly one of `exact`"),
            (r#"{"prefix":"a","regex":"b"}"#, "x.anyOf[0]: expected exactly one of `exact`"),
            (r#"{"ignoreCase":true}"#, "x.anyOf[0]: expected exactly one of `exact`"),
            (r#"{"prefx":"a"}"#, "did you mean `prefix`?"),
            ("1", "expected a text, or an object such as"),
        ] {
            let error = compile(&format!(r#"{{"headers":{{"x":{{"anyOf":[{test}]}}}}}}"#)).unwrap_err();
            assert!(error.contains(expected), "{test}: {error}");
        }
        let raw = RawTextTest { regex: Some("a".to_owned()), ..RawTextTest::default() };
        let raw = RawValueTest { none_of: vec![RawText::As(raw)].into(), ..RawValueTest::default() };
        let mut errors = ErrorList::default();
        let test = ValueTest::compile(&raw, &JsonPath::root().field("claims").field("a"), &mut errors);
        let error = errors.finish(test).unwrap_err().to_string();
        assert!(error.starts_with("claims.a.noneOf[0].regex: a claim is tested by no regular"), "{error}");
    }
}
