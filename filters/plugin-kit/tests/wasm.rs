//! Bytes are taken in vectors where the modules run, which the native tests do not see.
#![allow(clippy::restriction)]

use plugin_kit::wire::bytes::{AsciiSet, equal};

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

#[test]
fn all_bytes_are_in_a_set_unless_one_is_not() {
    let members = b"-09@AZ_az~";
    let set = members.iter().fold(AsciiSet::EMPTY, |set, byte| set.with(*byte));
    for length in 0..70_usize {
        let bytes: Vec<u8> = members.iter().copied().cycle().take(length).collect();
        assert!(set.contains_all(&bytes), "{length} bytes");
        for at in 0..length {
            for byte in 0..=u8::MAX {
                let mut other = bytes.clone();
                other[at] = byte;
                assert_eq!(
                    set.contains_all(&other),
                    members.contains(&byte),
                    "{length} bytes, {byte} at {at}"
                );
            }
        }
    }
}
