//! As much of a JSON Schema validator as the schemas here need.

use plugin_kit::config::PROPERTY_ORDER;
use serde_json::{Map, Value, json};

/// Whether `value` fits `schema`, as far as JSON Schema is used here; a keyword that is not known here is an
/// error.
pub(crate) fn validate(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let Some(keywords) = schema.as_object() else { return Ok(()) };
    let fails = |text: &str| Err(format!(" is {value}, expected {text}"));
    for (keyword, argument) in keywords {
        match keyword.as_str() {
            "$ref" => {
                let pointer = argument.as_str().unwrap().strip_prefix('#').unwrap();
                validate(root, root.pointer(pointer).unwrap(), value)?;
            }
            "type" => {
                let fits = match argument.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_u64() || value.is_i64(),
                    "number" => value.is_number(),
                    other => panic!("type {other}"),
                };
                if !fits {
                    return fails(argument.as_str().unwrap());
                }
            }
            "const" if value != argument => return fails(&argument.to_string()),
            "anyOf" | "oneOf" => {
                if !argument.as_array().unwrap().iter().any(|one| validate(root, one, value).is_ok()) {
                    return fails("one of several");
                }
            }
            "pattern" => {
                let pattern = regex_lite::Regex::new(argument.as_str().unwrap()).unwrap();
                if value.as_str().is_some_and(|text| !pattern.is_match(text)) {
                    return fails(pattern.as_str());
                }
            }
            "minimum" if value.as_f64() < argument.as_f64() => return fails("a greater number"),
            "maximum" if value.as_f64() > argument.as_f64() => return fails("a smaller number"),
            "minItems" if value.as_array().is_some_and(Vec::is_empty) => return fails("an entry"),
            "minProperties" if value.as_object().is_some_and(Map::is_empty) => return fails("an entry"),
            "items" => {
                for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                    validate(root, argument, item).map_err(|error| format!("[{n}]{error}"))?;
                }
            }
            "required" => {
                for name in argument.as_array().unwrap() {
                    if value.get(name.as_str().unwrap()).is_none() {
                        return Err(format!(" has no {name}"));
                    }
                }
            }
            "properties" => {
                for (name, schema) in argument.as_object().unwrap() {
                    if let Some(value) = value.get(name) {
                        validate(root, schema, value).map_err(|error| format!(".{name}{error}"))?;
                    }
                }
            }
            "additionalProperties" => {
                let known = schema.get("properties").unwrap_or(&Value::Null);
                for (name, value) in value.as_object().into_iter().flatten() {
                    if known.get(name).is_none() {
                        if *argument == json!(false) {
                            return Err(format!(".{name} is unknown"));
                        }
                        validate(root, argument, value).map_err(|error| format!(".{name}{error}"))?;
                    }
                }
            }
            "$schema" | "$defs" | "title" | "description" | "default" | "const" | "minimum" | "maximum"
            | "minItems" | "minProperties" | PROPERTY_ORDER => {}
            other => panic!("keyword {other}"),
        }
    }
    Ok(())
}
