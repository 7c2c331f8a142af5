//! What an operator writes. The documentation of each field is its description in the JSON Schema and in the option tables.

use plugin_kit::config::secret::SecretVariable;
use plugin_kit::config::{ByName, DurationText, Mode, NonEmpty};
use plugin_kit::reply::denial::{Body, RawCors};
use plugin_kit::request::matcher::{RawRequestMatch, RawValueTest};
use plugin_kit::request::path::PathCase;
use plugin_kit::{config_choice, config_object};
use serde_json::Value;

use crate::fetch::revocation::OnFailure;
use crate::policy::rules::Verify;
use crate::reply::WrongAudience;

config_object! {
    /// The configuration of jwt-auth.
    #[derive(Debug)]
    pub(super) struct RawConfig {
        /// The issuers whose tokens are accepted, by a name of the operator's choice.
        pub(super) providers: NonEmpty<ByName<RawProvider>>,
        /// The rules. The first rule that matches a request decides. A request that no rule matches needs a
        /// token that some provider confirms.
        pub(super) rules: Vec<RawRule> = Vec::new(),
        /// What happens to a request whose path servers read differently, where some rule looks at paths.
        pub(super) ambiguous_path: AmbiguousPath = AmbiguousPath::default(),
        /// Whether rules compare paths with or without regard to case. `insensitive` is for services that
        /// ignore case.
        pub(super) path_case: PathCase = PathCase::default(),
        /// What happens to a CORS preflight without a token: an `OPTIONS` request with `Origin` and
        /// `Access-Control-Request-Method`.
        pub(super) cors_preflight: CorsPreflight = CorsPreflight::default(),
        /// What happens to a request with more than one token.
        pub(super) several_tokens: SeveralTokens = SeveralTokens::default(),
        /// Whether denials are enforced or only reported. With `report` the filter decides, counts, logs and
        /// publishes the deny code, but lets the request through, without claims and without the client's
        /// copies of the filter's headers.
        pub(super) mode: Mode = Mode::default(),
        /// How denied requests are answered.
        pub(super) deny_response: RawDenyResponse = RawDenyResponse::default(),
        /// The claims that become filter state `wasm.jwt.<claim>`. Default: `[sub]`. A string is published as
        /// it is, any other value as JSON, and so is a string that is empty or begins with `[`, `{` or `"`.
        /// The filter state of a claim of more than 8 KiB is empty; such a claim counts in
        /// `jwt_auth_outputs_failed`.
        pub(super) publish_claims: Option<Vec<String>>,
        /// Whether all claims of the token become filter state `wasm.jwt`, a `google.protobuf.Struct`, which
        /// the CEL expressions of later filters can read.
        pub(super) publish_all_claims: bool = false,
        /// How many tokens each worker remembers.
        pub(super) token_cache: RawTokenCache = RawTokenCache::default(),
        /// How many requests of a worker may wait for keys or for a list of revoked tokens, at most 10000.
        /// Default: `1000`. A further request is decided at once, as if the document could not be fetched.
        pub(super) max_waiting_requests: Option<usize>,
        /// How many signatures a worker checks in the module in a second, where the proxy does not check
        /// them. Default: `200`.
        pub(super) slow_verifications_per_second: Option<u32>,
    }
}

config_object! {
    /// An issuer, where its keys are, and what its tokens must show.
    #[derive(Debug)]
    pub(super) struct RawProvider {
        /// The issuer that `iss` must name, compared exactly. One `*` stands for one or more characters other
        /// than `/`: `https://*.example/`. Several providers may share an issuer.
        pub(super) issuer: String,
        /// The audiences of which `aud` must name one, compared exactly. Any audience is accepted if this is
        /// not given.
        pub(super) audiences: NonEmpty<Vec<String>> = NonEmpty::default(),
        /// The key set (JWKS), as an object or as text. A provider has exactly one of `jwks`, `jwksUri` and
        /// `secrets`.
        pub(super) jwks: Option<Value>,
        /// The `http` or `https` URL from which the key set is fetched.
        pub(super) jwks_uri: Option<String>,
        /// The secrets of tokens signed with `HS256`, `HS384` or `HS512`.
        pub(super) secrets: NonEmpty<Vec<RawSecret>> = NonEmpty::default(),
        /// The cluster of the proxy through which `jwksUri` is fetched. By default it is derived from the URL
        /// as Istio names it: `outbound|8080||name.namespace.svc.cluster.local`.
        pub(super) cluster: Option<String>,
        /// How long fetched keys are used.
        pub(super) jwks_cache: RawJwksCache = RawJwksCache::default(),
        /// How many keys a token is tried against that names no `kid`, or a `kid` that several keys have:
        /// 1 to 100. Default: `10`.
        pub(super) max_keys_tried: Option<usize>,
        /// The signature algorithms that the provider's tokens may use. Default:
        /// `[RS256, RS384, RS512, ES256, ES384]`. `PS256`, `PS384`, `PS512`, `ES512` and `EdDSA` are accepted
        /// when they are named; `HS256`, `HS384` and `HS512` go with `secrets` only.
        pub(super) algorithms: Option<NonEmpty<Vec<String>>>,
        /// Where requests carry tokens. Default: `[{ header: authorization, prefix: "Bearer " }]`.
        pub(super) from: Option<NonEmpty<Vec<RawTokenLocation>>>,
        /// How far the issuer's clock may be off, at most `1h`. Default: `60s`.
        pub(super) clock_skew: Option<DurationText>,
        /// Whether a token without `exp` is refused. Default: `true`.
        pub(super) require_expiration: Option<bool>,
        /// The longest time from `iat` to `exp`, both of which a token must then have.
        pub(super) max_lifetime: Option<DurationText>,
        /// The token types (`typ`, RFC 8725 section 3.11) that are accepted, with or without `application/`
        /// before them. By default `JWT`, `at+jwt` and tokens without a type are accepted; if types are named,
        /// a token without a type is refused.
        pub(super) typ: Option<NonEmpty<Vec<String>>>,
        /// The subjects of which `sub` must be one; one `*` in each as in `issuer`. Any subject is accepted if
        /// this is not given.
        pub(super) subjects: NonEmpty<Vec<String>> = NonEmpty::default(),
        /// The clients of which `azp`, or `client_id` in a token without `azp`, must name one. Any client is
        /// accepted if this is not given.
        pub(super) authorized_parties: NonEmpty<Vec<String>> = NonEmpty::default(),
        /// Claims that must be present and not null.
        pub(super) required_claims: Vec<String> = Vec::new(),
        /// Tokens that are refused although their signature and claims are good.
        pub(super) revoked: RawRevoked = RawRevoked::default(),
        /// Claims that the service gets in request headers. The client's copies of these headers are removed.
        pub(super) output_claim_to_headers: Vec<RawClaimHeader> = Vec::new(),
        /// The request header in which the service gets the token's payload, in base64url as it stands in the
        /// token.
        pub(super) output_payload_to_header: Option<String>,
        /// Whether the service gets the token. If not, the token is removed from its header, query or cookie,
        /// and whatever stands beside it there stays as it is.
        pub(super) forward_original_token: bool = false,
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
        /// The name of the secret, which a token's `kid` is compared with.
        pub(super) kid: Option<String>,
        /// How the variable holds the secret.
        pub(super) encoding: SecretEncoding = SecretEncoding::default(),
    }
}

config_choice! {
    /// How a variable holds a secret.
    #[derive(Debug, Clone, Copy, Default)]
    pub(super) enum SecretEncoding {
        /// The text's bytes are the secret.
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
        /// How long fetched keys are used before they are fetched again. Default: `10m`. The issuer's
        /// `Cache-Control` can make it shorter, but not shorter than 30 seconds.
        pub(super) duration: Option<DurationText>,
        /// What happens when a token names a key that the set does not have.
        pub(super) refetch_unknown_kid: RawRefetch = RawRefetch::default(),
        /// How long a fetch may take. Default: `2s`.
        pub(super) timeout: Option<DurationText>,
        /// How long keys are used beyond their time while the issuer does not answer. Default: `1h`.
        pub(super) stale_if_error: Option<DurationText>,
    }
}

config_object! {
    /// What happens when a token names a key that the set does not have.
    #[derive(Debug, Default)]
    pub(super) struct RawRefetch {
        /// The least time between two fetches that unknown key IDs cause. Default: `30s`. A key that the
        /// issuer published at least that long before its first use is never refused.
        pub(super) min_interval: Option<DurationText>,
    }
}

config_object! {
    /// Tokens that are refused although their signature and claims are good.
    #[derive(Debug, Default)]
    pub(super) struct RawRevoked {
        /// Tokens, by their `jti`.
        pub(super) jti: Vec<String> = Vec::new(),
        /// Subjects all of whose tokens are refused.
        pub(super) sub: Vec<String> = Vec::new(),
        /// Keys all of whose tokens are refused.
        pub(super) kid: Vec<String> = Vec::new(),
        /// The URL of a list of further ones: a JSON object `{ "jti": […], "sub": […], "kid": […] }` of at
        /// most 512 KiB. It also applies to tokens that were verified before it came.
        pub(super) uri: Option<String>,
        /// The cluster of the proxy through which `uri` is fetched. By default it is derived from the URL.
        pub(super) cluster: Option<String>,
        /// How often the list is fetched. Default: `1m`. The server's `Cache-Control` can make it shorter, but
        /// not shorter than 30 seconds.
        pub(super) refresh: Option<DurationText>,
        /// How long a fetch may take. Default: `2s`.
        pub(super) timeout: Option<DurationText>,
        /// How long the last list is used if no new one can be fetched. Default: `1h`.
        pub(super) stale_if_error: Option<DurationText>,
        /// What happens to the provider's tokens while there is no list, or only one that is too old. Default:
        /// `deny`.
        pub(super) on_failure: Option<OnFailure>,
    }
}

config_object! {
    /// A place where requests carry tokens: exactly one of `header`, `queryParam` and `cookie`.
    #[derive(Debug)]
    pub(super) struct RawTokenLocation {
        /// The request header that carries the token.
        pub(super) header: Option<String>,
        /// What stands before the token in the header, compared without regard to case. Default: `Bearer ` for
        /// `authorization`, and nothing for other headers.
        pub(super) prefix: Option<String>,
        /// The query parameter that carries the token.
        pub(super) query_param: Option<String>,
        /// The cookie that carries the token.
        pub(super) cookie: Option<String>,
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

config_object! {
    /// Which requests a rule is about, and who may make them: either `allow` or `require`.
    #[derive(Debug)]
    pub(super) struct RawRule {
        /// The name of the rule in logs and metrics: letters, digits, `-` and `_`.
        pub(super) name: Option<String>,
        /// The requests that the rule is about. Every condition that is given must hold; without any, the rule
        /// is about every request.
        pub(super) r#match: RawRequestMatch = RawRequestMatch::default(),
        /// Who may make the request without a token.
        pub(super) allow: Option<RawAllow>,
        /// What happens to tokens where `allow: anyone` needs none. Default: `ifPresent`.
        pub(super) verify: Option<Verify>,
        /// What the request's token must show. `{}` accepts any token that a provider confirms.
        pub(super) require: Option<RawRequirement>,
        /// A condition in CEL on the request and the claims of its token, which must hold besides `require` or
        /// `allow: anyone`.
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
        /// Claims, and the tests of their values that must hold.
        pub(super) claims: NonEmpty<ByName<RawValueTest>> = NonEmpty::default(),
        /// The claims besides `scope` whose strings are lists of words separated by white space.
        pub(super) space_delimited_claims: Vec<String> = Vec::new(),
        /// Scopes, all of which the token must grant in `scope` or `scp`.
        pub(super) scopes: NonEmpty<Vec<String>> = NonEmpty::default(),
        /// Requirements one of which must be met.
        pub(super) any_of: NonEmpty<Vec<RawRequirement>> = NonEmpty::default(),
        /// Requirements all of which must be met.
        pub(super) all_of: NonEmpty<Vec<RawRequirement>> = NonEmpty::default(),
    }
}

config_object! {
    /// How denied requests are answered.
    #[derive(Debug, Default)]
    pub(super) struct RawDenyResponse {
        /// The body. gRPC clients always get text.
        pub(super) body: Body = Body::default(),
        /// Which pages may read a denial.
        pub(super) cors: Option<RawCors>,
        /// Headers that every denial gets, by name.
        pub(super) add_headers: ByName<String> = ByName::default(),
        /// The `realm` of `WWW-Authenticate`. Default: `service`.
        pub(super) realm: Option<String>,
        /// The response header that gets the deny code.
        pub(super) code_header: Option<String>,
        /// The status of the reply to a token for another audience.
        pub(super) wrong_audience: WrongAudience = WrongAudience::default(),
    }
}

config_object! {
    /// How many tokens each worker remembers.
    #[derive(Debug, Default)]
    pub(super) struct RawTokenCache {
        /// How many verified tokens are remembered; 0 for none. Default: `1000`.
        pub(super) max_entries: Option<usize>,
        /// How many refused tokens are remembered: malformed tokens, and tokens with a bad signature for as
        /// long as the keys are the same; 0 for none. Default: `128`.
        pub(super) max_refused: Option<usize>,
    }
}

config_choice! {
    /// What happens to a request whose path servers read differently, where some rule looks at paths.
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
        /// Each token must be good and about the same subject. The first token says who makes the request.
        VerifyAll,
        /// The first good token says who makes the request, and the others are not looked at.
        FirstGood,
    }
}
