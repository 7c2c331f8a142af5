//! Tokens that are refused although their signature and claims are good: the configuration names them, or a
//! list at a URL.

use plugin_kit::wire::json;
use serde_json::{Map, Value};

use crate::fetch::remote::Remote;
use crate::token::claims::whole_seconds;

/// The names of revoked tokens, subjects, keys and sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Tokens by their IDs (`jti`).
    pub jti: Vec<String>,
    /// Subjects, all of whose tokens are revoked.
    pub sub: Vec<String>,
    /// Keys by their IDs (`kid`), all of whose tokens are revoked.
    pub kid: Vec<String>,
    /// Sessions by their IDs (`sid`), all of whose tokens are revoked.
    pub sid: Vec<String>,
    /// Subjects whose tokens are revoked that were issued before a time, in seconds since the epoch.
    pub sub_before: Vec<(String, u64)>,
}

/// Why a document is not a list of revoked tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// The document is not one JSON object with each name once.
    #[error("not a JSON object")]
    Json,
    /// The document has a member other than these, which may be meant to revoke something.
    #[error("it has another member than `jti`, `sub`, `kid`, `sid` and `subBefore`")]
    Member,
    /// A member is not a list of texts.
    #[error("a member is not a list of texts")]
    Text,
    /// `subBefore` is not an object of times.
    #[error("`subBefore` is not an object of times in seconds since the epoch")]
    Time,
}

impl Revoked {
    /// The same list, in an order in which names are found.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        for names in [&mut self.jti, &mut self.sub, &mut self.kid, &mut self.sid] {
            names.sort_unstable();
        }
        self.sub_before.sort_unstable();
        self
    }

    /// Reads a list: `{ "jti": […], "sub": […], "kid": […], "sid": […], "subBefore": {…} }`, each of which may be missing.
    ///
    /// # Errors
    /// The document is not such a list.
    #[inline(never)]
    pub fn parse(bytes: &[u8]) -> Result<Self, ListError> {
        let mut list = Self::default();
        for (name, value) in json::object(bytes).map_err(|_| ListError::Json)? {
            let names = match name.as_str() {
                "jti" => &mut list.jti,
                "sub" => &mut list.sub,
                "kid" => &mut list.kid,
                "sid" => &mut list.sid,
                "subBefore" => {
                    let Value::Object(times) = value else { return Err(ListError::Time) };
                    for (sub, time) in times {
                        list.sub_before.push((sub, whole_seconds(&time).ok_or(ListError::Time)?));
                    }
                    continue;
                }
                _ => return Err(ListError::Member),
            };
            let Value::Array(texts) = value else { return Err(ListError::Text) };
            *names = texts.into_iter().map(text).collect::<Result<_, _>>()?;
        }
        Ok(list.sorted())
    }

    /// Whether a token with these claims, signed by the key with this key ID, is revoked.
    pub fn contains(&self, claims: &Map<String, Value>, kid: Option<&str>) -> bool {
        let is_one = |names: &[String], text: Option<&str>| {
            text.is_some_and(|text| names.binary_search_by(|name| name.as_str().cmp(text)).is_ok())
        };
        let claim = |name: &str| claims.get(name).and_then(Value::as_str);
        is_one(&self.jti, claim("jti"))
            || is_one(&self.sub, claim("sub"))
            || is_one(&self.kid, kid)
            || is_one(&self.sid, claim("sid"))
            || claim("sub").is_some_and(|sub| self.is_older(sub, claims))
    }

    /// Whether the subject has tokens that are revoked because of their age, and this one may be one of them.
    fn is_older(&self, sub: &str, claims: &Map<String, Value>) -> bool {
        let found = self.sub_before.binary_search_by(|(known, _)| known.as_str().cmp(sub)).ok();
        let before = found.and_then(|position| self.sub_before.get(position)).map(|(_, before)| *before);
        // A token that does not say when it was issued cannot be a later one.
        before.is_some_and(|before| claims.get("iat").and_then(whole_seconds).is_none_or(|iat| iat < before))
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
    fn list_ends_sessions_by_sid_and_by_the_age_of_a_subjects_tokens() {
        let list = Revoked::parse(br#"{"sid":["s2","s1"],"subBefore":{"bob":2000,"alice":1000}}"#).unwrap();
        for claims in [
            json!({ "sid": "s1", "sub": "carol", "iat": 5000 }),
            json!({ "sid": "s2" }),
            json!({ "sub": "alice", "iat": 999 }),
            json!({ "sub": "alice", "iat": 999.9 }),
            json!({ "sub": "alice" }),
            json!({ "sub": "alice", "iat": "2000" }),
            json!({ "sub": "bob", "iat": 1000 }),
        ] {
            assert!(contains(&list, &claims, None), "{claims}");
        }
        for claims in [
            json!({ "sid": "s3", "sub": "alice", "iat": 1000 }),
            json!({ "sub": "bob", "iat": 2000 }),
            json!({ "sub": "carol" }),
            json!({ "sub": "s1", "sid": "alice" }),
            json!({ "sid": ["s1"] }),
        ] {
            assert!(!contains(&list, &claims, None), "{claims}");
        }
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
            (r#"{"sid":"s1"}"#, ListError::Text),
            (r#"{"subBefore":["alice"]}"#, ListError::Time),
            (r#"{"subBefore":{"alice":"1000"}}"#, ListError::Time),
            (r#"{"subBefore":{"alice":-1}}"#, ListError::Time),
            (r#"{"subBefore":{"alice":1,"alice":2}}"#, ListError::Json),
        ] {
            assert_eq!(Revoked::parse(text.as_bytes()), Err(error), "{text}");
        }
    }
}
