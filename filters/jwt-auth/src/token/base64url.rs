//! base64url as RFC 7515 uses it: no padding, nothing but the alphabet, and one encoding for each value.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Decodes; `None` for padding, white space, characters of other alphabets, an impossible length or unused
/// bits that are not zero.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// Decodes text that may be padded to a multiple of four characters.
pub fn decode_padded(text: &str) -> Option<Vec<u8>> {
    let bare = text.trim_end_matches('=');
    let is_right = bare.len() == text.len()
        || text.len().is_multiple_of(4) && text.len().saturating_sub(bare.len()) <= 2;
    if is_right { decode(bare.as_bytes()) } else { None }
}

#[cfg(test)]
mod tests {
    use super::{decode, decode_padded};
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
    fn non_canonical_encoding_is_refused() {
        for text in
            ["Zg==", "Zg=", "Zh", "Zm9", "Z", "Zm9vY", "Zm 9", "Zm8\n", "+/==", "Zm+v", "Zm/v", "Zm\09"]
        {
            assert_eq!(decode(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn padding_is_none_or_the_right_one() {
        for (text, bytes) in [("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zg", "f"), ("", "")] {
            assert_eq!(decode_padded(text).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        for text in ["Zg=", "Zm8==", "Zm9v====", "====", "=", "Z===", "Z=g=", "Zh=="] {
            assert_eq!(decode_padded(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn encoded_bytes_are_decoded(bytes: Vec<u8>) {
            let decoded = decode(URL_SAFE_NO_PAD.encode(&bytes).as_bytes());
            prop_assert_eq!(decoded, Some(bytes));
        }

        #[test]
        fn decoded_text_is_the_only_encoding(text in "[A-Za-z0-9_=+/-]{0,12}") {
            if let Some(bytes) = decode(text.as_bytes()) {
                prop_assert_eq!(URL_SAFE_NO_PAD.encode(bytes), text);
            }
        }
    }
}
