//! Expressions in CEL (Common Expression Language), compiled and evaluated by the host: Envoy's foreign functions
//! `expr_create` and `expr_evaluate`. No interpreter is in the module.
//!
//! An expression sees the attributes of Envoy (`request`, `source`, `connection`, …), filter state of Wasm plugins by its key
//! (`wasm.x` as `x`), and [`CLAIMS`] where a filter has set them.

use std::fmt::Write;

use crate::environment::Environment;
use crate::exchange::{Exchange, HostError};

/// The variable, and filter state, that holds verified claims: a `google.protobuf.Struct`.
pub const CLAIMS: &str = "jwt";

/// The variable that holds what a regular expression is about: a path as [`crate::path::Readings`] has read it, or the value
/// of a header.
pub const TEXT: &str = "normalized_path";

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
        let wrong =
            |error: HostError| refusal(error, || format!("`{regex}` is no regular expression of RE2"));
        let pattern = literal(&format!("^(?:{regex})$"));
        let of = |subject: &str| environment.compile(&format!("{subject}.matches({pattern})"));
        // A wrong one shows only when it is evaluated.
        let trial = of("''").map_err(wrong)?;
        match environment.evaluate(trial).map_err(wrong)? {
            Some(_) => of(TEXT).map(Self).map_err(wrong),
            None => Err(wrong(HostError { call: "expr_evaluate", status: 0 })),
        }
    }

    fn compile(text: &str, suffix: &str, environment: &dyn Environment) -> Result<Self, String> {
        let wrong = |error: HostError| {
            refusal(error, || format!("`{text}` is no CEL expression that the proxy takes"))
        };
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

/// A variable to set before an expression is evaluated, [`CLAIMS`] or [`TEXT`], and its serialised value. It stays set.
pub type Variable<'a> = (&'static str, &'a [u8]);

fn refusal(error: HostError, wrong: impl FnOnce() -> String) -> String {
    match error.status {
        HostError::NOT_FOUND => "the proxy evaluates no CEL".to_owned(),
        // What the expression itself is to blame for.
        0 | HostError::BAD_ARGUMENT | HostError::INTERNAL_FAILURE => wrong(),
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
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::testing::TableFacts;

    /// A host that takes what `takes` says, and knows every number by its expression.
    struct Host {
        takes: fn(&str) -> u32,
        value: Option<Vec<u8>>,
        seen: RefCell<Vec<String>>,
    }

    impl Environment for Host {
        fn variable(&self, _: &str) -> Option<String> {
            None
        }

        fn compile(&self, expression: &str) -> Result<u32, HostError> {
            self.seen.borrow_mut().push(expression.to_owned());
            match (self.takes)(expression) {
                0 => Ok(7),
                status => Err(HostError { call: "expr_create", status }),
            }
        }

        fn evaluate(&self, _: u32) -> Result<Option<Vec<u8>>, HostError> {
            Ok(self.value.clone())
        }
    }

    fn host(takes: fn(&str) -> u32) -> Host {
        Host { takes, value: Some(vec![0]), seen: RefCell::default() }
    }

    #[test]
    fn an_expression_is_compiled_alone_and_then_with_its_type() {
        let taking = host(|_| 0);
        Expression::condition("a // why", &taking).unwrap();
        Expression::text("b", &taking).unwrap();
        Expression::text_matches(r"/it's/\d+", &taking).unwrap();
        let expected = [
            "a // why",
            "(a // why\n) ? true : false",
            "b",
            "string(b\n) ",
            r"''.matches('^(?:/it\'s/\\d+)$')",
            r"normalized_path.matches('^(?:/it\'s/\\d+)$')",
        ];
        assert_eq!(*taking.seen.borrow(), expected);
    }

    #[test]
    fn what_the_host_does_not_take_is_named() {
        let refusing = host(|expression| if expression.contains("bad") { 2 } else { 0 });
        let error = Expression::condition("bad", &refusing).unwrap_err();
        assert_eq!(error, "`bad` is no CEL expression that the proxy takes");
        assert!(Expression::condition("good", &refusing).is_ok());
        let invalid = Host { value: None, ..host(|_| 0) };
        let error = Expression::text_matches("(", &invalid).unwrap_err();
        assert_eq!(error, "`(` is no regular expression of RE2");
        let broken = host(|_| 99);
        assert!(Expression::text("a", &broken).unwrap_err().contains("status 99"));
    }

    #[test]
    fn a_host_without_cel_says_so() {
        let none = |_: &str| None;
        for error in [
            Expression::condition("true", &none).unwrap_err(),
            Expression::text_matches("/a", &none).unwrap_err(),
        ] {
            assert_eq!(error, "the proxy evaluates no CEL");
        }
    }

    #[test]
    fn only_true_and_false_are_answers() {
        let expression = Expression::condition("a", &host(|_| 0)).unwrap();
        for (value, expected) in [
            (Some(vec![1]), Some(true)),
            (Some(vec![0]), Some(false)),
            (Some(vec![]), None),
            (Some(vec![1, 1]), None),
            (Some(vec![2]), None),
            (None, None),
        ] {
            let mut facts = TableFacts::request("GET", "/");
            facts.expressions.insert(7, value.clone());
            let exchange = Exchange::new(1, &facts);
            assert_eq!(expression.holds(&exchange, None), Ok(expected), "{value:?}");
        }
    }
}
