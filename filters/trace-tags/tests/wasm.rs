//! The core in wasm32 as in native code: one request from its head to its response.
#![allow(clippy::restriction)]

use plugin_kit::request::exchange::Exchange;
use plugin_kit::testing::FakeHost;
use trace_tags::config::Config;
use trace_tags::decision::{Core, Effects, Stream};
use trace_tags::tags::tag::Phase;

#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn core(json: &str) -> Core {
    let env = |name: &str| (name == "PSEUDONYM_KEY").then(|| "0123456789abcdef".to_owned());
    Core::new(Config::parse(json.as_bytes(), &env, Phase::Request).unwrap())
}

fn shown(effects: &Effects<'_>) -> Vec<String> {
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
    effects.tags.iter().map(|(key, value)| format!("{key}={}", text(value))).collect()
}

#[test]
fn default_tags_are_written() {
    let core = core("{}");
    let mut stream = Stream::default();
    let facts = FakeHost::request("GET", "/")
        .header("x-request-id", "an id")
        .property("xds.node.metadata.LABELS.version", "v1");
    let request = core.on_request(&mut stream, &Exchange::new(1, &facts), || Ok(0));
    let id = "00000000-0000-9000-8000-000000000000";
    assert_eq!(shown(&request), [format!("tag.request.id={id}"), "tag.service.version=v1".to_owned()]);
    let facts = facts.property("jwt.sub", "alice");
    let response = core.on_response(&mut stream, &Exchange::new(1, &facts), Some(200));
    assert_eq!(shown(&response), ["tag.enduser.pseudo.id=_b-LHKzT1XjgYtDkEQQ1fQ"]);
}

#[test]
fn text_of_any_script_is_cut_and_cleaned() {
    let core = core(r#"{"tags":[{"name":"a","from":[{"queryParam":"q","trust":true}],"maxLength":6}]}"#);
    let facts = FakeHost::request("GET", "/?q=%e6%9d%b1%e4%ba%ac%22%0a%ffabc");
    let effects = core.on_request(&mut Stream::default(), &Exchange::new(1, &facts), || Ok(0));
    assert_eq!(shown(&effects), ["tag.a=東京___a"]);
}
