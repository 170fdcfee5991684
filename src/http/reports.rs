//! `POST /v1/reports`.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::{App, Inlet, Problem};
use crate::ingest::check_time;
use crate::report::{self, Rejection, Report};
use crate::time::Timestamp;

/// Rejections that an answer lists at most.
const REJECTIONS_MAX: usize = 100;
/// Messages are at most of about this size.
const MESSAGE_BYTES: usize = 256 << 10;

/// What became of reports.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Accepted {
    /// Reports that are safely stored and will be judged.
    accepted: usize,
    /// Reports that were refused.
    rejected: usize,
    /// The first of those.
    errors: Vec<RejectionRecord>,
}

/// A report that was refused.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RejectionRecord {
    /// Position of the report in the request, from 0.
    index: usize,
    /// A word.
    reason: &'static str,
    /// What is wrong with it.
    message: String,
}

/// Take in reports: one, a JSON array of them, or one a line (NDJSON)
#[utoipa::path(
    post, path = "/v1/reports", operation_id = "postReports", tag = "reports",
    request_body(content = String, content_type = "application/json", description = "See `qualm schema report`"),
    responses(
        (status = 202, body = Accepted, description = "At least one report was taken in"),
        (status = 422, body = Problem, description = "None was"),
    )
)]
pub(super) async fn post(State(app): State<App>, body: Bytes) -> Result<(StatusCode, Json<Accepted>), Problem> {
    let now = Timestamp::now();
    let mut rejections: Vec<Rejection> = Vec::new();
    let mut messages: Vec<Outgoing> = Vec::new();
    let mut accepted = 0;
    let mut index = 0;
    report::decode(&body, |raw, decoded| {
        match decoded.and_then(|report| check_time(report, index, now).map(|()| report)) {
            Ok(report) => {
                accepted += 1;
                add(&mut messages, report, raw);
            }
            Err(rejection) => rejections.push(rejection),
        }
        index += 1;
    });
    for rejection in &rejections {
        app.metrics.rejected(rejection.reason);
    }
    store(&app, messages).await?;
    let record =
        |r: &Rejection| RejectionRecord { index: r.index, reason: r.reason.as_str(), message: r.message.clone() };
    let errors: Vec<RejectionRecord> = rejections.iter().take(REJECTIONS_MAX).map(record).collect();
    if accepted == 0 {
        let detail = match rejections.as_slice() {
            [only] => only.message.clone(),
            _ => format!("none of {} reports was taken in", rejections.len()),
        };
        return Err(Problem::new(422, "no good report", detail).with_errors(errors));
    }
    Ok((StatusCode::ACCEPTED, Json(Accepted { accepted, rejected: rejections.len(), errors })))
}

/// Consecutive reports of one address. Reports keep their order: what comes later than others
/// of its application may be too late.
struct Outgoing {
    tenant: String,
    application: String,
    stage: String,
    body: Vec<u8>,
}

/// Appends a report, as one line, to the last message, or to a new one.
fn add(messages: &mut Vec<Outgoing>, report: &Report<'_>, raw: &[u8]) {
    let fits = |last: &Outgoing| {
        last.tenant == *report.tenant
            && last.application == *report.application
            && last.stage == *report.stage
            && last.body.len() + raw.len() < MESSAGE_BYTES
    };
    if !messages.last().is_some_and(fits) {
        messages.push(Outgoing {
            tenant: report.tenant.to_string(),
            application: report.application.to_string(),
            stage: report.stage.to_string(),
            body: Vec::new(),
        });
    }
    if let Some(last) = messages.last_mut() {
        if !last.body.is_empty() {
            last.body.push(b'\n');
        }
        // JSON has no raw line ends inside of text, so they can only stand between its tokens.
        last.body.extend(raw.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
    }
}

async fn store(app: &App, messages: Vec<Outgoing>) -> Result<(), Problem> {
    match &app.inlet {
        Inlet::Journal(appended) => {
            let row = |m: Outgoing| (m.tenant, m.application, String::from_utf8_lossy(&m.body).into_owned());
            app.store.journal_append(messages.into_iter().map(row).collect()).await?;
            appended.notify_one();
        }
        Inlet::Nats(_, context) => {
            let mut acknowledgements = Vec::new();
            for message in messages {
                let subject = format!("qoa.reports.{}.{}.{}", message.tenant, message.application, message.stage);
                let sent = context.publish(subject, message.body.into()).await;
                acknowledgements.push(sent.map_err(|error| Problem::unavailable(&error))?);
            }
            for acknowledgement in acknowledgements {
                acknowledgement.await.map_err(|error| Problem::unavailable(&error))?;
            }
        }
    }
    Ok(())
}
