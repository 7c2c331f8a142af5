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
    /// The resource.
    pub(crate) place: String,
    /// The JSON path in the pluginConfig, or in the resource if that is no plugin. It is empty if the finding is about
    /// the whole resource.
    pub(crate) path: String,
    /// The message: what was found and what was expected.
    pub(crate) message: String,
}

impl Finding {
    /// The message with its path.
    pub(crate) fn text(&self) -> String {
        if self.path.is_empty() { self.message.clone() } else { format!("{}: {}", self.path, self.message) }
    }

    /// What was found, and what was expected or what to do.
    pub(crate) fn found_and_expected(&self) -> (String, String) {
        let Some((before, after)) = self.message.split_once("expected ") else {
            return (self.message.clone(), self.code.explanation());
        };
        let found = after.split_once(", found ").or_else(|| after.split_once("; found "));
        let (expected, found) = found.unwrap_or((after, before.trim_end_matches([' ', ',', ';', ':'])));
        let found = if found.is_empty() { self.code.explanation() } else { found.to_owned() };
        (found, expected.to_owned())
    }
}
