use std::cell::RefCell;

use super::*;
use crate::testing::FakeHost;

/// A host that takes what `takes` says, and knows every number by its expression.
struct Host {
    takes: fn(&str) -> u32,
    value: Option<Vec<u8>>,
    seen: RefCell<Vec<String>>,
}

impl Environment for Host {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn compile(&self, expression: &str) -> Result<u32, HostError> {
        self.seen.borrow_mut().push(expression.to_owned());
        match (self.takes)(expression) {
            0 => Ok(7),
            status => Err(HostError { call: "expr_create", status }),
        }
    }

    fn evaluate(&self, _: u32) -> Result<Option<Vec<u8>>, HostError> {
        Ok(self.value.clone())
    }
}

fn host(takes: fn(&str) -> u32) -> Host {
    Host { takes, value: Some(vec![0]), seen: RefCell::default() }
}

#[test]
fn an_expression_is_compiled_alone_and_then_with_its_type() {
    let taking = host(|_| 0);
    Expression::condition("a // why", &taking).unwrap();
    Expression::text("b", &taking).unwrap();
    Expression::text_matches(r"/it's/\d+", &taking).unwrap();
    let expected = [
        "a // why",
        "(a // why\n) ? true : false",
        "b",
        "string(b\n) ",
        r"''.matches('/it\'s/\\d+')",
        r"''.matches('^(?:/it\'s/\\d+)$')",
        r"normalized_path.matches('^(?:/it\'s/\\d+)$')",
    ];
    assert_eq!(*taking.seen.borrow(), expected);
}

#[test]
fn expression_that_is_too_deep_for_a_parser_reaches_no_host() {
    let taking = host(|_| 0);
    let within = |n: usize, open: &str, close: &str| open.repeat(n) + "true" + &close.repeat(n);
    let row = |n: usize, what: &str| format!("a{}", what.repeat(n));
    for (taken, refused) in [
        (within(32, "(", ")"), within(33, "(", ")")),
        (within(32, "[", "]"), within(150, "[", "]")),
        (within(32, "{1:", "}"), within(33, "{ 1: ", "}")),
        (within(32, "string(", ")"), within(60, "string(", ")")),
        (row(128, " + 1"), row(600, " + 1")),
        (row(64, "=='('+'('"), row(65, "=='('+'('")),
        (row(127, " in b"), row(130, " in b")),
        (row(128, "[0]"), row(129, "[0]")),
        (row(64, ".m()"), row(65, ".m()")),
        (row(64, " ? b : c"), row(65, " ? b : c")),
        (row(40, "+(1*2*3)"), row(31, "+(1*2*3-4") + &")".repeat(31)),
        // What a text or a comment seems to be does not hide what stands behind it.
        (r"'\'((' + '(('".to_owned(), r"r'\' + ".to_owned() + &within(33, "(", ")") + "'"),
        ("// it's\n1".to_owned(), "// it's\n".to_owned() + &within(33, "(", ")")),
        ("'''it's \n'''".to_owned(), "'''''' + ".to_owned() + &within(33, "(", ")")),
        // More of these are no deeper.
        (row(1_000, " == 1 || b.c == 2 && d"), "1".repeat(70_000)),
        (format!("a in [{}]", row(5_000, ", 'b'")), format!("'{}'", "(".repeat(70_000))),
        (format!("'{}' in a", "([{.+".repeat(1_000)), within(20_000, "(", ")")),
    ] {
        assert!(Expression::condition(&taken, &taking).is_ok(), "{taken}");
        taking.seen.borrow_mut().clear();
        assert_eq!(Expression::text(&refused, &taking).unwrap_err(), TOO_DEEP, "{refused}");
        assert!(taking.seen.borrow().is_empty(), "{refused}");
    }
    for wrong in
        ["'", "a == 'b", r"'\q'", r"'\x1'", r"'\u00g0'", "'a\n'", r#"""" """#, r"1r'\'", "rb'a'", r"'\"]
    {
        assert_eq!(Expression::text(wrong, &taking).unwrap_err(), NOT_CEL, "{wrong}");
    }
    for right in [r"'\'\\\x41\u00e9\U0001F600\101'", r"r'\' + R'''\'''", r#"b'a' + BR"\""#, "'é' // '"] {
        assert!(Expression::text(right, &taking).is_ok(), "{right}");
    }
}

#[test]
fn what_the_host_does_not_take_is_named() {
    let refusing = host(|expression| if expression.contains("bad") { 2 } else { 0 });
    let error = Expression::condition("bad", &refusing).unwrap_err();
    assert_eq!(error, "is not a CEL expression that the proxy accepts");
    assert!(Expression::condition("good", &refusing).is_ok());
    let invalid = Host { value: None, ..host(|_| 0) };
    let error = Expression::text_matches("(", &invalid).unwrap_err();
    assert_eq!(error, "is not a regular expression of RE2");
    let broken = host(|_| 99);
    assert!(Expression::text("a", &broken).unwrap_err().contains("status 99"));
}

/// A host whose `matches` is that of a library, and whose number of an expression is its position.
#[derive(Default)]
struct RegexHost(RefCell<Vec<String>>);

impl RegexHost {
    /// The pattern of an expression that [`Expression::text_matches`] makes.
    fn pattern(&self, number: u32) -> String {
        let expressions = self.0.borrow();
        let expression = &expressions[usize::try_from(number).unwrap()];
        let (_, pattern) = expression.split_once(".matches('").unwrap();
        let (mut plain, mut characters) = (String::new(), pattern.strip_suffix("')").unwrap().chars());
        while let Some(character) = characters.next() {
            plain.push(if character == '\\' { characters.next().unwrap() } else { character });
        }
        plain
    }
}

impl Environment for RegexHost {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn compile(&self, expression: &str) -> Result<u32, HostError> {
        let mut expressions = self.0.borrow_mut();
        expressions.push(expression.to_owned());
        Ok(u32::try_from(expressions.len() - 1).unwrap())
    }

    fn evaluate(&self, number: u32) -> Result<Option<Vec<u8>>, HostError> {
        Ok(regex_lite::Regex::new(&self.pattern(number)).ok().map(|_| vec![0]))
    }
}

#[test]
fn a_regular_expression_that_is_none_by_itself_is_refused() {
    for wrong in ["a)|(.*", "a)", ")(", "/x') || true || matches('a", "a)$|(?:b", "(?i)a)|(.*", "[", "*"] {
        let error = Expression::text_matches(wrong, &RegexHost::default()).unwrap_err();
        assert_eq!(error, "is not a regular expression of RE2", "{wrong}");
    }
    for good in ["a|b", "(a)|(b)", r"a\)|\(b", "[)]|[(]", "", "(?i)/a"] {
        assert!(Expression::text_matches(good, &RegexHost::default()).is_ok(), "{good}");
    }
}

proptest::proptest! {
    /// What stands around an accepted expression holds for all that it matches.
    #[test]
    fn no_regular_expression_leaves_its_anchors(
        regex in r"([ab|]|\(|\)|\[|\]|\(\?:|\(\?i\)|\\|\^|\$|\.\*|\)\|\(){1,10}",
        text in "[ab]{0,4}",
    ) {
        let host = RegexHost::default();
        if let Ok(Expression(number)) = Expression::text_matches(&regex, &host) {
            let whole = host.pattern(number);
            proptest::prop_assert_eq!(&whole, &format!("^(?:{regex})$"));
            for sentinel in [format!("^Z(?:{regex})$"), format!("^(?:{regex})Z$")] {
                let compiled = regex_lite::Regex::new(&sentinel).unwrap();
                proptest::prop_assert!(!compiled.is_match(&text), "{} {}", regex, text);
            }
        }
    }
}

#[test]
fn a_host_without_cel_says_so() {
    let none = |_: &str| None;
    for error in [
        Expression::condition("true", &none).unwrap_err(),
        Expression::text_matches("/a", &none).unwrap_err(),
    ] {
        assert_eq!(error, "the proxy evaluates no CEL");
    }
}

#[test]
fn only_true_and_false_are_answers() {
    let expression = Expression::condition("a", &host(|_| 0)).unwrap();
    for (value, expected) in [
        (Some(vec![1]), Some(true)),
        (Some(vec![0]), Some(false)),
        (Some(vec![]), None),
        (Some(vec![1, 1]), None),
        (Some(vec![2]), None),
        (None, None),
    ] {
        let mut facts = FakeHost::request("GET", "/");
        facts.expressions.insert(7, value.clone());
        let exchange = Exchange::new(1, &facts);
        assert_eq!(expression.holds(&exchange, None), Ok(expected), "{value:?}");
    }
}
