//! `qualm check`: are these contracts sound?

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;

use super::{Format, Outcome};
use crate::contract::{self, Finding, Level};

/// Check contracts: syntax, schema, references, scripts, and likely slips
///
/// Prints file:line:column, what is wrong, and what to do about it. Exit code 1 if a contract
/// has errors; warnings alone are fine.
///
/// Example: qualm check contracts/
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// Contract files, or folders that are searched for *.yaml, *.yml and *.json
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Where scripts are [default: the folder `policies` beside or in the contract's folder]
    #[arg(long)]
    policies: Option<PathBuf>,
    /// How findings are printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let files =
        contract::files(&arguments.paths).with_context(|| format!("cannot read {}", super::list(&arguments.paths)))?;
    anyhow::ensure!(!files.is_empty(), "no contracts (*.yaml, *.yml, *.json) in {}", super::list(&arguments.paths));
    let mut findings: Vec<Finding> = Vec::new();
    let mut sound = 0;
    let mut names: HashMap<String, String> = HashMap::new();
    for file in &files {
        let (mut loaded, _) = super::read_contract(file, arguments.policies.as_deref())?;
        let name = loaded.contract.as_ref().map(|contract| contract.metadata.name.clone());
        if let Some(name) = name
            && let Some(first) = names.insert(name.clone(), loaded.file.clone())
        {
            let message = format!("the contract name `{name}` is taken by {first}");
            loaded.find(Level::Error, "/metadata/name", message, Some("names are unique in a service".to_owned()));
        }
        sound += usize::from(loaded.contract.is_some());
        findings.extend(loaded.findings);
    }
    let errors = findings.iter().filter(|finding| finding.level == Level::Error).count();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    match arguments.format {
        Format::Json => {
            for finding in &findings {
                writeln!(out, "{}", serde_json::to_string(finding)?)?;
            }
        }
        Format::Text => {
            let colour = super::colours();
            for finding in &findings {
                super::print_finding(&mut out, finding, colour)?;
            }
            let warnings = findings.len() - errors;
            writeln!(out, "{} contracts: {sound} sound, {errors} errors, {warnings} warnings", files.len())?;
        }
    }
    out.flush()?;
    Ok(if errors > 0 { Outcome::Findings } else { Outcome::Fine })
}
