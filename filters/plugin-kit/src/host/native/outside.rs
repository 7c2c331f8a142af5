//! Calls to other services. The main thread makes them, for all workers: a call of a worker would end with the stream that made it,
//! and the proxy lets only the main thread make one that belongs to a configuration.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::calls::monotonic_time;
use super::config::{Mailbox, Shared, lock};
use super::ffi::config::{MainThread, Message};
use crate::host::{GrpcFailure, HostError, NOT_SENT};
use crate::request::headers::HeaderMap;

/// The outcome of a call, for a thread.
pub(super) enum Delivery {
    /// Of an HTTP call.
    Http(u32, Arc<Answer>),
    /// Of a gRPC call: its message, or why there is none.
    Grpc(u32, Result<Vec<u8>, GrpcFailure>),
}

/// The outcome of an HTTP call.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The headers; `None` if no response came.
    pub(super) head: Option<HeaderMap>,
    /// At most [`LARGEST`] bytes of the body.
    pub(super) body: Vec<u8>,
    /// The length of the whole body.
    pub(super) size: usize,
    /// Why the call was not sent.
    pub(super) not_sent: Option<HostError>,
}

/// What a call has brought, for the threads that did not make it.
#[derive(Clone)]
pub(super) struct News {
    /// The call.
    pub(super) message: Arc<Message>,
    /// Its outcome.
    pub(super) answer: Arc<Answer>,
    /// When it came.
    pub(super) at: Duration,
    /// Later news have higher numbers.
    pub(super) number: u64,
    /// How often the call has failed in a row, with this time.
    pub(super) failures: u32,
    /// Who has it by mail: the threads that made the call.
    told: Vec<u64>,
}

/// The most of a body that is copied. No filter takes more.
pub(super) const LARGEST: usize = 1 << 20;

/// Who hears the outcome of a call.
pub(super) struct Caller {
    /// Of the calling thread.
    pub(super) mailbox: Arc<Mailbox>,
    /// The call's number there.
    pub(super) token: u32,
}

/// What kind of call it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A request and its response.
    Http,
    /// A message and its answer.
    Grpc,
}

/// The calls of a configuration.
#[derive(Default)]
pub(super) struct Outside {
    queue: Vec<(Kind, Message, Caller)>,
    /// HTTP calls under way, by the proxy's number. Calls for the same are one call.
    http: HashMap<u64, (Message, Vec<Caller>)>,
    grpc: HashMap<u64, Parts>,
    /// The latest good response to each call, and the latest failure if that is newer.
    news: Vec<News>,
}

/// A configuration fetches fewer documents.
const MOST_NEWS: usize = 128;

/// A gRPC call under way.
#[derive(Default)]
struct Parts {
    /// `None` while the proxy has not yet said that the call has begun.
    caller: Option<Caller>,
    body: Vec<u8>,
    too_long: bool,
    http_status: Option<u32>,
    grpc_status: Option<u32>,
    /// `grpc-message`.
    said: String,
    /// It was cut off.
    reset: bool,
    ended: bool,
}

/// gRPC statuses.
mod status {
    pub(super) const OK: u32 = 0;
    pub(super) const UNKNOWN: u32 = 2;
    pub(super) const PERMISSION_DENIED: u32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: u32 = 8;
    pub(super) const UNIMPLEMENTED: u32 = 12;
    pub(super) const INTERNAL: u32 = 13;
    pub(super) const UNAVAILABLE: u32 = 14;
    pub(super) const UNAUTHENTICATED: u32 = 16;
}

/// Leaves a call to the main thread.
pub(super) fn ask(config: &Shared, kind: Kind, message: Message, caller: Caller) {
    lock(&config.outside).queue.push((kind, message, caller));
    config.wake_main();
}

/// Starts the calls that were left to the main thread.
pub(super) fn start(config: &Shared, main: MainThread) {
    let queue = std::mem::take(&mut lock(&config.outside).queue);
    for (kind, message, caller) in queue {
        match kind {
            Kind::Http => start_http(config, main, message, caller),
            Kind::Grpc => start_grpc(config, main, &message, caller),
        }
    }
}

fn start_http(config: &Shared, main: MainThread, message: Message, caller: Caller) {
    if let Some((_, callers)) = lock(&config.outside).http.values_mut().find(|(known, _)| *known == message) {
        callers.push(caller);
        return;
    }
    // Not under the lock: the proxy may answer within the call.
    match config.handle.call(main, Kind::Http, &message) {
        Ok(id) => drop(lock(&config.outside).http.insert(id, (message, vec![caller]))),
        Err(error) => {
            let answer = Answer { not_sent: Some(error), ..Answer::default() };
            caller.mailbox.put(Delivery::Http(caller.token, Arc::new(answer)));
        }
    }
}

/// An HTTP call has ended.
pub(super) fn http_done(config: &Shared, id: u64, answer: Answer) {
    let mut outside = lock(&config.outside);
    let Some((message, callers)) = outside.http.remove(&id) else { return };
    let answer = Arc::new(answer);
    let good = answer.head.as_ref().is_some_and(|head| head.first(":status") == Some(b"200"));
    let before =
        outside.news.iter().filter(|known| *known.message == message).map(|known| known.failures).max();
    let failures = if good { 0 } else { before.unwrap_or(0).saturating_add(1) };
    outside.news.retain(|known| *known.message != message || (known.failures == 0 && !good));
    // The answer to a question with a body is for those that have asked it.
    if message.body.is_empty() && outside.news.len() < MOST_NEWS {
        outside.news.push(News {
            message: Arc::new(message),
            answer: Arc::clone(&answer),
            at: monotonic_time().unwrap_or_default(),
            number: config.news.fetch_add(1, Ordering::AcqRel).saturating_add(1),
            failures,
            told: callers.iter().map(|caller| caller.mailbox.id).collect(),
        });
    }
    drop(outside);
    for caller in callers {
        caller.mailbox.put(Delivery::Http(caller.token, Arc::clone(&answer)));
    }
    config.wake_waiting();
}

fn start_grpc(config: &Shared, main: MainThread, message: &Message, caller: Caller) {
    let id = config.handle.call(main, Kind::Grpc, message);
    let mut outside = lock(&config.outside);
    let Ok(id) = id else {
        // What was heard of a call that did not begin.
        outside.grpc.retain(|_, parts| parts.caller.is_some());
        drop(outside);
        let failure = GrpcFailure { status: NOT_SENT, ..GrpcFailure::default() };
        caller.mailbox.put(Delivery::Grpc(caller.token, Err(failure)));
        return;
    };
    let parts = outside.grpc.entry(id).or_default();
    parts.caller = Some(caller);
    let ended = parts.ended;
    drop(outside);
    if ended {
        grpc_done(config, id);
    }
}

/// The headers of a response, or its trailers.
pub(super) fn grpc_headers(config: &Shared, id: u64, headers: &HeaderMap) {
    let number = |name: &str| std::str::from_utf8(headers.first(name)?).ok()?.parse().ok();
    let mut outside = lock(&config.outside);
    let parts = outside.grpc.entry(id).or_default();
    parts.http_status = number(":status").or(parts.http_status);
    // A status that is no number is none that anybody knows.
    let grpc_status = headers.first("grpc-status").map(|_| number("grpc-status").unwrap_or(status::UNKNOWN));
    parts.grpc_status = grpc_status.or(parts.grpc_status);
    if let Some(said) = headers.first("grpc-message") {
        parts.said = String::from_utf8_lossy(said).into_owned();
    }
}

/// A part of the body of a response.
pub(super) fn grpc_data<'a>(config: &Shared, id: u64, chunks: impl Iterator<Item = &'a [u8]>) {
    let mut outside = lock(&config.outside);
    let parts = outside.grpc.entry(id).or_default();
    for chunk in chunks {
        if parts.body.len().saturating_add(chunk.len()) > LARGEST {
            parts.too_long = true;
            parts.body = Vec::new();
        } else if !parts.too_long {
            parts.body.extend_from_slice(chunk);
        }
    }
}

/// What a thread has not heard of: news with higher numbers than `heard`, but not of its own calls.
pub(super) fn news(config: &Shared, heard: u64, mailbox: &Mailbox) -> Vec<News> {
    let outside = lock(&config.outside);
    let new = |news: &&News| news.number > heard && !news.told.contains(&mailbox.id);
    outside.news.iter().filter(new).cloned().collect()
}

/// A call has ended, whole or not.
pub(super) fn grpc_end(config: &Shared, id: u64, whole: bool) {
    let mut outside = lock(&config.outside);
    let parts = outside.grpc.entry(id).or_default();
    parts.ended = true;
    parts.reset = !whole;
    let known = parts.caller.is_some();
    drop(outside);
    if known {
        grpc_done(config, id);
    }
}

fn grpc_done(config: &Shared, id: u64) {
    let Some(parts) = lock(&config.outside).grpc.remove(&id) else { return };
    let answer = parts.outcome();
    if let Some(caller) = parts.caller {
        caller.mailbox.put(Delivery::Grpc(caller.token, answer));
    }
}

impl Parts {
    /// The message, or why there is none.
    fn outcome(&self) -> Result<Vec<u8>, GrpcFailure> {
        let failure = |status| GrpcFailure { status, said: self.said.clone(), cut_off: self.reset };
        self.answer().map_err(failure)
    }

    /// The message, or the status, as Envoy's own gRPC client has it.
    fn answer(&self) -> Result<Vec<u8>, u32> {
        match (self.grpc_status, self.http_status) {
            _ if self.reset => Err(status::UNAVAILABLE),
            (Some(status::OK), Some(200)) => self.message(),
            (Some(status), _) if status != status::OK => Err(status),
            (_, Some(400)) => Err(status::INTERNAL),
            (_, Some(401)) => Err(status::UNAUTHENTICATED),
            (_, Some(403)) => Err(status::PERMISSION_DENIED),
            (_, Some(404)) => Err(status::UNIMPLEMENTED),
            (_, None | Some(429 | 502 | 503 | 504)) => Err(status::UNAVAILABLE),
            _ => Err(status::UNKNOWN),
        }
    }

    /// The one message of the body: a byte that says whether it is compressed, its length, and the bytes.
    fn message(&self) -> Result<Vec<u8>, u32> {
        if self.too_long {
            return Err(status::RESOURCE_EXHAUSTED);
        }
        match self.body.split_first_chunk() {
            Some(([0, a, b, c, d], message))
                if usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])) == Ok(message.len()) =>
            {
                Ok(message.to_vec())
            }
            _ => Err(status::INTERNAL),
        }
    }
}

/// A message as the body of a gRPC call.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0], &length[..], message].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(http: u32, grpc: Option<u32>, body: &[u8]) -> Result<Vec<u8>, u32> {
        let (http_status, body) = (Some(http), body.to_vec());
        Parts { http_status, grpc_status: grpc, body, ..Parts::default() }.answer()
    }

    #[test]
    fn an_answer_is_one_whole_message() {
        assert_eq!(outcome(200, Some(0), &framed(b"answer")), Ok(b"answer".to_vec()));
        assert_eq!(outcome(200, Some(0), &framed(b"")), Ok(Vec::new()));
        let (whole, compressed) = (framed(b"answer"), [&[1][..], &framed(b"answer")[1..]].concat());
        for wrong in [&b""[..], &whole[..4], &whole[..8], &[&whole[..], b"x"].concat(), &compressed] {
            assert_eq!(outcome(200, Some(0), wrong), Err(status::INTERNAL), "{wrong:?}");
        }
        let long = Parts { too_long: true, http_status: Some(200), grpc_status: Some(0), ..Parts::default() };
        assert_eq!(long.answer(), Err(status::RESOURCE_EXHAUSTED));
    }

    #[test]
    fn a_failure_has_the_status_of_the_answer() {
        let body = framed(b"answer");
        assert_eq!(outcome(200, Some(7), &body), Err(7));
        assert_eq!(outcome(503, Some(4), &body), Err(4));
        assert_eq!(outcome(200, None, &body), Err(status::UNKNOWN));
        assert_eq!(outcome(503, None, &body), Err(status::UNAVAILABLE));
        assert_eq!(outcome(404, Some(0), &body), Err(status::UNIMPLEMENTED));
        let reset =
            Parts { reset: true, http_status: Some(200), grpc_status: Some(0), body, ..Parts::default() };
        let cut_off = GrpcFailure { status: status::UNAVAILABLE, said: String::new(), cut_off: true };
        assert_eq!(reset.outcome(), Err(cut_off));
        let said = "upstream request timeout".to_owned();
        let proxy = Parts { grpc_status: Some(14), said: said.clone(), ..Parts::default() };
        assert_eq!(proxy.outcome(), Err(GrpcFailure { status: 14, said, cut_off: false }));
    }
}
