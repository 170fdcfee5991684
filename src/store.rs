//! What is remembered: contracts, engine state, violations, the outbox.
//!
//! SQLite by default, PostgreSQL by URL, with the same SQL. Everything that the engine writes
//! has a derived id and `ON CONFLICT` says nothing new, so writing twice changes nothing.

use std::time::Duration;

use sqlx::any::{AnyPoolOptions, AnyRow, install_default_drivers};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Any, AnyPool, AssertSqlSafe, Row, SqlSafeStr, SqlStr};

use crate::time::Timestamp;

mod actions;
mod ask;
mod commit;
mod contracts;
mod deliveries;
mod journal;
mod outbox;
mod retention;
mod slices;
mod state;
mod steps;
mod violations;

pub use actions::{ActionQuery, ActionRecord, OUTCOME_STATES, Outcome};
pub use ask::{Asked, Row as AskedRow};
pub use commit::{Checkpoint, Commit};
pub use contracts::ContractVersion;
pub use deliveries::{Attempt, DeliveryRecord, DeliveryState, Due};
pub use journal::Entry;
pub use outbox::{Delivery, action_event, violation_event, webhook_event};
pub use retention::Retention;
pub use state::Restored;
pub use violations::{TransitionRecord, ViolationQuery, ViolationRecord};

/// A fault of the database, or of what is in it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("database migration: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A row that this version cannot read.
    #[error("unreadable row in {table}: {error}")]
    Unreadable {
        /// Where it is.
        table: &'static str,
        /// What is wrong with it.
        error: String,
    },
}

impl StoreError {
    /// For a row of a table that cannot be read, since...
    pub fn unreadable<E: std::fmt::Display>(table: &'static str) -> impl Fn(E) -> StoreError {
        move |error| StoreError::Unreadable { table, error: error.to_string() }
    }
}

type Result<T> = std::result::Result<T, StoreError>;

/// A database.
#[derive(Clone)]
pub struct Store {
    read: AnyPool,
    /// For SQLite a single connection, since it has a single writer.
    write: AnyPool,
}

impl Store {
    /// Opens a database and brings its schema up to date. `sqlite:PATH` makes the file if it
    /// is missing; `postgres://...` needs the database to exist.
    pub async fn open(url: &str) -> Result<Store> {
        install_default_drivers();
        let sqlite = url.starts_with("sqlite:");
        let url = if sqlite && !url.contains('?') { format!("{url}?mode=rwc") } else { url.to_owned() };
        let write = pool(&url, sqlite, true, if sqlite { 1 } else { 4 }).await?;
        let migrations: &[&'static str] = if sqlite {
            &[
                include_str!("../migrations/sqlite/0001_start.sql"),
                include_str!("../migrations/sqlite/0002_predictions.sql"),
                include_str!("../migrations/sqlite/0003_compact.sql"),
                include_str!("../migrations/sqlite/0004_explanations.sql"),
                include_str!("../migrations/sqlite/0005_steps_in_order.sql"),
                include_str!("../migrations/sqlite/0006_bundles.sql"),
            ]
        } else {
            &[
                include_str!("../migrations/postgres/0001_start.sql"),
                include_str!("../migrations/postgres/0002_predictions.sql"),
                include_str!("../migrations/postgres/0003_explanations.sql"),
                include_str!("../migrations/postgres/0004_bundles.sql"),
            ]
        };
        migrator(migrations).run(&write).await?;
        let read = pool(&url, sqlite, false, 4).await?;
        Ok(Store { read, write })
    }

    /// Opens a database that must exist already, and reads it as it is.
    pub async fn open_existing(url: &str) -> Result<Store> {
        install_default_drivers();
        let sqlite = url.starts_with("sqlite:");
        let url = if sqlite && !url.contains('?') { format!("{url}?mode=rw") } else { url.to_owned() };
        // An answer may ask two things at once.
        let read = pool(&url, sqlite, false, 2).await?;
        Ok(Store { write: read.clone(), read })
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&self.read).await?;
        Ok(())
    }

    /// Writes SQLite's log of changes back into its file beside the writer, which would stop for that
    /// when the log is long. PostgreSQL does so by itself.
    pub async fn write_back(&self) -> Result<()> {
        let mut connection = self.read.acquire().await?;
        if connection.backend_name() == "SQLite" {
            // The log begins anew where nothing was added to it while the rest was written back.
            let mut before = 0;
            for _ in 0..WRITE_BACK_ROUNDS {
                let row = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").fetch_one(&mut *connection).await?;
                let pages = number(&row, "log")?;
                if pages <= before {
                    break;
                }
                before = pages;
            }
        }
        Ok(())
    }

    /// Ends all connections.
    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}

/// How often what was added to SQLite's log while it was written back is written back too.
const WRITE_BACK_ROUNDS: usize = 20;

fn migrator(texts: &[&'static str]) -> Migrator {
    let migration = |(index, text): (usize, &&'static str)| {
        let sql: SqlStr = (*text).into_sql_str();
        Migration::new(index as i64 + 1, "start".into(), MigrationType::Simple, sql, false)
    };
    Migrator::with_migrations(texts.iter().enumerate().map(migration).collect())
}

async fn pool(url: &str, sqlite: bool, writes: bool, connections: u32) -> Result<AnyPool> {
    let options = AnyPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(10))
        .after_connect(move |connection, _| {
            Box::pin(async move {
                if sqlite {
                    // A crash of the process loses nothing; one of the machine may take the
                    // newest transactions, position and effects together.
                    let all =
                        ["PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL", "PRAGMA busy_timeout = 10000"];
                    // The usual 2 MB are less than what a transaction changes. The log is written back
                    // beside the writer, which does it only where it has grown to 256 MB all the same.
                    let writing = ["PRAGMA cache_size = -16384", "PRAGMA wal_autocheckpoint = 65536"];
                    for pragma in all.into_iter().chain(writing.into_iter().filter(|_| writes)) {
                        sqlx::query(pragma).execute(&mut *connection).await?;
                    }
                }
                Ok(())
            })
        });
    Ok(options.connect(url).await?)
}

/// One bound value.
#[derive(Clone)]
enum Arg {
    Text(String),
    Maybe(Option<String>),
    Int(i64),
    Real(f64),
    Bytes(Vec<u8>),
}

impl From<&str> for Arg {
    fn from(text: &str) -> Arg {
        Arg::Text(text.to_owned())
    }
}

impl From<String> for Arg {
    fn from(text: String) -> Arg {
        Arg::Text(text)
    }
}

impl From<Option<String>> for Arg {
    fn from(text: Option<String>) -> Arg {
        Arg::Maybe(text)
    }
}

impl From<i64> for Arg {
    fn from(number: i64) -> Arg {
        Arg::Int(number)
    }
}

impl From<f64> for Arg {
    fn from(number: f64) -> Arg {
        Arg::Real(number)
    }
}

impl From<Timestamp> for Arg {
    fn from(time: Timestamp) -> Arg {
        Arg::Int(time.as_micros())
    }
}

type Query<'q> = sqlx::query::Query<'q, Any, sqlx::any::AnyArguments>;

fn bind<'q>(query: Query<'q>, arg: Arg) -> Query<'q> {
    match arg {
        Arg::Text(text) => query.bind(text),
        Arg::Maybe(text) => query.bind(text),
        Arg::Int(number) => query.bind(number),
        Arg::Real(number) => query.bind(number),
        Arg::Bytes(bytes) => query.bind(bytes),
    }
}

/// A query with its arguments; `$1`, `$2`... in both databases.
fn query<const N: usize>(sql: &str, args: [Arg; N]) -> Query<'static> {
    args.into_iter().fold(sqlx::query(AssertSqlSafe(sql.to_owned())), bind)
}

/// Rows that one statement inserts: few different numbers, so that statements are prepared once and
/// all are remembered (100 of a connection); the greatest stays below the parameter limits of both databases.
const ROWS: [usize; 6] = [128, 32, 8, 4, 2, 1];

/// `INSERT INTO head VALUES (...), (...) tail`, in as many statements as needed.
async fn insert_many<const N: usize>(
    connection: &mut sqlx::AnyConnection,
    head: &str,
    tail: &str,
    rows: Vec<[Arg; N]>,
) -> Result<()> {
    // SQLite looks up a parameter's name by going through all others, unless it has none.
    let named = connection.backend_name() != "SQLite";
    let mut rows = rows.into_iter();
    while let Some(count) = ROWS.into_iter().find(|count| *count <= rows.len()) {
        let mut sql = format!("INSERT INTO {head} VALUES ");
        for row in 0..count {
            sql.push_str(if row == 0 { "(" } else { ", (" });
            for column in 0..N {
                let comma = if column == 0 { "" } else { ", " };
                sql.push_str(comma);
                match named {
                    true => sql.push_str(&format!("${}", row * N + column + 1)),
                    false => sql.push('?'),
                }
            }
            sql.push(')');
        }
        sql.push(' ');
        sql.push_str(tail);
        let query = rows.by_ref().take(count).flatten().fold(sqlx::query(AssertSqlSafe(sql)), bind);
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

/// A place in a list ordered by time and id, both falling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    at: i64,
    id: String,
}

impl Cursor {
    /// Reads what [`Cursor::write`] wrote.
    pub fn read(text: &str) -> Option<Cursor> {
        let (at, id) = text.split_once('.')?;
        Some(Cursor { at: at.parse().ok()?, id: id.to_owned() })
    }

    /// As text for a URL.
    pub fn write(&self) -> String {
        format!("{}.{}", self.at, self.id)
    }
}

/// A part of a list, newest first.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Where the next part begins, if there is one.
    pub next: Option<Cursor>,
}

/// Text in equality conditions, joined by AND, beside a cursor and a limit.
struct Filter {
    sql: String,
    args: Vec<Arg>,
}

impl Filter {
    fn new() -> Filter {
        Filter { sql: " WHERE 1 = 1".to_owned(), args: Vec::new() }
    }

    fn equal(mut self, column: &str, value: Option<&str>) -> Filter {
        if let Some(value) = value {
            self.args.push(value.into());
            self.sql.push_str(&format!(" AND {column} = ${}", self.args.len()));
        }
        self
    }

    fn before(mut self, time: &str, cursor: Option<&Cursor>) -> Filter {
        if let Some(cursor) = cursor {
            self.args.extend([cursor.at.into(), cursor.at.into(), cursor.id.as_str().into()]);
            let n = self.args.len();
            self.sql.push_str(&format!(" AND ({time} < ${} OR ({time} = ${} AND id < ${n}))", n - 2, n - 1));
        }
        self.sql.push_str(&format!(" ORDER BY {time} DESC, id DESC"));
        self
    }

    async fn page<T>(
        mut self,
        pool: &AnyPool,
        select: &str,
        limit: u32,
        read: impl Fn(&AnyRow) -> Result<T>,
        place: impl Fn(&T) -> Cursor,
    ) -> Result<Page<T>> {
        self.args.push((i64::from(limit) + 1).into());
        let sql = format!("{select}{} LIMIT ${}", self.sql, self.args.len());
        let query = self.args.into_iter().fold(sqlx::query(AssertSqlSafe(sql)), bind);
        let rows = query.fetch_all(pool).await?;
        let more = rows.len() > limit as usize;
        let items = rows.iter().take(limit as usize).map(read).collect::<Result<Vec<T>>>()?;
        let next = if more { items.last().map(place) } else { None };
        Ok(Page { items, next })
    }
}

fn text(row: &AnyRow, column: &str) -> Result<String> {
    Ok(row.try_get(column)?)
}

fn maybe(row: &AnyRow, column: &str) -> Result<Option<String>> {
    Ok(row.try_get(column)?)
}

fn number(row: &AnyRow, column: &str) -> Result<i64> {
    Ok(row.try_get(column)?)
}

fn time(row: &AnyRow, column: &str) -> Result<Timestamp> {
    Ok(Timestamp::from_micros(row.try_get(column)?))
}

fn maybe_time(row: &AnyRow, column: &str) -> Result<Option<Timestamp>> {
    let micros: Option<i64> = row.try_get(column)?;
    Ok(micros.map(Timestamp::from_micros))
}

fn json(row: &AnyRow, table: &'static str, column: &str) -> Result<serde_json::Value> {
    serde_json::from_str(&text(row, column)?).map_err(StoreError::unreadable(table))
}

/// A word of an enum, as it is serialized.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => unreachable!("only enums of words are written as words, not {other:?}"),
    }
}

fn json_text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("what is stored has text keys only and serializes without errors")
}

/// A URL for messages, without its password.
pub fn without_password(url: &str) -> String {
    match url.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1))) {
        Some((scheme, rest)) => format!("{scheme}://...@{rest}"),
        None => url.to_owned(),
    }
}
