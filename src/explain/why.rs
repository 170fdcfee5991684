//! Why is there this violation?

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use utoipa::ToSchema;

use super::context::Context;
use super::{ExplainError, Subject, View, cause, which};
use crate::contract::{Condition, Scalar};
use crate::engine::{Contributor, Counterfactual, Detail, Evidence, Window, short, short_value};
use crate::store::{
    ActionQuery, ActionRecord, Asked, DeliveryRecord, Store, StoreError, TransitionRecord, ViolationRecord,
};
use crate::time::Timestamp;

/// The answer to `why`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Why {
    /// `why`.
    pub question: String,
    /// The answer in one sentence.
    pub sentence: String,
    /// What would have met the promise, in one sentence.
    pub how_it_could_have_been_met: Option<String>,
    /// The violation.
    pub violation: ViolationRecord,
    /// What was promised.
    pub promise: Promise,
    /// What was found when it opened.
    pub found: Found,
    /// What would have met the promise.
    #[schema(value_type = Option<Object>)]
    pub counterfactual: Option<Counterfactual>,
    /// Who brought it about, the greatest part first: instances, or the inputs of a rule.
    #[schema(value_type = Vec<Object>)]
    pub contributors: Vec<Contributor>,
    /// How it went on.
    pub transitions: Vec<TransitionRecord>,
    /// What was done about it, and what came of that.
    pub actions: Vec<ActionRecord>,
    /// Who was told.
    pub deliveries: Vec<DeliveryRecord>,
    /// What other questions bring to light of it, where enough is stored: the component that
    /// brought it about, the slices that carry it.
    pub further: Vec<Further>,
    /// The queries that brought the numbers.
    pub queries: Vec<Asked>,
}

/// What another question says of the violation.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Further {
    /// Which question.
    pub question: String,
    /// Its answer in plain sentences.
    pub sentences: Vec<String>,
    /// Where its numbers are: a path of the HTTP API.
    pub href: String,
}

/// What was promised.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Promise {
    /// The contract...
    pub contract: String,
    /// ...in which version.
    pub version: String,
    /// The objective.
    pub objective: String,
    /// What is measured.
    pub indicator: String,
    /// What was promised of it; none for rules.
    #[schema(value_type = Option<Object>)]
    pub target: Option<Condition>,
    /// The party that answers for it.
    pub responsible: Option<String>,
}

/// What was found.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Found {
    /// The value.
    #[schema(value_type = Option<f64>)]
    pub value: Option<Scalar>,
    /// The window it was found in.
    #[schema(value_type = Object)]
    pub window: Window,
    /// Observations in the window.
    pub samples: u64,
    /// How far the value is from the target, in the attribute's unit.
    pub off_by: Option<f64>,
    /// The same as a share of the target.
    pub off_by_share: Option<f64>,
    /// The window end of the first breach.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// The engine's own words.
    pub message: String,
    /// What the value rests on: a confusion matrix, groups, the drift that chance makes...
    #[schema(value_type = Option<Object>)]
    pub detail: Option<Box<Detail>>,
}

/// What of a stored transition the answer needs.
#[derive(Deserialize)]
struct Opening {
    since: Timestamp,
    value: Option<Scalar>,
    samples: u64,
    target: Option<Condition>,
    message: String,
    evidence: Option<Evidence>,
}

/// Kinds of mistakes that an answer names at most.
const MISTAKES_MAX: usize = 10;
/// Actions and deliveries that an answer lists at most.
const LISTED_MAX: u32 = 100;

pub(super) async fn answer(store: &Store, subject: &Subject) -> Result<Why, ExplainError> {
    let asks = || ExplainError::Subject("ask why about a violation: its id is missing".to_owned());
    let id = subject.violation.as_deref().ok_or_else(asks)?;
    let missing = || ExplainError::NotFound("violation", id.to_owned());
    let mut violation = store.violation(id).await?.ok_or_else(missing)?;
    let mut view = Context::new(store, "why", subject);
    let (mut transitions, asked) = store.transitions(id).await?;
    view.queries.push(asked);
    let opening = transitions.iter().find(|transition| transition.state == "open").ok_or_else(missing)?;
    let detail: Opening =
        serde_json::from_value(opening.detail.clone()).map_err(StoreError::unreadable("transitions"))?;
    let mut evidence = detail.evidence.ok_or_else(missing)?;
    if view.view == View::Consumer {
        let contract = view.contract(&violation.contract, Some(&violation.version)).await?;
        view.read_for(&contract);
    }
    let wanted = ActionQuery { violation: Some(id.to_owned()), limit: LISTED_MAX, ..ActionQuery::default() };
    let mut actions = store.actions(&wanted).await?.items;
    let mut deliveries = store.deliveries(Some(id), None, None, LISTED_MAX).await?.items;
    if view.view == View::Consumer {
        // What the provider is made of, how it mends it and whom it tells is not the consumer's.
        mask(&view, &mut violation.series);
        if !view.shows("stage") || !view.shows("instance") {
            evidence.contributors.clear();
        }
        for transition in &mut transitions {
            if let Some(detail) = transition.detail.as_object_mut() {
                detail.remove("evidence");
            }
            mask(&view, &mut transition.detail["series"]);
            transition.detail["message"] = format!("{}/{}", violation.contract, violation.objective).into();
        }
        actions.iter_mut().for_each(|action| action.params = Json::Null);
        deliveries.clear();
    }
    let further = further(&mut view).await?;
    let (off_by, off_by_share) = distance(detail.value.as_ref(), detail.target.as_ref());
    let promise = Promise {
        contract: violation.contract.clone(),
        version: violation.version.clone(),
        objective: violation.objective.clone(),
        indicator: evidence.indicator,
        target: detail.target,
        responsible: violation.responsible.clone(),
    };
    let found = Found {
        value: detail.value,
        window: evidence.window,
        samples: detail.samples,
        off_by,
        off_by_share,
        since: detail.since,
        message: detail.message,
        detail: evidence.detail,
    };
    Ok(Why {
        question: "why".to_owned(),
        sentence: sentence(&violation, &promise, &found, &evidence.contributors, &actions),
        how_it_could_have_been_met: evidence.counterfactual.as_ref().and_then(|c| could_have(c, &found)),
        violation,
        promise,
        found,
        counterfactual: evidence.counterfactual,
        contributors: evidence.contributors,
        transitions,
        actions,
        deliveries,
        further,
        queries: view.queries,
    })
}

/// What the questions after the cause find, as far as the data allows. They are asked at once.
async fn further(view: &mut Context<'_>) -> Result<Vec<Further>, ExplainError> {
    let (store, subject) = (view.store.clone(), view.subject.clone());
    // The one on another core.
    let cause = tokio::spawn(async move { cause::answer(Context::new(&store, "root-cause", &subject)).await });
    let which = which::answer(Context::new(view.store, "which", &view.subject)).await;
    let cause = cause.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    let mut found = Vec::new();
    for (answer, named) in [(cause, "/causes/0"), (which, "/slices/0/significant")] {
        let answer = match answer {
            Ok(answer) => answer,
            Err(ExplainError::Store(error)) => return Err(error.into()),
            Err(_) => continue,
        };
        if matches!(answer.evidence.pointer(named), None | Some(Json::Bool(false))) {
            continue;
        }
        let href =
            format!("/v1/explain/{}?violation={}", answer.question, view.subject.violation.as_deref().unwrap_or(""));
        found.push(Further { question: answer.question, sentences: answer.sentences, href });
        view.queries.extend(answer.queries);
    }
    Ok(found)
}

/// Keeps back the values of series labels that the reader may not see.
fn mask(view: &Context<'_>, series: &mut Json) {
    for (name, value) in series.as_object_mut().into_iter().flatten() {
        if !view.shows(name) {
            *value = view.shown(name, "").into();
        }
    }
}

/// How far a value is from the nearest bound, and that as a share of the bound.
fn distance(value: Option<&Scalar>, target: Option<&Condition>) -> (Option<f64>, Option<f64>) {
    let (Some(value), Some(target)) = (value.and_then(|value| value.0.as_number()), target) else {
        return (None, None);
    };
    let (low, high) = target.bounds();
    let bound = if value > high { high } else { low };
    if !bound.is_finite() {
        return (None, None);
    }
    let off = (value - bound).abs();
    (Some(off), (bound != 0.0).then(|| off / bound.abs()))
}

fn sentence(
    violation: &ViolationRecord,
    promise: &Promise,
    found: &Found,
    contributors: &[Contributor],
    actions: &[ActionRecord],
) -> String {
    let mut text = format!("{}/{} was broken", promise.contract, promise.objective);
    let series = labels(&violation.series);
    if !series.is_empty() {
        let _ = write!(text, " for {series}");
    }
    match (&found.value, &promise.target) {
        (Some(value), Some(target)) => {
            let _ = write!(text, ": {} was {}, promised is {target}", promise.indicator, short_value(value));
            if let Some(Detail::Drift(drift)) = found.detail.as_deref() {
                let _ = write!(text, " (chance alone makes it {})", short(drift.expected));
            }
        }
        _ => {
            let _ = write!(text, ": {}", found.message);
        }
    }
    if let Some(share) = found.off_by_share {
        let _ = write!(text, ", off by {} %", short(share * 100.0));
    }
    let _ = write!(text, " ({} observations", found.samples);
    if found.window.start < found.window.end {
        let _ = write!(text, " from {} to {}", found.window.start, found.window.end);
    }
    let _ = write!(text, "), breached since {}", found.since);
    let bad: u64 = contributors.iter().filter_map(|contributor| contributor.bad).sum();
    if let Some(first) = contributors.first()
        && let Some(its) = first.bad.filter(|its| *its > 0)
    {
        let _ = write!(text, "; {its} of {bad} bad observations came from {}", first.source);
    }
    match violation.resolved_at {
        Some(at) => {
            let _ = write!(text, "; it resolved at {at}");
        }
        None => text.push_str("; it is still open"),
    }
    match actions.iter().find(|action| action.state != "suppressed") {
        Some(action) => {
            let _ = write!(text, "; action {} is {}", action.kind, action.state.replace('_', " "));
        }
        None if !actions.is_empty() => text.push_str("; its actions were held back"),
        None => {}
    }
    text.push('.');
    text
}

fn could_have(counterfactual: &Counterfactual, found: &Found) -> Option<String> {
    if let (Some(bad), Some(allowed)) = (counterfactual.bad, counterfactual.bad_allowed) {
        let fewer = bad.saturating_sub(allowed);
        return Some(format!(
            "{fewer} fewer bad observations would have met the promise: {bad} of {} were bad, {allowed} may be.",
            found.samples
        ));
    }
    counterfactual.value.map(|value| format!("A value of {} would have met the promise.", short(value)))
}

fn labels(series: &Json) -> String {
    let pairs = series.as_object().into_iter().flatten();
    pairs.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())).collect::<Vec<_>>().join(", ")
}

/// What a value rests on, in lines under a title.
fn basis(detail: &Detail) -> Option<(&'static str, Vec<String>)> {
    match detail {
        Detail::Confusion { classes, matrix } => {
            let wrong = |truth: usize| {
                let row = matrix[truth].iter().enumerate().filter(move |(predicted, n)| *predicted != truth && **n > 0);
                row.map(move |(predicted, n)| (*n, truth, predicted))
            };
            let mut mistakes: Vec<(u64, usize, usize)> = (0..classes.len()).flat_map(wrong).collect();
            mistakes.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
            let line = |(n, truth, predicted): &(u64, usize, usize)| {
                let all: u64 = matrix[*truth].iter().sum();
                format!("{} was taken for {}: {n} of {all}", classes[*truth], classes[*predicted])
            };
            Some(("What was mistaken for what", mistakes.iter().take(MISTAKES_MAX).map(line).collect()))
        }
        Detail::Groups { groups } => {
            let line = |group: &crate::engine::Part| {
                let value = group.value.map_or("no value".to_owned(), short);
                let left_out = if group.compared { "" } else { ", too few to compare" };
                format!("{}: {value} of {} observations{left_out}", group.group, group.samples)
            };
            Some(("The groups", groups.iter().map(line).collect()))
        }
        Detail::Drift(drift) => {
            let mut rows = vec![format!(
                "against {} values, baseline {}; {} is to be expected by chance",
                drift.baseline_samples,
                drift.baseline,
                short(drift.expected)
            )];
            rows.extend(drift.p_value.map(|p| format!("the chance of a distance as great is {}", short(p))));
            Some(("What it was compared with", rows))
        }
        Detail::Changes { at, mean } => {
            let mut rows: Vec<String> = at.iter().map(|at| format!("a change was found at {at}")).collect();
            rows.push(format!("the mean since is {}", short(*mean)));
            Some(("When it changed", rows))
        }
        Detail::Limits { seen, centre, spread, windows } => {
            let row = format!(
                "{} where {} ± {} was usual in {windows} windows",
                short(*seen),
                short(*centre),
                short(*spread)
            );
            Some(("What it was compared with", vec![row]))
        }
    }
}

impl Why {
    /// For a terminal.
    pub fn text(&self) -> String {
        self.lines("", "  ", |title| format!("\n{title}\n"))
    }

    /// For a ticket.
    pub fn markdown(&self) -> String {
        format!(
            "## Violation {}\n\n{}",
            self.violation.id,
            self.lines("\n", "- ", |title| format!("\n### {title}\n\n"))
        )
    }

    fn lines(&self, gap: &str, item: &str, heading: impl Fn(&str) -> String) -> String {
        let mut text = format!("{}\n", self.sentence);
        if let Some(how) = &self.how_it_could_have_been_met {
            let _ = writeln!(text, "{gap}{how}");
        }
        if !self.contributors.is_empty() {
            text.push_str(&heading("Who contributed"));
            for part in &self.contributors {
                let value = part.value.map(|value| format!(", value {}", short(value))).unwrap_or_default();
                let bad = part.bad.map(|bad| format!("{bad} bad of ")).unwrap_or_default();
                let _ = writeln!(text, "{item}{}: {bad}{} observations{value}", part.source, part.samples);
            }
        }
        if let Some((title, rows)) = self.found.detail.as_ref().and_then(|detail| basis(detail)) {
            text.push_str(&heading(title));
            rows.iter().for_each(|row| text.push_str(&format!("{item}{row}\n")));
        }
        if !self.further.is_empty() {
            text.push_str(&heading("What brought it about"));
            for further in &self.further {
                let _ = writeln!(text, "{item}{}: {}", further.question, further.sentences.join(" "));
            }
        }
        text.push_str(&heading("What happened"));
        for transition in &self.transitions {
            let message = transition.detail.get("message").and_then(Json::as_str).unwrap_or_default();
            let _ = writeln!(text, "{item}{} {}: {message}", transition.at, transition.state);
        }
        if let (Some(at), Some(by)) = (&self.violation.acknowledged_at, &self.violation.acknowledged_by) {
            let _ = writeln!(text, "{item}{at} acknowledged by {by}");
        }
        if !self.actions.is_empty() {
            text.push_str(&heading("What was done"));
            for action in &self.actions {
                let reason = action.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
                let _ =
                    writeln!(text, "{item}{} {} {}: {}{reason}", action.at, action.kind, action.params, action.state);
                for outcome in &action.outcomes {
                    let message = outcome.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
                    let _ = writeln!(text, "{item}{} {} {}{message}", outcome.at, action.kind, outcome.state);
                }
            }
        }
        if !self.deliveries.is_empty() {
            text.push_str(&heading("Who was told"));
            for delivery in &self.deliveries {
                let error = delivery.error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
                let _ = writeln!(text, "{item}{}: {}{error}", delivery.destination, delivery.state);
            }
        }
        text
    }
}
