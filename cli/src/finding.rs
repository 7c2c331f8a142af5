//! The findings of `check`.

use std::ops::Range;

use plugin_kit::config::Code;

/// A finding.
pub(crate) struct Finding {
    /// The kind of finding.
    pub(crate) code: Code,
    /// The position of its source.
    pub(crate) source: usize,
    /// Its place in the source, in bytes.
    pub(crate) span: Range<usize>,
    /// The resource, and the JSON path in its pluginConfig if the finding is about that.
    pub(crate) place: String,
    /// The message: what was found and what was expected.
    pub(crate) message: String,
}
