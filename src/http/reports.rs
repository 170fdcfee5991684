//! `POST /v1/reports`.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::{App, Inlet, Problem};
use crate::ingest::check_time;
use crate::report::{self, Rejection};
use crate::time::Timestamp;

/// Rejections that an answer lists at most.
const REJECTIONS_MAX: usize = 100;
/// Reports of one address travel together, in messages of at most this size.
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
    post, path = "/v1/reports", tag = "reports",
    request_body(content = String, content_type = "application/json", description = "See `qualm schema report`"),
    responses(
        (status = 202, body = Accepted, description = "At least one report was taken in"),
        (status = 422, body = Problem, description = "None was"),
    )
)]
pub(super) async fn post(State(app): State<App>, body: Bytes) -> Result<(StatusCode, Json<Accepted>), Problem> {
    let now = Timestamp::now();
    let mut rejections: Vec<Rejection> = Vec::new();
    let mut messages: BTreeMap<[String; 3], Vec<Vec<u8>>> = BTreeMap::new();
    let mut accepted = 0;
    let mut index = 0;
    report::decode(&body, |raw, decoded| {
        match decoded.and_then(|report| check_time(&report, index, now).map(|()| report)) {
            Ok(report) => {
                accepted += 1;
                let address = [&report.tenant, &report.application, &report.stage].map(ToString::to_string);
                add(messages.entry(address).or_default(), raw);
            }
            Err(rejection) => rejections.push(rejection),
        }
        index += 1;
    });
    for rejection in &rejections {
        app.metrics.rejected(rejection.reason);
    }
    store(&app.inlet, &app, messages).await?;
    let record = |r: &Rejection| RejectionRecord { index: r.index, reason: r.reason.as_str(), message: r.message.clone() };
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

/// Appends a report, as one line, to the last message that has room for it.
fn add(messages: &mut Vec<Vec<u8>>, raw: &[u8]) {
    if messages.last().is_none_or(|last| last.len() + raw.len() > MESSAGE_BYTES) {
        messages.push(Vec::new());
    }
    if let Some(last) = messages.last_mut() {
        if !last.is_empty() {
            last.push(b'\n');
        }
        // JSON has no raw line ends inside of text, so they can only stand between its tokens.
        last.extend(raw.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
    }
}

async fn store(inlet: &Inlet, app: &App, messages: BTreeMap<[String; 3], Vec<Vec<u8>>>) -> Result<(), Problem> {
    match inlet {
        Inlet::Journal(appended) => {
            let texts = messages.into_iter().flat_map(|([tenant, application, _], bodies)| {
                let text = |body: Vec<u8>| (tenant.clone(), application.clone(), String::from_utf8_lossy(&body).into_owned());
                bodies.into_iter().map(text).collect::<Vec<_>>()
            });
            app.store.journal_append(texts.collect()).await?;
            appended.notify_one();
        }
        Inlet::Nats(_, context) => {
            let mut acknowledgements = Vec::new();
            for ([tenant, application, stage], bodies) in messages {
                for body in bodies {
                    let subject = format!("qoa.reports.{tenant}.{application}.{stage}");
                    let sent = context.publish(subject, body.into()).await;
                    acknowledgements.push(sent.map_err(|error| Problem::unavailable(&error))?);
                }
            }
            for acknowledgement in acknowledgements {
                acknowledgement.await.map_err(|error| Problem::unavailable(&error))?;
            }
        }
    }
    Ok(())
}
