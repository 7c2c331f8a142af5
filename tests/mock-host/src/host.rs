//! What all VMs of one proxy share.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use crate::callouts::Callouts;
use crate::clock::Clock;
use crate::faults::Faults;
use crate::logs::Log;
use crate::metrics::Metrics;
use crate::properties::Value;
use crate::random::Random;
use crate::shared_data::SharedData;
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
