//! Sends generated requests to all hosts and compares what they do. The environment says how: `SEED`, `CONFIGURATIONS` and
//! `REQUESTS` (of each configuration), and `HOSTS` (some of `envoy,native,mock,command-line`; the first is what the others are
//! compared with).
#![allow(clippy::restriction)]

use std::collections::BTreeMap;
use std::env::var;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use cases::{Case, EnvoyHost, Form, Host, Minted, Observed};
use differential::{CommandLine, Difference, Generator, MockHost, compare, shrink};
use serde_json::Value;

/// How many configurations are decided at once: each has an Envoy of its own.
const THREADS: u64 = 2;

/// How often a difference is tried again with less.
const TRIES: u32 = 300;

fn number(name: &str, usual: u64) -> u64 {
    var(name).ok().filter(|text| !text.is_empty()).map_or(usual, |text| text.parse().expect(name))
}

fn hosts() -> Vec<Box<dyn Host>> {
    let names = var("HOSTS").ok().filter(|names| !names.is_empty());
    let names = names.unwrap_or_else(|| "envoy,native,mock,command-line".to_owned());
    let host = |name: &str| -> Box<dyn Host> {
        match name {
            "envoy" => Box::new(EnvoyHost::new(1, Form::Wasm)),
            "native" => Box::new(EnvoyHost::new(1, Form::Native(&[]))),
            "mock" => Box::new(MockHost { workers: 1 }),
            "command-line" => Box::new(CommandLine::default()),
            other => panic!("HOSTS: {other:?} is not a host"),
        }
    };
    names.split(',').map(host).collect()
}

/// What became of the scenarios.
#[derive(Debug, Default)]
struct Tally {
    accepted: u64,
    refused: u64,
    statuses: BTreeMap<u16, u64>,
    differences: u64,
}

fn main() -> ExitCode {
    if let Some(file) = var("FILE").ok().filter(|file| !file.is_empty()) {
        return replay(Path::new(&file));
    }
    let seed = number("SEED", SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
    let (configurations, requests) = (number("CONFIGURATIONS", 200), number("REQUESTS", 500));
    let (next, tally, begun) = (AtomicU64::new(0), Mutex::new(Tally::default()), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let hosts = hosts();
                loop {
                    let scenario = next.fetch_add(1, Ordering::Relaxed);
                    if scenario >= configurations {
                        return;
                    }
                    run(seed, scenario, requests, &hosts, &tally);
                    if (scenario + 1) % (configurations / 10).max(1) == 0 {
                        println!(
                            "{} of {configurations} configurations, {:.0} s",
                            scenario + 1,
                            begun.elapsed().as_secs_f64()
                        );
                    }
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap();
    println!(
        "{} configurations, {} of them refused, {} requests, {:.0} s, seed {seed}",
        tally.accepted + tally.refused,
        tally.refused,
        tally.statuses.values().sum::<u64>(),
        begun.elapsed().as_secs_f64()
    );
    let statuses = tally.statuses.iter().map(|(status, count)| format!("{status}: {count}"));
    println!("statuses: {}", statuses.collect::<Vec<_>>().join(", "));
    println!("{} differences", tally.differences);
    if tally.differences == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(seed: u64, scenario: u64, requests: u64, hosts: &[Box<dyn Host>], tally: &Mutex<Tally>) {
    // Each scenario has a seed of its own, so that one of them can be had alone.
    let mut generator = Generator::new(seed.wrapping_add(scenario.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let requests = usize::try_from(requests).unwrap();
    let file = generator.scenario(requests, |file| {
        let case = read(file).expect("a generated case");
        let observed = Minted::new(&case).and_then(|case| case.observe(&CommandLine::default()));
        match observed.expect("a decision") {
            Observed::Refused(log) => Some(log),
            Observed::Accepted { .. } => None,
        }
    });
    let case = read(&file).expect("a generated case");
    let minted = Minted::new(&case).expect("generated tokens");
    let first = minted.observe(&*hosts[0]);
    {
        let mut tally = tally.lock().unwrap();
        match &first {
            Ok(Observed::Accepted { exchanges, .. }) => {
                tally.accepted += 1;
                for exchange in exchanges {
                    *tally.statuses.entry(exchange.response.status).or_default() += 1;
                }
            }
            Ok(Observed::Refused(_)) => tally.refused += 1,
            Err(error) => {
                let name = hosts[0].name();
                println!("scenario {scenario}: {name} fails: {error}");
                tally.differences += 1;
                return;
            }
        }
    }
    let Ok(first) = first else { return };
    for host in &hosts[1..] {
        let (file, told) = match minted.observe(&**host) {
            Ok(observed) => {
                let Some(difference) = compare(&first, &observed) else { continue };
                let (file, difference) = smaller(file.clone(), difference, &*hosts[0], &**host);
                (file, format!("{} and {}: {difference}", hosts[0].name(), host.name()))
            }
            Err(error) => (file.clone(), format!("{} fails: {error}", host.name())),
        };
        let name =
            format!("target/differential/{seed}-{scenario}-{}.yaml", host.name().replace([' ', ','], "-"));
        let path = cases::repository().join(&name);
        let _ = std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")));
        let _ = std::fs::write(&path, format!("{file:#}\n"));
        println!("{name}: {told}");
        tally.lock().unwrap().differences += 1;
    }
}

/// Takes the cases of a file to all hosts, and says what each does.
fn replay(file: &Path) -> ExitCode {
    let mut first: Option<Observed> = None;
    for case in cases::load(file, file).expect("cases") {
        let minted = Minted::new(&case).expect("tokens");
        for host in hosts() {
            match minted.observe(&*host) {
                Ok(Observed::Refused(log)) => println!("{}: refused: {log}", host.name()),
                Ok(observed) => {
                    if let Observed::Accepted { exchanges, log } = &observed {
                        let statuses: Vec<_> =
                            exchanges.iter().map(|exchange| exchange.response.status).collect();
                        println!("{}: {statuses:?}\n{log}", host.name());
                    }
                    if let Some(difference) = first.as_ref().and_then(|first| compare(first, &observed)) {
                        println!("{}: {difference}", host.name());
                    }
                    first.get_or_insert(observed);
                }
                Err(error) => println!("{}: {error}", host.name()),
            }
        }
    }
    ExitCode::SUCCESS
}

/// Reads the one case of a file.
fn read(file: &Value) -> Result<Case, String> {
    let cases = cases::parse(&file.to_string(), Path::new("generated")).map_err(|error| error.to_string())?;
    cases.into_iter().next().ok_or_else(|| "no case".to_owned())
}

/// The same difference with as little as possible.
fn smaller(
    mut file: Value,
    difference: Difference,
    first: &dyn Host,
    other: &dyn Host,
) -> (Value, Difference) {
    let (mut last, mut left) = (difference, TRIES);
    let mut holds = |file: &Value| {
        if left == 0 {
            return false;
        }
        left -= 1;
        let Ok(case) = read(file) else { return false };
        let Ok(minted) = Minted::new(&case) else { return false };
        let (Ok(expected), Ok(observed)) = (minted.observe(first), minted.observe(other)) else {
            return false;
        };
        let found = compare(&expected, &observed).filter(|found| found.what == last.what);
        let is_there = found.is_some();
        last = found.unwrap_or_else(|| last.clone());
        is_there
    };
    shrink::list(&mut file, "/cases/0/steps", &mut holds);
    shrink::value(&mut file, &mut holds);
    (file, last)
}
