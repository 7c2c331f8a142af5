//! The pluginConfig of trace-tags: `raw` is what an operator writes, `compiled` turns it into types that
//! cannot be wrong.

mod compiled;
mod raw;
#[cfg(test)]
mod tests;

use plugin_kit::config::{ConfigErrors, document, read};
use plugin_kit::host::Environment;
use serde_json::Value;

use crate::tags::tag::Phase;

pub use self::compiled::Config;
pub use self::raw::RequestIds;
pub use plugin_kit::request::pseudonym::KEY_VARIABLE;

impl Config {
    /// Reads a pluginConfig. `env` looks up environment variables and compiles CEL expressions. `sent_at` is
    /// the phase in which the request goes on to the service: [`Phase::Request`] for a plugin of its own,
    /// which runs first; [`Phase::Claims`] for a part of a filter that verifies claims too.
    pub fn parse(json: &[u8], env: &dyn Environment, sent_at: Phase) -> Result<Self, ConfigErrors> {
        Self::read(&document(json)?, env, sent_at)
    }

    /// As [`Config::parse`], for JSON that has been parsed already.
    pub fn read(json: &Value, env: &dyn Environment, sent_at: Phase) -> Result<Self, ConfigErrors> {
        let raw: raw::RawConfig = read(json)?;
        compiled::compile(raw, env, sent_at)
    }

    /// The JSON Schema of pluginConfig.
    #[cfg(not(target_os = "wasi"))]
    pub fn schema() -> Value {
        plugin_kit::config::schema::<raw::RawConfig>("trace-tags: pluginConfig")
    }
}
