//! What does each member of an ensemble contribute?
//!
//! From the newest results whose members' inferences are kept: the members' scores (or their class with
//! its confidence) are added up again with and without each member.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::context::{Context, span_json};
use super::facts::Of;
use super::statistics::wilson;
use super::trace::{STEPS_MAX, Step, best};
use super::{Answer, ExplainError, Result};
use crate::engine::short;
use crate::time::Span;

/// Fewer results with feedback say nothing of who could go.
const FEEDBACK_MIN: u64 = 20;
const CONFIDENCE: f64 = 0.95;

#[derive(Debug, Default, Clone)]
struct Member {
    results: u64,
    agreed: u64,
    answered: u64,
    right: u64,
    /// Results with feedback that others could have given without it...
    judged_without: u64,
    /// ...and those of them that would have been right, without it and with it.
    right_without: u64,
    right_with: u64,
    seconds: f64,
    cost: f64,
}

/// The class that members' scores add up to.
fn vote<'m>(members: impl Iterator<Item = &'m Step>) -> Option<String> {
    let mut scores: BTreeMap<String, f64> = BTreeMap::new();
    for step in members {
        match &step.prediction {
            Json::Object(of) => {
                for (class, score) in of {
                    *scores.entry(class.clone()).or_default() += score.as_f64().unwrap_or(0.0);
                }
            }
            _ => {
                if let Some(class) = step.class() {
                    *scores.entry(class).or_default() += step.metric("ml.confidence").unwrap_or(1.0);
                }
            }
        }
    }
    best(scores.iter().map(|(class, score)| (class.as_str(), *score)))
}

pub(super) async fn answer(mut context: Context<'_>) -> Result<Answer> {
    let (tenant, application, clock) = context.application().await?;
    let of = Of { tenant: &tenant, application: &application };
    let period = context.period(clock, None)?;
    let steps = context.newest_steps("steps of the period", &of, period).await?;
    let since = steps.iter().map(|step| step.start).min().unwrap_or(period.0);
    let truths = context.truths(&of, (since, period.1 + Span::seconds(3_600))).await?;
    let by_inference: BTreeMap<&str, &Step> =
        steps.iter().filter_map(|step| Some((step.inference.as_deref()?, step))).collect();
    // Members go by their model, where all name one; else by their instance.
    let fed: BTreeSet<&str> = steps.iter().flat_map(|step| step.sources.iter().map(String::as_str)).collect();
    let members: Vec<&&Step> = by_inference.iter().filter(|(id, _)| fed.contains(*id)).map(|(_, step)| step).collect();
    let dimension = if members.iter().all(|step| step.labels.contains_key("model")) { "model" } else { "instance" };
    let name = |step: &Step| step.labels.get(dimension).cloned().unwrap_or_default();
    let (mut found, mut results, mut answered, mut right, mut alike) =
        (BTreeMap::<String, Member>::new(), 0_u64, 0_u64, 0_u64, 0_u64);
    let (mut seconds, mut cost) = (0.0, 0.0);
    for result in steps.iter().filter(|step| !step.sources.is_empty()) {
        let those: Vec<&Step> = result.sources.iter().filter_map(|id| by_inference.get(id.as_str()).copied()).collect();
        let (Some(class), false) = (result.class(), those.is_empty()) else { continue };
        results += 1;
        let truth = result.inference.as_ref().and_then(|id| truths.get(id));
        let voted = vote(those.iter().copied());
        alike += u64::from(voted.as_ref() == Some(&class));
        if let Some(truth) = truth {
            answered += 1;
            right += u64::from(*truth == class);
        }
        for step in &those {
            let member = found.entry(name(step)).or_default();
            let said = step.class();
            member.results += 1;
            member.agreed += u64::from(said.as_ref() == Some(&class));
            member.seconds += step.end.since(step.start).as_seconds();
            member.cost += step.cost().unwrap_or(0.0);
            seconds += step.end.since(step.start).as_seconds();
            cost += step.cost().unwrap_or(0.0);
            let own = step.inference.as_ref().and_then(|id| truths.get(id)).or(truth);
            if let Some(own) = own {
                member.answered += 1;
                member.right += u64::from(said.as_ref() == Some(own));
            }
            let others = those.iter().copied().filter(|other| name(other) != name(step));
            if let (Some(truth), Some(without)) = (truth, vote(others)) {
                member.judged_without += 1;
                member.right_without += u64::from(without == *truth);
                member.right_with += u64::from(voted.as_ref() == Some(truth));
            }
        }
    }
    if results == 0 {
        return Err(ExplainError::NoData(format!(
            "no kept result of {application} names sources that are kept too: an ensemble reports `sources` with its inference, and its members report theirs"
        )));
    }
    let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
    let hidden = !context.shows(dimension);
    let shown = |member: &str| if hidden { "(kept back)".to_owned() } else { member.to_owned() };
    let mut sentences = vec![format!(
        "{} members ({dimension}s) gave {results} results; {answered} of these have feedback, of which {right} were right.",
        found.len()
    )];
    if steps.len() as u64 == STEPS_MAX {
        sentences.push(format!("Of the period, the newest {STEPS_MAX} steps were looked at, since {since}."));
    }
    let gain = |member: &Member| {
        (member.right_without as f64 - member.right_with as f64) / member.judged_without.max(1) as f64
    };
    let judged: Vec<(&String, &Member)> = found.iter().filter(|(_, m)| m.judged_without >= FEEDBACK_MIN).collect();
    let drop = judged.iter().max_by(|a, b| {
        gain(a.1).total_cmp(&gain(b.1)).then(a.1.cost.total_cmp(&b.1.cost)).then(a.1.seconds.total_cmp(&b.1.seconds))
    });
    let rate = |member: &Member| share(member.right as f64, member.answered as f64);
    let weak = found.iter().filter(|(_, m)| m.answered >= FEEDBACK_MIN).min_by(|a, b| rate(a.1).total_cmp(&rate(b.1)));
    match drop {
        Some((member, of)) if gain(of) >= 0.0 => sentences.push(format!(
            "{} could be dropped: without it {} of {} results would have been right, with it {}; it takes {} % of the time and {} % of the cost.",
            shown(member), of.right_without, of.judged_without, of.right_with,
            short(share(of.seconds, seconds) * 100.0), short(share(of.cost, cost) * 100.0)
        )),
        Some((member, of)) => sentences.push(format!(
            "No member could be dropped without loss; {} would be missed least ({} right of {} without it, {} with it).",
            shown(member), of.right_without, of.judged_without, of.right_with
        )),
        None => sentences.push(format!(
            "There is too little feedback to say which member could be dropped: {FEEDBACK_MIN} results with feedback are needed."
        )),
    }
    if let Some((member, of)) = weak {
        let (low, high) = wilson(of.right as f64, of.answered as f64, CONFIDENCE);
        sentences.push(format!(
            "{} should be retrained first: it was right in {} of {} cases ({} to {} %, 95 % confidence).",
            shown(member),
            of.right,
            of.answered,
            short(low * 100.0),
            short(high * 100.0)
        ));
    }
    let mut rows = Vec::new();
    let mut members = Vec::new();
    for (member, of) in &found {
        let interval = (of.answered > 0).then(|| wilson(of.right as f64, of.answered as f64, CONFIDENCE));
        let percent = |part: u64, whole: u64| {
            if whole > 0 { format!("{} %", short(part as f64 / whole as f64 * 100.0)) } else { "-".to_owned() }
        };
        rows.push(vec![
            shown(member),
            of.results.to_string(),
            percent(of.agreed, of.results),
            percent(of.right, of.answered),
            percent(of.right_with, of.judged_without),
            percent(of.right_without, of.judged_without),
            format!("{} %", short(share(of.seconds, seconds) * 100.0)),
            format!("{} %", short(share(of.cost, cost) * 100.0)),
        ]);
        members.push(json!({
            "member": shown(member), "results": of.results, "agreed": of.agreed,
            "answered": of.answered, "right": of.right, "accuracy_interval": interval.map(|(low, high)| [low, high]),
            "judged_without": of.judged_without, "right_without": of.right_without, "right_with": of.right_with,
            "seconds": of.seconds, "share_of_seconds": share(of.seconds, seconds),
            "cost": of.cost, "share_of_cost": share(of.cost, cost),
        }));
    }
    let columns = [dimension, "results", "agrees", "right", "all right with", "without", "of time", "of cost"];
    context.section("The members", &columns, rows);
    let evidence = json!({
        "period": span_json(period), "since": since, "dimension": dimension, "results": results, "answered": answered, "right": right,
        "votes_like_the_result": alike, "members": members,
        "drop": drop.filter(|(_, of)| gain(of) >= 0.0).map(|(member, _)| shown(member)),
        "retrain": weak.map(|(member, _)| shown(member)),
    });
    Ok(context.answer(sentences, evidence))
}
