//! Violations and their transitions.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sqlx::any::AnyRow;
use utoipa::ToSchema;

use super::{Asked, AskedRow, Cursor, Filter, Page, Result, Store, json, maybe, maybe_time, query, text, time};
use crate::time::Timestamp;

/// A violation as it is now.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ViolationRecord {
    /// UUIDv5 of contract, objective, series and opening window end.
    pub id: String,
    /// Whose.
    pub tenant: String,
    /// Which application.
    pub application: String,
    /// Which contract.
    pub contract: String,
    /// Its version when the violation opened.
    pub version: String,
    /// Which objective.
    pub objective: String,
    /// Which series: label to value.
    #[schema(value_type = Object)]
    pub series: Json,
    /// info, minor, major or critical.
    pub severity: String,
    /// The party that answers for it.
    pub responsible: Option<String>,
    /// open or resolved.
    pub state: String,
    /// The window end at which it opened.
    #[schema(value_type = String, format = DateTime)]
    pub opened_at: Timestamp,
    /// The window end at which it resolved.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub resolved_at: Option<Timestamp>,
    /// When somebody took note of it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub acknowledged_at: Option<Timestamp>,
    /// Who.
    pub acknowledged_by: Option<String>,
    /// What they said.
    pub acknowledged_note: Option<String>,
}

/// A transition of a violation.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TransitionRecord {
    /// open or resolved.
    pub state: String,
    /// The window end at which it came about.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// When Qualm wrote it down.
    #[schema(value_type = String, format = DateTime)]
    pub recorded_at: Timestamp,
    /// All that was known then.
    #[schema(value_type = Object)]
    pub detail: Json,
}

/// Which violations to list.
#[derive(Debug, Clone, Default)]
pub struct ViolationQuery {
    /// Of this contract.
    pub contract: Option<String>,
    /// Of this application.
    pub application: Option<String>,
    /// Of this objective.
    pub objective: Option<String>,
    /// In this state.
    pub state: Option<String>,
    /// Of this severity.
    pub severity: Option<String>,
    /// After this place.
    pub cursor: Option<Cursor>,
    /// At most so many.
    pub limit: u32,
}

const SELECT: &str = "SELECT id, tenant, application, contract, version, objective, series, severity, responsible, state, \
                      opened_at, resolved_at, acknowledged_at, acknowledged_by, acknowledged_note FROM violations";

fn read(row: &AnyRow) -> Result<ViolationRecord> {
    Ok(ViolationRecord {
        id: text(row, "id")?,
        tenant: text(row, "tenant")?,
        application: text(row, "application")?,
        contract: text(row, "contract")?,
        version: text(row, "version")?,
        objective: text(row, "objective")?,
        series: json(row, "violations", "series")?,
        severity: text(row, "severity")?,
        responsible: maybe(row, "responsible")?,
        state: text(row, "state")?,
        opened_at: time(row, "opened_at")?,
        resolved_at: maybe_time(row, "resolved_at")?,
        acknowledged_at: maybe_time(row, "acknowledged_at")?,
        acknowledged_by: maybe(row, "acknowledged_by")?,
        acknowledged_note: maybe(row, "acknowledged_note")?,
    })
}

impl Store {
    /// Violations, newest first.
    pub async fn violations(&self, wanted: &ViolationQuery) -> Result<Page<ViolationRecord>> {
        Filter::new()
            .equal("contract", wanted.contract.as_deref())
            .equal("application", wanted.application.as_deref())
            .equal("objective", wanted.objective.as_deref())
            .equal("state", wanted.state.as_deref())
            .equal("severity", wanted.severity.as_deref())
            .before("opened_at", wanted.cursor.as_ref())
            .page(&self.read, SELECT, wanted.limit, read, |violation| Cursor {
                at: violation.opened_at.as_micros(),
                id: violation.id.clone(),
            })
            .await
    }

    /// One violation.
    pub async fn violation(&self, id: &str) -> Result<Option<ViolationRecord>> {
        let row = query(&format!("{SELECT} WHERE id = $1"), [id.into()]).fetch_optional(&self.read).await?;
        row.as_ref().map(read).transpose()
    }

    /// The transitions of a violation, in order, and the query that brought them.
    pub async fn transitions(&self, violation: &str) -> Result<(Vec<TransitionRecord>, Asked)> {
        let sql = "SELECT state, at, recorded_at, detail FROM transitions WHERE violation = $1 ORDER BY state";
        let asked = Asked::new("how it went on", sql, [violation.into()]);
        let read = |row: &AskedRow| {
            Ok(TransitionRecord {
                state: row.text("state")?,
                at: row.time("at")?,
                recorded_at: row.time("recorded_at")?,
                detail: row.json("detail")?,
            })
        };
        let transitions = self.ask(&asked).await?.iter().map(read).collect::<Result<_>>()?;
        Ok((transitions, asked))
    }

    /// Notes that somebody has seen a violation; the first one counts. `None` if there is no
    /// such violation.
    pub async fn acknowledge(&self, id: &str, by: &str, note: Option<String>) -> Result<Option<ViolationRecord>> {
        let sql = "UPDATE violations SET acknowledged_at = $1, acknowledged_by = $2, acknowledged_note = $3 \
                   WHERE id = $4 AND acknowledged_at IS NULL";
        query(sql, [Timestamp::now().into(), by.into(), note.into(), id.into()]).execute(&self.write).await?;
        self.violation(id).await
    }
}
