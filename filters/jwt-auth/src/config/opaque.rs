//! What cannot be meant about opaque tokens, whose issuer is asked about them.

use plugin_kit::config::{ErrorList, JsonPath, shown_name};

use crate::policy::place::Place;
use crate::policy::provider::Provider;
use crate::policy::rules::{Access, Requirement, Rule, Verify};

/// `root` is the path of the configuration.
#[inline(never)]
pub(super) fn check(
    providers: &[Provider],
    places: &[Place],
    rules: &[Rule],
    root: &JsonPath,
    errors: &mut ErrorList,
) {
    let asks = |n: &usize| providers.get(*n).is_some_and(|p| p.keys.introspection().is_some());
    for place in places {
        for rule in (0..rules.len()).map(Some).chain([None]) {
            let looking = place.providers_for(&[rule]);
            let asking: Vec<&Provider> =
                looking.iter().filter(|n| asks(n)).filter_map(|n| providers.get(*n)).collect();
            let [first, second, ..] = asking.as_slice() else { continue };
            let message = format!(
                "looks for opaque tokens where `{}` does, so that one issuer would see the tokens of the other; expected another place \
                 in `from`",
                shown_name(&first.name)
            );
            errors.add(&root.field("providers").field(&second.name).field("introspection"), message);
            break;
        }
    }
    for (n, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.when.is_some()) {
        let lets_in = |provider: usize| match &rule.access {
            Access::Anyone(verify) => *verify != Verify::Never,
            Access::Nobody => false,
            Access::Require(requirement) => may_meet(requirement, provider),
        };
        if let Some(provider) = (0..providers.len()).filter(asks).find(|n| lets_in(*n)) {
            let name = providers.get(provider).map(|provider| shown_name(&provider.name)).unwrap_or_default();
            let message = format!(
                "is asked before the issuer has said what a token of `{name}` claims; expected `require` with another provider, or \
                 `claims` in the place of `when`"
            );
            errors.add(&root.field("rules").index(n).field("when"), message);
        }
    }
}

/// Whether a token of the provider at this position may meet the requirement, or a part of it.
fn may_meet(requirement: &Requirement, provider: usize) -> bool {
    match requirement {
        Requirement::Token(token) => token.providers.is_empty() || token.providers.contains(&provider),
        Requirement::AnyOf(parts) | Requirement::AllOf(parts) => {
            parts.iter().any(|part| may_meet(part, provider))
        }
    }
}
