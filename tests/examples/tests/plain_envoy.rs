//! `examples/envoy`: its page, carried out with a real Envoy.
//!
//! The bootstraps are those that users copy. Only addresses differ: listeners are on free ports of 127.0.0.1,
//! and clusters lead to where the service, the issuer and the collector of this test are.
#![allow(clippy::restriction)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use envoy::{Envoy, SpanCollector, wait_for};
use examples::{Block, Shell, Step, blocks, is_shown};
use serde_json::{Value, json};
use tempfile::TempDir;

const PAGE: &str = "examples/envoy/README.md";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn yaml(file: &str) -> Value {
    serde_saphyr::from_str(&read(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// What a page says that a reader does before, and `make` has done for this test, in a folder that all tests
/// share.
const DONE_BY_MAKE: [&str; 4] = ["make filters", "cargo install", "tools/install", "export PATH="];

/// A reader at work.
struct Reader {
    folder: TempDir,
    shell: Shell,
    collector: SpanCollector,
    /// Where each port of the bootstraps is here.
    ports: BTreeMap<u64, u16>,
    /// By the name of the bootstrap; at most one of them is a filter's.
    running: BTreeMap<String, Envoy>,
    /// The bootstrap of the filter that runs.
    edge: String,
}

const SERVERS: [&str; 2] = ["examples/envoy/service.yaml", "examples/envoy/issuer.yaml"];

impl Reader {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("target")).unwrap();
        for shared in ["examples", "testdata", "target/filters"] {
            symlink(root().join(shared), folder.path().join(shared)).unwrap();
        }
        // Beside the tests' own folder: target/debug.
        let programs = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
        let shell = Shell::start(folder.path(), &programs).unwrap();
        let collector = SpanCollector::start().unwrap();
        let ports = BTreeMap::from([(4318, collector.address().port())]);
        Self { folder, shell, collector, ports, running: BTreeMap::new(), edge: String::new() }
    }

    fn carries_out(&mut self, step: &Step) {
        let command = &step.command;
        if DONE_BY_MAKE.iter().any(|done| command.starts_with(done)) {
            return;
        }
        if let Some(arguments) = command.strip_prefix("envoy ") {
            let file = arguments.trim_end_matches(" &").split_once("-c ").expect("a bootstrap").1;
            self.starts(file);
            return;
        }
        let mut here = command.clone();
        for (port, actual) in &self.ports {
            here = here.replace(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{actual}"));
        }
        let printed = self.shell.run(&here).unwrap();
        // The output of a command that prepares is nothing to show.
        if !command.starts_with("openssl ") {
            assert!(is_shown(&step.output, &printed), "{command}\nprints\n{printed}\nnot\n{}", step.output);
        }
    }

    fn starts(&mut self, file: &str) {
        if !SERVERS.contains(&file) {
            self.running.remove(&self.edge);
            file.clone_into(&mut self.edge);
        }
        let mut bootstrap = yaml(file);
        let mut listeners = Vec::new();
        bootstrap["admin"]["address"]["socket_address"]["port_value"] = json!(0);
        let resources = &mut bootstrap["static_resources"];
        for listener in resources["listeners"].as_array_mut().unwrap() {
            let address = &mut listener["address"]["socket_address"];
            let port = address["port_value"].as_u64().unwrap();
            *address = json!({ "address": "127.0.0.1", "port_value": 0 });
            listeners.push((listener["name"].as_str().expect("a name").to_owned(), port));
        }
        for cluster in resources["clusters"].as_array_mut().into_iter().flatten() {
            let endpoint = &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
            let port = &mut endpoint["address"]["socket_address"]["port_value"];
            *port = json!(self.ports[&port.as_u64().unwrap()]);
        }
        let key = self.shell.run("printenv PSEUDONYM_KEY").unwrap();
        let variables = [("PSEUDONYM_KEY", key.trim())];
        let envoy = Envoy::start_bootstrap(&bootstrap, self.folder.path(), &variables);
        let envoy = envoy.unwrap_or_else(|error| panic!("{file}: {error}"));
        for (name, port) in listeners {
            self.ports.insert(port, envoy.address(&name).unwrap().port());
        }
        self.running.insert(file.to_owned(), envoy);
    }

    /// The access log has this line.
    fn finds_line(&self, line: &str) {
        let envoy = &self.running[&self.edge];
        let found = wait_for("the line of the access log", || {
            envoy.output().lines().any(|written| is_shown(line, written)).then_some(())
        });
        found.unwrap_or_else(|error| panic!("{error}: {line}in\n{}", envoy.output()));
    }

    /// A span has these tags.
    fn finds_span(&self, tags: &str) {
        let has = |span: &envoy::Span, tag: &str| {
            let (name, value) = tag.split_once('=').expect("a tag and its value");
            span.attributes.get(name).is_some_and(|is| !is.is_empty() && is_shown(value, is))
        };
        let found = wait_for("the span", || {
            let spans = self.collector.spans();
            spans.iter().any(|span| tags.lines().all(|tag| has(span, tag))).then_some(())
        });
        found.unwrap_or_else(|error| panic!("{error}: {tags}in\n{:#?}", self.collector.spans()));
    }

    /// The filter that runs has said nothing of its configuration.
    fn sees_no_complaint(&self) {
        if let Some(envoy) = self.running.get(&self.edge) {
            let log = envoy.log();
            let complaint =
                log.lines().find(|line| line.contains("wasm log") && line.contains("configuration"));
            assert_eq!(complaint.filter(|line| line.contains("warning") || line.contains("error")), None);
        }
    }
}

#[test]
fn the_page_of_plain_envoy_does_what_it_says() {
    let mut reader = Reader::new();
    let page = read(PAGE);
    let mut started = BTreeSet::new();
    let mut shown = BTreeMap::new();
    for block in blocks(&page) {
        for step in block.steps() {
            reader.sees_no_complaint();
            reader.carries_out(&step);
            started.extend(reader.running.keys().cloned());
        }
        match block.language.as_str() {
            "json" => reader.finds_line(&block.text),
            "properties" => reader.finds_span(&block.text),
            _ => {}
        }
        *shown.entry(block.language).or_insert(0) += 1;
    }
    let files = fs::read_dir(root().join("examples/envoy")).unwrap().map(|entry| entry.unwrap().path());
    let bootstraps = files.filter(|file| file.extension().is_some_and(|kind| kind == "yaml"));
    let names =
        bootstraps.map(|file| format!("examples/envoy/{}", file.file_name().unwrap().to_str().unwrap()));
    let all: BTreeSet<String> = names.filter(|name| !name.ends_with("compose.yaml")).collect();
    assert_eq!(started, all, "the bootstraps that the page starts");
    assert!(shown["console"] > 6 && shown["json"] > 3 && shown["properties"] > 1, "{shown:?}");
}

/// Containers are not part of this test. What they run is.
#[test]
fn the_compose_file_runs_what_the_page_runs() {
    let compose = yaml("examples/envoy/compose.yaml");
    let page = read(PAGE);
    let versions = read("tools/versions");
    let envoy = versions.lines().find_map(|line| line.strip_prefix("ENVOY_DEFAULT=")).unwrap();
    assert!(page.contains(&format!(".tools/envoy/{envoy}:$PATH")), "the page has Envoy {envoy}");
    let mut run = Vec::new();
    for (name, service) in compose["services"].as_object().unwrap() {
        if name == "jaeger" {
            // The version that is tested in the mesh.
            let image = service["image"].as_str().unwrap();
            assert!(
                read("wasmplugin-manifests/overlays/observability/jaeger.yaml").contains(image),
                "{image}"
            );
            continue;
        }
        assert_eq!(service["image"], format!("envoyproxy/envoy:v{envoy}"), "{name}");
        let mount = service["volumes"][0].as_str().unwrap().split(':').collect::<Vec<_>>();
        assert_eq!([mount[0], mount[2]], ["../..", "ro"], "{name}");
        assert_eq!(service["working_dir"], mount[1], "{name}");
        let command: Vec<&str> =
            service["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        assert_eq!(command[..2], ["envoy", "-c"], "{name}");
        run.push(command[2].replace("${FILTER:-mesh-filters}", "mesh-filters"));
        if name != "envoy" {
            assert_eq!(service["network_mode"], "service:envoy", "{name}");
        }
    }
    let started: Vec<Step> = blocks(&page).iter().flat_map(Block::steps).collect();
    for file in &run {
        assert!(started.iter().any(|step| step.command.ends_with(&format!("-c {file} &"))), "{file}");
    }
    assert_eq!(run.len(), 3);
    let ports = &compose["services"]["envoy"]["ports"];
    assert!(
        ports.as_array().unwrap().iter().all(|port| port.as_str().unwrap().starts_with("127.0.0.1:")),
        "{ports}"
    );
}
