//! CEL by the crate `cel`. An expression sees what Envoy's sees: attributes, each of which is asked for when the expression comes to
//! it; the variables of the seam; and filter state of plugins by its key (`wasm.x` as `x`). What it lacks: attributes that are
//! times or maps, but for `request.headers` and `filter_state`.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use cel::common::traits::{Container, Indexer};
use cel::common::types::{CelBytes, CelString, DYN_TYPE, Type};
use cel::common::value::{CowVal, StaticVal, Val};
use cel::context::VariableResolver;
use cel::objects::Key;
use cel::{Context, Env, ExecutionError, Program, Value};
use regex::Regex;

use super::calls::of_plugin;
use super::ffi::stream::{Attribute, Map, Stream};
use crate::request::cel::{CLAIMS, FUNCTIONS, TEXT, attributes, claims, re2};

/// Kept between requests: to make one takes longer than most expressions.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(re2::environment()));

/// A compiled expression.
pub(super) enum Expression {
    /// Whether [`TEXT`] matches: by far the most frequent one.
    Matches(Regex),
    /// Any other.
    Program(Box<Program>, Headers, re2::Literals),
}

/// How an expression reads headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Headers {
    /// One by one.
    Some,
    /// All of them, as a map.
    All,
}

/// What was set for the expressions about a stream.
#[derive(Default)]
pub(super) struct Variables {
    claims: Option<Arc<Box<dyn Val>>>,
    text: Vec<u8>,
}

impl Variables {
    /// Sets one of the variables of the seam. `false` if the value is none.
    pub(super) fn set(&mut self, name: &str, value: &[u8]) -> bool {
        match name {
            CLAIMS => {
                self.claims = boxed(claims::value(value));
                self.claims.is_some()
            }
            TEXT => {
                value.clone_into(&mut self.text);
                true
            }
            _ => false,
        }
    }
}

fn boxed(value: Option<Value>) -> Option<Arc<Box<dyn Val>>> {
    let value: Box<dyn Val> = value?.try_into().ok()?;
    Some(Arc::new(value))
}

impl Expression {
    /// Compiles an expression; `None` if it is none, or calls what Envoy does not have.
    pub(super) fn compile(text: &str) -> Option<Self> {
        if let Some(regex) = pattern(text) {
            return re2::compile(&regex).map(Self::Matches);
        }
        let program = ENVIRONMENT.compile(text).ok()?;
        let known = |name: &&str| {
            FUNCTIONS.contains(name) || !name.starts_with(|first: char| first.is_ascii_alphabetic())
        };
        let compiles = program.references().functions().iter().all(known);
        compiles.then(|| Self::Program(Box::new(program), headers(text), re2::Literals::of(text)))
    }

    /// The value, as Envoy serialises it; `None` if there is none.
    pub(super) fn evaluate(&self, stream: Option<Stream>, variables: &Variables) -> Option<Vec<u8>> {
        let (program, headers, literals) = match self {
            Self::Matches(regex) => {
                let text = std::str::from_utf8(&variables.text).ok()?;
                return Some(vec![u8::from(regex.is_match(text))]);
            }
            Self::Program(program, headers, literals) => (program, *headers, literals),
        };
        let text = std::str::from_utf8(&variables.text).ok().map(str::to_owned);
        let resolver = Resolver {
            on: On { stream: StreamInThread::of(stream) },
            headers,
            claims: variables.claims.clone(),
            text,
        };
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        context.set_variable_resolver(&resolver);
        match literals.during(|| program.execute(&context)).ok()? {
            Value::Bool(truth) => Some(vec![u8::from(truth)]),
            Value::String(text) => Some(text.as_bytes().to_vec()),
            Value::Bytes(bytes) => Some(bytes.to_vec()),
            _ => None,
        }
    }
}

/// The regular expression of `normalized_path.matches('…')`, or of the same with an empty text, by which one is tried out.
fn pattern(text: &str) -> Option<String> {
    let literal = text.strip_prefix(TEXT).or_else(|| text.strip_prefix("''"))?;
    let literal = literal.strip_prefix(".matches('")?.strip_suffix("')")?;
    let mut pattern = String::new();
    let mut characters = literal.chars();
    while let Some(character) = characters.next() {
        match character {
            '\'' => return None,
            '\\' => match characters.next()? {
                quoted @ ('\'' | '\\') => pattern.push(quoted),
                'u' => {
                    let code: String = characters.by_ref().take(4).collect();
                    pattern.push(char::from_u32(u32::from_str_radix(&code, 16).ok()?)?);
                }
                _ => return None,
            },
            other => pattern.push(other),
        }
    }
    Some(pattern)
}

/// Headers are read one by one where each is asked for by its name.
fn headers(text: &str) -> Headers {
    const NAME: &str = "headers";
    let by_name = text.match_indices(NAME).all(|(at, _)| {
        let before = text.get(..at).unwrap_or_default();
        let behind = text.get(at.saturating_add(NAME.len())..).unwrap_or_default();
        behind.starts_with('[') || before.ends_with("' in request.")
    });
    if by_name { Headers::Some } else { Headers::All }
}

/// The stream of the callback that runs. Values of expressions must be `Send` and `Sync`, which a stream is not, so they look it up
/// in their thread.
#[derive(Debug, Clone, Copy)]
struct On {
    stream: StreamInThread,
}

#[derive(Debug, Clone, Copy)]
struct StreamInThread(bool);

impl StreamInThread {
    fn of(stream: Option<Stream>) -> Self {
        STREAM.set(stream);
        Self(stream.is_some())
    }

    fn get(self) -> Option<Stream> {
        STREAM.get().filter(|_| self.0)
    }
}

thread_local! {
    static STREAM: std::cell::Cell<Option<Stream>> = const { std::cell::Cell::new(None) };
}

struct Resolver {
    on: On,
    headers: Headers,
    claims: Option<Arc<Box<dyn Val>>>,
    text: Option<String>,
}

impl VariableResolver for Resolver {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        let group = |prefix| Some(CowVal::owned(Group { prefix, headers: self.headers, on: self.on }));
        match name {
            CLAIMS if self.claims.is_some() => {
                self.claims.as_ref().map(|claims| CowVal::Borrowed(&***claims))
            }
            TEXT if self.text.is_some() => {
                self.text.as_deref().map(|text| CowVal::owned(CelString::from(text)))
            }
            "request" => group("request"),
            "response" => group("response"),
            "source" => group("source"),
            "destination" => group("destination"),
            "connection" => group("connection"),
            "upstream" => group("upstream"),
            "xds" => group("xds"),
            FILTER_STATE => group(FILTER_STATE),
            _ => {
                let value = self.on.stream.get()?.filter_state(&of_plugin(name))?;
                // Those of another native filter.
                if name == CLAIMS {
                    return claims::value(&value)?.try_into().ok().map(CowVal::Owned);
                }
                Some(text(value))
            }
        }
    }
}

const FILTER_STATE: &str = "filter_state";
const HEADERS: &str = "request.headers";

/// Attributes whose names begin alike, or the request's headers, or filter state.
#[derive(Debug, Clone, Copy)]
struct Group {
    prefix: &'static str,
    headers: Headers,
    on: On,
}

impl Group {
    fn find(&self, name: &str) -> Option<CowVal<'static, 'static>> {
        let stream = self.on.stream.get()?;
        match (self.prefix, name) {
            (FILTER_STATE, key) => stream.filter_state(key.as_bytes()).map(text),
            (HEADERS, name) => stream.header_joined(&name.to_ascii_lowercase()).map(text),
            ("request", "headers") if self.headers == Headers::All => {
                let mut map: HashMap<Key, Value> = HashMap::new();
                for (name, _) in &stream.headers(Map::Request)? {
                    let name = std::str::from_utf8(name).ok()?;
                    let value = String::from_utf8(stream.header_joined(name)?).ok()?;
                    map.insert(Key::from(name.to_owned()), Value::String(Arc::new(value)));
                }
                Value::Map(map.into()).try_into().ok().map(CowVal::Owned)
            }
            ("request", "headers") => Some(CowVal::owned(Self { prefix: HEADERS, ..*self })),
            (group, name) => {
                stream.attribute(attributes::number(group, name)?).map(|attribute| match attribute {
                    Attribute::Text(value) => text(value),
                    Attribute::Number(number) => i64::try_from(number).map_or_else(
                        |_| CowVal::owned(cel::common::types::CelUInt::from(number)),
                        |number| CowVal::owned(cel::common::types::CelInt::from(number)),
                    ),
                    Attribute::Truth(truth) => CowVal::owned(cel::common::types::CelBool::from(truth)),
                })
            }
        }
    }
}

/// A text, or bytes that are none.
fn text(value: Vec<u8>) -> CowVal<'static, 'static> {
    match String::from_utf8(value) {
        Ok(text) => CowVal::owned(CelString::from(text)),
        Err(error) => CowVal::owned(CelBytes::from(error.into_bytes())),
    }
}

fn name(value: &dyn Val) -> Result<String, ExecutionError> {
    match value.downcast_ref::<CelString>() {
        Some(name) => Ok(name.inner().to_owned()),
        None => Err(ExecutionError::UnexpectedType {
            got: value.get_type().name().to_owned(),
            want: "string".to_owned(),
        }),
    }
}

impl Val for Group {
    fn get_type(&self) -> &Type {
        <Self as Val>::cel_type()
    }

    fn cel_type() -> &'static Type {
        &DYN_TYPE
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(*self)
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Group {}

impl Container for Group {
    fn contains(&self, value: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(self.find(&name(value)?).is_some())
    }
}

impl Indexer for Group {
    fn get<'b, 'v>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let name = name(index)?;
        self.find(&name).ok_or_else(|| ExecutionError::no_such_key(&name))
    }

    fn steal<'v>(self: Box<Self>, index: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(index).map(CowVal::into_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::protobuf::Message;

    fn value(expression: &str, variables: &Variables) -> Option<String> {
        let value = Expression::compile(expression)?.evaluate(None, variables)?;
        Some(String::from_utf8(value).unwrap())
    }

    #[test]
    fn claims_have_their_types() {
        let entry = |name: &str, value: Message| Message::default().text(1, name).message(2, &value);
        let claims = Message::default()
            .message(1, &entry("sub", Message::default().text(3, "alice")))
            .message(1, &entry("level", Message::default().double(2, 2.5)))
            .message(1, &entry("admin", Message::default().present_number(4, 1)))
            .message(
                1,
                &entry(
                    "plans",
                    Message::default()
                        .message(6, &Message::default().message(1, &Message::default().text(3, "pro"))),
                ),
            )
            .message(
                1,
                &entry(
                    "org",
                    Message::default().message(
                        5,
                        &Message::default().message(1, &entry("id", Message::default().text(3, "x"))),
                    ),
                ),
            );
        let mut variables = Variables::default();
        assert!(variables.set(CLAIMS, &claims.into_bytes()));
        for (expression, expected) in [
            ("jwt.sub", "alice"),
            ("jwt.level > 2.0 && jwt.admin ? 'yes' : 'no'", "yes"),
            ("'pro' in jwt.plans && jwt.org.id == 'x' && !has(jwt.email) ? 'yes' : 'no'", "yes"),
            ("jwt.plans.exists(plan, plan.startsWith('p')) ? 'yes' : 'no'", "yes"),
        ] {
            assert_eq!(value(expression, &variables).as_deref(), Some(expected), "{expression}");
        }
        assert_eq!(value("jwt.email", &variables), None);
        assert!(!variables.set(CLAIMS, b"\x0a\x05x"));
    }

    #[test]
    fn a_text_is_matched_by_a_regular_expression_that_was_compiled_before() {
        let mut variables = Variables::default();
        variables.set(TEXT, b"/it's/1");
        let compiled = Expression::compile(r"normalized_path.matches('^(?:/it\'s/[0-9]+)$')");
        assert!(
            matches!(&compiled, Some(Expression::Matches(regex)) if regex.as_str() == "^(?:/it's/[0-9]+)$")
        );
        assert_eq!(compiled.unwrap().evaluate(None, &variables), Some(vec![1]));
        assert!(Expression::compile("''.matches('(')").is_none());
        assert!(matches!(
            Expression::compile("normalized_path.matches('a') || 'x'.matches('b')"),
            Some(Expression::Program(..))
        ));
    }

    #[test]
    fn an_expression_that_envoy_refuses_is_refused() {
        for wrong in ["a ==", "(", "true) || (true", "'a'.split('a')[0] == 'b'"] {
            assert!(Expression::compile(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn headers_are_read_one_by_one_where_each_has_a_name() {
        for (text, expected) in [
            ("request.headers['a'] == 'b'", Headers::Some),
            ("'a' in request.headers ? request.headers['a'] : ''", Headers::Some),
            ("request.headers.exists(h, h == 'a')", Headers::All),
            ("size(request.headers) > 3", Headers::All),
            ("'a' in request.headers && request.headers.all(h, h != 'b')", Headers::All),
        ] {
            assert_eq!(headers(text), expected, "{text}");
        }
    }
}
