//! The two services, their sidecars and what is around them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use cases::{Token, public_keys, repository};
use envoy::{
    AccessLog, Answer, Bootstrap, Cluster, Envoy, HttpFilter, JwksServer, Listener, Node, Received, Request,
    Server, SpanCollector, Tracing, Wasm, values,
};
use serde_json::{Value, json};

use crate::Error;

/// What tokens say about themselves.
pub(crate) const ISSUER: &str = "https://auth.adaptive-learning.example/";
/// Whom tokens are for.
pub(crate) const AUDIENCE: &str = "adaptive-learning-api";
/// The issuer's cluster, as Istio names it.
const ISSUER_CLUSTER: &str = "outbound|8080||auth-service.adaptive-learning.svc.cluster.local";
const NAMESPACE: &str = "adaptive-learning";
const INBOUND: &str = "inbound";

/// What the access log and the spans show of the filters.
pub(crate) const FILTER_STATE: [&str; 5] =
    ["tag.enduser.pseudo.id", "tag.request.id", "tag.service.version", "jwt.deny_code", "ratelimit.limit"];

/// Everything that runs. It ends with the value.
pub(crate) struct Mesh {
    /// Signs tokens and serves its keys.
    pub(crate) issuer: JwksServer,
    /// Receives spans.
    pub(crate) collector: SpanCollector,
    /// `content-service`, which clients call. Three plugins.
    pub(crate) content: Sidecar,
    /// `ml-service`, which `content-service` calls. One plugin that is all three.
    pub(crate) ml: Sidecar,
}

/// A service and its Envoy.
pub(crate) struct Sidecar {
    /// The name of the service.
    pub(crate) name: &'static str,
    /// The plugins in its Envoy, in order.
    pub(crate) plugins: Vec<&'static str>,
    /// Its Envoy.
    pub(crate) envoy: Envoy,
    /// Where the Envoy takes requests.
    pub(crate) address: SocketAddr,
    _service: Server,
}

impl Mesh {
    /// Starts everything and waits until it is ready.
    pub(crate) fn start() -> Result<Self, Error> {
        let issuer = JwksServer::start(&public_keys(&["rsa-1", "ec-1"])?)?;
        let collector = SpanCollector::start()?;
        let around = |service: &Server| {
            vec![
                Cluster::new("service", service.address()),
                Cluster::new(ISSUER_CLUSTER, issuer.address()),
                Cluster::new("collector", collector.address()),
            ]
        };

        let all: Value = ["jwt-auth", "rate-limit", "trace-tags"]
            .iter()
            .map(|filter| Ok((key(filter), configuration(filter)?)))
            .collect::<Result<serde_json::Map<_, _>, Error>>()?
            .into();
        let service = Server::start(|request| answer("ml-service", &request, None))?;
        let plugins = vec![plugin("mesh-filters", &all)?];
        let ml = Sidecar::start("ml-service", "v7", plugins, around(&service), service)?;

        let behind = ml.address;
        let service = Server::start(move |request| answer("content-service", &request, Some(behind)))?;
        let plugins = ["trace-tags", "jwt-auth", "rate-limit"]
            .iter()
            .map(|filter| plugin(filter, &configuration(filter)?))
            .collect::<Result<_, Error>>()?;
        let content = Sidecar::start("content-service", "v3", plugins, around(&service), service)?;
        Ok(Self { issuer, collector, content, ml })
    }

    /// The sidecars in the order of a request.
    pub(crate) fn sidecars(&self) -> [&Sidecar; 2] {
        [&self.content, &self.ml]
    }
}

impl Sidecar {
    fn start(
        name: &'static str,
        version: &str,
        plugins: Vec<(&'static str, Wasm)>,
        clusters: Vec<Cluster>,
        service: Server,
    ) -> Result<Self, Error> {
        let (names, filters): (Vec<_>, Vec<_>) =
            plugins.into_iter().map(|(name, wasm)| (name, HttpFilter::Wasm(wasm))).unzip();
        let mut listener = Listener::new(INBOUND, "service", filters);
        listener.access_log = AccessLog { filter_state: FILTER_STATE.map(str::to_owned).to_vec() };
        let tag = |key: &str| {
            let name = key.strip_prefix("tag.").unwrap_or(key).to_owned();
            (name, format!("%FILTER_STATE(wasm.{key}:PLAIN)%"))
        };
        listener.tracing = Some(Tracing {
            cluster: "collector".to_owned(),
            service: format!("{name}.{NAMESPACE}"),
            custom_tags: FILTER_STATE.into_iter().map(tag).collect(),
        });
        let bootstrap = Bootstrap { node: Node::new(name, NAMESPACE, version), clusters };
        let envoy = Envoy::start(&bootstrap, &[listener], 2)?;
        let address = envoy.address(INBOUND)?;
        Ok(Self { name, plugins: names, envoy, address, _service: service })
    }
}

/// The field of mesh-filters' configuration that holds a filter's: `jwtAuth` for `jwt-auth`.
fn key(filter: &str) -> String {
    let mut words = filter.split('-');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |key, word| {
        let (initial, rest) = word.split_at(1);
        key + &initial.to_ascii_uppercase() + rest
    })
}

/// The pluginConfig in `demo/config`.
fn configuration(filter: &str) -> Result<Value, Error> {
    let file = repository().join(format!("demo/config/{filter}.yaml"));
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    serde_saphyr::from_str(&text).map_err(|error| format!("{}: {error}", file.display()).into())
}

fn plugin(filter: &'static str, configuration: &Value) -> Result<(&'static str, Wasm), Error> {
    let module: PathBuf = repository().join(format!("target/filters/{filter}.wasm"));
    if !module.is_file() {
        return Err(format!("{} is missing: run `make filters`", module.display()).into());
    }
    let mut wasm = Wasm::new(filter, module, configuration.to_string());
    // In a cluster the key comes from a Secret.
    wasm.environment =
        BTreeMap::from([("PSEUDONYM_KEY".to_owned(), "a-key-for-the-demonstration-only".to_owned())]);
    Ok((filter, wasm))
}

/// What a service answers: who called it as far as it knows, and what the service behind it says.
fn answer(name: &str, request: &Received, behind: Option<SocketAddr>) -> Answer {
    let users = values(&request.headers, "x-user-id");
    let twins = values(&request.headers, "x_user_id");
    let mut body = json!({ "service": name, "users": ([users, twins].concat()) });
    if let Some(behind) = behind.filter(|_| request.path.starts_with("/content/recommended")) {
        let mut call = Request::new("GET", "/ml/ranking");
        // Who calls, and which trace this belongs to.
        for header in ["authorization", "x-request-id", "traceparent", "tracestate"] {
            for value in values(&request.headers, header) {
                call = call.header(header, value);
            }
        }
        match call.send(behind) {
            Ok(response) => {
                body["behind"] = json!({ "status": response.status, "body": response.text() });
            }
            Err(error) => body["behind"] = json!(error.to_string()),
        }
    }
    Answer::json(&body)
}

/// A token of the demonstration's issuer with these claims besides.
pub(crate) fn token(key: &str, claims: &Value) -> Result<String, Error> {
    let mut all = json!({ "iss": ISSUER, "aud": AUDIENCE, "exp": "+5m" });
    if let (Some(all), Some(claims)) = (all.as_object_mut(), claims.as_object()) {
        all.extend(claims.clone());
    }
    Ok(Token::new(key, all).mint()?)
}
