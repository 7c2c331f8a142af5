//! What all parts of a running soak share: the clock, what happened around the proxy, and the requests that
//! are not judged yet.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use soak::judge::Record;
use soak::plan::{Fault, Form};
use soak::world::World;

/// How a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// It answers, after so long.
    Well(Duration),
    /// It answers too late, or nearly.
    Stalled(Duration),
    /// It ends each connection.
    Dead,
    /// It answers with something else, of so many kinds.
    Rubbish(usize),
}

/// A soak that is running.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) seed: u64,
    pub(crate) form: Form,
    pub(crate) fault: Option<Fault>,
    start: Instant,
    /// The second of the Unix epoch at the start.
    pub(crate) epoch: u64,
    world: Mutex<World>,
    open: Mutex<HashMap<u64, Record>>,
    next: AtomicU64,
    ended: AtomicBool,
    pub(crate) issuer: Mutex<Mood>,
    pub(crate) list: Mutex<Mood>,
    pub(crate) limits: Mutex<Mood>,
    /// When a request was sent and how long it took.
    pub(crate) latencies: Mutex<Vec<(Duration, Duration)>>,
}

impl Stage {
    pub(crate) fn new(seed: u64, form: Form, fault: Option<Fault>) -> Self {
        Self {
            seed,
            form,
            fault,
            start: Instant::now(),
            epoch: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()),
            world: Mutex::default(),
            open: Mutex::default(),
            next: AtomicU64::new(1),
            ended: AtomicBool::new(false),
            issuer: Mutex::new(Mood::Well(Duration::ZERO)),
            list: Mutex::new(Mood::Well(Duration::ZERO)),
            limits: Mutex::new(Mood::Well(Duration::ZERO)),
            latencies: Mutex::default(),
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    /// The requests that are not judged yet.
    pub(crate) fn open(&self) -> MutexGuard<'_, HashMap<u64, Record>> {
        lock(&self.open)
    }

    /// Changes what is known of a request, unless it was judged.
    pub(crate) fn note(&self, id: u64, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.open().get_mut(&id) {
            change(record);
        }
    }

    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number in `soak=` of a path.
pub(crate) fn parameter<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = path.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}
