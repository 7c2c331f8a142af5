//! `mesh-filters explain`: what the filters decide about a request, and why.

mod access_log;
pub(crate) mod input;
mod meaning;
mod path;
mod reply;
mod tree;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use mesh_filters_cli::decide::{Chain, Decided, Proxy, Request, Response, Step, Verdict};
use mesh_filters_cli::filters;
use serde_json::{Value, json};

use crate::document::Node;
use crate::explain::input::{Input, Installed, Outside};
use crate::explain::path::Normalization;
use crate::explain::tree::{Item, Written};
use crate::secret::is_secret_name;
use crate::times;

/// The arguments: the request, the configuration, and what surrounds them.
#[derive(Args)]
pub(crate) struct Explain {
    /// The URL of the request, or only its path, which begins with `/`. As for curl, `http://` may be left
    /// out.
    url: Option<String>,
    /// The method; default: GET, POST with `--data`, or HEAD with `--head`.
    #[arg(short = 'X', long = "request", value_name = "METHOD")]
    method: Option<String>,
    /// A header, such as `authorization: Bearer TOKEN`. It may be given several times. `NAME:` removes a
    /// header that another option sets.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The body of the request, or `@` and the file that has it. Only its size matters. Several are joined by
    /// `&`.
    #[arg(short, long, value_name = "TEXT")]
    data: Vec<String>,
    /// Sends GET with the text of `--data` in the query.
    #[arg(short = 'G', long)]
    get: bool,
    /// Sends HEAD.
    #[arg(short = 'I', long)]
    head: bool,
    /// User and password for `authorization: Basic`.
    #[arg(short, long, value_name = "USER:PASSWORD")]
    user: Option<String>,
    /// The cookies of the request: `NAME=VALUE; NAME=VALUE`.
    #[arg(short = 'b', long = "cookie", value_name = "NAME=VALUE")]
    cookies: Vec<String>,
    /// The port of the pod, or with `--gateway` of the gateway, that the request comes to; default: the port
    /// of the URL. It chooses the plugins whose `match` names ports.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Takes the request from a line of an access log instead of a URL: JSON as `install/istio.yaml` writes
    /// it, or the default text of Istio or Envoy; `-` reads the line from standard input.
    #[arg(long, value_name = "LINE")]
    log_line: Option<String>,
    /// Explains a reply: a file with what `curl -i` printed, a body or a line of an access log; `-` is
    /// standard input.
    #[arg(long, value_name = "FILE")]
    reply: Option<PathBuf>,
    /// The configuration: files or folders as `check` reads them.
    #[arg(short, long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Uses only the plugins of these names, if the configuration has several workloads.
    #[arg(long, value_name = "NAME")]
    plugin: Vec<String>,
    /// The filter that a bare pluginConfig is for, if its keys do not tell.
    #[arg(long, value_parser = filters::NAMES)]
    filter: Option<String>,
    /// The keys (a JWK set) of a provider, or of all providers. Without keys, signatures are assumed to be
    /// valid.
    #[arg(long, value_name = "[PROVIDER=]FILE")]
    keys: Vec<String>,
    /// The list of revoked tokens of a provider, or of all providers. Without a list, tokens are assumed not
    /// to be revoked.
    #[arg(long, value_name = "[PROVIDER=]FILE")]
    revoked: Vec<String>,
    /// What the issuer says of an opaque token (the answer of `introspection`), for a provider or for all.
    #[arg(long, value_name = "[PROVIDER=]FILE")]
    introspection: Vec<String>,
    /// A variable of `vmConfig.env`.
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// A label of the pod. It also chooses the plugins that run on such a pod.
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// The namespace of the pod. It also chooses the plugins that run there.
    #[arg(long)]
    namespace: Option<String>,
    /// The client's address.
    #[arg(long, value_name = "ADDRESS", default_value = "10.0.0.7")]
    client_address: String,
    /// The identity that the peer proves by mutual TLS: `spiffe://cluster.local/ns/shop/sa/web`.
    #[arg(long, value_name = "SPIFFE ID")]
    peer: Option<String>,
    /// Treats the proxy as a gateway and not as a sidecar.
    #[arg(long)]
    gateway: bool,
    /// How the proxy normalises a path before the filters see it: `meshConfig.pathNormalization` of Istio.
    /// Without it, the path is what the filters see.
    #[arg(long, value_enum, value_name = "HOW")]
    path_normalization: Option<Normalization>,
    /// The status of the service's answer.
    #[arg(long, value_name = "STATUS", default_value_t = 200)]
    response: u16,
    /// Sends the request this many times and explains the last one. This is for limits.
    #[arg(long, value_name = "N", default_value_t = 1)]
    times: u32,
    /// The time: seconds since the epoch, or `2026-12-01T07:30:00Z`; default: now.
    #[arg(long, value_name = "TIME")]
    now: Option<String>,
    /// How the decision is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A tree, for people.
    Text,
    /// A JSON object, for programs.
    Json,
}

/// Returns what the filters decide, as text or JSON.
///
/// # Errors
/// An input is missing or cannot be read.
pub(crate) fn run(arguments: &Explain) -> Result<String, String> {
    let reply = arguments.reply.as_ref().map(|file| reply::Received::read(file)).transpose()?;
    let has_config = !arguments.config.is_empty();
    let given = input::request(arguments)?;
    let title = given.as_ref().map(title_of_request).unwrap_or_default();
    let mut notes = given
        .as_ref()
        .and_then(|request| note_of_path(request, arguments.path_normalization))
        .into_iter()
        .collect::<Vec<_>>();
    let request = match (given, &reply) {
        (Some(request), _) => {
            let how = arguments.path_normalization.unwrap_or(Normalization::None);
            Some(Request { path: path::normalized(&request.path, how), ..request })
        }
        (None, Some(reply)) => reply.request(),
        (None, None) => return Err("expected a URL or `--log-line`".to_owned()),
    };
    if !has_config && reply.is_none() {
        return Err("expected the configuration: `--config FILE`".to_owned());
    }
    let port =
        arguments.port.or_else(|| request.as_ref().and_then(|request| input::port(&request.authority)));
    let input = Input::read(arguments, port)?;
    notes.extend(input.notes.iter().cloned());
    let pairs = input.plugins.iter().zip(input.plugins.iter().skip(1));
    notes.extend(pairs.filter(|(one, other)| one.order.is_open(&other.order)).map(|(one, other)| {
        format!(
            "{} and {} have the same phase and priority: the one that was created first runs first, and here that of the first name",
            one.title, other.title
        )
    }));
    let decisions = match &request {
        // The meaning of a reply does not depend on the request.
        Some(request) if has_config && reply.is_some() => decide(arguments, &input, request).ok(),
        Some(request) if has_config => Some(decide(arguments, &input, request)?),
        _ => None,
    };
    if let Some(reply) = reply {
        let decided = decisions.as_ref().map(|decisions| &decisions.decided);
        let explained = reply.explain(&input, decided)?;
        return Ok(match arguments.format {
            Format::Text => explained.text(),
            Format::Json => pretty(&explained.json()),
        });
    }
    let Some(decisions) = decisions else {
        return Err("expected a URL or `--log-line`".to_owned());
    };
    Ok(match arguments.format {
        Format::Text => {
            let lines: Vec<String> = std::iter::once(title).chain(notes).collect();
            decisions.text(&lines.join("\n"), &input)
        }
        Format::Json => {
            let mut json = decisions.json(&title, &input);
            if !notes.is_empty() {
                json["notes"] = notes.into();
            }
            pretty(&json)
        }
    })
}

fn title_of_request(request: &Request) -> String {
    format!("{} {}", request.method, input::without_query(request))
}

/// The warning about a path that a proxy may change before its filters see it.
fn note_of_path(request: &Request, how: Option<Normalization>) -> Option<String> {
    let strongest = Normalization::DecodeAndMergeSlashes;
    let normalized = path::normalized(&request.path, how.unwrap_or(strongest));
    let path = tree::shown(normalized.split('?').next().unwrap_or_default());
    if normalized == request.path {
        return None;
    }
    Some(match how {
        Some(_) => format!("the filters see the path {path}"),
        None => format!(
            "the path is taken as the filters see it; a proxy with DECODE_AND_MERGE_SLASHES shows them {path} (`--path-normalization`)"
        ),
    })
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// A decision. If it depends on expressions that only the proxy evaluates, also the decision for their other
/// value.
struct Decisions {
    decided: Decided,
    otherwise: Option<Decided>,
    /// Whether the request opens a tunnel.
    is_tunnel: bool,
}

fn decide(arguments: &Explain, input: &Input, request: &Request) -> Result<Decisions, String> {
    let now = match &arguments.now {
        Some(text) => Duration::from_secs(times::parse(text)?),
        None => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
    };
    let proxy = Proxy {
        labels: input::pairs(&arguments.label, "--label")?.into_iter().collect(),
        namespace: arguments.namespace.clone().unwrap_or_else(|| "default".to_owned()),
        is_edge: arguments.gateway,
        node: format!(
            "{}~10.0.0.1~explain.default~default.svc.cluster.local",
            if arguments.gateway { "router" } else { "sidecar" }
        ),
    };
    let plugins: Vec<_> = input.plugins.iter().map(|installed| installed.plugin.clone()).collect();
    let answer = Response { status: arguments.response, headers: Vec::new(), body: Vec::new() };
    let run = |assumes: bool| -> Result<(Decided, bool), String> {
        let outside = Outside::new(input, assumes);
        let asked = outside.asked();
        let chain =
            Chain::start(&plugins, proxy.clone(), Box::new(outside), now).map_err(|(n, errors)| {
                let title = input.plugins.get(n).map_or("", |installed| installed.title.as_str());
                format!("{title}: {errors}; `mesh-filters check` shows where, and `--env` gives a variable")
            })?;
        for _ in 1..arguments.times {
            chain.send(request, &answer);
        }
        asked.set(false);
        let decided = chain.send(request, &answer);
        Ok((decided, asked.get()))
    };
    let (decided, asked) = run(true)?;
    let otherwise = if asked { Some(run(false)?.0) } else { None };
    Ok(Decisions { decided, otherwise, is_tunnel: request.method == "CONNECT" })
}

/// The line with the status, who decided it, and why.
fn outcome(decided: &Decided, input: &Input) -> (u16, Option<String>, String) {
    let status = decided.response.status;
    let denied = decided.steps.iter().find_map(|step| match &step.verdict {
        Verdict::Denied(denied) => Some((step, denied)),
        _ => None,
    });
    match denied {
        Some((step, denied)) => {
            let by = format!("{} ({})", step.filter, title(step, input));
            (status, Some(denied.code.to_owned()), by)
        }
        None => (status, None, "the service".to_owned()),
    }
}

fn header<'a>(decided: &'a Decided, name: &str) -> Option<&'a str> {
    let headers = &decided.response.headers;
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// The response that the client gets instead of the service's.
fn reply_lines(decided: &Decided, input: &Input) -> Vec<String> {
    if outcome(decided, input).1.is_none() {
        return Vec::new();
    }
    let mut lines: Vec<String> =
        reply_headers(decided).map(|(name, value)| format!("{name}: {value}")).collect();
    lines.extend(String::from_utf8_lossy(&decided.response.body).lines().map(str::to_owned));
    lines
}

/// The headers that the client gets, without the values of those that are secret.
fn reply_headers(decided: &Decided) -> impl Iterator<Item = (&str, &str)> {
    let shown = |name: &str| is_secret_name(name).then_some("a value that is not shown");
    decided.response.headers.iter().map(move |(name, value)| (name.as_str(), shown(name).unwrap_or(value)))
}

fn title<'a>(step: &Step, input: &'a Input) -> &'a str {
    input.plugins.get(step.plugin).map_or("", |installed| installed.title.as_str())
}

impl Decisions {
    fn headline(decided: &Decided, input: &Input) -> String {
        let (status, code, by) = outcome(decided, input);
        match code {
            Some(code) => match header(decided, "grpc-status") {
                Some(grpc) => format!("{status} with gRPC status {grpc}, {code}, by {by}"),
                None => format!("{status} {code}, by {by}"),
            },
            None => format!("{status}, by {by}: no filter refuses the request"),
        }
    }

    fn text(&self, title_of_request: &str, input: &Input) -> String {
        let mut text = format!("{title_of_request}\n");
        match &self.otherwise {
            Some(other) if outcome(other, input) != outcome(&self.decided, input) => {
                text.push_str("if the expressions hold: ");
                text.push_str(&Self::headline(&self.decided, input));
                text.push_str("\nif they do not:          ");
                text.push_str(&Self::headline(other, input));
                text.push('\n');
            }
            _ => {
                text.push_str(&Self::headline(&self.decided, input));
                text.push('\n');
            }
        }
        let steps = self.steps(input);
        for (n, (step, items)) in steps.iter().enumerate() {
            let mut others = steps.iter().enumerate().filter(|(m, _)| *m != n);
            let acts_elsewhere =
                others.any(|(m, (other, items))| other.filter == step.filter && (m < n || !items.is_empty()));
            if items.is_empty() && acts_elsewhere {
                continue;
            }
            text.push('\n');
            text.push_str(&heading(step, input));
            text.push('\n');
            if items.is_empty() {
                text.push_str("  nothing to do\n");
            }
            for item in items {
                item.print(1, &mut text);
            }
        }
        let reply = reply_lines(&self.decided, input);
        if !reply.is_empty() {
            text.push_str("\nthe client gets\n");
        }
        for line in reply {
            text.push_str(&format!("  {line}\n"));
        }
        text
    }

    fn json(&self, title_of_request: &str, input: &Input) -> Value {
        let one = |decided: &Decided| {
            let (status, code, by) = outcome(decided, input);
            json!({ "status": status, "code": code, "by": by })
        };
        let steps = self.steps(input);
        let tags: serde_json::Map<String, Value> = steps
            .iter()
            .flat_map(|(_, items)| items)
            .filter_map(Item::tag)
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        let steps: Vec<Value> = steps
            .into_iter()
            .map(|(step, items)| {
                json!({
                    "plugin": title(step, input),
                    "filter": step.filter,
                    "moment": moment(step),
                    "items": items,
                })
            })
            .collect();
        let mut json = json!({ "request": title_of_request, "decision": one(&self.decided), "steps": steps, "tags": tags });
        if outcome(&self.decided, input).1.is_some() {
            let Response { status, body, .. } = &self.decided.response;
            let headers: Vec<Value> = reply_headers(&self.decided)
                .map(|(name, value)| json!({ "name": name, "value": value }))
                .collect();
            json["reply"] =
                json!({ "status": status, "headers": headers, "body": String::from_utf8_lossy(body) });
        }
        if let Some(other) = &self.otherwise {
            json["ifExpressionsDoNotHold"] = one(other);
        }
        json
    }

    fn steps<'a>(&'a self, input: &'a Input) -> Vec<(&'a Step, Vec<Item>)> {
        let items = |step: &'a Step| {
            let installed = input.plugins.get(step.plugin)?;
            let config = match step.part {
                Some(part) => installed.plugin.config.get(part)?,
                None => &installed.plugin.config,
            };
            let locate = |path: &str| installed.place(input, path);
            let base = step.part.map_or_else(String::new, |part| format!("{part}."));
            let has_list = |provider: &str| input.has_list(provider);
            let written = Written {
                config,
                base,
                locate: &locate,
                has_list: &has_list,
                assumes: true,
                has_stand_in: installed.has_stand_in,
                is_tunnel: self.is_tunnel,
            };
            Some((step, tree::of_step(step, &written)))
        };
        self.decided.steps.iter().filter_map(items).collect()
    }
}

fn moment(step: &Step) -> &'static str {
    use mesh_filters_cli::decide::Moment;
    match step.moment {
        Moment::Request => "request",
        Moment::BeforeAuth => "before auth",
        Moment::Claims => "after auth",
        Moment::Response => "response",
    }
}

fn heading(step: &Step, input: &Input) -> String {
    let when = match moment(step) {
        "request" => String::new(),
        other => format!(", {other}"),
    };
    format!("{}{when} ({})", step.filter, title(step, input))
}

impl Installed {
    /// The file and the line of a path in the pluginConfig.
    fn place(&self, input: &Input, path: &str) -> Option<String> {
        let span = self.node.as_ref().map_or_else(|| self.span.clone(), |node: &Node| node.locate(path));
        let source = input.sources.get(self.source)?;
        let line = source.text.get(..span.start)?.matches('\n').count() + 1;
        Some(if input.sources.len() == 1 {
            format!("line {line}")
        } else {
            format!("{}:{line}", source.name)
        })
    }
}
