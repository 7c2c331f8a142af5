use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::limits::gcra::Rate;
use crate::limits::lease::WAYS;
use crate::limits::slots::{KeyHash, OnFull, Table};
use crate::testing::MemoryStore;

const MS: u64 = 1_000_000;
const LEASE: u64 = 100 * MS;
const SECOND: u64 = 1_000 * MS;

fn charge_request(name: u8, requests: u32, per: Duration, burst: u32, cost: u64) -> ChargeRequest {
    ChargeRequest {
        table: Table::new(name, 8),
        hash: KeyHash { place: 0, tag: u64::from(name) * 2 + 1 },
        rate: Rate::new(requests, per, burst).unwrap(),
        cost,
        on_full: OnFull::Evict,
        single: None,
        refundable: false,
    }
}

fn store(charges: &[ChargeRequest]) -> MemoryStore {
    let store = MemoryStore::default();
    for charge in charges {
        charge.table.create(&store).unwrap();
    }
    store
}

fn admits(limiter: &Limiter, store: &MemoryStore, charges: &[ChargeRequest], now: u64) -> bool {
    let snapshots = limiter.charge(store, charges, now).unwrap();
    snapshots.len() == charges.len() && snapshots.iter().all(|s| s.verdict == Verdict::Admitted)
}

#[test]
fn burst_of_n_workers_together_admit_exactly_n() {
    let limit = [charge_request(1, 100, Duration::from_hours(1), 100, 1)];
    let store = store(&limit);
    let workers = [(); 4].map(|()| Limiter::new(0, LEASE, true));
    let admitted = (0..400).filter(|n| admits(&workers[n % 4], &store, &limit, 1_000 * MS)).count();
    assert_eq!(admitted, 100);
    // However unevenly they come.
    let limit = [charge_request(2, 100, Duration::from_hours(1), 100, 1)];
    limit[0].table.create(&store).unwrap();
    let worker = |n: u32| if n.is_multiple_of(10) { (n / 10 % 4) as usize } else { 0 };
    let admitted = (0..100).filter(|n| admits(&workers[worker(*n)], &store, &limit, 1_000 * MS)).count();
    assert_eq!(admitted, 100);
}

#[test]
fn busy_key_costs_a_fraction_of_a_host_call() {
    let limit = [charge_request(1, 100_000, Duration::from_secs(1), 100_000, 1)];
    let store = store(&limit);
    let worker = Limiter::new(0, LEASE, true);
    let (reads, writes) = (store.reads.get(), store.writes.get());
    for n in 0..10_000_u64 {
        assert!(admits(&worker, &store, &limit, 1_000 * MS + n * MS / 20));
    }
    assert!(store.reads.get() - reads < 50, "{} reads", store.reads.get() - reads);
    assert_eq!(store.reads.get() - reads, store.writes.get() - writes);
}

#[test]
fn busy_keys_keep_their_leases() {
    let limit = |tag| {
        let mut limit = charge_request(1, 100_000, Duration::from_secs(1), 100_000, 1);
        limit.table = Table::new(1, 1024);
        limit.hash = KeyHash { place: tag, tag };
        [limit]
    };
    // As many as there is room for, and four that share a set, after one that came once.
    let spread: Vec<_> = (0..512).map(|n| limit(2 * n + 1)).collect();
    let alike: Vec<_> = (1..5).map(|n| limit(1024 * n + 1)).collect();
    for (count, limits) in [(512, spread), (4, alike)] {
        let store = store(&limits[0]);
        let worker = Limiter::new(0, LEASE, true);
        assert!(admits(&worker, &store, &limit(1 << 20 | 1), 999 * MS));
        let before = store.reads.get();
        for n in 0..100 {
            for limit in &limits {
                assert!(admits(&worker, &store, limit, 1_000 * MS + n * MS));
            }
        }
        let reads = (store.reads.get() - before) / count;
        assert!(reads < 20, "{reads} reads a key");
    }
}

#[test]
fn key_with_pauses_holds_a_lease_from_its_second_request_on() {
    // An interval of 10 us, and 20 ms between requests: a lease of a few intervals is over before the next
    // one.
    let limit = [charge_request(1, 100_000, Duration::from_secs(1), 100_000, 1)];
    let store = store(&limit);
    let worker = Limiter::new(0, LEASE, true);
    let reads = store.reads.get();
    for n in 0..10_u64 {
        assert!(admits(&worker, &store, &limit, 1_000 * MS + n * 20 * MS));
    }
    assert!(store.reads.get() - reads <= 5, "{} reads", store.reads.get() - reads);
}

#[test]
fn longer_pause_lease_is_smaller() {
    let limit = [charge_request(1, 100_000, Duration::from_secs(1), 100_000, 1)];
    let store = store(&limit);
    let worker = Limiter::new(0, LEASE, true);
    let mut now = 1_000 * MS;
    // Twice the pause, as much as before, and nothing; then from the beginning.
    for (pause, extra) in
        [(0, 0), (10, 20), (100, 100), (101, 100), (200, 100), (201, 0), (10, 20), (150, 20)]
    {
        now += pause * MS;
        assert!(admits(&worker, &store, &limit, now));
        assert_eq!(worker.leases.known(&limit[0]).unwrap().extra, extra * MS, "after {pause} ms");
    }
}

#[test]
fn denial_of_the_only_limit_is_read_once_and_remembered() {
    for (alone, reads) in [(true, 1), (false, 10)] {
        let limit = [charge_request(1, 1, Duration::from_mins(1), 1, 1)];
        let store = store(&limit);
        let other = Limiter::new(0, LEASE, alone);
        let worker = other.clone();
        assert!(admits(&other, &store, &limit, 1_000 * MS));
        let (before, writes) = (store.reads.get(), store.writes.get());
        for n in 0..10 {
            assert!(!admits(&worker, &store, &limit, 1_000 * MS + n));
        }
        assert_eq!(store.reads.get() - before, reads);
        assert_eq!(store.writes.get(), writes);
        assert!(!admits(&worker, &store, &limit, 61_000 * MS - 1));
        assert!(admits(&worker, &store, &limit, 61_000 * MS));
    }
}

#[test]
fn denied_keys_of_one_set_are_all_remembered() {
    let limit = |n: u64| {
        let mut limit = charge_request(1, 1, Duration::from_mins(1), 1, 1);
        limit.table = Table::new(1, 1024);
        limit.hash = KeyHash { place: n, tag: 1024 * n + 1 };
        [limit]
    };
    let limits: Vec<_> = (1..=WAYS as u64).map(limit).collect();
    let store = store(&limits[0]);
    let worker = Limiter::new(0, LEASE, true);
    for limit in &limits {
        assert!(admits(&Limiter::new(0, LEASE, true), &store, limit, 1_000 * MS));
        assert!(!admits(&worker, &store, limit, 1_001 * MS));
    }
    let reads = store.reads.get();
    assert!(limits.iter().all(|limit| !admits(&worker, &store, limit, 1_002 * MS)));
    assert_eq!(store.reads.get(), reads);
}

#[test]
fn one_limit_denies_nothing_is_charged() {
    let (wide, narrow) = (
        charge_request(1, 10, Duration::from_hours(1), 10, 1),
        charge_request(2, 1, Duration::from_hours(1), 1, 1),
    );
    let store = store(&[wide, narrow]);
    let worker = Limiter::new(0, LEASE, false);
    assert!(admits(&worker, &store, &[wide, narrow], 1_000 * MS));
    for _ in 0..20 {
        assert!(!admits(&worker, &store, &[wide, narrow], 1_000 * MS));
    }
    assert_eq!((0..20).filter(|_| admits(&worker, &store, &[wide], 1_000 * MS)).count(), 9);
}

#[test]
fn conflict_is_retried_and_never_admits() {
    let limit = [charge_request(1, 2, Duration::from_hours(1), 2, 1)];
    let store = store(&limit);
    let worker = Limiter::new(0, LEASE, true);
    store.conflicts.set(5);
    assert!(admits(&worker, &store, &limit, 1_000 * MS));
    assert_eq!(worker.take_stats(), Stats { conflicts: 5, ..Stats::default() });
    store.conflicts.set(1_000);
    let snapshots = worker.charge(&store, &limit, 1_000 * MS).unwrap();
    assert_eq!(snapshots[0].verdict, Verdict::Conflict);
    store.conflicts.set(0);
    assert!(admits(&worker, &store, &limit, 1_000 * MS));
    assert!(!admits(&worker, &store, &limit, 1_000 * MS));
}

#[test]
fn later_limit_fails_earlier_charge_is_undone() {
    let (first, second) = (
        charge_request(1, 1, Duration::from_hours(1), 1, 1),
        charge_request(2, 1, Duration::from_hours(1), 1, 1),
    );
    let store = store(&[first, second]);
    let worker = Limiter::new(0, LEASE, false);
    let failing = FailingWrite(&store, std::cell::Cell::new(0), 2);
    assert!(worker.charge(&failing, &[first, second], 1_000 * MS).is_err());
    assert_eq!(worker.take_stats().undone, 1);
    // Another worker finds the first untouched.
    assert!(admits(&Limiter::new(0, LEASE, false), &store, &[first, second], 1_000 * MS));
}

/// Fails at this write: the number of those so far, and its number.
struct FailingWrite<'a>(&'a MemoryStore, std::cell::Cell<u32>, u32);

impl SharedStore for FailingWrite<'_> {
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, HostError> {
        self.0.get(key)
    }

    fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<bool, HostError> {
        self.1.set(self.1.get() + 1);
        let error = HostError { call: "set_shared_data", status: 10 };
        if self.1.get() == self.2 { Err(error) } else { self.0.set(key, value, cas) }
    }
}

/// Runs requests of the same worker within its calls: before the call, after it, or both.
struct Reentering<'a> {
    store: &'a MemoryStore,
    limiter: &'a Limiter,
    charges: Vec<ChargeRequest>,
    nested: &'a [u8],
    calls: Cell<usize>,
    now: Cell<u64>,
    depth: Cell<u32>,
    admitted: std::cell::RefCell<Vec<u64>>,
}

impl Reentering<'_> {
    fn ask(&self) {
        let now = self.now.get();
        let snapshots = self.limiter.charge(self, &self.charges, now).unwrap();
        let admitted = snapshots.iter().all(|snapshot| snapshot.verdict == Verdict::Admitted);
        if admitted && snapshots.len() == self.charges.len() {
            self.admitted.borrow_mut().push(now);
        }
    }

    fn nest(&self, when: u8) {
        let call = self.calls.get();
        self.calls.set(call + 1);
        if self.nested[call / 2 % self.nested.len()] & when != 0 && self.depth.get() < 2 {
            self.depth.set(self.depth.get() + 1);
            self.ask();
            self.depth.set(self.depth.get() - 1);
        }
    }
}

impl SharedStore for Reentering<'_> {
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, HostError> {
        self.nest(1);
        let value = self.store.get(key);
        self.nest(2);
        value
    }

    fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<bool, HostError> {
        self.nest(1);
        let written = self.store.set(key, value, cas);
        self.nest(2);
        written
    }
}

#[test]
fn refund_leaves_no_trace_unless_the_key_was_charged_again() {
    let limit = [ChargeRequest { refundable: true, ..charge_request(1, 2, Duration::from_hours(1), 2, 1) }];
    let store = store(&limit);
    let (one, other) = (Limiter::new(0, LEASE, false), Limiter::new(0, LEASE, false));
    for _ in 0..10 {
        let receipt = one.charge(&store, &limit, 1_000 * MS).unwrap()[0].receipt.unwrap();
        one.refund(&store, &limit[0], receipt, 2_000 * MS);
    }
    assert_eq!(one.take_stats().refunded, 10);
    let first = one.charge(&store, &limit, 3_000 * MS).unwrap()[0].receipt.unwrap();
    assert!(admits(&other, &store, &limit, 3_000 * MS));
    one.refund(&store, &limit[0], first, 4_000 * MS);
    assert_eq!(one.take_stats().refunded, 0);
    assert!(!admits(&one, &store, &limit, 4_000 * MS));
}

#[test]
fn foreign_values_in_shared_data_do_no_harm() {
    let limit = [charge_request(1, 3, Duration::from_hours(1), 3, 1)];
    let store = store(&limit);
    let name = store.names().into_iter().find(|name| name.ends_with(".0")).unwrap();
    // The key's own tag, far ahead; and a set that says that it was split, with no other set there.
    let far =
        [&b"rlslots1"[..], &(1_u64 << 18 | 1).to_le_bytes(), &u64::MAX.to_le_bytes(), &[0; 112]].concat();
    let split = [&b"rlslotsB"[..], &[0; 128]].concat();
    for garbage in [&b""[..], b"x", &[0xff; 136], &[0; 200], &split, b"rlslotsC", &far] {
        store.set(&name, garbage, 0).unwrap();
        let worker = Limiter::new(0, LEASE, true);
        let admitted = (0..10).filter(|_| admits(&worker, &store, &limit, 1_000 * MS)).count();
        assert_eq!(admitted, if garbage == far { 0 } else { 3 });
    }
}

#[test]
fn full_table_memory_is_fixed_and_the_key_that_owes_least_gives_way() {
    let debtor = charge_request(1, 100, Duration::from_hours(1), 100, 100);
    let table = Table::new(1, 64);
    let store = MemoryStore::default();
    table.create(&store).unwrap();
    let values = store.len();
    let worker = Limiter::new(0, LEASE, true);
    assert!(admits(&worker, &store, &[ChargeRequest { table, ..debtor }], 1_000 * MS));
    for n in 0..10_000_u64 {
        let hash = KeyHash { place: n, tag: n * 2 + 101 };
        let other = [ChargeRequest { table, hash, cost: 1, ..debtor }];
        assert!(admits(&worker, &store, &other, 1_000 * MS));
    }
    assert_eq!(store.len(), values);
    assert!(worker.take_stats().evicted > 9_000);
    // Who owes most is not forgotten.
    let other = Limiter::new(0, LEASE, true);
    assert!(!admits(&other, &store, &[ChargeRequest { table, cost: 1, ..debtor }], 1_000 * MS));
}

/// Who knows how keys were hashed in one process can choose keys of one set there; in another they lie apart.
/// So nobody can push a victim out, or himself.
#[test]
fn keys_that_collide_in_one_process_lie_apart_in_the_next() {
    use crate::keys::hasher::KeyHasher;
    let limit = charge_request(1, 2, Duration::from_hours(1), 2, 1);
    let table = Table::new(1, 1 << 10);
    let hash = |process: u8, key: u32| {
        let mut hasher = KeyHasher::new(&[process; 16]).of_limit(b"", "limit", &limit.rate);
        hasher.part(Some(&key.to_le_bytes()));
        hasher.finish()
    };
    // The table has 128 sets.
    let chosen: Vec<u32> = (0..).filter(|key| hash(1, *key).place % 128 == 0).take(40).collect();
    let evicted = |process| {
        let store = MemoryStore::default();
        table.create(&store).unwrap();
        let worker = Limiter::new(0, LEASE, false);
        for key in &chosen {
            let charge = ChargeRequest { table, hash: hash(process, *key), ..limit };
            assert!(admits(&worker, &store, &[charge], 1_000 * MS));
        }
        worker.take_stats().evicted
    };
    assert_eq!((evicted(1), evicted(2)), (32, 0));
}

#[test]
fn on_full_share_new_key_takes_over_the_least_debt() {
    let table = Table::new(1, 8);
    let store = MemoryStore::default();
    table.create(&store).unwrap();
    let worker = Limiter::new(0, LEASE, false);
    let limit = ChargeRequest {
        on_full: OnFull::Share,
        table,
        ..charge_request(1, 2, Duration::from_hours(1), 2, 1)
    };
    let key = |n: u64| [ChargeRequest { hash: KeyHash { place: 0, tag: n * 2 + 1 }, ..limit }];
    for n in 0..8 {
        assert!(admits(&worker, &store, &key(n), 1_000 * MS));
    }
    // The ninth takes over a debt of one request, and with its own the limit of two is reached.
    assert!(admits(&worker, &store, &key(9), 1_000 * MS));
    assert!(!admits(&worker, &store, &key(9), 1_000 * MS));
}

#[test]
fn creating_the_slots_again_keeps_the_state() {
    let limit = [charge_request(1, 1, Duration::from_hours(1), 1, 1)];
    let store = store(&limit);
    assert!(admits(&Limiter::new(0, LEASE, true), &store, &limit, 1_000 * MS));
    limit[0].table.create(&store).unwrap();
    assert!(!admits(&Limiter::new(0, LEASE, true), &store, &limit, 1_000 * MS));
}

/// As `maxKeys` is raised and lowered; the values are as many as the largest table has sets, and no more.
#[test]
fn changed_max_keys_every_key_keeps_what_it_owes() {
    let table = Table::new(1, 1024);
    let store = MemoryStore::default();
    table.create(&store).unwrap();
    let key = |table, n: u64| {
        let hash = KeyHash { place: n.wrapping_mul(0x9e37_79b9_7f4a_7c15), tag: n << 20 | 1 };
        [ChargeRequest { table, hash, ..charge_request(1, 1, Duration::from_hours(1), 1, 1) }]
    };
    let old = Limiter::new(0, LEASE, false);
    let keys: Vec<u64> = (0..300).filter(|n| admits(&old, &store, &key(table, *n), 1_000 * MS)).collect();
    let forgotten = |limiter: &Limiter, table| {
        let admitted = |n: &&u64| admits(limiter, &store, &key(table, **n), 1_001 * MS);
        keys.iter().filter(admitted).count()
    };
    let evicted = old.take_stats().evicted as usize;
    for (keys, sets) in [(4_096, 512), (16, 512), (65_536, 8_192), (1_024, 8_192)] {
        let (grown, _) = Table::new(1, keys).create(&store).unwrap();
        assert_eq!(store.len(), sets + 1);
        for (limiter, table) in
            [(&Limiter::new(0, LEASE, false), grown), (&Limiter::new(0, LEASE, false), table), (&old, table)]
        {
            assert!(forgotten(limiter, table) <= evicted, "{keys} keys, {evicted} evicted");
        }
    }
    assert_eq!(evicted, 0);
    // And each set has room for eight keys of its own.
    let (grown, _) = Table::new(1, 65_536).create(&store).unwrap();
    let more = (1_000..20_000).filter(|n| admits(&old, &store, &key(grown, *n), 1_002 * MS));
    assert_eq!(more.count(), 19_000);
    assert!(old.take_stats().evicted < 40);
}

#[test]
fn growth_that_fails_midway_keeps_the_state_and_continues_next_time() {
    for fails_at in 1..40 {
        let table = Table::new(1, 16);
        let store = MemoryStore::default();
        table.create(&store).unwrap();
        let key = |table, n: u64| {
            let hash = KeyHash { place: n, tag: n << 1 | 1 };
            [ChargeRequest { table, hash, ..charge_request(1, 1, Duration::from_hours(1), 1, 1) }]
        };
        let limiter = Limiter::new(0, LEASE, false);
        assert!((0..16).all(|n| admits(&limiter, &store, &key(table, n), 1_000 * MS)));
        let failing = FailingWrite(&store, std::cell::Cell::new(0), fails_at);
        let result = Table::new(1, 128).create(&failing);
        // 2, 4 and 8 sets are split, each with two writes, and three marks are written.
        assert_eq!(result.is_err(), fails_at <= 31, "{fails_at}");
        assert!((0..16).all(|n| !admits(&limiter, &store, &key(table, n), 1_000 * MS)), "{fails_at}");
        let grown = Table::new(1, 64).create(&store).unwrap().0;
        assert!((0..16).all(|n| !admits(&limiter, &store, &key(grown, n), 1_000 * MS)), "{fails_at}");
        let grown = Table::new(1, 128).create(&store).unwrap().0;
        for table in [table, grown] {
            assert!((0..16).all(|n| !admits(&limiter, &store, &key(table, n), 1_000 * MS)), "{fails_at}");
            assert!((16..32).all(|n| admits(
                &limiter,
                &store,
                &key(table, n + 99 * u64::from(table == grown)),
                1_000 * MS
            )));
        }
        assert_eq!((store.len(), limiter.take_stats().evicted), (17, 0), "{fails_at}");
    }
}

#[test]
fn growth_with_endless_conflicts_is_an_error() {
    let store = MemoryStore::default();
    Table::new(1, 8).create(&store).unwrap();
    store.conflicts.set(u32::MAX);
    let status = Table::new(1, 16).create(&store).unwrap_err().status;
    assert_eq!(status, HostError::CAS_MISMATCH);
    assert_eq!(Table::new(1, 8).create(&store).unwrap(), (Table::new(1, 8), false));
}

proptest! {
    /// The formula, over every window, with workers that lease, two limits, and costs.
    #[test]
    fn no_window_admits_more_than_burst_and_refill(
        (requests, burst) in (1_u32..200, 1_u32..200),
        per in 1_u64..2_000,
        narrow in 1_u32..50,
        steps in prop::collection::vec((0_usize..3, 0_u64..20 * MS, 1_u32..3, any::<bool>()), 1..400),
    ) {
        let wide = charge_request(1, requests, Duration::from_millis(per), burst, 1);
        let other = charge_request(2, narrow, Duration::from_millis(per), narrow, 1);
        let store = store(&[wide, other]);
        let workers = [(); 3].map(|()| Limiter::new(0, LEASE, false));
        let (mut now, mut admitted) = (5_000 * MS, Vec::new());
        for (worker, pause, cost, both) in steps {
            now += pause;
            let wide = ChargeRequest { cost: cost.into(), ..wide };
            let charges: &[ChargeRequest] = if both { &[wide, other] } else { &[wide] };
            if admits(&workers[worker], &store, charges, now) {
                admitted.push((now, u64::from(cost), u64::from(both)));
            }
        }
        for (first, (from, ..)) in admitted.iter().enumerate() {
            let (mut costs, mut others) = (0, 0);
            for (until, cost, both) in &admitted[first..] {
                costs += cost;
                others += both;
                let refill = |requests: u32| u128::from(until - from) * u128::from(requests) / u128::from(per * MS);
                prop_assert!(u128::from(costs) <= u128::from(burst) + refill(requests));
                prop_assert!(u128::from(others) <= u128::from(narrow) + refill(narrow));
            }
        }
    }

    /// The formula for what stays counted, where responses come late and most charges are given back.
    #[test]
    fn no_window_counts_more_than_burst_and_refill(
        burst in 1_u32..5,
        steps in prop::collection::vec((0_usize..3, 0_u64..400 * MS, 0_usize..4, any::<bool>()), 1..200),
    ) {
        let limit = ChargeRequest { refundable: true, ..charge_request(1, 1, Duration::from_secs(1), burst, 1) };
        let store = store(&[limit]);
        let workers = [(); 3].map(|()| Limiter::new(0, LEASE, false));
        let (mut now, mut open, mut counted) = (5_000 * MS, Vec::new(), Vec::new());
        for (worker, pause, answered, counts) in steps {
            now += pause;
            let snapshot = workers[worker].charge(&store, &[limit], now).unwrap()[0];
            if let Some(receipt) = snapshot.receipt {
                open.push((now, worker, receipt, counts));
            }
            for _ in 0..answered.min(open.len()) {
                let (came, worker, receipt, counts) = open.remove(answered % open.len());
                if counts {
                    counted.push(came);
                } else {
                    workers[worker].refund(&store, &limit, receipt, now);
                }
            }
        }
        counted.sort_unstable();
        for (first, from) in counted.iter().enumerate() {
            for (count, until) in counted[first..].iter().enumerate() {
                prop_assert!((count as u64) < u64::from(burst) + (until - from) / (1_000 * MS));
            }
        }
    }

    /// The formula for each key, while the table grows and roots of every size go on counting.
    #[test]
    fn no_window_admits_more_than_burst_and_refill_while_the_table_grows(
        burst in 1_u32..6,
        places in prop::collection::vec(any::<u64>(), 8),
        steps in prop::collection::vec((0_u32..12, 0_usize..8, 0_usize..8, 0_u64..300 * MS), 1..300),
    ) {
        let store = MemoryStore::default();
        let mut roots = vec![(Limiter::new(0, SECOND, false), Table::new(1, 8).create(&store).unwrap().0)];
        let limit = charge_request(1, 20, Duration::from_secs(1), burst * 4, 1);
        let (mut now, mut admitted) = (5_000 * MS, vec![Vec::new(); places.len()]);
        for (kind, root, key, pause) in steps {
            now += pause / 10;
            if kind == 0 {
                let table = Table::new(1, 8 << key).create(&store).unwrap().0;
                roots.push((Limiter::new(0, SECOND, false), table));
            }
            let (limiter, table) = &roots[root % roots.len()];
            let hash = KeyHash { place: places[key], tag: (key as u64) << 1 | 1 };
            if admits(limiter, &store, &[ChargeRequest { table: *table, hash, ..limit }], now) {
                admitted[key].push(now);
            }
        }
        for times in admitted {
            for (first, from) in times.iter().enumerate() {
                for (count, until) in times[first..].iter().enumerate() {
                    let most = u64::from(burst) * 4 + (until - from) / (50 * MS);
                    prop_assert!((count as u64) < most);
                }
            }
        }
    }

    /// The formula, where the host runs other requests of the worker while it answers a call.
    #[test]
    fn no_window_admits_more_than_burst_and_refill_where_requests_run_within_requests(
        (requests, burst) in (1_u32..200, 1_u32..200),
        both in any::<bool>(),
        steps in prop::collection::vec(0_u64..20 * MS, 1..50),
        nested in prop::collection::vec(prop::sample::select(&[0_u8, 0, 0, 0, 0, 1, 2, 3][..]), 1..40),
    ) {
        let wide = charge_request(1, requests, Duration::from_secs(1), burst, 1);
        let narrow = charge_request(2, 10, Duration::from_secs(1), 10, 1);
        let store = store(&[wide, narrow]);
        let limiter = Limiter::new(0, LEASE, false);
        let reentering = Reentering {
            store: &store,
            limiter: &limiter,
            charges: if both { vec![wide, narrow] } else { vec![wide] },
            nested: &nested,
            calls: Cell::default(),
            now: Cell::new(5_000 * MS),
            depth: Cell::default(),
            admitted: std::cell::RefCell::default(),
        };
        for pause in steps {
            reentering.now.set(reentering.now.get() + pause);
            reentering.ask();
        }
        let times = reentering.admitted.into_inner();
        for (first, from) in times.iter().enumerate() {
            for (count, until) in times[first..].iter().enumerate() {
                let refill = u64::from(requests) * (until - from) / SECOND;
                prop_assert!((count as u64) < u64::from(burst) + refill);
                prop_assert!(!both || (count as u64) < 10 + 10 * (until - from) / SECOND);
            }
        }
    }

    /// One worker alone admits exactly what the plain algorithm admits: a lease takes nothing from its
    /// holder.
    #[test]
    fn one_worker_admits_what_the_algorithm_admits(
        (requests, burst) in (1_u32..2_000, 1_u32..200),
        pauses in prop::collection::vec(0_u64..20 * MS, 1..400),
    ) {
        let limit = charge_request(1, requests, Duration::from_secs(1), burst, 1);
        let store = store(&[limit]);
        let worker = Limiter::new(0, LEASE, true);
        let (mut now, mut tat) = (5_000 * MS, 0);
        for pause in pauses {
            now += pause;
            let plain = limit.rate.charge(tat, now, 1);
            tat = plain.unwrap_or(tat);
            prop_assert_eq!(admits(&worker, &store, &[limit], now), plain.is_ok());
        }
    }
}
