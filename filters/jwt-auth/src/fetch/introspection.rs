//! Introspection: an endpoint of the issuer says whether a token is active, and what it claims (RFC 7662).
//!
//! A question about a token is asked once, however many requests carry the token. How many questions are under way, and how
//! many are asked in a second, is bounded, so that tokens that clients make up do not flood the issuer. No I/O and no clock
//! in here, as in [`schedule`](crate::fetch::schedule).

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use plugin_kit::hash::KeyedHash;
use plugin_kit::wire::bytes::equal;
use plugin_kit::wire::json;
use serde_json::{Map, Value};

use crate::fetch::failure::Failure;
use crate::fetch::remote::Remote;
use crate::keys::crypto::Budget;
use crate::keys::key::Key;
use crate::reply::{DenyReason, percent_encode};

/// The largest answer that is read, in bytes: that of the longest token.
pub const LARGEST: usize = crate::token::compact::LONGEST;
/// The media type that is asked for.
pub const ACCEPT: &str = "application/json";
/// The most questions that are under way at a time.
const MOST_UNDER_WAY: usize = 32;
/// The most questions in a second.
const MOST_PER_SECOND: u32 = 50;
/// How many refused tokens are remembered. Within the longest time they are more, and are then asked about again.
const MOST_REFUSED: u64 = 2048;
/// How long an answer is kept for the requests that have waited for it. The requests run within a tick.
const KEPT: Duration = Duration::from_secs(2);
/// After so many failures in a row the endpoint is not asked for a while.
const MOST_FAILURES: u32 = 5;
/// How long a token is not asked about again whose question failed, and the endpoint after its first failures.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest time for which the endpoint is not asked.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// The endpoint of a provider, and how it is asked.
pub struct Introspection {
    /// Where it is, with the headers that authenticate the filter.
    pub remote: Remote,
    /// What authenticates the filter in the body.
    pub credentials: String,
    /// How long an answer is used at most, in seconds.
    pub longest: u64,
    /// Whether it is asked about tokens that are JWTs, too.
    pub jwts: bool,
    /// Stands for the endpoint in the place of the key that has signed a token.
    pub key: Rc<Key>,
}

/// Shows no credentials.
impl fmt::Debug for Introspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Introspection").field("remote", &self.remote).finish_non_exhaustive()
    }
}

impl Introspection {
    /// The body of the question about a token (RFC 7662 section 2.1).
    pub fn body(&self, token: &[u8]) -> String {
        let mut body = "token=".to_owned();
        percent_encode(token, &mut body);
        body.push_str("&token_type_hint=access_token");
        body.push_str(&self.credentials);
        body
    }
}

/// What the endpoint says of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is active and claims this.
    Active(Rc<Map<String, Value>>),
    /// It is not.
    Inactive,
}

impl Answer {
    /// Reads the answer (RFC 7662 section 2.2).
    ///
    /// # Errors
    /// The body is no such answer.
    #[inline(never)]
    pub fn parse(body: &[u8]) -> Result<Self, Failure> {
        const EXPECTED: &str = "not an answer of introspection: expected a JSON object with `active`, which is true or false, and no name twice";
        let members = json::object(body).map_err(|_| Failure::content(body, EXPECTED))?;
        match members.get("active") {
            Some(Value::Bool(true)) => Ok(Self::Active(members.into())),
            Some(Value::Bool(false)) => Ok(Self::Inactive),
            _ => Err(Failure::content(body, EXPECTED)),
        }
    }
}

/// What is known about a token.
#[derive(Debug, PartialEq, Eq)]
pub enum Known {
    /// The endpoint has answered.
    Answer(Answer),
    /// The token was refused for this reason.
    Refused(DenyReason),
    /// The question of this number is under way, or is to be asked (with [`Questions::started`]).
    Question {
        /// The number.
        number: u32,
        /// Whether it is to be asked.
        ask: bool,
    },
    /// It cannot be known now.
    Unavailable(DenyReason),
}

/// The questions to the endpoint of one provider.
pub struct Questions {
    asked: Vec<Question>,
    refused: Vec<Option<Refused>>,
    seed: u64,
    number: u32,
    budget: Budget,
    /// Failures in a row.
    failures: u32,
    /// The endpoint is not asked before this.
    not_before: Duration,
    timeout: Duration,
}

struct Question {
    number: u32,
    token: Box<[u8]>,
    state: State,
}

enum State {
    /// A request wants to ask it.
    Wanted,
    /// It is under way since then.
    UnderWay(Duration),
    /// The answer has come then.
    Answered(Answer, Duration),
    /// There is no answer; it can be asked again then.
    Failed(Duration),
}

/// A token that was refused, by its hash: if two tokens have the same, one is refused that might be good.
struct Refused {
    hash: [u64; 2],
    reason: DenyReason,
    until: Duration,
}

impl Questions {
    /// No questions yet. `seed` makes it unforeseeable which tokens share a place.
    pub fn new(endpoint: &Introspection, seed: u64) -> Self {
        Self {
            asked: Vec::new(),
            refused: (0..MOST_REFUSED).map(|_| None).collect(),
            seed,
            number: 0,
            budget: Budget::new(MOST_PER_SECOND),
            failures: 0,
            not_before: Duration::ZERO,
            timeout: endpoint.remote.settings.timeout,
        }
    }

    /// What is known about a token. If nothing is, there is a question about it then, unless too many are asked.
    pub fn about(&mut self, token: &[u8], now: Duration) -> Known {
        let (hash, slot) = self.slot(token);
        let refused = self.refused.get(slot).and_then(Option::as_ref);
        if let Some(refused) = refused.filter(|refused| refused.hash == hash && now < refused.until) {
            return Known::Refused(refused.reason);
        }
        if let Some(question) = self.asked.iter().find(|question| equal(&question.token, token)) {
            let number = question.number;
            match &question.state {
                State::Wanted => return Known::Question { number, ask: true },
                State::UnderWay(_) => return Known::Question { number, ask: false },
                State::Answered(answer, at) if now < at.saturating_add(KEPT) => {
                    return Known::Answer(answer.clone());
                }
                State::Failed(until) if now < *until => {
                    return Known::Unavailable(DenyReason::IntrospectionUnavailable);
                }
                State::Answered(..) | State::Failed(_) => {}
            }
        }
        // What nobody has asked in the callback in which it was wanted is not asked any more.
        self.asked.retain(|question| !matches!(question.state, State::Wanted) && *question.token != *token);
        let under_way = self.under_way();
        if now < self.not_before || (self.failures >= MOST_FAILURES && under_way > 0) {
            return Known::Unavailable(DenyReason::IntrospectionUnavailable);
        }
        if under_way >= MOST_UNDER_WAY || !self.budget.take(now) {
            return Known::Unavailable(DenyReason::TooManyIntrospections);
        }
        self.number = self.number.wrapping_add(1);
        let number = self.number;
        self.asked.push(Question { number, token: token.into(), state: State::Wanted });
        Known::Question { number, ask: true }
    }

    /// When an answer may be there that could not be had.
    pub fn next(&self, now: Duration) -> Duration {
        self.not_before.max(now.saturating_add(FIRST_RETRY))
    }

    /// The token that the question of this number is about.
    pub fn token(&self, number: u32) -> Option<&[u8]> {
        self.asked.iter().find(|question| question.number == number).map(|question| &*question.token)
    }

    /// The question was sent.
    pub fn started(&mut self, number: u32, now: Duration) {
        self.set(number, State::UnderWay(now));
    }

    /// The answer has come.
    pub fn answered(&mut self, number: u32, answer: Answer, now: Duration, longest: u64) {
        self.failures = 0;
        self.not_before = now;
        if answer == Answer::Inactive
            && let Some(token) = self.token(number).map(<[u8]>::to_vec)
        {
            self.refuse(&token, DenyReason::Inactive, now, longest);
        }
        self.set(number, State::Answered(answer, now));
    }

    /// There is no answer.
    pub fn failed(&mut self, number: u32, now: Duration) {
        // What was asked before the endpoint was given up says nothing new.
        if now >= self.not_before {
            self.failures = self.failures.saturating_add(1);
            if let Some(doublings) = self.failures.checked_sub(MOST_FAILURES) {
                let wait =
                    FIRST_RETRY.saturating_mul(1_u32.wrapping_shl(doublings.min(16))).min(LONGEST_RETRY);
                self.not_before = now.saturating_add(wait);
            }
        }
        self.set(number, State::Failed(now.saturating_add(FIRST_RETRY)));
    }

    /// Remembers for so many seconds that a token is refused.
    pub fn refuse(&mut self, token: &[u8], reason: DenyReason, now: Duration, longest: u64) {
        let until = now.saturating_add(Duration::from_secs(longest));
        let (hash, slot) = self.slot(token);
        if let Some(slot) = self.refused.get_mut(slot) {
            *slot = Some(Refused { hash, reason, until });
        }
    }

    /// To be called about once a second: forgets what nobody needs any more. Returns the numbers of questions without an answer,
    /// which the proxy should have given by now.
    pub fn tick(&mut self, now: Duration) -> Vec<u32> {
        let patience = self.timeout.saturating_add(Duration::from_secs(1));
        let lost = self.asked.iter().filter(|question| {
            matches!(question.state, State::UnderWay(since) if now >= since.saturating_add(patience))
        });
        let lost: Vec<u32> = lost.map(|question| question.number).collect();
        for number in &lost {
            self.failed(*number, now);
        }
        self.asked.retain(|question| match question.state {
            State::Wanted => false,
            State::UnderWay(_) => true,
            State::Answered(_, at) => now < at.saturating_add(KEPT),
            State::Failed(until) => now < until,
        });
        lost
    }

    fn under_way(&self) -> usize {
        self.asked.iter().filter(|question| matches!(question.state, State::UnderWay(_))).count()
    }

    fn set(&mut self, number: u32, state: State) {
        if let Some(question) = self.asked.iter_mut().find(|question| question.number == number) {
            question.state = state;
        }
    }

    fn slot(&self, token: &[u8]) -> ([u64; 2], usize) {
        let mut keyed = KeyedHash::with_seed(self.seed);
        keyed.write(token);
        let hash @ [first, _] = keyed.finish();
        (hash, usize::try_from(first % MOST_REFUSED).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::remote::Settings;
    use crate::keys::key::Material;

    fn endpoint() -> Introspection {
        let timeout = Duration::from_secs(2);
        let [duration, min_interval, stale_if_error] = [Duration::ZERO; 3];
        let settings = Settings { duration, min_interval, timeout, stale_if_error };
        Introspection {
            remote: Remote::parse("https://issuer.test/", None, settings).unwrap(),
            credentials: "&client_secret=s3cr3t".to_owned(),
            longest: 30,
            jwts: false,
            key: Rc::new(Key {
                kid: None,
                algorithms: Vec::new(),
                material: Material::Secret(Vec::new()),
                spki: Vec::new(),
            }),
        }
    }

    #[test]
    fn question_holds_the_token_alone_and_shows_no_secret() {
        let endpoint = endpoint();
        assert_eq!(
            endpoint.body(b"a&client_id=b+/"),
            "token=a%26client_id%3Db%2B%2F&token_type_hint=access_token&client_secret=s3cr3t"
        );
        assert!(!format!("{endpoint:?}").contains("s3cr3t"));
    }

    #[test]
    fn only_true_is_active() {
        assert!(matches!(Answer::parse(br#"{"active":true}"#), Ok(Answer::Active(_))));
        assert_eq!(Answer::parse(br#"{"active":false,"sub":"a"}"#), Ok(Answer::Inactive));
        for body in [
            "",
            "{}",
            "true",
            "[]",
            "null",
            r#"{"active":"true"}"#,
            r#"{"active":1}"#,
            r#"{"active":null}"#,
            r#"{"active":[true]}"#,
            r#"{"Active":true}"#,
            r#"{"active":true,"active":true}"#,
            r#"{"active":true,"sub":"a","sub":"b"}"#,
            r#"{"active":true}{"active":true}"#,
        ] {
            let error = Answer::parse(body.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("not an answer of introspection"), "{body}: {error}");
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn asked(questions: &mut Questions, token: &[u8], now: u64) -> u32 {
        match questions.about(token, seconds(now)) {
            Known::Question { number, ask: true } => {
                questions.started(number, seconds(now));
                number
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn answer_is_for_the_token_that_was_asked_about() {
        let mut questions = Questions::new(&endpoint(), 1);
        let (a, b) = (asked(&mut questions, b"a", 0), asked(&mut questions, b"b", 0));
        assert_eq!(questions.about(b"a", seconds(0)), Known::Question { number: a, ask: false });
        let answer = Answer::parse(br#"{"active":true,"sub":"b"}"#).unwrap();
        questions.answered(b, answer.clone(), seconds(0), 30);
        assert_eq!(questions.about(b"a", seconds(0)), Known::Question { number: a, ask: false });
        assert_eq!(questions.about(b"b", seconds(1)), Known::Answer(answer));
        questions.tick(seconds(2));
        assert!(matches!(questions.about(b"b", seconds(2)), Known::Question { ask: true, .. }));
    }

    #[test]
    fn refused_token_is_remembered_and_no_other() {
        let mut questions = Questions::new(&endpoint(), 1);
        let a = asked(&mut questions, b"a", 0);
        questions.answered(a, Answer::Inactive, seconds(0), 30);
        questions.tick(seconds(10));
        assert_eq!(questions.about(b"a", seconds(29)), Known::Refused(DenyReason::Inactive));
        assert!(matches!(questions.about(b"a", seconds(30)), Known::Question { ask: true, .. }));
        for n in 0..1000_u32 {
            let other = n.to_be_bytes();
            let known = questions.about(&other, seconds(20 + u64::from(n)));
            assert!(matches!(known, Known::Question { ask: true, .. }), "{n}: {known:?}");
        }
    }

    #[test]
    fn question_that_nobody_sends_is_forgotten() {
        let mut questions = Questions::new(&endpoint(), 1);
        let Known::Question { number, ask: true } = questions.about(b"a", seconds(0)) else { panic!() };
        assert_eq!(questions.about(b"a", seconds(0)), Known::Question { number, ask: true });
        questions.about(b"b", seconds(0));
        assert_eq!(questions.token(number), None);
    }

    #[test]
    fn failures_at_one_time_count_once_more_than_it_takes() {
        let mut questions = Questions::new(&endpoint(), 1);
        let numbers: Vec<u32> = (0..32_u8).map(|n| asked(&mut questions, &[n], 0)).collect();
        for number in numbers {
            questions.failed(number, seconds(2));
        }
        let unavailable = Known::Unavailable(DenyReason::IntrospectionUnavailable);
        assert_eq!(questions.about(b"new", seconds(2)), unavailable);
        assert_eq!(questions.next(seconds(2)), seconds(3));
        let one = asked(&mut questions, b"new", 3);
        assert_eq!(questions.about(b"other", seconds(3)), unavailable, "one at a time");
        questions.answered(one, Answer::Inactive, seconds(3), 30);
        asked(&mut questions, b"other", 3);
        asked(&mut questions, b"another", 3);
    }

    #[test]
    fn lost_question_is_given_up() {
        let mut questions = Questions::new(&endpoint(), 1);
        let number = asked(&mut questions, b"a", 0);
        assert!(questions.tick(seconds(2)).is_empty());
        assert_eq!(questions.tick(seconds(3)), [number]);
        assert_eq!(
            questions.about(b"a", seconds(3)),
            Known::Unavailable(DenyReason::IntrospectionUnavailable)
        );
    }
}
