//! Steps of requests, and what turned out to be true.

use super::{Arg, Result, insert_many};
use crate::engine::{StepRow, TruthRow};

pub(super) async fn write(connection: &mut sqlx::AnyConnection, steps: &[StepRow], truths: &[TruthRow]) -> Result<()> {
    let rows = steps.iter().map(|row| {
        [
            Arg::from(row.tenant.as_str()),
            row.application.as_str().into(),
            row.id.as_str().into(),
            row.request.clone().into(),
            row.draw.into(),
            row.inference.clone().into(),
            row.start.into(),
            row.end.into(),
            row.slice.as_str().into(),
            row.metrics.as_str().into(),
            row.prediction.clone().into(),
            row.sources.as_str().into(),
            row.upstream.as_str().into(),
        ]
    });
    let head = "steps (tenant, application, id, request, draw, inference, start_at, end_at, slice, metrics, prediction, sources, upstream)";
    // What an instance says of its own step, with its labels, goes before what others pass on.
    let tail = "ON CONFLICT (tenant, application, id) DO UPDATE SET inference = excluded.inference, slice = excluded.slice, \
                metrics = excluded.metrics, prediction = excluded.prediction, sources = excluded.sources, \
                end_at = excluded.end_at, upstream = excluded.upstream WHERE length(excluded.slice) > length(steps.slice)";
    insert_many(connection, head, tail, rows.collect()).await?;
    let rows = truths.iter().map(|row| {
        [
            Arg::from(row.tenant.as_str()),
            row.application.as_str().into(),
            row.inference.as_str().into(),
            row.truth.as_str().into(),
            row.at.into(),
        ]
    });
    let head = "truths (tenant, application, inference, truth, at)";
    insert_many(connection, head, "ON CONFLICT (tenant, application, inference) DO NOTHING", rows.collect()).await
}
