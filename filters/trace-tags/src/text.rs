//! Values as text that cannot break what shows it: a log line, a span, a terminal.

use plugin_kit::config_choice;

config_choice! {
    /// Which characters a value may have. Others become `_`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum Characters {
        /// Of any script, but neither quotes and backslashes, which end a quoted field of a log line, nor control
        /// characters, line separators and characters that change the direction of writing.
        #[default]
        Printable,
        /// ASCII letters and digits and `-._~:@/+=`.
        Token,
    }
}

impl Characters {
    fn allow(self, c: char) -> bool {
        match self {
            Self::Printable => {
                !c.is_control()
                    && !matches!(c, '"' | '\\')
                    && !matches!(c,
                        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
                    )
            }
            Self::Token => c.is_ascii_alphanumeric() || "-._~:@/+=".contains(c),
        }
    }
}

/// At most `max` characters of `value`, all allowed. Bytes that are not UTF-8 count as characters that are not allowed.
pub fn sanitised(value: &[u8], characters: Characters, max: usize) -> String {
    // Nearly every value is short and plain.
    let plain = |byte: &u8| byte.is_ascii_graphic() && characters.allow(char::from(*byte));
    if value.len() <= max && value.iter().all(plain) {
        return String::from_utf8_lossy(value).into_owned();
    }
    let mut text = String::new();
    let mut left = max;
    for chunk in value.utf8_chunks() {
        let invalid = (!chunk.invalid().is_empty()).then_some('_');
        let valid = chunk.valid().chars().map(|c| if characters.allow(c) { c } else { '_' });
        for c in valid.chain(invalid) {
            if left == 0 {
                return text;
            }
            left = left.saturating_sub(1);
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn printable(value: &[u8]) -> String {
        sanitised(value, Characters::Printable, 128)
    }

    #[test]
    fn what_can_break_a_line_or_a_field_goes() {
        assert_eq!(printable(b"a\r\n\0b"), "a___b");
        assert_eq!(printable(b"\" user=\"root\" \\"), "_ user=_root_ _");
        assert_eq!(printable("a\u{202e}b\u{2028}c".as_bytes()), "a_b_c");
        assert_eq!(printable(b"\x1b[31mred"), "_[31mred");
        assert_eq!(printable(b"\xff\xfea"), "__a");
    }

    #[test]
    fn text_of_any_script_stays() {
        assert_eq!(printable("Zürich 東京 √2".as_bytes()), "Zürich 東京 √2");
        assert_eq!(sanitised("Zürich/a b".as_bytes(), Characters::Token, 128), "Z_rich/a_b");
    }

    #[test]
    fn length_counts_characters() {
        assert_eq!(sanitised("東京都".as_bytes(), Characters::Printable, 2), "東京");
    }

    proptest! {
        #[test]
        fn any_bytes_become_allowed_characters(value: Vec<u8>, max in 0_usize..40) {
            for characters in [Characters::Printable, Characters::Token] {
                let text = sanitised(&value, characters, max);
                prop_assert!(text.chars().count() <= max);
                prop_assert!(text.chars().all(|c| characters.allow(c)));
                prop_assert_eq!(sanitised(text.as_bytes(), characters, max), text);
            }
        }
    }
}
