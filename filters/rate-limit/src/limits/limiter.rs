//! Charges one or several limits for a request: all of them or none.
//!
//! A worker takes more from the shared data than one request needs where a key is busy: a [`Lease`], a stretch of the
//! key's virtual time that belongs to this worker alone. Spending from it costs no host call. It stays true to the
//! algorithm ([`crate::limits::gcra`]): each request takes one interval of the stretch that begins no earlier than the request
//! comes, and what time has passed over is lost, as it is in the bucket itself. So every formula holds as if there were
//! no leases. What a worker holds unused is denied to others for a while: never more than refills in the longest lease
//! (100 ms unless configured), nor an eighth of what is left, which near the limit is nothing.
//!
//! **Several limits.** All are looked at, and where one denies nothing is charged. Then all are charged; where another
//! worker was faster and a later one denies, what was charged is returned: to the shared data if nobody has charged the
//! key in between, else it stays with this worker as a lease.
//!
//! **Requests within requests.** A host may run another request of the worker while it answers a call. So everything that
//! a worker remembers is in a [`Cell`], which lends nothing that could be held over a call; and what a call's outcome
//! decides about is taken out first and is put back only where nobody has put anything there.

use std::cell::Cell;

use plugin_kit::host::HostError;

use crate::limits::gcra::{Rate, Retry};
use crate::limits::slots::{Found, KeyHash, OnFull, SharedStore, Table};

/// One limit's part in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Where the keys of the limit are.
    pub table: Table,
    /// The request's key.
    pub hash: KeyHash,
    /// What the key may do.
    pub rate: Rate,
    /// How many requests this one counts as.
    pub cost: u64,
    /// What becomes of the key where there is no free place for it.
    pub on_full: OnFull,
    /// The limit has only this key, and this number among such limits.
    pub single: Option<usize>,
    /// The charge may be given back when the response is known ([`Limiter::refund`]), so nothing is leased.
    pub refundable: bool,
}

/// What a charge took: the stretch of the key's virtual time from `start` to `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    start: u64,
    end: u64,
}

/// How a key stands, in whole requests and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Requests that would be admitted now.
    pub remaining: u64,
    /// Time until the burst is whole again.
    pub whole_in: u64,
    /// Time until the next request would be admitted; 0 where it would be now, `None` where it never would.
    pub next_in: Option<u64>,
    /// What the request met.
    pub verdict: Verdict,
    /// For a charge that may be given back.
    pub receipt: Option<Receipt>,
}

/// What one limit says to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is room.
    Admitted,
    /// There is none for this many nanoseconds; `None`: there never is for this cost.
    Denied(Option<u64>),
    /// Other workers were faster, again and again: the request could not be counted.
    Conflict,
}

/// What happened on the way, for counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Writes lost to another worker.
    pub conflicts: u32,
    /// Charges undone because a later limit denied.
    pub undone: u32,
    /// Charges given back once the response was known.
    pub refunded: u32,
    /// Keys forgotten, or shared, that still owed.
    pub evicted: u32,
    /// Costs of requests that were no numbers.
    pub invalid_costs: u32,
}

/// Tries to write before a conflict is given up. Each loss is another worker's gain, so with fewer workers than this it
/// takes a strange scheduler to lose them all.
const ROUNDS: u32 = 32;

/// Keys that a worker remembers leases and denials of, beside those of limits without a key.
const REMEMBERED: usize = 512;
/// Places that a key may have among them. With one, two busy keys of the same place would take it from each other at
/// every request.
const WAYS: usize = 4;

/// What this worker remembers of a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Lease {
    hash: KeyHash,
    /// The stretch of virtual time that is left.
    next: u64,
    end: u64,
    /// How much was leased beyond need, and when, or when the key was first denied.
    extra: u64,
    taken_at: u64,
    /// A TAT that was seen to deny.
    denied_tat: u64,
}

impl Lease {
    fn start(&self, now: u64) -> u64 {
        self.next.max(now)
    }

    fn holds(&self, need: u64, now: u64) -> bool {
        self.end >= self.start(now).saturating_add(need)
    }

    /// The same with nothing left of its stretch.
    fn spent(self) -> Self {
        Self { next: self.end, ..self }
    }
}

/// One worker's view of all limits.
#[derive(Debug, Clone)]
pub struct Limiter {
    leases: Vec<Cell<Lease>>,
    singles: usize,
    longest_lease: u64,
    remember_denials: bool,
    tally: Cell<Tally>,
}

enum Look {
    Leased,
    Shared(Found),
    Denied(Standing),
}

/// A charge that can still be undone.
enum Charge {
    /// From a lease that was there; its `next` before and after.
    Leased { before: u64, after: u64 },
    /// A new lease that starts here, with the charge.
    Shared(u64),
}

impl Limiter {
    /// A worker's view of limits of which `singles` have no key. `longest_lease` is in nanoseconds. A limit that is
    /// `alone` is never undone, so its denials hold until the time that they name and are remembered.
    pub fn new(singles: usize, longest_lease: u64, alone: bool) -> Self {
        Self {
            leases: vec![Cell::default(); singles.saturating_add(REMEMBERED)],
            singles,
            longest_lease,
            remember_denials: alone,
            tally: Cell::default(),
        }
    }

    /// What has happened since the last call.
    pub fn take_tally(&self) -> Tally {
        self.tally.take()
    }

    /// Whether anything has.
    pub fn has_tally(&self) -> bool {
        self.tally.get() != Tally::default()
    }

    /// Notes that the cost of a request was no number.
    pub fn note_invalid_cost(&self) {
        self.note(|tally| &mut tally.invalid_costs);
    }

    fn note(&self, count: impl FnOnce(&mut Tally) -> &mut u32) {
        let mut tally = self.tally.get();
        let count = count(&mut tally);
        *count = count.saturating_add(1);
        self.tally.set(tally);
    }

    /// Charges all demands, or none. The answer has a standing for each demand up to the first that could not be
    /// charged, or for all.
    ///
    /// # Errors
    /// The host failed; nothing stays charged that could be undone.
    pub fn charge(
        &self,
        store: &impl SharedStore,
        demands: &[Demand],
        now: u64,
    ) -> Result<Vec<Standing>, HostError> {
        let looks = match self.look_at_all(store, demands, now)? {
            Ok(looks) => looks,
            Err(standings) => return Ok(standings),
        };
        let mut charges: Vec<Charge> = Vec::with_capacity(demands.len());
        let mut standings = Vec::with_capacity(demands.len());
        for (demand, look) in demands.iter().zip(looks) {
            let answer = match look {
                Look::Leased => Ok(self.spend(demand, now)),
                Look::Shared(found) => self.lease(store, demand, found, now),
                Look::Denied(standing) => Ok((standing, None)),
            };
            let failed = match answer {
                Ok((standing, charge)) => {
                    standings.push(standing);
                    charge.map(|charge| charges.push(charge)).is_none().then_some(None)
                }
                Err(error) => Some(Some(error)),
            };
            if let Some(error) = failed {
                for (demand, charge) in demands.iter().zip(charges) {
                    self.undo(store, demand, &charge, now);
                }
                return error.map_or(Ok(standings), Err);
            }
        }
        Ok(standings)
    }

    /// How the demands stand if one of them would be denied now; `None` where there is room for all. Charges nothing.
    pub fn peek(
        &self,
        store: &impl SharedStore,
        demands: &[Demand],
        now: u64,
    ) -> Result<Option<Vec<Standing>>, HostError> {
        Ok(self.look_at_all(store, demands, now)?.err())
    }

    /// Looks at all limits; the standings are there where one denies.
    fn look_at_all(
        &self,
        store: &impl SharedStore,
        demands: &[Demand],
        now: u64,
    ) -> Result<Result<Vec<Look>, Vec<Standing>>, HostError> {
        let mut looks = Vec::with_capacity(demands.len());
        for demand in demands {
            looks.push(self.look(store, demand, now)?);
        }
        Ok(if looks.iter().any(|look| matches!(look, Look::Denied(_))) {
            Err(demands.iter().zip(looks).map(|(d, look)| self.seen(d, look, now)).collect())
        } else {
            Ok(looks)
        })
    }

    /// Takes one demand from the lease that this worker holds, if it is enough.
    pub fn spends(&self, demand: &Demand, now: u64) -> bool {
        !demand.refundable && self.take(demand, now).is_some()
    }

    /// Takes one demand from the lease that this worker holds, if it is enough.
    fn take(&self, demand: &Demand, now: u64) -> Option<Charge> {
        let need = demand.rate.time_of(demand.cost);
        let place = self.leases.get(self.place(demand))?;
        let lease = place.get();
        if lease.hash != demand.hash || !lease.holds(need, now) {
            return None;
        }
        let (before, after) = (lease.next, lease.start(now).saturating_add(need));
        place.set(Lease { next: after, ..lease });
        Some(Charge::Leased { before, after })
    }

    /// Looks at one limit, without a host call where this worker knows the answer.
    fn look(&self, store: &impl SharedStore, demand: &Demand, now: u64) -> Result<Look, HostError> {
        if let Some(lease) = self.known(demand) {
            if lease.holds(demand.rate.time_of(demand.cost), now) && !demand.refundable {
                return Ok(Look::Leased);
            }
            if lease.denied_tat > now
                && let Err(retry) = demand.rate.charge(lease.denied_tat, now, demand.cost)
            {
                return Ok(Look::Denied(denied(demand, lease.denied_tat, now, retry)));
            }
        }
        let found = find(store, demand, now)?;
        let tat = self.tat(demand, &found, now);
        let Err(retry) = demand.rate.charge(tat, now, demand.cost) else {
            return Ok(Look::Shared(found));
        };
        if self.remember_denials
            && let Some(place) = self.leases.get(self.place(demand))
        {
            let known = Some(place.get()).filter(|lease| lease.hash == demand.hash);
            let lease = known.unwrap_or(Lease { hash: demand.hash, taken_at: now, ..Lease::default() });
            place.set(Lease { denied_tat: tat, ..lease });
        }
        Ok(Look::Denied(denied(demand, tat, now, retry)))
    }

    /// The standing of a limit that is not charged.
    fn seen(&self, demand: &Demand, look: Look, now: u64) -> Standing {
        match look {
            Look::Denied(standing) => standing,
            Look::Shared(found) => standing(demand, self.tat(demand, &found, now), now, Verdict::Admitted),
            Look::Leased => self.held(demand, now, Verdict::Admitted),
        }
    }

    /// Takes from the lease that this worker holds.
    fn spend(&self, demand: &Demand, now: u64) -> (Standing, Option<Charge>) {
        // An earlier demand of this request may have taken the place; then the limit counts as denied.
        let charge = self.take(demand, now);
        let verdict = if charge.is_some() { Verdict::Admitted } else { Verdict::Conflict };
        (self.held(demand, now, verdict), charge)
    }

    /// Takes what the request needs from the shared data, and a lease where the key is busy.
    fn lease(
        &self,
        store: &impl SharedStore,
        demand: &Demand,
        mut found: Found,
        now: u64,
    ) -> Result<(Standing, Option<Charge>), HostError> {
        for _ in 0..ROUNDS {
            let tat = self.tat(demand, &found, now);
            let needed = match demand.rate.charge(tat, now, demand.cost) {
                Ok(needed) => needed,
                Err(retry) => return Ok((denied(demand, tat, now, retry), None)),
            };
            let extra = self.extra(demand, needed, now);
            let end = needed.saturating_add(extra);
            let evicts = found.evicts;
            let start = needed.saturating_sub(demand.rate.time_of(demand.cost));
            // The charge may begin in what is left of the lease, which nobody else may spend meanwhile.
            let left = self.take_out(demand);
            let written = demand.table.write(store, demand.hash, found, end);
            if !matches!(written, Ok(true)) {
                self.put_back(demand, left);
            }
            if written? {
                if evicts {
                    self.note(|tally| &mut tally.evicted);
                }
                if let Some(place) = self.leases.get(self.place(demand)) {
                    place.set(Lease {
                        hash: demand.hash,
                        next: needed,
                        end,
                        extra,
                        taken_at: now,
                        denied_tat: 0,
                    });
                }
                let receipt = demand.refundable.then_some(Receipt { start, end });
                let standing = Standing { receipt, ..standing(demand, needed, now, Verdict::Admitted) };
                return Ok((standing, Some(Charge::Shared(start))));
            }
            self.note(|tally| &mut tally.conflicts);
            found = find(store, demand, now)?;
        }
        let tat = self.tat(demand, &found, now);
        Ok((standing(demand, tat, now, Verdict::Conflict), None))
    }

    /// Takes out what is left of the key's lease.
    fn take_out(&self, demand: &Demand) -> Option<Lease> {
        let place = self.leases.get(self.place(demand))?;
        let lease = place.get();
        (lease.hash == demand.hash).then(|| {
            place.set(lease.spent());
            lease
        })
    }

    /// Puts it back. Where something else is there now it is lost.
    fn put_back(&self, demand: &Demand, lease: Option<Lease>) {
        if let (Some(lease), Some(place)) = (lease, self.leases.get(self.place(demand)))
            && place.get() == lease.spent()
        {
            place.set(lease);
        }
    }

    /// How much to take beyond need: what the next request would need at the pace of the last two and as much again, more
    /// each time that a lease is used up before its time is, and as much again where it was enough for the longest time.
    fn extra(&self, demand: &Demand, needed: u64, now: u64) -> u64 {
        let Some(last) = self.known(demand).filter(|_| !demand.refundable) else { return 0 };
        let wish = match now.saturating_sub(last.taken_at) {
            // A lease is good for as much time as it holds: one shorter than the pause between requests serves none.
            since if since <= self.longest_lease => last.extra.max(since).saturating_mul(2),
            since if since <= self.longest_lease.saturating_mul(2) => last.extra,
            _ => return 0,
        };
        let interval = demand.rate.interval();
        let room = now.saturating_add(demand.rate.tolerance()).saturating_sub(needed);
        let extra = wish.max(interval).min(self.longest_lease).min(room / 8);
        // In whole intervals: a part of one serves nobody.
        extra.checked_div(interval).unwrap_or_default().saturating_mul(interval)
    }

    /// Undoes a charge, unless what it left of the lease was spent meanwhile.
    fn undo(&self, store: &impl SharedStore, demand: &Demand, charge: &Charge, now: u64) {
        self.note(|tally| &mut tally.undone);
        let Some(lease) = self.known(demand) else { return };
        let undone = match *charge {
            Charge::Leased { before, after } => (lease.next == after).then_some(before),
            Charge::Shared(start) => {
                let after = start.saturating_add(demand.rate.time_of(demand.cost));
                (lease.next == after).then_some(start)
            }
        };
        let Some(next) = undone else { return };
        self.take_out(demand);
        let returned = matches!(charge, Charge::Shared(_))
            && give_back(store, demand, Receipt { start: next, end: lease.end }, now);
        let Some(place) = self.leases.get(self.place(demand)) else { return };
        if place.get() == lease.spent() {
            place.set(if returned { Lease::default() } else { Lease { next, ..lease } });
        }
    }

    /// Gives a charge back, long after it was made. If the key was charged again meanwhile it stays charged, since its
    /// stretch is no longer the last; time heals that.
    pub fn refund(&self, store: &impl SharedStore, demand: &Demand, receipt: Receipt, now: u64) {
        if give_back(store, demand, receipt, now) {
            self.note(|tally| &mut tally.refunded);
        }
    }

    /// The key's TAT as far as it concerns this worker now.
    fn tat(&self, demand: &Demand, found: &Found, now: u64) -> u64 {
        // Where nobody has charged the key since this worker's lease, what is left of that is not lost.
        let own = self.known(demand).filter(|lease| lease.end == found.tat);
        // No charge of this limit puts a TAT further ahead.
        own.map_or(found.tat, |lease| lease.next).min(now.saturating_add(demand.rate.tolerance()))
    }

    fn known(&self, demand: &Demand) -> Option<Lease> {
        self.leases.get(self.place(demand)).map(Cell::get).filter(|lease| lease.hash == demand.hash)
    }

    /// Where the key is remembered, or would be: in the place of the one not heard of for longest.
    fn place(&self, demand: &Demand) -> usize {
        demand.single.unwrap_or_else(|| {
            // The lowest bit of a tag is always set.
            let set = (demand.hash.tag >> 1).checked_rem((REMEMBERED / WAYS) as u64);
            let set = usize::try_from(set.unwrap_or_default()).unwrap_or_default();
            let first = self.singles.saturating_add(set.saturating_mul(WAYS));
            let places = || self.leases.iter().enumerate().skip(first).take(WAYS);
            let own = places().find(|(_, lease)| lease.get().hash == demand.hash);
            own.or_else(|| places().min_by_key(|(_, lease)| lease.get().taken_at))
                .map_or(first, |(place, _)| place)
        })
    }

    /// The standing as far as this worker knows: it has not heard of what others have taken after its lease.
    fn held(&self, demand: &Demand, now: u64, verdict: Verdict) -> Standing {
        standing(demand, self.known(demand).map_or(0, |lease| lease.start(now)), now, verdict)
    }
}

fn find(store: &impl SharedStore, demand: &Demand, now: u64) -> Result<Found, HostError> {
    demand.table.find(store, demand.hash, now, demand.on_full)
}

/// Sets the TAT back to the start of a charge. If it still is at the end of that charge, nobody has charged the key
/// since, and this leaves no trace. If it is not, what others were granted comes after this stretch, and lowering the
/// TAT would grant the end of their time twice.
fn give_back(store: &impl SharedStore, demand: &Demand, receipt: Receipt, now: u64) -> bool {
    let found = find(store, demand, now).ok();
    found
        .filter(|found| found.tat == receipt.end)
        .is_some_and(|found| demand.table.write(store, demand.hash, found, receipt.start).unwrap_or(false))
}

/// How a key with this TAT stands.
fn standing(demand: &Demand, tat: u64, now: u64, verdict: Verdict) -> Standing {
    let next_in = match demand.rate.charge(tat, now, 1) {
        Ok(_) => Some(0),
        Err(Retry::At(at)) => Some(at.saturating_sub(now)),
        Err(Retry::Never) => None,
    };
    let remaining = demand.rate.remaining(tat, now);
    Standing { remaining, whole_in: tat.saturating_sub(now), next_in, verdict, receipt: None }
}

fn denied(demand: &Demand, tat: u64, now: u64, retry: Retry) -> Standing {
    let wait = match retry {
        Retry::At(at) => Some(at.saturating_sub(now)),
        Retry::Never => None,
    };
    standing(demand, tat, now, Verdict::Denied(wait))
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::MemoryStore;

    const MS: u64 = 1_000_000;
    const LEASE: u64 = 100 * MS;
    const SECOND: u64 = 1_000 * MS;

    fn demand(name: u8, requests: u32, per: Duration, burst: u32, cost: u64) -> Demand {
        Demand {
            table: Table::new(name, 8),
            hash: KeyHash { place: 0, tag: u64::from(name) * 2 + 1 },
            rate: Rate::new(requests, per, burst).unwrap(),
            cost,
            on_full: OnFull::Evict,
            single: None,
            refundable: false,
        }
    }

    fn store(demands: &[Demand]) -> MemoryStore {
        let store = MemoryStore::default();
        for demand in demands {
            demand.table.create(&store).unwrap();
        }
        store
    }

    fn admits(limiter: &Limiter, store: &MemoryStore, demands: &[Demand], now: u64) -> bool {
        let standings = limiter.charge(store, demands, now).unwrap();
        standings.len() == demands.len() && standings.iter().all(|s| s.verdict == Verdict::Admitted)
    }

    #[test]
    fn a_burst_of_exactly_n_admits_exactly_n_over_workers() {
        let limit = [demand(1, 100, Duration::from_hours(1), 100, 1)];
        let store = store(&limit);
        let workers = [(); 4].map(|()| Limiter::new(0, LEASE, true));
        let admitted = (0..400).filter(|n| admits(&workers[n % 4], &store, &limit, 1_000 * MS)).count();
        assert_eq!(admitted, 100);
        // However unevenly they come.
        let limit = [demand(2, 100, Duration::from_hours(1), 100, 1)];
        limit[0].table.create(&store).unwrap();
        let worker = |n: u32| if n.is_multiple_of(10) { (n / 10 % 4) as usize } else { 0 };
        let admitted = (0..100).filter(|n| admits(&workers[worker(*n)], &store, &limit, 1_000 * MS)).count();
        assert_eq!(admitted, 100);
    }

    #[test]
    fn a_busy_key_costs_a_fraction_of_a_host_call() {
        let limit = [demand(1, 100_000, Duration::from_secs(1), 100_000, 1)];
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
            let mut limit = demand(1, 100_000, Duration::from_secs(1), 100_000, 1);
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
    fn a_key_with_pauses_holds_a_lease_from_its_second_request_on() {
        // An interval of 10 us, and 20 ms between requests: a lease of a few intervals is over before the next one.
        let limit = [demand(1, 100_000, Duration::from_secs(1), 100_000, 1)];
        let store = store(&limit);
        let worker = Limiter::new(0, LEASE, true);
        let reads = store.reads.get();
        for n in 0..10_u64 {
            assert!(admits(&worker, &store, &limit, 1_000 * MS + n * 20 * MS));
        }
        assert!(store.reads.get() - reads <= 5, "{} reads", store.reads.get() - reads);
    }

    #[test]
    fn the_longer_a_key_pauses_the_less_is_leased() {
        let limit = [demand(1, 100_000, Duration::from_secs(1), 100_000, 1)];
        let store = store(&limit);
        let worker = Limiter::new(0, LEASE, true);
        let mut now = 1_000 * MS;
        // Twice the pause, as much as before, and nothing; then from the beginning.
        for (pause, extra) in
            [(0, 0), (10, 20), (100, 100), (101, 100), (200, 100), (201, 0), (10, 20), (150, 20)]
        {
            now += pause * MS;
            assert!(admits(&worker, &store, &limit, now));
            assert_eq!(worker.known(&limit[0]).unwrap().extra, extra * MS, "after {pause} ms");
        }
    }

    #[test]
    fn a_denial_costs_one_read_and_then_none_where_the_limit_is_alone() {
        for (alone, reads) in [(true, 1), (false, 10)] {
            let limit = [demand(1, 1, Duration::from_mins(1), 1, 1)];
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
    fn denied_keys_of_one_set_are_remembered_side_by_side() {
        let limit = |n: u64| {
            let mut limit = demand(1, 1, Duration::from_mins(1), 1, 1);
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
    fn where_one_denies_nothing_is_charged() {
        let (wide, narrow) =
            (demand(1, 10, Duration::from_hours(1), 10, 1), demand(2, 1, Duration::from_hours(1), 1, 1));
        let store = store(&[wide, narrow]);
        let worker = Limiter::new(0, LEASE, false);
        assert!(admits(&worker, &store, &[wide, narrow], 1_000 * MS));
        for _ in 0..20 {
            assert!(!admits(&worker, &store, &[wide, narrow], 1_000 * MS));
        }
        assert_eq!((0..20).filter(|_| admits(&worker, &store, &[wide], 1_000 * MS)).count(), 9);
    }

    #[test]
    fn a_conflict_is_tried_again_and_never_admits_by_itself() {
        let limit = [demand(1, 2, Duration::from_hours(1), 2, 1)];
        let store = store(&limit);
        let worker = Limiter::new(0, LEASE, true);
        store.conflicts.set(5);
        assert!(admits(&worker, &store, &limit, 1_000 * MS));
        assert_eq!(worker.take_tally(), Tally { conflicts: 5, ..Tally::default() });
        store.conflicts.set(1_000);
        let standings = worker.charge(&store, &limit, 1_000 * MS).unwrap();
        assert_eq!(standings[0].verdict, Verdict::Conflict);
        store.conflicts.set(0);
        assert!(admits(&worker, &store, &limit, 1_000 * MS));
        assert!(!admits(&worker, &store, &limit, 1_000 * MS));
    }

    #[test]
    fn a_charge_is_returned_when_a_later_limit_cannot_be_charged() {
        let (first, second) =
            (demand(1, 1, Duration::from_hours(1), 1, 1), demand(2, 1, Duration::from_hours(1), 1, 1));
        let store = store(&[first, second]);
        let worker = Limiter::new(0, LEASE, false);
        let failing = FailingWrite(&store, std::cell::Cell::new(0), 2);
        assert!(worker.charge(&failing, &[first, second], 1_000 * MS).is_err());
        assert_eq!(worker.take_tally().undone, 1);
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
        demands: Vec<Demand>,
        nested: &'a [u8],
        calls: Cell<usize>,
        now: Cell<u64>,
        depth: Cell<u32>,
        admitted: std::cell::RefCell<Vec<u64>>,
    }

    impl Reentering<'_> {
        fn ask(&self) {
            let now = self.now.get();
            let standings = self.limiter.charge(self, &self.demands, now).unwrap();
            let admitted = standings.iter().all(|standing| standing.verdict == Verdict::Admitted);
            if admitted && standings.len() == self.demands.len() {
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
    fn a_refund_leaves_no_trace_unless_the_key_was_charged_again() {
        let limit = [Demand { refundable: true, ..demand(1, 2, Duration::from_hours(1), 2, 1) }];
        let store = store(&limit);
        let (one, other) = (Limiter::new(0, LEASE, false), Limiter::new(0, LEASE, false));
        for _ in 0..10 {
            let receipt = one.charge(&store, &limit, 1_000 * MS).unwrap()[0].receipt.unwrap();
            one.refund(&store, &limit[0], receipt, 2_000 * MS);
        }
        assert_eq!(one.take_tally().refunded, 10);
        let first = one.charge(&store, &limit, 3_000 * MS).unwrap()[0].receipt.unwrap();
        assert!(admits(&other, &store, &limit, 3_000 * MS));
        one.refund(&store, &limit[0], first, 4_000 * MS);
        assert_eq!(one.take_tally().refunded, 0);
        assert!(!admits(&one, &store, &limit, 4_000 * MS));
    }

    #[test]
    fn values_of_others_are_survived() {
        let limit = [demand(1, 3, Duration::from_hours(1), 3, 1)];
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
    fn memory_is_fixed_and_the_key_that_owes_least_gives_way() {
        let debtor = demand(1, 100, Duration::from_hours(1), 100, 100);
        let table = Table::new(1, 64);
        let store = MemoryStore::default();
        table.create(&store).unwrap();
        let values = store.len();
        let worker = Limiter::new(0, LEASE, true);
        assert!(admits(&worker, &store, &[Demand { table, ..debtor }], 1_000 * MS));
        for n in 0..10_000_u64 {
            let hash = KeyHash { place: n, tag: n * 2 + 101 };
            let other = [Demand { table, hash, cost: 1, ..debtor }];
            assert!(admits(&worker, &store, &other, 1_000 * MS));
        }
        assert_eq!(store.len(), values);
        assert!(worker.take_tally().evicted > 9_000);
        // Who owes most is not forgotten.
        let other = Limiter::new(0, LEASE, true);
        assert!(!admits(&other, &store, &[Demand { table, cost: 1, ..debtor }], 1_000 * MS));
    }

    /// Who knows how keys were hashed in one process can choose keys of one set there; in another they lie apart. So nobody
    /// can push a victim out, or himself.
    #[test]
    fn keys_that_collide_in_one_process_lie_apart_in_the_next() {
        use crate::keys::key::KeyHasher;
        let limit = demand(1, 2, Duration::from_hours(1), 2, 1);
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
                let demand = Demand { table, hash: hash(process, *key), ..limit };
                assert!(admits(&worker, &store, &[demand], 1_000 * MS));
            }
            worker.take_tally().evicted
        };
        assert_eq!((evicted(1), evicted(2)), (32, 0));
    }

    #[test]
    fn a_full_set_can_be_shared() {
        let table = Table::new(1, 8);
        let store = MemoryStore::default();
        table.create(&store).unwrap();
        let worker = Limiter::new(0, LEASE, false);
        let limit = Demand { on_full: OnFull::Share, table, ..demand(1, 2, Duration::from_hours(1), 2, 1) };
        let key = |n: u64| [Demand { hash: KeyHash { place: 0, tag: n * 2 + 1 }, ..limit }];
        for n in 0..8 {
            assert!(admits(&worker, &store, &key(n), 1_000 * MS));
        }
        // The ninth takes over a debt of one request, and with its own the limit of two is reached.
        assert!(admits(&worker, &store, &key(9), 1_000 * MS));
        assert!(!admits(&worker, &store, &key(9), 1_000 * MS));
    }

    #[test]
    fn creating_the_slots_again_resets_nothing() {
        let limit = [demand(1, 1, Duration::from_hours(1), 1, 1)];
        let store = store(&limit);
        assert!(admits(&Limiter::new(0, LEASE, true), &store, &limit, 1_000 * MS));
        limit[0].table.create(&store).unwrap();
        assert!(!admits(&Limiter::new(0, LEASE, true), &store, &limit, 1_000 * MS));
    }

    /// As `maxKeys` is raised and lowered; the values are as many as the largest table has sets, and no more.
    #[test]
    fn a_change_of_size_keeps_what_every_key_owes() {
        let table = Table::new(1, 1024);
        let store = MemoryStore::default();
        table.create(&store).unwrap();
        let key = |table, n: u64| {
            let hash = KeyHash { place: n.wrapping_mul(0x9e37_79b9_7f4a_7c15), tag: n << 20 | 1 };
            [Demand { table, hash, ..demand(1, 1, Duration::from_hours(1), 1, 1) }]
        };
        let old = Limiter::new(0, LEASE, false);
        let keys: Vec<u64> = (0..300).filter(|n| admits(&old, &store, &key(table, *n), 1_000 * MS)).collect();
        let forgotten = |limiter: &Limiter, table| {
            let admitted = |n: &&u64| admits(limiter, &store, &key(table, **n), 1_001 * MS);
            keys.iter().filter(admitted).count()
        };
        let evicted = old.take_tally().evicted as usize;
        for (keys, sets) in [(4_096, 512), (16, 512), (65_536, 8_192), (1_024, 8_192)] {
            let (grown, _) = Table::new(1, keys).create(&store).unwrap();
            assert_eq!(store.len(), sets + 1);
            for (limiter, table) in [
                (&Limiter::new(0, LEASE, false), grown),
                (&Limiter::new(0, LEASE, false), table),
                (&old, table),
            ] {
                assert!(forgotten(limiter, table) <= evicted, "{keys} keys, {evicted} evicted");
            }
        }
        assert_eq!(evicted, 0);
        // And each set has room for eight keys of its own.
        let (grown, _) = Table::new(1, 65_536).create(&store).unwrap();
        let more = (1_000..20_000).filter(|n| admits(&old, &store, &key(grown, *n), 1_002 * MS));
        assert_eq!(more.count(), 19_000);
        assert!(old.take_tally().evicted < 40);
    }

    #[test]
    fn growth_that_fails_midway_loses_nothing_and_goes_on_the_next_time() {
        for fails_at in 1..40 {
            let table = Table::new(1, 16);
            let store = MemoryStore::default();
            table.create(&store).unwrap();
            let key = |table, n: u64| {
                let hash = KeyHash { place: n, tag: n << 1 | 1 };
                [Demand { table, hash, ..demand(1, 1, Duration::from_hours(1), 1, 1) }]
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
            assert_eq!((store.len(), limiter.take_tally().evicted), (17, 0), "{fails_at}");
        }
    }

    #[test]
    fn growth_that_is_always_overtaken_is_an_error() {
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
            let wide = demand(1, requests, Duration::from_millis(per), burst, 1);
            let other = demand(2, narrow, Duration::from_millis(per), narrow, 1);
            let store = store(&[wide, other]);
            let workers = [(); 3].map(|()| Limiter::new(0, LEASE, false));
            let (mut now, mut admitted) = (5_000 * MS, Vec::new());
            for (worker, pause, cost, both) in steps {
                now += pause;
                let wide = Demand { cost: cost.into(), ..wide };
                let demands: &[Demand] = if both { &[wide, other] } else { &[wide] };
                if admits(&workers[worker], &store, demands, now) {
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
            let limit = Demand { refundable: true, ..demand(1, 1, Duration::from_secs(1), burst, 1) };
            let store = store(&[limit]);
            let workers = [(); 3].map(|()| Limiter::new(0, LEASE, false));
            let (mut now, mut open, mut counted) = (5_000 * MS, Vec::new(), Vec::new());
            for (worker, pause, answered, counts) in steps {
                now += pause;
                let standing = workers[worker].charge(&store, &[limit], now).unwrap()[0];
                if let Some(receipt) = standing.receipt {
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
            let limit = demand(1, 20, Duration::from_secs(1), burst * 4, 1);
            let (mut now, mut admitted) = (5_000 * MS, vec![Vec::new(); places.len()]);
            for (kind, root, key, pause) in steps {
                now += pause / 10;
                if kind == 0 {
                    let table = Table::new(1, 8 << key).create(&store).unwrap().0;
                    roots.push((Limiter::new(0, SECOND, false), table));
                }
                let (limiter, table) = &roots[root % roots.len()];
                let hash = KeyHash { place: places[key], tag: (key as u64) << 1 | 1 };
                if admits(limiter, &store, &[Demand { table: *table, hash, ..limit }], now) {
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
            let wide = demand(1, requests, Duration::from_secs(1), burst, 1);
            let narrow = demand(2, 10, Duration::from_secs(1), 10, 1);
            let store = store(&[wide, narrow]);
            let limiter = Limiter::new(0, LEASE, false);
            let reentering = Reentering {
                store: &store,
                limiter: &limiter,
                demands: if both { vec![wide, narrow] } else { vec![wide] },
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

        /// One worker alone admits exactly what the plain algorithm admits: a lease takes nothing from its holder.
        #[test]
        fn one_worker_admits_what_the_algorithm_admits(
            (requests, burst) in (1_u32..2_000, 1_u32..200),
            pauses in prop::collection::vec(0_u64..20 * MS, 1..400),
        ) {
            let limit = demand(1, requests, Duration::from_secs(1), burst, 1);
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
}
