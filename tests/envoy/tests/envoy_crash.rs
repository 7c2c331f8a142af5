//! What becomes of requests when a module crashes, by failure policy, and what Envoy tells of it:
//! docs/operations.md and the alert `PluginCrashed` rest on this.
#![allow(clippy::restriction)]

use envoy::{
    Bootstrap, Cluster, Delivery, Envoy, FailurePolicy, HttpFilter, Listener, Request, Upstream, Wasm,
    wait_for,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use tempfile::TempDir;

/// Traps on a request with header `x-crash`, holds one with `x-waits`, and lets every other pass.
const CRASHES: &str = include_str!("../../../testdata/modules/crashes.wat");

struct World {
    envoy: Envoy,
    plugin: Wasm,
    _folder: TempDir,
}

impl World {
    /// One worker with the module, and with nothing else before the service.
    fn start(failure_policy: FailurePolicy, service: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let module = folder.path().join("crashes.wasm");
        fs::write(&module, wat::parse_str(CRASHES).unwrap()).unwrap();
        let mut plugin = Wasm::new("shop.crashes", module, "{}");
        plugin.failure_policy = failure_policy;
        plugin.delivery = Delivery::Discovery;
        let listener = Listener::new("in", "service", vec![HttpFilter::Wasm(plugin.clone())]);
        let clusters = vec![Cluster::new("service", service)];
        let envoy = Envoy::start(&Bootstrap { clusters, ..Bootstrap::default() }, &[listener], 1).unwrap();
        Self { envoy, plugin, _folder: folder }
    }

    /// Status, and `details` of the access log.
    fn send(&self, request: &Request) -> (u16, String) {
        let response = request.send(self.envoy.address("in").unwrap()).unwrap();
        let entry = self.envoy.access_log_entry(response.client_port).unwrap();
        assert_eq!(entry["flags"], "-");
        (response.status, entry["details"].as_str().unwrap().to_owned())
    }

    fn ask(&self) -> (u16, String) {
        self.send(&Request::new("GET", "/"))
    }

    fn crash(&self) -> (u16, String) {
        self.send(&Request::new("GET", "/").header("x-crash", "1"))
    }

    fn active_requests(&self) -> u64 {
        self.envoy.stats().unwrap().get("http.in.downstream_rq_active").copied().unwrap_or_default()
    }

    /// How often Envoy reloaded the VM, put a reload off, and failed to reload.
    fn reloads(&self) -> [u64; 3] {
        let stats: BTreeMap<String, u64> = self.envoy.stats().unwrap();
        ["success", "backoff", "failure"].map(|name| {
            stats.get(&format!("wasm.shop.crashes.vm_reload_{name}")).copied().unwrap_or_default()
        })
    }

    /// Asks until a request passes; how many were refused before.
    fn refused_until_one_passes(&self) -> u64 {
        let mut refused = 0;
        let passed = wait_for("a request to pass", || match self.ask() {
            (200, _) => Some(()),
            other => {
                assert_eq!(other, failed());
                refused += 1;
                None
            }
        });
        passed.unwrap();
        refused
    }
}

/// What a client gets of a dead VM.
fn failed() -> (u16, String) {
    (503, "wasm_fail_stream".to_owned())
}

fn passed() -> (u16, String) {
    (200, "via_upstream".to_owned())
}

#[test]
fn a_crash_under_fail_reload_costs_its_request_and_the_next_ones_start_a_new_vm() {
    let service = Upstream::start().unwrap();
    let world = World::start(FailurePolicy::Reload, service.address());
    assert_eq!(world.ask(), passed());
    let (mut crashes, mut put_off) = (0, 0);
    // The first are reloaded at once where this machine is slow: Envoy wants a second between two loads.
    while crashes < 2 || put_off == 0 {
        assert_eq!(world.crash(), failed(), "the VM that serves now is in force");
        crashes += 1;
        put_off += world.refused_until_one_passes();
        assert_eq!(world.reloads(), [crashes, put_off, 0]);
    }
    let log = world.envoy.log();
    let told = "Function: proxy_on_request_headers failed: Uncaught RuntimeError: unreachable";
    assert!(log.contains(told), "{log}");
}

#[test]
fn a_crash_under_fail_closed_refuses_everything_until_a_new_configuration_and_no_statistic_moves() {
    let service = Upstream::start().unwrap();
    let mut world = World::start(FailurePolicy::Closed, service.address());
    let before = wasm_stats(&world.envoy);
    assert_eq!(world.crash(), failed());
    for _ in 0..20 {
        assert_eq!(world.ask(), failed());
    }
    assert_eq!(world.reloads(), [0; 3]);
    assert_eq!(wasm_stats(&world.envoy), before);
    world.plugin.configuration = json!({ "new": true }).to_string();
    world.envoy.reconfigure(&world.plugin).unwrap();
    world.refused_until_one_passes();
    assert_eq!(world.crash(), failed(), "the plugin is in force again");
}

#[test]
fn a_crash_under_fail_open_lets_everything_pass_unseen_and_no_statistic_moves() {
    let service = Upstream::start().unwrap();
    let world = World::start(FailurePolicy::Open, service.address());
    let before = wasm_stats(&world.envoy);
    assert_eq!(world.crash(), failed());
    for _ in 0..20 {
        assert_eq!(world.ask(), passed());
    }
    assert_eq!(world.crash(), passed(), "the plugin does not see it");
    assert_eq!(wasm_stats(&world.envoy), before);
}

#[test]
fn a_crash_fails_requests_that_the_service_still_answers_and_leaves_those_that_wait_in_the_module() {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let world = World::start(FailurePolicy::Reload, service.local_addr().unwrap());
    let waiting = || {
        let mut client = TcpStream::connect(world.envoy.address("in").unwrap()).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx-waits: 1\r\n\r\n").unwrap();
        client
    };
    thread::scope(|threads| {
        let at_the_service = threads.spawn(|| world.ask());
        let (mut connection, _) = service.accept().unwrap();
        let mut client = waiting();
        wait_for("both requests", || (world.active_requests() == 2).then_some(())).unwrap();
        assert_eq!(world.crash(), failed());
        connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        assert_eq!(at_the_service.join().unwrap(), failed());
        wait_for("the others to end", || (world.active_requests() == 1).then_some(())).unwrap();
        client.set_nonblocking(true).unwrap();
        let nothing = client.read(&mut [0; 1]).unwrap_err();
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    });
}

/// All that Envoy counts of modules.
fn wasm_stats(envoy: &Envoy) -> BTreeMap<String, Value> {
    let stats = envoy.stats().unwrap().into_iter();
    stats.filter(|(name, _)| name.contains("wasm")).map(|(name, value)| (name, json!(value))).collect()
}
