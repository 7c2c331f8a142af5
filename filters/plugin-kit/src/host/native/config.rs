//! A configuration as all threads of the proxy share it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use super::Entry;
use super::document::Plugin;
use super::ffi::Waker;
use super::ffi::config::{Handle, Kind, MainThread};
use super::outside::{Delivery, Outside};
use crate::host::TICK;

/// One configuration of a filter.
pub(super) struct Shared {
    /// No other configuration has or had it.
    pub(super) id: u64,
    /// The filter.
    pub(super) entry: &'static Entry,
    /// What it is configured with.
    pub(super) plugin: Plugin,
    /// The proxy's side.
    pub(super) handle: Handle,
    /// The calls to other services.
    pub(super) outside: Mutex<Outside>,
    /// The highest number of the news, see [`outside::news`](super::outside::news).
    pub(super) news: AtomicU64,
    statistics: RwLock<HashMap<(Kind, String), usize>>,
    /// What makes the main thread call its hook; `None` once the configuration is destroyed.
    main: Mutex<Option<Waker>>,
    mailboxes: Mutex<Vec<Weak<Mailbox>>>,
}

/// The lock, also after a panic: what a panic leaves behind is as good as a lost message.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(main: MainThread, entry: &'static Entry, plugin: Plugin, handle: Handle) -> Arc<Self> {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let waker = handle.waker(main);
        Arc::new(Self {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            entry,
            plugin,
            handle,
            outside: Mutex::default(),
            news: AtomicU64::new(0),
            statistics: RwLock::default(),
            main: Mutex::new(waker),
            mailboxes: Mutex::default(),
        })
    }

    /// The statistic of this name, if [`Shared::define`] has defined it.
    pub(super) fn statistic(&self, kind: Kind, name: &str) -> Option<usize> {
        let statistics = self.statistics.read().unwrap_or_else(PoisonError::into_inner);
        statistics.get(&(kind, name.to_owned())).copied()
    }

    /// Defines a statistic.
    pub(super) fn define(&self, main: MainThread, kind: Kind, name: &str) -> Option<usize> {
        let id = self.handle.define(main, kind, name)?;
        self.statistics.write().unwrap_or_else(PoisonError::into_inner).insert((kind, name.to_owned()), id);
        Some(id)
    }

    /// Makes the main thread look after this configuration.
    pub(super) fn wake_main(&self) {
        if let Some(waker) = &*lock(&self.main) {
            waker.wake();
        }
    }

    /// The proxy has destroyed the configuration: the main thread is not called any more.
    pub(super) fn end(&self) {
        lock(&self.main).take();
    }

    /// A mailbox for a thread.
    pub(super) fn mailbox(&self) -> Arc<Mailbox> {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        let mailbox = Arc::new(Mailbox { id, ..Mailbox::default() });
        let mut mailboxes = lock(&self.mailboxes);
        mailboxes.retain(|known| known.strong_count() > 0);
        mailboxes.push(Arc::downgrade(&mailbox));
        mailbox
    }

    /// Wakes each worker on which requests wait, so that it sees what time it is.
    pub(super) fn wake_waiting(&self) {
        for mailbox in lock(&self.mailboxes).iter().filter_map(Weak::upgrade) {
            mailbox.wake();
        }
    }
}

/// What the main thread has for a thread, and how it wakes that thread.
#[derive(Default)]
pub(super) struct Mailbox {
    /// No other mailbox has or had it.
    pub(super) id: u64,
    /// Whether there is something to take, without the lock.
    any: AtomicBool,
    state: Mutex<Mail>,
    tokens: AtomicU64,
}

#[derive(Default)]
struct Mail {
    deliveries: VecDeque<Delivery>,
    /// Of the streams that wait on this thread, by their numbers.
    wakers: BTreeMap<u32, Waker>,
}

impl Mail {
    fn wake(&self) {
        if let Some((_, waker)) = self.wakers.first_key_value() {
            waker.wake();
        }
    }
}

impl Mailbox {
    /// A token for a call. No other call of this thread that is under way has it.
    pub(super) fn token(&self) -> u32 {
        u32::try_from(self.tokens.fetch_add(1, Ordering::Relaxed) & u64::from(u32::MAX)).unwrap_or(0)
    }

    /// Puts something in. The thread takes it at once if a stream waits there, or else before its next request.
    pub(super) fn put(&self, delivery: Delivery) {
        let mut mail = lock(&self.state);
        mail.deliveries.push_back(delivery);
        self.any.store(true, Ordering::Release);
        mail.wake();
    }

    /// Takes the oldest.
    pub(super) fn take(&self) -> Option<Delivery> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let mut mail = lock(&self.state);
        let taken = mail.deliveries.pop_front();
        self.any.store(!mail.deliveries.is_empty(), Ordering::Release);
        taken
    }

    /// Wakes the thread if a stream waits there.
    pub(super) fn wake(&self) {
        lock(&self.state).wake();
    }

    /// A stream waits from now on. What came in meanwhile wakes it.
    pub(super) fn wait(&self, stream: u32, waker: Waker) {
        let mut mail = lock(&self.state);
        if !mail.deliveries.is_empty() {
            waker.wake();
        }
        mail.wakers.insert(stream, waker);
    }

    /// A stream waits no more. If it was to be woken and has ended, another is.
    pub(super) fn leave(&self, stream: u32) {
        let mut mail = lock(&self.state);
        let waker = mail.wakers.remove(&stream);
        if !mail.deliveries.is_empty() {
            mail.wake();
        }
        // The proxy is not called under the lock.
        drop(mail);
        drop(waker);
    }
}

/// The timer: this ABI has none, so a thread of the module wakes the main thread for each configuration, every [`TICK`].
pub(super) fn start_timer(config: &Arc<Shared>) {
    static CONFIGS: Mutex<Option<Vec<Weak<Shared>>>> = Mutex::new(None);
    let mut configs = lock(&CONFIGS);
    if let Some(configs) = &mut *configs {
        configs.push(Arc::downgrade(config));
        return;
    }
    let run = || loop {
        std::thread::sleep(TICK);
        let due: Vec<_> = {
            let mut configs = lock(&CONFIGS);
            let configs = configs.get_or_insert_default();
            configs.retain(|config| config.strong_count() > 0);
            configs.iter().filter_map(Weak::upgrade).collect()
        };
        for config in due {
            config.wake_main();
        }
    };
    match std::thread::Builder::new().name("mesh-filters".to_owned()).spawn(run) {
        Ok(_) => *configs = Some(vec![Arc::downgrade(config)]),
        Err(error) => log::error!("no timer, so that nothing is fetched again: {error}"),
    }
}

/// A tick is due so much earlier than [`TICK`]: the timer does not fire to the microsecond.
pub(super) const EARLY: Duration = Duration::from_millis(50);
