//! The core in wasm32 as in native code: a pluginConfig is taken apart.
#![allow(clippy::restriction)]

use mesh_filters::config::{Parts, part};
use plugin_kit::config::Diagnostic;
use serde_json::json;

#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn errors_of_all_parts_are_told_under_their_keys() {
    let parts = Parts::parse(&json!({ "jwtAuth": { "a": 1 }, "rateLimit": [] })).unwrap();
    let refuse = |path: &str| Diagnostic::invalid(path, "wrong".to_owned()).into();
    let mut errors = None;
    assert_eq!(part("traceTags", parts.trace_tags.as_ref(), &mut errors, |_| Ok(())), None);
    assert!(errors.is_none());
    part::<()>("jwtAuth", parts.jwt_auth.as_ref(), &mut errors, |document| {
        assert_eq!(*document, json!({ "a": 1 }));
        Err(refuse("a"))
    });
    part::<()>("rateLimit", parts.rate_limit.as_ref(), &mut errors, |_| Err(refuse("[0]")));
    assert_eq!(errors.unwrap().to_string(), "jwtAuth.a: wrong; rateLimit[0]: wrong");
}
