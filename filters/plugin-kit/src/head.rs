//! The head of a request: its header map, as the proxy hands it over, searched in place.

use std::fmt;

/// A request's header map in the serialised form of the Proxy-Wasm ABI (`proxy_get_header_map_pairs`), searched where
/// it lies: no entry is copied until somebody asks for it.
///
/// Names are lower case, as Envoy keeps them. `:authority`, `:path`, `:method` and `:scheme` are entries like others.
/// A name may occur several times; [`Head::all`] shows every value, so that a second `authorization` cannot hide.
#[derive(Clone, PartialEq, Eq)]
pub struct Head {
    raw: Vec<u8>,
    count: usize,
}

/// The bytes are not a header map of the Proxy-Wasm ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed header map")]
pub struct Malformed;

impl Head {
    /// Takes a serialised header map: the number of entries, the two lengths of each, then each name and value with a
    /// zero byte behind it; numbers are 32 bits, little endian.
    ///
    /// The whole map is checked here, once, so that walking it later cannot fail.
    pub fn parse(raw: Vec<u8>) -> Result<Self, Malformed> {
        if raw.is_empty() {
            return Ok(Self { raw, count: 0 });
        }
        let count = number(&raw, 0).ok_or(Malformed)?;
        let mut at = count.checked_mul(8).and_then(|lengths| lengths.checked_add(4)).ok_or(Malformed)?;
        if at > raw.len() {
            return Err(Malformed);
        }
        for entry in 0..count {
            let (name, value) = lengths(&raw, entry).ok_or(Malformed)?;
            at = at.checked_add(name).and_then(|at| at.checked_add(value)).ok_or(Malformed)?;
            at = at.checked_add(2).ok_or(Malformed)?;
        }
        if at > raw.len() { Err(Malformed) } else { Ok(Self { raw, count }) }
    }

    /// A head with these entries, in this order.
    pub fn from_pairs<N: AsRef<[u8]>, V: AsRef<[u8]>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let (mut lengths, mut text, mut count) = (Vec::new(), Vec::new(), 0_usize);
        for (name, value) in pairs {
            for part in [name.as_ref(), value.as_ref()] {
                lengths.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
                text.extend_from_slice(part);
                text.push(0);
            }
            count = count.saturating_add(1);
        }
        let mut raw = u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes().to_vec();
        raw.append(&mut lengths);
        raw.append(&mut text);
        Self { raw, count }
    }

    /// The serialised form.
    pub fn into_raw(self) -> Vec<u8> {
        self.raw
    }

    /// Every entry in order.
    pub fn iter(&self) -> Entries<'_> {
        let start = self.count.saturating_mul(8).saturating_add(4);
        Entries { head: self, entry: 0, at: start }
    }

    /// Every value of the header `name` (lower case).
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let mut entries = self.iter();
        // Most names differ in length: those need no look at their bytes.
        std::iter::from_fn(move || {
            loop {
                let place = entries.place()?;
                if place.name_len == name.len() && entries.name(&place)? == name.as_bytes() {
                    return entries.value(&place);
                }
            }
        })
    }

    /// The first value of the header `name` (lower case).
    pub fn first<'a>(&'a self, name: &'a str) -> Option<&'a [u8]> {
        self.all(name).next()
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
impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| String::from_utf8_lossy(name))).finish()
    }
}

impl<'a> IntoIterator for &'a Head {
    type Item = (&'a [u8], &'a [u8]);
    type IntoIter = Entries<'a>;

    fn into_iter(self) -> Entries<'a> {
        self.iter()
    }
}

/// The entries of a [`Head`], in order.
#[derive(Clone)]
pub struct Entries<'a> {
    head: &'a Head,
    entry: usize,
    at: usize,
}

/// Where an entry's name and value lie.
struct Place {
    name_at: usize,
    name_len: usize,
    value_at: usize,
    value_len: usize,
}

impl<'a> Entries<'a> {
    fn place(&mut self) -> Option<Place> {
        if self.entry >= self.head.count {
            return None;
        }
        let (name_len, value_len) = lengths(&self.head.raw, self.entry)?;
        let value_at = self.at.checked_add(name_len)?.checked_add(1)?;
        let place = Place { name_at: self.at, name_len, value_at, value_len };
        self.entry = self.entry.checked_add(1)?;
        self.at = value_at.checked_add(value_len)?.checked_add(1)?;
        Some(place)
    }

    fn name(&self, place: &Place) -> Option<&'a [u8]> {
        self.head.raw.get(place.name_at..)?.get(..place.name_len)
    }

    fn value(&self, place: &Place) -> Option<&'a [u8]> {
        self.head.raw.get(place.value_at..)?.get(..place.value_len)
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let place = self.place()?;
        Some((self.name(&place)?, self.value(&place)?))
    }
}

fn number(raw: &[u8], at: usize) -> Option<usize> {
    let bytes = raw.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
}

fn lengths(raw: &[u8], entry: usize) -> Option<(usize, usize)> {
    let at = entry.checked_mul(8)?.checked_add(4)?;
    Some((number(raw, at)?, number(raw, at.checked_add(4)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_value_of_a_repeated_header_is_seen_in_order() {
        let head = Head::from_pairs([("a", "1"), ("b", ""), ("a", "2")]);
        let parsed = Head::parse(head.raw.clone()).unwrap();
        assert_eq!(parsed.all("a").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(parsed.first("b"), Some(&b""[..]));
        assert_eq!(parsed.first("c"), None);
        assert_eq!(parsed.len(), 3);
    }

    #[test]
    fn an_empty_buffer_is_an_empty_map() {
        assert!(Head::parse(Vec::new()).unwrap().is_empty());
    }

    #[test]
    fn debug_shows_no_values() {
        let shown = format!("{:?}", Head::from_pairs([("authorization", "Bearer secret")]));
        assert_eq!(shown, r#"["authorization"]"#);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(pairs: Vec<(Vec<u8>, Vec<u8>)>) {
            let head = Head::parse(Head::from_pairs(pairs.clone()).raw).unwrap();
            let read: Vec<_> = head.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
            prop_assert_eq!(read, pairs);
        }

        #[test]
        fn any_bytes_are_a_map_or_refused(raw: Vec<u8>) {
            if let Ok(head) = Head::parse(raw) {
                prop_assert_eq!(head.iter().count(), head.len());
            }
        }

        #[test]
        fn a_truncated_map_is_refused(pairs: Vec<(Vec<u8>, Vec<u8>)>, cut in 1_usize..9) {
            let raw = Head::from_pairs(pairs).raw;
            let kept = raw.len().saturating_sub(cut);
            prop_assume!(kept > 0);
            prop_assert_eq!(Head::parse(raw[..kept].to_vec()), Err(Malformed));
        }
    }
}
