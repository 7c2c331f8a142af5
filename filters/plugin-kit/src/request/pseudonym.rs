//! Pseudonyms: the same person has the same pseudonym, and only somebody with the key can tell who the person
//! is.

use std::cell::RefCell;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac_sha256::HMAC;

use crate::config::secret::SecretVariable;
use crate::config::{ErrorList, JsonPath};
use crate::hash::StableHash;
use crate::host::Environment;
use crate::wire::bytes::equal;

/// Makes pseudonyms: the first 128 bits of HMAC-SHA-256 (RFC 2104) over the value, in base64url without
/// padding, which are 22 characters.
///
/// A hash without a key would not be enough: anyone who knows the form of the IDs could try them all.
#[derive(Clone)]
pub struct Pseudonym {
    key: Vec<u8>,
    prefix: String,
    /// Recent values and their pseudonyms, each at a place that the value chooses, since an HMAC costs more
    /// than the rest of a tag.
    recent: RefCell<Vec<Option<Recent>>>,
}

/// A value and its pseudonym.
type Recent = (Box<[u8]>, String);

/// The number of pseudonyms that are kept.
const RECENT: usize = 512;
/// The longest value that is kept, so that clients cannot fill the memory.
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
    /// The least length of the key, in bytes.
    pub const MIN_KEY_LENGTH: usize = 16;

    /// Prepares pseudonyms under `key`. With a key ID they start with `<key ID>.`, so that a change of the
    /// key shows.
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

/// The place where a value is kept. A client that finds two values for one place only causes its own
/// pseudonym to be computed again.
fn place(value: &[u8]) -> usize {
    #[allow(clippy::cast_possible_truncation, reason = "the low bits choose the place")]
    let hash = StableHash::of(value) as usize;
    hash % RECENT
}

crate::config_object! {
    /// The pseudonym of a value: the first 128 bits of its HMAC-SHA-256, as base64url.
    #[derive(Debug, Default)]
    pub struct RawPseudonym {
        /// Where the key of the pseudonyms is.
        pub key_from: RawKeyFrom = RawKeyFrom::default(),
        /// An ID of the key, of 1 to 16 ASCII letters and digits. The pseudonyms start with it and a dot.
        pub key_id: Option<String>,
    }
}

crate::config_object! {
    /// Where the key of the pseudonyms is.
    #[derive(Debug)]
    pub struct RawKeyFrom {
        /// The variable of `vmConfig.env` that holds the key, which has at least 16 bytes. The key itself
        /// never stands in pluginConfig, which the proxy's `config_dump` shows.
        pub env: SecretVariable,
    }
}

/// The environment variable that holds the key of pseudonyms, unless `keyFrom` names another.
pub const KEY_VARIABLE: &str = "PSEUDONYM_KEY";

/// The error about a text that is not a key ID.
pub const KEY_ID: &str = "expected 1 to 16 ASCII letters and digits";

/// Whether this is a key ID: see [`KEY_ID`].
pub fn is_key_id(id: &str) -> bool {
    (1..=16).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

impl Default for RawKeyFrom {
    fn default() -> Self {
        Self { env: SecretVariable::named(KEY_VARIABLE) }
    }
}

impl RawPseudonym {
    /// The pseudonyms that it describes, or notes of what is wrong with it.
    pub fn parse(&self, path: &JsonPath, errors: &mut ErrorList, env: &dyn Environment) -> Option<Pseudonym> {
        if let Some(id) = &self.key_id
            && !is_key_id(id)
        {
            // The value is not shown, since it may be the key itself.
            errors.add(&path.field("keyId"), KEY_ID);
            return None;
        }
        let at = path.field("keyFrom").field("env");
        let (key, variable) = errors.check(&at, self.key_from.env.read(env))?;
        errors.check(
            &at,
            Pseudonym::new(key.as_bytes(), self.key_id.as_deref())
                .map_err(|error| format!("the variable `{variable}` holds too little: {error}")),
        )
    }
}

/// The key is not shown.
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
    fn pseudonym_of_a_test_vector_is_its_hmac_sha_256() {
        let pseudonym = Pseudonym::new(&[0xaa; 131], None).unwrap();
        let of = pseudonym.of(b"Test Using Larger Than Block-Size Key - Hash Key First");
        assert_eq!(of, "YOQxWR7gtn8Niiaqy_W3fw");
    }

    #[test]
    fn key_id_is_shown_and_the_key_is_not() {
        let pseudonym = Pseudonym::new(b"0123456789abcdef", Some("k2")).unwrap();
        assert!(pseudonym.of(b"alice").starts_with("k2."));
        assert!(!format!("{pseudonym:?}").contains("0123"));
    }

    #[test]
    fn values_of_one_place_have_pseudonyms_of_their_own() {
        let other =
            (0..u32::MAX).map(u32::to_be_bytes).find(|value| place(value) == place(b"alice")).unwrap();
        let (a, b) = (b"alice".as_slice(), other.as_slice());
        let pseudonym = Pseudonym::new(b"0123456789abcdef", None).unwrap();
        let each = [a, b, a, b].map(|value| pseudonym.of(value));
        assert_eq!(each, [a, b, a, b].map(|value| pseudonym.made(value)));
        assert_ne!(each[0], each[1]);
    }

    #[test]
    fn short_key_is_refused() {
        assert_eq!(Pseudonym::new(b"0123456789abcde", None).unwrap_err(), ShortKey);
    }

    proptest! {
        #[test]
        fn other_value_or_key_has_another_pseudonym(a: Vec<u8>, b: Vec<u8>, key: [u8; 16]) {
            let pseudonym = Pseudonym::new(&key, None).unwrap();
            prop_assert_eq!(pseudonym.of(&a) == pseudonym.of(&b), a == b);
            let mut other = key;
            other[0] ^= 1;
            prop_assert_ne!(Pseudonym::new(&other, None).unwrap().of(&a), pseudonym.of(&a));
            prop_assert_eq!(pseudonym.of(&a).len(), 22);
        }
    }
}
