//! The cost of a request: how many units of a limit it consumes.

use plugin_kit::host::HostError;
use plugin_kit::request::exchange::Exchange;

use crate::config::Limit;

/// What a request costs.
pub(crate) enum Cost {
    Of(u64),
    /// The source of the cost has a value that is not a number.
    Invalid,
}

impl Cost {
    /// What the limit charges for the request.
    pub(crate) fn of(limit: &Limit, exchange: &Exchange<'_>) -> Result<Self, HostError> {
        let Some(source) = &limit.cost_from else { return Ok(Self::Of(limit.cost)) };
        Ok(match source.value(exchange)? {
            Some(text) => parse(&text).map_or(Self::Invalid, Self::Of),
            None => Self::Of(limit.cost),
        })
    }
}

/// Reads a cost: `4`, `4.0`, `2.5`, `1e2`. A fraction is rounded up, so that a request that is not free costs
/// something, and a number that is too large for the type becomes the largest. `None` if the text is not such
/// a number.
pub fn parse(text: &[u8]) -> Option<u64> {
    let (mantissa, exponent) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(at) => (text.get(..at)?, exponent(text.get(at.saturating_add(1)..)?)?),
        None => (text, 0),
    };
    let point = mantissa.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match point {
        Some(at) => (mantissa.get(..at)?, mantissa.get(at.saturating_add(1)..)?),
        None => (mantissa, &[][..]),
    };
    let is_number = |digits: &[u8]| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    if !is_number(whole) || (point.is_some() && !is_number(fraction)) {
        return None;
    }
    // The number of digits before the point.
    let before = i64::try_from(whole.len()).ok()?.saturating_add(exponent);
    let (mut number, mut rest, mut seen) = (0_u64, false, 0_i64);
    for digit in whole.iter().chain(fraction).map(|byte| u64::from(byte.wrapping_sub(b'0'))) {
        if seen < before {
            number = number.saturating_mul(10).saturating_add(digit);
        } else {
            rest |= digit != 0;
        }
        seen = seen.saturating_add(1);
    }
    // With 20 more digits, every number but 0 is too large for the type.
    for _ in 0..before.saturating_sub(seen).clamp(0, 20) {
        number = number.saturating_mul(10);
    }
    Some(number.saturating_add(u64::from(rest)))
}

/// Reads an exponent. One that is too large for the type, of either sign, becomes the largest.
fn exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0_i64, |number, byte| {
        number.saturating_mul(10).saturating_add(i64::from(byte.wrapping_sub(b'0')))
    });
    Some(if negative { number.saturating_neg() } else { number })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn number_in_any_form_is_parsed_and_its_fraction_rounded_up() {
        for (text, expected) in [
            ("0", 0),
            ("0.0", 0),
            ("0e9999999999999999999999", 0),
            ("007", 7),
            ("1", 1),
            ("4.0", 4),
            ("4.000000000000000000000000000001", 5),
            ("2.5", 3),
            ("0.001", 1),
            ("1e2", 100),
            ("1E+2", 100),
            ("2.55e1", 26),
            ("2.50e1", 25),
            ("25e-1", 3),
            ("1e-400", 1),
            ("1e-99999999999999999999", 1),
            ("4294967295", 4_294_967_295),
            ("4294967296", 4_294_967_296),
            ("18446744073709551615", u64::MAX),
            ("18446744073709551616", u64::MAX),
            ("1e19", 10_000_000_000_000_000_000),
            ("1e20", u64::MAX),
            ("1e99999999999999999999", u64::MAX),
            ("0.0000000000000000000000000000001e50", 10_000_000_000_000_000_000),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(expected), "{text}");
        }
        assert_eq!(parse(&[b'9'; 10_000]), Some(u64::MAX));
    }

    #[test]
    fn text_that_is_not_a_number_is_refused() {
        for text in [
            "", " ", "1 ", "-1", "-0", "+1", ".5", "5.", ".", "1.2.3", "e2", "1e", "1e+", "1e1e1", "1e1.5",
            "0x10", "1_000", "1,5", "none", "NaN", "inf", "Infinity", "\u{0661}", "1\0",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse(b"\xff"), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }

        /// Compared with the floating point numbers of the standard library, where these are exact.
        #[test]
        fn parsed_number_equals_that_of_the_standard_library(whole in 0_u32..1_000_000, eighths in 0_u32..8, exponent in 0_u32..6) {
            let number = f64::from(whole) + f64::from(eighths) / 8.0;
            let text = format!("{number}e{exponent}");
            let expected: f64 = text.parse().unwrap();
            prop_assert_eq!(parse(text.as_bytes()).unwrap().to_string(), expected.ceil().to_string());
        }
    }
}
