//! Filters tell the host their counts one by one while they are few, and in sums while they are many.

use std::time::Duration;

use crate::support::built;
use mock_host::{Proxy, Request};

#[test]
fn counts_of_a_busy_worker_come_each_second_and_none_is_lost() {
    for filter in ["rate-limit", "mesh-filters"] {
        let limits = r#"{ "limits": [{ "name": "all", "rate": { "requests": 1000, "per": "1s" } }] }"#;
        let configuration = if filter == "rate-limit" {
            limits.to_owned()
        } else {
            format!(r#"{{ "rateLimit": {limits} }}"#)
        };
        let proxy = Proxy::builder()
            .workers(2)
            .plugin(built(filter, &configuration))
            .build()
            .unwrap_or_else(|rejected| panic!("{rejected}; `make filters` builds the modules"));
        let mut told = 0;
        let mut request = |worker: usize| {
            let exchange = proxy.worker(worker).request(Request::get("/"));
            told += exchange.calls("proxy_increment_metric");
            assert_eq!(exchange.status, 200);
        };
        (0..25).for_each(|_| request(0));
        (0..3).for_each(|_| request(1));
        assert_eq!((proxy.metric("rate_limit_requests_allowed"), told), (10 + 3, 10 + 3), "{filter}");
        proxy.advance(Duration::from_secs(1));
        assert_eq!(proxy.metric("rate_limit_requests_allowed"), 25 + 3, "{filter}");
        assert_eq!(proxy.worker(0).request(Request::get("/")).metric("rate_limit_requests_allowed"), 1);
    }
}
