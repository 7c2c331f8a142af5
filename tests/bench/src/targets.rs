//! What the filters are to reach, and whether they do.

use crate::results::{Cost, Curve, Run, Samples};
use crate::variants::{NATIVE_MODULE, base_of};

/// A target and what was measured for it.
pub(crate) struct Target {
    pub(crate) what: &'static str,
    pub(crate) wanted: &'static str,
    pub(crate) measured: String,
    /// `None`: not measured in this run.
    pub(crate) reached: Option<bool>,
}

const EMPTY: &str = "empty SDK filter";

/// What the native module is to reach: what, in words, the variant, what it is compared with, and at most how
/// much of it.
const NATIVE_MODULES: [(&str, &str, &str, &str, f64); 7] = [
    (
        "native module: jwt-auth, token seen before",
        "0.41 × native jwt_authn with its cache",
        "jwt-auth",
        "native jwt_authn, cache",
        0.41,
    ),
    (
        "native module: jwt-auth, RS256 token never seen",
        "1.00 × native jwt_authn",
        "jwt-auth, new RS256 tokens",
        "native jwt_authn, new RS256 tokens",
        1.004,
    ),
    (
        "native module: jwt-auth, ES256 token never seen",
        "0.94 × native jwt_authn",
        "jwt-auth, new ES256 tokens",
        "native jwt_authn, new ES256 tokens",
        0.944,
    ),
    (
        "native module: rate-limit, one limit over all requests",
        "0.31 × an empty SDK filter",
        "rate-limit, all requests",
        EMPTY,
        0.31,
    ),
    (
        "native module: rate-limit, keyed by a header",
        "0.52 × an empty SDK filter",
        "rate-limit, by a header",
        EMPTY,
        0.52,
    ),
    (
        "native module: trace-tags, three tags",
        "below an empty SDK filter",
        "trace-tags, three tags",
        EMPTY,
        1.0,
    ),
    ("native module: mesh-filters", "1.5 × an empty SDK filter", "mesh-filters", EMPTY, 1.5),
];

/// Every target, checked against `run`.
pub(crate) fn check(run: &Run) -> Vec<Target> {
    let mut targets = Vec::new();
    let mut instructions = |what, wanted, ours: &str, theirs: &str, most: f64| {
        let both = added(run, ours).zip(added(run, theirs));
        targets.push(Target {
            what,
            wanted,
            measured: both.map_or_else(missing, |(ours, theirs)| {
                format!("{:.2} × ({:.1} k against {:.1} k)", ours / theirs, ours / 1e3, theirs / 1e3)
            }),
            reached: both.map(|(ours, theirs)| ours / theirs <= most),
        });
    };
    let empty = EMPTY;
    let cached = "native jwt_authn, cache";
    instructions(
        "jwt-auth, token seen before",
        "below native jwt_authn with its cache",
        "jwt-auth",
        cached,
        1.0,
    );
    instructions(
        "jwt-auth, RS256 token never seen",
        "1.00 × native jwt_authn",
        "jwt-auth, new RS256 tokens",
        "native jwt_authn, new RS256 tokens",
        1.004,
    );
    instructions(
        "jwt-auth, ES256 token never seen",
        "1.00 × native jwt_authn",
        "jwt-auth, new ES256 tokens",
        "native jwt_authn, new ES256 tokens",
        1.004,
    );
    let all = "rate-limit, all requests";
    instructions("rate-limit, one limit over all requests", "1.0 × an empty SDK filter", all, empty, 1.0);
    let by_header = "rate-limit, by a header";
    instructions("rate-limit, keyed by a header", "1.8 × an empty SDK filter", by_header, empty, 1.8);
    instructions("trace-tags, three tags", "2.2 × an empty SDK filter", "trace-tags, three tags", empty, 2.2);
    instructions("mesh-filters", "2.8 × an empty SDK filter", "mesh-filters", empty, 2.8);
    for (what, wanted, ours, theirs, most) in NATIVE_MODULES {
        instructions(what, wanted, &format!("{NATIVE_MODULE}{ours}"), theirs, most);
    }

    targets.push(cheaper(
        run,
        ("jwt-auth, token seen before, CPU time", "6 × cheaper than native jwt_authn's default"),
        ("jwt-auth", "native jwt_authn"),
        6.0,
    ));
    targets.push(cheaper(
        run,
        ("mesh-filters, CPU time", "4 × cheaper than native jwt_authn + local_ratelimit"),
        ("mesh-filters", "native jwt_authn + local_ratelimit"),
        4.0,
    ));
    for (name, what, wanted) in [
        ("rules", "1000 rules", "flat or logarithmic"),
        ("keys", "100 keys", "flat or logarithmic"),
        ("users", "1,000,000 users", "flat or logarithmic"),
    ] {
        targets.push(flat(run.curves.iter().find(|curve| curve.name == name), what, wanted));
    }
    targets.push(memory(run));
    for (module, most) in [("jwt-auth", 350), ("rate-limit", 150), ("trace-tags", 150), ("mesh-filters", 450)]
    {
        targets.push(size(run, module, most));
    }
    let start = |variant: &str| {
        run.footprints.iter().find(|footprint| footprint.variant == variant).map(|f| f.start.median())
    };
    let extra = |ours, theirs| Some(start(ours)? - start(theirs)?);
    let mut within = |what, wanted, extra: Option<f64>, most: f64| {
        let measured = extra.map_or_else(missing, |extra| format!("{extra:.0} ms"));
        targets.push(Target { what, wanted, measured, reached: extra.map(|extra| extra < most) });
    };
    // Each start of Envoy configures a plugin three times: on trial, on the main thread, on the worker.
    let load = extra("1000 rules", "1 rules").map(|extra| extra / 3.0);
    within("configuration of 1000 rules, over one of 1 rule", "50 ms", load, 50.0);
    for (what, variant) in [
        ("start of Envoy with jwt-auth, over a bare one", "jwt-auth"),
        ("start of Envoy with rate-limit, over a bare one", "rate-limit, all requests"),
        ("start of Envoy with trace-tags, over a bare one", "trace-tags, three tags"),
        ("start of Envoy with mesh-filters, over a bare one", "mesh-filters"),
    ] {
        within(what, "200 ms", extra(variant, "bare Envoy"), 200.0);
    }
    targets
}

fn missing() -> String {
    "not in this run".to_owned()
}

/// Instructions over the bare Envoy.
pub(crate) fn added(run: &Run, variant: &str) -> Option<f64> {
    run.costs.iter().find(|cost: &&Cost| cost.variant == variant).map(|cost| cost.added)
}

/// CPU time over the bare Envoy of the same round, microseconds, for each round.
pub(crate) fn cpu(run: &Run, variant: &str) -> Option<Samples> {
    let rounds = |name: &str| Some(&run.timings.iter().find(|timing| timing.variant == name)?.cpu.0);
    let over = rounds(variant)?.iter().zip(rounds(base_of(variant))?).map(|(with, without)| with - without);
    Some(Samples(over.collect()))
}

/// How much less CPU time ours takes than theirs. Reached where the noise of the run leaves no doubt.
fn cheaper(
    run: &Run,
    (what, wanted): (&'static str, &'static str),
    (ours, theirs): (&str, &str),
    least: f64,
) -> Target {
    let both = cpu(run, ours).zip(cpu(run, theirs)).map(|(ours, theirs)| {
        let ((little, much), (few, many)) = (ours.median_within(), theirs.median_within());
        // What takes nothing that can be measured may be any times cheaper.
        let most = if little > 0.0 { many / little } else { f64::INFINITY };
        (ours.median(), theirs.median(), few / much, most)
    });
    Target {
        what,
        wanted,
        measured: both.map_or_else(missing, |(ours, theirs, low, high)| {
            let times = if ours > 0.0 { format!("{:.1}", theirs / ours) } else { "unmeasurably many".to_owned() };
            format!(
                "{times} × cheaper, by this run's noise {low:.1} to {high:.1} ({ours:+.1} µs against {theirs:+.1} µs)"
            )
        }),
        reached: both.map(|(.., low, _)| low >= least),
    }
}

/// Whether the last point is at most a half above the first.
fn flat(curve: Option<&Curve>, what: &'static str, wanted: &'static str) -> Target {
    let ends = curve.and_then(|curve| {
        let points = &curve.lines.first()?.points;
        Some((curve, points.first()?.1, points.last()?.1))
    });
    Target {
        what,
        wanted,
        measured: ends.map_or_else(missing, |(curve, first, last)| {
            format!("{:.2} × the cost with the fewest ({first:.1} to {last:.1} {})", last / first, curve.unit)
        }),
        reached: ends.map(|(_, first, last)| last / first <= 1.5),
    }
}

fn memory(run: &Run) -> Target {
    let resident = |name: &str| {
        run.footprints.iter().find(|footprint| footprint.variant == name).map(|f| f.resident.median())
    };
    let over_empty = |workers: &str| {
        let ours = resident(&format!("many tokens{workers}"))?;
        Some((ours - resident(&format!("empty SDK filter{workers}"))?) / 1024.0)
    };
    let (extra, with_four) = (over_empty(""), over_empty(", 4 workers"));
    Target {
        what: "memory of mesh-filters after as many users and tokens as below, over one empty plugin",
        wanted: "4 MB a worker",
        measured: extra.zip(with_four).map_or_else(missing, |(one, four)| {
            format!("{one:.1} MB with one worker, {:.1} MB a worker with four", four / 4.0)
        }),
        reached: extra.map(|extra| extra <= 4.0),
    }
}

fn size(run: &Run, module: &str, most: u64) -> Target {
    let (what, wanted) = match module {
        "jwt-auth" => ("size of jwt-auth.wasm", "350 KB"),
        "rate-limit" => ("size of rate-limit.wasm", "150 KB"),
        "trace-tags" => ("size of trace-tags.wasm", "150 KB"),
        _ => ("size of mesh-filters.wasm", "450 KB"),
    };
    let bytes = run.sizes.iter().find(|(name, _)| name == module).map(|(_, bytes)| *bytes);
    Target {
        what,
        wanted,
        measured: bytes.map_or_else(missing, |bytes| format!("{} KB", bytes / 1000)),
        reached: bytes.map(|bytes| bytes <= most * 1000),
    }
}
