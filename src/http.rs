//! The HTTP API. One file a resource; SQL is in the store, decisions are in the core.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Request};
use axum::http::header;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::catalog::Catalog;
use crate::metrics::Metrics;
use crate::report::MESSAGE_BYTES_MAX;
use crate::store::Store;

mod actions;
mod applications;
mod auth;
mod contracts;
mod deliveries;
mod explain;
mod health;
mod page;
mod problem;
mod reports;
mod violations;

pub use auth::{Role, Token};
pub use problem::Problem;

/// What handlers work with.
#[derive(Clone)]
pub struct App {
    /// What is remembered.
    pub store: Store,
    /// The contracts in force.
    pub catalog: Arc<Catalog>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where reports go.
    pub inlet: Inlet,
    /// Wakes the dispatcher.
    pub outbox: watch::Sender<()>,
    /// Who may do what; without any, everybody may do everything.
    pub tokens: Arc<[Token]>,
}

/// Where reports that come over HTTP go.
#[derive(Clone)]
pub enum Inlet {
    /// Into JetStream.
    Nats(async_nats::Client, Box<async_nats::jetstream::Context>),
    /// Into the journal; wakes its reader.
    Journal(Arc<Notify>),
}

impl Inlet {
    /// Whether events and actions leave by NATS.
    pub fn is_nats(&self) -> bool {
        matches!(self, Inlet::Nats(..))
    }
}

#[derive(OpenApi)]
#[openapi(info(
    title = "Qualm",
    description = "Quality of analytics monitor: reports in, violations and their reasons out. Errors are RFC 9457 problems. Lists are newest first, with a cursor."
))]
struct Api;

fn api() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(reports::post))
        .routes(routes!(contracts::list))
        .routes(routes!(contracts::get, contracts::put, contracts::delete))
        .routes(routes!(contracts::versions))
        .routes(routes!(contracts::status))
        .routes(routes!(contracts::baselines))
        .routes(routes!(applications::list))
        .routes(routes!(violations::list))
        .routes(routes!(violations::get))
        .routes(routes!(violations::acknowledge))
        .routes(routes!(violations::explanation))
        .routes(routes!(explain::ask))
        .routes(routes!(actions::list))
        .routes(routes!(actions::get))
        .routes(routes!(actions::approve))
        .routes(routes!(actions::outcome))
        .routes(routes!(deliveries::list))
        .routes(routes!(deliveries::replay))
        .routes(routes!(health::metrics))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
}

/// The OpenAPI document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    api().split_for_parts().1
}

/// The API as a router.
pub fn router(app: App) -> Router {
    let (router, document) = api().split_for_parts();
    let document = serde_json::to_string_pretty(&document).expect("an OpenAPI document is plain data");
    let openapi = move || async move { ([("content-type", "application/json")], document) };
    router
        .route("/openapi.json", get(openapi))
        .fallback(|request: Request| async move { Problem::not_found(format!("there is no {}", request.uri().path())) })
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(app.clone(), auth::check))
        .layer(DefaultBodyLimit::max(MESSAGE_BYTES_MAX))
        .layer(middleware::map_response(as_problem))
        .with_state(app)
}

/// A JSON body; what does not fit is a problem that says so.
struct Body<T>(T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Problem> {
        let bytes =
            Bytes::from_request(request, state).await.map_err(|error| Problem::bad_request(error.to_string()))?;
        serde_json::from_slice(&bytes)
            .map(Body)
            .map_err(|error| Problem::new(422, "unexpected body", error.to_string()))
    }
}

/// The framework's own refusals (query parameters, body size) come as text; make them problems.
async fn as_problem(response: Response) -> Response {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if response.status().as_u16() < 400 || kind.starts_with("application/") {
        return response;
    }
    let status = response.status();
    let text = axum::body::to_bytes(response.into_body(), 64 << 10).await.unwrap_or_default();
    let title = status.canonical_reason().unwrap_or("error");
    Problem::new(status.as_u16(), title, String::from_utf8_lossy(&text)).into_response()
}

async fn method_not_allowed(request: Request) -> Response {
    let detail = format!("{} does not take {}", request.uri().path(), request.method());
    Problem::new(405, "method not allowed", detail).into_response()
}

/// Serves until stopped; requests under way end first.
pub async fn serve(listener: tokio::net::TcpListener, app: App, stop: CancellationToken) -> std::io::Result<()> {
    let service = router(app).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned()).await
}
