//! A filter in one thread of the proxy, and its streams.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::calls::{self, Current, Gauge, NativeHost, Root, caught};
use super::cel::Variables;
use super::config::{EARLY, Shared};
use super::ffi::config::MainThread;
use super::ffi::{self, stream};
use super::outside::{self, Answer, Delivery};
use crate::config::{
    Code, build_info_metric, config_hash_metric, config_warnings_metric, document, fingerprint,
    report_mode_metric,
};
use crate::hash::StableHash;
use crate::host::logger::{self, Logger};
use crate::host::{CallResponse, ElsewhereCall, Filter, Flow, RequestHost, TICK};
use crate::reply::Reply;
use crate::request::exchange::{Exchange, Published};

/// The context number of a filter itself, in the place of a stream.
const ROOT: u32 = 0;

/// A filter, whatever its type.
pub(super) trait Hosted {
    /// A stream begins.
    fn open(self: Rc<Self>, handle: stream::Stream) -> Rc<dyn Callbacks>;
    /// Takes what has come for this thread, and sees what time it is.
    fn poll(&self);
}

/// A stream, whatever its filter's type.
pub(super) trait Callbacks {
    /// Whether the request goes on.
    fn request_headers(self: Rc<Self>) -> bool;
    fn response_headers(&self);
    fn complete(&self);
    fn scheduled(&self);
    /// A hook has panicked: the request must not go on.
    fn fail(&self);
    fn destroy(&self);
}

/// A configuration, and its filter in a thread.
type Known = (std::sync::Weak<Shared>, Option<Rc<dyn Hosted>>);

thread_local! {
    /// The filters of this thread, by their configurations; `None` where one was refused here.
    static FILTERS: RefCell<HashMap<u64, Known, BuildHasherDefault<StableHash>>> = RefCell::default();
    static STREAMS: Cell<u32> = const { Cell::new(ROOT) };
}

/// The filter of a configuration in this thread, which is made if it is not there yet.
pub(super) fn hosted(config: &Arc<Shared>) -> Option<Rc<dyn Hosted>> {
    if let Some(known) =
        FILTERS.with_borrow(|filters| filters.get(&config.id).map(|(_, filter)| filter.clone()))
    {
        return known;
    }
    let made = caught(|| (config.entry.make)(config, None)).flatten();
    keep(config, made.clone());
    made
}

/// Keeps a filter for its thread, and forgets those whose configurations are gone.
pub(super) fn keep(config: &Arc<Shared>, filter: Option<Rc<dyn Hosted>>) {
    let gone: Vec<_> = FILTERS.with_borrow_mut(|filters| {
        filters.insert(config.id, (Arc::downgrade(config), filter));
        filters.extract_if(|_, (config, _)| config.strong_count() == 0).collect()
    });
    // Dropped when nothing is borrowed any more.
    drop(gone);
}

/// Forgets the filter of a configuration in this thread.
pub(super) fn forget(config: u64) {
    let gone = FILTERS.try_with(|filters| filters.borrow_mut().remove(&config));
    drop(gone);
}

pub(super) struct Live<F: Filter> {
    filter: F,
    root: Rc<Root>,
    /// The streams that wait.
    paused: RefCell<HashMap<u32, Rc<Stream<F>>>>,
    next_tick: Cell<Duration>,
    /// The number of the latest news.
    heard: Cell<u64>,
}

fn response(answer: &Answer) -> CallResponse {
    CallResponse { head: answer.head.clone(), body_size: answer.size, not_sent: answer.not_sent }
}

impl<F: Filter> Live<F> {
    /// Makes the filter of a configuration. `main` says that this is the hook that makes the configuration.
    pub(super) fn make(config: &Arc<Shared>, main: Option<MainThread>) -> Option<Rc<dyn Hosted>> {
        let root = Rc::new(Root::new(Arc::clone(config), main));
        let json = &config.plugin.configuration;
        let configured = calls::within(Current::new(&root, None), || {
            let document = document(json)?;
            let filter = F::configure(&document, ROOT)?;
            if main.is_some() {
                let plugin = &config.plugin.name;
                Gauge::define(&config_hash_metric(F::NAME, plugin)).set(u64::from(fingerprint(&document)));
                let warnings = filter.warnings();
                let count = u64::try_from(warnings.len()).unwrap_or(u64::MAX);
                Gauge::define(&config_warnings_metric(F::NAME, plugin)).set(count);
                let reports = warnings.iter().any(|warning| warning.code == Code::ReportMode);
                Gauge::define(&report_mode_metric(F::NAME, plugin)).set(u64::from(reports));
                for warning in warnings {
                    log::warn!("{}: configuration: {warning} ({})", F::NAME, warning.code.name());
                }
                let now = NativeHost.unix_time().map_or(0, |now| now.as_secs());
                Gauge::define(&build_info_metric(F::NAME)).set(now);
            }
            Ok::<_, crate::config::ConfigErrors>(filter)
        });
        root.made();
        let (configured, _) = configured?;
        match configured {
            Ok(filter) => {
                let now = calls::monotonic_time().unwrap_or_default();
                let at_once = filter.ticks_at_once();
                let next_tick = if at_once { now } else { now.saturating_add(TICK) };
                if main.is_some() && at_once {
                    config.wake_main();
                }
                let (next_tick, paused) = (Cell::new(next_tick), RefCell::default());
                Some(Rc::new(Self { filter, root, paused, next_tick, heard: Cell::new(0) }))
            }
            Err(errors) => {
                log::error!("{}: configuration refused: {errors}", F::NAME);
                None
            }
        }
    }

    /// Runs a callback of the filter that belongs to no stream, and then the streams that it names.
    fn run(&self, current: Current, callback: impl FnOnce(&F) -> Vec<u32>) {
        if let Some((streams, _)) = calls::within(current, || callback(&self.filter)) {
            for stream in streams {
                self.wake(stream);
            }
            return;
        }
        // Which streams it was about, nobody knows.
        let paused: Vec<_> = self.paused.borrow().values().cloned().collect();
        for stream in paused {
            stream.fail();
        }
    }

    fn wake(&self, context: u32) {
        let stream = self.paused.borrow().get(&context).cloned();
        match stream {
            Some(stream) => {
                if stream.decide() {
                    stream.handle.resume();
                }
            }
            None => {
                let _ = calls::within(Current::new(&self.root, None), || self.filter.on_gone(context));
            }
        }
    }

    fn forget(&self, context: u32) {
        // Nearly always, nothing waits.
        if self.paused.borrow().is_empty() {
            return;
        }
        let forgotten = self.paused.borrow_mut().remove(&context);
        if forgotten.is_some() {
            self.root.handles.borrow_mut().remove(&context);
            self.root.mailbox.leave(context);
        }
    }
}

impl<F: Filter> Hosted for Live<F> {
    fn open(self: Rc<Self>, handle: stream::Stream) -> Rc<dyn Callbacks> {
        let mut id = STREAMS.get();
        loop {
            id = id.wrapping_add(1);
            if id != ROOT && !self.paused.borrow().contains_key(&id) {
                break;
            }
        }
        STREAMS.set(id);
        let inner = Inner {
            state: F::Stream::default(),
            published: Published::default(),
            variables: Variables::default(),
        };
        Rc::new(Stream { live: self, id, handle, inner: RefCell::new(inner), phase: Cell::new(Phase::New) })
    }

    fn poll(&self) {
        while let Some(delivery) = self.root.mailbox.take() {
            let mut current = Current::new(&self.root, None);
            match delivery {
                Delivery::Http(token, answer) => {
                    let response = response(&answer);
                    current.answer = Some(answer);
                    self.run(current, |filter| filter.on_call(token, &response));
                }
                Delivery::Grpc(token, reply) => {
                    let reply = reply.map(|message| {
                        let length = message.len();
                        current.message = message;
                        length
                    });
                    self.run(current, |filter| filter.on_grpc(token, reply));
                }
            }
        }
        let latest = self.root.config.news.load(Ordering::Acquire);
        let heard = self.heard.replace(latest);
        if latest != heard {
            for news in outside::news(&self.root.config, heard, &self.root.mailbox) {
                let mut current = Current::new(&self.root, None);
                let response = response(&news.answer);
                current.answer = Some(news.answer);
                let message = &news.message;
                let call = ElsewhereCall {
                    cluster: &message.cluster,
                    headers: &message.headers,
                    response: &response,
                    at: news.at,
                    failures: news.failures,
                };
                self.run(current, |filter| filter.on_call_elsewhere(&call));
            }
        }
        let now = calls::monotonic_time().unwrap_or_default();
        if now.saturating_add(EARLY) >= self.next_tick.get() {
            self.next_tick.set(now.saturating_add(TICK));
            self.run(Current::new(&self.root, None), F::on_tick);
        }
    }
}

/// Where a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Its request was not decided about.
    New,
    /// Its request waits.
    Paused,
    /// It is to be seen again.
    Kept,
    /// The filter has no more to do with it.
    Done,
    /// The proxy has destroyed it.
    Gone,
}

struct Stream<F: Filter> {
    live: Rc<Live<F>>,
    id: u32,
    handle: stream::Stream,
    /// Borrowed while a callback of the stream runs.
    inner: RefCell<Inner<F>>,
    phase: Cell<Phase>,
}

struct Inner<F: Filter> {
    state: F::Stream,
    published: Published,
    variables: Variables,
}

impl<F: Filter> Stream<F> {
    fn current(&self) -> Current {
        Current::new(&self.live.root, Some((self.id, self.handle)))
    }

    /// Calls `run` with the stream's state; `None` where that panics, or where a callback of the same stream is running already.
    fn with<T>(
        &self,
        mut current: Current,
        run: impl FnOnce(&F, &mut F::Stream, &Exchange<'_>) -> T,
    ) -> Option<(T, Current)> {
        let mut inner = self.inner.try_borrow_mut().ok()?;
        let Inner { state, published, variables } = &mut *inner;
        current.variables = std::mem::take(variables);
        let (answer, mut ended) = calls::within(current, || {
            if !F::COMPOSED {
                return run(&self.live.filter, state, &Exchange::alone(self.id, &NativeHost));
            }
            let exchange = Exchange::continued(self.id, &NativeHost, std::mem::take(published));
            let answer = run(&self.live.filter, state, &exchange);
            *published = exchange.into_published();
            answer
        })?;
        *variables = std::mem::take(&mut ended.variables);
        Some((answer, ended))
    }

    /// Decides about the request, and carries out what is not to let it go on. Whether it goes on.
    fn decide(self: &Rc<Self>) -> bool {
        caught(|| self.carry_out()).unwrap_or_else(|| {
            self.fail();
            false
        })
    }

    fn carry_out(self: &Rc<Self>) -> bool {
        let decided = self.with(self.current(), |filter, state, exchange| {
            let flow = filter.on_request(state, exchange);
            (flow, filter.keeps(state))
        });
        let Some(((flow, keeps), _)) = decided else {
            self.fail();
            return false;
        };
        if matches!(flow, Flow::Pause) {
            self.pause();
            return false;
        }
        self.live.forget(self.id);
        self.phase.set(if keeps { Phase::Kept } else { Phase::Done });
        match flow {
            Flow::Deny(reply) => self.deny(reply),
            Flow::Pause => {}
            Flow::Continue => return true,
        }
        false
    }

    fn pause(self: &Rc<Self>) {
        if self.phase.replace(Phase::Paused) == Phase::Paused {
            return;
        }
        let Some(waker) = self.handle.waker() else { return self.fail() };
        self.live.root.handles.borrow_mut().insert(self.id, self.handle);
        self.live.paused.borrow_mut().insert(self.id, Rc::clone(self));
        self.live.root.mailbox.wait(self.id, waker);
    }

    /// Answers in the place of the service. The proxy does not show a module the response that it sends itself, so the filter
    /// sees it here, before it is sent.
    fn deny(&self, mut reply: Reply) {
        if let Some(code) = reply.grpc_status.filter(|_| calls::is_grpc(self.handle)) {
            reply.headers.push(("grpc-status".to_owned(), code.to_string()));
        }
        if self.phase.get() == Phase::Kept {
            let mut shown = self.current();
            shown.reply = Some(reply.clone());
            reply = self.respond(shown).unwrap_or(reply);
        }
        self.handle.send(&reply);
    }

    /// Shows the filter a response, and returns the reply as the filter has left it.
    fn respond(&self, current: Current) -> Option<Reply> {
        let shown = self.with(current, |filter, state, exchange| {
            filter.on_response(state, exchange);
            filter.keeps(state)
        });
        let (keeps, reply) = shown.map_or((false, None), |(keeps, ended)| (keeps, ended.reply));
        if !keeps {
            self.phase.set(Phase::Done);
        }
        reply
    }
}

impl<F: Filter> Callbacks for Stream<F> {
    fn request_headers(self: Rc<Self>) -> bool {
        // What other threads have found out counts from this request on.
        self.live.poll();
        // A stream that was resumed just now may have ended the connection of both.
        self.phase.get() != Phase::Gone && self.decide()
    }

    fn response_headers(&self) {
        // A response to a request that waits is one that the proxy itself has made.
        if self.phase.get() == Phase::Kept {
            self.respond(self.current());
        }
    }

    fn complete(&self) {
        if matches!(self.phase.get(), Phase::Kept | Phase::Paused) {
            let _ = self.with(self.current(), F::on_end);
            self.phase.set(Phase::Done);
        }
    }

    fn scheduled(&self) {
        self.live.poll();
    }

    /// Answers a request with 500 that the filter has panicked about. Where even that panics, the request ends without an answer.
    fn fail(&self) {
        let gone = self.phase.replace(Phase::Done) == Phase::Gone;
        let answered = caught(|| {
            self.live.forget(self.id);
            if !gone {
                log::error!("{}: a request was denied since the filter panicked", F::NAME);
                self.handle.send(&refusal(500, format!("{}_panicked", F::NAME)));
            }
        });
        if answered.is_none() && !gone {
            self.handle.reset();
        }
    }

    fn destroy(&self) {
        self.phase.set(Phase::Gone);
        self.live.forget(self.id);
    }
}

/// A reply that says no more than its status.
fn refusal(status: u16, details: String) -> Reply {
    Reply { status, grpc_status: None, headers: Vec::new(), body: Vec::new(), details }
}

/// A stream whose configuration makes no filter in this worker: it must not pass unchecked.
pub(super) struct Unconfigured(pub(super) stream::Stream, pub(super) &'static str);

impl Callbacks for Unconfigured {
    fn request_headers(self: Rc<Self>) -> bool {
        self.0.send(&refusal(503, format!("{}_not_configured", self.1)));
        false
    }

    fn fail(&self) {
        self.0.reset();
    }

    fn response_headers(&self) {}
    fn complete(&self) {}
    fn scheduled(&self) {}
    fn destroy(&self) {}
}

/// Makes the `log` crate write to the proxy's log, where Envoy's level of its `dynamic_modules` logger filters the lines, and keeps what
/// a panic says out of it: that may be anything.
pub(super) fn start_log() {
    static LOGGER: Logger = Logger { shows: ffi::log_enabled, write: ffi::log };
    if logger::start(&LOGGER) {
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map_or_else(String::new, ToString::to_string);
            log::error!("mesh-filters: panic at {place}");
        }));
    }
}
