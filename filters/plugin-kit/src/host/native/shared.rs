//! The data that all workers share: a table of the process. It outlives configurations, and ends with the module.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};

use super::config::lock;
use crate::hash::StableHash;
use crate::host::{HostError, SharedValue};

/// The most bytes of keys and values. The table of a limit stays when the limit is removed.
const MOST: usize = 256 << 20;

/// Keys of different parts do not wait for each other.
const PARTS: usize = 64;

type Part = Mutex<HashMap<Box<str>, (Vec<u8>, u32)>>;

struct Table {
    parts: [Part; PARTS],
    size: AtomicUsize,
    most: usize,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| Table::new(MOST));

impl Table {
    fn new(most: usize) -> Self {
        Self { parts: std::array::from_fn(|_| Mutex::default()), size: AtomicUsize::new(0), most }
    }

    fn part(&self, key: &str) -> Option<&Part> {
        self.parts.get(usize::try_from(StableHash::spread(key.as_bytes())).unwrap_or(0) % PARTS)
    }

    fn get(&self, key: &str) -> Option<SharedValue> {
        let part = lock(self.part(key)?);
        part.get(key).map(|(bytes, cas)| SharedValue { bytes: bytes.clone(), cas: *cas })
    }

    fn set(&self, key: &str, bytes: &[u8], cas: u32) -> Result<bool, HostError> {
        let full = HostError { call: "set_shared_data", status: HostError::INTERNAL_FAILURE };
        let mut part = lock(self.part(key).ok_or(full)?);
        let known = part.get_mut(key);
        if known.as_ref().is_some_and(|(_, current)| cas != 0 && *current != cas) {
            return Ok(false);
        }
        let (old, key_length) = known.as_ref().map_or((0, key.len()), |(bytes, _)| (bytes.len(), 0));
        let new = bytes.len().saturating_add(key_length);
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
        if let Some((value, number)) = known {
            value.clear();
            value.extend_from_slice(bytes);
            *number = number.wrapping_add(1).max(1);
        } else {
            part.insert(key.into(), (bytes.to_vec(), 1));
        }
        Ok(true)
    }
}

/// The value of a key.
pub(super) fn get(key: &str) -> Option<SharedValue> {
    TABLE.get(key)
}

/// Writes a value, see [`set_shared_data`](super::calls::set_shared_data).
pub(super) fn set(key: &str, bytes: &[u8], cas: u32) -> Result<bool, HostError> {
    TABLE.set(key, bytes, cas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_written_only_with_its_number() {
        let table = Table::new(1000);
        assert!(table.get("a").is_none());
        assert_eq!(table.set("a", b"1", 7), Ok(true), "absent: the number is ignored");
        let first = table.get("a").unwrap();
        assert_eq!((first.bytes.as_slice(), first.cas), (&b"1"[..], 1));
        assert_eq!(table.set("a", b"2", first.cas), Ok(true));
        assert_eq!(table.set("a", b"3", first.cas), Ok(false));
        assert_eq!(table.get("a").unwrap().bytes, b"2");
        assert_eq!(table.set("a", b"4", 0), Ok(true));
        assert_eq!(table.get("a").unwrap().cas, 3);
    }

    #[test]
    fn a_full_table_takes_no_more() {
        let table = Table::new(10);
        assert_eq!(table.set("key", b"12345", 0), Ok(true));
        assert!(table.set("key", b"12345678", 0).is_err());
        assert!(table.set("key2", b"", 0).is_err());
        assert_eq!(table.get("key").unwrap().bytes, b"12345");
        assert_eq!(table.set("key", b"", 0), Ok(true));
        assert_eq!(table.set("key", b"1234567", 0), Ok(true));
    }

    #[test]
    fn four_threads_lose_no_write() {
        let table = Table::new(1000);
        table.set("n", b"0", 0).unwrap();
        let add = || {
            for _ in 0..500 {
                loop {
                    let SharedValue { bytes, cas } = table.get("n").unwrap();
                    let n: u32 = std::str::from_utf8(&bytes).unwrap().parse().unwrap();
                    if table.set("n", (n + 1).to_string().as_bytes(), cas).unwrap() {
                        break;
                    }
                }
            }
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(add))));
        assert_eq!(table.get("n").unwrap().bytes, b"2000");
    }
}
