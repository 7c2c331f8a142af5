//! A configuration of the proxy, and what can be asked of it.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::table::{self, Given};
use super::{Buffer, Header, Waker};
use crate::host::HostError;
use crate::host::native::outside;

/// A configuration of the proxy, which lives at least as long as the streams that it has. After its end nothing is asked of it.
#[derive(Debug)]
pub(in crate::host::native) struct Handle {
    config: Given,
    lives: AtomicBool,
}

// SAFETY: what every thread may call (counters and gauges) are atomic operations on statistics, whose tables do not change once
// the configuration is made. The other functions take a `MainThread`.
unsafe impl Send for Handle {}
// SAFETY: likewise.
unsafe impl Sync for Handle {}

/// Proves that this is the main thread. It cannot leave the thread.
#[derive(Clone, Copy)]
pub(in crate::host::native) struct MainThread(PhantomData<*const ()>);

impl MainThread {
    /// # Safety
    /// This is a hook that the proxy calls on its main thread.
    pub(super) unsafe fn new() -> Self {
        Self(PhantomData)
    }
}

/// A kind of statistic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::host::native) enum Kind {
    /// It only grows.
    Counter,
    /// It has a value.
    Gauge,
}

/// A call to another service: what is sent, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::host::native) struct Message {
    /// The cluster.
    pub(in crate::host::native) cluster: String,
    /// The headers.
    pub(in crate::host::native) headers: Vec<(String, String)>,
    /// The body.
    pub(in crate::host::native) body: Vec<u8>,
    /// How long it may take.
    pub(in crate::host::native) timeout: Duration,
}

impl Handle {
    /// # Safety
    /// The proxy has just given this pointer to the hook that makes a configuration, and `end` is called in the hook that says
    /// that it is destroyed.
    pub(super) unsafe fn new(config: Given) -> Self {
        Self { config, lives: AtomicBool::new(true) }
    }

    /// From now on the pointer is not used any more.
    pub(super) fn end(&self) {
        self.lives.store(false, Ordering::Release);
    }

    fn lives(&self) -> bool {
        self.lives.load(Ordering::Acquire)
    }

    /// Defines a statistic. The proxy allows it only in the hook that makes the configuration.
    pub(in crate::host::native) fn define(&self, _: MainThread, kind: Kind, name: &str) -> Option<usize> {
        let (table, mut id) = (table::get()?, 0);
        let define = match kind {
            Kind::Counter => table.http_filter_config_define_counter,
            Kind::Gauge => table.http_filter_config_define_gauge,
        };
        let name = Buffer::of(name.as_bytes());
        // SAFETY: the configuration lives, and `name` and the answer's place are live for the call.
        let done =
            self.lives() && unsafe { define(self.config, name, std::ptr::null(), 0, &raw mut id) } == 0;
        done.then_some(id)
    }

    /// Adds to a counter.
    pub(in crate::host::native) fn add(&self, counter: usize, n: u64) {
        if let Some(table) = table::get().filter(|_| self.lives()) {
            // SAFETY: the configuration lives: a filter counts within hooks of its streams and of its configuration.
            unsafe {
                (table.http_filter_config_increment_counter)(self.config, counter, std::ptr::null(), 0, n)
            };
        }
    }

    /// Sets a gauge.
    pub(in crate::host::native) fn set(&self, gauge: usize, value: u64) {
        if let Some(table) = table::get().filter(|_| self.lives()) {
            // SAFETY: as above.
            unsafe { (table.http_filter_config_set_gauge)(self.config, gauge, std::ptr::null(), 0, value) };
        }
    }

    /// What wakes the main thread for this configuration. It is dropped in the hook that destroys the configuration.
    pub(in crate::host::native) fn waker(&self, _: MainThread) -> Option<Waker> {
        let table = table::get()?;
        // SAFETY: the configuration lives, and all three are functions of the scheduler of a configuration.
        unsafe {
            let scheduler = (table.http_filter_config_scheduler_new)(self.config);
            let (commit, delete) =
                (table.http_filter_config_scheduler_commit, table.http_filter_config_scheduler_delete);
            Waker::new(scheduler, commit, delete)
        }
    }

    /// Starts a call and returns its number. The response to one of HTTP comes to a hook whole, and that to one of gRPC part by part.
    pub(in crate::host::native) fn call(
        &self,
        _: MainThread,
        kind: outside::Kind,
        message: &Message,
    ) -> Result<u64, HostError> {
        let call = if kind == outside::Kind::Http { "http_call" } else { "grpc_call" };
        // 1 and 2 say that a header is missing and that there is no such cluster.
        let not_sent = |result| HostError {
            call,
            status: if matches!(result, 1 | 2) {
                HostError::BAD_ARGUMENT
            } else {
                HostError::INTERNAL_FAILURE
            },
        };
        let (table, mut number) = (table::get().ok_or(not_sent(0))?, 0);
        let headers: Vec<_> =
            message.headers.iter().map(|(name, value)| Header::of(name, value.as_bytes())).collect();
        let (config, id, first, count) = (self.config, &raw mut number, headers.as_ptr(), headers.len());
        let (cluster, body) = (Buffer::of(message.cluster.as_bytes()), Buffer::of(&message.body));
        let timeout = u64::try_from(message.timeout.as_millis()).unwrap_or(u64::MAX);
        // SAFETY: the configuration lives, this is the main thread, and all pointers are live for the call.
        let result = unsafe {
            match kind {
                outside::Kind::Http => {
                    (table.http_filter_config_http_callout)(config, id, cluster, first, count, body, timeout)
                }
                outside::Kind::Grpc => (table.http_filter_config_start_http_stream)(
                    config, id, cluster, first, count, body, true, timeout,
                ),
            }
        };
        if result == 0 { Ok(number) } else { Err(not_sent(result)) }
    }
}
