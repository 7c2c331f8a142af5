use std::thread::sleep;
use std::time::{Duration, Instant};

/// What was awaited did not come within the bound.
#[derive(Debug, thiserror::Error)]
#[error("{0} did not come within {1:?}")]
pub struct TimedOut(String, Duration);

/// Asks `poll` until it gives a value, for at most 10 seconds. `what` names the value in the error.
pub fn wait_for<T>(what: &str, poll: impl FnMut() -> Option<T>) -> Result<T, TimedOut> {
    wait_within(Duration::from_secs(10), what, poll)
}

pub(crate) fn wait_within<T>(
    bound: Duration,
    what: &str,
    mut poll: impl FnMut() -> Option<T>,
) -> Result<T, TimedOut> {
    let end = Instant::now() + bound;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = poll() {
            return Ok(value);
        }
        if Instant::now() > end {
            return Err(TimedOut(what.to_owned(), bound));
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
