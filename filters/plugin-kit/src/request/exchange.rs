//! One HTTP exchange as the cores of the filters see it.

use std::cell::{OnceCell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::host::{HostError, RequestHost, Variable};
use crate::request::headers::HeaderMap;

/// One request and its response. Facts are read when they are first asked for, and no more than once.
pub struct Exchange<'a> {
    id: u32,
    facts: &'a dyn RequestHost,
    /// The headers as they came from the host.
    head: OnceCell<HeaderMap>,
    unix_time: OnceCell<Duration>,
    /// `None` where nobody would read them.
    notes: Option<RefCell<Notes>>,
}

/// What the filters of one module have told each other about an exchange.
#[derive(Default)]
struct Notes {
    /// Edits of the head that were made after it was read, in order.
    edits: SmallVec<[HeaderEdit; 2]>,
    /// The head with these edits, where somebody has asked for it.
    edited: Option<Rc<HeaderMap>>,
    published: Published,
}

/// A header's name and its new value; `None` where it was removed.
type HeaderEdit = (Rc<str>, Option<Rc<[u8]>>);

/// What the filters of one module have published for an exchange, by key.
pub type Published = SmallVec<[(Rc<str>, Rc<[u8]>); 2]>;

/// The request headers as the filters before have left them.
pub enum CurrentHeaders<'a> {
    /// Nobody has edited them since they were read.
    Original(&'a HeaderMap),
    /// Somebody has.
    Edited(Rc<HeaderMap>),
}

impl Deref for CurrentHeaders<'_> {
    type Target = HeaderMap;

    fn deref(&self) -> &HeaderMap {
        match self {
            Self::Original(head) => head,
            Self::Edited(head) => head,
        }
    }
}

impl<'a> Exchange<'a> {
    /// The exchange of the stream `id`.
    pub fn new(id: u32, facts: &'a dyn RequestHost) -> Self {
        Self::continued(id, facts, Published::default())
    }

    /// The same in a later callback, with what was published in an earlier one.
    pub fn continued(id: u32, facts: &'a dyn RequestHost, published: Published) -> Self {
        let notes = Notes { published, ..Notes::default() };
        Self { notes: Some(RefCell::new(notes)), ..Self::alone(id, facts) }
    }

    /// The same for a filter that is alone in its module: it does not read what it notes, so nothing is kept.
    pub fn alone(id: u32, facts: &'a dyn RequestHost) -> Self {
        Self { id, facts, head: OnceCell::new(), unix_time: OnceCell::new(), notes: None }
    }

    /// What was published, for the next callback.
    pub fn into_published(self) -> Published {
        self.notes.map(|notes| notes.into_inner().published).unwrap_or_default()
    }

    /// The stream's number in this worker.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// All request headers, as the filters before this one have left them.
    pub fn headers(&self) -> Result<CurrentHeaders<'_>, HostError> {
        let original = if let Some(head) = self.head.get() {
            head
        } else {
            let head = self.facts.headers()?;
            self.head.get_or_init(|| head)
        };
        if let Some(notes) = &self.notes {
            let Notes { edits, edited, .. } = &mut *notes.borrow_mut();
            if !edits.is_empty() {
                let edited = edited.get_or_insert_with(|| Rc::new(with_edits(original, edits)));
                return Ok(CurrentHeaders::Edited(Rc::clone(edited)));
            }
        }
        Ok(CurrentHeaders::Original(original))
    }

    /// The first value of one request header (lower-case name).
    pub fn header_first(&self, name: &str) -> Result<Option<Vec<u8>>, HostError> {
        match self.head.get() {
            Some(head) => Ok(self.edited(name, || head.first(name).map(<[u8]>::to_vec))),
            None => self.facts.header_first(name),
        }
    }

    /// All values of one request header (lower-case name), joined by a comma. Prefer [`Exchange::headers`] where more than
    /// one header is needed.
    pub fn header_joined(&self, name: &str) -> Result<Option<Vec<u8>>, HostError> {
        match self.head.get() {
            Some(head) => Ok(self.edited(name, || head.joined(name))),
            None => self.facts.header_joined(name),
        }
    }

    /// What the last edit of a header has made of it, or else what it was.
    fn edited(&self, name: &str, original: impl FnOnce() -> Option<Vec<u8>>) -> Option<Vec<u8>> {
        if let Some(notes) = &self.notes
            && let Some((_, value)) = notes.borrow().edits.iter().rfind(|(edited, _)| **edited == *name)
        {
            return value.as_deref().map(<[u8]>::to_vec);
        }
        original()
    }

    /// Notes that a filter has replaced every value of a request header (lower-case name) by this one, so that another
    /// filter in the same module sees it. Changing the request itself is the shell's work.
    pub fn note_header(&self, name: impl Into<Rc<str>>, value: impl Into<Rc<[u8]>>) {
        self.note_edit(|| (name.into(), Some(value.into())));
    }

    /// The same as [`Exchange::note_header`] for a header that was removed.
    pub fn note_header_removed(&self, name: impl Into<Rc<str>>) {
        self.note_edit(|| (name.into(), None));
    }

    fn note_edit(&self, edit: impl FnOnce() -> HeaderEdit) {
        // What was not read yet will be read as it is then.
        if let (Some(notes), Some(_)) = (&self.notes, self.head.get()) {
            let mut notes = notes.borrow_mut();
            notes.edits.push(edit());
            notes.edited = None;
        }
    }

    /// An attribute or a filter state of the exchange.
    pub fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, HostError> {
        self.facts.property(path)
    }

    /// The value of a CEL expression, see [`crate::request::cel::Expression::value`].
    pub(crate) fn evaluate(
        &self,
        expression: u32,
        variable: Option<Variable<'_>>,
    ) -> Result<Option<Vec<u8>>, HostError> {
        self.facts.evaluate(expression, variable)
    }

    /// Time since the Unix epoch: one reading for the whole callback.
    pub fn unix_time(&self) -> Result<Duration, HostError> {
        if let Some(now) = self.unix_time.get() {
            return Ok(*now);
        }
        let now = self.facts.unix_time()?;
        Ok(*self.unix_time.get_or_init(|| now))
    }

    /// The same, up to about a second late, and at no cost for most requests.
    pub fn recent_unix_time(&self) -> Result<Duration, HostError> {
        self.unix_time.get().map_or_else(|| self.facts.recent_unix_time(), |now| Ok(*now))
    }

    /// Time on the proxy's monotonic clock, read anew.
    pub fn monotonic_time(&self) -> Result<Duration, HostError> {
        self.facts.monotonic_time()
    }

    /// Notes what a filter has published as filter state under `key`, so that another filter in the same module reads
    /// it without a host call. Writing the filter state itself is the shell's work.
    pub fn note_published(&self, key: impl Into<Rc<str>>, value: impl Into<Rc<[u8]>>) {
        // Of several values of one key the last one counts.
        if let Some(notes) = &self.notes {
            notes.borrow_mut().published.push((key.into(), value.into()));
        }
    }

    /// What a filter before this one has published under `key` (filter state `wasm.<key>`): verified claims
    /// (`jwt.<claim>`), tags, deny codes.
    pub fn published(&self, key: &str) -> Result<Option<Vec<u8>>, HostError> {
        if let Some(notes) = &self.notes
            && let Some((_, value)) = notes.borrow().published.iter().rfind(|(known, _)| **known == *key)
        {
            return Ok(Some(value.to_vec()));
        }
        self.facts.property(&[key])
    }
}

/// The head with these edits made, in order. A header that is set goes to the end.
fn with_edits(head: &HeaderMap, edits: &[HeaderEdit]) -> HeaderMap {
    let untouched =
        head.iter().filter(|(name, _)| !edits.iter().any(|(edited, _)| edited.as_bytes() == *name));
    // Of several edits of one header the last one counts.
    let last =
        |at: usize, name: &str| !edits.iter().skip(at.saturating_add(1)).any(|(later, _)| **later == *name);
    let set = edits.iter().enumerate().filter_map(|(at, (name, value))| {
        let value = value.as_deref().filter(|_| last(at, name))?;
        Some((name.as_bytes(), value))
    });
    HeaderMap::from_pairs(untouched.chain(set))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeHost;

    #[test]
    fn what_a_filter_changes_is_what_the_next_one_sees() {
        let facts = FakeHost::request("GET", "/").header("a", "1").header("a", "2").header("b", "3");
        let exchange = Exchange::new(1, &facts);
        exchange.note_header_removed("b");
        assert_eq!(
            exchange.headers().unwrap().first("b"),
            Some(&b"3"[..]),
            "the host has made this edit itself"
        );
        exchange.note_header("a", *b"4");
        exchange.note_header_removed("b");
        exchange.note_header("c", *b"5");
        exchange.note_header("c", *b"6");
        // One by one, then all at once.
        assert_eq!(exchange.header_joined("a").unwrap().unwrap(), b"4");
        assert_eq!(exchange.header_first("b").unwrap(), None);
        assert_eq!(exchange.header_first("c").unwrap().unwrap(), b"6");
        assert_eq!(exchange.header_joined(":method").unwrap().unwrap(), b"GET");
        let head = exchange.headers().unwrap();
        assert_eq!(head.all("a").collect::<Vec<_>>(), [b"4"]);
        assert_eq!(head.first("b"), None);
        assert_eq!(head.all("c").collect::<Vec<_>>(), [b"6"]);
        assert_eq!(head.method(), b"GET");
        assert_eq!(exchange.header_joined("c").unwrap().unwrap(), b"6");
        exchange.note_header("a", *b"7");
        assert_eq!(exchange.header_first("a").unwrap().unwrap(), b"7");
        assert_eq!(exchange.headers().unwrap().all("a").collect::<Vec<_>>(), [b"7"]);
        assert_eq!(head.first("a"), Some(&b"4"[..]), "who has read it keeps what he has read");
    }

    #[test]
    fn what_a_filter_publishes_is_what_the_next_one_reads() {
        let facts = FakeHost::request("GET", "/").property("jwt.sub", "host");
        let exchange = Exchange::new(1, &facts);
        exchange.note_published("jwt.scope", *b"read");
        assert_eq!(exchange.published("jwt.sub").unwrap().unwrap(), b"host");
        exchange.note_published("jwt.sub", *b"alice");
        exchange.note_published("jwt.sub", *b"bob");
        let later = Exchange::continued(7, &facts, exchange.into_published());
        assert_eq!(later.id(), 7);
        assert_eq!(later.published("jwt.sub").unwrap().unwrap(), b"bob");
        assert_eq!(later.published("jwt.scope").unwrap().unwrap(), b"read");
        assert_eq!(later.published("jwt.other").unwrap(), None);
    }

    #[test]
    fn a_filter_alone_notes_nothing() {
        let facts = FakeHost::request("GET", "/").header("a", "1");
        let exchange = Exchange::alone(1, &facts);
        exchange.headers().unwrap();
        exchange.note_header("a", *b"2");
        exchange.note_header_removed(":method");
        exchange.note_published("jwt.sub", *b"alice");
        assert_eq!(exchange.header_joined("a").unwrap().unwrap(), b"1");
        assert_eq!(exchange.headers().unwrap().method(), b"GET");
        assert!(exchange.into_published().is_empty());
    }
}
