//! The proxy's log.

use log::Level;
use proxy_wasm::types::LogLevel;

use crate::host::logger::{self, Logger};
use crate::host::wasm::abi;

/// Makes the `log` crate write to the proxy's log, where Envoy's level of its `wasm` logger filters the lines.
pub(crate) fn start_log() {
    static LOGGER: Logger = Logger { shows: |_| true, write };
    logger::start(&LOGGER);
}

fn write(level: Level, text: &str) {
    let level = match level {
        Level::Error => LogLevel::Error,
        Level::Warn => LogLevel::Warn,
        Level::Info => LogLevel::Info,
        Level::Debug => LogLevel::Debug,
        Level::Trace => LogLevel::Trace,
    };
    // SAFETY: `text` is live for the call. A lost line is not worth a failed request.
    let _ = unsafe { abi::proxy_log(level as u32, text.as_ptr(), text.len()) };
}
