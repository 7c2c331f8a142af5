//! The generic cell rate algorithm, in whole nanoseconds.
//!
//! A key has one number, its theoretical arrival time (TAT): the time until which the requests that it was
//! granted last at the limit's pace. A request moves the TAT by one interval from where it stands, or from
//! now if that is later. The request is admitted if the TAT is then at most `burst` intervals ahead. So each
//! admitted request owns a stretch of one interval that lies between the time of its admission and `burst`
//! intervals later, and no two stretches overlap: any span of time `t` admits at most `burst + floor(t *
//! requests / per)` requests.

use std::time::Duration;

/// The rate of a limit: how many requests a key may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    requests: u32,
    per: Duration,
    burst: u32,
    interval: u64,
}

/// When a request that is denied now would be admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// At this time, not a nanosecond earlier, if nothing else is charged until then.
    At(u64),
    /// Never: the request costs more than the burst, or the burst is 0.
    Never,
}

/// The longest window. It is bounded so that no sum of times overflows.
const LONGEST: Duration = Duration::from_hours(366 * 24);

/// A time or a duration in nanoseconds, the unit of this crate. A duration that is too long for the type
/// becomes the longest.
pub fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Rate {
    /// `requests` in each `per`, and `burst` of them at once.
    ///
    /// # Errors
    /// The numbers do not make a rate; the text says why.
    pub fn new(requests: u32, per: Duration, burst: u32) -> Result<Self, String> {
        let nanos = nanoseconds(per);
        if per.is_zero() || per > LONGEST {
            return Err("expected a window from `1ms` to `366d`".to_owned());
        }
        if (requests == 0) != (burst == 0) {
            return Err(
                "`requests` and `burst` must both be 0, which denies everything, or neither".to_owned()
            );
        }
        if u64::from(requests) > nanos {
            return Err(format!("expected at most {nanos} requests, one a nanosecond"));
        }
        // Rounded up, so that the rate is at most what is configured. The difference is below a nanosecond a
        // request.
        let interval = nanos.div_ceil(u64::from(requests.max(1)));
        let rate = Self { requests, per, burst, interval };
        if Duration::from_nanos(rate.tolerance()) > LONGEST {
            return Err("expected a `burst` that refills within `366d`".to_owned());
        }
        Ok(rate)
    }

    /// How many requests may be made in each [`Rate::per`].
    pub fn requests(&self) -> u32 {
        self.requests
    }

    /// The window.
    pub fn per(&self) -> Duration {
        self.per
    }

    /// The time that one request uses up, in nanoseconds.
    pub fn interval(&self) -> u64 {
        self.interval
    }

    /// How far a TAT may lie ahead: the time in which the whole burst refills, in nanoseconds.
    pub fn tolerance(&self) -> u64 {
        self.interval.saturating_mul(u64::from(self.burst))
    }

    /// The time that `cost` requests use up, in nanoseconds.
    pub fn time_of(&self, cost: u64) -> u64 {
        self.interval.saturating_mul(cost)
    }

    /// How many requests may be made at once after a pause.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// The TAT after a request of this cost at `now`.
    ///
    /// # Errors
    /// The request is denied, and nothing is charged. A burst of 0 also denies requests that are free.
    pub fn charge(&self, tat: u64, now: u64, cost: u64) -> Result<u64, Retry> {
        let need = self.time_of(cost);
        let charged = tat.max(now).saturating_add(need);
        if cost > u64::from(self.burst) || self.burst == 0 {
            Err(Retry::Never)
        } else if charged > now.saturating_add(self.tolerance()) {
            Err(Retry::At(tat.saturating_add(need).saturating_sub(self.tolerance())))
        } else {
            Ok(charged)
        }
    }

    /// How many requests would be admitted at `now`.
    pub fn remaining(&self, tat: u64, now: u64) -> u64 {
        let room = now.saturating_add(self.tolerance()).saturating_sub(tat.max(now));
        room.checked_div(self.interval).unwrap_or_default()
    }

    /// The definition as bytes. It goes into the hash of a key, so that rates that differ share no state.
    pub fn definition(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        let (requests, rest) = bytes.split_at_mut(4);
        let (burst, per) = rest.split_at_mut(4);
        requests.copy_from_slice(&self.requests.to_le_bytes());
        burst.copy_from_slice(&self.burst.to_le_bytes());
        per.copy_from_slice(&self.per.as_nanos().to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    fn rate(requests: u32, per: Duration, burst: u32) -> Rate {
        Rate::new(requests, per, burst).unwrap()
    }

    /// Runs requests at these milliseconds against one key: `A` for each admitted, `D` for each denied.
    fn run(rate: Rate, at: &[u64]) -> String {
        let mut tat = 0;
        let verdict = |ms: &u64| match rate.charge(tat, ms * MS + 1_000 * MS, 1) {
            Ok(charged) => {
                tat = charged;
                'A'
            }
            Err(_) => 'D',
        };
        at.iter().map(verdict).collect()
    }

    #[test]
    fn known_sequences() {
        let ms = Duration::from_millis;
        assert_eq!(run(rate(1, ms(200), 1), &[0, 0, 0, 200, 200, 600, 600]), "ADDADAD");
        assert_eq!(run(rate(1, ms(200), 2), &[0, 0, 0, 200, 200]), "AADAD");
        // Two each 200 ms: a bucket that is filled in steps denies at 0 and refills both at 200; this one
        // refills one at 100 and the other at 200.
        assert_eq!(run(rate(2, ms(200), 2), &[0, 0, 0, 100, 100, 200, 200, 400, 400, 400]), "AADADADAAD");
        assert_eq!(run(rate(0, ms(200), 0), &[0, 1_000_000]), "DD");
        assert_eq!(run(rate(1, ms(2_000), 1), &[0, 500, 1_500, 2_000]), "ADDA");
    }

    #[test]
    fn known_sequence_of_costs() {
        let rate = rate(10, Duration::from_secs(1), 10);
        let mut tat = 0;
        let mut ask = |ms: u64, cost: u64| match rate.charge(tat, ms * MS, cost) {
            Ok(charged) => {
                tat = charged;
                true
            }
            Err(_) => false,
        };
        let asked = [(20, false), (9, true), (1, true)].map(|(cost, admitted)| (0, cost, admitted));
        // A tenth of a second refills one, where a bucket that is filled each second still denies at 999 ms.
        let later = [(99, 1, false), (999, 9, true), (5_999, 11, false), (6_000, 6, true), (6_000, 5, false)];
        for (ms, cost, admitted) in asked.into_iter().chain(later) {
            assert_eq!(ask(ms, cost), admitted, "{cost} at {ms}");
        }
    }

    #[test]
    fn invalid_rates_are_refused() {
        let second = Duration::from_secs(1);
        assert!(Rate::new(1, Duration::ZERO, 1).is_err());
        assert!(Rate::new(1, Duration::from_hours(366 * 24), 1).is_ok());
        assert!(Rate::new(1, Duration::from_hours(366 * 24) + Duration::from_millis(1), 1).is_err());
        assert!(Rate::new(0, second, 1).is_err());
        assert!(Rate::new(1, second, 0).is_err());
        assert!(Rate::new(1, Duration::from_hours(24), 367).is_err());
        assert!(Rate::new(2_000_000, Duration::from_millis(1), 1).is_err());
        assert!(Rate::new(1_000_000, Duration::from_millis(1), 1).is_ok());
    }

    proptest! {
        /// The formula, over every window of a random sequence of requests.
        #[test]
        fn no_window_admits_more_than_burst_and_refill(
            requests in 1_u32..50, per in 1_u64..2_000, burst in 1_u32..20,
            steps in prop::collection::vec((0_u64..100 * MS, 1_u64..4), 1..200),
        ) {
            let rate = rate(requests, Duration::from_millis(per), burst);
            let (mut tat, mut now, mut admitted) = (0, 5_000 * MS, Vec::new());
            for (pause, cost) in steps {
                now += pause;
                if let Ok(charged) = rate.charge(tat, now, cost) {
                    tat = charged;
                    admitted.push((now, cost));
                }
            }
            for (first, (from, _)) in admitted.iter().enumerate() {
                let mut sum = 0;
                for (until, cost) in &admitted[first..] {
                    sum += cost;
                    let refill = u128::from(until - from) * u128::from(requests) / u128::from(per * MS);
                    prop_assert!(u128::from(sum) <= u128::from(burst) + refill);
                }
            }
        }

        /// Denied a nanosecond before the time that it names, admitted at it.
        #[test]
        fn retry_is_exact(
            requests in 1_u32..1_000, per in 1_u64..100_000, burst in 1_u32..50, cost in 1_u64..60, ahead in 0.0..1.0_f64,
        ) {
            let rate = rate(requests, Duration::from_millis(per), burst);
            let now = 1_000_000 * MS;
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let tat = now + (rate.tolerance() as f64 * ahead) as u64;
            match rate.charge(tat, now, cost) {
                Ok(charged) => prop_assert!(charged <= now + rate.tolerance()),
                Err(Retry::Never) => prop_assert!(cost > u64::from(burst)),
                Err(Retry::At(at)) => {
                    prop_assert!(at > now);
                    prop_assert!(rate.charge(tat, at - 1, cost).is_err());
                    prop_assert!(rate.charge(tat, at, cost).is_ok());
                }
            }
        }

        /// The crate governor as an oracle, where an interval is a whole number of nanoseconds (it rounds
        /// others down).
        #[test]
        fn verdicts_equal_those_of_governor(
            interval in 1_u64..100_000_000, burst in 1_u32..50,
            steps in prop::collection::vec((0_u64..200_000_000, 1_u32..4), 1..200),
        ) {
            use governor::{Quota, RateLimiter, clock::FakeRelativeClock};
            let burst_cells = std::num::NonZeroU32::new(burst).unwrap();
            let quota = Quota::with_period(Duration::from_nanos(interval)).unwrap().allow_burst(burst_cells);
            let clock = FakeRelativeClock::default();
            let oracle = RateLimiter::direct_with_clock(quota, clock.clone());
            let rate = Rate::new(1, Duration::from_nanos(interval), burst).unwrap();
            let (mut tat, mut now) = (0, 5_000 * MS);
            for (pause, cost) in steps {
                now += pause;
                clock.advance(Duration::from_nanos(pause));
                let charged = rate.charge(tat, now, cost.into());
                tat = charged.unwrap_or(tat);
                let cells = std::num::NonZeroU32::new(cost).unwrap();
                prop_assert_eq!(charged.is_ok(), matches!(oracle.check_n(cells), Ok(Ok(()))));
            }
        }

        /// What is said to remain is what is admitted.
        #[test]
        fn remaining_is_true(requests in 1_u32..1_000, burst in 1_u32..50, ahead in 0_u64..100_000) {
            let rate = rate(requests, Duration::from_mins(1), burst);
            let now = 1_000_000 * MS;
            let tat = now + ahead * MS;
            let remaining = rate.remaining(tat, now);
            prop_assert!(remaining == 0 || rate.charge(tat, now, remaining).is_ok());
            prop_assert!(rate.charge(tat, now, remaining + 1).is_err());
        }
    }
}
