//! Raw types of a configuration. [`config_object!`](crate::config_object) and
//! [`config_choice!`](crate::config_choice) declare them, and make the code that reads them from JSON and the
//! JSON Schema of what this code accepts.
//!
//! Serde could read them, too. But the code that it makes for each type would be most of a module, it stops
//! at the first error, and it does not know the path.

use std::fmt::Write;
use std::ops::Deref;

use serde_json::{Map, Value};

use super::codes::Code;
use super::errors::{Diagnostic, ErrorList};
use super::names::{hint, nearest, not_one_of, one_of, shown_name};

/// A value that can be read from JSON.
pub trait FromConfig: Sized {
    /// Reads it, or notes what is wrong and returns `None`.
    fn read(value: &Value, reader: &mut ConfigReader) -> Option<Self>;

    /// The value of a field of this type that is left out; `None` if the field is required.
    fn absent() -> Option<Self> {
        None
    }

    /// The JSON Schema (draft 2020-12) of the values that can be read.
    #[cfg(not(target_os = "wasi"))]
    fn schema(definitions: &mut Definitions) -> Value;

    /// The JSON from which this value is read: the schema shows defaults by it. `None` if an operator cannot
    /// write the value but only leave the field out.
    #[cfg(not(target_os = "wasi"))]
    fn to_json(&self) -> Option<Value> {
        None
    }
}

/// Schemas of objects by the names of their types.
#[cfg(not(target_os = "wasi"))]
pub type Definitions = Map<String, Value>;

/// Fields that say where a secret is. An operator may write the secret itself there by mistake.
const ABOUT_SECRETS: [&str; 5] = ["secrets", "secret", "pseudonym", "keyFrom", "keyId"];

/// Holds the path of the value that is being read, and the errors that were found so far.
#[derive(Debug, Default)]
pub struct ConfigReader {
    path: String,
    /// Where a name was found that was probably meant to be another one, and that one.
    meant: Vec<(String, String)>,
    pub(super) errors: ErrorList,
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
    fn enter_member<'v>(
        &mut self,
        members: &'v Map<String, Value>,
        name: &str,
    ) -> Option<(&'v Value, usize)> {
        let (found, value) = members.iter().find(|(found, _)| is_camel_case_of(found, name))?;
        Some((value, self.enter(found)))
    }

    /// Leaves a field: the path gets back the length that it had before.
    #[inline(never)]
    fn leave(&mut self, length: usize) {
        self.path.truncate(length);
    }

    #[inline(never)]
    fn missing(&mut self, name: &str) {
        let name = camel_case(name);
        // That there is a field that was meant to be this one has been told.
        if !self.meant.iter().any(|(path, meant)| *path == self.path && *meant == name) {
            self.note(Code::MissingField, format!("missing field `{name}`"));
        }
    }

    /// Appends a field to the path and returns the path's length without it.
    #[inline(never)]
    fn enter(&mut self, name: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(shown_name(name));
        length
    }

    #[inline(never)]
    fn enter_index(&mut self, index: usize) -> usize {
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

    fn list<'v>(&mut self, value: &'v Value) -> Option<&'v [Value]> {
        match value {
            Value::Array(elements) => Some(elements),
            _ => self.expected("a list", value),
        }
    }

    #[inline(never)]
    fn within(&mut self, value: &Value, least: u32, most: u32) -> Option<u32> {
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        match number.filter(|number| (least..=most).contains(number)) {
            None => self.expected(&format!("{least} to {most}"), value),
            number => number,
        }
    }

    fn integer(&mut self, value: &Value, most: u64) -> Option<u64> {
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

fn camel_case(name: &str) -> String {
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

fn variant(name: &str) -> String {
    variant_chars(name).collect()
}

/// Reads a field of an object. If it is left out, its value is its default or that of [`FromConfig::absent`].
#[doc(hidden)]
pub fn field<T: FromConfig>(
    members: &Map<String, Value>,
    name: &str,
    default: Option<fn() -> T>,
    reader: &mut ConfigReader,
) -> Option<T> {
    // This function is small, since each type has one: code that does not depend on the type stands in other
    // functions.
    if let Some((value, length)) = reader.enter_member(members, name) {
        let read = T::read(value, reader);
        reader.leave(length);
        return read;
    }
    let absent = default.map_or_else(T::absent, |default| Some(default()));
    if absent.is_none() {
        reader.missing(name);
    }
    absent
}

/// The JSON Schema of a configuration.
#[cfg(not(target_os = "wasi"))]
pub fn schema<T: FromConfig>(title: &str) -> Value {
    let mut definitions = Definitions::new();
    let Value::Object(mut root) = T::schema(&mut definitions) else { return Value::Bool(true) };
    root.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
    root.insert("title".to_owned(), title.into());
    root.insert("$defs".to_owned(), definitions.into());
    Value::Object(root)
}

/// The key of a schema's object under which its properties are named in the order of the declaration. It is
/// no keyword of JSON Schema: whoever writes documents wants the order, and removes the key.
#[cfg(not(target_os = "wasi"))]
pub const PROPERTY_ORDER: &str = "propertyOrder";

/// Puts the schema of an object among the definitions, once, and returns a reference to it.
#[cfg(not(target_os = "wasi"))]
#[doc(hidden)]
pub fn object_schema(
    definitions: &mut Definitions,
    name: &str,
    docs: &[&str],
    fields: &[FieldSchema],
) -> Value {
    let name = name.strip_prefix("Raw").filter(|rest| !rest.is_empty()).unwrap_or(name);
    if !definitions.contains_key(name) {
        // Before the fields: a type may hold itself.
        definitions.insert(name.to_owned(), Value::Null);
        let mut properties = Map::new();
        let mut required = Vec::new();
        let order: Vec<String> = fields.iter().map(|field| camel_case(field.name)).collect();
        for field in fields {
            let mut schema = (field.schema)(definitions);
            if let (Some(text), Value::Object(schema)) = (description(field.docs), &mut schema) {
                schema.insert("description".to_owned(), text.into());
            }
            if let (Some(default), Value::Object(schema)) = ((field.default)(), &mut schema) {
                schema.insert("default".to_owned(), default);
            }
            if field.required {
                required.push(Value::from(camel_case(field.name)));
            }
            properties.insert(camel_case(field.name), schema);
        }
        let mut object = serde_json::json!({
            "type": "object", "properties": properties, "additionalProperties": false, PROPERTY_ORDER: order,
        });
        if let Value::Object(object) = &mut object {
            if !required.is_empty() {
                object.insert("required".to_owned(), required.into());
            }
            if let Some(text) = description(docs) {
                object.insert("description".to_owned(), text.into());
            }
        }
        definitions.insert(name.to_owned(), object);
    }
    serde_json::json!({ "$ref": format!("#/$defs/{name}") })
}

/// A field as the schema sees it.
#[cfg(not(target_os = "wasi"))]
#[doc(hidden)]
pub struct FieldSchema {
    pub name: &'static str,
    pub docs: &'static [&'static str],
    pub required: bool,
    pub schema: fn(&mut Definitions) -> Value,
    pub default: fn() -> Option<Value>,
}

/// The JSON of an object without the fields that hold nothing an operator could write; `None` if no field is
/// left.
#[cfg(not(target_os = "wasi"))]
#[doc(hidden)]
pub fn object_json(fields: &[(&str, Option<Value>)]) -> Option<Value> {
    let members = fields.iter().filter_map(|(name, value)| Some((camel_case(name), value.clone()?)));
    let members: Map<String, Value> = members.collect();
    (!members.is_empty()).then_some(Value::Object(members))
}

/// The schema of a choice. Each value is an object of its own, since an `enum` has no place for their
/// descriptions.
#[cfg(not(target_os = "wasi"))]
#[doc(hidden)]
pub fn choice_schema(values: &[(&str, &[&str])], docs: &[&str]) -> Value {
    let values = values.iter().map(|(name, docs)| {
        let mut value = serde_json::json!({ "const": variant(name) });
        if let (Some(text), Value::Object(value)) = (description(docs), &mut value) {
            value.insert("description".to_owned(), text.into());
        }
        value
    });
    let mut schema = serde_json::json!({ "oneOf": values.collect::<Vec<_>>() });
    if let (Some(text), Value::Object(schema)) = (description(docs), &mut schema) {
        schema.insert("description".to_owned(), text.into());
    }
    schema
}

#[cfg(not(target_os = "wasi"))]
#[doc(hidden)]
pub fn choice_json(name: &str) -> Value {
    variant(name).into()
}

#[cfg(not(target_os = "wasi"))]
fn description(docs: &[&str]) -> Option<String> {
    let text = docs.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
    (!text.is_empty()).then_some(text)
}

/// Declares a struct that is read from a JSON object. The object has the fields' names in camel case. A field
/// with `= default` may be left out, and so may one of type `Option`; an unknown field is an error.
///
/// The doc comment of a field is the description of this option in the JSON Schema and in the documents. The
/// schema shows the default, too. If a field is an `Option` because it matters whether an operator has
/// written it, `=> default` says what applies otherwise, and the code that reads the field uses the same
/// constant. A default that is no value is the last sentence of the description: `Default: any.`
///
/// ```
/// plugin_kit::config_object! {
///     /// How much is allowed.
///     #[derive(Debug)]
///     struct RawRate {
///         /// How many requests are allowed in a second.
///         requests: u32,
///         /// How many requests are allowed at once.
///         max_burst: u32 = 1,
///         /// The number of keys.
///         max_keys: Option<u32> => 16,
///     }
/// }
/// let rate: RawRate = plugin_kit::config::read(&serde_json::json!({ "requests": 5 })).unwrap();
/// assert_eq!((rate.requests, rate.max_burst, rate.max_keys), (5, 1, None));
/// ```
#[macro_export]
macro_rules! config_object {
    (
        $(#[doc = $docs:literal])*
        #[derive($($derive:ident),*)]
        $visibility:vis struct $name:ident {
            $(
                $(#[doc = $field_docs:literal])*
                $field_visibility:vis $field:ident: $type:ty $(= $default:expr)? $(=> $assumed:expr)?
            ),* $(,)?
        }
    ) => {
        $(#[doc = $docs])*
        #[derive($($derive),*)]
        $visibility struct $name {
            $($(#[doc = $field_docs])* $field_visibility $field: $type,)*
        }

        impl $crate::config::FromConfig for $name {
            #[inline(never)]
            fn read(value: &::serde_json::Value, reader: &mut $crate::config::ConfigReader) -> Option<Self> {
                const NAMES: &[&str] = &[$(stringify!($field)),*];
                #[allow(unused_variables)]
                let members = reader.object(value, NAMES)?;
                $(
                    #[allow(unused_mut, unused_assignments)]
                    let mut default: Option<fn() -> $type> = None;
                    $(default = Some(|| $default);)?
                    let $field = $crate::config::field::<$type>(members, stringify!($field), default, reader);
                )*
                // One way out: a `?` for each field would bring the code that drops all others, once each.
                #[allow(irrefutable_let_patterns)]
                let ($(Some($field),)*) = ($($field,)*) else { return None };
                Some(Self { $($field,)* })
            }

            #[cfg(not(target_os = "wasi"))]
            fn schema(definitions: &mut $crate::config::Definitions) -> ::serde_json::Value {
                $crate::config::object_schema(definitions, stringify!($name), &[$($docs),*], &[$(
                    $crate::config::FieldSchema {
                        name: stringify!($field),
                        docs: &[$($field_docs),*],
                        required: !(false $(|| { let _ = stringify!($default); true })?)
                            && <$type as $crate::config::FromConfig>::absent().is_none(),
                        schema: <$type as $crate::config::FromConfig>::schema,
                        default: || {
                            #[allow(unused_mut, unused_assignments)]
                            let mut default = None;
                            $(default = <$type as $crate::config::FromConfig>::to_json(&$default);)?
                            $(default = <$type as $crate::config::FromConfig>::to_json(&Some($assumed));)?
                            default
                        },
                    },
                )*])
            }

            #[cfg(not(target_os = "wasi"))]
            fn to_json(&self) -> Option<::serde_json::Value> {
                $crate::config::object_json(&[
                    $((stringify!($field), $crate::config::FromConfig::to_json(&self.$field)),)*
                ])
            }
        }
    };
}

/// Declares an enum that is read from a JSON string: the variant's name with its first letter in lower case,
/// or the text behind `=`. The doc comments describe the values in the JSON Schema and in the documents.
///
/// ```
/// plugin_kit::config_choice! {
///     /// What happens to a message after it was read.
///     #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
///     enum Outcome {
///         /// It is kept.
///         #[default]
///         Keep,
///         /// It is deleted.
///         Drop = "throw-away",
///     }
/// }
/// let outcome: Outcome = plugin_kit::config::read(&serde_json::json!("throw-away")).unwrap();
/// assert_eq!(outcome, Outcome::Drop);
/// ```
#[macro_export]
macro_rules! config_choice {
    (
        $(#[doc = $docs:literal])*
        #[derive($($derive:ident),*)]
        $visibility:vis enum $name:ident {
            $(
                $(#[doc = $variant_docs:literal])*
                $(#[default $($is_default:tt)?])?
                $variant:ident $(= $text:literal)?
            ),* $(,)?
        }
    ) => {
        $(#[doc = $docs])*
        #[derive($($derive),*)]
        $visibility enum $name {
            $($(#[doc = $variant_docs])* $(#[default $($is_default)?])? $variant,)*
        }

        impl $crate::config::FromConfig for $name {
            fn read(value: &::serde_json::Value, reader: &mut $crate::config::ConfigReader) -> Option<Self> {
                const VARIANTS: &[$name] = &[$($name::$variant),*];
                let position = reader.choice(value, &[$($crate::config_choice!(@name $variant $($text)?)),*])?;
                VARIANTS.get(position).copied()
            }

            #[cfg(not(target_os = "wasi"))]
            fn schema(_: &mut $crate::config::Definitions) -> ::serde_json::Value {
                $crate::config::choice_schema(
                    &[$(($crate::config_choice!(@name $variant $($text)?), &[$($variant_docs),*])),*],
                    &[$($docs),*],
                )
            }

            #[cfg(not(target_os = "wasi"))]
            fn to_json(&self) -> Option<::serde_json::Value> {
                Some($crate::config::choice_json(match self {
                    $(Self::$variant => $crate::config_choice!(@name $variant $($text)?),)*
                }))
            }
        }
    };
    (@name $variant:ident $text:literal) => { $text };
    (@name $variant:ident) => { stringify!($variant) };
}

macro_rules! read_integers {
    ($($type:ty),*) => {$(
        impl FromConfig for $type {
            fn read(value: &Value, reader: &mut ConfigReader) -> Option<Self> {
                reader.integer(value, u64::try_from(<$type>::MAX).unwrap_or(u64::MAX))?.try_into().ok()
            }

            #[cfg(not(target_os = "wasi"))]
            fn schema(_: &mut Definitions) -> Value {
                serde_json::json!({ "type": "integer", "minimum": 0 })
            }

            #[cfg(not(target_os = "wasi"))]
            fn to_json(&self) -> Option<Value> {
                Some(serde_json::json!(self))
            }
        }
    )*};
}
read_integers!(u8, u16, u32, u64, usize);

/// A whole number of `LEAST` to `MOST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Within<const LEAST: u32, const MOST: u32>(pub u32);

impl<const LEAST: u32, const MOST: u32> FromConfig for Within<LEAST, MOST> {
    fn read(value: &Value, reader: &mut ConfigReader) -> Option<Self> {
        reader.within(value, LEAST, MOST).map(Self)
    }

    #[cfg(not(target_os = "wasi"))]
    fn schema(_: &mut Definitions) -> Value {
        serde_json::json!({ "type": "integer", "minimum": LEAST, "maximum": MOST })
    }

    #[cfg(not(target_os = "wasi"))]
    fn to_json(&self) -> Option<Value> {
        Some(self.0.into())
    }
}

impl FromConfig for String {
    fn read(value: &Value, reader: &mut ConfigReader) -> Option<Self> {
        match value {
            Value::String(text) => Some(text.clone()),
            _ => reader.expected("a text", value),
        }
    }

    #[cfg(not(target_os = "wasi"))]
    fn schema(_: &mut Definitions) -> Value {
        serde_json::json!({ "type": "string" })
    }

    #[cfg(not(target_os = "wasi"))]
    fn to_json(&self) -> Option<Value> {
        Some(serde_json::json!(self))
    }
}

impl FromConfig for bool {
    fn read(value: &Value, reader: &mut ConfigReader) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(*value),
            _ => reader.expected("`true` or `false`", value),
        }
    }

    #[cfg(not(target_os = "wasi"))]
    fn schema(_: &mut Definitions) -> Value {
        serde_json::json!({ "type": "boolean" })
    }

    #[cfg(not(target_os = "wasi"))]
    fn to_json(&self) -> Option<Value> {
        Some(serde_json::json!(self))
    }
}

impl FromConfig for f64 {
    fn read(value: &Value, reader: &mut ConfigReader) -> Option<Self> {
        match value.as_f64() {
            None => reader.expected("a number", value),
            number => number,
        }
    }

    #[cfg(not(target_os = "wasi"))]
    fn schema(_: &mut Definitions) -> Value {
        serde_json::json!({ "type": "number" })
    }

    #[cfg(not(target_os = "wasi"))]
    fn to_json(&self) -> Option<Value> {
        Some(serde_json::json!(self))
    }
}

impl FromConfig for Value {
    fn read(value: &Value, _: &mut ConfigReader) -> Option<Self> {
        Some(value.clone())
    }

    #[cfg(not(target_os = "wasi"))]
    fn schema(_: &mut Definitions) -> Value {
        serde_json::json!({})
    }

    #[cfg(not(target_os = "wasi"))]
    fn to_json(&self) -> Option<Value> {
        Some(self.clone())
    }
}

impl<T: FromConfig> FromConfig for Option<T> {
    fn read(value: &Value, reader: &mut ConfigReader) -> Option<Self> {
        // A template leaves a null where a value is missing. If a null counted as a field that is left out,
        // the demand that the operator meant to make would be gone.
        T::read(value, reader).map(Some)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    #[cfg(not(target_os = "wasi"))]
    fn schema(definitions: &mut Definitions) -> Value {
        T::schema(definitions)
    }

    #[cfg(not(target_os = "wasi"))]
    fn to_json(&self) -> Option<Value> {
        self.as_ref().and_then(T::to_json)
    }
}

impl<T: FromConfig> FromConfig for Vec<T> {
    fn read(value: &Value, reader: &mut ConfigReader) -> Option<Self> {
        let elements = reader.list(value)?;
        let mut list = Self::new();
        for (n, element) in elements.iter().enumerate() {
            let length = reader.enter_index(n);
            list.extend(T::read(element, reader));
            reader.leave(length);
        }
        Some(list)
    }

    #[cfg(not(target_os = "wasi"))]
    fn schema(definitions: &mut Definitions) -> Value {
        serde_json::json!({ "type": "array", "items": T::schema(definitions) })
    }

    #[cfg(not(target_os = "wasi"))]
    fn to_json(&self) -> Option<Value> {
        self.iter().map(T::to_json).collect::<Option<Vec<_>>>().map(Value::Array)
    }
}

/// An object whose members the operator names, in the order of their names.
#[derive(Debug, Clone)]
pub struct ByName<T>(pub Vec<(String, T)>);

impl<T> IntoIterator for ByName<T> {
    type Item = (String, T);
    type IntoIter = std::vec::IntoIter<(String, T)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: FromConfig> FromConfig for ByName<T> {
    fn read(value: &Value, reader: &mut ConfigReader) -> Option<Self> {
        let Value::Object(members) = value else { return reader.expected("an object", value) };
        let mut named = Vec::new();
        for (name, value) in members {
            let length = reader.enter(name);
            named.extend(T::read(value, reader).map(|value| (name.clone(), value)));
            reader.leave(length);
        }
        Some(Self(named))
    }

    #[cfg(not(target_os = "wasi"))]
    fn schema(definitions: &mut Definitions) -> Value {
        serde_json::json!({ "type": "object", "additionalProperties": T::schema(definitions) })
    }

    #[cfg(not(target_os = "wasi"))]
    fn to_json(&self) -> Option<Value> {
        let members = self.0.iter().map(|(name, value)| Some((name.clone(), value.to_json()?)));
        members.collect::<Option<Map<_, _>>>().map(Value::Object)
    }
}

/// A list or an object that must have an entry if it is written. An empty one, which a template leaves if its
/// values are missing, could mean all or nothing. If the field may be left out, its default has no entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NonEmpty<L>(L);

impl<L> Deref for NonEmpty<L> {
    type Target = L;

    fn deref(&self) -> &L {
        &self.0
    }
}

impl<L> From<L> for NonEmpty<L> {
    fn from(entries: L) -> Self {
        Self(entries)
    }
}

impl<L: IntoIterator> IntoIterator for NonEmpty<L> {
    type Item = L::Item;
    type IntoIter = L::IntoIter;

    fn into_iter(self) -> L::IntoIter {
        self.0.into_iter()
    }
}

impl<L: FromConfig> FromConfig for NonEmpty<L> {
    fn read(value: &Value, reader: &mut ConfigReader) -> Option<Self> {
        let is_empty = match value {
            Value::Array(list) => list.is_empty(),
            Value::Object(members) => members.is_empty(),
            _ => false,
        };
        if is_empty {
            reader.note(Code::EmptyList, "is empty; expected at least one entry".to_owned());
            return None;
        }
        L::read(value, reader).map(Self)
    }

    #[cfg(not(target_os = "wasi"))]
    fn schema(definitions: &mut Definitions) -> Value {
        let mut schema = L::schema(definitions);
        let least = if schema.get("type").is_some_and(|kind| kind == "object") {
            "minProperties"
        } else {
            "minItems"
        };
        if let Value::Object(schema) = &mut schema {
            schema.insert(least.to_owned(), 1.into());
        }
        schema
    }

    #[cfg(not(target_os = "wasi"))]
    fn to_json(&self) -> Option<Value> {
        let is_empty = |value: &Value| {
            value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
        };
        self.0.to_json().filter(|value| !is_empty(value))
    }
}
