use crate::config::{Delivery, HttpFilter, Paths, Wasm, listeners};
use crate::{Bootstrap, ClientError, Cluster, Daemon, Listener, Request, TimedOut, wait_for};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::{env, fs, io};

/// Holds the version that is used unless `ENVOY_VERSION` says otherwise.
const VERSIONS: &str = include_str!("../../../tools/versions");

/// How many lines of Envoy's log a failure shows.
const TAIL: usize = 40;

/// Envoy did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no binary at the place where it should be.
    #[error("no Envoy at {0}: run `tools/install envoy`, or name a binary in ENVOY_BIN")]
    NoBinary(PathBuf),
    /// The operating system refused a file or a process.
    #[error("files or process of Envoy: {0}")]
    Io(#[from] io::Error),
    /// Envoy ended by itself; its log says why.
    #[error("Envoy ended; its log:\n{0}")]
    Ended(String),
    /// Envoy refused a configuration; the last good one is in force. Holds what it logged meanwhile.
    #[error("Envoy refused the configuration; its log:\n{0}")]
    Refused(String),
    /// An answer of the admin port was late or made no sense.
    #[error("admin port: {0}")]
    Admin(String),
    /// Something did not happen in time.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        Error::Admin(error.to_string())
    }
}

/// The binary that [`Envoy::start`] runs: `$ENVOY_BIN`, else `.tools/envoy/$ENVOY_VERSION/envoy`, in the
/// version of `tools/versions` unless said.
pub fn binary() -> Result<PathBuf, Error> {
    let path = if let Some(path) = env::var_os("ENVOY_BIN").filter(|path| !path.is_empty()) {
        PathBuf::from(path)
    } else {
        let version = env::var("ENVOY_VERSION").ok().filter(|version| !version.is_empty());
        let default = VERSIONS.lines().find_map(|line| line.strip_prefix("ENVOY_DEFAULT="));
        let version = version.as_deref().or(default).unwrap_or_default();
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        Path::new(root).join(".tools/envoy").join(version).join("envoy")
    };
    if path.is_file() { Ok(path) } else { Err(Error::NoBinary(path)) }
}

/// A running Envoy. Dropping it ends the process and removes its files; while its thread panics, the end of
/// its log is printed first.
#[derive(Debug)]
pub struct Envoy {
    daemon: Daemon,
    admin: SocketAddr,
    version: u64,
}

impl Envoy {
    /// Starts Envoy with that many workers and waits until it serves the listeners.
    pub fn start(bootstrap: &Bootstrap, initial: &[Listener], workers: usize) -> Result<Self, Error> {
        let binary = binary()?;
        let mut envoy = Self::launch(|folder| command(&binary, folder, bootstrap, initial, workers))?;
        envoy.wait("Envoy's readiness", |envoy| {
            let ready = envoy.admin("GET", "/ready").is_ok_and(|state| state.trim() == "LIVE");
            (ready && envoy.settled(1)).then_some(())
        })?;
        envoy.check_accepted(0, 0)?;
        envoy.wait_for_listeners(initial)?;
        Ok(envoy)
    }

    /// Starts Envoy in a folder, with a whole bootstrap and variables, and waits until it serves. Its admin
    /// port must be 0.
    pub fn start_bootstrap(
        bootstrap: &Value,
        working_directory: &Path,
        variables: &[(&str, &str)],
    ) -> Result<Self, Error> {
        let binary = binary()?;
        let mut envoy = Self::launch(|folder| {
            write_json(folder, BOOTSTRAP, bootstrap)?;
            let mut command = run(&binary, folder);
            command.current_dir(working_directory).envs(variables.iter().copied());
            Ok(command)
        })?;
        envoy.wait("Envoy's readiness", |envoy| {
            envoy.admin("GET", "/ready").is_ok_and(|state| state.trim() == "LIVE").then_some(())
        })?;
        Ok(envoy)
    }

    fn launch(command: impl FnOnce(&Path) -> io::Result<Command>) -> Result<Self, Error> {
        let daemon = Daemon::start("envoy", command)?;
        let mut envoy = Self { daemon, admin: SocketAddr::from(([127, 0, 0, 1], 0)), version: 1 };
        envoy.admin = envoy.wait("Envoy's admin port", |envoy| {
            fs::read_to_string(envoy.folder().join("admin")).ok()?.trim().parse().ok()
        })?;
        Ok(envoy)
    }

    /// Replaces all listeners. Those with a new name get a new port; those that are gone drain.
    pub fn set_listeners(&mut self, listeners: &[Listener]) -> Result<(), Error> {
        let log = self.log_length();
        let before = self.stats()?;
        let refused = refusals(&before);
        self.version += 1;
        for wasm in discovered(listeners) {
            write_json(self.folder(), &wasm.discovery_file(), &wasm.discovery(self.version))?;
        }
        write_json(
            self.folder(),
            LISTENERS,
            &crate::config::listeners(self.version, listeners, &paths(self.folder())),
        )?;
        let updates = attempts(&before) + 1;
        self.wait("the new listeners", |envoy| envoy.settled(updates).then_some(()))?;
        self.check_accepted(refused, log)?;
        self.wait_for_listeners(listeners)
    }

    /// Replaces all clusters that come by file; the bootstrap must have had one.
    pub fn set_clusters(&mut self, clusters: &[Cluster]) -> Result<(), Error> {
        let outcomes = |stats: &BTreeMap<String, u64>| {
            let of = |outcome: &str| count(stats, &format!("cluster_manager.cds.{outcome}"));
            (of("update_success"), of("update_rejected") + of("update_failure"))
        };
        let log = self.log_length();
        let (taken, refused) = outcomes(&self.stats()?);
        self.version += 1;
        write_json(self.folder(), CLUSTERS, &crate::config::clusters(self.version, clusters.iter()))?;
        let was_refused = self.wait("the new clusters", |envoy| {
            let (now_taken, now_refused) = outcomes(&envoy.stats().ok()?);
            (now_taken > taken || now_refused > refused).then_some(now_refused > refused)
        })?;
        if was_refused { Err(self.refusal(log)) } else { Ok(()) }
    }

    /// Has it end by SIGTERM, as Kubernetes does, and waits for that.
    pub fn terminate(&mut self) -> Result<ExitStatus, Error> {
        let sent = Command::new("kill").args(["-TERM", &self.id().to_string()]).status()?;
        if !sent.success() {
            return Err(Error::Io(io::Error::other("SIGTERM was not sent")));
        }
        Ok(wait_for("Envoy's end", || self.daemon.exit_status())?)
    }

    /// Delivers a new configuration to one plugin of [`Delivery::Discovery`].
    /// [`Error::Refused`] means that the last good configuration stays in force.
    pub fn reconfigure(&mut self, wasm: &Wasm) -> Result<(), Error> {
        let log = self.log_length();
        let outcomes = |stats: &BTreeMap<String, u64>| {
            let of = |outcome: &str| {
                count(stats, &format!("extension_config_discovery.http_filter.{}.{outcome}", wasm.name))
            };
            (of("config_reload"), of("config_fail") + of("update_rejected") + of("update_failure"))
        };
        let (reloaded, refused) = outcomes(&self.stats()?);
        self.version += 1;
        write_json(self.folder(), &wasm.discovery_file(), &wasm.discovery(self.version))?;
        let was_refused = self.wait("the plugin's new configuration", |envoy| {
            let (now_reloaded, now_refused) = outcomes(&envoy.stats().ok()?);
            (now_reloaded > reloaded || now_refused > refused).then_some(now_refused > refused)
        })?;
        if was_refused { Err(self.refusal(log)) } else { Ok(()) }
    }

    /// Where a listener accepts connections.
    pub fn address(&self, listener: &str) -> Result<SocketAddr, Error> {
        self.find_address(listener)?.ok_or_else(|| Error::Admin(format!("no listener {listener}")))
    }

    /// Where the admin interface listens.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// The body of an admin page.
    pub fn admin(&self, method: &str, path: &str) -> Result<String, Error> {
        let response = Request::new(method, path).send(self.admin)?;
        Ok(String::from_utf8_lossy(&response.body).into_owned())
    }

    /// Counters and gauges. Those of plugins are named `wasmcustom.<name>`.
    pub fn stats(&self) -> Result<BTreeMap<String, u64>, Error> {
        let text = self.admin("GET", "/stats?type=All&usedonly")?;
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(": "))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect())
    }

    /// The access log so far, one JSON object a request.
    pub fn access_log(&self) -> Vec<Value> {
        self.access_log_since(0)
    }

    /// Bytes of access log so far: a mark for [`Envoy::access_log_since`].
    pub fn access_log_length(&self) -> u64 {
        length(&paths(self.folder()).access_log)
    }

    /// The access log from a mark on.
    pub fn access_log_since(&self, mark: u64) -> Vec<Value> {
        let text = read_from(&paths(self.folder()).access_log, mark);
        // The last line may still be under way.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for the access log's entry of the request that was sent from this local port, the latest if the
    /// port was used more than once.
    pub fn access_log_entry(&self, client_port: u16) -> Result<Value, Error> {
        self.access_log_entry_since(0, client_port)
    }

    /// The same, but not of a request before the mark: ports are used again.
    pub fn access_log_entry_since(&self, mark: u64, client_port: u16) -> Result<Value, Error> {
        let of_port = |entry: &Value| entry["client_port"] == client_port;
        let entry = || self.access_log_since(mark).into_iter().rev().find(of_port);
        Ok(wait_for(&format!("access log entry of client port {client_port}"), entry)?)
    }

    /// Where the access log is written, for a reader that follows it.
    pub fn access_log_file(&self) -> PathBuf {
        paths(self.folder()).access_log
    }

    /// What it has printed: an access log that goes to `/dev/stdout`.
    pub fn output(&self) -> String {
        self.daemon.output()
    }

    /// Where Envoy's own log is written.
    pub fn log_file(&self) -> PathBuf {
        self.folder().join(LOG)
    }

    /// Envoy's own log so far, the plugins' lines among it.
    pub fn log(&self) -> String {
        self.log_since(0)
    }

    /// Bytes of log so far: a mark for [`Envoy::log_since`].
    pub fn log_length(&self) -> u64 {
        length(&self.folder().join(LOG))
    }

    /// The log from a mark on.
    pub fn log_since(&self, mark: u64) -> String {
        read_from(&self.folder().join(LOG), mark)
    }

    /// The end of the log, for a failure's report.
    pub fn log_tail(&self) -> String {
        tail(&self.log())
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.daemon.id()
    }

    fn folder(&self) -> &Path {
        self.daemon.folder()
    }

    fn find_address(&self, listener: &str) -> Result<Option<SocketAddr>, Error> {
        let text = self.admin("GET", "/listeners?format=json")?;
        let all: Value = serde_json::from_str(&text).map_err(|error| Error::Admin(error.to_string()))?;
        let statuses = all["listener_statuses"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(statuses.iter().find(|status| status["name"] == listener).and_then(|status| {
            let socket = &status["local_address"]["socket_address"];
            let port = u16::try_from(socket["port_value"].as_u64()?).ok()?;
            Some(SocketAddr::new(socket["address"].as_str()?.parse().ok()?, port))
        }))
    }

    /// Has Envoy taken or refused that many deliveries of listeners?
    fn settled(&self, updates: u64) -> bool {
        self.stats().is_ok_and(|stats| attempts(&stats) >= updates)
    }

    fn check_accepted(&self, refused: u64, log: u64) -> Result<(), Error> {
        if refusals(&self.stats()?) > refused {
            return Err(self.refusal(log));
        }
        Ok(())
    }

    /// The refusal with what was logged about it: Envoy counts first, and its log reaches the file a little
    /// later.
    fn refusal(&self, log: u64) -> Error {
        let told = || {
            let text = self.log_since(log);
            ["config update rejected", "config update failure"]
                .iter()
                .any(|last| text.contains(last))
                .then_some(text)
        };
        wait_for("the log of a refusal", told).map_or_else(Error::from, Error::Refused)
    }

    fn wait_for_listeners(&mut self, listeners: &[Listener]) -> Result<(), Error> {
        for listener in listeners {
            let what = format!("listener {}", listener.name);
            self.wait(&what, |envoy| envoy.find_address(&listener.name).ok()?)?;
        }
        Ok(())
    }

    /// Waits, but not for a dead process.
    fn wait<T>(&mut self, what: &str, mut poll: impl FnMut(&Self) -> Option<T>) -> Result<T, Error> {
        let mut ended = false;
        let waited = wait_for(what, || {
            ended = self.daemon.has_ended();
            if ended { Some(None) } else { poll(self).map(Some) }
        });
        match waited {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(Error::Ended(self.log_tail())),
            Err(late) => {
                eprintln!("{late}; end of Envoy's log:\n{}", self.log_tail());
                Err(late.into())
            }
        }
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- end of Envoy's log ---\n{}\n---", self.log_tail());
        }
    }
}

const BOOTSTRAP: &str = "envoy.json";
const LISTENERS: &str = "listeners.json";
const CLUSTERS: &str = "clusters.json";
const LOG: &str = "envoy.log";

/// Writes the first configuration, and says how to start Envoy with it.
fn command(
    binary: &Path,
    folder: &Path,
    bootstrap: &Bootstrap,
    initial: &[Listener],
    workers: usize,
) -> io::Result<Command> {
    let file = bootstrap.to_json(&folder.join(LISTENERS), &folder.join(CLUSTERS));
    write_json(folder, BOOTSTRAP, &file)?;
    write_json(folder, CLUSTERS, &crate::config::clusters(1, bootstrap.discovered()))?;
    for wasm in discovered(initial) {
        write_json(folder, &wasm.discovery_file(), &wasm.discovery(1))?;
    }
    write_json(folder, LISTENERS, &listeners(1, initial, &paths(folder)))?;
    let mut command = run(binary, folder);
    command
        .args(["--concurrency", &workers.to_string()])
        // As Istio's agent starts it. Native modules see their node by nothing else.
        .args(["--service-node", &bootstrap.node.id(), "--service-cluster", &bootstrap.node.cluster])
        .env("ISTIO_METAJSON_LABELS", serde_json::json!(bootstrap.node.labels).to_string());
    Ok(command)
}

/// Envoy with the bootstrap in its folder.
fn run(binary: &Path, folder: &Path) -> Command {
    let mut command = Command::new(binary);
    command
        .arg("-c")
        .arg(folder.join(BOOTSTRAP))
        .arg("--admin-address-path")
        .arg(folder.join("admin"))
        .arg("--log-path")
        .arg(folder.join(LOG))
        .args(["--log-level", "info", "--component-log-level", "wasm:debug,dynamic_modules:debug"])
        .args(["--file-flush-interval-msec", "5", "--drain-time-s", "1", "--disable-hot-restart"]);
    command
}

fn paths(folder: &Path) -> Paths {
    Paths { access_log: folder.join("access.log"), folder: folder.to_owned() }
}

fn discovered(listeners: &[Listener]) -> impl Iterator<Item = &Wasm> {
    listeners.iter().flat_map(|listener| &listener.filters).filter_map(|filter| match filter {
        HttpFilter::Wasm(wasm) if wasm.delivery == Delivery::Discovery => Some(wasm),
        _ => None,
    })
}

/// Envoy watches for files that are moved into place.
fn write_json(folder: &Path, name: &str, value: &Value) -> io::Result<()> {
    let draft = folder.join(format!("{name}.draft"));
    fs::write(&draft, value.to_string())?;
    fs::rename(draft, folder.join(name))
}

fn length(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |data| data.len())
}

/// The text of a file from a position on, empty while there is no file.
fn read_from(file: &Path, position: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(file)?;
        file.seek(SeekFrom::Start(position))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

fn count(stats: &BTreeMap<String, u64>, name: &str) -> u64 {
    stats.get(name).copied().unwrap_or_default()
}

/// Deliveries of listeners that Envoy did not take: those that it refused, and those that were no
/// configuration at all.
fn refusals(stats: &BTreeMap<String, u64>) -> u64 {
    count(stats, "listener_manager.lds.update_rejected") + count(stats, "listener_manager.lds.update_failure")
}

fn attempts(stats: &BTreeMap<String, u64>) -> u64 {
    count(stats, "listener_manager.lds.update_success") + refusals(stats)
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
