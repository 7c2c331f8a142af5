//! What a configuration is read with: environment variables, the node and CEL.

use proxy_wasm::types::BufferType;

use super::answer::{Answer, bytes, call_foreign_function, property};
use crate::host::{Environment, HostError};

/// The name of the plugin that is being configured (Envoy's `PluginConfig.name`); empty where it has none.
pub fn plugin_name() -> Vec<u8> {
    property(&["plugin_name"]).ok().flatten().unwrap_or_default()
}

/// The pluginConfig, all of it, in `on_configure`.
pub(crate) fn plugin_configuration(size: usize) -> Answer<Vec<u8>> {
    if size == 0 {
        return Ok(Vec::new());
    }
    let whole = bytes(BufferType::PluginConfiguration, size)?.filter(|bytes| bytes.len() == size);
    whole.ok_or(HostError { call: "get_buffer_bytes", status: HostError::MALFORMED })
}

/// The environment of a plugin, in `on_configure`.
pub struct HostEnvironment;

impl Environment for HostEnvironment {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn node_id(&self) -> Option<Vec<u8>> {
        property(&["xds", "node", "id"]).ok().flatten()
    }

    fn compile(&self, expression: &str) -> Answer<u32> {
        const CALL: &str = "expr_create";
        declare_variables()?;
        let token = call_foreign_function(CALL, expression.as_bytes())?;
        let token = token.try_into().map_err(|_| HostError { call: CALL, status: HostError::MALFORMED })?;
        Ok(u32::from_le_bytes(token))
    }

    fn evaluate(&self, expression: u32) -> Answer<Option<Vec<u8>>> {
        evaluate(expression)
    }
}

/// Evaluates in the context whose callback is running, whatever the effective context: in a callback of the root context
/// the request has no attributes.
pub(super) fn evaluate(expression: u32) -> Answer<Option<Vec<u8>>> {
    match call_foreign_function("expr_evaluate", &expression.to_le_bytes()) {
        Ok(value) => Ok(Some(value)),
        Err(HostError { status: HostError::INTERNAL_FAILURE, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Tells the host the types of [`CLAIMS`](crate::request::cel::CLAIMS) and [`TEXT`](crate::request::cel::TEXT), in `on_configure`. Undeclared they would be bytes.
pub fn declare_variables() -> Answer<()> {
    /// `DeclarePropertyArguments { name = 1, type = 3, schema = 4 }`: a Protobuf (3) with its type, and a String (1).
    const ARGUMENTS: [&[u8]; 2] = [
        b"\x0a\x03jwt\x18\x03\x22\x2atype.googleapis.com/google.protobuf.Struct",
        b"\x0a\x0fnormalized_path\x18\x01",
    ];
    for argument in ARGUMENTS {
        match call_foreign_function("declare_property", argument) {
            // A name that is declared again is refused, and an expression of another filter may have needed it too.
            Ok(_) | Err(HostError { status: HostError::BAD_ARGUMENT, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
