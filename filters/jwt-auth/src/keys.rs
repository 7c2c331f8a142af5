//! Keys, and the signatures that they check.

pub mod algorithm;
pub mod crypto;
pub mod der;
pub mod host_crypto;
pub mod jwk;
pub mod key;
pub mod pem;
pub mod pure_rust;
pub mod refused;
pub mod signature;
