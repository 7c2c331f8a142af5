//! The cache of tokens that were refused for reasons that do not depend on time: the same bytes are not
//! looked at again.

use std::rc::{Rc, Weak};

use plugin_kit::wire::bytes::equal;

use crate::keys::jwk::KeySet;
use crate::reply::DenyReason;
use crate::token::cache::hash;
use crate::token::compact::LONGEST;

/// A fixed number of refused tokens. The key is the whole token; what a token hashes to only says where to
/// look.
pub struct RefusedTokens {
    slots: Vec<Option<Entry>>,
    seed: u64,
}

struct Entry {
    token: Box<[u8]>,
    reason: DenyReason,
    /// The key set that the signature was checked against, with which the entry ends. `None` if no key was
    /// needed.
    keys: Option<Weak<KeySet>>,
}

impl RefusedTokens {
    /// Room for so many tokens; zero for no cache. `seed` makes it unforeseeable which tokens share a slot.
    pub fn new(tokens: usize, seed: u64) -> Self {
        Self { slots: std::iter::repeat_with(|| None).take(tokens).collect(), seed }
    }

    /// Why `token` was refused, if that still holds.
    pub fn find(&mut self, token: &[u8]) -> Option<DenyReason> {
        let slot = self.slot(token)?;
        let entry = slot.as_ref()?;
        if entry.keys.as_ref().is_some_and(|keys| keys.strong_count() == 0) {
            *slot = None;
            return None;
        }
        equal(&entry.token, token).then_some(entry.reason)
    }

    /// Remembers that `token` is refused, with `keys` only as long as these are the keys. A token that is too
    /// long to be read is not remembered.
    pub fn insert(&mut self, token: &[u8], reason: DenyReason, keys: Option<&Rc<KeySet>>) {
        if token.len() > LONGEST {
            return;
        }
        if let Some(slot) = self.slot(token) {
            *slot = Some(Entry { token: token.into(), reason, keys: keys.map(Rc::downgrade) });
        }
    }

    fn slot(&mut self, token: &[u8]) -> Option<&mut Option<Entry>> {
        let count = u64::try_from(self.slots.len()).ok()?;
        let slot = usize::try_from(hash(token, self.seed).checked_rem(count)?).ok()?;
        self.slots.get_mut(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::compact::TokenError;

    const MALFORMED: DenyReason = DenyReason::Malformed(TokenError::NotCompact);

    #[test]
    fn only_the_same_token_is_found() {
        let mut refused = RefusedTokens::new(1, 1);
        refused.insert(b"a.b", MALFORMED, None);
        assert_eq!(refused.find(b"a.b"), Some(MALFORMED));
        for other in [&b"a.c"[..], b"a.b.", b""] {
            assert_eq!(refused.find(other), None);
        }
        refused.insert(b"other", MALFORMED, None);
        assert_eq!(refused.find(b"a.b"), None, "there is room for one");
    }

    #[test]
    fn bad_signature_is_remembered_while_keys_stay() {
        let mut refused = RefusedTokens::new(4, 1);
        let keys = Rc::new(KeySet::default());
        refused.insert(b"a.b.c", DenyReason::BadSignature, Some(&keys));
        assert_eq!(refused.find(b"a.b.c"), Some(DenyReason::BadSignature));
        drop(keys);
        assert_eq!(refused.find(b"a.b.c"), None);
    }

    #[test]
    fn too_long_token_is_not_remembered() {
        let mut refused = RefusedTokens::new(1, 1);
        let (longest, longer) = ("a".repeat(LONGEST), "a".repeat(LONGEST + 1));
        refused.insert(longest.as_bytes(), MALFORMED, None);
        refused.insert(longer.as_bytes(), DenyReason::Malformed(TokenError::TooLong), None);
        assert_eq!(refused.find(longer.as_bytes()), None);
        assert_eq!(refused.find(longest.as_bytes()), Some(MALFORMED));
    }

    #[test]
    fn cache_of_no_refused_tokens_remembers_nothing() {
        let mut refused = RefusedTokens::new(0, 1);
        refused.insert(b"a", MALFORMED, None);
        assert_eq!(refused.find(b"a"), None);
    }
}
