//! Requests as they went: steps, the time in each, and the critical path.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::Value as Json;

use super::Result;
use super::context::Context;
use super::facts::{Labels, Of, labels_of};
use crate::store::{Asked, AskedRow};
use crate::time::{Span, Timestamp};

/// Steps that are read at once.
pub(super) const STEPS_MAX: u64 = 5_000;
/// Steps that are drawn at once, of a time before and a time now together.
const DRAWN_MAX: u64 = 3_000;

const COLUMNS: &str =
    "id, request, inference, start_at, end_at, slice, metrics, prediction, sources, upstream FROM steps";
const TIMES: &str = "request, inference, start_at, end_at, slice, sources, upstream FROM steps";

/// One step of a request.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub id: String,
    pub request: Option<String>,
    pub inference: Option<String>,
    pub start: Timestamp,
    pub end: Timestamp,
    pub labels: Arc<Labels>,
    pub metrics: BTreeMap<String, Json>,
    pub prediction: Json,
    pub sources: Vec<String>,
    pub upstream: Vec<String>,
}

impl Step {
    pub fn stage(&self) -> &str {
        self.labels.get("stage").map_or("", String::as_str)
    }

    pub fn instance(&self) -> &str {
        self.labels.get("instance").map_or("", String::as_str)
    }

    /// A metric that is a number.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metrics
            .get(name)
            .and_then(|value| value.as_f64().or(value.as_bool().map(|flag| f64::from(u8::from(flag)))))
    }

    /// The sum of its costs.
    pub fn cost(&self) -> Option<f64> {
        let costs: Vec<f64> =
            self.metrics.iter().filter(|(name, _)| name.starts_with("cost.")).filter_map(|(_, v)| v.as_f64()).collect();
        (!costs.is_empty()).then(|| costs.iter().sum())
    }

    /// The predicted class, or number by its spelling.
    pub fn class(&self) -> Option<String> {
        match &self.prediction {
            Json::String(class) => Some(class.clone()),
            Json::Number(number) => Some(number.to_string()),
            Json::Object(scores) => {
                best(scores.iter().filter_map(|(class, score)| Some((class.as_str(), score.as_f64()?))))
            }
            _ => None,
        }
    }
}

/// The class with the greatest score; the first of equals.
pub(super) fn best<'s>(scores: impl Iterator<Item = (&'s str, f64)>) -> Option<String> {
    let best = scores.reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map(|(class, _)| class.to_owned())
}

/// Labels by the text that they are read from: few slices have many steps.
type Known = HashMap<String, Arc<Labels>>;

fn read(row: &AskedRow, known: &mut Known) -> Result<Step> {
    Ok(Step {
        id: row.text("id")?,
        metrics: serde_json::from_value(row.json("metrics")?).unwrap_or_default(),
        prediction: row.json("prediction")?,
        ..read_times(row, known)?
    })
}

/// A step without its id, metrics and prediction.
fn read_times(row: &AskedRow, known: &mut Known) -> Result<Step> {
    let texts = |text: String| if text == "[]" { Vec::new() } else { serde_json::from_str(&text).unwrap_or_default() };
    let slice = row.text("slice")?;
    let labels = match known.get(&slice) {
        Some(labels) => labels.clone(),
        None => {
            let labels = Arc::new(labels_of(&row.json("slice")?));
            known.insert(slice, labels.clone());
            labels
        }
    };
    Ok(Step {
        id: String::new(),
        request: row.maybe("request")?,
        inference: row.maybe("inference")?,
        start: row.time("start_at")?,
        end: row.time("end_at")?,
        labels,
        metrics: BTreeMap::new(),
        prediction: Json::Null,
        sources: texts(row.text("sources")?),
        upstream: texts(row.text("upstream")?),
    })
}

impl Context<'_> {
    /// The newest steps that ended in a period, all that is known of them.
    pub async fn newest_steps(
        &mut self,
        name: &str,
        of: &Of<'_>,
        (from, until): (Timestamp, Timestamp),
    ) -> Result<Vec<Step>> {
        let sql = format!(
            "SELECT {COLUMNS} WHERE tenant = $1 AND application = $2 AND end_at >= $3 AND end_at < $4 \
             ORDER BY end_at DESC, id LIMIT {STEPS_MAX}"
        );
        let arguments: [Json; 4] = [of.tenant.into(), of.application.into(), from.into(), until.into()];
        let rows = self.ask(Asked::new(name, sql, arguments)).await?;
        let mut known = Known::default();
        rows.iter().map(|row| read(row, &mut known)).collect()
    }

    /// Steps of whole requests that ended in a period, with their times: all, or where they are many a
    /// part of the requests, drawn alike over the period.
    pub async fn drawn_steps(
        &mut self,
        name: &str,
        of: &Of<'_>,
        (from, until): (Timestamp, Timestamp),
    ) -> Result<Vec<Step>> {
        let whose = "tenant = $1 AND application = $2 AND end_at >= $3 AND end_at < $4";
        let arguments: [Json; 4] = [of.tenant.into(), of.application.into(), from.into(), until.into()];
        let sql = format!("SELECT CAST(COUNT(*) AS BIGINT) AS n FROM steps WHERE {whose}");
        let rows = self.store.ask(&Asked::new("", sql, arguments.clone())).await?;
        let n = rows.first().map(|row| row.count("n")).transpose()?.unwrap_or(0);
        let draw = (1_000 * DRAWN_MAX / n.max(1)).clamp(1, 1_000);
        let sql = format!("SELECT {TIMES} WHERE {whose} AND draw < $5 ORDER BY end_at, id");
        let rows = self.ask(Asked::new(name, sql, arguments.into_iter().chain([draw.into()]))).await?;
        let mut known = Known::default();
        rows.iter().map(|row| read_times(row, &mut known)).collect()
    }

    /// Steps by a column: `request` or `inference`.
    pub async fn steps_by(
        &mut self,
        name: &str,
        of: Option<&Of<'_>>,
        column: &str,
        value: &str,
    ) -> Result<Vec<(Step, String, String)>> {
        let mut sql = format!("SELECT tenant, application, {COLUMNS} WHERE {column} = $1");
        let mut arguments: Vec<Json> = vec![value.into()];
        if let Some(of) = of {
            sql.push_str(" AND tenant = $2 AND application = $3");
            arguments.extend([of.tenant.into(), of.application.into()]);
        }
        sql.push_str(" ORDER BY start_at, end_at, id LIMIT 1000");
        let rows = self.ask(Asked::new(name, sql, arguments)).await?;
        let mut known = Known::default();
        rows.iter().map(|row| Ok((read(row, &mut known)?, row.text("tenant")?, row.text("application")?))).collect()
    }

    /// What turned out to be true of inferences, by inference.
    pub async fn truths(
        &mut self,
        of: &Of<'_>,
        (from, until): (Timestamp, Timestamp),
    ) -> Result<BTreeMap<String, String>> {
        let sql = "SELECT inference, truth FROM truths WHERE tenant = $1 AND application = $2 AND at >= $3 AND at < $4 ORDER BY inference";
        let arguments: [Json; 4] = [of.tenant.into(), of.application.into(), from.into(), until.into()];
        let rows = self.ask(Asked::new("what turned out to be true", sql, arguments)).await?;
        rows.iter().map(|row| Ok((row.text("inference")?, row.text("truth")?))).collect()
    }
}

/// Steps by the request that they serve.
pub(super) fn requests(steps: Vec<Step>) -> Vec<Vec<Step>> {
    let mut by_request: BTreeMap<String, Vec<Step>> = BTreeMap::new();
    for step in steps {
        if let Some(request) = step.request.clone() {
            by_request.entry(request).or_default().push(step);
        }
    }
    by_request.into_values().collect()
}

/// A stretch of a request: the step that it goes to, or none for waiting before the step that follows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stretch {
    pub step: Option<usize>,
    pub from: Timestamp,
    pub until: Timestamp,
}

impl Stretch {
    pub fn seconds(&self) -> f64 {
        self.until.since(self.from).as_seconds()
    }
}

/// The time of a request, from its first start to its last end, taken apart without rest: each
/// instant goes to the step at work that holds up the request. Of steps that hold others, the
/// inner one works and the outer one waits (where reports say what is before what, only of those
/// in one line); of steps side by side, the one that ends last. What no step fills is waiting.
pub(super) fn critical_path(steps: &[Step]) -> Vec<Stretch> {
    let mut times: Vec<Timestamp> = steps.iter().flat_map(|step| [step.start, step.end]).collect();
    times.sort_unstable();
    times.dedup();
    let before = before(steps);
    let linked = before.iter().any(|those| !those.is_empty());
    let mut path: Vec<Stretch> = Vec::new();
    for pair in times.windows(2) {
        let (from, until) = (pair[0], pair[1]);
        let at_work: Vec<usize> =
            (0..steps.len()).filter(|i| steps[*i].start <= from && steps[*i].end >= until).collect();
        let holds = |outer: usize, inner: usize| {
            let (outer_step, inner_step) = (&steps[outer], &steps[inner]);
            let within = outer_step.start <= inner_step.start && inner_step.end <= outer_step.end;
            let equal = outer_step.start == inner_step.start && inner_step.end == outer_step.end;
            within && !equal && (!linked || before[inner].contains(&outer) || before[outer].contains(&inner))
        };
        let inner = at_work.iter().copied().filter(|i| !at_work.iter().any(|other| other != i && holds(*i, *other)));
        let step = inner.max_by_key(|i| (steps[*i].end, std::cmp::Reverse(*i)));
        match path.last_mut() {
            Some(last) if last.step == step => last.until = until,
            _ => path.push(Stretch { step, from, until }),
        }
    }
    path
}

/// For each step, the steps before it, as far as upstream instances and sources say.
pub(super) fn before(steps: &[Step]) -> Vec<BTreeSet<usize>> {
    let direct = |step: &Step| -> BTreeSet<usize> {
        let is_before = |other: &Step| {
            let fed = other.inference.as_ref().is_some_and(|id| step.sources.contains(id));
            fed || step.upstream.iter().any(|name| name == other.instance())
        };
        (0..steps.len()).filter(|index| is_before(&steps[*index])).collect()
    };
    let mut before: Vec<BTreeSet<usize>> = steps.iter().map(direct).collect();
    // Those before them are before too; a pipeline is not long.
    loop {
        let mut grew = false;
        for index in 0..steps.len() {
            let further: BTreeSet<usize> =
                before[index].iter().flat_map(|other| before[*other].iter().copied()).collect();
            let size = before[index].len();
            before[index].extend(further);
            grew |= before[index].len() > size;
        }
        if !grew {
            return before;
        }
    }
}

/// The seconds of a request by (stage, instance); waiting stands as (`stage it waits for`, "waiting").
pub(super) fn own_times(steps: &[Step]) -> BTreeMap<(String, String), f64> {
    let mut own: BTreeMap<(String, String), f64> = BTreeMap::new();
    let path = critical_path(steps);
    for (index, stretch) in path.iter().enumerate() {
        let key = match stretch.step {
            Some(step) => (steps[step].stage().to_owned(), steps[step].instance().to_owned()),
            None => {
                let next = path.get(index + 1).and_then(|next| next.step);
                (next.map_or_else(String::new, |step| steps[step].stage().to_owned()), WAITING.to_owned())
            }
        };
        *own.entry(key).or_default() += stretch.seconds();
    }
    own
}

/// Stands for the instance where a request waits.
pub(super) const WAITING: &str = "waiting";

/// From the first start to the last end.
pub(super) fn duration(steps: &[Step]) -> Span {
    let first = steps.iter().map(|step| step.start).min();
    let last = steps.iter().map(|step| step.end).max();
    first.zip(last).map_or(Span::ZERO, |(first, last)| last.since(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(stage: &str, start: i64, end: i64) -> Step {
        Step {
            id: stage.to_owned(),
            request: Some("q".to_owned()),
            inference: None,
            start: Timestamp::from_micros(start * 1_000_000),
            end: Timestamp::from_micros(end * 1_000_000),
            labels: Arc::new(Labels::from([
                ("stage".to_owned(), stage.to_owned()),
                ("instance".to_owned(), stage.to_owned()),
            ])),
            metrics: BTreeMap::new(),
            prediction: Json::Null,
            sources: Vec::new(),
            upstream: Vec::new(),
        }
    }

    fn times(steps: &[Step]) -> Vec<(String, f64)> {
        own_times(steps).into_iter().map(|((stage, instance), s)| (format!("{stage}/{instance}"), s)).collect()
    }

    #[test]
    fn a_pipeline_is_its_steps_and_the_waiting_between() {
        let found = times(&[step("a", 0, 2), step("b", 3, 7)]);
        assert_eq!(found, [("a/a".to_owned(), 2.0), ("b/b".to_owned(), 4.0), ("b/waiting".to_owned(), 1.0)]);
    }

    #[test]
    fn a_step_that_holds_others_has_its_own_time_only() {
        let found = times(&[step("gateway", 0, 10), step("model", 2, 9)]);
        assert_eq!(found, [("gateway/gateway".to_owned(), 3.0), ("model/model".to_owned(), 7.0)]);
    }

    #[test]
    fn of_steps_side_by_side_the_last_one_holds_up() {
        let end = Step { upstream: vec!["quick".to_owned(), "slow".to_owned()], ..step("end", 8, 9) };
        let found = times(&[step("quick", 0, 3), step("slow", 0, 8), end]);
        assert_eq!(found, [("end/end".to_owned(), 1.0), ("slow/slow".to_owned(), 8.0)]);
        let found = times(&[step("quick", 0, 3), step("slow", 1, 8)]);
        assert_eq!(found, [("quick/quick".to_owned(), 1.0), ("slow/slow".to_owned(), 7.0)]);
    }
}
