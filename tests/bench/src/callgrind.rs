//! Instructions a request, counted by valgrind's callgrind.

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
/// Before each window, which comes after a pause: writing out the counts of the last one.
const LEAD_IN: usize = 100;
/// The same where limits are leased. The pause is longer than a lease is good for, and a limit's key that
/// comes back from one starts with small leases, each twice the one before. After so many requests a key
/// takes one lease a second.
const LEAD_IN_OF_LEASES: usize = 700;
/// Two windows agree when they differ by less than this part.
const AGREEMENT: f64 = 0.003;
const MOST_WINDOWS: usize = 12;
/// So many requests are sent at most where tokens are new, and no limits are leased: there must be as many.
pub(crate) const MOST_REQUESTS: usize = WARM_UP + MOST_WINDOWS * (LEAD_IN + WINDOW);

/// Modules that one Envoy can hold under valgrind: V8 reserves 10 GB of address space for each of a module's
/// three VMs, and valgrind has 128 GB.
const MOST_MODULES: usize = 4;
/// Envoys that are started at the same time: under valgrind that takes half a minute. One after the other is
/// counted.
const STARTED_TOGETHER: usize = 2;

/// Counts the instructions a request of each variant, and of the bare Envoys in the same process.
pub(crate) async fn count(envoy: &Path, variants: &[&Variant]) -> Result<Vec<Cost>> {
    let mut costs: Vec<Cost> = Vec::new();
    for batches in batches(variants).chunks(STARTED_TOGETHER) {
        let starting: Vec<Proxy> =
            batches.iter().map(|batch| Proxy::start_counted(envoy, batch)).collect::<Result<_>>()?;
        for (batch, proxy) in batches.iter().zip(starting) {
            costs.append(&mut count_batch(&proxy.ready().await?, batch).await?);
        }
    }
    Ok(costs)
}

/// As many variants at a time as one Envoy can hold, with what they are compared with before them.
fn batches<'a>(variants: &[&'a Variant]) -> Vec<Vec<&'a Variant>> {
    let (bare, rest): (Vec<&Variant>, Vec<&Variant>) = variants.iter().partition(|v| v.name == v.base);
    let mut batches: Vec<Vec<&Variant>> = Vec::new();
    let mut modules = BTreeSet::new();
    for variant in rest {
        modules.extend(variant.modules());
        match batches.last_mut() {
            Some(batch) if modules.len() <= MOST_MODULES => batch.push(variant),
            _ => {
                batches.push(vec![variant]);
                modules = variant.modules();
            }
        }
    }
    for batch in &mut batches {
        let of_batch = |bare: &&&Variant| batch.iter().any(|variant| variant.base == bare.name);
        let mut with_bare: Vec<&Variant> = bare.iter().filter(of_batch).copied().collect();
        with_bare.append(batch);
        *batch = with_bare;
    }
    batches
}

async fn count_batch(proxy: &Proxy, variants: &[&Variant]) -> Result<Vec<Cost>> {
    let mut clients = Vec::new();
    for variant in variants {
        let mut client = Client::connect(proxy.port(variant)?, &variant.traffic, 1).await?;
        client.run(WARM_UP, None).await.map_err(|error| variant.failed(error))?;
        clients.push(client);
    }
    proxy.check()?;
    control(proxy, &["-i", "on"])?;
    let mut dumps = 0;
    let mut bases = HashMap::new();
    let mut costs = Vec::new();
    for (variant, client) in variants.iter().zip(&mut clients) {
        let count = settle(proxy, variant, client, &mut dumps).await?;
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
async fn settle(proxy: &Proxy, variant: &Variant, client: &mut Client, dumps: &mut usize) -> Result<Count> {
    let lead_in = if variant.has_leases() { LEAD_IN_OF_LEASES } else { LEAD_IN };
    let mut before = f64::INFINITY;
    for window in 1.. {
        client.run(lead_in, None).await?;
        control(proxy, &["-z"])?;
        client.run(WINDOW, None).await?;
        control(proxy, &["-d"])?;
        *dumps += 1;
        let (last, in_wasm) = read(proxy, *dumps)?;
        let spread = (last / before - 1.0).abs();
        if spread < AGREEMENT || window == MOST_WINDOWS {
            return Ok(Count { instructions: f64::midpoint(before, last), in_wasm, spread });
        }
        before = last;
    }
    unreachable!("the loop has no end")
}

fn control(proxy: &Proxy, order: &[&str]) -> Result<()> {
    let output = Command::new("callgrind_control").args(order).arg(proxy.id().to_string()).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    if said.contains("OK") { Ok(()) } else { Err(format!("callgrind_control {order:?}: {said}").into()) }
}

/// Instructions a request in dump `number`: all, and those in code that was made at run time (Wasm).
fn read(proxy: &Proxy, number: usize) -> Result<(f64, f64)> {
    let path = proxy.folder().join(format!("callgrind.out.{number}"));
    let dump = fs::read_to_string(&path)?;
    fs::remove_file(path)?;
    let compiled = compiled_code(&fs::read_to_string(format!("/proc/{}/maps", proxy.id()))?);
    let (all, wasm) = self_costs(&dump).into_iter().fold((0, 0), |(all, wasm), (function, cost)| {
        let address = function.strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let in_wasm = address.is_some_and(|address| compiled.iter().any(|range| range.contains(&address)));
        (all + cost, wasm + if in_wasm { cost } else { 0 })
    });
    #[allow(clippy::cast_precision_loss)]
    Ok((all as f64 / WINDOW as f64, wasm as f64 / WINDOW as f64))
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
