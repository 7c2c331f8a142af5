//! The decision about a request: which limits count it, by which keys, and what becomes of it.

use std::cell::RefCell;

use plugin_kit::exchange::{Exchange, HostError};
use plugin_kit::head::Head;
use plugin_kit::matcher::Request;
use plugin_kit::path::Readings;
use plugin_kit::reply::Reply;
use serde_json::Value;

use crate::config::{Condition, Config, Limit, Mode, OnConflict, OnMissingKey, Plans};
use crate::gcra::Rate;
use crate::key::KeyHasher;
use crate::limiter::{Demand, Limiter, Receipt, Standing, Tally, Verdict};
use crate::reply::{DenyReason, HeaderStyle, HeadersOn, denial, standing_headers};
use crate::slots::{SharedStore, hash_key};

/// Which limits are to be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Those that stand before authentication.
    BeforeAuth,
    /// The others.
    AfterAuth,
    /// All: for a plugin that is only asked once.
    All,
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on.
    Admitted {
        /// Headers for its response.
        headers: Vec<(String, String)>,
        /// Charges that depend on the response, for [`Limits::settle`].
        pending: Vec<Pending>,
        /// It was not counted, since other workers were always faster and the configuration lets it through.
        uncounted: bool,
    },
    /// It is answered here.
    Denied {
        /// The answer.
        reply: Reply,
        /// The index of the limit that denies; `None`: the host failed before one was found.
        limit: Option<usize>,
        /// Why.
        reason: DenyReason,
    },
}

/// A charge that is given back unless the response has one of the limit's statuses.
#[derive(Debug, PartialEq, Eq)]
pub struct Pending {
    limit: usize,
    demand: Demand,
    receipt: Receipt,
}

/// The decision, and what is to be counted.
#[derive(Debug)]
pub struct Decision {
    /// What becomes of the request.
    pub outcome: Outcome,
    /// Indices of the limits that only report and would have denied.
    pub reported: Vec<usize>,
    /// What happened on the way.
    pub tally: Tally,
}

/// The limits of one configuration, as one worker applies them.
#[derive(Debug)]
pub struct Limits {
    config: Config,
    /// For each limit: for its rate and for each plan.
    hashers: Vec<(KeyHasher, Vec<KeyHasher>)>,
    limiter: RefCell<Limiter>,
    created: usize,
}

/// A limit that counts the request, and as what.
struct Counted {
    index: usize,
    enforced: bool,
    demand: Demand,
}

impl Counted {
    fn pending(&self, standing: &Standing) -> Option<Pending> {
        Some(Pending { limit: self.index, demand: self.demand, receipt: standing.receipt? })
    }
}

impl Limits {
    /// Prepares the limits of `config`, in `on_configure`. Limits of the same name, rate and `scope` share their state;
    /// `random` makes the number that keys are hashed with, if there is none yet.
    pub fn new(
        config: Config,
        store: &impl SharedStore,
        scope: &[u8],
        random: impl FnOnce() -> [u8; 16],
    ) -> Result<Self, HostError> {
        let hasher = KeyHasher::new(&hash_key(store, random)?);
        let mut hashers = Vec::with_capacity(config.limits.len());
        let mut created = 0_usize;
        for limit in &config.limits {
            created = created.saturating_add(usize::from(limit.table.create(store)?));
            let of = |rate: &Rate| hasher.of_limit(scope, &limit.name, rate);
            let plans = limit
                .plans
                .as_ref()
                .map_or(Vec::new(), |plans| plans.rates.iter().map(|(_, rate)| of(rate)).collect());
            hashers.push((of(&limit.rate), plans));
        }
        let alone = config.limits.len() == 1 && config.limits.iter().all(|l| l.count_statuses.is_empty());
        let limiter = Limiter::new(config.singles, config.longest_lease, alone);
        Ok(Self { config, hashers, limiter: RefCell::new(limiter), created })
    }

    /// For how many limits the slots had to be created.
    pub fn created(&self) -> usize {
        self.created
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Decides about a request and counts it.
    pub fn decide(&self, store: &impl SharedStore, exchange: &Exchange<'_>, stage: Stage) -> Decision {
        let mut reported = Vec::new();
        let outcome = match self.outcome(store, exchange, stage, &mut reported) {
            Ok(outcome) => outcome,
            Err((limit, reason)) => self.deny(exchange, limit, reason, Vec::new()),
        };
        let tally = self.limiter.try_borrow_mut().map(|mut limiter| limiter.take_tally());
        Decision { outcome, reported, tally: tally.unwrap_or_default() }
    }

    fn outcome(
        &self,
        store: &impl SharedStore,
        exchange: &Exchange<'_>,
        stage: Stage,
        reported: &mut Vec<usize>,
    ) -> Result<Outcome, (Option<usize>, DenyReason)> {
        let unavailable = |_: HostError| (None, DenyReason::Unavailable);
        let counted = self.counted(exchange, stage, reported)?;
        if counted.is_empty() {
            return Ok(Outcome::Admitted { headers: Vec::new(), pending: Vec::new(), uncounted: false });
        }
        let now = exchange.monotonic_time().map_err(unavailable)?;
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let mut limiter = self.limiter.try_borrow_mut().map_err(|_| (None, DenyReason::Unavailable))?;

        let enforced: Vec<&Counted> = counted.iter().filter(|counted| counted.enforced).collect();
        let demands: Vec<Demand> = enforced.iter().map(|counted| counted.demand).collect();
        let standings = limiter.charge(store, &demands, now).map_err(unavailable)?;
        let mut uncounted = false;
        let worst = enforced.iter().zip(&standings).max_by_key(|(_, standing)| severity(standing));
        if let Some((counted, standing)) = worst {
            let reason = match standing.verdict {
                Verdict::Admitted => None,
                Verdict::Denied(wait) => Some(DenyReason::Limited(wait)),
                Verdict::Conflict if self.config.on_conflict == OnConflict::Allow => {
                    uncounted = true;
                    None
                }
                Verdict::Conflict => Some(DenyReason::Conflict),
            };
            if let Some(reason) = reason {
                let headers = self.headers(counted, standing);
                return Ok(self.deny(exchange, Some(counted.index), reason, headers));
            }
        }
        let mut pending: Vec<Pending> = enforced
            .iter()
            .zip(&standings)
            .filter_map(|(counted, standing)| counted.pending(standing))
            .collect();
        for counted in counted.iter().filter(|counted| !counted.enforced) {
            let standings = limiter.charge(store, &[counted.demand], now).map_err(unavailable)?;
            pending.extend(standings.first().and_then(|standing| counted.pending(standing)));
            if standings.iter().any(|standing| matches!(standing.verdict, Verdict::Denied(_))) {
                reported.push(counted.index);
            }
        }
        let headers = match worst {
            Some((counted, standing)) if self.config.reply.headers_on == HeadersOn::Always => {
                self.headers(counted, standing)
            }
            _ => Vec::new(),
        };
        Ok(Outcome::Admitted { headers, pending, uncounted })
    }

    /// Gives back the charges of a request that was answered with this status, where their limits count others only.
    pub fn settle(
        &self,
        store: &impl SharedStore,
        exchange: &Exchange<'_>,
        pending: Vec<Pending>,
        status: Option<u16>,
    ) -> Tally {
        let Ok(now) = exchange.monotonic_time() else { return Tally::default() };
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let Ok(mut limiter) = self.limiter.try_borrow_mut() else { return Tally::default() };
        for Pending { limit, demand, receipt } in pending {
            let counts = self.config.limits.get(limit).zip(status);
            if counts.is_some_and(|(limit, status)| !limit.count_statuses.contains(&status)) {
                limiter.refund(store, &demand, receipt, now);
            }
        }
        limiter.take_tally()
    }

    /// The limits that count the request.
    fn counted(
        &self,
        exchange: &Exchange<'_>,
        stage: Stage,
        reported: &mut Vec<usize>,
    ) -> Result<Vec<Counted>, (Option<usize>, DenyReason)> {
        let unavailable = |_: HostError| (None, DenyReason::Unavailable);
        let mut seen = Seen { limits: self, exchange, looked: None };
        let mut counted = Vec::with_capacity(self.config.limits.len());
        for exemption in &self.config.exempt {
            if seen.holds(exemption, Doubt::No).map_err(unavailable)? {
                return Ok(counted);
            }
        }
        for (index, (limit, hashers)) in self.config.limits.iter().zip(&self.hashers).enumerate() {
            let asked = match stage {
                Stage::BeforeAuth => limit.before_auth,
                Stage::AfterAuth => !limit.before_auth,
                Stage::All => true,
            };
            if !asked || !seen.holds(&limit.condition, Doubt::Yes).map_err(unavailable)? {
                continue;
            }
            match demand(limit, hashers, exchange).map_err(unavailable)? {
                Some(demand) => {
                    let enforced = limit.mode == Mode::Enforce && is_in_share(limit, &demand);
                    counted.push(Counted { index, enforced, demand });
                }
                None if limit.on_missing_key == OnMissingKey::Skip => {}
                None if limit.mode == Mode::Report => reported.push(index),
                None => return Err((Some(index), DenyReason::KeyMissing)),
            }
        }
        Ok(counted)
    }

    fn headers(&self, counted: &Counted, standing: &Standing) -> Vec<(String, String)> {
        let style = self.config.reply.headers;
        match self.config.limits.get(counted.index) {
            Some(limit) if style != HeaderStyle::None => {
                standing_headers(style, &limit.name, &counted.demand.rate, standing)
            }
            _ => Vec::new(),
        }
    }

    fn deny(
        &self,
        exchange: &Exchange<'_>,
        limit: Option<usize>,
        reason: DenyReason,
        headers: Vec<(String, String)>,
    ) -> Outcome {
        let name = limit.and_then(|index| self.config.limits.get(index)).map(|limit| limit.name.as_str());
        let request_id = exchange.header_joined("x-request-id").ok().flatten();
        let request_id = request_id.as_deref().and_then(|id| std::str::from_utf8(id).ok());
        Outcome::Denied {
            reply: denial(&self.config.reply, reason, name, request_id, headers),
            limit,
            reason,
        }
    }
}

/// Orders standings: a denial before room, the longer wait first, the less room first.
fn severity(standing: &Standing) -> (u64, u64) {
    match standing.verdict {
        Verdict::Denied(wait) => (2, wait.unwrap_or(u64::MAX)),
        Verdict::Conflict => (1, 0),
        Verdict::Admitted => (0, u64::MAX.saturating_sub(standing.remaining)),
    }
}

/// A ramp takes the same keys each time, and keeps them as it grows.
fn is_in_share(limit: &Limit, demand: &Demand) -> bool {
    limit.enforce_percent >= 100 || (demand.hash.tag >> 1) % 100 < u64::from(limit.enforce_percent)
}

/// The limit's part in the request; `None` where a part of the key is missing.
fn demand(
    limit: &Limit,
    (hasher, plan_hashers): &(KeyHasher, Vec<KeyHasher>),
    exchange: &Exchange<'_>,
) -> Result<Option<Demand>, HostError> {
    limit.head_use.prepare(exchange)?;
    let (mut rate, mut hasher, mut single) = (limit.rate, hasher, limit.single);
    if let Some(Plans { from, rates }) = &limit.plans {
        let plan = from.value(exchange)?;
        let known =
            rates.iter().zip(plan_hashers).find(|((name, _), _)| plan.as_deref() == Some(name.as_bytes()));
        if let Some(((_, plan_rate), plan_hasher)) = known {
            (rate, hasher, single) = (*plan_rate, plan_hasher, None);
        }
    }
    let mut hasher = hasher.clone();
    for source in &limit.key {
        let part = source.value(exchange)?;
        if part.is_none() && limit.on_missing_key != OnMissingKey::ShareOne {
            return Ok(None);
        }
        hasher.part(part.as_deref());
    }
    let cost = match &limit.cost_from {
        Some(source) => {
            let value = source.value(exchange)?;
            let number = value.as_deref().and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
            number.unwrap_or(limit.cost).max(1)
        }
        None => limit.cost,
    };
    let hash = hasher.finish();
    let refundable = !limit.count_statuses.is_empty();
    Ok(Some(Demand { table: limit.table, hash, rate, cost, on_full: limit.on_full, single, refundable }))
}

/// What a condition on a path says where the path has several readings, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// It holds if one reading says so.
    Yes,
    /// It holds only if every reading says so.
    No,
}

/// The request as conditions see it, read when the first of them looks.
struct Seen<'a> {
    limits: &'a Limits,
    exchange: &'a Exchange<'a>,
    looked: Option<std::rc::Rc<Head>>,
}

impl Seen<'_> {
    fn holds(&mut self, condition: &Condition, doubt: Doubt) -> Result<bool, HostError> {
        for (key, test) in &condition.claims {
            let value = self.exchange.published(key)?;
            let values = claim_values(value.as_deref().unwrap_or_default());
            if !test.holds(values.iter().map(Vec::as_slice)) {
                return Ok(false);
            }
        }
        if condition.request.is_always() {
            return Ok(true);
        }
        let head = match &self.looked {
            Some(head) => std::rc::Rc::clone(head),
            None => self.exchange.head()?,
        };
        self.looked = Some(std::rc::Rc::clone(&head));
        let request = Request::of(&head);
        if !condition.request.reads_path() {
            return Ok(condition.request.matches(&request, b""));
        }
        Ok(match Readings::of(request.target, self.limits.config.path_case) {
            Readings::One(reading) => condition.request.matches(&request, &reading),
            Readings::Several(readings) => {
                let mut matching =
                    readings.iter().map(|reading| condition.request.matches(&request, reading));
                if doubt == Doubt::Yes { matching.any(|holds| holds) } else { matching.all(|holds| holds) }
            }
            Readings::None => doubt == Doubt::Yes && condition.any_path.matches(&request, b""),
        })
    }
}

/// The values of a published claim: a list is published as a JSON array.
fn claim_values(published: &[u8]) -> Vec<Vec<u8>> {
    if published.is_empty() {
        return Vec::new();
    }
    match serde_json::from_slice(published) {
        Ok(Value::Array(values)) if values.iter().all(Value::is_string) => {
            values.iter().filter_map(Value::as_str).map(Into::into).collect()
        }
        _ => vec![published.to_vec()],
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use plugin_kit::testing::TableFacts;

    use super::*;
    use crate::testing::MemoryStore;

    const FAILURE: HostError = HostError { call: "any", status: 10 };

    fn limits(store: &MemoryStore, json: &str) -> Limits {
        let config = Config::parse(json.as_bytes(), &|_| None).unwrap();
        Limits::new(config, store, b"", || [1; 16]).unwrap()
    }

    fn facts(method: &str, path: &str) -> TableFacts {
        TableFacts { monotonic_time: Duration::from_secs(1_000), ..TableFacts::request(method, path) }
    }

    fn decide(limits: &Limits, store: &MemoryStore, facts: &TableFacts) -> Decision {
        limits.decide(store, &Exchange::new(1, facts), Stage::All)
    }

    /// `A` for admitted, otherwise the status and the code.
    fn verdict(decision: &Decision) -> String {
        match &decision.outcome {
            Outcome::Admitted { .. } => "A".to_owned(),
            Outcome::Denied { reply, reason, .. } => format!("{} {}", reply.status, reason.code()),
        }
    }

    const ONE: &str = r#"{"limits":[{"name":"total","rate":{"requests":1,"per":"1h"}}]}"#;

    #[test]
    fn what_the_host_fails_to_do_denies() {
        let store = MemoryStore::default();
        let limits = limits(&store, ONE);
        let request = facts("GET", "/");
        let no_clock = TableFacts { failure: Some(FAILURE), ..request.clone() };
        assert_eq!(verdict(&decide(&limits, &store, &no_clock)), "503 rate_limit_unavailable");
        store.failure.set(Some(FAILURE));
        assert_eq!(verdict(&decide(&limits, &store, &request)), "503 rate_limit_unavailable");
        store.failure.set(None);
        assert_eq!(verdict(&decide(&limits, &store, &request)), "A");
        let keyed = format!(r#"{{"limits":[{},"key":[{{"header":"a"}}]}}]}}"#, &ONE[11..ONE.len() - 3]);
        let keyed = super::tests::limits(&store, &keyed);
        assert_eq!(verdict(&decide(&keyed, &store, &no_clock)), "503 rate_limit_unavailable");
    }

    #[test]
    fn no_configuration_without_its_slots() {
        let store = MemoryStore::default();
        store.failure.set(Some(FAILURE));
        let config = Config::parse(ONE.as_bytes(), &|_| None).unwrap();
        assert!(Limits::new(config, &store, b"", || [1; 16]).is_err());
    }

    #[test]
    fn what_cannot_be_counted_is_denied_unless_the_configuration_says_otherwise() {
        let store = MemoryStore::default();
        store.conflicts.set(u32::MAX);
        let deny = limits(&store, ONE);
        assert_eq!(verdict(&decide(&deny, &store, &facts("GET", "/"))), "429 rate_limit_conflict");
        let allow = format!(r#"{}, "onConflict": "allow" }}"#, &ONE[..ONE.len() - 1]);
        let decision = decide(&limits(&store, &allow), &store, &facts("GET", "/"));
        assert!(matches!(decision.outcome, Outcome::Admitted { uncounted: true, .. }));
        assert_eq!(decision.tally.conflicts, 32);
    }

    #[test]
    fn plugins_of_different_names_share_no_limit() {
        let store = MemoryStore::default();
        let of = |scope: &[u8]| {
            Limits::new(Config::parse(ONE.as_bytes(), &|_| None).unwrap(), &store, scope, || [1; 16]).unwrap()
        };
        let request = facts("GET", "/");
        assert_eq!(verdict(&decide(&of(b"a"), &store, &request)), "A");
        assert_eq!(verdict(&decide(&of(b"b"), &store, &request)), "A");
        assert_eq!(verdict(&decide(&of(b"a"), &store, &request)), "429 rate_limit_exceeded");
    }

    #[test]
    fn a_path_in_doubt_is_counted_and_not_exempt() {
        let json = r#"{"limits":[{"name":"a","match":{"paths":["/a/*"],"methods":["GET"]},"rate":{"requests":0,"per":"1h"}}],
            "exempt":[{"match":{"paths":["/a/free"]}}]}"#;
        let store = MemoryStore::default();
        let limits = limits(&store, json);
        for (method, path, expected) in [
            ("GET", "/a", "429"),
            ("GET", "/b", "A"),
            ("POST", "/a", "A"),
            ("GET", "/b/../a/x", "429"),
            ("GET", "/%zz", "429"),
            ("POST", "/%zz", "A"),
            ("GET", "/a/free", "A"),
            ("GET", "/a/x/../free", "429"),
        ] {
            let verdict = verdict(&decide(&limits, &store, &facts(method, path)));
            assert!(verdict.starts_with(expected), "{method} {path}: {verdict}");
        }
    }

    #[test]
    fn claims_that_are_lists_are_looked_into() {
        let json = r#"{"limits":[{"name":"a","match":{"claims":{"roles":{"anyOf":["admin"]}}},"rate":{"requests":0,"per":"1h"}}]}"#;
        let store = MemoryStore::default();
        let limits = limits(&store, json);
        for (claim, expected) in [
            (None, "A"),
            (Some(r#"["user","admin"]"#), "429 rate_limit_exceeded"),
            (Some(r#"["user"]"#), "A"),
            (Some("admin"), "429 rate_limit_exceeded"),
            (Some("[admin"), "A"),
        ] {
            let mut facts = facts("GET", "/");
            if let Some(claim) = claim {
                facts = facts.property("jwt.roles", claim);
            }
            assert_eq!(verdict(&decide(&limits, &store, &facts)), expected, "{claim:?}");
        }
    }

    #[test]
    fn a_ramp_enforces_for_its_share_of_keys() {
        let limit = |percent| {
            format!(
                r#"{{"limits":[{{"name":"a","key":[{{"header":"x"}}],"enforcePercent":{percent},"rate":{{"requests":0,"per":"1h"}}}}]}}"#
            )
        };
        let store = MemoryStore::default();
        let denied = |percent| {
            let limits = limits(&store, &limit(percent));
            let key = |n: u32| facts("GET", "/").header("x", &n.to_string());
            let decisions = (0..1_000).map(|n| decide(&limits, &store, &key(n)));
            decisions.map(|d| (verdict(&d) != "A", d.reported.len())).collect::<Vec<_>>()
        };
        let (none, few, all) = (denied(0), denied(30), denied(100));
        let count = |decisions: &[(bool, usize)]| decisions.iter().filter(|(denied, _)| *denied).count();
        assert_eq!((count(&none), count(&all)), (0, 1_000));
        assert!((200..400).contains(&count(&few)), "{}", count(&few));
        assert!(none.iter().chain(&few).chain(&all).all(|(denied, reported)| *denied == (*reported == 0)));
    }
}
