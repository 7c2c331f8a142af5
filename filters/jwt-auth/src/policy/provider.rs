//! An issuer of tokens, and what its tokens must show.

use std::rc::Rc;

use serde_json::{Map, Value};

use crate::fetch::remote::Remote;
use crate::fetch::revocation::{RemoteList, Revoked};
use crate::keys::algorithm::Algorithm;
use crate::keys::jwk::KeySet;
use crate::token::claims::{ClaimPath, Pattern, Policy};
use crate::token::compact::UntrustedToken;
use crate::token::output;
use crate::token::verified::Named;

/// An issuer, where its keys are, and what its tokens must show.
#[derive(Debug)]
pub struct Provider {
    /// Its name in the configuration.
    pub name: String,
    /// What `iss` must be.
    pub issuer: Pattern,
    /// The algorithms that its tokens may be signed with.
    pub algorithms: Vec<Algorithm>,
    /// What the claims must show.
    pub policy: Policy,
    /// Tokens that are refused although their signature and claims are good.
    pub revoked: Revoked,
    /// A list of further such tokens, at a URL.
    pub revoked_elsewhere: Option<RemoteList>,
    /// Where its keys come from.
    pub keys: KeySource,
    /// The most keys that one token is tried against.
    pub most_tried: usize,
    /// The claims that the service gets in headers.
    pub claim_headers: Vec<(ClaimPath, Rc<str>)>,
    /// The header that gets the payload, as it stands in the token.
    pub payload_header: Option<Rc<str>>,
    /// Whether the service gets the token, too.
    pub forward: bool,
}

impl Provider {
    /// Whether a token with these claims says that it comes from this issuer.
    pub fn is_issuer_of(&self, claims: &Map<String, Value>) -> bool {
        claims.get("iss").and_then(Value::as_str).is_some_and(|iss| self.issuer.matches(iss))
    }

    /// Whether it fetches keys or a list of revoked tokens.
    pub fn fetches(&self) -> bool {
        self.keys.remote().is_some() || self.revoked_elsewhere.is_some()
    }

    /// The headers that the service gets for this token, and how many claims could not become one.
    pub fn headers(&self, token: &UntrustedToken<'_>) -> (Vec<Named>, u32) {
        let outputs = self.claim_headers.iter().map(|(path, header)| (path, Rc::clone(header)));
        let (mut headers, failed) = output::headers(&token.claims, outputs);
        if let Some(header) = &self.payload_header {
            let payload = token.signing_input.split('.').nth(1).unwrap_or_default();
            headers.push((Rc::clone(header), payload.as_bytes().into()));
        }
        (headers, failed)
    }
}

/// Where the keys of a provider come from.
#[derive(Debug)]
pub enum KeySource {
    /// They stand in the configuration.
    Inline(Rc<KeySet>),
    /// They are fetched from the issuer.
    Remote(Remote),
}

impl KeySource {
    /// The keys, if they stand in the configuration.
    pub fn inline(&self) -> Option<&Rc<KeySet>> {
        match self {
            Self::Inline(set) => Some(set),
            Self::Remote(_) => None,
        }
    }

    /// Where the keys are fetched, if they are.
    pub fn remote(&self) -> Option<&Remote> {
        match self {
            Self::Inline(_) => None,
            Self::Remote(remote) => Some(remote),
        }
    }
}
