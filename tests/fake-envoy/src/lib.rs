//! A proxy that has Envoy's ABI for dynamic modules, and nothing behind it: it calls the hooks of the filters that are linked into the
//! same program, and answers their calls. So memcheck, a sanitizer and the fuzzer see the module's unsafe code and no proxy.
//!
//! It is strict: what the proxy gives is freed when the ABI says that it is gone, a call with a pointer that was not given or is gone
//! ends the program, and so does a scheduler that is deleted twice. It is also hasty: with [`Manners::Hasty`], the proxy ends a stream
//! within the call that answers or resumes it, which the ABI allows.
#![allow(clippy::restriction, clippy::missing_panics_doc, unsafe_code)]

mod calls;
mod hooks;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use plugin_kit::host::native::Entry;
use serde_json::Value;

type Given = *mut c_void;
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;
type Headers<'a> = &'a [(&'a str, &'a str)];

/// Bytes of the proxy or of the module.
#[repr(C)]
#[derive(Clone, Copy)]
struct Buffer {
    data: *const u8,
    length: usize,
}

impl Buffer {
    fn of(bytes: &[u8]) -> Self {
        Self { data: bytes.as_ptr(), length: bytes.len() }
    }

    /// A copy, so that each byte is read.
    unsafe fn read(self) -> Vec<u8> {
        if self.data.is_null() {
            return Vec::new();
        }
        unsafe { std::slice::from_raw_parts(self.data, self.length) }.to_vec()
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    name: Buffer,
    value: Buffer,
}

/// What the proxy has given and not yet taken back.
static LIVE: Mutex<Option<HashSet<usize>>> = Mutex::new(None);
/// The lines of the log.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn give<T>(value: T) -> Given {
    let given = Box::into_raw(Box::new(value)).cast::<c_void>();
    LIVE.lock().unwrap().get_or_insert_default().insert(given as usize);
    given
}

/// What was given. It is there until [`take_back`].
fn known<'a, T>(given: Given) -> &'a T {
    let lives = LIVE.lock().unwrap().as_ref().is_some_and(|live| live.contains(&(given as usize)));
    assert!(lives, "the module uses what was not given, or is gone");
    unsafe { &*given.cast::<T>() }
}

fn take_back<T>(given: Given) -> T {
    let lived = LIVE.lock().unwrap().as_mut().is_some_and(|live| live.remove(&(given as usize)));
    assert!(lived, "the module gives back what was not given, or is gone");
    *unsafe { Box::from_raw(given.cast::<T>()) }
}

/// How many things the module has and must give back, and the proxy's own: streams, configurations and schedulers.
pub fn given() -> usize {
    LIVE.lock().unwrap().as_ref().map_or(0, HashSet::len)
}

/// Takes the lines that were logged.
pub fn take_log() -> Vec<String> {
    std::mem::take(&mut LOG.lock().unwrap())
}

/// Loads the module with these filters, once in a program. A panic is told to the module's hook, and then to that of the program.
pub fn load(filters: &'static [Entry]) {
    static LOADED: std::sync::Once = std::sync::Once::new();
    LOADED.call_once(|| {
        let program = std::panic::take_hook();
        let version = plugin_kit::host::native::start_with(filters, calls::address);
        let module = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            module(panic);
            program(panic);
        }));
        assert!(!version.is_null(), "a function is missing");
    });
}

/// Whether the module loads in a proxy without the function of this name.
pub fn loads_without(filters: &'static [Entry], missing: &str) -> bool {
    let address = |name: &std::ffi::CStr| {
        if name.to_str().unwrap().ends_with(missing) { std::ptr::null_mut() } else { calls::address(name) }
    };
    !plugin_kit::host::native::start_with(filters, address).is_null()
}

/// When a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manners {
    /// After the hook or call in which it was answered.
    Patient,
    /// In the call that answers or resumes it.
    Hasty,
}

/// A call to another service.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its number.
    pub id: u64,
    /// Whether it is a stream, as gRPC has.
    pub stream: bool,
    /// The cluster.
    pub cluster: String,
    /// The request headers.
    pub headers: Vec<(String, String)>,
    /// The request body.
    pub body: Vec<u8>,
}

/// A reply in the place of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The status.
    pub status: u32,
    /// The headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The details, for the access log.
    pub details: String,
}

struct FakeConfig {
    making: Cell<bool>,
    statistics: RefCell<Vec<String>>,
    values: Mutex<HashMap<usize, u64>>,
    calls: RefCell<Vec<Call>>,
    next_call: Cell<u64>,
    events: Events,
    no_cluster: Cell<bool>,
    at_once: Cell<bool>,
    module: Cell<*const c_void>,
}

/// What schedulers have committed. They outlive what they are about.
type Events = Arc<Mutex<VecDeque<u64>>>;

struct Scheduler(Events);

struct FakeStream {
    request: RefCell<Pairs>,
    response: RefCell<Option<Pairs>>,
    attributes: BTreeMap<u32, Vec<u8>>,
    filter_state: RefCell<HashMap<Vec<u8>, Vec<u8>>>,
    sent: RefCell<Option<Sent>>,
    resumed: Cell<bool>,
    reset: Cell<bool>,
    route_cleared: Cell<bool>,
    events: Events,
    manners: Manners,
    module: Cell<*const c_void>,
}

/// A configuration. Its methods but [`Configuration::open`] and [`Configuration::value`] are for the thread that made it.
pub struct Configuration(Given);

// SAFETY: as the methods say.
unsafe impl Sync for Configuration {}

impl Configuration {
    /// Gives the module a configuration; what it has logged, where it refuses it.
    pub fn new(filter: &str, config: &Value) -> Result<Self, Vec<String>> {
        Self::with(filter, config, |_| {})
    }

    /// The same in a proxy that has no cluster, or whose calls are over at once.
    pub fn without_clusters(filter: &str, config: &Value) -> Result<Self, Vec<String>> {
        Self::with(filter, config, |given| given.no_cluster.set(true))
    }

    fn with(filter: &str, config: &Value, prepare: impl FnOnce(&FakeConfig)) -> Result<Self, Vec<String>> {
        let given = give(FakeConfig {
            making: Cell::new(true),
            statistics: RefCell::default(),
            values: Mutex::default(),
            calls: RefCell::default(),
            next_call: Cell::new(1),
            events: Events::default(),
            no_cluster: Cell::new(false),
            at_once: Cell::new(false),
            module: Cell::new(std::ptr::null()),
        });
        let fake = known::<FakeConfig>(given);
        prepare(fake);
        // On the heap, and gone after the call.
        let (name, json) = (filter.as_bytes().to_vec(), config.to_string().into_bytes());
        let module = unsafe { hooks::config_new(given, Buffer::of(&name), Buffer::of(&json)) };
        drop((name, json));
        fake.making.set(false);
        fake.module.set(module);
        if module.is_null() {
            drop(take_back::<FakeConfig>(given));
            return Err(take_log());
        }
        Ok(Self(given))
    }

    fn fake(&self) -> &FakeConfig {
        known(self.0)
    }

    /// From now on, calls are answered within the call that makes them: one of HTTP by a failure, one of gRPC by its end.
    pub fn answer_at_once(&self) {
        self.fake().at_once.set(true);
    }

    /// The value of a counter or a gauge.
    pub fn value(&self, name: &str) -> u64 {
        let statistics = self.fake().statistics.borrow();
        let at = statistics.iter().position(|known| known == name);
        at.and_then(|at| self.fake().values.lock().unwrap().get(&at).copied()).unwrap_or(0)
    }

    /// Runs what was committed for the main thread. Whether there was something.
    pub fn turn(&self) -> bool {
        let events = std::mem::take(&mut *self.fake().events.lock().unwrap());
        for event in &events {
            unsafe { hooks::config_scheduled(self.0, self.fake().module.get(), *event) };
        }
        !events.is_empty()
    }

    /// Takes the calls that the module has made.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.fake().calls.borrow_mut())
    }

    /// Answers an HTTP call, with the body in chunks of this length; `None` for one that failed.
    pub fn answer(&self, id: u64, answer: Option<(Headers<'_>, &[u8])>, chunk: usize) {
        let (headers, body) =
            answer.map_or((Pairs::new(), Vec::new()), |(headers, body)| (pairs(headers), body.to_vec()));
        let (headers_of, chunks) = (views(&headers), chunks(&body, chunk));
        let result = u32::from(answer.is_none());
        unsafe {
            hooks::callout_done(
                self.0,
                self.fake().module.get(),
                id,
                result,
                headers_of.as_ptr(),
                headers_of.len(),
                chunks.as_ptr(),
                chunks.len(),
            );
        }
    }

    /// A part of the answer to a gRPC call.
    pub fn answer_part(&self, id: u64, part: Part<'_>) {
        let (config, module) = (self.0, self.fake().module.get());
        unsafe {
            match part {
                Part::Headers(headers) => {
                    let headers = pairs(headers);
                    let views = views(&headers);
                    hooks::stream_headers(config, module, id, views.as_ptr(), views.len(), false);
                }
                Part::Data(body, chunk) => {
                    let body = body.to_vec();
                    let chunks = chunks(&body, chunk);
                    hooks::stream_data(config, module, id, chunks.as_ptr(), chunks.len(), false);
                }
                Part::Trailers(trailers) => {
                    let trailers = pairs(trailers);
                    let views = views(&trailers);
                    hooks::stream_trailers(config, module, id, views.as_ptr(), views.len());
                }
                Part::Complete => hooks::stream_complete(config, module, id),
                Part::Reset => hooks::stream_reset(config, module, id, 1),
            }
        }
    }

    /// A stream with these request headers and attributes, by their numbers in the ABI, in the thread that calls this.
    pub fn open(&self, manners: Manners, headers: Pairs, attributes: &[(u32, &[u8])]) -> Stream<'_> {
        let given = give(FakeStream {
            request: RefCell::new(headers),
            response: RefCell::default(),
            attributes: attributes.iter().map(|(id, value)| (*id, value.to_vec())).collect(),
            filter_state: RefCell::default(),
            sent: RefCell::default(),
            resumed: Cell::new(false),
            reset: Cell::new(false),
            route_cleared: Cell::new(false),
            events: Events::default(),
            manners,
            module: Cell::new(std::ptr::null()),
        });
        let module = unsafe { hooks::stream_new(self.fake().module.get(), given) };
        known::<FakeStream>(given).module.set(module);
        Stream { given, ended: Cell::new(false), of: PhantomData }
    }
}

impl Drop for Configuration {
    fn drop(&mut self) {
        unsafe { hooks::config_destroy(self.fake().module.get()) };
        drop(take_back::<FakeConfig>(self.0));
    }
}

/// A part of the answer to a gRPC call.
#[derive(Debug, Clone, Copy)]
pub enum Part<'a> {
    /// The headers.
    Headers(Headers<'a>),
    /// A part of the body, in chunks of this length.
    Data(&'a [u8], usize),
    /// The trailers.
    Trailers(Headers<'a>),
    /// It is whole.
    Complete,
    /// It is cut off.
    Reset,
}

/// A stream, in one thread.
pub struct Stream<'a> {
    given: Given,
    ended: Cell<bool>,
    of: PhantomData<&'a Configuration>,
}

impl Stream<'_> {
    fn fake(&self) -> &FakeStream {
        known(self.given)
    }

    /// The request headers have come. Whether the request goes on.
    pub fn request_headers(&self) -> bool {
        let goes_on = unsafe { hooks::request_headers(self.given, self.fake().module.get(), true) } == 0;
        let stopped = self.sent().is_some() || self.fake().reset.get();
        assert!(!(goes_on && stopped), "a request goes on that was answered");
        goes_on
    }

    /// The body and the trailers of the request have come.
    pub fn request_rest(&self) {
        unsafe {
            hooks::request_body(self.given, self.fake().module.get(), false);
            hooks::request_trailers(self.given, self.fake().module.get());
        }
    }

    /// The service has answered.
    pub fn response(&self, headers: &[(&str, &str)]) {
        *self.fake().response.borrow_mut() = Some(pairs(headers));
        unsafe {
            hooks::response_headers(self.given, self.fake().module.get(), false);
            hooks::response_body(self.given, self.fake().module.get(), true);
            hooks::response_trailers(self.given, self.fake().module.get());
        }
    }

    /// Runs what was committed for the stream. Whether there was something.
    pub fn turn(&self) -> bool {
        if self.ended.get() {
            return false;
        }
        let events = std::mem::take(&mut *self.fake().events.lock().unwrap());
        for event in &events {
            unsafe { hooks::scheduled(self.given, self.fake().module.get(), *event) };
        }
        !events.is_empty()
    }

    /// Whether the module has let the paused request go on.
    pub fn resumed(&self) -> bool {
        self.fake().resumed.get()
    }

    /// What the module has answered.
    pub fn sent(&self) -> Option<Sent> {
        self.fake().sent.borrow().clone()
    }

    /// Whether the module has ended the stream without an answer.
    pub fn was_reset(&self) -> bool {
        self.fake().reset.get()
    }

    /// The request headers as they are.
    pub fn headers(&self) -> Pairs {
        self.fake().request.borrow().clone()
    }

    /// A response header.
    pub fn response_header(&self, name: &str) -> Option<Vec<u8>> {
        let response = self.fake().response.borrow();
        response.as_ref()?.iter().find(|(known, _)| known == name.as_bytes()).map(|(_, value)| value.clone())
    }

    /// A filter state.
    pub fn filter_state(&self, key: &str) -> Option<Vec<u8>> {
        self.fake().filter_state.borrow().get(key.as_bytes()).cloned()
    }

    /// The stream ends.
    pub fn end(self) {}
}

/// The stream ends, unless it has: the module is told that it is complete, and that it is destroyed.
fn end(fake: &FakeStream, given: Given) {
    let module = fake.module.replace(std::ptr::null());
    if !module.is_null() {
        unsafe {
            hooks::complete(given, module);
            hooks::stream_destroy(module);
        }
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        end(self.fake(), self.given);
        drop(take_back::<FakeStream>(self.given));
    }
}

fn pairs(headers: &[(&str, &str)]) -> Pairs {
    headers.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

fn views(headers: &Pairs) -> Vec<Header> {
    headers.iter().map(|(name, value)| Header { name: Buffer::of(name), value: Buffer::of(value) }).collect()
}

fn chunks(body: &[u8], length: usize) -> Vec<Buffer> {
    body.chunks(length.max(1)).map(Buffer::of).collect()
}
