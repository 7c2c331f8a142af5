//! Documents, in YAML or JSON, with the place of each value in its file.

use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Location, Spanned};

/// A file, or standard input.
pub(crate) struct Source {
    /// As the user named it, or how it was found below a folder.
    pub(crate) name: String,
    /// What is in it.
    pub(crate) text: String,
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// In bytes.
    pub(crate) span: Range<usize>,
    /// What it is.
    pub(crate) kind: Kind,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// A number, a text, a truth value or null.
    Scalar(Value),
    /// A list.
    List(Vec<Node>),
    /// An object: names, with their places, and values.
    Object(Vec<(String, Range<usize>, Node)>),
}

impl Node {
    /// The value alone.
    pub(crate) fn value(&self) -> Value {
        match &self.kind {
            Kind::Scalar(value) => value.clone(),
            Kind::List(list) => list.iter().map(Self::value).collect(),
            Kind::Object(members) => {
                let members = members.iter().map(|(name, _, value)| (name.clone(), value.value()));
                Value::Object(members.collect::<Map<_, _>>())
            }
        }
    }

    /// The member of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        let Kind::Object(members) = &self.kind else { return None };
        members.iter().find(|(known, ..)| known == name).map(|(_, _, value)| value)
    }

    /// The value at the end of a chain of members.
    pub(crate) fn at(&self, names: &[&str]) -> Option<&Self> {
        names.iter().try_fold(self, |node, name| node.get(name))
    }

    /// The elements of a list.
    pub(crate) fn elements(&self) -> &[Self] {
        if let Kind::List(list) = &self.kind { list } else { &[] }
    }

    /// The text.
    pub(crate) fn text(&self) -> Option<&str> {
        if let Kind::Scalar(value) = &self.kind { value.as_str() } else { None }
    }

    /// The place of a JSON path such as `rules[2].match.paths[0]`, or of the nearest value above it that is there.
    pub(crate) fn locate(&self, path: &str) -> Range<usize> {
        self.find(path, false)
    }

    /// The same, but the place of the name, where the path ends with one.
    pub(crate) fn locate_name(&self, path: &str) -> Range<usize> {
        self.find(path, true)
    }

    fn find(&self, path: &str, name: bool) -> Range<usize> {
        let mut rest = path.trim_start_matches('$').trim_start_matches('.');
        let (mut node, mut span) = (self, self.span.clone());
        while !rest.is_empty() {
            match &node.kind {
                Kind::List(list) => {
                    let Some((index, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'))
                    else {
                        return span;
                    };
                    let Some(element) = index.parse().ok().and_then(|index: usize| list.get(index)) else {
                        return span;
                    };
                    (node, span, rest) = (element, element.span.clone(), after.trim_start_matches('.'));
                }
                Kind::Object(members) => {
                    // A name may hold dots, which the path does not tell from its own: the longest name that fits is meant.
                    let fits = |name: &str| {
                        rest.strip_prefix(name)
                            .filter(|after| after.is_empty() || after.starts_with(['.', '[']))
                    };
                    let found = members
                        .iter()
                        .filter_map(|(name, span, value)| Some((name.len(), span, value, fits(name)?)))
                        .max_by_key(|(length, ..)| *length);
                    let Some((_, name_span, value, after)) = found else { return span };
                    let scalar = !name
                        && matches!(
                            value.kind,
                            Kind::Scalar(Value::String(_) | Value::Number(_) | Value::Bool(_))
                        );
                    span = if scalar { value.span.clone() } else { name_span.clone() };
                    (node, rest) = (value, after.trim_start_matches('.'));
                }
                Kind::Scalar(_) => return span,
            }
        }
        span
    }
}

fn bytes(location: &Location) -> Range<usize> {
    let span = location.span();
    let start = span.byte_offset().and_then(|start| usize::try_from(start).ok()).unwrap_or(0);
    let length = span.byte_len().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    start..start.saturating_add(length)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, defined, .. } = Spanned::<Kind>::deserialize(deserializer)?;
        Ok(Self { span: bytes(&defined), kind: value })
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Kind;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Kind, E> {
                Ok(Kind::Scalar(Value::Null))
            }

            fn visit_none<E>(self) -> Result<Kind, E> {
                Ok(Kind::Scalar(Value::Null))
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
                Kind::deserialize(deserializer)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
                Ok(Kind::Scalar(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
                Ok(Kind::Scalar(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
                Ok(Kind::Scalar(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Kind, E> {
                Ok(Kind::Scalar(Number::from_f64(value).map_or(Value::Null, Value::Number)))
            }

            fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
                Ok(Kind::Scalar(value.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Kind, A::Error> {
                let mut list = Vec::new();
                while let Some(element) = access.next_element()? {
                    list.push(element);
                }
                Ok(Kind::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Kind, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = access.next_entry::<Spanned<String>, Node>()? {
                    members.push((name.value, bytes(&name.defined), value));
                }
                Ok(Kind::Object(members))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// What is wrong with a document, and where.
pub(crate) struct Malformed {
    /// In bytes.
    pub(crate) span: Range<usize>,
    /// The parser's words.
    pub(crate) message: String,
}

/// The documents of a source, in order.
///
/// # Errors
/// It is not YAML, and so not JSON either.
pub(crate) fn parse(text: &str) -> Result<Vec<Node>, Malformed> {
    serde_saphyr::from_multiple(text.trim_start_matches('\u{feff}')).map_err(|error| {
        let offset =
            error.location().map_or(0, |location| offset_of(text, location.line(), location.column()));
        let span = offset..offset;
        Malformed { span, message: first_line(&error.without_snippet().to_string()) }
    })
}

/// The place in bytes of a line and a column, both from 1.
fn offset_of(text: &str, line: u64, column: u64) -> usize {
    let index = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).saturating_sub(1);
    let lines = text.split_inclusive('\n');
    let start: usize = lines.clone().take(index(line)).map(str::len).sum();
    let within = lines.clone().nth(index(line)).unwrap_or_default();
    start + within.char_indices().nth(index(column)).map_or(within.trim_end().len(), |(at, _)| at)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// Reads files, folders (every `.yaml`, `.yml` and `.json` file below them) and standard input.
///
/// # Errors
/// Something could not be read.
pub(crate) fn read_all(inputs: &[PathBuf]) -> Result<Vec<Source>, String> {
    let mut sources = Vec::new();
    for input in inputs {
        if input.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(|error| format!("standard input: {error}"))?;
            sources.push(Source { name: "standard input".to_owned(), text });
        } else {
            read(input, true, &mut sources)?;
        }
    }
    Ok(sources)
}

fn read(path: &Path, named: bool, sources: &mut Vec<Source>) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    if path.is_dir() {
        let entries = fs::read_dir(path).map_err(failed)?;
        let mut entries = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?;
        entries.sort();
        let hidden =
            |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        return entries
            .iter()
            .filter(|entry| !hidden(entry))
            .try_for_each(|entry| read(entry, false, sources));
    }
    let known = ["yaml", "yml", "json"];
    if named
        || path
            .extension()
            .and_then(|extension| extension.to_str())
            .is_some_and(|extension| known.contains(&extension))
    {
        let text = fs::read_to_string(path).map_err(failed)?;
        sources.push(Source { name: path.display().to_string(), text });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a:\n  x.y: [1, {b: text}]\n  x: 2\n---\n{\"c\": null}\n";

    fn shown(node: &Node, path: &str) -> &'static str {
        &TEXT[node.locate(path)]
    }

    #[test]
    fn a_path_is_found_by_its_longest_names_or_else_the_nearest_value_above() {
        let documents = parse(TEXT).unwrap_or_else(|error| panic!("{}", error.message));
        let [first, second] = documents.as_slice() else { panic!("{documents:?}") };
        for (path, expected) in [
            ("a.x.y[1].b", "text"),
            ("a.x.y[0]", "1"),
            ("a.x", "2"),
            ("a.x.y[7]", "x.y"),
            ("a.x.z", "2"),
            ("a", "a"),
            ("a.other", "a"),
        ] {
            assert_eq!(shown(first, path), expected, "{path}");
        }
        assert_eq!(shown(second, "c"), "\"c\"");
        assert_eq!(second.value(), serde_json::json!({ "c": null }));
    }

    #[test]
    fn what_is_no_yaml_says_where() {
        let error = parse("é: 1\né: [\n").err().unwrap();
        assert!(!error.message.is_empty());
        assert_eq!(offset_of("é: 1\né: [\n", 2, 2), "é: 1\né".len());
        assert_eq!(offset_of("a\n", 9, 9), 2);
    }
}
