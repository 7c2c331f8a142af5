//! Tokens: where a request carries one, what it says, and what a verified one leaves behind.

pub mod base64url;
pub mod cache;
pub mod claims;
pub mod compact;
pub mod location;
pub mod output;
pub mod refused;
pub mod verified;
