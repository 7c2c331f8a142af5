//! Documents, in YAML or JSON, with the place of each value in its file.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Location, Spanned};

/// A file, or standard input.
pub(crate) struct Source {
    /// Its name as the user gave it, or its path below a folder that the user named.
    pub(crate) name: String,
    /// The content.
    pub(crate) text: String,
    /// Whether the user named the file itself. Otherwise it was found below a folder and may be about
    /// anything.
    pub(crate) named: bool,
}

/// A value and its place in the source.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// The place, in bytes.
    pub(crate) span: Range<usize>,
    /// The value.
    pub(crate) kind: Kind,
}

/// The kinds of values.
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
    /// The value without places.
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

    /// The members of an object.
    pub(crate) fn members(&self) -> impl Iterator<Item = (&str, &Self)> {
        let members = if let Kind::Object(members) = &self.kind { members.as_slice() } else { &[] };
        members.iter().map(|(name, _, value)| (name.as_str(), value))
    }

    /// The elements of a list.
    pub(crate) fn elements(&self) -> &[Self] {
        if let Kind::List(list) = &self.kind { list } else { &[] }
    }

    /// The text.
    pub(crate) fn text(&self) -> Option<&str> {
        if let Kind::Scalar(value) = &self.kind { value.as_str() } else { None }
    }

    /// The place of the value at a JSON path such as `rules[2].match.paths[0]`, or of the nearest value above
    /// it that exists.
    pub(crate) fn locate(&self, path: &str) -> Range<usize> {
        self.find(path, false)
    }

    /// The same, but if the path ends with a name, the place is that of the name.
    pub(crate) fn locate_name(&self, path: &str) -> Range<usize> {
        self.find(path, true)
    }

    /// The value at a JSON path, or the nearest value above it that exists.
    pub(crate) fn nearest(&self, path: &str) -> &Self {
        self.walk(path, false).0
    }

    fn find(&self, path: &str, name: bool) -> Range<usize> {
        self.walk(path, name).1
    }

    fn walk(&self, path: &str, name: bool) -> (&Self, Range<usize>) {
        let mut rest = path.trim_start_matches('$').trim_start_matches('.');
        let (mut node, mut span) = (self, self.span.clone());
        while !rest.is_empty() {
            match &node.kind {
                Kind::List(list) => {
                    let Some((index, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'))
                    else {
                        return (node, span);
                    };
                    let Some(element) = index.parse().ok().and_then(|index: usize| list.get(index)) else {
                        return (node, span);
                    };
                    (node, span, rest) = (element, element.span.clone(), after.trim_start_matches('.'));
                }
                Kind::Object(members) => {
                    // A name may contain dots, which look like those of the path. So the longest name that
                    // fits is meant.
                    let fits = |name: &str| {
                        rest.strip_prefix(name)
                            .filter(|after| after.is_empty() || after.starts_with(['.', '[']))
                    };
                    let found = members
                        .iter()
                        .filter_map(|(name, span, value)| Some((name.len(), span, value, fits(name)?)))
                        .max_by_key(|(length, ..)| *length);
                    let Some((_, name_span, value, after)) = found else { return (node, span) };
                    let scalar = !name
                        && matches!(
                            value.kind,
                            Kind::Scalar(Value::String(_) | Value::Number(_) | Value::Bool(_))
                        );
                    span = if scalar { value.span.clone() } else { name_span.clone() };
                    (node, rest) = (value, after.trim_start_matches('.'));
                }
                Kind::Scalar(_) => return (node, span),
            }
        }
        (node, span)
    }

    /// The same value, with each place replaced by `place` of it.
    fn placed(self, place: &impl Fn(Range<usize>) -> Range<usize>) -> Self {
        let kind = match self.kind {
            Kind::Scalar(value) => Kind::Scalar(value),
            Kind::List(list) => Kind::List(list.into_iter().map(|element| element.placed(place)).collect()),
            Kind::Object(members) => {
                let member =
                    |(name, span, value): (String, _, Self)| (name, place(span), value.placed(place));
                Kind::Object(members.into_iter().map(member).collect())
            }
        };
        Self { span: place(self.span), kind }
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

/// An error of syntax in a document.
#[derive(Debug)]
pub(crate) struct Malformed {
    /// The place, in bytes.
    pub(crate) span: Range<usize>,
    /// The message of the parser.
    pub(crate) message: String,
}

/// The documents of a source, in order.
///
/// # Errors
/// The text is not YAML, and therefore not JSON either.
pub(crate) fn parse(text: &str) -> Result<Vec<Node>, Malformed> {
    // Enough for all resources of a cluster. The parser's own bounds are meant for input from strangers.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 1_000_000,
            max_events: 100_000_000,
            max_nodes: 100_000_000,
        },
    };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let offset =
            error.location().map_or(0, |location| offset_of(text, location.line(), location.column()));
        let span = offset..offset;
        Malformed { span, message: first_line(&error.without_snippet().to_string()) }
    })
}

/// The characters of a literal block (`|`), with their places in the source. `span` begins at the first line
/// that is not empty. `None` if there is no literal block.
fn of_block(source: &str, span: &Range<usize>) -> Option<Vec<(usize, char)>> {
    let before = source.get(..span.start)?;
    let header = before.trim_end();
    let mark = header.rsplit([' ', '\n']).next().filter(|word| word.starts_with('|') && word.len() <= 3);
    mark?;
    let first = header.len() + before.get(header.len()..)?.find('\n')? + 1;
    let indent = before.len() - before.rfind('\n').map_or(0, |at| at + 1);
    let mut found = Vec::new();
    let mut start = first;
    for line in source.get(first..span.end)?.split_inclusive('\n') {
        let content = line.trim_end_matches('\n').len().min(indent);
        let characters = line.get(content..)?.char_indices();
        found.extend(characters.map(|(at, character)| (start + content + at, character)));
        start += line.len();
    }
    Some(found)
}

/// The characters of a text in YAML, with their places in the source. `None` if the text is folded from
/// several lines.
fn characters(source: &str, span: &Range<usize>) -> Option<Vec<(usize, char)>> {
    if let Some(block) = of_block(source, span) {
        return Some(block);
    }
    let written = source.get(span.clone())?;
    let quoted = |quote| written.len() > 1 && written.starts_with(quote) && written.ends_with(quote);
    if written.contains('\n') {
        return None;
    }
    let mut all = written.char_indices();
    if quoted('\'') || quoted('"') {
        let quote = all.next()?.1;
        all.next_back();
        let mut found = Vec::new();
        while let Some((at, character)) = all.next() {
            let is_escape = if quote == '"' { character == '\\' } else { character == quote };
            let character = match is_escape.then(|| all.next()).flatten() {
                None => character,
                Some((_, escaped)) if quote == '\'' => escaped,
                Some((_, 'n')) => '\n',
                Some((_, 't')) => '\t',
                Some((_, 'r')) => '\r',
                Some((_, 'x' | 'u' | 'U')) => {
                    let digits = match written.as_bytes().get(at + 1) {
                        Some(b'x') => 2,
                        Some(b'u') => 4,
                        _ => 8,
                    };
                    let code: String = all.by_ref().take(digits).map(|(_, digit)| digit).collect();
                    char::from_u32(u32::from_str_radix(&code, 16).ok()?)?
                }
                Some((_, escaped)) => escaped,
            };
            found.push((span.start + at, character));
        }
        return Some(found);
    }
    Some(all.map(|(at, character)| (span.start + at, character)).collect())
}

/// For each byte of a text, and for its end, the place in the source. The text is written at `span` of the
/// source. `None` if it is written otherwise than it is read, such as one that is folded from several lines.
fn places(source: &str, span: &Range<usize>, text: &str) -> Option<Vec<usize>> {
    let characters = characters(source, span)?;
    let mut places = Vec::with_capacity(text.len() + 1);
    let mut written = characters.iter();
    for expected in text.chars() {
        // The last line of a block ends with a newline, even if the source does not.
        let (at, character) = written.next().copied().unwrap_or((span.end, '\n'));
        if character != expected {
            return None;
        }
        places.extend(std::iter::repeat_n(at, expected.len_utf8()));
    }
    // A block may end with white space that the text does not have.
    if !written.clone().all(|(_, character)| character.is_whitespace()) {
        return None;
    }
    let end = written.next().map(|(at, _)| *at);
    let quote = usize::from(source.get(..span.end)?.ends_with(['"', '\'']) && span.start < span.end);
    places.push(end.unwrap_or(span.end - quote));
    Some(places)
}

/// The place in the source of one character: the one at byte `at` of a text that is written at `span`. `None`
/// if the place is not known.
pub(crate) fn place_in_text(
    source: &str,
    span: &Range<usize>,
    text: &str,
    at: usize,
) -> Option<Range<usize>> {
    let start = *places(source, span, text)?.get(at)?;
    let length =
        source.get(start..)?.chars().next().filter(|next| !next.is_whitespace()).map_or(0, char::len_utf8);
    Some(start..start + length)
}

/// If a node is a text that holds a JSON document, that document, with its places; otherwise the node itself.
pub(crate) fn unfolded<'a>(source: &str, node: &'a Node) -> Cow<'a, Node> {
    let document = |text: &str| {
        plugin_kit::config::document(text.as_bytes()).ok()?;
        let [document] = <[Node; 1]>::try_from(parse(text).ok()?).ok()?;
        let places = places(source, &node.span, text);
        Some(document.placed(&|span| match &places {
            Some(places) => {
                let place = |at: usize| places.get(at).copied().unwrap_or(node.span.end);
                place(span.start)..place(span.end)
            }
            None => node.span.clone(),
        }))
    };
    node.text().and_then(document).map_or(Cow::Borrowed(node), Cow::Owned)
}

/// The JSON document in a decoded text, or else the text. Every place is that of the encoded node.
pub(crate) fn decoded(node: &Node, text: &str) -> Node {
    let document = plugin_kit::config::document(text.as_bytes()).ok().and_then(|_| parse(text).ok());
    match document.and_then(|nodes| <[Node; 1]>::try_from(nodes).ok()) {
        Some([document]) => document.placed(&|_| node.span.clone()),
        None => Node { span: node.span.clone(), kind: Kind::Scalar(Value::from(text)) },
    }
}

/// The place, in bytes, of a line and a column, which both begin at 1.
pub(crate) fn offset_of(text: &str, line: u64, column: u64) -> usize {
    let index = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).saturating_sub(1);
    let lines = text.split_inclusive('\n');
    let start: usize = lines.clone().take(index(line)).map(str::len).sum();
    let within = lines.clone().nth(index(line)).unwrap_or_default();
    start + within.char_indices().nth(index(column)).map_or(within.trim_end().len(), |(at, _)| at)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// The inputs that were read, and those that could not be read.
#[derive(Default)]
pub(crate) struct Inputs {
    /// Each file once, in order.
    pub(crate) sources: Vec<Source>,
    /// An error for each input that could not be read.
    pub(crate) unread: Vec<String>,
    /// The canonical paths of the files and folders that have been visited.
    seen: BTreeSet<PathBuf>,
}

/// Reads files, folders (every `.yaml`, `.yml` and `.json` file below them) and standard input.
///
/// # Errors
/// An input could not be read.
pub(crate) fn read_all(inputs: &[PathBuf]) -> Result<Vec<Source>, String> {
    let Inputs { sources, unread, .. } = read_each(inputs);
    unread.into_iter().next().map_or(Ok(sources), Err)
}

/// The same, but an input that cannot be read does not hide the others.
pub(crate) fn read_each(inputs: &[PathBuf]) -> Inputs {
    let mut all = Inputs::default();
    for input in inputs {
        if input.as_os_str() == "-" {
            all.add("standard input".to_owned(), true, std::io::stdin());
        } else {
            all.read(input, true);
        }
    }
    all
}

/// The text without a byte order mark.
fn without_mark(text: String) -> String {
    text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)
}

impl Inputs {
    /// Reads to the end, but at most 256 MiB, since a device may have no end.
    fn add(&mut self, name: String, named: bool, from: impl Read) {
        const MOST: u64 = 256 << 20;
        let mut text = String::new();
        match from.take(MOST).read_to_string(&mut text) {
            Ok(length) if u64::try_from(length).is_ok_and(|length| length < MOST) => {
                self.sources.push(Source { name, text: without_mark(text), named });
            }
            Ok(_) => self.unread.push(format!("{name}: is larger than 256 MiB")),
            Err(error) => self.unread.push(format!("{name}: {error}")),
        }
    }

    fn read(&mut self, path: &Path, named: bool) {
        const KNOWN: [&str; 3] = ["yaml", "yml", "json"];
        let has_end = |end: &std::ffi::OsStr| KNOWN.iter().any(|known| end == *known);
        let is_known = named || path.extension().is_some_and(has_end);
        let name = path.display().to_string();
        let found = match fs::metadata(path) {
            Ok(found) => found,
            Err(error) if is_known => return self.unread.push(format!("{name}: {error}")),
            Err(_) => return,
        };
        if !found.is_dir() && !is_known {
            return;
        }
        // Links may lead here a second time. An input without a canonical path, such as a pipe, is read once.
        if fs::canonicalize(path).is_ok_and(|place| !self.seen.insert(place)) {
            return;
        }
        if found.is_dir() {
            match fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
                Ok(entries) => {
                    let mut entries: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).collect();
                    entries.sort();
                    entries.retain(|entry| {
                        !entry.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
                    });
                    for entry in &entries {
                        self.read(entry, false);
                    }
                }
                Err(error) => self.unread.push(format!("{name}: {error}")),
            }
        } else if !named && !found.is_file() {
            // Reading from a pipe might wait for ever.
            self.unread.push(format!("{name}: is neither a file nor a folder"));
        } else {
            match fs::File::open(path) {
                Ok(file) => self.add(name, named, file),
                Err(error) => self.unread.push(format!("{name}: {error}")),
            }
        }
    }
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

    #[test]
    fn place_in_a_text_is_found_however_it_is_written() {
        const TEXT: &str = concat!(
            "plain: é = x  # c\n",
            "single: 'it''s = x'\n",
            "double: \"\\t\\u00e9\\\"\\x41 = x\"\n",
            "block: |\n\n    é\n     = x\n\n",
            "strip: |-\n  = x\n",
            "end: '='\n",
            "folded: >\n  é\n  = x\n",
            "alias: &a '='\n",
            "last: |\n  = x",
        );
        let documents = parse(TEXT).unwrap_or_else(|error| panic!("{}", error.message));
        let place = |name: &str, what: char| {
            let node = documents[0].get(name).unwrap();
            let text = node.text().unwrap();
            let at = text.find(what).unwrap_or(text.len());
            place_in_text(TEXT, &node.span, text, at).map(|span| span.start)
        };
        let line = |name: &str| TEXT.find(&format!("{name}:")).unwrap();
        for name in ["plain", "single", "double", "block", "strip", "alias", "last"] {
            let after = line(name);
            assert_eq!(place(name, '='), Some(after + TEXT[after..].find('=').unwrap()), "{name}");
        }
        assert_eq!(place("folded", '='), None);
        // The end of a text is its closing quote, or whatever follows it.
        assert_eq!(place("end", '!').map(|at| &TEXT[at..=at]), Some("'"));
        assert_eq!(place("plain", '!'), Some(line("plain") + "plain: é = x".len()));
        assert_eq!(place("last", '!'), Some(TEXT.len()));
    }

    #[test]
    fn document_in_a_text_has_its_places_in_the_source() {
        let source = "a: |\n  { \"x\":\n    [1, \"two\"] }\nb: '{ \"x\": [1, \"two\"] }'\nc: >\n  { \"x\":\n  [1, \"two\"] }\n";
        let documents = parse(source).unwrap_or_else(|error| panic!("{}", error.message));
        for name in ["a", "b"] {
            let inner = unfolded(source, documents[0].get(name).unwrap());
            assert_eq!(&source[inner.locate("x[1]")], "\"two\"", "{name}");
            assert_eq!(inner.value(), serde_json::json!({ "x": [1, "two"] }));
        }
        let folded = documents[0].get("c").unwrap();
        assert_eq!(unfolded(source, folded).locate("x[1]"), folded.span);
        assert!(unfolded(source, folded).text().is_none());
    }
}
