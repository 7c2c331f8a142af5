//! Where requests carry tokens, and which providers look there.

use std::borrow::Cow;

use crate::token::location::TokenLocation;

/// A place where requests carry tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The place itself.
    pub location: TokenLocation,
    /// The positions of the providers that look there.
    pub providers: Vec<usize>,
    /// The providers that look there for some rules alone, each with the positions of these rules.
    limits: Vec<(usize, Vec<usize>)>,
}

impl Place {
    /// Adds to `places` that a provider looks at a location: for these rules, or else for every request. The places stay in the order
    /// in which tokens say who makes a request: by kind, and within a kind in the order in which they were added.
    pub fn add(places: &mut Vec<Self>, location: TokenLocation, provider: usize, rules: Option<Vec<usize>>) {
        let known = places.iter().position(|place| place.location == location);
        let at = known.unwrap_or_else(|| {
            let behind = places.partition_point(|place| place.location.rank() <= location.rank());
            places.insert(behind, Self { location, providers: Vec::new(), limits: Vec::new() });
            behind
        });
        let Some(place) = places.get_mut(at) else { return };
        if !place.providers.contains(&provider) {
            place.providers.push(provider);
        }
        place.limits.extend(rules.map(|rules| (provider, rules)));
    }

    /// The providers that look there for a request about which these rules decide, of which each must say so.
    pub fn providers_for(&self, rules: &[Option<usize>]) -> Cow<'_, [usize]> {
        if self.limits.is_empty() {
            return Cow::Borrowed(&self.providers);
        }
        let looks = |provider: &&usize| {
            let mut limits = self.limits.iter().filter(|(limited, _)| limited == *provider).peekable();
            limits.peek().is_none()
                || rules.iter().all(|rule| {
                    rule.is_some_and(|rule| limits.clone().any(|(_, rules)| rules.contains(&rule)))
                })
        };
        Cow::Owned(self.providers.iter().filter(looks).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looking(places: &[Place], rules: &[Option<usize>]) -> Vec<usize> {
        places[0].providers_for(rules).into_owned()
    }

    #[test]
    fn places_stand_in_the_order_in_which_tokens_say_who_makes_a_request() {
        let cookie = |name: &str| TokenLocation::Cookie(name.to_owned());
        let parameter = TokenLocation::QueryParam("token".to_owned());
        let mut places = Vec::new();
        for location in [&cookie("b"), &parameter, &TokenLocation::bearer(), &cookie("a")] {
            Place::add(&mut places, location.clone(), 0, None);
        }
        let order: Vec<&TokenLocation> = places.iter().map(|place| &place.location).collect();
        assert_eq!(order, [&TokenLocation::bearer(), &cookie("b"), &cookie("a"), &parameter]);
    }

    #[test]
    fn provider_looks_where_each_deciding_rule_lets_it() {
        let mut places = Vec::new();
        Place::add(&mut places, TokenLocation::bearer(), 0, None);
        Place::add(&mut places, TokenLocation::bearer(), 1, Some(vec![2]));
        Place::add(&mut places, TokenLocation::bearer(), 1, Some(vec![3, 4]));
        assert_eq!(places.len(), 1);
        for (rules, expected) in [
            (&[Some(2)][..], &[0, 1][..]),
            (&[Some(4)], &[0, 1]),
            (&[Some(2), Some(3)], &[0, 1]),
            (&[Some(2), Some(1)], &[0]),
            (&[Some(2), None], &[0]),
            (&[Some(0)], &[0]),
            (&[None], &[0]),
        ] {
            assert_eq!(looking(&places, rules), expected, "{rules:?}");
        }
    }
}
