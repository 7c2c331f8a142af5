//! The checks: each plugin alone, then what shows only when resources are compared.

mod pods;
mod services;

use std::ops::Range;

use mesh_filters_cli::filters::{self, Facts};
use plugin_kit::config::{Code, Diagnostic, nearest};
use serde_json::Value;

use crate::document::{self, Kind, Node, Source, place_in_text};
use crate::expression::{Fault, fault};
use crate::finding::Finding;
use crate::resource::{Near, Plugin, Resource, is_config, plugins};
use crate::secret::{Secret, secrets};

/// The result of checking sources.
#[derive(Default)]
pub(crate) struct Checked {
    /// How many plugins of these filters there are.
    pub(crate) plugins: usize,
    /// The findings, in the order of the sources.
    pub(crate) findings: Vec<Finding>,
    /// The places of secrets, which no output shows, each with the position of its source.
    pub(crate) hidden: Vec<(usize, Range<usize>)>,
}

/// Checks sources. A bare pluginConfig is taken for one of the filter `filter`.
pub(crate) fn check(sources: &[Source], filter: Option<&str>) -> Checked {
    let mut hidden = Vec::new();
    let mut findings = Vec::new();
    let mut documents = Vec::new();
    for (n, source) in sources.iter().enumerate() {
        match document::parse(&source.text) {
            Ok(nodes) => documents.extend(nodes.into_iter().map(|node| (n, node))),
            Err(document::Malformed { span, message }) => {
                findings.push(Finding {
                    code: Code::NotYaml,
                    source: n,
                    span,
                    place: String::new(),
                    path: String::new(),
                    message,
                });
            }
        }
    }
    let is_something = |(_, node): &&(usize, Node)| !matches!(node.kind, Kind::Scalar(Value::Null));
    let resources: Vec<Resource<'_>> = documents
        .iter()
        .filter(is_something)
        .map(|(n, node)| Resource::of(*n, &sources[*n].text, node))
        .collect();
    let is_ours = |resource: &Resource<'_>| {
        !resource.kind.is_empty() || sources[resource.source].named || is_config(resource.node)
    };
    let resources: Vec<Resource<'_>> = resources.into_iter().flat_map(unpacked).filter(is_ours).collect();
    let mut read: Vec<(Plugin<'_>, Facts)> = Vec::new();
    for mut plugin in resources.iter().flat_map(plugins) {
        if plugin.resource.kind.is_empty() {
            let named = filter.and_then(|filter| filters::NAMES.into_iter().find(|known| *known == filter));
            plugin.filter = plugin.filter.or(named);
        }
        let mut secrets = plugin.config.as_deref().map(secrets).unwrap_or_default();
        let spans = secrets.iter().map(|secret| secret.span.clone()).chain(plugin.hidden.clone());
        hidden.extend(spans.map(|span| (plugin.resource.source, span)));
        // If no filter is known for the configuration, its secrets are hidden, but they are not findings.
        secrets.retain(|secret| plugin.filter.is_some() && !secret.message.is_empty());
        let facts = alone(&plugin, &secrets, &mut findings);
        read.push((plugin, facts));
    }
    across(&read, &mut findings);
    services::of_services(&resources, &read, &mut findings);
    pods::without_filter(&resources, &read, &mut findings);
    findings.sort_by_key(|finding| (finding.source, finding.span.start, finding.code as usize));
    let plugins = read.iter().filter(|(plugin, _)| plugin.is_ours || plugin.filter.is_some()).count();
    Checked { plugins, findings, hidden }
}

/// The items of a list, as `kubectl get -o yaml` prints it, or the resource itself.
pub(crate) fn unpacked(resource: Resource<'_>) -> Vec<Resource<'_>> {
    match resource.node.get("items") {
        Some(items) if resource.kind.ends_with("List") => {
            items.elements().iter().map(|item| Resource::of(resource.source, resource.text, item)).collect()
        }
        _ => vec![resource],
    }
}

/// A finding about a plugin. `path` is the JSON path in its pluginConfig, or nothing.
fn finding(plugin: &Plugin<'_>, code: Code, span: Range<usize>, path: &str, message: &str) -> Finding {
    let (path, message) = (path.to_owned(), message.to_owned());
    Finding { code, source: plugin.resource.source, span, place: plugin.resource.title(), path, message }
}

/// Finds what is wrong with a plugin alone.
fn alone(plugin: &Plugin<'_>, secrets: &[Secret], findings: &mut Vec<Finding>) -> Facts {
    for secret in secrets {
        findings.push(finding(
            plugin,
            Code::SecretInConfig,
            secret.span.clone(),
            &secret.path,
            secret.message,
        ));
    }
    let mut add =
        |code, span: Range<usize>, message: String| findings.push(finding(plugin, code, span, "", &message));
    for (code, span, message) in &plugin.faults {
        add(*code, span.clone(), message.clone());
    }
    let Some(filter) = plugin.filter else {
        if plugin.is_ours {
            let option = if plugin.resource.kind == "EnvoyFilter" { "filter_name" } else { "pluginName" };
            let message =
                format!("nothing tells which filter this is; expected `{option}: jwt-auth` or the like");
            add(Code::FilterUnknown, plugin.span.clone(), message);
        } else if let (true, Kind::Object(members)) = (plugin.resource.kind.is_empty(), &plugin.spec.kind)
            && let Some((span, meant)) =
                members.iter().find_map(|(name, span, _)| Some((span, nearest(name, filters::MEMBERS)?)))
        {
            let message = format!(
                "no filter has this option, so that nothing here was checked; did you mean `{meant}`?"
            );
            add(Code::FilterUnknown, span.clone(), message);
        }
        return Facts::default();
    };
    if plugin.config.is_none() && plugin.faults.iter().any(|(code, ..)| *code != Code::ModuleFailsOpen) {
        return Facts::default();
    }
    let spec = plugin.spec;
    let checks_tokens =
        filter == "jwt-auth" || plugin.config.as_ref().is_some_and(|config| config.get("jwtAuth").is_some());
    if let Some((option, expected)) = fails_open(plugin).filter(|_| checks_tokens) {
        let message = format!("requests pass unchecked while the filter does not run; expected {expected}");
        add(Code::FailOpen, spec.locate(option), message);
    }
    if ["WasmPlugin", "TrafficExtension"].contains(&plugin.resource.kind) {
        let url = spec.get("url").and_then(Node::text).unwrap_or_default();
        let has_digest = spec.get("sha256").is_some_and(|digest| digest.text() != Some(""));
        if !url.is_empty() && !has_digest && !url.contains("@sha256:") {
            let message = "the image has no digest; expected `sha256` beside `url`";
            add(Code::NoDigest, spec.locate("url"), message.to_owned());
        }
    }
    let expected = match plugin.resource.kind {
        "WasmPlugin" => Some("match: [{ mode: SERVER }]"),
        "EnvoyFilter" => Some("context: SIDECAR_INBOUND"),
        _ => None,
    };
    // A limit or a tag may be meant for requests that its workloads send.
    let is_by_default = plugin.resource.kind == "WasmPlugin"
        && spec.get("match").is_none_or(|entries| entries.elements().is_empty());
    if let Some(expected) = expected
        && plugin.sides.outbound()
        && (is_by_default || checks_tokens)
        && !plugin.workloads.are_gateways()
    {
        let found = if plugin.sides.inbound() {
            "the plugin runs on requests that its workloads send, too"
        } else {
            "the plugin runs on requests that its workloads send, and checks none that they receive"
        };
        add(Code::OutboundToo, plugin.span.clone(), format!("{found}; expected `{expected}`"));
    }
    let (value, node) = match plugin.config.as_deref() {
        // Envoy reads this text as a JSON document.
        Some(text) if text.text().is_some() && plugin.resource.kind == "EnvoyFilter" => {
            match plugin_kit::config::document(text.text().unwrap_or_default().as_bytes()) {
                Ok(value) => (value, None),
                Err(errors) => {
                    told(plugin, None, errors.all(), secrets, findings);
                    return Facts::default();
                }
            }
        }
        Some(node) => (node.value(), Some(node)),
        None => (Value::Object(serde_json::Map::new()), None),
    };
    match filters::read(filter, &value, &plugin.variables) {
        Ok(facts) => {
            told(plugin, node, &facts.warnings, secrets, findings);
            facts
        }
        Err(errors) => {
            told(plugin, node, errors.all(), secrets, findings);
            Facts::default()
        }
    }
}

/// A configuration as plain Envoy takes it: the text of a JSON document.
pub(crate) fn json_text(node: &Node) -> Option<Value> {
    serde_json::from_str(node.text()?).ok()
}

/// Adds what the filter itself says about its configuration.
fn told(
    plugin: &Plugin<'_>,
    node: Option<&Node>,
    found: &[Diagnostic],
    secrets: &[Secret],
    findings: &mut Vec<Finding>,
) {
    for one in found {
        let mut span = match (node, plugin.config.as_deref()) {
            (Some(node), _) if one.code == Code::UnknownField => node.locate_name(&one.path),
            (Some(node), _) => node.locate(&one.path),
            (None, Some(text)) => text.span.clone(),
            (None, None) => plugin.span.clone(),
        };
        // A secret is reported as a secret, so the filter's error about the same value is left out.
        let is_of = |secret: &Secret| {
            let within = secret.path.strip_prefix(&one.path);
            secret.span == span || within.is_some_and(|within| within.starts_with(".keys["))
        };
        if secrets.iter().any(is_of) {
            continue;
        }
        let mut message = one.message.clone();
        if let Some(text) = node.and_then(|node| node.nearest(&one.path).text()) {
            let place = |at| place_in_text(plugin.resource.text, &span, text, at);
            if let Some(Fault { at, why }) = fault(&one.message, text) {
                message.push_str(": ");
                message.push_str(&why);
                span = place(at).unwrap_or(span);
            } else if let Some(named) = placeholder(one, text) {
                let ends = place(named.start).zip(place(named.end.saturating_sub(1)));
                span = ends.map_or(span.clone(), |(first, last)| first.start..last.end);
            }
        }
        findings.push(finding(plugin, one.code, span, &one.path, &message));
    }
}

/// Where a template has the placeholder that a finding names.
fn placeholder(found: &Diagnostic, template: &str) -> Option<Range<usize>> {
    let name = found.message.split('`').nth(1).filter(|_| found.code == Code::UnknownPlaceholder)?;
    template.find(name).map(|at| at..at + name.len())
}

/// The option that lets requests pass while the filter does not run, and what it should say.
fn fails_open(plugin: &Plugin<'_>) -> Option<(&'static str, &'static str)> {
    let says =
        |option: &str, value: &Value| plugin.spec.get(option).is_some_and(|node| node.value() == *value);
    let (open, yes) = (Value::from("FAIL_OPEN"), Value::Bool(true));
    let options: &[(&str, &Value, &str)] = match plugin.resource.kind {
        "WasmPlugin" | "TrafficExtension" => &[("failStrategy", &open, "`FAIL_RELOAD`")],
        "EnvoyFilter" => &[
            ("failure_policy", &open, "`FAIL_RELOAD`"),
            ("fail_open", &yes, "`failure_policy: FAIL_RELOAD`"),
        ],
        "EnvoyExtensionPolicy" => &[("failOpen", &yes, "`false`")],
        _ => &[],
    };
    options
        .iter()
        .find(|(option, value, _)| says(option, value))
        .map(|(option, _, expected)| (*option, *expected))
}

/// Finds what is wrong between the plugins of one workload.
fn across(read: &[(Plugin<'_>, Facts)], findings: &mut Vec<Finding>) {
    let installed: Vec<&(Plugin<'_>, Facts)> = read
        .iter()
        .filter(|(plugin, _)| plugin.filter.is_some() && !plugin.resource.kind.is_empty())
        .collect();
    let near = Near::of(installed.iter().map(|(plugin, _)| &plugin.workloads));
    for (n, (plugin, facts)) in installed.iter().enumerate() {
        let mut beside = plugin.workloads.near(&near);
        beside.retain(|m| *m != n && plugin.workloads.overlap(&installed[*m].0.workloads));
        let beside = || beside.iter().map(|m| (*m, &installed[*m]));
        for (m, (other, _)) in beside().filter(|(m, _)| *m < n) {
            let title = other.resource.title();
            let joined = [plugin.filter, other.filter].contains(&Some("mesh-filters"));
            // Two rate-limit plugins, one before and one after the token is checked, do the work of one.
            if [plugin.filter, other.filter].contains(&Some("rate-limit")) {
                let has = |name: &str| installed[m].1.limits.iter().any(|(limit, _)| limit == name);
                for (name, path) in facts.limits.iter().filter(|(name, _)| has(name)) {
                    let span = plugin
                        .config
                        .as_ref()
                        .map_or_else(|| plugin.span.clone(), |config| config.locate(path));
                    let message = format!("{title} has a limit `{name}` too, on a workload that both select");
                    findings.push(finding(plugin, Code::SameLimitTwice, span, path, &message));
                }
                continue;
            }
            let (code, message) = if plugin.filter == other.filter {
                (
                    Code::SameFilterTwice,
                    format!("{title} runs the same filter on a workload that both select"),
                )
            } else if joined {
                (
                    Code::JoinedAndSingle,
                    format!(
                        "{title} runs on a workload that both select; expected either mesh-filters or the single filters"
                    ),
                )
            } else {
                continue;
            };
            findings.push(finding(plugin, code, plugin.span.clone(), "", &message));
        }
        for (claim, path) in &facts.asks {
            let span =
                plugin.config.as_ref().map_or_else(|| plugin.span.clone(), |config| config.locate(path));
            let mut auth =
                beside().filter(|(_, (_, facts))| facts.publishes.is_some()).map(|(_, other)| other);
            let own = facts.publishes.as_ref();
            // Tags of claims are written when the response passes, so their order does not matter.
            let is_late = |first: &Plugin<'_>| {
                plugin.filter != Some("trace-tags")
                    && (first.order > plugin.order || first.order.is_tie(&plugin.order))
            };
            if let Some((first, _)) = auth.clone().find(|(first, _)| own.is_none() && is_late(first)) {
                let title = first.resource.title();
                let message = if first.order.is_tie(&plugin.order) {
                    format!(
                        "{title} has the same phase and priority as this plugin, so that it hangs on the time of their creation \
                         and on their names which of the two runs first; expected a higher priority there"
                    )
                } else {
                    format!("{title} runs after this plugin, so that there is no claim yet")
                };
                findings.push(finding(plugin, Code::LimitBeforeToken, span, path, &message));
                continue;
            }
            let publishers: Vec<&Vec<String>> = own
                .into_iter()
                .chain(auth.by_ref().filter_map(|(_, facts)| facts.publishes.as_ref()))
                .collect();
            // If the input has no jwt-auth, another file may have it.
            if !publishers.is_empty() && !publishers.iter().any(|published| published.contains(claim)) {
                let message = format!(
                    "no jwt-auth on the workload publishes the claim `{claim}`; expected it in `publishClaims`"
                );
                findings.push(finding(plugin, Code::ClaimNotPublished, span, path, &message));
            }
        }
    }
}
