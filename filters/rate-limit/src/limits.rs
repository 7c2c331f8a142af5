//! Limits within the proxy. [`gcra`] is the algorithm, and [`slots`] keeps the state of all keys in shared
//! data. [`limiter`] charges several limits at once, and takes leases (`lease`) so that a busy key costs few
//! host calls. [`charge`] is what it is asked and what it answers.

pub mod charge;
pub mod gcra;
mod lease;
pub mod limiter;
pub mod slots;
