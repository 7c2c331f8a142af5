//! Notes that a decision makes on its way, for an explanation.
//!
//! The cores note each test where they make it, so an explanation cannot differ from the decision. Only the
//! command line has the feature `trace`. Without it, [`note`] does nothing and costs a module nothing.

use std::fmt::Display;

/// One thing that was tested or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What the note is about, such as `rule` or `methods`.
    pub what: &'static str,
    /// Its position in the list of the configuration, if it has one.
    pub index: Option<usize>,
    /// Its name, such as that of a claim or of a header.
    pub name: Option<String>,
    /// Whether the test holds; `None` if that is in doubt, or nothing was tested.
    pub holds: Option<bool>,
    /// The value that was found.
    pub received: Option<String>,
}

impl Note {
    /// A note about this.
    pub fn new(what: &'static str) -> Self {
        Self { what, index: None, name: None, holds: None, received: None }
    }

    /// The same, at this position of a list.
    #[must_use]
    pub fn at(self, index: usize) -> Self {
        Self { index: Some(index), ..self }
    }

    /// The same, with a name.
    #[must_use]
    pub fn named(self, name: impl Display) -> Self {
        Self { name: Some(name.to_string()), ..self }
    }

    /// The same, with the outcome of the test.
    #[must_use]
    pub fn holds(self, holds: impl Into<Option<bool>>) -> Self {
        Self { holds: holds.into(), ..self }
    }

    /// The same, with what was found.
    #[must_use]
    pub fn received(self, received: impl Display) -> Self {
        Self { received: Some(received.to_string()), ..self }
    }

    /// The same, where what was found is bytes, if there are any.
    #[must_use]
    pub fn received_bytes(self, received: Option<&[u8]>) -> Self {
        Self { received: received.map(|bytes| String::from_utf8_lossy(bytes).into_owned()), ..self }
    }
}

#[cfg(feature = "trace")]
mod on {
    use std::cell::RefCell;

    use super::Note;

    thread_local! {
        /// `None` unless somebody collects.
        static NOTES: RefCell<Option<Vec<Note>>> = const { RefCell::new(None) };
    }

    /// Notes something, if somebody collects.
    pub fn note(make: impl FnOnce() -> Note) {
        if NOTES.with_borrow(Option::is_some) {
            let note = make();
            NOTES.with_borrow_mut(|notes| notes.get_or_insert_default().push(note));
        }
    }

    /// Runs something, and returns what was noted meanwhile on this thread.
    pub fn collect<T>(run: impl FnOnce() -> T) -> (T, Vec<Note>) {
        let outer = NOTES.replace(Some(Vec::new()));
        let result = run();
        (result, NOTES.replace(outer).unwrap_or_default())
    }
}

#[cfg(feature = "trace")]
pub use on::{collect, note};

/// Nobody collects.
#[cfg(not(feature = "trace"))]
#[inline(always)]
#[allow(clippy::inline_always, reason = "it is empty, and no call of it may be left in a module")]
pub fn note(_: impl FnOnce() -> Note) {}

#[cfg(all(test, feature = "trace"))]
mod tests {
    use super::*;

    #[test]
    fn notes_are_made_only_while_somebody_collects() {
        note(|| unreachable!("nobody collects"));
        let ((), notes) = collect(|| {
            note(|| Note::new("rule").at(1).holds(false));
            let ((), inner) = collect(|| note(|| Note::new("limit").named("a").received(3)));
            assert_eq!(inner.len(), 1);
            note(|| Note::new("claim").received_bytes(Some(b"x")).holds(None));
        });
        assert_eq!(notes.iter().map(|note| note.what).collect::<Vec<_>>(), ["rule", "claim"]);
        assert_eq!((notes[0].index, notes[0].holds), (Some(1), Some(false)));
        assert_eq!(notes[1].received.as_deref(), Some("x"));
        note(|| unreachable!("nobody collects any more"));
    }
}
