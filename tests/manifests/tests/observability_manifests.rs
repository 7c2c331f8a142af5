//! What on-call looks at is consistent: the operator's forms say what the plain files say, and each alert has its page.
#![allow(clippy::restriction)]

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// The documents of a YAML file of overlays/observability.
fn yaml(file: &str) -> Vec<Value> {
    let path = root().join("wasmplugin-manifests/overlays/observability").join(file);
    serde_saphyr::from_multiple(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn the_operator_s_rules_are_those_of_prometheus() {
    assert_eq!(
        yaml("operator/prometheus-rule.yaml")[0]["spec"]["groups"],
        yaml("rules.yaml")[0]["groups"],
        "run `make rules`"
    );
}

#[test]
fn the_operator_s_labels_are_those_of_prometheus() {
    let plain = &yaml("prometheus.yml")[0]["scrape_configs"][0];
    let endpoint = &yaml("operator/pod-monitor.yaml")[0]["spec"]["podMetricsEndpoints"][0];
    let renamed = |rules: &Value| -> Vec<Value> {
        let rules = rules.as_array().unwrap().iter().map(|rule| {
            let pairs = rule.as_object().unwrap().iter().map(|(name, value)| {
                let name = match name.as_str() {
                    "source_labels" => "sourceLabels",
                    "target_label" => "targetLabel",
                    same => same,
                };
                (name.to_owned(), value.clone())
            });
            Value::Object(pairs.collect())
        });
        rules.collect()
    };
    assert_eq!(endpoint["metricRelabelings"], Value::Array(renamed(&plain["metric_relabel_configs"])));
    let mut found = renamed(&plain["relabel_configs"]);
    found.push(json!({ "targetLabel": "job", "replacement": plain["job_name"] }));
    assert_eq!(endpoint["relabelings"], Value::Array(found));
}

#[test]
fn each_alert_has_its_page() {
    let rules = yaml("rules.yaml");
    let groups = rules[0]["groups"].as_array().unwrap();
    let alerts = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
        .filter(|rule| rule.get("alert").is_some());
    let mut seen = 0;
    for alert in alerts {
        seen += 1;
        let page = alert["annotations"]["runbook"].as_str().unwrap();
        assert_eq!(page, format!("docs/runbook/{}.md", alert["alert"].as_str().unwrap()));
        assert!(root().join(page).exists(), "{page}");
    }
    assert_eq!(fs::read_dir(root().join("docs/runbook")).unwrap().count(), seen, "pages without an alert");
}
