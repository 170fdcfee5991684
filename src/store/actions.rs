//! Actions and what came of them.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sqlx::any::AnyRow;
use utoipa::ToSchema;
use uuid::Uuid;

use super::commit::{approved_event, write_deliveries};
use super::{Cursor, Filter, Page, Result, Store, insert_many, json, maybe, query, text, time};
use crate::time::Timestamp;

/// What executors answer, in the order in which it comes about. The last two are final.
pub const OUTCOME_STATES: [&str; 4] = ["accepted", "running", "succeeded", "failed"];

/// An action as it is now.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ActionRecord {
    /// UUIDv5 of violation, action name and cause.
    #[schema(value_type = String)]
    pub id: Uuid,
    /// The violation that caused it.
    #[schema(value_type = String)]
    pub violation: Uuid,
    /// Whose.
    pub tenant: String,
    /// Which application.
    pub application: String,
    /// Which contract.
    pub contract: String,
    /// Which objective.
    pub objective: String,
    /// Its name in the contract.
    pub name: String,
    /// retrain, scale...
    pub kind: String,
    /// For the executor.
    #[schema(value_type = Object)]
    pub params: Json,
    /// requested, awaiting_approval, suppressed, accepted, running, succeeded or failed.
    pub state: String,
    /// What held it back, or who approved it.
    pub reason: Option<String>,
    /// Event time of its cause.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What executors answered.
    pub outcomes: Vec<Outcome>,
}

/// An executor's answer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// accepted, running, succeeded or failed.
    pub state: String,
    /// When; now unless stated.
    #[serde(default = "Timestamp::now")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Timestamp,
    /// A sentence.
    #[serde(default)]
    pub message: Option<String>,
}

/// Which actions to list.
#[derive(Debug, Clone, Default)]
pub struct ActionQuery {
    /// Of this contract.
    pub contract: Option<String>,
    /// Caused by this violation.
    pub violation: Option<String>,
    /// In this state.
    pub state: Option<String>,
    /// After this place.
    pub cursor: Option<Cursor>,
    /// At most so many.
    pub limit: u32,
}

const SELECT: &str = "SELECT id, violation, tenant, application, contract, objective, name, kind, params, state, reason, at FROM actions";

fn id(row: &AnyRow, column: &str) -> Result<Uuid> {
    Ok(Uuid::parse_str(&text(row, column)?).unwrap_or_default())
}

fn read(row: &AnyRow) -> Result<ActionRecord> {
    Ok(ActionRecord {
        id: id(row, "id")?,
        violation: id(row, "violation")?,
        tenant: text(row, "tenant")?,
        application: text(row, "application")?,
        contract: text(row, "contract")?,
        objective: text(row, "objective")?,
        name: text(row, "name")?,
        kind: text(row, "kind")?,
        params: json(row, "actions", "params")?,
        state: text(row, "state")?,
        reason: maybe(row, "reason")?,
        at: time(row, "at")?,
        outcomes: Vec::new(),
    })
}

impl Store {
    /// Actions, newest first, with their outcomes.
    pub async fn actions(&self, wanted: &ActionQuery) -> Result<Page<ActionRecord>> {
        let mut page = Filter::new()
            .equal("contract", wanted.contract.as_deref())
            .equal("violation", wanted.violation.as_deref())
            .equal("state", wanted.state.as_deref())
            .before("at", wanted.cursor.as_ref())
            .page(&self.read, SELECT, wanted.limit, read, |action| Cursor {
                at: action.at.as_micros(),
                id: action.id.to_string(),
            })
            .await?;
        for action in &mut page.items {
            action.outcomes = self.outcomes(&action.id.to_string()).await?;
        }
        Ok(page)
    }

    /// One action with its outcomes.
    pub async fn action(&self, id: &str) -> Result<Option<ActionRecord>> {
        let row = query(&format!("{SELECT} WHERE id = $1"), [id.into()]).fetch_optional(&self.read).await?;
        let Some(mut action) = row.as_ref().map(read).transpose()? else { return Ok(None) };
        action.outcomes = self.outcomes(id).await?;
        Ok(Some(action))
    }

    async fn outcomes(&self, action: &str) -> Result<Vec<Outcome>> {
        let sql = "SELECT state, at, message FROM outcomes WHERE action = $1 ORDER BY at, state";
        let rows = query(sql, [action.into()]).fetch_all(&self.read).await?;
        let read =
            |row| Ok(Outcome { state: text(row, "state")?, at: time(row, "at")?, message: maybe(row, "message")? });
        rows.iter().map(read).collect()
    }

    /// Writes an executor's answer; the first of a state counts. False if there is no such
    /// action, or if it never left.
    pub async fn record_outcome(&self, action: &str, outcome: &Outcome) -> Result<bool> {
        let mut transaction = self.write.begin().await?;
        // States come about in order, and a final one stays; answers may overtake each other.
        let sql = match outcome.state.as_str() {
            "accepted" => "UPDATE actions SET state = $1 WHERE id = $2 AND state = 'requested'",
            "running" => "UPDATE actions SET state = $1 WHERE id = $2 AND state IN ('requested', 'accepted')",
            _ => "UPDATE actions SET state = $1 WHERE id = $2 AND state IN ('requested', 'accepted', 'running')",
        };
        query(sql, [outcome.state.as_str().into(), action.into()]).execute(&mut *transaction).await?;
        let sql = "SELECT id FROM actions WHERE id = $1 AND state NOT IN ('awaiting_approval', 'suppressed')";
        let known = query(sql, [action.into()]).fetch_optional(&mut *transaction).await?.is_some();
        if known {
            let row = [action.into(), outcome.state.as_str().into(), outcome.at.into(), outcome.message.clone().into()];
            let tail = "ON CONFLICT (action, state) DO NOTHING";
            insert_many(&mut transaction, "outcomes (action, state, at, message)", tail, vec![row]).await?;
        }
        transaction.commit().await?;
        Ok(known)
    }

    /// Lets an action leave that awaits approval. `None` if there is no such action; an action
    /// in another state is returned as it is.
    pub async fn approve(&self, id: &str, by: &str, nats: bool) -> Result<Option<ActionRecord>> {
        let mut transaction = self.write.begin().await?;
        let sql = "UPDATE actions SET state = 'requested', approved_by = $1, reason = $2 WHERE id = $3 AND state = 'awaiting_approval'";
        let reason = format!("approved by {by}");
        let done = query(sql, [by.into(), reason.into(), id.into()]).execute(&mut *transaction).await?;
        if done.rows_affected() > 0 && nats {
            let row = query(&format!("{SELECT} WHERE id = $1"), [id.into()]).fetch_one(&mut *transaction).await?;
            let delivery = approved_event(&read(&row)?);
            write_deliveries(&mut transaction, &[delivery], Timestamp::now()).await?;
        }
        transaction.commit().await?;
        self.action(id).await
    }
}
