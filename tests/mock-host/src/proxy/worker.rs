//! A worker of the proxy, and the streams that it serves.

use super::Proxy;
use crate::stream::Stream;
use crate::stream::exchange::{Exchange, Request};

impl Proxy {
    /// A worker, counted from 0.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn worker(&self, index: usize) -> Worker {
        assert!(index + 1 < self.inner.threads.borrow().len(), "the proxy has no worker {index}");
        Worker { proxy: self.clone(), thread: index + 1 }
    }
}

/// A worker thread of a proxy.
#[derive(Clone)]
pub struct Worker {
    proxy: Proxy,
    thread: usize,
}

impl Worker {
    /// Sends a request and tells what became of it. Callouts that were answered are delivered; a stream that
    /// still waits after that is given up by the client, and comes back as [`crate::Outcome::Paused`].
    pub fn request(&self, request: Request) -> Exchange {
        self.start(request).exchange()
    }

    /// Sends a request and keeps hold of the stream.
    pub fn start(&self, mut request: Request) -> StreamHandle {
        let inner = &self.proxy.inner;
        let id = inner.next();
        for (name, value) in [
            ("x-forwarded-proto", "http".to_owned()),
            ("x-request-id", format!("00000000-0000-4000-8000-{id:012x}")),
        ] {
            if !request.headers.contains(name) {
                request.headers.add(name, value);
            }
        }
        if inner.edge {
            request.connection.append_forwarded_for(&mut request.headers);
        } else {
            request.connection.trust_forwarded_for(&request.headers);
        }
        let stream = {
            let host = inner.host.borrow();
            Stream::new(request, host.clock.wall(), host.metrics.values())
        };
        inner.start(id, self.thread, stream);
        self.proxy.settle();
        StreamHandle { proxy: self.proxy.clone(), id }
    }
}

/// A stream that may wait. Dropped, its client is gone.
pub struct StreamHandle {
    proxy: Proxy,
    id: u64,
}

impl StreamHandle {
    /// Whether a filter holds it back.
    pub fn is_paused(&self) -> bool {
        self.proxy.inner.with(self.id, |stream| stream.is_paused())
    }

    /// How the exchange stands.
    pub fn exchange(&self) -> Exchange {
        self.proxy.inner.exchange(self.id)
    }

    /// The client leaves.
    pub fn abort(self) -> Exchange {
        self.proxy.inner.reset_stream(self.id);
        self.exchange()
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.proxy.inner.reset_stream(self.id);
            let mut host = self.proxy.inner.host.borrow_mut();
            if host.one_iteration {
                host.dropped.push(self.id);
            } else {
                host.streams.remove(&self.id);
            }
        }
    }
}
