//! The inputs of `explain`: a request, a configuration, keys.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::ops::Range;
use std::rc::Rc;

use jwt_auth::fetch::remote::Remote;
use jwt_auth::keys::jwk::KeySet;
use mesh_filters_cli::decide::{Fetch, Plugin, Request, World};
use mesh_filters_cli::filters;
use plugin_kit::host::GrpcFailure;
use rate_limit::config::Global;
use serde_json::Value;

use super::Explain;
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
    /// Plugins that run neither on requests that the pod receives nor on those that pass the gateway.
    pub(crate) elsewhere: Vec<Installed>,
    keys: Documents,
    revoked: Documents,
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

impl Input {
    /// Reads the files that the arguments name.
    ///
    /// # Errors
    /// A file cannot be read, or the plugins belong to several workloads.
    pub(super) fn read(arguments: &Explain) -> Result<Self, String> {
        let sources = document::read_all(&arguments.config)?;
        let variables: BTreeMap<String, String> = pairs(&arguments.env, "--env")?.into_iter().collect();
        let wanted = Wanted {
            names: &arguments.plugin,
            labels: pairs(&arguments.label, "--label")?.into_iter().collect(),
            namespace: arguments.namespace.as_deref(),
            filter: arguments.filter.as_deref(),
            of_one_workload: true,
        };
        let runs = |one: &Installed| if arguments.gateway { one.sides.gateway } else { one.sides.inbound };
        let (plugins, elsewhere) = installed(&sources, &wanted, &variables)?.into_iter().partition(runs);
        let (keys, revoked) = (files(&arguments.keys)?, files(&arguments.revoked)?);
        let input = Self { sources, plugins, elsewhere, keys, revoked };
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
        for (option, documents) in [("--keys", &self.keys), ("--revoked", &self.revoked)] {
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
    let mut found: Vec<resource::Plugin<'_>> = Vec::new();
    for mut plugin in resources.iter().flat_map(resource::plugins) {
        if plugin.resource.kind.is_empty() {
            let given = filters::NAMES.into_iter().find(|known| *filter == Some(*known));
            plugin.filter = plugin.filter.or(given);
        }
        let chosen = names.is_empty()
            || names.iter().any(|name| name == plugin.resource.name || *name == plugin.resource.title());
        let runs_there =
            (labels.is_empty() && namespace.is_none()) || plugin.workloads.select(*namespace, labels);
        if plugin.filter.is_some() && chosen && runs_there {
            found.push(plugin);
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
        sides: plugin.sides,
        order: plugin.order.clone(),
    }
}

/// The request that the arguments describe, if they describe one.
pub(super) fn request(arguments: &Explain) -> Result<Option<Request>, String> {
    let source =
        arguments.client_address.parse().map_err(|_| "--client-address: expected an address".to_owned())?;
    let mut request = match (&arguments.log_line, &arguments.url) {
        (Some(line), _) => {
            let line = if line == "-" { standard_input()? } else { line.clone() };
            of_log_line(&line)?
        }
        (None, Some(url)) => of_url(url),
        (None, None) => return Ok(None),
    };
    request.source = std::net::SocketAddr::new(source, 41234).to_string();
    request.peer = arguments.peer.clone().or(request.peer);
    for header in &arguments.headers {
        let (name, value) = header.split_once(':').ok_or("--header: expected `NAME: VALUE`")?;
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().to_owned());
        if name == "host" {
            request.authority = value;
        } else {
            request.headers.push((name, value));
        }
    }
    if let Some(data) = &arguments.data {
        "POST".clone_into(&mut request.method);
        request.headers.push(("content-length".to_owned(), data.len().to_string()));
    }
    if let Some(method) = &arguments.method {
        request.method.clone_from(method);
    }
    if request.method == "CONNECT" {
        // The target of `CONNECT` is a host with a port, and not a path.
        if let Some(target) = arguments.url.as_deref().filter(|url| !url.contains("://")) {
            target.clone_into(&mut request.authority);
        }
        request.path.clear();
    }
    Ok(Some(request))
}

pub(super) fn standard_input() -> Result<String, String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|error| format!("standard input: {error}"))?;
    Ok(text)
}

fn of_url(url: &str) -> Request {
    let rest = url.split_once("://").map(|(_, rest)| rest);
    let (authority, path) = match rest {
        Some(rest) => {
            let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(at);
            // User information is not sent as a part of the authority (RFC 9110, section 4.2.4).
            let authority = authority.rsplit('@').next().unwrap_or_default();
            (authority, if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
        }
        None => ("service", url.to_owned()),
    };
    let path = path.split('#').next().unwrap_or_default().to_owned();
    Request {
        method: "GET".to_owned(),
        path,
        authority: authority.to_owned(),
        headers: Vec::new(),
        source: String::new(),
        peer: None,
    }
}

/// The request of an access log line as the manifests write it.
pub(super) fn of_log_line(line: &str) -> Result<Request, String> {
    let expected =
        || "the line is not JSON with `method` and `path`, as install/istio.yaml writes it".to_owned();
    let json: Value = serde_json::from_str(line.trim()).map_err(|_| expected())?;
    let text =
        |name: &str| json[name].as_str().filter(|text| !text.is_empty() && *text != "-").map(str::to_owned);
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

    fn ask_rate_limit_service(&self, _: &Global, _: &[u8]) -> Result<Vec<u8>, GrpcFailure> {
        // `overall_code`: OK.
        Ok(vec![0x08, 0x01])
    }

    fn assume(&self, is_condition: bool) -> Option<Vec<u8>> {
        self.asked.set(self.asked.get() || is_condition);
        is_condition.then(|| vec![u8::from(self.assumes)])
    }
}
