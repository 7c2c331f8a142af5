//! The pluginConfig of rate-limit: `raw` is what an operator writes, `compiled` turns it into types that
//! cannot be wrong.

mod compiled;
mod raw;
#[cfg(test)]
mod tests;

use plugin_kit::config::{ConfigErrors, ErrorList, document, read};
use plugin_kit::host::Environment;
use serde_json::Value;

pub use self::compiled::{Config, Global, GlobalLimit, Limit, Plans, Selector};
pub use self::raw::{OnConflict, OnFailure, OnInvalidCost, OnMissingKey, Scope};
pub use plugin_kit::config::Mode;

impl Config {
    /// Reads a pluginConfig. `env` looks up environment variables and compiles CEL expressions.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its JSON path.
    pub fn parse(json: &[u8], env: &dyn Environment) -> Result<Self, ConfigErrors> {
        Self::read(&document(json)?, env)
    }

    /// The same as [`Config::parse`], for JSON that has been parsed already.
    ///
    /// # Errors
    /// The errors of [`Config::parse`].
    pub fn read(document: &Value, env: &dyn Environment) -> Result<Self, ConfigErrors> {
        let raw: raw::RawConfig = read(document).map_err(|errors| {
            errors
                .explained("mode", "there is no `mode` for all limits; expected it in each: `limits[].mode`")
        })?;
        let mut errors = ErrorList::default();
        let config = compiled::compile(raw, &mut errors, env);
        let (mut config, warnings) = errors.finish_with_warnings(config)?;
        config.warnings = warnings;
        Ok(config)
    }

    /// The JSON Schema of pluginConfig.
    #[cfg(not(target_os = "wasi"))]
    pub fn schema() -> Value {
        plugin_kit::config::schema::<raw::RawConfig>("rate-limit: pluginConfig")
    }
}
