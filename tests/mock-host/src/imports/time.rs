//! The clock and the timer.

use std::time::Duration;

use super::guest::{Done, Guest};
use crate::vm::Timer;

#[allow(clippy::unnecessary_wraps, reason = "the form of all host calls")]
pub(super) fn set_tick_period_milliseconds(guest: &mut Guest, period: u32) -> Done {
    let Some((root, _)) = guest.root() else { return Ok(()) };
    let state = guest.state();
    let period = Duration::from_millis(u64::from(period));
    let now = state.host.borrow().clock.monotonic();
    // `Wasm::setTimerPeriod` (Envoy wasm.cc): a period of 0 stops the timer, another starts it anew.
    if period.is_zero() {
        state.timers.remove(&root);
    } else {
        state.timers.insert(root, Timer { period, due: now + period });
    }
    Ok(())
}

pub(super) fn get_current_time_nanoseconds(guest: &mut Guest, to: u32) -> Done {
    let now = guest.state().host.borrow().clock.wall();
    let nanoseconds = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    Ok(guest.write(to, &nanoseconds.to_le_bytes())?)
}
