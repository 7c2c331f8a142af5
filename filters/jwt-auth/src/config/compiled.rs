//! The configuration as types that cannot be wrong, compiled from what the operator wrote.

use std::rc::Rc;

use plugin_kit::config::{Code, ConfigErrors, Diagnostic, ErrorList, JsonPath, Mode, document, read};
use plugin_kit::host::Environment;
use plugin_kit::reply::denial::{Extras, is_quotable};
use plugin_kit::request::header_names::output_header_name;
use plugin_kit::request::path::PathCase;
use serde_json::Value;

use crate::config::raw::{
    self, AmbiguousPath, CorsPreflight, RawConfig, RawDenyResponse, RawHide, RawProtectedResource, RawSignIn,
    SeveralTokens,
};
use crate::config::rules::check_one_token_can_meet;
use crate::config::{headers, opaque, order};
use crate::keys::algorithm::Algorithm;
use crate::policy::place::Place;
use crate::policy::provider::Provider;
use crate::policy::rules::{Access, Rule};
use crate::reply::{DenyResponse, Hidden, Hide, Metadata, SignIn, origin_of};
use crate::token::claims::ClaimPath;
use crate::token::location::TokenLocation;
use crate::token::output::OwnHeaders;

/// A configuration that has been checked.
#[derive(Debug)]
pub struct Config {
    /// The issuers, in the order of their names.
    pub providers: Vec<Provider>,
    /// The rules, of which the first that matches decides.
    pub rules: Vec<Rule>,
    /// Where requests carry tokens, in the order in which these say who makes a request.
    pub places: Vec<Place>,
    /// The headers that only this filter sets.
    pub own_headers: OwnHeaders,
    /// The claims that become filter state, each with the key of its filter state.
    pub publish: Vec<(ClaimPath, Rc<str>)>,
    /// Whether all claims together become the typed filter state that CEL reads, see
    /// [`plugin_kit::request::cel::CLAIMS`].
    pub publish_all: bool,
    /// See [`AmbiguousPath`].
    pub ambiguous_path: AmbiguousPath,
    /// Whether paths that differ only in case are the same.
    pub path_case: PathCase,
    /// See [`CorsPreflight`].
    pub cors_preflight: CorsPreflight,
    /// See [`SeveralTokens`].
    pub several_tokens: SeveralTokens,
    /// See [`Mode`].
    pub mode: Mode,
    /// How denied requests are answered.
    pub deny_response: DenyResponse,
    /// How many verified tokens are remembered.
    pub cached_tokens: usize,
    /// How many refused tokens are remembered.
    pub refused_tokens: usize,
    /// How many requests may wait for keys or a list of revoked tokens.
    pub most_waiting: usize,
    /// How many signatures this module may check in a second, if the host does not check them.
    pub slow_verifications: u32,
    /// The warnings.
    pub warnings: Vec<Diagnostic>,
}

impl Config {
    /// Reads pluginConfig. `env` gives the variables of vmConfig.env, which hold secrets, and compiles CEL.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration, each error with its JSON path.
    pub fn parse(json: &[u8], env: &dyn Environment) -> Result<Self, ConfigErrors> {
        Self::read(&document(json)?, env)
    }

    /// The same, from JSON that has been read already.
    ///
    /// # Errors
    /// The errors of [`Config::parse`].
    #[inline(never)]
    pub fn read(document: &Value, env: &dyn Environment) -> Result<Self, ConfigErrors> {
        let raw: RawConfig = read(document)?;
        let mut errors = ErrorList::default();
        let config = raw.compile(env, &mut errors);
        let (mut config, warnings) = errors.finish_with_warnings(Some(config))?;
        config.warnings = warnings;
        Ok(config)
    }

    /// Every algorithm that some provider accepts.
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
/// So many requests go on or are refused within 0.4 s, see [`plugin_kit::host`].
const MOST_WAITING: usize = 10_000;
/// Any client can fill these entries, each with 16 KiB.
const MOST_REFUSED: usize = 1_000;

impl RawConfig {
    fn compile(self, env: &dyn Environment, errors: &mut ErrorList) -> Config {
        let root = JsonPath::root();
        let names: Vec<String> = self.providers.0.iter().map(|(name, _)| name.clone()).collect();
        let mut places = Vec::new();
        let mut providers = Vec::new();
        for (n, (name, raw)) in self.providers.into_iter().enumerate() {
            let path = root.field("providers").field(&name);
            raw.add_places(n, &self.rules, &path, &mut places, errors);
            providers.extend(raw.compile(name, env, &path, errors));
        }
        let count = self.rules.len();
        let rules = self.rules.into_iter().enumerate().filter_map(|(n, rule)| {
            let path = root.field("rules").index(n);
            let is_last = n.saturating_add(1) == count;
            let rule = rule.compile((n, is_last), &names, self.path_case, env, &path, errors)?;
            if let Access::Require(requirement) = &rule.access
                && self.several_tokens != SeveralTokens::VerifyAll
                && providers.len() == names.len()
            {
                check_one_token_can_meet(requirement, &providers, &path.field("require"), errors);
            }
            Some(rule)
        });
        let rules: Vec<Rule> = rules.collect();
        if rules.len() == count {
            order::check(&rules, &root.field("rules"), errors);
        }
        headers::check(&providers, &places, &rules, &root, errors);
        if providers.len() == names.len() && rules.len() == count {
            opaque::check(&providers, &places, &rules, &root, errors);
        }
        let publish_path = root.field("publishClaims");
        let publish = self.publish_claims.unwrap_or_else(|| raw::PUBLISH_CLAIMS.map(str::to_owned).to_vec());
        let publish = publish.iter().enumerate().filter_map(|(n, claim)| {
            let path = errors.check(&publish_path.index(n), ClaimPath::parse(claim))?;
            Some((path, Rc::from(format!("jwt.{claim}"))))
        });
        let publish = publish.collect();
        if self.mode == Mode::Report {
            errors.note(
                Code::ReportMode,
                &root.field("mode"),
                "no request is denied, only counted and logged",
            );
        }
        let mut deny_response = self.deny_response.compile(&root.field("denyResponse"), errors);
        if let Some(resource) = self.protected_resource {
            let path = root.field("protectedResource");
            deny_response.metadata = resource.compile(&providers, &places, &path, errors);
        }
        let cached_tokens = self.token_cache.max_entries.unwrap_or(raw::MAX_ENTRIES);
        if cached_tokens > MOST_CACHED {
            errors.add(
                &root.field("tokenCache").field("maxEntries"),
                format!("expected at most {MOST_CACHED}; 0 for no cache"),
            );
        }
        let refused_tokens = self.token_cache.max_refused.unwrap_or(raw::MAX_REFUSED);
        if refused_tokens > MOST_REFUSED {
            errors.add(
                &root.field("tokenCache").field("maxRefused"),
                format!("expected at most {MOST_REFUSED}; 0 for no cache"),
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
            slow_verifications: self.slow_verifications_per_second,
            warnings: Vec::new(),
        }
    }
}

fn most_waiting(most: usize, root: &JsonPath, errors: &mut ErrorList) -> usize {
    if most > MOST_WAITING {
        errors.add(
            &root.field("maxWaitingRequests"),
            format!("expected at most {MOST_WAITING}: a proxy keeps each of them in memory"),
        );
    }
    most
}

impl RawProtectedResource {
    #[inline(never)]
    fn compile(
        self,
        providers: &[Provider],
        places: &[Place],
        path: &JsonPath,
        errors: &mut ErrorList,
    ) -> Option<Metadata> {
        let mut servers = self.authorization_servers.to_vec();
        for (n, server) in servers.iter().enumerate() {
            if origin_of(server).is_none() {
                let message = "is not an issuer; expected a URL such as `https://auth.example/`";
                errors.add(&path.field("authorizationServers").index(n), message);
            }
        }
        if servers.is_empty() {
            let known = providers.iter().filter_map(|provider| provider.issuer.iss.as_ref()?.exact());
            servers.extend(known.map(str::to_owned));
            servers.dedup();
            if servers.is_empty() && !providers.is_empty() {
                errors.add(path, "expected `authorizationServers`, since no provider names one issuer");
            }
        }
        if providers.iter().any(|provider| provider.policy.audiences.is_empty()) {
            let message = "names a resource, and a provider without `audiences` takes tokens for any other";
            errors.note(Code::ResourceWithoutAudience, &path.field("resource"), message);
        }
        let is_header = |place: &Place| matches!(&place.location, TokenLocation::Header { name, .. } if name == "authorization");
        let is_query = |place: &Place| matches!(&place.location, TokenLocation::QueryParam(name) if name == "access_token");
        let mut methods = Vec::new();
        methods.extend(places.iter().any(is_header).then_some("header"));
        methods.extend(places.iter().any(is_query).then_some("query"));
        let mut members = serde_json::Map::new();
        members.insert("authorization_servers".to_owned(), servers.into());
        if !methods.is_empty() {
            members.insert("bearer_methods_supported".to_owned(), methods.into());
        }
        if !self.scopes.is_empty() {
            members.insert("scopes_supported".to_owned(), self.scopes.to_vec().into());
        }
        for (name, text) in [("resource_name", self.name), ("resource_documentation", self.documentation)] {
            members.extend(text.map(|text| (name.to_owned(), text.into())));
        }
        errors.check(&path.field("resource"), Metadata::new(&self.resource, members))
    }
}

impl RawSignIn {
    fn compile(self, path: &JsonPath, errors: &mut ErrorList) -> Option<SignIn> {
        for (n, origin) in self.origins.iter().enumerate() {
            if origin_of(origin) != Some(origin) {
                let message = "is not an origin, in lower case and without a path; expected one such as `https://app.example`";
                errors.add(&path.field("origins").index(n), message);
            }
        }
        errors.check(&path.field("url"), SignIn::parse(&self.url, self.origins.to_vec()))
    }
}

impl RawDenyResponse {
    #[inline(never)]
    fn compile(self, path: &JsonPath, errors: &mut ErrorList) -> DenyResponse {
        let realm = self.realm.unwrap_or_else(|| raw::REALM.to_owned());
        if !is_quotable(&realm) {
            errors.add(&path.field("realm"), "expected printable ASCII without quote and backslash");
        }
        let code_header = self.code_header;
        if let Some(name) = &code_header {
            errors.check(&path.field("codeHeader"), output_header_name(name));
        }
        self.body.check(&[], &path.field("body"), errors);
        let extras = Extras::compile(self.add_headers, self.cors.as_ref(), path, errors);
        let RawHide { unauthenticated, forbidden } = self.hide;
        if unauthenticated == Some(Hidden::NotFound) && self.sign_in.is_some() {
            let message = "hides nothing from browsers, which `signIn` sends to sign in";
            errors.note(Code::HiddenAndShown, &path.field("hide").field("unauthenticated"), message);
        }
        DenyResponse {
            body: self.body,
            extras,
            realm,
            code_header,
            wrong_audience: self.wrong_audience,
            hide: Hide { unauthenticated, forbidden },
            metadata: None,
            sign_in: self.sign_in.and_then(|sign_in| sign_in.compile(&path.field("signIn"), errors)),
        }
    }
}
