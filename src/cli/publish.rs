//! Publishing to JetStream, with a bounded number of acknowledgements awaited at once.

use std::future::IntoFuture;

use async_nats::jetstream::{self, context::PublishAckFuture};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::ingest::nats;

/// Publications that await their acknowledgement.
pub(super) struct Publisher {
    context: jetstream::Context,
    waiting: FuturesUnordered<<PublishAckFuture as IntoFuture>::IntoFuture>,
    window: usize,
}

impl Publisher {
    /// Connects, and makes the stream of reports if it is missing.
    pub(super) async fn connect(url: &str, window: usize) -> anyhow::Result<Publisher> {
        let client = nats::connect(url).await?;
        let context = jetstream::new(client);
        nats::stream(&context).await?;
        Ok(Publisher { context, waiting: FuturesUnordered::new(), window })
    }

    pub(super) async fn publish(&mut self, subject: String, body: String) -> anyhow::Result<()> {
        self.waiting.push(self.context.publish(subject, body.into()).await?.into_future());
        if self.waiting.len() >= self.window {
            self.waiting.next().await.transpose()?;
        }
        Ok(())
    }

    /// Waits for the acknowledgements that are missing.
    pub(super) async fn finish(mut self) -> anyhow::Result<()> {
        while let Some(acknowledged) = self.waiting.next().await {
            acknowledged?;
        }
        Ok(())
    }
}
