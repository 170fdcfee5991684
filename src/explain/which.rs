//! Which slices carry the breach?
//!
//! Label values, and pairs of them, are ranked by how much of the breach each carries (its
//! *explanatory power*: its excess over what was usual, as a share of all excess) and by how pure
//! it is (its excess an observation). A slice counts only where it is worse than the rest of the
//! window and than its own past beyond chance, with Bonferroni's correction for all that were
//! looked at. After Bhagwan et al., *Adtributor* (NSDI 2014), with tests added.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value as Json, json};

use super::context::{Breach, Context, span_json};
use super::facts::{Fact, Labels, Of, matches};
use super::statistics::{Moments, fisher_greater, normal_tail, surprise, welch};
use super::{Answer, Result};
use crate::contract::{Aggregate, Condition, Indicator, PREDICTION, Promise};
use crate::engine::{PREDICTION_ERROR, PREDICTIONS_MADE, short, test_of};
use crate::report::Value;

/// Corrected chances below this are no chance.
pub(super) const ALPHA: f64 = 0.01;
/// A slice of fewer observations proves nothing.
const SUPPORT_MIN: u64 = 5;
/// A slice that carries less is not named.
const POWER_MIN: f64 = 0.1;
/// The least change of a mean that is worth naming, as a share of what it was.
pub(super) const EFFECT_MIN: f64 = 0.05;
/// Slices that are looked at, and that are shown.
const CANDIDATES_MAX: usize = 2_000;
const SHOWN_MAX: usize = 10;
/// Shrinks the excess of small slices.
const SHRINK: f64 = 0.02;

/// What is bad about an observation.
#[derive(Debug, Clone, PartialEq)]
pub enum Measure {
    /// It breaks this test.
    Test(String),
    /// The prediction was wrong.
    Wrong,
    /// Its value; worse is greater (1) or less (-1).
    Mean(f64),
    /// That it came, or its value, added up.
    Total {
        /// Whether the observations are counted; else their values are added up.
        counted: bool,
        /// Worse is more (1) or less (-1).
        sign: f64,
    },
}

impl Measure {
    /// Of an indicator and its target, with the attribute that it reads.
    pub fn of(indicator: &Indicator, target: Option<&Condition>, value: Option<f64>) -> Option<(String, Measure)> {
        use Aggregate::*;
        let attribute = indicator.attribute.clone();
        // Worse is away from the nearest bound.
        let (low, high) = target.map_or((f64::NEG_INFINITY, f64::INFINITY), Condition::bounds);
        let falls = match value {
            Some(value) if low.is_finite() => value < low || !high.is_finite(),
            _ => low.is_finite(),
        };
        let sign = if falls { -1.0 } else { 1.0 };
        let aggregate = indicator.of.unwrap_or(indicator.aggregate);
        Some(match aggregate {
            Accuracy | Precision | Recall | F1 | LogLoss | Auc => (PREDICTION.to_owned(), Measure::Wrong),
            Mae | Mse | Rmse | Mape | R2 => (PREDICTION_ERROR.to_owned(), Measure::Mean(1.0)),
            _ if attribute == PREDICTION => (PREDICTIONS_MADE.to_owned(), Measure::Total { counted: true, sign: 1.0 }),
            Count | Rate => (attribute, Measure::Total { counted: true, sign }),
            Sum => (attribute, Measure::Total { counted: false, sign }),
            Mean | Stddev | Psi | Ks | Js | Wasserstein | Chi2 | Adwin | PageHinkley | Zscore | Ewma => {
                (attribute, Measure::Mean(sign))
            }
            _ => {
                let promise = Promise::Target { indicator: indicator.clone(), target: target?.clone() };
                let (_, condition) = test_of(&promise)?;
                (attribute, Measure::Test(condition.to_string()))
            }
        })
    }

    /// In words.
    fn words(&self, attribute: &str) -> String {
        match self {
            Measure::Test(test) => format!("observations of {attribute} that are not {test}"),
            Measure::Wrong => "wrong predictions".to_owned(),
            Measure::Mean(_) => format!("the mean of {attribute}"),
            Measure::Total { counted: true, .. } => format!("the number of {attribute}"),
            Measure::Total { counted: false, .. } => format!("the sum of {attribute}"),
        }
    }
}

/// Number, badness and squared badness of some observations.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Weight {
    n: f64,
    x: f64,
    squares: f64,
}

impl Weight {
    fn of(fact: &Fact, measure: &Measure) -> Weight {
        let n = fact.sums.samples as f64;
        match measure {
            Measure::Test(test) => {
                let x = fact.tests.get(test).copied().unwrap_or(0) as f64;
                Weight { n, x, squares: x }
            }
            Measure::Wrong => Weight { n, x: n - fact.sums.total, squares: n - fact.sums.total },
            Measure::Mean(sign) => Weight { n, x: sign * fact.sums.total, squares: fact.sums.squares },
            Measure::Total { counted: true, sign } => Weight { n, x: sign * n, squares: n },
            Measure::Total { counted: false, sign } => {
                Weight { n, x: sign * fact.sums.total, squares: fact.sums.squares }
            }
        }
    }

    fn plus(self, other: Weight) -> Weight {
        Weight { n: self.n + other.n, x: self.x + other.x, squares: self.squares + other.squares }
    }

    fn less(self, other: Weight) -> Weight {
        Weight { n: self.n - other.n, x: self.x - other.x, squares: self.squares - other.squares }
    }

    fn rate(self) -> Option<f64> {
        (self.n > 0.0).then(|| self.x / self.n)
    }

    fn moments(self) -> Moments {
        Moments::of(self.n, self.x, self.squares)
    }
}

/// A slice and what was found of it.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub labels: Labels,
    now: Weight,
    before: Weight,
    excess: f64,
    pub power: f64,
    surprise: f64,
    p_rest: f64,
    p_past: Option<f64>,
    score: f64,
    /// Other names of the same observations.
    also: Vec<Labels>,
}

/// Everything that was compared.
pub(super) struct Ranking {
    pub candidates: Vec<Candidate>,
    whole: Weight,
    past: Weight,
    looked_at: usize,
    excess: f64,
}

/// How much worse `a` is than `b`, by chance.
fn chance(measure: &Measure, a: Weight, b: Weight, time_ratio: f64) -> f64 {
    match measure {
        Measure::Test(_) | Measure::Wrong => fisher_greater((a.x as u64, b.x as u64), (a.n as u64, b.n as u64)),
        Measure::Mean(_) => match welch(a.moments(), b.moments(), 0.95) {
            Some(test) if a.rate() > b.rate() => test.p / 2.0,
            Some(test) => 1.0 - test.p / 2.0,
            None => 1.0,
        },
        // Sums of a Poisson number of values.
        Measure::Total { .. } => {
            let spread = (a.squares + b.squares * time_ratio * time_ratio).sqrt();
            if spread > 0.0 { normal_tail((a.x - b.x * time_ratio) / spread) } else { 1.0 }
        }
    }
}

/// A slice by the numbers of its labels, the less first; single labels have [`ALONE`] for the second.
type Key = (u32, u32);
const ALONE: u32 = u32::MAX;

/// Labels by number, as they come up.
#[derive(Default)]
struct Names<'f> {
    numbers: HashMap<(&'f str, &'f str), u32>,
    pairs: Vec<(&'f str, &'f str)>,
}

impl<'f> Names<'f> {
    fn number(&mut self, name: &'f str, value: &'f str) -> u32 {
        *self.numbers.entry((name, value)).or_insert_with(|| {
            self.pairs.push((name, value));
            self.pairs.len() as u32 - 1
        })
    }

    fn labels(&self, key: Key) -> Labels {
        let numbers = [key.0, key.1].into_iter().filter_map(|number| self.pairs.get(number as usize));
        numbers.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// Single labels and pairs of a slice. Labels that name the instance again are left to it.
    fn subsets(&mut self, labels: &'f Labels) -> Vec<Key> {
        let pairs: Vec<(&str, u32)> = labels
            .iter()
            .filter(|(name, _)| *name != "instance_id")
            .map(|(name, value)| (name.as_str(), self.number(name, value)))
            .collect();
        let mut all = Vec::with_capacity(pairs.len() * (pairs.len() + 1) / 2);
        for (index, (name, number)) in pairs.iter().enumerate() {
            all.push((*number, ALONE));
            for (other, its) in &pairs[index + 1..] {
                // An instance has one stage.
                if !matches!((*name, *other), ("instance", "stage")) {
                    all.push((*number.min(its), *number.max(its)));
                }
            }
        }
        all
    }
}

/// Ranks the slices of the window against the past. `time_ratio` is the length of the window by that of the past.
pub(super) fn rank(measure: &Measure, now: &[Fact], before: &[Fact], time_ratio: f64) -> Ranking {
    let weights = |facts: &[Fact]| -> Vec<Weight> { facts.iter().map(|fact| Weight::of(fact, measure)).collect() };
    let (now_weights, before_weights) = (weights(now), weights(before));
    let sum = |of: &[Weight]| of.iter().fold(Weight::default(), |all, one| all.plus(*one));
    let (whole, past) = (sum(&now_weights), sum(&before_weights));
    let (now_classes, before_classes) = (classes(now, measure), classes(before, measure));
    let mut names = Names::default();
    let mut found: HashMap<Key, (Weight, Weight, Vec<u32>)> = HashMap::new();
    for (index, (fact, weight)) in now.iter().zip(&now_weights).enumerate() {
        for subset in names.subsets(&fact.labels) {
            let entry = found.entry(subset).or_default();
            entry.0 = entry.0.plus(*weight);
            entry.2.push(index as u32);
        }
    }
    for (classes, is_now) in [(&now_classes, true), (&before_classes, false)] {
        for (class, weight) in classes {
            let entry = found.entry((names.number("class", class), ALONE)).or_default();
            if is_now { entry.0 = *weight } else { entry.1 = *weight }
        }
    }
    for (fact, weight) in before.iter().zip(&before_weights) {
        for subset in names.subsets(&fact.labels) {
            if let Some(entry) = found.get_mut(&subset) {
                entry.1 = entry.1.plus(*weight);
            }
        }
    }
    found.retain(|_, (now, ..)| now.n >= SUPPORT_MIN as f64 && now.n < whole.n);
    let mut found: Vec<(Labels, Weight, Weight, Vec<u32>)> =
        found.into_iter().map(|(key, (now, before, of))| (names.labels(key), now, before, of)).collect();
    found.sort_by(|a, b| b.1.n.total_cmp(&a.1.n).then_with(|| (a.0.len(), &a.0).cmp(&(b.0.len(), &b.0))));
    found.truncate(CANDIDATES_MAX);
    let looked_at = found.len();
    let total = matches!(measure, Measure::Total { .. });
    // Without a past, what is usual is what half of the observations keep within.
    let usual = past.rate().unwrap_or_else(|| middle(&now_weights));
    let expected = |now: Weight, before: Weight| match (total, before.rate()) {
        (true, _) => before.x * time_ratio,
        (false, rate) => now.n * rate.unwrap_or(usual),
    };
    let past_of: HashMap<&Labels, Weight> =
        before.iter().map(|fact| &fact.labels).zip(before_weights.iter().copied()).collect();
    let excess =
        |(fact, now): (&Fact, &Weight)| now.x - expected(*now, past_of.get(&fact.labels).copied().unwrap_or_default());
    let excess_all: f64 = now.iter().zip(&now_weights).map(excess).sum();
    let corrected = |p: f64| (p * looked_at as f64).min(1.0);
    let mut candidates: Vec<Candidate> = Vec::new();
    let mut same: HashMap<Vec<u32>, usize> = HashMap::new();
    for (labels, now, before, of) in found {
        if let Some(known) = same.get(&of).filter(|_| !of.is_empty()) {
            candidates[*known].also.push(labels);
            continue;
        }
        let rest = whole.less(now);
        let excess = now.x - expected(now, before);
        let power = if excess_all > 0.0 { excess / excess_all } else { 0.0 };
        let has_past = before.n >= SUPPORT_MIN as f64;
        let p_rest = match measure {
            // What is added up grows with the number: the change beside the change of the rest.
            Measure::Total { .. } if has_past => chance(measure, now, before, time_ratio),
            Measure::Total { .. } => 1.0,
            _ => chance(measure, now, rest, 1.0),
        };
        let p_past = has_past.then(|| chance(measure, now, before, time_ratio));
        same.insert(of, candidates.len());
        candidates.push(Candidate {
            surprise: surprise(
                if past.x > 0.0 { (before.x / past.x).clamp(0.0, 1.0) } else { 0.0 },
                if whole.x > 0.0 { (now.x / whole.x).clamp(0.0, 1.0) } else { 0.0 },
            ),
            p_rest: corrected(p_rest),
            p_past: p_past.map(corrected),
            score: 0.0,
            also: Vec::new(),
            labels,
            now,
            before,
            excess,
            power,
        });
    }
    score(&mut candidates, whole, measure);
    Ranking { candidates, whole, past, looked_at, excess: excess_all }
}

/// The weighted median of the slices' rates.
fn middle(weights: &[Weight]) -> f64 {
    let mut rates: Vec<(f64, f64)> = weights.iter().filter_map(|w| Some((w.rate()?, w.n))).collect();
    rates.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half: f64 = rates.iter().map(|(_, n)| n).sum::<f64>() / 2.0;
    let mut sum = 0.0;
    for (rate, n) in rates {
        sum += n;
        if sum >= half {
            return rate;
        }
    }
    0.0
}

impl Candidate {
    /// Whether it is worse than the rest and than its own past, beyond chance, and by how much matters.
    pub fn is_significant(&self, measure: &Measure) -> bool {
        let matters = match measure {
            Measure::Mean(_) => {
                let usual = self.before.rate().unwrap_or(0.0).abs();
                self.excess / self.now.n.max(1.0) > EFFECT_MIN * usual
            }
            _ => self.excess > 0.0,
        };
        matters && self.power >= POWER_MIN && self.p_rest < ALPHA && self.p_past.unwrap_or(0.0) < ALPHA
    }
}

/// Harmonic mean of power and purity, for the significant ones; the best first.
fn score(candidates: &mut Vec<Candidate>, whole: Weight, measure: &Measure) {
    let density = |candidate: &Candidate| candidate.excess / (candidate.now.n + SHRINK * whole.n);
    let greatest = candidates.iter().filter(|c| c.is_significant(measure)).map(density).fold(0.0, f64::max);
    for candidate in candidates.iter_mut() {
        let purity = if greatest > 0.0 { (density(candidate) / greatest).clamp(0.0, 1.0) } else { 0.0 };
        let power = candidate.power.clamp(0.0, 1.0);
        let sum = power + purity;
        candidate.score = if sum > 0.0 && candidate.is_significant(measure) { 2.0 * power * purity / sum } else { 0.0 };
    }
    // Of equal ones, the simpler name.
    candidates.sort_by(|a, b| {
        let names = |c: &Candidate| (c.labels.len(), c.labels.clone());
        b.score.total_cmp(&a.score).then(b.power.total_cmp(&a.power)).then_with(|| names(a).cmp(&names(b)))
    });
    // What only repeats a part of a better one says nothing new.
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in candidates.drain(..) {
        let repeats = |better: &Candidate| {
            better.score > 0.0 && better.labels.iter().all(|(name, value)| candidate.labels.get(name) == Some(value))
        };
        if candidate.score == 0.0 || !kept.iter().any(repeats) {
            kept.push(candidate);
        }
    }
    *candidates = kept;
}

/// Predictions by true class.
fn classes(facts: &[Fact], measure: &Measure) -> BTreeMap<String, Weight> {
    let mut classes: BTreeMap<String, Weight> = BTreeMap::new();
    if *measure == Measure::Wrong {
        for (pair, n) in facts.iter().flat_map(|fact| &fact.tests) {
            let Ok([truth, predicted]) = serde_json::from_str::<[String; 2]>(pair) else { continue };
            let wrong = if truth == predicted { 0.0 } else { *n as f64 };
            let class = classes.entry(truth).or_default();
            *class = class.plus(Weight { n: *n as f64, x: wrong, squares: wrong });
        }
    }
    classes
}

/// The facts that an objective is about, of a series.
pub(super) fn of_objective(facts: Vec<Fact>, breach: &Breach, indicator: &Indicator) -> Vec<Fact> {
    let series = breach.series();
    let filters = [&breach.contract.spec.scope.matching, &indicator.filter];
    let fits = |fact: &Fact| {
        let of_series = series.iter().all(|(name, value)| fact.labels.get(name).map_or("", String::as_str) == value);
        of_series && matches(&fact.labels, &filters)
    };
    facts.into_iter().filter(fits).collect()
}

/// The value that is left without a slice, and whether it would have met the promise.
fn without(
    ranking: &Ranking,
    candidate: &Candidate,
    indicator: &Indicator,
    target: Option<&Condition>,
    measure: &Measure,
) -> Json {
    let rest = ranking.whole.less(candidate.now);
    let Some(rate) = rest.rate() else { return Json::Null };
    let value = match (measure, indicator.aggregate) {
        (Measure::Wrong, Aggregate::Accuracy) | (Measure::Test(_), Aggregate::Ratio) => 1.0 - rate,
        (Measure::Mean(sign), Aggregate::Mean | Aggregate::Mae) => sign * rate,
        (Measure::Test(_), Aggregate::Quantile(share)) => {
            return json!({"bad_share": rate, "allowed": 1.0 - share, "meets": rate <= 1.0 - share});
        }
        (Measure::Total { sign, .. }, Aggregate::Sum | Aggregate::Count) => sign * rest.x,
        _ => return json!({"bad_share": rate}),
    };
    json!({"value": value, "meets": target.and_then(|target| target.holds(&Value::Number(value)))})
}

pub(super) async fn answer(mut context: Context<'_>) -> Result<Answer> {
    let breach = context.breach().await?;
    let (sentences, evidence) = slices(&mut context, &breach).await?;
    Ok(context.answer(sentences, evidence))
}

/// What can be said of the slices of a breach.
async fn slices(context: &mut Context<'_>, breach: &Breach) -> Result<(Vec<String>, Json)> {
    let name = breach.name(context);
    let (tenant, application) = (breach.violation.tenant.clone(), breach.violation.application.clone());
    let of = Of { tenant: &tenant, application: &application };
    let indicators = breach.objective.indicators();
    let target = breach.objective.target();
    let measured = indicators.iter().find_map(|(_, indicator)| {
        Measure::of(indicator, target, breach.value).map(|(attribute, measure)| (*indicator, attribute, measure))
    });
    let Some((indicator, attribute, measure)) = measured else {
        let text = format!(
            "{name} rests on {}, which is not made of single observations that could be told apart.",
            breach.indicator
        );
        return Ok((vec![text], json!({"slices": []})));
    };
    let clock = context.clock(&tenant, &application).await?;
    let width = context.width(&of, breach.window.end).await?;
    let [now, before] = breach.periods(clock, width);
    let now_facts = context.by_slice("the slices while it lasted", &of, &attribute, now).await?;
    let now_facts = of_objective(now_facts, breach, indicator);
    let before_facts = context.by_slice("the slices before", &of, &attribute, before).await?;
    let before_facts = of_objective(before_facts, breach, indicator);
    let length = |(from, until): (crate::time::Timestamp, crate::time::Timestamp)| until.since(from).as_seconds();
    let ranking = rank(&measure, &now_facts, &before_facts, length(now) / length(before));
    let significant = |candidate: &&Candidate| candidate.is_significant(&measure);
    let named: Vec<&Candidate> = ranking.candidates.iter().filter(significant).take(SHOWN_MAX).collect();
    let words = measure.words(&attribute);
    let whole = ranking.whole.rate().unwrap_or(0.0);
    let sign = match measure {
        Measure::Mean(sign) | Measure::Total { sign, .. } => sign,
        _ => 1.0,
    };
    let mut sentences = Vec::new();
    let percent = |share: f64| format!("{} %", short(share * 100.0));
    match named.first() {
        Some(first) => {
            let slice = context.pairs(&first.labels).join(", ");
            let (now_rate, rest) =
                (sign * first.now.rate().unwrap_or(0.0), sign * ranking.whole.less(first.now).rate().unwrap_or(0.0));
            sentences.push(format!(
                "{slice} carries {} of what is wrong with {name}: {} in {} observations, {} in all others.",
                percent(first.power.min(1.0)),
                rate_words(&measure, now_rate),
                first.now.n,
                rate_words(&measure, rest),
            ));
            if let Some(past) = first.before.rate() {
                sentences.push(format!("Before, it was {} there.", rate_words(&measure, sign * past)));
            }
            sentences.push(format!(
                "The chance that this is luck is {}, with {} slices looked at.",
                short(first.p_rest.max(first.p_past.unwrap_or(0.0))),
                ranking.looked_at
            ));
            if !first.also.is_empty() {
                let also: Vec<String> =
                    first.also.iter().take(3).map(|labels| context.pairs(labels).join(", ")).collect();
                sentences.push(format!("The same observations are those of {}.", also.join("; of ")));
            }
        }
        None if now_facts.is_empty() => {
            sentences.push(format!("Nothing is stored of {words} while {name} was broken."))
        }
        None if ranking.looked_at == 0 => {
            sentences
                .push(format!("There are no slices to compare: all observations behind {name} have the same labels."));
        }
        None => sentences.push(format!(
            "No slice stands out: what is wrong with {name} shows in none of {} slices beyond chance ({} in all).",
            ranking.looked_at,
            rate_words(&measure, sign * whole),
        )),
    }
    let json_of = |candidate: &Candidate| {
        json!({
            "slice": context.shown_labels(&candidate.labels),
            "also": candidate.also.iter().map(|labels| context.shown_labels(labels)).collect::<Vec<_>>(),
            "samples": candidate.now.n, "bad": sign * candidate.now.x, "rate": candidate.now.rate().map(|rate| sign * rate),
            "samples_before": candidate.before.n, "bad_before": sign * candidate.before.x,
            "rate_before": candidate.before.rate().map(|rate| sign * rate),
            "explanatory_power": candidate.power, "surprise": candidate.surprise,
            "p_against_rest": candidate.p_rest, "p_against_past": candidate.p_past,
            "without": without(&ranking, candidate, indicator, target, &measure),
            "significant": candidate.is_significant(&measure),
        })
    };
    let shown: Vec<&Candidate> = ranking.candidates.iter().take(SHOWN_MAX).collect();
    let evidence = json!({
        "measure": words, "attribute": attribute,
        "period": span_json(now), "before": span_json(before),
        "samples": ranking.whole.n, "bad": sign * ranking.whole.x, "rate": sign * whole,
        "samples_before": ranking.past.n, "bad_before": sign * ranking.past.x,
        "excess": ranking.excess, "looked_at": ranking.looked_at,
        "slices": shown.iter().map(|candidate| json_of(candidate)).collect::<Vec<_>>(),
    });
    let row = |candidate: &&Candidate| {
        vec![
            context.pairs(&candidate.labels).join(", "),
            format!("{}", candidate.now.n),
            rate_words(&measure, sign * candidate.now.rate().unwrap_or(0.0)),
            candidate.before.rate().map_or("-".to_owned(), |rate| rate_words(&measure, sign * rate)),
            percent(candidate.power),
            short(candidate.surprise),
            short(candidate.p_rest.max(candidate.p_past.unwrap_or(0.0))),
        ]
    };
    let rows: Vec<Vec<String>> = if named.is_empty() { Vec::new() } else { named.iter().map(row).collect() };
    context.section(
        "Slices that carry it",
        &["slice", "observations", "now", "before", "carries", "surprise", "chance"],
        rows,
    );
    Ok((sentences, evidence))
}

fn rate_words(measure: &Measure, rate: f64) -> String {
    match measure {
        Measure::Test(_) => format!("{} % bad", short(rate * 100.0)),
        Measure::Wrong => format!("{} % wrong", short(rate * 100.0)),
        _ => short(rate),
    }
}
