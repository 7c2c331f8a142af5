//! The shell around a filter: receives the proxy's callbacks and keeps one state for each stream.
//!
//! The SDK has a dispatcher too, but it panics on what it does not expect, keeps the table of streams borrowed while a
//! callback runs (a callback that nests is a panic), and ties every HTTP call to the stream that caused it. So this
//! module exports callbacks of its own, under `kit_on_…`; `make filters` gives those that a filter uses the names of the
//! ABI and drops the SDK's. Entry point, allocator and ABI types are the SDK's.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::rc::Rc;

use proxy_wasm::types::Action;

use crate::config::{
    Code, Diagnostic, build_info_metric, config_hash_metric, config_warnings_metric, document, fingerprint,
    report_mode_metric,
};
use crate::hash::StableHash;
use crate::host::wasm::calls::{self, Gauge, WasmHost};
use crate::host::{CallResponse, Filter, Flow, GrpcFailure, RequestHost, SHORT_TICK, TICK};
use crate::reply::Reply;
use crate::request::exchange::{Exchange, Published};

/// Says which filter this module is. To be called once, from the entry point.
pub fn start<F: Filter>() {
    calls::start_log();
    MODULE.with(|module| {
        let _ = module.set(Box::new(Dispatcher::<F> {
            roots: RefCell::default(),
            created: RefCell::default(),
            streams: RefCell::default(),
            crowded: Cell::new(FEW_STREAMS),
        }));
    });
}

thread_local! {
    static MODULE: OnceCell<Box<dyn Callbacks>> = const { OnceCell::new() };
}

/// The callbacks of the ABI that filters use, whatever the filter.
pub(super) trait Callbacks {
    fn context_create(&self, context: u32, root: u32);
    fn configure(&self, root: u32, size: usize) -> bool;
    fn request_headers(&self, context: u32) -> Action;
    fn response_headers(&self, context: u32);
    fn end(&self, context: u32);
    fn tick(&self, root: u32);
    fn http_call_response(&self, root: u32, token: u32, headers: usize, body_size: usize);
    fn grpc_reply(&self, root: u32, token: u32, reply: Result<usize, u32>);
}

struct Stream<F: Filter> {
    filter: Rc<F>,
    /// Taken out while a callback of the stream runs: what is not there cannot be borrowed over a host call.
    inner: Cell<Option<Inner<F>>>,
}

struct Inner<F: Filter> {
    state: F::Stream,
    published: Published,
    paused: bool,
}

/// A root context: one configuration of the filter in this worker's VM.
struct Root<F: Filter> {
    context: u32,
    /// `None` until it has a configuration.
    filter: Option<Rc<F>>,
    /// Streams to run again, the one that was named first in front.
    woken: VecDeque<u32>,
    /// Whether its timer has [`SHORT_TICK`] as its period.
    short_ticks: bool,
}

struct Dispatcher<F: Filter> {
    roots: RefCell<Vec<Root<F>>>,
    /// The streams whose requests have yet to come, with their roots: a proxy creates a stream's context when the request's headers
    /// are there. It is one, but where the filter is twice in a chain: the proxy carries out what was asked for before after each
    /// call into the VM, so it may resume another stream from within the creation of one, and the request of that one is first.
    created: RefCell<Vec<(u32, u32)>>,
    /// The streams that are to be seen again. The proxy would say when one is deleted, but to be told costs as much as a
    /// host call, for every request. So those that end without having been seen again are looked for, see
    /// [`Dispatcher::forget_gone`].
    streams: RefCell<HashMap<u32, Rc<Stream<F>>, BuildHasherDefault<StableHash>>>,
    /// How many streams are kept before those that are gone are looked for.
    crowded: Cell<usize>,
}

/// The most streams that run again in one callback. The proxy carries out what was asked for each of them after the callback, and
/// enters the VM for the response of one stream from within the response of the one before. Each takes stack, of which Envoy's V8
/// has enough for about 300 (seen in Envoy 1.39: `Maximum call stack size exceeded`, which kills the VM).
const MOST_WOKEN_AT_ONCE: usize = 32;

/// The most streams whose requests have yet to come: more than a stack bears. If there are more, the oldest has ended without one.
const MOST_CREATED: usize = 512;

/// The most streams that are kept without looking for those that are gone.
const FEW_STREAMS: usize = 1024;

impl<F: Filter> Dispatcher<F> {
    fn filter(&self, root: u32) -> Option<Rc<F>> {
        self.roots.borrow().iter().find(|known| known.context == root)?.filter.clone()
    }

    fn set_root(&self, context: u32, filter: Option<Rc<F>>) {
        let mut roots = self.roots.borrow_mut();
        let known = roots.iter_mut().find(|known| known.context == context);
        let old = if let Some(known) = known {
            std::mem::replace(&mut known.filter, filter)
        } else {
            roots.push(Root { context, filter, woken: VecDeque::new(), short_ticks: false });
            None
        };
        // Dropped when nothing is borrowed any more.
        drop(roots);
        drop(old);
    }

    /// Changes a root context, where it is known; `change` must not call the host.
    fn with_root<T>(&self, root: u32, change: impl FnOnce(&mut Root<F>) -> T) -> Option<T> {
        self.roots.borrow_mut().iter_mut().find(|known| known.context == root).map(change)
    }

    /// The root of a stream whose request comes now. Those that were created after it have ended without a request.
    fn take_created(&self, context: u32) -> Option<u32> {
        let mut created = self.created.borrow_mut();
        let position = created.iter().rposition(|(known, _)| *known == context)?;
        created.drain(position..).next().map(|(_, root)| root)
    }

    fn stream(&self, context: u32) -> Option<Rc<Stream<F>>> {
        self.streams.borrow().get(&context).cloned()
    }

    fn forget(&self, context: u32) {
        let forgotten = self.streams.borrow_mut().remove(&context);
        // Dropped when nothing is borrowed any more.
        drop(forgotten);
    }

    /// Forgets the streams and roots that the proxy does not know any more. Each time the streams are twice as many as were
    /// left the last time: a host call for each new one, on the whole. `current` is the context whose callback this is.
    fn forget_gone(&self, current: u32) {
        let known: Vec<u32> = self.streams.borrow().keys().copied().collect();
        for context in
            known.into_iter().filter(|context| *context != current && !calls::enter_stream(*context))
        {
            self.forget(context);
        }
        self.crowded.set(self.streams.borrow().len().saturating_mul(2).max(FEW_STREAMS));
        let gone = |context: u32| context != current && calls::set_effective_context(context).is_err();
        let known: Vec<u32> = self.roots.borrow().iter().map(|root| root.context).collect();
        for context in known.into_iter().filter(|context| gone(*context)) {
            let mut roots = self.roots.borrow_mut();
            let root = roots.iter().position(|root| root.context == context).map(|at| roots.swap_remove(at));
            drop(roots);
            drop(root);
        }
        let _ = calls::set_effective_context(current);
    }

    /// Keeps a stream, before a reply is sent, which runs the response's callback.
    fn keep(&self, context: u32, stream: Stream<F>) {
        self.streams.borrow_mut().insert(context, Rc::new(stream));
        if self.streams.borrow().len() > self.crowded.get() {
            self.forget_gone(context);
        }
    }

    /// Runs streams again that a filter has named, behind those that it named before. More than [`MOST_WOKEN_AT_ONCE`] are left
    /// to the next ticks.
    fn wake(&self, root: u32, filter: &F, streams: Vec<u32>) {
        self.with_root(root, |root| root.woken.extend(streams));
        for _ in 0..MOST_WOKEN_AT_ONCE {
            let Some((context, stream)) = self.next_woken(root, filter) else { break };
            self.with_root(root, |root| root.woken.pop_front());
            let (flow, keep) = stream.run(context);
            if !keep {
                self.forget(context);
            }
            if let Action::Continue = carry_out::<F>(flow)
                && let Err(error) = calls::resume_request()
            {
                log::warn!("{}: stream {context} did not resume: {error}", F::NAME);
            }
        }
        // The timer of a root whose last stream ends keeps its period. So it is short only where a stream that lives waits.
        self.next_woken(root, filter);
        // The root context is the one whose callback this is.
        let _ = calls::set_effective_context(root);
        self.set_period(root);
    }

    /// Runs streams again that the outcome of a call has named. Where others wait already, all are left to the next ticks: the
    /// proxy tells the outcome of a call that fails at once from within the callback that made it, and what runs then nests.
    fn wake_after_call(&self, root: u32, filter: &F, streams: Vec<u32>) {
        let waits = self.with_root(root, |root| !root.woken.is_empty());
        if waits.unwrap_or(false) {
            self.with_root(root, |root| root.woken.extend(streams));
        } else {
            self.wake(root, filter, streams);
        }
    }

    /// The stream that is to run next, which becomes the effective context. Those before it that are gone leave the queue.
    fn next_woken(&self, root: u32, filter: &F) -> Option<(u32, Rc<Stream<F>>)> {
        loop {
            let context = self.with_root(root, |root| root.woken.front().copied()).flatten()?;
            let paused = |stream: &Rc<Stream<F>>| stream.take_out(|inner| inner.paused).unwrap_or(false);
            if let Some(stream) = self.stream(context).filter(paused) {
                if calls::enter_stream(context) {
                    return Some((context, stream));
                }
                log::debug!("{}: stream {context} is gone", F::NAME);
                self.forget(context);
            }
            self.with_root(root, |root| root.woken.pop_front());
            filter.on_gone(context);
        }
    }

    /// Makes the period of the timer short while streams wait to run again, and long when none is left: the proxy keeps the timer
    /// of a root context that it has deleted.
    fn set_period(&self, root: u32) {
        let short = self.with_root(root, |root| {
            let short = !root.woken.is_empty();
            (short != std::mem::replace(&mut root.short_ticks, short)).then_some(short)
        });
        let Some(short) = short.flatten() else { return };
        if let Err(error) = calls::set_tick_period(if short { SHORT_TICK } else { TICK }) {
            log::warn!("{}: the period of the timer was not changed: {error}", F::NAME);
            self.with_root(root, |root| root.short_ticks = !short);
        }
    }
}

impl<F: Filter> Stream<F> {
    fn new(filter: Rc<F>) -> Self {
        let inner = Inner { state: F::Stream::default(), published: Published::default(), paused: false };
        Self { filter, inner: Cell::new(Some(inner)) }
    }

    /// Runs the request through the filter. With whether the stream is to be kept.
    fn run(&self, context: u32) -> (Option<Flow>, bool) {
        let flow = self.with(context, F::on_request);
        let keep = self.take_out(|inner| {
            inner.paused = matches!(flow, Some(Flow::Pause));
            inner.paused || self.filter.keeps(&inner.state)
        });
        (flow, keep.unwrap_or(true))
    }

    /// Takes the stream's state out, calls `run` with it, and puts it back; `None` where it is out already.
    fn take_out<T>(&self, run: impl FnOnce(&mut Inner<F>) -> T) -> Option<T> {
        let mut inner = self.inner.take()?;
        let answer = run(&mut inner);
        self.inner.set(Some(inner));
        Some(answer)
    }

    /// Calls `run` with the stream's state; `None` where a callback of the same stream is running already.
    fn with<T>(&self, context: u32, run: impl FnOnce(&F, &mut F::Stream, &Exchange<'_>) -> T) -> Option<T> {
        self.take_out(|Inner { state, published, .. }| {
            if !F::COMPOSED {
                return run(&self.filter, state, &Exchange::alone(context, &WasmHost));
            }
            let exchange = Exchange::continued(context, &WasmHost, std::mem::take(published));
            let answer = run(&self.filter, state, &exchange);
            *published = exchange.into_published();
            answer
        })
    }
}

/// Counts and logs what may surprise in the configuration in force.
#[inline(never)]
fn tell_warnings(filter: &str, plugin: &[u8], warnings: &[Diagnostic]) {
    let count = Gauge::define(&config_warnings_metric(filter, plugin));
    count.set(u64::try_from(warnings.len()).unwrap_or(u64::MAX));
    let reports = warnings.iter().any(|warning| warning.code == Code::ReportMode);
    Gauge::define(&report_mode_metric(filter, plugin)).set(u64::from(reports));
    for warning in warnings {
        log::warn!("{filter}: configuration: {warning} ({})", warning.code.name());
    }
}

/// `None` where the request is being decided about already.
fn carry_out<F: Filter>(flow: Option<Flow>) -> Action {
    match flow {
        Some(Flow::Continue) => Action::Continue,
        Some(Flow::Deny(reply)) => {
            deny::<F>(&reply);
            Action::Pause
        }
        Some(Flow::Pause) | None => Action::Pause,
    }
}

/// Answers in the place of the service; where even that fails, resets the stream, so that nothing gets through.
fn deny<F: Filter>(reply: &Reply) {
    if let Err(error) = calls::send_reply(reply) {
        log::error!("{}: no reply was sent, the stream is reset: {error}", F::NAME);
        if let Err(error) = calls::reset_stream() {
            log::error!("{}: the stream was not reset: {error}", F::NAME);
        }
    }
}

impl<F: Filter> Callbacks for Dispatcher<F> {
    fn context_create(&self, context: u32, root: u32) {
        if root == 0 {
            self.set_root(context, None);
        } else {
            let mut created = self.created.borrow_mut();
            if created.len() == MOST_CREATED {
                created.remove(0);
            }
            created.push((context, root));
        }
    }

    fn configure(&self, root: u32, size: usize) -> bool {
        let json = match calls::plugin_configuration(size) {
            Ok(json) => json,
            Err(error) => {
                // To refuse what was not seen would leave the plugin out on this worker, and let everything through there.
                log::error!("{}: no configuration came, every request is denied: {error}", F::NAME);
                return true;
            }
        };
        let configured =
            document(&json).and_then(|document| Ok((fingerprint(&document), F::configure(&document, root)?)));
        match configured {
            Ok((fingerprint, filter)) => {
                let plugin = calls::plugin_name();
                let hash = Gauge::define(&config_hash_metric(F::NAME, &plugin));
                hash.set(u64::from(fingerprint));
                tell_warnings(F::NAME, &plugin, &filter.warnings());
                let now = WasmHost.unix_time().map_or(0, |now| now.as_secs());
                Gauge::define(&build_info_metric(F::NAME)).set(now);
                let at_once = filter.ticks_at_once();
                self.set_root(root, Some(Rc::new(filter)));
                self.with_root(root, |root| root.short_ticks = at_once);
                calls::start_ticks(if at_once { SHORT_TICK } else { TICK });
                // This root may have replaced another one, which the proxy does not tell of its end.
                self.forget_gone(root);
                true
            }
            Err(errors) => {
                log::error!("{}: configuration refused: {errors}", F::NAME);
                false
            }
        }
    }

    fn request_headers(&self, context: u32) -> Action {
        let Some(filter) = self.take_created(context).and_then(|root| self.filter(root)) else {
            // A stream without a configured filter must not pass unchecked.
            deny::<F>(&Reply {
                status: 503,
                grpc_status: None,
                headers: Vec::new(),
                body: Vec::new(),
                details: format!("{}_not_configured", F::NAME),
            });
            return Action::Pause;
        };
        let stream = Stream::new(filter);
        let (flow, keep) = stream.run(context);
        if keep {
            self.keep(context, stream);
        }
        carry_out::<F>(flow)
    }

    fn response_headers(&self, context: u32) {
        let Some(stream) = self.stream(context) else { return };
        stream.with(context, F::on_response);
        let is_done = |inner: &mut Inner<F>| !inner.paused && !stream.filter.keeps(&inner.state);
        if stream.take_out(is_done).unwrap_or(false) {
            self.forget(context);
        }
    }

    fn end(&self, context: u32) {
        if let Some(stream) = self.stream(context) {
            stream.with(context, F::on_end);
            self.forget(context);
        }
    }

    fn tick(&self, root: u32) {
        calls::tick();
        if let Some(filter) = self.filter(root) {
            self.wake(root, &filter, filter.on_tick());
        }
    }

    fn http_call_response(&self, root: u32, token: u32, headers: usize, body_size: usize) {
        let Some(filter) = self.filter(root) else { return };
        // A call without a response arrives as one without headers.
        let head = if headers == 0 { None } else { calls::call_response_head().ok() };
        self.wake_after_call(
            root,
            &filter,
            filter.on_call(token, &CallResponse { head, body_size, not_sent: None }),
        );
    }

    fn grpc_reply(&self, root: u32, token: u32, reply: Result<usize, u32>) {
        if let Some(filter) = self.filter(root) {
            let reply = reply.map_err(|status| {
                let said = String::from_utf8_lossy(&calls::grpc_status_text()).into_owned();
                GrpcFailure { status, said, cut_off: false }
            });
            self.wake_after_call(root, &filter, filter.on_grpc(token, reply));
        }
    }
}

pub(super) fn with_module<T>(run: impl FnOnce(&dyn Callbacks) -> T) -> Option<T> {
    MODULE.with(|module| module.get().map(|module| run(module.as_ref())))
}
