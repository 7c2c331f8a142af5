//! Envoy as a process: with one listener for each variant, plainly or under callgrind.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Result;
use crate::load;
use crate::variants::Variant;

/// A running Envoy; killed when it is dropped.
pub(crate) struct Proxy {
    child: Child,
    folder: TempDir,
    ports: HashMap<String, u16>,
    started: Instant,
    /// From the start of the process until it serves.
    pub(crate) started_in: Duration,
}

impl Proxy {
    /// Starts Envoy at `binary` with a listener for each of `variants`.
    pub(crate) async fn start(binary: &Path, variants: &[&Variant], workers: usize) -> Result<Self> {
        Self::launch(Command::new(binary), variants, workers)?.ready().await
    }

    /// The same with every instruction counted, once counting is switched on. It has yet to become
    /// [`Proxy::ready`].
    pub(crate) fn start_counted(binary: &Path, variants: &[&Variant]) -> Result<Self> {
        let mut command = Command::new("valgrind");
        // Wasm is compiled at run time: code may change under the feet of valgrind.
        command.args(["--tool=callgrind", "--smc-check=all-non-file", "--instr-atstart=no"]);
        command.arg("--callgrind-out-file=callgrind.out").arg(binary);
        Self::launch(command, variants, 1)
    }

    fn launch(mut command: Command, variants: &[&Variant], workers: usize) -> Result<Self> {
        let folder = TempDir::new()?;
        fs::write(folder.path().join("envoy.json"), bootstrap(variants).to_string())?;
        let log = fs::File::create(folder.path().join("log"))?;
        command.args([
            "--config-path",
            "envoy.json",
            "--admin-address-path",
            "admin",
            "--use-dynamic-base-id",
        ]);
        command.args(["--log-level", "warn", "--concurrency", &workers.to_string()]);
        command.current_dir(folder.path()).stdout(log.try_clone()?).stderr(log).stdin(Stdio::null());
        let started = Instant::now();
        let child =
            command.spawn().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        Ok(Self { child, folder, ports: HashMap::new(), started, started_in: Duration::ZERO })
    }

    /// Waits until it serves.
    pub(crate) async fn ready(mut self) -> Result<Self> {
        let admin = self.wait_until_ready().await?;
        let listeners: Value = serde_json::from_slice(&load::get(&admin, "/listeners?format=json").await?)?;
        for listener in listeners["listener_statuses"].as_array().into_iter().flatten() {
            let name = listener["name"].as_str().unwrap_or_default().to_owned();
            let port = listener["local_address"]["socket_address"]["port_value"].as_u64().unwrap_or_default();
            self.ports.insert(name, u16::try_from(port)?);
        }
        Ok(self)
    }

    async fn wait_until_ready(&mut self) -> Result<String> {
        let admin = self.folder.path().join("admin");
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("Envoy ended ({status}):\n{}", self.log()).into());
            }
            if self.started.elapsed() > Duration::from_mins(5) {
                return Err(format!("Envoy was not ready after five minutes:\n{}", self.log()).into());
            }
            if let Ok(address) = fs::read_to_string(&admin)
                && load::get(&address, "/ready").await.is_ok()
            {
                self.started_in = self.started.elapsed();
                return Ok(address);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Fails where Envoy has logged an error. A VM that could not start lets requests pass without its
    /// filter, which would look fast.
    pub(crate) fn check(&self) -> Result<()> {
        let log = self.log();
        if log.contains("[error]") {
            Err(format!("Envoy has logged an error:\n{log}").into())
        } else {
            Ok(())
        }
    }

    /// The end of Envoy's log.
    fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        log.get(log.len().saturating_sub(2000)..).unwrap_or(&log).to_owned()
    }

    pub(crate) fn port(&self, variant: &Variant) -> Result<u16> {
        Ok(*self
            .ports
            .get(&variant.name)
            .ok_or_else(|| format!("{}: no listener\n{}", variant.name, self.log()))?)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// CPU time that all threads have used.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.id()))? {
            let usage = fs::read_to_string(thread?.path().join("schedstat"))?;
            nanoseconds += usage.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Resident memory in kilobytes, without the pages of files: how many of the binary's are there is a
    /// matter of the machine.
    pub(crate) fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).ok_or("no RssAnon")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const TYPE: &str = "type.googleapis.com/envoy.extensions.filters";

fn bootstrap(variants: &[&Variant]) -> Value {
    let loopback = json!({ "socket_address": { "address": "127.0.0.1", "port_value": 0 } });
    let listeners: Vec<Value> = variants
        .iter()
        .map(|variant| {
            let mut filters = variant.filters.clone();
            filters.push(json!({
                "name": "router",
                "typed_config": { "@type": format!("{TYPE}.http.router.v3.Router") },
            }));
            let answer = match variant.upstream {
                None => json!({ "match": { "prefix": "/" }, "direct_response": { "status": 200 } }),
                Some(_) => json!({ "match": { "prefix": "/" }, "route": { "cluster": variant.name } }),
            };
            json!({
                "name": variant.name,
                "address": loopback,
                "filter_chains": [{ "filters": [{
                    "name": "http",
                    "typed_config": {
                        "@type": format!("{TYPE}.network.http_connection_manager.v3.HttpConnectionManager"),
                        "stat_prefix": "bench",
                        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [answer] }] },
                        "http_filters": filters,
                    },
                }] }],
            })
        })
        .collect();
    let clusters: Vec<Value> = variants
        .iter()
        .filter_map(|variant| Some((&variant.name, variant.upstream?)))
        .map(|(name, port)| {
            json!({
                "name": name,
                "type": "STATIC",
                "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [{ "endpoint": {
                    "address": { "socket_address": { "address": "127.0.0.1", "port_value": port } },
                } }] }] },
            })
        })
        .collect();
    json!({
        "admin": { "address": loopback },
        // Flushing statistics would be counted too.
        "stats_flush_interval": "299s",
        "static_resources": { "listeners": listeners, "clusters": clusters },
    })
}
