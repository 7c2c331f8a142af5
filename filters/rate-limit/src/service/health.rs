//! What a worker knows about the rate limit service: whether it answers, and which keys are over their limit.
//! Times are in nanoseconds.

use std::cell::Cell;

use crate::limits::slots::KeyHash;

/// The number of consecutive failures after which the circuit breaker opens.
const FAILURES: u32 = 5;
const FIRST_PAUSE: u64 = 1_000_000_000;
const LONGEST_PAUSE: u64 = 30_000_000_000;

/// A circuit breaker. After some consecutive failures, only one request per pause asks the service. If that
/// one fails too, the pause doubles; an answer closes the breaker.
#[derive(Debug, Clone, Copy, Default)]
pub struct Breaker {
    failures: u32,
    /// 0 while the breaker is closed.
    pause: u64,
    next_try: u64,
    trying: bool,
}

impl Breaker {
    /// Whether a request may ask now.
    pub fn lets(&self, now: u64) -> bool {
        self.pause == 0 || now >= self.next_try
    }

    /// Notes that a request asks the service.
    pub fn asked(&mut self, now: u64) {
        self.trying = self.pause != 0;
        self.next_try = now.saturating_add(self.pause);
    }

    /// Notes an answer. Returns `true` if it closes the breaker.
    pub fn answered(&mut self) -> bool {
        let ends = self.pause != 0;
        *self = Self::default();
        ends
    }

    /// Notes a failure. Returns `true` if it opens the breaker.
    pub fn failed(&mut self, now: u64) -> bool {
        if self.pause == 0 {
            self.failures = self.failures.saturating_add(1);
            if self.failures < FAILURES {
                return false;
            }
            self.pause = FIRST_PAUSE;
        } else if std::mem::take(&mut self.trying) {
            self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
        } else {
            // The call began before the pause, so its failure is nothing new.
            return false;
        }
        self.next_try = now.saturating_add(self.pause);
        self.pause == FIRST_PAUSE
    }
}

/// The number of keys that are remembered to be over their limit.
const REMEMBERED: usize = 512;

/// Keys that the service has found over their limit, each until its window ends. A key may take the place of
/// another one. Then the service is asked about the other key once more.
#[derive(Debug)]
pub struct OverLimits(Vec<Cell<(KeyHash, u64)>>);

impl Default for OverLimits {
    fn default() -> Self {
        Self(vec![Cell::default(); REMEMBERED])
    }
}

impl OverLimits {
    /// The time for which the key is still over its limit.
    pub fn wait(&self, key: KeyHash, now: u64) -> Option<u64> {
        let (known, until) = self.0.get(place(key))?.get();
        until.checked_sub(now).filter(|wait| known == key && *wait > 0)
    }

    /// Notes that the key is over its limit until this time.
    pub fn note(&self, key: KeyHash, until: u64) {
        if let Some(place) = self.0.get(place(key)) {
            place.set((key, until));
        }
    }
}

fn place(key: KeyHash) -> usize {
    usize::try_from(key.place.checked_rem(REMEMBERED as u64).unwrap_or_default()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn broken() -> Breaker {
        let mut breaker = Breaker::default();
        assert_eq!([(); 5].map(|()| breaker.failed(0)), [false, false, false, false, true]);
        breaker
    }

    #[test]
    fn open_breaker_lets_one_request_a_pause_ask() {
        let mut breaker = broken();
        let mut asked = Vec::new();
        for now in (0..200 * SECOND).step_by(100_000_000) {
            if breaker.lets(now) {
                breaker.asked(now);
                asked.push(now / SECOND);
                assert!(!breaker.lets(now));
                assert!(!breaker.failed(now + 20_000_000));
            }
        }
        assert_eq!(asked, [1, 3, 7, 15, 31, 61, 91, 121, 151, 181]);
    }

    #[test]
    fn answer_closes_the_breaker() {
        let mut breaker = broken();
        assert!(breaker.lets(SECOND));
        assert!(breaker.answered());
        assert!(breaker.lets(SECOND));
        assert!(!breaker.answered());
        // Only consecutive failures count.
        for _ in 0..20 {
            assert!(!breaker.failed(SECOND));
            breaker.answered();
        }
        assert!(breaker.lets(SECOND));
    }

    #[test]
    fn probe_without_any_result_is_followed_by_another() {
        let mut breaker = broken();
        assert!(breaker.lets(SECOND));
        breaker.asked(SECOND);
        assert!(!breaker.lets(2 * SECOND - 1));
        assert!(breaker.lets(2 * SECOND));
    }

    #[test]
    fn noted_key_is_over_its_limit_until_its_window_ends() {
        let over = OverLimits::default();
        let key = |n| KeyHash { place: n, tag: 1 };
        over.note(key(7), 100);
        assert_eq!(over.wait(key(7), 40), Some(60));
        assert_eq!(over.wait(key(7), 100), None);
        assert_eq!(over.wait(key(7 + 512), 40), None);
        over.note(key(7 + 512), 100);
        assert_eq!(over.wait(key(7), 40), None);
    }

    proptest! {
        /// Whatever the order of answers and failures, the service is asked again within the longest pause.
        #[test]
        fn any_history_service_is_asked_again_within_the_longest_pause(
            steps in prop::collection::vec((0_u64..10 * SECOND, any::<bool>()), 0..60),
        ) {
            let (mut breaker, mut now) = (Breaker::default(), 0);
            for (pause, answers) in steps {
                now += pause;
                if breaker.lets(now) {
                    breaker.asked(now);
                    if answers { breaker.answered() } else { breaker.failed(now) };
                }
            }
            prop_assert!(breaker.lets(now + LONGEST_PAUSE));
        }
    }
}
