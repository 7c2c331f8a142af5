// The table. What synchronises its threads comes from the module around it, so that a model check (`workers.rs` of rate-limit's
// tests) can run it in every interleaving.

use std::collections::HashMap;

use super::{
    AtomicUsize, HostError, Mutex, Ordering, PARTS, SharedValue, StableHash, lock, shared_value_size,
};

type Part = Mutex<HashMap<Box<str>, (Box<[u8]>, u32)>>;

pub(super) struct Table {
    parts: [Part; PARTS],
    size: AtomicUsize,
    most: usize,
}

impl Table {
    /// A table that takes at most so many bytes.
    pub(super) fn new(most: usize) -> Self {
        let parts = std::array::from_fn(|_| Mutex::new(HashMap::new()));
        Self { parts, size: AtomicUsize::new(0), most }
    }

    fn part(&self, key: &str) -> Option<&Part> {
        self.parts.get(usize::try_from(StableHash::spread(key.as_bytes())).unwrap_or(0) % PARTS)
    }

    pub(super) fn get(&self, key: &str) -> Option<SharedValue> {
        let part = lock(self.part(key)?);
        part.get(key).map(|(bytes, cas)| SharedValue { bytes: bytes.to_vec(), cas: *cas })
    }

    pub(super) fn set(&self, key: &str, bytes: &[u8], cas: u32) -> Result<bool, HostError> {
        let full = HostError { call: "set_shared_data", status: HostError::FULL };
        let mut part = lock(self.part(key).ok_or(full)?);
        let known = part.get_mut(key);
        if known.as_ref().is_some_and(|(_, current)| cas != 0 && *current != cas) {
            return Ok(false);
        }
        let of = |bytes: &[u8]| shared_value_size(key.len(), bytes.len());
        let (old, new) = (known.as_ref().map_or(0, |(bytes, _)| of(bytes)), of(bytes));
        if new > old {
            let more = new.saturating_sub(old);
            let size = self.size.fetch_add(more, Ordering::Relaxed);
            if size.saturating_add(more) > self.most {
                self.size.fetch_sub(more, Ordering::Relaxed);
                return Err(full);
            }
        } else {
            self.size.fetch_sub(old.saturating_sub(new), Ordering::Relaxed);
        }
        match known {
            Some((value, number)) => {
                if value.len() == bytes.len() {
                    value.copy_from_slice(bytes);
                } else {
                    *value = bytes.into();
                }
                *number = number.wrapping_add(1).max(1);
            }
            None => drop(part.insert(key.into(), (bytes.into(), 1))),
        }
        Ok(true)
    }
}
