//! What a verified token gives to others: headers for the service, and filter state for other filters, spans
//! and logs.

use std::rc::Rc;

use plugin_kit::request::claim::{published_text, scalar};
use plugin_kit::request::headers::NameLengths;
use serde_json::{Map, Value};

use crate::token::claims::{ClaimPath, Found};
use crate::token::verified::Named;

/// The longest value of a header, in bytes.
const LONGEST: usize = 8 * 1024;

/// The text of a claim in a header: a string as it is, a number or boolean as JSON writes it, a list of these
/// joined by commas, an object or any other list as JSON.
///
/// `None` if the header would not say what the claim says: an element has a comma, there is a control
/// character, or the text is too long. No header is better than one that an end user has shaped.
pub fn header_text(claim: &Value) -> Option<Vec<u8>> {
    let text = match claim {
        Value::Null => return None,
        Value::Array(list) if list.iter().all(|element| scalar(element).is_some()) => {
            let elements: Vec<_> = list.iter().filter_map(scalar).collect();
            if elements.iter().any(|element| element.contains(',') || element.trim() != element.as_ref()) {
                return None;
            }
            elements.join(",")
        }
        Value::Array(_) | Value::Object(_) => claim.to_string(),
        _ => scalar(claim)?.into_owned(),
    };
    let fits = text.len() <= LONGEST && !text.chars().any(char::is_control) && text.trim() == text;
    fits.then(|| text.into_bytes())
}

/// The request headers that only this filter may set. A client's copies are removed from every request,
/// whatever the decision, and with them their twins that a service may take for the same header (`x_user_id`
/// for `x-user-id`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnHeaders {
    /// The names, with a dash for each underscore.
    names: Vec<String>,
    lengths: NameLengths,
}

impl OwnHeaders {
    /// These headers, in lower case.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let mut folded: Vec<String> = names.into_iter().map(|name| name.replace('_', "-")).collect();
        folded.sort_unstable();
        folded.dedup();
        Self { lengths: NameLengths::of(&folded), names: folded }
    }

    /// Whether a request header is one of these, or a twin.
    pub fn contain(&self, name: &[u8]) -> bool {
        self.names.iter().any(|own| own.len() == name.len() && is_twin(own, name))
    }

    /// The lengths of the names.
    pub fn lengths(&self) -> NameLengths {
        self.lengths
    }
}

fn is_twin(own: &str, name: &[u8]) -> bool {
    let same = |(a, b): (u8, &u8)| a == b.to_ascii_lowercase() || (a == b'-' && *b == b'_');
    own.bytes().zip(name).all(same)
}

/// The header of each claim that is present, and how many present claims have none.
pub fn headers<'a>(
    claims: &Map<String, Value>,
    outputs: impl IntoIterator<Item = (&'a ClaimPath, Rc<str>)>,
) -> (Vec<Named>, u32) {
    let (mut texts, mut failed) = (Vec::new(), 0_u32);
    for (path, key) in outputs {
        let Found::Claim(claim) = path.find(claims) else { continue };
        match header_text(claim) {
            Some(text) => texts.push((key, text.into())),
            None => failed = failed.saturating_add(1),
        }
    }
    (texts, failed)
}

/// The filter state of each claim that is present, and how many of these are too long or stand behind a list.
/// The filter state of such a claim is empty, so that whoever asks for its values does not take it for
/// missing.
pub fn published<'a>(
    claims: &Map<String, Value>,
    outputs: impl IntoIterator<Item = (&'a ClaimPath, Rc<str>)>,
) -> (Vec<Named>, u32) {
    let (mut texts, mut failed) = (Vec::new(), 0_u32);
    for (path, key) in outputs {
        let text = match path.find(claims) {
            Found::Claim(claim) => published_text(claim),
            Found::Undecided => None,
            Found::Missing => continue,
        };
        failed = failed.saturating_add(u32::from(text.is_none()));
        texts.push((key, text.unwrap_or_default().into()));
    }
    (texts, failed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn header(claim: &Value) -> Option<String> {
        header_text(claim).map(|text| String::from_utf8(text).unwrap())
    }

    #[test]
    fn claims_as_header_values() {
        for (claim, expected) in [
            (json!("a b"), "a b"),
            (json!("é"), "é"),
            (json!(7), "7"),
            (json!(1.5), "1.5"),
            (json!(true), "true"),
            (json!(["a", 7, false]), "a,7,false"),
            (json!([]), ""),
            (json!({ "a": [1] }), r#"{"a":[1]}"#),
            (json!([["a"], {}]), r#"[["a"],{}]"#),
        ] {
            assert_eq!(header(&claim).as_deref(), Some(expected), "{claim}");
        }
    }

    #[test]
    fn claim_that_a_header_would_change_has_none() {
        for claim in [
            json!(null),
            json!("a\r\nx: y"),
            json!("a\u{0}"),
            json!("a\u{85}"),
            json!(" a"),
            json!("a\t"),
            json!(["reader,admin"]),
            json!(["reader", " admin"]),
            json!("x".repeat(LONGEST + 1)),
        ] {
            assert_eq!(header(&claim), None, "{claim}");
        }
    }

    #[test]
    fn too_long_claim_is_published_empty() {
        let claims = json!({ "a": "1", "b": "x".repeat(LONGEST + 1), "c": null });
        let paths = ["a", "b", "c", "d"].map(|name| (ClaimPath::parse(name).unwrap(), Rc::from(name)));
        let outputs = paths.iter().map(|(path, key)| (path, Rc::clone(key)));
        let (texts, failed) = published(claims.as_object().unwrap(), outputs);
        let texts: Vec<_> = texts.iter().map(|(key, text)| (&**key, &**text)).collect();
        assert_eq!((texts, failed), (vec![("a", &b"1"[..]), ("b", b"")], 1));
    }

    #[test]
    fn underscore_twins_are_own_headers_too() {
        let own = OwnHeaders::new(["x-user-id".to_owned(), "x_odd".to_owned()]);
        for name in ["x-user-id", "x_user_id", "x-user_id", "X-User-Id", "x-odd", "x_odd"] {
            assert!(own.contain(name.as_bytes()), "{name}");
        }
        for name in ["x-user-i", "x-user-ids", "xuser-id", "y-user-id", ""] {
            assert!(!own.contain(name.as_bytes()), "{name}");
        }
    }

    proptest! {
        #[test]
        fn header_value_has_no_control_character(text in "\\PC*|(?s).*") {
            if let Some(value) = header_text(&Value::String(text.clone())) {
                prop_assert_eq!(&value, text.as_bytes());
                prop_assert!(value.iter().all(|byte| *byte >= 0x20 && *byte != 0x7f));
            }
        }
    }
}
