//! Which requests a limit counts, and which are exempt.

use std::cell::OnceCell;

use plugin_kit::host::HostError;
use plugin_kit::request::claim::ClaimValues;
use plugin_kit::request::exchange::{CurrentHeaders, Exchange};
use plugin_kit::request::matcher::{Request, RequestMatch};
use plugin_kit::request::path::{PathCase, Readings};
use plugin_kit::trace::{self, Note};

use crate::config::Selector;

/// What a test answers where it has no certain result: a path may have several readings or none, a claim may
/// not be comparable, and a CEL expression may have no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// The test holds. Of several readings of a path, one is enough.
    Yes,
    /// The test does not hold. Every reading of a path must match.
    No,
}

/// The request as selectors see it. Each part is read when the first selector needs it, and once for all of
/// them.
pub(super) struct RequestView<'a> {
    pub(super) exchange: &'a Exchange<'a>,
    pub(super) path_case: PathCase,
    /// Outside, since `request` borrows from it.
    pub(super) headers: &'a OnceCell<CurrentHeaders<'a>>,
    pub(super) request: OnceCell<Request<'a>>,
    pub(super) readings: OnceCell<Readings<'a>>,
}

impl<'a> RequestView<'a> {
    fn request(&self) -> Result<&Request<'a>, HostError> {
        let headers = if let Some(headers) = self.headers.get() {
            headers
        } else {
            let headers = self.exchange.headers()?;
            self.headers.get_or_init(|| headers)
        };
        Ok(self.request.get_or_init(|| Request::of(headers)))
    }

    /// Whether the selector matches the request.
    pub(super) fn matches(&self, selector: &Selector, doubt: Doubt) -> Result<bool, HostError> {
        for (key, test) in &selector.claims {
            let value = self.exchange.published(key)?;
            let claim = ClaimValues::published(value.as_deref(), *key == SCOPE);
            let holds = test.decides_claim(&claim);
            trace::note(|| Note::new("claims").named(key).holds(holds).received_bytes(value.as_deref()));
            if !holds.unwrap_or(doubt == Doubt::Yes) {
                return Ok(false);
            }
        }
        if !self.request_matches(&selector.request, &selector.any_path, doubt)? {
            return Ok(false);
        }
        // The expression comes last because it costs most. It has no value if, for instance, a header that it
        // reads is missing.
        match selector.when {
            Some(when) => {
                let holds = when.holds(self.exchange, None)?;
                trace::note(|| Note::new("when").holds(holds));
                Ok(holds.unwrap_or(doubt == Doubt::Yes))
            }
            None => Ok(true),
        }
    }

    fn request_matches(
        &self,
        test: &RequestMatch,
        any_path: &RequestMatch,
        doubt: Doubt,
    ) -> Result<bool, HostError> {
        if test.is_always() {
            return Ok(true);
        }
        let request = self.request()?;
        // A regular expression, for one, has no result in a callback that does not belong to the request.
        let matches = |test: &RequestMatch, reading: &[u8]| {
            let holds = test.matches(self.exchange, request, reading)?;
            Ok(holds.unwrap_or(doubt == Doubt::Yes))
        };
        if !test.reads_path() {
            return matches(test, b"");
        }
        match self.readings.get_or_init(|| Readings::of(request.target, self.path_case)) {
            Readings::One(reading) => matches(test, reading),
            Readings::Several(readings) => {
                for reading in readings {
                    let holds = matches(test, reading)?;
                    if holds == (doubt == Doubt::Yes) {
                        return Ok(holds);
                    }
                }
                Ok(doubt == Doubt::No)
            }
            Readings::None => Ok(doubt == Doubt::Yes && matches(any_path, b"")?),
        }
    }
}

/// The claim that is a list of words (RFC 8693), as in jwt-auth.
const SCOPE: &str = "jwt.scope";
