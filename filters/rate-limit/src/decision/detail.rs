//! The detail of a denial, for access logs and spans: the limit, and whose bucket is empty.
//!
//! It is made after the decision, so a request that goes on pays nothing for it. It names what the limit
//! counts by. A value of that would be a user's name or address, so it is shown under a pseudonym, or not at
//! all.

use plugin_kit::reply::detail::Detail;
use plugin_kit::request::exchange::Exchange;
use plugin_kit::request::pseudonym::Pseudonym;
use plugin_kit::request::source::Source;

use super::{Denial, Limits};
use crate::config::Limit;
use crate::reply::DenyReason;

impl Limits {
    /// The name of a limit.
    pub fn name(&self, limit: Option<usize>) -> &str {
        self.limit(limit).map_or("", |limit| limit.name.as_str())
    }

    fn limit(&self, limit: Option<usize>) -> Option<&Limit> {
        self.config.limits.get(limit?)
    }

    /// The detail of a denial.
    #[inline(never)]
    pub fn detail(&self, denial: &Denial, exchange: &Exchange<'_>) -> String {
        let mut detail = Detail::default();
        let limit = self.limit(denial.limit);
        if let Some(limit) = limit {
            detail.add("limit", &limit.name);
        }
        detail.add("check", denial.reason.code());
        if let Some(failure) = denial.failure {
            detail.add("failure", failure);
        }
        // A request that was not counted has no bucket.
        if let (Some(limit), DenyReason::Limited(_) | DenyReason::KeyMissing) = (limit, denial.reason) {
            let missing = denial.shared || denial.reason == DenyReason::KeyMissing;
            let pseudonym = self.config.pseudonym.as_ref();
            tell_of_bucket(limit, missing, pseudonym, exchange, &mut detail);
        }
        detail.into_text()
    }

    /// The detail of a request that these limits would have denied if they were enforced.
    #[inline(never)]
    pub fn detail_of_reported(&self, limits: &[usize]) -> String {
        let mut detail = Detail::default();
        detail.add("mode", "report");
        detail.list("limit", limits.iter().map(|limit| self.name(Some(*limit))));
        detail.into_text()
    }
}

/// Whose bucket it is: that of one key, that of all requests without a part of the key, or the only one.
#[inline(never)]
fn tell_of_bucket(
    limit: &Limit,
    missing: bool,
    pseudonym: Option<&Pseudonym>,
    exchange: &Exchange<'_>,
    detail: &mut Detail,
) {
    let parts: Vec<String> = limit.key.iter().map(Source::describe).collect();
    if parts.is_empty() {
        return detail.add("bucket", "of all requests");
    }
    detail.list("key", parts.iter().map(String::as_str));
    if !missing {
        detail.add("bucket", "of one key");
        if let Some(pseudonym) = pseudonym {
            let values = limit.key.iter().map(|source| source.first_value(exchange).ok().flatten());
            let values = values.map(|value| pseudonym.of(&value.unwrap_or_default()));
            let values: Vec<String> = values.collect();
            detail.list("pseudonym", values.iter().map(String::as_str));
        }
        return;
    }
    detail.add("bucket", "shared by requests without the key");
    let lacks = |source: &&Source| matches!(source.first_value(exchange), Ok(None));
    let lacking: Vec<String> = limit.key.iter().filter(lacks).map(Source::describe).collect();
    detail.list("missing", lacking.iter().map(String::as_str));
}
