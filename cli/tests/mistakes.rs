//! What `mesh-filters check` says to each mistake in `testdata/mistakes` stands beside it. `UPDATE=1` writes
//! it anew.
#![allow(clippy::restriction)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use plugin_kit::config::Code;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn check(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mesh-filters"))
        .arg("check")
        .args(arguments)
        .current_dir(root())
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn each_mistake_has_the_output_beside_it() {
    let mut mistakes: Vec<PathBuf> = fs::read_dir(root().join("testdata/mistakes"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension != "txt"))
        .collect();
    mistakes.sort();
    assert!(mistakes.len() >= 60);
    let mut wrong = Vec::new();
    for mistake in mistakes {
        let name = mistake.file_name().unwrap().to_str().unwrap();
        let output = check(&["--deny", "warnings", &format!("testdata/mistakes/{name}")]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        let (found, beside) = (text(&output), mistake.with_extension("txt"));
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&beside, &found).unwrap();
        } else if fs::read_to_string(&beside).unwrap_or_default() != found {
            wrong.push(format!("{name}:\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The document with the text between `<!-- START -->` and `<!-- end -->` made anew by `make`, from what
/// stands after START.
fn filled(document: &str, start: &str, make: impl Fn(&str) -> String) -> String {
    let mut parts = document.split(start);
    let mut text = parts.next().unwrap().to_owned();
    for part in parts {
        let (argument, rest) = part.split_once(" -->").unwrap();
        let (_, rest) = rest.split_once("<!-- end -->").unwrap();
        text.extend([start, argument, " -->\n", &make(argument.trim()), "<!-- end -->", rest]);
    }
    text
}

#[test]
fn document_shows_each_code_and_real_output() {
    let file = root().join("docs/check-and-explain.md");
    let document = fs::read_to_string(&file).unwrap();
    let row = |code: &Code| {
        format!("| `{}` | {} | {} |\n", code.name(), code.severity().name(), code.explanation())
    };
    let table: String = Code::ALL.iter().map(row).collect();
    let table = format!("| code | severity | what it means, and what to do |\n|---|---|---|\n{table}");
    let shown = filled(&document, "<!-- codes", |_| table.clone());
    let shown = filled(&shown, "<!-- output:", |name| {
        let output = text(&check(&[&format!("testdata/mistakes/{name}")]));
        output.lines().map(|line| format!("    {line}").trim_end().to_owned() + "\n").collect()
    });
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&file, &shown).unwrap();
    } else {
        let stale = "UPDATE=1 cargo test --workspace --test mistakes";
        assert!(document == shown, "{} is stale: {stale}", file.display());
    }
}

#[test]
fn each_code_is_explained() {
    for code in Code::ALL {
        let said = text(&check(&["--explain", &code.name()]));
        assert_eq!(said.trim(), code.explanation());
    }
    let unknown = check(&["--explain", "unknown-feld"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("did you mean `unknown-field`?"));
}

#[test]
fn a_warning_fails_where_warnings_are_denied() {
    let folder = tempfile::tempdir().unwrap();
    let file = "testdata/mistakes/mode-report.yaml";
    assert_eq!(check(&[file]).status.code(), Some(0));
    assert_eq!(check(&["--deny", "warnings", file]).status.code(), Some(1));
    fs::write(folder.path().join("empty.yaml"), "\n").unwrap();
    let empty = check(&[folder.path().join("empty.yaml").to_str().unwrap()]);
    assert_eq!(empty.status.code(), Some(2), "an input that a failed command has left empty is not good");
    let missing = check(&["nowhere.yaml"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&missing.stderr).starts_with("mesh-filters: nowhere.yaml: "));
}

#[test]
fn each_finding_has_what_was_found_and_what_was_expected() {
    let mut count = 0;
    let list: serde_json::Value =
        serde_json::from_str(&text(&check(&["--format", "json", "testdata/mistakes"]))).unwrap();
    for finding in list.as_array().unwrap() {
        for field in ["found", "expected"] {
            let said = finding[field].as_str().unwrap();
            assert!(!said.is_empty() && !said.ends_with([';', ',', ' ']), "{field}: {finding}");
        }
        count += 1;
    }
    assert!(count > 60);
    let of = |file: &str| -> serde_json::Value {
        let file = format!("testdata/mistakes/{file}.yaml");
        serde_json::from_str(&text(&check(&["--format", "json", &file]))).unwrap()
    };
    let truth = &of("truth-as-text")[0];
    assert_eq!(
        (&truth["found"], &truth["expected"]),
        (&"the text `\"true\"`".into(), &"`true` or `false`".into()),
        "{truth}"
    );
}

#[test]
fn names_of_files_are_references_in_sarif() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a b%c é.yaml"), "limits: 7\n").unwrap();
    let file = folder.path().join("a b%c é.yaml");
    let sarif: serde_json::Value =
        serde_json::from_str(&text(&check(&["--format", "sarif", file.to_str().unwrap()]))).unwrap();
    let location = &sarif["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"];
    let uri = location["uri"].as_str().unwrap();
    assert!(uri.ends_with("/a%20b%25c%20%C3%A9.yaml"), "{uri}");
}

#[test]
fn programs_read_the_same_findings() {
    let file = "testdata/mistakes/unknown-field.yaml";
    let list: serde_json::Value = serde_json::from_str(&text(&check(&["--format", "json", file]))).unwrap();
    let list = list.as_array().unwrap();
    let first = &list[0];
    assert_eq!(
        (&first["code"], &first["line"], &first["column"]),
        (&"unknown-field".into(), &15.into(), &9.into())
    );
    let said =
        |field: &str| list.iter().map(|one| one[field].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(first["path"], "providers.shop.audience");
    assert_eq!(first["found"], "unknown field `audience`");
    assert!(first["expected"].as_str().unwrap().ends_with("did you mean `audiences`?"), "{first}");
    for field in ["path", "found", "expected", "message", "resource", "file", "severity"] {
        assert!(said(field).iter().all(|text| !text.is_empty()), "{field}: {list:?}");
    }
    let sarif: serde_json::Value = serde_json::from_str(&text(&check(&["--format", "sarif", file]))).unwrap();
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    assert_eq!(results.len(), list.len());
    assert_eq!(results[0]["locations"][0]["physicalLocation"]["region"]["startLine"], 15);
    let commands = text(&check(&["--format", "github", file]));
    assert_eq!(commands.lines().count(), list.len());
    assert!(commands.starts_with(
        "::error file=testdata/mistakes/unknown-field.yaml,line=15,col=9,title=unknown-field::"
    ));
}
