//! A thousand requests that wait at once for the native module in a real Envoy.
#![allow(clippy::restriction)]

#[path = "../../../filters/mesh-filters/tests/support/bursts.rs"]
mod bursts;

use bursts::Host;

#[test]
fn bursts_are_answered_however_their_waiting_ends() {
    bursts::bursts_are_answered_however_their_waiting_ends(Host::Native);
}

#[test]
fn the_memory_of_a_burst_is_used_again() {
    bursts::the_memory_of_a_burst_is_used_again(Host::Native);
}

#[test]
fn a_new_configuration_while_the_issuer_is_down_has_the_keys() {
    bursts::a_new_configuration_while_the_issuer_is_down_has_the_keys(Host::Native);
}
