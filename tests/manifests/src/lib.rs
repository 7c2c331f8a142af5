//! The configurations that users copy, read by the filters' own parsers.
#![allow(clippy::restriction)]

use mesh_filters::config::Parts;
use plugin_kit::config::ConfigErrors;
use plugin_kit::host::Environment;
use plugin_kit::host::HostError;
use serde_json::Value;
use std::collections::BTreeMap;
use trace_tags::tags::tag::Phase;

/// The variables of a plugin's vmConfig.env.
pub type Variables = BTreeMap<String, String>;

/// What filter `name` says to a pluginConfig.
///
/// # Errors
/// The filter's own words; or that there is no such filter.
pub fn accepted(name: &str, config: &Value, variables: &Variables) -> Result<(), String> {
    let on = |node| parse(name, config, Proxy { variables, node }).map_err(|errors| errors.to_string());
    // What is for a proxy of another kind says so, and is refused by a sidecar.
    on("sidecar~").or_else(|refused| on("envoy").map_err(|_| refused))
}

fn parse(name: &str, config: &Value, env: Proxy<'_>) -> Result<(), ConfigErrors> {
    match name {
        "jwt-auth" => jwt_auth::config::Config::read(config, &env).map(drop),
        "rate-limit" => rate_limit::config::Config::read(config, &env).map(drop),
        "trace-tags" => trace_tags::config::Config::read(config, &env, Phase::Request).map(drop),
        "mesh-filters" => {
            let parts = Parts::parse(config)?;
            let part = |key, part: Option<Value>| {
                let Some(part) = part else { return Ok(()) };
                parse(key, &part, env)
            };
            part("trace-tags", parts.trace_tags)?;
            part("jwt-auth", parts.jwt_auth)?;
            part("rate-limit", parts.rate_limit)
        }
        _ => Err(plugin_kit::config::ConfigError {
            path: "pluginName".to_owned(),
            message: format!("expected the name of a filter, found `{name}`"),
        }
        .into()),
    }
}

/// The environment of a plugin in a proxy that takes every expression.
#[derive(Clone, Copy)]
struct Proxy<'a> {
    variables: &'a Variables,
    node: &'static str,
}

impl Environment for Proxy<'_> {
    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    fn node_id(&self) -> Option<Vec<u8>> {
        Some(self.node.as_bytes().to_vec())
    }

    fn compile(&self, _: &str) -> Result<u32, HostError> {
        Ok(0)
    }

    fn evaluate(&self, _: u32) -> Result<Option<Vec<u8>>, HostError> {
        Ok(Some(vec![0]))
    }
}

/// A Wasm plugin as `WasmPlugin` and `TrafficExtension` describe it.
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
    let spec = match kind {
        "WasmPlugin" => &resource["spec"],
        "TrafficExtension" => &resource["spec"]["wasm"],
        _ => return None,
    };
    let variables = spec["vmConfig"]["env"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Some(Plugin {
        resource: format!(
            "{kind} {}/{}",
            text(&resource["metadata"]["namespace"]),
            text(&resource["metadata"]["name"])
        ),
        filter: text(&spec["pluginName"]),
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
    let filter = piece.as_object()?.keys().map(String::as_str).find_map(filter_of);
    let filter = filter.unwrap_or("no filter has these keys");
    Some((filter.to_owned(), piece))
}

fn filter_of(key: &str) -> Option<&'static str> {
    Some(match key {
        "jwtAuth" | "rateLimit" | "traceTags" => "mesh-filters",
        "providers" | "rules" => "jwt-auth",
        "limits" => "rate-limit",
        "tags" => "trace-tags",
        _ => return None,
    })
}
