//! What may go wrong between the headers that carry tokens, the headers that this filter sets, and the headers
//! that rules test.

use plugin_kit::config::{Code, ErrorList, JsonPath};

use crate::policy::place::Place;
use crate::policy::provider::Provider;
use crate::policy::rules::Rule;
use crate::token::location::TokenLocation;
use crate::token::output::OwnHeaders;

/// `root` is the path of the configuration.
#[inline(never)]
pub(super) fn check(
    providers: &[Provider],
    places: &[Place],
    rules: &[Rule],
    root: &JsonPath,
    errors: &mut ErrorList,
) {
    let own = OwnHeaders::new(providers.iter().flat_map(Provider::own_headers));
    for Place { location, providers: users, .. } in places {
        if let TokenLocation::Header { name, .. } = location
            && own.contain(name.as_bytes())
            && let Some(provider) = users.first().and_then(|n| providers.get(*n))
        {
            let path = root.field("providers").field(&provider.name).field("from");
            let message = "names a header that a provider sets, and that is removed from each request";
            errors.note(Code::TokenHeaderIsOutput, &path, message);
        }
    }
    for (n, rule) in rules.iter().enumerate() {
        for name in rule.condition.header_names().filter(|name| own.contain(name.as_bytes())) {
            let path = root.field("rules").index(n).field("match").field("headers").field(name);
            let message = "is set by this filter alone, so that no request has it yet";
            errors.note(Code::TestOfOwnHeader, &path, message);
        }
    }
}
