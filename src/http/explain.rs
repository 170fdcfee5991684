//! `/v1/explain/{question}`.

use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::auth::Role;
use super::{App, Problem};
use crate::explain::{self, Answered, Subject, View};
use crate::time::Timestamp;

/// What is asked about.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct About {
    /// The id of a violation
    violation: Option<String>,
    /// The name of a contract
    contract: Option<String>,
    /// The name of an objective
    objective: Option<String>,
    /// The tenant of the application; `default` unless stated
    tenant: Option<String>,
    /// The name of an application
    application: Option<String>,
    /// The id of an inference
    inference: Option<String>,
    /// The id of a request
    request: Option<String>,
    /// Start of the period; the full hour 24 h before its end unless stated (for compliance 30 days)
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// End of the period; the newest event time unless stated
    #[param(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
    /// Whom the answer is for; a consumer's token always asks as one
    #[serde(rename = "as")]
    view: Option<View>,
    /// How the answer is written; html is for compliance
    #[serde(default)]
    format: Format,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Json,
    Md,
    Html,
}

/// Ask a question: why, where, which, root-cause, ensemble, cost, quality, who, when, how, compliance
#[utoipa::path(
    get, path = "/v1/explain/{question}", operation_id = "ask", tag = "explanations", params(("question" = String, Path), About),
    responses((status = 200, body = Answered), (status = 400, body = Problem), (status = 404, body = Problem))
)]
pub(super) async fn ask(
    State(app): State<App>,
    role: Option<Extension<Role>>,
    Path(question): Path<String>,
    Query(about): Query<About>,
) -> Result<Response, Problem> {
    let About { violation, contract, objective, tenant, application, inference, request, from, until, view, format } =
        about;
    let view = view_of(role, view);
    let subject =
        Subject { violation, contract, objective, tenant, application, inference, request, from, until, view };
    let answer = explain::answer(&app.store, &question, &subject).await?;
    Ok(match (format, &answer) {
        (Format::Json, _) => Json(answer).into_response(),
        (Format::Md, _) => {
            ([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], answer.markdown()).into_response()
        }
        (Format::Html, Answered::Answer(of)) if of.question == "compliance" => {
            axum::response::Html(explain::compliance_page(of)).into_response()
        }
        (Format::Html, _) => {
            return Err(Problem::bad_request("only compliance is written as html; ask for json or md"));
        }
    })
}

/// Consumers see what consumers may see, whatever they ask for.
pub(super) fn view_of(role: Option<Extension<Role>>, asked: Option<View>) -> Option<View> {
    match role {
        Some(Extension(Role::Consumer)) => Some(View::Consumer),
        _ => asked,
    }
}
