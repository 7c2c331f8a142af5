//! Tokens that were verified before, so that the same token is not verified for every request that carries it.

use std::rc::Rc;

use crate::verified::Verified;

/// Entries in one set; a token can be in one set only.
const WAYS: usize = 4;

/// A cache of a fixed number of tokens. The key is the whole token; what a token hashes to only says where to look.
///
/// An entry is good as long as its key is still in the issuer's set and its time has not come: [`Verified::is_good`]
/// is asked at every hit.
pub struct TokenCache {
    sets: Vec<[Option<Entry>; WAYS]>,
    uses: u64,
    seed: u64,
}

struct Entry {
    token: Box<[u8]>,
    verified: Rc<[Verified]>,
    last_use: u64,
}

impl TokenCache {
    /// A cache for about `tokens` tokens; none for zero. `seed` makes it unforeseeable which tokens share a set.
    pub fn new(tokens: usize, seed: u64) -> Self {
        let sets = tokens.div_ceil(WAYS);
        Self { sets: std::iter::repeat_with(Default::default).take(sets).collect(), uses: 0, seed }
    }

    /// What was verified about `token`, if all of it is still good at `now` (seconds since the epoch).
    pub fn find(&mut self, token: &[u8], now: u64) -> Option<Rc<[Verified]>> {
        self.uses = self.uses.wrapping_add(1);
        let uses = self.uses;
        let slot =
            self.set(token)?.iter_mut().find(|slot| slot.as_ref().is_some_and(|e| *e.token == *token))?;
        let entry = slot.as_mut()?;
        if !entry.verified.iter().all(|verified| verified.is_good(now)) {
            *slot = None;
            return None;
        }
        entry.last_use = uses;
        Some(Rc::clone(&entry.verified))
    }

    /// Remembers what was verified about `token`, in the place of an entry that is no longer good or else of the one
    /// that was not used for longest.
    pub fn insert(&mut self, token: &[u8], verified: Rc<[Verified]>, now: u64) {
        let uses = self.uses;
        let Some(set) = self.set(token) else { return };
        let worth = |slot: &Option<Entry>| match slot {
            Some(entry) if entry.token.as_ref() == token => 0,
            Some(entry) if entry.verified.iter().all(|verified| verified.is_good(now)) => {
                entry.last_use.max(1)
            }
            _ => 0,
        };
        if let Some(slot) = set.iter_mut().min_by_key(|slot| worth(slot)) {
            *slot = Some(Entry { token: token.into(), verified, last_use: uses });
        }
    }

    fn set(&mut self, token: &[u8]) -> Option<&mut [Option<Entry>; WAYS]> {
        let count = u64::try_from(self.sets.len()).ok()?;
        let set = usize::try_from(hash(token, self.seed).checked_rem(count)?).ok()?;
        self.sets.get_mut(set)
    }
}

/// Mixes the end of the token, which is its signature and as good as random.
fn hash(token: &[u8], seed: u64) -> u64 {
    let end = token.get(token.len().saturating_sub(32)..).unwrap_or(token);
    end.chunks(8).fold(seed, |hash, chunk| {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        let product = u128::from(hash ^ u64::from_le_bytes(word))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let [low, high] = [product, product >> 64]
            .map(|half| u64::try_from(half & u128::from(u64::MAX)).unwrap_or_default());
        low ^ high
    })
}
