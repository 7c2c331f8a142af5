//! The format of `testdata/cases/**/*.yaml`; its README says the same for people.

use crate::repository;
use crate::tokens::Token;
use crate::values::{Matcher, duration};
use envoy::{Protocol, Role};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, fs, io};

/// A file of cases: what is said at its top holds for each case that does not say otherwise.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawFile {
    #[serde(default, rename = "about")]
    _about: Option<String>,
    #[serde(flatten)]
    defaults: Shared,
    cases: Vec<RawCase>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawCase {
    name: String,
    #[serde(default)]
    refused: Vec<String>,
    #[serde(default)]
    steps: Vec<RawStep>,
    #[serde(flatten)]
    own: Shared,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shared {
    filters: Option<Chain>,
    also: Option<Vec<Also>>,
    only: Option<HostName>,
    proxy: Option<ProxyKind>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    tokens: BTreeMap<String, Token>,
    issuer: Option<Issuer>,
    limit_service: Option<LimitService>,
}

/// Another chain that must give the same results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Also {
    /// All filters of the case in one module, each configuration under its key.
    MeshFilters,
}

/// Where a case runs, if not everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HostName {
    /// The mock host.
    MockHost,
    /// Real Envoy.
    Envoy,
}

/// What kind of proxy runs the filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ProxyKind {
    /// A sidecar of Istio.
    Sidecar,
    /// A gateway of Istio.
    Gateway,
    /// An edge proxy that is not Istio's.
    Other,
}

/// Filters and their pluginConfig, in the order of the chain.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Chain(pub(crate) Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Chain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Chain;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of filter names to their pluginConfig")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Chain, A::Error> {
                let mut chain = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    chain.push(entry);
                }
                Ok(Chain(chain))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// What the key server answers.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Issuer {
    /// Which keys of `testdata/keys` it serves; all unless said.
    pub(crate) keys: Option<Vec<String>>,
    /// 200 unless said.
    pub(crate) status: Option<u16>,
    /// The only media type that it serves; `application/json` unless said.
    pub(crate) media_type: Option<String>,
    /// A body instead of the keys.
    pub(crate) body: Option<String>,
    /// The headers without which it answers 401.
    #[serde(default)]
    pub(crate) requires: HeaderLines,
    /// What it answers at other paths.
    #[serde(default)]
    pub(crate) at: BTreeMap<String, Self>,
    /// What it answers to requests with these bodies.
    #[serde(default)]
    pub(crate) posted: BTreeMap<String, Self>,
    /// How long it waits before it answers.
    #[serde(default, deserialize_with = "some_duration")]
    pub(crate) delay: Option<Duration>,
}

/// What the rate limit service answers.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct LimitService {
    /// 1 (OK) unless said.
    pub(crate) code: Option<i32>,
    #[serde(default)]
    pub(crate) statuses: Vec<LimitStatus>,
    #[serde(default)]
    pub(crate) response_headers: HeaderLines,
    #[serde(default)]
    pub(crate) request_headers: HeaderLines,
    #[serde(default)]
    pub(crate) body: String,
    /// Bytes in the place of a message.
    pub(crate) raw: Option<String>,
    /// A gRPC status in its place.
    #[serde(default)]
    pub(crate) grpc_status: u32,
    /// How long it waits before it answers.
    #[serde(default, deserialize_with = "some_duration")]
    pub(crate) delay: Option<Duration>,
}

/// What it says of one descriptor.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct LimitStatus {
    /// 1 (OK), 2 (over the limit).
    pub(crate) code: i32,
    #[serde(default)]
    pub(crate) requests: u32,
    /// 1 to 4: second, minute, hour, day.
    #[serde(default)]
    pub(crate) unit: i32,
    #[serde(default)]
    pub(crate) remaining: u32,
    #[serde(default, deserialize_with = "some_duration")]
    pub(crate) reset: Option<Duration>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawStep {
    request: Option<RawRequest>,
    repeat: Option<u32>,
    parallel: Option<u32>,
    statuses: Option<BTreeMap<u16, u32>>,
    expect: Option<Expect>,
    #[serde(default, deserialize_with = "some_duration")]
    advance: Option<Duration>,
    configure: Option<Chain>,
    refused: Option<Vec<String>>,
    issuer: Option<Issuer>,
    limit_service: Option<LimitService>,
    upstream: Option<UpstreamAnswer>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawRequest {
    #[serde(default)]
    method: Option<String>,
    #[serde(default = "root")]
    path: String,
    #[serde(default)]
    authority: Option<String>,
    #[serde(default)]
    headers: HeaderLines,
    token: Option<String>,
    #[serde(default)]
    body: String,
    #[serde(default)]
    protocol: WireProtocol,
    from: Option<Ipv4Addr>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
enum WireProtocol {
    #[default]
    Http1,
    Http2,
    Grpc,
}

/// Headers in the order of the file; a list of values gives the header several times.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeaderLines(pub(crate) Vec<(String, String)>);

impl<'de> Deserialize<'de> for HeaderLines {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Values {
            One(String),
            Many(Vec<String>),
        }
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = HeaderLines;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of header names to one text or a list of texts")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HeaderLines, A::Error> {
                let mut lines = Vec::new();
                while let Some((name, values)) = map.next_entry::<String, Values>()? {
                    match values {
                        Values::One(value) => lines.push((name, value)),
                        Values::Many(values) => {
                            lines.extend(values.into_iter().map(|value| (name.clone(), value)));
                        }
                    }
                }
                Ok(HeaderLines(lines))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// What the service behind the filters answers.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct UpstreamAnswer {
    #[serde(default = "ok")]
    pub(crate) status: u16,
    #[serde(default)]
    pub(crate) headers: HeaderLines,
    #[serde(default)]
    pub(crate) body: String,
}

/// What is expected of one exchange.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Expect {
    pub(crate) status: Option<u16>,
    pub(crate) grpc_status: Option<Matcher>,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, Matcher>,
    pub(crate) body: Option<Value>,
    #[serde(default)]
    pub(crate) upstream: Option<ExpectUpstream>,
    #[serde(default)]
    pub(crate) filter_state: BTreeMap<String, Matcher>,
    pub(crate) details: Option<Matcher>,
    #[serde(default)]
    pub(crate) span: BTreeMap<String, Matcher>,
    #[serde(default)]
    pub(crate) metrics: BTreeMap<String, i64>,
    #[serde(default)]
    pub(crate) logs: ExpectLogs,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ExpectUpstream {
    #[serde(default = "yes")]
    pub(crate) reached: bool,
    pub(crate) path: Option<Matcher>,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, Matcher>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ExpectLogs {
    #[serde(default)]
    pub(crate) contain: Vec<String>,
    #[serde(default)]
    pub(crate) never: Vec<String>,
}

/// One case with one chain, ready to run.
#[derive(Debug, Clone)]
pub struct Case {
    /// The file, relative to `testdata/cases`.
    pub file: String,
    /// The case's name, with `(mesh-filters)` where it runs in that module.
    pub name: String,
    pub(crate) filters: Chain,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) tokens: BTreeMap<String, Token>,
    pub(crate) issuer: Option<Issuer>,
    pub(crate) limit_service: Option<LimitService>,
    pub(crate) role: Role,
    pub(crate) only: Option<HostName>,
    pub(crate) refused: Vec<String>,
    pub(crate) steps: Vec<Step>,
    mesh: bool,
}

impl Case {
    /// Its file and its name.
    pub fn id(&self) -> String {
        format!("{}: {}", self.file, self.name)
    }

    /// Whether it runs on a real Envoy only.
    pub fn runs_on_envoy_only(&self) -> bool {
        self.only == Some(HostName::Envoy)
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Request(Box<RequestStep>),
    Advance(Duration),
    Configure { filters: Chain, refused: Option<Vec<String>> },
    Issuer(Issuer),
    LimitService(LimitService),
    Upstream(UpstreamAnswer),
}

#[derive(Debug, Clone)]
pub(crate) struct RequestStep {
    /// Placeholders are still in it.
    pub(crate) request: envoy::Request,
    pub(crate) token: Option<String>,
    pub(crate) repeat: u32,
    pub(crate) parallel: u32,
    pub(crate) statuses: Option<BTreeMap<u16, u32>>,
    pub(crate) expect: Expect,
}

/// A file can't be read as cases.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", file.display())]
pub struct LoadError {
    file: PathBuf,
    reason: String,
}

/// All cases of `testdata/cases`, in order of file.
pub fn load_all() -> Result<Vec<Case>, LoadError> {
    let root = repository().join("testdata/cases");
    let mut files = Vec::new();
    find(&root, &mut files).map_err(|error| LoadError { file: root.clone(), reason: error.to_string() })?;
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        cases.extend(load(&file, file.strip_prefix(&root).unwrap_or(&file))?);
    }
    Ok(cases)
}

/// The cases of one file, each once for each chain in which it runs. `name` is what reports call the file.
pub fn load(file: &Path, name: &Path) -> Result<Vec<Case>, LoadError> {
    let text = fs::read_to_string(file)
        .map_err(|cause| LoadError { file: file.to_owned(), reason: cause.to_string() })?;
    parse(&text, name)
}

/// The cases of a file with this text.
pub fn parse(text: &str, name: &Path) -> Result<Vec<Case>, LoadError> {
    let error = |reason| LoadError { file: name.to_owned(), reason };
    let raw: RawFile = serde_saphyr::from_str(text).map_err(|cause| error(cause.to_string()))?;
    let name = name.display().to_string();
    let mut cases = Vec::new();
    let mut names = BTreeSet::new();
    for case in raw.cases {
        let title = case.name.clone();
        if !names.insert(title.clone()) {
            return Err(error(format!("two cases are named {title:?}")));
        }
        cases.extend(
            case.build(&raw.defaults, &name).map_err(|reason| error(format!("case {title:?}: {reason}")))?,
        );
    }
    Ok(cases)
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    Ok(())
}

impl RawCase {
    fn build(self, defaults: &Shared, file: &str) -> Result<Vec<Case>, String> {
        let mut env = defaults.env.clone();
        env.extend(self.own.env);
        let mut tokens = defaults.tokens.clone();
        tokens.extend(self.own.tokens);
        let filters = self.own.filters.or_else(|| defaults.filters.clone()).ok_or("it names no filters")?;
        if self.refused.is_empty() == self.steps.is_empty() {
            return Err("it needs either steps or refused".to_owned());
        }
        let steps = self
            .steps
            .into_iter()
            .enumerate()
            .map(|(index, step)| step.build().map_err(|reason| format!("step {}: {reason}", index + 1)))
            .collect::<Result<Vec<_>, _>>()?;
        let advances = steps.iter().any(|step| matches!(step, Step::Advance(_)));
        let only = match self.own.only.or(defaults.only) {
            Some(HostName::Envoy) if advances => return Err("real Envoy has no clock to advance".to_owned()),
            _ if advances => Some(HostName::MockHost),
            only => only,
        };
        let case = Case {
            file: file.to_owned(),
            name: self.name,
            filters,
            env,
            tokens,
            issuer: self.own.issuer.or_else(|| defaults.issuer.clone()),
            limit_service: self.own.limit_service.or_else(|| defaults.limit_service.clone()),
            only,
            role: match self.own.proxy.or(defaults.proxy) {
                None | Some(ProxyKind::Sidecar) => Role::Sidecar,
                Some(ProxyKind::Gateway) => Role::Gateway,
                Some(ProxyKind::Other) => Role::Other,
            },
            refused: self.refused,
            steps,
            mesh: false,
        };
        let also = self.own.also.or_else(|| defaults.also.clone()).unwrap_or_default();
        let mesh = (also.contains(&Also::MeshFilters) && !case.has_raw_text())
            .then(|| case.in_mesh_filters())
            .transpose()?;
        Ok([case].into_iter().chain(mesh).collect())
    }
}

impl Case {
    fn in_mesh_filters(&self) -> Result<Self, String> {
        let mut case = self.clone();
        case.name += " (mesh-filters)";
        case.mesh = true;
        case.filters = combined(&case.filters)?;
        for step in &mut case.steps {
            if let Step::Configure { filters, .. } = step {
                *filters = combined(filters)?;
            }
        }
        Ok(case)
    }

    /// Is a configuration sent as it is? No other can hold it under a key.
    fn has_raw_text(&self) -> bool {
        let configured = self.steps.iter().filter_map(|step| match step {
            Step::Configure { filters, .. } => Some(filters),
            _ => None,
        });
        configured.chain([&self.filters]).any(|chain| chain.0.iter().any(|(_, value)| value.is_string()))
    }

    /// Does it change the configuration while it runs?
    pub(crate) fn reconfigures(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Configure { .. }))
    }

    fn requests(&self) -> impl Iterator<Item = &RequestStep> {
        self.steps.iter().filter_map(|step| if let Step::Request(step) = step { Some(&**step) } else { None })
    }

    /// The filter state keys that it looks at.
    pub(crate) fn filter_state(&self) -> BTreeSet<String> {
        self.requests().flat_map(|step| step.expect.filter_state.keys().cloned()).collect()
    }

    /// The span tags that it looks at.
    pub(crate) fn span_tags(&self) -> BTreeSet<String> {
        self.requests().flat_map(|step| step.expect.span.keys().cloned()).collect()
    }
}

fn combined(chain: &Chain) -> Result<Chain, String> {
    let mut configuration = serde_json::Map::new();
    for (filter, value) in &chain.0 {
        let key = match filter.as_str() {
            "jwt-auth" => "jwtAuth",
            "rate-limit" => "rateLimit",
            "trace-tags" => "traceTags",
            other => return Err(format!("{other} is no part of mesh-filters")),
        };
        configuration.insert(key.to_owned(), value.clone());
    }
    Ok(Chain(vec![("mesh-filters".to_owned(), Value::Object(configuration))]))
}

impl RawStep {
    fn build(self) -> Result<Step, String> {
        let kinds = [
            self.request.is_some(),
            self.advance.is_some(),
            self.configure.is_some(),
            self.issuer.is_some(),
            self.limit_service.is_some(),
            self.upstream.is_some(),
        ];
        if kinds.iter().filter(|kind| **kind).count() != 1 {
            return Err(
                "expected exactly one of request, advance, configure, issuer, limitService, upstream"
                    .to_owned(),
            );
        }
        let belongs = self.expect.is_some() || self.statuses.is_some() || self.repeat.is_some();
        if belongs && self.request.is_none() {
            return Err("expect, statuses and repeat belong to a request".to_owned());
        }
        if self.refused.is_some() && self.configure.is_none() {
            return Err("refused belongs to configure".to_owned());
        }
        if let Some(request) = self.request {
            let expect = self.expect.unwrap_or_default();
            if expect.status.is_none() && self.statuses.is_none() {
                return Err("expect.status is missing".to_owned());
            }
            let repeat = self.repeat.unwrap_or(1);
            if let Some(statuses) = &self.statuses
                && statuses.values().sum::<u32>() != repeat
            {
                return Err(format!("statuses don't add up to repeat: {repeat}"));
            }
            let token = request.token.clone();
            let parallel = self.parallel.unwrap_or(1).max(1);
            let request = request.build();
            let statuses = self.statuses;
            return Ok(Step::Request(Box::new(RequestStep {
                request,
                token,
                repeat,
                parallel,
                statuses,
                expect,
            })));
        }
        if let Some(answer) = self.limit_service {
            return Ok(Step::LimitService(answer));
        }
        Ok(match (self.advance, self.configure, self.issuer, self.upstream) {
            (Some(time), ..) => Step::Advance(time),
            (_, Some(filters), ..) => Step::Configure { filters, refused: self.refused },
            (_, _, Some(issuer), _) => Step::Issuer(issuer),
            (.., Some(upstream)) => Step::Upstream(upstream),
            _ => return Err("it does nothing".to_owned()),
        })
    }
}

impl RawRequest {
    fn build(self) -> envoy::Request {
        let protocol = match self.protocol {
            WireProtocol::Http1 => Protocol::Http1,
            WireProtocol::Http2 => Protocol::Http2,
            WireProtocol::Grpc => Protocol::Grpc,
        };
        let usual = if protocol == Protocol::Grpc { "POST" } else { "GET" };
        let mut request = envoy::Request::new(self.method.as_deref().unwrap_or(usual), &self.path);
        if let Some(authority) = self.authority {
            request.authority = authority;
        }
        request.headers = self.headers.0;
        request.body = self.body.into_bytes();
        request.protocol = protocol;
        request.source = self.from.map(IpAddr::V4);
        request
    }
}

fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let error =
        || serde::de::Error::custom(format!("{text:?} is not a valid duration such as 250ms, 10s, 5m"));
    duration(&text).ok_or_else(error).map(Some)
}

fn root() -> String {
    "/".to_owned()
}

fn ok() -> u16 {
    200
}

fn yes() -> bool {
    true
}
