//! `qualm replay`: the engine over recorded reports, at full speed.

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use self::record::Record;
use super::recording::{Blocks, Progress, Rejected, by_application, lines_at_once, parts};
use super::{Format, Outcome};
use crate::engine::{Counts, Engine, Limits, Output, Outputs, State, Transition, Verdict};
use crate::report;
use crate::time::Span;

mod against;
mod record;

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
    /// Contract files or folders that are compared with: what would they have done to the same past?
    /// Exit code 1 if they open further violations
    #[arg(long, conflicts_with = "database")]
    against: Vec<PathBuf>,
    /// The reports; - for standard input
    #[arg(long)]
    reports: PathBuf,
    /// Where scripts are [default: the folder `policies` beside or in the contract's folder]
    #[arg(long)]
    policies: Option<PathBuf>,
    /// How far windows wait for reports that come late
    #[arg(long, default_value_t = Limits::default().lateness)]
    lateness: Span,
    /// How long inferences and feedback wait for each other
    #[arg(long, default_value_t = Limits::default().join_horizon)]
    join_horizon: Span,
    /// A request is complete when no step of it has come for so long
    #[arg(long, default_value_t = Limits::default().request_timeout)]
    request_timeout: Span,
    /// Also write what is found to this database, for `qualm explain --database` [sqlite:PATH or
    /// postgres://...]; one of its own, not a service's
    #[arg(long)]
    database: Option<String>,
    /// How results are printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Arguments {
    fn limits(&self, snapshots: bool) -> Limits {
        let Arguments { lateness, join_horizon, request_timeout, .. } = *self;
        Limits { lateness, join_horizon, request_timeout, snapshots, ..Limits::default() }
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let programs = super::read_contracts(&arguments.contract, arguments.policies.as_deref())?;
    if !arguments.against.is_empty() {
        let others = super::read_contracts(&arguments.against, arguments.policies.as_deref())?;
        let ready =
            |of: Vec<(std::sync::Arc<crate::engine::Program>, _)>| of.into_iter().map(|(program, _)| program).collect();
        let limits = arguments.limits(false);
        return against::run([ready(programs), ready(others)], limits, &arguments.reports, arguments.format);
    }
    let started = Instant::now();
    let mut out = Outputs { keep_evaluations: arguments.format == Format::Json, ..Outputs::default() };
    let mut record = arguments.database.as_deref().map(|url| Record::open(url, &programs)).transpose()?;
    let mut engine = Engine::new(arguments.limits(record.is_some()));
    for (program, _) in programs {
        engine.set_contract(program, &mut out);
    }
    let applications = engine.names().len();
    let mut printer = Printer::new(arguments.format);
    let mut rejected = Rejected::default();
    let mut progress = Progress::new();
    let mut blocks = Blocks::open(&arguments.reports)?;
    let mut spare = report::Spare::default();
    while let Some(block) = blocks.next()? {
        if let Some(lines) = by_application(block, applications) {
            let (before, mut refused) = (out.counts.reports, Vec::new());
            report::decode_in_parts(
                &mut spare,
                true,
                lines.chunks(lines_at_once()),
                |part, batch| {
                    report::read_ahead(part.iter().map(|line| line.bytes));
                    part.iter().for_each(|line| batch.decode(line.bytes, usize::MAX, line.place, |_, _| Ok(())))
                },
                |batch| {
                    refused.extend(batch.refused.iter().map(|(_, place, rejection)| (*place, rejection.clone())));
                    engine.observe_all(batch.reports(), &mut out);
                },
            );
            rejected.note_lines(before, refused);
        } else {
            report::decode_in_parts(
                &mut spare,
                true,
                parts(block, applications),
                |part, batch| batch.decode(part, usize::MAX, (), |_, _| Ok(())),
                |batch| {
                    for (good, _, rejection) in &batch.refused {
                        rejected.note(out.counts.reports + *good as u64, rejection);
                    }
                    engine.observe_all(batch.reports(), &mut out);
                },
            );
        }
        if let Some(record) = &mut record {
            record.write(&mut engine, &out)?;
        }
        printer.print(&mut out)?;
        progress.show(out.counts.reports);
    }
    engine.finish(&mut out);
    if let Some(record) = &mut record {
        record.write(&mut engine, &out)?;
        record.end()?;
    }
    printer.print(&mut out)?;
    progress.end();
    rejected.end();
    printer.end(&out.counts, rejected.count, started.elapsed().as_secs_f64())?;
    Ok(if printer.opened > 0 { Outcome::Findings } else { Outcome::Fine })
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
    pairs: u64,
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
                    pairs: counts.pairs,
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
                if counts.pairs + counts.unanswered > 0 {
                    writeln!(self.out, "{} predictions joined with feedback", counts.pairs)?;
                }
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
