//! The formats of findings, for people and for programs.

use std::fmt::Write;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use plugin_kit::config::{Code, Severity};
use serde_json::{Value, json};

use crate::check::Checked;
use crate::document::Source;
use crate::finding::Finding;
use crate::secret::{concealed, is_secret_name};

/// The sources, each with the places where its lines begin.
struct Lines<'a>(Vec<(&'a Source, Vec<usize>)>);

impl<'a> Lines<'a> {
    fn of(sources: &'a [Source]) -> Self {
        let starts = |text: &str| {
            let after = text.match_indices('\n').map(|(at, _)| at + 1);
            std::iter::once(0).chain(after).collect()
        };
        Self(sources.iter().map(|source| (source, starts(&source.text))).collect())
    }

    /// The source of a finding, the number of its line (from 1), and the place of the line.
    fn at(&self, finding: &Finding) -> (&'a Source, usize, Range<usize>) {
        let (source, starts) = &self.0[finding.source];
        let number = starts.partition_point(|start| *start <= finding.span.start).max(1);
        let end = starts.get(number).map_or(source.text.len(), |next| next - 1);
        (source, number, starts[number - 1]..end)
    }

    /// The source of a finding, its line and its column (both from 1, in characters).
    fn position(&self, finding: &Finding) -> (&'a Source, usize, usize) {
        let (source, number, line) = self.at(finding);
        let before = source.text.get(line.start..finding.span.start).unwrap_or_default();
        (source, number, before.chars().count() + 1)
    }
}

/// A line in which secrets are covered.
fn covered(text: &str, line: Range<usize>, hidden: &[Range<usize>]) -> String {
    let is_hidden = |at: usize| hidden.iter().any(|span| span.contains(&at));
    let characters = text[line.clone()].char_indices();
    // The cover has as many bytes, so that no place moves.
    characters
        .map(|(at, character)| {
            if is_hidden(line.start + at) { "*".repeat(character.len_utf8()) } else { character.to_string() }
        })
        .collect()
}

/// A line of an input that could not be parsed. What follows the name of a secret is covered.
fn unread(line: &str) -> String {
    let names = line.match_indices([':', '=']).map(|(at, _)| at);
    let is_end = |c: char| !c.is_alphanumeric() && c != '_' && c != '-';
    let is_secret = |at: &usize| {
        let before = line[..*at].trim_end_matches(is_end);
        is_secret_name(before.rsplit(is_end).next().unwrap_or_default())
    };
    match names.into_iter().find(is_secret) {
        Some(at) => format!("{}{}", &line[..=at], "*".repeat(line.len() - at - 1)),
        None => line.to_owned(),
    }
}

/// Text for people: each finding with its line, and a caret under the place.
pub(crate) fn text(checked: &Checked, sources: &[Source], styled: bool) -> String {
    let Checked { plugins, findings, hidden } = checked;
    let renderer = if styled { Renderer::styled() } else { Renderer::plain() };
    let lines = Lines::of(sources);
    let mut text = String::new();
    for finding in findings {
        let (source, number, line) = lines.at(finding);
        let of_line = |(n, span): &(usize, Range<usize>)| {
            (*n == finding.source && span.start < line.end && span.end > line.start).then(|| span.clone())
        };
        let hidden: Vec<Range<usize>> = hidden.iter().filter_map(of_line).collect();
        let shown = match finding.code {
            Code::NotYaml => unread(&source.text[line.clone()]),
            _ => covered(&source.text, line.clone(), &hidden),
        };
        let shown = concealed(&shown);
        // Only the first line of a value is shown.
        let within = |at: usize| at.clamp(line.start, line.end) - line.start;
        let (start, end) = (within(finding.span.start), within(finding.span.end));
        let level = if finding.code.severity() == Severity::Error { Level::ERROR } else { Level::WARNING };
        let (code, message) = (finding.code.name(), finding.text());
        let label = if finding.place.is_empty() { String::new() } else { format!("in {}", finding.place) };
        let snippet = Snippet::source(shown.as_str())
            .line_start(number)
            .path(source.name.as_str())
            .annotation(AnnotationKind::Primary.span(start..end.max(start)).label(label.as_str()));
        let report = [level.primary_title(message.as_str()).id(code.as_str()).element(snippet)];
        text.push_str(&renderer.render(&report));
        text.push_str("\n\n");
    }
    let count = |severity| findings.iter().filter(|finding| finding.code.severity() == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let summary = match (errors, warnings) {
        (0, 0) => "nothing found".to_owned(),
        _ => format!(
            "{}, {}; `mesh-filters check --explain CODE` says what a code means",
            number(errors, "error"),
            number(warnings, "warning")
        ),
    };
    let (plugins, files) = (number(*plugins, "plugin"), number(sources.len(), "file"));
    let _ = writeln!(text, "{plugins} in {files} checked: {summary}");
    text
}

fn number(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// A list of JSON objects.
pub(crate) fn json(findings: &[Finding], sources: &[Source]) -> String {
    let lines = Lines::of(sources);
    let list: Vec<Value> = findings
        .iter()
        .map(|finding| {
            let (source, line, column) = lines.position(finding);
            let (found, expected) = finding.found_and_expected();
            json!({
                "code": finding.code.name(),
                "severity": finding.code.severity().name(),
                "file": source.name,
                "line": line,
                "column": column,
                "resource": finding.place,
                "path": finding.path,
                "found": found,
                "expected": expected,
                "message": finding.text(),
            })
        })
        .collect();
    format!("{:#}\n", Value::Array(list))
}

/// The name of a file as a relative reference of RFC 3986, section 4.2. With a `:` in its first segment, that would be
/// taken for a scheme.
fn uri(name: &str) -> String {
    let of = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    name.bytes().map(of).collect()
}

/// SARIF 2.1.0 (OASIS).
pub(crate) fn sarif(findings: &[Finding], sources: &[Source]) -> String {
    let lines = Lines::of(sources);
    let results: Vec<Value> = findings
        .iter()
        .map(|finding| {
            let (source, line, column) = lines.position(finding);
            json!({
                "ruleId": finding.code.name(),
                "level": finding.code.severity().name(),
                "message": { "text": finding.text() },
                "locations": [{ "physicalLocation": {
                    "artifactLocation": { "uri": uri(&source.name) },
                    "region": { "startLine": line, "startColumn": column },
                } }],
            })
        })
        .collect();
    let mut codes: Vec<_> = findings.iter().map(|finding| finding.code).collect();
    codes.sort();
    codes.dedup();
    let rules: Vec<Value> = codes
        .iter()
        .map(|code| json!({ "id": code.name(), "fullDescription": { "text": code.explanation() } }))
        .collect();
    let driver = json!({ "name": "mesh-filters", "version": env!("CARGO_PKG_VERSION"), "rules": rules });
    let run = json!({ "tool": { "driver": driver }, "columnKind": "unicodeCodePoints", "results": results });
    let log = json!({ "$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run] });
    format!("{log:#}\n")
}

/// Workflow commands of GitHub Actions.
pub(crate) fn github(findings: &[Finding], sources: &[Source]) -> String {
    let escaped = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| escaped(text).replace(':', "%3A").replace(',', "%2C");
    let lines = Lines::of(sources);
    let mut text = String::new();
    for finding in findings {
        let (source, line, column) = lines.position(finding);
        let _ = writeln!(
            text,
            "::{} file={},line={line},col={column},title={}::{}",
            finding.code.severity().name(),
            property(&source.name),
            property(&finding.code.name()),
            escaped(&finding.text())
        );
    }
    text
}
