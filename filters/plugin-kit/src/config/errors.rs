//! What is wrong with a configuration, and where.

use std::fmt;

use super::codes::{Code, Severity};
use super::names::shown_name;

/// A JSON path that grows as a configuration is walked.
#[derive(Debug, Clone, Default)]
pub struct JsonPath(String);

impl JsonPath {
    /// The document itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// The field `name` below this path.
    #[must_use]
    #[inline(never)]
    pub fn field(&self, name: &str) -> Self {
        let name = shown_name(name);
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// The element `index` of the list at this path.
    #[must_use]
    #[inline(never)]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "$" } else { &self.0 })
    }
}

/// One thing that is wrong with a configuration, or may surprise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What kind of thing.
    pub code: Code,
    /// Where: a JSON path such as `rules[2].match.paths[0]`; `$` for the document itself.
    pub path: String,
    /// What was found, and what was expected or is meant to happen.
    pub message: String,
}

impl Diagnostic {
    /// A value that is wrong.
    pub fn invalid(path: &str, message: String) -> Self {
        Self { code: Code::InvalidValue, path: path.to_owned(), message }
    }

    /// The same with `prefix` in front of the path: for a configuration that is a part of a larger one.
    #[must_use]
    pub fn under(mut self, prefix: &str) -> Self {
        self.path = match self.path.as_str() {
            "$" => prefix.to_owned(),
            path if path.starts_with('[') => format!("{prefix}{path}"),
            path => format!("{prefix}.{path}"),
        };
        self
    }

    fn is_error(&self) -> bool {
        self.code.severity() == Severity::Error
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        f.write_str(": ")?;
        f.write_str(&self.message)
    }
}

/// All that was found in a configuration that is refused: at least one error, and warnings among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Diagnostic>);

impl ConfigErrors {
    /// The errors in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter().filter(|found| found.is_error())
    }

    /// Errors and warnings, in the order in which they were found.
    pub fn all(&self) -> &[Diagnostic] {
        &self.0
    }

    /// The same with `prefix` in front of each path: for a configuration that is a part of a larger one.
    #[must_use]
    pub fn under(self, prefix: &str) -> Self {
        Self(self.0.into_iter().map(|found| found.under(prefix)).collect())
    }

    /// The same with this message for an unknown field at `path`.
    #[must_use]
    pub fn explained(mut self, path: &str, message: &str) -> Self {
        for found in &mut self.0 {
            if found.code == Code::UnknownField && found.path == path {
                message.clone_into(&mut found.message);
            }
        }
        self
    }

    /// These errors and the others.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }
}

impl From<Diagnostic> for ConfigErrors {
    fn from(error: Diagnostic) -> Self {
        Self(vec![error])
    }
}

/// The errors alone: each warning is told by itself.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.iter().enumerate() {
            if n > 0 {
                f.write_str("; ")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects what is wrong and what may surprise, so that a user sees all of it at once.
#[derive(Debug, Default)]
pub struct ErrorList(pub(super) Vec<Diagnostic>);

impl ErrorList {
    /// Notes that the value at `path` is wrong.
    pub fn add(&mut self, path: &JsonPath, message: impl fmt::Display) {
        self.push(Code::InvalidValue, path, message.to_string());
    }

    /// Notes what was found at `path`. Whether it is an error or a warning is the code's.
    pub fn note(&mut self, code: Code, path: &JsonPath, message: impl fmt::Display) {
        self.push(code, path, message.to_string());
    }

    #[inline(never)]
    fn push(&mut self, code: Code, path: &JsonPath, message: String) {
        self.0.push(Diagnostic { code, path: path.to_string(), message });
    }

    /// Whether something is wrong so far, and does not only surprise. What is looked for between parts of a configuration would then
    /// follow from that.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(Diagnostic::is_error)
    }

    /// Whether something at `path` or below it is wrong, and does not only surprise.
    pub fn has_errors_at(&self, path: &JsonPath) -> bool {
        let is_below = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[']);
        self.0.iter().any(|found| found.is_error() && found.path.strip_prefix(&path.0).is_some_and(is_below))
    }

    /// The value, or a note that it is wrong.
    pub fn check<T, E: fmt::Display>(&mut self, path: &JsonPath, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(path, error)).ok()
    }

    /// The value when nothing was wrong. `value` may be `None` only when an error was noted.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, ConfigErrors> {
        self.finish_with_warnings(value).map(|(value, _)| value)
    }

    /// The same, with the warnings.
    pub fn finish_with_warnings<T>(mut self, value: Option<T>) -> Result<(T, Vec<Diagnostic>), ConfigErrors> {
        if !self.has_errors() {
            if let Some(value) = value {
                return Ok((value, self.0));
            }
            self.add(&JsonPath::root(), "incomplete");
        }
        Err(ConfigErrors(self.0))
    }
}
