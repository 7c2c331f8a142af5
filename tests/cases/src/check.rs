//! Runs one case on one host and says what differs.

use crate::host::{Exchange, Filter, Host, HostError, Proxy, Setup};
use crate::schema::{Case, Chain, Expect, Issuer, LimitService, LimitStatus, RequestStep, Step};
use crate::tokens::{KEYS, Tokens, public_keys};
use crate::values::{Matcher, expand, expand_json, json_mismatch};
use envoy::rate_limit::{DescriptorStatus, HeaderValue, OK, ProtoDuration, RateLimit, RateLimitResponse};
use envoy::{Answer, RateLimitAnswer, Request, values};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// How many lines of the log a failure shows.
const LOG_TAIL: usize = 20;

/// A case did not come out as it says.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    text: String,
}

/// Runs one case on one host.
pub fn run(case: &Case, host: &dyn Host) -> Result<(), Failure> {
    let fail = |what: &str, log: &str| Failure { text: report(case, host, what, log) };
    let prepared = prepare(case).map_err(|what| fail(&what, ""))?;
    let never = never(case, &prepared.tokens).map_err(|what| fail(&what, ""))?;
    let log = match host.start(&prepared.setup) {
        Ok(_) if !case.refused.is_empty() => {
            return Err(fail("the configuration was accepted, expected: refused", ""));
        }
        Ok(mut proxy) => {
            let mut context = Context { tokens: &prepared.tokens, proxy: &mut *proxy };
            for (index, step) in case.steps.iter().enumerate() {
                if let Err(what) = context.step(step) {
                    let what = format!("step {} ({}):\n{what}", index + 1, describe(step));
                    return Err(fail(&what, &proxy.log()));
                }
            }
            proxy.finish().map_err(|error| fail(&error.to_string(), ""))?
        }
        Err(HostError::Refused(log)) if !case.refused.is_empty() => {
            refusal(&case.refused, &log).map_err(|what| fail(&what, &log))?;
            log
        }
        Err(error) => return Err(fail(&error.to_string(), "")),
    };
    match never.iter().find(|(_, text)| log.contains(text)) {
        Some((what, text)) => Err(fail(&format!("the log holds {what}: {text:?}"), &log)),
        None => Ok(()),
    }
}

/// What became of a case's steps, whatever the case expects.
#[derive(Debug, Clone)]
pub enum Observed {
    /// The configuration was refused. Holds the log.
    Refused(String),
    /// The configuration was accepted.
    Accepted {
        /// The exchange of each request, in order; a request that is repeated has several.
        exchanges: Vec<Exchange>,
        /// The proxy's log.
        log: String,
    },
}

/// A case with its tokens minted, so that several hosts get the same.
#[derive(Debug)]
pub struct Minted<'a> {
    case: &'a Case,
    prepared: Prepared,
}

impl<'a> Minted<'a> {
    /// Mints the tokens of a case.
    pub fn new(case: &'a Case) -> Result<Self, HostError> {
        Ok(Self { case, prepared: prepare(case).map_err(HostError::Broken)? })
    }

    /// Takes the case's steps on a host and expects nothing.
    pub fn observe(&self, host: &dyn Host) -> Result<Observed, HostError> {
        let mut proxy = match host.start(&self.prepared.setup) {
            Ok(proxy) => proxy,
            Err(HostError::Refused(log)) => return Ok(Observed::Refused(log)),
            Err(error) => return Err(error),
        };
        let mut exchanges = Vec::new();
        let mut context = Context { tokens: &self.prepared.tokens, proxy: &mut *proxy };
        for step in &self.case.steps {
            match step {
                Step::Request(step) => {
                    let request = context.expand(step).map_err(HostError::Broken)?;
                    for _ in 0..step.repeat {
                        exchanges.push(context.proxy.send(&request)?);
                    }
                }
                other => context.step(other).map_err(HostError::Broken)?,
            }
        }
        let log = proxy.finish()?;
        Ok(Observed::Accepted { exchanges, log })
    }
}

fn report(case: &Case, host: &dyn Host, what: &str, log: &str) -> String {
    let mut text = format!("testdata/cases/{}: case {:?} on {}\n", case.file, case.name, host.name());
    for line in what.lines() {
        let _ = writeln!(text, "  {line}");
    }
    // The coming and going of VMs explains nothing.
    let lines: Vec<_> =
        log.lines().filter(|line| !line.contains("][wasm]") || line.contains("wasm log")).collect();
    if !lines.is_empty() {
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL)..];
        let _ = write!(text, "  end of the log:\n    {}", tail.join("\n    "));
    }
    text
}

/// What no log may hold, each with a name for the report.
fn never(case: &Case, tokens: &Tokens) -> Result<Vec<(&'static str, String)>, String> {
    let mut never: Vec<_> =
        tokens.secrets().map(|secret| ("a token's signature", secret.to_owned())).collect();
    // Short values are not secrets.
    let env = case.env.values().filter(|value| value.len() >= 12);
    never.extend(env.map(|value| ("a value of env", value.clone())));
    for step in &case.steps {
        if let Step::Request(step) = step {
            for text in &step.expect.logs.never {
                never.push(("a text of logs.never", expand(text, tokens)?));
            }
        }
    }
    Ok(never)
}

#[derive(Debug)]
struct Prepared {
    setup: Setup,
    tokens: Tokens,
}

fn prepare(case: &Case) -> Result<Prepared, String> {
    let tokens = Tokens::mint(&case.tokens).map_err(|error| error.to_string())?;
    let env = case
        .env
        .iter()
        .map(|(name, value)| Ok((name.clone(), expand(value, &tokens)?)))
        .collect::<Result<_, String>>()?;
    let setup = Setup {
        filters: filters(&case.filters, &tokens)?,
        env,
        issuer: match &case.issuer {
            Some(answer) => issuer(answer, &tokens)?,
            None => Answer::json(&public_keys(&KEYS)?),
        },
        limit_service: case.limit_service.as_ref().map(limit_service).unwrap_or_default(),
        filter_state: case.filter_state().into_iter().collect(),
        span_tags: case.span_tags().into_iter().collect(),
        role: case.role,
        reconfigures: case.reconfigures(),
    };
    Ok(Prepared { setup, tokens })
}

/// A text is sent as it is; anything else as JSON.
fn filters(chain: &Chain, tokens: &Tokens) -> Result<Vec<Filter>, String> {
    chain
        .0
        .iter()
        .map(|(name, configuration)| {
            let configuration = match configuration {
                Value::String(text) => text.clone(),
                other => expand_json(other, tokens)?.to_string(),
            };
            Ok(Filter { name: name.clone(), configuration })
        })
        .collect()
}

fn issuer(issuer: &Issuer, tokens: &Tokens) -> Result<Answer, String> {
    let names: Vec<_> = match &issuer.keys {
        Some(names) => names.iter().map(String::as_str).collect(),
        None => KEYS.to_vec(),
    };
    let mut answer = Answer::json(&public_keys(&names)?);
    answer.status = issuer.status.unwrap_or(200);
    answer.delay = issuer.delay.unwrap_or_default();
    if let Some(media_type) = &issuer.media_type {
        answer.headers = vec![("content-type".to_owned(), media_type.clone())];
    }
    if let Some(body) = &issuer.body {
        answer.body = expand(body, tokens)?.into_bytes();
    }
    answer.requires.clone_from(&issuer.requires.0);
    let elsewhere = issuer.at.iter().map(|(path, told)| Ok((path.clone(), self::issuer(told, tokens)?)));
    answer.elsewhere = elsewhere.collect::<Result<_, String>>()?;
    let posted =
        issuer.posted.iter().map(|(body, told)| Ok((expand(body, tokens)?, self::issuer(told, tokens)?)));
    answer.posted = posted.collect::<Result<_, String>>()?;
    Ok(answer)
}

fn limit_service(told: &LimitService) -> RateLimitAnswer {
    let headers = |lines: &[(String, String)]| lines.iter().map(|(n, v)| HeaderValue::new(n, v)).collect();
    let status = |status: &LimitStatus| DescriptorStatus {
        code: status.code,
        current_limit: (status.unit > 0).then(|| RateLimit {
            requests_per_unit: status.requests,
            unit: status.unit,
            name: String::new(),
        }),
        limit_remaining: status.remaining,
        duration_until_reset: status.reset.map(|reset| ProtoDuration {
            seconds: i64::try_from(reset.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(reset.subsec_nanos()).unwrap_or_default(),
        }),
    };
    RateLimitAnswer {
        response: RateLimitResponse {
            overall_code: told.code.unwrap_or(OK),
            statuses: told.statuses.iter().map(status).collect(),
            response_headers_to_add: headers(&told.response_headers.0),
            request_headers_to_add: headers(&told.request_headers.0),
            raw_body: told.body.clone().into_bytes(),
        },
        raw: told.raw.clone().map(String::into_bytes),
        grpc_status: told.grpc_status,
        delay: told.delay.unwrap_or_default(),
        gate: None,
    }
}

fn refusal(expected: &[String], log: &str) -> Result<(), String> {
    match expected.iter().find(|text| !log.contains(*text)) {
        Some(text) => Err(format!("refused, but the log does not say {text:?}")),
        None => Ok(()),
    }
}

fn describe(step: &Step) -> String {
    match step {
        Step::Request(step) => {
            let times = if step.repeat > 1 { format!(", {} times", step.repeat) } else { String::new() };
            format!("{} {}{times}", step.request.method, step.request.path)
        }
        Step::Advance(time) => format!("advance {time:?}"),
        Step::Configure { .. } => "configure".to_owned(),
        Step::Issuer(_) => "issuer".to_owned(),
        Step::LimitService(_) => "limitService".to_owned(),
        Step::Upstream(_) => "upstream".to_owned(),
    }
}

struct Context<'a, 'p> {
    tokens: &'a Tokens,
    proxy: &'a mut (dyn Proxy + 'p),
}

impl Context<'_, '_> {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        let broken = |error: HostError| error.to_string();
        match step {
            Step::Request(step) => self.request(step),
            Step::Advance(time) => self.proxy.advance(*time).map_err(broken),
            Step::Issuer(answer) => {
                self.proxy.set_issuer(issuer(answer, self.tokens)?);
                Ok(())
            }
            Step::LimitService(answer) => {
                self.proxy.set_limit_service(limit_service(answer));
                Ok(())
            }
            Step::Upstream(answer) => {
                self.proxy.set_upstream(Answer {
                    status: answer.status,
                    headers: answer.headers.0.clone(),
                    body: answer.body.clone().into_bytes(),
                    ..Answer::default()
                });
                Ok(())
            }
            Step::Configure { filters: chain, refused } => {
                let filters = filters(chain, self.tokens)?;
                match (self.proxy.configure(&filters), refused) {
                    (Ok(()), None) => Ok(()),
                    (Ok(()), Some(_)) => Err("the configuration was accepted, expected: refused".to_owned()),
                    (Err(HostError::Refused(log)), Some(expected)) => refusal(expected, &log),
                    (Err(error), _) => Err(error.to_string()),
                }
            }
        }
    }

    fn request(&mut self, step: &RequestStep) -> Result<(), String> {
        let broken = |error: HostError| error.to_string();
        let request = self.expand(step)?;
        let before = if step.expect.metrics.is_empty() || !self.proxy.is_observed() {
            BTreeMap::new()
        } else {
            self.proxy.metrics().map_err(broken)?
        };
        let mut differences = Vec::new();
        if let Some(expected) = &step.statuses {
            let mut seen = BTreeMap::new();
            for status in self.proxy.send_many(&request, step.repeat, step.parallel).map_err(broken)? {
                *seen.entry(status).or_insert(0) += 1;
            }
            if &seen != expected {
                differences.push(format!("statuses: expected {expected:?}, saw {seen:?}"));
            }
        } else {
            for time in 1..=step.repeat {
                let exchange = self.proxy.send(&request).map_err(broken)?;
                differences.extend(compare(&step.expect, &exchange, self.tokens)?);
                if !differences.is_empty() {
                    if step.repeat > 1 {
                        differences.insert(0, format!("at the {time}. time:"));
                    }
                    break;
                }
            }
        }
        if differences.is_empty() && self.proxy.is_observed() {
            differences.extend(self.settles(&step.expect, &before)?);
        }
        if differences.is_empty() { Ok(()) } else { Err(differences.join("\n")) }
    }

    fn expand(&self, step: &RequestStep) -> Result<Request, String> {
        let mut request = step.request.clone();
        request.path = expand(&request.path, self.tokens)?;
        for (_, value) in &mut request.headers {
            *value = expand(value, self.tokens)?;
        }
        if let Some(name) = &step.token {
            let token = self.tokens.text(name).map_err(|error| error.to_string())?;
            request.headers.push(("authorization".to_owned(), format!("Bearer {token}")));
        }
        Ok(request)
    }

    /// What the filters do after the answer left: counters and logs may come a moment later.
    fn settles(&mut self, expect: &Expect, before: &BTreeMap<String, i64>) -> Result<Vec<String>, String> {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let mut differences = Vec::new();
            if !expect.metrics.is_empty() {
                let now = self.proxy.metrics().map_err(|error| error.to_string())?;
                let value =
                    |of: &BTreeMap<String, i64>, name: &str| of.get(name).copied().unwrap_or_default();
                for (name, expected) in &expect.metrics {
                    let change = value(&now, name) - value(before, name);
                    if change != *expected {
                        let known: Vec<_> =
                            now.iter().filter(|(name, new)| **new != value(before, name)).collect();
                        differences.push(format!(
                            "metric {name}: expected a change of {expected}, saw {change}; changed: {known:?}"
                        ));
                    }
                }
            }
            if !expect.logs.contain.is_empty() {
                let log = self.proxy.log();
                for text in &expect.logs.contain {
                    if !log.contains(&expand(text, self.tokens)?) {
                        differences.push(format!("log: expected {text:?}"));
                    }
                }
            }
            if differences.is_empty() || Instant::now() > end {
                return Ok(differences);
            }
            self.proxy.wait();
        }
    }
}

/// Everything in which an exchange differs from what is expected.
fn compare(expect: &Expect, exchange: &Exchange, tokens: &Tokens) -> Result<Vec<String>, String> {
    let mut differences = Vec::new();
    let mut check = |what: String, matcher: &Matcher, seen: &[&str]| {
        if let Some(difference) = matcher.mismatch(seen, tokens)? {
            differences.push(format!("{what}: {difference}"));
        }
        Ok::<(), String>(())
    };
    let response = &exchange.response;
    for (name, matcher) in &expect.headers {
        check(format!("response header {name}"), matcher, &values(&response.headers, name))?;
    }
    if let Some(matcher) = &expect.grpc_status {
        let mut seen = values(&response.headers, "grpc-status");
        seen.extend(values(&response.trailers, "grpc-status"));
        check("grpc-status".to_owned(), matcher, &seen)?;
    }
    if let Some(matcher) = &expect.details {
        check("response code details".to_owned(), matcher, &[&exchange.details])?;
    }
    let maps = [
        ("filter state", &expect.filter_state, &exchange.filter_state),
        ("span tag", &expect.span, &exchange.span),
    ];
    for (what, expected, seen) in maps {
        for (name, matcher) in expected {
            let seen: Vec<_> = seen.get(name).map(String::as_str).into_iter().collect();
            check(format!("{what} {name}"), matcher, &seen)?;
        }
    }
    if let (Some(expected), Some(seen)) = (&expect.upstream, &exchange.upstream) {
        for (name, matcher) in &expected.headers {
            check(format!("upstream header {name}"), matcher, &values(&seen.headers, name))?;
        }
        if let Some(matcher) = &expected.path {
            check("upstream path".to_owned(), matcher, &[&seen.path])?;
        }
    }
    if let Some(expected) = &expect.upstream
        && expected.reached != exchange.upstream.is_some()
    {
        let word = |reached| if reached { "reached" } else { "not reached" };
        differences.push(format!(
            "upstream: expected {}, saw {}",
            word(expected.reached),
            word(!expected.reached)
        ));
    }
    if let Some(expected) = &expect.body {
        differences.extend(body(expected, &response.text(), tokens)?);
    }
    if let Some(expected) = expect.status
        && expected != response.status
    {
        let text = response.text();
        differences.insert(
            0,
            format!("status: expected {expected}, saw {} {text} ({})", response.status, exchange.details),
        );
    }
    let text = response.text();
    if tokens.secrets().any(|secret| text.contains(secret)) {
        differences.push("the response holds a token's signature".to_owned());
    }
    Ok(differences)
}

/// A text must be contained; anything else is JSON of which the body must have at least this.
fn body(expected: &Value, seen: &str, tokens: &Tokens) -> Result<Option<String>, String> {
    if let Value::String(text) = expected {
        let text = expand(text, tokens)?;
        return Ok(
            (!seen.contains(&text)).then(|| format!("body: expected a text with {text:?}, saw {seen:?}"))
        );
    }
    let expected = expand_json(expected, tokens)?;
    match serde_json::from_str(seen) {
        Ok(seen) => json_mismatch(&expected, &seen, "body", tokens),
        Err(error) => Ok(Some(format!("body: expected JSON, saw {seen:?} ({error})"))),
    }
}
