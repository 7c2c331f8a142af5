//! The `log` crate in a proxy.

use log::{Level, LevelFilter, Log, Metadata, Record};

/// Sends records to the proxy's log.
pub(super) struct Logger {
    /// Whether the proxy's log shows this level.
    pub(super) shows: fn(Level) -> bool,
    /// Writes a line.
    pub(super) write: fn(Level, &str),
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        (self.shows)(metadata.level())
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            (self.write)(record.level(), &record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// Makes the `log` crate write to the proxy's log; `false` if it does already. Debug and below are formatted only in a debug build:
/// formatting on the request path costs more than the decision.
pub(super) fn start(logger: &'static Logger) -> bool {
    let first = log::set_logger(logger).is_ok();
    if first {
        log::set_max_level(if cfg!(debug_assertions) { LevelFilter::Trace } else { LevelFilter::Info });
    }
    first
}
