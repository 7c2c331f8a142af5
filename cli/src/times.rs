//! Times in the forms that people write and read.

/// Reads a time: seconds since the epoch, or `2026-12-01T07:30:00Z`.
///
/// # Errors
/// The text is neither.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let expected =
        || format!("`{text}` is not a time; expected seconds since the epoch, or 2026-12-01T07:30:00Z");
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let (date, time) = text.trim_end_matches('Z').split_once('T').ok_or_else(expected)?;
    let numbers = |text: &str, separator: char| -> Option<[i64; 3]> {
        let mut parts = text.split(separator).map(|part| part.split('.').next().unwrap_or(part).parse().ok());
        let three = [parts.next()??, parts.next()??, parts.next()??];
        parts.next().is_none().then_some(three)
    };
    let [year, month, day] = numbers(date, '-').ok_or_else(expected)?;
    let [hour, minute, second] = numbers(time, ':').ok_or_else(expected)?;
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return Err(expected());
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    u64::try_from(seconds).map_err(|_| expected())
}

/// The days from the epoch to a date of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the leap day is the last of a year.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// A time in UTC.
pub(crate) fn utc(seconds: u64) -> String {
    let Ok(seconds) = i64::try_from(seconds) else { return format!("{seconds} s after the epoch") };
    let (mut day, of_day) = (seconds.div_euclid(86_400) + 719_468, seconds.rem_euclid(86_400));
    let era = day.div_euclid(146_097);
    day -= era * 146_097;
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A span of time, in its two largest units.
pub(crate) fn span(seconds: u64) -> String {
    let units = [("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1)];
    let first = units.iter().position(|(_, length)| seconds >= *length).unwrap_or(units.len() - 1);
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (unit, length) in units.iter().skip(first).take(2) {
        let number = rest / length;
        rest %= length;
        if number > 0 || parts.is_empty() {
            parts.push(format!("{number} {unit}{}", if number == 1 { "" } else { "s" }));
        }
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_764_574_200, "2025-12-01T07:30:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
        ] {
            assert_eq!(utc(seconds), text);
            assert_eq!(parse(text), Ok(seconds));
        }
        assert_eq!(parse("17"), Ok(17));
        for wrong in ["", "x", "2026-13-01T00:00:00Z", "2026-12-01", "2026-12-01T25:00:00Z", "-5"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_span_has_its_two_largest_units() {
        for (seconds, text) in [
            (0, "0 seconds"),
            (61, "1 minute 1 second"),
            (3600, "1 hour"),
            (3661, "1 hour 1 minute"),
            (200_000, "2 days 7 hours"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }
}
