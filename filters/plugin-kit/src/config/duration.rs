//! Durations as a configuration writes them.

use std::time::Duration;

use serde_json::Value;

#[cfg(not(target_os = "wasi"))]
use super::Definitions;
use super::{ConfigReader, FromConfig};

/// A duration as text: whole numbers with a unit each, `250ms`, `10s`, `5m`, `1h`, `7d`, `1h30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurationText(pub Duration);

impl std::str::FromStr for DurationText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Only a text that looks like a duration is shown: anything else may be a secret in the wrong place.
        let nearly = |byte: u8| byte.is_ascii_digit() || b".-dhimnsuwy".contains(&byte);
        let found = if text.len() <= 12 && text.bytes().all(nearly) {
            format!("`{text}`")
        } else {
            "this".to_owned()
        };
        let expected = || {
            format!("{found} is not a valid duration; expected one such as `250ms`, `10s`, `5m` or `1h30m`")
        };
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
            let part = count.checked_mul(millis).ok_or_else(|| format!("{found} is too long a duration"))?;
            total = total.checked_add(Duration::from_millis(part)).ok_or_else(expected)?;
            rest = tail;
        }
        if text.is_empty() { Err(expected()) } else { Ok(Self(total)) }
    }
}

impl FromConfig for DurationText {
    fn read(value: &Value, reader: &mut ConfigReader) -> Option<Self> {
        let Value::String(text) = value else { return reader.expected("a duration such as `10s`", value) };
        reader.check(text.parse())
    }

    #[cfg(not(target_os = "wasi"))]
    fn schema(_: &mut Definitions) -> Value {
        serde_json::json!({ "type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$" })
    }

    #[cfg(not(target_os = "wasi"))]
    fn to_json(&self) -> Option<Value> {
        let millis = self.0.as_millis();
        let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
        let unit = units.iter().find(|(_, length)| millis > 0 && millis.is_multiple_of(*length));
        let (unit, length) = unit.unwrap_or(&("ms", 1));
        Some(format!("{}{unit}", millis.checked_div(*length)?).into())
    }
}
