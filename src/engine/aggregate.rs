//! Accumulators: what a pane keeps of its observations.
//!
//! Accumulators merge: the merge of two is the accumulator of both inputs one after the
//! other (floating-point sums to within rounding). [`super::gauge`] fills and reads them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::confusion::Confusion;
use super::distinct::Distinct;
use super::distribution::Distribution;
use super::gauge::Fence;
use super::quantile::Sketch;
use super::ranking::Ranking;
use super::regression::Regression;
use crate::contract::Scalar;

/// Groups that a disparity compares at most.
const PARTS_MAX: usize = 1_000;
/// Values that a pane keeps for a change detector.
pub const VALUES_MAX: usize = 100_000;

/// What is kept of the observations of a pane, or of a window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accumulator {
    /// For `count` and `rate`.
    Count {
        /// Observations.
        n: u64,
    },
    /// For `sum`, `mean`, `log_loss`, `zscore` and `ewma`.
    Sum {
        /// Observations.
        n: u64,
        /// Their sum.
        total: Total,
    },
    /// For `stddev`.
    Moments(Moments),
    /// For `min` and `max`.
    Extremes {
        /// Observations.
        n: u64,
        /// The least.
        min: f64,
        /// The greatest.
        max: f64,
    },
    /// For `last`, and for the age of the newest report.
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
    /// For aggregates of predicted classes.
    Confusion(Confusion),
    /// For aggregates of predicted numbers.
    Regression(Box<Regression>),
    /// For `auc`.
    Ranking(Ranking),
    /// For `coverage`.
    Coverage {
        /// Inferences.
        n: u64,
        /// Feedback by the pane of its inference: start in microseconds, count; sorted.
        answered: Vec<(i64, u64)>,
    },
    /// For `disparity`: an accumulator a group.
    Parts {
        /// Observations.
        n: u64,
        /// Whether there were more groups than are compared; then `parts` is empty.
        overflow: bool,
        /// By the group's name.
        parts: BTreeMap<Box<str>, Accumulator>,
    },
    /// For drift.
    Distribution(Box<Distribution>),
    /// For change detectors.
    Values {
        /// Observations.
        n: u64,
        /// Time in microseconds and value, in the order of arrival; at most 100,000.
        values: Vec<(i64, f64)>,
    },
}

/// A sum that does not lose small numbers beside great ones.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Total {
    sum: f64,
    /// Rounding that the sum has lost (Neumaier 1974).
    lost: f64,
}

impl Total {
    /// Adds a number.
    pub fn add(&mut self, number: f64) {
        let total = self.sum + number;
        let (great, small) = if self.sum.abs() >= number.abs() { (self.sum, number) } else { (number, self.sum) };
        self.lost += (great - total) + small;
        self.sum = total;
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &Total) {
        self.add(other.sum);
        self.lost += other.lost;
    }

    /// The sum.
    pub fn value(&self) -> f64 {
        self.sum + self.lost
    }
}

/// Mean and spread.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Moments {
    /// Numbers.
    pub n: u64,
    /// Their mean.
    pub mean: f64,
    /// Sum of squared differences from the mean (Welford 1962; merged after Chan, Golub,
    /// LeVeque 1979).
    pub m2: f64,
}

impl Moments {
    /// Counts a number.
    pub fn add(&mut self, number: f64) {
        self.n += 1;
        let delta = number - self.mean;
        self.mean += delta / self.n as f64;
        self.m2 += delta * (number - self.mean);
    }

    /// Counts the numbers of another.
    pub fn merge(&mut self, other: &Moments) {
        let total = self.n + other.n;
        if total > 0 {
            let delta = other.mean - self.mean;
            let share = other.n as f64 / total as f64;
            self.m2 += other.m2 + delta * delta * self.n as f64 * share;
            self.mean += delta * share;
            self.n = total;
        }
    }

    /// Sample standard deviation; none of fewer than two numbers.
    pub fn deviation(&self) -> Option<f64> {
        (self.n > 1).then(|| (self.m2 / (self.n - 1) as f64).sqrt())
    }
}

impl Accumulator {
    /// How many observations it holds.
    pub fn samples(&self) -> u64 {
        match self {
            Accumulator::Count { n }
            | Accumulator::Sum { n, .. }
            | Accumulator::Extremes { n, .. }
            | Accumulator::Last { n, .. }
            | Accumulator::Ratio { n, .. }
            | Accumulator::Distinct { n, .. }
            | Accumulator::Coverage { n, .. }
            | Accumulator::Parts { n, .. }
            | Accumulator::Values { n, .. } => *n,
            Accumulator::Moments(moments) => moments.n,
            Accumulator::Quantile { sketch, .. } => sketch.count(),
            Accumulator::Confusion(confusion) => confusion.samples(),
            Accumulator::Regression(regression) => regression.samples(),
            Accumulator::Ranking(ranking) => ranking.samples(),
            Accumulator::Distribution(distribution) => distribution.samples(),
        }
    }

    /// Counts a number, where a fence is all there is to know.
    #[inline]
    pub fn add_number(&mut self, number: f64, fence: &Fence) {
        match self {
            Accumulator::Count { n } => *n += 1,
            Accumulator::Sum { n, total } => {
                *n += 1;
                total.add(number);
            }
            Accumulator::Moments(moments) => moments.add(number),
            Accumulator::Extremes { n, min, max } => {
                *n += 1;
                *min = min.min(number);
                *max = max.max(number);
            }
            Accumulator::Quantile { sketch, min, max, below, above } => {
                sketch.add(number);
                *min = min.min(number);
                *max = max.max(number);
                *below += u64::from(number < fence.bounds.0);
                *above += u64::from(number > fence.bounds.1);
            }
            Accumulator::Ratio { n, good } => {
                *n += 1;
                *good += u64::from(!fence.is_beyond(number));
            }
            other => debug_assert!(false, "{other:?} needs more than a fence"),
        }
    }

    /// Reads a little of what a window is put together from.
    pub fn read(&self) -> u64 {
        match self {
            Accumulator::Quantile { sketch, below, .. } => sketch.read() + below,
            other => other.samples(),
        }
    }

    /// Makes room for as much as another holds.
    pub fn reserve_like(&mut self, other: &Accumulator) {
        if let (Accumulator::Quantile { sketch, .. }, Accumulator::Quantile { sketch: theirs, .. }) = (self, other) {
            sketch.reserve_like(theirs);
        }
    }

    /// Adds what a later accumulator of the same kind holds. Other kinds are left alone:
    /// they cannot meet, since a series keeps one kind.
    pub fn merge(&mut self, later: &Accumulator) {
        match (self, later) {
            (Accumulator::Count { n }, Accumulator::Count { n: m }) => *n += m,
            (Accumulator::Sum { n, total }, Accumulator::Sum { n: m, total: theirs }) => {
                *n += m;
                total.merge(theirs);
            }
            (Accumulator::Moments(ours), Accumulator::Moments(theirs)) => ours.merge(theirs),
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
            (Accumulator::Confusion(ours), Accumulator::Confusion(theirs)) => ours.merge(theirs),
            (Accumulator::Regression(ours), Accumulator::Regression(theirs)) => ours.merge(theirs),
            (Accumulator::Ranking(ours), Accumulator::Ranking(theirs)) => ours.merge(theirs),
            (Accumulator::Distribution(ours), Accumulator::Distribution(theirs)) => ours.merge(theirs),
            (Accumulator::Coverage { n, answered }, Accumulator::Coverage { n: m, answered: theirs }) => {
                *n += m;
                theirs.iter().for_each(|(start, count)| answer(answered, *start, *count));
            }
            (Accumulator::Parts { n, overflow, parts }, Accumulator::Parts { n: m, overflow: o, parts: theirs }) => {
                *n += m;
                *overflow |= o;
                for (name, part) in theirs {
                    match parts.get_mut(name) {
                        Some(ours) => ours.merge(part),
                        None => drop(parts.insert(name.clone(), part.clone())),
                    }
                }
                keep_bounds(overflow, parts);
            }
            (Accumulator::Values { n, values }, Accumulator::Values { n: m, values: theirs }) => {
                *n += m;
                let room = VALUES_MAX - values.len();
                values.extend(theirs.iter().take(room));
            }
            (ours, theirs) => debug_assert!(false, "cannot merge {theirs:?} into {ours:?}"),
        }
    }
}

/// Counts feedback for inferences of the pane that starts at `start`.
pub(super) fn answer(answered: &mut Vec<(i64, u64)>, start: i64, count: u64) {
    match answered.binary_search_by_key(&start, |(at, _)| *at) {
        Ok(at) => answered[at].1 += count,
        Err(at) => answered.insert(at, (start, count)),
    }
}

/// Gives up on more groups than are compared.
pub(super) fn keep_bounds(overflow: &mut bool, parts: &mut BTreeMap<Box<str>, Accumulator>) {
    if *overflow || parts.len() > PARTS_MAX {
        *overflow = true;
        parts.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::gauge::{Gauge, Observed};
    use super::super::quantile::nearest_rank;
    use super::*;
    use crate::contract::{Condition, Indicator};
    use crate::report::Value;
    use crate::time::Timestamp;
    use proptest::prelude::*;

    const KINDS: [&str; 14] = [
        "count", "rate", "sum", "mean", "stddev", "min", "max", "last", "p50", "p99", "ratio", "distinct", "ks", "psi",
    ];

    fn gauge(aggregate: &str) -> Gauge {
        let good = (aggregate == "ratio").then(|| serde_json::json!({"max": 10.0}));
        let mut json = serde_json::json!({"attribute": "a.b", "aggregate": aggregate, "window": "10s"});
        if let Some(good) = good {
            json["good"] = good;
        }
        let indicator: Indicator = serde_json::from_value(json).expect("indicator");
        Gauge::new(&indicator, Some(&Condition::Max(20.0)), 1)
    }

    fn filled(gauge: &Gauge, values: &[(i64, f64)]) -> Accumulator {
        let mut accumulator = gauge.empty();
        for (time, value) in values {
            let value = Value::Number(*value);
            gauge.add(&mut accumulator, Timestamp::from_micros(*time), &Observed::Value(&value), "");
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
        if let (Accumulator::Distribution(a), Accumulator::Distribution(b)) = (a, b) {
            return a.numbers.weighted() == b.numbers.weighted() && a.samples() == b.samples();
        }
        let (a, b) = (gauge.summary(a, Timestamp::EPOCH), gauge.summary(b, Timestamp::EPOCH));
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
            let summary = gauge.summary(&filled(&gauge, &timed), Timestamp::EPOCH);
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let exact = sorted[nearest_rank(0.99, sorted.len() as u64) as usize - 1];
            let shown = summary.value.and_then(|v| v.0.as_number()).expect("a value");
            prop_assert_eq!(summary.within, Some(exact <= 20.0));
            prop_assert_eq!(shown <= 20.0, exact <= 20.0, "what is shown agrees with the verdict");
        }
    }
}
