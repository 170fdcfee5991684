//! `/v1/violations`.

use axum::Json;
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::page::{self, List};
use super::{App, Problem};
use crate::explain::{self, Answered, Subject, Why};
use crate::store::{TransitionRecord, ViolationQuery, ViolationRecord};

/// Which violations.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    contract: Option<String>,
    application: Option<String>,
    objective: Option<String>,
    /// open or resolved
    state: Option<String>,
    /// info, minor, major or critical
    severity: Option<String>,
    /// At most so many; 50 unless stated, 500 at most
    limit: Option<u32>,
    /// `next` of the part before
    cursor: Option<String>,
}

/// A violation with its transitions.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Whole {
    #[serde(flatten)]
    violation: ViolationRecord,
    transitions: Vec<TransitionRecord>,
}

/// Who takes note of a violation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Acknowledgement {
    by: String,
    note: Option<String>,
}

/// Violations, newest first
#[utoipa::path(
    get, path = "/v1/violations", operation_id = "listViolations", tag = "violations", params(Wanted),
    responses((status = 200, body = List<ViolationRecord>))
)]
pub(super) async fn list(
    State(app): State<App>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<List<ViolationRecord>>, Problem> {
    let query = ViolationQuery {
        contract: wanted.contract,
        application: wanted.application,
        objective: wanted.objective,
        state: wanted.state,
        severity: wanted.severity,
        cursor: page::cursor(wanted.cursor.as_deref())?,
        limit: page::limit(wanted.limit)?,
    };
    Ok(Json(app.store.violations(&query).await?.into()))
}

/// A violation and its transitions
#[utoipa::path(
    get, path = "/v1/violations/{id}", operation_id = "getViolation", tag = "violations", params(("id" = String, Path)),
    responses((status = 200, body = Whole), (status = 404, body = Problem))
)]
pub(super) async fn get(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Whole>, Problem> {
    let violation = found(app.store.violation(&id).await?, &id)?;
    let (transitions, _) = app.store.transitions(&id).await?;
    Ok(Json(Whole { violation, transitions }))
}

/// Take note of a violation; the first one counts
#[utoipa::path(
    post, path = "/v1/violations/{id}/acknowledge", operation_id = "acknowledgeViolation", tag = "violations", params(("id" = String, Path)),
    request_body = Acknowledgement,
    responses((status = 200, body = ViolationRecord), (status = 404, body = Problem))
)]
pub(super) async fn acknowledge(
    State(app): State<App>,
    Path(id): Path<String>,
    super::Body(given): super::Body<Acknowledgement>,
) -> Result<Json<ViolationRecord>, Problem> {
    found(app.store.acknowledge(&id, &given.by, given.note).await?, &id).map(Json)
}

/// Why there is this violation
#[utoipa::path(
    get, path = "/v1/violations/{id}/explanation", operation_id = "explainViolation", tag = "violations", params(("id" = String, Path)),
    responses((status = 200, body = Why), (status = 404, body = Problem))
)]
pub(super) async fn explanation(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Answered>, Problem> {
    let subject = Subject { violation: Some(id), ..Subject::default() };
    Ok(Json(explain::answer(&app.store, "why", &subject).await?))
}

fn found<T>(violation: Option<T>, id: &str) -> Result<T, Problem> {
    violation.ok_or_else(|| Problem::not_found(format!("there is no violation {id}")))
}
