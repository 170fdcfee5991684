//! Gauges: how an indicator's accumulators are filled, and what a window's comes to.

use std::collections::BTreeMap;

use super::aggregate::{Accumulator, Moments, Total, VALUES_MAX, answer, keep_bounds};
use super::confusion::Confusion;
use super::detail::{Detail, Part};
use super::distinct::Distinct;
use super::predictions::{Pair, Predicted};
use super::quantile::{Sketch, nearest_rank};
use super::ranking::Ranking;
use crate::contract::{Aggregate, Average, Condition, Gap, Indicator, Scalar};
use crate::report::Value;
use crate::time::{Span, Timestamp};

/// Scores are at least this where their logarithm is taken, and at most one less it (as in
/// scikit-learn's `log_loss`).
const SCORE_MIN: f64 = f64::EPSILON;
/// Classes up to which a confusion matrix is shown.
const CLASSES_SHOWN: usize = 50;

/// One observation, as gauges see it.
#[derive(Debug, Clone, Copy)]
pub enum Observed<'a> {
    /// The value of an attribute.
    Value(&'a Value<'a>),
    /// A prediction and its feedback.
    Pair(Pair<'a>),
    /// An inference was made.
    Inference,
    /// Feedback came for an inference of this time.
    Answer(Timestamp),
    /// A report came.
    Report,
}

/// How an indicator's accumulators are filled.
#[derive(Debug, Clone, PartialEq)]
pub struct Gauge {
    aggregate: Aggregate,
    good: Option<Condition>,
    average: Average,
    class: Option<String>,
    /// Bounds that the objective's target sets to a value; infinite without.
    bounds: (f64, f64),
    fence: Fence,
    window: Span,
    every: Span,
    /// For `disparity`: how each group is gauged, and how groups are compared.
    parts: Option<(Box<Gauge>, Gap)>,
    /// For `disparity`: groups with fewer observations are not compared.
    min_samples: u64,
    /// Whether it takes numbers, whatever they are.
    takes_numbers: bool,
}

/// What single numbers are held against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fence {
    /// The least and the greatest that does not miss; infinite where nothing does.
    pub bounds: (f64, f64),
    /// Whether that is all there is to know of a gauge to [add](Accumulator::add_number) numbers.
    pub is_all: bool,
}

impl Fence {
    /// Whether a number lies beyond the bounds.
    #[inline]
    pub fn is_beyond(&self, number: f64) -> bool {
        lies_beyond(self.bounds, number)
    }
}

/// The value of a window.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Summary {
    /// Observations.
    pub samples: u64,
    /// The aggregated value; none where there are too few observations to have one.
    pub value: Option<Scalar>,
    /// For quantiles: whether the target's bounds are kept, by exact counts.
    pub within: Option<bool>,
    /// Why there can be no value.
    pub fault: Option<String>,
    /// What the value rests on.
    pub detail: Option<Box<Detail>>,
    /// For drift that is judged by its chance: the p-value.
    pub p_value: Option<f64>,
}

impl Summary {
    /// A number as value; one that is not finite is none.
    pub fn of(samples: u64, number: Option<f64>) -> Summary {
        let value = number.filter(|number| number.is_finite()).map(|number| Scalar(Value::Number(number)));
        Summary { samples, value, ..Summary::default() }
    }
}

fn lies_beyond((low, high): (f64, f64), number: f64) -> bool {
    number < low || high < number
}

impl Fence {
    fn of(indicator: &Indicator, bounds: (f64, f64)) -> Fence {
        use Aggregate::*;
        match (indicator.aggregate, &indicator.good) {
            (Mean | Min | Max | Quantile(_), _) => Fence { bounds, is_all: true },
            (Ratio, Some(good)) if good.is_bound() => Fence { bounds: good.bounds(), is_all: true },
            (aggregate, _) => Fence {
                bounds: (f64::NEG_INFINITY, f64::INFINITY),
                is_all: matches!(aggregate, Count | Rate | Sum | Stddev),
            },
        }
    }
}

impl Gauge {
    /// For an indicator, and the target that its values are judged by (none in rules).
    pub fn new(indicator: &Indicator, target: Option<&Condition>, min_samples: u64) -> Gauge {
        let parts = indicator.of.map(|of| {
            let mut part = indicator.clone();
            (part.aggregate, part.of) = (of, None);
            (Box::new(Gauge::new(&part, None, 1)), indicator.metric.unwrap_or_default())
        });
        let any_number = Observed::Value(&Value::Number(0.0));
        let bounds = target.map_or((f64::NEG_INFINITY, f64::INFINITY), Condition::bounds);
        let mut gauge = Gauge {
            takes_numbers: false,
            fence: Fence::of(indicator, bounds),
            aggregate: indicator.aggregate,
            good: indicator.good.clone(),
            average: indicator.average.unwrap_or_default(),
            class: indicator.class.clone(),
            bounds,
            window: indicator.window(),
            every: indicator.every(),
            parts,
            min_samples,
        };
        gauge.takes_numbers = gauge.takes_this(&any_number);
        gauge
    }

    /// Whether it takes numbers, whatever they are.
    pub fn takes_numbers(&self) -> bool {
        self.takes_numbers
    }

    /// What numbers are held against.
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// Whether an observation can be aggregated. Values: all but `last`, `count`, `rate`, `ratio`,
    /// `distinct` and drift need numbers. Pairs: regressions need two numbers, `log_loss` and
    /// `auc` scores.
    #[inline]
    pub fn takes(&self, observed: &Observed<'_>) -> bool {
        // What is nearly always the case, found out once.
        match observed {
            Observed::Value(Value::Number(_)) if self.takes_numbers => true,
            _ => self.takes_this(observed),
        }
    }

    fn takes_this(&self, observed: &Observed<'_>) -> bool {
        use Aggregate::*;
        if let Some((gauge, _)) = &self.parts {
            return gauge.takes(observed);
        }
        match (observed, self.aggregate) {
            (Observed::Value(_), Last | Count | Rate | Distinct | Psi | Js | Each) => true,
            (Observed::Value(value), Ratio) => self.good.as_ref().is_some_and(|good| good.holds(value).is_some()),
            (Observed::Value(value), Chi2) => !matches!(value, Value::Number(_)),
            (Observed::Value(value), Ks | Wasserstein) => matches!(value, Value::Number(_)),
            (Observed::Value(value), _) => !matches!(value, Value::Text(_)),
            (Observed::Pair(pair), Mae | Mse | Rmse | Mape | R2) => pair.numbers().is_some(),
            (Observed::Pair(pair), LogLoss | Auc) => matches!(pair.predicted, Predicted::Scores(_)),
            (Observed::Pair(_) | Observed::Inference | Observed::Answer(_) | Observed::Report, _) => true,
        }
    }

    /// Whether one observation by itself misses what is promised of the aggregate.
    pub fn misses(&self, observed: &Observed<'_>) -> bool {
        use Aggregate::*;
        match (observed, self.aggregate) {
            (Observed::Pair(pair), Accuracy | Precision | Recall | F1) => !pair.is_right(),
            (Observed::Pair(pair), Mae | Rmse) => pair.error().is_some_and(|error| self.is_beyond(error)),
            (Observed::Value(value), Ratio) => self.good.as_ref().and_then(|good| good.holds(value)) == Some(false),
            (Observed::Value(value), Mean | Min | Max | Last | Each | Quantile(_)) => {
                value.as_number().is_some_and(|number| self.is_beyond(number))
            }
            _ => false,
        }
    }

    fn is_beyond(&self, number: f64) -> bool {
        lies_beyond(self.bounds, number)
    }

    /// An observation as a number, for the share that its instance has: for pairs whether it is
    /// right, or how far off.
    pub fn number(observed: &Observed<'_>) -> f64 {
        match observed {
            Observed::Value(value) => value.as_number().unwrap_or_default(),
            Observed::Pair(pair) => pair.error().unwrap_or(f64::from(u8::from(pair.is_right()))),
            Observed::Answer(_) => 1.0,
            Observed::Inference | Observed::Report => 0.0,
        }
    }

    /// An accumulator without observations.
    pub fn empty(&self) -> Accumulator {
        use Aggregate::*;
        match self.aggregate {
            Count | Rate | Each => Accumulator::Count { n: 0 },
            Sum | Mean | LogLoss | Zscore | Ewma => Accumulator::Sum { n: 0, total: Total::default() },
            Stddev => Accumulator::Moments(Moments::default()),
            Min | Max => Accumulator::Extremes { n: 0, min: f64::MAX, max: f64::MIN },
            Last => Accumulator::Last { n: 0, last: None },
            Quantile(_) => {
                Accumulator::Quantile { sketch: Sketch::default(), min: f64::MAX, max: f64::MIN, below: 0, above: 0 }
            }
            Ratio => Accumulator::Ratio { n: 0, good: 0 },
            Distinct => Accumulator::Distinct { n: 0, values: self::Distinct::default() },
            Accuracy | Precision | Recall | F1 => Accumulator::Confusion(Confusion::default()),
            Mae | Mse | Rmse | Mape | R2 => Accumulator::Regression(Box::default()),
            Auc => Accumulator::Ranking(Ranking::default()),
            Coverage => Accumulator::Coverage { n: 0, answered: Vec::new() },
            Disparity => Accumulator::Parts { n: 0, overflow: false, parts: BTreeMap::new() },
            Psi | Ks | Js | Wasserstein | Chi2 => Accumulator::Distribution(Box::default()),
            Adwin | PageHinkley => Accumulator::Values { n: 0, values: Vec::new() },
        }
    }

    /// Adds one observation that the gauge [takes](Gauge::takes); `part` is the group it belongs to.
    pub fn add(&self, accumulator: &mut Accumulator, time: Timestamp, observed: &Observed<'_>, part: &str) {
        if let Accumulator::Parts { n, overflow, parts } = accumulator {
            return self.add_part(n, overflow, parts, time, observed, part);
        }
        match observed {
            Observed::Value(value) => self.add_value(accumulator, time, value),
            Observed::Pair(pair) => self.add_pair(accumulator, pair),
            Observed::Inference => {
                if let Accumulator::Coverage { n, .. } = accumulator {
                    *n += 1;
                }
            }
            Observed::Answer(inference) => {
                let start = inference.floor(self.every);
                // Inferences older than any window that this pane is part of count in none.
                if let Accumulator::Coverage { answered, .. } = accumulator
                    && time.floor(self.every) + self.every - self.window <= start
                {
                    answer(answered, start.as_micros(), 1);
                }
            }
            Observed::Report => self.add_value(accumulator, time, &Value::Bool(true)),
        }
    }

    fn add_part(
        &self,
        n: &mut u64,
        overflow: &mut bool,
        parts: &mut BTreeMap<Box<str>, Accumulator>,
        time: Timestamp,
        observed: &Observed<'_>,
        part: &str,
    ) {
        *n += 1;
        let Some((gauge, _)) = self.parts.as_ref().filter(|_| !*overflow) else { return };
        if !parts.contains_key(part) {
            parts.insert(part.into(), gauge.empty());
        }
        if let Some(accumulator) = parts.get_mut(part) {
            gauge.add(accumulator, time, observed, "");
        }
        keep_bounds(overflow, parts);
    }

    fn add_pair(&self, accumulator: &mut Accumulator, pair: &Pair<'_>) {
        match (accumulator, pair.predicted) {
            (Accumulator::Confusion(confusion), _) => {
                pair.with_classes(|truth, predicted| confusion.add(truth, predicted))
            }
            (Accumulator::Regression(regression), _) => {
                if let Some((truth, predicted)) = pair.numbers() {
                    regression.add(truth, predicted);
                }
            }
            (Accumulator::Ranking(ranking), Predicted::Scores(scores)) => {
                let scores = scores.iter().map(|(class, score)| (&**class, *score));
                pair.with_classes(|truth, _| ranking.add(truth, scores.clone(), self.class.as_deref()));
            }
            (Accumulator::Sum { n, total }, Predicted::Scores(scores)) => pair.with_classes(|truth, _| {
                let score = scores.iter().find(|(class, _)| **class == *truth).map_or(0.0, |(_, score)| *score);
                *n += 1;
                total.add(-score.clamp(SCORE_MIN, 1.0 - SCORE_MIN).ln());
            }),
            _ => {}
        }
    }

    fn add_value(&self, accumulator: &mut Accumulator, time: Timestamp, value: &Value<'_>) {
        let number = value.as_number().unwrap_or_default();
        match accumulator {
            Accumulator::Last { n, last } => {
                *n += 1;
                if last.as_ref().is_none_or(|(at, _)| *at <= time.as_micros()) {
                    *last = Some((time.as_micros(), Scalar(value.clone().into_owned())));
                }
            }
            Accumulator::Ratio { n, good } if !self.fence.is_all => {
                *n += 1;
                let holds = self.good.as_ref().and_then(|condition| condition.holds(value));
                *good += u64::from(holds == Some(true));
            }
            Accumulator::Distinct { n, values } => {
                *n += 1;
                values.add(value);
            }
            Accumulator::Distribution(distribution) => distribution.add(value),
            Accumulator::Values { n, values } => {
                *n += 1;
                if values.len() < VALUES_MAX {
                    values.push((time.as_micros(), number));
                }
            }
            Accumulator::Count { .. }
            | Accumulator::Sum { .. }
            | Accumulator::Moments(_)
            | Accumulator::Extremes { .. }
            | Accumulator::Quantile { .. }
            | Accumulator::Ratio { .. } => accumulator.add_number(number, &self.fence),
            Accumulator::Confusion(_)
            | Accumulator::Regression(_)
            | Accumulator::Ranking(_)
            | Accumulator::Coverage { .. }
            | Accumulator::Parts { .. } => {}
        }
    }

    /// What a window's accumulator comes to, by itself; the window starts at `start`.
    pub fn summary(&self, accumulator: &Accumulator, start: Timestamp) -> Summary {
        let samples = accumulator.samples();
        let number = match (self.aggregate, accumulator) {
            (_, Accumulator::Last { last, .. }) => {
                let value = last.as_ref().map(|(_, scalar)| scalar.clone());
                return Summary { samples, value, ..Summary::default() };
            }
            (_, Accumulator::Parts { overflow, parts, .. }) => return self.compared(samples, *overflow, parts, start),
            (_, Accumulator::Confusion(confusion)) => return self.of_classes(confusion),
            (_, Accumulator::Ranking(ranking)) => {
                let area = ranking.area(self.class.as_deref());
                return Summary { fault: ranking.overflow(), ..Summary::of(samples, area) };
            }
            _ if samples == 0 => None,
            (Aggregate::Rate, Accumulator::Count { n }) => Some(*n as f64 / self.window.as_seconds()),
            (_, Accumulator::Count { n }) => Some(*n as f64),
            (Aggregate::Sum, Accumulator::Sum { total, .. }) => Some(total.value()),
            (_, Accumulator::Sum { n, total }) => Some(total.value() / *n as f64),
            (_, Accumulator::Moments(moments)) => moments.deviation(),
            (Aggregate::Min, Accumulator::Extremes { min, .. }) => Some(*min),
            (_, Accumulator::Extremes { max, .. }) => Some(*max),
            (Aggregate::Quantile(share), Accumulator::Quantile { sketch, min, max, below, above }) => {
                let rank = nearest_rank(share, samples);
                let kept = (*below < rank, *above <= samples - rank);
                let value = sketch.at_rank(rank).map(|value| self.on_its_side(value.clamp(*min, *max), kept));
                return Summary { within: Some(kept.0 && kept.1), ..Summary::of(samples, value) };
            }
            (_, Accumulator::Quantile { .. }) => None,
            (_, Accumulator::Ratio { n, good }) => Some(*good as f64 / *n as f64),
            (_, Accumulator::Distinct { values, .. }) => Some(values.count()),
            (aggregate, Accumulator::Regression(regression)) => regression.value(aggregate),
            (_, Accumulator::Coverage { n, answered }) => {
                let inside = answered.iter().filter(|(pane, _)| *pane >= start.as_micros());
                Some(inside.map(|(_, count)| count).sum::<u64>() as f64 / *n as f64)
            }
            (_, Accumulator::Distribution(_) | Accumulator::Values { .. }) => None,
        };
        Summary::of(samples, number)
    }

    fn of_classes(&self, confusion: &Confusion) -> Summary {
        let value = confusion.value(self.aggregate, self.average, self.class.as_deref());
        let detail = confusion.matrix(CLASSES_SHOWN);
        let detail = detail.map(|(classes, matrix)| Box::new(Detail::Confusion { classes, matrix }));
        Summary { fault: confusion.overflow(), detail, ..Summary::of(confusion.samples(), value) }
    }

    /// How far the groups are apart: the greatest value less the least, or the least by the
    /// greatest (1 where all are zero). Needs two groups with enough observations.
    fn compared(
        &self,
        samples: u64,
        overflow: bool,
        parts: &BTreeMap<Box<str>, Accumulator>,
        start: Timestamp,
    ) -> Summary {
        let Some((gauge, gap)) = &self.parts else { return Summary::of(samples, None) };
        let mut fault = overflow.then(|| "too many groups to compare".to_owned());
        let mut shown = Vec::new();
        for (name, accumulator) in parts {
            let summary = gauge.summary(accumulator, start);
            fault = fault.or(summary.fault.map(|fault| format!("{name}: {fault}")));
            let value = summary.value.and_then(|value| value.0.as_number());
            let compared = summary.samples >= self.min_samples && value.is_some();
            shown.push(Part { group: name.to_string(), samples: summary.samples, value, compared });
        }
        let values: Vec<f64> = shown.iter().filter(|part| part.compared).filter_map(|part| part.value).collect();
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let value = (values.len() > 1).then(|| match gap {
            Gap::Difference => greatest - least,
            Gap::Ratio if greatest == 0.0 => 1.0,
            Gap::Ratio => least / greatest,
        });
        Summary { fault, detail: Some(Box::new(Detail::Groups { groups: shown })), ..Summary::of(samples, value) }
    }

    /// Moves an estimated quantile to the side of the bounds on which the exact counts show
    /// the true one to be; that only brings it nearer.
    fn on_its_side(&self, value: f64, (above_low, below_high): (bool, bool)) -> f64 {
        let (low, high) = self.bounds;
        let value = if below_high { value.min(high) } else { value.max(high.next_up()) };
        if above_low { value.max(low) } else { value.min(low.next_down()) }
    }
}
