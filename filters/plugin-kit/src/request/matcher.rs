//! Which requests a rule or a limit is about: one matcher for all filters.

use crate::config::{Code, ErrorList, JsonPath, nearest};
use crate::host::{Environment, HostError};
use crate::request::address::{Principal, principal};
use crate::request::cel::Expression;
use crate::request::exchange::Exchange;
use crate::request::header_names::header_name;
use crate::request::path::{PathCase, PathPattern};
use crate::trace::{self, Note};

mod address;
mod host;
mod request;
mod text;
mod truth;
mod value;

pub use address::{AddressMatch, RawAddressMatch};
pub use request::Request;
pub use text::{RawText, RawTextTest};
pub use value::{RawValueTest, ValueTest};

use host::HostPattern;
use text::matches_regex;
use truth::{Truth, all, any};

/// Declares the raw `match` of a filter: the parts that are the same in every filter, and after them those of the
/// filter's own. It is a [`config_object!`](crate::config_object) whose method `parts` returns the former.
///
/// ```
/// plugin_kit::request_match! {
///     /// Which requests are meant.
///     #[derive(Debug)]
///     struct RawMatch {
///         /// Whether the request must have a body.
///         has_body: bool = false,
///     }
/// }
/// let json = serde_json::json!({ "methods": ["POST"], "hasBody": true });
/// let raw: RawMatch = plugin_kit::config::read(&json).unwrap();
/// assert!(raw.has_body);
/// assert_eq!(raw.parts().methods, ["POST"]);
/// ```
#[macro_export]
macro_rules! request_match {
    (
        $(#[doc = $docs:literal])*
        #[derive($($derive:ident),*)]
        $visibility:vis struct $name:ident { $($own:tt)* }
    ) => {
        $crate::config_object! {
            $(#[doc = $docs])*
            #[derive($($derive),*)]
            $visibility struct $name {
                /// Hosts, one of which the request's authority must name: `api.example`, `[2001:db8::1]`, or
                /// `*.example` for all hosts below `example`. Port, letter case and a trailing dot do not matter.
                pub hosts: $crate::config::NonEmpty<Vec<String>> = $crate::config::NonEmpty::default(),
                /// Methods, in capitals, one of which the request must have.
                pub methods: $crate::config::NonEmpty<Vec<String>> = $crate::config::NonEmpty::default(),
                /// Methods, in capitals, none of which the request may have.
                pub methods_except: $crate::config::NonEmpty<Vec<String>> = $crate::config::NonEmpty::default(),
                /// Path patterns, one of which must match. `/healthz` is this path, `/admin/*` is `/admin` and all
                /// paths below, `{*}` stands for one segment and `{**}` for any number of segments. A trailing slash
                /// makes no difference.
                pub paths: $crate::config::NonEmpty<Vec<String>> = $crate::config::NonEmpty::default(),
                /// Regular expressions (RE2), one of which must match the whole path, decoded and without the query.
                /// The proxy evaluates them.
                pub path_regexes: $crate::config::NonEmpty<Vec<String>> = $crate::config::NonEmpty::default(),
                /// Tests of the values of request headers, by the header's name in lower case. All must hold.
                pub headers: $crate::config::NonEmpty<$crate::config::ByName<$crate::request::matcher::RawValueTest>> = $crate::config::NonEmpty::default(),
                /// The networks one of which must contain the client's address.
                pub source_address: Option<$crate::request::matcher::RawAddressMatch>,
                /// SPIFFE identities, one of which the peer must prove by mutual TLS: `cluster.local/ns/shop/sa/web`.
                pub principals: $crate::config::NonEmpty<Vec<String>> = $crate::config::NonEmpty::default(),
                $($own)*
            }
        }

        impl $name {
            /// The parts that are the same in every filter.
            $visibility fn parts(&self) -> $crate::request::matcher::Parts<'_> {
                $crate::request::matcher::Parts {
                    hosts: &self.hosts,
                    methods: &self.methods,
                    methods_except: &self.methods_except,
                    paths: &self.paths,
                    path_regexes: &self.path_regexes,
                    headers: &self.headers.0,
                    source_address: self.source_address.as_ref(),
                    principals: &self.principals,
                }
            }
        }
    };
}

/// What an operator wrote into a `match`, without the parts of one filter alone; see [`request_match!`](crate::request_match).
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs, reason = "the macro describes each part for the operator")]
pub struct Parts<'a> {
    pub hosts: &'a [String],
    pub methods: &'a [String],
    pub methods_except: &'a [String],
    pub paths: &'a [String],
    pub path_regexes: &'a [String],
    pub headers: &'a [(String, RawValueTest)],
    pub source_address: Option<&'a RawAddressMatch>,
    pub principals: &'a [String],
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

impl RequestMatch {
    /// Reads a condition, or notes under `path` what is wrong with it.
    pub fn compile(
        raw: Parts<'_>,
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
                Err("is not a method; expected one in capitals, such as `GET`".to_owned())
            } else {
                Ok(text.as_bytes().to_vec())
            }
        };
        let hosts = list(raw.hosts, &path.field("hosts"), errors, HostPattern::parse);
        let methods = list(raw.methods, &path.field("methods"), errors, method);
        let methods_except = list(raw.methods_except, &path.field("methodsExcept"), errors, method);
        if !methods.is_empty() && !methods_except.is_empty() {
            errors.add(path, "has `methods` and `methodsExcept`; expected one of them");
        }
        for (list, field) in [(raw.methods, "methods"), (raw.methods_except, "methodsExcept")] {
            warn_of_methods(list, &path.field(field), errors);
        }
        let paths = list(raw.paths, &path.field("paths"), errors, |text| PathPattern::parse(text, case));
        warn_of_segments(raw.paths, &path.field("paths"), errors);
        for (n, text) in raw.path_regexes.iter().enumerate() {
            if let Some(message) = odd_path_regex(text) {
                errors.note(Code::RegexIsWholePath, &path.field("pathRegexes").index(n), message);
            }
        }
        let regex = |text: &str| {
            // Paths are folded to lower case where case does not matter.
            let flag = if case == PathCase::Insensitive { "(?i)" } else { "" };
            Expression::text_matches(&format!("{flag}{text}"), environment)
        };
        let path_regexes = list(raw.path_regexes, &path.field("pathRegexes"), errors, regex);
        let mut headers = Vec::new();
        for (name, test) in raw.headers {
            let path = path.field("headers").field(name);
            if let Err(message) = header_name(name) {
                errors.add(&path, message);
            }
            if let Some(test) = ValueTest::compile_with(test, Some(environment), &path, errors) {
                headers.push((name.clone(), test));
            }
        }
        let source_address = match raw.source_address {
            Some(raw) => Some(AddressMatch::compile(raw, &path.field("sourceAddress"), errors, environment)?),
            None => None,
        };
        let principals = list(raw.principals, &path.field("principals"), errors, Principal::parse);
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

    /// Whether the condition holds for `request` when its path is read as `reading` (see
    /// [`crate::request::path::Readings`]); `None` where that is not known, as where a regular expression has
    /// no value: in doubt.
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
            trace::note(|| Note::new("methods").holds(false).received_bytes(Some(request.method)));
            return Ok(Some(false));
        }
        let host = || {
            let holds = self.host_matches(request);
            trace::note(|| Note::new("hosts").holds(holds).received_bytes(Some(request.authority)));
            Ok(holds)
        };
        let path = || {
            if (self.paths.is_empty() && self.path_regexes.is_empty())
                || self.paths.iter().any(|pattern| pattern.matches(reading))
            {
                return Ok(Some(true));
            }
            let truth = any(&self.path_regexes, |regex| matches_regex(*regex, reading, exchange));
            trace::note(|| noted("paths", &truth).received_bytes(Some(reading)));
            truth
        };
        let header = |(name, test): &(String, ValueTest)| {
            let truth = test.truth_of_header(request.head.all(name), &|regex, value| {
                matches_regex(regex, value, exchange)
            });
            trace::note(|| {
                let received = request.head.joined(name);
                noted("headers", &truth).named(name).received_bytes(received.as_deref())
            });
            truth
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
        let known = |peer: &Vec<u8>| self.principals.iter().any(|principal| principal.is(peer));
        let holds = peer.as_ref().is_some_and(known);
        trace::note(|| Note::new("principals").holds(holds).received_bytes(peer.as_deref()));
        Ok(Some(holds))
    }

    fn method_matches(&self, request: &Request<'_>) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|method| method == request.method))
            && !self.methods_except.iter().any(|method| method == request.method)
    }

    /// Whether the host matches. It is in doubt if the authority is not a host.
    fn host_matches(&self, request: &Request<'_>) -> Option<bool> {
        if self.hosts.is_empty() {
            return Some(true);
        }
        let host = request.host()?;
        Some(self.hosts.iter().any(|pattern| pattern.matches(host)))
    }

    /// Whether the condition looks at the host.
    pub fn reads_host(&self) -> bool {
        !self.hosts.is_empty()
    }

    /// The headers that the condition looks at.
    pub fn header_names(&self) -> impl Iterator<Item = &str> {
        self.headers.iter().map(|(name, _)| name.as_str())
    }

    /// Whether the condition names this method.
    pub fn names_method(&self, method: &[u8]) -> bool {
        self.methods.iter().any(|named| named == method)
    }

    /// Whether the condition holds for every request, so that the request need not be read.
    pub fn is_always(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the condition holds for every request for which `other` holds; `false` also where that is not
    /// known. With `method`, `other` is taken for the same condition for this method alone; with `paths`, for
    /// the same condition for these.
    pub fn covers(&self, other: &Self, method: Option<&str>, paths: Option<&PathPattern>) -> bool {
        let method_covered = if let Some(method) = method {
            (self.methods.is_empty() || self.names_method(method.as_bytes()))
                && !self.methods_except.iter().any(|except| except == method.as_bytes())
        } else {
            let excluded = |method: &Vec<u8>| {
                other.methods_except.contains(method)
                    || (!other.methods.is_empty() && !other.methods.contains(method))
            };
            each(&self.methods, &other.methods, |own, other| own == other)
                && self.methods_except.iter().all(excluded)
        };
        method_covered
            && self.covers_path(other, paths)
            && each(&self.hosts, &other.hosts, HostPattern::covers)
            && self.headers.iter().all(|test| other.headers.contains(test))
            && (self.source_address.is_none() || self.source_address == other.source_address)
            && each(&self.principals, &other.principals, |own, other| own == other)
    }

    /// Which of these conditions hold, together, for every request for which this one holds: their positions. `None`
    /// if they do not, or if that is not known: methods and paths are looked at one by one, and everything else
    /// must be covered by one condition.
    pub fn covered_together(&self, others: &[&Self]) -> Option<Vec<usize>> {
        // One method stands for all those that no condition names.
        const ANOTHER: &[u8] = b"*";
        const MOST: usize = 64;
        let mut methods: Vec<&[u8]> = self.methods.iter().map(Vec::as_slice).collect();
        if methods.is_empty() {
            let named = others.iter().flat_map(|other| other.methods.iter().chain(&other.methods_except));
            methods = named.map(Vec::as_slice).chain([ANOTHER]).collect();
            methods.retain(|method| !self.methods_except.iter().any(|except| except == method));
            methods.sort_unstable();
            methods.dedup();
        }
        let paths: Vec<Option<&PathPattern>> = if self.path_regexes.is_empty() && !self.paths.is_empty() {
            self.paths.iter().map(Some).collect()
        } else {
            vec![None]
        };
        if methods.len().saturating_mul(paths.len()) > MOST {
            return None;
        }
        let mut positions = Vec::new();
        for method in methods {
            let method = std::str::from_utf8(method).ok()?;
            for path in &paths {
                positions.push(others.iter().position(|other| other.covers(self, Some(method), *path))?);
            }
        }
        positions.sort_unstable();
        positions.dedup();
        Some(positions)
    }

    #[inline(never)]
    fn covers_path(&self, other: &Self, paths: Option<&PathPattern>) -> bool {
        let others = paths.map_or(other.paths.as_slice(), std::slice::from_ref);
        !self.reads_path()
            || self.paths.iter().any(PathPattern::is_every)
            // A regular expression is compared with nothing.
            || (other.path_regexes.is_empty()
                && !others.is_empty()
                && !self.paths.is_empty()
                && each(&self.paths, others, PathPattern::covers))
    }

    /// For each path that the condition names alone: its position, and this path with everything below it.
    /// `None` if the condition has regular expressions.
    pub fn below_paths(&self) -> impl Iterator<Item = (usize, PathPattern)> {
        let paths = if self.path_regexes.is_empty() { self.paths.as_slice() } else { &[] };
        paths.iter().enumerate().filter_map(|(n, path)| Some((n, path.below()?)))
    }

    /// Whether the condition names a path among these, and not the one that they begin with.
    pub fn names_path_below(&self, below: &PathPattern) -> bool {
        self.paths.iter().any(|path| below.covers(path) && path.below().as_ref() != Some(below))
    }

    /// The first segments of all paths for which the condition can hold; `None` if it can hold for any path.
    pub fn first_segments(&self) -> Option<Vec<&[u8]>> {
        if self.paths.is_empty() || !self.path_regexes.is_empty() {
            return None;
        }
        self.paths.iter().map(PathPattern::first_segment).collect()
    }

    /// Whether the condition looks at the path.
    pub fn reads_path(&self) -> bool {
        !self.paths.is_empty() || !self.path_regexes.is_empty()
    }
}

fn noted(part: &'static str, truth: &Truth) -> Note {
    Note::new(part).holds(truth.unwrap_or_default())
}

/// Whether each of the others is covered by one of these; an empty list is about everything.
fn each<T>(own: &[T], others: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
    own.is_empty()
        || (!others.is_empty() && others.iter().all(|other| own.iter().any(|own| covers(own, other))))
}

impl Parts<'_> {
    /// Whether no part is given.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
            && self.methods.is_empty()
            && self.methods_except.is_empty()
            && self.paths.is_empty()
            && self.path_regexes.is_empty()
            && self.headers.is_empty()
            && self.source_address.is_none()
            && self.principals.is_empty()
    }
}

/// Notes segments of path patterns that other tools take for a pattern, and that are none here.
pub(super) fn warn_of_segments(paths: &[String], path: &JsonPath, errors: &mut ErrorList) {
    for (n, text) in paths.iter().enumerate() {
        if text.as_bytes().windows(2).any(|pair| pair == b"/:") {
            let message = "`:` has no meaning; expected `{*}` for a segment that may be anything";
            errors.note(Code::SegmentAsWritten, &path.index(n), message);
        }
    }
}

/// Notes names of methods that are nearly those of RFC 9110 and RFC 5789.
fn warn_of_methods(methods: &[String], path: &JsonPath, errors: &mut ErrorList) {
    const METHODS: [&str; 9] =
        ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];
    for (n, found) in methods.iter().enumerate().filter(|(_, found)| !METHODS.contains(&found.as_str())) {
        let meant = nearest(found, METHODS).filter(|meant| strsim::levenshtein(found, meant) <= 2);
        if let Some(meant) = meant.filter(|_| found.bytes().all(|byte| byte.is_ascii_uppercase())) {
            let message = format!("`{found}` is no method of HTTP; did you mean `{meant}`?");
            errors.note(Code::MethodUnusual, &path.index(n), message);
        }
    }
}

/// The warning about a regular expression that must match the whole path.
fn odd_path_regex(text: &str) -> Option<&'static str> {
    let (anchored, begins) = match text.strip_prefix('^') {
        Some(begins) => (true, begins),
        None => (false, text),
    };
    let end = text.as_bytes();
    let open = end.ends_with(b".*") || end.ends_with(b".*)") || end.ends_with(b".+") || end.ends_with(b"$");
    if anchored && !open {
        return Some("must match the whole path, with or without `^`; expected `.*` at the end, or `$`");
    }
    let can_begin = begins.bytes().next().is_some_and(|first| b"/([.\\".contains(&first));
    (!can_begin).then_some("must match the whole path, which begins with `/`; expected `/…` or `.*…`")
}

#[cfg(test)]
mod tests;
