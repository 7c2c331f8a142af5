//! Secrets that stand in a pluginConfig, which the proxy's `config_dump` and everybody who reads the resource can see.

use std::ops::Range;

use crate::document::{Kind, Node};

/// A secret.
pub(crate) struct Secret {
    /// Where it is.
    pub(crate) span: Range<usize>,
    /// The JSON path.
    pub(crate) path: String,
    /// What it is, and where it belongs.
    pub(crate) message: &'static str,
}

const SYMMETRIC: &str = "is a symmetric key; expected `secrets: [{ env: NAME }]` in the place of `jwks`, and the key in the variable \
                         NAME of `vmConfig.env`, with `valueFrom: HOST`";
const PRIVATE: &str = "is a private key, which only the issuer may have; expected its public key (a JWK without `d`), or `jwksUri`";
const NAMED: &str = "is no name of a variable, and may be the secret itself; expected the name, and the secret in the variable of this \
                     name of `vmConfig.env`, with `valueFrom: HOST`";
const LITERAL: &str = "is a secret; expected `env: NAME`, and the secret in the variable NAME of `vmConfig.env`, with `valueFrom: HOST`";
const TOKEN: &str = "is a token, with which anybody who reads this can make requests until it expires";

/// The secrets of a pluginConfig, as far as they can be told by their form or by where they stand.
pub(crate) fn secrets(config: &Node) -> Vec<Secret> {
    let mut found = Vec::new();
    walk(config, String::new(), Place::Elsewhere, &mut found);
    found
}

/// The variables with secrets that a pluginConfig names, and the one that needs no name.
pub(crate) fn variables(config: &Node) -> impl Iterator<Item = String> {
    let mut found = vec!["PSEUDONYM_KEY".to_owned()];
    named(config, false, &mut found);
    found.into_iter()
}

fn named(node: &Node, of_secret: bool, found: &mut Vec<String>) {
    for (name, value) in node.members() {
        if let (true, "env", Some(text)) = (of_secret, name, value.text()) {
            found.extend(is_name(text).then(|| text.to_owned()));
        }
        named(value, of_secret || ["keyFrom", "secrets"].contains(&name), found);
    }
    for element in node.elements() {
        named(element, of_secret, found);
    }
}

/// Where a value stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// What names a variable with a secret: `pseudonym`, `keyFrom`, `secrets`.
    OfSecret,
    /// The name of such a variable.
    Name,
    /// What describes a secret.
    Description,
    Elsewhere,
}

fn add(found: &mut Vec<Secret>, node: &Node, path: String, message: &'static str) {
    found.push(Secret { span: node.span.clone(), path, message });
}

fn walk(node: &Node, path: String, place: Place, found: &mut Vec<Secret>) {
    match &node.kind {
        Kind::Object(members) => {
            let member =
                |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            let is_key = node.get("kty").is_some();
            for (name, _, value) in members {
                let within = match (place, name.as_str()) {
                    (_, "pseudonym" | "keyFrom" | "secrets") => Place::OfSecret,
                    (Place::OfSecret, "env") => Place::Name,
                    (Place::OfSecret, "keyId" | "encoding") => Place::Description,
                    (place, _) => place,
                };
                match name.as_str() {
                    "k" if is_key => add(found, value, member(name), SYMMETRIC),
                    "d" if is_key => add(found, value, member(name), PRIVATE),
                    // The finding about `d` is enough, but none of these is shown.
                    "p" | "q" | "dp" | "dq" | "qi" if is_key => add(found, value, member(name), ""),
                    _ => walk(value, member(name), within, found),
                }
            }
        }
        Kind::List(list) => {
            for (n, element) in list.iter().enumerate() {
                walk(element, format!("{path}[{n}]"), place, found);
            }
        }
        Kind::Scalar(_) => {
            let Some(text) = node.text() else { return };
            let message = match place {
                _ if text.contains("-----BEGIN") && text.contains("PRIVATE KEY-----") => PRIVATE,
                Place::Name if !is_name(text) => NAMED,
                Place::OfSecret if !text.is_empty() => LITERAL,
                _ if is_token(text) => TOKEN,
                _ => match key_in(text) {
                    Some(message) => message,
                    None => return,
                },
            };
            add(found, node, path, message);
        }
    }
}

/// What is secret in the text of a key set.
fn key_in(text: &str) -> Option<&'static str> {
    let set: serde_json::Value =
        serde_json::from_str(text.trim()).ok().filter(|_| text.contains("\"kty\""))?;
    let keys = set["keys"].as_array().map_or(std::slice::from_ref(&set), Vec::as_slice);
    let any = |member: &str| keys.iter().any(|key| key.get("kty").is_some() && key.get(member).is_some());
    if any("k") { Some(SYMMETRIC) } else { any("d").then_some(PRIVATE) }
}

/// Whether this is a signed token in the compact form (RFC 7515), alone or behind `Bearer`.
fn is_token(text: &str) -> bool {
    let token = text.split_ascii_whitespace().last().unwrap_or_default();
    let parts: Vec<&str> = token.split('.').collect();
    let in_base64url = |part: &&str| {
        part.len() > 10 && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    parts.len() == 3 && parts.iter().all(in_base64url) && token.starts_with("eyJ")
}

/// Whether this is a name such as `PSEUDONYM_KEY_2`, and no secret that happens to have the characters of one: words of a few capital
/// letters, and digits at the end alone.
fn is_name(text: &str) -> bool {
    let words: Vec<&str> = text.split('_').filter(|word| !word.is_empty()).collect();
    let is_word = |word: &str| {
        let letters = word.trim_end_matches(|last: char| last.is_ascii_digit());
        let one_case = letters.bytes().all(|byte| byte.is_ascii_uppercase())
            || letters.bytes().all(|byte| byte.is_ascii_lowercase());
        one_case && letters.len() <= 16 && word.len() - letters.len() <= 4
    };
    !words.is_empty() && text.len() <= 64 && words.iter().all(|word| is_word(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_variable_is_told_from_a_secret() {
        for name in ["PSEUDONYM_KEY", "KEY2", "SALT", "_KEY_2026", "jwt_secret"] {
            assert!(is_name(name), "{name}");
        }
        for secret in [
            "5f2b8d0e9c714a36b1d07e5f2b8d0e9c",
            "Q2Vj4mM0s8yXgHn5tqB1rZ7oKd9wEf3u",
            "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP",
            "correct horse battery staple",
            "a-key-of-pseudonyms-for-tests-only",
            "3q2+7wAAAAAAAAAAAAAAAAAAAAAAAAAA+x==",
            "",
        ] {
            assert!(!is_name(secret), "{secret}");
        }
    }
}
