//! One HTTP exchange as the cores of the filters see it.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crate::head::Head;

/// A host call that did not do what it should. Filters fail closed on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("host call {call} answered status {status}")]
pub struct HostError {
    /// The ABI function without its `proxy_` prefix.
    pub call: &'static str,
    /// The status of the Proxy-Wasm ABI, or [`HostError::MALFORMED`].
    pub status: u32,
}

impl HostError {
    /// Stands for an answer that was OK, with bytes that are not what the ABI says.
    pub const MALFORMED: u32 = u32::MAX;
}

/// Where the facts of an exchange come from: the host in a proxy, a table in a test.
///
/// Every call here costs (with Envoy about 11,000 to 20,000 instructions where it returns data), so cores ask through
/// [`Exchange`], which asks once.
pub trait Facts {
    /// All request headers.
    fn head(&self) -> Result<Head, HostError>;
    /// All values of one request header, joined by a comma; cheaper than [`Facts::head`] where one header is all that
    /// is needed, and a duplicate still shows.
    fn header_joined(&self, name: &str) -> Result<Option<Vec<u8>>, HostError>;
    /// An attribute or a filter state of the exchange; `None` where there is none.
    fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, HostError>;
    /// Time since the Unix epoch.
    fn unix_time(&self) -> Result<Duration, HostError>;
    /// Time on a clock that only runs forward and that all workers of the proxy share. Its zero means nothing.
    fn monotonic_time(&self) -> Result<Duration, HostError>;
}

/// One request and its response. Facts are read when they are first asked for, and no more than once.
pub struct Exchange<'a> {
    id: u32,
    facts: &'a dyn Facts,
    head: OnceCell<Rc<Head>>,
    unix_time: OnceCell<Duration>,
    published: RefCell<Published>,
}

/// What the filters of one module have published for an exchange, by key.
pub type Published = Vec<(String, Vec<u8>)>;

impl<'a> Exchange<'a> {
    /// The exchange of the stream `id`.
    pub fn new(id: u32, facts: &'a dyn Facts) -> Self {
        Self::continued(id, facts, Published::default())
    }

    /// The same in a later callback, with what was published in an earlier one.
    pub fn continued(id: u32, facts: &'a dyn Facts, published: Published) -> Self {
        let published = RefCell::new(published);
        Self { id, facts, head: OnceCell::new(), unix_time: OnceCell::new(), published }
    }

    /// What was published, for the next callback.
    pub fn into_published(self) -> Published {
        self.published.into_inner()
    }

    /// The stream's number in this worker.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// All request headers.
    pub fn head(&self) -> Result<Rc<Head>, HostError> {
        if let Some(head) = self.head.get() {
            return Ok(Rc::clone(head));
        }
        let head = Rc::new(self.facts.head()?);
        Ok(Rc::clone(self.head.get_or_init(|| head)))
    }

    /// All values of one request header (lower-case name), joined by a comma. Prefer [`Exchange::head`] where more than
    /// one header is needed.
    pub fn header_joined(&self, name: &str) -> Result<Option<Vec<u8>>, HostError> {
        let Some(head) = self.head.get() else { return self.facts.header_joined(name) };
        let values: Vec<&[u8]> = head.all(name).collect();
        Ok(if values.is_empty() { None } else { Some(values.join(&b","[..])) })
    }

    /// An attribute or a filter state of the exchange.
    pub fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, HostError> {
        self.facts.property(path)
    }

    /// Time since the Unix epoch: one reading for the whole callback.
    pub fn unix_time(&self) -> Result<Duration, HostError> {
        if let Some(now) = self.unix_time.get() {
            return Ok(*now);
        }
        let now = self.facts.unix_time()?;
        Ok(*self.unix_time.get_or_init(|| now))
    }

    /// Time on the proxy's monotonic clock, read anew.
    pub fn monotonic_time(&self) -> Result<Duration, HostError> {
        self.facts.monotonic_time()
    }

    /// Notes what a filter has published as filter state under `key`, so that another filter in the same module reads
    /// it without a host call. Writing the filter state itself is the shell's work.
    pub fn note_published(&self, key: &str, value: &[u8]) {
        let mut published = self.published.borrow_mut();
        match published.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value.to_vec(),
            None => published.push((key.to_owned(), value.to_vec())),
        }
    }

    /// What a filter before this one has published under `key` (filter state `wasm.<key>`): verified claims
    /// (`jwt.<claim>`), tags, deny codes.
    pub fn published(&self, key: &str) -> Result<Option<Vec<u8>>, HostError> {
        let noted = self.published.borrow().iter().find(|(known, _)| known == key).map(|(_, v)| v.clone());
        match noted {
            Some(value) => Ok(Some(value)),
            None => self.facts.property(&[key]),
        }
    }
}
