//! The requests that wait for a document, and how many may.

use crate::fetch::documents::Document;

/// The streams that wait, and the streams that were woken and have not run yet: both take a place.
#[derive(Debug)]
pub struct Waiting {
    most: usize,
    queued: Vec<(Document, u32)>,
    woken: Vec<u32>,
    /// Whether all places were looked through since the last tick.
    searched: bool,
}

/// Whether there is a place for one more stream.
#[derive(Debug, PartialEq, Eq)]
pub enum WaitingPlace {
    /// There is a place.
    Free,
    /// All places are taken.
    None,
    /// All places are taken, unless one of these streams is gone. To find that out costs a host call for each
    /// stream, so it is done at most once a tick.
    Suspects(Vec<u32>),
}

impl Waiting {
    /// No streams, and places for `most` of them.
    pub fn new(most: usize) -> Self {
        Self { most, queued: Vec::new(), woken: Vec::new(), searched: false }
    }

    /// Whether there is a place for one more stream.
    pub fn place(&mut self) -> WaitingPlace {
        let streams = self.queued.iter().map(|(_, stream)| stream).chain(&self.woken);
        if streams.clone().count() < self.most {
            WaitingPlace::Free
        } else if std::mem::replace(&mut self.searched, true) {
            WaitingPlace::None
        } else {
            WaitingPlace::Suspects(streams.copied().collect())
        }
    }

    /// A stream waits for a document.
    pub fn enter(&mut self, document: Document, stream: u32) {
        self.queued.push((document, stream));
    }

    /// Wakes the streams that wait for this document, in the order in which they came. Each keeps its place
    /// until it runs or is found to be gone, see [`Waiting::leave`].
    pub fn wake(&mut self, document: Document) -> Vec<u32> {
        let woken = self.queued.extract_if(.., |(waits_for, _)| *waits_for == document);
        let woken: Vec<u32> = woken.map(|(_, stream)| stream).collect();
        self.woken.extend(&woken);
        woken
    }

    /// A stream that was woken runs now, or is gone.
    pub fn leave(&mut self, stream: u32) {
        // Streams run in the order in which they were woken, so this one is the first or near it.
        if let Some(position) = self.woken.iter().position(|woken| *woken == stream) {
            self.woken.remove(position);
        }
    }

    /// These streams are gone.
    pub fn leave_all(&mut self, gone: &[u32]) {
        self.queued.retain(|(_, stream)| !gone.contains(stream));
        self.woken.retain(|stream| !gone.contains(stream));
    }

    /// To be called about once a second: streams that are gone may be looked for again.
    pub fn tick(&mut self) {
        self.searched = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: Document = Document::Keys(0);
    const LIST: Document = Document::Revoked(0);

    fn waiting() -> Waiting {
        let mut waiting = Waiting::new(3);
        for (document, stream) in [(KEYS, 7), (LIST, 8), (KEYS, 9)] {
            assert_eq!(waiting.place(), WaitingPlace::Free);
            waiting.enter(document, stream);
        }
        waiting
    }

    #[test]
    fn streams_are_woken_in_order_of_arrival() {
        let mut waiting = waiting();
        assert_eq!(waiting.wake(KEYS), [7, 9]);
        assert!(waiting.wake(KEYS).is_empty());
        assert_eq!(waiting.wake(LIST), [8]);
    }

    #[test]
    fn woken_stream_keeps_its_place_until_it_runs() {
        let mut waiting = waiting();
        waiting.wake(KEYS);
        assert_ne!(waiting.place(), WaitingPlace::Free);
        waiting.leave(9);
        assert_eq!(waiting.place(), WaitingPlace::Free);
        waiting.enter(LIST, 10);
        assert_ne!(waiting.place(), WaitingPlace::Free);
    }

    #[test]
    fn gone_streams_free_their_places_once_a_tick() {
        let mut waiting = waiting();
        waiting.wake(LIST);
        assert_eq!(waiting.place(), WaitingPlace::Suspects(vec![7, 9, 8]));
        assert_eq!(waiting.place(), WaitingPlace::None);
        waiting.tick();
        assert_eq!(waiting.place(), WaitingPlace::Suspects(vec![7, 9, 8]));
        waiting.leave_all(&[9, 8]);
        assert_eq!(waiting.place(), WaitingPlace::Free);
        assert_eq!(waiting.wake(KEYS), [7]);
    }

    #[test]
    fn limit_of_zero_has_no_place() {
        assert_eq!(Waiting::new(0).place(), WaitingPlace::Suspects(vec![]));
    }
}
