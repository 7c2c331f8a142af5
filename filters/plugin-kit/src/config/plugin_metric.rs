//! The gauges that show which configuration is in force.

use crate::hash::StableHash;

/// The number that the gauge of [`config_hash_metric`] shows: it tells which pods run which configuration. Two configurations have the
/// same number in one case of four billion.
pub fn fingerprint(json: &[u8]) -> u32 {
    StableHash::short(json)
}

/// The name of the gauge that holds the [`fingerprint`] of what the plugin `plugin` (Envoy's `plugin_name`) runs:
/// `<filter>_config_hash_<namespace>.<name>`. Istio writes a path before the plugin's name and a mark behind it, which are left out.
/// At most 100 bytes of the plugin's name are used, and `_` replaces characters that are unusual in a metric.
pub fn config_hash_metric(filter: &str, plugin: &[u8]) -> String {
    of_plugin(filter, "_config_hash", plugin)
}

/// The name of the gauge that holds how many warnings there are of the configuration in force:
/// `<filter>_config_warnings_<namespace>.<name>`.
pub fn config_warnings_metric(filter: &str, plugin: &[u8]) -> String {
    of_plugin(filter, "_config_warnings", plugin)
}

#[inline(never)]
fn of_plugin(filter: &str, what: &str, plugin: &[u8]) -> String {
    let plugin = plugin.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let plugin = plugin.split(|byte| *byte == b'~').next().unwrap_or_default();
    let mut name = filter.replace('-', "_");
    name.push_str(what);
    if !plugin.is_empty() {
        name.push('_');
    }
    name.extend(plugin.iter().take(100).map(|byte| match byte {
        b'.' | b'-' => char::from(*byte),
        byte if byte.is_ascii_alphanumeric() => char::from(*byte),
        _ => '_',
    }));
    name
}
