//! pluginConfig: from JSON to types that cannot be wrong.
//!
//! A filter parses its configuration in two steps. [`read`] turns the JSON into the filter's raw types (serde, unknown
//! fields refused) and says at which JSON path it failed. The filter then turns the raw types into its own and collects
//! everything that is wrong in an [`ErrorList`].

use std::fmt;
use std::time::Duration;

use serde::de::{self, DeserializeOwned};
use serde::{Deserialize, Deserializer};

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct ConfigError {
    /// Where: a JSON path such as `rules[2].match.paths[0]`; `$` for the document itself.
    pub path: String,
    /// What was found and what was expected.
    pub message: String,
}

/// All that is wrong with a configuration; at least one error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// The errors in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }

    /// The same errors with `prefix` in front of each path: for a configuration that is a part of a larger one.
    #[must_use]
    pub fn under(mut self, prefix: &str) -> Self {
        for error in &mut self.0 {
            error.path = match error.path.as_str() {
                "$" => prefix.to_owned(),
                path if path.starts_with('[') => format!("{prefix}{path}"),
                path => format!("{prefix}.{path}"),
            };
        }
        self
    }

    /// These errors and the others.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("; ")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// A JSON path that grows as a configuration is walked.
#[derive(Debug, Clone, Default)]
pub struct Path(String);

impl Path {
    /// The document itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// The field `name` below this path.
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// The element `index` of the list at this path.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "$" } else { &self.0 })
    }
}

/// Collects what is wrong, so that a user sees all of it at once.
#[derive(Debug, Default)]
pub struct ErrorList(Vec<ConfigError>);

impl ErrorList {
    /// Notes that the value at `path` is wrong.
    pub fn add(&mut self, path: &Path, message: impl fmt::Display) {
        self.0.push(ConfigError { path: path.to_string(), message: message.to_string() });
    }

    /// The value, or a note that it is wrong.
    pub fn check<T, E: fmt::Display>(&mut self, path: &Path, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(path, error)).ok()
    }

    /// The value when nothing was wrong. `value` may be `None` only when an error was noted.
    pub fn finish<T>(mut self, value: Option<T>) -> Result<T, ConfigErrors> {
        if self.0.is_empty() {
            if let Some(value) = value {
                return Ok(value);
            }
            self.add(&Path::root(), "incomplete");
        }
        Err(ConfigErrors(self.0))
    }
}

/// Reads JSON into the raw types of a configuration. An empty document is an empty object: a plugin without
/// pluginConfig gets the defaults, or hears which field it needs.
pub fn read<Raw: DeserializeOwned>(json: &[u8]) -> Result<Raw, ConfigErrors> {
    let json = if json.trim_ascii().is_empty() { b"{}" } else { json };
    serde_json::from_slice(json).map_err(|error| {
        let path = path_at(json, offset(json, error.line(), error.column()));
        ConfigError { path, message: with_nearest_name(&without_position(&error.to_string())) }.into()
    })
}

/// The byte at which `serde_json` stopped.
fn offset(json: &[u8], line: usize, column: usize) -> usize {
    let lines_before = json.split_inclusive(|byte| *byte == b'\n').take(line.saturating_sub(1));
    lines_before.map(<[u8]>::len).sum::<usize>().saturating_add(column)
}

/// The JSON path of what the first `end` bytes of a document end with: a value, or the name of a field.
///
/// A deserialiser that tracks the path would know it too, but it doubles the code of every type that is read, a third
/// of a module; this looks only when something is wrong.
fn path_at(json: &[u8], end: usize) -> String {
    enum Inside {
        Object { field: Option<String> },
        List { index: Option<usize> },
    }
    let mut stack: Vec<Inside> = Vec::new();
    let mut text = json.get(..end.min(json.len())).unwrap_or(json);
    while let Some((byte, rest)) = text.split_first() {
        text = rest;
        match byte {
            b',' => match stack.last_mut() {
                Some(Inside::Object { field }) => *field = None,
                Some(Inside::List { index: Some(index) }) => *index = index.saturating_add(1),
                _ => {}
            },
            b'}' | b']' => drop(stack.pop()),
            b':' => {}
            byte if byte.is_ascii_whitespace() => {}
            _ => {
                if let Some(Inside::List { index }) = stack.last_mut() {
                    index.get_or_insert(0);
                }
                match byte {
                    b'{' => stack.push(Inside::Object { field: None }),
                    b'[' => stack.push(Inside::List { index: None }),
                    b'"' => {
                        let (string, after) = string(text);
                        text = after;
                        if let Some(Inside::Object { field: field @ None }) = stack.last_mut() {
                            *field = Some(String::from_utf8_lossy(string).into_owned());
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    let path = stack.into_iter().fold(Path::root(), |path, inside| match inside {
        Inside::Object { field: Some(field) } => path.field(&field),
        Inside::List { index: Some(index) } => path.index(index),
        _ => path,
    });
    path.to_string()
}

/// A JSON string without its quotes, as it is written, and what follows it.
fn string(text: &[u8]) -> (&[u8], &[u8]) {
    let mut escaped = false;
    let end = text.iter().position(|byte| {
        let is_end = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        is_end
    });
    match end {
        Some(end) => {
            (text.get(..end).unwrap_or_default(), text.get(end.saturating_add(1)..).unwrap_or_default())
        }
        None => (text, &[]),
    }
}

/// A number that differs, but for one case in four billion, where the configuration does (FNV-1a, 32 bits): which pods run
/// which configuration shows in a metric.
pub fn fingerprint(json: &[u8]) -> u32 {
    json.iter().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Without `serde_json`'s ` at line 1 column 20`: the proxy sends one line that no user has seen.
fn without_position(message: &str) -> String {
    match message.rfind(" at line ") {
        Some(at) => message.get(..at).unwrap_or(message).to_owned(),
        None => message.to_owned(),
    }
}

/// With `did you mean …`, where a name is unknown and close to one that is expected.
fn with_nearest_name(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    let unknown = ["unknown field", "unknown variant"].iter().any(|start| message.starts_with(start));
    let (true, Some(found)) = (unknown, names.next()) else { return message.to_owned() };
    match nearest(found, names) {
        Some(name) => format!("{message}; did you mean `{name}`?"),
        None => message.to_owned(),
    }
}

/// The name nearest to `found`, if one is near enough to be what was meant.
pub fn nearest<'a>(found: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&found.to_ascii_lowercase(), &name.to_ascii_lowercase()), name))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

/// A duration as text: whole numbers with a unit each, `250ms`, `10s`, `5m`, `1h`, `7d`, `1h30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurationText(pub Duration);

impl std::str::FromStr for DurationText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || format!("`{text}` is no duration; expected one such as `250ms`, `10s`, `5m` or `1h30m`");
        let (mut rest, mut total) = (text, Duration::ZERO);
        while !rest.is_empty() {
            let unit_at = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(expected)?;
            let (digits, tail) = rest.split_at(unit_at);
            let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_end);
            let millis: u64 = match unit {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(expected()),
            };
            let count: u64 = digits.parse().map_err(|_| expected())?;
            let part = count.checked_mul(millis).ok_or_else(|| format!("`{text}` is too long a duration"))?;
            total = total.checked_add(Duration::from_millis(part)).ok_or_else(expected)?;
            rest = tail;
        }
        if text.is_empty() { Err(expected()) } else { Ok(Self(total)) }
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(DurationVisitor)
    }
}

/// A visitor, and not a step after `String::deserialize`, so that an error keeps its position.
struct DurationVisitor;

impl de::Visitor<'_> for DurationVisitor {
    type Value = DurationText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as `10s`")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<DurationText, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    struct Raw {
        #[serde(default)]
        #[allow(dead_code)]
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    #[allow(dead_code)]
    struct Inner {
        clock_skew: DurationText,
        issuer: Option<String>,
    }

    fn error(json: &str) -> String {
        read::<Raw>(json.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_field_is_refused_with_its_path_and_the_nearest_name() {
        assert_eq!(
            error(r#"{"inner":[{"clockSkew":"1s"},{"clockSkw":"1s"}]}"#),
            "inner[1].clockSkw: unknown field `clockSkw`, expected `clockSkew` or `issuer`; did you mean `clockSkew`?"
        );
    }

    #[test]
    fn a_name_that_is_like_no_other_gets_no_guess() {
        assert_eq!(error(r#"{"zzz":1}"#), "zzz: unknown field `zzz`, expected `inner`");
    }

    #[test]
    fn a_wrong_type_names_its_path() {
        let expected = "inner[0].clockSkew: invalid type: integer `5`, expected a duration such as `10s`";
        assert_eq!(error(r#"{"inner":[{"clockSkew":5}]}"#), expected);
    }

    #[test]
    fn the_path_is_found_at_every_kind_of_error() {
        for (json, start) in [
            (r#""x""#, "$: invalid type: string"),
            (r#"{"inner":"x"}"#, "inner: invalid type: string"),
            (r#"{"inner":{}}"#, "inner: invalid type: map"),
            (r#"{"inner":[1]}"#, "inner[0]: invalid type: integer"),
            (r#"{"inner":[{"issuer":"a"}]}"#, "inner[0]: missing field `clockSkew`"),
            (
                r#"{"inner":[{"clockSkew":"1s"},{"clockSkew":"1y"}]}"#,
                "inner[1].clockSkew: `1y` is no duration",
            ),
            (r#"{"inner":[{"clockSkew":"1s","issuer":["a"]}]}"#, "inner[0].issuer: invalid type: sequence"),
            (r#"{"inner":[{"clockSkew":"1s","issuer":{"a":1}}]}"#, "inner[0].issuer: invalid type: map"),
            (
                r#"{"inner":[{"issuer":"}],\"","clockSkew":true}]}"#,
                "inner[0].clockSkew: invalid type: boolean",
            ),
            (r#"{"inner":[{"clockSkew":"1s","clockSkew":"2s"}]}"#, "inner[0].clockSkew: duplicate field"),
            ("{\n \"inner\": [\n  {\"clockSkew\": 7}\n ]\n}", "inner[0].clockSkew: invalid type: integer"),
            (r#"{"inner":["#, "inner: EOF"),
        ] {
            assert!(error(json).starts_with(start), "{json}: {}", error(json));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_have_a_path(json: Vec<u8>, end: usize) {
            path_at(&json, end);
        }
    }

    #[test]
    fn an_empty_document_is_an_empty_object() {
        assert!(read::<Raw>(b" ").unwrap().inner.is_empty());
    }

    /// The values of the algorithm's own test suite.
    #[test]
    fn a_fingerprint_is_fnv_1a() {
        assert_eq!(fingerprint(b""), 0x811c_9dc5);
        assert_eq!(fingerprint(b"a"), 0xe40c_292c);
        assert_eq!(fingerprint(b"foobar"), 0xbf9c_f968);
    }

    #[test]
    fn what_follows_the_document_is_refused() {
        assert!(error("{} {}").contains("trailing characters"));
    }

    #[test]
    fn durations() {
        let millis = |text: &str| text.parse::<DurationText>().map(|d| d.0.as_millis());
        assert_eq!(millis("250ms"), Ok(250));
        assert_eq!(millis("1h30m"), Ok(5_400_000));
        assert_eq!(millis("7d"), Ok(604_800_000));
        for wrong in
            ["", "5", "s", "1.5s", "-1s", "1 s", "5y", "99999999999999999999s", "999999999999999999d"]
        {
            assert!(millis(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn errors_of_a_part_get_the_path_of_the_whole() {
        let errors = read::<Raw>(br#"{"inner":3}"#).unwrap_err().under("jwtAuth");
        assert_eq!(errors.iter().next().unwrap().path, "jwtAuth.inner");
    }
}
