//! The configurations that users copy, read by the filters' own parsers.
#![allow(clippy::restriction)]

use std::collections::BTreeMap;

use mesh_filters_cli::filters;
use plugin_kit::config::Code;
use serde_json::Value;

/// The variables of a plugin's vmConfig.env.
pub type Variables = BTreeMap<String, String>;

/// What filter `name` says to a pluginConfig.
///
/// # Errors
/// The filter's own words, or its first warning but that of report mode; or that there is no such filter.
pub fn accepted(name: &str, config: &Value, variables: &Variables) -> Result<(), String> {
    let facts = filters::read(name, config, variables).map_err(|errors| errors.to_string())?;
    // A rollout begins with it.
    let meant = |code: Code| code == Code::ReportMode;
    match facts.warnings.iter().find(|warning| !meant(warning.code)) {
        Some(warning) => Err(warning.to_string()),
        None => Ok(()),
    }
}

/// A plugin as `WasmPlugin` and `TrafficExtension` describe it, or a native filter as an `EnvoyFilter` does.
#[derive(Debug)]
pub struct Plugin {
    /// Kind, namespace and name of the resource.
    pub resource: String,
    /// The filter.
    pub filter: String,
    /// Its configuration.
    pub config: Value,
    /// Its variables.
    pub variables: Variables,
}

/// The plugin that a resource installs; `None` where it is of another kind.
pub fn plugin(resource: &Value) -> Option<Plugin> {
    let kind = resource["kind"].as_str()?;
    let native = &resource["spec"]["configPatches"][0]["patch"]["value"]["typed_config"];
    let spec = match kind {
        "WasmPlugin" => &resource["spec"],
        "TrafficExtension" => &resource["spec"]["wasm"],
        "EnvoyFilter" => &native["filter_config"]["value"],
        _ => return None,
    };
    let variables = spec["vmConfig"]["env"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = &resource["metadata"]["name"];
    Some(Plugin {
        resource: format!("{kind} {}/{}", text(&resource["metadata"]["namespace"]), text(name)),
        // The smallest resource is named after its filter.
        filter: text(native.get("filter_name").or(spec.get("pluginName")).unwrap_or(name)),
        config: spec["pluginConfig"].clone(),
        variables: variables.map(|variable| (text(&variable["name"]), text(&variable["value"]))).collect(),
    })
}

/// The filter that a piece of YAML in a document configures, and its configuration. A list is one of limits.
/// `None` for a Kubernetes resource of another kind.
pub fn documented(piece: Value) -> Option<(String, Value)> {
    if piece.get("kind").is_some() {
        return plugin(&piece).map(|plugin| (plugin.filter, plugin.config));
    }
    if piece.is_array() {
        return Some(("rate-limit".to_owned(), serde_json::json!({ "limits": piece })));
    }
    let filter = piece.as_object()?.keys().map(String::as_str).find_map(filters::by_member);
    let filter = filter.unwrap_or("no filter has these keys");
    Some((filter.to_owned(), piece))
}
