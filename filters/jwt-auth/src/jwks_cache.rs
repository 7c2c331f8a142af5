//! When to fetch the keys of an issuer or a list of revoked tokens, and how long to use them. No I/O and no clock in here:
//! times come in, fetches go out as values.

use std::rc::Rc;
use std::time::Duration;

use crate::jwk::KeySet;

/// The largest document that is read, in bytes.
pub const LARGEST: usize = 512 * 1024;

/// The wait after a first failure; it doubles with each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest wait after a failure.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// The shortest time that an issuer can set by Cache-Control.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(30);

/// How a provider's keys are kept, or its list of revoked tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long keys are used before they are fetched again. Cache-Control can only make it shorter.
    pub duration: Duration,
    /// The least time between two fetches that unknown key IDs cause.
    pub min_interval: Duration,
    /// How long a fetch may take.
    pub timeout: Duration,
    /// How long keys are used beyond their time while the issuer does not answer.
    pub stale_if_error: Duration,
}

/// The keys of one remote provider.
pub type JwksCache = Fetched<KeySet>;

/// What was fetched from a URL, and the state of its fetching. Times are monotonic, from any origin.
#[derive(Debug)]
pub struct Fetched<T> {
    settings: Settings,
    kept: Option<Kept<T>>,
    /// When the fetch that is under way started.
    in_flight: Option<Duration>,
    /// When the last fetch started that succeeded.
    last_success: Option<Duration>,
    failures: u32,
    /// No fetch before this.
    not_before: Duration,
}

#[derive(Debug)]
struct Kept<T> {
    value: Rc<T>,
    refresh_at: Duration,
    drop_at: Duration,
}

/// What a request that needs what is not there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Start a fetch (with [`Fetching::started`]) and wait for it.
    Fetch,
    /// Wait for the fetch that is under way.
    Wait,
    /// The issuer was asked recently and does not have it.
    Unknown,
    /// The issuer could not be asked.
    Unavailable,
}

/// The state of a fetching, whatever is fetched.
pub trait Fetching {
    /// To be called about once a second: drops what is too old, gives a fetch up that never ended, and says whether to start
    /// one.
    fn tick(&mut self, now: Duration) -> bool;
    /// Whether a fetch is under way.
    fn is_fetching(&self) -> bool;
    /// A fetch was started.
    fn started(&mut self, now: Duration);
    /// A fetch failed, or could not even start.
    fn failed(&mut self, now: Duration);
}

impl JwksCache {
    /// The keys to use.
    pub fn keys(&self) -> Option<&Rc<KeySet>> {
        self.value()
    }

    /// A fetch brought keys, to be used for `max_age` if the issuer said so.
    pub fn succeeded(&mut self, now: Duration, set: KeySet, max_age: Option<Duration>) {
        let set = match self.value() {
            Some(kept) => set.keeping(kept),
            None => set,
        };
        self.received(now, set, max_age);
    }
}

impl<T> Fetched<T> {
    /// Nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            kept: None,
            in_flight: None,
            last_success: None,
            failures: 0,
            not_before: Duration::ZERO,
        }
    }

    /// What to use.
    pub fn value(&self) -> Option<&Rc<T>> {
        self.kept.as_ref().map(|kept| &kept.value)
    }

    /// What a request is to do that did not find what it needs.
    pub fn missing(&self, now: Duration) -> Missing {
        if self.in_flight.is_some() {
            return Missing::Wait;
        }
        let asked_recently =
            self.last_success.is_some_and(|start| now < start.saturating_add(self.settings.min_interval));
        if self.kept.is_some() && asked_recently {
            return Missing::Unknown;
        }
        if self.may_fetch(now) { Missing::Fetch } else { Missing::Unavailable }
    }

    fn may_fetch(&self, now: Duration) -> bool {
        self.in_flight.is_none() && now >= self.not_before
    }

    /// A fetch brought this, to be used for `max_age` if the server said so.
    pub fn received(&mut self, now: Duration, value: T, max_age: Option<Duration>) {
        let lifetime =
            max_age.unwrap_or(self.settings.duration).max(SHORTEST_LIFETIME).min(self.settings.duration);
        self.kept = Some(Kept {
            value: Rc::new(value),
            refresh_at: now.saturating_add(lifetime),
            drop_at: now.saturating_add(lifetime).saturating_add(self.settings.stale_if_error),
        });
        self.last_success = self.in_flight.take().or(Some(now));
        self.failures = 0;
        self.not_before = now;
    }
}

impl<T> Fetching for Fetched<T> {
    fn tick(&mut self, now: Duration) -> bool {
        if self.kept.as_ref().is_some_and(|kept| now >= kept.drop_at) {
            self.kept = None;
        }
        let patience = self.settings.timeout.saturating_add(Duration::from_secs(1));
        if self.in_flight.is_some_and(|started| now >= started.saturating_add(patience)) {
            self.failed(now);
        }
        let due = self.kept.as_ref().is_none_or(|kept| now >= kept.refresh_at);
        due && self.may_fetch(now)
    }

    fn is_fetching(&self) -> bool {
        self.in_flight.is_some()
    }

    fn started(&mut self, now: Duration) {
        self.in_flight = Some(now);
    }

    fn failed(&mut self, now: Duration) {
        self.in_flight = None;
        let doublings = self.failures.min(16);
        let wait = FIRST_RETRY.saturating_mul(1_u32.wrapping_shl(doublings)).min(LONGEST_RETRY);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now.saturating_add(wait);
    }
}

/// `max-age` of a Cache-Control header; zero for `no-store` and `no-cache`.
pub fn max_age(cache_control: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(cache_control).ok()?.to_ascii_lowercase();
    let mut directives = text.split(',').map(str::trim);
    if directives.clone().any(|directive| matches!(directive, "no-store" | "no-cache")) {
        return Some(Duration::ZERO);
    }
    let seconds = directives.find_map(|directive| directive.strip_prefix("max-age="))?;
    Some(Duration::from_secs(seconds.trim_matches('"').parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_what_cache_control_says() {
        for (header, seconds) in [
            ("max-age=60", Some(60)),
            ("public, Max-Age=\"5\", x", Some(5)),
            ("max-age=60, no-store", Some(0)),
            ("no-cache", Some(0)),
            ("public", None),
            ("max-age=", None),
            ("max-age=-1", None),
            ("s-max-age=7", None),
            ("", None),
        ] {
            assert_eq!(max_age(header.as_bytes()), seconds.map(Duration::from_secs), "{header}");
        }
        assert_eq!(max_age(b"max-age=1\xff"), None);
    }

    fn fetched(duration: u64, max_age: Option<u64>) -> Fetched<()> {
        let mut fetched = Fetched::new(Settings {
            duration: Duration::from_secs(duration),
            min_interval: Duration::from_secs(30),
            timeout: Duration::from_secs(2),
            stale_if_error: Duration::from_secs(100),
        });
        fetched.received(Duration::ZERO, (), max_age.map(Duration::from_secs));
        fetched
    }

    /// The first second in which it is to be fetched again.
    fn due(duration: u64, max_age: Option<u64>) -> u64 {
        let mut fetched = fetched(duration, max_age);
        (0..10_000).find(|now| fetched.tick(Duration::from_secs(*now))).unwrap()
    }

    #[test]
    fn a_server_makes_the_time_shorter_within_bounds() {
        assert_eq!(due(600, None), 600);
        assert_eq!(due(600, Some(60)), 60);
        assert_eq!(due(600, Some(0)), 30);
        assert_eq!(due(600, Some(6000)), 600);
        assert_eq!(due(10, Some(0)), 10);
    }

    #[test]
    fn what_is_too_old_is_dropped() {
        let mut fetched = fetched(600, None);
        fetched.tick(Duration::from_secs(699));
        assert!(fetched.value().is_some());
        fetched.tick(Duration::from_secs(700));
        assert!(fetched.value().is_none());
    }

    #[test]
    fn a_document_has_half_a_megabyte_at_most() {
        assert_eq!(LARGEST, 524_288);
    }

    #[test]
    fn a_fetch_that_never_ends_is_given_up() {
        let mut fetched = fetched(600, None);
        fetched.started(Duration::from_secs(1000));
        assert!(fetched.is_fetching());
        fetched.tick(Duration::from_secs(1002));
        assert!(
            fetched.is_fetching(),
            "the server may take two seconds, and the proxy one to say that it did"
        );
        fetched.tick(Duration::from_secs(1003));
        assert!(!fetched.is_fetching());
        assert!(!fetched.tick(Duration::from_secs(1003)) && fetched.tick(Duration::from_secs(1004)));
    }

    #[test]
    fn waits_after_failures_double_up_to_half_a_minute() {
        let mut fetched = fetched(10, None);
        let mut now = Duration::from_secs(1000);
        for expected in [1, 2, 4, 8, 16, 30, 30] {
            fetched.failed(now);
            let wait = (1..100).find(|seconds| fetched.tick(now + Duration::from_secs(*seconds))).unwrap();
            assert_eq!(wait, expected);
            now += Duration::from_secs(100);
        }
    }
}
