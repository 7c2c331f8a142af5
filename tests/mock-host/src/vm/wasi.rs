//! The WASI functions that Envoy gives (`FOR_ALL_WASI_FUNCTIONS` and `wasi_unstable_*` in proxy-wasm-cpp-host
//! `include/proxy-wasm/exports.h` and `src/exports.cc`), and no other: a full WASI would hide an import that
//! Envoy lacks.

use wasmtime::{Caller, Linker};

use crate::host::logs::Level;
use crate::imports::Guest;
use crate::vm::VmState;

const SUCCESS: u32 = 0;
const BADF: u32 = 8;
const FAULT: u32 = 21;
const INVAL: u32 = 28;
const NOENT: u32 = 44;
const NOSYS: u32 = 52;
const NOTSUP: u32 = 58;

/// `PROXY_WASM_HOST_WASI_RANDOM_GET_MAX_SIZE_BYTES` (`include/proxy-wasm/limits.h`).
const RANDOM_MAX: u32 = 64 * 1024;

type Errno = u32;

/// Gives a linker the functions under both module names.
pub(crate) fn link(linker: &mut Linker<VmState>) -> wasmtime::Result<()> {
    macro_rules! define {
        ($($name:ident($($argument:ident: $type:ty),*);)*) => {
            for module in ["wasi_unstable", "wasi_snapshot_preview1"] {$(
                linker.func_wrap(
                    module,
                    stringify!($name),
                    |caller: Caller<'_, VmState>, $($argument: $type),*| -> wasmtime::Result<Errno> {
                        let mut guest = Guest::new(caller);
                        if let Some(status) = guest.enter(stringify!($name))? {
                            return Ok(status.0);
                        }
                        Ok($name(&mut guest, $($argument),*))
                    },
                )?;
            )*}
        };
    }
    define! {
        fd_write(fd: u32, iovs: u32, iovs_count: u32, written_to: u32);
        fd_read(fd: u32, iovs: u32, iovs_count: u32, read_to: u32);
        fd_seek(fd: u32, offset: i64, whence: u32, offset_to: u32);
        fd_close(fd: u32);
        fd_fdstat_get(fd: u32, to: u32);
        environ_get(array: u32, buffer: u32);
        environ_sizes_get(count_to: u32, size_to: u32);
        args_get(array: u32, buffer: u32);
        args_sizes_get(count_to: u32, size_to: u32);
        clock_time_get(clock: u32, precision: u64, to: u32);
        random_get(buffer: u32, size: u32);
        path_open(fd: u32, flags: u32, path: u32, size: u32, open_flags: u32, rights: u64, inheriting: u64,
            fd_flags: u32, to: u32);
        fd_prestat_get(fd: u32, to: u32);
        fd_prestat_dir_name(fd: u32, path: u32, size: u32);
    }
    for module in ["wasi_unstable", "wasi_snapshot_preview1"] {
        linker.func_wrap(
            module,
            "proc_exit",
            |caller: Caller<'_, VmState>, _: u32| -> wasmtime::Result<()> {
                // It only logs, at trace level, and returns; the `unreachable` that compilers put behind it
                // traps.
                Guest::new(caller).enter("proc_exit").map(|_| ())
            },
        )?;
    }
    Ok(())
}

/// `writevImpl`: standard output is logged as info, standard error as error, without the last line end.
fn fd_write(guest: &mut Guest, fd: u32, iovs: u32, iovs_count: u32, written_to: u32) -> Errno {
    let level = match fd {
        1 => Level::Info,
        2 => Level::Error,
        _ => return BADF,
    };
    let mut text = Vec::new();
    for index in 0..iovs_count {
        let Ok(iov) = guest.read(iovs.wrapping_add(index.wrapping_mul(8)), 8) else { return FAULT };
        let word = |at: usize| u32::from_le_bytes([iov[at], iov[at + 1], iov[at + 2], iov[at + 3]]);
        let Ok(part) = guest.read(word(0), word(4)) else { return FAULT };
        text.extend(part);
    }
    let written = u32::try_from(text.len()).unwrap_or(u32::MAX);
    if text.ends_with(b"\n") {
        text.pop();
    }
    if written > 0 {
        guest.state().log(level, String::from_utf8_lossy(&text).into_owned());
    }
    word(guest, written_to, written)
}

fn fd_read(_: &mut Guest, _: u32, _: u32, _: u32, _: u32) -> Errno {
    NOSYS
}

fn fd_seek(_: &mut Guest, _: u32, _: i64, _: u32, _: u32) -> Errno {
    SUCCESS
}

fn fd_close(_: &mut Guest, _: u32) -> Errno {
    SUCCESS
}

fn fd_fdstat_get(guest: &mut Guest, fd: u32, to: u32) -> Errno {
    if fd != 1 && fd != 2 {
        return BADF;
    }
    let mut stat = [0; 24];
    stat[8] = 64;
    let _ = guest.write(to, &stat);
    SUCCESS
}

fn environ_get(guest: &mut Guest, mut array: u32, mut buffer: u32) -> Errno {
    for (key, value) in guest.state().env.clone() {
        let entry = format!("{key}={value}\0");
        if guest.write_word(array, buffer).is_err() || guest.write(buffer, entry.as_bytes()).is_err() {
            return FAULT;
        }
        array = array.wrapping_add(4);
        buffer = buffer.wrapping_add(u32::try_from(entry.len()).unwrap_or(u32::MAX));
    }
    SUCCESS
}

fn environ_sizes_get(guest: &mut Guest, count_to: u32, size_to: u32) -> Errno {
    let env = &guest.state().env;
    let count = u32::try_from(env.len()).unwrap_or(u32::MAX);
    let size: usize = env.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
    both(guest, (count_to, count), (size_to, u32::try_from(size).unwrap_or(u32::MAX)))
}

fn args_get(_: &mut Guest, _: u32, _: u32) -> Errno {
    SUCCESS
}

fn args_sizes_get(guest: &mut Guest, count_to: u32, size_to: u32) -> Errno {
    both(guest, (count_to, 0), (size_to, 0))
}

fn clock_time_get(guest: &mut Guest, clock: u32, _: u64, to: u32) -> Errno {
    let clocks = guest.state().host.borrow().clock;
    let time = match clock {
        0 => clocks.wall(),
        1 => clocks.monotonic(),
        _ => return NOTSUP,
    };
    let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    guest.write(to, &nanoseconds.to_le_bytes()).map_or(FAULT, |()| SUCCESS)
}

fn random_get(guest: &mut Guest, buffer: u32, size: u32) -> Errno {
    if size > RANDOM_MAX {
        return INVAL;
    }
    let bytes = guest.state().host.borrow_mut().random.bytes(usize::try_from(size).unwrap_or_default());
    guest.write(buffer, &bytes).map_or(FAULT, |()| SUCCESS)
}

#[allow(clippy::too_many_arguments, reason = "WASI's")]
fn path_open(_: &mut Guest, _: u32, _: u32, _: u32, _: u32, _: u32, _: u64, _: u64, _: u32, _: u32) -> Errno {
    NOENT
}

fn fd_prestat_get(_: &mut Guest, _: u32, _: u32) -> Errno {
    BADF
}

fn fd_prestat_dir_name(_: &mut Guest, _: u32, _: u32, _: u32) -> Errno {
    NOSYS
}

fn word(guest: &mut Guest, to: u32, value: u32) -> Errno {
    guest.write_word(to, value).map_or(FAULT, |()| SUCCESS)
}

fn both(guest: &mut Guest, (a_to, a): (u32, u32), (b_to, b): (u32, u32)) -> Errno {
    match word(guest, a_to, a) {
        SUCCESS => word(guest, b_to, b),
        error => error,
    }
}
