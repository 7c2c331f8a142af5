//! CPU time, latency, throughput, memory and start: what callgrind does not see.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::Result;
use crate::load::Client;
use crate::proxy::Proxy;
use crate::results::{Footprint, Line, Timing};
use crate::variants::{Variant, Workshop};

/// Connections that keep Envoy busy.
const CONNECTIONS: usize = 8;
/// For latency: each connection sends a request so often.
const PACE: Duration = Duration::from_millis(4);
const PACED: usize = 400;

/// Before the first round: connections, caches and keys that leases are taken for.
const WARM_UP: usize = 3000;
/// Before each counted turn of a variant: the caches hold what the last one needed.
const LEAD_IN: usize = 200;
/// Latency is looked at in one of so many rounds: at a fixed rate it takes longest.
const LATENCY_EVERY: usize = 4;

/// Measures all variants in one Envoy, in turn, `rounds` times with `requests` each. Many short rounds: what
/// else the machine does then changes little from one variant to the next, and what is left of it is averaged
/// out.
pub(crate) async fn compare(
    envoy: &Path,
    variants: &[&Variant],
    rounds: usize,
    requests: usize,
) -> Result<Vec<Timing>> {
    let proxy = Proxy::start(envoy, variants, 1).await?;
    let _parted = Parted::from(&proxy);
    let mut timings: Vec<Timing> =
        variants.iter().map(|v| Timing { variant: v.name.clone(), ..Timing::default() }).collect();
    let mut clients = Vec::new();
    for variant in variants {
        let mut client = Client::connect(proxy.port(variant)?, &variant.traffic, CONNECTIONS).await?;
        client.run(WARM_UP, None).await.map_err(|error| variant.failed(error))?;
        clients.push(client);
    }
    for round in 0..rounds {
        for ((variant, client), timing) in variants.iter().zip(&mut clients).zip(&mut timings) {
            client.run(LEAD_IN, None).await.map_err(|error| variant.failed(error))?;
            let before = proxy.cpu_time()?;
            let outcome = client.run(requests, None).await.map_err(|error| variant.failed(error))?;
            let used = proxy.cpu_time()?.saturating_sub(before);
            timing.cpu.0.push(microseconds(used.div_f64(count(requests))));
            timing.throughput.0.push(outcome.throughput);
        }
        if round % LATENCY_EVERY == 0 {
            for ((variant, client), timing) in variants.iter().zip(&mut clients).zip(&mut timings) {
                let paced = client.run(PACED, Some(PACE)).await;
                let outcome = paced.map_err(|error| variant.failed(error))?;
                timing.p50.0.push(microseconds(outcome.percentile(0.5)));
                timing.p99.0.push(microseconds(outcome.percentile(0.99)));
            }
        }
        proxy.check()?;
    }
    Ok(timings)
}

/// Memory and start of each variant, each in an Envoy of its own, `starts` times.
pub(crate) async fn footprints(envoy: &Path, variants: &[&Variant], starts: usize) -> Result<Vec<Footprint>> {
    let mut footprints: Vec<Footprint> =
        variants.iter().map(|v| Footprint { variant: v.name.clone(), ..Footprint::default() }).collect();
    for _ in 0..starts {
        for (variant, footprint) in variants.iter().zip(&mut footprints) {
            let proxy = Proxy::start(envoy, &[variant], 1).await?;
            footprint.start.0.push(microseconds(proxy.started_in) / 1000.0);
            Client::connect(proxy.port(variant)?, &variant.traffic, 2).await?.run(2000, None).await?;
            footprint.resident.0.push(count(usize::try_from(proxy.resident()?)?));
            proxy.check()?;
        }
    }
    Ok(footprints)
}

/// Memory after so many requests, each with a user or token that was not there before.
pub(crate) async fn memory_after(
    envoy: &Path,
    variant: &Variant,
    requests: usize,
    workers: usize,
) -> Result<Footprint> {
    let proxy = Proxy::start(envoy, &[variant], workers).await?;
    Client::connect(proxy.port(variant)?, &variant.traffic, CONNECTIONS).await?.run(requests, None).await?;
    proxy.check()?;
    let name =
        if workers == 1 { variant.name.clone() } else { format!("{}, {workers} workers", variant.name) };
    let mut footprint = Footprint { variant: name, ..Footprint::default() };
    footprint.resident.0.push(count(usize::try_from(proxy.resident()?)?));
    Ok(footprint)
}

/// CPU time a request by the number of users.
pub(crate) async fn by_users(envoy: &Path, workshop: &Workshop, numbers: &[usize]) -> Result<Line> {
    let mut points = Vec::new();
    for users in numbers {
        let variant = workshop.many_users(*users)?;
        let proxy = Proxy::start(envoy, &[&variant], 1).await?;
        let _parted = Parted::from(&proxy);
        let mut client = Client::connect(proxy.port(&variant)?, &variant.traffic, CONNECTIONS).await?;
        client.run((*users).max(5000), None).await?;
        let before = proxy.cpu_time()?;
        client.run(30_000, None).await?;
        points
            .push((count(*users), microseconds(proxy.cpu_time()?.saturating_sub(before).div_f64(30_000.0))));
    }
    Ok(Line { name: "rate-limit, by a header".to_owned(), points })
}

/// CPU time a request by the number of workers.
pub(crate) async fn by_workers(envoy: &Path, variants: &[&Variant], numbers: &[u32]) -> Result<Vec<Line>> {
    let mut lines: Vec<Line> =
        variants.iter().map(|v| Line { name: v.name.clone(), points: Vec::new() }).collect();
    for workers in numbers {
        let proxy = Proxy::start(envoy, variants, *workers as usize).await?;
        for (variant, line) in variants.iter().zip(&mut lines) {
            let mut client = Client::connect(proxy.port(variant)?, &variant.traffic, 16).await?;
            client.run(10_000, None).await?;
            let before = proxy.cpu_time()?;
            client.run(20_000, None).await?;
            line.points.push((
                f64::from(*workers),
                microseconds(proxy.cpu_time()?.saturating_sub(before).div_f64(20_000.0)),
            ));
        }
    }
    Ok(lines)
}

/// Envoy and the load generator each on a core of its own, where there are two; until this is dropped, for
/// what is started in between would be on one core too.
struct Parted(Option<String>);

impl Parted {
    fn from(proxy: &Proxy) -> Self {
        let own = std::process::id();
        // Without taskset, or on one core, the figures are only less steady.
        let before = taskset(&["-pc", &own.to_string()]);
        for (core, process) in [("0", proxy.id()), ("1", own)] {
            taskset(&["-apc", core, &process.to_string()]);
        }
        Self(before.and_then(|said| Some(said.trim().rsplit_once(' ')?.1.to_owned())))
    }
}

impl Drop for Parted {
    fn drop(&mut self) {
        if let Some(cores) = &self.0 {
            taskset(&["-apc", cores, &std::process::id().to_string()]);
        }
    }
}

fn taskset(arguments: &[&str]) -> Option<String> {
    let output = Command::new("taskset").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[allow(clippy::cast_precision_loss)]
fn count(number: usize) -> f64 {
    number as f64
}
