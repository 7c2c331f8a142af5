//! What all VMs of one proxy share.

pub(crate) mod callouts;
pub(crate) mod clock;
pub(crate) mod faults;
pub(crate) mod filter_state;
pub(crate) mod logs;
pub(crate) mod metrics;
pub(crate) mod random;
pub(crate) mod shared_data;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use crate::host::callouts::Callouts;
use crate::host::clock::Clock;
use crate::host::faults::Faults;
use crate::host::logs::Log;
use crate::host::metrics::Metrics;
use crate::host::random::Random;
use crate::host::shared_data::SharedData;
use crate::properties::Value;
use crate::stream::Stream;

/// The proxy as its VMs see it.
pub(crate) struct Host {
    pub(crate) clock: Clock,
    pub(crate) shared_data: SharedData,
    pub(crate) metrics: Metrics,
    pub(crate) logs: Vec<Log>,
    pub(crate) callouts: Callouts,
    pub(crate) faults: Faults,
    pub(crate) random: Random,
    /// `xds.node`.
    pub(crate) node: Value,
    pub(crate) streams: HashMap<u64, Stream>,
    /// Host calls by import name.
    pub(crate) calls: BTreeMap<&'static str, u64>,
    /// Which host calls were made in which callback.
    pub(crate) moments: BTreeSet<(String, &'static str)>,
    /// How deep the calls are in each other that run from within the actions after another call.
    pub(crate) nested: usize,
    /// Whether what ends is destroyed and stays known for now, see [`crate::Proxy::in_one_iteration`].
    pub(crate) one_iteration: bool,
    /// Streams that nobody holds any more and that are still known.
    pub(crate) dropped: Vec<u64>,
    /// How often a timer has fired.
    pub(crate) ticks: u64,
}

/// Shared by the VMs, which run one at a time.
pub(crate) type SharedHost = Rc<RefCell<Host>>;
