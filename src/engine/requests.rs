//! Requests: what the consumer sees, put together from the reports of all stages that serve one.
//!
//! Each report that names a request, or passes on where it came from (QoA4ML), is a *step*. Steps
//! are collected where they are going to be stored, as many a pane as is bounded, whole requests
//! at a time. Where an objective is about `request.*`, each request is also put together: it is
//! complete when no step has come for the time-out, and counts then.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::slice;
use crate::contract::{REQUEST_COST, REQUEST_SUCCESS, REQUEST_TIME};
use crate::report::{Dimensions, Inference, Metrics, Prediction, Report, Text, Value};
use crate::time::{Span, Timestamp};

/// The stage that observations of whole requests have.
pub const STAGE: &str = "request";

/// Steps that are kept in one span of event time.
const STEPS_MAX: u64 = 1_000;
const STEPS_SPAN: Span = Span::seconds(10);
/// Requests of an application that are put together at a time.
const OPEN_MAX: usize = 50_000;

/// One step of a request, for the store.
#[derive(Debug, Clone, PartialEq)]
pub struct StepRow {
    /// Whose.
    pub tenant: String,
    /// Which application.
    pub application: String,
    /// The inference's id, or instance and start.
    pub id: String,
    /// The request that it serves, where one is named.
    pub request: Option<String>,
    /// In 0..1000, alike for all steps of a request.
    pub draw: i64,
    /// The inference's id.
    pub inference: Option<String>,
    /// When the work began...
    pub start: Timestamp,
    /// ...and when it ended.
    pub end: Timestamp,
    /// JSON object of stage, instance and labels.
    pub slice: String,
    /// JSON object of metrics.
    pub metrics: String,
    /// JSON: a class, a number, or scores by class.
    pub prediction: Option<String>,
    /// JSON list of the inferences that fed it.
    pub sources: String,
    /// JSON list of the instances before it.
    pub upstream: String,
}

/// Ground truth of an inference, for the store.
#[derive(Debug, Clone, PartialEq)]
pub struct TruthRow {
    /// Whose.
    pub tenant: String,
    /// Which application.
    pub application: String,
    /// The inference's id.
    pub inference: String,
    /// What was true.
    pub truth: String,
    /// When it came.
    pub at: Timestamp,
}

/// One step, as whole requests need it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    request: u128,
    step: u64,
    start: Timestamp,
    end: Timestamp,
    cost: f64,
    failed: bool,
    labels: Vec<(Box<str>, Box<str>)>,
}

/// A change of the requests that are put together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A step came.
    S(Part),
    /// A request was complete, at this time.
    C(u128, Timestamp),
}

impl Change {
    /// When.
    pub fn time(&self) -> Timestamp {
        match self {
            Change::S(part) => part.end,
            Change::C(_, at) => *at,
        }
    }
}

/// A request that is being put together.
#[derive(Debug)]
struct Open {
    first: Timestamp,
    last: Timestamp,
    cost: f64,
    failed: bool,
    steps: SmallVec<[u64; 8]>,
    /// Labels that all its steps have alike.
    labels: Vec<(Box<str>, Box<str>)>,
}

/// A request that is complete.
#[derive(Debug)]
pub struct Complete {
    /// Its attributes.
    pub metrics: [(&'static str, Value<'static>); 3],
    /// Labels that all its steps had alike.
    pub labels: Vec<(Box<str>, Box<str>)>,
}

/// The requests of an application.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Whether changes are kept for the store.
    pub keep: bool,
    /// Whether an objective is about whole requests.
    pub wanted: bool,
    open: FxHashMap<u128, Open>,
    /// By when each request is complete.
    ends: BTreeSet<(Timestamp, u128)>,
    log: Vec<Change>,
    /// By id.
    steps: BTreeMap<String, StepRow>,
    truths: Vec<TruthRow>,
    sampling: Sampling,
    /// The same for truths whose inference is not known to be kept.
    truth_sampling: Sampling,
    /// Inferences whose step was kept, until its truth has come; of the newest ones.
    kept: FxHashSet<u128>,
}

/// Which steps are kept: those of every request, or where there are many, of each second, fourth...
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(super) struct Sampling {
    span: Timestamp,
    kept: u64,
    level: u32,
}

impl Sampling {
    fn takes(&mut self, request: &str, time: Timestamp) -> bool {
        let span = time.floor(STEPS_SPAN);
        if span > self.span {
            // One level down if even twice as many would have been few.
            if self.kept * 2 <= STEPS_MAX {
                self.level = self.level.saturating_sub(1);
            }
            (self.span, self.kept) = (span, 0);
        }
        let wanted = xxh3_64(request.as_bytes()).trailing_zeros() >= self.level;
        if wanted {
            self.kept += 1;
            self.level += u32::from(self.kept.is_multiple_of(STEPS_MAX));
        }
        wanted
    }
}

/// What a step tells of.
pub(super) struct Step<'s> {
    pub id: String,
    pub request: Option<&'s str>,
    pub inference: Option<&'s Inference<'s>>,
    pub start: Timestamp,
    pub end: Timestamp,
    pub dimensions: Dimensions<'s>,
    pub metrics: &'s Metrics<'s>,
    pub upstream: &'s [Text<'s>],
}

/// The sum of the costs among metrics.
fn cost(metrics: &Metrics<'_>) -> f64 {
    let costs = metrics.iter().filter(|(name, _)| name.starts_with("cost."));
    costs.filter_map(|(_, value)| value.as_number()).sum()
}

fn failed(metrics: &Metrics<'_>) -> bool {
    metrics.iter().any(|(name, value)| match &**name {
        "service.success" => value.as_number() == Some(0.0),
        "service.error" => value.as_number().is_some_and(|errors| errors != 0.0),
        _ => false,
    })
}

/// How long the work took that metrics tell of.
pub(super) fn seconds(metrics: &Metrics<'_>) -> Span {
    let found = metrics.iter().find(|(name, _)| &**name == "service.response_time");
    let seconds = found.and_then(|(_, value)| value.as_number()).unwrap_or(0.0);
    Span::from_micros((seconds.clamp(0.0, 86_400.0) * 1e6) as i64)
}

/// The steps that a report tells of: its own, and those it passes on.
pub(super) fn steps<'s>(report: &'s Report<'_>, request: &'s mut String, then: &mut dyn FnMut(&Step<'_>)) {
    use std::fmt::Write;
    let inference = report.inference.as_ref();
    let named = inference.and_then(|inference| inference.request.as_deref());
    let duration = seconds(&report.metrics);
    let Some(start) = report.start else {
        let Some(inference) = inference else { return };
        return then(&Step {
            id: inference.id.to_string(),
            request: named,
            inference: Some(inference),
            start: report.time - duration,
            end: report.time,
            dimensions: report.dimensions(),
            metrics: &report.metrics,
            upstream: &report.upstream,
        });
    };
    let own = report.dimension("instance_id").unwrap_or(&report.instance);
    let first = report.relayed.iter().map(|relayed| (relayed.start, &*relayed.id)).chain([(start, own)]).min();
    if let Some((at, id)) = first
        && named.is_none()
    {
        let _ = write!(request, "{id}@{at}");
    }
    let request = named.unwrap_or(request);
    then(&Step {
        id: format!("{own}@{start}"),
        request: Some(request),
        inference,
        start,
        end: start + duration,
        dimensions: report.dimensions(),
        metrics: &report.metrics,
        upstream: &report.upstream,
    });
    for relayed in &report.relayed {
        then(&Step {
            id: format!("{}@{}", relayed.id, relayed.start),
            request: Some(request),
            inference: None,
            start: relayed.start,
            end: relayed.start + seconds(&relayed.metrics),
            dimensions: Dimensions { stage: &relayed.stage, instance: &relayed.instance, labels: &[] },
            metrics: &relayed.metrics,
            upstream: &relayed.upstream,
        });
    }
}

impl Requests {
    /// Whether steps are of use.
    pub fn listens(&self) -> bool {
        self.keep || self.wanted
    }

    /// Takes in a step; `relayed` ones give way to what their own instance says.
    pub fn step(&mut self, step: &Step<'_>, tenant: &str, application: &str, timeout: Span, now: Timestamp) -> u64 {
        if self.keep && self.sampling.takes(step.request.unwrap_or(&step.id), step.end) {
            self.keep_step(step, tenant, application);
        }
        let Some(request) = step.request.filter(|_| self.wanted) else { return 0 };
        let part = Part {
            request: xxh3_128(request.as_bytes()),
            step: xxh3_64(step.id.as_bytes()),
            start: step.start,
            end: step.end,
            cost: cost(step.metrics),
            failed: failed(step.metrics),
            labels: step.dimensions.labels.iter().map(|(name, value)| ((&**name).into(), (&**value).into())).collect(),
        };
        // A step that comes after its request was complete makes no second one.
        if part.end + timeout <= now {
            return 1;
        }
        if self.open.len() >= OPEN_MAX && !self.open.contains_key(&part.request) {
            return 1;
        }
        self.add(part, timeout);
        0
    }

    fn add(&mut self, part: Part, timeout: Span) {
        if self.keep {
            self.log.push(Change::S(part.clone()));
        }
        let Part { request, step, start, end, cost, failed, labels } = part;
        // A request that was complete before this step, but has not counted yet, goes by another key.
        if let Some(open) = self.open.get(&request)
            && open.last + timeout < end
        {
            let (at, key) = (open.last + timeout, request.wrapping_add(open.last.as_micros() as u128 + 1));
            if let Some(open) = self.open.remove(&request) {
                self.ends.remove(&(at, request));
                self.ends.insert((at, key));
                self.open.insert(key, open);
            }
        }
        match self.open.get_mut(&request) {
            None => {
                let open = Open { first: start, last: end, cost, failed, steps: SmallVec::from_elem(step, 1), labels };
                self.open.insert(request, open);
                self.ends.insert((end + timeout, request));
            }
            Some(open) if open.steps.contains(&step) => {}
            Some(open) => {
                open.steps.push(step);
                open.first = open.first.min(start);
                open.cost += cost;
                open.failed |= failed;
                open.labels.retain(|label| labels.contains(label));
                if end > open.last {
                    self.ends.remove(&(open.last + timeout, request));
                    open.last = end;
                    self.ends.insert((end + timeout, request));
                }
            }
        }
    }

    /// When the next request will be complete.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.ends.first().map(|(at, _)| *at)
    }

    /// When the last one will be.
    pub fn last_end(&self) -> Option<Timestamp> {
        self.ends.last().map(|(at, _)| *at)
    }

    /// The next request that is complete by `now`.
    pub fn complete(&mut self, now: Timestamp) -> Option<Complete> {
        let (at, request) = self.ends.first().copied().filter(|(at, _)| *at <= now)?;
        self.ends.pop_first();
        let open = self.open.remove(&request)?;
        if self.keep {
            self.log.push(Change::C(request, at));
        }
        let metrics = [
            (REQUEST_TIME, Value::Number(open.last.since(open.first).as_seconds())),
            (REQUEST_COST, Value::Number(open.cost)),
            (REQUEST_SUCCESS, Value::Bool(!open.failed)),
        ];
        Some(Complete { metrics, labels: open.labels })
    }

    /// Lets go of all, when no objective asks any more.
    pub fn want(&mut self, wanted: bool) {
        self.wanted = wanted;
        if !wanted {
            self.open.clear();
            self.ends.clear();
        }
    }

    fn keep_step(&mut self, step: &Step<'_>, tenant: &str, application: &str) {
        let metrics: serde_json::Map<String, serde_json::Value> =
            step.metrics.iter().map(|(name, value)| (name.to_string(), json(value))).collect();
        let list = |texts: &[Text<'_>]| json(&texts).to_string();
        if let Some(inference) = step.inference {
            if self.kept.len() >= OPEN_MAX {
                self.kept.clear();
            }
            self.kept.insert(xxh3_128(inference.id.as_bytes()));
        }
        let row = StepRow {
            tenant: tenant.to_owned(),
            application: application.to_owned(),
            id: step.id.clone(),
            request: step.request.map(str::to_owned),
            draw: (xxh3_64(step.request.unwrap_or(&step.id).as_bytes()) % 1_000) as i64,
            inference: step.inference.map(|inference| inference.id.to_string()),
            start: step.start,
            end: step.end,
            slice: slice::name_of(&step.dimensions),
            metrics: serde_json::Value::from(metrics).to_string(),
            prediction: step.inference.and_then(|inference| inference.prediction.as_ref()).map(|prediction| {
                match prediction {
                    Prediction::Class(class) => json(class),
                    Prediction::Number(number) => json(number),
                    Prediction::Scores(scores) => {
                        scores.iter().map(|(class, score)| (class.to_string(), json(score))).collect()
                    }
                }
                .to_string()
            }),
            sources: step.inference.map_or_else(|| "[]".to_owned(), |inference| list(&inference.sources)),
            upstream: list(step.upstream),
        };
        // What an instance says of its own step, with its labels, goes before what others pass on.
        if self.steps.get(&row.id).is_none_or(|known| known.slice.len() < row.slice.len()) {
            self.steps.insert(row.id.clone(), row);
        }
    }

    /// Takes in ground truth, where the inference's step was kept or may still come.
    pub fn truth(&mut self, inference: &str, truth: &Value<'_>, at: Timestamp, tenant: &str, application: &str) {
        let takes = |this: &mut Requests| {
            this.kept.remove(&xxh3_128(inference.as_bytes())) || this.truth_sampling.takes(inference, at)
        };
        if self.keep && takes(self) {
            self.truths.push(TruthRow {
                tenant: tenant.to_owned(),
                application: application.to_owned(),
                inference: inference.to_owned(),
                truth: truth.to_string(),
                at,
            });
        }
    }

    /// What changed since the last call, for the store.
    pub fn take_changed(&mut self, steps: &mut Vec<StepRow>, truths: &mut Vec<TruthRow>) -> Vec<Change> {
        steps.extend(std::mem::take(&mut self.steps).into_values());
        truths.append(&mut self.truths);
        std::mem::take(&mut self.log)
    }

    /// Which steps are going to be kept, for the store.
    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// Takes back what [`Requests::sampling`] said.
    pub fn restore_sampling(&mut self, sampling: Sampling) {
        self.sampling = sampling;
    }

    /// Takes back a logged change, the oldest first.
    pub fn restore(&mut self, change: Change, timeout: Span) {
        if !self.wanted {
            return;
        }
        let keep = std::mem::replace(&mut self.keep, false);
        match change {
            Change::S(part) => self.add(part, timeout),
            Change::C(request, _) => {
                if let Some(open) = self.open.remove(&request) {
                    self.ends.remove(&(open.last + timeout, request));
                }
            }
        }
        self.keep = keep;
    }
}

fn json(value: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}
