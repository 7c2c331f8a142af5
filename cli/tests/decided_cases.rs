//! Every case of `testdata/cases`, decided as `mesh-filters explain` decides: status, headers to the service,
//! the reply's headers and body, filter state and tags. What only a proxy can decide stands in
//! `undecided.txt` beside this file, with the reason. `UPDATE=1` writes it anew.
#![allow(clippy::restriction)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;

use cases::Case;
use differential::CommandLine;

/// Why the cores alone do not decide a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Undecided {
    /// The case runs on a real Envoy only.
    Envoy,
    /// The proxy alone evaluates an expression.
    Expression,
}

impl Undecided {
    fn reason(self) -> &'static str {
        match self {
            Self::Envoy => "the case is about Envoy itself (`only: envoy`)",
            Self::Expression => "the proxy alone evaluates the expression",
        }
    }
}

/// Whether a case is decided as it says, and if not, why the cores alone cannot.
fn decide(case: &Case) -> Result<Option<Undecided>, String> {
    let host = CommandLine::default();
    match cases::run(case, &host) {
        Ok(()) => Ok(None),
        Err(_) if host.leaves_expressions_to_proxy() => Ok(Some(Undecided::Expression)),
        Err(_) if case.runs_on_envoy_only() => Ok(Some(Undecided::Envoy)),
        Err(failure) => Err(failure.to_string()),
    }
}

#[test]
fn each_case_is_decided_as_a_proxy_decides_it() {
    let all = cases::load_all().unwrap();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(case) = all.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    let outcome = (case.id(), decide(case));
                    outcomes.lock().unwrap().push(outcome);
                }
            });
        }
    });
    let (mut wrong, mut undecided, mut decided) = (Vec::new(), BTreeMap::new(), 0);
    for (name, outcome) in outcomes.into_inner().unwrap() {
        match outcome {
            Ok(None) => decided += 1,
            Ok(Some(why)) => drop(undecided.entry(why).or_insert_with(BTreeSet::new).insert(name)),
            Err(failure) => wrong.push(failure),
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
    let lines = undecided.iter().flat_map(|(why, names)| {
        std::iter::once(format!("{}:\n", why.reason())).chain(names.iter().map(|name| format!("  {name}\n")))
    });
    let list: String = lines.collect();
    println!("{decided} of {} cases are decided", all.len());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/undecided.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, list).unwrap();
    } else {
        let listed = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(
            listed, list,
            "the cases that are not decided are not those of tests/undecided.txt; UPDATE=1 writes it"
        );
    }
}
