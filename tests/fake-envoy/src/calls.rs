//! The functions of the proxy that the module calls.

use std::ffi::{CStr, c_void};
use std::sync::Arc;

use super::{
    Buffer, Call, FakeConfig, FakeStream, Given, Header, LOG, Manners, Pairs, Scheduler, Sent, end, give,
    hooks, known, take_back,
};

macro_rules! calls {
    ($(fn $name:ident($($argument:ident: $type:ty),*) $(-> $answer:ty)? $body:block)*) => {
        $(unsafe extern "C" fn $name($($argument: $type),*) $(-> $answer)? $body)*

        /// The address of a function, for the module.
        pub(super) fn address(name: &CStr) -> *mut c_void {
            let name = name.to_str().unwrap().strip_prefix("envoy_dynamic_module_callback_").unwrap();
            match name {
                $(stringify!($name) => $name as unsafe extern "C" fn($($type),*) $(-> $answer)? as *mut c_void,)*
                _ => std::ptr::null_mut(),
            }
        }
    };
}

const REQUEST: u32 = 0;
const RESPONSE: u32 = 2;

/// Runs `run` with a header map of a stream.
fn with<T>(stream: Given, map: u32, run: impl FnOnce(Option<&mut Pairs>) -> T) -> T {
    let stream = known::<FakeStream>(stream);
    match map {
        REQUEST => run(Some(&mut stream.request.borrow_mut())),
        RESPONSE => run(stream.response.borrow_mut().as_mut()),
        _ => panic!("a map that no filter needs: {map}"),
    }
}

unsafe fn text(buffer: Buffer) -> String {
    String::from_utf8(unsafe { buffer.read() }).unwrap()
}

unsafe fn list(headers: *const Header, count: usize) -> Vec<(String, String)> {
    (0..count).map(|at| unsafe { (text((*headers.add(at)).name), text((*headers.add(at)).value)) }).collect()
}

unsafe fn show(place: *mut Buffer, value: Option<&Vec<u8>>) -> bool {
    if let Some(value) = value {
        unsafe { place.write(Buffer::of(value)) };
    }
    value.is_some()
}

/// Defines a statistic.
unsafe fn define(config: Given, name: Buffer, id: *mut usize) -> u32 {
    let config = known::<FakeConfig>(config);
    if !config.making.get() {
        return 4;
    }
    let mut statistics = config.statistics.borrow_mut();
    statistics.push(unsafe { text(name) });
    unsafe { id.write(statistics.len() - 1) };
    0
}

/// Begins a call.
unsafe fn begin(
    config: Given,
    stream: bool,
    id: *mut u64,
    cluster: Buffer,
    headers: *const Header,
    count: usize,
    body: Buffer,
) -> u32 {
    let given = config;
    let config = known::<FakeConfig>(given);
    if config.no_cluster.get() {
        return 2;
    }
    let number = config.next_call.replace(config.next_call.get() + 1);
    let call = unsafe {
        Call { id: number, stream, cluster: text(cluster), headers: list(headers, count), body: body.read() }
    };
    config.calls.borrow_mut().push(call);
    // The number is not known to the module yet.
    if config.at_once.get() && stream {
        unsafe { hooks::stream_reset(given, config.module.get(), number, 1) };
    }
    unsafe { id.write(number) };
    0
}

calls! {
    fn log(_level: u32, line: Buffer) {
        let line = unsafe { line.read() };
        LOG.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
    }

    fn log_enabled(level: u32) -> bool {
        level >= 2
    }

    fn http_get_header(stream: Given, map: u32, name: Buffer, value: *mut Buffer, at: usize, count: *mut usize) -> bool {
        let name = unsafe { name.read() };
        with(stream, map, |headers| {
            let values: Vec<_> = headers.into_iter().flat_map(|headers| headers.iter()).filter(|(known, _)| *known == name).collect();
            if !count.is_null() {
                unsafe { count.write(values.len()) };
            }
            unsafe { show(value, values.get(at).map(|(_, value)| value)) }
        })
    }

    fn http_get_headers_size(stream: Given, map: u32) -> usize {
        with(stream, map, |headers| headers.map_or(0, |headers| headers.len()))
    }

    fn http_get_headers(stream: Given, map: u32, place: *mut Header) -> bool {
        with(stream, map, |headers| {
            let Some(headers) = headers else { return false };
            for (at, (name, value)) in headers.iter().enumerate() {
                unsafe { place.add(at).write(Header { name: Buffer::of(name), value: Buffer::of(value) }) };
            }
            true
        })
    }

    fn http_add_header(stream: Given, map: u32, name: Buffer, value: Buffer) -> bool {
        let (name, value) = unsafe { (name.read(), value.read()) };
        with(stream, map, |headers| headers.map(|headers| headers.push((name, value))).is_some())
    }

    fn http_set_header(stream: Given, map: u32, name: Buffer, value: Buffer) -> bool {
        let (name, removes) = (unsafe { name.read() }, value.data.is_null());
        let value = unsafe { value.read() };
        with(stream, map, |headers| {
            let Some(headers) = headers else { return false };
            headers.retain(|(known, _)| *known != name);
            // Each value of the map moves, so that a pointer into it is one to what is gone.
            *headers = headers.clone();
            if !removes {
                headers.push((name, value));
            }
            true
        })
    }

    fn http_send_response(stream: Given, status: u32, headers: *const Header, count: usize, body: Buffer, details: Buffer) {
        let fake = known::<FakeStream>(stream);
        let sent = unsafe { Sent { status, headers: list(headers, count), body: body.read(), details: text(details) } };
        assert!(fake.sent.replace(Some(sent)).is_none(), "a request is answered twice");
        if fake.manners == Manners::Hasty {
            end(fake, stream);
        }
    }

    fn http_set_filter_state_bytes(stream: Given, key: Buffer, value: Buffer) -> bool {
        let (key, value) = unsafe { (key.read(), value.read()) };
        known::<FakeStream>(stream).filter_state.borrow_mut().entry(key).or_insert(value);
        true
    }

    fn http_get_filter_state_bytes(stream: Given, key: Buffer, value: *mut Buffer) -> bool {
        let key = unsafe { key.read() };
        unsafe { show(value, known::<FakeStream>(stream).filter_state.borrow().get(&key)) }
    }

    fn http_get_filter_state_typed(_stream: Given, _key: Buffer, _value: *mut Buffer) -> bool {
        false
    }

    fn http_clear_route_cache(stream: Given) {
        known::<FakeStream>(stream).route_cleared.set(true);
    }

    fn http_filter_get_attribute_string(stream: Given, id: u32, value: *mut Buffer) -> bool {
        unsafe { show(value, known::<FakeStream>(stream).attributes.get(&id)) }
    }

    fn http_filter_get_attribute_int(_stream: Given, _id: u32, _value: *mut u64) -> bool {
        false
    }

    fn http_filter_get_attribute_bool(_stream: Given, _id: u32, _value: *mut bool) -> bool {
        false
    }

    fn http_filter_continue_decoding(stream: Given) {
        let fake = known::<FakeStream>(stream);
        assert!(fake.sent.borrow().is_none() && !fake.reset.get(), "a request goes on that was answered");
        fake.resumed.set(true);
        if fake.manners == Manners::Hasty {
            end(fake, stream);
        }
    }

    fn http_filter_reset_stream(stream: Given, _reason: u32, _details: Buffer) {
        known::<FakeStream>(stream).reset.set(true);
    }

    fn http_filter_scheduler_new(stream: Given) -> Given {
        give(Scheduler(Arc::clone(&known::<FakeStream>(stream).events)))
    }

    fn http_filter_scheduler_commit(scheduler: Given, event: u64) {
        known::<Scheduler>(scheduler).0.lock().unwrap().push_back(event);
    }

    fn http_filter_scheduler_delete(scheduler: Given) {
        drop(take_back::<Scheduler>(scheduler));
    }

    fn http_filter_config_scheduler_new(config: Given) -> Given {
        give(Scheduler(Arc::clone(&known::<FakeConfig>(config).events)))
    }

    fn http_filter_config_scheduler_commit(scheduler: Given, event: u64) {
        known::<Scheduler>(scheduler).0.lock().unwrap().push_back(event);
    }

    fn http_filter_config_scheduler_delete(scheduler: Given) {
        drop(take_back::<Scheduler>(scheduler));
    }

    fn http_filter_config_define_counter(config: Given, name: Buffer, _labels: *const Buffer, _count: usize, id: *mut usize) -> u32 {
        unsafe { define(config, name, id) }
    }

    fn http_filter_config_define_gauge(config: Given, name: Buffer, _labels: *const Buffer, _count: usize, id: *mut usize) -> u32 {
        unsafe { define(config, name, id) }
    }

    fn http_filter_config_increment_counter(config: Given, id: usize, _labels: *const Buffer, _count: usize, n: u64) -> u32 {
        *known::<FakeConfig>(config).values.lock().unwrap().entry(id).or_default() += n;
        0
    }

    fn http_filter_config_set_gauge(config: Given, id: usize, _labels: *const Buffer, _count: usize, value: u64) -> u32 {
        known::<FakeConfig>(config).values.lock().unwrap().insert(id, value);
        0
    }

    fn http_filter_config_http_callout(config: Given, id: *mut u64, cluster: Buffer, headers: *const Header, count: usize, body: Buffer, _timeout: u64) -> u32 {
        unsafe { begin(config, false, id, cluster, headers, count, body) }
    }

    fn http_filter_config_start_http_stream(config: Given, id: *mut u64, cluster: Buffer, headers: *const Header, count: usize, body: Buffer, _end: bool, _timeout: u64) -> u32 {
        unsafe { begin(config, true, id, cluster, headers, count, body) }
    }
}
