//! Every host call that the filters make. Nothing else in the project calls the host.
//!
//! The functions of the SDK panic on a status that they do not expect, which kills the VM and with it every stream of
//! the worker; these return it as a [`HostError`]. They also take arguments in serialised form and hand buffers over
//! without copying them into strings.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::time::Duration;

use proxy_wasm::types::{BufferType, LogLevel, MapType, MetricType};

use crate::host::Environment;
use crate::host::wasm::counts::{Counts, Told};
use crate::host::{HostError, RequestHost};
use crate::reply::Reply;
use crate::request::cel;
use crate::request::headers::HeaderMap;

const OK: u32 = 0;
const NOT_FOUND: u32 = HostError::NOT_FOUND;
const CAS_MISMATCH: u32 = HostError::CAS_MISMATCH;

type Answer<T> = Result<T, HostError>;

/// The raw functions, Proxy-Wasm ABI 0.2.1 (vNEXT names of the same functions differ).
mod abi {
    #[link(wasm_import_module = "env")]
    unsafe extern "C" {
        pub(super) fn proxy_log(level: u32, text: *const u8, text_len: usize) -> u32;
        pub(super) fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
        pub(super) fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
        pub(super) fn proxy_get_buffer_bytes(
            buffer: u32,
            start: usize,
            max: usize,
            data: *mut *mut u8,
            len: *mut usize,
        ) -> u32;
        pub(super) fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, len: *mut usize) -> u32;
        pub(super) fn proxy_get_header_map_value(
            map: u32,
            key: *const u8,
            key_len: usize,
            data: *mut *mut u8,
            len: *mut usize,
        ) -> u32;
        pub(super) fn proxy_replace_header_map_value(
            map: u32,
            key: *const u8,
            key_len: usize,
            value: *const u8,
            value_len: usize,
        ) -> u32;
        pub(super) fn proxy_add_header_map_value(
            map: u32,
            key: *const u8,
            key_len: usize,
            value: *const u8,
            value_len: usize,
        ) -> u32;
        pub(super) fn proxy_remove_header_map_value(map: u32, key: *const u8, key_len: usize) -> u32;
        pub(super) fn proxy_get_property(
            path: *const u8,
            path_len: usize,
            data: *mut *mut u8,
            len: *mut usize,
        ) -> u32;
        pub(super) fn proxy_set_property(
            path: *const u8,
            path_len: usize,
            value: *const u8,
            value_len: usize,
        ) -> u32;
        pub(super) fn proxy_get_shared_data(
            key: *const u8,
            key_len: usize,
            data: *mut *mut u8,
            len: *mut usize,
            cas: *mut u32,
        ) -> u32;
        pub(super) fn proxy_set_shared_data(
            key: *const u8,
            key_len: usize,
            value: *const u8,
            value_len: usize,
            cas: u32,
        ) -> u32;
        pub(super) fn proxy_continue_stream(stream: u32) -> u32;
        pub(super) fn proxy_close_stream(stream: u32) -> u32;
        pub(super) fn proxy_send_local_response(
            status: u32,
            details: *const u8,
            details_len: usize,
            body: *const u8,
            body_len: usize,
            headers: *const u8,
            headers_len: usize,
            grpc_status: i32,
        ) -> u32;
        pub(super) fn proxy_http_call(
            cluster: *const u8,
            cluster_len: usize,
            headers: *const u8,
            headers_len: usize,
            body: *const u8,
            body_len: usize,
            trailers: *const u8,
            trailers_len: usize,
            timeout_ms: u32,
            token: *mut u32,
        ) -> u32;
        pub(super) fn proxy_grpc_call(
            service: *const u8,
            service_len: usize,
            name: *const u8,
            name_len: usize,
            method: *const u8,
            method_len: usize,
            metadata: *const u8,
            metadata_len: usize,
            message: *const u8,
            message_len: usize,
            timeout_ms: u32,
            token: *mut u32,
        ) -> u32;
        pub(super) fn proxy_set_effective_context(context: u32) -> u32;
        pub(super) fn proxy_call_foreign_function(
            name: *const u8,
            name_len: usize,
            argument: *const u8,
            argument_len: usize,
            data: *mut *mut u8,
            len: *mut usize,
        ) -> u32;
        pub(super) fn proxy_define_metric(kind: u32, name: *const u8, name_len: usize, id: *mut u32) -> u32;
        pub(super) fn proxy_increment_metric(id: u32, by: i64) -> u32;
        pub(super) fn proxy_record_metric(id: u32, value: u64) -> u32;
    }
}

/// The WASI functions that have no counterpart in the ABI. The standard library calls them too, but `Instant` shows no
/// number that two workers can compare, and both it and `RandomState` panic where they fail.
mod wasi {
    pub(super) const MONOTONIC: u32 = 1;

    #[link(wasm_import_module = "wasi_snapshot_preview1")]
    unsafe extern "C" {
        pub(super) fn clock_time_get(clock: u32, precision: u64, time: *mut u64) -> u16;
        pub(super) fn random_get(buffer: *mut u8, len: usize) -> u16;
    }
}

fn done(call: &'static str, status: u32) -> Answer<()> {
    if status == OK { Ok(()) } else { Err(HostError { call, status }) }
}

/// Runs a call that returns a buffer; `None` where the host has nothing under that name.
fn buffer(call: &'static str, run: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Answer<Option<Vec<u8>>> {
    let (mut data, mut len) = (std::ptr::null_mut::<u8>(), 0_usize);
    match run(&raw mut data, &raw mut len) {
        OK if data.is_null() || len == 0 => Ok(Some(Vec::new())),
        // SAFETY: the host got the buffer from this module's `proxy_on_memory_allocate`, which is the SDK's: a boxed
        // slice of `len` bytes from the global allocator, filled by the host and owned by nobody else.
        OK => Ok(Some(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(data, len)).into_vec() })),
        NOT_FOUND => Ok(None),
        status => Err(HostError { call, status }),
    }
}

fn some(call: &'static str, answer: Option<Vec<u8>>) -> Answer<Vec<u8>> {
    answer.ok_or(HostError { call, status: NOT_FOUND })
}

fn head(map: MapType) -> Answer<HeaderMap> {
    const CALL: &str = "get_header_map_pairs";
    // SAFETY: both pointers are live for the call.
    let raw = buffer(CALL, |data, len| unsafe { abi::proxy_get_header_map_pairs(map as u32, data, len) })?;
    HeaderMap::parse(some(CALL, raw)?).map_err(|_| HostError { call: CALL, status: HostError::MALFORMED })
}

/// The facts of the stream whose callback is running.
pub struct WasmHost;

impl RequestHost for WasmHost {
    fn headers(&self) -> Answer<HeaderMap> {
        head(MapType::HttpRequestHeaders)
    }

    fn header_first(&self, name: &str) -> Answer<Option<Vec<u8>>> {
        Headers::Request.first(name)
    }

    fn header_joined(&self, name: &str) -> Answer<Option<Vec<u8>>> {
        // Envoy keeps these inline, where further values are joined to the first, or there is never more than one.
        if ["authorization", "x-request-id", ":path", ":method"].contains(&name) {
            return self.header_first(name);
        }
        property(&["request", "headers", name])
    }

    fn property(&self, path: &[&str]) -> Answer<Option<Vec<u8>>> {
        property(path)
    }

    fn evaluate(&self, expression: u32, variable: Option<cel::Variable<'_>>) -> Answer<Option<Vec<u8>>> {
        if let Some((name, value)) = variable {
            set_filter_state(name, value)?;
        }
        evaluate(expression)
    }

    fn unix_time(&self) -> Answer<Duration> {
        let mut nanoseconds = 0_u64;
        // SAFETY: the pointer is live for the call.
        done("get_current_time_nanoseconds", unsafe {
            abi::proxy_get_current_time_nanoseconds(&raw mut nanoseconds)
        })?;
        Ok(Duration::from_nanos(nanoseconds))
    }

    fn recent_unix_time(&self) -> Answer<Duration> {
        if let Some(now) = RECENT.get() {
            return Ok(now);
        }
        let now = self.unix_time()?;
        if COUNTS.with_borrow(Counts::expects_ticks) {
            RECENT.set(Some(now));
        }
        Ok(now)
    }

    fn monotonic_time(&self) -> Answer<Duration> {
        let mut nanoseconds = 0_u64;
        // SAFETY: the pointer is live for the call.
        let errno = unsafe { wasi::clock_time_get(wasi::MONOTONIC, 1, &raw mut nanoseconds) };
        done("clock_time_get", u32::from(errno))?;
        Ok(Duration::from_nanos(nanoseconds))
    }
}

/// Time since the Unix epoch.
pub fn unix_time() -> Answer<Duration> {
    WasmHost.unix_time()
}

/// Time on the proxy's monotonic clock, see [`RequestHost::monotonic_time`].
pub fn monotonic_time() -> Answer<Duration> {
    WasmHost.monotonic_time()
}

/// Bytes that nobody can foresee.
pub fn random() -> Answer<[u8; 16]> {
    let mut bytes = [0; 16];
    // SAFETY: the buffer is live for the call.
    let errno = unsafe { wasi::random_get(bytes.as_mut_ptr(), bytes.len()) };
    done("random_get", u32::from(errno)).map(|()| bytes)
}

/// An attribute, node metadata or filter state; `None` where there is none.
pub fn property(path: &[&str]) -> Answer<Option<Vec<u8>>> {
    let path = path.join("\0");
    // SAFETY: `path` and both pointers are live for the call.
    buffer("get_property", |data, len| unsafe {
        abi::proxy_get_property(path.as_ptr(), path.len(), data, len)
    })
}

/// The name of the plugin that is being configured (Envoy's `PluginConfig.name`); empty where it has none.
pub fn plugin_name() -> Vec<u8> {
    property(&["plugin_name"]).ok().flatten().unwrap_or_default()
}

/// Writes the filter state `wasm.<key>` of the stream.
pub fn set_filter_state(key: &str, value: &[u8]) -> Answer<()> {
    // SAFETY: `key` and `value` are live for the call.
    done("set_property", unsafe {
        abi::proxy_set_property(key.as_ptr(), key.len(), value.as_ptr(), value.len())
    })
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
    fn map(self) -> u32 {
        match self {
            Self::Request => MapType::HttpRequestHeaders as u32,
            Self::Response => MapType::HttpResponseHeaders as u32,
        }
    }

    /// Replaces every value of `name` by this one. On a request this also makes Envoy choose the route again.
    pub fn set(self, name: &str, value: &[u8]) -> Answer<()> {
        // SAFETY: `name` and `value` are live for the call.
        done("replace_header_map_value", unsafe {
            abi::proxy_replace_header_map_value(
                self.map(),
                name.as_ptr(),
                name.len(),
                value.as_ptr(),
                value.len(),
            )
        })
    }

    /// Adds a value of `name` to those that are there. On a request this also makes Envoy choose the route again.
    pub fn add(self, name: &str, value: &[u8]) -> Answer<()> {
        // SAFETY: `name` and `value` are live for the call.
        done("add_header_map_value", unsafe {
            abi::proxy_add_header_map_value(
                self.map(),
                name.as_ptr(),
                name.len(),
                value.as_ptr(),
                value.len(),
            )
        })
    }

    /// Removes every value of `name`. Where the host says that there is none, although the filter has seen one, nothing was
    /// removed: that is an error.
    pub fn remove(self, name: &str) -> Answer<()> {
        // SAFETY: `name` is live for the call.
        done("remove_header_map_value", unsafe {
            abi::proxy_remove_header_map_value(self.map(), name.as_ptr(), name.len())
        })
    }

    /// The first value of `name`.
    pub fn first(self, name: &str) -> Answer<Option<Vec<u8>>> {
        // SAFETY: `name` and both pointers are live for the call.
        buffer("get_header_map_value", |data, len| unsafe {
            abi::proxy_get_header_map_value(self.map(), name.as_ptr(), name.len(), data, len)
        })
    }
}

/// A value of the shared data and the number that a compare-and-swap on it takes.
pub struct SharedValue {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Changes with every write; never 0.
    pub cas: u32,
}

/// Reads shared data. Any plugin of the proxy can have written it.
pub fn shared_data(key: &str) -> Answer<Option<SharedValue>> {
    let mut cas = 0_u32;
    let cas_at = &raw mut cas;
    // SAFETY: `key` and the three pointers are live for the call.
    let bytes = buffer("get_shared_data", |data, len| unsafe {
        abi::proxy_get_shared_data(key.as_ptr(), key.len(), data, len, cas_at)
    })?;
    Ok(bytes.map(|bytes| SharedValue { bytes, cas }))
}

/// Writes shared data if nobody has since it was read with `cas`; with 0, whatever it holds. `false` means that
/// somebody has. Envoy ignores `cas` where the key is absent.
pub fn set_shared_data(key: &str, bytes: &[u8], cas: u32) -> Answer<bool> {
    // SAFETY: `key` and `bytes` are live for the call.
    let status =
        unsafe { abi::proxy_set_shared_data(key.as_ptr(), key.len(), bytes.as_ptr(), bytes.len(), cas) };
    if status == CAS_MISMATCH { Ok(false) } else { done("set_shared_data", status).map(|()| true) }
}

thread_local! {
    static COUNTS: RefCell<Counts> = const { RefCell::new(Counts::new()) };
    /// Time since the Unix epoch as it was first asked for after the last tick.
    static RECENT: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// A counter that Envoy shows as `wasmcustom.<name>`. One that the host did not define counts nothing.
#[derive(Debug, Clone, Copy)]
pub struct Counter(Option<usize>);

impl Counter {
    /// Defines a counter, or finds the one of that name.
    pub fn define(name: &str) -> Self {
        let known = COUNTS.with_borrow(|counts| counts.find(name));
        // Not while the counts are borrowed: the host is called.
        Self(known.or_else(|| {
            let id = define_metric(MetricType::Counter, name)?;
            Some(COUNTS.with_borrow_mut(|counts| counts.insert(name, id)))
        }))
    }

    /// Adds one.
    pub fn increment(self) {
        self.add(1);
    }

    /// Adds `n`. The host is told at once or at the next tick, see [`Counts`]; nothing costs no host call.
    pub fn add(self, n: u32) {
        let Some(number) = self.0.filter(|_| n > 0) else { return };
        if let Some(told) = COUNTS.with_borrow_mut(|counts| counts.add(number, n)) {
            tell(told);
        }
    }
}

fn tell((id, n): Told) {
    // SAFETY: no pointers. A lost count is not worth a failed request.
    let _ = unsafe { abi::proxy_increment_metric(id, i64::from(n)) };
}

/// Tells the host what counters hold back, and forgets what time it was. To be called at each tick.
pub(crate) fn tick() {
    RECENT.set(None);
    COUNTS.with_borrow_mut(Counts::tick).into_iter().for_each(tell);
}

/// Sets the period of ticks, at each of which [`tick`] will be called.
pub(crate) fn start_ticks(period: Duration) {
    match set_tick_period(period) {
        Ok(()) => COUNTS.with_borrow_mut(Counts::expect_ticks),
        Err(error) => log::warn!("no timer, so each count is a host call: {error}"),
    }
}

/// A gauge that Envoy shows as `wasmcustom.<name>`.
#[derive(Debug, Clone, Copy)]
pub struct Gauge(Option<u32>);

impl Gauge {
    /// Defines a gauge, or finds the one of that name.
    pub fn define(name: &str) -> Self {
        Self(define_metric(MetricType::Gauge, name))
    }

    /// Sets the gauge.
    pub fn set(self, value: u64) {
        if let Some(id) = self.0 {
            // SAFETY: no pointers. A lost reading is not worth a failed request.
            let _ = unsafe { abi::proxy_record_metric(id, value) };
        }
    }
}

fn define_metric(kind: MetricType, name: &str) -> Option<u32> {
    let mut id = 0_u32;
    // SAFETY: `name` and the pointer are live for the call.
    let status = unsafe { abi::proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &raw mut id) };
    if status != OK {
        log::warn!("metric {name} is not counted: define_metric answered status {status}");
    }
    (status == OK).then_some(id)
}

/// A header list in the serialised form of the ABI.
fn serialised(headers: &[(&str, &str)]) -> Vec<u8> {
    HeaderMap::from_pairs(headers.iter().copied()).into_raw()
}

/// Starts a call as the context `caller` and returns its token; afterwards `current` is the effective context again. `start`
/// is given the timeout in milliseconds and the place of the token.
fn call_as(
    caller: u32,
    current: u32,
    call: &'static str,
    timeout: Duration,
    start: impl FnOnce(u32, *mut u32) -> u32,
) -> Answer<u32> {
    let timeout = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    let mut token = 0_u32;
    set_effective_context(caller)?;
    let status = start(timeout, &raw mut token);
    set_effective_context(current)?;
    done(call, status).map(|()| token)
}

/// Starts an HTTP call as the context `caller` and returns its token; afterwards `current` is the effective context
/// again. A call of a stream's context ends with the stream, one of the root context does not.
///
/// # Errors
/// With Envoy `BadArgument` (2) where there is no such cluster, or `:method`, `:path` or `:authority` is missing.
pub fn http_call(
    caller: u32,
    current: u32,
    cluster: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    timeout: Duration,
) -> Answer<u32> {
    let (headers, trailers) = (serialised(headers), serialised(&[]));
    // SAFETY: all buffers and the pointer are live for the call.
    call_as(caller, current, "http_call", timeout, |timeout, token| unsafe {
        abi::proxy_http_call(
            cluster.as_ptr(),
            cluster.len(),
            headers.as_ptr(),
            headers.len(),
            body.as_ptr(),
            body.len(),
            trailers.as_ptr(),
            trailers.len(),
            timeout,
            token,
        )
    })
}

/// A method of a gRPC service.
#[derive(Debug, Clone, Copy)]
pub struct GrpcMethod<'a> {
    /// How the proxy reaches the service: a serialised `envoy.config.core.v3.GrpcService`.
    pub via: &'a [u8],
    /// Its name with its package.
    pub service: &'a str,
    /// The method.
    pub method: &'a str,
}

/// Starts a unary gRPC call with a serialised message, as [`http_call`] does. Its token may be that of an HTTP call too.
///
/// # Errors
/// With Envoy `InternalFailure` (10) where there is no such cluster, or no host in it that could be asked.
pub fn grpc_call(
    caller: u32,
    current: u32,
    to: GrpcMethod<'_>,
    message: &[u8],
    timeout: Duration,
) -> Answer<u32> {
    let metadata = serialised(&[]);
    // SAFETY: all buffers and the pointer are live for the call.
    call_as(caller, current, "grpc_call", timeout, |timeout, token| unsafe {
        abi::proxy_grpc_call(
            to.via.as_ptr(),
            to.via.len(),
            to.service.as_ptr(),
            to.service.len(),
            to.method.as_ptr(),
            to.method.len(),
            metadata.as_ptr(),
            metadata.len(),
            message.as_ptr(),
            message.len(),
            timeout,
            token,
        )
    })
}

/// At most `max` bytes of the message that a gRPC call was answered with, in its callback.
pub fn grpc_message(max: usize) -> Answer<Vec<u8>> {
    bytes(BufferType::GrpcReceiveBuffer, max).map(Option::unwrap_or_default)
}

/// The headers of the response to an HTTP call, in its callback.
pub fn call_response_head() -> Answer<HeaderMap> {
    head(MapType::HttpCallResponseHeaders)
}

/// At most `max` bytes of the body of the response to an HTTP call, in its callback.
pub fn call_response_body(max: usize) -> Answer<Vec<u8>> {
    bytes(BufferType::HttpCallResponseBody, max).map(Option::unwrap_or_default)
}

/// The pluginConfig, all of it, in `on_configure`.
pub(crate) fn plugin_configuration(size: usize) -> Answer<Vec<u8>> {
    if size == 0 {
        return Ok(Vec::new());
    }
    let whole = bytes(BufferType::PluginConfiguration, size)?.filter(|bytes| bytes.len() == size);
    whole.ok_or(HostError { call: "get_buffer_bytes", status: HostError::MALFORMED })
}

fn bytes(source: BufferType, max: usize) -> Answer<Option<Vec<u8>>> {
    // SAFETY: both pointers are live for the call.
    buffer("get_buffer_bytes", |data, len| unsafe {
        abi::proxy_get_buffer_bytes(source as u32, 0, max, data, len)
    })
}

/// Calls a function that this host offers beyond the ABI, such as Envoy's `verify_signature`.
pub fn call_foreign_function(name: &str, argument: &[u8]) -> Answer<Vec<u8>> {
    // SAFETY: all buffers and both pointers are live for the call.
    let answer = buffer("call_foreign_function", |data, len| unsafe {
        abi::proxy_call_foreign_function(
            name.as_ptr(),
            name.len(),
            argument.as_ptr(),
            argument.len(),
            data,
            len,
        )
    })?;
    some("call_foreign_function", answer)
}

/// The environment of a plugin, in `on_configure`.
pub struct HostEnvironment;

impl Environment for HostEnvironment {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn node_id(&self) -> Option<Vec<u8>> {
        property(&["xds", "node", "id"]).ok().flatten()
    }

    fn compile(&self, expression: &str) -> Answer<u32> {
        const CALL: &str = "expr_create";
        declare_variables()?;
        let token = call_foreign_function(CALL, expression.as_bytes())?;
        let token = token.try_into().map_err(|_| HostError { call: CALL, status: HostError::MALFORMED })?;
        Ok(u32::from_le_bytes(token))
    }

    fn evaluate(&self, expression: u32) -> Answer<Option<Vec<u8>>> {
        evaluate(expression)
    }
}

/// Evaluates in the context whose callback is running, whatever the effective context: in a callback of the root context
/// the request has no attributes.
fn evaluate(expression: u32) -> Answer<Option<Vec<u8>>> {
    match call_foreign_function("expr_evaluate", &expression.to_le_bytes()) {
        Ok(value) => Ok(Some(value)),
        Err(HostError { status: HostError::INTERNAL_FAILURE, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Tells the host the types of [`cel::CLAIMS`] and [`cel::TEXT`], in `on_configure`. Undeclared they would be bytes.
pub fn declare_variables() -> Answer<()> {
    /// `DeclarePropertyArguments { name = 1, type = 3, schema = 4 }`: a Protobuf (3) with its type, and a String (1).
    const ARGUMENTS: [&[u8]; 2] = [
        b"\x0a\x03jwt\x18\x03\x22\x2atype.googleapis.com/google.protobuf.Struct",
        b"\x0a\x0fnormalized_path\x18\x01",
    ];
    for argument in ARGUMENTS {
        match call_foreign_function("declare_property", argument) {
            // A name that is declared again is refused, and an expression of another filter may have needed it too.
            Ok(_) | Err(HostError { status: HostError::BAD_ARGUMENT, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Calls `on_tick` of the root context whose callback is running, every `period`; zero stops it.
pub(crate) fn set_tick_period(period: Duration) -> Answer<()> {
    let millis = u32::try_from(period.as_millis()).unwrap_or(u32::MAX);
    // SAFETY: no pointers.
    done("set_tick_period_milliseconds", unsafe { abi::proxy_set_tick_period_milliseconds(millis) })
}

/// Makes the following host calls act on another stream, or on the root context.
pub fn set_effective_context(context: u32) -> Answer<()> {
    // SAFETY: no pointers.
    done("set_effective_context", unsafe { abi::proxy_set_effective_context(context) })
}

/// Makes the following host calls act on another stream, and says whether it is there. One that has left is not: the proxy does
/// not know it any more, or it has ended.
pub fn enter_stream(context: u32) -> bool {
    set_effective_context(context).is_ok() && !has_ended()
}

/// Whether the stream of the effective context has ended. Envoy destroys its filters then, but knows its context until the worker has
/// handled the events that came in together. To resume or to answer it in between crashes the proxy (seen in Envoy 1.39).
fn has_ended() -> bool {
    // Of a request that goes on there is no duration yet.
    matches!(property(&["request", "duration"]), Ok(Some(_)))
}

const REQUEST_STREAM: u32 = 0;

/// Lets a paused request go on.
pub(crate) fn resume_request() -> Answer<()> {
    // SAFETY: no pointers.
    done("continue_stream", unsafe { abi::proxy_continue_stream(REQUEST_STREAM) })
}

/// Resets the stream: the last resort for a request that must not go on.
pub(crate) fn reset_stream() -> Answer<()> {
    // SAFETY: no pointers.
    done("close_stream", unsafe { abi::proxy_close_stream(REQUEST_STREAM) })
}

/// Answers the request in the place of the service.
pub(crate) fn send_reply(reply: &Reply) -> Answer<()> {
    let headers = HeaderMap::from_pairs(reply.headers.iter().map(|(n, v)| (n, v))).into_raw();
    // SAFETY: all buffers are live for the call.
    done("send_local_response", unsafe {
        abi::proxy_send_local_response(
            u32::from(reply.status),
            reply.details.as_ptr(),
            reply.details.len(),
            reply.body.as_ptr(),
            reply.body.len(),
            headers.as_ptr(),
            headers.len(),
            reply.grpc_status.map_or(-1, i32::from),
        )
    })
}

/// Sends the records of the `log` crate to the proxy's log, where Envoy's level of its `wasm` logger filters them.
struct HostLog;

impl log::Log for HostLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let level = match record.level() {
            log::Level::Error => LogLevel::Error,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Info => LogLevel::Info,
            log::Level::Debug => LogLevel::Debug,
            log::Level::Trace => LogLevel::Trace,
        };
        let text = record.args().to_string();
        // SAFETY: `text` is live for the call. A lost line is not worth a failed request.
        let _ = unsafe { abi::proxy_log(level as u32, text.as_ptr(), text.len()) };
    }

    fn flush(&self) {}
}

/// Makes the `log` crate write to the proxy's log. Debug and below are formatted only in a debug build: formatting on
/// the request path costs more than the decision.
pub(crate) fn start_log() {
    static LOG: HostLog = HostLog;
    if log::set_logger(&LOG).is_ok() {
        log::set_max_level(if cfg!(debug_assertions) {
            log::LevelFilter::Trace
        } else {
            log::LevelFilter::Info
        });
    }
}
