//! Reading panes of slices: by slice, or by component and pane.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::context::Context;
use super::{ExplainError, Result};
use crate::contract::Filter;
use crate::engine::{Standing, Sums};
use crate::report::{Dimensions, Text};
use crate::store::{Asked, AskedRow, StoreError};
use crate::time::{Span, Timestamp};

pub(super) const HOUR: Span = Span::seconds(3_600);

/// Label to value; with `stage` and `instance`.
pub type Labels = BTreeMap<String, String>;

/// What one slice observed of one attribute over a period.
#[derive(Debug, Clone)]
pub(super) struct Fact {
    pub labels: Labels,
    pub sums: Sums,
    /// Observations that break a test, or by class, or by true and predicted class.
    pub tests: BTreeMap<String, u64>,
}

/// Whose facts.
#[derive(Debug, Clone)]
pub(super) struct Of<'a> {
    pub tenant: &'a str,
    pub application: &'a str,
}

pub(super) fn labels_of(slice: &Json) -> Labels {
    let pairs = slice.as_object().into_iter().flatten();
    pairs.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

/// Contract and standing of the series that a question finds, whatever the objective, in the order of labels.
pub(super) async fn standings(context: &mut Context<'_>, asked: Asked) -> Result<Vec<(String, Standing)>> {
    let mut found = Vec::new();
    for row in context.ask(asked).await? {
        let contract = row.text("contract")?;
        let of_row = crate::engine::standings(&row.text("state")?).map_err(StoreError::unreadable("series"))?;
        found.extend(of_row.into_iter().map(|one| (contract.clone(), one)));
    }
    found.sort_by_cached_key(|(contract, one)| (contract.clone(), one.objective.clone(), one.labels.to_string()));
    Ok(found)
}

fn sums_of(row: &AskedRow) -> Result<Sums> {
    Ok(Sums {
        samples: row.count("samples")?,
        total: row.real("total")?,
        squares: row.real("squares")?,
        least: row.real("least")?,
        greatest: row.real("greatest")?,
    })
}

const SUMS: &str = "CAST(SUM(samples) AS BIGINT) AS samples, SUM(total) AS total, SUM(squares) AS squares, \
                    MIN(least) AS least, MAX(greatest) AS greatest";

impl Context<'_> {
    /// What each slice observed of an attribute in `from..until`, panes that start there.
    pub async fn by_slice(
        &mut self,
        name: &str,
        of: &Of<'_>,
        attribute: &str,
        period: (Timestamp, Timestamp),
    ) -> Result<Vec<Fact>> {
        self.by_slice_and_test(name, of, attribute, period, true).await
    }

    /// The same without tests and classes.
    pub async fn by_slice_alone(
        &mut self,
        name: &str,
        of: &Of<'_>,
        attribute: &str,
        period: (Timestamp, Timestamp),
    ) -> Result<Vec<Fact>> {
        self.by_slice_and_test(name, of, attribute, period, false).await
    }

    async fn by_slice_and_test(
        &mut self,
        name: &str,
        of: &Of<'_>,
        attribute: &str,
        (from, until): (Timestamp, Timestamp),
        tests: bool,
    ) -> Result<Vec<Fact>> {
        let hours = self.hours(of, (from, until)).await?;
        const COLUMNS: &str = "slice, test, samples, total, squares, least, greatest";
        let of_table = |table: &str, first: usize| {
            let tests = if tests { "" } else { " AND test = ''" };
            let whose = format!("tenant = $1 AND application = $2 AND attribute = $3{tests}");
            format!(
                "SELECT {COLUMNS} FROM {table} WHERE {whose} AND start_at >= ${first} AND start_at < ${}",
                first + 1
            )
        };
        // Whole hours, and the panes before and after them.
        let (parts, times): (Vec<String>, Vec<Timestamp>) = match hours {
            None => (vec![of_table("slices", 4)], vec![from, until]),
            Some((first, last)) => (
                vec![of_table("slices", 4), of_table("slice_hours", 6), of_table("slices", 8)],
                vec![from, first, first, last, last, until],
            ),
        };
        let parts = parts.join(" UNION ALL ");
        let sql = format!("SELECT slice, test, {SUMS} FROM ({parts}) AS p GROUP BY slice, test ORDER BY slice, test");
        let arguments: [Json; 3] = [of.tenant.into(), of.application.into(), attribute.into()];
        let times = times.into_iter().map(Json::from);
        let rows = self.ask(Asked::new(name, sql, arguments.into_iter().chain(times))).await?;
        let mut facts: Vec<Fact> = Vec::new();
        for row in &rows {
            let (test, sums) = (row.text("test")?, sums_of(row)?);
            if test.is_empty() {
                facts.push(Fact { labels: labels_of(&row.json("slice")?), sums, tests: BTreeMap::new() });
            } else if let Some(fact) = facts.last_mut() {
                // Rows come by slice, the one without a test first.
                fact.tests.insert(test, sums.samples);
            }
        }
        Ok(facts)
    }

    /// Since when an attribute is stored.
    pub async fn stored_since(&mut self, of: &Of<'_>, attribute: &str) -> Result<Option<Timestamp>> {
        let whose = "tenant = $1 AND application = $2 AND attribute = $3";
        let sql = format!(
            "SELECT MIN(start_at) AS first FROM (SELECT MIN(start_at) AS start_at FROM slices WHERE {whose} \
             UNION ALL SELECT MIN(start_at) FROM slice_hours WHERE {whose}) AS p"
        );
        let arguments: [Json; 3] = [of.tenant.into(), of.application.into(), attribute.into()];
        let rows = self.ask(Asked::new(&format!("since when {attribute} is stored"), sql, arguments)).await?;
        Ok(rows.first().map(|row| row.maybe_time("first")).transpose()?.flatten())
    }

    /// Which hours of a period are added up: these are read instead of their panes.
    async fn hours(
        &mut self,
        of: &Of<'_>,
        (from, until): (Timestamp, Timestamp),
    ) -> Result<Option<(Timestamp, Timestamp)>> {
        let first = super::context::ceiling(from, HOUR);
        if first + HOUR > until {
            return Ok(None);
        }
        let sql = "SELECT until_at FROM rolled_up WHERE tenant = $1 AND application = $2";
        let rows = self.store.ask(&Asked::new("", sql, [of.tenant.into(), of.application.into()])).await?;
        let Some(rolled) = rows.first().map(|row| row.time("until_at")).transpose()? else { return Ok(None) };
        // The newest hour may be added up in part; it is read if the period holds that part.
        let last = if until >= rolled { rolled } else { until.floor(HOUR) };
        Ok((first < last).then_some((first, last)))
    }

    /// The attributes that an application ever reported, in order.
    pub async fn attributes(&mut self, of: &Of<'_>) -> Result<Vec<String>> {
        let sql = "SELECT MIN(attribute) AS next FROM slices WHERE tenant = $1 AND application = $2 AND attribute > $3";
        let mut found: Vec<String> = Vec::new();
        loop {
            let last = found.last().map_or("", String::as_str);
            let asked = Asked::new("", sql, [of.tenant.into(), of.application.into(), last.into()]);
            let rows = self.store.ask(&asked).await?;
            match rows.first().map(|row| row.maybe("next")).transpose()?.flatten() {
                Some(next) => found.push(next),
                None => return Ok(found),
            }
        }
    }

    /// What each component observed of attributes, pane by pane.
    pub async fn by_component(
        &mut self,
        name: &str,
        of: &Of<'_>,
        attributes: &[String],
        (from, until): (Timestamp, Timestamp),
    ) -> Result<Vec<ComponentPane>> {
        let list: Vec<String> = (0..attributes.len()).map(|index| format!("${}", index + 5)).collect();
        let list = if list.is_empty() { "''".to_owned() } else { list.join(", ") };
        let sql = format!(
            "SELECT attribute, stage, instance, start_at, {SUMS} FROM slices WHERE tenant = $1 AND application = $2 \
             AND start_at >= $3 AND start_at < $4 AND test = '' AND attribute IN ({list}) \
             GROUP BY attribute, stage, instance, start_at ORDER BY attribute, stage, instance, start_at"
        );
        let arguments: [Json; 4] = [of.tenant.into(), of.application.into(), from.into(), until.into()];
        let attributes = attributes.iter().map(|attribute| Json::from(attribute.as_str()));
        let rows = self.ask(Asked::new(name, sql, arguments.into_iter().chain(attributes))).await?;
        let read = |row: &AskedRow| {
            Ok(ComponentPane {
                attribute: row.text("attribute")?,
                stage: row.text("stage")?,
                instance: row.text("instance")?,
                start: row.time("start_at")?,
                sums: sums_of(row)?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// The width of an application's panes.
    pub async fn width(&mut self, of: &Of<'_>, near: Timestamp) -> Result<Span> {
        let sql = "SELECT CAST(MAX(width) AS BIGINT) AS width FROM slices WHERE tenant = $1 AND application = $2 \
                   AND start_at >= $3 AND start_at < $4";
        let around = Span::seconds(600);
        let arguments: [Json; 4] =
            [of.tenant.into(), of.application.into(), (near - around).into(), (near + around).into()];
        let rows = self.store.ask(&Asked::new("", sql, arguments)).await?;
        let width = rows.first().map(|row| row.count("width")).transpose()?.unwrap_or(0);
        if width == 0 {
            return Err(ExplainError::NoData(format!(
                "nothing is stored of what {} observed around {near}",
                of.application
            )));
        }
        Ok(Span::from_micros(width as i64))
    }
}

/// What one component observed of one attribute in one pane.
#[derive(Debug, Clone)]
pub(super) struct ComponentPane {
    pub attribute: String,
    pub stage: String,
    pub instance: String,
    pub start: Timestamp,
    pub sums: Sums,
}

/// Whether a slice passes filters.
pub fn matches(labels: &Labels, filters: &[&Filter]) -> bool {
    let get = |name: &str| labels.get(name).map_or("", String::as_str);
    let others: Vec<(Text<'_>, Text<'_>)> =
        labels.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect();
    let dimensions = Dimensions { stage: get("stage"), instance: get("instance"), labels: &others };
    filters.iter().all(|filter| filter.matches(&dimensions))
}

/// All sums together.
pub(super) fn together<'f>(facts: impl IntoIterator<Item = &'f Sums>) -> Sums {
    facts.into_iter().fold(Sums::NONE, |all, one| all.plus(*one))
}
