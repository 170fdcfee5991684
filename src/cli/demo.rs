//! `qualm demo`: a simulated pipeline with faults, and a closed adaptation loop, over a real
//! nats-server and the real service.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::Outcome;
use crate::config::Config;
use crate::service;
use crate::time::Span;

mod executor;
mod simulator;
mod story;

use simulator::Faults;

/// Watch Qualm at work: a simulated object-detection pipeline breaks, is adapted, and recovers
///
/// Starts a private nats-server and the service in a temporary folder, publishes reports,
/// carries out the actions that Qualm asks for, and tells what happens. Ends after about a
/// minute.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// Go on until Ctrl-C
    #[arg(long)]
    forever: bool,
    /// The simulation's random numbers
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// The nats-server to start [default: from PATH, else .tools/bin]
    #[arg(long)]
    nats_server: Option<PathBuf>,
    /// Address of the HTTP API; another port is taken if this one is in use
    #[arg(long, default_value = "127.0.0.1:8787")]
    http: SocketAddr,
}

/// One round of the simulation.
const ROUND: Duration = Duration::from_secs(60);

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    super::runtime()?.block_on(show(arguments))
}

async fn show(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let folder = Folder::new()?;
    let (nats, mut server) = start_nats(arguments.nats_server.as_deref(), &folder.0).await?;
    write_contracts(&folder.0)?;
    let config = Config {
        nats: Some(nats.clone()),
        database: format!("sqlite:{}", folder.0.join("qualm.db").display()),
        http: free_or_any(arguments.http),
        contracts: Some(folder.0.join("contracts")),
        lateness: Span::seconds(1),
        ..Config::default()
    };
    let service = service::start(config).await?;
    let address = service.address;
    let client = async_nats::connect(&nats).await.context("cannot connect to the demo's nats-server")?;
    story::introduce(&nats, address);

    let faults = Arc::new(Faults::default());
    let story = tokio::spawn(story::tell(client.clone(), story::Clock::start()));
    let executor = tokio::spawn(executor::run(client.clone(), faults.clone()));
    let simulation = simulator::run(client.clone(), faults, arguments.seed, (!arguments.forever).then_some(ROUND));
    let mut stop = std::pin::pin!(super::stop_signal()?);
    let result = tokio::select! {
        result = simulation => result,
        () = &mut stop => Ok(()),
    };
    executor.abort();
    story.abort();
    story::conclude(address, arguments.forever).await;
    service.run_until(std::future::ready(())).await?;
    let _ = server.kill().await;
    result?;
    Ok(Outcome::Fine)
}

/// A temporary folder that goes when the demo ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Folder> {
        let path = std::env::temp_dir().join(format!("qualm-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn write_contracts(folder: &Path) -> anyhow::Result<()> {
    let files = [
        ("contracts", "object-detection.yaml", include_str!("../../contracts/object-detection.yaml")),
        ("policies", "object-detection.rhai", include_str!("../../policies/object-detection.rhai")),
    ];
    for (below, name, text) in files {
        std::fs::create_dir_all(folder.join(below))?;
        std::fs::write(folder.join(below).join(name), text)?;
    }
    Ok(())
}

/// The address, or any port if it is in use.
fn free_or_any(mut address: SocketAddr) -> SocketAddr {
    if std::net::TcpListener::bind(address).is_err() {
        address.set_port(0);
    }
    address
}

async fn start_nats(given: Option<&Path>, folder: &Path) -> anyhow::Result<(String, tokio::process::Child)> {
    let program = match given {
        Some(path) => path.to_owned(),
        None => find_nats()
            .context("no nats-server in PATH or .tools/bin; `make demo` fetches one, or name one with --nats-server")?,
    };
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let server = tokio::process::Command::new(&program)
        .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"])
        .arg(folder.join("jetstream"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let url = format!("nats://127.0.0.1:{port}");
    for _ in 0..100 {
        if async_nats::connect(&url).await.is_ok() {
            return Ok((url, server));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("{} does not answer at {url}", program.display())
}

fn find_nats() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from(".tools/bin")]);
    folders.map(|folder| folder.join("nats-server")).find(|file| file.is_file())
}
