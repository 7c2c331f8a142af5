//! What is fetched: keys of issuers and lists of revoked tokens, and the requests that wait for them.

pub mod discovery;
pub mod documents;
pub mod failure;
pub mod introspection;
pub mod remote;
pub mod revocation;
pub mod schedule;
pub mod waiting;
