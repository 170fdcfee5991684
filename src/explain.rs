//! Questions and their answers, from what the store remembers.

use serde::{Deserialize, Serialize};

use crate::store::{Store, StoreError};

mod why;

pub use why::{Found, Promise, Why};

/// The questions that can be asked.
pub const QUESTIONS: [&str; 1] = ["why"];

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// There is no such question.
    #[error("unknown question {0:?}; known: {known}", known = QUESTIONS.join(", "))]
    UnknownQuestion(String),
    /// The thing asked about does not exist.
    #[error("there is no violation {0}")]
    NotFound(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is asked, beside the question's name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// The id of a violation.
    #[serde(default)]
    pub violation: String,
}

/// Answers a question.
pub async fn answer(store: &Store, question: &str, subject: &Subject) -> Result<Why, ExplainError> {
    match question {
        "why" => why::answer(store, &subject.violation).await,
        _ => Err(ExplainError::UnknownQuestion(question.to_owned())),
    }
}
