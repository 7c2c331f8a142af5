//! What is compared: each variant is a list of HTTP filters and the traffic that goes through it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::Result;
use crate::load::{Protocol, Traffic};
use crate::tokens::{AUDIENCE, ISSUER, Issuer};

/// One way to set up Envoy.
#[derive(Clone)]
pub(crate) struct Variant {
    pub(crate) name: String,
    /// HTTP filters before the router.
    pub(crate) filters: Vec<Value>,
    pub(crate) traffic: Traffic,
    /// The variant without filters that has the same traffic.
    pub(crate) base: String,
    /// The port of a service behind Envoy; without one, Envoy answers by itself.
    pub(crate) upstream: Option<u16>,
}

impl Variant {
    /// The same traffic without filters: what others are compared with.
    fn bare(name: &str, traffic: &Traffic, upstream: Option<u16>) -> Self {
        let (name, traffic) = (name.to_owned(), traffic.clone());
        Self { base: name.clone(), name, filters: Vec::new(), traffic, upstream }
    }

    /// What this one is to be compared with.
    pub(crate) fn without_filters(&self) -> Self {
        Self { name: self.base.clone(), filters: Vec::new(), ..self.clone() }
    }

    /// This one with filters.
    fn with(&self, name: String, filters: Vec<Value>) -> Self {
        Self { name, filters, ..self.clone() }
    }

    /// The Wasm modules that it loads.
    pub(crate) fn modules(&self) -> BTreeSet<&str> {
        const FILENAME: &str = "/typed_config/config/vm_config/code/local/filename";
        self.filters.iter().filter_map(|filter| filter.pointer(FILENAME)?.as_str()).collect()
    }

    /// An error, with whose requests it is about.
    pub(crate) fn failed(&self, error: impl std::fmt::Display) -> String {
        format!("{}: {error}", self.name)
    }

    /// Whether one of its filters is rate-limit, which takes leases.
    pub(crate) fn has_leases(&self) -> bool {
        const NAMES: [&str; 2] = ["/typed_config/config/name", "/typed_config/filter_name"];
        self.filters
            .iter()
            .flat_map(|filter| NAMES.iter().filter_map(|name| filter.pointer(name)?.as_str()))
            .any(|name| ["rate-limit", "mesh-filters"].contains(&name))
    }
}

/// The variant that another is to be compared with, to know what its filters cost: without filters, same
/// traffic.
pub(crate) const BARE: &str = "bare Envoy";
/// The same for traffic as a gateway has it.
pub(crate) const BARE_GATEWAY: &str = "gateway: bare Envoy";

/// The same for requests without a token.
const BARE_ANONYMOUS: &str = "bare Envoy, no token";

/// The name of the variant without filters that has the traffic of this one.
pub(crate) fn base_of(variant: &str) -> &'static str {
    let is_refused = variant.ends_with("(401)") || variant.ends_with("(429)");
    match variant {
        _ if variant.starts_with("gateway") => BARE_GATEWAY,
        _ if variant == BARE_ANONYMOUS || is_refused => BARE_ANONYMOUS,
        _ => BARE,
    }
}

/// What the names of the variants with the native module begin with.
pub(crate) const NATIVE_MODULE: &str = "native module: ";

/// Users whose tokens are sent in turn where tokens are seen again. Few, so that each is busy even while
/// counting instructions makes everything fifty times slower.
const USERS: usize = 4;

/// Where the modules are, and who signs the tokens.
pub(crate) struct Workshop {
    pub(crate) issuer: Issuer,
    /// With the filters' modules.
    pub(crate) modules: PathBuf,
    /// The module of the empty SDK filter.
    pub(crate) empty: PathBuf,
}

fn native(name: &str, config: &Value) -> Value {
    json!({ "name": name, "typed_config": config })
}

/// The native filter, made to do what jwt-auth does: one claim to a header, the payload kept for later
/// filters.
pub(crate) fn native_jwt(key_set: &str, cache: bool) -> Value {
    let mut provider = json!({
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "local_jwks": { "inline_string": key_set },
        "claim_to_headers": [{ "claim_name": "sub", "header_name": "x-user-sub" }],
        "payload_in_metadata": "jwt",
    });
    if cache {
        provider["jwt_cache_config"] = json!({ "jwt_cache_size": 1000 });
    }
    native(
        "envoy.filters.http.jwt_authn",
        &json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": { "bench": provider },
            "rules": [{ "match": { "prefix": "/" }, "requires": { "provider_name": "bench" } }],
        }),
    )
}

/// The native filter with a bucket of so many tokens, which is filled again at this interval.
fn native_limit(tokens: u32, interval: &str) -> Value {
    native(
        "envoy.filters.http.local_ratelimit",
        &json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": "bench",
            "token_bucket": { "max_tokens": tokens, "tokens_per_fill": tokens, "fill_interval": interval },
            "filter_enabled": { "default_value": { "numerator": 100, "denominator": "HUNDRED" } },
            "filter_enforced": { "default_value": { "numerator": 100, "denominator": "HUNDRED" } },
        }),
    )
}

fn lua() -> Value {
    let code = "function envoy_on_request(handle) local token = handle:headers():get('authorization') end";
    native(
        "envoy.filters.http.lua",
        &json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "default_source_code": { "inline_string": code },
        }),
    )
}

/// pluginConfig of jwt-auth: one provider, one claim to a header, `sub` published as by default, and `rules`.
pub(crate) fn jwt_auth(key_set: &str, rules: &[Value]) -> Value {
    json!({
        "providers": { "bench": {
            "issuer": ISSUER,
            "audiences": [AUDIENCE],
            "jwks": serde_json::from_str::<Value>(key_set).unwrap_or_default(),
            "outputClaimToHeaders": [{ "claim": "sub", "header": "x-user-sub" }],
        } },
        "rules": rules,
    })
}

fn limit(name: &str, key: &Value) -> Value {
    json!({ "name": name, "key": key, "rate": { "requests": 60_000_000, "per": "1m" } })
}

/// pluginConfig of rate-limit: one limit, over all requests or one for each value of `key`. Counting makes
/// everything fifty times slower, so the leases are as long as they can be: at the usual 100 ms no key would
/// be busy.
pub(crate) fn rate_limit(key: &Value) -> Value {
    json!({ "limits": [limit("all", key)], "lease": "1s" })
}

/// pluginConfig of trace-tags: who (from `user`), which request, which version.
fn trace_tags(user: &Value) -> Value {
    json!({ "tags": [
        { "name": "enduser.pseudo.id", "from": [user], "pseudonym": { "keyFrom": { "env": "USER_ID_SALT" } } },
        { "name": "request.id", "from": [{ "requestId": {} }] },
        { "name": "service.version", "from": [{ "env": "SERVICE_VERSION" }] },
    ] })
}

/// A request as one service sends it to another.
fn sidecar_request(token: &str, user: &str) -> Result<Request<Full<Bytes>>> {
    Ok(Request::get("/content/lessons/42?part=3")
        .header("host", "content-service:8080")
        .header("user-agent", "bench/1")
        .header("accept", "application/json")
        .header("x-user-id", user)
        .header("authorization", format!("Bearer {token}"))
        .body(Full::default())?)
}

/// A request as one service sends it to another, without a token.
fn anonymous_request() -> Result<Request<Full<Bytes>>> {
    let mut request = sidecar_request("", "user-1")?;
    request.headers_mut().remove("authorization");
    Ok(request)
}

/// A request as a browser sends it: HTTP/2, 20 headers with those of HTTP/2 itself.
fn gateway_request(token: &str) -> Result<Request<Full<Bytes>>> {
    Ok(Request::get("https://api.example/content/lessons/42?part=3")
        .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0")
        .header("accept", "application/json, text/plain, */*")
        .header("accept-language", "de-CH,de;q=0.8,en-US;q=0.5,en;q=0.3")
        .header("accept-encoding", "gzip, deflate, br, zstd")
        .header("referer", "https://app.example/courses/7/lessons/42")
        .header("origin", "https://app.example")
        .header("cache-control", "no-cache")
        .header("pragma", "no-cache")
        .header("dnt", "1")
        .header("sec-fetch-dest", "empty")
        .header("sec-fetch-mode", "cors")
        .header("sec-fetch-site", "same-site")
        .header("priority", "u=4")
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .header("x-client-version", "2026.11.3")
        .header("authorization", format!("Bearer {token}"))
        .body(Full::default())?)
}

impl Workshop {
    /// A module of ours with its pluginConfig. As in Istio, all uses of a module share a VM.
    pub(crate) fn plugin(&self, filter: &str, config: &Value) -> Value {
        wasm(&self.modules.join(format!("{filter}.wasm")), filter, config)
    }

    /// The same filter in the native module.
    fn in_native_module(&self, filter: &str, config: &Value) -> Value {
        native_module(&self.modules.join("libmesh_filters.so"), filter, config)
    }

    fn empty(&self) -> Value {
        wasm(&self.empty, "empty", &json!({}))
    }

    /// Tokens of `USERS` users, seen again and again.
    pub(crate) fn known_users(&self, token_size: usize) -> Result<Traffic> {
        self.sidecar(Algorithm::RS256, USERS, token_size)
    }

    /// A token for each of `users`.
    pub(crate) fn sidecar(&self, algorithm: Algorithm, users: usize, token_size: usize) -> Result<Traffic> {
        let requests = (0..users).map(|user| {
            let user = format!("user-{user}");
            sidecar_request(&self.issuer.token(algorithm, &user, token_size)?, &user)
        });
        Ok(Traffic::of(Protocol::Http1, requests.collect::<Result<_>>()?))
    }

    fn gateway(&self) -> Result<Traffic> {
        let requests = (0..USERS).map(|user| {
            gateway_request(&self.issuer.token(Algorithm::RS256, &format!("user-{user}"), 1500)?)
        });
        Ok(Traffic::of(Protocol::Http2, requests.collect::<Result<_>>()?))
    }

    /// The variants of the comparison. `fresh` tokens are made for those that never see one twice.
    pub(crate) fn variants(&self, fresh: usize) -> Result<Vec<Variant>> {
        let known = self.known_users(0)?;
        let rs256 = self.sidecar(Algorithm::RS256, fresh, 0)?;
        let es256 = self.sidecar(Algorithm::ES256, fresh, 0)?;
        let gateway = self.gateway()?;
        let keys = &self.issuer.key_set(2);
        let jwt = &jwt_auth(keys, &[]);
        let by_user = &rate_limit(&json!([{ "claim": "sub" }]));
        let by_claim = &trace_tags(&json!({ "claim": "sub" }));
        let trusted = json!({ "header": "x-user-id", "trust": true });
        let mesh = &json!({ "jwtAuth": jwt, "rateLimit": by_user, "traceTags": by_claim });

        let mut variants: Vec<Variant> = Vec::new();
        let mut add = |name: &str, traffic: &Traffic, filters: Vec<Value>| {
            let (name, base, traffic) = (name.to_owned(), base_of(name).to_owned(), traffic.clone());
            variants.push(Variant { name, filters, traffic, base, upstream: None });
        };
        let three = || {
            vec![
                self.plugin("trace-tags", by_claim),
                self.plugin("jwt-auth", jwt),
                self.plugin("rate-limit", by_user),
            ]
        };
        add(BARE, &known, vec![]);
        add("empty SDK filter", &known, vec![self.empty()]);
        add("three empty SDK filters", &known, vec![self.empty(), self.empty(), self.empty()]);
        add("Lua, reads a header", &known, vec![lua()]);
        add("native jwt_authn", &known, vec![native_jwt(keys, false)]);
        add("native jwt_authn, cache", &known, vec![native_jwt(keys, true)]);
        let native_limits = || native_limit(1_000_000, "1s");
        add("native local_ratelimit", &known, vec![native_limits()]);
        add("native jwt_authn + local_ratelimit", &known, vec![native_jwt(keys, false), native_limits()]);
        add("jwt-auth", &known, vec![self.plugin("jwt-auth", jwt)]);
        add("native jwt_authn, new RS256 tokens", &rs256, vec![native_jwt(keys, false)]);
        add("jwt-auth, new RS256 tokens", &rs256, vec![self.plugin("jwt-auth", jwt)]);
        add("native jwt_authn, new ES256 tokens", &es256, vec![native_jwt(keys, false)]);
        add("jwt-auth, new ES256 tokens", &es256, vec![self.plugin("jwt-auth", jwt)]);
        add("rate-limit, all requests", &known, vec![self.plugin("rate-limit", &rate_limit(&json!([])))]);
        let by_header = rate_limit(&json!([trusted]));
        add("rate-limit, by a header", &known, vec![self.plugin("rate-limit", &by_header)]);
        add("trace-tags, three tags", &known, vec![self.plugin("trace-tags", &trace_tags(&trusted))]);
        add("three plugins", &known, three());
        add("mesh-filters", &known, vec![self.plugin("mesh-filters", mesh)]);

        let all = &rate_limit(&json!([]));
        for (name, filter, config, traffic) in [
            ("jwt-auth", "jwt-auth", jwt, &known),
            ("jwt-auth, new RS256 tokens", "jwt-auth", jwt, &rs256),
            ("jwt-auth, new ES256 tokens", "jwt-auth", jwt, &es256),
            ("rate-limit, all requests", "rate-limit", all, &known),
            ("rate-limit, by a header", "rate-limit", &by_header, &known),
            ("trace-tags, three tags", "trace-tags", &trace_tags(&trusted), &known),
            ("mesh-filters", "mesh-filters", mesh, &known),
        ] {
            add(&format!("{NATIVE_MODULE}{name}"), traffic, vec![self.in_native_module(filter, config)]);
        }

        let anonymous = || Result::Ok(Traffic::of(Protocol::Http1, vec![anonymous_request()?]));
        add(BARE_ANONYMOUS, &anonymous()?, vec![]);
        let one = &json!({ "limits": [{ "name": "all", "rate": { "requests": 1, "per": "1d" } }] });
        for (name, filter) in [
            ("native jwt_authn, no token (401)", native_jwt(keys, true)),
            ("jwt-auth, no token (401)", self.plugin("jwt-auth", jwt)),
            ("native module: jwt-auth, no token (401)", self.in_native_module("jwt-auth", jwt)),
            ("native local_ratelimit, used up (429)", native_limit(1, "86400s")),
            ("rate-limit, used up (429)", self.plugin("rate-limit", one)),
            ("native module: rate-limit, used up (429)", self.in_native_module("rate-limit", one)),
        ] {
            let status = if name.ends_with("(401)") {
                StatusCode::UNAUTHORIZED
            } else {
                StatusCode::TOO_MANY_REQUESTS
            };
            // Each has requests of its own, of which a limit admits the first.
            add(name, &anonymous()?.refused(status), vec![filter]);
        }

        add(BARE_GATEWAY, &gateway, vec![]);
        add("gateway: empty SDK filter", &gateway, vec![self.empty()]);
        add("gateway: native jwt_authn", &gateway, vec![native_jwt(keys, false)]);
        add("gateway: native jwt_authn, cache", &gateway, vec![native_jwt(keys, true)]);
        add("gateway: jwt-auth", &gateway, vec![self.plugin("jwt-auth", jwt)]);
        add("gateway: three plugins", &gateway, three());
        add("gateway: mesh-filters", &gateway, vec![self.plugin("mesh-filters", mesh)]);
        Ok(variants)
    }
}

/// A curve whose points are counted: for each line, the variants and the numbers that they stand for.
pub(crate) struct Growth {
    pub(crate) name: &'static str,
    /// What the number counts.
    pub(crate) of: &'static str,
    pub(crate) lines: Vec<(&'static str, Vec<(u32, Variant)>)>,
}

impl Workshop {
    /// How the cost of a request grows with what is configured and with what is sent. `service` answers
    /// behind Envoy.
    pub(crate) fn growth(&self, fresh: usize, service: u16) -> Result<Vec<Growth>> {
        let keys = self.issuer.key_set(2);
        let known = Variant::bare(BARE, &self.known_users(0)?, None);
        let new = Variant::bare("bare Envoy, new tokens", &self.sidecar(Algorithm::RS256, fresh, 0)?, None);
        let jwt = |key_set: &str, rules: &[Value]| vec![self.plugin("jwt-auth", &jwt_auth(key_set, rules))];
        let mesh = || {
            let config = json!({
                "jwtAuth": jwt_auth(&keys, &[]),
                "rateLimit": rate_limit(&json!([{ "claim": "sub" }])),
                "traceTags": trace_tags(&json!({ "claim": "sub" })),
            });
            vec![self.plugin("mesh-filters", &config)]
        };

        let by_keys = [2, 10, 100].map(|n: u32| {
            let set = self.issuer.key_set(n as usize);
            (n, new.with(format!("{n} keys"), jwt(&set, &[])))
        });
        let by_rules =
            [1, 10, 100, 1000].map(|n| (n, known.with(format!("{n} rules"), jwt(&keys, &rules(n)))));
        let by_limits = [1, 10, 100].map(|n| {
            let limits: Vec<Value> = (0..n).map(limited_path).collect();
            let config = json!({ "limits": limits });
            (n, known.with(format!("{n} limits"), vec![self.plugin("rate-limit", &config)]))
        });
        let mut by_headers = [Vec::new(), Vec::new()];
        for count in [0, 10, 40] {
            let traffic = self.with_headers(count)?;
            let bare = Variant::bare(&format!("bare Envoy, {count} more headers"), &traffic, None);
            by_headers[0]
                .push((count, bare.with(format!("jwt-auth, {count} more headers"), jwt(&keys, &[]))));
            by_headers[1].push((count, bare.with(format!("mesh-filters, {count} more headers"), mesh())));
        }
        let mut by_size = [Vec::new(), Vec::new()];
        for size in [600, 1500, 8000] {
            let bare = Variant::bare(
                &format!("bare Envoy, token of {size}"),
                &self.known_users(size as usize)?,
                None,
            );
            by_size[0].push((size, bare.with(format!("jwt-auth, token of {size}"), jwt(&keys, &[]))));
            let cached = vec![native_jwt(&keys, true)];
            by_size[1].push((size, bare.with(format!("native jwt_authn, cache, token of {size}"), cached)));
        }
        let mut by_body = Vec::new();
        for size in [0, 1024, 65_536] {
            let bare = Variant::bare(
                &format!("bare Envoy, body of {size}"),
                &self.with_body(size as usize)?,
                Some(service),
            );
            by_body.push((size, bare.with(format!("mesh-filters, body of {size}"), mesh())));
        }
        let [headers_jwt, headers_mesh] = by_headers;
        let [size_ours, size_native] = by_size;
        let growth = |name, of, lines| Growth { name, of, lines };
        Ok(vec![
            growth("keys", "keys in the JWK set, tokens never seen", vec![("jwt-auth", by_keys.to_vec())]),
            growth("rules", "rules before the one that matches", vec![("jwt-auth", by_rules.to_vec())]),
            growth(
                "limits",
                "limits, one of which counts the request",
                vec![("rate-limit", by_limits.to_vec())],
            ),
            growth(
                "headers",
                "request headers beside the usual ten",
                vec![("jwt-auth", headers_jwt), ("mesh-filters", headers_mesh)],
            ),
            growth(
                "token size",
                "bytes of the token",
                vec![("jwt-auth", size_ours), ("native jwt_authn, cache", size_native)],
            ),
            growth("body size", "bytes of the request body", vec![("mesh-filters", by_body)]),
        ])
    }

    fn with_headers(&self, more: u32) -> Result<Traffic> {
        let mut requests = Vec::new();
        for user in 0..USERS {
            let user = format!("user-{user}");
            let mut request = sidecar_request(&self.issuer.token(Algorithm::RS256, &user, 0)?, &user)?;
            for number in 0..more {
                let name = HeaderName::try_from(format!("x-more-{number}"))?;
                request.headers_mut().insert(name, HeaderValue::from_static("twenty-four bytes of it"));
            }
            requests.push(request);
        }
        Ok(Traffic::of(Protocol::Http1, requests))
    }

    fn with_body(&self, size: usize) -> Result<Traffic> {
        let body = Bytes::from(vec![b'x'; size]);
        let mut requests = Vec::new();
        for user in 0..USERS {
            let user = format!("user-{user}");
            let request = sidecar_request(&self.issuer.token(Algorithm::RS256, &user, 0)?, &user)?;
            let (mut head, _) = request.into_parts();
            head.method = Method::POST;
            requests.push(Request::from_parts(head, Full::new(body.clone())));
        }
        Ok(Traffic::of(Protocol::Http1, requests))
    }

    /// rate-limit with a key for each of `users`, who come one after the other.
    pub(crate) fn many_users(&self, users: usize) -> Result<Variant> {
        let token = self.issuer.token(Algorithm::RS256, "one", 0)?;
        let traffic =
            Traffic::made(Protocol::Http1, move |n| sidecar_request(&token, &format!("user-{}", n % users)));
        let config = rate_limit(&json!([{ "header": "x-user-id", "trust": true }]));
        let bare = Variant::bare(&format!("{users} users"), &traffic, None);
        Ok(bare.with(bare.name.clone(), vec![self.plugin("rate-limit", &config)]))
    }

    /// mesh-filters with a new user and a new token in each request.
    pub(crate) fn many_tokens(&self) -> Variant {
        let issuer = self.issuer.clone();
        let traffic = Traffic::made(Protocol::Http1, move |n| {
            let user = format!("user-{n}");
            sidecar_request(&issuer.token(Algorithm::ES256, &user, 0)?, &user)
        });
        let config = json!({
            "jwtAuth": jwt_auth(&self.issuer.key_set(2), &[]),
            "rateLimit": rate_limit(&json!([{ "claim": "sub" }])),
            "traceTags": trace_tags(&json!({ "claim": "sub" })),
        });
        Variant::bare("many tokens", &traffic, None)
            .with("many tokens".to_owned(), vec![self.plugin("mesh-filters", &config)])
    }

    /// jwt-auth with so many rules.
    pub(crate) fn with_rules(&self, count: u32) -> Result<Variant> {
        let config = jwt_auth(&self.issuer.key_set(2), &rules(count));
        let bare = Variant::bare(BARE, &self.known_users(0)?, None);
        Ok(bare.with(format!("{count} rules"), vec![self.plugin("jwt-auth", &config)]))
    }
}

/// Rules of which only the last matches the requests.
fn rules(count: u32) -> Vec<Value> {
    let others = (1..count).map(|number| {
        json!({ "name": format!("rule-{number}"), "match": { "paths": [format!("/service-{number}/*")] }, "allow": "nobody" })
    });
    let ours = json!({
        "name": "content", "match": { "paths": ["/content/*"] },
        "require": { "provider": "bench" },
    });
    others.chain([ours]).collect()
}

/// A limit on a path of its own; the first is the one of the requests.
fn limited_path(number: u32) -> Value {
    let mut limit = limit(&format!("limit-{number}"), &json!([]));
    let path = if number == 0 { "/content/*".to_owned() } else { format!("/service-{number}/*") };
    limit["match"] = json!({ "paths": [path] });
    limit
}

/// What trace-tags takes from its environment.
const ENVIRONMENT: [(&str, &str); 2] =
    [("USER_ID_SALT", "a salt for the benchmark alone: 32 bytes"), ("SERVICE_VERSION", "v1")];

fn text(text: &Value) -> Value {
    json!({ "@type": "type.googleapis.com/google.protobuf.StringValue", "value": text.to_string() })
}

fn native_module(module: &Path, filter: &str, config: &Value) -> Value {
    let env = ENVIRONMENT.map(|(name, value)| json!({ "name": name, "value": value }));
    native(
        filter,
        &json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
            "dynamic_module_config": {
                "module": { "local": { "filename": module } },
                "metrics_namespace": "wasmcustom",
            },
            "filter_name": filter,
            "filter_config": text(&json!({
                "pluginName": filter,
                "pluginConfig": config,
                "vmConfig": { "env": env },
            })),
        }),
    )
}

fn wasm(module: &Path, name: &str, config: &Value) -> Value {
    native(
        "envoy.filters.http.wasm",
        &json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "name": name,
                "root_id": name,
                "configuration": text(config),
                "vm_config": {
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": { "local": { "filename": module } },
                    "environment_variables": { "key_values": ENVIRONMENT.into_iter().collect::<BTreeMap<_, _>>() },
                },
            },
        }),
    )
}
