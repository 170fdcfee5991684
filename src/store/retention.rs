//! Forgetting what is old.

use serde::Deserialize;

use super::{Result, Store, query};
use crate::time::{Span, Timestamp};

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Panes, by event time.
    pub panes: Span,
    /// Resolved violations with all that belongs to them, by event time.
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
        let old = "SELECT id FROM violations WHERE state = 'resolved' AND resolved_at < $1";
        let statements = [
            ("DELETE FROM panes WHERE start_at < $1".to_owned(), now - retention.panes),
            (format!("DELETE FROM outcomes WHERE action IN (SELECT id FROM actions WHERE violation IN ({old}))"), now - retention.violations),
            (format!("DELETE FROM actions WHERE violation IN ({old})"), now - retention.violations),
            (format!("DELETE FROM transitions WHERE violation IN ({old})"), now - retention.violations),
            (format!("DELETE FROM deliveries WHERE state <> 'pending' AND violation IN ({old})"), now - retention.violations),
            ("DELETE FROM violations WHERE state = 'resolved' AND resolved_at < $1".to_owned(), now - retention.violations),
            ("DELETE FROM deliveries WHERE done_at < $1".to_owned(), now - retention.deliveries),
        ];
        let mut gone = 0;
        for (sql, before) in statements {
            gone += query(&sql, [before.into()]).execute(&self.write).await?.rows_affected();
        }
        Ok(gone)
    }
}
