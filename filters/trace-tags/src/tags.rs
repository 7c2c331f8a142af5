//! Tags: where their values come from, when they are written, and how they are shown.

pub mod baggage;
pub mod pseudonym;
pub mod request_id;
pub mod tag;
pub mod text;
pub mod when;
