//! Envoy's ABI for dynamic modules, and the only unsafe code of this host: the functions of the proxy ([`table`]), what they act on
//! ([`stream`], [`config`]), and the functions that the proxy calls ([`hooks`]).
#![allow(unsafe_code)]

pub(super) mod config;
mod hooks;
pub(super) mod stream;
mod table;

use std::ffi::{CStr, c_char, c_void};

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

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// The address of a function that the proxy exports; null if it exports none of that name.
fn exported(name: &CStr) -> *mut c_void {
    // SAFETY: null means all that the program has loaded, and the name ends with a zero byte.
    unsafe { dlsym(std::ptr::null_mut(), name.as_ptr()) }
}

/// Finds the functions of the proxy. It can be called again.
///
/// # Errors
/// The names of those that the proxy does not have.
pub(super) fn bind() -> Result<(), Vec<String>> {
    table::bind(exported)
}

/// The proxy's levels, see [`log`].
pub(super) fn log_level(level: log::Level) -> u32 {
    match level {
        log::Level::Trace => 0,
        log::Level::Debug => 1,
        log::Level::Info => 2,
        log::Level::Warn => 3,
        log::Level::Error => 4,
    }
}

/// Writes a line to the proxy's log.
pub(super) fn log(level: u32, text: &str) {
    if let Some(table) = table::get() {
        // SAFETY: `text` is live for the call.
        unsafe { (table.log)(level, Buffer::of(text.as_bytes())) }
    }
}

/// Whether the proxy's log shows this level.
pub(super) fn log_enabled(level: u32) -> bool {
    // SAFETY: no pointers.
    table::get().is_some_and(|table| unsafe { (table.log_enabled)(level) })
}
