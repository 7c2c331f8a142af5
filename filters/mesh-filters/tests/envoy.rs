//! The built module in a real Envoy: what a chain of three plugins cannot do.
#![allow(clippy::restriction)]
#![cfg(not(target_family = "wasm"))]

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use envoy::{
    Answer, Bootstrap, Cluster, Envoy, HttpFilter, Listener, SpanCollector, Tracing, Upstream, Wasm, wait_for,
};

const SECRET: &str = "a-secret-of-tokens-for-tests-only-32";
const CONFIGURATION: &str = r#"{
    "traceTags": {},
    "jwtAuth": { "providers": { "platform": {
        "issuer": "https://issuer.test/", "algorithms": ["HS256"], "secrets": [{ "env": "TOKEN_SECRET" }]
    }}}
}"#;

/// A token of `alice`, good for five minutes.
fn token() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = format!(r#"{{"iss":"https://issuer.test/","sub":"alice","exp":{}}}"#, now + 300);
    let signed =
        [r#"{"alg":"HS256","typ":"JWT"}"#, &claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let signature = URL_SAFE_NO_PAD.encode(hmac_sha256::HMAC::mac(&signed, SECRET));
    format!("{signed}.{signature}")
}

/// Alone, trace-tags learns who the user is when a response passes. Here there is none, and the span has the user.
#[test]
fn a_client_that_leaves_before_the_answer_leaves_its_user_on_the_span() {
    let upstream = Upstream::start().unwrap();
    upstream.answer(Answer { delay: Duration::from_secs(30), ..Answer::default() });
    let collector = SpanCollector::start().unwrap();
    let module = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/filters/mesh-filters.wasm");
    let mut plugin = Wasm::new("mesh-filters", module, CONFIGURATION);
    plugin.environment = [("PSEUDONYM_KEY", "0123456789abcdef"), ("TOKEN_SECRET", SECRET)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let mut listener = Listener::new("inbound", "service", vec![HttpFilter::Wasm(plugin)]);
    let user = "%FILTER_STATE(wasm.tag.enduser.pseudo.id:PLAIN)%".to_owned();
    listener.tracing = Some(Tracing {
        cluster: "collector".to_owned(),
        service: "server.shop".to_owned(),
        custom_tags: BTreeMap::from([("enduser.pseudo.id".to_owned(), user)]),
    });
    let clusters =
        vec![Cluster::new("service", upstream.address()), Cluster::new("collector", collector.address())];
    let bootstrap = Bootstrap { clusters, ..Bootstrap::default() };
    let envoy = Envoy::start(&bootstrap, &[listener], 1).unwrap();

    let mut client = TcpStream::connect(envoy.address("inbound").unwrap()).unwrap();
    let port = client.local_addr().unwrap().port();
    let request = format!("GET / HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\r\n", token());
    client.write_all(request.as_bytes()).unwrap();
    wait_for("the service's share", || upstream.take_received().pop()).unwrap();
    drop(client);

    let entry = envoy.access_log_entry(port).unwrap();
    assert_eq!(entry["flags"], "DC");
    let span = collector.wait_for_trace(entry["trace_id"].as_str().unwrap(), 1).unwrap().remove(0);
    // HMAC-SHA-256 of `alice` under the key above, computed elsewhere.
    assert_eq!(span.attributes["enduser.pseudo.id"], "_b-LHKzT1XjgYtDkEQQ1fQ");
}
