//! Two services behind real Envoy sidecars with the filters: sends requests, shows what came of each, and
//! fails if anything is not as it should be.
#![allow(clippy::restriction)]

mod mesh;
mod report;
mod requests;
mod terminal;

use std::process::ExitCode;

use mesh::Mesh;

/// Anything that keeps the demonstration from running.
type Error = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(differences) => {
            eprintln!("{differences} not as expected");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns how many things were not as expected.
fn run() -> Result<usize, Error> {
    let mesh = Mesh::start()?;
    report::picture(&mesh);
    let outcomes = requests::send_all(&mesh)?;
    let mut differences = report::table(&outcomes);
    differences += report::spans(&mesh, &outcomes)?;
    differences += report::access_log(&outcomes);
    differences += report::metrics(&mesh, &outcomes)?;
    differences += report::secrets(&mesh, &outcomes);
    report::verdict(differences);
    if std::env::var("KEEP").is_ok_and(|keep| !matches!(keep.as_str(), "" | "0")) {
        report::keep(&mesh)?;
        loop {
            // Ctrl-C ends the process, and with it the Envoys.
            std::thread::park();
        }
    }
    Ok(differences)
}
