//! Queries that answers rest on: what an answer names is what was asked.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row as _};
use utoipa::ToSchema;

use super::{Result, Store, StoreError};
use crate::time::Timestamp;

/// A query that an answer rests on; anybody with the database can run it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Asked {
    /// What it brings.
    pub name: String,
    /// SQL of both databases, with `$1`, `$2`... for the arguments.
    pub sql: String,
    /// Texts and whole numbers.
    #[schema(value_type = Vec<Object>)]
    pub arguments: Vec<Json>,
}

impl Asked {
    /// A query.
    pub fn new(name: &str, sql: impl Into<String>, arguments: impl IntoIterator<Item = Json>) -> Asked {
        Asked { name: name.to_owned(), sql: sql.into(), arguments: arguments.into_iter().collect() }
    }
}

/// A time as an argument.
impl From<Timestamp> for Json {
    fn from(time: Timestamp) -> Json {
        time.as_micros().into()
    }
}

/// A row that came back.
pub struct Row(AnyRow);

impl Row {
    /// Text; empty for none.
    pub fn text(&self, column: &str) -> Result<String> {
        Ok(self.maybe(column)?.unwrap_or_default())
    }

    /// Text or none.
    pub fn maybe(&self, column: &str) -> Result<Option<String>> {
        Ok(self.0.try_get(column)?)
    }

    /// A count.
    pub fn count(&self, column: &str) -> Result<u64> {
        let number: Option<i64> = self.0.try_get(column)?;
        Ok(number.unwrap_or_default().max(0) as u64)
    }

    /// A number.
    pub fn real(&self, column: &str) -> Result<f64> {
        let number: Option<f64> = self.0.try_get(column)?;
        Ok(number.unwrap_or_default())
    }

    /// A time.
    pub fn time(&self, column: &str) -> Result<Timestamp> {
        super::time(&self.0, column)
    }

    /// A time or none.
    pub fn maybe_time(&self, column: &str) -> Result<Option<Timestamp>> {
        super::maybe_time(&self.0, column)
    }

    /// JSON text, or null.
    pub fn json(&self, column: &str) -> Result<Json> {
        let Some(text) = self.maybe(column)? else { return Ok(Json::Null) };
        serde_json::from_str(&text).map_err(StoreError::unreadable("answer"))
    }
}

impl Store {
    /// Runs a query that an answer names.
    pub async fn ask(&self, asked: &Asked) -> Result<Vec<Row>> {
        let query =
            asked.arguments.iter().fold(
                sqlx::query(AssertSqlSafe(asked.sql.clone())),
                |query, argument| match argument.as_i64() {
                    Some(number) => query.bind(number),
                    None => query.bind(argument.as_str().unwrap_or_default().to_owned()),
                },
            );
        Ok(query.fetch_all(&self.read).await?.into_iter().map(Row).collect())
    }
}
