//! trace-tags without a proxy. This module does for the core what the shell does in a proxy.

use std::hash::{BuildHasher, RandomState};

use plugin_kit::host::HostError;
use plugin_kit::request::exchange::Exchange;
use trace_tags::decision::{Change, Effects};
use trace_tags::tags::baggage;
use trace_tags::tags::request_id::HEADER;

use super::facts::Facts;

/// The random bits of a new request ID.
#[allow(clippy::unnecessary_wraps, reason = "the core takes what a host may fail to give")]
pub(super) fn random() -> Result<u128, HostError> {
    let part = || u128::from(RandomState::new().hash_one(0));
    Ok(part() << 64 | part())
}

pub(super) fn carry_out(effects: Effects<'_>, facts: &Facts<'_>, exchange: &Exchange<'_>) {
    for (key, value) in &effects.tags {
        facts.set_state(key, value);
    }
    if let Some(id) = effects.request_header {
        facts.set(HEADER, id.as_bytes());
        exchange.note_header(HEADER, id.as_bytes());
    }
    match effects.baggage {
        Change::None => {}
        Change::Set(value) => {
            facts.set(baggage::HEADER, value.as_bytes());
            exchange.note_header(baggage::HEADER, value.as_bytes());
        }
        Change::Remove => {
            facts.remove(baggage::HEADER);
            exchange.note_header_removed(baggage::HEADER);
        }
    }
    if let Some(id) = effects.response_header {
        facts.set_on_response(HEADER, &String::from_utf8_lossy(id.as_bytes()));
    }
}
