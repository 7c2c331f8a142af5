//! Patterns of Istio's policies, and how two of them are related. They are what
//! `pilot/pkg/security/authz/matcher` of istiod makes of a text: `prefix*`, `*suffix`, `*`, or the text itself.

use std::cmp::Reverse;

use super::scope::Relation;

/// A pattern of one part of a request.
pub(super) trait Pattern: Clone + Eq + Ord {
    /// How what this pattern matches is related to what another does.
    fn relation(&self, other: &Self) -> Relation;
    /// What stands first among patterns: those that match less.
    fn rank(&self, order: Order) -> (u8, Reverse<usize>);
}

/// Which of two patterns that cross is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// `/orders*` before `*/ping`.
    PrefixFirst,
    /// `*/ping` before `/orders*`.
    SuffixFirst,
}

/// What a policy's text is to the filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Read<P> {
    /// It matches everything.
    Any,
    /// A pattern of the filter.
    One(P),
    /// The filter has no such pattern.
    Unknown,
}

/// A pattern of texts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Text {
    /// `*`: any text that is not empty.
    Any,
    /// This text.
    Exact(String),
    /// `x*`.
    Prefix(String),
    /// `*x`.
    Suffix(String),
}

impl Text {
    /// Reads what a policy says.
    pub(super) fn of(text: &str) -> Self {
        match (text, text.strip_prefix('*'), text.strip_suffix('*')) {
            ("*", ..) => Self::Any,
            (_, Some(suffix), _) => Self::Suffix(suffix.to_owned()),
            (_, _, Some(prefix)) => Self::Prefix(prefix.to_owned()),
            _ => Self::Exact(text.to_owned()),
        }
    }

    /// Whether it matches a text.
    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => !text.is_empty(),
            Self::Exact(exact) => text == exact,
            Self::Prefix(prefix) => text.starts_with(prefix),
            Self::Suffix(suffix) => text.ends_with(suffix),
        }
    }
}

/// A pattern of paths, of which the query is no part.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Path {
    /// This path.
    Exact(String),
    /// `/orders*` or `/orders/*`.
    Prefix(String),
    /// `*/ping`.
    Suffix(String),
    /// With `{*}` or `{**}`.
    Template(String),
}

impl Path {
    /// Reads what a policy says; `None` is any path.
    ///
    /// # Errors
    /// The filter has no such pattern.
    pub(super) fn of(text: &str) -> Result<Option<Self>, String> {
        let odd = |text: &str| {
            text.chars()
                .find(|c| "%?#;\\*".contains(*c) || c.is_control() || c.is_whitespace())
                .map(|c| format!("has `{}`", c.escape_default()))
                .or_else(|| text.contains("//").then(|| "has `//`".to_owned()))
        };
        let refused = |why: String| {
            Err(format!("the path `{text}` {why}, and jwt-auth compares decoded paths that have one reading"))
        };
        if text.contains("{*}") || text.contains("{**}") {
            let literal = text.replace("{**}", "").replace("{*}", "");
            // `/users/{**}` alone is all that begins with `/users/`.
            let start =
                text.strip_suffix("{**}").filter(|start| start.ends_with('/') && !start.contains('{'));
            return match odd(&literal.replace("//", "/")) {
                Some(why) => refused(why),
                None if start == Some("/") => Ok(None),
                None if text.starts_with('/') => Ok(Some(match start {
                    Some(start) => Self::Prefix(start.to_owned()),
                    None => Self::Template(text.to_owned()),
                })),
                None => refused("begins with no `/`".to_owned()),
            };
        }
        let pattern = match Text::of(text) {
            Text::Any => return Ok(None),
            Text::Prefix(prefix) if prefix == "/" => return Ok(None),
            Text::Exact(path) => Self::Exact(path),
            Text::Prefix(path) => Self::Prefix(path),
            Text::Suffix(path) => Self::Suffix(path),
        };
        match &pattern {
            Self::Suffix(path) => match odd(path) {
                Some(why) => refused(why),
                None if path.ends_with('/') => refused("ends with `/`".to_owned()),
                None => Ok(Some(pattern)),
            },
            Self::Exact(path) | Self::Prefix(path) | Self::Template(path) => match odd(path) {
                Some(why) => refused(why),
                None if path.starts_with('/') => Ok(Some(pattern)),
                None => refused("begins with no `/`".to_owned()),
            },
        }
    }

    /// The entry of `paths` or, as the second, of `pathRegexes`.
    pub(super) fn written(&self) -> (Option<String>, Option<String>) {
        match self {
            Self::Exact(path) | Self::Template(path) => (Some(path.clone()), None),
            Self::Prefix(path) if path.ends_with('/') => (Some(format!("{path}*")), None),
            Self::Prefix(path) => (None, Some(format!("{}.*", escaped(path)))),
            Self::Suffix(path) => (None, Some(format!(".*{}", escaped(path)))),
        }
    }

    /// What is said where the pattern stands.
    pub(super) fn remark(&self) -> Option<String> {
        match self {
            Self::Prefix(path) if !path.ends_with('/') => Some(format!(
                "`{path}*` is also `{path}x`, so that it is a regular expression here. If `{path}` and what is below it is \
                 meant, write `paths: [{path}/*]`, which costs less."
            )),
            Self::Suffix(path) => Some(format!(
                "`*{path}` is the end of any path, so that it is a regular expression here. `paths` costs less."
            )),
            _ => None,
        }
    }
}

/// A text as a regular expression for itself.
fn escaped(text: &str) -> String {
    regex_syntax::escape(text)
}

impl Pattern for Path {
    fn relation(&self, other: &Self) -> Relation {
        use Path::{Exact, Prefix, Suffix, Template};
        let nested = |within: bool, holds: bool| match (within, holds) {
            (true, true) => Relation::Same,
            (true, _) => Relation::Within,
            (_, true) => Relation::Holds,
            _ => Relation::Apart,
        };
        let flipped = |relation: Relation| match relation {
            Relation::Holds => Relation::Within,
            Relation::Within => Relation::Holds,
            other => other,
        };
        match (self, other) {
            _ if self == other => Relation::Same,
            (Exact(_), Exact(_)) => Relation::Apart,
            (Exact(path), Prefix(prefix)) => nested(path.starts_with(prefix), false),
            (Exact(path), Suffix(suffix)) => nested(path.ends_with(suffix), false),
            (Exact(path), Template(template)) => nested(fits(template, path), false),
            (Prefix(one), Prefix(two)) => nested(one.starts_with(two), two.starts_with(one)),
            (Suffix(one), Suffix(two)) => nested(one.ends_with(two), two.ends_with(one)),
            (Prefix(_) | Template(_), Suffix(_)) | (Suffix(_), Prefix(_) | Template(_)) => Relation::Crossing,
            (Template(template), Prefix(prefix)) => {
                let start = template.split('{').next().unwrap_or_default();
                if start.starts_with(prefix) {
                    Relation::Within
                } else if prefix.starts_with(start) {
                    Relation::Crossing
                } else {
                    Relation::Apart
                }
            }
            (Template(one), Template(two)) => match (covers(two, one), covers(one, two)) {
                (true, _) => Relation::Within,
                (_, true) => Relation::Holds,
                _ if meet(one, two) => Relation::Crossing,
                _ => Relation::Apart,
            },
            (Prefix(_) | Suffix(_) | Template(_), _) => flipped(other.relation(self)),
        }
    }

    fn rank(&self, order: Order) -> (u8, Reverse<usize>) {
        let suffix = if order == Order::PrefixFirst { 4 } else { 1 };
        // A template with more that is fixed is not wider.
        let fixed = |template: &str| -> usize {
            let weight = |part: &str| match part {
                "{**}" => 0,
                "{*}" => 1,
                _ => 100,
            };
            template.split('/').map(weight).sum()
        };
        match self {
            Self::Exact(path) => (0, Reverse(path.len())),
            Self::Template(path) => (2, Reverse(fixed(path))),
            Self::Prefix(path) => (3, Reverse(path.len())),
            Self::Suffix(path) => (suffix, Reverse(path.len())),
        }
    }
}

/// Whether a path fits a template, as Envoy's `uri_template` says: `{*}` is one segment, `{**}` all that is left.
fn fits(template: &str, path: &str) -> bool {
    let mut segments = path.split('/');
    for part in template.split('/') {
        if part == "{**}" {
            return true;
        }
        let Some(segment) = segments.next() else { return false };
        if part != segment && (part != "{*}" || segment.is_empty()) {
            return false;
        }
    }
    segments.next().is_none()
}

/// Whether every path that fits the second template fits the first.
fn covers(wide: &str, narrow: &str) -> bool {
    let mut parts = narrow.split('/');
    for wide in wide.split('/') {
        match (wide, parts.next()) {
            ("{**}", _) => return true,
            (_, None | Some("{**}")) => return false,
            ("{*}", Some(part)) if !part.is_empty() => {}
            (_, Some(part)) if wide == part => {}
            _ => return false,
        }
    }
    parts.next().is_none()
}

/// Whether a path may fit both templates.
fn meet(one: &str, two: &str) -> bool {
    let (mut ones, mut twos) = (one.split('/'), two.split('/'));
    loop {
        match (ones.next(), twos.next()) {
            (Some("{**}"), _) | (_, Some("{**}")) | (None, None) => return true,
            (Some(one), Some(two)) if one == two || one == "{*}" || two == "{*}" => {}
            _ => return false,
        }
    }
}

/// A pattern of hosts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Host {
    /// This host.
    Name(String),
    /// `*.example`: all hosts below, with the dot.
    Below(String),
}

impl Host {
    /// Reads what a policy says.
    pub(super) fn of(text: &str) -> Read<Self> {
        let lower = text.to_ascii_lowercase();
        // `api.example:*` is `api.example` with any port, which the filter does not look at.
        let name = lower.strip_suffix(":*").unwrap_or(&lower);
        if name == "*" {
            return Read::Any;
        }
        let good = |name: &str| {
            !name.is_empty()
                && name.split('.').all(|label| {
                    !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
                })
        };
        match name.strip_prefix("*.") {
            Some(below) if good(below) => Read::One(Self::Below(format!(".{below}"))),
            None if good(name) => Read::One(Self::Name(name.to_owned())),
            _ => Read::Unknown,
        }
    }

    /// The entry of `hosts`.
    pub(super) fn written(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::Below(below) => format!("*{below}"),
        }
    }
}

impl Pattern for Host {
    fn relation(&self, other: &Self) -> Relation {
        match (self, other) {
            _ if self == other => Relation::Same,
            (Self::Name(name) | Self::Below(name), Self::Below(below)) if name.ends_with(below) => {
                Relation::Within
            }
            (Self::Below(below), Self::Name(name) | Self::Below(name)) if name.ends_with(below) => {
                Relation::Holds
            }
            _ => Relation::Apart,
        }
    }

    fn rank(&self, _: Order) -> (u8, Reverse<usize>) {
        match self {
            Self::Name(name) => (0, Reverse(name.len())),
            Self::Below(below) => (1, Reverse(below.len())),
        }
    }
}

/// A method.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Method(pub(super) String);

impl Method {
    /// Reads what a policy says.
    pub(super) fn of(text: &str) -> Read<Self> {
        let good = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
        match text {
            "*" => Read::Any,
            _ if good => Read::One(Self(text.to_owned())),
            _ => Read::Unknown,
        }
    }
}

impl Pattern for Method {
    fn relation(&self, other: &Self) -> Relation {
        if self == other { Relation::Same } else { Relation::Apart }
    }

    fn rank(&self, _: Order) -> (u8, Reverse<usize>) {
        (0, Reverse(0))
    }
}

#[cfg(test)]
mod tests {
    use super::{Host, Path, Pattern, Read, Relation};

    #[test]
    fn paths_are_related() {
        let path = |text: &str| Path::of(text).unwrap().unwrap();
        for (one, other, expected) in [
            ("/a", "/a", Relation::Same),
            ("/a", "/b", Relation::Apart),
            ("/a/b", "/a/*", Relation::Within),
            ("/a", "/a/*", Relation::Apart),
            ("/a*", "/a/*", Relation::Holds),
            ("/a/*", "/b*", Relation::Apart),
            ("/a/*", "*/ping", Relation::Crossing),
            ("/a/ping", "*/ping", Relation::Within),
            ("*/b/ping", "*/ping", Relation::Within),
            ("/a/{*}", "/a/*", Relation::Within),
            ("/a/{*}/c", "/a/b/*", Relation::Crossing),
            ("/a/{*}", "/b*", Relation::Apart),
            ("/a/x", "/a/{*}", Relation::Within),
            ("/a/x/y", "/a/{*}", Relation::Apart),
            ("/a/x/y", "/a/{**}", Relation::Within),
            ("/{*}/x", "/{*}/{**}", Relation::Within),
            ("/a/{*}/{**}", "/b/{*}", Relation::Apart),
            ("/a/{*}/b", "/a/{**}", Relation::Within),
            ("/a/{*}", "/a/{*}/c", Relation::Apart),
            ("/a/{*}", "/{*}/b", Relation::Crossing),
        ] {
            assert_eq!(path(one).relation(&path(other)), expected, "{one} {other}");
        }
        assert_eq!(Path::of("*"), Ok(None));
        assert_eq!(Path::of("/*"), Ok(None));
        assert_eq!(Path::of("/{**}"), Ok(None));
        assert_eq!(Path::of("/a/{**}"), Path::of("/a/*"));
        for wrong in ["x", "/a%20b", "/a//b", "*/", "/a;x", "/a*b"] {
            assert!(Path::of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hosts_are_related() {
        let host = |text: &str| match Host::of(text) {
            Read::One(host) => host,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(host("A.example").relation(&host("*.example")), Relation::Within);
        assert_eq!(host("*.b.example").relation(&host("*.example")), Relation::Within);
        assert_eq!(host("*.example").relation(&host("a.example:*")), Relation::Holds);
        assert_eq!(host("example").relation(&host("*.example")), Relation::Apart);
        assert_eq!(Host::of("*"), Read::Any);
        for wrong in ["a*", "*a.example", "a.example:80", ""] {
            assert_eq!(Host::of(wrong), Read::Unknown, "{wrong}");
        }
    }
}
