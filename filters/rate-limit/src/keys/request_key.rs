//! The key of a request: what a limit counts it by.

use plugin_kit::host::HostError;
use plugin_kit::request::exchange::Exchange;
use plugin_kit::request::source::Source;
use plugin_kit::trace::{self, Note};

use crate::config::{GlobalLimit, Limit, OnMissingKey, Plans};
use crate::keys::hasher::KeyHasher;
use crate::limits::gcra::Rate;
use crate::limits::slots::KeyHash;
use crate::service::protocol::Descriptor;

/// What a limit counts a request by.
pub(crate) struct RequestKey {
    pub(crate) hash: KeyHash,
    pub(crate) rate: Rate,
    pub(crate) single: Option<usize>,
    /// What the rate limit service is asked.
    pub(crate) descriptor: Option<Descriptor>,
    /// Whether a part of the key tells requests apart.
    pub(crate) is_known: bool,
}

/// Whether a part of the limit's key is a claim.
pub(crate) fn is_keyed_by_claim(limit: &Limit) -> bool {
    limit.key.iter().any(|source| matches!(source, Source::Claim(_)))
}

/// Whether the request is a CORS preflight, which browsers send without a token.
pub(crate) fn is_preflight(exchange: &Exchange<'_>) -> Result<bool, HostError> {
    Ok(exchange.header_first(":method")?.as_deref() == Some(b"OPTIONS") && exchange.headers()?.is_preflight())
}

/// The limit's key of the request; `None` if a part is missing and the limit does not count such requests.
/// `incomplete` is set if a part is missing.
pub(crate) fn request_key(
    limit: &Limit,
    (hasher, plan_hashers): &(KeyHasher, Vec<KeyHasher>),
    exchange: &Exchange<'_>,
    incomplete: &mut bool,
) -> Result<Option<RequestKey>, HostError> {
    limit.head_use.prepare(exchange)?;
    let (mut rate, mut hasher, mut single) = (limit.rate, hasher, limit.single);
    if let Some(Plans { from, rates }) = &limit.plans {
        let plan = from.value(exchange)?;
        trace::note(|| {
            let known = rates.iter().any(|(name, _)| plan.as_deref() == Some(name.as_bytes()));
            Note::new("plan").holds(known).received_bytes(plan.as_deref())
        });
        let known =
            rates.iter().zip(plan_hashers).find(|((name, _), _)| plan.as_deref() == Some(name.as_bytes()));
        if let Some(((_, plan_rate), plan_hasher)) = known {
            (rate, hasher, single) = (*plan_rate, plan_hasher, None);
        }
    }
    let mut hasher = hasher.clone();
    let mut descriptor = limit.global.as_ref().map(|_| Descriptor::default());
    let mut is_known = false;
    for (n, source) in limit.key.iter().enumerate() {
        // The first value of a header, as Envoy's own limits take it: a client that sends more values must
        // not get a new key.
        let part = source.first_value(exchange)?;
        trace::note(|| Note::new("key").at(n).holds(part.is_some()).received_bytes(part.as_deref()));
        *incomplete |= part.is_none();
        let gives_up = match limit.on_missing_key {
            OnMissingKey::ShareOne => false,
            // A part that may be there is not skipped.
            OnMissingKey::Skip => part.is_none() && !source.is_in_doubt(exchange)?,
            OnMissingKey::Deny => part.is_none(),
        };
        if gives_up {
            return Ok(None);
        }
        hasher.part(part.as_deref());
        is_known |= part.is_some() && !matches!(source, Source::Fixed(_) | Source::WorkloadLabel(_));
        if let Some(GlobalLimit { entries, .. }) = &limit.global {
            let entry = entries.get(n).map_or("", String::as_str);
            descriptor = descriptor.map(|d| d.entry(entry, part.as_deref().unwrap_or_default()));
        }
    }
    if let Some(GlobalLimit { send_rate, .. }) = &limit.global {
        if limit.key.is_empty() {
            descriptor = descriptor.map(|d| d.entry("generic_key", limit.name.as_bytes()));
        }
        if *send_rate {
            descriptor = descriptor.map(|d| d.limit(&rate));
        }
    }
    Ok(Some(RequestKey { hash: hasher.finish(), rate, single, descriptor, is_known }))
}
