//! How one value of a header or of a claim is compared with what the configuration says.

use serde_json::Value;

use super::truth::Truth;
#[cfg(not(target_os = "wasi"))]
use crate::config::Definitions;
use crate::config::{ConfigReader, ErrorList, FromConfig, JsonPath};
use crate::host::Environment;
use crate::request::cel::{self, Expression};
use crate::request::claim::number_text;
use crate::request::exchange::Exchange;

/// What a value is compared with: a text, which is the whole value, or an object that says how to compare.
#[derive(Debug, Clone)]
pub enum RawText {
    /// The text is the whole value.
    Whole(String),
    /// The value is compared as the object says.
    As(RawTextTest),
}

crate::config_object! {
    /// How a value is compared: exactly one of `exact`, `prefix`, `suffix` and `regex`.
    #[derive(Debug, Clone, Default)]
    pub struct RawTextTest {
        /// The value must be this string. In contrast to a plain string in the list, it may contain `*`.
        pub exact: Option<String>,
        /// The value must begin with this string.
        pub prefix: Option<String>,
        /// The value must end with this string.
        pub suffix: Option<String>,
        /// A regular expression (RE2) that must match the whole value. The proxy evaluates it. It is for
        /// headers only, not for claims.
        pub regex: Option<String>,
        /// Whether the case of ASCII letters is ignored.
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

/// What a value is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TextTest {
    pub(super) kind: Comparison,
    text: Vec<u8>,
    /// For a claim: if the whole text is a number, that number as claims have it, unless it is the same text.
    number: Option<Vec<u8>>,
    ignore_case: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Exact,
    Prefix,
    Suffix,
    Regex(Expression),
}

impl TextTest {
    /// Reads a comparison. Without an `environment`, regular expressions are refused, since the host evaluates them.
    pub(super) fn compile(
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

    pub(super) fn holds(&self, value: &[u8], regex: Regexes<'_>) -> Truth {
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

/// Evaluates a regular expression for a value.
pub(super) type Regexes<'a> = &'a dyn Fn(Expression, &[u8]) -> Truth;

/// Evaluates a regular expression. For a text that is not UTF-8 the answer is in doubt: `.` does not match such bytes.
pub(super) fn matches_regex(expression: Expression, text: &[u8], exchange: &Exchange<'_>) -> Truth {
    match std::str::from_utf8(text) {
        Ok(_) => expression.holds(exchange, Some((cel::TEXT, text))),
        Err(_) => Ok(None),
    }
}
