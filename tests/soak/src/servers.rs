//! The servers around the proxy, with their moods.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use envoy::rate_limit::{OK, OVER_LIMIT, RateLimitRequest, RateLimitResponse};
use envoy::{Answer, Received, Server, SpanCollector, values};
use prost::Message;
use serde_json::json;
use soak::judge::Arrival;
use soak::plan::{Fault, user_name};
use tokio::runtime::Handle;

use crate::sockets::SocketServer;
use crate::stage::{Mood, Stage, lock, parameter};

/// The trailer that clients send.
pub(crate) const TRAILER: &str = "x-trailer";

/// All of them. They end with the value.
pub(crate) struct Servers {
    pub(crate) service: Server,
    pub(crate) sockets: SocketServer,
    pub(crate) issuer: Server,
    pub(crate) list: Server,
    pub(crate) limits: Server,
    pub(crate) spans: SpanCollector,
}

impl Servers {
    pub(crate) fn start(stage: &Arc<Stage>, runtime: &Handle) -> io::Result<Self> {
        let on = |handler: fn(&Stage, &Received) -> Answer| {
            let stage = Arc::clone(stage);
            Server::start(move |request| handler(&stage, &request))
        };
        Ok(Self {
            service: on(service)?,
            sockets: SocketServer::start(stage, runtime)?,
            issuer: on(issuer)?,
            list: on(list)?,
            limits: on(limits)?,
            spans: SpanCollector::start()?,
        })
    }
}

/// Notes what came and answers as the path says.
fn service(stage: &Stage, request: &Received) -> Answer {
    let number = |name| parameter(&request.path, name).and_then(|text| text.parse::<u64>().ok());
    let id = number("soak").unwrap_or(0);
    let expected = number("body").unwrap_or(0);
    let trailers = request.trailers.iter().filter(|(name, _)| name == TRAILER).count();
    let trailers = if stage.fault == Some(Fault::TrailersLost) { 0 } else { trailers };
    let arrival = Arrival {
        at: stage.now(),
        path: request.path.clone(),
        headers: request.headers.clone(),
        whole: u64::try_from(request.body.len()).is_ok_and(|length| length == expected)
            && u64::try_from(trailers).is_ok_and(|count| count == number("trailers").unwrap_or(0)),
    };
    stage.note(id, |record| record.arrivals.push(arrival));
    let swallowed = stage.fault == Some(Fault::Swallowed) && id.is_multiple_of(300);
    let delay = Duration::from_millis(number("delay").unwrap_or(0));
    let size = number("size").and_then(|size| usize::try_from(size).ok()).unwrap_or(0);
    Answer {
        headers: vec![("x-served".to_owned(), id.to_string())],
        body: vec![b'x'; size],
        delay: if swallowed { Duration::from_mins(2) } else { delay },
        ..Answer::default()
    }
}

/// The answer in this mood, made of the one when it is well.
fn moody(mood: &Mutex<Mood>, well: Answer) -> Answer {
    match *lock(mood) {
        Mood::Well(delay) | Mood::Stalled(delay) => Answer { delay, ..well },
        Mood::Dead => Answer { hangs_up: true, ..well },
        Mood::Rubbish(kind) => match kind % 5 {
            0 => Answer { status: 500, ..Answer::default() },
            1 => Answer { body: b"<html>Bad gateway</html>".to_vec(), ..Answer::default() },
            2 => Answer { body: well.body[..well.body.len() / 2].to_vec(), ..well },
            3 => Answer { status: 302, headers: vec![("location".to_owned(), "/".to_owned())], ..well },
            _ => Answer { body: vec![b'['; 600 * 1024], ..well },
        },
    }
}

fn issuer(stage: &Stage, _: &Received) -> Answer {
    let names = stage.world().keys.latest().cloned().unwrap_or_default();
    let keys = cases::public_keys(&names).unwrap_or_default();
    moody(&stage.issuer, Answer::json(&keys))
}

fn list(stage: &Stage, _: &Received) -> Answer {
    let users = stage.world().revoked.latest().cloned().unwrap_or_default();
    let users: Vec<_> = users.iter().map(|user| user_name(*user)).collect();
    moody(&stage.list, Answer::json(&json!({ "jti": [], "sub": users, "kid": [] })))
}

/// The rate limit service: users whose names say so are over their limit.
fn limits(stage: &Stage, request: &Received) -> Answer {
    // A compression flag and the length come before a message.
    let asked = RateLimitRequest::decode(request.body.get(5..).unwrap_or_default()).unwrap_or_default();
    let mut entries = asked.descriptors.iter().flat_map(|descriptor| &descriptor.entries);
    let over = entries.any(|entry| entry.value.starts_with("capped-"));
    let response = RateLimitResponse {
        overall_code: if over { OVER_LIMIT } else { OK },
        ..RateLimitResponse::default()
    };
    let message = response.encode_to_vec();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    body.extend(message);
    let well = Answer { body, ..Answer::default() };
    let answer = moody(&stage.limits, well);
    debug_assert!(!values(&request.headers, "content-type").is_empty());
    answer
}
