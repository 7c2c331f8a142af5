//! Every case on real Envoy with the native module, with one worker and with four.
#![allow(clippy::restriction)]

use cases::{EnvoyHost, Form, Host};
use std::process::ExitCode;
use std::sync::Arc;

/// What this form lacks, as docs/native.md says it: the start of a file's name and of a case's name, and the
/// reason. A case that is listed here and passes is an error.
const LACKS: &[(&str, &str, &str)] = &[];

fn main() -> ExitCode {
    let hosts = [1, 4].map(|workers| Arc::new(EnvoyHost::new(workers, Form::Native(LACKS))) as Arc<dyn Host>);
    cases::main(hosts.into())
}
