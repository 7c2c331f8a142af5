//! Envoy's ABI for dynamic modules, and the only unsafe code of this host: the functions of the proxy ([`table`]), what they act on
//! ([`stream`], [`config`]), and the functions that the proxy calls ([`hooks`]).
#![allow(unsafe_code)]

pub(super) mod config;
mod hooks;
pub(super) mod stream;
mod table;

pub(super) use self::table::{bind, log_by};

use std::ffi::{CStr, c_char, c_void};

use self::table::Given;
use crate::request::headers::HeaderMap;

/// The version of the ABI for which this host was written: that of Envoy 1.38 and 1.39. Envoy 1.40 keeps its functions.
pub(super) const VERSION: &CStr = c"v0.1.0";

/// Bytes of the proxy or of this module.
#[repr(C)]
#[derive(Clone, Copy)]
struct Buffer {
    data: *const u8,
    length: usize,
}

impl Buffer {
    const NONE: Self = Self { data: std::ptr::null(), length: 0 };

    fn of(bytes: &[u8]) -> Self {
        Self { data: bytes.as_ptr(), length: bytes.len() }
    }

    /// # Safety
    /// The buffer is [`Buffer::NONE`], or `length` bytes are readable behind `data` for as long as `'a`.
    unsafe fn bytes<'a>(self) -> &'a [u8] {
        // SAFETY: as the caller promises.
        if self.data.is_null() { &[] } else { unsafe { std::slice::from_raw_parts(self.data, self.length) } }
    }
}

/// A header of the proxy or of this module.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    name: Buffer,
    value: Buffer,
}

impl Header {
    fn of(name: &str, value: &[u8]) -> Self {
        Self { name: Buffer::of(name.as_bytes()), value: Buffer::of(value) }
    }
}

/// # Safety
/// `count` items are readable behind `data` for as long as `'a`, or there is none.
unsafe fn slice<'a, T>(data: *const T, count: usize) -> &'a [T] {
    // SAFETY: as the caller promises.
    if data.is_null() || count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(data, count) } }
}

/// # Safety
/// These are headers of the proxy, and it changes none of them meanwhile.
unsafe fn header_map(headers: &[Header]) -> HeaderMap {
    // SAFETY: as the caller promises.
    HeaderMap::from_pairs(headers.iter().map(|header| unsafe { (header.name.bytes(), header.value.bytes()) }))
}

/// Makes the proxy call a hook in the thread of a stream or of a configuration, from any thread.
#[derive(Debug)]
pub(super) struct Waker {
    scheduler: Given,
    commit: unsafe extern "C" fn(Given, u64),
    delete: unsafe extern "C" fn(Given),
}

// SAFETY: the ABI allows to commit and to delete a scheduler from any thread. One that is in use by two threads at once is behind
// a lock, since it is not `Sync`.
unsafe impl Send for Waker {}

impl Waker {
    /// # Safety
    /// The proxy has just made the scheduler, for which it has the two functions; or it is null.
    unsafe fn new(
        scheduler: Given,
        commit: unsafe extern "C" fn(Given, u64),
        delete: unsafe extern "C" fn(Given),
    ) -> Option<Self> {
        if scheduler.is_null() { None } else { Some(Self { scheduler, commit, delete }) }
    }

    pub(super) fn wake(&self) {
        // SAFETY: the scheduler lives until it is dropped.
        unsafe { (self.commit)(self.scheduler, 0) }
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        // SAFETY: this was the only pointer to the scheduler.
        unsafe { (self.delete)(self.scheduler) }
    }
}

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// The address of a function that the proxy exports; null if it exports none of that name.
pub(super) fn exported(name: &CStr) -> *mut c_void {
    // SAFETY: null means all that the program has loaded, and the name ends with a zero byte.
    unsafe { dlsym(std::ptr::null_mut(), name.as_ptr()) }
}

/// The proxy's levels begin at 0 with trace.
fn number(level: log::Level) -> u32 {
    u32::try_from((log::Level::Trace as usize).saturating_sub(level as usize)).unwrap_or(0)
}

/// Writes a line to the proxy's log.
pub(super) fn log(level: log::Level, text: &str) {
    if let Some(table) = table::get() {
        // SAFETY: `text` is live for the call.
        unsafe { (table.log)(number(level), Buffer::of(text.as_bytes())) }
    }
}

/// Whether the proxy's log shows this level.
pub(super) fn log_enabled(level: log::Level) -> bool {
    // SAFETY: no pointers.
    table::get().is_some_and(|table| unsafe { (table.log_enabled)(number(level)) })
}
