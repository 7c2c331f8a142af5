//! The tokens of a request: where they are found, and what is removed of them before the request goes on.

use std::borrow::Cow;
use std::rc::Rc;

use plugin_kit::request::headers::HeaderMap;
use plugin_kit::trace::{self, Note};

use crate::config::{Config, SeveralTokens};
use crate::policy::place::Place;
use crate::reply::DenyReason;
use crate::token::location::{self, Edit, TokenLocation};
use crate::token::verified::Verified;

/// The most tokens of one request that are looked at.
const MOST_TOKENS: usize = 16;

/// A token that was found.
pub(super) struct FoundToken<'a> {
    /// The token itself.
    pub(super) token: Cow<'a, [u8]>,
    /// The position of its place.
    pub(super) place: usize,
    /// The positions of the providers that look there.
    pub(super) providers: Cow<'a, [usize]>,
}

/// A token that was found and confirmed.
pub(super) struct Confirmed<'a> {
    /// The position of its place.
    pub(super) place: usize,
    /// The positions of the providers that look there.
    pub(super) providers: Cow<'a, [usize]>,
    /// What each provider confirms of it.
    pub(super) all: Rc<[Verified]>,
    /// Why a further provider that looks there could not say whether it confirms the token.
    pub(super) undecided: Option<DenyReason>,
}

/// The tokens of a request about which these rules decide, in the order in which the tokens speak for it.
pub(super) fn find<'a>(
    config: &'a Config,
    head: &'a HeaderMap,
    rules: &[Option<usize>],
) -> Result<Vec<FoundToken<'a>>, DenyReason> {
    let mut found = Vec::new();
    for (n, place) in config.places.iter().enumerate() {
        let providers = place.providers_for(rules);
        if providers.is_empty() {
            trace::note(|| {
                Note::new("place").at(n).holds(!place.location.is_taken(head)).received(&place.location)
            });
            continue;
        }
        let tokens = place.location.tokens(head).map_err(|_| DenyReason::SeveralTokens)?;
        found.extend(tokens.into_iter().map(|token| FoundToken {
            token,
            place: n,
            providers: providers.clone(),
        }));
    }
    let most = if config.several_tokens == SeveralTokens::Reject { 1 } else { MOST_TOKENS };
    if found.len() > most { Err(DenyReason::SeveralTokens) } else { Ok(found) }
}

/// Whether one of `providers`, which look at the place of the token, confirms it and leaves it in the request.
pub(super) fn forwards(config: &Config, all: &[Verified], providers: &[usize]) -> bool {
    let forwards = |position: usize| config.providers.get(position).is_some_and(|provider| provider.forward);
    all.iter().any(|verified| providers.contains(&verified.provider) && forwards(verified.provider))
}

/// Whether every provider that looks at a place, for whichever rules, leaves tokens there.
fn forwards_all_at(config: &Config, place: &Place) -> bool {
    place.providers.iter().all(|provider| config.providers.get(*provider).is_some_and(|p| p.forward))
}

/// What to do to the headers that carried tokens which no provider forwards, confirmed or not.
#[inline(never)]
pub(super) fn spent<'a>(config: &'a Config, head: &HeaderMap, confirmed: &[Confirmed<'_>]) -> Vec<Edit<'a>> {
    let spent = |n: usize, place: &Place| {
        let mut here = confirmed.iter().filter(|confirmed| confirmed.place == n).peekable();
        match here.peek() {
            Some(_) => here.any(|confirmed| !forwards(config, &confirmed.all, &confirmed.providers)),
            None => !forwards_all_at(config, place) && place.location.is_taken(head),
        }
    };
    let places = config.places.iter().enumerate().filter(|(n, place)| spent(*n, place));
    let locations: Vec<&TokenLocation> = places.map(|(_, place)| &place.location).collect();
    if locations.is_empty() { Vec::new() } else { location::without_tokens(&locations, head) }
}
