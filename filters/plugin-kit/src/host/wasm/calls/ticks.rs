//! The timer, and what is put off until it fires.

use std::time::Duration;

use super::answer::{Answer, done};
use super::exchange::forget_time;
use super::metrics::{expect_ticks, tell_pending};
use crate::host::wasm::abi;

/// Tells the host what counters hold back, and forgets what time it was. The dispatcher calls it at each tick.
pub(crate) fn tick() {
    forget_time();
    tell_pending();
}

/// Sets the period of ticks. From then on the dispatcher calls [`tick`] at each of them.
pub(crate) fn start_ticks(period: Duration) {
    match set_tick_period(period) {
        Ok(()) => expect_ticks(),
        // `::log`: there is a sibling module of that name.
        Err(error) => ::log::warn!("no timer, so each count is a host call: {error}"),
    }
}

/// Calls `on_tick` of the root context whose callback is running, every `period`; zero stops it.
pub(crate) fn set_tick_period(period: Duration) -> Answer<()> {
    let millis = u32::try_from(period.as_millis()).unwrap_or(u32::MAX);
    // SAFETY: no pointers.
    done("set_tick_period_milliseconds", unsafe { abi::proxy_set_tick_period_milliseconds(millis) })
}
