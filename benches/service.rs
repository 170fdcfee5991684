//! The service under load, beside a real nats-server on the same cores: start, draining a backlog,
//! memory, and the time from a breach to its webhook. Prints one line a figure.

#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer};
use common::{Nats, Service, wait_for};
use futures::StreamExt;
use qualm::ingest::nats::MESSAGES_AHEAD;
use qualm::load::Load;
use qualm::time::Timestamp;

const APPLICATIONS: u64 = 1_000;
/// With 10 of 20 objectives grouped by them: 100 series an application.
const DEVICES: u64 = 9;
const BACKLOG: u64 = 1_000_000;
const RATE: u64 = 20_000;
const SECONDS: u64 = 40;
/// Breaches sent during the load, one each 20 ms.
const PROBES: u64 = SECONDS * 50 - 200;

fn main() {
    // `cargo test` runs benches too, only to see that they build.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let contracts = folder.path().join("contracts");
    let nats = Nats::start();
    let load = |count: u64, rate: Option<u64>| {
        let mut command = common::qualm();
        command.args(["bench", "--nats", &nats.url, "--count", &count.to_string(), "--contracts"]).arg(&contracts);
        command.args(["--applications", &APPLICATIONS.to_string(), "--devices", &DEVICES.to_string()]);
        if let Some(rate) = rate {
            command.args(["--rate", &rate.to_string()]);
        }
        command
    };
    let published = common::run(&mut load(BACKLOG, None));
    print!("publish: {}", common::stderr(&published));

    let started = Instant::now();
    runtime.block_on(pulled(&nats.url));
    let pulled = BACKLOG as f64 / started.elapsed().as_secs_f64();
    let started = Instant::now();
    runtime.block_on(pushed(&nats.url));
    let pushed = BACKLOG as f64 / started.elapsed().as_secs_f64();
    println!("empty consumers: {pulled:.0} messages/s pulled, {pushed:.0} messages/s pushed");

    let receiver = runtime.block_on(Receiver::start());
    let probe = format!(
        "apiVersion: qualm/v1\nkind: Contract\nmetadata: {{name: probe, version: 1.0.0}}\nspec:\n  scope: {{application: probe}}\n  objectives:\n\
         \x20   - {{name: fast, indicator: {{attribute: service.response_time, aggregate: each, group_by: [probe]}}, target: {{max: 1}}}}\n\
         \x20 notify:\n    - webhook: {{url: \"http://{}/\", secret_env: PROBE_SECRET, events: [violation.opened]}}\n",
        receiver.address
    );
    std::fs::write(contracts.join("probe.yaml"), probe).unwrap();
    let database = format!("sqlite:{}", folder.path().join("qualm.db").display());
    let arguments = ["--nats", &nats.url, "--database", &database, "--contracts", contracts.to_str().unwrap()];
    let environment = [("PROBE_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")];
    let started = Instant::now();
    let service = Service::start_with(&arguments, &environment);
    println!("first start, {} contracts to take in: {:.2} s", APPLICATIONS + 1, started.elapsed().as_secs_f64());
    let started = Instant::now();
    wait_for("the backlog to be read", Duration::from_secs(120), || {
        (service.metric("qualm_reports_total") as u64 >= BACKLOG).then_some(())
    });
    let drained = BACKLOG as f64 / started.elapsed().as_secs_f64();
    let (of_pulled, of_pushed) = (drained / pulled, drained / pushed);
    println!("drain: {drained:.0} reports/s, {of_pulled:.2} of what is pulled, {of_pushed:.2} of what is pushed");
    std::thread::sleep(Duration::from_secs(3));
    let (series, memory) = (service.metric("qualm_series"), service.memory());
    println!("memory: {:.0} MiB with {series:.0} series, {:.2} KiB each", memory / 1024.0, memory / series);

    let mut command = load(RATE * SECONDS, Some(RATE));
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let sent = runtime.block_on(probe_all(&nats.url));
    std::thread::sleep(Duration::from_secs(2));
    let arrived = receiver.arrived.lock().unwrap().clone();
    let mut delays: Vec<f64> = Vec::new();
    for (probe, at) in &sent {
        delays.extend(arrived.get(probe).map(|there| there.duration_since(*at).as_secs_f64() * 1e3));
    }
    delays.sort_by(f64::total_cmp);
    let at = |share: f64| delays.get((delays.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    println!(
        "breach to webhook at {RATE} reports/s: {} of {} arrived; p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        delays.len(),
        sent.len(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.9999)
    );
    child.wait().unwrap();
    println!("memory after it: {:.0} MiB with {:.0} series", service.memory() / 1024.0, service.metric("qualm_series"));
    let started = Instant::now();
    assert!(service.stop());
    println!("stop: {:.2} s", started.elapsed().as_secs_f64());
    let started = Instant::now();
    let service = Service::start_with(&arguments, &environment);
    println!("start again, with their state: {:.2} s", started.elapsed().as_secs_f64());
    drop(service);

    let database = format!("sqlite:{}", folder.path().join("fresh.db").display());
    let known =
        Service::start_with(&["--database", &database, "--contracts", contracts.to_str().unwrap()], &environment);
    assert!(known.stop());
    let started = Instant::now();
    let _known =
        Service::start_with(&["--database", &database, "--contracts", contracts.to_str().unwrap()], &environment);
    println!("start, {} contracts known, no state: {:.2} s", APPLICATIONS + 1, started.elapsed().as_secs_f64());
}

/// Pulls the backlog, and does nothing with it.
async fn pulled(url: &str) {
    let context = jetstream::new(async_nats::connect(url).await.unwrap());
    let stream = context.get_stream("QOA_REPORTS").await.unwrap();
    let config =
        consumer::pull::Config { ack_policy: consumer::AckPolicy::None, memory_storage: true, ..Default::default() };
    let consumer = stream.create_consumer(config).await.unwrap();
    read(consumer.stream().max_messages_per_batch(5_000).messages().await.unwrap()).await;
}

/// Lets the server push the backlog, as the service does, and does nothing with it.
async fn pushed(url: &str) {
    let options = async_nats::ConnectOptions::new().subscription_capacity(MESSAGES_AHEAD);
    let client = options.connect(url).await.unwrap();
    let context = jetstream::new(client.clone());
    let stream = context.get_stream("QOA_REPORTS").await.unwrap();
    let config = consumer::push::Config {
        deliver_subject: client.new_inbox(),
        ack_policy: consumer::AckPolicy::None,
        flow_control: true,
        idle_heartbeat: Duration::from_secs(5),
        memory_storage: true,
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await.unwrap();
    read(consumer.messages().await.unwrap()).await;
}

async fn read<E: std::fmt::Debug>(messages: impl futures::Stream<Item = Result<jetstream::Message, E>>) {
    let mut messages = std::pin::pin!(messages.take(BACKLOG as usize));
    let mut bytes = 0;
    while let Some(message) = messages.next().await {
        bytes += message.unwrap().payload.len();
    }
    assert_eq!(bytes, BACKLOG as usize * (Load::default().bytes - 1));
}

/// Sends breaches, each of a series of its own, and says when each was sent.
async fn probe_all(url: &str) -> HashMap<String, Instant> {
    let client = async_nats::connect(url).await.unwrap();
    let mut sent = HashMap::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    for n in 0..PROBES {
        ticks.tick().await;
        let probe = format!("probe-{n}");
        let report = format!(
            "{{\"id\":\"{probe}\",\"time\":\"{}\",\"application\":\"probe\",\"stage\":\"s\",\"instance\":\"i\",\
             \"labels\":{{\"probe\":\"{probe}\"}},\"metrics\":{{\"service.response_time\":2}}}}",
            Timestamp::now()
        );
        sent.insert(probe, Instant::now());
        client.publish("qoa.reports.default.probe.s", report.into()).await.unwrap();
        client.flush().await.unwrap();
    }
    sent
}

/// Notes when webhooks come, by their series.
struct Receiver {
    address: std::net::SocketAddr,
    arrived: Arc<Mutex<HashMap<String, Instant>>>,
}

impl Receiver {
    async fn start() -> Receiver {
        let arrived = Arc::new(Mutex::new(HashMap::new()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let notes = arrived.clone();
        let note = move |body: axum::body::Bytes| {
            let now = Instant::now();
            let event: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let probe = event["data"]["series"]["probe"].as_str().unwrap_or_default().to_owned();
            notes.lock().unwrap().insert(probe, now);
            std::future::ready("")
        };
        let app = axum::Router::new().route("/", axum::routing::post(note));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Receiver { address, arrived }
    }
}
