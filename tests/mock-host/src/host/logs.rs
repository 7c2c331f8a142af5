//! What the filters logged.

/// Log levels of the ABI (`LogLevel`, the numbers of spdlog).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the specification's")]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Critical,
}

impl Level {
    pub(crate) fn new(number: u32) -> Option<Self> {
        [Self::Trace, Self::Debug, Self::Info, Self::Warn, Self::Error, Self::Critical]
            .get(usize::try_from(number).ok()?)
            .copied()
    }
}

/// One line of a filter's log, or of the host about a VM that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Level.
    pub level: Level,
    /// The text.
    pub message: String,
    /// The plugin that logged, empty where none was current.
    pub plugin: String,
    /// The stream whose context was current; `None` for a root context.
    pub(crate) stream: Option<u64>,
}

impl Log {
    /// Whether a root context logged, not a stream's. In Envoy's log such a line does not name the plugin.
    pub fn is_root(&self) -> bool {
        self.stream.is_none()
    }
}
