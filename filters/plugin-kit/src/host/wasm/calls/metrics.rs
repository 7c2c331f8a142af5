//! Counters and gauges.

use std::cell::RefCell;

use proxy_wasm::types::MetricType;

use super::answer::OK;
use crate::host::wasm::abi;
use crate::host::wasm::counts::{Counts, Told};

thread_local! {
    static COUNTS: RefCell<Counts> = const { RefCell::new(Counts::new()) };
}

/// A counter that Envoy shows as `wasmcustom.<name>`. One that the host did not define counts nothing.
#[derive(Debug, Clone, Copy)]
pub struct Counter(Option<usize>);

impl Counter {
    /// Defines a counter, or finds the one of that name.
    pub fn define(name: &str) -> Self {
        let known = COUNTS.with_borrow(|counts| counts.find(name));
        // Not while the counts are borrowed: the host is called.
        Self(known.or_else(|| {
            let id = define_metric(MetricType::Counter, name)?;
            Some(COUNTS.with_borrow_mut(|counts| counts.insert(name, id)))
        }))
    }

    /// Adds one.
    pub fn increment(self) {
        self.add(1);
    }

    /// Adds `n`. The host is told at once or at the next tick, see [`Counts`]; nothing costs no host call.
    pub fn add(self, n: u32) {
        let Some(number) = self.0.filter(|_| n > 0) else { return };
        if let Some(told) = COUNTS.with_borrow_mut(|counts| counts.add(number, n)) {
            tell(told);
        }
    }
}

fn tell((id, n): Told) {
    // SAFETY: no pointers. A lost count is not worth a failed request.
    let _ = unsafe { abi::proxy_increment_metric(id, i64::from(n)) };
}

/// Tells the host what counters hold back.
pub(super) fn tell_pending() {
    COUNTS.with_borrow_mut(Counts::tick).into_iter().for_each(tell);
}

/// From now on, counters may hold back what [`tell_pending`] will tell.
pub(super) fn expect_ticks() {
    COUNTS.with_borrow_mut(Counts::expect_ticks);
}

/// Whether [`expect_ticks`] was called.
pub(super) fn expects_ticks() -> bool {
    COUNTS.with_borrow(Counts::expects_ticks)
}

/// A gauge that Envoy shows as `wasmcustom.<name>`.
#[derive(Debug, Clone, Copy)]
pub struct Gauge(Option<u32>);

impl Gauge {
    /// Defines a gauge, or finds the one of that name.
    pub fn define(name: &str) -> Self {
        Self(define_metric(MetricType::Gauge, name))
    }

    /// Sets the gauge.
    pub fn set(self, value: u64) {
        if let Some(id) = self.0 {
            // SAFETY: no pointers. A lost reading is not worth a failed request.
            let _ = unsafe { abi::proxy_record_metric(id, value) };
        }
    }
}

fn define_metric(kind: MetricType, name: &str) -> Option<u32> {
    let mut id = 0_u32;
    // SAFETY: `name` and the pointer are live for the call.
    let status = unsafe { abi::proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &raw mut id) };
    if status != OK {
        log::warn!("metric {name} is not counted: define_metric answered status {status}");
    }
    (status == OK).then_some(id)
}
