//! The built filters while host calls fail: at every moment every call answers every status, or garbage. No
//! VM dies, no stream hangs, nothing gets through that must not, and afterwards all is well.

use std::time::Duration;

use crate::support::built;
use crate::support::issuer::{Issuer, jwt_auth};
use mock_host::{Answer, Builder, Exchange, Fault, Outcome, Proxy, Request, Response, Status, Worker};
use serde_json::{Value, json};

const NOW: u64 = 1_800_000_000;

/// A built filter and its configuration.
struct Subject {
    filter: &'static str,
    configuration: Value,
    /// Whether a request without a token must not reach the service.
    guards: bool,
}

fn rate_limit() -> Value {
    json!({ "limits": [
        { "name": "total", "rate": { "requests": 1000, "per": "1h" } },
        { "name": "user", "key": [{ "header": "x-user" }], "rate": { "requests": 1000, "per": "1h" } },
    ] })
}

#[test]
fn trace_tags_stays_sane() {
    sweep(&Issuer::new(), &Subject { filter: "trace-tags", configuration: json!({}), guards: false });
}

#[test]
fn rate_limit_stays_sane() {
    sweep(&Issuer::new(), &Subject { filter: "rate-limit", configuration: rate_limit(), guards: false });
}

#[test]
fn rate_limit_with_a_service_stays_sane() {
    let mut configuration = rate_limit();
    configuration["limits"][0]["global"] = json!({});
    configuration["global"] = json!({ "domain": "d", "cluster": "ratelimit" });
    sweep(&Issuer::new(), &Subject { filter: "rate-limit", configuration, guards: false });
}

#[test]
fn jwt_auth_with_given_keys_stays_sane() {
    let issuer = Issuer::new();
    let configuration = jwt_auth("jwks", &issuer.keys());
    sweep(&issuer, &Subject { filter: "jwt-auth", configuration, guards: true });
}

#[test]
fn jwt_auth_with_fetched_keys_stays_sane() {
    let configuration = jwt_auth("jwksUri", &json!("http://jwks.test/keys"));
    sweep(&Issuer::new(), &Subject { filter: "jwt-auth", configuration, guards: true });
}

#[test]
fn jwt_auth_with_conditions_stays_sane() {
    let issuer = Issuer::new();
    let mut configuration = jwt_auth("jwks", &issuer.keys());
    configuration["publishAllClaims"] = json!(true);
    configuration["rules"] = json!([{
        "match": { "pathRegexes": ["/.*"] }, "require": {}, "when": "jwt.sub == 'alice' && request.method == 'GET'",
    }]);
    sweep(&issuer, &Subject { filter: "jwt-auth", configuration, guards: true });
}

#[test]
fn jwt_auth_in_report_mode_stays_sane() {
    let mut configuration = jwt_auth("jwksUri", &json!("http://jwks.test/keys"));
    configuration["mode"] = json!("report");
    sweep(&Issuer::new(), &Subject { filter: "jwt-auth", configuration, guards: false });
}

#[test]
fn jwt_auth_in_report_mode_with_a_condition_that_does_not_hold_stays_sane() {
    let mut configuration = jwt_auth("jwksUri", &json!("http://jwks.test/keys"));
    configuration["mode"] = json!("report");
    configuration["rules"] = json!([{ "require": {}, "when": "jwt.sub == 'bob'" }]);
    sweep(&Issuer::new(), &Subject { filter: "jwt-auth", configuration, guards: false });
}

#[test]
fn jwt_auth_asks_for_a_random_seed_of_its_caches() {
    let issuer = Issuer::new();
    let configuration = jwt_auth("jwks", &issuer.keys());
    let subject = Subject { filter: "jwt-auth", configuration, guards: true };
    let moments = subject.proxy(&issuer.keys()).build().unwrap().moments();
    let asked = |call: &str| moments.contains(&("proxy_on_configure".to_owned(), call.to_owned()));
    assert!(asked("random_get"), "{moments:?}");
}

#[test]
fn a_client_that_leaves_while_keys_are_fetched_takes_no_other_along() {
    let issuer = Issuer::new();
    let configuration = jwt_auth("jwksUri", &json!("http://jwks.test/keys"));
    let subject = Subject { filter: "jwt-auth", configuration, guards: true };
    let proxy =
        subject.proxy(&issuer.keys()).cluster("outbound|80||jwks.test", |_| Answer::Hold).build().unwrap();
    let worker = proxy.worker(0);
    let request = || Request::get("/").header("authorization", issuer.bearer(&json!({ "exp": NOW + 3600 })));
    let (leaves, stays) = (worker.start(request()), worker.start(request()));
    assert!(leaves.is_paused() && stays.is_paused());
    assert_eq!(leaves.abort().outcome, Outcome::Reset);
    let fetch = proxy.callouts().into_iter().find(|callout| callout.thread == 1).unwrap();
    proxy.answer(fetch.id, Response::new(200).body(issuer.keys().to_string()));
    assert_eq!(stays.exchange().status, 200);
    assert_eq!(worker.start(request()).exchange().status, 200);
    assert!(proxy.failures().is_empty());
}

#[test]
fn a_clock_that_fails_lets_nothing_through_that_a_limit_enforces() {
    let with = |change: fn(&mut Value)| {
        let mut configuration = rate_limit();
        configuration["limits"][0]["global"] = json!({});
        configuration["global"] = json!({ "domain": "d", "cluster": "ratelimit", "onFailure": "allow" });
        change(&mut configuration);
        Subject { filter: "rate-limit", configuration, guards: false }
    };
    let report = |configuration: &mut Value| {
        for limit in configuration["limits"].as_array_mut().unwrap() {
            limit["mode"] = json!("report");
        }
    };
    for callback in ["proxy_on_request_headers", "proxy_on_grpc_receive"] {
        for (subject, status) in [(with(|_| ()), 503), (with(report), 200)] {
            let fault = Fault::on("clock_time_get").during(callback).status(Status(29));
            let proxy = subject.proxy(&json!({})).build().unwrap();
            let ask = || proxy.worker(0).request(Request::get("/").header("x-user", "alice"));
            assert_eq!(ask().status, 200);
            proxy.fault(fault);
            let denied = ask();
            assert_eq!(denied.status, status, "{callback}: {denied:?}");
            proxy.clear_faults();
            assert_eq!(ask().status, 200);
            assert!(proxy.failures().is_empty());
        }
    }
}

#[test]
fn the_three_together_stay_sane() {
    let issuer = Issuer::new();
    let configuration =
        json!({ "traceTags": {}, "jwtAuth": jwt_auth("jwks", &issuer.keys()), "rateLimit": rate_limit() });
    sweep(&issuer, &Subject { filter: "mesh-filters", configuration, guards: true });
}

impl Subject {
    fn proxy(&self, keys: &Value) -> Builder {
        let plugin = built(self.filter, &self.configuration.to_string())
            .env("PSEUDONYM_KEY", "a-key-of-pseudonyms-for-tests-only");
        let mut builder = Proxy::builder().clock(NOW).plugin(plugin);
        for cluster in ["jwks.test", "outbound|80||jwks.test", "jwks.test:80"] {
            let keys = keys.to_string();
            builder = builder.cluster(cluster, move |_| Response::new(200).body(keys.clone()));
        }
        // `overall_code: OK`.
        let ok = Answer::Grpc { status: 0, message: String::new(), body: vec![8, 1] };
        builder.cluster("ratelimit", move |_| ok.clone())
    }
}

/// Sends a request, and lets time pass for what waits.
fn send(proxy: &Proxy, worker: &Worker, request: Request) -> Exchange {
    let stream = worker.start(request);
    if stream.is_paused() {
        proxy.advance(Duration::from_secs(90));
    }
    stream.exchange()
}

/// Runs a filter with one fault and says what went wrong.
fn run(
    subject: &Subject,
    issuer: &Issuer,
    fault: &Fault,
    (callback, call): &(String, String),
) -> Result<(), String> {
    let proxy = match subject.proxy(&issuer.keys()).fault(fault.clone()).build() {
        Ok(proxy) => proxy,
        // A configuration that can't be read may be refused, but not by dying.
        Err(rejected) if rejected.reason.contains("failed:") => return Err(rejected.to_string()),
        Err(_) => return Ok(()),
    };
    let (worker, token) = (proxy.worker(0), &issuer.bearer(&json!({ "exp": NOW + 3600 })));
    // Without its configuration a filter denies everything, also when the proxy answers again.
    let unconfigured = callback == "proxy_on_configure" && call == "proxy_get_buffer_bytes";
    for (authorization, good) in [(Some(token), true), (None, false)] {
        let mut request =
            Request::get("/things?a=b").header("x-user", "alice").header("x-user-id", "mallory");
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let exchange = send(&proxy, &worker, request);
        let failures = proxy.failures();
        if !failures.is_empty() {
            return Err(format!("a VM died: {failures:?}"));
        }
        // A stream that the host does not let go waits for Envoy's own time limits.
        let held = ["proxy_continue_stream", "proxy_set_effective_context"].contains(&call.as_str());
        if exchange.outcome == Outcome::Paused && !held {
            return Err(format!("a request hangs: {exchange:?}"));
        }
        if let Some(upstream) = &exchange.upstream
            && ["jwt-auth", "mesh-filters"].contains(&subject.filter)
            // A plugin that a worker could not configure after the canary had accepted is left out, in Envoy
            // too.
            && (callback != "proxy_on_configure" || unconfigured)
        {
            if subject.guards && !good {
                return Err(format!("a request without a token got through: {exchange:?}"));
            }
            if !subject.guards
                && exchange.filter_state.get("wasm.jwt").is_some_and(|claims| !claims.is_empty())
            {
                return Err(format!("claims of a request that would be refused got through: {exchange:?}"));
            }
            if upstream.headers.all("x-user-id").contains(&"mallory") {
                return Err(format!("the client's own x-user-id got through: {exchange:?}"));
            }
        }
        if proxy.logs().iter().any(|log| log.message.contains(&token[30..60])) {
            return Err("a token is in the log".to_owned());
        }
    }
    proxy.clear_faults();
    proxy.advance(Duration::from_mins(2));
    let request = Request::get("/things").header("authorization", token);
    let after = send(&proxy, &worker, request);
    let denied = unconfigured && after.status == 503 && after.upstream.is_none();
    if after.status == 200 || denied { Ok(()) } else { Err(format!("it does not recover: {after:?}")) }
}

/// A host call in a callback, spoiled in every way.
fn faults((callback, call): &(String, String)) -> Vec<Fault> {
    let fault = || Fault::on(call).during(callback);
    let statuses = Status::all().chain([Status(99)]).skip(1).map(|status| fault().status(status));
    let counts = (1..4).map(|nth| fault().nth(nth));
    let bytes =
        [fault().replace(*b""), fault().replace([0xff; 300]), fault().truncate(1), fault().truncate(7)];
    statuses.chain(counts).chain(bytes).collect()
}

/// Spoils every host call that the filter makes, at every moment at which it makes it.
fn sweep(issuer: &Issuer, subject: &Subject) {
    let built = subject.proxy(&issuer.keys()).build();
    let proxy = built.unwrap_or_else(|rejected| panic!("{rejected}; `make filters` builds the modules"));
    let good = send(
        &proxy,
        &proxy.worker(0),
        Request::get("/").header("authorization", issuer.bearer(&json!({ "exp": NOW + 3600 }))),
    );
    assert_eq!(good.status, 200, "{good:#?}");
    send(&proxy, &proxy.worker(0), Request::get("/"));
    let mut moments = proxy.moments();
    moments.retain(|(_, call)| call.starts_with("proxy_"));
    assert!(moments.iter().any(|(callback, _)| callback == "proxy_on_request_headers"), "{moments:?}");
    let mut wrong = Vec::new();
    for moment in &moments {
        for fault in faults(moment) {
            if let Err(what) = run(subject, issuer, &fault, moment) {
                wrong.push(format!("{fault:?}: {what}"));
            }
        }
    }
    let first = wrong[..wrong.len().min(9)].join("\n");
    assert!(wrong.is_empty(), "{} runs went wrong, the first ones:\n{first}", wrong.len());
}
