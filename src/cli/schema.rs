//! `qualm schema`: what contracts, reports and policies look like.

use std::io::Write;

use clap::ValueEnum;

use super::Outcome;

/// Print the JSON Schema of contracts or reports, or the script API of policies
///
/// Editors check and complete contracts with it: qualm schema contract > contract.schema.json
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// Of what
    #[arg(value_enum)]
    of: Subject,
}

#[derive(Clone, Copy, ValueEnum)]
enum Subject {
    Contract,
    Report,
    Policy,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let text = match arguments.of {
        Subject::Contract => crate::contract::SCHEMA,
        Subject::Report => crate::report::SCHEMA,
        Subject::Policy => crate::policy::SCHEMA,
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(Outcome::Fine)
}
