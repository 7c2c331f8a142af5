//! Logs, counters, gauges and histograms.

use super::guest::{Done, Guest};
use crate::host::logs::Level;
use crate::host::metrics::Kind;
use crate::vm::abi::Status;

pub(super) fn log(guest: &mut Guest, level: u32, text: u32, size: u32) -> Done {
    let level = Level::new(level).ok_or(Status::BAD_ARGUMENT)?;
    let message = guest.read_text(text, size)?;
    guest.state().log(level, message);
    Ok(())
}

/// Everything is logged here, so the level is trace.
pub(super) fn get_log_level(guest: &mut Guest, to: u32) -> Done {
    Ok(guest.write_word(to, Level::Trace as u32)?)
}

pub(super) fn define_metric(guest: &mut Guest, kind: u32, name: u32, name_size: u32, to: u32) -> Done {
    let name = guest.read_text(name, name_size)?;
    let state = guest.state();
    let id = state.metric_ids.define(kind, &name)?;
    state.host.borrow_mut().metrics.define(Kind::try_from(kind)?, &name);
    Ok(guest.write_word(to, id)?)
}

pub(super) fn increment_metric(guest: &mut Guest, id: u32, offset: i64) -> Done {
    let state = guest.state();
    Ok(state.host.borrow_mut().metrics.increment(&state.metric_ids, id, offset)?)
}

pub(super) fn record_metric(guest: &mut Guest, id: u32, value: u64) -> Done {
    let state = guest.state();
    Ok(state.host.borrow_mut().metrics.record(&state.metric_ids, id, value)?)
}

pub(super) fn get_metric(guest: &mut Guest, id: u32, to: u32) -> Done {
    let state = guest.state();
    let value = state.host.borrow().metrics.get(&state.metric_ids, id)?;
    Ok(guest.write(to, &value.to_le_bytes())?)
}
