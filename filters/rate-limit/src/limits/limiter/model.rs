//! A model check: every interleaving of the workers' reads and writes of shared data, up to the bounds of
//! each test.
//!
//! A worker's request is run from its start again and again, each time with one more answer of the shared
//! data known; at the first operation whose answer is not known yet it is cut off. So the real code is
//! explored, without threads.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::*;
use crate::limits::gcra::Rate;
use crate::limits::slots::{KeyHash, OnFull, Table};

/// An operation that is to be answered, and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Operation {
    Get(String),
    Set(String, Vec<u8>, u32),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Answer {
    Got(Option<(Vec<u8>, u32)>),
    Set(bool),
}

/// The shared data as one worker's replayed request sees it.
struct Replay<'a> {
    known: &'a [Answer],
    next: Cell<usize>,
    wanted: RefCell<Option<Operation>>,
}

const CUT_OFF: HostError = HostError { call: "cut off", status: 0 };

impl Replay<'_> {
    fn answer(&self, operation: Operation) -> Result<Answer, HostError> {
        let at = self.next.get();
        self.next.set(at + 1);
        self.known.get(at).cloned().ok_or_else(|| {
            self.wanted.borrow_mut().get_or_insert(operation);
            CUT_OFF
        })
    }
}

impl SharedStore for Replay<'_> {
    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, HostError> {
        match self.answer(Operation::Get(key.to_owned()))? {
            Answer::Got(value) => Ok(value),
            Answer::Set(_) => Err(CUT_OFF),
        }
    }

    fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<bool, HostError> {
        match self.answer(Operation::Set(key.to_owned(), value.to_vec(), cas))? {
            Answer::Set(written) => Ok(written),
            Answer::Got(_) => Err(CUT_OFF),
        }
    }
}

/// A request.
#[derive(Clone)]
struct Job {
    charges: Vec<ChargeRequest>,
    /// Its response is one that its limit does not count: when it is there, the charge is given back.
    refund: bool,
    /// This is not a request but a configuration, which makes the table as large as this.
    grow: Option<Table>,
}

impl From<Vec<ChargeRequest>> for Job {
    fn from(charges: Vec<ChargeRequest>) -> Self {
        Self { charges, refund: false, grow: None }
    }
}

#[derive(Clone)]
struct Worker {
    limiter: Limiter,
    /// Requests still to come, last first.
    requests: Vec<Job>,
    /// When the running request came, and what it has been answered.
    running: Option<(u64, Vec<Answer>)>,
    /// What the running request gives back, and the time at which it came.
    refunding: Option<(ChargeRequest, Receipt, u64)>,
}

#[derive(Clone)]
struct State {
    data: BTreeMap<String, (Vec<u8>, u32)>,
    workers: Vec<Worker>,
    clock: u64,
    ticks: u32,
    /// Time and table of each admission that stays counted.
    admitted: Vec<(u64, Table)>,
    denied: usize,
}

/// What must hold when every worker is done.
type Check = Box<dyn Fn(&State) -> Result<(), String>>;

struct Model {
    tick: u64,
    /// Whether a write takes place though somebody else has written: what a broken host, or a limiter that
    /// does not look at the answer, would do.
    lose_updates: bool,
    seen: HashSet<u64>,
    check: Check,
    ends: usize,
}

impl Model {
    fn explore(&mut self, state: &State) -> Result<(), String> {
        if !self.seen.insert(fingerprint(state)) {
            return Ok(());
        }
        let mut ended = true;
        for index in 0..state.workers.len() {
            let mut next = state.clone();
            if self.step(&mut next, index) {
                ended = false;
                self.explore(&next)?;
            }
        }
        if state.ticks > 0 && !ended {
            let mut next = state.clone();
            next.ticks -= 1;
            next.clock += self.tick;
            self.explore(&next)?;
        }
        if ended {
            self.ends += 1;
            (self.check)(state)?;
        }
        Ok(())
    }

    /// Runs one worker up to and with its next operation; `false` where it has nothing left to do.
    fn step(&self, state: &mut State, index: usize) -> bool {
        let worker = &mut state.workers[index];
        let Some(Job { charges, refund, grow }) = worker.requests.last().cloned() else { return false };
        let Some((now, mut known)) = worker.running.take() else {
            worker.running = Some((state.clock, Vec::new()));
            return true;
        };
        let refunding = worker.refunding;
        let attempt = |known: &[Answer]| {
            let replay = Replay { known, next: Cell::new(0), wanted: RefCell::new(None) };
            let limiter = worker.limiter.clone();
            let result = match (&refunding, grow) {
                (Some((charge, receipt, _)), _) => {
                    limiter.refund(&replay, charge, *receipt, now);
                    Ok(Vec::new())
                }
                (None, Some(table)) => table.create(&replay).map(|_| Vec::new()),
                (None, None) => limiter.charge(&replay, &charges, now),
            };
            (replay.wanted.into_inner(), limiter, result)
        };
        let (wanted, mut limiter, mut result) = attempt(&known);
        if let Some(operation) = wanted {
            known.push(apply(&mut state.data, operation, self.lose_updates));
            let (wanted, later, outcome) = attempt(&known);
            if wanted.is_some() {
                worker.running = Some((now, known));
                return true;
            }
            (limiter, result) = (later, outcome);
        }
        worker.limiter = limiter;
        if let Some((charge, _, came)) = worker.refunding.take() {
            worker.requests.pop();
            let position = state.admitted.iter().position(|admission| *admission == (came, charge.table));
            state.admitted.swap_remove(position.unwrap());
            return true;
        }
        let snapshots = result.unwrap();
        if grow.is_some() {
            worker.requests.pop();
            return true;
        }
        if let (true, Some(receipt)) = (refund, snapshots[0].receipt) {
            worker.refunding = Some((charges[0], receipt, now));
        } else {
            worker.requests.pop();
        }
        let all = snapshots.len() == charges.len();
        if all && snapshots.iter().all(|snapshot| snapshot.verdict == Verdict::Admitted) {
            state.admitted.extend(charges.iter().map(|charge| (now, charge.table)));
        } else {
            state.denied += 1;
        }
        true
    }
}

/// The host's rules.
fn apply(data: &mut BTreeMap<String, (Vec<u8>, u32)>, operation: Operation, lose_updates: bool) -> Answer {
    match operation {
        Operation::Get(key) => Answer::Got(data.get(&key).cloned()),
        Operation::Set(key, value, cas) => {
            let known = data.get(&key).map(|(_, cas)| *cas);
            if cas != 0 && known.is_some_and(|known| known != cas) && !lose_updates {
                return Answer::Set(false);
            }
            data.insert(key, (value, known.unwrap_or_default() + 1));
            Answer::Set(true)
        }
    }
}

fn fingerprint(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.data.hash(&mut hasher);
    (state.clock, state.ticks, state.denied).hash(&mut hasher);
    for worker in &state.workers {
        worker.limiter.leases.places().for_each(|lease| lease.get().hash(&mut hasher));
        worker.requests.len().hash(&mut hasher);
        worker.running.hash(&mut hasher);
        let refunding = worker.refunding.map(|(_, receipt, came)| (receipt.start, receipt.end, came));
        refunding.hash(&mut hasher);
    }
    let mut admitted: Vec<String> = state.admitted.iter().map(|admission| format!("{admission:?}")).collect();
    admitted.sort();
    admitted.hash(&mut hasher);
    hasher.finish()
}

const SECOND: u64 = 1_000_000_000;
const START: u64 = 1_000 * SECOND;

fn charge_request(number: u8, requests: u32, burst: u32) -> ChargeRequest {
    ChargeRequest {
        table: Table::new(number, 8),
        hash: KeyHash { place: 0, tag: 1 },
        rate: Rate::new(requests, Duration::from_secs(1), burst).unwrap(),
        cost: 1,
        on_full: OnFull::Evict,
        single: Some(usize::from(number)),
        refundable: false,
    }
}

/// Runs all interleavings of workers with these requests each; the answer is how many ends there are.
fn explore<J: Into<Job> + Clone>(
    workers: &[Vec<J>],
    longest_lease: u64,
    (tick, ticks): (u64, u32),
    lose_updates: bool,
    check: impl Fn(&State) -> Result<(), String> + 'static,
) -> Result<usize, String> {
    let store = crate::testing::MemoryStore::default();
    let mut limiter = Limiter::new(3, longest_lease, false);
    limiter.leases.keep_singles();
    let workers: Vec<Vec<Job>> =
        workers.iter().map(|jobs| jobs.iter().cloned().map(Into::into).collect()).collect();
    let old = workers.iter().filter(|jobs| jobs.iter().all(|job| job.grow.is_none()));
    for charge in old.flatten().flat_map(|job| &job.charges) {
        charge.table.create(&store).unwrap();
    }
    let data =
        store.names().into_iter().map(|name| (name.clone(), store.get(&name).unwrap().unwrap())).collect();
    let workers = workers.into_iter().map(|requests| Worker {
        limiter: limiter.clone(),
        requests: requests.into_iter().rev().collect(),
        running: None,
        refunding: None,
    });
    let state =
        State { data, workers: workers.collect(), clock: START, ticks, admitted: Vec::new(), denied: 0 };
    let mut model = Model { tick, lose_updates, seen: HashSet::new(), check: Box::new(check), ends: 0 };
    model.explore(&state)?;
    Ok(model.ends)
}

/// The formula over every window of one limit's admissions, by the time at which the requests came.
fn formula(state: &State, charge: &ChargeRequest, requests: u64) -> Result<(), String> {
    let mut times: Vec<u64> = state
        .admitted
        .iter()
        .filter(|(_, table)| table.number() == charge.table.number())
        .map(|(time, _)| *time)
        .collect();
    times.sort_unstable();
    for (first, from) in times.iter().enumerate() {
        for (count, until) in times[first..].iter().enumerate() {
            let most = u64::from(charge.rate.burst()) + (until - from) * requests / SECOND;
            if count as u64 + 1 > most {
                return Err(format!("{} admitted within {} ns: {times:?}", count + 1, until - from));
            }
        }
    }
    Ok(())
}

fn count(state: &State, charge: &ChargeRequest) -> usize {
    state.admitted.iter().filter(|(_, table)| table.number() == charge.table.number()).count()
}

#[test]
fn three_workers_admit_exactly_the_burst() {
    let limit = charge_request(0, 1, 2);
    let worker = vec![vec![limit]; 1];
    let ends = explore(&[worker.clone(), worker.clone(), worker], SECOND / 10, (0, 0), false, move |state| {
        formula(state, &limit, 1)?;
        if count(state, &limit) == 2 { Ok(()) } else { Err(format!("{} admitted", count(state, &limit))) }
    });
    assert!(ends.unwrap() > 1);
}

#[test]
fn leases_over_time_keep_the_formula() {
    // A long lease and a wide burst, so that leases are taken: 64 at once, one each 100 ms.
    let limit = charge_request(0, 10, 64);
    let worker = vec![vec![limit]; 3];
    explore(&[worker.clone(), worker], SECOND, (SECOND / 4, 3), false, move |state| {
        formula(state, &limit, 10)
    })
    .unwrap();
    // A narrow burst, so that requests are denied.
    let limit = charge_request(0, 10, 2);
    let worker = vec![vec![limit]; 2];
    explore(&[worker.clone(), worker.clone(), worker], SECOND, (SECOND / 10, 2), false, move |state| {
        formula(state, &limit, 10)
    })
    .unwrap();
}

#[test]
fn undone_charges_keep_the_formula() {
    // Two workers want both limits, in different orders, a third only one of them; there is room for one of
    // each.
    let (a, b) = (charge_request(0, 1, 1), charge_request(1, 1, 1));
    let workers = [vec![vec![a, b]], vec![vec![b, a]], vec![vec![b]]];
    let ends = explore(&workers, SECOND, (SECOND, 1), false, move |state| {
        formula(state, &a, 1)?;
        formula(state, &b, 1)
    });
    assert!(ends.unwrap() > 1);
    // Wider, and each worker comes again.
    let (a, b) = (charge_request(0, 2, 2), charge_request(1, 2, 1));
    let workers = [vec![vec![a, b]; 2], vec![vec![b, a]; 2]];
    explore(&workers, SECOND, (SECOND / 2, 2), false, move |state| {
        formula(state, &a, 2)?;
        formula(state, &b, 2)
    })
    .unwrap();
}

#[test]
fn undone_charge_can_be_used_again() {
    // One worker wants both, another takes the second alone. Whatever happens, afterwards the first limit has
    // lost no more than what was admitted and what the workers still hold for their next request.
    let (a, b) = (charge_request(0, 1, 1), charge_request(1, 1, 1));
    let workers = [vec![vec![a, b], vec![a]], vec![vec![b]]];
    explore(&workers, SECOND, (0, 0), false, move |state| {
        // Nobody but the first worker asks for the first limit, so one of its two requests always gets it.
        if count(state, &a) == 1 { Ok(()) } else { Err(format!("{} admitted", count(state, &a))) }
    })
    .unwrap();
}

/// A request whose charge stays, and one whose charge is given back.
fn refundable(limit: ChargeRequest) -> [Job; 2] {
    let charges = vec![ChargeRequest { refundable: true, ..limit }];
    [charges.clone().into(), Job { refund: true, ..charges.into() }]
}

#[test]
fn refunds_what_stays_counted_keeps_the_formula() {
    let limit = charge_request(0, 1, 2);
    let [stays, returns] = refundable(limit);
    let workers =
        [vec![returns.clone(), stays.clone()], vec![stays.clone(), returns.clone()], vec![stays.clone()]];
    let ends = explore(&workers, SECOND, (0, 0), false, move |state| formula(state, &limit, 1));
    assert!(ends.unwrap() > 1);
    let workers = [vec![returns.clone(), stays.clone()], vec![stays, returns]];
    explore(&workers, SECOND, (SECOND / 2, 3), false, move |state| formula(state, &limit, 1)).unwrap();
}

#[test]
fn table_that_grows_during_charges_forgets_no_key() {
    for (place, larger) in [(0, 16), (1, 16), (2, 32), (3, 32)] {
        let old = ChargeRequest { hash: KeyHash { place, tag: 1 }, ..charge_request(0, 1, 2) };
        let table = Table::new(0, larger);
        let new = ChargeRequest { table, ..old };
        let grow = Job { charges: Vec::new(), refund: false, grow: Some(table) };
        let counts = |charge| Job::from(vec![charge]);
        let workers = [vec![counts(old), counts(old)], vec![grow.clone(), counts(new)]];
        let ends = explore(&workers, SECOND / 10, (0, 0), false, move |state| match count(state, &old) {
            2 => Ok(()),
            other => Err(format!("{other} admitted")),
        });
        assert!(ends.unwrap() > 1);
        let [stays, returns] = refundable(old);
        let workers = [vec![returns, stays], vec![grow, counts(new)]];
        explore(&workers, SECOND / 10, (0, 0), false, move |state| formula(state, &old, 1)).unwrap();
    }
}

#[test]
fn refunded_charge_can_be_used_again() {
    let limit = charge_request(0, 1, 1);
    let [stays, returns] = refundable(limit);
    // Whoever comes first, one request stays counted.
    let workers = [vec![returns.clone(), stays.clone()], vec![stays.clone()]];
    explore(&workers, SECOND, (0, 0), false, move |state| match count(state, &limit) {
        1 => Ok(()),
        other => Err(format!("{other} counted")),
    })
    .unwrap();
    // And if none stays, none is counted.
    let workers = [vec![returns.clone(); 2], vec![returns]];
    explore(&workers, SECOND, (0, 0), false, move |state| match count(state, &limit) {
        0 if left(state, &limit) == 1 => Ok(()),
        other => Err(format!("{other} counted, {} left", left(state, &limit))),
    })
    .unwrap();
}

/// How many requests the limit still admits.
fn left(state: &State, charge: &ChargeRequest) -> u64 {
    let store = crate::testing::MemoryStore::default();
    for (name, (value, _)) in &state.data {
        store.set(name, value, 0).unwrap();
    }
    let found = charge.table.find(&store, charge.hash, state.clock, charge.on_full).unwrap();
    charge.rate.remaining(found.tat, state.clock)
}

#[test]
fn limiter_that_ignores_lost_writes_is_found_by_the_model() {
    let limit = charge_request(0, 1, 1);
    let worker = vec![vec![limit]];
    let found = explore(&[worker.clone(), worker], 0, (0, 0), true, move |state| formula(state, &limit, 1));
    assert!(found.unwrap_err().starts_with("2 admitted within 0 ns"));
}
