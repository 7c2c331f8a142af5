//! pluginConfig as an operator writes it. The doc comments of the fields are their descriptions in the JSON
//! Schema and in docs/rate-limit.md.

use std::time::Duration;

use plugin_kit::config::{ByName, DurationText, Mode, NonEmpty, Within};
use plugin_kit::reply::denial::{Body, RawCors};
use plugin_kit::request::matcher::RawValueTest;
use plugin_kit::request::path::PathCase;
use plugin_kit::request::pseudonym::RawPseudonym;
use plugin_kit::request::source::RawSource;
use plugin_kit::{config_choice, config_object, request_match};

use crate::limits::slots::OnFull;
use crate::reply::{HeaderStyle, HeadersOn};

/// Defaults of options.
pub(super) const LEASE: DurationText = DurationText(Duration::from_millis(100));
pub(super) const TIMEOUT: DurationText = DurationText(Duration::from_millis(20));
pub(super) const COST: u32 = 1;
pub(super) const ENFORCE_PERCENT: Within<0, 100> = Within(100);
pub(super) const MAX_KEYS: Within<1, MOST_KEYS> = Within(16_384);
pub(super) const MOST_KEYS: u32 = 1 << 20;
pub(super) const STATUS: Within<400, 599> = Within(429);

config_object! {
    /// The configuration of rate-limit.
    #[derive(Debug)]
    pub(super) struct RawConfig {
        /// The limits. All that match a request apply to it: either all are charged, or none.
        pub limits: NonEmpty<Vec<RawLimit>>,
        /// Requests that no limit counts.
        pub exempt: Vec<RawExemption> = Vec::new(),
        /// How a denied request is answered, and which headers tell a client how its limit stands.
        pub response: RawResponse = RawResponse::default(),
        /// What happens to a request that could not be counted because other workers were faster in each of
        /// 32 attempts.
        pub on_conflict: OnConflict = OnConflict::default(),
        /// Whether all workers of the proxy share the limits, or each worker counts for itself.
        pub scope: Scope = Scope::default(),
        /// The longest time whose share of a limit one worker may take for itself in advance, so that a busy
        /// limit does not cost a read and a write of shared data for each request. At most `1s`; `0ms` turns
        /// leases off.
        pub lease: Option<DurationText> => LEASE,
        /// Whether letter case matters when paths are compared.
        pub path_case: PathCase = PathCase::default(),
        /// The rate limit service that counts over several proxies. The limits that have a `global` of their
        /// own use it.
        pub global: Option<RawGlobal>,
        /// Shows the values of a limit's key in the detail of a denial under their pseudonyms. A user has the
        /// same pseudonym as in a tag of trace-tags with the same key. Default: no value is shown.
        pub pseudonym: Option<RawPseudonym>,
    }
}

config_object! {
    /// A rate limit service that speaks Envoy's rate limit protocol (v3).
    #[derive(Debug)]
    pub(super) struct RawGlobal {
        /// The domain of the service's configuration (`domain` of `RateLimitRequest` in Envoy's protocol).
        pub domain: String,
        /// The proxy's cluster that reaches the service. It must speak HTTP/2, as Istio's does for a Service
        /// whose port is named `grpc-…`. The workload's AuthorizationPolicy and Sidecar must let it through.
        pub cluster: String,
        /// How long a request waits for the service, from `1ms` to `5s`.
        pub timeout: Option<DurationText> => TIMEOUT,
        /// What happens to a request when the service gives no usable answer in time.
        pub on_failure: OnFailure = OnFailure::default(),
    }
}

config_object! {
    /// What the rate limit service is asked about a limit.
    #[derive(Debug)]
    pub(super) struct RawLimitGlobal {
        /// The keys of the limit's descriptor, one for each source of `key`. A limit without `key` has no
        /// entries and asks for `generic_key=<name>`.
        pub entries: Vec<String> = Vec::new(),
        /// Whether the service counts with the limit's rate, or that of the request's plan, instead of its
        /// own (Envoy's limit override). Then `per` must be `1s`, `1m`, `1h` or `1d`. The service does not
        /// see `burst`.
        pub send_rate: bool = false,
    }
}

config_object! {
    /// One limit.
    #[derive(Debug)]
    pub(super) struct RawLimit {
        /// The name of the limit, unique, of 1 to 63 letters, digits, `-` and `_`. Clients see it.
        pub name: String,
        /// Which requests the limit counts. Default: all requests.
        pub r#match: RawSelector = RawSelector::default(),
        /// Has the limit checked earlier. It has an effect in mesh-filters only: `phase` and `priority` of
        /// the WasmPlugin say where rate-limit stands as a plugin of its own.
        pub before: Option<Before>,
        /// One or several sources. Each combination of their values is a key with a budget of its own.
        /// Without a source, all requests share one budget.
        pub key: Vec<RawSource> = Vec::new(),
        /// What happens to a request that lacks a part of the key.
        pub on_missing_key: OnMissingKey = OnMissingKey::default(),
        /// How many requests are admitted in which time.
        pub rate: RawRate,
        /// Other rates, chosen by the value of a source.
        pub plans: Option<RawPlans>,
        /// How many units of the limit one request uses up. It must not exceed the burst, nor that of any
        /// plan. A request that costs 0 is free: the limit does not count it.
        pub cost: Option<u32> => COST,
        /// A source of the cost of each request; a request without a value costs `cost`. The value is a
        /// number in any form (`4`, `4.0`, `1e2`), and a fraction is rounded up. A request that costs more
        /// than the burst is denied. A source that a client can write needs `trust: true`.
        pub cost_from: Option<RawSource>,
        /// What happens to a request whose `costFrom` has a value that is not a number.
        pub on_invalid_cost: OnInvalidCost = OnInvalidCost::default(),
        /// Statuses from 200 to 599. Only requests that are answered with one of these stay counted. Each
        /// request is charged when it arrives, and gets its charge back if the response has another status,
        /// unless the key was charged again meanwhile. Default: all statuses.
        pub count_statuses: NonEmpty<Vec<Within<200, 599>>> = NonEmpty::default(),
        /// Whether the limit denies requests or only reports.
        pub mode: Mode = Mode::default(),
        /// The percentage of keys for which the limit is enforced; for the others it reports. The same keys
        /// are chosen every time. If a request has no key, this is a percentage of requests, chosen at
        /// random.
        pub enforce_percent: Option<Within<0, 100>> => ENFORCE_PERCENT,
        /// How many keys the limit has places for, from 1 to 1048576. A place takes about 40 bytes. A native
        /// module keeps 256 MiB for all limits of the proxy, and refuses a configuration that needs more.
        pub max_keys: Option<Within<1, MOST_KEYS>> => MAX_KEYS,
        /// What happens to a new key if all 8 places where it may stand hold keys that still owe.
        pub on_full: OnFull = OnFull::default(),
        /// Has the rate limit service of the top-level `global` asked about this limit, too.
        pub global: Option<RawLimitGlobal>,
    }
}

request_match! {
    /// Which requests are meant. All parts that are given must hold, but of `paths` and `pathRegexes` one is
    /// enough.
    #[derive(Debug, Default)]
    pub(super) struct RawSelector {
        /// Tests of the values of verified claims that jwt-auth publishes (`publishClaims`), by the claim's
        /// name. All must hold.
        pub claims: NonEmpty<ByName<RawValueTest>> = NonEmpty::default(),
        /// A CEL expression that must be true. The proxy evaluates it. If it has no value, a limit counts the
        /// request, and an exemption does not exempt it.
        pub when: Option<String>,
    }
}

config_object! {
    /// How many requests are admitted in which time.
    #[derive(Debug)]
    pub(super) struct RawRate {
        /// How many requests are admitted in `per`. 0, with `burst: 0`, denies all requests, also those that
        /// are free.
        pub requests: u32,
        /// The time in which `requests` are admitted, such as `1s`, `1m`, `1h` or `1d`; at most `366d`.
        pub per: DurationText,
        /// How many requests are admitted at once after a pause. Default: as many as `requests`.
        pub burst: Option<u32>,
    }
}

config_object! {
    /// Rates by the value of a source.
    #[derive(Debug)]
    pub(super) struct RawPlans {
        /// The source that says which plan a request has. A source that a client can write needs `trust:
        /// true`.
        pub from: RawSource,
        /// The rates by the name of the plan. A request with a value that is not here has the limit's own
        /// `rate`.
        pub rates: NonEmpty<ByName<RawRate>>,
    }
}

config_object! {
    /// Requests that no limit counts.
    #[derive(Debug)]
    pub(super) struct RawExemption {
        /// Which requests are exempt. Of a path that servers read in several ways, every reading must match.
        pub r#match: RawSelector,
    }
}

config_object! {
    /// What a client learns.
    #[derive(Debug, Default)]
    pub(super) struct RawResponse {
        /// The status of a denial, from 400 to 599.
        pub status: Option<Within<400, 599>> => STATUS,
        /// The body of a denial.
        pub body: Body = Body::default(),
        /// The web pages that may read a denial. Default: none.
        pub cors: Option<RawCors>,
        /// Headers that every denial gets, by name: `{ cache-control: no-store }`.
        pub add_headers: ByName<String> = ByName::default(),
        /// Which headers tell a client how much is left of its limit. A denial always has `retry-after`, too,
        /// if waiting helps.
        pub headers: HeaderStyle = HeaderStyle::default(),
        /// Which responses have these headers.
        pub headers_on: HeadersOn = HeadersOn::default(),
    }
}

config_choice! {
    /// When a limit is checked.
    #[derive(Debug, Clone, Copy)]
    pub(super) enum Before {
        /// Before jwt-auth verifies the request's token.
        Auth,
    }
}

config_choice! {
    /// What happens to a request that lacks a part of a limit's key.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum OnMissingKey {
        /// All such requests share one limit.
        #[default]
        ShareOne,
        /// The limit does not count the request.
        Skip,
        /// The request is denied.
        Deny,
    }
}

config_choice! {
    /// What happens to a request whose cost is not a number.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum OnInvalidCost {
        /// The request is denied.
        #[default]
        Deny,
        /// The request costs the limit's `cost`.
        UseCost,
    }
}

config_choice! {
    /// Who shares the limits.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum Scope {
        /// All workers of the proxy share them.
        #[default]
        Proxy,
        /// Each worker counts for itself.
        Worker,
    }
}

config_choice! {
    /// What happens to a request that could not be counted because other workers were faster in every
    /// attempt.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum OnConflict {
        /// The request is denied, so that no more is ever admitted than was counted.
        #[default]
        Deny,
        /// The request is admitted.
        Allow,
    }
}

config_choice! {
    /// What happens to a request when the rate limit service gives no usable answer in time.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum OnFailure {
        /// The request is denied.
        #[default]
        Deny,
        /// The request is admitted, and the limits with `global` do not count it.
        Allow,
        /// The limits of this proxy alone decide.
        Local,
    }
}
