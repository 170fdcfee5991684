//! Predictions and the feedback that comes for them, joined by inference id in either order.
//!
//! What waits is bounded by event time (the join horizon) and in number. Every change is also
//! logged, so that the store can keep it and a restart can read it back.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::report::{Dimensions, Prediction, Report, Text, Value};
use crate::time::{Span, Timestamp};

/// What an inference said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Predicted {
    /// A class.
    Class(Box<str>),
    /// A number; also a class, by its spelling.
    Number(f64),
    /// Scores of classes; the class with the greatest one (the first of equals) is the predicted one.
    Scores(Vec<(Box<str>, f64)>),
}

impl Predicted {
    /// Of a report; none where all that was predicted is an empty map.
    pub fn of(prediction: &Prediction<'_>) -> Option<Predicted> {
        match prediction {
            Prediction::Class(class) => Some(Predicted::Class((**class).into())),
            Prediction::Number(number) => Some(Predicted::Number(*number)),
            Prediction::Scores(scores) if scores.is_empty() => None,
            Prediction::Scores(scores) => {
                Some(Predicted::Scores(scores.iter().map(|(class, score)| ((**class).into(), *score)).collect()))
            }
        }
    }

    /// The predicted class or number as the value of an attribute.
    pub fn value(&self) -> Value<'_> {
        match self {
            Predicted::Number(number) => Value::Number(*number),
            Predicted::Class(class) => Value::Text((&**class).into()),
            Predicted::Scores(scores) => {
                let best = scores.iter().reduce(|best, next| if next.1 > best.1 { next } else { best });
                Value::Text(best.map_or("", |(class, _)| &**class).into())
            }
        }
    }
}

/// A prediction and its feedback.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    /// What was predicted.
    pub predicted: &'a Predicted,
    /// What was true.
    pub truth: &'a Value<'a>,
}

impl Pair<'_> {
    /// Truth and prediction as numbers, if both are.
    pub fn numbers(&self) -> Option<(f64, f64)> {
        match (self.truth, self.predicted) {
            (Value::Number(truth), Predicted::Number(predicted)) => Some((*truth, *predicted)),
            _ => None,
        }
    }

    /// How far a predicted number is off.
    pub fn error(&self) -> Option<f64> {
        self.numbers().map(|(truth, predicted)| (truth - predicted).abs())
    }

    /// Whether the predicted class is the true one.
    pub fn is_right(&self) -> bool {
        self.with_classes(|truth, predicted| truth == predicted)
    }

    /// Truth and prediction as names of classes; numbers by their spelling.
    pub fn with_classes<R>(&self, then: impl FnOnce(&str, &str) -> R) -> R {
        then(&class_name(self.truth), &class_name(&self.predicted.value()))
    }
}

fn class_name<'v>(value: &'v Value<'_>) -> Cow<'v, str> {
    match value {
        Value::Text(text) => Cow::Borrowed(text),
        other => Cow::Owned(other.to_string()),
    }
}

/// Where an inference's report came from: what its pair is filtered and grouped by.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// The stage.
    pub stage: String,
    /// The instance.
    pub instance: String,
    /// Labels.
    pub labels: Vec<(String, String)>,
}

impl Origin {
    /// Of a report.
    pub fn of(dimensions: &Dimensions<'_>) -> Origin {
        let labels = dimensions.labels.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        Origin {
            stage: dimensions.stage.to_owned(),
            instance: dimensions.instance.to_owned(),
            labels: labels.collect(),
        }
    }

    /// As dimensions: `then` is given them.
    pub fn with_dimensions<R>(&self, then: impl FnOnce(&Dimensions<'_>) -> R) -> R {
        let labels: Vec<(Text<'_>, Text<'_>)> =
            self.labels.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect();
        then(&Dimensions { stage: &self.stage, instance: &self.instance, labels: &labels })
    }
}

/// What is known of an inference id.
#[derive(Debug, Clone, PartialEq)]
enum Known {
    Inference {
        time: Timestamp,
        predicted: Predicted,
        origin: Arc<Origin>,
    },
    Feedback {
        time: Timestamp,
        truth: Value<'static>,
    },
    /// Inference and feedback both came.
    Joined {
        time: Timestamp,
    },
}

impl Known {
    fn time(&self) -> Timestamp {
        match self {
            Known::Inference { time, .. } | Known::Feedback { time, .. } | Known::Joined { time } => *time,
        }
    }
}

/// Inferences and feedback that wait for each other.
#[derive(Debug, Default)]
pub struct Joiner {
    known: FxHashMap<u128, Known>,
    /// In the order of arrival.
    order: VecDeque<(Timestamp, u128)>,
    origins: FxHashMap<u128, Arc<Origin>>,
    /// Whether changes are logged.
    pub keep: bool,
    log: Vec<Entry>,
}

/// One logged change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// An inference: hexadecimal digest of its id, time, prediction, origin.
    I(String, Timestamp, Predicted, Arc<Origin>),
    /// Feedback: digest, time, truth.
    F(String, Timestamp, crate::contract::Scalar),
    /// Both have come: digest, time.
    J(String, Timestamp),
}

impl Entry {
    /// When the inference was made, the feedback came, or both had.
    pub fn time(&self) -> Timestamp {
        match self {
            Entry::I(_, time, ..) | Entry::F(_, time, _) | Entry::J(_, time) => *time,
        }
    }
}

/// A pair that was made.
pub struct Joined {
    /// When the inference was made.
    pub inference: Timestamp,
    /// When it counts: the later of the two reports' times.
    pub at: Timestamp,
    /// What was predicted.
    pub predicted: Predicted,
    /// What was true.
    pub truth: Value<'static>,
    /// Where the inference's report came from.
    pub origin: Arc<Origin>,
}

/// What became of an inference or of feedback.
pub enum Met {
    /// It waits.
    Waits,
    /// It made a pair.
    Pair(Box<Joined>),
    /// It came again, or too long after: it counts for nothing.
    Idle,
}

impl Joiner {
    /// Takes in an inference.
    pub fn inference(
        &mut self,
        id: &str,
        predicted: Predicted,
        report: &Report<'_>,
        digest: u128,
        horizon: Span,
    ) -> Met {
        let key = xxh3_128(id.as_bytes());
        let time = report.time;
        match self.known.get(&key) {
            Some(Known::Inference { .. } | Known::Joined { .. }) => Met::Idle,
            Some(Known::Feedback { time: at, truth }) if *at <= time + horizon => {
                let (at, truth) = (*at, truth.clone());
                let origin = self.origin(report, digest);
                self.put(key, Known::Joined { time: at.max(time) });
                Met::Pair(Box::new(Joined { inference: time, at: at.max(time), predicted, truth, origin }))
            }
            _ => {
                let origin = self.origin(report, digest);
                self.put(key, Known::Inference { time, predicted, origin });
                Met::Waits
            }
        }
    }

    /// Takes in feedback; the first for an inference counts.
    pub fn feedback(&mut self, id: &str, truth: &Value<'_>, time: Timestamp, horizon: Span) -> Met {
        let key = xxh3_128(id.as_bytes());
        match self.known.get(&key) {
            Some(Known::Feedback { .. } | Known::Joined { .. }) => Met::Idle,
            Some(Known::Inference { time: inference, .. }) if time > *inference + horizon => Met::Idle,
            Some(Known::Inference { .. }) => {
                let Some(Known::Inference { time: inference, predicted, origin }) = self.known.remove(&key) else {
                    return Met::Idle;
                };
                let at = inference.max(time);
                self.put(key, Known::Joined { time: at });
                let truth = truth.clone().into_owned();
                Met::Pair(Box::new(Joined { inference, at, predicted, truth, origin }))
            }
            None => {
                self.put(key, Known::Feedback { time, truth: truth.clone().into_owned() });
                Met::Waits
            }
        }
    }

    /// One copy for all reports of the same stage, instance and labels.
    fn origin(&mut self, report: &Report<'_>, digest: u128) -> Arc<Origin> {
        self.origins.entry(digest).or_insert_with(|| Arc::new(Origin::of(&report.dimensions()))).clone()
    }

    fn put(&mut self, key: u128, known: Known) {
        if self.keep {
            let id = format!("{key:032x}");
            self.log.push(match &known {
                Known::Inference { time, predicted, origin } => Entry::I(id, *time, predicted.clone(), origin.clone()),
                Known::Feedback { time, truth } => Entry::F(id, *time, crate::contract::Scalar(truth.clone())),
                Known::Joined { time } => Entry::J(id, *time),
            });
        }
        self.order.push_back((known.time(), key));
        self.known.insert(key, known);
    }

    /// Forgets what is older than `before`. Returns how many inferences had no feedback.
    pub fn forget_before(&mut self, before: Timestamp) -> u64 {
        let mut unanswered = 0;
        while self.order.front().is_some_and(|(time, _)| *time < before) {
            unanswered += u64::from(self.forget_oldest());
        }
        if self.known.is_empty() {
            self.origins.clear();
        }
        unanswered
    }

    /// Forgets what came first; whether that was an inference without feedback.
    pub fn forget_oldest(&mut self) -> bool {
        let Some((time, key)) = self.order.pop_front() else { return false };
        // An id that was joined since stands further back.
        match self.known.get(&key).filter(|known| known.time() == time) {
            Some(known) => {
                let unanswered = matches!(known, Known::Inference { .. });
                self.known.remove(&key);
                unanswered
            }
            None => false,
        }
    }

    /// How much waits.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// What changed since the last call, for the store.
    pub fn take_log(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.log)
    }

    /// Takes back a logged change, the oldest first.
    pub fn restore(&mut self, entry: Entry) {
        let (id, known) = match entry {
            Entry::I(id, time, predicted, origin) => {
                let digest = origin.with_dimensions(|dimensions| dimensions.digest());
                let origin = self.origins.entry(digest).or_insert(origin).clone();
                (id, Known::Inference { time, predicted, origin })
            }
            Entry::F(id, time, truth) => (id, Known::Feedback { time, truth: truth.0 }),
            Entry::J(id, time) => (id, Known::Joined { time }),
        };
        let Ok(key) = u128::from_str_radix(&id, 16) else { return };
        self.order.push_back((known.time(), key));
        self.known.insert(key, known);
    }
}
