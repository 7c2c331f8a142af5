//! jwt-auth without a proxy. This module does for the core what the shell does in a proxy.

use std::rc::Rc;
use std::time::Duration;

use jwt_auth::config::Config;
use jwt_auth::decision::{Authenticator, Decision, Denial, Granted, Outcome, Pass, Waited};
use jwt_auth::fetch::documents::Document;
use jwt_auth::fetch::introspection::{self, Answer};
use jwt_auth::fetch::revocation::Revoked;
use jwt_auth::fetch::schedule::max_age;
use jwt_auth::keys::jwk::KeySet;
use jwt_auth::keys::key::{Key, Material};
use jwt_auth::keys::pure_rust;
use jwt_auth::keys::signature::{Verdict as SignatureVerdict, Verifier};
use jwt_auth::reply::{self, DenyReason};
use jwt_auth::token::compact::UntrustedToken;
use plugin_kit::config::{ConfigErrors, Mode};
use plugin_kit::host::{Environment, Flow, HostError};
use plugin_kit::request::cel::CLAIMS;
use plugin_kit::request::exchange::Exchange;
use plugin_kit::trace::{self, Note};
use serde_json::Value;

use super::facts::Facts;
use super::{Denied, Fetch, Shared, Verdict};

const DENY_CODE: &str = "jwt.deny_code";
const DENY_DETAIL: &str = "jwt.deny_detail";

/// The authenticator of a plugin.
pub(super) struct Auth {
    authenticator: Authenticator,
}

/// Checks signatures by the code that a module uses if its proxy cannot check them, and ES512 as well.
struct Signatures;

impl Verifier for Signatures {
    fn verify(&self, key: &Key, token: &UntrustedToken<'_>) -> SignatureVerdict {
        if is_assumed(key) {
            trace::note(|| Note::new("assumed").holds(true));
            return SignatureVerdict::Valid;
        }
        if token.algorithm.is_for_the_host_alone() {
            let valid = es512(key, token).is_some();
            return if valid { SignatureVerdict::Valid } else { SignatureVerdict::Invalid };
        }
        if pure_rust::verify(key, token) { SignatureVerdict::Valid } else { SignatureVerdict::Invalid }
    }
}

/// Checks ES512, which a module leaves to the proxy.
fn es512(key: &Key, token: &UntrustedToken<'_>) -> Option<()> {
    use p521::ecdsa::signature::Verifier;
    use p521::ecdsa::{Signature, VerifyingKey};

    let Material::P521(point) = &key.material else { return None };
    let key = VerifyingKey::from_sec1_bytes(point).ok()?;
    let signature = Signature::from_slice(&token.signature).ok()?;
    key.verify(token.signing_input.as_bytes(), &signature).ok()
}

/// A key set whose only key stands for the one that signed a token: its signatures are assumed to be valid.
fn assumed(algorithms: &[jwt_auth::keys::algorithm::Algorithm]) -> KeySet {
    let key = Key {
        kid: None,
        algorithms: algorithms.to_vec(),
        material: Material::Secret(Vec::new()),
        spki: Vec::new(),
    };
    KeySet::of(vec![Rc::new(key)])
}

/// Whether this is the key of [`assumed`]. No configuration and no issuer can supply one like it.
fn is_assumed(key: &Key) -> bool {
    matches!(&key.material, Material::Secret(secret) if secret.is_empty())
}

impl Auth {
    pub(super) fn configure(
        config: &Value,
        environment: &dyn Environment,
        shared: &Shared,
        plugin: &str,
    ) -> Result<Self, ConfigErrors> {
        let config = Config::read(config, environment)?;
        let mut documents = shared.documents.borrow_mut();
        let authenticator =
            Authenticator::sharing(&mut documents, plugin.as_bytes(), config, Box::new(Signatures), 0);
        Ok(Self { authenticator })
    }

    /// Fetches the documents that are due.
    pub(super) fn tick(&self, shared: &Shared) {
        self.authenticator.tick_questions(shared.monotonic_time.get());
        let documents: Vec<Document> = self.authenticator.documents().collect();
        for document in documents {
            if self.authenticator.tick(document, shared.monotonic_time.get()) {
                self.fetch(shared, document);
            }
        }
    }

    /// Asks an issuer about a token.
    fn ask(&self, shared: &Shared, document: Document) {
        let now = shared.monotonic_time.get();
        let Some((endpoint, question)) = self.authenticator.question(document) else { return };
        let provider = self.authenticator.config().providers.get(document.provider());
        let provider = provider.map(|provider| provider.name.as_str()).unwrap_or_default();
        let answer = match shared.world.introspect(provider, &endpoint.remote, &question) {
            Fetch::Answer { status: 200, body, .. } if body.len() <= introspection::LARGEST => {
                Answer::parse(&body).ok()
            }
            Fetch::Answer { .. } | Fetch::Failed | Fetch::AssumeGood => None,
        };
        self.authenticator.asked(document, now);
        self.authenticator.answered(document, answer, now);
    }

    fn fetch(&self, shared: &Shared, document: Document) {
        if let Document::Answer(..) = document {
            return self.ask(shared, document);
        }
        let now = shared.monotonic_time.get();
        let Some((remote, mut fetching)) = self.authenticator.fetching(document) else { return };
        fetching.started(now);
        drop(fetching);
        let mut fetched = shared.world.fetch(remote, document.accept());
        if shared.world.has_metadata()
            && let (Some(discovery), Fetch::Answer { status: 200, body, .. }) = (&remote.discovery, &fetched)
        {
            let keys = discovery.keys(body, remote);
            fetched = keys.map_or(Fetch::Failed, |keys| shared.world.fetch(&keys, document.accept()));
        }
        if self.receive(document, now, fetched).is_none()
            && let Some((_, mut fetching)) = self.authenticator.fetching(document)
        {
            fetching.failed(now);
        }
    }

    /// Stores an answer. Returns `None` if it is not the document that was asked for.
    fn receive(&self, document: Document, now: Duration, fetched: Fetch) -> Option<()> {
        match (document, fetched) {
            (Document::Keys(provider), Fetch::AssumeGood) => {
                let set = assumed(&self.authenticator.config().providers.get(provider)?.algorithms);
                self.authenticator.remote(provider)?.borrow_mut().succeeded(now, set, None);
            }
            (Document::Revoked(provider), Fetch::AssumeGood) => {
                self.authenticator.revoke(provider, now, Revoked::default(), None);
            }
            (Document::Answer(..), _) | (_, Fetch::Failed) => return None,
            (document, Fetch::Answer { status, cache_control, body }) => {
                if status != 200 || body.len() > jwt_auth::fetch::schedule::LARGEST {
                    return None;
                }
                let max_age = cache_control.and_then(|value| max_age(value.as_bytes()));
                match document {
                    Document::Keys(provider) => {
                        let purpose = self.authenticator.fetching(document)?.0.purpose;
                        let set = KeySet::fetched(&body, purpose).ok()?;
                        self.authenticator.remote(provider)?.borrow_mut().succeeded(now, set, max_age);
                    }
                    Document::Revoked(provider) => {
                        self.authenticator.revoke(provider, now, Revoked::parse(&body).ok()?, max_age);
                    }
                    Document::Answer(..) => return None,
                }
            }
        }
        Some(())
    }

    pub(super) fn request(
        &self,
        shared: &Shared,
        facts: &Facts<'_>,
        exchange: &Exchange<'_>,
    ) -> (Flow, Verdict) {
        if let Some(reply) = self.authenticator.metadata(exchange) {
            trace::note(|| Note::new("metadata"));
            return (Flow::Deny(reply), Verdict::Passed(None));
        }
        let remove = |name: &str| -> Result<(), HostError> {
            facts.remove(name);
            exchange.note_header_removed(name);
            Ok(())
        };
        let mut waited = Waited::default();
        loop {
            let Ok(decision) = self.authenticator.decide(exchange, &mut waited, &remove) else {
                let denial = Denial::of(DenyReason::Internal);
                return self.refuse(shared, facts, &denial, None, exchange);
            };
            let Decision { outcome, clear_claims, observed } = decision;
            match outcome {
                Outcome::Allow(pass) => {
                    self.apply(facts, &pass, clear_claims, exchange);
                    return (Flow::Continue, Verdict::Passed(pass.rule));
                }
                Outcome::Deny(denial) if self.authenticator.config().mode == Mode::Enforce => {
                    return self.refuse(shared, facts, &denial, observed.next_fetch, exchange);
                }
                Outcome::Deny(denial) => {
                    self.note_denial(facts, &denial, exchange);
                    clear_shown_claims(facts, clear_claims);
                    return (Flow::Continue, Verdict::Reported(denied(&denial)));
                }
                Outcome::Wait { document, fetch } => {
                    trace::note(|| Note::new("waited"));
                    // Requests are decided one after the other here, so no other request can change what this
                    // one relies on.
                    if self.authenticator.config().most_waiting == 0 {
                        waited.give_up(document, DenyReason::TooManyWaiting);
                    } else if fetch {
                        self.fetch(shared, document);
                    } else {
                        waited.give_up(document, document.unavailable());
                    }
                }
            }
        }
    }

    fn apply(&self, facts: &Facts<'_>, pass: &Pass<'_>, clear_claims: bool, exchange: &Exchange<'_>) {
        clear_shown_claims(facts, clear_claims);
        for (name, value) in &pass.spent {
            if let Some(value) = value {
                facts.set(name, value);
                exchange.note_header(&**name, value.as_slice());
            } else {
                facts.remove(name);
                exchange.note_header_removed(&**name);
            }
        }
        let Some(token) = pass.identity.as_ref().and_then(Granted::verified) else { return };
        if self.authenticator.config().publish_all
            && let Some(claims) = token.typed()
        {
            facts.set_state(CLAIMS, claims);
        }
        for (name, value) in &token.headers {
            facts.add(name, value);
            exchange.note_header(Rc::clone(name), Rc::clone(value));
        }
        for (key, value) in &token.published {
            facts.set_state(key, value);
            exchange.note_published(Rc::clone(key), Rc::clone(value));
        }
    }

    fn note_denial(&self, facts: &Facts<'_>, denial: &Denial<'_>, exchange: &Exchange<'_>) {
        let code = denial.reason.presentation().code;
        facts.set_state(DENY_CODE, code.as_bytes());
        exchange.note_published(DENY_CODE, code.as_bytes());
        // The detail checks the claims a second time. These notes would repeat the first, and are dropped.
        let (detail, _) = trace::collect(|| self.authenticator.detail(denial, exchange));
        facts.set_state(DENY_DETAIL, detail.as_bytes());
        exchange.note_published(DENY_DETAIL, detail.as_bytes());
    }

    fn refuse(
        &self,
        shared: &Shared,
        facts: &Facts<'_>,
        denial: &Denial<'_>,
        next_fetch: Option<Duration>,
        exchange: &Exchange<'_>,
    ) -> (Flow, Verdict) {
        self.note_denial(facts, denial, exchange);
        for (key, value) in denial.verified().map(|token| token.published.as_slice()).unwrap_or_default() {
            facts.set_state(key, value);
            exchange.note_published(Rc::clone(key), Rc::clone(value));
        }
        let head = exchange.headers().ok();
        let next_fetch = next_fetch.filter(|_| denial.reason.waits());
        let config = self.authenticator.config();
        let context = reply::Context {
            response: &config.deny_response,
            scopes: denial.scopes,
            head: head.as_deref(),
            places: &config.places,
            retry_in: next_fetch
                .map_or(Duration::ZERO, |next| next.saturating_sub(shared.monotonic_time.get())),
        };
        (Flow::Deny(reply::reply(denial.reason, &context)), Verdict::Denied(denied(denial)))
    }
}

/// Clears the claims that were published for a condition, if later filters must not see them.
fn clear_shown_claims(facts: &Facts<'_>, clear: bool) {
    if clear {
        facts.set_state(CLAIMS, b"");
    }
}

fn denied(denial: &Denial<'_>) -> Denied {
    Denied {
        code: denial.reason.presentation().code,
        cause: denial.reason.cause(),
        index: denial.rule,
        scopes: denial.scopes.to_vec(),
    }
}
