//! Accumulators: what a pane keeps of its observations, and what a window makes of it.
//!
//! Accumulators merge: the merge of two is the accumulator of both inputs one after the
//! other (floating-point sums to within rounding).

use serde::{Deserialize, Serialize};

use super::distinct::Distinct;
use super::quantile::{Sketch, nearest_rank};
use crate::contract::{Aggregate, Condition, Indicator, Scalar};
use crate::report::Value;
use crate::time::{Span, Timestamp};

/// What is kept of the observations of a pane, or of a window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Accumulator {
    /// For `count` and `rate`.
    Count {
        /// Observations.
        n: u64,
    },
    /// For `sum` and `mean`.
    Sum {
        /// Observations.
        n: u64,
        /// Their sum, less the compensation.
        sum: f64,
        /// Rounding that the sum has lost (Neumaier 1974).
        lost: f64,
    },
    /// For `stddev`.
    Moments {
        /// Observations.
        n: u64,
        /// Their mean.
        mean: f64,
        /// Sum of squared differences from the mean (Welford 1962; merged after Chan, Golub,
        /// LeVeque 1979).
        m2: f64,
    },
    /// For `min` and `max`.
    Extremes {
        /// Observations.
        n: u64,
        /// The least.
        min: f64,
        /// The greatest.
        max: f64,
    },
    /// For `last`.
    Last {
        /// Observations.
        n: u64,
        /// When the last was, and what.
        last: Option<(i64, Scalar)>,
    },
    /// For quantiles.
    Quantile {
        /// Their distribution, within 1 %.
        sketch: Sketch,
        /// The least.
        min: f64,
        /// The greatest.
        max: f64,
        /// Exactly how many lie below the target's lower bound...
        below: u64,
        /// ...and above its upper bound, so that the verdict is exact.
        above: u64,
    },
    /// For `ratio`.
    Ratio {
        /// Observations.
        n: u64,
        /// Good ones.
        good: u64,
    },
    /// For `distinct`.
    Distinct {
        /// Observations.
        n: u64,
        /// Different values.
        values: Distinct,
    },
}

/// How an indicator's accumulators are filled.
#[derive(Debug, Clone, PartialEq)]
pub struct Gauge {
    aggregate: Aggregate,
    good: Option<Condition>,
    /// Bounds that the objective's target sets to a value; infinite without.
    bounds: (f64, f64),
    window: Span,
}

/// The value of a window.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Observations.
    pub samples: u64,
    /// The aggregated value; none where there are too few observations to have one.
    pub value: Option<Scalar>,
    /// For quantiles: whether the target's bounds are kept, by exact counts.
    pub within: Option<bool>,
}

impl Gauge {
    /// For an indicator, and the target that its values are judged by (none in rules).
    pub fn new(indicator: &Indicator, target: Option<&Condition>) -> Gauge {
        Gauge {
            aggregate: indicator.aggregate,
            good: indicator.good.clone(),
            bounds: target.map_or((f64::NEG_INFINITY, f64::INFINITY), Condition::bounds),
            window: indicator.window(),
        }
    }

    /// Whether a value can be aggregated: all but `last`, `count`, `rate`, `ratio` and
    /// `distinct` need numbers.
    pub fn takes(&self, value: &Value<'_>) -> bool {
        match self.aggregate {
            Aggregate::Last | Aggregate::Count | Aggregate::Rate | Aggregate::Distinct => true,
            Aggregate::Ratio => self.good.as_ref().is_some_and(|good| good.holds(value).is_some()),
            _ => !matches!(value, Value::Text(_)),
        }
    }

    /// Whether one observation by itself misses what is promised of the aggregate.
    pub fn misses(&self, value: &Value<'_>) -> bool {
        match (self.aggregate, value.as_number()) {
            (Aggregate::Ratio, _) => self.good.as_ref().and_then(|good| good.holds(value)) == Some(false),
            (Aggregate::Count | Aggregate::Rate | Aggregate::Sum | Aggregate::Stddev | Aggregate::Distinct, _) => false,
            (_, Some(number)) => number < self.bounds.0 || self.bounds.1 < number,
            (_, None) => false,
        }
    }

    /// An accumulator without observations.
    pub fn empty(&self) -> Accumulator {
        match self.aggregate {
            Aggregate::Count | Aggregate::Rate | Aggregate::Each => Accumulator::Count { n: 0 },
            Aggregate::Sum | Aggregate::Mean => Accumulator::Sum { n: 0, sum: 0.0, lost: 0.0 },
            Aggregate::Stddev => Accumulator::Moments { n: 0, mean: 0.0, m2: 0.0 },
            Aggregate::Min | Aggregate::Max => Accumulator::Extremes { n: 0, min: f64::MAX, max: f64::MIN },
            Aggregate::Last => Accumulator::Last { n: 0, last: None },
            Aggregate::Quantile(_) => {
                Accumulator::Quantile { sketch: Sketch::default(), min: f64::MAX, max: f64::MIN, below: 0, above: 0 }
            }
            Aggregate::Ratio => Accumulator::Ratio { n: 0, good: 0 },
            Aggregate::Distinct => Accumulator::Distinct { n: 0, values: Distinct::default() },
        }
    }

    /// Adds one observation that the gauge [takes](Gauge::takes).
    pub fn add(&self, accumulator: &mut Accumulator, time: Timestamp, value: &Value<'_>) {
        let number = value.as_number().unwrap_or_default();
        match accumulator {
            Accumulator::Count { n } => *n += 1,
            Accumulator::Sum { n, sum, lost } => {
                *n += 1;
                add_compensated(sum, lost, number);
            }
            Accumulator::Moments { n, mean, m2 } => {
                *n += 1;
                let delta = number - *mean;
                *mean += delta / *n as f64;
                *m2 += delta * (number - *mean);
            }
            Accumulator::Extremes { n, min, max } => {
                *n += 1;
                *min = min.min(number);
                *max = max.max(number);
            }
            Accumulator::Last { n, last } => {
                *n += 1;
                if last.as_ref().is_none_or(|(at, _)| *at <= time.as_micros()) {
                    *last = Some((time.as_micros(), Scalar(value.clone().into_owned())));
                }
            }
            Accumulator::Quantile { sketch, min, max, below, above } => {
                sketch.add(number);
                *min = min.min(number);
                *max = max.max(number);
                *below += u64::from(number < self.bounds.0);
                *above += u64::from(number > self.bounds.1);
            }
            Accumulator::Ratio { n, good } => {
                *n += 1;
                let holds = self.good.as_ref().and_then(|condition| condition.holds(value));
                *good += u64::from(holds == Some(true));
            }
            Accumulator::Distinct { n, values } => {
                *n += 1;
                values.add(value);
            }
        }
    }

    /// What a window's accumulator comes to.
    pub fn summary(&self, accumulator: &Accumulator) -> Summary {
        let samples = accumulator.samples();
        let mut within = None;
        let number = match (self.aggregate, accumulator) {
            (_, Accumulator::Last { last, .. }) => {
                let value = last.as_ref().map(|(_, scalar)| scalar.clone());
                return Summary { samples, value, within };
            }
            _ if samples == 0 => None,
            (Aggregate::Rate, Accumulator::Count { n }) => Some(*n as f64 / self.window.as_seconds()),
            (_, Accumulator::Count { n }) => Some(*n as f64),
            (Aggregate::Mean, Accumulator::Sum { n, sum, lost }) => Some((sum + lost) / *n as f64),
            (_, Accumulator::Sum { sum, lost, .. }) => Some(sum + lost),
            (_, Accumulator::Moments { n, m2, .. }) => (*n > 1).then(|| (m2 / (*n - 1) as f64).sqrt()),
            (Aggregate::Min, Accumulator::Extremes { min, .. }) => Some(*min),
            (_, Accumulator::Extremes { max, .. }) => Some(*max),
            (Aggregate::Quantile(share), Accumulator::Quantile { sketch, min, max, below, above }) => {
                let rank = nearest_rank(share, samples);
                let kept = (*below < rank, *above <= samples - rank);
                within = Some(kept.0 && kept.1);
                sketch.at_rank(rank).map(|value| self.on_its_side(value.clamp(*min, *max), kept))
            }
            (_, Accumulator::Quantile { .. }) => None,
            (_, Accumulator::Ratio { n, good }) => Some(*good as f64 / *n as f64),
            (_, Accumulator::Distinct { values, .. }) => Some(values.count()),
        };
        let value = number.filter(|number| number.is_finite()).map(|number| Scalar(Value::Number(number)));
        Summary { samples, value, within }
    }

    /// Moves an estimated quantile to the side of the bounds on which the exact counts show
    /// the true one to be; that only brings it nearer.
    fn on_its_side(&self, value: f64, (above_low, below_high): (bool, bool)) -> f64 {
        let (low, high) = self.bounds;
        let value = if below_high { value.min(high) } else { value.max(high.next_up()) };
        if above_low { value.max(low) } else { value.min(low.next_down()) }
    }
}

fn add_compensated(sum: &mut f64, lost: &mut f64, number: f64) {
    let total = *sum + number;
    *lost += if sum.abs() >= number.abs() { (*sum - total) + number } else { (number - total) + *sum };
    *sum = total;
}

impl Accumulator {
    /// How many observations it holds.
    pub fn samples(&self) -> u64 {
        match self {
            Accumulator::Count { n }
            | Accumulator::Sum { n, .. }
            | Accumulator::Moments { n, .. }
            | Accumulator::Extremes { n, .. }
            | Accumulator::Last { n, .. }
            | Accumulator::Ratio { n, .. }
            | Accumulator::Distinct { n, .. } => *n,
            Accumulator::Quantile { sketch, .. } => sketch.count(),
        }
    }

    /// Adds what a later accumulator of the same kind holds. Other kinds are left alone:
    /// they cannot meet, since a series keeps one kind.
    pub fn merge(&mut self, later: &Accumulator) {
        match (self, later) {
            (Accumulator::Count { n }, Accumulator::Count { n: m }) => *n += m,
            (Accumulator::Sum { n, sum, lost }, Accumulator::Sum { n: m, sum: theirs, lost: their_lost }) => {
                *n += m;
                add_compensated(sum, lost, *theirs);
                *lost += their_lost;
            }
            (Accumulator::Moments { n, mean, m2 }, Accumulator::Moments { n: m, mean: theirs, m2: their_m2 }) => {
                let total = *n + m;
                if total > 0 {
                    let delta = theirs - *mean;
                    let share = *m as f64 / total as f64;
                    *m2 += their_m2 + delta * delta * *n as f64 * share;
                    *mean += delta * share;
                    *n = total;
                }
            }
            (Accumulator::Extremes { n, min, max }, Accumulator::Extremes { n: m, min: low, max: high }) => {
                *n += m;
                *min = min.min(*low);
                *max = max.max(*high);
            }
            (Accumulator::Last { n, last }, Accumulator::Last { n: m, last: theirs }) => {
                *n += m;
                let newer = match (&*last, theirs) {
                    (Some((ours, _)), Some((theirs, _))) => ours <= theirs,
                    (None, _) => true,
                    (_, None) => false,
                };
                if newer {
                    last.clone_from(theirs);
                }
            }
            (
                Accumulator::Quantile { sketch, min, max, below, above },
                Accumulator::Quantile { sketch: theirs, min: low, max: high, below: b, above: a },
            ) => {
                sketch.merge(theirs);
                *min = min.min(*low);
                *max = max.max(*high);
                *below += b;
                *above += a;
            }
            (Accumulator::Ratio { n, good }, Accumulator::Ratio { n: m, good: theirs }) => {
                *n += m;
                *good += theirs;
            }
            (Accumulator::Distinct { n, values }, Accumulator::Distinct { n: m, values: theirs }) => {
                *n += m;
                values.merge(theirs);
            }
            (ours, theirs) => debug_assert!(false, "cannot merge {theirs:?} into {ours:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KINDS: [&str; 12] =
        ["count", "rate", "sum", "mean", "stddev", "min", "max", "last", "p50", "p99", "ratio", "distinct"];

    fn gauge(aggregate: &str) -> Gauge {
        let good = (aggregate == "ratio").then(|| serde_json::json!({"max": 10.0}));
        let mut json = serde_json::json!({"attribute": "a.b", "aggregate": aggregate, "window": "10s"});
        if let Some(good) = good {
            json["good"] = good;
        }
        let indicator: Indicator = serde_json::from_value(json).expect("indicator");
        Gauge::new(&indicator, Some(&Condition::Max(20.0)))
    }

    fn filled(gauge: &Gauge, values: &[(i64, f64)]) -> Accumulator {
        let mut accumulator = gauge.empty();
        for (time, value) in values {
            gauge.add(&mut accumulator, Timestamp::from_micros(*time), &Value::Number(*value));
        }
        accumulator
    }

    fn merged(a: &Accumulator, b: &Accumulator) -> Accumulator {
        let mut merged = a.clone();
        merged.merge(b);
        merged
    }

    /// Equal, but for the rounding of sums.
    fn close(gauge: &Gauge, a: &Accumulator, b: &Accumulator) -> bool {
        let (a, b) = (gauge.summary(a), gauge.summary(b));
        let near = match (&a.value, &b.value) {
            (Some(a), Some(b)) => match (a.0.as_number(), b.0.as_number()) {
                (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * (1.0 + a.abs()),
                _ => a == b,
            },
            (a, b) => a.is_none() && b.is_none(),
        };
        near && a.samples == b.samples && a.within == b.within
    }

    fn values() -> impl Strategy<Value = Vec<(i64, f64)>> {
        prop::collection::vec((0..1_000_000i64, prop_oneof![-50.0..50.0f64, Just(0.0), Just(20.0)]), 0..40)
    }

    proptest! {
        #[test]
        fn merge_is_associative_has_an_identity_and_equals_adding(a in values(), b in values(), c in values()) {
            for kind in KINDS {
                let gauge = gauge(kind);
                let (x, y, z) = (filled(&gauge, &a), filled(&gauge, &b), filled(&gauge, &c));
                let left = merged(&merged(&x, &y), &z);
                let right = merged(&x, &merged(&y, &z));
                let all: Vec<_> = a.iter().chain(&b).chain(&c).copied().collect();
                prop_assert!(close(&gauge, &left, &right), "{kind}: {left:?} {right:?}");
                prop_assert!(close(&gauge, &left, &filled(&gauge, &all)), "{kind} differs from adding");
                prop_assert!(close(&gauge, &merged(&x, &gauge.empty()), &x), "{kind} right identity");
                prop_assert!(close(&gauge, &merged(&gauge.empty(), &x), &x), "{kind} left identity");
            }
        }

        #[test]
        fn merge_commutes_where_order_means_nothing(a in values(), b in values()) {
            for kind in KINDS.into_iter().filter(|kind| *kind != "last") {
                let gauge = gauge(kind);
                let (x, y) = (filled(&gauge, &a), filled(&gauge, &b));
                prop_assert!(close(&gauge, &merged(&x, &y), &merged(&y, &x)), "{kind}");
            }
        }

        #[test]
        fn accumulators_survive_json(a in values()) {
            for kind in KINDS {
                let full = filled(&gauge(kind), &a);
                let text = serde_json::to_string(&full).expect("json");
                prop_assert_eq!(serde_json::from_str::<Accumulator>(&text).expect(&text), full);
            }
        }

        #[test]
        fn a_quantile_verdict_is_exact(values in prop::collection::vec(19.5..20.5f64, 1..200)) {
            let gauge = gauge("p99");
            let timed: Vec<_> = values.iter().map(|value| (0, *value)).collect();
            let summary = gauge.summary(&filled(&gauge, &timed));
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let exact = sorted[nearest_rank(0.99, sorted.len() as u64) as usize - 1];
            let shown = summary.value.and_then(|v| v.0.as_number()).expect("a value");
            prop_assert_eq!(summary.within, Some(exact <= 20.0));
            prop_assert_eq!(shown <= 20.0, exact <= 20.0, "what is shown agrees with the verdict");
        }
    }
}
