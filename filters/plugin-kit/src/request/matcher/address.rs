//! The matcher of client addresses: `sourceAddress`.

use crate::config::{ErrorList, JsonPath, NonEmpty};
use crate::host::{Environment, HostError};
use crate::request::address::{AddressFrom, Cidr, ClientAddress, Found};
use crate::request::exchange::Exchange;
use crate::trace::{self, Note};

crate::config_object! {
    /// A test of the client's address.
    #[derive(Debug, Clone)]
    pub struct RawAddressMatch {
        /// Networks or single addresses, one of which must contain the client's address: `10.0.0.0/8`,
        /// `2001:db8::/32`.
        pub cidrs: NonEmpty<Vec<String>>,
        /// How the client's address is found. A sidecar or a gateway of Istio needs no value; any other proxy
        /// does.
        pub from: Option<AddressFrom>,
        /// The principals of peers whose `x-forwarded-for` is believed:
        /// `cluster.local/ns/istio-ingress/sa/gateway`.
        pub trust_forwarded_from: Vec<String> = Vec::new(),
        /// How many proxies stand in front of a trusted peer and append an address to `x-forwarded-for`.
        pub num_trusted_proxies: usize = 0,
    }
}

/// A test of the client's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressMatch {
    client: ClientAddress,
    cidrs: Vec<Cidr>,
}

impl AddressMatch {
    /// Reads a test, or notes under `path` what is wrong with it.
    pub fn compile(
        raw: &RawAddressMatch,
        path: &JsonPath,
        errors: &mut ErrorList,
        environment: &dyn Environment,
    ) -> Option<Self> {
        let list = path.field("cidrs");
        let cidr = |(n, text): (usize, &String)| errors.check(&list.index(n), Cidr::parse(text));
        let cidrs: Vec<Cidr> = raw.cidrs.iter().enumerate().filter_map(cidr).collect();
        let (trust, proxies) = (&raw.trust_forwarded_from, raw.num_trusted_proxies);
        let client = ClientAddress::parse(raw.from, trust, proxies, path, errors, environment)?;
        (cidrs.len() == raw.cidrs.len()).then_some(Self { client, cidrs })
    }

    /// Whether the client's address is in one of the networks; `None` where it is not known.
    ///
    /// # Errors
    /// The host did not answer.
    pub fn holds(&self, exchange: &Exchange<'_>) -> Result<Option<bool>, HostError> {
        let found = self.client.find(exchange)?;
        let holds = match found {
            Found::Address(address) => Some(self.cidrs.iter().any(|cidr| cidr.contains(address))),
            Found::Peer(_) | Found::Unknown => None,
        };
        trace::note(|| {
            let note = Note::new("sourceAddress").holds(holds);
            if let Found::Address(address) = found { note.received(address) } else { note }
        });
        Ok(holds)
    }
}
