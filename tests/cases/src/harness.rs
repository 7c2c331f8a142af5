//! Cases as tests: one test for each case and host, in parallel, reported as `cargo test` does.

use crate::host::Host;
use crate::schema::{Case, HostName, load_all};
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;
use std::sync::Arc;

/// The tests of these cases on one host; a case that runs elsewhere only gives none.
pub fn trials(cases: &[Case], host: &Arc<dyn Host>) -> Vec<Trial> {
    cases
        .iter()
        .filter(|case| match case.only {
            None => true,
            Some(HostName::MockHost) => host.is_mock(),
            Some(HostName::Envoy) => !host.is_mock(),
        })
        .map(|case| {
            let (case, host) = (case.clone(), Arc::clone(host));
            let name = format!("{}: {} [{}]", case.file, case.name, host.name());
            Trial::test(name, move || {
                crate::run(&case, &*host).map_err(|failure| Failed::from(failure.to_string()))
            })
        })
        .collect()
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
    let mut tests = Vec::new();
    let mut counts = Vec::new();
    for host in &hosts {
        let of_host = trials(&cases, host);
        counts.push(format!("{} on {}", of_host.len(), host.name()));
        tests.extend(of_host);
    }
    let listing = arguments.list;
    let conclusion = libtest_mimic::run(&arguments, tests);
    // Ends the proxies.
    drop(hosts);
    if !listing {
        println!("{} cases: {}\n", cases.len(), counts.join(", "));
    }
    conclusion.exit_code()
}
