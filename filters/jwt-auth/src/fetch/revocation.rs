//! Tokens that are refused although their signature and claims are good: the configuration names them, or a
//! list at a URL.

use plugin_kit::wire::json;
use serde_json::{Map, Value};

use crate::fetch::remote::Remote;

/// The names of revoked tokens, subjects and keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked {
    jti: Vec<String>,
    sub: Vec<String>,
    kid: Vec<String>,
}

/// Why a document is not a list of revoked tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// The document is not one JSON object with each name once.
    #[error("not a JSON object")]
    Json,
    /// The document has a member other than these three, which may be meant to revoke something.
    #[error("it has another member than `jti`, `sub` and `kid`")]
    Member,
    /// A member is not a list of texts.
    #[error("a member is not a list of texts")]
    Text,
}

impl Revoked {
    /// Revokes every token with one of these values of `jti` or `sub`, and every token that a key with one of
    /// these key IDs has signed.
    pub fn new(mut jti: Vec<String>, mut sub: Vec<String>, mut kid: Vec<String>) -> Self {
        for names in [&mut jti, &mut sub, &mut kid] {
            names.sort_unstable();
        }
        Self { jti, sub, kid }
    }

    /// Reads a list: `{ "jti": […], "sub": […], "kid": […] }`, each of which may be missing.
    ///
    /// # Errors
    /// The document is not such a list.
    pub fn parse(bytes: &[u8]) -> Result<Self, ListError> {
        let (mut jti, mut sub, mut kid) = (Vec::new(), Vec::new(), Vec::new());
        for (name, value) in json::object(bytes).map_err(|_| ListError::Json)? {
            let names = match name.as_str() {
                "jti" => &mut jti,
                "sub" => &mut sub,
                "kid" => &mut kid,
                _ => return Err(ListError::Member),
            };
            let Value::Array(list) = value else { return Err(ListError::Text) };
            *names = list.into_iter().map(text).collect::<Result<_, _>>()?;
        }
        Ok(Self::new(jti, sub, kid))
    }

    /// Whether a token with these claims, signed by the key with this key ID, is revoked.
    pub fn contains(&self, claims: &Map<String, Value>, kid: Option<&str>) -> bool {
        let is_one = |names: &[String], text: Option<&str>| {
            text.is_some_and(|text| names.binary_search_by(|name| name.as_str().cmp(text)).is_ok())
        };
        let claim = |name: &str| claims.get(name).and_then(Value::as_str);
        is_one(&self.jti, claim("jti")) || is_one(&self.sub, claim("sub")) || is_one(&self.kid, kid)
    }
}

fn text(name: Value) -> Result<String, ListError> {
    match name {
        Value::String(name) => Ok(name),
        _ => Err(ListError::Text),
    }
}

/// A list at a URL.
#[derive(Debug)]
pub struct RemoteList {
    /// Where the list is fetched.
    pub remote: Remote,
    /// What happens while there is no list.
    pub on_failure: OnFailure,
}

plugin_kit::config_choice! {
    /// What happens to tokens while the list of revoked tokens could not be fetched, or is too old.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum OnFailure {
        /// The tokens are refused with 503.
        #[default]
        Deny,
        /// The tokens are accepted, unless the configuration itself revokes them.
        Allow,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn contains(list: &Revoked, claims: &Value, kid: Option<&str>) -> bool {
        list.contains(claims.as_object().unwrap(), kid)
    }

    #[test]
    fn list_revokes_by_jti_sub_or_kid() {
        let list = Revoked::parse(br#"{"jti":["t2","t1"],"sub":["mallory"],"kid":["old"]}"#).unwrap();
        for (claims, kid) in [
            (json!({ "jti": "t1" }), None),
            (json!({ "jti": "t2" }), Some("new")),
            (json!({ "sub": "mallory", "jti": "t3" }), None),
            (json!({}), Some("old")),
        ] {
            assert!(contains(&list, &claims, kid), "{claims} {kid:?}");
        }
        for (claims, kid) in [
            (json!({ "jti": "mallory", "sub": "t1" }), Some("t1")),
            (json!({ "jti": ["t1"], "sub": null }), None),
            (json!({}), None),
        ] {
            assert!(!contains(&list, &claims, kid), "{claims} {kid:?}");
        }
        assert!(!contains(&Revoked::parse(b"{}").unwrap(), &json!({ "jti": "" }), Some("")));
    }

    #[test]
    fn malformed_list_is_refused() {
        for (text, error) in [
            ("", ListError::Json),
            ("[]", ListError::Json),
            (r#"{"jti":[],"jti":[]}"#, ListError::Json),
            (r#"{"jti":"t1"}"#, ListError::Text),
            (r#"{"sub":[7]}"#, ListError::Text),
            (r#"{"jtis":["t1"]}"#, ListError::Member),
        ] {
            assert_eq!(Revoked::parse(text.as_bytes()), Err(error), "{text}");
        }
    }
}
