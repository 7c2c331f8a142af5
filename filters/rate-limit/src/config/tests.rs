use std::time::Duration;

use plugin_kit::reply::denial::Body;

use super::*;
use crate::limits::gcra::Rate;
use crate::limits::slots::OnFull;
use crate::reply::{HeaderStyle, HeadersOn};

fn parse(json: &str) -> Result<Config, String> {
    Config::parse(json.as_bytes(), &|_: &str| None).map_err(|errors| errors.to_string())
}

const LIMITS: &str = r#""limits":[{"name":"a","rate":{"requests":1,"per":"1s"}}]"#;

fn limit(fields: &str) -> Result<Config, String> {
    let rate = if fields.starts_with(",\"rate\"") { "" } else { r#","rate":{"requests":1,"per":"1s"}"# };
    parse(&format!(r#"{{"limits":[{{"name":"a"{rate}{fields}}}]}}"#))
}

#[test]
fn defaults() {
    let config = limit("").unwrap();
    let limit = &config.limits[0];
    assert_eq!(limit.rate, Rate::new(1, Duration::from_secs(1), 1).unwrap());
    assert_eq!((limit.cost, limit.mode, limit.enforce_percent), (1, Mode::Enforce, 100));
    assert_eq!((limit.on_missing_key, limit.on_full), (OnMissingKey::ShareOne, OnFull::Evict));
    assert_eq!(limit.single, Some(0));
    assert!(limit.selector.is_always());
    assert_eq!((config.on_conflict, config.longest_lease), (OnConflict::Deny, 100_000_000));
    assert_eq!((config.reply.status, config.reply.headers), (429, HeaderStyle::Ietf));
    assert_eq!((config.reply.headers_on, config.reply.body), (HeadersOn::Denied, Body::Problem));
}

#[test]
fn invalid_configuration_error_names_its_path() {
    for (fields, expected) in [
        (r#","rate":{"requests":1,"per":"0s"}"#, "limits[0].rate: expected a window"),
        (r#","rate":{"requests":1,"per":"1x"}"#, "limits[0].rate.per: this is not a valid duration"),
        (r#","rate":{"request":1,"per":"1s"}"#, "did you mean `requests`?"),
        (r#","match":{"paths":["a"]}"#, "limits[0].match.paths[0]: "),
        (r#","match":{"claims":{"plan":{}}}"#, "limits[0].match.claims.plan: tests nothing"),
        (
            r#","match":{"claims":{"plan":{"noneOf":["pro*"]}}}"#,
            "limits[0].match.claims.plan.noneOf[0]: a text with `*` would be",
        ),
        (
            r#","match":{"sourceAddress":{"cidrs":["10.0.0.0/33"],"from":"envoy"}}"#,
            "limits[0].match.sourceAddress.cidrs[0]: ",
        ),
        (r#","match":{"principals":["10.0.0.0/8"]}"#, "limits[0].match.principals[0]: is an address"),
        (
            r#","key":[{"sourceAddress":{}}]"#,
            "limits[0].key[0].sourceAddress: the node id of this proxy, ``, is not",
        ),
        (r#","key":[{"claim":"sub"},{"heder":"x"}]"#, "limits[0].key[1].heder: unknown field"),
        (r#","key":[{"claim":"sub"}],"before":"auth""#, "limits[0].before: no claim is verified"),
        (r#","match":{"claims":{"a":{"present":true}}},"before":"auth""#, "limits[0].before: "),
        (
            r#","plans":{"from":{"header":"x-plan"},"rates":{"a":{"requests":1,"per":"1s"}}}"#,
            "limits[0].plans.from: a client could",
        ),
        (r#","plans":{"from":{"claim":"plan"},"rates":{}}"#, "limits[0].plans.rates: is empty"),
        (r#","countStatuses":[]"#, "limits[0].countStatuses: is empty; expected at least one entry"),
        (r#","match":{"claims":{}}"#, "limits[0].match.claims: is empty"),
        (r#","match":{"claims":{"a":{"anyOf":[]}}}"#, "limits[0].match.claims.a.anyOf: is empty"),
        (r#","match":{"when":null}"#, "limits[0].match.when: expected a text, found null"),
        (
            r#","plans":{"from":{"claim":"plan"},"rates":{"pro":{"requests":1,"per":"0s"}}}"#,
            "limits[0].plans.rates.pro: expected a window",
        ),
        (r#","costFrom":{"header":"x-cost"}"#, "limits[0].costFrom: a client could"),
        (r#","cost":2"#, "limits[0].cost: expected at most 1, the burst of `rate`, found 2"),
        (
            r#","rate":{"requests":9,"per":"1s"},"cost":5,"plans":{"from":{"claim":"plan"},"rates":{"free":{"requests":4,"per":"1s"}}}"#,
            "limits[0].cost: expected at most 4, the burst of plan `free`, found 5",
        ),
        (r#","countStatuses":[401,40]"#, "limits[0].countStatuses[1]: "),
        (r#","enforcePercent":101"#, "limits[0].enforcePercent: "),
        (r#","maxKeys":0"#, "limits[0].maxKeys: "),
        (r#","mode":"raport""#, "did you mean `report`?"),
    ] {
        let error = limit(fields).unwrap_err();
        assert!(error.contains(expected), "{fields}: {error}");
    }
    for (json, expected) in [
        ("{}", "missing field `limits`"),
        (r#"{"limits":[]}"#, "limits: is empty; expected at least one entry"),
        (&format!(r#"{{{LIMITS},"exempt":[{{"match":{{}}}}]}}"#), "exempt[0].match: exempts every request"),
        (&format!(r#"{{{LIMITS},"response":{{"status":200}}}}"#), "response.status: expected"),
        (&format!(r#"{{{LIMITS},"lease":"2s"}}"#), "lease: expected"),
        (
            r#"{"limits":[{"name":"a","rate":{"requests":1,"per":"1s"}},{"name":"a","rate":{"requests":1,"per":"1s"}}]}"#,
            "limits[1].name: is the name of another limit",
        ),
        (
            r#"{"limits":[{"name":"a b","rate":{"requests":1,"per":"1s"}}]}"#,
            "limits[0].name: expected 1 to 63 letters",
        ),
    ] {
        let error = parse(json).unwrap_err();
        assert!(error.contains(expected), "{json}: {error}");
    }
}

#[test]
fn untrusted_source_of_cost_or_plan_is_refused() {
    for source in [
        r#""header":"x""#,
        r#""property":["request","headers","x"]"#,
        r#""requestId":{}"#,
        r#""path":{}"#,
        r#""pathTemplate":["/a"]"#,
        r#""method":{}"#,
    ] {
        let cost = |trust: &str| limit(&format!(r#","costFrom":{{{source}{trust}}}"#));
        let plan = |trust: &str| {
            let rates = r#""rates":{"a":{"requests":1,"per":"1s"}}"#;
            limit(&format!(r#","plans":{{"from":{{{source}{trust}}},{rates}}}"#))
        };
        assert!(cost("").unwrap_err().starts_with("limits[0].costFrom: a client could"), "{source}");
        assert!(plan("").unwrap_err().starts_with("limits[0].plans.from: a client could"), "{source}");
        let trusted = r#","trust":true"#;
        assert!(cost(trusted).is_ok() && plan(trusted).is_ok(), "{source}");
        // To count by what a client chooses is what a key is for.
        assert!(limit(&format!(r#","key":[{{{source}}}]"#)).is_ok(), "{source}");
    }
}

#[test]
fn global_limits_defaults_and_errors() {
    let global = |limit: &str, service: &str| {
        let limit = format!(r#"{{"name":"a","rate":{{"requests":1,"per":"1m"}},{limit}}}"#);
        parse(&format!(r#"{{"limits":[{limit}],"global":{{"domain":"d","cluster":"c"{service}}}}}"#))
    };
    let config = global(r#""global":{}"#, "").unwrap();
    let service = config.global.as_ref().unwrap();
    assert_eq!((service.timeout, service.on_failure), (Duration::from_millis(20), OnFailure::Deny));
    for (limit, service, expected) in [
        (r#""global":{},"countStatuses":[401]"#, "", "limits[0].global: the service gives no charge back"),
        (r#""global":{"entries":["x"]}"#, "", "limits[0].global.entries: expected 0 names"),
        (r#""global":{},"mode":"report""#, r#","timeout":"6s""#, "global.timeout: expected `1ms` to `5s`"),
        (r#""global":{}"#, r#","timeout":"0ms""#, "global.timeout: expected `1ms` to `5s`"),
        (r#""global":{}"#, r#","onFailure":"dney""#, "did you mean `deny`?"),
    ] {
        let error = global(limit, service).unwrap_err();
        assert!(error.contains(expected), "{limit} {service}: {error}");
    }
    let rate = |per: &str| {
        let plans = format!(
            r#""plans":{{"from":{{"claim":"plan"}},"rates":{{"pro":{{"requests":1,"per":"{per}"}}}}}}"#
        );
        global(&format!(r#""global":{{"sendRate":true}},{plans}"#), "")
    };
    assert!(rate("1h").is_ok());
    assert!(rate("2h").unwrap_err().contains("limits[0].global.sendRate: the service counts by"));
}

#[test]
fn every_limit_has_a_table_of_its_own() {
    let limits = |count: usize| {
        let one = |n| format!(r#"{{"name":"l{n}","rate":{{"requests":1,"per":"1s"}}}}"#);
        let all: Vec<String> = (0..count).map(one).collect();
        parse(&format!(r#"{{"limits":[{}]}}"#, all.join(",")))
    };
    let config = limits(128).unwrap();
    let mut tables: Vec<String> = config.limits.iter().map(|l| format!("{:?}", l.table)).collect();
    tables.sort();
    tables.dedup();
    assert_eq!(tables.len(), 128);
    assert!(limits(129).unwrap_err().contains("limits[128]: expected at most 128 limits"));
}

/// The warnings of a configuration, each with its code; or what is wrong.
fn found(json: &str) -> Vec<String> {
    let shown = |found: &plugin_kit::config::Diagnostic| format!("{} {}", found.code.name(), found.path);
    match Config::parse(json.as_bytes(), &plugin_kit::testing::AnyCel::default()) {
        Ok(config) => config.warnings.iter().map(shown).collect(),
        Err(errors) => errors.all().iter().map(shown).collect(),
    }
}

fn of_limits(limits: &str) -> Vec<String> {
    found(&format!(r#"{{"limits":[{limits}]}}"#))
}

#[test]
fn state_that_a_native_module_does_not_keep_is_told() {
    let limit = |n: usize, keys: u32| {
        let (key, rate) = (r#""key":[{"header":"x"}]"#, r#""rate":{"requests":1,"per":"1s"}"#);
        format!(r#"{{"name":"l{n}",{key},"match":{{"paths":["/{n}"]}},{rate},"maxKeys":{keys}}}"#)
    };
    let of = |count: usize, keys: u32| -> String {
        let limits: Vec<_> = (0..count).map(|n| limit(n, keys)).collect();
        limits.join(",")
    };
    assert_eq!(of_limits(&of(6, 1_048_576)), [""; 0]);
    assert_eq!(of_limits(&of(20, 1_048_576)), ["large-state limits[6].maxKeys"]);
    assert_eq!(of_limits(&of(100, 32_768)), [""; 0]);
}

#[test]
fn limit_that_another_makes_moot_is_told() {
    let limit =
        |name: &str, rate: &str, more: &str| format!(r#"{{"name":"{name}","rate":{{{rate}}}{more}}}"#);
    let (wide, tight) = (r#""requests":1000,"per":"1m""#, r#""requests":10,"per":"1s","burst":5"#);
    let key = r#","key":[{"header":"x-user"}]"#;
    let pair = |wide: &str, tight: &str| of_limits(&format!("{wide},{tight}"));
    let told = ["moot-limit limits[0].rate"];
    assert_eq!(pair(&limit("a", wide, ""), &limit("b", tight, "")), told);
    assert_eq!(pair(&limit("a", wide, key), &limit("b", tight, key)), told);
    assert_eq!(pair(&limit("a", wide, r#","match":{"paths":["/a"]}"#), &limit("b", tight, "")), told);
    // A limit is not moot because of one that is the same and later.
    assert_eq!(pair(&limit("a", wide, ""), &limit("b", wide, "")), ["moot-limit limits[1].rate"]);
    for (one, other) in [
        // More in the long run, and fewer at once.
        (limit("a", r#""requests":100,"per":"1m""#, ""), limit("b", tight, "")),
        (limit("a", wide, key), limit("b", tight, "")),
        (limit("a", wide, ""), limit("b", tight, r#","match":{"paths":["/a"]}"#)),
        (limit("a", wide, ""), limit("b", tight, r#","countStatuses":[401]"#)),
        (limit("a", wide, r#","cost":10"#), limit("b", r#""requests":10,"per":"1s""#, "")),
    ] {
        assert_eq!(pair(&one, &other), [""; 0], "{one} {other}");
    }
    let half = limit("b", tight, r#","mode":"enforce","enforcePercent":50"#);
    assert_eq!(pair(&limit("a", wide, ""), &half), ["report-mode limits[1].enforcePercent"]);
    // It would only follow from the mistake, without which there are two keys.
    let broken = limit("b", wide, r#","key":[{"header":"x user"}]"#);
    assert!(!pair(&limit("a", wide, ""), &broken).iter().any(|told| told.contains("moot-limit")));
}

#[test]
fn what_means_something_else_than_it_seems_is_told() {
    let limit =
        |more: &str| of_limits(&format!(r#"{{"name":"a","rate":{{"requests":1,"per":"1s"}}{more}}}"#));
    let zero =
        |burst: &str| of_limits(&format!(r#"{{"name":"a","rate":{{"requests":0,"per":"1s"{burst}}}}}"#));
    assert_eq!(zero(""), ["denies-all limits[0].rate.requests"]);
    assert_eq!(zero(r#","burst":0"#), [""; 0]);
    assert_eq!(limit(r#","mode":"report""#), ["report-mode limits[0].mode"]);
    for (attribute, told) in [
        (r#"["response","code"]"#, true),
        (r#"["response","code_details"]"#, true),
        (r#"["request","size"]"#, true),
        (r#"["request","headers"]"#, true),
        (r#"["source","port"]"#, true),
        (r#"["request","protocol"]"#, false),
        (r#"["request","headers","x-a"]"#, false),
        (r#"["connection","subject_peer_certificate"]"#, false),
    ] {
        let expected: &[&str] = if told { &["source-without-value limits[0].key[0].property"] } else { &[] };
        assert_eq!(limit(&format!(r#","key":[{{"property":{attribute}}}]"#)), expected, "{attribute}");
    }
    for (cel, told) in [
        ("string(response.code)", true),
        ("request.headers['response']", false),
        ("request.response", false),
        ("my_response", false),
        ("'it\\\\'s' + response.flags", true),
    ] {
        let expected: &[&str] = if told { &["cel-asks-response limits[0].key[0].cel"] } else { &[] };
        assert_eq!(limit(&format!(r#","key":[{{"cel":"{cel}"}}]"#)), expected, "{cel}");
    }
    let plans = r#","plans":{"from":{"claim":"plan"},"rates":{"gold*":{"requests":1,"per":"1s"}}}"#;
    assert_eq!(limit(plans), ["star-as-written limits[0].plans.rates"]);
    assert_eq!(
        limit(r#","key":[{"pathTemplate":["/a/:id"]}]"#),
        ["segment-as-written limits[0].key[0].pathTemplate[0]"]
    );
    let body = |template: &str| {
        found(&format!(
            r#"{{"limits":[{{"name":"a","rate":{{"requests":1,"per":"1s"}}}}],
                "response":{{"body":{{"contentType":"text/html","template":"{template}"}}}}}}"#
        ))
    };
    assert_eq!(body("{foo}"), ["unknown-placeholder response.body.template"]);
    assert_eq!(body("{limit} {retryAfter} {code} { color: red } {}"), [""; 0]);
}

#[test]
fn mode_for_all_limits_leads_to_the_mode_of_each() {
    let json = r#"{"limits":[{"name":"a","rate":{"requests":1,"per":"1s"}}],"mode":"report"}"#;
    let expected = "mode: there is no `mode` for all limits; expected it in each: `limits[].mode`";
    assert_eq!(parse(json).unwrap_err(), expected);
}
