//! When to fetch the keys of an issuer, and how long to use them. No I/O and no clock in here: times come in, fetches go
//! out as values.

use std::rc::Rc;
use std::time::Duration;

use crate::jwk::KeySet;

/// The largest JWK set that is read, in bytes.
pub const LARGEST: usize = 512 * 1024;

/// The wait after a first failure; it doubles with each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest wait after a failure.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// The shortest time that an issuer can set by Cache-Control.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(30);

/// How a provider's keys are kept.
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

/// The keys of one remote provider, and the state of their fetching. Times are monotonic, from any origin.
#[derive(Debug)]
pub struct JwksCache {
    settings: Settings,
    keys: Option<Kept>,
    /// When the fetch that is under way started.
    in_flight: Option<Duration>,
    /// When the last fetch started that succeeded.
    last_success: Option<Duration>,
    failures: u32,
    /// No fetch before this.
    not_before: Duration,
}

#[derive(Debug)]
struct Kept {
    set: Rc<KeySet>,
    refresh_at: Duration,
    drop_at: Duration,
}

/// What a request that needs a key which is not there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Start a fetch (with [`JwksCache::started`]) and wait for it.
    Fetch,
    /// Wait for the fetch that is under way.
    Wait,
    /// The issuer was asked recently and does not have it.
    Unknown,
    /// The issuer could not be asked.
    Unavailable,
}

impl JwksCache {
    /// No keys yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            keys: None,
            in_flight: None,
            last_success: None,
            failures: 0,
            not_before: Duration::ZERO,
        }
    }

    /// The keys to use.
    pub fn keys(&self) -> Option<&Rc<KeySet>> {
        self.keys.as_ref().map(|kept| &kept.set)
    }

    /// To be called about once a second: drops keys whose time is over, gives a fetch up that never ended, and says
    /// whether to start one.
    pub fn tick(&mut self, now: Duration) -> bool {
        if self.keys.as_ref().is_some_and(|kept| now >= kept.drop_at) {
            self.keys = None;
        }
        let patience = self.settings.timeout.saturating_add(Duration::from_secs(1));
        if self.in_flight.is_some_and(|started| now >= started.saturating_add(patience)) {
            self.failed(now);
        }
        let due = self.keys.as_ref().is_none_or(|kept| now >= kept.refresh_at);
        due && self.may_fetch(now)
    }

    /// What a request is to do that found no key for its token.
    pub fn missing(&self, now: Duration) -> Missing {
        if self.in_flight.is_some() {
            return Missing::Wait;
        }
        let asked_recently =
            self.last_success.is_some_and(|start| now < start.saturating_add(self.settings.min_interval));
        if self.keys.is_some() && asked_recently {
            return Missing::Unknown;
        }
        if self.may_fetch(now) { Missing::Fetch } else { Missing::Unavailable }
    }

    fn may_fetch(&self, now: Duration) -> bool {
        self.in_flight.is_none() && now >= self.not_before
    }

    /// Whether a fetch is under way.
    pub fn is_fetching(&self) -> bool {
        self.in_flight.is_some()
    }

    /// A fetch was started.
    pub fn started(&mut self, now: Duration) {
        self.in_flight = Some(now);
    }

    /// A fetch brought keys, to be used for `max_age` if the issuer said so.
    pub fn succeeded(&mut self, now: Duration, set: KeySet, max_age: Option<Duration>) {
        let lifetime =
            max_age.unwrap_or(self.settings.duration).max(SHORTEST_LIFETIME).min(self.settings.duration);
        let set = match &self.keys {
            Some(kept) => set.keeping(&kept.set),
            None => set,
        };
        self.keys = Some(Kept {
            set: Rc::new(set),
            refresh_at: now.saturating_add(lifetime),
            drop_at: now.saturating_add(lifetime).saturating_add(self.settings.stale_if_error),
        });
        self.last_success = self.in_flight.take().or(Some(now));
        self.failures = 0;
        self.not_before = now;
    }

    /// A fetch failed, or could not even start.
    pub fn failed(&mut self, now: Duration) {
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
