//! Callouts seen from a filter.

use std::time::Duration;

use crate::support::{messages, on_request, plugin, said, started};
use mock_host::{Answer, Outcome, Proxy, Request, Response};

/// Headers in the ABI's serialised form.
fn pairs(headers: &[(&str, &str)]) -> String {
    let mut out: Vec<u8> = u32::try_from(headers.len()).unwrap().to_le_bytes().to_vec();
    for (name, value) in headers {
        out.extend(u32::try_from(name.len()).unwrap().to_le_bytes());
        out.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
    }
    for (name, value) in headers {
        out.extend(name.bytes().chain([0]).chain(value.bytes()).chain([0]));
    }
    String::from_utf8(out).unwrap()
}

/// Calls `/keys` of a cluster with a time limit in milliseconds, and says the status.
fn call(cluster: &str, timeout: u32) -> String {
    let headers = pairs(&[(":path", "/keys"), (":method", "GET"), (":authority", "issuer")]);
    format!(
        "(call $say (call $http_call '{cluster}' '{headers}' '' '' (i32.const {timeout}) (i32.const 24)))"
    )
}

/// Remembers the stream; when the answer comes, says its size and body, then acts for the stream.
fn answered(act: &str) -> String {
    format!(
        r#"(global $stream (mut i32) (i32.const 0))
        (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32)
          (call $say (local.get 2)) (call $say (local.get 3))
          (call $say (call $get_header_map_value (i32.const 6) ':status' @out))
          (if (local.get 2) (then (call $tell)))
          (call $say (call $set_effective_context (global.get $stream)))
          {act})"#
    )
}

const RESUME: &str = "(drop (call $continue_stream (i32.const 0)))";

fn fetcher(cluster: &str, timeout: u32, act: &str) -> String {
    let remember = format!("(global.set $stream (local.get 0)) {}", call(cluster, timeout));
    answered(act) + &on_request(&remember, 1)
}

#[test]
fn an_answer_resumes_the_stream_that_waits() {
    let proxy = started(
        Proxy::builder()
            .cluster("jwks", |request| Response::new(200).body(request.path().to_owned()))
            .plugin(plugin("filter", &fetcher("jwks", 1000, RESUME))),
    );
    let exchange = proxy.worker(0).request(Request::get("/"));
    assert_eq!((exchange.outcome, exchange.status), (Outcome::Complete, 200));
    // The answer comes to the root context; what it says is the stream's only after it took the stream's
    // part.
    assert_eq!(said(&exchange), ["0", "0"]);
    assert_eq!(messages(&proxy.logs()), ["0", "1", "5", "0", "200", "0"]);
}

#[test]
fn an_answer_can_make_a_local_reply() {
    let deny = "(drop (call $send_local_response (i32.const 401) '' '' '' (i32.const -1)))";
    let proxy = started(
        Proxy::builder()
            .cluster("jwks", |_| Response::new(200))
            .plugin(plugin("filter", &fetcher("jwks", 1000, deny))),
    );
    assert_eq!(proxy.worker(0).request(Request::get("/")).status, 401);
}

#[test]
fn a_held_answer_comes_when_the_test_gives_it() {
    let proxy = started(
        Proxy::builder()
            .cluster("jwks", |_| Answer::Hold)
            .plugin(plugin("filter", &fetcher("jwks", 1000, RESUME))),
    );
    let stream = proxy.worker(0).start(Request::get("/"));
    assert!(stream.is_paused());
    let callouts = proxy.callouts();
    assert_eq!((callouts.len(), callouts[0].path(), callouts[0].thread), (1, "/keys", 1));
    proxy.answer(callouts[0].id, Response::new(200));
    assert_eq!(stream.exchange().status, 200);
    assert!(proxy.callouts().is_empty());
}

#[test]
fn a_callout_that_takes_too_long_is_a_504_response() {
    let proxy = started(
        Proxy::builder()
            .cluster("jwks", |_| Answer::Hold)
            .plugin(plugin("filter", &fetcher("jwks", 500, RESUME))),
    );
    let stream = proxy.worker(0).start(Request::get("/"));
    proxy.advance(Duration::from_millis(499));
    assert!(stream.is_paused());
    proxy.advance(Duration::from_millis(1));
    assert_eq!(stream.exchange().status, 200);
    assert!(messages(&proxy.logs()).contains(&"504"));
}

#[test]
fn a_reset_callout_has_no_headers_and_says_why() {
    let act = format!(
        "(drop (call $get_status (i32.const 24) @out)) (call $say (i32.load (i32.const 24))) (call $tell) {RESUME}"
    );
    let proxy = started(
        Proxy::builder()
            .cluster("jwks", |_| Answer::Reset)
            .plugin(plugin("filter", &fetcher("jwks", 500, &act))),
    );
    assert_eq!(proxy.worker(0).request(Request::get("/")).status, 200);
    assert_eq!(messages(&proxy.logs()), ["0", "0", "0", "2", "0", "11", "reset"]);
}

#[test]
fn an_unknown_cluster_or_a_missing_pseudo_header_is_bad_argument_and_no_healthy_host_internal_failure() {
    let no_path = pairs(&[(":method", "GET"), (":authority", "issuer")]);
    let incomplete =
        format!("(call $say (call $http_call 'jwks' '{no_path}' '' '' (i32.const 1) (i32.const 24)))");
    let code = call("nowhere", 1) + &incomplete + &call("down", 1) + &call("jwks", u32::MAX);
    let proxy = started(
        Proxy::builder()
            .cluster("jwks", |_| Response::new(200))
            .cluster("down", |_| Answer::Unavailable)
            .plugin(plugin("filter", &on_request(&code, 0))),
    );
    // The last one has a negative time limit.
    assert_eq!(said(&proxy.worker(0).request(Request::get("/"))), ["2", "2", "10", "2"]);
}

#[test]
fn a_callout_outlives_its_stream() {
    let proxy = started(
        Proxy::builder()
            .cluster("jwks", |_| Answer::Hold)
            .plugin(plugin("filter", &fetcher("jwks", 0, RESUME))),
    );
    drop(proxy.worker(0).start(Request::get("/")));
    let seen = proxy.logs().len();
    proxy.answer(proxy.callouts()[0].id, Response::new(200));
    // The stream's context is gone: to act for it is refused, and to resume it does nothing.
    assert_eq!(messages(&proxy.logs()[seen..]), ["1", "0", "0", "200", "2"]);
}

#[test]
fn callouts_of_a_canary_are_made_and_cancelled() {
    let made = std::rc::Rc::new(std::cell::Cell::new(0));
    let count = std::rc::Rc::clone(&made);
    let body = crate::support::on_configure(&call("jwks", 0)) + &answered("");
    let proxy = started(
        Proxy::builder()
            .workers(2)
            .cluster("jwks", move |_| {
                count.set(count.get() + 1);
                Response::new(200)
            })
            .plugin(plugin("filter", &body)),
    );
    assert_eq!(made.get(), 4, "the canary's, the main thread's, two workers'");
    let answers = proxy.logs().iter().filter(|log| log.message == "200").count();
    assert_eq!(answers, 3);
}

/// Calls a gRPC method, and says what came back.
fn grpc(service: &str) -> String {
    let code = format!(
        "(call $say (call $grpc_call '{service}' 'svc' 'method' '' 'message' (i32.const 100) (i32.const 24)))"
    );
    on_request(&code, 0)
        + r#"(func (export "proxy_on_grpc_receive") (param i32 i32 i32)
            (drop (call $get_buffer_bytes (i32.const 5) (i32.const 0) (local.get 2) @out)) (call $tell))
        (func (export "proxy_on_grpc_close") (param i32 i32 i32) (call $note 'closed') (call $say (local.get 2))
            (drop (call $get_status (i32.const 24) @out)) (call $tell))"#
}

#[test]
fn a_grpc_reply_is_a_message_and_an_error_a_close() {
    for (answer, want) in [
        (Answer::Grpc { status: 0, message: String::new(), body: b"reply".to_vec() }, vec!["0", "reply"]),
        (Answer::Grpc { status: 7, message: "no".into(), body: Vec::new() }, vec!["0", "closed", "7", "no"]),
    ] {
        let proxy = started(
            Proxy::builder()
                .cluster("limits", move |request| {
                    assert_eq!(request.grpc, Some(("svc".to_owned(), "method".to_owned())));
                    assert_eq!(request.body, b"message");
                    answer.clone()
                })
                .plugin(plugin("filter", &grpc("limits"))),
        );
        proxy.worker(0).request(Request::get("/"));
        assert_eq!(messages(&proxy.logs()), want);
    }
}

#[test]
fn a_grpc_service_may_be_a_proto_that_names_the_cluster() {
    // GrpcService { envoy_grpc: { cluster_name: "limits" } }
    let proxy = started(
        Proxy::builder()
            .cluster("limits", |_| Answer::Grpc {
                status: 0,
                message: String::new(),
                body: b"reply".to_vec(),
            })
            .plugin(plugin("filter", &grpc("\x0a\x08\x0a\x06limits"))),
    );
    proxy.worker(0).request(Request::get("/"));
    assert_eq!(messages(&proxy.logs()), ["0", "reply"]);
}

#[test]
fn a_grpc_cluster_that_is_not_there_fails_the_call_and_closes_after_it() {
    let proxy = started(Proxy::builder().plugin(plugin("filter", &grpc("\x0a\x08\x0a\x06limits"))));
    let exchange = proxy.worker(0).request(Request::get("/"));
    assert_eq!(messages(&proxy.logs()), ["10", "closed", "14", "Cluster not available"]);
    assert_eq!(exchange.status, 200);
    let unparsable = started(Proxy::builder().plugin(plugin("filter", &grpc("limits"))));
    assert_eq!(said(&unparsable.worker(0).request(Request::get("/"))), ["4"]);
}
