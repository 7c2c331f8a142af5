//! Any bytes are a key set or refused; every key in use is bound to algorithms and public. Why a fetch failed is one short line.
#![no_main]

use std::time::Duration;

use jwt_auth::fetch::failure::Failure;
use jwt_auth::keys::jwk::{KeySet, MOST_KEYS};
use jwt_auth::keys::key::Material;
use libfuzzer_sys::fuzz_target;
use plugin_kit::request::headers::HeaderMap;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(set) = KeySet::parse(bytes) {
        assert!(set.keys.len() <= MOST_KEYS);
        for key in &set.keys {
            assert!(!key.algorithms.is_empty());
            assert!(!matches!(key.material, Material::Secret(_)));
            assert!(key.algorithms.iter().all(|algorithm| !algorithm.is_symmetric()));
        }
    }
    let head = HeaderMap::from_pairs([(&b":status"[..], bytes), (b"location", bytes)]);
    for failure in [Some(Failure::content(bytes, "")), Failure::of_response(Some(&head), bytes, Duration::ZERO)] {
        let text = failure.map(|failure| failure.to_string()).unwrap_or_default();
        assert!(text.len() < 1_000 && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text}");
    }
});
