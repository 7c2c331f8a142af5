//! By what a limit counts, and how much.

pub mod cost;
pub mod key;
