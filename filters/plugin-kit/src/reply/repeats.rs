//! Lines of the proxy's log that many requests would write, summed up: no client can flood the log.

use std::cell::{Cell, RefCell};
use std::time::Duration;

/// How long repetitions are counted before they are summed up.
pub const PERIOD: Duration = Duration::from_mins(1);

/// The most kinds of lines that are told apart in one period.
const MOST_KINDS: usize = 64;

/// What was written in the current period. The first line of each kind is written at once, and at the end of the period
/// one line says how many more there were.
#[derive(Debug)]
pub struct Repeats<K> {
    /// Each kind, and how many lines of it were left out.
    seen: RefCell<Vec<(K, u32)>>,
    /// How many lines were left out whose kind found no place.
    others: Cell<u32>,
    since: Cell<Option<Duration>>,
}

impl<K> Default for Repeats<K> {
    fn default() -> Self {
        Self { seen: RefCell::default(), others: Cell::default(), since: Cell::default() }
    }
}

/// What a period left out.
#[derive(Debug, PartialEq, Eq)]
pub struct LeftOut<K> {
    /// The kinds of which lines were left out, and how many.
    pub kinds: Vec<(K, u32)>,
    /// How many lines of further kinds were left out.
    pub others: u32,
}

impl<K: PartialEq> Repeats<K> {
    /// Whether a line of this kind is to be written now. Otherwise it is counted.
    pub fn is_first(&self, kind: &K) -> bool
    where
        K: Clone,
    {
        let mut seen = self.seen.borrow_mut();
        if let Some((_, left_out)) = seen.iter_mut().find(|(known, _)| known == kind) {
            *left_out = left_out.saturating_add(1);
            return false;
        }
        if seen.len() >= MOST_KINDS {
            self.others.set(self.others.get().saturating_add(1));
            return false;
        }
        seen.push((kind.clone(), 0));
        true
    }

    /// Ends a period that has lasted long enough. To be called in each tick, with the time if something was written:
    /// `now` is asked only then.
    pub fn tick(&self, now: impl FnOnce() -> Option<Duration>) -> LeftOut<K> {
        let nothing = || LeftOut { kinds: Vec::new(), others: 0 };
        if self.seen.borrow().is_empty() {
            return nothing();
        }
        let Some(now) = now() else { return nothing() };
        let Some(since) = self.since.get() else {
            self.since.set(Some(now));
            return nothing();
        };
        if now.saturating_sub(since) < PERIOD {
            return nothing();
        }
        self.since.set(None);
        let mut kinds = self.seen.take();
        kinds.retain(|(_, left_out)| *left_out > 0);
        LeftOut { kinds, others: self.others.take() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(repeats: &Repeats<u32>, seconds: u64) -> (Vec<(u32, u32)>, u32) {
        let LeftOut { kinds, others } = repeats.tick(|| Some(Duration::from_secs(seconds)));
        (kinds, others)
    }

    #[test]
    fn first_line_is_written_and_repetitions_are_counted_for_a_period() {
        let repeats = Repeats::default();
        assert!(repeats.is_first(&1) && repeats.is_first(&2));
        assert!(!repeats.is_first(&1) && !repeats.is_first(&1));
        assert_eq!(tick(&repeats, 100), (vec![], 0), "the period begins");
        assert!(!repeats.is_first(&1));
        assert_eq!(tick(&repeats, 159), (vec![], 0));
        assert_eq!(tick(&repeats, 160), (vec![(1, 3)], 0));
        assert!(repeats.is_first(&1), "a new period has a first line");
        assert_eq!(tick(&repeats, 161), (vec![], 0));
        assert_eq!(tick(&repeats, 221), (vec![], 0));
        assert!(repeats.is_first(&1));
    }

    #[test]
    fn clock_is_not_asked_where_nothing_was_written() {
        let repeats = Repeats::<u32>::default();
        repeats.tick(|| panic!("nothing was written"));
        assert!(repeats.is_first(&1));
        assert_eq!(repeats.tick(|| None), LeftOut { kinds: vec![], others: 0 });
    }

    #[test]
    fn kinds_without_end_take_no_memory_without_end() {
        let repeats = Repeats::default();
        let written = (0..1_000).filter(|kind| repeats.is_first(kind)).count();
        assert_eq!(written, MOST_KINDS);
        assert_eq!(repeats.seen.borrow().len(), MOST_KINDS);
        tick(&repeats, 0);
        assert_eq!(tick(&repeats, 60), (vec![], 1_000 - 64));
        assert!(repeats.is_first(&999));
    }
}
