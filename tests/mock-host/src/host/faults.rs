//! Faults: any host call can answer any status, or garbage, at any moment.

use crate::vm::abi::Status;

/// A rule that spoils host calls. Rules are tried in the order in which they were added; the first that
/// matches acts.
///
/// ```
/// use mock_host::{Fault, Status};
/// let every_property_is_missing = Fault::on("proxy_get_property").status(Status::NOT_FOUND);
/// let second_get_is_cut = Fault::on("proxy_get_shared_data").nth(2).truncate(3);
/// let anything_while_logging = Fault::on_any().during("proxy_on_log").status(Status::BAD_ARGUMENT);
/// ```
#[derive(Debug, Clone)]
pub struct Fault {
    call: Option<String>,
    callback: Option<String>,
    nth: Option<u64>,
    effect: Effect,
    seen: u64,
}

/// What a fault does to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The call does nothing and answers this.
    Status(Status),
    /// The call works, but the bytes that it returns are these.
    Replace(Vec<u8>),
    /// The call works, but only this many of its bytes are returned.
    Truncate(usize),
}

impl Fault {
    /// A fault of one host call, by its import name, such as `proxy_get_property`. Until told more it answers
    /// `INTERNAL_FAILURE`, always. A WASI function can only be made to answer a status.
    pub fn on(call: &str) -> Self {
        Self {
            call: Some(call.to_owned()),
            callback: None,
            nth: None,
            effect: Effect::Status(Status::INTERNAL_FAILURE),
            seen: 0,
        }
    }

    /// A fault of every `proxy_*` host call.
    pub fn on_any() -> Self {
        Self { call: None, ..Self::on("") }
    }

    /// Only while this callback runs, by its export name, such as `proxy_on_log`.
    #[must_use]
    pub fn during(mut self, callback: &str) -> Self {
        self.callback = Some(callback.to_owned());
        self
    }

    /// Only the `nth` matching call, counted from 1.
    #[must_use]
    pub fn nth(mut self, nth: u64) -> Self {
        self.nth = Some(nth);
        self
    }

    /// The call does nothing and answers `status`.
    #[must_use]
    pub fn status(mut self, status: Status) -> Self {
        self.effect = Effect::Status(status);
        self
    }

    /// The call succeeds, but returns these bytes.
    #[must_use]
    pub fn replace(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.effect = Effect::Replace(bytes.into());
        self
    }

    /// The call succeeds, but returns at most `length` bytes.
    #[must_use]
    pub fn truncate(mut self, length: usize) -> Self {
        self.effect = Effect::Truncate(length);
        self
    }

    fn strikes(&mut self, call: &str, callback: &str) -> bool {
        let matches = self.call.as_ref().map_or(call.starts_with("proxy_"), |name| name == call)
            && self.callback.as_ref().is_none_or(|name| name == callback);
        if !matches {
            return false;
        }
        self.seen += 1;
        self.nth.is_none_or(|nth| nth == self.seen)
    }
}

/// The faults of a proxy.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    rules: Vec<Fault>,
}

impl Faults {
    pub(crate) fn add(&mut self, fault: Fault) {
        self.rules.push(fault);
    }

    pub(crate) fn clear(&mut self) {
        self.rules.clear();
    }

    pub(crate) fn strike(&mut self, call: &str, callback: &str) -> Option<Effect> {
        self.rules.iter_mut().find_map(|rule| rule.strikes(call, callback).then(|| rule.effect.clone()))
    }
}
