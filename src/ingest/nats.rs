//! JetStream as a source.
//!
//! The position is kept with the engine's state, so nothing is acknowledged: an ephemeral
//! consumer starts behind the position, and a gap in its delivery numbers starts a new one.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use async_nats::connection::State;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, push};
use async_nats::jetstream::{self, stream};
use async_nats::{ConnectOptions, ServerAddr, StatusCode};
use futures::{FutureExt, StreamExt};
use percent_encoding::percent_decode_str;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Message, Parts, RejectedReport, Shards};
use crate::metrics::Metrics;
use crate::report::application_digest;
use crate::store::without_password;

/// The stream that holds the reports.
pub const STREAM: &str = "QOA_REPORTS";
const SUBJECTS: &str = "qoa.reports.>";
/// The server is heard at least so often...
const HEARTBEAT: Duration = Duration::from_secs(5);
/// ...and so often one looks whether it is still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So many messages behind, they are late anyhow: then many travel together, which costs less...
const FAR_BEHIND: u64 = 20_000;
/// ...even if there is some waiting for the next.
const SOON: Duration = Duration::from_millis(50);
/// More messages than the server sends ahead of an answer: 32 MiB of them, with their subjects.
pub const MESSAGES_AHEAD: usize = 500_000;

/// How to connect to a server: as the user, or with the token, that its URL names.
pub fn options(url: &str) -> anyhow::Result<ConnectOptions> {
    let address: ServerAddr = url.split(',').next().unwrap_or_default().parse()?;
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let options = ConnectOptions::new();
    Ok(match (address.username().map(decoded), address.password().map(decoded)) {
        (Some(user), Some(password)) => options.user_and_password(user, password),
        (Some(token), None) => options.token(token),
        (None, _) => options,
    })
}

/// Connects to a server.
pub async fn connect(url: &str) -> anyhow::Result<async_nats::Client> {
    let connected = async { anyhow::Ok(options(url)?.connect(url).await?) };
    connected.await.with_context(|| format!("cannot connect to NATS at {}", without_password(url)))
}

/// Finds the stream of reports, or makes it: file storage, reports kept for a week.
pub async fn stream(context: &jetstream::Context) -> anyhow::Result<stream::Stream> {
    let config = stream::Config {
        name: STREAM.to_owned(),
        subjects: vec![SUBJECTS.to_owned()],
        max_age: Duration::from_secs(7 * 86_400),
        storage: stream::StorageType::File,
        ..Default::default()
    };
    if let Ok(found) = context.get_stream(STREAM).await {
        return Ok(found);
    }
    context.create_stream(config).await.context("cannot make the JetStream stream QOA_REPORTS (is JetStream on?)")
}

/// What tells this stream from another of its name: when it was made.
pub fn source_name(info: &stream::Info) -> String {
    format!("jetstream/{STREAM}/{}", info.created.unix_timestamp_nanos())
}

/// Hands messages behind `position` to the shards until stopped. Fails if the stream was
/// replaced by another: then positions mean nothing, and the service must start anew.
pub async fn read(
    context: jetstream::Context,
    source: String,
    shards: Shards,
    mut position: i64,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut pause = Duration::from_millis(100);
    while !stop.is_cancelled() {
        let before = position;
        let reading = consume(&context, &source, &shards, &mut position, &metrics);
        match stop.run_until_cancelled(reading).await {
            None => break,
            Some(Err(Lost::Replaced)) => {
                anyhow::bail!(
                    "the stream {STREAM} was replaced by another while the service ran; start the service again"
                );
            }
            Some(Err(Lost::Again(error))) => {
                shards.set_caught_up(false);
                tracing::warn!("reading {STREAM}: {error:#}; trying again in {pause:?}");
            }
            Some(Ok(())) => {}
        }
        pause = if position > before { Duration::from_millis(100) } else { (pause * 2).min(Duration::from_secs(5)) };
        let _ = stop.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
    Ok(())
}

enum Lost {
    Replaced,
    Again(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Lost {
    fn from(error: E) -> Lost {
        Lost::Again(error.into())
    }
}

async fn consume(
    context: &jetstream::Context,
    source: &str,
    shards: &Shards,
    position: &mut i64,
    metrics: &Metrics,
) -> Result<(), Lost> {
    let mut stream = stream(context).await?;
    let info = stream.info().await?;
    if source_name(info) != source {
        return Err(Lost::Replaced);
    }
    if info.state.first_sequence as i64 > *position + 1 && info.state.messages > 0 {
        let lost = info.state.first_sequence as i64 - *position - 1;
        tracing::warn!("{STREAM} has dropped up to {lost} messages that were never read");
    }
    let mut delivery = Delivery::begin(context, &stream, *position).await?;
    loop {
        metrics.lag.set(delivery.pending as i64);
        shards.set_caught_up(delivery.pending == 0);
        let mut parts = shards.parts();
        delivery.fill(&mut parts).await?;
        *position = delivery.position;
        shards.set_caught_up(false);
        shards.forward(parts, *position).await;
    }
}

/// Messages of the stream as the server pushes them, with flow control: now and then it asks whether all
/// before were taken in, and does not run far ahead of the answer.
struct Delivery {
    client: async_nats::Client,
    messages: async_nats::Subscriber,
    /// The last message, with its context: that would be much to make anew for each.
    last: Option<jetstream::Message>,
    context: jetstream::Context,
    /// Its place in the stream.
    position: i64,
    /// Messages of the stream behind it.
    pending: u64,
    /// The server's number of the next message.
    expected: u64,
    /// Connections made before this began.
    connects: u64,
    /// When something came last.
    heard: Instant,
    /// When the server was answered that waits, if no message came since.
    answered: Option<Instant>,
}

impl Delivery {
    /// Lets the server push what stands behind a position.
    async fn begin(context: &jetstream::Context, stream: &stream::Stream, position: i64) -> anyhow::Result<Delivery> {
        let client = context.client();
        let connects = client.statistics().connects.load(Ordering::Relaxed);
        let inbox = client.new_inbox();
        let messages = client.subscribe(inbox.clone()).await?;
        let config = push::Config {
            deliver_subject: inbox,
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: position as u64 + 1 },
            ack_policy: AckPolicy::None,
            flow_control: true,
            idle_heartbeat: HEARTBEAT,
            inactive_threshold: Duration::from_secs(60),
            memory_storage: true,
            description: Some("Qualm; positions are kept in its own database".to_owned()),
            ..Default::default()
        };
        let pending = stream.create_consumer(config).await?.cached_info().num_pending;
        Ok(Delivery {
            client,
            messages,
            last: None,
            context: context.clone(),
            position,
            pending,
            expected: 1,
            connects,
            heard: Instant::now(),
            answered: None,
        })
    }

    /// Fills parts: with the next message, and all that come close behind it.
    async fn fill(&mut self, parts: &mut Parts) -> Result<(), Lost> {
        let first = loop {
            match self.within(LOOK_EVERY).await? {
                Some(message) => break message,
                None => self.look()?,
            }
        };
        self.heard = Instant::now();
        let mut next = Some(first);
        while let Some(message) = next {
            self.take(message, parts)?;
            let wait = if self.pending > FAR_BEHIND { SOON } else { Duration::ZERO };
            next = if parts.is_full() { None } else { self.within(wait).await? };
        }
        Ok(())
    }

    /// The next message, if it comes in time.
    async fn within(&mut self, wait: Duration) -> Result<Option<async_nats::Message>, Lost> {
        loop {
            // Of those that are there, Tokio would hold one back after each hundred.
            let message = match tokio::task::coop::unconstrained(self.messages.next()).now_or_never() {
                Some(message) => message,
                None if wait.is_zero() => return Ok(None),
                None => match tokio::time::timeout(wait, self.messages.next()).await {
                    Ok(message) => message,
                    Err(_) => return Ok(None),
                },
            };
            let message = message.context("the connection was closed")?;
            match message.status {
                None => return Ok(Some(message)),
                Some(StatusCode::IDLE_HEARTBEAT) => self.answer(message).await?,
                Some(status) => return Err(anyhow::anyhow!("the server says {status}").into()),
            }
        }
    }

    /// Says that all was taken in, if the server asks: by a message to be answered, or again in one that
    /// tells that it waits.
    async fn answer(&mut self, heartbeat: async_nats::Message) -> anyhow::Result<()> {
        self.heard = Instant::now();
        let stalled = heartbeat.headers.as_ref().and_then(|headers| headers.get("Nats-Consumer-Stalled"));
        if stalled.is_some() && self.answered.replace(self.heard).is_some_and(|at| at.elapsed() > HEARTBEAT / 2) {
            tracing::warn!(
                "JetStream waits although it was answered; may Qualm's user publish on $JS.FC.{STREAM}.> at the NATS server?"
            );
        }
        match heartbeat.reply.or_else(|| stalled.map(|subject| subject.as_str().into())) {
            Some(subject) => Ok(self.client.publish(subject, Default::default()).await?),
            None => Ok(()),
        }
    }

    /// Whether the server is still there, after nothing came for a while.
    fn look(&self) -> anyhow::Result<()> {
        let connects = self.client.statistics().connects.load(Ordering::Relaxed);
        anyhow::ensure!(
            self.client.connection_state() == State::Connected && connects == self.connects,
            "the connection was lost"
        );
        anyhow::ensure!(self.heard.elapsed() < HEARTBEAT * 2, "the server was silent for {:?}", HEARTBEAT * 2);
        Ok(())
    }

    fn take(&mut self, message: async_nats::Message, parts: &mut Parts) -> anyhow::Result<()> {
        let message = match &mut self.last {
            Some(last) => {
                last.message = message;
                last
            }
            last => last.insert(jetstream::Message { message, context: self.context.clone() }),
        };
        let info = message.info().map_err(|error| anyhow::anyhow!("message without its place: {error}"))?;
        anyhow::ensure!(info.consumer_sequence == self.expected, "messages were lost on the way");
        (self.expected, self.answered) = (self.expected + 1, None);
        (self.position, self.pending) = (info.stream_sequence as i64, info.pending);
        parts.push(Message {
            position: self.position,
            application: application_of(&message.subject),
            subject: message.subject.as_bytes(),
            body: &message.payload,
        });
        Ok(())
    }
}

/// Digest of tenant and application of `qoa.reports.<tenant>.<application>.<stage>`.
fn application_of(subject: &str) -> Option<u128> {
    let mut parts = subject.strip_prefix("qoa.reports.")?.split('.');
    let (tenant, application, _stage) = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then(|| application_digest(tenant, application))
}

/// Passes refused reports on to `qoa.rejected`.
pub async fn publish_rejected(client: async_nats::Client, mut rejected: mpsc::Receiver<RejectedReport>) {
    while let Some(report) = rejected.recv().await {
        let body = serde_json::json!({
            "reason": report.reason, "message": report.message, "index": report.index,
            "position": report.position, "original": report.original,
        });
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", format!("rejected-{}-{}", report.position, report.index));
        if let Err(error) = client.publish_with_headers("qoa.rejected", headers, body.to_string().into()).await {
            tracing::warn!(%error, "cannot publish to qoa.rejected");
        }
    }
}
