//! The metrics of the filter.

use plugin_kit::host::Counter;

use crate::tags::request_id::Origin;

/// The counters.
pub(crate) struct Metrics {
    tags_written: Counter,
    tags_missing: Counter,
    request_ids_generated: Counter,
    request_ids_replaced: Counter,
    /// Reads and writes that the host refused.
    pub(crate) host_calls_failed: Counter,
}

impl Metrics {
    pub(crate) fn define() -> Self {
        Self {
            tags_written: Counter::define("trace_tags_tags_written"),
            tags_missing: Counter::define("trace_tags_tags_missing"),
            request_ids_generated: Counter::define("trace_tags_request_ids_generated"),
            request_ids_replaced: Counter::define("trace_tags_request_ids_replaced"),
            host_calls_failed: Counter::define("trace_tags_host_calls_failed"),
        }
    }

    /// Counts the tags that were written, those that ended without a value, and where the request ID is from.
    pub(crate) fn count(&self, written: u32, missing: u32, origin: Option<Origin>) {
        self.tags_written.add(written);
        self.tags_missing.add(missing);
        match origin {
            Some(Origin::Generated) => self.request_ids_generated.increment(),
            Some(Origin::Replaced) => self.request_ids_replaced.increment(),
            Some(Origin::Kept) | None => {}
        }
    }
}
