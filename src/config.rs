//! Settings: defaults < file < environment (`QUALM_*`) < flags.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;

use crate::engine::Limits;
use crate::http::{Role, Token};
use crate::store::Retention;
use crate::time::Span;

/// The settings of a service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `nats://host:4222`; without it, reports come by HTTP only.
    pub nats: Option<String>,
    /// A NATS credentials file.
    pub nats_credentials: Option<PathBuf>,
    /// `sqlite:PATH` or `postgres://...`.
    pub database: String,
    /// Where the HTTP API listens.
    pub http: SocketAddr,
    /// The watched folder of contracts.
    pub contracts: Option<PathBuf>,
    /// Where scripts are, unless beside or in the contracts folder.
    pub policies: Option<PathBuf>,
    /// How far windows wait for reports that come late.
    pub lateness: Span,
    /// How long inferences and feedback wait for each other.
    pub join_horizon: Span,
    /// A request is complete when no step of it has come for so long.
    pub request_timeout: Span,
    /// Engine threads; the number of cores unless stated.
    pub shards: Option<usize>,
    /// How long things are kept.
    pub retention: Retention,
    /// Who may use the API; without any, only loopback addresses may be listened on.
    pub tokens: Vec<TokenConfig>,
}

/// A bearer token: its role, and the environment variable that holds it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// What it allows.
    pub role: Role,
    /// Where it is.
    pub env: String,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            nats: None,
            nats_credentials: None,
            database: "sqlite:qualm.db".to_owned(),
            http: SocketAddr::from(([127, 0, 0, 1], 8787)),
            contracts: None,
            policies: None,
            lateness: Limits::default().lateness,
            join_horizon: Limits::default().join_horizon,
            request_timeout: Limits::default().request_timeout,
            shards: None,
            retention: Retention::default(),
            tokens: Vec::new(),
        }
    }
}

impl Config {
    /// Reads a TOML file.
    pub fn read(file: &Path) -> anyhow::Result<Config> {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is not a sound configuration", file.display()))
    }

    /// Checks what belongs together.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.tokens.is_empty() && !self.http.ip().is_loopback() {
            anyhow::bail!(
                "http address {} is open to others, but no tokens are configured; listen on 127.0.0.1 or configure [[tokens]]",
                self.http
            );
        }
        if let Some(folder) = &self.contracts {
            anyhow::ensure!(folder.is_dir(), "the contracts folder {} does not exist", folder.display());
        }
        anyhow::ensure!(self.shards != Some(0), "shards must be at least 1");
        Ok(())
    }

    /// The tokens themselves, out of the environment.
    pub fn secrets(&self) -> anyhow::Result<Vec<Token>> {
        let token = |token: &TokenConfig| {
            let secret =
                std::env::var(&token.env).with_context(|| format!("the token variable {} is not set", token.env))?;
            anyhow::ensure!(secret.len() >= 16, "the token in {} has fewer than 16 characters", token.env);
            Ok(Token { role: token.role, secret })
        };
        self.tokens.iter().map(token).collect()
    }
}
