//! What `mesh-filters convert` makes of each input in `testdata/convert` stands beside it, in the final form, with what is said of it
//! and what `check` finds in it. `UPDATE=1` writes it anew.
#![allow(clippy::restriction, clippy::format_push_string, clippy::format_collect)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// No image of anybody.
const IMAGE: &str =
    "oci://registry.example/jwt-auth@sha256:0000000000000000000000000000000000000000000000000000000000000001";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn run(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mesh-filters"))
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn inputs() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("testdata/convert")).unwrap().map(|entry| entry.unwrap().path());
    let mut inputs: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect();
    inputs.sort();
    inputs
}

fn convert(input: &Path, mode: &str) -> Output {
    let name = format!("testdata/convert/{}", input.file_name().unwrap().to_str().unwrap());
    run(&["convert", "--mode", mode, "--image", IMAGE, &name], "")
}

/// What `check --deny warnings` says to something.
fn checked(documents: &str) -> (Option<i32>, String) {
    let output = run(&["check", "--deny", "warnings", "-"], documents);
    (output.status.code(), text(&output.stdout))
}

#[test]
fn each_input_has_the_output_beside_it() {
    let inputs = inputs();
    assert!(inputs.len() >= 30, "{}", inputs.len());
    let mut wrong = Vec::new();
    for input in inputs {
        let output = convert(&input, "enforce");
        let (made, said) = (text(&output.stdout), text(&output.stderr));
        let mut found = made.clone();
        for line in said.lines() {
            found.push_str(&format!("#! {line}\n"));
        }
        assert_eq!(output.status.code(), Some(i32::from(!said.is_empty())), "{}", input.display());
        if !made.is_empty() {
            let (code, report) = checked(&made);
            if code != Some(0) {
                report
                    .lines()
                    .for_each(|line| found.push_str(&format!("{}\n", format!("#? {line}").trim_end())));
            }
        }
        let beside = input.with_extension("txt");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&beside, &found).unwrap();
        } else if fs::read_to_string(&beside).unwrap_or_default() != found {
            wrong.push(format!("{}:\n{found}", input.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is only said beside the old resources.
fn without_the_trial(documents: &str) -> String {
    let is_of_trial = |line: &&str| {
        !line.trim_start().starts_with('#')
            && !line.contains("mode: report")
            && !line.contains("forwardOriginalToken")
    };
    let lines: String = documents.lines().filter(is_of_trial).map(|line| format!("{line}\n")).collect();
    lines.split("---\n").filter(|document| !document.contains("kind: AuthorizationPolicy")).collect()
}

#[test]
fn the_trial_decides_as_the_final_form() {
    for input in inputs() {
        let (report, beside) = (convert(&input, "report"), convert(&input, "beside"));
        let last = text(&convert(&input, "enforce").stdout);
        let (report, beside) = (text(&report.stdout), text(&beside.stdout));
        assert_eq!(without_the_trial(&report), without_the_trial(&beside), "{}", input.display());
        assert_eq!(without_the_trial(&report), without_the_trial(&last), "{}", input.display());
        let plugins = run(
            &["convert", "--only", "plugins", "--mode", "enforce", "--image", IMAGE, "-"],
            &fs::read_to_string(&input).unwrap(),
        );
        assert_eq!(without_the_trial(&report), without_the_trial(&text(&plugins.stdout)));
        assert_eq!(report.matches("mode: report").count(), report.matches("kind: WasmPlugin").count());
        // Where the token is removed, the old resources refuse every request.
        assert_eq!(
            report.matches("forwardOriginalToken: true").count(),
            report.matches("issuer:").count(),
            "{}",
            input.display()
        );
        if !report.is_empty() {
            let findings = run(&["check", "--format", "json", "-"], &report);
            let findings: Vec<serde_json::Value> = serde_json::from_slice(&findings.stdout).unwrap();
            assert!(findings.iter().any(|finding| finding["code"] == "report-mode"));
        }
    }
}

#[test]
fn input_without_anything_to_convert_is_refused() {
    for (input, expected) in [("", "nothing to convert"), ("a: [", "standard input: ")] {
        let output = run(&["convert"], input);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
    }
}
