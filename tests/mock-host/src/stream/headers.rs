//! Header maps as Envoy keeps them.

use std::fmt;

/// A header map in Envoy's order and with Envoy's rules for names that occur more than once.
///
/// Names are lower case. Pseudo headers (`:path`, …) stand first (`HeaderMapImpl::HeaderList::insert`, Envoy
/// `source/common/http/header_map_impl.h`).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HeaderMap {
    entries: Vec<(String, Vec<u8>)>,
}

impl HeaderMap {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// The first value of a name, as `Context::getHeaderMapValue` gives it (Envoy `context.cc`).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.get_bytes(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The first value of a name, whatever its bytes.
    pub fn get_bytes(&self, name: &str) -> Option<&[u8]> {
        self.values(name).next()
    }

    /// All values of a name in order; values that are not UTF-8 are left out.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.values(name).filter_map(|value| std::str::from_utf8(value).ok()).collect()
    }

    /// Whether a name occurs.
    pub fn contains(&self, name: &str) -> bool {
        self.get_bytes(name).is_some()
    }

    /// All entries in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.entries.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// Number of entries: what a header callback is told.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let name = canonical(name);
        self.entries.iter().filter(move |(have, _)| *have == name).map(|(_, value)| value.as_slice())
    }

    /// Adds a value (`HeaderMapImpl::addCopy`). A second value of an *inline* header is not a second entry:
    /// Envoy appends it to the first, after a comma (`insertByKey`, `appendToHeader`).
    pub fn add(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let name = canonical(name);
        let value = value.as_ref().to_vec();
        if is_inline(&name)
            && let Some((_, existing)) = self.entries.iter_mut().find(|(have, _)| *have == name)
        {
            if !existing.is_empty() && !value.is_empty() {
                existing.push(b',');
            }
            existing.extend(value);
            return;
        }
        let at = if name.starts_with(':') {
            self.entries.iter().take_while(|(have, _)| have.starts_with(':')).count()
        } else {
            self.entries.len()
        };
        self.entries.insert(at, (name, value));
    }

    /// Removes all values and adds one (`HeaderMapImpl::setCopy` is remove, then insert: the header moves to
    /// the end).
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.remove(name);
        self.add(name, value);
    }

    /// Removes all values of a name.
    pub fn remove(&mut self, name: &str) {
        let name = canonical(name);
        self.entries.retain(|(have, _)| *have != name);
    }

    /// `HeaderMap::byteSize`: the sum of the sizes of names and values.
    pub(crate) fn byte_size(&self) -> usize {
        self.entries.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// All values joined by a comma (`HeaderUtility::getAllOfHeaderAsString`, which CEL attributes and the
    /// property `request.headers` use).
    pub(crate) fn joined(&self, name: &str) -> Option<Vec<u8>> {
        let values: Vec<_> = self.values(name).collect();
        (!values.is_empty()).then(|| values.join(&b","[..]))
    }

    pub(crate) fn pairs(&self) -> &[(String, Vec<u8>)] {
        &self.entries
    }
}

impl<N: AsRef<str>, V: AsRef<[u8]>> FromIterator<(N, V)> for HeaderMap {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut map = Self::new();
        for (name, value) in pairs {
            map.add(name.as_ref(), value);
        }
        map
    }
}

impl fmt::Debug for HeaderMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(
                self.entries
                    .iter()
                    .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value))),
            )
            .finish()
    }
}

/// Lower case, and `host` as `:authority` (the static lookup table of `RequestHeaderMap` maps the legacy
/// name).
fn canonical(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    if name == "host" { ":authority".to_owned() } else { name }
}

/// Headers that Envoy keeps inline, so that values coalesce: `INLINE_REQ_STRING_HEADERS` and its sisters in
/// `envoy/http/header_map.h`, and those that filters in the release binary register
/// (`RegisterCustomInlineHeader`: `authorization` by oauth2 and cache, `referer` by the expression context,
/// …).
fn is_inline(name: &str) -> bool {
    matches!(
        name,
        ":authority"
            | ":method"
            | ":path"
            | ":protocol"
            | ":scheme"
            | ":status"
            | "accept"
            | "accept-encoding"
            | "access-control-request-headers"
            | "access-control-request-method"
            | "authorization"
            | "cache-control"
            | "connection"
            | "content-length"
            | "content-type"
            | "expect"
            | "grpc-message"
            | "grpc-status"
            | "grpc-timeout"
            | "if-match"
            | "if-modified-since"
            | "if-none-match"
            | "keep-alive"
            | "origin"
            | "pragma"
            | "proxy-connection"
            | "proxy-status"
            | "referer"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "user-agent"
            | "via"
            | "x-client-trace-id"
            | "x-envoy-external-address"
            | "x-envoy-internal"
            | "x-envoy-original-path"
            | "x-forwarded-client-cert"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-port"
            | "x-forwarded-proto"
            | "x-request-id"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn get_gives_the_first_value_and_joined_gives_all() {
        let map: HeaderMap = [("x-a", "1"), ("x-b", "2"), ("X-A", "3")].into_iter().collect();
        assert_eq!(map.get("x-a"), Some("1"));
        assert_eq!(map.joined("x-a"), Some(b"1,3".to_vec()));
        assert_eq!(map.all("x-A"), ["1", "3"]);
        assert_eq!(map.byte_size(), 12);
    }

    #[test]
    fn set_removes_every_duplicate_and_moves_to_the_end() {
        let mut map: HeaderMap = [("x-a", "1"), ("x-b", "2"), ("x-a", "3")].into_iter().collect();
        map.set("x-a", "4");
        assert_eq!(map.pairs(), [("x-b".into(), b"2".to_vec()), ("x-a".into(), b"4".to_vec())]);
    }

    #[test]
    fn pseudo_headers_stay_in_front() {
        let mut map: HeaderMap = [(":path", "/"), ("x-a", "1"), (":method", "GET")].into_iter().collect();
        map.set(":path", "/new");
        let names: Vec<_> = map.iter().map(|(name, _)| name).collect();
        assert_eq!(names, [":method", ":path", "x-a"]);
    }

    #[test]
    fn a_second_value_of_an_inline_header_joins_the_first() {
        let map: HeaderMap =
            [("authorization", "Bearer a"), ("authorization", "Bearer b")].into_iter().collect();
        assert_eq!(map.all("authorization"), ["Bearer a,Bearer b"]);
    }
}
