//! Compares what became of a request, as four witnesses saw it (the client, the service, the access log, the
//! span), with what may become of it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::model::{Ask, Outcome, Place, acceptable, grpc_status, status};
use crate::plan::{BURST, Form, INTERVAL, Issuer, Settings, user_name};
use crate::world::World;

/// A kind of what can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The service got a request that no version lets in.
    WrongAccept,
    /// The service got another identity than the token's, or a header that only the filters may set.
    WrongIdentity,
    /// The service saw a token.
    TokenForwarded,
    /// A request was refused that had to pass, and no outage explains it.
    WrongRefusal,
    /// More requests of a user passed than its limit says.
    OverAdmission,
    /// A request that its client waited for was never answered, or a frame of a web socket.
    Lost,
    /// A plugin's VM failed.
    VmFailure,
    /// A refusal was right, and its code or status was not; or a response came changed.
    WrongAnswer,
    /// `Retry-After` was missing, too long or too short.
    RetryAfter,
    /// A span or the access log names a user that was not verified.
    WrongSpan,
    /// A version decided that was replaced, or two versions about one request.
    OldVersion,
    /// Counters and access log say different things.
    Counters,
    /// Requests are still open at the end.
    OpenStreams,
    /// The memory grew.
    Memory,
}

impl Kind {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 14] = [
        Self::WrongAccept,
        Self::WrongIdentity,
        Self::TokenForwarded,
        Self::VmFailure,
        Self::OverAdmission,
        Self::Lost,
        Self::WrongRefusal,
        Self::WrongAnswer,
        Self::RetryAfter,
        Self::WrongSpan,
        Self::OldVersion,
        Self::Counters,
        Self::OpenStreams,
        Self::Memory,
    ];

    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::WrongAccept => "wrong accepts",
            Self::WrongIdentity => "wrong identities",
            Self::TokenForwarded => "tokens forwarded",
            Self::WrongRefusal => "wrong refusals",
            Self::OverAdmission => "over-admissions",
            Self::Lost => "lost requests",
            Self::VmFailure => "VM failures",
            Self::WrongAnswer => "wrong answers",
            Self::RetryAfter => "wrong Retry-After",
            Self::WrongSpan => "wrong spans",
            Self::OldVersion => "old versions",
            Self::Counters => "counters off",
            Self::OpenStreams => "open streams",
            Self::Memory => "memory growth",
        }
    }

    /// Whether a minute's soak fails for it; a longer one fails for all but what a busy machine brings about.
    pub fn fails(self, short: bool) -> bool {
        match self {
            Self::WrongAccept
            | Self::WrongIdentity
            | Self::TokenForwarded
            | Self::VmFailure
            | Self::OverAdmission
            | Self::Lost => true,
            Self::OldVersion | Self::Memory => false,
            _ => !short,
        }
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Of which kind.
    pub kind: Kind,
    /// What exactly.
    pub text: String,
}

/// What the client got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The status code.
    pub status: u16,
    /// `grpc-status` in headers or trailers.
    pub grpc_status: Option<u16>,
    /// `retry-after`.
    pub retry_after: Option<u64>,
    /// The version that refused, from the header that it names.
    pub denied_by: Option<u32>,
    /// What the service said which request it had served.
    pub served: Option<u64>,
    /// Whether the body is what the service sent.
    pub whole: bool,
}

/// What the service got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// When.
    pub at: Duration,
    /// The path with its query.
    pub path: String,
    /// The headers.
    pub headers: Vec<(String, String)>,
    /// Whether the body is what the client sent.
    pub whole: bool,
}

/// What the access log says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Logged {
    /// The status code; 0 where there was no response.
    pub status: u16,
    /// Response code details.
    pub details: String,
    /// `wasm.ratelimit.limit`.
    pub limit: Option<String>,
    /// `wasm.tag.user.id`.
    pub user: Option<String>,
    /// `wasm.tag.config.version`.
    pub version: Option<String>,
}

/// What became of a web socket after its handshake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Socket {
    /// When it ended.
    pub closed: Duration,
    /// Frames that the client sent.
    pub sent: u64,
    /// Those that the service sent back.
    pub back: u64,
    /// Why it ended, if not by the client's will.
    pub failure: Option<String>,
}

/// A request and its witnesses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What was asked.
    pub ask: Ask,
    /// Whether the client went away before the answer.
    pub gave_up: bool,
    /// Whether it spoke gRPC.
    pub grpc: bool,
    /// Whether `Retry-After` had promised it room.
    pub promised: bool,
    /// What nobody but the proxy may see of its token.
    pub secret: Option<String>,
    /// Why the client got no answer.
    pub failure: Option<String>,
    /// What the client got.
    pub seen: Option<Seen>,
    /// What then became of its web socket.
    pub socket: Option<Socket>,
    /// What the service got.
    pub arrivals: Vec<Arrival>,
    /// What the access log says.
    pub logged: Option<Logged>,
    /// The user on the span, where there was a span.
    pub span: Option<Option<String>>,
}

/// Sums up.
#[derive(Debug)]
pub struct Judge {
    form: Form,
    /// How many of each kind.
    pub counts: BTreeMap<Kind, u64>,
    /// The first of each kind.
    pub findings: Vec<Finding>,
    /// How often each outcome was seen.
    pub outcomes: BTreeMap<String, u64>,
    users: HashMap<usize, Ledger>,
}

/// The requests of a user to the place with a limit.
#[derive(Debug, Default)]
struct Ledger {
    /// Those that the service got: when they were sent and when they arrived.
    admitted: Vec<(Duration, Duration)>,
    /// Those that may have been charged, with the end of what is known of them.
    charged: Vec<(Duration, Duration)>,
    /// Those that were over the limit.
    denied: Vec<(Duration, Duration, u64)>,
}

/// So many findings of a kind are told in full.
const TOLD: u64 = 20;

impl Judge {
    /// Nothing seen yet.
    pub fn new(form: Form) -> Self {
        Self {
            form,
            counts: BTreeMap::new(),
            findings: Vec::new(),
            outcomes: BTreeMap::new(),
            users: HashMap::new(),
        }
    }

    /// Notes a finding.
    pub fn find(&mut self, kind: Kind, text: String) {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        if *count <= TOLD {
            self.findings.push(Finding { kind, text });
        }
    }

    /// Judges a request of which no more will be heard.
    pub fn judge(&mut self, record: &Record, world: &World) {
        let mut case = Case { record, world, form: self.form, findings: Vec::new() };
        let outcome = case.judge();
        let findings = case.findings;
        for finding in findings {
            let about = format!("{}\n    {record:?}", finding.text);
            self.find(finding.kind, about);
        }
        let name = match &outcome {
            None => "no answer, its client left".to_owned(),
            Some(Outcome::Pass(None)) => "passed without a token".to_owned(),
            Some(Outcome::Pass(_)) => "passed with a token".to_owned(),
            Some(Outcome::Refused(code)) => code.clone(),
            Some(Outcome::Limited(limit)) => {
                format!("over the limit {}", limit.split("-v").next().unwrap_or_default())
            }
        };
        *self.outcomes.entry(name).or_default() += 1;
        if let Some(socket) = &record.socket {
            *self.outcomes.entry("WebSockets".to_owned()).or_default() += 1;
            *self.outcomes.entry("WebSocket frames".to_owned()).or_default() += socket.sent + socket.back;
        }
        self.enter(record, outcome.as_ref());
    }

    fn enter(&mut self, record: &Record, outcome: Option<&Outcome>) {
        let ask = &record.ask;
        let (Place::Api, Some(user)) = (ask.place, ask.user()) else { return };
        let ledger = self.users.entry(user).or_default();
        for arrival in &record.arrivals {
            ledger.admitted.push((ask.sent, arrival.at));
        }
        match outcome {
            Some(Outcome::Limited(_)) => ledger.denied.push((ask.sent, ask.done, ask.id)),
            Some(Outcome::Refused(_)) => {}
            // Of a client that left the proxy alone knows.
            Some(Outcome::Pass(_)) | None => ledger.charged.push((ask.sent, ask.done)),
        }
    }

    /// Whether users got what their limit promises, and no more. To be called at the end.
    pub fn judge_limits(&mut self) {
        let mut found = Vec::new();
        for (user, ledger) in &mut self.users {
            ledger.admitted.sort_by_key(|(_, arrived)| *arrived);
            if let Some((from, to, count)) = over_admitted(&ledger.admitted, BURST, INTERVAL) {
                let text = format!("{}: {count} requests passed from {from:?} to {to:?}", user_name(*user));
                found.push((Kind::OverAdmission, text));
            }
            for (sent, done, id) in &ledger.denied {
                let refill = INTERVAL * u32::try_from(BURST).unwrap_or(u32::MAX);
                let since = sent.saturating_sub(refill);
                let taken = ledger.charged.iter().filter(|(s, d)| s <= done && *d >= since).count();
                // Of a limit that refills so slowly no worker holds more than it needs.
                if u64::try_from(taken).unwrap_or(u64::MAX) < BURST * 3 / 4 {
                    let text = format!(
                        "request {id} of {} was over its limit at {done:?}, after {taken} requests in {refill:?}",
                        user_name(*user)
                    );
                    found.push((Kind::WrongRefusal, text));
                }
            }
        }
        for (kind, text) in found {
            self.find(kind, text);
        }
    }
}

/// An interval in which more passed than `burst + interval / each`, with their number. Entries are from
/// sending a request to its arrival, in order of arrival: somewhere in between it was counted.
fn over_admitted(
    entries: &[(Duration, Duration)],
    burst: u64,
    each: Duration,
) -> Option<(Duration, Duration, u64)> {
    const HORIZON: Duration = Duration::from_secs(20);
    for (from, _) in entries {
        let mut count = 0;
        let begin = entries.partition_point(|(_, arrived)| arrived < from);
        for (sent, to) in entries[begin..].iter().take_while(|(_, to)| *to <= *from + HORIZON) {
            if sent < from {
                continue;
            }
            count += 1;
            let room = to.saturating_sub(*from).as_nanos() / each.as_nanos().max(1);
            if u128::from(count) > u128::from(burst) + room {
                return Some((*from, *to, count));
            }
        }
    }
    None
}

struct Case<'a> {
    record: &'a Record,
    world: &'a World,
    form: Form,
    findings: Vec<Finding>,
}

impl Case<'_> {
    fn find(&mut self, kind: Kind, text: impl Into<String>) {
        self.findings.push(Finding { kind, text: text.into() });
    }

    /// What became of the request; `None` where its client left and nothing else is known.
    fn judge(&mut self) -> Option<Outcome> {
        let record = self.record;
        let outcome = self.outcome();
        if record.arrivals.len() > 1 {
            self.find(Kind::WrongAnswer, "the service got the request more than once");
        }
        if !record.gave_up && record.seen.is_none() {
            // A client of HTTP/1 that still sends its body may miss an answer that comes early.
            let answered = record.logged.as_ref().map_or(0, |logged| logged.status);
            let kind = if answered == 0 { Kind::Lost } else { Kind::WrongAnswer };
            self.find(kind, format!("no answer; the access log says {answered}"));
        }
        let decided = self.version();
        let allowed = self.allowed(decided);
        for n in 0..record.arrivals.len() {
            self.arrival(n, decided);
        }
        if let Some(outcome) = &outcome {
            if !allowed.contains(outcome) {
                let some_pass = allowed.iter().any(Outcome::passes);
                let kind = match (outcome.passes(), some_pass) {
                    (true, false) => Kind::WrongAccept,
                    (true, true) => Kind::WrongIdentity,
                    (false, true) => Kind::WrongRefusal,
                    (false, false) => Kind::WrongAnswer,
                };
                self.find(kind, format!("{outcome:?}; expected one of {allowed:?}"));
            }
            if !outcome.passes() && !record.arrivals.is_empty() {
                self.find(Kind::WrongAccept, format!("{outcome:?}, and the service got the request"));
            }
            self.answer(outcome);
        }
        if let Some(Socket { failure: Some(failure), sent, back, .. }) = &record.socket {
            self.find(Kind::Lost, format!("after {sent} frames, {back} of them back: {failure}"));
        }
        self.published(outcome.as_ref(), &allowed);
        outcome
    }

    fn outcome(&self) -> Option<Outcome> {
        let record = self.record;
        let details = record.logged.as_ref().map(|logged| logged.details.as_str()).unwrap_or_default();
        if let Some(code) = details.strip_prefix("jwt_auth_") {
            return Some(Outcome::Refused(code.to_owned()));
        }
        if details == "rate_limit_exceeded" {
            let limit = record.logged.as_ref().and_then(|logged| logged.limit.clone());
            return Some(Outcome::Limited(limit.unwrap_or_default()));
        }
        if details.starts_with("rate_limit_") {
            return Some(Outcome::Refused(details.to_owned()));
        }
        if let Some(arrival) = record.arrivals.first() {
            let name = arrival.headers.iter().find(|(name, _)| name == "x-user-id").map(|(_, value)| value);
            let own = record.ask.user().filter(|user| name == Some(&user_name(*user)));
            // Another name than the token's is told apart from none by `arrival`.
            return Some(Outcome::Pass(own));
        }
        record.seen.as_ref().map(|_| Outcome::Refused(details.to_owned()))
    }

    /// The version of jwt-auth that decided, where it left its name.
    fn version(&mut self) -> Option<u32> {
        let passed = self.record.arrivals.iter().flat_map(|arrival| &arrival.headers);
        let passed = passed.filter_map(|(name, value)| {
            let version = name.strip_prefix("x-pass-v")?.parse().ok()?;
            Issuer::ALL.iter().any(|issuer| issuer.url() == value).then_some(version)
        });
        let denied = self.record.seen.as_ref().and_then(|seen| seen.denied_by);
        let version = passed.chain(denied).next();
        let tag = self.record.logged.as_ref().and_then(|logged| logged.version.as_deref());
        let tag: Option<u32> = tag.and_then(|tag| tag.strip_prefix('v')?.parse().ok());
        for decided in version.iter().chain(&tag) {
            let mut possible = self.world.versions(self.record.ask.sent, self.record.ask.done);
            if !possible.any(|settings| settings.version == *decided) {
                self.find(Kind::OldVersion, format!("version {decided} decided"));
            }
        }
        if self.form.is_one_filter()
            && let (Some(version), Some(tag)) = (version, tag)
            && version != tag
        {
            self.find(Kind::OldVersion, format!("versions {version} and {tag} decided"));
        }
        if self.form.is_one_filter() { version.or(tag) } else { version }
    }

    fn allowed(&self, decided: Option<u32>) -> Vec<Outcome> {
        let ask = &self.record.ask;
        let possible: Vec<&Settings> = self.world.versions(ask.sent, ask.done).collect();
        let authenticating = match decided.and_then(|version| self.world.settings(version)) {
            Some(settings) => vec![settings],
            None => possible.clone(),
        };
        let mut allowed = Vec::new();
        for settings in authenticating {
            // Of three plugins each may have another version.
            let limiting = if self.form.is_one_filter() { vec![settings] } else { possible.clone() };
            for of_limits in limiting {
                let both = Settings {
                    version: of_limits.version,
                    gate_open: of_limits.gate_open,
                    lenient: of_limits.lenient,
                    ..settings.clone()
                };
                allowed.extend(acceptable(ask, &both, self.world));
            }
        }
        allowed.sort();
        allowed.dedup();
        allowed
    }

    fn arrival(&mut self, n: usize, decided: Option<u32>) {
        let record = self.record;
        let arrival = &record.arrivals[n];
        let own = format!("x-pass-v{}", decided.unwrap_or(u32::MAX));
        let name = record.ask.user().map(user_name);
        let issuer = record.ask.issuer().map(Issuer::url);
        for (header, value) in &arrival.headers {
            let plain = header.replace('_', "-");
            let expected = match plain.as_str() {
                "x-user-id" => name.as_deref(),
                _ if plain == own => issuer,
                _ => continue,
            };
            if *header != plain || Some(value.as_str()) != expected {
                self.find(Kind::WrongIdentity, format!("the service got {header}: {value}"));
            }
        }
        let times = arrival.headers.iter().filter(|(header, _)| header == "x-user-id").count();
        if times > 1 || (times == 0 && name.is_some()) {
            self.find(Kind::WrongIdentity, format!("the service got x-user-id {times} times"));
        }
        if let Some(secret) = &record.secret {
            let shown = arrival.headers.iter().any(|(_, value)| value.contains(secret.as_str()));
            if shown || arrival.path.contains(secret.as_str()) {
                self.find(Kind::TokenForwarded, "the service got the token");
            }
        }
        // Half a body comes from a client that left.
        if !arrival.whole && !record.gave_up {
            self.find(Kind::WrongAnswer, "the service got another body than the client sent");
        }
    }

    fn answer(&mut self, outcome: &Outcome) {
        let record = self.record;
        let Some(seen) = &record.seen else { return };
        let right = if record.grpc {
            seen.status == 200 && seen.grpc_status == Some(grpc_status(outcome))
        } else if record.ask.place == Place::Socket && outcome.passes() {
            seen.status == 101 && record.socket.is_some()
        } else {
            seen.status == status(outcome)
        };
        if !right {
            self.find(Kind::WrongAnswer, format!("{outcome:?} was answered as {seen:?}"));
        }
        if outcome.passes() && (seen.served != Some(record.ask.id) || !seen.whole) {
            self.find(Kind::WrongAnswer, "the response is another than the service sent");
        }
        if let Outcome::Limited(limit) = outcome {
            let longest = match limit.as_str() {
                "per-user" => 1,
                "patient" => 2,
                // The service says nothing of times, and a closed gate does not open.
                _ => return,
            };
            if record.promised {
                self.find(Kind::RetryAfter, "over its limit when Retry-After was over");
            }
            if !seen.retry_after.is_some_and(|seconds| (1..=longest).contains(&seconds)) {
                self.find(Kind::RetryAfter, format!("Retry-After is {:?}", seen.retry_after));
            }
        }
    }

    /// What span and access log name.
    fn published(&mut self, outcome: Option<&Outcome>, allowed: &[Outcome]) {
        let record = self.record;
        let believed = |outcome: &Outcome| match outcome {
            Outcome::Refused(code) => {
                code.starts_with("rate_limit") || code == "claims_forbidden" || code == "provider_forbidden"
            }
            Outcome::Pass(_) | Outcome::Limited(_) => true,
        };
        let verified = match outcome {
            Some(outcome) if allowed.contains(outcome) => believed(outcome),
            // Of a client that left nobody knows how far it got.
            _ => allowed.iter().any(believed),
        };
        let name = record.ask.user().filter(|_| verified).map(user_name);
        let logged = record.logged.as_ref().and_then(|logged| logged.user.clone());
        for shown in [logged, record.span.clone().flatten()].into_iter().flatten() {
            if Some(&shown) != name.as_ref() {
                self.find(Kind::WrongSpan, format!("it names {shown}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Credential, Wrong, steady};
    use crate::world::Delivered;

    const fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn world() -> World {
        let settings = Settings {
            version: 1,
            keys: &["ec-1"],
            role: "admin",
            banned: vec![2],
            gate_open: false,
            lenient: false,
            era: 0,
        };
        let delivered = Delivered { settings, written: at(0), taken: Some(at(1)) };
        World { versions: vec![delivered], ..World::default() }
    }

    fn record(place: Place, credential: Credential) -> Record {
        Record {
            ask: Ask { id: 7, place, credential, sent: at(1000), done: at(1010), epoch: 1_000_000 },
            gave_up: false,
            grpc: false,
            promised: false,
            secret: Some("signature".to_owned()),
            failure: None,
            seen: None,
            socket: None,
            arrivals: Vec::new(),
            logged: None,
            span: None,
        }
    }

    fn passed(credential: Credential, headers: &[(&str, &str)]) -> Record {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Record {
            seen: Some(Seen { status: 200, served: Some(7), whole: true, ..Seen::default() }),
            arrivals: vec![Arrival { at: at(1005), path: "/free/".to_owned(), headers, whole: true }],
            logged: Some(Logged { status: 200, details: "via_upstream".to_owned(), ..Logged::default() }),
            ..record(Place::Free, credential)
        }
    }

    fn refused(credential: Credential, code: &str, status: u16) -> Record {
        let details = format!("jwt_auth_{code}");
        Record {
            seen: Some(Seen { status, denied_by: Some(1), ..Seen::default() }),
            logged: Some(Logged { status, details, ..Logged::default() }),
            ..record(Place::Free, credential)
        }
    }

    fn kinds(record: &Record) -> Vec<Kind> {
        let mut judge = Judge::new(Form::Joined);
        judge.judge(record, &world());
        judge.counts.into_keys().collect()
    }

    const GOOD: [(&str, &str); 2] = [("x-user-id", "user-01"), ("x-pass-v1", "https://inline.test/")];

    #[test]
    fn what_the_model_expects_is_no_finding() {
        assert_eq!(kinds(&passed(steady(1), &GOOD)), []);
        assert_eq!(kinds(&refused(Credential::None, "token_missing", 401)), []);
        assert_eq!(kinds(&refused(steady(2), "token_revoked", 401)), []);
    }

    #[test]
    fn a_token_that_must_not_pass_is_a_wrong_accept() {
        assert!(kinds(&passed(Credential::Wrong(Wrong::Expired), &[])).contains(&Kind::WrongAccept));
        let banned = [("x-user-id", "user-02"), GOOD[1]];
        assert_eq!(kinds(&passed(steady(2), &banned)), [Kind::WrongAccept]);
    }

    #[test]
    fn another_name_or_a_twin_is_a_wrong_identity() {
        for headers in [
            &[("x-user-id", "user-03"), GOOD[1]][..],
            &[GOOD[0], GOOD[1], ("x_user_id", "spoof")],
            &[GOOD[0], GOOD[1], ("x-user-id", "spoof")],
            &[GOOD[0], GOOD[1], ("x-pass-v1", "spoof")],
            &[GOOD[1]],
        ] {
            assert!(kinds(&passed(steady(1), headers)).contains(&Kind::WrongIdentity), "{headers:?}");
        }
    }

    #[test]
    fn a_refusal_without_a_reason_is_found_and_so_is_no_answer() {
        assert_eq!(kinds(&refused(steady(1), "key_unknown", 401)), [Kind::WrongRefusal]);
        assert_eq!(kinds(&record(Place::Free, steady(1))), [Kind::Lost]);
        let wrong_status = refused(Credential::None, "token_missing", 503);
        assert_eq!(kinds(&wrong_status), [Kind::WrongAnswer]);
    }

    #[test]
    fn a_token_that_the_service_sees_is_found() {
        let headers = [GOOD[0], GOOD[1], ("authorization", "Bearer a.b.signature")];
        assert_eq!(kinds(&passed(steady(1), &headers)), [Kind::TokenForwarded]);
    }

    #[test]
    fn a_web_socket_without_a_token_or_with_a_lost_frame_is_found() {
        let open = Record {
            seen: Some(Seen { status: 101, served: Some(7), whole: true, ..Seen::default() }),
            socket: Some(Socket { closed: at(5000), sent: 3, back: 3, failure: None }),
            ..passed(steady(1), &GOOD)
        };
        let open = Record { ask: Ask { place: Place::Socket, ..open.ask.clone() }, ..open };
        assert_eq!(kinds(&open), []);
        let answered = Record { seen: passed(steady(1), &GOOD).seen, socket: None, ..open.clone() };
        assert_eq!(kinds(&answered), [Kind::WrongAnswer]);
        let failure = Some("no frame came".to_owned());
        let lost = Record { socket: open.socket.clone().map(|s| Socket { failure, ..s }), ..open.clone() };
        assert_eq!(kinds(&lost), [Kind::Lost]);
        let ask = Ask { credential: Credential::None, ..open.ask.clone() };
        let without = Record { arrivals: passed(Credential::None, &[]).arrivals, ask, ..open };
        assert_eq!(kinds(&without), [Kind::WrongAccept]);
    }

    #[test]
    fn a_user_that_was_not_verified_must_not_be_on_a_span() {
        let mut record = refused(Credential::Wrong(Wrong::Payload), "signature_invalid", 401);
        assert_eq!(kinds(&record), []);
        record.span = Some(Some("mallory".to_owned()));
        assert_eq!(kinds(&record), [Kind::WrongSpan]);
    }

    #[test]
    fn a_version_that_was_never_delivered_is_found() {
        let headers = [GOOD[0], ("x-pass-v9", "https://inline.test/")];
        assert!(kinds(&passed(steady(1), &headers)).contains(&Kind::OldVersion));
    }

    #[test]
    fn a_burst_and_what_refills_is_not_over_and_one_more_is() {
        let each = at(100);
        let mut entries: Vec<_> = (0..20).map(|n| (at(1000), at(1001 + n))).collect();
        entries.extend((1..50).map(|n| (at(1000 + n * 100), at(1001 + n * 100))));
        entries.sort_by_key(|(_, arrived)| *arrived);
        assert_eq!(over_admitted(&entries, 20, each), None);
        entries.push((at(6000), at(6001)));
        assert_eq!(over_admitted(&entries, 20, each), None);
        entries.push((at(6000), at(6001)));
        assert!(over_admitted(&entries, 20, each).is_some());
    }

    #[test]
    fn a_denial_before_the_limit_is_used_up_is_a_wrong_refusal() {
        let mut judge = Judge::new(Form::Joined);
        let denied = |judge: &mut Judge| {
            judge.users.entry(1).or_default().denied.push((at(2000), at(2010), 9));
            judge.judge_limits();
            judge.counts.get(&Kind::WrongRefusal).copied()
        };
        for n in 0..BURST {
            judge.users.entry(1).or_default().charged.push((at(1500 + n), at(1501 + n)));
        }
        assert_eq!(denied(&mut judge), None);
        judge.users.entry(1).or_default().charged.truncate(5);
        assert!(denied(&mut judge).is_some());
    }
}
