//! When to fetch the keys of an issuer or a list of revoked tokens, and how long to use them. No I/O and no
//! clock in here: times come in, fetches go out as values.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use crate::fetch::remote::{Remote, Settings};
use crate::keys::jwk::KeySet;

/// The largest document that is read, in bytes.
pub const LARGEST: usize = 512 * 1024;

/// The wait after a first failure; it doubles with each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest wait after a failure.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// The shortest lifetime that a server can set by Cache-Control.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(30);

/// The keys of one remote provider.
pub type JwksCache = Fetched<KeySet>;

/// What was fetched from a URL, as one configuration uses it. Times are monotonic, from any origin.
#[derive(Debug)]
pub struct Fetched<T> {
    settings: Settings,
    shared: Rc<Shared<T>>,
    /// When the fetch that is under way started. Its response comes to this configuration, so no other one
    /// waits for it.
    in_flight: Option<Duration>,
    /// The time of the last tick or response. Until there is one, no value is known to be young enough.
    now: Duration,
    /// The number of the last value that [`Fetched::take_news`] has shown.
    shown: u32,
}

/// What was fetched from a URL, and how the fetching goes. The configurations of one plugin that fetch from
/// this URL share it, so that a new configuration does not begin without keys. Each configuration says how
/// long it uses the value.
#[derive(Debug)]
pub struct Shared<T>(RefCell<State<T>>);

#[derive(Debug)]
struct State<T> {
    kept: Option<Kept<T>>,
    /// The number of values that have come.
    number: u32,
    /// When the last fetch started that succeeded.
    last_success: Option<Duration>,
    failures: u32,
    /// No fetch before this.
    not_before: Duration,
}

#[derive(Debug)]
struct Kept<T> {
    value: Rc<T>,
    received: Duration,
    /// How long the server says that the value is good.
    max_age: Option<Duration>,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(RefCell::new(State {
            kept: None,
            number: 0,
            last_success: None,
            failures: 0,
            not_before: Duration::ZERO,
        }))
    }
}

impl<T> Kept<T> {
    fn refresh_at(&self, settings: &Settings) -> Duration {
        let lifetime = self.max_age.unwrap_or(settings.duration);
        self.received.saturating_add(lifetime.max(SHORTEST_LIFETIME).min(settings.duration))
    }

    fn drop_at(&self, settings: &Settings) -> Duration {
        self.refresh_at(settings).saturating_add(settings.stale_if_error)
    }
}

/// What is shared in one VM, by plugin and URL. A value that no configuration uses any more is forgotten.
#[derive(Debug)]
pub struct SharedByUrl<T>(Vec<(Vec<u8>, Remote, Weak<Shared<T>>)>);

impl<T> Default for SharedByUrl<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> SharedByUrl<T> {
    /// Shares nothing yet.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// What the plugin of this name shares for the URL and the cluster of `remote`.
    pub fn of(&mut self, plugin: &[u8], remote: &Remote) -> Rc<Shared<T>> {
        self.0.retain(|(.., shared)| shared.strong_count() > 0);
        let same = |(name, other, _): &&(Vec<u8>, Remote, _)| name == plugin && other.is_same_place(remote);
        if let Some(shared) = self.0.iter().find(same).and_then(|(.., shared)| shared.upgrade()) {
            return shared;
        }
        let shared = Rc::new(Shared::default());
        self.0.push((plugin.to_vec(), remote.clone(), Rc::downgrade(&shared)));
        shared
    }
}

/// How a request that needs a missing document proceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Start a fetch (with [`Fetching::started`]) and wait for it.
    Fetch,
    /// Wait for the fetch that is under way.
    Wait,
    /// The server was asked recently, and does not have what the request needs.
    Unknown,
    /// The server could not be asked.
    Unavailable,
}

/// The state of fetching a document of any kind.
pub trait Fetching {
    /// To be called about once a second: drops a value that is too old, gives up a fetch that never ended,
    /// and says whether to start one.
    fn tick(&mut self, now: Duration) -> bool;
    /// Whether a fetch is under way.
    fn is_fetching(&self) -> bool;
    /// A fetch was started.
    fn started(&mut self, now: Duration);
    /// A fetch failed, or could not even start.
    fn failed(&mut self, now: Duration);
    /// A fetch by another worker failed, the last of so many in a row: the pause is the same as there.
    fn failed_elsewhere(&mut self, at: Duration, failures: u32);
}

impl JwksCache {
    /// The keys to use.
    pub fn keys(&self) -> Option<Rc<KeySet>> {
        self.value()
    }

    /// Takes the keys that a fetch brought, to be used for `max_age` if the issuer said so.
    pub fn succeeded(&mut self, now: Duration, set: KeySet, max_age: Option<Duration>) {
        let kept = self.shared.0.borrow().kept.as_ref().map(|kept| Rc::clone(&kept.value));
        let set = match kept {
            Some(kept) => set.keeping(&kept),
            None => set,
        };
        self.received(now, set, max_age);
    }
}

impl<T> Fetched<T> {
    /// The shared value, used as these settings say.
    pub fn new(settings: Settings, shared: Rc<Shared<T>>) -> Self {
        Self { settings, shared, in_flight: None, now: Duration::MAX, shown: 0 }
    }

    /// The value to use.
    pub fn value(&self) -> Option<Rc<T>> {
        let state = self.shared.0.borrow();
        let kept = state.kept.as_ref().filter(|kept| self.now < kept.drop_at(&self.settings))?;
        Some(Rc::clone(&kept.value))
    }

    /// Whether another value has come, for this configuration or another, since the last call.
    pub fn take_news(&mut self) -> bool {
        let number = self.shared.0.borrow().number;
        std::mem::replace(&mut self.shown, number) != number
    }

    /// How a request proceeds that did not find what it needs in the value.
    pub fn missing(&self, now: Duration) -> Missing {
        if self.in_flight.is_some() {
            return Missing::Wait;
        }
        let asked_recently = self
            .shared
            .0
            .borrow()
            .last_success
            .is_some_and(|start| now < start.saturating_add(self.settings.min_interval));
        if self.value().is_some() && asked_recently {
            return Missing::Unknown;
        }
        if self.may_fetch(now) { Missing::Fetch } else { Missing::Unavailable }
    }

    /// When a missing value may be there: the time when the next fetch may start, or the latest end of the
    /// fetch that is under way.
    pub fn next_fetch(&self) -> Duration {
        match self.in_flight {
            Some(started) => started.saturating_add(self.settings.timeout),
            None => self.shared.0.borrow().not_before,
        }
    }

    fn may_fetch(&self, now: Duration) -> bool {
        self.in_flight.is_none() && now >= self.shared.0.borrow().not_before
    }

    /// Takes the value that a fetch brought, to be used for `max_age` if the server said so.
    pub fn received(&mut self, now: Duration, value: T, max_age: Option<Duration>) {
        self.now = now;
        let mut state = self.shared.0.borrow_mut();
        let old = state.kept.replace(Kept { value: Rc::new(value), received: now, max_age });
        state.number = state.number.wrapping_add(1);
        state.last_success = self.in_flight.take().or(Some(now));
        state.failures = 0;
        state.not_before = now;
        drop(state);
        drop(old);
    }
}

impl<T> Fetching for Fetched<T> {
    fn tick(&mut self, now: Duration) -> bool {
        self.now = now;
        let patience = self.settings.timeout.saturating_add(Duration::from_secs(1));
        if self.in_flight.is_some_and(|started| now >= started.saturating_add(patience)) {
            self.failed(now);
        }
        let due = {
            let state = self.shared.0.borrow();
            state.kept.as_ref().is_none_or(|kept| now >= kept.refresh_at(&self.settings))
        };
        due && self.may_fetch(now)
    }

    fn is_fetching(&self) -> bool {
        self.in_flight.is_some()
    }

    fn started(&mut self, now: Duration) {
        self.in_flight = Some(now);
    }

    fn failed_elsewhere(&mut self, at: Duration, failures: u32) {
        self.shared.0.borrow_mut().failures = failures.saturating_sub(1);
        self.failed(at);
    }

    fn failed(&mut self, now: Duration) {
        self.in_flight = None;
        let mut state = self.shared.0.borrow_mut();
        let doublings = state.failures.min(16);
        let wait = FIRST_RETRY.saturating_mul(1_u32.wrapping_shl(doublings)).min(LONGEST_RETRY);
        state.failures = state.failures.saturating_add(1);
        state.not_before = now.saturating_add(wait);
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
    use crate::fetch::remote::FetchHeaders;
    use crate::keys::jwk::Purpose;

    #[test]
    fn max_age_is_read_from_cache_control() {
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

    fn settings(duration: u64, stale_if_error: u64) -> Settings {
        Settings {
            duration: Duration::from_secs(duration),
            min_interval: Duration::from_secs(30),
            timeout: Duration::from_secs(2),
            stale_if_error: Duration::from_secs(stale_if_error),
        }
    }

    fn fetched(duration: u64, max_age: Option<u64>) -> Fetched<()> {
        let mut fetched = Fetched::new(settings(duration, 100), Rc::default());
        fetched.received(Duration::ZERO, (), max_age.map(Duration::from_secs));
        fetched
    }

    /// The first second in which it is to be fetched again.
    fn due(duration: u64, max_age: Option<u64>) -> u64 {
        let mut fetched = fetched(duration, max_age);
        (0..10_000).find(|now| fetched.tick(Duration::from_secs(*now))).unwrap()
    }

    #[test]
    fn max_age_shortens_lifetime_within_bounds() {
        assert_eq!(due(600, None), 600);
        assert_eq!(due(600, Some(60)), 60);
        assert_eq!(due(600, Some(0)), 30);
        assert_eq!(due(600, Some(6000)), 600);
        assert_eq!(due(10, Some(0)), 10);
    }

    #[test]
    fn value_that_is_too_old_is_dropped() {
        let mut fetched = fetched(600, None);
        fetched.tick(Duration::from_secs(699));
        assert!(fetched.value().is_some());
        fetched.tick(Duration::from_secs(700));
        assert!(fetched.value().is_none());
    }

    #[test]
    fn largest_document_is_512_kib() {
        assert_eq!(LARGEST, 524_288);
    }

    #[test]
    fn fetch_without_answer_is_given_up() {
        let mut fetched = fetched(600, None);
        fetched.started(Duration::from_secs(1000));
        assert!(fetched.is_fetching());
        assert_eq!(fetched.next_fetch(), Duration::from_secs(1002));
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
    fn worker_that_hears_of_failures_pauses_as_the_one_that_saw_them() {
        let (mut saw, mut heard) = (fetched(10, None), fetched(10, None));
        let seconds = Duration::from_secs;
        for n in 1..=4 {
            saw.failed(seconds(n * 100));
            if n == 3 {
                heard.failed_elsewhere(seconds(300), 3);
            }
        }
        heard.failed_elsewhere(seconds(400), 4);
        assert_eq!((saw.next_fetch(), heard.next_fetch()), (seconds(408), seconds(408)));
    }

    #[test]
    fn retry_wait_doubles_up_to_30_seconds() {
        let mut fetched = fetched(10, None);
        let mut now = Duration::from_secs(1000);
        for expected in [1, 2, 4, 8, 16, 30, 30] {
            fetched.failed(now);
            assert_eq!(fetched.next_fetch(), now + Duration::from_secs(expected));
            let wait = (1..100).find(|seconds| fetched.tick(now + Duration::from_secs(*seconds))).unwrap();
            assert_eq!(wait, expected);
            now += Duration::from_secs(100);
        }
    }

    fn remote(path: &str) -> Remote {
        Remote::parse(&format!("http://issuer.test{path}"), None, settings(600, 100)).unwrap()
    }

    #[test]
    fn documents_are_shared_by_plugin_and_url() {
        let mut shared = SharedByUrl::<()>::new();
        let first = shared.of(b"a", &remote("/keys"));
        let same = |other: &Rc<Shared<()>>| Rc::ptr_eq(&first, other);
        assert!(same(&shared.of(b"a", &remote("/keys"))));
        assert!(!same(&shared.of(b"b", &remote("/keys"))));
        assert!(!same(&shared.of(b"a", &remote("/other"))));
        assert!(!same(&shared.of(b"a", &Remote { cluster: "other".to_owned(), ..remote("/keys") })));
        assert!(!same(&shared.of(b"a", &Remote { scheme: "https", ..remote("/keys") })));
        assert!(!same(&shared.of(b"a", &Remote { authority: "other".to_owned(), ..remote("/keys") })));
        assert!(!same(&shared.of(b"a", &Remote { purpose: Purpose::JwtSvids, ..remote("/keys") })));
        let headers = FetchHeaders(vec![("a".to_owned(), "b".to_owned())]);
        assert!(!same(&shared.of(b"a", &Remote { headers, ..remote("/keys") })));
        drop(first);
        shared.of(b"c", &remote("/keys"));
        assert_eq!(shared.0.len(), 1, "what nobody uses is forgotten");
    }

    #[test]
    fn new_configuration_uses_old_value_by_its_own_settings() {
        let seconds = Duration::from_secs;
        let mut old = Fetched::new(settings(600, 3600), Rc::default());
        old.received(seconds(100), 7, None);
        let mut new = Fetched::new(settings(600, 60), Rc::clone(&old.shared));
        assert!(new.value().is_none(), "its age is not known before the time is");
        assert!(!new.tick(seconds(699)), "it is fetched again when it is old enough");
        assert!(new.tick(seconds(759)));
        assert_eq!(new.value().as_deref(), Some(&7));
        new.tick(seconds(760));
        assert!(new.value().is_none() && old.value().is_some());
    }

    #[test]
    fn configurations_share_retry_wait_and_interval() {
        let seconds = Duration::from_secs;
        let mut old = Fetched::<()>::new(settings(600, 100), Rc::default());
        old.failed(seconds(100));
        old.failed(seconds(100));
        let mut new = Fetched::new(settings(600, 100), Rc::clone(&old.shared));
        assert_eq!(new.missing(seconds(101)), Missing::Unavailable);
        assert_eq!(new.missing(seconds(102)), Missing::Fetch);
        old.received(seconds(103), (), None);
        new.tick(seconds(104));
        assert_eq!(new.missing(seconds(132)), Missing::Unknown);
        assert_eq!(new.missing(seconds(133)), Missing::Fetch);
    }

    #[test]
    fn fetch_is_awaited_only_by_its_configuration() {
        let mut old = Fetched::<()>::new(settings(600, 100), Rc::default());
        old.started(Duration::from_secs(100));
        let new = Fetched::new(settings(600, 100), Rc::clone(&old.shared));
        assert_eq!(old.missing(Duration::from_secs(100)), Missing::Wait);
        assert_eq!(new.missing(Duration::from_secs(100)), Missing::Fetch);
    }

    #[test]
    fn news_are_shown_once_to_each_configuration() {
        let mut old = Fetched::new(settings(600, 100), Rc::default());
        let mut new = Fetched::new(settings(600, 100), Rc::clone(&old.shared));
        assert!(!new.take_news());
        old.received(Duration::from_secs(100), (), None);
        assert!(new.take_news() && !new.take_news());
        assert!(old.take_news() && !old.take_news());
    }
}
