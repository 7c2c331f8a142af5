//! Faults reach a filter by name, count and moment.

use crate::support::{on_request, on_response, plugin, proxy, said, started};
use mock_host::{Fault, Proxy, Request, Status};

const TWICE: &str = "(call $say (call $get_property 'request\\0path' @out)) (call $say (call $get_property 'request\\0path' @out))";

#[test]
fn a_call_answers_any_status() {
    for status in Status::all() {
        let proxy = proxy(&on_request(TWICE, 0));
        proxy.fault(Fault::on("proxy_get_property").status(status));
        let want = status.0.to_string();
        assert_eq!(said(&proxy.worker(0).request(Request::get("/"))), [want.as_str(), &want]);
    }
}

#[test]
fn only_the_nth_call_is_spoiled() {
    let proxy = proxy(&on_request(TWICE, 0));
    proxy.fault(Fault::on("proxy_get_property").nth(2));
    assert_eq!(said(&proxy.worker(0).request(Request::get("/"))), ["0", "10"]);
    proxy.clear_faults();
    assert_eq!(said(&proxy.worker(0).request(Request::get("/"))), ["0", "0"]);
}

#[test]
fn only_calls_of_one_callback_are_spoiled() {
    let code = "(call $say (call $set_property 'x' 'y'))";
    let proxy = proxy(&(on_request(code, 0) + &on_response(code, 0)));
    proxy.fault(
        Fault::on("proxy_set_property").during("proxy_on_response_headers").status(Status::BAD_ARGUMENT),
    );
    assert_eq!(said(&proxy.worker(0).request(Request::get("/"))), ["0", "2"]);
}

#[test]
fn bytes_can_be_cut_or_replaced() {
    let code = "(drop (call $get_header_map_value (i32.const 0) ':path' @out)) (call $tell)";
    let proxy = proxy(&on_request(&code.repeat(2), 0));
    proxy.fault(Fault::on("proxy_get_header_map_value").nth(1).truncate(2));
    proxy.fault(Fault::on("proxy_get_header_map_value").replace(b"garbage".to_vec()));
    assert_eq!(said(&proxy.worker(0).request(Request::get("/path"))), ["/p", "garbage"]);
}

#[test]
fn a_fault_can_be_there_from_the_start() {
    let body = crate::support::on_configure("(call $say (call $set_shared_data 'k' 'v' (i32.const 0)))");
    let fault = Fault::on_any().during("proxy_on_configure").status(Status::INTERNAL_FAILURE);
    // Every call is spoiled, the log's too.
    let proxy = started(Proxy::builder().fault(fault).plugin(plugin("filter", &body)));
    assert_eq!(proxy.logs(), []);
    assert!(proxy.shared_data("").is_empty());
}
