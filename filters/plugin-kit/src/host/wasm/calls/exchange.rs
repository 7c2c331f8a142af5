//! The exchange whose callback is running: its headers, attributes and filter state, and the time.

use std::cell::Cell;
use std::time::Duration;

use proxy_wasm::types::MapType;

use super::answer::{Answer, buffer, done, head, property};
use super::environment::evaluate;
use super::metrics::expects_ticks;
use crate::host::wasm::abi::{self, wasi};
use crate::host::{RequestHost, Variable};
use crate::request::headers::HeaderMap;

thread_local! {
    /// Time since the Unix epoch as it was first asked for after the last tick.
    static RECENT: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Makes [`RequestHost::recent_unix_time`] ask the host again.
pub(super) fn forget_time() {
    RECENT.set(None);
}

/// The host of the stream whose callback is running.
pub struct WasmHost;

impl RequestHost for WasmHost {
    fn headers(&self) -> Answer<HeaderMap> {
        head(MapType::HttpRequestHeaders)
    }

    fn header_first(&self, name: &str) -> Answer<Option<Vec<u8>>> {
        Headers::Request.first(name)
    }

    fn header_joined(&self, name: &str) -> Answer<Option<Vec<u8>>> {
        // Envoy keeps these inline, where further values are joined to the first, or there is never more than one.
        if ["authorization", "x-request-id", ":path", ":method"].contains(&name) {
            return self.header_first(name);
        }
        property(&["request", "headers", name])
    }

    fn property(&self, path: &[&str]) -> Answer<Option<Vec<u8>>> {
        property(path)
    }

    fn evaluate(&self, expression: u32, variable: Option<Variable<'_>>) -> Answer<Option<Vec<u8>>> {
        if let Some((name, value)) = variable {
            set_filter_state(name, value)?;
        }
        evaluate(expression)
    }

    fn unix_time(&self) -> Answer<Duration> {
        let mut nanoseconds = 0_u64;
        // SAFETY: the pointer is live for the call.
        done("get_current_time_nanoseconds", unsafe {
            abi::proxy_get_current_time_nanoseconds(&raw mut nanoseconds)
        })?;
        Ok(Duration::from_nanos(nanoseconds))
    }

    fn recent_unix_time(&self) -> Answer<Duration> {
        if let Some(now) = RECENT.get() {
            return Ok(now);
        }
        let now = self.unix_time()?;
        if expects_ticks() {
            RECENT.set(Some(now));
        }
        Ok(now)
    }

    fn monotonic_time(&self) -> Answer<Duration> {
        let mut nanoseconds = 0_u64;
        // SAFETY: the pointer is live for the call.
        let errno = unsafe { wasi::clock_time_get(wasi::MONOTONIC, 1, &raw mut nanoseconds) };
        done("clock_time_get", u32::from(errno))?;
        Ok(Duration::from_nanos(nanoseconds))
    }
}

/// Time on the proxy's monotonic clock, see [`RequestHost::monotonic_time`].
pub fn monotonic_time() -> Answer<Duration> {
    WasmHost.monotonic_time()
}

/// Bytes that nobody can foresee.
pub fn random() -> Answer<[u8; 16]> {
    let mut bytes = [0; 16];
    // SAFETY: the buffer is live for the call.
    let errno = unsafe { wasi::random_get(bytes.as_mut_ptr(), bytes.len()) };
    done("random_get", u32::from(errno)).map(|()| bytes)
}

/// Writes the filter state `wasm.<key>` of the stream.
pub fn set_filter_state(key: &str, value: &[u8]) -> Answer<()> {
    // SAFETY: `key` and `value` are live for the call.
    done("set_property", unsafe {
        abi::proxy_set_property(key.as_ptr(), key.len(), value.as_ptr(), value.len())
    })
}

/// A header map that can be written.
#[derive(Debug, Clone, Copy)]
pub enum Headers {
    /// The request on its way to the service.
    Request,
    /// The response on its way to the client.
    Response,
}

impl Headers {
    fn map(self) -> u32 {
        match self {
            Self::Request => MapType::HttpRequestHeaders as u32,
            Self::Response => MapType::HttpResponseHeaders as u32,
        }
    }

    /// Replaces every value of `name` by this one. On a request this also makes Envoy choose the route again.
    pub fn set(self, name: &str, value: &[u8]) -> Answer<()> {
        // SAFETY: `name` and `value` are live for the call.
        done("replace_header_map_value", unsafe {
            abi::proxy_replace_header_map_value(
                self.map(),
                name.as_ptr(),
                name.len(),
                value.as_ptr(),
                value.len(),
            )
        })
    }

    /// Adds a value of `name` to those that are there. On a request this also makes Envoy choose the route again.
    pub fn add(self, name: &str, value: &[u8]) -> Answer<()> {
        // SAFETY: `name` and `value` are live for the call.
        done("add_header_map_value", unsafe {
            abi::proxy_add_header_map_value(
                self.map(),
                name.as_ptr(),
                name.len(),
                value.as_ptr(),
                value.len(),
            )
        })
    }

    /// Removes every value of `name`. Where the host says that there is none, although the filter has seen one, nothing was
    /// removed: that is an error.
    pub fn remove(self, name: &str) -> Answer<()> {
        // SAFETY: `name` is live for the call.
        done("remove_header_map_value", unsafe {
            abi::proxy_remove_header_map_value(self.map(), name.as_ptr(), name.len())
        })
    }

    /// The first value of `name`.
    pub fn first(self, name: &str) -> Answer<Option<Vec<u8>>> {
        // SAFETY: `name` and both pointers are live for the call.
        buffer("get_header_map_value", |data, len| unsafe {
            abi::proxy_get_header_map_value(self.map(), name.as_ptr(), name.len(), data, len)
        })
    }
}
