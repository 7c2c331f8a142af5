//! Warnings about the order of the rules, of which the first that matches a request decides.

use plugin_kit::config::{Code, ErrorList, JsonPath};
use plugin_kit::request::matcher::RequestMatch;
use plugin_kit::request::path::PathPattern;

use crate::policy::rules::{Access, Requirement, Rule};

/// How many rules are compared with each other. This many take a few milliseconds.
const MOST_COMPARED: usize = 500;

/// Methods that change something.
const WRITES: [&str; 4] = ["POST", "PUT", "PATCH", "DELETE"];

/// Notes what may surprise in the order of all rules. `path` is that of the list.
pub(super) fn check(rules: &[Rule], path: &JsonPath, errors: &mut ErrorList) {
    let rules = rules.get(..MOST_COMPARED).unwrap_or(rules);
    names(rules, path, errors);
    for (n, rule) in rules.iter().enumerate() {
        if hidden(rules, n, path, errors) {
            break;
        }
        if demand(rule) > Demand::Token {
            methods(rules, n, path, errors);
            paths(rules, n, path, errors);
        }
    }
}

/// How much is demanded of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Demand {
    Nothing,
    /// Any valid token: also where no rule matches.
    Token,
    /// More than that.
    More,
    /// The rule lets nobody in.
    Everything,
}

fn demand(rule: &Rule) -> Demand {
    let any_token = |requirement: &Requirement| match requirement {
        Requirement::Token(token) => {
            token.providers.is_empty() && token.claims.is_empty() && token.scopes.is_empty()
        }
        _ => false,
    };
    match &rule.access {
        Access::Nobody => Demand::Everything,
        _ if rule.when.is_some() => Demand::More,
        Access::Anyone(_) => Demand::Nothing,
        Access::Require(requirement) if any_token(requirement) => Demand::Token,
        Access::Require(_) => Demand::More,
    }
}

/// The rule that decides about the requests of this condition: the first one that matches all of them, if
/// any.
fn decider<'a>(
    rules: &'a [Rule],
    condition: &RequestMatch,
    method: Option<&str>,
    paths: Option<&PathPattern>,
) -> Option<(usize, &'a Rule)> {
    rules.iter().enumerate().find(|(_, rule)| rule.condition.covers(condition, method, paths))
}

/// The rule that decides about the rule's requests with this method or these paths, in words, if it demands
/// less than the rule.
#[inline(never)]
fn weaker(rules: &[Rule], rule: &Rule, method: Option<&str>, paths: Option<&PathPattern>) -> Option<String> {
    match decider(rules, &rule.condition, method, paths) {
        Some((n, other)) if demand(other) < demand(rule) => Some(format!("rules[{n}], which demands less")),
        Some(_) => None,
        None => Some("no rule, so that any valid token will do".to_owned()),
    }
}

#[inline(never)]
fn names(rules: &[Rule], path: &JsonPath, errors: &mut ErrorList) {
    for (n, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.named) {
        let earlier = rules.iter().take(n).position(|other| other.named && other.name == rule.name);
        if let Some(earlier) = earlier {
            let message = format!("is the name of rules[{earlier}] too");
            errors.note(Code::SameRuleName, &path.index(n).field("name"), message);
        }
    }
}

/// Whether the rule matches everything, so that there is no more to say about those behind it.
#[inline(never)]
fn hidden(rules: &[Rule], n: usize, path: &JsonPath, errors: &mut ErrorList) -> bool {
    let Some(rule) = rules.get(n) else { return false };
    let at = path.index(n).field("match");
    if rule.condition.covers(&RequestMatch::default(), None, None) {
        let is_last = n.saturating_add(1) == rules.len();
        // Of a rule whose condition is wrong, nothing more follows.
        if !is_last && !errors.has_errors_at(&path.index(n)) {
            errors.note(Code::CatchAllFirst, &at, "matches every request, so that no later rule decides");
        }
        return true;
    }
    let earlier =
        rules.iter().take(n).position(|earlier| earlier.condition.covers(&rule.condition, None, None));
    if let Some(earlier) = earlier {
        let same =
            rules.get(earlier).is_some_and(|earlier| rule.condition.covers(&earlier.condition, None, None));
        if same {
            let message = format!("is the match of rules[{earlier}], which decides");
            errors.note(Code::SameMatchTwice, &at, message);
        } else {
            let message = format!("is part of what rules[{earlier}] matches, which decides");
            errors.note(Code::HiddenRule, &at, message);
        }
        return false;
    }
    let before: Vec<&RequestMatch> = rules.iter().take(n).map(|rule| &rule.condition).collect();
    if let Some(together) = rule.condition.covered_together(&before) {
        let names: Vec<String> = together.iter().map(|n| format!("rules[{n}]")).collect();
        let message = format!("is part of what {} match together, which decide", names.join(", "));
        errors.note(Code::HiddenRule, &at, message);
    }
    false
}

/// A method that changes something and that the rule does not name, though it names others.
#[inline(never)]
fn methods(rules: &[Rule], n: usize, path: &JsonPath, errors: &mut ErrorList) {
    let Some(rule) = rules.get(n) else { return };
    let names = |method: &str| rule.condition.names_method(method.as_bytes());
    if WRITES.iter().filter(|method| names(method)).count() < 2 {
        return;
    }
    for method in WRITES.iter().filter(|method| !names(method)) {
        let is_named = |other: &Rule| {
            other.condition.names_method(method.as_bytes())
                && (other.condition.covers(&rule.condition, Some(method), None)
                    || rule.condition.covers(
                        &other.condition,
                        WRITES.iter().copied().find(|m| names(m)),
                        None,
                    ))
        };
        if rules.iter().any(is_named) {
            continue;
        }
        if let Some(who) = weaker(rules, rule, Some(method), None) {
            let message = format!("`{method}` for the same paths is left to {who}");
            errors.note(Code::MethodLeft, &path.index(n).field("match").field("methods"), message);
            return;
        }
    }
}

/// A path that the rule names without what is below it.
#[inline(never)]
fn paths(rules: &[Rule], n: usize, path: &JsonPath, errors: &mut ErrorList) {
    let Some(rule) = rules.get(n) else { return };
    for (at, below) in rule.condition.below_paths() {
        if rules.iter().any(|other| other.condition.names_path_below(&below)) {
            continue;
        }
        if let Some(who) = weaker(rules, rule, None, Some(&below)) {
            let message = format!("what is below this path is left to {who}");
            let path = path.index(n).field("match").field("paths").index(at);
            errors.note(Code::PathsBelowLeft, &path, message);
        }
    }
}
