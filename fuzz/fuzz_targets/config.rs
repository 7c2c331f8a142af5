//! Any bytes are a configuration of each filter or refused with a path.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let env = |name: &str| Some(name.repeat(8));
    let refused = [
        jwt_auth::config::Config::parse(bytes, &env).err(),
        rate_limit::config::Config::parse(bytes, &env).err(),
        trace_tags::config::Config::parse(bytes, &env, trace_tags::tags::tag::Phase::Request).err(),
    ];
    for errors in refused.into_iter().flatten() {
        for error in errors.iter() {
            assert!(!error.path.is_empty() && !error.message.is_empty());
        }
    }
});
