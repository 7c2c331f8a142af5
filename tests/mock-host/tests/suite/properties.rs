//! Properties and filter state seen from a filter.

use crate::support::{on_configure, on_request, on_response, plugin, proxy, said, started};
use mock_host::{Proxy, Request, Response, Value};

/// Reads a property: its bytes, or the status.
fn read(path: &str) -> String {
    format!(
        "(if (i32.eqz (call $get_property '{path}' @out)) (then (call $tell))
             (else (call $say (call $get_property '{path}' @out))))"
    )
}

#[test]
fn the_node_is_under_xds_and_short_forms_are_not_found() {
    let paths = [
        "xds\\0node\\0metadata\\0LABELS\\0version",
        "xds\\0cluster_name",
        "node\\0id",
        "cluster_name",
        "route_name",
        "source\\0principal",
        "xds\\0node\\0nothing",
    ];
    let proxy = proxy(&on_request(&paths.map(read).concat(), 0));
    assert_eq!(
        said(&proxy.worker(0).request(Request::get("/"))),
        ["v1", "inbound|8080||", "1", "1", "1", "1", "1"]
    );
}

#[test]
fn a_header_property_joins_duplicates() {
    let proxy =
        proxy(&on_request(&["request\\0headers\\0x-a", "request\\0headers\\0x-b"].map(read).concat(), 0));
    let exchange = proxy.worker(0).request(Request::get("/").header("x-a", "1").header("x-a", "2"));
    assert_eq!(said(&exchange), ["1,2", "1"]);
}

#[test]
fn request_and_connection_attributes() {
    let paths = [
        "request\\0path",
        "request\\0url_path",
        "request\\0query",
        "request\\0method",
        "request\\0host",
        "request\\0id",
        "source\\0address",
        "connection\\0uri_san_peer_certificate",
        "plugin_name",
    ];
    let proxy = proxy(&on_request(&paths.map(read).concat(), 0));
    let request =
        Request::get("/a?b=c").header("x-request-id", "r1").source("10.1.1.1:5").peer("spiffe://a/ns/b/sa/c");
    assert_eq!(
        said(&proxy.worker(0).request(request)),
        [
            "/a?b=c",
            "/a",
            "b=c",
            "GET",
            "app.example.com",
            "r1",
            "10.1.1.1:5",
            "spiffe://a/ns/b/sa/c",
            "filter"
        ]
    );
}

#[test]
fn without_mutual_tls_there_is_no_peer() {
    let proxy = proxy(&on_request(&read("connection\\0uri_san_peer_certificate"), 0));
    assert_eq!(said(&proxy.worker(0).request(Request::get("/"))), ["1"]);
}

#[test]
fn request_attributes_are_gone_in_the_response_and_there_in_the_log() {
    let on_log = format!(r#"(func (export "proxy_on_log") (param i32) {})"#, read("request\\0path"));
    let proxy = proxy(&(on_request("", 0) + &on_response(&read("request\\0path"), 0) + &on_log));
    assert_eq!(said(&proxy.worker(0).request(Request::get("/p"))), ["1", "/p"]);
}

#[test]
fn a_property_that_one_plugin_sets_is_filter_state_for_the_next() {
    let paths = ["user", "filter_state\\0wasm.user", "user\\0x"];
    let proxy = started(
        Proxy::builder()
            .plugin(plugin("first", &on_request("(call $say (call $set_property 'user' 'alice'))", 0)))
            .plugin(plugin("second", &on_request(&paths.map(read).concat(), 0))),
    );
    let exchange = proxy.worker(0).request(Request::get("/"));
    assert_eq!(said(&exchange), ["0", "alice", "alice", "1"]);
    assert_eq!(exchange.state("wasm.user"), Some("alice"));
    assert_eq!(exchange.seen_upstream().header("user"), None);
}

#[test]
fn a_root_context_has_the_node_but_no_stream() {
    let body = on_configure(&format!(
        "{}(call $say (call $set_property 'x' 'y')){}{}",
        read("xds\\0node\\0cluster"),
        read("request\\0path"),
        read("xds\\0cluster_name")
    ));
    let node = Value::map([("cluster", "shop.shop".into())]);
    let proxy = started(Proxy::builder().node(node).plugin(plugin("filter", &body)));
    // Of the canary, the main thread and the worker, each says the same.
    let logs = proxy.logs();
    assert_eq!(crate::support::messages(&logs)[..4], ["shop.shop", "1", "1", "1"]);
    assert_eq!(logs.len(), 12);
}

#[test]
fn numbers_are_eight_bytes() {
    let code = "(drop (call $get_property 'response\\0code' @out)) (call $say (i32.load (i32.const 20)))
        (call $say (i32.load (i32.load (i32.const 16))))";
    let on_log = format!(r#"(func (export "proxy_on_log") (param i32) {code})"#);
    let proxy = started(Proxy::builder().upstream(|_| Response::new(204)).plugin(plugin("filter", &on_log)));
    assert_eq!(said(&proxy.worker(0).request(Request::get("/"))), ["8", "204"]);
}

#[test]
fn a_declared_read_only_property_takes_one_value() {
    // DeclarePropertyArguments { name: "jwt", readonly: true }.
    let declare = "(call $say (call $call_foreign_function 'declare_property' '\x0a\x03jwt\x10\x01' (i32.const 0) (i32.const 0)))";
    let twice = "(call $say (call $set_property 'jwt' 'a')) (call $say (call $set_property 'jwt' 'b'))";
    let proxy = proxy(&(on_configure(&format!("{declare}{declare}")) + &on_request(twice, 0)));
    assert_eq!(crate::support::messages(&proxy.logs())[..2], ["0", "2"]);
    let exchange = proxy.worker(0).request(Request::get("/"));
    assert_eq!((said(&exchange), exchange.state("wasm.jwt")), (vec!["0", "2"], Some("a")));
}

#[test]
fn envoy_filter_state_needs_a_known_key() {
    // SetEnvoyFilterStateArguments { path, value }.
    let set = |path: &str| {
        let argument = format!("\x0a{}{path}\x12\x01v", char::from(u8::try_from(path.len()).unwrap()));
        format!(
            "(call $say (call $call_foreign_function 'set_envoy_filter_state' '{argument}' (i32.const 0) (i32.const 0)))"
        )
    };
    let proxy = proxy(&on_request(&(set("envoy.tcp_proxy.cluster") + &set("my.own")), 0));
    let exchange = proxy.worker(0).request(Request::get("/"));
    assert_eq!((said(&exchange), exchange.state("envoy.tcp_proxy.cluster")), (vec!["0", "1"], Some("v")));
}

#[test]
fn the_source_is_the_last_forwarded_address_or_the_peer() {
    let proxy = proxy(&on_request(&read("source\\0address"), 0));
    for (forwarded, want) in [
        ("6.6.6.6", "6.6.6.6:0"),
        ("1.1.1.1, 7.7.7.7", "7.7.7.7:0"),
        ("::1", "[::1]:0"),
        ("someone", "10.1.1.1:5"),
        ("", "10.1.1.1:5"),
    ] {
        let request = Request::get("/").header("x-forwarded-for", forwarded).source("10.1.1.1:5");
        assert_eq!(said(&proxy.worker(0).request(request)), [want]);
    }
}
