//! Lists of options in documents, made from the JSON Schema.
//!
//! A document has a list between `<!-- options: TYPE -->` and `<!-- end -->`, where TYPE is a name in
//! `$defs`. Each property of the type is an item. An object without a list of its own is expanded where it
//! stands, unless the word `flat` stands behind the type. `option=#section` there leads to a section that
//! says more about an option, and so does `option=document.md#section`, after which an object is not expanded
//! either.

use std::fmt::Write as _;
use std::path::Path;

use plugin_kit::config::PROPERTY_ORDER;
use serde_json::{Map, Value};

/// The longest line of a document.
const COLUMNS: usize = 100;

/// The document with its lists made anew.
pub(crate) fn fill(document: &str, schema: &Value, docs: &Path) -> String {
    let mut filled = String::new();
    let mut rest = document;
    let listed: Vec<&str> =
        markers(document).map(|marker| marker.split_whitespace().next().unwrap()).collect();
    while let Some((before, after)) = rest.split_once(START) {
        let (marker, after) = after.split_once("-->").expect("a marker that ends");
        let (_, after) = after.split_once(END).unwrap_or_else(|| panic!("no {END} behind {marker}"));
        let mut words = marker.split_whitespace();
        let name = words.next().expect("a type");
        let words: Vec<&str> = words.collect();
        let links = words.iter().filter_map(|word| word.split_once('='));
        let links = links.map(|(option, to)| (option, link(to, document, docs))).collect();
        let list = List { schema, listed: &listed, is_flat: words.contains(&"flat"), links };
        let _ = write!(filled, "{before}{START}{marker}-->\n{}{END}", list.of(name));
        rest = after;
    }
    filled + rest
}

const START: &str = "<!-- options:";
const END: &str = "<!-- end -->";

fn markers(document: &str) -> impl Iterator<Item = &str> {
    document.split(START).skip(1).map(|after| after.split_once("-->").unwrap().0)
}

/// A sentence that leads to a section, which must exist.
fn link(to: &str, document: &str, docs: &Path) -> String {
    let (file, anchor) = to.split_once('#').expect("a section behind #");
    let other = std::fs::read_to_string(docs.join(file)).unwrap_or_default();
    let text = if file.is_empty() { document } else { &other };
    let headings =
        text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let heading = headings.into_iter().find(|heading| slug(heading) == anchor);
    format!("See [{}]({to}).", heading.unwrap_or_else(|| panic!("no section {to}")))
}

fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

struct List<'a> {
    schema: &'a Value,
    /// Types that have a list of their own in this document.
    listed: &'a [&'a str],
    is_flat: bool,
    links: Vec<(&'a str, String)>,
}

impl List<'_> {
    fn of(&self, name: &str) -> String {
        let mut text = String::new();
        self.items("", name, &mut text);
        for (option, _) in &self.links {
            assert!(
                text.contains(&format!("- **`{option}`**")),
                "a link for `{option}`, which is not in the list of {name}"
            );
        }
        text
    }

    fn definition(&self, name: &str) -> &Value {
        self.schema["$defs"].get(name).unwrap_or_else(|| panic!("no type {name}"))
    }

    fn items(&self, prefix: &str, name: &str, text: &mut String) {
        let definition = self.definition(name);
        let required = definition["required"].as_array();
        for name in definition[PROPERTY_ORDER].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let property = &definition["properties"][name];
            let is_required = required.is_some_and(|required| required.iter().any(|one| one == name));
            let link = self.links.iter().find(|(option, _)| *option == format!("{prefix}{name}"));
            self.item(
                &format!("{prefix}{name}"),
                property,
                is_required,
                link.map(|(_, to)| to.as_str()),
                text,
            );
            let leads_elsewhere = link.is_some_and(|(_, to)| to.contains(".md#"));
            if let Some((suffix, inner)) = object(property)
                && !(self.is_flat || leads_elsewhere || self.listed.contains(&inner))
            {
                self.items(&format!("{prefix}{name}{suffix}."), inner, text);
            }
        }
    }

    fn item(&self, name: &str, property: &Value, is_required: bool, link: Option<&str>, text: &mut String) {
        let description = property["description"].as_str().unwrap_or_default();
        let (description, in_words) = match description.split_once(" Default: ") {
            Some((description, default)) => (description, Some(default.trim_end_matches('.').to_owned())),
            None => (description, None),
        };
        let default = match property.get("default") {
            // The options of an object show their own defaults.
            Some(_)
                if object(property)
                    .is_some_and(|(suffix, name)| suffix.is_empty() && self.is_optional(name)) =>
            {
                None
            }
            Some(default) if in_words.is_none() => Some(shown(default)),
            Some(default) => panic!("`{name}` has two defaults, {default} and {in_words:?}"),
            None => in_words,
        };
        let mut facts: Vec<String> = self.kind(property).into_iter().collect();
        if is_required {
            facts.push("required".to_owned());
        }
        facts.extend(default.map(|default| format!("default {default}")));
        let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) };
        let link = link.map_or_else(String::new, |link| format!(" {link}"));
        wrap(&format!("- **`{name}`**{facts}: {description}{link}"), "  ", text);
        for (value, description) in values(property) {
            wrap(&format!("  - `{value}`: {description}"), "    ", text);
        }
    }

    /// Whether an object may leave out all of its options.
    fn is_optional(&self, name: &str) -> bool {
        self.definition(name).get("required").is_none()
    }

    /// What kind of value an option has; `None` for a choice, whose values are listed.
    fn kind(&self, schema: &Value) -> Option<String> {
        if let Some(name) = schema["$ref"].as_str() {
            let empty = definition_name(name).is_some_and(|name| {
                self.definition(name)["properties"].as_object().is_some_and(Map::is_empty)
            });
            return Some(if empty { "`{}`" } else { "object" }.to_owned());
        }
        let alternatives = alternatives(schema);
        if !alternatives.is_empty() {
            let others: Vec<String> = alternatives.iter().filter_map(|one| self.kind(one)).collect();
            let consts = alternatives.iter().any(|one| one.get("const").is_some());
            return match (others.is_empty(), consts) {
                (true, _) => None,
                (false, true) => Some(format!("a value below, or {}", others.join(" or "))),
                (false, false) => Some(others.join(" or ")),
            };
        }
        let kind = match schema["type"].as_str() {
            _ if schema.get("const").is_some() => return None,
            Some("string") if schema["pattern"].as_str().is_some_and(|it| it.contains("ms")) => "duration",
            Some("integer") => "whole number",
            Some("array") => return Some(format!("list of {}", self.several(&schema["items"]))),
            Some("object") => {
                return Some(format!("object: name to {}", self.one(&schema["additionalProperties"])));
            }
            Some(kind) => kind,
            None => return None,
        };
        Some(kind.to_owned())
    }

    fn one(&self, schema: &Value) -> String {
        self.kind(schema).unwrap_or_else(|| "value".to_owned())
    }

    fn several(&self, schema: &Value) -> String {
        self.one(schema).replace(" or ", "s or ") + "s"
    }
}

fn alternatives(schema: &Value) -> &[Value] {
    let of = schema.get("anyOf").or_else(|| schema.get("oneOf"));
    of.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The values of a choice with their descriptions, also those of a list's elements.
fn values(schema: &Value) -> impl Iterator<Item = (&str, &str)> {
    let schema = if alternatives(schema).is_empty() { &schema["items"] } else { schema };
    alternatives(schema)
        .iter()
        .filter_map(|one| Some((one["const"].as_str()?, one["description"].as_str().unwrap_or_default())))
}

fn definition_name(reference: &str) -> Option<&str> {
    reference.strip_prefix("#/$defs/")
}

/// The object that an option holds, and how its options are written behind the option's name.
fn object(schema: &Value) -> Option<(String, &str)> {
    if let Some(reference) = schema["$ref"].as_str() {
        return definition_name(reference).map(|name| (String::new(), name));
    }
    if let Some(found) = alternatives(schema).iter().find_map(object) {
        return Some(found);
    }
    let (suffix, inner) = match schema["type"].as_str()? {
        "array" => ("[]", &schema["items"]),
        "object" => (".NAME", &schema["additionalProperties"]),
        _ => return None,
    };
    object(inner).map(|(rest, name)| (format!("{suffix}{rest}"), name))
}

/// A default as YAML has it.
fn shown(default: &Value) -> String {
    match default {
        Value::Array(list) if list.is_empty() => "none".to_owned(),
        Value::Object(members) if members.is_empty() => "none".to_owned(),
        default => format!("`{}`", flow(default)),
    }
}

fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| format!("{name}: {}", flow(value)));
            format!("{{ {} }}", members.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Appends a paragraph in lines that are not too long. What stands between backticks is not broken.
fn wrap(paragraph: &str, indent: &str, text: &mut String) {
    let mut in_code = false;
    let words = paragraph.trim_start().split(|c| {
        in_code ^= c == '`';
        c == ' ' && !in_code
    });
    let mut line = " ".repeat(paragraph.len() - paragraph.trim_start().len());
    let start = line.len();
    for word in words {
        if line.len() > indent.len() && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            text.push_str(&line);
            text.push('\n');
            line = format!("{indent}{word}");
            continue;
        }
        if line.len() > start {
            line.push(' ');
        }
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}

/// Notes the properties and values below `schema` that have no description.
pub(crate) fn without_description(schema: &Value, path: &str, bare: &mut Vec<String>) {
    let is_bare = |one: &Value| one["description"].as_str().is_none_or(str::is_empty);
    match schema {
        Value::Object(members) => {
            for (name, property) in members.get("properties").and_then(Value::as_object).into_iter().flatten()
            {
                if is_bare(property) {
                    bare.push(format!("{path}.{name}"));
                }
            }
            if members.contains_key("const") && is_bare(schema) {
                bare.push(format!("{path}: {}", members["const"]));
            }
            for (name, member) in members {
                without_description(member, &format!("{path}.{name}"), bare);
            }
        }
        Value::Array(list) => {
            for member in list {
                without_description(member, path, bare);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filled(marker: &str) -> String {
        let schema = json!({ "$defs": {
            "Limit": {
                "properties": {
                    "name": { "type": "string", "description": "The name." },
                    "rate": { "$ref": "#/$defs/Rate", "description": "How much is allowed." },
                    "on": { "description": "What happens.", "default": "deny", "oneOf": [
                        { "const": "deny", "description": "It is denied." },
                        { "const": "allow", "description": "It is let through." },
                    ] },
                },
                "required": ["name"],
                PROPERTY_ORDER: ["name", "rate", "on"],
            },
            "Rate": { PROPERTY_ORDER: ["per"], "properties": {
                "per": { "type": "string", "pattern": "(ms|s)", "description": "In which time. Default: any." },
            } },
        } });
        let document =
            format!("# A page\n\n<!-- options: {marker} -->\nold\n<!-- end -->\n\n## More words\n");
        fill(&document, &schema, Path::new("."))
    }

    #[test]
    fn object_without_a_list_is_expanded_where_it_stands() {
        let expected = "# A page\n\n<!-- options: Limit -->\n\
            - **`name`** (string, required): The name.\n\
            - **`rate`** (object): How much is allowed.\n\
            - **`rate.per`** (duration, default any): In which time.\n\
            - **`on`** (default `deny`): What happens.\n  \
              - `deny`: It is denied.\n  \
              - `allow`: It is let through.\n\
            <!-- end -->\n\n## More words\n";
        assert_eq!(filled("Limit"), expected);
    }

    #[test]
    fn option_with_a_link_leads_to_the_section() {
        let text = filled("Limit rate=#more-words");
        assert!(
            text.contains("How much is allowed. See [More words](#more-words).\n- **`rate.per`"),
            "{text}"
        );
    }

    #[test]
    fn flat_list_does_not_expand_objects() {
        assert!(!filled("Limit flat").contains("rate.per"));
    }

    #[test]
    #[should_panic(expected = "no section #gone")]
    fn link_to_a_missing_section_fails() {
        filled("Limit rate=#gone");
    }

    #[test]
    fn long_paragraph_is_wrapped_between_words_but_not_in_code() {
        let mut text = String::new();
        wrap(&format!("- {} `{}` end", "word ".repeat(16).trim(), "code ".repeat(5).trim()), "  ", &mut text);
        assert_eq!(text, format!("- {}\n  `{}` end\n", "word ".repeat(16).trim(), "code ".repeat(5).trim()));
    }
}
