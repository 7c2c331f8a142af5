//! A JSON Web Token in compact form (RFC 7515, RFC 7519), not yet verified.

use std::rc::Rc;

use plugin_kit::wire::json;
use serde_json::{Map, Value};

use crate::keys::algorithm::Algorithm;
use crate::token::base64url;

/// A well-formed token. Nothing in it is to be believed before its signature is verified.
#[derive(Clone)]
pub struct UntrustedToken<'a> {
    /// What the signature covers: header and payload as they were sent.
    pub signing_input: &'a str,
    /// The algorithm of its signature, as the token says.
    pub algorithm: Algorithm,
    /// The key ID of the key that it names.
    pub kid: Option<String>,
    /// Its type, see [`short_type`].
    pub typ: Option<String>,
    /// The load balancer that has signed it, if AWS ALB has (`signer`).
    pub signer: Option<String>,
    /// Whether a part is padded, against RFC 7515 section 2.
    pub padded: bool,
    /// The claims that it makes.
    pub claims: Rc<Map<String, Value>>,
    /// The signature.
    pub signature: Vec<u8>,
}

/// Why bytes are not a token that this filter accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token is longer than [`LONGEST`].
    #[error("the token is too long")]
    TooLong,
    /// The text does not have three parts with dots between them: it is an encrypted token, the JSON
    /// serialisation, or something else.
    #[error("not a JWS in compact form")]
    NotCompact,
    /// A part is not base64url, or not the only encoding of its value.
    #[error("a part is not base64url")]
    Encoding,
    /// The header is not one JSON object with each name once.
    #[error("the header is not a JSON object")]
    HeaderJson,
    /// The payload is not one JSON object with each name once.
    #[error("the payload is not a JSON object")]
    PayloadJson,
    /// A header parameter has a type that it cannot have.
    #[error("a header parameter has a wrong type")]
    HeaderType,
    /// `alg` is `none`, or an algorithm that this filter does not know.
    #[error("the algorithm is unknown")]
    UnknownAlgorithm,
    /// The token has `crit` or `b64`: it must be understood in a way that this filter does not know.
    #[error("a critical header parameter is not understood")]
    Critical,
    /// The token brings its own key.
    #[error("the token brings its own key")]
    EmbeddedKey,
}

/// The longest token that is read, in bytes. Envoy accepts 60 KiB of headers in all.
pub const LONGEST: usize = 16 * 1024;

/// The longest key ID that is read, in bytes.
const LONGEST_KID: usize = 256;

/// A token type (`typ`) in lower case and without the `application/` that it may have (RFC 7515 section
/// 4.1.9).
pub fn short_type(typ: &str) -> String {
    let typ = typ.to_ascii_lowercase();
    match typ.strip_prefix("application/") {
        Some(short) if !short.contains('/') => short.to_owned(),
        _ => typ,
    }
}

/// Whether bytes may be an opaque token, which says nothing to anybody but its issuer: a token as RFC 6750 section 2.1 writes
/// it, and not a JWS in compact form, whatever else is wrong with that. An encrypted token is opaque.
pub fn is_opaque(token: &[u8]) -> bool {
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
    // The header of a JWS is a JSON object.
    let start = token.first_chunk::<4>().and_then(|start| base64url::decode(start));
    let is_header = start.is_some_and(|start| matches!(start.trim_ascii_start().first(), Some(b'{') | None));
    let is_jws = is_header && token.split(|byte| *byte == b'.').count() == 3;
    !token.is_empty() && token.len() <= LONGEST && token.iter().all(good) && !is_jws
}

impl<'a> UntrustedToken<'a> {
    /// Reads a token in compact form.
    ///
    /// # Errors
    /// The bytes are not a token that this filter accepts.
    pub fn parse(token: &'a [u8]) -> Result<Self, TokenError> {
        if token.len() > LONGEST {
            return Err(TokenError::TooLong);
        }
        let compact = std::str::from_utf8(token).map_err(|_| TokenError::Encoding)?;
        let (signing_input, signature) = compact.rsplit_once('.').ok_or(TokenError::NotCompact)?;
        let (header, payload) = signing_input.split_once('.').ok_or(TokenError::NotCompact)?;
        if payload.contains('.') || [header, payload, signature].contains(&"") {
            return Err(TokenError::NotCompact);
        }
        let padded = [header, payload, signature].iter().any(|part| part.ends_with('='));
        let decode = |part: &str| {
            let decoded =
                if padded { base64url::decode_padded(part) } else { base64url::decode(part.as_bytes()) };
            decoded.ok_or(TokenError::Encoding)
        };
        let header = json::object(&decode(header)?).map_err(|_| TokenError::HeaderJson)?;
        let header = Header::read(&header)?;
        Ok(Self {
            signing_input,
            algorithm: header.algorithm,
            kid: header.kid,
            typ: header.typ,
            signer: header.signer,
            padded,
            claims: json::object(&decode(payload)?).map_err(|_| TokenError::PayloadJson)?.into(),
            signature: decode(signature)?,
        })
    }
}

struct Header {
    algorithm: Algorithm,
    kid: Option<String>,
    typ: Option<String>,
    signer: Option<String>,
}

impl Header {
    fn read(members: &Map<String, Value>) -> Result<Self, TokenError> {
        if members.contains_key("crit") || members.contains_key("b64") {
            // An empty `crit` is forbidden, and none of its extensions is known here (RFC 7515 section
            // 4.1.11).
            return Err(TokenError::Critical);
        }
        if members.contains_key("jwk") {
            return Err(TokenError::EmbeddedKey);
        }
        let text = |name: &str| match members.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(TokenError::HeaderType),
        };
        // These are not used. Types other than those of RFC 7515 are refused, since such a token is meant for
        // another reader.
        for name in ["cty", "jku", "x5u", "x5t", "x5t#S256"] {
            text(name)?;
        }
        match members.get("x5c") {
            None => {}
            Some(Value::Array(chain)) if chain.iter().all(Value::is_string) => {}
            Some(_) => return Err(TokenError::HeaderType),
        }
        if text("salt")?.is_some_and(|salt| base64url::decode(salt.as_bytes()).is_none()) {
            return Err(TokenError::HeaderType);
        }
        let kid = text("kid")?.map(str::to_owned);
        if kid.as_ref().is_some_and(|kid| kid.len() > LONGEST_KID) {
            return Err(TokenError::HeaderType);
        }
        let algorithm = text("alg")?.and_then(Algorithm::named).ok_or(TokenError::UnknownAlgorithm)?;
        let signer = members.get("signer").and_then(Value::as_str).map(str::to_owned);
        Ok(Self { algorithm, kid, typ: text("typ")?.map(short_type), signer })
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;

    use super::*;

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.AA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
    }

    fn error(token: &str) -> Option<TokenError> {
        UntrustedToken::parse(token.as_bytes()).err()
    }

    #[test]
    fn well_formed_token_is_read() {
        let text = token(r#"{"alg":"RS256","kid":"k","typ":"at+JWT"}"#, r#"{"sub":"alice"}"#);
        let token = UntrustedToken::parse(text.as_bytes()).unwrap();
        assert_eq!(token.algorithm, Algorithm::RS256);
        assert_eq!((token.kid.as_deref(), token.typ.as_deref()), (Some("k"), Some("at+jwt")));
        assert_eq!(token.claims["sub"], "alice");
        assert_eq!(token.signing_input, text.rsplit_once('.').unwrap().0);
        assert_eq!(token.signature, [0]);
    }

    #[test]
    fn what_may_be_a_jws_is_not_opaque() {
        let jws = token(r#"{"alg":"RS256"}"#, "{}");
        let spaced = token(" \n {\"alg\":\"RS256\"}", "{}");
        for text in [
            &*jws,
            &spaced,
            "eyJh.x.y",
            "eyJh.e30=.AA==",
            "eyJh..",
            "ewog.!.y",
            "a b",
            "a\nb",
            "a&b",
            "a%41",
            "a|b",
            "",
            "\u{e9}",
        ] {
            assert!(!is_opaque(text.as_bytes()), "{text:?}");
        }
        let encrypted = format!("{jws}.x.y");
        for text in [
            "2YotnFZFEjr1zCsicMWpAA",
            "ory_at_a.b",
            "a.b.c",
            "ya29.a.b",
            "eyJh",
            "eyJh.x",
            &encrypted,
            "a+/~-_==",
            "=",
            ".",
        ] {
            assert!(is_opaque(text.as_bytes()), "{text:?}");
        }
        assert!(is_opaque(&vec![b'a'; LONGEST]) && !is_opaque(&vec![b'a'; LONGEST + 1]));
    }

    #[test]
    fn padding_is_read_and_told() {
        let plain = token(r#"{"alg":"RS256","signer":"arn"}"#, "{}");
        let padded = |part: &str| format!("{part}{}", "=".repeat((4 - part.len() % 4) % 4));
        let text = plain.split('.').map(padded).collect::<Vec<_>>().join(".");
        assert!(text.ends_with(".AA=="), "{text}");
        let token = UntrustedToken::parse(text.as_bytes()).unwrap();
        assert_eq!((token.padded, token.signer.as_deref()), (true, Some("arn")));
        assert!(!UntrustedToken::parse(plain.as_bytes()).unwrap().padded);
        for wrong in [
            format!("{plain}="),
            format!("{plain}==="),
            text.replace("==", "==\n"),
            text.replace(".AA==", ".AB=="),
        ] {
            assert_eq!(error(&wrong), Some(TokenError::Encoding), "{wrong}");
        }
    }

    #[test]
    fn type_with_application_prefix_is_the_same() {
        for (typ, short) in [
            ("JWT", "jwt"),
            ("Application/JWT", "jwt"),
            ("application/at+jwt", "at+jwt"),
            ("text/jwt", "text/jwt"),
            ("application/application/jwt", "application/application/jwt"),
            ("application/", ""),
        ] {
            assert_eq!(short_type(typ), short);
            let text = token(&format!(r#"{{"alg":"RS256","typ":"{typ}"}}"#), "{}");
            assert_eq!(UntrustedToken::parse(text.as_bytes()).unwrap().typ.as_deref(), Some(short));
        }
    }

    #[test]
    fn malformed_token_has_each_reason() {
        let good = token(r#"{"alg":"RS256"}"#, "{}");
        assert_eq!(error(&good), None);
        for text in ["", "a", "a.b", "a.b.", ".b.c", "a..c", "a.b.c.d", "a.b.c.d.e"] {
            assert_eq!(error(text), Some(TokenError::NotCompact), "{text}");
        }
        assert_eq!(error(&"a".repeat(LONGEST + 1)), Some(TokenError::TooLong));
        assert_eq!(error(&"a".repeat(LONGEST)), Some(TokenError::NotCompact));
        assert_eq!(LONGEST, 16_384);
        for text in
            [format!("{good}="), format!(" {good}"), good.replace("AA", "AB"), good.replace("AA", "A+")]
        {
            assert_eq!(error(&text), Some(TokenError::Encoding), "{text}");
        }
        assert_eq!(UntrustedToken::parse(b"a.\xff.c").err(), Some(TokenError::Encoding));
        assert_eq!(error(&token("[]", "{}")), Some(TokenError::HeaderJson));
        assert_eq!(error(&token(r#"{"alg":"RS256"}"#, "7")), Some(TokenError::PayloadJson));
        for header in
            ["{}", r#"{"alg":"none"}"#, r#"{"alg":"nOnE"}"#, r#"{"alg":"rs256"}"#, r#"{"alg":"ES256K"}"#]
        {
            assert_eq!(error(&token(header, "{}")), Some(TokenError::UnknownAlgorithm), "{header}");
        }
        for parameter in [
            r#""kid":7"#,
            r#""typ":[]"#,
            r#""cty":{}"#,
            r#""jku":1"#,
            r#""x5u":1"#,
            r#""x5t":1"#,
            r#""x5t#S256":1"#,
            r#""x5c":"a""#,
            r#""x5c":[1]"#,
            r#""salt":"=""#,
            r#""alg2":1,"kid":null"#,
        ] {
            let header = format!(r#"{{"alg":"RS256",{parameter}}}"#);
            assert_eq!(error(&token(&header, "{}")), Some(TokenError::HeaderType), "{header}");
        }
        let long = format!(r#"{{"alg":"RS256","kid":"{}"}}"#, "k".repeat(LONGEST_KID + 1));
        assert_eq!(error(&token(&long, "{}")), Some(TokenError::HeaderType));
        let longest = format!(r#"{{"alg":"RS256","kid":"{}"}}"#, "k".repeat(LONGEST_KID));
        assert_eq!(error(&token(&longest, "{}")), None);
        for parameter in [r#""crit":["exp"]"#, r#""crit":[]"#, r#""b64":true"#, r#""b64":false"#] {
            let header = format!(r#"{{"alg":"RS256",{parameter}}}"#);
            assert_eq!(error(&token(&header, "{}")), Some(TokenError::Critical), "{header}");
        }
        assert_eq!(error(&token(r#"{"alg":"RS256","jwk":{}}"#, "{}")), Some(TokenError::EmbeddedKey));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_token_or_refused(bytes: Vec<u8>) {
            let _ = UntrustedToken::parse(&bytes);
        }

        #[test]
        fn any_header_and_payload_are_a_token_or_refused(header in "\\PC{0,30}", payload in "\\PC{0,30}") {
            let _ = UntrustedToken::parse(token(&header, &payload).as_bytes());
        }
    }
}
