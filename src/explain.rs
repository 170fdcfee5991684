//! Questions and their answers, from what the store remembers.
//!
//! Every answer holds its numbers as evidence, sentences and tables for people, and the queries
//! that brought the numbers, so that anybody can bring them again.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use utoipa::ToSchema;

use crate::store::{Asked, Store, StoreError};
use crate::time::Timestamp;

pub mod statistics;
mod context;
mod facts;
mod trace;
mod why;
mod which;
mod cause;
mod path;
mod ensemble;
mod cost;
mod quality;
mod who;
mod when;
mod how;
mod compliance;

pub use compliance::page as compliance_page;
pub use facts::matches;
pub use which::Measure;
pub use why::{Found, Promise, Why};

/// The questions that can be asked, what each is about, and what it answers.
pub const QUESTIONS: [(&str, &str, &str); 11] = [
    ("why", "violation", "why a promise was broken: value, target, contributors, what was done"),
    ("where", "inference or request", "the path of one request: stages, times, waiting, sources, result"),
    ("which", "violation", "the slices that carry the breach, and whether that can be chance"),
    ("root-cause", "violation", "the component that brought the breach about, and how it spread"),
    ("ensemble", "application, period", "what each member of an ensemble contributes"),
    ("cost", "application, period", "cost by component, model and label, and what changed it"),
    ("quality", "application, period", "accuracy with intervals, by class and slice, bias, feedback"),
    ("who", "violation or objective", "parties, who answers for it, who was told, who acted"),
    ("when", "contract, period", "the timeline of a contract and what coincided"),
    (
        "how",
        "violation, or contract and objective",
        "the smallest change that meets the promise, and what helped before",
    ),
    ("compliance", "contract, period", "attainment, error budget, burn rate, and whether the contract was met"),
];

/// Names of the questions.
pub fn questions() -> impl Iterator<Item = &'static str> {
    QUESTIONS.iter().map(|(name, ..)| *name)
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// There is no such question.
    #[error("unknown question {0:?}; known: {known}", known = questions().collect::<Vec<_>>().join(", "))]
    UnknownQuestion(String),
    /// The thing asked about does not exist.
    #[error("there is no {0} {1}")]
    NotFound(&'static str, String),
    /// It is not said what is asked about.
    #[error("{0}")]
    Subject(String),
    /// There is nothing to answer with.
    #[error("{0}")]
    NoData(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

type Result<T> = std::result::Result<T, ExplainError>;

/// Whom an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum View {
    /// Component, cause and remedy.
    #[default]
    Provider,
    /// Promise, experience and compensation; names nothing that the contract keeps back.
    Consumer,
}

/// What is asked, beside the question's name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Subject {
    /// The id of a violation
    #[serde(skip_serializing_if = "Option::is_none")]
    pub violation: Option<String>,
    /// The name of a contract
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contract: Option<String>,
    /// The name of an objective
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objective: Option<String>,
    /// The tenant of the application; `default` unless stated
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The name of an application
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application: Option<String>,
    /// The id of an inference
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inference: Option<String>,
    /// The id of a request
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Start of the period; the full hour 24 h before its end unless stated (for compliance 30 days)
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Timestamp>,
    /// End of the period; the newest event time unless stated
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
    /// Whom the answer is for: provider or consumer
    #[serde(rename = "as", skip_serializing_if = "Option::is_none")]
    pub view: Option<View>,
}

/// A table for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Section {
    /// What it shows.
    pub title: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
}

/// Where more is to be found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Link {
    /// What is there.
    pub title: String,
    /// A path of the HTTP API.
    pub href: String,
}

/// The answer to a question other than `why`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Answer {
    /// Which question.
    pub question: String,
    /// Whom it is for.
    #[serde(rename = "as")]
    pub view: View,
    /// What was asked about.
    pub subject: Subject,
    /// The answer in plain sentences, the most important first.
    pub sentences: Vec<String>,
    /// The numbers that it rests on.
    #[schema(value_type = Object)]
    pub evidence: Json,
    /// The same in tables.
    pub sections: Vec<Section>,
    /// The queries that brought the numbers.
    pub queries: Vec<Asked>,
    /// Where more is to be found.
    pub links: Vec<Link>,
}

/// Any answer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Answered {
    /// To `why`.
    Why(Box<Why>),
    /// To any other question.
    Answer(Box<Answer>),
}

/// Answers a question.
pub async fn answer(store: &Store, question: &str, subject: &Subject) -> Result<Answered> {
    if question == "why" {
        let why = why::answer(store, subject).await?;
        return Ok(Answered::Why(Box::new(why)));
    }
    let context = context::Context::new(store, question, subject);
    let answer = match question {
        "where" => path::answer(context).await,
        "which" => which::answer(context).await,
        "root-cause" => cause::answer(context).await,
        "ensemble" => ensemble::answer(context).await,
        "cost" => cost::answer(context).await,
        "quality" => quality::answer(context).await,
        "who" => who::answer(context).await,
        "when" => when::answer(context).await,
        "how" => how::answer(context).await,
        "compliance" => compliance::answer(context).await,
        _ => return Err(ExplainError::UnknownQuestion(question.to_owned())),
    };
    Ok(Answered::Answer(Box::new(answer?)))
}

impl Answered {
    /// For a terminal.
    pub fn text(&self) -> String {
        match self {
            Answered::Why(why) => why.text(),
            Answered::Answer(answer) => answer.text(),
        }
    }

    /// For a ticket.
    pub fn markdown(&self) -> String {
        match self {
            Answered::Why(why) => why.markdown(),
            Answered::Answer(answer) => answer.markdown(),
        }
    }
}

impl Answer {
    fn text(&self) -> String {
        let mut text = self.sentences.join("\n");
        text.push('\n');
        for section in self.sections.iter().filter(|section| !section.rows.is_empty()) {
            let _ = writeln!(text, "\n{}", section.title);
            let headed = section.columns.iter().any(|column| !column.is_empty());
            let lines: Vec<&Vec<String>> =
                headed.then_some(&section.columns).into_iter().chain(&section.rows).collect();
            let width =
                |column: usize| lines.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
            for row in &lines {
                let mut line = String::new();
                for (column, cell) in row.iter().enumerate() {
                    let _ = write!(line, "  {cell:width$}", width = width(column).unwrap_or(0));
                }
                let _ = writeln!(text, "{}", line.trim_end());
            }
        }
        text
    }

    fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n{}\n", self.title(), self.sentences.join("\n\n"));
        for section in self.sections.iter().filter(|section| !section.rows.is_empty()) {
            let _ = writeln!(text, "\n### {}\n", section.title);
            let _ = writeln!(text, "| {} |\n|{}", section.columns.join(" | "), "---|".repeat(section.columns.len()));
            for row in &section.rows {
                let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
                let _ = writeln!(text, "| {} |", cells.join(" | "));
            }
        }
        text
    }

    fn title(&self) -> String {
        let subject = &self.subject;
        let named = [
            ("violation", &subject.violation),
            ("contract", &subject.contract),
            ("objective", &subject.objective),
            ("application", &subject.application),
            ("inference", &subject.inference),
            ("request", &subject.request),
        ];
        let of: Vec<String> = named.iter().filter_map(|(what, id)| Some(format!("{what} {}", id.as_ref()?))).collect();
        format!("{} of {}", self.question, of.join(", "))
    }
}
