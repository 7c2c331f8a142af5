//! Tokens for tests: making them, and looking into them.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use clap::Subcommand;
use jwt_auth::keys::algorithm::Algorithm;
use jwt_auth::token::compact::UntrustedToken;
use jwt_simple::prelude::*;
use serde_json::{Map, Value, json};

use crate::times;

/// Tokens for tests.
#[derive(Subcommand)]
pub(crate) enum Token {
    /// Makes a token FOR TESTS, with a private key from a file or a new one.
    Mint(Box<Mint>),
    /// Shows header and claims of a token. It VERIFIES NOTHING, and never shows the signature.
    Inspect {
        /// The token. If it is `-` or left out, it is read from standard input, so that it does not appear in
        /// the shell's history.
        token: Option<String>,
        /// The time to compare with: seconds since the epoch, or `2026-12-01T07:30:00Z`; default: now.
        #[arg(long, value_name = "TIME")]
        now: Option<String>,
    },
}

/// The content of a new token, and the key that signs it.
#[derive(clap::Args)]
pub(crate) struct Mint {
    /// The private key, in PEM (PKCS #8).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["generate", "secret_env"])]
    key: Option<PathBuf>,
    /// Makes a new key, whose public half `--keys-out` writes.
    #[arg(long, conflicts_with = "secret_env")]
    generate: bool,
    /// The environment variable with the secret of an HS256, HS384 or HS512 token.
    #[arg(long, value_name = "NAME")]
    secret_env: Option<String>,
    /// The algorithm; default: RS256, ES256, ES384 or EdDSA, as the key is one for it, HS256 for a secret,
    /// ES256 for a new key.
    #[arg(long)]
    algorithm: Option<String>,
    /// The key ID; default: the name of the key's file without its extension.
    #[arg(long)]
    kid: Option<String>,
    /// Where the public key is written, as a JWK set.
    #[arg(long, value_name = "FILE")]
    keys_out: Option<PathBuf>,
    /// `iss`.
    #[arg(long, value_name = "ISSUER")]
    iss: Option<String>,
    /// `sub`.
    #[arg(long, value_name = "SUBJECT")]
    sub: Option<String>,
    /// `aud`. It may be given several times.
    #[arg(long, value_name = "AUDIENCE")]
    aud: Vec<String>,
    /// `exp`, in seconds from now; a negative number makes a token that has expired.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, allow_negative_numbers = true)]
    expires_in: i64,
    /// A further claim. The value is JSON, or else a text; `null` leaves the claim out.
    #[arg(long, value_name = "NAME=VALUE")]
    claim: Vec<String>,
    /// `typ` of the header.
    #[arg(long, default_value = "JWT")]
    typ: String,
    /// The time: seconds since the epoch, or `2026-12-01T07:30:00Z`; default: now.
    #[arg(long, value_name = "TIME")]
    now: Option<String>,
}

fn now(text: Option<&String>) -> Result<u64, String> {
    match text {
        Some(text) => times::parse(text),
        None => Ok(std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs()),
    }
}

/// Runs a command.
///
/// # Errors
/// An input is missing or cannot be read.
pub(crate) fn run(command: Token) -> Result<String, String> {
    match command {
        Token::Mint(mint) => {
            let token = mint.token()?;
            eprintln!("mesh-filters: this token is for tests");
            Ok(format!("{token}\n"))
        }
        Token::Inspect { token, now: time } => {
            let token = match token.filter(|token| token != "-") {
                Some(token) => token,
                None => std::io::read_to_string(std::io::stdin())
                    .map_err(|error| format!("standard input: {error}"))?,
            };
            Ok(inspect(&token, now(time.as_ref())?))
        }
    }
}

impl Mint {
    fn claims(&self) -> Result<Map<String, Value>, String> {
        let now = i64::try_from(now(self.now.as_ref())?).unwrap_or(i64::MAX);
        let mut claims = Map::new();
        let texts = [("iss", &self.iss), ("sub", &self.sub)];
        claims.extend(
            texts.iter().filter_map(|(name, text)| Some(((*name).to_owned(), json!(text.as_ref()?)))),
        );
        match self.aud.as_slice() {
            [] => {}
            [one] => drop(claims.insert("aud".to_owned(), json!(one))),
            many => drop(claims.insert("aud".to_owned(), json!(many))),
        }
        claims.insert("iat".to_owned(), json!(now));
        claims.insert("exp".to_owned(), json!(now.saturating_add(self.expires_in)));
        for claim in &self.claim {
            let (name, value) = claim.split_once('=').ok_or("--claim: expected NAME=VALUE")?;
            match serde_json::from_str(value).unwrap_or_else(|_| json!(value)) {
                Value::Null => drop(claims.remove(name)),
                value => drop(claims.insert(name.to_owned(), value)),
            }
        }
        Ok(claims)
    }

    fn token(&self) -> Result<String, String> {
        let pem = self
            .key
            .as_ref()
            .map(|file| fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display())))
            .transpose()?;
        let secret = match &self.secret_env {
            Some(name) => Some(
                std::env::var(name)
                    .map_err(|_| format!("the environment variable {name} is not set, or is not text"))?,
            ),
            None => None,
        };
        if pem.is_none() && secret.is_none() && !self.generate {
            return Err("expected `--key FILE`, `--generate` or `--secret-env NAME`".to_owned());
        }
        let algorithm = match &self.algorithm {
            Some(name) => Algorithm::named(name).ok_or_else(|| format!("`{name}` is not an algorithm of the filters"))?,
            None if secret.is_some() => Algorithm::HS256,
            None => pem.as_deref().map_or(Some(Algorithm::ES256), algorithm_of).ok_or(
                "the file is not a private key of RSA, P-256, P-384 or Ed25519 in PKCS #8, which begins with `-----BEGIN PRIVATE KEY-----`",
            )?,
        };
        let stem =
            self.key.as_deref().and_then(Path::file_stem).map(|stem| stem.to_string_lossy().into_owned());
        let kid = self.kid.clone().or(stem);
        let custom = self.claims()?;
        let claims = JWTClaims {
            issued_at: None,
            expires_at: None,
            invalid_before: None,
            issuer: None,
            subject: None,
            audiences: None,
            jwt_id: None,
            nonce: None,
            custom,
        };
        let options = HeaderOptions { content_type: None, signature_type: Some(self.typ.clone()) };
        let wrong = |error: jwt_simple::Error| format!("the key does not sign {algorithm}: {error}");
        // The types of the keys have no trait in common, only methods of the same names.
        macro_rules! signed {
            ($kind:ty, $generate:expr) => {{
                let key = match &pem {
                    Some(pem) => <$kind>::from_pem(pem).map_err(wrong)?,
                    None => $generate,
                };
                let key = match &kid {
                    Some(kid) => key.with_key_id(kid),
                    None => key,
                };
                (key.sign_with_options(claims, &options).map_err(wrong)?, Some(key.public_key().to_jwk()))
            }};
        }
        macro_rules! authenticated {
            ($kind:ty) => {{
                let key =
                    <$kind>::from_bytes(secret.as_deref().ok_or("expected `--secret-env NAME`")?.as_bytes());
                let key = match &kid {
                    Some(kid) => key.with_key_id(kid),
                    None => key,
                };
                (key.authenticate_with_options(claims, &options).map_err(wrong)?, None)
            }};
        }
        let (token, public): (String, Option<String>) = match algorithm {
            Algorithm::RS256 => signed!(RS256KeyPair, RS256KeyPair::generate(2048).map_err(wrong)?),
            Algorithm::RS384 => signed!(RS384KeyPair, RS384KeyPair::generate(2048).map_err(wrong)?),
            Algorithm::RS512 => signed!(RS512KeyPair, RS512KeyPair::generate(2048).map_err(wrong)?),
            Algorithm::PS256 => signed!(PS256KeyPair, PS256KeyPair::generate(2048).map_err(wrong)?),
            Algorithm::PS384 => signed!(PS384KeyPair, PS384KeyPair::generate(2048).map_err(wrong)?),
            Algorithm::PS512 => signed!(PS512KeyPair, PS512KeyPair::generate(2048).map_err(wrong)?),
            Algorithm::ES256 => signed!(ES256KeyPair, ES256KeyPair::generate()),
            Algorithm::ES384 => signed!(ES384KeyPair, ES384KeyPair::generate()),
            Algorithm::EdDSA => signed!(Ed25519KeyPair, Ed25519KeyPair::generate()),
            Algorithm::HS256 => authenticated!(HS256Key),
            Algorithm::HS384 => authenticated!(HS384Key),
            Algorithm::HS512 => authenticated!(HS512Key),
            Algorithm::ES512 => return Err("this program signs no ES512".to_owned()),
        };
        if let Some(file) = &self.keys_out {
            let jwk = public.ok_or("a secret has no public key to write")?;
            let mut jwk: Value = serde_json::from_str(&jwk).map_err(|error| error.to_string())?;
            jwk["use"] = json!("sig");
            jwk["alg"] = json!(algorithm.name());
            if let Some(kid) = &kid {
                jwk["kid"] = json!(kid);
            }
            fs::write(file, format!("{}\n", json!({ "keys": [jwk] })))
                .map_err(|error| format!("{}: {error}", file.display()))?;
        }
        Ok(token)
    }
}

/// The usual algorithm of a private key.
fn algorithm_of(pem: &str) -> Option<Algorithm> {
    if RS256KeyPair::from_pem(pem).is_ok() {
        Some(Algorithm::RS256)
    } else if ES256KeyPair::from_pem(pem).is_ok() {
        Some(Algorithm::ES256)
    } else if ES384KeyPair::from_pem(pem).is_ok() {
        Some(Algorithm::ES384)
    } else {
        Ed25519KeyPair::from_pem(pem).is_ok().then_some(Algorithm::EdDSA)
    }
}

/// The header and the claims of a token, with its times in words.
fn inspect(token: &str, now: u64) -> String {
    let token = token.trim();
    let token =
        token.strip_prefix("Bearer ").or_else(|| token.strip_prefix("bearer ")).unwrap_or(token).trim();
    let mut text = String::new();
    let mut parts = token.split('.');
    for name in ["header", "claims"] {
        let decoded =
            parts.next().and_then(|part| BASE64_URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok());
        match decoded.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()) {
            Some(json) => {
                text.push_str(&format!("{name}: {json:#}\n"));
                if name == "claims" {
                    text.push_str(&times_of(&json, now));
                }
            }
            None => text.push_str(&format!("{name}: not JSON in base64url\n")),
        }
    }
    match UntrustedToken::parse(token.as_bytes()) {
        Ok(token) if token.padded => {
            text.push_str("jwt-auth refuses it unless `albSigners` is configured: it is padded with `=`\n");
        }
        Ok(_) => {}
        Err(error) => text.push_str(&format!("jwt-auth refuses it whatever is configured: {error}\n")),
    }
    text.push_str("Nothing was verified: anybody can write such a token. `mesh-filters explain --keys` checks the signature.\n");
    text
}

fn times_of(claims: &Value, now: u64) -> String {
    let time = |name: &&str| {
        let seconds = claims[*name].as_u64()?;
        let relation = match seconds.cmp(&now) {
            std::cmp::Ordering::Less => format!("{} ago", times::span(now - seconds)),
            std::cmp::Ordering::Equal => "now".to_owned(),
            std::cmp::Ordering::Greater => format!("in {}", times::span(seconds - now)),
        };
        Some(format!("{name} is {}, {relation}\n", times::utc(seconds)))
    };
    ["iat", "nbf", "exp", "auth_time"].iter().filter_map(time).collect()
}
