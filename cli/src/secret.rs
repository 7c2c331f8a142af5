//! Secrets in a pluginConfig. The proxy's `config_dump` shows them, and so does the resource.

use std::ops::Range;

use serde_json::Value;

use crate::document::{Kind, Node};

/// A secret in a configuration.
pub(crate) struct Secret {
    /// Its place.
    pub(crate) span: Range<usize>,
    /// Its JSON path.
    pub(crate) path: String,
    /// The message: what it is, and where it belongs.
    pub(crate) message: &'static str,
}

const SYMMETRIC: &str = "is a symmetric key; expected `secrets: [{ env: NAME }]` in the place of `jwks`, and the key in the variable \
                         NAME of `vmConfig.env`, with `valueFrom: HOST`";
const PRIVATE: &str = "is a private key, which only the issuer may have; expected its public key (a JWK without `d`), or `jwksUri`";
const NAMED: &str = "is not the name of a variable, and may be the secret itself; expected the name, and the secret in the variable of this \
                     name of `vmConfig.env`, with `valueFrom: HOST`";
const LITERAL: &str = "is a secret; expected `env: NAME`, and the secret in the variable NAME of `vmConfig.env`, with `valueFrom: HOST`";
const TOKEN: &str = "is a token, with which anybody who reads this can make requests until it expires";

/// Whether the value of a header, a cookie, a parameter or an option of this name is not shown. Names are
/// compared by their words: `X-Api-Key`, `api_key` and `apiKey` are the same.
pub(crate) fn is_secret_name(name: &str) -> bool {
    const WITHIN: [&str; 15] = [
        "apikey",
        "accesskey",
        "assertion",
        "authorization",
        "cookie",
        "credential",
        "jwt",
        "passphrase",
        "passwd",
        "password",
        "privatekey",
        "secret",
        "session",
        "signature",
        "token",
    ];
    const WORDS: [&str; 9] = ["auth", "code", "key", "otp", "pass", "pin", "pwd", "sid", "sig"];
    let lower = name.to_ascii_lowercase();
    if lower.starts_with("access-control-") {
        return false;
    }
    let joined: String = lower.chars().filter(char::is_ascii_alphanumeric).collect();
    WITHIN.iter().any(|word| joined.contains(word))
        || lower.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| WORDS.contains(&word))
}

/// A text without its credentials: the signatures of tokens, and the user information of URLs. It stays as
/// long as it was, in bytes.
pub(crate) fn concealed(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut hide = |span: Range<usize>| {
        for byte in &mut bytes[span] {
            // Outside tokens, a character may have several bytes.
            *byte = b'*';
        }
    };
    for (start, _) in text.match_indices("eyJ") {
        let of_token = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let length = text[start..].find(|c| !of_token(c)).unwrap_or(text.len() - start);
        let token = &text[start..start + length];
        let mut dots = token.match_indices('.').map(|(at, _)| at);
        if let Some(second) = dots.nth(1) {
            hide(start + second + 1..start + length);
        }
    }
    for (start, _) in text.match_indices("://") {
        hide(user_of(text, start + 3));
        query_of(text, start + 3).into_iter().for_each(&mut hide);
    }
    String::from_utf8(bytes).unwrap_or_else(|_| "a text that is not shown".to_owned())
}

/// The place of a URL's user information (RFC 3986, section 3.2.1). The authority begins at `start`.
fn user_of(text: &str, start: usize) -> Range<usize> {
    let is_end = |c: char| "/?#\"'`".contains(c) || c.is_whitespace() || c.is_control();
    let authority = text[start..].split(is_end).next().unwrap_or_default();
    start..start + authority.rfind('@').unwrap_or(0)
}

/// Where the values of secret parameters stand in the query of a URL, whose authority begins at `start`.
fn query_of(text: &str, start: usize) -> Vec<Range<usize>> {
    let is_end = |c: char| "#\"'`<>".contains(c) || c.is_whitespace() || c.is_control();
    let url = text[start..].split(is_end).next().unwrap_or_default();
    let Some((before, query)) = url.split_once('?') else { return Vec::new() };
    let (mut at, mut found) = (start + before.len() + 1, Vec::new());
    for parameter in query.split('&') {
        if let Some((name, _)) = parameter.split_once('=').filter(|(name, _)| is_secret_name(name)) {
            found.push(at + name.len() + 1..at + parameter.len());
        }
        at += parameter.len() + 1;
    }
    found
}

/// The secrets of a pluginConfig, as far as their form or their place tells.
pub(crate) fn secrets(config: &Node) -> Vec<Secret> {
    let mut found = Vec::new();
    walk(config, String::new(), Place::Elsewhere, &mut found);
    found
}

/// The variables with secrets: those that a pluginConfig names, and the one that needs no name.
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
        let of_secret = of_secret || ["keyFrom", "secrets", "clientSecret", "jwksHeaders"].contains(&name);
        named(value, of_secret, found);
    }
    for element in node.elements() {
        named(element, of_secret, found);
    }
}

/// Whether an option of this name would hold a secret. No option of the filters has such a name.
fn is_secret_option(name: &str) -> bool {
    const NAMES: [&str; 12] = [
        "accesskey",
        "accesstoken",
        "apikey",
        "authorization",
        "clientsecret",
        "idtoken",
        "passwd",
        "password",
        "privatekey",
        "refreshtoken",
        "secret",
        "token",
    ];
    let joined: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    NAMES.contains(&joined.to_ascii_lowercase().as_str())
}

/// The context of a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// An option that names a variable with a secret: `pseudonym`, `keyFrom`, `secrets`.
    OfSecret,
    /// The name of such a variable.
    Name,
    /// The headers of a request, a response or a test, by name.
    OfHeaders,
    /// The headers of a fetch, whose values are those of variables: `jwksHeaders`.
    OfFetch,
    /// A value that is never shown.
    Hidden,
    /// A description of a secret.
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
                    (Place::OfSecret | Place::OfFetch, "env") => Place::Name,
                    (Place::OfSecret, "keyId" | "encoding") => Place::Description,
                    (Place::OfHeaders | Place::OfFetch, name) if is_secret_name(name) => Place::Hidden,
                    (Place::Elsewhere, "headers" | "addHeaders") => Place::OfHeaders,
                    (Place::Elsewhere, "jwksHeaders") => Place::OfFetch,
                    (Place::Elsewhere, name) if is_secret_option(name) => Place::Hidden,
                    (place, _) => place,
                };
                match name.as_str() {
                    "k" if is_key => add(found, value, member(name), SYMMETRIC),
                    "d" if is_key => add(found, value, member(name), PRIVATE),
                    // The finding about `d` is enough, but no other private member is shown either.
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
        Kind::Scalar(Value::Number(_)) if place == Place::Hidden => add(found, node, path, ""),
        Kind::Scalar(_) => {
            let Some(text) = node.text() else { return };
            let message = match place {
                _ if text.contains("-----BEGIN") && text.contains("PRIVATE KEY-----") => PRIVATE,
                Place::Name if !is_name(text) => NAMED,
                Place::OfSecret if !text.is_empty() => LITERAL,
                _ if is_token(text) => TOKEN,
                _ => match key_in(text) {
                    Some(message) => message,
                    None if place == Place::Hidden || concealed(text) != text => "",
                    None => return,
                },
            };
            add(found, node, path, message);
        }
    }
}

/// The secrets in the text of a key set.
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

/// Whether this is a name such as `PSEUDONYM_KEY_2`, and not a secret in the same characters: a name consists
/// of words of a few capital letters, with digits only at its end.
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
    fn secrets_are_told_by_their_names() {
        for name in [
            "api_key",
            "X-Api-Key",
            "apikey",
            "token",
            "sig",
            "x-sig",
            "X-Hub-Signature",
            "code",
            "access_token",
            "id_token",
            "clientSecret",
            "client-secret",
            "password",
            "x-goog-iap-jwt-assertion",
            "Set-Cookie",
            "proxy-authorization",
            "key",
            "sid",
            "x-amz-security-token",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in [
            "x-user-id",
            "design",
            "sigma",
            "monkey",
            "codec",
            "access-control-allow-credentials",
            "www-authenticate",
            "tenant",
            "passenger",
            "",
        ] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn neither_signatures_nor_users_of_a_url_are_shown() {
        for (text, shown) in [
            (
                "a eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.c2ln_-1/é",
                "a eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.*******/é",
            ),
            ("/x/eyJh.eyJz.c2ln?t=eyJh.a.b.c.d", "/x/eyJh.eyJz.****?t=eyJh.a.*****"),
            ("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0"),
            ("GET https://user:p@w@host/a@b", "GET https://********@host/a@b"),
            ("'spiffe://a/b' u@host https://host?a@b", "'spiffe://a/b' u@host https://host?a@b"),
            ("https://é@h", "https://**@h"),
            ("'https://h/k?a=b&key=SECRET&c=d#key=e' key=f", "'https://h/k?a=b&key=******&c=d#key=e' key=f"),
            ("https://h?apiKey=é&sig=", "https://h?apiKey=**&sig="),
        ] {
            assert_eq!(concealed(text), shown);
        }
    }

    #[test]
    fn secret_in_the_place_of_a_variable_is_found() {
        let within = |text: &str| {
            let config = crate::document::parse(text).unwrap();
            let found = secrets(&config[0]);
            found.into_iter().map(|secret| secret.path).collect::<Vec<_>>()
        };
        assert_eq!(
            within(r#"{"a":{"jwksHeaders":[{"name":"authorization","env":"Basic dTpodW50ZXI0"}]}}"#),
            ["a.jwksHeaders[0].env"]
        );
        assert_eq!(within(r#"{"a":{"jwksHeaders":[{"name":"authorization","env":"ISSUER_KEY"}]}}"#), [""; 0]);
    }

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
