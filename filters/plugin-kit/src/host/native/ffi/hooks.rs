//! The functions that the proxy calls. What they run catches panics; whatever still unwinds is caught here, so that it never reaches
//! the proxy.

use std::rc::Rc;
use std::sync::Arc;

use super::config::{Handle, MainThread};
use super::stream::Stream;
use super::table::Given;
use super::{Buffer, Header, header_map, slice};
use crate::host::native::calls::caught;
use crate::host::native::config::{Shared, start_timer};
use crate::host::native::document::Plugin;
use crate::host::native::live::{Callbacks, Unconfigured, forget, hosted, keep};
use crate::host::native::outside::{self, Answer, LARGEST};
use crate::host::native::{FILTERS, filter};

/// What this module gives the proxy as its configuration.
type Configuration = *const Shared;

/// What this module gives the proxy as its stream.
type Context = *const Rc<dyn Callbacks>;

const CONTINUE: u32 = 0;
/// The rest of the request waits in the client, once the proxy's buffer is full.
const STOP_ALL: u32 = 4;

/// # Safety
/// `configuration` is what `http_filter_config_new` has returned, and `http_filter_config_destroy` was not called with it.
unsafe fn shared(configuration: Configuration) -> Option<Arc<Shared>> {
    if configuration.is_null() {
        return None;
    }
    // SAFETY: the proxy has one count of this `Arc`, which stays its own.
    Some(unsafe {
        Arc::increment_strong_count(configuration);
        Arc::from_raw(configuration)
    })
}

/// The stream, which stays there while the hook runs, even if the proxy destroys it meanwhile.
///
/// # Safety
/// `context` is what `http_filter_new` has returned, and `http_filter_destroy` was not called with it.
unsafe fn stream(context: Context) -> Option<Rc<dyn Callbacks>> {
    // SAFETY: as the caller promises. Only the stream's worker uses it.
    unsafe { context.as_ref() }.cloned()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_new(
    config: Given,
    name: Buffer,
    json: Buffer,
) -> Configuration {
    // SAFETY: the proxy makes configurations on its main thread, and both buffers are live for the call.
    let (main, name, json) = unsafe { (MainThread::new(), name.bytes(), json.bytes()) };
    let made = caught(|| {
        let Some(entry) = filter(name) else {
            let known: Vec<_> =
                FILTERS.get().into_iter().copied().flatten().map(|entry| entry.name).collect();
            let name = String::from_utf8_lossy(name);
            log::error!(
                "mesh-filters: no filter `{}`; expected as filter_name one of {}",
                name.escape_debug(),
                known.join(", ")
            );
            return None;
        };
        let plugin = Plugin::parse(json, |name| std::env::var(name).ok());
        let plugin =
            plugin.map_err(|errors| log::error!("{}: configuration refused: {errors}", entry.name)).ok()?;
        // SAFETY: the proxy has just given the pointer, and the hook below ends the handle.
        let shared = Shared::new(main, entry, plugin, unsafe { Handle::new(config) });
        let Some(filter) = (entry.make)(&shared, Some(main)) else {
            shared.handle.end();
            shared.end();
            return None;
        };
        keep(&shared, Some(filter));
        start_timer(&shared);
        Some(shared)
    });
    made.flatten().map_or(std::ptr::null(), Arc::into_raw)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_destroy(configuration: Configuration) {
    caught(|| {
        if configuration.is_null() {
            return;
        }
        // SAFETY: this is the count that the proxy had, and it does not use the pointer again.
        let shared = unsafe { Arc::from_raw(configuration) };
        shared.end();
        shared.handle.end();
        forget(shared.id);
    });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_new(
    configuration: Configuration,
    given: Given,
) -> Context {
    // SAFETY: the proxy has just given the pointer; `destroy` below makes the stream forget it.
    let handle = unsafe { Stream::new(given) };
    // SAFETY: the configuration lives as long as its streams.
    let opened = caught(|| {
        unsafe { shared(configuration) }.map(|shared| {
            let name = shared.entry.name;
            (hosted(&shared).map(|filter| filter.open(handle)), name)
        })
    });
    let stream = match opened.flatten() {
        Some((Some(stream), _)) => stream,
        Some((None, name)) => Rc::new(Unconfigured(handle, name)),
        None => Rc::new(Unconfigured(handle, "mesh-filters")),
    };
    Box::into_raw(Box::new(stream))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_destroy(context: Context) {
    if context.is_null() {
        return;
    }
    // SAFETY: the proxy gives back what `new` has made, and does not use it again.
    let stream = unsafe { Box::from_raw(context.cast_mut()) };
    caught(|| {
        stream.destroy();
        drop(stream);
    });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_request_headers(
    _: Given,
    context: Context,
    _end: bool,
) -> u32 {
    // SAFETY: the proxy calls this with a stream that lives.
    let Some(stream) = (unsafe { stream(context) }) else { return STOP_ALL };
    match caught(|| Rc::clone(&stream).request_headers()) {
        Some(true) => CONTINUE,
        Some(false) => STOP_ALL,
        None => {
            caught(|| stream.fail());
            STOP_ALL
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_response_headers(
    _: Given,
    context: Context,
    _end: bool,
) -> u32 {
    // SAFETY: the proxy calls this with a stream that lives.
    if let Some(stream) = unsafe { stream(context) } {
        caught(|| stream.response_headers());
    }
    CONTINUE
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_stream_complete(_: Given, context: Context) {
    // SAFETY: the proxy calls this with a stream that lives.
    if let Some(stream) = unsafe { stream(context) } {
        caught(|| stream.complete());
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_scheduled(_: Given, context: Context, _event: u64) {
    // SAFETY: the proxy calls this with a stream that lives.
    if let Some(stream) = unsafe { stream(context) } {
        caught(|| stream.scheduled());
    }
}

/// Runs something about a configuration on the main thread, and then what it means for the filter there.
///
/// # Safety
/// The proxy calls the hook on its main thread, with a configuration that lives.
unsafe fn on_main(configuration: Configuration, run: impl FnOnce(&Shared, MainThread)) {
    caught(|| {
        // SAFETY: as the caller promises.
        let (Some(shared), main) = (unsafe { (shared(configuration), MainThread::new()) }) else { return };
        run(&shared, main);
        if let Some(filter) = hosted(&shared) {
            filter.poll();
        }
        // What the filter has just asked for.
        outside::start(&shared, main);
    });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_scheduled(
    _: Given,
    configuration: Configuration,
    _event: u64,
) {
    // SAFETY: the proxy calls this on its main thread, while the configuration lives.
    unsafe {
        on_main(configuration, |shared, main| {
            outside::start(shared, main);
            shared.wake_waiting();
        });
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_http_callout_done(
    _: Given,
    configuration: Configuration,
    id: u64,
    result: u32,
    headers: *const Header,
    header_count: usize,
    chunks: *const Buffer,
    chunk_count: usize,
) {
    // SAFETY: the proxy calls this on its main thread, while the configuration lives, with headers and a body that are live for the
    // call.
    unsafe {
        on_main(configuration, |shared, _| {
            let mut answer = Answer::default();
            if result == 0 {
                answer.head = Some(header_map(slice(headers, header_count)));
                for chunk in slice(chunks, chunk_count).iter().map(|chunk| chunk.bytes()) {
                    let room = LARGEST.saturating_sub(answer.body.len());
                    answer.body.extend_from_slice(chunk.get(..room).unwrap_or(chunk));
                    answer.size = answer.size.saturating_add(chunk.len());
                }
            }
            outside::http_done(shared, id, answer);
        });
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_http_stream_headers(
    _: Given,
    configuration: Configuration,
    id: u64,
    headers: *const Header,
    count: usize,
    _end: bool,
) {
    // SAFETY: as above.
    unsafe {
        on_main(configuration, |shared, _| {
            outside::grpc_headers(shared, id, &header_map(slice(headers, count)));
        });
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_http_stream_data(
    _: Given,
    configuration: Configuration,
    id: u64,
    chunks: *const Buffer,
    count: usize,
    _end: bool,
) {
    // SAFETY: as above.
    unsafe {
        on_main(configuration, |shared, _| {
            outside::grpc_data(shared, id, slice(chunks, count).iter().map(|chunk| chunk.bytes()));
        });
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_http_stream_trailers(
    _: Given,
    configuration: Configuration,
    id: u64,
    trailers: *const Header,
    count: usize,
) {
    // SAFETY: as above.
    unsafe {
        on_main(configuration, |shared, _| {
            outside::grpc_headers(shared, id, &header_map(slice(trailers, count)));
        });
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_http_stream_complete(
    _: Given,
    configuration: Configuration,
    id: u64,
) {
    // SAFETY: as above.
    unsafe { on_main(configuration, |shared, _| outside::grpc_end(shared, id, true)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn envoy_dynamic_module_on_http_filter_config_http_stream_reset(
    _: Given,
    configuration: Configuration,
    id: u64,
    _reason: u32,
) {
    // SAFETY: as above.
    unsafe { on_main(configuration, |shared, _| outside::grpc_end(shared, id, false)) }
}

/// Hooks that the proxy wants to find, in which the filters have nothing to do.
macro_rules! nothing {
    ($($name:ident($($argument:ty),*) $(-> $answer:ty)?;)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name($(_: $argument),*) $(-> $answer)? {
            Default::default()
        }
    )*};
}

nothing! {
    envoy_dynamic_module_on_http_filter_request_body(Given, Given, bool) -> u32;
    envoy_dynamic_module_on_http_filter_request_trailers(Given, Given) -> u32;
    envoy_dynamic_module_on_http_filter_response_body(Given, Given, bool) -> u32;
    envoy_dynamic_module_on_http_filter_response_trailers(Given, Given) -> u32;
    envoy_dynamic_module_on_http_filter_http_callout_done(Given, Given, u64, u32, Given, usize, Given, usize);
    envoy_dynamic_module_on_http_filter_http_stream_headers(Given, Given, u64, Given, usize, bool);
    envoy_dynamic_module_on_http_filter_http_stream_data(Given, Given, u64, Given, usize, bool);
    envoy_dynamic_module_on_http_filter_http_stream_trailers(Given, Given, u64, Given, usize);
    envoy_dynamic_module_on_http_filter_http_stream_complete(Given, Given, u64);
    envoy_dynamic_module_on_http_filter_http_stream_reset(Given, Given, u64, u32);
    envoy_dynamic_module_on_http_filter_downstream_above_write_buffer_high_watermark(Given, Given);
    envoy_dynamic_module_on_http_filter_downstream_below_write_buffer_low_watermark(Given, Given);
}
