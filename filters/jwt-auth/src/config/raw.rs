//! What an operator writes. The doc comments of the fields are their descriptions in the JSON Schema and in
//! docs/jwt-auth.md.

use std::time::Duration;

use plugin_kit::config::secret::SecretVariable;
use plugin_kit::config::{ByName, DurationText, Mode, NonEmpty};
use plugin_kit::reply::denial::{Body, RawCors};
use plugin_kit::request::matcher::RawValueTest;
use plugin_kit::request::path::PathCase;
use plugin_kit::request_match;
use plugin_kit::{config_choice, config_object};
use serde_json::Value;

use crate::fetch::revocation::OnFailure;
use crate::keys::jwk::MOST_TRIED;
use crate::policy::rules::Verify;
use crate::reply::{Hidden, WrongAudience};

/// Defaults of options.
pub(super) const CLOCK_SKEW: DurationText = DurationText(Duration::from_mins(1));
pub(super) const JWKS_DURATION: DurationText = DurationText(Duration::from_mins(10));
pub(super) const REFETCH_INTERVAL: DurationText = DurationText(Duration::from_secs(30));
pub(super) const REVOKED_REFRESH: DurationText = DurationText(Duration::from_mins(1));
pub(super) const FETCH_TIMEOUT: DurationText = DurationText(Duration::from_secs(2));
pub(super) const INTROSPECTION_CACHE: DurationText = DurationText(Duration::from_secs(30));
pub(super) const STALE_IF_ERROR: DurationText = DurationText(Duration::from_hours(1));
pub(super) const MAX_ENTRIES: usize = 1000;
pub(super) const MAX_REFUSED: usize = 128;
pub(super) const PUBLISH_CLAIMS: [&str; 1] = ["sub"];
pub(super) const REALM: &str = "service";

config_object! {
    /// The configuration of jwt-auth.
    #[derive(Debug)]
    pub(super) struct RawConfig {
        /// The issuers whose tokens are accepted, by a name of the operator's choice.
        pub(super) providers: NonEmpty<ByName<RawProvider>>,
        /// The rules. The first rule that matches a request decides. A request that no rule matches needs a
        /// token that some provider confirms.
        pub(super) rules: Vec<RawRule> = Vec::new(),
        /// What happens to a request whose path servers read differently, if some rule looks at paths.
        pub(super) ambiguous_path: AmbiguousPath = AmbiguousPath::default(),
        /// Whether letter case matters when rules compare paths.
        pub(super) path_case: PathCase = PathCase::default(),
        /// What happens to a CORS preflight without a token: an `OPTIONS` request with `Origin` and
        /// `Access-Control-Request-Method`.
        pub(super) cors_preflight: CorsPreflight = CorsPreflight::default(),
        /// What happens to a request with more than one token.
        pub(super) several_tokens: SeveralTokens = SeveralTokens::default(),
        /// Whether denials are enforced or only reported.
        pub(super) mode: Mode = Mode::default(),
        /// How denied requests are answered.
        pub(super) deny_response: RawDenyResponse = RawDenyResponse::default(),
        /// The metadata of this service as a protected resource (RFC 9728), by which clients such as those of MCP
        /// find out who issues tokens for it. Default: none.
        pub(super) protected_resource: Option<RawProtectedResource>,
        /// The claims that become filter state `wasm.jwt.<claim>`, at which later filters, spans and access
        /// logs read them. Dots lead into objects: `org.id`.
        pub(super) publish_claims: Option<Vec<String>> => PUBLISH_CLAIMS.map(str::to_owned).to_vec(),
        /// Whether all claims of the token become filter state `wasm.jwt`, a `google.protobuf.Struct`, which
        /// the CEL expressions of later filters can read.
        pub(super) publish_all_claims: bool = false,
        /// How many tokens each worker remembers.
        pub(super) token_cache: RawTokenCache = RawTokenCache::default(),
        /// How many requests of a worker may wait for keys or for a list of revoked tokens, at most 10000. A
        /// further request is decided at once, as if the document could not be fetched.
        pub(super) max_waiting_requests: usize = 1000,
        /// How many signatures a worker checks in the module in a second, if the proxy does not check them. A
        /// request beyond that is answered with 503 (`overloaded`).
        pub(super) slow_verifications_per_second: u32 = 200,
    }
}

config_object! {
    /// An issuer, where its keys are, and what its tokens must show.
    #[derive(Debug)]
    pub(super) struct RawProvider {
        /// The issuer that `iss` must name, compared exactly. One `*` stands for one or more characters other
        /// than `/`: `https://*.example/`. Several providers may share an issuer: each that confirms the
        /// token counts. A provider has `issuer`, `trustDomain` or both.
        pub(super) issuer: Option<String>,
        /// The SPIFFE trust domain, such as `example.org`, that `sub` must be in: `spiffe://example.org/…`. The
        /// tokens are then JWT-SVIDs, whose keys are those of the trust domain's bundle with `use: jwt-svid`,
        /// and `audiences` is required.
        pub(super) trust_domain: Option<String>,
        /// The audiences of which `aud` must name one. They are compared exactly: no scheme or slash is
        /// dropped. Default: any audience, or none.
        pub(super) audiences: NonEmpty<Vec<String>> = NonEmpty::default(),
        /// The key set, as an object or as text: a JWK set, an object from key IDs to PEM, or PEM. PEM is of public
        /// keys or of certificates (X.509), of which the key alone counts. A provider has at most one of `jwks`,
        /// `jwksUri`, `secrets` and `introspection`. Without any of them, the metadata of the issuer says where its keys
        /// are.
        pub(super) jwks: Option<Value>,
        /// The `http` or `https` URL from which the key set is fetched, in any form that `jwks` has.
        pub(super) jwks_uri: Option<String>,
        /// Headers with which the key set is fetched.
        pub(super) jwks_headers: Vec<RawFetchHeader> = Vec::new(),
        /// The secrets of tokens that are signed with `HS256`, `HS384` or `HS512`.
        pub(super) secrets: NonEmpty<Vec<RawSecret>> = NonEmpty::default(),
        /// How the keys are found by the metadata of the issuer: OpenID Connect Discovery, or RFC 8414. It is used
        /// by a provider without `jwks`, `jwksUri`, `secrets` and `introspection`.
        pub(super) discovery: RawDiscovery = RawDiscovery::default(),
        /// The endpoint of the issuer that says whether a token is active, and what it claims (RFC 7662). The tokens of
        /// such a provider are opaque, and it has no keys. Default: none.
        pub(super) introspection: Option<RawIntrospection>,
        /// The cluster of the proxy through which `jwksUri` or the issuer's metadata is fetched. Istio's name for it is
        /// `outbound|8080||name.namespace.svc.cluster.local`. Default: Istio's name, derived from the URL.
        pub(super) cluster: Option<String>,
        /// How long fetched keys are used, and how they are fetched.
        pub(super) jwks_cache: RawJwksCache = RawJwksCache::default(),
        /// How many keys, 1 to 100, a token is tried against that names no `kid`, or a `kid` that several
        /// keys have.
        pub(super) max_keys_tried: usize = MOST_TRIED,
        /// The signature algorithms that the provider's tokens may use (`alg`, RFC 7518). `PS256`, `PS384`,
        /// `PS512`, `ES512` and `EdDSA` are accepted if they are named; `HS256`, `HS384` and `HS512` go with
        /// `secrets` only.
        pub(super) algorithms: Option<NonEmpty<Vec<String>>>
            => crate::keys::algorithm::Algorithm::DEFAULT
                .iter()
                .map(|algorithm| algorithm.name().to_owned())
                .collect::<Vec<_>>()
                .into(),
        /// Where requests carry tokens. Default: `[{ header: authorization, prefix: "Bearer " }]`.
        pub(super) from: Option<NonEmpty<Vec<RawTokenLocation>>>,
        /// How far the issuer's clock may be off, at most `1h`.
        pub(super) clock_skew: Option<DurationText> => CLOCK_SKEW,
        /// Whether a token without `exp` is refused.
        pub(super) require_expiration: bool = true,
        /// The longest time from `iat` to `exp`, both of which a token must then have. Default: no limit.
        pub(super) max_lifetime: Option<DurationText>,
        /// The token types (`typ`, RFC 8725 section 3.11) that are accepted, with or without `application/`
        /// before them. If types are named, a token without a type is refused. Default: `JWT`, `at+jwt`, and
        /// no type; with `trustDomain` also `JOSE`.
        pub(super) typ: Option<NonEmpty<Vec<String>>>,
        /// The subjects of which `sub` must be one. Each may contain one `*`, as `issuer` may. Default: any
        /// subject.
        pub(super) subjects: NonEmpty<Vec<String>> = NonEmpty::default(),
        /// The clients of which `azp`, or `client_id` in a token without `azp`, must name one. Default: any
        /// client.
        pub(super) authorized_parties: NonEmpty<Vec<String>> = NonEmpty::default(),
        /// The ARNs of the AWS load balancers whose tokens are accepted, by `signer` in the token's header. All
        /// load balancers of a region share their keys, so that nothing else tells them apart. Only with this
        /// option may a token be padded with `=`, as those of AWS ALB are. Default: any token without padding.
        pub(super) alb_signers: NonEmpty<Vec<String>> = NonEmpty::default(),
        /// Claims that must be present and not null. Dots lead into objects: `org.id`.
        pub(super) required_claims: Vec<String> = Vec::new(),
        /// Tokens that are refused although their signature and claims are valid.
        pub(super) revoked: RawRevoked = RawRevoked::default(),
        /// Claims that the service gets in request headers. The client's copies of these headers are removed.
        pub(super) output_claim_to_headers: Vec<RawClaimHeader> = Vec::new(),
        /// The request header in which the service gets the token's payload, in base64url as it stands in the
        /// token. The client's copies of this header are removed.
        pub(super) output_payload_to_header: Option<String>,
        /// Whether the service gets the token. If not, the token is removed from its header, query or cookie,
        /// and whatever stands beside it there stays as it is.
        pub(super) forward_original_token: bool = false,
    }
}

config_object! {
    /// How keys are found by the metadata of an issuer.
    #[derive(Debug, Default)]
    pub(super) struct RawDiscovery {
        /// The `http` or `https` URL of the metadata. Its `issuer` must be equal to that of the provider.
        /// Default: the issuer followed by `/.well-known/openid-configuration`.
        pub(super) uri: Option<String>,
        /// The hosts, with a port if the URL has one, besides the issuer's own, at which `jwks_uri` may be:
        /// `www.googleapis.com`.
        pub(super) jwks_hosts: Vec<String> = Vec::new(),
    }
}

config_object! {
    /// The endpoint of an issuer that says whether a token is active.
    #[derive(Debug)]
    pub(super) struct RawIntrospection {
        /// The `http` or `https` URL of the endpoint. The tokens are sent there, and nowhere else.
        pub(super) uri: String,
        /// The cluster of the proxy through which the endpoint is asked. Default: Istio's name, derived from `uri`.
        pub(super) cluster: Option<String>,
        /// The client ID by which the issuer knows the filter.
        pub(super) client_id: String,
        /// The secret of the client.
        pub(super) client_secret: RawClientSecret,
        /// How the client ID and the secret are sent (RFC 6749 section 2.3.1).
        pub(super) client_authentication: ClientAuthentication = ClientAuthentication::default(),
        /// How long an answer is used before the endpoint is asked again, `1s` to `10m`. A token that the issuer revokes is
        /// accepted for as long. An answer is never used beyond the token's `exp`.
        pub(super) cache: Option<DurationText> => INTROSPECTION_CACHE,
        /// How long an answer may take, at least `1s`.
        pub(super) timeout: Option<DurationText> => FETCH_TIMEOUT,
        /// Whether the endpoint is also asked about tokens that are JWTs and name this issuer, in the place of a check of
        /// their signatures. Otherwise another provider has to verify them.
        pub(super) jwts: bool = false,
    }
}

config_object! {
    /// The secret of a client, by the environment variable that holds it.
    #[derive(Debug)]
    pub(super) struct RawClientSecret {
        /// The variable of vmConfig.env that holds the secret. Take its value from the proxy's environment with
        /// `valueFrom: HOST`.
        pub(super) env: SecretVariable,
    }
}

config_choice! {
    /// How a client authenticates itself.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub(super) enum ClientAuthentication {
        /// In the header `authorization` (`client_secret_basic`).
        #[default]
        Basic,
        /// In the body (`client_secret_post`).
        Post,
    }
}

config_object! {
    /// A header of a fetch.
    #[derive(Debug)]
    pub(super) struct RawFetchHeader {
        /// The name of the header, in lower case.
        pub(super) name: String,
        /// The variable of vmConfig.env that holds the value of the header. Take it from the proxy's environment
        /// with `valueFrom: HOST`.
        pub(super) env: SecretVariable,
    }
}

config_object! {
    /// A secret, by the environment variable that holds it. The secret itself never stands in pluginConfig,
    /// which the proxy's `config_dump` shows.
    #[derive(Debug)]
    pub(super) struct RawSecret {
        /// The variable of vmConfig.env that holds the secret, which is at least as long as the hash: 32, 48
        /// or 64 bytes. Take its value from the proxy's environment with `valueFrom: HOST`.
        pub(super) env: SecretVariable,
        /// The key ID that a token's `kid` is compared with.
        pub(super) kid: Option<String>,
        /// How the variable holds the secret.
        pub(super) encoding: SecretEncoding = SecretEncoding::default(),
    }
}

config_choice! {
    /// How a variable holds a secret.
    #[derive(Debug, Clone, Copy, Default)]
    pub(super) enum SecretEncoding {
        /// The bytes of the text are the secret.
        #[default]
        Text,
        /// The text is the secret in base64url.
        Base64url,
    }
}

config_object! {
    /// How long fetched keys are used.
    #[derive(Debug, Default)]
    pub(super) struct RawJwksCache {
        /// How long fetched keys are used before they are fetched again. The issuer's `Cache-Control` can
        /// make it shorter, but not shorter than 30 seconds.
        pub(super) duration: Option<DurationText> => JWKS_DURATION,
        /// What happens when a token names a key that the set does not have.
        pub(super) refetch_unknown_kid: RawRefetch = RawRefetch::default(),
        /// How long a fetch may take, at least `1s`.
        pub(super) timeout: Option<DurationText> => FETCH_TIMEOUT,
        /// How long keys are used beyond their time while the issuer does not answer.
        pub(super) stale_if_error: Option<DurationText> => STALE_IF_ERROR,
    }
}

config_object! {
    /// What happens when a token names a key that the set does not have.
    #[derive(Debug, Default)]
    pub(super) struct RawRefetch {
        /// The least time between two fetches that unknown key IDs cause. A key that the issuer published at
        /// least that long before its first use is never refused.
        pub(super) min_interval: Option<DurationText> => REFETCH_INTERVAL,
    }
}

config_object! {
    /// Tokens that are refused although their signature and claims are valid.
    #[derive(Debug, Default)]
    pub(super) struct RawRevoked {
        /// The IDs (`jti`) of tokens that are refused.
        pub(super) jti: Vec<String> = Vec::new(),
        /// The subjects (`sub`) all of whose tokens are refused.
        pub(super) sub: Vec<String> = Vec::new(),
        /// The key IDs (`kid`) of keys all of whose tokens are refused.
        pub(super) kid: Vec<String> = Vec::new(),
        /// The IDs (`sid`) of sessions all of whose tokens are refused.
        pub(super) sid: Vec<String> = Vec::new(),
        /// Subjects (`sub`), each with a time in seconds since the epoch. Their tokens are refused that were issued
        /// (`iat`) before it, or do not say when.
        pub(super) sub_before: ByName<u64> = ByName::default(),
        /// The URL of a longer list: a JSON object
        /// `{ "jti": […], "sub": […], "kid": […], "sid": […], "subBefore": {…} }` of at most 512 KiB. It is fetched
        /// as keys are, and also applies to tokens that were verified before it came.
        pub(super) uri: Option<String>,
        /// The cluster of the proxy through which `uri` is fetched. Default: Istio's name, derived from
        /// `uri`.
        pub(super) cluster: Option<String>,
        /// How often the list is fetched. The server's `Cache-Control` can make it shorter, but not shorter
        /// than 30 seconds.
        pub(super) refresh: Option<DurationText> => REVOKED_REFRESH,
        /// How long a fetch may take, at least `1s`.
        pub(super) timeout: Option<DurationText> => FETCH_TIMEOUT,
        /// How long the last list is used if no new one can be fetched.
        pub(super) stale_if_error: Option<DurationText> => STALE_IF_ERROR,
        /// What happens to the provider's tokens while there is no list, or only one that is too old.
        pub(super) on_failure: Option<OnFailure> => OnFailure::default(),
    }
}

config_object! {
    /// A place where requests carry tokens: exactly one of `header`, `queryParam` and `cookie`.
    #[derive(Debug)]
    pub(super) struct RawTokenLocation {
        /// The request header that carries the token, in lower case.
        pub(super) header: Option<String>,
        /// What stands before the token in the header, in any letter case. Default: `"Bearer "` for
        /// `authorization`, and nothing for other headers.
        pub(super) prefix: Option<String>,
        /// The query parameter that carries the token.
        pub(super) query_param: Option<String>,
        /// The cookie that carries the token.
        pub(super) cookie: Option<String>,
        /// The names of the rules whose requests may carry the token here. For any other request this place
        /// has no token, and what stands there is removed as a token is. Default: every request.
        pub(super) rules: NonEmpty<Vec<String>> = NonEmpty::default(),
    }
}

config_object! {
    /// A claim and the request header in which the service gets it.
    #[derive(Debug)]
    pub(super) struct RawClaimHeader {
        /// The claim. Dots lead into objects: `realm_access.roles`. A dot within a name is written `\.`.
        pub(super) claim: String,
        /// The request header, which must not have a meaning of its own to browsers, proxies or servers.
        pub(super) header: String,
    }
}

request_match! {
    /// Which requests are meant. Every part that is given must hold, but of `paths` and `pathRegexes` one is
    /// enough. Within a list one entry is enough.
    #[derive(Debug, Clone, Default)]
    pub(super) struct RawRequestMatch {
        /// Says that every request is meant: `{ any: true }`, without any other part.
        pub(super) any: Option<bool>,
    }
}

config_object! {
    /// Which requests a rule is about, and who may make them: either `allow` or `require`.
    #[derive(Debug)]
    pub(super) struct RawRule {
        /// The name of the rule in logs and metrics: letters, digits, `-` and `_`.
        pub(super) name: Option<String>,
        /// The requests that the rule is about; `{ any: true }` are all. Only the last rule may be without
        /// `match`, and then it is about every request.
        pub(super) r#match: Option<RawRequestMatch>,
        /// Who may make the request without a token. A rule has either `allow` or `require`.
        pub(super) allow: Option<RawAllow>,
        /// What happens to a token that is there although `allow: anyone` needs none.
        pub(super) verify: Option<Verify> => Verify::default(),
        /// What the request's token must show. `{}` accepts any token that a provider confirms.
        pub(super) require: Option<RawRequirement>,
        /// A condition in CEL on the request and the claims of its token, which must hold besides `require`
        /// or `allow: anyone`.
        pub(super) when: Option<String>,
    }
}

config_choice! {
    /// Who may make a request without a token.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum RawAllow {
        /// Anyone may make the request.
        Anyone,
        /// Nobody may make the request: it is answered with 403.
        Nobody,
    }
}

config_object! {
    /// What a token must show: all of `provider`, `claims` and `scopes`, or one of `anyOf` and `allOf` alone.
    #[derive(Debug, Default)]
    pub(super) struct RawRequirement {
        /// The provider that must have confirmed the token.
        pub(super) provider: Option<String>,
        /// Tests of the values of claims, by the claim's name, all of which must hold. Dots lead into
        /// objects: `realm_access.roles`.
        pub(super) claims: NonEmpty<ByName<RawValueTest>> = NonEmpty::default(),
        /// The claims besides `scope` whose strings are lists of words, which white space separates.
        pub(super) space_delimited_claims: Vec<String> = Vec::new(),
        /// Scopes, all of which the token must grant in `scope` or `scp`.
        pub(super) scopes: NonEmpty<Vec<String>> = NonEmpty::default(),
        /// A list of requirements, one of which must be met.
        pub(super) any_of: NonEmpty<Vec<RawRequirement>> = NonEmpty::default(),
        /// A list of requirements, all of which must be met.
        pub(super) all_of: NonEmpty<Vec<RawRequirement>> = NonEmpty::default(),
    }
}

config_object! {
    /// How denied requests are answered.
    #[derive(Debug, Default)]
    pub(super) struct RawDenyResponse {
        /// The body. gRPC clients always get text.
        pub(super) body: Body = Body::default(),
        /// The web pages that may read a denial. Default: none.
        pub(super) cors: Option<RawCors>,
        /// Headers that every denial gets, by name: `{ cache-control: no-store }`.
        pub(super) add_headers: ByName<String> = ByName::default(),
        /// The `realm` of the header `WWW-Authenticate` (RFC 9110 section 11.5).
        pub(super) realm: Option<String> => REALM.to_owned(),
        /// The response header that gets the deny code.
        pub(super) code_header: Option<String>,
        /// The status of the reply to a token for another audience.
        pub(super) wrong_audience: WrongAudience = WrongAudience::default(),
        /// Denials that tell nothing of their reason: status, body and headers are those of what is named here.
        /// The deny code in metrics, logs and filter state stays. Default: none.
        pub(super) hide: RawHide = RawHide::default(),
        /// Where a browser is sent to sign in: its request for a page gets status 302 in the place of a 401.
        /// Default: nowhere.
        pub(super) sign_in: Option<RawSignIn>,
    }
}

config_object! {
    /// Denials that tell nothing of their reason, by class.
    #[derive(Debug, Default)]
    pub(super) struct RawHide {
        /// What clients without a valid token are told, in the place of a 401.
        pub(super) unauthenticated: Option<Hidden>,
        /// What clients that may not make the request are told, in the place of a 403: `notFound` for those
        /// that may not know that there is something.
        pub(super) forbidden: Option<Hidden>,
    }
}

config_object! {
    /// Where a browser is sent to sign in.
    #[derive(Debug)]
    pub(super) struct RawSignIn {
        /// The URL, or a path of the service's own. `{returnTo}` in its query is replaced by the percent-encoded
        /// URL of the request, without tokens in its query: `https://login.example/start?return={returnTo}`.
        pub(super) url: String,
        /// The origins of the service as browsers see them: `https://app.example`. The return URL begins with
        /// the one whose host and port the request names, or else with the first. It never begins with what a
        /// client has sent.
        pub(super) origins: NonEmpty<Vec<String>>,
    }
}

config_object! {
    /// The metadata of a protected resource (RFC 9728 section 2).
    #[derive(Debug)]
    pub(super) struct RawProtectedResource {
        /// The URL of the resource, as clients name it (RFC 8707): `https://mcp.example/mcp`. The document is at
        /// `/.well-known/oauth-protected-resource` followed by its path, for anyone, and each challenge
        /// (`WWW-Authenticate`) names it in `resource_metadata`.
        pub(super) resource: String,
        /// The issuers that a client may ask for tokens. Default: the issuers of all providers, without those
        /// with a `*`.
        pub(super) authorization_servers: NonEmpty<Vec<String>> = NonEmpty::default(),
        /// The scopes that a client may ask for (`scopes_supported`). Default: not said.
        pub(super) scopes: NonEmpty<Vec<String>> = NonEmpty::default(),
        /// The name of the resource for end users (`resource_name`).
        pub(super) name: Option<String>,
        /// The URL of a page for developers (`resource_documentation`).
        pub(super) documentation: Option<String>,
    }
}

config_object! {
    /// How many tokens each worker remembers.
    #[derive(Debug, Default)]
    pub(super) struct RawTokenCache {
        /// How many verified tokens are remembered, at most 100000; 0 for none.
        pub(super) max_entries: Option<usize> => MAX_ENTRIES,
        /// How many refused tokens are remembered, at most 1000; 0 for none. They are malformed tokens, and
        /// tokens with a bad signature as long as the keys are the same.
        pub(super) max_refused: Option<usize> => MAX_REFUSED,
    }
}

config_choice! {
    /// What happens to a request whose path servers read differently, if some rule looks at paths.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum AmbiguousPath {
        /// The request is answered with 400.
        #[default]
        Reject,
        /// The request must pass the rules of every reading of its path.
        EveryReading,
    }
}

config_choice! {
    /// What happens to a CORS preflight without a token.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum CorsPreflight {
        /// The request goes to the service, since browsers send no token with it.
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
        /// The request is answered with 400, as RFC 6750 section 2 says.
        #[default]
        Reject,
        /// Each token must be valid and about the same subject. The first token says who makes the request.
        VerifyAll,
        /// The first valid token says who makes the request, and the others are not looked at.
        FirstGood,
    }
}
