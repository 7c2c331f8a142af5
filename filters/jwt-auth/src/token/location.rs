//! Where requests carry tokens.

use std::borrow::Cow;
use std::fmt;

use plugin_kit::request::headers::HeaderMap;
use plugin_kit::request::path::percent_decoded;
use plugin_kit::wire::bytes::equal;

/// A place in a request where tokens are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenLocation {
    /// A header, in which the token follows a prefix whose case does not matter (`Bearer `). With an empty
    /// prefix, the whole value is the token.
    Header {
        /// The name, in lower case.
        name: String,
        /// The prefix, including the space at its end.
        prefix: String,
    },
    /// A parameter of the query.
    QueryParam(String),
    /// A cookie.
    Cookie(String),
}

impl TokenLocation {
    /// The location of RFC 6750 section 2.1.
    pub fn bearer() -> Self {
        Self::Header { name: "authorization".to_owned(), prefix: "Bearer ".to_owned() }
    }

    /// Of tokens at several locations, the token at the location of the lowest rank says who makes the
    /// request.
    pub fn rank(&self) -> u8 {
        match self {
            Self::Header { .. } => 0,
            Self::Cookie(_) => 1,
            Self::QueryParam(_) => 2,
        }
    }

    /// Every token at this location; an empty value is not a token. A header is a list: a part that begins
    /// with another prefix is not a token, whether it is on a line of its own or before a comma, by which
    /// proxies join lines.
    ///
    /// # Errors
    /// [`Repeated`] if a header holds two tokens, or something else after the token of a scheme: two readers
    /// could take different ones.
    pub fn tokens<'a>(&self, head: &'a HeaderMap) -> Result<Vec<Cow<'a, [u8]>>, Repeated> {
        match self {
            Self::Header { name, prefix } => {
                let mut found = None;
                for part in parts(head, name) {
                    let token = token_in(part, prefix);
                    // Of `Bearer a, b`, other readers may take `a, b`.
                    let goes_on = prefix.ends_with(' ') && !part.trim_ascii().is_empty();
                    if found.is_some() && (token.is_some() || goes_on) {
                        return Err(Repeated);
                    }
                    found = token.or(found);
                }
                Ok(found.map(Cow::Borrowed).into_iter().collect())
            }
            Self::QueryParam(name) => {
                let pairs =
                    query(head.path()).unwrap_or_default().split(|byte| *byte == b'&').map(name_and_value);
                let named = pairs.filter(|(found, _)| percent_decoded(found) == name.as_bytes());
                let named = named.filter(|(_, value)| !value.is_empty());
                Ok(named.map(|(_, value)| Cow::Owned(percent_decoded(value))).collect())
            }
            Self::Cookie(name) => {
                let cookies = head.all("cookie").flat_map(cookies);
                let named = cookies.map(cookie_parts).filter(|(found, _)| *found == name.as_bytes());
                let values = named.map(|(_, value)| unquoted(value)).filter(|value| !value.is_empty());
                Ok(values.map(Cow::Borrowed).collect())
            }
        }
    }
}

impl fmt::Display for TokenLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header { name, .. } => write!(f, "the header `{name}`"),
            Self::QueryParam(name) => write!(f, "the query parameter `{name}`"),
            Self::Cookie(name) => write!(f, "the cookie `{name}`"),
        }
    }
}

impl TokenLocation {
    /// Whether there is a token at this location, or something that some readers would take for one.
    pub fn is_taken(&self, head: &HeaderMap) -> bool {
        !matches!(self.tokens(head), Ok(tokens) if tokens.is_empty())
    }
}

/// A header to replace, or to remove if there is no value.
pub type Edit<'a> = (Cow<'a, str>, Option<Vec<u8>>);

/// The edits that remove the tokens at these locations, and nothing else.
pub fn without_tokens<'a>(locations: &[&'a TokenLocation], head: &HeaderMap) -> Vec<Edit<'a>> {
    let (mut edits, mut params, mut names) = (Vec::new(), Vec::new(), Vec::new());
    for location in locations {
        match location {
            TokenLocation::Header { name, .. } if edits.iter().any(|(edited, _)| edited == name) => {}
            TokenLocation::Header { name, .. } => {
                edits.push((Cow::Borrowed(name.as_str()), rest(head, name, locations)));
            }
            TokenLocation::QueryParam(name) => params.push(name.as_bytes()),
            TokenLocation::Cookie(name) => names.push(name.as_bytes()),
        }
    }
    if !params.is_empty() {
        let target = head.path();
        let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
        let others: Vec<&[u8]> = query(target)
            .unwrap_or_default()
            .split(|byte| *byte == b'&')
            .filter(|pair| !params.contains(&percent_decoded(name_and_value(pair).0).as_slice()))
            .collect();
        let rest = if others.is_empty() { Vec::new() } else { [&b"?"[..], &others.join(&b'&')].concat() };
        edits.push((Cow::Borrowed(":path"), Some([path, &rest].concat())));
    }
    if !names.is_empty() {
        let others: Vec<&[u8]> = head
            .iter()
            .filter(|(found, _)| *found == b"cookie")
            .flat_map(|(_, value)| cookies(value))
            .filter(|cookie| !names.contains(&cookie_parts(cookie).0))
            .collect();
        let rest = if others.is_empty() { None } else { Some(others.join(&b"; "[..])) };
        edits.push((Cow::Borrowed("cookie"), rest));
    }
    edits
}

/// A header has more than one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeated;

/// The parts of a header: its lines, split at commas, since Envoy joins the lines of some headers. A comma
/// within quotes splits, too, so that a token in quotes does not get past the check.
fn parts<'a>(head: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    head.all(name).flat_map(|line| line.split(|byte| *byte == b','))
}

/// The token in a part of a header, if it has one behind `prefix`.
fn token_in<'a>(part: &'a [u8], prefix: &str) -> Option<&'a [u8]> {
    behind_prefix(part.trim_ascii(), prefix).filter(|token| !token.is_empty())
}

/// What is left of a header without the tokens that these locations look for there; `None` if nothing is, and
/// if it is not certain how far a token goes.
fn rest(head: &HeaderMap, name: &str, locations: &[&TokenLocation]) -> Option<Vec<u8>> {
    let in_it =
        |location: &&&TokenLocation| matches!(location, TokenLocation::Header { name: of, .. } if of == name);
    if locations.iter().filter(in_it).any(|location| location.tokens(head).is_err()) {
        return None;
    }
    let is_token = |part: &[u8]| {
        locations.iter().any(|location| match location {
            TokenLocation::Header { name: of, prefix } => of == name && token_in(part, prefix).is_some(),
            _ => false,
        })
    };
    let others: Vec<&[u8]> = parts(head, name).filter(|part| !is_token(part)).collect();
    let left = others.iter().any(|part| !part.trim_ascii().is_empty());
    left.then(|| others.join(&b',').trim_ascii().to_vec())
}

/// The token in a header value, if the value begins with `prefix`.
pub fn behind_prefix<'a>(value: &'a [u8], prefix: &str) -> Option<&'a [u8]> {
    let (start, rest) = value.split_at_checked(prefix.len())?;
    // Nearly always it is written as it is here.
    let same = equal(start, prefix.as_bytes())
        || start.eq_ignore_ascii_case(prefix.as_bytes())
        || is_scheme_before_tab(start, prefix);
    same.then(|| rest.trim_ascii())
}

/// Whether this is the scheme of `prefix` with a tab where the prefix has a space. Some readers split at any white
/// space, and so would find a token here.
fn is_scheme_before_tab(start: &[u8], prefix: &str) -> bool {
    let scheme = start.strip_suffix(b"\t").zip(prefix.strip_suffix(' '));
    scheme.is_some_and(|(start, scheme)| start.eq_ignore_ascii_case(scheme.as_bytes()))
}

fn query(target: &[u8]) -> Option<&[u8]> {
    let question_mark = target.iter().position(|byte| *byte == b'?')?;
    target.get(question_mark.checked_add(1)?..)
}

fn name_and_value(pair: &[u8]) -> (&[u8], &[u8]) {
    match pair.iter().position(|byte| *byte == b'=').and_then(|at| pair.split_at_checked(at)) {
        Some((name, value)) => (name, value.get(1..).unwrap_or_default()),
        None => (pair, b""),
    }
}

/// The name and the value of a cookie. Some readers remove white space around the `=`.
fn cookie_parts(cookie: &[u8]) -> (&[u8], &[u8]) {
    let (name, value) = name_and_value(cookie);
    (name.trim_ascii(), value.trim_ascii())
}

fn cookies(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    header.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).filter(|cookie| !cookie.is_empty())
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(name: &str, values: &[&str]) -> HeaderMap {
        HeaderMap::from_pairs(values.iter().map(|value| (name, value)))
    }

    fn tokens(location: &TokenLocation, head: &HeaderMap) -> Result<Vec<String>, Repeated> {
        let tokens = location.tokens(head)?;
        Ok(tokens.into_iter().map(|token| String::from_utf8(token.into_owned()).unwrap()).collect())
    }

    #[test]
    fn bearer_prefix_matches_in_any_case() {
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER   a.b.c", "Bearer\ta.b.c", "bearer\t a.b.c"] {
            assert_eq!(
                tokens(&TokenLocation::bearer(), &head("authorization", &[value])),
                Ok(vec!["a.b.c".to_owned()])
            );
        }
        for value in ["Basic a", "Bearera.b.c", "Bearer", "Bearer ", "", ",", "Digest a=\"b\", c=\"d\""] {
            assert_eq!(
                tokens(&TokenLocation::bearer(), &head("authorization", &[value])),
                Ok(Vec::new()),
                "{value}"
            );
        }
    }

    #[test]
    fn token_beside_other_credentials_is_found_and_they_stay() {
        for (values, others) in [
            (&["Basic b", "bearer t"][..], Some("Basic b")),
            (&["Basic b,Bearer t"], Some("Basic b")),
            (&["Digest a=\"x,y\", c=\"d\" , Bearer t"], Some("Digest a=\"x,y\", c=\"d\"")),
            (&["", "Bearer t"], None),
            (&[",Bearer t, ,"], None),
            (&["Bearer ,Bearer t"], Some("Bearer")),
        ] {
            let head = head("authorization", values);
            assert_eq!(tokens(&TokenLocation::bearer(), &head), Ok(vec!["t".to_owned()]), "{values:?}");
            let location = TokenLocation::bearer();
            let edits = without_tokens(&[&location], &head);
            let expected = others.map(|others| others.as_bytes().to_vec());
            assert_eq!(edits, [(Cow::Borrowed("authorization"), expected)], "{values:?}");
        }
    }

    #[test]
    fn header_with_two_tokens_is_refused() {
        for values in [
            &["Bearer a", "Bearer b"][..],
            &["Bearer a,Bearer b"],
            &["Bearer a, Basic b", "Bearer c"],
            &["Bearer a", "Basic b", "bearer a"],
            &["Digest a=\"Bearer x, Bearer b\", Bearer c"],
            // Where the token ends two readers may see otherwise.
            &["Bearer a,b"],
            &["Bearer a", "b"],
            &["Bearer a", "Basic b"],
        ] {
            assert_eq!(
                tokens(&TokenLocation::bearer(), &head("authorization", values)),
                Err(Repeated),
                "{values:?}"
            );
        }
        let whole = TokenLocation::Header { name: "x-token".to_owned(), prefix: String::new() };
        for (values, expected) in [
            (&["a", "b"][..], Err(Repeated)),
            (&["a,b"], Err(Repeated)),
            (&["", "a"], Ok(vec!["a".to_owned()])),
            (&[""], Ok(Vec::new())),
        ] {
            assert_eq!(tokens(&whole, &head("x-token", values)), expected, "{values:?}");
        }
    }

    #[test]
    fn header_with_unclear_token_end_is_removed() {
        let location = TokenLocation::bearer();
        for values in [&["Bearer a,b"][..], &["Basic c", "Bearer a", "b"], &["Bearer a", "Bearer b"]] {
            let head = head("authorization", values);
            assert!(location.is_taken(&head), "{values:?}");
            assert_eq!(
                without_tokens(&[&location], &head),
                [(Cow::Borrowed("authorization"), None)],
                "{values:?}"
            );
        }
        assert!(!location.is_taken(&head("authorization", &["Basic c", "Bearer "])));
    }

    #[test]
    fn web_socket_token_leaves_other_protocols() {
        let location =
            TokenLocation::Header { name: "sec-websocket-protocol".to_owned(), prefix: "bearer.".to_owned() };
        for (values, others) in [
            (&["bearer.t, graphql-ws, chat"][..], Some("graphql-ws, chat")),
            (&["graphql-ws,bearer.t,chat"], Some("graphql-ws,chat")),
            (&["graphql-ws", "bearer.t"], Some("graphql-ws")),
            (&["bearer.t"], None),
        ] {
            let head = head("sec-websocket-protocol", values);
            assert_eq!(tokens(&location, &head), Ok(vec!["t".to_owned()]), "{values:?}");
            let [(_, rest)] = &without_tokens(&[&location], &head)[..] else { panic!("{values:?}") };
            assert_eq!(rest.as_deref(), others.map(str::as_bytes), "{values:?}");
        }
        let two = head("sec-websocket-protocol", &["bearer.t, bearer.u"]);
        assert_eq!(tokens(&location, &two), Err(Repeated));
    }

    #[test]
    fn two_locations_in_one_header_are_emptied() {
        let location =
            |prefix: &str| TokenLocation::Header { name: "a".to_owned(), prefix: prefix.to_owned() };
        let head = head("a", &["chat, bearer.t", "token.u"]);
        let (bearer, token) = (location("bearer."), location("token."));
        let edits = without_tokens(&[&bearer, &token], &head);
        assert_eq!(edits, [(Cow::Borrowed("a"), Some(b"chat".to_vec()))]);
    }

    #[test]
    fn repeated_parameter_and_cookie_are_all_found() {
        let parameter = TokenLocation::QueryParam("t".to_owned());
        assert_eq!(
            tokens(&parameter, &head(":path", &["/a?x=t&t=1&%74=2&tt=3&t&t="])),
            Ok(vec!["1".into(), "2".into()])
        );
        let cookie = TokenLocation::Cookie("t".to_owned());
        assert_eq!(
            tokens(&cookie, &head("cookie", &["x=t; t=1; t=", "t = \"2\";tt=3; t=\"\"; t"])),
            Ok(vec!["1".into(), "2".into()])
        );
    }

    #[test]
    fn all_of_several_tokens_are_removed() {
        let head = HeaderMap::from_pairs([
            (":path", "/p?a=1&x=y&b=2"),
            ("cookie", "c=3; x=y; d=4"),
            ("x-token", "5"),
        ]);
        let locations = [
            TokenLocation::QueryParam("a".to_owned()),
            TokenLocation::QueryParam("b".to_owned()),
            TokenLocation::Cookie("c".to_owned()),
            TokenLocation::Cookie("d".to_owned()),
            TokenLocation::Header { name: "x-token".to_owned(), prefix: String::new() },
        ];
        let edits = without_tokens(&locations.iter().collect::<Vec<_>>(), &head);
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
        let edits: Vec<_> =
            edits.iter().map(|(name, value)| (name.as_ref(), value.as_deref().map(text))).collect();
        assert_eq!(
            edits,
            [("x-token", None), (":path", Some("/p?x=y".to_owned())), ("cookie", Some("x=y".to_owned()))]
        );
    }

    proptest! {
        /// Taking the token out of a query leaves every other parameter as it was, in order.
        #[test]
        fn neighbours_of_query_token_stay(pairs in proptest::collection::vec("[a-c%=+]{0,4}", 0..6), at in 0_usize..6) {
            let others: Vec<&str> = pairs.iter().map(String::as_str).filter(|pair| !pair.is_empty()).collect();
            let mut all = others.clone();
            all.insert(at.min(others.len()), "token=x.y.z");
            let location = TokenLocation::QueryParam("token".to_owned());
            let edits = without_tokens(&[&location], &head(":path", &[&format!("/p?{}", all.join("&"))]));
            let expected = if others.is_empty() { "/p".to_owned() } else { format!("/p?{}", others.join("&")) };
            prop_assert_eq!(edits, vec![(Cow::Borrowed(":path"), Some(expected.into_bytes()))]);
        }

        #[test]
        fn any_headers_are_read_without_panic(value in ".{0,40}") {
            let value = value.replace('\0', "");
            for (name, location) in [
                ("authorization", TokenLocation::bearer()),
                (":path", TokenLocation::QueryParam("t".to_owned())),
                ("cookie", TokenLocation::Cookie("t".to_owned())),
            ] {
                let head = head(name, &[&value]);
                let _ = location.tokens(&head);
                without_tokens(&[&location], &head);
            }
        }
    }
}
