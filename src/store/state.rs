//! Reading the engine's state back.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use sqlx::Row;

use super::{Result, Store, number, query, text, time};
use crate::engine::{ApplicationRow, Engine, IdRow, JoinRow, MemoryRow, PaneRow, SeriesRow, Standing, standings};
use crate::store::StoreError;

/// Where to go on in a source.
#[derive(Debug, Default, Clone)]
pub struct Restored {
    /// The last message that all applications have taken in.
    pub position: i64,
    /// For each (tenant, application), the last message that it has taken in.
    pub applications: BTreeMap<(String, String), i64>,
}

impl Store {
    /// Up to where a source has been read.
    pub async fn positions(&self, source: &str) -> Result<Restored> {
        let sql = "SELECT position, shards FROM positions WHERE source = $1";
        let rows = query(sql, [source.into()]).fetch_all(&self.read).await?;
        let positions = rows.iter().map(|row| number(row, "position")).collect::<Result<Vec<i64>>>()?;
        let complete = rows.first().map(|row| number(row, "shards")).transpose()?;
        // With a shard missing, nothing is known of its messages.
        let position = match complete {
            Some(shards) if positions.len() as i64 >= shards => positions.iter().min().copied().unwrap_or(0),
            _ => 0,
        };
        let sql = "SELECT tenant, application, position FROM applications WHERE source = $1";
        let mut applications = BTreeMap::new();
        for row in query(sql, [source.into()]).fetch_all(&self.read).await? {
            applications.insert((text(&row, "tenant")?, text(&row, "application")?), number(&row, "position")?);
        }
        Ok(Restored { position, applications })
    }

    /// The sources whose state is here.
    pub async fn sources(&self) -> Result<Vec<String>> {
        let rows = query("SELECT DISTINCT source FROM positions ORDER BY source", []).fetch_all(&self.read).await?;
        rows.iter().map(|row| text(row, "source")).collect()
    }

    /// Forgets the engine's state, but neither contracts nor violations.
    pub async fn forget_state(&self) -> Result<()> {
        let mut transaction = self.write.begin().await?;
        for table in [
            "positions",
            "applications",
            "series",
            "panes",
            "memories",
            "seen_ids",
            "joins",
            "slices",
            "slice_hours",
            "rolled_up",
            "tallies",
            "steps",
            "truths",
        ] {
            query(&format!("DELETE FROM {table}"), []).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Forgets positions of shards beyond the number there are now.
    pub async fn trim_positions(&self, source: &str, shards: i64) -> Result<()> {
        let sql = "DELETE FROM positions WHERE source = $1 AND shard >= $2";
        query(sql, [source.into(), shards.into()]).execute(&self.write).await?;
        Ok(())
    }

    /// Gives each engine the state of the applications that are its own. Contracts must be set.
    pub async fn restore(&self, engines: &mut [Engine], shard_of: impl Fn(&str, &str) -> usize) -> Result<()> {
        for row in query("SELECT tenant, application, clock_at, needed_at, state FROM applications", [])
            .fetch_all(&self.read)
            .await?
        {
            let row = ApplicationRow {
                tenant: text(&row, "tenant")?,
                application: text(&row, "application")?,
                clock: time(&row, "clock_at")?,
                needed_from: time(&row, "needed_at")?,
                state: text(&row, "state")?,
            };
            let engine = &mut engines[shard_of(&row.tenant, &row.application)];
            engine.restore_application(&row).map_err(StoreError::unreadable("applications"))?;
        }
        let sql = "SELECT tenant, application, contract, bundle, chunk, state FROM series ORDER BY contract, tenant, application, bundle, chunk";
        let mut rows = query(sql, []).fetch(&self.read);
        while let Some(row) = rows.try_next().await? {
            let row = SeriesRow {
                tenant: text(&row, "tenant")?,
                application: text(&row, "application")?,
                contract: text(&row, "contract")?,
                bundle: text(&row, "bundle")?,
                chunk: number(&row, "chunk")? as u32,
                state: text(&row, "state")?,
            };
            let engine = &mut engines[shard_of(&row.tenant, &row.application)];
            engine.restore_series(&row).map_err(StoreError::unreadable("series"))?;
        }
        drop(rows);
        let sql = "SELECT tenant, application, contract, objective, input, series, labels, memory FROM memories";
        let mut rows = query(sql, []).fetch(&self.read);
        while let Some(row) = rows.try_next().await? {
            let row = MemoryRow {
                tenant: text(&row, "tenant")?,
                application: text(&row, "application")?,
                contract: text(&row, "contract")?,
                objective: text(&row, "objective")?,
                input: text(&row, "input")?,
                key: text(&row, "series")?,
                labels: text(&row, "labels")?,
                memory: text(&row, "memory")?,
            };
            let engine = &mut engines[shard_of(&row.tenant, &row.application)];
            engine.restore_memory(&row).map_err(StoreError::unreadable("memories"))?;
        }
        drop(rows);
        let sql = "SELECT p.tenant, p.application, contract, bundle, chunk, start_at, p.state FROM panes p \
                   JOIN applications a ON a.tenant = p.tenant AND a.application = p.application \
                   WHERE start_at >= a.needed_at ORDER BY contract, p.tenant, p.application, bundle, chunk, start_at";
        let mut rows = query(sql, []).fetch(&self.read);
        while let Some(row) = rows.try_next().await? {
            let row = PaneRow {
                tenant: text(&row, "tenant")?,
                application: text(&row, "application")?,
                contract: text(&row, "contract")?,
                bundle: text(&row, "bundle")?,
                chunk: number(&row, "chunk")? as u32,
                start: time(&row, "start_at")?,
                state: row.try_get("state")?,
            };
            let engine = &mut engines[shard_of(&row.tenant, &row.application)];
            engine.restore_panes(&row).map_err(StoreError::unreadable("panes"))?;
        }
        drop(rows);
        // Panes of slices, and minutes, that are open still; both are a minute wide at most.
        let lateness = engines.iter().map(Engine::lateness).max().unwrap_or_default();
        let sql = "SELECT s.tenant, s.application, stage, instance, slice, attribute, test, start_at, width, samples, total, squares, least, greatest \
                   FROM slices s JOIN applications a ON a.tenant = s.tenant AND a.application = s.application \
                   WHERE s.start_at > a.clock_at - $1 - 60000000 AND s.start_at + s.width > a.clock_at - $1 ORDER BY test";
        let mut rows = query(sql, [lateness.as_micros().into()]).fetch(&self.read);
        while let Some(row) = rows.try_next().await? {
            let row = super::slices::read(&row)?;
            engines[shard_of(&row.tenant, &row.application)].restore_slice(&row);
        }
        drop(rows);
        let sql = "SELECT t.tenant, t.application, contract, objective, start_at, met, breached, no_data, insufficient, error \
                   FROM tallies t JOIN applications a ON a.tenant = t.tenant AND a.application = t.application \
                   WHERE t.start_at > a.clock_at - $1 - 60000000";
        for row in query(sql, [lateness.as_micros().into()]).fetch_all(&self.read).await? {
            let row = super::slices::read_tally(&row)?;
            engines[shard_of(&row.tenant, &row.application)].restore_tally(&row);
        }
        let sql = "SELECT tenant, application, newest_at, ids FROM seen_ids ORDER BY tenant, application, position";
        for row in query(sql, []).fetch_all(&self.read).await? {
            let row = IdRow {
                tenant: text(&row, "tenant")?,
                application: text(&row, "application")?,
                newest: time(&row, "newest_at")?,
                ids: row.try_get("ids")?,
            };
            engines[shard_of(&row.tenant, &row.application)].restore_ids(&row);
        }
        let sql = "SELECT tenant, application, newest_at, entries FROM joins ORDER BY tenant, application, position";
        for row in query(sql, []).fetch_all(&self.read).await? {
            let newest = time(&row, "newest_at")?;
            let row = JoinRow {
                tenant: text(&row, "tenant")?,
                application: text(&row, "application")?,
                newest,
                needed_from: newest,
                entries: text(&row, "entries")?,
            };
            let engine = &mut engines[shard_of(&row.tenant, &row.application)];
            engine.restore_joins(&row).map_err(StoreError::unreadable("joins"))?;
        }
        Ok(())
    }

    /// Where the series of a contract stand, for its status.
    pub async fn series_of(&self, contract: &str) -> Result<Vec<Standing>> {
        let sql = "SELECT state FROM series WHERE contract = $1 ORDER BY bundle, chunk LIMIT 10000";
        let rows = query(sql, [contract.into()]).fetch_all(&self.read).await?;
        let mut found = Vec::new();
        for row in &rows {
            found.extend(standings(&text(row, "state")?).map_err(StoreError::unreadable("series"))?);
        }
        found.sort_by_cached_key(|one| (one.objective.clone(), one.input.clone(), one.labels.to_string()));
        found.truncate(10_000);
        Ok(found)
    }

    /// Objective, labels and memory of the series of a contract that remember something.
    pub async fn memories_of(&self, contract: &str, limit: i64) -> Result<Vec<(String, serde_json::Value, String)>> {
        let sql = "SELECT objective, labels, memory FROM memories WHERE contract = $1 ORDER BY objective, input, series LIMIT $2";
        let rows = query(sql, [contract.into(), limit.into()]).fetch_all(&self.read).await?;
        let read = |row| Ok((text(row, "objective")?, super::json(row, "memories", "labels")?, text(row, "memory")?));
        rows.iter().map(read).collect()
    }

    /// Tenant, name and state of all applications that are watched.
    pub async fn applications(&self) -> Result<Vec<(String, String, serde_json::Value)>> {
        let sql = "SELECT tenant, application, state FROM applications ORDER BY tenant, application LIMIT 10000";
        let rows = query(sql, []).fetch_all(&self.read).await?;
        let read =
            |row| Ok((text(row, "tenant")?, text(row, "application")?, super::json(row, "applications", "state")?));
        rows.iter().map(read).collect()
    }

    /// The same for the rules of a contract, which stand for themselves.
    pub async fn rules_of(&self, contract: &str, tenant: &str, application: &str) -> Result<Vec<Standing>> {
        let sql = "SELECT state FROM applications WHERE tenant = $1 AND application = $2";
        let row = query(sql, [tenant.into(), application.into()]).fetch_optional(&self.read).await?;
        let state = row.map(|row| super::json(&row, "applications", "state")).transpose()?.unwrap_or_default();
        let rules = state["contracts"][contract]["rules"].as_object().cloned().unwrap_or_default();
        let read = |(objective, mut state): (String, serde_json::Value)| {
            let lifecycle = serde_json::from_value(state["lifecycle"].take());
            let lifecycle = lifecycle.map_err(StoreError::unreadable("applications"))?;
            Ok(Standing { objective, input: String::new(), labels: serde_json::json!({}), lifecycle })
        };
        rules.into_iter().map(read).collect()
    }
}
