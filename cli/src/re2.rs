//! What RE2 refuses of regular expressions, and the crate `regex` takes (RE2's `re2/parse.cc`).

/// What RE2 does not take, as far as it is told here: its place in bytes, and why.
pub fn refused(pattern: &str) -> Option<(usize, &'static str)> {
    let bytes = pattern.as_bytes();
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
    // How many operators of repetition what stands before ends with: `a*` has one, and `a*?` two.
    let mut operators = 0;
    let mut in_class = false;
    let mut at = 0;
    while at < bytes.len() {
        let mut length = 1;
        let mut repeats = false;
        match byte(at) {
            b'\\' => {
                length = 2;
                match (byte(at + 1), byte(at + 2)) {
                    (b'u' | b'U', _) => {
                        return Some((at, "RE2 writes a character by its number as `\\x{...}`"));
                    }
                    (b'b' | b'B', b'{') if !in_class => return Some((at, "RE2 has no `\\b{...}`")),
                    _ => {}
                }
            }
            b'[' if in_class && byte(at + 1) == b':' => {
                length = pattern.get(at..).and_then(|rest| rest.find(":]")).map_or(1, |end| end + 2);
            }
            b'[' if !in_class => {
                in_class = true;
                length += usize::from(byte(at + 1) == b'^');
                length += usize::from(byte(at + length) == b']');
            }
            b']' => in_class = false,
            _ if in_class => {}
            b'(' if byte(at + 1) == b'?' => {
                length = 2;
                let flags = bytes.iter().skip(at + 2).take_while(|flag| b"imsUxRu-".contains(flag));
                let count = flags.clone().count();
                if matches!(byte(at + 2 + count), b':' | b')')
                    && flags.clone().any(|flag| b"xRu".contains(flag))
                {
                    return Some((at, "RE2 has no flag `x`, `R` or `u`"));
                }
                length += count;
            }
            b'?' if operators == 1 => {
                operators = 2;
                at += 1;
                continue;
            }
            b'*' | b'+' | b'?' => repeats = true,
            b'{' => {
                let inner =
                    pattern.get(at + 1..).and_then(|rest| rest.split_once('}')).map(|(inner, _)| inner);
                let is_count = |inner: &&str| inner.bytes().all(|byte| byte.is_ascii_digit() || byte == b',');
                if let Some(inner) = inner.filter(is_count) {
                    if inner
                        .split(',')
                        .any(|count| count.len() > 4 || count.parse().is_ok_and(|n: u32| n > 1000))
                    {
                        return Some((at, "RE2 repeats at most 1000 times"));
                    }
                    (length, repeats) = (inner.len() + 2, true);
                }
            }
            _ => {}
        }
        if repeats && operators > 0 {
            return Some((at, "RE2 repeats no repetition; expected a group around it"));
        }
        operators = u8::from(repeats);
        at += length;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::refused;

    #[test]
    fn what_re2_refuses_is_found() {
        for (pattern, at) in [
            (r"/a**", 3),
            ("a+?*", 3),
            ("a{2}{3}", 4),
            ("/a{1,2000}", 2),
            ("a{1001}", 1),
            ("a{99999999999}", 1),
            ("(?x)/a .*", 0),
            ("(?i-u:a)", 0),
            (r"/\u0041", 1),
            (r"[a\U00000041]", 2),
            (r"/\b{start}a", 1),
        ] {
            assert_eq!(refused(pattern).map(|(at, _)| at), Some(at), "{pattern}");
        }
        for pattern in [
            r"/orders/[^/]+/(?P<id>\d+)?(?:a|b)*?",
            "a{1000}b{2,}?",
            "[*+{]+",
            "[]**]*",
            "[[:alpha:]*+]?",
            r"\*+\\*",
            "(?i)a*",
            "(?is-m:a+)+",
            r"\bx{3}",
            "",
            "é?",
            r"[\]*+]",
            "(?<x>a)",
            "^(?:/a+)$",
        ] {
            assert_eq!(refused(pattern), None, "{pattern}");
        }
    }
}
