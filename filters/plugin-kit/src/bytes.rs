//! Comparison of bytes in pieces: that of the platform's library takes them one by one.

/// Whether `a` and `b` are the same bytes.
#[inline]
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && same(a, b)
}

fn same(a: &[u8], b: &[u8]) -> bool {
    let word = |(a, b): (&[u8; 8], &[u8; 8])| u64::from_le_bytes(*a) == u64::from_le_bytes(*b);
    let long = |(a, b): (&[u8; 16], &[u8; 16])| u128::from_le_bytes(*a) == u128::from_le_bytes(*b);
    // No way out in between: what is compared is nearly always the same.
    let block = |(a, b): (&[u8; 64], &[u8; 64])| {
        let words = a.as_chunks().0.iter().zip(b.as_chunks().0);
        words.fold(0, |differ, (a, b)| differ | (u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b))) == 0
    };
    // The last piece may have been seen in part.
    if let Some(ends) = a.last_chunk().zip(b.last_chunk()) {
        let ((blocks, a), (others, b)) = (a.as_chunks(), b.as_chunks());
        return long(ends)
            && blocks.iter().zip(others).all(block)
            && a.as_chunks().0.iter().zip(b.as_chunks().0).all(long);
    }
    match (a.first_chunk().zip(b.first_chunk()), a.last_chunk().zip(b.last_chunk())) {
        (Some(starts), Some(ends)) => word(starts) && word(ends),
        _ => a == b,
    }
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
