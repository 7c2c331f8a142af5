use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn the_values_of_a_claim_are_itself_its_elements_or_its_words() {
    for (claim, words, known, more) in [
        (json!("a b"), false, &["a b"][..], false),
        (json!(" a  b"), true, &["a", "b"], false),
        (json!(""), false, &[""], false),
        (json!(""), true, &[], false),
        (json!(7), true, &["7"], false),
        (json!(["a b", 7, true, false, null]), false, &["a b", "7", "true", "false"], false),
        (json!(["a\tb", " c\u{a0}", "", 7]), true, &["a", "b", "c", "7"], false),
        (json!("a\tb\nc"), true, &["a", "b", "c"], false),
        (json!([5.0, 0.5, -0.0, -12.25]), false, &["5", "0.5", "0", "-12.25"], false),
        (json!([0.123_456_789_012_345_6, 1e-7, 0.5]), false, &["0.5"], true),
        (json!([1e16, "a"]), false, &["a"], true),
        (json!(1_000_000_000_000_000.0), false, &[], true),
        (json!(-999_999_999_999_999.0), false, &["-999999999999999"], false),
        (json!(u64::MAX), false, &["18446744073709551615"], false),
        (json!([]), false, &[], false),
        (json!(["a", {}]), false, &["a"], true),
        (json!([["a"]]), false, &[], true),
        (json!({ "a": 1 }), false, &[], true),
        (json!({}), false, &[], true),
    ] {
        let values = ClaimValues::of(Some(&claim), words);
        assert_eq!(
            (values.known(), values.has_more()),
            (&known.iter().map(|v| Cow::Borrowed(*v)).collect::<Vec<_>>()[..], more),
            "{claim}"
        );
        assert!(values.is_present(), "{claim}");
    }
    for missing in [None, Some(&Value::Null)] {
        let values = ClaimValues::of(missing, false);
        assert_eq!((values.is_present(), values.known().len(), values.has_more()), (false, 0, false));
    }
}

#[test]
fn a_string_that_looks_like_json_is_no_json_where_it_is_read() {
    for text in [r#"["admin"]"#, "[", r#"{"a":1}"#, "{", r#""admin""#, "\""] {
        let published = published_text(&json!(text)).unwrap();
        assert_eq!(ClaimValues::published(Some(&published), false).known(), [text], "{text}");
        assert!(published.starts_with(b"\""), "{text}");
    }
    let empty = published_text(&json!("")).unwrap();
    assert_eq!(empty, PUBLISHED_EMPTY);
    assert_eq!(ClaimValues::published(Some(&empty), false).known(), [""]);
    for text in ["admin", "a[", "7", "5.0", "true", "null", " [\"admin\"]"] {
        assert_eq!(published_text(&json!(text)).unwrap(), text.as_bytes(), "{text}");
    }
}

#[test]
fn a_text_that_is_a_number_has_one_text_for_it() {
    for (text, expected) in [
        ("5", Some("5")),
        ("5.0", Some("5")),
        ("5e0", Some("5")),
        ("50E-1", Some("5")),
        ("0.05e+2", Some("5")),
        ("500e-2", Some("5")),
        ("-5.00", Some("-5")),
        ("0.0", Some("0")),
        ("-0", Some("0")),
        ("0e99999999999999999999", Some("0")),
        ("0.1234567890123456789", None),
        ("1.50", Some("1.5")),
        ("15e-1", Some("1.5")),
        ("9007199254740993.0", Some("9007199254740993")),
        ("1e19", Some("10000000000000000000")),
        ("1e20", None),
        ("1e300", None),
        ("1e-300", None),
        ("5.0000000000000001", Some("5")),
        (" 5", None),
        ("05", None),
        ("+5", None),
        ("5.", None),
        ("0x5", None),
        ("", None),
        ("true", None),
        ("NaN", None),
    ] {
        assert_eq!(number_text(text).as_deref(), expected, "{text}");
    }
}

#[test]
fn a_number_that_need_not_be_what_was_written_is_published_as_no_text() {
    for (claim, expected) in
        [(json!(5.0), "5"), (json!(1e20), "[1e+20]"), (json!(-0.0), "0"), (json!(1.5), "1.5")]
    {
        assert_eq!(published_text(&claim).unwrap(), expected.as_bytes(), "{claim}");
    }
}

#[test]
fn what_is_published_and_cannot_be_read_is_there_and_unknown() {
    let unknown = ClaimValues { present: true, known: Vec::new(), more: true };
    for text in [&b""[..], b"[", b"{\"a\":1,\"a\":2}", b"\"", b"\xff", b"[\"a\"] x"] {
        assert_eq!(ClaimValues::published(Some(text), false), unknown, "{text:?}");
    }
    assert!(!ClaimValues::published(None, false).is_present());
    assert_eq!(published_text(&json!("x".repeat(LONGEST + 1))), None);
    assert_eq!(published_text(&json!(["x".repeat(LONGEST)])), None);
}

fn claims() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        // Of more than 15 digits the parser can read the neighbouring double.
        (any::<i32>(), -30_i32..30)
            .prop_map(|(n, e)| Value::from(format!("{n}e{e}").parse::<f64>().unwrap())),
        "[\\[{\"a \t]{0,6}".prop_map(Value::from),
        "[0-9.e]{1,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            inner.prop_map(|value| json!({ "a": value })),
        ]
    })
}

proptest! {
    #[test]
    fn a_published_claim_has_the_values_that_it_has_in_the_token(claim in claims(), words: bool) {
        prop_assume!(!claim.is_null());
        let published = published_text(&claim).unwrap();
        prop_assert_eq!(ClaimValues::published(Some(&published), words), ClaimValues::of(Some(&claim), words));
    }

    #[test]
    fn a_text_is_the_number_that_is_read_from_it(whole in any::<i64>(), zeros in 0_usize..3, exponent in 0_i32..3) {
        for (text, number) in [
            (whole.to_string(), whole),
            (format!("{whole}.{}", "0".repeat(zeros + 1)), whole),
            (format!("{whole}{}e-{exponent}", "0".repeat(usize::try_from(exponent).unwrap())), whole),
        ] {
            prop_assert_eq!(number_text(&text), Some(number.to_string()), "{}", text);
        }
    }

    #[test]
    fn any_published_bytes_are_read(bytes: Vec<u8>, words: bool) {
        let _ = ClaimValues::published(Some(&bytes), words);
    }
}
