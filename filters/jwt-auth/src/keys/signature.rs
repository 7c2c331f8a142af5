//! What checks signatures, and what it says of one.

use crate::keys::key::Key;
use crate::token::compact::UntrustedToken;

/// What a signature check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The signature is the key's.
    Valid,
    /// It is not, or could not be read.
    Invalid,
    /// The check was not made: there were too many slow ones.
    Overloaded,
}

/// Checks signatures.
pub trait Verifier {
    /// Whether `token` carries a signature by `key` with the algorithm that it names. The caller has seen that the
    /// algorithm is one of the key's.
    fn verify(&self, key: &Key, token: &UntrustedToken<'_>) -> Verdict;
}
