//! What `check` finds.

use std::ops::Range;

use plugin_kit::config::Code;

/// Something that was found.
pub(crate) struct Finding {
    /// What kind of thing.
    pub(crate) code: Code,
    /// The position of its source.
    pub(crate) source: usize,
    /// Its place there, in bytes.
    pub(crate) span: Range<usize>,
    /// The resource that it is in, and the JSON path within its pluginConfig where it is about that.
    pub(crate) place: String,
    /// What was found, and what was expected.
    pub(crate) message: String,
}
