//! The clients: each sends one request after the other in its own manner, with everything that the seed says.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use hyper::upgrade::Upgraded;
use hyper::{HeaderMap, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use soak::judge::{Record, Seen};
use soak::model::{Ask, Credential, Place, Wrong, steady};
use soak::plan::{COOKIE, FIRST_CAPPED, Issuer, KEYS, PATIENT, QUERY, STEADY_KEY, USERS};
use soak::random::Random;
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::servers::TRAILER;
use crate::sockets;
use crate::stage::{Stage, lock};
use crate::wallet::Wallet;

/// How long a client waits for an answer. A request that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a request may go on whose client has left.
const AFTERLIFE: Duration = Duration::from_secs(5);

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Manner {
    /// HTTP/1.1, one request after the other on a connection.
    #[default]
    Http1,
    /// HTTP/2.
    Http2,
    /// gRPC.
    Grpc,
    /// HTTP/1.1; leaves before the answer, now and then.
    Leaver1,
    /// HTTP/2; resets streams.
    Leaver2,
    /// Reads large answers slowly.
    Slow,
    /// HTTP/2 with bodies and trailers.
    Trailers,
    /// Comes back when `Retry-After` says so.
    Patient(usize),
    /// Opens web sockets, and leaves them open for a while.
    Socket,
}

/// Where a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Carrier {
    #[default]
    Header,
    Cookie,
    Query,
    /// Among the protocols of a web socket.
    Protocol,
}

/// The clients of the steady traffic.
pub(crate) const MANNERS: [Manner; 28] = [
    Manner::Http1,
    Manner::Http1,
    Manner::Http1,
    Manner::Http1,
    Manner::Http1,
    Manner::Http1,
    Manner::Http2,
    Manner::Http2,
    Manner::Http2,
    Manner::Http2,
    Manner::Http2,
    Manner::Grpc,
    Manner::Grpc,
    Manner::Leaver1,
    Manner::Leaver1,
    Manner::Leaver2,
    Manner::Leaver2,
    Manner::Slow,
    Manner::Trailers,
    Manner::Trailers,
    Manner::Patient(0),
    Manner::Patient(1),
    Manner::Socket,
    Manner::Socket,
    Manner::Socket,
    Manner::Socket,
    Manner::Socket,
    Manner::Socket,
];

/// Where clients send to and what they have.
#[derive(Debug, Clone)]
pub(crate) struct Crowd {
    pub(crate) stage: Arc<Stage>,
    pub(crate) wallet: Arc<Wallet>,
    pub(crate) proxy: SocketAddr,
}

type Body = BoxBody<Bytes, Infallible>;
type Error = Box<dyn std::error::Error + Send + Sync>;

enum Link {
    Http1(http1::SendRequest<Body>, JoinHandle<()>),
    Http2(http2::SendRequest<Body>, JoinHandle<()>),
}

impl Drop for Link {
    fn drop(&mut self) {
        let (Self::Http1(_, task) | Self::Http2(_, task)) = self;
        task.abort();
    }
}

impl Link {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender, _) => sender.is_closed(),
            Self::Http2(sender, _) => sender.is_closed(),
        }
    }

    async fn open(to: SocketAddr, http2: bool) -> Result<Self, Error> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        Ok(if http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            Self::Http2(sender, tokio::spawn(async move { drop(connection.await) }))
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            Self::Http1(sender, tokio::spawn(async move { drop(connection.with_upgrades().await) }))
        })
    }
}

/// What is sent, beyond what the model must know of it.
#[derive(Debug, Clone, Copy, Default)]
struct Shape {
    manner: Manner,
    carrier: Carrier,
    spoofs: bool,
    fresh: bool,
    body: usize,
    size: usize,
    delay: usize,
    promised: bool,
    leaves_after: Option<Duration>,
}

impl Crowd {
    /// One client of the steady traffic, until the end of the soak.
    pub(crate) async fn walk(self, manner: Manner, part: u64, pause: Duration) {
        let mut random = Random::of(self.stage.seed, part);
        let mut link = None;
        let mut promised = false;
        while !self.stage.has_ended() {
            let (ask, mut shape) = self.next(manner, &mut random);
            shape.promised = promised;
            let http2 =
                !matches!(manner, Manner::Http1 | Manner::Leaver1 | Manner::Patient(_) | Manner::Socket);
            if link.as_ref().is_none_or(Link::is_closed) {
                // Where the proxy takes no connections the request has none, and is lost.
                link = Link::open(self.proxy, http2).await.ok();
            }
            let (id, left) = (ask.id, shape.leaves_after.is_some());
            let whole = self.exchange(&mut link, ask, shape, &mut random).await;
            // A connection of its own for the next, now and then.
            if !whole || (left && !http2) || manner == Manner::Socket || random.chance(2) {
                link = None;
            }
            promised = false;
            let mut wait =
                pause.mul_f64(0.2 + f64::from(u32::try_from(random.below(1600)).unwrap_or(0)) / 1000.0);
            if matches!(manner, Manner::Patient(_)) {
                let retry = self.stage.open().get(&id).and_then(|record| record.seen.as_ref()?.retry_after);
                promised = retry.is_some();
                wait = retry.map_or(Duration::from_millis(100), Duration::from_secs);
            }
            sleep(wait).await;
        }
    }

    /// Many requests at once over few connections, and all of their answers.
    pub(crate) async fn burst(&self, kind: BurstKind, count: usize, connections: usize, part: u64) {
        let mut random = Random::of(self.stage.seed, part);
        let mut opened = Vec::new();
        for _ in 0..connections.max(1) {
            opened.extend(Link::open(self.proxy, true).await.ok());
        }
        let mut tasks = JoinSet::new();
        for n in 0..count {
            let Some(Link::Http2(sender, _)) = opened.get(n % opened.len().max(1)) else { return };
            let (crowd, sender, mut own) = (self.clone(), sender.clone(), Random::of(random.number(), 1));
            let (place, credential) = kind.request(&crowd.stage, n, &mut own);
            let ask = self.ask(place, credential);
            let shape = Shape { manner: Manner::Http2, spoofs: own.chance(10), ..Shape::default() };
            tasks.spawn(async move {
                let idle = tokio::spawn(async {});
                let mut link = Some(Link::Http2(sender, idle));
                crowd.exchange(&mut link, ask, shape, &mut own).await;
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    fn ask(&self, place: Place, credential: Credential) -> Ask {
        let now = self.stage.now();
        Ask { id: self.stage.number(), place, credential, sent: now, done: now, epoch: self.stage.epoch }
    }

    /// What the client asks next.
    fn next(&self, manner: Manner, random: &mut Random) -> (Ask, Shape) {
        let mut shape = Shape {
            manner,
            spoofs: random.chance(30),
            fresh: random.chance(10),
            delay: if random.chance(5) { random.below(200) } else { 0 },
            size: if random.chance(20) { random.below(20_000) } else { 0 },
            body: if random.chance(15) { random.below(60_000) } else { 0 },
            carrier: if random.chance(15) {
                random.pick(&[Carrier::Cookie, Carrier::Query])
            } else {
                Carrier::Header
            },
            ..Shape::default()
        };
        match manner {
            Manner::Patient(n) => {
                return (self.ask(Place::Patient, steady(PATIENT.start + n)), Shape::default());
            }
            Manner::Leaver1 | Manner::Leaver2 => {
                shape.leaves_after =
                    Some(Duration::from_millis(u64::try_from(random.below(60)).unwrap_or(0)));
                shape.delay = random.below(100);
            }
            Manner::Slow => shape.size = 300_000,
            Manner::Trailers => shape.body = random.below(60_000),
            Manner::Socket => {
                use Carrier::{Cookie, Header, Protocol, Query};
                let carrier = random.pick(&[Header, Cookie, Query, Protocol]);
                let shape = Shape { manner, carrier, spoofs: shape.spoofs, ..Shape::default() };
                return (self.ask(Place::Socket, credential(Place::Socket, random)), shape);
            }
            _ => {}
        }
        let place = random.pick(&[
            Place::Api,
            Place::Api,
            Place::Api,
            Place::Free,
            Place::Free,
            Place::Public,
            Place::Admin,
            Place::Admin,
            Place::Closed,
            Place::Gate,
            Place::Gate,
            Place::Global,
            Place::Global,
        ]);
        (self.ask(place, credential(place, random)), shape)
    }

    /// Sends a request and notes what came back; whether the connection is good for another.
    async fn exchange(
        &self,
        link: &mut Option<Link>,
        mut ask: Ask,
        shape: Shape,
        random: &mut Random,
    ) -> bool {
        let Ok(token) = self.wallet.token(ask.credential, shape.fresh, random) else { return true };
        let http1 = matches!(link, Some(Link::Http1(..)) | None);
        let Ok(request) = self.compose(&ask, shape, &token, http1, random) else { return true };
        ask.sent = self.stage.now();
        let (id, sent) = (ask.id, ask.sent);
        let secret = token.rsplit_once('.').map(|(_, signature)| signature.to_owned());
        let secret = secret.filter(|secret| secret.len() >= 32);
        let record = Record {
            // Until the answer is there.
            ask: Ask { done: Duration::MAX, ..ask },
            gave_up: false,
            grpc: shape.manner == Manner::Grpc,
            promised: shape.promised,
            secret,
            failure: None,
            seen: None,
            socket: None,
            arrivals: Vec::new(),
            logged: None,
            span: None,
        };
        self.stage.open().insert(id, record);
        let patience = shape.leaves_after.unwrap_or(PATIENCE);
        let answer = match link.as_mut() {
            Some(link) => timeout(patience, answer(link, request, shape)).await.ok(),
            None => Some(Err("no connection".into())),
        };
        let done = self.stage.now();
        let gave_up = answer.is_none() && shape.leaves_after.is_some();
        let whole = matches!(answer, Some(Ok(_)));
        let failure = match &answer {
            Some(Err(error)) => Some(error.to_string()),
            None if !gave_up => Some("no answer in time".to_owned()),
            _ => None,
        };
        if matches!(&answer, Some(Err(error)) if was_not_sent(&**error)) {
            // The proxy has closed the connection meanwhile, as it may between two requests.
            self.stage.open().remove(&id);
            return false;
        }
        let (seen, upgraded) = answer.and_then(Result::ok).unzip();
        let socket = match upgraded.flatten() {
            Some(upgraded) => {
                let early = seen.clone();
                self.stage.note(id, |record| record.seen = early);
                Some(sockets::talk(&self.stage, upgraded, id, random).await)
            }
            None => None,
        };
        self.stage.note(id, |record| {
            // A busy proxy may read the request of a client that has left long after.
            record.ask.done = if gave_up { done + AFTERLIFE } else { done };
            record.gave_up = gave_up;
            record.failure = failure;
            record.seen = seen;
            record.socket = socket;
        });
        if whole {
            lock(&self.stage.latencies).push((sent, done.saturating_sub(sent)));
        }
        whole || (gave_up && !http1)
    }

    fn compose(
        &self,
        ask: &Ask,
        shape: Shape,
        token: &str,
        http1: bool,
        random: &mut Random,
    ) -> Result<Request<Body>, Error> {
        let framed = if shape.manner == Manner::Grpc { shape.body + 5 } else { shape.body };
        let carrier = if ask.credential == Credential::None { Carrier::Header } else { shape.carrier };
        let mut path = format!(
            "{}{}?soak={}&body={framed}&size={}&delay={}",
            ask.place.prefix(),
            random.below(10),
            ask.id,
            shape.size,
            shape.delay
        );
        if shape.manner == Manner::Trailers {
            path += "&trailers=1";
        }
        if carrier == Carrier::Query {
            path.extend(["&", QUERY, "=", token]);
        }
        let method = if framed > 0 { "POST" } else { "GET" };
        let mut request = Request::builder().method(method);
        request = if http1 {
            request.uri(path).header("host", "service.test")
        } else {
            request.uri(format!("http://service.test{path}"))
        };
        let header = ask.credential != Credential::None && carrier == Carrier::Header;
        let twice = ask.credential == Credential::Wrong(Wrong::Twice);
        for _ in 0..usize::from(header) + usize::from(twice) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if carrier == Carrier::Cookie {
            request = request.header("cookie", format!("a=1; {COOKIE}={token}; b=2"));
        }
        if shape.manner == Manner::Socket {
            let token = (carrier == Carrier::Protocol).then_some(token);
            for (name, value) in sockets::handshake(token, random) {
                request = request.header(name, value);
            }
        }
        if shape.spoofs {
            let version =
                self.stage.world().versions.last().map_or(0, |delivered| delivered.settings.version);
            for _ in 0..=random.below(3) {
                let name = random.pick(&["x-user-id", "x_user_id", "x-user_id", "x_user-id"]);
                request = request.header(name, "spoof");
            }
            request = request.header(format!("x-pass-v{version}"), "spoof");
            request = request.header(format!("x_pass_v{version}"), "spoof");
            request = request.header("x-claimed", "spoof");
        }
        let mut body = vec![b'b'; shape.body];
        if shape.manner == Manner::Grpc {
            request = request.header("te", "trailers").header("content-type", "application/grpc");
            let length = u32::try_from(body.len())?.to_be_bytes();
            body.splice(0..0, [&[0][..], &length].concat());
        }
        let body = Full::new(Bytes::from(body));
        let body = if shape.manner == Manner::Trailers {
            let mut trailers = HeaderMap::new();
            trailers.insert(TRAILER, "1".parse()?);
            body.with_trailers(std::future::ready(Some(Ok(trailers)))).boxed()
        } else {
            body.boxed()
        };
        Ok(request.body(body)?)
    }
}

/// What a client shows.
fn credential(place: Place, random: &mut Random) -> Credential {
    // Few users have most of the requests.
    let user = if random.chance(50) { random.below(3) } else { random.below(PATIENT.start) };
    let user = if place == Place::Global && random.chance(30) {
        FIRST_CAPPED + random.below(USERS - FIRST_CAPPED)
    } else {
        user
    };
    match random.below(100) {
        0..=7 => Credential::None,
        8..=27 => Credential::Wrong(random.pick(&Wrong::ALL)),
        28..=30 => Credential::UnknownKid(random.pick(&[Issuer::Inline, Issuer::Remote])),
        31..=33 => {
            // The same token comes again and again, so that it is in a cache when it ends.
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
            let at = (now / 8 + 1) * 8 + if random.chance(50) { 0 } else { 8 };
            Credential::Ending { user: user % 3, at: at.saturating_sub(4) }
        }
        34..=59 => Credential::Good { issuer: Issuer::Remote, key: random.pick(&KEYS), user },
        60..=74 => Credential::Good { issuer: Issuer::Listed, key: random.pick(&KEYS), user },
        75..=84 => steady(user),
        _ => Credential::Good { issuer: Issuer::Inline, key: random.pick(&KEYS), user },
    }
}

/// The requests of a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BurstKind {
    /// Key IDs that the issuer does not have.
    UnknownKids,
    /// Good tokens of an issuer whose keys may be missing, of few users.
    RemoteKeys,
    /// Good tokens of an issuer whose list of revoked subjects may be missing.
    Listed,
    /// Requests that the rate limit service is asked about.
    Global,
    /// Good tokens, nothing to wait for.
    Ready,
}

impl BurstKind {
    fn request(self, stage: &Stage, n: usize, random: &mut Random) -> (Place, Credential) {
        let user = n % 8;
        match self {
            Self::UnknownKids => (Place::Free, Credential::UnknownKid(Issuer::Remote)),
            Self::RemoteKeys => {
                let keys = stage.world().keys.latest().cloned().unwrap_or_default();
                let key = keys.get(random.below(keys.len())).copied().unwrap_or(STEADY_KEY);
                (
                    random.pick(&[Place::Api, Place::Free]),
                    Credential::Good { issuer: Issuer::Remote, key, user },
                )
            }
            Self::Listed => {
                let issuer = Issuer::Listed;
                (random.pick(&[Place::Api, Place::Free]), Credential::Good { issuer, key: STEADY_KEY, user })
            }
            Self::Global => (Place::Global, steady(if n.is_multiple_of(4) { FIRST_CAPPED } else { user })),
            Self::Ready => (random.pick(&[Place::Api, Place::Gate]), steady(user)),
        }
    }
}

fn was_not_sent(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<hyper::Error>().is_some_and(|error| error.is_canceled() || error.is_closed())
}

/// Sends a request and reads all of its answer, or what it has opened.
async fn answer(
    link: &mut Link,
    request: Request<Body>,
    shape: Shape,
) -> Result<(Seen, Option<Upgraded>), Error> {
    let mut response = match link {
        Link::Http1(sender, _) => {
            sender.ready().await?;
            sender.send_request(request).await?
        }
        Link::Http2(sender, _) => sender.send_request(request).await?,
    };
    let upgraded = match response.status().as_u16() {
        101 => Some(hyper::upgrade::on(&mut response).await?),
        _ => None,
    };
    let (head, mut body) = response.into_parts();
    let (mut length, mut trailers) = (0, HeaderMap::new());
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        match frame.into_data() {
            Ok(data) => length += data.len(),
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
        if shape.manner == Manner::Slow {
            sleep(Duration::from_millis(20)).await;
        }
    }
    let number = |name: &str| {
        let value = head.headers.get(name).or_else(|| trailers.get(name))?;
        value.to_str().ok()?.parse::<u64>().ok()
    };
    let denied_by =
        head.headers.keys().find_map(|name| name.as_str().strip_prefix("x-denied-v")?.parse().ok());
    let served = number("x-served");
    // What says how a call of gRPC went comes behind the message.
    let told = shape.manner != Manner::Grpc || served.is_none() || trailers.contains_key("grpc-status");
    let seen = Seen {
        status: head.status.as_u16(),
        grpc_status: number("grpc-status").and_then(|status| u16::try_from(status).ok()),
        retry_after: number("retry-after"),
        denied_by,
        served,
        whole: length == shape.size && told,
    };
    Ok((seen, upgraded))
}
