//! What is configured: each version's settings follow from the seed, so the model knows them without asking
//! anybody.

use std::time::Duration;

use cases::public_keys;
use serde_json::{Value, json};

use crate::random::Random;

/// How many users there are.
pub const USERS: usize = 40;
/// The first of the users that the rate limit service finds over their limit.
pub const FIRST_CAPPED: usize = 36;
/// The users of the clients that come back when `Retry-After` says so; no other client uses them.
pub const PATIENT: std::ops::Range<usize> = 30..34;

/// How long fetched keys are used, and how often the list of revoked subjects is fetched.
pub const REFRESH: Duration = Duration::from_secs(3);
/// How long old keys and lists are used while no new ones come.
pub const STALE: Duration = Duration::from_secs(4);
/// The least time between two fetches that unknown key IDs cause.
pub const UNKNOWN_KID: Duration = Duration::from_secs(1);
/// How long a fetch may take.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
/// How far the clocks may differ.
pub const CLOCK_SKEW: Duration = Duration::from_secs(1);

/// The limit of each user on `/api`: so many at once.
pub const BURST: u64 = 10;
/// One more of [`BURST`] each.
pub const INTERVAL: Duration = Duration::from_millis(500);
/// The name of a user: `sub` of the user's tokens.
pub fn user_name(user: usize) -> String {
    if user >= FIRST_CAPPED { format!("capped-{user:02}") } else { format!("user-{user:02}") }
}

/// Who signs a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Issuer {
    /// Its keys are in the configuration, others in each version.
    Inline,
    /// Its keys are fetched, and change while the soak runs.
    Remote,
    /// Its keys stay; whom it has revoked is fetched, and changes.
    Listed,
}

impl Issuer {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Inline, Self::Remote, Self::Listed];

    /// `iss` of its tokens.
    pub fn url(self) -> &'static str {
        match self {
            Self::Inline => "https://inline.test/",
            Self::Remote => "https://remote.test/",
            Self::Listed => "https://listed.test/",
        }
    }
}

/// How the filters stand in the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Three plugins.
    Three,
    /// One plugin that is all three.
    Joined,
    /// The native module, as one filter that is all three.
    Native,
}

impl Form {
    /// Every form.
    pub const ALL: [Self; 3] = [Self::Joined, Self::Three, Self::Native];

    /// Its name as `FORM` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Three => "three",
            Self::Joined => "joined",
            Self::Native => "native",
        }
    }

    /// Whether one filter is all three, so that one version of the configuration decides about a request.
    pub fn is_one_filter(self) -> bool {
        self != Self::Three
    }
}

/// What is wrong on purpose: the proxy is told something else than the model believes, so that the judge has
/// something to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A key that a version has dropped is still taken.
    StaleKey,
    /// A key that the issuer has withdrawn is used for an hour more.
    StaleFetchedKey,
    /// An expired token is taken.
    Expired,
    /// A token for somebody else is taken.
    Audience,
    /// A revoked subject is let in.
    Revoked,
    /// A claim that a rule asks for is not looked at.
    Claim,
    /// A closed path is open.
    ClosedPath,
    /// A client's copy of the identity header reaches the service.
    NotStripped,
    /// The service gets the token.
    TokenForwarded,
    /// Each worker counts for itself.
    CountedApart,
    /// A request is charged twice.
    ChargedTwice,
    /// What the rate limit service says is not heard.
    ServiceIgnored,
    /// A span names whom the client says it is.
    SpanBelieves,
    /// A client is told to come back later than it must.
    LongRetry,
    /// The service behind the proxy swallows some requests.
    Swallowed,
    /// An update of the configuration reaches the proxy late.
    OldVersion,
    /// A web socket needs no token.
    SocketsOpen,
    /// The service behind the proxy swallows some frames of web sockets.
    FramesLost,
    /// The service behind the proxy gets no trailers.
    TrailersLost,
    /// The cluster of the rate limit service is gone, and the model does not know.
    ClusterLost,
    /// The cluster of the rate limit service is gone, and everything passes.
    OutagePasses,
}

impl Fault {
    /// All of them, with their names and the finding that each must end in.
    pub const ALL: [(Self, &'static str, &'static str); 21] = [
        (Self::StaleKey, "stale-key", "wrong accepts"),
        (Self::StaleFetchedKey, "stale-fetched-key", "wrong accepts"),
        (Self::Expired, "expired", "wrong accepts"),
        (Self::Audience, "audience", "wrong accepts"),
        (Self::Revoked, "revoked", "wrong accepts"),
        (Self::Claim, "claim", "wrong accepts"),
        (Self::ClosedPath, "closed-path", "wrong accepts"),
        (Self::NotStripped, "not-stripped", "wrong identities"),
        (Self::TokenForwarded, "token-forwarded", "tokens forwarded"),
        (Self::CountedApart, "counted-apart", "over-admissions"),
        (Self::ChargedTwice, "charged-twice", "wrong refusals"),
        (Self::ServiceIgnored, "service-ignored", "wrong accepts"),
        (Self::SpanBelieves, "span-believes", "wrong spans"),
        (Self::LongRetry, "long-retry", "wrong Retry-After"),
        (Self::Swallowed, "swallowed", "lost requests"),
        (Self::OldVersion, "old-version", "old versions"),
        (Self::SocketsOpen, "sockets-open", "wrong accepts"),
        (Self::FramesLost, "frames-lost", "lost requests"),
        (Self::TrailersLost, "trailers-lost", "wrong answers"),
        (Self::ClusterLost, "cluster-lost", "wrong refusals"),
        (Self::OutagePasses, "outage-passes", "wrong accepts"),
    ];

    /// The fault of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known, _)| *known == name).map(|(fault, ..)| *fault)
    }
}

/// What a version of the configuration says that others do not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The number of the version, which its headers and its tag name.
    pub version: u32,
    /// The keys of [`Issuer::Inline`].
    pub keys: &'static [&'static str],
    /// The role that `/admin` asks for.
    pub role: &'static str,
    /// Users that are revoked.
    pub banned: Vec<usize>,
    /// Whether `/gate` lets anybody through.
    pub gate_open: bool,
    /// Whether requests pass while the rate limit service does not answer.
    pub lenient: bool,
    /// How often the servers around the proxy have got other clusters. Each time they are new ones: a filter
    /// asks those that it knew no sooner again than it would have without a new configuration.
    pub era: u32,
}

/// Every version has the last of them: patient clients and wrong tokens use it.
const KEY_SETS: [&[&str]; 3] = [&["rsa-1", "ec-1"], &["rsa-2", "ec-1"], &["rsa-1", "rsa-2", "ec-1"]];
/// The key that is in all sets.
pub const STEADY_KEY: &str = "ec-1";
/// The keys that sign.
pub const KEYS: [&str; 3] = ["rsa-1", "rsa-2", "ec-1"];
/// The roles that a token can show.
pub const ROLES: [&str; 2] = ["admin", "operator"];

/// Once in so many versions the servers get other clusters.
const ERA: u32 = 12;
/// The first version that has other clusters than the one before.
const FIRST_MOVE: u32 = 4;

/// Where a token may be, besides the header `authorization`.
pub const COOKIE: &str = "session";
/// Where in the query.
pub const QUERY: &str = "access_token";
/// What stands before a token among the protocols of a web socket.
pub const PROTOCOL: &str = "bearer.";

impl Settings {
    /// Those of a version.
    pub fn of(seed: u64, version: u32) -> Self {
        let mut random = Random::of(seed, 0x5e77 + u64::from(version));
        Self {
            version,
            keys: random.pick(&KEY_SETS),
            role: random.pick(&ROLES),
            banned: (0..3).map(|_| random.below(PATIENT.start)).collect(),
            gate_open: random.chance(50),
            lenient: random.chance(50),
            era: (version + ERA - FIRST_MOVE) / ERA,
        }
    }

    /// The cluster of a server around the proxy.
    pub fn cluster(&self, server: &str) -> String {
        format!("{server}-{}", self.era)
    }

    /// The header of the requests that this version lets in with a token. Its value is the issuer.
    pub fn pass_header(&self) -> String {
        format!("x-pass-v{}", self.version)
    }

    /// pluginConfig of jwt-auth.
    ///
    /// # Errors
    /// Where a key is missing in testdata/keys.
    pub fn jwt_auth(&self, fault: Option<Fault>) -> Result<Value, String> {
        let is = |wrong| fault == Some(wrong);
        let outputs = [("sub", "x-user-id".to_owned()), ("iss", self.pass_header())];
        let outputs = outputs.iter().filter(|(claim, _)| *claim == "iss" || !is(Fault::NotStripped));
        let outputs: Vec<_> =
            outputs.map(|(claim, header)| json!({ "claim": claim, "header": header })).collect();
        let seconds = |time: Duration| format!("{}s", time.as_secs());
        let provider = |issuer: Issuer, keys: Value| {
            let mut provider = json!({
                "issuer": issuer.url(),
                "outputClaimToHeaders": outputs,
                "from": [
                    { "header": "authorization", "prefix": "Bearer " },
                    { "header": "sec-websocket-protocol", "prefix": PROTOCOL },
                    { "cookie": COOKIE },
                    { "queryParam": QUERY },
                ],
                "clockSkew": if is(Fault::Expired) { "1h".to_owned() } else { seconds(CLOCK_SKEW) },
                "forwardOriginalToken": is(Fault::TokenForwarded),
            });
            if !is(Fault::Audience) {
                provider["audiences"] = json!(["soak"]);
            }
            if let (Some(provider), Value::Object(keys)) = (provider.as_object_mut(), keys) {
                provider.extend(keys);
            }
            provider
        };
        let banned: Vec<_> =
            self.banned.iter().filter(|_| !is(Fault::Revoked)).map(|user| user_name(*user)).collect();
        let keys = if is(Fault::StaleKey) { &KEYS[..] } else { self.keys };
        let [duration, stale, least] = [REFRESH, STALE, UNKNOWN_KID]
            .map(|time| if is(Fault::StaleFetchedKey) { "1h".to_owned() } else { seconds(time) });
        let admin = if is(Fault::Claim) {
            json!({ "provider": "inline" })
        } else {
            json!({ "provider": "inline", "claims": { "role": { "anyOf": [self.role] } } })
        };
        let closed = if is(Fault::ClosedPath) { "anyone" } else { "nobody" };
        let mut rules = vec![
            json!({ "name": "public", "match": { "paths": ["/public/*"] }, "allow": "anyone" }),
            json!({ "name": "closed", "match": { "paths": ["/closed/*"] }, "allow": closed }),
            json!({ "name": "admin", "match": { "paths": ["/admin/*"] }, "require": admin }),
        ];
        if is(Fault::SocketsOpen) {
            rules.push(json!({ "match": { "paths": ["/socket/*"] }, "allow": "anyone" }));
        }
        Ok(json!({
            "providers": {
                "inline": provider(Issuer::Inline, json!({
                    "jwks": public_keys(keys)?,
                    "revoked": { "sub": banned },
                })),
                "remote": provider(Issuer::Remote, json!({
                    "jwksUri": "http://issuer.test/keys",
                    "cluster": self.cluster("issuer"),
                    "jwksCache": {
                        "duration": duration,
                        "staleIfError": stale,
                        "timeout": seconds(FETCH_TIMEOUT),
                        "refetchUnknownKid": { "minInterval": least },
                    },
                })),
                "listed": provider(Issuer::Listed, json!({
                    "jwks": public_keys(&KEYS)?,
                    "revoked": {
                        "uri": "http://revoked.test/list",
                        "cluster": self.cluster("revoked"),
                        "refresh": seconds(REFRESH),
                        "timeout": seconds(FETCH_TIMEOUT),
                        "staleIfError": seconds(STALE),
                    },
                })),
            },
            "rules": rules,
            "denyResponse": { "codeHeader": format!("x-denied-v{}", self.version) },
            "maxWaitingRequests": 10_000,
        }))
    }

    /// pluginConfig of rate-limit.
    pub fn rate_limit(&self, fault: Option<Fault>) -> Value {
        let is = |wrong| fault == Some(wrong);
        let per_user = json!([{ "claim": "sub" }]);
        let mut limits = vec![
            json!({
                "name": "per-user",
                "match": { "paths": ["/api/*"] },
                "key": per_user,
                "rate": { "requests": 2, "per": "1s", "burst": BURST },
                "cost": if is(Fault::ChargedTwice) { 2 } else { 1 },
            }),
            json!({
                "name": "patient",
                "match": { "paths": ["/patient/*"] },
                "key": per_user,
                "rate": { "requests": 1, "per": if is(Fault::LongRetry) { "5s" } else { "2s" }, "burst": 2 },
            }),
        ];
        if !is(Fault::ServiceIgnored) {
            limits.push(json!({
                "name": "quota",
                "match": { "paths": ["/global/*"] },
                "key": per_user,
                "rate": { "requests": 1000, "per": "1s" },
                "global": { "entries": ["user"] },
            }));
        }
        if !self.gate_open {
            limits.push(json!({
                "name": self.gate(),
                "match": { "paths": ["/gate/*"] },
                "rate": { "requests": 0, "per": "1s", "burst": 0 },
            }));
        }
        let mut config = json!({ "limits": limits });
        if is(Fault::CountedApart) {
            config["scope"] = json!("worker");
        }
        if !is(Fault::ServiceIgnored) {
            config["global"] = json!({
                "domain": "soak",
                "cluster": self.cluster("limits"),
                "timeout": "2s",
                "onFailure": if is(Fault::OutagePasses) {
                    "allow"
                } else if self.lenient {
                    "local"
                } else {
                    "deny"
                },
            });
        }
        config
    }

    /// The limit that closes `/gate`.
    pub fn gate(&self) -> String {
        format!("gate-v{}", self.version)
    }

    /// pluginConfig of trace-tags.
    pub fn trace_tags(&self, fault: Option<Fault>) -> Value {
        let user = if fault == Some(Fault::SpanBelieves) {
            json!([{ "header": "x-claimed", "trust": true }, { "claim": "sub" }])
        } else {
            json!([{ "claim": "sub" }])
        };
        json!({
            "tags": [
                { "name": "config.version", "from": [{ "literal": format!("v{}", self.version) }] },
                { "name": "user.id", "from": user, "raw": true },
                { "name": "request.id", "from": [{ "requestId": {} }] },
            ],
            "requestId": { "echo": true },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_the_same_settings_each_time_and_the_steady_key_always() {
        for version in 0..50 {
            let settings = Settings::of(7, version);
            assert_eq!(settings, Settings::of(7, version));
            assert!(settings.keys.contains(&STEADY_KEY));
            assert!(settings.banned.iter().all(|user| !PATIENT.contains(user)));
        }
        assert!((0..50).any(|version| Settings::of(7, version).keys != Settings::of(7, 0).keys));
    }

    #[test]
    fn every_fault_changes_some_configuration_or_the_surroundings() {
        let settings = Settings { gate_open: false, keys: KEY_SETS[0], ..Settings::of(7, 1) };
        let all = |fault| {
            (settings.jwt_auth(fault).unwrap(), settings.rate_limit(fault), settings.trace_tags(fault))
        };
        for (fault, name, _) in Fault::ALL {
            let outside = matches!(
                fault,
                Fault::Swallowed
                    | Fault::OldVersion
                    | Fault::FramesLost
                    | Fault::TrailersLost
                    | Fault::ClusterLost
            );
            assert_eq!(all(Some(fault)) == all(None), outside, "{name}");
            assert_eq!(Fault::named(name), Some(fault));
        }
    }
}
