//! VMs, root contexts, updates, failures, and what a module may import.

use std::time::Duration;

use crate::support::{messages, on_configure, on_request, plugin, proxy, said, started};
use mock_host::{FailurePolicy, Level, Plugin, Proxy, Request, StreamHandle};

/// Logs the configuration, and refuses the one that begins with `b`.
const CONFIGURED: &str = r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
    (drop (call $get_buffer_bytes (i32.const 7) (i32.const 0) (local.get 1) @out))
    (call $tell)
    (i32.ne (i32.load8_u (i32.load (i32.const 16))) (i32.const 98)))"#;

#[test]
fn a_canary_then_the_main_thread_then_each_worker_are_configured() {
    let proxy =
        started(Proxy::builder().workers(3).plugin(plugin("filter", CONFIGURED).configuration("good")));
    assert_eq!(messages(&proxy.logs()), ["good"; 5]);
}

#[test]
fn a_refused_configuration_keeps_the_proxy_from_starting() {
    let rejected =
        Proxy::builder().plugin(plugin("filter", CONFIGURED).configuration("bad")).build().err().unwrap();
    assert_eq!((rejected.plugin.as_str(), messages(&rejected.logs)), ("filter", vec!["bad"]));
}

#[test]
fn a_refused_update_leaves_what_is_in_force() {
    let body = CONFIGURED.to_owned() + &on_request("", 0);
    let proxy = started(Proxy::builder().plugin(plugin("filter", &body).configuration("good")));
    let contexts = proxy.contexts(0);
    assert!(proxy.update("filter", "bad").is_err());
    assert_eq!(proxy.contexts(0), contexts);
    assert_eq!(proxy.worker(0).request(Request::get("/")).status, 200);
    // The verdict is remembered: the filter is not asked again.
    let asked = proxy.logs().len();
    assert!(proxy.update("filter", "bad").is_err());
    assert_eq!(proxy.logs().len(), asked);
}

#[test]
fn an_update_makes_a_new_root_in_the_same_vm_and_the_old_one_lives_until_its_last_stream_ends() {
    // Statics of the module are shared: each configuration counts on.
    let body = format!(
        r#"(global $count (mut i32) (i32.const 0))
        {}
        {}
        (func (export "proxy_on_done") (param i32) (result i32) (call $note 'done') (i32.const 1))
        (func (export "proxy_on_delete") (param i32) (call $note 'delete'))"#,
        on_configure("(global.set $count (i32.add (global.get $count) (i32.const 1)))"),
        on_request("(call $say (global.get $count))", 1),
    );
    let proxy = started(Proxy::builder().plugin(plugin("filter", &body).configuration("one")));
    let old: StreamHandle = proxy.worker(0).start(Request::get("/"));
    let contexts = proxy.contexts(0);
    proxy.update("filter", "two").unwrap();
    assert_eq!(proxy.contexts(0), contexts + 1, "the old root is still there");
    assert_eq!(said(&proxy.worker(0).request(Request::get("/")))[0], "2");
    let before = proxy.logs().len();
    drop(old);
    let logs = proxy.logs();
    assert_eq!(
        messages(&logs[before..]),
        ["done", "delete", "done", "delete"],
        "the stream's, then the old root's"
    );
    assert_eq!(proxy.contexts(0), 1);
}

#[test]
fn the_same_configuration_again_keeps_the_root() {
    let proxy = started(Proxy::builder().plugin(plugin("filter", CONFIGURED).configuration("good")));
    let asked = proxy.logs().len();
    proxy.update("filter", "good").unwrap();
    assert_eq!(proxy.logs().len(), asked);
}

#[test]
fn a_root_that_is_not_done_is_deleted_after_proxy_done() {
    let body = r#"
        (func (export "proxy_on_done") (param i32) (result i32)
          (drop (call $set_tick_period_milliseconds (i32.const 10))) (i32.const 0))
        (func (export "proxy_on_tick") (param i32) (call $note 'tick') (call $say (call $done)))
        (func (export "proxy_on_delete") (param i32) (call $note 'delete'))"#;
    let proxy = started(Proxy::builder().plugin(plugin("filter", body).configuration("one")));
    proxy.update("filter", "two").unwrap();
    assert_eq!(proxy.logs(), []);
    proxy.advance(Duration::from_millis(30));
    // On the main thread and on the worker; after the delete there is no timer.
    assert_eq!(messages(&proxy.logs()), ["tick", "0", "delete", "tick", "0", "delete"]);
}

#[test]
fn plugins_of_the_same_code_share_a_vm_and_of_other_vm_ids_do_not() {
    let body = format!(
        "(global $count (mut i32) (i32.const 0)) {}",
        on_request(
            "(global.set $count (i32.add (global.get $count) (i32.const 1))) (call $say (global.get $count))",
            0
        )
    );
    let proxy = started(
        Proxy::builder()
            .plugin(plugin("a", &body))
            .plugin(plugin("b", &body))
            .plugin(plugin("c", &body).vm_id("other")),
    );
    assert_eq!(said(&proxy.worker(0).request(Request::get("/"))), ["1", "2", "1"]);
}

/// Traps on the path `/t…`.
const TRAP: &str = "(drop (call $get_header_map_value (i32.const 0) ':path' @out))
    (if (i32.eq (i32.load8_u offset=1 (i32.load (i32.const 16))) (i32.const 116)) (then (unreachable)))";

#[test]
fn a_trap_kills_the_vm_and_every_later_stream_of_that_worker_gets_503() {
    let proxy = started(Proxy::builder().workers(2).plugin(plugin("filter", &on_request(TRAP, 0))));
    let trapped = proxy.worker(0).request(Request::get("/trap"));
    assert_eq!(
        (trapped.status, trapped.details.as_str(), trapped.upstream.is_none()),
        (503, "wasm_fail_stream", true)
    );
    assert_eq!(proxy.worker(0).request(Request::get("/ok")).status, 503);
    assert_eq!(proxy.worker(1).request(Request::get("/ok")).status, 200);
    assert_eq!(proxy.failures().len(), 1);
    assert!(
        proxy.logs().iter().any(|log| log.level == Level::Critical && log.message.contains("unreachable"))
    );
}

#[test]
fn under_fail_open_the_plugin_is_left_out() {
    let filter = plugin("filter", &on_request(TRAP, 0)).on_failure(FailurePolicy::Open);
    let proxy = started(Proxy::builder().plugin(filter));
    assert_eq!(proxy.worker(0).request(Request::get("/trap")).status, 200);
    assert_eq!(proxy.worker(0).request(Request::get("/ok")).status, 200);
}

#[test]
fn under_fail_reload_a_new_vm_takes_over_after_the_backoff() {
    let filter = plugin("filter", &on_request(TRAP, 0)).on_failure(FailurePolicy::Reload);
    let proxy = started(Proxy::builder().plugin(filter));
    assert_eq!(proxy.worker(0).request(Request::get("/trap")).status, 503);
    assert_eq!(proxy.worker(0).request(Request::get("/ok")).status, 503);
    proxy.advance(Duration::from_secs(2));
    assert_eq!(proxy.worker(0).request(Request::get("/ok")).status, 200);
}

#[test]
fn an_import_that_envoy_does_not_give_is_refused() {
    for (from, name) in [("env", "proxy_get_everything"), ("wasi_snapshot_preview1", "sched_yield")] {
        let text = format!(
            r#"(module (import "{from}" "{name}" (func (result i32))) (memory (export "memory") 1)
               (func (export "proxy_abi_version_0_2_1")) (func (export "malloc") (param i32) (result i32) i32.const 0))"#
        );
        let rejected =
            Proxy::builder().plugin(Plugin::from_bytes("filter", wat::parse_str(text).unwrap())).build();
        assert!(rejected.err().unwrap().reason.contains(name));
    }
}

#[test]
fn a_module_of_another_abi_or_without_an_allocator_is_refused() {
    for (text, reason) in [
        (r#"(module (memory (export "memory") 1))"#, "ABI"),
        (r#"(module (memory (export "memory") 1) (func (export "proxy_abi_version_0_2_1")))"#, "malloc"),
    ] {
        let rejected =
            Proxy::builder().plugin(Plugin::from_bytes("filter", wat::parse_str(text).unwrap())).build();
        assert!(rejected.err().unwrap().reason.contains(reason));
    }
}

#[test]
fn while_a_module_starts_it_may_do_little() {
    let text = r#"(module (import "env" "proxy_get_current_time_nanoseconds" (func $now (param i32) (result i32)))
        (memory (export "memory") 1) (func (export "proxy_abi_version_0_2_1"))
        (func (export "malloc") (param i32) (result i32) i32.const 0)
        (func (export "_initialize") (drop (call $now (i32.const 0)))))"#;
    let rejected =
        Proxy::builder().plugin(Plugin::from_bytes("filter", wat::parse_str(text).unwrap())).build();
    assert!(rejected.err().unwrap().reason.contains("proxy_get_current_time_nanoseconds is not allowed"));
}

#[test]
fn the_environment_is_what_the_plugin_gives() {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_get" (func $get (param i32 i32) (result i32)))
        (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (func (export "proxy_abi_version_0_2_1"))
        (func (export "malloc") (param i32) (result i32) i32.const 0)
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (drop (call $sizes (i32.const 0) (i32.const 4)))
          (drop (call $get (i32.const 16) (i32.const 64)))
          (drop (call $log (i32.const 2) (i32.load (i32.const 16)) (i32.load (i32.const 4))))
          (i32.const 0)))"#;
    let filter = Plugin::from_bytes("filter", wat::parse_str(text).unwrap()).env("B", "2").env("A", "1");
    let exchange = started(Proxy::builder().plugin(filter)).worker(0).request(Request::get("/"));
    assert_eq!(said(&exchange), ["A=1\0B=2\0"]);
}

#[test]
fn the_same_seed_gives_the_same_random_bytes() {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
        (import "env" "proxy_set_property" (func $set (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (data (i32.const 0) "r") (func (export "proxy_abi_version_0_2_1"))
        (func (export "malloc") (param i32) (result i32) i32.const 0)
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (drop (call $random (i32.const 16) (i32.const 16)))
          (drop (call $set (i32.const 0) (i32.const 1) (i32.const 16) (i32.const 16)))
          (i32.const 0)))"#;
    let run = |seed| {
        let filter = Plugin::from_bytes("filter", wat::parse_str(text).unwrap());
        let exchange =
            started(Proxy::builder().seed(seed).plugin(filter)).worker(0).request(Request::get("/"));
        exchange.filter_state["wasm.r"].clone()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn the_configuration_can_be_read_only_while_configuring() {
    let proxy = proxy(&on_request(
        "(call $say (call $get_buffer_bytes (i32.const 7) (i32.const 0) (i32.const 9) @out))",
        0,
    ));
    assert_eq!(said(&proxy.worker(0).request(Request::get("/"))), ["1"]);
}

#[test]
fn memory_that_a_filter_took_shows() {
    let proxy = proxy(&on_request("(drop (memory.grow (i32.const 3)))", 0));
    let before = proxy.memory(0);
    proxy.worker(0).request(Request::get("/"));
    assert_eq!(proxy.memory(0), before + 3 * 65536);
}

/// Envoy runs the reply to one stream from within the reply to the one before, and its stack has an end.
#[test]
fn a_callback_that_answers_too_many_streams_kills_the_vm() {
    let body = format!(
        r#"{}
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (drop (call $set_tick_period_milliseconds (i32.const 10))) (i32.const 1))
        (func (export "proxy_on_tick") (param $root i32) (local $stream i32)
          (local.set $stream (i32.add (local.get $root) (i32.const 100)))
          (loop $next
            (if (i32.eqz (call $set_effective_context (local.get $stream)))
              (then (drop (call $send_local_response (i32.const 403) 'x' (i32.const 0) (i32.const 0)
                (i32.const 0) (i32.const 0) (i32.const -1)))))
            (local.set $stream (i32.sub (local.get $stream) (i32.const 1)))
            (br_if $next (i32.gt_u (local.get $stream) (local.get $root)))))
        (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (i32.const 0))"#,
        on_request("", 1),
    );
    let survives = |streams: usize| {
        let proxy = started(Proxy::builder().plugin(plugin("filter", &body)));
        let streams: Vec<StreamHandle> =
            (0..streams).map(|_| proxy.worker(0).start(Request::get("/"))).collect();
        proxy.advance(Duration::from_millis(10));
        assert!(streams.iter().all(|stream| !stream.is_paused()));
        proxy.failures().is_empty()
    };
    assert!(survives(32));
    assert!(!survives(100));
}
