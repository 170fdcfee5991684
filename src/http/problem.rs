//! Errors after RFC 9457, problem details for HTTP.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value as Json;
use utoipa::ToSchema;

use crate::catalog::CatalogError;
use crate::explain::ExplainError;
use crate::store::StoreError;

/// What went wrong, for machines and people.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The kind of problem.
    pub title: &'static str,
    /// This problem, and what to do about it.
    pub detail: String,
    /// Findings of a contract, or rejections of reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub errors: Option<Json>,
}

impl Problem {
    /// A problem.
    pub fn new(status: u16, title: &'static str, detail: impl Into<String>) -> Problem {
        Problem { status, title, detail: detail.into(), errors: None }
    }

    /// 400.
    pub fn bad_request(detail: impl Into<String>) -> Problem {
        Problem::new(400, "bad request", detail)
    }

    /// 404.
    pub fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(404, "not found", detail)
    }

    /// 503; the reason goes to the log only.
    pub fn unavailable(error: &dyn std::fmt::Display) -> Problem {
        tracing::error!("request failed: {error}");
        Problem::new(503, "unavailable", "a part of the service does not answer; try again")
    }

    /// With errors in detail.
    pub fn with_errors(mut self, errors: impl Serialize) -> Problem {
        self.errors = serde_json::to_value(errors).ok();
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        Problem::unavailable(&error)
    }
}

impl From<CatalogError> for Problem {
    fn from(error: CatalogError) -> Problem {
        let words = error.to_string();
        match error {
            CatalogError::Faulty(findings) => Problem::new(422, "faulty contract", words).with_errors(findings),
            CatalogError::Governed { .. } => Problem::new(409, "conflict", words),
            CatalogError::OtherName { .. } => Problem::bad_request(words),
            CatalogError::TooMany => Problem::new(507, "too many contracts", words),
            CatalogError::NotFound(_) => Problem::not_found(words),
            CatalogError::Store(error) => error.into(),
        }
    }
}

impl From<ExplainError> for Problem {
    fn from(error: ExplainError) -> Problem {
        match error {
            ExplainError::Store(error) => error.into(),
            ExplainError::Subject(words) => Problem::bad_request(words),
            other => Problem::not_found(other.to_string()),
        }
    }
}
