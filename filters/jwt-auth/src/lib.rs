//! jwt-auth: lets requests in by JSON Web Tokens.
//!
//! [`authenticator`] decides, from a request to a [`authenticator::Decision`]; `plugin` carries the decision out.

#![cfg_attr(test, allow(clippy::restriction))]

pub mod authenticator;
pub mod base64url;
pub mod claims;
pub mod condition;
pub mod config;
pub mod crypto;
pub mod deny;
pub mod der;
pub mod host_crypto;
pub mod jwk;
pub mod jwks_cache;
pub mod output;
pub mod place;
#[cfg(target_os = "wasi")]
pub mod plugin;
pub mod provider;
pub mod pure_rust;
pub mod refused_tokens;
pub mod revocation;
pub mod rules;
pub mod signature;
pub mod token;
pub mod token_cache;
pub mod verified;
pub mod waiting;

#[cfg(all(feature = "module", target_os = "wasi"))]
#[allow(missing_docs)]
mod module {
    proxy_wasm::main!({ plugin_kit::plugin::start::<crate::plugin::JwtAuth>() });
}
