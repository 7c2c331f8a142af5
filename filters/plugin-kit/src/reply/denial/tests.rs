use proptest::prelude::*;
use serde_json::json;

use super::*;

crate::config_object! {
    #[derive(Debug)]
    struct Raw {
        body: Body = Body::default(),
        cors: Option<RawCors>,
        add_headers: ByName<String> = ByName::default(),
    }
}

fn parse(raw: &Value) -> Result<(Body, Extras), String> {
    let raw: Raw = crate::config::read(raw).map_err(|errors| errors.to_string())?;
    let (path, mut errors) = (JsonPath::root().field("response"), ErrorList::default());
    raw.body.check(&[], &path.field("body"), &mut errors);
    let extras = Extras::compile(raw.add_headers, raw.cors.as_ref(), &path, &mut errors);
    errors.finish(Some((raw.body, extras))).map_err(|errors| errors.to_string())
}

fn reply() -> Reply {
    let headers = [("content-type", "text/plain"), ("retry-after", "1"), ("x-code", "a")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Reply { status: 401, grpc_status: None, headers, body: Vec::new(), details: String::new() }
}

fn headers(raw: &Value, origin: Option<&str>) -> Vec<String> {
    let mut reply = reply();
    parse(raw).unwrap().1.add_to(&mut reply, origin.map(str::as_bytes));
    reply.headers.iter().skip(2).map(|(name, value)| format!("{name}: {value}")).collect()
}

#[test]
fn a_page_of_an_allowed_origin_may_read_a_denial_and_its_headers() {
    let one = json!({ "cors": { "allowOrigins": ["https://app.example", "https://*.shop.example:8443"] } });
    for origin in ["https://app.example", "https://a.b.shop.example:8443"] {
        assert_eq!(
            headers(&one, Some(origin)),
            [
                "x-code: a",
                &format!("access-control-allow-origin: {origin}"),
                "access-control-expose-headers: retry-after, x-code",
                "vary: origin"
            ]
        );
    }
    for origin in [
        None,
        Some(""),
        Some("null"),
        Some("https://app.example.evil.test"),
        Some("https://evil.test/.app.example"),
        Some("http://app.example"),
        Some("https://app.example:443"),
        Some("https://app.example,https://app.example"),
        Some("https://shop.example:8443"),
        Some("https://.shop.example:8443"),
        Some("https://evil.test:1/.shop.example:8443"),
        Some("https://evil.test@a.shop.example:8443"),
        Some("https://a.shop.example"),
    ] {
        assert_eq!(headers(&one, origin), ["x-code: a", "vary: origin"], "{origin:?}");
    }
}

#[test]
fn any_page_may_read_what_no_credential_was_sent_for() {
    let any = json!({ "cors": { "allowOrigins": ["*"] } });
    assert_eq!(headers(&any, Some("https://a"))[1], "access-control-allow-origin: *");
    assert_eq!(headers(&any, None)[1], "access-control-allow-origin: *");
    assert!(!parse(&any).unwrap().1.asks_origin());
    let with = json!({ "cors": { "allowOrigins": ["https://a"], "allowCredentials": true } });
    assert_eq!(headers(&with, Some("https://a"))[2], "access-control-allow-credentials: true");
    assert_eq!(headers(&with, Some("https://b")), ["x-code: a", "vary: origin"]);
    assert!(parse(&with).unwrap().1.asks_origin());
}

#[test]
fn no_header_of_a_reply_is_there_twice() {
    let mut reply = reply();
    for (name, value) in [("vary", "accept"), ("access-control-allow-origin", "*")] {
        reply.headers.push((name.to_owned(), value.to_owned()));
    }
    let one = json!({ "cors": { "allowOrigins": ["https://a"] } });
    parse(&one).unwrap().1.add_to(&mut reply, Some(b"https://a"));
    let all = |name: &str| -> Vec<&str> {
        reply.headers.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str()).collect()
    };
    assert_eq!(
        (all("vary"), all("access-control-allow-origin")),
        (vec!["accept, origin"], vec!["https://a"])
    );
}

#[test]
fn headers_of_the_users_take_the_place_of_others() {
    let raw = json!({ "addHeaders": { "cache-control": "no-store", "x-code": "b" } });
    assert_eq!(headers(&raw, None), ["cache-control: no-store", "x-code: b"]);
    assert_eq!(headers(&json!({}), None), ["x-code: a"]);
}

#[test]
fn what_is_wrong_is_named_with_its_path() {
    for (raw, expected) in [
        (
            json!({ "body": "txt" }),
            "body: expected one of `problem+json`, `text`, `none`, found `txt`; did you mean `text`?; or `{ contentType, template }`",
        ),
        (
            json!({ "body": { "contentType": "a\"b", "template": "" } }),
            "response.body.contentType: expected a media",
        ),
        (json!({ "cors": {} }), "cors: missing field `allowOrigins`"),
        (
            json!({ "cors": { "allowOrigins": [] } }),
            "cors.allowOrigins: is empty; expected at least one entry",
        ),
        (
            json!({ "cors": { "allowOrigins": ["*", "https://a"] } }),
            "response.cors.allowOrigins: has `*` and others",
        ),
        (
            json!({ "cors": { "allowOrigins": ["*"], "allowCredentials": true } }),
            "response.cors.allowCredentials: any page could",
        ),
        (
            json!({ "cors": { "allowOrigins": ["https://a", "https://*.com"], "allowCredentials": true } }),
            "response.cors.allowOrigins[1]: any page below a domain that is everybody's",
        ),
        (
            json!({ "cors": { "allowOrigins": ["https://*.com:8443"], "allowCredentials": true } }),
            "response.cors.allowOrigins[0]: any page below a domain that is everybody's",
        ),
        (
            json!({ "cors": { "allowOrigins": ["null"] } }),
            "allowOrigins[0]: any page can be the origin `null`",
        ),
        (json!({ "cors": { "allowOrigins": ["https://A"] } }), "is not an origin, which is in lower case"),
        (json!({ "cors": { "allowOrigins": ["https://a:443"] } }), "browsers leave out the port"),
        (json!({ "addHeaders": { "X-A": "b" } }), "response.addHeaders.X-A: is not a header name"),
        (json!({ "addHeaders": { "vary": "b" } }), "response.addHeaders.vary: `vary` is set by"),
        (json!({ "addHeaders": { "grpc-status": "0" } }), "`grpc-status` is set by"),
        (json!({ "addHeaders": { "access-control-allow-origin": "*" } }), "is one of `cors`"),
        (
            json!({ "addHeaders": { "x-a": "b\r\nx: y" } }),
            "response.addHeaders.x-a: expected printable ASCII",
        ),
        (json!({ "addHeaders": { "x-a": " b" } }), "response.addHeaders.x-a: expected printable ASCII"),
    ] {
        let error = parse(&raw).unwrap_err();
        assert!(error.contains(expected), "{raw}: {error}");
    }
    for origin in [
        "app.example",
        "https://",
        "https://a/",
        "https://a b",
        "https://*",
        "https://a.*.b",
        "https://a:x",
        "://a",
    ] {
        let raw = json!({ "cors": { "allowOrigins": [origin] } });
        assert!(parse(&raw).unwrap_err().contains("is not an origin"), "{origin}");
    }
    for origin in ["http://localhost:3000", "https://[::1]", "https://[::1]:8443", "capacitor://localhost"] {
        assert!(parse(&json!({ "cors": { "allowOrigins": [origin] } })).is_ok(), "{origin}");
    }
}

#[test]
fn a_template_is_filled_once() {
    let body = |template: &str, title: &str| {
        let (kind, request_id) = ("about:blank", Some("r"));
        let problem =
            Problem { kind, title, status: 401, detail: None, code: "c", request_id, violated_policies: &[] };
        let template = Template { content_type: "a/b".to_owned(), template: template.to_owned() };
        let body = Body::Template(template);
        let (media_type, body) = body.of(&problem, "text/plain", &[("limit", "l")]).unwrap();
        assert_eq!(media_type, "a/b");
        String::from_utf8(body).unwrap()
    };
    assert_eq!(
        body(r#"{"a":"{code}","b":{status},"c":"{title} {requestId} {limit}"}"#, "t"),
        r#"{"a":"c","b":401,"c":"t r l"}"#
    );
    assert_eq!(body("{title}{", "{code}"), "{code}{");
    assert_eq!(body("{other} {co{code}", ""), "{other} {coc");
}

#[test]
fn only_a_harmless_request_id_is_repeated() {
    assert_eq!(printable_id(b"a-Z_0.9:"), Some("a-Z_0.9:"));
    for wrong in [&b""[..], b"a b", b"a\"", b"{code}", b"<", b"\xff", &[b'a'; 129]] {
        assert_eq!(printable_id(wrong), None, "{wrong:?}");
    }
}

proptest! {
    /// Whatever a client sends as its origin: what it gets back is an origin that was configured, or below one.
    #[test]
    fn no_origin_is_repeated_that_was_not_allowed(origin in "(https?://)?[a.:/@*x-]{0,12}(\\.example|/|:1)?") {
        let raw = json!({ "cors": { "allowOrigins": ["https://a.example", "https://*.x.example"] } });
        let lines = headers(&raw, Some(&origin));
        let allowed = lines.iter().any(|line| line.starts_with("access-control-allow-origin"));
        let host = origin.strip_prefix("https://").unwrap_or_default();
        let below = host.strip_suffix(".x.example").is_some_and(|rest| !rest.is_empty() && !rest.contains(['/', ':', '@', '*']));
        prop_assert_eq!(allowed, origin == "https://a.example" || below);
    }

    #[test]
    fn any_template_is_filled(template in "[a{}code]{0,20}") {
        let _ = filled(&template, |name| (name == "code").then_some("{code}"));
    }
}
