//! The documents that a configuration fetches, and what the configurations in one VM share of them.

use std::cell::{RefCell, RefMut};
use std::rc::Rc;
use std::time::Duration;

use crate::fetch::introspection::{self, Questions};
use crate::fetch::remote::Remote;
use crate::fetch::revocation::{OnFailure, Revoked};
use crate::fetch::schedule::{Fetched, Fetching, JwksCache, SharedByUrl};
use crate::keys::jwk::KeySet;
use crate::policy::provider::Provider;
use crate::reply::DenyReason;

/// A document that is fetched for the provider at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// The provider's keys.
    Keys(usize),
    /// The provider's list of revoked tokens.
    Revoked(usize),
    /// What the provider's endpoint says about a token, by the number of the question.
    Answer(usize, u32),
}

impl Document {
    /// The media types to ask for, for `accept`. Kubernetes serves its keys as `application/jwk-set+json`
    /// only, and other servers know only `application/json`.
    pub fn accept(self) -> &'static str {
        match self {
            Self::Keys(_) => "application/jwk-set+json, application/json, */*;q=0.5",
            Self::Revoked(_) => "application/json, */*;q=0.5",
            Self::Answer(..) => introspection::ACCEPT,
        }
    }

    /// The position of the provider.
    pub fn provider(self) -> usize {
        let (Self::Keys(provider) | Self::Revoked(provider) | Self::Answer(provider, _)) = self;
        provider
    }

    /// Why a request that needs this document is refused when it cannot be fetched.
    pub fn unavailable(self) -> DenyReason {
        match self {
            Self::Keys(_) => DenyReason::KeysUnavailable,
            Self::Revoked(_) => DenyReason::RevocationUnavailable,
            Self::Answer(..) => DenyReason::IntrospectionUnavailable,
        }
    }
}

/// Key sets and lists of revoked tokens that the configurations in one VM share.
#[derive(Debug)]
pub struct SharedDocuments {
    keys: SharedByUrl<KeySet>,
    lists: SharedByUrl<Revoked>,
}

impl SharedDocuments {
    /// No documents yet.
    pub const fn new() -> Self {
        Self { keys: SharedByUrl::new(), lists: SharedByUrl::new() }
    }
}

impl Default for SharedDocuments {
    fn default() -> Self {
        Self::new()
    }
}

/// The documents of one configuration, by the positions of its providers.
pub struct Documents {
    keys: Vec<Option<RefCell<JwksCache>>>,
    lists: Vec<Option<RefCell<Fetched<Revoked>>>>,
    questions: Vec<Option<RefCell<Questions>>>,
}

impl Documents {
    /// The documents that these providers need, shared with other configurations of the plugin of this name. What is said
    /// about tokens is not shared. `seed` is any number that clients cannot know.
    #[inline(never)]
    pub fn sharing(shared: &mut SharedDocuments, plugin: &[u8], providers: &[Provider], seed: u64) -> Self {
        let keys = providers.iter().map(|provider| {
            let remote = provider.keys.remote()?;
            Some(RefCell::new(JwksCache::new(remote.settings, shared.keys.of(plugin, remote))))
        });
        let keys = keys.collect();
        let lists = providers.iter().map(|provider| {
            let remote = &provider.revoked_elsewhere.as_ref()?.remote;
            Some(RefCell::new(Fetched::new(remote.settings, shared.lists.of(plugin, remote))))
        });
        let lists = lists.collect();
        let questions = providers.iter().map(|provider| {
            provider.keys.introspection().map(|endpoint| RefCell::new(Questions::new(endpoint, seed)))
        });
        Self { keys, lists, questions: questions.collect() }
    }

    /// The questions about tokens to the provider at this position, if it has an endpoint for them.
    pub fn questions(&self, position: usize) -> Option<&RefCell<Questions>> {
        self.questions.get(position)?.as_ref()
    }

    /// Whether some provider is asked about tokens.
    pub fn asks(&self) -> bool {
        self.questions.iter().any(Option::is_some)
    }

    /// To be called about once a second. Returns the questions that are given up.
    pub fn tick_questions(&self, now: Duration) -> Vec<Document> {
        let mut lost = Vec::new();
        for (n, questions) in self.questions.iter().enumerate() {
            let numbers = questions.as_ref().map(|questions| questions.borrow_mut().tick(now));
            lost.extend(numbers.into_iter().flatten().map(|number| Document::Answer(n, number)));
        }
        lost
    }

    /// Every document, without the answers about tokens.
    pub fn iter(&self) -> impl Iterator<Item = Document> {
        let keys = self.keys.iter().enumerate().filter(|(_, keys)| keys.is_some());
        let lists = self.lists.iter().enumerate().filter(|(_, list)| list.is_some());
        keys.map(|(n, _)| Document::Keys(n)).chain(lists.map(|(n, _)| Document::Revoked(n)))
    }

    /// The fetched keys of the provider at this position, if its keys are fetched.
    pub fn keys(&self, position: usize) -> Option<&RefCell<JwksCache>> {
        self.keys.get(position)?.as_ref()
    }

    /// The fetched list of revoked tokens of the provider at this position, if it has one.
    pub fn list(&self, position: usize) -> Option<&RefCell<Fetched<Revoked>>> {
        self.lists.get(position)?.as_ref()
    }

    /// The lists of revoked tokens, each with the position of its provider.
    pub fn lists(&self) -> impl Iterator<Item = (usize, &RefCell<Fetched<Revoked>>)> {
        self.lists.iter().enumerate().filter_map(|(n, list)| Some((n, list.as_ref()?)))
    }

    /// The key set that `provider`, which is at this position, has now: from the configuration, or as it was
    /// fetched.
    pub fn key_set(&self, position: usize, provider: &Provider) -> Option<Rc<KeySet>> {
        match provider.keys.inline() {
            Some(set) => Some(Rc::clone(set)),
            // No borrow outlives its statement: the host may run another callback of this filter whenever it
            // is called.
            None => self.keys(position)?.borrow().keys(),
        }
    }

    /// Whether `provider`, which is at this position, has a list of revoked tokens that is missing, and
    /// accepts no token without it.
    pub fn denies_without_list(&self, position: usize, provider: &Provider) -> bool {
        let list = provider.revoked_elsewhere.as_ref();
        list.is_some_and(|list| list.on_failure == OnFailure::Deny)
            && self.list(position).is_some_and(|list| list.borrow().value().is_none())
    }

    /// Where a document is fetched, and how far that is; `None` for an answer about a token.
    pub fn fetching<'a>(
        &'a self,
        document: Document,
        providers: &'a [Provider],
    ) -> Option<(&'a Remote, RefMut<'a, dyn Fetching>)> {
        let provider = providers.get(document.provider())?;
        match document {
            Document::Keys(n) => Some((provider.keys.remote()?, self.keys(n)?.borrow_mut())),
            Document::Revoked(n) => {
                Some((&provider.revoked_elsewhere.as_ref()?.remote, self.list(n)?.borrow_mut()))
            }
            Document::Answer(..) => None,
        }
    }
}
