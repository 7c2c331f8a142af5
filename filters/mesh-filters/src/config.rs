//! The pluginConfig: those of the three filters under a key each.

use plugin_kit::config::{ConfigError, ConfigErrors, read};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The configurations of the filters, as they are written; `None` for a filter that does not run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Parts {
    /// That of trace-tags.
    pub trace_tags: Option<Box<RawValue>>,
    /// That of jwt-auth.
    pub jwt_auth: Option<Box<RawValue>>,
    /// That of rate-limit.
    pub rate_limit: Option<Box<RawValue>>,
}

impl Parts {
    /// Takes a pluginConfig apart. One without any filter is refused: it would let everything through.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigErrors> {
        let parts: Self = read(json)?;
        if parts.trace_tags.is_none() && parts.jwt_auth.is_none() && parts.rate_limit.is_none() {
            let message =
                "expected at least one of `traceTags`, `jwtAuth`, `rateLimit`; found none".to_owned();
            return Err(ConfigError { path: "$".to_owned(), message }.into());
        }
        Ok(parts)
    }
}

/// Makes a filter of its part, if it has one. What is wrong with it goes to `errors`, under the part's key.
pub fn part<F>(
    key: &str,
    json: Option<&RawValue>,
    errors: &mut Option<ConfigErrors>,
    configure: impl FnOnce(&[u8]) -> Result<F, ConfigErrors>,
) -> Option<F> {
    match configure(json?.get().as_bytes()) {
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

    #[test]
    fn each_part_is_handed_over_as_it_is_written() {
        let parts = Parts::parse(br#"{"rateLimit": {"limits": [1.50]}, "traceTags": {}}"#).unwrap();
        assert_eq!(parts.rate_limit.unwrap().get(), r#"{"limits": [1.50]}"#);
        assert_eq!(parts.trace_tags.unwrap().get(), "{}");
        assert!(parts.jwt_auth.is_none());
    }

    #[test]
    fn no_filter_and_unknown_filters_are_refused() {
        for json in ["", "{}", r#"{"jwtAuth":null}"#] {
            let error = Parts::parse(json.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("$: expected at least one of"), "{error}");
        }
        let error = Parts::parse(br#"{"jwtauth":{}}"#).unwrap_err().to_string();
        assert!(error.contains("did you mean `jwtAuth`?"), "{error}");
    }

    #[test]
    fn errors_of_all_parts_are_told_under_their_keys() {
        let parts = Parts::parse(br#"{"jwtAuth":[], "traceTags":{}, "rateLimit":{"a":1}}"#).unwrap();
        let refuse = |path: &str| ConfigError { path: path.to_owned(), message: "wrong".to_owned() }.into();
        let mut errors = None;
        assert_eq!(part("traceTags", parts.trace_tags.as_deref(), &mut errors, |_| Ok(1)), Some(1));
        assert!(errors.is_none());
        part::<()>("jwtAuth", parts.jwt_auth.as_deref(), &mut errors, |_| Err(refuse("$")));
        part::<()>("rateLimit", parts.rate_limit.as_deref(), &mut errors, |_| Err(refuse("a")));
        assert_eq!(errors.unwrap().to_string(), "jwtAuth: wrong; rateLimit.a: wrong");
    }
}
