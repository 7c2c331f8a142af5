//! The threads of the proxy and the VMs and root contexts on them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::plugin::{FailurePolicy, PluginConfig, PluginKey, Rejected};
use crate::host::SharedHost;
use crate::host::callouts::{Answer, Pending};
use crate::stream::exchange::{Response, UpstreamRequest};
use crate::vm::{AfterCall, Context, MOST_NESTED, Timer, Vm, VmKey};

/// A plugin's root context in a thread's VM (`PluginHandleBase`): it lives while the plugin is configured or
/// a stream uses it.
pub(crate) struct Root {
    pub(crate) vm: Rc<RefCell<Vm>>,
    pub(crate) vm_serial: u64,
    pub(crate) context: u32,
    pub(crate) plugin: Rc<PluginConfig>,
}

/// The main thread, which serves no request, or a worker.
#[derive(Default)]
pub(super) struct Thread {
    pub(super) vms: HashMap<VmKey, Rc<RefCell<Vm>>>,
    pub(super) roots: Vec<Weak<Root>>,
    pub(super) slots: Vec<Slot>,
}

/// One plugin of the chain on one thread.
pub(super) struct Slot {
    pub(super) plugin: Rc<PluginConfig>,
    pub(super) root: Option<Rc<Root>>,
    /// On the monotonic clock, for `FAIL_RELOAD`.
    pub(super) loaded: Duration,
}

/// Behind [`Proxy`] and its handles.
pub(crate) struct Inner {
    pub(crate) host: SharedHost,
    pub(crate) upstream: Rc<dyn Fn(&UpstreamRequest) -> Response>,
    pub(super) edge: bool,
    pub(super) threads: RefCell<Vec<Thread>>,
    pub(super) vms: RefCell<HashMap<u64, Weak<RefCell<Vm>>>>,
    /// `plugin_canary_cache_`: the verdict on a configuration is remembered.
    pub(super) canaries: RefCell<HashMap<(VmKey, PluginKey), bool>>,
    pub(super) envs: RefCell<HashMap<VmKey, BTreeMap<String, String>>>,
    pub(super) next: Cell<u64>,
}

impl Inner {
    pub(super) fn next(&self) -> u64 {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    pub(super) fn new_vm(
        &self,
        thread: usize,
        plugin: &PluginConfig,
    ) -> Result<(u64, Rc<RefCell<Vm>>), String> {
        let env = self.envs.borrow_mut().entry(plugin.vm_key()).or_insert_with(|| plugin.env.clone()).clone();
        let serial = self.next();
        let vm = Rc::new(RefCell::new(Vm::new(&plugin.code, &self.host, serial, thread, plugin, env)?));
        self.vms.borrow_mut().insert(serial, Rc::downgrade(&vm));
        Ok((serial, vm))
    }

    /// `WasmHandleBase::canary` (proxy-wasm-cpp-host `src/wasm.cc`): a throwaway VM is started and configured
    /// first; if it refuses, so does the proxy, and what is in force stays. It shares the process's shared
    /// data.
    pub(super) fn canary(&self, plugin: &Rc<PluginConfig>) -> Result<(), Rejected> {
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
    pub(super) fn start_root(&self, vm: &Rc<RefCell<Vm>>, plugin: &Rc<PluginConfig>) -> Result<u32, String> {
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
    pub(super) fn configure(&self, vm: &Rc<RefCell<Vm>>, root: u32) -> bool {
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

    /// `getOrCreateThreadLocalPlugin`: a plugin of the same key keeps its root; else a new root starts, in
    /// the thread's VM of that code if it lives. A root that refuses its configuration is no root: the plugin
    /// is absent there.
    pub(super) fn create_root(&self, thread: usize, plugin: &Rc<PluginConfig>) -> Option<Rc<Root>> {
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

    /// A root that refused after the canary had accepted: if its VM serves no other, it is shut down with its
    /// root (`~WasmHandleBase`). Seen in Envoy 1.39: requests then pass without the plugin, under
    /// `FAIL_CLOSE` too.
    pub(super) fn abandon(&self, thread: usize, vm: &Rc<RefCell<Vm>>, root: u32) {
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

    /// Drops one use of a root; the last one shuts it down (`WasmBase::startShutdown`): `on_done`, and
    /// `on_delete` unless `on_done` answered false, when `proxy_done` must come first.
    pub(crate) fn release(&self, root: Rc<Root>) {
        if let Some(root) = Rc::into_inner(root) {
            self.shut_down(&root.vm, root.context);
        }
    }

    pub(super) fn shut_down(&self, vm: &Rc<RefCell<Vm>>, root: u32) {
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

    pub(super) fn delete_root(&self, vm: &Rc<RefCell<Vm>>, root: u32) {
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

    /// `WasmBase::doAfterVmCallActions`: in order, and what these add too. An action may enter the VM again,
    /// and what is left is then done from within that call: a callback that answers many streams nests as
    /// deep as there are of them.
    pub(crate) fn after_call(&self, vm: &Rc<RefCell<Vm>>) {
        vm.borrow_mut().state().stop_iteration = false;
        if self.host.borrow().nested > MOST_NESTED {
            // The VM has just died of it (see `Vm::call`). The calls further out do what is left, so that the
            // test sees it.
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

    pub(super) fn act(&self, vm: &Rc<RefCell<Vm>>, action: AfterCall) {
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
    pub(super) fn deliver(&self, pending: Pending) {
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

    pub(super) fn close_grpc(
        &self,
        vm: &Rc<RefCell<Vm>>,
        root: u32,
        token: u32,
        status: u32,
        message: String,
    ) {
        self.root_callback(vm, root, "proxy_on_grpc_close", &[root, token, status], |context| {
            context.status = (status, message);
        });
    }

    pub(super) fn root_callback(
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
    pub(super) fn all_vms(&self) -> Vec<Rc<RefCell<Vm>>> {
        let mut vms: Vec<_> =
            self.threads.borrow().iter().flat_map(|thread| thread.vms.values().cloned()).collect();
        vms.sort_by_key(|vm| {
            let mut vm = vm.borrow_mut();
            (vm.state().thread, vm.state().serial)
        });
        vms
    }

    /// The timer that is due first, up to a moment of the monotonic clock.
    pub(super) fn next_timer(&self, until: Duration) -> Option<(Duration, Rc<RefCell<Vm>>, u32)> {
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
    pub(super) fn tick(&self, vm: &Rc<RefCell<Vm>>, root: u32) {
        self.host.borrow_mut().ticks += 1;
        vm.borrow_mut().call(root, "proxy_on_tick", &[root]);
        self.after_call(vm);
        let now = self.host.borrow().clock.monotonic();
        if let Some(Timer { period, due }) = vm.borrow_mut().state().timers.get_mut(&root) {
            *due = now + *period;
        }
    }

    pub(super) fn settle(&self) {
        loop {
            let ready = self.host.borrow_mut().callouts.take_ready();
            let Some(pending) = ready else { return };
            self.deliver(pending);
        }
    }
}
