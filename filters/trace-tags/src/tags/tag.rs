//! A tag: its name, the sources of its value, and how the value is shown.

use std::borrow::Cow;

use plugin_kit::host::HostError;
use plugin_kit::request::exchange::Exchange;
use plugin_kit::request::source::{HeaderReads, Source};

use crate::tags::pseudonym::Pseudonym;
use crate::tags::request_id::RequestId;
use crate::tags::text::{Characters, sanitised};
use crate::tags::when::When;

/// A tag as it is configured.
#[derive(Debug, Clone)]
pub struct Tag {
    key: String,
    sources: Vec<Source>,
    style: Style,
    when: When,
}

/// How a value is shown.
#[derive(Debug, Clone)]
pub enum Style {
    /// As a pseudonym.
    Pseudonym(Pseudonym),
    /// As text, without characters that can break a log or a span, and cut to a length.
    Text {
        /// The characters that may stay.
        characters: Characters,
        /// The greatest length, in characters.
        max_length: usize,
    },
}

/// A value that was found in the request, and the rank of its source in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate<'a> {
    rank: usize,
    value: Cow<'a, [u8]>,
}

impl Candidate<'_> {
    /// The same candidate, for a later phase.
    pub fn into_owned(self) -> Candidate<'static> {
        Candidate { rank: self.rank, value: self.value.into_owned().into() }
    }
}

/// The phase of a stream in which the last of a tag's sources is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The request arrives.
    Request,
    /// The filters that publish claims have run.
    Claims,
    /// The response passes.
    Response,
}

const KEY_PREFIX: &str = "tag.";

impl Tag {
    /// Makes the tag `name`. The first of the `sources` that has a value gives it.
    pub fn new(name: &str, sources: Vec<Source>, style: Style, when: When) -> Self {
        Self { key: format!("{KEY_PREFIX}{name}"), sources, style, when }
    }

    /// When the tag is written.
    pub fn when(&self) -> When {
        self.when
    }

    /// The key of its filter state, which Envoy prefixes with `wasm.`.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.key.strip_prefix(KEY_PREFIX).unwrap_or(&self.key)
    }

    /// Which headers the tag reads.
    pub fn head_use(&self) -> HeaderReads {
        self.sources.iter().map(Source::head_use).fold(HeaderReads::Nothing, HeaderReads::and)
    }

    /// Whether the tag shows the request ID, or is written for a share of requests, which the ID chooses.
    pub fn needs_request_id(&self) -> bool {
        self.when.share.is_some() || self.sources.iter().any(|source| matches!(source, Source::RequestId))
    }

    /// The phase in which the tag can be written, given what was found in the request.
    pub fn phase(&self, candidate: Option<&Candidate<'_>>) -> Phase {
        if self.when.status_from.is_some() {
            return Phase::Response;
        }
        self.late(candidate)
            .map(|source| if matches!(source, Source::Claim(_)) { Phase::Claims } else { Phase::Response })
            .max()
            .unwrap_or(Phase::Request)
    }

    /// The first value that the request itself has.
    pub fn in_request(
        &self,
        exchange: &Exchange<'_>,
        request_id: Option<&RequestId>,
    ) -> Result<Option<Candidate<'_>>, HostError> {
        for (rank, source) in self.sources.iter().enumerate() {
            let value = match source {
                Source::RequestId => request_id.map(|id| id.as_bytes().to_vec().into()),
                source if source.is_late() => None,
                source => source.value(exchange)?,
            };
            if let Some(value) = value {
                return Ok(Some(Candidate { rank, value }));
            }
        }
        Ok(None)
    }

    /// The value as it is shown, once all sources are known: that of the first source that has one, the
    /// candidate included.
    pub fn settled<'a>(
        &'a self,
        exchange: &Exchange<'_>,
        candidate: Option<Candidate<'a>>,
    ) -> Result<Option<Cow<'a, [u8]>>, HostError> {
        for source in self.late(candidate.as_ref()) {
            if let Some(value) = source.value(exchange)? {
                return Ok(Some(self.shown(value)));
            }
        }
        Ok(candidate.map(|candidate| self.shown(candidate.value)))
    }

    /// The candidate as it is shown if no earlier source has a value.
    pub fn shown_candidate(&self, candidate: &Candidate<'_>) -> Cow<'static, [u8]> {
        self.shown(Cow::Borrowed(&candidate.value)).into_owned().into()
    }

    /// The sources before the candidate whose values the request itself does not have.
    fn late(&self, candidate: Option<&Candidate<'_>>) -> impl Iterator<Item = &Source> {
        let before = candidate.map_or(usize::MAX, |candidate| candidate.rank);
        self.sources.iter().take(before).filter(|source| source.is_late())
    }

    fn shown<'a>(&self, value: Cow<'a, [u8]>) -> Cow<'a, [u8]> {
        match &self.style {
            Style::Pseudonym(pseudonym) => pseudonym.of(&value).into_bytes().into(),
            Style::Text { characters, max_length } => sanitised(value, *characters, *max_length),
        }
    }
}
