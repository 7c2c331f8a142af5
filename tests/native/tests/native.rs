//! Native modules in a real Envoy: what happens when something goes wrong, and how they are configured.
#![allow(clippy::restriction)]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use envoy::{Answer, Bootstrap, Cluster, Envoy, Error, HttpFilter, JwksServer, Listener, Request, Upstream};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

struct Proxy {
    envoy: Envoy,
    upstream: Upstream,
    issuer: JwksServer,
}

/// The module of this crate, which cargo builds beside its tests.
fn panicking() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().join("libpanicking.so")
}

fn filter(module: &PathBuf, name: &str, configuration: &Value) -> HttpFilter {
    let config = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
        "dynamic_module_config": { "module": { "local": { "filename": module } }, "metrics_namespace": "wasmcustom" },
        "filter_name": name,
        "filter_config": { "@type": "type.googleapis.com/google.protobuf.Struct", "value": configuration },
    });
    HttpFilter::Native { name: name.to_owned(), config }
}

impl Proxy {
    fn start(workers: usize) -> Self {
        let upstream = Upstream::start().unwrap();
        let issuer = JwksServer::start(&cases::public_keys(&["rsa-1"]).unwrap()).unwrap();
        let clusters =
            vec![Cluster::new("service", upstream.address()), Cluster::new("issuer", issuer.address())];
        let envoy = Envoy::start(&Bootstrap { clusters, ..Bootstrap::default() }, &[], workers).unwrap();
        Self { envoy, upstream, issuer }
    }

    fn configure(&mut self, filter: HttpFilter) -> Result<(), Error> {
        self.envoy.set_listeners(&[Listener::new("inbound", "service", vec![filter])])
    }

    /// The status of a request and its details in the access log, and whether it reached the service.
    fn send(&self, headers: &[(&str, &str)]) -> (u16, String, bool) {
        let mut request = Request::new("GET", "/");
        for (name, value) in headers {
            request.headers.push(((*name).to_owned(), (*value).to_owned()));
        }
        self.upstream.take_received();
        let response = request.send(self.envoy.address("inbound").unwrap()).unwrap();
        let entry = self.envoy.access_log_entry(response.client_port).unwrap();
        let details = entry["details"].as_str().unwrap_or_default().to_owned();
        let reached = self.upstream.take_received().iter().any(|received| received.path == "/");
        (response.status, details, reached)
    }
}

#[test]
fn panic_while_a_request_is_decided_about_denies_it_and_the_proxy_lives() {
    let mut proxy = Proxy::start(1);
    proxy.configure(filter(&panicking(), "panicking", &json!({}))).unwrap();
    for place in ["request", "keeps", "request"] {
        assert_eq!(
            proxy.send(&[("x-panic", place)]),
            (500, "panicking_panicked".to_owned(), false),
            "{place}"
        );
        assert_eq!(proxy.send(&[]).0, 200);
    }
    // This request was decided about before.
    for place in ["response", "end"] {
        let (status, _, reached) = proxy.send(&[("x-panic", place)]);
        assert_eq!((status, reached), (200, true), "{place}");
    }
    assert_eq!(proxy.send(&[]).0, 200);
    let log = proxy.envoy.log();
    assert!(log.contains("panic at "), "{log}");
    assert!(!log.contains("a secret"), "{log}");
    assert!(proxy.envoy.terminate().unwrap().success());
}

#[test]
fn panic_while_requests_wait_denies_them() {
    let mut proxy = Proxy::start(1);
    proxy.configure(filter(&panicking(), "panicking", &json!({}))).unwrap();
    for place in ["again", "call"] {
        assert_eq!(
            proxy.send(&[("x-panic", place)]),
            (500, "panicking_panicked".to_owned(), false),
            "{place}"
        );
        assert_eq!(proxy.send(&[]).0, 200);
    }
}

#[test]
fn refused_configuration_leaves_the_last_good_one_in_force() {
    let mut proxy = Proxy::start(1);
    let module = cases::native_module().unwrap();
    let limits = |limits: Value| json!({ "pluginName": "shop.limits", "pluginConfig": { "limits": limits } });
    let one = json!([{ "name": "total", "rate": { "requests": 1, "per": "1h" } }]);
    proxy.configure(filter(&module, "rate-limit", &limits(one))).unwrap();
    assert_eq!(proxy.send(&[]).0, 200);
    let refused = [
        (
            filter(&module, "rate-limit", &limits(json!(7))),
            "rate-limit: configuration refused: pluginConfig.limits",
        ),
        (filter(&module, "rate-limit", &json!({ "limits": [] })), "`limits`"),
        (
            filter(&module, "rate-limits", &json!({})),
            "no filter `rate-limits`; expected as filter_name one of jwt-auth",
        ),
        (
            filter(&panicking(), "panicking", &json!({ "pluginConfig": { "configure": "panic" } })),
            "panic at ",
        ),
    ];
    for (filter, expected) in refused {
        let Err(Error::Refused(log)) = proxy.configure(filter) else {
            panic!("accepted, expected: {expected}")
        };
        let expected = expected.replace("pluginConfig.", "");
        assert!(log.contains(&expected), "{expected}: {log}");
        assert_eq!(proxy.send(&[]).0, 429);
    }
}

/// The gauges of warnings and of report mode.
fn gauges(envoy: &Envoy) -> [Option<u64>; 2] {
    let stats = envoy.stats().unwrap();
    ["config_warnings", "report_mode"]
        .map(|name| stats.get(&format!("wasmcustom.rate_limit_{name}_shop.limits")).copied())
}

#[test]
fn gauges_tell_report_mode_and_follow_what_is_in_force() {
    let mut proxy = Proxy::start(2);
    let limits = |more: Value| {
        let mut limit = json!({ "name": "total", "rate": { "requests": 1, "per": "1h" } });
        limit.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let config = json!({ "pluginName": "shop.limits", "pluginConfig": { "limits": [limit] } });
        filter(&cases::native_module().unwrap(), "rate-limit", &config)
    };
    proxy.configure(limits(json!({ "mode": "report" }))).unwrap();
    assert_eq!(gauges(&proxy.envoy), [Some(1), Some(1)]);
    assert!(proxy.configure(limits(json!({ "mode": "off" }))).is_err());
    assert_eq!(gauges(&proxy.envoy), [Some(1), Some(1)]);
    proxy.configure(limits(json!({ "enforcePercent": 10 }))).unwrap();
    assert_eq!(gauges(&proxy.envoy), [Some(1), Some(1)]);
    // A warning of another kind.
    let odd = json!({ "match": { "paths": ["/users/:id"] } });
    proxy.configure(limits(odd)).unwrap();
    assert_eq!(gauges(&proxy.envoy), [Some(1), Some(0)]);
    proxy.configure(limits(json!({}))).unwrap();
    assert_eq!(gauges(&proxy.envoy), [Some(0), Some(0)]);
}

/// A server that ends each connection as soon as something comes.
struct Breaking {
    address: SocketAddr,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Breaking {
    fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (address, ends) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let over = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let _ = connection.and_then(|mut connection| connection.read(&mut [0; 1]));
            }
        });
        Self { address, ends, thread: Some(thread) }
    }
}

impl Drop for Breaking {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn reason_of_a_failed_call_is_what_the_proxy_knows() {
    let upstream = Upstream::start().unwrap();
    let breaking = Breaking::start();
    let closed = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let http2 = |name: &str, address| Cluster { http2: true, ..Cluster::new(name, address) };
    let clusters = vec![
        Cluster::new("service", upstream.address()),
        http2("breaking", breaking.address),
        http2("closed", closed),
        Cluster { http2: true, ..Cluster::empty("empty") },
    ];
    let mut envoy = Envoy::start(&Bootstrap { clusters, ..Bootstrap::default() }, &[], 1).unwrap();
    for (cluster, reason) in
        [("breaking", "reset"), ("closed", "connect"), ("empty", "no_cluster"), ("none", "no_cluster")]
    {
        let limit = json!({ "name": "total", "rate": { "requests": 9, "per": "1d" }, "global": {} });
        let global = json!({ "domain": "shop", "cluster": cluster, "timeout": "5s" });
        let config = json!({ "pluginConfig": { "limits": [limit], "global": global } });
        let filter = filter(&cases::native_module().unwrap(), "rate-limit", &config);
        envoy.set_listeners(&[Listener::new("inbound", "service", vec![filter])]).unwrap();
        let count = || {
            let name = format!("wasmcustom.rate_limit_service_failure_{reason}");
            envoy.stats().unwrap().get(&name).copied().unwrap_or(0)
        };
        let before = count();
        let response = Request::new("GET", "/").send(envoy.address("inbound").unwrap()).unwrap();
        assert_eq!(response.status, 503, "{cluster}");
        assert_eq!(count(), before + 1, "{cluster}");
    }
}

const JWT_AUTH: &str = r#"{ "pluginConfig": { "providers": { "platform": {
    "issuer": "https://issuer.test/", "audiences": ["api"], "jwksUri": "http://issuer.test/jwks.json", "cluster": "issuer"
} } } }"#;

/// The value of `authorization` with a token whose signature is wrong: to say so, a worker needs the keys.
fn forged(n: u32) -> String {
    let encoded = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = encoded(json!({ "alg": "RS256", "kid": "rsa-1" }));
    let claims = encoded(json!({ "iss": "https://issuer.test/", "aud": "api", "exp": 9_999_999_999_u64 }));
    format!("Bearer {header}.{claims}.{}", encoded(json!(n)))
}

fn jwt_auth() -> HttpFilter {
    filter(&cases::native_module().unwrap(), "jwt-auth", &serde_json::from_str(JWT_AUTH).unwrap())
}

/// A connection goes to any worker, so of 64 each has some.
#[test]
fn keys_are_fetched_once_for_all_workers() {
    let mut proxy = Proxy::start(4);
    proxy.configure(jwt_auth()).unwrap();
    for n in 0..64 {
        assert_eq!(proxy.send(&[("authorization", &forged(n))]).1, "jwt_auth_signature_invalid");
    }
    assert_eq!(proxy.issuer.fetches(), 1);
}

#[test]
fn clients_that_leave_while_they_wait_do_not_disturb_those_that_stay() {
    let mut proxy = Proxy::start(2);
    let keys = Answer::json(&cases::public_keys(&["rsa-1"]).unwrap());
    proxy.issuer.answer(Answer { delay: Duration::from_millis(500), ..keys });
    proxy.configure(jwt_auth()).unwrap();
    let address = proxy.envoy.address("inbound").unwrap();
    let client = |n: u32| {
        let mut client = TcpStream::connect(address).unwrap();
        let token = forged(n);
        let text =
            format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nauthorization: {token}\r\n\r\n");
        client.write_all(text.as_bytes()).unwrap();
        client
    };
    let (leaving, staying): (Vec<_>, Vec<_>) =
        (0..80).map(|n| (n % 2 == 0, client(n))).partition(|(leaves, _)| *leaves);
    drop(leaving);
    for (_, mut client) in staying {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("signature_invalid"), "{answer}");
    }
    assert_eq!(proxy.send(&[("authorization", &forged(0))]).1, "jwt_auth_signature_invalid");
    assert_eq!(proxy.issuer.fetches(), 1);
    assert!(proxy.envoy.terminate().unwrap().success());
}
