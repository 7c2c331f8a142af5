//! The proxy: its threads, its plugins, and what a test does with them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use crate::callouts::{Answer, CalloutRequest, Callouts, Handler, Pending};
use crate::clock::Clock;
use crate::exchange::{Exchange, Request, Response, UpstreamRequest};
use crate::faults::{Fault, Faults};
use crate::host::{Host, SharedHost};
use crate::logs::{Level, Log};
use crate::metrics::Metrics;
use crate::properties::Value;
use crate::random::Random;
use crate::shared_data::SharedData;
use crate::stream::Stream;
use crate::vm::{AfterCall, Code, Context, MOST_NESTED, Timer, Vm, VmKey, compile, read};

/// What Envoy does when a plugin's VM has died (`failure_policy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailurePolicy {
    /// Every request gets 503.
    #[default]
    Close,
    /// The plugin is left out.
    Open,
    /// As [`FailurePolicy::Close`], but a request that comes a second or more after the VM was made makes a new one.
    Reload,
}

/// A plugin of the filter chain: one `WasmPlugin`.
#[derive(Debug, Clone)]
pub struct Plugin {
    name: String,
    wasm: Source,
    configuration: Vec<u8>,
    root_id: String,
    vm_id: String,
    vm_configuration: Vec<u8>,
    env: BTreeMap<String, String>,
    policy: FailurePolicy,
}

#[derive(Debug, Clone)]
enum Source {
    File(PathBuf),
    Bytes(Arc<[u8]>),
}

impl Plugin {
    /// The same plugin under another name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// A plugin whose module is a file.
    pub fn new(name: &str, wasm: impl AsRef<Path>) -> Self {
        Self::of(name, Source::File(wasm.as_ref().to_owned()))
    }

    /// A plugin whose module is given.
    pub fn from_bytes(name: &str, wasm: impl Into<Vec<u8>>) -> Self {
        Self::of(name, Source::Bytes(wasm.into().into()))
    }

    fn of(name: &str, wasm: Source) -> Self {
        Self {
            name: name.to_owned(),
            wasm,
            configuration: Vec::new(),
            root_id: String::new(),
            vm_id: String::new(),
            vm_configuration: Vec::new(),
            env: BTreeMap::new(),
            policy: FailurePolicy::default(),
        }
    }

    /// `pluginConfig`, as JSON.
    #[must_use]
    pub fn configuration(mut self, configuration: impl Into<Vec<u8>>) -> Self {
        self.configuration = configuration.into();
        self
    }

    /// `vmConfig.env`. The environment is not part of what makes a VM another one (`makeVmKey`): of two plugins that
    /// share a VM, the first one's counts.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.insert(key.to_owned(), value.to_owned());
        self
    }

    /// `root_id`.
    #[must_use]
    pub fn root_id(mut self, root_id: &str) -> Self {
        root_id.clone_into(&mut self.root_id);
        self
    }

    /// `vm_id`, which is also the namespace of shared data. Istio sets none.
    #[must_use]
    pub fn vm_id(mut self, vm_id: &str) -> Self {
        vm_id.clone_into(&mut self.vm_id);
        self
    }

    /// The VM's configuration.
    #[must_use]
    pub fn vm_configuration(mut self, configuration: impl Into<Vec<u8>>) -> Self {
        self.vm_configuration = configuration.into();
        self
    }

    /// What happens when the VM has died.
    #[must_use]
    pub fn on_failure(mut self, policy: FailurePolicy) -> Self {
        self.policy = policy;
        self
    }

    fn load(self) -> Result<PluginConfig, Rejected> {
        let code = match &self.wasm {
            Source::File(path) => read(path).and_then(|bytes| compile(&bytes)),
            Source::Bytes(bytes) => compile(bytes),
        };
        let code = code.map_err(|reason| Rejected { plugin: self.name.clone(), reason, logs: Vec::new() })?;
        Ok(PluginConfig {
            name: self.name,
            root_id: self.root_id,
            configuration: self.configuration,
            vm_id: self.vm_id,
            vm_configuration: self.vm_configuration,
            env: self.env,
            policy: self.policy,
            code,
        })
    }
}

/// A plugin with its code compiled (`PluginBase`).
#[derive(Clone)]
pub(crate) struct PluginConfig {
    pub(crate) name: String,
    pub(crate) root_id: String,
    pub(crate) configuration: Vec<u8>,
    pub(crate) vm_id: String,
    pub(crate) vm_configuration: Vec<u8>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) policy: FailurePolicy,
    code: Code,
}

/// Plugins of one key share a root context (`PluginBase::makePluginKey`).
type PluginKey = (String, String, Vec<u8>);

impl PluginConfig {
    fn key(&self) -> PluginKey {
        (self.root_id.clone(), self.name.clone(), self.configuration.clone())
    }

    fn vm_key(&self) -> VmKey {
        VmKey {
            code: self.code.digest,
            vm_id: self.vm_id.clone(),
            configuration: self.vm_configuration.clone(),
        }
    }
}

/// Why a plugin was refused, as an xDS update is.
#[derive(Debug, Clone)]
pub struct Rejected {
    /// The plugin.
    pub plugin: String,
    /// What was wrong.
    pub reason: String,
    /// What the filter logged while it was tried.
    pub logs: Vec<Log>,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plugin {}: {}", self.plugin, self.reason)?;
        for log in self.logs.iter().filter(|log| log.level >= Level::Warn) {
            write!(f, "\n  {}", log.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Rejected {}

/// A plugin's root context in a thread's VM (`PluginHandleBase`): it lives while the plugin is configured or a stream
/// uses it.
pub(crate) struct Root {
    pub(crate) vm: Rc<RefCell<Vm>>,
    pub(crate) vm_serial: u64,
    pub(crate) context: u32,
    pub(crate) plugin: Rc<PluginConfig>,
}

/// The main thread, which serves no request, or a worker.
#[derive(Default)]
struct Thread {
    vms: HashMap<VmKey, Rc<RefCell<Vm>>>,
    roots: Vec<Weak<Root>>,
    slots: Vec<Slot>,
}

/// One plugin of the chain on one thread.
struct Slot {
    plugin: Rc<PluginConfig>,
    root: Option<Rc<Root>>,
    /// On the monotonic clock, for `FAIL_RELOAD`.
    loaded: Duration,
}

/// Behind [`Proxy`] and its handles.
pub(crate) struct Inner {
    pub(crate) host: SharedHost,
    pub(crate) upstream: Rc<dyn Fn(&UpstreamRequest) -> Response>,
    edge: bool,
    threads: RefCell<Vec<Thread>>,
    vms: RefCell<HashMap<u64, Weak<RefCell<Vm>>>>,
    /// `plugin_canary_cache_`: the verdict on a configuration is remembered.
    canaries: RefCell<HashMap<(VmKey, PluginKey), bool>>,
    envs: RefCell<HashMap<VmKey, BTreeMap<String, String>>>,
    next: Cell<u64>,
}

/// Describes a proxy.
pub struct Builder {
    workers: usize,
    plugins: Vec<Plugin>,
    clusters: HashMap<String, Handler>,
    upstream: Rc<dyn Fn(&UpstreamRequest) -> Response>,
    node: Value,
    edge: bool,
    unix: Duration,
    seed: u64,
    faults: Faults,
}

impl Builder {
    /// Number of workers, 1 unless said. The main thread comes on top.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Adds a plugin to the end of the filter chain.
    #[must_use]
    pub fn plugin(mut self, plugin: Plugin) -> Self {
        self.plugins.push(plugin);
        self
    }

    /// A cluster that callouts can reach, and what becomes of them.
    #[must_use]
    pub fn cluster<A: Into<Answer>>(
        mut self,
        name: &str,
        answer: impl Fn(&CalloutRequest) -> A + 'static,
    ) -> Self {
        self.clusters.insert(name.to_owned(), Rc::new(move |request| answer(request).into()));
        self
    }

    /// The service behind the proxy; unless said it answers 200 with the body `ok`.
    #[must_use]
    pub fn upstream(mut self, service: impl Fn(&UpstreamRequest) -> Response + 'static) -> Self {
        self.upstream = Rc::new(service);
        self
    }

    /// `xds.node`: a map with `id`, `cluster`, `metadata`.
    #[must_use]
    pub fn node(mut self, node: Value) -> Self {
        self.node = node;
        self
    }

    /// Whether the connection manager takes the client's address from its connection (`use_remote_address`).
    #[must_use]
    pub fn edge(mut self, edge: bool) -> Self {
        self.edge = edge;
        self
    }

    /// Wall-clock time at the start, in seconds since the Unix epoch.
    #[must_use]
    pub fn clock(mut self, unix: u64) -> Self {
        self.unix = Duration::from_secs(unix);
        self
    }

    /// Seed of the generator behind WASI's `random_get`.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// A fault that is there from the start, while plugins are configured too.
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Self {
        self.faults.add(fault);
        self
    }

    /// Starts the proxy: for each plugin a throwaway canary VM, then its root context on the main thread and each
    /// worker.
    ///
    /// # Errors
    /// If a module can't be loaded or linked, or its canary refuses the configuration.
    pub fn build(self) -> Result<Proxy, Rejected> {
        let host = Host {
            clock: Clock::new(self.unix),
            shared_data: SharedData::default(),
            metrics: Metrics::default(),
            logs: Vec::new(),
            callouts: Callouts { clusters: self.clusters, ..Callouts::default() },
            faults: self.faults,
            random: Random::new(self.seed),
            node: self.node,
            streams: HashMap::new(),
            calls: BTreeMap::new(),
            moments: BTreeSet::new(),
            nested: 0,
            one_iteration: false,
            dropped: Vec::new(),
            ticks: 0,
        };
        let inner = Inner {
            host: Rc::new(RefCell::new(host)),
            upstream: self.upstream,
            edge: self.edge,
            threads: RefCell::new((0..=self.workers).map(|_| Thread::default()).collect()),
            vms: RefCell::default(),
            canaries: RefCell::default(),
            envs: RefCell::default(),
            next: Cell::new(0),
        };
        for plugin in self.plugins {
            let plugin = Rc::new(plugin.load()?);
            inner.canary(&plugin)?;
            for thread in 0..=self.workers {
                let root = inner.create_root(thread, &plugin);
                let loaded = inner.host.borrow().clock.monotonic();
                let slot = Slot { plugin: Rc::clone(&plugin), root, loaded };
                inner.threads.borrow_mut()[thread].slots.push(slot);
            }
        }
        let proxy = Proxy { inner: Rc::new(inner) };
        proxy.settle();
        Ok(proxy)
    }
}

impl Inner {
    fn next(&self) -> u64 {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    fn new_vm(&self, thread: usize, plugin: &PluginConfig) -> Result<(u64, Rc<RefCell<Vm>>), String> {
        let env = self.envs.borrow_mut().entry(plugin.vm_key()).or_insert_with(|| plugin.env.clone()).clone();
        let serial = self.next();
        let vm = Rc::new(RefCell::new(Vm::new(&plugin.code, &self.host, serial, thread, plugin, env)?));
        self.vms.borrow_mut().insert(serial, Rc::downgrade(&vm));
        Ok((serial, vm))
    }

    /// `WasmHandleBase::canary` (proxy-wasm-cpp-host `src/wasm.cc`): a throwaway VM is started and configured first; if
    /// it refuses, so does the proxy, and what is in force stays. It shares the process's shared data.
    fn canary(&self, plugin: &Rc<PluginConfig>) -> Result<(), Rejected> {
        let key = (plugin.vm_key(), plugin.key());
        let seen = self.host.borrow().logs.len();
        let rejected = |reason: String| Rejected {
            plugin: plugin.name.clone(),
            reason,
            logs: self.host.borrow().logs[seen..].to_vec(),
        };
        match self.canaries.borrow().get(&key) {
            Some(true) => return Ok(()),
            Some(false) => return Err(rejected("the same configuration was refused before".to_owned())),
            None => {}
        }
        let (serial, vm) = self.new_vm(0, plugin).map_err(rejected)?;
        let verdict = self.start_root(&vm, plugin).and_then(|root| {
            let configured = self.configure(&vm, root);
            self.canaries.borrow_mut().insert(key, configured);
            let reason = || {
                vm.borrow()
                    .failed
                    .clone()
                    .unwrap_or_else(|| "on_configure refused the configuration".to_owned())
            };
            if configured { Ok(()) } else { Err(reason()) }
        });
        self.host.borrow_mut().callouts.pending.retain(|pending| pending.vm != serial);
        verdict.map_err(rejected)
    }

    /// `WasmBase::start`: a root context, with `on_context_create` and `on_vm_start`.
    fn start_root(&self, vm: &Rc<RefCell<Vm>>, plugin: &Rc<PluginConfig>) -> Result<u32, String> {
        let root = vm.borrow_mut().state().add_context(Context {
            plugin: Some(Rc::clone(plugin)),
            configuring: true,
            ..Context::default()
        });
        vm.borrow_mut().call(root, "proxy_on_context_create", &[root, 0]);
        if let Some(context) = vm.borrow_mut().state().context_mut(root) {
            context.created = true;
            context.configuring = false;
        }
        let started = {
            let mut vm = vm.borrow_mut();
            let size = u32::try_from(vm.state().vm_configuration.len()).unwrap_or(u32::MAX);
            !vm.exports("proxy_on_vm_start")
                || vm.call(root, "proxy_on_vm_start", &[root, size]).is_some_and(|ok| ok != 0)
        };
        self.after_call(vm);
        let failed = vm.borrow().failed.clone();
        match failed {
            Some(message) => Err(message),
            None if !started => Err("on_vm_start refused".to_owned()),
            None => Ok(root),
        }
    }

    /// `ContextBase::onConfigure`.
    fn configure(&self, vm: &Rc<RefCell<Vm>>, root: u32) -> bool {
        if !vm.borrow_mut().exports("proxy_on_configure") {
            return true;
        }
        let set = |configuring: bool| {
            let mut vm = vm.borrow_mut();
            let context = vm.state().context_mut(root)?;
            context.configuring = configuring;
            context.plugin.as_ref().map(|plugin| plugin.configuration.len())
        };
        let size = u32::try_from(set(true).unwrap_or_default()).unwrap_or(u32::MAX);
        let accepted = vm.borrow_mut().call(root, "proxy_on_configure", &[root, size]);
        set(false);
        self.after_call(vm);
        accepted.is_some_and(|accepted| accepted != 0)
    }

    /// `getOrCreateThreadLocalPlugin`: a plugin of the same key keeps its root; else a new root starts, in the thread's
    /// VM of that code if it lives. A root that refuses its configuration is no root: the plugin is absent there.
    fn create_root(&self, thread: usize, plugin: &Rc<PluginConfig>) -> Option<Rc<Root>> {
        let vm_key = plugin.vm_key();
        let alive = |root: &Rc<Root>| root.vm.borrow().failed.is_none();
        let same = |root: &Rc<Root>| root.plugin.vm_key() == vm_key && root.plugin.key() == plugin.key();
        {
            let mut threads = self.threads.borrow_mut();
            threads[thread].roots.retain(|root| root.strong_count() > 0);
            let found =
                threads[thread].roots.iter().filter_map(Weak::upgrade).find(|root| alive(root) && same(root));
            if found.is_some() {
                return found;
            }
        }
        let existing = self.threads.borrow()[thread].vms.get(&vm_key).cloned();
        let vm = if let Some(vm) = existing.filter(|vm| vm.borrow().failed.is_none()) {
            vm
        } else {
            let (_, vm) = self.new_vm(thread, plugin).ok()?;
            self.threads.borrow_mut()[thread].vms.insert(vm_key, Rc::clone(&vm));
            vm
        };
        let context = self.start_root(&vm, plugin).ok()?;
        if !self.configure(&vm, context) {
            self.abandon(thread, &vm, context);
            return None;
        }
        let vm_serial = vm.borrow_mut().state().serial;
        let root = Rc::new(Root { vm, vm_serial, context, plugin: Rc::clone(plugin) });
        self.threads.borrow_mut()[thread].roots.push(Rc::downgrade(&root));
        Some(root)
    }

    /// A root that refused after the canary had accepted: if its VM serves no other, it is shut down with its root
    /// (`~WasmHandleBase`). Seen in Envoy 1.39: requests then pass without the plugin, under `FAIL_CLOSE` too.
    fn abandon(&self, thread: usize, vm: &Rc<RefCell<Vm>>, root: u32) {
        let used = {
            let threads = self.threads.borrow();
            threads[thread].roots.iter().filter_map(Weak::upgrade).any(|root| Rc::ptr_eq(&root.vm, vm))
        };
        if !used {
            self.shut_down(vm, root);
            self.threads.borrow_mut()[thread].vms.retain(|_, other| !Rc::ptr_eq(other, vm));
        }
    }

    /// Number of plugins on a thread.
    pub(crate) fn slots(&self, thread: usize) -> usize {
        self.threads.borrow()[thread].slots.len()
    }

    /// The root of a plugin on a thread, made anew if its VM died and the policy says so
    /// (`PluginConfig::maybeReloadHandleIfNeeded`, Envoy `wasm.cc`; the backoff is 1 s unless configured).
    pub(crate) fn root_of(&self, thread: usize, slot: usize) -> Option<Rc<Root>> {
        const BACKOFF: Duration = Duration::from_secs(1);
        let now = self.host.borrow().clock.monotonic();
        let (root, plugin, loaded) = {
            let threads = self.threads.borrow();
            let slot = &threads[thread].slots[slot];
            (slot.root.clone()?, Rc::clone(&slot.plugin), slot.loaded)
        };
        let dead = root.vm.borrow().failed.is_some();
        if !dead || plugin.policy != FailurePolicy::Reload || now < loaded + BACKOFF {
            return Some(root);
        }
        let fresh = self.create_root(thread, &plugin);
        let slot = &mut self.threads.borrow_mut()[thread].slots[slot];
        slot.loaded = now;
        if fresh.is_some() {
            slot.root.clone_from(&fresh);
        }
        Some(fresh.unwrap_or(root))
    }

    /// Drops one use of a root; the last one shuts it down (`WasmBase::startShutdown`): `on_done`, and `on_delete` unless
    /// `on_done` answered false, when `proxy_done` must come first.
    pub(crate) fn release(&self, root: Rc<Root>) {
        if let Some(root) = Rc::into_inner(root) {
            self.shut_down(&root.vm, root.context);
        }
    }

    fn shut_down(&self, vm: &Rc<RefCell<Vm>>, root: u32) {
        let done = {
            let mut vm = vm.borrow_mut();
            !vm.exports("proxy_on_done") || vm.call(root, "proxy_on_done", &[root]) != Some(0)
        };
        self.after_call(vm);
        if done {
            self.delete_root(vm, root);
        } else {
            vm.borrow_mut().state().pending_done.push(root);
        }
    }

    fn delete_root(&self, vm: &Rc<RefCell<Vm>>, root: u32) {
        vm.borrow_mut().call(root, "proxy_on_delete", &[root]);
        self.after_call(vm);
        let serial = {
            let mut vm = vm.borrow_mut();
            let state = vm.state();
            state.contexts.remove(&root);
            state.timers.remove(&root);
            state.serial
        };
        // `Context::~Context` cancels what is under way.
        self.host
            .borrow_mut()
            .callouts
            .pending
            .retain(|pending| pending.vm != serial || pending.root != root);
    }

    /// `WasmBase::doAfterVmCallActions`: in order, and what these add too. An action may enter the VM again, and what is left is
    /// then done from within that call: a callback that answers many streams nests as deep as there are of them.
    pub(crate) fn after_call(&self, vm: &Rc<RefCell<Vm>>) {
        vm.borrow_mut().state().stop_iteration = false;
        if self.host.borrow().nested > MOST_NESTED {
            // The VM has just died of it (see `Vm::call`). The calls further out do what is left, so that the test sees it.
            return;
        }
        self.host.borrow_mut().nested += 1;
        loop {
            let action = vm.borrow_mut().state().after_call.pop_front();
            let Some(action) = action else { break };
            self.act(vm, action);
        }
        self.host.borrow_mut().nested -= 1;
    }

    fn act(&self, vm: &Rc<RefCell<Vm>>, action: AfterCall) {
        let (serial, stream_of) = {
            let mut vm = vm.borrow_mut();
            let state = vm.state();
            let context = match &action {
                AfterCall::Continue { context, .. }
                | AfterCall::LocalReply { context, .. }
                | AfterCall::Reset { context } => *context,
                _ => 0,
            };
            let context = state.context(context);
            // `Context::continueStream` and `sendLocalResponse` keep a bare pointer to the filter.
            let destroyed = context.is_some_and(|context| context.destroyed);
            assert!(!destroyed, "to resume or answer a stream that has ended crashes Envoy: {action:?}");
            (state.serial, context.and_then(|context| context.stream))
        };
        match (action, stream_of) {
            (AfterCall::Continue { context, direction }, Some(id)) => {
                self.resume(id, context, serial, direction);
            }
            (AfterCall::LocalReply { reply, .. }, Some(id)) => self.local_reply(id, reply),
            (AfterCall::Reset { .. }, Some(id)) => self.reset_stream(id),
            (AfterCall::EndCallout { root }, _) => {
                if let Some(context) = vm.borrow_mut().state().context_mut(root) {
                    context.call_response = None;
                    context.grpc_message = None;
                    context.status.1.clear();
                }
            }
            (AfterCall::GrpcClosed { root, token, status, message }, _) => {
                self.close_grpc(vm, root, token, status, message);
            }
            (AfterCall::DeleteRoot { root }, _) => self.delete_root(vm, root),
            _ => {}
        }
    }

    /// Hands a callout's answer to the root context that made it (`onHttpCallSuccess`, `onHttpCallFailure`,
    /// `onGrpcReceiveWrapper`, `onGrpcCloseWrapper`, Envoy `context.cc`).
    fn deliver(&self, pending: Pending) {
        let Some(vm) = self.vms.borrow().get(&pending.vm).and_then(Weak::upgrade) else { return };
        let (root, token) = (pending.root, pending.token);
        if vm.borrow_mut().state().context(root).is_none() {
            return;
        }
        let grpc = pending.request.grpc.is_some();
        match pending.answer.expect("only answered callouts are delivered") {
            Answer::Respond(response) if !grpc => {
                let count = u32::try_from(response.headers.len()).unwrap_or(u32::MAX);
                let size = u32::try_from(response.body.len()).unwrap_or(u32::MAX);
                self.root_callback(
                    &vm,
                    root,
                    "proxy_on_http_call_response",
                    &[root, token, count, size, 0],
                    |context| {
                        context.call_response = Some(response);
                    },
                );
            }
            Answer::Reset if !grpc => {
                self.root_callback(
                    &vm,
                    root,
                    "proxy_on_http_call_response",
                    &[root, token, 0, 0, 0],
                    |context| {
                        context.status = (crate::Status::BROKEN_CONNECTION.0, "reset".to_owned());
                    },
                );
            }
            Answer::Grpc { status: 0, body, .. } if grpc => {
                let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
                self.root_callback(&vm, root, "proxy_on_grpc_receive", &[root, token, size], |context| {
                    context.grpc_message = Some(body);
                });
            }
            Answer::Grpc { status, message, .. } if grpc => {
                self.close_grpc(&vm, root, token, status, message);
            }
            Answer::Reset => self.close_grpc(&vm, root, token, 14, "reset".to_owned()),
            answer => {
                panic!("cluster {} answers a callout of another kind: {answer:?}", pending.request.cluster)
            }
        }
    }

    fn close_grpc(&self, vm: &Rc<RefCell<Vm>>, root: u32, token: u32, status: u32, message: String) {
        self.root_callback(vm, root, "proxy_on_grpc_close", &[root, token, status], |context| {
            context.status = (status, message);
        });
    }

    fn root_callback(
        &self,
        vm: &Rc<RefCell<Vm>>,
        root: u32,
        export: &str,
        args: &[u32],
        prepare: impl FnOnce(&mut Context),
    ) {
        {
            let mut vm = vm.borrow_mut();
            let state = vm.state();
            let Some(context) = state.context_mut(root) else { return };
            prepare(context);
            // Queued before the call, so what was prepared is gone when the guest's own actions run.
            state.after_call.push_back(AfterCall::EndCallout { root });
            vm.call(root, export, args);
        }
        self.after_call(vm);
    }

    /// All VMs, the main thread's first.
    fn all_vms(&self) -> Vec<Rc<RefCell<Vm>>> {
        let mut vms: Vec<_> =
            self.threads.borrow().iter().flat_map(|thread| thread.vms.values().cloned()).collect();
        vms.sort_by_key(|vm| {
            let mut vm = vm.borrow_mut();
            (vm.state().thread, vm.state().serial)
        });
        vms
    }

    /// The timer that is due first, up to a moment of the monotonic clock.
    fn next_timer(&self, until: Duration) -> Option<(Duration, Rc<RefCell<Vm>>, u32)> {
        let mut first: Option<(Duration, Rc<RefCell<Vm>>, u32)> = None;
        for vm in self.all_vms() {
            let timers: Vec<_> =
                vm.borrow_mut().state().timers.iter().map(|(root, timer)| (*root, timer.due)).collect();
            for (root, due) in timers {
                if due <= until && first.as_ref().is_none_or(|(earliest, ..)| due < *earliest) {
                    first = Some((due, Rc::clone(&vm), root));
                }
            }
        }
        first
    }

    /// `Wasm::tickHandler`: `on_tick`, then the timer is armed again.
    fn tick(&self, vm: &Rc<RefCell<Vm>>, root: u32) {
        self.host.borrow_mut().ticks += 1;
        vm.borrow_mut().call(root, "proxy_on_tick", &[root]);
        self.after_call(vm);
        let now = self.host.borrow().clock.monotonic();
        if let Some(Timer { period, due }) = vm.borrow_mut().state().timers.get_mut(&root) {
            *due = now + *period;
        }
    }

    fn settle(&self) {
        loop {
            let ready = self.host.borrow_mut().callouts.take_ready();
            let Some(pending) = ready else { return };
            self.deliver(pending);
        }
    }
}

/// A proxy with a chain of Wasm filters. See the crate for an example.
#[derive(Clone)]
pub struct Proxy {
    inner: Rc<Inner>,
}

/// 2026-01-01T00:00:00Z.
const START: u64 = 1_767_225_600;

impl Proxy {
    /// Describes a proxy with one worker and no plugin, at 2026-01-01T00:00:00Z.
    pub fn builder() -> Builder {
        let labels = Value::map([("app", "shop".into()), ("version", "v1".into())]);
        let metadata =
            [("NAMESPACE", "shop".into()), ("WORKLOAD_NAME", "shop-v1".into()), ("LABELS", labels)];
        let id = "sidecar~10.0.0.1~shop-v1-0.shop~shop.svc.cluster.local";
        Builder {
            workers: 1,
            plugins: Vec::new(),
            clusters: HashMap::new(),
            upstream: Rc::new(|_| Response::new(200).body("ok")),
            node: Value::map([
                ("id", id.into()),
                ("cluster", "shop.shop".into()),
                ("metadata", Value::map(metadata)),
            ]),
            edge: false,
            unix: Duration::from_secs(START),
            seed: 1,
            faults: Faults::default(),
        }
    }

    /// A worker, counted from 0.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn worker(&self, index: usize) -> Worker {
        assert!(index + 1 < self.inner.threads.borrow().len(), "the proxy has no worker {index}");
        Worker { proxy: self.clone(), thread: index + 1 }
    }

    /// Changes a plugin's configuration, as an xDS update does: a canary tries it, then each thread makes a new root
    /// context in the VM that it has, and the old root lives until its last stream ends.
    ///
    /// # Errors
    /// If the canary refuses; then the configuration in force stays.
    ///
    /// # Panics
    /// If there is no plugin of that name.
    pub fn update(&self, name: &str, configuration: impl Into<Vec<u8>>) -> Result<(), Rejected> {
        let inner = &self.inner;
        let slot = inner.threads.borrow()[0].slots.iter().position(|slot| slot.plugin.name == name);
        let slot = slot.unwrap_or_else(|| panic!("no plugin {name}"));
        let mut plugin = PluginConfig::clone(&inner.threads.borrow()[0].slots[slot].plugin);
        plugin.configuration = configuration.into();
        let plugin = Rc::new(plugin);
        inner.canary(&plugin)?;
        let threads = inner.threads.borrow().len();
        for thread in 0..threads {
            let root = inner.create_root(thread, &plugin);
            let loaded = inner.host.borrow().clock.monotonic();
            let fresh = Slot { plugin: Rc::clone(&plugin), root, loaded };
            let old = std::mem::replace(&mut inner.threads.borrow_mut()[thread].slots[slot], fresh);
            if let Some(root) = old.root {
                inner.release(root);
            }
        }
        self.settle();
        Ok(())
    }

    /// Moves both clocks forward; timers fire and callouts time out on the way, each at its moment.
    pub fn advance(&self, by: Duration) {
        let inner = &self.inner;
        let until = inner.host.borrow().clock.monotonic() + by;
        loop {
            let timer = inner.next_timer(until);
            let deadline = inner.host.borrow().callouts.next_deadline().filter(|deadline| *deadline <= until);
            let next = timer.as_ref().map(|(due, ..)| *due).into_iter().chain(deadline).min();
            let Some(next) = next else { break };
            {
                let mut host = inner.host.borrow_mut();
                let gap = next.saturating_sub(host.clock.monotonic());
                host.clock.advance(gap);
                host.callouts.expire(next);
            }
            if let Some((due, vm, root)) = timer
                && due == next
            {
                inner.tick(&vm, root);
            }
            inner.settle();
        }
        let mut host = inner.host.borrow_mut();
        let gap = until.saturating_sub(host.clock.monotonic());
        host.clock.advance(gap);
    }

    /// Sets the wall clock alone, in seconds since the Unix epoch; the monotonic clock and timers don't notice.
    pub fn set_clock(&self, unix: u64) {
        self.inner.host.borrow_mut().clock.set_wall(Duration::from_secs(unix));
    }

    /// The wall clock, in seconds since the Unix epoch.
    pub fn now(&self) -> u64 {
        self.inner.host.borrow().clock.wall().as_secs()
    }

    /// Replaces or adds a cluster.
    pub fn set_cluster<A: Into<Answer>>(&self, name: &str, answer: impl Fn(&CalloutRequest) -> A + 'static) {
        let handler: Handler = Rc::new(move |request| answer(request).into());
        self.inner.host.borrow_mut().callouts.clusters.insert(name.to_owned(), handler);
    }

    /// A cluster vanishes: the calls to it that are under way are reset (`ClusterEntry::~ClusterEntry`), and none is known by
    /// that name.
    pub fn remove_cluster(&self, name: &str) {
        {
            let mut host = self.inner.host.borrow_mut();
            host.callouts.clusters.remove(name);
            let lost = host.callouts.pending.iter_mut().filter(|pending| pending.request.cluster == name);
            for pending in lost {
                pending.answer.get_or_insert(Answer::Reset);
            }
        }
        self.settle();
    }

    /// The listener is removed: no request comes any more, and the plugins live until the last stream ends.
    pub fn drain(&self) {
        let threads = self.inner.threads.borrow().len();
        for thread in 0..threads {
            let slots = std::mem::take(&mut self.inner.threads.borrow_mut()[thread].slots);
            for root in slots.into_iter().filter_map(|slot| slot.root) {
                self.inner.release(root);
            }
        }
        self.settle();
    }

    /// SIGTERM: the workers end their connections, then the plugins go.
    pub fn terminate(&self) {
        let mut streams: Vec<u64> = self.inner.host.borrow().streams.keys().copied().collect();
        streams.sort_unstable();
        for stream in streams {
            self.inner.reset_stream(stream);
        }
        self.drain();
    }

    /// Callouts that wait for an answer.
    pub fn callouts(&self) -> Vec<CalloutRequest> {
        self.inner.host.borrow().callouts.pending.iter().map(|pending| pending.request.clone()).collect()
    }

    /// Answers a callout that was held, and delivers the answer.
    ///
    /// # Panics
    /// If no callout of that ID waits.
    pub fn answer(&self, id: u64, answer: impl Into<Answer>) {
        {
            let mut host = self.inner.host.borrow_mut();
            let pending = host.callouts.pending.iter_mut().find(|pending| pending.request.id == id);
            pending.unwrap_or_else(|| panic!("no callout {id} waits")).answer = Some(answer.into());
        }
        self.settle();
    }

    /// Does what comes in one iteration of a worker's event loop: what ends meanwhile is destroyed at once and deleted at the end
    /// (`Dispatcher::deferredDelete`), and until then the VM can still name it.
    pub fn in_one_iteration(&self, events: impl FnOnce()) {
        self.inner.host.borrow_mut().one_iteration = true;
        events();
        for vm in self.inner.all_vms() {
            vm.borrow_mut().state().contexts.retain(|_, context| !context.destroyed);
        }
        let mut host = self.inner.host.borrow_mut();
        host.one_iteration = false;
        for stream in std::mem::take(&mut host.dropped) {
            host.streams.remove(&stream);
        }
    }

    /// Delivers all answers that are there.
    pub fn settle(&self) {
        self.inner.settle();
    }

    /// Adds a fault.
    pub fn fault(&self, fault: Fault) {
        self.inner.host.borrow_mut().faults.add(fault);
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.inner.host.borrow_mut().faults.clear();
    }

    /// Everything that was logged, canaries included.
    pub fn logs(&self) -> Vec<Log> {
        self.inner.host.borrow().logs.clone()
    }

    /// Counters and gauges by name, without Envoy's prefix `wasmcustom.`.
    pub fn metrics(&self) -> BTreeMap<String, u64> {
        self.inner.host.borrow().metrics.values()
    }

    /// A counter or gauge, 0 if there is none.
    pub fn metric(&self, name: &str) -> u64 {
        self.metrics().get(name).copied().unwrap_or_default()
    }

    /// What was recorded in a histogram.
    pub fn samples(&self, name: &str) -> Vec<u64> {
        self.inner.host.borrow().metrics.samples(name)
    }

    /// Shared data of a `vm_id` (Istio's is empty), by key.
    pub fn shared_data(&self, vm_id: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.inner.host.borrow().shared_data.entries(vm_id)
    }

    /// Writes shared data, as another plugin of the proxy could.
    ///
    /// # Panics
    /// Never: a CAS of 0 overwrites.
    pub fn set_shared_data(&self, vm_id: &str, key: &[u8], value: &[u8]) {
        self.inner.host.borrow_mut().shared_data.set(vm_id, key, value, 0).expect("a CAS of 0 overwrites");
    }

    /// Host calls made so far by all VMs, by import name.
    pub fn calls(&self) -> BTreeMap<String, u64> {
        self.inner.host.borrow().calls.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    /// Which host calls were made in which callback so far, as (export, import) names: the moments at which a fault can
    /// strike.
    pub fn moments(&self) -> Vec<(String, String)> {
        let host = self.inner.host.borrow();
        host.moments.iter().map(|(callback, call)| (callback.clone(), (*call).to_owned())).collect()
    }

    /// How often a timer has fired so far, of all VMs.
    pub fn ticks(&self) -> u64 {
        self.inner.host.borrow().ticks
    }

    /// Why VMs are dead, empty if all live.
    pub fn failures(&self) -> Vec<String> {
        self.inner.all_vms().iter().filter_map(|vm| vm.borrow().failed.clone()).collect()
    }

    /// Bytes of memory that a worker's VMs have, all pages that they ever asked for: Wasm memory never shrinks.
    pub fn memory(&self, worker: usize) -> usize {
        let threads = self.inner.threads.borrow();
        threads[worker + 1].vms.values().map(|vm| vm.borrow_mut().memory_size()).sum()
    }

    /// Number of contexts that live in a worker's VMs, roots included: a leak shows here.
    pub fn contexts(&self, worker: usize) -> usize {
        let threads = self.inner.threads.borrow();
        let vms = threads[worker + 1].vms.values();
        vms.map(|vm| vm.borrow_mut().state().contexts.len() - 1).sum()
    }
}

/// A worker thread of a proxy.
#[derive(Clone)]
pub struct Worker {
    proxy: Proxy,
    thread: usize,
}

impl Worker {
    /// Sends a request and tells what became of it. Callouts that were answered are delivered; a stream that still
    /// waits after that is given up by the client, and comes back as [`crate::Outcome::Paused`].
    pub fn request(&self, request: Request) -> Exchange {
        self.start(request).exchange()
    }

    /// Sends a request and keeps hold of the stream.
    pub fn start(&self, mut request: Request) -> StreamHandle {
        let inner = &self.proxy.inner;
        let id = inner.next();
        for (name, value) in [
            ("x-forwarded-proto", "http".to_owned()),
            ("x-request-id", format!("00000000-0000-4000-8000-{id:012x}")),
        ] {
            if !request.headers.contains(name) {
                request.headers.add(name, value);
            }
        }
        if inner.edge {
            request.connection.append_forwarded_for(&mut request.headers);
        } else {
            request.connection.trust_forwarded_for(&request.headers);
        }
        let stream = {
            let host = inner.host.borrow();
            Stream::new(request, host.clock.wall(), host.metrics.values())
        };
        inner.start(id, self.thread, stream);
        self.proxy.settle();
        StreamHandle { proxy: self.proxy.clone(), id }
    }
}

/// A stream that may wait. Dropped, its client is gone.
pub struct StreamHandle {
    proxy: Proxy,
    id: u64,
}

impl StreamHandle {
    /// Whether a filter holds it back.
    pub fn is_paused(&self) -> bool {
        self.proxy.inner.with(self.id, |stream| stream.is_paused())
    }

    /// How the exchange stands.
    pub fn exchange(&self) -> Exchange {
        self.proxy.inner.exchange(self.id)
    }

    /// The client leaves.
    pub fn abort(self) -> Exchange {
        self.proxy.inner.reset_stream(self.id);
        self.exchange()
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.proxy.inner.reset_stream(self.id);
            let mut host = self.proxy.inner.host.borrow_mut();
            if host.one_iteration {
                host.dropped.push(self.id);
            } else {
                host.streams.remove(&self.id);
            }
        }
    }
}
