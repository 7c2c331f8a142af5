//! Charges one or several limits for a request: all of them or none.
//!
//! **Leases.** If a key is busy, a worker takes more from the shared data than one request needs: a
//! [`Lease`], a stretch of the key's virtual time that belongs to this worker alone. Spending from a lease
//! costs no host call. The algorithm ([`crate::limits::gcra`]) still holds: each request takes one interval
//! of the stretch that begins no earlier than the request arrives, and the part of the stretch that time has
//! passed over is lost, as it is in the bucket itself. So every formula holds as if there were no leases.
//! What a worker holds and does not use is denied to the others for a while. It is never more than what
//! refills in the longest lease (100 ms unless configured), nor more than an eighth of what is left, which is
//! nothing near the limit.
//!
//! **Several limits.** The limiter looks at all limits first, and if one denies the request, it charges none.
//! Then it charges all of them. If another worker was faster and a later limit denies the request, the
//! earlier charges are undone: they return to the shared data if nobody has charged the key in between, and
//! otherwise stay with this worker as a lease.
//!
//! **Requests within requests.** The host may run another request of the worker while it answers a call. So
//! everything that a worker remembers is in a [`Cell`], which lends nothing that could be held during a call.
//! What depends on the result of a call is taken out before the call, and is put back only if nobody has put
//! anything there meanwhile.

use std::cell::Cell;

use plugin_kit::host::HostError;

use crate::limits::charge::{ChargeRequest, Receipt, Snapshot, Stats, Verdict, denied, snapshot};
use crate::limits::lease::{Lease, Leases};
use crate::limits::slots::{Found, SharedStore};

/// The number of attempts to write before the limiter reports a conflict. A write is lost only if another
/// worker has written, so with fewer workers than this it takes a strange scheduler to lose every attempt.
const ROUNDS: u32 = 32;

/// One worker's view of all limits.
#[derive(Debug, Clone)]
pub struct Limiter {
    leases: Leases,
    remember_denials: bool,
    stats: Cell<Stats>,
}

/// What the limiter found when it looked at a limit.
enum Look {
    /// This worker's lease is enough.
    Leased,
    /// The shared data has room.
    Shared(Found),
    /// The limit denies the request.
    Denied(Snapshot),
}

/// A charge that can still be undone.
enum Charge {
    /// The charge is from a lease that was there; the start of its stretch before and after.
    Leased { before: u64, after: u64 },
    /// The charge begins a new lease, which starts here.
    Shared(u64),
}

impl Limiter {
    /// A worker's view of limits of which `singles` have no key. `longest_lease` is in nanoseconds. The
    /// charge of a limit that is `alone` is never undone, so a denial holds until the time that it names, and
    /// is remembered.
    pub fn new(singles: usize, longest_lease: u64, alone: bool) -> Self {
        Self { leases: Leases::new(singles, longest_lease), remember_denials: alone, stats: Cell::default() }
    }

    /// What has happened since the last call.
    pub fn take_stats(&self) -> Stats {
        self.stats.take()
    }

    /// Whether anything has happened since then.
    pub fn has_stats(&self) -> bool {
        self.stats.get() != Stats::default()
    }

    /// Counts a request whose cost was not a number.
    pub fn note_invalid_cost(&self) {
        self.note(|stats| &mut stats.invalid_costs);
    }

    fn note(&self, count: impl FnOnce(&mut Stats) -> &mut u32) {
        let mut stats = self.stats.get();
        let count = count(&mut stats);
        *count = count.saturating_add(1);
        self.stats.set(stats);
    }

    /// Charges all limits, or none. The result has a snapshot for each limit, up to the first that could not
    /// be charged.
    ///
    /// # Errors
    /// The host failed. What could be undone was undone.
    pub fn charge(
        &self,
        store: &impl SharedStore,
        requests: &[ChargeRequest],
        now: u64,
    ) -> Result<Vec<Snapshot>, HostError> {
        let looks = match self.look_at_all(store, requests, now)? {
            Ok(looks) => looks,
            Err(snapshots) => return Ok(snapshots),
        };
        let mut charges: Vec<Charge> = Vec::with_capacity(requests.len());
        let mut snapshots = Vec::with_capacity(requests.len());
        for (request, look) in requests.iter().zip(looks) {
            let answer = match look {
                Look::Leased => Ok(self.spend(request, now)),
                Look::Shared(found) => self.lease(store, request, found, now),
                Look::Denied(snapshot) => Ok((snapshot, None)),
            };
            let failed = match answer {
                Ok((snapshot, charge)) => {
                    snapshots.push(snapshot);
                    charge.map(|charge| charges.push(charge)).is_none().then_some(None)
                }
                Err(error) => Some(Some(error)),
            };
            if let Some(error) = failed {
                for (request, charge) in requests.iter().zip(charges) {
                    self.undo(store, request, &charge, now);
                }
                return error.map_or(Ok(snapshots), Err);
            }
        }
        Ok(snapshots)
    }

    /// The snapshots of all limits if one of them would deny the request now; `None` if all have room.
    /// Charges nothing.
    pub fn peek(
        &self,
        store: &impl SharedStore,
        requests: &[ChargeRequest],
        now: u64,
    ) -> Result<Option<Vec<Snapshot>>, HostError> {
        Ok(self.look_at_all(store, requests, now)?.err())
    }

    /// Looks at all limits. The inner error is there if one denies the request: the snapshots of all.
    fn look_at_all(
        &self,
        store: &impl SharedStore,
        requests: &[ChargeRequest],
        now: u64,
    ) -> Result<Result<Vec<Look>, Vec<Snapshot>>, HostError> {
        let mut looks = Vec::with_capacity(requests.len());
        for request in requests {
            looks.push(self.look(store, request, now)?);
        }
        Ok(if looks.iter().any(|look| matches!(look, Look::Denied(_))) {
            Err(requests.iter().zip(looks).map(|(request, look)| self.seen(request, look, now)).collect())
        } else {
            Ok(looks)
        })
    }

    /// Charges the lease that this worker holds, if there is enough.
    pub fn try_spend_lease(&self, request: &ChargeRequest, now: u64) -> bool {
        !request.refundable && self.leases.take(request, now).is_some()
    }

    /// Looks at one limit, without a host call if this worker knows the answer.
    fn look(&self, store: &impl SharedStore, request: &ChargeRequest, now: u64) -> Result<Look, HostError> {
        if let Some(lease) = self.leases.known(request) {
            if lease.holds(request.rate.time_of(request.cost), now) && !request.refundable {
                return Ok(Look::Leased);
            }
            if lease.denied_tat > now
                && let Err(retry) = request.rate.charge(lease.denied_tat, now, request.cost)
            {
                return Ok(Look::Denied(denied(request, lease.denied_tat, now, retry)));
            }
        }
        let found = find(store, request, now)?;
        let tat = self.tat(request, &found, now);
        let Err(retry) = request.rate.charge(tat, now, request.cost) else {
            return Ok(Look::Shared(found));
        };
        if self.remember_denials
            && let Some(place) = self.leases.place(request)
        {
            let known = Some(place.get()).filter(|lease| lease.hash == request.hash);
            let lease = known.unwrap_or(Lease { hash: request.hash, taken_at: now, ..Lease::default() });
            place.set(Lease { denied_tat: tat, ..lease });
        }
        Ok(Look::Denied(denied(request, tat, now, retry)))
    }

    /// The snapshot of a limit that is not charged.
    fn seen(&self, request: &ChargeRequest, look: Look, now: u64) -> Snapshot {
        match look {
            Look::Denied(snapshot) => snapshot,
            Look::Shared(found) => snapshot(request, self.tat(request, &found, now), now, Verdict::Admitted),
            Look::Leased => self.held(request, now, Verdict::Admitted),
        }
    }

    /// Takes from the lease that this worker holds.
    fn spend(&self, request: &ChargeRequest, now: u64) -> (Snapshot, Option<Charge>) {
        // An earlier limit of the same request may have taken the place of the lease. Then the limit counts
        // as denied.
        let charge = self.leases.take(request, now);
        let charge = charge.map(|(before, after)| Charge::Leased { before, after });
        let verdict = if charge.is_some() { Verdict::Admitted } else { Verdict::Conflict };
        (self.held(request, now, verdict), charge)
    }

    /// Takes what the request needs from the shared data, with a lease if the key is busy.
    fn lease(
        &self,
        store: &impl SharedStore,
        request: &ChargeRequest,
        mut found: Found,
        now: u64,
    ) -> Result<(Snapshot, Option<Charge>), HostError> {
        for _ in 0..ROUNDS {
            let tat = self.tat(request, &found, now);
            let needed = match request.rate.charge(tat, now, request.cost) {
                Ok(needed) => needed,
                Err(retry) => return Ok((denied(request, tat, now, retry), None)),
            };
            let extra = self.leases.size(request, needed, now);
            let end = needed.saturating_add(extra);
            let evicts = found.evicts;
            let start = needed.saturating_sub(request.rate.time_of(request.cost));
            // The charge may begin in what is left of the last lease, which no other request may spend
            // meanwhile.
            let left = self.leases.take_out(request);
            let written = request.table.write(store, request.hash, found, end);
            if !matches!(written, Ok(true)) {
                self.leases.put_back(request, left);
            }
            if written? {
                if evicts {
                    self.note(|stats| &mut stats.evicted);
                }
                if let Some(place) = self.leases.place(request) {
                    place.set(Lease {
                        hash: request.hash,
                        next: needed,
                        end,
                        extra,
                        taken_at: now,
                        denied_tat: 0,
                    });
                }
                let receipt = request.refundable.then_some(Receipt { start, end });
                let snapshot = Snapshot { receipt, ..snapshot(request, needed, now, Verdict::Admitted) };
                return Ok((snapshot, Some(Charge::Shared(start))));
            }
            self.note(|stats| &mut stats.conflicts);
            found = find(store, request, now)?;
        }
        let tat = self.tat(request, &found, now);
        Ok((snapshot(request, tat, now, Verdict::Conflict), None))
    }

    /// Undoes a charge, unless the rest of its lease was spent meanwhile.
    fn undo(&self, store: &impl SharedStore, request: &ChargeRequest, charge: &Charge, now: u64) {
        self.note(|stats| &mut stats.undone);
        let Some(lease) = self.leases.known(request) else { return };
        let undone = match *charge {
            Charge::Leased { before, after } => (lease.next == after).then_some(before),
            Charge::Shared(start) => {
                let after = start.saturating_add(request.rate.time_of(request.cost));
                (lease.next == after).then_some(start)
            }
        };
        let Some(next) = undone else { return };
        self.leases.take_out(request);
        let returned = matches!(charge, Charge::Shared(_))
            && give_back(store, request, Receipt { start: next, end: lease.end }, now);
        let Some(place) = self.leases.place(request) else { return };
        if place.get() == lease.spent() {
            place.set(if returned { Lease::default() } else { Lease { next, ..lease } });
        }
    }

    /// Gives a charge back, long after it was made. If the key was charged again meanwhile, the charge stays,
    /// since its stretch is no longer the last one.
    pub fn refund(&self, store: &impl SharedStore, request: &ChargeRequest, receipt: Receipt, now: u64) {
        if give_back(store, request, receipt, now) {
            self.note(|stats| &mut stats.refunded);
        }
    }

    /// The key's TAT as this worker sees it now.
    fn tat(&self, request: &ChargeRequest, found: &Found, now: u64) -> u64 {
        // If nobody has charged the key since this worker's lease, what is left of the lease is not lost.
        let own = self.leases.known(request).filter(|lease| lease.end == found.tat);
        // No charge of this limit moves a TAT further ahead.
        own.map_or(found.tat, |lease| lease.next).min(now.saturating_add(request.rate.tolerance()))
    }

    /// The snapshot as this worker knows it, without what other workers have taken since its lease.
    fn held(&self, request: &ChargeRequest, now: u64, verdict: Verdict) -> Snapshot {
        snapshot(request, self.leases.known(request).map_or(0, |lease| lease.start(now)), now, verdict)
    }
}

fn find(store: &impl SharedStore, request: &ChargeRequest, now: u64) -> Result<Found, HostError> {
    request.table.find(store, request.hash, now, request.on_full)
}

/// Sets the TAT back to the start of a charge. If the TAT is still at the end of that charge, nobody has
/// charged the key since, and no trace is left. Otherwise others were granted what comes after this stretch,
/// and lowering the TAT would grant the end of their time twice.
fn give_back(store: &impl SharedStore, request: &ChargeRequest, receipt: Receipt, now: u64) -> bool {
    let found = find(store, request, now).ok();
    found
        .filter(|found| found.tat == receipt.end)
        .is_some_and(|found| request.table.write(store, request.hash, found, receipt.start).unwrap_or(false))
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
