//! Metrics and probes.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::{App, Inlet, Problem};

/// What Qualm counts, for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "operations", responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(app): State<App>) -> Result<impl IntoResponse, Problem> {
    let (pending, dead) = app.store.outbox_depth().await?;
    app.metrics.outbox_pending.set(pending);
    app.metrics.outbox_dead.set(dead);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], app.metrics.text()))
}

/// Whether the process lives
#[utoipa::path(get, path = "/healthz", tag = "operations", responses((status = 200, body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether the service can work: the database answers, and NATS, where it is used
#[utoipa::path(get, path = "/readyz", tag = "operations", responses((status = 200, body = String), (status = 503, body = Problem)))]
pub(super) async fn readyz(State(app): State<App>) -> Result<&'static str, Problem> {
    app.store.ping().await?;
    if let Inlet::Nats(client, _) = &app.inlet
        && client.connection_state() != async_nats::connection::State::Connected
    {
        return Err(Problem::new(503, "unavailable", "not connected to NATS"));
    }
    Ok("ready\n")
}
