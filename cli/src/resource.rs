//! Kubernetes resources, and the plugins that they install.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use mesh_filters_cli::filters;
use plugin_kit::config::Code;

use crate::document::{Kind, Node, decoded, unfolded};
use crate::secret;

/// A resource of the input.
pub(crate) struct Resource<'a> {
    /// The position of its source.
    pub(crate) source: usize,
    /// The text of the source.
    pub(crate) text: &'a str,
    /// The document.
    pub(crate) node: &'a Node,
    /// The `kind`; empty for a bare pluginConfig.
    pub(crate) kind: &'a str,
    /// `metadata.namespace`; empty where it has none.
    pub(crate) namespace: &'a str,
    /// `metadata.name`.
    pub(crate) name: &'a str,
}

impl<'a> Resource<'a> {
    /// The document as a resource.
    pub(crate) fn of(source: usize, text: &'a str, node: &'a Node) -> Self {
        let field = |names: &[&str]| node.at(names).and_then(Node::text).unwrap_or_default();
        Self {
            source,
            text,
            node,
            kind: field(&["kind"]),
            namespace: field(&["metadata", "namespace"]),
            name: field(&["metadata", "name"]),
        }
    }

    /// Its name for people.
    pub(crate) fn title(&self) -> String {
        match (self.kind, self.namespace) {
            ("", _) => "pluginConfig".to_owned(),
            (kind, "") => format!("{kind} {}", self.name),
            (kind, namespace) => format!("{kind} {namespace}/{}", self.name),
        }
    }
}

/// Stands in for the value of a variable that only the proxy knows. It is long enough for a key.
pub(crate) const STAND_IN: &str = "a value that the proxy has, and this program has not";

/// An error, its place, and its message.
pub(crate) type Fault = (Code, Range<usize>, String);

/// A Wasm plugin.
pub(crate) struct Plugin<'a> {
    /// The resource that installs it.
    pub(crate) resource: &'a Resource<'a>,
    /// The filter; `None` if the plugin is not one of these filters, or nothing tells which one it is.
    pub(crate) filter: Option<&'static str>,
    /// Whether its image is named after these filters, or its configuration is plainly theirs.
    pub(crate) is_ours: bool,
    /// Its settings: `spec`, or the part of `spec` that is about Wasm.
    pub(crate) spec: &'a Node,
    /// The place of its name.
    pub(crate) span: Range<usize>,
    /// Its configuration, if it has one. If Envoy takes it as a text, this is the content of the text.
    pub(crate) config: Option<Cow<'a, Node>>,
    /// Errors in what surrounds its configuration.
    pub(crate) faults: Vec<Fault>,
    /// The places of values that no output shows.
    pub(crate) hidden: Vec<Range<usize>>,
    /// The variables whose values are known here.
    pub(crate) variables: BTreeMap<String, String>,
    /// The workloads that it runs on.
    pub(crate) workloads: Workloads,
    /// Its place in the order of the workload's plugins.
    pub(crate) order: Order,
    /// The requests on which it runs.
    pub(crate) sides: Sides,
}

/// The requests on which a plugin runs: those of any of these entries, from `match` of Istio's plugins and of
/// an `EnvoyFilter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sides(Vec<Side>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Side {
    /// Requests that a pod receives.
    inbound: bool,
    /// Requests that a pod sends.
    outbound: bool,
    /// Requests that pass a gateway.
    gateway: bool,
    /// The ports of these requests; every port if the list is empty.
    ports: Vec<u16>,
}

impl Side {
    const ALL: Self = Self { inbound: true, outbound: true, gateway: true, ports: Vec::new() };
}

impl Sides {
    pub(crate) fn all() -> Self {
        Self(vec![Side::ALL])
    }

    /// Whether the plugin runs on requests that a pod receives.
    pub(crate) fn inbound(&self) -> bool {
        self.0.iter().any(|side| side.inbound)
    }

    /// Whether the plugin runs on requests that a pod sends.
    pub(crate) fn outbound(&self) -> bool {
        self.0.iter().any(|side| side.outbound)
    }

    /// The ports of the pod, or of the gateway, on which the plugin runs; `None` for every port.
    pub(crate) fn ports(&self, gateway: bool) -> Option<Vec<u16>> {
        let here = self.0.iter().filter(|side| if gateway { side.gateway } else { side.inbound });
        let ports: Vec<&Vec<u16>> = here.map(|side| &side.ports).collect();
        let are_all = ports.iter().any(|ports| ports.is_empty());
        (!are_all).then(|| ports.into_iter().flatten().copied().collect())
    }

    /// Reads `match` of a `WasmPlugin` or a `TrafficExtension`. Without an entry, a plugin runs on all
    /// requests.
    fn of_istio(spec: &Node) -> Self {
        let entries = spec.get("match").map(Node::elements).unwrap_or_default();
        let of = |entry: &Node| {
            let ports = entry.get("ports").map(Node::elements).unwrap_or_default();
            let ports = ports.iter().filter_map(|port| number(port.get("number")?)).collect();
            match text(entry, &["mode"]) {
                "CLIENT" => Side { inbound: false, ports, ..Side::ALL },
                "SERVER" => Side { inbound: true, outbound: false, gateway: false, ports },
                _ => Side { ports, ..Side::ALL },
            }
        };
        if entries.is_empty() { Self::all() } else { Self(entries.iter().map(of).collect()) }
    }

    fn of_patch(patch: &Node) -> Self {
        let ports = patch.at(&["match", "listener", "portNumber"]).and_then(number).into_iter().collect();
        let none = Side { inbound: false, outbound: false, gateway: false, ports };
        Self(vec![match text(patch, &["match", "context"]) {
            "SIDECAR_INBOUND" => Side { inbound: true, ..none },
            "SIDECAR_OUTBOUND" => Side { outbound: true, ..none },
            "GATEWAY" => Side { gateway: true, ..none },
            _ => Side { ports: none.ports, ..Side::ALL },
        }])
    }
}

fn number(node: &Node) -> Option<u16> {
    node.value().as_u64().and_then(|number| number.try_into().ok())
}

/// The place of a plugin in the order of a workload's plugins, as Istio sorts them
/// (`WasmPluginsByListenerInfo` in its `push_context.go`).
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Order {
    /// The `phase`. A filter of an `EnvoyFilter` comes after all phases.
    phase: u8,
    /// The `priority`, highest first. An unset priority is the lowest.
    priority: Reverse<i64>,
    /// Whether the plugin is in the pod's own namespace; such plugins come first.
    is_of_mesh: bool,
    /// The time at which the resource was created, if it comes from a cluster.
    created: String,
    name: String,
    namespace: String,
}

impl Order {
    fn of_istio(resource: &Resource<'_>, spec: &Node) -> Self {
        let phase = match text(spec, &["phase"]) {
            "AUTHN" => 0,
            "AUTHZ" => 1,
            "STATS" => 2,
            _ => 3,
        };
        let priority = spec.get("priority").and_then(|priority| priority.value().as_i64());
        Self {
            phase,
            priority: Reverse(priority.unwrap_or(i64::from(i32::MIN))),
            is_of_mesh: resource.namespace == ROOT,
            created: text(resource.node, &["metadata", "creationTimestamp"]).to_owned(),
            name: resource.name.to_owned(),
            namespace: resource.namespace.to_owned(),
        }
    }

    /// The order of plugins whose resources do not determine it: after the plugins of Istio, in the order of
    /// the input.
    fn last() -> Self {
        Self { phase: 4, ..Self::default() }
    }

    /// Whether phase and priority leave open which of two plugins of Istio runs first.
    pub(crate) fn is_tie(&self, other: &Self) -> bool {
        (self.phase, self.priority) == (other.phase, other.priority) && self.phase < 4
    }

    /// Whether the resources leave open which of two plugins runs first, since their times of creation would
    /// decide and are not known.
    pub(crate) fn is_open(&self, other: &Self) -> bool {
        self.is_tie(other) && (self.created.is_empty() || other.created.is_empty())
    }
}

/// The workloads that a resource selects.
#[derive(Debug, Clone, Default)]
pub(crate) struct Workloads {
    namespace: String,
    labels: BTreeMap<String, String>,
    targets: Vec<String>,
}

/// The namespace whose plugins apply to the whole mesh.
const ROOT: &str = "istio-system";

/// The label by which most workloads are told apart.
const APP: &str = "app";

/// The workloads of many plugins, by namespace and the label `app`, so that each is compared with few others.
/// Gateways differ by their names only, and are kept with the workloads without the label.
#[derive(Default)]
pub(crate) struct Near(BTreeMap<String, BTreeMap<String, Vec<usize>>>);

impl Near {
    /// Groups the workloads. A workload's position is its place in `all`.
    pub(crate) fn of<'a>(all: impl Iterator<Item = &'a Workloads>) -> Self {
        let mut near = Self::default();
        for (position, workloads) in all.enumerate() {
            let app = workloads.labels.get(APP).cloned().unwrap_or_default();
            near.0.entry(workloads.namespace.clone()).or_default().entry(app).or_default().push(position);
        }
        near
    }
}

impl Workloads {
    /// Whether these are gateways, which have no inbound side. Gateways are named as targets or by Istio's
    /// own label.
    pub(crate) fn are_gateways(&self) -> bool {
        !self.targets.is_empty() || self.labels.contains_key("istio")
    }

    /// Whether a pod with these labels is among them, in this namespace if one is given. Where no labels are
    /// given, they are not known.
    pub(crate) fn select(&self, namespace: Option<&str>, labels: &BTreeMap<String, String>) -> bool {
        let here = namespace.is_none_or(|name| [name, ROOT, ""].contains(&self.namespace.as_str()));
        let has = |(name, value): (&String, &String)| labels.get(name) == Some(value);
        here && (labels.is_empty() || self.labels.iter().all(has))
    }

    /// Whether these are only some of the pods in this namespace that have the label which names their service.
    pub(crate) fn are_some_of(&self, namespace: &str, (label, value): (&str, &str)) -> bool {
        self.select(Some(namespace), &self.labels)
            && self.labels.len() > 1
            && self.labels.get(label).is_some_and(|own| own == value)
    }

    /// The labels that these have and a pod lacks.
    pub(crate) fn lacking<'a>(
        &'a self,
        labels: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = String> {
        let lacking = self.labels.iter().filter(|(name, value)| labels.get(*name) != Some(value));
        lacking.map(|(name, value)| format!("{name}={value}"))
    }

    /// The positions of the workloads that may overlap these, in order.
    pub(crate) fn near(&self, all: &Near) -> Vec<usize> {
        let own = [self.namespace.as_str(), ROOT].into_iter().filter_map(|namespace| all.0.get(namespace));
        let namespaces: Vec<_> =
            if self.namespace == ROOT { all.0.values().collect() } else { own.collect() };
        let mut found: Vec<usize> = match self.labels.get(APP) {
            Some(app) => {
                let apps = namespaces.iter().flat_map(|apps| [apps.get(app.as_str()), apps.get("")]);
                apps.flatten().flatten().copied().collect()
            }
            None => namespaces.iter().flat_map(|apps| apps.values()).flatten().copied().collect(),
        };
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Whether a workload can be among both. A resource without a selector selects its whole namespace, and
    /// in the root namespace the whole mesh.
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

/// The options of `explain` that choose these workloads.
impl std::fmt::Display for Workloads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let namespace = Some(&self.namespace).filter(|name| !name.is_empty() && *name != ROOT);
        let namespace =
            namespace.map_or_else(|| "any namespace".to_owned(), |name| format!("`--namespace {name}`"));
        let labels = self.labels.iter().map(|(name, value)| format!(" `--label {name}={value}`"));
        write!(f, "{namespace}{}", labels.collect::<String>())
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

/// The filter after which an image or a plugin is named. Only the last part of a path counts, since
/// `mesh-filters` is also the name of the folder of all images.
fn within(text: &str) -> Option<&'static str> {
    let last = text.rsplit('/').next().unwrap_or_default();
    let last = last.split([':', '@']).next().unwrap_or_default();
    filters::NAMES.into_iter().find(|name| last == *name || last.starts_with(&format!("{name}-")))
}

fn by_members(config: Option<&Node>) -> Option<&'static str> {
    config?.members().find_map(|(name, _)| filters::by_member(name))
}

/// Whether a configuration is plainly that of these filters, whatever the name of its image. A patch that a
/// tool merges into a resource names no image.
fn is_plainly_ours(config: &Node) -> bool {
    config.members().any(|(name, value)| match name {
        "jwtAuth" | "rateLimit" | "traceTags" => true,
        "providers" => value.members().any(|(_, provider)| provider.get("issuer").is_some()),
        "limits" => value.elements().iter().any(|limit| limit.get("rate").is_some()),
        "tags" => value.elements().iter().any(|tag| tag.get("from").is_some()),
        _ => false,
    })
}

fn text<'a>(node: &'a Node, names: &[&str]) -> &'a str {
    node.at(names).and_then(Node::text).unwrap_or_default()
}

pub(crate) fn labels(node: Option<&Node>) -> BTreeMap<String, String> {
    let members = node.into_iter().flat_map(Node::members);
    members.map(|(name, value)| (name.to_owned(), value.text().unwrap_or_default().to_owned())).collect()
}

fn targets(node: &Node) -> Vec<String> {
    let many = node.get("targetRefs").map(Node::elements).unwrap_or_default();
    let one = node.get("targetRef").into_iter();
    many.iter()
        .chain(one)
        .map(|target| format!("{}/{}", text(target, &["kind"]), text(target, &["name"])))
        .collect()
}

/// The variables that a plugin sees. A variable whose value is kept elsewhere has a stand-in.
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

/// The places of the values of variables.
fn values(list: Option<&Node>) -> Vec<Range<usize>> {
    let list = list.map(Node::elements).unwrap_or_default();
    list.iter().filter_map(|one| one.get("value")).map(|value| value.span.clone()).collect()
}

/// The variables whose values the proxy takes from its own environment.
fn of_host(names: Option<&Node>) -> impl Iterator<Item = (String, String)> {
    let names = names.map(Node::elements).unwrap_or_default();
    names.iter().filter_map(Node::text).map(|name| (name.to_owned(), STAND_IN.to_owned()))
}

/// A plugin of Istio's own resources.
fn istio<'a>(resource: &'a Resource<'a>, spec: &'a Node, wasm: &'a Node) -> Plugin<'a> {
    let config = wasm.get("pluginConfig");
    let url = text(wasm, &["url"]);
    let filter = named(text(wasm, &["pluginName"])).or_else(|| within(url));
    let is_named = filter.is_some() || url.contains("mesh-filters");
    let is_ours = is_named || (!url.is_empty() && config.is_some_and(is_plainly_ours));
    let filter = filter.or_else(|| by_members(config).filter(|_| is_named));
    Plugin {
        resource,
        filter,
        is_ours,
        spec: wasm,
        span: resource.node.locate("metadata.name"),
        config: config.map(Cow::Borrowed),
        faults: Vec::new(),
        hidden: values(wasm.at(&["vmConfig", "env"])),
        variables: variables(wasm.at(&["vmConfig", "env"])),
        workloads: Workloads {
            namespace: resource.namespace.to_owned(),
            labels: labels(spec.at(&["selector", "matchLabels"])),
            targets: targets(spec),
        },
        order: Order::of_istio(resource, spec),
        sides: Sides::of_istio(spec),
    }
}

/// A plugin of Envoy Gateway's policy.
fn gateway<'a>(resource: &'a Resource<'a>, wasm: &'a Node) -> Plugin<'a> {
    let config = wasm.get("config");
    let url = text(wasm, &["code", "image", "url"]);
    let filter = named(text(wasm, &["name"])).or_else(|| within(url));
    let is_named = filter.is_some() || url.contains("mesh-filters");
    Plugin {
        resource,
        filter: filter.or_else(|| by_members(config).filter(|_| is_named)),
        is_ours: is_named || (!url.is_empty() && config.is_some_and(is_plainly_ours)),
        spec: wasm,
        span: resource.node.locate("metadata.name"),
        config: config.map(Cow::Borrowed),
        faults: Vec::new(),
        hidden: Vec::new(),
        variables: of_host(wasm.at(&["env", "hostKeys"])).collect(),
        workloads: Workloads {
            namespace: resource.namespace.to_owned(),
            labels: BTreeMap::new(),
            targets: resource.node.get("spec").map(targets).unwrap_or_default(),
        },
        order: Order::last(),
        sides: Sides::all(),
    }
}

/// A member by either of its two names: that of the protocol buffer, or that of its JSON form.
fn either<'a>(node: &'a Node, names: [&str; 2]) -> Option<&'a Node> {
    names.iter().find_map(|name| node.get(name))
}

/// A plugin that an `EnvoyFilter` inserts into the proxy's configuration.
fn by_hand<'a>(resource: &'a Resource<'a>, patch: &'a Node) -> Option<Plugin<'a>> {
    let typed = patch.at(&["patch", "value", "typed_config"])?;
    // In an `xds.type.v3.TypedStruct` the message is `value`.
    let typed = typed.get("value").filter(|value| matches!(value.kind, Kind::Object(_))).unwrap_or(typed);
    let workloads = Workloads {
        namespace: resource.namespace.to_owned(),
        labels: labels(resource.node.at(&["spec", "workloadSelector", "labels"])),
        targets: Vec::new(),
    };
    if let Some(module) = either(typed, ["dynamic_module_config", "dynamicModuleConfig"]) {
        let plugin = native(resource, typed, module, workloads)?;
        return Some(Plugin { sides: Sides::of_patch(patch), ..plugin });
    }
    let config = typed.get("config")?;
    let name = text(config, &["name"]);
    let filter = named(name).or_else(|| named(text(config, &["root_id"]))).or_else(|| within(name))?;
    let (written, fault) = config.get("configuration").map(|any| of_any(resource, any)).unwrap_or_default();
    let variables = config.at(&["vm_config", "environment_variables"]);
    let given = variables.and_then(|variables| variables.get("key_values"));
    Some(Plugin {
        resource,
        filter: Some(filter),
        is_ours: true,
        spec: config,
        span: resource.node.locate("metadata.name"),
        config: written,
        faults: fault.into_iter().collect(),
        hidden: given.into_iter().flat_map(Node::members).map(|(_, value)| value.span.clone()).collect(),
        variables: of_host(variables.and_then(|variables| variables.get("host_env_keys")))
            .chain(labels(given))
            .collect(),
        workloads,
        order: Order::last(),
        sides: Sides::of_patch(patch),
    })
}

/// The configuration that a Wasm filter gets from a `google.protobuf.Any`. Envoy unwraps a text or bytes. It
/// passes every other message on in its serialised form, which the filters refuse.
fn of_any<'a>(resource: &'a Resource<'a>, any: &'a Node) -> (Option<Cow<'a, Node>>, Option<Fault>) {
    let value = any.get("value").unwrap_or(any);
    let kind = text(any, &["@type"]);
    let kind = kind.rsplit_once('/').map_or(kind, |(_, kind)| kind);
    let wrong = |node: &Node, found: &str| {
        let message = format!(
            "configuration: {found}; expected `\"@type\": type.googleapis.com/google.protobuf.StringValue` with the JSON document as \
             the text of `value`"
        );
        (None, Some((Code::NotJson, node.span.clone(), message)))
    };
    match kind {
        "" | "google.protobuf.StringValue" => (Some(unfolded(resource.text, value)), None),
        "google.protobuf.BytesValue" => {
            let bytes = value.text().and_then(|text| BASE64_STANDARD.decode(text).ok());
            match bytes.and_then(|bytes| String::from_utf8(bytes).ok()) {
                Some(text) => (Some(Cow::Owned(decoded(value, &text))), None),
                None => wrong(value, "the value is not a text in base64"),
            }
        }
        other => wrong(any.get("@type").unwrap_or(any), &format!("the filter gets a serialised `{other}`")),
    }
}

/// The fields of a native filter beside its configuration.
const FRAME: [&str; 3] = ["pluginName", "pluginConfig", "vmConfig"];

/// A filter of the native module.
fn native<'a>(
    resource: &'a Resource<'a>,
    typed: &'a Node,
    module: &'a Node,
    workloads: Workloads,
) -> Option<Plugin<'a>> {
    let filter = either(typed, ["filter_name", "filterName"]).and_then(Node::text).and_then(named);
    let file = text(module, &["module", "local", "filename"]);
    let is_ours =
        filter.is_some() || [file, text(module, &["name"])].iter().any(|name| name.contains("mesh_filters"));
    if !is_ours {
        return None;
    }
    let mut faults = Vec::new();
    let is_refused = either(module, ["nack_on_cache_miss", "nackOnCacheMiss"]);
    if module.at(&["module", "remote"]).is_some()
        && is_refused.is_none_or(|refused| refused.value() != serde_json::Value::Bool(true))
    {
        let message = "requests pass unchecked where the module cannot be fetched; expected `nack_on_cache_miss: true` beside `module`, or \
                       `module.local`";
        faults.push((Code::ModuleFailsOpen, module.locate_name("module.remote"), message.to_owned()));
    }
    let frame = either(typed, ["filter_config", "filterConfig"]);
    let frame = frame.map(|frame| unfolded(resource.text, frame.get("value").unwrap_or(frame)));
    let (mut config, mut given, mut hidden) = (None, BTreeMap::new(), Vec::new());
    match frame.as_deref().map(|frame| (frame, &frame.kind)) {
        Some((frame, Kind::Object(members))) => {
            for (name, span, _) in members.iter().filter(|(name, ..)| !FRAME.contains(&name.as_str())) {
                let message = format!(
                    "filter_config: `{name}` is not a field of it; expected `pluginConfig` with the configuration, `pluginName` or `vmConfig`"
                );
                faults.push((Code::UnknownField, span.clone(), message));
            }
            config = frame.get("pluginConfig").map(|config| unfolded(resource.text, config).into_owned());
            given = variables(frame.at(&["vmConfig", "env"]));
            hidden = values(frame.at(&["vmConfig", "env"]));
        }
        Some((frame, _)) => {
            let message = "filter_config: is not a JSON object; expected `pluginConfig` in a `google.protobuf.Struct`, or in the text of a \
                           `google.protobuf.StringValue`";
            faults.push((Code::NotJson, frame.span.clone(), message.to_owned()));
        }
        None => {}
    }
    Some(Plugin {
        resource,
        filter,
        is_ours,
        spec: typed,
        span: resource.node.locate("metadata.name"),
        config: config.map(Cow::Owned),
        faults,
        hidden,
        variables: given,
        workloads,
        order: Order::last(),
        sides: Sides::all(),
    })
}

/// Whether a document without a kind can be a pluginConfig. Other files have members of these names too, such
/// as the tags of a dashboard.
pub(crate) fn is_config(node: &Node) -> bool {
    let is_object = |node: &Node| matches!(node.kind, Kind::Object(_));
    let fits = |value: &Node| match &value.kind {
        Kind::List(list) => list.iter().all(is_object),
        Kind::Object(_) => true,
        Kind::Scalar(_) => false,
    };
    node.members().any(|(name, value)| filters::by_member(name).is_some() && fits(value))
}

/// A document that is a bare pluginConfig.
fn bare<'a>(resource: &'a Resource<'a>) -> Plugin<'a> {
    let filter = by_members(Some(resource.node));
    Plugin {
        resource,
        filter,
        is_ours: filter.is_some(),
        spec: resource.node,
        span: resource.node.span.clone(),
        config: Some(Cow::Borrowed(resource.node)),
        faults: Vec::new(),
        hidden: Vec::new(),
        variables: secret::variables(resource.node).map(|name| (name, STAND_IN.to_owned())).collect(),
        workloads: Workloads::default(),
        order: Order::default(),
        sides: Sides::all(),
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
    fn workloads_are_compared_with_few_others() {
        let workloads = |namespace: &str, app: Option<String>| Workloads {
            namespace: namespace.to_owned(),
            labels: app.into_iter().map(|app| (APP.to_owned(), app)).collect(),
            targets: Vec::new(),
        };
        let pairs = |count: usize| {
            let mut all: Vec<Workloads> =
                (0..count).map(|n| workloads("shop", Some(format!("app-{}", n / 2)))).collect();
            all.extend((0..count).map(|n| workloads(&format!("ns-{n}"), None)));
            all.extend([workloads("shop", None), workloads(ROOT, None), workloads("", None)]);
            let near = Near::of(all.iter());
            let found: Vec<Vec<usize>> = all.iter().map(|one| one.near(&near)).collect();
            if count < 100 {
                for (n, one) in all.iter().enumerate() {
                    let overlapping: Vec<usize> = (0..all.len()).filter(|m| one.overlap(&all[*m])).collect();
                    assert!(overlapping.iter().all(|m| found[n].contains(m)), "{one:?}");
                }
            }
            found.iter().map(Vec::len).sum::<usize>()
        };
        let (few, twice) = (pairs(50), pairs(100));
        assert!(pairs(2000) < 3 * pairs(1000) && twice < 3 * few, "{few} {twice}");
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
    fn file_about_something_else_is_no_configuration() {
        for (text, expected) in [
            ("limits: [{ name: a }]", true),
            ("{ providers: { shop: {} }, ruls: [] }", true),
            ("{ title: Mesh, tags: [mesh, filters], panels: [] }", false),
            ("{ rule_files: [rules.yaml], tests: [] }", false),
            ("rules: 7", false),
        ] {
            let nodes = crate::document::parse(text).ok().unwrap();
            assert_eq!(is_config(&nodes[0]), expected, "{text}");
        }
    }

    #[test]
    fn plugins_run_by_phase_priority_and_name() {
        let order = |name: &str, more: &str| {
            let text = format!("{{metadata: {{name: {name}, namespace: shop}}, spec: {{{more}}}}}");
            let node = crate::document::parse(&text).ok().unwrap().remove(0);
            Order::of_istio(&Resource::of(0, &text, &node), node.get("spec").unwrap())
        };
        let sorted = [
            order("z", "phase: AUTHN"),
            order("z", "phase: AUTHZ, priority: 1"),
            order("z", "phase: AUTHZ, priority: 0"),
            order("z", "phase: AUTHZ, priority: -5"),
            order("a", "phase: AUTHZ"),
            order("b", "phase: AUTHZ"),
            order("a", "priority: 10"),
            order("a", ""),
            Order::last(),
        ];
        assert!(sorted.is_sorted_by(|first, second| first < second), "{sorted:?}");
        assert!(sorted[4].is_tie(&sorted[5]) && !sorted[3].is_tie(&sorted[4]));
        assert!(sorted[4].is_open(&sorted[5]) && !sorted[3].is_open(&sorted[4]));
        let created = |day: u32| Order { created: format!("2026-12-0{day}T07:00:00Z"), ..sorted[4].clone() };
        assert!(created(1) < created(2) && !created(1).is_open(&created(2)));
    }

    #[test]
    fn an_image_is_named_after_its_filter() {
        assert_eq!(within("oci://registry.example/mesh-filters/jwt-auth:0.1.0"), Some("jwt-auth"));
        assert_eq!(within("oci://registry.example/mesh-filters:0.1.0"), Some("mesh-filters"));
        assert_eq!(within("rate-limit-edge"), Some("rate-limit"));
        assert_eq!(within("oci://registry.example/other/ratelimit"), None);
    }
}
