//! pluginConfig of the filter: as a user writes it (`Raw…`), and as types that cannot be wrong.

use std::time::Duration;

pub use plugin_kit::config::Mode;
use plugin_kit::config::{
    ByName, ConfigErrors, DurationText, ErrorList, JsonPath, NonEmpty, document, read, shown_name,
};
use plugin_kit::host::Environment;
use plugin_kit::reply::denial::{Body, Extras, RawCors};
use plugin_kit::request::address::RawAddressMatch;
use plugin_kit::request::cel::Expression;
use plugin_kit::request::matcher::{RawRequestMatch, RawValueTest, RequestMatch, ValueTest};
use plugin_kit::request::path::PathCase;
use plugin_kit::request::source::{HeaderReads, RawSource, Source};
use plugin_kit::{config_choice, config_object};

use serde_json::Value;

use crate::keys::key::table_number;
use crate::limits::gcra::Rate;
use crate::limits::slots::{OnFull, Table};
use crate::reply::{HeaderStyle, HeadersOn, ReplyOptions};
use crate::service::protocol::{grpc_service, unit};

config_object! {
    #[derive(Debug)]
    struct RawConfig {
        limits: NonEmpty<Vec<RawLimit>>,
        exempt: Vec<RawExemption> = Vec::new(),
        response: RawResponse = RawResponse::default(),
        on_conflict: OnConflict = OnConflict::default(),
        scope: Scope = Scope::default(),
        lease: Option<DurationText>,
        path_case: PathCase = PathCase::default(),
        global: Option<RawGlobal>,
    }
}

config_object! {
    #[derive(Debug)]
    struct RawGlobal {
        domain: String,
        cluster: String,
        timeout: Option<DurationText>,
        on_failure: OnFailure = OnFailure::default(),
    }
}

config_object! {
    #[derive(Debug)]
    struct RawLimitGlobal {
        entries: Vec<String> = Vec::new(),
        send_rate: bool = false,
    }
}

config_object! {
    #[derive(Debug)]
    struct RawLimit {
        name: String,
        r#match: RawLimitMatch = RawLimitMatch::default(),
        before: Option<Before>,
        key: Vec<RawSource> = Vec::new(),
        on_missing_key: OnMissingKey = OnMissingKey::default(),
        rate: RawRate,
        plans: Option<RawPlans>,
        cost: Option<u32>,
        cost_from: Option<RawSource>,
        on_invalid_cost: OnInvalidCost = OnInvalidCost::default(),
        count_statuses: NonEmpty<Vec<u16>> = NonEmpty::default(),
        mode: Mode = Mode::default(),
        enforce_percent: Option<u8>,
        max_keys: Option<u32>,
        on_full: OnFull = OnFull::default(),
        global: Option<RawLimitGlobal>,
    }
}

config_object! {
    /// A request matcher, and tests of verified claims.
    #[derive(Debug, Default)]
    struct RawLimitMatch {
        hosts: NonEmpty<Vec<String>> = NonEmpty::default(),
        methods: NonEmpty<Vec<String>> = NonEmpty::default(),
        methods_except: NonEmpty<Vec<String>> = NonEmpty::default(),
        paths: NonEmpty<Vec<String>> = NonEmpty::default(),
        path_regexes: NonEmpty<Vec<String>> = NonEmpty::default(),
        headers: NonEmpty<ByName<RawValueTest>> = NonEmpty::default(),
        source_address: Option<RawAddressMatch>,
        principals: NonEmpty<Vec<String>> = NonEmpty::default(),
        claims: NonEmpty<ByName<RawValueTest>> = NonEmpty::default(),
        when: Option<String>,
    }
}

config_object! {
    #[derive(Debug)]
    struct RawRate {
        requests: u32,
        per: DurationText,
        burst: Option<u32>,
    }
}

config_object! {
    #[derive(Debug)]
    struct RawPlans {
        from: RawSource,
        rates: NonEmpty<ByName<RawRate>>,
    }
}

config_object! {
    #[derive(Debug)]
    struct RawExemption {
        r#match: RawLimitMatch,
    }
}

config_object! {
    #[derive(Debug, Default)]
    struct RawResponse {
        status: Option<u16>,
        /// The body.
        body: Body = Body::default(),
        /// Which pages may read a denial.
        cors: Option<RawCors>,
        /// Headers that every denial gets.
        add_headers: ByName<String> = ByName::default(),
        headers: HeaderStyle = HeaderStyle::default(),
        headers_on: HeadersOn = HeadersOn::default(),
    }
}

config_choice! {
    #[derive(Debug, Clone, Copy)]
    enum Before {
        Auth,
    }
}

config_choice! {
    /// What becomes of a request that has not all parts of a limit's key.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum OnMissingKey {
        /// All such requests share one limit.
        #[default]
        ShareOne,
        /// The limit does not count it.
        Skip,
        /// It is denied.
        Deny,
    }
}

config_choice! {
    /// What becomes of a request whose cost is no number.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum OnInvalidCost {
        /// It is denied.
        #[default]
        Deny,
        /// It counts as the limit's `cost`.
        UseCost,
    }
}

config_choice! {
    /// Who counts together.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum Scope {
        /// All workers of the proxy.
        #[default]
        Proxy,
        /// Each worker for itself.
        Worker,
    }
}

config_choice! {
    /// What becomes of a request that could not be counted because other workers were always faster.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum OnConflict {
        /// It is denied: no more is ever admitted than was counted.
        #[default]
        Deny,
        /// It is let through.
        Allow,
    }
}

config_choice! {
    /// What becomes of a request when the rate limit service does not answer.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum OnFailure {
        /// It is denied.
        #[default]
        Deny,
        /// It is let through, and the limits that are asked globally do not count it.
        Allow,
        /// The limits of this proxy alone decide.
        Local,
    }
}

/// The rate limit service that counts over several proxies.
#[derive(Debug)]
pub struct Global {
    /// Which of the service's configurations is meant.
    pub domain: String,
    /// How the proxy reaches it: a serialised `envoy.config.core.v3.GrpcService`.
    pub via: Vec<u8>,
    /// How long a request waits for it.
    pub timeout: Duration,
    /// What becomes of a request that got no answer in this time.
    pub on_failure: OnFailure,
}

/// A limit's part in what the service is asked.
#[derive(Debug)]
pub struct GlobalLimit {
    /// The descriptor's keys, one for each source of the limit's key; for a limit without a key none.
    pub entries: Vec<String>,
    /// The service counts with the limit's rate in the place of its own.
    pub send_rate: bool,
}

/// A pluginConfig that has nothing wrong.
#[derive(Debug)]
pub struct Config {
    /// In the order in which they were written.
    pub limits: Vec<Limit>,
    /// Requests that no limit counts.
    pub exempt: Vec<Condition>,
    /// How a denied request is answered.
    pub reply: ReplyOptions,
    /// What becomes of a request that could not be counted.
    pub on_conflict: OnConflict,
    /// Who counts together.
    pub scope: Scope,
    /// The longest stretch of a limit's time that one worker takes for itself, in nanoseconds.
    pub longest_lease: u64,
    /// Whether the case of paths counts.
    pub path_case: PathCase,
    /// How many limits have no key.
    pub singles: usize,
    /// The service for the limits that have a [`Limit::global`].
    pub global: Option<Global>,
}

/// One limit.
#[derive(Debug)]
pub struct Limit {
    /// Unique; shown to clients and in metrics.
    pub name: String,
    /// Which requests it counts.
    pub condition: Condition,
    /// It is checked before the request's token is.
    pub before_auth: bool,
    /// What it counts by; empty: all together.
    pub key: Vec<Source>,
    /// What becomes of a request without a part of the key.
    pub on_missing_key: OnMissingKey,
    /// What a key may do, unless a plan says otherwise.
    pub rate: Rate,
    /// Rates that depend on the request.
    pub plans: Option<Plans>,
    /// As how many requests one counts.
    pub cost: u64,
    /// Where a request says as how many it counts.
    pub cost_from: Option<Source>,
    /// What becomes of a request that says there what is no number.
    pub on_invalid_cost: OnInvalidCost,
    /// Where not empty: only requests answered with one of these statuses stay counted.
    pub count_statuses: Vec<u16>,
    /// Whether it denies.
    pub mode: Mode,
    /// For how many of a hundred keys it does, or of a hundred requests without a key.
    pub enforce_percent: u8,
    /// Where its state is.
    pub table: Table,
    /// What becomes of a key where there is no free place.
    pub on_full: OnFull,
    /// Without a key: its number among such limits.
    pub single: Option<usize>,
    /// What it reads of the head to find the key.
    pub head_use: HeaderReads,
    /// It is asked of the rate limit service too.
    pub global: Option<GlobalLimit>,
}

/// Rates by the value of a source.
#[derive(Debug)]
pub struct Plans {
    /// Says which plan a request has.
    pub from: Source,
    /// The plans.
    pub rates: Vec<(String, Rate)>,
}

/// Which requests a limit or an exemption is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// On the request.
    pub request: RequestMatch,
    /// The same without its paths: for a request whose path has no meaning.
    pub any_path: RequestMatch,
    /// On claims, by the key under which they are published.
    pub claims: Vec<(String, ValueTest)>,
    /// A CEL condition.
    pub when: Option<Expression>,
}

const DEFAULT_TIMEOUT_MS: u64 = 20;
const LONGEST_TIMEOUT_MS: u128 = 5_000;
const DEFAULT_LEASE_MS: u64 = 100;
const LONGEST_LEASE_MS: u64 = 1_000;
const DEFAULT_KEYS: u32 = 16_384;
const MOST_KEYS: u32 = 1 << 20;

impl Config {
    /// Reads a pluginConfig. `env` looks up environment variables and compiles CEL.
    ///
    /// # Errors
    /// Everything that is wrong, each with its JSON path.
    pub fn parse(json: &[u8], env: &dyn Environment) -> Result<Self, ConfigErrors> {
        Self::read(&document(json)?, env)
    }

    /// The same from JSON that is read already.
    ///
    /// # Errors
    /// Those of [`Config::parse`].
    pub fn read(document: &Value, env: &dyn Environment) -> Result<Self, ConfigErrors> {
        let raw: RawConfig = read(document)?;
        let mut errors = ErrorList::default();
        let config = compile(raw, &mut errors, env);
        errors.finish(config)
    }

    /// The JSON Schema of pluginConfig.
    #[cfg(not(target_os = "wasi"))]
    pub fn schema() -> serde_json::Value {
        plugin_kit::config::schema::<RawConfig>("rate-limit: pluginConfig")
    }
}

#[inline(never)]
fn compile(raw: RawConfig, errors: &mut ErrorList, env: &dyn Environment) -> Option<Config> {
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
    let mut exempt = Vec::new();
    for (n, exemption) in raw.exempt.into_iter().enumerate() {
        let path = root.field("exempt").index(n).field("match");
        let condition = Condition::compile(exemption.r#match, case, env, &path, errors);
        if condition.as_ref().is_some_and(Condition::is_always) {
            errors.add(&path, "exempts every request; expected a condition");
        }
        exempt.extend(condition);
    }
    let status = raw.response.status.unwrap_or(429);
    if !(400..=599).contains(&status) {
        let path = root.field("response").field("status");
        errors.add(&path, format_args!("expected a status from 400 to 599, found {status}"));
    }
    let lease = raw.lease.map_or(u128::from(DEFAULT_LEASE_MS), |lease| lease.0.as_millis());
    let lease = u64::try_from(lease).ok().filter(|lease| *lease <= LONGEST_LEASE_MS);
    if lease.is_none() {
        errors.add(&root.field("lease"), "expected at most `1s`; `0ms` turns leases off");
    }
    let (path, response) = (root.field("response"), raw.response);
    response.body.check(&path.field("body"), errors);
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
    })
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
    let timeout = raw.timeout.map_or(Duration::from_millis(DEFAULT_TIMEOUT_MS), |timeout| timeout.0);
    if !(1..=LONGEST_TIMEOUT_MS).contains(&timeout.as_millis()) {
        errors.add(&path.field("timeout"), "expected `1ms` to `5s`");
    }
    Global { domain: raw.domain, via: grpc_service(&raw.cluster), timeout, on_failure: raw.on_failure }
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

/// Gives each limit a table of its own, the same in each worker and, while no other limit's name wants it, in each
/// configuration.
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
    let condition = Condition::compile(raw.r#match, case, env, &path.field("match"), errors);
    let (keyed, sources) = (!raw.key.is_empty(), raw.key.len());
    let mut key = Vec::new();
    for (n, source) in raw.key.into_iter().enumerate() {
        key.extend(source.parse(&path.field("key").index(n), errors, env));
    }
    let rate = compile_rate(&raw.rate, &path.field("rate"), errors);
    let plans = raw.plans.map(|plans| compile_plans(plans, &path.field("plans"), errors, env));
    let before_auth = matches!(raw.before, Some(Before::Auth));
    let plan_from = plans.as_ref().and_then(Option::as_ref).map(|plans| &plans.from);
    let reads_claims = key.iter().chain(plan_from).any(|source| matches!(source, Source::Claim(_)))
        || condition.as_ref().is_some_and(|condition| !condition.claims.is_empty());
    if before_auth && reads_claims {
        errors.add(
            &path.field("before"),
            "no claim is verified before `auth`; expected a limit without claims",
        );
    }
    let cost_path = path.field("costFrom");
    let cost_from = raw.cost_from.map(|raw| {
        let source = raw.parse(&cost_path, errors, env);
        if source.as_ref().is_some_and(|source| raw.is_unverified(source)) {
            errors.add(
                &cost_path,
                "a client could name its own cost; expected `trust: true` where a trusted peer sets it",
            );
        }
        source
    });
    let cost = raw.cost.unwrap_or(1);
    let plan_rates = plans.iter().flatten().flat_map(|plans| &plans.rates);
    let named = plan_rates.map(|(name, rate)| (format!("plan `{}`", shown_name(name)), rate));
    for (name, rate) in rate.iter().map(|rate| ("`rate`".to_owned(), rate)).chain(named) {
        let burst = rate.burst();
        if burst > 0 && cost > burst {
            let expected = format_args!("expected at most {burst}, the burst of {name}, found {cost}");
            errors.add(&path.field("cost"), expected);
        }
    }
    for (n, status) in raw.count_statuses.iter().enumerate() {
        if !(200..=599).contains(status) {
            let path = path.field("countStatuses").index(n);
            errors.add(&path, format_args!("expected a status from 200 to 599, found {status}"));
        }
    }
    let enforce_percent = raw.enforce_percent.unwrap_or(100);
    if enforce_percent > 100 {
        errors.add(&path.field("enforcePercent"), format_args!("expected 0 to 100, found {enforce_percent}"));
    }
    let max_keys = raw.max_keys.unwrap_or(DEFAULT_KEYS);
    if !(1..=MOST_KEYS).contains(&max_keys) {
        errors.add(&path.field("maxKeys"), format_args!("expected 1 to {MOST_KEYS}, found {max_keys}"));
    }
    let Some(number) = tables.give(&raw.name) else {
        errors.add(path, format_args!("expected at most {} limits", Table::MAX));
        return None;
    };
    // A limit without a key still has one for each plan.
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
        condition: condition?,
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
        count_statuses: raw.count_statuses.to_vec(),
        mode: raw.mode,
        enforce_percent,
        table: Table::new(number, if keyed { max_keys } else { 1 }),
        on_full: raw.on_full,
        single,
        global,
    })
}

fn compile_rate(raw: &RawRate, path: &JsonPath, errors: &mut ErrorList) -> Option<Rate> {
    errors.check(path, Rate::new(raw.requests, raw.per.0, raw.burst.unwrap_or(raw.requests)))
}

#[inline(never)]
fn compile_plans(
    raw: RawPlans,
    path: &JsonPath,
    errors: &mut ErrorList,
    env: &dyn Environment,
) -> Option<Plans> {
    let from = raw.from.parse(&path.field("from"), errors, env);
    if from.as_ref().is_some_and(|from| raw.from.is_unverified(from)) {
        errors
            .add(&path.field("from"), "a client could name its own plan; expected a claim, or `trust: true`");
    }
    let mut rates = Vec::new();
    for (name, rate) in raw.rates {
        let path = path.field("rates").field(&name);
        rates.extend(compile_rate(&rate, &path, errors).map(|rate| (name, rate)));
    }
    Some(Plans { from: from?, rates })
}

impl Condition {
    fn compile(
        raw: RawLimitMatch,
        case: PathCase,
        env: &dyn Environment,
        path: &JsonPath,
        errors: &mut ErrorList,
    ) -> Option<Self> {
        let mut request = RawRequestMatch {
            hosts: raw.hosts,
            methods: raw.methods,
            methods_except: raw.methods_except,
            paths: raw.paths,
            path_regexes: raw.path_regexes,
            headers: raw.headers,
            source_address: raw.source_address,
            principals: raw.principals,
        };
        let compiled = RequestMatch::compile(&request, case, env, path, errors);
        request.paths = NonEmpty::default();
        request.path_regexes = NonEmpty::default();
        let any_path = RequestMatch::compile(&request, case, env, path, &mut ErrorList::default());
        let mut claims = Vec::new();
        for (name, test) in &raw.claims.0 {
            let test = ValueTest::compile(test, &path.field("claims").field(name), errors);
            claims.extend(test.map(|test| (format!("jwt.{name}"), test)));
        }
        let when =
            raw.when.and_then(|when| errors.check(&path.field("when"), Expression::condition(&when, env)));
        Some(Self { request: compiled?, any_path: any_path?, claims, when })
    }

    /// Whether it holds for every request.
    pub fn is_always(&self) -> bool {
        self.request.is_always() && self.claims.is_empty() && self.when.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Config, String> {
        Config::parse(json.as_bytes(), &|_: &str| None).map_err(|errors| errors.to_string())
    }

    const LIMITS: &str = r#""limits":[{"name":"a","rate":{"requests":1,"per":"1s"}}]"#;

    fn limit(fields: &str) -> Result<Config, String> {
        let rate = if fields.starts_with(",\"rate\"") { "" } else { r#","rate":{"requests":1,"per":"1s"}"# };
        parse(&format!(r#"{{"limits":[{{"name":"a"{rate}{fields}}}]}}"#))
    }

    #[test]
    fn defaults() {
        let config = limit("").unwrap();
        let limit = &config.limits[0];
        assert_eq!(limit.rate, Rate::new(1, std::time::Duration::from_secs(1), 1).unwrap());
        assert_eq!((limit.cost, limit.mode, limit.enforce_percent), (1, Mode::Enforce, 100));
        assert_eq!((limit.on_missing_key, limit.on_full), (OnMissingKey::ShareOne, OnFull::Evict));
        assert_eq!(limit.single, Some(0));
        assert!(limit.condition.is_always());
        assert_eq!((config.on_conflict, config.longest_lease), (OnConflict::Deny, 100_000_000));
        assert_eq!((config.reply.status, config.reply.headers), (429, HeaderStyle::Ietf));
        assert_eq!((config.reply.headers_on, config.reply.body), (HeadersOn::Denied, Body::Problem));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_path() {
        for (fields, expected) in [
            (r#","rate":{"requests":1,"per":"0s"}"#, "limits[0].rate: expected a window"),
            (r#","rate":{"requests":1,"per":"1x"}"#, "limits[0].rate.per: this is no duration"),
            (r#","rate":{"request":1,"per":"1s"}"#, "did you mean `requests`?"),
            (r#","match":{"paths":["a"]}"#, "limits[0].match.paths[0]: "),
            (r#","match":{"claims":{"plan":{}}}"#, "limits[0].match.claims.plan: tests nothing"),
            (
                r#","match":{"claims":{"plan":{"noneOf":["pro*"]}}}"#,
                "limits[0].match.claims.plan.noneOf[0]: a text with `*` would be",
            ),
            (
                r#","match":{"sourceAddress":{"cidrs":["10.0.0.0/33"],"from":"envoy"}}"#,
                "limits[0].match.sourceAddress.cidrs[0]: ",
            ),
            (r#","match":{"principals":["10.0.0.0/8"]}"#, "limits[0].match.principals[0]: an address"),
            (
                r#","key":[{"sourceAddress":{}}]"#,
                "limits[0].key[0].sourceAddress: the node id of this proxy, ``, is not",
            ),
            (r#","key":[{"claim":"sub"},{"heder":"x"}]"#, "limits[0].key[1].heder: unknown field"),
            (r#","key":[{"claim":"sub"}],"before":"auth""#, "limits[0].before: no claim is verified"),
            (r#","match":{"claims":{"a":{"present":true}}},"before":"auth""#, "limits[0].before: "),
            (
                r#","plans":{"from":{"header":"x-plan"},"rates":{"a":{"requests":1,"per":"1s"}}}"#,
                "limits[0].plans.from: a client could",
            ),
            (r#","plans":{"from":{"claim":"plan"},"rates":{}}"#, "limits[0].plans.rates: is empty"),
            (r#","countStatuses":[]"#, "limits[0].countStatuses: is empty; expected at least one entry"),
            (r#","match":{"claims":{}}"#, "limits[0].match.claims: is empty"),
            (r#","match":{"claims":{"a":{"anyOf":[]}}}"#, "limits[0].match.claims.a.anyOf: is empty"),
            (r#","match":{"when":null}"#, "limits[0].match.when: expected a text, found null"),
            (
                r#","plans":{"from":{"claim":"plan"},"rates":{"pro":{"requests":1,"per":"0s"}}}"#,
                "limits[0].plans.rates.pro: expected a window",
            ),
            (r#","costFrom":{"header":"x-cost"}"#, "limits[0].costFrom: a client could"),
            (r#","cost":2"#, "limits[0].cost: expected at most 1, the burst of `rate`, found 2"),
            (
                r#","rate":{"requests":9,"per":"1s"},"cost":5,"plans":{"from":{"claim":"plan"},"rates":{"free":{"requests":4,"per":"1s"}}}"#,
                "limits[0].cost: expected at most 4, the burst of plan `free`, found 5",
            ),
            (r#","countStatuses":[401,40]"#, "limits[0].countStatuses[1]: "),
            (r#","enforcePercent":101"#, "limits[0].enforcePercent: "),
            (r#","maxKeys":0"#, "limits[0].maxKeys: "),
            (r#","mode":"raport""#, "did you mean `report`?"),
        ] {
            let error = limit(fields).unwrap_err();
            assert!(error.contains(expected), "{fields}: {error}");
        }
        for (json, expected) in [
            ("{}", "missing field `limits`"),
            (r#"{"limits":[]}"#, "limits: is empty; expected at least one entry"),
            (
                &format!(r#"{{{LIMITS},"exempt":[{{"match":{{}}}}]}}"#),
                "exempt[0].match: exempts every request",
            ),
            (&format!(r#"{{{LIMITS},"response":{{"status":200}}}}"#), "response.status: expected"),
            (&format!(r#"{{{LIMITS},"lease":"2s"}}"#), "lease: expected"),
            (
                r#"{"limits":[{"name":"a","rate":{"requests":1,"per":"1s"}},{"name":"a","rate":{"requests":1,"per":"1s"}}]}"#,
                "limits[1].name: is the name of another limit",
            ),
            (
                r#"{"limits":[{"name":"a b","rate":{"requests":1,"per":"1s"}}]}"#,
                "limits[0].name: expected 1 to 63 letters",
            ),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }

    #[test]
    fn what_a_client_can_write_names_no_cost_and_no_plan_unless_it_is_trusted() {
        for source in [
            r#""header":"x""#,
            r#""property":["request","headers","x"]"#,
            r#""requestId":{}"#,
            r#""path":{}"#,
            r#""pathTemplate":["/a"]"#,
            r#""method":{}"#,
        ] {
            let cost = |trust: &str| limit(&format!(r#","costFrom":{{{source}{trust}}}"#));
            let plan = |trust: &str| {
                let rates = r#""rates":{"a":{"requests":1,"per":"1s"}}"#;
                limit(&format!(r#","plans":{{"from":{{{source}{trust}}},{rates}}}"#))
            };
            assert!(cost("").unwrap_err().starts_with("limits[0].costFrom: a client could"), "{source}");
            assert!(plan("").unwrap_err().starts_with("limits[0].plans.from: a client could"), "{source}");
            let trusted = r#","trust":true"#;
            assert!(cost(trusted).is_ok() && plan(trusted).is_ok(), "{source}");
            // To count by what a client chooses is what a key is for.
            assert!(limit(&format!(r#","key":[{{{source}}}]"#)).is_ok(), "{source}");
        }
    }

    #[test]
    fn what_is_asked_of_a_service() {
        let global = |limit: &str, service: &str| {
            let limit = format!(r#"{{"name":"a","rate":{{"requests":1,"per":"1m"}},{limit}}}"#);
            parse(&format!(r#"{{"limits":[{limit}],"global":{{"domain":"d","cluster":"c"{service}}}}}"#))
        };
        let config = global(r#""global":{}"#, "").unwrap();
        let service = config.global.as_ref().unwrap();
        assert_eq!((service.timeout, service.on_failure), (Duration::from_millis(20), OnFailure::Deny));
        for (limit, service, expected) in [
            (
                r#""global":{},"countStatuses":[401]"#,
                "",
                "limits[0].global: the service gives no charge back",
            ),
            (r#""global":{"entries":["x"]}"#, "", "limits[0].global.entries: expected 0 names"),
            (
                r#""global":{},"mode":"report""#,
                r#","timeout":"6s""#,
                "global.timeout: expected `1ms` to `5s`",
            ),
            (r#""global":{}"#, r#","timeout":"0ms""#, "global.timeout: expected `1ms` to `5s`"),
            (r#""global":{}"#, r#","onFailure":"dney""#, "did you mean `deny`?"),
        ] {
            let error = global(limit, service).unwrap_err();
            assert!(error.contains(expected), "{limit} {service}: {error}");
        }
        let rate = |per: &str| {
            let plans = format!(
                r#""plans":{{"from":{{"claim":"plan"}},"rates":{{"pro":{{"requests":1,"per":"{per}"}}}}}}"#
            );
            global(&format!(r#""global":{{"sendRate":true}},{plans}"#), "")
        };
        assert!(rate("1h").is_ok());
        assert!(rate("2h").unwrap_err().contains("limits[0].global.sendRate: the service counts by"));
    }

    #[test]
    fn every_limit_has_a_table_of_its_own() {
        let limits = |count: usize| {
            let one = |n| format!(r#"{{"name":"l{n}","rate":{{"requests":1,"per":"1s"}}}}"#);
            let all: Vec<String> = (0..count).map(one).collect();
            parse(&format!(r#"{{"limits":[{}]}}"#, all.join(",")))
        };
        let config = limits(128).unwrap();
        let mut tables: Vec<String> = config.limits.iter().map(|l| format!("{:?}", l.table)).collect();
        tables.sort();
        tables.dedup();
        assert_eq!(tables.len(), 128);
        assert!(limits(129).unwrap_err().contains("limits[128]: expected at most 128 limits"));
    }
}
