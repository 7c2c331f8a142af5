//! A stream of the proxy, and what can be asked of it.

use super::table::{self, Given, Table};
use super::{Buffer, Header, Waker, header_map};
use crate::reply::Reply;
use crate::request::headers::HeaderMap;

/// A stream that lives. A value exists only within hooks, and in the tables of a worker, which forget it in the hook that says
/// that the stream is destroyed. It cannot leave its thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::host::native) struct Stream(Given);

/// A header map of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(in crate::host::native) enum Map {
    /// On its way to the service.
    Request = 0,
    /// On its way to the client.
    Response = 2,
}

/// The value of an attribute.
pub(in crate::host::native) enum Attribute {
    /// Text or bytes.
    Text(Vec<u8>),
    /// A number.
    Number(u64),
    /// A truth.
    Truth(bool),
}

impl Stream {
    /// # Safety
    /// The proxy has just given this pointer to a hook, and the value is dropped or forgotten as its type says.
    pub(super) unsafe fn new(stream: Given) -> Self {
        Self(stream)
    }

    /// All headers; `None` if the stream does not have them (yet).
    pub(in crate::host::native) fn headers(self, map: Map) -> Option<HeaderMap> {
        let table = table::get()?;
        // SAFETY: the stream lives.
        let count = unsafe { (table.http_get_headers_size)(self.0, map as u32) };
        let mut headers: smallvec::SmallVec<[Header; 32]> = smallvec::SmallVec::new();
        headers.resize(count, Header { name: Buffer::NONE, value: Buffer::NONE });
        // SAFETY: the stream lives, and there is room for all headers. What is written points into the proxy's header map, which
        // nobody changes until the copy is made.
        unsafe {
            (table.http_get_headers)(self.0, map as u32, headers.as_mut_ptr()).then(|| header_map(&headers))
        }
    }

    /// Reads the first value of a header, if there is one. `read` must not change the headers.
    pub(in crate::host::native) fn header<T>(
        self,
        map: Map,
        name: &str,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        self.value(map, name, 0, |value, _| read(value))
    }

    /// All values of a request header, joined by a comma.
    pub(in crate::host::native) fn header_joined(self, name: &str) -> Option<Vec<u8>> {
        let (mut joined, count) =
            self.value(Map::Request, name, 0, |value, count| (value.to_vec(), count))?;
        for at in 1..count {
            self.value(Map::Request, name, at, |value, _| {
                joined.push(b',');
                joined.extend_from_slice(value);
            });
        }
        Some(joined)
    }

    /// Reads the value of a header at a position among those of this name, and how many there are.
    fn value<T>(self, map: Map, name: &str, at: usize, read: impl FnOnce(&[u8], usize) -> T) -> Option<T> {
        let (mut value, mut count) = (Buffer::NONE, 0);
        let name = Buffer::of(name.as_bytes());
        // SAFETY: the stream lives, and all pointers are live for the call. The value is readable until the header map changes, which
        // `read` does not do.
        unsafe {
            (table::get()?.http_get_header)(self.0, map as u32, name, &raw mut value, at, &raw mut count)
                .then(|| read(value.bytes(), count))
        }
    }

    /// Replaces every value of a header by this one, or removes it.
    pub(in crate::host::native) fn set_header(self, map: Map, name: &str, value: Option<&[u8]>) -> bool {
        // An empty slice has a pointer, which is what distinguishes an empty value from none.
        let value = value.map_or(Buffer::NONE, Buffer::of);
        // SAFETY: the stream lives, and both buffers are live for the call.
        table::get().is_some_and(|table| unsafe {
            (table.http_set_header)(self.0, map as u32, Buffer::of(name.as_bytes()), value)
        })
    }

    /// Adds a value of a header to those that are there.
    pub(in crate::host::native) fn add_header(self, map: Map, name: &str, value: &[u8]) -> bool {
        // SAFETY: the stream lives, and both buffers are live for the call.
        table::get().is_some_and(|table| unsafe {
            (table.http_add_header)(self.0, map as u32, Buffer::of(name.as_bytes()), Buffer::of(value))
        })
    }

    /// Writes a filter state. The proxy refuses a second value for a key, but does not say so.
    pub(in crate::host::native) fn set_filter_state(self, key: &[u8], value: &[u8]) -> bool {
        // SAFETY: the stream lives, and both buffers are live for the call.
        table::get().is_some_and(|table| unsafe {
            (table.http_set_filter_state_bytes)(self.0, Buffer::of(key), Buffer::of(value))
        })
    }

    /// A filter state: that of a module, or else that of any other filter that has a text.
    pub(in crate::host::native) fn filter_state(self, key: &[u8]) -> Option<Vec<u8>> {
        let key = Buffer::of(key);
        // SAFETY: the stream lives, `key` and the answer's place are live for the call, and the answer is copied at once.
        Self::bytes(|table, value| unsafe { (table.http_get_filter_state_bytes)(self.0, key, value) })
            .or_else(|| {
                Self::bytes(|table, value| unsafe { (table.http_get_filter_state_typed)(self.0, key, value) })
            })
    }

    /// The attribute that has this number in the ABI.
    pub(in crate::host::native) fn attribute(self, id: u32) -> Option<Attribute> {
        // SAFETY: the stream lives, and the answer is copied at once.
        let text = Self::bytes(|table, value| unsafe {
            (table.http_filter_get_attribute_string)(self.0, id, value)
        });
        if let Some(text) = text {
            return Some(Attribute::Text(text));
        }
        let (table, mut number, mut truth) = (table::get()?, 0, false);
        // SAFETY: the stream lives, and the places of the answers are live for the calls.
        unsafe {
            if (table.http_filter_get_attribute_int)(self.0, id, &raw mut number) {
                return Some(Attribute::Number(number));
            }
            (table.http_filter_get_attribute_bool)(self.0, id, &raw mut truth)
                .then_some(Attribute::Truth(truth))
        }
    }

    fn bytes(ask: impl FnOnce(&Table, *mut Buffer) -> bool) -> Option<Vec<u8>> {
        let mut value = Buffer::NONE;
        // SAFETY: what the proxy has written is readable until the stream is changed, which the copy does not do.
        ask(table::get()?, &raw mut value).then(|| unsafe { value.bytes() }.to_vec())
    }

    /// Makes the proxy choose the route again, by the headers as they are now.
    pub(in crate::host::native) fn clear_route(self) {
        if let Some(table) = table::get() {
            // SAFETY: the stream lives.
            unsafe { (table.http_clear_route_cache)(self.0) }
        }
    }

    /// Answers in the place of the service. The stream may be destroyed when this returns.
    pub(in crate::host::native) fn send(self, reply: &Reply) {
        let headers: Vec<_> =
            reply.headers.iter().map(|(name, value)| Header::of(name, value.as_bytes())).collect();
        let (body, details) = (Buffer::of(&reply.body), Buffer::of(reply.details.as_bytes()));
        if let Some(table) = table::get() {
            // SAFETY: the stream lives until then, and all buffers are live for the call.
            unsafe {
                (table.http_send_response)(
                    self.0,
                    u32::from(reply.status),
                    headers.as_ptr(),
                    headers.len(),
                    body,
                    details,
                );
            }
        }
    }

    /// Ends the stream without an answer. It may be destroyed when this returns.
    pub(in crate::host::native) fn reset(self) {
        /// Of the ABI: this proxy has reset it.
        const LOCAL_RESET: u32 = 0;
        if let Some(table) = table::get() {
            // SAFETY: the stream lives until then, and no details are given.
            unsafe { (table.http_filter_reset_stream)(self.0, LOCAL_RESET, Buffer::NONE) }
        }
    }

    /// Lets a paused request go on. The stream may be destroyed when this returns.
    pub(in crate::host::native) fn resume(self) {
        if let Some(table) = table::get() {
            // SAFETY: the stream lives until then.
            unsafe { (table.http_filter_continue_decoding)(self.0) }
        }
    }

    /// What wakes the stream's worker from another thread. It may outlive the stream: then nothing is called.
    pub(in crate::host::native) fn waker(self) -> Option<Waker> {
        let table = table::get()?;
        // SAFETY: the stream lives, and all three are functions of the scheduler of a stream.
        unsafe {
            let scheduler = (table.http_filter_scheduler_new)(self.0);
            Waker::new(scheduler, table.http_filter_scheduler_commit, table.http_filter_scheduler_delete)
        }
    }
}
