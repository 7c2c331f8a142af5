//! The native module's shared data. A model check: `shuttle` runs its source in the interleavings of workers, with the limiter on
//! top. (`limits/limiter/model.rs` checks the limiter over a host whose answers are one step each.)
//!
//! The source is compiled again for each fault, to show that the check finds it. A property: the data takes no more memory than it counts.
#![cfg(not(target_family = "wasm"))]
#![allow(clippy::restriction)]

use std::time::Duration;

use rate_limit::limits::charge::{ChargeRequest, Verdict};
use rate_limit::limits::gcra::Rate;
use rate_limit::limits::limiter::Limiter;
use rate_limit::limits::slots::{KeyHash, OnFull, SharedStore, Table};
use shuttle::sync::Arc;

/// What a host has, in the place of that of a process.
trait Data: SharedStore + Send + Sync + 'static {
    /// Data that takes at most so many bytes.
    fn new(most: usize) -> Self;
}

/// Compiles the source of the table with other parts.
macro_rules! data {
    ($(#[$doc:meta])* $name:ident: $mutex:ty, $size:ty, $cas:expr) => {
        $(#[$doc])*
        mod $name {
            mod table {
                include!("../../plugin-kit/src/host/native/shared/table.rs");
            }
            use std::sync::atomic::Ordering;

            use plugin_kit::hash::StableHash;
            use plugin_kit::host::{HostError, SharedValue, shared_value_size};

            const PARTS: usize = 2;
            type Mutex<T> = $mutex;
            type AtomicUsize = $size;

            fn lock<T: Clone>(mutex: &Mutex<T>) -> impl std::ops::DerefMut<Target = T> {
                mutex.lock().unwrap()
            }

            pub(super) struct Shared(table::Table);

            impl super::Data for Shared {
                fn new(most: usize) -> Self {
                    Self(table::Table::new(most))
                }
            }

            impl super::SharedStore for Shared {
                fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, HostError> {
                    Ok(self.0.get(key).map(|SharedValue { bytes, cas }| (bytes, cas)))
                }

                fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<bool, HostError> {
                    self.0.set(key, value, $cas(cas))
                }
            }
        }
    };
}

data! {
    /// As it is.
    sound: shuttle::sync::Mutex<T>, shuttle::sync::atomic::AtomicUsize, std::convert::identity
}
data! {
    /// Nobody waits for a lock.
    without_lock: super::Unlocked<T>, shuttle::sync::atomic::AtomicUsize, std::convert::identity
}
data! {
    /// The number of a value is not compared.
    without_compare: shuttle::sync::Mutex<T>, shuttle::sync::atomic::AtomicUsize, |_| 0
}
data! {
    /// The size is read and written in two steps.
    without_atomic: shuttle::sync::Mutex<T>, super::TwoSteps, std::convert::identity
}

data! {
    /// For the property, without `shuttle`.
    process: std::sync::Mutex<T>, std::sync::atomic::AtomicUsize, std::convert::identity
}

/// What was read under the lock is written back later, whatever others have written meanwhile.
struct Unlocked<T>(shuttle::sync::Mutex<T>);

impl<T: Clone> Unlocked<T> {
    fn new(data: T) -> Self {
        Self(shuttle::sync::Mutex::new(data))
    }

    #[allow(clippy::unnecessary_wraps)]
    fn lock(&self) -> Result<Copied<'_, T>, ()> {
        Ok(Copied(self, Some(self.0.lock().unwrap().clone())))
    }
}

struct Copied<'a, T>(&'a Unlocked<T>, Option<T>);

impl<T> std::ops::Deref for Copied<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.1.as_ref().unwrap()
    }
}

impl<T> std::ops::DerefMut for Copied<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.1.as_mut().unwrap()
    }
}

impl<T> Drop for Copied<'_, T> {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap() = self.1.take().unwrap();
    }
}

struct TwoSteps(shuttle::sync::atomic::AtomicUsize);

impl TwoSteps {
    fn new(value: usize) -> Self {
        Self(shuttle::sync::atomic::AtomicUsize::new(value))
    }

    fn fetch_add(&self, more: usize, order: shuttle::sync::atomic::Ordering) -> usize {
        let value = self.0.load(order);
        self.0.store(value + more, order);
        value
    }

    fn fetch_sub(&self, less: usize, order: shuttle::sync::atomic::Ordering) -> usize {
        let value = self.0.load(order);
        self.0.store(value - less, order);
        value
    }
}

/// Runs `check` in every interleaving of two threads, and in 2000 of three, which change where that matters most; what it panics
/// with in one of them.
fn explore(threads: usize, check: impl Fn() + Send + Sync + 'static) -> Result<(), String> {
    let explored = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        if threads == 2 {
            shuttle::check_dfs(check, None);
        } else {
            let scheduler = shuttle::scheduler::PctScheduler::new_from_seed(7, threads, 2000);
            shuttle::Runner::new(scheduler, shuttle::Config::new()).run(check);
        }
    }));
    explored.map_err(|panic| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => (*panic.downcast::<&str>().unwrap()).to_owned(),
    })
}

/// Workers send one request each for one key of a limit with a burst: exactly so many are admitted.
fn burst_is_exact<D: Data>(workers: usize, burst: u32) -> Result<(), String> {
    explore(workers, move || {
        const NOW: u64 = 1_000_000_000_000;
        let data = Arc::new(D::new(100_000));
        let table = Table::new(0, 8);
        table.create(&*data).unwrap();
        let request = ChargeRequest {
            table,
            hash: KeyHash { place: 0, tag: 1 },
            rate: Rate::new(1, Duration::from_secs(1), burst).unwrap(),
            cost: 1,
            on_full: OnFull::Evict,
            single: None,
            refundable: false,
        };
        let worker = move |data: &D| {
            let snapshots = Limiter::new(0, 0, false).charge(data, &[request], NOW).unwrap();
            usize::from(snapshots[0].verdict == Verdict::Admitted)
        };
        let others: Vec<_> = (1..workers)
            .map(|_| {
                let data = Arc::clone(&data);
                shuttle::thread::spawn(move || worker(&data))
            })
            .collect();
        let mine = worker(&data);
        let admitted = mine + others.into_iter().map(|other| other.join().unwrap()).sum::<usize>();
        assert_eq!(admitted, burst as usize, "admitted of {workers}");
    })
}

/// Two workers write different keys into data that has room for one: it takes no more than one, and after a refusal it takes as much
/// as before.
fn size_is_bounded<D: Data>() -> Result<(), String> {
    explore(2, || {
        let most = plugin_kit::host::shared_value_size(1, 8);
        let data = Arc::new(D::new(most));
        let other = {
            let data = Arc::clone(&data);
            shuttle::thread::spawn(move || data.set("b", &[0; 8], 0).is_ok())
        };
        let mine = data.set("a", &[0; 8], 0).is_ok();
        let other = other.join().unwrap();
        assert!(!(mine && other), "both were written");
        let written = |key| data.get(key).unwrap().is_some();
        assert_eq!([written("a"), written("b")], [mine, other]);
        if !(mine || other) {
            data.set("a", &[0; 8], 0).expect("what was refused takes no room");
        }
    })
}

#[test]
fn workers_admit_exactly_the_burst_over_the_data_of_a_process() {
    burst_is_exact::<sound::Shared>(2, 1).unwrap();
    burst_is_exact::<sound::Shared>(3, 2).unwrap();
}

#[test]
fn data_of_a_process_takes_no_more_than_its_bound() {
    size_is_bounded::<sound::Shared>().unwrap();
}

#[test]
fn each_fault_is_found() {
    let admitted_too_many = |found: Result<(), String>| found.unwrap_err().contains("admitted of 2");
    assert!(admitted_too_many(burst_is_exact::<without_lock::Shared>(2, 1)));
    assert!(admitted_too_many(burst_is_exact::<without_compare::Shared>(2, 1)));
    assert!(size_is_bounded::<without_atomic::Shared>().unwrap_err().contains("both were written"));
}

/// The memory that this thread has, and the most that it had.
#[allow(unsafe_code)]
mod memory {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    thread_local! {
        pub(super) static NOW: Cell<isize> = const { Cell::new(0) };
        pub(super) static MOST: Cell<isize> = const { Cell::new(0) };
    }

    struct Counting;

    #[global_allocator]
    static COUNTING: Counting = Counting;

    fn count(size: isize) {
        let _ = NOW.try_with(|now| {
            now.set(now.get() + size);
            let _ = MOST.try_with(|most| most.set(most.get().max(now.get())));
        });
    }

    // SAFETY: all is left to the system's.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            count(layout.size().cast_signed());
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
            count(-layout.size().cast_signed());
            unsafe { System.dealloc(at, layout) }
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, cases: 64, ..Default::default() })]

    #[test]
    fn data_takes_no_more_memory_than_its_bound(
        writes in proptest::collection::vec((0_u16..400, 0_usize..300), 1..800),
        most in 5_000_usize..50_000,
    ) {
        // The first entries of a map take room for some more.
        const EMPTY: usize = 2 * 400;
        let bytes = [7; 300];
        let before = memory::NOW.get();
        memory::MOST.set(before);
        let data = process::Shared::new(most);
        let mut refused = 0;
        for (key, length) in &writes {
            let key = format!("key.{key}");
            let written = data.set(&key, &bytes[..*length], 0);
            refused += usize::from(written.is_err());
            if written.is_ok() {
                assert_eq!(data.get(&key).unwrap().unwrap().0, bytes[..*length]);
            }
        }
        let taken = usize::try_from(memory::MOST.get() - before).unwrap();
        // The key and the answer of this loop are not the data's.
        proptest::prop_assert!(taken <= most + EMPTY + 400, "{taken} of {most}, {refused} refused");
    }
}
