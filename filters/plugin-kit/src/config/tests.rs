use super::*;
use std::time::Duration;

crate::config_object! {
    #[derive(Debug)]
    struct Raw {
        inner: Vec<Inner> = Vec::new(),
        /// What kind
        /// it is.
        kind: Kind = Kind::Plain,
        share: Option<f64> => 0.5,
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
        /// It is plain.
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
         `clockSkew`?"
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
        ("[]", "$: expected an object, found a list"),
        (r#"{"inner":"x"}"#, "inner: expected a list, found a text"),
        (r#"{"inner":{}}"#, "inner: expected a list, found an object"),
        (r#"{"inner":[1]}"#, "inner[0]: expected an object, found 1"),
        (r#"{"inner":null}"#, "inner: expected a list, found null"),
        (r#"{"inner":[{"issuer":"a"}]}"#, "inner[0]: missing field `clockSkew`"),
        (
            r#"{"inner":[{"clockSkew":"1s"},{"clockSkew":"1y"}]}"#,
            "inner[1].clockSkew: `1y` is not a valid duration; expected one such as `250ms`, `10s`, `5m` or `1h30m`",
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
        (r#"{"inner":[{"clockSkew":"1s","issuer":null}]}"#, "inner[0].issuer: expected a text, found null"),
        (r#"{"on":"true"}"#, "on: expected `true` or `false`, found the text `\"true\"`"),
        (r#"{"few":"100"}"#, "few: expected a whole number of 0 to 255, found the text `\"100\"`"),
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
    assert!(error(r#"{"a b":1}"#).starts_with("$: an unknown field, which is not shown; expected one of"));
    assert_eq!(JsonPath::root().field("a b").field("c").to_string(), "….c");
    for text in ["1234567890123", "12345678s90s1", "deadbeefcafe"] {
        let error = text.parse::<DurationText>().unwrap_err();
        assert!(error.starts_with("this is not a valid duration; expected one such as"), "{error}");
    }
    assert!("10min".parse::<DurationText>().unwrap_err().starts_with("`10min` is not a valid duration"));
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
    assert_eq!(read::<Names>(&Value::Null).map_err(errors).unwrap_err(), "$: expected a list, found null");
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
        ("{} {}", "$: trailing characters at line 1 column 4"),
        ("{\n} }", "$: trailing characters at line 2 column 3"),
    ] {
        assert!(error(json).starts_with(start), "{json}: {}", error(json));
    }
}

#[test]
fn what_arrives_in_the_place_of_json_is_named() {
    for (bytes, start) in [
        (&b"\xef\xbb\xbf{}"[..], "$: begins with a byte order mark; expected JSON without it"),
        (b"inner: []\n", "$: is YAML or a text; expected JSON"),
        (b"# comment\n{}", "$: has a comment, which JSON does not know"),
        (b"{\"on\": true // comment\n}", "on: has a comment, which JSON does not know"),
        (b"\x0a\x05\x0a\x03abc\x12\x00", "$: is a serialised message; expected JSON"),
        (b"\"{}\"", "$: is a text; expected the object itself"),
        (b"{\"@type\":\"x\",\"value\":{}}", "$: is a message with `@type`; expected the object itself"),
    ] {
        let errors = document(bytes).unwrap_err();
        assert!(errors.to_string().starts_with(start), "{errors}");
        assert_eq!(errors.iter().next().unwrap().code, Code::NotJson);
    }
}

#[test]
fn number_has_its_range_in_the_error_and_in_the_schema() {
    type Percent = Within<0, 100>;
    let error = |value: Value| read::<Percent>(&value).unwrap_err().to_string();
    assert_eq!(read::<Percent>(&serde_json::json!(100)).unwrap(), Within(100));
    assert_eq!(error(serde_json::json!(0.5)), "$: expected 0 to 100, found a fraction");
    assert_eq!(error(serde_json::json!(101)), "$: expected 0 to 100, found 101");
    assert_eq!(Percent::schema(&mut Definitions::new())["maximum"], 100);
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
    assert_eq!(config_warnings_metric("rate-limit", b"inbound"), "rate_limit_config_warnings_inbound");
    assert_eq!(name("a b;\u{e9}"), "jwt_auth_config_hash_a_b___");
    assert_eq!(name(&"x".repeat(1000)).len(), "jwt_auth_config_hash_".len() + 100);
}

#[test]
fn warnings_come_with_the_value_and_beside_errors() {
    let root = JsonPath::root();
    let mut list = ErrorList::default();
    list.note(Code::ReportMode, &root.field("mode"), "denies nothing");
    let (value, warnings) = list.finish_with_warnings(Some(1)).unwrap();
    assert_eq!((value, warnings[0].to_string()), (1, "mode: denies nothing".to_owned()));
    let mut list = ErrorList::default();
    list.note(Code::ReportMode, &root.field("mode"), "denies nothing");
    list.add(&root.field("few"), "is wrong");
    let errors = list.finish(Some(1)).unwrap_err().under("part");
    assert_eq!(errors.to_string(), "part.few: is wrong");
    let all: Vec<String> = errors.all().iter().map(ToString::to_string).collect();
    assert_eq!(all, ["part.mode: denies nothing", "part.few: is wrong"]);
}

#[test]
fn each_error_has_the_code_of_its_kind() {
    for (json, code) in [
        (r#"{"inner":["#, "not-json"),
        (r#"{"other":1}"#, "unknown-field"),
        (r#"{"inner":[{}]}"#, "missing-field"),
        (r#"{"on":"true"}"#, "wrong-type"),
        (r#"{"kind":"other"}"#, "unknown-name"),
        (r#"{"inner":[{"clockSkew":"1y"}]}"#, "invalid-value"),
    ] {
        let errors = parse(json).unwrap_err();
        assert_eq!(errors.iter().next().unwrap().code.name(), code, "{json}");
    }
    let empty = read::<NonEmpty<Vec<String>>>(&serde_json::json!([])).unwrap_err();
    assert_eq!(empty.iter().next().unwrap().code, Code::EmptyList);
}

#[test]
fn each_code_has_a_name_of_its_own_and_an_explanation() {
    let mut names: Vec<String> = Code::ALL.iter().map(|code| code.name()).collect();
    assert!(names.contains(&"not-json".to_owned()) && names.contains(&"same-filter-twice".to_owned()));
    names.sort();
    names.dedup();
    assert_eq!(names.len(), Code::ALL.len());
    for code in Code::ALL {
        assert!(code.explanation().ends_with('.'), "{}", code.explanation());
    }
}

#[test]
fn durations() {
    let millis = |text: &str| text.parse::<DurationText>().map(|d| d.0.as_millis());
    assert_eq!(millis("250ms"), Ok(250));
    assert_eq!(millis("1h30m"), Ok(5_400_000));
    assert_eq!(millis("7d"), Ok(604_800_000));
    for wrong in ["", "5", "s", "1.5s", "-1s", "1 s", "5y", "99999999999999999999s", "999999999999999999d"] {
        assert!(millis(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn errors_of_a_part_get_the_path_of_the_whole() {
    let errors = parse(r#"{"inner":3}"#).unwrap_err().under("jwtAuth");
    assert_eq!(errors.iter().next().unwrap().path, "jwtAuth.inner");
}

#[test]
fn duration_in_a_schema_has_the_largest_unit_that_fits() {
    for text in ["0ms", "1500ms", "90s", "10m", "36h", "7d"] {
        assert_eq!(text.parse::<DurationText>().unwrap().to_json(), Some(text.into()));
    }
    assert_eq!("1h30m".parse::<DurationText>().unwrap().to_json(), Some("90m".into()));
}

#[test]
fn schema_has_descriptions_defaults_and_the_order_of_the_fields() {
    assert_eq!(
        schema::<Raw>("Example"),
        serde_json::json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Example", "$ref": "#/$defs/Raw",
            "$defs": {
                "Raw": {
                    "type": "object", "additionalProperties": false,
                    "properties": {
                        "inner": { "type": "array", "items": { "$ref": "#/$defs/Inner" }, "default": [] },
                        "kind": {
                            "description": "What kind it is.", "default": "plain",
                            "oneOf": [
                                { "const": "plain", "description": "It is plain." },
                                { "const": "veryFancy" },
                                { "const": "of/another+name" },
                            ],
                        },
                        "share": { "type": "number", "default": 0.5 },
                        "on": { "type": "boolean", "default": false },
                        "few": { "type": "integer", "minimum": 0, "default": 0 },
                    },
                    PROPERTY_ORDER: ["inner", "kind", "share", "on", "few"],
                },
                "Inner": {
                    "type": "object", "additionalProperties": false, "required": ["clockSkew"],
                    "properties": {
                        "clockSkew": { "type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$" },
                        "issuer": { "type": "string" },
                        "match": { "type": "array", "items": { "type": "string" }, "default": [] },
                    },
                    PROPERTY_ORDER: ["clockSkew", "issuer", "match"],
                },
            },
        })
    );
}

#[test]
fn fingerprint_is_about_the_document_and_not_about_how_it_is_written() {
    let of = |json: &str| fingerprint(&document(json.as_bytes()).unwrap());
    let one = of(r#"{"a":[1,{"b":null}],"c":"x"}"#);
    for same in
        [r#" { "c" : "x", "a" : [ 1.0, { "b" : null } ] } "#, r#"{"a":[1e0,{"b":null}],"c":"\u0078"}"#]
    {
        assert_eq!(of(same), one, "{same}");
    }
    let others = [
        r#"{"a":[{"b":null},1],"c":"x"}"#,
        r#"{"a":[1,{"b":false}],"c":"x"}"#,
        r#"{"a":[1,{"b":null}],"x":"c"}"#,
        r#"{"a":[1,{"b":null}]}"#,
        r#"{"a":["1",{"b":null}],"c":"x"}"#,
        r#"{"a":[1,{"b":null},[]],"c":"x"}"#,
        "{}",
    ];
    let all: std::collections::BTreeSet<u32> = others.iter().map(|json| of(json)).chain([one]).collect();
    assert_eq!(all.len(), others.len() + 1);
    assert_eq!(of(""), of("{}"), "a plugin without pluginConfig");
    // In each version: operators compare the number with that of the gauge.
    assert_eq!(of("{}"), 3_264_502_906);
}
