//! Claims as the crate `cel` has them, for those who evaluate expressions themselves.

use std::collections::HashMap;
use std::sync::Arc;

use cel::Value;
use cel::objects::Key;

use crate::wire::protobuf::{Fields, Value as Field};

/// How deep claims may nest. A token's claims are less deep.
const DEEPEST: usize = 64;

/// The map of a `google.protobuf.Struct`; `None` if the message is none.
pub fn value(message: &[u8]) -> Option<Value> {
    struct_within(message, DEEPEST)
}

fn struct_within(message: &[u8], depth: usize) -> Option<Value> {
    let mut members: HashMap<Key, Value> = HashMap::new();
    for field in Fields(message) {
        let (1, Field::Bytes(entry)) = field.ok()? else { continue };
        let (mut name, mut value) = (String::new(), Value::Null);
        for field in Fields(entry) {
            match field.ok()? {
                (1, Field::Bytes(bytes)) => name = String::from_utf8(bytes.to_vec()).ok()?,
                (2, Field::Bytes(bytes)) => value = value_within(bytes, depth.checked_sub(1)?)?,
                _ => {}
            }
        }
        members.insert(Key::from(name), value);
    }
    Some(Value::Map(members.into()))
}

fn value_within(message: &[u8], depth: usize) -> Option<Value> {
    let mut value = Value::Null;
    for field in Fields(message) {
        value = match field.ok()? {
            (2, Field::Number(bits)) => Value::Float(f64::from_bits(bits)),
            (3, Field::Bytes(bytes)) => Value::String(Arc::new(String::from_utf8(bytes.to_vec()).ok()?)),
            (4, Field::Number(truth)) => Value::Bool(truth != 0),
            (5, Field::Bytes(message)) => struct_within(message, depth.checked_sub(1)?)?,
            (6, Field::Bytes(list)) => {
                let mut values = Vec::new();
                for field in Fields(list) {
                    if let (1, Field::Bytes(item)) = field.ok()? {
                        values.push(value_within(item, depth.checked_sub(1)?)?);
                    }
                }
                Value::List(Arc::new(values))
            }
            _ => Value::Null,
        };
    }
    Some(value)
}
