//! What reads a configuration: where it is, and what it found wrong.

use std::fmt::Write;

use serde_json::{Map, Value};

use crate::config::codes::Code;
use crate::config::errors::{Diagnostic, ErrorList};
use crate::config::names::{hint, nearest, not_one_of, one_of, shown_name};

/// Fields that say where a secret is. An operator may write the secret itself there by mistake.
const ABOUT_SECRETS: [&str; 5] = ["secrets", "secret", "pseudonym", "keyFrom", "keyId"];

/// Holds the path of the value that is being read, and the errors that were found so far.
#[derive(Debug, Default)]
pub struct ConfigReader {
    path: String,
    /// Where a name was found that was probably meant to be another one, and that one.
    meant: Vec<(String, String)>,
    pub(in crate::config) errors: ErrorList,
}

impl ConfigReader {
    /// Notes that the value here is wrong.
    pub fn add(&mut self, message: String) {
        self.note(Code::InvalidValue, message);
    }

    /// Notes what was found here.
    #[inline(never)]
    pub fn note(&mut self, code: Code, message: String) {
        let path = if self.path.is_empty() { "$".to_owned() } else { self.path.clone() };
        self.errors.0.push(Diagnostic { code, path, message });
    }

    /// Notes that something else was expected here.
    pub fn expected<T>(&mut self, what: &str, found: &Value) -> Option<T> {
        let found = self.described(found);
        self.note(Code::WrongType, format!("expected {what}, found {found}"));
        None
    }

    /// What an error message shows of a wrong value here. A value in a field about secrets may be the secret
    /// itself.
    fn described(&self, value: &Value) -> String {
        match value {
            Value::String(_) | Value::Number(_) if self.is_about_secrets() => {
                "a value that is not shown".to_owned()
            }
            value => described(value),
        }
    }

    fn is_about_secrets(&self) -> bool {
        self.path.split(['.', '[']).any(|field| ABOUT_SECRETS.contains(&field))
    }

    /// The value, or a note that it is wrong.
    pub fn check<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.add(message)).ok()
    }

    /// Enters the field `name` (in snake case), if it is there. Returns its value, and the length of the path
    /// before.
    #[inline(never)]
    pub(super) fn enter_member<'v>(
        &mut self,
        members: &'v Map<String, Value>,
        name: &str,
    ) -> Option<(&'v Value, usize)> {
        let (found, value) = members.iter().find(|(found, _)| is_camel_case_of(found, name))?;
        Some((value, self.enter(found)))
    }

    /// Leaves a field: the path gets back the length that it had before.
    #[inline(never)]
    pub(super) fn leave(&mut self, length: usize) {
        self.path.truncate(length);
    }

    #[inline(never)]
    pub(super) fn missing(&mut self, name: &str) {
        let name = camel_case(name);
        // That there is a field that was meant to be this one has been told.
        if !self.meant.iter().any(|(path, meant)| *path == self.path && *meant == name) {
            self.note(Code::MissingField, format!("missing field `{name}`"));
        }
    }

    /// Appends a field to the path and returns the path's length without it.
    #[inline(never)]
    pub(super) fn enter(&mut self, name: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(shown_name(name));
        length
    }

    #[inline(never)]
    pub(super) fn enter_index(&mut self, index: usize) -> usize {
        let length = self.path.len();
        let _ = write!(self.path, "[{index}]");
        length
    }

    /// The members of an object that has no other fields than these (in snake case, as Rust writes them).
    pub fn object<'v>(&mut self, value: &'v Value, names: &[&str]) -> Option<&'v Map<String, Value>> {
        let Value::Object(members) = value else { return self.expected("an object", value) };
        for found in members.keys() {
            if names.iter().any(|name| is_camel_case_of(found, name)) {
                continue;
            }
            let names: Vec<String> = names.iter().map(|name| camel_case(name)).collect();
            let hint = hint(found, &names);
            if shown_name(found) != found || (hint.is_empty() && self.is_about_secrets()) {
                let message = format!("an unknown field, which is not shown; expected {}", one_of(&names));
                self.note(Code::UnknownField, message);
                continue;
            }
            if let Some(meant) = nearest(found, names.iter().map(String::as_str)) {
                self.meant.push((self.path.clone(), meant.to_owned()));
            }
            let length = self.enter(found);
            let message = format!("unknown field `{found}`, expected {}{hint}", one_of(&names));
            self.note(Code::UnknownField, message);
            self.path.truncate(length);
        }
        Some(members)
    }

    /// The position of the name that stands here.
    pub fn choice(&mut self, value: &Value, names: &[&str]) -> Option<usize> {
        let text = value.as_str();
        let position = text.and_then(|text| names.iter().position(|name| is_variant(text, name)));
        if position.is_none() {
            let names: Vec<String> = names.iter().map(|name| variant(name)).collect();
            match text {
                Some(text) => self.note(Code::UnknownName, not_one_of(text, &names)),
                None => drop(self.expected::<()>(&one_of(&names), value)),
            }
        }
        position
    }

    pub(super) fn list<'v>(&mut self, value: &'v Value) -> Option<&'v [Value]> {
        match value {
            Value::Array(elements) => Some(elements),
            _ => self.expected("a list", value),
        }
    }

    #[inline(never)]
    pub(super) fn within(&mut self, value: &Value, least: u32, most: u32) -> Option<u32> {
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        match number.filter(|number| (least..=most).contains(number)) {
            None => self.expected(&format!("{least} to {most}"), value),
            number => number,
        }
    }

    pub(super) fn integer(&mut self, value: &Value, most: u64) -> Option<u64> {
        match value.as_u64().filter(|number| *number <= most) {
            None => self.expected(&format!("a whole number of 0 to {most}"), value),
            number => number,
        }
    }
}

/// What an error message shows of a wrong value: its kind, and the value itself if it cannot be a secret.
/// Fractions are not shown, since the code that prints them is a tenth of a small module.
fn described(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => match number.as_i64() {
            Some(number) if number.unsigned_abs() < 1_000_000_000 => number.to_string(),
            _ if number.is_f64() => "a fraction".to_owned(),
            _ => "a large number".to_owned(),
        },
        Value::String(text) if text.is_empty() => "an empty text".to_owned(),
        Value::String(text) if is_scalar(text) => format!("the text `\"{text}\"`"),
        Value::String(_) => "a text".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// Whether a text is a truth value or a number that was put into quotes by mistake.
fn is_scalar(text: &str) -> bool {
    matches!(text, "true" | "false") || (text.len() < 10 && text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether `found` is `name` (`on_missing_key`, `r#match`) in camel case.
fn is_camel_case_of(found: &str, name: &str) -> bool {
    found.chars().eq(camel_case_chars(name))
}

pub(super) fn camel_case(name: &str) -> String {
    camel_case_chars(name).collect()
}

fn camel_case_chars(name: &str) -> impl Iterator<Item = char> + '_ {
    let name = name.strip_prefix("r#").unwrap_or(name);
    let mut after_underscore = false;
    name.chars().filter_map(move |c| {
        let upper = std::mem::replace(&mut after_underscore, c == '_');
        (c != '_').then(|| if upper { c.to_ascii_uppercase() } else { c })
    })
}

/// The name of an enum's variant in JSON: `ShareOne` is `shareOne`.
fn variant_chars(name: &str) -> impl Iterator<Item = char> + '_ {
    name.chars().enumerate().map(|(n, c)| if n == 0 { c.to_ascii_lowercase() } else { c })
}

fn is_variant(found: &str, name: &str) -> bool {
    found.chars().eq(variant_chars(name))
}

pub(super) fn variant(name: &str) -> String {
    variant_chars(name).collect()
}
