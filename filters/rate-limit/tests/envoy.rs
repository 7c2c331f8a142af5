//! The built module in a real Envoy with four workers, under load.
#![allow(clippy::restriction)]
#![cfg(not(target_family = "wasm"))]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use envoy::{Bootstrap, Cluster, Envoy, HttpFilter, Listener, Node, Upstream, Wasm};
use serde_json::{Value, json};

struct Sidecar {
    envoy: Envoy,
    upstream: Upstream,
    sent: AtomicU64,
}

impl Sidecar {
    fn start(configuration: &Value) -> Self {
        let upstream = Upstream::start().unwrap();
        let module = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/filters/rate-limit.wasm");
        let filter = HttpFilter::Wasm(Wasm::new("rate-limit", module, configuration.to_string()));
        let bootstrap = Bootstrap {
            node: Node::new("server", "shop", "v1"),
            clusters: vec![Cluster::new("service", upstream.address())],
        };
        let listener = Listener::new("inbound", "service", vec![filter]);
        let envoy = Envoy::start(&bootstrap, &[listener], 4).unwrap();
        Self { envoy, upstream, sent: AtomicU64::new(0) }
    }

    /// Sends requests over `connections` at once, `each` on every one of them, and returns how many were
    /// admitted. `head` is the request line's target and the headers of the n-th request of a connection.
    fn load(&self, connections: usize, each: usize, head: impl Fn(usize, usize) -> String + Sync) -> usize {
        let to = self.envoy.address("inbound").unwrap();
        let admitted = std::thread::scope(|scope| {
            let head = &head;
            let senders: Vec<_> = (0..connections)
                .map(|connection| scope.spawn(move || send(to, (0..each).map(|n| head(connection, n)))))
                .collect();
            senders.into_iter().map(|sender| sender.join().unwrap()).sum()
        });
        // What clients were told is what happened.
        assert_eq!(self.upstream.take_received().len(), admitted);
        self.sent.fetch_add((connections * each) as u64, Ordering::Relaxed);
        admitted
    }

    fn counter(&self, name: &str) -> u64 {
        support::counter(&self.envoy, self.sent.load(Ordering::Relaxed), name)
    }

    /// Bytes that Envoy has allocated.
    fn memory(&self) -> u64 {
        let memory: Value = serde_json::from_str(&self.envoy.admin("GET", "/memory").unwrap()).unwrap();
        memory["allocated"].as_str().unwrap().parse().unwrap()
    }
}

/// Sends requests over one connection, each after the last was answered, and counts those that got 200.
fn send(to: SocketAddr, heads: impl Iterator<Item = String>) -> usize {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    heads
        .filter(|head| {
            stream.write_all(format!("GET {head}\r\n\r\n").as_bytes()).unwrap();
            read_status(&mut answers) == 200
        })
        .count()
}

fn read_status(answers: &mut BufReader<TcpStream>) -> u16 {
    let mut line = String::new();
    answers.read_line(&mut line).unwrap();
    let status: u16 = line.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(matches!(status, 200 | 429), "{line}");
    let mut length = 0;
    while line != "\r\n" {
        line.clear();
        answers.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    answers.read_exact(&mut vec![0; length]).unwrap();
    status
}

fn plain(path: &str) -> String {
    format!("{path} HTTP/1.1\r\nhost: service.test")
}

#[test]
fn exactly_the_burst_is_admitted_by_four_workers_together() {
    let limit = json!({ "name": "total", "rate": { "requests": 500, "per": "1d" } });
    let sidecar = Sidecar::start(&json!({ "limits": [limit] }));
    assert_eq!(sidecar.load(16, 60, |_, _| plain("/")), 500);
    assert_eq!(sidecar.load(16, 5, |_, _| plain("/")), 0);
    assert_eq!(sidecar.counter("requests_allowed"), 500);
    assert_eq!(sidecar.counter("requests_denied"), 16 * 65 - 500);
    assert_eq!(sidecar.counter("requests_failed"), 0);
    // Each worker that creates slots could reset what others have counted. Only the main thread has, before
    // they started.
    assert_eq!(sidecar.envoy.log().matches("slots created for 1 limits").count(), 1);
}

#[test]
fn busy_limit_admits_no_more_than_its_formula() {
    let (requests, burst) = (2_000, 300);
    let limit = json!({ "name": "total", "rate": { "requests": requests, "per": "1s", "burst": burst } });
    let sidecar = Sidecar::start(&json!({ "limits": [limit] }));
    let start = Instant::now();
    let admitted = sidecar.load(16, 300, |_, _| plain("/")) as u128;
    let most = burst + start.elapsed().as_nanos() * requests / 1_000_000_000;
    assert!(admitted <= most, "{admitted} admitted, at most {most} may be");
    // What idle workers hold is a small part of it.
    assert!(admitted >= burst / 2, "only {admitted} admitted");
}

#[test]
fn denied_request_costs_the_other_limits_nothing() {
    let sidecar = Sidecar::start(&json!({ "limits": [
        { "name": "total", "rate": { "requests": 400, "per": "1d" } },
        { "name": "narrow", "match": { "paths": ["/narrow"] }, "rate": { "requests": 200, "per": "1d" } },
    ] }));
    assert_eq!(sidecar.load(16, 40, |_, _| plain("/narrow")), 200);
    let admitted = sidecar.load(16, 40, |_, _| plain("/other"));
    // A charge that was undone may have stayed with its worker.
    let undone = usize::try_from(sidecar.counter("charges_undone")).unwrap();
    assert!(
        (200_usize.saturating_sub(undone)..=200).contains(&admitted),
        "{admitted} admitted, {undone} undone"
    );
}

/// Sends requests with so many different keys to a limit with 256 places.
fn fixed_memory(keys: usize) {
    let limit = json!({
        "name": "per-user", "key": [{ "header": "x-user" }], "maxKeys": 256, "rate": { "requests": 2, "per": "1d" },
    });
    let sidecar = Sidecar::start(&json!({ "limits": [limit] }));
    let send = |round: &str, each| {
        let head = |connection, n| format!("{}\r\nx-user: {round}-{connection}-{n}", plain("/"));
        assert_eq!(sidecar.load(8, each, head), 8 * each);
    };
    send("first", 500);
    let before = sidecar.memory();
    for round in 0..keys / 8_000 {
        send(&round.to_string(), 1_000);
    }
    let grown = i128::from(sidecar.memory()) - i128::from(before);
    println!("{keys} keys: Envoy's memory changed by {grown} bytes");
    // One value of the shared data for each key would be 200 bytes and more.
    assert!(grown < keys as i128 * 50, "{grown} bytes more after {keys} more keys");
    assert!(usize::try_from(sidecar.counter("keys_evicted")).unwrap() > keys - 1_000);
}

#[test]
fn many_keys_take_the_memory_of_a_few() {
    fixed_memory(24_000);
}

#[test]
#[ignore = "takes minutes"]
fn a_million_keys_take_the_memory_of_a_few() {
    fixed_memory(1_000_000);
}
