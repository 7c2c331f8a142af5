//! What is wrong with a configuration, and where.

use std::fmt;

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

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct ConfigError {
    /// Where: a JSON path such as `rules[2].match.paths[0]`; `$` for the document itself.
    pub path: String,
    /// What was found and what was expected.
    pub message: String,
}

/// All that is wrong with a configuration; at least one error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// The errors in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }

    /// The same errors with `prefix` in front of each path: for a configuration that is a part of a larger one.
    #[must_use]
    pub fn under(mut self, prefix: &str) -> Self {
        for error in &mut self.0 {
            error.path = match error.path.as_str() {
                "$" => prefix.to_owned(),
                path if path.starts_with('[') => format!("{prefix}{path}"),
                path => format!("{prefix}.{path}"),
            };
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

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("; ")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects what is wrong, so that a user sees all of it at once.
#[derive(Debug, Default)]
pub struct ErrorList(pub(super) Vec<ConfigError>);

impl ErrorList {
    /// Notes that the value at `path` is wrong.
    pub fn add(&mut self, path: &JsonPath, message: impl fmt::Display) {
        self.push(path, message.to_string());
    }

    #[inline(never)]
    fn push(&mut self, path: &JsonPath, message: String) {
        self.0.push(ConfigError { path: path.to_string(), message });
    }

    /// The value, or a note that it is wrong.
    pub fn check<T, E: fmt::Display>(&mut self, path: &JsonPath, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(path, error)).ok()
    }

    /// The value when nothing was wrong. `value` may be `None` only when an error was noted.
    pub fn finish<T>(mut self, value: Option<T>) -> Result<T, ConfigErrors> {
        if self.0.is_empty() {
            if let Some(value) = value {
                return Ok(value);
            }
            self.add(&JsonPath::root(), "incomplete");
        }
        Err(ConfigErrors(self.0))
    }
}
