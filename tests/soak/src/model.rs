//! What may become of a request. No proxy in here: a request, the settings of the version that decided, and
//! what happened around the proxy come in, and the outcomes that the documents allow go out.

use std::time::Duration;

use crate::plan::{CLOCK_SKEW, FIRST_CAPPED, Issuer, ROLES, STEADY_KEY, Settings};
use crate::world::World;

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// A token is needed, and each user has a limit.
    Api,
    /// A token is needed, and each user has a small limit.
    Patient,
    /// Anyone may; a token that is there must be good.
    Public,
    /// A claim is needed that differs from version to version.
    Admin,
    /// Nobody may.
    Closed,
    /// Some versions have a limit of none.
    Gate,
    /// The rate limit service is asked.
    Global,
    /// A token is needed, and nothing is limited.
    Free,
    /// The same for web sockets.
    Socket,
}

impl Place {
    /// The start of its paths.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Api => "/api/",
            Self::Patient => "/patient/",
            Self::Public => "/public/",
            Self::Admin => "/admin/",
            Self::Closed => "/closed/",
            Self::Gate => "/gate/",
            Self::Global => "/global/",
            Self::Free => "/free/",
            Self::Socket => "/socket/",
        }
    }
}

/// What a client shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Credential {
    /// Nothing.
    None,
    /// A token that its issuer has made.
    Good {
        /// Who.
        issuer: Issuer,
        /// The key that signed it.
        key: &'static str,
        /// Its subject.
        user: usize,
    },
    /// A good token of [`Issuer::Inline`] that ends at this second of the Unix epoch.
    Ending {
        /// Its subject.
        user: usize,
        /// When.
        at: u64,
    },
    /// A token that is wrong in any case.
    Wrong(Wrong),
    /// A token with a `kid` that its issuer does not have.
    UnknownKid(Issuer),
}

/// What is wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wrong {
    /// It ended an hour ago.
    Expired,
    /// It begins in an hour.
    NotYet,
    /// It is for somebody else.
    Audience,
    /// Nobody knows its issuer.
    Issuer,
    /// A bit of its signature is another.
    Signature,
    /// Its payload was changed.
    Payload,
    /// `alg: none`.
    Unsigned,
    /// The public key is the secret.
    Confused,
    /// More than 16 KiB.
    Huge,
    /// Not even a token.
    Malformed,
    /// A good token, and another one beside it.
    Twice,
    /// A token of one issuer with the name of another's key.
    Foreign,
}

impl Wrong {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Expired,
        Self::NotYet,
        Self::Audience,
        Self::Issuer,
        Self::Signature,
        Self::Payload,
        Self::Unsigned,
        Self::Confused,
        Self::Huge,
        Self::Malformed,
        Self::Twice,
        Self::Foreign,
    ];

    /// The code of its refusal.
    pub fn code(self) -> &'static str {
        match self {
            Self::Expired => "token_expired",
            Self::NotYet => "token_not_yet_valid",
            Self::Audience => "audience_mismatch",
            Self::Issuer => "issuer_unknown",
            Self::Signature | Self::Payload => "signature_invalid",
            Self::Confused | Self::Foreign => "algorithm_not_allowed",
            Self::Unsigned | Self::Huge | Self::Malformed => "token_malformed",
            Self::Twice => "several_tokens",
        }
    }
}

/// A request as the model sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Its number, which every witness names.
    pub id: u64,
    /// Where it goes.
    pub place: Place,
    /// What it shows.
    pub credential: Credential,
    /// When it was sent, since the start of the soak.
    pub sent: Duration,
    /// When its answer was there, or the client gave up.
    pub done: Duration,
    /// The second of the Unix epoch at the start of the soak.
    pub epoch: u64,
}

impl Ask {
    /// Whose token it shows, if that is good somewhere.
    pub fn user(&self) -> Option<usize> {
        match self.credential {
            Credential::Good { user, .. } | Credential::Ending { user, .. } => Some(user),
            _ => None,
        }
    }

    /// The `iss` of that token.
    pub fn issuer(&self) -> Option<Issuer> {
        match self.credential {
            Credential::Good { issuer, .. } => Some(issuer),
            Credential::Ending { .. } => Some(Issuer::Inline),
            _ => None,
        }
    }
}

/// The role that a user's tokens show.
pub fn role(user: usize) -> &'static str {
    ROLES[user % ROLES.len()]
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The service gets it, with this user's identity or none.
    Pass(Option<usize>),
    /// It is refused with this code.
    Refused(String),
    /// It is over this limit.
    Limited(String),
}

impl Outcome {
    fn refused(code: &str) -> Self {
        Self::Refused(code.to_owned())
    }

    /// Whether the service gets it.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Pass(_))
    }
}

/// Every outcome that is right where these settings decided.
pub fn acceptable(ask: &Ask, settings: &Settings, world: &World) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for outcome in authenticated(ask, settings, world) {
        match outcome {
            Outcome::Pass(user) => limited(ask, user, settings, world, &mut outcomes),
            refused => outcomes.push(refused),
        }
    }
    outcomes
}

/// What jwt-auth may say.
fn authenticated(ask: &Ask, settings: &Settings, world: &World) -> Vec<Outcome> {
    if ask.place == Place::Closed {
        return vec![Outcome::refused("forbidden")];
    }
    let (sent, done) = (ask.sent, ask.done);
    let mut outcomes = Vec::new();
    match ask.credential {
        Credential::None if ask.place == Place::Public => outcomes.push(Outcome::Pass(None)),
        Credential::None => outcomes.push(Outcome::refused("token_missing")),
        Credential::Wrong(wrong) => outcomes.push(Outcome::refused(wrong.code())),
        Credential::UnknownKid(issuer) => {
            outcomes.push(Outcome::refused("key_unknown"));
            if issuer == Issuer::Remote && world.issuer.felt(sent, done) {
                outcomes.push(Outcome::refused("keys_unavailable"));
            }
        }
        Credential::Ending { user, at } => {
            let end = Duration::from_secs(at.saturating_sub(ask.epoch)) + CLOCK_SKEW;
            if sent <= end + Duration::from_secs(2) {
                outcomes.push(known_user(ask, user, settings));
            }
            if done + Duration::from_secs(2) >= end {
                outcomes.push(Outcome::refused("token_expired"));
            }
        }
        Credential::Good { issuer: Issuer::Inline, key, user } => {
            if settings.keys.contains(&key) {
                outcomes.push(known_user(ask, user, settings));
            } else {
                outcomes.push(Outcome::refused("key_unknown"));
            }
        }
        Credential::Good { issuer: Issuer::Remote, key, user } => {
            if world.key_possible(key, sent, done) {
                outcomes.push(known_user(ask, user, settings));
            }
            let troubled = world.issuer.felt(sent, done);
            if troubled || !world.key_certain(key, sent, done) {
                outcomes.push(Outcome::refused("key_unknown"));
            }
            if troubled {
                outcomes.push(Outcome::refused("keys_unavailable"));
            }
        }
        Credential::Good { issuer: Issuer::Listed, user, .. } => {
            if !world.revoked_certain(user, sent, done) {
                outcomes.push(known_user(ask, user, settings));
            }
            if world.revoked_possible(user, sent, done) {
                outcomes.push(Outcome::refused("token_revoked"));
            }
            if world.list.felt(sent, done) {
                outcomes.push(Outcome::refused("revocation_unavailable"));
            }
        }
    }
    outcomes
}

/// What a version says of a token whose signature is good.
fn known_user(ask: &Ask, user: usize, settings: &Settings) -> Outcome {
    let inline = ask.issuer() == Some(Issuer::Inline);
    if inline && settings.banned.contains(&user) {
        return Outcome::refused("token_revoked");
    }
    if ask.place == Place::Admin && !inline {
        // Another provider than the rule asks for: the token is not what is wanted, however good.
        return Outcome::refused("provider_forbidden");
    }
    if ask.place == Place::Admin && role(user) != settings.role {
        return Outcome::refused("claims_forbidden");
    }
    Outcome::Pass(Some(user))
}

/// What rate-limit may say of a request that is let in.
fn limited(ask: &Ask, user: Option<usize>, settings: &Settings, world: &World, outcomes: &mut Vec<Outcome>) {
    let pass = Outcome::Pass(user);
    match ask.place {
        // Whether the user had room is counted apart.
        Place::Api => outcomes.extend([pass, Outcome::Limited("per-user".to_owned())]),
        Place::Patient => outcomes.extend([pass, Outcome::Limited("patient".to_owned())]),
        Place::Gate if !settings.gate_open => outcomes.push(Outcome::Limited(settings.gate())),
        Place::Global => {
            let troubled = world.limits.felt(ask.sent, ask.done);
            let capped = user.is_some_and(|user| user >= FIRST_CAPPED);
            outcomes.push(if capped { Outcome::Limited("quota".to_owned()) } else { pass.clone() });
            if troubled && settings.lenient {
                outcomes.push(pass);
            } else if troubled {
                outcomes.push(Outcome::refused("rate_limit_service_unavailable"));
            }
        }
        _ => outcomes.push(pass),
    }
}

/// The status of an outcome.
pub fn status(outcome: &Outcome) -> u16 {
    match outcome {
        Outcome::Pass(_) => 200,
        Outcome::Limited(_) => 429,
        Outcome::Refused(code) => match code.as_str() {
            "several_tokens" | "path_ambiguous" => 400,
            "forbidden" | "claims_forbidden" | "provider_forbidden" => 403,
            "keys_unavailable" | "revocation_unavailable" | "rate_limit_service_unavailable" => 503,
            _ => 401,
        },
    }
}

/// The gRPC status of a refusal.
pub fn grpc_status(outcome: &Outcome) -> u16 {
    match status(outcome) {
        200 => 0,
        400 => 3,
        401 => 16,
        403 => 7,
        429 => 8,
        _ => 14,
    }
}

/// The credential of a user that every version and every issuer's state takes, unless the version bans the
/// user.
pub fn steady(user: usize) -> Credential {
    Credential::Good { issuer: Issuer::Inline, key: STEADY_KEY, user }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn ask(place: Place, credential: Credential, second: u64) -> Ask {
        Ask { id: 1, place, credential, sent: at(second), done: at(second), epoch: 1_000_000 }
    }

    fn settings() -> Settings {
        Settings {
            version: 3,
            keys: &["rsa-1", "ec-1"],
            role: "admin",
            banned: vec![2],
            gate_open: false,
            lenient: false,
            era: 0,
        }
    }

    fn world() -> World {
        let mut world = World::default();
        world.keys.set(at(0), vec!["rsa-1"]);
        world.revoked.set(at(0), vec![5]);
        world
    }

    fn refused(code: &str) -> Vec<Outcome> {
        vec![Outcome::refused(code)]
    }

    #[test]
    fn the_version_decides_about_its_keys_its_users_and_its_roles() {
        let of = |key, user| Credential::Good { issuer: Issuer::Inline, key, user };
        let outcomes = |place, credential| acceptable(&ask(place, credential, 50), &settings(), &world());
        assert_eq!(outcomes(Place::Free, of("rsa-1", 1)), [Outcome::Pass(Some(1))]);
        assert_eq!(outcomes(Place::Free, of("rsa-2", 1)), refused("key_unknown"));
        assert_eq!(outcomes(Place::Free, of("rsa-1", 2)), refused("token_revoked"));
        assert_eq!(outcomes(Place::Admin, of("rsa-1", 1)), refused("claims_forbidden"));
        assert_eq!(outcomes(Place::Admin, of("rsa-1", 4)), [Outcome::Pass(Some(4))]);
        assert_eq!(outcomes(Place::Closed, of("rsa-1", 1)), refused("forbidden"));
        assert_eq!(outcomes(Place::Gate, of("rsa-1", 1)), [Outcome::Limited("gate-v3".to_owned())]);
    }

    #[test]
    fn a_request_without_a_token_passes_where_anyone_may() {
        let outcomes = |place| acceptable(&ask(place, Credential::None, 50), &settings(), &world());
        assert_eq!(outcomes(Place::Public), [Outcome::Pass(None)]);
        assert_eq!(outcomes(Place::Api), refused("token_missing"));
    }

    #[test]
    fn an_outage_excuses_refusals_and_never_an_accept() {
        let mut world = world();
        world.issuer.begin(at(40));
        let good = Credential::Good { issuer: Issuer::Remote, key: "rsa-1", user: 1 };
        let unknown = Credential::UnknownKid(Issuer::Remote);
        assert_eq!(acceptable(&ask(Place::Free, good, 30), &settings(), &world), [Outcome::Pass(Some(1))]);
        assert_eq!(
            acceptable(&ask(Place::Free, good, 50), &settings(), &world),
            [Outcome::Pass(Some(1)), Outcome::refused("key_unknown"), Outcome::refused("keys_unavailable")]
        );
        assert!(acceptable(&ask(Place::Free, unknown, 50), &settings(), &world).iter().all(|o| !o.passes()));
    }

    #[test]
    fn a_token_that_ends_passes_before_and_not_after() {
        let ending = Credential::Ending { user: 1, at: 1_000_060 };
        let outcomes = |second| acceptable(&ask(Place::Free, ending, second), &settings(), &world());
        assert_eq!(outcomes(50), [Outcome::Pass(Some(1))]);
        assert_eq!(outcomes(61).len(), 2);
        assert_eq!(outcomes(64), refused("token_expired"));
    }

    #[test]
    fn the_rate_limit_service_is_believed_while_it_answers() {
        let mut world = world();
        let outcomes = |world: &World, user, settings: &Settings| {
            acceptable(&ask(Place::Global, steady(user), 50), settings, world)
        };
        let quota = Outcome::Limited("quota".to_owned());
        assert_eq!(outcomes(&world, FIRST_CAPPED, &settings()), std::slice::from_ref(&quota));
        assert_eq!(outcomes(&world, 1, &settings()), [Outcome::Pass(Some(1))]);
        world.limits.begin(at(49));
        let lenient = Settings { lenient: true, ..settings() };
        assert_eq!(
            outcomes(&world, FIRST_CAPPED, &lenient),
            [quota.clone(), Outcome::Pass(Some(FIRST_CAPPED))]
        );
        assert_eq!(
            outcomes(&world, FIRST_CAPPED, &settings()),
            [quota, Outcome::refused("rate_limit_service_unavailable")]
        );
    }
}
