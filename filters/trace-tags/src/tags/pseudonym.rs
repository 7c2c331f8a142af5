//! Pseudonyms, which tags share with the details of limits.

pub use plugin_kit::request::pseudonym::{Pseudonym, ShortKey};
