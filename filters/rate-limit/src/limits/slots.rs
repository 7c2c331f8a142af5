//! The state of all keys, in shared data of fixed size.
//!
//! Shared data cannot be deleted, so a value for each key would grow without end. A [`Table`] is a fixed
//! number of sets with [`WAYS`] entries each, and a set is one value of the shared data. The hash of a key
//! chooses its set. A key whose TAT has passed owes nothing, so its entry is free. If a set has no free
//! entry, the key that owes least gives way: a client that wants its key to be forgotten needs eight other
//! keys in the set that owe more.
//!
//! **Growth.** A table never shrinks, since its values could not be deleted. It grows by doubling: each set
//! is split in two. Its depth is then one more: the number of bits of the hash that choose a set. A worker
//! that still counts by the old configuration, with fewer bits, reads that the set was split, and goes on to
//! the set where the key is now. So a key has one place at any time, and the compare-and-swap on a set's
//! value decides which was first: a split or a charge.
//!
//! **Creation.** The host ignores the compare-and-swap number of a value that is absent, so two workers that
//! create the same set could each count alone. Every set is therefore created before requests come:
//! [`Table::create`] runs in `on_configure`, which the proxy runs on its main thread, in a VM that it throws
//! away, before it hands the plugin to its workers. The workers find the mark of a complete table and write
//! nothing, so no state is reset.
//!
//! **Trust.** Every plugin of the proxy can write shared data. A set that does not parse counts as empty, and
//! a TAT later than any that a charge of the limit can write counts as the latest that one can write.

use std::cell::RefCell;
use std::collections::BTreeMap;

use plugin_kit::config_choice;
use plugin_kit::host::{HostError, shared_value_size};

/// Shared data: values by key, each with a number that changes with every write.
pub trait SharedStore {
    /// The value and its number; `None` if there is no value.
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, HostError>;
    /// Writes the value if its number is still `cas`, or in any case if `cas` is 0. Returns `false` if
    /// another worker has written meanwhile.
    fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<bool, HostError>;
    /// The most bytes that all values may take, if there is a bound.
    fn most(&self) -> Option<usize> {
        None
    }
}

/// The values of one worker alone, for `scope: worker`.
#[derive(Debug, Default)]
pub struct WorkerStore(RefCell<BTreeMap<String, Vec<u8>>>);

impl SharedStore for WorkerStore {
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, HostError> {
        Ok(self.0.borrow().get(key).map(|value| (value.clone(), 1)))
    }

    fn set(&self, key: &str, value: &[u8], _cas: u32) -> Result<bool, HostError> {
        self.0.borrow_mut().insert(key.to_owned(), value.to_vec());
        Ok(true)
    }
}

/// The number of entries in a set.
pub const WAYS: usize = 8;

/// A set begins with these bytes and its depth, counted from `1`.
const MAGIC: &[u8] = b"rlslots";
const DEPTH_0: u8 = b'1';
/// The length of a set's value.
const VALUE: usize = MAGIC.len() + 1 + WAYS * 16;
/// The greatest number of bits of a hash that choose a set.
const DEEPEST: u8 = 17;
/// The number of attempts to split a set. An attempt fails only if another worker has charged a key of the
/// set.
const SPLITS: u32 = 1_000;
const PREFIX: &str = "rate-limit.1";

/// One key's entry in a set; all zero if it is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Entry {
    tag: u64,
    tat: u64,
}

impl Entry {
    /// The tag that identifies a key in its set. It is never 0, and holds the bits that choose sets, so that
    /// a set can be split.
    fn tag(hash: KeyHash) -> u64 {
        const PLACES: u64 = (1 << DEEPEST) - 1;
        // The lowest bit of a tag is always set.
        (hash.tag >> 1) << (DEEPEST + 1) | (hash.place & PLACES) << 1 | 1
    }

    /// Whether the hash of the key has this bit.
    fn has(self, bit: u8) -> bool {
        (self.tag >> 1) & sets(bit) != 0
    }
}

/// A set as it was read, and the entry that belongs to one key.
#[derive(Debug, Clone)]
pub struct Found {
    set: u64,
    depth: u8,
    entries: [Entry; WAYS],
    way: usize,
    cas: u32,
    /// The key's TAT; 0 if the key has none.
    pub tat: u64,
    /// Whether a charge of this key makes another key give way that still owes.
    pub evicts: bool,
}

config_choice! {
    /// What happens to a new key if its set is full of keys that still owe.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum OnFull {
        /// The key starts fresh, and the key that owes least is forgotten.
        #[default]
        Evict,
        /// The key takes over what the key that owes least still owes, so that the two share one limit.
        Share,
    }
}

/// The hash of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct KeyHash {
    /// Chooses the set.
    pub place: u64,
    /// Identifies the key among the others of the set.
    pub tag: u64,
}

/// A fixed number of sets in the shared data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    number: u8,
    /// How many bits of a hash choose a set.
    depth: u8,
}

impl Table {
    /// The greatest number of tables, so that memory stays bounded however often limits are renamed.
    pub const MAX: u8 = 128;

    /// The table `number` with room for `keys`, rounded up to a power of two; at least [`WAYS`].
    pub fn new(number: u8, keys: u32) -> Self {
        let sets = keys.div_ceil(u32::try_from(WAYS).unwrap_or(1)).max(1).checked_next_power_of_two();
        let depth = sets.map_or(DEEPEST, depth_of);
        Self { number, depth: depth.min(DEEPEST) }
    }

    #[cfg(test)]
    pub(crate) fn number(self) -> u8 {
        self.number
    }

    /// The bytes that the sets take in a native module, at most.
    pub fn size(self) -> usize {
        const NAME: usize = PREFIX.len() + ".127.131071".len();
        let sets = usize::try_from(sets(self.depth)).unwrap_or(usize::MAX);
        sets.saturating_mul(shared_value_size(NAME, VALUE))
    }

    fn key(self, set: u64) -> String {
        format!("{PREFIX}.{}.{set}", self.number)
    }

    /// Creates the sets that are not there yet. Returns the table as it is then, no smaller than it ever was,
    /// and whether sets were created. To be called in `on_configure`.
    pub fn create(self, store: &impl SharedStore) -> Result<(Self, bool), HostError> {
        let mark = format!("{PREFIX}.{}.sets", self.number);
        let write_mark = |depth: u8| store.set(&mark, &1_u32.wrapping_shl(depth.into()).to_le_bytes(), 0);
        let marked = store.get(&mark)?.and_then(|(value, _)| value.try_into().ok().map(u32::from_le_bytes));
        let Some(present) = marked.filter(|sets| sets.is_power_of_two()).map(depth_of) else {
            for set in 0..sets(self.depth) {
                store.set(&self.key(set), &encode(0, &[Entry::default(); WAYS]), 0)?;
            }
            return write_mark(self.depth).map(|_| (self, true));
        };
        let present = present.min(DEEPEST);
        for depth in present..self.depth {
            for set in 0..sets(depth) {
                self.split(store, set, depth)?;
            }
            write_mark(depth.saturating_add(1))?;
        }
        Ok((Self { depth: self.depth.max(present), ..self }, self.depth > present))
    }

    /// Splits a set of a table of this depth: the keys whose hash has the next bit move to a set of their
    /// own.
    fn split(self, store: &impl SharedStore, set: u64, depth: u8) -> Result<(), HostError> {
        let (own, other, deeper) = (self.key(set), self.key(set | sets(depth)), depth.saturating_add(1));
        for _ in 0..SPLITS {
            let (value, cas) = store.get(&own)?.unwrap_or_default();
            let (present, entries) = decode(&value).unwrap_or_default();
            if present > depth {
                return Ok(());
            }
            let half = |moves: bool| {
                let entries = entries.map(|entry| Some(entry).filter(|entry| entry.has(depth) == moves));
                encode(deeper, &entries.map(Option::unwrap_or_default))
            };
            // No worker looks for a key in the new set before the old set says that it was split.
            store.set(&other, &half(true), 0)?;
            if store.set(&own, &half(false), cas)? {
                return Ok(());
            }
        }
        Err(HostError { call: "set_shared_data", status: HostError::CAS_MISMATCH })
    }

    /// Notes the rates of the limit that has the table. Returns `true` if the same limit had other rates
    /// before.
    pub fn changes_rates(
        self,
        store: &impl SharedStore,
        limit: KeyHash,
        rates: KeyHash,
    ) -> Result<bool, HostError> {
        let name = format!("{PREFIX}.{}.rates", self.number);
        let numbers = [limit.place, limit.tag, rates.place, rates.tag].map(u64::to_le_bytes);
        let (value, of_limit) = (numbers.as_flattened(), numbers.as_flattened().get(..16));
        let known = store.get(&name)?.map(|(known, _)| known).unwrap_or_default();
        if known == value {
            return Ok(false);
        }
        store.set(&name, value, 0)?;
        Ok(known.get(..16) == of_limit)
    }

    /// Reads the set of a key.
    pub fn find(
        self,
        store: &impl SharedStore,
        hash: KeyHash,
        now: u64,
        on_full: OnFull,
    ) -> Result<Found, HostError> {
        let mut depth = self.depth;
        let (mut set, mut cas, mut present, mut entries) = self.read(store, hash, depth)?;
        // Bit by bit, because the other half of a set may have been split more often than this one.
        while present > depth {
            depth = depth.saturating_add(1);
            if set != set_of(hash, depth) {
                (set, cas, present, entries) = self.read(store, hash, depth)?;
            }
        }
        let tag = Entry::tag(hash);
        let mine = entries.iter().position(|entry| entry.tag == tag);
        let least = || entries.iter().enumerate().min_by_key(|(_, entry)| entry.tat).map(|(way, _)| way);
        let way = mine.or_else(least).unwrap_or_default();
        let entry = entries.get(way).copied().unwrap_or_default();
        let evicts = mine.is_none() && entry.tat > now;
        let tat = if mine.is_some() || (evicts && on_full == OnFull::Share) { entry.tat } else { 0 };
        Ok(Found { set, depth: present, entries, way, cas, tat, evicts })
    }

    /// Reads the set that so many bits of the hash choose: its number, that of its value, its depth and its
    /// entries.
    fn read(
        self,
        store: &impl SharedStore,
        hash: KeyHash,
        depth: u8,
    ) -> Result<(u64, u32, u8, [Entry; WAYS]), HostError> {
        let set = set_of(hash, depth);
        let (value, cas) = store.get(&self.key(set))?.unwrap_or_default();
        let (present, entries) = decode(&value).unwrap_or_default();
        Ok((set, cas, present, entries))
    }

    /// Writes the key's TAT, unless another worker has written the set since it was found.
    pub fn write(
        self,
        store: &impl SharedStore,
        hash: KeyHash,
        mut found: Found,
        tat: u64,
    ) -> Result<bool, HostError> {
        if let Some(entry) = found.entries.get_mut(found.way) {
            *entry = Entry { tag: Entry::tag(hash), tat };
        }
        store.set(&self.key(found.set), &encode(found.depth, &found.entries), found.cas)
    }
}

/// The number of sets that so many bits can choose.
fn sets(depth: u8) -> u64 {
    1_u64.wrapping_shl(depth.into())
}

/// The number of the set that so many bits of a hash choose.
fn set_of(hash: KeyHash, depth: u8) -> u64 {
    hash.place & sets(depth).saturating_sub(1)
}

/// The number of bits that choose one of so many sets, a power of two.
fn depth_of(sets: u32) -> u8 {
    u8::try_from(sets.trailing_zeros()).unwrap_or(DEEPEST)
}

fn encode(depth: u8, entries: &[Entry; WAYS]) -> Vec<u8> {
    let mut value = Vec::with_capacity(VALUE);
    value.extend_from_slice(MAGIC);
    value.push(DEPTH_0.saturating_add(depth));
    for entry in entries {
        value.extend_from_slice(&entry.tag.to_le_bytes());
        value.extend_from_slice(&entry.tat.to_le_bytes());
    }
    value
}

fn decode(value: &[u8]) -> Option<(u8, [Entry; WAYS])> {
    let (depth, numbers) = value.strip_prefix(MAGIC)?.split_first()?;
    let depth = depth.checked_sub(DEPTH_0).filter(|depth| *depth <= DEEPEST)?;
    let (pairs, rest) = numbers.as_chunks::<16>();
    let pairs: &[[u8; 16]; WAYS] = pairs.try_into().ok()?;
    rest.is_empty().then(|| {
        let entries = pairs.map(|pair| {
            let (tag, tat) = pair.split_at(8);
            let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
            Entry { tag: number(tag), tat: number(tat) }
        });
        (depth, entries)
    })
}

/// Reads the random number that keys are hashed with, or makes it with `random` if the process has none yet.
///
/// All workers must hash alike, so the number is in the shared data, made on the main thread like the tables.
/// No client can read it there, and a plugin that reads it could control the proxy anyway.
pub fn hash_key(
    store: &impl SharedStore,
    random: impl FnOnce() -> Result<[u8; 16], HostError>,
) -> Result<[u8; 16], HostError> {
    let name = format!("{PREFIX}.hash-key");
    let known = store.get(&name)?.and_then(|(value, _)| value.try_into().ok());
    if let Some(key) = known {
        return Ok(key);
    }
    let key = random()?;
    store.set(&name, &key, 0)?;
    Ok(key)
}
