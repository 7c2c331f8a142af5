//! The host calls `proxy_*` that Envoy gives a module of ABI 0.2.1 (`FOR_ALL_HOST_FUNCTIONS` in
//! proxy-wasm-cpp-host `include/proxy-wasm/exports.h`). Each follows `src/exports.cc` there, then Envoy's
//! `source/extensions/common/wasm/context.cc`.

use wasmtime::{Caller, Linker};

use crate::vm::VmState;
use crate::vm::abi::Status;

mod buffers;
mod callouts;
mod foreign;
mod guest;
mod header_maps;
mod logs_and_metrics;
mod properties;
mod shared_data;
mod streams;
mod time;

pub(crate) use guest::Guest;
pub(crate) use properties::find_value;

use guest::Failure;

/// Gives a linker the host calls.
pub(crate) fn link(linker: &mut Linker<VmState>) -> wasmtime::Result<()> {
    macro_rules! define {
        ($($module:ident { $($name:ident($($argument:ident: $type:ty),*);)* })*) => {$($(
            linker.func_wrap(
                "env",
                concat!("proxy_", stringify!($name)),
                |caller: Caller<'_, VmState>, $($argument: $type),*| -> wasmtime::Result<u32> {
                    let mut guest = Guest::new(caller);
                    if let Some(status) = guest.enter(concat!("proxy_", stringify!($name)))? {
                        return Ok(status.0);
                    }
                    match $module::$name(&mut guest, $($argument),*) {
                        Ok(()) => Ok(Status::OK.0),
                        Err(Failure::Status(status)) => Ok(status.0),
                        Err(Failure::Trap(error)) => Err(error),
                    }
                },
            )?;
        )*)*};
    }
    define! {
        logs_and_metrics {
            log(level: u32, text: u32, size: u32);
            get_log_level(to: u32);
            define_metric(kind: u32, name: u32, name_size: u32, to: u32);
            increment_metric(id: u32, offset: i64);
            record_metric(id: u32, value: u64);
            get_metric(id: u32, to: u32);
        }
        time {
            set_tick_period_milliseconds(period: u32);
            get_current_time_nanoseconds(to: u32);
        }
        properties {
            set_property(path: u32, path_size: u32, value: u32, value_size: u32);
            get_property(path: u32, path_size: u32, pointer_to: u32, size_to: u32);
        }
        streams {
            continue_stream(kind: u32);
            close_stream(kind: u32);
            send_local_response(status: u32, details: u32, details_size: u32, body: u32, body_size: u32,
                headers: u32, headers_size: u32, grpc_status: u32);
            set_effective_context(context: u32);
            done();
        }
        header_maps {
            get_header_map_value(kind: u32, name: u32, name_size: u32, pointer_to: u32, size_to: u32);
            add_header_map_value(kind: u32, name: u32, name_size: u32, value: u32, value_size: u32);
            replace_header_map_value(kind: u32, name: u32, name_size: u32, value: u32, value_size: u32);
            remove_header_map_value(kind: u32, name: u32, name_size: u32);
            get_header_map_pairs(kind: u32, pointer_to: u32, size_to: u32);
            set_header_map_pairs(kind: u32, pairs: u32, pairs_size: u32);
            get_header_map_size(kind: u32, to: u32);
        }
        buffers {
            get_buffer_status(kind: u32, length_to: u32, flags_to: u32);
            get_buffer_bytes(kind: u32, start: u32, length: u32, pointer_to: u32, size_to: u32);
            set_buffer_bytes(kind: u32, start: u32, length: u32, data: u32, data_size: u32);
        }
        shared_data {
            get_shared_data(key: u32, key_size: u32, pointer_to: u32, size_to: u32, cas_to: u32);
            set_shared_data(key: u32, key_size: u32, value: u32, value_size: u32, cas: u32);
            register_shared_queue(name: u32, name_size: u32, token_to: u32);
            resolve_shared_queue(vm_id: u32, vm_id_size: u32, name: u32, name_size: u32, token_to: u32);
            dequeue_shared_queue(token: u32, pointer_to: u32, size_to: u32);
            enqueue_shared_queue(token: u32, value: u32, value_size: u32);
        }
        callouts {
            http_call(cluster: u32, cluster_size: u32, headers: u32, headers_size: u32, body: u32, body_size: u32,
                trailers: u32, trailers_size: u32, timeout: u32, token_to: u32);
            grpc_call(service: u32, service_size: u32, name: u32, name_size: u32, method: u32, method_size: u32,
                metadata: u32, metadata_size: u32, message: u32, message_size: u32, timeout: u32, token_to: u32);
            grpc_stream(service: u32, service_size: u32, name: u32, name_size: u32, method: u32, method_size: u32,
                metadata: u32, metadata_size: u32, token_to: u32);
            grpc_cancel(token: u32);
            grpc_close(token: u32);
            grpc_send(token: u32, message: u32, message_size: u32, end_stream: u32);
            get_status(code_to: u32, pointer_to: u32, size_to: u32);
        }
        foreign {
            call_foreign_function(name: u32, name_size: u32, argument: u32, argument_size: u32,
                pointer_to: u32, size_to: u32);
        }
    }
    Ok(())
}
