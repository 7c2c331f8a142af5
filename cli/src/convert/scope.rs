//! Which workloads a resource is about.

use std::collections::BTreeMap;

use super::yaml::Yaml;
use crate::document::Node;

/// Workloads: by namespace and labels, or by what the resource is attached to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Scope {
    /// The namespace of the resource.
    pub(super) namespace: String,
    /// Whether that is the root namespace, whose resources are about all namespaces.
    pub(super) is_root: bool,
    /// The labels that a pod must have.
    pub(super) labels: BTreeMap<String, String>,
    /// What the resource is attached to: group, kind and name.
    pub(super) targets: Vec<[String; 3]>,
}

/// How the workloads of two resources are related.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    /// They are the same.
    Same,
    /// All of the other are among the first.
    Holds,
    /// All of the first are among the other.
    Within,
    /// None is among both.
    Apart,
    /// Some may be among both, and some not.
    Crossing,
}

impl Scope {
    /// The workloads of a policy.
    pub(super) fn of(node: &Node, namespace: &str, root: &str) -> Self {
        let text =
            |node: &Node, name: &str| node.get(name).and_then(Node::text).unwrap_or_default().to_owned();
        let labels = node.at(&["spec", "selector", "matchLabels"]);
        let labels = labels.into_iter().flat_map(Node::members);
        let many = node.at(&["spec", "targetRefs"]).map(Node::elements).unwrap_or_default();
        let mut targets: Vec<[String; 3]> = many
            .iter()
            .chain(node.at(&["spec", "targetRef"]))
            .map(|target| ["group", "kind", "name"].map(|name| text(target, name)))
            .collect();
        targets.sort();
        Self {
            namespace: namespace.to_owned(),
            is_root: namespace == root,
            labels: labels
                .map(|(name, value)| (name.to_owned(), value.text().unwrap_or_default().to_owned()))
                .collect(),
            targets,
        }
    }

    /// How these workloads are related to others.
    pub(super) fn relation(&self, other: &Self) -> Relation {
        if self == other {
            return Relation::Same;
        }
        let reaches = |one: &Self, other: &Self| one.is_root || one.namespace == other.namespace;
        if !reaches(self, other) && !reaches(other, self) {
            return Relation::Apart;
        }
        match (self.targets.is_empty(), other.targets.is_empty()) {
            (true, true) => {}
            (false, false) => {
                let shared = self.targets.iter().any(|target| other.targets.contains(target));
                return if shared { Relation::Crossing } else { Relation::Apart };
            }
            // A policy without targets is also about gateways, but not about waypoints.
            _ => return Relation::Crossing,
        }
        let contradict = self
            .labels
            .iter()
            .any(|(name, value)| other.labels.get(name).is_some_and(|known| known != value));
        if contradict {
            return Relation::Apart;
        }
        let holds = |one: &Self, other: &Self| {
            reaches(one, other)
                && one.labels.iter().all(|(name, value)| other.labels.get(name) == Some(value))
        };
        match (holds(self, other), holds(other, self)) {
            (true, _) => Relation::Holds,
            (_, true) => Relation::Within,
            _ => Relation::Crossing,
        }
    }

    /// Whether these are gateways or waypoints, whose listeners have no inbound side.
    pub(super) fn are_gateways(&self) -> bool {
        !self.targets.is_empty() || self.labels.contains_key("istio")
    }

    /// Whether sidecars and gateways may be among them.
    pub(super) fn are_all(&self) -> bool {
        self.targets.is_empty() && self.labels.is_empty()
    }

    /// A short name.
    pub(super) fn name(&self) -> String {
        let label = self.labels.get("app").or_else(|| self.labels.values().next());
        let target = self.targets.first().map(|[_, _, name]| name);
        label.or(target).cloned().unwrap_or_else(|| "all".to_owned())
    }

    /// `selector` or `targetRefs` of a plugin, put into its `spec`.
    pub(super) fn select(&self, spec: Yaml) -> Yaml {
        if !self.targets.is_empty() {
            let target = |[group, kind, name]: &[String; 3]| {
                let target = Yaml::map().with("group", Yaml::text(group));
                (Vec::new(), target.with("kind", Yaml::text(kind)).with("name", Yaml::text(name)))
            };
            return spec.with("targetRefs", Yaml::List(self.targets.iter().map(target).collect()));
        }
        if self.labels.is_empty() {
            return spec;
        }
        let labels =
            self.labels.iter().fold(Yaml::map(), |map, (name, value)| map.with(name, Yaml::text(value)));
        spec.with("selector", Yaml::map().with("matchLabels", labels))
    }
}

#[cfg(test)]
mod tests {
    use super::{Relation, Scope};

    fn scope(namespace: &str, labels: &[(&str, &str)]) -> Scope {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Scope { namespace: namespace.to_owned(), is_root: namespace == "root", labels, targets: Vec::new() }
    }

    #[test]
    fn workloads_hold_cross_or_are_apart() {
        let (mesh, shop) = (scope("root", &[]), scope("shop", &[]));
        let orders = scope("shop", &[("app", "orders")]);
        for (one, other, expected) in [
            (&mesh, &shop, Relation::Holds),
            (&orders, &mesh, Relation::Within),
            (&shop, &orders, Relation::Holds),
            (&orders, &scope("shop", &[("app", "web")]), Relation::Apart),
            (&orders, &scope("shop", &[("tier", "back")]), Relation::Crossing),
            (&orders, &scope("root", &[("tier", "back")]), Relation::Crossing),
            (&orders, &scope("bank", &[("app", "orders")]), Relation::Apart),
            (&orders, &orders.clone(), Relation::Same),
        ] {
            assert_eq!(one.relation(other), expected, "{one:?} {other:?}");
        }
    }
}
