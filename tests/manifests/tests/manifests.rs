//! Every kustomization renders, and every configuration in the manifests and the documents is one that its filter takes.

use manifests::{Variables, accepted, documented, plugin};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// Files below a folder whose name ends like this.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_str().unwrap().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Every kustomization of the manifests that is no component, and what it renders.
static RENDERED: LazyLock<Vec<(String, Vec<Value>)>> = LazyLock::new(render);

fn render() -> Vec<(String, Vec<Value>)> {
    let top = root().join("wasmplugin-manifests");
    let whole = files(&top, "kustomization.yaml");
    let whole = whole.iter().filter(|file| !fs::read_to_string(file).unwrap().contains("kind: Component"));
    whole
        .map(|file| {
            let folder = file.parent().unwrap();
            let kubectl = root().join(".tools/bin/kubectl");
            let done = Command::new(&kubectl).arg("kustomize").arg(folder).output();
            let done = done.unwrap_or_else(|error| {
                panic!("{}: {error}; `tools/install kubectl` fetches it", kubectl.display())
            });
            let name = folder.strip_prefix(&top).unwrap().display().to_string();
            assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
            let text = String::from_utf8(done.stdout).unwrap();
            (name, serde_saphyr::from_multiple(&text).unwrap())
        })
        .collect()
}

#[test]
fn every_kustomization_renders_and_its_filters_take_their_configurations() {
    let all = &*RENDERED;
    let mut plugins = 0;
    let mut wrong = Vec::new();
    for (name, resources) in all {
        assert!(!resources.is_empty(), "{name} renders nothing");
        for plugin in resources.iter().filter_map(plugin) {
            plugins += 1;
            if let Err(error) = accepted(&plugin.filter, &plugin.config, &plugin.variables) {
                wrong.push(format!("{name}, {}: {error}", plugin.resource));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    let of = |name: &str| {
        all.iter().find(|(folder, _)| folder == name).unwrap().1.iter().filter_map(plugin).count()
    };
    assert_eq!((of("filters"), of("overlays/traffic-extension"), of("overlays/mesh-filters")), (22, 22, 8));
    assert!(plugins > 52, "{plugins}");
}

#[test]
fn a_configuration_in_a_document_is_one_that_its_filter_takes() {
    let key = ("PSEUDONYM_KEY".to_owned(), "change-me-to-32-random-characters".to_owned());
    let variables = Variables::from([key]);
    let mut seen = 0;
    let mut wrong = Vec::new();
    for file in files(&root().join("docs"), ".md").into_iter().chain([root().join("README.md")]) {
        let text = fs::read_to_string(&file).unwrap();
        for piece in text.split("```yaml\n").skip(1) {
            let piece = piece.split("```").next().unwrap();
            for value in serde_saphyr::from_multiple::<Value>(piece)
                .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
            {
                let Some((filter, config)) = documented(value) else { continue };
                seen += 1;
                if let Err(error) = accepted(&filter, &config, &variables) {
                    wrong.push(format!("{}: {error} in\n{piece}", file.display()));
                }
            }
        }
    }
    assert_eq!(
        wrong,
        Vec::<String>::new(),
        "a ```yaml block is a whole configuration, a list of limits, or a resource"
    );
    assert!(seen >= 8, "{seen}");
}

#[test]
fn what_a_filter_refuses_is_seen() {
    let empty = Variables::new();
    for filter in ["jwt-auth", "rate-limit", "trace-tags", "mesh-filters"] {
        let said = accepted(filter, &serde_json::json!({ "nonsense": 1 }), &empty).unwrap_err();
        assert!(said.contains("nonsense"), "{filter}: {said}");
    }
    assert!(accepted("other", &Value::Null, &empty).is_err());
}

#[test]
fn each_service_is_scaled_and_kept_by_what_is_there() {
    let all = &*RENDERED;
    let base = &all.iter().find(|(folder, _)| folder == "base").unwrap().1;
    let of = |kind: &str| base.iter().filter(|one| one["kind"] == kind).collect::<Vec<_>>();
    let services = of("Service").len();
    let scalers = of("HorizontalPodAutoscaler");
    assert_eq!(scalers.len(), services);
    for scaler in scalers {
        let spec = &scaler["spec"];
        assert_eq!(spec["scaleTargetRef"]["name"], scaler["metadata"]["name"]);
        assert!(
            spec["minReplicas"].as_u64() >= Some(2)
                && spec["maxReplicas"].as_u64() > spec["minReplicas"].as_u64(),
            "{spec}"
        );
    }
    for budget in of("PodDisruptionBudget") {
        assert_eq!(budget["spec"]["maxUnavailable"], 1, "{budget}");
    }
}
