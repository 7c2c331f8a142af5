//! Limits over several Envoys: the built module, Envoy's own rate limit service and Redis, none of them made
//! for tests. `make test-services` installs the two.
#![allow(clippy::restriction)]
#![cfg(not(target_family = "wasm"))]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use envoy::{
    Bootstrap, Cluster, Daemon, Endpoint, Envoy, HttpFilter, Listener, Node, Request, Response, Upstream,
    Wasm, values, wait_for,
};
use serde_json::{Value, json};

const DESCRIPTORS: &str = "
domain: shop
descriptors:
  - key: user
    rate_limit: { requests_per_unit: 50, unit: day }
  - key: generic_key
    value: narrow
    rate_limit: { requests_per_unit: 3, unit: day }
";

/// Redis and the rate limit service, each on a Unix domain socket.
struct Services {
    redis: Daemon,
    service: Daemon,
}

impl Services {
    fn start() -> Self {
        let redis = Daemon::start("redis", |folder| {
            let mut redis = Command::new("redis-server");
            redis.current_dir(folder).args([
                "--port",
                "0",
                "--unixsocket",
                "redis.sock",
                "--daemonize",
                "no",
            ]);
            redis.args(["--save", "", "--appendonly", "no"]);
            Ok(redis)
        });
        let redis = redis.expect("redis-server; `make test-services` installs it");
        let socket = redis.folder().join("redis.sock");
        wait_for("Redis", || std::os::unix::net::UnixStream::connect(&socket).ok()).unwrap();
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.tools/services/bin/ratelimit");
        let service = Daemon::start("ratelimit", |folder| {
            let configuration = folder.join("runtime/config");
            fs::create_dir_all(&configuration)?;
            fs::write(configuration.join("shop.yaml"), DESCRIPTORS)?;
            let mut service = Command::new(program);
            service.env_clear().envs([
                ("REDIS_SOCKET_TYPE", "unix"),
                ("REDIS_URL", socket.to_str().unwrap()),
                ("RUNTIME_ROOT", folder.join("runtime").to_str().unwrap()),
                ("RUNTIME_WATCH_ROOT", "false"),
                ("GRPC_UDS", folder.join("grpc.sock").to_str().unwrap()),
                ("HOST", "127.0.0.1"),
                ("PORT", "0"),
                ("DEBUG_HOST", "127.0.0.1"),
                ("DEBUG_PORT", "0"),
                ("USE_STATSD", "false"),
                ("DISABLE_STATS", "true"),
                ("LIMIT_RESPONSE_HEADERS_ENABLED", "true"),
            ]);
            Ok(service)
        });
        let service = service.expect("the rate limit service; `make test-services` builds it");
        let services = Self { redis, service };
        services.wait_for_service();
        services
    }

    fn socket(&self) -> std::path::PathBuf {
        self.service.folder().join("grpc.sock")
    }

    fn wait_for_service(&self) {
        let socket = self.socket();
        wait_for("the rate limit service", || std::os::unix::net::UnixStream::connect(&socket).ok()).unwrap();
    }

    /// Lets the service stand still, or go on.
    fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([signal, &self.service.id().to_string()]).status().unwrap();
        assert!(done.success());
    }
}

/// A proxy with a limit of one day that is asked of the service.
struct Sidecar {
    envoy: Envoy,
    upstream: Upstream,
    sent: AtomicU64,
}

impl Sidecar {
    fn start(services: &Services, workers: usize, configuration: &Value) -> Self {
        let upstream = Upstream::start().unwrap();
        let module = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/filters/rate-limit.wasm");
        let filter = HttpFilter::Wasm(Wasm::new("rate-limit", module, configuration.to_string()));
        let service = Cluster { http2: true, ..Cluster::new("ratelimit", Endpoint::Pipe(services.socket())) };
        let bootstrap = Bootstrap {
            node: Node::new("server", "shop", "v1"),
            clusters: vec![Cluster::new("service", upstream.address()), service],
        };
        let listener = Listener::new("inbound", "service", vec![filter]);
        let envoy = Envoy::start(&bootstrap, &[listener], workers).unwrap();
        Self { envoy, upstream, sent: AtomicU64::new(0) }
    }

    fn send(&self, user: &str) -> Response {
        let address = self.envoy.address("inbound").unwrap();
        let response = Request::new("GET", "/").header("x-user", user).send(address);
        // Whatever happens to the service: every request is answered.
        let response = response.unwrap();
        self.sent.fetch_add(1, Ordering::Relaxed);
        response
    }

    /// Sends so many requests over several connections at once; how many got which status.
    fn load(&self, users: &[&str], requests: usize) -> BTreeMap<u16, usize> {
        let statuses = std::thread::scope(|scope| {
            let senders: Vec<_> = (0..8)
                .map(|sender| {
                    scope.spawn(move || {
                        let each = (sender..requests).step_by(8);
                        each.map(|n| self.send(users[n % users.len()]).status).collect::<Vec<_>>()
                    })
                })
                .collect();
            senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect::<Vec<_>>()
        });
        let mut counts = BTreeMap::new();
        for status in statuses {
            *counts.entry(status).or_insert(0) += 1;
        }
        counts
    }

    fn counter(&self, name: &str) -> u64 {
        support::counter(&self.envoy, self.sent.load(Ordering::Relaxed), name)
    }
}

fn configuration(on_failure: &str, timeout: &str) -> Value {
    json!({
        "limits": [{
            "name": "per-user", "key": [{ "header": "x-user" }], "rate": { "requests": 50, "per": "1d" },
            "global": { "entries": ["user"] },
        }],
        "global": { "domain": "shop", "cluster": "ratelimit", "timeout": timeout, "onFailure": on_failure },
    })
}

fn today() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 86_400
}

/// Runs a test again if midnight fell into it: then the service has begun a new window.
fn within_a_day(test: impl Fn()) {
    let day = today();
    let first = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&test));
    match first {
        Err(_) if today() != day => test(),
        Err(panic) => std::panic::resume_unwind(panic),
        Ok(()) => {}
    }
}

#[test]
fn two_proxies_together_admit_exactly_the_limit() {
    within_a_day(|| {
        let services = Services::start();
        let proxies = [(); 2].map(|()| Sidecar::start(&services, 2, &configuration("deny", "5s")));
        let users = ["alice", "bob"];
        let counts = std::thread::scope(|scope| {
            let loads = proxies.each_ref().map(|proxy| scope.spawn(|| proxy.load(&users, 160)));
            loads.map(|load| load.join().unwrap())
        });
        let admitted: Vec<usize> =
            counts.iter().map(|count| count.get(&200).copied().unwrap_or_default()).collect();
        assert_eq!(admitted.iter().sum::<usize>(), 100, "{counts:?}");
        assert!(admitted.iter().all(|admitted| *admitted > 0), "{counts:?}");
        for (proxy, count) in proxies.iter().zip(&counts) {
            assert_eq!(count.keys().copied().collect::<Vec<_>>(), [200, 429]);
            assert_eq!(proxy.upstream.take_received().len(), count[&200]);
            assert_eq!(proxy.counter("service_failed"), 0);
            // Those that are known to be over their limit are denied without a call.
            let asked = proxy.counter("service_ok") + proxy.counter("service_over_limit");
            assert!(proxy.counter("service_remembered") > 0);
            assert!(asked < 160, "{asked} asked");
        }
        let denied = proxies[0].send("alice");
        assert_eq!(denied.status, 429);
        let wait: u64 = values(&denied.headers, "retry-after")[0].parse().unwrap();
        assert!((1..=86_400).contains(&wait));
        assert_eq!(proxies[1].send("carol").status, 200);
    });
}

#[test]
fn answer_of_the_service_reaches_the_client() {
    within_a_day(|| {
        let services = Services::start();
        let mut configuration = configuration("deny", "5s");
        configuration["limits"] = json!([
            { "name": "narrow", "rate": { "requests": 100, "per": "1d" }, "global": {} },
            { "name": "sent", "key": [{ "header": "x-user" }], "rate": { "requests": 2, "per": "1d", "burst": 9 },
              "global": { "entries": ["sent"], "sendRate": true } },
        ]);
        let sidecar = Sidecar::start(&services, 1, &configuration);
        let first = sidecar.send("alice");
        assert_eq!(first.status, 200);
        // Its own headers, which it was told to send.
        assert_eq!(values(&first.headers, "ratelimit-limit").len(), 1);
        assert_eq!(values(&first.headers, "ratelimit-remaining"), ["1"]);
        assert_eq!(sidecar.send("alice").status, 200);
        let denied = sidecar.send("alice");
        assert_eq!(denied.status, 429);
        assert!(denied.text().contains(r#""violated-policies":["sent"]"#), "{}", denied.text());
        assert_eq!(values(&denied.headers, "ratelimit-policy"), [r#""sent";q=2;w=86400"#]);
        // The denied request has counted for the other limit of the service, which gives nothing back.
        let denied = sidecar.send("bob");
        assert!(denied.text().contains(r#""violated-policies":["narrow"]"#), "{}", denied.text());
    });
}

#[test]
fn redis_restarts_no_request_is_lost() {
    within_a_day(|| {
        let mut services = Services::start();
        let sidecar = Sidecar::start(&services, 1, &configuration("deny", "5s"));
        assert_eq!(sidecar.load(&["alice"], 20), BTreeMap::from([(200, 20)]));
        services.redis.kill();
        assert_eq!(sidecar.load(&["alice"], 40), BTreeMap::from([(503, 40)]));
        assert_eq!(sidecar.counter("requests_failed"), 40);
        assert_eq!(sidecar.counter("service_opened"), 1);
        assert_eq!(sidecar.counter("service_failed") + sidecar.counter("service_skipped"), 40);
        services.redis.restart().unwrap();
        wait_for("the service's recovery", || (sidecar.send("bob").status == 200).then_some(())).unwrap();
        // What was denied meanwhile was charged to nobody; what Redis had counted is lost with it. The
        // service finds out about each of its ten connections when it uses it.
        let statuses: Vec<u16> = (0..41).map(|_| sidecar.send("alice").status).collect();
        let count = |wanted| statuses.iter().filter(|status| **status == wanted).count();
        assert_eq!(count(200), 30, "{statuses:?}");
        assert!(count(503) <= 10, "{statuses:?}");
        assert_eq!(statuses.last(), Some(&429));
    });
}

#[test]
fn dead_service_few_requests_wait_and_it_is_found_again() {
    let mut services = Services::start();
    let sidecar = Sidecar::start(&services, 1, &configuration("local", "5s"));
    assert_eq!(sidecar.load(&["alice"], 10), BTreeMap::from([(200, 10)]));
    services.service.kill();
    fs::remove_file(services.socket()).ok();
    // The limits of this proxy decide: 50 a day.
    assert_eq!(sidecar.load(&["bob"], 70), BTreeMap::from([(200, 50), (429, 20)]));
    let failed = sidecar.counter("service_failed");
    assert!((5..20).contains(&failed), "{failed} failed");
    assert_eq!(sidecar.counter("service_opened"), 1);
    services.service.restart().unwrap();
    services.wait_for_service();
    let ok = sidecar.counter("service_ok");
    wait_for("the service's recovery", || {
        sidecar.send("carol");
        (sidecar.counter("service_ok") > ok).then_some(())
    })
    .unwrap();
}

#[test]
fn stalled_service_requests_do_not_wait() {
    let services = Services::start();
    let sidecar = Sidecar::start(&services, 1, &configuration("allow", "20ms"));
    services.signal("-STOP");
    assert_eq!(sidecar.load(&["alice"], 60), BTreeMap::from([(200, 60)]));
    assert_eq!(sidecar.counter("requests_uncounted"), 60);
    assert_eq!(sidecar.counter("service_failed") + sidecar.counter("service_skipped"), 60);
    assert!(sidecar.counter("service_skipped") >= 40);
    services.signal("-CONT");
    wait_for("the service's recovery", || {
        sidecar.send("carol");
        (sidecar.counter("service_ok") > 0).then_some(())
    })
    .unwrap();
}

#[test]
fn stopped_services_leave_nothing_behind() {
    let (folders, processes) = {
        let services = Services::start();
        let daemons = [&services.redis, &services.service];
        (daemons.map(|d| d.folder().to_owned()), daemons.map(Daemon::id))
    };
    assert!(folders.iter().all(|folder| !folder.exists()));
    assert!(processes.iter().all(|process| !Path::new(&format!("/proc/{process}")).exists()));
}
