//! Durations, placeholders and matchers: the small words of the format.

use crate::tokens::{Tokens, public_keys};
use regex_lite::Regex;
use serde::Deserialize;
use serde_json::Value;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since the epoch.
pub(crate) fn unix_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// `250ms`, `10s`, `5m`, `1h`, `2d`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return None,
    };
    Some(Duration::from_secs(number.checked_mul(unit)?))
}

/// A signed duration, in seconds: `+5m`, `-1h`.
pub(crate) fn offset(text: &str) -> Option<i64> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    Some(sign * i64::try_from(duration(rest)?.as_secs()).ok()?)
}

/// Replaces `${token:NAME}`, `${jwks:KEY,KEY}` (the set as text) and `${now+5m}`.
pub(crate) fn expand(text: &str, tokens: &Tokens) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, from) = rest.split_at(start);
        let end = from.find('}').ok_or_else(|| format!("{text:?}: no }} after ${{"))?;
        out += before;
        out += &placeholder(&from[2..end], tokens)?;
        rest = &from[end + 1..];
    }
    Ok(out + rest)
}

fn placeholder(word: &str, tokens: &Tokens) -> Result<String, String> {
    if let Some(name) = word.strip_prefix("token:") {
        return tokens.text(name).map(str::to_owned).map_err(|error| error.to_string());
    }
    if let Some(names) = word.strip_prefix("jwks:") {
        return Ok(public_keys(&names.split(',').collect::<Vec<_>>())?.to_string());
    }
    if let Some(text) = word.strip_prefix("now") {
        let seconds = if text.is_empty() { Some(0) } else { offset(text) };
        return seconds
            .map(|s| (unix_now() + s).to_string())
            .ok_or_else(|| format!("${{{word}}}: no such time"));
    }
    Err(format!("${{{word}}}: expected token:NAME, jwks:KEY,… or now+5m"))
}

/// Expands every string of a JSON value. A string that is exactly `${keys:KEY,…}` becomes the set as an
/// object.
pub(crate) fn expand_json(value: &Value, tokens: &Tokens) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => match text.strip_prefix("${keys:").and_then(|names| names.strip_suffix('}')) {
            Some(names) => public_keys(&names.split(',').collect::<Vec<_>>())?,
            None => Value::String(expand(text, tokens)?),
        },
        Value::Array(items) => {
            items.iter().map(|item| expand_json(item, tokens)).collect::<Result<_, _>>()?
        }
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| Ok((name.clone(), expand_json(value, tokens)?)))
            .collect::<Result<_, String>>()?,
        other => other.clone(),
    })
}

/// What a case expects of a text that may be absent or occur several times.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Value")]
pub(crate) enum Matcher {
    /// `null`: it must not be there.
    Absent,
    /// A scalar: it is there exactly once and is this.
    Equals(String),
    /// A list: these, in this order.
    All(Vec<String>),
    /// `{ contains: … }`
    Contains(String),
    /// `{ matches: … }`: a regular expression finds it.
    Matches(Regex),
    /// `{ present: true }`
    Present,
}

impl TryFrom<Value> for Matcher {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        const SHAPE: &str = "expected a text, a list of texts, null, { contains: text }, { matches: regex } or { present: true }";
        Ok(match value {
            Value::Null => Self::Absent,
            Value::Array(items) => Self::All(items.iter().map(text).collect::<Result<_, _>>()?),
            Value::Object(fields) => {
                let mut fields = fields.into_iter();
                match (fields.next(), fields.next()) {
                    (Some((word, value)), None) => match word.as_str() {
                        "contains" => Self::Contains(text(&value)?),
                        "matches" => {
                            Self::Matches(Regex::new(&text(&value)?).map_err(|error| error.to_string())?)
                        }
                        "present" if value == true => Self::Present,
                        _ => return Err(SHAPE.to_owned()),
                    },
                    _ => return Err(SHAPE.to_owned()),
                }
            }
            scalar => Self::Equals(text(&scalar)?),
        })
    }
}

fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        other => Err(format!("expected a text, got {other}")),
    }
}

impl Matcher {
    /// None if it fits, else what was expected.
    pub(crate) fn mismatch(&self, seen: &[&str], tokens: &Tokens) -> Result<Option<String>, String> {
        let fits = match self {
            Self::Absent => seen.is_empty(),
            Self::Present => !seen.is_empty(),
            Self::Equals(text) => seen == [expand(text, tokens)?.as_str()],
            Self::All(texts) => {
                let texts = texts.iter().map(|text| expand(text, tokens)).collect::<Result<Vec<_>, _>>()?;
                seen == texts.as_slice()
            }
            Self::Contains(text) => {
                let text = expand(text, tokens)?;
                seen.len() == 1 && seen[0].contains(&text)
            }
            Self::Matches(regex) => seen.len() == 1 && regex.is_match(seen[0]),
        };
        Ok((!fits).then(|| format!("expected {self}, saw {}", Seen(seen))))
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("nothing"),
            Self::Present => f.write_str("something"),
            Self::Equals(text) => write!(f, "{text:?}"),
            Self::All(texts) => write!(f, "{texts:?}"),
            Self::Contains(text) => write!(f, "a text with {text:?}"),
            Self::Matches(regex) => write!(f, "a text like /{}/", regex.as_str()),
        }
    }
}

struct Seen<'a>(&'a [&'a str]);

impl fmt::Display for Seen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("nothing"),
            [one] => write!(f, "{one:?}"),
            many => write!(f, "{many:?}"),
        }
    }
}

/// Is everything in `expected` also in `seen`? Objects may have more fields, lists must be equal in length,
/// and `{ contains: … }`, `{ matches: … }` and `{ present: true }` are matchers.
pub(crate) fn json_mismatch(
    expected: &Value,
    seen: &Value,
    path: &str,
    tokens: &Tokens,
) -> Result<Option<String>, String> {
    match (expected, seen) {
        (Value::Object(fields), _) if is_matcher(fields) => {
            let matcher = Matcher::try_from(expected.clone())?;
            let seen =
                (!seen.is_null()).then(|| seen.as_str().map_or_else(|| seen.to_string(), str::to_owned));
            let seen: Vec<_> = seen.iter().map(String::as_str).collect();
            Ok(matcher.mismatch(&seen, tokens)?.map(|difference| format!("{path}: {difference}")))
        }
        (Value::Object(expected), Value::Object(seen)) => {
            for (name, value) in expected {
                let seen = seen.get(name).unwrap_or(&Value::Null);
                if let Some(difference) = json_mismatch(value, seen, &format!("{path}.{name}"), tokens)? {
                    return Ok(Some(difference));
                }
            }
            Ok(None)
        }
        (Value::Array(expected), Value::Array(seen)) if expected.len() == seen.len() => {
            for (index, (expected, seen)) in expected.iter().zip(seen).enumerate() {
                if let Some(difference) = json_mismatch(expected, seen, &format!("{path}[{index}]"), tokens)?
                {
                    return Ok(Some(difference));
                }
            }
            Ok(None)
        }
        _ if expected == seen => Ok(None),
        _ => Ok(Some(format!("{path}: expected {expected}, saw {seen}"))),
    }
}

fn is_matcher(fields: &serde_json::Map<String, Value>) -> bool {
    fields.len() == 1 && ["contains", "matches", "present"].iter().any(|word| fields.contains_key(*word))
}
