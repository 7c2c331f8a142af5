//! The head of a request: its header map, as the proxy hands it over, searched in place.

use std::fmt;

use crate::wire::bytes::equal;

/// A request's header map in the serialised form of the Proxy-Wasm ABI (`proxy_get_header_map_pairs`), searched where
/// it lies: no entry is copied until somebody asks for it.
///
/// Names are lower case, as Envoy keeps them. `:authority`, `:path`, `:method` and `:scheme` are entries like others.
/// A name may occur several times; [`HeaderMap::all`] shows every value, so that a second `authorization` cannot hide.
#[derive(Clone, PartialEq, Eq)]
pub struct HeaderMap {
    raw: Vec<u8>,
    count: usize,
}

/// The bytes are not a header map of the Proxy-Wasm ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed header map")]
pub struct Malformed;

impl HeaderMap {
    /// Takes a serialised header map: the number of entries, the two lengths of each, then each name and value with a
    /// zero byte behind it; numbers are 32 bits, little endian.
    ///
    /// The whole map is checked here, once, so that walking it later cannot fail.
    pub fn parse(raw: Vec<u8>) -> Result<Self, Malformed> {
        let Some((count, rest)) = raw.split_first_chunk() else {
            return if raw.is_empty() { Ok(Self { raw, count: 0 }) } else { Err(Malformed) };
        };
        let count = u32::from_le_bytes(*count) as usize;
        let (lengths, text) =
            count.checked_mul(LENGTHS).and_then(|lengths| rest.split_at_checked(lengths)).ok_or(Malformed)?;
        let mut needed = 0_u64;
        for entry in lengths.as_chunks().0 {
            let (name, value) = lengths_of(*entry);
            // Less than 2^34 for each of less than 2^29 entries.
            needed = needed.wrapping_add(u64::from(name)).wrapping_add(u64::from(value)).wrapping_add(2);
        }
        if needed > text.len() as u64 { Err(Malformed) } else { Ok(Self { raw, count }) }
    }

    /// A head with these entries, in this order. They are walked twice: the first time to know the size.
    pub fn from_pairs<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        pairs: impl IntoIterator<Item = (N, V), IntoIter: Clone>,
    ) -> Self {
        let pairs = pairs.into_iter();
        let (mut count, mut size) = (0_usize, COUNT);
        for (name, value) in pairs.clone() {
            let entry = name.as_ref().len().saturating_add(value.as_ref().len()).saturating_add(LENGTHS + 2);
            (count, size) = (count.saturating_add(1), size.saturating_add(entry));
        }
        // Already with the zero bytes behind names and values.
        let mut raw = vec![0; size];
        if let Some((head, rest)) = raw.split_first_chunk_mut() {
            *head = number(count);
            let (lengths, mut text) =
                rest.split_at_mut_checked(count.wrapping_mul(LENGTHS)).unwrap_or_default();
            for ([one, two], (name, value)) in
                lengths.as_chunks_mut().0.as_chunks_mut().0.iter_mut().zip(pairs)
            {
                text = append(text, one, name.as_ref());
                text = append(text, two, value.as_ref());
            }
        }
        Self { raw, count }
    }

    /// The same without the headers of these names.
    #[must_use]
    pub fn without(&self, removed: impl Fn(&[u8]) -> bool) -> Self {
        Self::from_pairs(self.iter().filter(|(name, _)| !removed(name)))
    }

    /// The serialised form.
    pub fn into_raw(self) -> Vec<u8> {
        self.raw
    }

    /// Every entry in order.
    pub fn iter(&self) -> Entries<'_> {
        self.with_name_lengths(NameLengths(u64::MAX))
    }

    /// The entries in order whose names have one of these lengths, and perhaps more: the rest is passed over quickly.
    pub fn with_name_lengths(&self, lengths: NameLengths) -> Entries<'_> {
        let wanted = lengths;
        let entries = self.raw.get(COUNT..).unwrap_or_default();
        let (lengths, text) = entries.split_at_checked(self.count.wrapping_mul(LENGTHS)).unwrap_or_default();
        Entries { lengths: lengths.as_chunks().0.iter(), text, wanted }
    }

    /// Every value of the header `name` (lower case).
    pub fn all(&self, name: &str) -> impl Iterator<Item = &[u8]> + Clone {
        let entries = self.with_name_lengths(NameLengths::of([name]));
        entries.filter(move |(found, _)| equal(found, name.as_bytes())).map(|(_, value)| value)
    }

    /// The first value of the header `name` (lower case).
    pub fn first<'a>(&'a self, name: &'a str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// All values of the header `name` (lower case), joined by a comma; `None` where there is none.
    pub fn joined(&self, name: &str) -> Option<Vec<u8>> {
        let mut values = self.all(name);
        let mut joined = values.next()?.to_vec();
        for value in values {
            joined.push(b',');
            joined.extend_from_slice(value);
        }
        Some(joined)
    }

    /// `:path`, with the query string; empty when there is none.
    pub fn path(&self) -> &[u8] {
        self.first(":path").unwrap_or_default()
    }

    /// `:method`; empty when there is none.
    pub fn method(&self) -> &[u8] {
        self.first(":method").unwrap_or_default()
    }

    /// `:authority`, with the port when the client sent one; empty when there is none.
    pub fn authority(&self) -> &[u8] {
        self.first(":authority").unwrap_or_default()
    }

    /// Whether this is a CORS preflight (fetch standard, section 4.8).
    pub fn is_preflight(&self) -> bool {
        self.method() == b"OPTIONS"
            && self.first("origin").is_some()
            && self.first("access-control-request-method").is_some()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// Names only: a value may be a credential.
impl fmt::Debug for HeaderMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| String::from_utf8_lossy(name))).finish()
    }
}

impl<'a> IntoIterator for &'a HeaderMap {
    type Item = (&'a [u8], &'a [u8]);
    type IntoIter = Entries<'a>;

    fn into_iter(self) -> Entries<'a> {
        self.iter()
    }
}

/// The entries of a [`HeaderMap`], in order.
#[derive(Clone)]
pub struct Entries<'a> {
    lengths: std::slice::Iter<'a, [u8; LENGTHS]>,
    /// Names and values of the entries that are left.
    text: &'a [u8],
    wanted: NameLengths,
}

/// Lengths of names, in bytes; 64 and more counts as what is left of them modulo 64.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NameLengths(u64);

impl NameLengths {
    /// The lengths of these names.
    pub fn of<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Self {
        let lengths = names.into_iter().map(|name| u32::try_from(name.as_ref().len() % 64).unwrap_or(0));
        Self(lengths.fold(0, |set, length| set | 1_u64.rotate_left(length)))
    }

    /// These lengths and `others`.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    fn contain(self, length: u32) -> bool {
        self.0.rotate_right(length) & 1 == 1
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (name, value) = lengths_of(*self.lengths.next()?);
            if self.wanted.contain(name) {
                let (name, rest) = self.text.split_at_checked(name as usize)?;
                let (value, rest) = rest.get(1..)?.split_at_checked(value as usize)?;
                self.text = rest.get(1..)?;
                return Some((name, value));
            }
            // No more than there is of the map, as was checked when it was taken.
            let passed = (name as usize).wrapping_add(value as usize).wrapping_add(2);
            self.text = self.text.get(passed..)?;
        }
    }
}

/// Bytes of the number of entries.
const COUNT: usize = 4;
/// Bytes of the two lengths of an entry.
const LENGTHS: usize = 8;

/// A number as it is written in the map.
fn number(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes()
}

/// Writes a part of an entry and its length. Returns the room behind it and its zero byte.
fn append<'a>(text: &'a mut [u8], length: &mut [u8; 4], part: &[u8]) -> &'a mut [u8] {
    *length = number(part.len());
    let Some((here, behind)) = text.split_at_mut_checked(part.len()) else { return Default::default() };
    here.copy_from_slice(part);
    behind.get_mut(1..).unwrap_or_default()
}

/// The lengths of an entry's name and value: the halves of eight bytes, little endian.
fn lengths_of(entry: [u8; LENGTHS]) -> (u32, u32) {
    let both = u64::from_le_bytes(entry);
    #[allow(clippy::cast_possible_truncation, reason = "the low half is meant")]
    let name = both as u32;
    (name, (both >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_value_of_a_repeated_header_is_seen_in_order() {
        let head = HeaderMap::from_pairs([("a", "1"), ("b", ""), ("a", "2")]);
        let parsed = HeaderMap::parse(head.raw.clone()).unwrap();
        assert_eq!(parsed.all("a").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(parsed.first("b"), Some(&b""[..]));
        assert_eq!(parsed.first("c"), None);
        assert_eq!((parsed.joined("a").unwrap(), parsed.joined("c")), (b"1,2".to_vec(), None));
        assert_eq!(parsed.len(), 3);
    }

    #[test]
    fn an_empty_buffer_is_an_empty_map() {
        assert!(HeaderMap::parse(Vec::new()).unwrap().is_empty());
        assert!(!HeaderMap::from_pairs([("a", "1")]).is_empty());
    }

    #[test]
    fn a_map_is_what_it_was_made_of() {
        let head = HeaderMap::from_pairs([(":authority", "shop"), ("a", "1")]);
        assert_eq!(head.authority(), b"shop");
        assert_eq!(HeaderMap::parse(head.clone().into_raw()), Ok(head));
    }

    #[test]
    fn entries_are_passed_over_by_the_length_of_their_names() {
        let long = ["x".repeat(64), "x".repeat(65), "x".repeat(130)];
        let names = ["a", "b", "cc", "dd", "eee", &long[0], &long[1], &long[2]];
        let head = HeaderMap::from_pairs(names.map(|name| (name, "")));
        let lengths = |wanted| head.with_name_lengths(wanted).map(|(name, _)| name.len()).collect::<Vec<_>>();
        let of = |names: &[&str]| NameLengths::of(names);
        assert_eq!(lengths(of(&[])), [0; 0]);
        // 65 and 130 are 1 and 2 modulo 64.
        assert_eq!(lengths(of(&["a"])), [1, 1, 65]);
        assert_eq!(lengths(of(&["a", "b"])), [1, 1, 65]);
        assert_eq!(lengths(of(&["cc"]).and(of(&["dd", "eee"]))), [2, 2, 3, 130]);
        assert_eq!(lengths(of(&["cc"]).and(of(&["cc"]))), [2, 2, 130]);
        assert_eq!(lengths(of(&[&long[0]])), [64]);
    }

    #[test]
    fn debug_shows_no_values() {
        let shown = format!("{:?}", HeaderMap::from_pairs([("authorization", "Bearer secret")]));
        assert_eq!(shown, r#"["authorization"]"#);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(pairs: Vec<(Vec<u8>, Vec<u8>)>) {
            let head = HeaderMap::parse(HeaderMap::from_pairs(pairs.clone()).raw).unwrap();
            let read: Vec<_> = head.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
            prop_assert_eq!(read, pairs);
        }

        #[test]
        fn a_name_is_found_among_names_of_any_length(names: Vec<String>, at: prop::sample::Index) {
            prop_assume!(!names.is_empty());
            let head = HeaderMap::from_pairs(names.iter().enumerate().map(|(n, name)| (name, n.to_string())));
            let name = at.get(&names);
            let expected: Vec<_> = (0..names.len()).filter(|n| names[*n] == *name).map(|n| n.to_string()).collect();
            let found: Vec<_> = head.all(name).map(|value| String::from_utf8_lossy(value).into_owned()).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn any_bytes_are_a_map_or_refused(raw: Vec<u8>) {
            if let Ok(head) = HeaderMap::parse(raw) {
                prop_assert_eq!(head.iter().count(), head.len());
            }
        }

        #[test]
        fn a_truncated_map_is_refused(pairs: Vec<(Vec<u8>, Vec<u8>)>, cut in 1_usize..9) {
            let raw = HeaderMap::from_pairs(pairs).raw;
            let kept = raw.len().saturating_sub(cut);
            prop_assume!(kept > 0);
            prop_assert_eq!(HeaderMap::parse(raw[..kept].to_vec()), Err(Malformed));
        }
    }
}
