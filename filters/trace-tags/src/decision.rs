//! The decision: which tags a request has, when each is settled, and what goes on with the request.

use std::borrow::Cow;

use plugin_kit::host::HostError;
use plugin_kit::request::exchange::Exchange;
use plugin_kit::request::source::HeaderReads;
use smallvec::SmallVec;

use crate::config::Config;
use crate::tags::request_id::{Origin, RequestId};
use crate::tags::tag::{Candidate, Phase, Tag};
use crate::tags::{baggage, request_id};

/// What is known of one stream.
#[derive(Debug, Default)]
pub struct Stream {
    seen: bool,
    request_id: Option<RequestId>,
    /// The tags that a later source may still change or that wait for the response.
    waiting: SmallVec<[Waiting; 2]>,
    /// Names and values of the settled tags that go on as baggage.
    sent: Vec<(String, Vec<u8>)>,
}

#[derive(Debug)]
struct Waiting {
    /// The tag's position in the configuration.
    tag: usize,
    /// What it will show if nothing better is found.
    candidate: Option<Candidate<'static>>,
}

/// A key of filter state, and its value.
pub type Written<'a> = (&'a str, Cow<'a, [u8]>);

/// What is to be done about a stream, and what is to be counted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects<'a> {
    /// Filter state to write.
    pub tags: SmallVec<[Written<'a>; 4]>,
    /// A request ID to set on the request, in the place of what it has.
    pub request_header: Option<RequestId>,
    /// What is to be done about the request's baggage.
    pub baggage: Change,
    /// A request ID to set on the response.
    pub response_header: Option<RequestId>,
    /// How the request came to its ID.
    pub origin: Option<Origin>,
    /// How many tags ended without a value.
    pub missing: u32,
    /// What could not be read. The tags that needed it are missing; the request goes on.
    pub failures: Vec<HostError>,
}

/// What is to be done about a header.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    #[default]
    None,
    /// To set it to this value.
    Set(String),
    /// To remove it.
    Remove,
}

/// The filter without its shell.
#[derive(Debug)]
pub struct Core {
    config: Config,
}

impl Core {
    /// A filter with this configuration.
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// Whether a tag or the request ID comes from a header.
    pub fn reads_headers(&self) -> bool {
        self.config.head_use != HeaderReads::Nothing
    }

    /// As the request comes in. Does nothing for a stream that it has seen already.
    pub fn on_request(
        &self,
        stream: &mut Stream,
        exchange: &Exchange<'_>,
        random: impl FnOnce() -> Result<u128, HostError>,
    ) -> Effects<'_> {
        let mut effects = Effects::default();
        if std::mem::replace(&mut stream.seen, true) {
            return effects;
        }
        if let Err(failure) = self.config.head_use.prepare(exchange) {
            effects.failures.push(failure);
        }
        if self.config.request_id.is_some() {
            let header = exchange.header_joined(request_id::HEADER);
            match header.and_then(|header| RequestId::of(header, random)) {
                Ok((id, origin)) => {
                    if origin != Origin::Kept {
                        effects.request_header = Some(id.clone());
                    }
                    effects.origin = Some(origin);
                    stream.request_id = Some(id);
                }
                Err(failure) => effects.failures.push(failure),
            }
        }
        for (position, tag) in self.config.tags.iter().enumerate() {
            if !tag.when().has(stream.request_id.as_ref()) {
                continue;
            }
            let candidate = tag.in_request(exchange, stream.request_id.as_ref()).unwrap_or_else(|failure| {
                effects.failures.push(failure);
                None
            });
            if tag.phase(candidate.as_ref()) > Phase::Request {
                let candidate = candidate.map(Candidate::into_owned);
                stream.waiting.push(Waiting { tag: position, candidate });
            } else {
                self.settle(tag, candidate, exchange, &mut stream.sent, &mut effects);
            }
        }
        effects
    }

    /// What the request alone says about tags that later sources may still change: for streams that end early.
    pub fn known_so_far<'a>(&'a self, stream: &Stream, effects: &mut Effects<'a>) {
        let known = stream.waiting.iter().filter_map(|waiting| {
            let tag = self.config.tags.get(waiting.tag).filter(|tag| tag.when().status_from.is_none())?;
            Some((tag.key(), tag.shown_candidate(waiting.candidate.as_ref()?)))
        });
        effects.tags.extend(known);
    }

    /// When the filters that verify claims have run.
    pub fn on_claims(&self, stream: &mut Stream, exchange: &Exchange<'_>) -> Effects<'_> {
        let mut effects = Effects::default();
        self.settle_all(stream, exchange, Phase::Claims, None, &mut effects);
        effects
    }

    /// As the request goes on: what it brings to the service as baggage.
    pub fn on_pass(&self, stream: &Stream, exchange: &Exchange<'_>, effects: &mut Effects<'_>) {
        let Some(baggage) = &self.config.baggage else { return };
        let tags = stream.sent.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        let incoming = exchange.header_joined(baggage::HEADER).unwrap_or_else(|failure| {
            effects.failures.push(failure);
            // What cannot be read must not go on either.
            Some(Vec::new())
        });
        let outgoing = baggage.outgoing(incoming.as_deref().unwrap_or_default(), tags);
        effects.baggage = match (incoming, outgoing) {
            (None, None) => Change::None,
            (Some(incoming), Some(outgoing)) if incoming == outgoing.as_bytes() => Change::None,
            (_, Some(outgoing)) => Change::Set(outgoing),
            (Some(_), None) => Change::Remove,
        };
    }

    /// Whether a tag depends on the response's status.
    pub fn reads_status(&self) -> bool {
        self.config.tags.iter().any(|tag| tag.when().status_from.is_some())
    }

    /// As the response passes, with its status if that was to be read.
    pub fn on_response(
        &self,
        stream: &mut Stream,
        exchange: &Exchange<'_>,
        status: Option<u16>,
    ) -> Effects<'_> {
        let mut effects = Effects::default();
        self.settle_all(stream, exchange, Phase::Response, status, &mut effects);
        if self.config.request_id.is_some_and(|ids| ids.echo) {
            effects.response_header.clone_from(&stream.request_id);
        }
        effects
    }

    /// Whether anything is left to do for a stream when its request has gone on.
    pub fn keeps(&self, stream: &Stream) -> bool {
        self.config.request_id.is_some_and(|ids| ids.echo) || !stream.waiting.is_empty()
    }

    /// When the stream is over. All is settled already where there was a response.
    pub fn on_end(&self, stream: &mut Stream, exchange: &Exchange<'_>) -> Effects<'_> {
        let mut effects = Effects::default();
        self.settle_all(stream, exchange, Phase::Response, None, &mut effects);
        effects
    }

    /// Settles the tags whose moment has come.
    fn settle_all<'a>(
        &'a self,
        stream: &mut Stream,
        exchange: &Exchange<'_>,
        now: Phase,
        status: Option<u16>,
        effects: &mut Effects<'a>,
    ) {
        let Stream { waiting, sent, .. } = stream;
        waiting.retain_mut(|waiting| {
            let Some(tag) = self.config.tags.get(waiting.tag) else { return false };
            if tag.phase(waiting.candidate.as_ref()) > now {
                return true;
            }
            if tag.when().allows(status) {
                self.settle(tag, waiting.candidate.take(), exchange, sent, effects);
            }
            false
        });
    }

    /// Writes a tag: nothing can change it any more.
    fn settle<'a>(
        &'a self,
        tag: &'a Tag,
        candidate: Option<Candidate<'a>>,
        exchange: &Exchange<'_>,
        sent: &mut Vec<(String, Vec<u8>)>,
        effects: &mut Effects<'a>,
    ) {
        match tag.settled(exchange, candidate) {
            Ok(Some(value)) => {
                if self.config.baggage.as_ref().is_some_and(|baggage| baggage.sends(tag.name())) {
                    sent.push((tag.name().to_owned(), value.to_vec()));
                }
                effects.tags.push((tag.key(), value));
            }
            Ok(None) => effects.missing = effects.missing.saturating_add(1),
            Err(failure) => {
                effects.missing = effects.missing.saturating_add(1);
                effects.failures.push(failure);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plugin_kit::testing::FakeHost;

    const ID: &str = "0b8a2a3e-0000-4000-8000-000000000000";

    fn core(json: &str) -> Core {
        let env = |name: &str| (name == "PSEUDONYM_KEY").then(|| "0123456789abcdef".to_owned());
        Core::new(Config::parse(json.as_bytes(), &env, Phase::Claims).unwrap())
    }

    fn shown(effects: &Effects<'_>) -> Vec<String> {
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
        effects.tags.iter().map(|(key, value)| format!("{key}={}", text(value))).collect()
    }

    fn request() -> FakeHost {
        FakeHost::request("GET", "/learn")
            .header("x-request-id", ID)
            .property("xds.node.metadata.LABELS.version", "v1")
    }

    const PSEUDONYM_OF_ALICE: &str = "tag.enduser.pseudo.id=_b-LHKzT1XjgYtDkEQQ1fQ";

    #[test]
    fn each_tag_is_written_when_its_last_source_is_known() {
        let core = core("{}");
        let mut stream = Stream::default();
        let facts = request();
        let exchange = Exchange::new(1, &facts);
        let effects = core.on_request(&mut stream, &exchange, || Ok(0));
        assert_eq!(shown(&effects), [format!("tag.request.id={ID}"), "tag.service.version=v1".to_owned()]);
        assert_eq!((effects.request_header, effects.origin), (None, Some(Origin::Kept)));

        let facts = request().property("jwt.sub", "alice");
        let effects = core.on_response(&mut stream, &Exchange::new(1, &facts), None);
        assert_eq!(shown(&effects), [PSEUDONYM_OF_ALICE]);
        assert_eq!(core.on_end(&mut stream, &Exchange::new(1, &facts)), Effects::default());
    }

    #[test]
    fn claims_of_the_same_module_settle_before_the_response() {
        let core = core("{}");
        let mut stream = Stream::default();
        let facts = request();
        let exchange = Exchange::new(1, &facts);
        core.on_request(&mut stream, &exchange, || Ok(0));
        exchange.note_published("jwt.sub", *b"alice");
        assert_eq!(shown(&core.on_claims(&mut stream, &exchange)), [PSEUDONYM_OF_ALICE]);
        assert_eq!(core.on_response(&mut stream, &exchange, None), Effects::default());
    }

    #[test]
    fn the_first_source_that_has_a_value_gives_it_whenever_it_is_known() {
        let core = core(
            r#"{"tags":[
                {"name":"a","from":[{"claim":"org"},{"header":"x-org","trust":true},{"literal":"none"}]},
                {"name":"b","from":[{"header":"x-org","trust":true},{"claim":"org"}]},
                {"name":"c","from":[{"filterState":"wasm.jwt.deny_code"},{"claim":"org"}]}
            ]}"#,
        );
        let at_once = |facts: &FakeHost, stream: &mut Stream| {
            let exchange = Exchange::new(1, facts);
            let effects = shown(&core.on_request(stream, &exchange, || Ok(0)));
            let mut known = Effects::default();
            core.known_so_far(stream, &mut known);
            (effects, shown(&known))
        };
        let later = |facts: &FakeHost, stream: &mut Stream| {
            let exchange = Exchange::new(1, facts);
            (shown(&core.on_claims(stream, &exchange)), core.on_response(stream, &exchange, None))
        };
        let mut stream = Stream::default();
        let facts = request().header("x-org", "from-header");
        let (written, known) = at_once(&facts, &mut stream);
        assert_eq!((written, known), (vec!["tag.b=from-header".into()], vec!["tag.a=from-header".into()]));
        let (claims, response) = later(&facts.property("jwt.org", "from-claim"), &mut stream);
        assert_eq!(claims, ["tag.a=from-claim"]);
        assert_eq!(shown(&response), ["tag.c=from-claim"]);

        let mut stream = Stream::default();
        let (written, known) = at_once(&request(), &mut stream);
        assert_eq!((written, known), (vec![], vec!["tag.a=none".into()]));
        let (claims, response) = later(&request(), &mut stream);
        assert_eq!(claims, ["tag.a=none"]);
        assert_eq!((shown(&response), response.missing), (vec![], 1));
    }

    #[test]
    fn a_request_id_is_generated_replaced_and_echoed() {
        let core = core(r#"{"requestId":{"echo":true},"tags":[{"name":"id","from":[{"requestId":{}}]}]}"#);
        let text = |id: &RequestId| String::from_utf8_lossy(id.as_bytes()).into_owned();
        let run = |facts: &FakeHost| {
            let mut stream = Stream::default();
            let exchange = Exchange::new(1, facts);
            let effects = core.on_request(&mut stream, &exchange, || Ok(0));
            let tag = shown(&effects);
            let response = core.on_response(&mut stream, &exchange, None).response_header.unwrap();
            assert_eq!(tag, [format!("tag.id={}", text(&response))]);
            (effects.origin.unwrap(), effects.request_header.map(|id| text(&id)))
        };
        let zero = "00000000-0000-9000-8000-000000000000".to_owned();
        assert_eq!(run(&request()), (Origin::Kept, None));
        assert_eq!(run(&FakeHost::request("GET", "/")), (Origin::Generated, Some(zero.clone())));
        let twice = request().header("x-request-id", "other");
        assert_eq!(run(&twice), (Origin::Replaced, Some(zero)));
    }

    #[test]
    fn a_tag_for_errors_waits_for_the_response() {
        let core = core(
            r#"{"tags":[{"name":"path","from":[{"path":{},"trust":true}],"when":{"statusFrom":400}},
                {"name":"some","from":[{"method":{},"trust":true}],"when":{"percentage":0}},
                {"name":"all","from":[{"method":{},"trust":true}],"when":{"percentage":100}}]}"#,
        );
        assert!(core.reads_status());
        let run = |status: Option<u16>| {
            let mut stream = Stream::default();
            let facts = request();
            let exchange = Exchange::new(1, &facts);
            let mut early = core.on_request(&mut stream, &exchange, || Ok(0));
            core.known_so_far(&stream, &mut early);
            assert_eq!(shown(&early), ["tag.all=GET"]);
            let effects = core.on_response(&mut stream, &exchange, status);
            (shown(&effects).concat(), effects.missing)
        };
        assert_eq!(run(Some(200)), (String::new(), 0));
        assert_eq!(run(Some(503)), ("tag.path=/learn".to_owned(), 0));
        assert_eq!(run(None), ("tag.path=/learn".to_owned(), 0));
    }

    #[test]
    fn a_stream_is_kept_as_long_as_something_is_to_come() {
        let kept = |json: &str, ended: bool| {
            let core = core(json);
            let (mut stream, facts) = (Stream::default(), request());
            let exchange = Exchange::new(1, &facts);
            core.on_request(&mut stream, &exchange, || Ok(0));
            let before = core.keeps(&stream);
            let end = if ended { shown(&core.on_end(&mut stream, &exchange)) } else { Vec::new() };
            (before, core.keeps(&stream), end)
        };
        let at_once = r#"{"tags":[{"name":"m","from":[{"method":{},"trust":true}]}]}"#;
        assert_eq!(kept(at_once, false), (false, false, vec![]));
        let for_errors =
            r#"{"tags":[{"name":"m","from":[{"method":{},"trust":true}],"when":{"statusFrom":400}}]}"#;
        assert!(!core(at_once).reads_status());
        assert_eq!(kept(for_errors, false), (true, true, vec![]));
        assert_eq!(kept(for_errors, true), (true, false, vec!["tag.m=GET".into()]));
        let echo = r#"{"requestId":{"echo":true},"tags":[{"name":"m","from":[{"method":{},"trust":true}]}]}"#;
        assert_eq!(kept(echo, false), (true, true, vec![]));
    }

    #[test]
    fn headers_are_read_where_a_tag_or_the_request_id_comes_from_one() {
        let reads = |json: &str| core(json).reads_headers();
        assert!(reads(r#"{"tags":[{"name":"a","from":[{"requestId":{}}]}]}"#));
        assert!(reads(r#"{"tags":[{"name":"a","from":[{"header":"a","trust":true}]}]}"#));
        assert!(!reads(r#"{"tags":[{"name":"a","from":[{"claim":"org"}]}]}"#));
    }

    #[test]
    fn baggage_is_what_is_kept_and_what_is_sent() {
        let core = core(
            r#"{"tags":[{"name":"enduser.pseudo.id","from":[{"claim":"sub"}],"pseudonym":{}}],
                "baggage":{"keep":["tenant"],"send":["enduser.pseudo.id"]}}"#,
        );
        let run = |facts: &FakeHost, sub: &str| {
            let mut stream = Stream::default();
            let exchange = Exchange::new(1, facts);
            core.on_request(&mut stream, &exchange, || Ok(0));
            exchange.note_published("jwt.sub", sub.as_bytes());
            let mut effects = core.on_claims(&mut stream, &exchange);
            core.on_pass(&stream, &exchange, &mut effects);
            effects.baggage
        };
        let alice = "enduser.pseudo.id=_b-LHKzT1XjgYtDkEQQ1fQ";
        assert_eq!(run(&request(), "alice"), Change::Set(alice.to_owned()));
        assert_eq!(run(&request(), ""), Change::None);
        let brought =
            request().header("baggage", "tenant=a, enduser.pseudo.id=mallory").header("baggage", "x=y");
        assert_eq!(run(&brought, "alice"), Change::Set(format!("{alice},tenant=a")));
        assert_eq!(run(&request().header("baggage", "x=y"), ""), Change::Remove);
        assert_eq!(run(&request().header("baggage", "tenant=a"), ""), Change::None);
    }

    #[test]
    fn a_stream_that_was_seen_is_not_read_again() {
        let core = core("{}");
        let mut stream = Stream::default();
        let facts = FakeHost::request("GET", "/");
        let exchange = Exchange::new(1, &facts);
        assert!(core.on_request(&mut stream, &exchange, || Ok(0)).request_header.is_some());
        assert_eq!(core.on_request(&mut stream, &exchange, || Ok(1)), Effects::default());
    }

    #[test]
    fn without_a_random_number_a_request_gets_no_id_and_goes_on() {
        let failure = HostError { call: "random_get", status: 29 };
        let core = core("{}");
        let (mut stream, facts) = (Stream::default(), FakeHost::request("GET", "/"));
        let effects = core.on_request(&mut stream, &Exchange::new(1, &facts), || Err(failure));
        assert_eq!((effects.request_header, effects.origin), (None, None));
        assert_eq!(effects.failures, [failure]);
    }

    #[test]
    fn what_cannot_be_read_is_missing_and_the_request_goes_on() {
        let failure = HostError { call: "get_property", status: 10 };
        let core = core("{}");
        let mut stream = Stream::default();
        let facts = FakeHost { failure: Some(failure), ..request() };
        let exchange = Exchange::new(1, &facts);
        let request = core.on_request(&mut stream, &exchange, || Ok(0));
        let response = core.on_response(&mut stream, &exchange, None);
        assert_eq!((request.tags.len(), response.tags.len()), (0, 0));
        assert_eq!((request.missing, response.missing), (2, 1));
        assert!(request.failures.contains(&failure) && response.failures.contains(&failure));
    }
}
