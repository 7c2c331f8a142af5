//! The tokens of the clients.

use std::collections::HashMap;
use std::sync::Mutex;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use cases::Token;
use serde_json::{Value, json};
use soak::model::{Credential, Wrong, role};
use soak::plan::{Issuer, STEADY_KEY, user_name};
use soak::random::Random;

use crate::stage::lock;

/// Tokens that were made once.
#[derive(Debug, Default)]
pub(crate) struct Wallet(Mutex<HashMap<Credential, String>>);

impl Wallet {
    /// The token of a credential; where `fresh`, one that no cache knows.
    pub(crate) fn token(
        &self,
        credential: Credential,
        fresh: bool,
        random: &mut Random,
    ) -> Result<String, String> {
        if fresh || matches!(credential, Credential::UnknownKid(_)) {
            return mint(credential, Some(random));
        }
        if let Some(token) = lock(&self.0).get(&credential) {
            return Ok(token.clone());
        }
        let token = mint(credential, None)?;
        lock(&self.0).insert(credential, token.clone());
        Ok(token)
    }
}

fn mint(credential: Credential, random: Option<&mut Random>) -> Result<String, String> {
    let mut claims = json!({ "iss": Issuer::Inline.url(), "aud": "soak", "sub": user_name(0), "exp": "+1h" });
    let mut token = json!({ "key": STEADY_KEY });
    match credential {
        Credential::None => {}
        Credential::Good { issuer, key, user } => {
            claims["iss"] = json!(issuer.url());
            claims["sub"] = json!(user_name(user));
            claims["role"] = json!(role(user));
            token["key"] = json!(key);
        }
        Credential::Ending { user, at } => {
            claims["sub"] = json!(user_name(user));
            claims["role"] = json!(role(user));
            claims["exp"] = json!(at);
        }
        Credential::UnknownKid(issuer) => {
            claims["iss"] = json!(issuer.url());
            let kid = random.map_or(0, Random::number);
            let text = unsigned(
                &json!({ "alg": "ES256", "typ": "JWT", "kid": format!("unknown-{kid:x}") }),
                &claims,
            );
            // Nobody gets as far as the signature.
            return Ok(format!("{text}.{}", "A".repeat(86)));
        }
        Credential::Wrong(wrong) => match wrong {
            Wrong::Expired => claims["exp"] = json!("-20m"),
            Wrong::NotYet => claims["nbf"] = json!("+30m"),
            Wrong::Audience => claims["aud"] = json!("others"),
            Wrong::Issuer => claims["iss"] = json!("https://nobody.test/"),
            Wrong::Signature => token["tamper"] = json!("signature"),
            Wrong::Payload => token["tamper"] = json!("payload"),
            Wrong::Unsigned => token["algorithm"] = json!("none"),
            Wrong::Confused => {
                token["algorithm"] = json!("HS256");
                token["secret"] = json!("${pem:ec-1}");
            }
            Wrong::Huge => claims["padding"] = json!("x".repeat(17_000)),
            Wrong::Malformed => return Ok("not.a-token".to_owned()),
            Wrong::Twice => {}
            Wrong::Foreign => {
                claims["iss"] = json!(Issuer::Listed.url());
                token["header"] = json!({ "kid": "rsa-1" });
            }
        },
    }
    if let (Some(random), true) = (random, !matches!(credential, Credential::UnknownKid(_))) {
        claims["jti"] = json!(format!("{:x}", random.number()));
    }
    token["claims"] = claims;
    let token: Token = serde_json::from_value(token).map_err(|error| error.to_string())?;
    token.mint()
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let mut claims = claims.clone();
    claims["exp"] = json!(u32::MAX);
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(&claims))
}
