//! The inputs of `explain`: a request, a configuration, keys.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::ops::Range;
use std::rc::Rc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jwt_auth::fetch::introspection::Answer;
use jwt_auth::fetch::remote::Remote;
use jwt_auth::keys::jwk::KeySet;
use mesh_filters_cli::decide::{Fetch, Plugin, Request, World};
use mesh_filters_cli::filters;
use plugin_kit::host::GrpcFailure;
use plugin_kit::request::path::percent_decoded;
use rate_limit::config::Global;
use serde_json::Value;

use super::{Explain, access_log};
use crate::check::{json_text, unpacked};
use crate::document::{self, Kind, Node, Source};
use crate::resource::{self, Order, Resource, STAND_IN, Sides};

/// A plugin that takes part in the decision.
pub(crate) struct Installed {
    /// The plugin as the chain runs it.
    pub(crate) plugin: Plugin,
    /// Its name for people.
    pub(crate) title: String,
    /// The namespace of its resource.
    pub(crate) namespace: String,
    /// The position of its source.
    pub(crate) source: usize,
    /// Its configuration with places; `None` if the resource holds it as a text.
    pub(crate) node: Option<Node>,
    /// The place of the whole configuration.
    pub(crate) span: Range<usize>,
    /// Whether the value of a variable is unknown, and another one stands in for it.
    pub(crate) has_stand_in: bool,
    /// The requests on which it runs.
    pub(crate) sides: Sides,
    /// Its place in the order of plugins.
    pub(crate) order: Order,
}

/// Documents, each for one provider or for all.
type Documents = Vec<(Option<String>, Vec<u8>)>;

/// The configuration, and what surrounds it.
#[derive(Default)]
pub(crate) struct Input {
    pub(crate) sources: Vec<Source>,
    pub(crate) plugins: Vec<Installed>,
    /// Remarks about plugins that do not run on the request, or may not run on it.
    pub(crate) notes: Vec<String>,
    keys: Documents,
    revoked: Documents,
    introspection: Documents,
}

/// `NAME=VALUE` pairs.
pub(super) fn pairs(texts: &[String], option: &str) -> Result<Vec<(String, String)>, String> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').ok_or_else(|| format!("{option}: expected NAME=VALUE"))?;
        Ok((name.to_owned(), value.to_owned()))
    };
    texts.iter().map(pair).collect()
}

/// Files, each for one provider or for all.
fn files(texts: &[String]) -> Result<Documents, String> {
    let file = |text: &String| {
        let (provider, file) = match text.split_once('=') {
            Some((provider, file)) => (Some(provider.to_owned()), file),
            None => (None, text.as_str()),
        };
        Ok((provider, fs::read(file).map_err(|error| format!("{file}: {error}"))?))
    };
    texts.iter().map(file).collect()
}

/// Whether a plugin runs on a request to this port, and a remark about that.
fn takes_part(one: &Installed, gateway: bool, port: Option<u16>) -> (bool, Option<String>) {
    let Some(ports) = one.sides.ports(gateway) else { return (true, None) };
    let of = if gateway { "that passes a gateway" } else { "that its workload receives" };
    if ports.is_empty() {
        return (false, Some(format!("runs on no request {of}: its `match` is for others")));
    }
    let whose = if gateway { "the gateway" } else { "the pod" };
    let listed: Vec<String> = ports.iter().map(u16::to_string).collect();
    let noun = if ports.len() == 1 { "port" } else { "ports" };
    let only = format!("runs on the {noun} {} of {whose} only", listed.join(", "));
    match port {
        Some(port) if ports.contains(&port) => (true, None),
        Some(port) => (false, Some(format!("{only}, and the request is for the port {port} (`--port`)"))),
        None => (true, Some(format!("{only}, and the request is taken to come to one of them (`--port`)"))),
    }
}

/// The port of an authority, if it has one.
pub(super) fn port(authority: &str) -> Option<u16> {
    authority.rsplit_once(':')?.1.parse().ok()
}

impl Input {
    /// Reads the files that the arguments name. `port` is the port that the request comes to, if it is known.
    ///
    /// # Errors
    /// A file cannot be read, or the plugins belong to several workloads.
    pub(super) fn read(arguments: &Explain, port: Option<u16>) -> Result<Self, String> {
        let sources = document::read_all(&arguments.config)?;
        let variables: BTreeMap<String, String> = pairs(&arguments.env, "--env")?.into_iter().collect();
        let wanted = Wanted {
            names: &arguments.plugin,
            labels: pairs(&arguments.label, "--label")?.into_iter().collect(),
            namespace: arguments.namespace.as_deref(),
            filter: arguments.filter.as_deref(),
            of_one_workload: true,
        };
        let mut notes = Vec::new();
        let mut plugins = installed(&sources, &wanted, &variables)?;
        plugins.retain(|one| {
            let (runs, note) = takes_part(one, arguments.gateway, port);
            notes.extend(note.map(|note| format!("{} {note}", one.title)));
            runs
        });
        let (keys, revoked) = (files(&arguments.keys)?, files(&arguments.revoked)?);
        let introspection = files(&arguments.introspection)?;
        let input = Self { sources, plugins, notes, keys, revoked, introspection };
        input.check_secrets()?;
        input.check_documents()?;
        Ok(input)
    }

    /// The configurations of jwt-auth.
    fn auth(&self) -> impl Iterator<Item = &Value> {
        self.plugins.iter().filter_map(|installed| match installed.plugin.filter.as_str() {
            "jwt-auth" => Some(&installed.plugin.config),
            "mesh-filters" => installed.plugin.config.get("jwtAuth"),
            _ => None,
        })
    }

    /// Whether a list of revoked tokens is given for this provider.
    pub(super) fn has_list(&self, provider: &str) -> bool {
        self.revoked.iter().any(|(name, _)| name.as_deref().is_none_or(|name| name == provider))
    }

    /// Checks that each provider that an argument names is in the configuration, and that keys are keys.
    /// Otherwise the keys would be missing when signatures are verified.
    fn check_documents(&self) -> Result<(), String> {
        let providers = self.auth().filter_map(|config| config["providers"].as_object()).flatten();
        let known: Vec<&str> = providers.map(|(name, _)| name.as_str()).collect();
        for (option, documents) in
            [("--keys", &self.keys), ("--revoked", &self.revoked), ("--introspection", &self.introspection)]
        {
            let unknown = documents.iter().filter_map(|(name, _)| name.as_deref());
            match unknown.into_iter().find(|name| !known.contains(name)) {
                Some(name) if known.is_empty() => {
                    return Err(format!("{option}: the configuration has no provider, such as `{name}`"));
                }
                Some(name) => {
                    let known = known.join("`, `");
                    return Err(format!(
                        "{option}: no provider is named `{name}`; expected one of `{known}`"
                    ));
                }
                None => {}
            }
        }
        for (name, body) in &self.keys {
            KeySet::parse(body).map_err(|_| {
                let of = name.as_ref().map_or_else(String::new, |name| format!(" of `{name}`"));
                format!(
                    "--keys: the file{of} is not a key set; expected a JWK set, `{{\"keys\": [...]}}`, or PEM"
                )
            })?;
        }
        for (_, body) in &self.introspection {
            Answer::parse(body).map_err(|error| format!("--introspection: {error}"))?;
        }
        Ok(())
    }

    /// Checks that the secrets of tokens are known. With another value every signature would look wrong.
    fn check_secrets(&self) -> Result<(), String> {
        let stand_in = self.plugins.iter().find_map(|installed| {
            let config = match installed.plugin.filter.as_str() {
                "mesh-filters" => &installed.plugin.config["jwtAuth"],
                _ => &installed.plugin.config,
            };
            let providers = config["providers"].as_object().into_iter().flat_map(serde_json::Map::values);
            let secrets = providers.filter_map(|provider| provider["secrets"].as_array()).flatten();
            let names = secrets.filter_map(|secret| secret["env"].as_str());
            let is_missing =
                |name: &&str| installed.plugin.variables.get(*name).is_some_and(|value| value == STAND_IN);
            names.filter(is_missing).map(str::to_owned).next()
        });
        match stand_in {
            Some(name) => {
                Err(format!("only the proxy has the variable {name}; expected `--env {name}=VALUE`"))
            }
            None => Ok(()),
        }
    }

    /// The providers that fetch their keys from this URL, or with `revoked` their lists.
    fn providers_at(&self, remote: &Remote, revoked: bool) -> Vec<&str> {
        let url = format!("{}://{}{}", remote.scheme, remote.authority, remote.path);
        let is_it = |provider: &Value| {
            let uri = if revoked { &provider["revoked"]["uri"] } else { &provider["jwksUri"] };
            uri.as_str().is_some_and(|uri| uri == url || format!("{uri}/") == url)
        };
        let providers = self.auth().filter_map(|config| config["providers"].as_object()).flatten();
        providers.filter(|(_, provider)| is_it(provider)).map(|(name, _)| name.as_str()).collect()
    }
}

/// Chooses plugins of the sources.
#[derive(Default)]
pub(crate) struct Wanted<'a> {
    /// Plugins of these names; if there are none, all plugins.
    pub(crate) names: &'a [String],
    /// Plugins that run on a pod with these labels, if there are any.
    pub(crate) labels: BTreeMap<String, String>,
    /// Plugins that run on a pod in this namespace.
    pub(crate) namespace: Option<&'a str>,
    /// The filter that a bare pluginConfig is for.
    pub(crate) filter: Option<&'a str>,
    /// Whether all plugins must run on one workload.
    pub(crate) of_one_workload: bool,
}

/// The plugins of the sources in the order of the mesh.
///
/// # Errors
/// A source is not YAML, there is no plugin, or the plugins belong to several workloads and must not.
pub(crate) fn installed(
    sources: &[Source],
    wanted: &Wanted<'_>,
    variables: &BTreeMap<String, String>,
) -> Result<Vec<Installed>, String> {
    let Wanted { names, labels, namespace, filter, of_one_workload } = wanted;
    let mut documents = Vec::new();
    for (n, source) in sources.iter().enumerate() {
        let nodes =
            document::parse(&source.text).map_err(|error| format!("{}: {}", source.name, error.message))?;
        documents.extend(nodes.into_iter().map(|node| (n, node)));
    }
    let is_something = |(_, node): &&(usize, Node)| !matches!(node.kind, Kind::Scalar(Value::Null));
    let resources =
        documents.iter().filter(is_something).map(|(n, node)| Resource::of(*n, &sources[*n].text, node));
    let resources: Vec<Resource<'_>> = resources.flat_map(unpacked).collect();
    let (mut found, mut others): (Vec<resource::Plugin<'_>>, Vec<resource::Plugin<'_>>) = Default::default();
    for mut plugin in resources.iter().flat_map(resource::plugins) {
        if plugin.resource.kind.is_empty() {
            let given = filters::NAMES.into_iter().find(|known| *filter == Some(*known));
            plugin.filter = plugin.filter.or(given);
        }
        let chosen = names.is_empty()
            || names.iter().any(|name| name == plugin.resource.name || *name == plugin.resource.title());
        let runs_there = plugin.workloads.select(*namespace, labels);
        if plugin.filter.is_some() && chosen && runs_there {
            found.push(plugin);
        } else if plugin.filter.is_some() {
            others.push(plugin);
        }
    }
    let stranger = found.iter().enumerate().find_map(|(n, one)| {
        let other = found.iter().skip(n + 1).find(|other| !one.workloads.overlap(&other.workloads))?;
        Some((one, other))
    });
    if let (Some((one, other)), true) = (stranger, *of_one_workload) {
        return Err(format!(
            "{} and {} are on different workloads; expected the labels of a pod, such as `--label app=orders`, or `--plugin NAME` for each \
             plugin of one workload",
            one.resource.title(),
            other.resource.title()
        ));
    }
    if let (true, Some(one)) = (found.is_empty(), others.first()) {
        return Err(format!(
            "no plugin of the input is chosen; {} is of {}: expected `--namespace`, `--label` and `--plugin` of a pod that has a plugin",
            one.resource.title(),
            one.workloads
        ));
    }
    if found.is_empty() && !sources.is_empty() {
        return Err("the configuration has no plugin of these filters".to_owned());
    }
    found.sort_by(|one, other| one.order.cmp(&other.order));
    Ok(found.into_iter().map(|plugin| of(&plugin, variables)).collect())
}

fn of(plugin: &resource::Plugin<'_>, variables: &BTreeMap<String, String>) -> Installed {
    let (config, node) = match plugin.config.as_deref() {
        Some(node) => match json_text(node) {
            Some(config) => (config, None),
            None => (node.value(), Some(node.clone())),
        },
        None => (Value::Object(serde_json::Map::new()), None),
    };
    let mut all = plugin.variables.clone();
    all.extend(variables.clone());
    let has_stand_in = all.values().any(|value| value == STAND_IN);
    Installed {
        plugin: Plugin {
            name: plugin.resource.name.to_owned(),
            filter: plugin.filter.unwrap_or_default().to_owned(),
            config,
            variables: all,
        },
        title: plugin.resource.title(),
        namespace: plugin.resource.namespace.to_owned(),
        source: plugin.resource.source,
        node,
        span: plugin.config.as_ref().map_or_else(|| plugin.span.clone(), |node| node.span.clone()),
        has_stand_in,
        sides: plugin.sides.clone(),
        order: plugin.order.clone(),
    }
}

/// The request that the arguments describe, if they describe one.
pub(super) fn request(arguments: &Explain) -> Result<Option<Request>, String> {
    let source =
        arguments.client_address.parse().map_err(|_| "--client-address: expected an address".to_owned())?;
    let mut user = arguments.user.clone();
    let mut request = match (&arguments.log_line, &arguments.url) {
        (Some(line), _) => {
            let line = if line == "-" { standard_input()? } else { line.clone() };
            of_log_line(&line)?
        }
        (None, Some(url)) => {
            let (request, of_url) = of_url(url)?;
            user = user.or(of_url);
            request
        }
        (None, None) => return Ok(None),
    };
    request.source = std::net::SocketAddr::new(source, 41234).to_string();
    request.peer = arguments.peer.clone().or(request.peer);
    let data = data(arguments)?;
    if let Some(data) = data.as_ref().filter(|_| arguments.get) {
        request.path.push(if request.path.contains('?') { '&' } else { '?' });
        request.path.push_str(data);
    }
    let mut set = |name: &str, value: String| request.headers.push((name.to_owned(), value));
    if let Some(mut user) = user {
        if !user.contains(':') {
            // The password is empty (RFC 7617, section 2).
            user.push(':');
        }
        set("authorization", format!("Basic {}", BASE64_STANDARD.encode(user)));
    }
    if arguments.cookies.iter().any(|cookie| !cookie.contains('=')) {
        return Err("--cookie: expected `NAME=VALUE`; files with cookies are not read".to_owned());
    }
    if !arguments.cookies.is_empty() {
        set("cookie", arguments.cookies.join("; "));
    }
    if let Some(data) = data.filter(|_| !arguments.get) {
        "POST".clone_into(&mut request.method);
        request.headers.push(("content-length".to_owned(), data.len().to_string()));
        request.headers.push(("content-type".to_owned(), "application/x-www-form-urlencoded".to_owned()));
    } else if arguments.get {
        "GET".clone_into(&mut request.method);
    }
    if arguments.head {
        "HEAD".clone_into(&mut request.method);
    }
    own_headers(&arguments.headers, &mut request)?;
    if let Some(method) = &arguments.method {
        request.method.clone_from(method);
    }
    if request.method == "CONNECT" {
        // The target of `CONNECT` is a host with a port, and not a path.
        request.path.clear();
    }
    Ok(Some(request))
}

/// Adds the headers of `--header`. Each replaces the one that another option has set, and without a value
/// only removes that one.
fn own_headers(headers: &[String], request: &mut Request) -> Result<(), String> {
    let mut own = Vec::new();
    for header in headers {
        let (name, value) = match (header.split_once(':'), header.strip_suffix(';')) {
            (Some((name, value)), _) => (name, Some(value.trim()).filter(|value| !value.is_empty())),
            (None, Some(name)) => (name, Some("")),
            (None, None) => return Err("--header: expected `NAME: VALUE`".to_owned()),
        };
        let name = name.trim().to_ascii_lowercase();
        request.headers.retain(|(known, _)| *known != name);
        match value {
            Some(value) if name == "host" => value.clone_into(&mut request.authority),
            Some(value) => own.push((name, value.to_owned())),
            None => {}
        }
    }
    request.headers.append(&mut own);
    Ok(())
}

/// The text of all `--data`, if there is one.
fn data(arguments: &Explain) -> Result<Option<String>, String> {
    if arguments.data.is_empty() {
        let error = "--get: expected `--data`, which it puts into the query";
        return if arguments.get { Err(error.to_owned()) } else { Ok(None) };
    }
    let one = |text: &String| match text.strip_prefix('@') {
        Some(file) => fs::read(file)
            .map(|bytes| String::from_utf8_lossy(&bytes).replace(['\r', '\n'], ""))
            .map_err(|error| format!("--data: {file}: {error}")),
        None => Ok(text.clone()),
    };
    let parts = arguments.data.iter().map(one).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(parts.join("&")))
}

pub(super) fn standard_input() -> Result<String, String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|error| format!("standard input: {error}"))?;
    Ok(text)
}

/// The request of a URL, and the user information in the URL. As for curl, the scheme may be missing. A path
/// alone begins with `/`.
fn of_url(url: &str) -> Result<(Request, Option<String>), String> {
    let (scheme, rest) = url.split_once("://").map_or((None, url), |(scheme, rest)| (Some(scheme), rest));
    if scheme.is_some_and(|scheme| !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)))
    {
        return Err("expected a URL with `http` or `https`".to_owned());
    }
    let is_path = scheme.is_none() && (url.starts_with('/') || url == "*");
    let at = if is_path { 0 } else { rest.find(['/', '?', '#']).unwrap_or(rest.len()) };
    let (authority, path) = rest.split_at(at);
    // User information is not sent as a part of the authority (RFC 9110, section 4.2.4).
    let (user, authority) =
        authority.rsplit_once('@').map_or((None, authority), |(user, rest)| (Some(user), rest));
    if authority.is_empty() && !is_path {
        return Err("expected a URL with a host, or a path that begins with `/`".to_owned());
    }
    let path = path.split('#').next().unwrap_or_default();
    let path = if is_path || path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let user = user.map(|user| String::from_utf8_lossy(&percent_decoded(user.as_bytes())).into_owned());
    let request = Request {
        method: "GET".to_owned(),
        path,
        authority: if is_path { "service".to_owned() } else { authority.to_owned() },
        headers: Vec::new(),
        source: String::new(),
        peer: None,
    };
    Ok((request, user))
}

/// The request of an access log line.
pub(super) fn of_log_line(line: &str) -> Result<Request, String> {
    let fields = access_log::fields(line).ok_or(
        "the line is neither JSON, as install/istio.yaml writes it, nor the text that Istio or Envoy writes by default",
    )?;
    let expected = || "the line has no `method` and `path`, as install/istio.yaml writes them".to_owned();
    let text =
        |name: &str| fields[name].as_str().filter(|text| !text.is_empty() && *text != "-").map(str::to_owned);
    let mut headers = Vec::new();
    headers.extend(text("request_id").map(|id| ("x-request-id".to_owned(), id)));
    Ok(Request {
        method: text("method").ok_or_else(expected)?,
        path: text("path").ok_or_else(expected)?,
        authority: text("authority").unwrap_or_else(|| "service".to_owned()),
        headers,
        source: String::new(),
        peer: text("peer"),
    })
}

/// A query may hold a token.
pub(super) fn without_query(request: &Request) -> String {
    let (path, query) =
        request.path.split_once('?').map_or((request.path.as_str(), ""), |(path, _)| (path, "?…"));
    format!("{}{path}{query}", request.authority)
}

/// The services outside the proxy, as far as the arguments describe them.
pub(super) struct Outside {
    keys: Documents,
    revoked: Documents,
    introspection: Documents,
    /// For each URL that is fetched, the providers that fetch their keys or lists of revoked tokens from it.
    providers: Vec<(bool, String, Vec<String>)>,
    /// Whether conditions that only the proxy evaluates are assumed to hold.
    assumes: bool,
    asked: Rc<Cell<bool>>,
}

impl Outside {
    pub(super) fn new(input: &Input, assumes: bool) -> Self {
        let mut providers = Vec::new();
        for config in input.auth() {
            for provider in config["providers"].as_object().into_iter().flat_map(serde_json::Map::values) {
                for (revoked, uri) in [(false, &provider["jwksUri"]), (true, &provider["revoked"]["uri"])] {
                    let settings = jwt_auth::fetch::remote::Settings {
                        duration: std::time::Duration::ZERO,
                        min_interval: std::time::Duration::ZERO,
                        timeout: std::time::Duration::ZERO,
                        stale_if_error: std::time::Duration::ZERO,
                    };
                    let remote = uri.as_str().and_then(|uri| Remote::parse(uri, None, settings).ok());
                    if let Some(remote) = remote {
                        let names =
                            input.providers_at(&remote, revoked).into_iter().map(str::to_owned).collect();
                        providers.push((revoked, place(&remote), names));
                    }
                }
            }
        }
        Self {
            keys: input.keys.clone(),
            revoked: input.revoked.clone(),
            introspection: input.introspection.clone(),
            providers,
            assumes,
            asked: Rc::default(),
        }
    }

    /// Whether such a condition was asked for.
    pub(super) fn asked(&self) -> Rc<Cell<bool>> {
        Rc::clone(&self.asked)
    }
}

fn place(remote: &Remote) -> String {
    format!("{}{}", remote.authority, remote.path)
}

impl World for Outside {
    fn fetch(&self, document: &Remote, accept: &str) -> Fetch {
        let is_list = !accept.contains("jwk-set");
        let files = if is_list { &self.revoked } else { &self.keys };
        let names = self
            .providers
            .iter()
            .find(|(revoked, known, _)| *revoked == is_list && *known == place(document));
        let is_for = |name: &Option<String>| match (name, names) {
            (None, _) => true,
            (Some(name), Some((.., names))) => names.contains(name),
            (Some(_), None) => false,
        };
        match files.iter().find(|(name, _)| is_for(name)) {
            Some((_, body)) => Fetch::Answer { status: 200, cache_control: None, body: body.clone() },
            None => Fetch::AssumeGood,
        }
    }

    fn has_metadata(&self) -> bool {
        false
    }

    fn introspect(&self, provider: &str, _: &Remote, _: &str) -> Fetch {
        let is_for = |name: &Option<String>| name.as_deref().is_none_or(|name| name == provider);
        match self.introspection.iter().find(|(name, _)| is_for(name)) {
            Some((_, body)) => Fetch::Answer { status: 200, cache_control: None, body: body.clone() },
            None => Fetch::AssumeGood,
        }
    }

    fn ask_rate_limit_service(&self, _: &Global, _: &[u8]) -> Result<Vec<u8>, GrpcFailure> {
        // `overall_code`: OK.
        Ok(vec![0x08, 0x01])
    }

    fn assume(&self, is_condition: bool) -> Option<Vec<u8>> {
        self.asked.set(self.asked.get() || is_condition);
        is_condition.then(|| vec![u8::from(self.assumes)])
    }
}
