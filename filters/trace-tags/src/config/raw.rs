//! pluginConfig as an operator writes it. The doc comments of the fields are their descriptions in the JSON
//! Schema and in docs/trace-tags.md.

use plugin_kit::config::NonEmpty;
use plugin_kit::config_object;
use plugin_kit::request::pseudonym::RawPseudonym;
use plugin_kit::request::source::RawSource;

use crate::tags::text::Characters;

/// The length at which the value of a tag is cut by default.
pub(super) const MAX_LENGTH: usize = 128;

config_object! {
    /// The configuration of trace-tags.
    #[derive(Debug)]
    pub(super) struct RawConfig {
        /// The tags, at most 32. The usual ones are `enduser.pseudo.id` (the pseudonym of the claim `sub`),
        /// `request.id` and `service.version` (the pod's label `version`). Default: the usual three.
        pub tags: Option<Vec<RawTag>>,
        /// Has the filter look after the request ID. An ID of 1 to 128 ASCII letters, digits and `-._~:@/+=`
        /// is kept. Any other ID, and several IDs, are replaced by a new one, and a request without an ID
        /// gets one. Default: only if a tag needs it.
        pub request_id: Option<RequestIds>,
        /// Which members of the header `baggage` (W3C Baggage) may come in, and which go on to the service.
        /// Default: the header is left alone.
        pub baggage: Option<RawBaggage>,
    }
}

config_object! {
    /// What happens to the request ID, beyond keeping a safe one and replacing any other.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct RequestIds {
        /// Whether all responses, including those of other filters, get the header `x-request-id`, so that an
        /// end user can quote it.
        pub echo: bool = false,
    }
}

config_object! {
    /// Which members of the header `baggage` may come in, and which go on to the service.
    #[derive(Debug)]
    pub(super) struct RawBaggage {
        /// The names of the members that may come with the request. All others are removed.
        pub keep: Vec<String> = Vec::new(),
        /// The tags that go on to the service, under their own names.
        pub send: Vec<String> = Vec::new(),
    }
}

config_object! {
    /// One tag.
    #[derive(Debug)]
    pub(super) struct RawTag {
        /// The name of the tag, unique, of 1 to 64 letters, digits, `.`, `_` and `-`. Its filter state is
        /// `wasm.tag.<name>`.
        pub name: String,
        /// The sources of the value. The first that has a value gives the tag; an empty value counts as
        /// missing. If no source has a value, there is no tag. A `literal` at the end is a default.
        pub from: NonEmpty<Vec<RawSource>>,
        /// Writes a pseudonym instead of the value. Default: none.
        pub pseudonym: Option<RawPseudonym>,
        /// States that traces and logs may hold the value itself. A tag that tells who the end user is needs
        /// this, unless it has a `pseudonym`.
        pub raw: bool = false,
        /// The length in characters, from 1 to 1024, at which a value is cut.
        pub max_length: Option<usize> => MAX_LENGTH,
        /// Which characters a value may have. Others become `_`.
        pub characters: Option<Characters> => Characters::default(),
        /// When the tag is written. Default: always.
        pub when: Option<RawWhen>,
    }
}

config_object! {
    /// When a tag is written. All parts that are given must hold.
    #[derive(Debug, Clone, Copy)]
    pub(super) struct RawWhen {
        /// The tag is written only if the response has this status or a higher one, or if there is no
        /// response: `400` for all errors, `500` for those of the service. It costs a read of the status for
        /// each request. Default: any status.
        pub status_from: Option<u16>,
        /// The tag is written only for this percentage of requests, to four decimals. They are chosen by the
        /// request ID, so that all services that see the ID choose the same requests. Default: `100`.
        pub percentage: Option<f64>,
    }
}
