//! An issuer of tokens, and what its tokens must show.

use std::fmt;
use std::rc::Rc;

use serde_json::{Map, Value};

use crate::fetch::introspection::Introspection;
use crate::fetch::remote::Remote;
use crate::fetch::revocation::{RemoteList, Revoked};
use crate::keys::algorithm::Algorithm;
use crate::keys::jwk::KeySet;
use crate::token::claims::{ClaimPath, Pattern, Policy};
use crate::token::output;
use crate::token::verified::Named;

/// An issuer, where its keys are, and what its tokens must show.
#[derive(Debug)]
pub struct Provider {
    /// Its name in the configuration.
    pub name: String,
    /// Whose tokens it confirms.
    pub issuer: Issuer,
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
        self.issuer.has_made(claims)
    }

    /// Whether its tokens may be padded: those of AWS ALB are.
    pub fn takes_padding(&self) -> bool {
        !self.policy.signers.is_empty()
    }

    /// Whether it fetches keys or a list of revoked tokens, or asks about tokens.
    pub fn fetches(&self) -> bool {
        self.keys.inline().is_none() || self.revoked_elsewhere.is_some()
    }

    /// The headers that the service gets for a token with these claims and this payload, and how many claims could not become
    /// one.
    pub fn headers(&self, claims: &Map<String, Value>, payload: Option<&str>) -> (Vec<Named>, u32) {
        let outputs = self.claim_headers.iter().map(|(path, header)| (path, Rc::clone(header)));
        let (mut headers, failed) = output::headers(claims, outputs);
        if let (Some(header), Some(payload)) = (&self.payload_header, payload) {
            headers.push((Rc::clone(header), payload.as_bytes().into()));
        }
        (headers, failed)
    }
}

/// Whose tokens a provider confirms: at least one of both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// What `iss` must be.
    pub iss: Option<Pattern>,
    /// The SPIFFE trust domain that `sub` must be in.
    pub trust_domain: Option<String>,
}

impl Issuer {
    /// Whether it may have made a token with these claims. If they do not say who has, it may.
    pub fn may_have_made(&self, claims: &Map<String, Value>) -> bool {
        !claims.contains_key("iss") || self.has_made(claims)
    }

    fn has_made(&self, claims: &Map<String, Value>) -> bool {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let named = |iss: &Pattern| text("iss").is_some_and(|text| iss.matches(text));
        let within = |domain: &String| text("sub").is_some_and(|sub| is_workload_of(domain, sub));
        self.iss.as_ref().is_none_or(named) && self.trust_domain.as_ref().is_none_or(within)
    }

    /// Whether some token may be of both.
    pub fn may_share(&self, other: &Self) -> bool {
        let iss = self.iss.as_ref().zip(other.iss.as_ref());
        let trust_domain = self.trust_domain.as_ref().zip(other.trust_domain.as_ref());
        iss.is_none_or(|(own, others)| own.may_share(others))
            && trust_domain.is_none_or(|(own, others)| own == others)
    }
}

/// Whether `sub` is the SPIFFE ID of a workload in a trust domain (SPIFFE ID, section 2).
fn is_workload_of(domain: &str, sub: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let path = sub.strip_prefix("spiffe://").and_then(|id| id.strip_prefix(domain)?.strip_prefix('/'));
    path.is_some_and(|path| {
        let mut segments = path.split('/');
        segments.all(|segment| !["", ".", ".."].contains(&segment) && segment.bytes().all(good))
    })
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.iss, &self.trust_domain) {
            (Some(iss), _) => iss.fmt(f),
            (None, domain) => write!(f, "spiffe://{}", domain.as_deref().unwrap_or_default()),
        }
    }
}

/// Where the keys of a provider come from.
#[derive(Debug)]
pub enum KeySource {
    /// They stand in the configuration.
    Inline(Rc<KeySet>),
    /// They are fetched from the issuer.
    Remote(Remote),
    /// There are none: the issuer says whether a token is good.
    Introspection(Box<Introspection>),
}

impl KeySource {
    /// The keys, if they stand in the configuration.
    pub fn inline(&self) -> Option<&Rc<KeySet>> {
        match self {
            Self::Inline(set) => Some(set),
            Self::Remote(_) | Self::Introspection(_) => None,
        }
    }

    /// Where the keys are fetched, if they are.
    pub fn remote(&self) -> Option<&Remote> {
        match self {
            Self::Inline(_) | Self::Introspection(_) => None,
            Self::Remote(remote) => Some(remote),
        }
    }

    /// The endpoint that says whether a token is good, if one does.
    pub fn introspection(&self) -> Option<&Introspection> {
        match self {
            Self::Introspection(endpoint) => Some(endpoint),
            Self::Inline(_) | Self::Remote(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workload_is_in_its_trust_domain_alone() {
        for (sub, expected) in [
            ("spiffe://example.org/ns/a/sa/b", true),
            ("spiffe://example.org/x_y.z-1", true),
            ("spiffe://example.org", false),
            ("spiffe://example.org/", false),
            ("spiffe://example.org/a/", false),
            ("spiffe://example.org//a", false),
            ("spiffe://example.org/../a", false),
            ("spiffe://example.org/a%2fb", false),
            ("spiffe://example.org/a?b", false),
            ("spiffe://example.org.evil.test/a", false),
            ("spiffe://evil.test/example.org/a", false),
            ("SPIFFE://example.org/a", false),
            ("https://example.org/a", false),
            ("", false),
        ] {
            assert_eq!(is_workload_of("example.org", sub), expected, "{sub}");
        }
    }

    #[test]
    fn issuers_that_differ_in_one_thing_share_no_token() {
        let issuer = |iss: Option<&str>, domain: Option<&str>| Issuer {
            iss: iss.map(|iss| Pattern::parse(iss).unwrap()),
            trust_domain: domain.map(str::to_owned),
        };
        let both = issuer(Some("https://a"), Some("a"));
        assert!(both.may_share(&issuer(Some("https://*"), None)));
        assert!(both.may_share(&issuer(None, Some("a"))));
        assert!(!both.may_share(&issuer(None, Some("b"))));
        assert!(!both.may_share(&issuer(Some("https://b"), Some("a"))));
    }
}
