//! `qualm baseline`: how attributes were distributed in recorded reports.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;

use super::Outcome;
use super::recording::{Blocks, Progress, Rejected};
use crate::contract::{Filter, Match};
use crate::engine::{BaselineFile, Seen};
use crate::report;

/// Make a baseline from recorded reports, for drift objectives
///
/// The file holds how each attribute (and `prediction`) was distributed. A contract names it:
/// baseline: {file: baselines/x.json}.
///
/// Example: qualm baseline --from reports.ndjson --where stage=inference --output baselines/x.json
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// The reports; - for standard input
    #[arg(long)]
    from: PathBuf,
    /// Of this application only
    #[arg(long)]
    application: Option<String>,
    /// Attributes to keep [default: all]
    #[arg(long = "attribute")]
    attributes: Vec<String>,
    /// Of reports whose dimension (a label, stage or instance) has this value: NAME=VALUE
    #[arg(long = "where", value_parser = condition)]
    conditions: Vec<(String, String)>,
    /// Where to write it [default: standard output]
    #[arg(long)]
    output: Option<PathBuf>,
}

fn condition(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, such as stage=inference")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let filter =
        Filter(arguments.conditions.iter().map(|(name, value)| (name.clone(), Match::Is(value.clone()))).collect());
    let mut blocks = Blocks::open(&arguments.from)?;
    let (mut file, mut rejected, mut progress) = (BaselineFile::default(), Rejected::default(), Progress::new());
    // A report counts once, as in the engine.
    let mut seen = Seen::default();
    let wanted = |name: &str| arguments.attributes.is_empty() || arguments.attributes.iter().any(|a| a == name);
    while let Some(block) = blocks.next()? {
        report::decode_all(block, |_, decoded| match decoded {
            Ok(report) if !seen.insert(report.digest, report.time, file.until) => {}
            Ok(report) => {
                let meant = arguments.application.as_deref().is_none_or(|name| name == &*report.application);
                if meant && filter.matches(&report.dimensions()) {
                    file.add(report, wanted);
                }
            }
            Err(rejection) => rejected.note(file.reports, &rejection),
        });
        progress.show(file.reports);
    }
    progress.end();
    rejected.end();
    anyhow::ensure!(file.reports > 0, "no report of {} is meant; a baseline needs some", arguments.from.display());
    for name in &arguments.attributes {
        anyhow::ensure!(file.attributes.contains_key(name), "no report has the attribute {name}");
    }
    let text = serde_json::to_string(&file)? + "\n";
    match &arguments.output {
        None => std::io::stdout().write_all(text.as_bytes())?,
        Some(path) => {
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
            let mut out = std::io::stdout();
            writeln!(out, "{}: {} reports from {} to {}", path.display(), file.reports, file.from, file.until)?;
            for (attribute, distribution) in &file.attributes {
                writeln!(out, "  {attribute}: {} values", distribution.samples())?;
            }
        }
    }
    Ok(Outcome::Fine)
}
