//! The hash functions of the filters: one with a key, for what a client chooses, and one that never changes.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

/// SipHash-1-3 with 128 bits: without the key, nobody can choose inputs that collide.
#[derive(Debug, Clone)]
pub struct KeyedHash(SipHasher13);

impl KeyedHash {
    /// The hash with this key, which is a random number.
    pub fn new(key: &[u8; 16]) -> Self {
        Self(SipHasher13::new_with_key(key))
    }

    /// The hash with a key of half the length, for tables that only one worker sees.
    pub fn with_seed(seed: u64) -> Self {
        Self(SipHasher13::new_with_keys(seed, !seed))
    }

    /// Appends bytes to the input. Only the concatenation counts: whoever hashes several parts writes their lengths, too.
    pub fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// The two halves of the hash of the input so far.
    pub fn finish(&self) -> [u64; 2] {
        let hash = self.0.finish128();
        [hash.h1, hash.h2]
    }

    /// The first half of the hash of these bytes alone.
    pub fn of(&self, bytes: &[u8]) -> u64 {
        self.0.hash(bytes).h1
    }
}

/// FNV-1a with 64 bits: it is the same in each process and in each version.
#[derive(Debug, Clone)]
pub struct StableHash(u64);

impl StableHash {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> u64 {
        let mut hash = Self::default();
        hash.write(bytes);
        hash.finish()
    }

    /// The hash of these bytes, mixed so that it is spread evenly even if they differ only at their end (the first half of `fmix64`
    /// of `MurmurHash3`).
    pub fn spread(bytes: &[u8]) -> u64 {
        let hash = Self::of(bytes);
        let mixed = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^ (mixed >> 33)
    }
}

impl Default for StableHash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for StableHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of the algorithm's own test suite.
    #[test]
    fn stable_hash_of_known_texts_is_fnv_1a() {
        let long = [&b""[..], b"a", b"foobar"].map(StableHash::of);
        assert_eq!(long, [0xcbf2_9ce4_8422_2325, 0xaf63_dc4c_8601_ec8c, 0x8594_4171_f739_67e8]);
    }

    #[test]
    fn spread_hash_of_known_texts_stays_in_every_version() {
        let hashes = [&b""[..], b"a", b"foobar"].map(StableHash::spread);
        assert_eq!(hashes, [0xecba_3df2_c338_3c52, 0xed81_70de_1919_a24d, 0x6916_ce8b_48d4_bc55]);
    }

    #[test]
    fn keyed_hash_depends_on_key_and_input_but_not_on_its_parts() {
        let hash = KeyedHash::new(&[7; 16]);
        let mut parts = hash.clone();
        parts.write(b"ab");
        parts.write(b"c");
        assert_eq!(parts.finish()[0], hash.of(b"abc"));
        assert_ne!(hash.of(b"abc"), hash.of(b"abd"));
        assert_ne!(hash.of(b"abc"), KeyedHash::new(&[8; 16]).of(b"abc"));
        assert_ne!(KeyedHash::with_seed(1).of(b"abc"), KeyedHash::with_seed(2).of(b"abc"));
    }
}
