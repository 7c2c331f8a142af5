//! Regular expressions as RE2 reads them, for the hosts in which the crate `regex` takes the place of Envoy's RE2. What the two read
//! differently is translated, or refused: an expression must not let in with one host what it refuses with another.
//!
//! Source: <https://github.com/google/re2/wiki/Syntax>.

use cel::common::types::{CelBool, CelString, STRING_TYPE};
use cel::common::value::CowVal;
use cel::{Env, ExecutionError};
use regex::Regex;
use regex_syntax::ast::{self, Ast, ClassSetItem, Visitor};

/// A compiled regular expression; `None` if RE2 refuses it, or reads it in a way that is not translated.
pub fn compile(pattern: &str) -> Option<Regex> {
    Regex::new(&translate(pattern)?).ok()
}

/// The environment of CEL's standard library, whose `matches` is RE2's.
///
/// # Panics
/// The crate `cel` has been built with a `matches` of its own, which reads regular expressions differently.
#[expect(clippy::expect_used, reason = "an environment with another `matches` must not decide")]
pub fn environment() -> Env {
    let mut env = Env::stdlib();
    env.add_overload("matches", "matches", vec![STRING_TYPE, STRING_TYPE], matches)
        .and_then(|()| {
            env.add_member_overload("matches", "matches_string", STRING_TYPE, vec![STRING_TYPE], matches)
        })
        .expect("`matches` is new");
    env
}

#[expect(clippy::needless_pass_by_value, reason = "the type is that of the crate `cel`")]
fn matches<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let wrong = || ExecutionError::function_error("matches", "it takes a text and a regular expression");
    let [text, pattern] = &*arguments else { return Err(wrong()) };
    let text = text.downcast_ref::<CelString<'_>>().ok_or_else(wrong)?;
    let pattern = pattern.downcast_ref::<CelString<'_>>().ok_or_else(wrong)?;
    let regex = compile(pattern.inner()).ok_or_else(wrong)?;
    Ok(CowVal::owned(CelBool::from(regex.is_match(text.inner()))))
}

/// The same expression for the crate `regex`.
fn translate(pattern: &str) -> Option<String> {
    let ast = ast::parse::Parser::new().parse(pattern).ok()?;
    let translation = Translation { pattern, changes: Vec::new(), repeated: vec![LARGEST] };
    let changes = ast::visit(&ast, translation).ok()?;
    let mut translated = String::with_capacity(pattern.len());
    let mut from = 0;
    for (span, text) in changes {
        translated.push_str(pattern.get(from..span.start.offset)?);
        translated.push_str(text);
        from = span.end.offset;
    }
    translated.push_str(pattern.get(from..)?);
    Some(translated)
}

/// The most repetitions, also of repetitions within repetitions (`kMaxRepeat` of RE2).
const LARGEST: u32 = 1000;

/// Scripts that both know. RE2 knows more.
const SCRIPTS: [&str; 20] = [
    "Arabic",
    "Armenian",
    "Bengali",
    "Common",
    "Cyrillic",
    "Devanagari",
    "Ethiopic",
    "Georgian",
    "Greek",
    "Han",
    "Hangul",
    "Hebrew",
    "Hiragana",
    "Inherited",
    "Katakana",
    "Khmer",
    "Latin",
    "Tamil",
    "Thai",
    "Tibetan",
];

/// General categories with two letters.
const CATEGORIES: [&str; 29] = [
    "Cc", "Cf", "Co", "Cs", "Ll", "Lm", "Lo", "Lt", "Lu", "Mc", "Me", "Mn", "Nd", "Nl", "No", "Pc", "Pd",
    "Pe", "Pf", "Pi", "Po", "Ps", "Sc", "Sk", "Sm", "So", "Zl", "Zp", "Zs",
];

struct Refused;

struct Translation<'p> {
    pattern: &'p str,
    /// What is written in another way, in order.
    changes: Vec<(ast::Span, &'static str)>,
    /// How often what is within the repetitions around may be repeated yet.
    repeated: Vec<u32>,
}

impl Translation<'_> {
    fn text(&self, span: &ast::Span) -> &str {
        self.pattern.get(span.start.offset..span.end.offset).unwrap_or_default()
    }

    fn perl(&mut self, class: &ast::ClassPerl, within_brackets: bool) {
        use ast::ClassPerlKind::{Digit, Space, Word};
        // RE2's are about ASCII.
        let text = match (&class.kind, class.negated, within_brackets) {
            (Digit, false, false) => "[0-9]",
            (Digit, false, true) => "0-9",
            (Digit, true, _) => "[^0-9]",
            (Space, false, false) => r"[\t\n\f\r ]",
            (Space, false, true) => r"\t\n\f\r ",
            (Space, true, _) => r"[^\t\n\f\r ]",
            (Word, false, false) => "[0-9A-Za-z_]",
            (Word, false, true) => "0-9A-Za-z_",
            (Word, true, _) => "[^0-9A-Za-z_]",
        };
        self.changes.push((class.span, text));
    }
}

fn literal(literal: &ast::Literal) -> Result<(), Refused> {
    use ast::HexLiteralKind::X;
    use ast::LiteralKind::{HexBrace, HexFixed, Meta, Special, Superfluous, Verbatim};
    let known = match &literal.kind {
        Superfluous => literal.c.is_ascii_punctuation() && literal.c != '_',
        Verbatim | Meta | HexFixed(X) | HexBrace(X) => true,
        Special(kind) => *kind != ast::SpecialLiteralKind::Space,
        _ => false,
    };
    if known { Ok(()) } else { Err(Refused) }
}

fn unicode(class: &ast::ClassUnicode) -> Result<(), Refused> {
    let known = match &class.kind {
        ast::ClassUnicodeKind::OneLetter(letter) => "CLMNPSZ".contains(*letter),
        ast::ClassUnicodeKind::Named(name) => {
            let name = name.as_str();
            (name.len() == 1 && "CLMNPSZ".contains(name))
                || CATEGORIES.contains(&name)
                || SCRIPTS.contains(&name)
        }
        ast::ClassUnicodeKind::NamedValue { .. } => false,
    };
    if known { Ok(()) } else { Err(Refused) }
}

fn flags(flags: &ast::Flags) -> Result<(), Refused> {
    use ast::Flag::{CRLF, IgnoreWhitespace, Unicode};
    let refused = |item: &ast::FlagsItem| {
        matches!(item.kind, ast::FlagsItemKind::Flag(CRLF | IgnoreWhitespace | Unicode))
    };
    if flags.items.iter().any(refused) { Err(Refused) } else { Ok(()) }
}

impl Visitor for Translation<'_> {
    type Output = Vec<(ast::Span, &'static str)>;
    type Err = Refused;

    fn finish(self) -> Result<Self::Output, Refused> {
        Ok(self.changes)
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), Refused> {
        use ast::AssertionKind::{EndLine, EndText, NotWordBoundary, StartLine, StartText, WordBoundary};
        match ast {
            Ast::Flags(set) => flags(&set.flags),
            Ast::Literal(found) => literal(found),
            Ast::Assertion(assertion) => match assertion.kind {
                StartLine | EndLine | StartText | EndText => Ok(()),
                WordBoundary => {
                    self.changes.push((assertion.span, r"(?-u:\b)"));
                    Ok(())
                }
                NotWordBoundary => {
                    self.changes.push((assertion.span, r"(?-u:\B)"));
                    Ok(())
                }
                _ => Err(Refused),
            },
            Ast::ClassUnicode(class) => unicode(class),
            Ast::ClassPerl(class) => {
                self.perl(class, false);
                Ok(())
            }
            Ast::Group(group) => match &group.kind {
                ast::GroupKind::NonCapturing(found) => flags(found),
                ast::GroupKind::CaptureName { name, .. } => {
                    let plain = |letter: u8| letter.is_ascii_alphanumeric() || letter == b'_';
                    if name.name.bytes().all(plain) { Ok(()) } else { Err(Refused) }
                }
                ast::GroupKind::CaptureIndex(_) => Ok(()),
            },
            Ast::Repetition(repetition) => {
                // `a**` is an error of RE2.
                if matches!(*repetition.ast, Ast::Repetition(_)) {
                    return Err(Refused);
                }
                let left = self.repeated.last().copied().unwrap_or(0);
                let left = match &repetition.op.kind {
                    ast::RepetitionKind::Range(range) => {
                        let written = self.text(&repetition.op.span);
                        let plain = |byte: u8| byte.is_ascii_digit() || b"{},?".contains(&byte);
                        // `{,3}` is a text in RE2.
                        if !written.bytes().all(plain) || written.starts_with("{,") {
                            return Err(Refused);
                        }
                        let (ast::RepetitionRange::Exactly(most)
                        | ast::RepetitionRange::AtLeast(most)
                        | ast::RepetitionRange::Bounded(_, most)) = *range;
                        if most > LARGEST {
                            return Err(Refused);
                        }
                        left.checked_div(most).unwrap_or(left)
                    }
                    _ => left,
                };
                if left == 0 {
                    return Err(Refused);
                }
                self.repeated.push(left);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn visit_post(&mut self, ast: &Ast) -> Result<(), Refused> {
        if matches!(ast, Ast::Repetition(_)) {
            self.repeated.pop();
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), Refused> {
        match item {
            ClassSetItem::Literal(found) => literal(found),
            ClassSetItem::Range(range) => literal(&range.start).and_then(|()| literal(&range.end)),
            ClassSetItem::Unicode(class) => unicode(class),
            ClassSetItem::Perl(class) => {
                self.perl(class, true);
                Ok(())
            }
            // `[` is a letter there in RE2.
            ClassSetItem::Bracketed(_) => Err(Refused),
            _ => Ok(()),
        }
    }

    fn visit_class_set_binary_op_pre(&mut self, _: &ast::ClassSetBinaryOp) -> Result<(), Refused> {
        Err(Refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_match(pattern: &str, text: &str) -> Option<bool> {
        compile(pattern).map(|regex| regex.is_match(text))
    }

    #[test]
    fn classes_are_about_ascii() {
        for (pattern, yes, no) in [
            (r"^\d+$", "09", "\u{663}"),
            (r"^\w+$", "a_Z9", "é"),
            (r"^a\sb$", "a\tb", "a\u{a0}b"),
            (r"^[\w.]+$", "a.b", "é"),
            (r"^[\s]$", " ", "\u{b}"),
            (r"^\D$", "\u{663}", "1"),
            (r"^\W$", "é", "e"),
            (r"^[^\d]$", "\u{663}", "3"),
            (r"^[a\W]$", "é", "b"),
            (r"é\b", "éa", "é"),
            (r"(?i)^[a-c]$", "B", "D"),
            (r"^\x41\.\-\%$", "A.-%", "A"),
            (r"^\p{Lu}\pN$", "É٣", "é3"),
            (r"^(a{2,3}){5}$", "aaaaaaaaaa", "a"),
            (r"^(?:a|(?P<name>b))*?$", "abab", "c"),
            (r"^[[:alpha:]]$", "a", "é"),
            (r"^.$", "é", "\n"),
        ] {
            assert_eq!(
                (is_match(pattern, yes), is_match(pattern, no)),
                (Some(true), Some(false)),
                "{pattern}"
            );
        }
        assert_eq!((is_match(r"x\B", "xa"), is_match(r"x\B", "xé")), (Some(true), Some(false)));
    }

    #[test]
    fn what_re2_refuses_or_reads_differently_is_refused() {
        for pattern in [
            "[a-z&&[^b]]",
            "[a--b]",
            "[a~~b]",
            "[a[b]]",
            "(?x)a",
            "(?R)a",
            "(?u)a",
            "(?-u)a",
            "(?x:a)",
            "a**",
            "a++",
            "x*{2}",
            r"\u0041",
            r"\U00000041",
            r"\u{41}",
            r"\p{Letter}",
            r"\p{Alphabetic}",
            r"\p{Script=Greek}",
            r"\p{sc=Greek}",
            r"\p{greek}",
            "a{1001}",
            "a{1,2000}",
            "((a{1,100}){1,100})",
            "(a{1,30}){1,34}",
            "a{,3}",
            r"\<a",
            r"a\>",
            r"\b{start}a",
            r"\Qa\E",
            r"\C",
            "a{2",
            "(?<n.m>a)",
        ] {
            assert!(compile(pattern).is_none(), "{pattern}");
        }
    }

    #[test]
    fn matches_of_an_expression_is_the_same() {
        let env = std::sync::Arc::new(environment());
        let value = |text: &str| {
            let program = env.compile(text).unwrap();
            program.execute(&cel::Context::with_env(std::sync::Arc::clone(&env)))
        };
        assert_eq!(value(r"'é'.matches('^\\w$')"), Ok(cel::Value::Bool(false)));
        assert_eq!(value(r"matches('e', '^\\w$')"), Ok(cel::Value::Bool(true)));
        assert!(value("'a'.matches('[a&&a]')").is_err());
        assert!(value("'a'.matches(1)").is_err());
    }
}
