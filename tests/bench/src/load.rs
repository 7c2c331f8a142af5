//! The load generator: keep-alive connections over HTTP/1.1 or HTTP/2, each answer checked.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::Result;

/// What the clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// One request at a time on a connection.
    Http1,
    /// Many at a time.
    Http2,
}

/// Requests that are sent one after the other.
#[derive(Clone)]
pub(crate) struct Traffic {
    sequence: Rc<Sequence>,
    /// The status of each answer. A limit admits the first request before it refuses others.
    status: StatusCode,
}

struct Sequence {
    protocol: Protocol,
    /// Makes the request of a number.
    request: Box<dyn Fn(usize) -> Result<Request<Full<Bytes>>>>,
    next: Cell<usize>,
}

impl Traffic {
    /// These requests, over and over.
    pub(crate) fn of(protocol: Protocol, requests: Vec<Request<Full<Bytes>>>) -> Self {
        Self::made(protocol, move |number| Ok(requests[number % requests.len()].clone()))
    }

    /// Requests that are made as they are sent, each from its number.
    pub(crate) fn made(
        protocol: Protocol,
        request: impl Fn(usize) -> Result<Request<Full<Bytes>>> + 'static,
    ) -> Self {
        let sequence = Rc::new(Sequence { protocol, request: Box::new(request), next: Cell::new(0) });
        Self { sequence, status: StatusCode::OK }
    }

    /// The same requests, which are refused with this status.
    pub(crate) fn refused(&self, status: StatusCode) -> Self {
        Self { status, ..self.clone() }
    }

    /// The next request, and its number.
    fn next(&self) -> Result<(Request<Full<Bytes>>, usize)> {
        let number = self.sequence.next.get();
        self.sequence.next.set(number + 1);
        Ok(((self.sequence.request)(number)?, number))
    }

    /// Whether this is the status that the request of this number should get.
    fn expects(&self, status: StatusCode, number: usize) -> bool {
        status == self.status || (number == 0 && status == StatusCode::OK)
    }
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<StatusCode> {
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::Http2(sender) => sender.send_request(request).await?,
        };
        let status = response.status();
        response.into_body().collect().await?;
        Ok(status)
    }
}

/// Open connections to one listener.
pub(crate) struct Client {
    senders: Vec<Sender>,
    traffic: Traffic,
    port: u16,
}

/// What a run of requests showed.
pub(crate) struct Outcome {
    /// Requests a second.
    pub(crate) throughput: f64,
    /// From sending a request to the end of its response, ascending.
    pub(crate) latencies: Vec<Duration>,
}

impl Outcome {
    /// The latency that this part (0 to 1) of the requests does not exceed.
    pub(crate) fn percentile(&self, part: f64) -> Duration {
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let at = (self.latencies.len() as f64 * part) as usize;
        self.latencies[at.min(self.latencies.len() - 1)]
    }
}

impl Client {
    /// Opens `connections`; over HTTP/2 half as many, with two streams each.
    pub(crate) async fn connect(port: u16, traffic: &Traffic, connections: usize) -> Result<Self> {
        let mut senders = Vec::new();
        while senders.len() < connections {
            let stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.set_nodelay(true)?;
            let io = TokioIo::new(stream);
            match traffic.sequence.protocol {
                Protocol::Http1 => {
                    let (sender, connection) = http1::handshake(io).await?;
                    tokio::task::spawn_local(connection);
                    senders.push(Sender::Http1(sender));
                }
                Protocol::Http2 => {
                    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                    tokio::task::spawn_local(connection);
                    if connections > 1 {
                        senders.push(Sender::Http2(sender.clone()));
                    }
                    senders.push(Sender::Http2(sender));
                }
            }
        }
        Ok(Self { senders, traffic: traffic.clone(), port })
    }

    /// Sends `count` requests as fast as the answers come, or one each `pace` on every connection.
    pub(crate) async fn run(&mut self, count: usize, pace: Option<Duration>) -> Result<Outcome> {
        let left = Rc::new(Cell::new(count));
        let started = Instant::now();
        let mut tasks = JoinSet::new();
        for mut sender in self.senders.drain(..) {
            let (left, traffic) = (Rc::clone(&left), self.traffic.clone());
            tasks.spawn_local(async move {
                let mut latencies = Vec::new();
                let mut clock = pace.map(interval);
                if let Some(clock) = &mut clock {
                    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
                }
                while left.get() > 0 {
                    left.set(left.get() - 1);
                    if let Some(clock) = &mut clock {
                        clock.tick().await;
                    }
                    let ((request, number), sent) = (traffic.next()?, Instant::now());
                    let status = sender.send(request).await?;
                    if !traffic.expects(status, number) {
                        return Err(format!("was answered {status}").into());
                    }
                    latencies.push(sent.elapsed());
                }
                Result::Ok((sender, latencies))
            });
        }
        let mut latencies = Vec::with_capacity(count);
        while let Some(done) = tasks.join_next().await {
            let (sender, mut seen) = done?.map_err(|error| format!("port {}: {error}", self.port))?;
            self.senders.push(sender);
            latencies.append(&mut seen);
        }
        #[allow(clippy::cast_precision_loss)]
        let throughput = count as f64 / started.elapsed().as_secs_f64();
        latencies.sort_unstable();
        Ok(Outcome { throughput, latencies })
    }
}

/// The body of a GET.
pub(crate) async fn get(address: &str, path: &str) -> Result<Vec<u8>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(TcpStream::connect(address).await?)).await?;
    tokio::task::spawn_local(connection);
    let request = Request::get(path).header("host", address).body(Full::<Bytes>::default())?;
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        return Err(format!("{address}{path} answered {}", response.status()).into());
    }
    Ok(response.into_body().collect().await?.to_bytes().to_vec())
}
