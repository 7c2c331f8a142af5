//! The decision: which tags a request has, when each is written, and which baggage goes on with the request.
//!
//! The shell calls [`Core::on_request`], [`Core::on_claims`] (in a filter that verifies claims too),
//! [`Core::on_response`] and [`Core::on_end`], one for each phase of a stream, and carries out the
//! [`Effects`] that they return.

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use plugin_kit::host::HostError;
use plugin_kit::request::exchange::Exchange;
use plugin_kit::request::source::HeaderReads;
use plugin_kit::trace::{self, Note};
use smallvec::SmallVec;

use crate::config::Config;
use crate::tags::request_id::{Origin, RequestId};
use crate::tags::tag::{Candidate, Phase, Tag};
use crate::tags::{baggage, request_id};

/// What is known about one stream.
#[derive(Debug, Default)]
pub struct Stream {
    seen: bool,
    request_id: Option<RequestId>,
    /// The tags that a later source may still change, or that wait for the response.
    waiting: SmallVec<[Waiting; 2]>,
    /// The names and values of written tags that go on as baggage.
    sent: Vec<(String, Vec<u8>)>,
}

#[derive(Debug)]
struct Waiting {
    /// The index of the tag in the configuration.
    tag: usize,
    /// The value that the tag gets if no earlier source has one.
    candidate: Option<Candidate<'static>>,
}

/// A key of filter state and its value.
pub type Written<'a> = (&'a str, Cow<'a, [u8]>);

/// What the shell does for a stream, and what it counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects<'a> {
    /// The filter state to write.
    pub tags: SmallVec<[Written<'a>; 4]>,
    /// The request ID to set on the request, instead of its own.
    pub request_header: Option<RequestId>,
    /// What happens to the request's baggage.
    pub baggage: Change,
    /// The request ID to set on the response.
    pub response_header: Option<RequestId>,
    /// Where the request ID comes from.
    pub origin: Option<Origin>,
    /// The number of tags that ended without a value.
    pub missing: u32,
    /// The host calls that failed. The tags that needed them are missing, and the request goes on.
    pub failures: Vec<HostError>,
}

/// What happens to a header.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum Change {
    /// The header stays as it is.
    #[default]
    None,
    /// The header is set to this value.
    Set(String),
    /// The header is removed.
    Remove,
}

/// The filter without a host.
#[derive(Debug)]
pub struct Core {
    config: Config,
}

impl Core {
    /// A filter with this configuration.
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// What it was made from.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether a tag or the request ID comes from a header.
    pub fn reads_headers(&self) -> bool {
        self.config.head_use != HeaderReads::Nothing
    }

    /// Handles the request as it arrives. Does nothing for a stream that was handled already.
    pub fn on_request(
        &self,
        stream: &mut Stream,
        exchange: &Exchange<'_>,
        random: impl FnOnce() -> Result<u128, HostError>,
    ) -> Effects<'_> {
        let mut effects = Effects::default();
        if std::mem::replace(&mut stream.seen, true) {
            return effects;
        }
        if let Err(failure) = self.config.head_use.prepare(exchange) {
            effects.failures.push(failure);
        }
        if self.config.request_id.is_some() {
            let header = exchange.header_joined(request_id::HEADER);
            match header.and_then(|header| RequestId::of(header, random)) {
                Ok((id, origin)) => {
                    if origin != Origin::Kept {
                        effects.request_header = Some(id.clone());
                    }
                    effects.origin = Some(origin);
                    stream.request_id = Some(id);
                }
                Err(failure) => effects.failures.push(failure),
            }
        }
        for (position, tag) in self.config.tags.iter().enumerate() {
            let is_written = tag.when().has(stream.request_id.as_ref());
            trace::note(|| Note::new("tag").at(position).named(tag.name()).holds(is_written));
            if !is_written {
                continue;
            }
            let candidate = tag.in_request(exchange, stream.request_id.as_ref()).unwrap_or_else(|failure| {
                effects.failures.push(failure);
                None
            });
            if tag.phase(candidate.as_ref()) > Phase::Request {
                let candidate = candidate.map(Candidate::into_owned);
                stream.waiting.push(Waiting { tag: position, candidate });
            } else {
                self.settle(tag, candidate, exchange, &mut stream.sent, &mut effects);
            }
        }
        effects
    }

    /// Adds the values that the request alone gives to tags that later sources may still change, for streams
    /// that end early.
    pub fn known_so_far<'a>(&'a self, stream: &Stream, effects: &mut Effects<'a>) {
        let known = stream.waiting.iter().filter_map(|waiting| {
            let tag = self.config.tags.get(waiting.tag).filter(|tag| tag.when().status_from.is_none())?;
            Some((tag.key(), tag.shown_candidate(waiting.candidate.as_ref()?)))
        });
        effects.tags.extend(known);
    }

    /// Writes the tags that depend on claims, when the filters that verify claims have run.
    pub fn on_claims(&self, stream: &mut Stream, exchange: &Exchange<'_>) -> Effects<'_> {
        let mut effects = Effects::default();
        self.settle_all(stream, exchange, Phase::Claims, None, &mut effects);
        effects
    }

    /// Decides which baggage the request takes to the service.
    pub fn on_pass(&self, stream: &Stream, exchange: &Exchange<'_>, effects: &mut Effects<'_>) {
        let Some(baggage) = &self.config.baggage else { return };
        let tags = stream.sent.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        let incoming = exchange.header_joined(baggage::HEADER).unwrap_or_else(|failure| {
            effects.failures.push(failure);
            // Baggage that cannot be read must not go on.
            Some(Vec::new())
        });
        let outgoing = baggage.outgoing(incoming.as_deref().unwrap_or_default(), tags);
        effects.baggage = match (incoming, outgoing) {
            (None, None) => Change::None,
            (Some(incoming), Some(outgoing)) if incoming == outgoing.as_bytes() => Change::None,
            (_, Some(outgoing)) => Change::Set(outgoing),
            (Some(_), None) => Change::Remove,
        };
    }

    /// Whether a tag depends on the response's status.
    pub fn reads_status(&self) -> bool {
        self.config.tags.iter().any(|tag| tag.when().status_from.is_some())
    }

    /// Writes the tags that depend on the response. `status` is the status of the response, if a tag depends
    /// on it.
    pub fn on_response(
        &self,
        stream: &mut Stream,
        exchange: &Exchange<'_>,
        status: Option<u16>,
    ) -> Effects<'_> {
        let mut effects = Effects::default();
        self.settle_all(stream, exchange, Phase::Response, status, &mut effects);
        if self.config.request_id.is_some_and(|ids| ids.echo) {
            effects.response_header.clone_from(&stream.request_id);
        }
        effects
    }

    /// Whether anything remains to be done for a stream when its request has gone on.
    pub fn keeps(&self, stream: &Stream) -> bool {
        self.config.request_id.is_some_and(|ids| ids.echo) || !stream.waiting.is_empty()
    }

    /// Writes the tags that still wait when the stream ends. None does if there was a response.
    pub fn on_end(&self, stream: &mut Stream, exchange: &Exchange<'_>) -> Effects<'_> {
        let mut effects = Effects::default();
        self.settle_all(stream, exchange, Phase::Response, None, &mut effects);
        effects
    }

    /// Writes the tags whose phase has come.
    fn settle_all<'a>(
        &'a self,
        stream: &mut Stream,
        exchange: &Exchange<'_>,
        now: Phase,
        status: Option<u16>,
        effects: &mut Effects<'a>,
    ) {
        let Stream { waiting, sent, .. } = stream;
        waiting.retain_mut(|waiting| {
            let Some(tag) = self.config.tags.get(waiting.tag) else { return false };
            if tag.phase(waiting.candidate.as_ref()) > now {
                return true;
            }
            if tag.when().allows(status) {
                self.settle(tag, waiting.candidate.take(), exchange, sent, effects);
            }
            false
        });
    }

    /// Writes a tag that nothing can change any more.
    fn settle<'a>(
        &'a self,
        tag: &'a Tag,
        candidate: Option<Candidate<'a>>,
        exchange: &Exchange<'_>,
        sent: &mut Vec<(String, Vec<u8>)>,
        effects: &mut Effects<'a>,
    ) {
        match tag.settled(exchange, candidate) {
            Ok(Some(value)) => {
                if self.config.baggage.as_ref().is_some_and(|baggage| baggage.sends(tag.name())) {
                    sent.push((tag.name().to_owned(), value.to_vec()));
                }
                effects.tags.push((tag.key(), value));
            }
            Ok(None) => effects.missing = effects.missing.saturating_add(1),
            Err(failure) => {
                effects.missing = effects.missing.saturating_add(1);
                effects.failures.push(failure);
            }
        }
    }
}
