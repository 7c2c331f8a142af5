//! Findings, as people and programs read them.

use std::fmt::Write;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use plugin_kit::config::Severity;
use serde_json::{Value, json};

use crate::document::Source;
use crate::finding::Finding;

/// The line and the column of a place, from 1, in characters.
fn position(source: &Source, offset: usize) -> (usize, usize) {
    let before = source.text.get(..offset).unwrap_or(&source.text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    (before.matches('\n').count() + 1, column)
}

fn at<'a>(sources: &'a [Source], finding: &Finding) -> &'a Source {
    &sources[finding.source]
}

/// For people: each finding with its line, and a caret under what it is about.
pub(crate) fn text(plugins: usize, findings: &[Finding], sources: &[Source], styled: bool) -> String {
    let renderer = if styled { Renderer::styled() } else { Renderer::plain() };
    let mut text = String::new();
    for finding in findings {
        let source = at(sources, finding);
        let (start, end) =
            (finding.span.start.min(source.text.len()), finding.span.end.min(source.text.len()));
        // Of a value over several lines the first is shown.
        let end = source.text[start..end].find('\n').map_or(end, |line| start + line);
        let level = if finding.code.severity() == Severity::Error { Level::ERROR } else { Level::WARNING };
        let code = finding.code.name();
        let label = if finding.place.is_empty() { String::new() } else { format!("in {}", finding.place) };
        let snippet = Snippet::source(source.text.as_str())
            .path(source.name.as_str())
            .annotation(AnnotationKind::Primary.span(start..end.max(start)).label(label.as_str()));
        let report = [level.primary_title(finding.message.as_str()).id(code.as_str()).element(snippet)];
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
    let (plugins, files) = (number(plugins, "plugin"), number(sources.len(), "file"));
    let _ = writeln!(text, "{plugins} in {files} checked: {summary}");
    text
}

fn number(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// A list of objects.
pub(crate) fn json(findings: &[Finding], sources: &[Source]) -> String {
    let list: Vec<Value> = findings
        .iter()
        .map(|finding| {
            let source = at(sources, finding);
            let (line, column) = position(source, finding.span.start);
            json!({
                "code": finding.code.name(),
                "severity": finding.code.severity().name(),
                "file": source.name,
                "line": line,
                "column": column,
                "resource": finding.place,
                "message": finding.message,
            })
        })
        .collect();
    format!("{:#}\n", Value::Array(list))
}

/// SARIF 2.1.0 (OASIS).
pub(crate) fn sarif(findings: &[Finding], sources: &[Source]) -> String {
    let results: Vec<Value> = findings
        .iter()
        .map(|finding| {
            let source = at(sources, finding);
            let (line, column) = position(source, finding.span.start);
            json!({
                "ruleId": finding.code.name(),
                "level": finding.code.severity().name(),
                "message": { "text": finding.message },
                "locations": [{ "physicalLocation": {
                    "artifactLocation": { "uri": source.name },
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
    let mut text = String::new();
    for finding in findings {
        let source = at(sources, finding);
        let (line, column) = position(source, finding.span.start);
        let _ = writeln!(
            text,
            "::{} file={},line={line},col={column},title={}::{}",
            finding.code.severity().name(),
            property(&source.name),
            property(&finding.code.name()),
            escaped(&finding.message)
        );
    }
    text
}
