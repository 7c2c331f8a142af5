//! Pseudonyms: the same person gets the same one, and only who holds the key can tell who it is.

use std::cell::RefCell;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac_sha256::HMAC;
use plugin_kit::wire::bytes::equal;

/// Makes pseudonyms: the first 128 bits of HMAC-SHA-256 (RFC 2104) over the value, base64url without padding: 22
/// characters.
///
/// A hash without a key would not do: who knows the form of the IDs finds them by trying all.
#[derive(Clone)]
pub struct Pseudonym {
    key: Vec<u8>,
    prefix: String,
    /// Values and their pseudonyms, each at the place that its value names: an HMAC costs more than all else that a tag
    /// takes.
    recent: RefCell<Vec<Option<Recent>>>,
}

/// A value and its pseudonym.
type Recent = (Box<[u8]>, String);

/// How many pseudonyms are kept.
const RECENT: usize = 512;
/// Longer values are not kept, so that clients cannot make the memory large.
const LONGEST_RECENT: usize = 128;

/// A key that is too easy to guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShortKey;

impl fmt::Display for ShortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the key needs {} bytes or more", Pseudonym::MIN_KEY_LENGTH)
    }
}

impl Pseudonym {
    /// In bytes.
    pub const MIN_KEY_LENGTH: usize = 16;

    /// Pseudonyms under `key`. With a key ID they start with `<key ID>.`, so that a change of the key can be seen.
    pub fn new(key: &[u8], key_id: Option<&str>) -> Result<Self, ShortKey> {
        if key.len() < Self::MIN_KEY_LENGTH {
            return Err(ShortKey);
        }
        let prefix = key_id.map(|id| format!("{id}.")).unwrap_or_default();
        Ok(Self { key: key.to_vec(), prefix, recent: RefCell::new(vec![None; RECENT]) })
    }

    /// The pseudonym of `value`.
    pub fn of(&self, value: &[u8]) -> String {
        let mut recent = self.recent.borrow_mut();
        let Some(slot) = recent.get_mut(place(value)).filter(|_| value.len() <= LONGEST_RECENT) else {
            return self.made(value);
        };
        match slot {
            Some((known, pseudonym)) if equal(known, value) => pseudonym.clone(),
            _ => slot.insert((value.into(), self.made(value))).1.clone(),
        }
    }

    fn made(&self, value: &[u8]) -> String {
        let mac = HMAC::mac(value, &self.key);
        let mut shown = self.prefix.clone();
        URL_SAFE_NO_PAD.encode_string(mac.get(..16).unwrap_or_default(), &mut shown);
        shown
    }
}

/// Where a value is kept. A client that finds two for one place only makes its own pseudonym be worked out again.
fn place(value: &[u8]) -> usize {
    let hash =
        value.iter().fold(0_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    hash % RECENT
}

/// Without the key.
impl fmt::Debug for Pseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pseudonym").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 4231, test case 6, whose HMAC-SHA-256 starts with 60e431591ee0b67f0d8a26aacbf5b77f.
    #[test]
    fn it_is_hmac_sha_256() {
        let pseudonym = Pseudonym::new(&[0xaa; 131], None).unwrap();
        let of = pseudonym.of(b"Test Using Larger Than Block-Size Key - Hash Key First");
        assert_eq!(of, "YOQxWR7gtn8Niiaqy_W3fw");
    }

    #[test]
    fn a_key_id_is_seen_and_a_key_is_not() {
        let pseudonym = Pseudonym::new(b"0123456789abcdef", Some("k2")).unwrap();
        assert!(pseudonym.of(b"alice").starts_with("k2."));
        assert!(!format!("{pseudonym:?}").contains("0123"));
    }

    #[test]
    fn values_that_share_a_place_do_not_share_a_pseudonym() {
        let (a, b) = (b"Aa".as_slice(), b"BB".as_slice());
        assert_eq!(place(a), place(b));
        let pseudonym = Pseudonym::new(b"0123456789abcdef", None).unwrap();
        let each = [a, b, a, b].map(|value| pseudonym.of(value));
        assert_eq!(each, [a, b, a, b].map(|value| pseudonym.made(value)));
        assert_ne!(each[0], each[1]);
    }

    #[test]
    fn a_short_key_is_refused() {
        assert_eq!(Pseudonym::new(b"0123456789abcde", None).unwrap_err(), ShortKey);
    }

    proptest! {
        #[test]
        fn another_value_or_key_is_another_pseudonym(a: Vec<u8>, b: Vec<u8>, key: [u8; 16]) {
            let pseudonym = Pseudonym::new(&key, None).unwrap();
            prop_assert_eq!(pseudonym.of(&a) == pseudonym.of(&b), a == b);
            let mut other = key;
            other[0] ^= 1;
            prop_assert_ne!(Pseudonym::new(&other, None).unwrap().of(&a), pseudonym.of(&a));
            prop_assert_eq!(pseudonym.of(&a).len(), 22);
        }
    }
}
