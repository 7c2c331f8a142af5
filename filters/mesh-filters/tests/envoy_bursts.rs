//! A thousand requests that wait at once on one worker of a real Envoy, and how that ends: each gets its answer, none passes
//! unchecked, and no VM dies. And what a new configuration keeps of what that worker has fetched.
#![cfg(not(target_family = "wasm"))]
#![allow(clippy::restriction)]

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cases::{Token, public_keys};
use envoy::{
    Answer, Bootstrap, Cluster, Delivery, Envoy, HttpFilter, JwksServer, Listener, RateLimitAnswer,
    RateLimitService, Request, Upstream, Wasm,
};
use serde_json::{Value, json};

const MANY: usize = 1000;
/// One burst at a time: the machine is for one of them.
static TURN: Mutex<()> = Mutex::new(());

struct Mesh {
    envoy: Envoy,
    upstream: Upstream,
    issuer: JwksServer,
    limits: RateLimitService,
}

/// Plugins by their filters, and what the router finds behind them. The issuer has the keys after two seconds.
fn start(filters: &[(&str, Value)], service: &str) -> Mesh {
    start_with(filters, service, Duration::from_secs(2))
}

fn start_with(filters: &[(&str, Value)], service: &str, delay: Duration) -> Mesh {
    let (upstream, limits) = (Upstream::start().unwrap(), RateLimitService::start().unwrap());
    let issuer = JwksServer::start(&json!({ "keys": [] })).unwrap();
    issuer.answer(Answer { delay, ..Answer::json(&keys()) });
    let clusters = vec![
        Cluster::new("service", upstream.address()),
        Cluster::new("jwks", issuer.address()),
        Cluster { http2: true, ..Cluster::new("ratelimit", limits.address()) },
        Cluster::empty("nobody"),
    ];
    let plugins =
        filters.iter().map(|(filter, configuration)| HttpFilter::Wasm(plugin(filter, configuration)));
    let listener = Listener::new("inbound", service, plugins.collect());
    let bootstrap = Bootstrap { clusters, ..Bootstrap::default() };
    Mesh { envoy: Envoy::start(&bootstrap, &[listener], 1).unwrap(), upstream, issuer, limits }
}

fn plugin(filter: &str, configuration: &Value) -> Wasm {
    let module = format!("{}/../../target/filters/{filter}.wasm", env!("CARGO_MANIFEST_DIR"));
    Wasm { delivery: Delivery::Discovery, ..Wasm::new(filter, module, configuration.to_string()) }
}

fn keys() -> Value {
    public_keys(&["rsa-1"]).unwrap()
}

fn jwt_auth() -> Value {
    json!({ "maxWaitingRequests": MANY, "providers": { "platform": {
        "issuer": "https://issuer.test/", "audiences": ["api"], "jwksUri": "http://issuer.test/keys", "cluster": "jwks",
        "jwksCache": { "timeout": "3s" },
    }}})
}

fn limits() -> Value {
    json!({ "limits": [{ "name": "total", "rate": { "requests": 10, "per": "1h" } }] })
}

/// A chain of plugins, and the same filters in one.
fn forms() -> [Vec<(&'static str, Value)>; 2] {
    [
        vec![("jwt-auth", jwt_auth()), ("rate-limit", limits())],
        vec![("mesh-filters", json!({ "jwtAuth": jwt_auth(), "rateLimit": limits() }))],
    ]
}

fn request(key: &str) -> Request {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({ "iss": "https://issuer.test/", "aud": "api", "sub": "alice", "exp": now + 600 });
    let token = Token::new(key, claims).mint().unwrap();
    Request::new("GET", "/").header("authorization", &format!("Bearer {token}"))
}

impl Mesh {
    /// Sends the burst and counts the statuses, in their order.
    fn burst(&self, request: &Request) -> Vec<(u16, usize)> {
        let statuses = request.send_at_once(self.envoy.address("inbound").unwrap(), MANY).unwrap();
        assert_eq!(statuses.len(), MANY);
        let log = self.envoy.log();
        assert!(!log.contains("Maximum call stack size exceeded"), "{log}");
        let mut counts: Vec<(u16, usize)> = Vec::new();
        for status in statuses {
            match counts.iter_mut().find(|(known, _)| *known == status) {
                Some((_, count)) => *count += 1,
                None => counts.push((status, 1)),
            }
        }
        counts.sort_unstable();
        counts
    }

    /// Enough waited at once for a VM to die if they were answered from within each other.
    fn waited(&self) -> u64 {
        let name = "wasmcustom.jwt_auth_requests_waited";
        self.envoy.stats().unwrap().get(name).copied().unwrap_or_default()
    }
}

#[test]
fn a_burst_with_an_unknown_key_is_refused() {
    let _turn = TURN.lock();
    for filters in forms() {
        let mesh = start(&filters, "service");
        assert_eq!(mesh.burst(&request("rsa-2")), [(401, MANY)]);
        assert!(mesh.waited() > 500, "{} waited", mesh.waited());
        assert_eq!(mesh.upstream.take_received().len(), 0);
    }
}

#[test]
fn a_burst_whose_issuer_does_not_answer_is_refused() {
    let _turn = TURN.lock();
    for filters in forms() {
        let mesh = start_with(&filters, "service", Duration::from_secs(30));
        assert_eq!(mesh.burst(&request("rsa-1")), [(503, MANY)]);
        assert_eq!(mesh.upstream.take_received().len(), 0);
    }
}

#[test]
fn a_burst_that_gets_its_keys_meets_the_limit() {
    let _turn = TURN.lock();
    for filters in forms() {
        let mesh = start(&filters, "service");
        assert_eq!(mesh.burst(&request("rsa-1")), [(200, 10), (429, MANY - 10)]);
        assert!(mesh.waited() > 500, "{} waited", mesh.waited());
        assert_eq!(mesh.upstream.take_received().len(), 10);
    }
}

#[test]
fn a_burst_that_the_router_answers_is_answered() {
    let _turn = TURN.lock();
    for filters in [
        vec![("jwt-auth", jwt_auth())],
        vec![("mesh-filters", json!({ "traceTags": { "tags": [] }, "jwtAuth": jwt_auth() }))],
    ] {
        let mesh = start(&filters, "nobody");
        assert_eq!(mesh.burst(&request("rsa-1")), [(503, MANY)]);
    }
}

#[test]
fn a_burst_that_waits_for_the_rate_limit_service_is_answered() {
    let _turn = TURN.lock();
    let configuration = json!({
        "limits": [{ "name": "total", "rate": { "requests": 10, "per": "1h" }, "global": {} }],
        "global": { "domain": "d", "cluster": "ratelimit", "timeout": "1s", "onFailure": "deny" },
    });
    for (filter, configuration) in
        [("rate-limit", configuration.clone()), ("mesh-filters", json!({ "rateLimit": configuration }))]
    {
        let mesh = start(&[(filter, configuration)], "service");
        mesh.limits.answer(RateLimitAnswer { delay: Duration::from_secs(30), ..RateLimitAnswer::default() });
        assert_eq!(mesh.burst(&Request::new("GET", "/")), [(503, MANY)]);
        assert_eq!(mesh.upstream.take_received().len(), 0);
    }
}

#[test]
fn a_new_configuration_while_the_issuer_is_down_has_the_keys() {
    let _turn = TURN.lock();
    let mut mesh = start_with(&[("jwt-auth", jwt_auth())], "service", Duration::ZERO);
    let address = mesh.envoy.address("inbound").unwrap();
    let request = request("rsa-1");
    assert_eq!(request.send(address).unwrap().status, 200);
    mesh.issuer.answer(Answer { status: 500, ..Answer::default() });
    let mut configuration = jwt_auth();
    configuration["denyResponse"] = json!({ "realm": "new" });
    mesh.envoy.reconfigure(&plugin("jwt-auth", &configuration)).unwrap();
    let realm = || Request::new("GET", "/").send(address).unwrap().headers;
    assert!(realm().iter().any(|(_, value)| value.contains("realm=\"new\"")), "it is in force");
    assert_eq!(request.send(address).unwrap().status, 200);
}
