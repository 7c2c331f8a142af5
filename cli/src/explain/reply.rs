//! `explain --reply`: the meaning of a refusal, and the line of the configuration that decided.

use std::fs;
use std::path::Path;

use mesh_filters_cli::decide::{Decided, Request, Verdict};
use plugin_kit::request::path::percent_decoded;
use serde_json::{Value, json};

use super::access_log;
use super::input::{Input, of_log_line, standard_input};
use super::meaning::{self, Meaning};
use super::tree::shown;

/// A reply, as far as it is known.
pub(crate) struct Received {
    status: Option<u16>,
    /// The deny code, from the body, response code details, or a header.
    code: Option<String>,
    /// The response code details of the access log, which say who answered.
    details: Option<String>,
    /// The response code details that go with the body, if the body is one of Envoy's own filters.
    of_another: Option<String>,
    /// The gRPC status.
    grpc: Option<String>,
    /// The limit that denied.
    limit: Option<String>,
    /// Whether the limit is known from a header, which others may have set.
    limit_is_of_header: bool,
    /// The detail that the filter published with the code.
    detail: Option<String>,
    request_id: Option<String>,
    retry_after: Option<String>,
    scopes: Option<String>,
    request: Option<Request>,
}

/// The meaning of a reply.
pub(crate) struct Explained {
    headline: String,
    code: Option<&'static str>,
    lines: Vec<String>,
    places: Vec<(String, Option<String>)>,
}

impl Received {
    /// Reads a reply from a file or from standard input.
    ///
    /// # Errors
    /// The input cannot be read, or is not about a refusal.
    pub(super) fn read(file: &Path) -> Result<Self, String> {
        let text = if file.as_os_str() == "-" {
            standard_input()?
        } else {
            fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?
        };
        Self::of(&text)
    }

    fn of(text: &str) -> Result<Self, String> {
        let mut received = Self {
            status: None,
            code: None,
            details: None,
            of_another: None,
            grpc: None,
            limit: None,
            limit_is_of_header: false,
            detail: None,
            request_id: None,
            retry_after: None,
            scopes: None,
            request: None,
        };
        // An empty line ends the headers. A body or a line of an access log may stand alone.
        let mut body = text.trim_start();
        if body.starts_with("HTTP/") || body.starts_with("< HTTP/") {
            let normal = body.replace("\r\n", "\n");
            let (head, rest) = normal.split_once("\n\n").unwrap_or((normal.as_str(), ""));
            received.head(head);
            body = "";
            received.body(rest.trim());
        }
        received.body(body.trim());
        if received.code.is_none()
            && received.status.is_none()
            && received.of_another.is_none()
            && received.grpc.is_none()
        {
            return Err(
                "nothing tells a refusal; expected what `curl -i` printed, the body, or a line of the access log".to_owned()
            );
        }
        Ok(received)
    }

    fn head(&mut self, head: &str) {
        for line in head.lines() {
            let line = line.trim_start_matches("< ").trim();
            if let Some(status) = line.strip_prefix("HTTP/") {
                self.status = status.split(' ').nth(1).and_then(|status| status.parse().ok());
                continue;
            }
            let Some((name, value)) = line.split_once(':') else { continue };
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
            match name.as_str() {
                "retry-after" => self.retry_after = Some(value.to_owned()),
                "x-request-id" => self.request_id = Some(value.to_owned()),
                "ratelimit" => {
                    self.limit = value.split('"').nth(1).map(str::to_owned);
                    self.limit_is_of_header = true;
                }
                "grpc-status" => self.grpc = Some(value.to_owned()),
                "grpc-message" => self.body(&String::from_utf8_lossy(&percent_decoded(value.as_bytes()))),
                "www-authenticate" if is_challenge(value) => {
                    self.scopes = value
                        .split_once("scope=\"")
                        .and_then(|(_, rest)| rest.split('"').next())
                        .map(str::to_owned);
                    if !value.contains("error=") {
                        self.code.get_or_insert_with(|| "token_missing".to_owned());
                    }
                }
                // A header of `denyResponse.codeHeader` may have any name.
                _ => self.known(value),
            }
        }
    }

    /// Takes a text as the code, if it is one.
    fn known(&mut self, text: &str) {
        if meaning::of(text).is_some() {
            self.code = Some(text.to_owned());
        }
    }

    fn body(&mut self, body: &str) {
        let Some(Value::Object(json)) = access_log::fields(body) else {
            if !body.is_empty() {
                self.code = self.code.take().or(meaning::of_title(body).map(str::to_owned));
                self.of_another = self.of_another.take().or_else(|| details_of_body(body));
                self.grpcurl(body);
                body.split_whitespace().for_each(|word| {
                    self.known(word.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
                });
            }
            return;
        };
        let text = |name: &str| {
            json.get(name).and_then(Value::as_str).filter(|text| !text.is_empty() && *text != "-")
        };
        let number =
            json.get("status").and_then(|status| status.as_u64().or_else(|| status.as_str()?.parse().ok()));
        self.status = number.and_then(|status| status.try_into().ok()).or(self.status);
        // In a problem document (RFC 9457) this member could be a text for people.
        self.details = text("details").filter(|details| !details.contains(' ')).map(str::to_owned);
        self.details = self.details.take().or_else(|| details_of_flags(text("flags")?));
        // `jwt` and `rate_limit` are the names in the access log.
        for name in ["code", "jwt", "details"] {
            if let Some(code) = text(name).filter(|code| meaning::of(code).is_some()) {
                self.code = Some(code.to_owned());
                break;
            }
        }
        let violated = json.get("violated-policies").and_then(|list| list.get(0)).and_then(Value::as_str);
        let limit = text("rate_limit").or(violated).map(str::to_owned);
        self.limit_is_of_header &= limit.is_none();
        self.limit = limit.or_else(|| self.limit.take());
        self.request_id = text("requestId")
            .or_else(|| text("request_id"))
            .map(str::to_owned)
            .or_else(|| self.request_id.take());
        self.detail = text("jwt_detail").or_else(|| text("rate_limit_detail")).map(str::to_owned);
        if json.contains_key("method") {
            self.request = of_log_line(body).ok();
        }
    }

    /// Reads what gRPC clients print: grpcurl, and libraries in Go.
    fn grpcurl(&mut self, text: &str) {
        let after = |start: &str| text.split_once(start).map(|(_, rest)| rest.trim_start());
        let code =
            after("Code: ").or_else(|| after("code = ")).and_then(|rest| rest.split_whitespace().next());
        let Some(code) = code.and_then(|code| GRPC.iter().find(|(_, name)| *name == code)) else { return };
        self.grpc = Some(code.0.to_string());
        if let Some(message) = after("Message: ").or_else(|| after("desc = ")) {
            self.body(message.lines().next().unwrap_or_default().trim());
        }
    }

    /// The request, if the reply is an access log line.
    pub(super) fn request(&self) -> Option<Request> {
        self.request.clone().map(|request| Request { source: "10.0.0.7:41234".to_owned(), ..request })
    }

    /// The position of the rule that the detail names.
    fn rule(&self, config: &Value) -> Option<usize> {
        let detail = self.detail.as_deref()?;
        let name = detail.split("; ").find_map(|part| part.strip_prefix("rule="))?;
        let rules = config["rules"].as_array()?;
        rules.iter().enumerate().position(|(n, rule)| rule["name"] == name || name == format!("rules[{n}]"))
    }

    /// The gRPC status, unless it is OK: number and name.
    fn grpc(&self) -> Option<(u8, &'static str)> {
        let number = self.grpc.as_ref()?.parse().ok().filter(|number| *number != 0)?;
        Some(GRPC.into_iter().find(|(known, _)| *known == number).unwrap_or((number, "unknown")))
    }

    /// The HTTP status, or the one that the gRPC status stands for.
    fn as_http(&self) -> Option<u16> {
        match self.grpc() {
            None => self.status,
            Some((7, _)) => Some(403),
            Some((8, _)) => Some(429),
            Some((14, _)) => Some(503),
            Some((16, _)) => Some(401),
            Some(_) => None,
        }
    }

    fn meaning(&self) -> Option<Meaning> {
        if let Some(meaning) = self.code.as_deref().and_then(meaning::of) {
            return Some(meaning);
        }
        // Without a code, the status and the headers must do.
        let limit = self.limit.as_ref().filter(|_| !self.limit_is_of_header);
        let code = match (self.as_http(), limit, &self.scopes) {
            (Some(429) | None, Some(_), _) => "rate_limit_exceeded",
            (Some(403), _, Some(_)) => "insufficient_scope",
            _ => return None,
        };
        meaning::of(code)
    }

    /// The meaning of the reply. `decided` is what the configuration decides about the same request without
    /// its token.
    ///
    /// # Errors
    /// No filter sends such a reply.
    pub(super) fn explain(&self, input: &Input, decided: Option<&Decided>) -> Result<Explained, String> {
        let status = match (self.status, self.grpc()) {
            (_, Some((number, name))) => format!("gRPC status {number} ({name}) "),
            (Some(status), None) => format!("{status} "),
            (None, None) => String::new(),
        };
        if let Some((by, why)) = self.details.as_deref().and_then(another) {
            let details = self.details.as_deref().map(printable).unwrap_or_default();
            return Ok(Explained {
                headline: format!("{status}by {by}"),
                code: None,
                lines: vec![format!("The response code details are `{details}`."), why.to_owned()],
                places: Vec::new(),
            });
        }
        // A code of these filters says more than a body.
        if let (None, Some((by, why))) = (self.meaning(), self.of_another.as_deref().and_then(another)) {
            return Ok(Explained {
                headline: format!("{status}by {by}"),
                code: None,
                lines: vec![
                    "The body of the reply is one that this filter sends.".to_owned(),
                    why.to_owned(),
                ],
                places: Vec::new(),
            });
        }
        let Some(meaning) = self.meaning() else {
            if let Some(filter) = self.as_http().and_then(may_be_of) {
                return Ok(Explained {
                    headline: format!("{status}may be from {filter}, and from another filter or the service as well"),
                    code: None,
                    lines: [
                        "Nothing in the reply tells these filters from others, which is so where `denyResponse.body` leaves the code out, too.",
                        "The access log tells who has answered: `details` (`%RESPONSE_CODE_DETAILS%`) begins with `jwt_auth_` or \
                         `rate_limit_` for these filters, and is `via_upstream` for the service.",
                    ]
                    .map(str::to_owned)
                    .into(),
                    places: Vec::new(),
                });
            }
            return Err(format!(
                "{status}has no code of these filters: the service or another filter has answered, unless `denyResponse.body` leaves \
                 the code out; the access log has it as `jwt`, `rate_limit` and `details`"
            ));
        };
        let mut lines = vec![meaning.happened.to_owned(), meaning.advice.to_owned()];
        if let Some(scopes) = &self.scopes {
            lines.push(format!("The rule demands the scopes {}.", shown(scopes)));
        }
        if let Some(limit) = &self.limit {
            lines.push(format!("The limit is {}.", shown(limit)));
        }
        if let Some(detail) = &self.detail {
            lines.push(format!("The filter says: {}", printable(detail)));
        }
        if let Some(seconds) = &self.retry_after {
            lines.push(format!("The next attempt makes sense in {seconds} seconds."));
        }
        if let Some(id) = &self.request_id {
            lines.push(format!("The request ID is {}: access logs and spans have it.", shown(id)));
        }
        let headline = format!("{status}{}, by {}", meaning.code, meaning.filter);
        Ok(Explained {
            headline,
            code: Some(meaning.code),
            lines,
            places: self.places(&meaning, input, decided),
        })
    }

    /// The fields of the configuration that can cause the refusal.
    fn places(
        &self,
        meaning: &Meaning,
        input: &Input,
        decided: Option<&Decided>,
    ) -> Vec<(String, Option<String>)> {
        let mut places = Vec::new();
        for (n, installed) in input.plugins.iter().enumerate() {
            let part = match (installed.plugin.filter.as_str(), meaning.filter) {
                (filter, wanted) if filter == wanted => "",
                ("mesh-filters", "jwt-auth") => "jwtAuth.",
                ("mesh-filters", "rate-limit") => "rateLimit.",
                _ => continue,
            };
            let config =
                part.strip_suffix('.').map_or(&installed.plugin.config, |key| &installed.plugin.config[key]);
            let mut add = |path: String, value: &Value| {
                let path = format!("{part}{path}");
                let place = installed.place(input, &path);
                let text = value.to_string();
                let says = match value["name"].as_str() {
                    Some(name) => format!(", `{name}`"),
                    None if text.len() > 100 => String::new(),
                    None => format!(" is {text}"),
                };
                places.push((format!("{path}{says}"), place));
            };
            if meaning.filter == "jwt-auth" {
                let rule = self.rule(config).or_else(|| decided.and_then(|decided| rule_of(decided, n)));
                if let Some(rule) = rule {
                    let value = &config["rules"][rule];
                    add(format!("rules[{rule}]"), value);
                    for field in meaning.of_rule {
                        let inner = field.split('.').fold(value, |value, name| &value[name]);
                        if !inner.is_null() {
                            add(format!("rules[{rule}].{field}"), inner);
                        }
                    }
                }
                for (name, provider) in config["providers"].as_object().into_iter().flatten() {
                    for field in meaning.of_provider {
                        let value = field.split('.').fold(provider, |value, name| &value[name]);
                        if !value.is_null() {
                            add(format!("providers.{name}.{field}"), value);
                        }
                    }
                }
            } else {
                for (m, limit) in config["limits"].as_array().into_iter().flatten().enumerate() {
                    let is_it = self.limit.as_ref().is_none_or(|name| limit["name"] == name.as_str());
                    for field in meaning.of_rule.iter().filter(|_| is_it) {
                        if !limit[field].is_null() {
                            add(format!("limits[{m}].{field}"), &limit[field]);
                        }
                    }
                }
            }
            for field in meaning.at_top {
                if !config[field].is_null() {
                    add((*field).to_owned(), &config[field]);
                }
            }
        }
        places
    }
}

/// Whether a challenge has the form of jwt-auth's: `Bearer`, a realm that is a name, and the attributes of
/// RFC 6750 section 3. The realm of Envoy's own filter for tokens is a URL.
fn is_challenge(value: &str) -> bool {
    let parameters = value.strip_prefix("Bearer realm=\"").and_then(|rest| rest.split_once('"'));
    parameters.is_some_and(|(realm, rest)| {
        let known = |one: &str| {
            one.is_empty()
                || ["error=", "scope=", "resource_metadata="].iter().any(|name| one.starts_with(name))
        };
        !realm.contains("://") && rest.split(',').all(|one| known(one.trim()))
    })
}

/// Statuses of gRPC, as its documents number and name them.
const GRPC: [(u8, &str); 16] = [
    (1, "Canceled"),
    (2, "Unknown"),
    (3, "InvalidArgument"),
    (4, "DeadlineExceeded"),
    (5, "NotFound"),
    (6, "AlreadyExists"),
    (7, "PermissionDenied"),
    (8, "ResourceExhausted"),
    (9, "FailedPrecondition"),
    (10, "Aborted"),
    (11, "OutOfRange"),
    (12, "Unimplemented"),
    (13, "Internal"),
    (14, "Unavailable"),
    (15, "DataLoss"),
    (16, "Unauthenticated"),
];

/// The response code details that go with a body of Envoy's own filters.
fn details_of_body(body: &str) -> Option<String> {
    let details = match body.trim().trim_end_matches('.') {
        "RBAC: access denied" => "rbac_access_denied",
        "local_rate_limited" => "local_rate_limited",
        "no healthy upstream" => "no_healthy_upstream",
        "upstream request timeout" => "response_timeout",
        body if body.starts_with("upstream connect error or disconnect/reset before headers") => {
            "upstream_reset"
        }
        // The texts of Envoy's `jwt_verify_lib`.
        body if ["Jwt ", "Jwks ", "Audiences in Jwt"].iter().any(|start| body.starts_with(start)) => {
            "jwt_authn_access_denied"
        }
        _ => return None,
    };
    Some(details.to_owned())
}

/// The response code details that go with flags (`%RESPONSE_FLAGS%`), for formats without details. Replies of
/// these filters have no flags.
fn details_of_flags(flags: &str) -> Option<String> {
    let details = match flags.split(',').next().unwrap_or_default() {
        "UAEX" => "ext_authz_denied",
        "RL" => "local_rate_limited",
        "RLSE" => "rate_limiter_error",
        "UF" | "UC" | "UR" | "LR" | "URX" => "upstream_reset",
        "UH" => "no_healthy_upstream",
        "UT" => "response_timeout",
        "NC" => "cluster_not_found",
        "NR" => "route_not_found",
        _ => return None,
    };
    Some(details.to_owned())
}

/// Who answered, and why, according to response code details that do not come from these filters.
fn another(details: &str) -> Option<(&'static str, &'static str)> {
    let is_ours = ["jwt_auth_", "rate_limit_"].iter().any(|start| details.starts_with(start))
        || details.ends_with("_panicked")
        || meaning::of(details).is_some();
    if is_ours {
        return None;
    }
    let of_connections =
        ["upstream_", "no_healthy_upstream", "cluster_not_found", "max_duration", "response_timeout"];
    Some(match details {
        "via_upstream" => ("the service", "The service itself has answered, and its log says why."),
        "local_rate_limited" => {
            ("Envoy's own local rate limit", "An EnvoyFilter, or another policy, has the limit.")
        }
        "request_rate_limited" | "rate_limiter_error" => {
            ("Envoy's own global rate limit", "An EnvoyFilter, or another policy, has the limit.")
        }
        _ if details.starts_with("jwt_authn_") => {
            ("Envoy's own check of tokens", "A RequestAuthentication of Istio configures it.")
        }
        _ if details.starts_with("rbac_access_denied") => {
            ("Envoy's access control", "An AuthorizationPolicy of Istio does not let the request pass.")
        }
        _ if details.starts_with("ext_authz_") => {
            ("Envoy's external authorization", "The service that it asks has refused the request.")
        }
        _ if of_connections.iter().any(|start| details.starts_with(start)) => {
            ("the proxy", "It has no connection to the service, or got no answer in time.")
        }
        _ => (
            "the proxy",
            "None of these filters has such details: the proxy itself or another filter has answered.",
        ),
    })
}

/// The filter that answers with this status.
fn may_be_of(status: u16) -> Option<&'static str> {
    match status {
        401 | 403 => Some("jwt-auth"),
        429 => Some("rate-limit"),
        503 => Some("jwt-auth or rate-limit"),
        _ => None,
    }
}

/// A line for a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(400).collect()
}

/// The rule that decided in one plugin.
fn rule_of(decided: &Decided, plugin: usize) -> Option<usize> {
    let step = decided.steps.iter().find(|step| step.plugin == plugin && step.filter == "jwt-auth")?;
    match &step.verdict {
        Verdict::Passed(rule) => *rule,
        Verdict::Denied(denied) | Verdict::Reported(denied) => denied.index,
    }
}

impl Explained {
    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\n", self.headline);
        for line in &self.lines {
            text.push_str(&format!("  {line}\n"));
        }
        if !self.places.is_empty() {
            text.push_str("\nThe configuration says:\n");
        }
        for (path, place) in &self.places {
            match place {
                Some(place) => text.push_str(&format!("  {path}  ({place})\n")),
                None => text.push_str(&format!("  {path}\n")),
            }
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        let places = self.places.iter().map(|(path, place)| json!({ "path": path, "place": place }));
        json!({
            "reply": self.headline,
            "code": self.code,
            "meaning": self.lines,
            "configuration": places.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headline(reply: &str) -> String {
        let input = Input::default();
        Received::of(reply).unwrap().explain(&input, None).unwrap().headline
    }

    #[test]
    fn details_say_who_has_answered() {
        for (details, status, expected) in [
            ("via_upstream", 429, "429 by the service"),
            ("via_upstream", 401, "401 by the service"),
            ("local_rate_limited", 429, "429 by Envoy's own local rate limit"),
            ("request_rate_limited", 429, "429 by Envoy's own global rate limit"),
            ("jwt_authn_access_denied{Jwt_is_missing}", 401, "401 by Envoy's own check of tokens"),
            ("rbac_access_denied_matched_policy[none]", 403, "403 by Envoy's access control"),
            ("upstream_reset_before_response_started{connection_failure}", 503, "503 by the proxy"),
            ("rate_limit_exceeded", 429, "429 rate_limit_exceeded, by rate-limit"),
            ("jwt_auth_token_expired", 401, "401 token_expired, by jwt-auth"),
            ("jwt-auth_not_configured", 503, "503 not_configured, by the proxy"),
            ("wasm_fail_stream", 503, "503 wasm_fail_stream, by the proxy"),
        ] {
            // In report mode a filter publishes a code, although it does not answer.
            for more in ["", r#","jwt":"token_missing","rate_limit":"per-user""#] {
                let line =
                    format!(r#"{{"method":"GET","path":"/","status":{status},"details":"{details}"{more}}}"#);
                if expected.contains(" by ") && !expected.contains(", by") || more.is_empty() {
                    assert_eq!(headline(&line), expected, "{line}");
                }
            }
        }
    }

    #[test]
    fn status_alone_is_no_mark_of_a_filter() {
        for (reply, expected) in [
            ("HTTP/1.1 429 Too Many Requests\n\nslow down", "429 may be from rate-limit"),
            (
                "HTTP/1.1 429 Too Many Requests\nretry-after: 3\nratelimit: \"a\";r=0;t=3\n\n",
                "429 may be from rate-limit",
            ),
            (
                "HTTP/1.1 401 Unauthorized\nwww-authenticate: Basic realm=\"x\"\n\n",
                "401 may be from jwt-auth",
            ),
            (
                "HTTP/1.1 401 Unauthorized\nwww-authenticate: Bearer realm=\"http://a/b\"\n\nJwt is missing",
                "401 by Envoy's own check of tokens",
            ),
            (
                "HTTP/1.1 401 Unauthorized\nwww-authenticate: Bearer realm=\"http://a/b\"\n\n",
                "401 may be from jwt-auth",
            ),
            ("HTTP/1.1 403 Forbidden\n\nno", "403 may be from jwt-auth"),
            ("HTTP/1.1 403 Forbidden\n\nRBAC: access denied", "403 by Envoy's access control"),
            ("RBAC: access denied", "by Envoy's access control"),
            ("HTTP/1.1 401 Unauthorized\n\nJwt verification fails", "401 by Envoy's own check of tokens"),
            ("Audiences in Jwt are not allowed", "by Envoy's own check of tokens"),
            ("HTTP/1.1 401 Unauthorized\n\nThe token has expired", "401 token_expired, by jwt-auth"),
            (
                "HTTP/2 200\ncontent-type: application/grpc\ngrpc-status: 16\ngrpc-message: The token has expired\n\n",
                "gRPC status 16 (Unauthenticated) token_expired, by jwt-auth",
            ),
            (
                "HTTP/2 200\ngrpc-status: 8\ngrpc-message: {%22status%22:429,%22code%22:%22rate_limit_exceeded%22}\n\n",
                "gRPC status 8 (ResourceExhausted) rate_limit_exceeded, by rate-limit",
            ),
            (
                "HTTP/2 200\ngrpc-status: 7\ngrpc-message: RBAC: access denied\n\n",
                "gRPC status 7 (PermissionDenied) by Envoy's access control",
            ),
            ("HTTP/2 200\ngrpc-status: 8\n\n", "gRPC status 8 (ResourceExhausted) may be from rate-limit"),
            (
                "ERROR:\n  Code: PermissionDenied\n  Message: The token does not permit this\n",
                "gRPC status 7 (PermissionDenied) claims_forbidden, by jwt-auth",
            ),
            (
                "rpc error: code = Unauthenticated desc = A token is required",
                "gRPC status 16 (Unauthenticated) token_missing, by jwt-auth",
            ),
            (
                r#"[2026-12-01T07:30:00.000Z] "GET / HTTP/1.1" 401 - jwt_auth_token_expired - "-" 0 1 1 - "-" "c" "i" "a" "-" - - - - - -"#,
                "401 token_expired, by jwt-auth",
            ),
            (
                r#"[2026-12-01T07:30:00.000Z] "GET / HTTP/1.1" 403 - rbac_access_denied_matched_policy[none] - "-" 0 1 1 - "-" "c" "i" "a" "-""#,
                "403 by Envoy's access control",
            ),
            (
                r#"[2026-12-01T07:30:00.000Z] "GET / HTTP/1.1" 401 - 0 141 1 - "-" "c" "i" "a" "-""#,
                "401 may be from jwt-auth",
            ),
            (
                r#"[2026-12-01T07:30:00.000Z] "GET / HTTP/1.1" 503 UH 0 19 0 - "-" "c" "i" "a" "-""#,
                "503 by the proxy",
            ),
            ("HTTP/1.1 503 Service Unavailable\n\nno", "503 may be from jwt-auth or rate-limit"),
            (
                "HTTP/1.1 401 Unauthorized\nwww-authenticate: Bearer realm=\"service\"\n\n",
                "401 token_missing, by jwt-auth",
            ),
            (
                "HTTP/1.1 403 Forbidden\nwww-authenticate: Bearer realm=\"service\", error=\"insufficient_scope\", scope=\"a b\"\n\n",
                "403 insufficient_scope, by jwt-auth",
            ),
            (
                "HTTP/1.1 429 Too Many Requests\n\n{\"status\":429,\"code\":\"rate_limit_exceeded\"}",
                "429 rate_limit_exceeded, by rate-limit",
            ),
            (r#"{"status":429,"rate_limit":"per-user"}"#, "429 rate_limit_exceeded, by rate-limit"),
        ] {
            let found = headline(reply);
            assert!(found.starts_with(expected), "{reply}: {found}");
        }
    }
}
