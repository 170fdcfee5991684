//! JetStream as a source.
//!
//! The position is kept with the engine's state, so nothing is acknowledged: an ephemeral
//! consumer starts behind the position, and a gap in its delivery numbers starts a new one.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::{self, stream};
use futures::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Message, RejectedReport, Shards};
use crate::metrics::Metrics;
use crate::report::application_digest;

/// The stream that holds the reports.
pub const STREAM: &str = "QOA_REPORTS";
const SUBJECTS: &str = "qoa.reports.>";
/// Messages asked for at once, and so how many may be under way.
const BATCH_MESSAGES: usize = 40_000;

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
    let mut consumer = stream
        .create_consumer(pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: *position as u64 + 1 },
            ack_policy: AckPolicy::None,
            inactive_threshold: Duration::from_secs(60),
            memory_storage: true,
            description: Some("Qualm; positions are kept in its own database".to_owned()),
            ..Default::default()
        })
        .await?;
    let pending = consumer.info().await?.num_pending;
    metrics.lag.set(pending as i64);
    shards.set_caught_up(pending == 0);
    let messages = consumer.stream().max_messages_per_batch(BATCH_MESSAGES).heartbeat(Duration::from_secs(5));
    let mut messages = messages.expires(Duration::from_secs(30)).messages().await?;
    let mut expected = 1;
    while let Some(first) = messages.next().await {
        let (mut parts, mut upto, mut pending, mut next) = (shards.parts(), *position, 0, Some(first));
        while let Some(message) = next {
            let message = message?;
            let info = message.info().map_err(|error| anyhow::anyhow!("message without its place: {error}"))?;
            if info.consumer_sequence != expected {
                return Err(Lost::Again(anyhow::anyhow!("messages were lost on the way")));
            }
            expected += 1;
            (upto, pending) = (info.stream_sequence as i64, info.pending);
            parts.push(Message {
                position: upto,
                application: application_of(&message.subject),
                subject: message.subject.as_bytes(),
                body: &message.payload,
            });
            // All that are there: Tokio would make a pause of it after each hundred.
            let ready = tokio::task::coop::unconstrained(messages.next());
            next = if parts.is_full() { None } else { ready.now_or_never().flatten() };
        }
        *position = upto;
        shards.set_caught_up(false);
        shards.forward(parts, upto).await;
        metrics.lag.set(pending as i64);
        shards.set_caught_up(pending == 0);
    }
    Ok(())
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
