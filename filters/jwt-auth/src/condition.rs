//! Rules' conditions in CEL, and what the host is handed for them: claims as a `google.protobuf.Struct`.

use plugin_kit::cel::{CLAIMS, Expression};
use plugin_kit::exchange::{Exchange, HostError};
use serde_json::{Map, Value};

use crate::protobuf::put_bytes;

/// The largest integer that a double, the only number of a Struct, holds exactly along with all smaller ones.
const LARGEST_INTEGER: u64 = 1 << 53;

/// The claims as a serialised Struct; `None` where an integer beyond 2^53 would become another number.
pub fn typed(claims: &Map<String, Value>) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    put_struct(&mut message, claims)?;
    Some(message)
}

/// Whether the condition holds for a request with these claims. `None` where it has no value: a claim that it asks for is
/// missing, or of another type, or the claims have no form for it.
///
/// # Errors
/// The host did not evaluate it.
pub fn holds(
    condition: Expression,
    exchange: &Exchange<'_>,
    claims: Option<&[u8]>,
) -> Result<Option<bool>, HostError> {
    match claims {
        Some(claims) => condition.holds(exchange, Some((CLAIMS, claims))),
        None => Ok(None),
    }
}

/// Without a token: a Struct with no field.
pub const NO_CLAIMS: &[u8] = b"";

// Field numbers of `google/protobuf/struct.proto`, in the tags of the wire format.
const FIELDS: u8 = 0x0a;
const KEY: u8 = 0x0a;
const VALUE: u8 = 0x12;
const NULL: u8 = 0x08;
const NUMBER: u8 = 0x11;
const STRING: u8 = 0x1a;
const BOOL: u8 = 0x20;
const STRUCT: u8 = 0x2a;
const LIST: u8 = 0x32;
const VALUES: u8 = 0x0a;

fn put_struct(message: &mut Vec<u8>, members: &Map<String, Value>) -> Option<()> {
    for (name, value) in members {
        let mut entry = Vec::new();
        put_bytes(&mut entry, KEY, name.as_bytes());
        put_bytes(&mut entry, VALUE, &self::value(value)?);
        put_bytes(message, FIELDS, &entry);
    }
    Some(())
}

fn value(value: &Value) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    match value {
        Value::Null => message.extend([NULL, 0]),
        Value::Bool(truth) => message.extend([BOOL, u8::from(*truth)]),
        Value::Number(number) => {
            let integer = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
            if integer.is_some_and(|integer| integer > LARGEST_INTEGER) {
                return None;
            }
            message.push(NUMBER);
            message.extend(number.as_f64()?.to_le_bytes());
        }
        Value::String(text) => put_bytes(&mut message, STRING, text.as_bytes()),
        Value::Array(list) => {
            let mut values = Vec::new();
            for element in list {
                put_bytes(&mut values, VALUES, &self::value(element)?);
            }
            put_bytes(&mut message, LIST, &values);
        }
        Value::Object(members) => {
            let mut fields = Vec::new();
            put_struct(&mut fields, members)?;
            put_bytes(&mut message, STRUCT, &fields);
        }
    }
    Some(message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(claims: &Value) -> Option<Vec<u8>> {
        typed(claims.as_object().unwrap())
    }

    #[test]
    fn a_struct_is_written_as_protobuf_writes_it() {
        assert_eq!(of(&json!({})).as_deref(), Some(NO_CLAIMS));
        assert_eq!(of(&json!({ "sub": "al" })).unwrap(), b"\x0a\x0b\x0a\x03sub\x12\x04\x1a\x02al");
        assert_eq!(
            of(&json!({ "a": [true, null, 1], "b": { "c": false } })).unwrap(),
            [
                &b"\x0a\x1a\x0a\x01a\x12\x15\x32\x13"[..],
                b"\x0a\x02\x20\x01",
                b"\x0a\x02\x08\x00",
                b"\x0a\x09\x11\x00\x00\x00\x00\x00\x00\xf0\x3f",
                b"\x0a\x10\x0a\x01b\x12\x0b\x2a\x09\x0a\x07\x0a\x01c\x12\x02\x20\x00",
            ]
            .concat()
        );
        let long = "x".repeat(200);
        assert_eq!(of(&json!({ "a": long })).unwrap()[..11], *b"\x0a\xd1\x01\x0a\x01a\x12\xcb\x01\x1a\xc8");
    }

    #[test]
    fn no_integer_becomes_another_number() {
        for exact in [json!(LARGEST_INTEGER), json!(-9_007_199_254_740_992_i64), json!(1.0e300), json!(0.1)] {
            assert!(of(&json!({ "n": exact })).is_some(), "{exact}");
        }
        for inexact in [json!(LARGEST_INTEGER + 1), json!(u64::MAX), json!(i64::MIN)] {
            assert_eq!(of(&json!({ "n": inexact })), None);
            assert_eq!(of(&json!({ "deep": [{ "n": inexact }] })), None);
        }
    }
}
