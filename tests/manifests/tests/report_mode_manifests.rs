//! `report-mode.sh` by the real kubectl, against an API server that knows two kinds and no more.
#![allow(clippy::restriction)]

use envoy::{Answer, Server};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

const GROUP: &str = "/apis/extensions.istio.io/v1alpha1";
const ANNOTATION: &str = "mesh-filters/before-report-mode";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// The resources by their path below the group.
type Store = BTreeMap<String, Value>;

struct Cluster {
    store: Arc<Mutex<Store>>,
    home: TempDir,
    _api: Server,
}

/// What one run of the script said, and whether it succeeded.
struct Said {
    text: String,
    success: bool,
}

impl Cluster {
    /// One whose resources are these.
    fn start(resources: &[Value]) -> Self {
        let path = |one: &Value| {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let kind = text(&one["kind"]).to_lowercase() + "s";
            format!(
                "namespaces/{}/{kind}/{}",
                text(&one["metadata"]["namespace"]),
                text(&one["metadata"]["name"])
            )
        };
        let store: Store = resources.iter().map(|one| (path(one), one.clone())).collect();
        let store = Arc::new(Mutex::new(store));
        let shared = Arc::clone(&store);
        let server = Server::start(move |request| {
            let path = request.path.split('?').next().unwrap_or_default();
            let (status, body) = answer(&request.method, path, &request.body, &mut shared.lock().unwrap());
            Answer { status, ..Answer::json(&body) }
        });
        let server = server.unwrap();
        let home = home(server.address());
        Self { store, home, _api: server }
    }

    fn run(&self, arguments: &str) -> Said {
        let kubectl = root().join(".tools/bin");
        assert!(kubectl.join("kubectl").exists(), "`tools/install kubectl` fetches kubectl");
        let path = format!("{}:{}", kubectl.display(), std::env::var("PATH").unwrap());
        let done = Command::new(root().join("wasmplugin-manifests/report-mode.sh"))
            .args(arguments.split(' '))
            .env("PATH", path)
            .env("HOME", self.home.path())
            .env("KUBECONFIG", self.home.path().join("config"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
        Said { text, success: done.status.success() }
    }

    /// Runs the script, which must succeed.
    fn switch(&self, arguments: &str) -> String {
        let said = self.run(arguments);
        assert!(said.success, "{arguments}: {}", said.text);
        said.text
    }

    fn get(&self, path: &str) -> Value {
        self.store.lock().unwrap()[path].clone()
    }

    fn edit(&self, path: &str, edit: impl FnOnce(&mut Value)) {
        edit(self.store.lock().unwrap().get_mut(path).unwrap());
    }
}

/// A home folder with a kubeconfig for the server.
fn home(server: SocketAddr) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{ "name": "test", "cluster": { "server": format!("http://{server}") } }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        "users": [{ "name": "test", "user": {} }],
    });
    std::fs::write(home.path().join("config"), config.to_string()).unwrap();
    home
}

fn answer(method: &str, path: &str, body: &[u8], store: &mut Store) -> (u16, Value) {
    let status = |code: u16, reason: &str, message: String| {
        (
            code,
            json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message }),
        )
    };
    match path {
        "/api" => return (200, json!({ "kind": "APIVersions", "versions": ["v1"] })),
        "/api/v1" => {
            return (200, json!({ "kind": "APIResourceList", "groupVersion": "v1", "resources": [] }));
        }
        "/apis" => {
            let version = json!({ "groupVersion": "extensions.istio.io/v1alpha1", "version": "v1alpha1" });
            let group =
                json!({ "name": "extensions.istio.io", "versions": [version], "preferredVersion": version });
            return (200, json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [group] }));
        }
        GROUP => {
            let resources = ["WasmPlugin", "TrafficExtension"].map(|kind| {
                let singular = kind.to_lowercase();
                json!({
                    "name": format!("{singular}s"), "singularName": singular, "kind": kind, "namespaced": true,
                    "verbs": ["get", "list", "patch"],
                })
            });
            let version = "extensions.istio.io/v1alpha1";
            return (
                200,
                json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources }),
            );
        }
        _ => {}
    }
    let Some(name) = path.strip_prefix(GROUP).map(|rest| rest.trim_start_matches('/')) else {
        return status(404, "NotFound", format!("{path} is not served"));
    };
    if !name.contains('/') {
        let of_kind = store.iter().filter(|(path, _)| path.split('/').nth(2) == Some(name));
        let items = of_kind.map(|(_, one)| one).collect::<Vec<_>>();
        return (200, json!({ "kind": "List", "apiVersion": "v1", "metadata": {}, "items": items }));
    }
    if let [_, namespace, kind] = name.split('/').collect::<Vec<_>>()[..] {
        let of_kind =
            store.iter().filter(|(path, _)| path.starts_with(&format!("namespaces/{namespace}/{kind}/")));
        let items = of_kind.map(|(_, one)| one).collect::<Vec<_>>();
        return (200, json!({ "kind": "List", "apiVersion": "v1", "metadata": {}, "items": items }));
    }
    let Some(resource) = store.get_mut(name) else {
        return status(404, "NotFound", format!("{name} not found"));
    };
    if method == "PATCH" {
        let changes: Value = serde_json::from_slice(body).unwrap();
        let mut patched = resource.clone();
        for change in changes.as_array().unwrap() {
            if let Err(message) = apply(&mut patched, change) {
                return status(422, "Invalid", message);
            }
        }
        let version = patched["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() + 1;
        patched["metadata"]["resourceVersion"] = json!(version.to_string());
        *resource = patched;
    }
    (200, resource.clone())
}

/// One operation of a JSON patch, as RFC 6902 has it.
fn apply(document: &mut Value, change: &Value) -> Result<(), String> {
    let path = change["path"].as_str().unwrap();
    let (parent, last) = path.rsplit_once('/').unwrap();
    let last = last.replace("~1", "/");
    let found = document.pointer(path).cloned();
    let parent = document.pointer_mut(parent).ok_or(format!("{path}: no parent"))?;
    let members = parent.as_object_mut().ok_or(format!("{path}: no object"))?;
    match (change["op"].as_str().unwrap(), found) {
        ("test", Some(found)) if found == change["value"] => {}
        ("test", found) => return Err(format!("testing value {path} failed: {found:?}")),
        ("add", _) | ("replace", Some(_)) => drop(members.insert(last, change["value"].clone())),
        ("remove", Some(_)) => drop(members.remove(&last)),
        (other, _) => return Err(format!("{other} {path}: not there")),
    }
    Ok(())
}

fn plugin(kind: &str, namespace: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "extensions.istio.io/v1alpha1", "kind": kind,
        "metadata": { "namespace": namespace, "name": name, "resourceVersion": "1" }, "spec": spec,
    })
}

fn wasm_plugin(name: &str, config: &Value) -> Value {
    plugin("WasmPlugin", "adaptive-learning", name, &json!({ "pluginConfig": config }))
}

fn wasm_path(name: &str) -> String {
    format!("namespaces/adaptive-learning/wasmplugins/{name}")
}

fn jwt_auth() -> Value {
    json!({ "providers": { "platform": { "issuer": "https://issuer.example/" } } })
}

/// One limit that says nothing of a mode, one that enforces, one that reports.
fn rate_limit() -> Value {
    json!({ "limits": [
        { "name": "per-user", "rate": { "requests": 1, "per": "1s" } },
        { "name": "total", "mode": "enforce" },
        { "name": "tried_out", "mode": "report" },
    ]})
}

fn modes(config: &Value) -> Vec<Option<&str>> {
    config["limits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|limit| limit.get("mode").and_then(Value::as_str))
        .collect()
}

const REPORT: [Option<&str>; 3] = [Some("report"); 3];

#[test]
fn jwt_auth_switched_on_and_off_is_as_it_was() {
    for mode in [None, Some("enforce"), Some("report")] {
        let mut config = jwt_auth();
        if let Some(mode) = mode {
            config["mode"] = json!(mode);
        }
        let cluster = Cluster::start(&[wasm_plugin("jwt-auth-user", &config)]);
        let path = wasm_path("jwt-auth-user");
        cluster.switch("jwt-auth user on");
        assert_eq!(cluster.get(&path)["spec"]["pluginConfig"]["mode"], "report");
        cluster.switch("jwt-auth user on");
        cluster.switch("jwt-auth user off");
        let after = cluster.get(&path);
        assert_eq!(after["spec"]["pluginConfig"], config);
        assert_eq!(after["metadata"]["annotations"].get(ANNOTATION), None);
        let version = after["metadata"]["resourceVersion"].clone();
        cluster.switch("jwt-auth user off");
        assert_eq!(cluster.get(&path)["metadata"]["resourceVersion"], version, "the second `off` changed it");
    }
}

#[test]
fn each_limit_switched_on_twice_and_off_has_its_own_mode_again() {
    let cluster = Cluster::start(&[wasm_plugin("rate-limit-user", &rate_limit())]);
    let path = wasm_path("rate-limit-user");
    cluster.switch("rate-limit user on");
    let first = cluster.get(&path);
    assert_eq!(modes(&first["spec"]["pluginConfig"]), REPORT);
    let said = cluster.switch("rate-limit user on");
    assert!(said.contains("limit:total has mode report, before: enforce"), "{said}");
    assert_eq!(cluster.get(&path), first, "the second `on` changed it");
    cluster.switch("rate-limit user off");
    assert_eq!(cluster.get(&path)["spec"]["pluginConfig"], rate_limit());
}

#[test]
fn a_plugin_applied_anew_while_it_reports_keeps_what_was_applied() {
    let cluster = Cluster::start(&[wasm_plugin("rate-limit-user", &rate_limit())]);
    let path = wasm_path("rate-limit-user");
    cluster.switch("rate-limit user on");
    let applied = json!({ "limits": [
        { "name": "total" }, { "name": "per-user", "mode": "enforce" }, { "name": "new", "mode": "report" },
    ]});
    cluster.edit(&path, |plugin| plugin["spec"]["pluginConfig"] = applied.clone());
    cluster.switch("rate-limit user on");
    assert_eq!(modes(&cluster.get(&path)["spec"]["pluginConfig"]), REPORT);
    cluster.switch("rate-limit user off");
    assert_eq!(cluster.get(&path)["spec"]["pluginConfig"], applied);

    cluster.switch("rate-limit user on");
    cluster.edit(&path, |plugin| plugin["spec"]["pluginConfig"] = applied.clone());
    cluster.switch("rate-limit user off");
    assert_eq!(cluster.get(&path)["spec"]["pluginConfig"], applied);
}

#[test]
fn the_parts_of_mesh_filters_switch_apart_and_together() {
    let config = json!({ "traceTags": {}, "jwtAuth": jwt_auth(), "rateLimit": rate_limit() });
    let cluster = Cluster::start(&[wasm_plugin("mesh-filters-user", &config)]);
    let path = wasm_path("mesh-filters-user");
    let seen = |cluster: &Cluster| {
        let config = &cluster.get(&path)["spec"]["pluginConfig"];
        (config["jwtAuth"]["mode"] == "report", modes(&config["rateLimit"]) == REPORT)
    };
    cluster.switch("jwt-auth user on");
    assert_eq!(seen(&cluster), (true, false));
    cluster.switch("rate-limit user on");
    assert_eq!(seen(&cluster), (true, true));
    cluster.switch("jwt-auth user off");
    assert_eq!(seen(&cluster), (false, true));
    cluster.switch("rate-limit user off");
    assert_eq!(cluster.get(&path)["spec"]["pluginConfig"], config);
    cluster.switch("mesh-filters user on");
    assert_eq!(seen(&cluster), (true, true));
    cluster.switch("mesh-filters user off");
    assert_eq!(cluster.get(&path)["spec"]["pluginConfig"], config);
}

#[test]
fn a_plugin_in_another_namespace_or_a_traffic_extension_is_found() {
    let edge = plugin("WasmPlugin", "istio-ingress", "jwt-auth-edge", &json!({ "pluginConfig": jwt_auth() }));
    let spec = json!({ "wasm": { "pluginConfig": rate_limit() } });
    let extension = plugin("TrafficExtension", "adaptive-learning", "rate-limit-user", &spec);
    let cluster = Cluster::start(&[edge, extension]);
    cluster.switch("jwt-auth edge on");
    let edge = cluster.get("namespaces/istio-ingress/wasmplugins/jwt-auth-edge");
    assert_eq!(edge["spec"]["pluginConfig"]["mode"], "report");
    cluster.switch("rate-limit user on");
    let path = "namespaces/adaptive-learning/trafficextensions/rate-limit-user";
    assert_eq!(modes(&cluster.get(path)["spec"]["wasm"]["pluginConfig"]), REPORT);
    assert_eq!(
        cluster.switch("list"),
        "WasmPlugin istio-ingress/jwt-auth-edge\nTrafficExtension adaptive-learning/rate-limit-user\n"
    );
    cluster.switch("rate-limit user off --namespace adaptive-learning");
    assert_eq!(cluster.get(path)["spec"], spec);
}

#[test]
fn of_two_plugins_with_one_name_the_namespace_says_which() {
    let both = ["shop", "stock"].map(|namespace| {
        plugin("WasmPlugin", namespace, "jwt-auth-orders", &json!({ "pluginConfig": jwt_auth() }))
    });
    let cluster = Cluster::start(&both);
    let said = cluster.run("jwt-auth orders on");
    let expected = "several namespaces have jwt-auth-orders: shop stock; say which by -n";
    assert!(!said.success && said.text.contains(expected), "{}", said.text);
    cluster.switch("-n stock jwt-auth orders on");
    let mode = |namespace: &str| {
        let path = format!("namespaces/{namespace}/wasmplugins/jwt-auth-orders");
        cluster.get(&path)["spec"]["pluginConfig"]["mode"].clone()
    };
    assert_eq!((mode("shop"), mode("stock")), (Value::Null, json!("report")));
}

#[test]
fn what_is_not_there_or_not_said_right_is_refused() {
    let cluster = Cluster::start(&[
        wasm_plugin("jwt-auth-user", &jwt_auth()),
        wasm_plugin("mesh-filters-ml", &json!({ "jwtAuth": jwt_auth() })),
    ]);
    for (arguments, expected) in [
        (
            "jwt-auth usr on",
            "the cluster has no WasmPlugin or TrafficExtension jwt-auth-usr mesh-filters-usr",
        ),
        ("-n other jwt-auth user on", "namespace other has no WasmPlugin"),
        ("rate-limit ml on", "has no rate-limit to switch"),
        ("jwt-auth user of", "Usage: report-mode.sh"),
        ("trace-tags user on", "Usage: report-mode.sh"),
    ] {
        let said = cluster.run(arguments);
        assert!(!said.success && said.text.contains(expected), "{arguments}: {}", said.text);
    }
    assert_eq!(cluster.get(&wasm_path("jwt-auth-user"))["metadata"]["resourceVersion"], "1");
    let said = cluster.switch("jwt-auth user show");
    assert_eq!(said, "wasmplugin/jwt-auth-user in adaptive-learning: jwt-auth has mode unset\n");
}
