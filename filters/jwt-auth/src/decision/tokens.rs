//! The tokens of a request: where they are found, and what is removed of them before the request goes on.

use std::borrow::Cow;
use std::rc::Rc;

use plugin_kit::request::headers::HeaderMap;

use crate::config::{Config, SeveralTokens};
use crate::reply::DenyReason;
use crate::token::location::{self, Edit, TokenLocation};
use crate::token::verified::Verified;

/// The most tokens of one request that are looked at.
const MOST_TOKENS: usize = 16;

/// A token that was found, and the position of its location.
pub(super) type FoundToken<'a> = (usize, Cow<'a, [u8]>);

/// A token that was found and confirmed.
pub(super) struct Confirmed {
    /// The position of its location.
    pub(super) location: usize,
    /// What each provider confirms of it.
    pub(super) all: Rc<[Verified]>,
    /// Why a further provider that looks there could not say whether it confirms the token.
    pub(super) undecided: Option<DenyReason>,
}

/// The tokens of a request, in the order in which they speak for it.
pub(super) fn find<'a>(config: &Config, head: &'a HeaderMap) -> Result<Vec<FoundToken<'a>>, DenyReason> {
    let mut found = Vec::new();
    for (n, (location, _)) in config.locations.iter().enumerate() {
        let tokens = location.tokens(head).map_err(|_| DenyReason::SeveralTokens)?;
        found.extend(tokens.into_iter().map(|token| (n, token)));
    }
    let most = if config.several_tokens == SeveralTokens::Reject { 1 } else { MOST_TOKENS };
    if found.len() > most { Err(DenyReason::SeveralTokens) } else { Ok(found) }
}

/// The positions of the providers that look at the location at this position.
pub(super) fn providers_at(config: &Config, location: usize) -> &[usize] {
    config.locations.get(location).map(|(_, providers)| providers.as_slice()).unwrap_or_default()
}

/// Whether a provider that confirms the token leaves it in the request.
pub(super) fn forwards(config: &Config, all: &[Verified]) -> bool {
    all.iter().any(|verified| config.providers.get(verified.provider).is_some_and(|p| p.forward))
}

/// Whether every provider that looks at a location leaves tokens there.
fn forwards_all_at(config: &Config, location: usize) -> bool {
    let mut providers = providers_at(config, location).iter();
    providers.all(|provider| config.providers.get(*provider).is_some_and(|p| p.forward))
}

/// What to do to the headers that carried tokens which no provider forwards, confirmed or not.
#[inline(never)]
pub(super) fn spent<'a>(config: &'a Config, head: &HeaderMap, confirmed: &[Confirmed]) -> Vec<Edit<'a>> {
    let spent = |n: usize, location: &TokenLocation| {
        let mut here = confirmed.iter().filter(|confirmed| confirmed.location == n).peekable();
        match here.peek() {
            Some(_) => here.any(|confirmed| !forwards(config, &confirmed.all)),
            None => !forwards_all_at(config, n) && location.is_taken(head),
        }
    };
    let locations = config.locations.iter().enumerate().filter(|(n, (location, _))| spent(*n, location));
    let locations: Vec<&TokenLocation> = locations.map(|(_, (location, _))| location).collect();
    if locations.is_empty() { Vec::new() } else { location::without_tokens(&locations, head) }
}
