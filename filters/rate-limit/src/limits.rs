//! Limits within the proxy: [`gcra`] is the algorithm, [`slots`] keeps the state of all keys in shared data, [`limiter`] charges
//! several limits at once and lets a worker work ahead.

pub mod gcra;
pub mod limiter;
pub mod slots;
