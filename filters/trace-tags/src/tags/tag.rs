//! A tag: its name, where its value comes from, and how the value is shown.

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
    /// Under a pseudonym.
    Pseudonym(Pseudonym),
    /// As it is, without what can break a log or a span, and cut to a length.
    Text {
        /// The characters that may stay.
        characters: Characters,
        /// In characters.
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
    /// The same, for later.
    pub fn into_owned(self) -> Candidate<'static> {
        Candidate { rank: self.rank, value: self.value.into_owned().into() }
    }
}

/// When the last of a tag's sources is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// As the request comes in.
    Request,
    /// When the filters that publish claims have run.
    Claims,
    /// When the response passes.
    Response,
}

const KEY_PREFIX: &str = "tag.";

impl Tag {
    /// The tag `name`; the first of the `sources` that has a value gives it.
    pub fn new(name: &str, sources: Vec<Source>, style: Style, when: When) -> Self {
        Self { key: format!("{KEY_PREFIX}{name}"), sources, style, when }
    }

    /// When it is written.
    pub fn when(&self) -> When {
        self.when
    }

    /// The key of its filter state: Envoy puts `wasm.` in front.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.key.strip_prefix(KEY_PREFIX).unwrap_or(&self.key)
    }

    /// What it reads of the request's head.
    pub fn head_use(&self) -> HeaderReads {
        self.sources.iter().map(Source::head_use).fold(HeaderReads::Nothing, HeaderReads::and)
    }

    /// Whether it shows the request ID or is chosen by it.
    pub fn needs_request_id(&self) -> bool {
        self.when.share.is_some() || self.sources.iter().any(|source| matches!(source, Source::RequestId))
    }

    /// When the tag can be settled, given what was found in the request.
    pub fn phase(&self, candidate: Option<&Candidate<'_>>) -> Phase {
        if self.when.status_from.is_some() {
            return Phase::Response;
        }
        self.late(candidate)
            .map(|source| if matches!(source, Source::Claim(_)) { Phase::Claims } else { Phase::Response })
            .max()
            .unwrap_or(Phase::Request)
    }

    /// The first value that the request itself gives.
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

    /// The value as it is to be shown, when all is known that will be: of the first source that has one, the candidate
    /// in its place.
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

    /// The candidate as it is to be shown, should nothing better be found.
    pub fn shown_candidate(&self, candidate: &Candidate<'_>) -> Cow<'static, [u8]> {
        self.shown(Cow::Borrowed(&candidate.value)).into_owned().into()
    }

    /// The sources that come before the candidate and that the request does not settle.
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
