//! The filters' own parsers.

use std::collections::BTreeMap;
use std::time::Duration;

use jwt_auth::fetch::remote::{Remote, Settings};

use plugin_kit::config::{Code, ConfigErrors, Diagnostic};
use plugin_kit::host::{Environment, HostError};
use serde_json::Value;
use trace_tags::tags::tag::Phase;

use crate::decide::cel::{Evaluated, Expressions};

/// The names of the filters.
pub const NAMES: [&str; 4] = ["jwt-auth", "rate-limit", "trace-tags", "mesh-filters"];

/// The facts about a configuration that matter to those of other filters.
#[derive(Default)]
pub struct Facts {
    /// The claims that it publishes; `None` if it checks no tokens.
    pub publishes: Option<Vec<String>>,
    /// The claims that it reads, each with the JSON path of the field that reads it.
    pub asks: Vec<(String, String)>,
    /// The names of its limits, each with its JSON path.
    pub limits: Vec<(String, String)>,
    /// The clusters of the proxy that the filter reaches.
    pub reached: Vec<Reached>,
    /// The warnings.
    pub warnings: Vec<Diagnostic>,
}

/// A cluster of the proxy, by Istio's name, that a filter reaches.
pub struct Reached {
    /// `outbound|8080||name.namespace.svc.cluster.local`, or another name.
    pub cluster: String,
    /// The JSON path of what names it.
    pub path: String,
    /// Whether keys are fetched through it.
    pub of_keys: bool,
}

/// Reads a pluginConfig as a filter does.
///
/// # Errors
/// The errors that the filter reports.
pub fn read(
    filter: &str,
    config: &Value,
    variables: &BTreeMap<String, String>,
) -> Result<Facts, ConfigErrors> {
    plugin_kit::config::unwrapped(config)?;
    let expressions = Expressions::default();
    let on = |node| {
        parse(filter, config, Proxy { variables, node, sent_at: Phase::Request, expressions: &expressions })
    };
    // A configuration for another kind of proxy names that kind, and a sidecar refuses it.
    on("sidecar~").or_else(|refused| on("envoy").map_err(|_| refused))
}

fn parse(filter: &str, config: &Value, env: Proxy<'_>) -> Result<Facts, ConfigErrors> {
    let mut facts = Facts::default();
    match filter {
        "jwt-auth" => {
            let read = jwt_auth::config::Config::read(config, &env)?;
            let claims = read.publish.iter().map(|(_, key)| key.trim_start_matches("jwt.").to_owned());
            facts.publishes = Some(claims.collect());
            facts.warnings = read.warnings;
            facts.reached = reached_by_providers(config);
        }
        "rate-limit" => {
            let read = rate_limit::config::Config::read(config, &env)?;
            facts.asks = asked_by_limits(config);
            let cluster = config["global"]["cluster"].as_str().map(str::to_owned);
            let path = "global.cluster".to_owned();
            facts.reached.extend(cluster.map(|cluster| Reached { cluster, path, of_keys: false }));
            facts.limits = list(config, "limits")
                .filter_map(|(n, limit)| {
                    Some((limit["name"].as_str()?.to_owned(), format!("limits[{n}].name")))
                })
                .collect();
            facts.warnings = read.warnings;
        }
        "trace-tags" => {
            facts.warnings = trace_tags::config::Config::read(config, &env, env.sent_at)?.warnings;
            for (n, tag) in list(config, "tags") {
                facts.asks.extend(
                    list(tag, "from").filter_map(|(m, source)| {
                        Some((claim(source)?, format!("tags[{n}].from[{m}].claim")))
                    }),
                );
            }
        }
        "mesh-filters" => {
            let parts = mesh_filters::config::Parts::parse(config)?;
            let mut errors: Option<ConfigErrors> = None;
            for (key, filter, part) in [
                ("traceTags", "trace-tags", &parts.trace_tags),
                ("jwtAuth", "jwt-auth", &parts.jwt_auth),
                ("rateLimit", "rate-limit", &parts.rate_limit),
            ] {
                let Some(part) = part else { continue };
                let of_part = match parse(filter, part, Proxy { sent_at: Phase::Claims, ..env }) {
                    Ok(of_part) => of_part,
                    Err(wrong) => {
                        let wrong = wrong.under(key);
                        errors = Some(errors.map_or(wrong.clone(), |errors| errors.and(wrong)));
                        continue;
                    }
                };
                let under = |list: Vec<(String, String)>| {
                    list.into_iter().map(move |(what, path)| (what, format!("{key}.{path}")))
                };
                facts.publishes = facts.publishes.or(of_part.publishes);
                facts.asks.extend(under(of_part.asks));
                facts.limits.extend(under(of_part.limits));
                let reached = of_part.reached.into_iter();
                facts
                    .reached
                    .extend(reached.map(|one| Reached { path: format!("{key}.{}", one.path), ..one }));
                facts.warnings.extend(of_part.warnings.into_iter().map(|warning| warning.under(key)));
            }
            if let Some(errors) = errors {
                return Err(errors);
            }
            facts.warnings.extend(parts.check_claims()?);
        }
        _ => {
            let message = format!("`{filter}` is not a filter; expected one of {}", NAMES.join(", "));
            let path = "pluginName".to_owned();
            return Err(Diagnostic { code: Code::UnknownName, path, message }.into());
        }
    }
    Ok(facts)
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    value[name].as_array().into_iter().flatten().enumerate()
}

/// The claim that a source reads.
fn claim(source: &Value) -> Option<String> {
    source["claim"].as_str().map(str::to_owned)
}

/// The claims that limits and exemptions read, each with its JSON path.
fn asked_by_limits(config: &Value) -> Vec<(String, String)> {
    let tested = |of: &Value, path: String| {
        let names = of["match"]["claims"].as_object().into_iter().flat_map(serde_json::Map::keys);
        names.map(move |name| (name.clone(), format!("{path}.match.claims.{name}"))).collect::<Vec<_>>()
    };
    let mut asks = Vec::new();
    for (n, limit) in list(config, "limits") {
        let keys = list(limit, "key").map(|(m, source)| (source, format!("key[{m}]")));
        let others = [(&limit["plans"]["from"], "plans.from"), (&limit["costFrom"], "costFrom")];
        let others = others.map(|(source, path)| (source, path.to_owned()));
        asks.extend(
            keys.chain(others)
                .filter_map(|(source, path)| Some((claim(source)?, format!("limits[{n}].{path}.claim")))),
        );
        asks.extend(tested(limit, format!("limits[{n}]")));
    }
    for (n, exempt) in list(config, "exempt") {
        asks.extend(tested(exempt, format!("exempt[{n}]")));
    }
    asks
}

/// The clusters through which providers fetch keys, metadata and lists of revoked tokens.
fn reached_by_providers(config: &Value) -> Vec<Reached> {
    let mut all = Vec::new();
    for (name, provider) in config["providers"].as_object().into_iter().flatten() {
        let mut add = |cluster: &Value, cluster_path: &str, url: &Value, path: &str, of_keys| {
            let (cluster, path) = match (cluster.as_str(), url.as_str()) {
                (Some(cluster), Some(_)) => (Some(cluster.to_owned()), cluster_path),
                (None, Some(url)) => (cluster_of(url), path),
                (_, None) => (None, path),
            };
            let path = format!("providers.{name}.{path}");
            all.extend(cluster.map(|cluster| Reached { cluster, path, of_keys }));
        };
        let cluster = &provider["cluster"];
        if provider.get("jwksUri").is_some() {
            add(cluster, "cluster", &provider["jwksUri"], "jwksUri", true);
        } else if provider.get("jwks").is_none() && provider.get("secrets").is_none() {
            match &provider["discovery"]["uri"] {
                Value::Null => add(cluster, "cluster", &provider["issuer"], "issuer", true),
                uri => add(cluster, "cluster", uri, "discovery.uri", true),
            }
        }
        let revoked = &provider["revoked"];
        add(&revoked["cluster"], "revoked.cluster", &revoked["uri"], "revoked.uri", false);
    }
    all
}

/// Istio's name of the cluster for a URL.
fn cluster_of(url: &str) -> Option<String> {
    let settings = Settings {
        duration: Duration::ZERO,
        min_interval: Duration::ZERO,
        timeout: Duration::ZERO,
        stale_if_error: Duration::ZERO,
    };
    Remote::parse(url, None, settings).ok().map(|remote| remote.cluster)
}

/// The members of a pluginConfig that tell which filter it is for.
pub const MEMBERS: [&str; 7] = ["jwtAuth", "rateLimit", "traceTags", "providers", "rules", "limits", "tags"];

/// The filter whose pluginConfig has this member.
pub fn by_member(name: &str) -> Option<&'static str> {
    Some(match name {
        "jwtAuth" | "rateLimit" | "traceTags" => "mesh-filters",
        "providers" | "rules" => "jwt-auth",
        "limits" => "rate-limit",
        "tags" => "trace-tags",
        _ => return None,
    })
}

/// A proxy whose expressions are compiled by [`crate::decide::cel`].
#[derive(Clone, Copy)]
struct Proxy<'a> {
    variables: &'a BTreeMap<String, String>,
    node: &'static str,
    /// The phase in which trace-tags lets the request go on to the service.
    sent_at: Phase,
    expressions: &'a Expressions,
}

impl Environment for Proxy<'_> {
    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    fn node_id(&self) -> Option<Vec<u8>> {
        Some(self.node.as_bytes().to_vec())
    }

    fn compile(&self, expression: &str) -> Result<u32, HostError> {
        self.expressions.compile(expression)
    }

    fn evaluate(&self, expression: u32) -> Result<Option<Vec<u8>>, HostError> {
        Ok(match self.expressions.evaluate(expression, None) {
            Evaluated::Value(value) => Some(value),
            Evaluated::Nothing => None,
            Evaluated::NotHere => Some(vec![0]),
        })
    }
}
