//! Counts on their way to the host: at once while they are few, as a sum at the next tick while they are many.
//!
//! A count costs a host call, for every request and counter. A proxy that serves thousands of requests a second has no
//! use for that: whoever reads its statistics does so every few seconds. One that serves a few shows each at once.

/// So many counts of a counter are told at once between two ticks.
const AT_ONCE: u8 = 10;

/// The counters of a module.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// The number of the counter of each name, in the order of names: the host gives another ID each time that one is
    /// defined, and keeps them all.
    names: Vec<(Box<str>, usize)>,
    counters: Vec<Count>,
    ticks: bool,
}

/// What the host is to be told: the counter's ID there, and how many.
pub(crate) type Told = (u32, u32);

#[derive(Debug)]
struct Count {
    id: u32,
    at_once: u8,
    pending: u32,
}

impl Counts {
    /// No counters, and no ticks yet.
    pub(crate) const fn new() -> Self {
        Self { names: Vec::new(), counters: Vec::new(), ticks: false }
    }

    /// The number of the counter `name`, if it is known.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.position(name).ok().and_then(|at| self.names.get(at)).map(|(_, number)| *number)
    }

    /// The number of the counter `name`, which has this ID at the host unless it is known already.
    pub(crate) fn insert(&mut self, name: &str, id: u32) -> usize {
        if let Some(known) = self.find(name) {
            return known;
        }
        let number = self.counters.len();
        self.counters.push(Count { id, at_once: AT_ONCE, pending: 0 });
        let (Ok(at) | Err(at)) = self.position(name);
        self.names.insert(at, (name.into(), number));
        number
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.names.binary_search_by(|(known, _)| (**known).cmp(name))
    }

    /// Says that [`Counts::tick`] will be called from now on. Before, nothing is held back.
    pub(crate) fn expect_ticks(&mut self) {
        self.ticks = true;
    }

    /// Whether [`Counts::tick`] will be called.
    pub(crate) fn expects_ticks(&self) -> bool {
        self.ticks
    }

    /// Counts `n`. Returns what is to be told at once.
    pub(crate) fn add(&mut self, number: usize, n: u32) -> Option<Told> {
        let count = self.counters.get_mut(number)?;
        match count.at_once.checked_sub(1) {
            Some(left) => count.at_once = left,
            None if self.ticks => {
                count.pending = count.pending.saturating_add(n);
                return None;
            }
            None => {}
        }
        Some((count.id, n))
    }

    /// What was held back since the last tick. Filters define how many requests they let through first, so it is told last:
    /// who sees a request in that count sees all that was counted about it.
    pub(crate) fn tick(&mut self) -> Vec<Told> {
        let mut told = Vec::new();
        for count in self.counters.iter_mut().rev() {
            count.at_once = AT_ONCE;
            if count.pending > 0 {
                told.push((count.id, std::mem::take(&mut count.pending)));
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn few_are_told_at_once_and_more_at_the_next_tick() {
        let mut counts = Counts::new();
        let a = counts.insert("a", 5);
        assert!(!counts.expects_ticks());
        counts.expect_ticks();
        assert!(counts.expects_ticks());
        for round in 0..2 {
            for n in 1..=10 {
                assert_eq!(counts.add(a, n), Some((5, n)), "round {round}");
            }
            assert_eq!((counts.add(a, 3), counts.add(a, 4)), (None, None));
            assert_eq!(counts.tick(), [(5, 7)]);
        }
        assert_eq!(counts.tick(), []);
    }

    #[test]
    fn what_was_defined_first_is_told_last() {
        let mut counts = Counts::new();
        let numbers = [1, 2, 3].map(|id| counts.insert(&id.to_string(), id));
        counts.expect_ticks();
        for n in 0..12 {
            for number in numbers {
                assert_eq!(counts.add(number, 1).is_some(), n < 10);
            }
        }
        assert_eq!(counts.tick(), [(3, 2), (2, 2), (1, 2)]);
    }

    #[test]
    fn a_name_has_one_counter() {
        let mut counts = Counts::new();
        assert_eq!(counts.find("a"), None);
        let (b, a) = (counts.insert("b", 2), counts.insert("a", 1));
        assert_ne!(a, b);
        assert_eq!((counts.find("a"), counts.find("b"), counts.find("c")), (Some(a), Some(b), None));
        assert_eq!(counts.insert("a", 3), a);
        assert_eq!(counts.add(a, 1), Some((1, 1)));
    }

    #[test]
    fn a_sum_does_not_overflow() {
        let mut counts = Counts::new();
        let a = counts.insert("a", 1);
        counts.expect_ticks();
        for _ in 0..12 {
            counts.add(a, u32::MAX);
        }
        assert_eq!(counts.tick(), [(1, u32::MAX)]);
    }

    proptest! {
        /// Nothing is lost and nothing counted twice, and without ticks nothing is held back.
        #[test]
        fn all_is_told(adds in prop::collection::vec((0_usize..3, 0_u32..5, any::<bool>()), 0..200), ticks: bool) {
            let mut counts = Counts::new();
            let numbers = [7, 8, 9].map(|id| counts.insert(&id.to_string(), id));
            if ticks {
                counts.expect_ticks();
            }
            let (mut told, mut expected) = ([0; 3], [0; 3]);
            let mut tell = |(id, n): Told| told[id as usize - 7] += n;
            for (at, n, tick) in adds {
                let now = counts.add(numbers[at], n);
                prop_assert!(ticks || now.is_some());
                now.into_iter().for_each(&mut tell);
                expected[at] += n;
                if tick && ticks {
                    counts.tick().into_iter().for_each(&mut tell);
                }
            }
            counts.tick().into_iter().for_each(&mut tell);
            prop_assert_eq!(told, expected);
        }
    }
}
