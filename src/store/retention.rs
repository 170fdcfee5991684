//! Forgetting what is old.

use serde::Deserialize;

use super::{Result, Store, query};
use crate::time::{Span, Timestamp};

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Panes, by event time before the newest report of their application. Those that windows
    /// still need are kept.
    pub panes: Span,
    /// Resolved violations with all that belongs to them, since their end was recorded.
    pub violations: Span,
    /// Deliveries that arrived or were given up.
    pub deliveries: Span,
}

impl Default for Retention {
    fn default() -> Retention {
        let days = |n: i64| Span::seconds(n * 86_400);
        Retention { panes: days(30), violations: days(365), deliveries: days(30) }
    }
}

impl Store {
    /// Forgets what is older than it is kept; returns how many rows went.
    pub async fn forget_old(&self, retention: Retention, now: Timestamp) -> Result<u64> {
        let panes = "DELETE FROM panes WHERE start_at < (SELECT MAX(clock_at) FROM applications) - $1 AND EXISTS (SELECT 1 FROM applications a WHERE a.tenant = panes.tenant \
                     AND a.application = panes.application AND panes.start_at < a.clock_at - $1 AND panes.start_at < a.needed_at)";
        let mut gone = query(panes, [retention.panes.as_micros().into()]).execute(&self.write).await?.rows_affected();
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
