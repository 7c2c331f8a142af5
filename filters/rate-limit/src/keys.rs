//! What a limit counts a request by, and how much the request costs.

pub mod cost;
pub mod hasher;
pub(crate) mod request_key;
