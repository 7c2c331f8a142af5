//! Bytes are compared in vectors where the modules run, which the native tests do not see.

use plugin_kit::bytes::equal;

#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn bytes_that_differ_anywhere_are_not_equal() {
    for length in 0..200_u8 {
        let bytes: Vec<u8> = (0..length).collect();
        assert!(equal(&bytes, &bytes.clone()), "{length} bytes");
        assert!(!equal(&bytes, &[&bytes[..], b"x"].concat()), "{length} bytes");
        for at in 0..usize::from(length) {
            let mut other = bytes.clone();
            other[at] ^= 1 << (at % 8);
            assert!(!equal(&bytes, &other), "{length} bytes, another at {at}");
        }
    }
}
