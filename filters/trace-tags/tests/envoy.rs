//! The built module in a real Envoy: what the spans and the access log show.
#![allow(clippy::restriction)]
#![cfg(not(target_family = "wasm"))]

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use envoy::{
    AccessLog, Answer, Bootstrap, Cluster, Delivery, Envoy, Error, HttpFilter, Listener, Node, Request, Span,
    SpanCollector, Tracing, Upstream, Wasm, values, wait_for,
};
use plugin_kit::config::{document, fingerprint};
use serde_json::{Value, json};

const ID: &str = "0b8a2a3e-0000-9000-8000-000000000000";

/// First in the chain. `user` is known when a later plugin has published it, as a claim would be.
const FIRST: &str = r#"{
    "requestId": { "echo": true },
    "tags": [
        { "name": "user", "from": [{ "filterState": "wasm.tag.published" }] },
        { "name": "user-or-nobody", "from": [{ "filterState": "wasm.tag.published" }, { "literal": "nobody" }] },
        { "name": "request.id", "from": [{ "requestId": {} }] },
        { "name": "service.version", "from": [{ "workloadLabel": "version" }] },
        { "name": "version.of.env", "from": [{ "env": "SERVICE_VERSION" }] },
        { "name": "method", "from": [{ "method": {}, "trust": true }] },
        { "name": "address", "from": [{ "sourceAddress": {} }] },
        { "name": "alias", "from": [{ "header": "x-alias", "trust": true }],
          "pseudonym": { "keyFrom": { "env": "KEY" }, "keyId": "k1" } },
        { "name": "nothing", "from": [{ "claim": "none" }] }
    ]
}"#;
const PUBLISHER: &str =
    r#"{ "tags": [{ "name": "published", "from": [{ "header": "x-user", "trust": true }] }] }"#;
const TAGS: [&str; 9] = [
    "user",
    "user-or-nobody",
    "request.id",
    "service.version",
    "version.of.env",
    "method",
    "address",
    "alias",
    "nothing",
];

struct Sidecar {
    envoy: Envoy,
    collector: SpanCollector,
    upstream: Upstream,
}

impl Sidecar {
    /// The plugins in one chain; `last` stands between them and the service.
    fn start(last: Option<HttpFilter>) -> Self {
        let upstream = Upstream::start().unwrap();
        let collector = SpanCollector::start().unwrap();
        let module = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/filters/trace-tags.wasm");
        let mut first = Wasm::new("first", module, FIRST);
        let key = ("KEY".to_owned(), "0123456789abcdef".to_owned());
        first.environment = BTreeMap::from([key, ("SERVICE_VERSION".to_owned(), "v7".to_owned())]);
        let mut filters =
            vec![HttpFilter::Wasm(first), HttpFilter::Wasm(Wasm::new("publisher", module, PUBLISHER))];
        filters.extend(last);
        let keys: Vec<_> = TAGS.iter().map(|tag| format!("tag.{tag}")).collect();
        let custom_tags =
            keys.iter().map(|key| (key.clone(), format!("%FILTER_STATE(wasm.{key}:PLAIN)%"))).collect();
        let tracing =
            Tracing { cluster: "collector".to_owned(), service: "server.shop".to_owned(), custom_tags };
        let mut listener = Listener::new("inbound", "service", filters);
        listener.access_log = AccessLog { filter_state: keys };
        listener.tracing = Some(tracing);
        let bootstrap = Bootstrap {
            node: Node::new("server", "shop", "v1"),
            clusters: vec![
                Cluster::new("service", upstream.address()),
                Cluster::new("collector", collector.address()),
            ],
        };
        let envoy = Envoy::start(&bootstrap, &[listener], 1).unwrap();
        Self { envoy, collector, upstream }
    }

    fn address(&self) -> SocketAddr {
        self.envoy.address("inbound").unwrap()
    }

    /// The access log's entry of a request, and its span.
    fn seen(&self, client_port: u16) -> (Value, Span) {
        let entry = self.envoy.access_log_entry(client_port).unwrap();
        let trace = entry["trace_id"].as_str().unwrap();
        let span = self.collector.wait_for_trace(trace, 1).unwrap().remove(0);
        (entry, span)
    }
}

/// The access log and the span have these tags and no others.
fn check(seen: &(Value, Span), expected: &[(&str, &str)]) {
    let (entry, span) = seen;
    for tag in TAGS {
        let key = format!("tag.{tag}");
        let value = expected.iter().find(|(name, _)| *name == tag).map(|(_, value)| *value);
        assert_eq!(entry["filter_state"][&key].as_str(), value, "{tag} in the access log");
        assert_eq!(span.attributes.get(&key).map(String::as_str), value, "{tag} on the span");
    }
}

/// HMAC-SHA-256 of `alice` under the key above, computed elsewhere.
const PSEUDONYM: &str = "k1._b-LHKzT1XjgYtDkEQQ1fQ";

const AT_ONCE: [(&str, &str); 6] = [
    ("request.id", ID),
    ("service.version", "v1"),
    ("version.of.env", "v7"),
    ("method", "GET"),
    ("address", "127.0.0.1"),
    ("alias", PSEUDONYM),
];

fn request() -> Request {
    Request::new("GET", "/")
        .header("x-request-id", ID)
        .header("x-user", "alice \"the\"\tgreat")
        .header("x-alias", "alice")
}

const USER: &str = "alice _the__great";

#[test]
fn answered_request_has_every_tag_and_the_service_sees_none() {
    let sidecar = Sidecar::start(None);
    let response = request().send(sidecar.address()).unwrap();
    assert_eq!(response.status, 200);
    let all = [&AT_ONCE[..], &[("user", USER), ("user-or-nobody", USER)]].concat();
    check(&sidecar.seen(response.client_port), &all);
    assert_eq!(values(&response.headers, "x-request-id"), [ID]);
    let received = sidecar.upstream.take_received();
    let names: Vec<_> = received[0].headers.iter().map(|(name, _)| name.as_str()).collect();
    assert!(!names.iter().any(|name| name.contains("tag") || name.contains("pseudo")), "{names:?}");

    let stats = sidecar.envoy.stats().unwrap();
    assert_eq!(stats["wasmcustom.trace_tags_tags_missing"], 1);
    assert!(!stats.contains_key("wasmcustom.trace_tags_host_calls_failed"));
}

#[test]
fn request_denied_by_a_later_filter_has_every_tag() {
    let deny = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules": { "action": "DENY", "policies": {
            "all": { "permissions": [{ "any": true }], "principals": [{ "any": true }] },
        }},
    });
    let last = HttpFilter::Native { name: "envoy.filters.http.rbac".to_owned(), config: deny };
    let sidecar = Sidecar::start(Some(last));
    let response = request().send(sidecar.address()).unwrap();
    assert_eq!(response.status, 403);
    let all = [&AT_ONCE[..], &[("user", USER), ("user-or-nobody", USER)]].concat();
    check(&sidecar.seen(response.client_port), &all);
    assert_eq!(values(&response.headers, "x-request-id"), [ID]);
    assert!(sidecar.upstream.take_received().is_empty());
}

#[test]
fn configuration_in_force_is_shown_by_a_metric() {
    let mut sidecar = Sidecar::start(None);
    let hash = |sidecar: &Sidecar| sidecar.envoy.stats().unwrap()["wasmcustom.trace_tags_config_hash_alone"];
    let number = |json: &str| u64::from(fingerprint(&document(json.as_bytes()).unwrap()));
    let module = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/filters/trace-tags.wasm");
    let mut plugin = Wasm::new("alone", module, r#"{"tags":[]}"#);
    plugin.delivery = Delivery::Discovery;
    let listener = Listener::new("inbound", "service", vec![HttpFilter::Wasm(plugin.clone())]);
    sidecar.envoy.set_listeners(&[listener]).unwrap();
    assert_eq!(hash(&sidecar), number(r#"{"tags":[]}"#));
    let refused = Wasm { configuration: r#"{"tags":0}"#.to_owned(), ..plugin.clone() };
    assert!(matches!(sidecar.envoy.reconfigure(&refused), Err(envoy::Error::Refused(_))));
    assert_eq!(hash(&sidecar), number(r#"{"tags":[]}"#));
    let written_otherwise = Wasm { configuration: r#" { "tags" : [ ] } "#.to_owned(), ..plugin.clone() };
    sidecar.envoy.reconfigure(&written_otherwise).unwrap();
    assert_eq!(hash(&sidecar), number(r#"{"tags":[]}"#));
    let changed =
        Wasm { configuration: r#"{"tags":[{"from":[{"literal":"b"}],"name":"a"}]}"#.to_owned(), ..plugin };
    sidecar.envoy.reconfigure(&changed).unwrap();
    assert_eq!(hash(&sidecar), number(r#"{ "tags": [{ "name": "a", "from": [{ "literal": "b" }] }] }"#));
}

/// A span ends before the plugin hears of it, so it has what the request itself says; the access log has all.
#[test]
fn client_leaves_early_known_tags_are_written() {
    let sidecar = Sidecar::start(None);
    sidecar.upstream.answer(Answer { delay: Duration::from_secs(30), ..Answer::default() });
    let mut client = TcpStream::connect(sidecar.address()).unwrap();
    let port = client.local_addr().unwrap().port();
    let text =
        format!("GET / HTTP/1.1\r\nhost: a\r\nx-request-id: {ID}\r\nx-user: alice\r\nx-alias: alice\r\n\r\n");
    client.write_all(text.as_bytes()).unwrap();
    wait_for("the service's share", || sidecar.upstream.take_received().pop()).unwrap();
    drop(client);

    let (entry, span) = sidecar.seen(port);
    assert_eq!(entry["flags"], "DC");
    let tag = |tag: &str| entry["filter_state"][format!("tag.{tag}")].as_str().map(str::to_owned);
    for (name, value) in AT_ONCE {
        assert_eq!(tag(name).as_deref(), Some(value), "{name} in the access log");
        assert_eq!(span.attributes[&format!("tag.{name}")], value, "{name} on the span");
    }
    assert_eq!(tag("user").as_deref(), Some("alice"));
    assert_eq!(tag("user-or-nobody").as_deref(), Some("alice"));
    assert_eq!(span.attributes["tag.user-or-nobody"], "nobody");
}

#[test]
fn unsafe_request_id_is_replaced_everywhere() {
    let sidecar = Sidecar::start(None);
    for hostile in ["a b\"c", "${jndi:ldap://x}", &"a".repeat(200)] {
        let request = Request::new("GET", "/").header("x-request-id", hostile);
        let response = request.send(sidecar.address()).unwrap();
        let received = sidecar.upstream.take_received().remove(0);
        let id = values(&received.headers, "x-request-id");
        let (entry, span) = sidecar.seen(response.client_port);
        assert_eq!((id.len(), id[0].len()), (1, 36), "{id:?}");
        assert_eq!(values(&response.headers, "x-request-id"), id);
        assert_eq!(entry["request_id"], id[0]);
        assert_eq!(span.attributes["tag.request.id"], id[0]);
    }
    // Envoy samples by the ID and would not trace one that is no UUID; it traces those that replace a hostile
    // one.
    let twice = Request::new("GET", "/").header("x-request-id", ID).header("x-request-id", "b");
    twice.send(sidecar.address()).unwrap();
    let received = sidecar.upstream.take_received().remove(0);
    assert_ne!(values(&received.headers, "x-request-id"), [ID]);
    assert_eq!(values(&received.headers, "x-request-id").len(), 1);
    assert_eq!(sidecar.envoy.stats().unwrap()["wasmcustom.trace_tags_request_ids_replaced"], 4);
}

/// What docs/observability.md tells somebody to search for finds what is wrong in the log of a real proxy.
#[test]
fn documented_log_search_finds_each_error_of_a_refused_configuration() {
    let document = include_str!("../../../docs/observability.md");
    let line = document.lines().find(|line| line.ends_with("# each mistake with its path")).unwrap();
    let (_, search) = line.split_once("| grep '").unwrap();
    let (pattern, _) = search.split_once('\'').unwrap();

    let module = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/filters/trace-tags.wasm");
    let wrong = r#"{ "tags": [{ "name": "a", "from": [{ "literal": "x" }], "sound": 1 }], "colour": 1 }"#;
    let plugin = HttpFilter::Wasm(Wasm::new("wrong", module, wrong));
    let upstream = Upstream::start().unwrap();
    let clusters = vec![Cluster::new("service", upstream.address())];
    let listener = Listener::new("inbound", "service", vec![plugin]);
    let started = Envoy::start(&Bootstrap { clusters, ..Bootstrap::default() }, &[listener], 1);
    let Err(Error::Refused(log)) = started else { panic!("{started:?}") };

    let mut grep =
        Command::new("grep").arg(pattern).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    grep.stdin.take().unwrap().write_all(log.as_bytes()).unwrap();
    let found = String::from_utf8(grep.wait_with_output().unwrap().stdout).unwrap();
    assert!(
        found.contains("tags[0].sound: ") && found.contains("colour: "),
        "`{pattern}` finds {found:?} in {log}"
    );
}
