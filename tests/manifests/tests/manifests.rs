//! Every kustomization renders, and every configuration in the manifests and the documents is one that its filter takes.
#![allow(clippy::restriction)]

use manifests::{Variables, accepted, documented, plugin};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use tempfile::TempDir;

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

/// A copy of the manifests, whose settings have these values beside those that they ship with. It goes with the value.
fn installation(values: &BTreeMap<&str, &str>) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    let from = root().join("wasmplugin-manifests");
    for file in files(&from, "") {
        let to = copy.path().join(file.strip_prefix(&from).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&file, to).unwrap();
    }
    let settings = copy.path().join("settings/filters/settings.yaml");
    let mut text = fs::read_to_string(&settings).unwrap();
    for (key, value) in values {
        let line = format!("\n  {key}:\n");
        assert!(text.contains(&line), "the settings ship with a value for {key}");
        text = text.replace(&line, &format!("\n  {key}: \"{value}\"\n"));
    }
    fs::write(settings, text).unwrap();
    for component in ["native", "native-copied", "track"] {
        let folder = copy.path().join(format!("deployments-{component}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("deployments.yaml"), DEPLOYMENTS).unwrap();
        let text = format!("resources: [deployments.yaml]\ncomponents: [../components/{component}]\n");
        fs::write(folder.join("kustomization.yaml"), text).unwrap();
    }
    copy
}

/// Deployments of an installation, to which components are added.
const DEPLOYMENTS: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: { name: user-service, namespace: adaptive-learning, labels: { form: native } }
spec:
  template:
    metadata: { labels: { app: user-service } }
    spec: { containers: [{ name: service, image: user }] }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: auth-service, namespace: adaptive-learning }
spec:
  template:
    metadata: { labels: { app: auth-service } }
    spec: { containers: [{ name: service, image: auth }] }
";

/// A value for each setting that ships without one.
fn values() -> BTreeMap<&'static str, &'static str> {
    const DIGEST: &str = "1111111111111111111111111111111111111111111111111111111111111111";
    BTreeMap::from([
        ("pseudonymKey", KEY),
        ("jwt-auth.url", "oci://registry.example/jwt-auth:1"),
        ("jwt-auth.sha256", DIGEST),
        ("rate-limit.url", "oci://registry.example/rate-limit:1"),
        ("rate-limit.sha256", DIGEST),
        ("trace-tags.url", "oci://registry.example/trace-tags:1"),
        ("trace-tags.sha256", DIGEST),
        ("mesh-filters.url", "oci://registry.example/mesh-filters:1"),
        ("mesh-filters.sha256", DIGEST),
        ("native.image", NATIVE),
    ])
}

const NATIVE: &str = "registry.example/mesh-filters:1-native@sha256:1111111111111111111111111111111111111111111111111111111111111111";

const KEY: &str = "Q2Vj4mM0s8yXgHn5tqB1rZ7oKd9wEf3u";

/// What kubectl makes of a kustomization, or what it says.
fn kustomize(folder: &Path) -> Result<String, String> {
    let kubectl = root().join(".tools/bin/kubectl");
    let done = Command::new(&kubectl).arg("kustomize").arg(folder).output();
    let done = done
        .unwrap_or_else(|error| panic!("{}: {error}; `tools/install kubectl` fetches it", kubectl.display()));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if done.status.success() { Ok(text(done.stdout)) } else { Err(text(done.stderr)) }
}

/// Every kustomization of the manifests that is no component, and what it renders once the settings have their values.
static RENDERED: LazyLock<Vec<(String, Vec<Value>)>> = LazyLock::new(render);

fn render() -> Vec<(String, Vec<Value>)> {
    let top = installation(&values());
    let whole = files(top.path(), "kustomization.yaml");
    let whole = whole.iter().filter(|file| !fs::read_to_string(file).unwrap().contains("kind: Component"));
    whole
        .map(|file| {
            let folder = file.parent().unwrap();
            let name = folder.strip_prefix(top.path()).unwrap().display().to_string();
            let text = kustomize(folder).unwrap_or_else(|error| panic!("{name}: {error}"));
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
        for mut plugin in resources.iter().filter_map(plugin) {
            plugins += 1;
            // The parts of filters/ have no key of their own.
            for value in plugin.variables.values_mut().filter(|_| name.starts_with("filters/")) {
                KEY.clone_into(value);
            }
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
    assert_eq!(of("overlays/native"), 16);
    assert!(plugins > 52, "{plugins}");
}

/// Who applies the plugins before the settings are complete is told so by kustomize, and no pod is.
#[test]
fn a_setting_without_a_value_is_an_error_that_names_it() {
    let all = values();
    for missing in all.keys() {
        let mut given = all.clone();
        given.remove(missing);
        let top = installation(&given);
        let folders: &[&str] = if missing.starts_with("mesh-filters") {
            &["overlays/mesh-filters", "overlays/native"]
        } else if missing.starts_with("native") {
            &["deployments-native", "deployments-native-copied"]
        } else {
            &[
                "filters",
                "overlays/mesh-filters",
                "overlays/native",
                "overlays/traffic-extension",
                "overlays/edge",
                "overlays/filter-canary",
                "overlays/waypoint",
            ]
        };
        for folder in folders {
            let said = kustomize(&top.path().join(folder)).expect_err(folder);
            // Each folder on the way quotes it once more.
            let said = said.replace('\\', "");
            assert!(
                said.contains(&format!("`data.{missing}` is missing")),
                "{folder} without {missing}: {said}"
            );
        }
    }
}

/// Of the parts that take no settings the API server refuses a plugin, for which `url` may not be empty.
#[test]
fn a_plugin_has_its_image_and_its_key_from_the_settings_alone() {
    let values = values();
    for (folder, resources) in &*RENDERED {
        let part = folder.starts_with("filters/");
        for one in resources.iter().filter(|one| one["kind"] != "EnvoyFilter" && plugin(one).is_some()) {
            let spec = if one["kind"] == "WasmPlugin" { &one["spec"] } else { &one["spec"]["wasm"] };
            let filter = spec["pluginName"].as_str().unwrap();
            let of = |key: &str| if part { "" } else { values[format!("{filter}.{key}").as_str()] };
            assert_eq!(
                (&spec["url"], &spec["sha256"]),
                (&json!(of("url")), &json!(of("sha256"))),
                "{folder}"
            );
            for variable in spec["vmConfig"]["env"].as_array().into_iter().flatten() {
                assert_eq!(variable["value"], if part { "" } else { KEY }, "{folder}");
            }
        }
    }
}

/// The resources that a folder renders.
fn rendered(folder: &str) -> &'static [Value] {
    &RENDERED.iter().find(|(name, _)| name == folder).unwrap().1
}

#[test]
fn a_native_filter_is_the_wasm_plugin_of_its_name_for_the_other_pods_of_the_service() {
    let all = rendered("overlays/native");
    let of = |kind: &str| all.iter().filter(|one| one["kind"] == kind).collect::<Vec<_>>();
    let (wasm, native) = (of("WasmPlugin"), of("EnvoyFilter"));
    assert_eq!((wasm.len(), native.len()), (8, 8));
    for (one, other) in wasm.into_iter().zip(native) {
        let (wasm, native) = (plugin(one).unwrap(), plugin(other).unwrap());
        assert_eq!(one["metadata"], other["metadata"]);
        assert_eq!((&wasm.filter, &wasm.config), (&native.filter, &native.config));
        assert_eq!(wasm.variables, native.variables);
        let pods = |form: &str| json!({ "app": one["spec"]["selector"]["matchLabels"]["app"], "form": form });
        assert_eq!(one["spec"]["selector"]["matchLabels"], pods("wasm"));
        assert_eq!(other["spec"]["workloadSelector"]["labels"], pods("native"));
        let patch = &other["spec"]["configPatches"][0];
        assert_eq!(
            (&patch["applyTo"], &patch["patch"]["operation"]),
            (&json!("HTTP_FILTER"), &json!("INSERT_FIRST"))
        );
        let config = &patch["patch"]["value"]["typed_config"];
        let name = one["metadata"]["name"].as_str().unwrap();
        assert_eq!(config["filter_config"]["value"]["pluginName"], format!("adaptive-learning.{name}"));
        let module = json!({
            "do_not_close": true, "metrics_namespace": "wasmcustom",
            "module": { "local": { "filename": "/etc/mesh-filters/libmesh_filters.so" } },
        });
        assert_eq!(config["dynamic_module_config"], module);
    }
    // What is applied later stands ahead.
    let priority = |name: &str| {
        let one = all.iter().find(|one| one["kind"] == "EnvoyFilter" && one["metadata"]["name"] == name);
        one.unwrap()["spec"]["priority"].as_i64().unwrap_or(0)
    };
    assert!(priority("rate-limit-sign-in") > priority("mesh-filters-auth"));
}

#[test]
fn a_deployment_with_the_label_has_the_module_in_its_proxies_and_others_do_not() {
    let mount = json!({ "mesh-filters": { "mountPath": "/etc/mesh-filters", "readOnly": true } });
    let volumes = [
        (
            "native",
            json!({ "name": "mesh-filters", "image": { "reference": NATIVE, "pullPolicy": "IfNotPresent" } }),
        ),
        ("native-copied", json!({ "name": "mesh-filters", "emptyDir": { "sizeLimit": "64Mi" } })),
    ];
    for (component, volume) in volumes {
        let all = rendered(&format!("deployments-{component}"));
        let template =
            |name: &str| &all.iter().find(|one| one["metadata"]["name"] == name).unwrap()["spec"]["template"];
        let (native, wasm) = (template("user-service"), template("auth-service"));
        assert_eq!(native["metadata"]["labels"]["form"], "native");
        let annotation = &native["metadata"]["annotations"]["sidecar.istio.io/userVolumeMount"];
        assert_eq!(serde_json::from_str::<Value>(annotation.as_str().unwrap()).unwrap(), mount);
        assert_eq!(native["spec"]["volumes"], json!([volume]));
        assert_eq!(native["spec"]["imagePullSecrets"], json!([{ "name": "wasm-registry" }]));
        if component == "native-copied" {
            assert_eq!(native["spec"]["initContainers"][0]["image"], NATIVE);
            assert_eq!(native["metadata"]["annotations"]["sidecar.istio.io/nativeSidecar"], "false");
        }
        assert_eq!(wasm["metadata"], json!({ "labels": { "app": "auth-service", "form": "wasm" } }));
        assert_eq!(wasm["spec"], json!({ "containers": [{ "name": "service", "image": "auth" }] }));
    }
}

/// `mesh-filters check` of this text, with an option.
fn run_check(text: &str, option: [&str; 2]) -> Output {
    // Beside the folder `deps` that holds this test.
    let program = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("mesh-filters");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resources.yaml");
    fs::write(&file, text).unwrap();
    let done = Command::new(&program).arg("check").args(option).arg(&file).output();
    done.unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

/// What `mesh-filters check --deny warnings` finds in these resources.
fn check(resources: &[Value]) -> Result<(), String> {
    let text = json!({ "kind": "List", "items": resources }).to_string();
    let done = run_check(&text, ["--deny", "warnings"]);
    if done.status.success() { Ok(()) } else { Err(String::from_utf8(done.stdout).unwrap()) }
}

#[test]
fn each_pod_has_the_plugins_of_its_track_and_the_check_finds_a_pod_without() {
    let overlay = rendered("overlays/filter-canary");
    let plugins = |track: &str| {
        let of_track = |one: &&Value| one["spec"]["selector"]["matchLabels"]["track"] == track;
        overlay.iter().filter(of_track).filter(|one| plugin(one).is_some()).cloned().collect::<Vec<_>>()
    };
    let (stable, canary) = (plugins("stable"), plugins("canary"));
    assert_eq!((stable.len(), canary.len()), (22, 22));
    // The stable ones are those of filters/ that select fewer pods; the others differ by what is tried.
    for ((one, other), before) in stable.iter().zip(&canary).zip(rendered("filters")) {
        let mut wide = one.clone();
        wide["spec"]["selector"]["matchLabels"].as_object_mut().unwrap().remove("track");
        assert_eq!(wide, *before);
        let name = one["metadata"]["name"].as_str().unwrap();
        assert_eq!(other["metadata"]["name"], format!("{name}-canary"));
        if name != "jwt-auth-user" {
            assert_eq!(one["spec"]["pluginConfig"], other["spec"]["pluginConfig"]);
        }
    }
    let services: Vec<Value> = rendered("base")
        .iter()
        .filter(|one| one["kind"] == "Service" && one["metadata"]["namespace"] == "adaptive-learning")
        .cloned()
        .collect();
    let with = |more: &[Value]| check(&[overlay, &services, more].concat());
    let labelled = rendered("deployments-track");
    let mut pods = labelled.to_vec();
    pods[0]["metadata"]["name"] = json!("user-service-canary");
    pods[0]["spec"]["template"]["metadata"]["labels"]["track"] = json!("canary");
    assert_eq!(with(&pods), Ok(()));
    pods[0]["spec"]["template"]["metadata"]["labels"]["track"] = json!("other");
    let said = with(&pods).unwrap_err();
    assert!(said.matches("pods-without-filter").count() == 3, "{said}");
    let said = check(&[rendered("filters"), &canary].concat()).unwrap_err();
    let count = |code: &str| said.matches(code).count();
    assert!(count("error[same-filter-twice]") == 14 && count("error[same-limit-twice]") == 15, "{said}");
}

/// The names of the platform that the manifests are of, where a text has one.
fn names_of_the_original(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.retain(|line| {
        let services = ["auth", "user", "content", "scheduler", "ml", "event", "notification"];
        line.contains("adaptive") || services.iter().any(|name| line.contains(&format!("{name}-service")))
    });
    lines
}

/// The Services and Deployments of a platform: each an app in a namespace, and the value of its label `track`.
fn workloads(apps: &[(&str, &str, &str)]) -> Vec<Value> {
    let of_app = |(app, namespace, track): &(&str, &str, &str)| {
        let metadata = json!({ "name": app, "namespace": namespace });
        let ports = json!([{ "name": "http", "port": 8080 }]);
        let template = json!({
            "metadata": { "labels": { "app": app, "track": track } },
            "spec": { "containers": [{ "name": "service", "image": app }] },
        });
        [
            json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": { "ports": ports } }),
            json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": { "template": template } }),
        ]
    };
    apps.iter().flat_map(of_app).collect()
}

/// An installation with the folder `shop`, as the page shows it: three services in two namespaces.
fn shop() -> TempDir {
    let top = installation(&values());
    let page = fs::read_to_string(root().join("wasmplugin-manifests/README.md")).unwrap();
    let mut shown = page.split("```yaml\n").skip(1).map(|block| block.split("```").next().unwrap());
    let folder = top.path().join("shop");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("kustomization.yaml"), shown.next().unwrap()).unwrap();
    let orders = shown.next().unwrap();
    let payments = orders.replace("orders", "payments");
    let stock = orders.replace("orders", "stock").replace("namespace: shop", "namespace: warehouse");
    fs::write(folder.join("plugins.yaml"), [orders, &payments, &stock].join("---\n")).unwrap();
    let settings = fs::read_to_string(top.path().join("settings/filters/settings.yaml")).unwrap();
    let settings = settings
        .replace("https://auth.adaptive-learning.example/", "https://auth.shop.example/")
        .replace("adaptive-learning-api", "shop")
        .replace("auth-service.adaptive-learning.svc", "keys.shop.svc");
    fs::write(folder.join("settings.yaml"), settings).unwrap();
    top
}

const SHOP: [(&str, &str, &str); 4] = [
    ("orders", "shop", "stable"),
    ("payments", "shop", "canary"),
    ("stock", "warehouse", "stable"),
    ("keys", "shop", ""),
];

#[test]
fn another_platform_has_no_name_of_this_one_and_nothing_is_wrong_with_it() {
    let top = shop();
    let text = kustomize(&top.path().join("shop")).unwrap();
    assert_eq!(names_of_the_original(&text), Vec::<&str>::new());
    let resources: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    assert_eq!(resources.len(), 9);
    assert_eq!(check(&[resources, workloads(&SHOP)].concat()), Ok(()));

    // The canary of a filter there, with the names that the page tells to replace.
    let overlay = top.path().join("overlays/filter-canary");
    for file in ["stable/kustomization.yaml", "canary/kustomization.yaml", "admission.yaml"] {
        let file = overlay.join(file);
        let text = fs::read_to_string(&file).unwrap();
        let text = text.replace("../../../filters", "../../../shop").replace(
            "matchLabels: { kubernetes.io/metadata.name: adaptive-learning }",
            "matchExpressions: [{ key: kubernetes.io/metadata.name, operator: In, values: [shop, warehouse] }]",
        );
        let text = text.replace(".endsWith(\"-service\")", " in [\"orders\", \"payments\", \"stock\"]");
        fs::write(file, text).unwrap();
    }
    let text = kustomize(&overlay).unwrap();
    assert_eq!(names_of_the_original(&text), Vec::<&str>::new());
    let resources: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    assert_eq!(resources.iter().filter_map(plugin).count(), 18);
    assert_eq!(check(&[resources, workloads(&SHOP)].concat()), Ok(()));
}

#[test]
fn what_scrapes_the_proxies_has_no_name_of_a_platform() {
    let folder = root().join("wasmplugin-manifests/overlays/observability");
    for file in
        ["prometheus.yml", "operator/pod-monitor.yaml", "dashboard.json", "jaeger.yaml", "prometheus.yaml"]
    {
        let text = fs::read_to_string(folder.join(file)).unwrap();
        assert_eq!(names_of_the_original(&text), Vec::<&str>::new(), "{file}");
    }
    // The services that must be there, and the one with an objective of its own, as the page says.
    let text = fs::read_to_string(folder.join("rules.yaml")).unwrap();
    let mut others = names_of_the_original(&text);
    others.retain(|line| !line.contains("label_replace(vector(1)") && !line.contains("ml-service"));
    assert_eq!(others, Vec::<&str>::new());
    let script = fs::read_to_string(root().join("wasmplugin-manifests/report-mode.sh")).unwrap();
    assert_eq!(names_of_the_original(&script), Vec::<&str>::new());
}

#[test]
fn a_configuration_in_a_document_is_one_that_its_filter_takes() {
    let key = ("PSEUDONYM_KEY".to_owned(), KEY.to_owned());
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

/// The findings of `mesh-filters check` in this text, but those that say that report mode is on: a rollout begins with it.
fn findings(text: &str) -> Vec<String> {
    let done = run_check(text, ["--format", "json"]);
    let found: Vec<Value> = serde_json::from_slice(&done.stdout).unwrap();
    let found = found.iter().filter(|one| one["code"] != "report-mode");
    found.map(|one| format!("{}: {}", one["resource"], one["message"])).collect()
}

/// The filters of these in Envoy's own configuration, each as an `EnvoyFilter` adds it.
fn of_envoy(value: &Value, found: &mut Vec<Value>) {
    let typed = &value["typed_config"];
    if typed["config"].get("configuration").is_some() || typed.get("dynamic_module_config").is_some() {
        let patch = json!({ "applyTo": "HTTP_FILTER", "match": { "context": "GATEWAY" }, "patch": { "value": value } });
        found.push(json!({ "kind": "EnvoyFilter", "metadata": { "name": "a" }, "spec": { "configPatches": [patch] } }));
        return;
    }
    let (list, object) = (value.as_array(), value.as_object());
    let below = list.into_iter().flatten().chain(object.into_iter().flat_map(serde_json::Map::values));
    for value in below {
        of_envoy(value, found);
    }
}

/// Whole resources, with what stands beside them, as a user would check them before they are applied.
#[test]
fn what_users_copy_passes_the_check_with_warnings_denied() {
    let (mut wrong, mut blocks, mut filters) = (Vec::new(), 0, 0);
    let mut checked =
        |name: &str, text: &str| wrong.extend(findings(text).iter().map(|one| format!("{name}: {one}")));
    // These are parts of others: plugins without a key, and both forms of the filters, of which one is taken away.
    let is_part = |name: &str| name.starts_with("filters/") || name == "overlays/mesh-filters/joined";
    for (name, resources) in RENDERED.iter().filter(|(name, _)| !is_part(name)) {
        checked(name, &json!({ "kind": "List", "items": resources }).to_string());
    }
    for file in files(&root().join("examples"), ".yaml") {
        let all: Vec<Value> = serde_saphyr::from_multiple(&fs::read_to_string(&file).unwrap()).unwrap();
        let mut found = Vec::new();
        for value in &all {
            of_envoy(value, &mut found);
        }
        filters += found.len();
        checked(&file.display().to_string(), &json!({ "kind": "List", "items": found }).to_string());
    }
    let documents =
        files(&root().join("docs"), ".md").into_iter().chain(files(&root().join("examples"), ".md"));
    for file in
        documents.chain(["README.md", "cli/README.md", "demo/README.md"].map(|file| root().join(file)))
    {
        let text = fs::read_to_string(&file).unwrap_or_default();
        for piece in text.split("```yaml\n").skip(1) {
            let piece = piece.split("```").next().unwrap();
            let first = piece.lines().find(|line| !line.starts_with('#')).unwrap_or_default();
            // A list is one of limits.
            let whole = if first.starts_with("- ") { format!("limits:\n{piece}") } else { piece.to_owned() };
            blocks += 1;
            checked(&file.display().to_string(), &whole);
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert!(blocks > 50 && filters >= 4, "{blocks} {filters}");
    let (list, mut found) = (
        json!([{ "typed_config": { "config": { "name": "jwt-auth", "configuration": { "value": "{}" } } } }]),
        Vec::new(),
    );
    of_envoy(&list, &mut found);
    assert!(!findings(&found[0].to_string()).is_empty(), "what is wrong in such a filter is found");
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

/// Each route by the hosts and its name: where it leads, its timeout, and how often a request is repeated.
type Routes = BTreeMap<(String, String), (String, String, u64)>;

#[test]
fn the_gateway_api_has_the_routes_timeouts_and_retries_of_base() {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let list = |value: &Value| value.as_array().unwrap().clone();
    let mut wanted = Routes::new();
    for one in rendered("base").iter().filter(|one| one["kind"] == "VirtualService") {
        for route in list(&one["spec"]["http"]) {
            let host = text(&route["route"][0]["destination"]["host"]);
            let to = host.split('.').next().unwrap().to_owned();
            let of = (to, text(&route["timeout"]), route["retries"]["attempts"].as_u64().unwrap());
            wanted.insert((text(&one["metadata"]["name"]), text(&route["name"])), of);
        }
    }
    let mut found = Routes::new();
    for one in rendered("overlays/gateway-api/routes").iter().filter(|one| one["kind"] == "HTTPRoute") {
        let name = text(&one["metadata"]["name"]);
        for rule in list(&one["spec"]["rules"]).iter().filter(|rule| rule.get("backendRefs").is_some()) {
            let of = (
                text(&rule["backendRefs"][0]["name"]),
                text(&rule["timeouts"]["request"]),
                rule["retry"]["attempts"].as_u64().unwrap_or(0),
            );
            let name = match name.split_once('-') {
                Some(("api", service)) => ("api".to_owned(), format!("{service}-{}", text(&rule["name"]))),
                _ => (name.clone(), text(&rule["name"])),
            };
            found.insert(name, of);
        }
    }
    assert_eq!(found, wanted);
}

/// What Helm makes of the chart, where these values are set.
fn helm(values: &[(String, &str)]) -> Result<Vec<Value>, String> {
    let set = values.iter().flat_map(|(name, value)| ["--set-string".to_owned(), format!("{name}={value}")]);
    template(&set.collect::<Vec<_>>())
}

fn template(arguments: &[String]) -> Result<Vec<Value>, String> {
    let helm = root().join(".tools/release/bin/helm");
    let mut command = Command::new(&helm);
    command.args(["template", "filters"]).arg(root().join("charts/mesh-filters")).args(arguments);
    let done = command
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}; `make test-chart` builds it", helm.display()));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if done.status.success() {
        Ok(serde_saphyr::from_multiple(&text(done.stdout)).unwrap())
    } else {
        Err(text(done.stderr))
    }
}

/// The values that the chart ships without, as those of the settings.
fn chart_values() -> Vec<(String, &'static str)> {
    let name = |setting: &str| match setting.split_once('.') {
        None => Some(setting.to_owned()),
        Some(("mesh-filters", _)) => None,
        Some((filter, field)) => {
            let part = ["trace-tags", "jwt-auth", "rate-limit"].iter().position(|known| *known == filter)?;
            Some(format!("{}.image.{field}", ["traceTags", "jwtAuth", "rateLimit"][part]))
        }
    };
    values().into_iter().filter_map(|(setting, value)| Some((name(setting)?, value))).collect()
}

#[test]
#[ignore = "needs Helm: `make test-chart` builds it"]
fn the_chart_renders_what_the_kustomization_of_the_filters_renders() {
    let by_name = |resources: &[Value]| -> BTreeMap<String, Value> {
        resources.iter().map(|one| (one["metadata"]["name"].to_string(), one.clone())).collect()
    };
    let rendered = helm(&chart_values()).unwrap();
    let wanted = &RENDERED.iter().find(|(folder, _)| folder == "filters").unwrap().1;
    let (rendered, wanted) = (by_name(&rendered), by_name(wanted));
    assert_eq!(rendered.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    for (name, one) in wanted {
        assert_eq!(rendered[&name], one, "{name}");
    }
}

/// The page of the chart has values of another platform.
#[test]
#[ignore = "needs Helm: `make test-chart` builds it"]
fn the_values_that_the_page_of_the_chart_shows_make_plugins_that_their_filters_take() {
    let page = fs::read_to_string(root().join("charts/mesh-filters/README.md")).unwrap();
    let shown = page.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap().replace('…', KEY);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.yaml");
    fs::write(&file, shown).unwrap();
    let values = ["--values".to_owned(), file.display().to_string()];
    let rendered = template(&values).unwrap();
    assert_eq!(names_of_the_original(&json!(rendered).to_string()), Vec::<&str>::new());
    // One release for each track, where the pods have the label.
    let of_track = |track: &str| {
        let track = ["--set".to_owned(), format!("track={track}")];
        template(&[values.as_slice(), &track].concat()).unwrap()
    };
    let workloads = workloads(&[SHOP.as_slice(), &[("auth", "shop", "")]].concat());
    for resources in [rendered.clone(), [of_track("stable"), of_track("canary")].concat()] {
        assert_eq!(check(&[resources, workloads.clone()].concat()), Ok(()));
    }
    let mut names = Vec::new();
    for plugin in rendered.iter().map(|one| plugin(one).unwrap()) {
        let said = accepted(&plugin.filter, &plugin.config, &plugin.variables);
        assert_eq!(said, Ok(()), "{}", plugin.resource);
        names.push(plugin.resource);
    }
    names.sort();
    let of = |app: &'static str| move |filter: &&str| format!("WasmPlugin {app}").replace("FILTER", filter);
    let all = ["jwt-auth", "rate-limit", "trace-tags"];
    let mut wanted: Vec<String> = all.iter().map(of("shop/FILTER-orders")).collect();
    wanted.extend(all.iter().map(of("shop/FILTER-payments")));
    wanted.extend(["jwt-auth", "trace-tags"].iter().map(of("warehouse/FILTER-stock")));
    wanted.sort();
    assert_eq!(names, wanted);
}

#[test]
#[ignore = "needs Helm: `make test-chart` builds it"]
fn a_value_that_is_missing_or_that_no_filter_has_is_an_error_that_names_it() {
    let all = chart_values();
    for (n, (missing, _)) in all.iter().enumerate() {
        let mut given = all.clone();
        given.remove(n);
        let said = helm(&given).expect_err(missing);
        let part = missing.split('.').next_back().unwrap();
        assert!(said.contains("is missing") && said.contains(part), "without {missing}: {said}");
    }
    for wrong in
        ["services.user.jwtAuth.rule=x", "rateLimit.config.response.statuses=429", "services.user.apps=x"]
    {
        let (name, value) = wrong.split_once('=').unwrap();
        let said = helm(&[all.clone(), vec![(name.to_owned(), value)]].concat()).expect_err(wrong);
        let field = name.rsplit('.').next().unwrap();
        assert!(said.contains("additional properties") && said.contains(field), "{wrong}: {said}");
    }
}
