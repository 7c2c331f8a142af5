//! The types of fields: numbers, texts, lists, and objects by name.

use std::ops::Deref;

#[cfg(not(target_os = "wasi"))]
use serde_json::Map;
use serde_json::Value;

#[cfg(not(target_os = "wasi"))]
use super::Definitions;
use super::FromConfig;
use super::reader::ConfigReader;
use crate::config::codes::Code;

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
