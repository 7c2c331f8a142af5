//! The context of one decision, besides the configuration.

use plugin_kit::request::exchange::Exchange;

use crate::decision::outcome::Observed;
use crate::decision::wait::Waited;

/// The request of one decision, what is remembered of it, and what the decision notes on its way.
pub(super) struct Context<'a, 'e> {
    /// The request, as the host tells it.
    pub(super) exchange: &'a Exchange<'e>,
    /// What is remembered from before the request waited.
    pub(super) waited: &'a mut Waited,
    /// What the metrics and the reply get.
    pub(super) observed: Observed,
    /// Whether a condition was shown claims, which it can read until it is shown others.
    pub(super) shown_claims: bool,
}
