//! The `filter_config` of a native filter: what a `WasmPlugin` says about a plugin.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::config::{ConfigErrors, Diagnostic, document, read, shown_name};

crate::config_object! {
    /// An environment variable of the filter.
    #[derive(Debug, Clone)]
    struct RawVariable {
        /// Its name.
        name: String,
        /// Its value.
        value: Option<String>,
        /// `INLINE`, or `HOST` for the value in the environment of the proxy.
        value_from: Option<String>,
    }
}

crate::config_object! {
    /// What a `WasmPlugin` says about the VM.
    #[derive(Debug, Clone, Default)]
    struct RawVm {
        /// Plugins with the same value share the state of limits. Without one, all do that have none.
        vm_id: String = String::new(),
        /// The environment variables that the filter sees. It sees no others.
        env: Vec<RawVariable> = Vec::new(),
    }
}

crate::config_object! {
    /// The configuration of a native filter.
    #[derive(Debug, Clone)]
    struct RawPlugin {
        /// The name of the plugin: it is part of the name of a gauge, and keeps apart the limits of two plugins.
        plugin_name: String = String::new(),
        /// The configuration of the filter: an object, or its JSON as a text.
        plugin_config: Option<Value>,
        /// As in a `WasmPlugin`.
        vm_config: Option<RawVm>,
    }
}

/// What a filter is configured with.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plugin {
    /// `pluginName`.
    pub(super) name: Vec<u8>,
    /// The JSON of `pluginConfig`.
    pub(super) configuration: Vec<u8>,
    /// `vmConfig.vmId`.
    pub(super) group: String,
    /// `vmConfig.env`.
    pub(super) environment: BTreeMap<String, String>,
}

impl Plugin {
    /// Reads a `filter_config`.
    pub(super) fn parse(json: &[u8], host: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigErrors> {
        let raw: RawPlugin = read(&document(json)?)?;
        let vm = raw.vm_config.unwrap_or_default();
        let mut environment = BTreeMap::new();
        for (n, RawVariable { name, value, value_from }) in vm.env.into_iter().enumerate() {
            let value = match value_from.as_deref() {
                None | Some("INLINE") => value,
                Some("HOST") => host(&name),
                Some(other) => {
                    let message = format!("expected `INLINE` or `HOST`, found `{}`", shown_name(other));
                    return Err(Diagnostic::invalid(&format!("vmConfig.env[{n}].valueFrom"), message).into());
                }
            };
            environment.extend(value.map(|value| (name, value)));
        }
        Ok(Self {
            name: raw.plugin_name.into_bytes(),
            configuration: match raw.plugin_config {
                None => Vec::new(),
                Some(Value::String(text)) => text.into_bytes(),
                Some(other) => other.to_string().into_bytes(),
            },
            environment,
            group: vm.vm_id,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Plugin, String> {
        let host = |name: &str| (name == "HOSTNAME").then(|| "pod-0".to_owned());
        Plugin::parse(json.as_bytes(), host).map_err(|errors| errors.to_string())
    }

    #[test]
    fn a_configuration_is_an_object_or_its_text() {
        let object = parse(r#"{ "pluginName": "shop.limits", "pluginConfig": { "limits": [] } }"#).unwrap();
        assert_eq!(object.name, b"shop.limits");
        assert_eq!(object.configuration, br#"{"limits":[]}"#);
        let text = parse(r#"{ "pluginConfig": "{ not JSON" }"#).unwrap();
        assert_eq!(text.configuration, b"{ not JSON");
        assert_eq!(parse("").unwrap(), Plugin::default());
    }

    #[test]
    fn the_environment_is_what_the_configuration_names() {
        let plugin = parse(
            r#"{ "vmConfig": { "env": [
                { "name": "SALT", "value": "s" }, { "name": "HOSTNAME", "valueFrom": "HOST" }, { "name": "NOT_SET", "valueFrom": "HOST" }
            ] } }"#,
        );
        let expected = [("SALT", "s"), ("HOSTNAME", "pod-0")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(plugin.unwrap().environment, expected.into());
        let wrong = parse(r#"{ "vmConfig": { "env": [{ "name": "A", "valueFrom": "POD" }] } }"#);
        assert!(wrong.unwrap_err().starts_with("vmConfig.env[0].valueFrom: expected `INLINE` or `HOST`"));
    }

    #[test]
    fn a_configuration_without_its_frame_is_refused() {
        assert!(parse(r#"{ "limits": [] }"#).unwrap_err().contains("limits"));
    }
}
