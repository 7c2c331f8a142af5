//! The gauge that shows which configuration is in force.

/// A number that differs, but for one case in four billion, where the configuration does (FNV-1a, 32 bits): which pods run
/// which configuration shows in a metric.
pub fn fingerprint(json: &[u8]) -> u32 {
    json.iter().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// The gauge that holds the [`fingerprint`] of what the plugin `plugin` (Envoy's `plugin_name`) runs, one for each plugin:
/// `<filter>_config_hash_<namespace>.<name>`. Istio writes a path before that and a mark after it; they are left out.
/// At most 100 bytes of the plugin's name, with `_` for what is unusual in a metric.
pub fn config_hash_metric(filter: &str, plugin: &[u8]) -> String {
    let plugin = plugin.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let plugin = plugin.split(|byte| *byte == b'~').next().unwrap_or_default();
    let mut name = format!("{}_config_hash", filter.replace('-', "_"));
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
