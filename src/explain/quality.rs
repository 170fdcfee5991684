//! How good were the predictions?

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::context::{Context, span_json};
use super::facts::{Fact, Of};
use super::statistics::{fisher_either, share_difference, wilson};
use super::{Answer, ExplainError, Result};
use crate::contract::PREDICTION;
use crate::engine::{PREDICTION_ERROR, PREDICTIONS_MADE, short};
use crate::store::Asked;

const CONFIDENCE: f64 = 0.95;
/// A group of fewer predictions is not compared.
const GROUP_MIN: u64 = 20;
/// Corrected chances below this are called a difference.
const ALPHA: f64 = 0.01;
const CLASSES_MAX: usize = 50;
const SLICES_MAX: usize = 30;

fn percent(share: f64) -> String {
    format!("{} %", short(share * 100.0))
}

fn interval((low, high): (f64, f64)) -> String {
    format!("{} to {}", short(low * 100.0), percent(high))
}

/// Right and all, by dimension and value.
fn by_value(facts: &[Fact]) -> BTreeMap<String, BTreeMap<String, (u64, u64)>> {
    let mut found: BTreeMap<String, BTreeMap<String, (u64, u64)>> = BTreeMap::new();
    for fact in facts {
        for (name, value) in fact.labels.iter().filter(|(name, _)| *name != "instance_id") {
            let cell = found.entry(name.clone()).or_default().entry(value.clone()).or_default();
            cell.0 += fact.sums.total.round() as u64;
            cell.1 += fact.sums.samples;
        }
    }
    found
}

pub(super) async fn answer(mut context: Context<'_>) -> Result<Answer> {
    let (tenant, application, clock) = context.application().await?;
    let of = Of { tenant: &tenant, application: &application };
    let period = context.period(clock, None)?;
    let pairs = context.by_slice("predictions with feedback", &of, PREDICTION, period).await?;
    let errors = context.by_slice_alone("errors of predicted numbers", &of, PREDICTION_ERROR, period).await?;
    let made = context.by_slice_alone("inferences", &of, PREDICTIONS_MADE, period).await?;
    let n: u64 = pairs.iter().map(|fact| fact.sums.samples).sum();
    let right = pairs.iter().map(|fact| fact.sums.total).sum::<f64>().round() as u64;
    let inferences: u64 = made.iter().map(|fact| fact.sums.samples).sum();
    if inferences == 0 && n == 0 && errors.is_empty() {
        return Err(ExplainError::NoData(format!(
            "{application} reported no inferences from {} until {}",
            period.0, period.1
        )));
    }
    let mut sentences = Vec::new();
    let mut evidence = json!({"period": span_json(period), "inferences": inferences, "pairs": n, "right": right});
    // Feedback is expected where it ever comes: at the stages that have some.
    let answered: BTreeSet<&String> = pairs.iter().chain(&errors).filter_map(|fact| fact.labels.get("stage")).collect();
    let of_answered = |fact: &&Fact| fact.labels.get("stage").is_some_and(|stage| answered.contains(stage));
    let expected: u64 = made.iter().filter(of_answered).map(|fact| fact.sums.samples).sum();
    if n > 0 {
        let accuracy = right as f64 / n as f64;
        let bounds = wilson(right as f64, n as f64, CONFIDENCE);
        sentences.push(format!(
            "{} of {n} predictions with feedback were right: {} ({}, 95 % confidence).",
            right,
            percent(accuracy),
            interval(bounds)
        ));
        evidence["accuracy"] = accuracy.into();
        evidence["accuracy_interval"] = json!([bounds.0, bounds.1]);
        classes(&mut context, &pairs, &mut evidence);
        groups(&mut context, &pairs, &mut sentences, &mut evidence);
    }
    let error_n: u64 = errors.iter().map(|fact| fact.sums.samples).sum();
    if error_n > 0 {
        let all = super::facts::together(errors.iter().map(|fact| &fact.sums));
        let (mae, rmse) = (all.total / error_n as f64, (all.squares / error_n as f64).sqrt());
        sentences.push(format!(
            "{error_n} predicted numbers were off by {} on average (RMSE {}).",
            short(mae),
            short(rmse)
        ));
        evidence["errors"] = json!({"n": error_n, "mae": mae, "rmse": rmse, "greatest": all.greatest});
    }
    if expected > 0 {
        let coverage = (n + error_n) as f64 / expected as f64;
        sentences.push(format!(
            "Feedback came for {} of {expected} inferences of {} ({}); what has none is not known to be right.",
            n + error_n,
            answered.iter().map(|stage| context.shown("stage", stage)).collect::<Vec<_>>().join(", "),
            percent(coverage)
        ));
        evidence["coverage"] = coverage.into();
        evidence["inferences_with_feedback_expected"] = expected.into();
    } else {
        sentences.push(format!(
            "{inferences} inferences were made; feedback came for none, so nothing is known of their accuracy."
        ));
    }
    drift(&mut context, &of, &mut sentences, &mut evidence).await?;
    Ok(context.answer(sentences, evidence))
}

/// By class: how often it was found, and how often it was meant. And the confusion matrix.
fn classes(context: &mut Context<'_>, pairs: &[Fact], evidence: &mut Json) {
    let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
    for (pair, n) in pairs.iter().flat_map(|fact| &fact.tests) {
        if let Ok([truth, predicted]) = serde_json::from_str::<[String; 2]>(pair) {
            *counts.entry((truth, predicted)).or_default() += n;
        }
    }
    let names: BTreeSet<&String> = counts.keys().flat_map(|(truth, predicted)| [truth, predicted]).collect();
    let names: Vec<&String> = names.into_iter().collect();
    let count =
        |truth: &str, predicted: &str| counts.get(&(truth.to_owned(), predicted.to_owned())).copied().unwrap_or(0);
    let mut rows = Vec::new();
    let mut found = Vec::new();
    for class in &names {
        let (of_truth, of_predicted) = (
            names.iter().map(|other| count(class, other)).sum::<u64>(),
            names.iter().map(|other| count(other, class)).sum::<u64>(),
        );
        let right = count(class, class);
        let share = |whole: u64| (whole > 0).then(|| right as f64 / whole as f64);
        let taken_for = names
            .iter()
            .filter(|other| *other != class)
            .map(|other| (count(class, other), *other))
            .max_by_key(|(n, _)| *n);
        let bounds = (of_truth > 0).then(|| wilson(right as f64, of_truth as f64, CONFIDENCE));
        rows.push((
            of_truth,
            vec![
                (*class).clone(),
                of_truth.to_string(),
                share(of_truth).map_or("-".to_owned(), percent),
                bounds.map_or(String::new(), interval),
                share(of_predicted).map_or("-".to_owned(), percent),
                taken_for.filter(|(n, _)| *n > 0).map_or(String::new(), |(n, other)| format!("{other} ({n})")),
            ],
        ));
        found.push(json!({
            "class": class, "true": of_truth, "predicted": of_predicted, "right": right,
            "recall": share(of_truth), "recall_interval": bounds.map(|(low, high)| [low, high]), "precision": share(of_predicted),
        }));
    }
    rows.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
    let rows = rows.into_iter().take(CLASSES_MAX).map(|(_, row)| row).collect();
    context.section("By class", &["true class", "pairs", "recall", "95 %", "precision", "most taken for"], rows);
    evidence["classes"] = found.into();
    if names.len() <= CLASSES_MAX {
        let matrix: Vec<Vec<u64>> =
            names.iter().map(|truth| names.iter().map(|predicted| count(truth, predicted)).collect()).collect();
        evidence["confusion"] = json!({"classes": names, "matrix": matrix});
    }
}

/// By slice, and whether groups differ beyond chance.
fn groups(context: &mut Context<'_>, pairs: &[Fact], sentences: &mut Vec<String>, evidence: &mut Json) {
    let by_value = by_value(pairs);
    let (mut rows, mut slices, mut gaps) = (Vec::new(), Vec::new(), Vec::new());
    let compared = |values: &BTreeMap<String, (u64, u64)>| values.values().filter(|(_, n)| *n >= GROUP_MIN).count();
    let tests = by_value.values().filter(|values| compared(values) >= 2).count().max(1) as f64;
    for (name, values) in &by_value {
        for (value, (right, n)) in values {
            let (shown, rate) = (context.shown(name, value).to_owned(), *right as f64 / (*n).max(1) as f64);
            let bounds = wilson(*right as f64, *n as f64, CONFIDENCE);
            rows.push((*n, vec![format!("{name}={shown}"), n.to_string(), percent(rate), interval(bounds)]));
            slices.push(json!({"dimension": name, "value": shown, "pairs": n, "right": right, "accuracy": rate, "interval": [bounds.0, bounds.1]}));
        }
        let mut of: Vec<(&String, &(u64, u64))> = values.iter().filter(|(_, (_, n))| *n >= GROUP_MIN).collect();
        of.sort_by(|a, b| (a.1.0 as f64 / a.1.1 as f64).total_cmp(&(b.1.0 as f64 / b.1.1 as f64)));
        if let (Some((worst, (r0, n0))), Some((best, (r1, n1))), true) = (of.first(), of.last(), of.len() >= 2) {
            let gap = *r1 as f64 / *n1 as f64 - *r0 as f64 / *n0 as f64;
            let bounds = share_difference((*r1 as f64, *r0 as f64), (*n1 as f64, *n0 as f64), CONFIDENCE);
            // All pairs of groups could have been the extremes.
            let pairs_of = (of.len() * (of.len() - 1) / 2) as f64;
            let p = (fisher_either((n1 - r1, n0 - r0), (*n1, *n0)) * pairs_of * tests).min(1.0);
            gaps.push((p, json!({
                "dimension": name, "best": context.shown(name, best), "worst": context.shown(name, worst),
                "gap": gap, "interval": [bounds.0, bounds.1], "p": p,
            }), format!(
                "Between groups of {name}, accuracy differs by {} ({}): {} is best, {} worst; the chance of that is {}.",
                percent(gap), interval(bounds), context.shown(name, best), context.shown(name, worst), short(p)
            )));
        }
    }
    gaps.sort_by(|a, b| a.0.total_cmp(&b.0));
    match gaps.first() {
        Some((p, _, words)) if *p < ALPHA => sentences.push(words.clone()),
        Some(_) => sentences.push("Between groups, accuracy differs no more than chance explains.".to_owned()),
        None => {}
    }
    rows.sort_by_key(|(n, row)| (std::cmp::Reverse(*n), row[0].clone()));
    let rows = rows.into_iter().take(SLICES_MAX).map(|(_, row)| row).collect();
    context.section("By slice", &["slice", "pairs", "right", "95 %"], rows);
    evidence["slices"] = slices.into();
    evidence["gaps"] = gaps.into_iter().map(|(_, gap, _)| gap).collect::<Vec<_>>().into();
}

/// Where the drift objectives of the application's contracts stand.
async fn drift(context: &mut Context<'_>, of: &Of<'_>, sentences: &mut Vec<String>, evidence: &mut Json) -> Result<()> {
    let sql = "SELECT contract, state FROM series WHERE tenant = $1 AND application = $2 ORDER BY contract, bundle, chunk LIMIT 2000";
    let asked = Asked::new("where series stand", sql, [of.tenant.into(), of.application.into()]);
    let series = super::facts::standings(context, asked).await?;
    let mut drifting: BTreeMap<(String, String), bool> = BTreeMap::new();
    let contracts: BTreeSet<_> = series.iter().map(|(contract, _)| contract.clone()).collect();
    for name in &contracts {
        let Some(version) = context.store.contract(name).await? else { continue };
        let Some(contract) = crate::contract::load(&version.origin, &version.source).contract else { continue };
        for objective in &contract.spec.objectives {
            let is_drift = objective
                .indicators()
                .iter()
                .any(|(_, indicator)| indicator.aggregate.is_drift() || indicator.aggregate.is_detector());
            drifting.insert((version.name.clone(), objective.name.clone()), is_drift);
        }
    }
    let (mut table, mut found) = (Vec::new(), Vec::new());
    for (contract, one) in series {
        let key = (contract, one.objective);
        if !one.input.is_empty() || drifting.get(&key) != Some(&true) {
            continue;
        }
        let latest = serde_json::to_value(&one.lifecycle.latest).unwrap_or_default();
        let verdict = latest["verdict"].as_str().unwrap_or("no_data").to_owned();
        let series = context.pairs(&super::facts::labels_of(&one.labels));
        table.push(vec![
            format!("{}/{}", key.0, key.1),
            series.join(", "),
            verdict.replace('_', " "),
            latest["value"].as_f64().map_or(String::new(), short),
            latest["at"].as_str().unwrap_or_default().to_owned(),
        ]);
        found.push(json!({"contract": key.0, "objective": key.1, "series": series, "verdict": verdict, "value": latest["value"], "at": latest["at"]}));
    }
    let broken = found.iter().filter(|one| one["verdict"] == "breached").count();
    if !found.is_empty() {
        sentences.push(format!("Of {} series watched for drift, {broken} drift now.", found.len()));
    }
    context.section("Drift", &["objective", "series", "verdict", "value", "at"], table);
    evidence["drift"] = found.into();
    Ok(())
}
