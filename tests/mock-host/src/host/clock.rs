//! The proxy's two clocks, moved by the test alone.

use std::time::Duration;

/// Wall clock and monotonic clock. They advance together; only the wall clock can be set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    wall: Duration,
    monotonic: Duration,
}

impl Clock {
    /// A clock at `unix` since the epoch. The monotonic clock starts elsewhere so that a mix-up of the two
    /// shows.
    pub(crate) fn new(unix: Duration) -> Self {
        Self { wall: unix, monotonic: Duration::from_secs(1_000) }
    }

    /// Time since the Unix epoch: `proxy_get_current_time_nanoseconds` and WASI clock 0.
    pub(crate) fn wall(&self) -> Duration {
        self.wall
    }

    /// Time since an arbitrary start: WASI clock 1, Rust's `Instant`; the same for all workers.
    pub(crate) fn monotonic(&self) -> Duration {
        self.monotonic
    }

    /// Moves both clocks forward.
    pub(crate) fn advance(&mut self, by: Duration) {
        self.wall += by;
        self.monotonic += by;
    }

    /// Sets the wall clock alone, as an administrator or NTP does.
    pub(crate) fn set_wall(&mut self, unix: Duration) {
        self.wall = unix;
    }
}
