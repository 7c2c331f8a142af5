//! Every case on real Envoy, with one worker and with four.
#![allow(clippy::restriction)]

use cases::{EnvoyHost, Form, Host};
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let hosts = [1, 4].map(|workers| Arc::new(EnvoyHost::new(workers, Form::Wasm)) as Arc<dyn Host>);
    cases::main(hosts.into())
}
