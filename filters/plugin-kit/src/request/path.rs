//! The path of a request, read the way that services read it, and the patterns of rules.
//!
//! A path such as `/public/..;/admin` or `/%61dmin` names one resource to one server and another to the next. A rule
//! that looks at one reading only is a hole, so [`Readings::of`] says when there is more than one.

use std::borrow::Cow;

crate::config_choice! {
    /// Whether letter case matters when paths are compared.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum PathCase {
        /// `/Admin` and `/admin` are two paths, as in RFC 3986.
        #[default]
        Sensitive,
        /// `/Admin` and `/admin` are one path. This is for services that ignore the case of ASCII letters.
        Insensitive,
    }
}

/// How the path of a request can be read. Readings have no query, no percent-encoding and no trailing slash (`/x/` is
/// `/x`).
#[derive(Debug, PartialEq, Eq)]
pub enum Readings<'a> {
    /// Every server reads it so.
    One(Cow<'a, [u8]>),
    /// Servers differ: it has `//`, a `.` or `..` segment, `;`, `\`, a percent-encoded character that needs none, or an
    /// encoded delimiter. At least one reading, none twice.
    Several(Vec<Vec<u8>>),
    /// The text is not a path: wrong percent-encoding, invalid UTF-8, a control character or a fragment, no
    /// `/` at its start, or too long or too twisted to be read in every way.
    None,
}

/// No path longer than this is read in several ways, which costs more than reading it once.
const LONGEST_AMBIGUOUS: usize = 2048;

/// No path has more readings than this. One with more tricks in it is read in no way.
const MOST_READINGS: usize = 128;

impl<'a> Readings<'a> {
    /// Reads the request target `:path`.
    pub fn of(target: &'a [u8], case: PathCase) -> Self {
        let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
        if path == b"*" {
            // `OPTIONS *` asks about the server as a whole.
            return Self::One(Cow::Borrowed(path));
        }
        if path.first() != Some(&b'/') {
            return Self::None;
        }
        match Form::of(path) {
            Form::Plain => Self::One(case.fold(Cow::Borrowed(without_trailing_slash(path)))),
            Form::Encoded => {
                let decoded = percent_decoded(path);
                Self::One(case.fold(Cow::Owned(without_trailing_slash(&decoded).to_vec())))
            }
            Form::Ambiguous if path.len() <= LONGEST_AMBIGUOUS => {
                every_reading(path, case).map_or(Self::None, Self::Several)
            }
            Form::Ambiguous | Form::Invalid => Self::None,
        }
    }
}

impl PathCase {
    fn fold(self, path: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
        match self {
            Self::Insensitive if path.iter().any(u8::is_ascii_uppercase) => {
                Cow::Owned(path.to_ascii_lowercase())
            }
            _ => path,
        }
    }
}

/// The form of a path, found by looking at each of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    /// The path is read as it stands.
    Plain,
    /// The path is read after percent-decoding, which changes no delimiter.
    Encoded,
    Ambiguous,
    Invalid,
}

impl Form {
    fn of(path: &[u8]) -> Self {
        let mut form = Self::Plain;
        let mut rest = path;
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            form = form.max(match byte {
                b'%' => match encoded_byte(after) {
                    Some(decoded) => {
                        rest = after.get(2..).unwrap_or_default();
                        Self::of_encoded(decoded, rest)
                    }
                    None => Self::Invalid,
                },
                b'/' if is_odd_segment(after) => Self::Ambiguous,
                b';' | b'\\' => Self::Ambiguous,
                b'#' | 0..=0x20 | 0x7f..=0xff => Self::Invalid,
                _ => Self::Plain,
            });
        }
        if form != Self::Plain && std::str::from_utf8(&percent_decoded(path)).is_err() {
            // Overlong forms of `/` and `.` are among these.
            return Self::Invalid;
        }
        form
    }

    fn of_encoded(decoded: u8, after: &[u8]) -> Self {
        match decoded {
            0..=0x1f | 0x7f => Self::Invalid,
            // Delimiters, and what needs no encoding.
            b'/' | b'\\' | b';' | b'?' | b'#' | b'-' | b'.' | b'_' | b'~' => Self::Ambiguous,
            b'%' if encoded_byte(after).is_some() => Self::Ambiguous,
            byte if byte.is_ascii_alphanumeric() => Self::Ambiguous,
            _ => Self::Encoded,
        }
    }
}

/// Whether a segment that starts here is one that servers merge (empty, though not the last) or resolve (`.`, `..`).
fn is_odd_segment(from: &[u8]) -> bool {
    let end = from.iter().position(|byte| *byte == b'/');
    match from.get(..end.unwrap_or(from.len())) {
        Some(b"") => end.is_some(),
        Some(segment) => segment == b"." || segment == b"..",
        None => false,
    }
}

fn encoded_byte(after_percent: &[u8]) -> Option<u8> {
    let digit = |at: usize| after_percent.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    u8::try_from(digit(0)?.checked_mul(16)?.checked_add(digit(1)?)?).ok()
}

/// Every `%41` as the byte that it stands for; a `%` without two digits behind it stays.
pub fn percent_decoded(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let encoded = if *byte == b'%' { encoded_byte(after) } else { None };
        decoded.push(encoded.unwrap_or(*byte));
        if encoded.is_some() {
            rest = after.get(2..).unwrap_or_default();
        }
    }
    decoded
}

type Step = fn(&[u8]) -> Vec<u8>;

/// What some servers do to a path before they route it, in the order in which they do it. A `?` or `#` can only have been
/// encoded; who decodes it and then looks for a query or a fragment takes it for the end of the path. Some servers look for one of
/// the two alone.
const STEPS: [Step; 13] = [
    without_parameters,
    percent_decoded,
    without_query,
    without_fragment,
    percent_decoded,
    without_query,
    without_fragment,
    with_slashes_forward,
    without_parameters,
    with_slashes_merged,
    with_dots_resolved,
    without_query,
    without_fragment,
];

/// The path after each combination of [`STEPS`]; `None` where there are more than [`MOST_READINGS`].
fn every_reading(path: &[u8], case: PathCase) -> Option<Vec<Vec<u8>>> {
    let mut readings = vec![path.to_vec()];
    for step in STEPS {
        for n in 0..readings.len() {
            let Some(changed) = readings.get(n).map(|reading| step(reading)) else { continue };
            if !readings.contains(&changed) {
                if readings.len() >= MOST_READINGS {
                    return None;
                }
                readings.push(changed);
            }
        }
    }
    let mut distinct: Vec<Vec<u8>> = Vec::with_capacity(readings.len());
    for reading in readings {
        let reading = case.fold(Cow::Borrowed(without_trailing_slash(&reading))).into_owned();
        if !distinct.contains(&reading) {
            distinct.push(reading);
        }
    }
    Some(distinct)
}

/// The path before the first `?`.
fn without_query(path: &[u8]) -> Vec<u8> {
    path.split(|byte| *byte == b'?').next().unwrap_or_default().to_vec()
}

/// The path before the first `#`.
fn without_fragment(path: &[u8]) -> Vec<u8> {
    path.split(|byte| *byte == b'#').next().unwrap_or_default().to_vec()
}

fn without_parameters(path: &[u8]) -> Vec<u8> {
    let segments = path.split(|byte| *byte == b'/');
    let names = segments.map(|segment| segment.split(|byte| *byte == b';').next().unwrap_or_default());
    names.collect::<Vec<_>>().join(&b'/')
}

fn with_slashes_forward(path: &[u8]) -> Vec<u8> {
    path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect()
}

fn with_slashes_merged(path: &[u8]) -> Vec<u8> {
    let mut merged = path.to_vec();
    merged.dedup_by(|a, b| *a == b'/' && *b == b'/');
    merged
}

fn with_dots_resolved(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for segment in path.split(|byte| *byte == b'/').skip(1) {
        match segment {
            b"." => {}
            b".." => {
                kept.pop();
            }
            _ => kept.push(segment),
        }
    }
    let mut resolved = vec![b'/'];
    resolved.extend_from_slice(&kept.join(&b'/'));
    resolved
}

fn without_trailing_slash(path: &[u8]) -> &[u8] {
    match path {
        [b'/'] => path,
        [start @ .., b'/'] => start,
        _ => path,
    }
}

/// A pattern of paths, as a rule names them:
/// - `/healthz`: this path;
/// - `/admin/*`: `/admin` and everything below it; `/*`: every path;
/// - `/users/{*}/orders`: `{*}` is one segment, not empty;
/// - `/docs/{**}/index`: `{**}` is any number of segments, also none.
///
/// A trailing slash makes no difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Exact(Vec<u8>),
    /// This path, without a trailing slash, and all below it.
    Under(Vec<u8>),
    Template {
        start: Vec<Segment>,
        end: Option<Vec<Segment>>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(Vec<u8>),
    Any,
}

impl Segment {
    fn matches(&self, segment: &[u8]) -> bool {
        match self {
            Self::Literal(literal) => literal == segment,
            Self::Any => !segment.is_empty(),
        }
    }
}

/// What stands between the first slash of a path and the second.
pub fn first_segment(path: &[u8]) -> &[u8] {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let end = path.iter().position(|byte| *byte == b'/').unwrap_or(path.len());
    path.get(..end).unwrap_or(path)
}

impl PathPattern {
    /// The first segment of every path that matches; `None` where it can be any.
    pub fn first_segment(&self) -> Option<&[u8]> {
        match &self.0 {
            Kind::Under(path) if path.is_empty() => None,
            Kind::Exact(path) | Kind::Under(path) => Some(first_segment(path)),
            Kind::Template { start, .. } => match start.first() {
                Some(Segment::Literal(literal)) => Some(literal),
                Some(Segment::Any) | None => None,
            },
        }
    }

    /// Reads a pattern. Percent-encoding has no place in it: paths are compared decoded.
    ///
    /// # Errors
    /// Says what is wrong and how to write what was probably meant.
    pub fn parse(text: &str, case: PathCase) -> Result<Self, String> {
        let folded = if case == PathCase::Insensitive { text.to_ascii_lowercase() } else { text.to_owned() };
        let Some(body) = folded.strip_prefix('/') else {
            return Err("must start with `/`; `/*` is every path".to_owned());
        };
        if let Some(odd) = body.chars().find(|c| "%?#;\\".contains(*c) || c.is_control()) {
            return Err(format!("has `{}`, which no decoded path without query has", odd.escape_default()));
        }
        let body = body.strip_suffix('/').unwrap_or(body);
        let (body, everything_below) = match body.strip_suffix('*') {
            Some("") => ("", true),
            Some(start) if start.ends_with('/') => (start.strip_suffix('/').unwrap_or(start), true),
            _ => (body, false),
        };
        if body.is_empty() {
            return Ok(Self(if everything_below {
                Kind::Under(Vec::new())
            } else {
                Kind::Exact(b"/".to_vec())
            }));
        }
        let segments: Vec<&str> = body.split('/').collect();
        for segment in &segments {
            let operator = matches!(*segment, "{*}" | "{**}");
            if matches!(*segment, "" | "." | "..") {
                return Err("has an empty, `.` or `..` segment; no path with one reading has it".to_owned());
            }
            if !operator && segment.contains(['*', '{', '}']) {
                return Err(
                    "has a segment that is none: `*` stands last, after a `/`; elsewhere `{*}` is one segment and `{**}` any number"
                        .to_owned(),
                );
            }
        }
        let many = segments.iter().filter(|segment| **segment == "{**}").count();
        if many > 1 || (many == 1 && everything_below) {
            return Err("has more than one `{**}` or `*`".to_owned());
        }
        if segments.iter().all(|segment| !segment.starts_with('{')) {
            let path = format!("/{body}").into_bytes();
            return Ok(Self(if everything_below { Kind::Under(path) } else { Kind::Exact(path) }));
        }
        let parsed = |part: &[&str]| -> Vec<Segment> {
            part.iter()
                .map(|segment| match *segment {
                    "{*}" => Segment::Any,
                    literal => Segment::Literal(literal.as_bytes().to_vec()),
                })
                .collect()
        };
        let mut parts = segments.split(|segment| *segment == "{**}");
        let start = parsed(parts.next().unwrap_or_default());
        let end = parts.next().map(parsed).or(if everything_below { Some(Vec::new()) } else { None });
        Ok(Self(Kind::Template { start, end }))
    }

    /// Whether every path that `other` means is meant; `false` also where that is not known.
    pub fn covers(&self, other: &Self) -> bool {
        let each = |own: &[Segment], others: &[Segment]| {
            own.iter().zip(others).all(|(own, other)| *own == Segment::Any || own == other)
        };
        match (&self.0, &other.0) {
            _ if self == other || self.is_every() => true,
            // A pattern for all below a path that has this path as its beginning has everything below it, too.
            (_, Kind::Exact(path)) | (Kind::Under(_), Kind::Under(path)) => self.matches(path),
            (Kind::Under(path), Kind::Template { start, .. }) => {
                let mut literals = Vec::new();
                for segment in start {
                    let Segment::Literal(literal) = segment else { break };
                    literals.push(b'/');
                    literals.extend_from_slice(literal);
                }
                !path.is_empty() && self.matches(&literals)
            }
            // All below what a template begins with.
            (Kind::Template { end: Some(end), .. }, Kind::Under(path)) if end.is_empty() => {
                self.matches(path)
            }
            (Kind::Template { start, end: None }, Kind::Template { start: others, end: None }) => {
                start.len() == others.len() && each(start, others)
            }
            (Kind::Template { start, end: Some(end) }, Kind::Template { start: others, .. })
                if end.is_empty() =>
            {
                start.len() <= others.len() && each(start, others)
            }
            _ => false,
        }
    }

    /// Whether every path is meant.
    pub fn is_every(&self) -> bool {
        matches!(&self.0, Kind::Under(path) if path.is_empty())
    }

    /// This path and all below it; `None` where the pattern means more than one path, or `/`.
    pub fn below(&self) -> Option<Self> {
        match &self.0 {
            Kind::Exact(path) if path != b"/" => Some(Self(Kind::Under(path.clone()))),
            _ => None,
        }
    }

    /// Whether one reading of a request's path is among those that the pattern means.
    pub fn matches(&self, reading: &[u8]) -> bool {
        match &self.0 {
            Kind::Exact(path) => path == reading,
            Kind::Under(path) => match reading.strip_prefix(path.as_slice()) {
                Some(below) => below.is_empty() || below.starts_with(b"/"),
                None => false,
            },
            Kind::Template { start, end } => {
                let Some(below) = reading.strip_prefix(b"/") else { return false };
                let segments: Vec<&[u8]> =
                    if below.is_empty() { Vec::new() } else { below.split(|byte| *byte == b'/').collect() };
                let all = |pattern: &[Segment], found: &[&[u8]]| {
                    pattern.len() == found.len() && pattern.iter().zip(found).all(|(p, f)| p.matches(f))
                };
                let Some(end) = end else { return all(start, &segments) };
                let Some(end_at) = segments.len().checked_sub(end.len()) else { return false };
                start.len() <= end_at
                    && segments.get(..start.len()).is_some_and(|found| all(start, found))
                    && segments.get(end_at..).is_some_and(|found| all(end, found))
            }
        }
    }
}

#[cfg(test)]
mod tests;
