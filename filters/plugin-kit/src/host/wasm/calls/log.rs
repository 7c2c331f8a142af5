//! The proxy's log.

use proxy_wasm::types::LogLevel;

use crate::host::wasm::abi;

/// Sends the records of the `log` crate to the proxy's log, where Envoy's level of its `wasm` logger filters them.
struct HostLog;

impl log::Log for HostLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let level = match record.level() {
            log::Level::Error => LogLevel::Error,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Info => LogLevel::Info,
            log::Level::Debug => LogLevel::Debug,
            log::Level::Trace => LogLevel::Trace,
        };
        let text = record.args().to_string();
        // SAFETY: `text` is live for the call. A lost line is not worth a failed request.
        let _ = unsafe { abi::proxy_log(level as u32, text.as_ptr(), text.len()) };
    }

    fn flush(&self) {}
}

/// Makes the `log` crate write to the proxy's log. Debug and below are formatted only in a debug build: formatting on
/// the request path costs more than the decision.
pub(crate) fn start_log() {
    static LOG: HostLog = HostLog;
    if log::set_logger(&LOG).is_ok() {
        log::set_max_level(if cfg!(debug_assertions) {
            log::LevelFilter::Trace
        } else {
            log::LevelFilter::Info
        });
    }
}
