//! What is compared: each variant is a list of HTTP filters and the traffic that goes through it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
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
    pub(crate) base: &'static str,
    /// The port of a service behind Envoy; without one, Envoy answers by itself.
    pub(crate) upstream: Option<u16>,
}

impl Variant {
    /// The Wasm modules that it loads.
    pub(crate) fn modules(&self) -> BTreeSet<&str> {
        const FILENAME: &str = "/typed_config/config/vm_config/code/local/filename";
        self.filters.iter().filter_map(|filter| filter.pointer(FILENAME)?.as_str()).collect()
    }
}

/// The variant that another is to be compared with, to know what its filters cost: without filters, same traffic.
pub(crate) const BARE: &str = "bare Envoy";
/// The same for traffic as a gateway has it.
pub(crate) const BARE_GATEWAY: &str = "gateway: bare Envoy";

/// Users whose tokens are sent in turn where tokens are seen again. Few, so that each is busy even while counting
/// instructions makes everything fifty times slower.
const USERS: usize = 10;

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

/// The native filter, made to do what jwt-auth does: one claim to a header, the payload kept for later filters.
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

fn native_limit() -> Value {
    native(
        "envoy.filters.http.local_ratelimit",
        &json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": "bench",
            "token_bucket": { "max_tokens": 1_000_000, "tokens_per_fill": 1_000_000, "fill_interval": "1s" },
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
    json!({ "name": name, "key": key, "rate": { "requests": 1_000_000, "per": "1s" } })
}

/// pluginConfig of rate-limit: one limit, over all requests or one for each value of `key`.
pub(crate) fn rate_limit(key: &Value) -> Value {
    json!({ "limits": [limit("all", key)] })
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
        Ok(Traffic::new(Protocol::Http1, requests.collect::<Result<_>>()?))
    }

    fn gateway(&self) -> Result<Traffic> {
        let requests = (0..USERS)
            .map(|user| gateway_request(&self.issuer.token(Algorithm::RS256, &format!("user-{user}"), 1500)?));
        Ok(Traffic::new(Protocol::Http2, requests.collect::<Result<_>>()?))
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
            let base = if name.starts_with("gateway") { BARE_GATEWAY } else { BARE };
            let (name, traffic) = (name.to_owned(), traffic.clone());
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
        add("native local_ratelimit", &known, vec![native_limit()]);
        add("native jwt_authn + local_ratelimit", &known, vec![native_jwt(keys, false), native_limit()]);
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

fn wasm(module: &Path, name: &str, config: &Value) -> Value {
    let value = |text: String| json!({ "@type": "type.googleapis.com/google.protobuf.StringValue", "value": text });
    native(
        "envoy.filters.http.wasm",
        &json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "name": name,
                "root_id": name,
                "configuration": value(config.to_string()),
                "vm_config": {
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": { "local": { "filename": module } },
                    "environment_variables": { "key_values": {
                        "USER_ID_SALT": "a salt for the benchmark alone: 32 bytes",
                        "SERVICE_VERSION": "v1",
                    } },
                },
            },
        }),
    )
}
