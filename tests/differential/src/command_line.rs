//! The command line as a host of cases: the cores decide, as `mesh-filters explain` does.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cases::{Exchange, Filter, Host, HostError, ISSUER_CLUSTERS, LIMIT_CLUSTERS, Setup};
use envoy::{Answer, Headers, Protocol, RateLimitAnswer, Received};
use jwt_auth::fetch::introspection;
use jwt_auth::fetch::remote::Remote;
use mesh_filters_cli::decide::{Chain, Fetch, Plugin, Proxy, Request, Response, World};
use plugin_kit::config::{ConfigErrors, document};
use plugin_kit::host::{GrpcFailure, NOT_SENT};
use rate_limit::config::Global;

/// The command line as a host of cases.
#[derive(Debug, Default)]
pub struct CommandLine {
    leaves_expressions: AtomicBool,
}

impl CommandLine {
    /// Whether a configuration had an expression that only a proxy can evaluate.
    pub fn leaves_expressions_to_proxy(&self) -> bool {
        self.leaves_expressions.load(Ordering::Relaxed)
    }
}

struct CommandLineProxy {
    setup: Setup,
    chain: Chain,
    outside: Outside,
    upstream: Response,
}

/// What stands outside of the proxy.
#[derive(Clone)]
struct Outside {
    issuer: Rc<RefCell<Answer>>,
    limit_service: Rc<RefCell<RateLimitAnswer>>,
}

impl Outside {
    fn ask(&self, document: &Remote, accept: &str, body: &str) -> Fetch {
        let issuer = self.issuer.borrow();
        if !ISSUER_CLUSTERS.contains(&document.cluster.as_str()) || issuer.delay > document.settings.timeout {
            return Fetch::Failed;
        }
        let header = |name: &str| match name {
            "accept" => Some(accept.to_owned()),
            name => {
                document.headers.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
            }
        };
        let Answer { status, headers, body, .. } = issuer.to(&document.path, header, body.as_bytes());
        let cache_control = headers.into_iter().find(|(name, _)| name == "cache-control");
        Fetch::Answer { status, cache_control: cache_control.map(|(_, value)| value), body }
    }
}

impl World for Outside {
    fn fetch(&self, document: &Remote, accept: &str) -> Fetch {
        self.ask(document, accept, "")
    }

    fn introspect(&self, _: &str, endpoint: &Remote, form: &str) -> Fetch {
        self.ask(endpoint, introspection::ACCEPT, form)
    }

    fn ask_rate_limit_service(&self, service: &Global, message: &[u8]) -> Result<Vec<u8>, GrpcFailure> {
        let answer = self.limit_service.borrow();
        let via = String::from_utf8_lossy(&service.via);
        let is_there = LIMIT_CLUSTERS.iter().any(|cluster| via.contains(cluster));
        // As Envoy says it.
        let (status, said) = if via.contains("unreachable") {
            (
                14,
                "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure",
            )
        } else if !is_there {
            (NOT_SENT, "")
        } else if answer.delay > service.timeout {
            (14, "upstream request timeout")
        } else {
            (answer.grpc_status, "")
        };
        let failure = GrpcFailure { status, said: said.to_owned(), cut_off: false };
        if status == 0 { Ok(answer.message(message)) } else { Err(failure) }
    }

    fn assume(&self, _: bool) -> Option<Vec<u8>> {
        None
    }
}

fn plugins(filters: &[Filter], env: &BTreeMap<String, String>) -> Result<Vec<Plugin>, HostError> {
    let plugin = |filter: &Filter| {
        let config = document(filter.configuration.as_bytes()).map_err(|errors| refused(&errors))?;
        Ok(Plugin { name: filter.name.clone(), filter: filter.name.clone(), config, variables: env.clone() })
    };
    filters.iter().map(plugin).collect()
}

fn refused(errors: &ConfigErrors) -> HostError {
    HostError::Refused(format!("configuration refused: {errors}"))
}

impl Host for CommandLine {
    fn name(&self) -> String {
        "the command line".to_owned()
    }

    fn is_mock(&self) -> bool {
        true
    }

    fn start(&self, setup: &Setup) -> Result<Box<dyn cases::Proxy + '_>, HostError> {
        let outside = Outside {
            issuer: Rc::new(RefCell::new(setup.issuer.clone())),
            limit_service: Rc::new(RefCell::new(setup.limit_service.clone())),
        };
        let node = envoy::Node { role: setup.role, ..envoy::Node::default() };
        let proxy = Proxy {
            node: node.id(),
            labels: node.labels.clone(),
            namespace: node.cluster.split_once('.').unwrap_or_default().1.to_owned(),
            is_edge: setup.role.is_edge(),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let plugins = plugins(&setup.filters, &setup.env)?;
        let chain = Chain::start(&plugins, proxy, Box::new(outside.clone()), now);
        let chain = chain.map_err(|(_, errors)| refused(&errors))?;
        if chain.leaves_expressions_to_proxy() {
            self.leaves_expressions.store(true, Ordering::Relaxed);
        }
        let upstream = Response { status: 200, headers: Headers::new(), body: Vec::new() };
        Ok(Box::new(CommandLineProxy { setup: setup.clone(), chain, outside, upstream }))
    }
}

impl cases::Proxy for CommandLineProxy {
    fn send(&mut self, request: &envoy::Request) -> Result<Exchange, HostError> {
        let source = request.source.unwrap_or(std::net::Ipv4Addr::LOCALHOST.into());
        let mut headers = crate::arrived(request);
        if request.protocol == Protocol::Grpc {
            headers.push(("content-type".to_owned(), "application/grpc".to_owned()));
            headers.push(("te".to_owned(), "trailers".to_owned()));
        }
        let asked = Request {
            method: request.method.clone(),
            path: request.path.clone(),
            authority: request.authority.clone(),
            headers,
            source: std::net::SocketAddr::new(source, 41234).to_string(),
            peer: None,
        };
        let decided = self.chain.send(&asked, &self.upstream);
        let pseudo = |name: &str| {
            let found = decided.upstream.iter().flatten().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let real = |headers: &Headers| -> Headers {
            headers.iter().filter(|(name, _)| !name.starts_with(':')).cloned().collect()
        };
        let upstream = decided.upstream.as_ref().map(|sent| Received {
            method: pseudo(":method"),
            path: pseudo(":path"),
            authority: pseudo(":authority"),
            headers: real(sent),
            body: request.body.clone(),
            trailers: Headers::new(),
        });
        let text = |value: &Vec<u8>| String::from_utf8_lossy(value).into_owned();
        let state = self.setup.filter_state.iter();
        let state = state.filter_map(|key| Some((key.clone(), text(decided.filter_state.get(key)?))));
        Ok(Exchange {
            filter_state: state.collect(),
            response: envoy::Response {
                status: decided.response.status,
                headers: decided.response.headers,
                body: decided.response.body,
                trailers: Headers::new(),
                client_port: 0,
            },
            upstream,
            details: decided.details,
            span: BTreeMap::new(),
        })
    }

    fn send_many(&mut self, request: &envoy::Request, times: u32, _: u32) -> Result<Vec<u16>, HostError> {
        (0..times).map(|_| self.send(request).map(|exchange| exchange.response.status)).collect()
    }

    fn configure(&mut self, filters: &[Filter]) -> Result<(), HostError> {
        let plugins = plugins(filters, &self.setup.env)?;
        self.chain.configure(&plugins).map_err(|(_, errors)| refused(&errors))
    }

    fn set_issuer(&mut self, answer: Answer) {
        *self.outside.issuer.borrow_mut() = answer;
    }

    fn set_limit_service(&mut self, answer: RateLimitAnswer) {
        *self.outside.limit_service.borrow_mut() = answer;
    }

    fn set_upstream(&mut self, answer: Answer) {
        self.upstream = Response { status: answer.status, headers: answer.headers, body: answer.body };
    }

    fn advance(&mut self, time: Duration) -> Result<(), HostError> {
        self.chain.advance(time);
        Ok(())
    }

    fn wait(&mut self) {
        self.chain.advance(Duration::from_secs(1));
    }

    fn is_observed(&self) -> bool {
        false
    }

    fn metrics(&self) -> Result<BTreeMap<String, i64>, HostError> {
        Ok(BTreeMap::new())
    }

    fn log(&self) -> String {
        String::new()
    }

    fn finish(self: Box<Self>) -> Result<String, HostError> {
        Ok(String::new())
    }
}
