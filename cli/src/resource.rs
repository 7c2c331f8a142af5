//! Kubernetes resources, and the plugins that they install.

use std::collections::BTreeMap;
use std::ops::Range;

use mesh_filters_cli::filters;

use crate::document::{Kind, Node};

/// A resource of the input.
pub(crate) struct Resource<'a> {
    /// The position of its source.
    pub(crate) source: usize,
    /// What it is.
    pub(crate) node: &'a Node,
    /// `kind`; empty for a bare pluginConfig.
    pub(crate) kind: &'a str,
    /// `metadata.namespace`; empty where it has none.
    pub(crate) namespace: &'a str,
    /// `metadata.name`.
    pub(crate) name: &'a str,
}

impl<'a> Resource<'a> {
    /// The document as a resource.
    pub(crate) fn of(source: usize, node: &'a Node) -> Self {
        let text = |names: &[&str]| node.at(names).and_then(Node::text).unwrap_or_default();
        Self {
            source,
            node,
            kind: text(&["kind"]),
            namespace: text(&["metadata", "namespace"]),
            name: text(&["metadata", "name"]),
        }
    }

    /// How a person names it.
    pub(crate) fn title(&self) -> String {
        match (self.kind, self.namespace) {
            ("", _) => "pluginConfig".to_owned(),
            (kind, "") => format!("{kind} {}", self.name),
            (kind, namespace) => format!("{kind} {namespace}/{}", self.name),
        }
    }
}

/// Stands for the value of a variable that only the proxy has. It is long enough for a key.
pub(crate) const STAND_IN: &str = "a value that the proxy has, and this program has not";

/// A Wasm plugin.
pub(crate) struct Plugin<'a> {
    /// The resource that installs it.
    pub(crate) resource: &'a Resource<'a>,
    /// The filter; `None` where it is another plugin than one of these filters, or nothing tells which.
    pub(crate) filter: Option<&'static str>,
    /// Whether its image is named after these filters.
    pub(crate) is_ours: bool,
    /// What is configured of it: `spec`, or that part of `spec` which is about Wasm.
    pub(crate) spec: &'a Node,
    /// The place of its name.
    pub(crate) span: Range<usize>,
    /// Its configuration, if it has one.
    pub(crate) config: Option<&'a Node>,
    /// Its variables that have a value here.
    pub(crate) variables: BTreeMap<String, String>,
    /// The workloads that it runs on.
    pub(crate) workloads: Workloads,
    /// When it runs among the plugins of a workload: the phase, then the priority, highest first.
    pub(crate) order: (u8, i64),
}

/// Which workloads something is about.
#[derive(Debug, Clone, Default)]
pub(crate) struct Workloads {
    namespace: String,
    labels: BTreeMap<String, String>,
    targets: Vec<String>,
}

/// The namespace whose plugins are about the mesh.
const ROOT: &str = "istio-system";

impl Workloads {
    /// Whether these are gateways, which have no inbound side: they are named as targets, or by Istio's own label.
    pub(crate) fn are_gateways(&self) -> bool {
        !self.targets.is_empty() || self.labels.contains_key("istio")
    }

    /// Whether a pod with these labels is among them, in this namespace if one is given.
    pub(crate) fn select(&self, namespace: Option<&str>, labels: &BTreeMap<String, String>) -> bool {
        let here = namespace.is_none_or(|name| [name, ROOT, ""].contains(&self.namespace.as_str()));
        here && self.labels.iter().all(|(name, value)| labels.get(name) == Some(value))
    }

    /// Whether a workload can be among both. One without a selector is about its whole namespace, and in the root namespace
    /// about the mesh.
    pub(crate) fn overlap(&self, other: &Self) -> bool {
        let same_namespace = self.namespace == other.namespace
            || [&self.namespace, &other.namespace].iter().any(|name| *name == ROOT);
        if !self.targets.is_empty() || !other.targets.is_empty() {
            return self.namespace == other.namespace
                && self.targets.iter().any(|target| other.targets.contains(target));
        }
        let contradict = self
            .labels
            .iter()
            .any(|(name, value)| other.labels.get(name).is_some_and(|other| other != value));
        same_namespace && !contradict
    }
}

/// The plugins that a resource installs.
pub(crate) fn plugins<'a>(resource: &'a Resource<'a>) -> Vec<Plugin<'a>> {
    let node = resource.node;
    match resource.kind {
        "WasmPlugin" => node.get("spec").map(|spec| istio(resource, spec, spec)).into_iter().collect(),
        "TrafficExtension" => {
            let spec = node.get("spec").zip(node.at(&["spec", "wasm"]));
            spec.map(|(spec, wasm)| istio(resource, spec, wasm)).into_iter().collect()
        }
        "EnvoyExtensionPolicy" => {
            let wasm = node.at(&["spec", "wasm"]).map(Node::elements).unwrap_or_default();
            wasm.iter().map(|wasm| gateway(resource, wasm)).collect()
        }
        "EnvoyFilter" => {
            let patches = node.at(&["spec", "configPatches"]).map(Node::elements).unwrap_or_default();
            patches.iter().filter_map(|patch| by_hand(resource, patch)).collect()
        }
        "" => vec![bare(resource)],
        _ => Vec::new(),
    }
}

fn named(text: &str) -> Option<&'static str> {
    filters::NAMES.into_iter().find(|name| *name == text)
}

/// The filter that an image's or a plugin's name holds. `mesh-filters` is also what the images of all are stored under.
fn within(text: &str) -> Option<&'static str> {
    let last = text.rsplit('/').next().unwrap_or_default();
    let last = last.split([':', '@']).next().unwrap_or_default();
    filters::NAMES.into_iter().find(|name| last == *name || last.starts_with(&format!("{name}-")))
}

fn by_members(config: Option<&Node>) -> Option<&'static str> {
    let Kind::Object(members) = &config?.kind else { return None };
    members.iter().find_map(|(name, ..)| filters::by_member(name))
}

fn text<'a>(node: &'a Node, names: &[&str]) -> &'a str {
    node.at(names).and_then(Node::text).unwrap_or_default()
}

fn labels(node: Option<&Node>) -> BTreeMap<String, String> {
    let Some(Kind::Object(members)) = node.map(|node| &node.kind) else { return BTreeMap::new() };
    let label =
        |(name, _, value): &(String, _, Node)| (name.clone(), value.text().unwrap_or_default().to_owned());
    members.iter().map(label).collect()
}

fn targets(node: &Node) -> Vec<String> {
    let many = node.get("targetRefs").map(Node::elements).unwrap_or_default();
    let one = node.get("targetRef").into_iter();
    many.iter()
        .chain(one)
        .map(|target| format!("{}/{}", text(target, &["kind"]), text(target, &["name"])))
        .collect()
}

/// Those that a pod sees. One whose value is kept elsewhere has a stand-in.
fn variables(list: Option<&Node>) -> BTreeMap<String, String> {
    let list = list.map(Node::elements).unwrap_or_default();
    let variable = |one: &Node| {
        let value = match text(one, &["valueFrom"]) {
            "HOST" => STAND_IN.to_owned(),
            _ => text(one, &["value"]).to_owned(),
        };
        (text(one, &["name"]).to_owned(), value)
    };
    list.iter().map(variable).collect()
}

/// A plugin of Istio's own resources.
fn istio<'a>(resource: &'a Resource<'a>, spec: &'a Node, wasm: &'a Node) -> Plugin<'a> {
    let config = wasm.get("pluginConfig");
    let url = text(wasm, &["url"]);
    let filter = named(text(wasm, &["pluginName"])).or_else(|| within(url));
    let is_ours = filter.is_some() || url.contains("mesh-filters");
    let filter = filter.or_else(|| by_members(config).filter(|_| is_ours));
    let phase = match text(spec, &["phase"]) {
        "AUTHN" => 0,
        "AUTHZ" => 1,
        "STATS" => 2,
        _ => 3,
    };
    let priority = spec.get("priority").and_then(|priority| priority.value().as_i64()).unwrap_or(0);
    Plugin {
        resource,
        filter,
        is_ours,
        spec: wasm,
        span: resource.node.locate("metadata.name"),
        config,
        variables: variables(wasm.at(&["vmConfig", "env"])),
        workloads: Workloads {
            namespace: resource.namespace.to_owned(),
            labels: labels(spec.at(&["selector", "matchLabels"])),
            targets: targets(spec),
        },
        order: (phase, priority.saturating_neg()),
    }
}

/// A plugin of Envoy Gateway's policy.
fn gateway<'a>(resource: &'a Resource<'a>, wasm: &'a Node) -> Plugin<'a> {
    let config = wasm.get("config");
    let url = text(wasm, &["code", "image", "url"]);
    let filter = named(text(wasm, &["name"])).or_else(|| within(url));
    let is_ours = filter.is_some() || url.contains("mesh-filters");
    Plugin {
        resource,
        filter: filter.or_else(|| by_members(config).filter(|_| is_ours)),
        is_ours,
        spec: wasm,
        span: resource.node.locate("metadata.name"),
        config,
        variables: BTreeMap::new(),
        workloads: Workloads {
            namespace: resource.namespace.to_owned(),
            labels: BTreeMap::new(),
            targets: resource.node.get("spec").map(targets).unwrap_or_default(),
        },
        order: (3, 0),
    }
}

/// A plugin that an `EnvoyFilter` writes into the proxy's configuration by hand.
fn by_hand<'a>(resource: &'a Resource<'a>, patch: &'a Node) -> Option<Plugin<'a>> {
    let typed = patch.at(&["patch", "value", "typed_config"])?;
    let config = typed.get("config").or_else(|| typed.at(&["value", "config"]))?;
    let name = text(config, &["name"]);
    let filter = named(name).or_else(|| named(text(config, &["root_id"]))).or_else(|| within(name))?;
    let written = config.get("configuration");
    Some(Plugin {
        resource,
        filter: Some(filter),
        is_ours: true,
        spec: config,
        span: resource.node.locate("metadata.name"),
        config: written.and_then(|written| written.get("value").or(Some(written))),
        variables: BTreeMap::new(),
        workloads: Workloads {
            namespace: resource.namespace.to_owned(),
            labels: labels(resource.node.at(&["spec", "workloadSelector", "labels"])),
            targets: Vec::new(),
        },
        order: (3, 0),
    })
}

/// A document that is nothing but a pluginConfig.
fn bare<'a>(resource: &'a Resource<'a>) -> Plugin<'a> {
    let filter = by_members(Some(resource.node));
    Plugin {
        resource,
        filter,
        is_ours: filter.is_some(),
        spec: resource.node,
        span: resource.node.span.clone(),
        config: Some(resource.node),
        variables: BTreeMap::new(),
        workloads: Workloads::default(),
        order: (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_overlap_unless_a_namespace_or_a_label_tells_them_apart() {
        let workloads = |namespace: &str, labels: &[(&str, &str)]| Workloads {
            namespace: namespace.to_owned(),
            labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            targets: Vec::new(),
        };
        let orders = workloads("shop", &[("app", "orders")]);
        for (other, expected) in [
            (workloads("shop", &[]), true),
            (workloads("istio-system", &[]), true),
            (workloads("shop", &[("track", "canary")]), true),
            (workloads("shop", &[("app", "users")]), false),
            (workloads("other", &[]), false),
        ] {
            assert_eq!(orders.overlap(&other), expected, "{other:?}");
            assert_eq!(other.overlap(&orders), expected, "{other:?}");
        }
        let gateway = Workloads { targets: vec!["Gateway/edge".to_owned()], ..workloads("shop", &[]) };
        assert!(gateway.overlap(&gateway) && !gateway.overlap(&orders));
    }

    #[test]
    fn a_pod_is_selected_by_its_labels_and_its_namespace() {
        let labels = |app: &str| BTreeMap::from([("app".to_owned(), app.to_owned())]);
        let of = |namespace: &str, labels| Workloads {
            namespace: namespace.to_owned(),
            labels,
            targets: Vec::new(),
        };
        let orders = of("shop", labels("orders"));
        assert!(orders.select(None, &labels("orders")) && orders.select(Some("shop"), &labels("orders")));
        assert!(!orders.select(None, &labels("users")) && !orders.select(Some("other"), &labels("orders")));
        assert!(of("istio-system", BTreeMap::new()).select(Some("shop"), &labels("users")));
    }

    #[test]
    fn an_image_is_named_after_its_filter() {
        assert_eq!(within("oci://registry.example/mesh-filters/jwt-auth:0.1.0"), Some("jwt-auth"));
        assert_eq!(within("oci://registry.example/mesh-filters:0.1.0"), Some("mesh-filters"));
        assert_eq!(within("rate-limit-edge"), Some("rate-limit"));
        assert_eq!(within("oci://registry.example/other/ratelimit"), None);
    }
}
