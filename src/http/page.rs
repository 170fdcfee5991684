//! Query parameters and envelopes of lists.

use serde::Serialize;
use utoipa::ToSchema;

use super::Problem;
use crate::store::{Cursor, Page};

const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 500;

/// A query's `limit`, within its bounds.
pub(super) fn limit(wanted: Option<u32>) -> Result<u32, Problem> {
    match wanted.unwrap_or(LIMIT_DEFAULT) {
        limit @ 1..=LIMIT_MAX => Ok(limit),
        limit => Err(Problem::bad_request(format!("limit {limit} is not in 1 to {LIMIT_MAX}"))),
    }
}

/// A query's `cursor`.
pub(super) fn cursor(wanted: Option<&str>) -> Result<Option<Cursor>, Problem> {
    let Some(text) = wanted else { return Ok(None) };
    let unreadable = || Problem::bad_request("cursor is not the `next` of an answer");
    Cursor::read(text).ok_or_else(unreadable).map(Some)
}

/// A part of a list, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct List<T> {
    items: Vec<T>,
    /// Give this as `cursor` for the next part; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl<T> From<Page<T>> for List<T> {
    fn from(page: Page<T>) -> List<T> {
        List { items: page.items, next: page.next.map(|cursor| cursor.write()) }
    }
}
