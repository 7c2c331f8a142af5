//! Expressions in CEL, and the regular expressions in them, as another implementation evaluates them than the proxy's.
//!
//! Texts, numbers, lists, claims and the attributes of a request are the same there. What is known to differ is not evaluated here:
//! times, and attributes that only a proxy has. Regular expressions are those of the crate `regex`, whose `\w` and `\d` are about all of
//! Unicode, in contrast to RE2's.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use cel::objects::Key;
use cel::{Context, Program, Value};
use plugin_kit::host::HostError;
use plugin_kit::request::cel::{CLAIMS, FUNCTIONS, TEXT, TIME_FUNCTIONS, claims};

use super::facts::Facts;

/// What an expression came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evaluated {
    /// This value, as the ABI of Proxy-Wasm writes it.
    Value(Vec<u8>),
    /// It has no value.
    Nothing,
    /// Only the proxy can evaluate it.
    NotHere,
}

struct Expression {
    program: Rc<Program>,
    is_here: bool,
    is_condition: bool,
}

/// The expressions of a chain.
#[derive(Default)]
pub struct Expressions {
    all: RefCell<Vec<Expression>>,
    any_not_here: Cell<bool>,
}

impl Expressions {
    /// Compiles an expression, and returns its number.
    ///
    /// # Errors
    /// It is no CEL, or calls a function that the proxy does not have.
    pub fn compile(&self, text: &str) -> Result<u32, HostError> {
        let refused = HostError { call: "expr_create", status: HostError::BAD_ARGUMENT };
        let program = Program::compile(text).map_err(|_| refused)?;
        let references = program.references();
        let functions = references.functions();
        if !functions.iter().all(|name| is_function(name)) {
            return Err(refused);
        }
        let variables = references.variables();
        // `request.time` is a time in the proxy.
        let is_here = functions.iter().all(|name| !TIME_FUNCTIONS.contains(name))
            && !text.contains("request.time")
            && variables.iter().all(|name| !OF_A_PROXY_ALONE.contains(name));
        self.any_not_here.set(self.any_not_here.get() || !is_here);
        let is_condition = text.ends_with("? true : false") || text.starts_with(&format!("{TEXT}.matches("));
        let mut all = self.all.borrow_mut();
        all.push(Expression { program: Rc::new(program), is_here, is_condition });
        Ok(u32::try_from(all.len()).unwrap_or_default())
    }

    /// Whether some expression can be evaluated by a proxy alone.
    pub fn any_not_here(&self) -> bool {
        self.any_not_here.get()
    }

    /// Whether an expression is a condition.
    pub fn is_condition(&self, expression: u32) -> bool {
        let index = usize::try_from(expression).unwrap_or_default().wrapping_sub(1);
        self.all.borrow().get(index).is_some_and(|expression| expression.is_condition)
    }

    /// Evaluates an expression about a request, or one that asks for none.
    pub fn evaluate(&self, expression: u32, facts: Option<&Facts<'_>>) -> Evaluated {
        let index = usize::try_from(expression).unwrap_or_default().wrapping_sub(1);
        let (program, is_here) = match self.all.borrow().get(index) {
            Some(known) => (Rc::clone(&known.program), known.is_here),
            None => return Evaluated::Nothing,
        };
        if !is_here {
            return Evaluated::NotHere;
        }
        let mut context = Context::default();
        for name in program.references().variables() {
            if let Some(value) = facts.and_then(|facts| variable(facts, name)) {
                context.add_variable_from_value(name, value);
            }
        }
        let value = program.execute(&context).ok().and_then(|value| serialised(&value));
        value.map_or(Evaluated::Nothing, Evaluated::Value)
    }
}

/// Whether the proxy has this function. Operators are functions, too.
pub fn is_function(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_alphabetic())
        || FUNCTIONS.contains(&name)
        || TIME_FUNCTIONS.contains(&name)
}

/// Variables about which nothing is known here.
const OF_A_PROXY_ALONE: [&str; 9] = [
    "destination",
    "upstream",
    "metadata",
    "filter_state",
    "plugin_root_id",
    "plugin_vm_id",
    "route_name",
    "cluster_name",
    "node",
];

fn serialised(value: &Value) -> Option<Vec<u8>> {
    Some(match value {
        Value::Bool(truth) => vec![u8::from(*truth)],
        Value::Int(number) => number.to_le_bytes().to_vec(),
        Value::UInt(number) => number.to_le_bytes().to_vec(),
        Value::Float(number) => number.to_le_bytes().to_vec(),
        Value::String(text) => text.as_bytes().to_vec(),
        Value::Bytes(bytes) => bytes.to_vec(),
        _ => return None,
    })
}

fn text(bytes: Vec<u8>) -> Value {
    String::from_utf8(bytes)
        .map_or_else(|error| Value::Bytes(Arc::new(error.into_bytes())), |text| Value::String(Arc::new(text)))
}

fn map(fields: impl IntoIterator<Item = (String, Value)>) -> Value {
    Value::Map(
        fields.into_iter().map(|(name, value)| (Key::from(name), value)).collect::<HashMap<_, _>>().into(),
    )
}

/// A filter state, or else an attribute of Envoy.
fn variable(facts: &Facts<'_>, name: &str) -> Option<Value> {
    if let Some(state) = facts.attribute(&[name]) {
        return match name {
            CLAIMS => claims::value(&state),
            TEXT => Some(text(state)),
            _ => Some(Value::Bytes(Arc::new(state))),
        };
    }
    let texts = |root: &str, names: &[&str]| {
        let field = |name: &&str| Some(((*name).to_owned(), text(facts.attribute(&[root, name])?)));
        names.iter().filter_map(field).collect::<Vec<_>>()
    };
    let number = |path: &[&str]| {
        let bytes: [u8; 8] = facts.attribute(path)?.try_into().ok()?;
        Some(Value::Int(i64::from_le_bytes(bytes)))
    };
    Some(match name {
        "request" => {
            let names = [
                "path",
                "url_path",
                "query",
                "host",
                "scheme",
                "method",
                "id",
                "useragent",
                "referer",
                "protocol",
            ];
            let size = facts.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            let more = [
                ("headers".to_owned(), headers(facts.request_headers())),
                ("size".to_owned(), Value::Int(size)),
            ];
            map(texts("request", &names).into_iter().chain(more))
        }
        "source" => {
            let port = number(&["source", "port"]).map(|port| ("port".to_owned(), port));
            map(texts("source", &["address"]).into_iter().chain(port))
        }
        "connection" => {
            let mtls = facts.attribute(&["connection", "mtls"]) == Some(vec![1]);
            let names = ["uri_san_peer_certificate", "requested_server_name"];
            map(texts("connection", &names).into_iter().chain([("mtls".to_owned(), Value::Bool(mtls))]))
        }
        "response" => {
            let code = number(&["response", "code"]).map(|code| ("code".to_owned(), code));
            let more = [(
                "headers".to_owned(),
                headers(
                    facts
                        .response_headers()
                        .into_iter()
                        .map(|(name, value)| (name, value.into_bytes()))
                        .collect(),
                ),
            )];
            map(texts("response", &["code_details"]).into_iter().chain(code).chain(more))
        }
        "xds" => {
            let labels = facts.labels().map(|(name, value)| (name.clone(), text(value.clone().into_bytes())));
            let metadata = texts("xds.node.metadata", &[]).into_iter().chain([
                ("LABELS".to_owned(), map(labels)),
                ("NAMESPACE".to_owned(), text(facts.attribute(&["xds", "node", "metadata", "NAMESPACE"])?)),
            ]);
            let node = [
                ("id".to_owned(), text(facts.attribute(&["xds", "node", "id"])?)),
                ("metadata".to_owned(), map(metadata)),
            ];
            map(texts("xds", &["cluster_name", "route_name"])
                .into_iter()
                .chain([("node".to_owned(), map(node))]))
        }
        _ => return None,
    })
}

/// A map from the name of a header to all of its values, joined by a comma.
fn headers(headers: Vec<(String, Vec<u8>)>) -> Value {
    let mut joined: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, value) in headers {
        match joined.iter_mut().find(|(known, _)| *known == name) {
            Some((_, list)) => {
                list.push(b',');
                list.extend(value);
            }
            None => joined.push((name, value)),
        }
    }
    map(joined.into_iter().map(|(name, value)| (name, text(value))))
}
