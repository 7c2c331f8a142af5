//! The same small filters in real Envoy and in the mock host: what the one does, the other must do.
#![allow(clippy::restriction)]

mod support;

use envoy::{Answer, Bootstrap, Cluster, Envoy, HttpFilter, Listener, Server, Upstream, Wasm};
use mock_host::{Proxy, Response, Value};
use support::{module, on_request, on_response};

/// A chain of small filters and the request that passes it.
struct Probe {
    name: &'static str,
    filters: Vec<String>,
    method: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    body: &'static str,
    /// The number of requests, one after the other.
    times: usize,
}

fn probe(name: &'static str, filters: impl IntoIterator<Item = String>) -> Probe {
    Probe {
        name,
        filters: filters.into_iter().collect(),
        method: "GET",
        headers: Vec::new(),
        body: "",
        times: 1,
    }
}

/// What shows from outside: for each request status, body and whether the service was reached, and all log
/// lines.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// While the plugins started, whatever the threads' order.
    start: Vec<String>,
    exchanges: Vec<(u16, String, bool)>,
    log: Vec<String>,
}

const KINDS: [&str; 3] = ["first", "second", "third"];

/// A filter that says the name of each of its callbacks.
fn talkative(request: &str, request_status: u32, response: &str, response_status: u32) -> String {
    let end = |export: &str| {
        let (result, value) = if export == "done" { ("(result i32)", "(i32.const 1)") } else { ("", "") };
        format!(r#"(func (export "proxy_on_{export}") (param i32) {result} (call $note '{export}') {value})"#)
    };
    [
        r#"(func (export "proxy_on_context_create") (param i32 i32) (if (local.get 1) (then (call $note 'create'))))"#.to_owned(),
        on_request(&format!("(call $note 'request') {request}"), request_status),
        on_response(&format!("(call $note 'response') {response}"), response_status),
        end("log"),
        end("done"),
        end("delete"),
    ]
    .concat()
}

fn quiet() -> String {
    talkative("", 0, "", 0)
}

const DENY: &str = "(drop (call $send_local_response (i32.const 403) 'not allowed' 'no' '' (i32.const -1)))";

/// A local reply with a status, a body and headers.
fn deny(status: u16, body: &str, headers: &[(&str, &str)]) -> String {
    let headers = pairs(headers);
    format!("(drop (call $send_local_response (i32.const {status}) 'd' '{body}' '{headers}' (i32.const -1)))")
}

/// Says a status, and what came with it.
fn show(call: &str) -> String {
    format!(
        "(i32.store (i32.const 20) (i32.const 0)) (call $say {call}) (if (i32.load (i32.const 20)) (then (call $tell)))"
    )
}

fn property(path: &str) -> String {
    show(&format!("(call $get_property '{path}' @out)"))
}

fn header(kind: u32, name: &str) -> String {
    show(&format!("(call $get_header_map_value (i32.const {kind}) '{name}' @out)"))
}

fn pairs(headers: &[(&str, &str)]) -> String {
    let word = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
    let mut out = word(headers.len()).to_vec();
    for (name, value) in headers {
        out.extend(word(name.len()).into_iter().chain(word(value.len())));
    }
    for (name, value) in headers {
        out.extend(name.bytes().chain([0]).chain(value.bytes()).chain([0]));
    }
    String::from_utf8(out).unwrap()
}

fn http_call(cluster: &str, headers: &[(&str, &str)], timeout: i32) -> String {
    let headers = pairs(headers);
    format!(
        "(call $say (call $http_call '{cluster}' '{headers}' '' '' (i32.const {timeout}) (i32.const 24)))"
    )
}

const KEYS: [(&str, &str); 3] = [(":path", "/keys"), (":method", "GET"), (":authority", "issuer")];

/// Asks the cluster, waits, and acts for the stream when the answer is there.
fn fetch(act: &str) -> String {
    let remember = format!("(global.set $stream (local.get 0)) {}", http_call("issuer", &KEYS, 5000));
    format!(
        r#"(global $stream (mut i32) (i32.const 0)) {}
        (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32)
          (call $note 'answer') (call $say (i32.ne (local.get 0) (global.get $stream))) (call $say (local.get 3))
          {} {} {}
          (call $say (call $set_effective_context (global.get $stream)))
          {act})"#,
        talkative(&remember, 1, "", 0),
        header(6, ":status"),
        header(0, ":path"),
        show("(call $get_buffer_bytes (i32.const 4) (i32.const 1) (i32.const 99) @out)"),
    )
}

/// As [`fetch`], for the response.
fn fetch_in_response(act: &str) -> String {
    let remember = format!("(global.set $stream (local.get 0)) {}", http_call("issuer", &KEYS, 5000));
    format!(
        r#"(global $stream (mut i32) (i32.const 0)) {}
        (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32)
          (call $say (call $set_effective_context (global.get $stream))) {} {act})"#,
        talkative("", 0, &remember, 1),
        header(2, ":status"),
    )
}

/// A callback without a result, alone.
fn callback(name: &str, code: &str) -> String {
    format!(r#"(func (export "proxy_on_{name}") (param i32) {code})"#)
}

/// A talkative filter that does something when the request's body ends.
fn body_callback(code: &str) -> String {
    let callback = format!(
        r#"(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
          (if (local.get 1) (then {code})) (i32.const 0))"#
    );
    quiet() + &callback
}

fn say(call: &str) -> String {
    format!("(call $say {call})")
}

fn read_buffer(kind: u32, start: u32) -> String {
    show(&format!("(call $get_buffer_bytes (i32.const {kind}) (i32.const {start}) (i32.const 99) @out)"))
}

fn probes() -> Vec<Probe> {
    let topics =
        [streams(), replies(), headers(), properties(), stores(), odd_calls(), callouts(), starts_and_ends()];
    topics.into_iter().flatten().collect()
}

fn streams() -> Vec<Probe> {
    let resume = say("(call $continue_stream (i32.const 0))");
    let close = |direction: u32| say(&format!("(call $close_stream (i32.const {direction}))"));
    vec![
        probe("order", [quiet(), quiet(), quiet()]),
        probe("an odd status", [talkative("", 2, "", 2), quiet()]),
        probe("resume at once", [talkative(&(resume.clone() + &header(0, ":path")), 0, "", 0)]),
        probe("resume at once and pause", [talkative(&resume, 1, "", 0), quiet()]),
        probe("close", [quiet(), talkative(&close(0), 1, "", 0), quiet()]),
        probe("close the response", [quiet(), talkative("", 0, &close(1), 1), quiet()]),
        Probe { method: "POST", body: "body", ..probe("pass the body", [quiet(), body_callback("")]) },
        Probe {
            method: "POST",
            body: "body",
            ..probe(
                "bodies",
                [body_callback(
                    &[
                        read_buffer(0, 1),
                        say("(call $set_buffer_bytes (i32.const 0) (i32.const 2) (i32.const 1) 'no')"),
                        say("(call $set_buffer_bytes (i32.const 1) (i32.const 0) (i32.const 0) 'no')"),
                    ]
                    .concat(),
                )],
            )
        },
    ]
}

fn replies() -> Vec<Probe> {
    let twice = DENY.to_owned() + &deny(404, "second", &[]);
    let look = [header(2, "content-type"), header(2, "content-length"), property("response\\0headers\\0x-a")]
        .concat();
    let many = [("content-type", "a/b"), ("x-a", "1"), ("x-a", "2"), ("content-length", "99")];
    vec![
        probe("deny in the middle", [quiet(), talkative(DENY, 0, &header(0, ":path"), 0), quiet()]),
        probe("deny and pause", [quiet(), talkative(DENY, 1, "", 0)]),
        probe("deny twice", [talkative(&twice, 1, "", 0)]),
        probe("deny the response", [quiet(), talkative("", 0, DENY, 1)]),
        probe("deny the response outside", [talkative("", 0, DENY, 1), quiet()]),
        probe("deny with headers", [talkative(&deny(401, "body", &many), 1, &look, 0)]),
        probe("deny without a body", [talkative(&deny(401, "", &many[..1]), 1, &look, 0)]),
        Probe {
            method: "POST",
            headers: vec![("content-type", "application/grpc")],
            ..probe(
                "grpc deny",
                [talkative(
                    "(drop (call $send_local_response (i32.const 429) '' 'slow down' '' (i32.const 8)))",
                    1,
                    &[header(2, ":status"), header(2, "grpc-status"), header(2, "grpc-message")].concat(),
                    0,
                )],
            )
        },
    ]
}

fn headers() -> Vec<Probe> {
    let in_request = [
        header(0, "X-A"),
        header(0, "authorization"),
        header(0, "x-none"),
        header(2, ":status"),
        header(6, ":status"),
        header(8, "x"),
        property("request\\0headers\\0x-a"),
        say("(call $replace_header_map_value (i32.const 0) 'x-a' '3')"),
        property("request\\0headers\\0x-a"),
        say("(call $add_header_map_value (i32.const 0) 'x-a' '4')"),
        property("request\\0headers\\0x-a"),
        say("(call $remove_header_map_value (i32.const 0) 'x-a')"),
        header(0, "x-a"),
        say("(call $remove_header_map_value (i32.const 2) 'x-a')"),
        say("(call $get_header_map_pairs (i32.const 2) @out)") + &say("(i32.load (i32.const 20))"),
        say("(call $get_header_map_size (i32.const 2) (i32.const 20))"),
    ];
    let in_response = [
        header(0, ":path"),
        header(2, ":status"),
        property("request\\0path"),
        property("request\\0headers\\0x"),
        say("(call $replace_header_map_value (i32.const 0) 'x' 'y')"),
    ];
    let in_log = [
        header(0, ":path"),
        header(2, ":status"),
        header(1, "x"),
        property("request\\0path"),
        say("(call $replace_header_map_value (i32.const 0) 'x' 'y')"),
        say("(call $set_property 'late' 'y')"),
        property("late"),
    ];
    vec![
        Probe {
            headers: vec![
                ("x-a", "1"),
                ("x-a", "2"),
                ("authorization", "Bearer a"),
                ("authorization", "Bearer b"),
            ],
            ..probe("headers", [on_request(&in_request.concat(), 0)])
        },
        probe("maps in the response", [talkative("", 0, &in_response.concat(), 0)]),
        probe("maps in the log", [callback("log", &in_log.concat())]),
    ]
}

fn properties() -> Vec<Probe> {
    let paths = [
        "node\\0id",
        "cluster_name",
        "source\\0principal",
        "xds\\0node\\0metadata\\0LABELS\\0version",
        "xds\\0nothing",
        "xds\\0node\\0nothing",
        "request\\0url_path",
        "request\\0query",
        "request\\0method",
        "request\\0nothing",
        "connection\\0uri_san_peer_certificate",
        "plugin_name",
        "plugin_root_id",
        "plugin_vm_id",
        "connection\\0mtls",
        "response\\0code_details",
        "none",
        "none\\0at\\0all",
        "request\\0path\\0more",
    ];
    let read = ["user", "empty", "user\\0x", "filter_state\\0wasm.user", "wasm.user"].map(property).concat();
    let set = say("(call $set_property 'user' 'alice')") + &say("(call $set_property 'empty' '')");
    let change = say("(call $set_property 'user' 'bob')") + &property("user");
    vec![
        probe("properties", [on_request(&paths.map(property).concat(), 0)]),
        Probe {
            headers: vec![("x-forwarded-for", "1.1.1.1, 6.6.6.6")],
            ..probe("forwarded", [on_request(&property("source\\0address"), 0)])
        },
        Probe {
            headers: vec![("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "::2")],
            ..probe("forwarded twice", [on_request(&property("source\\0address"), 0)])
        },
        probe("filter state", [on_request(&set, 0), on_request(&(read + &change), 0)]),
    ]
}

fn stores() -> Vec<Probe> {
    let read = show("(call $get_shared_data 'probe' @out (i32.const 24))");
    let shared = [
        read.clone(),
        say("(call $set_shared_data 'probe' 'one' (i32.const 77))"),
        read.clone(),
        say("(call $set_shared_data 'probe' 'two' (i32.load (i32.const 24)))"),
        say("(call $set_shared_data 'probe' 'three' (i32.load (i32.const 24)))"),
        say("(call $set_shared_data 'probe' '' (i32.const 0))"),
        read,
    ];
    let id = "(i32.load (i32.const 32))";
    let define =
        |kind: u32| say(&format!("(call $define_metric (i32.const {kind}) 'probe_{kind}' (i32.const 32))"));
    let increment = |by: i64| say(&format!("(call $increment_metric {id} (i64.const {by}))"));
    let record = |value: i64| say(&format!("(call $record_metric {id} (i64.const {value}))"));
    let get = || say(&format!("(call $get_metric {id} (i32.const 40))")) + &say("(i32.load (i32.const 40))");
    let metrics = [
        [define(0), increment(2), increment(0), increment(-1), record(3), get()].concat(),
        [define(1), record(9), increment(-2), get()].concat(),
        [define(2), record(1), increment(1), say(&format!("(call $get_metric {id} (i32.const 40))"))]
            .concat(),
        define(3),
        say("(call $increment_metric (i32.const 4000) (i64.const 1))"),
    ];
    vec![
        probe("shared data", [on_request(&shared.concat(), 0)]),
        probe("metrics", [on_request(&metrics.concat(), 0)]),
    ]
}

fn odd_calls() -> Vec<Probe> {
    let buffers: String = [0, 4, 5, 6, 7, 9].map(|kind| read_buffer(kind, 0)).concat();
    let calls = [
        "(call $log (i32.const 9) 'x')",
        "(call $continue_stream (i32.const 3))",
        "(call $continue_stream (i32.const 9))",
        "(call $close_stream (i32.const 9))",
        "(call $set_effective_context (i32.const 123456))",
        "(call $call_foreign_function 'none' '' @out)",
        "(call $call_foreign_function 'verify_signature' '' @out)",
        "(call $call_foreign_function 'set_envoy_filter_state' '\x0a\x01x\x12\x01y' @out)",
        // CEL: what is no expression, calls an unknown function, is fine, and has no value; numbers that are
        // none.
        "(call $call_foreign_function 'expr_create' '1 +' @out)",
        "(call $call_foreign_function 'expr_create' 'a.split()' @out)",
        "(call $call_foreign_function 'expr_create' '1 + 1' @out)",
        "(call $call_foreign_function 'expr_create' 'nowhere.x' @out)",
        "(call $call_foreign_function 'expr_evaluate' '\x00\x00\x00\x00' @out)",
        "(call $call_foreign_function 'expr_evaluate' '\x01\x00\x00\x00' @out)",
        "(call $call_foreign_function 'expr_evaluate' '\x02\x00\x00\x00' @out)",
        "(call $call_foreign_function 'expr_evaluate' '\x09\x00\x00\x00' @out)",
        "(call $call_foreign_function 'expr_evaluate' 'x' @out)",
        "(call $call_foreign_function 'expr_delete' '\x01\x00\x00\x00' @out)",
        "(call $call_foreign_function 'expr_evaluate' '\x01\x00\x00\x00' @out)",
        "(call $call_foreign_function 'expr_delete' 'x' @out)",
        "(call $get_status (i32.const 24) @out)",
        "(i32.load (i32.const 20))",
        "(call $get_property (i32.const 0) (i32.const 0x7fffffff) @out)",
        "(call $get_current_time_nanoseconds (i32.const -4))",
    ];
    vec![
        probe("buffers", [on_request(&buffers, 0)]),
        probe("odd calls", [on_request(&calls.map(say).concat(), 0)]),
    ]
}

fn callouts() -> Vec<Probe> {
    let grpc = |service: &str| {
        say(&format!("(call $grpc_call '{service}' 's' 'm' '' '' (i32.const 100) (i32.const 24))"))
    };
    let refused = [
        http_call("nowhere", &KEYS, 100),
        http_call("issuer", &KEYS[1..], 100),
        http_call("issuer", &KEYS[..1], 100),
        http_call("issuer", &KEYS, -1),
        grpc("nowhere"),
    ];
    // GrpcService { envoy_grpc: { cluster_name: "nowhere" } }
    let absent = grpc("\x0a\x09\x0a\x07nowhere");
    let closed = r#"(func (export "proxy_on_grpc_close") (param i32 i32 i32) (call $note 'closed') (call $say (local.get 2)))"#;
    let resume = say("(call $continue_stream (i32.const 0))");
    let resume_response = say("(call $continue_stream (i32.const 1))");
    let set = |value: &str| say(&format!("(call $replace_header_map_value (i32.const 0) 'x' '{value}')"));
    vec![
        probe("refused callouts", [on_request(&refused.concat(), 0)]),
        probe("a grpc cluster that is not there", [on_request(&absent, 0) + closed]),
        probe("resume after a callout", [quiet(), fetch(&resume), quiet()]),
        probe("deny after a callout", [quiet(), fetch(DENY), quiet()]),
        probe("set a header after a callout", [fetch(&(set("y") + &resume + &set("z")))]),
        probe("call out of an answer", [fetch(&(http_call("nowhere", &KEYS, 100) + &resume))]),
        probe("resume the response after a callout", [quiet(), fetch_in_response(&resume_response), quiet()]),
        probe("deny the response after a callout", [quiet(), fetch_in_response(DENY), quiet()]),
    ]
}

fn starts_and_ends() -> Vec<Probe> {
    let trap = "(drop (call $get_header_map_value (i32.const 0) 'x-trap' @out))
        (if (i32.load (i32.const 20)) (then (unreachable)))";
    let configuration = read_buffer(7, 0);
    let configure = [
        property("xds\\0node\\0cluster"),
        property("request\\0path"),
        property("plugin_name"),
        say("(call $set_property 'x' 'y')"),
        DENY.to_owned(),
        say("(call $continue_stream (i32.const 0))"),
        say("(call $done)"),
    ]
    .concat();
    let starting = format!(
        r#"(func (export "proxy_on_context_create") (param i32 i32)
          (call $note 'create') (call $say (i32.ne (local.get 1) (i32.const 0))) {configuration})
        (func (export "proxy_on_vm_start") (param i32 i32) (result i32)
          (call $note 'start') (call $say (local.get 1)) {configuration} (i32.const 1))
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (call $note 'configure') (call $say (local.get 1)) {configuration} {configure} (i32.const 1))"#
    );
    // The canary accepts its configuration and leaves a mark; who finds the mark refuses.
    let refusing = r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
        (if (i32.eqz (call $get_shared_data 'mark' @out (i32.const 24))) (then (return (i32.const 0))))
        (drop (call $set_shared_data 'mark' '' (i32.const 0))) (i32.const 1))"#;
    // A filter that hears of no end can still ask whether a stream is there.
    let asking = format!(
        "(if (global.get $last) (then (call $say (call $set_effective_context (global.get $last)))))
        (call $say (call $set_effective_context (local.get 0))) (global.set $last (local.get 0)) {}",
        header(0, ":path")
    );
    let asking = "(global $last (mut i32) (i32.const 0))".to_owned() + &on_request(&asking, 0);
    vec![
        Probe { times: 3, ..probe("a stream that is over is none", [asking]) },
        probe("starting", [starting]),
        probe(
            "refused after the canary",
            [quiet(), refusing.to_owned() + &talkative(DENY, 1, "", 0), quiet()],
        ),
        Probe {
            headers: vec![("x-trap", "1")],
            times: 2,
            ..probe("trap", [quiet(), talkative(trap, 0, "", 0)])
        },
        probe("trap in the response", [quiet(), talkative("", 0, "(unreachable)", 0), quiet()]),
        Probe { times: 2, ..probe("trap in the log", [quiet(), callback("log", "(unreachable)")]) },
        Probe { times: 2, ..probe("trap in the delete", [quiet(), callback("delete", "(unreachable)")]) },
    ]
}

fn in_mock(probe: &Probe) -> Seen {
    let mut builder = Proxy::builder()
        .cluster("issuer", |_| Response::new(200).body("keys"))
        .node(Value::map([
            ("cluster", "server.shop".into()),
            ("metadata", Value::map([("LABELS", Value::map([("version", "v1".into())]))])),
        ]))
        .upstream(|_| Response::new(200).body("hello"));
    for (kind, body) in KINDS.iter().zip(&probe.filters) {
        builder = builder.plugin(support::plugin(kind, body).vm_id(probe.name).configuration(probe.name));
    }
    let proxy = support::started(builder);
    let lines =
        |from: usize| -> Vec<String> {
            let logs = proxy.logs();
            // What a VM died of is told by the engine in its own words.
            let said = logs[from..].iter().filter(|log| !log.message.starts_with("Function: "));
            // A root context's lines don't name the plugin in Envoy.
            said.map(|log| {
                if log.is_root() { log.message.clone() } else { format!("{}: {}", log.plugin, log.message) }
            })
            .collect()
        };
    let before = proxy.logs().len();
    let mut start = lines(0);
    start.sort();
    let exchanges = (0..probe.times).map(|_| {
        let mut request = mock_host::Request::new(probe.method, "/path?query").body(probe.body);
        for (name, value) in &probe.headers {
            request = request.header(name, value);
        }
        let exchange = proxy.worker(0).request(request);
        (exchange.status, exchange.text().to_owned(), exchange.upstream.is_some())
    });
    let exchanges = exchanges.collect();
    Seen { start, exchanges, log: lines(before) }
}

/// `count` is the number of lines to wait for: the last ones are written after the client has its answer.
fn in_envoy(envoy: &Envoy, upstream: &Upstream, probe: &Probe, count: usize) -> Seen {
    let lines = |log: &str| -> Vec<String> {
        let message = |line: &str| {
            let (_, said) = line.split_once("wasm log ")?;
            // The prefix is name, root ID and VM ID, for a root context only the latter two.
            let (prefix, message) = said.split_once(": ")?;
            let name = prefix.strip_suffix(probe.name)?.trim_end();
            if name.is_empty() {
                return Some(message.to_owned());
            }
            KINDS.contains(&name).then(|| format!("{name}: {message}"))
        };
        log.lines().filter_map(message).collect()
    };
    let before = envoy.log_length();
    let mut start = lines(&envoy.log());
    start.sort();
    upstream.take_received();
    let exchanges = (0..probe.times).map(|_| {
        let mut request = envoy::Request::new(probe.method, "/path?query");
        for (name, value) in &probe.headers {
            request = request.header(name, value);
        }
        request.body = probe.body.as_bytes().to_vec();
        // A stream that is reset is a connection without an answer.
        let response = request.send(envoy.address(probe.name).unwrap());
        let (status, body) =
            response.map_or_else(|_| (0, String::new()), |response| (response.status, response.text()));
        (status, body, !upstream.take_received().is_empty())
    });
    let exchanges = exchanges.collect();
    let _ = envoy::wait_for("the log", || (lines(&envoy.log_since(before)).len() >= count).then_some(()));
    Seen { start, exchanges, log: lines(&envoy.log_since(before)) }
}

#[test]
fn envoy_does_what_the_mock_host_does() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::start().unwrap();
    upstream.answer(Answer { body: b"hello".to_vec(), ..Answer::default() });
    let issuer = Server::start(|_| Answer { body: b"keys".to_vec(), ..Answer::default() }).unwrap();
    let probes = probes();
    let listeners: Vec<_> = probes
        .iter()
        .enumerate()
        .map(|(number, probe)| {
            let filters = KINDS.iter().zip(&probe.filters).enumerate().map(|(index, (kind, body))| {
                let file = folder.path().join(format!("{number}-{index}.wasm"));
                std::fs::write(&file, module(body)).unwrap();
                let mut wasm = Wasm::new(kind, file, probe.name);
                probe.name.clone_into(&mut wasm.vm_id);
                HttpFilter::Wasm(wasm)
            });
            Listener::new(probe.name, "upstream", filters.collect())
        })
        .collect();
    let clusters =
        vec![Cluster::new("upstream", upstream.address()), Cluster::new("issuer", issuer.address())];
    let envoy = Envoy::start(&Bootstrap { clusters, ..Bootstrap::default() }, &listeners, 1).unwrap();
    let mut different = Vec::new();
    for probe in &probes {
        let mock = in_mock(probe);
        let real = in_envoy(&envoy, &upstream, probe, mock.log.len());
        if mock != real {
            different.push(format!("{}:\n mock  {mock:?}\n envoy {real:?}", probe.name));
        }
    }
    assert!(different.is_empty(), "{} of {} differ\n{}", different.len(), probes.len(), different.join("\n"));
}
