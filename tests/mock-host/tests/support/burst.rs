//! What a burst of requests waits for, how that ends, and what then becomes of them. Data alone: the mock
//! host and real Envoy each carry it out.

use serde_json::{Value, json};

/// What the requests of a burst wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    Keys,
    List,
    /// What the issuer says of an opaque token.
    Answer,
    Service,
}

/// How that ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    Arrives,
    TimesOut,
    ClusterGone,
    Rubbish,
    /// The configuration changes, then it arrives.
    Reconfigured,
    /// One client in [`LEAVES`] leaves, then it arrives.
    ClientsLeave,
    /// The listener takes no more connections, then it arrives.
    Drains,
    /// SIGTERM.
    Terminates,
}

/// What then becomes of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    GoesOn,
    Unauthorized,
    Limited,
    Unavailable,
    RouterAnswers,
}

/// How the filters are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A plugin each.
    Apart,
    /// In one module, as far as that goes.
    Joined,
}

impl Waits {
    pub(crate) const ALL: [Self; 4] = [Self::Keys, Self::List, Self::Answer, Self::Service];

    /// The cluster that has it.
    pub(crate) fn cluster(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::List => "list",
            Self::Answer => "answer",
            Self::Service => "limits",
        }
    }
}

impl Ends {
    pub(crate) const ALL: [Self; 8] = [
        Self::Arrives,
        Self::TimesOut,
        Self::ClusterGone,
        Self::Rubbish,
        Self::Reconfigured,
        Self::ClientsLeave,
        Self::Drains,
        Self::Terminates,
    ];

    /// Whether what the requests wait for does not come.
    pub(crate) fn fails(self) -> bool {
        matches!(self, Self::TimesOut | Self::ClusterGone | Self::Rubbish)
    }
}

impl Then {
    pub(crate) const ALL: [Self; 5] =
        [Self::GoesOn, Self::Unauthorized, Self::Limited, Self::Unavailable, Self::RouterAnswers];
}

impl Form {
    pub(crate) const ALL: [Self; 2] = [Self::Apart, Self::Joined];
}

/// One burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Burst {
    pub(crate) waits: Waits,
    pub(crate) ends: Ends,
    pub(crate) then: Then,
    pub(crate) form: Form,
}

/// A plugin of the chain.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    pub(crate) name: &'static str,
    pub(crate) filter: &'static str,
    pub(crate) configuration: Value,
}

/// So many requests pass a limit that denies the others.
pub(crate) const ROOM: usize = 10;

/// Of so many clients one leaves.
pub(crate) const LEAVES: usize = 5;

/// An opaque token.
pub(crate) const OPAQUE: &str = "2YotnFZFEjr1zCsicMWpAA-of-alice";

/// The variable of the secret with which the issuer is asked about it, and the secret.
pub(crate) const SECRET: (&str, &str) = ("INTROSPECTION_SECRET", "p4ssw0rd-of-the-gateway");

/// The header of who makes a request.
pub(crate) const USER: &str = "x-user-id";

impl Burst {
    /// All combinations.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let forms = |waits, ends, then| Form::ALL.map(|form| Self { waits, ends, then, form });
        let thens = move |waits, ends| Then::ALL.into_iter().flat_map(move |then| forms(waits, ends, then));
        let ends = move |waits| Ends::ALL.into_iter().flat_map(move |ends| thens(waits, ends));
        Waits::ALL.into_iter().flat_map(ends)
    }

    /// As few as have each two values of any two columns.
    pub(crate) fn pairwise() -> Vec<Self> {
        let pairs = |burst: &Self| {
            let columns = [
                format!("{:?}", burst.waits),
                format!("{:?}", burst.ends),
                format!("{:?}", burst.then),
                format!("{:?}", burst.form),
            ];
            let pair = |one: usize, other: usize| (columns[one].clone(), columns[other].clone());
            [pair(0, 1), pair(0, 2), pair(0, 3), pair(1, 2), pair(1, 3), pair(2, 3)]
        };
        let mut missing: std::collections::BTreeSet<_> =
            Self::all().flat_map(|burst| pairs(&burst)).collect();
        let mut chosen = Vec::new();
        while !missing.is_empty() {
            let gain = |burst: &Self| pairs(burst).iter().filter(|pair| missing.contains(*pair)).count();
            // Of equals the first; `max_by_key` would take the last.
            let Some(best) =
                Self::all().reduce(|best, next| if gain(&next) > gain(&best) { next } else { best })
            else {
                break;
            };
            for pair in pairs(&best) {
                missing.remove(&pair);
            }
            chosen.push(best);
        }
        chosen
    }

    /// The bursts that `BURSTS` names: all, those of [`Burst::pairwise`] (`pairs`), those of some values
    /// (`Keys Joined`), or, where it says nothing, each thing to wait for with each ending.
    pub(crate) fn wanted(bursts: &str) -> Vec<Self> {
        let named = |burst: &Self| bursts.split_whitespace().all(|word| format!("{burst:?}").contains(word));
        match bursts {
            "all" => Self::all().collect(),
            "pairs" => Self::pairwise(),
            "" => {
                let mut chosen: Vec<Self> = Vec::new();
                for burst in Self::pairwise() {
                    let same = |known: &Self| (known.waits, known.ends) == (burst.waits, burst.ends);
                    if !chosen.iter().any(same) {
                        chosen.push(burst);
                    }
                }
                chosen
            }
            _ => Self::all().filter(named).collect(),
        }
    }

    /// Whether requests pass where what they wait for does not come.
    fn lenient(self) -> bool {
        self.ends.fails() && self.then != Then::Unavailable
    }

    /// Whether the tokens are bad, as far as that is what refuses the requests.
    pub(crate) fn forged(self) -> bool {
        self.waits == Waits::Keys && self.then == Then::Unauthorized && !self.ends.fails()
    }

    /// Whether the list of revoked tokens names the user.
    pub(crate) fn revoked(self) -> bool {
        self.waits == Waits::List && self.then == Then::Unauthorized && !self.ends.fails()
    }

    /// Whether the issuer says that the token is not active.
    pub(crate) fn inactive(self) -> bool {
        self.waits == Waits::Answer && self.then == Then::Unauthorized && !self.ends.fails()
    }

    /// Whether the rate limit service says that the requests are over their limit.
    pub(crate) fn over_limit(self) -> bool {
        self.waits == Waits::Service && self.then == Then::Limited && !self.ends.fails()
    }

    /// The plugins, that for which the requests wait first. `keys` are those of the issuer.
    pub(crate) fn plugins(self, keys: &Value) -> Vec<Loaded> {
        // As long as it takes to fill the proxy with requests, unless that is to be seen.
        let (timeout, patience) = if self.ends == Ends::TimesOut { ("2s", "1s") } else { ("20s", "5s") };
        let on_failure = if self.lenient() { "allow" } else { "deny" };
        let mut provider = json!({
            "issuer": "https://issuer.test/",
            "audiences": ["api"],
            "outputClaimToHeaders": [{ "claim": "sub", "header": USER }],
        });
        let fetched = |uri: &str| {
            json!({
                "uri": uri,
                "cluster": self.waits.cluster(),
                "refresh": "10s",
                "timeout": timeout,
                "staleIfError": "1s",
                "onFailure": on_failure,
            })
        };
        match self.waits {
            Waits::Keys => {
                provider["jwksUri"] = json!("http://keys.test/keys");
                provider["cluster"] = json!(self.waits.cluster());
                provider["jwksCache"] =
                    json!({ "duration": "10s", "timeout": timeout, "staleIfError": "1s" });
            }
            Waits::List => {
                provider["jwks"] = keys.clone();
                provider["revoked"] = fetched("http://list.test/list");
            }
            Waits::Answer => {
                provider["introspection"] = json!({
                    "uri": "http://issuer.test/introspect",
                    "cluster": self.waits.cluster(),
                    "clientId": "gateway",
                    "clientSecret": { "env": SECRET.0 },
                    "timeout": timeout,
                    "cache": "10s",
                });
            }
            Waits::Service => {}
        }
        let best_effort = json!([{ "match": { "any": true }, "allow": "anyone", "verify": "bestEffort" }]);
        let lenient = matches!(self.waits, Waits::Keys | Waits::Answer) && self.lenient();
        let jwt_auth = json!({
            "maxWaitingRequests": 10_000,
            "providers": { "platform": provider },
            "rules": if lenient { best_effort } else { json!([]) },
        });
        let other = json!({ "providers": { "other": {
            "issuer": "https://other.test/", "jwks": keys, "from": [{ "header": "x-other-token" }],
        }}});
        let asked = |cluster: &str| {
            json!({
                "limits": [{ "name": "asked", "rate": { "requests": 100_000, "per": "1s" }, "global": {} }],
                "global": { "domain": "d", "cluster": cluster, "timeout": patience, "onFailure": on_failure },
            })
        };
        let own = json!({ "limits": [{ "name": "total", "rate": { "requests": ROOM, "per": "1h" } }] });
        let mut none_there = asked("nobody");
        none_there["global"]["onFailure"] = json!("deny");
        // What refuses the requests behind what they wait for, where that itself does not.
        let behind = match self.then {
            Then::Unauthorized if !self.forged() && !self.revoked() && !self.inactive() => {
                Some(("jwt-auth", other))
            }
            Then::Limited if !self.over_limit() => Some(("rate-limit", own)),
            Then::Unavailable if !self.ends.fails() => Some(("rate-limit", none_there)),
            _ => None,
        };
        let (first, key) = match self.waits {
            Waits::Service => ("rate-limit", "rateLimit"),
            _ => ("jwt-auth", "jwtAuth"),
        };
        let mut configuration = match self.waits {
            Waits::Service => asked(self.waits.cluster()),
            _ => jwt_auth,
        };
        let mut joined = None;
        if self.form == Form::Joined {
            // In that module jwt-auth stands behind such limits alone, and there is one of each.
            if self.waits == Waits::Service && self.then == Then::Unauthorized {
                configuration["limits"][0]["before"] = json!("auth");
            }
            let mut parts = json!({});
            parts[key] = configuration;
            joined = behind.as_ref().filter(|(filter, _)| *filter != first).cloned();
            if let Some((filter, configuration)) = &joined {
                parts[if *filter == "jwt-auth" { "jwtAuth" } else { "rateLimit" }] = configuration.clone();
            }
            configuration = parts;
        }
        let filter = if self.form == Form::Joined { "mesh-filters" } else { first };
        let behind = behind.filter(|_| joined.is_none());
        let behind = behind.map(|(filter, configuration)| Loaded { name: "behind", filter, configuration });
        [Loaded { name: "first", filter, configuration }].into_iter().chain(behind).collect()
    }

    /// The first plugin with another configuration, which says the same.
    pub(crate) fn reconfigured(self, keys: &Value) -> Loaded {
        let mut loaded = self.plugins(keys).swap_remove(0);
        let (key, field, value) = match self.waits {
            Waits::Service => ("rateLimit", "scope", json!("worker")),
            _ => ("jwtAuth", "publishClaims", json!(["sub", "iss"])),
        };
        let joined = self.form == Form::Joined;
        let part = if joined { &mut loaded.configuration[key] } else { &mut loaded.configuration };
        part[field] = value;
        loaded
    }

    /// How often each status is seen, of so many requests whose clients stay, in a proxy that has let
    /// `before` pass.
    pub(crate) fn statuses(self, count: usize, before: usize) -> Vec<(u16, usize)> {
        let room = ROOM.saturating_sub(before).min(count);
        let statuses = match self.then {
            Then::GoesOn => vec![(200, count)],
            Then::Unauthorized => vec![(401, count)],
            Then::Limited if self.over_limit() => vec![(429, count)],
            Then::Limited => vec![(200, room), (429, count - room)],
            Then::Unavailable | Then::RouterAnswers => vec![(503, count)],
        };
        statuses.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// The user of the requests that pass.
    pub(crate) fn user(self) -> Option<&'static str> {
        let known = match self.waits {
            Waits::Keys | Waits::Answer => !self.ends.fails(),
            Waits::List => true,
            Waits::Service => false,
        };
        known.then_some("alice")
    }
}
