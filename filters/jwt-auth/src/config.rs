//! pluginConfig of jwt-auth: [`raw`] is what an operator writes, and [`compiled`] is what the filter works
//! with, in types that cannot be wrong; [`providers`] and [`rules`] compile the two large parts of it.

mod compiled;
mod headers;
mod opaque;
mod order;
mod providers;
mod raw;
mod rules;

#[cfg(test)]
mod tests;

pub use plugin_kit::config::Mode;

pub use self::compiled::Config;
pub use self::raw::{AmbiguousPath, CorsPreflight, SeveralTokens};
