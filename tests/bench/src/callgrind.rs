//! Instructions a request, counted by valgrind's callgrind.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::load::Client;
use crate::proxy::Proxy;
use crate::results::Cost;
use crate::variants::Variant;

/// Before counting, so that V8 has replaced its first code by the optimised.
const WARM_UP: usize = 400;
/// Requests in one window.
const WINDOW: usize = 200;
/// Before each window. Writing out the counts of the last one takes longer than a lease is good for, and a limit's key that
/// comes back from a pause starts with small leases, each twice the one before. After so many a key takes one lease a second.
const LEAD_IN: usize = 700;
/// Two windows agree when they differ by less than this part.
const AGREEMENT: f64 = 0.003;
const MOST_WINDOWS: usize = 12;
/// So many requests are sent at most: tokens that are to be new must not be fewer.
pub(crate) const MOST_REQUESTS: usize = WARM_UP + MOST_WINDOWS * (LEAD_IN + WINDOW);

/// Modules that one Envoy can hold under valgrind: V8 reserves 10 GB of address space for each of a module's three VMs,
/// and valgrind has 128 GB.
const MOST_MODULES: usize = 4;

/// Counts the instructions a request of each variant, and of the bare Envoys in the same process.
pub(crate) async fn count(envoy: &Path, variants: &[&Variant]) -> Result<Vec<Cost>> {
    let (bare, rest): (Vec<&Variant>, Vec<&Variant>) = variants.iter().partition(|v| v.name == v.base);
    let waiting = RefCell::new(batches(&rest).into_iter());
    let next = || waiting.borrow_mut().next();
    // valgrind runs one thread at a time, so two Envoys take half as long where there are two cores. What is counted does
    // not depend on it.
    let lane = async || {
        let mut costs = Vec::new();
        while let Some(batch) = next() {
            costs.append(&mut count_batch(envoy, &bare, &batch).await?);
        }
        Result::Ok(costs)
    };
    let (mut costs, mut others) = tokio::try_join!(lane(), lane())?;
    costs.append(&mut others);
    costs.sort_by_key(|cost| rest.iter().position(|variant| variant.name == cost.variant));
    Ok(costs)
}

/// In the given order, as many at a time as one Envoy can hold.
fn batches<'a>(variants: &[&'a Variant]) -> Vec<Vec<&'a Variant>> {
    let mut batches = Vec::new();
    let mut batch: Vec<&Variant> = Vec::new();
    let mut modules = BTreeSet::new();
    for variant in variants {
        modules.extend(variant.modules());
        if modules.len() > MOST_MODULES {
            batches.push(std::mem::take(&mut batch));
            modules = variant.modules();
        }
        batch.push(variant);
    }
    batches.push(batch);
    batches
}

async fn count_batch(envoy: &Path, bare: &[&Variant], batch: &[&Variant]) -> Result<Vec<Cost>> {
    let bare: Vec<&Variant> =
        bare.iter().copied().filter(|bare| batch.iter().any(|variant| variant.base == bare.name)).collect();
    let variants = [&bare, batch].concat();
    let proxy = Proxy::start_counted(envoy, &variants).await?;
    let mut clients = Vec::new();
    for variant in &variants {
        let mut client = Client::connect(proxy.port(variant)?, &variant.traffic, 1).await?;
        client.run(WARM_UP, None).await.map_err(|error| format!("{}: {error}", variant.name))?;
        clients.push(client);
    }
    proxy.check()?;
    control(&proxy, &["-i", "on"]).await?;
    let mut dumps = 0;
    let mut bases = HashMap::new();
    let mut costs = Vec::new();
    for (variant, client) in variants.into_iter().zip(&mut clients) {
        let count = settle(&proxy, client, &mut dumps).await?;
        if variant.name == variant.base {
            bases.insert(&variant.base, count.instructions);
            continue;
        }
        let bare = *bases.get(&variant.base).ok_or("no bare Envoy to compare with")?;
        let cost = Cost {
            variant: variant.name.clone(),
            bare,
            added: count.instructions - bare,
            in_wasm: count.in_wasm,
            spread: count.spread,
        };
        eprintln!(
            "{:40} +{:6.1} k instructions, {:5.1} k in Wasm",
            cost.variant,
            cost.added / 1e3,
            cost.in_wasm / 1e3
        );
        costs.push(cost);
    }
    Ok(costs)
}

struct Count {
    instructions: f64,
    in_wasm: f64,
    spread: f64,
}

/// Counts windows until two in a row agree.
async fn settle(proxy: &Proxy, client: &mut Client, dumps: &mut usize) -> Result<Count> {
    let mut before = f64::INFINITY;
    for window in 1.. {
        client.run(LEAD_IN, None).await?;
        control(proxy, &["-z"]).await?;
        client.run(WINDOW, None).await?;
        control(proxy, &["-d"]).await?;
        *dumps += 1;
        let (last, in_wasm) = read(proxy, *dumps).await?;
        let spread = (last / before - 1.0).abs();
        if spread < AGREEMENT || window == MOST_WINDOWS {
            return Ok(Count { instructions: f64::midpoint(before, last), in_wasm, spread });
        }
        before = last;
    }
    unreachable!("the loop has no end")
}

async fn control(proxy: &Proxy, order: &'static [&'static str]) -> Result<()> {
    let process = proxy.id().to_string();
    let output = aside(move || Command::new("callgrind_control").args(order).arg(process).output()).await??;
    let said = String::from_utf8_lossy(&output.stdout);
    if said.contains("OK") { Ok(()) } else { Err(format!("callgrind_control {order:?}: {said}").into()) }
}

/// Instructions a request in dump `number`: all, and those in code that was made at run time (Wasm).
async fn read(proxy: &Proxy, number: usize) -> Result<(f64, f64)> {
    let path = proxy.folder().join(format!("callgrind.out.{number}"));
    let maps = fs::read_to_string(format!("/proc/{}/maps", proxy.id()))?;
    let sums = move || {
        let dump = fs::read_to_string(&path)?;
        fs::remove_file(path)?;
        let compiled = compiled_code(&maps);
        std::io::Result::Ok(self_costs(&dump).into_iter().fold((0, 0), |(all, wasm), (function, cost)| {
            let address = function.strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
            let in_wasm =
                address.is_some_and(|address| compiled.iter().any(|range| range.contains(&address)));
            (all + cost, wasm + if in_wasm { cost } else { 0 })
        }))
    };
    let (all, wasm): (u64, u64) = aside(sums).await??;
    #[allow(clippy::cast_precision_loss)]
    Ok((all as f64 / WINDOW as f64, wasm as f64 / WINDOW as f64))
}

/// Runs what blocks on another thread: the other Envoy's requests go on meanwhile.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    Ok(tokio::task::spawn_blocking(work).await?)
}

/// The executable memory that belongs to no file.
fn compiled_code(maps: &str) -> Vec<Range<u64>> {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    maps.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (from, to) = fields.next()?.split_once('-')?;
            let executable = fields.next()?.contains('x');
            let anonymous = fields.nth(3).is_none();
            (executable && anonymous).then_some(hex(from)?..hex(to)?)
        })
        .collect()
}

/// The instructions of each function itself, by name or address.
fn self_costs(dump: &str) -> HashMap<&str, u64> {
    let mut names = HashMap::new();
    let mut costs = HashMap::new();
    let mut function = "";
    let mut is_call = false;
    for line in dump.lines() {
        if let Some(value) = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn=")) {
            // A name is written out once and later stands as its number alone.
            let (number, name) =
                value.split_once(' ').map_or((value, None), |(number, name)| (number, Some(name)));
            let name = *names.entry(number).or_insert(name.unwrap_or_default());
            if line.starts_with("fn=") {
                function = name;
            }
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            // The line after a call is what the called function cost.
            if !std::mem::take(&mut is_call) {
                let cost = line.split_whitespace().nth(1).and_then(|cost| cost.parse().ok()).unwrap_or(0);
                *costs.entry(function).or_default() += cost;
            }
        }
    }
    costs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_not_counted_twice_and_names_are_remembered() {
        let dump = "fn=(1) main\n0 10\ncfn=(2) 0x7f00\ncalls=1 0\n0 500\n+1 5\n\nfn=(2)\n0 500\n";
        assert_eq!(self_costs(dump), HashMap::from([("main", 15), ("0x7f00", 500)]));
    }

    #[test]
    fn code_that_belongs_to_no_file_was_made_at_run_time() {
        let maps = "1000-2000 r-xp 00000000 08:01 7 /usr/bin/envoy\n3000-4000 rwxp 00000000 00:00 0 \n\
                    5000-6000 rw-p 00000000 00:00 0";
        assert_eq!(compiled_code(maps), vec![0x3000..0x4000; 1]);
    }
}
