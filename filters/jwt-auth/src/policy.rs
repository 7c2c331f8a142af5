//! Who may make a request: issuers and what their tokens must show, and the rules about requests.

pub mod condition;
pub mod place;
pub mod provider;
pub mod rules;
