//! Any bytes are a key set or refused; every key in use is bound to algorithms and public.
#![no_main]

use jwt_auth::keys::jwk::{KeySet, MOST_KEYS};
use jwt_auth::keys::key::Material;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(set) = KeySet::parse(bytes) {
        assert!(set.keys.len() <= MOST_KEYS);
        for key in &set.keys {
            assert!(!key.algorithms.is_empty());
            assert!(!matches!(key.material, Material::Secret(_)));
            assert!(key.algorithms.iter().all(|algorithm| !algorithm.is_symmetric()));
        }
    }
});
