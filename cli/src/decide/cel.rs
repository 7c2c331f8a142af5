//! Expressions in CEL and their regular expressions, evaluated by another implementation than the proxy's.
//!
//! Both implementations agree on texts, numbers, lists, claims and the attributes of a request. Times are
//! known to differ, and some attributes exist only in a proxy, so expressions with them are not evaluated
//! here. Regular expressions are read as RE2 reads them. One that this implementation would understand
//! differently is refused.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{CallExpr, EntryExpr, Expr, LiteralValue, MapExpr, StructExpr, operators};
use cel::common::types::CelString;
use cel::objects::Key;
use cel::{Context, Env, IdedExpr as Parsed, Program, Value};
use plugin_kit::host::HostError;
use plugin_kit::request::cel::{CLAIMS, FUNCTIONS, TEXT, TIME_FUNCTIONS, attributes, claims, re2};

use super::facts::Facts;

static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(re2::environment()));

/// The result of an evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evaluated {
    /// The value, in the encoding of the Proxy-Wasm ABI.
    Value(Vec<u8>),
    /// The expression has no value.
    Nothing,
    /// Only the proxy can evaluate the expression.
    NotHere,
}

struct Expression {
    /// The program as it was written, and the form of it that is evaluated.
    program: Rc<(Program, Parsed, re2::Literals)>,
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
    /// Compiles an expression and returns its number, by which it is evaluated.
    ///
    /// # Errors
    /// The text is not valid CEL, or calls a function that the proxy does not have.
    pub fn compile(&self, text: &str) -> Result<u32, HostError> {
        let refused = HostError { call: "expr_create", status: HostError::BAD_ARGUMENT };
        let program = Program::compile(text).map_err(|_| refused)?;
        let references = program.references();
        let functions = references.functions();
        if !functions.iter().all(|name| is_function(name)) {
            return Err(refused);
        }
        let asks_times = functions.iter().any(|name| TIME_FUNCTIONS.contains(name));
        let mut parsed = program.expression().clone();
        let mut asks_proxy = false;
        each(&mut parsed, &mut |part| {
            header_name_in_lower_case(part);
            asks_proxy |= names(part).is_some_and(|names| is_of_a_proxy_alone(&names));
        });
        let is_here = !asks_times && !asks_proxy;
        self.any_not_here.set(self.any_not_here.get() || !is_here);
        let is_condition = text.ends_with("? true : false") || text.starts_with(&format!("{TEXT}.matches("));
        let mut all = self.all.borrow_mut();
        all.push(Expression {
            program: Rc::new((program, parsed, re2::Literals::of(text))),
            is_here,
            is_condition,
        });
        Ok(u32::try_from(all.len()).unwrap_or_default())
    }

    /// Whether some expression can only be evaluated by a proxy.
    pub fn any_not_here(&self) -> bool {
        self.any_not_here.get()
    }

    /// Whether an expression is a condition.
    pub fn is_condition(&self, expression: u32) -> bool {
        let index = usize::try_from(expression).unwrap_or_default().wrapping_sub(1);
        self.all.borrow().get(index).is_some_and(|expression| expression.is_condition)
    }

    /// Evaluates an expression. `facts` is the request; without it, the expression sees no attributes.
    pub fn evaluate(&self, expression: u32, facts: Option<&Facts<'_>>) -> Evaluated {
        let index = usize::try_from(expression).unwrap_or_default().wrapping_sub(1);
        let (program, is_here) = match self.all.borrow().get(index) {
            Some(known) => (Rc::clone(&known.program), known.is_here),
            None => return Evaluated::Nothing,
        };
        if !is_here {
            return Evaluated::NotHere;
        }
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        for name in program.0.references().variables() {
            if let Some(value) = facts.and_then(|facts| variable(facts, name)) {
                context.add_variable_from_value(name, value);
            }
        }
        let value = program
            .2
            .during(|| Value::resolve(&program.1, &context))
            .ok()
            .and_then(|value| serialised(&value));
        value.map_or(Evaluated::Nothing, Evaluated::Value)
    }
}

/// Whether the proxy has this function. Operators are functions, too.
pub fn is_function(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_alphabetic())
        || FUNCTIONS.contains(&name)
        || TIME_FUNCTIONS.contains(&name)
}

/// Variables that only a proxy knows.
const OF_A_PROXY_ALONE: [&str; 15] = [
    "destination",
    "upstream",
    "metadata",
    "filter_state",
    "plugin_name",
    "plugin_root_id",
    "plugin_vm_id",
    "route_name",
    "route_metadata",
    "cluster_name",
    "cluster_metadata",
    "listener_direction",
    "listener_metadata",
    "connection_id",
    "node",
];

/// The texts of a request that are known here.
const OF_REQUEST: [&str; 10] =
    ["path", "url_path", "query", "host", "scheme", "method", "id", "useragent", "referer", "protocol"];

/// Whether an attribute of these variables is known here; `None` of others.
fn is_here(variable: &str, name: &str) -> Option<bool> {
    Some(match variable {
        "request" => OF_REQUEST.contains(&name) || ["headers", "size"].contains(&name),
        "response" => ["code", "code_details", "headers"].contains(&name),
        "connection" => ["mtls", "requested_server_name", "uri_san_peer_certificate"].contains(&name),
        "xds" => name == "node",
        _ => return None,
    })
}

fn is_of_a_proxy_alone(names: &[&str]) -> bool {
    match names {
        [variable] => OF_A_PROXY_ALONE.contains(variable),
        [variable, name] => is_here(variable, name) == Some(false) && attributes::is_known(variable, name),
        ["xds", "node", name] => !["id", "metadata"].contains(name),
        ["xds", "node", "metadata", name] => !["LABELS", "NAMESPACE"].contains(name),
        _ => false,
    }
}

/// Calls `act` with each part of an expression.
fn each(parsed: &mut Parsed, act: &mut dyn FnMut(&mut Parsed)) {
    act(parsed);
    match &mut parsed.expr {
        Expr::Call(call) => {
            let parts = call.target.iter_mut().map(|target| &mut **target).chain(&mut call.args);
            parts.for_each(|part| each(part, act));
        }
        Expr::Comprehension(comprehension) => {
            let comprehension = &mut **comprehension;
            for part in [
                &mut comprehension.iter_range,
                &mut comprehension.accu_init,
                &mut comprehension.loop_cond,
                &mut comprehension.loop_step,
                &mut comprehension.result,
            ] {
                each(part, act);
            }
        }
        Expr::List(list) => list.elements.iter_mut().for_each(|part| each(part, act)),
        Expr::Map(MapExpr { entries }) | Expr::Struct(StructExpr { entries, .. }) => {
            for entry in entries {
                match &mut entry.expr {
                    EntryExpr::StructField(field) => each(&mut field.value, act),
                    EntryExpr::MapEntry(entry) => {
                        each(&mut entry.key, act);
                        each(&mut entry.value, act);
                    }
                }
            }
        }
        Expr::Select(select) => each(&mut select.operand, act),
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => {}
    }
}

/// The names of `a.b` or `a['b']`.
fn names(parsed: &Parsed) -> Option<Vec<&str>> {
    let (operand, name) = match &parsed.expr {
        Expr::Ident(name) => return Some(vec![name]),
        Expr::Select(select) => (&*select.operand, select.field.as_str()),
        Expr::Call(CallExpr { func_name, target: None, args }) if func_name == operators::INDEX => {
            match args.as_slice() {
                [operand, Parsed { expr: Expr::Literal(LiteralValue::String(name)), .. }] => {
                    (operand, name.inner())
                }
                _ => return None,
            }
        }
        _ => return None,
    };
    let mut names = names(operand)?;
    names.push(name);
    Some(names)
}

/// Writes the name of a header in lower case. The proxy ignores case when it looks a header up, and stores
/// names in lower case.
fn header_name_in_lower_case(parsed: &mut Parsed) {
    let are_headers = |operand: &Parsed| {
        names(operand).is_some_and(|names| matches!(names.as_slice(), ["request" | "response", "headers"]))
    };
    match &mut parsed.expr {
        Expr::Select(select) if are_headers(&select.operand) => select.field.make_ascii_lowercase(),
        Expr::Call(CallExpr { func_name, target: None, args }) => {
            let name = match (func_name.as_str(), args.as_mut_slice()) {
                (operators::INDEX | operators::OPT_INDEX, [operand, name]) if are_headers(operand) => name,
                (operators::IN, [name, operand]) if are_headers(operand) => name,
                _ => return,
            };
            if let Expr::Literal(LiteralValue::String(name)) = &mut name.expr {
                *name = CelString::from(Arc::new(name.inner().to_ascii_lowercase()));
            }
        }
        _ => {}
    }
}

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

/// The value of a variable: filter state, or else an attribute of Envoy.
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
            let size = facts.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            let more = [
                ("headers".to_owned(), headers(facts.request_headers())),
                ("size".to_owned(), Value::Int(size)),
            ];
            map(texts("request", &OF_REQUEST).into_iter().chain(more))
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

/// The map from each header's name to its values, joined by commas.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Parsed {
        let mut parsed = Program::compile(text).unwrap().expression().clone();
        each(&mut parsed, &mut header_name_in_lower_case);
        parsed
    }

    fn holds(text: &str) -> Option<bool> {
        let mut context = Context::default();
        let pairs = vec![("x-a".to_owned(), b"1".to_vec()), ("x_b".to_owned(), b"2".to_vec())];
        context.add_variable_from_value("request", map([("headers".to_owned(), headers(pairs))]));
        match Value::resolve(&parsed(text), &context) {
            Ok(Value::Bool(holds)) => Some(holds),
            _ => None,
        }
    }

    #[test]
    fn headers_are_looked_up_in_any_case() {
        for text in [
            "request.headers['X-A'] == '1'",
            "request['headers']['X-a'] == '1'",
            "'X-A' in request.headers",
            "request.headers.X_B == '2' && has(request.headers.X_B)",
            "['a', 'b'].exists(x, request.headers['X-A'] == '1' && x == 'a')",
            "{'k': request.headers['X-A']}['k'] == '1'",
        ] {
            assert_eq!(holds(text), Some(true), "{text}");
        }
        assert_eq!(holds("'X-A' == 'x-a'"), Some(false), "a text that names no header stays as it is");
        assert_eq!(holds("request.headers['X-C'] == '1'"), None);
    }

    #[test]
    fn what_a_proxy_alone_has_is_not_evaluated() {
        for (text, expected) in [
            ("request.total_size > 5", Evaluated::NotHere),
            ("request['total_size'] > 5", Evaluated::NotHere),
            ("has(request.duration)", Evaluated::NotHere),
            ("request.time < timestamp('2026-01-01T00:00:00Z')", Evaluated::NotHere),
            ("xds.cluster_name == 'inbound|8080||'", Evaluated::NotHere),
            ("xds.node.cluster == 'x'", Evaluated::NotHere),
            ("xds.node.metadata.NAME == 'x'", Evaluated::NotHere),
            ("xds.node.metadata['NAME'] == 'x'", Evaluated::NotHere),
            ("connection.tls_version == 'TLSv1.3'", Evaluated::NotHere),
            ("[1].all(x, response.flags == x)", Evaluated::NotHere),
            ("upstream.address == 'x'", Evaluated::NotHere),
            ("'request.time' == 'request.time'", Evaluated::Value(vec![1])),
            ("{'a': {'total_size': 1}}.a.total_size == 1", Evaluated::Value(vec![1])),
            ("request.path == '/'", Evaluated::Nothing),
            ("xds.node.metadata.NAMESPACE == 'x'", Evaluated::Nothing),
        ] {
            let expressions = Expressions::default();
            let number = expressions.compile(text).unwrap();
            assert_eq!(expressions.evaluate(number, None), expected, "{text}");
        }
    }
}
