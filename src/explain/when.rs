//! When did what happen, and what coincided?

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::context::{Context, span_json};
use super::facts::{ComponentPane, Of};
use super::statistics::{Moments, welch};
use super::{Answer, Result};
use crate::contract::{Contract, REQUEST_COST, REQUEST_TIME};
use crate::engine::{REQUEST_STAGE, short};
use crate::store::Asked;
use crate::time::{Span, Timestamp};

/// A change point has this many panes on either side at least.
const SIDE_MIN: usize = 4;
/// A change point's corrected chance is below this, and the mean changes by this share.
const ALPHA: f64 = 0.001;
const EFFECT_MIN: f64 = 0.1;
const CHANGES_MAX: usize = 50;
/// Longer periods are searched for change points only around the newest violations.
const SEARCHED_MAX: Span = Span::seconds(3_600);
const AROUND_MAX: usize = 3;
const BEFORE: Span = Span::seconds(1_200);
const AFTER: Span = Span::seconds(600);
const EVENTS_MAX: u32 = 1_000;

/// Something that happened.
struct Event {
    at: Timestamp,
    kind: &'static str,
    words: String,
    id: Json,
}

pub(super) async fn answer(mut context: Context<'_>) -> Result<Answer> {
    let contract = context.asked_contract().await?;
    let name = contract.metadata.name.clone();
    let (tenant, application) = (contract.spec.scope.tenant.clone(), contract.spec.scope.application.clone());
    let of = Of { tenant: &tenant, application: &application };
    let clock = context.clock(&tenant, &application).await?;
    let period = context.period(clock, None)?;
    let mut events = Vec::new();
    transitions(&mut context, &name, period, &mut events).await?;
    actions(&mut context, &name, period, &mut events).await?;
    versions(&mut context, &name, period, &mut events).await?;
    let panes = panes(&mut context, &contract, &of, period, &events).await?;
    for change in changes(&panes) {
        events.push(Event {
            at: change.at,
            kind: "change",
            words: format!(
                "mean {} of {} went from {} to {}", change.attribute, context.shown("stage", &change.stage),
                short(change.before), short(change.after)
            ),
            id: json!({"attribute": change.attribute, "stage": context.shown("stage", &change.stage), "before": change.before, "after": change.after, "p": change.p}),
        });
    }
    events.sort_by(|a, b| (a.at, a.kind, &a.words).cmp(&(b.at, b.kind, &b.words)));
    let count = |kind: &str| events.iter().filter(|event| event.kind == kind).count();
    let mut sentences = vec![format!(
        "From {} until {}, {name} saw {} violations open and {} resolve, {} actions, {} new versions and {} changes of what components observe.",
        period.0,
        period.1,
        count("opened"),
        count("resolved"),
        count("action"),
        count("version"),
        count("change")
    )];
    // What happened shortly before a violation opened, or in its first window.
    let longest = contract.indicators().map(|(_, indicator)| indicator.window()).max().unwrap_or(Span::ZERO);
    let near = Span::from_micros((2 * longest.as_micros()).max(Span::seconds(120).as_micros()));
    let mut coincided = Vec::new();
    for opened in events.iter().filter(|event| event.kind == "opened") {
        let before = |event: &&Event| match event.kind {
            // What it caused itself coincides with nothing.
            "action" => event.at < opened.at && event.at + near >= opened.at,
            "version" | "change" => event.at <= opened.at && event.at + near >= opened.at,
            _ => false,
        };
        let those: Vec<&Event> = events.iter().filter(before).collect();
        if let Some(last) = those.last() {
            sentences.push(format!(
                "Within {} s before {} at {}: {}.",
                short(near.as_seconds()),
                opened.words,
                opened.at,
                last.words
            ));
        }
        coincided.push(json!({"violation": opened.id, "at": opened.at, "with": those.iter().map(|event| json!({"at": event.at, "kind": event.kind, "what": event.words, "id": event.id})).collect::<Vec<_>>()}));
    }
    sentences.truncate(8);
    let rows =
        events.iter().map(|event| vec![event.at.to_string(), event.kind.to_owned(), event.words.clone()]).collect();
    context.section("Timeline", &["at", "what", ""], rows);
    let evidence = json!({
        "period": span_json(period),
        "events": events.iter().map(|event| json!({"at": event.at, "kind": event.kind, "what": event.words, "id": event.id})).collect::<Vec<_>>(),
        "coincided": coincided,
    });
    Ok(context.answer(sentences, evidence))
}

/// Panes of what the contract's objectives are about: of the whole period if it is short, else around
/// the newest violations.
async fn panes(
    context: &mut Context<'_>,
    contract: &Contract,
    of: &Of<'_>,
    period: (Timestamp, Timestamp),
    events: &[Event],
) -> Result<Vec<ComponentPane>> {
    let read: BTreeSet<&str> = contract.indicators().map(|(_, indicator)| indicator.attribute.as_str()).collect();
    let mut attributes = context.attributes(of).await?;
    let times = [REQUEST_TIME, "service.late", "service.remaining_time"];
    attributes.retain(|name| {
        read.contains(name.as_str())
            || name == "service.response_time" && times.iter().any(|time| read.contains(time))
            || name.starts_with("cost.") && read.contains(REQUEST_COST)
    });
    let mut searched = vec![period];
    if period.1.since(period.0) > SEARCHED_MAX {
        let opened = events.iter().filter(|event| event.kind == "opened").map(|event| event.at);
        let newest: BTreeSet<Timestamp> = opened.collect();
        searched = newest.iter().rev().take(AROUND_MAX).map(|at| (*at - BEFORE, *at + AFTER)).collect();
    }
    searched.sort_unstable();
    let mut panes = Vec::new();
    let mut searched_until = period.0;
    for (from, until) in searched {
        let (from, until) = (from.max(searched_until), until.min(period.1));
        if from < until {
            let name = "what each component observed";
            panes.extend(context.by_component(name, of, &attributes, (from, until)).await?);
            searched_until = until;
        }
    }
    Ok(panes)
}

async fn transitions(
    context: &mut Context<'_>,
    contract: &str,
    period: (Timestamp, Timestamp),
    events: &mut Vec<Event>,
) -> Result<()> {
    let sql = format!(
        "SELECT t.violation, t.state, t.at, v.objective, v.series FROM transitions t JOIN violations v ON v.id = t.violation \
         WHERE v.contract = $1 AND t.at >= $2 AND t.at < $3 ORDER BY t.at, t.violation, t.state LIMIT {EVENTS_MAX}"
    );
    let arguments: [Json; 3] = [contract.into(), period.0.into(), period.1.into()];
    for row in context.ask(Asked::new("transitions of violations", sql, arguments)).await? {
        let labels = context.pairs(&super::facts::labels_of(&row.json("series")?));
        let of = if labels.is_empty() { String::new() } else { format!(" for {}", labels.join(", ")) };
        let kind = if row.text("state")? == "open" { "opened" } else { "resolved" };
        events.push(Event {
            at: row.time("at")?,
            kind,
            words: format!("{}{of} {kind}", row.text("objective")?),
            id: row.text("violation")?.into(),
        });
    }
    Ok(())
}

async fn actions(
    context: &mut Context<'_>,
    contract: &str,
    period: (Timestamp, Timestamp),
    events: &mut Vec<Event>,
) -> Result<()> {
    let sql = format!(
        "SELECT id, kind, state, objective, at FROM actions WHERE contract = $1 AND at >= $2 AND at < $3 ORDER BY at, id LIMIT {EVENTS_MAX}"
    );
    let arguments: [Json; 3] = [contract.into(), period.0.into(), period.1.into()];
    for row in context.ask(Asked::new("actions", sql, arguments.clone())).await? {
        let words =
            format!("{} for {} ({})", row.text("kind")?, row.text("objective")?, row.text("state")?.replace('_', " "));
        events.push(Event { at: row.time("at")?, kind: "action", words, id: row.text("id")?.into() });
    }
    let sql = format!(
        "SELECT o.action, o.state, o.at, o.message, a.kind FROM outcomes o JOIN actions a ON a.id = o.action \
         WHERE a.contract = $1 AND o.at >= $2 AND o.at < $3 ORDER BY o.at, o.action, o.state LIMIT {EVENTS_MAX}"
    );
    for row in context.ask(Asked::new("outcomes", sql, arguments)).await? {
        let message = row.maybe("message")?.map(|message| format!(": {message}")).unwrap_or_default();
        let words = format!("{} {}{message}", row.text("kind")?, row.text("state")?);
        events.push(Event { at: row.time("at")?, kind: "outcome", words, id: row.text("action")?.into() });
    }
    Ok(())
}

async fn versions(
    context: &mut Context<'_>,
    contract: &str,
    period: (Timestamp, Timestamp),
    events: &mut Vec<Event>,
) -> Result<()> {
    let sql = "SELECT number, version, origin, accepted_at FROM contracts WHERE name = $1 AND accepted_at >= $2 AND accepted_at < $3 ORDER BY number";
    let arguments: [Json; 3] = [contract.into(), period.0.into(), period.1.into()];
    for row in context.ask(Asked::new("versions of the contract", sql, arguments)).await? {
        let words = format!("version {} came into force", row.text("version")?);
        events.push(Event { at: row.time("accepted_at")?, kind: "version", words, id: row.count("number")?.into() });
    }
    Ok(())
}

/// A moment at which the mean of an attribute changed at a stage.
struct ChangePoint {
    attribute: String,
    stage: String,
    at: Timestamp,
    before: f64,
    after: f64,
    p: f64,
}

/// Change points of each attribute at each stage: binary segmentation by Welch's test on means of panes.
fn changes(panes: &[ComponentPane]) -> Vec<ChangePoint> {
    type Course = BTreeMap<Timestamp, (f64, f64)>;
    let mut courses: BTreeMap<(&str, &str), Course> = BTreeMap::new();
    for pane in
        panes.iter().filter(|pane| pane.stage != REQUEST_STAGE && !pane.attribute.starts_with("prediction.made"))
    {
        let cell = courses.entry((&pane.attribute, &pane.stage)).or_default().entry(pane.start).or_default();
        cell.0 += pane.sums.samples as f64;
        cell.1 += pane.sums.total;
    }
    let mut found = Vec::new();
    for ((attribute, stage), course) in courses {
        let means: Vec<(Timestamp, f64)> =
            course.into_iter().map(|(at, (n, total))| (at, total / n.max(1.0))).collect();
        let mut parts = vec![&means[..]];
        while let Some(part) = parts.pop() {
            let Some((split, p)) = best_split(part) else { continue };
            let (before, after) = (mean(&part[..split]), mean(&part[split..]));
            if p < ALPHA && (after - before).abs() > EFFECT_MIN * before.abs() {
                found.push(ChangePoint {
                    attribute: attribute.to_owned(),
                    stage: stage.to_owned(),
                    at: part[split].0,
                    before,
                    after,
                    p,
                });
                parts.extend([&part[..split], &part[split..]]);
            }
        }
    }
    found.sort_by(|a, b| a.p.total_cmp(&b.p));
    found.truncate(CHANGES_MAX);
    found
}

fn mean(part: &[(Timestamp, f64)]) -> f64 {
    part.iter().map(|(_, value)| value).sum::<f64>() / part.len().max(1) as f64
}

/// Where the means of both sides differ most, and the chance of that, corrected for all places.
fn best_split(part: &[(Timestamp, f64)]) -> Option<(usize, f64)> {
    if part.len() < 2 * SIDE_MIN {
        return None;
    }
    let (mut n, mut total, mut squares) = (0.0, 0.0, 0.0);
    let all = part.iter().fold((0.0, 0.0), |(t, s), (_, v)| (t + v, s + v * v));
    let count = part.len() as f64;
    let mut best: Option<(usize, f64, f64)> = None;
    for (index, (_, value)) in part.iter().enumerate() {
        if index >= SIDE_MIN && index + SIDE_MIN <= part.len() {
            let (left, right) =
                (Moments::of(n, total, squares), Moments::of(count - n, all.0 - total, all.1 - squares));
            if let Some(test) = welch(left, right, 0.95)
                && best.is_none_or(|(_, t, _)| test.t.abs() > t)
            {
                best = Some((index, test.t.abs(), test.p));
            }
        }
        (n, total, squares) = (n + 1.0, total + value, squares + value * value);
    }
    best.map(|(index, _, p)| (index, (p * count).min(1.0)))
}
