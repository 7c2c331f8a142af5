//! The results as a page.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::Result;
use crate::charts;
use crate::results::{Run, Samples};
use crate::targets;
use crate::variants::NATIVE_MODULE;

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

This page says what each filter costs, side by side with Envoy's native filters that do comparable
work: they copy one claim to a header, keep the payload or the subject for later filters, and remove
the token. `make bench` writes this page and its pictures. `make bench QUICK=1` compares on sidecar
traffic in under three minutes and writes to `target/bench`.

**How it is measured.** All variants run in the same Envoy process, each with its own listener, so
that figures of one run can be compared. Ratios within a run tell more than figures from different
machines.

- *Instructions a request over bare Envoy* decide. valgrind's callgrind counts them, one request at
  a time, after 400 requests of warm-up. It repeats the count until two windows of 200 requests
  agree within 0.3 %. Before each window, 100 requests are not counted, or 700 where limits take
  leases. A count does not depend on what else the machine does.
- CPU time, latency and throughput come from the same Envoy without valgrind and with one worker.
  All variants run in turn, round after round. The figures are medians, with the lowest and the
  highest. The difference between a variant and the bare Envoy is taken within each round. A target
  of CPU time counts as reached only if the lower end of the run's noise reaches it.

**What the variants are.**

- The *empty SDK filter* does nothing and exports every callback, as modules built with the Rust SDK
  do. Every Wasm filter costs at least that.
- *native module* is the same filter in `libmesh_filters.so`, which Envoy runs without a VM. See
  [native.md](native.md) for when to choose it.
- Sidecar traffic is HTTP/1.1 with ten headers and a token of 600 bytes. Gateway traffic is HTTP/2
  with twenty headers and a token of 1.5 KB.
- The tokens are those of four users in turn. Each of the *new tokens* is seen only once.
- Requests without a token (401) and beyond a limit (429) are refused. They are compared with a bare
  Envoy that answers 200 to them.

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
**Where the instructions go.** Most of a filter's cost arises outside of the filter: Envoy spends it
on entering the VM and on host calls. Modules that do only one thing show what each costs (Envoy
1.39, thousands of instructions):

| callback | | host call | |
|---|---:|---|---:|
| request headers, the only one | 6.5 | one header / with its duplicates | 11.3 / 13.2 |
| stream created | 1.4 | all headers: 13, and for each | 0.4 |
| stream deleted | 1.5 | shared data read / written | 11.4 / 2.0 |
| response headers | 2.0 | header added / replaced | 4.7 / 8.4 |
| | | header removed / none there to remove | 3.7 / 3.1 |
| | | filter state written | 3.7 |
| | | clock / counter | 1.4 / 1.2 |

A call that returns data is expensive, because the host prepares each allocation in the guest anew.
The column *in Wasm* below is the part that the filter itself runs.

**jwt-auth** with a known token needs:

- the two callbacks of every filter that keeps configurations apart,
- all headers, for the token and for the client's copies of its own header in every spelling. It
  also finds `x_user_sub`, which the native filter lets through,
- one header for the service, one filter state, and the removal of the token.

Envoy spends 30 k of the 34 k on these. The native filter with its cache takes 32 to 34 k from run
to run, and it has no boundary to cross. No filter asks Envoy to report the end of a stream. A
filter that keeps much looks for streams that are gone instead. Once a second, a busy worker reports
its counters and reads the clock for known tokens.

**rate-limit** takes no shared data for a busy key. What remains is three callbacks and the clock.
The callback for the response headers is there for the configurations that need it. A key from a
header adds the reading of that header. Leases are 1 s in this measurement: counting makes
everything fifty times slower, and at the usual 100 ms no key would be busy.

**trace-tags** reads all headers, writes three filter states, and is called four times. That alone
is 36 k in Envoy, 2.2 × an empty filter.

**mesh-filters** reads the headers once for all three filters. It writes three tags and a claim,
edits two headers and reads a clock, and it has the callbacks of trace-tags: 47 k in Envoy, 2.9 × an
empty filter. Three plugins pay for all of this three times.

**Start and memory.** V8 compiles and optimises a whole module when it loads it, so the time to
start grows with the size of the module.

- Envoy keeps the memory that this takes, and its peak grows with the largest functions. The build
  keeps functions small (`inlining` in `tools/build-filters`, `tools/link-filter.mjs`), which saves
  35 MB. All workers share the compiled code.
- Before the first request, mesh-filters takes 17 MB more than an empty plugin. Of these, 5 MB are
  in use (`server.memory_allocated`), 2 MB are machine code and 1 MB is the memories of the VMs. The
  rest was needed to compile, and Envoy's allocator keeps it.
- About a quarter of jwt-auth is cryptography: for algorithms that the host does not check (PS256,
  EdDSA, HS256), and for hosts that check nothing.
- After the first thousands of users and tokens, more of them take no more memory.
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
    ["jwt-auth", "rate-limit", "trace-tags", "three plugins", "mesh-filters"].iter().any(|ours| {
        variant.trim_start_matches("gateway: ").trim_start_matches(NATIVE_MODULE).starts_with(ours)
    })
}

fn timings(page: &mut String, run: &Run, pictures: &Path) -> Result<()> {
    if run.timings.is_empty() {
        return Ok(());
    }
    let rounds = run.timings.first().map_or(0, |timing| timing.cpu.0.len());
    writeln!(page, "\n## CPU time, latency, throughput\n\n![](benchmarks/cpu.svg)\n")?;
    writeln!(
        page,
        "The figures are medians of {rounds} rounds, with the lowest and the highest in brackets. *Over bare* is\n\
         the median of the differences within a round, with its 95 % interval in brackets. CPU time and\n\
         throughput are measured with 8 requests under way, latency at 2000 requests a second.\n"
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
            "\n\
             Each variant runs in an Envoy of its own with one worker, unless its name says more.\n\
             \n\
             - *Resident* is the resident memory without the pages of files (`RssAnon`), after 2000 requests, or\n\
             \x20 after as many as the name says. For `many tokens`, it is after 200,000 tokens of as many users. A\n\
             \x20 machine has the pages of the binary only once.\n\
             - *Start* is the time from the start of the process until it serves.\n"
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
