//! The claims of a token (RFC 7519 section 4), and what a provider requires of them.

use std::borrow::Cow;
use std::fmt;

use plugin_kit::request::claim::{ClaimValues, URL_WITH_DOTS, is_unescaped_url};
use plugin_kit::trace::{self, Note};
use serde_json::{Map, Value};

use crate::token::compact::UntrustedToken;

/// What is wrong with the claims of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// A registered claim has a type or value that it cannot have.
    #[error("claim `{0}` has a wrong type")]
    Type(&'static str),
    /// A claim that the provider requires is missing.
    #[error("a required claim is missing")]
    Missing,
    /// `aud` names none of the provider's audiences.
    #[error("for another audience")]
    Audience,
    /// `sub` is not one of the provider's subjects.
    #[error("of another subject")]
    Subject,
    /// `azp` (or `client_id`) is not one of the provider's authorised parties.
    #[error("issued to another party")]
    AuthorizedParty,
    /// `typ` is not one of the provider's token types.
    #[error("of another type")]
    TokenType,
    /// `signer` is not one of the provider's load balancers.
    #[error("signed by another load balancer")]
    Signer,
    /// The token is valid for longer than the provider's longest lifetime, or does not say for how long.
    #[error("valid for too long")]
    Lifetime,
    /// `exp` has passed.
    #[error("expired")]
    Expired,
    /// `nbf` or `iat` lies in the future.
    #[error("not yet valid")]
    NotYetValid,
}

/// What a provider requires of the claims of its tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// `aud` must name one of these; empty for any audience.
    pub audiences: Vec<String>,
    /// `sub` must be one of these; empty for any subject.
    pub subjects: Vec<Pattern>,
    /// `azp`, or `client_id` where there is no `azp`, must be one of these; empty for any party.
    pub authorized_parties: Vec<String>,
    /// `typ` must be one of these, in lower case.
    pub types: Vec<String>,
    /// Whether a token without `typ` is accepted, too.
    pub untyped: bool,
    /// `signer` must be one of these; empty for any token.
    pub signers: Vec<String>,
    /// Claims that must be present.
    pub required: Vec<ClaimPath>,
    /// Whether the token must have `exp`.
    pub require_expiration: bool,
    /// The longest time from `iat` to `exp`, in seconds.
    pub max_lifetime: Option<u64>,
    /// How far the issuer's clock may be off, in seconds.
    pub clock_skew: u64,
}

/// When a token is valid, in seconds since the epoch, the clock skew included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Validity {
    /// The first second.
    pub from: u64,
    /// The first second in which it is no longer valid.
    pub until: Option<u64>,
}

/// `FROM..UNTIL`, in seconds since the epoch.
impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..", self.from)?;
        self.until.map_or(Ok(()), |until| write!(f, "{until}"))
    }
}

impl Validity {
    /// Whether the token is valid at `now`.
    ///
    /// # Errors
    /// [`ClaimError::Expired`] or [`ClaimError::NotYetValid`].
    pub fn check(&self, now: u64) -> Result<(), ClaimError> {
        if self.until.is_some_and(|until| now >= until) {
            return Err(ClaimError::Expired);
        }
        if now < self.from { Err(ClaimError::NotYetValid) } else { Ok(()) }
    }
}

/// What issuers call access tokens in their answers: `token_type` is that of RFC 6749, `token_use` that of Ory Hydra,
/// and `typ` that of Keycloak.
const ANSWERED_TYPES: &[(&str, &[&str])] = &[
    ("token_type", &["Bearer", "access_token"]),
    ("token_use", &["access_token", "access"]),
    ("typ", &["Bearer", "JWT", "at+jwt", "access_token"]),
];

/// The largest number of seconds that every JSON parser reads alike.
const LARGEST_DATE: f64 = 9_007_199_254_740_991.0;

impl Policy {
    /// Checks everything but the signature and the current time; says when the token is valid.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self, token: &UntrustedToken<'_>) -> Result<Validity, ClaimError> {
        check_types(&token.claims)?;
        let has_type = token.typ.as_ref().map_or(self.untyped, |typ| self.types.contains(typ));
        trace::note(|| claim_note("typ", has_type, token.typ.as_deref()));
        if !has_type {
            return Err(ClaimError::TokenType);
        }
        if !self.signers.is_empty() {
            let is_one = token.signer.as_ref().is_some_and(|signer| self.signers.contains(signer));
            trace::note(|| claim_note("albSigners", is_one, token.signer.as_deref()));
            if !is_one {
                return Err(ClaimError::Signer);
            }
        }
        self.check_claims(&token.claims)
    }

    /// The same for what an issuer says of a token that it was asked about (RFC 7662 section 2.2). It must be an access token
    /// that whoever has it may use: such an issuer also calls a refresh token active.
    ///
    /// # Errors
    /// Those of [`Policy::check`].
    pub fn check_answer(&self, claims: &Map<String, Value>) -> Result<Validity, ClaimError> {
        check_types(claims)?;
        for (name, kinds) in ANSWERED_TYPES {
            let Some(claim) = claims.get(*name) else { continue };
            let kind = claim.as_str().unwrap_or_default();
            let is_one = kinds.iter().any(|known| known.eq_ignore_ascii_case(kind));
            trace::note(|| claim_note("typ", is_one, Some(kind)));
            if !is_one {
                return Err(ClaimError::TokenType);
            }
        }
        self.check_claims(claims)
    }

    fn check_claims(&self, claims: &Map<String, Value>) -> Result<Validity, ClaimError> {
        if !self.audiences.is_empty() {
            let is_meant = audiences(claims).any(|aud| self.audiences.iter().any(|a| a == aud));
            trace::note(|| {
                let received = audiences(claims).collect::<Vec<_>>().join(", ");
                claim_note("audiences", is_meant, claims.contains_key("aud").then_some(received.as_str()))
            });
            if !is_meant {
                return Err(ClaimError::Audience);
            }
        }
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        if !self.subjects.is_empty() {
            let sub = text("sub");
            let is_one = sub.is_some_and(|sub| self.subjects.iter().any(|subject| subject.matches(sub)));
            trace::note(|| claim_note("subjects", is_one, sub));
            if !is_one {
                return Err(ClaimError::Subject);
            }
        }
        if !self.authorized_parties.is_empty() {
            let party = if claims.contains_key("azp") { text("azp") } else { text("client_id") };
            let is_one =
                party.is_some_and(|party| self.authorized_parties.iter().any(|known| known == party));
            trace::note(|| claim_note("authorizedParties", is_one, party));
            if !is_one {
                return Err(ClaimError::AuthorizedParty);
            }
        }
        let is_there = |path: &ClaimPath| {
            let is_there = matches!(path.find(claims), Found::Claim(_));
            trace::note(|| claim_note("requiredClaims", is_there, None).named(path.text()));
            is_there
        };
        if !self.required.iter().all(is_there) {
            return Err(ClaimError::Missing);
        }
        self.validity(claims)
    }

    /// The required claims that are missing.
    pub fn missing<'a>(&'a self, claims: &'a Map<String, Value>) -> impl Iterator<Item = &'a ClaimPath> {
        self.required.iter().filter(|path| !matches!(path.find(claims), Found::Claim(_)))
    }

    fn validity(&self, claims: &Map<String, Value>) -> Result<Validity, ClaimError> {
        let (exp, nbf, iat) = (date(claims, "exp")?, date(claims, "nbf")?, date(claims, "iat")?);
        if self.require_expiration && exp.is_none() {
            trace::note(|| claim_note("requireExpiration", false, None));
            return Err(ClaimError::Missing);
        }
        if let Some(longest) = self.max_lifetime {
            let lifetime = exp.zip(iat).map(|(exp, iat)| exp.floor.saturating_sub(iat.floor));
            let is_short = lifetime.is_some_and(|lifetime| lifetime <= longest);
            trace::note(|| {
                let seconds = lifetime.map(|seconds| format!("{seconds} seconds"));
                claim_note("maxLifetime", is_short, seconds.as_deref())
            });
            if !is_short {
                return Err(ClaimError::Lifetime);
            }
        }
        let from = nbf.map_or(0, |date| date.ceiling).max(iat.map_or(0, |date| date.ceiling));
        Ok(Validity {
            from: from.saturating_sub(self.clock_skew),
            until: exp.map(|date| date.floor.saturating_add(self.clock_skew)),
        })
    }
}

/// A note about what a provider requires, by the name of the field of its configuration.
fn claim_note(field: &'static str, holds: bool, received: Option<&str>) -> Note {
    Note::new(field).holds(holds).received_bytes(received.map(str::as_bytes))
}

/// Registered claims must have the types of RFC 7519; null is a wrong type, not a missing claim.
fn check_types(claims: &Map<String, Value>) -> Result<(), ClaimError> {
    for name in ["iss", "sub", "jti", "nonce"] {
        if claims.get(name).is_some_and(|claim| !claim.is_string()) {
            return Err(ClaimError::Type(name));
        }
    }
    match claims.get("aud") {
        None | Some(Value::String(_)) => Ok(()),
        Some(Value::Array(list)) if list.iter().all(Value::is_string) => Ok(()),
        Some(_) => Err(ClaimError::Type("aud")),
    }
}

/// The audiences that a token names.
pub fn audiences(claims: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let aud = claims.get("aud");
    let (one, many) = (aud.and_then(Value::as_str), aud.and_then(Value::as_array));
    one.into_iter().chain(many.into_iter().flatten().filter_map(Value::as_str))
}

/// A `NumericDate`, to the second: a fraction never makes a token valid longer.
#[derive(Clone, Copy)]
struct Date {
    floor: u64,
    ceiling: u64,
}

/// The seconds of a `NumericDate` without their fraction; `None` if it is none.
pub fn whole_seconds(claim: &Value) -> Option<u64> {
    let seconds = claim.as_f64().filter(|seconds| (0.0..=LARGEST_DATE).contains(seconds))?;
    // In this range the conversion is exact.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Some(seconds as u64)
}

fn date(claims: &Map<String, Value>, name: &'static str) -> Result<Option<Date>, ClaimError> {
    let Some(claim) = claims.get(name) else { return Ok(None) };
    let floor = whole_seconds(claim).ok_or(ClaimError::Type(name))?;
    // Up to the largest date, every whole number is a double of its own.
    #[allow(clippy::cast_precision_loss)]
    let has_fraction = claim.as_f64().is_some_and(|seconds| seconds > floor as f64);
    Ok(Some(Date { floor, ceiling: floor.saturating_add(u64::from(has_fraction)) }))
}

/// Where a claim is: its name, or the names on the way to it through nested objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPath(Vec<String>);

impl ClaimPath {
    /// Reads a path: names joined by dots; `\.` is a dot inside a name and `\\` a backslash.
    ///
    /// # Errors
    /// A name is empty, or a backslash stands before another character.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = || {
            "is not the name of a claim; expected one such as `sub`, `realm_access.roles` or `https://x\\.example/roles`".to_owned()
        };
        let (mut names, mut name, mut characters) = (Vec::new(), String::new(), text.chars());
        while let Some(character) = characters.next() {
            match character {
                '.' => names.push(std::mem::take(&mut name)),
                '\\' => match characters.next() {
                    Some(escaped @ ('.' | '\\')) => name.push(escaped),
                    _ => return Err(expected()),
                },
                _ => name.push(character),
            }
        }
        names.push(name);
        // The dots of a URL lead into no object.
        if is_unescaped_url(text) {
            return Err(URL_WITH_DOTS.to_owned());
        }
        if names.iter().any(String::is_empty) { Err(expected()) } else { Ok(Self(names)) }
    }

    /// The path as it is written.
    pub fn text(&self) -> String {
        let names = self.0.iter().map(|name| name.replace('\\', "\\\\").replace('.', "\\."));
        names.collect::<Vec<_>>().join(".")
    }

    /// Looks the claim up.
    pub fn find<'a>(&self, claims: &'a Map<String, Value>) -> Found<'a> {
        let Some((first, rest)) = self.0.split_first() else { return Found::Missing };
        let mut value = claims.get(first);
        for name in rest {
            match value {
                None | Some(Value::Null) => return Found::Missing,
                Some(Value::Object(members)) => value = members.get(name),
                Some(_) => return Found::Undecided,
            }
        }
        value.filter(|value| !value.is_null()).map_or(Found::Missing, Found::Claim)
    }
}

/// What is at the end of a [`ClaimPath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'a> {
    /// The claim.
    Claim(&'a Value),
    /// There is no claim, or it is null.
    Missing,
    /// The path leads through a value that is not an object, such as a list of objects, so that the filter
    /// cannot tell whether the claim is present.
    Undecided,
}

/// The scopes that a token grants: the words of `scope` (RFC 8693) and `scp`, or the elements of such a list.
pub fn scopes(claims: &Map<String, Value>) -> impl Iterator<Item = Cow<'_, str>> {
    ["scope", "scp"].into_iter().flat_map(|name| ClaimValues::of(claims.get(name), true).into_known())
}

/// A string pattern with at most one `*`, which matches one or more characters except `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    before: String,
    after: Option<String>,
}

impl fmt::Display for Pattern {
    /// The pattern as it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.before)?;
        self.after.iter().try_for_each(|after| write!(f, "*{after}"))
    }
}

impl Pattern {
    /// Reads a pattern with at most one `*`.
    ///
    /// # Errors
    /// The pattern is empty, is only a `*`, or has more than one `*`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (before, after) = match text.split_once('*') {
            Some((before, after)) => (before, Some(after)),
            None => (text, None),
        };
        if after.is_some_and(|after| after.contains('*'))
            || (before.is_empty() && after.is_none_or(str::is_empty))
        {
            return Err(
                "matches nothing or everything; expected a text with at most one `*` in it".to_owned()
            );
        }
        Ok(Self { before: before.to_owned(), after: after.map(str::to_owned) })
    }

    /// The text, if it is the only one that matches.
    pub fn exact(&self) -> Option<&str> {
        self.after.is_none().then_some(self.before.as_str())
    }

    /// Whether some text may match both patterns. The answer is exact unless both have a `*`.
    pub fn may_share(&self, other: &Self) -> bool {
        match (&self.after, &other.after) {
            (None, _) => other.matches(&self.before),
            (_, None) => self.matches(&other.before),
            (Some(after), Some(others)) => {
                let begins = self.before.starts_with(&other.before) || other.before.starts_with(&self.before);
                begins && (after.ends_with(others.as_str()) || others.ends_with(after.as_str()))
            }
        }
    }

    /// Whether `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        let Some(after) = &self.after else { return self.before == text };
        text.strip_prefix(self.before.as_str())
            .and_then(|rest| rest.strip_suffix(after.as_str()))
            .is_some_and(|any| !any.is_empty() && !any.contains('/'))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn members(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn path_through_list_is_undecided() {
        let claims =
            serde_json::json!({ "list": [{ "a": true }], "object": { "a": [1] }, "text": "a", "null": null });
        let path = |path: &str| ClaimPath::parse(path).unwrap();
        let found = |text: &str| path(text).find(claims.as_object().unwrap());
        for path in ["list.a", "text.a", "object.a.b"] {
            assert_eq!(found(path), Found::Undecided, "{path}");
        }
        for path in ["object.b", "object.b.c", "null", "null.a", "none", "none.a"] {
            assert_eq!(found(path), Found::Missing, "{path}");
        }
        for path in ["list", "object", "object.a"] {
            assert!(matches!(found(path), Found::Claim(_)), "{path}");
        }
    }

    #[test]
    fn pattern_matches_exactly_except_its_star() {
        let fits = |pattern: &str, text: &str| Pattern::parse(pattern).unwrap().matches(text);
        assert!(fits("https://a/", "https://a/") && !fits("https://a/", "https://a"));
        assert!(fits("https://*.example/", "https://x.example/"));
        for text in
            ["https://.example/", "https://a/b.example/", "https://x.example", "http://x.example/", ""]
        {
            assert!(!fits("https://*.example/", text), "{text}");
        }
        assert!(fits("*a", "xa") && fits("a*", "ax") && !fits("aa*aa", "aaa"));
        for wrong in ["", "*", "a*b*", "**"] {
            assert!(Pattern::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn claim_is_found_by_its_path() {
        let claims = members(&json!({ "a": { "b": { "c": 1 } }, "x.y": 2, "x\\": 3, "list": [{ "a": 1 }] }));
        let find = |path: &str| match ClaimPath::parse(path).unwrap().find(&claims) {
            Found::Claim(claim) => Some(claim.clone()),
            Found::Missing | Found::Undecided => None,
        };
        assert_eq!(find("a.b.c"), Some(json!(1)));
        assert_eq!(find("x\\.y"), Some(json!(2)));
        assert_eq!(find("x\\\\"), Some(json!(3)));
        for path in ["a.b.c", "x\\.y", "x\\\\"] {
            assert_eq!(ClaimPath::parse(path).unwrap().text(), path);
        }
        for missing in ["a.b.d", "b", "a.b.c.d", "list.0", "list.a", "x.y"] {
            assert_eq!(find(missing), None, "{missing}");
        }
        for wrong in ["", ".", "a.", ".a", "a..b", "a\\", "a\\b"] {
            assert!(ClaimPath::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn scopes_are_those_of_scope_and_scp() {
        let claims = members(&json!({ "scope": "a b", "scp": ["c"] }));
        assert_eq!(scopes(&claims).collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn validity_includes_first_and_excludes_last_second() {
        let validity = Validity { from: 10, until: Some(20) };
        for (now, expected) in
            [(9, Err(ClaimError::NotYetValid)), (10, Ok(())), (19, Ok(())), (20, Err(ClaimError::Expired))]
        {
            assert_eq!(validity.check(now), expected, "{now}");
        }
        assert_eq!(Validity { from: 0, until: None }.check(u64::MAX), Ok(()));
    }

    fn policy() -> Policy {
        Policy {
            audiences: Vec::new(),
            subjects: Vec::new(),
            authorized_parties: Vec::new(),
            types: Vec::new(),
            signers: Vec::new(),
            untyped: true,
            required: Vec::new(),
            require_expiration: false,
            max_lifetime: None,
            clock_skew: 0,
        }
    }

    #[test]
    fn fractional_seconds_never_extend_validity() {
        let validity = |policy: &Policy, claims: Value| policy.validity(&members(&claims));
        let all = json!({ "exp": 100.9, "nbf": 10.1, "iat": 5 });
        assert_eq!(validity(&policy(), all.clone()), Ok(Validity { from: 11, until: Some(100) }));
        assert_eq!(
            validity(&policy(), json!({ "nbf": 1, "iat": 20.5 })),
            Ok(Validity { from: 21, until: None })
        );
        let skewed = Policy { clock_skew: 60, ..policy() };
        assert_eq!(validity(&skewed, all), Ok(Validity { from: 0, until: Some(160) }));
        let short = Policy { max_lifetime: Some(10), ..policy() };
        assert!(validity(&short, json!({ "iat": 5, "exp": 15.9 })).is_ok());
        assert_eq!(validity(&short, json!({ "iat": 5, "exp": 16 })), Err(ClaimError::Lifetime));
        assert_eq!(validity(&short, json!({ "exp": 16 })), Err(ClaimError::Lifetime));
        let expiring = Policy { require_expiration: true, ..policy() };
        assert_eq!(validity(&expiring, json!({})), Err(ClaimError::Missing));
        for wrong in [json!(-1), json!("1"), json!(1.0e16), json!(null), json!(true)] {
            assert_eq!(validity(&policy(), json!({ "exp": wrong })), Err(ClaimError::Type("exp")));
        }
        assert!(validity(&policy(), json!({ "exp": LARGEST_DATE })).is_ok());
    }
}
