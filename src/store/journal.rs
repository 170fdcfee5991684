//! The journal: stands in for JetStream where there is no NATS.

use super::{Result, Store, number, query, text};

/// One message of the journal: reports of one application.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its place; grows.
    pub position: i64,
    /// Whose.
    pub tenant: String,
    /// Which application.
    pub application: String,
    /// Reports, one a line.
    pub body: String,
}

impl Store {
    /// Appends messages (tenant, application, body), all or nothing.
    pub async fn journal_append(&self, messages: Vec<(String, String, String)>) -> Result<()> {
        let mut transaction = self.write.begin().await?;
        let rows =
            messages.into_iter().map(|(tenant, application, body)| [tenant.into(), application.into(), body.into()]);
        let head = "journal (tenant, application, body)";
        super::insert_many(&mut transaction, head, "", rows.collect()).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Messages after a position, in order.
    pub async fn journal_after(&self, position: i64, limit: i64) -> Result<Vec<Entry>> {
        let sql =
            "SELECT position, tenant, application, body FROM journal WHERE position > $1 ORDER BY position LIMIT $2";
        let rows = query(sql, [position.into(), limit.into()]).fetch_all(&self.read).await?;
        let read = |row| {
            Ok(Entry {
                position: number(row, "position")?,
                tenant: text(row, "tenant")?,
                application: text(row, "application")?,
                body: text(row, "body")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Forgets messages up to a position that the saved state holds already.
    pub async fn journal_trim(&self, position: i64) -> Result<()> {
        query("DELETE FROM journal WHERE position <= $1", [position.into()]).execute(&self.write).await?;
        Ok(())
    }
}
