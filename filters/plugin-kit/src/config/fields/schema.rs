//! The JSON Schema of a configuration, made from its raw types.

use serde_json::{Map, Value};

use super::reader::{camel_case, variant};
use super::{Definitions, FromConfig};

/// The JSON Schema of a configuration.
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
pub const PROPERTY_ORDER: &str = "propertyOrder";

/// Puts the schema of an object among the definitions, once, and returns a reference to it.
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
#[doc(hidden)]
pub fn object_json(fields: &[(&str, Option<Value>)]) -> Option<Value> {
    let members = fields.iter().filter_map(|(name, value)| Some((camel_case(name), value.clone()?)));
    let members: Map<String, Value> = members.collect();
    (!members.is_empty()).then_some(Value::Object(members))
}

/// The schema of a choice. Each value is an object of its own, since an `enum` has no place for their
/// descriptions.
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

#[doc(hidden)]
pub fn choice_json(name: &str) -> Value {
    variant(name).into()
}

fn description(docs: &[&str]) -> Option<String> {
    let text = docs.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
    (!text.is_empty()).then_some(text)
}
