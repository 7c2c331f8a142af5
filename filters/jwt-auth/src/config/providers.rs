//! Compiles providers: issuers, their keys, and what their tokens must show.

use std::rc::Rc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use plugin_kit::config::secret::is_placeholder;
use plugin_kit::config::{Code, DurationText, ErrorList, JsonPath, not_one_of};
use plugin_kit::host::Environment;
use plugin_kit::request::header_names::{header_name, output_header_name};
use serde_json::Value;

use crate::config::raw::{
    self, ClientAuthentication, RawAllow, RawDiscovery, RawIntrospection, RawJwksCache, RawProvider,
    RawRevoked, RawRule, RawSecret, RawTokenLocation, SecretEncoding,
};
use crate::fetch::introspection::Introspection;
use crate::fetch::remote::{Discovery, FetchHeaders, Remote, Settings};
use crate::fetch::revocation::{RemoteList, Revoked};
use crate::keys::algorithm::Algorithm;
use crate::keys::jwk::{KeySet, Purpose};
use crate::keys::key::{Key, Material};
use crate::keys::refused::MOST_KEYS;
use crate::policy::place::Place;
use crate::policy::provider::{Issuer, KeySource, Provider};
use crate::policy::rules::Verify;
use crate::reply::{origin_of, percent_encode};
use crate::token::base64url;
use crate::token::claims::{ClaimPath, Pattern, Policy};
use crate::token::compact::short_type;
use crate::token::location::TokenLocation;

/// The longest time for which an answer about a token is used.
const MOST_CACHE: Duration = Duration::from_mins(10);
const MOST_SKEW: Duration = Duration::from_hours(1);
/// Beyond this it may surprise.
const USUAL_SKEW: Duration = Duration::from_mins(5);

impl Provider {
    pub(super) fn own_headers(&self) -> impl Iterator<Item = String> {
        let claims = self.claim_headers.iter().map(|(_, header)| header);
        claims.chain(&self.payload_header).map(ToString::to_string)
    }
}

impl RawProvider {
    /// Adds the places where the provider, which is at this position, looks for tokens.
    #[inline(never)]
    pub(super) fn add_places(
        &self,
        position: usize,
        rules: &[RawRule],
        path: &JsonPath,
        places: &mut Vec<Place>,
        errors: &mut ErrorList,
    ) {
        let Some(from) = &self.from else {
            return Place::add(places, TokenLocation::bearer(), position, None);
        };
        for (n, raw) in from.iter().enumerate() {
            let path = path.field("from").index(n);
            let Some(location) = errors.check(&path, raw.parse()) else { continue };
            let for_rules = (!raw.rules.is_empty()).then(|| raw.rules(rules, &path.field("rules"), errors));
            let same = |other: &RawTokenLocation| other.parse().is_ok_and(|other| other == location);
            if for_rules.is_some() && from.iter().any(|other| other.rules.is_empty() && same(other)) {
                errors.add(
                    &path,
                    "also stands in this list without `rules`, for every request; expected one of the two",
                );
            }
            Place::add(places, location, position, for_rules);
        }
    }

    #[inline(never)]
    pub(super) fn compile(
        self,
        name: String,
        env: &dyn Environment,
        path: &JsonPath,
        errors: &mut ErrorList,
    ) -> Option<Provider> {
        let issuer = self.issuer(path, errors);
        self.check_texts(path, errors);
        let algorithms = match &self.algorithms {
            None => Algorithm::DEFAULT.to_vec(),
            Some(names) => algorithms(names, !self.secrets.is_empty(), &path.field("algorithms"), errors),
        };
        let keys = self.keys(&algorithms, env, path, errors);
        let most_tried = self.most_tried(path, errors);
        let policy = self.policy(path, errors);
        let mut claim_headers = Vec::new();
        for (n, output) in self.output_claim_to_headers.iter().enumerate() {
            let path = path.field("outputClaimToHeaders").index(n);
            let claim = errors.check(&path.field("claim"), ClaimPath::parse(&output.claim));
            let header = errors.check(&path.field("header"), output_header(&output.header));
            let taken = |header: &Rc<str>| claim_headers.iter().any(|(_, other)| other == header);
            if header.as_ref().is_some_and(taken) {
                errors
                    .add(&path.field("header"), "is set from another claim already; expected another header");
            }
            claim_headers.extend(claim.zip(header));
        }
        let payload_header = self
            .output_payload_to_header
            .as_deref()
            .and_then(|header| errors.check(&path.field("outputPayloadToHeader"), output_header(header)));
        if claim_headers.iter().any(|(_, header)| Some(header) == payload_header.as_ref()) {
            errors.add(
                &path.field("outputPayloadToHeader"),
                "is set from a claim already; expected another header",
            );
        }
        Some(Provider {
            name,
            issuer: issuer?,
            algorithms,
            policy,
            revoked_elsewhere: self.revoked.elsewhere(&path.field("revoked"), errors),
            revoked: Revoked {
                jti: self.revoked.jti,
                sub: self.revoked.sub,
                kid: self.revoked.kid,
                sid: self.revoked.sid,
                sub_before: self.revoked.sub_before.0,
            }
            .sorted(),
            keys: keys?,
            most_tried,
            claim_headers,
            payload_header,
            forward: self.forward_original_token,
        })
    }

    /// Notes texts that are compared as they stand, and cannot be meant so.
    #[inline(never)]
    fn check_texts(&self, path: &JsonPath, errors: &mut ErrorList) {
        if let Some((scheme, after)) = self.issuer.as_deref().and_then(|issuer| issuer.split_once('*'))
            && (scheme.ends_with('/') && scheme.len() <= "https://".len() || scheme.is_empty())
            && !after.starts_with(['.', '-'])
        {
            let message = "stands for any host; expected `*` in front of a domain: `https://*.example/`";
            errors.note(Code::AnyIssuer, &path.field("issuer"), message);
        }
        let revoked = path.field("revoked");
        for (list, path) in [
            (self.audiences.as_slice(), path.field("audiences")),
            (self.authorized_parties.as_slice(), path.field("authorizedParties")),
            (self.alb_signers.as_slice(), path.field("albSigners")),
            (self.revoked.jti.as_slice(), revoked.field("jti")),
            (self.revoked.sub.as_slice(), revoked.field("sub")),
            (self.revoked.kid.as_slice(), revoked.field("kid")),
            (self.revoked.sid.as_slice(), revoked.field("sid")),
        ] {
            for (n, text) in list.iter().enumerate() {
                if text.is_empty() {
                    errors.add(&path.index(n), "expected a text, found an empty one");
                } else if text.contains('*') {
                    let message = "is compared as it stands, with its `*`";
                    errors.note(Code::StarAsWritten, &path.index(n), message);
                }
            }
        }
    }

    #[inline(never)]
    fn keys(
        &self,
        algorithms: &[Algorithm],
        env: &dyn Environment,
        path: &JsonPath,
        errors: &mut ErrorList,
    ) -> Option<KeySource> {
        let is_inline = self.jwks.is_some() || !self.secrets.is_empty();
        if !self.jwks_headers.is_empty() && is_inline {
            errors.add(&path.field("jwksHeaders"), "goes with keys that are fetched");
        }
        let has_options = self.discovery.uri.is_some() || !self.discovery.jwks_hosts.is_empty();
        if has_options && (is_inline || self.jwks_uri.is_some()) {
            errors.add(&path.field("discovery"), "goes with neither `jwks`, `jwksUri` nor `secrets`");
        }
        if let Some(introspection) = &self.introspection {
            let path = path.field("introspection");
            self.check_opaque(&path, errors);
            return introspection.compile(env, &path, errors).map(Box::new).map(KeySource::Introspection);
        }
        match (&self.jwks, &self.jwks_uri, self.secrets.as_slice()) {
            (Some(jwks), None, []) => {
                let path = path.field("jwks");
                let set = match jwks {
                    Value::String(text) => KeySet::parse_for(text.as_bytes(), self.purpose()),
                    set => KeySet::read(set, self.purpose()),
                };
                let set = errors.check(&path, set)?;
                if set.keys.is_empty() {
                    errors.add(&path, format!("has {}", set.why_empty()));
                }
                Some(KeySource::Inline(Rc::new(set)))
            }
            (None, url, []) => {
                let discovery = if url.is_none() { Some(self.discovery(path, errors)?) } else { None };
                let (field, url) = match (&discovery, url) {
                    (None, Some(url)) => (path.field("jwksUri"), url.clone()),
                    (Some(_), _) if self.discovery.uri.is_some() => {
                        (path.field("discovery").field("uri"), self.discovery.uri.clone().unwrap_or_default())
                    }
                    (Some(found), _) => (path.field("issuer"), Discovery::url_of(&found.issuer)),
                    (None, None) => return None,
                };
                let settings = self.jwks_cache.settings(&path.field("jwksCache"), errors);
                let headers = self.fetch_headers(env, &path.field("jwksHeaders"), errors);
                let remote = Remote::parse(&url, self.cluster.as_deref(), settings);
                let remote = errors.check(&field, remote)?;
                let discovery = discovery.map(Box::new);
                Some(KeySource::Remote(Remote { headers, purpose: self.purpose(), discovery, ..remote }))
            }
            (None, None, [_, ..]) => {
                if self.algorithms.is_none() {
                    errors.add(path, "has `secrets`; expected `algorithms` with `HS256`, `HS384` or `HS512`");
                }
                let path = path.field("secrets");
                let secrets = self.secrets.iter().enumerate();
                let keys = secrets
                    .filter_map(|(n, secret)| errors.check(&path.index(n), secret.key(algorithms, env)));
                Some(KeySource::Inline(Rc::new(KeySet::of(keys.map(Rc::new).collect()))))
            }
            _ => {
                errors.add(path, "expected at most one of `jwks`, `jwksUri` and `secrets`");
                None
            }
        }
    }

    /// Notes what a provider of opaque tokens cannot have.
    fn check_opaque(&self, path: &JsonPath, errors: &mut ErrorList) {
        let RawDiscovery { uri, jwks_hosts } = &self.discovery;
        for (name, given) in [
            ("jwks", self.jwks.is_some()),
            ("jwksUri", self.jwks_uri.is_some()),
            ("jwksHeaders", !self.jwks_headers.is_empty()),
            ("secrets", !self.secrets.is_empty()),
            ("discovery", uri.is_some() || !jwks_hosts.is_empty()),
            ("cluster", self.cluster.is_some()),
            ("trustDomain", self.trust_domain.is_some()),
            ("algorithms", self.algorithms.is_some()),
            ("typ", self.typ.is_some()),
            ("albSigners", !self.alb_signers.is_empty()),
            ("outputPayloadToHeader", self.output_payload_to_header.is_some()),
        ] {
            if given {
                let message =
                    format!("goes not with `{name}`: the issuer says of a token whether it is good");
                errors.add(path, message);
            }
        }
    }

    /// What the metadata of the issuer must say.
    #[inline(never)]
    fn discovery(&self, path: &JsonPath, errors: &mut ErrorList) -> Option<Discovery> {
        let issuer =
            self.issuer.as_ref().filter(|issuer| !issuer.contains('*') && origin_of(issuer).is_some());
        if issuer.is_none() {
            let message = "expected one of `jwks`, `jwksUri` and `secrets`: only a provider whose `issuer` is one URL finds its keys by \
                           discovery";
            errors.add(path, message);
        }
        for (n, host) in self.discovery.jwks_hosts.iter().enumerate() {
            if origin_of(&format!("https://{host}"))
                .is_none_or(|origin| origin.len() != host.len().saturating_add(8))
            {
                let message = "is not a host; expected one such as `www.googleapis.com`, in lower case";
                errors.add(&path.field("discovery").field("jwksHosts").index(n), message);
            }
        }
        Some(Discovery { issuer: issuer?.clone(), jwks_hosts: self.discovery.jwks_hosts.clone() })
    }

    /// Whose tokens the provider confirms.
    #[inline(never)]
    fn issuer(&self, path: &JsonPath, errors: &mut ErrorList) -> Option<Issuer> {
        let iss = match &self.issuer {
            Some(issuer) => Some(errors.check(&path.field("issuer"), Pattern::parse(issuer))?),
            None if self.trust_domain.is_none() => {
                errors.note(Code::MissingField, path, "missing field `issuer`");
                return None;
            }
            None => None,
        };
        if let Some(domain) = &self.trust_domain {
            let good =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
            if domain.is_empty() || !domain.bytes().all(good) {
                let message =
                    "is not a SPIFFE trust domain; expected one such as `example.org`, without `spiffe://`";
                errors.add(&path.field("trustDomain"), message);
            }
            if self.audiences.is_empty() {
                let message = "has `trustDomain`; expected `audiences`, since a JWT-SVID is good for those alone that it names";
                errors.add(path, message);
            }
            if !self.require_expiration {
                let message = "is false beside `trustDomain`; expected true, since a JWT-SVID must expire";
                errors.add(&path.field("requireExpiration"), message);
            }
            if !self.secrets.is_empty() {
                errors.add(path, "has `trustDomain`; expected `jwks` or `jwksUri`");
            }
        }
        Some(Issuer { iss, trust_domain: self.trust_domain.clone() })
    }

    /// What the provider's keys must be for.
    fn purpose(&self) -> Purpose {
        if self.trust_domain.is_some() { Purpose::JwtSvids } else { Purpose::Signatures }
    }

    #[inline(never)]
    fn fetch_headers(&self, env: &dyn Environment, path: &JsonPath, errors: &mut ErrorList) -> FetchHeaders {
        let mut headers = Vec::new();
        for (n, header) in self.jwks_headers.iter().enumerate() {
            let path = path.index(n);
            errors.check(&path.field("name"), fetch_header_name(&header.name));
            let value = errors.check(&path.field("env"), header.env.read(env));
            let Some((value, variable)) = value else { continue };
            if !value.bytes().all(|byte| matches!(byte, b' '..=b'~')) || value.trim() != value {
                let message =
                    format!("`{variable}` does not hold the value of a header; expected printable ASCII");
                errors.add(&path.field("env"), message);
            }
            headers.push((header.name.clone(), value));
        }
        FetchHeaders(headers)
    }

    fn most_tried(&self, path: &JsonPath, errors: &mut ErrorList) -> usize {
        let most = self.max_keys_tried;
        if !(1..=MOST_KEYS).contains(&most) {
            errors.add(&path.field("maxKeysTried"), format!("expected 1 to {MOST_KEYS}, found {most}"));
        }
        most
    }

    fn clock_skew(&self, path: &JsonPath, errors: &mut ErrorList) -> Duration {
        let skew = self.clock_skew.unwrap_or(raw::CLOCK_SKEW).0;
        if skew > MOST_SKEW {
            errors.add(
                &path.field("clockSkew"),
                "expected at most `1h`: expired tokens are accepted for this long, and clocks differ by seconds",
            );
        } else if skew > USUAL_SKEW {
            let message = "is more than `5m`: expired tokens are accepted for this long";
            errors.note(Code::WideClockSkew, &path.field("clockSkew"), message);
        }
        skew
    }

    #[inline(never)]
    fn policy(&self, path: &JsonPath, errors: &mut ErrorList) -> Policy {
        let subjects = self.subjects.iter().enumerate().filter_map(|(n, subject)| {
            errors.check(&path.field("subjects").index(n), Pattern::parse(subject))
        });
        let subjects = subjects.collect();
        let required = self.required_claims.iter().enumerate().filter_map(|(n, claim)| {
            errors.check(&path.field("requiredClaims").index(n), ClaimPath::parse(claim))
        });
        let required = required.collect();
        let types = match &self.typ {
            // SPIFFE JWT-SVID, section 2.3.
            None if self.trust_domain.is_some() => vec!["jwt".to_owned(), "jose".to_owned()],
            None => vec!["jwt".to_owned(), "at+jwt".to_owned()],
            Some(types) => types.iter().map(|typ| short_type(typ)).collect(),
        };
        for (n, typ) in types.iter().enumerate() {
            // A token of another type is meant for something else (RFC 8725 section 3.11), even if its
            // signature is good.
            let is_svid = typ == "jose" && self.trust_domain.is_some();
            if typ != "jwt" && !typ.ends_with("+jwt") && !is_svid {
                errors.add(
                    &path.field("typ").index(n),
                    "is not a type of a JWT; expected `JWT` or a type that ends in `+jwt`",
                );
            }
        }
        Policy {
            audiences: self.audiences.to_vec(),
            subjects,
            authorized_parties: self.authorized_parties.to_vec(),
            types,
            untyped: self.typ.is_none(),
            signers: self.alb_signers.to_vec(),
            required,
            require_expiration: self.require_expiration,
            max_lifetime: self.max_lifetime.map(|lifetime| lifetime.0.as_secs()),
            clock_skew: self.clock_skew(path, errors).as_secs(),
        }
    }
}

fn algorithms(names: &[String], secret: bool, path: &JsonPath, errors: &mut ErrorList) -> Vec<Algorithm> {
    let parse = |name: &String| {
        let known = Algorithm::ALL.iter().map(|algorithm| algorithm.name());
        match Algorithm::named(name) {
            // If a provider had both, the public key of one could be tried as the secret of the other.
            Some(algorithm) if algorithm.is_symmetric() != secret => Err(format!(
                "`{name}` does not fit; expected HS* with `secrets`, and the others with `jwks` or `jwksUri`"
            )),
            Some(algorithm) => Ok(algorithm),
            None => Err(not_one_of(name, &known.collect::<Vec<_>>())),
        }
    };
    names.iter().enumerate().filter_map(|(n, name)| errors.check(&path.index(n), parse(name))).collect()
}

/// Headers with which the filter or the proxy makes a fetch.
const OWN_OF_FETCH: [&str; 8] =
    ["accept", "connection", "content-length", "host", "te", "transfer-encoding", "upgrade", "x-request-id"];

fn fetch_header_name(name: &str) -> Result<(), String> {
    header_name(name)?;
    if OWN_OF_FETCH.contains(&name) || name.starts_with("x-envoy-") {
        return Err("is a header that the proxy or the filter sets; expected another one".to_owned());
    }
    Ok(())
}

fn output_header(name: &str) -> Result<Rc<str>, String> {
    output_header_name(name).map(|()| Rc::from(name))
}

impl RawSecret {
    /// The key for these algorithms, for all of which it must be long enough (RFC 7518 section 3.2).
    fn key(&self, algorithms: &[Algorithm], env: &dyn Environment) -> Result<Key, String> {
        let (text, name) = self.env.read(env)?;
        let secret = match self.encoding {
            SecretEncoding::Text => text.into_bytes(),
            SecretEncoding::Base64url => {
                base64url::decode(text.as_bytes()).ok_or_else(|| format!("`{name}` is not base64url"))?
            }
        };
        if is_placeholder(&secret) {
            return Err(format!("`{name}` holds a placeholder; expected a secret"));
        }
        let long_enough =
            |algorithm: &Algorithm| algorithm.secret_length().is_some_and(|least| secret.len() >= least);
        match algorithms.iter().find(|algorithm| algorithm.is_symmetric() && !long_enough(algorithm)) {
            Some(algorithm) => Err(format!(
                "`{name}` has {} bytes; expected at least {} for {algorithm}",
                secret.len(),
                algorithm.secret_length().unwrap_or_default()
            )),
            None => Ok(Key {
                kid: self.kid.clone(),
                algorithms: algorithms.to_vec(),
                material: Material::Secret(secret),
                spki: Vec::new(),
            }),
        }
    }
}

impl RawTokenLocation {
    fn parse(&self) -> Result<TokenLocation, String> {
        match (&self.header, &self.query_param, &self.cookie) {
            (Some(name), None, None) => {
                header_name(name)?;
                let default = if name == "authorization" { "Bearer " } else { "" };
                let prefix = self.prefix.clone().unwrap_or_else(|| default.to_owned());
                Ok(TokenLocation::Header { name: name.clone(), prefix })
            }
            _ if self.prefix.is_some() => Err("`prefix` goes with `header`".to_owned()),
            (None, Some(name), None) if !name.is_empty() => Ok(TokenLocation::QueryParam(name.clone())),
            (None, None, Some(name)) if !name.is_empty() => Ok(TokenLocation::Cookie(name.clone())),
            _ => Err("expected one of `header`, `queryParam` and `cookie`".to_owned()),
        }
    }

    /// The positions of the rules that it names.
    #[inline(never)]
    fn rules(&self, rules: &[RawRule], path: &JsonPath, errors: &mut ErrorList) -> Vec<usize> {
        let mut positions = Vec::new();
        for (n, name) in self.rules.iter().enumerate() {
            let path = path.index(n);
            let of_name = rules.iter().enumerate().filter(|(_, rule)| rule.name.as_ref() == Some(name));
            let before = positions.len();
            for (position, rule) in of_name {
                positions.push(position);
                if rule.allow == Some(RawAllow::Nobody) || rule.verify == Some(Verify::Never) {
                    let message = "is a rule that looks at no token";
                    errors.note(Code::PlaceNotRead, &path, message);
                }
            }
            if positions.len() == before {
                let known: Vec<&str> = rules.iter().filter_map(|rule| rule.name.as_deref()).collect();
                errors.add(&path, format!("there is no rule of this name; {}", not_one_of(name, &known)));
            }
        }
        positions
    }
}

impl RawIntrospection {
    #[inline(never)]
    fn compile(
        &self,
        env: &dyn Environment,
        path: &JsonPath,
        errors: &mut ErrorList,
    ) -> Option<Introspection> {
        let cache = at_least(self.cache, raw::INTROSPECTION_CACHE, 1, &path.field("cache"), errors);
        if cache > MOST_CACHE {
            errors.add(
                &path.field("cache"),
                "expected at most `10m`: a revoked token is accepted for this long",
            );
        }
        let settings = Settings {
            duration: cache,
            min_interval: cache,
            timeout: at_least(self.timeout, raw::FETCH_TIMEOUT, 1, &path.field("timeout"), errors),
            stale_if_error: Duration::ZERO,
        };
        if self.client_id.is_empty() {
            errors.add(&path.field("clientId"), "expected a text, found an empty one");
        }
        let secret = errors.check(&path.field("clientSecret").field("env"), self.client_secret.env.read(env));
        let remote = Remote::parse(&self.uri, self.cluster.as_deref(), settings);
        let mut remote = errors.check(&path.field("uri"), remote)?;
        let (mut id, mut key) = (String::new(), String::new());
        percent_encode(self.client_id.as_bytes(), &mut id);
        percent_encode(secret?.0.as_bytes(), &mut key);
        let mut credentials = String::new();
        match self.client_authentication {
            ClientAuthentication::Basic => {
                let value = ["Basic ", &STANDARD.encode([&id, ":", &key].concat())].concat();
                remote.headers.0.push(("authorization".to_owned(), value));
            }
            ClientAuthentication::Post => {
                credentials = ["&client_id=", &id, "&client_secret=", &key].concat();
            }
        }
        // No token is verified with this key: it is there for as long as the endpoint is.
        let key = Key {
            kid: None,
            algorithms: Vec::new(),
            material: Material::Secret(Vec::new()),
            spki: Vec::new(),
        };
        Some(Introspection {
            remote,
            credentials,
            longest: cache.as_secs(),
            jwts: self.jwts,
            key: Rc::new(key),
        })
    }
}

impl RawRevoked {
    fn elsewhere(&self, path: &JsonPath, errors: &mut ErrorList) -> Option<RemoteList> {
        let Some(uri) = &self.uri else {
            for (name, given) in [
                ("cluster", self.cluster.is_some()),
                ("refresh", self.refresh.is_some()),
                ("timeout", self.timeout.is_some()),
                ("staleIfError", self.stale_if_error.is_some()),
                ("onFailure", self.on_failure.is_some()),
            ] {
                if given {
                    errors.add(&path.field(name), "goes with `uri`");
                }
            }
            return None;
        };
        let mut duration =
            |text, default, least, name| at_least(text, default, least, &path.field(name), errors);
        let refresh = duration(self.refresh, raw::REVOKED_REFRESH, 1, "refresh");
        let settings = Settings {
            duration: refresh,
            min_interval: refresh,
            timeout: duration(self.timeout, raw::FETCH_TIMEOUT, 1, "timeout"),
            stale_if_error: duration(self.stale_if_error, raw::STALE_IF_ERROR, 0, "staleIfError"),
        };
        let remote = Remote::parse(uri, self.cluster.as_deref(), settings);
        let remote = errors.check(&path.field("uri"), remote)?;
        Some(RemoteList { remote, on_failure: self.on_failure.unwrap_or_default() })
    }
}

/// The duration that is given or else the default. Notes an error if it is shorter than `least` seconds.
fn at_least(
    text: Option<DurationText>,
    default: DurationText,
    least: u64,
    path: &JsonPath,
    errors: &mut ErrorList,
) -> Duration {
    let duration = text.unwrap_or(default).0;
    if duration < Duration::from_secs(least) {
        errors.add(path, format!("expected at least {least}s"));
    }
    duration
}

impl RawJwksCache {
    fn settings(&self, path: &JsonPath, errors: &mut ErrorList) -> Settings {
        let mut duration =
            |text, default, least, path: JsonPath| at_least(text, default, least, &path, errors);
        Settings {
            duration: duration(self.duration, raw::JWKS_DURATION, 1, path.field("duration")),
            min_interval: duration(
                self.refetch_unknown_kid.min_interval,
                raw::REFETCH_INTERVAL,
                1,
                path.field("refetchUnknownKid").field("minInterval"),
            ),
            timeout: duration(self.timeout, raw::FETCH_TIMEOUT, 1, path.field("timeout")),
            stale_if_error: duration(self.stale_if_error, raw::STALE_IF_ERROR, 0, path.field("staleIfError")),
        }
    }
}
