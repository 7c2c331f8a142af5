use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What was awaited did not come within the bound.
#[derive(Debug, thiserror::Error)]
#[error("{0} did not come within {1:?}")]
pub struct TimedOut(String, Duration);

/// Long enough for a machine that is busy with something else: only a failure waits so long. `PATIENCE=10` waits ten times as long,
/// for an Envoy under an instrument.
pub(crate) static BOUND: LazyLock<Duration> = LazyLock::new(|| {
    let times = std::env::var("PATIENCE").ok().and_then(|times| times.parse().ok());
    Duration::from_mins(1) * times.unwrap_or(1)
});

/// Asks `poll` until it gives a value, for at most a minute. `what` names the value in the error.
pub fn wait_for<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> Result<T, TimedOut> {
    let end = Instant::now() + *BOUND;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = poll() {
            return Ok(value);
        }
        if Instant::now() > end {
            return Err(TimedOut(what.to_owned(), *BOUND));
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
