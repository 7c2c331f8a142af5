//! AuthorizationPolicy: what it says of tokens, what else it says, and what is left of it without the tokens.

use std::collections::BTreeSet;

use super::cells::{Part, Product};
use super::pattern::{Host, Method, Path, Pattern, Read};
use super::scope::Scope;
use super::token::{Conjunction, Literal, What};
use super::yaml::Yaml;
use crate::document::Node;
use crate::resource::Resource;

/// A policy.
pub(super) struct Policy<'a> {
    /// The resource.
    pub(super) resource: &'a Resource<'a>,
    /// The workloads.
    pub(super) scope: Scope,
    /// What it does.
    pub(super) action: Action,
    rules: &'a [Node],
}

/// What a policy does with requests that one of its rules matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// It lets them in, and all others only if another policy does.
    Allow,
    /// It refuses them.
    Deny,
    /// It asks somebody else, or only writes to a log, or is a trial.
    Other,
}

/// One way in which a rule of a policy can match.
pub(super) struct Way {
    /// The requests.
    pub(super) product: Product,
    /// The conditions on tokens.
    pub(super) token: Conjunction,
    /// All other conditions, which stay in an AuthorizationPolicy.
    pub(super) other: BTreeSet<String>,
}

const PRINCIPAL: &str = "request.auth.principal";
const AUTH: &str = "request.auth.";

/// The claims that a key of `when` names: `request.auth.claims[a][b]`.
fn claims(key: &str) -> Option<Vec<String>> {
    let inner = key.strip_prefix("request.auth.claims")?.strip_prefix('[')?.strip_suffix(']')?;
    Some(inner.split("][").map(str::to_owned).collect())
}

fn texts<'a>(node: &'a Node, name: &str) -> Vec<&'a str> {
    node.get(name).map(Node::elements).unwrap_or_default().iter().filter_map(Node::text).collect()
}

fn elements<'a>(node: &'a Node, name: &str) -> &'a [Node] {
    node.get(name).map(Node::elements).unwrap_or_default()
}

fn is_of_tokens(condition: &Node) -> bool {
    condition.get("key").and_then(Node::text).is_some_and(|key| key.starts_with(AUTH))
}

fn source_has_tokens(from: &Node) -> bool {
    let has = |name| !texts(from.get("source").unwrap_or(from), name).is_empty();
    has("requestPrincipals") || has("notRequestPrincipals")
}

impl<'a> Policy<'a> {
    /// The resource as a policy.
    pub(super) fn of(resource: &'a Resource<'a>, root: &str) -> Self {
        let action = resource.node.at(&["spec", "action"]).and_then(Node::text).unwrap_or("ALLOW");
        let trial = resource.node.at(&["metadata", "annotations", "istio.io/dry-run"]).and_then(Node::text);
        let action = match (action, trial) {
            (_, Some("true")) => Action::Other,
            ("ALLOW", _) => Action::Allow,
            ("DENY", _) => Action::Deny,
            _ => Action::Other,
        };
        let rules = resource.node.at(&["spec", "rules"]).map(Node::elements).unwrap_or_default();
        Self { resource, scope: Scope::of(resource.node, resource.namespace, root), action, rules }
    }

    /// Whether it says something of tokens.
    pub(super) fn is_of_tokens(&self) -> bool {
        self.rules.iter().any(|rule| {
            elements(rule, "when").iter().any(is_of_tokens)
                || elements(rule, "from").iter().any(source_has_tokens)
        })
    }

    /// The ways in which its rules can match.
    ///
    /// # Errors
    /// Something has no counterpart.
    pub(super) fn ways(&self, issuers: &[&str]) -> Result<Vec<Way>, String> {
        let mut found = Vec::new();
        for rule in self.rules {
            let mut token = Conjunction::new();
            let mut other = BTreeSet::new();
            for condition in elements(rule, "when") {
                if is_of_tokens(condition) {
                    token.extend(literals(condition, issuers)?);
                } else {
                    other.insert(condition.value().to_string());
                }
            }
            let (from, to) = (elements(rule, "from"), elements(rule, "to"));
            let sources: Vec<Option<&Node>> = if from.is_empty() {
                vec![None]
            } else {
                from.iter().map(|from| from.get("source")).collect()
            };
            let operations: Vec<Option<&Node>> =
                if to.is_empty() { vec![None] } else { to.iter().map(|to| to.get("operation")).collect() };
            for source in &sources {
                let (mut token, mut other) = (token.clone(), other.clone());
                for (name, value) in source.iter().flat_map(|source| source.members()) {
                    let values: Vec<&str> = value.elements().iter().filter_map(Node::text).collect();
                    match name {
                        _ if value.elements().is_empty() => {}
                        "requestPrincipals" | "notRequestPrincipals" => {
                            let negated = name.starts_with("not");
                            token.insert(Literal { what: What::principals(&values, issuers), negated });
                        }
                        _ => {
                            other.insert(format!("{name}: {}", value.value()));
                        }
                    }
                }
                for operation in &operations {
                    let mut other = other.clone();
                    let product = match operation {
                        Some(operation) => product(operation, &mut other)?,
                        None => Product::default(),
                    };
                    found.push(Way { product, token: token.clone(), other });
                }
            }
        }
        Ok(found)
    }

    /// The policy without what it says of tokens: an ALLOW policy then allows whatever their tokens are, and a DENY policy has only
    /// the rules that say nothing of tokens. `None` if nothing is left.
    pub(super) fn without_tokens(&self) -> Option<Yaml> {
        let rules: Vec<(Vec<String>, Yaml)> = self
            .rules
            .iter()
            .filter_map(|rule| Some((Vec::new(), self.rule_without_tokens(rule)?)))
            .collect();
        if rules.is_empty() && !self.rules.is_empty() {
            return None;
        }
        let mut metadata = Yaml::map();
        for (name, value) in self.resource.node.get("metadata").into_iter().flat_map(Node::members) {
            let is_own = ["name", "namespace", "labels", "annotations"].contains(&name);
            let mut value = Yaml::of(value);
            if let Yaml::Map(members) = &mut value {
                members.retain(|entry| entry.name != "kubectl.kubernetes.io/last-applied-configuration");
                for entry in members.iter_mut() {
                    entry.tall = false;
                }
            }
            if is_own && value != Yaml::map() {
                metadata.push(Vec::new(), name, value, false);
            }
        }
        let mut spec = Yaml::map();
        for (name, value) in self.resource.node.get("spec").into_iter().flat_map(Node::members) {
            if name == "rules" {
                spec.push(Vec::new(), name, Yaml::List(rules.clone()), true);
            } else {
                spec.push(Vec::new(), name, flat(Yaml::of(value)), false);
            }
        }
        let version = self.resource.node.get("apiVersion").and_then(Node::text).unwrap_or_default();
        let resource =
            Yaml::map().with("apiVersion", Yaml::text(version)).with("kind", Yaml::text(self.resource.kind));
        Some(resource.with("metadata", metadata).with_tall("spec", spec))
    }

    fn rule_without_tokens(&self, rule: &Node) -> Option<Yaml> {
        let denies = self.action == Action::Deny;
        if denies && elements(rule, "when").iter().any(is_of_tokens) {
            return None;
        }
        let mut written = Yaml::map();
        for (name, value) in rule.members() {
            let mut kept = Vec::new();
            let mut is_any = value.elements().is_empty();
            for one in value.elements() {
                match name {
                    "when" if is_of_tokens(one) => is_any |= value.elements().len() == 1,
                    "from" if source_has_tokens(one) && denies => {}
                    "from" if source_has_tokens(one) => {
                        let source = one.get("source").unwrap_or(one);
                        let rest = source
                            .members()
                            .filter(|(name, _)| !name.ends_with("equestPrincipals"))
                            .fold(Yaml::map(), |map, (name, value)| map.with(name, Yaml::of(value)));
                        // A source that was a token alone is now any source.
                        is_any |= rest == Yaml::map();
                        kept.push((Vec::new(), Yaml::map().with("source", rest)));
                    }
                    _ => kept.push((Vec::new(), flat(Yaml::of(one)))),
                }
            }
            let all_conditions_left = name == "when" && kept.is_empty();
            if denies && name == "from" && kept.is_empty() && !value.elements().is_empty() {
                return None;
            }
            if !is_any && !all_conditions_left {
                written.push(Vec::new(), name, Yaml::List(kept), true);
            }
        }
        if !denies {
            over_http(&mut written);
        }
        Some(written)
    }
}

/// What a rule must say so that it is about HTTP alone: any method. Istio leaves out a rule that allows and tests tokens where a port
/// is not HTTP, and so closes the port. Without the tokens it would open it.
fn any_method() -> Yaml {
    Yaml::map().with("operation", Yaml::map().with("methods", Yaml::texts(["*"])))
}

/// Has a rule that allows be about HTTP alone.
fn over_http(rule: &mut Yaml) {
    let Yaml::Map(members) = rule else { return };
    let Some(to) = members.iter_mut().find(|entry| entry.name == "to") else {
        rule.push(Vec::new(), "to", Yaml::List(vec![(Vec::new(), any_method())]), true);
        return;
    };
    let Yaml::List(operations) = &mut to.value else { return };
    for (_, one) in operations {
        let Yaml::Map(members) = one else { continue };
        for operation in members.iter_mut().filter(|entry| entry.name == "operation") {
            let Yaml::Map(parts) = &operation.value else { continue };
            let is_http = parts.iter().any(|part| {
                ["hosts", "notHosts", "methods", "notMethods", "paths", "notPaths"]
                    .contains(&part.name.as_str())
            });
            if !is_http {
                operation.value.push(Vec::new(), "methods", Yaml::texts(["*"]), false);
            }
        }
    }
}

/// On one line where it fits.
fn flat(mut yaml: Yaml) -> Yaml {
    match &mut yaml {
        Yaml::Map(members) => {
            for entry in members {
                entry.tall = false;
                entry.value = flat(entry.value.clone());
            }
        }
        Yaml::List(list) => {
            for (_, one) in list {
                *one = flat(one.clone());
            }
        }
        _ => {}
    }
    yaml
}

/// What a condition of `when` says of tokens.
fn literals(condition: &Node, issuers: &[&str]) -> Result<Vec<Literal>, String> {
    let key = condition.get("key").and_then(Node::text).unwrap_or_default();
    let claim = match key {
        "request.auth.audiences" => Some(vec!["aud".to_owned()]),
        "request.auth.presenter" => Some(vec!["azp".to_owned()]),
        PRINCIPAL => None,
        _ => Some(claims(key).ok_or_else(|| format!("`{key}` is not known"))?),
    };
    let mut found = Vec::new();
    for (name, negated) in [("values", false), ("notValues", true)] {
        let values = texts(condition, name);
        if values.is_empty() {
            continue;
        }
        let what = match &claim {
            Some(path) => What::claim(path.clone(), &values),
            None => What::principals(&values, issuers),
        };
        found.push(Literal { what, negated });
    }
    Ok(found)
}

/// The requests of an operation. What the filter has no pattern for is another condition.
fn product(operation: &Node, other: &mut BTreeSet<String>) -> Result<Product, String> {
    let mut product = Product::default();
    for (name, value) in operation.members() {
        let values: Vec<&str> = value.elements().iter().filter_map(Node::text).collect();
        if values.is_empty() {
            continue;
        }
        let negated = name.starts_with("not");
        let known = match name {
            "hosts" | "notHosts" => {
                add(&mut product.hosts, values.iter().map(|text| Host::of(text)), negated)
            }
            "methods" | "notMethods" => {
                add(&mut product.methods, values.iter().map(|text| Method::of(text)), negated)
            }
            "paths" | "notPaths" => {
                let paths = values.iter().map(|text| Path::of(text)).collect::<Result<Vec<_>, _>>()?;
                add(
                    &mut product.paths,
                    paths.into_iter().map(|path| path.map_or(Read::Any, Read::One)),
                    negated,
                )
            }
            _ => false,
        };
        if !known {
            other.insert(format!("{name}: {}", value.value()));
        }
    }
    Ok(product)
}

/// Adds patterns to a part. `false` if one of them is none of the filter.
fn add<P: Pattern>(part: &mut Part<P>, patterns: impl Iterator<Item = Read<P>>, negated: bool) -> bool {
    let (mut named, mut has_any) = (Vec::new(), false);
    for pattern in patterns {
        match pattern {
            Read::Any => has_any = true,
            Read::One(pattern) => named.push(pattern),
            Read::Unknown => return false,
        }
    }
    match (negated, has_any) {
        (true, true) => part.nothing = true,
        (true, false) => part.none_of = named,
        (false, true) => {}
        (false, false) => part.any_of = Some(named),
    }
    true
}
