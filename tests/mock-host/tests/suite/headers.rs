//! Header maps seen from a filter.

use crate::support::{on_request, on_response, proxy, said};
use mock_host::{Outcome, Request, Response};

#[test]
fn a_value_is_the_first_and_pairs_are_all() {
    let proxy = proxy(&on_request(
        "(drop (call $get_header_map_value (i32.const 0) 'X-A' @out)) (call $tell)
         (drop (call $get_header_map_pairs (i32.const 0) @out)) (call $say (i32.load (i32.load (i32.const 16))))
         (call $say (local.get 1))",
        0,
    ));
    let exchange = proxy.worker(0).request(Request::get("/").header("x-a", "1").header("x-a", "2"));
    // Four pseudo headers, x-forwarded-proto, x-request-id and the two.
    assert_eq!(said(&exchange), ["1", "8", "8"]);
}

#[test]
fn replace_leaves_one_value_and_clears_the_route_cache() {
    let proxy = proxy(&on_request(
        "(call $say (call $replace_header_map_value (i32.const 0) 'x-a' 'new'))
         (call $say (call $remove_header_map_value (i32.const 0) 'x-b'))
         (call $say (call $add_header_map_value (i32.const 0) 'x-c' '2'))",
        0,
    ));
    let request =
        Request::get("/").header("x-a", "1").header("x-a", "2").header("x-b", "1").header("x-c", "1");
    let exchange = proxy.worker(0).request(request);
    let seen = &exchange.seen_upstream().headers;
    assert_eq!(said(&exchange), ["0", "0", "0"]);
    assert_eq!((seen.all("x-a"), seen.all("x-b"), seen.all("x-c")), (vec!["new"], vec![], vec!["1", "2"]));
    assert!(exchange.route_cache_cleared);
}

#[test]
fn reading_and_changing_the_response_leave_the_route_cache() {
    let read = on_request("(drop (call $get_header_map_value (i32.const 0) ':path' @out))", 0);
    let change = on_response("(drop (call $replace_header_map_value (i32.const 2) 'server' 'x'))", 0);
    let exchange = proxy(&(read + &change)).worker(0).request(Request::get("/"));
    assert_eq!(exchange.header("server"), Some("x"));
    assert!(!exchange.route_cache_cleared);
}

#[test]
fn absent_names_are_not_found_and_absent_maps_bad_argument() {
    let exchange = proxy(&on_request(
        "(call $say (call $get_header_map_value (i32.const 0) 'x-none' @out))
         (call $say (call $get_header_map_value (i32.const 2) ':status' @out))
         (call $say (call $get_header_map_value (i32.const 6) ':status' @out))
         (call $say (call $get_header_map_value (i32.const 8) 'x' @out))
         (call $say (call $add_header_map_value (i32.const 2) 'x' 'y'))
         (call $say (call $get_header_map_pairs (i32.const 2) @out)) (call $say (i32.load (i32.const 20)))",
        0,
    ))
    .worker(0)
    .request(Request::get("/"));
    assert_eq!(said(&exchange), ["1", "2", "2", "2", "2", "0", "0"]);
}

#[test]
fn request_headers_are_gone_in_the_response_of_a_filter_that_let_the_request_go_on() {
    let look = on_response("(call $say (call $get_header_map_value (i32.const 0) ':path' @out))", 0);
    let went_on = proxy(&(on_request("", 0) + &look)).worker(0).request(Request::get("/"));
    assert_eq!(said(&went_on), ["2"]);
    // One that stopped the request still has them: here it answered for itself.
    let reply = "(drop (call $send_local_response (i32.const 403) '' '' '' (i32.const -1)))";
    let stopped = proxy(&(on_request(reply, 1) + &look)).worker(0).request(Request::get("/"));
    assert_eq!((said(&stopped), stopped.status), (vec!["0"], 403));
}

#[test]
fn two_authorization_headers_reach_the_filter_as_one_value() {
    let proxy = proxy(&on_request(
        "(drop (call $get_header_map_value (i32.const 0) 'authorization' @out)) (call $tell)",
        0,
    ));
    let request = Request::get("/").header("authorization", "Bearer a").header("authorization", "Bearer b");
    assert_eq!(said(&proxy.worker(0).request(request)), ["Bearer a,Bearer b"]);
}

#[test]
fn the_size_of_a_map_is_that_of_names_and_values() {
    let exchange = proxy(&on_response(
        "(drop (call $get_header_map_size (i32.const 2) (i32.const 16))) (call $say (i32.load (i32.const 16)))
         (call $say (call $get_header_map_size (i32.const 0) (i32.const 16)))",
        0,
    ))
    .worker(0)
    .request(Request::get("/"));
    // ":status" and "200"; the request's map is gone.
    assert_eq!(said(&exchange), ["10", "2"]);
}

#[test]
fn a_body_can_be_read_and_replaced() {
    let body = r#"(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
        (call $say (local.get 1))
        (drop (call $get_buffer_bytes (i32.const 0) (i32.const 1) (i32.const 99) @out)) (call $tell)
        (call $say (call $set_buffer_bytes (i32.const 0) (i32.const 0) (i32.const 99) 'new'))
        (i32.const 0))"#;
    let exchange = proxy(body).worker(0).request(Request::post("/").body("body"));
    // The filter has no request-headers callback, but its context is there all the same.
    assert_eq!(said(&exchange), ["4", "ody", "0"]);
    assert_eq!(exchange.seen_upstream().body, b"new");
}

#[test]
fn the_client_gets_what_the_service_sent() {
    let proxy = crate::support::started(
        mock_host::Proxy::builder()
            .upstream(|request| {
                let path = request.header(":path").unwrap_or_default();
                Response::new(201).header("x-path", path).body("made")
            })
            .plugin(crate::support::plugin("filter", &on_request("", 0))),
    );
    let exchange = proxy.worker(0).request(Request::post("/things"));
    assert_eq!((exchange.outcome, exchange.status, exchange.text()), (Outcome::Complete, 201, "made"));
    assert_eq!((exchange.header("x-path"), exchange.details.as_str()), (Some("/things"), "via_upstream"));
}
