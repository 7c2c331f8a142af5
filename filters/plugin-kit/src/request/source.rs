//! Value sources: where a rate limit's key or a span's tag comes from. One naming scheme for all filters.
//!
//! ```yaml
//! from: [{ claim: sub }, { header: x-user-id, trust: true }, { literal: nobody }]
//! ```
//!
//! A claim is one that a filter has verified and published. A header, a cookie, a path and more are what the
//! client sent ([`Source::is_written_by_client`]), so filters that need more than that ask for `trust: true`
//! ([`RawSource::is_unverified`]).

use std::borrow::Cow;
use std::cell::OnceCell;

use crate::config::{Code, ErrorList, JsonPath, NonEmpty};
use crate::host::Environment;
use crate::host::HostError;
use crate::request::address::{AddressFrom, ClientAddress, FORWARDED_FOR, Found, network, principal};
use crate::request::cel::Expression;
use crate::request::claim::{PUBLISHED_EMPTY, URL_WITH_DOTS, is_unescaped_url};
use crate::request::exchange::Exchange;
use crate::request::matcher::warn_of_segments;
use crate::request::path::{PathCase, PathPattern, Readings};

crate::config_object! {
    /// Where a value comes from: an object with exactly one source, and `trust` where that is needed.
    #[derive(Debug, Clone, Default)]
    pub struct RawSource {
        /// The name of a verified claim that jwt-auth publishes (`publishClaims`). Dots lead into objects:
        /// `org.id`.
        claim: Option<String>,
        /// The name of a request header, in lower case. In rate-limit the first value of a repeated header
        /// counts; in trace-tags all values are joined by commas.
        header: Option<String>,
        /// The name of a query parameter. Its first value counts, after percent-decoding.
        query_param: Option<String>,
        /// The name of a cookie. Its first value counts.
        cookie: Option<String>,
        /// The name of a member of the header `baggage` (W3C Baggage). Its first value counts, after
        /// percent-decoding.
        baggage: Option<String>,
        /// The client's address, or the network that it is in.
        source_address: Option<RawSourceAddress>,
        /// The identity that the peer proves by mutual TLS: `spiffe://cluster.local/ns/shop/sa/web`.
        principal: Option<NoOptions>,
        /// The header `x-request-id`.
        request_id: Option<NoOptions>,
        /// The path of the request as the client wrote it, without the query.
        path: Option<NoOptions>,
        /// Path patterns, such as `/users/{*}/orders`. The value is the first pattern that the path matches
        /// in any letter case. If servers read the path in several ways, one matching reading is enough.
        path_template: Option<NonEmpty<Vec<String>>>,
        /// The method of the request.
        method: Option<NoOptions>,
        /// The name of a label of the pod. It is read once for each worker.
        workload_label: Option<String>,
        /// The name of a variable of vmConfig.env.
        env: Option<String>,
        /// The key of a filter state. The keys of Wasm plugins begin with `wasm.`, such as
        /// `wasm.jwt.deny_code` and `wasm.ratelimit.limit`. Other keys are those of native filters.
        filter_state: Option<String>,
        /// The path of an attribute of Envoy that is a string: `[request, protocol]`.
        property: Option<NonEmpty<Vec<String>>>,
        /// A CEL expression, which the proxy evaluates when the request arrives. Its string, or its number as
        /// a string, is the value. An expression that fails has no value.
        cel: Option<String>,
        /// This string itself.
        literal: Option<String>,
        /// Whether the operator declares that a trusted proxy sets or checks the value. It is needed for a
        /// tag, a cost or a plan from a source that a client can write: `header`, `queryParam`, `cookie`,
        /// `baggage`, `path`, `pathTemplate`, `method`, `cel`, `requestId` (not in tags), and a `property` of
        /// the request or of its source.
        trust: Option<bool> => false,
    }
}

crate::config_object! {
    /// An object without options: `{}`.
    #[derive(Debug, Clone, Default)]
    struct NoOptions {}
}

/// How many bits of an IPv4 and of an IPv6 address make a value, unless the source says otherwise.
const IPV4_PREFIX: u8 = 32;
const IPV6_PREFIX: u8 = 64;

crate::config_object! {
    /// The client's address, or the network that it is in.
    #[derive(Debug, Clone, Default)]
    struct RawSourceAddress {
        /// How the client's address is found. A sidecar or a gateway of Istio needs no value; any other proxy
        /// does.
        from: Option<AddressFrom>,
        /// The principals of peers whose `x-forwarded-for` is believed:
        /// `cluster.local/ns/istio-ingress/sa/gateway`.
        trust_forwarded_from: Vec<String> = Vec::new(),
        /// How many proxies stand in front of a trusted peer and append an address to `x-forwarded-for`.
        num_trusted_proxies: usize = 0,
        /// How many leading bits of an IPv4 address make the value, at most 32.
        ipv4_prefix: Option<u8> => IPV4_PREFIX,
        /// How many leading bits of an IPv6 address make the value, at most 128.
        ipv6_prefix: Option<u8> => IPV6_PREFIX,
    }
}

/// Where a value comes from. An empty value counts as none.
#[derive(Debug, Clone)]
pub enum Source {
    /// A verified claim that jwt-auth has published: filter state `wasm.jwt.<claim>`. The key, with the
    /// `jwt.`.
    Claim(String),
    /// A request header (lower-case name): all its values, joined by a comma.
    Header {
        /// Lower case.
        name: String,
    },
    /// The first query parameter of this name, percent-decoded.
    QueryParam {
        /// The name, as it stands in the query after decoding.
        name: String,
    },
    /// The first cookie of this name.
    Cookie {
        /// The name, as it stands in the `cookie` header.
        name: String,
    },
    /// The first member of this name in the W3C baggage, percent-decoded.
    Baggage {
        /// The name, as it stands in the header.
        name: String,
    },
    /// The client's address without its port.
    SourceAddress(SourceAddress),
    /// The peer's identity from its mTLS certificate: `spiffe://<trust domain>/ns/<namespace>/sa/<account>`.
    Principal,
    /// The header `x-request-id`.
    RequestId,
    /// The request's path without its query.
    Path,
    /// The first of these patterns that the request's path matches, as it is written. The case of letters
    /// does not count, and of a path that can be read in several ways each reading does.
    PathTemplate(Vec<(String, PathPattern)>),
    /// The request's method.
    Method,
    /// A label of the pod that this proxy serves. It is read once and remembered.
    WorkloadLabel(WorkloadLabel),
    /// What never changes: an environment variable of the plugin (vmConfig.env; `None` where it is not set)
    /// or a literal.
    Fixed(Option<String>),
    /// Filter state: `wasm.<key>` as Wasm plugins write it, or that of a native filter.
    FilterState(String),
    /// An attribute of Envoy, by its path. Text attributes only: numbers arrive as eight bytes.
    Property(Vec<String>),
    /// The text that a CEL expression gives. One without a value for the request, or of another type, is no
    /// value.
    Cel {
        /// As the host has compiled it.
        expression: Expression,
    },
}

/// The client's address as a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceAddress {
    client: ClientAddress,
    /// IPv4 addresses that share so many leading bits count as one.
    ipv4_prefix: u8,
    /// IPv6 addresses that share so many leading bits count as one.
    ipv6_prefix: u8,
}

/// A label of the workload's pod; see [`Source::WorkloadLabel`].
#[derive(Debug, Clone)]
pub struct WorkloadLabel {
    name: String,
    known: OnceCell<Option<Vec<u8>>>,
}

/// What sources read of a request's head, so that a filter makes one host call for all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HeaderReads {
    /// No header is read.
    #[default]
    Nothing,
    /// This one header: [`Exchange::header_joined`] is the cheapest way.
    One(String),
    /// Several headers: [`Exchange::headers`] first, then everything is found there.
    Whole,
}

impl HeaderReads {
    /// What two sources read together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, both) | (both, Self::Nothing) => both,
            (Self::One(a), Self::One(b)) if a == b => Self::One(a),
            _ => Self::Whole,
        }
    }

    /// Reads the head if several headers of it will be asked for. To be called before the sources are.
    pub fn prepare(&self, exchange: &Exchange<'_>) -> Result<(), HostError> {
        if *self == Self::Whole { exchange.headers().map(drop) } else { Ok(()) }
    }
}

impl RawSource {
    /// The source, or notes of what is wrong with it. `env` looks up environment variables and compiles CEL.
    pub fn parse(&self, path: &JsonPath, errors: &mut ErrorList, env: &dyn Environment) -> Option<Source> {
        let kinds = self.kinds();
        let listed = |kinds: &[Kind], separator: &str| {
            kinds.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(separator)
        };
        let given: Vec<Kind> = kinds.into_iter().filter(|(_, given)| *given).collect();
        let [(kind, _)] = *given else {
            let found = if given.is_empty() { "none".to_owned() } else { listed(&given, " and ") };
            let expected = listed(&kinds, ", ");
            errors.add(path, format_args!("expected exactly one of {expected}; found {found}"));
            return None;
        };
        let source = self.source(path, errors, env)?;
        if let Err(message) = source.check() {
            errors.add(&path.field(kind), message);
            return None;
        }
        if let Source::Property(attribute) = &source
            && let [object] = &**attribute
            && matches!(
                &**object,
                "request" | "response" | "source" | "destination" | "connection" | "upstream"
            )
        {
            // Envoy has no bytes for it: each read would fail.
            let message = format_args!("`{object}` is an object; expected one of its attributes");
            errors.add(&path.field(kind), message);
            return None;
        }
        if let Source::Property(attribute) = &source
            && is_no_text(attribute)
        {
            let message = "is a number, a time or a map; expected an attribute that is a text";
            errors.note(Code::SourceWithoutValue, &path.field(kind), message);
        }
        if let Some(text) = &self.cel {
            warn_of_response(text, &path.field(kind), errors);
        }
        if self.claim.as_deref().is_some_and(is_unescaped_url) {
            errors.add(&path.field(kind), URL_WITH_DOTS);
            return None;
        }
        if self.trust.is_some() && !source.is_written_by_client() {
            errors.add(
                &path.field("trust"),
                format_args!(
                    "only what a client can write needs it, which `{kind}` here is not; expected no `trust`"
                ),
            );
            return None;
        }
        Some(source)
    }

    /// Whether `source`, which this is, gives what a client can write, and the user does not vouch for it.
    pub fn is_unverified(&self, source: &Source) -> bool {
        source.is_written_by_client() && self.trust != Some(true)
    }

    /// Which kinds are given.
    fn kinds(&self) -> [Kind; 17] {
        [
            ("claim", self.claim.is_some()),
            ("header", self.header.is_some()),
            ("queryParam", self.query_param.is_some()),
            ("cookie", self.cookie.is_some()),
            ("baggage", self.baggage.is_some()),
            ("sourceAddress", self.source_address.is_some()),
            ("principal", self.principal.is_some()),
            ("requestId", self.request_id.is_some()),
            ("path", self.path.is_some()),
            ("pathTemplate", self.path_template.is_some()),
            ("method", self.method.is_some()),
            ("workloadLabel", self.workload_label.is_some()),
            ("env", self.env.is_some()),
            ("filterState", self.filter_state.is_some()),
            ("property", self.property.is_some()),
            ("cel", self.cel.is_some()),
            ("literal", self.literal.is_some()),
        ]
    }

    /// The source of the one kind that is given.
    fn source(&self, path: &JsonPath, errors: &mut ErrorList, env: &dyn Environment) -> Option<Source> {
        Some(if let Some(name) = &self.claim {
            Source::Claim(format!("jwt.{name}"))
        } else if let Some(name) = &self.header {
            Source::Header { name: name.to_ascii_lowercase() }
        } else if let Some(name) = &self.query_param {
            Source::QueryParam { name: name.clone() }
        } else if let Some(name) = &self.cookie {
            Source::Cookie { name: name.clone() }
        } else if let Some(name) = &self.baggage {
            Source::Baggage { name: name.clone() }
        } else if let Some(raw) = &self.source_address {
            Source::SourceAddress(raw.parse(&path.field("sourceAddress"), errors, env)?)
        } else if self.principal.is_some() {
            Source::Principal
        } else if self.request_id.is_some() {
            Source::RequestId
        } else if self.path.is_some() {
            Source::Path
        } else if let Some(templates) = &self.path_template {
            Source::PathTemplate(parse_templates(templates, &path.field("pathTemplate"), errors)?)
        } else if self.method.is_some() {
            Source::Method
        } else if let Some(name) = &self.workload_label {
            Source::WorkloadLabel(WorkloadLabel { name: name.clone(), known: OnceCell::new() })
        } else if let Some(name) = &self.env {
            Source::Fixed(env.variable(name).filter(|value| !value.is_empty()))
        } else if let Some(name) = &self.filter_state {
            Source::FilterState(name.clone())
        } else if let Some(attribute) = &self.property {
            Source::Property(attribute.to_vec())
        } else if let Some(text) = &self.cel {
            let expression = errors.check(&path.field("cel"), Expression::text(text, env))?;
            Source::Cel { expression }
        } else {
            Source::Fixed(self.literal.clone())
        })
    }
}

/// A kind's name, and whether it is given.
type Kind = (&'static str, bool);

fn parse_templates(
    templates: &[String],
    path: &JsonPath,
    errors: &mut ErrorList,
) -> Option<Vec<(String, PathPattern)>> {
    let mut parsed = Vec::new();
    warn_of_segments(templates, path, errors);
    for (n, text) in templates.iter().enumerate() {
        let pattern = errors.check(&path.index(n), PathPattern::parse(text, PathCase::Insensitive))?;
        parsed.push((text.clone(), pattern));
    }
    (!parsed.is_empty()).then_some(parsed)
}

impl RawSourceAddress {
    fn parse(&self, path: &JsonPath, errors: &mut ErrorList, env: &dyn Environment) -> Option<SourceAddress> {
        let mut prefix = |field: &str, given: Option<u8>, usual: u8, longest: u8| {
            let prefix = given.unwrap_or(usual);
            if (1..=longest).contains(&prefix) {
                return Some(prefix);
            }
            errors.add(&path.field(field), format_args!("expected 1 to {longest} bits, found {prefix}"));
            None
        };
        let ipv4_prefix = prefix("ipv4Prefix", self.ipv4_prefix, IPV4_PREFIX, 32)?;
        let ipv6_prefix = prefix("ipv6Prefix", self.ipv6_prefix, IPV6_PREFIX, 128)?;
        let (trust, proxies) = (&self.trust_forwarded_from, self.num_trusted_proxies);
        let client = ClientAddress::parse(self.from, trust, proxies, path, errors, env)?;
        Some(SourceAddress { client, ipv4_prefix, ipv6_prefix })
    }
}

impl Source {
    /// Whether this is the same source, as far as that is known.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Claim(own), Self::Claim(other))
            | (Self::Header { name: own }, Self::Header { name: other })
            | (Self::FilterState(own), Self::FilterState(other)) => own == other,
            (Self::SourceAddress(own), Self::SourceAddress(other)) => own == other,
            (Self::Principal, Self::Principal) | (Self::Method, Self::Method) => true,
            _ => false,
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Header { name, .. } if name.is_empty() || !name.bytes().all(is_header_byte) => {
                Err("expected the name of a header".to_owned())
            }
            Self::Claim(key) if key == "jwt." => {
                Err("expected the name of a claim, found nothing".to_owned())
            }
            Self::QueryParam { name, .. }
            | Self::Cookie { name, .. }
            | Self::Baggage { name, .. }
            | Self::WorkloadLabel(WorkloadLabel { name, .. })
            | Self::FilterState(name)
                if name.is_empty() =>
            {
                Err("expected a name, found nothing".to_owned())
            }
            Self::Property(path) if path.iter().any(String::is_empty) => {
                Err("expected the path of an attribute, such as `[request, protocol]`".to_owned())
            }
            Self::Fixed(Some(text)) if text.is_empty() => Err("expected text, found nothing".to_owned()),
            _ => Ok(()),
        }
    }

    /// What the source is, for people: `claim sub`, `header x-user`. No value is in it.
    pub fn describe(&self) -> String {
        match self {
            Self::Claim(key) => format!("claim {}", key.strip_prefix("jwt.").unwrap_or(key)),
            Self::Header { name } => format!("header {name}"),
            Self::QueryParam { name } => format!("queryParam {name}"),
            Self::Cookie { name } => format!("cookie {name}"),
            Self::Baggage { name } => format!("baggage {name}"),
            Self::SourceAddress(_) => "sourceAddress".to_owned(),
            Self::Principal => "principal".to_owned(),
            Self::RequestId => "requestId".to_owned(),
            Self::Path => "path".to_owned(),
            Self::PathTemplate(_) => "pathTemplate".to_owned(),
            Self::Method => "method".to_owned(),
            Self::WorkloadLabel(label) => format!("workloadLabel {}", label.name),
            Self::Fixed(_) => "a fixed text".to_owned(),
            Self::FilterState(name) => format!("filterState {name}"),
            Self::Property(path) => format!("property {}", path.join(".")),
            Self::Cel { .. } => "cel".to_owned(),
        }
    }

    /// As [`Source::value`], but of a header that occurs several times the first value: for a value that only
    /// tells requests apart, where that is cheaper and as good.
    pub fn first_value(&self, exchange: &Exchange<'_>) -> Result<Option<Cow<'_, [u8]>>, HostError> {
        match self {
            Self::Header { name, .. } => {
                Ok(exchange.header_first(name)?.filter(|value| !value.is_empty()).map(Cow::Owned))
            }
            _ => self.value(exchange),
        }
    }

    /// The value for this exchange; `None` where there is none or it is empty.
    pub fn value(&self, exchange: &Exchange<'_>) -> Result<Option<Cow<'_, [u8]>>, HostError> {
        let owned = match self {
            Self::Claim(key) => exchange.published(key)?.filter(|text| text != PUBLISHED_EMPTY),
            Self::Header { name, .. } => exchange.header_joined(name)?,
            Self::QueryParam { name, .. } => {
                exchange.header_joined(":path")?.and_then(|path| query_param(&path, name.as_bytes()))
            }
            // Cookies may come in several headers, and a comma in one of them is not a border.
            Self::Cookie { name, .. } => exchange
                .headers()?
                .all("cookie")
                .find_map(|header| cookie(header, name.as_bytes()))
                .map(<[u8]>::to_vec),
            Self::Baggage { name, .. } => exchange.header_joined("baggage")?.and_then(|header| {
                baggage_members(&header)
                    .find_map(|(found, value)| (found == name.as_bytes()).then(|| decoded(value, b'+')))
            }),
            Self::SourceAddress(source) => source.value(exchange)?,
            Self::Principal => principal(exchange)?,
            Self::RequestId => exchange.header_joined("x-request-id")?,
            Self::Path => exchange.header_joined(":path")?.map(|mut path| {
                path.truncate(path.iter().position(|byte| *byte == b'?').unwrap_or(path.len()));
                path
            }),
            Self::PathTemplate(templates) => {
                let target = exchange.header_joined(":path")?.unwrap_or_default();
                return Ok(template(templates, &target).map(|text| Cow::Borrowed(text.as_bytes())));
            }
            Self::Method => exchange.header_joined(":method")?,
            Self::WorkloadLabel(label) => return label.value(exchange),
            Self::Fixed(text) => return Ok(text.as_ref().map(|text| Cow::Borrowed(text.as_bytes()))),
            Self::FilterState(name) => match name.strip_prefix("wasm.") {
                Some(key) => exchange.published(key)?,
                None => exchange.property(&["filter_state", name])?,
            },
            Self::Property(path) => {
                exchange.property(&path.iter().map(String::as_str).collect::<Vec<_>>())?
            }
            Self::Cel { expression, .. } => expression.value(exchange, None)?,
        };
        Ok(owned.filter(|value| !value.is_empty()).map(Cow::Owned))
    }

    /// Whether a value that is not there may be one that this filter cannot see: the path has no reading, and
    /// could match a template by what the service makes of it.
    pub fn is_in_doubt(&self, exchange: &Exchange<'_>) -> Result<bool, HostError> {
        let Self::PathTemplate(_) = self else { return Ok(false) };
        let target = exchange.header_joined(":path")?.unwrap_or_default();
        Ok(Readings::of(&target, PathCase::Insensitive) == Readings::None)
    }

    /// What this source reads of the request's head.
    pub fn head_use(&self) -> HeaderReads {
        match self {
            Self::Header { name, .. } => HeaderReads::One(name.clone()),
            Self::QueryParam { .. } | Self::Path | Self::PathTemplate(_) => {
                HeaderReads::One(":path".to_owned())
            }
            Self::Method => HeaderReads::One(":method".to_owned()),
            Self::RequestId => HeaderReads::One("x-request-id".to_owned()),
            Self::Cookie { .. } => HeaderReads::Whole,
            Self::Baggage { .. } => HeaderReads::One("baggage".to_owned()),
            Self::SourceAddress(source) if source.client.reads_forwarded() => {
                HeaderReads::One(FORWARDED_FOR.to_owned())
            }
            _ => HeaderReads::Nothing,
        }
    }

    /// Whether a client can write the value, or choose it.
    pub fn is_written_by_client(&self) -> bool {
        match self {
            Self::Header { .. }
            | Self::QueryParam { .. }
            | Self::Cookie { .. }
            | Self::Baggage { .. }
            | Self::RequestId
            | Self::Path
            | Self::PathTemplate(_)
            | Self::Method
            // It can read any of these.
            | Self::Cel { .. } => true,
            Self::Property(path) => is_attribute_of_client(path),
            Self::Claim(_)
            | Self::SourceAddress(_)
            | Self::Principal
            | Self::WorkloadLabel(_)
            | Self::Fixed(_)
            | Self::FilterState(_) => false,
        }
    }

    /// Whether filters that come later in the chain can still change the value: it is to be read when the
    /// response passes.
    pub fn is_late(&self) -> bool {
        matches!(self, Self::Claim(_) | Self::FilterState(_) | Self::Property(_))
    }
}

/// Whether an attribute of Envoy is of another type than text.
fn is_no_text(path: &[String]) -> bool {
    let mut names = path.iter().map(String::as_str);
    let (object, name, more) = (names.next(), names.next(), names.next());
    match object {
        Some("request") => match name {
            Some("headers") => more.is_none(),
            name => matches!(name, Some("time" | "size" | "total_size" | "duration")),
        },
        Some("response") => match name {
            Some("headers" | "trailers") => more.is_none(),
            name => !matches!(name, Some("code_details")),
        },
        Some("connection") => matches!(name, Some("id" | "mtls" | "termination_code")),
        Some("source" | "destination" | "upstream") => matches!(name, Some("port")),
        _ => false,
    }
}

/// Notes an expression in CEL that asks about the response while the request arrives.
pub fn warn_of_response(expression: &str, path: &JsonPath, errors: &mut ErrorList) {
    if names(expression, "response") {
        let message = "names `response`, which is not there yet when the request arrives";
        errors.note(Code::CelAsksResponse, path, message);
    }
}

/// Whether an expression in CEL names this variable, outside of its strings.
pub fn names(expression: &str, variable: &str) -> bool {
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let (mut quote, mut before, mut rest) = (None, b' ', expression.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        match quote {
            None if matches!(byte, b'\'' | b'"') => quote = Some(*byte),
            None if !of_name(before) && before != b'.' => {
                let behind = rest.strip_prefix(variable.as_bytes());
                if behind.is_some_and(|behind| !behind.first().is_some_and(|byte| of_name(*byte))) {
                    return true;
                }
            }
            Some(open) if *byte == open && before != b'\\' => quote = None,
            _ => {}
        }
        // Of `\\`, the second escapes nothing.
        before = if before == b'\\' && *byte == b'\\' { b' ' } else { *byte };
        rest = after;
    }
    false
}

/// Whether an attribute is what a client sends, or as a sidecar has it from `x-forwarded-for`.
fn is_attribute_of_client(path: &[String]) -> bool {
    let mut names = path.iter().map(String::as_str);
    match (names.next(), names.next()) {
        // Of a request Envoy itself knows the protocol, and when it came.
        (Some("request"), name) => !matches!(name, Some("protocol" | "time" | "duration")),
        (Some("source"), _) | (Some("connection"), Some("requested_server_name")) => true,
        _ => false,
    }
}

/// The first template that one reading of a request target matches.
fn template<'a>(templates: &'a [(String, PathPattern)], target: &[u8]) -> Option<&'a str> {
    let readings = Readings::of(target, PathCase::Insensitive);
    let matches = |pattern: &PathPattern| match &readings {
        Readings::One(reading) => pattern.matches(reading),
        Readings::Several(readings) => readings.iter().any(|reading| pattern.matches(reading)),
        Readings::None => false,
    };
    templates.iter().find(|(_, pattern)| matches(pattern)).map(|(text, _)| text.as_str())
}

impl SourceAddress {
    fn value(&self, exchange: &Exchange<'_>) -> Result<Option<Vec<u8>>, HostError> {
        Ok(match self.client.find(exchange)? {
            Found::Address(address) => {
                Some(network(address, self.ipv4_prefix, self.ipv6_prefix).into_bytes())
            }
            Found::Peer(peer) => Some(peer),
            Found::Unknown => None,
        })
    }
}

impl WorkloadLabel {
    fn value(&self, exchange: &Exchange<'_>) -> Result<Option<Cow<'_, [u8]>>, HostError> {
        if self.known.get().is_none() {
            let read = exchange.property(&["xds", "node", "metadata", "LABELS", &self.name])?;
            let _ = self.known.set(read.filter(|value| !value.is_empty()));
        }
        Ok(self.known.get().and_then(Option::as_deref).map(Cow::Borrowed))
    }
}

fn is_header_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b":!#$%&'*+-.^_`|~".contains(&byte)
}

fn cookie<'a>(header: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    header.split(|byte| *byte == b';').find_map(|pair| {
        let value = pair.trim_ascii().strip_prefix(name)?.strip_prefix(b"=")?;
        let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        Some(unquoted.unwrap_or(value))
    })
}

fn query_param(path: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let at = path.iter().position(|byte| *byte == b'?')?;
    let query = path.get(at.checked_add(1)?..)?;
    query.split(|byte| *byte == b'&').find_map(|pair| {
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        let found = decoded(parts.next()?, b' ');
        (found == name).then(|| decoded(parts.next().unwrap_or_default(), b' '))
    })
}

/// The members of a `baggage` header (W3C Baggage): names and percent-encoded values, without properties.
pub fn baggage_members(header: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    header.split(|byte| *byte == b',').filter_map(|member| {
        let mut parts = member.split(|byte| *byte == b';').next()?.splitn(2, |byte| *byte == b'=');
        Some((parts.next()?.trim_ascii(), parts.next()?.trim_ascii()))
    })
}

/// Decodes `%XX`, and `+` to `plus`: a space in forms. An invalid escape stays as it is.
fn decoded(text: &[u8], plus: u8) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, tail) {
            (b'%', [high, low, after @ ..]) if hex(*high).is_some() && hex(*low).is_some() => {
                let nibbles = hex(*high).unwrap_or_default() << 4 | hex(*low).unwrap_or_default();
                decoded.push(nibbles);
                rest = after;
            }
            (b'+', _) => decoded.push(plus),
            (byte, _) => decoded.push(*byte),
        }
    }
    decoded
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests;
