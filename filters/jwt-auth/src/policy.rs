//! Who may: issuers and what is demanded of their tokens, and the rules about requests.

pub mod condition;
pub mod provider;
pub mod rules;
