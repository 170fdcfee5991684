//! The command line: one file a subcommand.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};

use crate::contract::{self, Finding, Level};
use crate::engine::Program;
use crate::policy;
use crate::store::{Store, without_password};

mod baseline;
mod bench;
mod check;
mod compare;
mod demo;
mod explain;
mod import;
mod judged;
mod publish;
mod recording;
mod replay;
mod report;
mod schema;
mod serve;
mod suggest;

use serve::stop_signal;

/// Watches machine-learning services against the contracts their providers sign, and says
/// why a promise was broken.
///
/// Exit codes: 0 fine, 1 findings (a contract is faulty, a violation was found), 2 could not run.
#[derive(Parser)]
#[command(name = "qualm", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Arguments),
    Check(check::Arguments),
    Replay(replay::Arguments),
    Explain(explain::Arguments),
    Compare(compare::Arguments),
    Suggest(suggest::Arguments),
    Baseline(baseline::Arguments),
    Import(import::Arguments),
    Report(report::Arguments),
    Schema(schema::Arguments),
    Demo(demo::Arguments),
    #[command(hide = true)]
    Bench(bench::Arguments),
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For machines: JSON, one object a line.
    Json,
}

/// What a command found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Fine,
    Findings,
}

/// Parses the command line, runs the command, and says how it ended.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Suggest(arguments) => suggest::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Import(arguments) => import::run(&arguments),
        Command::Baseline(arguments) => baseline::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Schema(arguments) => schema::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
    };
    match result {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::from(1),
        // Whoever reads our output has had enough; that is no error.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(broken))
}

/// Reads one contract file and compiles its policies.
pub(crate) fn read_contract(
    file: &Path,
    policies: Option<&Path>,
) -> anyhow::Result<(contract::Loaded, Option<Program>)> {
    let source = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut loaded = contract::load(&file.display().to_string(), &source);
    let folders = policy::folders(file, policies);
    let program = Program::compile(&mut loaded, |name| policy::read(name, &folders));
    Ok((loaded, program))
}

/// Reads contracts that must all be sound, each with the text of its file.
pub(crate) fn read_contracts(
    paths: &[PathBuf],
    policies: Option<&Path>,
) -> anyhow::Result<Vec<(Arc<Program>, contract::Loaded)>> {
    let files = contract::files(paths).with_context(|| format!("cannot read {}", list(paths)))?;
    anyhow::ensure!(!files.is_empty(), "no contracts (*.yaml, *.yml, *.json) in {}", list(paths));
    let mut programs = Vec::new();
    let mut faults = Vec::new();
    for file in &files {
        let (loaded, program) = read_contract(file, policies)?;
        match program {
            Some(program) => programs.push((Arc::new(program), loaded)),
            None => faults.push(loaded.errors()),
        }
    }
    anyhow::ensure!(faults.is_empty(), "faulty contracts:\n{}", faults.join("\n"));
    Ok(programs)
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// A finding for a terminal: the level in colour, the hint on its own line.
pub(crate) fn print_finding(out: &mut impl Write, finding: &Finding, colour: bool) -> io::Result<()> {
    let (level, code) = match finding.level {
        Level::Error => ("error", "31"),
        Level::Warning => ("warning", "33"),
    };
    let level = if colour { format!("\x1b[1;{code}m{level}\x1b[0m") } else { level.to_owned() };
    writeln!(out, "{}:{}:{}: {level}: {}", finding.file, finding.line, finding.column, finding.message)?;
    match &finding.hint {
        Some(hint) => writeln!(out, "    hint: {hint}"),
        None => Ok(()),
    }
}

/// Whether to colour what goes to standard output.
pub(crate) fn colours() -> bool {
    io::IsTerminal::is_terminal(&io::stdout()) && std::env::var_os("NO_COLOR").is_none()
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

/// A database that a service, or a replay, has written.
async fn open_database(url: &str) -> anyhow::Result<Store> {
    Store::open_existing(url).await.with_context(|| format!("cannot open {}", without_password(url)))
}

fn http_client() -> anyhow::Result<reqwest::Client> {
    // Only the first call in a process counts, and all would install the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(std::time::Duration::from_secs(30)).build().context("cannot make an HTTP client")
}

/// The body of a good answer; a bad one becomes an error with the service's own words.
async fn get(url: &str, token: Option<&str>) -> anyhow::Result<Vec<u8>> {
    let mut request = http_client()?.get(url);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let response = request.send().await.with_context(|| format!("no service answers at {url}"))?;
    let (status, body) = (response.status(), response.bytes().await?);
    if !status.is_success() {
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        anyhow::bail!("{}", problem["detail"].as_str().unwrap_or(status.as_str()));
    }
    Ok(body.to_vec())
}
