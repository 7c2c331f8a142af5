//! pluginConfig of jwt-auth: what a user writes, and what the filter makes of it.

use std::rc::Rc;
use std::time::Duration;

pub use plugin_kit::config::Mode;
use plugin_kit::config::secret::{SecretVariable, is_placeholder};
use plugin_kit::config::{
    ByName, ConfigErrors, DurationText, ErrorList, JsonPath, NonEmpty, document, not_one_of, read, shown_name,
};
use plugin_kit::host::Environment;
use plugin_kit::reply::denial::{Body, Extras, RawCors, is_quotable};
use plugin_kit::request::cel::Expression;
use plugin_kit::request::matcher::{
    RawRequestMatch, RawValueTest, RequestMatch, ValueTest, header_name, output_header_name,
};
use plugin_kit::request::path::PathCase;
use plugin_kit::{config_choice, config_object};
use serde_json::Value;

use crate::fetch::revocation::{OnFailure, RemoteList, Revoked};
use crate::fetch::schedule::Settings;
use crate::keys::jwk::{Key, KeySet, MOST_KEYS, MOST_TRIED, Material};
use crate::keys::signature::Algorithm;
use crate::policy::provider::{KeySource, Provider, Remote};
use crate::policy::rules::{Access, ClaimTest, Requirement, Rule, TokenRequirement, Verify};
use crate::token::base64url;
use crate::token::claims::{ClaimPath, Pattern, Policy};
use crate::token::compact::short_type;
use crate::token::location::Place;
use crate::token::output::OwnHeaders;

config_object! {
    /// The configuration as a user writes it.
    #[derive(Debug)]
    struct RawConfig {
        providers: NonEmpty<ByName<RawProvider>>,
        rules: Vec<RawRule> = Vec::new(),
        ambiguous_path: AmbiguousPath = AmbiguousPath::default(),
        path_case: PathCase = PathCase::default(),
        cors_preflight: CorsPreflight = CorsPreflight::default(),
        several_tokens: SeveralTokens = SeveralTokens::default(),
        mode: Mode = Mode::default(),
        deny_response: RawDenyResponse = RawDenyResponse::default(),
        publish_claims: Option<Vec<String>>,
        publish_all_claims: bool = false,
        token_cache: RawTokenCache = RawTokenCache::default(),
        max_waiting_requests: Option<usize>,
        slow_verifications_per_second: Option<u32>,
    }
}

config_object! {
    #[derive(Debug)]
    struct RawProvider {
        issuer: String,
        audiences: NonEmpty<Vec<String>> = NonEmpty::default(),
        jwks: Option<Value>,
        jwks_uri: Option<String>,
        secrets: NonEmpty<Vec<RawSecret>> = NonEmpty::default(),
        cluster: Option<String>,
        jwks_cache: RawJwksCache = RawJwksCache::default(),
        max_keys_tried: Option<usize>,
        algorithms: Option<NonEmpty<Vec<String>>>,
        from: Option<NonEmpty<Vec<RawPlace>>>,
        clock_skew: Option<DurationText>,
        require_expiration: Option<bool>,
        max_lifetime: Option<DurationText>,
        typ: Option<NonEmpty<Vec<String>>>,
        subjects: NonEmpty<Vec<String>> = NonEmpty::default(),
        authorized_parties: NonEmpty<Vec<String>> = NonEmpty::default(),
        required_claims: Vec<String> = Vec::new(),
        revoked: RawRevoked = RawRevoked::default(),
        output_claim_to_headers: Vec<RawClaimHeader> = Vec::new(),
        output_payload_to_header: Option<String>,
        forward_original_token: bool = false,
    }
}

config_object! {
    /// A secret never stands in pluginConfig, which the proxy's `config_dump` shows.
    #[derive(Debug)]
    struct RawSecret {
        env: SecretVariable,
        kid: Option<String>,
        encoding: SecretEncoding = SecretEncoding::default(),
    }
}

config_choice! {
    #[derive(Debug, Clone, Copy, Default)]
    enum SecretEncoding {
        #[default]
        Text,
        Base64url,
    }
}

config_object! {
    #[derive(Debug, Default)]
    struct RawJwksCache {
        duration: Option<DurationText>,
        refetch_unknown_kid: RawRefetch = RawRefetch::default(),
        timeout: Option<DurationText>,
        stale_if_error: Option<DurationText>,
    }
}

config_object! {
    #[derive(Debug, Default)]
    struct RawRefetch {
        min_interval: Option<DurationText>,
    }
}

config_object! {
    #[derive(Debug, Default)]
    struct RawRevoked {
        jti: Vec<String> = Vec::new(),
        sub: Vec<String> = Vec::new(),
        kid: Vec<String> = Vec::new(),
        uri: Option<String>,
        cluster: Option<String>,
        refresh: Option<DurationText>,
        timeout: Option<DurationText>,
        stale_if_error: Option<DurationText>,
        on_failure: Option<OnFailure>,
    }
}

config_object! {
    #[derive(Debug)]
    struct RawPlace {
        header: Option<String>,
        prefix: Option<String>,
        query_param: Option<String>,
        cookie: Option<String>,
    }
}

config_object! {
    #[derive(Debug)]
    struct RawClaimHeader {
        claim: String,
        header: String,
    }
}

config_object! {
    #[derive(Debug)]
    struct RawRule {
        name: Option<String>,
        r#match: RawRequestMatch = RawRequestMatch::default(),
        allow: Option<RawAllow>,
        verify: Option<Verify>,
        require: Option<RawRequirement>,
        when: Option<String>,
    }
}

config_choice! {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum RawAllow {
        Anyone,
        Nobody,
    }
}

config_object! {
    #[derive(Debug, Default)]
    struct RawRequirement {
        provider: Option<String>,
        claims: NonEmpty<ByName<RawValueTest>> = NonEmpty::default(),
        space_delimited_claims: Vec<String> = Vec::new(),
        scopes: NonEmpty<Vec<String>> = NonEmpty::default(),
        any_of: NonEmpty<Vec<RawRequirement>> = NonEmpty::default(),
        all_of: NonEmpty<Vec<RawRequirement>> = NonEmpty::default(),
    }
}

config_object! {
    #[derive(Debug, Default)]
    struct RawDenyResponse {
        /// The body.
        body: Body = Body::default(),
        /// Which pages may read a denial.
        cors: Option<RawCors>,
        /// Headers that every denial gets.
        add_headers: ByName<String> = ByName::default(),
        realm: Option<String>,
        code_header: Option<String>,
        wrong_audience: WrongAudience = WrongAudience::default(),
    }
}

config_object! {
    #[derive(Debug, Default)]
    struct RawTokenCache {
        max_entries: Option<usize>,
        max_refused: Option<usize>,
    }
}

config_choice! {
    /// What happens to a request whose path can be read in more than one way, where a rule looks at paths.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum AmbiguousPath {
        /// It is answered with 400.
        #[default]
        Reject,
        /// It must pass the rules of every reading.
        EveryReading,
    }
}

config_choice! {
    /// What happens to a CORS preflight without a token.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum CorsPreflight {
        /// It goes to the service: browsers send no token with it.
        #[default]
        Allow,
        /// The rules decide.
        Check,
    }
}

config_choice! {
    /// What happens to a request with more than one token.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum SeveralTokens {
        /// It is answered with 400, as RFC 6750 section 2 says.
        #[default]
        Reject,
        /// Each of them must be good, and about the same subject. The first of them says who makes the request.
        VerifyAll,
        /// The first good one says who makes the request, and the rest is not looked at.
        FirstGood,
    }
}

config_choice! {
    /// The status of a reply to a token for another audience.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum WrongAudience {
        /// 401, as RFC 9068 section 4 says.
        #[default]
        Unauthenticated,
        /// 403, as Envoy's own filter has it.
        Forbidden,
    }
}

/// How refused requests are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DenyResponse {
    /// The body.
    pub body: Body,
    /// Headers that every refusal gets, and what lets pages read it.
    pub extras: Extras,
    /// `realm` of challenges.
    pub realm: String,
    /// A response header that gets the deny code.
    pub code_header: Option<String>,
    /// See [`WrongAudience`].
    pub wrong_audience: WrongAudience,
}

/// A configuration that makes sense.
#[derive(Debug)]
pub struct Config {
    /// Issuers, by name.
    pub providers: Vec<Provider>,
    /// Rules, the first that matches decides.
    pub rules: Vec<Rule>,
    /// Places of tokens, each with the positions of the providers that look there.
    pub places: Vec<(Place, Vec<usize>)>,
    /// Headers that only this filter sets.
    pub own_headers: OwnHeaders,
    /// Claims that become filter state, with its key.
    pub publish: Vec<(ClaimPath, Rc<str>)>,
    /// Whether all claims together become the typed filter state that CEL reads, see [`plugin_kit::request::cel::CLAIMS`].
    pub publish_all: bool,
    /// See [`AmbiguousPath`].
    pub ambiguous_path: AmbiguousPath,
    /// Whether paths that differ in case are one.
    pub path_case: PathCase,
    /// See [`CorsPreflight`].
    pub cors_preflight: CorsPreflight,
    /// See [`SeveralTokens`].
    pub several_tokens: SeveralTokens,
    /// See [`Mode`].
    pub mode: Mode,
    /// How refused requests are answered.
    pub deny_response: DenyResponse,
    /// How many verified tokens are remembered.
    pub cached_tokens: usize,
    /// How many refused tokens are.
    pub refused_tokens: usize,
    /// How many requests may wait for keys.
    pub most_waiting: usize,
    /// How many signatures this module may check in a second, where the host does not.
    pub slow_verifications: u32,
}

impl Config {
    /// Reads pluginConfig. `env` gives the variables of vmConfig.env, where secrets are, and compiles CEL.
    ///
    /// # Errors
    /// Everything that is wrong, each with its JSON path.
    pub fn parse(json: &[u8], env: &dyn Environment) -> Result<Self, ConfigErrors> {
        Self::read(&document(json)?, env)
    }

    /// The same from JSON that is read already.
    ///
    /// # Errors
    /// Those of [`Config::parse`].
    #[inline(never)]
    pub fn read(document: &Value, env: &dyn Environment) -> Result<Self, ConfigErrors> {
        let raw: RawConfig = read(document)?;
        let mut errors = ErrorList::default();
        let config = raw.compile(env, &mut errors);
        errors.finish(Some(config))
    }

    /// Every algorithm that some provider takes.
    pub fn algorithms(&self) -> Vec<Algorithm> {
        let takes = |algorithm: &Algorithm| self.providers.iter().any(|p| p.algorithms.contains(algorithm));
        Algorithm::ALL.iter().copied().filter(takes).collect()
    }

    /// The JSON Schema of pluginConfig.
    #[cfg(not(target_os = "wasi"))]
    pub fn schema() -> serde_json::Value {
        plugin_kit::config::schema::<RawConfig>("jwt-auth: pluginConfig")
    }
}

const MOST_CACHED: usize = 100_000;
/// So many go on or are refused within 0.4 s, see [`plugin_kit::host`].
const MOST_WAITING: usize = 10_000;
const MOST_SKEW: Duration = Duration::from_hours(1);
/// Anyone can fill these places, each with 16 KiB.
const MOST_REFUSED: usize = 1_000;

impl RawConfig {
    fn compile(self, env: &dyn Environment, errors: &mut ErrorList) -> Config {
        let root = JsonPath::root();
        let names: Vec<String> = self.providers.0.iter().map(|(name, _)| name.clone()).collect();
        let mut places: Vec<(Place, Vec<usize>)> = Vec::new();
        let mut providers = Vec::new();
        for (n, (name, raw)) in self.providers.into_iter().enumerate() {
            let path = root.field("providers").field(&name);
            for place in raw.places(&path, errors) {
                match places.iter_mut().find(|(known, _)| *known == place) {
                    Some((_, users)) => users.push(n),
                    None => places.push((place, vec![n])),
                }
            }
            providers.extend(raw.compile(name, env, &path, errors));
        }
        // In the order in which tokens speak for a request. Within a kind that of the providers' names, which is theirs here.
        places.sort_by_key(|(place, _)| place.rank());
        let rules = self.rules.into_iter().enumerate().filter_map(|(n, rule)| {
            let path = root.field("rules").index(n);
            let rule = rule.compile(n, &names, self.path_case, env, &path, errors)?;
            if let Access::Require(requirement) = &rule.access
                && self.several_tokens != SeveralTokens::VerifyAll
                && providers.len() == names.len()
            {
                one_token_can_meet(requirement, &providers, &path.field("require"), errors);
            }
            Some(rule)
        });
        let rules = rules.collect();
        let publish_path = root.field("publishClaims");
        let publish = self.publish_claims.unwrap_or_else(|| vec!["sub".to_owned()]);
        let publish = publish.iter().enumerate().filter_map(|(n, claim)| {
            let path = errors.check(&publish_path.index(n), ClaimPath::parse(claim))?;
            Some((path, Rc::from(format!("jwt.{claim}"))))
        });
        let publish = publish.collect();
        let deny_response = self.deny_response.compile(&root.field("denyResponse"), errors);
        let cached_tokens = self.token_cache.max_entries.unwrap_or(1000);
        if cached_tokens > MOST_CACHED {
            errors.add(
                &root.field("tokenCache").field("maxEntries"),
                format!("expected at most {MOST_CACHED}; 0 for no cache"),
            );
        }
        let refused_tokens = self.token_cache.max_refused.unwrap_or(128);
        if refused_tokens > MOST_REFUSED {
            errors.add(
                &root.field("tokenCache").field("maxRefused"),
                format!("expected at most {MOST_REFUSED}; 0 for none"),
            );
        }
        Config {
            own_headers: OwnHeaders::new(providers.iter().flat_map(Provider::own_headers)),
            providers,
            rules,
            places,
            publish,
            publish_all: self.publish_all_claims,
            ambiguous_path: self.ambiguous_path,
            path_case: self.path_case,
            cors_preflight: self.cors_preflight,
            several_tokens: self.several_tokens,
            mode: self.mode,
            deny_response,
            cached_tokens,
            refused_tokens,
            most_waiting: most_waiting(self.max_waiting_requests, &root, errors),
            slow_verifications: self.slow_verifications_per_second.unwrap_or(200),
        }
    }
}

/// Notes under `path` an `allOf` that no token meets, where a request has one token: each is of one issuer.
fn one_token_can_meet(
    requirement: &Requirement,
    providers: &[Provider],
    path: &JsonPath,
    errors: &mut ErrorList,
) {
    let (all, field) = match requirement {
        Requirement::Token(_) => return,
        Requirement::AllOf(all) => (all, "allOf"),
        Requirement::AnyOf(any) => (any, "anyOf"),
    };
    let path = path.field(field);
    for (n, part) in all.iter().enumerate() {
        one_token_can_meet(part, providers, &path.index(n), errors);
    }
    let of: Vec<&Provider> = needed(requirement).into_iter().filter_map(|n| providers.get(n)).collect();
    let strangers = of.iter().enumerate().find_map(|(n, provider)| {
        let other = of.iter().skip(n).find(|other| !provider.issuer.may_share(&other.issuer))?;
        Some((provider, other))
    });
    if let (Requirement::AllOf(_), Some((a, b))) = (requirement, strangers) {
        errors.add(
            &path,
            format_args!(
                "no token is of the providers `{}` and `{}`, whose issuers differ, and one token alone counts; expected \
                 `severalTokens: verifyAll`, or `anyOf`",
                shown_name(&a.name),
                shown_name(&b.name)
            ),
        );
    }
}

/// The providers each of which must have confirmed a token, whichever way the requirement is met.
fn needed(requirement: &Requirement) -> Vec<usize> {
    match requirement {
        Requirement::Token(token) => token.providers.clone(),
        Requirement::AllOf(all) => all.iter().flat_map(needed).collect(),
        Requirement::AnyOf(any) => {
            let mut ways = any.iter().map(needed);
            let first = ways.next().unwrap_or_default();
            ways.fold(first, |both, way| both.into_iter().filter(|n| way.contains(n)).collect())
        }
    }
}

fn most_waiting(configured: Option<usize>, root: &JsonPath, errors: &mut ErrorList) -> usize {
    let most = configured.unwrap_or(1000);
    if most > MOST_WAITING {
        errors.add(
            &root.field("maxWaitingRequests"),
            format!("expected at most {MOST_WAITING}: a proxy keeps each of them in memory"),
        );
    }
    most
}

impl RawDenyResponse {
    #[inline(never)]
    fn compile(self, path: &JsonPath, errors: &mut ErrorList) -> DenyResponse {
        let realm = self.realm.unwrap_or_else(|| "service".to_owned());
        if !is_quotable(&realm) {
            errors.add(&path.field("realm"), "expected printable ASCII without quote and backslash");
        }
        let code_header = self.code_header;
        if let Some(name) = &code_header {
            errors.check(&path.field("codeHeader"), output_header_name(name));
        }
        self.body.check(&path.field("body"), errors);
        let extras = Extras::compile(self.add_headers, self.cors.as_ref(), path, errors);
        DenyResponse { body: self.body, extras, realm, code_header, wrong_audience: self.wrong_audience }
    }
}

impl Provider {
    fn own_headers(&self) -> impl Iterator<Item = String> {
        let claims = self.claim_headers.iter().map(|(_, header)| header);
        claims.chain(&self.payload_header).map(ToString::to_string)
    }
}

impl RawProvider {
    #[inline(never)]
    fn places(&self, path: &JsonPath, errors: &mut ErrorList) -> Vec<Place> {
        let Some(from) = &self.from else { return vec![Place::bearer()] };
        let path = path.field("from");
        from.iter().enumerate().filter_map(|(n, place)| errors.check(&path.index(n), place.parse())).collect()
    }

    #[inline(never)]
    fn compile(
        self,
        name: String,
        env: &dyn Environment,
        path: &JsonPath,
        errors: &mut ErrorList,
    ) -> Option<Provider> {
        let issuer = errors.check(&path.field("issuer"), Pattern::parse(&self.issuer));
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
            revoked: Revoked::new(self.revoked.jti, self.revoked.sub, self.revoked.kid),
            keys: keys?,
            most_tried,
            claim_headers,
            payload_header,
            forward: self.forward_original_token,
        })
    }

    #[inline(never)]
    fn keys(
        &self,
        algorithms: &[Algorithm],
        env: &dyn Environment,
        path: &JsonPath,
        errors: &mut ErrorList,
    ) -> Option<KeySource> {
        match (&self.jwks, &self.jwks_uri, self.secrets.as_slice()) {
            (Some(jwks), None, []) => {
                let path = path.field("jwks");
                let set = match jwks {
                    Value::String(text) => KeySet::parse(text.as_bytes()),
                    set => KeySet::read(set),
                };
                let set = errors.check(&path, set)?;
                if set.keys.is_empty() {
                    errors.add(&path, format!("has {}", set.why_empty()));
                }
                Some(KeySource::Inline(Rc::new(set)))
            }
            (None, Some(url), []) => {
                let settings = self.jwks_cache.settings(&path.field("jwksCache"), errors);
                let remote = Remote::parse(url, self.cluster.as_deref(), settings);
                errors.check(&path.field("jwksUri"), remote).map(KeySource::Remote)
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
                errors.add(path, "expected one of `jwks`, `jwksUri` and `secrets`");
                None
            }
        }
    }

    fn most_tried(&self, path: &JsonPath, errors: &mut ErrorList) -> usize {
        let most = self.max_keys_tried.unwrap_or(MOST_TRIED);
        if !(1..=MOST_KEYS).contains(&most) {
            errors.add(&path.field("maxKeysTried"), format!("expected 1 to {MOST_KEYS}, found {most}"));
        }
        most
    }

    fn clock_skew(&self, path: &JsonPath, errors: &mut ErrorList) -> Duration {
        let skew = self.clock_skew.map_or(Duration::from_mins(1), |skew| skew.0);
        if skew > MOST_SKEW {
            errors.add(
                &path.field("clockSkew"),
                "expected at most `1h`: for so long every token is good that has expired; clocks differ by seconds",
            );
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
            None => vec!["jwt".to_owned(), "at+jwt".to_owned()],
            Some(types) => types.iter().map(|typ| short_type(typ)).collect(),
        };
        for (n, typ) in types.iter().enumerate() {
            // A token of another kind is for something else (RFC 8725 section 3.11), whatever its signature says.
            if typ != "jwt" && !typ.ends_with("+jwt") {
                errors.add(
                    &path.field("typ").index(n),
                    "no type of a JWT; expected `JWT` or one that ends in `+jwt`",
                );
            }
        }
        Policy {
            audiences: self.audiences.to_vec(),
            subjects,
            authorized_parties: self.authorized_parties.to_vec(),
            types,
            untyped: self.typ.is_none(),
            required,
            require_expiration: self.require_expiration.unwrap_or(true),
            max_lifetime: self.max_lifetime.map(|lifetime| lifetime.0.as_secs()),
            clock_skew: self.clock_skew(path, errors).as_secs(),
        }
    }
}

fn algorithms(names: &[String], secret: bool, path: &JsonPath, errors: &mut ErrorList) -> Vec<Algorithm> {
    let parse = |name: &String| {
        let known = Algorithm::ALL.iter().map(|algorithm| algorithm.name());
        match Algorithm::named(name) {
            // Were both allowed, the public key of one could be tried as the secret of the other.
            Some(algorithm) if algorithm.is_symmetric() != secret => Err(format!(
                "`{name}` does not fit; expected HS* with `secrets`, and the others with `jwks` or `jwksUri`"
            )),
            Some(algorithm) => Ok(algorithm),
            None => Err(not_one_of(name, &known.collect::<Vec<_>>())),
        }
    };
    names.iter().enumerate().filter_map(|(n, name)| errors.check(&path.index(n), parse(name))).collect()
}

fn output_header(name: &str) -> Result<Rc<str>, String> {
    output_header_name(name).map(|()| Rc::from(name))
}

impl RawSecret {
    /// The key, for those of these algorithms for which it is long enough (RFC 7518 section 3.2).
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

impl RawPlace {
    fn parse(&self) -> Result<Place, String> {
        match (&self.header, &self.query_param, &self.cookie) {
            (Some(name), None, None) => {
                header_name(name)?;
                let default = if name == "authorization" { "Bearer " } else { "" };
                let prefix = self.prefix.clone().unwrap_or_else(|| default.to_owned());
                Ok(Place::Header { name: name.clone(), prefix })
            }
            _ if self.prefix.is_some() => Err("`prefix` goes with `header`".to_owned()),
            (None, Some(name), None) if !name.is_empty() => Ok(Place::QueryParam(name.clone())),
            (None, None, Some(name)) if !name.is_empty() => Ok(Place::Cookie(name.clone())),
            _ => Err("expected one of `header`, `queryParam` and `cookie`".to_owned()),
        }
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
        let refresh = duration(self.refresh, 60, 1, "refresh");
        let settings = Settings {
            duration: refresh,
            min_interval: refresh,
            timeout: duration(self.timeout, 2, 1, "timeout"),
            stale_if_error: duration(self.stale_if_error, 3600, 0, "staleIfError"),
        };
        let remote = Remote::parse(uri, self.cluster.as_deref(), settings);
        let remote = errors.check(&path.field("uri"), remote)?;
        Some(RemoteList { remote, on_failure: self.on_failure.unwrap_or_default() })
    }
}

/// A duration, `default` seconds unless given; a note where it is shorter than `least` seconds.
fn at_least(
    text: Option<DurationText>,
    default: u64,
    least: u64,
    path: &JsonPath,
    errors: &mut ErrorList,
) -> Duration {
    let duration = text.map_or(Duration::from_secs(default), |text| text.0);
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
            duration: duration(self.duration, 600, 1, path.field("duration")),
            min_interval: duration(
                self.refetch_unknown_kid.min_interval,
                30,
                1,
                path.field("refetchUnknownKid").field("minInterval"),
            ),
            timeout: duration(self.timeout, 2, 1, path.field("timeout")),
            stale_if_error: duration(self.stale_if_error, 3600, 0, path.field("staleIfError")),
        }
    }
}

impl RawRule {
    #[inline(never)]
    fn compile(
        self,
        n: usize,
        providers: &[String],
        case: PathCase,
        env: &dyn Environment,
        path: &JsonPath,
        errors: &mut ErrorList,
    ) -> Option<Rule> {
        let condition = RequestMatch::compile(&self.r#match, case, env, &path.field("match"), errors);
        let access = match (self.allow, self.verify, &self.require) {
            (Some(RawAllow::Anyone), verify, None) => {
                Some(Access::Anyone(verify.unwrap_or(Verify::IfPresent)))
            }
            (Some(RawAllow::Nobody), None, None) => Some(Access::Nobody),
            (None, None, Some(require)) => {
                require.compile(providers, &path.field("require"), errors).map(Access::Require)
            }
            (_, Some(_), _) => {
                errors.add(&path.field("verify"), "goes with `allow: anyone`");
                None
            }
            _ => {
                errors.add(path, "expected either `allow` or `require`");
                None
            }
        };
        let named = self.name.is_some();
        let name = self.name.unwrap_or_else(|| format!("rules[{n}]"));
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if named && (name.is_empty() || !name.bytes().all(good)) {
            errors.add(&path.field("name"), "no name for a metric; expected letters, digits, `-` and `_`");
        }
        let when = self.when.as_deref().and_then(|when| {
            let path = path.field("when");
            if self.allow == Some(RawAllow::Nobody) {
                errors.add(&path, "goes with `allow: anyone` or `require`");
            }
            errors.check(&path, Expression::condition(when, env))
        });
        Some(Rule { name, named, condition: condition?, access: access?, when })
    }
}

impl RawRequirement {
    fn compile(&self, providers: &[String], path: &JsonPath, errors: &mut ErrorList) -> Option<Requirement> {
        let mut all = |list: &[Self], name: &str| -> Vec<Requirement> {
            let path = path.field(name);
            list.iter()
                .enumerate()
                .filter_map(|(n, raw)| raw.compile(providers, &path.index(n), errors))
                .collect()
        };
        let (any_of, all_of) = (all(&self.any_of, "anyOf"), all(&self.all_of, "allOf"));
        let own = self.provider.is_some() || !self.claims.0.is_empty() || !self.scopes.is_empty();
        match (own, self.any_of.is_empty(), self.all_of.is_empty()) {
            (false, false, true) => return Some(Requirement::AnyOf(any_of)),
            (false, true, false) => return Some(Requirement::AllOf(all_of)),
            (_, true, true) => {}
            _ => {
                errors.add(path, "mixes `anyOf`, `allOf` and demands of its own; expected one of them");
                return None;
            }
        }
        let mut token = TokenRequirement { scopes: self.scopes.to_vec(), ..TokenRequirement::default() };
        for (n, scope) in self.scopes.iter().enumerate() {
            let good = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
            if scope.is_empty() || !scope.bytes().all(good) {
                errors.add(
                    &path.field("scopes").index(n),
                    "no scope (RFC 6749 section 3.3); expected one word of printable ASCII",
                );
            }
        }
        if let Some(name) = &self.provider {
            if let Some(position) = providers.iter().position(|known| known == name) {
                token.providers.push(position);
            } else {
                errors.add(
                    &path.field("provider"),
                    format!("no provider of this name; {}", not_one_of(name, providers)),
                );
            }
        }
        for (claim, test) in &self.claims.0 {
            let path = path.field("claims").field(claim);
            let found = errors.check(&path, ClaimPath::parse(claim));
            let test = ValueTest::compile(test, &path, errors);
            let space_delimited = claim == "scope" || self.space_delimited_claims.contains(claim);
            token.claims.extend(found.zip(test).map(|(path, test)| ClaimTest {
                path,
                space_delimited,
                test,
            }));
        }
        Some(Requirement::Token(token))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is wrong with a configuration whose provider `a`, rules and other fields are these; nothing where it is taken.
    fn wrong(provider: &Value, rules: &Value, others: &Value) -> String {
        let key = json!({ "keys": [{
            "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        }] });
        let mut document = json!({
            "providers": {
                "a": { "issuer": "https://a.test/", "jwks": key },
                "b": { "issuer": "https://b.test/", "jwks": key },
                "any": { "issuer": "https://*.test/", "jwks": key },
            },
            "rules": rules,
        });
        for (name, value) in provider.as_object().unwrap() {
            document["providers"]["a"][name] = value.clone();
        }
        for (name, value) in others.as_object().unwrap() {
            document[name] = value.clone();
        }
        let config = Config::parse(document.to_string().as_bytes(), &|_: &str| None);
        config.map_or_else(|errors| errors.to_string(), |_| String::new())
    }

    fn provider(fields: &Value) -> String {
        wrong(fields, &json!([]), &json!({}))
    }

    fn require(requirement: &Value) -> String {
        wrong(&json!({}), &json!([{ "require": requirement }]), &json!({}))
    }

    #[test]
    fn an_empty_list_is_refused_where_it_would_mean_all_or_nothing() {
        for field in ["audiences", "subjects", "authorizedParties", "typ", "algorithms", "from", "secrets"] {
            let expected = format!("providers.a.{field}: is empty; expected at least one entry");
            assert_eq!(provider(&json!({ field: [] })), expected);
            let expected = format!("providers.a.{field}: expected a list, found null");
            assert_eq!(provider(&json!({ field: null })), expected);
        }
        for (requirement, path) in [
            (json!({ "claims": {} }), "claims"),
            (json!({ "claims": { "a": { "anyOf": [] } } }), "claims.a.anyOf"),
            (json!({ "claims": { "a": { "allOf": [] } } }), "claims.a.allOf"),
            (json!({ "claims": { "a": { "noneOf": [], "present": true } } }), "claims.a.noneOf"),
            (json!({ "scopes": [] }), "scopes"),
            (json!({ "anyOf": [] }), "anyOf"),
            (json!({ "allOf": [] }), "allOf"),
            (json!({ "provider": "a", "anyOf": [] }), "anyOf"),
        ] {
            let expected = format!("rules[0].require.{path}: is empty; expected at least one entry");
            assert_eq!(require(&requirement), expected);
        }
        assert_eq!(
            require(&json!({ "provider": null })),
            "rules[0].require.provider: expected a text, found null"
        );
        assert_eq!(
            wrong(&json!({}), &json!([{ "match": { "principals": [] }, "allow": "anyone" }]), &json!({})),
            "rules[0].match.principals: is empty; expected at least one entry"
        );
        assert!(
            wrong(&json!({}), &json!([]), &json!({ "providers": {} })).starts_with("providers: is empty")
        );
    }

    #[test]
    fn an_empty_list_stays_where_it_means_what_it_says() {
        let fields = json!({
            "requiredClaims": [], "outputClaimToHeaders": [], "revoked": { "jti": [], "sub": [], "kid": [] },
        });
        assert_eq!(provider(&fields), "");
        assert_eq!(wrong(&json!({}), &json!([]), &json!({ "publishClaims": [] })), "");
        assert_eq!(require(&json!({})), "");
    }

    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        for fields in [
            json!({ "algorithms": ["s3cr3t"] }),
            json!({ "issuer": "**s3cr3t" }),
            json!({ "clockSkew": "s3cr3t" }),
            json!({ "jwksCache": { "duration": "s3cr3t" } }),
            json!({ "typ": ["s3cr3t"] }),
            json!({ "subjects": ["**s3cr3t"] }),
            json!({ "requiredClaims": ["s3cr3t..a"] }),
            json!({ "from": [{ "header": "S3cr3t s3cr3t" }] }),
            json!({ "outputClaimToHeaders": [{ "claim": "a", "header": "s3cr3t s" }] }),
            json!({ "jwks": { "keys": [{ "kty": "s3cr3t" }] } }),
            json!({ "jwks": { "keys": [{ "kty": "oct", "kid": "s3cr3t" }] } }),
            json!({ "jwks": "s3cr3t" }),
            json!({ "revoked": { "uri": "s3cr3t" } }),
            json!({ "s3cr3t value": 1 }),
        ] {
            let error = provider(&fields);
            assert!(error.contains("providers.a") && !error.contains("s3cr3t"), "{fields}: {error}");
        }
        for rule in [
            json!({ "require": {}, "when": "s3cr3t ==" }),
            json!({ "require": { "provider": "s3cr3t" } }),
            json!({ "require": { "scopes": ["s3cr3t s"] } }),
            json!({ "require": { "claims": { "a": { "anyOf": ["s3cr3t*"] } } } }),
            json!({ "allow": "s3cr3t" }),
            json!({ "allow": "nobody", "name": "s3cr3t s" }),
        ] {
            let error = wrong(&json!({}), &json!([rule]), &json!({}));
            assert!(error.contains("rules[0]") && !error.contains("s3cr3t"), "{rule}: {error}");
        }
        for others in [
            json!({ "denyResponse": { "addHeaders": { "s3cr3t ": "x" } } }),
            json!({ "denyResponse": { "addHeaders": { "x": " s3cr3t" } } }),
            json!({ "denyResponse": { "codeHeader": "s3cr3t s" } }),
            json!({ "denyResponse": { "body": "s3cr3t" } }),
            json!({ "denyResponse": { "realm": "s3cr3t\"" } }),
            json!({ "denyResponse": { "cors": { "allowOrigins": ["s3cr3t"] } } }),
            json!({ "publishClaims": ["s3cr3t..a"] }),
        ] {
            let error = wrong(&json!({}), &json!([]), &others);
            assert!(!error.is_empty() && !error.contains("s3cr3t"), "{others}: {error}");
        }
    }

    #[test]
    fn what_is_nearly_a_name_is_shown_with_that_name() {
        assert_eq!(
            provider(&json!({ "algorithms": ["RS25"] })),
            "providers.a.algorithms[0]: expected one of `RS256`, `RS384`, `RS512`, `PS256`, `PS384`, `PS512`, `ES256`, `ES384`, \
             `ES512`, `EdDSA`, `HS256`, `HS384`, `HS512`, found `RS25`; did you mean `RS256`?"
        );
        assert_eq!(
            require(&json!({ "provider": "anyy" })),
            "rules[0].require.provider: no provider of this name; expected one of `a`, `any`, `b`, found `anyy`; did you mean \
             `any`?"
        );
    }

    #[test]
    fn a_clock_may_be_off_by_an_hour_at_most() {
        assert_eq!(provider(&json!({ "clockSkew": "1h" })), "");
        for skew in ["3601s", "60m1ms", "100d"] {
            let error = provider(&json!({ "clockSkew": skew }));
            assert!(error.starts_with("providers.a.clockSkew: expected at most `1h`"), "{error}");
        }
    }

    #[test]
    fn a_header_with_a_meaning_of_its_own_is_no_output() {
        let claim = provider(
            &json!({ "outputClaimToHeaders": [{ "claim": "a", "header": "x-forwarded-client-cert" }] }),
        );
        assert!(
            claim.starts_with(
                "providers.a.outputClaimToHeaders[0].header: `x-forwarded-client-cert` has a meaning"
            ),
            "{claim}"
        );
        let payload = provider(&json!({ "outputPayloadToHeader": "x-envoy-internal" }));
        assert!(
            payload.starts_with("providers.a.outputPayloadToHeader: `x-envoy-*` has a meaning"),
            "{payload}"
        );
        for name in ["access-control-allow-origin", "www-authenticate", "set-cookie"] {
            let code = wrong(&json!({}), &json!([]), &json!({ "denyResponse": { "codeHeader": name } }));
            assert!(
                code.starts_with("denyResponse.codeHeader: `") && code.contains("expected another header"),
                "{code}"
            );
        }
    }

    #[test]
    fn demands_that_no_single_token_meets_are_refused_where_one_token_counts() {
        let of = |name: &str| json!({ "provider": name });
        let (a, b, any) = (of("a"), of("b"), of("any"));
        for (requirement, path) in [
            (json!({ "allOf": [a, b] }), Some("rules[0].require.allOf")),
            (json!({ "allOf": [any, a, { "allOf": [b] }] }), Some("rules[0].require.allOf")),
            (
                json!({ "allOf": [a, { "anyOf": [b, { "allOf": [b, any] }] }] }),
                Some("rules[0].require.allOf"),
            ),
            (json!({ "anyOf": [a, { "allOf": [a, b] }] }), Some("rules[0].require.anyOf[1].allOf")),
            (json!({ "allOf": [a, { "anyOf": [a, b] }] }), None),
            (json!({ "allOf": [a, any] }), None),
            (json!({ "allOf": [a, {}] }), None),
            (json!({ "anyOf": [a, b] }), None),
        ] {
            for several in ["reject", "firstGood"] {
                let error = wrong(
                    &json!({}),
                    &json!([{ "require": requirement }]),
                    &json!({ "severalTokens": several }),
                );
                match path {
                    Some(path) => {
                        let expected =
                            format!("{path}: no token is of the providers `a` and `b`, whose issuers differ");
                        assert!(error.starts_with(&expected), "{requirement}: {error}");
                    }
                    None => assert_eq!(error, "", "{requirement}"),
                }
            }
            let all = json!({ "severalTokens": "verifyAll" });
            assert_eq!(wrong(&json!({}), &json!([{ "require": requirement }]), &all), "", "{requirement}");
        }
    }

    #[test]
    fn issuers_share_a_token_where_one_text_fits_both() {
        for (a, b, expected) in [
            ("x", "x", true),
            ("x", "y", false),
            ("https://*.test/", "https://a.test/", true),
            ("https://a.test/", "https://*.test/", true),
            ("https://*.test/", "https://a.other/", false),
            ("https://*.test/", "https://a*", true),
            ("https://*.test/", "http://*", false),
            ("https://*.test/", "https://*.other/", false),
        ] {
            let pattern = |text: &str| Pattern::parse(text).unwrap();
            assert_eq!(pattern(a).may_share(&pattern(b)), expected, "{a} {b}");
        }
    }
}
