//! Runs the soak. The environment says how: `MINUTES`, `SEED`, `FORM` (`three`, `joined`, `native`, or all in
//! turn), `RATE` (requests a second), `BURST` (the most at once), `FAULT` (the name of a deliberate fault, or
//! `all`) and `FILTERS_DIR`.

#![allow(clippy::restriction)]

mod clients;
mod report;
mod servers;
mod sockets;
mod stage;
mod troubles;
mod wallet;
mod witnesses;

use std::collections::BTreeMap;
use std::env::var;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use envoy::{AccessLog, Bootstrap, Cluster, Envoy, HttpFilter, Listener, Tracing};
use soak::judge::{Judge, Kind, Record};
use soak::model::Place;
use soak::plan::{Fault, Form, Settings};
use tokio::runtime::Runtime;

use crate::clients::{Crowd, MANNERS};
use crate::report::Outcome;
use crate::servers::Servers;
use crate::stage::{Stage, lock};
use crate::troubles::{Director, Peers, deliver, plugins};
use crate::wallet::Wallet;
use crate::witnesses::Follower;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How a soak runs.
#[derive(Debug, Clone)]
struct Options {
    seed: u64,
    time: Duration,
    rate: f64,
    largest: usize,
    modules: PathBuf,
}

fn number<T: FromStr>(name: &str, default: T) -> Result<T> {
    match var(name).ok().filter(|text| !text.is_empty()) {
        Some(text) => Ok(text.parse().map_err(|_| format!("{name}={text} is not a number"))?),
        None => Ok(default),
    }
}

fn run() -> Result<bool> {
    let text = |name| var(name).ok().filter(|text: &String| !text.is_empty());
    let minutes = number("MINUTES", 10.0_f64)?;
    let seed = number("SEED", SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos().into())?;
    let forms = match text("FORM").as_deref() {
        None => Form::ALL.to_vec(),
        Some(name) => match Form::ALL.into_iter().find(|form| form.name() == name) {
            Some(form) => vec![form],
            None => return Err(format!("FORM={name}; expected three, joined or native").into()),
        },
    };
    let modules =
        text("FILTERS_DIR").map_or_else(|| cases::repository().join("target/filters"), PathBuf::from);
    let folder = cases::repository().join("target/soak");
    std::fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    let options = Options {
        seed,
        time: Duration::ZERO,
        rate: number("RATE", 150.0)?,
        largest: number("BURST", 1000)?,
        modules,
    };
    if let Some(name) = text("FAULT") {
        return faults(&name, forms[0], &options);
    }
    println!("soak: seed {seed}; repeat it with SEED={seed}");
    let parts = u32::try_from(forms.len())?;
    let options = Options { time: Duration::from_secs_f64(minutes * 60.0) / parts, ..options };
    let mut outcomes = Vec::new();
    for form in forms {
        outcomes.push(soak(form, None, &options)?);
    }
    let table = report::table(&outcomes);
    report::pictures(&folder, &outcomes)?;
    println!("{table}");
    let mut told = format!("seed {seed}\n\n{table}\n");
    let mut passed = true;
    for outcome in &outcomes {
        for finding in &outcome.judge.findings {
            let fails = finding.kind.fails(minutes < 5.0);
            passed &= !fails;
            let line = format!(
                "{}{}, {}: {}\n",
                if fails { "FAILED " } else { "" },
                report::form_name(outcome.form),
                finding.kind.name(),
                finding.text
            );
            told += &line;
        }
    }
    let file = folder.join("findings.txt");
    std::fs::write(&file, &told)?;
    if outcomes.iter().any(|outcome| !outcome.judge.findings.is_empty()) {
        println!("findings, with the seed, in {}:", file.display());
        let of_a_form = |line: &&str| {
            Form::ALL.iter().any(|form| line.contains(&format!("{}, ", report::form_name(*form))))
        };
        for line in told.lines().filter(of_a_form).take(20) {
            println!("{}", line.chars().take(300).collect::<String>());
        }
    }
    println!("pictures of memory and latency in {}", folder.display());
    println!("soak {}", if passed { "passed" } else { "FAILED" });
    Ok(passed)
}

/// Soaks with deliberate faults: each must end in its finding.
fn faults(name: &str, form: Form, options: &Options) -> Result<bool> {
    let wanted = |(_, known, _): &&(Fault, &str, &str)| name == "all" || name == *known;
    let faults: Vec<_> = Fault::ALL.iter().filter(wanted).collect();
    if faults.is_empty() {
        let known: Vec<_> = Fault::ALL.iter().map(|(_, name, _)| *name).collect();
        return Err(format!("FAULT={name}; expected all or one of {}", known.join(", ")).into());
    }
    let mut all = true;
    for (fault, name, expected) in faults {
        let time = Duration::from_secs(if *fault == Fault::StaleFetchedKey { 40 } else { 12 });
        let outcome = soak(form, Some(*fault), &Options { time, ..options.clone() })?;
        let found = Kind::ALL.iter().find(|kind| kind.name() == *expected);
        let count = found.and_then(|kind| outcome.judge.counts.get(kind)).copied().unwrap_or(0);
        println!("{} {name}: {expected} {count}", if count > 0 { "found  " } else { "MISSED " });
        all &= count > 0;
    }
    Ok(all)
}

/// How long what is not answered is waited for at the end.
const LAST: Duration = Duration::from_secs(25);

fn soak(form: Form, fault: Option<Fault>, options: &Options) -> Result<Outcome> {
    let stage = Arc::new(Stage::new(options.seed, form, fault));
    let runtime = Runtime::new()?;
    let servers = Servers::start(&stage, runtime.handle())?;
    let peers = Peers {
        issuer: servers.issuer.address(),
        list: servers.list.address(),
        limits: servers.limits.address(),
    };
    let first = Settings::of(options.seed, 1);
    {
        let mut world = stage.world();
        world.keys.set(Duration::ZERO, vec!["rsa-1", "ec-1"]);
        world.revoked.set(Duration::ZERO, vec![11]);
        deliver(&mut world, first.clone(), Duration::ZERO);
    }
    let first_plugins = plugins(&first, form, fault, &options.modules)?;
    let envoy = Envoy::start(&bootstrap(&servers, peers, &first), &[listener(first_plugins.clone())], 4)?;
    let (proxy, process) = (envoy.address("soak")?, envoy.id());
    let (access_log, log) = (envoy.access_log_file(), envoy.log_file());
    let name = format!("{}-{}", report::form_name(form).replace(' ', "-"), options.seed);
    let kept = cases::repository().join("target/soak").join(name);
    let logs = [
        (log.clone(), kept.with_extension("log")),
        (log.with_file_name("output"), kept.with_extension("output")),
    ];
    if let Some(version) = stage.world().versions.last_mut() {
        version.taken = Some(stage.now());
    }
    let envoy = Arc::new(Mutex::new(envoy));
    let crowd = Crowd { stage: Arc::clone(&stage), wallet: Arc::new(Wallet::default()), proxy };
    let pause = Duration::from_secs_f64(count(MANNERS.len()) / options.rate.max(1.0));
    let walks: Vec<_> = (0_u64..)
        .zip(MANNERS)
        .map(|(part, manner)| runtime.spawn(crowd.clone().walk(manner, part, pause)))
        .collect();
    let director = Director {
        stage: Arc::clone(&stage),
        envoy: Arc::clone(&envoy),
        crowd,
        runtime: runtime.handle().clone(),
        modules: options.modules.clone(),
        version: 1,
        in_force: first_plugins.iter().map(|p| (p.name.clone(), p.configuration.clone())).collect(),
        largest: options.largest,
        peers,
        lost: None,
        problems: Vec::new(),
    };
    let director = std::thread::spawn(move || director.run());

    let mut watch = Watch {
        stage: Arc::clone(&stage),
        process,
        access_log: Follower::new(access_log),
        log: Follower::new(log),
        judge: Judge::new(form),
        judged: 0,
        details: BTreeMap::new(),
        memory: Vec::new(),
    };
    let begin = stage.now();
    while stage.now() < begin + options.time && !watch.failed() {
        sleep(Duration::from_millis(250));
        watch.look(&servers);
    }
    stage.end();
    let patience = stage.now() + LAST;
    while !(director.is_finished() && walks.iter().all(tokio::task::JoinHandle::is_finished))
        && stage.now() < patience + LAST
    {
        sleep(Duration::from_millis(100));
        watch.look(&servers);
    }
    let director = director.join().map_err(|_| "the thread of the troubles panicked")?;
    runtime.shutdown_timeout(Duration::from_secs(1));
    let quiet = stage.now() + Duration::from_secs(7);
    while !stage.open().is_empty() && stage.now() < quiet && !watch.failed() {
        sleep(Duration::from_millis(250));
        watch.look(&servers);
    }
    let finished = watch.finish(&lock(&envoy), &servers);
    for (written, kept) in logs {
        std::fs::copy(written, kept)?;
    }
    finished?;
    for problem in director.problems {
        watch.judge.find(Kind::WrongAnswer, problem);
    }
    let latencies = lock(&stage.latencies);
    let latency = report::by_second(&latencies);
    let summary = report::summary(latencies.iter().map(|(_, took)| *took));
    drop(latencies);
    Ok(Outcome {
        form,
        judge: watch.judge,
        requests: watch.judged,
        versions: director.version,
        memory: watch.memory,
        latency,
        summary,
    })
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::MAX, f64::from)
}

fn bootstrap(servers: &Servers, peers: Peers, first: &Settings) -> Bootstrap {
    let mut clusters = vec![
        Cluster { http2: true, ..Cluster::new("service", servers.service.address()) },
        Cluster::new("sockets", servers.sockets.address()),
        Cluster::new("collector", servers.spans.address()),
    ];
    clusters.extend(peers.clusters(first, None));
    Bootstrap { clusters, ..Bootstrap::default() }
}

fn listener(plugins: Vec<envoy::Wasm>) -> Listener {
    let mut listener = Listener::new("soak", "service", plugins.into_iter().map(HttpFilter::Wasm).collect());
    let state = ["ratelimit.limit", "tag.user.id", "tag.config.version"];
    listener.access_log = AccessLog { filter_state: state.map(str::to_owned).to_vec() };
    let tags = [("soak.path", "%REQ(:PATH)%"), ("user.id", "%FILTER_STATE(wasm.tag.user.id:PLAIN)%")];
    listener.websockets = Some((Place::Socket.prefix().to_owned(), "sockets".to_owned()));
    listener.tracing = Some(Tracing {
        cluster: "collector".to_owned(),
        service: "soak".to_owned(),
        custom_tags: tags.iter().map(|(tag, value)| ((*tag).to_owned(), (*value).to_owned())).collect(),
    });
    listener
}

/// Watches the proxy and has each request judged.
struct Watch {
    stage: Arc<Stage>,
    process: u32,
    access_log: Follower,
    log: Follower,
    judge: Judge,
    judged: u64,
    details: BTreeMap<String, u64>,
    memory: Vec<(f64, f64)>,
}

impl Watch {
    /// Whether a VM has failed: what comes then says nothing more.
    fn failed(&self) -> bool {
        self.judge.counts.contains_key(&Kind::VmFailure)
    }

    fn look(&mut self, servers: &Servers) {
        witnesses::access_log(&self.stage, &mut self.access_log, &mut self.details);
        witnesses::spans(&self.stage, &servers.spans);
        for line in witnesses::failures(&mut self.log) {
            self.judge.find(Kind::VmFailure, line);
        }
        let now = self.stage.now();
        if witnesses::memory(self.process).is_none() && !self.failed() {
            self.judge.find(Kind::VmFailure, "the proxy ended; its log and output are kept".to_owned());
        }
        if self.memory.last().is_none_or(|(at, _)| now.as_secs_f64() >= at + 1.0) {
            let memory = witnesses::memory(self.process);
            self.memory.extend(memory.map(|megabytes| (now.as_secs_f64(), megabytes)));
        }
        // What the service has yet to get of a client that left, and the span, may take a while.
        self.judge_those(|record| {
            let end = record.socket.as_ref().map_or(record.ask.done, |socket| socket.closed);
            let since = now.saturating_sub(end);
            let wait = if record.gave_up { 1 } else { 3 };
            let whole = record.logged.is_some() || since > Duration::from_secs(15);
            record.ask.done < now && since > Duration::from_secs(wait) && whole
        });
    }

    fn judge_those(&mut self, ready: impl Fn(&Record) -> bool) {
        let ready: Vec<Record> =
            self.stage.open().extract_if(|_, record| ready(record)).map(|(_, r)| r).collect();
        if ready.is_empty() {
            return;
        }
        let world = self.stage.world().clone();
        for record in ready {
            self.judged += 1;
            self.judge.judge(&record, &world);
        }
    }

    /// The last look, and what only the whole shows.
    fn finish(&mut self, envoy: &Envoy, servers: &Servers) -> Result<()> {
        self.look(servers);
        let now = self.stage.now();
        for record in self.stage.open().values_mut().filter(|record| record.ask.done == Duration::MAX) {
            record.ask.done = now;
        }
        self.judge_those(|_| true);
        if self.failed() {
            return Ok(());
        }
        self.judge.judge_limits();
        let stats = envoy.stats()?;
        let stat = |name: &str| stats.get(name).copied().unwrap_or(0);
        let open = stat("http.soak.downstream_rq_active");
        if open > 0 {
            self.judge.find(Kind::OpenStreams, format!("{open} requests are open"));
        }
        let logged = |prefix: &str| {
            self.details
                .iter()
                .filter(|(name, _)| name.starts_with(prefix))
                .map(|(_, count)| count)
                .sum::<u64>()
        };
        let left = logged("downstream_") + logged("http2.");
        let mut pairs = vec![
            ("wasmcustom.jwt_auth_requests_denied".to_owned(), logged("jwt_auth_")),
            ("wasmcustom.rate_limit_requests_denied".to_owned(), logged("rate_limit_")),
        ];
        for (name, count) in &self.details {
            if let Some(code) = name.strip_prefix("jwt_auth_") {
                pairs.push((format!("wasmcustom.jwt_auth_deny_{code}"), *count));
            }
        }
        for (name, logged) in pairs {
            let counted = stat(&name);
            // The log of a client that left does not say what else it would have got.
            if counted < logged || counted > logged + left {
                self.judge
                    .find(Kind::Counters, format!("{name} is {counted}, and the access log has {logged}"));
            }
        }
        let quarter = self.memory.len() / 4;
        if quarter >= 60 {
            let mean =
                |points: &[(f64, f64)]| points.iter().map(|(_, mb)| mb).sum::<f64>() / count(points.len());
            let (early, late) = (mean(&self.memory[quarter..2 * quarter]), mean(&self.memory[3 * quarter..]));
            if late > early * 1.2 + 8.0 {
                self.judge.find(Kind::Memory, format!("from {early:.0} MB to {late:.0} MB"));
            }
        }
        Ok(())
    }
}
