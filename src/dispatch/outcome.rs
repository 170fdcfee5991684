//! Outcomes of actions, back from executors on `qoa.outcomes.<action id>`.

use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::store::{OUTCOME_STATES, Outcome, Store, StoreError};

/// Why an outcome was not taken.
#[derive(Debug, thiserror::Error)]
pub enum OutcomeError {
    /// Not `{"state": ..., "message": ...}`.
    #[error("not an outcome: {0}; write {{\"state\": \"accepted|running|succeeded|failed\", \"message\": ...}}")]
    Shape(String),
    /// No such action, or one that never left.
    #[error("no action {0} has left")]
    Unknown(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Checks and writes an outcome.
pub async fn record(store: &Store, action: &str, body: &[u8]) -> Result<Outcome, OutcomeError> {
    let outcome: Outcome = serde_json::from_slice(body).map_err(|error| OutcomeError::Shape(error.to_string()))?;
    if !OUTCOME_STATES.contains(&outcome.state.as_str()) {
        return Err(OutcomeError::Shape(format!("unknown state {:?}", outcome.state)));
    }
    match store.record_outcome(action, &outcome).await? {
        true => Ok(outcome),
        false => Err(OutcomeError::Unknown(action.to_owned())),
    }
}

/// Takes outcomes until stopped. Requests are answered; what is refused is logged.
pub async fn listen(store: Store, client: async_nats::Client, stop: CancellationToken) -> anyhow::Result<()> {
    let mut messages = client.queue_subscribe("qoa.outcomes.*", "qualm".to_owned()).await?;
    while let Some(Some(message)) = stop.run_until_cancelled(messages.next()).await {
        let action = message.subject.strip_prefix("qoa.outcomes.").unwrap_or_default();
        let answer = match record(&store, action, &message.payload).await {
            Ok(outcome) => serde_json::json!({"recorded": outcome}),
            Err(error) => {
                tracing::warn!(action, "outcome refused: {error}");
                serde_json::json!({"error": error.to_string()})
            }
        };
        if let Some(reply) = message.reply {
            let _ = client.publish(reply, answer.to_string().into()).await;
        }
    }
    Ok(())
}
