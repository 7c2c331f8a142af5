//! Expressions in CEL (Common Expression Language), compiled and evaluated by the host: Envoy's foreign functions
//! `expr_create` and `expr_evaluate`. No interpreter is in the module.
//!
//! An expression sees the attributes of Envoy (`request`, `source`, `connection`, …), filter state of Wasm plugins by its key
//! (`wasm.x` as `x`), and [`CLAIMS`] where a filter has set them.

#[cfg(feature = "cel")]
pub mod attributes;
#[cfg(feature = "cel")]
pub mod claims;
#[cfg(feature = "cel")]
pub mod re2;

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

/// The error about an expression that the host refuses.
pub const NOT_CEL: &str = "is not a CEL expression that the proxy accepts";

/// The same about one that no host is given, see [`bounds`].
pub const TOO_DEEP: &str = "is more than the proxy takes: at most 65536 bytes, 32 brackets within each other, and 128 operators in a row";

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
    /// The text is not a regular expression, or the host has no CEL.
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
        bounds(text).map_err(|(_, message)| message.to_owned())?;
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

/// Whether an expression is small enough for the parser of any host. Envoy's own (`max_recursion_depth` of cel-cpp) takes a depth of
/// 32 and says no more than that the expression is wrong; others parse and evaluate by recursion, and would run out of stack.
///
/// # Errors
/// Where it is too large, in bytes, and [`TOO_DEEP`]; or [`NOT_CEL`], where a text begins that does not end or has an escape that
/// CEL does not have, behind which nobody knows what is a text.
pub fn bounds(text: &str) -> Result<(), (usize, &'static str)> {
    const MOST_BYTES: usize = 65_536;
    const MOST_BRACKETS: usize = 32;
    const MOST_OPERATORS: usize = 128;
    const OPERATORS: &[u8] = b"!-+*/%<>=?:.";
    let bytes = text.as_bytes();
    // The operators in a row before each open bracket, those in the innermost one, and all of them.
    let (mut open, mut row, mut all) = (Vec::new(), 0_usize, 0_usize);
    let (mut word, mut at, mut before) = (0_usize, 0_usize, b' ');
    while let Some(byte) = bytes.get(at).copied() {
        let is_word = byte.is_ascii_alphanumeric() || byte == b'_';
        let of_word = bytes.get(word..at).unwrap_or_default();
        let mut next = at.saturating_add(1);
        let is_operator = OPERATORS.contains(&byte) && !OPERATORS.contains(&before);
        if is_operator || (!is_word && of_word == b"in") || b"([{".contains(&byte) {
            row = row.saturating_add(1);
            all = all.saturating_add(1);
        }
        match byte {
            b'\'' | b'"' => next = end_of_text(bytes, at, of_word).ok_or((at, NOT_CEL))?,
            b'/' if bytes.get(next) == Some(&b'/') => {
                let comment = bytes.get(at..).unwrap_or_default();
                let end = comment.iter().position(|byte| *byte == b'\n');
                next = end.map_or(bytes.len(), |end| at.saturating_add(end));
            }
            b'(' | b'[' | b'{' => open.push(core::mem::take(&mut row)),
            b')' | b']' | b'}' => {
                all = all.saturating_sub(row);
                row = open.pop().unwrap_or_default();
            }
            // More of these do not make an expression deeper.
            b',' | b'&' | b'|' => all = all.saturating_sub(core::mem::take(&mut row)),
            _ => {}
        }
        if next > MOST_BYTES || open.len() > MOST_BRACKETS || all > MOST_OPERATORS {
            return Err((at, TOO_DEEP));
        }
        if !is_word {
            word = next;
        }
        (before, at) = (byte, next);
    }
    Ok(())
}

/// The end of the text of an expression that begins with the quote at `at`, behind `prefix`.
fn end_of_text(bytes: &[u8], at: usize, prefix: &[u8]) -> Option<usize> {
    let is_raw = match prefix {
        b"" | b"b" | b"B" => false,
        b"r" | b"R" | b"br" | b"bR" | b"Br" | b"BR" => true,
        _ => return None,
    };
    let mut rest = bytes.get(at..)?;
    let three = rest.get(..3).filter(|three| three.iter().all(|byte| Some(byte) == rest.first()));
    let quote = three.or(rest.get(..1))?;
    rest = rest.get(quote.len()..)?;
    loop {
        if let Some(behind) = rest.strip_prefix(quote) {
            return bytes.len().checked_sub(behind.len());
        }
        let length = match rest {
            [b'\n' | b'\r', ..] if quote.len() == 1 => return None,
            [b'\\', escape, behind @ ..] if !is_raw => {
                let digits = match escape {
                    b'x' | b'X' | b'0'..=b'3' => 2,
                    b'u' => 4,
                    b'U' => 8,
                    _ if b"abfnrtv\"'\\?`".contains(escape) => 0,
                    _ => return None,
                };
                behind.get(..digits).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
                digits.saturating_add(2)
            }
            _ => 1,
        };
        rest = rest.get(length..)?;
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
