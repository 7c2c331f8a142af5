//! What policies say of tokens, as a demand of jwt-auth.

use std::collections::{BTreeMap, BTreeSet};

use super::pattern::Text;
use super::yaml::Yaml;

/// One condition on a token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Literal {
    /// What is tested.
    pub(super) what: What,
    /// Whether the test must fail, which it also does where there is no token.
    pub(super) negated: bool,
}

/// What is tested of a token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// Issuer and subject: one of these. Without providers, any issuer is meant.
    Principal(Vec<(BTreeSet<usize>, BTreeSet<Text>)>),
    /// A claim, by the names that lead to it: one of these.
    Claim(Vec<String>, BTreeSet<Text>),
}

/// Conditions that must all hold.
pub(super) type Conjunction = BTreeSet<Literal>;

/// What a request needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Demand {
    /// Nothing; a token that is there must be valid.
    Anyone,
    /// What nobody has.
    Nobody,
    /// A token that meets one of these.
    Token(BTreeSet<Conjunction>),
}

impl What {
    /// `requestPrincipals`: what istiod makes of each value. The last `/` parts the issuer from the subject.
    pub(super) fn principals(values: &[&str], issuers: &[&str]) -> Self {
        let mut found: BTreeMap<BTreeSet<usize>, BTreeSet<Text>> = BTreeMap::new();
        for value in values {
            let (issuer, subject) = match (*value, value.rsplit_once('/')) {
                ("*", _) => (Text::Any, Text::Any),
                (_, Some((issuer, subject))) if value.starts_with('*') => {
                    (Text::of(issuer), Text::Exact(subject.to_owned()))
                }
                (_, None) if value.starts_with('*') => (Text::Any, Text::of(value)),
                (_, Some((issuer, subject))) if value.ends_with('*') => {
                    (Text::Exact(issuer.to_owned()), Text::of(subject))
                }
                (_, None) if value.ends_with('*') => (Text::of(value), Text::Any),
                (_, Some((issuer, subject))) => {
                    (Text::Exact(issuer.to_owned()), Text::Exact(subject.to_owned()))
                }
                (_, None) => (Text::Exact((*value).to_owned()), Text::Exact(String::new())),
            };
            let mut providers: BTreeSet<usize> =
                (0..issuers.len()).filter(|n| issuer.matches(issuers[*n])).collect();
            if providers.is_empty() {
                continue;
            }
            if providers.len() == issuers.len() {
                providers.clear();
            }
            found.entry(providers).or_default().insert(subject);
        }
        let any = |texts: BTreeSet<Text>| {
            if texts.contains(&Text::Any) { BTreeSet::from([Text::Any]) } else { texts }
        };
        Self::Principal(found.into_iter().map(|(providers, subjects)| (providers, any(subjects))).collect())
    }

    /// `request.auth.claims`.
    pub(super) fn claim(path: Vec<String>, values: &[&str]) -> Self {
        let texts: BTreeSet<Text> = values.iter().map(|value| Text::of(value)).collect();
        Self::Claim(path, if texts.contains(&Text::Any) { BTreeSet::from([Text::Any]) } else { texts })
    }

    fn never_holds(&self) -> bool {
        matches!(self, Self::Principal(alternatives) if alternatives.is_empty())
    }

    fn is_any_principal(&self) -> bool {
        matches!(self, Self::Principal(alternatives)
            if matches!(alternatives.as_slice(), [(providers, subjects)] if providers.is_empty() && subjects.contains(&Text::Any)))
    }
}

/// The conjunction without what goes without saying; `None` if it cannot hold.
fn simplified(mut conjunction: Conjunction) -> Option<Conjunction> {
    conjunction.retain(|literal| !(literal.negated && literal.what.never_holds()));
    let has = |what: &What, negated| {
        conjunction.iter().any(|literal| literal.negated == negated && literal.what == *what)
    };
    let contradicts = conjunction
        .iter()
        .any(|literal| !literal.negated && (literal.what.never_holds() || has(&literal.what, true)));
    let needs_token = conjunction.iter().any(|literal| !literal.negated);
    let forbids_token = conjunction.iter().any(|literal| literal.negated && literal.what.is_any_principal());
    if contradicts || (needs_token && forbids_token) {
        return None;
    }
    let other_principal = conjunction.iter().any(|literal| {
        !literal.negated && matches!(literal.what, What::Principal(_)) && !literal.what.is_any_principal()
    });
    conjunction.retain(|literal| literal.negated || !literal.what.is_any_principal() || !other_principal);
    Some(conjunction)
}

/// What a request needs that one of `allowed` must allow, and none of `denied` may deny.
///
/// # Errors
/// jwt-auth cannot demand it, and why.
pub(super) fn demand(allowed: &[&Conjunction], denied: &[&Conjunction]) -> Result<Demand, String> {
    let mut all: Vec<Conjunction> = allowed.iter().map(|one| (*one).clone()).collect();
    for denied in denied {
        all = all
            .iter()
            .flat_map(|one| {
                denied.iter().map(|literal| {
                    let mut one = one.clone();
                    one.insert(Literal { what: literal.what.clone(), negated: !literal.negated });
                    one
                })
            })
            .collect();
        if all.len() > 1000 {
            return Err("there are more combinations of conditions than anybody could read".to_owned());
        }
    }
    let mut all: BTreeSet<Conjunction> = all.into_iter().filter_map(simplified).collect();
    let implied: Vec<Conjunction> = all
        .iter()
        .filter(|one| all.iter().any(|other| other != *one && other.is_subset(one)))
        .cloned()
        .collect();
    all.retain(|one| !implied.contains(one));
    if all.is_empty() {
        return Ok(Demand::Nobody);
    }
    if all.iter().any(Conjunction::is_empty) {
        return Ok(Demand::Anyone);
    }
    for one in &all {
        if one.iter().all(|literal| literal.negated) {
            let why = if one.iter().any(|literal| literal.what.is_any_principal()) {
                "they allow requests only if they have no token, and jwt-auth has no such rule"
            } else {
                "they test claims where no token is demanded, and `require` of jwt-auth always demands one"
            };
            return Err(why.to_owned());
        }
    }
    Ok(Demand::Token(all))
}

/// Tests of one claim.
#[derive(Debug, Default, Clone)]
struct Tests {
    any_of: Vec<BTreeSet<Text>>,
    none_of: BTreeSet<Text>,
}

#[derive(Debug, Default, Clone)]
struct Requirement {
    provider: Option<usize>,
    claims: BTreeMap<String, Tests>,
}

/// What conjunctions say, as `require` of a rule. `spaced` are the claims whose strings are lists of words.
///
/// # Errors
/// jwt-auth cannot demand it, and why.
pub(super) fn require(
    demand: &BTreeSet<Conjunction>,
    providers: &[String],
    spaced: &BTreeSet<String>,
) -> Result<Yaml, String> {
    let mut written = Vec::new();
    for conjunction in demand {
        let mut alternatives = vec![Requirement::default()];
        for literal in conjunction {
            alternatives = added(alternatives, literal, providers.len())?;
        }
        for alternative in alternatives {
            let requirement = alternative.written(providers, spaced);
            if !written.contains(&requirement) {
                written.push(requirement);
            }
        }
    }
    Ok(match <[Yaml; 1]>::try_from(written) {
        Ok([one]) => one,
        Err(many) => {
            Yaml::map().with("anyOf", Yaml::List(many.into_iter().map(|one| (Vec::new(), one)).collect()))
        }
    })
}

fn added(
    alternatives: Vec<Requirement>,
    literal: &Literal,
    providers: usize,
) -> Result<Vec<Requirement>, String> {
    let mut found = Vec::new();
    for alternative in alternatives {
        match (&literal.what, literal.negated) {
            (What::Claim(path, texts), negated) => {
                let mut alternative = alternative;
                let of_claim = alternative.claims.entry(claim_name(path)).or_default();
                if negated {
                    of_claim.none_of.extend(texts.iter().cloned());
                } else {
                    of_claim.any_of.push(texts.clone());
                }
                found.push(alternative);
            }
            (What::Principal(principals), false) => {
                for (issuers, subjects) in principals {
                    let issuers: Vec<Option<usize>> = if issuers.is_empty() {
                        vec![alternative.provider]
                    } else {
                        issuers
                            .iter()
                            .filter(|issuer| alternative.provider.is_none_or(|known| known == **issuer))
                            .map(|issuer| Some(*issuer))
                            .collect()
                    };
                    for provider in issuers {
                        let mut alternative = Requirement { provider, ..alternative.clone() };
                        alternative.claims.entry("sub".to_owned()).or_default().any_of.push(subjects.clone());
                        found.push(alternative);
                    }
                }
            }
            (What::Principal(principals), true) => {
                let mut alternative = alternative;
                for (issuers, subjects) in principals {
                    if !issuers.is_empty() || providers == 0 {
                        return Err("they exclude principals of one issuer among several".to_owned());
                    }
                    let tests = alternative.claims.entry("sub".to_owned()).or_default();
                    tests.none_of.extend(subjects.iter().cloned());
                }
                found.push(alternative);
            }
        }
    }
    Ok(found)
}

/// A claim as jwt-auth names it: dots lead into objects, and `\.` is a dot in a name.
fn claim_name(path: &[String]) -> String {
    let names: Vec<String> = path.iter().map(|name| name.replace('\\', "\\\\").replace('.', "\\.")).collect();
    names.join(".")
}

impl Requirement {
    fn written(&self, providers: &[String], spaced: &BTreeSet<String>) -> Yaml {
        // Two lists of which one must hold each go into two demands on the one token.
        let parts = self.claims.values().map(|tests| tests.any_of.len()).max().unwrap_or_default().max(1);
        let part = |n: usize| {
            let mut claims = Yaml::map();
            for (name, tests) in &self.claims {
                if let Some(test) = tests.written(n) {
                    claims.push(Vec::new(), name, test, false);
                }
            }
            let provider = self.provider.filter(|_| n == 0 && providers.len() > 1);
            let mut demand = Yaml::map().with_some("provider", provider.map(|n| Yaml::text(&providers[n])));
            if claims != Yaml::map() {
                demand = demand.with("claims", claims);
                let words: Vec<&String> =
                    self.claims.keys().filter(|name| *name != "scope" && spaced.contains(*name)).collect();
                if !words.is_empty() {
                    demand = demand.with("spaceDelimitedClaims", Yaml::texts(words));
                }
            }
            demand
        };
        if parts == 1 {
            return part(0);
        }
        Yaml::map().with("allOf", Yaml::List((0..parts).map(|n| (Vec::new(), part(n))).collect()))
    }
}

impl Tests {
    /// What the n-th demand has of these tests.
    fn written(&self, n: usize) -> Option<Yaml> {
        let texts = |texts: &BTreeSet<Text>| {
            let text = |text: &Text| match text {
                Text::Exact(text) if !text.contains('*') => Yaml::text(text),
                Text::Exact(text) => Yaml::map().with("exact", Yaml::text(text)),
                Text::Prefix(text) => Yaml::map().with("prefix", Yaml::text(text)),
                Text::Suffix(text) => Yaml::map().with("suffix", Yaml::text(text)),
                Text::Any => Yaml::text(""),
            };
            Yaml::List(texts.iter().map(|one| (Vec::new(), text(one))).collect())
        };
        let mut test = Yaml::map();
        match self.any_of.get(n) {
            Some(any) if any.contains(&Text::Any) => test = test.with("present", Yaml::Plain(true.into())),
            Some(any) => test = test.with("anyOf", texts(any)),
            None => {}
        }
        if n == 0 && self.none_of.contains(&Text::Any) {
            test = test.with("present", Yaml::Plain(false.into()));
        } else if n == 0 && !self.none_of.is_empty() {
            test = test.with("noneOf", texts(&self.none_of));
        }
        (test != Yaml::map()).then_some(test)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Conjunction, Demand, Literal, What, demand, require};

    const ISSUERS: [&str; 2] = ["https://a.example", "https://b.example/"];

    fn has(values: &[&str]) -> Literal {
        Literal { what: What::principals(values, &ISSUERS), negated: false }
    }

    fn claim(name: &str, values: &[&str]) -> Literal {
        Literal { what: What::claim(vec![name.to_owned()], values), negated: false }
    }

    fn not(literal: Literal) -> Literal {
        Literal { negated: !literal.negated, ..literal }
    }

    fn shown(allowed: &[Vec<Literal>], denied: &[Vec<Literal>]) -> String {
        let sets = |lists: &[Vec<Literal>]| -> Vec<Conjunction> {
            lists.iter().map(|list| list.iter().cloned().collect()).collect()
        };
        let (allowed, denied) = (sets(allowed), sets(denied));
        let names = ["a".to_owned(), "b".to_owned()];
        let words = BTreeSet::from(["permission".to_owned()]);
        match demand(&allowed.iter().collect::<Vec<_>>(), &denied.iter().collect::<Vec<_>>()) {
            Ok(Demand::Anyone) => "anyone".to_owned(),
            Ok(Demand::Nobody) => "nobody".to_owned(),
            Ok(Demand::Token(token)) => match require(&token, &names, &words) {
                Ok(yaml) => yaml.value().to_string().replace('"', ""),
                Err(why) => why,
            },
            Err(why) => why,
        }
    }

    #[test]
    fn principals_are_parted_as_istiod_does() {
        for (value, expected) in [
            ("*", "{claims:{sub:{present:true}}}"),
            ("https://a.example/alice", "{claims:{sub:{anyOf:[alice]}},provider:a}"),
            ("https://b.example//*", "{claims:{sub:{present:true}},provider:b}"),
            ("https://a.example/ops*", "{claims:{sub:{anyOf:[{prefix:ops}]}},provider:a}"),
            ("*/alice", "{claims:{sub:{anyOf:[alice]}}}"),
            ("*alice", "{claims:{sub:{anyOf:[{suffix:alice}]}}}"),
            ("https://*", "nobody"),
            ("https://other.example/alice", "nobody"),
        ] {
            assert_eq!(shown(&[vec![has(&[value])]], &[]), expected, "{value}");
        }
    }

    #[test]
    fn demands_are_joined_and_without_what_is_implied() {
        let any = || has(&["*"]);
        let admin = || claim("role", &["admin"]);
        for (allowed, denied, expected) in [
            (vec![vec![any()], vec![]], vec![], "anyone"),
            (vec![], vec![], "nobody"),
            (vec![vec![]], vec![vec![not(any())]], "{claims:{sub:{present:true}}}"),
            (vec![vec![any(), admin()], vec![any()]], vec![], "{claims:{sub:{present:true}}}"),
            (vec![vec![any()]], vec![vec![admin()]], "{claims:{role:{noneOf:[admin]},sub:{present:true}}}"),
            (vec![vec![any()]], vec![vec![any()]], "nobody"),
            (
                vec![vec![claim("permission", &["read"])]],
                vec![],
                "{claims:{permission:{anyOf:[read]}},spaceDelimitedClaims:[permission]}",
            ),
            (
                vec![vec![claim("g", &["x"]), claim("g", &["y"])]],
                vec![],
                "{allOf:[{claims:{g:{anyOf:[x]}}},{claims:{g:{anyOf:[y]}}}]}",
            ),
        ] {
            assert_eq!(shown(&allowed, &denied), expected);
        }
        assert!(shown(&[vec![]], &[vec![admin()]]).contains("where no token is demanded"));
        assert!(shown(&[vec![not(any())]], &[]).contains("only if they have no token"));
    }
}
