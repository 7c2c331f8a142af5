//! Counters, gauges and histograms, by name for the whole process.

use std::collections::BTreeMap;

use crate::vm::abi::Status;

/// The stats store of the process: the same name is the same metric in every VM (`Context::defineMetric`,
/// Envoy `context.cc`). Envoy shows it as `wasmcustom.<name>`; here the prefix is left off.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    values: BTreeMap<(Kind, String), u64>,
    samples: BTreeMap<String, Vec<u64>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The metrics that one VM has defined. An ID holds the kind in its two low bits (`kMetricTypeMask`,
/// `wasm.h`).
#[derive(Debug, Default)]
pub(crate) struct MetricIds {
    defined: BTreeMap<u32, (Kind, String)>,
    count: [u32; 3],
}

impl MetricIds {
    /// `Context::defineMetric`: a name that is defined again gets another ID of the same metric.
    pub(crate) fn define(&mut self, kind: u32, name: &str) -> Result<u32, Status> {
        let (kind, index) = match kind {
            0 => (Kind::Counter, 0),
            1 => (Kind::Gauge, 1),
            2 => (Kind::Histogram, 2),
            _ => return Err(Status::BAD_ARGUMENT),
        };
        self.count[index] += 1;
        let id = self.count[index] * 4 + kind as u32;
        self.defined.insert(id, (kind, name.to_owned()));
        Ok(id)
    }

    fn find(&self, id: u32) -> Result<&(Kind, String), Status> {
        self.defined.get(&id).ok_or(Status::NOT_FOUND)
    }
}

impl Metrics {
    pub(crate) fn define(&mut self, kind: Kind, name: &str) {
        self.values.entry((kind, name.to_owned())).or_default();
    }

    /// `Context::incrementMetric`: a counter takes only positive offsets, a gauge both, a histogram none.
    pub(crate) fn increment(&mut self, ids: &MetricIds, id: u32, offset: i64) -> Result<(), Status> {
        if id & 3 > 1 {
            return Err(Status::BAD_ARGUMENT);
        }
        let metric = ids.find(id)?;
        let value = self.values.entry(metric.clone()).or_default();
        match metric.0 {
            Kind::Counter if offset <= 0 => return Err(Status::BAD_ARGUMENT),
            Kind::Counter | Kind::Gauge => *value = value.wrapping_add_signed(offset),
            Kind::Histogram => return Err(Status::BAD_ARGUMENT),
        }
        Ok(())
    }

    /// `Context::recordMetric`: adds to a counter, sets a gauge, samples a histogram.
    pub(crate) fn record(&mut self, ids: &MetricIds, id: u32, value: u64) -> Result<(), Status> {
        let metric = ids.find(id)?;
        match metric.0 {
            Kind::Counter => {
                let current = self.values.entry(metric.clone()).or_default();
                *current = current.wrapping_add(value);
            }
            Kind::Gauge => {
                self.values.insert(metric.clone(), value);
            }
            Kind::Histogram => self.samples.entry(metric.1.clone()).or_default().push(value),
        }
        Ok(())
    }

    /// `Context::getMetric`: a histogram has no value.
    pub(crate) fn get(&self, ids: &MetricIds, id: u32) -> Result<u64, Status> {
        if id & 3 > 1 {
            return Err(Status::BAD_ARGUMENT);
        }
        Ok(self.values.get(ids.find(id)?).copied().unwrap_or_default())
    }

    /// Counters and gauges by name.
    pub(crate) fn values(&self) -> BTreeMap<String, u64> {
        let numbers = self.values.iter().filter(|((kind, _), _)| *kind != Kind::Histogram);
        numbers.map(|((_, name), value)| (name.clone(), *value)).collect()
    }

    pub(crate) fn samples(&self, name: &str) -> Vec<u64> {
        self.samples.get(name).cloned().unwrap_or_default()
    }
}

impl TryFrom<u32> for Kind {
    type Error = Status;

    fn try_from(number: u32) -> Result<Self, Status> {
        Ok(match number {
            0 => Self::Counter,
            1 => Self::Gauge,
            2 => Self::Histogram,
            _ => return Err(Status::BAD_ARGUMENT),
        })
    }
}
