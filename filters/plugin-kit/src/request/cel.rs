//! Expressions in CEL (Common Expression Language), compiled and evaluated by the host: Envoy's foreign functions
//! `expr_create` and `expr_evaluate`. No interpreter is in the module.
//!
//! An expression sees the attributes of Envoy (`request`, `source`, `connection`, …), filter state of Wasm plugins by its key
//! (`wasm.x` as `x`), and [`CLAIMS`] where a filter has set them.

#[cfg(feature = "cel")]
pub mod claims;

use std::fmt::Write;

use crate::host::{Environment, HostError, Variable};
use crate::request::exchange::Exchange;

/// The variable, and filter state, that holds verified claims: a `google.protobuf.Struct`.
pub const CLAIMS: &str = "jwt";

/// The variable that holds what a regular expression is about: a path as [`crate::request::path::Readings`] has read it, or the value
/// of a header.
pub const TEXT: &str = "normalized_path";

/// The functions of Envoy's CEL that are not about times. Envoy refuses an expression that calls what it does not have.
pub const FUNCTIONS: [&str; 15] = [
    "bool",
    "bytes",
    "contains",
    "double",
    "dyn",
    "endsWith",
    "has",
    "in",
    "int",
    "matches",
    "size",
    "startsWith",
    "string",
    "type",
    "uint",
];

/// The functions of Envoy's CEL that are about times.
pub const TIME_FUNCTIONS: [&str; 12] = [
    "duration",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "timestamp",
];

/// What a configuration is told about an expression that the host does not take.
pub const NOT_CEL: &str = "is not a CEL expression that the proxy accepts";

/// The same about a regular expression.
pub const NOT_RE2: &str = "is not a regular expression of RE2";

/// An expression that the host has compiled. It lives as long as the root context in which that was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expression(u32);

impl Expression {
    /// A condition: anything but true or false counts as no value.
    ///
    /// # Errors
    /// The host does not take it, or has no CEL.
    pub fn condition(text: &str, environment: &dyn Environment) -> Result<Self, String> {
        Self::compile(text, "? true : false", environment)
    }

    /// A value as text: a text or bytes as they are, a number as CEL writes it. Anything else counts as no value.
    ///
    /// # Errors
    /// The host does not take it, or has no CEL.
    pub fn text(text: &str, environment: &dyn Environment) -> Result<Self, String> {
        Self::compile(text, "", environment)
    }

    /// Whether [`TEXT`], all of it, matches a regular expression of RE2.
    ///
    /// # Errors
    /// It is no regular expression, or the host has no CEL.
    pub fn text_matches(regex: &str, environment: &dyn Environment) -> Result<Self, String> {
        let wrong = |error: HostError| refusal(error, NOT_RE2);
        let of = |subject: &str, pattern: &str| {
            environment.compile(&format!("{subject}.matches({})", literal(pattern))).map_err(wrong)
        };
        let whole = format!("^(?:{regex})$");
        // Alone first: between the anchors `a)|(b` would pass, and not be about the whole text.
        for pattern in [regex, whole.as_str()] {
            // A wrong one shows only when it is evaluated.
            let trial = of("''", pattern)?;
            if environment.evaluate(trial).map_err(wrong)?.is_none() {
                return Err(wrong(HostError { call: "expr_evaluate", status: 0 }));
            }
        }
        of(TEXT, &whole).map(Self)
    }

    fn compile(text: &str, suffix: &str, environment: &dyn Environment) -> Result<Self, String> {
        let wrong = |error: HostError| refusal(error, NOT_CEL);
        // Alone first: within brackets `a) || (b` would pass.
        environment.compile(text).map_err(wrong)?;
        let function = if suffix.is_empty() { "string" } else { "" };
        // On a line of its own, for the sake of a comment at the end.
        environment.compile(&format!("{function}({text}\n) {suffix}")).map(Self).map_err(wrong)
    }

    /// Whether the condition holds for the request; `None` where it has no value: something that it asks for is not there,
    /// or of another type.
    ///
    /// # Errors
    /// The host did not evaluate it.
    pub fn holds(
        self,
        exchange: &Exchange<'_>,
        with: Option<Variable<'_>>,
    ) -> Result<Option<bool>, HostError> {
        Ok(match self.value(exchange, with)?.as_deref() {
            Some([1]) => Some(true),
            Some([0]) => Some(false),
            _ => None,
        })
    }

    /// The value for the request; `None` where it has none.
    ///
    /// # Errors
    /// The host did not evaluate it.
    pub fn value(
        self,
        exchange: &Exchange<'_>,
        with: Option<Variable<'_>>,
    ) -> Result<Option<Vec<u8>>, HostError> {
        exchange.evaluate(self.0, with)
    }
}

/// Without the expression, which may hold a secret such as the value of a header.
fn refusal(error: HostError, wrong: &str) -> String {
    match error.status {
        HostError::NOT_FOUND => "the proxy evaluates no CEL".to_owned(),
        // What the expression itself is to blame for.
        0 | HostError::BAD_ARGUMENT | HostError::INTERNAL_FAILURE => wrong.to_owned(),
        _ => error.to_string(),
    }
}

/// A string literal of CEL.
fn literal(text: &str) -> String {
    let mut literal = "'".to_owned();
    for character in text.chars() {
        match character {
            '\'' | '\\' => literal.extend(['\\', character]),
            control if control.is_control() => drop(write!(literal, "\\u{:04x}", u32::from(control))),
            other => literal.push(other),
        }
    }
    literal.push('\'');
    literal
}

#[cfg(test)]
mod tests;
