//! `/v1/explain/{question}`.

use axum::Json;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{App, Problem};
use crate::explain::{self, Subject, Why};

/// What is asked about.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct About {
    /// The id of a violation
    violation: String,
}

/// Ask a question; `why` about a violation
#[utoipa::path(
    get, path = "/v1/explain/{question}", operation_id = "ask", tag = "explanations", params(("question" = String, Path), About),
    responses((status = 200, body = Why), (status = 404, body = Problem))
)]
pub(super) async fn ask(
    State(app): State<App>,
    Path(question): Path<String>,
    Query(about): Query<About>,
) -> Result<Json<Why>, Problem> {
    Ok(Json(explain::answer(&app.store, &question, &Subject { violation: about.violation }).await?))
}
