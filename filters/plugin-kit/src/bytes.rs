//! Comparison of bytes in pieces: that of the platform's library takes them one by one.

/// Whether `a` and `b` are the same bytes.
#[inline]
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && same(a, b)
}

fn same(a: &[u8], b: &[u8]) -> bool {
    let half = |(a, b): (&[u8; 4], &[u8; 4])| u32::from_le_bytes(*a) == u32::from_le_bytes(*b);
    let word = |(a, b): (&[u8; 8], &[u8; 8])| u64::from_le_bytes(*a) == u64::from_le_bytes(*b);
    let long = |(a, b): (&[u8; 16], &[u8; 16])| u128::from_le_bytes(*a) == u128::from_le_bytes(*b);
    // The last piece may have been seen in part.
    if let Some(ends) = a.last_chunk().zip(b.last_chunk()) {
        let ((blocks, a), (others, b)) = (a.as_chunks(), b.as_chunks());
        return long(ends)
            && same_blocks(blocks, others)
            && a.as_chunks().0.iter().zip(b.as_chunks().0).all(long);
    }
    if let (Some(starts), Some(ends)) =
        (a.first_chunk().zip(b.first_chunk()), a.last_chunk().zip(b.last_chunk()))
    {
        return word(starts) && word(ends);
    }
    match (a.first_chunk().zip(b.first_chunk()), a.last_chunk().zip(b.last_chunk())) {
        (Some(starts), Some(ends)) => half(starts) && half(ends),
        _ => a == b,
    }
}

/// In vectors: a proxy's V8 has had them for as long as it has had this ABI.
#[cfg(target_arch = "wasm32")]
#[target_feature(enable = "simd128")]
#[allow(unsafe_code)]
fn same_blocks(a: &[[u8; 64]], b: &[[u8; 64]]) -> bool {
    use std::arch::wasm32::{v128_any_true, v128_load, v128_or, v128_xor};
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (a.as_ptr().cast(), b.as_ptr().cast());
        // SAFETY: four times 16 of the 64 bytes of each; any alignment will do.
        let differ = unsafe {
            v128_or(
                v128_or(
                    v128_xor(v128_load(a), v128_load(b)),
                    v128_xor(v128_load(a.add(1)), v128_load(b.add(1))),
                ),
                v128_or(
                    v128_xor(v128_load(a.add(2)), v128_load(b.add(2))),
                    v128_xor(v128_load(a.add(3)), v128_load(b.add(3))),
                ),
            )
        };
        if v128_any_true(differ) {
            return false;
        }
    }
    true
}

#[cfg(not(target_arch = "wasm32"))]
fn same_blocks(a: &[[u8; 64]], b: &[[u8; 64]]) -> bool {
    a.iter().zip(b).all(|(a, b)| a == b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equal_is_what_it_says(a: Vec<u8>, at: prop::sample::Index, bit in 0..8_u32) {
            prop_assert!(equal(&a, &a.clone()));
            let mut longer = a.clone();
            longer.push(0);
            prop_assert!(!equal(&a, &longer) && !equal(&longer, &a));
            let mut other = longer.clone();
            let at = at.index(other.len());
            other[at] ^= 1 << bit;
            prop_assert!(!equal(&longer, &other));
        }
    }
}
