//! What did it cost, and why more than before?

use std::collections::BTreeMap;

use serde_json::json;

use super::context::{Context, span_json};
use super::facts::{Fact, Of};
use super::{Answer, ExplainError, Result};
use crate::contract::{PREDICTION, REQUEST_SUCCESS};
use crate::engine::{PREDICTIONS_MADE, REQUEST_STAGE, short};
use crate::time::{Span, Timestamp};

const ROWS_MAX: usize = 20;

/// Number and sum.
#[derive(Debug, Default, Clone, Copy)]
struct Spent {
    n: f64,
    total: f64,
}

/// What a sum changed by: more of it, more of the dear, or dearer (price, volume and mix effects;
/// they add up to the change).
#[derive(Debug, Clone, Copy, PartialEq)]
struct Effects {
    volume: f64,
    mix: f64,
    price: f64,
}

/// Of cells with number and sum, now and before. What is new has no price before: it is mix.
fn effects(cells: &[(Spent, Spent)]) -> Effects {
    let sum = |of: &dyn Fn(&(Spent, Spent)) -> f64| cells.iter().map(of).sum::<f64>();
    let (n1, n0, total0) = (sum(&|c| c.0.n), sum(&|c| c.1.n), sum(&|c| c.1.total));
    let usual = if n0 > 0.0 { total0 / n0 } else { 0.0 };
    let mut effects = Effects { volume: (n1 - n0) * usual, mix: -n1 * usual, price: 0.0 };
    for (now, before) in cells {
        if now.n <= 0.0 {
            continue;
        }
        let (price1, known) = (now.total / now.n, before.n > 0.0);
        let price0 = if known { before.total / before.n } else { price1 };
        effects.mix += now.n * price0;
        effects.price += now.n * (price1 - price0);
    }
    // What is left by rounding is nothing.
    let greatest = effects.volume.abs().max(effects.mix.abs()).max(effects.price.abs()).max(total0.abs());
    for effect in [&mut effects.volume, &mut effects.mix, &mut effects.price] {
        if effect.abs() < 1e-12 * greatest * cells.len() as f64 {
            *effect = 0.0;
        }
    }
    effects
}

pub(super) async fn answer(mut context: Context<'_>) -> Result<Answer> {
    let (tenant, application, clock) = context.application().await?;
    let of = Of { tenant: &tenant, application: &application };
    let period = context.period(clock, None)?;
    let length = period.1.since(period.0);
    let past = (period.0 - length, period.0);
    let mut attributes = context.attributes(&of).await?;
    attributes.retain(|attribute| attribute.starts_with("cost."));
    let mut sentences = Vec::new();
    let mut by_attribute = Vec::new();
    let (requests, good) = requests(&mut context, &of, period).await?;
    for attribute in &attributes {
        let now = context.by_slice_alone(&format!("{attribute} by slice"), &of, attribute, period).await?;
        let before =
            context.by_slice_alone(&format!("{attribute} by slice, the period before"), &of, attribute, past).await?;
        let now: Vec<Fact> = now
            .into_iter()
            .filter(|fact| fact.labels.get("stage").map(String::as_str) != Some(REQUEST_STAGE))
            .collect();
        let total = |facts: &[Fact]| facts.iter().map(|fact| fact.sums.total).sum::<f64>();
        let (total_now, total_before) = (total(&now), total(&before));
        if now.is_empty() && before.is_empty() {
            continue;
        }
        let mut cells: BTreeMap<String, (Spent, Spent)> = BTreeMap::new();
        let mut dimensions: BTreeMap<String, BTreeMap<String, (Spent, Spent)>> = BTreeMap::new();
        for (facts, is_now) in [(&now, true), (&before, false)] {
            for fact in facts {
                let add = |cell: &mut (Spent, Spent)| {
                    let spent = if is_now { &mut cell.0 } else { &mut cell.1 };
                    spent.n += fact.sums.samples as f64;
                    spent.total += fact.sums.total;
                };
                add(cells.entry(serde_json::to_string(&fact.labels).unwrap_or_default()).or_default());
                for (name, value) in fact.labels.iter().filter(|(name, _)| *name != "instance_id") {
                    add(dimensions.entry(name.clone()).or_default().entry(value.clone()).or_default());
                }
            }
        }
        let cells: Vec<(Spent, Spent)> = cells.into_values().collect();
        let effects = effects(&cells);
        let unit = attribute.strip_prefix("cost.").unwrap_or(attribute);
        let per_request = (requests > 0.0).then(|| total_now / requests);
        let per_good = good.filter(|good| *good > 0.0).map(|good| total_now / good);
        let mut sentence = format!("{} {unit} from {} until {}", short(total_now), period.0, period.1);
        if let Some(per_request) = per_request {
            sentence.push_str(&format!(", {} a request", short(per_request)));
        }
        if let Some(per_good) = per_good {
            sentence.push_str(&format!(", {} a good result", short(per_good)));
        }
        sentences.push(format!("{sentence}."));
        let change = total_now - total_before;
        let since = context.stored_since(&of, attribute).await?.unwrap_or(period.0);
        // A small part of the period before would make any change look great.
        let is_stored = since < past.0 + Span::from_micros(length.as_micros() / 20);
        if total_before > 0.0 && !is_stored {
            sentences
                .push(format!("Of the period before, only the time since {since} is stored: that is no comparison."));
        } else if total_before > 0.0 {
            sentences.push(format!(
                "That is {} {unit} {} than in the period before ({} %): {} from volume, {} from mix, {} from price.",
                short(change.abs()),
                if change < 0.0 { "less" } else { "more" },
                short(change / total_before * 100.0),
                short(effects.volume),
                short(effects.mix),
                short(effects.price)
            ));
        } else {
            sentences.push("Of the period before, nothing is stored.".to_owned());
        }
        let mut rows = Vec::new();
        let mut parts = Vec::new();
        for (name, values) in &dimensions {
            let mut values: Vec<(&String, &(Spent, Spent))> = values.iter().collect();
            values.sort_by(|a, b| b.1.0.total.total_cmp(&a.1.0.total).then(a.0.cmp(b.0)));
            for (value, (now, before)) in values.into_iter().take(ROWS_MAX) {
                let shown = context.shown(name, value).to_owned();
                let price = |spent: &Spent| if spent.n > 0.0 { Some(spent.total / spent.n) } else { None };
                rows.push(vec![
                    format!("{name}={shown}"),
                    short(now.total),
                    format!("{} %", short(if total_now > 0.0 { now.total / total_now * 100.0 } else { 0.0 })),
                    price(now).map_or("-".to_owned(), short),
                    short(before.total),
                    price(before).map_or("-".to_owned(), short),
                ]);
                parts.push(json!({
                    "dimension": name, "value": shown, "total": now.total, "n": now.n, "each": price(now),
                    "total_before": before.total, "n_before": before.n, "each_before": price(before),
                }));
            }
        }
        let title = format!("{attribute} by component, model and label");
        context.section(&title, &["slice", unit, "share", "each", "before", "each before"], rows);
        by_attribute.push(json!({
            "attribute": attribute, "total": total_now, "total_before": total_before, "change": change, "stored_since": since,
            "per_request": per_request, "per_good_result": per_good,
            "effects": {"volume": effects.volume, "mix": effects.mix, "price": effects.price}, "parts": parts,
        }));
    }
    if by_attribute.is_empty() {
        return Err(ExplainError::NoData(format!(
            "{application} reported no cost.* from {} until {}",
            past.0, period.1
        )));
    }
    let evidence = json!({
        "period": span_json(period), "before": span_json(past),
        "requests": requests, "good_results": good, "costs": by_attribute,
    });
    Ok(context.answer(sentences, evidence))
}

/// Requests and those with a good result. Requests are those that were put together; else the
/// inferences of the stage that made fewest, since each request passes it once. Good ones go by the
/// share of right predictions where there is feedback; else they are those that succeeded.
async fn requests(
    context: &mut Context<'_>,
    of: &Of<'_>,
    period: (Timestamp, Timestamp),
) -> Result<(f64, Option<f64>)> {
    let whole = context.by_slice_alone("whole requests, and those that succeeded", of, REQUEST_SUCCESS, period).await?;
    let mut requests: f64 = whole.iter().map(|fact| fact.sums.samples as f64).sum();
    if whole.is_empty() {
        let made = context.by_slice_alone("inferences", of, PREDICTIONS_MADE, period).await?;
        let mut by_stage: BTreeMap<String, f64> = BTreeMap::new();
        for fact in &made {
            let stage = fact.labels.get("stage").cloned().unwrap_or_default();
            *by_stage.entry(stage).or_default() += fact.sums.samples as f64;
        }
        requests = by_stage.into_values().reduce(f64::min).unwrap_or(0.0);
    }
    let pairs = context.by_slice_alone("predictions with feedback", of, PREDICTION, period).await?;
    let n: f64 = pairs.iter().map(|fact| fact.sums.samples as f64).sum();
    let right: f64 = pairs.iter().map(|fact| fact.sums.total).sum();
    let good = match (n > 0.0, whole.is_empty()) {
        (true, _) => Some(requests * right / n),
        (false, false) => Some(whole.iter().map(|fact| fact.sums.total).sum()),
        (false, true) => None,
    };
    Ok((requests, good))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_add_up_to_the_change() {
        let spent = |n: f64, price: f64| Spent { n, total: n * price };
        let cells = [
            (spent(10.0, 3.0), spent(20.0, 2.0)),
            (spent(30.0, 5.0), spent(10.0, 5.0)),
            (spent(4.0, 7.0), Spent::default()),
        ];
        let found = effects(&cells);
        let change: f64 = cells.iter().map(|(now, before)| now.total - before.total).sum();
        assert!((found.volume + found.mix + found.price - change).abs() < 1e-9, "{found:?}");
        assert!((found.price - 10.0).abs() < 1e-9, "the first cell got dearer by 1 a piece: {found:?}");
        assert!((found.volume - 14.0 * 3.0).abs() < 1e-9, "14 more at 3 each: {found:?}");
    }
}
