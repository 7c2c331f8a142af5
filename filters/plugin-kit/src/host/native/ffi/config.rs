//! A configuration of the proxy, and what can be asked of it.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::table::{self, Given};
use super::{Buffer, Header};
use crate::host::HostError;

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

    /// What wakes the main thread for this configuration.
    pub(in crate::host::native) fn waker(&self, _: MainThread) -> Option<Waker> {
        // SAFETY: the configuration lives.
        let scheduler =
            table::get().map(|table| unsafe { (table.http_filter_config_scheduler_new)(self.config) });
        scheduler.filter(|scheduler| !scheduler.is_null()).map(Waker)
    }

    /// Starts an HTTP call, whose whole response comes to a hook, and returns its number.
    pub(in crate::host::native) fn call(&self, _: MainThread, message: &Message) -> Result<u64, HostError> {
        let (table, mut id, headers) = (table::get().ok_or(not_sent("http_call", 0))?, 0, headers(message));
        let (cluster, body) = (Buffer::of(message.cluster.as_bytes()), Buffer::of(&message.body));
        // SAFETY: the configuration lives, this is the main thread, and all pointers are live for the call.
        let status = unsafe {
            (table.http_filter_config_http_callout)(
                self.config,
                &raw mut id,
                cluster,
                headers.as_ptr(),
                headers.len(),
                body,
                milliseconds(message),
            )
        };
        if status == 0 { Ok(id) } else { Err(not_sent("http_call", status)) }
    }

    /// Starts an HTTP call whose response comes to hooks part by part, and returns its number.
    pub(in crate::host::native) fn call_in_parts(
        &self,
        _: MainThread,
        message: &Message,
    ) -> Result<u64, HostError> {
        let (table, mut id, headers) = (table::get().ok_or(not_sent("grpc_call", 0))?, 0, headers(message));
        let (cluster, body) = (Buffer::of(message.cluster.as_bytes()), Buffer::of(&message.body));
        // SAFETY: the configuration lives, this is the main thread, and all pointers are live for the call.
        let status = unsafe {
            (table.http_filter_config_start_http_stream)(
                self.config,
                &raw mut id,
                cluster,
                headers.as_ptr(),
                headers.len(),
                body,
                true,
                milliseconds(message),
            )
        };
        if status == 0 { Ok(id) } else { Err(not_sent("grpc_call", status)) }
    }
}

/// The error of a call that the proxy did not send: 1 and 2 say that a header is missing and that there is no such cluster.
fn not_sent(call: &'static str, result: u32) -> HostError {
    let status = if matches!(result, 1 | 2) { HostError::BAD_ARGUMENT } else { HostError::INTERNAL_FAILURE };
    HostError { call, status }
}

fn headers(message: &Message) -> Vec<Header> {
    message.headers.iter().map(|(name, value)| Header::of(name, value.as_bytes())).collect()
}

fn milliseconds(message: &Message) -> u64 {
    u64::try_from(message.timeout.as_millis()).unwrap_or(u64::MAX)
}

/// Makes the proxy call the hook of a configuration on its main thread, from any thread.
#[derive(Debug)]
pub(in crate::host::native) struct Waker(Given);

// SAFETY: the ABI allows to commit and to delete a scheduler from any thread. It is behind the lock of its configuration, since it
// is not `Sync`, and dropped before the proxy ends, in the hook that destroys the configuration.
unsafe impl Send for Waker {}

impl Waker {
    pub(in crate::host::native) fn wake(&self) {
        if let Some(table) = table::get() {
            // SAFETY: the scheduler lives until it is dropped.
            unsafe { (table.http_filter_config_scheduler_commit)(self.0, 0) }
        }
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        if let Some(table) = table::get() {
            // SAFETY: this was the only pointer to the scheduler.
            unsafe { (table.http_filter_config_scheduler_delete)(self.0) }
        }
    }
}
