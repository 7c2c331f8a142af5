//! What the documents and `testdata/explain` show of the command line is what it prints: each block that
//! begins with `$ ` is run by a shell in the root of the repository. `UPDATE=1` writes the output anew.
#![allow(clippy::restriction, clippy::format_collect)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Stands between the outputs of commands.
const BORDER: &str = "\u{1}\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The commands of a block, each with the lines that go on with it.
fn commands(block: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in block.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => commands.push(command.to_owned()),
            None if goes_on => {
                let command = commands.last_mut().unwrap();
                command.push('\n');
                command.push_str(line);
            }
            None => continue,
        }
        goes_on = line.ends_with(['\\', '|', ',']);
    }
    commands
}

/// The block with what its commands print.
fn run(block: &str) -> String {
    let commands = commands(block);
    let script: String = commands.iter().map(|command| format!("{command}\nprintf '\\001\\n'\n")).collect();
    let binary = Path::new(env!("CARGO_BIN_EXE_mesh-filters")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap_or_default());
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1\n{script}")])
        .current_dir(root())
        .env("PATH", path)
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let outputs: Vec<&str> = printed.split(BORDER).collect();
    assert_eq!(outputs.len(), commands.len() + 1, "{printed}");
    commands.iter().zip(outputs).map(|(command, output)| format!("$ {command}\n{output}")).collect()
}

/// The signature of each token that a block makes.
fn signatures(block: &str) -> Vec<String> {
    let makes: Vec<String> =
        commands(block).into_iter().filter(|command| command.contains("token mint")).collect();
    let shown: String = makes.iter().map(|command| format!("{command}\necho \"$TOKEN\"\n")).collect();
    let binary = Path::new(env!("CARGO_BIN_EXE_mesh-filters")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap_or_default());
    let output =
        Command::new("sh").args(["-c", &shown]).current_dir(root()).env("PATH", path).output().unwrap();
    let tokens = String::from_utf8(output.stdout).unwrap();
    tokens.lines().filter_map(|token| token.rsplit('.').next()).map(str::to_owned).collect()
}

/// A document with its blocks run, and how many there are. Other text stays as it is.
fn updated(text: &str) -> (String, usize) {
    let mut updated = String::new();
    let mut count = 0;
    let mut fences = text.split("```");
    updated.push_str(fences.next().unwrap_or_default());
    while let Some(block) = fences.next() {
        let body = block.strip_prefix("console\n");
        let block = match body {
            Some(body) if body.starts_with("$ ") => {
                count += commands(body).len();
                let new = run(body);
                for signature in signatures(body) {
                    assert!(signature.len() > 20 && !new.contains(&signature), "a signature is shown: {new}");
                }
                format!("console\n{new}")
            }
            _ => block.to_owned(),
        };
        updated.push_str("```");
        updated.push_str(&block);
        updated.push_str("```");
        updated.push_str(fences.next().unwrap_or_default());
    }
    (updated, count)
}

#[test]
fn each_example_prints_what_is_shown() {
    let mut files: Vec<PathBuf> =
        ["README.md", "cli/README.md", "docs/check-and-explain.md", "docs/migrate.md"]
            .iter()
            .map(|file| root().join(file))
            .collect();
    let shown = fs::read_dir(root().join("testdata/explain")).unwrap().map(|entry| entry.unwrap().path());
    files.extend(shown.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    let (mut wrong, mut all) = (Vec::new(), 0);
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let (new, count) = updated(&text);
        all += count;
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&file, &new).unwrap();
        } else if new != text {
            wrong.push(format!("{}:\n{new}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "UPDATE=1 writes what is printed now:\n{}", wrong.join("\n"));
    assert!(all > 10, "{all}");
}
