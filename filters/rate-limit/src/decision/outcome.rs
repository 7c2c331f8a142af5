//! What can become of a request.

use plugin_kit::host::HostError;

use crate::config::Limit;
use crate::limits::charge::{ChargeRequest, Receipt, Snapshot, Stats};
use crate::reply::DenyReason;
use crate::service::protocol::{Descriptor, Header};

/// Which limits are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The limits that are checked before the request's token is verified.
    BeforeAuth,
    /// The other limits.
    AfterAuth,
    /// All limits: for a plugin that is called once for a request.
    All,
}

impl Stage {
    pub(super) fn checks(self, limit: &Limit) -> bool {
        match self {
            Self::BeforeAuth => limit.before_auth,
            Self::AfterAuth => !limit.before_auth,
            Self::All => true,
        }
    }
}

/// The decision, with what metrics count.
#[derive(Debug, Default)]
pub struct Decision {
    /// What becomes of the request.
    pub outcome: Outcome,
    /// Indexes of the limits that would have denied the request if they were enforced.
    pub reported: Vec<usize>,
    /// What happened while the limits were charged.
    pub stats: Stats,
    /// What happened between this worker and the rate limit service.
    pub service: ServiceStats,
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The request goes on.
    Admitted(Admission),
    /// The filter answers the request.
    Denied(Denial),
    /// The request waits for the rate limit service.
    Ask(Box<Question>),
}

impl Default for Outcome {
    fn default() -> Self {
        Self::Admitted(Admission::default())
    }
}

/// A request that goes on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Headers for the response.
    pub headers: Vec<Header>,
    /// Headers for the request, from the rate limit service.
    pub request_headers: Vec<Header>,
    /// Charges that depend on the response, for [`Limits::settle`](super::Limits::settle).
    pub pending: Vec<Pending>,
    /// The request could not be counted, and the configuration admits it nevertheless.
    pub uncounted: bool,
}

/// A request that the filter answers; [`Limits::reply`](super::Limits::reply) makes the answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Denial {
    /// The index of the limit that denies the request; `None` if the host failed before a limit was found.
    pub limit: Option<usize>,
    /// Why the request is denied.
    pub reason: DenyReason,
    /// Whether the request lacks a part of the limit's key, so that it shares its bucket with others.
    pub shared: bool,
    /// Why the rate limit service has not answered, if that is the reason.
    pub failure: Option<&'static str>,
    pub(super) headers: Vec<Header>,
    pub(super) body: Vec<u8>,
}

impl Denial {
    /// A denial that no limit is the reason for: the host failed.
    pub fn unavailable() -> Self {
        denied(None, DenyReason::Unavailable)
    }
}

pub(super) fn denied(limit: Option<usize>, reason: DenyReason) -> Denial {
    Denial { limit, reason, shared: false, failure: None, headers: Vec::new(), body: Vec::new() }
}

impl Counted {
    /// The denial by this limit.
    pub(super) fn denied(&self, reason: DenyReason) -> Denial {
        Denial { shared: self.shared, ..denied(Some(self.index), reason) }
    }
}

pub(super) fn unavailable(_: HostError) -> Denial {
    denied(None, DenyReason::Unavailable)
}

/// What the rate limit service is asked about a request, for
/// [`Limits::on_service_response`](super::Limits::on_service_response).
#[derive(Debug, PartialEq, Eq)]
pub struct Question {
    /// A serialised `RateLimitRequest`.
    pub message: Vec<u8>,
    pub(super) counted: Vec<Counted>,
}

/// A charge that is given back unless the response has one of the limit's statuses.
#[derive(Debug, PartialEq, Eq)]
pub struct Pending {
    pub(super) limit: usize,
    pub(super) charge: ChargeRequest,
    pub(super) receipt: Receipt,
}

/// What happened between this worker and the rate limit service, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServiceStats {
    /// The service found the request within all limits.
    pub ok: u32,
    /// The service found the request over a limit.
    pub over_limit: u32,
    /// The service was not asked because a key is known to be over its limit.
    pub remembered: u32,
    /// The service gave no usable answer: timeout, gRPC error or malformed response.
    pub failed: u32,
    /// The service was not asked because it has failed too often.
    pub skipped: u32,
    /// This worker stops asking the service.
    pub opened: bool,
    /// The service has answered after a pause, and this worker asks it again.
    pub closed: bool,
}

/// A limit that counts the request, and what it charges for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) index: usize,
    pub(super) enforced: bool,
    /// Whether the request lacks a part of the key.
    pub(super) shared: bool,
    pub(super) charge: ChargeRequest,
    /// What the rate limit service is asked about this limit.
    pub(super) descriptor: Option<Descriptor>,
}

impl Counted {
    pub(super) fn is_asked(&self) -> bool {
        self.descriptor.is_some()
    }

    pub(super) fn pending(&self, snapshot: &Snapshot) -> Option<Pending> {
        Some(Pending { limit: self.index, charge: self.charge, receipt: snapshot.receipt? })
    }
}
