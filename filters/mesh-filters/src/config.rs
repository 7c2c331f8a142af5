//! The pluginConfig: those of the three filters under a key each.

use plugin_kit::config::{ConfigErrors, Diagnostic, read};
use plugin_kit::config_object;
use serde_json::Value;

config_object! {
    /// The configurations of the filters. A filter whose key is left out does not run; at least one must be there.
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
        // What a template leaves in the place of a filter is no reason to go without it: the filter refuses it.
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
}
