//! Limits over several proxies, which a rate limit service keeps.

pub mod health;
pub mod protocol;
