//! The proxy's functions, found by name when the module is loaded. So a proxy that lacks one gives a message that says which, and a
//! test that links this crate needs none of them.

use std::ffi::{CStr, c_void};
use std::sync::OnceLock;

use super::{Buffer, Header};

/// A pointer that the proxy has given: a stream, a configuration or a scheduler.
pub(super) type Given = *mut c_void;

macro_rules! functions {
    ($($name:ident($($argument:ty),*) $(-> $answer:ty)?;)*) => {
        /// The functions of the ABI that this host calls.
        #[derive(Clone, Copy)]
        pub(super) struct Table {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) $(-> $answer)?,)*
        }

        fn find(address: impl Fn(&CStr) -> *mut c_void) -> Result<Table, Vec<String>> {
            let mut missing: Vec<String> = Vec::new();
            $(
                let name = concat!("envoy_dynamic_module_callback_", stringify!($name), "\0");
                let $name = CStr::from_bytes_with_nul(name.as_bytes()).map_or(std::ptr::null_mut(), &address);
                if $name.is_null() {
                    missing.push(name.trim_end_matches('\0').to_owned());
                }
            )*
            if !missing.is_empty() {
                return Err(missing);
            }
            // SAFETY: no address is null, and each is that of the function of this name, whose arguments and answer in the ABI
            // v0.1.0 are those of its field.
            Ok(unsafe {
                Table {
                    $($name: std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) $(-> $answer)?>($name),)*
                }
            })
        }
    };
}

functions! {
    log(u32, Buffer);
    log_enabled(u32) -> bool;
    http_get_header(Given, u32, Buffer, *mut Buffer, usize, *mut usize) -> bool;
    http_get_headers_size(Given, u32) -> usize;
    http_get_headers(Given, u32, *mut Header) -> bool;
    http_add_header(Given, u32, Buffer, Buffer) -> bool;
    http_set_header(Given, u32, Buffer, Buffer) -> bool;
    http_send_response(Given, u32, *const Header, usize, Buffer, Buffer);
    http_set_filter_state_bytes(Given, Buffer, Buffer) -> bool;
    http_get_filter_state_bytes(Given, Buffer, *mut Buffer) -> bool;
    http_get_filter_state_typed(Given, Buffer, *mut Buffer) -> bool;
    http_clear_route_cache(Given);
    http_filter_get_attribute_string(Given, u32, *mut Buffer) -> bool;
    http_filter_get_attribute_int(Given, u32, *mut u64) -> bool;
    http_filter_get_attribute_bool(Given, u32, *mut bool) -> bool;
    http_filter_continue_decoding(Given);
    http_filter_reset_stream(Given, u32, Buffer);
    http_filter_scheduler_new(Given) -> Given;
    http_filter_scheduler_commit(Given, u64);
    http_filter_scheduler_delete(Given);
    http_filter_config_scheduler_new(Given) -> Given;
    http_filter_config_scheduler_commit(Given, u64);
    http_filter_config_scheduler_delete(Given);
    http_filter_config_define_counter(Given, Buffer, *const Buffer, usize, *mut usize) -> u32;
    http_filter_config_define_gauge(Given, Buffer, *const Buffer, usize, *mut usize) -> u32;
    http_filter_config_increment_counter(Given, usize, *const Buffer, usize, u64) -> u32;
    http_filter_config_set_gauge(Given, usize, *const Buffer, usize, u64) -> u32;
    http_filter_config_http_callout(Given, *mut u64, Buffer, *const Header, usize, Buffer, u64) -> u32;
    http_filter_config_start_http_stream(Given, *mut u64, Buffer, *const Header, usize, Buffer, bool, u64) -> u32;
}

static TABLE: OnceLock<Table> = OnceLock::new();

/// The proxy's functions; `None` in a program that is not a proxy.
pub(super) fn get() -> Option<&'static Table> {
    TABLE.get()
}

/// Writes a line to the log of a proxy that may lack other functions; `false` if it lacks that one.
pub(in crate::host::native) fn log_by(
    address: impl Fn(&CStr) -> *mut c_void,
    level: log::Level,
    line: &str,
) -> bool {
    let log = address(c"envoy_dynamic_module_callback_log");
    if log.is_null() {
        return false;
    }
    // SAFETY: this is the function of this name, and the line is live for the call.
    unsafe {
        let log = std::mem::transmute::<*mut c_void, unsafe extern "C" fn(u32, Buffer)>(log);
        log(super::number(level), Buffer::of(line.as_bytes()));
    }
    true
}

/// Finds the functions of the proxy. It can be called again.
///
/// # Errors
/// The names of those that the proxy does not have.
pub(in crate::host::native) fn bind(address: impl Fn(&CStr) -> *mut c_void) -> Result<(), Vec<String>> {
    let table = find(address)?;
    let _ = TABLE.set(table);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_the_proxy_lacks_is_named() {
        let here = std::ptr::from_ref(&0_u8).cast_mut().cast();
        let lacks = |name: &CStr| match name.to_bytes() {
            b"envoy_dynamic_module_callback_http_get_header" => std::ptr::null_mut(),
            _ => here,
        };
        assert_eq!(find(lacks).err().unwrap(), ["envoy_dynamic_module_callback_http_get_header"]);
        assert!(find(|_| here).is_ok());
    }
}
