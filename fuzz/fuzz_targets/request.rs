//! Any headers, a line each: nobody gets past a rule without a signature, a client's copies of the filter's own headers do not
//! go on, limits keep no more than their places, and what is shown is text.
#![no_main]

use std::cell::RefCell;
use std::time::Duration;

use jwt_auth::decision::{Authenticator, Outcome, Waited, Why};
use jwt_auth::keys::key::Key;
use jwt_auth::keys::signature::{Verdict, Verifier};
use jwt_auth::token::compact::UntrustedToken;
use libfuzzer_sys::fuzz_target;
use plugin_kit::host::Variable;
use plugin_kit::request::exchange::{Exchange};
use plugin_kit::host::{RequestHost, HostError};
use plugin_kit::request::headers::HeaderMap;
use plugin_kit::testing::Node;
use rate_limit::decision::{Limits, Stage};
use rate_limit::testing::MemoryStore;
use trace_tags::tags::tag::Phase;
use trace_tags::decision::{Change, Core, Stream};

/// Everyone may look at `/open`; for the rest a token is asked for.
const JWT_AUTH: &str = concat!(
    r#"{"providers":{"platform":{"issuer":"https://issuer.test/","algorithms":["RS256","ES256","EdDSA"],"jwks":"#,
    include_str!("../../testdata/keys/jwks.json"),
    r#","from":[{"header":"authorization","prefix":"Bearer "},{"queryParam":"t"},{"cookie":"t"}],
    "outputClaimToHeaders":[{"claim":"sub","header":"x-user-id"}],"outputPayloadToHeader":"x-payload"}},
    "rules":[{"match":{"paths":["/open","/open/*"]},"allow":"anyone"},{"require":{"provider":"platform"}}],
    "corsPreflight":"check"}"#
);
const OWN: [&[u8]; 2] = [b"x-user-id", b"x-payload"];

const RATE_LIMIT: &str = r#"{"limits":[
    {"name":"a","rate":{"requests":3,"per":"1h"},"key":[{"header":"x-tenant"},{"cookie":"c"}],"before":"auth","maxKeys":64},
    {"name":"b","rate":{"requests":9,"per":"1m"},"key":[{"sourceAddress":{"trustForwardedFrom":["mesh/ns/edge/sa/edge"],"numTrustedProxies":1}}],
     "maxKeys":64,"match":{"paths":["/learn/{*}","/s/*"],"methods":["GET"],"headers":{"x-a":{"anyOf":["bc"]}}}},
    {"name":"c","rate":{"requests":100,"per":"1s"},"costFrom":{"queryParam":"n","trust":true},"key":[{"pathTemplate":["/a/{*}","/b/{**}"]}],
     "maxKeys":64,"mode":"report"}
]}"#;
/// Sets of eight keys in three tables, the hash key and the tables' own descriptions.
const MOST_VALUES: usize = 3 * 8 + 8;

const TRACE_TAGS: &str = r#"{"tags":[
    {"name":"tenant","from":[{"header":"x-tenant","trust":true},{"cookie":"c","trust":true},{"queryParam":"n","trust":true}],"maxLength":40},
    {"name":"member","from":[{"baggage":"m","trust":true}],"characters":"token"},
    {"name":"client","from":[{"sourceAddress":{"trustForwardedFrom":["mesh/ns/edge/sa/edge"]}}],"raw":true},
    {"name":"route","from":[{"pathTemplate":["/a/{*}","/b/{**}"],"trust":true},{"path":{},"trust":true},{"method":{},"trust":true}]}
],"requestId":{},"baggage":{"keep":["m"],"send":["tenant","route"]}}"#;

struct Sent(HeaderMap);

impl RequestHost for Sent {
    fn headers(&self) -> Result<HeaderMap, HostError> {
        Ok(HeaderMap::from_pairs(&self.0))
    }

    fn header_first(&self, name: &str) -> Result<Option<Vec<u8>>, HostError> {
        Ok(self.0.first(name).map(<[u8]>::to_vec))
    }

    fn header_joined(&self, name: &str) -> Result<Option<Vec<u8>>, HostError> {
        Ok(self.0.joined(name))
    }

    fn property(&self, path: &[&str]) -> Result<Option<Vec<u8>>, HostError> {
        Ok(match path {
            ["connection", "uri_san_peer_certificate"] => Some(b"spiffe://mesh/ns/edge/sa/edge".to_vec()),
            ["source", "address"] => Some(b"10.0.0.7:4711".to_vec()),
            _ => None,
        })
    }

    fn evaluate(&self, _: u32, _: Option<Variable<'_>>) -> Result<Option<Vec<u8>>, HostError> {
        Ok(None)
    }

    fn unix_time(&self) -> Result<Duration, HostError> {
        Ok(Duration::from_secs(1_800_000_000))
    }

    fn monotonic_time(&self) -> Result<Duration, HostError> {
        Ok(Duration::from_secs(1_000))
    }
}

/// Nobody can sign here.
struct Nobody;

impl Verifier for Nobody {
    fn verify(&self, _: &Key, _: &UntrustedToken<'_>) -> Verdict {
        Verdict::Invalid
    }
}

struct Filters {
    authenticator: Authenticator,
    limits: Limits,
    store: MemoryStore,
    tags: Core,
}

thread_local! {
    static FILTERS: Filters = {
        let env = Node::SIDECAR;
        let config = jwt_auth::config::Config::parse(JWT_AUTH.as_bytes(), &env).expect("jwt-auth");
        let store = MemoryStore::default();
        let limits = rate_limit::config::Config::parse(RATE_LIMIT.as_bytes(), &env).expect("rate-limit");
        let tags = trace_tags::config::Config::parse(TRACE_TAGS.as_bytes(), &env, Phase::Request).expect("trace-tags");
        Filters {
            authenticator: Authenticator::new(config, Box::new(Nobody), 7),
            limits: Limits::new(limits, &store, b"", || Ok([7; 16])).expect("limits"),
            store,
            tags: Core::new(tags),
        }
    };
}

/// `GET /path`, then headers as HTTP/1.1 has them. Names are in lower case, as the proxy gives them.
fn sent(bytes: &[u8]) -> Sent {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let (method, target) = split(first, b' ').unwrap_or((b"GET", first));
    let mut pairs = vec![(b":method".to_vec(), method.to_vec()), (b":path".to_vec(), target.to_vec())];
    for line in lines {
        if let Some((name, value)) = split(line, b':') {
            pairs.push((name.to_ascii_lowercase(), value.trim_ascii().to_vec()));
        }
    }
    Sent(HeaderMap::from_pairs(pairs))
}

fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let position = text.iter().position(|byte| *byte == at)?;
    Some((&text[..position], &text[position + 1..]))
}

/// Whether a server that decodes the path once finds it under `/open`, and nothing in it that leads elsewhere.
fn is_open(target: &[u8]) -> bool {
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let mut decoded = Vec::new();
    let mut rest = path;
    while let [byte, after @ ..] = rest {
        let hex = after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match hex.filter(|_| *byte == b'%') {
            Some(value) => {
                decoded.push(value);
                rest = &after[2..];
            }
            None => {
                decoded.push(*byte);
                rest = after;
            }
        }
    }
    let mut segments = decoded.split(|byte| *byte == b'/');
    segments.next() == Some(b"")
        && segments.next() == Some(b"open")
        && segments.all(|segment| ![&b"."[..], b".."].contains(&segment))
}

fuzz_target!(|bytes: &[u8]| {
    FILTERS.with(|filters| {
        let sent = sent(bytes);

        let exchange = Exchange::new(1, &sent);
        let removed = RefCell::new(Vec::new());
        let remove = |name: &str| {
            removed.borrow_mut().push(name.as_bytes().to_vec());
            Ok(())
        };
        let decision = filters.authenticator.decide(&exchange, &mut Waited::default(), &remove);
        let decision = decision.expect("the request is there");
        match decision.outcome {
            Outcome::Allow(pass) => {
                assert_eq!(pass.why, Why::Anyone);
                assert!(pass.identity.is_none());
                assert!(is_open(sent.0.path()), "{:?}", String::from_utf8_lossy(sent.0.path()));
            }
            Outcome::Deny(_) => {}
            Outcome::Wait { .. } => panic!("all keys are there"),
        }
        let removed = removed.into_inner();
        for (name, _) in sent.0.iter() {
            let folded: Vec<u8> = name.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }).collect();
            assert!(!OWN.contains(&&*folded) || removed.iter().any(|removed| removed == name));
        }

        for stage in [Stage::BeforeAuth, Stage::AfterAuth] {
            filters.limits.decide(&filters.store, &Exchange::new(1, &sent), stage);
        }
        assert!(filters.store.len() <= MOST_VALUES, "{}", filters.store.len());

        let mut stream = Stream::default();
        let exchange = Exchange::new(1, &sent);
        let mut effects = filters.tags.on_request(&mut stream, &exchange, || Ok(7));
        filters.tags.on_pass(&stream, &exchange, &mut effects);
        for (_, value) in &effects.tags {
            let text = std::str::from_utf8(value).expect("a tag is text");
            assert!(text.chars().count() <= 1024 && !text.chars().any(|c| c.is_control() || c == '"'));
        }
        if let Change::Set(baggage) = &effects.baggage {
            assert!(baggage.len() <= 8192 && baggage.bytes().all(|byte| byte.is_ascii_graphic()));
        }
        if let Some(id) = effects.request_header {
            assert!(id.as_bytes().is_ascii() && (1..=128).contains(&id.as_bytes().len()));
        }
    });
});
