//! Any bytes are a token or refused, and what was read is what was sent.
#![no_main]

use jwt_auth::token::compact::UntrustedToken;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(token) = UntrustedToken::parse(bytes) {
        let text = std::str::from_utf8(bytes).expect("base64url and dots");
        let (signing_input, signature) = text.rsplit_once('.').expect("three parts");
        assert_eq!(token.signing_input, signing_input);
        assert_eq!(signing_input.matches('.').count(), 1);
        assert!(!signature.contains('='));
        assert!(!token.algorithm.name().eq_ignore_ascii_case("none"));
    }
});
