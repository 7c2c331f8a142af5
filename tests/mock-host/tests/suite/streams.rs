//! The life of a stream: contexts, local replies, pauses, the end.

use crate::support::{on_request, on_response, plugin, proxy, said, started};
use mock_host::{Outcome, Proxy, Request, Response};

/// A filter that says the name of each callback of a stream.
fn talkative(request: &str, status: u32) -> String {
    let note = |export: &str, result: &str| {
        format!(
            r#"(func (export "proxy_on_{export}") (param i32) {result} (call $note '{export}') {})"#,
            if result.is_empty() { "" } else { "(i32.const 1)" }
        )
    };
    let create = r#"(func (export "proxy_on_context_create") (param i32 i32)
        (if (local.get 1) (then (call $note 'create'))))"#;
    [
        create.to_owned(),
        on_request(&format!("(call $note 'request') {request}"), status),
        on_response("(call $note 'response')", 0),
        note("log", ""),
        note("done", "(result i32)"),
        note("delete", ""),
    ]
    .concat()
}

const DENY: &str = "(drop (call $send_local_response (i32.const 403) 'not allowed' 'no' '' (i32.const -1)))";

#[test]
fn the_callbacks_come_in_envoys_order() {
    let exchange = proxy(&talkative("", 0)).worker(0).request(Request::get("/"));
    // The access log is written before the filters are destroyed.
    assert_eq!(said(&exchange), ["create", "request", "response", "log", "done", "delete"]);
}

#[test]
fn a_local_reply_passes_the_filters_that_saw_the_request_and_makes_contexts_of_others_for_the_log_only() {
    let proxy = started(
        Proxy::builder()
            .plugin(plugin("first", &talkative("", 0)))
            .plugin(plugin("second", &talkative(DENY, 0)))
            .plugin(plugin("third", &talkative("", 0))),
    );
    let exchange = proxy.worker(0).request(Request::get("/"));
    let of = |name: &str| -> Vec<_> {
        exchange.logs.iter().filter(|log| log.plugin == name).map(|log| log.message.as_str()).collect()
    };
    assert_eq!(of("first"), ["create", "request", "response", "log", "done", "delete"]);
    assert_eq!(of("second"), ["create", "request", "response", "log", "done", "delete"]);
    assert_eq!(of("third"), ["create", "log", "done", "delete"]);
    // Responses pass the filters in reverse.
    let responses: Vec<_> =
        exchange.logs.iter().filter(|log| log.message == "response").map(|log| log.plugin.as_str()).collect();
    assert_eq!(responses, ["second", "first"]);
    assert_eq!((exchange.status, exchange.text(), exchange.details.as_str()), (403, "no", "not_allowed"));
    assert_eq!(exchange.upstream, None);
}

#[test]
fn a_local_reply_stops_the_chain_whatever_the_callback_answers() {
    let exchange = proxy(&on_request(DENY, 0)).worker(0).request(Request::get("/"));
    assert_eq!((exchange.status, exchange.upstream), (403, None));
}

#[test]
fn a_local_reply_is_sent_after_the_call_and_the_first_one_counts() {
    let again = "(drop (call $send_local_response (i32.const 404) '' 'second' '' (i32.const -1)))";
    let set = "(call $say (call $replace_header_map_value (i32.const 0) 'x' 'y'))";
    let exchange = proxy(&on_request(&format!("{DENY}{set}{again}"), 0)).worker(0).request(Request::get("/"));
    assert_eq!((said(&exchange), exchange.status, exchange.text()), (vec!["0"], 403, "no"));
}

#[test]
fn a_local_reply_to_a_response_goes_to_the_client_past_the_other_filters() {
    let proxy = started(
        Proxy::builder()
            .plugin(plugin("outer", &on_response("(call $note 'outer saw it')", 0)))
            .plugin(plugin("inner", &on_response(DENY, 0))),
    );
    let exchange = proxy.worker(0).request(Request::get("/"));
    assert_eq!((exchange.status, exchange.text()), (403, "no"));
    assert_eq!(said(&exchange), Vec::<&str>::new());
    assert!(exchange.upstream.is_some());
}

#[test]
fn a_grpc_request_gets_a_grpc_reply() {
    let deny = "(drop (call $send_local_response (i32.const 429) '' 'slow down' '' (i32.const 8)))";
    let exchange = proxy(&on_request(deny, 1)).worker(0).request(Request::post("/s/m").grpc());
    assert_eq!((exchange.status, exchange.header("grpc-status")), (200, Some("8")));
    assert_eq!(exchange.header("grpc-message"), Some("slow down"));
}

#[test]
fn a_pause_holds_the_stream_until_the_client_leaves() {
    let proxy = proxy(&talkative("", 1));
    let stream = proxy.worker(0).start(Request::get("/"));
    assert!(stream.is_paused());
    assert_eq!(stream.exchange().outcome, Outcome::Paused);
    let exchange = stream.abort();
    assert_eq!((exchange.outcome, exchange.status, exchange.upstream.clone()), (Outcome::Reset, 0, None));
    assert_eq!(said(&exchange), ["create", "request", "log", "done", "delete"]);
}

#[test]
fn resuming_within_the_callback_goes_on_and_forgets_the_request() {
    let code = "(call $say (call $continue_stream (i32.const 0)))
        (call $say (call $get_header_map_value (i32.const 0) ':path' @out))";
    let exchange = proxy(&on_request(code, 1)).worker(0).request(Request::get("/"));
    assert_eq!((said(&exchange), exchange.status), (vec!["0", "2"], 200));
}

#[test]
fn a_filter_can_close_the_stream() {
    let exchange = proxy(&on_request("(drop (call $close_stream (i32.const 0)))", 1))
        .worker(0)
        .request(Request::get("/"));
    assert_eq!((exchange.outcome, exchange.status, exchange.upstream), (Outcome::Reset, 0, None));
}

#[test]
fn a_dropped_stream_leaves_no_context() {
    let proxy = proxy(&on_request("", 1));
    let before = proxy.contexts(0);
    let stream = proxy.worker(0).start(Request::get("/"));
    assert_eq!(proxy.contexts(0), before + 1);
    drop(stream);
    assert_eq!(proxy.contexts(0), before);
}

#[test]
fn a_response_can_be_held_too() {
    let proxy = proxy(&on_response("", 1));
    let exchange = proxy.worker(0).start(Request::get("/")).abort();
    assert_eq!((exchange.outcome, exchange.status), (Outcome::Reset, 0));
    assert!(exchange.upstream.is_some());
}

#[test]
fn host_calls_are_counted_for_each_stream() {
    let proxy =
        proxy(&on_request("(drop (call $get_property 'x' @out)) (drop (call $get_property 'y' @out))", 0));
    proxy.worker(0).request(Request::get("/"));
    let exchange = proxy.worker(0).request(Request::get("/"));
    assert_eq!(exchange.calls("proxy_get_property"), 2);
    assert_eq!(proxy.calls()["proxy_get_property"], 4);
}

#[test]
fn metrics_are_shared_by_name_and_exchanges_see_the_change() {
    let define = |name: &str, kind: u32| {
        format!("(drop (call $define_metric (i32.const {kind}) '{name}' (i32.const 16)))")
    };
    let id = "(i32.load (i32.const 16))";
    let code = format!(
        "{} (drop (call $increment_metric {id} (i64.const 2))) (call $say (call $increment_metric {id} (i64.const 0)))
         {} (drop (call $record_metric {id} (i64.const 7))) (drop (call $increment_metric {id} (i64.const -3)))
         {} (drop (call $record_metric {id} (i64.const 9))) (call $say (call $increment_metric {id} (i64.const 1)))
         (call $say (call $increment_metric (i32.const 400) (i64.const 1)))",
        define("requests", 0),
        define("level", 1),
        define("sizes", 2),
    );
    let proxy = started(Proxy::builder().workers(2).plugin(plugin("filter", &on_request(&code, 0))));
    proxy.worker(0).request(Request::get("/"));
    let exchange = proxy.worker(1).request(Request::get("/"));
    assert_eq!((exchange.metric("requests"), exchange.metric("level"), proxy.metric("requests")), (2, 0, 4));
    assert_eq!((proxy.metric("level"), proxy.samples("sizes")), (4, vec![9, 9]));
    assert_eq!(said(&exchange), ["2", "2", "1"]);
}

#[test]
fn a_service_that_answers_head_or_with_no_body_is_one_frame() {
    let proxy = started(
        Proxy::builder()
            .upstream(|_| Response::new(204))
            .plugin(plugin("filter", &on_response("(call $say (local.get 2))", 0))),
    );
    assert_eq!(said(&proxy.worker(0).request(Request::get("/"))), ["1"]);
}

#[test]
#[should_panic = "two local replies within one response callback crash Envoy"]
fn what_crashes_envoy_fails_the_test() {
    proxy(&on_response(&DENY.repeat(2), 1)).worker(0).request(Request::get("/"));
}

#[test]
#[should_panic = "a local reply while the stream is logged makes Envoy drop the response"]
fn what_loses_the_response_fails_the_test() {
    let on_log = format!(r#"(func (export "proxy_on_log") (param i32) {DENY})"#);
    proxy(&on_log).worker(0).request(Request::get("/"));
}

#[test]
#[should_panic = "a response that is resumed within its own callback makes Envoy send it twice"]
fn what_garbles_the_response_fails_the_test() {
    proxy(&on_response("(drop (call $continue_stream (i32.const 1)))", 1))
        .worker(0)
        .request(Request::get("/"));
}
