//! How host calls answer: a status, a buffer or a header map.

use proxy_wasm::types::{BufferType, MapType};

use crate::host::HostError;
use crate::host::wasm::abi;
use crate::request::headers::HeaderMap;

pub(super) const OK: u32 = 0;
pub(super) const NOT_FOUND: u32 = HostError::NOT_FOUND;
pub(super) const CAS_MISMATCH: u32 = HostError::CAS_MISMATCH;

pub(super) type Answer<T> = Result<T, HostError>;

pub(super) fn done(call: &'static str, status: u32) -> Answer<()> {
    if status == OK { Ok(()) } else { Err(HostError { call, status }) }
}

/// Runs a call that returns a buffer; `None` where the host has nothing under that name.
pub(super) fn buffer(
    call: &'static str,
    run: impl FnOnce(*mut *mut u8, *mut usize) -> u32,
) -> Answer<Option<Vec<u8>>> {
    let (mut data, mut len) = (std::ptr::null_mut::<u8>(), 0_usize);
    match run(&raw mut data, &raw mut len) {
        OK if data.is_null() || len == 0 => Ok(Some(Vec::new())),
        // SAFETY: the host got the buffer from this module's `proxy_on_memory_allocate`, which is the SDK's: a boxed
        // slice of `len` bytes from the global allocator, filled by the host and owned by nobody else.
        OK => Ok(Some(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(data, len)).into_vec() })),
        NOT_FOUND => Ok(None),
        status => Err(HostError { call, status }),
    }
}

pub(super) fn some(call: &'static str, answer: Option<Vec<u8>>) -> Answer<Vec<u8>> {
    answer.ok_or(HostError { call, status: NOT_FOUND })
}

pub(super) fn head(map: MapType) -> Answer<HeaderMap> {
    const CALL: &str = "get_header_map_pairs";
    // SAFETY: both pointers are live for the call.
    let raw = buffer(CALL, |data, len| unsafe { abi::proxy_get_header_map_pairs(map as u32, data, len) })?;
    HeaderMap::parse(some(CALL, raw)?).map_err(|_| HostError { call: CALL, status: HostError::MALFORMED })
}

/// An attribute, node metadata or filter state; `None` where there is none.
pub(super) fn property(path: &[&str]) -> Answer<Option<Vec<u8>>> {
    let path = path.join("\0");
    // SAFETY: `path` and both pointers are live for the call.
    buffer("get_property", |data, len| unsafe {
        abi::proxy_get_property(path.as_ptr(), path.len(), data, len)
    })
}

pub(super) fn bytes(source: BufferType, max: usize) -> Answer<Option<Vec<u8>>> {
    // SAFETY: both pointers are live for the call.
    buffer("get_buffer_bytes", |data, len| unsafe {
        abi::proxy_get_buffer_bytes(source as u32, 0, max, data, len)
    })
}

/// Calls a function that this host offers beyond the ABI, such as Envoy's `verify_signature`.
pub fn call_foreign_function(name: &str, argument: &[u8]) -> Answer<Vec<u8>> {
    // SAFETY: all buffers and both pointers are live for the call.
    let answer = buffer("call_foreign_function", |data, len| unsafe {
        abi::proxy_call_foreign_function(
            name.as_ptr(),
            name.len(),
            argument.as_ptr(),
            argument.len(),
            data,
            len,
        )
    })?;
    some("call_foreign_function", answer)
}
