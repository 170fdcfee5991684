//! The outbox as the dispatcher sees it.

use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use utoipa::ToSchema;

use super::{Cursor, Filter, Page, Result, Store, maybe, maybe_time, number, query, text, time};
use crate::time::Timestamp;

/// The end of an attempt to deliver.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The delivery.
    pub id: String,
    /// What becomes of it.
    pub state: DeliveryState,
    /// When the attempt ended.
    pub at: Timestamp,
    /// When it is tried again, if it still is pending.
    pub next: Timestamp,
    /// Why it failed.
    pub error: Option<String>,
}

/// A message that is due.
#[derive(Debug, Clone)]
pub struct Due {
    /// The delivery.
    pub id: String,
    /// The event; the idempotency key.
    pub event: String,
    /// `nats` or `webhook`.
    pub kind: String,
    /// Subject or URL.
    pub destination: String,
    /// Where a webhook's secret is.
    pub secret_env: Option<String>,
    /// What is sent.
    pub body: String,
    /// Attempts so far.
    pub attempts: i64,
    /// When it was put into the outbox.
    pub created_at: Timestamp,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// It waits, for the first attempt or the next.
    Pending,
    /// It arrived.
    Sent,
    /// It did not arrive and is not tried again.
    Dead,
}

impl DeliveryState {
    fn as_str(self) -> &'static str {
        match self {
            DeliveryState::Pending => "pending",
            DeliveryState::Sent => "sent",
            DeliveryState::Dead => "dead",
        }
    }
}

/// A delivery as operators see it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeliveryRecord {
    /// Derived from event and destination.
    pub id: String,
    /// The event: `webhook-id` and `Nats-Msg-Id`.
    pub event: String,
    /// What it is about.
    pub violation: String,
    /// nats or webhook.
    pub kind: String,
    /// Subject or URL.
    pub destination: String,
    /// pending, sent or dead.
    pub state: String,
    /// Attempts so far.
    pub attempts: i64,
    /// When it was put into the outbox.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it arrived or was given up.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub done_at: Option<Timestamp>,
    /// Why the newest attempt failed.
    pub error: Option<String>,
}

fn record(row: &AnyRow) -> Result<DeliveryRecord> {
    Ok(DeliveryRecord {
        id: text(row, "id")?,
        event: text(row, "event")?,
        violation: text(row, "violation")?,
        kind: text(row, "kind")?,
        destination: text(row, "destination")?,
        state: text(row, "state")?,
        attempts: number(row, "attempts")?,
        created_at: time(row, "created_at")?,
        done_at: maybe_time(row, "done_at")?,
        error: maybe(row, "error")?,
    })
}

impl Store {
    /// Deliveries of a kind that are due, the oldest first.
    pub async fn due(&self, kind: &str, now: Timestamp, limit: i64) -> Result<Vec<Due>> {
        let sql = "SELECT id, event, kind, destination, secret_env, body, attempts, created_at FROM deliveries \
                   WHERE state = 'pending' AND next_at <= $1 AND kind = $2 ORDER BY next_at, id LIMIT $3";
        let rows = query(sql, [now.into(), kind.into(), limit.into()]).fetch_all(&self.read).await?;
        let read = |row| {
            Ok(Due {
                id: text(row, "id")?,
                event: text(row, "event")?,
                kind: text(row, "kind")?,
                destination: text(row, "destination")?,
                secret_env: maybe(row, "secret_env")?,
                body: text(row, "body")?,
                attempts: number(row, "attempts")?,
                created_at: time(row, "created_at")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Moves the next attempt of a delivery.
    pub async fn postpone(&self, id: &str, next: Timestamp) -> Result<()> {
        let sql = "UPDATE deliveries SET next_at = $1 WHERE id = $2";
        query(sql, [next.into(), id.into()]).execute(&self.write).await?;
        Ok(())
    }

    /// Notes the ends of attempts, all or none.
    pub async fn attempted(&self, attempts: &[Attempt]) -> Result<()> {
        let mut transaction = self.write.begin().await?;
        for Attempt { id, state, at, next, error } in attempts {
            let done = (*state != DeliveryState::Pending).then(|| at.as_micros());
            let sql = "UPDATE deliveries SET state = $1, attempts = attempts + 1, next_at = $2, error = $3, \
                       done_at = COALESCE($4, done_at) WHERE id = $5";
            let args = [state.as_str().into(), (*next).into(), error.clone().into()];
            query(sql, args).bind(done).bind(id.clone()).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Tries a dead delivery again, from the beginning. `None` if there is none of that id.
    pub async fn replay_delivery(&self, id: &str) -> Result<Option<DeliveryRecord>> {
        let now = Timestamp::now();
        let sql = "UPDATE deliveries SET state = 'pending', attempts = 0, created_at = $1, next_at = $2, done_at = NULL \
                   WHERE id = $3 AND state = 'dead'";
        query(sql, [now.into(), now.into(), id.into()]).execute(&self.write).await?;
        let sql = format!("{SELECT} WHERE id = $1");
        let row = query(&sql, [id.into()]).fetch_optional(&self.read).await?;
        row.as_ref().map(record).transpose()
    }

    /// Deliveries, newest first; of one violation, or in one state.
    pub async fn deliveries(
        &self,
        violation: Option<&str>,
        state: Option<&str>,
        cursor: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page<DeliveryRecord>> {
        Filter::new()
            .equal("violation", violation)
            .equal("state", state)
            .before("created_at", cursor)
            .page(&self.read, SELECT, limit, record, |delivery| Cursor {
                at: delivery.created_at.as_micros(),
                id: delivery.id.clone(),
            })
            .await
    }

    /// How many deliveries wait, and how many are dead.
    pub async fn outbox_depth(&self) -> Result<(i64, i64)> {
        let sql = "SELECT state, COUNT(*) AS n FROM deliveries WHERE state IN ('pending', 'dead') GROUP BY state";
        let (mut pending, mut dead) = (0, 0);
        for row in query(sql, []).fetch_all(&self.read).await? {
            match text(&row, "state")?.as_str() {
                "dead" => dead = number(&row, "n")?,
                _ => pending = number(&row, "n")?,
            }
        }
        Ok((pending, dead))
    }
}

const SELECT: &str =
    "SELECT id, event, violation, kind, destination, state, attempts, created_at, done_at, error FROM deliveries";
