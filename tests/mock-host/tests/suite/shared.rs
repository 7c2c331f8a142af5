//! Shared data seen from filters of several workers and plugins.

use crate::support::{on_configure, on_request, plugin, said, started};
use mock_host::{Proxy, Request};

/// Reads key `k`, says its CAS, and writes it back with that CAS and one more byte.
const APPEND: &str = "(call $say (call $get_shared_data 'k' @out (i32.const 24)))
    (call $tell)
    (call $say (call $set_shared_data 'k' 'next' (i32.load (i32.const 24))))
    (call $say (call $set_shared_data 'k' 'late' (i32.load (i32.const 24))))";

#[test]
fn one_worker_sees_what_another_wrote() {
    let proxy = started(Proxy::builder().workers(2).plugin(plugin("filter", &on_request(APPEND, 0))));
    proxy.set_shared_data("", b"k", b"first");
    let first = proxy.worker(0).request(Request::get("/"));
    assert_eq!(said(&first), ["0", "first", "0", "8"]);
    let second = proxy.worker(1).request(Request::get("/"));
    assert_eq!(said(&second), ["0", "next", "0", "8"]);
}

#[test]
fn the_canary_writes_into_the_same_store() {
    let body = on_configure(
        "(call $say (call $get_shared_data 'k' @out (i32.const 24)))
        (drop (call $set_shared_data 'k' '' (i32.const 0)))",
    );
    let proxy = started(Proxy::builder().plugin(plugin("filter", &body)));
    // The canary finds nothing; the main thread and the worker find the empty value that it left.
    assert_eq!(crate::support::messages(&proxy.logs()), ["1", "0", "0"]);
    assert_eq!(proxy.shared_data("")[b"k".as_slice()], b"");
}

#[test]
fn plugins_share_one_store_unless_their_vm_ids_differ() {
    let write = on_request("(drop (call $set_shared_data 'k' 'v' (i32.const 0)))", 0);
    let read = on_request("(call $say (call $get_shared_data 'k' @out (i32.const 24)))", 0);
    let proxy = started(
        Proxy::builder()
            .plugin(plugin("writer", &write))
            .plugin(plugin("reader", &read))
            .plugin(plugin("stranger", &read).vm_id("other")),
    );
    assert_eq!(said(&proxy.worker(0).request(Request::get("/"))), ["0", "1"]);
}
