//! `qualm replay`: the engine over recorded reports, at full speed.

use std::io::{BufWriter, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use serde::Serialize;

use self::record::Record;
use super::{Format, Outcome};
use crate::engine::{Counts, Engine, Limits, Output, Outputs, State, Transition, Verdict};
use crate::report::{self, Rejection};
use crate::time::Span;

mod record;

/// Bytes that are read at once; reports end at line ends.
const BLOCK_BYTES: usize = 4 << 20;
const REJECTIONS_SHOWN: usize = 10;

/// Judge recorded reports: the same engine as the service, at full speed
///
/// Reports are one a line (or one JSON array). With --format json, prints every evaluation,
/// violation and action as one JSON object a line, the same bytes on every run, and a summary
/// at the end. Exit code 1 if a violation opened.
///
/// Example: qualm replay --contract contracts/smart-building.yaml --reports reports.ndjson
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// Contract files or folders
    #[arg(long, required = true)]
    contract: Vec<PathBuf>,
    /// The reports; - for standard input
    #[arg(long)]
    reports: PathBuf,
    /// Where scripts are [default: the folder `policies` beside or in the contract's folder]
    #[arg(long)]
    policies: Option<PathBuf>,
    /// How far windows wait for reports that come late
    #[arg(long, default_value_t = Limits::default().lateness)]
    lateness: Span,
    /// Also write what is found to this database, for `qualm explain --database` [sqlite:PATH or
    /// postgres://...]; one of its own, not a service's
    #[arg(long)]
    database: Option<String>,
    /// How results are printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let programs = super::read_contracts(&arguments.contract, arguments.policies.as_deref())?;
    let started = Instant::now();
    let mut out = Outputs { keep_evaluations: arguments.format == Format::Json, ..Outputs::default() };
    let mut record = arguments.database.as_deref().map(|url| Record::open(url, &programs)).transpose()?;
    let limits = Limits { lateness: arguments.lateness, snapshots: record.is_some(), ..Limits::default() };
    let mut engine = Engine::new(limits);
    for (program, _) in programs {
        engine.set_contract(program, &mut out);
    }
    let mut printer = Printer::new(arguments.format);
    let mut rejected = Rejected::default();
    let mut progress = Progress::new();
    let mut blocks = Blocks::open(arguments)?;
    while let Some(block) = blocks.next()? {
        report::decode_all(block, |_, decoded| match decoded {
            Ok(report) => engine.observe(&report, &mut out),
            Err(rejection) => rejected.note(out.counts.reports, &rejection),
        });
        if let Some(record) = &mut record {
            record.write(&mut engine, &out)?;
        }
        printer.print(&mut out)?;
        progress.show(out.counts.reports);
    }
    engine.finish(&mut out);
    if let Some(record) = &mut record {
        record.write(&mut engine, &out)?;
    }
    printer.print(&mut out)?;
    progress.end();
    rejected.end();
    printer.end(&out.counts, rejected.count, started.elapsed().as_secs_f64())?;
    Ok(if printer.opened > 0 { Outcome::Findings } else { Outcome::Fine })
}

/// A file in blocks that end at line ends. An array is one block.
struct Blocks {
    source: Box<dyn Read>,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were handed out already.
    used: usize,
    ended: bool,
}

impl Blocks {
    fn open(arguments: &Arguments) -> anyhow::Result<Blocks> {
        let source: Box<dyn Read> = if arguments.reports.as_os_str() == "-" {
            Box::new(std::io::stdin())
        } else {
            let name = arguments.reports.display();
            Box::new(std::fs::File::open(&arguments.reports).with_context(|| format!("cannot read {name}"))?)
        };
        Ok(Blocks { source, buffer: Vec::new(), used: 0, ended: false })
    }

    fn next(&mut self) -> anyhow::Result<Option<&[u8]>> {
        self.buffer.drain(..self.used);
        self.used = 0;
        while !self.ended {
            let wanted = BLOCK_BYTES as u64;
            let read =
                self.source.by_ref().take(wanted).read_to_end(&mut self.buffer).context("cannot read reports")?;
            self.ended = (read as u64) < wanted;
            let is_array = self.buffer.trim_ascii_start().starts_with(b"[");
            if !is_array && let Some(end) = self.buffer.iter().rposition(|byte| *byte == b'\n') {
                self.used = end + 1;
                return Ok(Some(&self.buffer[..self.used]));
            }
        }
        self.used = self.buffer.len();
        Ok((self.used > 0).then_some(&self.buffer[..]))
    }
}

struct Printer {
    format: Format,
    out: BufWriter<std::io::StdoutLock<'static>>,
    opened: u64,
    colour: bool,
}

#[derive(Serialize)]
struct Summary {
    r#type: &'static str,
    reports: u64,
    observations: u64,
    rejected: u64,
    duplicates: u64,
    late: u64,
    wrong_type: u64,
    evaluations: u64,
    violations: u64,
    seconds: f64,
}

impl Printer {
    fn new(format: Format) -> Printer {
        let out = BufWriter::with_capacity(1 << 16, std::io::stdout().lock());
        Printer { format, out, opened: 0, colour: super::colours() }
    }

    fn print(&mut self, outputs: &mut Outputs) -> anyhow::Result<()> {
        for output in outputs.list.drain(..) {
            if let Output::Transition(transition) = &output {
                self.opened += u64::from(transition.state == State::Open);
            }
            match self.format {
                Format::Json => writeln!(self.out, "{}", output.to_json()?)?,
                Format::Text => self.print_text(&output)?,
            }
        }
        Ok(())
    }

    fn print_text(&mut self, output: &Output) -> std::io::Result<()> {
        match output {
            Output::Evaluation(_) => Ok(()),
            Output::Transition(transition) => {
                let Transition { at, contract, objective, severity, message, id, .. } = &**transition;
                let (word, code) = match transition.state {
                    State::Open => ("opened", "31"),
                    State::Resolved => ("resolved", "32"),
                };
                let word = if self.colour { format!("\x1b[1;{code}m{word:8}\x1b[0m") } else { format!("{word:8}") };
                let severity = serde_json::to_value(severity).unwrap_or_default();
                let severity = severity.as_str().unwrap_or_default();
                writeln!(self.out, "{at:<27} {word} {severity:8} {contract}/{objective}: {message}  [{id}]")
            }
            Output::Action(action) => {
                let state = serde_json::to_value(action.state).unwrap_or_default();
                let state = state.as_str().unwrap_or_default();
                let reason = action.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
                let params = serde_json::Value::Object(action.params.clone());
                writeln!(self.out, "{:<27} action   {state} {} {params}{reason}", action.at, action.kind)
            }
        }
    }

    fn end(&mut self, counts: &Counts, rejected: u64, seconds: f64) -> anyhow::Result<()> {
        let evaluations = counts.evaluations.iter().sum();
        let violations = self.opened;
        match self.format {
            Format::Json => {
                let summary = Summary {
                    r#type: "summary",
                    reports: counts.reports,
                    observations: counts.observations,
                    rejected,
                    duplicates: counts.duplicates,
                    late: counts.late,
                    wrong_type: counts.wrong_type,
                    evaluations,
                    violations,
                    seconds,
                };
                writeln!(self.out, "{}", serde_json::to_string(&summary)?)?;
            }
            Format::Text => {
                let verdicts =
                    Verdict::ALL.iter().map(|v| format!("{} {}", counts.evaluations[*v as usize], v.as_str()));
                let verdicts: Vec<String> = verdicts.collect();
                writeln!(
                    self.out,
                    "{} reports, {} observations ({} late), {rejected} rejected, {} duplicates",
                    counts.reports, counts.observations, counts.late, counts.duplicates
                )?;
                writeln!(self.out, "{evaluations} evaluations ({}), {violations} violations", verdicts.join(", "))?;
                writeln!(self.out, "{seconds:.2} s")?;
                if counts.unwatched == counts.reports && counts.reports > 0 {
                    writeln!(self.out, "no report belongs to an application that a contract is about")?;
                }
            }
        }
        self.out.flush()?;
        Ok(())
    }
}

#[derive(Default)]
struct Rejected {
    count: u64,
}

impl Rejected {
    fn note(&mut self, before: u64, rejection: &Rejection) {
        self.count += 1;
        if self.count as usize <= REJECTIONS_SHOWN {
            let _ = writeln!(std::io::stderr(), "rejected, after {before} good reports: {rejection}");
        }
    }

    fn end(&self) {
        if self.count as usize > REJECTIONS_SHOWN {
            let _ = writeln!(std::io::stderr(), "rejected: {} more", self.count as usize - REJECTIONS_SHOWN);
        }
    }
}

/// A line on the terminal that grows, for runs of more than two seconds.
struct Progress {
    shown: Option<Instant>,
    on: bool,
}

impl Progress {
    fn new() -> Progress {
        Progress { shown: None, on: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, reports: u64) {
        let now = Instant::now();
        match self.shown {
            _ if !self.on => {}
            None => self.shown = Some(now + std::time::Duration::from_secs(1)),
            Some(next) if now >= next => {
                let _ = write!(std::io::stderr(), "\r{reports} reports");
                self.shown = Some(now + std::time::Duration::from_millis(200));
            }
            Some(_) => {}
        }
    }

    fn end(&self) {
        if self.on && self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
