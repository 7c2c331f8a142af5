use plugin_kit::testing::FakeHost;

use super::*;

const ID: &str = "0b8a2a3e-0000-4000-8000-000000000000";

fn core(json: &str) -> Core {
    let env = |name: &str| (name == "PSEUDONYM_KEY").then(|| "0123456789abcdef".to_owned());
    Core::new(Config::parse(json.as_bytes(), &env, Phase::Claims).unwrap())
}

fn shown(effects: &Effects<'_>) -> Vec<String> {
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
    effects.tags.iter().map(|(key, value)| format!("{key}={}", text(value))).collect()
}

fn request() -> FakeHost {
    FakeHost::request("GET", "/learn")
        .header("x-request-id", ID)
        .property("xds.node.metadata.LABELS.version", "v1")
}

const PSEUDONYM_OF_ALICE: &str = "tag.enduser.pseudo.id=_b-LHKzT1XjgYtDkEQQ1fQ";

#[test]
fn tag_is_written_when_its_last_source_is_known() {
    let core = core("{}");
    let mut stream = Stream::default();
    let host = request();
    let exchange = Exchange::new(1, &host);
    let effects = core.on_request(&mut stream, &exchange, || Ok(0));
    assert_eq!(shown(&effects), [format!("tag.request.id={ID}"), "tag.service.version=v1".to_owned()]);
    assert_eq!((effects.request_header, effects.origin), (None, Some(Origin::Kept)));

    let host = request().property("jwt.sub", "alice");
    let effects = core.on_response(&mut stream, &Exchange::new(1, &host), None);
    assert_eq!(shown(&effects), [PSEUDONYM_OF_ALICE]);
    assert_eq!(core.on_end(&mut stream, &Exchange::new(1, &host)), Effects::default());
}

#[test]
fn claims_published_in_time_settle_a_tag_before_the_response() {
    let core = core("{}");
    let mut stream = Stream::default();
    let host = request();
    let exchange = Exchange::new(1, &host);
    core.on_request(&mut stream, &exchange, || Ok(0));
    exchange.note_published("jwt.sub", *b"alice");
    assert_eq!(shown(&core.on_claims(&mut stream, &exchange)), [PSEUDONYM_OF_ALICE]);
    assert_eq!(core.on_response(&mut stream, &exchange, None), Effects::default());
}

#[test]
fn first_source_with_a_value_gives_the_tag_even_if_it_is_known_later() {
    let core = core(
        r#"{"tags":[
            {"name":"a","from":[{"claim":"org"},{"header":"x-org","trust":true},{"literal":"none"}]},
            {"name":"b","from":[{"header":"x-org","trust":true},{"claim":"org"}]},
            {"name":"c","from":[{"filterState":"wasm.jwt.deny_code"},{"claim":"org"}]}
        ]}"#,
    );
    let at_once = |host: &FakeHost, stream: &mut Stream| {
        let exchange = Exchange::new(1, host);
        let effects = shown(&core.on_request(stream, &exchange, || Ok(0)));
        let mut known = Effects::default();
        core.known_so_far(stream, &mut known);
        (effects, shown(&known))
    };
    let later = |host: &FakeHost, stream: &mut Stream| {
        let exchange = Exchange::new(1, host);
        (shown(&core.on_claims(stream, &exchange)), core.on_response(stream, &exchange, None))
    };
    let mut stream = Stream::default();
    let host = request().header("x-org", "from-header");
    let (written, known) = at_once(&host, &mut stream);
    assert_eq!((written, known), (vec!["tag.b=from-header".into()], vec!["tag.a=from-header".into()]));
    let (claims, response) = later(&host.property("jwt.org", "from-claim"), &mut stream);
    assert_eq!(claims, ["tag.a=from-claim"]);
    assert_eq!(shown(&response), ["tag.c=from-claim"]);

    let mut stream = Stream::default();
    let (written, known) = at_once(&request(), &mut stream);
    assert_eq!((written, known), (vec![], vec!["tag.a=none".into()]));
    let (claims, response) = later(&request(), &mut stream);
    assert_eq!(claims, ["tag.a=none"]);
    assert_eq!((shown(&response), response.missing), (vec![], 1));
}

#[test]
fn request_id_is_generated_replaced_and_echoed() {
    let core = core(r#"{"requestId":{"echo":true},"tags":[{"name":"id","from":[{"requestId":{}}]}]}"#);
    let text = |id: &RequestId| String::from_utf8_lossy(id.as_bytes()).into_owned();
    let run = |host: &FakeHost| {
        let mut stream = Stream::default();
        let exchange = Exchange::new(1, host);
        let effects = core.on_request(&mut stream, &exchange, || Ok(0));
        let tag = shown(&effects);
        let response = core.on_response(&mut stream, &exchange, None).response_header.unwrap();
        assert_eq!(tag, [format!("tag.id={}", text(&response))]);
        (effects.origin.unwrap(), effects.request_header.map(|id| text(&id)))
    };
    let zero = "00000000-0000-9000-8000-000000000000".to_owned();
    assert_eq!(run(&request()), (Origin::Kept, None));
    assert_eq!(run(&FakeHost::request("GET", "/")), (Origin::Generated, Some(zero.clone())));
    let twice = request().header("x-request-id", "other");
    assert_eq!(run(&twice), (Origin::Replaced, Some(zero)));
}

#[test]
fn tag_with_status_from_waits_for_the_response() {
    let core = core(
        r#"{"tags":[{"name":"path","from":[{"path":{},"trust":true}],"when":{"statusFrom":400}},
            {"name":"some","from":[{"method":{},"trust":true}],"when":{"percentage":0}},
            {"name":"all","from":[{"method":{},"trust":true}],"when":{"percentage":100}}]}"#,
    );
    assert!(core.reads_status());
    let run = |status: Option<u16>| {
        let mut stream = Stream::default();
        let host = request();
        let exchange = Exchange::new(1, &host);
        let mut early = core.on_request(&mut stream, &exchange, || Ok(0));
        core.known_so_far(&stream, &mut early);
        assert_eq!(shown(&early), ["tag.all=GET"]);
        let effects = core.on_response(&mut stream, &exchange, status);
        (shown(&effects).concat(), effects.missing)
    };
    assert_eq!(run(Some(200)), (String::new(), 0));
    assert_eq!(run(Some(503)), ("tag.path=/learn".to_owned(), 0));
    assert_eq!(run(None), ("tag.path=/learn".to_owned(), 0));
}

#[test]
fn stream_is_kept_while_a_tag_or_the_echo_is_pending() {
    let kept = |json: &str, ended: bool| {
        let core = core(json);
        let (mut stream, host) = (Stream::default(), request());
        let exchange = Exchange::new(1, &host);
        core.on_request(&mut stream, &exchange, || Ok(0));
        let before = core.keeps(&stream);
        let end = if ended { shown(&core.on_end(&mut stream, &exchange)) } else { Vec::new() };
        (before, core.keeps(&stream), end)
    };
    let at_once = r#"{"tags":[{"name":"m","from":[{"method":{},"trust":true}]}]}"#;
    assert_eq!(kept(at_once, false), (false, false, vec![]));
    let for_errors =
        r#"{"tags":[{"name":"m","from":[{"method":{},"trust":true}],"when":{"statusFrom":400}}]}"#;
    assert!(!core(at_once).reads_status());
    assert_eq!(kept(for_errors, false), (true, true, vec![]));
    assert_eq!(kept(for_errors, true), (true, false, vec!["tag.m=GET".into()]));
    let echo = r#"{"requestId":{"echo":true},"tags":[{"name":"m","from":[{"method":{},"trust":true}]}]}"#;
    assert_eq!(kept(echo, false), (true, true, vec![]));
}

#[test]
fn headers_are_read_only_if_a_tag_or_the_request_id_needs_them() {
    let reads = |json: &str| core(json).reads_headers();
    assert!(reads(r#"{"tags":[{"name":"a","from":[{"requestId":{}}]}]}"#));
    assert!(reads(r#"{"tags":[{"name":"a","from":[{"header":"a","trust":true}]}]}"#));
    assert!(!reads(r#"{"tags":[{"name":"a","from":[{"claim":"org"}]}]}"#));
}

#[test]
fn baggage_has_only_kept_members_and_sent_tags() {
    let core = core(
        r#"{"tags":[{"name":"enduser.pseudo.id","from":[{"claim":"sub"}],"pseudonym":{}}],
            "baggage":{"keep":["tenant"],"send":["enduser.pseudo.id"]}}"#,
    );
    let run = |host: &FakeHost, sub: &str| {
        let mut stream = Stream::default();
        let exchange = Exchange::new(1, host);
        core.on_request(&mut stream, &exchange, || Ok(0));
        exchange.note_published("jwt.sub", sub.as_bytes());
        let mut effects = core.on_claims(&mut stream, &exchange);
        core.on_pass(&stream, &exchange, &mut effects);
        effects.baggage
    };
    let alice = "enduser.pseudo.id=_b-LHKzT1XjgYtDkEQQ1fQ";
    assert_eq!(run(&request(), "alice"), Change::Set(alice.to_owned()));
    assert_eq!(run(&request(), ""), Change::None);
    let brought = request().header("baggage", "tenant=a, enduser.pseudo.id=mallory").header("baggage", "x=y");
    assert_eq!(run(&brought, "alice"), Change::Set(format!("{alice},tenant=a")));
    assert_eq!(run(&request().header("baggage", "x=y"), ""), Change::Remove);
    assert_eq!(run(&request().header("baggage", "tenant=a"), ""), Change::None);
}

#[test]
fn second_on_request_of_a_stream_does_nothing() {
    let core = core("{}");
    let mut stream = Stream::default();
    let host = FakeHost::request("GET", "/");
    let exchange = Exchange::new(1, &host);
    assert!(core.on_request(&mut stream, &exchange, || Ok(0)).request_header.is_some());
    assert_eq!(core.on_request(&mut stream, &exchange, || Ok(1)), Effects::default());
}

#[test]
fn failed_random_number_request_gets_no_id_and_goes_on() {
    let failure = HostError { call: "random_get", status: 29 };
    let core = core("{}");
    let (mut stream, host) = (Stream::default(), FakeHost::request("GET", "/"));
    let effects = core.on_request(&mut stream, &Exchange::new(1, &host), || Err(failure));
    assert_eq!((effects.request_header, effects.origin), (None, None));
    assert_eq!(effects.failures, [failure]);
}

#[test]
fn failed_host_call_tags_are_missing_and_the_request_goes_on() {
    let failure = HostError { call: "get_property", status: 10 };
    let core = core("{}");
    let mut stream = Stream::default();
    let host = FakeHost { failure: Some(failure), ..request() };
    let exchange = Exchange::new(1, &host);
    let request = core.on_request(&mut stream, &exchange, || Ok(0));
    let response = core.on_response(&mut stream, &exchange, None);
    assert_eq!((request.tags.len(), response.tags.len()), (0, 0));
    assert_eq!((request.missing, response.missing), (2, 1));
    assert!(request.failures.contains(&failure) && response.failures.contains(&failure));
}
