//! Rules' conditions in CEL, and the claims as the host gets them for these: as a `google.protobuf.Struct`.

use plugin_kit::host::HostError;
use plugin_kit::request::cel::{CLAIMS, Expression};
use plugin_kit::request::exchange::Exchange;
use plugin_kit::wire::protobuf::Message;
use serde_json::{Map, Value};

/// The largest integer that a double, the only number of a Struct, holds exactly along with all smaller ones.
const LARGEST_INTEGER: u64 = 1 << 53;

/// The claims as a serialised Struct; `None` if an integer beyond 2^53 would become another number.
pub fn typed(claims: &Map<String, Value>) -> Option<Vec<u8>> {
    structure(claims).map(Message::into_bytes)
}

/// Whether the condition holds for a request with these claims. `None` if the condition has no value: a claim
/// that it asks for is missing or has another type, or the claims cannot be written as a Struct.
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

/// The claims of a request without a token: a Struct without fields.
pub const NO_CLAIMS: &[u8] = b"";

/// A `Struct`: a map from names (1) to values (2), whose entries are its field 1.
fn structure(members: &Map<String, Value>) -> Option<Message> {
    members.iter().try_fold(Message::default(), |message, (name, member)| {
        let entry = Message::default().bytes(1, name.as_bytes()).message(2, &value(member)?);
        Some(message.message(1, &entry))
    })
}

/// A `Value`, with the field numbers of `google/protobuf/struct.proto`. All are of one `oneof`.
fn value(value: &Value) -> Option<Message> {
    let message = Message::default();
    Some(match value {
        Value::Null => message.present_number(1, 0),
        Value::Number(number) => {
            let integer = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
            if integer.is_some_and(|integer| integer > LARGEST_INTEGER) {
                return None;
            }
            message.double(2, number.as_f64()?)
        }
        Value::String(text) => message.bytes(3, text.as_bytes()),
        Value::Bool(truth) => message.present_number(4, u64::from(*truth)),
        Value::Object(members) => message.message(5, &structure(members)?),
        Value::Array(list) => message.message(6, &values(list)?),
    })
}

/// A `ListValue`.
fn values(list: &[Value]) -> Option<Message> {
    list.iter().try_fold(Message::default(), |message, element| Some(message.message(1, &value(element)?)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(claims: &Value) -> Option<Vec<u8>> {
        typed(claims.as_object().unwrap())
    }

    #[test]
    fn struct_is_encoded_as_protobuf() {
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
    fn integer_beyond_double_has_no_struct() {
        for exact in [json!(LARGEST_INTEGER), json!(-9_007_199_254_740_992_i64), json!(1.0e300), json!(0.1)] {
            assert!(of(&json!({ "n": exact })).is_some(), "{exact}");
        }
        for inexact in [json!(LARGEST_INTEGER + 1), json!(u64::MAX), json!(i64::MIN)] {
            assert_eq!(of(&json!({ "n": inexact })), None);
            assert_eq!(of(&json!({ "deep": [{ "n": inexact }] })), None);
        }
    }
}
