use plugin_kit::request::source::HeaderReads;

use super::*;
use crate::tags::tag::Tag;

fn parse(json: &str) -> Result<Config, String> {
    let env = |name: &str| match name {
        "PSEUDONYM_KEY" => Some("0123456789abcdef".to_owned()),
        "SHORT" => Some("secret".to_owned()),
        "EXAMPLE" => Some("change-me-to-32-random-characters".to_owned()),
        _ => None,
    };
    Config::parse(json.as_bytes(), &env, Phase::Request).map_err(|errors| errors.to_string())
}

fn error(json: &str) -> String {
    parse(json).map(|config| format!("{config:?}")).unwrap_err()
}

#[test]
fn configuration_without_tags_has_the_three_default_tags() {
    let config = parse("{}").unwrap();
    let keys: Vec<_> = config.tags.iter().map(Tag::key).collect();
    assert_eq!(keys, ["tag.enduser.pseudo.id", "tag.request.id", "tag.service.version"]);
    assert_eq!(config.request_id, Some(RequestIds { echo: false }));
    assert_eq!(config.head_use, HeaderReads::One("x-request-id".to_owned()));
}

#[test]
fn request_id_is_not_read_unless_something_needs_it() {
    assert_eq!(parse(r#"{"tags":[]}"#).unwrap().request_id, None);
    assert_eq!(parse(r#"{"tags":[]}"#).unwrap().head_use, HeaderReads::Nothing);
    let echo = parse(r#"{"tags":[],"requestId":{"echo":true}}"#).unwrap();
    assert_eq!(echo.request_id, Some(RequestIds { echo: true }));
}

#[test]
fn credential_as_tag_needs_a_pseudonym() {
    for source in [
        r#"{"header":"authorization","trust":true}"#,
        r#"{"header":"cookie","trust":true}"#,
        r#"{"property":["request","headers","proxy-authorization"],"trust":true}"#,
    ] {
        let tag = |more: &str| format!(r#"{{"tags":[{{"name":"t","from":[{source}]{more}}}]}}"#);
        for more in ["", r#","raw":true"#] {
            assert!(error(&tag(more)).starts_with("tags[0].from: this shows a credential"), "{source}");
        }
        assert!(parse(&tag(r#","pseudonym":{"keyFrom":{"env":"PSEUDONYM_KEY"}}"#)).is_ok(), "{source}");
    }
}

#[test]
fn tag_that_identifies_a_person_needs_pseudonym_or_raw() {
    for tag in [
        r#""name":"user.id","from":[{"filterState":"x"}]"#,
        r#""name":"u","from":[{"literal":"x"},{"claim":"sub"}]"#,
        r#""name":"mail","from":[{"claim":"email"}]"#,
        r#""name":"mail","from":[{"claim":"profile.Email"}]"#,
        r#""name":"who","from":[{"claim":"upn"}]"#,
        r#""name":"who","from":[{"filterState":"wasm.jwt.sub"}]"#,
        r#""name":"who","from":[{"property":["filter_state","wasm.jwt.sub"]}]"#,
    ] {
        assert!(error(&format!(r#"{{"tags":[{{{tag}}}]}}"#)).starts_with("tags[0]: this tells who"));
        parse(&format!(r#"{{"tags":[{{{tag},"raw":true}}]}}"#)).unwrap();
        parse(&format!(r#"{{"tags":[{{{tag},"pseudonym":{{}}}}]}}"#)).unwrap();
    }
    let pseudo = r#"{"tags":[{"name":"enduser.pseudo.id","from":[{"claim":"sub"}],"raw":true}]}"#;
    assert!(error(pseudo).contains("is a pseudonym"));
    parse(r#"{"tags":[{"name":"tenant","from":[{"claim":"org.id"}]}]}"#).unwrap();
}

#[test]
fn pseudonym_key_is_read_from_the_environment_and_never_shown() {
    let with = |pseudonym: &str| {
        error(&format!(r#"{{"tags":[{{"name":"a","from":[{{"claim":"sub"}}],"pseudonym":{pseudonym}}}]}}"#))
    };
    let missing = with(r#"{"keyFrom":{"env":"NONE"}}"#);
    assert!(missing.starts_with("tags[0].pseudonym.keyFrom.env: vmConfig.env has no variable of this name"));
    for mistaken in [
        r#"{"keyFrom":{"env":"5f2b8d0e9c714a36"}}"#,
        r#"{"keyFrom":{"5f2b8d0e9c714a36":""}}"#,
        r#"{"keyFrom":"5f2b8d0e9c714a36"}"#,
        r#"{"keyId":"5f2b8d0e9c714a36-5f2b8d0e9c714a36"}"#,
        r#""5f2b8d0e9c714a36""#,
    ] {
        assert!(!with(mistaken).contains("5f2b8d0e9c714a36"), "{}", with(mistaken));
    }
    let placeholder = with(r#"{"keyFrom":{"env":"EXAMPLE"}}"#);
    assert!(placeholder.contains("the variable `EXAMPLE` holds a placeholder"), "{placeholder}");
    let short = with(r#"{"keyFrom":{"env":"SHORT"}}"#);
    assert!(short.contains("the variable `SHORT` holds too little: the key needs 16 bytes or more"));
    assert!(!short.contains("secret"));
    assert!(with(r#"{"key":"abc"}"#).starts_with("tags[0].pseudonym.key: unknown field `key`"));
    assert!(with(r#"{"keyId":"a.b"}"#).starts_with("tags[0].pseudonym.keyId: expected 1 to 16"));
}

#[test]
fn source_that_a_client_writes_needs_trust() {
    let tag = |source: &str| format!(r#"{{"tags":[{{"name":"a","from":[{source}]}}]}}"#);
    for source in [
        r#""header":"x""#,
        r#""cookie":"x""#,
        r#""queryParam":"x""#,
        r#""path":{}"#,
        r#""pathTemplate":["/a"]"#,
        r#""method":{}"#,
        r#""property":["request","headers","x"]"#,
    ] {
        assert!(error(&tag(&format!("{{{source}}}"))).starts_with("tags[0].from[0]: any client can send"));
        parse(&tag(&format!(r#"{{{source},"trust":true}}"#))).unwrap();
    }
    parse(&tag(r#"{"requestId":{}}"#)).unwrap();
    parse(&tag(r#"{"property":["request","protocol"]}"#)).unwrap();
    assert!(
        error(r#"{"tags":[{"name":"a","from":[]}]}"#).contains("from: is empty; expected at least one entry")
    );
}

#[test]
fn invalid_when_is_refused() {
    let tag = |when: &str| format!(r#"{{"tags":[{{"name":"a","from":[{{"literal":"x"}}],"when":{when}}}]}}"#);
    assert!(error(&tag(r#"{"statusFrom":42}"#)).starts_with("tags[0].when.statusFrom: expected a status"));
    assert!(error(&tag(r#"{"percentage":101}"#)).starts_with("tags[0].when.percentage: expected 0 to 100"));
    assert!(error(&tag(r#"{"status":400}"#)).contains("did you mean `statusFrom`?"));
    assert_eq!(parse(&tag(r#"{"statusFrom":400}"#)).unwrap().request_id, None);
    assert!(parse(&tag(r#"{"percentage":0.5}"#)).unwrap().request_id.is_some());
}

#[test]
fn all_errors_are_reported_at_once() {
    let errors = error(
        r#"{"tags":[
            {"name":"","from":[{"claim":"a"}]},
            {"name":"b","from":[{"method":{}}]},
            {"name":"b","from":[{"literal":"x"}],"maxLength":0},
            {"name":"c","from":[{}],"pseudonym":{},"maxLength":3}
        ]}"#,
    );
    for expected in [
        "tags[0].name: expected 1 to 64 letters",
        "tags[1].from[0]: any client can send this",
        "tags[2].name: is the name of an earlier tag",
        "tags[2].maxLength: expected 1 to 1024 characters, found 0",
        "tags[3].from[0]: expected exactly one of `claim`",
        "tags[3].maxLength: has no meaning with `pseudonym`",
    ] {
        assert!(errors.contains(expected), "{expected}: {errors}");
    }
    assert!(error(r#"{"tag":[]}"#).contains("did you mean `tags`?"));
    assert!(
        error(r#"{"tags":[{"name":"a","from":[{"claim":"b"}],"characters":"all"}]}"#).contains("`token`")
    );
}

#[test]
fn tag_that_is_known_too_late_is_refused_as_baggage() {
    let json = |send: &str| {
        format!(
            r#"{{"tags":[{{"name":"tenant","from":[{{"claim":"org"}}]}},{{"name":"zone","from":[{{"literal":"a"}}]}}],
                "baggage":{{"send":["{send}"]}}}}"#
        )
    };
    parse(&json("zone")).unwrap();
    assert!(error(&json("tenant")).starts_with("baggage.send[0]: `tenant` is not known yet"));
    let composed = |json: &str| Config::parse(json.as_bytes(), &|_: &str| None, Phase::Claims);
    composed(&json("tenant")).unwrap();
    assert!(error(&json("zones")).contains(
        "baggage.send[0]: no tag of this name; expected `tenant` or `zone`, found `zones`; did you"
    ));
    let keep = error(r#"{"tags":[],"baggage":{"keep":["a b"]}}"#);
    assert!(keep.starts_with("baggage.keep[0]: expected 1 to 64 letters"), "{keep}");
}
