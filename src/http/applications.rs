//! `/v1/applications`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{App, Problem};
use crate::time::Timestamp;

/// An application that a contract is about, as its reports show it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ApplicationRecord {
    tenant: String,
    application: String,
    /// The greatest event time seen.
    #[schema(value_type = String, format = DateTime)]
    clock: Timestamp,
    /// Windows that end by here were judged.
    #[schema(value_type = String, format = DateTime)]
    watermark: Timestamp,
    /// Who works on whose output: `instances` to their stages, `edges` of from, to and when they were
    /// last seen (within a minute).
    #[schema(value_type = Object)]
    execution_graph: Value,
}

/// The applications that contracts are about
#[utoipa::path(get, path = "/v1/applications", operation_id = "listApplications", tag = "applications", responses((status = 200, body = Vec<ApplicationRecord>)))]
pub(super) async fn list(State(app): State<App>) -> Result<Json<Vec<ApplicationRecord>>, Problem> {
    let rows = app.store.applications().await?;
    let record = |(tenant, application, mut state): (String, String, Value)| {
        let time =
            |state: &Value, name: &str| state[name].as_str().and_then(|text| text.parse().ok()).unwrap_or_default();
        let (clock, watermark) = (time(&state, "clock"), time(&state, "watermark"));
        let mut graph = state["graph"].take();
        if let Some(graph) = graph.as_object_mut() {
            graph.remove("names");
        }
        ApplicationRecord { tenant, application, clock, watermark, execution_graph: graph }
    };
    Ok(Json(rows.into_iter().map(record).collect()))
}
