//! The table and the pictures.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use plotters::prelude::*;
use soak::judge::{Judge, Kind};
use soak::plan::Form;

/// What a soak of one form of the filters showed.
pub(crate) struct Outcome {
    pub(crate) form: Form,
    pub(crate) judge: Judge,
    pub(crate) requests: u64,
    pub(crate) versions: u32,
    /// Resident memory of the proxy over time, in MB.
    pub(crate) memory: Vec<(f64, f64)>,
    /// Latency over time: the median of each second, the slowest of a hundred, the slowest; in milliseconds.
    pub(crate) latency: Vec<(f64, [f64; 3])>,
    /// The same three of the whole soak.
    pub(crate) summary: [f64; 3],
}

pub(crate) fn form_name(form: Form) -> &'static str {
    match form {
        Form::Three => "three plugins",
        Form::Joined => "mesh-filters",
        Form::Native => "native module",
    }
}

/// One column for each form.
pub(crate) fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    let mut row = |name: &str, cells: &mut dyn Iterator<Item = String>| {
        let _ = write!(text, "{name:36}");
        for cell in cells {
            let _ = write!(text, "{cell:>16}");
        }
        text.push('\n');
    };
    row("", &mut outcomes.iter().map(|outcome| form_name(outcome.form).to_owned()));
    row("requests judged", &mut outcomes.iter().map(|outcome| outcome.requests.to_string()));
    row("versions of the configuration", &mut outcomes.iter().map(|outcome| outcome.versions.to_string()));
    for kind in Kind::ALL {
        let count = |outcome: &Outcome| outcome.judge.counts.get(&kind).copied().unwrap_or(0).to_string();
        row(kind.name(), &mut outcomes.iter().map(count));
    }
    let megabytes =
        |value: Option<&(f64, f64)>| value.map_or_else(String::new, |(_, mb)| format!("{mb:.0} MB"));
    row("memory at first", &mut outcomes.iter().map(|outcome| megabytes(outcome.memory.first())));
    let most =
        |outcome: &Outcome| megabytes(outcome.memory.iter().max_by(|one, other| one.1.total_cmp(&other.1)));
    row("memory at most", &mut outcomes.iter().map(most));
    row("memory at last", &mut outcomes.iter().map(|outcome| megabytes(outcome.memory.last())));
    for (n, name) in ["latency, median", "latency, 99 of 100", "latency, slowest"].into_iter().enumerate() {
        row(name, &mut outcomes.iter().map(|outcome| format!("{:.1} ms", outcome.summary[n])));
    }
    let mut names: Vec<&String> = outcomes.iter().flat_map(|outcome| outcome.judge.outcomes.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let count = |outcome: &Outcome| outcome.judge.outcomes.get(name).copied().unwrap_or(0).to_string();
        row(&format!("  {name}"), &mut outcomes.iter().map(count));
    }
    text
}

/// The latencies of each second, from when each request was sent and how long it took.
pub(crate) fn by_second(latencies: &[(Duration, Duration)]) -> Vec<(f64, [f64; 3])> {
    let mut seconds: BTreeMap<u32, Vec<Duration>> = BTreeMap::new();
    for (sent, took) in latencies {
        let second = u32::try_from(sent.as_secs()).unwrap_or(u32::MAX);
        seconds.entry(second).or_default().push(*took);
    }
    seconds.into_iter().map(|(second, took)| (f64::from(second), summary(took.into_iter()))).collect()
}

/// The median, the slowest of a hundred and the slowest, in milliseconds.
pub(crate) fn summary(latencies: impl Iterator<Item = Duration>) -> [f64; 3] {
    let mut sorted: Vec<Duration> = latencies.collect();
    sorted.sort_unstable();
    let last = sorted.len().saturating_sub(1);
    [50, 99, 100].map(|part| {
        let at = sorted.get((sorted.len() * part / 100).min(last));
        at.map_or(0.0, |took| took.as_secs_f64() * 1e3)
    })
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Memory and latency over time, as pictures in a folder.
pub(crate) fn pictures(folder: &Path, outcomes: &[Outcome]) -> Result<()> {
    for outcome in outcomes {
        let name = form_name(outcome.form);
        let file = |what: &str| folder.join(format!("{what}-{}.svg", name.replace(' ', "-")));
        chart(
            &file("memory"),
            &format!("{name}: memory of the proxy, MB"),
            &[("resident", outcome.memory.clone())],
        )?;
        let line = |n: usize| outcome.latency.iter().map(|(second, of)| (*second, of[n])).collect::<Vec<_>>();
        chart(
            &file("latency"),
            &format!("{name}: latency, ms"),
            &[("slowest", line(2)), ("99 of 100", line(1)), ("median", line(0))],
        )?;
    }
    Ok(())
}

const COLORS: [RGBColor; 3] = [RGBColor(170, 170, 170), RGBColor(200, 90, 40), RGBColor(38, 110, 190)];

fn chart(path: &Path, title: &str, lines: &[(&str, Vec<(f64, f64)>)]) -> Result<()> {
    let area = SVGBackend::new(path, (800, 360)).into_drawing_area();
    area.fill(&WHITE)?;
    let points = || lines.iter().flat_map(|(_, points)| points);
    let last = points().map(|point| point.0).fold(1.0, f64::max);
    let highest = points().map(|point| point.1).fold(1.0, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(34)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..last, 0.0..highest)?;
    chart.configure_mesh().x_desc("seconds").draw()?;
    for ((name, points), color) in lines.iter().zip(COLORS.iter().cycle()) {
        let color = *color;
        chart
            .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw()?;
    area.present()?;
    Ok(())
}
