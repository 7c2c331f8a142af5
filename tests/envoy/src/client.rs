use crate::wait::BOUND;
use crate::{Headers, runtime};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

/// The most streams of a burst in one HTTP/2 connection. Envoy's bound is 1024.
const STREAMS: usize = 1000;

/// How a request goes over the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// HTTP/1.1, byte for byte as given: any path, any duplicate.
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// HTTP/2 with `te: trailers` and `content-type: application/grpc`; the body becomes one message.
    Grpc,
}

/// A request that is sent as it is, however odd.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method.
    pub method: String,
    /// Path and query, not touched. A CONNECT request has none.
    pub path: String,
    /// `Host` or `:authority`.
    pub authority: String,
    /// The other headers, in order, duplicates included.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
    /// How it is sent.
    pub protocol: Protocol,
    /// From which address of this machine, if not from any.
    pub source: Option<IpAddr>,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Headers in order, names in lower case.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
    /// Trailers (HTTP/2 only).
    pub trailers: Headers,
    /// The client's port: the access log names it.
    pub client_port: u16,
}

impl Response {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// No answer came.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection failed.
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    /// The answer was no HTTP/1.1.
    #[error("answer: {0}")]
    Answer(String),
    /// HTTP/2 failed, or the request can't be said in it.
    #[error("HTTP/2: {0}")]
    Http2(String),
}

impl Request {
    /// A request without headers or body, over HTTP/1.1.
    pub fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            authority: "service.test".to_owned(),
            headers: Headers::new(),
            body: Vec::new(),
            protocol: Protocol::Http1,
            source: None,
        }
    }

    /// Adds a header; earlier ones of that name stay.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends it over a connection of its own and reads the whole answer.
    pub fn send(&self, to: SocketAddr) -> Result<Response, ClientError> {
        match self.protocol {
            Protocol::Http1 => self.send_http1(to),
            Protocol::Http2 | Protocol::Grpc => runtime().block_on(async {
                tokio::time::timeout(*BOUND, self.send_http2(to))
                    .await
                    .unwrap_or_else(|_| Err(ClientError::Http2("no answer in time".to_owned())))
            }),
        }
    }

    /// Sends it so many times at once, over HTTP/2 connections of a thousand streams each. The statuses of
    /// the answers, in no order.
    pub fn send_at_once(&self, to: SocketAddr, times: usize) -> Result<Vec<u16>, ClientError> {
        self.begin_burst(to, times)?.answers().into_iter().collect()
    }

    /// Sends it so many times at once, and does not wait for the answers.
    pub fn begin_burst(&self, to: SocketAddr, times: usize) -> Result<Burst, ClientError> {
        let odd = |error: &dyn std::fmt::Display| ClientError::Http2(error.to_string());
        let begin = async {
            let mut clients = Vec::with_capacity(times);
            let mut left = times;
            while left > 0 {
                let (sender, connection) = connect(to).await?;
                tokio::spawn(connection);
                let share = left.min(STREAMS);
                left -= share;
                for _ in 0..share {
                    let request = self.http2()?;
                    let mut sender = sender.clone();
                    clients.push(tokio::spawn(async move {
                        let answer = tokio::time::timeout(*BOUND, sender.send_request(request)).await;
                        match answer {
                            Ok(answer) => {
                                answer.map(|answer| answer.status().as_u16()).map_err(|error| odd(&error))
                            }
                            Err(late) => Err(odd(&late)),
                        }
                    }));
                }
            }
            Ok(Burst(clients))
        };
        runtime().block_on(begin)
    }

    async fn connect_from(&self, to: SocketAddr) -> io::Result<tokio::net::TcpStream> {
        let Some(source) = self.source else { return tokio::net::TcpStream::connect(to).await };
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(source, 0))?;
        socket.connect(to).await
    }

    fn send_http1(&self, to: SocketAddr) -> Result<Response, ClientError> {
        let mut stream = runtime().block_on(self.connect_from(to))?.into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(*BOUND))?;
        stream.set_nodelay(true)?;
        let target = if self.method == "CONNECT" { &self.authority } else { &self.path };
        let mut head = format!("{} {target} HTTP/1.1\r\nhost: {}\r\n", self.method, self.authority);
        for (name, value) in &self.headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        if !self.body.is_empty() {
            head.extend(["content-length: ", &self.body.len().to_string(), "\r\n"]);
        }
        head += "\r\n";
        stream.write_all(&[head.as_bytes(), &self.body].concat())?;
        let client_port = stream.local_addr()?.port();
        read_response(&mut BufReader::new(stream), &self.method, client_port)
    }

    async fn send_http2(&self, to: SocketAddr) -> Result<Response, ClientError> {
        let odd = |error: &dyn std::fmt::Display| ClientError::Http2(error.to_string());
        let stream = self.connect_from(to).await?;
        let client_port = stream.local_addr()?.port();
        let (mut sender, connection) = handshake(stream).await?;
        let connection = tokio::spawn(connection);
        let request = self.http2()?;
        let response = sender.send_request(request).await.map_err(|error| odd(&error))?;
        let status = response.status().as_u16();
        let headers = pairs(response.headers());
        let collected = response.into_body().collect().await.map_err(|error| odd(&error))?;
        let trailers = collected.trailers().map(pairs).unwrap_or_default();
        let body = collected.to_bytes().to_vec();
        connection.abort();
        Ok(Response { status, headers, body, trailers, client_port })
    }

    /// As hyper sends it over HTTP/2.
    fn http2(&self) -> Result<hyper::Request<Full<Bytes>>, ClientError> {
        let odd = |error: &dyn std::fmt::Display| ClientError::Http2(error.to_string());
        let mut request = hyper::Request::builder()
            .method(self.method.as_str())
            .uri(format!("http://{}{}", self.authority, self.path));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let mut body = self.body.clone();
        if self.protocol == Protocol::Grpc {
            request = request.header("te", "trailers").header("content-type", "application/grpc");
            let length = u32::try_from(body.len()).map_err(|error| odd(&error))?;
            body = [&[0], &length.to_be_bytes()[..], &body].concat();
        }
        request.body(Full::new(Bytes::from(body))).map_err(|error| odd(&error))
    }
}

/// Requests that are under way.
#[derive(Debug)]
pub struct Burst(Vec<tokio::task::JoinHandle<Result<u16, ClientError>>>);

impl Burst {
    /// One client in so many leaves: its stream is reset. Envoy ends a connection of which 250 are reset in
    /// its first second.
    pub fn leave(&mut self, every: usize) {
        let mut number = 0_usize;
        let leaves = |_: &mut _| {
            number += 1;
            number.is_multiple_of(every)
        };
        for leaving in self.0.extract_if(.., leaves) {
            leaving.abort();
        }
    }

    /// The status that each client got, or why it got none.
    pub fn answers(self) -> Vec<Result<u16, ClientError>> {
        let panicked = |error: tokio::task::JoinError| Err(ClientError::Http2(error.to_string()));
        runtime().block_on(async {
            let mut answers = Vec::with_capacity(self.0.len());
            for client in self.0 {
                answers.push(client.await.unwrap_or_else(panicked));
            }
            answers
        })
    }
}

/// A client's end of an HTTP/2 connection, and what must run for it.
type Http2 = (
    hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    hyper::client::conn::http2::Connection<TokioIo<tokio::net::TcpStream>, Full<Bytes>, TokioExecutor>,
);

async fn connect(to: SocketAddr) -> Result<Http2, ClientError> {
    handshake(tokio::net::TcpStream::connect(to).await?).await
}

async fn handshake(stream: tokio::net::TcpStream) -> Result<Http2, ClientError> {
    hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| ClientError::Http2(error.to_string()))
}

pub(crate) fn pairs(headers: &hyper::HeaderMap) -> Headers {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect()
}

fn read_response(
    stream: &mut BufReader<TcpStream>,
    method: &str,
    client_port: u16,
) -> Result<Response, ClientError> {
    let mut raw = Vec::new();
    while !raw.ends_with(b"\r\n\r\n") {
        if stream.read_until(b'\n', &mut raw)? == 0 {
            return Err(ClientError::Answer("the connection closed before an answer".to_owned()));
        }
    }
    let mut parsed = [httparse::EMPTY_HEADER; 128];
    let mut head = httparse::Response::new(&mut parsed);
    head.parse(&raw).map_err(|error| ClientError::Answer(error.to_string()))?;
    let status = head.code.unwrap_or_default();
    let headers: Headers = head
        .headers
        .iter()
        .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned()))
        .collect();
    if (100..200).contains(&status) {
        return read_response(stream, method, client_port);
    }
    // What follows a good answer to CONNECT is the tunnel.
    let head_only = method == "HEAD" || (method == "CONNECT" && status < 300);
    let body =
        if head_only || matches!(status, 204 | 304) { Vec::new() } else { read_body(stream, &headers)? };
    Ok(Response { status, headers, body, trailers: Headers::new(), client_port })
}

fn read_body(stream: &mut BufReader<TcpStream>, headers: &Headers) -> Result<Vec<u8>, ClientError> {
    let mut body = Vec::new();
    if crate::values(headers, "transfer-encoding").contains(&"chunked") {
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16)
                .map_err(|_| ClientError::Answer(format!("chunk size {line:?}")))?;
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk)?;
            if size == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
    if let Some(length) = crate::values(headers, "content-length").first() {
        let length = length.parse().map_err(|_| ClientError::Answer(format!("content-length {length:?}")))?;
        body.resize(length, 0);
        stream.read_exact(&mut body)?;
    } else {
        stream.read_to_end(&mut body)?;
    }
    Ok(body)
}
