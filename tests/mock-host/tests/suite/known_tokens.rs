//! What a token that was seen before costs, and how long it is good.

use std::time::Duration;

use crate::support::built;
use crate::support::issuer::{Issuer, jwt_auth};
use mock_host::{Exchange, Proxy, Request};
use serde_json::json;

const NOW: u64 = 1_800_000_000;
const CLOCK: &str = "proxy_get_current_time_nanoseconds";

/// jwt-auth, alone and in mesh-filters, for an issuer whose clock is right.
fn proxies(issuer: &Issuer) -> impl Iterator<Item = Proxy> {
    let mut alone = jwt_auth("jwks", &issuer.keys());
    alone["providers"]["platform"]["clockSkew"] = json!("0s");
    let composed = json!({ "jwtAuth": alone });
    [("jwt-auth", alone), ("mesh-filters", composed)].into_iter().map(|(filter, configuration)| {
        let plugin = built(filter, &configuration.to_string());
        let proxy = Proxy::builder().clock(NOW).plugin(plugin).build();
        proxy.unwrap_or_else(|rejected| panic!("{rejected}; `make filters` builds the modules"))
    })
}

fn send(proxy: &Proxy, bearer: &str) -> Exchange {
    proxy.worker(0).request(Request::get("/").header("authorization", bearer))
}

#[test]
fn the_clock_is_read_once_a_second_and_expiry_is_seen_then() {
    let issuer = Issuer::new();
    let token = issuer.bearer(&json!({ "exp": NOW + 3 }));
    for proxy in proxies(&issuer) {
        assert_eq!(send(&proxy, &token).status, 200);
        for second in 0..3 {
            let calls: Vec<_> =
                (0..5).map(|_| send(&proxy, &token)).map(|e| (e.status, e.calls(CLOCK))).collect();
            let first = u64::from(second > 0);
            assert_eq!(calls, [(200, first), (200, 0), (200, 0), (200, 0), (200, 0)], "second {second}");
            proxy.advance(Duration::from_secs(1));
        }
        assert_eq!(send(&proxy, &token).status, 401);
    }
}

#[test]
fn a_new_token_is_checked_at_the_time_it_comes() {
    let issuer = Issuer::new();
    let known = issuer.bearer(&json!({ "exp": NOW + 3600 }));
    let just_issued = issuer.bearer(&json!({ "nbf": NOW + 5, "exp": NOW + 3600 }));
    let just_expired = issuer.bearer(&json!({ "exp": NOW + 5 }));
    for proxy in proxies(&issuer) {
        for _ in 0..2 {
            assert_eq!(send(&proxy, &known).status, 200);
        }
        // Between two ticks.
        proxy.set_clock(NOW + 5);
        assert_eq!(send(&proxy, &known).calls(CLOCK), 0);
        assert_eq!(send(&proxy, &just_issued).status, 200);
        assert_eq!(send(&proxy, &just_expired).status, 401);
    }
}
