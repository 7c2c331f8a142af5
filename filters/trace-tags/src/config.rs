//! The pluginConfig of trace-tags.

use plugin_kit::config::secret::SecretVariable;
use plugin_kit::config::{ConfigErrors, ErrorList, JsonPath, NonEmpty, document, not_one_of, read};
use plugin_kit::config_object;
use plugin_kit::host::Environment;
use plugin_kit::request::source::{HeaderReads, RawSource, Source};

use serde_json::Value;

use crate::tags::baggage::{self, Baggage};
use crate::tags::pseudonym::Pseudonym;
use crate::tags::request_id;
use crate::tags::tag::{Moment, Style, Tag};
use crate::tags::text::Characters;
use crate::tags::when::{Share, When};

/// A configuration that cannot be wrong.
#[derive(Debug, Clone)]
pub struct Config {
    /// The tags, in the order in which they are written.
    pub tags: Vec<Tag>,
    /// What happens to the request ID; `None` where nothing looks at it.
    pub request_id: Option<RequestIds>,
    /// Which baggage goes on with the request; `None` leaves it as it is.
    pub baggage: Option<Baggage>,
    /// What all of this reads of the request's head.
    pub head_use: HeaderReads,
}

config_object! {
    /// What happens to the request ID, which is kept where it is safe and generated where it is not or is missing.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct RequestIds {
        /// Put it on the response too, so that a user can quote it.
        pub echo: bool = false,
    }
}

config_object! {
    #[derive(Debug)]
    struct RawConfig {
        tags: Option<Vec<RawTag>>,
        request_id: Option<RequestIds>,
        baggage: Option<RawBaggage>,
    }
}

config_object! {
    #[derive(Debug)]
    struct RawBaggage {
        keep: Vec<String> = Vec::new(),
        send: Vec<String> = Vec::new(),
    }
}

config_object! {
    #[derive(Debug)]
    struct RawTag {
        name: String,
        from: NonEmpty<Vec<RawSource>>,
        pseudonym: Option<RawPseudonym>,
        raw: bool = false,
        max_length: Option<usize>,
        characters: Option<Characters>,
        when: Option<RawWhen>,
    }
}

config_object! {
    #[derive(Debug, Clone, Copy)]
    struct RawWhen {
        status_from: Option<u16>,
        percentage: Option<f64>,
    }
}

config_object! {
    #[derive(Debug, Default)]
    struct RawPseudonym {
        key_from: RawKeyFrom = RawKeyFrom::default(),
        key_id: Option<String>,
    }
}

config_object! {
    #[derive(Debug)]
    struct RawKeyFrom {
        env: SecretVariable,
    }
}

/// The environment variable that holds the key of pseudonyms, unless `keyFrom` names another.
pub const KEY_VARIABLE: &str = "PSEUDONYM_KEY";

impl Default for RawKeyFrom {
    fn default() -> Self {
        Self { env: SecretVariable::named(KEY_VARIABLE) }
    }
}

/// User ID, request ID and version: the tags of a pluginConfig that names none.
const DEFAULT_TAGS: &[u8] = br#"{ "tags": [
    { "name": "enduser.pseudo.id", "from": [{ "claim": "sub" }], "pseudonym": {} },
    { "name": "request.id", "from": [{ "requestId": {} }] },
    { "name": "service.version", "from": [{ "workloadLabel": "version" }] }
] }"#;

const MAX_TAGS: usize = 32;
const DEFAULT_LENGTH: usize = 128;
const MAX_LENGTH: usize = 1024;

impl Config {
    /// Reads a pluginConfig. `env` looks up environment variables and compiles CEL. `sent_at` is the moment at which the
    /// request goes on: [`Moment::Request`] for a plugin of its own, which runs first; [`Moment::Claims`] for a part of
    /// a filter that verifies claims too.
    pub fn parse(json: &[u8], env: &dyn Environment, sent_at: Moment) -> Result<Self, ConfigErrors> {
        Self::read(&document(json)?, env, sent_at)
    }

    /// The same from JSON that is read already.
    pub fn read(json: &Value, env: &dyn Environment, sent_at: Moment) -> Result<Self, ConfigErrors> {
        let raw: RawConfig = read(json)?;
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
        let own =
            request_id.map_or(HeaderReads::Nothing, |_| HeaderReads::One(request_id::HEADER.to_owned()));
        let brought =
            baggage.as_ref().map_or(HeaderReads::Nothing, |_| HeaderReads::One(baggage::HEADER.to_owned()));
        let head_use = tags.iter().map(Tag::head_use).fold(own.and(brought), HeaderReads::and);
        errors.finish(Some(Self { tags, request_id, baggage, head_use }))
    }

    /// The JSON Schema of pluginConfig.
    #[cfg(not(target_os = "wasi"))]
    pub fn schema() -> serde_json::Value {
        plugin_kit::config::schema::<RawConfig>("trace-tags: pluginConfig")
    }
}

impl RawBaggage {
    #[inline(never)]
    fn parse(self, path: &JsonPath, errors: &mut ErrorList, tags: &[Tag], sent_at: Moment) -> Baggage {
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
                Some(tag) if tag.moment(None) > sent_at => errors.add(
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
            // The request ID is this filter's own: it keeps one that is harmless, and makes the others.
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
        if !self.raw && tells_who_it_is(&self.name, sources) {
            errors.add(
                path,
                "this tells who the user is: add `pseudonym: {}`, or `raw: true` if your traces and logs may hold \
                 personal data",
            );
            return None;
        }
        let max_length = self.max_length.unwrap_or(DEFAULT_LENGTH);
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
                // Without the number: to show a float takes a tenth of the module.
                errors.add(&path.field("percentage"), "expected 0 to 100");
            }
            share
        });
        When { status_from: self.status_from, share }
    }
}

/// Whether a tag by its name (OpenTelemetry's attributes), or a claim of it by its (`OpenID` Connect Core 1.0,
/// section 5.1), identifies a person.
fn tells_who_it_is(name: &str, sources: &[Source]) -> bool {
    name.starts_with("enduser.")
        || name.starts_with("user.")
        || sources.iter().any(|source| match source {
            Source::Claim(key) => {
                PERSONAL_CLAIMS.iter().any(|claim| key.strip_prefix("jwt.") == Some(*claim))
            }
            _ => false,
        })
}

const PERSONAL_CLAIMS: [&str; 13] = [
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
];

impl RawPseudonym {
    fn parse(&self, path: &JsonPath, errors: &mut ErrorList, env: &dyn Environment) -> Option<Pseudonym> {
        if let Some(id) = &self.key_id
            && (id.is_empty() || id.len() > 16 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        {
            // Without what was found: it may be the key itself.
            errors.add(&path.field("keyId"), "expected 1 to 16 ASCII letters and digits");
            return None;
        }
        let at = path.field("keyFrom").field("env");
        let (key, variable) = errors.check(&at, self.key_from.env.read(env))?;
        errors.check(
            &at,
            Pseudonym::new(key.as_bytes(), self.key_id.as_deref())
                .map_err(|error| format!("the variable `{variable}` holds too little: {error}")),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Config, String> {
        let env = |name: &str| match name {
            "PSEUDONYM_KEY" => Some("0123456789abcdef".to_owned()),
            "SHORT" => Some("secret".to_owned()),
            "EXAMPLE" => Some("change-me-to-32-random-characters".to_owned()),
            _ => None,
        };
        Config::parse(json.as_bytes(), &env, Moment::Request).map_err(|errors| errors.to_string())
    }

    fn error(json: &str) -> String {
        parse(json).map(|config| format!("{config:?}")).unwrap_err()
    }

    #[test]
    fn without_tags_there_are_the_three_usual_ones() {
        let config = parse("{}").unwrap();
        let keys: Vec<_> = config.tags.iter().map(Tag::key).collect();
        assert_eq!(keys, ["tag.enduser.pseudo.id", "tag.request.id", "tag.service.version"]);
        assert_eq!(config.request_id, Some(RequestIds { echo: false }));
        assert_eq!(config.head_use, HeaderReads::One("x-request-id".to_owned()));
    }

    #[test]
    fn nothing_looks_at_the_request_id_unless_asked() {
        assert_eq!(parse(r#"{"tags":[]}"#).unwrap().request_id, None);
        assert_eq!(parse(r#"{"tags":[]}"#).unwrap().head_use, HeaderReads::Nothing);
        let echo = parse(r#"{"tags":[],"requestId":{"echo":true}}"#).unwrap();
        assert_eq!(echo.request_id, Some(RequestIds { echo: true }));
    }

    #[test]
    fn who_the_user_is_takes_a_pseudonym_or_a_clear_word() {
        for tag in [
            r#""name":"user.id","from":[{"filterState":"x"}]"#,
            r#""name":"u","from":[{"literal":"x"},{"claim":"sub"}]"#,
            r#""name":"mail","from":[{"claim":"email"}]"#,
        ] {
            assert!(error(&format!(r#"{{"tags":[{{{tag}}}]}}"#)).starts_with("tags[0]: this tells who"));
            parse(&format!(r#"{{"tags":[{{{tag},"raw":true}}]}}"#)).unwrap();
            parse(&format!(r#"{{"tags":[{{{tag},"pseudonym":{{}}}}]}}"#)).unwrap();
        }
        let pseudo = r#"{"tags":[{"name":"enduser.pseudo.id","from":[{"claim":"sub"}],"raw":true}]}"#;
        assert!(error(pseudo).contains("is a pseudonym"));
        parse(r#"{"tags":[{"name":"tenant","from":[{"claim":"org.id"}]}]}"#).unwrap();
    }

    #[test]
    fn a_key_comes_from_the_environment_and_is_never_shown() {
        let with = |pseudonym: &str| {
            error(&format!(
                r#"{{"tags":[{{"name":"a","from":[{{"claim":"sub"}}],"pseudonym":{pseudonym}}}]}}"#
            ))
        };
        let missing = with(r#"{"keyFrom":{"env":"NONE"}}"#);
        assert!(
            missing.starts_with("tags[0].pseudonym.keyFrom.env: vmConfig.env has no variable of this name")
        );
        for mistaken in [
            r#"{"keyFrom":{"env":"5f2b8d0e9c714a36"}}"#,
            r#"{"keyFrom":{"5f2b8d0e9c714a36":""}}"#,
            r#"{"keyFrom":"5f2b8d0e9c714a36"}"#,
            r#"{"keyId":"5f2b8d0e9c714a36-5f2b8d0e9c714a36"}"#,
            r#""5f2b8d0e9c714a36""#,
        ] {
            assert!(!with(mistaken).contains("5f2b8d0e9c714a36"), "{}", with(mistaken));
        }
        let placeholder = with(r#"{"keyFrom":{"env":"EXAMPLE"}}"#);
        assert!(placeholder.contains("the variable `EXAMPLE` holds a placeholder"), "{placeholder}");
        let short = with(r#"{"keyFrom":{"env":"SHORT"}}"#);
        assert!(short.contains("the variable `SHORT` holds too little: the key needs 16 bytes or more"));
        assert!(!short.contains("secret"));
        assert!(with(r#"{"key":"abc"}"#).starts_with("tags[0].pseudonym.key: unknown field `key`"));
        assert!(with(r#"{"keyId":"a.b"}"#).starts_with("tags[0].pseudonym.keyId: expected 1 to 16"));
    }

    #[test]
    fn a_clients_header_is_no_tag_unless_trusted() {
        let tag = |source: &str| format!(r#"{{"tags":[{{"name":"a","from":[{source}]}}]}}"#);
        for source in [
            r#""header":"x""#,
            r#""cookie":"x""#,
            r#""queryParam":"x""#,
            r#""path":{}"#,
            r#""pathTemplate":["/a"]"#,
            r#""method":{}"#,
            r#""property":["request","headers","x"]"#,
        ] {
            assert!(
                error(&tag(&format!("{{{source}}}"))).starts_with("tags[0].from[0]: any client can send")
            );
            parse(&tag(&format!(r#"{{{source},"trust":true}}"#))).unwrap();
        }
        parse(&tag(r#"{"requestId":{}}"#)).unwrap();
        parse(&tag(r#"{"property":["request","protocol"]}"#)).unwrap();
        assert!(
            error(r#"{"tags":[{"name":"a","from":[]}]}"#)
                .contains("from: is empty; expected at least one entry")
        );
    }

    #[test]
    fn conditions_are_checked() {
        let tag =
            |when: &str| format!(r#"{{"tags":[{{"name":"a","from":[{{"literal":"x"}}],"when":{when}}}]}}"#);
        assert!(
            error(&tag(r#"{"statusFrom":42}"#)).starts_with("tags[0].when.statusFrom: expected a status")
        );
        assert!(
            error(&tag(r#"{"percentage":101}"#)).starts_with("tags[0].when.percentage: expected 0 to 100")
        );
        assert!(error(&tag(r#"{"status":400}"#)).contains("did you mean `statusFrom`?"));
        assert_eq!(parse(&tag(r#"{"statusFrom":400}"#)).unwrap().request_id, None);
        assert!(parse(&tag(r#"{"percentage":0.5}"#)).unwrap().request_id.is_some());
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let errors = error(
            r#"{"tags":[
                {"name":"","from":[{"claim":"a"}]},
                {"name":"b","from":[{"method":{}}]},
                {"name":"b","from":[{"literal":"x"}],"maxLength":0},
                {"name":"c","from":[{}],"pseudonym":{},"maxLength":3}
            ]}"#,
        );
        for expected in [
            "tags[0].name: expected 1 to 64 letters",
            "tags[1].from[0]: any client can send this",
            "tags[2].name: is the name of an earlier tag",
            "tags[2].maxLength: expected 1 to 1024 characters, found 0",
            "tags[3].from[0]: expected exactly one of `claim`",
            "tags[3].maxLength: has no meaning with `pseudonym`",
        ] {
            assert!(errors.contains(expected), "{expected}: {errors}");
        }
        assert!(error(r#"{"tag":[]}"#).contains("did you mean `tags`?"));
        assert!(
            error(r#"{"tags":[{"name":"a","from":[{"claim":"b"}],"characters":"all"}]}"#).contains("`token`")
        );
    }

    #[test]
    fn only_what_is_known_in_time_goes_on_as_baggage() {
        let json = |send: &str| {
            format!(
                r#"{{"tags":[{{"name":"tenant","from":[{{"claim":"org"}}]}},{{"name":"zone","from":[{{"literal":"a"}}]}}],
                    "baggage":{{"send":["{send}"]}}}}"#
            )
        };
        parse(&json("zone")).unwrap();
        assert!(error(&json("tenant")).starts_with("baggage.send[0]: `tenant` is not known yet"));
        let composed = |json: &str| Config::parse(json.as_bytes(), &|_: &str| None, Moment::Claims);
        composed(&json("tenant")).unwrap();
        assert!(error(&json("zones")).contains(
            "baggage.send[0]: no tag of this name; expected `tenant` or `zone`, found `zones`; did you"
        ));
        let keep = error(r#"{"tags":[],"baggage":{"keep":["a b"]}}"#);
        assert!(keep.starts_with("baggage.keep[0]: expected 1 to 64 letters"), "{keep}");
    }
}
