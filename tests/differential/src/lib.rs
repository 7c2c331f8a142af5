//! The same requests on every host: [`Generator`] makes configurations and requests, the hosts decide, [`compare()`] says in what they
//! differ, and [`shrink`] takes away what has nothing to do with it.
//!
//! [`MockHost`] and [`CommandLine`] are hosts of cases; a real Envoy is in the crate `cases`.
#![allow(clippy::restriction)]

mod command_line;
mod compare;
mod generate;
mod mock;
pub mod shrink;
mod words;

use envoy::{Headers, Protocol, Request};

pub use command_line::CommandLine;
pub use compare::{Difference, compare};
pub use generate::Generator;
pub use mock::MockHost;

/// A request's headers as Envoy's connection manager has them. A client of HTTP/2 may send a cookie in several pieces, which Envoy's
/// codec puts together (RFC 9113, section 8.2.3).
fn arrived(request: &Request) -> Headers {
    let mut headers = request.headers.clone();
    if request.protocol != Protocol::Http1 {
        let pieces = headers.extract_if(.., |(name, _)| name == "cookie").map(|(_, piece)| piece);
        let cookie =
            pieces.reduce(|cookie, piece| if cookie.is_empty() { piece } else { cookie + "; " + &piece });
        headers.extend(cookie.map(|cookie| ("cookie".to_owned(), cookie)));
    }
    headers
}
