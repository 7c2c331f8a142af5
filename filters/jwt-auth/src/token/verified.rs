//! A token whose signature and claims one provider has confirmed.

use std::cell::OnceCell;
use std::rc::{Rc, Weak};

use serde_json::{Map, Value};

use crate::keys::key::Key;
use crate::policy::condition;
use crate::token::claims::Validity;

/// A name and its value.
pub type Named = (Rc<str>, Rc<[u8]>);

/// A verified token, with the headers and filter state that follow from its claims.
#[derive(Debug)]
pub struct Verified {
    /// Which provider confirmed it: its position in the configuration.
    pub provider: usize,
    /// When it is valid.
    pub validity: Validity,
    /// Its claims.
    pub claims: Rc<Map<String, Value>>,
    /// The claims as a Struct for CEL, once they have been asked for; see [`Verified::typed`].
    pub typed: OnceCell<Option<Vec<u8>>>,
    /// The headers that the service gets: names and values.
    pub headers: Vec<Named>,
    /// The filter state that other filters get: keys and values.
    pub published: Vec<Named>,
    /// How many claims could not become a header or filter state.
    pub outputs_failed: u32,
    /// The `kid` of the key that signed it: from the JWKS, or else from the token's header.
    pub kid: Option<String>,
    /// The key that signed it, for as long as the provider has it.
    pub key: Weak<Key>,
}

impl Verified {
    /// The claims as a Struct for CEL, see [`condition::typed`].
    pub fn typed(&self) -> Option<&[u8]> {
        self.typed.get_or_init(|| condition::typed(&self.claims)).as_deref()
    }

    /// Whether the key is still in the provider's set and the token is valid at `now` (seconds since the
    /// epoch).
    pub fn is_good(&self, now: u64) -> bool {
        self.key.strong_count() > 0 && self.validity.check(now).is_ok()
    }
}
