//! W3C Baggage (Candidate Recommendation of 2024-05): names and values that travel with a request from service to
//! service.
//!
//! A service that calls others copies the header `baggage` from the request that it serves to those that it makes. So
//! what a proxy lets in at the edge goes everywhere, and so does what it adds.

use std::fmt::Write;

use plugin_kit::request::source::baggage_members;

/// The header that carries it.
pub const HEADER: &str = "baggage";

/// The least that every platform must propagate: more may be lost on the way, so more is not sent.
const MAX_MEMBERS: usize = 64;
const MAX_LENGTH: usize = 8192;

/// What a request may bring, and which tags go on with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Baggage {
    /// Names that may come with a request; everything else is dropped.
    pub keep: Vec<String>,
    /// Tags to send on, under their own names.
    pub send: Vec<String>,
}

impl Baggage {
    /// Whether the tag of this name goes on.
    pub fn sends(&self, name: &str) -> bool {
        self.send.iter().any(|send| send == name)
    }

    /// The value for the request's header: what it brought and may keep, then the tags. `None` is no header at all. A
    /// tag replaces a member of its name; what would exceed the limits of the specification is left out.
    pub fn outgoing<'a>(
        &self,
        incoming: &[u8],
        tags: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Option<String> {
        let mut header = String::new();
        let mut names = Vec::new();
        let mut add = |name: &str, value: &str| {
            let length =
                header.len().saturating_add(name.len()).saturating_add(value.len()).saturating_add(2);
            if names.len() < MAX_MEMBERS && length <= MAX_LENGTH && !names.iter().any(|known| known == name) {
                let comma = if header.is_empty() { "" } else { "," };
                let _ = write!(header, "{comma}{name}={value}");
                names.push(name.to_owned());
            }
        };
        for (name, value) in tags.filter(|(name, _)| self.sends(name)) {
            add(name, &encoded(value));
        }
        for (name, value) in baggage_members(incoming) {
            let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(value)) else {
                continue;
            };
            if self.keep.iter().any(|keep| keep == name) && value.bytes().all(is_baggage_octet) {
                add(name, value);
            }
        }
        (!header.is_empty()).then_some(header)
    }
}

/// A value as the header has it: what is no baggage-octet is percent-encoded, and so is the percent sign.
fn encoded(value: &[u8]) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value {
        if is_baggage_octet(*byte) && *byte != b'%' {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

fn is_baggage_octet(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;
    use plugin_kit::request::exchange::Exchange;
    use plugin_kit::request::source::RawSource;
    use plugin_kit::testing::FakeHost;
    use proptest::prelude::*;

    fn outgoing(keep: &[&str], send: &[&str], incoming: &str, tags: &[(&str, &str)]) -> Option<String> {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let baggage = Baggage { keep: own(keep), send: own(send) };
        baggage.outgoing(incoming.as_bytes(), tags.iter().map(|(name, value)| (*name, value.as_bytes())))
    }

    #[test]
    fn what_is_not_named_is_dropped() {
        let brought = "tenant=acme;ttl=5, evil=1 ,tenant=second,  plan = free";
        assert_eq!(outgoing(&["tenant", "plan"], &[], brought, &[]).unwrap(), "tenant=acme,plan=free");
        assert_eq!(outgoing(&[], &[], brought, &[("user", "x")]), None);
    }

    #[test]
    fn a_tag_goes_before_what_the_request_brought() {
        let tags = [("user", "a b,\"%ü"), ("other", "x")];
        let header = outgoing(&["user", "plan"], &["user"], "user=mallory,plan=free", &tags);
        assert_eq!(header.unwrap(), "user=a%20b%2C%22%25%C3%BC,plan=free");
    }

    #[test]
    fn the_specifications_limits_hold() {
        let names: Vec<_> = (0..100).map(|n| format!("k{n}")).collect();
        let many = names.join("=v,");
        let keep: Vec<_> = names.iter().map(String::as_str).collect();
        assert_eq!(outgoing(&keep, &[], &many, &[]).unwrap().split(',').count(), 64);
        let long = format!("k1=v,k2={},k3=v", "x".repeat(9000));
        assert_eq!(outgoing(&keep, &[], &long, &[]).unwrap(), "k1=v,k3=v");
    }

    proptest! {
        #[test]
        fn a_value_that_is_sent_is_the_value_that_is_read(value in "\\PC{1,40}") {
            let header = outgoing(&[], &["user"], "", &[("user", &value)]).unwrap();
            let facts = FakeHost::request("GET", "/").header("baggage", &header);
            let source: RawSource =
                plugin_kit::config::read(&serde_json::json!({ "baggage": "user", "trust": true })).unwrap();
            let mut errors = plugin_kit::config::ErrorList::default();
            let source = source.parse(&plugin_kit::config::JsonPath::root(), &mut errors, &|_: &str| None).unwrap();
            let exchange = Exchange::new(1, &facts);
            let read = source.value(&exchange).unwrap().unwrap();
            prop_assert_eq!(read.as_ref(), value.as_bytes());
        }

        #[test]
        fn any_header_gives_a_header(incoming: Vec<u8>) {
            let baggage = Baggage { keep: vec!["a".to_owned()], send: vec![] };
            if let Some(header) = baggage.outgoing(&incoming, std::iter::empty()) {
                prop_assert!(header.bytes().all(|byte| is_baggage_octet(byte) || byte == b','));
            }
        }
    }
}
