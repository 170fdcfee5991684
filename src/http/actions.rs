//! `/v1/actions`.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::page::{self, List};
use super::{App, Problem};
use crate::dispatch::outcome::{self, OutcomeError};
use crate::store::{ActionQuery, ActionRecord, Outcome};

/// Which actions.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    contract: Option<String>,
    /// Caused by this violation
    violation: Option<String>,
    /// requested, awaiting_approval, suppressed, accepted, running, succeeded or failed
    state: Option<String>,
    /// At most so many; 50 unless stated, 500 at most
    limit: Option<u32>,
    /// `next` of the part before
    cursor: Option<String>,
}

/// Who approves an action.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Approval {
    by: String,
}

/// Actions, newest first
#[utoipa::path(
    get, path = "/v1/actions", operation_id = "listActions", tag = "actions", params(Wanted),
    responses((status = 200, body = List<ActionRecord>))
)]
pub(super) async fn list(
    State(app): State<App>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<List<ActionRecord>>, Problem> {
    let query = ActionQuery {
        contract: wanted.contract,
        violation: wanted.violation,
        state: wanted.state,
        cursor: page::cursor(wanted.cursor.as_deref())?,
        limit: page::limit(wanted.limit)?,
    };
    Ok(Json(app.store.actions(&query).await?.into()))
}

/// An action and its outcomes
#[utoipa::path(
    get, path = "/v1/actions/{id}", operation_id = "getAction", tag = "actions", params(("id" = String, Path)),
    responses((status = 200, body = ActionRecord), (status = 404, body = Problem))
)]
pub(super) async fn get(State(app): State<App>, Path(id): Path<String>) -> Result<Json<ActionRecord>, Problem> {
    found(app.store.action(&id).await?, &id).map(Json)
}

/// Let an action leave that awaits approval
#[utoipa::path(
    post, path = "/v1/actions/{id}/approve", operation_id = "approveAction", tag = "actions", params(("id" = String, Path)),
    request_body = Approval,
    responses((status = 200, body = ActionRecord), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn approve(
    State(app): State<App>,
    Path(id): Path<String>,
    super::Body(approval): super::Body<Approval>,
) -> Result<Json<ActionRecord>, Problem> {
    let before = found(app.store.action(&id).await?, &id)?;
    if before.state != "awaiting_approval" {
        let detail = format!("the action is {} and awaits no approval", before.state);
        return Err(Problem::new(409, "conflict", detail));
    }
    let action = found(app.store.approve(&id, &approval.by, app.inlet.is_nats()).await?, &id)?;
    app.outbox.send_replace(());
    Ok(Json(action))
}

/// Answer what became of an action
#[utoipa::path(
    post, path = "/v1/actions/{id}/outcome", operation_id = "reportOutcome", tag = "actions", params(("id" = String, Path)),
    request_body = Outcome,
    responses((status = 200, body = ActionRecord), (status = 404, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn outcome(
    State(app): State<App>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<ActionRecord>, Problem> {
    outcome::record(&app.store, &id, &body).await.map_err(|error| match error {
        OutcomeError::Shape(_) => Problem::new(422, "not an outcome", error.to_string()),
        OutcomeError::Unknown(_) => Problem::not_found(error.to_string()),
        OutcomeError::Store(error) => error.into(),
    })?;
    found(app.store.action(&id).await?, &id).map(Json)
}

fn found(action: Option<ActionRecord>, id: &str) -> Result<ActionRecord, Problem> {
    action.ok_or_else(|| Problem::not_found(format!("there is no action {id}")))
}
