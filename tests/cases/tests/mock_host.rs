//! Every case in the mock host, with one worker and with four.
#![allow(clippy::restriction)]

use cases::Host;
use differential::MockHost;
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let hosts = [1, 4].map(|workers| Arc::new(MockHost { workers }) as Arc<dyn Host>);
    cases::main(hosts.into())
}
