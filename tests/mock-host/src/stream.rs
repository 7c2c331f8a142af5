//! One stream through the filter chain, as Envoy's filter manager drives it
//! (`source/common/http/filter_manager.cc`) and its Wasm filter answers
//! (`source/extensions/common/wasm/context.cc`).

pub(crate) mod exchange;
pub(crate) mod headers;
pub(crate) mod local_reply;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use crate::host::filter_state::FilterState;
use crate::properties::{Connection, Route};
use crate::proxy::{FailurePolicy, Inner, Root};
use crate::stream::exchange::{Exchange, Outcome, Request, Response, UpstreamRequest};
use crate::stream::headers::HeaderMap;
use crate::stream::local_reply::LocalReply;
use crate::vm::abi::Direction;
use crate::vm::{Context, Vm};

/// A stream's state, which its filters' host calls see.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is something that a filter asked for, or the stream's phase"
)]
pub(crate) struct Stream {
    pub(crate) request: HeaderMap,
    pub(crate) request_body: Vec<u8>,
    pub(crate) response: Option<HeaderMap>,
    pub(crate) response_body: Vec<u8>,
    pub(crate) connection: Connection,
    pub(crate) route: Route,
    pub(crate) filter_state: FilterState,
    pub(crate) route_cache_cleared: bool,
    pub(crate) details: Option<String>,
    /// On the wall clock.
    pub(crate) start: Duration,
    pub(crate) calls: BTreeMap<&'static str, u64>,
    filters: Vec<Rc<Filter>>,
    position: Position,
    /// The filter that holds the stream back.
    paused: Option<(Direction, usize)>,
    /// The filter whose callback runs.
    running: Option<(Direction, usize)>,
    /// Asked for by the running filter.
    resume: bool,
    reset: bool,
    prepared: Option<LocalReply>,
    logging: bool,
    ended: Option<Outcome>,
    upstream: Option<UpstreamRequest>,
    metrics_before: BTreeMap<String, u64>,
}

/// A plugin's filter in one stream.
pub(crate) struct Filter {
    /// `None` is the empty context of a plugin whose VM is dead, under `FAIL_CLOSE`.
    root: Option<Rc<Root>>,
    context: u32,
    policy: FailurePolicy,
    failure_replied: Cell<bool>,
}

/// What comes next. Requests pass the filters in order, responses in reverse: there the number is of filters
/// to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    RequestHeaders(usize),
    RequestBody(usize),
    Upstream,
    ResponseHeaders(usize),
    ResponseBody(usize),
    End,
}

impl Stream {
    pub(crate) fn new(request: Request, start: Duration, metrics_before: BTreeMap<String, u64>) -> Self {
        Self {
            request: request.headers,
            request_body: request.body,
            response: None,
            response_body: Vec::new(),
            connection: request.connection,
            route: request.route,
            filter_state: FilterState::default(),
            route_cache_cleared: false,
            details: None,
            start,
            calls: BTreeMap::new(),
            filters: Vec::new(),
            position: Position::RequestHeaders(0),
            paused: None,
            running: None,
            resume: false,
            reset: false,
            prepared: None,
            logging: false,
            ended: None,
            upstream: None,
            metrics_before,
        }
    }

    pub(crate) fn response_code(&self) -> Option<u16> {
        self.response.as_ref()?.get(":status")?.parse().ok()
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    fn respond(&mut self, response: Response, details: &str) {
        self.response = Some(response.headers);
        self.response_body = response.body;
        self.details = Some(details.to_owned());
    }
}

impl Inner {
    /// Makes the filters' contexts and runs the request until it ends or pauses.
    pub(crate) fn start(&self, id: u64, thread: usize, stream: Stream) {
        self.host.borrow_mut().streams.insert(id, stream);
        let filters =
            (0..self.slots(thread)).filter_map(|slot| self.create_filter(id, thread, slot)).map(Rc::new);
        let filters: Vec<_> = filters.collect();
        self.with(id, |stream| stream.filters = filters);
        self.run(id);
    }

    /// `PluginConfig::createContext` (Envoy `wasm.cc`): a plugin that was not made on this thread has no
    /// filter; one whose VM died has none under `FAIL_OPEN`, and an empty one under `FAIL_CLOSE`.
    fn create_filter(&self, id: u64, thread: usize, slot: usize) -> Option<Filter> {
        let root = self.root_of(thread, slot)?;
        let policy = root.plugin.policy;
        let mut vm = root.vm.borrow_mut();
        if vm.failed.is_some() {
            let empty = Filter { root: None, context: 0, policy, failure_replied: Cell::new(false) };
            return (policy != FailurePolicy::Open).then_some(empty);
        }
        let context = vm.state().add_context(Context {
            root: root.context,
            plugin: Some(Rc::clone(&root.plugin)),
            stream: Some(id),
            ..Context::default()
        });
        drop(vm);
        Some(Filter { root: Some(root), context, policy, failure_replied: Cell::new(false) })
    }

    pub(crate) fn with<T>(&self, id: u64, act: impl FnOnce(&mut Stream) -> T) -> T {
        act(self.host.borrow_mut().streams.get_mut(&id).expect("streams live as long as their handle"))
    }

    /// Runs the filter chain until the stream ends or a filter holds it back.
    fn run(&self, id: u64) {
        loop {
            let (position, count, idle) = self.with(id, |stream| {
                (stream.position, stream.filters.len(), stream.paused.is_none() && stream.ended.is_none())
            });
            if !idle {
                return;
            }
            match position {
                Position::RequestHeaders(index) if index == count => self.with(id, |stream| {
                    let body = !stream.request_body.is_empty();
                    stream.position = if body { Position::RequestBody(0) } else { Position::Upstream };
                }),
                Position::RequestHeaders(index) => {
                    self.step(
                        id,
                        Direction::Request,
                        index,
                        Position::RequestHeaders(index + 1),
                        Inner::headers,
                    );
                }
                Position::RequestBody(index) if index == count => {
                    self.with(id, |stream| stream.position = Position::Upstream);
                }
                Position::RequestBody(index) => {
                    self.step(id, Direction::Request, index, Position::RequestBody(index + 1), Inner::body);
                }
                Position::Upstream => self.reach_upstream(id, count),
                Position::ResponseHeaders(0) => self.with(id, |stream| {
                    let body = !stream.response_body.is_empty();
                    stream.position =
                        if body { Position::ResponseBody(stream.filters.len()) } else { Position::End };
                }),
                Position::ResponseHeaders(left) => {
                    self.step(
                        id,
                        Direction::Response,
                        left - 1,
                        Position::ResponseHeaders(left - 1),
                        Inner::headers,
                    );
                }
                Position::ResponseBody(0) => self.with(id, |stream| stream.position = Position::End),
                Position::ResponseBody(left) => {
                    self.step(
                        id,
                        Direction::Response,
                        left - 1,
                        Position::ResponseBody(left - 1),
                        Inner::body,
                    );
                }
                Position::End => self.end(id, Outcome::Complete),
            }
        }
    }

    fn reach_upstream(&self, id: u64, count: usize) {
        let request = self.with(id, |stream| UpstreamRequest {
            headers: stream.request.clone(),
            body: stream.request_body.clone(),
        });
        let response = (self.upstream)(&request);
        self.with(id, |stream| {
            stream.upstream = Some(request);
            stream.respond(response, "via_upstream");
            stream.position = Position::ResponseHeaders(count);
        });
    }

    /// Runs one filter's callback, then what it asked for.
    fn step(
        &self,
        id: u64,
        direction: Direction,
        index: usize,
        next: Position,
        callback: fn(&Self, u64, Direction, &Filter) -> bool,
    ) {
        let filter = self.with(id, |stream| {
            stream.running = Some((direction, index));
            stream.resume = false;
            Rc::clone(&stream.filters[index])
        });
        let proceed = callback(self, id, direction, &filter);
        // The stream may end below, and then the last use of a root must be its filter's.
        drop(filter);
        let (reset, prepared) = self.with(id, |stream| {
            stream.running = None;
            (stream.reset, stream.prepared.take())
        });
        if reset {
            self.end(id, Outcome::Reset);
        } else if let Some(reply) = prepared {
            self.send_reply(id, &reply);
        } else {
            self.with(id, |stream| {
                stream.position = next;
                // A filter that asked to go on within its own callback goes on, whatever the callback
                // answered.
                stream.paused = (!proceed && !stream.resume).then_some((direction, index));
            });
        }
    }

    /// `DownstreamFilterManager::sendLocalReply`. Before a response there is, the reply passes the filters'
    /// response callbacks; after, it goes to the client directly.
    fn send_reply(&self, id: u64, reply: &LocalReply) {
        self.with(id, |stream| {
            let response = reply.response(&stream.request);
            let started = stream.response.is_some();
            stream.respond(response, &reply.details);
            stream.paused = None;
            stream.position =
                if started { Position::End } else { Position::ResponseHeaders(stream.filters.len()) };
        });
    }

    /// A local reply that a filter asked for, after its call into the VM. Panics on what harms Envoy itself.
    /// While any callback of the stream runs, the reply is prepared and sent when that has returned
    /// (`prepareLocalReplyViaFilterChain`).
    pub(crate) fn local_reply(&self, id: u64, reply: LocalReply) {
        let now = self.with(id, |stream| {
            // Seen in Envoy 1.39: the client gets no answer at all.
            assert!(
                !stream.logging,
                "a local reply while the stream is logged makes Envoy drop the response"
            );
            if stream.ended.is_some() || stream.position == Position::End {
                return None;
            }
            // Seen in Envoy 1.39: the second reply finds the stream destroyed.
            let again = stream.prepared.is_some() && matches!(stream.running, Some((Direction::Response, _)));
            assert!(!again, "two local replies within one response callback crash Envoy");
            if stream.running.is_some() {
                // Of two replies within one callback the first counts (seen in Envoy 1.39).
                stream.prepared.get_or_insert(reply);
                return None;
            }
            Some(reply)
        });
        if let Some(reply) = now {
            self.send_reply(id, &reply);
            self.run(id);
        }
    }

    /// `continueDecoding` and `continueEncoding` of one filter: only the one that holds the stream back can
    /// let it go.
    pub(crate) fn resume(&self, id: u64, context: u32, vm: u64, direction: Direction) {
        let run = self.with(id, |stream| {
            let is_it = |filter: &Rc<Filter>| {
                filter.context == context && filter.root.as_ref().is_some_and(|root| root.vm_serial == vm)
            };
            let Some(index) = stream.filters.iter().position(is_it) else { return false };
            if stream.running == Some((direction, index)) {
                // Seen in Envoy 1.39: the client gets the status line twice, or nothing.
                let response = direction == Direction::Response;
                assert!(
                    !response,
                    "a response that is resumed within its own callback makes Envoy send it twice"
                );
                stream.resume = true;
                return false;
            }
            if stream.paused != Some((direction, index)) {
                return false;
            }
            stream.paused = None;
            stream.running.is_none()
        });
        if run {
            self.run(id);
        }
    }

    /// The stream ends early: the client is gone, or a filter closed it.
    pub(crate) fn reset_stream(&self, id: u64) {
        let now = self.with(id, |stream| {
            stream.reset = true;
            stream.running.is_none()
        });
        if now {
            self.end(id, Outcome::Reset);
        }
    }

    /// `ConnectionManagerImpl::doDeferredStreamDestroy` (Envoy `conn_manager_impl.cc`): all access loggers
    /// first, then `destroyFilters`.
    fn end(&self, id: u64, outcome: Outcome) {
        let filters = self.with(id, |stream| {
            if stream.ended.is_some() {
                return Vec::new();
            }
            stream.ended = Some(outcome);
            stream.paused = None;
            std::mem::take(&mut stream.filters)
        });
        self.with(id, |stream| stream.logging = true);
        for filter in &filters {
            self.log_stream(filter);
        }
        self.with(id, |stream| stream.logging = false);
        for filter in filters {
            self.destroy(&filter);
            if let Some(root) = Rc::into_inner(filter).and_then(|filter| filter.root) {
                self.release(root);
            }
        }
    }

    // What the Wasm filter does in each of the filter manager's callbacks.

    /// `Context::decodeHeaders` and `encodeHeaders`, with `ContextBase::onRequestHeaders` and
    /// `onResponseHeaders`.
    fn headers(&self, id: u64, direction: Direction, filter: &Filter) -> bool {
        let Some(vm) = filter.root.as_ref().map(|root| &root.vm) else {
            return self.empty_context(id, direction, filter);
        };
        if direction == Direction::Request {
            self.on_create(vm, filter.context);
        } else if skips_response(vm, filter) {
            return true;
        }
        let (export, count, end_of_stream) = self.with(id, |stream| match direction {
            Direction::Request => {
                ("proxy_on_request_headers", stream.request.len(), stream.request_body.is_empty())
            }
            Direction::Response => {
                let count = stream.response.as_ref().map_or(0, HeaderMap::len);
                ("proxy_on_response_headers", count, stream.response_body.is_empty())
            }
        });
        let show = |there: bool| {
            flags(vm, filter.context, |context| match direction {
                Direction::Request => context.request_headers = there,
                Direction::Response => context.response_headers = there,
            });
        };
        show(true);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        // 2 is a status that Envoy's Wasm filter takes for "continue" (`convertFilterHeadersStatus`); of all
        // others only 0 goes on, because 1 is turned into "stop all"
        // (`convertVmCallResultToFilterHeadersStatus`).
        let proceed = self.callback(id, filter, vm, export, &[count, u32::from(end_of_stream)], |status| {
            matches!(status, 0 | 2)
        });
        if proceed {
            show(false);
        }
        proceed
    }

    /// `Context::decodeData` and `encodeData`: the body comes in one piece, with the end of the stream.
    fn body(&self, id: u64, direction: Direction, filter: &Filter) -> bool {
        let Some(vm) = filter.root.as_ref().map(|root| &root.vm) else {
            return self.empty_context(id, direction, filter);
        };
        if !created(vm, filter.context) || direction == Direction::Response && skips_response(vm, filter) {
            return true;
        }
        let (export, size) = self.with(id, |stream| match direction {
            Direction::Request => ("proxy_on_request_body", stream.request_body.len()),
            Direction::Response => ("proxy_on_response_body", stream.response_body.len()),
        });
        let show = |there: bool| {
            flags(vm, filter.context, |context| match direction {
                Direction::Request => context.request_body = there,
                Direction::Response => context.response_body = there,
            });
        };
        show(true);
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let proceed = self.callback(id, filter, vm, export, &[size, 1], |status| status == 0);
        if proceed {
            show(false);
        }
        proceed
    }

    /// One call into the VM with `CHECK_FAIL_HTTP` before and after it; the deferred actions run before the
    /// filter manager learns the status (`DeferAfterCallActions`).
    fn callback(
        &self,
        id: u64,
        filter: &Filter,
        vm: &Rc<RefCell<Vm>>,
        export: &str,
        args: &[u32],
        goes_on: fn(u32) -> bool,
    ) -> bool {
        if vm.borrow().failed.is_some() {
            return self.failed(id, filter);
        }
        if !vm.borrow_mut().exports(export) {
            return true;
        }
        let args: Vec<u32> = std::iter::once(filter.context).chain(args.iter().copied()).collect();
        let status = vm.borrow_mut().call(filter.context, export, &args);
        let proceed = match status {
            Some(status) => goes_on(status) && !vm.borrow_mut().state().stop_iteration,
            None => self.failed(id, filter),
        };
        self.after_call(vm);
        proceed
    }

    /// `CHECK_FAIL_HTTP` on a dead VM: `FAIL_OPEN` goes on, else the client gets 503, once (`failStream`).
    fn failed(&self, id: u64, filter: &Filter) -> bool {
        if filter.policy == FailurePolicy::Open {
            return true;
        }
        if !filter.failure_replied.replace(true) {
            if let Some(root) = &filter.root {
                flags(&root.vm, filter.context, |context| context.failure_replied = true);
            }
            self.local_reply(id, LocalReply::failed_stream());
        }
        false
    }

    /// A context without a VM fails every request, and leaves the response alone after it has replied.
    fn empty_context(&self, id: u64, direction: Direction, filter: &Filter) -> bool {
        direction == Direction::Response || self.failed(id, filter)
    }

    /// `ContextBase::onCreate`: called by the first callback, so a filter that a request did not reach has no
    /// context.
    fn on_create(&self, vm: &Rc<RefCell<Vm>>, id: u32) {
        if created(vm, id) {
            return;
        }
        let root = vm.borrow_mut().state().context(id).map_or(0, |context| context.root);
        vm.borrow_mut().call(id, "proxy_on_context_create", &[id, root]);
        self.after_call(vm);
        flags(vm, id, |context| context.created = true);
    }

    /// `Context::log`: makes the context of a filter that the request did not reach.
    fn log_stream(&self, filter: &Filter) {
        let Some(vm) = filter.root.as_ref().map(|root| &root.vm) else { return };
        self.on_create(vm, filter.context);
        flags(vm, filter.context, |context| context.access_log = true);
        vm.borrow_mut().call(filter.context, "proxy_on_log", &[filter.context]);
        self.after_call(vm);
        flags(vm, filter.context, |context| context.access_log = false);
    }

    /// `Context::onDestroy`: `on_done`, whose answer does not count for a stream, then `on_delete`.
    fn destroy(&self, filter: &Filter) {
        let Some(vm) = filter.root.as_ref().map(|root| &root.vm) else { return };
        if created(vm, filter.context) {
            for export in ["proxy_on_done", "proxy_on_delete"] {
                vm.borrow_mut().call(filter.context, export, &[filter.context]);
                self.after_call(vm);
            }
        }
        if self.host.borrow().one_iteration {
            flags(vm, filter.context, |context| context.destroyed = true);
        } else {
            vm.borrow_mut().state().contexts.remove(&filter.context);
        }
    }

    /// How an exchange stands now.
    pub(crate) fn exchange(&self, id: u64) -> Exchange {
        let host = self.host.borrow();
        let stream = &host.streams[&id];
        let after = host.metrics.values();
        let change = |name: &String, value: u64| {
            let before = stream.metrics_before.get(name).copied().unwrap_or_default();
            value.wrapping_sub(before).cast_signed()
        };
        let metrics = after.iter().map(|(name, value)| (name.clone(), change(name, *value)));
        let complete = stream.ended == Some(Outcome::Complete);
        let response = stream.response.clone().filter(|_| complete).unwrap_or_default();
        Exchange {
            outcome: stream.ended.unwrap_or(Outcome::Paused),
            status: stream.response_code().filter(|_| complete).unwrap_or_default(),
            headers: response,
            body: if complete { stream.response_body.clone() } else { Vec::new() },
            details: stream.details.clone().unwrap_or_default(),
            upstream: stream.upstream.clone(),
            filter_state: stream.filter_state.values(),
            logs: host.logs.iter().filter(|log| log.stream == Some(id)).cloned().collect(),
            metrics: metrics.filter(|(_, change)| *change != 0).collect(),
            calls: stream.calls.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            route_cache_cleared: stream.route_cache_cleared,
        }
    }
}

fn created(vm: &Rc<RefCell<Vm>>, id: u32) -> bool {
    vm.borrow_mut().state().context(id).is_some_and(|context| context.created)
}

/// `Context::encodeHeaders`: the VM is not asked for a context that it does not know, or that failed.
fn skips_response(vm: &Rc<RefCell<Vm>>, filter: &Filter) -> bool {
    !created(vm, filter.context) || filter.failure_replied.get()
}

fn flags(vm: &Rc<RefCell<Vm>>, id: u32, change: impl FnOnce(&mut Context)) {
    if let Some(context) = vm.borrow_mut().state().context_mut(id) {
        change(context);
    }
}
