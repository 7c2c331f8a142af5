//! base64url as RFC 7515 uses it: no padding, nothing but the alphabet, and one encoding for each value.

/// Decodes; `None` for padding, white space, characters of other alphabets, an impossible length or unused bits that
/// are not zero.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len().saturating_mul(3) / 4);
    for group in text.chunks(4) {
        let mut bits = 0_u32;
        for character in group {
            bits = (bits << 6) | u32::from(value(*character)?);
        }
        let [_, first, second, third] = match group.len() {
            4 => bits,
            3 if bits.trailing_zeros() >= 2 => bits << 6,
            2 if bits.trailing_zeros() >= 4 => bits << 12,
            _ => return None,
        }
        .to_be_bytes();
        let decoded = [first, second, third];
        bytes.extend_from_slice(decoded.get(..group.len().saturating_sub(1))?);
    }
    Some(bytes)
}

fn value(character: u8) -> Option<u8> {
    Some(match character {
        b'A'..=b'Z' => character.wrapping_sub(b'A'),
        b'a'..=b'z' => character.wrapping_sub(b'a').wrapping_add(26),
        b'0'..=b'9' => character.wrapping_sub(b'0').wrapping_add(52),
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::decode;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;

    #[test]
    fn vectors_of_rfc_4648() {
        for (text, bytes) in
            [("", ""), ("Zg", "f"), ("Zm8", "fo"), ("Zm9v", "foo"), ("Zm9vYg", "foob"), ("Zm9vYmE", "fooba")]
        {
            assert_eq!(decode(text.as_bytes()).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
    }

    #[test]
    fn every_other_form_of_a_value_is_refused() {
        for text in
            ["Zg==", "Zg=", "Zh", "Zm9", "Z", "Zm9vY", "Zm 9", "Zm8\n", "+/==", "Zm+v", "Zm/v", "Zm\09"]
        {
            assert_eq!(decode(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(bytes: Vec<u8>) {
            let decoded = decode(URL_SAFE_NO_PAD.encode(&bytes).as_bytes());
            prop_assert_eq!(decoded, Some(bytes));
        }

        #[test]
        fn what_is_decoded_has_no_other_encoding(text in "[A-Za-z0-9_=+/-]{0,12}") {
            if let Some(bytes) = decode(text.as_bytes()) {
                prop_assert_eq!(URL_SAFE_NO_PAD.encode(bytes), text);
            }
        }
    }
}
