//! The values of a claim, as tests compare them, and the text by which a claim goes from the filter that verified it to
//! the others.

use std::borrow::Cow;

use serde_json::{Number, Value};

use crate::wire::json;

/// What a claim has that a text can be compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimValues<'a> {
    present: bool,
    known: Vec<Cow<'a, str>>,
    more: bool,
}

impl<'a> ClaimValues<'a> {
    /// Of a claim as it stands in the token: itself, or the elements of its list; with `words` each string is
    /// a list of them. A null is neither a claim nor an element.
    pub fn of(claim: Option<&'a Value>, words: bool) -> Self {
        match claim {
            None | Some(Value::Null) => Self { present: false, known: Vec::new(), more: false },
            Some(Value::String(text)) => Self::of_text(text, words),
            Some(Value::Array(list)) => {
                let mut values = Self { present: true, known: Vec::with_capacity(list.len()), more: false };
                for element in list {
                    values.add(element, words);
                }
                values
            }
            Some(value) => {
                let mut values = Self { present: true, known: Vec::new(), more: false };
                values.add(value, words);
                values
            }
        }
    }

    fn add(&mut self, value: &'a Value, words: bool) {
        match value {
            Value::Null => {}
            Value::String(text) if words => self.known.extend(words_of(text)),
            value => match comparable(value) {
                Some(text) => self.known.push(text),
                None => self.more = true,
            },
        }
    }

    /// Of a claim as it was published, see [`published_text`].
    pub fn published(text: Option<&'a [u8]>, words: bool) -> Self {
        let unknown = Self { present: true, known: Vec::new(), more: true };
        let Some(bytes) = text else { return Self::of(None, words) };
        match (std::str::from_utf8(bytes), bytes.first()) {
            (Err(_), _) | (_, None) => unknown,
            (_, Some(first)) if JSON_STARTS.contains(first) => match json::value(bytes) {
                Ok(value) => ClaimValues::of(Some(&value), words).into_owned(),
                Err(_) => unknown,
            },
            (Ok(text), _) => Self::of_text(text, words),
        }
    }

    fn of_text(text: &'a str, words: bool) -> Self {
        let known = if words { words_of(text).collect() } else { vec![Cow::Borrowed(text)] };
        Self { present: true, known, more: false }
    }

    fn into_owned(self) -> ClaimValues<'static> {
        let known = self.known.into_iter().map(|value| Cow::Owned(value.into_owned())).collect();
        ClaimValues { known, present: self.present, more: self.more }
    }

    /// Whether the claim is there and not null.
    pub fn is_present(&self) -> bool {
        self.present
    }

    /// The values that are known: strings, booleans as JSON writes them, and numbers, each in one way.
    pub fn known(&self) -> &[Cow<'a, str>] {
        &self.known
    }

    /// The same, without the rest.
    pub fn into_known(self) -> Vec<Cow<'a, str>> {
        self.known
    }

    /// Whether it has more than is known: an object, a list within the list, a number that need not be what the issuer wrote, or a text
    /// that could not be published.
    pub fn has_more(&self) -> bool {
        self.more
    }
}

/// What is wrong with the name of a claim, see [`is_unescaped_url`].
pub const URL_WITH_DOTS: &str =
    "is a URL with dots, which would lead into objects; expected `\\.` for each dot";

/// Whether the name of a claim is a URL whose dots lead into objects, since no `\` stands before them.
pub fn is_unescaped_url(name: &str) -> bool {
    let Some((_, rest)) = name.split_once("://") else { return false };
    let mut escapes = false;
    rest.bytes().any(|byte| {
        let is_dot = byte == b'.' && !escapes;
        escapes = byte == b'\\' && !escapes;
        is_dot
    })
}

/// A string, number or boolean as text.
pub fn scalar(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        Value::Bool(true) => Some(Cow::Borrowed("true")),
        Value::Bool(false) => Some(Cow::Borrowed("false")),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Words are separated by white space.
fn words_of(text: &str) -> impl Iterator<Item = Cow<'_, str>> {
    text.split_whitespace().map(Cow::Borrowed)
}

/// What a claim, or an element of its list, is compared by: a number by one text, however it is written. `None` where that is not
/// known.
fn comparable(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::Number(number) if number.is_f64() => double_text(number.as_f64()?).map(Cow::Owned),
        other => scalar(other),
    }
}

/// From here on the parser need not read an integer with a point or an exponent as itself.
const INEXACT: f64 = 1e15;

/// The longest text of a fraction that is compared: one of up to 15 digits. Of more digits the parser can read the neighbouring
/// double, so that they say nothing.
const LONGEST_FRACTION: usize = "0.".len() + 14;

/// The text of a double that is the same number as what it was read from; `None` where it need not be.
fn double_text(double: f64) -> Option<String> {
    if double.is_nan() || double.abs() >= INEXACT {
        return None;
    }
    if double.fract() == 0.0 {
        // Also of -0.
        #[allow(
            clippy::cast_possible_truncation,
            reason = "it is in the range of integers that doubles hold"
        )]
        return Some((double as i64).to_string());
    }
    let text = Number::from_f64(double)?.to_string();
    (text.len() <= LONGEST_FRACTION && !text.contains('e')).then_some(text)
}

/// The one text of the number that a text is, as JSON writes numbers; `None` where it is none, or where no claim is known to be
/// equal to it.
pub fn number_text(text: &str) -> Option<String> {
    if text.contains(char::is_whitespace) {
        return None;
    }
    // Not by `Number`'s own `Deserialize`: its errors print fractions, and that code is 30 KB of a module.
    let Ok(Value::Number(number)) = json::value(text.as_bytes()) else { return None };
    if !number.is_f64() {
        return Some(number.to_string());
    }
    integer_text(text).or_else(|| double_text(number.as_f64()?))
}

/// The integer of at most 20 digits that a number with a point or an exponent is.
fn integer_text(number: &str) -> Option<String> {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let all = format!("{whole}{fraction}");
    let digits = all.trim_start_matches('0').trim_end_matches('0');
    if digits.is_empty() {
        return Some("0".to_owned());
    }
    let dropped = all.len().checked_sub(all.trim_end_matches('0').len())?;
    let fraction = i64::try_from(fraction.len()).ok()?;
    let zeros =
        exponent.parse::<i64>().ok()?.checked_sub(fraction)?.checked_add(i64::try_from(dropped).ok()?)?;
    let zeros = usize::try_from(zeros).ok().filter(|zeros| *zeros <= 20)?;
    (digits.len().checked_add(zeros)? <= 20).then(|| format!("{sign}{digits}{}", "0".repeat(zeros)))
}

/// An empty string as it is published.
pub const PUBLISHED_EMPTY: &[u8] = b"\"\"";

/// The first characters of published texts that are JSON.
const JSON_STARTS: [u8; 3] = [b'[', b'{', b'"'];

/// The longest text that is published, in bytes.
const LONGEST: usize = 8 * 1024;

/// The text of a claim in filter state: a string as it is, anything else as JSON, a number in one way. A string that starts as a
/// list, an object or a string does in JSON is written as JSON too, so that nobody takes `["admin"]` for a list who reads it, and
/// so is an empty one. A number that need not be what the issuer wrote is written as a list: no text is equal to it.
///
/// `None` where it is too long. An empty text then says that the claim is there.
pub fn published_text(claim: &Value) -> Option<Vec<u8>> {
    let text = match claim {
        Value::String(text) if text.bytes().next().is_some_and(|first| !JSON_STARTS.contains(&first)) => {
            text.clone()
        }
        Value::Number(number) => comparable(claim).map_or_else(|| format!("[{number}]"), Cow::into_owned),
        other => other.to_string(),
    };
    (text.len() <= LONGEST).then(|| text.into_bytes())
}

#[cfg(test)]
mod tests;
