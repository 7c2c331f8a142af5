//! The configuration as types that cannot be wrong, and how they are made of what an operator wrote.

use plugin_kit::config::{ConfigErrors, Diagnostic, ErrorList, JsonPath, document, not_one_of, read};
use plugin_kit::host::Environment;
use plugin_kit::request::source::{HeaderReads, Source};

use super::raw::{self, RawBaggage, RawConfig, RawTag, RawWhen, RequestIds};
use crate::tags::baggage::{self, Baggage};
use crate::tags::request_id;
use crate::tags::tag::{Phase, Style, Tag};
use crate::tags::when::{Share, When};

/// A valid configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The tags, in the order in which they are written.
    pub tags: Vec<Tag>,
    /// What happens to the request ID; `None` if nothing needs it.
    pub request_id: Option<RequestIds>,
    /// Which baggage goes on with the request; `None` if the header stays as it is.
    pub baggage: Option<Baggage>,
    /// Which headers the tags, the request ID and the baggage read.
    pub head_use: HeaderReads,
    /// What may surprise.
    pub warnings: Vec<Diagnostic>,
}

/// The tags of a pluginConfig without `tags`: user ID, request ID and version.
const DEFAULT_TAGS: &[u8] = br#"{ "tags": [
    { "name": "enduser.pseudo.id", "from": [{ "claim": "sub" }], "pseudonym": {} },
    { "name": "request.id", "from": [{ "requestId": {} }] },
    { "name": "service.version", "from": [{ "workloadLabel": "version" }] }
] }"#;

const MAX_TAGS: usize = 32;
const MAX_LENGTH: usize = 1024;

#[inline(never)]
pub(super) fn compile(raw: RawConfig, env: &dyn Environment, sent_at: Phase) -> Result<Config, ConfigErrors> {
    let raw_tags = match raw.tags {
        Some(tags) => tags,
        None => read::<RawConfig>(&document(DEFAULT_TAGS)?)?.tags.unwrap_or_default(),
    };
    let mut errors = ErrorList::default();
    let list = JsonPath::root().field("tags");
    if raw_tags.len() > MAX_TAGS {
        errors.add(&list, format_args!("expected at most {MAX_TAGS} tags, found {}", raw_tags.len()));
    }
    let mut names = Vec::new();
    let mut tags = Vec::new();
    for (n, tag) in raw_tags.into_iter().enumerate() {
        let path = list.index(n);
        if names.contains(&tag.name) {
            errors.add(&path.field("name"), "is the name of an earlier tag; expected one of its own");
        }
        names.push(tag.name.clone());
        tags.extend(tag.parse(&path, &mut errors, env));
    }
    let request_id =
        raw.request_id.or_else(|| tags.iter().any(Tag::needs_request_id).then(RequestIds::default));
    let baggage =
        raw.baggage.map(|raw| raw.parse(&JsonPath::root().field("baggage"), &mut errors, &tags, sent_at));
    let own = request_id.map_or(HeaderReads::Nothing, |_| HeaderReads::One(request_id::HEADER.to_owned()));
    let brought =
        baggage.as_ref().map_or(HeaderReads::Nothing, |_| HeaderReads::One(baggage::HEADER.to_owned()));
    let head_use = tags.iter().map(Tag::head_use).fold(own.and(brought), HeaderReads::and);
    let config = Config { tags, request_id, baggage, head_use, warnings: Vec::new() };
    let (config, warnings) = errors.finish_with_warnings(Some(config))?;
    Ok(Config { warnings, ..config })
}

impl RawBaggage {
    #[inline(never)]
    fn parse(self, path: &JsonPath, errors: &mut ErrorList, tags: &[Tag], sent_at: Phase) -> Baggage {
        for (n, name) in self.keep.iter().enumerate() {
            if !is_name(name) {
                let path = path.field("keep").index(n);
                errors.add(&path, format_args!("expected {NAME}"));
            }
        }
        for (n, name) in self.send.iter().enumerate() {
            let path = path.field("send").index(n);
            match tags.iter().find(|tag| tag.name() == name) {
                None => {
                    let names: Vec<&str> = tags.iter().map(Tag::name).collect();
                    errors.add(&path, format_args!("no tag of this name; {}", not_one_of(name, &names)));
                }
                Some(tag) if tag.phase(None) > sent_at => errors.add(
                    &path,
                    format_args!(
                        "`{name}` is not known yet when the request goes on; claims are, in mesh-filters, where \
                         trace-tags works together with jwt-auth"
                    ),
                ),
                Some(_) => {}
            }
        }
        Baggage { keep: self.keep, send: self.send }
    }
}

const NAME: &str = "1 to 64 letters, digits, `.`, `_` or `-`";

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}

impl RawTag {
    #[inline(never)]
    fn parse(self, path: &JsonPath, errors: &mut ErrorList, env: &dyn Environment) -> Option<Tag> {
        if !is_name(&self.name) {
            errors.add(&path.field("name"), format_args!("expected {NAME}"));
            return None;
        }
        let from = path.field("from");
        let mut sources = Vec::new();
        for (n, raw) in self.from.iter().enumerate() {
            let path = from.index(n);
            let Some(source) = raw.parse(&path, errors, env) else { continue };
            // The request ID needs no trust: this filter keeps only a harmless ID and replaces any other.
            if raw.is_unverified(&source) && !matches!(source, Source::RequestId) {
                errors.add(
                    &path,
                    "any client can send this; add `trust: true` if a proxy in front sets or checks it",
                );
            }
            sources.push(source);
        }
        let when = self.when.map(|raw| raw.parse(&path.field("when"), errors)).unwrap_or_default();
        let style = self.style(&sources, path, errors, env)?;
        Some(Tag::new(&self.name, sources, style, when))
    }

    fn style(
        &self,
        sources: &[Source],
        path: &JsonPath,
        errors: &mut ErrorList,
        env: &dyn Environment,
    ) -> Option<Style> {
        if let Some(pseudonym) = &self.pseudonym {
            for (given, name) in [
                (self.raw, "raw"),
                (self.max_length.is_some(), "maxLength"),
                (self.characters.is_some(), "characters"),
            ] {
                if given {
                    errors.add(&path.field(name), "has no meaning with `pseudonym`");
                }
            }
            return pseudonym.parse(&path.field("pseudonym"), errors, env).map(Style::Pseudonym);
        }
        if self.name == "enduser.pseudo.id" {
            errors.add(
                path,
                "`enduser.pseudo.id` is a pseudonym: add `pseudonym: {}`, or call the raw value `user.id`",
            );
            return None;
        }
        if sources.iter().any(is_credential) {
            errors.add(
                &path.field("from"),
                "this shows a credential: add `pseudonym: {}`, or take the tag from a claim or another header",
            );
            return None;
        }
        if !self.raw && tells_who_it_is(&self.name, sources) {
            errors.add(
                path,
                "this tells who the user is: add `pseudonym: {}`, or `raw: true` if your traces and logs may hold \
                 personal data",
            );
            return None;
        }
        let max_length = self.max_length.unwrap_or(raw::MAX_LENGTH);
        if !(1..=MAX_LENGTH).contains(&max_length) {
            errors.add(
                &path.field("maxLength"),
                format_args!("expected 1 to {MAX_LENGTH} characters, found {max_length}"),
            );
            return None;
        }
        Some(Style::Text { characters: self.characters.unwrap_or_default(), max_length })
    }
}

impl RawWhen {
    fn parse(self, path: &JsonPath, errors: &mut ErrorList) -> When {
        if let Some(status) = self.status_from.filter(|status| !(100..=599).contains(status)) {
            errors.add(
                &path.field("statusFrom"),
                format_args!("expected a status of 100 to 599, found {status}"),
            );
        }
        let share = self.percentage.and_then(|percentage| {
            let share = Share::from_percentage(percentage);
            if share.is_none() {
                // The number is not shown, since the code that formats a float is a tenth of the module.
                errors.add(&path.field("percentage"), "expected 0 to 100");
            }
            share
        });
        When { status_from: self.status_from, share }
    }
}

/// Whether the name of the tag (an attribute of OpenTelemetry), or that of a claim (`OpenID` Connect Core
/// 1.0, section 5.1), says that the tag identifies a person.
fn tells_who_it_is(name: &str, sources: &[Source]) -> bool {
    name.starts_with("enduser.")
        || name.starts_with("user.")
        || sources.iter().filter_map(claim_of).any(|claim| {
            let mut names = claim.split('.');
            names.any(|name| PERSONAL_CLAIMS.iter().any(|personal| personal.eq_ignore_ascii_case(name)))
        })
}

/// The claim that a source shows, whichever way it is asked for.
fn claim_of(source: &Source) -> Option<&str> {
    let key = match source {
        Source::Claim(key) | Source::FilterState(key) => key,
        Source::Property(path) => match path.as_slice() {
            [first, key] if first == "filter_state" => key,
            _ => return None,
        },
        _ => return None,
    };
    key.strip_prefix("wasm.").unwrap_or(key).strip_prefix("jwt.")
}

/// Whether a source shows what a client proves its identity with. Whoever reads a trace could use it.
fn is_credential(source: &Source) -> bool {
    const CREDENTIALS: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];
    let header = match source {
        Source::Header { name } => name,
        Source::Property(path) => match path.as_slice() {
            [request, headers, name] if request == "request" && headers == "headers" => name,
            _ => return false,
        },
        _ => return false,
    };
    CREDENTIALS.contains(&header.as_str())
}

const PERSONAL_CLAIMS: [&str; 19] = [
    "sub",
    "name",
    "given_name",
    "family_name",
    "middle_name",
    "nickname",
    "preferred_username",
    "profile",
    "picture",
    "email",
    "phone_number",
    "birthdate",
    "address",
    "oid",
    "unique_name",
    "upn",
    "user_id",
    "user_name",
    "username",
];
