//! The proxy's node. The ABI does not show it. It is on the command line, or in the bootstrap, to which Istio's agent writes it. The
//! agent makes the metadata of the same environment variables and files that are read here.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::sync::LazyLock;

use serde_json::Value;

/// The value of an option of the proxy's command line.
fn option(name: &str) -> Option<Vec<u8>> {
    from_command_line(&fs::read("/proc/self/cmdline").ok()?, name)
}

fn from_command_line(line: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut arguments = line.split(|byte| *byte == 0);
    loop {
        let rest = arguments.next()?.strip_prefix(name.as_bytes());
        match rest {
            Some(b"") => return arguments.next().map(<[u8]>::to_vec),
            Some([b'=', value @ ..]) => return Some(value.to_vec()),
            _ => {}
        }
    }
}

/// A member of the node in the bootstrap, the JSON file that the command line names.
fn written(name: &str) -> Option<Vec<u8>> {
    let path = option("-c").or_else(|| option("--config-path"))?;
    from_bootstrap(&fs::read(OsStr::from_bytes(&path)).ok()?, name)
}

fn from_bootstrap(json: &[u8], name: &str) -> Option<Vec<u8>> {
    let bootstrap: Value = serde_json::from_slice(json).ok()?;
    Some(bootstrap.get("node")?.get(name)?.as_str()?.as_bytes().to_vec())
}

/// The node's ID.
pub(super) fn id() -> Option<Vec<u8>> {
    static ID: LazyLock<Option<Vec<u8>>> =
        LazyLock::new(|| option("--service-node").or_else(|| written("id")));
    ID.clone()
}

/// What Wasm plugins find under `xds.node`.
pub(super) fn property(path: &[&str]) -> Option<Vec<u8>> {
    match path {
        ["id"] => id(),
        ["cluster"] => option("--service-cluster").or_else(|| written("cluster")),
        ["metadata", "LABELS", name] => {
            let volume = fs::read_to_string("/etc/istio/pod/labels").unwrap_or_default();
            label(&volume, std::env::var("ISTIO_METAJSON_LABELS").ok().as_deref(), name)
                .map(String::into_bytes)
        }
        ["metadata", "NAMESPACE"] => variable("POD_NAMESPACE"),
        ["metadata", "SERVICE_ACCOUNT"] => variable("SERVICE_ACCOUNT"),
        ["metadata", name] => variable(&format!("ISTIO_META_{name}")),
        _ => None,
    }
}

fn variable(name: &str) -> Option<Vec<u8>> {
    std::env::var(name).ok().map(String::into_bytes)
}

/// A label of the pod: from the variable, which has them as JSON, or from a file of the downward API (`name="value"` in each line).
fn label(volume: &str, variable: Option<&str>, name: &str) -> Option<String> {
    let json: Option<Value> = variable.and_then(|json| serde_json::from_str(json).ok());
    if let Some(value) = json.as_ref().and_then(|labels| labels.get(name)?.as_str()) {
        return Some(value.to_owned());
    }
    let value = volume.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    // A label has no characters that Kubernetes escapes here.
    Some(value.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_id_is_on_the_command_line() {
        let id = |line: &str| from_command_line(line.as_bytes(), "--service-node");
        assert_eq!(id("envoy\0--service-node\0sidecar~1\0-c\0x").unwrap(), b"sidecar~1");
        assert_eq!(id("envoy\0--service-node=router~1\0").unwrap(), b"router~1");
        assert_eq!(id("envoy\0--service-node-x\0a\0"), None);
        assert_eq!(id("envoy\0-c\0x"), None);
    }

    #[test]
    fn a_nodes_id_is_in_the_bootstrap() {
        let of = |json: &str| from_bootstrap(json.as_bytes(), "id");
        assert_eq!(of(r#"{ "node": { "id": "sidecar~1", "cluster": "shop" } }"#).unwrap(), b"sidecar~1");
        for without in [r#"{ "node": { "id": 7 } }"#, "{}", "node: { id: a }"] {
            assert_eq!(of(without), None, "{without}");
        }
    }

    #[test]
    fn a_label_comes_from_the_variable_or_the_file() {
        let volume = "app=\"server\"\nversion=\"v1\"\n";
        assert_eq!(label(volume, None, "version").unwrap(), "v1");
        assert_eq!(label(volume, Some(r#"{"version":"v2"}"#), "version").unwrap(), "v2");
        assert_eq!(label(volume, Some("no JSON"), "app").unwrap(), "server");
        assert_eq!(label(volume, None, "ap"), None);
    }
}
