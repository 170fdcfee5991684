//! The service: everything wired together, started, drained and stopped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_nats::service::ServiceExt;
use futures::StreamExt;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::catalog::{self, Catalog};
use crate::config::Config;
use crate::dispatch::{self, Carrier, outcome, webhook};
use crate::engine::{Engine, Limits, Outputs};
use crate::explain::{self, Subject};
use crate::http::{self, App, Inlet};
use crate::ingest::{self, Shard, ShardSettings, Shards, journal, nats, shard_of};
use crate::metrics::Metrics;
use crate::report::application_digest;
use crate::store::{self, Retention, Store};
use crate::time::Timestamp;

/// Refused reports that wait for NATS, at most.
const REJECTED_MAX: usize = 1_024;
const FORGET_EVERY: Duration = Duration::from_secs(600);
const WRITE_BACK_EVERY: Duration = Duration::from_secs(1);

/// A service that runs.
pub struct Service {
    /// Where its HTTP API listens.
    pub address: SocketAddr,
    stop: CancellationToken,
    /// Stops what fills the database, after `stop` has stopped what fills the engines.
    tasks: TaskTracker,
    shards: Vec<std::thread::JoinHandle<()>>,
    writer: tokio::task::JoinHandle<()>,
    failed: mpsc::Receiver<anyhow::Error>,
    store: Store,
}

/// Where reports come from.
enum Source {
    Nats(async_nats::Client, Box<async_nats::jetstream::Context>, String),
    Journal(Arc<Notify>),
}

impl Source {
    fn name(&self) -> &str {
        match self {
            Source::Nats(_, _, name) => name,
            Source::Journal(_) => journal::SOURCE,
        }
    }
}

/// Starts a service; it is ready when this returns.
pub async fn start(config: Config) -> anyhow::Result<Service> {
    config.check()?;
    // Only the first call in a process counts, and all would install the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let tokens = config.secrets()?;
    let store = Store::open(&config.database)
        .await
        .with_context(|| format!("cannot open {}", store::without_password(&config.database)))?;
    let listener = tokio::net::TcpListener::bind(config.http)
        .await
        .with_context(|| format!("cannot listen on {}", config.http))?;
    let address = listener.local_addr()?;
    let source = connect(&config).await?;
    let metrics = Arc::new(Metrics::default());
    let outbox = watch::Sender::new(());
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let (fail, failed) = mpsc::channel(8);

    let count = config.shards.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let (shards, receivers) = Shards::new(count);
    let (commits, commit_receiver) = ingest::commits();
    let (rejected, rejected_receiver) = mpsc::channel(REJECTED_MAX);
    let in_force = store.contracts_in_force().await?;
    let restored = store.positions(source.name()).await?;
    store.trim_positions(source.name(), count as i64).await?;
    let limits = Limits {
        lateness: config.lateness,
        join_horizon: config.join_horizon,
        request_timeout: config.request_timeout,
        snapshots: true,
        ..Limits::default()
    };
    let mut engines: Vec<Engine> = (0..count).map(|_| Engine::new(limits)).collect();
    for program in in_force.iter().filter_map(catalog::ready).map(Arc::new) {
        let scope = &program.contract.spec.scope;
        let shard = shard_of(application_digest(&scope.tenant, &scope.application), count);
        engines[shard].set_contract(program, &mut Outputs::default());
    }
    store.restore(&mut engines, |tenant, application| shard_of(application_digest(tenant, application), count)).await?;
    let mut threads = Vec::new();
    for (number, (engine, inputs)) in engines.into_iter().zip(receivers).enumerate() {
        let settings = ShardSettings {
            number,
            shards: count,
            source: source.name().to_owned(),
            position: restored.position,
            positions: restored.applications.clone(),
            nats: matches!(source, Source::Nats(..)),
        };
        let shard = Shard::new(settings, engine, commits.clone(), rejected.clone(), metrics.clone());
        let thread = std::thread::Builder::new().name(format!("shard-{number}"));
        threads.push(thread.spawn(move || shard.run(inputs)).context("cannot start a shard")?);
    }
    drop(commits);
    drop(rejected);
    let writer = tokio::spawn(ingest::write(store.clone(), commit_receiver, outbox.clone(), metrics.clone()));

    let catalog = Catalog::new(
        store.clone(),
        shards.clone(),
        metrics.clone(),
        config.contracts.clone(),
        config.policies.clone(),
        &in_force,
    );
    let catalog = Arc::new(catalog);
    catalog.read_folder().await?;
    tasks.spawn(catalog.clone().watch(stop.clone()));
    tasks.spawn(shards.clone().tick(stop.clone()));
    let carrier = Carrier::Webhooks(webhook::Sender::new().context("cannot make an HTTP client")?);
    tasks.spawn(dispatch::run(store.clone(), carrier, outbox.subscribe(), metrics.clone(), stop.clone()));
    let inlet = match &source {
        Source::Journal(appended) => {
            drop(rejected_receiver);
            let (store, shards, appended) = (store.clone(), shards.clone(), appended.clone());
            tasks.spawn(journal::read(
                store,
                shards,
                restored.position,
                appended.clone(),
                metrics.clone(),
                stop.clone(),
            ));
            Inlet::Journal(appended)
        }
        Source::Nats(client, context, name) => {
            tasks.spawn(nats::publish_rejected(client.clone(), rejected_receiver));
            let carrier = Carrier::Nats(client.clone());
            tasks.spawn(dispatch::run(store.clone(), carrier, outbox.subscribe(), metrics.clone(), stop.clone()));
            let reading =
                nats::read(*context.clone(), name.clone(), shards, restored.position, metrics.clone(), stop.clone());
            spawn_vital(&tasks, &fail, reading);
            spawn_vital(&tasks, &fail, outcome::listen(store.clone(), client.clone(), stop.clone()));
            spawn_vital(&tasks, &fail, answer(store.clone(), client.clone(), stop.clone()));
            Inlet::Nats(client.clone(), context.clone())
        }
    };
    tasks.spawn(forget(store.clone(), config.retention, stop.clone()));
    tasks.spawn(write_back(store.clone(), stop.clone()));
    let app = App { store: store.clone(), catalog, metrics, inlet, outbox, tokens: tokens.into() };
    let serving = http::serve(listener, app, stop.clone());
    spawn_vital(&tasks, &fail, async move { Ok(serving.await?) });
    tasks.close();
    Ok(Service { address, stop, tasks, shards: threads, writer, failed, store })
}

impl Service {
    /// Runs until `stop` resolves or a vital part fails; then ends requests under way, judges
    /// what was read, saves, and returns.
    pub async fn run_until(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let result = tokio::select! {
            () = stop => Ok(()),
            Some(error) = self.failed.recv() => Err(error),
        };
        self.stop.cancel();
        for shard in self.shards {
            let joined = tokio::task::spawn_blocking(move || shard.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("a shard ended in a panic");
            }
        }
        self.writer.await.context("the writer ended in a panic")?;
        self.tasks.wait().await;
        self.store.close().await;
        result
    }
}

fn spawn_vital(
    tasks: &TaskTracker,
    fail: &mpsc::Sender<anyhow::Error>,
    work: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) {
    let fail = fail.clone();
    tasks.spawn(async move {
        if let Err(error) = work.await {
            let _ = fail.send(error).await;
        }
    });
}

async fn connect(config: &Config) -> anyhow::Result<Source> {
    let Some(url) = &config.nats else { return Ok(Source::Journal(Arc::new(Notify::new()))) };
    let shown = store::without_password(url);
    let mut options = nats::options(url)
        .with_context(|| format!("the URL of NATS, {shown}"))?
        .name("qualm")
        .subscription_capacity(nats::MESSAGES_AHEAD)
        .connection_timeout(Duration::from_secs(5));
    if let Some(file) = &config.nats_credentials {
        options = options.credentials_file(file).await.with_context(|| format!("cannot read {}", file.display()))?;
    }
    let mut pause = Duration::from_millis(200);
    let client = loop {
        match options.clone().connect(url).await {
            Ok(client) => break client,
            Err(error) if pause > Duration::from_secs(10) => {
                return Err(error).with_context(|| format!("cannot connect to NATS at {shown}"));
            }
            Err(error) => {
                tracing::warn!("cannot connect to NATS at {shown}: {error}; trying again in {pause:?}");
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
    };
    let context = async_nats::jetstream::new(client.clone());
    let mut stream = nats::stream(&context).await?;
    let name = nats::source_name(stream.info().await.context("cannot ask for the stream QOA_REPORTS")?);
    Ok(Source::Nats(client, Box::new(context), name))
}

/// The NATS service `qualm`: questions on `qoa.explain.<question>`.
async fn answer(store: Store, client: async_nats::Client, stop: CancellationToken) -> anyhow::Result<()> {
    let failed = |error: async_nats::Error| anyhow::anyhow!("cannot offer the NATS service: {error}");
    let service = client
        .service_builder()
        .description("Answers questions about promises: why, where, which, root-cause and others");
    let service = service.start("qualm", env!("CARGO_PKG_VERSION")).await.map_err(failed)?;
    let group = service.group("qoa.explain");
    let mut endpoints = Vec::new();
    for question in explain::questions() {
        let endpoint = group.endpoint(question).await.map_err(failed)?;
        endpoints.push(endpoint.map(move |request| (question, request)));
    }
    let mut requests = futures::stream::select_all(endpoints);
    while let Some(Some((question, request))) = stop.run_until_cancelled(requests.next()).await {
        let error = |code, status: String| async_nats::service::error::Error { code, status };
        let answer = match serde_json::from_slice::<Subject>(&request.message.payload) {
            Err(fault) => Err(error(
                400,
                format!("{fault}; send a JSON object such as {{\"violation\": ID}} or {{\"application\": NAME}}"),
            )),
            Ok(subject) => match explain::answer(&store, question, &subject).await {
                Ok(answer) => Ok(serde_json::to_vec(&answer).unwrap_or_default().into()),
                Err(explain::ExplainError::Store(fault)) => {
                    tracing::error!("explain: {fault}");
                    Err(error(503, "the database does not answer".to_owned()))
                }
                Err(fault @ explain::ExplainError::Subject(_)) => Err(error(400, fault.to_string())),
                Err(fault) => Err(error(404, fault.to_string())),
            },
        };
        let _ = request.respond(answer).await;
    }
    Ok(())
}

async fn forget(store: Store, retention: Retention, stop: CancellationToken) {
    loop {
        if let Err(error) = store.roll_up().await {
            tracing::error!("cannot add up what was observed: {error}");
        }
        match store.forget_old(retention, Timestamp::now()).await {
            Ok(0) => {}
            Ok(rows) => tracing::info!("forgot {rows} rows that were older than they are kept"),
            Err(error) => tracing::error!("cannot forget what is old: {error}"),
        }
        if stop.run_until_cancelled(tokio::time::sleep(FORGET_EVERY)).await.is_none() {
            return;
        }
    }
}

async fn write_back(store: Store, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(WRITE_BACK_EVERY)).await.is_some() {
        if let Err(error) = store.write_back().await {
            tracing::error!("cannot write the log of changes back: {error}");
        }
    }
}
