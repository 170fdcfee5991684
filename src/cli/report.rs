//! `qualm report`: publish reports from standard input.

use std::io::{BufRead, Write};

use anyhow::Context;

use super::publish::Publisher;
use super::{Format, Outcome};
use crate::report;

/// Publish reports from standard input, one a line, to NATS or HTTP
///
/// Checks each before it is sent; refused ones are named, and the others go. Exit code 1 if any
/// was refused.
///
/// Example: qualm report --nats nats://127.0.0.1:4222 < reports.ndjson
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// Publish to NATS (JetStream) instead of HTTP
    #[arg(long)]
    nats: Option<String>,
    /// The service's HTTP address
    #[arg(long, env = "QUALM_SERVER", default_value = "http://127.0.0.1:8787")]
    server: String,
    /// Bearer token for the service
    #[arg(long, env = "QUALM_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// How the summary is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Publications that await their acknowledgement at once.
const WINDOW: usize = 1_024;
/// Lines that travel in one HTTP request.
const LINES: usize = 500;

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let (sent, refused) = super::runtime()?.block_on(async {
        match &arguments.nats {
            Some(url) => to_nats(url).await,
            None => to_http(arguments).await,
        }
    })?;
    let mut out = std::io::stdout();
    match arguments.format {
        Format::Json => writeln!(out, "{}", serde_json::json!({"sent": sent, "refused": refused}))?,
        Format::Text => writeln!(out, "{sent} reports sent, {refused} refused")?,
    }
    Ok(if refused > 0 { Outcome::Findings } else { Outcome::Fine })
}

async fn to_nats(url: &str) -> anyhow::Result<(u64, u64)> {
    let mut publisher = Publisher::connect(url, WINDOW).await?;
    let (mut sent, mut refused) = (0, 0);
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line.context("cannot read standard input")?;
        if line.trim().is_empty() {
            continue;
        }
        let mut subject = Err(String::new());
        report::decode(line.as_bytes(), |_, decoded| {
            subject = match decoded {
                Ok(report) => Ok(format!("qoa.reports.{}.{}.{}", report.tenant, report.application, report.stage)),
                Err(rejection) => Err(rejection.message),
            };
        });
        match subject {
            Ok(subject) => {
                publisher.publish(subject, line).await?;
                sent += 1;
            }
            Err(message) => {
                refused += 1;
                writeln!(std::io::stderr(), "line {}: {message}", number + 1)?;
            }
        }
    }
    publisher.finish().await?;
    Ok((sent, refused))
}

async fn to_http(arguments: &Arguments) -> anyhow::Result<(u64, u64)> {
    let client = super::http_client()?;
    let url = format!("{}/v1/reports", arguments.server.trim_end_matches('/'));
    let (mut sent, mut refused) = (0, 0);
    let mut first_line = 1;
    let mut lines = std::io::stdin().lock().lines().peekable();
    while lines.peek().is_some() {
        let block: Vec<String> =
            lines.by_ref().take(LINES).collect::<Result<_, _>>().context("cannot read standard input")?;
        let mut request = client.post(&url).body(block.join("\n"));
        if let Some(token) = &arguments.token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.with_context(|| format!("no service at {}", arguments.server))?;
        let (status, text) = (response.status(), response.text().await?);
        let answer: serde_json::Value = serde_json::from_str(&text).with_context(|| format!("{status}: {text}"))?;
        for error in answer["errors"].as_array().into_iter().flatten() {
            let line = first_line + error["index"].as_u64().unwrap_or_default();
            writeln!(std::io::stderr(), "line {line}: {}", error["message"].as_str().unwrap_or_default())?;
        }
        match status.as_u16() {
            202 => {
                sent += answer["accepted"].as_u64().unwrap_or_default();
                refused += answer["rejected"].as_u64().unwrap_or_default();
            }
            422 => refused += block.iter().filter(|line| !line.trim().is_empty()).count() as u64,
            _ => anyhow::bail!("{status}: {}", answer["detail"].as_str().unwrap_or(&text)),
        }
        first_line += block.len() as u64;
    }
    Ok((sent, refused))
}
