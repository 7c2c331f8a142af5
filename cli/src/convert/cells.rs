//! From policies, whose rules hold all at once, to a list of rules of which the first that matches decides.
//!
//! Each part of a request (host, path, method) is cut into cells by the patterns that policies name, in an order in which a pattern
//! stands before those that hold it. The first pattern that matches a request is then its cell, and a cell says which other
//! patterns match too. Where that is not known, since two patterns cross, all that may be must come to the same demand.

use std::collections::BTreeSet;

use super::pattern::{Host, Method, Order, Path, Pattern};
use super::scope::Relation;
use super::token::Demand;

/// The requests that a rule of a policy is about.
#[derive(Debug, Clone, Default)]
pub(super) struct Product {
    /// By host.
    pub(super) hosts: Part<Host>,
    /// By path.
    pub(super) paths: Part<Path>,
    /// By method.
    pub(super) methods: Part<Method>,
}

impl Product {
    /// Whether there is no condition.
    pub(super) fn is_everything(&self) -> bool {
        fn is_all<P>(part: &Part<P>) -> bool {
            part.any_of.is_none() && part.none_of.is_empty() && !part.nothing
        }
        is_all(&self.hosts) && is_all(&self.paths) && is_all(&self.methods)
    }
}

/// One part of a request.
#[derive(Debug, Clone)]
pub(super) struct Part<P> {
    /// One of these must match; `None` is no condition.
    pub(super) any_of: Option<Vec<P>>,
    /// None of these may match.
    pub(super) none_of: Vec<P>,
    /// Whether nothing is left, since `none_of` had a pattern for everything.
    pub(super) nothing: bool,
}

impl<P> Default for Part<P> {
    fn default() -> Self {
        Self { any_of: None, none_of: Vec::new(), nothing: false }
    }
}

impl<P: Pattern> Part<P> {
    fn patterns(&self) -> impl Iterator<Item = &P> {
        self.any_of.iter().flatten().chain(&self.none_of)
    }

    fn holds(&self, matches: impl Fn(&P) -> bool) -> bool {
        !self.nothing
            && self.any_of.as_ref().is_none_or(|any| any.iter().any(&matches))
            && !self.none_of.iter().any(&matches)
    }
}

/// A rule of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// The hosts; none is any.
    pub(super) hosts: Vec<Host>,
    /// The paths; none is any.
    pub(super) paths: Vec<Path>,
    /// The methods; none is any.
    pub(super) methods: Vec<Method>,
    /// What requests need.
    pub(super) demand: Demand,
    /// Which products the requests are in.
    pub(super) within: BTreeSet<usize>,
}

/// Why there is no list.
#[derive(Debug)]
pub(super) enum Stop {
    /// Two patterns cross, and it makes a difference.
    Crossing(Path, Path),
    /// The demand of requests that are in these products is none of jwt-auth.
    Demand(BTreeSet<usize>, String),
}

/// The patterns of one part, in the order in which they are asked.
struct Dimension<P>(Vec<P>);

impl<P: Pattern> Dimension<P> {
    fn of<'a>(parts: impl Iterator<Item = &'a Part<P>>, order: Order) -> Self
    where
        P: 'a,
    {
        let patterns: BTreeSet<P> = parts.flat_map(Part::patterns).cloned().collect();
        let mut patterns: Vec<P> = patterns.into_iter().collect();
        patterns.sort_by_key(|pattern| pattern.rank(order));
        Self(patterns)
    }

    /// The cells: one of each pattern, and what is left.
    fn cells(&self) -> std::ops::RangeInclusive<usize> {
        0..=self.0.len()
    }

    /// Whether the requests of a cell match a pattern; `None` if some may.
    fn matches(&self, cell: usize, pattern: &P) -> Option<bool> {
        let at = self.0.iter().position(|known| known == pattern)?;
        match self.0.get(cell) {
            _ if at < cell => Some(false),
            None => Some(false),
            Some(own) => match own.relation(pattern) {
                Relation::Same | Relation::Within => Some(true),
                Relation::Apart => Some(false),
                Relation::Holds | Relation::Crossing => None,
            },
        }
    }

    /// How the requests that a pattern matches are related to those of another; what is left is last, and holds all.
    fn relation(&self, one: usize, other: usize) -> Relation {
        match (self.0.get(one), self.0.get(other)) {
            (Some(one), Some(other)) => one.relation(other),
            _ => Relation::Within,
        }
    }
}

/// More would be read by nobody.
const MOST_CELLS: usize = 20_000;

/// The list of rules for products. `demand` says what requests need that are in these products.
///
/// # Errors
/// No list says the same.
pub(super) fn rules(
    products: &[&Product],
    demand: &impl Fn(&BTreeSet<usize>) -> Result<Demand, String>,
) -> Result<Vec<Rule>, Stop> {
    let first = ordered(products, demand, Order::PrefixFirst);
    match first {
        Err(Stop::Crossing(..)) => ordered(products, demand, Order::SuffixFirst).or(first),
        _ => first,
    }
}

/// What decides about the requests of a cell.
type Decision = (Demand, BTreeSet<usize>);

/// Cells of one part, with what is said of each.
type Said<V> = Vec<(Vec<usize>, V)>;

fn ordered(
    products: &[&Product],
    demand: &impl Fn(&BTreeSet<usize>) -> Result<Demand, String>,
    order: Order,
) -> Result<Vec<Rule>, Stop> {
    let hosts = Dimension::of(products.iter().map(|product| &product.hosts), order);
    let paths = Dimension::of(products.iter().map(|product| &product.paths), order);
    let methods = Dimension::of(products.iter().map(|product| &product.methods), order);
    if (hosts.0.len() + 1) * (paths.0.len() + 1) * (methods.0.len() + 1) > MOST_CELLS {
        let why = "there are more combinations of hosts, paths and methods than anybody could read";
        return Err(Stop::Demand((0..products.len()).collect(), why.to_owned()));
    }
    let mut by_host = Vec::new();
    for host in hosts.cells() {
        let mut by_path = Vec::new();
        for path in paths.cells() {
            let mut by_method = Vec::new();
            for method in methods.cells() {
                by_method.push((
                    vec![method],
                    decide(products, demand, (&hosts, host), (&paths, path), (&methods, method))?,
                ));
            }
            by_path
                .push((vec![path], merged(&methods, by_method, &|decision: &Decision| decision.0.clone())));
        }
        let key = |decisions: &Said<Decision>| without_products(decisions);
        by_host.push((vec![host], merged(&paths, by_path, &key)));
    }
    let key = |by_path: &Said<Said<Decision>>| -> Vec<_> {
        by_path.iter().map(|(cells, decisions)| (cells.clone(), without_products(decisions))).collect()
    };
    let by_host = merged(&hosts, by_host, &key);
    let mut rules = Vec::new();
    for (host_cells, by_path) in by_host {
        for (path_cells, by_method) in by_path {
            for (method_cells, (demand, within)) in by_method {
                rules.push(Rule {
                    hosts: chosen(&hosts, &host_cells),
                    paths: chosen(&paths, &path_cells),
                    methods: chosen(&methods, &method_cells),
                    demand,
                    within,
                });
            }
        }
    }
    Ok(without_needless(rules))
}

/// The rules without those whose requests a later one decides alike.
fn without_needless(mut rules: Vec<Rule>) -> Vec<Rule> {
    let mut n = 0;
    while n < rules.len() {
        let falls_to = rules[n + 1..].iter().find(|later| {
            rules[n].meets(later) && (later.demand != rules[n].demand || later.covers(&rules[n]))
        });
        if falls_to.is_some_and(|later| later.demand == rules[n].demand) {
            rules.remove(n);
        } else {
            n += 1;
        }
    }
    rules
}

impl Rule {
    /// Whether a request may match both.
    fn meets(&self, other: &Self) -> bool {
        fn meet<P: Pattern>(one: &[P], other: &[P]) -> bool {
            let pair = |one: &P| other.iter().any(|other| one.relation(other) != Relation::Apart);
            one.is_empty() || other.is_empty() || one.iter().any(pair)
        }
        meet(&self.hosts, &other.hosts)
            && meet(&self.paths, &other.paths)
            && meet(&self.methods, &other.methods)
    }

    /// Whether every request of the other matches.
    fn covers(&self, other: &Self) -> bool {
        fn cover<P: Pattern>(wide: &[P], narrow: &[P]) -> bool {
            let held = |narrow: &P| {
                wide.iter().any(|wide| matches!(narrow.relation(wide), Relation::Same | Relation::Within))
            };
            wide.is_empty() || (!narrow.is_empty() && narrow.iter().all(held))
        }
        cover(&self.hosts, &other.hosts)
            && cover(&self.paths, &other.paths)
            && cover(&self.methods, &other.methods)
    }
}

fn without_products(decisions: &[(Vec<usize>, Decision)]) -> Vec<(Vec<usize>, Demand)> {
    decisions.iter().map(|(cells, (demand, _))| (cells.clone(), demand.clone())).collect()
}

/// The patterns of cells; none if what is left is among them.
fn chosen<P: Pattern>(dimension: &Dimension<P>, cells: &[usize]) -> Vec<P> {
    if cells.contains(&dimension.0.len()) {
        return Vec::new();
    }
    cells.iter().map(|cell| dimension.0[*cell].clone()).collect()
}

fn decide(
    products: &[&Product],
    demand: &impl Fn(&BTreeSet<usize>) -> Result<Demand, String>,
    (hosts, host): (&Dimension<Host>, usize),
    (paths, path): (&Dimension<Path>, usize),
    (methods, method): (&Dimension<Method>, usize),
) -> Result<Decision, Stop> {
    let doubts: Vec<&Path> =
        paths.0.iter().filter(|pattern| paths.matches(path, pattern).is_none()).collect();
    let within = |assumed: usize| -> BTreeSet<usize> {
        let on_path = |pattern: &Path| {
            paths.matches(path, pattern).unwrap_or_else(|| {
                let at = doubts.iter().position(|doubt| *doubt == pattern);
                at.is_some_and(|at| assumed >> at & 1 == 1)
            })
        };
        let is_in = |product: &Product| {
            product.hosts.holds(|pattern| hosts.matches(host, pattern) == Some(true))
                && product.methods.holds(|pattern| methods.matches(method, pattern) == Some(true))
                && product.paths.holds(on_path)
        };
        (0..products.len()).filter(|n| is_in(products[*n])).collect()
    };
    let base = within(0);
    let own = demand(&base).map_err(|why| Stop::Demand(base.clone(), why))?;
    let crossing = |at: usize| {
        let pattern = paths.0.get(path).cloned().unwrap_or(Path::Prefix("/".to_owned()));
        Stop::Crossing(pattern, doubts[at].clone())
    };
    if doubts.len() > 10 {
        return Err(crossing(0));
    }
    for assumed in 1..1_usize << doubts.len() {
        let other = within(assumed);
        if demand(&other).ok() != Some(own.clone()) {
            return Err(crossing(usize::try_from(assumed.trailing_zeros()).unwrap_or(0)));
        }
    }
    Ok((own, base))
}

/// The list with fewer entries that decides the same: entries that what follows decides alike are left out, and entries that say the
/// same are joined.
fn merged<P: Pattern, V: Clone, K: PartialEq>(
    dimension: &Dimension<P>,
    mut entries: Vec<(Vec<usize>, V)>,
    key: &impl Fn(&V) -> K,
) -> Vec<(Vec<usize>, V)> {
    let mut n = 0;
    while n < entries.len() {
        let falls_to = |entries: &[(Vec<usize>, V)]| {
            let own = key(&entries[n].1);
            for (cells, value) in &entries[n + 1..] {
                match dimension.relation(entries[n].0[0], cells[0]) {
                    Relation::Apart => {}
                    relation => {
                        if key(value) != own {
                            return false;
                        }
                        if matches!(relation, Relation::Within | Relation::Same) {
                            return true;
                        }
                    }
                }
            }
            false
        };
        if falls_to(&entries) {
            entries.remove(n);
        } else {
            n += 1;
        }
    }
    let mut joined: Vec<(Vec<usize>, V)> = Vec::new();
    for (cells, value) in entries {
        let own = key(&value);
        // An entry may move forward past those that it has nothing in common with.
        let mut place = None;
        for (at, (others, other)) in joined.iter().enumerate().rev() {
            if key(other) == own {
                place = Some(at);
            }
            let apart = others.iter().all(|other| dimension.relation(cells[0], *other) == Relation::Apart);
            if !apart || place.is_some() {
                break;
            }
        }
        // What is left holds everything, and stands last.
        match place.filter(|_| cells[0] < dimension.0.len()) {
            Some(at) => joined[at].0.extend(cells),
            None => joined.push((cells, value)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Demand, Part, Path, Product, Rule, Stop, rules};

    fn product(paths: &[&str], none_of: &[&str]) -> Product {
        let read =
            |paths: &[&str]| paths.iter().map(|path| Path::of(path).unwrap().unwrap()).collect::<Vec<_>>();
        let any_of = (!paths.is_empty()).then(|| read(paths));
        Product { paths: Part { any_of, none_of: read(none_of), nothing: false }, ..Product::default() }
    }

    /// The demand is that of the products: each asks for a claim that is called after it.
    fn list(products: &[Product]) -> Result<Vec<Rule>, Stop> {
        let demand = |within: &BTreeSet<usize>| {
            Ok(match within.len() {
                0 => Demand::Nobody,
                _ => Demand::Token(
                    within
                        .iter()
                        .map(|n| {
                            let what = super::super::token::What::claim(vec![n.to_string()], &["x"]);
                            BTreeSet::from([super::super::token::Literal { what, negated: false }])
                        })
                        .collect(),
                ),
            })
        };
        rules(&products.iter().collect::<Vec<_>>(), &demand)
    }

    fn shown(products: &[Product]) -> Vec<(Vec<String>, Vec<usize>)> {
        let written = |path: &Path| {
            let (path, regex) = path.written();
            path.or(regex).unwrap()
        };
        let list = list(products).unwrap();
        list.iter()
            .map(|rule| (rule.paths.iter().map(written).collect(), rule.within.iter().copied().collect()))
            .collect()
    }

    fn expected(rules: &[(&[&str], &[usize])]) -> Vec<(Vec<String>, Vec<usize>)> {
        rules
            .iter()
            .map(|(paths, within)| (paths.iter().map(|path| (*path).to_owned()).collect(), within.to_vec()))
            .collect()
    }

    #[test]
    fn the_narrower_pattern_stands_first_and_is_in_the_wider() {
        let all = [product(&["/a/*"], &[]), product(&["/a/b", "/c"], &[])];
        assert_eq!(
            shown(&all),
            expected(&[(&["/a/b"], &[0, 1]), (&["/c"], &[1]), (&["/a/*"], &[0]), (&[], &[])])
        );
    }

    #[test]
    fn excluded_paths_are_rules_before_the_rest() {
        assert_eq!(shown(&[product(&[], &["/healthz"])]), expected(&[(&["/healthz"], &[]), (&[], &[0])]));
    }

    #[test]
    fn rules_that_say_the_same_are_one() {
        let all = [product(&["/a/*", "/a/b", "/c*"], &[])];
        assert_eq!(shown(&all), expected(&[(&["/a/*", "/c.*"], &[0]), (&[], &[])]));
    }

    #[test]
    fn patterns_that_cross_are_refused_where_it_matters() {
        let crossing = list(&[product(&["/a/*"], &[]), product(&["*/ping"], &[])]);
        assert!(matches!(crossing, Err(Stop::Crossing(..))));
        let alike = list(&[product(&["/a/*", "*/ping"], &[])]).unwrap();
        assert_eq!(alike.len(), 2);
    }
}
