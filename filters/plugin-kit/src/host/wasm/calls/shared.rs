//! The data that all workers of the proxy share.

use super::answer::{Answer, CAS_MISMATCH, buffer, done};
use crate::host::SharedValue;
use crate::host::wasm::abi;

/// Reads shared data. Any plugin of the proxy can have written it.
pub fn shared_data(key: &str) -> Answer<Option<SharedValue>> {
    let mut cas = 0_u32;
    let cas_at = &raw mut cas;
    // SAFETY: `key` and the three pointers are live for the call.
    let bytes = buffer("get_shared_data", |data, len| unsafe {
        abi::proxy_get_shared_data(key.as_ptr(), key.len(), data, len, cas_at)
    })?;
    Ok(bytes.map(|bytes| SharedValue { bytes, cas }))
}

/// Writes shared data if nobody has since it was read with `cas`; with 0, whatever it holds. `false` means that
/// somebody has. Envoy ignores `cas` where the key is absent.
pub fn set_shared_data(key: &str, bytes: &[u8], cas: u32) -> Answer<bool> {
    // SAFETY: `key` and `bytes` are live for the call.
    let status =
        unsafe { abi::proxy_set_shared_data(key.as_ptr(), key.len(), bytes.as_ptr(), bytes.len(), cas) };
    if status == CAS_MISMATCH { Ok(false) } else { done("set_shared_data", status).map(|()| true) }
}
