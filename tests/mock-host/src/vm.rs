//! One Wasm VM: a module's instance on one thread, its contexts, and calls into it.

pub(crate) mod abi;
pub(crate) mod wasi;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use wasmtime::{Config, Engine, Instance, InstancePre, Linker, Memory, Module, Store, TypedFunc, Val};

use crate::foreign::cel::Expressions;
use crate::host::SharedHost;
use crate::host::filter_state::Prototype;
use crate::host::logs::{Level, Log};
use crate::host::metrics::MetricIds;
use crate::imports;
use crate::proxy::PluginConfig;
use crate::stream::exchange::Response;

/// Compiled code, linked to the host calls; shared by all VMs and all tests of a process.
#[derive(Clone)]
pub(crate) struct Code {
    pre: InstancePre<VmState>,
    pub(crate) digest: [u8; 32],
}

/// Compiles code once for a process, and keeps the compiled form under `target/` for the next.
pub(crate) fn compile(wasm: &[u8]) -> Result<Code, String> {
    static COMPILED: OnceLock<Mutex<HashMap<[u8; 32], Code>>> = OnceLock::new();
    let digest: [u8; 32] =
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, wasm).as_ref().try_into().expect("32 bytes");
    let mut compiled = COMPILED.get_or_init(Mutex::default).lock().expect("no panic while compiling");
    if let Some(code) = compiled.get(&digest) {
        return Ok(code.clone());
    }
    let module = cache::load(engine(), wasm, &digest).map_err(|error| format!("{error:?}"))?;
    check_abi(&module)?;
    let mut linker = Linker::new(engine());
    imports::link(&mut linker)
        .and_then(|()| wasi::link(&mut linker))
        .map_err(|error| format!("{error:?}"))?;
    let pre = linker.instantiate_pre(&module).map_err(|error| format!("{error:?}"))?;
    let code = Code { pre, digest };
    compiled.insert(digest, code.clone());
    Ok(code)
}

fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new(&Config::new()).expect("the default configuration works"))
}

/// `BytecodeUtil::getAbiVersion` (proxy-wasm-cpp-host): the ABI version is the name of an exported function.
/// Envoy takes older ones too; the mock host does not.
fn check_abi(module: &Module) -> Result<(), String> {
    let found = module.exports().any(|export| export.name() == "proxy_abi_version_0_2_1");
    if found {
        Ok(())
    } else {
        Err("missing or unknown Proxy-Wasm ABI version: no proxy_abi_version_0_2_1".to_owned())
    }
}

/// The compiled form of modules, kept in a folder of the build.
mod cache {
    use super::{Engine, Module, Path, PathBuf};

    pub(super) fn load(engine: &Engine, wasm: &[u8], digest: &[u8; 32]) -> wasmtime::Result<Module> {
        let file = folder(engine).join(format!("{:032x}{:032x}", half(digest, 0), half(digest, 16)));
        if let Some(module) = read(engine, &file) {
            return Ok(module);
        }
        let module = Module::new(engine, wasm)?;
        // A cache that can't be written costs time, nothing else.
        let _ = write(&file, &module);
        Ok(module)
    }

    fn half(digest: &[u8; 32], at: usize) -> u128 {
        digest[at..at + 16].iter().fold(0, |sum, byte| sum << 8 | u128::from(*byte))
    }

    fn folder(engine: &Engine) -> PathBuf {
        use std::hash::{DefaultHasher, Hash as _, Hasher as _};
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
        target.join("mock-host").join(format!("{:016x}", hasher.finish()))
    }

    #[allow(unsafe_code, reason = "the file was written by `write` below, for this engine")]
    fn read(engine: &Engine, file: &Path) -> Option<Module> {
        // SAFETY: only this module writes into the folder, and moves complete files into place.
        unsafe { Module::deserialize_file(engine, file) }.ok()
    }

    fn write(file: &Path, module: &Module) -> Result<(), Box<dyn std::error::Error>> {
        std::fs::create_dir_all(file.parent().unwrap_or(file))?;
        let partial = file.with_extension(std::process::id().to_string());
        std::fs::write(&partial, module.serialize()?)?;
        std::fs::rename(partial, file)?;
        Ok(())
    }
}

/// What a context is (`ContextBase` and Envoy's `Context`). ID 0 is the VM's own context.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is one of Envoy's flags or pointers")]
pub(crate) struct Context {
    /// The root context's ID; a root's own.
    pub(crate) root: u32,
    pub(crate) plugin: Option<Rc<PluginConfig>>,
    pub(crate) stream: Option<u64>,
    /// `destroyed_`: its stream has ended, and the context is deleted when the worker's iteration is over.
    pub(crate) destroyed: bool,
    /// `in_vm_context_created_`.
    pub(crate) created: bool,
    /// Whether the maps are there now: Envoy's pointers `request_headers_` and `response_headers_` are null
    /// before the callback, and after one that let the stream go on.
    pub(crate) request_headers: bool,
    pub(crate) response_headers: bool,
    pub(crate) request_body: bool,
    pub(crate) response_body: bool,
    /// `access_log_phase_`.
    pub(crate) access_log: bool,
    /// `failure_local_reply_sent_`.
    pub(crate) failure_replied: bool,
    /// `temp_plugin_`: the plugin's configuration can be read only while a root is made and configured.
    pub(crate) configuring: bool,
    /// Of a root: the callout being delivered.
    pub(crate) call_response: Option<Response>,
    pub(crate) grpc_message: Option<Vec<u8>>,
    /// Of a root: `getStatus`.
    pub(crate) status: (u32, String),
    /// Of a root: what `declare_property` declared.
    pub(crate) prototypes: BTreeMap<String, Prototype>,
    /// Of a root: what `expr_create` created.
    pub(crate) expressions: Expressions,
}

/// What is done after the outermost call into the VM returned (`WasmBase::addAfterVmCallAction`).
#[derive(Debug)]
pub(crate) enum AfterCall {
    Continue { context: u32, direction: crate::vm::abi::Direction },
    LocalReply { context: u32, reply: crate::stream::local_reply::LocalReply },
    Reset { context: u32 },
    EndCallout { root: u32 },
    GrpcClosed { root: u32, token: u32, status: u32, message: String },
    DeleteRoot { root: u32 },
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Timer {
    pub(crate) period: Duration,
    /// On the monotonic clock.
    pub(crate) due: Duration,
}

/// The host's side of a VM, which host calls reach.
pub(crate) struct VmState {
    pub(crate) host: SharedHost,
    pub(crate) serial: u64,
    pub(crate) thread: usize,
    pub(crate) vm_id: String,
    pub(crate) vm_configuration: Vec<u8>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) contexts: BTreeMap<u32, Context>,
    next_context: u32,
    /// `current_context_` and `effective_context_id_` (proxy-wasm-cpp-host `src/exports.cc`).
    pub(crate) current: u32,
    pub(crate) effective: u32,
    /// Name of the export that runs.
    pub(crate) callback: String,
    /// While the guest's allocator or start function runs, few host calls are allowed
    /// (`setRestrictedCallback`).
    pub(crate) restricted: bool,
    pub(crate) stop_iteration: bool,
    pub(crate) after_call: VecDeque<AfterCall>,
    pub(crate) timers: BTreeMap<u32, Timer>,
    pub(crate) metric_ids: MetricIds,
    /// `pending_done_`: roots whose `on_done` answered false.
    pub(crate) pending_done: Vec<u32>,
    http_calls: u32,
    grpc_calls: u32,
    pub(crate) memory: Option<Memory>,
    pub(crate) allocate: Option<TypedFunc<u32, u32>>,
}

impl VmState {
    /// `contextOrEffectiveContext`: the effective context while it exists, else the current one.
    pub(crate) fn acting(&self) -> u32 {
        if self.effective != 0 && self.contexts.contains_key(&self.effective) {
            self.effective
        } else {
            self.current
        }
    }

    pub(crate) fn context(&self, id: u32) -> Option<&Context> {
        self.contexts.get(&id)
    }

    pub(crate) fn context_mut(&mut self, id: u32) -> Option<&mut Context> {
        self.contexts.get_mut(&id)
    }

    /// `allocContextId`.
    pub(crate) fn add_context(&mut self, mut context: Context) -> u32 {
        self.next_context += 1;
        if context.root == 0 {
            context.root = self.next_context;
        }
        self.contexts.insert(self.next_context, context);
        self.next_context
    }

    /// `nextHttpCallId` (`include/proxy-wasm/wasm.h`): the kind of callout is in the two low bits.
    pub(crate) fn next_http_call(&mut self) -> u32 {
        self.http_calls += 4;
        self.http_calls
    }

    /// `nextGrpcCallId`.
    pub(crate) fn next_grpc_call(&mut self) -> u32 {
        self.grpc_calls += 4;
        self.grpc_calls | 1
    }

    pub(crate) fn log(&self, level: Level, message: String) {
        let context = self.context(self.acting());
        let plugin = context.and_then(|context| context.plugin.as_ref()).map(|plugin| plugin.name.clone());
        let stream = context.and_then(|context| context.stream);
        self.host.borrow_mut().logs.push(Log { level, message, plugin: plugin.unwrap_or_default(), stream });
    }
}

/// An instance.
pub(crate) struct Vm {
    pub(crate) store: Store<VmState>,
    instance: Instance,
    /// Why it is dead.
    pub(crate) failed: Option<String>,
}

/// How a VM differs from others of the same code (`makeVmKey`; the environment is not part of Envoy's key).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct VmKey {
    pub(crate) code: [u8; 32],
    pub(crate) vm_id: String,
    pub(crate) configuration: Vec<u8>,
}

impl Vm {
    /// `WasmBase::initialize`: instantiates and runs `_initialize` and `main`, or `_start`.
    pub(crate) fn new(
        code: &Code,
        host: &SharedHost,
        serial: u64,
        thread: usize,
        plugin: &PluginConfig,
        env: BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let state = VmState {
            host: Rc::clone(host),
            serial,
            thread,
            vm_id: plugin.vm_id.clone(),
            vm_configuration: plugin.vm_configuration.clone(),
            env,
            contexts: BTreeMap::from([(0, Context::default())]),
            next_context: 0,
            current: 0,
            effective: 0,
            callback: String::new(),
            restricted: false,
            stop_iteration: false,
            after_call: VecDeque::new(),
            timers: BTreeMap::new(),
            metric_ids: MetricIds::default(),
            pending_done: Vec::new(),
            http_calls: 0,
            grpc_calls: 0,
            memory: None,
            allocate: None,
        };
        let mut store = Store::new(engine(), state);
        let instance = code.pre.instantiate(&mut store).map_err(|error| format!("{error:?}"))?;
        store.data_mut().memory = instance.get_memory(&mut store, "memory");
        let allocate = ["malloc", "proxy_on_memory_allocate"]
            .into_iter()
            .find_map(|name| instance.get_typed_func(&mut store, name).ok())
            .ok_or("Wasm module is missing malloc function.")?;
        store.data_mut().allocate = Some(allocate);
        let mut vm = Self { store, instance, failed: None };
        vm.store.data_mut().restricted = true;
        if vm.exports("_initialize") {
            vm.call(0, "_initialize", &[]);
            if vm.exports("main") {
                vm.call(0, "main", &[0, 0]);
            }
        } else {
            vm.call(0, "_start", &[]);
        }
        vm.store.data_mut().restricted = false;
        match vm.failed.take() {
            Some(message) => Err(message),
            None => Ok(vm),
        }
    }

    pub(crate) fn state(&mut self) -> &mut VmState {
        self.store.data_mut()
    }

    pub(crate) fn memory_size(&self) -> usize {
        self.store.data().memory.map_or(0, |memory| memory.data_size(&self.store))
    }

    pub(crate) fn exports(&mut self, name: &str) -> bool {
        self.instance.get_func(&mut self.store, name).is_some()
    }

    fn die(&mut self, message: String) {
        self.store.data().log(Level::Critical, message.clone());
        self.failed = Some(message);
    }

    /// Calls an export for a context: `None` if the module lacks it or the VM is dead; `Some(0)` if it
    /// returns nothing. A trap kills the VM.
    pub(crate) fn call(&mut self, context: u32, export: &str, args: &[u32]) -> Option<u32> {
        if self.failed.is_some() {
            return None;
        }
        let function = self.instance.get_func(&mut self.store, export)?;
        if self.store.data().host.borrow().nested > MOST_NESTED {
            self.die(format!(
                "Function: {export} failed: Uncaught RangeError: Maximum call stack size exceeded"
            ));
            return None;
        }
        let results = function.ty(&self.store).results().len();
        let args: Vec<Val> = args.iter().map(|arg| Val::I32(arg.cast_signed())).collect();
        let mut out = vec![Val::I32(0); results];
        let state = self.store.data_mut();
        state.current = context;
        state.effective = 0;
        export.clone_into(&mut state.callback);
        let result = function.call(&mut self.store, &args, &mut out);
        if let Err(error) = result {
            self.die(format!("Function: {export} failed: {error:?}"));
        }
        let state = self.store.data_mut();
        state.current = 0;
        state.effective = 0;
        state.callback.clear();
        out.first().and_then(Val::i32).map(i32::cast_unsigned).or(Some(0)).filter(|_| self.failed.is_none())
    }
}

/// The deepest nesting of calls from within the actions after another call (`doAfterVmCallActions`). Envoy
/// has no such number: its thread's stack has an end, and 300 to 400 levels reached it in Envoy 1.39,
/// depending on the chain. The bound is far below, since a chain may be longer and a stack shorter.
pub(crate) const MOST_NESTED: usize = 64;

/// Code by its source, for messages.
pub(crate) fn read(path: &Path) -> Result<Arc<[u8]>, String> {
    std::fs::read(path).map(Arc::from).map_err(|error| format!("{}: {error}", path.display()))
}
