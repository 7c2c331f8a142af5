//! Regular expressions as RE2 reads them, for the hosts in which the crate `regex` takes the place of Envoy's RE2. What the two read
//! differently is translated, or refused: an expression must not let in with one host what it refuses with another.
//!
//! Source: <https://github.com/google/re2/wiki/Syntax>.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use cel::common::types::{CelBool, CelString, STRING_TYPE};
use cel::common::value::CowVal;
use cel::{Env, ExecutionError};
use regex::Regex;
use regex_syntax::ast::{self, Ast, ClassSetItem, Visitor};

/// A compiled regular expression; `None` if RE2 refuses it, or reads it in a way that is not translated.
pub fn compile(pattern: &str) -> Option<Regex> {
    Regex::new(&translate(pattern)?).ok()
}

/// The regular expressions that an expression holds as literals, compiled. Those that it makes of a request are compiled with each
/// evaluation, since a client could fill the memory with them.
#[derive(Debug, Clone, Default)]
pub struct Literals(Rc<HashMap<String, Option<Regex>>>);

thread_local! {
    /// Of the expression that is being evaluated.
    static LITERALS: RefCell<Literals> = RefCell::default();
}

impl Literals {
    /// Those of an expression: what stands as a text behind `matches(`. One that is not found costs time, and nothing else.
    pub fn of(expression: &str) -> Self {
        let behind = expression.match_indices("matches(").filter_map(|(at, call)| {
            let behind = expression.get(at.saturating_add(call.len())..)?;
            let pattern = text_literal(behind.trim_start())?;
            let regex = compile(&pattern);
            Some((pattern, regex))
        });
        Self(Rc::new(behind.collect()))
    }

    /// Evaluates the expression.
    pub fn during<T>(&self, evaluate: impl FnOnce() -> T) -> T {
        let outer = LITERALS.replace(self.clone());
        let value = evaluate();
        LITERALS.set(outer);
        value
    }
}

/// The text that begins here in an expression, if it is raw, or has no escapes but those of a quote and of the backslash.
fn text_literal(text: &str) -> Option<String> {
    let (is_raw, text) = text.strip_prefix('r').map_or((false, text), |text| (true, text));
    let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    let mut literal = String::new();
    let mut characters = text.chars().skip(1);
    loop {
        match characters.next()? {
            end if end == quote => return Some(literal),
            '\\' if !is_raw => match characters.next()? {
                quoted @ ('\\' | '\'' | '"') => literal.push(quoted),
                _ => return None,
            },
            other => literal.push(other),
        }
    }
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
    let known = LITERALS.with_borrow(|literals| literals.0.get(pattern.inner()).cloned());
    let regex = known.unwrap_or_else(|| compile(pattern.inner())).ok_or_else(wrong)?;
    Ok(CowVal::owned(CelBool::from(regex.is_match(text.inner()))))
}

/// The same expression for the crate `regex`.
fn translate(pattern: &str) -> Option<String> {
    let changes = visited(pattern)?.ok()?;
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

/// Why RE2 refuses an expression, or reads it differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The place, in bytes.
    pub at: usize,
    /// The reason.
    pub why: &'static str,
}

const fn fault(span: &ast::Span, why: &'static str) -> Result<(), Fault> {
    Err(Fault { at: span.start.offset, why })
}

/// The first part of an expression that RE2 refuses, or reads differently than the crate `regex`.
pub fn refused(pattern: &str) -> Option<Fault> {
    visited(pattern)?.err()
}

fn visited(pattern: &str) -> Option<Result<Vec<(ast::Span, &'static str)>, Fault>> {
    let ast = ast::parse::Parser::new().parse(pattern).ok()?;
    let translation = Translation { pattern, changes: Vec::new(), repeated: vec![LARGEST] };
    Some(ast::visit(&ast, translation))
}

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

fn literal(literal: &ast::Literal) -> Result<(), Fault> {
    use ast::HexLiteralKind::X;
    use ast::LiteralKind::{HexBrace, HexFixed, Meta, Special, Superfluous, Verbatim};
    let known = match &literal.kind {
        Superfluous => literal.c.is_ascii_punctuation() && literal.c != '_',
        Verbatim | Meta | HexFixed(X) | HexBrace(X) => true,
        Special(kind) => *kind != ast::SpecialLiteralKind::Space,
        _ => false,
    };
    let why = match literal.kind {
        HexFixed(_) | HexBrace(_) => "RE2 writes a character by its number as `\\x{...}`",
        _ => "RE2 does not know this escape",
    };
    if known { Ok(()) } else { fault(&literal.span, why) }
}

fn unicode(class: &ast::ClassUnicode) -> Result<(), Fault> {
    let known = match &class.kind {
        ast::ClassUnicodeKind::OneLetter(letter) => "LMNPSZ".contains(*letter),
        ast::ClassUnicodeKind::Named(name) => {
            let name = name.as_str();
            (name.len() == 1 && "LMNPSZ".contains(name))
                || CATEGORIES.contains(&name)
                || SCRIPTS.contains(&name)
        }
        ast::ClassUnicodeKind::NamedValue { .. } => false,
    };
    if known {
        Ok(())
    } else {
        fault(&class.span, "this class of characters is not one that RE2 is known to have")
    }
}

fn flags(flags: &ast::Flags, span: &ast::Span) -> Result<(), Fault> {
    use ast::Flag::{CRLF, IgnoreWhitespace, Unicode};
    let refused = |item: &ast::FlagsItem| {
        matches!(item.kind, ast::FlagsItemKind::Flag(CRLF | IgnoreWhitespace | Unicode))
    };
    if flags.items.iter().any(refused) { fault(span, "RE2 has no flag `x`, `R` or `u`") } else { Ok(()) }
}

impl Visitor for Translation<'_> {
    type Output = Vec<(ast::Span, &'static str)>;
    type Err = Fault;

    fn finish(self) -> Result<Self::Output, Fault> {
        Ok(self.changes)
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), Fault> {
        use ast::AssertionKind::{EndLine, EndText, NotWordBoundary, StartLine, StartText, WordBoundary};
        match ast {
            Ast::Flags(set) => flags(&set.flags, &set.span),
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
                _ => fault(&assertion.span, "RE2 has no such boundary"),
            },
            Ast::ClassUnicode(class) => unicode(class),
            Ast::ClassBracketed(class) => {
                let written = self.text(&class.span).trim_start_matches('[');
                let written = written.strip_prefix('^').unwrap_or(written);
                let range = |start| written.strip_prefix(start).is_some_and(|rest| !rest.starts_with(']'));
                if range("--") || range("]-") {
                    return fault(&class.span, "RE2 takes this for a range; expected `\\-` or `\\]`");
                }
                Ok(())
            }
            Ast::ClassPerl(class) => {
                self.perl(class, false);
                Ok(())
            }
            Ast::Group(group) => match &group.kind {
                ast::GroupKind::NonCapturing(found) => flags(found, &group.span),
                ast::GroupKind::CaptureName { name, .. } => {
                    let plain = |letter: u8| letter.is_ascii_alphanumeric() || letter == b'_';
                    if name.name.bytes().all(plain) {
                        Ok(())
                    } else {
                        fault(&name.span, "RE2 names a group by letters, digits and `_`")
                    }
                }
                ast::GroupKind::CaptureIndex(_) => Ok(()),
            },
            Ast::Repetition(repetition) => {
                let span = &repetition.op.span;
                if matches!(*repetition.ast, Ast::Repetition(_)) {
                    return fault(span, "RE2 repeats no repetition; expected a group around it");
                }
                let left = self.repeated.last().copied().unwrap_or(0);
                let left = match &repetition.op.kind {
                    ast::RepetitionKind::Range(range) => {
                        let written = self.text(&repetition.op.span);
                        let plain = |byte: u8| byte.is_ascii_digit() || b"{},?".contains(&byte);
                        if !written.bytes().all(plain) || written.starts_with("{,") {
                            return fault(span, "RE2 takes this for text; expected `{0,...}`");
                        }
                        let (ast::RepetitionRange::Exactly(most)
                        | ast::RepetitionRange::AtLeast(most)
                        | ast::RepetitionRange::Bounded(_, most)) = *range;
                        if most > LARGEST {
                            return fault(span, "RE2 repeats at most 1000 times");
                        }
                        left.checked_div(most).unwrap_or(left)
                    }
                    _ => left,
                };
                if left == 0 {
                    return fault(span, "RE2 repeats at most 1000 times, also within repetitions");
                }
                self.repeated.push(left);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn visit_post(&mut self, ast: &Ast) -> Result<(), Fault> {
        if matches!(ast, Ast::Repetition(_)) {
            self.repeated.pop();
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), Fault> {
        match item {
            ClassSetItem::Literal(found) => literal(found),
            ClassSetItem::Range(range) => literal(&range.start).and_then(|()| literal(&range.end)),
            ClassSetItem::Unicode(class) => unicode(class),
            ClassSetItem::Perl(class) => {
                self.perl(class, true);
                Ok(())
            }
            ClassSetItem::Bracketed(class) => {
                fault(&class.span, "RE2 takes `[` within brackets for a letter; expected `\\[`")
            }
            _ => Ok(()),
        }
    }

    fn visit_class_set_binary_op_pre(&mut self, operation: &ast::ClassSetBinaryOp) -> Result<(), Fault> {
        fault(&operation.span, "RE2 has no operations on classes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_match(pattern: &str, text: &str) -> Option<bool> {
        compile(pattern).map(|regex| regex.is_match(text))
    }

    #[test]
    fn literals_of_an_expression_are_compiled_once() {
        let of = |text: &str| {
            let mut found: Vec<_> = Literals::of(text).0.keys().cloned().collect();
            found.sort();
            found
        };
        let text = r#"request.path.matches( '^/a\\.b$') && x.matches(r"\d'") || y.matches(request.host) || z.matches("\'\u0041")"#;
        assert_eq!(of(text), [r"\d'", r"^/a\.b$"]);
        assert_eq!(of("x.matches('a"), [""; 0]);
        // What was compiled before is what counts; here it is something else, to show that.
        let environment = std::sync::Arc::new(environment());
        let evaluate = |literals: &Literals| {
            let program = environment.compile("'b'.matches('a')").unwrap();
            literals.during(|| program.execute(&cel::Context::with_env(std::sync::Arc::clone(&environment))))
        };
        let other = Literals(Rc::new([("a".to_owned(), compile("b"))].into()));
        assert_eq!(evaluate(&other).unwrap(), cel::Value::Bool(true));
        assert_eq!(evaluate(&Literals::of("'b'.matches('a')")).unwrap(), cel::Value::Bool(false));
        assert_eq!(evaluate(&Literals::default()).unwrap(), cel::Value::Bool(false));
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
            "[--9]",
            "[^--9]",
            "[]-a]",
            "[^]-a]",
            r"\pC",
            r"\PC",
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
    fn fault_is_where_it_is() {
        for (pattern, at) in [
            (r"/a**", 3),
            ("a+?*", 3),
            ("a{2}{3}", 4),
            ("/a{1,2000}", 2),
            ("a{1001}", 1),
            ("(?x)/a .*", 0),
            ("(?i-u:a)", 0),
            (r"/\u0041", 1),
            (r"[a\U00000041]", 2),
            (r"/\b{start}a", 1),
            ("/é[a&&b]", 4),
        ] {
            assert_eq!(refused(pattern).map(|fault| fault.at), Some(at), "{pattern}");
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
            assert!(compile(pattern).is_some(), "{pattern}");
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
