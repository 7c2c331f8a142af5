//! YAML as a person writes it: short things on one line, and comments where something has to be said.

use std::fmt::Write;

use serde_json::Value;

use crate::document::{Kind, Node};

/// A value that is to be written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Yaml {
    /// A text.
    Text(String),
    /// A number, a truth value or null.
    Plain(Value),
    /// A list.
    List(Vec<(Vec<String>, Yaml)>),
    /// An object.
    Map(Vec<Entry>),
}

/// A member of an object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// What is said above it.
    pub(super) comments: Vec<String>,
    /// Its name.
    pub(super) name: String,
    /// What it is.
    pub(super) value: Yaml,
    /// Whether it stands on lines of its own, even if one line would do.
    pub(super) tall: bool,
}

/// No line is longer, where it can be broken.
const WIDTH: usize = 110;

impl Yaml {
    /// A text.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A list of texts.
    pub(super) fn texts(texts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::List(texts.into_iter().map(|text| (Vec::new(), Self::text(text))).collect())
    }

    /// An object without members.
    pub(super) fn map() -> Self {
        Self::Map(Vec::new())
    }

    /// The object with another member.
    pub(super) fn with(mut self, name: &str, value: Self) -> Self {
        self.push(Vec::new(), name, value, false);
        self
    }

    /// The object with another member that stands on lines of its own.
    pub(super) fn with_tall(mut self, name: &str, value: Self) -> Self {
        self.push(Vec::new(), name, value, true);
        self
    }

    /// The object with another member, if there is a value.
    pub(super) fn with_some(self, name: &str, value: Option<Self>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Adds a member to an object.
    pub(super) fn push(&mut self, comments: Vec<String>, name: &str, value: Self, tall: bool) {
        if let Self::Map(members) = self {
            members.push(Entry { comments, name: name.to_owned(), value, tall });
        }
    }

    /// A value of the input, in its order.
    pub(super) fn of(node: &Node) -> Self {
        match &node.kind {
            Kind::Scalar(Value::String(text)) => Self::Text(text.clone()),
            Kind::Scalar(value) => Self::Plain(value.clone()),
            Kind::List(list) => Self::List(list.iter().map(|one| (Vec::new(), Self::of(one))).collect()),
            Kind::Object(members) => {
                members.iter().fold(Self::map(), |map, (name, _, value)| map.with_tall(name, Self::of(value)))
            }
        }
    }

    /// The value without its comments.
    pub(super) fn value(&self) -> Value {
        match self {
            Self::Text(text) => Value::String(text.clone()),
            Self::Plain(value) => value.clone(),
            Self::List(list) => list.iter().map(|(_, one)| one.value()).collect(),
            Self::Map(members) => {
                members.iter().map(|entry| (entry.name.clone(), entry.value.value())).collect()
            }
        }
    }

    /// The value as a document.
    pub(super) fn document(&self) -> String {
        let mut out = String::new();
        self.block(0, &mut out);
        out
    }

    fn is_tall(&self) -> bool {
        match self {
            Self::Text(_) | Self::Plain(_) => false,
            Self::List(list) => list.iter().any(|(comments, one)| !comments.is_empty() || one.is_tall()),
            Self::Map(members) => members.iter().any(|entry| {
                entry.tall && !entry.value.is_scalar() || !entry.comments.is_empty() || entry.value.is_tall()
            }),
        }
    }

    fn is_scalar(&self) -> bool {
        matches!(self, Self::Text(_) | Self::Plain(_))
    }

    /// The value on one line.
    fn line(&self) -> String {
        match self {
            Self::Text(text) => scalar(text),
            Self::Plain(value) => value.to_string(),
            Self::List(list) => {
                format!("[{}]", list.iter().map(|(_, one)| one.line()).collect::<Vec<_>>().join(", "))
            }
            Self::Map(members) if members.is_empty() => "{}".to_owned(),
            Self::Map(members) => {
                let member = |entry: &Entry| format!("{}: {}", scalar(&entry.name), entry.value.line());
                format!("{{ {} }}", members.iter().map(member).collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// The members or elements, each on lines of its own.
    fn block(&self, indent: usize, out: &mut String) {
        let margin = " ".repeat(indent);
        match self {
            Self::Text(_) | Self::Plain(_) => {
                let _ = writeln!(out, "{margin}{}", self.line());
            }
            Self::List(list) => {
                for (comments, one) in list {
                    comment(comments, &margin, out);
                    let line = one.line();
                    if one.is_scalar() || (!one.is_tall() && margin.len() + 2 + line.len() <= WIDTH) {
                        let _ = writeln!(out, "{margin}- {line}");
                        continue;
                    }
                    let mut inner = String::new();
                    one.block(indent + 2, &mut inner);
                    // The dash stands in the first line that is no comment.
                    let mut dashed = false;
                    for line in inner.lines() {
                        if !dashed && !line.trim_start().starts_with('#') {
                            let _ = writeln!(out, "{margin}- {}", &line[indent + 2..]);
                            dashed = true;
                        } else {
                            let _ = writeln!(out, "{line}");
                        }
                    }
                }
            }
            Self::Map(members) => {
                for entry in members {
                    comment(&entry.comments, &margin, out);
                    let (name, value) = (scalar(&entry.name), &entry.value);
                    let line = value.line();
                    let is_empty = matches!(value, Self::Map(of) if of.is_empty())
                        || matches!(value, Self::List(of) if of.is_empty());
                    let fits = margin.len() + name.len() + 2 + line.len() <= WIDTH;
                    if value.is_scalar() || is_empty || (!entry.tall && !value.is_tall() && fits) {
                        let _ = writeln!(out, "{margin}{name}: {line}");
                    } else {
                        let _ = writeln!(out, "{margin}{name}:");
                        value.block(indent + 2, out);
                    }
                }
            }
        }
    }
}

/// Writes comments, broken into lines.
fn comment(comments: &[String], margin: &str, out: &mut String) {
    for text in comments {
        for line in wrapped(text, WIDTH.saturating_sub(margin.len() + 2)) {
            let _ = writeln!(out, "{}", format!("{margin}# {line}").trim_end());
        }
    }
}

/// A text in lines of at most this width.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let margin = text.len() - text.trim_start_matches(' ').len();
    let text = text.trim_start_matches(' ');
    let mut lines = vec![" ".repeat(margin)];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is a line");
        let is_begun = !line.trim().is_empty();
        if is_begun && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(" ".repeat(margin) + word);
        } else {
            if is_begun {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// A text as a scalar: plain where every reader of YAML takes it for this text, even between brackets.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@+=~|".contains(c);
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let is_word = words.contains(&text.to_ascii_lowercase().as_str());
    let is_plain =
        starts && text.chars().all(plain) && !text.ends_with(':') && !text.contains("::") && !is_word;
    // A path pattern such as `/orders/*` is plain, too.
    let is_pattern = text
        .strip_suffix("/*")
        .is_some_and(|start| text.starts_with('/') && start.chars().all(|c| plain(c) && c != ':'));
    if is_plain || is_pattern { text.to_owned() } else { Value::String(text.to_owned()).to_string() }
}

#[cfg(test)]
mod tests {
    use super::{Yaml, scalar};

    #[test]
    fn scalars_are_quoted_where_yaml_would_read_them_otherwise() {
        for plain in ["orders", "/orders/*", "https://auth.example/", "GET", "a:b", "1m1"] {
            let is_digit = plain.starts_with('1');
            assert_eq!(scalar(plain) == plain, !is_digit, "{plain}");
        }
        for quoted in
            ["", "no", "True", "5", "1m", "*.example", "a: b", "a b", "{*}", "/a/{*}", "#", "é", "a:", "-"]
        {
            assert_eq!(scalar(quoted), serde_json::json!(quoted).to_string(), "{quoted}");
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let mut rule = Yaml::map().with("name", Yaml::text("a"));
        rule.push(
            vec!["said".to_owned()],
            "match",
            Yaml::map().with("paths", Yaml::texts(["/a/*", "/b"])),
            false,
        );
        let list = Yaml::List(vec![(vec!["first".to_owned()], rule), (Vec::new(), Yaml::map())]);
        let all =
            Yaml::map().with_tall("rules", list).with("words", Yaml::texts(["x".repeat(90), "y".repeat(90)]));
        let documents = crate::document::parse(&all.document()).ok().unwrap();
        assert_eq!(documents[0].value(), all.value());
        assert!(
            all.document()
                .contains("  # first\n  - name: a\n    # said\n    match: { paths: [/a/*, /b] }\n  - {}\n")
        );
    }
}
