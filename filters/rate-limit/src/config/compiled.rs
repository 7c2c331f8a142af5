//! The configuration as types that cannot be wrong, and how they are made of what an operator wrote.

use std::time::Duration;

use plugin_kit::config::{Code, Diagnostic, ErrorList, JsonPath, Mode, shown_name};
use plugin_kit::host::{Environment, SHARED_DATA_BYTES};
use plugin_kit::reply::denial::Extras;
use plugin_kit::request::cel::Expression;
use plugin_kit::request::claim::{URL_WITH_DOTS, is_unescaped_url};
use plugin_kit::request::matcher::{Parts, RequestMatch, ValueTest};
use plugin_kit::request::path::PathCase;
use plugin_kit::request::pseudonym::Pseudonym;
use plugin_kit::request::source::{HeaderReads, Source, warn_of_response};

use super::raw::{
    self, Before, OnConflict, OnFailure, OnInvalidCost, OnMissingKey, RawConfig, RawGlobal, RawLimit,
    RawLimitGlobal, RawPlans, RawRate, RawSelector, Scope,
};
use crate::keys::hasher::table_number;
use crate::limits::gcra::Rate;
use crate::limits::slots::{OnFull, Table};
use crate::reply::ReplyOptions;
use crate::service::protocol::{grpc_service, unit};

/// The rate limit service that counts over several proxies.
#[derive(Debug)]
pub struct Global {
    /// The domain of the service's configuration.
    pub domain: String,
    /// The cluster of the proxy through which the service is asked.
    pub cluster: String,
    /// How the proxy reaches it: a serialised `envoy.config.core.v3.GrpcService`.
    pub via: Vec<u8>,
    /// How long a request waits for it.
    pub timeout: Duration,
    /// What happens to a request without a usable answer in this time.
    pub on_failure: OnFailure,
}

/// What the service is asked about one limit.
#[derive(Debug)]
pub struct GlobalLimit {
    /// The descriptor's keys, one for each source of the limit's key.
    pub entries: Vec<String>,
    /// Whether the service counts with the limit's rate instead of its own.
    pub send_rate: bool,
}

/// A valid configuration.
#[derive(Debug)]
pub struct Config {
    /// The limits, in the order of the configuration.
    pub limits: Vec<Limit>,
    /// Requests that no limit counts.
    pub exempt: Vec<Selector>,
    /// How a denied request is answered.
    pub reply: ReplyOptions,
    /// What happens to a request that could not be counted.
    pub on_conflict: OnConflict,
    /// Who shares the limits.
    pub scope: Scope,
    /// The longest lease in nanoseconds.
    pub longest_lease: u64,
    /// Whether letter case matters when paths are compared.
    pub path_case: PathCase,
    /// The number of limits without a key and without plans.
    pub singles: usize,
    /// The service for the limits that have a [`Limit::global`].
    pub global: Option<Global>,
    /// The pseudonyms under which the detail of a denial shows keys.
    pub pseudonym: Option<Pseudonym>,
    /// The warnings.
    pub warnings: Vec<Diagnostic>,
}

/// One limit.
#[derive(Debug)]
pub struct Limit {
    /// The unique name, which clients and metrics show.
    pub name: String,
    /// Which requests the limit counts.
    pub selector: Selector,
    /// Whether the limit is checked before the request's token is verified.
    pub before_auth: bool,
    /// The sources of the key; all requests count together if there are none.
    pub key: Vec<Source>,
    /// What happens to a request that lacks a part of the key.
    pub on_missing_key: OnMissingKey,
    /// The rate of a key that has no plan.
    pub rate: Rate,
    /// Rates that depend on the request.
    pub plans: Option<Plans>,
    /// What a request costs, unless it says so itself.
    pub cost: u64,
    /// The source of the cost of each request.
    pub cost_from: Option<Source>,
    /// What happens to a request whose cost is not a number.
    pub on_invalid_cost: OnInvalidCost,
    /// If there are any, only requests that are answered with one of these statuses stay counted.
    pub count_statuses: Vec<u16>,
    /// Whether the limit denies requests or only reports.
    pub mode: Mode,
    /// The percentage of keys for which the limit is enforced, or of requests without a key.
    pub enforce_percent: u8,
    /// The table that keeps the state of the keys.
    pub table: Table,
    /// What happens to a new key if there is no free place.
    pub on_full: OnFull,
    /// The number of this limit among those without a key and without plans, if it is one of them.
    pub single: Option<usize>,
    /// Which headers the key and the plan read.
    pub head_use: HeaderReads,
    /// What the rate limit service is asked about this limit.
    pub global: Option<GlobalLimit>,
}

/// Rates by the value of a source.
#[derive(Debug)]
pub struct Plans {
    /// The source that says which plan a request has.
    pub from: Source,
    /// The rates by the name of the plan.
    pub rates: Vec<(String, Rate)>,
}

/// Which requests a limit or an exemption is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The tests of the request.
    pub request: RequestMatch,
    /// The same without tests of the path, for a request whose path has no reading.
    pub any_path: RequestMatch,
    /// The tests of claims, by the key under which a claim is published.
    pub claims: Vec<(String, ValueTest)>,
    /// A CEL condition.
    pub when: Option<Expression>,
}

const LONGEST_TIMEOUT_MS: u128 = 5_000;
const LONGEST_LEASE_MS: u64 = 1_000;

#[inline(never)]
pub(super) fn compile(raw: RawConfig, errors: &mut ErrorList, env: &dyn Environment) -> Option<Config> {
    let root = JsonPath::root();
    let case = raw.path_case;
    let mut tables = Tables::default();
    let mut limits: Vec<Limit> = Vec::new();
    for (n, limit) in raw.limits.into_iter().enumerate() {
        let path = root.field("limits").index(n);
        if limits.iter().any(|other| other.name == limit.name) {
            errors.add(&path.field("name"), "is the name of another limit; expected one of its own");
        }
        limits.extend(compile_limit(limit, case, &path, &mut tables, errors, env));
    }
    if !errors.has_errors() {
        moot(&limits, &root.field("limits"), errors);
        if raw.scope == Scope::Proxy {
            large(&limits, &root.field("limits"), errors);
        }
    }
    let mut exempt = Vec::new();
    for (n, exemption) in raw.exempt.into_iter().enumerate() {
        let path = root.field("exempt").index(n).field("match");
        let selector = Selector::compile(&exemption.r#match, case, env, &path, errors);
        if selector.as_ref().is_some_and(Selector::is_always) {
            errors.add(&path, "exempts every request; expected a condition");
        }
        exempt.extend(selector);
    }
    let status = small(raw.response.status.unwrap_or(raw::STATUS).0);
    let lease = raw.lease.unwrap_or(raw::LEASE).0.as_millis();
    let lease = u64::try_from(lease).ok().filter(|lease| *lease <= LONGEST_LEASE_MS);
    if lease.is_none() {
        errors.add(&root.field("lease"), "expected at most `1s`; `0ms` turns leases off");
    }
    let (path, response) = (root.field("response"), raw.response);
    response.body.check(&["limit", "retryAfter"], &path.field("body"), errors);
    let extras = Extras::compile(response.add_headers, response.cors.as_ref(), &path, errors);
    let asks = limits.iter().position(|limit| limit.global.is_some());
    let global =
        raw.global.map(|global| compile_global(global, asks.is_some(), &root.field("global"), errors));
    if let (None, Some(n)) = (&global, asks) {
        errors.add(
            &root.field("limits").index(n).field("global"),
            "expected `global` beside `limits`, with the service",
        );
    }
    let pseudonym = raw.pseudonym.and_then(|raw| raw.parse(&root.field("pseudonym"), errors, env));
    Some(Config {
        singles: limits.iter().filter(|limit| limit.single.is_some()).count(),
        limits,
        exempt,
        reply: ReplyOptions {
            status,
            body: response.body,
            extras,
            headers: response.headers,
            headers_on: response.headers_on,
        },
        on_conflict: raw.on_conflict,
        scope: raw.scope,
        longest_lease: lease?.saturating_mul(1_000_000),
        path_case: case,
        global,
        pseudonym,
        warnings: Vec::new(),
    })
}

/// Notes that a limit does not deny, or not for every key.
fn tell_of_report(mode: Mode, enforce_percent: u32, path: &JsonPath, errors: &mut ErrorList) {
    if mode == Mode::Report {
        let message = "the limit denies no request, it only counts and logs";
        errors.note(Code::ReportMode, &path.field("mode"), message);
    } else if enforce_percent < 100 {
        let message = format_args!(
            "the limit is enforced for {enforce_percent} % of the keys, and only counts and logs for the others"
        );
        errors.note(Code::ReportMode, &path.field("enforcePercent"), message);
    }
}

/// Notes limits that never deny, since another one always denies first.
#[inline(never)]
fn moot(limits: &[Limit], path: &JsonPath, errors: &mut ErrorList) {
    /// How many limits are compared with each other.
    const MOST_COMPARED: usize = 200;
    let limits = limits.get(..MOST_COMPARED).unwrap_or(limits);
    for (n, limit) in limits.iter().enumerate() {
        let makes_moot = |(m, other): &(usize, &Limit)| {
            *m != n && other.makes_moot(limit) && (*m < n || !limit.makes_moot(other))
        };
        if let Some((_, other)) = limits.iter().enumerate().find(makes_moot) {
            let message = format_args!("never denies: `{}` counts the same and admits no more", other.name);
            errors.note(Code::MootLimit, &path.index(n).field("rate"), message);
        }
    }
}

impl Limit {
    /// Whether `other` never denies a request that this limit admits.
    fn makes_moot(&self, other: &Self) -> bool {
        let plain = |limit: &Self| {
            limit.plans.is_none()
                && limit.cost_from.is_none()
                && limit.count_statuses.is_empty()
                && limit.global.is_none()
        };
        let same_key = self.key.len() == other.key.len()
            && self.key.iter().zip(&other.key).all(|(own, other)| own.is(other))
            && self.on_missing_key == other.on_missing_key;
        plain(self)
            && plain(other)
            && self.mode == Mode::Enforce
            && self.enforce_percent == 100
            && self.before_auth == other.before_auth
            && same_key
            && self.cost >= other.cost
            && self.rate.interval() >= other.rate.interval()
            && self.rate.tolerance() <= other.rate.tolerance()
            && self.selector.covers(&other.selector)
    }
}

#[inline(never)]
fn compile_global(raw: RawGlobal, asks: bool, path: &JsonPath, errors: &mut ErrorList) -> Global {
    if !asks {
        errors.add(path, "no limit has a `global`; expected one in `limits`");
    }
    for (field, text) in [("domain", &raw.domain), ("cluster", &raw.cluster)] {
        if text.is_empty() {
            errors.add(&path.field(field), "expected a name, found nothing");
        }
    }
    let timeout = raw.timeout.unwrap_or(raw::TIMEOUT).0;
    if !(1..=LONGEST_TIMEOUT_MS).contains(&timeout.as_millis()) {
        errors.add(&path.field("timeout"), "expected `1ms` to `5s`");
    }
    let via = grpc_service(&raw.cluster);
    Global { domain: raw.domain, cluster: raw.cluster, via, timeout, on_failure: raw.on_failure }
}

fn compile_global_limit(
    raw: RawLimitGlobal,
    sources: usize,
    rates: &[Rate],
    path: &JsonPath,
    errors: &mut ErrorList,
) -> GlobalLimit {
    if raw.entries.len() != sources || raw.entries.iter().any(String::is_empty) {
        let path = path.field("entries");
        errors.add(&path, format_args!("expected {sources} names, one for each source of `key`"));
    }
    if raw.send_rate && rates.iter().any(|rate| unit(rate.per()).is_none()) {
        errors.add(
            &path.field("sendRate"),
            "the service counts by `1s`, `1m`, `1h` and `1d`; expected these in each rate",
        );
    }
    GlobalLimit { entries: raw.entries, send_rate: raw.send_rate }
}

/// Gives each limit a table of its own: the same in each worker, and the same in each configuration unless
/// another limit has taken it.
#[derive(Default)]
struct Tables {
    taken: Vec<u8>,
    singles: usize,
}

impl Tables {
    fn give(&mut self, name: &str) -> Option<u8> {
        let first = table_number(name, Table::MAX);
        let mut numbers = (0..Table::MAX).map(|n| first.wrapping_add(n) % Table::MAX);
        let number = numbers.find(|number| !self.taken.contains(number))?;
        self.taken.push(number);
        Some(number)
    }
}

/// Notes the limit with which the state of all is more than a native module keeps.
fn large(limits: &[Limit], path: &JsonPath, errors: &mut ErrorList) {
    let mut size = 0_usize;
    for (n, limit) in limits.iter().enumerate() {
        let before = size;
        size = size.saturating_add(limit.table.size());
        if before <= SHARED_DATA_BYTES && size > SHARED_DATA_BYTES {
            let message = format!(
                "up to this limit the state takes {} MiB, and a native module keeps {} MiB: it refuses this \
                 configuration",
                size >> 20,
                SHARED_DATA_BYTES >> 20
            );
            errors.note(Code::LargeState, &path.index(n).field("maxKeys"), message);
        }
    }
}

#[inline(never)]
fn compile_limit(
    raw: RawLimit,
    case: PathCase,
    path: &JsonPath,
    tables: &mut Tables,
    errors: &mut ErrorList,
    env: &dyn Environment,
) -> Option<Limit> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if raw.name.is_empty() || raw.name.len() > 63 || !raw.name.bytes().all(plain) {
        errors.add(&path.field("name"), "expected 1 to 63 letters, digits, `-` and `_`");
    }
    let selector = Selector::compile(&raw.r#match, case, env, &path.field("match"), errors);
    let (keyed, sources) = (!raw.key.is_empty(), raw.key.len());
    let mut key = Vec::new();
    for (n, source) in raw.key.into_iter().enumerate() {
        let path = path.field("key").index(n);
        let source = source.parse(&path, errors, env);
        asked_in_time(source.as_ref(), &path, errors);
        key.extend(source);
    }
    let rate = compile_rate(&raw.rate, &path.field("rate"), errors);
    let plans = raw.plans.map(|plans| compile_plans(plans, &path.field("plans"), errors, env));
    let before_auth = matches!(raw.before, Some(Before::Auth));
    let plan_from = plans.as_ref().and_then(Option::as_ref).map(|plans| &plans.from);
    let reads_claims = key.iter().chain(plan_from).any(|source| matches!(source, Source::Claim(_)))
        || selector.as_ref().is_some_and(|selector| !selector.claims.is_empty());
    if before_auth && reads_claims {
        errors.add(
            &path.field("before"),
            "no claim is verified before `auth`; expected a limit without claims",
        );
    }
    let cost_path = path.field("costFrom");
    let cost_from = raw.cost_from.map(|raw| {
        let source = raw.parse(&cost_path, errors, env);
        asked_in_time(source.as_ref(), &cost_path, errors);
        if source.as_ref().is_some_and(|source| raw.is_unverified(source)) {
            errors.add(
                &cost_path,
                "a client could name its own cost; expected `trust: true` where a trusted peer sets it",
            );
        }
        source
    });
    let cost = raw.cost.unwrap_or(raw::COST);
    let plan_rates = plans.iter().flatten().flat_map(|plans| &plans.rates);
    let named = plan_rates.map(|(name, rate)| (format!("plan `{}`", shown_name(name)), rate));
    for (name, rate) in rate.iter().map(|rate| ("`rate`".to_owned(), rate)).chain(named) {
        let burst = rate.burst();
        if burst > 0 && cost > burst {
            let expected = format_args!("expected at most {burst}, the burst of {name}, found {cost}");
            errors.add(&path.field("cost"), expected);
        }
    }
    let enforce_percent = raw.enforce_percent.unwrap_or(raw::ENFORCE_PERCENT).0;
    tell_of_report(raw.mode, enforce_percent, path, errors);
    let max_keys = raw.max_keys.unwrap_or(raw::MAX_KEYS).0;
    let Some(number) = tables.give(&raw.name) else {
        errors.add(path, format_args!("expected at most {} limits", Table::MAX));
        return None;
    };
    // A limit without a key still has a key for each plan.
    let single = (!keyed && plans.is_none()).then_some(tables.singles);
    tables.singles = tables.singles.saturating_add(usize::from(single.is_some()));
    let global = raw.global.map(|global| {
        let path = path.field("global");
        if !raw.count_statuses.is_empty() {
            errors.add(&path, "the service gives no charge back; expected a limit without `countStatuses`");
        }
        let of_plans = plans.iter().flatten().flat_map(|plans| plans.rates.iter().map(|(_, rate)| *rate));
        let rates: Vec<Rate> = rate.into_iter().chain(of_plans).collect();
        compile_global_limit(global, sources, &rates, &path, errors)
    });
    let head_use = key.iter().chain(plans.iter().flatten().map(|plans| &plans.from));
    let head_use = head_use.map(Source::head_use).fold(HeaderReads::default(), HeaderReads::and);
    Some(Limit {
        name: raw.name,
        selector: selector?,
        before_auth,
        head_use,
        key,
        on_missing_key: raw.on_missing_key,
        rate: rate?,
        plans: match plans {
            Some(plans) => Some(plans?),
            None => None,
        },
        cost: cost.into(),
        cost_from: match cost_from {
            Some(source) => Some(source?),
            None => None,
        },
        on_invalid_cost: raw.on_invalid_cost,
        count_statuses: raw.count_statuses.iter().map(|status| small(status.0)).collect(),
        mode: raw.mode,
        enforce_percent: u8::try_from(enforce_percent).unwrap_or(100),
        table: Table::new(number, if keyed { max_keys } else { 1 }),
        on_full: raw.on_full,
        single,
        global,
    })
}

/// A number that is known to be small.
fn small(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn compile_rate(raw: &RawRate, path: &JsonPath, errors: &mut ErrorList) -> Option<Rate> {
    if raw.requests == 0 && raw.burst.is_none() {
        let message = "0 denies every request; expected `burst: 0` beside it if that is meant";
        errors.note(Code::DeniesAll, &path.field("requests"), message);
    }
    errors.check(path, Rate::new(raw.requests, raw.per.0, raw.burst.unwrap_or(raw.requests)))
}

/// Notes a source that belongs to the response, which is not there when a limit asks.
#[inline(never)]
fn asked_in_time(source: Option<&Source>, path: &JsonPath, errors: &mut ErrorList) {
    if let Some(Source::Property(attribute)) = source
        && attribute.iter().map(String::as_str).eq(["response", "code_details"])
    {
        let message = "is not known yet when the request arrives";
        errors.note(Code::SourceWithoutValue, &path.field("property"), message);
    }
}

#[inline(never)]
fn compile_plans(
    raw: RawPlans,
    path: &JsonPath,
    errors: &mut ErrorList,
    env: &dyn Environment,
) -> Option<Plans> {
    let from = raw.from.parse(&path.field("from"), errors, env);
    asked_in_time(from.as_ref(), &path.field("from"), errors);
    if from.as_ref().is_some_and(|from| raw.from.is_unverified(from)) {
        errors
            .add(&path.field("from"), "a client could name its own plan; expected a claim, or `trust: true`");
    }
    let mut rates = Vec::new();
    for (name, rate) in raw.rates {
        let path = path.field("rates");
        if name.contains('*') {
            errors.note(Code::StarAsWritten, &path, "has a name that is compared as it stands, with its `*`");
        }
        let path = path.field(&name);
        rates.extend(compile_rate(&rate, &path, errors).map(|rate| (name, rate)));
    }
    Some(Plans { from: from?, rates })
}

impl Selector {
    fn compile(
        raw: &RawSelector,
        case: PathCase,
        env: &dyn Environment,
        path: &JsonPath,
        errors: &mut ErrorList,
    ) -> Option<Self> {
        let parts = raw.parts();
        let request = RequestMatch::compile(parts, case, env, path, errors);
        let any_path = Parts { paths: &[], path_regexes: &[], ..parts };
        let any_path = RequestMatch::compile(any_path, case, env, path, &mut ErrorList::default());
        let mut claims = Vec::new();
        for (name, test) in &raw.claims.0 {
            let path = path.field("claims").field(name);
            if is_unescaped_url(name) {
                errors.add(&path, URL_WITH_DOTS);
            }
            let test = ValueTest::compile(test, &path, errors);
            claims.extend(test.map(|test| (format!("jwt.{name}"), test)));
        }
        let when = raw.when.as_ref().and_then(|when| {
            let path = path.field("when");
            warn_of_response(when, &path, errors);
            errors.check(&path, Expression::condition(when, env))
        });
        Some(Self { request: request?, any_path: any_path?, claims, when })
    }

    /// Whether every request that `other` matches is matched.
    fn covers(&self, other: &Self) -> bool {
        self.request.covers(&other.request, None, None)
            && self.claims.iter().all(|test| other.claims.contains(test))
            // Two expressions are not compared.
            && self.when.is_none()
    }

    /// Whether the selector matches every request.
    pub fn is_always(&self) -> bool {
        self.request.is_always() && self.claims.is_empty() && self.when.is_none()
    }
}
