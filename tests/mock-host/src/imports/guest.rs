//! The guest that makes a host call: its memory, its contexts, and what strikes the call.

use wasmtime::Caller;

use crate::host::faults::Effect;
use crate::stream::Stream;
use crate::vm::abi::Status;
use crate::vm::{Context, VmState};

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

pub(super) type Done = Result<(), Failure>;

/// The guest that makes a host call.
pub(crate) struct Guest<'a> {
    caller: Caller<'a, VmState>,
    pub(super) spoil: Option<Effect>,
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

    pub(super) fn context(&mut self) -> Option<&mut Context> {
        let state = self.caller.data_mut();
        state.context_mut(state.acting())
    }

    pub(super) fn root(&mut self) -> Option<(u32, &mut Context)> {
        let state = self.caller.data_mut();
        let root = state.context(state.acting())?.root;
        Some((root, state.context_mut(root)?))
    }

    /// Does something with the stream of the acting context, if it has one.
    pub(super) fn with_stream<T>(&mut self, act: impl FnOnce(&mut Stream) -> T) -> Option<T> {
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
    pub(super) fn give(&mut self, bytes: &[u8], pointer_to: u32, size_to: u32) -> Done {
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

/// What the guest may call while its allocator or start function runs (`setRestrictedCallback` in
/// `src/wasm.cc`).
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
