//! What a shell calls: the names of the seam, see [`host`](crate::host). A call acts on the stream or the filter whose callback is
//! running in this thread.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

use smallvec::SmallVec;

use super::cel::{Expression, Variables};
use super::config::{Mailbox, Shared};
use super::ffi::config::{Kind, MainThread, Message};
use super::ffi::stream::{Attribute, Map, Stream};
use super::outside::{self, Answer, Caller};
use super::{crypto, node, shared};
use crate::host::{Environment, GrpcMethod, HostError, RequestHost, SharedValue, Variable};
use crate::reply::Reply;
use crate::request::cel::{CLAIMS, attributes};
use crate::request::headers::HeaderMap;
use crate::wire::protobuf::{Fields, Value};

type Result<T> = std::result::Result<T, HostError>;

/// A filter in a thread, as calls know it.
pub(super) struct Root {
    pub(super) config: Arc<Shared>,
    pub(super) mailbox: Arc<Mailbox>,
    /// The streams that wait.
    pub(super) handles: RefCell<HashMap<u32, Stream>>,
    expressions: RefCell<Vec<Expression>>,
    /// There while the proxy's configuration is being made, which is when statistics can be defined.
    making: Cell<Option<MainThread>>,
}

impl Root {
    pub(super) fn new(config: Arc<Shared>, main: Option<MainThread>) -> Self {
        let mailbox = config.mailbox();
        Self {
            config,
            mailbox,
            handles: RefCell::default(),
            expressions: RefCell::default(),
            making: Cell::new(main),
        }
    }

    /// The filter is configured.
    pub(super) fn made(&self) {
        self.making.set(None);
    }
}

/// Whose callback is running.
pub(super) struct Current {
    root: Rc<Root>,
    /// The stream of the callback.
    own: Option<(u32, Stream)>,
    /// The stream on which calls act.
    effective: Option<Stream>,
    /// What its expressions see.
    pub(super) variables: Variables,
    /// The request's headers were changed.
    changed: bool,
    /// The reply that is shown as the response.
    pub(super) reply: Option<Reply>,
    /// The outcome of an HTTP call.
    pub(super) answer: Option<Arc<Answer>>,
    /// The outcome of a gRPC call.
    pub(super) message: Vec<u8>,
}

impl Current {
    pub(super) fn new(root: &Rc<Root>, own: Option<(u32, Stream)>) -> Self {
        Self {
            root: Rc::clone(root),
            own,
            effective: own.map(|(_, stream)| stream),
            variables: Variables::default(),
            changed: false,
            reply: None,
            answer: None,
            message: Vec::new(),
        }
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// Runs what is the filter's own; `None` where it panics. The panic's message, which may hold anything, goes nowhere.
pub(super) fn caught<T>(run: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(run)).ok()
}

/// Runs a callback; `None` where it panics. One within another, such as that of a response within the one that sends it, has a
/// current of its own.
pub(super) fn within<T>(current: Current, run: impl FnOnce() -> T) -> Option<(T, Current)> {
    let outer = CURRENT.replace(Some(current));
    let answer = caught(run);
    let ended = CURRENT.replace(outer)?;
    if let (true, Some((_, stream))) = (ended.changed, ended.own) {
        stream.clear_route();
    }
    Some((answer?, ended))
}

/// What the running callback has. `read` must not call the filter.
fn current<T>(call: &'static str, read: impl FnOnce(&mut Current) -> T) -> Result<T> {
    let answer = CURRENT.with_borrow_mut(|current| current.as_mut().map(read));
    answer.ok_or(HostError { call, status: HostError::BAD_ARGUMENT })
}

/// The stream on which a call acts.
fn stream(call: &'static str) -> Result<Stream> {
    current(call, |current| current.effective)?.ok_or(HostError { call, status: HostError::BAD_ARGUMENT })
}

fn done(call: &'static str, done: bool) -> Result<()> {
    if done { Ok(()) } else { Err(HostError { call, status: HostError::INTERNAL_FAILURE }) }
}

/// Whether a request is one of gRPC, by the rule of the proxy.
pub(super) fn is_grpc(stream: Stream) -> bool {
    let is_grpc = |media_type: &[u8]| {
        let rest = media_type.strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    };
    stream.header(Map::Request, "content-type", is_grpc).unwrap_or(false)
}

/// The host of the stream whose callback is running.
pub(super) struct NativeHost;

impl RequestHost for NativeHost {
    fn headers(&self) -> Result<HeaderMap> {
        const CALL: &str = "get_header_map_pairs";
        stream(CALL)?
            .headers(Map::Request)
            .ok_or(HostError { call: CALL, status: HostError::INTERNAL_FAILURE })
    }

    fn header_first(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(stream("get_header_map_value")?.header(Map::Request, name, <[u8]>::to_vec))
    }

    fn header_joined(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(stream("get_property")?.header_joined(name))
    }

    fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>> {
        property(path)
    }

    fn evaluate(&self, expression: u32, variable: Option<Variable<'_>>) -> Result<Option<Vec<u8>>> {
        evaluate(expression, variable)
    }

    fn unix_time(&self) -> Result<Duration> {
        let failed =
            |_| HostError { call: "get_current_time_nanoseconds", status: HostError::INTERNAL_FAILURE };
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(failed)
    }

    fn monotonic_time(&self) -> Result<Duration> {
        monotonic_time()
    }
}

fn property(path: &[&str]) -> Result<Option<Vec<u8>>> {
    if let ["xds", "node", rest @ ..] = path {
        return Ok(node::property(rest));
    }
    let stream = stream("get_property")?;
    Ok(match path {
        ["request", "headers", name] => stream.header_joined(name),
        ["filter_state", key] => stream.filter_state(key.as_bytes()),
        [key] => stream.filter_state(&of_plugin(key)),
        [group, name] => {
            attributes::number(group, name).and_then(|id| stream.attribute(id)).map(|value| match value {
                // Numbers and truths as Wasm plugins get them.
                Attribute::Text(text) => text,
                Attribute::Number(number) => number.to_le_bytes().to_vec(),
                Attribute::Truth(truth) => vec![u8::from(truth)],
            })
        }
        _ => None,
    })
}

/// Time on the proxy's monotonic clock, see [`RequestHost::monotonic_time`].
pub fn monotonic_time() -> Result<Duration> {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    Ok(START.elapsed())
}

/// Bytes that nobody can foresee.
pub fn random() -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    let failed = |_| HostError { call: "random_get", status: HostError::INTERNAL_FAILURE };
    aws_lc_rs::rand::fill(&mut bytes).map_err(failed).map(|()| bytes)
}

/// Writes the filter state `wasm.<key>` of the stream.
pub fn set_filter_state(key: &str, value: &[u8]) -> Result<()> {
    const CALL: &str = "set_property";
    let stream = current(CALL, |current| {
        if key == CLAIMS {
            current.variables.set(key, value);
        }
        current.effective
    })?;
    done(CALL, stream.is_some_and(|stream| stream.set_filter_state(&of_plugin(key), value)))
}

/// The key of a filter state of a plugin: `wasm.<key>`.
pub(super) fn of_plugin(key: &str) -> SmallVec<[u8; 64]> {
    let mut full = SmallVec::from_slice(b"wasm.");
    full.extend_from_slice(key.as_bytes());
    full
}

/// A header map that can be written.
#[derive(Debug, Clone, Copy)]
pub enum Headers {
    /// The request on its way to the service.
    Request,
    /// The response on its way to the client.
    Response,
}

impl Headers {
    fn map(self) -> Map {
        if matches!(self, Self::Request) { Map::Request } else { Map::Response }
    }

    /// Changes the reply that is shown as the response; or else the headers of the stream. `false` if that failed.
    fn change(
        self,
        call: &'static str,
        shown: impl FnOnce(&mut Vec<(String, String)>),
        real: impl FnOnce(Stream, Map) -> bool,
    ) -> Result<()> {
        let changed = current(call, |current| {
            let map = self.map();
            match &mut current.reply {
                Some(reply) if map == Map::Response => {
                    shown(&mut reply.headers);
                    Some(true)
                }
                _ => {
                    current.changed |= map == Map::Request;
                    current.effective.map(|stream| real(stream, map))
                }
            }
        })?;
        done(call, changed.ok_or(HostError { call, status: HostError::BAD_ARGUMENT })?)
    }

    /// Replaces every value of `name` by this one. On a request this also makes Envoy choose the route again.
    pub fn set(self, name: &str, value: &[u8]) -> Result<()> {
        let shown = |headers: &mut Vec<(String, String)>| {
            headers.retain(|(known, _)| known != name);
            headers.push((name.to_owned(), String::from_utf8_lossy(value).into_owned()));
        };
        self.change("replace_header_map_value", shown, |stream, map| {
            stream.set_header(map, name, Some(value))
        })
    }

    /// Adds a value of `name` to those that are there. On a request this also makes Envoy choose the route again.
    pub fn add(self, name: &str, value: &[u8]) -> Result<()> {
        let shown = |headers: &mut Vec<(String, String)>| {
            headers.push((name.to_owned(), String::from_utf8_lossy(value).into_owned()));
        };
        self.change("add_header_map_value", shown, |stream, map| stream.add_header(map, name, value))
    }

    /// Removes every value of `name`. If one is there afterwards, that is an error: the filter has seen it, so it would go on.
    pub fn remove(self, name: &str) -> Result<()> {
        let shown = |headers: &mut Vec<(String, String)>| headers.retain(|(known, _)| known != name);
        self.change("remove_header_map_value", shown, |stream, map| {
            stream.set_header(map, name, None) && stream.header(map, name, |_| ()).is_none()
        })
    }

    /// The first value of `name`.
    pub fn first(self, name: &str) -> Result<Option<Vec<u8>>> {
        const CALL: &str = "get_header_map_value";
        current(CALL, |current| {
            let (stream, map) = (current.effective?, self.map());
            let Some(reply) = current.reply.as_ref().filter(|_| map == Map::Response) else {
                return Some(stream.header(map, name, <[u8]>::to_vec));
            };
            // The proxy answers a call of gRPC with 200, and its own status beside it.
            let status = || if is_grpc(stream) { 200 } else { reply.status };
            let named =
                || reply.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
            let value = if name == ":status" { Some(status().to_string()) } else { named() };
            Some(value.map(String::into_bytes))
        })?
        .ok_or(HostError { call: CALL, status: HostError::BAD_ARGUMENT })
    }
}

/// The environment of a plugin.
pub struct HostEnvironment;

impl Environment for HostEnvironment {
    fn variable(&self, name: &str) -> Option<String> {
        current("", |current| current.root.config.plugin.environment.get(name).cloned()).ok().flatten()
    }

    fn node_id(&self) -> Option<Vec<u8>> {
        node::id()
    }

    fn compile(&self, expression: &str) -> Result<u32> {
        const CALL: &str = "expr_create";
        let wrong = HostError { call: CALL, status: HostError::BAD_ARGUMENT };
        let compiled = Expression::compile(expression).ok_or(wrong)?;
        current(CALL, |current| {
            let mut expressions = current.root.expressions.borrow_mut();
            expressions.push(compiled);
            u32::try_from(expressions.len().saturating_sub(1)).map_err(|_| wrong)
        })?
    }

    fn evaluate(&self, expression: u32) -> Result<Option<Vec<u8>>> {
        evaluate(expression, None)
    }
}

fn evaluate(expression: u32, variable: Option<Variable<'_>>) -> Result<Option<Vec<u8>>> {
    const CALL: &str = "expr_evaluate";
    let failed = |status| HostError { call: CALL, status };
    current(CALL, |Current { root, own, variables, .. }| {
        let expressions = root.expressions.borrow();
        let at = usize::try_from(expression).unwrap_or(usize::MAX);
        let expression = expressions.get(at).ok_or(failed(HostError::NOT_FOUND))?;
        if variable.is_some_and(|(name, value)| !variables.set(name, value)) {
            return Err(failed(HostError::MALFORMED));
        }
        // Of the running callback, whatever the effective context.
        Ok(expression.evaluate(own.map(|(_, stream)| stream), variables))
    })?
}

/// The name of the plugin that is being configured; empty where it has none.
pub fn plugin_name() -> Vec<u8> {
    current("", |current| current.root.config.plugin.name.clone()).unwrap_or_default()
}

/// Tells the host's CEL the types of variables: this one's knows them.
pub fn declare_variables() -> Result<()> {
    Ok(())
}

/// Finds a statistic, or defines it where that is possible.
fn statistic(kind: Kind, name: &str) -> Option<usize> {
    let found = current("define_metric", |current| {
        let (config, main) = (&current.root.config, current.root.making.get());
        config.statistic(kind, name).or_else(|| config.define(main?, kind, name))
    });
    let found = found.ok().flatten();
    if found.is_none() {
        log::warn!("metric {name} is not counted: the proxy did not define it");
    }
    found
}

/// A counter. One that the host did not define counts nothing.
#[derive(Debug, Clone, Copy)]
pub struct Counter(Option<usize>);

impl Counter {
    /// Defines a counter, or finds the one of that name.
    pub fn define(name: &str) -> Self {
        Self(statistic(Kind::Counter, name))
    }

    /// Adds one.
    pub fn increment(self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(self, n: u32) {
        if let Some(id) = self.0.filter(|_| n > 0) {
            // A lost count is not worth a failed request.
            let _ = current("increment_metric", |current| current.root.config.handle.add(id, u64::from(n)));
        }
    }
}

/// A gauge.
#[derive(Debug, Clone, Copy)]
pub struct Gauge(Option<usize>);

impl Gauge {
    /// Defines a gauge, or finds the one of that name.
    pub fn define(name: &str) -> Self {
        Self(statistic(Kind::Gauge, name))
    }

    /// Sets the gauge.
    pub fn set(self, value: u64) {
        if let Some(id) = self.0 {
            // A lost reading is not worth a failed request.
            let _ = current("record_metric", |current| current.root.config.handle.set(id, value));
        }
    }
}

/// Runs `run` with the key under which the plugins with the same `vmId` have a value.
fn with_key<T>(key: &str, run: impl FnOnce(&str) -> T) -> Result<T> {
    let group = current("shared_data", |current| {
        let group = &current.root.config.plugin.group;
        (!group.is_empty()).then(|| format!("{group}\0{key}"))
    })?;
    Ok(run(group.as_deref().unwrap_or(key)))
}

/// Reads shared data.
pub fn shared_data(key: &str) -> Result<Option<SharedValue>> {
    with_key(key, shared::get)
}

/// Writes shared data if nobody has since it was read with `cas`; with 0, whatever it holds. `false` means that
/// somebody has. As in Envoy's, `cas` is ignored where the key is absent.
pub fn set_shared_data(key: &str, bytes: &[u8], cas: u32) -> Result<bool> {
    with_key(key, |key| shared::set(key, bytes, cas))?
}

/// Leaves a call to the main thread and returns its token. It belongs to the filter, whatever `caller` is, so it outlives the
/// stream; all that can fail comes as the outcome.
fn call(call: &'static str, kind: outside::Kind, message: Message) -> Result<u32> {
    let root = current(call, |current| Rc::clone(&current.root))?;
    let token = root.mailbox.token();
    outside::ask(&root.config, kind, message, Caller { mailbox: Arc::clone(&root.mailbox), token });
    Ok(token)
}

/// Starts an HTTP call and returns its token.
pub fn http_call(
    _caller: u32,
    _current: u32,
    cluster: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    timeout: Duration,
) -> Result<u32> {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let message = Message { cluster: cluster.to_owned(), headers, body: body.to_vec(), timeout };
    call("http_call", outside::Kind::Http, message)
}

/// At most `max` bytes of the body of the response to an HTTP call, in its callback.
pub fn call_response_body(max: usize) -> Result<Vec<u8>> {
    let answer = current("get_buffer_bytes", |current| current.answer.clone())?;
    let body = answer.as_ref().map(|answer| &*answer.body).unwrap_or_default();
    Ok(body.get(..max).unwrap_or(body).to_vec())
}

/// Starts a unary gRPC call with a serialised message, as [`http_call`] does.
///
/// # Errors
/// `via` names no cluster.
pub fn grpc_call(
    _caller: u32,
    _current: u32,
    to: GrpcMethod<'_>,
    message: &[u8],
    timeout: Duration,
) -> Result<u32> {
    const CALL: &str = "grpc_call";
    // `GrpcService { envoy_grpc = 1 }`, `EnvoyGrpc { cluster_name = 1, authority = 2 }`.
    let text = |message, number| {
        Fields(message).find_map(|field| match field {
            Ok((known, Value::Bytes(value))) if known == number => Some(value),
            _ => None,
        })
    };
    let service = text(to.via, 1).unwrap_or_default();
    let text = |number| std::str::from_utf8(text(service, number)?).ok();
    let cluster = text(1).ok_or(HostError { call: CALL, status: HostError::BAD_ARGUMENT })?;
    let headers = [
        (":method", "POST".to_owned()),
        (":scheme", "http".to_owned()),
        (":authority", text(2).unwrap_or(cluster).to_owned()),
        (":path", format!("/{}/{}", to.service, to.method)),
        ("te", "trailers".to_owned()),
        ("content-type", "application/grpc".to_owned()),
        ("grpc-timeout", format!("{}m", timeout.as_millis())),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let message = Message { cluster: cluster.to_owned(), headers, body: outside::framed(message), timeout };
    call(CALL, outside::Kind::Grpc, message)
}

/// At most `max` bytes of the message that a gRPC call was answered with, in its callback.
pub fn grpc_message(max: usize) -> Result<Vec<u8>> {
    current("get_buffer_bytes", |current| {
        let message = &current.message;
        message.get(..max).unwrap_or(message).to_vec()
    })
}

/// Makes the following calls act on another stream that waits or is the callback's own, or on none.
pub fn set_effective_context(context: u32) -> Result<()> {
    const CALL: &str = "set_effective_context";
    current(CALL, |current| {
        let own = current.own.filter(|(id, _)| *id == context).map(|(_, stream)| stream);
        current.effective = own.or_else(|| current.root.handles.borrow().get(&context).copied());
        current.effective.is_some() || context == 0
    })
    .and_then(|known| done(CALL, known))
}

/// Makes the following calls act on another stream, and says whether it is there.
pub fn enter_stream(context: u32) -> bool {
    context != 0 && set_effective_context(context).is_ok()
}

/// Calls a function that only some hosts have. This one has `verify_signature`.
pub fn call_foreign_function(name: &str, argument: &[u8]) -> Result<Vec<u8>> {
    match name {
        "verify_signature" => Ok(crypto::verify(argument)),
        _ => Err(HostError { call: "call_foreign_function", status: HostError::NOT_FOUND }),
    }
}
