//! Every case on real Envoy with the native module, with one worker and with four.
#![allow(clippy::restriction)]

use cases::{EnvoyHost, Form, Host};
use std::process::ExitCode;
use std::sync::Arc;

/// What this form lacks, as docs/native.md says it: the start of a file's name and of a case's name, and the reason. A case that is
/// listed here and passes is an error.
const LACKS: &[(&str, &str, &str)] = &[
    ("jwt-auth/fetches.yaml", "a proxy without the cluster says what Istio needs", NOT_SENT),
    ("jwt-auth/fetches.yaml", "a list of revoked tokens in a cluster that is not there", NOT_SENT),
    ("rate-limit/global.yaml", "the proxy knows no such cluster", NOT_SENT),
];

const NOT_SENT: &str = "the main thread makes calls, so a filter does not hear that there is no cluster, but that no response came";

fn main() -> ExitCode {
    let hosts = [1, 4].map(|workers| Arc::new(EnvoyHost::new(workers, Form::Native(LACKS))) as Arc<dyn Host>);
    cases::main(hosts.into())
}
