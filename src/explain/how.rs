//! How could the promise be met, and what helped before?

use serde_json::{Value as Json, json};

use super::context::Context;
use super::{Answer, ExplainError, Result};
use crate::contract::{Condition, Objective};
use crate::engine::{Latest, short, short_value};
use crate::store::Asked;

pub(super) async fn answer(mut context: Context<'_>) -> Result<Answer> {
    let mut sentences = Vec::new();
    let mut evidence = json!({});
    let contract_name;
    let objective: Objective;
    if let Some(id) = context.subject.violation.clone() {
        let breach = context.breach().await?;
        let name = breach.name(&context);
        contract_name = breach.violation.contract.clone();
        objective = breach.objective.clone();
        let detail = &breach.detail;
        let found = &detail["evidence"]["counterfactual"];
        let samples = detail["samples"].as_u64().unwrap_or(0);
        evidence["counterfactual"] = found.clone();
        evidence["samples"] = samples.into();
        evidence["value"] = detail["value"].clone();
        match (found["bad"].as_u64(), found["bad_allowed"].as_u64(), found["value"].as_f64()) {
            (Some(bad), Some(allowed), _) => sentences.push(format!(
                "{} fewer bad observations would have met {name}: {bad} of {samples} were bad, {allowed} may be.",
                bad.saturating_sub(allowed)
            )),
            (_, _, Some(value)) => sentences.push(format!(
                "The smallest change that meets {name} is from {} to {}.",
                breach.value.map_or_else(|| "its value".to_owned(), short),
                short(value)
            )),
            _ => sentences.push(format!("{name} is a rule; its function says what it asks for: see why.")),
        }
        context.link("which slices carry it", format!("/v1/explain/which?violation={id}"));
    } else {
        let contract = context.asked_contract().await?;
        contract_name = contract.metadata.name.clone();
        let name = context.subject.objective.clone().ok_or_else(|| {
            ExplainError::Subject("ask how about a violation, or about a contract and its objective".to_owned())
        })?;
        let found = contract.spec.objectives.iter().find(|objective| objective.name == name).cloned();
        objective = found.ok_or(ExplainError::NotFound("objective", name))?;
        evidence["series"] = now(&mut context, &contract_name, &objective, &mut sentences).await?.into();
    }
    let kinds = helped(&mut context, &contract_name, &objective, &mut sentences).await?;
    evidence["actions"] = kinds.into();
    Ok(context.answer(sentences, evidence))
}

/// Where the series of an objective stand, and how far each is from its promise.
async fn now(
    context: &mut Context<'_>,
    contract: &str,
    objective: &Objective,
    sentences: &mut Vec<String>,
) -> Result<Vec<Json>> {
    let sql = "SELECT contract, state FROM series WHERE contract = $1 ORDER BY bundle, chunk LIMIT 2000";
    let mut series = super::facts::standings(context, Asked::new("where series stand", sql, [contract.into()])).await?;
    series.retain(|(_, one)| one.objective == objective.name && one.input.is_empty());
    let judged = !series.is_empty();
    let (mut table, mut found, mut broken) = (Vec::new(), Vec::new(), 0);
    for (_, one) in series {
        let Some(Latest { at, verdict, value: Some(value), samples, .. }) = one.lifecycle.latest else {
            continue;
        };
        let labels = context.pairs(&super::facts::labels_of(&one.labels));
        let change = value.0.as_number().zip(objective.target()).and_then(|(value, target)| nearest(value, target));
        broken += usize::from(change.is_some());
        table.push(vec![
            if labels.is_empty() { "all".to_owned() } else { labels.join(", ") },
            short_value(&value),
            samples.to_string(),
            verdict.as_str().replace('_', " "),
            change.map_or("-".to_owned(), short),
            at.to_string(),
        ]);
        found.push(json!({"series": labels, "value": value, "samples": samples, "verdict": verdict, "at": at, "smallest_change": change}));
    }
    let target = objective.target().map_or_else(|| "what its rule says".to_owned(), ToString::to_string);
    sentences.push(match (found.len(), broken) {
        (0, _) if !judged => {
            format!("{contract}/{} has not been judged yet; it is to be {target}.", objective.name)
        }
        (0, _) => format!("The newest window of {contract}/{} has no value; it is to be {target}.", objective.name),
        (all, 0) => format!("All {all} series of {contract}/{} keep the promise now: {target}.", objective.name),
        (all, broken) => {
            format!("{broken} of {all} series of {contract}/{} would have to change to be {target}.", objective.name)
        }
    });
    context.section("Smallest change", &["series", "value", "observations", "verdict", "change by", "at"], table);
    Ok(found)
}

/// The least that a value must change by; none if it keeps the target.
fn nearest(value: f64, target: &Condition) -> Option<f64> {
    let (low, high) = target.bounds();
    if value > high {
        Some(high - value)
    } else if value < low {
        Some(low - value)
    } else {
        None
    }
}

/// What happened after similar actions in the past.
async fn helped(
    context: &mut Context<'_>,
    contract: &str,
    objective: &Objective,
    sentences: &mut Vec<String>,
) -> Result<Vec<Json>> {
    let sql = "SELECT a.kind AS kind, CAST(COUNT(*) AS BIGINT) AS n, \
               CAST(SUM(CASE WHEN a.state = 'succeeded' THEN 1 ELSE 0 END) AS BIGINT) AS succeeded, \
               CAST(SUM(CASE WHEN a.state = 'failed' THEN 1 ELSE 0 END) AS BIGINT) AS failed, \
               CAST(SUM(CASE WHEN v.resolved_at IS NOT NULL AND v.resolved_at >= a.at THEN 1 ELSE 0 END) AS BIGINT) AS resolved, \
               CAST(SUM(CASE WHEN v.resolved_at IS NOT NULL AND v.resolved_at >= a.at THEN v.resolved_at - a.at ELSE 0 END) AS BIGINT) AS took \
               FROM actions a JOIN violations v ON v.id = a.violation \
               WHERE a.contract = $1 AND a.objective = $2 AND a.state <> 'suppressed' GROUP BY a.kind ORDER BY a.kind";
    let rows = context
        .ask(Asked::new("what followed actions", sql, [contract.into(), objective.name.as_str().into()]))
        .await?;
    let (mut table, mut kinds) = (Vec::new(), Vec::new());
    for row in &rows {
        let (kind, n, resolved) = (row.text("kind")?, row.count("n")?, row.count("resolved")?);
        let (succeeded, failed) = (row.count("succeeded")?, row.count("failed")?);
        let took =
            (resolved > 0).then(|| row.count("took")).transpose()?.map(|took| took as f64 / 1e6 / resolved as f64);
        sentences.push(format!(
            "Of {n} violations answered by {kind}, {resolved} resolved{}; executors report {succeeded} successes and {failed} failures.",
            took.map(|s| format!(", {} s later on average", short(s))).unwrap_or_default()
        ));
        table.push(vec![
            kind.clone(),
            n.to_string(),
            succeeded.to_string(),
            failed.to_string(),
            resolved.to_string(),
            took.map_or("-".to_owned(), |s| format!("{} s", short(s))),
        ]);
        kinds.push(json!({"kind": kind, "n": n, "succeeded": succeeded, "failed": failed, "resolved": resolved, "mean_seconds_to_resolution": took}));
    }
    if kinds.is_empty() {
        sentences.push(format!(
            "No action was ever taken for {contract}/{}, so nothing is known of what helps.",
            objective.name
        ));
    }
    context.section(
        "What followed actions",
        &["action", "taken", "succeeded", "failed", "resolved after", "on average"],
        table,
    );
    Ok(kinds)
}
