//! Envoy as the host, by its ABI for dynamic modules: the filters in the process of the proxy, without a VM.
//!
//! A configuration is read on the main thread first: a refused one never reaches a worker. Each worker makes a filter of its own from
//! it when its first request comes, as the seam says. What the workers share is in [`config`]: counters, calls to other services
//! (which the main thread makes for all of them) and mailboxes, by which a worker hears of their outcomes. Shared data is a
//! table of the process.
//!
//! A panic in a hook is caught where it happens: the request is answered with 500, and the proxy lives.

pub mod calls;
mod cel;
mod config;
mod crypto;
mod document;
mod ffi;
mod live;
mod node;
mod outside;
mod shared;

use std::ffi::{CStr, c_char, c_void};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use self::config::Shared;
use self::ffi::config::MainThread;
use self::live::{Hosted, Live};
use crate::host::Filter;

/// A filter of a module: its name, which Envoy's `filter_name` chooses, and how it is made from a configuration.
pub struct Entry {
    name: &'static str,
    make: Make,
}

/// Makes the filter of a configuration in a thread; on the main thread, in the hook that makes the configuration, with a proof of that.
type Make = fn(&Arc<Shared>, Option<MainThread>) -> Option<Rc<dyn Hosted>>;

impl Entry {
    /// This filter.
    pub const fn of<F: Filter>() -> Self {
        Self { name: F::NAME, make: Live::<F>::make }
    }
}

static FILTERS: OnceLock<&'static [Entry]> = OnceLock::new();

/// The filter of this name.
fn filter(name: &[u8]) -> Option<&'static Entry> {
    FILTERS.get()?.iter().find(|entry| entry.name.as_bytes() == name)
}

/// The entry point of a module: finds the functions of the proxy, and returns the version of the ABI. Null if the proxy lacks a
/// function, so that it unloads the module and refuses the configuration.
#[doc(hidden)]
pub fn start(filters: &'static [Entry]) -> *const c_char {
    start_with(filters, ffi::exported)
}

/// The same for a proxy whose functions have these addresses.
#[doc(hidden)]
pub fn start_with(filters: &'static [Entry], address: impl Fn(&CStr) -> *mut c_void) -> *const c_char {
    if let Err(missing) = ffi::bind(&address) {
        let text = format!(
            "mesh-filters: this proxy lacks functions of the ABI {} of dynamic modules, for which this module was built (Envoy 1.39): {}",
            CStr::to_string_lossy(ffi::VERSION),
            missing.join(", ")
        );
        #[allow(clippy::print_stderr, reason = "a proxy without a function for its log")]
        if !ffi::log_by(address, log::Level::Error, &text) {
            eprintln!("{text}");
        }
        return std::ptr::null();
    }
    let _ = FILTERS.set(filters);
    live::start_log();
    ffi::VERSION.as_ptr()
}

/// The entry point of a native module with these [`Filter`]s.
#[macro_export]
macro_rules! native_module {
    ($($filter:ty),+ $(,)?) => {
        /// Called by the proxy when it has loaded the module.
        #[allow(unsafe_code)]
        // SAFETY: no other function of the module has this name.
        #[unsafe(no_mangle)]
        pub extern "C" fn envoy_dynamic_module_on_program_init() -> *const std::ffi::c_char {
            static FILTERS: &[$crate::host::native::Entry] = &[$($crate::host::native::Entry::of::<$filter>()),+];
            $crate::host::native::start(FILTERS)
        }
    };
}
