//! A decision as a tree: each test by a filter, with the expected and the received value.

use mesh_filters_cli::decide::{Change, Denied, Moment, Step, Verdict};
use plugin_kit::trace::Note;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::explain::meaning;
use crate::secret::is_secret_name;
use crate::times;

/// The text of a line about a tag that is written.
const WRITES_TAG: &str = "writes the tag";

/// The outcome of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mark {
    /// The test holds.
    Yes,
    /// The test does not hold.
    No,
    /// The outcome is not known.
    Unknown,
    /// Nothing was tested.
    Info,
}

impl Mark {
    fn of(holds: Option<bool>) -> Self {
        match holds {
            Some(true) => Self::Yes,
            Some(false) => Self::No,
            None => Self::Unknown,
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Yes => "✓ ",
            Self::No => "✗ ",
            Self::Unknown => "? ",
            Self::Info => "",
        }
    }
}

/// A line of the tree, with the lines below it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Item {
    mark: Mark,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received: Option<String>,
    /// The JSON path of the field that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// The file and the line of that field.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) items: Vec<Self>,
}

impl Item {
    pub(crate) fn new(mark: Mark, text: impl Into<String>) -> Self {
        Self {
            mark,
            text: text.into(),
            expected: None,
            received: None,
            path: None,
            place: None,
            items: Vec::new(),
        }
    }

    fn expected(self, expected: Option<String>) -> Self {
        Self { expected, ..self }
    }

    fn received(self, received: Option<String>) -> Self {
        Self { received, ..self }
    }

    /// The name and the value of the tag that this line is about, if it is about one.
    pub(crate) fn tag(&self) -> Option<(&str, &str)> {
        let name = self.text.strip_prefix(WRITES_TAG)?.trim_matches(['`', ' ']);
        let value = self.received.as_deref()?;
        let plain = value.strip_prefix('`').and_then(|value| value.strip_suffix('`'));
        Some((name, plain.unwrap_or(value)))
    }

    fn line(&self) -> String {
        let mut line = format!("{}{}", self.mark.sign(), self.text);
        if matches!(self.mark, Mark::Yes | Mark::Info)
            && let Some(received) = &self.received
        {
            line.push_str(": ");
            line.push_str(received);
        } else {
            let parts = [("expected", &self.expected), ("received", &self.received)];
            let parts = parts.iter().filter_map(|(what, value)| Some(format!("{what} {}", value.as_ref()?)));
            let parts: Vec<String> = parts.collect();
            if !parts.is_empty() {
                line.push_str(": ");
                line.push_str(&parts.join(", "));
            }
        }
        if let Some(place) = &self.place {
            line.push_str(&format!("  ({place})"));
        }
        line
    }

    /// Adds the line and those below it to `text`.
    pub(crate) fn print(&self, indent: usize, text: &mut String) {
        text.push_str(&"  ".repeat(indent));
        text.push_str(&self.line());
        text.push('\n');
        self.items.iter().for_each(|item| item.print(indent + 1, text));
    }
}

/// The configuration of the filter, as the operator wrote it.
pub(crate) struct Written<'a> {
    /// The filter's own part of the configuration.
    pub(crate) config: &'a Value,
    /// The path of that part in the pluginConfig, with a dot at the end; empty at the top level.
    pub(crate) base: String,
    /// The file and the line of a JSON path.
    pub(crate) locate: &'a dyn Fn(&str) -> Option<String>,
    /// Whether the arguments have a provider's list of revoked tokens.
    pub(crate) has_list: &'a dyn Fn(&str) -> bool,
    /// Whether expressions that only the proxy evaluates are assumed to hold.
    pub(crate) assumes: bool,
    /// Whether the value of a variable is unknown, and another one stands in for it.
    pub(crate) has_stand_in: bool,
    /// Whether the request opens a tunnel and so has no path.
    pub(crate) is_tunnel: bool,
}

impl Written<'_> {
    fn at(&self, item: Item, path: &str) -> Item {
        let path = format!("{}{path}", self.base);
        Item { place: (self.locate)(&path), path: Some(path), ..item }
    }

    fn value(&self, path: &str) -> Option<&Value> {
        let (mut value, mut rest) = (self.config, path);
        while !rest.is_empty() {
            if let Some((index, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                value = value.get(index.parse::<usize>().ok()?)?;
                rest = after.strip_prefix('.').unwrap_or(after);
                continue;
            }
            // A name may contain dots, which look like those of the path. So the longest name that fits is
            // meant.
            let fits = |name: &str| {
                rest.strip_prefix(name).filter(|after| after.is_empty() || after.starts_with(['.', '[']))
            };
            let found =
                value.as_object()?.iter().filter_map(|(name, value)| Some((name.len(), value, fits(name)?)));
            let (_, member, after) = found.max_by_key(|(length, ..)| *length)?;
            (value, rest) = (member, after.strip_prefix('.').unwrap_or(after));
        }
        Some(value)
    }

    fn named(&self, list: &str, index: usize) -> String {
        let name = self.value(&format!("{list}[{index}].name")).and_then(Value::as_str);
        name.map_or_else(|| format!("{list}[{index}]"), str::to_owned)
    }

    fn provider(&self, position: usize) -> String {
        let mut names: Vec<&String> =
            self.config["providers"].as_object().into_iter().flat_map(Map::keys).collect();
        names.sort();
        names.get(position).map_or_else(String::new, |name| (*name).clone())
    }

    /// The remark about an expression that was evaluated.
    fn about_expression(&self, evaluated: bool) -> String {
        if evaluated {
            return "evaluated here; the proxy's own evaluation may differ".to_owned();
        }
        let assumed = if self.assumes { "is assumed to hold" } else { "is assumed not to hold" };
        format!("the proxy evaluates this expression; here it was not evaluated, and {assumed}")
    }
}

/// A value from outside: made printable and short, and not shown if it is a token.
pub(crate) fn shown(value: &str) -> String {
    const MOST: usize = 96;
    if value.split('.').count() == 3 && value.trim_start_matches("Bearer ").starts_with("ey") {
        return "a token, not shown".to_owned();
    }
    let plain = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    let mut text: String = value.chars().take(MOST).map(plain).collect();
    if value.chars().count() > MOST {
        text.push('…');
    }
    if text.is_empty() { "nothing".to_owned() } else { format!("`{text}`") }
}

#[allow(clippy::unnecessary_wraps, reason = "it goes where there may be nothing")]
fn received(note: &Note) -> Option<String> {
    let hidden = note.what == "headers" && note.name.as_deref().is_some_and(is_secret_name);
    Some(match &note.received {
        Some(_) if hidden => "a value that is not shown".to_owned(),
        Some(value) => shown(value),
        None => "nothing".to_owned(),
    })
}

/// The expectation of the configuration, in one line.
fn expectation(value: &Value) -> String {
    match value {
        Value::String(text) => shown(text),
        Value::Array(list) if list.iter().all(|value| !value.is_object() && !value.is_array()) => {
            list.iter().map(expectation).collect::<Vec<_>>().join(" or ")
        }
        Value::Null => "nothing".to_owned(),
        Value::Object(test) => {
            let list = |value: &Value| {
                value.as_array().map_or_else(
                    || expectation(value),
                    |list| list.iter().map(expectation).collect::<Vec<_>>().join(", "),
                )
            };
            let part = |(name, value): (&String, &Value)| match (name.as_str(), value) {
                ("anyOf", value) => format!("one of {}", list(value)),
                ("allOf", value) => format!("all of {}", list(value)),
                ("noneOf", value) => format!("none of {}", list(value)),
                ("present", Value::Bool(true)) => "a value".to_owned(),
                ("present", _) => "no value".to_owned(),
                ("ignoreCase", _) => "in any letter case".to_owned(),
                ("exact", value) => expectation(value),
                (name, value) => format!("{name} {}", expectation(value)),
            };
            test.iter().map(part).collect::<Vec<_>>().join(" and ")
        }
        other => shown(&other.to_string()),
    }
}

/// The tree of what one filter did.
pub(crate) fn of_step(step: &Step, written: &Written<'_>) -> Vec<Item> {
    let mut items = match step.filter {
        "jwt-auth" => auth(step, written),
        "rate-limit" => limits(step, written),
        _ => tags(step, written),
    };
    items.extend(changes(step, written));
    items.extend(verdict(step, written));
    items
}

/// The item of one part of a `match` that was tested.
fn part(note: &Note, written: &Written<'_>, base: &str) -> Item {
    let mut path = match (note.what, &note.name) {
        ("headers" | "claims", Some(name)) => {
            format!("{base}.{}.{}", note.what, name.strip_prefix("jwt.").unwrap_or(name))
        }
        ("sourceAddress", _) => format!("{base}.sourceAddress.cidrs"),
        (what, _) => format!("{base}.{what}"),
    };
    match note.what {
        "methods" if written.value(&path).is_none() => path = format!("{base}.methodsExcept"),
        "paths" if written.value(&path).is_none() => path = format!("{base}.pathRegexes"),
        _ => {}
    }
    let name = path.strip_prefix(base).unwrap_or(&path).trim_start_matches('.').to_owned();
    let hidden = note.what == "headers" && note.name.as_deref().is_some_and(is_secret_name);
    let expected = written.value(&path).map(|value| {
        if hidden && value.as_object().is_none_or(|test| test.keys().any(|part| part != "present")) {
            "a value that is not shown".to_owned()
        } else {
            expectation(value)
        }
    });
    let expected = if path.ends_with("methodsExcept") {
        expected.map(|list| format!("none of {list}"))
    } else {
        expected
    };
    let (text, mark) = match evaluated(note) {
        Some(evaluated) => {
            let mark = if evaluated { Mark::of(note.holds) } else { Mark::Unknown };
            (format!("{name} ({})", written.about_expression(evaluated)), mark)
        }
        None => (name, Mark::of(note.holds)),
    };
    let received = if note.what == "when" { None } else { received(note) };
    written.at(Item::new(mark, text).expected(expected).received(received), &path)
}

const PARTS: [&str; 6] = ["methods", "hosts", "headers", "paths", "principals", "sourceAddress"];

/// The item of a rule, a limit or an exemption whose `match` was tested.
fn asked(
    list: &str,
    what: &str,
    index: usize,
    holds: Option<bool>,
    parts: &[Note],
    written: &Written<'_>,
) -> Item {
    let base = format!("{list}[{index}]");
    let name = written.named(list, index);
    let text = match holds {
        Some(true) => format!("{what} `{name}` matches"),
        Some(false) => format!("{what} `{name}` does not match"),
        None => format!("{what} `{name}` may match: it must let the request in, too"),
    };
    let place_of_parts = format!("{base}.match");
    let told: Vec<Item> = parts
        .iter()
        .filter(|note| {
            holds == Some(true) && note.what == "when"
                || note.holds != Some(true)
                || evaluated(note).is_some()
        })
        .map(|note| part(note, written, &place_of_parts))
        .collect();
    let item = Item { items: told, ..Item::new(Mark::of(holds), text) };
    written.at(item, &base)
}

/// Whether the expressions of a part or a condition were evaluated; `None` if it has none.
fn evaluated(note: &Note) -> Option<bool> {
    note.index.filter(|_| note.what == "when" || PARTS.contains(&note.what)).map(|index| index == EVALUATED)
}

/// Marks, as its position, a note whose expressions were evaluated. Such a note has no position of its own.
const EVALUATED: usize = 1;

/// The notes. Each note on a test with expressions says whether they were evaluated.
fn with_expressions(notes: &[Note]) -> Vec<Note> {
    let mut all = Vec::new();
    let mut evaluated: Option<bool> = None;
    for (n, note) in notes.iter().enumerate() {
        // The item about the signature already says that it was assumed to be valid.
        if note.what == "signature" && n > 0 && notes[n - 1].what == "assumed" {
            continue;
        }
        if note.what == "expression" {
            evaluated = Some(evaluated.unwrap_or(true) && note.holds == Some(true));
            continue;
        }
        let index = if note.what == "when" || PARTS.contains(&note.what) {
            evaluated.take().map(usize::from)
        } else {
            note.index
        };
        all.push(Note { index, ..note.clone() });
    }
    all
}

#[allow(clippy::too_many_lines, reason = "each kind of note has one arm")]
fn auth(step: &Step, written: &Written<'_>) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    let mut parts: Vec<Note> = Vec::new();
    let (mut asked_rules, mut tokens, mut demands): (Vec<usize>, Vec<Item>, Vec<Item>) = Default::default();
    let mut provider: Option<usize> = None;
    let readings = step.notes.iter().filter(|note| note.what == "reading").count();
    let notes = with_expressions(&step.notes);
    for note in &notes {
        match (note.what, note.index) {
            ("reading", _) if readings > 1 => {
                items.push(Item::new(Mark::Info, "the path is also read as").received(received(note)));
                asked_rules.clear();
            }
            (what, _) if PARTS.contains(&what) => parts.push(note.clone()),
            ("rule", Some(n)) => {
                // An index finds the rules that can match. The paths of the other rules begin otherwise.
                let first = asked_rules.last().map_or(0, |last| last + 1);
                let skipped: Vec<usize> = (first..n).collect();
                items.extend(passed_over(&skipped, written));
                items.push(asked("rules", "rule", n, note.holds, &parts, written));
                parts.clear();
                asked_rules.push(n);
            }
            ("rule", None) => {
                let first = asked_rules.last().map_or(0, |last| last + 1);
                let count = written.config["rules"].as_array().map_or(0, Vec::len);
                let skipped: Vec<usize> = (first..count).collect();
                items.extend(passed_over(&skipped, written));
                let text = "no rule matches, so that any token of a provider is demanded";
                items.push(Item::new(Mark::Info, text));
                parts.clear();
            }
            ("waited", _) => {
                tokens.clear();
                provider = None;
            }
            ("token", _) => {
                provider = None;
                let place = note.received.as_deref().unwrap_or("the request");
                let known = if note.holds == Some(true) { ", verified before" } else { "" };
                tokens.push(Item::new(Mark::Info, format!("token in {place}{known}")));
            }
            ("place", _) if note.holds == Some(false) => {
                let place = note.received.as_deref().unwrap_or("a place");
                let text = format!("what stands in {place} is not a token for this request");
                tokens.push(Item::new(Mark::No, text));
            }
            ("deciding", index) => {
                let item = match index {
                    Some(n) => {
                        let rule = written.value(&format!("rules[{n}]"));
                        let access = rule.map_or("", access);
                        let item =
                            Item::new(Mark::Info, format!("rule `{}` {access}", written.named("rules", n)));
                        written.at(item, &format!("rules[{n}]"))
                    }
                    None => Item::new(Mark::Info, "without a rule, any token of a provider is demanded"),
                };
                demands.push(item);
            }
            ("require.provider", Some(n)) if note.holds == Some(false) => {
                let item = Item::new(
                    Mark::No,
                    format!(
                        "the token is of provider `{}`, which the rule does not name",
                        written.provider(n)
                    ),
                );
                push_below(&mut demands, item);
            }
            ("place" | "require.provider", _) => {}
            ("require.claim", _) => {
                let name = note.name.as_deref().unwrap_or_default();
                let base = current_rule(&demands);
                let path = find_member(written, &format!("{base}.require"), "claims", name);
                let expected =
                    path.as_ref().and_then(|path| written.value_at_claim(path, name)).map(expectation);
                let item = Item::new(Mark::of(note.holds), format!("claim `{name}`"));
                let item = item.expected(expected).received(received(note));
                push_below(
                    &mut demands,
                    path.map_or(item.clone(), |path| written.at(item, &format!("{path}.{name}"))),
                );
            }
            ("require.scope", _) => {
                let name = note.name.as_deref().unwrap_or_default();
                let base = current_rule(&demands);
                let path = find_member(written, &format!("{base}.require"), "scopes", name);
                let item = Item::new(Mark::of(note.holds), format!("scope `{name}`"));
                let item = if note.holds == Some(true) { item } else { item.received(received(note)) };
                push_below(&mut demands, path.map_or(item.clone(), |path| written.at(item, &path)));
            }
            ("when", _) => {
                let path = format!("{}.when", current_rule(&demands));
                let expected = written.value(&path).map(expectation);
                let evaluated = evaluated(note).unwrap_or_default();
                let mark = if evaluated { Mark::of(note.holds) } else { Mark::Unknown };
                let item = Item::new(mark, format!("when ({})", written.about_expression(evaluated)));
                let item = item.expected(expected);
                push_below(&mut demands, written.at(item, &path));
            }
            ("issuer", Some(n)) => {
                let name = written.provider(n);
                let issuer = format!("providers.{name}.issuer");
                let is_named = written.value(&issuer).is_some();
                let path = if is_named { issuer } else { format!("providers.{name}.trustDomain") };
                let iss = step
                    .notes
                    .iter()
                    .rfind(|note| note.what == "format")
                    .and_then(|note| note.received.clone());
                let iss = if is_named { iss } else { note.received.clone() };
                let what = if is_named { "issuer" } else { "trust domain of `sub`" };
                let item = Item::new(Mark::of(note.holds), format!("provider `{name}`: {what}"));
                let item =
                    item.expected(written.value(&path).map(expectation)).received(iss.as_deref().map(shown));
                push_below(&mut tokens, written.at(item, &path));
                provider = note.holds.filter(|holds| *holds).map(|_| n);
            }
            _ => {
                let item = check(note, provider, written);
                if let (Some(item), Some(token)) = (item, tokens.last_mut()) {
                    match (provider, token.items.last_mut()) {
                        (Some(_), Some(provider)) => provider.items.push(item),
                        _ => token.items.push(item),
                    }
                }
            }
        }
    }
    items.extend(tokens);
    items.extend(demands.into_iter().filter(|demand| !demand.items.is_empty() || demand.place.is_some()));
    items
}

/// Whom a rule lets in, in words.
fn access(rule: &Value) -> &'static str {
    match rule["allow"].as_str() {
        Some("nobody") => "lets nobody in",
        Some(_) => "lets anyone in",
        None => "demands a token",
    }
}

fn push_below(items: &mut [Item], item: Item) {
    if let Some(last) = items.last_mut() {
        last.items.push(item);
    }
}

fn current_rule(demands: &[Item]) -> String {
    let path = demands.last().and_then(|demand| demand.path.clone()).unwrap_or_default();
    path.find("rules[").map_or(String::new(), |at| path[at..].to_owned())
}

impl Written<'_> {
    fn value_at_claim(&self, claims: &str, name: &str) -> Option<&Value> {
        self.value(claims)?.get(name)
    }
}

/// The path of the list or the object with this member, in a requirement or in one below it.
fn find_member(written: &Written<'_>, base: &str, field: &str, name: &str) -> Option<String> {
    let own = format!("{base}.{field}");
    let has = match written.value(&own) {
        Some(Value::Object(members)) => members.contains_key(name),
        Some(Value::Array(list)) => list.iter().any(|value| value == name),
        _ => false,
    };
    if has {
        return Some(own);
    }
    ["anyOf", "allOf"].iter().find_map(|list| {
        let count = written.value(&format!("{base}.{list}")).and_then(Value::as_array).map_or(0, Vec::len);
        (0..count).find_map(|n| find_member(written, &format!("{base}.{list}[{n}]"), field, name))
    })
}

fn passed_over(rules: &[usize], written: &Written<'_>) -> Option<Item> {
    let names: Vec<String> = rules.iter().map(|n| format!("`{}`", written.named("rules", *n))).collect();
    let why = if written.is_tunnel {
        "a tunnel has no path, and only a rule that names the method may let anyone open one"
    } else {
        "the path begins otherwise"
    };
    let text = match names.as_slice() {
        [] => return None,
        [one] => format!("rule {one} does not match: {why}"),
        many => format!("rules {} do not match: {why}", many.join(", ")),
    };
    Some(Item::new(Mark::No, text))
}

/// The item of a provider's check of a token.
fn check(note: &Note, provider: Option<usize>, written: &Written<'_>) -> Option<Item> {
    let field = |name: &str| provider.map(|n| format!("providers.{}.{name}", written.provider(n)));
    let (text, default) = match note.what {
        "format" if note.holds == Some(true) => {
            let algorithm = note.name.as_deref().unwrap_or_default();
            return Some(Item::new(Mark::Yes, format!("a signed JWT with `alg` {algorithm}")));
        }
        "format" => {
            return Some(Item::new(
                Mark::No,
                format!("it is malformed: {}", note.received.as_deref().unwrap_or_default()),
            ));
        }
        "remembered" => {
            return Some(Item::new(
                Mark::No,
                format!("it was refused before: {}", note.received.as_deref().unwrap_or_default()),
            ));
        }
        "algorithms" => ("alg", "`RS256`, `RS384`, `RS512`, `ES256` or `ES384`"),
        "typ" => ("typ", "`JWT`, `at+jwt` or none"),
        "audiences" => ("aud", ""),
        "subjects" => ("sub", ""),
        "authorizedParties" => ("azp, or else client_id", ""),
        "maxLifetime" => ("the time from iat to exp", ""),
        "requiredClaims" => {
            let name = note.name.as_deref().unwrap_or_default();
            let item = Item::new(Mark::of(note.holds), format!("claim `{name}` is there"));
            return Some(field("requiredClaims").map_or(item.clone(), |path| written.at(item, &path)));
        }
        "requireExpiration" => ("exp is there", "`exp`"),
        "time" => return Some(time(note, field("clockSkew"), written)),
        "key" => {
            let known = note.name.as_deref().filter(|known| !known.is_empty());
            let item =
                Item::new(Mark::of(note.holds), "key").expected(known.map(|known| format!("kid {known}")));
            return Some(item.received(Some(match note.received.as_deref() {
                Some("") | None => "no kid".to_owned(),
                Some(kid) => format!("kid {}", shown(kid)),
            })));
        }
        "assumed" => {
            let text = "signature: not checked, but assumed to be valid: no keys are given (`--keys`)";
            return Some(Item::new(Mark::Unknown, text));
        }
        "signature" => {
            let text =
                if note.holds == Some(true) { "signature by the key" } else { "signature: not by the key" };
            let name = note.received.as_deref().filter(|kid| !kid.is_empty()).map(shown);
            let text = name.map_or_else(|| text.to_owned(), |name| format!("{text} {name}"));
            return Some(Item::new(Mark::of(note.holds), text));
        }
        "introspection" => {
            let text = match note.holds {
                Some(true) => "the issuer says that the token is active",
                Some(false) => "the issuer says that the token is not active",
                None => "what the issuer says of the token is not known: give its answer (`--introspection`)",
            };
            let item = Item::new(Mark::of(note.holds), text);
            return Some(field("introspection").map_or(item.clone(), |path| written.at(item, &path)));
        }
        "revokedUri" if !provider.is_some_and(|n| (written.has_list)(&written.provider(n))) => {
            let text = "revoked: the list at the URL was not asked, and is taken to be empty (`--revoked`)";
            let item = Item::new(Mark::Unknown, text);
            return Some(field("revoked").map_or(item.clone(), |path| written.at(item, &path)));
        }
        "revoked" | "revokedUri" => {
            let not = if note.holds == Some(true) { "not " } else { "" };
            let list = if note.what == "revoked" { "in the configuration" } else { "by the list at the URL" };
            if note.holds == Some(true) && note.what == "revoked" {
                return None;
            }
            let item = Item::new(Mark::of(note.holds), format!("{not}revoked {list}"));
            return Some(field("revoked").map_or(item.clone(), |path| written.at(item, &path)));
        }
        _ => return None,
    };
    let path = field(note.what)?;
    let expected =
        written.value(&path).map(expectation).or_else(|| (!default.is_empty()).then(|| default.to_owned()));
    let item = Item::new(Mark::of(note.holds), text).expected(expected).received(received(note));
    Some(if written.value(&path).is_some() { written.at(item, &path) } else { item })
}

/// Whether the token is valid now, in words.
fn time(note: &Note, skew: Option<String>, written: &Written<'_>) -> Item {
    let now: u64 = note.received.as_deref().and_then(|now| now.parse().ok()).unwrap_or_default();
    let (from, until) =
        note.name.as_deref().and_then(|validity| validity.split_once("..")).unwrap_or_default();
    let (from, until): (Option<u64>, Option<u64>) = (from.parse().ok(), until.parse().ok());
    let text = match (until, from) {
        (Some(until), _) if now >= until => {
            format!("expired {} ago, at {} with clockSkew", times::span(now - until), times::utc(until))
        }
        (_, Some(from)) if now < from => {
            format!(
                "not valid for another {}, until {} with clockSkew",
                times::span(from - now),
                times::utc(from)
            )
        }
        (Some(until), _) => format!("valid for another {}", times::span(until - now)),
        (None, _) => "valid without end".to_owned(),
    };
    let item = Item::new(Mark::of(note.holds), text);
    match skew.filter(|path| written.value(path).is_some() && note.holds == Some(false)) {
        Some(path) => written.at(item, &path),
        None => item,
    }
}

fn limits(step: &Step, written: &Written<'_>) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    let mut positions: Vec<(usize, usize)> = Vec::new();
    let mut parts: Vec<Note> = Vec::new();
    let notes = with_expressions(&step.notes);
    for note in &notes {
        match (note.what, note.index) {
            (what, _) if PARTS.contains(&what) || matches!(what, "claims" | "when") => {
                parts.push(note.clone());
            }
            ("exempt" | "limit", Some(n)) => {
                let (list, what) =
                    if note.what == "limit" { ("limits", "limit") } else { ("exempt", "exemption") };
                items.push(asked(list, what, n, note.holds, &parts, written));
                parts.clear();
                if note.what == "limit" {
                    positions.push((n, items.len() - 1));
                }
            }
            ("counts", Some(n)) if !positions.iter().any(|(known, _)| *known == n) => {
                let item = Item::new(Mark::Yes, format!("limit `{}` matches", written.named("limits", n)));
                items.push(written.at(item, &format!("limits[{n}]")));
                positions.push((n, items.len() - 1));
            }
            ("plan", _) => {
                if let Some((n, at)) = positions.last() {
                    let item = Item::new(Mark::of(note.holds), "plan").received(received(note));
                    items[*at].items.push(written.at(item, &format!("limits[{n}].plans.from")));
                }
            }
            ("key", Some(k)) => {
                if let Some((n, at)) = positions.last() {
                    let path = format!("limits[{n}].key[{k}]");
                    let source = written.value(&path);
                    let secret = source.is_some_and(is_of_secret);
                    let text = format!("key {}", source.map_or_else(String::new, source_text));
                    let value = note.received.as_deref().map(|value| {
                        if secret { "a value that is not shown".to_owned() } else { shown(value) }
                    });
                    let item = Item::new(Mark::of(note.holds), text)
                        .received(value.or_else(|| Some("nothing".to_owned())));
                    items[*at].items.push(written.at(item, &path));
                }
            }
            ("cost", Some(n)) if note.received.as_deref() != Some("1") => {
                if let Some((_, at)) = positions.iter().find(|(known, _)| *known == n) {
                    let item = Item::new(Mark::Info, "costs").received(note.received.clone());
                    items[*at].items.push(item);
                }
            }
            ("service", _) => {
                let text = "the rate limit service would be asked; here it was not, and is taken to say that no limit is used up";
                items.push(Item::new(Mark::Unknown, text));
            }
            ("charge" | "lease" | "reported", Some(n)) => {
                if let Some((_, at)) = positions.iter().find(|(known, _)| *known == n) {
                    items[*at].items.push(charge(note));
                }
            }
            _ => {}
        }
    }
    items
}

/// A source, as the configuration names it.
fn source_text(source: &Value) -> String {
    let first = source.as_object().into_iter().flatten().find(|(name, _)| *name != "trust");
    first.map_or_else(String::new, |(kind, value)| match value {
        Value::String(name) => format!("{kind} {name}"),
        _ => kind.clone(),
    })
}

fn charge(note: &Note) -> Item {
    let numbers = note.received.as_deref().unwrap_or_default();
    let numbers: Vec<u64> = numbers.split(' ').filter_map(|number| number.parse().ok()).collect();
    match (note.what, numbers.as_slice()) {
        ("charge", [remaining, whole_in, burst, wait]) => {
            let span = |nanoseconds: &u64| times::span(nanoseconds.div_ceil(1_000_000_000));
            let text = match note.holds {
                Some(true) => format!("{remaining} of {burst} are left, all of them in {}", span(whole_in)),
                Some(false) if *wait == 0 => {
                    format!("it costs more than the {burst} that are ever admitted at once")
                }
                Some(false) => format!(
                    "used up: {remaining} of {burst} are left, and enough for this request in {}",
                    span(wait)
                ),
                None => "it could not be counted".to_owned(),
            };
            Item::new(Mark::of(note.holds), text)
        }
        ("reported", _) => Item::new(Mark::No, "it would deny the request, but only reports"),
        _ => Item::new(Mark::Yes, "counted from what the worker holds in advance"),
    }
}

fn tags(step: &Step, written: &Written<'_>) -> Vec<Item> {
    if step.moment != Moment::Request {
        return Vec::new();
    }
    let left_out = step.notes.iter().filter(|note| note.what == "tag" && note.holds == Some(false));
    left_out
        .map(|note| {
            let name = note.name.as_deref().unwrap_or_default();
            let item = Item::new(
                Mark::No,
                format!("tag `{name}` is not written for this request: its share does not choose it"),
            );
            written.at(item, &format!("tags[{}].when", note.index.unwrap_or_default()))
        })
        .collect()
}

/// Whether a source, or one of several, reads something whose name tells that it is secret.
fn is_of_secret(source: &Value) -> bool {
    source.as_array().is_some_and(|sources| sources.iter().any(is_of_secret))
        || source.get("cookie").is_some()
        || source.get("env").is_some()
        || ["header", "queryParam", "baggage"]
            .iter()
            .any(|kind| source[kind].as_str().is_some_and(is_secret_name))
}

fn changes(step: &Step, written: &Written<'_>) -> Vec<Item> {
    let value = |name: &str, value: &str| {
        Some(if is_secret_name(name) { "a value that is not shown".to_owned() } else { shown(value) })
    };
    let item = |change: &Change| match change {
        Change::Set(name, text) => {
            Item::new(Mark::Info, format!("sets the header `{name}`")).received(value(name, text))
        }
        Change::Removed(name) => Item::new(Mark::Info, format!("removes the header `{name}`")),
        Change::SetOnResponse(name, text) => {
            Item::new(Mark::Info, format!("sets the response header `{name}`")).received(value(name, text))
        }
        Change::State(key, bytes) => {
            let text = String::from_utf8_lossy(bytes);
            let (what, name) = match key.strip_prefix("tag.") {
                Some(tag) => (WRITES_TAG, tag.to_owned()),
                None => ("publishes", format!("wasm.{key}")),
            };
            let tags = written.config["tags"].as_array().map(Vec::as_slice).unwrap_or_default();
            let is_pseudonym = what == WRITES_TAG
                && tags.iter().any(|tag| tag["name"] == name.as_str() && tag.get("pseudonym").is_some());
            let is_of_secret = is_secret_name(&name)
                || tags
                    .iter()
                    .filter(|tag| tag["name"] == name.as_str() && tag.get("pseudonym").is_none())
                    .any(|tag| is_of_secret(&tag["from"]));
            let shown = match key.as_str() {
                "jwt" => "all claims".to_owned(),
                _ if is_pseudonym && written.has_stand_in => {
                    "a pseudonym, whose key only the proxy has (`--env`)".to_owned()
                }
                "ratelimit.detail" if written.has_stand_in && written.config.get("pseudonym").is_some() => {
                    format!("`{text}`, where the proxy shows the pseudonym under another key (`--env`)")
                }
                // The detail is made for logs, so it is printable and has no secrets.
                "jwt.deny_detail" | "ratelimit.detail" => format!("`{text}`"),
                _ if is_of_secret && what == WRITES_TAG => "a value that is not shown".to_owned(),
                _ => shown(&text),
            };
            Item::new(Mark::Info, format!("{what} `{name}`")).received(Some(shown))
        }
    };
    // If a name is written twice, the last value counts.
    let mut items: Vec<Item> = Vec::new();
    for new in step.changes.iter().map(item) {
        items.retain(|known| known.text != new.text);
        items.push(Item { mark: Mark::Info, ..new });
    }
    items
}

fn verdict(step: &Step, written: &Written<'_>) -> Option<Item> {
    let (mark, lead, denied) = match &step.verdict {
        Verdict::Passed(_) => return None,
        Verdict::Denied(denied) => (Mark::No, "refuses the request", denied),
        Verdict::Reported(denied) => (Mark::Info, "would refuse the request, but only reports", denied),
    };
    let Denied { code, cause, index, .. } = denied;
    let by = match (step.filter, index) {
        ("rate-limit", Some(n)) => format!(" by limit `{}`", written.named("limits", *n)),
        (_, Some(n)) => format!(" by rule `{}`", written.named("rules", *n)),
        (_, None) => String::new(),
    };
    let mut item = Item::new(mark, format!("{lead}{by}: {cause}"));
    if let Some(meaning) = meaning::of(code) {
        item.items.push(Item::new(Mark::Info, meaning.happened));
        item.items.push(Item::new(Mark::Info, meaning.advice));
    }
    let list = if step.filter == "rate-limit" { "limits" } else { "rules" };
    Some(index.map_or(item.clone(), |n| written.at(item, &format!("{list}[{n}]"))))
}
