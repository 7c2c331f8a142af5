//! Pods that lack a filter which other pods of their service have.

use std::collections::BTreeMap;

use mesh_filters_cli::filters::Facts;
use plugin_kit::config::Code;

use crate::finding::Finding;
use crate::resource::{Plugin, Resource, labels};

/// The filters, each with the member by which mesh-filters has it.
const FILTERS: [(&str, &str); 3] =
    [("jwt-auth", "jwtAuth"), ("rate-limit", "rateLimit"), ("trace-tags", "traceTags")];

/// The labels that name the service of a pod, as Istio reads them: the first that is there.
const SERVICE: [&str; 3] = ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];

/// The pods that a resource describes: the JSON path of their labels, and the labels.
fn pods(resource: &Resource<'_>) -> Option<(&'static str, BTreeMap<String, String>)> {
    let (path, names): (_, &[&str]) = match resource.kind {
        "Pod" => ("metadata.labels", &["metadata", "labels"]),
        _ => ("spec.template.metadata.labels", &["spec", "template", "metadata", "labels"]),
    };
    let is_there =
        resource.kind == "Pod" || resource.node.at(&["spec", "template", "spec", "containers"]).is_some();
    is_there.then(|| (path, labels(resource.node.at(names))))
}

fn has(plugin: &Plugin<'_>, filter: &str, member: &str) -> bool {
    let joined = || plugin.config.as_ref().is_some_and(|config| config.get(member).is_some());
    plugin.filter == Some(filter) || plugin.filter == Some("mesh-filters") && joined()
}

pub(super) fn without_filter(
    resources: &[Resource<'_>],
    read: &[(Plugin<'_>, Facts)],
    findings: &mut Vec<Finding>,
) {
    let installed: Vec<&Plugin<'_>> = read
        .iter()
        .map(|(plugin, _)| plugin)
        .filter(|plugin| !plugin.resource.kind.is_empty() && !plugin.workloads.are_gateways())
        .collect();
    for resource in resources {
        let Some((path, labels)) = pods(resource) else { continue };
        let service = SERVICE.iter().find_map(|label| Some((*label, labels.get(*label)?.as_str())));
        let Some(service) = service else { continue };
        for (filter, member) in FILTERS {
            let mut plugins = installed.iter().filter(|plugin| has(plugin, filter, member));
            if plugins.clone().any(|plugin| plugin.workloads.select(Some(resource.namespace), &labels)) {
                continue;
            }
            let Some(other) =
                plugins.find(|plugin| plugin.workloads.are_some_of(resource.namespace, service))
            else {
                continue;
            };
            let lacking: Vec<String> = other.workloads.lacking(&labels).collect();
            let message = format!(
                "no plugin of {filter} selects these pods; {} selects pods of the same service with {}",
                other.resource.title(),
                lacking.join(",")
            );
            findings.push(Finding {
                code: Code::PodsWithoutFilter,
                source: resource.source,
                span: resource.node.locate(path),
                place: resource.title(),
                path: path.to_owned(),
                message,
            });
        }
    }
}
