//! What a filter says at load to a configuration that it takes, but that may surprise.

use crate::support::issuer::{Issuer, jwt_auth};
use crate::support::{built, messages, started};
use mock_host::{Level, Proxy};
use serde_json::{Value, json};

/// The warnings that a filter logs with this configuration, its gauge of warnings, and that of report mode.
fn warnings(filter: &'static str, configuration: &Value) -> (Vec<String>, u64, u64) {
    let proxy = started(Proxy::builder().plugin(built(filter, &configuration.to_string())));
    let gauge = |what: &str| proxy.metric(&format!("{}_{what}_{filter}", filter.replace('-', "_")));
    let logs: Vec<_> = proxy.logs().into_iter().filter(|log| log.level == Level::Warn).collect();
    let mut texts: Vec<String> = Vec::new();
    // The main thread and each worker read it.
    for text in messages(&logs) {
        if !texts.iter().any(|known| known == text) {
            texts.push(text.to_owned());
        }
    }
    (texts, gauge("config_warnings"), gauge("report_mode"))
}

fn limit(mode: &str) -> Value {
    json!({ "limits": [{ "name": "total", "mode": mode, "rate": { "requests": 1, "per": "1s" } }] })
}

#[test]
fn warning_of_a_configuration_in_force_is_logged_and_counted() {
    let mut auth = jwt_auth("jwks", &Issuer::new().keys());
    auth["mode"] = json!("report");
    auth["providers"]["platform"]["clockSkew"] = json!("10m");
    let skew = "providers.platform.clockSkew: is more than `5m`: expired tokens are accepted for this long (wide-clock-skew)";
    let report = "mode: no request is denied, only counted and logged (report-mode)";
    let total = "limits[0].mode: the limit denies no request, it only counts and logs (report-mode)";
    let (logged, count, reports) = warnings("jwt-auth", &auth);
    let of = |part: &str, text: &str| format!("{part}{text}");
    let alone = "jwt-auth: configuration: ";
    assert_eq!((logged, count, reports), (vec![of(alone, skew), of(alone, report)], 2, 1));
    let joined = json!({ "jwtAuth": auth, "rateLimit": limit("report"), "traceTags": { "tags": [] } });
    let (logged, count, reports) = warnings("mesh-filters", &joined);
    let (auth, limits) = ("mesh-filters: configuration: jwtAuth.", "mesh-filters: configuration: rateLimit.");
    assert_eq!((logged, count, reports), (vec![of(auth, skew), of(auth, report), of(limits, total)], 3, 1));
}

#[test]
fn configuration_without_a_surprise_says_nothing() {
    assert_eq!(warnings("rate-limit", &limit("enforce")), (Vec::new(), 0, 0));
    assert_eq!(warnings("trace-tags", &json!({ "tags": [] })), (Vec::new(), 0, 0));
}

#[test]
fn plugin_is_in_report_mode_where_a_limit_does_not_deny_everybody() {
    let mut limits = limit("enforce");
    limits["limits"][0]["enforcePercent"] = json!(10);
    let text = "limits[0].enforcePercent: the limit is enforced for 10 % of the keys, and only counts and logs for the others";
    let text = format!("rate-limit: configuration: {text} (report-mode)");
    assert_eq!(warnings("rate-limit", &limits), (vec![text], 1, 1));
    limits["limits"][0]["enforcePercent"] = json!(100);
    assert_eq!(warnings("rate-limit", &limits), (Vec::new(), 0, 0));
    // A warning of another kind.
    let mut auth = jwt_auth("jwks", &Issuer::new().keys());
    auth["providers"]["platform"]["clockSkew"] = json!("10m");
    let (_, count, reports) = warnings("jwt-auth", &auth);
    assert_eq!((count, reports), (1, 0));
}

#[test]
fn gauge_follows_what_is_in_force_and_a_refused_update_changes_nothing() {
    let proxy = started(Proxy::builder().plugin(built("rate-limit", &limit("report").to_string())));
    let gauge = || {
        let gauges = ["config_warnings", "report_mode"];
        gauges.map(|what| proxy.metric(&format!("rate_limit_{what}_rate-limit")))
    };
    assert_eq!(gauge(), [1, 1]);
    assert!(proxy.update("rate-limit", "{}").is_err());
    assert_eq!(gauge(), [1, 1]);
    proxy.update("rate-limit", limit("enforce").to_string()).unwrap();
    assert_eq!(gauge(), [0, 0]);
}
