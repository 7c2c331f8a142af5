//! Secrets that a configuration takes from vmConfig.env, and what must not be seen of them.

use serde_json::Value;

#[cfg(not(target_os = "wasi"))]
use crate::config::Definitions;
use crate::config::{ConfigReader, FromConfig};
use crate::host::Environment;

/// The name of the variable that holds a secret. Somebody may have written the secret itself in its place, so it is shown
/// nowhere until a variable of that name has been found.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretVariable(String);

impl SecretVariable {
    /// The variable of this name.
    pub fn named(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The secret and the variable's name, if there is such a variable and it holds more than a placeholder.
    ///
    /// # Errors
    /// Says what is wrong, without the secret.
    pub fn read(&self, env: &dyn Environment) -> Result<(String, &str), String> {
        let Some(secret) = env.variable(&self.0) else {
            return Err(
                "vmConfig.env has no variable of this name, which is to hold the secret; what stands here is not shown, \
                 since it may be the secret itself"
                    .to_owned(),
            );
        };
        if is_placeholder(secret.as_bytes()) {
            return Err(format!(
                "the variable `{}` holds a placeholder; expected a secret, such as `openssl rand -base64 32` makes",
                self.0
            ));
        }
        Ok((secret, &self.0))
    }
}

impl std::fmt::Debug for SecretVariable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretVariable")
    }
}

impl FromConfig for SecretVariable {
    fn read(value: &Value, reader: &mut ConfigReader) -> Option<Self> {
        String::read(value, reader).map(Self)
    }

    #[cfg(not(target_os = "wasi"))]
    fn schema(definitions: &mut Definitions) -> Value {
        String::schema(definitions)
    }

    #[cfg(not(target_os = "wasi"))]
    fn to_json(&self) -> Option<Value> {
        self.0.to_json()
    }
}

/// What stands in examples and templates in the place of a secret; in lower case, without what separates words.
const PLACEHOLDERS: [&str; 19] = [
    "changeme",
    "changethis",
    "changeit",
    "replaceme",
    "replacethis",
    "setitin",
    "insertyour",
    "insertsecret",
    "insertkey",
    "yoursecret",
    "yourkey",
    "yourown",
    "placeholder",
    "32randomcharacters",
    "astringsecret",
    "bitsecret",
    "insecure",
    "supersecret",
    "thisisasecret",
];

/// Fewer different bytes than this, or so short a piece over and over, is nobody's random secret.
const FEWEST_BYTES: usize = 5;
const LONGEST_PIECE: usize = 10;

/// Whether this is not a secret but what stands in an example in its place: a known text, a variable that was not filled in,
/// one character or a short piece over and over.
pub fn is_placeholder(secret: &[u8]) -> bool {
    let letters = secret.iter().filter(|byte| byte.is_ascii_alphanumeric());
    let folded: Vec<u8> = letters.map(u8::to_ascii_lowercase).collect();
    let holds = |text: &&str| folded.windows(text.len()).any(|window| window == text.as_bytes());
    let text =
        std::str::from_utf8(secret).map(str::trim).ok().filter(|text| !text.contains(char::is_control));
    let unfilled =
        |(start, end): &(&str, &str)| text.is_some_and(|t| t.starts_with(start) && t.ends_with(end));
    let different = (0..=u8::MAX).filter(|byte| secret.contains(byte)).count();
    let repeats = |piece: usize| {
        let again = secret.iter().zip(secret.iter().skip(piece)).all(|(a, b)| a == b);
        again && secret.len() >= piece.saturating_mul(2)
    };
    [("${", "}"), ("{{", "}}"), ("<", ">")].iter().any(unfilled)
        || different < FEWEST_BYTES
        || (1..=LONGEST_PIECE).any(repeats)
        || PLACEHOLDERS.iter().any(holds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_stands_in_examples_is_a_placeholder() {
        for text in [
            "change-me-to-32-random-characters",
            "a-string-secret-at-least-256-bits-long",
            "your-256-bit-secret",
            "your-384-bit-secret-your-384-bit-secret-1234567890",
            "supersecretsupersecretsupersecret",
            "thisisasecretkeythisisasecretkey1",
            "insecure-insecure-insecure-insecure",
            "0123456789012345678901234567890123456789",
            "CHANGE_ME_CHANGE_ME_CHANGE_ME_1234",
            "please-change.me-please-0123456789",
            "set-it-in-settings",
            "replace this with a real secret!!",
            "your-256-bit-key-your-key-goes-here",
            "<32 random bytes, from the vault>",
            "${PSEUDONYM_KEY_OF_THE_CLUSTER_123}",
            "{{ .Values.pseudonymKey }}         ",
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "00000000000000000000000000000001",
            "secretsecretsecretsecretsecretse",
            "12345678123456781234567812345678",
            "",
        ] {
            assert!(is_placeholder(text.as_bytes()), "{text}");
        }
        for text in [
            "0123456789abcdef0123456789abcdef",
            "a-key-of-pseudonyms-for-tests-only",
            "too-short",
            "9f86d081884c7d659a2feaa0c55ad015",
            "3q2+7wAAAAAAAAAAAAAAAAAAAAAAAAAA+x==",
        ] {
            assert!(!is_placeholder(text.as_bytes()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_are_no_placeholder(secret: [u8; 16]) {
            // Sixteen bytes of which fewer than five differ are once in 10^20.
            let mut seen = secret.to_vec();
            seen.sort_unstable();
            seen.dedup();
            prop_assume!(seen.len() >= FEWEST_BYTES);
            prop_assert!(!is_placeholder(&secret));
        }
    }

    #[test]
    fn a_secret_in_the_place_of_its_name_is_not_shown() {
        let secret = "5f2b8d0e9c714a36b1d07e5f2b8d0e9c";
        let env = |name: &str| match name {
            "KEY" => Some(secret.to_owned()),
            "EXAMPLE" => Some("change-me".to_owned()),
            _ => None,
        };
        assert_eq!(SecretVariable::named("KEY").read(&env), Ok((secret.to_owned(), "KEY")));
        let mistaken = SecretVariable::named(secret);
        let error = mistaken.read(&env).unwrap_err();
        assert!(error.starts_with("vmConfig.env has no variable of this name"), "{error}");
        assert!(!error.contains(secret) && !format!("{mistaken:?}").contains(secret));
        let error = SecretVariable::named("EXAMPLE").read(&env).unwrap_err();
        assert!(error.starts_with("the variable `EXAMPLE` holds a placeholder"), "{error}");
        assert!(!error.contains("change-me"), "{error}");
    }
}
