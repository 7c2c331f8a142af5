//! Envoy's configuration, typed where tests vary it. Envoy reads JSON, so JSON is what this makes.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// What does not change while Envoy runs. Listeners come by file and may change:
/// [`crate::Envoy::set_listeners`].
#[derive(Debug, Clone, Default)]
pub struct Bootstrap {
    /// Who this proxy is.
    pub node: Node,
    /// The clusters that routes, plugins and tracing may name.
    pub clusters: Vec<Cluster>,
}

/// What kind of proxy it is, which plugins read from its node id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Istio's, beside a service.
    #[default]
    Sidecar,
    /// Istio's, the first that clients meet.
    Gateway,
    /// One that is not Istio's.
    Other,
}

impl Role {
    /// Whether the proxy takes clients' addresses from their connections.
    pub fn is_edge(self) -> bool {
        self != Self::Sidecar
    }
}

/// The node of a proxy: plugins read it as `xds.node…`.
#[derive(Debug, Clone)]
pub struct Node {
    /// What kind of proxy it is.
    pub role: Role,
    /// `workload.namespace`, for instance `server.shop`.
    pub cluster: String,
    /// The workload's labels, `metadata.LABELS`: `app`, `version`.
    pub labels: BTreeMap<String, String>,
}

impl Node {
    /// A node with the two labels that every workload of a mesh has.
    pub fn new(app: &str, namespace: &str, version: &str) -> Self {
        Self {
            role: Role::Sidecar,
            cluster: format!("{app}.{namespace}"),
            labels: [("app", app), ("version", version)].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        }
    }

    /// The node id, as Istio makes it for its own.
    pub fn id(&self) -> String {
        let (workload, namespace) = self.cluster.split_once('.').unwrap_or((&self.cluster, "default"));
        let kind = match self.role {
            Role::Sidecar => "sidecar",
            Role::Gateway => "router",
            Role::Other => return format!("{workload}-0"),
        };
        format!("{kind}~127.0.0.1~{workload}-0.{namespace}~{namespace}.svc.cluster.local")
    }

    fn to_json(&self) -> Value {
        let (workload, namespace) = self.cluster.split_once('.').unwrap_or((&self.cluster, "default"));
        json!({
            "id": self.id(),
            "cluster": self.cluster,
            "metadata": {
                "LABELS": self.labels,
                "NAMESPACE": namespace,
                "WORKLOAD_NAME": workload,
                "SERVICE_ACCOUNT": workload,
            },
        })
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::new("server", "shop", "v1")
    }
}

/// Where a server listens.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// A TCP port.
    Socket(SocketAddr),
    /// A Unix domain socket.
    Pipe(PathBuf),
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Socket(address)
    }
}

impl Endpoint {
    fn to_json(&self) -> Value {
        match self {
            Self::Socket(address) => socket(*address),
            Self::Pipe(path) => json!({ "pipe": { "path": path } }),
        }
    }
}

/// An upstream cluster with one endpoint, or none.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// The name by which routes and plugins call it.
    pub name: String,
    /// Its only endpoint, if it has one: without, the router itself answers 503 at once.
    pub endpoint: Option<Endpoint>,
    /// Speak HTTP/2 to it with prior knowledge (gRPC).
    pub http2: bool,
    /// It comes by file, and may vanish and come back: [`crate::Envoy::set_clusters`].
    pub discovered: bool,
}

impl Cluster {
    /// A cluster that speaks HTTP/1.1.
    pub fn new(name: &str, endpoint: impl Into<Endpoint>) -> Self {
        Self { name: name.to_owned(), endpoint: Some(endpoint.into()), http2: false, discovered: false }
    }

    /// A cluster that has no endpoint.
    pub fn empty(name: &str) -> Self {
        Self { name: name.to_owned(), endpoint: None, http2: false, discovered: false }
    }

    fn to_json(&self) -> Value {
        let protocol = if self.http2 { "http2_protocol_options" } else { "http_protocol_options" };
        let endpoint = |endpoint: &Endpoint| json!({ "lb_endpoints": [{ "endpoint": { "address": endpoint.to_json() } }] });
        let endpoints: Vec<Value> = self.endpoint.iter().map(endpoint).collect();
        json!({
            "name": self.name,
            "type": "STATIC",
            // A thousand connections at once overflow a server's queue, and the kernel tries again after 1, 3
            // and 7 seconds.
            "connect_timeout": "10s",
            // A thousand requests at once are for the filters to bear; Envoy would refuse some by itself.
            "circuit_breakers": { "thresholds": [
                { "max_connections": 10_000, "max_pending_requests": 10_000, "max_requests": 10_000 },
            ]},
            "load_assignment": { "cluster_name": self.name, "endpoints": endpoints },
            "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { protocol: {} },
            }},
        })
    }
}

/// One inbound listener: every path goes through the filters to one cluster.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Its name, by which [`crate::Envoy::address`] finds the port.
    pub name: String,
    /// The HTTP filters before the router, in order.
    pub filters: Vec<HttpFilter>,
    /// The cluster behind the router.
    pub upstream: String,
    /// Resolve `.`, `..` and escapes of plain characters before the filters, as Istio does by default.
    pub normalize_path: bool,
    /// Take the client's address from its connection, as at an edge, and append it to `x-forwarded-for`.
    pub use_remote_address: bool,
    /// What the JSON access log holds.
    pub access_log: AccessLog,
    /// Where spans go, if anywhere.
    pub tracing: Option<Tracing>,
    /// Where web sockets go, if they are let through: the start of their paths, and a cluster that speaks
    /// HTTP/1.1.
    pub websockets: Option<(String, String)>,
}

impl Listener {
    /// A listener that normalises nothing, traces nothing and logs the standard fields.
    pub fn new(name: &str, upstream: &str, filters: Vec<HttpFilter>) -> Self {
        Self {
            name: name.to_owned(),
            filters,
            upstream: upstream.to_owned(),
            normalize_path: false,
            use_remote_address: false,
            access_log: AccessLog::default(),
            tracing: None,
            websockets: None,
        }
    }
}

/// Fields of the access log beyond the standard ones (`method`, `path`, `status`, `details`, `flags`,
/// `request_id`, `trace_id`, `client_port`).
#[derive(Debug, Clone, Default)]
pub struct AccessLog {
    /// Filter state keys without `wasm.`; each is logged under `filter_state`, null where it is not set.
    pub filter_state: Vec<String>,
}

/// Spans by OTLP over HTTP.
#[derive(Debug, Clone)]
pub struct Tracing {
    /// The cluster of the collector.
    pub cluster: String,
    /// `service.name` of the spans.
    pub service: String,
    /// Tag name to value; a value may hold formatters as in the access log, for instance
    /// `%FILTER_STATE(wasm.tag.request.id:PLAIN)%`.
    pub custom_tags: BTreeMap<String, String>,
}

/// One HTTP filter of the chain.
#[derive(Debug, Clone)]
pub enum HttpFilter {
    /// A Wasm plugin.
    Wasm(Wasm),
    /// Any filter compiled into Envoy.
    Native {
        /// The filter's name, for instance `envoy.filters.http.jwt_authn`.
        name: String,
        /// Its `typed_config` with `@type`.
        config: Value,
    },
}

/// A Wasm plugin as Istio configures it.
#[derive(Debug, Clone)]
pub struct Wasm {
    /// The plugin's name, unique in its listener.
    pub name: String,
    /// The module on disk.
    pub module: PathBuf,
    /// `pluginConfig`, byte for byte.
    pub configuration: String,
    /// `vmConfig.env`.
    pub environment: BTreeMap<String, String>,
    /// What becomes of requests when the VM fails.
    pub failure_policy: FailurePolicy,
    /// Plugins of one VM id share data. Istio leaves it empty: all plugins of a proxy share.
    pub vm_id: String,
    /// How the configuration reaches Envoy.
    pub delivery: Delivery,
    /// The name of the filter in `module`, where that is a native module and no VM runs it.
    pub native: Option<String>,
}

impl Wasm {
    /// A plugin that fails closed, inside its listener, with no environment.
    pub fn new(name: &str, module: impl Into<PathBuf>, configuration: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            module: module.into(),
            configuration: configuration.into(),
            environment: BTreeMap::new(),
            failure_policy: FailurePolicy::Closed,
            vm_id: String::new(),
            delivery: Delivery::Inline,
            native: None,
        }
    }
}

/// `failure_policy` of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailurePolicy {
    /// Requests get 503.
    Closed,
    /// Requests pass without the plugin.
    Open,
    /// The VM is made anew, with a back-off.
    Reload,
}

/// How a plugin's configuration reaches Envoy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Inside its listener: a refused configuration refuses the listener.
    Inline,
    /// By ECDS from a file, as in Istio: it can change alone ([`crate::Envoy::reconfigure`]), and a refused
    /// configuration leaves the last good one in force.
    Discovery,
}

const WASM_TYPE: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";

const NATIVE_TYPE: &str =
    "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter";

impl Wasm {
    fn type_url(&self) -> &'static str {
        if self.native.is_some() { NATIVE_TYPE } else { WASM_TYPE }
    }

    /// The filter as a native module has it.
    fn native_json(&self, filter: &str) -> Value {
        let env: Vec<_> =
            self.environment.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        let configuration = json!({
            "pluginName": self.name,
            "pluginConfig": self.configuration,
            "vmConfig": { "vmId": self.vm_id, "env": env },
        });
        json!({
            "@type": NATIVE_TYPE,
            "dynamic_module_config": {
                "module": { "local": { "filename": self.module } },
                "metrics_namespace": "wasmcustom",
            },
            "filter_name": filter,
            "filter_config": {
                "@type": "type.googleapis.com/google.protobuf.StringValue",
                "value": configuration.to_string(),
            },
        })
    }

    fn to_json(&self) -> Value {
        if let Some(filter) = &self.native {
            return self.native_json(filter);
        }
        json!({
            "@type": WASM_TYPE,
            "config": {
                "name": self.name,
                "failure_policy": match self.failure_policy {
                    FailurePolicy::Closed => "FAIL_CLOSED",
                    FailurePolicy::Open => "FAIL_OPEN",
                    FailurePolicy::Reload => "FAIL_RELOAD",
                },
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": self.configuration,
                },
                "vm_config": {
                    "vm_id": self.vm_id,
                    "runtime": "envoy.wasm.runtime.v8",
                    "allow_precompiled": false,
                    "code": { "local": { "filename": self.module } },
                    "environment_variables": { "key_values": self.environment },
                },
            },
        })
    }

    /// The discovery response that delivers this plugin alone.
    pub(crate) fn discovery(&self, version: u64) -> Value {
        json!({
            "version_info": version.to_string(),
            "resources": [{
                "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
                "name": self.name,
                "typed_config": self.to_json(),
            }],
        })
    }

    /// The file, inside Envoy's folder, that delivers this plugin.
    pub(crate) fn discovery_file(&self) -> String {
        format!("ecds-{}.json", self.name)
    }
}

/// Paths inside Envoy's folder.
pub(crate) struct Paths {
    pub(crate) access_log: PathBuf,
    pub(crate) folder: PathBuf,
}

impl Bootstrap {
    pub(crate) fn to_json(&self, listeners: &Path, clusters: &Path) -> Value {
        let file =
            |path: &Path| json!({ "resource_api_version": "V3", "path_config_source": { "path": path } });
        let mut dynamic = json!({ "lds_config": file(listeners) });
        if self.discovered().next().is_some() {
            dynamic["cds_config"] = file(clusters);
        }
        let fixed: Vec<_> =
            self.clusters.iter().filter(|cluster| !cluster.discovered).map(Cluster::to_json).collect();
        json!({
            "node": self.node.to_json(),
            "admin": { "address": socket(SocketAddr::from(([127, 0, 0, 1], 0))) },
            "static_resources": { "clusters": fixed },
            "dynamic_resources": dynamic,
            "layered_runtime": { "layers": [{ "name": "static", "static_layer": {
                // Each span leaves when its request ends.
                "tracing.opentelemetry.min_flush_spans": 1,
            }}]},
        })
    }

    /// The clusters that come by file.
    pub(crate) fn discovered(&self) -> impl Iterator<Item = &Cluster> {
        self.clusters.iter().filter(|cluster| cluster.discovered)
    }
}

/// The discovery response that holds the clusters that come by file.
pub(crate) fn clusters<'a>(version: u64, clusters: impl Iterator<Item = &'a Cluster>) -> Value {
    let resource = |cluster: &Cluster| {
        let mut resource = cluster.to_json();
        resource["@type"] = "type.googleapis.com/envoy.config.cluster.v3.Cluster".into();
        resource
    };
    json!({ "version_info": version.to_string(), "resources": clusters.map(resource).collect::<Vec<_>>() })
}

/// The discovery response that holds all listeners.
pub(crate) fn listeners(version: u64, listeners: &[Listener], paths: &Paths) -> Value {
    let resources: Vec<_> = listeners.iter().map(|listener| listener.to_json(paths)).collect();
    json!({ "version_info": version.to_string(), "resources": resources })
}

impl Listener {
    fn to_json(&self, paths: &Paths) -> Value {
        let mut filters: Vec<_> = self.filters.iter().map(|filter| filter.to_json(paths)).collect();
        filters.push(json!({
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
        }));
        let mut manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": self.name,
            "normalize_path": self.normalize_path,
            "use_remote_address": self.use_remote_address,
            // Envoy would write its sampling decision into a digit of the request ID.
            "request_id_extension": { "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
                "pack_trace_reason": false,
            }},
            "route_config": {
                "name": "inbound|8080||",
                "virtual_hosts": [{
                    "name": "inbound|http|8080",
                    "domains": ["*"],
                    "routes": [
                        {
                            "name": "default",
                            "match": { "prefix": "/" },
                            "route": { "cluster": self.upstream, "timeout": "30s" },
                        },
                        {
                            "name": "tunnel",
                            "match": { "connect_matcher": {} },
                            "route": { "cluster": self.upstream, "timeout": "30s" },
                        },
                    ],
                }],
            },
            "http_filters": filters,
            "upgrade_configs": [{ "upgrade_type": "CONNECT" }],
            "access_log": [self.access_log.to_json(paths)],
        });
        if let Some(tracing) = &self.tracing {
            manager["tracing"] = tracing.to_json();
        }
        if let Some((prefix, cluster)) = &self.websockets {
            manager["upgrade_configs"] =
                json!([{ "upgrade_type": "CONNECT" }, { "upgrade_type": "websocket" }]);
            let route = json!({
                "name": "websockets",
                "match": { "prefix": prefix },
                "route": { "cluster": cluster, "timeout": "0s" },
            });
            let routes = manager["route_config"]["virtual_hosts"][0]["routes"].as_array_mut();
            routes.expect("the routes above").insert(0, route);
        }
        json!({
            "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
            "name": self.name,
            "address": socket(SocketAddr::from(([127, 0, 0, 1], 0))),
            "traffic_direction": "INBOUND",
            "filter_chains": [{ "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": manager,
            }]}],
        })
    }
}

impl HttpFilter {
    fn to_json(&self, paths: &Paths) -> Value {
        match self {
            HttpFilter::Native { name, config } => json!({ "name": name, "typed_config": config }),
            HttpFilter::Wasm(wasm) => match wasm.delivery {
                Delivery::Inline => json!({ "name": wasm.name, "typed_config": wasm.to_json() }),
                Delivery::Discovery => json!({
                    "name": wasm.name,
                    "config_discovery": {
                        "config_source": {
                            "resource_api_version": "V3",
                            "path_config_source": { "path": paths.folder.join(wasm.discovery_file()) },
                        },
                        "type_urls": [wasm.type_url()],
                    },
                }),
            },
        }
    }
}

impl AccessLog {
    fn to_json(&self, paths: &Paths) -> Value {
        let filter_state: Map<String, Value> = self
            .filter_state
            .iter()
            .map(|key| (key.clone(), format!("%FILTER_STATE(wasm.{key}:PLAIN)%").into()))
            .collect();
        json!({
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": paths.access_log,
                "log_format": { "json_format": {
                    "method": "%REQ(:METHOD)%",
                    "path": "%REQ(:PATH)%",
                    "status": "%RESPONSE_CODE%",
                    "details": "%RESPONSE_CODE_DETAILS%",
                    "flags": "%RESPONSE_FLAGS%",
                    "request_id": "%REQ(X-REQUEST-ID)%",
                    "trace_id": "%TRACE_ID%",
                    // Not what `x-forwarded-for` says.
                    "client_port": "%DOWNSTREAM_DIRECT_REMOTE_PORT%",
                    "filter_state": filter_state,
                }},
            },
        })
    }
}

impl Tracing {
    fn to_json(&self) -> Value {
        let tags: Vec<_> =
            self.custom_tags.iter().map(|(tag, value)| json!({ "tag": tag, "value": value })).collect();
        json!({
            "random_sampling": { "value": 100 },
            "custom_tags": tags,
            "provider": {
                "name": "envoy.tracers.opentelemetry",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                    "service_name": self.service,
                    "http_service": { "http_uri": {
                        "uri": "http://collector/v1/traces",
                        "cluster": self.cluster,
                        "timeout": "2s",
                    }},
                },
            },
        })
    }
}

fn socket(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}
