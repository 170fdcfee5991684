//! `qualm import`: contracts of other tools.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::ValueEnum;

use super::{Format, Outcome};
use crate::engine::Program;
use crate::{contract, import};

/// Turn a contract of QoA4ML or ROHE into a Qualm contract, and say what has no equivalent
///
/// qoa4ml: version 0.3, and the older form keyed by names. rohe: a service contract, or
/// {contract: ..., cdms: [...]} with its consumer-defined metrics. JSON or YAML.
///
/// Example: qualm import qoa4ml bts.json --application bts --output contracts/bts.yaml
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// What the file is
    #[arg(value_enum)]
    kind: Kind,
    /// The contract to import
    file: PathBuf,
    /// The application that reports name, where the contract does not say [default: the file's name]
    #[arg(long)]
    application: Option<String>,
    /// Where to write the contract, with scripts in the folder `policies` beside its folder
    /// [default: standard output]
    #[arg(long)]
    output: Option<PathBuf>,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Qoa4ml,
    Rohe,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let file = arguments.file.display();
    let text = std::fs::read_to_string(&arguments.file).with_context(|| format!("cannot read {file}"))?;
    let source = contract::parse(&text)
        .map_err(|(line, column, message)| anyhow::anyhow!("{file}:{line}:{column}: {message}"))?;
    let stem = arguments.file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let imported = match arguments.kind {
        Kind::Qoa4ml => import::qoa4ml(&source, &stem, arguments.application.as_deref().unwrap_or(&stem)),
        Kind::Rohe => import::rohe(&source, &stem),
    };
    let imported = imported.map_err(|fault| anyhow::anyhow!("{file}: {fault}"))?;
    let yaml = imported.yaml();
    let name = arguments.output.as_ref().map_or("imported.yaml".to_owned(), |path| path.display().to_string());
    let mut loaded = contract::load(&name, &yaml);
    // Whatever is imported is a contract that runs; what is likely a slip is said.
    let program = Program::compile(&mut loaded, |_| Ok(import::EXPRESSION_SCRIPT.to_owned()));
    anyhow::ensure!(program.is_some(), "{file} gives no sound contract:\n{}", loaded.errors());
    if let Some(output) = &arguments.output {
        std::fs::write(output, &yaml).with_context(|| format!("cannot write {}", output.display()))?;
        if imported.needs_script() {
            let folder = crate::policy::folders(output, None).into_iter().next().context("no folder for policies")?;
            let script = folder.join("expression.rhai");
            std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            std::fs::write(&script, import::EXPRESSION_SCRIPT)
                .with_context(|| format!("cannot write {}", script.display()))?;
        }
    }
    let mut out = std::io::stdout().lock();
    match (arguments.format, &arguments.output) {
        (Format::Json, _) => {
            let answer = serde_json::json!({
                "contract": yaml, "notes": imported.notes, "findings": loaded.findings, "needs_script": imported.needs_script(),
            });
            writeln!(out, "{answer}")?;
        }
        (Format::Text, Some(output)) => {
            let objectives = loaded.contract.as_ref().map_or(0, |contract| contract.spec.objectives.len());
            writeln!(out, "{}: {objectives} objectives", output.display())?;
            imported.notes.iter().try_for_each(|note| writeln!(out, "  - {note}"))?;
            let colour = super::colours();
            loaded.findings.iter().try_for_each(|finding| super::print_finding(&mut out, finding, colour))?;
        }
        (Format::Text, None) => write!(out, "{yaml}")?,
    }
    Ok(Outcome::Fine)
}
