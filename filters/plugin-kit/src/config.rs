//! pluginConfig: from JSON to types that cannot be wrong.
//!
//! A filter parses its configuration in two steps. [`read`] turns the JSON into the filter's raw types, which
//! [`config_object!`](crate::config_object) declares; unknown fields are refused. The filter then turns the raw types into
//! its own. Each step collects everything that is wrong, with its JSON path.

mod build_metric;
mod codes;
mod duration;
mod errors;
mod fields;
mod names;
mod plugin_metric;
pub mod secret;
mod syntax;

use serde_json::Value;

use crate::wire::json;

pub use self::build_metric::build_info_metric;
pub use self::codes::{Code, Severity};
pub use self::duration::DurationText;
pub use self::errors::{ConfigErrors, Diagnostic, ErrorList, JsonPath};
pub use self::fields::{ByName, ConfigReader, FromConfig, NonEmpty, Within, field};
#[cfg(not(target_os = "wasi"))]
pub use self::fields::{
    Definitions, FieldSchema, PROPERTY_ORDER, choice_json, choice_schema, object_json, object_schema, schema,
};
pub use self::names::{nearest, not_one_of, one_of, shown_name};
pub use self::plugin_metric::{config_hash_metric, config_warnings_metric, fingerprint, report_mode_metric};

/// Reads the JSON of a pluginConfig. An empty document is an empty object: a plugin without pluginConfig gets the
/// defaults, or hears which field it needs.
///
/// # Errors
/// What is wrong with the JSON, and at which path.
pub fn document(json: &[u8]) -> Result<Value, ConfigErrors> {
    let json = if json.trim_ascii().is_empty() { b"{}" } else { json };
    let document = json::value(json).map_err(|error| syntax::explain(json, &error))?;
    unwrapped(&document)?;
    Ok(document)
}

/// Checks that a document is the configuration itself, and does not only hold it.
///
/// # Errors
/// It is a text, or a message with a type.
pub fn unwrapped(document: &Value) -> Result<(), ConfigErrors> {
    syntax::wrapped(document).map_or(Ok(()), |wrong| Err(wrong.into()))
}

/// Reads a document into the raw types of a configuration.
///
/// # Errors
/// Everything that does not fit, each with its path.
pub fn read<Raw: FromConfig>(document: &Value) -> Result<Raw, ConfigErrors> {
    let mut reader = ConfigReader::default();
    let raw = Raw::read(document, &mut reader);
    reader.errors.finish(raw)
}

crate::config_choice! {
    /// Whether denials are enforced or only reported.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum Mode {
        /// Requests are denied.
        #[default]
        Enforce,
        /// Requests that would be denied are counted and logged, and go on.
        Report,
    }
}

#[cfg(test)]
mod tests;
