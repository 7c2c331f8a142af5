//! Filters hear nothing of the end of a stream, nor of a plugin's. What they keep for them must go all the
//! same.

use std::fmt::Write;

use crate::support::{built, on_request, plugin};
use mock_host::{Proxy, Request};

/// Memory is taken by pages, and the order in which parts of it are freed follows the random seeds of hash
/// tables. So two pages more are no leak.
fn assert_flat(before: usize, after: usize) {
    assert!(after <= before + 2 * 65_536, "{after} bytes of memory after {before}");
}

#[test]
fn requests_that_never_get_a_response_leave_nothing() {
    // What is counted by status waits for the response, which the next filter holds off until the client
    // leaves.
    let limit = r#"{ "limits": [
        { "name": "errors", "rate": { "requests": 1000000, "per": "1s" }, "countStatuses": [500] } ] }"#;
    let proxy = Proxy::builder()
        .plugin(built("rate-limit", limit))
        .plugin(plugin("holds", &on_request("", 1)))
        .build()
        .unwrap_or_else(|rejected| panic!("{rejected}; `make filters` builds the modules"));
    let leave = |requests: usize| {
        for _ in 0..requests {
            let stream = proxy.worker(0).start(Request::get("/"));
            assert!(stream.is_paused());
            stream.abort();
        }
        proxy.memory(0)
    };
    let after_the_first = leave(5_000);
    assert_flat(after_the_first, leave(20_000));
}

#[test]
fn configurations_that_were_replaced_leave_nothing() {
    let rules = |round: usize| {
        let mut rules = String::new();
        for n in 0..300 {
            let _ = write!(rules, r#"{{ "match": {{ "paths": ["/{round}/{n}"] }}, "allow": "anyone" }},"#);
        }
        let last = r#"{ "allow": "nobody" }"#;
        let provider = r#"{ "issuer": "https://issuer.test/", "audiences": ["api"], "jwks": { "keys": [
            { "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" } ] },
            "algorithms": ["EdDSA"] }"#;
        format!(r#"{{ "providers": {{ "platform": {provider} }}, "rules": [{rules} {last}] }}"#)
    };
    let proxy = Proxy::builder()
        .plugin(built("jwt-auth", &rules(0)))
        .build()
        .unwrap_or_else(|rejected| panic!("{rejected}; `make filters` builds the modules"));
    let replace = |rounds: std::ops::Range<usize>| {
        for round in rounds {
            proxy.update("jwt-auth", rules(round)).unwrap();
            let status = |path: &str| proxy.worker(0).request(Request::get(path)).status;
            assert_eq!((status(&format!("/{round}/7")), status("/elsewhere")), (200, 403));
        }
        proxy.memory(0)
    };
    let after_the_first = replace(1..6);
    // 34 configurations with 300 rules each take a megabyte at least.
    assert_flat(after_the_first, replace(6..40));
}
