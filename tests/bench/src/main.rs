//! What each filter costs, side by side with Envoy's native filters. See docs/benchmarks.md.
//!
//! `bench [--quick] [PART...]` measures (all parts unless some are named: `count`, `time`, `size`, `growth`,
//! `scale`), keeps the results in `target/bench/results.json` and writes the page from all results there;
//! with `--quick` it counts and times only, in fewer rounds and without the gateway's traffic, and results
//! and page stay in `target/bench`, apart. `FILTERS_DIR` names another folder with modules. `ONLY=TEXT`
//! counts only the variants whose names hold one of these texts (separated by `|`), prints them and writes
//! nothing.
#![allow(clippy::restriction)]

mod callgrind;
mod charts;
mod load;
mod proxy;
mod report;
mod results;
mod targets;
mod timing;
mod tokens;
mod variants;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::results::{Curve, Line, Run};
use crate::tokens::Issuer;
use crate::variants::{BARE, Variant, Workshop};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Into::into)
        .and_then(|runtime| tokio::task::LocalSet::new().block_on(&runtime, run()));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let envoy =
        PathBuf::from(std::env::var_os("ENVOY_BIN").ok_or("ENVOY_BIN names no Envoy: run `make bench`")?);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let parts: Vec<&str> = arguments.iter().map(String::as_str).filter(|part| *part != "--quick").collect();
    let wanted = |part| {
        if parts.is_empty() { !quick || ["count", "time"].contains(&part) } else { parts.contains(&part) }
    };

    let workshop = Workshop {
        issuer: Issuer::read(&root.join("testdata/keys"))?,
        modules: std::env::var_os("FILTERS_DIR").map_or_else(|| root.join("target/filters"), PathBuf::from),
        empty: root.join("target/wasm32-wasip1/release/empty_sdk_filter.wasm"),
    };
    let folder = root.join("target/bench");
    fs::create_dir_all(&folder)?;
    let kept = folder.join(if quick { "quick.json" } else { "results.json" });
    let mut run: Run = match fs::read(&kept) {
        Ok(json) if !parts.is_empty() => serde_json::from_slice(&json)?,
        _ => Run::default(),
    };
    run.environment = environment(&root, &envoy);
    run.sizes = sizes(&workshop)?;

    let variants = workshop.variants(callgrind::MOST_REQUESTS)?;
    let variants: Vec<&Variant> =
        variants.iter().filter(|variant| !(quick && variant.name.starts_with("gateway"))).collect();
    if let Some(only) = std::env::var_os("ONLY") {
        let only = only.to_string_lossy().into_owned();
        let wanted = |v: &&Variant| v.name == v.base || only.split('|').any(|text| v.name.contains(text));
        let variants: Vec<&Variant> = variants.into_iter().filter(wanted).collect();
        callgrind::count(&envoy, &variants).await?;
        return Ok(());
    }
    let keep = |run: &Run| Result::Ok(fs::write(&kept, serde_json::to_vec(run)?)?);
    if wanted("count") {
        eprintln!("counting instructions");
        run.costs = callgrind::count(&envoy, &variants).await?;
        keep(&run)?;
    }
    if wanted("time") {
        eprintln!("measuring CPU time and latency");
        let (rounds, requests) = if quick { (12, 500) } else { (60, 1000) };
        run.timings = timing::compare(&envoy, &variants, rounds, requests).await?;
        keep(&run)?;
    }
    if wanted("size") {
        eprintln!("measuring memory and start");
        run.footprints = footprints(&envoy, &workshop, &variants).await?;
        keep(&run)?;
    }
    if wanted("growth") {
        eprintln!("measuring growth");
        run.curves.retain(|curve| SCALE.contains(&&*curve.name));
        run.curves.extend(growth(&envoy, &workshop).await?);
        keep(&run)?;
    }
    if wanted("scale") {
        eprintln!("measuring users and workers");
        run.curves.retain(|curve| !SCALE.contains(&&*curve.name));
        run.curves.extend(scale(&envoy, &workshop, &variants).await?);
        keep(&run)?;
    }
    let folder = if quick { folder } else { root.join("docs") };
    report::write(&run, &folder)?;
    for target in targets::check(&run) {
        let reached = match target.reached {
            Some(true) => "reached    ",
            Some(false) => "NOT REACHED",
            None => "           ",
        };
        println!("{reached} {}: {} (at most, or as said: {})", target.what, target.measured, target.wanted);
    }
    println!("{}", folder.join("benchmarks.md").display());
    Ok(())
}

/// How many users and tokens, each new, go through before memory is looked at.
const MANY: usize = 1_000_000;
const MANY_TOKENS: usize = 200_000;

async fn footprints(
    envoy: &Path,
    workshop: &Workshop,
    variants: &[&Variant],
) -> Result<Vec<results::Footprint>> {
    const ALONE: [&str; 11] = [
        BARE,
        "empty SDK filter",
        "jwt-auth",
        "rate-limit, all requests",
        "trace-tags, three tags",
        "three plugins",
        "mesh-filters",
        "native module: jwt-auth",
        "native module: rate-limit, all requests",
        "native module: trace-tags, three tags",
        "native module: mesh-filters",
    ];
    let rules = [workshop.with_rules(1)?, workshop.with_rules(1000)?];
    let mut alone: Vec<&Variant> = variants.iter().copied().filter(|v| ALONE.contains(&&*v.name)).collect();
    alone.extend(&rules);
    let mut footprints = timing::footprints(envoy, &alone, 5).await?;
    let mut users = workshop.many_users(MANY)?;
    "rate-limit, 1,000,000 users".clone_into(&mut users.name);
    footprints.push(timing::memory_after(envoy, &users, MANY, 1).await?);
    let tokens = workshop.many_tokens();
    footprints.push(timing::memory_after(envoy, &tokens, MANY_TOKENS, 1).await?);
    footprints.push(timing::memory_after(envoy, &tokens, MANY_TOKENS, 4).await?);
    if let Some(empty) = variants.iter().find(|variant| variant.name == "empty SDK filter") {
        footprints.push(timing::memory_after(envoy, empty, 2000, 4).await?);
    }
    Ok(footprints)
}

async fn growth(envoy: &Path, workshop: &Workshop) -> Result<Vec<Curve>> {
    let mut curves = Vec::new();
    let growth = workshop.growth(callgrind::MOST_REQUESTS, service().await?)?;
    let points: Vec<&Variant> = growth
        .iter()
        .flat_map(|growth| &growth.lines)
        .flat_map(|line| &line.1)
        .map(|point| &point.1)
        .collect();
    let mut bare: Vec<Variant> = points.iter().map(|point| point.without_filters()).collect();
    bare.sort_by(|a, b| a.name.cmp(&b.name));
    bare.dedup_by(|a, b| a.name == b.name);
    let all: Vec<&Variant> = bare.iter().chain(points).collect();
    let costs = callgrind::count(envoy, &all).await?;
    for growth in growth {
        let cost = |variant: &Variant| {
            costs.iter().find(|cost| cost.variant == variant.name).map_or(f64::NAN, |cost| cost.added / 1e3)
        };
        let lines = growth.lines.iter().map(|(name, points)| Line {
            name: (*name).to_owned(),
            points: points.iter().map(|(number, variant)| (f64::from(*number), cost(variant))).collect(),
        });
        curves.push(Curve {
            name: growth.name.to_owned(),
            of: growth.of.to_owned(),
            unit: "k instructions".to_owned(),
            lines: lines.collect(),
        });
    }
    Ok(curves)
}

/// The curves that are timed, not counted.
const SCALE: [&str; 2] = ["users", "workers"];

async fn scale(envoy: &Path, workshop: &Workshop, variants: &[&Variant]) -> Result<Vec<Curve>> {
    let timed = |name: &str, of: &str, lines| Curve {
        name: name.to_owned(),
        of: of.to_owned(),
        unit: "µs of CPU a request".to_owned(),
        lines,
    };
    let users = timing::by_users(envoy, workshop, &[1, 1000, 100_000, MANY]).await?;
    let both: Vec<&Variant> =
        variants.iter().copied().filter(|v| [BARE, "mesh-filters"].contains(&&*v.name)).collect();
    let workers = timing::by_workers(envoy, &both, &[1, 2, 4]).await?;
    Ok(vec![
        timed("users", "users in turn, bare Envoy included", vec![users]),
        timed("workers", "workers", workers),
    ])
}

/// Answers every request once its body has come; returns the port.
async fn service() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::task::spawn_local(async move {
        let answer = |request: Request<Incoming>| async {
            request.into_body().collect().await?;
            Ok::<_, hyper::Error>(Response::new(Full::<Bytes>::default()))
        };
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(
                http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)),
            );
        }
    });
    Ok(port)
}

fn sizes(workshop: &Workshop) -> Result<Vec<(String, u64)>> {
    let size = |name: &str, path: &Path| {
        let data = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Result::Ok((name.to_owned(), data.len()))
    };
    let mut sizes = vec![size("empty SDK filter", &workshop.empty)?];
    for filter in ["jwt-auth", "rate-limit", "trace-tags", "mesh-filters"] {
        sizes.push(size(filter, &workshop.modules.join(format!("{filter}.wasm")))?);
    }
    sizes.push(size("native module", &workshop.modules.join("libmesh_filters.so"))?);
    Ok(sizes)
}

/// The machine and the versions, as far as they can be found out.
fn environment(root: &Path, envoy: &Path) -> Vec<(String, String)> {
    let output = |program: &Path, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(root).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().replace('\n', " "))
    };
    let cpu = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(": ")?.1.to_owned())
    });
    let cores = std::thread::available_parallelism().map(|cores| cores.to_string()).ok();
    let envoy =
        output(envoy, &["--version"]).and_then(|text| Some(text.split_once("version: ")?.1.to_owned()));
    [
        ("processor", cpu),
        ("cores", cores),
        ("kernel", output(Path::new("uname"), &["-sr"])),
        ("Envoy", envoy),
        ("Rust", output(Path::new("rustc"), &["--version"])),
        ("valgrind", output(Path::new("valgrind"), &["--version"])),
        ("commit", output(Path::new("git"), &["describe", "--always", "--dirty"])),
        // CPU time, latency and throughput suffer from what else the machine does.
        (
            "load",
            fs::read_to_string("/proc/loadavg")
                .ok()
                .map(|load| load.split(' ').take(3).collect::<Vec<_>>().join(" ")),
        ),
        ("date", output(Path::new("date"), &["-u", "+%Y-%m-%d"])),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?)))
    .collect()
}
