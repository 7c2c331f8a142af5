//! What goes wrong around the proxy, and what changes in it: one thing after the other, as the seed says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

use envoy::{Cluster, Delivery, Envoy, Error, Wasm};
use serde_json::{Value, json};
use soak::plan::{Fault, Form, KEYS, PATIENT, Settings};
use soak::random::Random;
use soak::world::{Delivered, Troubles, World};
use tokio::runtime::Handle;

use crate::clients::{BurstKind, Crowd};
use crate::stage::{Mood, Stage, lock};

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// A new version of the configuration.
    Update,
    /// A configuration that must be refused.
    BadUpdate,
    /// The issuer has other keys.
    Rotation,
    /// Others are revoked.
    Revocation,
    /// A server has troubles for a while.
    Trouble(Peer),
    /// Many requests at once.
    Burst(BurstKind),
    /// Many requests at once while the server that they need does not answer.
    StalledBurst(BurstKind),
    /// The same, and the configuration changes while they wait.
    BurstThroughUpdate(BurstKind),
    /// The same, and the cluster of that server vanishes.
    BurstThroughLoss(BurstKind),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Issuer,
    List,
    Limits,
}

impl Peer {
    const ALL: [Self; 3] = [Self::Issuer, Self::List, Self::Limits];

    /// The one that the requests of a burst need.
    fn of(kind: BurstKind) -> Self {
        match kind {
            BurstKind::Global => Self::Limits,
            BurstKind::Listed => Self::List,
            _ => Self::Issuer,
        }
    }
}

const DECK: [Event; 24] = [
    Event::StalledBurst(BurstKind::UnknownKids),
    Event::Update,
    Event::Burst(BurstKind::Ready),
    Event::Rotation,
    Event::StalledBurst(BurstKind::Global),
    Event::Revocation,
    Event::Update,
    Event::Trouble(Peer::Issuer),
    Event::Burst(BurstKind::UnknownKids),
    Event::StalledBurst(BurstKind::RemoteKeys),
    Event::BurstThroughUpdate(BurstKind::UnknownKids),
    Event::Rotation,
    Event::BadUpdate,
    Event::Trouble(Peer::Limits),
    Event::Update,
    Event::StalledBurst(BurstKind::Listed),
    Event::Trouble(Peer::List),
    Event::Update,
    Event::Burst(BurstKind::RemoteKeys),
    Event::Burst(BurstKind::Listed),
    Event::BurstThroughUpdate(BurstKind::Global),
    Event::BurstThroughLoss(BurstKind::UnknownKids),
    Event::BurstThroughLoss(BurstKind::Listed),
    Event::BurstThroughLoss(BurstKind::Global),
];

/// Sizes of bursts. More than three hundred at once have filled a stack.
const SIZES: [usize; 4] = [150, 400, 700, 1000];

/// What makes the troubles.
pub(crate) struct Director {
    pub(crate) stage: Arc<Stage>,
    pub(crate) envoy: Arc<Mutex<Envoy>>,
    pub(crate) crowd: Crowd,
    pub(crate) runtime: Handle,
    pub(crate) modules: std::path::PathBuf,
    pub(crate) version: u32,
    /// The configuration that each plugin has; Envoy takes no notice of the same again.
    pub(crate) in_force: BTreeMap<String, String>,
    /// The largest burst.
    pub(crate) largest: usize,
    /// The servers around the proxy.
    pub(crate) peers: Peers,
    /// The server whose cluster is gone.
    pub(crate) lost: Option<Peer>,
    /// What could not be told to the proxy, or was taken and must not be.
    pub(crate) problems: Vec<String>,
}

impl Director {
    /// Makes troubles until the end of the soak, then sees to it that all is well.
    pub(crate) fn run(mut self) -> Self {
        let mut random = Random::of(self.stage.seed, 0xd1_4ec7);
        let mut first = true;
        if let Some(fault @ (Fault::ClusterLost | Fault::OutagePasses)) = self.stage.fault {
            self.lost = Some(Peer::Limits);
            self.deliver_clusters();
            if fault == Fault::OutagePasses {
                self.trouble(Peer::Limits, Troubles::begin);
            }
        }
        'soak: loop {
            // The first round begins with what has stopped proxies.
            let begin = if first { 3 } else { 0 };
            let deck = [&DECK[..begin], &random.shuffled(&DECK[begin..])].concat();
            first = false;
            for event in deck {
                let pause = 300 + u64::try_from(random.below(1200)).unwrap_or(0);
                sleep(Duration::from_millis(pause));
                if self.stage.has_ended() {
                    break 'soak;
                }
                self.happen(event, &mut random);
            }
        }
        self
    }

    fn happen(&mut self, event: Event, random: &mut Random) {
        match event {
            Event::Update => self.update(),
            Event::BadUpdate => self.bad_update(),
            Event::Rotation => {
                let mut keys = random.shuffled(&KEYS);
                keys.truncate(1 + random.below(2));
                let now = self.stage.now();
                self.stage.world().keys.set(now, keys);
            }
            Event::Revocation => {
                let users = (0..4).map(|_| random.below(PATIENT.start)).collect();
                let now = self.stage.now();
                self.stage.world().revoked.set(now, users);
            }
            Event::Trouble(peer) => {
                let mood = match random.below(4) {
                    0 => Some(Mood::Stalled(Duration::from_secs(4))),
                    1 => Some(Mood::Dead),
                    2 => Some(Mood::Rubbish(random.below(5))),
                    _ => None,
                };
                let lasts = Duration::from_millis(1000 + u64::try_from(random.below(2500)).unwrap_or(0));
                if let Some(mood) = mood {
                    self.set(peer, mood);
                    sleep(lasts);
                    self.set(peer, Mood::Well(Duration::ZERO));
                } else {
                    self.lose(peer);
                    sleep(lasts);
                    self.find_again(peer);
                }
            }
            Event::Burst(kind) => {
                let count = random.pick(&SIZES);
                self.burst(kind, count, random);
            }
            Event::BurstThroughUpdate(kind) => {
                let burst = self.waiting_burst(kind, random);
                self.update();
                let _ = self.runtime.block_on(burst);
                self.set(Peer::of(kind), Mood::Well(Duration::ZERO));
            }
            Event::BurstThroughLoss(kind) => {
                let burst = self.waiting_burst(kind, random);
                self.lose(Peer::of(kind));
                let _ = self.runtime.block_on(burst);
                self.find_again(Peer::of(kind));
                self.set(Peer::of(kind), Mood::Well(Duration::ZERO));
            }
            Event::StalledBurst(kind) => {
                let peer = Peer::of(kind);
                // It answers while they wait, or too late.
                let late = if peer == Peer::Limits { 2500 } else { 3500 };
                let stall = random.pick(&[500, 800, late]);
                self.set(peer, Mood::Stalled(Duration::from_millis(stall)));
                if kind != BurstKind::UnknownKids && kind != BurstKind::Global {
                    // A fresh configuration has yet to fetch what it needs.
                    self.update();
                }
                // Beyond the least time between two fetches.
                sleep(Duration::from_millis(1100));
                let count = random.pick(&SIZES[1..]);
                self.burst(kind, count, random);
                self.set(peer, Mood::Well(Duration::ZERO));
            }
        }
    }

    /// A burst that is under way.
    fn begin_burst(&self, kind: BurstKind, count: usize, random: &mut Random) -> tokio::task::JoinHandle<()> {
        // One connection is one worker's.
        let count = count.min(self.largest);
        let connections = if random.chance(70) { 1 } else { 4 };
        let (crowd, part) = (self.crowd.clone(), random.number());
        self.runtime.spawn(async move { crowd.burst(kind, count, connections, part).await })
    }

    /// A burst whose requests wait for a server that stalls.
    fn waiting_burst(&self, kind: BurstKind, random: &mut Random) -> tokio::task::JoinHandle<()> {
        self.set(Peer::of(kind), Mood::Stalled(Duration::from_millis(1500)));
        sleep(Duration::from_millis(1100));
        let count = random.pick(&SIZES[1..]);
        let burst = self.begin_burst(kind, count, random);
        sleep(Duration::from_millis(300));
        burst
    }

    fn burst(&self, kind: BurstKind, count: usize, random: &mut Random) {
        // One that panicked has left its requests without an answer, which is found.
        let _ = self.runtime.block_on(self.begin_burst(kind, count, random));
    }

    fn set(&self, peer: Peer, mood: Mood) {
        let well = matches!(mood, Mood::Well(_));
        let place = match peer {
            Peer::Issuer => &self.stage.issuer,
            Peer::List => &self.stage.list,
            Peer::Limits => &self.stage.limits,
        };
        if !well {
            self.trouble(peer, Troubles::begin);
        }
        *lock(place) = mood;
        if well {
            self.trouble(peer, Troubles::end);
        }
    }

    /// Notes that a server's trouble begins or ends.
    fn trouble(&self, peer: Peer, change: fn(&mut Troubles, Duration)) {
        let now = self.stage.now();
        let mut world = self.stage.world();
        let troubles = match peer {
            Peer::Issuer => &mut world.issuer,
            Peer::List => &mut world.list,
            Peer::Limits => &mut world.limits,
        };
        change(troubles, now);
    }

    /// The cluster of a server vanishes.
    fn lose(&mut self, peer: Peer) {
        self.trouble(peer, Troubles::begin);
        let lost = self.lost.replace(peer);
        self.deliver_clusters();
        self.lost = lost;
    }

    /// It comes back.
    fn find_again(&mut self, peer: Peer) {
        self.deliver_clusters();
        self.trouble(peer, Troubles::end);
    }

    /// Delivers the clusters that the version in force names, but for the one that is lost.
    fn deliver_clusters(&mut self) {
        let settings = Settings::of(self.stage.seed, self.version);
        let clusters = self.peers.clusters(&settings, self.lost);
        if let Err(error) = lock(&self.envoy).set_clusters(&clusters) {
            self.problems.push(format!("clusters were not taken: {error}"));
        }
    }

    /// Delivers the next version.
    fn update(&mut self) {
        if self.stage.fault == Some(Fault::StaleFetchedKey) {
            // A fresh configuration would fetch the keys anew.
            return;
        }
        let before = Settings::of(self.stage.seed, self.version);
        self.version += 1;
        let settings = Settings::of(self.stage.seed, self.version);
        // The plugins name clusters then that are not there yet, and those that they did name vanish.
        let moves = settings.era != before.era;
        if moves {
            for peer in Peer::ALL {
                self.trouble(peer, Troubles::begin);
            }
        }
        let written = self.stage.now();
        deliver(&mut self.stage.world(), settings.clone(), written);
        if self.stage.fault != Some(Fault::OldVersion) {
            match plugins(&settings, self.stage.form, self.stage.fault, &self.modules) {
                Ok(plugins) => {
                    for plugin in plugins {
                        let before = self.in_force.insert(plugin.name.clone(), plugin.configuration.clone());
                        if before.as_ref() == Some(&plugin.configuration) {
                            continue;
                        }
                        if let Err(error) = lock(&self.envoy).reconfigure(&plugin) {
                            self.problems.push(format!("version {} was not taken: {error}", self.version));
                        }
                    }
                }
                Err(error) => self.problems.push(error),
            }
        }
        let taken = self.stage.now();
        if let Some(last) = self.stage.world().versions.last_mut() {
            last.taken = Some(taken);
        }
        if moves {
            sleep(Duration::from_millis(700));
            self.deliver_clusters();
            for peer in Peer::ALL {
                self.trouble(peer, Troubles::end);
            }
        }
    }

    /// A mistake in the configuration: what is in force stays in force.
    fn bad_update(&mut self) {
        let settings = Settings::of(self.stage.seed, self.version);
        let Ok(plugins) = plugins(&settings, self.stage.form, None, &self.modules) else { return };
        for mut plugin in plugins {
            let mut config: Value = serde_json::from_str(&plugin.configuration).unwrap_or_default();
            // Another one each time: Envoy takes no notice of the same again.
            config[format!("mistake{}", self.stage.now().as_millis())] = json!(true);
            plugin.configuration = config.to_string();
            match lock(&self.envoy).reconfigure(&plugin) {
                Err(Error::Refused(_)) => {}
                Ok(()) => self.problems.push(format!("{} took a configuration with a mistake", plugin.name)),
                Err(error) => self.problems.push(error.to_string()),
            }
        }
    }
}

/// Where the servers around the proxy listen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peers {
    pub(crate) issuer: SocketAddr,
    pub(crate) list: SocketAddr,
    pub(crate) limits: SocketAddr,
}

impl Peers {
    /// Their clusters as a version names them, but for the one that is lost.
    pub(crate) fn clusters(self, settings: &Settings, lost: Option<Peer>) -> Vec<Cluster> {
        let cluster = |peer| {
            let (name, address) = match peer {
                Peer::Issuer => ("issuer", self.issuer),
                Peer::List => ("revoked", self.list),
                Peer::Limits => ("limits", self.limits),
            };
            let http2 = peer == Peer::Limits;
            Cluster { http2, discovered: true, ..Cluster::new(&settings.cluster(name), address) }
        };
        Peer::ALL.into_iter().filter(|peer| Some(*peer) != lost).map(cluster).collect()
    }
}

/// Notes that a version is on its way.
pub(crate) fn deliver(world: &mut World, settings: Settings, written: Duration) {
    world.versions.push(Delivered { settings, written, taken: None });
}

/// The plugins of a version, in the order of their chain.
pub(crate) fn plugins(
    settings: &Settings,
    form: Form,
    fault: Option<Fault>,
    modules: &std::path::Path,
) -> Result<Vec<Wasm>, String> {
    let (jwt, limits, tags) =
        (settings.jwt_auth(fault)?, settings.rate_limit(fault), settings.trace_tags(fault));
    let configurations = match form {
        Form::Three => vec![("trace-tags", tags), ("jwt-auth", jwt), ("rate-limit", limits)],
        Form::Joined | Form::Native => {
            vec![("mesh-filters", json!({ "traceTags": tags, "jwtAuth": jwt, "rateLimit": limits }))]
        }
    };
    configurations
        .into_iter()
        .map(|(name, config)| {
            let (file, target) = match form {
                Form::Native => ("libmesh_filters.so".to_owned(), "native"),
                Form::Three | Form::Joined => (format!("{name}.wasm"), "filters"),
            };
            let module = modules.join(file);
            if !module.is_file() {
                return Err(format!("{} is missing: run `make {target}`", module.display()));
            }
            let mut wasm = Wasm::new(name, module, config.to_string());
            wasm.delivery = Delivery::Discovery;
            wasm.native = (form == Form::Native).then(|| name.to_owned());
            Ok(wasm)
        })
        .collect()
}
