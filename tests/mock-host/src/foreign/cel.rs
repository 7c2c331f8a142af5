//! Envoy's foreign functions for CEL (`expr_create`, `expr_evaluate`, `expr_delete`), with another
//! implementation of CEL.
//!
//! Here too short for Envoy's: `request.time` is a number, and texts that are no UTF-8 are bytes.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use cel::objects::Key;
use cel::{Context, Env, Program};
use plugin_kit::request::cel::re2;
use prost::Message;

use crate::foreign::protobuf::{self, Kind, Struct};
use crate::host::filter_state::Type;
use crate::imports::{self, Guest};
use crate::properties::Value;
use crate::vm::abi::Status;

static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(re2::environment()));

/// The expressions of a root context (`ExpressionContext`). They end with it.
#[derive(Default)]
pub(crate) struct Expressions {
    programs: Vec<Option<Rc<Program>>>,
}

/// Functions of the standard, as `RegisterBuiltinFunctions` has them; Envoy refuses an expression that calls
/// another. Operators have names of punctuation.
const FUNCTIONS: &[&str] = &[
    "bool",
    "bytes",
    "contains",
    "double",
    "duration",
    "dyn",
    "endsWith",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "has",
    "in",
    "int",
    "matches",
    "size",
    "startsWith",
    "string",
    "timestamp",
    "type",
    "uint",
];

/// `CreateExpressionFactory`.
pub(crate) fn create(guest: &mut Guest, text: &[u8]) -> Result<Vec<u8>, Status> {
    let text = std::str::from_utf8(text).map_err(|_| Status::BAD_ARGUMENT)?;
    let program = Program::compile(text).map_err(|_| Status::BAD_ARGUMENT)?;
    let known = |name: &&str| {
        FUNCTIONS.contains(name) || !name.starts_with(|first: char| first.is_ascii_alphabetic())
    };
    let compiles = program.references().functions().iter().all(known);
    let programs = &mut guest.current_root().ok_or(Status::BAD_ARGUMENT)?.expressions.programs;
    let token = u32::try_from(programs.len()).map_err(|_| Status::BAD_ARGUMENT)?;
    // What parses gets a number, also where it does not compile.
    programs.push(compiles.then(|| Rc::new(program)));
    if !compiles {
        return Err(Status::BAD_ARGUMENT);
    }
    Ok(token.to_le_bytes().to_vec())
}

/// `DeleteExpressionFactory`.
pub(crate) fn delete(guest: &mut Guest, token: &[u8]) -> Result<(), Status> {
    let token = number(token)?;
    let root = guest.current_root().ok_or(Status::BAD_ARGUMENT)?;
    if let Some(program) = root.expressions.programs.get_mut(token) {
        *program = None;
    }
    Ok(())
}

/// `EvaluateExpressionFactory`: whatever the effective context, the attributes are those of the current one.
pub(crate) fn evaluate(guest: &mut Guest, token: &[u8]) -> Result<Vec<u8>, Status> {
    let token = number(token)?;
    let root = guest.current_root().ok_or(Status::BAD_ARGUMENT)?;
    let program = root.expressions.programs.get(token).cloned().flatten().ok_or(Status::NOT_FOUND)?;
    let effective = std::mem::take(&mut guest.state().effective);
    let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
    for name in program.references().variables() {
        if let Some(value) = variable(guest, name) {
            context.add_variable_from_value(name, value);
        }
    }
    guest.state().effective = effective;
    let value = program.execute(&context).map_err(|_| Status::INTERNAL_FAILURE)?;
    plain(&value).ok_or(Status::SERIALIZATION_FAILURE)?.serialize()
}

fn number(token: &[u8]) -> Result<usize, Status> {
    let token: [u8; 4] = token.try_into().map_err(|_| Status::BAD_ARGUMENT)?;
    usize::try_from(u32::from_le_bytes(token)).map_err(|_| Status::BAD_ARGUMENT)
}

/// `Context::findValue`, where filter state keeps its type (`CelState::exprValue`).
fn variable(guest: &mut Guest, name: &str) -> Option<cel::Value> {
    let state =
        guest.stream(|stream| stream.filter_state.typed(name).map(|(value, kind)| (value.to_vec(), kind)));
    match state.flatten() {
        Some((value, Type::Bytes)) => Some(cel::Value::Bytes(Arc::new(value))),
        Some((value, Type::String)) => Some(text(value)),
        Some((value, Type::Struct)) => Some(protobuf_struct(Struct::decode(value.as_slice()).ok()?)),
        Some((_, Type::Other)) => None,
        None => imports::find_value(guest, name).map(typed),
    }
}

fn text(bytes: Vec<u8>) -> cel::Value {
    String::from_utf8(bytes).map_or_else(
        |error| cel::Value::Bytes(Arc::new(error.into_bytes())),
        |text| cel::Value::String(Arc::new(text)),
    )
}

/// An attribute as CEL sees it.
fn typed(value: Value) -> cel::Value {
    match value {
        Value::Bytes(bytes) => text(bytes),
        Value::Int(number) => cel::Value::Int(number),
        Value::Uint(number) => cel::Value::UInt(number),
        Value::Double(number) => cel::Value::Float(number),
        Value::Bool(truth) => cel::Value::Bool(truth),
        Value::List(items) => cel::Value::List(Arc::new(items.into_iter().map(typed).collect())),
        Value::Map(fields) => {
            let fields = fields.into_iter().map(|(name, value)| (Key::from(name), typed(value)));
            cel::Value::Map(fields.collect::<HashMap<Key, cel::Value>>().into())
        }
    }
}

/// What an expression came to, as `serializeValue` takes it.
fn plain(value: &cel::Value) -> Option<Value> {
    Some(match value {
        cel::Value::Bool(truth) => Value::Bool(*truth),
        cel::Value::Int(number) => Value::Int(*number),
        cel::Value::UInt(number) => Value::Uint(*number),
        cel::Value::Float(number) => Value::Double(*number),
        cel::Value::String(text) => text.as_str().into(),
        cel::Value::Bytes(bytes) => Value::Bytes(bytes.to_vec()),
        cel::Value::List(items) => Value::List(items.iter().map(plain).collect::<Option<_>>()?),
        cel::Value::Map(map) => {
            let pair = |(key, value): (&Key, &cel::Value)| match key {
                Key::String(name) => Some((name.to_string(), plain(value)?)),
                _ => None,
            };
            Value::Map(map.map.iter().map(pair).collect::<Option<_>>()?)
        }
        _ => return None,
    })
}

/// `google.protobuf.Struct` (`google/protobuf/struct.proto`).
fn protobuf_struct(message: Struct) -> cel::Value {
    let member = |(name, value): (String, protobuf::Value)| (Key::from(name), protobuf_value(value));
    cel::Value::Map(message.fields.into_iter().map(member).collect::<HashMap<Key, cel::Value>>().into())
}

fn protobuf_value(value: protobuf::Value) -> cel::Value {
    match value.kind {
        Some(Kind::Number(number)) => cel::Value::Float(number),
        Some(Kind::Text(text)) => cel::Value::String(Arc::new(text)),
        Some(Kind::Bool(truth)) => cel::Value::Bool(truth),
        Some(Kind::Struct(message)) => protobuf_struct(message),
        Some(Kind::List(list)) => {
            cel::Value::List(Arc::new(list.values.into_iter().map(protobuf_value).collect()))
        }
        Some(Kind::Null(_)) | None => cel::Value::Null,
    }
}
