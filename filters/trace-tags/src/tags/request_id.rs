//! The request ID: every request has one, and an ID from a client cannot break a log or a trace.

use plugin_kit::host::HostError;

use crate::tags::text::Characters;

/// The header that carries the request ID.
pub const HEADER: &str = "x-request-id";

/// A request ID that is safe to show: 1 to 128 ASCII letters, digits and `-._~:@/+=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Vec<u8>);

/// Where the ID of a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The ID came with the request.
    Kept,
    /// The request had no ID.
    Generated,
    /// The request had an ID that is not safe to show, or several.
    Replaced,
}

impl RequestId {
    const MAX_LENGTH: usize = 128;

    /// The ID in the header, or a new one made from `random`. `header` is all values joined by a comma, which
    /// no safe ID contains.
    pub fn of(
        header: Option<Vec<u8>>,
        random: impl FnOnce() -> Result<u128, HostError>,
    ) -> Result<(Self, Origin), HostError> {
        let header = header.unwrap_or_default();
        let origin = if header.is_empty() { Origin::Generated } else { Origin::Replaced };
        let is_safe = header.len() <= Self::MAX_LENGTH && Characters::Token.are_all_of(&header);
        if is_safe && !header.is_empty() {
            return Ok((Self(header), Origin::Kept));
        }
        Ok((Self(uuid(random()?).into_bytes()), origin))
    }

    /// The ID as it stands in the header.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A UUID as Envoy makes them for requests that it samples: random, with 9 instead of the version. Envoy
/// writes its decision to trace there each time it chooses a route. With any other digit, the service would
/// get another ID than the client and the logs.
fn uuid(random: u128) -> String {
    let bits = random & !(0xf << 76) & !(0b11 << 62) | 0x9 << 76 | 0b10 << 62;
    let hex = format!("{bits:032x}");
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(header: &str) -> (RequestId, Origin) {
        RequestId::of(Some(header.into()), || Ok(7)).unwrap()
    }

    #[test]
    fn safe_id_is_kept() {
        for id in ["f3a1b2c4-0000-4000-8000-000000000000", "01J/abc=~@+:.", &"a".repeat(128)] {
            assert_eq!(of(id), (RequestId(id.into()), Origin::Kept));
        }
    }

    #[test]
    fn unsafe_id_is_replaced() {
        for id in ["a b", "a\"b", "a,b", "a\nb", "é", "${jndi:x}", "<script>", &"a".repeat(129)] {
            assert_eq!(of(id).1, Origin::Replaced, "{id}");
        }
    }

    #[test]
    fn missing_id_is_generated() {
        assert_eq!(RequestId::of(None, || Ok(7)).unwrap().1, Origin::Generated);
        assert_eq!(of("").1, Origin::Generated);
    }

    proptest! {
        #[test]
        fn generated_id_is_a_safe_uuid_marked_as_sampled(random: u128) {
            let id = uuid(random);
            prop_assert_eq!(id.len(), 36);
            prop_assert_eq!(&id[14..15], "9");
            prop_assert!("89ab".contains(&id[19..20]));
            prop_assert_eq!(of(&id).1, Origin::Kept);
        }
    }
}
