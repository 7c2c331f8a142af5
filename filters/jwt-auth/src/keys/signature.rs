//! What checks signatures, and what it says of one.

use crate::keys::key::Key;
use crate::token::compact::UntrustedToken;

/// What a signature check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The key has made the signature.
    Valid,
    /// The key has not made the signature, or the signature could not be read.
    Invalid,
    /// The check was not made, since there were too many slow ones.
    Overloaded,
}

/// Checks signatures.
pub trait Verifier {
    /// Whether `token` carries a signature by `key` with the algorithm that it names. The caller has seen
    /// that the algorithm is one of the key's.
    fn verify(&self, key: &Key, token: &UntrustedToken<'_>) -> Verdict;
}
