//! W3C Baggage (Candidate Recommendation of 2024-05): names and values that travel with a request from
//! service to service.
//!
//! A service that calls others copies the header `baggage` from the request that it serves to those that it
//! makes. So what a proxy lets in at the edge goes everywhere, and so does what it adds.

use std::fmt::Write;

use plugin_kit::request::source::baggage_members;

/// The header that carries the baggage.
pub const HEADER: &str = "baggage";

/// What every platform must propagate at least. More may be lost on the way, so more is not sent.
const MAX_MEMBERS: usize = 64;
const MAX_LENGTH: usize = 8192;

/// Which members a request may bring, and which tags go on with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Baggage {
    /// The names of members that may come with a request. All others are removed.
    pub keep: Vec<String>,
    /// The tags that go on, under their own names.
    pub send: Vec<String>,
}

impl Baggage {
    /// Whether the tag of this name goes on.
    pub fn sends(&self, name: &str) -> bool {
        self.send.iter().any(|send| send == name)
    }

    /// The value of the request's header: the tags, then the members that came in and are kept. `None` if the
    /// request gets no header. A tag replaces a member of the same name. Members that would exceed the limits
    /// of the specification are left out.
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

/// A value as it stands in the header: a byte that is not a baggage-octet is percent-encoded, and so is the
/// percent sign.
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
    fn member_that_is_not_kept_is_removed() {
        let brought = "tenant=acme;ttl=5, evil=1 ,tenant=second,  plan = free";
        assert_eq!(outgoing(&["tenant", "plan"], &[], brought, &[]).unwrap(), "tenant=acme,plan=free");
        assert_eq!(outgoing(&[], &[], brought, &[("user", "x")]), None);
    }

    #[test]
    fn tag_replaces_a_member_of_its_name() {
        let tags = [("user", "a b,\"%ü"), ("other", "x")];
        let header = outgoing(&["user", "plan"], &["user"], "user=mallory,plan=free", &tags);
        assert_eq!(header.unwrap(), "user=a%20b%2C%22%25%C3%BC,plan=free");
    }

    #[test]
    fn members_beyond_the_limits_of_the_specification_are_left_out() {
        let names: Vec<_> = (0..100).map(|n| format!("k{n}")).collect();
        let many = names.join("=v,");
        let keep: Vec<_> = names.iter().map(String::as_str).collect();
        assert_eq!(outgoing(&keep, &[], &many, &[]).unwrap().split(',').count(), 64);
        let long = format!("k1=v,k2={},k3=v", "x".repeat(9000));
        assert_eq!(outgoing(&keep, &[], &long, &[]).unwrap(), "k1=v,k3=v");
    }

    proptest! {
        #[test]
        fn sent_value_is_read_back_the_same(value in "\\PC{1,40}") {
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
        fn any_incoming_header_gives_a_valid_header(incoming: Vec<u8>) {
            let baggage = Baggage { keep: vec!["a".to_owned()], send: vec![] };
            if let Some(header) = baggage.outgoing(&incoming, std::iter::empty()) {
                prop_assert!(header.bytes().all(|byte| is_baggage_octet(byte) || byte == b','));
            }
        }
    }
}
