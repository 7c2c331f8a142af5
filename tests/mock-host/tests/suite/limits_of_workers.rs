//! Who counts together: all workers of the proxy, or each for itself.

use std::path::PathBuf;

use mock_host::{Plugin, Proxy, Request};

/// How many of 6 requests to each of 4 workers a limit of 4 admits, by worker.
fn admitted(scope: &str) -> Vec<usize> {
    let module = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/filters/rate-limit.wasm");
    let limit =
        r#"{ "name": "user", "key": [{ "header": "x-user" }], "rate": { "requests": 4, "per": "1d" } }"#;
    let configuration = format!(r#"{{ "limits": [{limit}], "scope": "{scope}" }}"#);
    let plugin = Plugin::new("rate-limit", module).configuration(configuration);
    let built = Proxy::builder().workers(4).plugin(plugin).build();
    let proxy = built.unwrap_or_else(|rejected| panic!("{rejected}; `make filters` builds the modules"));
    let of_worker = |worker: usize| {
        let send =
            |_: &i32| proxy.worker(worker).request(Request::get("/").header("x-user", "a")).status == 200;
        (0..6).filter(send).count()
    };
    (0..4).map(of_worker).collect()
}

#[test]
fn the_workers_of_a_proxy_count_together() {
    assert_eq!(admitted("proxy"), [4, 0, 0, 0]);
}

#[test]
fn each_worker_counts_for_itself_where_asked() {
    assert_eq!(admitted("worker"), [4, 4, 4, 4]);
}
