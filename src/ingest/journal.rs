//! The journal as a source: HTTP reports where there is no NATS.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Message, Shards};
use crate::metrics::Metrics;
use crate::report::application_digest;
use crate::store::{Store, StoreError};

/// Its name in positions.
pub const SOURCE: &str = "journal";
const MESSAGES_MAX: i64 = 1_000;
const TRIM_EVERY: Duration = Duration::from_secs(10);

/// Hands journal entries after `position` to the shards until stopped. `appended` wakes it.
pub async fn read(
    store: Store,
    shards: Shards,
    mut position: i64,
    appended: Arc<Notify>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut trimmed = tokio::time::Instant::now();
    while !stop.is_cancelled() {
        match store.journal_after(position, MESSAGES_MAX).await {
            Ok(entries) if !entries.is_empty() => {
                shards.set_caught_up(false);
                let full = entries.len() as i64 == MESSAGES_MAX;
                metrics.lag.set(entries.len() as i64);
                position = entries.last().map_or(position, |entry| entry.position);
                let mut parts = shards.parts();
                for entry in &entries {
                    parts.push(Message {
                        position: entry.position,
                        application: Some(application_digest(&entry.tenant, &entry.application)),
                        subject: format!("{}.{}", entry.tenant, entry.application).as_bytes(),
                        body: entry.body.as_ref(),
                    });
                }
                shards.forward(parts, position).await;
                if !full {
                    metrics.lag.set(0);
                    shards.set_caught_up(true);
                }
                continue;
            }
            Ok(_) => shards.set_caught_up(true),
            Err(error) => tracing::error!(%error, "cannot read the journal; trying again"),
        }
        if trimmed.elapsed() >= TRIM_EVERY {
            trimmed = tokio::time::Instant::now();
            if let Err(error) = trim(&store).await {
                tracing::error!(%error, "cannot trim the journal");
            }
        }
        let wait = tokio::time::timeout(Duration::from_millis(500), appended.notified());
        let _ = stop.run_until_cancelled(wait).await;
    }
}

async fn trim(store: &Store) -> Result<(), StoreError> {
    let saved = store.positions(SOURCE).await?.position;
    store.journal_trim(saved).await
}
