use crate::client::pairs;
use crate::{Headers, runtime};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet};

/// A request as a server saw it.
#[derive(Debug, Clone)]
pub struct Received {
    /// The method.
    pub method: String,
    /// Path and query, not decoded.
    pub path: String,
    /// `Host` or `:authority`.
    pub authority: String,
    /// Headers in order, names in lower case, duplicates included.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
    /// What came after the body.
    pub trailers: Headers,
}

/// Holds answers back until it is opened.
#[derive(Debug, Clone)]
pub struct Gate(Arc<tokio::sync::watch::Sender<bool>>);

impl Gate {
    /// A gate that is closed.
    pub fn closed() -> Self {
        Self(Arc::new(tokio::sync::watch::Sender::new(false)))
    }

    /// Lets all answers go, also those that come later.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    async fn pass(&self) {
        // The sender lives as long as the gate.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// What a server answers.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers; `grpc-status` of a reply to gRPC goes into its trailers.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
    /// How long the server waits before it answers.
    pub delay: Duration,
    /// What holds it back beyond that.
    pub gate: Option<Gate>,
    /// It ends the connection then, in the place of an answer.
    pub hangs_up: bool,
    /// The headers without which it answers 401.
    pub requires: Headers,
    /// What it answers at other paths.
    pub elsewhere: Vec<(String, Self)>,
    /// What it answers to requests with these bodies.
    pub posted: Vec<(String, Self)>,
}

impl Default for Answer {
    fn default() -> Self {
        Self {
            status: 200,
            headers: Headers::new(),
            body: Vec::new(),
            delay: Duration::ZERO,
            gate: None,
            hangs_up: false,
            requires: Headers::new(),
            elsewhere: Vec::new(),
            posted: Vec::new(),
        }
    }
}

impl Answer {
    /// A JSON body with status 200.
    pub fn json(value: &Value) -> Self {
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Self { headers, body: value.to_string().into_bytes(), ..Self::default() }
    }

    /// What the server says to a request for this path with these headers and this body.
    #[must_use]
    pub fn to(&self, path: &str, header: impl Fn(&str) -> Option<String>, body: &[u8]) -> Self {
        let answer =
            self.elsewhere.iter().find(|(known, _)| known == path).map_or(self, |(_, answer)| answer);
        let posted = answer.posted.iter().find(|(known, _)| known.as_bytes() == body);
        let answer = posted.map_or(answer, |(_, answer)| answer);
        if self.requires.iter().any(|(name, value)| header(name).as_ref() != Some(value)) {
            return Self { status: 401, ..Self::default() };
        }
        answer.negotiated(header("accept").as_deref())
    }

    /// What a server says that serves this media type only, to a request with this `accept`: 406 unless the
    /// type is named there. Kubernetes' API server is such a one.
    fn negotiated(&self, accept: Option<&str>) -> Self {
        let media_type = self.headers.iter().find(|(name, _)| name == "content-type").map(|(_, value)| value);
        let named = |accept: &str| {
            let mut types = accept.split(',').map(|range| range.split(';').next().unwrap_or_default().trim());
            media_type.is_none_or(|media_type| types.any(|accepted| accepted == media_type))
        };
        if accept.is_none_or(named) { self.clone() } else { Self { status: 406, ..Self::default() } }
    }
}

/// An HTTP/1.1 and HTTP/2 server on a free port of 127.0.0.1. It ends with the value.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts it. `handler` may block: each request has a thread of its own.
    pub fn start(handler: impl Fn(Received) -> Answer + Send + Sync + 'static) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let handler: Handler = Arc::new(handler);
        let _inside = runtime().enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let task = runtime().spawn(async move {
            // Connections end with the server.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let handler = Arc::clone(&handler);
                connections.spawn(async move {
                    let service = service_fn(move |request| serve(Arc::clone(&handler), request));
                    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    // A proxy sends many at once before it knows how many it may.
                    builder.http2().max_concurrent_streams(10_000);
                    // A client that went away is no news.
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { address, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Handler = Arc<dyn Fn(Received) -> Answer + Send + Sync>;

async fn serve(
    handler: Handler,
    request: hyper::Request<Incoming>,
) -> io::Result<hyper::Response<AnswerBody>> {
    let (head, body) = request.into_parts();
    let (body, trailers) = match body.collect().await {
        Ok(whole) => {
            let trailers = whole.trailers().map(pairs).unwrap_or_default();
            (whole.to_bytes().to_vec(), trailers)
        }
        Err(_) => (Vec::new(), Headers::new()),
    };
    let authority = head.uri.authority().map(ToString::to_string).unwrap_or_default();
    let received = Received {
        method: head.method.to_string(),
        path: head.uri.path_and_query().map_or_else(|| head.uri.to_string(), ToString::to_string),
        authority: match head.headers.get("host") {
            Some(host) => String::from_utf8_lossy(host.as_bytes()).into_owned(),
            None => authority,
        },
        headers: pairs(&head.headers),
        body,
        trailers,
    };
    let grpc = crate::values(&received.headers, "content-type")
        .iter()
        .any(|kind| kind.starts_with("application/grpc"));
    let answer = match tokio::task::spawn_blocking(move || handler(received)).await {
        Ok(answer) => answer,
        Err(_) => Answer { status: 500, ..Answer::default() },
    };
    tokio::time::sleep(answer.delay).await;
    if let Some(gate) = &answer.gate {
        gate.pass().await;
    }
    if answer.hangs_up {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    let mut response = hyper::Response::builder().status(answer.status);
    let mut trailers = hyper::HeaderMap::new();
    if grpc {
        response = response.header("content-type", "application/grpc");
        trailers.insert("grpc-status", hyper::header::HeaderValue::from_static("0"));
    }
    for (name, value) in &answer.headers {
        match hyper::header::HeaderValue::from_str(value) {
            Ok(value) if grpc && name == "grpc-status" => drop(trailers.insert("grpc-status", value)),
            _ => response = response.header(name, value),
        }
    }
    let body = Full::new(Bytes::from(answer.body)).with_trailers(ready(grpc.then_some(Ok(trailers))));
    Ok(response.body(body).unwrap_or_else(|_| {
        let mut broken = hyper::Response::new(Full::new(Bytes::new()).with_trailers(ready(None)));
        *broken.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
        broken
    }))
}

type Trailers = Option<Result<hyper::HeaderMap, Infallible>>;
type AnswerBody = http_body_util::combinators::WithTrailers<Full<Bytes>, std::future::Ready<Trailers>>;

fn ready(trailers: Trailers) -> std::future::Ready<Trailers> {
    std::future::ready(trailers)
}

/// A server with a state that its answers depend on and a test reads and changes.
#[derive(Debug)]
pub(crate) struct Stateful<S> {
    state: Arc<Mutex<S>>,
    server: Server,
}

impl<S: Send + 'static> Stateful<S> {
    /// Starts it. A request is handled while no other is.
    pub(crate) fn start(
        state: S,
        handler: impl Fn(&mut S, Received) -> Answer + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let server = Server::start(move |request| handler(&mut lock(&shared), request))?;
        Ok(Self { state, server })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Its state. No request is handled while the test holds it.
    pub(crate) fn state(&self) -> MutexGuard<'_, S> {
        lock(&self.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The service behind the sidecar: records what reaches it and answers as told.
#[derive(Debug)]
pub struct Upstream(Stateful<UpstreamState>);

#[derive(Debug, Default)]
struct UpstreamState {
    answer: Answer,
    received: Vec<Received>,
}

impl Upstream {
    /// Starts it; it answers 200 with no body.
    pub fn start() -> io::Result<Self> {
        Stateful::start(UpstreamState::default(), |state, request| {
            state.received.push(request);
            state.answer.clone()
        })
        .map(Self)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Changes what it answers from now on.
    pub fn answer(&self, answer: Answer) {
        self.0.state().answer = answer;
    }

    /// Takes what reached it since the last call.
    pub fn take_received(&self) -> Vec<Received> {
        std::mem::take(&mut self.0.state().received)
    }
}

/// An issuer's key server: serves one JWK set on every path.
#[derive(Debug)]
pub struct JwksServer(Stateful<JwksState>);

#[derive(Debug, Default)]
struct JwksState {
    answer: Answer,
    fetches: u64,
}

impl JwksServer {
    /// Starts it with a JWK set.
    pub fn start(keys: &Value) -> io::Result<Self> {
        Stateful::start(JwksState { answer: Answer::json(keys), fetches: 0 }, |state, request| {
            state.fetches += 1;
            let header = |name: &str| {
                let found = request.headers.iter().find(|(known, _)| known == name);
                found.map(|(_, value)| value.clone())
            };
            state.answer.to(&request.path, header, &request.body)
        })
        .map(Self)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Serves another answer from now on: other keys ([`Answer::json`]), a failure, a delay.
    pub fn answer(&self, answer: Answer) {
        self.0.state().answer = answer;
    }

    /// How often it was asked.
    pub fn fetches(&self) -> u64 {
        self.0.state().fetches
    }
}
