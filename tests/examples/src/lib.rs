//! Reads the pages of `examples/` and does what they say, as a reader would in a shell.
#![allow(clippy::restriction, clippy::missing_panics_doc)]

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use regex_lite::Regex;

/// A fenced block of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The word behind the fence: `console`, `sh`, `json`.
    pub language: String,
    /// What stands between the fences.
    pub text: String,
}

/// The fenced blocks of a page, in order.
pub fn blocks(page: &str) -> Vec<Block> {
    let fenced = page.split("```").skip(1).step_by(2);
    let block = |fenced: &str| {
        let (language, text) = fenced.split_once('\n')?;
        Some(Block { language: language.to_owned(), text: text.to_owned() })
    };
    fenced.filter_map(block).collect()
}

/// A command, and what the page says that it prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The command, with the lines that go on with it.
    pub command: String,
    /// The lines behind it.
    pub output: String,
}

impl Block {
    /// The commands of a block: in `console` those behind `$ `, with their output; in `sh` all lines; in
    /// others none.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        let mut goes_on = false;
        for line in self.text.lines() {
            let (begins, line) = match self.language.as_str() {
                "sh" => (!goes_on, line),
                "console" => line.strip_prefix("$ ").map_or((false, line), |command| (true, command)),
                _ => return Vec::new(),
            };
            match steps.last_mut() {
                _ if begins => steps.push(Step { command: line.to_owned(), output: String::new() }),
                Some(step) if goes_on => {
                    step.command.push('\n');
                    step.command.push_str(line);
                }
                Some(step) => {
                    step.output.push_str(line);
                    step.output.push('\n');
                }
                None => panic!("{line} stands before the first command"),
            }
            goes_on = (begins || goes_on) && line.ends_with('\\');
        }
        steps
    }
}

/// Whether a text is what a page shows, in which `…` stands for anything within a line.
pub fn is_shown(shown: &str, text: &str) -> bool {
    let parts: Vec<String> = shown.trim().split('…').map(escaped).collect();
    Regex::new(&format!("^{}$", parts.join(".*"))).unwrap().is_match(text.trim())
}

fn escaped(text: &str) -> String {
    regex_lite::escape(text)
}

/// A shell that stays between commands, as that of a reader does.
#[derive(Debug)]
pub struct Shell {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// Ends the output of a command.
const END: u8 = 1;

impl Shell {
    /// Starts it in a folder, with one more folder of programs.
    pub fn start(folder: &Path, programs: &Path) -> io::Result<Self> {
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
        let mut process = Command::new("sh")
            .current_dir(folder)
            .env("PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut shell = Self { process, input, output };
        shell.run("exec 2>&1")?;
        Ok(shell)
    }

    /// Runs a command, and gives what it prints.
    pub fn run(&mut self, command: &str) -> io::Result<String> {
        let input = self.input.as_mut().expect("it is open until the end");
        write!(input, "{command}\nprintf '\\001'\n")?;
        input.flush()?;
        let mut printed = Vec::new();
        self.output.read_until(END, &mut printed)?;
        if printed.pop() != Some(END) {
            return Err(io::Error::other(format!("the shell ended in: {command}")));
        }
        Ok(String::from_utf8_lossy(&printed).into_owned())
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // It ends when its input does.
        drop(self.input.take());
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_commands_with_their_output() {
        let page = "a\n```sh\nb \\\n  c\nd\n```\n```console\n$ e \\\n  f\ng\nh\n$ i\n```\n```json\n{}\n```\n";
        let steps: Vec<Step> = blocks(page).iter().flat_map(Block::steps).collect();
        let step = |command: &str, output: &str| Step { command: command.into(), output: output.into() };
        assert_eq!(steps, [step("b \\\n  c", ""), step("d", ""), step("e \\\n  f", "g\nh\n"), step("i", "")]);
        assert_eq!(blocks(page)[2], Block { language: "json".into(), text: "{}\n".into() });
    }

    #[test]
    fn dots_stand_for_anything_within_a_line() {
        assert!(is_shown("{\"id\":\"…\"}\n", "{\"id\":\"1\"}"));
        assert!(!is_shown("{\"id\":\"…\"}", "{\"id\":1}"));
        assert!(!is_shown("a…b", "a\nb"));
        assert!(!is_shown("a.c", "abc"));
    }

    #[test]
    fn a_shell_keeps_its_variables() {
        let mut shell = Shell::start(Path::new("/"), Path::new("/bin")).unwrap();
        assert_eq!(shell.run("A=1").unwrap(), "");
        assert_eq!(shell.run("echo $A; echo 2 >&2").unwrap(), "1\n2\n");
    }
}
