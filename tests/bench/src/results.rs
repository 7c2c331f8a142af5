//! What was measured, as it is kept in `target/bench` between the parts of a benchmark and its report.

use serde::{Deserialize, Serialize};

/// All that a run has found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Run {
    /// What was measured on, with what: name and value.
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) costs: Vec<Cost>,
    pub(crate) timings: Vec<Timing>,
    pub(crate) footprints: Vec<Footprint>,
    pub(crate) curves: Vec<Curve>,
    /// Modules and their size in bytes.
    pub(crate) sizes: Vec<(String, u64)>,
}

/// Instructions a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) variant: String,
    /// Of a bare Envoy with the same traffic, in the same process.
    pub(crate) bare: f64,
    /// Over the bare Envoy.
    pub(crate) added: f64,
    /// Of those added, in compiled Wasm; the others are Envoy's, on behalf of the filter.
    pub(crate) in_wasm: f64,
    /// Relative difference of the last two windows.
    pub(crate) spread: f64,
}

/// Repeated measurements of one thing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Samples(pub(crate) Vec<f64>);

impl Samples {
    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted
    }

    pub(crate) fn median(&self) -> f64 {
        let sorted = self.sorted();
        let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
        f64::midpoint(sorted[last / 2], sorted[sorted.len() / 2])
    }

    /// Where the median of more and more rounds would be, with 95 % confidence: samples as far from the
    /// middle of their order as chance allows (the sign test's interval, by the normal approximation). With
    /// few samples, their range.
    pub(crate) fn median_within(&self) -> (f64, f64) {
        let sorted = self.sorted();
        let Some(last) = sorted.len().checked_sub(1) else { return (f64::NAN, f64::NAN) };
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let out = ((sorted.len() as f64 - 1.96 * (sorted.len() as f64).sqrt()) / 2.0) as usize;
        (sorted[out], sorted[last - out])
    }

    /// The lowest and the highest.
    pub(crate) fn range(&self) -> (f64, f64) {
        let sorted = self.sorted();
        (sorted.first().copied().unwrap_or(f64::NAN), sorted.last().copied().unwrap_or(f64::NAN))
    }
}

/// How a variant did under load; one sample a round.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Timing {
    pub(crate) variant: String,
    /// CPU time of Envoy a request, microseconds.
    pub(crate) cpu: Samples,
    /// Requests a second, with as many as the connections allow.
    pub(crate) throughput: Samples,
    /// Latency at a fixed rate, microseconds.
    pub(crate) p50: Samples,
    /// The same, exceeded by one in a hundred.
    pub(crate) p99: Samples,
}

/// What a variant takes before and between requests; one sample for each start.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Footprint {
    pub(crate) variant: String,
    /// Resident memory of Envoy without the pages of files, kilobytes.
    pub(crate) resident: Samples,
    /// From the start of Envoy until it serves, milliseconds.
    pub(crate) start: Samples,
}

/// How a cost grows with a number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Curve {
    pub(crate) name: String,
    /// What the number counts.
    pub(crate) of: String,
    /// What the values are.
    pub(crate) unit: String,
    pub(crate) lines: Vec<Line>,
}

/// One line of a curve.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_or_between_the_two_in_the_middle() {
        assert!((Samples(vec![3.0, 1.0, 9.0]).median() - 3.0).abs() < f64::EPSILON);
        assert!((Samples(vec![4.0, 1.0, 9.0, 2.0]).median() - 3.0).abs() < f64::EPSILON);
    }

    #[test]
    fn the_median_is_known_better_than_the_range() {
        let samples = |number: u32| Samples((0..number).map(f64::from).collect());
        // Of 15, the fourth from each end (tables of the sign test).
        assert_eq!(samples(15).median_within(), (3.0, 11.0));
        assert_eq!(samples(3).median_within(), (0.0, 2.0));
    }
}
