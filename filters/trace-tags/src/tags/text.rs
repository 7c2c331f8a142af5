//! Values as text that cannot break a log line, a span or a terminal.

use std::borrow::Cow;

use plugin_kit::config_choice;
use plugin_kit::wire::bytes::AsciiSet;

config_choice! {
    /// Which characters a value may have. Others become `_`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum Characters {
        /// Characters of any script are kept. Quotes and backslashes, which end a quoted field of a log line,
        /// control characters, line separators and characters that change the direction of writing are
        /// replaced.
        #[default]
        Printable,
        /// ASCII letters, digits and `-._~:@/+=` are kept.
        Token,
    }
}

static PRINTABLE: AsciiSet = Characters::Printable.ascii();
static TOKEN: AsciiSet = Characters::Token.ascii();

impl Characters {
    const fn ascii(self) -> AsciiSet {
        let mut set = AsciiSet::EMPTY;
        let mut byte = b' ';
        while byte <= b'~' {
            let allowed = match self {
                Self::Printable => !matches!(byte, b'"' | b'\\'),
                Self::Token => {
                    byte.is_ascii_alphanumeric()
                        || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'@' | b'/' | b'+' | b'=')
                }
            };
            if allowed {
                set = set.with(byte);
            }
            byte = byte.saturating_add(1);
        }
        set
    }

    /// Whether `value` is ASCII and all of its characters are allowed, as in nearly every value.
    pub fn are_all_of(self, value: &[u8]) -> bool {
        self.set().contains_all(value)
    }

    fn set(self) -> &'static AsciiSet {
        match self {
            Self::Printable => &PRINTABLE,
            Self::Token => &TOKEN,
        }
    }

    fn allow(self, c: char) -> bool {
        let Ok(ascii @ ..=0x7f) = u8::try_from(c) else {
            return self == Self::Printable
                && !c.is_control()
                && !matches!(c,
                    '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
                );
        };
        self.set().contains(ascii)
    }
}

/// At most `max` characters of `value`, all allowed, as UTF-8. Bytes that are not UTF-8 count as characters
/// that are not allowed.
pub fn sanitised(value: Cow<'_, [u8]>, characters: Characters, max: usize) -> Cow<'_, [u8]> {
    if value.len() <= max && characters.are_all_of(&value) {
        return value;
    }
    let mut text = String::new();
    let mut left = max;
    for chunk in value.utf8_chunks() {
        let invalid = (!chunk.invalid().is_empty()).then_some('_');
        let valid = chunk.valid().chars().map(|c| if characters.allow(c) { c } else { '_' });
        for c in valid.chain(invalid) {
            if left == 0 {
                return text.into_bytes().into();
            }
            left = left.saturating_sub(1);
            text.push(c);
        }
    }
    text.into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(value: &[u8], characters: Characters, max: usize) -> String {
        String::from_utf8(sanitised(Cow::Borrowed(value), characters, max).into_owned()).unwrap()
    }

    fn printable(value: &[u8]) -> String {
        text(value, Characters::Printable, 128)
    }

    #[test]
    fn characters_that_can_break_a_line_or_a_field_are_replaced() {
        assert_eq!(printable(b"a\r\n\0b"), "a___b");
        assert_eq!(printable(b"\" user=\"root\" \\"), "_ user=_root_ _");
        assert_eq!(printable("a\u{202e}b\u{2028}c".as_bytes()), "a_b_c");
        assert_eq!(printable(b"\x1b[31mred"), "_[31mred");
        assert_eq!(printable(b"\xff\xfea"), "__a");
    }

    #[test]
    fn printable_text_of_any_script_stays() {
        assert_eq!(printable("Zürich 東京 √2".as_bytes()), "Zürich 東京 √2");
        assert_eq!(text("Zürich/a b".as_bytes(), Characters::Token, 128), "Z_rich/a_b");
    }

    #[test]
    fn token_characters_are_those_of_the_description() {
        let all: String = ('\0'..='\u{2100}').filter(|c| Characters::Token.allow(*c)).collect();
        let expected = "+-./0123456789:=@ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";
        assert_eq!(all, expected);
    }

    #[test]
    fn ascii_quotes_backslashes_and_control_characters_are_not_printable() {
        let refused: String = ('\0'..='\u{7f}').filter(|c| !Characters::Printable.allow(*c)).collect();
        let control = ('\0'..'\u{20}').collect::<String>();
        assert_eq!(refused, control + "\"\\\u{7f}");
    }

    #[test]
    fn length_is_counted_in_characters() {
        assert_eq!(text("東京都".as_bytes(), Characters::Printable, 2), "東京");
        assert_eq!(text(b"abc", Characters::Printable, 2), "ab");
        assert_eq!(text(b"abc", Characters::Printable, 3), "abc");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_become_allowed_characters(value: Vec<u8>, max in 0_usize..40) {
            for characters in [Characters::Printable, Characters::Token] {
                let shown = text(&value, characters, max);
                prop_assert!(shown.chars().count() <= max);
                prop_assert!(shown.chars().all(|c| characters.allow(c)));
                prop_assert_eq!(text(shown.as_bytes(), characters, max), shown);
            }
        }
    }
}
