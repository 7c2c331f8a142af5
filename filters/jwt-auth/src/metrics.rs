//! The metrics of jwt-auth, each defined once.

use plugin_kit::host::{Counter, Gauge};

use crate::fetch::failure::Kind;
use crate::policy::rules::Rule;
use crate::reply::DenyCode;

/// The counters and the gauge of the filter. Those of hosts' cryptography are defined where it is tested.
pub(crate) struct Metrics {
    pub(crate) allowed: Counter,
    pub(crate) anonymous: Counter,
    pub(crate) preflights: Counter,
    pub(crate) denied: Counter,
    pub(crate) reported: Counter,
    /// Denials by deny code.
    codes: Vec<(DenyCode, Counter)>,
    /// Allowed and denied requests of each rule to which the operator gave a name.
    rules: Vec<Option<(Counter, Counter)>>,
    pub(crate) cache_hits: Counter,
    pub(crate) cache_misses: Counter,
    pub(crate) outputs_failed: Counter,
    pub(crate) conditions_failed: Counter,
    pub(crate) waited: Counter,
    pub(crate) fetched: Counter,
    pub(crate) fetches_failed: Counter,
    pub(crate) lists_fetched: Counter,
    pub(crate) list_fetches_failed: Counter,
    pub(crate) answers: Counter,
    pub(crate) answers_missing: Counter,
    /// Failed fetches by the kind of failure; none if nothing is fetched.
    failures: Vec<(Kind, Counter)>,
    pub(crate) keys: Gauge,
}

impl Metrics {
    /// Defines all metrics in the proxy.
    pub(crate) fn define(rules: &[Rule], fetches: bool) -> Self {
        let code = |code: &DenyCode| {
            (*code, Counter::define(&format!("jwt_auth_deny_{}", code.presentation().code)))
        };
        let of_rule = |rule: &Rule| {
            let define = |outcome| Counter::define(&format!("jwt_auth_rule_{}_{outcome}", rule.name));
            rule.named.then(|| (define("allowed"), define("denied")))
        };
        let of_failure =
            |kind: &Kind| (*kind, Counter::define(&format!("jwt_auth_fetch_failure_{}", kind.code())));
        Self {
            allowed: Counter::define("jwt_auth_requests_allowed"),
            anonymous: Counter::define("jwt_auth_requests_anonymous"),
            preflights: Counter::define("jwt_auth_requests_preflight"),
            denied: Counter::define("jwt_auth_requests_denied"),
            reported: Counter::define("jwt_auth_requests_reported"),
            codes: DenyCode::ALL.iter().map(code).collect(),
            cache_hits: Counter::define("jwt_auth_cache_hits"),
            cache_misses: Counter::define("jwt_auth_cache_misses"),
            outputs_failed: Counter::define("jwt_auth_outputs_failed"),
            conditions_failed: Counter::define("jwt_auth_conditions_failed"),
            waited: Counter::define("jwt_auth_requests_waited"),
            fetched: Counter::define("jwt_auth_jwks_fetch_success"),
            fetches_failed: Counter::define("jwt_auth_jwks_fetch_failed"),
            lists_fetched: Counter::define("jwt_auth_revocation_fetch_success"),
            list_fetches_failed: Counter::define("jwt_auth_revocation_fetch_failed"),
            answers: Counter::define("jwt_auth_introspection_success"),
            answers_missing: Counter::define("jwt_auth_introspection_failed"),
            failures: Kind::ALL.iter().filter(|_| fetches).map(of_failure).collect(),
            keys: Gauge::define("jwt_auth_jwks_keys"),
            rules: rules.iter().map(of_rule).collect(),
        }
    }

    /// The counter of denials with this code.
    pub(crate) fn of_code(&self, code: DenyCode) -> Option<Counter> {
        self.codes.iter().find(|(known, _)| *known == code).map(|(_, counter)| *counter)
    }

    /// The counter of fetches that failed in this way.
    pub(crate) fn of_failure(&self, kind: Kind) -> Option<Counter> {
        self.failures.iter().find(|(known, _)| *known == kind).map(|(_, counter)| *counter)
    }

    /// The counters of allowed and of denied requests of the rule at this position, if it has them.
    pub(crate) fn of_rule(&self, rule: Option<usize>) -> Option<(Counter, Counter)> {
        *self.rules.get(rule?)?
    }
}
