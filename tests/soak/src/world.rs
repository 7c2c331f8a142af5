//! What happened around the proxy and when: from it follows what a request may have met.

use std::time::Duration;

use crate::plan::{FETCH_TIMEOUT, REFRESH, STALE, Settings, UNKNOWN_KID};

/// How late a busy machine may be with a tick, a fetch or a delivery.
pub const LAG: Duration = Duration::from_secs(4);
/// The longest pause of a filter after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Times are those since the start of the soak.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// Versions in the order in which they were delivered.
    pub versions: Vec<Delivered>,
    /// What the issuer had in its key set.
    pub keys: Facts<Vec<&'static str>>,
    /// When the issuer answered with other than keys, or late.
    pub issuer: Troubles,
    /// Whom the list of revoked subjects named.
    pub revoked: Facts<Vec<usize>>,
    /// When that list was not to be had.
    pub list: Troubles,
    /// When the rate limit service did not answer.
    pub limits: Troubles,
}

/// A version of the configuration.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// What it says.
    pub settings: Settings,
    /// When it was first written.
    pub written: Duration,
    /// When the proxy had taken all of it.
    pub taken: Option<Duration>,
}

impl World {
    /// The versions that may have decided about a request from `sent` to `done`.
    pub fn versions(&self, sent: Duration, done: Duration) -> impl Iterator<Item = &Settings> {
        self.versions.iter().enumerate().filter_map(move |(n, delivered)| {
            let replaced = self.versions.get(n + 1).and_then(|next| next.taken);
            let gone = replaced.is_some_and(|taken| taken + LAG < sent);
            (delivered.written <= done && !gone).then_some(&delivered.settings)
        })
    }

    /// The settings of a version that was delivered.
    pub fn settings(&self, version: u32) -> Option<&Settings> {
        self.versions.iter().map(|delivered| &delivered.settings).find(|s| s.version == version)
    }

    /// Whether a filter may hold this key of the remote issuer.
    pub fn key_possible(&self, key: &str, sent: Duration, done: Duration) -> bool {
        let oldest = sent.saturating_sub(REFRESH + STALE + FETCH_TIMEOUT + LAG);
        self.keys.between(oldest, done).any(|keys| keys.contains(&key))
    }

    /// Whether every filter has this key, or gets it when it asks.
    pub fn key_certain(&self, key: &str, sent: Duration, done: Duration) -> bool {
        let since = sent.saturating_sub(UNKNOWN_KID + FETCH_TIMEOUT + LAG);
        self.keys.between(since, done).all(|keys| keys.contains(&key))
    }

    /// Whether a filter may have this user's revocation on its list.
    pub fn revoked_possible(&self, user: usize, sent: Duration, done: Duration) -> bool {
        let oldest = sent.saturating_sub(REFRESH + STALE + FETCH_TIMEOUT + LAG);
        self.revoked.between(oldest, done).any(|users| users.contains(&user))
    }

    /// Whether every list that a filter may use names this user.
    pub fn revoked_certain(&self, user: usize, sent: Duration, done: Duration) -> bool {
        let oldest = sent.saturating_sub(REFRESH + STALE + FETCH_TIMEOUT + LAG);
        self.revoked.between(oldest, done).all(|users| users.contains(&user))
    }
}

/// Something that changed from time to time.
#[derive(Debug, Clone)]
pub struct Facts<T>(Vec<(Duration, T)>);

impl<T> Default for Facts<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Facts<T> {
    /// It is so from now on.
    pub fn set(&mut self, now: Duration, value: T) {
        self.0.push((now, value));
    }

    /// What it is.
    pub fn latest(&self) -> Option<&T> {
        self.0.last().map(|(_, value)| value)
    }

    /// What it was at some time in between.
    pub fn between(&self, from: Duration, to: Duration) -> impl Iterator<Item = &T> {
        self.0.iter().enumerate().filter_map(move |(n, (since, value))| {
            let until = self.0.get(n + 1).map(|(next, _)| *next);
            (*since <= to && until.is_none_or(|until| until >= from)).then_some(value)
        })
    }
}

/// Times in which a server did not answer as it should.
#[derive(Debug, Clone, Default)]
pub struct Troubles {
    times: Vec<(Duration, Option<Duration>)>,
    /// How many causes there are at present.
    causes: u32,
}

impl Troubles {
    /// It begins, or has one cause more.
    pub fn begin(&mut self, now: Duration) {
        if self.causes == 0 {
            self.times.push((now, None));
        }
        self.causes += 1;
    }

    /// A cause is over.
    pub fn end(&mut self, now: Duration) {
        self.causes = self.causes.saturating_sub(1);
        if let (0, Some((_, end))) = (self.causes, self.times.last_mut()) {
            end.get_or_insert(now);
        }
    }

    /// Whether a request in this time may meet its consequences: a filter asks again after a pause that
    /// doubles with each failure, so the pause is at most as long as the trouble was, and half a minute.
    pub fn felt(&self, sent: Duration, done: Duration) -> bool {
        self.times.iter().any(|(begin, end)| {
            let over = end.map(|end| {
                let lasted = end.saturating_sub(*begin) + FETCH_TIMEOUT;
                end + (lasted * 2).min(LONGEST_PAUSE) + LAG
            });
            *begin <= done && over.is_none_or(|over| over >= sent)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_version_decides_from_its_delivery_until_the_next_is_taken() {
        let delivered = |version, written, taken| Delivered {
            settings: Settings::of(1, version),
            written: at(written),
            taken: Some(at(taken)),
        };
        let world = World { versions: vec![delivered(1, 0, 1), delivered(2, 10, 11)], ..World::default() };
        let possible = |sent, done| {
            world.versions(at(sent), at(done)).map(|settings| settings.version).collect::<Vec<_>>()
        };
        assert_eq!(possible(5, 6), [1]);
        assert_eq!(possible(9, 10), [1, 2]);
        assert_eq!(possible(15, 15), [1, 2]);
        assert_eq!(possible(16, 17), [2]);
    }

    #[test]
    fn a_withdrawn_key_is_possible_only_as_long_as_the_documents_say() {
        let mut world = World::default();
        world.keys.set(at(0), vec!["old"]);
        world.keys.set(at(100), vec!["new"]);
        assert!(world.key_certain("old", at(50), at(50)) && world.key_possible("old", at(101), at(101)));
        let window = REFRESH + STALE + FETCH_TIMEOUT + LAG;
        assert!(world.key_possible("old", at(100) + window, at(100) + window));
        assert!(!world.key_possible("old", at(101) + window, at(101) + window));
        assert!(!world.key_certain("new", at(101), at(101)) && world.key_certain("new", at(110), at(110)));
    }

    #[test]
    fn trouble_is_felt_a_while_after_its_end() {
        let mut troubles = Troubles::default();
        assert!(!troubles.felt(at(0), at(1000)));
        troubles.begin(at(10));
        assert!(troubles.felt(at(500), at(501)));
        troubles.end(at(12));
        assert!(!troubles.felt(at(1), at(9)) && troubles.felt(at(1), at(10)));
        assert!(troubles.felt(at(26), at(26)) && !troubles.felt(at(27), at(27)));
    }

    #[test]
    fn trouble_with_two_causes_lasts_until_both_are_over() {
        let mut troubles = Troubles::default();
        troubles.begin(at(10));
        troubles.begin(at(11));
        troubles.end(at(12));
        assert!(troubles.felt(at(500), at(501)));
        troubles.end(at(13));
        assert!(!troubles.felt(at(500), at(501)));
    }
}
