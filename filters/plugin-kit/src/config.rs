//! pluginConfig: from JSON to types that cannot be wrong.
//!
//! A filter parses its configuration in two steps. [`read`] turns the JSON into the filter's raw types, which
//! [`config_object!`](crate::config_object) declares; unknown fields are refused. The filter then turns the raw types into
//! its own. Each step collects everything that is wrong, with its JSON path.

mod fields;
pub mod secret;
mod syntax;

use std::fmt;
use std::time::Duration;

use serde_json::Value;

use crate::wire::json;

pub use self::fields::{ByName, ConfigReader, FromConfig, NonEmpty, field, not_one_of, one_of};
#[cfg(not(target_os = "wasi"))]
pub use self::fields::{Definitions, FieldSchema, choice_schema, object_schema, schema};

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct ConfigError {
    /// Where: a JSON path such as `rules[2].match.paths[0]`; `$` for the document itself.
    pub path: String,
    /// What was found and what was expected.
    pub message: String,
}

/// All that is wrong with a configuration; at least one error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// The errors in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }

    /// The same errors with `prefix` in front of each path: for a configuration that is a part of a larger one.
    #[must_use]
    pub fn under(mut self, prefix: &str) -> Self {
        for error in &mut self.0 {
            error.path = match error.path.as_str() {
                "$" => prefix.to_owned(),
                path if path.starts_with('[') => format!("{prefix}{path}"),
                path => format!("{prefix}.{path}"),
            };
        }
        self
    }

    /// These errors and the others.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("; ")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// A JSON path that grows as a configuration is walked.
#[derive(Debug, Clone, Default)]
pub struct JsonPath(String);

impl JsonPath {
    /// The document itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// The field `name` below this path.
    #[must_use]
    #[inline(never)]
    pub fn field(&self, name: &str) -> Self {
        let name = shown_name(name);
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// The element `index` of the list at this path.
    #[must_use]
    #[inline(never)]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "$" } else { &self.0 })
    }
}

/// Collects what is wrong, so that a user sees all of it at once.
#[derive(Debug, Default)]
pub struct ErrorList(Vec<ConfigError>);

impl ErrorList {
    /// Notes that the value at `path` is wrong.
    pub fn add(&mut self, path: &JsonPath, message: impl fmt::Display) {
        self.push(path, message.to_string());
    }

    #[inline(never)]
    fn push(&mut self, path: &JsonPath, message: String) {
        self.0.push(ConfigError { path: path.to_string(), message });
    }

    /// The value, or a note that it is wrong.
    pub fn check<T, E: fmt::Display>(&mut self, path: &JsonPath, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(path, error)).ok()
    }

    /// The value when nothing was wrong. `value` may be `None` only when an error was noted.
    pub fn finish<T>(mut self, value: Option<T>) -> Result<T, ConfigErrors> {
        if self.0.is_empty() {
            if let Some(value) = value {
                return Ok(value);
            }
            self.add(&JsonPath::root(), "incomplete");
        }
        Err(ConfigErrors(self.0))
    }
}

/// Reads the JSON of a pluginConfig. An empty document is an empty object: a plugin without pluginConfig gets the
/// defaults, or hears which field it needs.
///
/// # Errors
/// What is wrong with the JSON, and at which path.
pub fn document(json: &[u8]) -> Result<Value, ConfigErrors> {
    let json = if json.trim_ascii().is_empty() { b"{}" } else { json };
    json::value(json).map_err(|error| syntax::explain(json, &error).into())
}

/// Reads a document into the raw types of a configuration.
///
/// # Errors
/// Everything that does not fit, each with its path.
pub fn read<Raw: FromConfig>(document: &Value) -> Result<Raw, ConfigErrors> {
    let mut reader = ConfigReader::default();
    let raw = Raw::read(document, &mut reader);
    reader.errors.finish(raw)
}

/// A number that differs, but for one case in four billion, where the configuration does (FNV-1a, 32 bits): which pods run
/// which configuration shows in a metric.
pub fn fingerprint(json: &[u8]) -> u32 {
    json.iter().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// The gauge that holds the [`fingerprint`] of what the plugin `plugin` (Envoy's `plugin_name`) runs, one for each plugin:
/// `<filter>_config_hash_<namespace>.<name>`. Istio writes a path before that and a mark after it; they are left out.
/// At most 100 bytes of the plugin's name, with `_` for what is unusual in a metric.
pub fn config_hash_metric(filter: &str, plugin: &[u8]) -> String {
    let plugin = plugin.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let plugin = plugin.split(|byte| *byte == b'~').next().unwrap_or_default();
    let mut name = format!("{}_config_hash", filter.replace('-', "_"));
    if !plugin.is_empty() {
        name.push('_');
    }
    name.extend(plugin.iter().take(100).map(|byte| match byte {
        b'.' | b'-' => char::from(*byte),
        byte if byte.is_ascii_alphanumeric() => char::from(*byte),
        _ => '_',
    }));
    name
}

/// The name of a field, or of what a user has named, as an error shows it. A name is no secret; what looks like none of them
/// may have come to its place by mistake.
pub fn shown_name(name: &str) -> &str {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:/\\".contains(&byte);
    if name.len() <= 40 && name.bytes().all(good) { name } else { "…" }
}

/// The name nearest to `found`, if one is near enough to be what was meant.
pub fn nearest<'a>(found: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&found.to_ascii_lowercase(), &name.to_ascii_lowercase()), name))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

/// A duration as text: whole numbers with a unit each, `250ms`, `10s`, `5m`, `1h`, `7d`, `1h30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurationText(pub Duration);

impl std::str::FromStr for DurationText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Only what nearly is a duration is shown: anything else may be a secret that stands in the wrong place.
        let nearly = |byte: u8| byte.is_ascii_digit() || b".-dhimnsuwy".contains(&byte);
        let found = if text.len() <= 12 && text.bytes().all(nearly) {
            format!("`{text}`")
        } else {
            "this".to_owned()
        };
        let expected =
            || format!("{found} is no duration; expected one such as `250ms`, `10s`, `5m` or `1h30m`");
        let (mut rest, mut total) = (text, Duration::ZERO);
        while !rest.is_empty() {
            let unit_at = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(expected)?;
            let (digits, tail) = rest.split_at(unit_at);
            let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_end);
            let millis: u64 = match unit {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(expected()),
            };
            let count: u64 = digits.parse().map_err(|_| expected())?;
            let part = count.checked_mul(millis).ok_or_else(|| format!("{found} is too long a duration"))?;
            total = total.checked_add(Duration::from_millis(part)).ok_or_else(expected)?;
            rest = tail;
        }
        if text.is_empty() { Err(expected()) } else { Ok(Self(total)) }
    }
}

impl FromConfig for DurationText {
    fn read(value: &Value, reader: &mut ConfigReader) -> Option<Self> {
        let Value::String(text) = value else { return reader.expected("a duration such as `10s`", value) };
        reader.check(text.parse())
    }

    #[cfg(not(target_os = "wasi"))]
    fn schema(_: &mut Definitions) -> Value {
        serde_json::json!({ "type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$" })
    }
}

crate::config_choice! {
    /// Whether what is refused is refused.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum Mode {
        /// It is.
        #[default]
        Enforce,
        /// It is counted, and goes on: to see what a rule or a limit would do.
        Report,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::config_object! {
        #[derive(Debug)]
        struct Raw {
            inner: Vec<Inner> = Vec::new(),
            kind: Kind = Kind::Plain,
            share: Option<f64>,
            on: bool = false,
            few: u8 = 0,
        }
    }

    crate::config_object! {
        #[derive(Debug)]
        struct Inner {
            clock_skew: DurationText,
            issuer: Option<String>,
            r#match: Vec<String> = Vec::new(),
        }
    }

    crate::config_choice! {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Kind {
            Plain,
            VeryFancy,
            Named = "of/another+name",
        }
    }

    fn parse(json: &str) -> Result<Raw, ConfigErrors> {
        read(&document(json.as_bytes())?)
    }

    fn error(json: &str) -> String {
        parse(json).unwrap_err().to_string()
    }

    #[test]
    fn what_is_written_is_read_and_the_rest_has_its_defaults() {
        let json = r#"{"inner":[{"clockSkew":"1s","issuer":"a","match":["/x"]},{"clockSkew":"2s"}],
                       "kind":"of/another+name","share":0.5,"on":true,"few":255}"#;
        let raw = parse(json).unwrap();
        assert_eq!(raw.inner[0].clock_skew, DurationText(Duration::from_secs(1)));
        assert_eq!((raw.inner[0].issuer.as_deref(), raw.inner[1].issuer.as_deref()), (Some("a"), None));
        assert_eq!((&raw.inner[0].r#match, raw.inner[1].r#match.len()), (&vec!["/x".to_owned()], 0));
        assert_eq!((raw.kind, raw.share, raw.on, raw.few), (Kind::Named, Some(0.5), true, 255));
        let raw = parse("{}").unwrap();
        assert_eq!((raw.kind, raw.share, raw.on, raw.inner.len()), (Kind::Plain, None, false, 0));
        assert_eq!(parse(r#"{"kind":"veryFancy"}"#).unwrap().kind, Kind::VeryFancy);
    }

    #[test]
    fn an_unknown_field_is_refused_with_its_path_and_the_nearest_name() {
        assert_eq!(
            error(r#"{"inner":[{"clockSkew":"1s"},{"clockSkw":"1s"}]}"#),
            "inner[1].clockSkw: unknown field `clockSkw`, expected one of `clockSkew`, `issuer`, `match`; did you mean \
             `clockSkew`?; inner[1]: missing field `clockSkew`"
        );
    }

    #[test]
    fn a_field_as_rust_writes_it_is_unknown() {
        let error = error(r#"{"inner":[{"clockSkew":"1s","clock_skew":"1s"}]}"#);
        assert!(error.starts_with("inner[0].clock_skew: unknown field `clock_skew`"), "{error}");
    }

    #[test]
    fn a_name_that_is_like_no_other_gets_no_guess() {
        assert!(error(r#"{"zzz":1}"#).ends_with("`on`, `few`"));
    }

    #[test]
    fn everything_that_is_wrong_is_told_with_its_path() {
        for (json, expected) in [
            (r#""x""#, "$: expected an object, found a text"),
            (r#"{"inner":"x"}"#, "inner: expected a list, found a text"),
            (r#"{"inner":{}}"#, "inner: expected a list, found an object"),
            (r#"{"inner":[1]}"#, "inner[0]: expected an object, found 1"),
            (r#"{"inner":null}"#, "inner: expected a list, found null"),
            (r#"{"inner":[{"issuer":"a"}]}"#, "inner[0]: missing field `clockSkew`"),
            (
                r#"{"inner":[{"clockSkew":"1s"},{"clockSkew":"1y"}]}"#,
                "inner[1].clockSkew: `1y` is no duration; expected one such as `250ms`, `10s`, `5m` or `1h30m`",
            ),
            (
                r#"{"inner":[{"clockSkew":5,"issuer":["a"]}]}"#,
                "inner[0].clockSkew: expected a duration such as `10s`, found 5; inner[0].issuer: expected a text, found \
                 a list",
            ),
            (
                r#"{"kind":"fancy","on":1,"share":"x"}"#,
                "kind: expected one of `plain`, `veryFancy`, `of/another+name`, found another text; share: expected a number, \
                 found a text; on: expected `true` or `false`, found 1",
            ),
            (
                r#"{"inner":[{"clockSkew":"1s","issuer":null}]}"#,
                "inner[0].issuer: expected a text, found null",
            ),
            (r#"{"on":"true"}"#, "on: expected `true` or `false`, found the text `true`"),
            (r#"{"few":"100"}"#, "few: expected a whole number of 0 to 255, found the text `100`"),
            (r#"{"few":""}"#, "few: expected a whole number of 0 to 255, found an empty text"),
            (r#"{"few":1234567890}"#, "few: expected a whole number of 0 to 255, found a large number"),
            (
                r#"{"kind":"verfancy"}"#,
                "kind: expected one of `plain`, `veryFancy`, `of/another+name`, found `verfancy`; did you mean `veryFancy`?",
            ),
            (r#"{"few":256}"#, "few: expected a whole number of 0 to 255, found 256"),
            (r#"{"few":-1}"#, "few: expected a whole number of 0 to 255, found -1"),
            (r#"{"few":1.5}"#, "few: expected a whole number of 0 to 255, found a fraction"),
        ] {
            assert_eq!(error(json), expected, "{json}");
        }
    }

    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        let secret = "s3cr3t";
        for json in [
            r#""s3cr3t""#,
            r#"{"inner":"s3cr3t"}"#,
            r#"{"inner":[{"clockSkew":"s3cr3t"}]}"#,
            r#"{"kind":"s3cr3t"}"#,
            r#"{"on":"s3cr3t"}"#,
            r#"{"few":"s3cr3t"}"#,
            r#"{"share":"s3cr3t"}"#,
            r#"{"s3cr3t+/=":1}"#,
            r#"{"s3cr3t s":1}"#,
            r#"{"s3cr3ts3cr3ts3cr3ts3cr3ts3cr3ts3cr3ts3cr3t":1}"#,
            r#"{"s3cr3t s":x}"#,
        ] {
            assert!(!error(json).contains(secret), "{}", error(json));
        }
        assert!(
            error(r#"{"a b":1}"#).starts_with("$: an unknown field, which is not shown; expected one of")
        );
        assert_eq!(JsonPath::root().field("a b").field("c").to_string(), "….c");
        for text in ["1234567890123", "12345678s90s1", "deadbeefcafe"] {
            let error = text.parse::<DurationText>().unwrap_err();
            assert!(error.starts_with("this is no duration; expected one such as"), "{error}");
        }
        assert!("10min".parse::<DurationText>().unwrap_err().starts_with("`10min` is no duration"));
    }

    #[test]
    fn what_is_written_has_an_entry() {
        type Names = NonEmpty<Vec<String>>;
        type Map = NonEmpty<ByName<u8>>;
        let errors = |error: ConfigErrors| error.to_string();
        assert_eq!(read::<Names>(&serde_json::json!(["a"])).unwrap().to_vec(), ["a"]);
        assert_eq!(read::<Map>(&serde_json::json!({ "a": 1 })).unwrap().0.len(), 1);
        for empty in [serde_json::json!([]), serde_json::json!({})] {
            let error = "$: is empty; expected at least one entry";
            assert_eq!(read::<Names>(&empty).map_err(errors).unwrap_err(), error);
            assert_eq!(read::<Map>(&empty).map_err(errors).unwrap_err(), error);
        }
        assert_eq!(
            read::<Names>(&Value::Null).map_err(errors).unwrap_err(),
            "$: expected a list, found null"
        );
        let mut definitions = Definitions::new();
        assert_eq!(Names::schema(&mut definitions)["minItems"], 1);
        assert_eq!(Map::schema(&mut definitions)["minProperties"], 1);
    }

    #[test]
    fn what_is_no_json_is_told_with_the_path_where_it_stops_being_so() {
        for (json, start) in [
            (r#"{"inner":["#, "inner: EOF"),
            (r#"{"inner":[{"issuer":"}],\"","clockSkew":x}]}"#, "inner[0].clockSkew: expected value"),
            (r#"{"inner":[{"clockSkew":"1s","clockSkew":"2s"}]}"#, "inner[0].clockSkew: a name occurs twice"),
            ("{\n \"inner\": [\n  {\"clockSkew\": x}\n ]\n}", "inner[0].clockSkew: expected value"),
            ("{} {}", "$: trailing characters"),
        ] {
            assert!(error(json).starts_with(start), "{json}: {}", error(json));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_document_or_an_error_with_a_path(json: Vec<u8>) {
            let _ = document(&json).map(|document| read::<Raw>(&document));
        }
    }

    #[test]
    fn an_empty_document_is_an_empty_object() {
        assert!(parse(" ").unwrap().inner.is_empty());
    }

    #[test]
    fn each_plugin_has_a_gauge_of_its_own() {
        let name = |plugin: &str| config_hash_metric("jwt-auth", plugin.as_bytes());
        assert_eq!(name(""), "jwt_auth_config_hash");
        assert_eq!(name("inbound"), "jwt_auth_config_hash_inbound");
        let istio = "extensions.istio.io/trafficextension/apps.jwt-auth-user~istio-translated-wasmplugin";
        assert_eq!(name(istio), "jwt_auth_config_hash_apps.jwt-auth-user");
        assert_eq!(name("a b;\u{e9}"), "jwt_auth_config_hash_a_b___");
        assert_eq!(name(&"x".repeat(1000)).len(), "jwt_auth_config_hash_".len() + 100);
    }

    /// The values of the algorithm's own test suite.
    #[test]
    fn a_fingerprint_is_fnv_1a() {
        assert_eq!(fingerprint(b""), 0x811c_9dc5);
        assert_eq!(fingerprint(b"a"), 0xe40c_292c);
        assert_eq!(fingerprint(b"foobar"), 0xbf9c_f968);
    }

    #[test]
    fn durations() {
        let millis = |text: &str| text.parse::<DurationText>().map(|d| d.0.as_millis());
        assert_eq!(millis("250ms"), Ok(250));
        assert_eq!(millis("1h30m"), Ok(5_400_000));
        assert_eq!(millis("7d"), Ok(604_800_000));
        for wrong in
            ["", "5", "s", "1.5s", "-1s", "1 s", "5y", "99999999999999999999s", "999999999999999999d"]
        {
            assert!(millis(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn errors_of_a_part_get_the_path_of_the_whole() {
        let errors = parse(r#"{"inner":3}"#).unwrap_err().under("jwtAuth");
        assert_eq!(errors.iter().next().unwrap().path, "jwtAuth.inner");
    }

    #[test]
    fn the_schema_says_what_is_read() {
        assert_eq!(
            schema::<Raw>("Example"),
            serde_json::json!({
                "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Example", "$ref": "#/$defs/Raw",
                "$defs": {
                    "Raw": { "type": "object", "additionalProperties": false, "properties": {
                        "inner": { "type": "array", "items": { "$ref": "#/$defs/Inner" } },
                        "kind": { "enum": ["plain", "veryFancy", "of/another+name"] },
                        "share": { "type": "number" },
                        "on": { "type": "boolean" },
                        "few": { "type": "integer", "minimum": 0 },
                    } },
                    "Inner": { "type": "object", "additionalProperties": false, "required": ["clockSkew"], "properties": {
                        "clockSkew": { "type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$" },
                        "issuer": { "type": "string" },
                        "match": { "type": "array", "items": { "type": "string" } },
                    } },
                },
            })
        );
    }
}
