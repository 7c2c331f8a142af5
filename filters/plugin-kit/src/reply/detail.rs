//! What operators read about a refused request: a line of fields in access logs and spans, and the request in the
//! proxy's log.

use std::fmt::Write;

use crate::reply::denial::printable_id;
use crate::request::exchange::Exchange;

/// The longest value of a field, in bytes.
const LONGEST_VALUE: usize = 64;
/// The most values of a list that are shown.
const MOST_LISTED: usize = 4;
/// The longest path that the log shows, in bytes.
const LONGEST_PATH: usize = 256;

/// The reasons of a refusal as fields: `rule=admin; check=audience; expected=api; received_unverified=other`.
///
/// Every value is short and printable, and has no character that ends a field, so neither a client nor a
/// configuration can write a field of its own.
#[derive(Debug, Default)]
pub struct Detail(String);

impl Detail {
    /// Adds a field whose value the filter, its configuration or a verified token says.
    pub fn add(&mut self, name: &str, value: &str) {
        let separator = if self.0.is_empty() { "" } else { "; " };
        let _ = write!(self.0, "{separator}{name}={}", printable(value, LONGEST_VALUE));
    }

    /// Adds a field with several such values.
    pub fn list<'a>(&mut self, name: &str, values: impl IntoIterator<Item = &'a str>) {
        let mut values = values.into_iter();
        let shown = values.by_ref().take(MOST_LISTED).map(|value| printable(value, LONGEST_VALUE));
        let mut shown: Vec<String> = shown.collect();
        if values.next().is_some() {
            shown.push("...".to_owned());
        }
        let separator = if self.0.is_empty() { "" } else { "; " };
        let _ = write!(self.0, "{separator}{name}={}", shown.join(","));
    }

    /// Adds a field with what the client says, which nobody has verified.
    pub fn unverified(&mut self, name: &str, value: Option<&str>) {
        self.add(&format!("{name}_unverified"), value.unwrap_or("(none)"));
    }

    /// The fields as one line.
    pub fn into_text(self) -> String {
        self.0
    }
}

/// The first bytes of a text, at most `most`, with `?` in the place of what is not printable ASCII, and of characters
/// that could end a field or a text in quotes.
pub fn printable(text: &str, most: usize) -> String {
    let shown = |c: char| if (' '..='~').contains(&c) && !";\"\\`".contains(c) { c } else { '?' };
    // Each character becomes one byte.
    let mut characters = text.chars().map(shown);
    let mut printable: String = characters.by_ref().take(most).collect();
    if characters.next().is_some() {
        printable.truncate(most.saturating_sub(3));
        printable.push_str("...");
    }
    printable
}

/// The request as a line of the proxy's log names it: `method=GET; path=/users; request_id=…`. The path has no query,
/// since that can hold a token.
pub fn of_request(exchange: &Exchange<'_>) -> String {
    let Ok(head) = exchange.headers() else { return String::new() };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut detail = Detail::default();
    detail.add("method", &text(head.method()));
    let _ = write!(detail.0, "; path={}", printable(&text(without_query(head.path())), LONGEST_PATH));
    if let Some(id) = head.first("x-request-id").and_then(printable_id) {
        let _ = write!(detail.0, "; request_id={id}");
    }
    detail.into_text()
}

/// A path up to its query or fragment, also where the mark is percent-encoded: servers may decode it.
fn without_query(path: &[u8]) -> &[u8] {
    let ends = |at: &usize| {
        let rest = path.get(*at..).unwrap_or_default();
        matches!(rest, [b'?' | b'#', ..] | [b'%', b'2', b'3', ..] | [b'%', b'3', b'f' | b'F', ..])
    };
    let end = (0..path.len()).find(ends).unwrap_or(path.len());
    path.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeHost;

    #[test]
    fn value_from_outside_is_printable_and_short_and_cannot_end_its_field() {
        let mut detail = Detail::default();
        detail.add("rule", "admin");
        detail.unverified("received", Some("a; rule=open\n\"\\`\u{e9}\u{202e}"));
        detail.unverified("key_id", None);
        assert_eq!(
            detail.into_text(),
            "rule=admin; received_unverified=a? rule=open??????; key_id_unverified=(none)"
        );
        assert_eq!(printable(&"x".repeat(64), 64), "x".repeat(64));
        assert_eq!(printable(&"\u{e9}".repeat(65), 64), format!("{}...", "?".repeat(61)));
    }

    #[test]
    fn list_shows_its_first_values() {
        let text = |values: &[&str]| {
            let mut detail = Detail::default();
            detail.list("expected", values.iter().copied());
            detail.into_text()
        };
        assert_eq!(text(&[]), "expected=");
        assert_eq!(text(&["a", "b;c"]), "expected=a,b?c");
        assert_eq!(text(&["1", "2", "3", "4"]), "expected=1,2,3,4");
        assert_eq!(text(&["1", "2", "3", "4", "5"]), "expected=1,2,3,4,...");
    }

    #[test]
    fn request_is_named_without_its_query() {
        let of = |path: &str, id: &str| {
            let host = FakeHost::request("GET", path).header("x-request-id", id);
            of_request(&Exchange::alone(1, &host))
        };
        assert_eq!(of("/a?access_token=x", "id-1"), "method=GET; path=/a; request_id=id-1");
        for path in ["/a#x", "/a%3fx", "/a%3Fx", "/a%23x", "/a"] {
            assert_eq!(of(path, "a b"), "method=GET; path=/a", "{path}");
        }
        assert_eq!(of("/a\u{1b}[31m; path=/b", ""), "method=GET; path=/a?[31m? path=/b");
        let long = format!("/{}", "x".repeat(1_000));
        assert_eq!(of(&long, "").len(), "method=GET; path=".len() + LONGEST_PATH);
    }
}
