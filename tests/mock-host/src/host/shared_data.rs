//! Shared data and shared queues: one store for all VMs of the process.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::vm::abi::Status;

/// `SharedData` of proxy-wasm-cpp-host (`src/shared_data.cc`): a map of keys for each `vm_id`.
#[derive(Debug, Default)]
pub(crate) struct SharedData {
    spaces: HashMap<String, Space>,
    last_cas: u32,
    queues: Vec<Queue>,
}

/// Value and CAS by key.
type Space = BTreeMap<Vec<u8>, (Vec<u8>, u32)>;

#[derive(Debug)]
struct Queue {
    vm_id: String,
    name: Vec<u8>,
    items: VecDeque<Vec<u8>>,
}

impl SharedData {
    pub(crate) fn get(&self, vm_id: &str, key: &[u8]) -> Result<(Vec<u8>, u32), Status> {
        self.spaces.get(vm_id).and_then(|space| space.get(key)).cloned().ok_or(Status::NOT_FOUND)
    }

    /// `SharedData::set`: a `cas` of 0 overwrites; on an absent key the `cas` is not looked at.
    pub(crate) fn set(&mut self, vm_id: &str, key: &[u8], value: &[u8], cas: u32) -> Result<(), Status> {
        let space = self.spaces.entry(vm_id.to_owned()).or_default();
        if let Some((_, current)) = space.get(key)
            && cas != 0
            && cas != *current
        {
            return Err(Status::CAS_MISMATCH);
        }
        // `nextCas`: 0 is not a valid CAS value, also after the counter has wrapped.
        self.last_cas = self.last_cas.checked_add(1).unwrap_or(1);
        space.insert(key.to_vec(), (value.to_vec(), self.last_cas));
        Ok(())
    }

    pub(crate) fn entries(&self, vm_id: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let space = self.spaces.get(vm_id).into_iter().flatten();
        space.map(|(key, (value, _))| (key.clone(), value.clone())).collect()
    }

    /// The token of a queue is never 0 (`nextQueueToken`).
    pub(crate) fn register_queue(&mut self, vm_id: &str, name: &[u8]) -> u32 {
        self.resolve_queue(vm_id, name).unwrap_or_else(|_| {
            self.queues.push(Queue { vm_id: vm_id.to_owned(), name: name.to_vec(), items: VecDeque::new() });
            token_of(self.queues.len())
        })
    }

    pub(crate) fn resolve_queue(&self, vm_id: &str, name: &[u8]) -> Result<u32, Status> {
        let found = self.queues.iter().position(|queue| queue.vm_id == vm_id && queue.name == name);
        found.map(|index| token_of(index + 1)).ok_or(Status::NOT_FOUND)
    }

    pub(crate) fn enqueue(&mut self, token: u32, item: &[u8]) -> Result<(), Status> {
        self.queue(token)?.items.push_back(item.to_vec());
        Ok(())
    }

    pub(crate) fn dequeue(&mut self, token: u32) -> Result<Vec<u8>, Status> {
        self.queue(token)?.items.pop_front().ok_or(Status::EMPTY)
    }

    fn queue(&mut self, token: u32) -> Result<&mut Queue, Status> {
        let index = usize::try_from(token).ok().and_then(|token| token.checked_sub(1));
        index.and_then(|index| self.queues.get_mut(index)).ok_or(Status::NOT_FOUND)
    }
}

fn token_of(number: usize) -> u32 {
    u32::try_from(number).expect("few queues")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cas_is_never_zero_and_changes_with_every_write() {
        let mut data = SharedData { last_cas: u32::MAX - 1, ..SharedData::default() };
        for want in [u32::MAX, 1, 2] {
            data.set("", b"k", b"v", 0).unwrap();
            assert_eq!(data.get("", b"k").unwrap().1, want);
        }
    }

    #[test]
    fn a_cas_of_an_older_value_is_refused_and_changes_nothing() {
        let mut data = SharedData::default();
        data.set("", b"k", b"one", 0).unwrap();
        let (_, cas) = data.get("", b"k").unwrap();
        data.set("", b"k", b"two", cas).unwrap();
        assert_eq!(data.set("", b"k", b"three", cas), Err(Status::CAS_MISMATCH));
        assert_eq!(data.get("", b"k").unwrap().0, b"two");
    }

    #[test]
    fn on_an_absent_key_the_cas_is_ignored() {
        let mut data = SharedData::default();
        assert_eq!(data.set("", b"k", b"v", 77), Ok(()));
    }

    #[test]
    fn each_vm_id_is_a_space_of_its_own() {
        let mut data = SharedData::default();
        data.set("", b"k", b"v", 0).unwrap();
        assert_eq!(data.get("other", b"k"), Err(Status::NOT_FOUND));
    }

    #[test]
    fn a_queue_gives_items_in_order_then_empty() {
        let mut data = SharedData::default();
        let token = data.register_queue("", b"q");
        assert_eq!(data.register_queue("", b"q"), token);
        data.enqueue(token, b"1").unwrap();
        data.enqueue(token, b"2").unwrap();
        assert_eq!(data.dequeue(token), Ok(b"1".to_vec()));
        assert_eq!(data.dequeue(token), Ok(b"2".to_vec()));
        assert_eq!(data.dequeue(token), Err(Status::EMPTY));
        assert_eq!(data.dequeue(0), Err(Status::NOT_FOUND));
    }
}
