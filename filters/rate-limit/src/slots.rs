//! The state of all keys, in shared data of fixed size.
//!
//! Shared data cannot be deleted, so a value for each key would grow without end. A [`Table`] is a fixed number of sets
//! with [`WAYS`] entries each, and a set is one value of the shared data. The hash of a key says in which set it is looked
//! for; a TAT that has passed is the same as none, so its entry is free. Where a set has no free entry the one that owes
//! least gives way: a client that wants to be forgotten needs eight others in its set that owe more than it does.
//!
//! **Creation.** The host ignores the compare-and-swap number of a value that is absent, so two workers that create the
//! same set could each count alone. Every set is therefore created before requests come: [`Table::create`] runs in
//! `on_configure`, and the proxy runs that on its main thread, in a VM that it throws away, before it hands the plugin to
//! its workers. They find the mark of a complete table and write nothing, so nobody's state is reset.
//!
//! **Trust.** Every plugin of the proxy can write shared data. A set that does not parse counts as empty, and a TAT that
//! no charge of a limit could have written counts as the latest that one could have.

use std::cell::RefCell;
use std::collections::BTreeMap;

use plugin_kit::config_choice;
use plugin_kit::exchange::HostError;

/// Shared data: values by key, each with a number that changes with every write.
pub trait SharedStore {
    /// The value and its number; `None` where there is none.
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, HostError>;
    /// Writes the value if its number is still `cas`; 0 writes in any case. `false`: somebody else has written.
    fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<bool, HostError>;
}

/// The values of one worker alone: for limits that are not exact over the workers of the proxy.
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

/// Entries in a set.
pub const WAYS: usize = 8;

const MAGIC: [u8; 8] = *b"rlslots1";
const PREFIX: &str = "rate-limit.1";

/// One key's place in a set; all zero where it is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Entry {
    tag: u64,
    tat: u64,
}

/// A set as it was read, and the entry that belongs to one key.
#[derive(Debug, Clone)]
pub struct Found {
    entries: [Entry; WAYS],
    way: usize,
    cas: u32,
    /// The key's TAT; 0 where it has none.
    pub tat: u64,
    /// Another key that still owes gives way if this one is charged.
    pub evicts: bool,
}

config_choice! {
    /// What becomes of a key that finds its set full of others that still owe.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum OnFull {
        /// It starts fresh, and the key that owes least is forgotten.
        #[default]
        Evict,
        /// It takes over what the key that owes least still owes, so that two keys share one limit.
        Share,
    }
}

/// The hash of a key: where it is looked for and what it is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct KeyHash {
    /// Chooses the set.
    pub place: u64,
    /// Tells the key from others of the set.
    pub tag: u64,
}

/// A fixed number of sets in the shared data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    number: u8,
    sets: u32,
}

impl Table {
    /// How many tables there can be: memory stays bounded however often limits are renamed.
    pub const MAX: u8 = 128;

    /// The table `number` with room for `keys`, rounded up to a power of two; at least [`WAYS`].
    pub fn new(number: u8, keys: u32) -> Self {
        let sets = keys.div_ceil(u32::try_from(WAYS).unwrap_or(1)).max(1).checked_next_power_of_two();
        Self { number, sets: sets.unwrap_or(1 << 31) }
    }

    fn key(self, set: u64) -> String {
        format!("{PREFIX}.{}.{set}", self.number)
    }

    fn set_of(self, hash: KeyHash) -> u64 {
        hash.place & u64::from(self.sets.saturating_sub(1))
    }

    /// Creates the sets that are not there yet, and says whether there were any. To be called in `on_configure`.
    pub fn create(self, store: &impl SharedStore) -> Result<bool, HostError> {
        let mark = format!("{PREFIX}.{}.sets", self.number);
        let marked = store.get(&mark)?.and_then(|(value, _)| value.try_into().ok());
        let present = marked.map_or(0, u32::from_le_bytes);
        if present >= self.sets {
            return Ok(false);
        }
        for set in 0..u64::from(self.sets) {
            let key = self.key(set);
            if store.get(&key)?.is_none() {
                store.set(&key, &encode(&[Entry::default(); WAYS]), 0)?;
            }
        }
        store.set(&mark, &self.sets.to_le_bytes(), 0).map(|_| true)
    }

    /// Reads the set of a key.
    pub fn find(
        self,
        store: &impl SharedStore,
        hash: KeyHash,
        now: u64,
        on_full: OnFull,
    ) -> Result<Found, HostError> {
        let (value, cas) = store.get(&self.key(self.set_of(hash)))?.unwrap_or_default();
        let entries = decode(&value).unwrap_or_default();
        let mine = entries.iter().position(|entry| entry.tag == hash.tag && entry.tag != 0);
        let least = || entries.iter().enumerate().min_by_key(|(_, entry)| entry.tat).map(|(way, _)| way);
        let way = mine.or_else(least).unwrap_or_default();
        let entry = entries.get(way).copied().unwrap_or_default();
        let evicts = mine.is_none() && entry.tat > now;
        let tat = if mine.is_some() || (evicts && on_full == OnFull::Share) { entry.tat } else { 0 };
        Ok(Found { entries, way, cas, tat, evicts })
    }

    /// Writes the key's TAT if nobody has written its set since it was found.
    pub fn write(
        self,
        store: &impl SharedStore,
        hash: KeyHash,
        mut found: Found,
        tat: u64,
    ) -> Result<bool, HostError> {
        if let Some(entry) = found.entries.get_mut(found.way) {
            *entry = Entry { tag: hash.tag, tat };
        }
        store.set(&self.key(self.set_of(hash)), &encode(&found.entries), found.cas)
    }
}

fn encode(entries: &[Entry; WAYS]) -> Vec<u8> {
    const LENGTH: usize = MAGIC.len() + WAYS * 16;
    let mut value = Vec::with_capacity(LENGTH);
    value.extend_from_slice(&MAGIC);
    for entry in entries {
        value.extend_from_slice(&entry.tag.to_le_bytes());
        value.extend_from_slice(&entry.tat.to_le_bytes());
    }
    value
}

fn decode(value: &[u8]) -> Option<[Entry; WAYS]> {
    let numbers = value.strip_prefix(&MAGIC)?;
    let (pairs, rest) = numbers.as_chunks::<16>();
    let pairs: &[[u8; 16]; WAYS] = pairs.try_into().ok()?;
    rest.is_empty().then(|| {
        pairs.map(|pair| {
            let (tag, tat) = pair.split_at(8);
            let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
            Entry { tag: number(tag), tat: number(tat) }
        })
    })
}

/// Reads the random number that keys are hashed with, or makes it with `random` if there is none yet.
///
/// All workers must hash alike, so it lies in the shared data, made on the main thread like the tables. A client cannot
/// read it there; and a plugin that could has the whole proxy anyway.
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
