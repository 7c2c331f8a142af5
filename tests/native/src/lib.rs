//! A native module whose filter panics where it is told to.
#![allow(clippy::restriction)]

use plugin_kit::config::{ConfigErrors, Diagnostic};
use plugin_kit::host::{Filter, Flow, http_call};
use plugin_kit::request::exchange::Exchange;
use serde_json::Value;
use std::cell::RefCell;
use std::time::Duration;

/// The header `x-panic` says where: in `request`, in `response`, at the `end`, in the `call` for whose outcome the request waits, when
/// it runs `again` after that, or when the filter is asked whether it `keeps` the stream.
pub struct Panicking {
    root: u32,
    waiting: RefCell<Vec<(u32, String)>>,
}

impl Filter for Panicking {
    const NAME: &'static str = "panicking";
    type Stream = String;

    fn configure(configuration: &Value, root: u32) -> Result<Self, ConfigErrors> {
        match configuration["configure"].as_str() {
            Some("panic") => panic!("a secret"),
            Some(_) => Err(Diagnostic::invalid("configure", "expected `panic`".to_owned()).into()),
            None => Ok(Self { root, waiting: RefCell::default() }),
        }
    }

    fn on_request(&self, stream: &mut String, exchange: &Exchange<'_>) -> Flow {
        let place = exchange.header_first("x-panic").unwrap().unwrap_or_default();
        *stream = String::from_utf8(place).unwrap();
        match stream.as_str() {
            "request" => panic!("a secret"),
            "again" if self.waiting.borrow_mut().pop().is_some() => panic!("a secret"),
            "again" | "call" => {
                let headers = [(":method", "GET"), (":path", "/call"), (":authority", "a")];
                let timeout = Duration::from_secs(5);
                http_call(self.root, exchange.id(), "service", &headers, b"", timeout).unwrap();
                self.waiting.borrow_mut().push((exchange.id(), stream.clone()));
                Flow::Pause
            }
            _ => Flow::Continue,
        }
    }

    fn keeps(&self, stream: &String) -> bool {
        assert_ne!(stream, "keeps", "a secret");
        true
    }

    fn on_response(&self, stream: &mut String, _: &Exchange<'_>) {
        assert_ne!(stream, "response", "a secret");
    }

    fn on_end(&self, stream: &mut String, _: &Exchange<'_>) {
        assert_ne!(stream, "end", "a secret");
    }

    fn on_call(&self, _: u32, _: &plugin_kit::host::CallResponse) -> Vec<u32> {
        let waiting = self.waiting.borrow();
        assert!(waiting.iter().all(|(_, place)| place == "again"), "a secret");
        waiting.iter().map(|(stream, _)| *stream).collect()
    }
}

plugin_kit::native_module!(Panicking);
