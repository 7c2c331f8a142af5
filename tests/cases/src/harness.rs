//! Cases as tests: one test for each case and host, in parallel, reported as `cargo test` does.

use crate::host::Host;
use crate::schema::{Case, HostName, load_all};
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;
use std::sync::Arc;

/// The test of a case on a host, unless the case runs elsewhere only.
pub fn trial(case: &Case, host: &Arc<dyn Host>) -> Option<Trial> {
    let runs = match case.only {
        None => true,
        Some(HostName::MockHost) => host.is_mock(),
        Some(HostName::Envoy) => !host.is_mock(),
    };
    let (case, host) = (case.clone(), Arc::clone(host));
    let name = format!("{}: {} [{}]", case.file, case.name, host.name());
    let test = move || match (crate::run(&case, &*host), host.lacks(&case)) {
        (Ok(()), None) | (Err(_), Some(_)) => Ok(()),
        (Ok(()), Some(reason)) => Err(Failed::from(format!(
            "testdata/cases/{}: case {:?} passes on {}, which is said to lack it: {reason}",
            case.file,
            case.name,
            host.name()
        ))),
        (Err(failure), None) => Err(Failed::from(failure.to_string())),
    };
    runs.then(|| Trial::test(name, test))
}

/// The whole test program: all cases on these hosts.
pub fn main(hosts: Vec<Arc<dyn Host>>) -> ExitCode {
    let arguments = Arguments::from_args();
    let cases = match load_all() {
        Ok(cases) => cases,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    // Host by host within a case: each host takes one case at a time, so neighbours run in parallel.
    let mut counts = vec![0; hosts.len()];
    let mut lacking = vec![0; hosts.len()];
    let mut tests = Vec::new();
    for case in &cases {
        for ((host, count), lacking) in hosts.iter().zip(&mut counts).zip(&mut lacking) {
            let test = trial(case, host);
            *lacking += usize::from(test.is_some() && host.lacks(case).is_some());
            *count += usize::from(test.is_some());
            tests.extend(test);
        }
    }
    let listing = arguments.list;
    let conclusion = libtest_mimic::run(&arguments, tests);
    if !listing {
        let counts = hosts.iter().zip(counts.into_iter().zip(lacking)).map(|(host, (count, lacking))| {
            let but = if lacking == 0 { String::new() } else { format!(", of which it lacks {lacking}") };
            format!("{count} for {}{but}", host.name())
        });
        println!("{} cases: {}\n", cases.len(), counts.collect::<Vec<_>>().join(", "));
    }
    // Ends the proxies.
    drop(hosts);
    conclusion.exit_code()
}
