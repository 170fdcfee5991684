//! What the engine says: evaluations, transitions of violations, actions.

use std::fmt;
use std::sync::Arc;

use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value as Json;
use uuid::Uuid;

use super::aggregate::Accumulator;
use super::detail::Detail;
use super::gauge::Summary;
use super::lifecycle::Resolution;
use super::program::Promised;
use super::quantile::nearest_rank;
use crate::contract::{Aggregate, Condition, Promise, Scalar, Severity};
use crate::report::Value;
use crate::time::Timestamp;

/// The verdict on one series at one window end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The promise was kept.
    Met,
    /// It was not.
    Breached,
    /// The window is empty.
    NoData,
    /// Too few observations to say.
    Insufficient,
    /// A script failed, or kinds do not fit.
    Error,
}

impl Verdict {
    /// All verdicts, in the order of their numbers.
    pub const ALL: [Verdict; 5] =
        [Verdict::Met, Verdict::Breached, Verdict::NoData, Verdict::Insufficient, Verdict::Error];

    /// The word, as in output and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Met => "met",
            Verdict::Breached => "breached",
            Verdict::NoData => "no_data",
            Verdict::Insufficient => "insufficient",
            Verdict::Error => "error",
        }
    }
}

/// The `group_by` values of a series, in the order of the objective's `group_by`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SeriesKey(pub Arc<[Box<str>]>);

/// A series key with its label names; a JSON object.
#[derive(Debug, Clone, Copy)]
pub struct SeriesLabels<'a>(pub &'a [String], pub &'a SeriesKey);

impl Serialize for SeriesLabels<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0.iter().zip(self.1.0.iter()) {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl fmt::Display for SeriesLabels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().zip(self.1.0.iter()).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{name}={value}")?;
        }
        Ok(())
    }
}

/// A window of event time: `start <= t < end`. For `each`, both are the observation's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// First instant.
    pub start: Timestamp,
    /// First instant after.
    pub end: Timestamp,
}

/// The verdict on one series at one window end, and the figures it rests on.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// Which objective.
    pub promised: Arc<Promised>,
    /// Which series.
    pub series: SeriesKey,
    /// Which window.
    pub window: Window,
    /// The value, if the window has one.
    pub value: Option<Scalar>,
    /// Observations in the window.
    pub samples: u64,
    /// What was judged.
    pub verdict: Verdict,
    /// What a script said, or why it failed.
    pub message: Option<String>,
    /// What the value rests on.
    pub detail: Option<Box<Detail>>,
}

impl Serialize for Evaluation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let promised = &*self.promised;
        let mut object = serializer.serialize_struct("Evaluation", 13)?;
        object.serialize_field("type", "evaluation")?;
        object.serialize_field("contract", &promised.contract)?;
        object.serialize_field("objective", &promised.objective.name)?;
        object.serialize_field("series", &SeriesLabels(&promised.group_by, &self.series))?;
        object.serialize_field("window", &self.window)?;
        object.serialize_field("aggregate", &promised.aggregate())?;
        object.serialize_field("value", &self.value)?;
        object.serialize_field("samples", &self.samples)?;
        object.serialize_field("target", &promised.objective.target())?;
        object.serialize_field("verdict", &self.verdict)?;
        if let Some(message) = &self.message {
            object.serialize_field("message", message)?;
        }
        if let Some(detail) = &self.detail {
            object.serialize_field("detail", detail)?;
        }
        object.end()
    }
}

/// The state of a violation after a transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It opened.
    Open,
    /// It resolved.
    Resolved,
}

/// A violation opened or resolved.
#[derive(Debug, Clone, Serialize)]
pub struct Transition {
    /// The violation: UUIDv5 of contract, objective, series and opening window end.
    pub id: Uuid,
    /// Whose.
    pub tenant: Arc<str>,
    /// Which application.
    pub application: Arc<str>,
    /// Which contract.
    pub contract: String,
    /// Its version.
    pub version: String,
    /// Which objective.
    pub objective: String,
    /// Which series: label to value.
    pub series: Json,
    /// What it is now.
    pub state: State,
    /// The window end at which that came about.
    pub at: Timestamp,
    /// The window end of the first breach.
    pub since: Timestamp,
    /// The window end at which the violation opened.
    pub opened: Timestamp,
    /// How bad.
    pub severity: Severity,
    /// Who answers for it.
    pub responsible: Option<String>,
    /// The value at the transition.
    pub value: Option<Scalar>,
    /// Observations behind the value.
    pub samples: u64,
    /// What was promised of it.
    pub target: Option<Condition>,
    /// Why it resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Resolution>,
    /// One sentence.
    pub message: String,
    /// What an explanation rests on; on opening only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
}

/// What was known when a violation opened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Evidence {
    /// The window that was judged.
    pub window: Window,
    /// `attribute` and `aggregate`, or the rule's function.
    pub indicator: String,
    /// What would have met the promise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counterfactual: Option<Counterfactual>,
    /// Who brought it about, the greatest part first.
    pub contributors: Vec<Contributor>,
    /// What the value rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Box<Detail>>,
}

/// The nearest value, or number of bad observations, that would have met the promise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Counterfactual {
    /// The value that would just have met it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Observations that missed the target by themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bad: Option<u64>,
    /// How many of them the target forgives at this number of samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bad_allowed: Option<u64>,
}

/// A part of the window, and its share in the breach.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Contributor {
    /// `stage/instance`, or the series of a rule's input.
    pub source: String,
    /// Its observations.
    pub samples: u64,
    /// Those that missed the target by themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bad: Option<u64>,
    /// Its value: the mean of its observations, or the input's value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
}

/// An action that a violation caused.
#[derive(Debug, Clone, Serialize)]
pub struct Action {
    /// UUIDv5 of violation, action name and cause.
    pub id: Uuid,
    /// The violation.
    pub violation: Uuid,
    /// Whose.
    pub tenant: Arc<str>,
    /// Which application.
    pub application: Arc<str>,
    /// Which contract.
    pub contract: String,
    /// Which objective.
    pub objective: String,
    /// The action's name in the contract.
    pub name: String,
    /// retrain, scale...
    pub kind: String,
    /// For the executor.
    pub params: serde_json::Map<String, Json>,
    /// Whether it may leave.
    pub state: ActionState,
    /// What held it back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Event time of its cause.
    pub at: Timestamp,
}

/// What becomes of an action at first; executors answer with further states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionState {
    /// It leaves at once.
    Requested,
    /// It leaves when an operator approves.
    AwaitingApproval,
    /// A guard held it back.
    Suppressed,
    /// The script that decides it failed.
    Failed,
}

/// Judges a summary by a target. `rejected` says of drift whether chance does not explain it.
pub fn judge(target: &Condition, summary: &Summary, min_samples: u64, rejected: bool) -> (Verdict, Option<String>) {
    if let Some(fault) = &summary.fault {
        return (Verdict::Error, Some(fault.clone()));
    }
    let Some(value) = &summary.value else {
        return (if summary.samples == 0 { Verdict::NoData } else { Verdict::Insufficient }, None);
    };
    if summary.samples < min_samples {
        return (Verdict::Insufficient, None);
    }
    let kept = match (target, summary.within) {
        (Condition::FalseAlarm(_), _) => Some(!rejected),
        (_, Some(within)) if target.is_bound() => Some(within),
        _ => target.holds(&value.0),
    };
    match kept {
        Some(true) => (Verdict::Met, None),
        Some(false) => (Verdict::Breached, None),
        None => (Verdict::Error, Some(format!("{value:?} is text and the target is a bound", value = value.0))),
    }
}

/// What would have met the target.
pub fn counterfactual(promised: &Promised, window: &Accumulator, value: Option<f64>) -> Option<Counterfactual> {
    let Promise::Target { indicator, target } = &promised.objective.promise else { return None };
    let (low, high) = target.bounds();
    let samples = window.samples();
    let allowed = |n: u64| {
        let needed = (low * n as f64 - n as f64 * 1e-12).ceil().max(0.0) as u64;
        Some(n.saturating_sub(needed))
    };
    let nearest = value.map(|value| if value > high { high } else { low }).filter(|nearest| nearest.is_finite());
    let (bad, bad_allowed) = match (indicator.aggregate, window) {
        (Aggregate::Quantile(share), Accumulator::Quantile { below, above, .. }) => {
            let rank = nearest_rank(share, samples);
            if *above > samples - rank { (Some(*above), Some(samples - rank)) } else { (Some(*below), Some(rank - 1)) }
        }
        (Aggregate::Ratio, Accumulator::Ratio { n, good }) if low.is_finite() => (Some(n - good), allowed(*n)),
        (Aggregate::Accuracy, Accumulator::Confusion(confusion)) if low.is_finite() => {
            (Some(samples - confusion.right()), allowed(samples))
        }
        _ => (None, None),
    };
    (nearest.is_some() || bad.is_some()).then_some(Counterfactual { value: nearest, bad, bad_allowed })
}

/// A number for people: at most four significant digits.
pub fn short(number: f64) -> String {
    if number == 0.0 || !number.is_finite() {
        return number.to_string();
    }
    let digits = 3 - number.abs().log10().floor() as i32;
    if (0..=12).contains(&digits) {
        let text = format!("{number:.*}", digits as usize);
        return if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text };
    }
    if digits < 0 { format!("{number:.0}") } else { format!("{number:.3e}") }
}

/// A value for people.
pub fn short_value(value: &Scalar) -> String {
    match &value.0 {
        Value::Number(number) => short(*number),
        other => other.to_string(),
    }
}
