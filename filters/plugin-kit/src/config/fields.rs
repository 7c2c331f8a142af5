//! Raw types of a configuration. [`config_object!`](crate::config_object) and
//! [`config_choice!`](crate::config_choice) declare them, and make the code that reads them from JSON and the
//! JSON Schema of what this code accepts.
//!
//! Serde could read them, too. But the code that it makes for each type would be most of a module, it stops
//! at the first error, and it does not know the path.

mod reader;
#[cfg(not(target_os = "wasi"))]
mod schema;
mod values;

use serde_json::{Map, Value};

pub use self::reader::ConfigReader;
#[cfg(not(target_os = "wasi"))]
pub use self::schema::{
    FieldSchema, PROPERTY_ORDER, choice_json, choice_schema, object_json, object_schema, schema,
};
pub use self::values::{ByName, NonEmpty, Within};

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
