//! The cache of verified tokens, so that a token is not verified for every request that carries it.

use std::rc::Rc;

use plugin_kit::hash::KeyedHash;
use plugin_kit::wire::bytes::equal;

use crate::token::verified::Verified;

/// Entries in one set; a token can be in one set only.
const WAYS: usize = 4;

/// A cache of a fixed number of tokens. The key is the whole token; what a token hashes to only says where to
/// look.
///
/// An entry is good as long as its key is in the issuer's set and the token has not expired:
/// [`Verified::is_good`] is asked at every hit.
pub struct TokenCache {
    sets: Vec<[Option<Entry>; WAYS]>,
    uses: u64,
    seed: u64,
}

struct Entry {
    /// The hash of the token. Tokens of one issuer begin alike, so most others are told apart by their hashes
    /// alone.
    hash: u64,
    token: Box<[u8]>,
    verified: Rc<[Verified]>,
    last_use: u64,
}

impl TokenCache {
    /// A cache for about `tokens` tokens; zero for no cache. `seed` makes it unforeseeable which tokens share
    /// a set.
    pub fn new(tokens: usize, seed: u64) -> Self {
        let sets = tokens.div_ceil(WAYS);
        Self { sets: std::iter::repeat_with(Default::default).take(sets).collect(), uses: 0, seed }
    }

    /// What was verified about `token`, if all of it is still good at `now` (seconds since the epoch).
    pub fn find(&mut self, token: &[u8], now: u64) -> Option<Rc<[Verified]>> {
        self.uses = self.uses.wrapping_add(1);
        let uses = self.uses;
        let hash = hash(token, self.seed);
        let same = |entry: &Entry| entry.hash == hash && equal(&entry.token, token);
        let slot = self.set(hash)?.iter_mut().find(|slot| slot.as_ref().is_some_and(same))?;
        let entry = slot.as_mut()?;
        if !entry.verified.iter().all(|verified| verified.is_good(now)) {
            *slot = None;
            return None;
        }
        entry.last_use = uses;
        Some(Rc::clone(&entry.verified))
    }

    /// Remembers what was verified about `token`, in the place of an entry that is no longer good, or else of
    /// the least recently used one.
    pub fn insert(&mut self, token: &[u8], verified: Rc<[Verified]>, now: u64) {
        let uses = self.uses;
        let hash = hash(token, self.seed);
        let Some(set) = self.set(hash) else { return };
        let worth = |slot: &Option<Entry>| match slot {
            Some(entry) if entry.token.as_ref() == token => 0,
            Some(entry) if entry.verified.iter().all(|verified| verified.is_good(now)) => {
                entry.last_use.max(1)
            }
            _ => 0,
        };
        if let Some(slot) = set.iter_mut().min_by_key(|slot| worth(slot)) {
            *slot = Some(Entry { hash, token: token.into(), verified, last_use: uses });
        }
    }

    /// Forgets the tokens for which `keep` is false.
    pub fn retain(&mut self, keep: impl Fn(&Verified) -> bool) {
        for slot in self.sets.iter_mut().flatten() {
            if slot.as_ref().is_some_and(|entry| !entry.verified.iter().all(&keep)) {
                *slot = None;
            }
        }
    }

    fn set(&mut self, hash: u64) -> Option<&mut [Option<Entry>; WAYS]> {
        let count = u64::try_from(self.sets.len()).ok()?;
        let set = usize::try_from(hash.checked_rem(count)?).ok()?;
        self.sets.get_mut(set)
    }
}

/// The hash of the end of the token, which is of its signature and as good as random.
pub(crate) fn hash(token: &[u8], seed: u64) -> u64 {
    const END: usize = 16;
    KeyedHash::with_seed(seed).of(token.last_chunk::<END>().map_or(token, <[u8; END]>::as_slice))
}

#[cfg(test)]
mod tests {
    use std::rc::Weak;

    use proptest::prelude::*;

    use super::*;
    use crate::keys::key::{Key, Material};
    use crate::token::claims::Validity;

    fn key() -> Rc<Key> {
        Rc::new(Key {
            kid: None,
            algorithms: Vec::new(),
            material: Material::Rsa(Vec::new()),
            spki: Vec::new(),
        })
    }

    fn verified(key: &Rc<Key>, until: u64) -> Rc<[Verified]> {
        Rc::new([Verified {
            provider: 0,
            validity: Validity { from: 0, until: Some(until) },
            claims: Rc::default(),
            typed: std::cell::OnceCell::new(),
            headers: Vec::new(),
            published: Vec::new(),
            outputs_failed: 0,
            kid: None,
            key: Rc::downgrade(key),
        }])
    }

    #[test]
    fn token_is_found_until_it_expires_or_its_key_goes() {
        let key = key();
        let mut cache = TokenCache::new(8, 1);
        cache.insert(b"a", verified(&key, 10), 0);
        cache.insert(b"b", verified(&key, 20), 0);
        assert!(cache.find(b"a", 9).is_some());
        assert!(cache.find(b"a", 10).is_none());
        assert!(cache.find(b"b", 10).is_some());
        drop(key);
        assert!(cache.find(b"b", 10).is_none());
    }

    #[test]
    fn cache_of_size_zero_remembers_nothing() {
        let key = key();
        let mut cache = TokenCache::new(0, 1);
        cache.insert(b"a", verified(&key, 10), 0);
        assert!(cache.find(b"a", 0).is_none());
    }

    #[test]
    fn full_set_evicts_bad_then_least_recent() {
        let key = key();
        let mut cache = TokenCache::new(WAYS, 1);
        for (token, until) in [(b"a", 100), (b"b", 100), (b"c", 100), (b"d", 5)] {
            cache.insert(token, verified(&key, until), 0);
            cache.find(token, 0);
        }
        cache.find(b"a", 0);
        cache.find(b"d", 0);
        cache.insert(b"e", verified(&key, 100), 6);
        assert!(cache.find(b"d", 0).is_none(), "it was used last, but it is over");
        cache.insert(b"f", verified(&key, 100), 6);
        let left: Vec<bool> =
            [b"a", b"b", b"c", b"e", b"f"].iter().map(|token| cache.find(*token, 6).is_some()).collect();
        assert_eq!(left, [true, false, true, true, true]);
    }

    #[test]
    fn retain_forgets_tokens_by_what_was_verified() {
        let key = key();
        let mut cache = TokenCache::new(8, 1);
        for (token, until) in [(b"a", 10), (b"b", 20)] {
            cache.insert(token, verified(&key, until), 0);
        }
        cache.retain(|verified| verified.validity.until == Some(20));
        assert!(cache.find(b"a", 0).is_none());
        assert!(cache.find(b"b", 0).is_some());
    }

    #[test]
    fn entry_without_key_is_not_found() {
        let mut cache = TokenCache::new(4, 1);
        let mut orphan = verified(&key(), 10);
        Rc::get_mut(&mut orphan).unwrap()[0].key = Weak::new();
        cache.insert(b"a", orphan, 0);
        assert!(cache.find(b"a", 0).is_none());
    }

    proptest! {
        /// Whatever was asked and inserted: what is found was inserted under the very same token.
        #[test]
        fn only_the_same_token_is_found(tokens in proptest::collection::vec("[ab]{0,40}", 1..60), size in 0_usize..12) {
            let key = key();
            let mut cache = TokenCache::new(size, 1);
            let mut inserted = std::collections::BTreeMap::new();
            for (n, token) in tokens.iter().enumerate() {
                let until = 100 + n as u64;
                if let Some(found) = cache.find(token.as_bytes(), 0) {
                    prop_assert_eq!(found[0].validity.until, inserted.get(token).copied());
                }
                cache.insert(token.as_bytes(), verified(&key, until), 0);
                inserted.insert(token.clone(), until);
            }
            let kept = inserted.keys().filter(|token| cache.find(token.as_bytes(), 0).is_some()).count();
            prop_assert!(kept <= size.div_ceil(WAYS) * WAYS);
        }
    }
}
