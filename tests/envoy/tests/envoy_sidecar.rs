//! What the helpers promise, on real Envoy without a Wasm module.
#![allow(clippy::restriction)]

use envoy::{
    Answer, Bootstrap, Cluster, Envoy, Error, HttpFilter, JwksServer, Listener, Protocol, Request,
    SpanCollector, Tracing, Upstream, values,
};
use serde_json::json;
use std::path::Path;

struct World {
    upstream: Upstream,
    spans: SpanCollector,
    envoy: Envoy,
}

fn start(workers: usize, listeners: &[Listener]) -> World {
    let upstream = Upstream::start().unwrap();
    let spans = SpanCollector::start().unwrap();
    let clusters =
        vec![Cluster::new("upstream", upstream.address()), Cluster::new("collector", spans.address())];
    let envoy = Envoy::start(&Bootstrap { clusters, ..Bootstrap::default() }, listeners, workers).unwrap();
    World { upstream, spans, envoy }
}

/// Answers every request with that status.
fn answers(name: &str, status: u16) -> Listener {
    let config = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
        "abort": { "http_status": status, "percentage": { "numerator": 100 } },
    });
    let filter = HttpFilter::Native { name: "envoy.filters.http.fault".to_owned(), config };
    Listener::new(name, "upstream", vec![filter])
}

/// A listener that no Envoy takes.
fn broken(name: &str) -> Listener {
    let filter =
        HttpFilter::Native { name: "no.such.filter".to_owned(), config: json!({ "@type": "no.such/type" }) };
    Listener::new(name, "upstream", vec![filter])
}

#[test]
fn odd_requests_arrive_as_they_were_sent() {
    let world = start(1, &[Listener::new("plain", "upstream", vec![])]);
    let request = Request::new("GET", "/a//b/../c;x=%2f?q").header("x-a", "1").header("x-a", "2");
    let response = request.send(world.envoy.address("plain").unwrap()).unwrap();
    assert_eq!(response.status, 200);
    let [received] = <[_; 1]>::try_from(world.upstream.take_received()).unwrap();
    assert_eq!(received.path, "/a//b/../c;x=%2f?q");
    assert_eq!(values(&received.headers, "x-a"), ["1", "2"]);
}

#[test]
fn a_grpc_request_has_a_message_and_trailers() {
    let world = start(1, &[Listener::new("plain", "upstream", vec![])]);
    world.upstream.answer(Answer { body: b"reply".to_vec(), ..Answer::default() });
    let mut request = Request::new("POST", "/package.Service/Method");
    request.protocol = Protocol::Grpc;
    request.body = b"hello".to_vec();
    let response = request.send(world.envoy.address("plain").unwrap()).unwrap();
    assert_eq!(response.status, 200);
    let [received] = <[_; 1]>::try_from(world.upstream.take_received()).unwrap();
    assert_eq!(received.body, b"\0\0\0\0\x05hello");
    assert_eq!(values(&received.headers, "te"), ["trailers"]);
}

#[test]
fn listeners_change_while_envoy_runs_and_a_refused_one_leaves_the_old() {
    let mut world = start(4, &[answers("a", 418)]);
    let status = |world: &World, name: &str| {
        let address = world.envoy.address(name).unwrap();
        Request::new("GET", "/").send(address).unwrap().status
    };
    assert_eq!(status(&world, "a"), 418);
    let refused = world.envoy.set_listeners(&[broken("a")]);
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    assert_eq!(status(&world, "a"), 418);
    world.envoy.set_listeners(&[answers("a", 418), answers("b", 419)]).unwrap();
    assert_eq!(status(&world, "b"), 419);
}

#[test]
fn each_request_has_an_access_log_entry_and_a_span() {
    let mut listener = answers("a", 403);
    listener.tracing = Some(Tracing {
        cluster: "collector".to_owned(),
        service: "server.shop".to_owned(),
        custom_tags: [("method".to_owned(), "%REQ(:METHOD)%".to_owned())].into(),
    });
    listener.access_log.filter_state = vec!["not.set".to_owned()];
    let world = start(1, &[listener]);
    let id = "6d1bd5a5-9a3c-4c5b-9a6e-8a1f0d7c2b11";
    let request = Request::new("GET", "/a").header("x-request-id", id).header("x-forwarded-for", "10.0.0.1");
    let response = request.send(world.envoy.address("a").unwrap()).unwrap();
    let entry = world.envoy.access_log_entry(response.client_port).unwrap();
    assert_eq!((&entry["status"], &entry["details"]), (&json!(403), &json!("fault_filter_abort")));
    assert_eq!((&entry["request_id"], &entry["filter_state"]), (&json!(id), &json!({ "not.set": null })));
    let spans = world.spans.wait_for_trace(entry["trace_id"].as_str().unwrap(), 1).unwrap();
    assert_eq!((spans[0].service.as_str(), spans[0].attributes["method"].as_str()), ("server.shop", "GET"));
}

#[test]
fn a_key_server_rotates_fails_and_counts() {
    let server = JwksServer::start(&json!({ "keys": [1] })).unwrap();
    let fetch = || Request::new("GET", "/jwks.json").send(server.address()).unwrap();
    assert_eq!(fetch().text(), r#"{"keys":[1]}"#);
    server.answer(Answer::json(&json!({ "keys": [2] })));
    assert_eq!(fetch().text(), r#"{"keys":[2]}"#);
    server.answer(Answer { status: 503, ..Answer::default() });
    assert_eq!(fetch().status, 503);
    assert_eq!(server.fetches(), 3);
}

#[test]
fn nothing_is_left_behind() {
    let world = start(1, &[]);
    let process = format!("/proc/{}", world.envoy.id());
    let command = std::fs::read_to_string(format!("{process}/cmdline")).unwrap();
    let file = command.split('\0').find(|word| word.ends_with("envoy.json")).unwrap();
    let folder = Path::new(file).parent().unwrap().to_owned();
    assert!(folder.is_dir());
    drop(world);
    assert!(!Path::new(&process).exists());
    assert!(!folder.exists());
}

#[test]
fn a_configuration_that_envoy_refuses_at_the_start_is_an_error_with_its_log() {
    match Envoy::start(&Bootstrap::default(), &[broken("a")], 1) {
        Err(Error::Refused(log)) => assert!(log.contains("no.such"), "{log}"),
        other => panic!("{other:?}"),
    }
}
