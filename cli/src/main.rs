//! `mesh-filters`: tells an operator about the filters without a proxy.
// `--help` shows the doc comments.
#![allow(clippy::restriction, clippy::doc_markdown, clippy::format_push_string)]

mod check;
mod convert;
mod document;
mod explain;
mod expression;
mod finding;
mod hash;
mod pseudonym;
mod report;
mod resource;
mod secret;
mod times;
mod token;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

use mesh_filters_cli::filters;
use plugin_kit::config::{Code, Severity, not_one_of};

/// Tells what is wrong with configurations of jwt-auth, rate-limit, trace-tags and mesh-filters, and why a
/// request is refused.
#[derive(Parser)]
#[command(name = "mesh-filters", version, before_help = EXAMPLES, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
The most common calls:
  mesh-filters check manifests/                             what is wrong with configurations
  mesh-filters explain -c manifests/ URL -H 'NAME: VALUE'   what is decided about a request, and why
  mesh-filters explain -c manifests/ --reply reply.txt      what a 401, 403, 429 or 503 means";

#[derive(Subcommand)]
enum Command {
    /// Checks files, folders or standard input (`-`), and says what is wrong and what may surprise.
    ///
    /// It reads WasmPlugin, TrafficExtension, EnvoyFilter and EnvoyExtensionPolicy resources and bare
    /// pluginConfigs, in YAML or JSON. The exit code is 0 if nothing is wrong, 1 if something is wrong, and 2
    /// if some input could not be read; the rest is checked all the same.
    Check {
        /// Files, folders, or `-`.
        #[arg(default_value = "-")]
        inputs: Vec<PathBuf>,
        /// The format of the findings.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        /// What else makes the exit code 1, besides errors.
        #[arg(long, value_enum)]
        deny: Option<Deny>,
        /// The filter that a bare pluginConfig is for, if its keys do not tell.
        #[arg(long, value_parser = filters::NAMES)]
        filter: Option<String>,
        /// Prints what a code means, and does nothing else.
        #[arg(long, value_parser = code, value_name = "CODE")]
        explain: Option<Code>,
    },
    /// Decides about a request as the filters do, and says which rule, check or limit decided.
    ///
    /// The filters' own code decides. The output names what only a proxy can tell: without keys, signatures
    /// are assumed to be valid, and CEL and RE2 are evaluated by another implementation. Tokens, signatures
    /// and secrets are not printed.
    Explain(Box<explain::Explain>),
    /// Converts RequestAuthentication and AuthorizationPolicy resources to jwt-auth, so that the same requests are let in.
    ///
    /// By default the plugins only report, beside the old resources. What cannot be converted is said, with the resources, and the exit
    /// code is then 1. docs/migrate.md describes the way of a service.
    Convert(convert::Convert),
    /// Prints the number that the gauge `…_config_hash_…` shows for a configuration.
    ///
    /// The number depends on neither white space nor the order of names. Compare it with the gauge to see
    /// whether a proxy runs the configuration of a file.
    Hash {
        /// Files, folders, or `-`.
        #[arg(default_value = "-")]
        inputs: Vec<PathBuf>,
        /// Uses only plugins of this filter. A bare pluginConfig is taken for one of this filter.
        #[arg(long, value_parser = filters::NAMES)]
        filter: Option<String>,
        /// Prints each plugin of the input, with the name of its gauge.
        #[arg(long)]
        all: bool,
    },
    /// Makes tokens for tests, and shows what is in a token.
    #[command(subcommand)]
    Token(token::Token),
    /// Prints the completions of a shell.
    ///
    /// `mesh-filters completions bash >/etc/bash_completion.d/mesh-filters` installs them.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Prints the manual page in roff, or writes that of each command into a folder.
    #[command(hide = true)]
    Man {
        /// The folder.
        folder: Option<PathBuf>,
    },
    /// Prints the pseudonym by which trace-tags shows a user ID.
    ///
    /// The key is taken from an environment variable, so that it does not appear in the shell's history.
    Pseudonym {
        /// The value that the tag's source has, such as the claim `sub`.
        value: String,
        /// The environment variable that holds the key.
        #[arg(long, default_value = "PSEUDONYM_KEY")]
        key_env: String,
        /// `keyId` of the configuration.
        #[arg(long)]
        key_id: Option<String>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Text for people: each finding with its line.
    Text,
    /// A list of JSON objects.
    Json,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
    /// Commands that GitHub Actions shows at the line.
    Github,
}

/// Reads a code by its name.
fn code(name: &str) -> Result<Code, String> {
    let names: Vec<String> = Code::ALL.iter().map(|code| code.name()).collect();
    let found = Code::ALL.iter().find(|code| code.name() == name);
    found.copied().ok_or_else(|| not_one_of(name, &names))
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Deny {
    /// Warnings, too.
    Warnings,
}

/// The stack of the thread that works. The parsers of YAML and of expressions recurse, and whatever they
/// accept must fit, in a build without optimisation too.
const STACK: usize = 64 << 20;

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(move || run(command));
    let done = thread
        .map_err(|error| format!("a thread: {error}"))
        .and_then(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mesh-filters: {}", secret::concealed(&error));
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<ExitCode, String> {
    let mut out = std::io::stdout().lock();
    let text = match command {
        Command::Check { explain: Some(code), .. } => format!("{}\n", code.explanation()),
        Command::Check { inputs, format, deny, filter, explain: None } => {
            let document::Inputs { sources, unread, .. } = document::read_each(&inputs);
            for error in &unread {
                eprintln!("mesh-filters: {error}");
            }
            if unread.is_empty() && sources.iter().all(|source| source.text.trim().is_empty()) {
                return Err("there is nothing to check: the input is empty".to_owned());
            }
            let checked = check::check(&sources, filter.as_deref());
            let findings = &checked.findings;
            let text = match format {
                Format::Text => report::text(&checked, &sources, out.is_terminal()),
                Format::Json => report::json(findings, &sources),
                Format::Sarif => report::sarif(findings, &sources),
                Format::Github => report::github(findings, &sources),
            };
            let denies = |severity| severity == Severity::Error || deny == Some(Deny::Warnings);
            let failed = findings.iter().any(|finding| denies(finding.code.severity()));
            write(&mut out, &secret::concealed(&text))?;
            return Ok(ExitCode::from(if unread.is_empty() { u8::from(failed) } else { 2 }));
        }
        Command::Explain(arguments) => secret::concealed(&explain::run(&arguments)?),
        Command::Convert(arguments) => {
            let (text, code) = convert::run(&arguments)?;
            write(&mut out, &text)?;
            return Ok(code);
        }
        Command::Hash { inputs, filter, all } => hash::of(&inputs, filter.as_deref(), all)?,
        Command::Token(command) => token::run(command)?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "mesh-filters", &mut script);
            String::from_utf8(script).map_err(|error| error.to_string())?
        }
        Command::Man { folder: Some(folder) } => {
            let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
            std::fs::create_dir_all(&folder).map_err(failed)?;
            clap_mangen::generate_to(Arguments::command(), &folder).map_err(failed)?;
            String::new()
        }
        Command::Man { folder: None } => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Arguments::command())
                .render(&mut page)
                .map_err(|error| error.to_string())?;
            String::from_utf8(page).map_err(|error| error.to_string())?
        }
        Command::Pseudonym { value, key_env, key_id } => {
            let key = std::env::var(&key_env)
                .map_err(|_| format!("the environment variable {key_env} is not set, or is not text"))?;
            format!("{}\n", pseudonym::of(&value, &key, key_id.as_deref())?)
        }
    };
    write(&mut out, &text)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes to standard output. If the reader has seen enough, as `head` has, that is not an error.
fn write(out: &mut impl Write, text: &str) -> Result<(), String> {
    match out.write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("standard output: {error}"))
        }
        _ => Ok(()),
    }
}
