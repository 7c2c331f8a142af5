//! The mock host as a host of cases.

use cases::{Exchange, Filter, Host, HostError, ISSUER_CLUSTERS, LIMIT_CLUSTERS, Proxy, Setup, module};
use envoy::{Answer, Headers, Protocol, RateLimitAnswer, Received, Request, Response};
use mock_host::{HeaderMap, Log, Outcome, Plugin, Rejected, Value};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The mock host with a number of workers, which take requests in turn.
#[derive(Debug)]
pub struct MockHost {
    /// How many.
    pub workers: usize,
}

impl Host for MockHost {
    fn name(&self) -> String {
        format!("mock host, {} worker{}", self.workers, if self.workers == 1 { "" } else { "s" })
    }

    fn is_mock(&self) -> bool {
        true
    }

    fn start(&self, setup: &Setup) -> Result<Box<dyn Proxy + '_>, HostError> {
        let issuer = Rc::new(RefCell::new(setup.issuer.clone()));
        let limit_service = Rc::new(RefCell::new(setup.limit_service.clone()));
        let upstream = Rc::new(RefCell::new(Answer::default()));
        let answer = Rc::clone(&upstream);
        let mut builder = mock_host::Proxy::builder()
            .workers(self.workers)
            .clock(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
            .node(node(&envoy::Node { role: setup.role, ..envoy::Node::default() }))
            .edge(setup.role.is_edge())
            .upstream(move |_| respond(&answer.borrow()))
            .cluster("unreachable", |_| mock_host::Answer::Respond(mock_host::Response::new(503)));
        for name in ISSUER_CLUSTERS {
            let issuer = Rc::clone(&issuer);
            builder = builder.cluster(name, move |call| {
                let header = |name: &str| call.headers.get(name).map(str::to_owned);
                respond(&issuer.borrow().to(&header(":path").unwrap_or_default(), header, &call.body))
            });
        }
        for name in LIMIT_CLUSTERS {
            let limit_service = Rc::clone(&limit_service);
            builder = builder.cluster(name, move |call| judge(&limit_service.borrow(), call));
        }
        for filter in &setup.filters {
            let mut plugin =
                Plugin::new(&filter.name, module(&filter.name)?).configuration(&*filter.configuration);
            for (name, value) in &setup.env {
                plugin = plugin.env(name, value);
            }
            builder = builder.plugin(plugin);
        }
        let proxy = builder.build().map_err(|rejected| refused(&rejected))?;
        proxy.settle();
        Ok(Box::new(MockProxy {
            proxy,
            setup: setup.clone(),
            issuer,
            limit_service,
            upstream,
            workers: self.workers,
            next: 0,
        }))
    }
}

fn refused(rejected: &Rejected) -> HostError {
    HostError::Refused(format!("{}\n{}", rejected.reason, text(&rejected.logs)))
}

/// Where clients of a real Envoy are.
const LOOPBACK: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

struct MockProxy {
    proxy: mock_host::Proxy,
    setup: Setup,
    issuer: Rc<RefCell<Answer>>,
    limit_service: Rc<RefCell<RateLimitAnswer>>,
    upstream: Rc<RefCell<Answer>>,
    workers: usize,
    next: usize,
}

impl Proxy for MockProxy {
    fn send(&mut self, request: &Request) -> Result<Exchange, HostError> {
        let worker = self.proxy.worker(self.next % self.workers);
        self.next += 1;
        let mut sent = mock_host::Request::new(&request.method, &request.path)
            .host(&request.authority)
            .source(&std::net::SocketAddr::new(request.source.unwrap_or(LOOPBACK), 41234).to_string())
            .body(&*request.body);
        for (name, value) in &crate::arrived(request) {
            sent = sent.header(name, value);
        }
        if request.protocol == Protocol::Grpc {
            sent = sent.header("te", "trailers").grpc();
        }
        let seen = worker.request(sent);
        if seen.outcome != Outcome::Complete {
            return Err(HostError::Broken(format!("the request got no answer: {:?}", seen.outcome)));
        }
        if let Some(failure) = self.proxy.failures().first() {
            return Err(HostError::Broken(format!("a VM died: {failure}")));
        }
        let filter_state = self.setup.filter_state.iter().filter_map(|key| {
            let value = seen.filter_state.get(&format!("wasm.{key}"))?;
            Some((key.clone(), String::from_utf8_lossy(value).into_owned()))
        });
        Ok(Exchange {
            filter_state: filter_state.collect(),
            response: Response {
                status: seen.status,
                headers: headers(&seen.headers),
                body: seen.body,
                trailers: Headers::new(),
                client_port: 0,
            },
            upstream: seen.upstream.map(|upstream| Received {
                method: pseudo(&upstream.headers, ":method"),
                path: pseudo(&upstream.headers, ":path"),
                authority: pseudo(&upstream.headers, ":authority"),
                headers: headers(&upstream.headers),
                body: upstream.body,
                trailers: Headers::new(),
            }),
            details: seen.details,
            span: BTreeMap::new(),
        })
    }

    fn send_many(&mut self, request: &Request, times: u32, _: u32) -> Result<Vec<u16>, HostError> {
        (0..times).map(|_| self.send(request).map(|exchange| exchange.response.status)).collect()
    }

    fn configure(&mut self, filters: &[Filter]) -> Result<(), HostError> {
        for filter in filters {
            self.proxy.update(&filter.name, &*filter.configuration).map_err(|rejected| refused(&rejected))?;
        }
        self.proxy.settle();
        Ok(())
    }

    fn set_issuer(&mut self, answer: Answer) {
        *self.issuer.borrow_mut() = answer;
    }

    fn set_limit_service(&mut self, answer: RateLimitAnswer) {
        *self.limit_service.borrow_mut() = answer;
    }

    fn set_upstream(&mut self, answer: Answer) {
        *self.upstream.borrow_mut() = answer;
    }

    fn advance(&mut self, time: Duration) -> Result<(), HostError> {
        self.proxy.advance(time);
        self.proxy.settle();
        Ok(())
    }

    fn wait(&mut self) {
        self.proxy.advance(Duration::from_secs(1));
        self.proxy.settle();
    }

    fn metrics(&self) -> Result<BTreeMap<String, i64>, HostError> {
        let number = |(name, value)| Some((name, i64::try_from(value).ok()?));
        Ok(self.proxy.metrics().into_iter().filter_map(number).collect())
    }

    fn log(&self) -> String {
        text(&self.proxy.logs())
    }

    fn finish(self: Box<Self>) -> Result<String, HostError> {
        Ok(self.log())
    }
}

/// As `envoy::Node` shows it to plugins under `xds.node`.
fn node(node: &envoy::Node) -> Value {
    let text = |text: &str| Value::Bytes(text.as_bytes().to_vec());
    let (workload, namespace) = node.cluster.split_once('.').unwrap_or_default();
    let labels = node.labels.iter().map(|(name, value)| (name.as_str(), text(value)));
    let metadata = Value::map([
        ("LABELS", Value::map(labels)),
        ("NAMESPACE", text(namespace)),
        ("WORKLOAD_NAME", text(workload)),
        ("SERVICE_ACCOUNT", text(workload)),
    ]);
    Value::map([("id", text(&node.id())), ("cluster", text(&node.cluster)), ("metadata", metadata)])
}

fn respond(answer: &Answer) -> mock_host::Response {
    let response = mock_host::Response::new(answer.status).body(&*answer.body);
    answer.headers.iter().fold(response, |response, (name, value)| response.header(name, value))
}

fn judge(answer: &RateLimitAnswer, call: &mock_host::CalloutRequest) -> mock_host::Answer {
    let late = call.timeout.is_some_and(|timeout| answer.delay > timeout);
    let (status, message) = if late { (14, "upstream request timeout") } else { (answer.grpc_status, "") };
    mock_host::Answer::Grpc { status, message: message.to_owned(), body: answer.message(&call.body) }
}

/// Without pseudo headers, as on the wire of HTTP/1.1.
fn headers(map: &HeaderMap) -> Headers {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let real = map.iter().filter(|(name, _)| !name.starts_with(':'));
    real.map(|(name, value)| (name.to_owned(), text(value))).collect()
}

fn pseudo(map: &HeaderMap, name: &str) -> String {
    map.get(name).unwrap_or_default().to_owned()
}

fn text(logs: &[Log]) -> String {
    logs.iter().fold(String::new(), |mut text, log| {
        let _ = writeln!(text, "[{:?}] wasm log {}: {}", log.level, log.plugin, log.message);
        text
    })
}
