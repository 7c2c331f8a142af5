//! When a tag is written: always, for a share of the requests, or for those that went wrong.

use plugin_kit::hash::StableHash;

use crate::tags::request_id::RequestId;

/// When a tag is written; all parts that are given must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct When {
    /// The tag is written only if the response has this status or a higher one, or if there is no response.
    pub status_from: Option<u16>,
    /// The tag is written only for this share of requests.
    pub share: Option<Share>,
}

/// A share of requests, in millionths. The request ID chooses them, so that all services that see the ID
/// choose the same requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    const WHOLE: u32 = 1_000_000;

    /// Makes a share of a percentage, with up to four decimals; `None` if it is not between 0 and 100.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // it is between 0 and a million
    pub fn from_percentage(percentage: f64) -> Option<Self> {
        (0.0..=100.0).contains(&percentage).then(|| Self((percentage * 10_000.0).round() as u32))
    }

    /// Whether the request with this ID is chosen.
    fn has(self, id: &RequestId) -> bool {
        StableHash::spread(id.as_bytes())
            .checked_rem(u64::from(Self::WHOLE))
            .is_some_and(|rest| rest < u64::from(self.0))
    }
}

impl When {
    /// Whether the ID chooses the request. A request without an ID is not chosen.
    pub fn has(self, id: Option<&RequestId>) -> bool {
        self.share.is_none_or(|share| id.is_some_and(|id| share.has(id)))
    }

    /// Whether the tag is written for a response with this status; `None` if there is no response.
    pub fn allows(self, status: Option<u16>) -> bool {
        self.status_from.is_none_or(|from| status.is_none_or(|status| status >= from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(percentage: f64) -> usize {
        let when = When { share: Share::from_percentage(percentage), ..When::default() };
        let ids = (0..10_000_u128).map(|n| RequestId::of(None, || Ok(n << 64 | n)).unwrap().0);
        ids.filter(|id| when.has(Some(id))).count()
    }

    #[test]
    fn percentage_chooses_its_share_of_requests() {
        assert_eq!((chosen(0.0), chosen(100.0)), (0, 10_000));
        assert!((400..600).contains(&chosen(5.0)), "{}", chosen(5.0));
    }

    /// Every proxy, of whatever version, must choose the same requests.
    #[test]
    fn known_ids_are_chosen_as_in_every_version() {
        // The hash of this ID is 158441 modulo a million.
        let id = b"00000000-0000-4000-8000-000000000001".to_vec();
        let id = RequestId::of(Some(id), || unreachable!()).unwrap().0;
        let has = |percentage| Share::from_percentage(percentage).unwrap().has(&id);
        assert_eq!([0.0, 15.8441, 15.8442, 100.0].map(has), [false, false, true, true]);
    }

    #[test]
    fn percentage_out_of_range_is_refused() {
        for wrong in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Share::from_percentage(wrong), None);
        }
    }

    #[test]
    fn missing_response_counts_as_an_error() {
        let when = When { status_from: Some(400), ..When::default() };
        assert!(when.allows(Some(400)) && when.allows(Some(503)) && when.allows(None));
        assert!(!when.allows(Some(399)));
        assert!(When::default().allows(Some(200)));
    }
}
