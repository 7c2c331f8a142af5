//! Keys as hashes.

use plugin_kit::hash::KeyedHash;

use crate::limits::gcra::Rate;
use crate::limits::slots::KeyHash;

/// Hashes keys with a random number of this process, so that nobody can choose keys that collide.
#[derive(Debug, Clone)]
pub struct KeyHasher(KeyedHash);

impl KeyHasher {
    /// Makes the hasher with this random number.
    pub fn new(random: &[u8; 16]) -> Self {
        Self(KeyedHash::new(random))
    }

    /// The hasher for the keys of one limit. The limit's name and rate go into each key: a limit that a
    /// configuration update does not change keeps its state, and a limit whose rate changes begins anew.
    #[must_use]
    pub fn of_limit(&self, scope: &[u8], name: &str, rate: &Rate) -> Self {
        let mut hasher = self.clone();
        hasher.part(Some(scope));
        hasher.part(Some(name.as_bytes()));
        hasher.0.write(&rate.definition());
        hasher
    }

    /// The hash of the limit's name, and that of its name and rates: the two tell when the rate of a limit
    /// was changed.
    pub fn of_rates<'a>(
        &self,
        scope: &[u8],
        name: &str,
        rates: impl Iterator<Item = &'a Rate>,
    ) -> (KeyHash, KeyHash) {
        let mut hasher = self.clone();
        hasher.part(Some(scope));
        hasher.part(Some(name.as_bytes()));
        let limit = hasher.finish();
        for rate in rates {
            hasher.0.write(&rate.definition());
        }
        (limit, hasher.finish())
    }

    /// Adds a part of the key. `None`, for a request that lacks the part, differs from an empty part.
    pub fn part(&mut self, part: Option<&[u8]>) {
        // The length is hashed too, so that `a`, `bc` and `ab`, `c` differ.
        let length = part.map_or(u64::MAX, |part| part.len() as u64);
        self.0.write(&length.to_le_bytes());
        self.0.write(part.unwrap_or_default());
    }

    /// The hash of all parts.
    pub fn finish(&self) -> KeyHash {
        let [place, tag] = self.0.finish();
        // A tag is never 0, which marks a free entry.
        KeyHash { place, tag: tag | 1 }
    }
}

/// The number of the table that the limit `name` has unless another limit has it. The number must be the same
/// in each worker, in each configuration and in each version, so it is a plain sum.
pub fn table_number(name: &str, tables: u8) -> u8 {
    let sum = name.bytes().fold(0_u8, |sum, byte| sum.rotate_left(3) ^ byte);
    sum.checked_rem(tables).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn hash(random: u8, name: &str, requests: u32, parts: &[Option<&[u8]>]) -> KeyHash {
        let rate = Rate::new(requests, Duration::from_secs(1), requests).unwrap();
        let mut hasher = KeyHasher::new(&[random; 16]).of_limit(b"", name, &rate);
        for part in parts {
            hasher.part(*part);
        }
        hasher.finish()
    }

    #[test]
    fn keys_that_differ_in_one_part_have_different_hashes() {
        type Key<'a> = (u8, &'a str, u32, &'a [Option<&'a [u8]>]);
        let keys: [Key<'_>; 8] = [
            (1, "a", 1, &[]),
            (2, "a", 1, &[]),
            (1, "b", 1, &[]),
            (1, "a", 2, &[]),
            (1, "a", 1, &[None]),
            (1, "a", 1, &[Some(b"")]),
            (1, "a", 1, &[Some(b"a"), Some(b"bc")]),
            (1, "a", 1, &[Some(b"ab"), Some(b"c")]),
        ];
        let hashes: Vec<KeyHash> = keys.iter().map(|(r, n, q, p)| hash(*r, n, *q, p)).collect();
        for (n, one) in hashes.iter().enumerate() {
            assert!(hashes[n + 1..].iter().all(|other| other != one), "{:?}", keys[n]);
            assert_ne!(one.tag, 0);
        }
    }

    #[test]
    fn table_number_and_hash_of_known_names_stay_the_same() {
        let numbers = ["per-user", "total", "a", ""].map(|name| table_number(name, 128));
        assert_eq!(numbers, [31, 99, 97, 0]);
        assert!((0..=u8::MAX).all(|tables| table_number("per-user", tables) <= tables.saturating_sub(1)));
        let hash = hash(7, "per-user", 20, &[Some(b"alice"), None]);
        assert_eq!((hash.place, hash.tag), (0xbc77_481e_8164_2559, 0xfe7f_ad16_2078_cf65));
    }
}
