//! The results as a page.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::Result;
use crate::charts;
use crate::results::{Run, Samples};
use crate::targets;

/// Writes `benchmarks.md` and its pictures into `folder`.
pub(crate) fn write(run: &Run, folder: &Path) -> Result<()> {
    let pictures = folder.join("benchmarks");
    fs::create_dir_all(&pictures)?;
    let mut page = INTRODUCTION.to_owned();
    environment(&mut page, run)?;
    reach(&mut page, run)?;
    costs(&mut page, run, &pictures)?;
    timings(&mut page, run, &pictures)?;
    footprints(&mut page, run)?;
    curves(&mut page, run, &pictures)?;
    fs::write(folder.join("benchmarks.md"), page)?;
    Ok(())
}

const INTRODUCTION: &str = "\
# Benchmarks

What each filter costs, side by side with Envoy's native filters doing comparable work: one claim to a header, the
payload or the subject kept for later filters, the token removed. `make bench` writes this page and its pictures;
`make bench QUICK=1` compares on sidecar traffic in under three minutes and writes to `target/bench`.

**How it is measured.** All variants run in the same Envoy process, a listener for each, so that figures of one run can
be compared. The judge is *instructions a request over bare Envoy*: valgrind's callgrind counts them, one request at a
time, after 400 requests of warm-up, and again until two windows of 200 requests agree within 0.3 %, each after 100
that are not counted, or 700 where limits take leases. A count does not depend on what else the machine does. CPU time,
latency and throughput come from the same Envoy without valgrind, one worker, all variants in turn, round after round;
they are medians, with the lowest and the highest. What a variant takes over the bare Envoy is compared within each
round. Ratios within a run tell more than figures between machines.

The *empty SDK filter* does nothing and exports every callback, as modules built with the Rust SDK do: it is what any
Wasm filter costs. Sidecar traffic is HTTP/1.1 with ten headers and a token of 600 bytes; gateway traffic is HTTP/2 with
twenty headers and a token of 1.5 KB. Tokens are those of four users in turn; *new tokens* are each seen once.

";

fn environment(page: &mut String, run: &Run) -> Result<()> {
    writeln!(page, "| | |\n|---|---|")?;
    for (name, value) in &run.environment {
        writeln!(page, "| {name} | {value} |")?;
    }
    Ok(())
}

fn reach(page: &mut String, run: &Run) -> Result<()> {
    writeln!(
        page,
        "\n## What was to be reached\n\n| what | at most, or as said | measured | |\n|---|---|---|---|"
    )?;
    for target in targets::check(run) {
        let reached = match target.reached {
            Some(true) => "reached",
            Some(false) => "**not reached**",
            None => "",
        };
        writeln!(page, "| {} | {} | {} | {reached} |", target.what, target.wanted, target.measured)?;
    }
    page.push_str(REASONS);
    Ok(())
}

/// Why some cannot be reached. Costs of host calls were counted apart from this run.
const REASONS: &str = "
**Where the instructions go.** Envoy spends most of what a filter costs outside of it, in entering the VM and in host
calls. Modules that do one thing and nothing else show what each costs (Envoy 1.39, thousands of instructions):

| callback | | host call | |
|---|---:|---|---:|
| request headers, the only one | 6.5 | one header / with its duplicates | 11.3 / 13.2 |
| stream created | 1.4 | all headers: 13, and for each | 0.4 |
| stream deleted | 1.5 | shared data read / written | 11.4 / 2.0 |
| response headers | 2.0 | header added / replaced | 4.7 / 8.4 |
| | | header removed / none there to remove | 3.7 / 3.1 |
| | | filter state written | 3.7 |
| | | clock / counter | 1.4 / 1.2 |

A call that returns data is dear because the host prepares each allocation in the guest anew. The column *in Wasm* below
is the part that the filter itself runs.

**jwt-auth** with a known token needs the two callbacks of every filter that keeps configurations apart, all headers
(for the token, and for the client's copies of its own header in every spelling, `x_user_sub` too, which the native filter
lets through), one header for the service, one filter state, and the token removed: 30 k of its 34 k are spent in Envoy
for these. The native filter with its cache takes 32 to 34 k from run to run and has no boundary to cross. No filter asks
to be told of a stream's end: each looks for what is gone when it keeps much. Counters of a busy worker are told, and the
clock is read for known tokens, once a second.

**rate-limit** takes no shared data for a busy key. What is left is three callbacks (that of the response headers is
there for the configurations that need it) and the clock. A key from a header adds the reading of that header;
leases are 1 s here, since counting makes everything fifty times slower and at the usual 100 ms no key would be busy.

**trace-tags** reads all headers, writes three filter states, and is called four times: that alone is 36 k in Envoy, 2.2 ×
an empty filter. **mesh-filters** reads the headers once for all three; three tags and a claim are written, two headers
edited, a clock read, and the callbacks are those of trace-tags: 47 k in Envoy, 2.9 × an empty filter. Three plugins
pay for all of this three times.

**Size, start and memory.** V8 compiles a whole module as it loads, and optimises all of it: start follows the size of the
module. The memory that this takes is Envoy's afterwards, and its peak goes with the largest functions: the build keeps
them small (`inlining` in `tools/build-filters`, `tools/link-filter.mjs`), which saves 35 MB, and what is compiled is shared
by all workers. Of the 17 MB that mesh-filters takes over an empty plugin before the first request, 5 MB are in use
(`server.memory_allocated`), 2 MB are machine code and 1 MB the memories of the VMs; the rest was needed to compile, and
Envoy's allocator keeps it. About a quarter of jwt-auth is cryptography for what the host does not check (PS256, EdDSA,
HS256) and for hosts that check nothing. Users and tokens add nothing that is not there after the first thousands.
";

fn costs(page: &mut String, run: &Run, pictures: &Path) -> Result<()> {
    if run.costs.is_empty() {
        return Ok(());
    }
    let empty = targets::added(run, "empty SDK filter").unwrap_or(f64::NAN);
    writeln!(page, "\n## Instructions a request\n\n![](benchmarks/instructions.svg)\n")?;
    writeln!(
        page,
        "| variant | over bare Envoy | of these in Wasm | × empty SDK filter | last two windows differ |"
    )?;
    writeln!(page, "|---|---:|---:|---:|---:|")?;
    for cost in &run.costs {
        writeln!(
            page,
            "| {} | {:.1} k | {:.1} k | {:.2} | {:.2} % |",
            cost.variant,
            cost.added / 1e3,
            cost.in_wasm / 1e3,
            cost.added / empty,
            cost.spread * 100.0,
        )?;
    }
    if let Some(cost) = run.costs.first() {
        writeln!(page, "\nA bare Envoy takes {:.1} k for a request of the sidecar.", cost.bare / 1e3)?;
    }
    let bars: Vec<_> = run
        .costs
        .iter()
        .map(|cost| (cost.variant.clone(), cost.added / 1e3, is_ours(&cost.variant)))
        .collect();
    charts::bars(&pictures.join("instructions.svg"), "Instructions a request over bare Envoy", "k", &bars)
}

fn is_ours(variant: &str) -> bool {
    ["jwt-auth", "rate-limit", "trace-tags", "three plugins", "mesh-filters"]
        .iter()
        .any(|ours| variant.trim_start_matches("gateway: ").starts_with(ours))
}

fn timings(page: &mut String, run: &Run, pictures: &Path) -> Result<()> {
    if run.timings.is_empty() {
        return Ok(());
    }
    let rounds = run.timings.first().map_or(0, |timing| timing.cpu.0.len());
    writeln!(page, "\n## CPU time, latency, throughput\n\n![](benchmarks/cpu.svg)\n")?;
    writeln!(
        page,
        "Medians of {rounds} rounds, lowest to highest in brackets; *over bare* is the median of the differences within a round, \
         with where it lies by 95 % in brackets. CPU time and throughput with 8 requests under way; latency at 2000 requests a \
         second.\n"
    )?;
    writeln!(page, "| variant | CPU a request | over bare | p50 | p99 | requests a second |")?;
    writeln!(page, "|---|---:|---:|---:|---:|---:|")?;
    for timing in &run.timings {
        let over = targets::cpu(run, &timing.variant).unwrap_or_default();
        let (low, high) = over.median_within();
        writeln!(
            page,
            "| {} | {} µs | {:+.1} ({low:+.1} to {high:+.1}) µs | {} µs | {} µs | {} |",
            timing.variant,
            range(&timing.cpu, 1),
            over.median(),
            range(&timing.p50, 0),
            range(&timing.p99, 0),
            range(&timing.throughput, 0),
        )?;
    }
    let bars: Vec<_> = run
        .timings
        .iter()
        .filter(|timing| !timing.variant.contains("bare Envoy"))
        .filter_map(|timing| {
            Some((
                timing.variant.clone(),
                targets::cpu(run, &timing.variant)?.median(),
                is_ours(&timing.variant),
            ))
        })
        .collect();
    charts::bars(&pictures.join("cpu.svg"), "CPU time a request over bare Envoy", "µs", &bars)
}

fn range(samples: &Samples, digits: usize) -> String {
    let (low, high) = samples.range();
    format!("{:.digits$} ({low:.digits$}–{high:.digits$})", samples.median())
}

fn footprints(page: &mut String, run: &Run) -> Result<()> {
    if !run.sizes.is_empty() {
        writeln!(page, "\n## Size, memory, start\n\n| module | bytes |\n|---|---:|")?;
        for (module, bytes) in &run.sizes {
            writeln!(page, "| {module} | {bytes} |")?;
        }
    }
    if !run.footprints.is_empty() {
        writeln!(
            page,
            "\nEach in an Envoy of its own with one worker, unless the name says more: resident memory without the pages of \
             files (`RssAnon`; of the binary's pages a machine has one copy) after 2000 requests (or after as many as the name says; after 200,000 tokens of as many users for `many tokens`), time from the start of the process until it serves.\n"
        )?;
        writeln!(page, "| variant | resident | start |\n|---|---:|---:|")?;
        for footprint in &run.footprints {
            let start = if footprint.start.0.is_empty() {
                String::new()
            } else {
                format!("{} ms", range(&footprint.start, 0))
            };
            writeln!(
                page,
                "| {} | {:.1} MB | {start} |",
                footprint.variant,
                footprint.resident.median() / 1024.0
            )?;
        }
    }
    Ok(())
}

fn curves(page: &mut String, run: &Run, pictures: &Path) -> Result<()> {
    if run.curves.is_empty() {
        return Ok(());
    }
    writeln!(page, "\n## Growth")?;
    for curve in &run.curves {
        let file = format!("{}.svg", curve.name.replace(' ', "-"));
        charts::curve(&pictures.join(&file), curve)?;
        writeln!(page, "\n### By {}: {}\n\n![](benchmarks/{file})\n", curve.name, curve.of)?;
        for line in &curve.lines {
            let points: Vec<String> = line.points.iter().map(|(x, y)| format!("{x}: {y:.1}")).collect();
            writeln!(page, "- {} ({}): {}", line.name, curve.unit, points.join(", "))?;
        }
    }
    Ok(())
}
