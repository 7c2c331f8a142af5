//! The data that all workers share: a table of the process. It outlives configurations, and ends with the module.

mod table;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};

use self::table::Table;
use super::config::lock;
use crate::hash::StableHash;
use crate::host::{HostError, SHARED_DATA_BYTES, SharedValue, shared_value_size};

/// Keys of different parts do not wait for each other.
const PARTS: usize = 64;

/// The table of a limit stays when the limit is removed.
static TABLE: LazyLock<Table> = LazyLock::new(|| Table::new(SHARED_DATA_BYTES));

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
        let table = Table::new(shared_value_size(3, 7));
        assert_eq!(table.set("key", b"12345", 0), Ok(true));
        let full = table.set("key", b"12345678", 0);
        assert_eq!(full.map_err(|error| error.status), Err(HostError::FULL));
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
