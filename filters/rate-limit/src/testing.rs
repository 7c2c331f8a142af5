//! Shared data in memory, for tests.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use plugin_kit::host::HostError;

use crate::limits::slots::SharedStore;

/// Shared data that behaves as the host's does.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    values: RefCell<BTreeMap<String, (Vec<u8>, u32)>>,
    /// How many of the next writes fail as if another worker had written.
    pub conflicts: Cell<u32>,
    /// If there is an error, every call fails with it.
    pub failure: Cell<Option<HostError>>,
    /// See [`SharedStore::most`].
    pub most: Cell<Option<usize>>,
    /// Whether there is no room for another key.
    pub full: Cell<bool>,
    /// The number of reads so far.
    pub reads: Cell<u32>,
    /// The number of writes so far, with those that failed.
    pub writes: Cell<u32>,
}

impl MemoryStore {
    /// How many values there are.
    pub fn len(&self) -> usize {
        self.values.borrow().len()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.values.borrow().is_empty()
    }

    /// The names of all values.
    pub fn names(&self) -> Vec<String> {
        self.values.borrow().keys().cloned().collect()
    }
}

impl SharedStore for MemoryStore {
    fn most(&self) -> Option<usize> {
        self.most.get()
    }

    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, HostError> {
        self.reads.set(self.reads.get().saturating_add(1));
        match self.failure.get() {
            Some(error) => Err(error),
            None => Ok(self.values.borrow().get(key).cloned()),
        }
    }

    fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<bool, HostError> {
        self.writes.set(self.writes.get().saturating_add(1));
        if let Some(error) = self.failure.get() {
            return Err(error);
        }
        if cas != 0 && self.conflicts.get() > 0 {
            self.conflicts.set(self.conflicts.get().saturating_sub(1));
            return Ok(false);
        }
        let mut values = self.values.borrow_mut();
        if self.full.get() && !values.contains_key(key) {
            return Err(HostError { call: "set_shared_data", status: HostError::FULL });
        }
        let known = values.get(key).map(|(_, cas)| *cas);
        // As the host does: the number is ignored if the key is absent.
        if cas != 0 && known.is_some_and(|known| known != cas) {
            return Ok(false);
        }
        let next = known.unwrap_or_default().saturating_add(1);
        values.insert(key.to_owned(), (value.to_vec(), next));
        Ok(true)
    }
}
