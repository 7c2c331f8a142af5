//! Any bytes are a token or refused, and what was read is what was sent.
#![no_main]

use jwt_auth::token::UntrustedToken;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(token) = UntrustedToken::parse(bytes) {
        assert_eq!(token.compact.as_bytes(), bytes);
        let (signing_input, signature) = token.compact.rsplit_once('.').expect("three parts");
        assert_eq!(token.signing_input, signing_input);
        assert_eq!(signing_input.matches('.').count(), 1);
        assert!(!signature.contains('='));
        assert!(!token.algorithm.name().eq_ignore_ascii_case("none"));
    }
});
