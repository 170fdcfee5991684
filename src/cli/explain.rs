//! `qualm explain`: ask why.

use anyhow::Context;
use clap::ValueEnum;

use super::Outcome;
use crate::explain::{self, Subject};
use crate::store::Store;

/// Ask a running service, or a database, why a promise was broken
///
/// Asks the service at --server unless --nats or --database is given.
///
/// Example: qualm explain why 0c9fa3c6-4d54-5d3c-9a52-c1a2b8d0a1f7
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// The question: why
    question: String,
    /// What it is about: the id of a violation
    id: String,
    /// The service's HTTP address
    #[arg(long, env = "QUALM_SERVER", default_value = "http://127.0.0.1:8787")]
    server: String,
    /// Bearer token for the service
    #[arg(long, env = "QUALM_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Ask over NATS instead
    #[arg(long, conflicts_with = "database")]
    nats: Option<String>,
    /// Ask a database instead: of a service, or of a replay
    #[arg(long)]
    database: Option<String>,
    /// How the answer is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
    /// Markdown, for a ticket.
    Md,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    anyhow::ensure!(
        explain::QUESTIONS.contains(&arguments.question.as_str()),
        "unknown question {:?}; known: {}",
        arguments.question,
        explain::QUESTIONS.join(", ")
    );
    let answer: explain::Why = super::runtime()?.block_on(ask(arguments))?;
    let text = match arguments.format {
        Format::Text => answer.text(),
        Format::Md => answer.markdown(),
        Format::Json => serde_json::to_string_pretty(&answer)? + "\n",
    };
    std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes())?;
    Ok(Outcome::Fine)
}

async fn ask(arguments: &Arguments) -> anyhow::Result<explain::Why> {
    let Arguments { question, id, .. } = arguments;
    let subject = Subject { violation: id.clone() };
    if let Some(url) = &arguments.database {
        let store = Store::open_existing(url).await.with_context(|| format!("cannot open {url}"))?;
        return Ok(explain::answer(&store, question, &subject).await?);
    }
    let bytes: Vec<u8> = match &arguments.nats {
        Some(url) => {
            let client = async_nats::connect(url).await.with_context(|| format!("cannot connect to NATS at {url}"))?;
            let body = serde_json::to_vec(&subject)?;
            let answer = client.request(format!("qoa.explain.{question}"), body.into()).await;
            let answer = answer.with_context(|| format!("no qualm service answers at {url}"))?;
            let header = |name: &str| answer.headers.as_ref().and_then(|headers| headers.get(name));
            if let Some(error) = header("Nats-Service-Error") {
                anyhow::bail!("{error}");
            }
            answer.payload.to_vec()
        }
        None => {
            let url = format!("{}/v1/explain/{question}?violation={id}", arguments.server.trim_end_matches('/'));
            super::get(&url, arguments.token.as_deref()).await?
        }
    };
    serde_json::from_slice(&bytes).context("the service's answer is not one of this version")
}
