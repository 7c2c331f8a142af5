//! Turns a JSON syntax error into an error with a JSON path.

use serde_json::Value;

use super::codes::Code;
use super::errors::{Diagnostic, JsonPath};

/// The error of the parser, with the JSON path instead of a line: the proxy sends one line that no user has seen.
pub(super) fn explain(json: &[u8], error: &serde_json::Error) -> Diagnostic {
    let offset = offset(json, error.line(), error.column());
    let path = path_at(json, offset);
    let message = match arrived(json, offset) {
        Some(what) => what.to_owned(),
        // What stands behind the document has no path.
        None if error.is_syntax() && path == "$" => error.to_string(),
        None => without_position(&error.to_string()),
    };
    Diagnostic { code: Code::NotJson, path, message }
}

/// What stands in the place of JSON, if that is known. The parser stopped at `offset`.
fn arrived(json: &[u8], offset: usize) -> Option<&'static str> {
    let is_text = |byte: &u8| *byte >= 0x20 || byte.is_ascii_whitespace();
    let stopped_at = json.get(offset.saturating_sub(1)..).unwrap_or_default();
    let first = json.trim_ascii_start().first();
    if json.starts_with(b"\xef\xbb\xbf") {
        Some("begins with a byte order mark; expected JSON without it")
    } else if !json.iter().all(is_text) {
        Some(
            "is a serialised message; expected JSON, in Envoy as the `value` of a `google.protobuf.StringValue`",
        )
    } else if stopped_at.starts_with(b"#") || stopped_at.starts_with(b"//") || stopped_at.starts_with(b"/*") {
        Some("has a comment, which JSON does not know; expected JSON without it")
    } else if first.is_some_and(|first| !b"{[\"".contains(first)) && json.contains(&b':') {
        Some("is YAML or a text; expected JSON: in Istio, `pluginConfig` is an object, without `|`")
    } else {
        None
    }
}

/// What is wrong with a document that is JSON, but only holds the configuration.
pub(super) fn wrapped(document: &Value) -> Option<Diagnostic> {
    let message = match document {
        Value::String(_) => {
            "is a text; expected the object itself: in Istio, `pluginConfig` is an object, without `|`"
        }
        Value::Object(members) if members.contains_key("@type") => {
            "is a message with `@type`; expected the object itself: in Envoy, as the `value` of a `google.protobuf.StringValue`"
        }
        _ => return None,
    };
    Some(Diagnostic { code: Code::NotJson, path: "$".to_owned(), message: message.to_owned() })
}

/// The byte at which `serde_json` stopped.
fn offset(json: &[u8], line: usize, column: usize) -> usize {
    let lines_before = json.split_inclusive(|byte| *byte == b'\n').take(line.saturating_sub(1));
    lines_before.map(<[u8]>::len).sum::<usize>().saturating_add(column)
}

/// The JSON path of what the first `end` bytes of a document end with: a value, or the name of a field.
///
/// A deserialiser that tracks the path would know it too, but it doubles the code of every type that is read, a third
/// of a module; this looks only when something is wrong.
fn path_at(json: &[u8], end: usize) -> String {
    enum Inside {
        Object { field: Option<String> },
        List { index: Option<usize> },
    }
    let mut stack: Vec<Inside> = Vec::new();
    let mut text = json.get(..end.min(json.len())).unwrap_or(json);
    while let Some((byte, rest)) = text.split_first() {
        text = rest;
        match byte {
            b',' => match stack.last_mut() {
                Some(Inside::Object { field }) => *field = None,
                Some(Inside::List { index: Some(index) }) => *index = index.saturating_add(1),
                _ => {}
            },
            b'}' | b']' => drop(stack.pop()),
            b':' => {}
            byte if byte.is_ascii_whitespace() => {}
            _ => {
                if let Some(Inside::List { index }) = stack.last_mut() {
                    index.get_or_insert(0);
                }
                match byte {
                    b'{' => stack.push(Inside::Object { field: None }),
                    b'[' => stack.push(Inside::List { index: None }),
                    b'"' => {
                        let (string, after) = string(text);
                        text = after;
                        if let Some(Inside::Object { field: field @ None }) = stack.last_mut() {
                            *field = Some(String::from_utf8_lossy(string).into_owned());
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    let path = stack.into_iter().fold(JsonPath::root(), |path, inside| match inside {
        Inside::Object { field: Some(field) } => path.field(&field),
        Inside::List { index: Some(index) } => path.index(index),
        _ => path,
    });
    path.to_string()
}

/// A JSON string without its quotes, as it is written, and what follows it.
fn string(text: &[u8]) -> (&[u8], &[u8]) {
    let mut escaped = false;
    let end = text.iter().position(|byte| {
        let is_end = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        is_end
    });
    match end {
        Some(end) => {
            (text.get(..end).unwrap_or_default(), text.get(end.saturating_add(1)..).unwrap_or_default())
        }
        None => (text, &[]),
    }
}

/// Without `serde_json`'s ` at line 1 column 20`.
fn without_position(message: &str) -> String {
    match message.rfind(" at line ") {
        Some(at) => message.get(..at).unwrap_or(message).to_owned(),
        None => message.to_owned(),
    }
}
