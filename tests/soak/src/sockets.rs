//! Web sockets: a service that greets and sends every frame back, and clients that see to it that no frame is
//! lost.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use soak::judge::{Arrival, Socket};
use soak::plan::{Fault, PROTOCOL};
use soak::random::Random;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::stage::{Stage, parameter};

const BINARY: u8 = 2;
const CLOSE: u8 = 8;
/// The protocol that clients offer beside their token.
pub(crate) const CHAT: &str = "chat";
/// How long a client waits for a frame. One that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// The service behind the proxy for web sockets. It ends with the value.
pub(crate) struct SocketServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for SocketServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SocketServer {
    pub(crate) fn start(stage: &Arc<Stage>, runtime: &Handle) -> io::Result<Self> {
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        let stage = Arc::clone(stage);
        let task = runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let stage = Arc::clone(&stage);
                let service = service_fn(move |request| {
                    let answer = greet(&stage, request);
                    async move { Ok::<_, std::convert::Infallible>(answer) }
                });
                tokio::spawn(async move {
                    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    // A client that went away is no news.
                    let _ = connection.with_upgrades().await;
                });
            }
        });
        Ok(Self { address, task })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Notes a handshake and answers it.
fn greet(stage: &Arc<Stage>, request: Request<Incoming>) -> Response<Empty<Bytes>> {
    let path = request.uri().to_string();
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers = request.headers().iter().map(|(n, v)| (n.to_string(), text(v.as_bytes()))).collect();
    let id = parameter(&path, "soak").and_then(|id| id.parse().ok()).unwrap_or(0);
    let offered = request.headers().contains_key("sec-websocket-protocol");
    let upgrade = request.headers().get("upgrade").is_some_and(|name| name == "websocket");
    let arrival = Arrival { at: stage.now(), path, headers, whole: upgrade };
    stage.note(id, |record| record.arrivals.push(arrival));
    let swallows = stage.fault == Some(Fault::FramesLost);
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            // A client that leaves ends it in any way.
            let _ = echo(upgraded, id, swallows).await;
        }
    });
    let mut response = Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("x-served", id.to_string());
    if offered {
        response = response.header("sec-websocket-protocol", CHAT);
    }
    response.body(Empty::new()).unwrap_or_default()
}

fn greeting(id: u64) -> Vec<u8> {
    format!("greetings, {id}").into_bytes()
}

async fn echo(upgraded: Upgraded, id: u64, swallows: bool) -> io::Result<()> {
    let mut stream = TokioIo::new(upgraded);
    stream.write_all(&frame(BINARY, &greeting(id), false)).await?;
    for count in 1_u32.. {
        let (kind, payload) = read(&mut stream).await?;
        if swallows && count.is_multiple_of(5) {
            continue;
        }
        stream.write_all(&frame(kind, &payload, false)).await?;
        if kind == CLOSE {
            break;
        }
    }
    Ok(())
}

/// The headers of a handshake, with the protocols that are offered: a token may stand among them.
pub(crate) fn handshake(token: Option<&str>, random: &mut Random) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        ("connection", "Upgrade".to_owned()),
        ("upgrade", "websocket".to_owned()),
        ("sec-websocket-version", "13".to_owned()),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".to_owned()),
    ];
    let token = token.map(|token| format!("{PROTOCOL}{token}"));
    let offered = match (token, random.chance(50)) {
        (Some(token), true) => format!("{token}, {CHAT}"),
        (Some(token), false) => format!("{CHAT},{token}"),
        (None, true) => CHAT.to_owned(),
        (None, false) => return headers,
    };
    headers.push(("sec-websocket-protocol", offered));
    headers
}

/// A client's talk over an open web socket, until its time is over or the soak ends.
pub(crate) async fn talk(stage: &Stage, upgraded: Upgraded, id: u64, random: &mut Random) -> Socket {
    let until = stage.now() + random.pick(&[1, 5, 20, 60].map(Duration::from_secs));
    let mut socket = Socket::default();
    let mut stream = TokioIo::new(upgraded);
    let ended = async {
        expect(&mut stream, &greeting(id)).await?;
        while stage.now() < until && !stage.has_ended() {
            let length = if random.chance(10) { random.below(20_000) } else { random.below(100) };
            let payload = vec![b'a' + u8::try_from(socket.sent % 26).unwrap_or(0); length];
            stream.write_all(&frame(BINARY, &payload, true)).await.map_err(|error| error.to_string())?;
            socket.sent += 1;
            expect(&mut stream, &payload).await?;
            socket.back += 1;
            sleep(Duration::from_millis(50 + u64::try_from(random.below(450)).unwrap_or(0))).await;
        }
        // Some clients do not say good-bye.
        if random.chance(75) {
            stream.write_all(&frame(CLOSE, &[], true)).await.map_err(|error| error.to_string())?;
            // The service may end the connection together with its answer.
            let _ = timeout(PATIENCE, read(&mut stream)).await;
        }
        Ok::<_, String>(())
    };
    let ended = ended.await;
    Socket { closed: stage.now(), failure: ended.err(), ..socket }
}

async fn expect(stream: &mut TokioIo<Upgraded>, payload: &[u8]) -> Result<(), String> {
    match timeout(PATIENCE, read(stream)).await {
        Ok(Ok((BINARY, came))) if came == payload => Ok(()),
        Ok(Ok((kind, came))) => Err(format!("another frame came, of kind {kind} and {} bytes", came.len())),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no frame came in time".to_owned()),
    }
}

/// A frame of RFC 6455. What clients send is masked; the mask of zeroes is as good as any.
fn frame(kind: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut frame = vec![0x80 | kind];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ 0..0x7e), _) => frame.push(mask | length),
        (_, Ok(length)) => {
            frame.push(mask | 0x7e);
            frame.extend(length.to_be_bytes());
        }
        _ => {
            frame.push(mask | 0x7f);
            frame.extend(u64::try_from(payload.len()).unwrap_or(u64::MAX).to_be_bytes());
        }
    }
    if masked {
        frame.extend([0; 4]);
    }
    frame.extend(payload);
    frame
}

/// The next frame: its kind and its payload.
async fn read(stream: &mut TokioIo<Upgraded>) -> io::Result<(u8, Vec<u8>)> {
    let (kind, length) = (stream.read_u8().await? & 0x0f, stream.read_u8().await?);
    let masked = length & 0x80 != 0;
    let length = match length & 0x7f {
        0x7e => u64::from(stream.read_u16().await?),
        0x7f => stream.read_u64().await?,
        length => u64::from(length),
    };
    let mask = if masked { stream.read_u32().await? } else { 0 };
    if mask != 0 || length > 1 << 20 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut payload = vec![0; usize::try_from(length).unwrap_or(0)];
    stream.read_exact(&mut payload).await?;
    Ok((kind, payload))
}
