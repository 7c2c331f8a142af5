//! The values of a claim, as tests compare them, and the text by which a claim goes from the filter that verified it to
//! the others.

use std::borrow::Cow;

use serde_json::Value;

use crate::json;

/// What a claim has that a text can be compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimValues<'a> {
    present: bool,
    known: Vec<Cow<'a, str>>,
    more: bool,
}

impl<'a> ClaimValues<'a> {
    /// Of a claim as it stands in the token: itself, or the elements of its list; with `words` a string is a list of them. A
    /// null is no claim and no element.
    pub fn of(claim: Option<&'a Value>, words: bool) -> Self {
        match claim {
            None | Some(Value::Null) => Self { present: false, known: Vec::new(), more: false },
            Some(Value::String(text)) => Self::of_text(text, words),
            Some(Value::Array(list)) => Self {
                present: true,
                known: list.iter().filter_map(scalar).collect(),
                more: list.iter().any(is_compound),
            },
            Some(value) => {
                Self { present: true, known: scalar(value).into_iter().collect(), more: is_compound(value) }
            }
        }
    }

    /// Of a claim as it was published, see [`published_text`].
    pub fn published(text: Option<&'a [u8]>, words: bool) -> Self {
        let unknown = Self { present: true, known: Vec::new(), more: true };
        let Some(bytes) = text else { return Self::of(None, words) };
        match (std::str::from_utf8(bytes), bytes.first()) {
            (Err(_), _) | (_, None) => unknown,
            (_, Some(first)) if JSON_STARTS.contains(first) => match json::value(bytes) {
                Ok(value) => ClaimValues::of(Some(&value), words).into_owned(),
                Err(_) => unknown,
            },
            (Ok(text), _) => Self::of_text(text, words),
        }
    }

    fn of_text(text: &'a str, words: bool) -> Self {
        let known = if words {
            text.split(' ').filter(|word| !word.is_empty()).map(Cow::Borrowed).collect()
        } else {
            vec![Cow::Borrowed(text)]
        };
        Self { present: true, known, more: false }
    }

    fn into_owned(self) -> ClaimValues<'static> {
        let known = self.known.into_iter().map(|value| Cow::Owned(value.into_owned())).collect();
        ClaimValues { known, present: self.present, more: self.more }
    }

    /// Whether the claim is there and not null.
    pub fn is_present(&self) -> bool {
        self.present
    }

    /// The values that are known: strings, and numbers and booleans as JSON writes them.
    pub fn known(&self) -> &[Cow<'a, str>] {
        &self.known
    }

    /// The same, without the rest.
    pub fn into_known(self) -> Vec<Cow<'a, str>> {
        self.known
    }

    /// Whether it has more than is known: an object, a list within the list, or a text that could not be published.
    pub fn has_more(&self) -> bool {
        self.more
    }
}

/// A string, number or boolean as text.
pub fn scalar(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        Value::Bool(true) => Some(Cow::Borrowed("true")),
        Value::Bool(false) => Some(Cow::Borrowed("false")),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn is_compound(value: &Value) -> bool {
    matches!(value, Value::Array(_) | Value::Object(_))
}

/// With what a published text starts that is JSON.
const JSON_STARTS: [u8; 3] = [b'[', b'{', b'"'];

/// The longest text that is published, in bytes.
const LONGEST: usize = 8 * 1024;

/// The text of a claim in filter state: a string as it is, anything else as JSON. A string that starts as a list, an object
/// or a string does in JSON is written as JSON too, so that nobody takes `["admin"]` for a list who reads it.
///
/// `None` where it is too long. An empty text then says that the claim is there.
pub fn published_text(claim: &Value) -> Option<Vec<u8>> {
    let text = match claim {
        Value::String(text) if !text.bytes().next().is_some_and(|first| JSON_STARTS.contains(&first)) => {
            text.clone()
        }
        other => other.to_string(),
    };
    (text.len() <= LONGEST).then(|| text.into_bytes())
}

#[cfg(test)]
mod tests {
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
            (json!(["a b", 7, true, false, null]), true, &["a b", "7", "true", "false"], false),
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
        for text in ["admin", "a[", "7", "true", "null", " [\"admin\"]"] {
            assert_eq!(published_text(&json!(text)).unwrap(), text.as_bytes(), "{text}");
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
            "[\\[{\"a ]{1,6}".prop_map(Value::from),
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
        fn any_published_bytes_are_read(bytes: Vec<u8>, words: bool) {
            let _ = ClaimValues::published(Some(&bytes), words);
        }
    }
}
