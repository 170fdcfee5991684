//! Forgetting what is old.

use serde::Deserialize;

use super::{Result, Store, query, text, time};
use crate::time::{Span, Timestamp};

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Sums by stage, instance and labels, by event time before the newest report of their
    /// application. (Panes of series are kept as long as windows need them.)
    pub panes: Span,
    /// Steps of requests and ground truth, by event time before the newest report of all.
    pub steps: Span,
    /// Resolved violations with all that belongs to them, since their end was recorded.
    pub violations: Span,
    /// Deliveries that arrived or were given up.
    pub deliveries: Span,
}

impl Default for Retention {
    fn default() -> Retention {
        let days = |n: i64| Span::seconds(n * 86_400);
        Retention { panes: days(30), steps: days(7), violations: days(365), deliveries: days(30) }
    }
}

/// Panes of slices stay open for so long beyond the newest report, at most.
const OPEN: Span = Span::seconds(600);
const HOUR: Span = Span::seconds(3_600);

impl Store {
    /// Adds up panes of slices by the hour, so that long periods are read fast; the newest hour as far as
    /// its panes have closed.
    pub async fn roll_up(&self) -> Result<()> {
        let sql = "SELECT a.tenant AS tenant, a.application AS application, clock_at, \
                   COALESCE(until_at, (SELECT MIN(start_at) FROM slices s WHERE s.tenant = a.tenant AND s.application = a.application)) AS from_at \
                   FROM applications a LEFT JOIN rolled_up r ON r.tenant = a.tenant AND r.application = a.application";
        for row in query(sql, []).fetch_all(&self.read).await? {
            let (tenant, application) = (text(&row, "tenant")?, text(&row, "application")?);
            let Some(from) = super::maybe_time(&row, "from_at")? else { continue };
            let until = (time(&row, "clock_at")? - OPEN).floor(OPEN);
            let mut hour = from.floor(HOUR);
            while hour < until {
                let mut transaction = self.write.begin().await?;
                let sql = "INSERT INTO slice_hours (tenant, application, attribute, start_at, slice, test, samples, total, squares, least, greatest) \
                           SELECT tenant, application, attribute, CAST($3 AS BIGINT), slice, test, \
                           CAST(SUM(samples) AS BIGINT), SUM(total), SUM(squares), MIN(least), MAX(greatest) FROM slices \
                           WHERE tenant = $1 AND application = $2 AND start_at >= $3 AND start_at < $4 \
                           GROUP BY tenant, application, attribute, slice, test \
                           ON CONFLICT (tenant, application, attribute, start_at, slice, test) DO UPDATE SET samples = excluded.samples, \
                           total = excluded.total, squares = excluded.squares, least = excluded.least, greatest = excluded.greatest";
                let key = [tenant.as_str().into(), application.as_str().into()];
                let [a, b] = key.clone();
                let end = (hour + HOUR).min(until);
                let args = [a, b, hour.into(), end.into()];
                query(sql, args).execute(&mut *transaction).await?;
                let sql = "INSERT INTO rolled_up (tenant, application, until_at) VALUES ($1, $2, $3) \
                           ON CONFLICT (tenant, application) DO UPDATE SET until_at = excluded.until_at";
                let [a, b] = key;
                query(sql, [a, b, end.into()]).execute(&mut *transaction).await?;
                transaction.commit().await?;
                hour = hour + HOUR;
            }
        }
        Ok(())
    }

    /// Forgets what is older than it is kept; returns how many rows went.
    pub async fn forget_old(&self, retention: Retention, now: Timestamp) -> Result<u64> {
        let panes = "DELETE FROM panes WHERE start_at < (SELECT MAX(needed_at) FROM applications) AND EXISTS (SELECT 1 FROM applications a \
                     WHERE a.tenant = panes.tenant AND a.application = panes.application AND panes.start_at < a.needed_at)";
        let mut gone = query(panes, []).execute(&self.write).await?.rows_affected();
        for row in query("SELECT tenant, application, clock_at FROM applications", []).fetch_all(&self.read).await? {
            let (tenant, application, clock) =
                (text(&row, "tenant")?, text(&row, "application")?, time(&row, "clock_at")?);
            for (table, column, kept) in [
                ("slices", "start_at", retention.panes),
                ("slice_hours", "start_at", retention.panes),
                ("steps", "end_at", retention.steps),
                ("truths", "at", retention.steps),
            ] {
                let sql = format!("DELETE FROM {table} WHERE tenant = $1 AND application = $2 AND {column} < $3");
                let args = [tenant.as_str().into(), application.as_str().into(), (clock - kept).into()];
                gone += query(&sql, args).execute(&self.write).await?.rows_affected();
            }
        }
        let sql = "DELETE FROM tallies WHERE start_at < (SELECT MAX(clock_at) FROM applications) - $1";
        gone += query(sql, [retention.violations.as_micros().into()]).execute(&self.write).await?.rows_affected();
        // Transitions tell when an end was recorded, so they go last.
        let old = "SELECT violation FROM transitions WHERE state = 'resolved' AND recorded_at < $1";
        let statements = [
            format!("DELETE FROM outcomes WHERE action IN (SELECT id FROM actions WHERE violation IN ({old}))"),
            format!("DELETE FROM actions WHERE violation IN ({old})"),
            format!("DELETE FROM deliveries WHERE state <> 'pending' AND violation IN ({old})"),
            format!("DELETE FROM violations WHERE id IN ({old})"),
            format!("DELETE FROM transitions WHERE violation IN ({old})"),
        ];
        for sql in statements {
            gone += query(&sql, [(now - retention.violations).into()]).execute(&self.write).await?.rows_affected();
        }
        let sql = "DELETE FROM deliveries WHERE done_at < $1";
        gone += query(sql, [(now - retention.deliveries).into()]).execute(&self.write).await?.rows_affected();
        Ok(gone)
    }
}
