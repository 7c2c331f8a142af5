//! Leases: what one worker remembers of busy keys, in a fixed number of places.

use std::cell::Cell;

use crate::limits::charge::ChargeRequest;
use crate::limits::slots::KeyHash;

/// The number of keys whose leases and denials a worker remembers, beside those of limits without a key.
const REMEMBERED: usize = 512;
/// The number of places that a key may have among them. With only one, two busy keys of the same place would
/// take it from each other at every request.
pub(super) const WAYS: usize = 4;

/// What a worker remembers of a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Lease {
    pub(super) hash: KeyHash,
    /// The start of the stretch of virtual time that is left.
    pub(super) next: u64,
    /// The end of the stretch.
    pub(super) end: u64,
    /// How much was leased beyond need.
    pub(super) extra: u64,
    /// When the lease was taken, or when the key was first denied.
    pub(super) taken_at: u64,
    /// A TAT with which the key was denied.
    pub(super) denied_tat: u64,
}

impl Lease {
    pub(super) fn start(&self, now: u64) -> u64 {
        self.next.max(now)
    }

    pub(super) fn holds(&self, need: u64, now: u64) -> bool {
        self.end >= self.start(now).saturating_add(need)
    }

    /// The same lease with nothing left of its stretch.
    pub(super) fn spent(self) -> Self {
        Self { next: self.end, ..self }
    }
}

/// The leases of one worker.
#[derive(Debug, Clone)]
pub(super) struct Leases {
    places: Vec<Cell<Lease>>,
    singles: usize,
    longest: u64,
}

impl Leases {
    /// Places for `singles` limits without a key, and for [`REMEMBERED`] keys. No lease is longer than
    /// `longest` nanoseconds.
    pub(super) fn new(singles: usize, longest: u64) -> Self {
        Self { places: vec![Cell::default(); singles.saturating_add(REMEMBERED)], singles, longest }
    }

    /// Takes what a request needs from the lease, if there is enough. Returns where the stretch began before
    /// and after.
    pub(super) fn take(&self, request: &ChargeRequest, now: u64) -> Option<(u64, u64)> {
        let need = request.rate.time_of(request.cost);
        let place = self.place(request)?;
        let lease = place.get();
        if lease.hash != request.hash || !lease.holds(need, now) {
            return None;
        }
        let (before, after) = (lease.next, lease.start(now).saturating_add(need));
        place.set(Lease { next: after, ..lease });
        Some((before, after))
    }

    /// The lease of this key.
    pub(super) fn known(&self, request: &ChargeRequest) -> Option<Lease> {
        self.place(request).map(Cell::get).filter(|lease| lease.hash == request.hash)
    }

    /// The place where the key is remembered, or would be: then that of the key whose lease is the oldest.
    pub(super) fn place(&self, request: &ChargeRequest) -> Option<&Cell<Lease>> {
        let place = request.single.unwrap_or_else(|| {
            // The lowest bit of a tag is always set.
            let set = (request.hash.tag >> 1).checked_rem((REMEMBERED / WAYS) as u64);
            let set = usize::try_from(set.unwrap_or_default()).unwrap_or_default();
            let first = self.singles.saturating_add(set.saturating_mul(WAYS));
            let places = || self.places.iter().enumerate().skip(first).take(WAYS);
            let own = places().find(|(_, lease)| lease.get().hash == request.hash);
            own.or_else(|| places().min_by_key(|(_, lease)| lease.get().taken_at))
                .map_or(first, |(place, _)| place)
        });
        self.places.get(place)
    }

    /// Takes out what is left of the key's lease.
    pub(super) fn take_out(&self, request: &ChargeRequest) -> Option<Lease> {
        let place = self.place(request)?;
        let lease = place.get();
        (lease.hash == request.hash).then(|| {
            place.set(lease.spent());
            lease
        })
    }

    /// Puts back what was taken out, unless something else has taken the place meanwhile.
    pub(super) fn put_back(&self, request: &ChargeRequest, lease: Option<Lease>) {
        if let (Some(lease), Some(place)) = (lease, self.place(request))
            && place.get() == lease.spent()
        {
            place.set(lease);
        }
    }

    /// The size of the next lease, beyond what the request needs: twice the time since the last lease, or
    /// twice the last lease if that was used up early; capped at the longest lease and an eighth of what is
    /// left.
    pub(super) fn size(&self, request: &ChargeRequest, needed: u64, now: u64) -> u64 {
        let Some(last) = self.known(request).filter(|_| !request.refundable) else { return 0 };
        let wish = match now.saturating_sub(last.taken_at) {
            // A lease lasts for as much time as it holds. One shorter than the time between two requests
            // serves none.
            since if since <= self.longest => last.extra.max(since).saturating_mul(2),
            since if since <= self.longest.saturating_mul(2) => last.extra,
            _ => return 0,
        };
        let interval = request.rate.interval();
        let room = now.saturating_add(request.rate.tolerance()).saturating_sub(needed);
        let extra = wish.max(interval).min(self.longest).min(room / 8);
        // Whole intervals only, since a part of one admits no request.
        extra.checked_div(interval).unwrap_or_default().saturating_mul(interval)
    }

    /// All places, for the model.
    #[cfg(test)]
    pub(super) fn places(&self) -> impl Iterator<Item = &Cell<Lease>> {
        self.places.iter()
    }

    /// Removes the places of keys, so that the model has fewer states.
    #[cfg(test)]
    pub(super) fn keep_singles(&mut self) {
        self.places.truncate(self.singles);
    }
}
