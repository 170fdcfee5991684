//! Predicted against true classes: the confusion matrix and what is read off it.
//!
//! Definitions and corner cases are those of scikit-learn (`precision_recall_fscore_support`
//! with `zero_division=0`): the classes are those that occur in the window, as truth or as
//! prediction.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::contract::{Aggregate, Average};

/// Different (truth, prediction) pairs that are counted; more make an `error` evaluation.
const CELLS_MAX: usize = 10_000;

/// How often each class was predicted for each true class.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Confusion {
    n: u64,
    /// Whether there were more different pairs than are counted; then `cells` is empty.
    overflow: bool,
    /// Truth to prediction to count.
    cells: BTreeMap<Box<str>, BTreeMap<Box<str>, u64>>,
    /// Entries of `cells`.
    different: usize,
}

/// One class: how often true, how often predicted, how often both.
#[derive(Clone, Copy, Default)]
struct Class {
    truth: u64,
    predicted: u64,
    both: u64,
}

impl Confusion {
    /// Pairs counted.
    pub fn samples(&self) -> u64 {
        self.n
    }

    /// Whether there were too many classes to count.
    pub fn overflow(&self) -> Option<String> {
        self.overflow.then(|| format!("more than {CELLS_MAX} different pairs of truth and prediction"))
    }

    /// Counts a pair.
    pub fn add(&mut self, truth: &str, predicted: &str) {
        self.add_many(truth, predicted, 1);
    }

    fn add_many(&mut self, truth: &str, predicted: &str, count: u64) {
        self.n += count;
        if self.overflow {
            return;
        }
        if let Some(known) = self.cells.get_mut(truth).and_then(|row| row.get_mut(predicted)) {
            *known += count;
            return;
        }
        self.cells.entry(truth.into()).or_default().insert(predicted.into(), count);
        self.different += 1;
        if self.different > CELLS_MAX {
            self.overflow = true;
            self.cells.clear();
        }
    }

    /// Adds the counts of another.
    pub fn merge(&mut self, other: &Confusion) {
        if other.overflow {
            self.overflow = true;
            self.cells.clear();
            self.n += other.n;
            return;
        }
        for (truth, row) in &other.cells {
            for (predicted, count) in row {
                self.add_many(truth, predicted, *count);
            }
        }
    }

    /// Pairs in which both are the same.
    pub fn right(&self) -> u64 {
        self.cells.iter().filter_map(|(truth, row)| row.get(truth)).sum()
    }

    /// The value of an aggregate; `class` looks at one class alone. None without pairs, or
    /// where the class does not occur.
    pub fn value(&self, aggregate: Aggregate, average: Average, class: Option<&str>) -> Option<f64> {
        if self.n == 0 || self.overflow {
            return None;
        }
        let of = |class: Class| {
            let share = |of: u64, all: u64| if all == 0 { 0.0 } else { of as f64 / all as f64 };
            match aggregate {
                Aggregate::Precision => share(class.both, class.predicted),
                Aggregate::Recall => share(class.both, class.truth),
                _ => share(2 * class.both, class.truth + class.predicted),
            }
        };
        let right = self.right() as f64 / self.n as f64;
        if aggregate == Aggregate::Accuracy {
            return Some(right);
        }
        let classes = self.classes();
        match (class, average) {
            (Some(class), _) => classes.get(class).map(|class| of(*class)),
            (None, Average::Micro) => Some(right),
            (None, Average::Macro) => {
                Some(classes.values().map(|class| of(*class)).sum::<f64>() / classes.len() as f64)
            }
            (None, Average::Weighted) => {
                Some(classes.values().map(|class| of(*class) * class.truth as f64).sum::<f64>() / self.n as f64)
            }
        }
    }

    fn classes(&self) -> BTreeMap<&str, Class> {
        let mut classes: BTreeMap<&str, Class> = BTreeMap::new();
        for (truth, row) in &self.cells {
            for (predicted, count) in row {
                classes.entry(truth).or_default().truth += count;
                classes.entry(predicted).or_default().predicted += count;
                if truth == predicted {
                    classes.entry(truth).or_default().both += count;
                }
            }
        }
        classes
    }

    /// Class names, and rows by truth with columns by prediction, both in the order of names.
    /// None beyond `classes_max`.
    pub fn matrix(&self, classes_max: usize) -> Option<(Vec<String>, Vec<Vec<u64>>)> {
        let names: BTreeSet<&str> =
            self.cells.iter().flat_map(|(t, row)| row.keys().chain([t])).map(|n| &**n).collect();
        if names.is_empty() || names.len() > classes_max {
            return None;
        }
        let count = |truth: &str, predicted: &str| self.cells.get(truth).and_then(|row| row.get(predicted)).copied();
        let row = |truth: &&str| names.iter().map(|predicted| count(truth, predicted).unwrap_or(0)).collect();
        Some((names.iter().map(ToString::to_string).collect(), names.iter().map(row).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_classes_are_an_error_in_any_order() {
        let of = |range: std::ops::Range<u32>| {
            let mut confusion = Confusion::default();
            range.for_each(|n| confusion.add(&n.to_string(), "x"));
            confusion
        };
        assert_eq!(of(0..10_000).overflow(), None);
        assert!(of(0..10_001).overflow().is_some());
        let mut merged = of(0..6_000);
        merged.merge(&of(3_000..9_000));
        assert_eq!((merged.overflow(), merged.samples()), (None, 12_000));
        merged.merge(&of(8_000..12_000));
        assert!(merged.overflow().is_some());
        assert_eq!((merged.samples(), merged.value(Aggregate::Accuracy, Average::Macro, None)), (16_000, None));
    }
}
