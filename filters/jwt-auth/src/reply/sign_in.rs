//! Where a browser is sent to sign in, in the place of a refusal.

use crate::policy::place::Place;
use crate::token::location::{TokenLocation, without_tokens};
use plugin_kit::request::headers::HeaderMap;

/// The longest path and query that a browser is sent back to, in bytes.
const LONGEST: usize = 4096;
const PLACEHOLDER: &str = "{returnTo}";

/// Where a browser is sent to sign in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignIn {
    /// The URL, in front of the place where the return URL stands.
    before: String,
    /// The URL behind that place; `None` if there is no such place.
    after: Option<String>,
    /// The service's own origins, of which there is at least one.
    origins: Vec<String>,
}

impl SignIn {
    /// Reads the template of the URL.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn parse(url: &str, origins: Vec<String>) -> Result<Self, String> {
        let (before, after) = match url.split_once(PLACEHOLDER) {
            Some((before, after)) => (before, Some(after)),
            None => (url, None),
        };
        let is_local = before.starts_with('/') && !before.starts_with("//");
        let is_url = origin_of(before).is_some();
        let good = |byte: u8| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte);
        let is_clean = before.bytes().chain(after.unwrap_or_default().bytes()).all(good);
        if !(is_local || is_url) || !is_clean {
            return Err("is not a URL to sign in at; expected one such as `https://login.example/start?return={returnTo}`, or a path".to_owned());
        }
        if after.is_some() && !before.contains('?') {
            return Err("has `{returnTo}` before its query; expected it behind a `?`".to_owned());
        }
        Ok(Self { before: before.to_owned(), after: after.map(str::to_owned), origins })
    }

    /// The URL that the browser is sent to, if a browser has made the request to show a page.
    #[inline(never)]
    pub fn location(&self, head: &HeaderMap, places: &[Place]) -> Option<String> {
        let says = |name: &str, text: &[u8]| {
            head.first(name)
                .is_some_and(|value| value.windows(text.len()).any(|part| part.eq_ignore_ascii_case(text)))
        };
        let is_page = head.first("sec-fetch-mode").is_none_or(|mode| mode == b"navigate");
        if head.method() != b"GET" || !is_page || !says("accept", b"text/html") {
            return None;
        }
        let Some(after) = &self.after else { return Some(self.before.clone()) };
        let named = |origin: &&String| {
            let authority = origin.split_once("://").map(|(_, authority)| authority.as_bytes());
            authority.is_some_and(|authority| authority.eq_ignore_ascii_case(head.authority()))
        };
        let origin = self.origins.iter().find(named).or(self.origins.first())?;
        // A token that was refused in the query does not come back.
        let queries = places.iter().map(|place| &place.location);
        let is_query = |location: &&TokenLocation| matches!(location, TokenLocation::QueryParam(_));
        let queries: Vec<&TokenLocation> =
            queries.filter(is_query).filter(|location| location.is_taken(head)).collect();
        let mut edits = without_tokens(&queries, head).into_iter();
        let target = edits.next().and_then(|(_, target)| target).unwrap_or_else(|| head.path().to_vec());
        let is_good = target.starts_with(b"/") && target.len() <= LONGEST;
        let target = if is_good { target.as_slice() } else { b"/" };
        let mut url = self.before.clone();
        percent_encode(origin.as_bytes(), &mut url);
        percent_encode(target, &mut url);
        url.push_str(after);
        Some(url)
    }
}

/// Adds bytes to a URL or a form: those that are unreserved (RFC 3986 section 2.3) as they are, and the others percent-encoded.
pub fn percent_encode(bytes: &[u8], text: &mut String) {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            text.push(char::from(*byte));
        } else {
            text.push('%');
            text.extend([byte >> 4, byte & 15].iter().filter_map(|half| DIGITS.get(usize::from(*half))));
        }
    }
}

/// The origin in front of an `http` or `https` URL with a host in lower case and perhaps a port.
pub fn origin_of(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let (host, port) = authority.split_once(':').unwrap_or((authority, "1"));
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    let is_good = ["http", "https"].contains(&scheme)
        && host.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && host.bytes().all(good)
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok();
    let length = scheme.len().saturating_add("://".len()).saturating_add(authority.len());
    if is_good { url.get(..length) } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sign_in(url: &str) -> Result<SignIn, String> {
        SignIn::parse(url, vec!["https://app.example".to_owned(), "https://b.example:8443".to_owned()])
    }

    fn location(url: &str, authority: &str, path: &str) -> Option<String> {
        let head = HeaderMap::from_pairs([
            (":method", "GET"),
            (":authority", authority),
            (":path", path),
            ("accept", "text/html,*/*;q=0.8"),
        ]);
        sign_in(url).unwrap().location(&head, &[])
    }

    #[test]
    fn template_that_is_no_url_is_refused() {
        for url in [
            "https://login.example/?r={returnTo}",
            "https://login.example?r={returnTo}&x=1",
            "/login?r={returnTo}",
            "/login",
            "http://localhost:8080/login?a#b",
        ] {
            assert!(sign_in(url).is_ok(), "{url}");
        }
        for url in [
            "",
            "login",
            "//evil.example/?r={returnTo}",
            "javascript:alert(1)?{returnTo}",
            "https://{returnTo}/",
            "https://user@login.example/?r={returnTo}",
            "https:///?r={returnTo}",
            "https://login.example/{returnTo}",
            "https://login.example/?r={returnTo}&again={returnTo}",
            "https://login.example/?r={url}",
            "https://login.example/?r= {returnTo}",
            "https://LOGIN.example/?r={returnTo}",
            "https://login.example:x/?r={returnTo}",
            "https://login.example/\\?r={returnTo}",
        ] {
            assert!(sign_in(url).is_err(), "{url}");
        }
    }

    #[test]
    fn return_url_begins_with_an_origin_of_the_service() {
        let of = |authority, path| location("/login?r={returnTo}&x", authority, path).unwrap();
        assert_eq!(of("app.example", "/a?b=c&d"), "/login?r=https%3A%2F%2Fapp.example%2Fa%3Fb%3Dc%26d&x");
        assert_eq!(of("B.example:8443", "/"), "/login?r=https%3A%2F%2Fb.example%3A8443%2F&x");
        for authority in ["evil.example", "app.example.evil.example", "b.example", "app.example:1", ""] {
            assert_eq!(of(authority, "/"), "/login?r=https%3A%2F%2Fapp.example%2F&x", "{authority}");
        }
        for path in ["@evil.example/", "https://evil.example/", "*", ""] {
            assert_eq!(of("app.example", path), "/login?r=https%3A%2F%2Fapp.example%2F&x", "{path}");
        }
        let long = format!("/{}", "a".repeat(LONGEST));
        assert_eq!(of("app.example", &long), "/login?r=https%3A%2F%2Fapp.example%2F&x");
        assert_eq!(location("/login", "app.example", "/a").as_deref(), Some("/login"));
    }

    proptest! {
        #[test]
        fn any_path_stays_within_its_parameter(path in "/.{0,40}", authority in ".{0,20}") {
            let url = location("/login?r={returnTo}", &authority, &path).unwrap();
            let encoded = url.strip_prefix("/login?r=https%3A%2F%2Fapp.example%2F").unwrap();
            prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)));
        }
    }
}
