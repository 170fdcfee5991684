//! `/v1/deliveries`: the outbox for operators.

use axum::Json;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::page::{self, List};
use super::{App, Problem};
use crate::store::DeliveryRecord;

/// Which deliveries.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Of this violation
    violation: Option<String>,
    /// pending, sent or dead
    state: Option<String>,
    /// At most so many; 50 unless stated, 500 at most
    limit: Option<u32>,
    /// `next` of the part before
    cursor: Option<String>,
}

/// Deliveries, newest first
#[utoipa::path(
    get, path = "/v1/deliveries", operation_id = "listDeliveries", tag = "deliveries", params(Wanted),
    responses((status = 200, body = List<DeliveryRecord>))
)]
pub(super) async fn list(
    State(app): State<App>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<List<DeliveryRecord>>, Problem> {
    let (violation, state) = (wanted.violation.as_deref(), wanted.state.as_deref());
    Ok(Json(
        app.store
            .deliveries(violation, state, page::cursor(wanted.cursor.as_deref())?.as_ref(), page::limit(wanted.limit)?)
            .await?
            .into(),
    ))
}

/// Try a dead delivery again, with the same id and body
#[utoipa::path(
    post, path = "/v1/deliveries/{id}/replay", operation_id = "replayDelivery", tag = "deliveries", params(("id" = String, Path)),
    responses((status = 200, body = DeliveryRecord), (status = 404, body = Problem))
)]
pub(super) async fn replay(State(app): State<App>, Path(id): Path<String>) -> Result<Json<DeliveryRecord>, Problem> {
    let delivery = app.store.replay_delivery(&id).await?;
    app.outbox.send_replace(());
    delivery.ok_or_else(|| Problem::not_found(format!("there is no delivery {id}"))).map(Json)
}
