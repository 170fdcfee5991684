//! Panes of slices: what every stage, instance and label set observed. And verdicts by minute.

use sqlx::Row;
use sqlx::any::AnyRow;

use super::{Arg, Result, Store, insert_many, number, query, text, time};
use crate::engine::{SliceRow, Sums, TallyRow};
use crate::time::Span;

pub(super) async fn write(connection: &mut sqlx::AnyConnection, rows: &[SliceRow]) -> Result<()> {
    let rows = rows.iter().map(|row| {
        [
            Arg::from(row.tenant.as_str()),
            row.application.as_str().into(),
            row.attribute.as_str().into(),
            row.start.into(),
            row.width.as_micros().into(),
            row.stage.as_str().into(),
            row.instance.as_str().into(),
            row.slice.as_str().into(),
            row.test.as_str().into(),
            (row.sums.samples as i64).into(),
            row.sums.total.into(),
            row.sums.squares.into(),
            row.sums.least.into(),
            row.sums.greatest.into(),
        ]
    });
    let head = "slices (tenant, application, attribute, start_at, width, stage, instance, slice, test, samples, total, squares, least, greatest)";
    let tail = "ON CONFLICT (tenant, application, attribute, start_at, slice, test, width) DO UPDATE SET samples = excluded.samples, \
                total = excluded.total, squares = excluded.squares, least = excluded.least, greatest = excluded.greatest";
    insert_many(connection, head, tail, rows.collect()).await
}

impl Store {
    /// Panes of the slices of an application that have a label of this value.
    pub async fn slices_with(
        &self,
        tenant: &str,
        application: &str,
        label: &str,
        value: &str,
    ) -> Result<Vec<SliceRow>> {
        let sql = "SELECT tenant, application, stage, instance, slice, attribute, test, start_at, width, samples, total, squares, least, greatest \
                   FROM slices WHERE tenant = $1 AND application = $2 AND slice LIKE $3 ORDER BY attribute, start_at";
        let pair = format!("{}:{}", serde_json::Value::from(label), serde_json::Value::from(value));
        let rows =
            query(sql, [tenant.into(), application.into(), format!("%{pair}%").into()]).fetch_all(&self.read).await?;
        // LIKE takes _ and % for any text.
        rows.iter().map(read).filter(|row| !row.as_ref().is_ok_and(|row| !row.slice.contains(&pair))).collect()
    }
}

pub(super) fn read(row: &AnyRow) -> Result<SliceRow> {
    Ok(SliceRow {
        tenant: text(row, "tenant")?,
        application: text(row, "application")?,
        stage: text(row, "stage")?,
        instance: text(row, "instance")?,
        slice: text(row, "slice")?,
        attribute: text(row, "attribute")?,
        test: text(row, "test")?,
        start: time(row, "start_at")?,
        width: Span::from_micros(number(row, "width")?),
        sums: Sums {
            samples: number(row, "samples")? as u64,
            total: row.try_get("total")?,
            squares: row.try_get("squares")?,
            least: row.try_get("least")?,
            greatest: row.try_get("greatest")?,
        },
    })
}

pub(super) async fn write_tallies(connection: &mut sqlx::AnyConnection, rows: &[TallyRow]) -> Result<()> {
    let rows = rows.iter().map(|row| {
        let [met, breached, no_data, insufficient, error] = row.counts.map(|count| Arg::from(count as i64));
        [
            Arg::from(row.tenant.as_str()),
            row.application.as_str().into(),
            row.contract.as_str().into(),
            row.objective.as_str().into(),
            row.start.into(),
            met,
            breached,
            no_data,
            insufficient,
            error,
        ]
    });
    let head =
        "tallies (tenant, application, contract, objective, start_at, met, breached, no_data, insufficient, error)";
    let tail = "ON CONFLICT (contract, objective, start_at, tenant, application) DO UPDATE SET met = excluded.met, \
                breached = excluded.breached, no_data = excluded.no_data, insufficient = excluded.insufficient, error = excluded.error";
    insert_many(connection, head, tail, rows.collect()).await
}

pub(super) fn read_tally(row: &AnyRow) -> Result<TallyRow> {
    let mut counts = [0; 5];
    for (count, verdict) in counts.iter_mut().zip(crate::engine::Verdict::ALL) {
        *count = number(row, verdict.as_str())? as u64;
    }
    Ok(TallyRow {
        tenant: text(row, "tenant")?,
        application: text(row, "application")?,
        contract: text(row, "contract")?,
        objective: text(row, "objective")?,
        start: time(row, "start_at")?,
        counts,
    })
}
