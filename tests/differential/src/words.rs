//! The words of generated scenarios: few, so that a request often has to do with a configuration.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

pub(crate) const ISSUERS: [&str; 3] = ["https://issuer.test/", "https://issuer.test/", "https://two.test/"];
pub(crate) const SUBJECTS: [&str; 4] = ["alice", "bob", "spiffe://shop.test/web", "a b"];
pub(crate) const KEY_SETS: [&str; 3] =
    ["${jwks:rsa-1,ec-1,ed-1}", "${keys:rsa-1,ec-1}", "${keys:ed-1,rsa-2}"];
pub(crate) const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PROPFIND"];
pub(crate) const HOSTS: [&str; 5] =
    ["api.test", "API.test:8080", "www.shop.test", "shop.test", "service.test"];
pub(crate) const HEADERS: [&str; 6] = ["x-token", "x-user-id", "x-role", "x-tier", "x-tenant", "x-cost"];
pub(crate) const HEADER_VALUES: [&str; 10] =
    ["gold", "GOLD", "admin", "alice", "", "3", "-1", "a,b", "é", "https://app.test"];
pub(crate) const AUTHORIZATIONS: [&str; 6] =
    ["Bearer", "bearer", "bearer ${token:t1}", "Basic YTpi", "Token ${token:t2}", "Bearer ${token:t3}x"];
pub(crate) const PATH_NOISE: [&str; 14] =
    ["//", "/./", "/../", "%2e%2e/", "%2F", ";v=1", "%41", "%00", "\\", "%5c", "%", "%zz", "/", "%C3%A9"];
pub(crate) const QUERIES: [&str; 6] =
    ["?plan=gold", "?q=1&plan=silver", "?", "?plan=", "?plan=gold&plan=silver", "?%70lan=gold"];
/// A key of HS256 of 32 bytes.
pub(crate) const HMAC_SECRET: &str = "a-secret-for-tests-only-32-bytes";

const CLAIMS: [&str; 10] = [
    "sub",
    "role",
    "realm_access.roles",
    "tenant",
    "plan",
    "scope",
    "level",
    "email_verified",
    "sid",
    "nowhere",
];
const PATHS: [&str; 12] = [
    "/",
    "/*",
    "/api",
    "/api/*",
    "/api/items/{id}",
    "/items/{id}/parts/{part}",
    "/admin/*",
    "/ADMIN",
    "/public/*",
    "/ws",
    "/a%20b",
    "/api/items/",
];
const VALUES: [&str; 10] = ["admin", "gold", "alice", "acme", "42", "true", "", "a b", "read", "api"];
const ORIGINS: [&str; 3] = ["https://app.test", "https://shop.test", "https://api.test"];
const CONDITIONS: [&str; 12] = [
    "request.method == 'GET'",
    "request.headers['x-tier'] == 'gold'",
    "'x-role' in request.headers",
    "request.path.startsWith('/api')",
    "request.url_path.matches('^/items/[0-9]+$')",
    "size(request.headers) > 3",
    "jwt.sub == 'alice'",
    "has(jwt.plan) && jwt.plan == 'gold'",
    "'admin' in jwt.realm_access.roles",
    "jwt.level >= 2.0",
    "request.host.endsWith('.test') ? request.method != 'PUT' : false",
    "request.query.contains('plan')",
];

/// `vmConfig.env`.
pub(crate) fn environment() -> Value {
    json!({ "KEY": "a-key-of-pseudonyms-for-tests-only", "REGION": "north", "SECRET": HMAC_SECRET, "API_KEY": "a-key-of-the-issuer-for-tests" })
}

/// The key server: keys everywhere, but for the metadata of the issuer and a list of what is revoked.
pub(crate) fn issuer() -> Value {
    json!({ "at": {
        "/.well-known/openid-configuration": { "body": r#"{"issuer":"https://issuer.test/","jwks_uri":"http://issuer.test/keys"}"# },
        "/revoked": { "body": r#"{"jti":["id-2"],"sub":["bob"]}"# },
    } })
}

/// Claims with values.
pub(crate) fn claims() -> Vec<(&'static str, Value)> {
    vec![
        ("role", json!("admin")),
        ("role", json!(["admin", "reader"])),
        ("role", json!(null)),
        ("realm_access", json!({ "roles": ["admin"] })),
        ("realm_access", json!({ "roles": "admin" })),
        ("realm_access", json!([])),
        ("tenant", json!("acme")),
        ("tenant", json!("a b\té")),
        ("plan", json!("gold")),
        ("plan", json!("silver")),
        ("plan", json!({ "name": "gold" })),
        ("scope", json!("read write")),
        ("scope", json!(["read"])),
        ("scope", json!("")),
        ("level", json!(3)),
        ("level", json!(1.5)),
        ("level", json!(1e300)),
        ("level", json!(-0.0)),
        ("email_verified", json!(true)),
        ("email_verified", json!("true")),
        ("sid", json!("s-1")),
        ("jti", json!("id-1")),
        ("jti", json!("id-2")),
        ("azp", json!("app")),
        ("nbf", json!("-5m")),
        ("nbf", json!("+30m")),
        ("iat", json!("-20d")),
        ("aud", json!(["web", "api"])),
        ("aud", json!([])),
        ("sub", json!(7)),
        ("exp", json!(null)),
    ]
}

/// The properties of which a value of a definition has exactly one; none where that is not so. A request ID is not among the
/// sources: an edge makes one of its own, and so does each host where none is sent.
pub(crate) fn one_of(definition: &str) -> &'static [&'static str] {
    match definition {
        "Source" => &[
            "baggage",
            "cel",
            "claim",
            "claim",
            "claim",
            "cookie",
            "env",
            "filterState",
            "header",
            "header",
            "header",
            "literal",
            "method",
            "path",
            "pathTemplate",
            "principal",
            "property",
            "queryParam",
            "sourceAddress",
            "workloadLabel",
        ],
        "TokenLocation" => &["header", "header", "cookie", "queryParam"],
        "TextTest" => &["exact", "prefix", "regex", "suffix"],
        "Provider" => &["jwks", "jwks", "jwks", "jwksUri", "discovery"],
        _ => &[],
    }
}

/// How often in a hundred values of a definition have an optional property.
pub(crate) fn percent(definition: &str, property: &str) -> u64 {
    match (definition, property) {
        // AWS's keys stand inline, a lease and a large cap are about memory and time, and a pseudonym without a key differs everywhere.
        (
            _,
            "albSigners"
            | "lease"
            | "timeout"
            | "slowVerificationsPerSecond"
            | "maxWaitingRequests"
            | "minInterval"
            | "refresh",
        )
        | ("Source", "requestId") => 0,
        ("Provider", "issuer" | "audiences") | ("Pseudonym", "keyFrom") => 100,
        ("Config", "rules" | "tags") | ("Rule", "match" | "name") | ("Revoked", "uri") => 80,
        ("Config" | "Limit", "mode") | ("RequestMatch" | "Selector", "any" | "principals") => 5,
        ("RequestMatch" | "Selector", "paths") | ("Limit", "key") | ("Rule", "require") => 60,
        ("Source", "trust") => 50,
        ("Rule", "allow") => 40,
        (
            "Provider",
            "subjects" | "authorizedParties" | "typ" | "trustDomain" | "secrets" | "requiredClaims"
            | "maxLifetime",
        ) => 7,
        _ => 20,
    }
}

/// The most items of a list.
pub(crate) fn most(definition: &str, property: &str) -> u64 {
    match (definition, property) {
        ("Config", "rules") => 6,
        ("Config", "limits" | "tags") | (_, "publishClaims") => 4,
        (_, "cidrs" | "property" | "entries") => 1,
        _ => 2,
    }
}

/// Numbers of a property.
pub(crate) fn numbers(definition: &str, property: &str) -> &'static [u32] {
    match (definition, property) {
        // Anything between is left to chance.
        (_, "enforcePercent" | "percentage") => &[0, 100],
        (_, "countStatuses" | "status" | "statusFrom") => &[200, 401, 403, 404, 429, 503],
        (_, "requests" | "burst") => &[1, 2, 3, 5, 20, 1000],
        (_, "maxKeys") => &[1024],
        (_, "ipv4Prefix") => &[8, 24, 32],
        (_, "ipv6Prefix") => &[48, 64],
        (_, "maxLength") => &[1, 8, 64],
        (_, "maxKeysTried") => &[1, 10],
        ("TokenCache", _) => &[0, 1, 1000],
        _ => &[0, 1, 2],
    }
}

/// Texts of a property; the names of a map have `{}` behind the property.
#[allow(clippy::match_same_arms, reason = "each arm is about its own properties")]
pub(crate) fn texts(definition: &str, property: &str) -> &'static [&'static str] {
    match (definition, property) {
        (_, "providers{}") => &["p1", "p2"],
        ("Provider", "issuer") => &ISSUERS,
        (_, "audiences") => &["api", "web"],
        (_, "jwksUri") => &["http://issuer.test/keys", "https://issuer.test/jwks"],
        ("Discovery", "uri") => &["http://issuer.test/.well-known/openid-configuration"],
        ("Revoked", "uri") => &["http://issuer.test/revoked"],
        ("Global", "cluster") => &["ratelimit"],
        (_, "cluster") => &["jwks"],
        (_, "jwksHosts") => &["issuer.test"],
        (_, "algorithms") => &["RS256", "ES256", "EdDSA", "HS256", "PS256"],
        (_, "clockSkew") => &["0s", "1m", "5m"],
        // Of limits that end at nearly the same time, hosts may name another.
        (_, "per") => &["601m", "709m", "811m", "907m", "1009m", "1103m", "1201m", "1301m", "1409m", "1511m"],
        (_, "maxLifetime") => &["1h", "7d"],
        (_, "duration" | "staleIfError") => &["1h", "1d"],
        (_, "authorizedParties") => &["app", "web"],
        (_, "subjects") => &SUBJECTS,
        (_, "typ") => &["JWT", "at+jwt"],
        (_, "trustDomain") => &["shop.test"],
        ("Secret", "env") => &["SECRET"],
        (_, "keyFrom") | ("KeyFrom", "env") => &["KEY"],
        ("FetchHeader", "env") => &["API_KEY"],
        (_, "env") => &["REGION", "NOWHERE"],
        ("Revoked", "jti") => &["id-1"],
        ("Revoked", "kid") => &["ec-1", "rsa-2"],
        ("Revoked", "sub") => &["bob", "a b"],
        ("TokenLocation", "header") => &["x-token", "authorization"],
        (_, "prefix") if definition == "TokenLocation" => &["Bearer ", "Token "],
        (_, "cookie") => &["session", "user"],
        (_, "queryParam") => &["token", "plan", "access_token"],
        ("TokenLocation", "rules") | ("Rule", "name") => &["r1", "r2", "r3", "r4"],
        ("Limit", "name") => &["l1", "l2", "l3", "l4"],
        ("Tag", "name") => &["user", "tenant", "http.route", "t4"],
        (_, "claim" | "claims{}" | "publishClaims" | "requiredClaims" | "spaceDelimitedClaims") => &CLAIMS,
        (_, "header" | "headers{}" | "outputPayloadToHeader" | "codeHeader") | ("FetchHeader", "name") => {
            &HEADERS
        }
        (_, "addHeaders{}") => &["x-added", "cache-control"],
        (_, "scopes") => &["read", "write", "admin"],
        (_, "paths" | "pathTemplate") => &PATHS,
        (_, "pathRegexes") => &["/items/[0-9]+", "/api/.*", "(?i)/admin(/.*)?", r"/\w+"],
        (_, "methods" | "methodsExcept") => &METHODS,
        (_, "hosts") => &["api.test", "*.test", "shop.test"],
        (_, "principals") => &["cluster.local/ns/shop/sa/web"],
        (_, "cidrs") => &["127.0.0.0/8", "127.0.0.2/32", "10.0.0.0/8", "2001:db8::/32"],
        (_, "trustForwardedFrom") => &["127.0.0.0/8"],
        (_, "when") => &CONDITIONS,
        (_, "cel") => &[
            "request.method",
            "request.headers['x-tier']",
            "request.host.endsWith('.test') ? 'inside' : 'outside'",
            "string(size(request.path))",
            "jwt.sub",
        ],
        (_, "property") => &["request.method", "request", "source"],
        (_, "filterState") => &["jwt.sub", "wasm.jwt.sub", "tag.user"],
        (_, "workloadLabel") => &["app", "version", "nowhere"],
        (_, "baggage" | "keep" | "send") => &["user.id", "tenant"],
        (_, "literal") => &["all", "x"],
        (_, "regex") => &["^a", "[0-9]+", "(?i)GOLD", "^$"],
        (_, "realm") => &["shop"],
        (_, "contentType") => &["application/json", "text/plain"],
        (_, "template") => &[r#"{"code":"{code}","status":{status}}"#, "{title}"],
        ("SignIn", "url") => &["/login?return={returnTo}", "https://login.test/start?return={returnTo}"],
        (_, "origins" | "allowOrigins") => &ORIGINS,
        (_, "resource") => &["https://api.test/", "https://api.test/api"],
        (_, "authorizationServers") => &ISSUERS,
        (_, "documentation") => &["https://docs.test/"],
        (_, "domain") => &["shop"],
        (_, "entries") => &["user"],
        (_, "rates{}") => &["gold", "silver"],
        (_, "keyId") => &["k1"],
        (_, "kid") => &["rsa-1", "hmac"],
        _ => &VALUES,
    }
}

/// What a configuration speaks of.
#[derive(Debug, Default)]
pub(crate) struct Words {
    pub(crate) paths: Vec<String>,
    pub(crate) headers: Vec<String>,
    claims: BTreeSet<String>,
    tags: BTreeSet<String>,
}

impl Words {
    pub(crate) fn of(filters: &Value) -> Self {
        let mut words = Self::default();
        words.collect("", filters);
        words.paths.extend(["/", "/api/items/7", "/admin/x", "/public/a"].map(str::to_owned));
        words.headers.extend(HEADERS.map(str::to_owned));
        words.headers.extend(
            ["x-forwarded-for", "baggage", "cookie", "origin", "accept", "access-control-request-method"]
                .map(str::to_owned),
        );
        words
    }

    fn collect(&mut self, name: &str, value: &Value) {
        match (name, value) {
            (_, Value::Object(object)) => {
                if name == "headers" {
                    self.headers.extend(object.keys().cloned());
                }
                object.iter().for_each(|(name, value)| self.collect(name, value));
            }
            (_, Value::Array(items)) => items.iter().for_each(|value| self.collect(name, value)),
            ("paths" | "pathTemplate", Value::String(path)) if path.starts_with('/') => {
                self.paths.push(path.clone());
            }
            ("header", Value::String(header)) => self.headers.push(header.clone()),
            ("claim" | "publishClaims", Value::String(claim)) => drop(self.claims.insert(claim.clone())),
            ("name", Value::String(name)) => drop(self.tags.insert(name.clone())),
            _ => {}
        }
    }

    /// The filter state that hosts are compared in, as a case names it.
    pub(crate) fn filter_state(&self) -> Value {
        let own = [
            "jwt.sub",
            "jwt.iss",
            "jwt.deny_code",
            "jwt.deny_detail",
            "jwt.rule",
            "ratelimit.limit",
            "ratelimit.detail",
        ];
        let claims = self.claims.iter().map(|claim| format!("jwt.{claim}"));
        let tags = self.tags.iter().map(|tag| format!("tag.{tag}"));
        let keys = own.map(str::to_owned).into_iter().chain(claims).chain(tags);
        keys.map(|key| (key, Value::Null)).collect::<Map<_, _>>().into()
    }
}
