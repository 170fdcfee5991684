//! `qualm serve`: the service.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use super::Outcome;
use crate::config::Config;
use crate::time::Span;
use crate::{service, store};

/// Run the service
///
/// Needs no settings: SQLite file qualm.db, HTTP on 127.0.0.1:8787. Reports come over NATS
/// (subjects qoa.reports.<tenant>.<application>.<stage>) or by POST /v1/reports. Every flag can
/// also stand in the environment or in a TOML file. SIGTERM and Ctrl-C save and end it.
///
/// Example: qualm serve --nats nats://127.0.0.1:4222 --contracts contracts/
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// Settings in a TOML file
    #[arg(long, env = "QUALM_CONFIG")]
    config: Option<PathBuf>,
    /// NATS server, such as nats://127.0.0.1:4222; without it, reports come by HTTP only
    #[arg(long, env = "QUALM_NATS")]
    nats: Option<String>,
    /// NATS credentials file
    #[arg(long, env = "QUALM_NATS_CREDENTIALS")]
    nats_credentials: Option<PathBuf>,
    /// sqlite:PATH or postgres://user:password@host/database [default: sqlite:qualm.db]
    #[arg(long, env = "QUALM_DATABASE", hide_env_values = true)]
    database: Option<String>,
    /// Address of the HTTP API [default: 127.0.0.1:8787]
    #[arg(long, env = "QUALM_HTTP")]
    http: Option<SocketAddr>,
    /// Folder of contracts; it is watched
    #[arg(long, env = "QUALM_CONTRACTS")]
    contracts: Option<PathBuf>,
    /// Folder of scripts [default: `policies` beside or in the contracts folder]
    #[arg(long, env = "QUALM_POLICIES")]
    policies: Option<PathBuf>,
    /// How far windows wait for reports that come late [default: 5s]
    #[arg(long, env = "QUALM_LATENESS")]
    lateness: Option<Span>,
    /// How long inferences and feedback wait for each other [default: 1h]
    #[arg(long, env = "QUALM_JOIN_HORIZON")]
    join_horizon: Option<Span>,
    /// A request is complete when no step of it has come for so long [default: 10s]
    #[arg(long, env = "QUALM_REQUEST_TIMEOUT")]
    request_timeout: Option<Span>,
    /// Engine threads [default: the number of cores]
    #[arg(long, env = "QUALM_SHARDS")]
    shards: Option<usize>,
    /// How the log is written; what, by RUST_LOG [default: qualm=info]
    #[arg(long, env = "QUALM_LOG_FORMAT", value_enum, default_value_t)]
    log_format: super::Format,
}

impl Arguments {
    fn config(&self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(file) => Config::read(file)?,
            None => Config::default(),
        };
        let given = self;
        config.nats = given.nats.clone().or(config.nats);
        config.nats_credentials = given.nats_credentials.clone().or(config.nats_credentials);
        config.contracts = given.contracts.clone().or(config.contracts);
        config.policies = given.policies.clone().or(config.policies);
        config.shards = given.shards.or(config.shards);
        config.database = given.database.clone().unwrap_or(config.database);
        config.http = given.http.unwrap_or(config.http);
        config.lateness = given.lateness.unwrap_or(config.lateness);
        config.join_horizon = given.join_horizon.unwrap_or(config.join_horizon);
        config.request_timeout = given.request_timeout.unwrap_or(config.request_timeout);
        Ok(config)
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let config = arguments.config()?;
    start_log(arguments.log_format);
    super::runtime()?.block_on(async {
        let (nats, database) = (config.nats.clone(), store::without_password(&config.database));
        let service = service::start(config).await?;
        let source = nats.map_or("HTTP only".to_owned(), |url| store::without_password(&url));
        tracing::info!("ready: http://{} (reports: {source}; database: {database})", service.address);
        service.run_until(super::stop_signal()?).await?;
        tracing::info!("saved and stopped");
        Ok(Outcome::Fine)
    })
}

fn start_log(format: super::Format) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("qualm=info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match format {
        super::Format::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        super::Format::Json => builder.json().init(),
    }
}

/// Resolves on SIGTERM or Ctrl-C.
pub(super) fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    })
}
