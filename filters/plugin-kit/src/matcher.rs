//! Which requests a rule or a limit is about: one matcher for all filters.

use crate::cel::{self, Expression};
use crate::claim::ClaimValues;
use crate::config::{ByName, ErrorList, Path};
use crate::environment::Environment;
use crate::exchange::{Exchange, HostError};
use crate::head::Head;
use crate::path::{PathCase, PathPattern};

crate::config_object! {
    /// The condition as a user writes it. Every part that is given must hold; within a list one entry is enough.
    #[derive(Debug, Clone, Default)]
    pub struct RawRequestMatch {
        /// Host names, without port: `api.example`, or `*.example` for all below `example`.
        pub hosts: Vec<String> = Vec::new(),
        /// Methods, in capitals.
        pub methods: Vec<String> = Vec::new(),
        /// All methods but these.
        pub methods_except: Vec<String> = Vec::new(),
        /// Patterns of paths, see [`PathPattern`].
        pub paths: Vec<String> = Vec::new(),
        /// Regular expressions (RE2) of paths, evaluated by the host; each is about the whole path.
        pub path_regexes: Vec<String> = Vec::new(),
        /// Tests of header values by header name.
        pub headers: ByName<RawValueTest> = ByName::default(),
    }
}

crate::config_object! {
    /// A test of the values that a header or a claim has.
    #[derive(Debug, Clone, Default)]
    pub struct RawValueTest {
        /// One of the values is one of these.
        pub any_of: Vec<String> = Vec::new(),
        /// Each of these is one of the values.
        pub all_of: Vec<String> = Vec::new(),
        /// None of the values is one of these. Holds where there is no value.
        pub none_of: Vec<String> = Vec::new(),
        /// There is a value, or there is none. A claim that is null is not there.
        pub present: Option<bool>,
    }
}

/// A test of the values that a header or a claim has; all parts that are given must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueTest {
    any_of: Vec<Vec<u8>>,
    all_of: Vec<Vec<u8>>,
    none_of: Vec<Vec<u8>>,
    present: Option<bool>,
}

impl ValueTest {
    /// Reads a test, or notes under `path` what is wrong with it.
    pub fn compile(raw: &RawValueTest, path: &Path, errors: &mut ErrorList) -> Option<Self> {
        if raw.any_of.is_empty() && raw.all_of.is_empty() && raw.none_of.is_empty() && raw.present.is_none() {
            errors.add(path, "tests nothing; expected `anyOf`, `allOf`, `noneOf` or `present`");
            return None;
        }
        let bytes = |texts: &[String]| texts.iter().map(|text| text.clone().into_bytes()).collect();
        Some(Self {
            any_of: bytes(&raw.any_of),
            all_of: bytes(&raw.all_of),
            none_of: bytes(&raw.none_of),
            present: raw.present,
        })
    }

    /// Whether the test holds for these values, of a header.
    pub fn holds<'a>(&self, values: impl Iterator<Item = &'a [u8]> + Clone) -> bool {
        let present = values.clone().next().is_some();
        self.decides(values, present, false) == Some(true)
    }

    /// Whether the test holds for a claim; `None` where that cannot be told, since the claim has something that no text is
    /// equal or unequal to. A demand then fails, a limit counts, and an exemption does not exempt.
    pub fn decides_claim(&self, claim: &ClaimValues<'_>) -> Option<bool> {
        let known = claim.known().iter().map(|value| value.as_bytes());
        self.decides(known, claim.is_present(), claim.has_more())
    }

    /// Whether the test holds for something that is `present` or not, of whose values these are known, and that has `more`.
    #[allow(clippy::needless_pass_by_value)]
    fn decides<'a>(
        &self,
        known: impl Iterator<Item = &'a [u8]> + Clone,
        present: bool,
        more: bool,
    ) -> Option<bool> {
        let has = |wanted: &Vec<u8>| match known.clone().any(|value| value == wanted) {
            false if more => None,
            has => Some(has),
        };
        let any_of = if self.any_of.is_empty() { Some(true) } else { any(self.any_of.iter().map(has)) };
        let none_of = any(self.none_of.iter().map(has)).map(|found| !found);
        let presence = self.present.is_none_or(|wanted| wanted == present);
        all([any_of, all(self.all_of.iter().map(has)), none_of, Some(presence)])
    }
}

/// Whether one of these holds; `None` where it depends on one that is undecided.
fn any(parts: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    all(parts.map(|part| part.map(|holds| !holds))).map(|none| !none)
}

/// Whether all of these hold; `None` where it depends on one that is undecided.
fn all(parts: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    let mut undecided = false;
    for part in parts {
        match part {
            Some(false) => return Some(false),
            Some(true) => {}
            None => undecided = true,
        }
    }
    if undecided { None } else { Some(true) }
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
    head: &'a Head,
}

impl<'a> Request<'a> {
    /// Finds the pseudo-headers.
    pub fn of(head: &'a Head) -> Self {
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

    /// The host name without port and without a trailing dot. IPv6 literals keep their brackets.
    pub fn host(&self) -> &'a [u8] {
        let end_of_address = self.authority.iter().rposition(|byte| *byte == b']').unwrap_or(0);
        let colon = self.authority.iter().rposition(|byte| *byte == b':').filter(|at| *at > end_of_address);
        let host = colon.and_then(|at| self.authority.get(..at)).unwrap_or(self.authority);
        host.strip_suffix(b".").unwrap_or(host)
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
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostPattern {
    Exact(Vec<u8>),
    /// Starts with the dot.
    Below(Vec<u8>),
}

impl HostPattern {
    fn parse(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix('*').unwrap_or(text);
        let below = name.len() < text.len();
        let odd = |c: char| {
            !(c.is_ascii_alphanumeric() || "-_.[]".contains(c) || (c == ':' && name.ends_with(']')))
        };
        if name.is_empty() || name.contains(odd) || (below && !name.starts_with('.')) {
            return Err(format!("`{text}` is no host; expected `api.example` or `*.example`, without port"));
        }
        let name = name.to_ascii_lowercase().into_bytes();
        Ok(if below { Self::Below(name) } else { Self::Exact(name) })
    }

    fn matches(&self, host: &[u8]) -> bool {
        match self {
            Self::Exact(name) => name.eq_ignore_ascii_case(host),
            Self::Below(suffix) => {
                let start = host.len().checked_sub(suffix.len());
                start.is_some_and(|start| {
                    start > 0 && host.get(start..).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
                })
            }
        }
    }
}

impl RequestMatch {
    /// Reads a condition, or notes under `path` what is wrong with it.
    pub fn compile(
        raw: &RawRequestMatch,
        case: PathCase,
        environment: &dyn Environment,
        path: &Path,
        errors: &mut ErrorList,
    ) -> Option<Self> {
        fn list<T>(
            texts: &[String],
            path: &Path,
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
                Err(format!("`{text}` is no method; expected one in capitals, such as `GET`"))
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
            Expression::path_matches(&format!("{flag}{text}"), environment)
        };
        let path_regexes = list(&raw.path_regexes, &path.field("pathRegexes"), errors, regex);
        let mut headers = Vec::new();
        for (name, test) in &raw.headers.0 {
            let path = path.field("headers").field(name);
            if let Err(message) = header_name(name) {
                errors.add(&path, message);
            }
            if let Some(test) = ValueTest::compile(test, &path, errors) {
                headers.push((name.clone(), test));
            }
        }
        Some(Self { hosts, methods, methods_except, paths, path_regexes, headers })
    }

    /// Whether the condition holds for `request` when its path is read as `reading` (see [`crate::path::Readings`]).
    ///
    /// # Errors
    /// The host did not evaluate a regular expression.
    pub fn matches(
        &self,
        exchange: &Exchange<'_>,
        request: &Request<'_>,
        reading: &[u8],
    ) -> Result<bool, HostError> {
        // The regular expressions last: each costs two host calls.
        Ok(self.matches_but_for_path(request)
            && ((self.paths.is_empty() && self.path_regexes.is_empty())
                || self.paths.iter().any(|pattern| pattern.matches(reading))
                || self.matches_regex(exchange, reading)?))
    }

    fn matches_regex(&self, exchange: &Exchange<'_>, reading: &[u8]) -> Result<bool, HostError> {
        for regex in &self.path_regexes {
            match regex.holds(exchange, Some((cel::PATH, reading)))? {
                Some(false) => {}
                Some(true) => return Ok(true),
                None => return Err(HostError { call: "expr_evaluate", status: HostError::INTERNAL_FAILURE }),
            }
        }
        Ok(false)
    }

    fn matches_but_for_path(&self, request: &Request<'_>) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|method| method == request.method))
            && !self.methods_except.iter().any(|method| method == request.method)
            && (self.hosts.is_empty() || {
                let host = request.host();
                self.hosts.iter().any(|pattern| pattern.matches(host))
            })
            && self.headers.iter().all(|(name, test)| test.holds(request.head.all(name)))
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
    Err(format!("`{name}` is no header name; expected lower-case letters, digits and `-`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{AnyCel, TableFacts};

    fn compile(json: &str) -> Result<RequestMatch, String> {
        let raw = crate::config::read::<RawRequestMatch>(&serde_json::from_str(json).unwrap())
            .map_err(|e| e.to_string())?;
        let mut errors = ErrorList::default();
        let compiled = RequestMatch::compile(
            &raw,
            PathCase::Sensitive,
            &|_: &str| None,
            &Path::root().field("match"),
            &mut errors,
        );
        errors.finish(compiled).map_err(|errors| errors.to_string())
    }

    fn matches(json: &str, headers: &[(&str, &str)]) -> bool {
        let head = Head::from_pairs(headers.iter().copied());
        let request = Request::of(&head);
        let facts = crate::testing::TableFacts::default();
        compile(json).unwrap().matches(&Exchange::new(1, &facts), &request, request.target).unwrap()
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
        // Without a name before it a colon starts no port.
        let head = Head::from_pairs([(":authority", ":80")]);
        assert_eq!(Request::of(&head).host(), b":80");
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
            let test = ValueTest::compile(&raw, &Path::root(), &mut ErrorList::default()).unwrap();
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
    fn what_is_wrong_is_named_with_its_path() {
        for (json, path) in [
            (r#"{"paths":["/a","b"]}"#, "match.paths[1]: "),
            (r#"{"pathRegexes":["/a"]}"#, "match.pathRegexes[0]: the proxy evaluates no CEL"),
            (r#"{"methods":["get"]}"#, "match.methods[0]: "),
            (r#"{"hosts":["a.example:80"]}"#, "match.hosts[0]: "),
            (r#"{"hosts":["*a.example"]}"#, "match.hosts[0]: "),
            (r#"{"methods":["GET"],"methodsExcept":["PUT"]}"#, "match: "),
            (r#"{"headers":{"X-Env":{"present":true}}}"#, "match.headers.X-Env: "),
            (r#"{"headers":{"x-env":{}}}"#, "match.headers.x-env: "),
            (r#"{"path":["/a"]}"#, "path: unknown field `path`"),
        ] {
            let error = compile(json).unwrap_err();
            assert!(error.starts_with(path), "{json}: {error}");
        }
    }

    #[test]
    fn a_regular_expression_is_the_hosts_to_evaluate() {
        let raw = RawRequestMatch { path_regexes: vec!["/v[0-9]".to_owned()], ..RawRequestMatch::default() };
        let compile = |case| {
            let (host, mut errors) = (AnyCel::default(), ErrorList::default());
            let condition = RequestMatch::compile(&raw, case, &host, &Path::root(), &mut errors).unwrap();
            (condition, host.compiled.into_inner().concat())
        };
        let (condition, text) = compile(PathCase::Sensitive);
        assert!(text.contains("/v[0-9]") && !text.contains("(?i)"), "{text}");
        assert!(compile(PathCase::Insensitive).1.contains("(?i)/v[0-9]"));

        let mut facts = TableFacts::request("GET", "/");
        facts.evaluate =
            Some(|_, path| if path == b"/broken" { None } else { Some(vec![u8::from(path == b"/v1")]) });
        let exchange = Exchange::new(1, &facts);
        let head = exchange.head().unwrap();
        let holds = |path: &[u8]| condition.matches(&exchange, &Request::of(&head), path);
        assert_eq!(holds(b"/v1"), Ok(true));
        assert_eq!(holds(b"/v2"), Ok(false));
        assert_eq!(holds(b"/broken").unwrap_err().status, HostError::INTERNAL_FAILURE);
    }
}
