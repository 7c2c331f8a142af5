//! A token whose signature and claims one provider has confirmed.

use std::cell::OnceCell;
use std::rc::{Rc, Weak};

use serde_json::{Map, Value};

use crate::keys::key::Key;
use crate::policy::condition;
use crate::token::claims::Validity;

/// A name and its value.
pub type Named = (Rc<str>, Rc<[u8]>);

/// A token that was verified, with all that follows from it worked out.
#[derive(Debug)]
pub struct Verified {
    /// Which provider confirmed it: its position in the configuration.
    pub provider: usize,
    /// When it is valid.
    pub validity: Validity,
    /// Its claims.
    pub claims: Map<String, Value>,
    /// The claims in the form in which CEL takes them, once they have been asked for; see [`Verified::typed`].
    pub typed: OnceCell<Option<Vec<u8>>>,
    /// Headers that the service gets: name and value.
    pub headers: Vec<Named>,
    /// Filter state that other filters get: key and value.
    pub published: Vec<Named>,
    /// How many claims could not become a header.
    pub outputs_failed: u32,
    /// The name of the key that signed it, as the set or else the token has it.
    pub kid: Option<String>,
    /// The key that signed it, for as long as the provider has it.
    pub key: Weak<Key>,
}

impl Verified {
    /// The claims in the form in which CEL takes them, see [`condition::typed`].
    pub fn typed(&self) -> Option<&[u8]> {
        self.typed.get_or_init(|| condition::typed(&self.claims)).as_deref()
    }

    /// Whether the key is still in the provider's set and the token is valid at `now` (seconds since the epoch).
    pub fn is_good(&self, now: u64) -> bool {
        self.key.strong_count() > 0 && self.validity.check(now).is_ok()
    }
}
