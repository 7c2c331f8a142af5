//! Clocks and timers.

use std::time::Duration;

use crate::support::{messages, on_configure, on_request, plugin, proxy, said, started};
use mock_host::{Proxy, Request};

/// Says the seconds of the ABI's clock, of WASI's clock 0, and of WASI's clock 1.
const CLOCKS: &str = "(drop (call $get_current_time_nanoseconds (i32.const 32))) (call $seconds)
    (drop (call $clock (i32.const 0) (i64.const 0) (i32.const 32))) (call $seconds)
    (drop (call $clock (i32.const 1) (i64.const 0) (i32.const 32))) (call $seconds)";
const SECONDS: &str =
    "(func $seconds (call $say (i32.wrap_i64 (i64.div_u (i64.load (i32.const 32)) (i64.const 1000000000)))))";

#[test]
fn the_clocks_advance_together_and_only_the_wall_clock_can_be_set() {
    let body = SECONDS.to_owned() + &on_request(CLOCKS, 0);
    let proxy = started(Proxy::builder().clock(5_000).plugin(plugin("filter", &body)));
    let worker = proxy.worker(0);
    assert_eq!(said(&worker.request(Request::get("/"))), ["5000", "5000", "1000"]);
    proxy.advance(Duration::from_mins(1));
    assert_eq!(said(&worker.request(Request::get("/"))), ["5060", "5060", "1060"]);
    proxy.set_clock(4_000);
    assert_eq!(said(&worker.request(Request::get("/"))), ["4000", "4000", "1060"]);
}

fn ticking(period: u32, tick: &str) -> String {
    on_configure(&format!("(drop (call $set_tick_period_milliseconds (i32.const {period})))"))
        + &format!(r#"(func (export "proxy_on_tick") (param i32) {tick})"#)
}

#[test]
fn a_timer_fires_each_period_on_the_main_thread_and_each_worker() {
    let proxy =
        started(Proxy::builder().workers(2).plugin(plugin("filter", &ticking(1000, "(call $note 'tick')"))));
    proxy.advance(Duration::from_millis(999));
    assert_eq!(proxy.logs().len(), 0);
    proxy.advance(Duration::from_millis(1));
    assert_eq!(proxy.logs().len(), 3);
    proxy.advance(Duration::from_secs(2));
    assert_eq!(proxy.logs().len(), 9);
}

#[test]
fn a_timer_fires_at_its_moment() {
    let body = SECONDS.to_owned() + &ticking(2000, CLOCKS);
    let proxy = started(Proxy::builder().clock(10).plugin(plugin("filter", &body)));
    proxy.advance(Duration::from_secs(4));
    assert_eq!(messages(&proxy.logs())[..3], ["12", "12", "1002"]);
    assert_eq!(messages(&proxy.logs())[6..9], ["14", "14", "1004"]);
}

#[test]
fn a_period_of_zero_stops_the_timer() {
    let proxy =
        proxy(&ticking(10, "(call $note 'tick') (drop (call $set_tick_period_milliseconds (i32.const 0)))"));
    proxy.advance(Duration::from_secs(1));
    assert_eq!(messages(&proxy.logs()), ["tick", "tick"], "once on each thread");
}
