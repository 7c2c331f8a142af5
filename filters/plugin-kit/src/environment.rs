//! What a configuration finds around it while it is read.

use crate::exchange::HostError;

/// The plugin's environment variables, and the host's CEL. A closure that looks up variables is an environment without
/// CEL.
pub trait Environment {
    /// The variable of that name (vmConfig.env).
    fn variable(&self, name: &str) -> Option<String>;

    /// The proxy's node id, where it has one: what kind of proxy this is.
    fn node_id(&self) -> Option<Vec<u8>> {
        None
    }

    /// Compiles a CEL expression, and gives the number to evaluate it by.
    ///
    /// # Errors
    /// The host refuses it, or has no CEL ([`HostError::NOT_FOUND`]).
    fn compile(&self, _expression: &str) -> Result<u32, HostError> {
        Err(HostError { call: "expr_create", status: HostError::NOT_FOUND })
    }

    /// Evaluates an expression that asks for nothing of a request; `None` where it has no value.
    ///
    /// # Errors
    /// The host did not evaluate it.
    fn evaluate(&self, _expression: u32) -> Result<Option<Vec<u8>>, HostError> {
        Err(HostError { call: "expr_evaluate", status: HostError::NOT_FOUND })
    }
}

impl<F: Fn(&str) -> Option<String>> Environment for F {
    fn variable(&self, name: &str) -> Option<String> {
        self(name)
    }
}
