//! The gauges that show which configuration is in force.

use std::hash::Hasher;

use serde_json::Value;

use crate::hash::StableHash;

/// The number that the gauge of [`config_hash_metric`] shows: it tells which pods run which configuration. It depends on neither white
/// space nor the order of the names in an object, nor on how a number is written, so that whoever has the configuration can compute it
/// ([`document`](crate::config::document) reads that). Two configurations have the same number in one case of four billion.
pub fn fingerprint(document: &Value) -> u32 {
    let hash = hash_of(document);
    // Folded, so that each half counts.
    u32::try_from((hash ^ (hash >> 32)) & u64::from(u32::MAX)).unwrap_or_default()
}

fn hash_of(value: &Value) -> u64 {
    let mut hash = StableHash::default();
    let (kind, number) = match value {
        Value::Null => (0, 0),
        Value::Bool(truth) => (1, u64::from(*truth)),
        // As Istio's own resources keep it.
        Value::Number(number) => (2, number.as_f64().unwrap_or_default().to_bits()),
        Value::String(text) => (3, StableHash::of(text.as_bytes())),
        Value::Array(list) => {
            for element in list {
                hash.write(&hash_of(element).to_le_bytes());
            }
            (4, 0)
        }
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| {
                let mut hash = StableHash::default();
                hash.write(&StableHash::of(name.as_bytes()).to_le_bytes());
                hash.write(&hash_of(value).to_le_bytes());
                hash.finish()
            };
            // A sum does not depend on the order.
            (5, members.iter().map(member).fold(0, u64::wrapping_add))
        }
    };
    hash.write(&number.to_le_bytes());
    hash.write(&[kind]);
    hash.finish()
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

/// The name of the gauge that is 1 while the configuration in force denies nothing or not everything that it could, since it is in report
/// mode, and else 0: `<filter>_report_mode_<namespace>.<name>`. Its [`Code::ReportMode`](crate::config::Code::ReportMode) warnings tell.
pub fn report_mode_metric(filter: &str, plugin: &[u8]) -> String {
    of_plugin(filter, "_report_mode", plugin)
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
