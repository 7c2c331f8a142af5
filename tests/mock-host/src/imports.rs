//! The host calls `proxy_*` that Envoy gives a module of ABI 0.2.1 (`FOR_ALL_HOST_FUNCTIONS` in proxy-wasm-cpp-host
//! `include/proxy-wasm/exports.h`). Each follows `src/exports.cc` there, then Envoy's
//! `source/extensions/common/wasm/context.cc`.

use std::time::Duration;

use wasmtime::{Caller, Linker};

use crate::abi::{Direction, MapType, Status, marshal_pairs, to_pairs};
use crate::callouts::{Answer, CalloutRequest, Pending};
use crate::faults::Effect;
use crate::foreign;
use crate::headers::HeaderMap;
use crate::local_reply::LocalReply;
use crate::logs::Level;
use crate::metrics::Kind;
use crate::properties::{self, Value};
use crate::stream::Stream;
use crate::vm::{AfterCall, Context, Timer, VmState};

/// Why a host call did not succeed.
pub(crate) enum Failure {
    Status(Status),
    Trap(wasmtime::Error),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<wasmtime::Error> for Failure {
    fn from(error: wasmtime::Error) -> Self {
        Self::Trap(error)
    }
}

type Done = Result<(), Failure>;

/// The guest that makes a host call.
pub(crate) struct Guest<'a> {
    caller: Caller<'a, VmState>,
    spoil: Option<Effect>,
}

impl<'a> Guest<'a> {
    pub(crate) fn new(caller: Caller<'a, VmState>) -> Self {
        Self { caller, spoil: None }
    }

    /// Counts the call, and applies restrictions and faults; `Some` is the whole answer.
    pub(crate) fn enter(&mut self, name: &'static str) -> wasmtime::Result<Option<Status>> {
        let state = self.caller.data_mut();
        if state.restricted && !allowed_when_restricted(name) {
            return Err(wasmtime::Error::msg(format!(
                "{name} is not allowed while the module starts or allocates"
            )));
        }
        let stream = state.context(state.acting()).and_then(|context| context.stream);
        let mut host = state.host.borrow_mut();
        *host.calls.entry(name).or_default() += 1;
        host.moments.insert((state.callback.clone(), name));
        if let Some(stream) = stream.and_then(|id| host.streams.get_mut(&id)) {
            *stream.calls.entry(name).or_default() += 1;
        }
        match host.faults.strike(name, &state.callback) {
            Some(Effect::Status(status)) => Ok(Some(status)),
            _ if !name.starts_with("proxy_") => Ok(None),
            other => {
                drop(host);
                self.spoil = other;
                Ok(None)
            }
        }
    }

    pub(crate) fn state(&mut self) -> &mut VmState {
        self.caller.data_mut()
    }

    fn context(&mut self) -> Option<&mut Context> {
        let state = self.caller.data_mut();
        state.context_mut(state.acting())
    }

    fn root(&mut self) -> Option<(u32, &mut Context)> {
        let state = self.caller.data_mut();
        let root = state.context(state.acting())?.root;
        Some((root, state.context_mut(root)?))
    }

    /// Does something with the stream of the acting context, if it has one.
    fn with_stream<T>(&mut self, act: impl FnOnce(&mut Stream) -> T) -> Option<T> {
        let id = self.context()?.stream?;
        let mut host = self.caller.data().host.borrow_mut();
        host.streams.get_mut(&id).map(act)
    }

    /// `WasmVm::getMemory`.
    pub(crate) fn read(&self, pointer: u32, size: u32) -> Result<Vec<u8>, Status> {
        let memory = self.caller.data().memory.ok_or(Status::INVALID_MEMORY_ACCESS)?;
        let start = usize::try_from(pointer).map_err(|_| Status::INVALID_MEMORY_ACCESS)?;
        let size = usize::try_from(size).map_err(|_| Status::INVALID_MEMORY_ACCESS)?;
        let end = start.checked_add(size).ok_or(Status::INVALID_MEMORY_ACCESS)?;
        memory.data(&self.caller).get(start..end).map(<[u8]>::to_vec).ok_or(Status::INVALID_MEMORY_ACCESS)
    }

    pub(crate) fn read_text(&self, pointer: u32, size: u32) -> Result<String, Status> {
        self.read(pointer, size).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// `WasmVm::setMemory`.
    pub(crate) fn write(&mut self, pointer: u32, bytes: &[u8]) -> Result<(), Status> {
        let memory = self.caller.data().memory.ok_or(Status::INVALID_MEMORY_ACCESS)?;
        let start = usize::try_from(pointer).map_err(|_| Status::INVALID_MEMORY_ACCESS)?;
        memory.write(&mut self.caller, start, bytes).map_err(|_| Status::INVALID_MEMORY_ACCESS)
    }

    pub(crate) fn write_word(&mut self, pointer: u32, word: u32) -> Result<(), Status> {
        self.write(pointer, &word.to_le_bytes())
    }

    /// `WasmBase::allocMemory`, then a copy.
    pub(crate) fn allocate(&mut self, bytes: &[u8]) -> Result<u32, Failure> {
        let allocate = self.caller.data().allocate.clone().ok_or(Status::INVALID_MEMORY_ACCESS)?;
        let size = u32::try_from(bytes.len()).map_err(|_| Status::INVALID_MEMORY_ACCESS)?;
        self.state().restricted = true;
        let pointer = allocate.call(&mut self.caller, size);
        self.state().restricted = false;
        let pointer = pointer?;
        if pointer == 0 {
            return Err(Status::INVALID_MEMORY_ACCESS.into());
        }
        self.write(pointer, bytes)?;
        Ok(pointer)
    }

    /// `WasmBase::copyToPointerSize`: nothing is allocated for an empty value, its pointer is null.
    fn give(&mut self, bytes: &[u8], pointer_to: u32, size_to: u32) -> Done {
        let spoiled = match self.spoil.take() {
            Some(Effect::Replace(other)) => Some(other),
            Some(Effect::Truncate(length)) => Some(bytes[..length.min(bytes.len())].to_vec()),
            _ => None,
        };
        let bytes = spoiled.as_deref().unwrap_or(bytes);
        let pointer = if bytes.is_empty() { 0 } else { self.allocate(bytes)? };
        self.write_word(pointer_to, pointer)?;
        self.write_word(size_to, u32::try_from(bytes.len()).map_err(|_| Status::INVALID_MEMORY_ACCESS)?)?;
        Ok(())
    }
}

/// What the guest may call while its allocator or start function runs (`setRestrictedCallback` in `src/wasm.cc`).
fn allowed_when_restricted(name: &str) -> bool {
    matches!(
        name,
        "proxy_log"
            | "fd_write"
            | "args_sizes_get"
            | "args_get"
            | "environ_sizes_get"
            | "environ_get"
            | "fd_prestat_get"
            | "fd_prestat_dir_name"
            | "clock_time_get"
            | "random_get"
    )
}

/// Gives a linker the host calls.
pub(crate) fn link(linker: &mut Linker<VmState>) -> wasmtime::Result<()> {
    macro_rules! define {
        ($($name:ident($($argument:ident: $type:ty),*);)*) => {$(
            linker.func_wrap(
                "env",
                concat!("proxy_", stringify!($name)),
                |caller: Caller<'_, VmState>, $($argument: $type),*| -> wasmtime::Result<u32> {
                    let mut guest = Guest::new(caller);
                    if let Some(status) = guest.enter(concat!("proxy_", stringify!($name)))? {
                        return Ok(status.0);
                    }
                    match $name(&mut guest, $($argument),*) {
                        Ok(()) => Ok(Status::OK.0),
                        Err(Failure::Status(status)) => Ok(status.0),
                        Err(Failure::Trap(error)) => Err(error),
                    }
                },
            )?;
        )*};
    }
    define! {
        log(level: u32, text: u32, size: u32);
        get_log_level(to: u32);
        get_status(code_to: u32, pointer_to: u32, size_to: u32);
        set_property(path: u32, path_size: u32, value: u32, value_size: u32);
        get_property(path: u32, path_size: u32, pointer_to: u32, size_to: u32);
        send_local_response(status: u32, details: u32, details_size: u32, body: u32, body_size: u32,
            headers: u32, headers_size: u32, grpc_status: u32);
        get_shared_data(key: u32, key_size: u32, pointer_to: u32, size_to: u32, cas_to: u32);
        set_shared_data(key: u32, key_size: u32, value: u32, value_size: u32, cas: u32);
        register_shared_queue(name: u32, name_size: u32, token_to: u32);
        resolve_shared_queue(vm_id: u32, vm_id_size: u32, name: u32, name_size: u32, token_to: u32);
        dequeue_shared_queue(token: u32, pointer_to: u32, size_to: u32);
        enqueue_shared_queue(token: u32, value: u32, value_size: u32);
        get_header_map_value(kind: u32, name: u32, name_size: u32, pointer_to: u32, size_to: u32);
        add_header_map_value(kind: u32, name: u32, name_size: u32, value: u32, value_size: u32);
        replace_header_map_value(kind: u32, name: u32, name_size: u32, value: u32, value_size: u32);
        remove_header_map_value(kind: u32, name: u32, name_size: u32);
        get_header_map_pairs(kind: u32, pointer_to: u32, size_to: u32);
        set_header_map_pairs(kind: u32, pairs: u32, pairs_size: u32);
        get_header_map_size(kind: u32, to: u32);
        get_buffer_status(kind: u32, length_to: u32, flags_to: u32);
        get_buffer_bytes(kind: u32, start: u32, length: u32, pointer_to: u32, size_to: u32);
        set_buffer_bytes(kind: u32, start: u32, length: u32, data: u32, data_size: u32);
        http_call(cluster: u32, cluster_size: u32, headers: u32, headers_size: u32, body: u32, body_size: u32,
            trailers: u32, trailers_size: u32, timeout: u32, token_to: u32);
        grpc_call(service: u32, service_size: u32, name: u32, name_size: u32, method: u32, method_size: u32,
            metadata: u32, metadata_size: u32, message: u32, message_size: u32, timeout: u32, token_to: u32);
        grpc_stream(service: u32, service_size: u32, name: u32, name_size: u32, method: u32, method_size: u32,
            metadata: u32, metadata_size: u32, token_to: u32);
        grpc_cancel(token: u32);
        grpc_close(token: u32);
        grpc_send(token: u32, message: u32, message_size: u32, end_stream: u32);
        set_tick_period_milliseconds(period: u32);
        get_current_time_nanoseconds(to: u32);
        define_metric(kind: u32, name: u32, name_size: u32, to: u32);
        increment_metric(id: u32, offset: i64);
        record_metric(id: u32, value: u64);
        get_metric(id: u32, to: u32);
        set_effective_context(context: u32);
        done();
        call_foreign_function(name: u32, name_size: u32, argument: u32, argument_size: u32,
            pointer_to: u32, size_to: u32);
        continue_stream(kind: u32);
        close_stream(kind: u32);
    }
    Ok(())
}

// Logs, time, timers, metrics.

fn log(guest: &mut Guest, level: u32, text: u32, size: u32) -> Done {
    let level = Level::new(level).ok_or(Status::BAD_ARGUMENT)?;
    let message = guest.read_text(text, size)?;
    guest.state().log(level, message);
    Ok(())
}

/// Everything is logged here, so the level is trace.
fn get_log_level(guest: &mut Guest, to: u32) -> Done {
    Ok(guest.write_word(to, Level::Trace as u32)?)
}

#[allow(clippy::unnecessary_wraps, reason = "the form of all host calls")]
fn set_tick_period_milliseconds(guest: &mut Guest, period: u32) -> Done {
    let Some((root, _)) = guest.root() else { return Ok(()) };
    let state = guest.state();
    let period = Duration::from_millis(u64::from(period));
    let now = state.host.borrow().clock.monotonic();
    // `Wasm::setTimerPeriod` (Envoy wasm.cc): a period of 0 stops the timer, another starts it anew.
    if period.is_zero() {
        state.timers.remove(&root);
    } else {
        state.timers.insert(root, Timer { period, due: now + period });
    }
    Ok(())
}

fn get_current_time_nanoseconds(guest: &mut Guest, to: u32) -> Done {
    let now = guest.state().host.borrow().clock.wall();
    let nanoseconds = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    Ok(guest.write(to, &nanoseconds.to_le_bytes())?)
}

fn define_metric(guest: &mut Guest, kind: u32, name: u32, name_size: u32, to: u32) -> Done {
    let name = guest.read_text(name, name_size)?;
    let state = guest.state();
    let id = state.metric_ids.define(kind, &name)?;
    state.host.borrow_mut().metrics.define(Kind::try_from(kind)?, &name);
    Ok(guest.write_word(to, id)?)
}

fn increment_metric(guest: &mut Guest, id: u32, offset: i64) -> Done {
    let state = guest.state();
    Ok(state.host.borrow_mut().metrics.increment(&state.metric_ids, id, offset)?)
}

fn record_metric(guest: &mut Guest, id: u32, value: u64) -> Done {
    let state = guest.state();
    Ok(state.host.borrow_mut().metrics.record(&state.metric_ids, id, value)?)
}

fn get_metric(guest: &mut Guest, id: u32, to: u32) -> Done {
    let state = guest.state();
    let value = state.host.borrow().metrics.get(&state.metric_ids, id)?;
    Ok(guest.write(to, &value.to_le_bytes())?)
}

// Properties.

fn set_property(guest: &mut Guest, path: u32, path_size: u32, value: u32, value_size: u32) -> Done {
    let path = guest.read_text(path, path_size)?;
    let value = guest.read(value, value_size)?;
    let prototype =
        guest.root().and_then(|(_, root)| root.prototypes.get(&path).cloned()).unwrap_or_default();
    // `Context::setProperty`: without a stream there is no filter state.
    let set = guest.with_stream(|stream| stream.filter_state.set_property(&path, &value, &prototype));
    Ok(set.unwrap_or(Err(Status::NOT_FOUND))?)
}

fn get_property(guest: &mut Guest, path: u32, path_size: u32, pointer_to: u32, size_to: u32) -> Done {
    let path = properties::parts(&guest.read(path, path_size)?);
    let Some((name, rest)) = path.split_first() else { return Err(Status::SERIALIZATION_FAILURE.into()) };
    let top = find_value(guest, name).ok_or(Status::NOT_FOUND)?;
    let value = properties::descend(top, rest)?.serialize()?;
    guest.give(&value, pointer_to, size_to)
}

/// `Context::findValue`: first the attributes (`StreamActivation::FindValue`; all but `xds` need a stream), then
/// filter state, then what Wasm adds.
pub(crate) fn find_value(guest: &mut Guest, name: &str) -> Option<Value> {
    let context = guest.context()?;
    let (plugin, requests, responses, log) =
        (context.plugin.clone(), context.request_headers, context.response_headers, context.access_log);
    let node = guest.state().host.borrow().node.clone();
    if name == "xds" {
        // `xds.node` needs the plugin's local info, which the VM's own context has not.
        let node = plugin.is_some().then(|| ("node".to_owned(), node));
        let route = guest.with_stream(|stream| stream.route.attributes()).unwrap_or_default();
        return Some(Value::Map(node.into_iter().chain(route).collect()));
    }
    let found = guest.with_stream(|stream| {
        let request = (requests || log).then_some(&stream.request);
        let response = stream.response.as_ref().filter(|_| responses || log);
        match name {
            "request" => {
                let value = properties::request(request, stream.request_body.len(), stream.start);
                // `RequestWrapper`: the duration is known when the request is complete.
                let duration = stream.has_ended().then(|| ("duration".to_owned(), Value::Int(1)));
                Some(value.with(duration))
            }
            "response" => {
                let details = stream.details.as_deref();
                Some(properties::response(
                    response,
                    stream.response_code(),
                    details,
                    stream.response_body.len(),
                ))
            }
            "connection" => Some(stream.connection.attributes()),
            "source" => Some(properties::peer(&stream.connection.source)),
            "destination" => Some(properties::peer(&stream.connection.destination)),
            "upstream" | "metadata" | "upstream_filter_state" => Some(Value::Map(Vec::new())),
            "filter_state" => {
                let values = stream.filter_state.values().into_iter();
                Some(Value::Map(values.map(|(key, value)| (key, Value::Bytes(value))).collect()))
            }
            "connection_id" => Some(Value::Uint(stream.connection.id)),
            _ => stream.filter_state.property(name).map(|value| Value::Bytes(value.to_vec())),
        }
    });
    if let Some(found) = found.flatten() {
        return Some(found);
    }
    match name {
        "plugin_name" => plugin.map(|plugin| plugin.name.as_str().into()),
        // Only a root context has a root ID of its own (`ContextBase::root_id`: a stream asks its root).
        "plugin_root_id" => plugin.map(|plugin| plugin.root_id.as_str().into()),
        "plugin_vm_id" => Some(guest.state().vm_id.as_str().into()),
        _ => None,
    }
}

// Streams.

fn continue_stream(guest: &mut Guest, kind: u32) -> Done {
    let direction = match kind {
        0 => Direction::Request,
        1 => Direction::Response,
        2 => return Ok(()),
        3 => return Err(Status::UNIMPLEMENTED.into()),
        _ => return Err(Status::BAD_ARGUMENT.into()),
    };
    let state = guest.state();
    let acting = state.acting();
    if let Some(context) = state.context_mut(acting) {
        // `Context::continueStream` forgets the request's parts, whichever direction goes on.
        context.request_headers = false;
        context.request_body = false;
        if context.stream.is_some() {
            state.after_call.push_back(AfterCall::Continue { context: acting, direction });
        }
    }
    Ok(())
}

fn close_stream(guest: &mut Guest, kind: u32) -> Done {
    if kind > 3 {
        return Err(Status::BAD_ARGUMENT.into());
    }
    let state = guest.state();
    let context = state.acting();
    if kind < 2 && state.context(context).is_some_and(|context| context.stream.is_some()) {
        state.after_call.push_back(AfterCall::Reset { context });
    }
    Ok(())
}

#[allow(clippy::too_many_arguments, reason = "the ABI's")]
fn send_local_response(
    guest: &mut Guest,
    status: u32,
    details: u32,
    details_size: u32,
    body: u32,
    body_size: u32,
    headers: u32,
    headers_size: u32,
    grpc_status: u32,
) -> Done {
    let details = guest.read_text(details, details_size)?;
    let body = guest.read(body, body_size)?;
    let headers = to_pairs(&guest.read(headers, headers_size)?);
    let state = guest.state();
    let context = state.acting();
    // A context without a stream has no decoder callbacks: the call succeeds and does nothing.
    if state.context(context).is_some_and(|context| context.stream.is_some()) {
        let reply = LocalReply::new(status, grpc_status, headers, body, &details);
        state.after_call.push_back(AfterCall::LocalReply { context, reply });
    }
    // `stopNextIteration`: whatever the callback answers, its filter chain stops.
    state.stop_iteration = true;
    Ok(())
}

fn set_effective_context(guest: &mut Guest, context: u32) -> Done {
    let state = guest.state();
    if state.context(context).is_none() {
        return Err(Status::BAD_ARGUMENT.into());
    }
    state.effective = context;
    Ok(())
}

/// `WasmBase::done`: only for a root that answered false to `proxy_on_done`.
fn done(guest: &mut Guest) -> Done {
    let state = guest.state();
    let root = state.acting();
    let index = state.pending_done.iter().position(|pending| *pending == root).ok_or(Status::NOT_FOUND)?;
    state.pending_done.remove(index);
    state.after_call.push_back(AfterCall::DeleteRoot { root });
    Ok(())
}

// Header maps.

/// `Context::getConstMap`.
fn map(guest: &mut Guest, kind: MapType) -> Option<HeaderMap> {
    let context = guest.context()?;
    let (requests, responses, log) = (context.request_headers, context.response_headers, context.access_log);
    match kind {
        MapType::RequestHeaders if requests || log => guest.with_stream(|stream| stream.request.clone()),
        MapType::ResponseHeaders if responses || log => {
            guest.with_stream(|stream| stream.response.clone())?
        }
        MapType::HttpCallResponseHeaders => guest
            .root()
            .and_then(|(_, root)| root.call_response.as_ref())
            .map(|response| response.headers.clone()),
        _ => None,
    }
}

/// `Context::getMap`, and `onHeadersModified`: a changed request header clears the route cache (seen in Envoy
/// 1.39 with ABI 0.2.1).
fn change_map(guest: &mut Guest, kind: u32, change: impl FnOnce(&mut HeaderMap)) -> Done {
    let kind = MapType::new(kind)?;
    let context = guest.context().ok_or(Status::BAD_ARGUMENT)?;
    let there = match kind {
        MapType::RequestHeaders => context.request_headers,
        MapType::ResponseHeaders => context.response_headers,
        _ => false,
    };
    let changed = guest.with_stream(|stream| {
        if !there {
            return None;
        }
        if kind == MapType::RequestHeaders {
            change(&mut stream.request);
            stream.route_cache_cleared = true;
        } else {
            change(stream.response.as_mut()?);
        }
        Some(())
    });
    Ok(changed.flatten().ok_or(Status::BAD_ARGUMENT)?)
}

fn get_header_map_value(
    guest: &mut Guest,
    kind: u32,
    name: u32,
    name_size: u32,
    pointer_to: u32,
    size_to: u32,
) -> Done {
    let kind = MapType::new(kind)?;
    let name = guest.read_text(name, name_size)?;
    let Some(map) = map(guest, kind) else {
        let log = guest.context().is_some_and(|context| context.access_log);
        return Err(if log { Status::NOT_FOUND } else { Status::BAD_ARGUMENT }.into());
    };
    let value = map.get_bytes(&name).ok_or(Status::NOT_FOUND)?;
    guest.give(value, pointer_to, size_to)
}

fn add_header_map_value(
    guest: &mut Guest,
    kind: u32,
    name: u32,
    name_size: u32,
    value: u32,
    value_size: u32,
) -> Done {
    let name = guest.read_text(name, name_size)?;
    let value = guest.read(value, value_size)?;
    change_map(guest, kind, |map| map.add(&name, value))
}

fn replace_header_map_value(
    guest: &mut Guest,
    kind: u32,
    name: u32,
    name_size: u32,
    value: u32,
    value_size: u32,
) -> Done {
    let name = guest.read_text(name, name_size)?;
    let value = guest.read(value, value_size)?;
    change_map(guest, kind, |map| map.set(&name, value))
}

fn remove_header_map_value(guest: &mut Guest, kind: u32, name: u32, name_size: u32) -> Done {
    let name = guest.read_text(name, name_size)?;
    change_map(guest, kind, |map| map.remove(&name))
}

/// A map that is not there is an empty one, and no error (`headerMapToPairs`).
fn get_header_map_pairs(guest: &mut Guest, kind: u32, pointer_to: u32, size_to: u32) -> Done {
    let kind = MapType::new(kind)?;
    let map = map(guest, kind).unwrap_or_default();
    let bytes = if map.is_empty() { Vec::new() } else { marshal_pairs(map.pairs()) };
    guest.give(&bytes, pointer_to, size_to)
}

fn set_header_map_pairs(guest: &mut Guest, kind: u32, pairs: u32, pairs_size: u32) -> Done {
    let pairs = to_pairs(&guest.read(pairs, pairs_size)?);
    change_map(guest, kind, |map| *map = pairs.into_iter().collect())
}

/// `Context::getHeaderMapSize` asks `getMap`, so callout responses have no size.
fn get_header_map_size(guest: &mut Guest, kind: u32, to: u32) -> Done {
    let kind = MapType::new(kind)?;
    let context = guest.context().ok_or(Status::BAD_ARGUMENT)?;
    let there = match kind {
        MapType::RequestHeaders => context.request_headers,
        MapType::ResponseHeaders => context.response_headers,
        _ => false,
    };
    let map = map(guest, kind).filter(|_| there).ok_or(Status::BAD_ARGUMENT)?;
    Ok(guest.write_word(to, u32::try_from(map.byte_size()).unwrap_or(u32::MAX))?)
}

// Buffers.

/// `Context::getBuffer`: `None` is a null buffer.
fn buffer(guest: &mut Guest, kind: u32) -> Result<Option<Vec<u8>>, Status> {
    let Some(context) = guest.context() else { return Ok(None) };
    let (request, response) = (context.request_body, context.response_body);
    Ok(match kind {
        0 => Some(
            guest.with_stream(|stream| stream.request_body.clone()).filter(|_| request).unwrap_or_default(),
        ),
        1 => Some(
            guest.with_stream(|stream| stream.response_body.clone()).filter(|_| response).unwrap_or_default(),
        ),
        2 | 3 | 8 => Some(Vec::new()),
        4 => guest
            .root()
            .and_then(|(_, root)| root.call_response.as_ref())
            .map(|response| response.body.clone()),
        5 => Some(guest.root().and_then(|(_, root)| root.grpc_message.clone()).unwrap_or_default()),
        6 => Some(guest.state().vm_configuration.clone()),
        7 => {
            context.plugin.as_ref().filter(|_| context.configuring).map(|plugin| plugin.configuration.clone())
        }
        _ => return Err(Status::BAD_ARGUMENT),
    })
}

fn get_buffer_status(guest: &mut Guest, kind: u32, length_to: u32, flags_to: u32) -> Done {
    let buffer = buffer(guest, kind)?.ok_or(Status::NOT_FOUND)?;
    guest.write_word(length_to, u32::try_from(buffer.len()).unwrap_or(u32::MAX))?;
    Ok(guest.write_word(flags_to, 0)?)
}

/// A range beyond the end is cut, not refused.
fn get_buffer_bytes(
    guest: &mut Guest,
    kind: u32,
    start: u32,
    length: u32,
    pointer_to: u32,
    size_to: u32,
) -> Done {
    let buffer = buffer(guest, kind)?.ok_or(Status::NOT_FOUND)?;
    let start = usize::try_from(start).unwrap_or(usize::MAX).min(buffer.len());
    let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)).min(buffer.len());
    guest.give(&buffer[start..end], pointer_to, size_to)
}

/// `Buffer::copyFrom`: a body can be replaced, prepended to or appended to; nothing else can be written.
fn set_buffer_bytes(
    guest: &mut Guest,
    kind: u32,
    start: u32,
    length: u32,
    data: u32,
    data_size: u32,
) -> Done {
    buffer(guest, kind)?.ok_or(Status::NOT_FOUND)?;
    let data = guest.read(data, data_size)?;
    let context = guest.context().ok_or(Status::BAD_ARGUMENT)?;
    if !(kind == 0 && context.request_body || kind == 1 && context.response_body) {
        return Err(Status::BAD_ARGUMENT.into());
    }
    let (start, length) =
        (usize::try_from(start).unwrap_or(usize::MAX), usize::try_from(length).unwrap_or(usize::MAX));
    let copied = guest.with_stream(|stream| {
        let body = if kind == 0 { &mut stream.request_body } else { &mut stream.response_body };
        match (start, length) {
            (0, 0) => drop(body.splice(0..0, data)),
            (0, _) if length >= body.len() => *body = data,
            (0, _) => return Err(Status::BAD_ARGUMENT),
            _ if start >= body.len() => body.extend(data),
            _ => return Err(Status::BAD_ARGUMENT),
        }
        Ok(())
    });
    Ok(copied.unwrap_or(Err(Status::BAD_ARGUMENT))?)
}

// Shared data.

fn get_shared_data(
    guest: &mut Guest,
    key: u32,
    key_size: u32,
    pointer_to: u32,
    size_to: u32,
    cas_to: u32,
) -> Done {
    let key = guest.read(key, key_size)?;
    let state = guest.state();
    let (value, cas) = state.host.borrow().shared_data.get(&state.vm_id, &key)?;
    guest.give(&value, pointer_to, size_to)?;
    Ok(guest.write_word(cas_to, cas)?)
}

fn set_shared_data(
    guest: &mut Guest,
    key: u32,
    key_size: u32,
    value: u32,
    value_size: u32,
    cas: u32,
) -> Done {
    let key = guest.read(key, key_size)?;
    let value = guest.read(value, value_size)?;
    let state = guest.state();
    Ok(state.host.borrow_mut().shared_data.set(&state.vm_id, &key, &value, cas)?)
}

fn register_shared_queue(guest: &mut Guest, name: u32, name_size: u32, token_to: u32) -> Done {
    let name = guest.read(name, name_size)?;
    let state = guest.state();
    let token = state.host.borrow_mut().shared_data.register_queue(&state.vm_id, &name);
    Ok(guest.write_word(token_to, token)?)
}

fn resolve_shared_queue(
    guest: &mut Guest,
    vm_id: u32,
    vm_id_size: u32,
    name: u32,
    name_size: u32,
    token_to: u32,
) -> Done {
    let vm_id = guest.read_text(vm_id, vm_id_size)?;
    let name = guest.read(name, name_size)?;
    let state = guest.state();
    let vm_id = if vm_id.is_empty() { &state.vm_id } else { &vm_id };
    let token = state.host.borrow().shared_data.resolve_queue(vm_id, &name)?;
    Ok(guest.write_word(token_to, token)?)
}

fn dequeue_shared_queue(guest: &mut Guest, token: u32, pointer_to: u32, size_to: u32) -> Done {
    let item = guest.state().host.borrow_mut().shared_data.dequeue(token)?;
    guest.give(&item, pointer_to, size_to)
}

fn enqueue_shared_queue(guest: &mut Guest, token: u32, value: u32, value_size: u32) -> Done {
    let value = guest.read(value, value_size)?;
    Ok(guest.state().host.borrow_mut().shared_data.enqueue(token, &value)?)
}

// Callouts.

#[allow(clippy::too_many_arguments, reason = "the ABI's")]
fn http_call(
    guest: &mut Guest,
    cluster: u32,
    cluster_size: u32,
    headers: u32,
    headers_size: u32,
    body: u32,
    body_size: u32,
    trailers: u32,
    trailers_size: u32,
    timeout: u32,
    token_to: u32,
) -> Done {
    let cluster = guest.read_text(cluster, cluster_size)?;
    let body = guest.read(body, body_size)?;
    let headers = to_pairs(&guest.read(headers, headers_size)?);
    guest.read(trailers, trailers_size)?;
    guest.write_word(token_to, 0)?;
    // `Context::httpCall`.
    let timeout = u64::try_from(timeout.cast_signed()).map_err(|_| Status::BAD_ARGUMENT)?;
    if !guest.state().host.borrow().callouts.clusters.contains_key(&cluster) {
        return Err(Status::BAD_ARGUMENT.into());
    }
    let mut headers: HeaderMap = headers.into_iter().collect();
    if [":path", ":method", ":authority"].iter().any(|name| !headers.contains(name)) {
        return Err(Status::BAD_ARGUMENT.into());
    }
    if !body.is_empty() {
        headers.set("content-length", body.len().to_string());
    }
    let token = guest.state().next_http_call();
    if !dispatch(guest, token, cluster, headers, body, timeout, None) {
        return Err(Status::INTERNAL_FAILURE.into());
    }
    Ok(guest.write_word(token_to, token)?)
}

#[allow(clippy::too_many_arguments, reason = "the ABI's")]
fn grpc_call(
    guest: &mut Guest,
    service: u32,
    service_size: u32,
    name: u32,
    name_size: u32,
    method: u32,
    method_size: u32,
    metadata: u32,
    metadata_size: u32,
    message: u32,
    message_size: u32,
    timeout: u32,
    token_to: u32,
) -> Done {
    let service = guest.read(service, service_size)?;
    let name = guest.read_text(name, name_size)?;
    let method = guest.read_text(method, method_size)?;
    let metadata = to_pairs(&guest.read(metadata, metadata_size)?).into_iter().collect();
    let message = guest.read(message, message_size)?;
    // `Context::grpcCall`: the service is a serialised `GrpcService`, or else a cluster's name.
    let known = |guest: &mut Guest, cluster: &str| {
        guest.state().host.borrow().callouts.clusters.contains_key(cluster)
    };
    let plain = String::from_utf8_lossy(&service).into_owned();
    let (cluster, exists) = if known(guest, &plain) {
        (plain, true)
    } else {
        let cluster = foreign::grpc_service_cluster(&service).ok_or(Status::PARSE_FAILURE)?;
        let exists = known(guest, &cluster);
        (cluster, exists)
    };
    let token = guest.state().next_grpc_call();
    let timeout = u64::from(timeout);
    if !exists || !dispatch(guest, token, cluster, metadata, message, timeout, Some((name, method))) {
        // The client fails within the call; its close is delivered after the call into the VM.
        let Some((root, _)) = guest.root() else { return Err(Status::INTERNAL_FAILURE.into()) };
        let message = "Cluster not available".to_owned();
        guest.state().after_call.push_back(AfterCall::GrpcClosed { root, token, status: 14, message });
        return Err(Status::INTERNAL_FAILURE.into());
    }
    Ok(guest.write_word(token_to, token)?)
}

/// Hands a callout to its cluster; false if no host of it is there.
fn dispatch(
    guest: &mut Guest,
    token: u32,
    cluster: String,
    headers: HeaderMap,
    body: Vec<u8>,
    timeout: u64,
    grpc: Option<(String, String)>,
) -> bool {
    let Some((root, _)) = guest.root() else { return false };
    let state = guest.state();
    let (vm, thread) = (state.serial, state.thread);
    let (handler, id, now) = {
        let mut host = state.host.borrow_mut();
        host.callouts.made += 1;
        let handler = host.callouts.clusters.get(&cluster).cloned();
        (handler, host.callouts.made, host.clock.monotonic())
    };
    let timeout = (timeout > 0).then(|| Duration::from_millis(timeout));
    let request = CalloutRequest { id, cluster, headers, body, timeout, grpc, thread };
    // The handler runs without a borrow of the host, so that it may look at the proxy.
    let answer = match handler.map(|handler| handler(&request)) {
        None | Some(Answer::Unavailable) => return false,
        Some(Answer::Hold) => None,
        Some(answer) => Some(answer),
    };
    let deadline = timeout.map(|timeout| now + timeout);
    state.host.borrow_mut().callouts.pending.push(Pending { request, vm, root, token, answer, deadline });
    true
}

/// Streams of gRPC are not made here.
#[allow(clippy::too_many_arguments, reason = "the ABI's")]
fn grpc_stream(
    _: &mut Guest,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
) -> Done {
    Err(Status::UNIMPLEMENTED.into())
}

fn grpc_cancel(guest: &mut Guest, token: u32) -> Done {
    if token & 3 != 1 {
        return Err(Status::BAD_ARGUMENT.into());
    }
    let Some((root, _)) = guest.root() else { return Err(Status::NOT_FOUND.into()) };
    let state = guest.state();
    let serial = state.serial;
    let mut host = state.host.borrow_mut();
    let pending = &mut host.callouts.pending;
    let index = pending
        .iter()
        .position(|pending| pending.vm == serial && pending.root == root && pending.token == token)
        .ok_or(Status::NOT_FOUND)?;
    pending.remove(index);
    Ok(())
}

fn grpc_close(guest: &mut Guest, token: u32) -> Done {
    grpc_cancel(guest, token)
}

fn grpc_send(_: &mut Guest, token: u32, _: u32, _: u32, _: u32) -> Done {
    Err(if token & 3 == 2 { Status::NOT_FOUND } else { Status::BAD_ARGUMENT }.into())
}

/// What the last callout that failed said.
fn get_status(guest: &mut Guest, code_to: u32, pointer_to: u32, size_to: u32) -> Done {
    let (code, message) = guest.root().map(|(_, root)| root.status.clone()).unwrap_or_default();
    guest.write_word(code_to, code)?;
    guest.give(message.as_bytes(), pointer_to, size_to)
}

fn call_foreign_function(
    guest: &mut Guest,
    name: u32,
    name_size: u32,
    argument: u32,
    argument_size: u32,
    pointer_to: u32,
    size_to: u32,
) -> Done {
    let name = guest.read_text(name, name_size)?;
    let argument = guest.read(argument, argument_size)?;
    let (result, status) = match foreign::call(guest, &name, &argument) {
        Ok(result) => (result, Ok(())),
        Err(Status::NOT_FOUND) if !foreign::exists(&name) => return Err(Status::NOT_FOUND.into()),
        Err(status) => (None, Err(status)),
    };
    // Without a result the pointer and the size are written too, as 0.
    let result = result.unwrap_or_default();
    let spoiled = match guest.spoil.take() {
        Some(Effect::Replace(other)) => other,
        Some(Effect::Truncate(length)) => result[..length.min(result.len())].to_vec(),
        _ => result,
    };
    let pointer = if spoiled.is_empty() || pointer_to == 0 { 0 } else { guest.allocate(&spoiled)? };
    if pointer_to != 0 {
        guest.write_word(pointer_to, pointer)?;
    }
    if size_to != 0 {
        guest.write_word(size_to, u32::try_from(spoiled.len()).unwrap_or(u32::MAX))?;
    }
    Ok(status?)
}

impl Guest<'_> {
    /// For foreign functions: the acting context's stream.
    pub(crate) fn stream<T>(&mut self, act: impl FnOnce(&mut Stream) -> T) -> Option<T> {
        self.with_stream(act)
    }

    /// For foreign functions: the root of the current context.
    pub(crate) fn current_root(&mut self) -> Option<&mut Context> {
        let state = self.caller.data_mut();
        let root = state.context(state.current)?.root;
        state.context_mut(root)
    }
}
