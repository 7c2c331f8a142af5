//! The pluginConfig: those of the three filters under a key each.

use plugin_kit::config::{Code, ConfigErrors, Diagnostic, ErrorList, JsonPath, read};
use plugin_kit::config_object;
use serde_json::Value;

config_object! {
    /// The configurations of the filters. A filter whose key is left out does not run; at least one must be
    /// there.
    #[derive(Debug)]
    pub struct Parts {
        /// The configuration of trace-tags.
        pub trace_tags: Option<Value>,
        /// The configuration of jwt-auth.
        pub jwt_auth: Option<Value>,
        /// The configuration of rate-limit.
        pub rate_limit: Option<Value>,
    }
}

impl Parts {
    /// The JSON Schema of pluginConfig, in which the configuration of each filter is any value.
    #[cfg(not(target_os = "wasi"))]
    pub fn schema() -> Value {
        plugin_kit::config::schema::<Self>("mesh-filters: pluginConfig")
    }

    /// Takes a pluginConfig apart. One without any filter is refused: it would let everything through.
    pub fn parse(document: &Value) -> Result<Self, ConfigErrors> {
        let parts: Self = read(document)?;
        if parts.trace_tags.is_none() && parts.jwt_auth.is_none() && parts.rate_limit.is_none() {
            let message =
                "expected at least one of `traceTags`, `jwtAuth`, `rateLimit`; found none".to_owned();
            return Err(Diagnostic::invalid("$", message).into());
        }
        Ok(parts)
    }
}

impl Parts {
    /// What the parts ask of each other: claims that a limit or a tag reads, and that `jwtAuth` publishes or
    /// does not. `parts` are those that their filters have read without an error.
    ///
    /// # Errors
    /// A claim that is not published.
    pub fn check_claims(&self) -> Result<Vec<Diagnostic>, ConfigErrors> {
        let mut claims = Claims { published: self.jwt_auth.as_ref(), errors: ErrorList::default() };
        let root = JsonPath::root();
        if let Some(part) = &self.rate_limit {
            let path = root.field("rateLimit").field("limits");
            for (n, limit) in list(part, "limits").iter().enumerate() {
                claims.of_limit(limit, &path.index(n));
            }
        }
        if let Some(part) = &self.trace_tags {
            let path = root.field("traceTags").field("tags");
            for (n, tag) in list(part, "tags").iter().enumerate() {
                claims.of_sources(tag, "from", &path.index(n));
            }
        }
        claims.errors.finish_with_warnings(Some(())).map(|((), warnings)| warnings)
    }
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The claims that jwt-auth publishes, and what is wrong with those that others ask for.
struct Claims<'v> {
    /// The configuration of jwt-auth, if there is one.
    published: Option<&'v Value>,
    errors: ErrorList,
}

impl Claims<'_> {
    #[inline(never)]
    fn of_limit(&mut self, limit: &Value, path: &JsonPath) {
        self.of_sources(limit, "key", path);
        if let Some(from) = limit.get("plans").and_then(|plans| plans.get("from")) {
            self.of_source(from, &path.field("plans").field("from"));
        }
        if let Some(from) = limit.get("costFrom") {
            self.of_source(from, &path.field("costFrom"));
        }
        let tests = limit.get("match").and_then(|tests| tests.get("claims")).and_then(Value::as_object);
        for name in tests.into_iter().flat_map(|tests| tests.keys()) {
            self.ask(name, &path.field("match").field("claims").field(name));
        }
    }

    #[inline(never)]
    fn of_sources(&mut self, of: &Value, name: &str, path: &JsonPath) {
        for (n, source) in list(of, name).iter().enumerate() {
            self.of_source(source, &path.field(name).index(n));
        }
    }

    #[inline(never)]
    fn of_source(&mut self, source: &Value, path: &JsonPath) {
        if let Some(claim) = source.get("claim").and_then(Value::as_str) {
            self.ask(claim, &path.field("claim"));
        }
    }

    #[inline(never)]
    fn ask(&mut self, claim: &str, path: &JsonPath) {
        let Some(auth) = self.published else {
            let message = "asks for a claim, and there is no `jwtAuth` that publishes it";
            self.errors.note(Code::ClaimWithoutJwtAuth, path, message);
            return;
        };
        let is_published = match auth.get("publishClaims") {
            Some(_) => list(auth, "publishClaims").iter().any(|known| known == claim),
            None => claim == "sub",
        };
        if !is_published {
            let message = "asks for a claim that `jwtAuth` does not publish; expected it in `publishClaims`";
            self.errors.note(Code::ClaimNotPublished, path, message);
        }
    }
}

/// Makes a filter of its part, if it has one. What is wrong with it goes to `errors`, under the part's key.
pub fn part<F>(
    key: &str,
    document: Option<&Value>,
    errors: &mut Option<ConfigErrors>,
    configure: impl FnOnce(&Value) -> Result<F, ConfigErrors>,
) -> Option<F> {
    match configure(document?) {
        Ok(filter) => Some(filter),
        Err(wrong) => {
            let wrong = wrong.under(key);
            *errors = Some(match errors.take() {
                Some(errors) => errors.and(wrong),
                None => wrong,
            });
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_part_is_handed_over_as_it_is_written() {
        let parts = Parts::parse(&json!({ "rateLimit": { "limits": [1.5] }, "traceTags": {} })).unwrap();
        assert_eq!(parts.rate_limit.unwrap(), json!({ "limits": [1.5] }));
        assert_eq!(parts.trace_tags.unwrap(), json!({}));
        assert!(parts.jwt_auth.is_none());
    }

    #[test]
    fn no_filter_and_unknown_filters_are_refused() {
        let error = Parts::parse(&json!({})).unwrap_err().to_string();
        assert!(error.starts_with("$: expected at least one of"), "{error}");
        // If a template left something else than an object here, the filter is not left out; it refuses the
        // value.
        let parts = Parts::parse(&json!({ "jwtAuth": null, "rateLimit": {} })).unwrap();
        assert_eq!(parts.jwt_auth, Some(Value::Null));
        let error = Parts::parse(&json!({ "jwtauth": {} })).unwrap_err().to_string();
        assert!(error.contains("did you mean `jwtAuth`?"), "{error}");
    }

    #[test]
    fn errors_of_all_parts_are_told_under_their_keys() {
        let parts =
            Parts::parse(&json!({ "jwtAuth": [], "traceTags": {}, "rateLimit": { "a": 1 } })).unwrap();
        let refuse = |path: &str| Diagnostic::invalid(path, "wrong".to_owned()).into();
        let mut errors = None;
        assert_eq!(part("traceTags", parts.trace_tags.as_ref(), &mut errors, |_| Ok(1)), Some(1));
        assert!(errors.is_none());
        part::<()>("jwtAuth", parts.jwt_auth.as_ref(), &mut errors, |_| Err(refuse("$")));
        part::<()>("rateLimit", parts.rate_limit.as_ref(), &mut errors, |_| Err(refuse("a")));
        assert_eq!(errors.unwrap().to_string(), "jwtAuth: wrong; rateLimit.a: wrong");
    }

    #[test]
    fn claim_that_no_part_publishes_is_told() {
        let claim = json!({ "claim": "org" });
        let of = |auth: Option<Value>| {
            let mut document = json!({
                "rateLimit": { "limits": [
                    { "key": [{ "claim": "sub" }, claim], "match": { "claims": { "role": {} } } },
                    { "plans": { "from": claim }, "costFrom": claim },
                ] },
                "traceTags": { "tags": [{ "from": [{ "header": "x" }, claim] }] },
            });
            if let Some(auth) = auth {
                document["jwtAuth"] = auth;
            }
            let shown = |found: &Diagnostic| format!("{} {}", found.code.name(), found.path);
            match Parts::parse(&document).unwrap().check_claims() {
                Ok(warnings) => warnings.iter().map(shown).collect::<Vec<_>>(),
                Err(errors) => errors.all().iter().map(shown).collect(),
            }
        };
        assert_eq!(
            of(Some(json!({}))),
            [
                "claim-not-published rateLimit.limits[0].key[1].claim",
                "claim-not-published rateLimit.limits[0].match.claims.role",
                "claim-not-published rateLimit.limits[1].plans.from.claim",
                "claim-not-published rateLimit.limits[1].costFrom.claim",
                "claim-not-published traceTags.tags[0].from[1].claim",
            ]
        );
        assert_eq!(of(Some(json!({ "publishClaims": ["sub", "org", "role"] }))), [""; 0]);
        let alone = of(None);
        assert_eq!(alone.len(), 6);
        assert!(alone.iter().all(|found| found.starts_with("claim-without-jwt-auth ")), "{alone:?}");
    }
}
