//! Predicted against true values: errors and how much of the spread they leave.
//!
//! Definitions are those of scikit-learn; see [`Regression::value`].

use serde::{Deserialize, Serialize};

use super::aggregate::{Moments, Total};
use crate::contract::Aggregate;

/// Sums over (truth, prediction) pairs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Regression {
    truth: Moments,
    absolute: Total,
    squared: Total,
    relative: Total,
}

impl Regression {
    /// Pairs counted.
    pub fn samples(&self) -> u64 {
        self.truth.n
    }

    /// Counts a pair.
    pub fn add(&mut self, truth: f64, predicted: f64) {
        let error = (truth - predicted).abs();
        self.truth.add(truth);
        self.absolute.add(error);
        self.squared.add(error * error);
        self.relative.add(error / truth.abs().max(f64::EPSILON));
    }

    /// Adds the sums of another.
    pub fn merge(&mut self, other: &Regression) {
        self.truth.merge(&other.truth);
        self.absolute.merge(&other.absolute);
        self.squared.merge(&other.squared);
        self.relative.merge(&other.relative);
    }

    /// The value of an aggregate; none without pairs.
    ///
    /// `mape` divides by the truth, by 2.2e-16 where that is smaller. `r2` is 1 − Σ(y−p)² /
    /// Σ(y−ȳ)²; where all truths are equal it is 1 for exact predictions, else 0. It needs two pairs.
    pub fn value(&self, aggregate: Aggregate) -> Option<f64> {
        let n = self.truth.n as f64;
        if self.truth.n == 0 {
            return None;
        }
        match aggregate {
            Aggregate::Mae => Some(self.absolute.value() / n),
            Aggregate::Mse => Some(self.squared.value() / n),
            Aggregate::Rmse => Some((self.squared.value() / n).sqrt()),
            Aggregate::Mape => Some(self.relative.value() / n),
            _ if self.truth.n < 2 => None,
            _ if self.truth.m2 > 0.0 => Some(1.0 - self.squared.value() / self.truth.m2),
            _ => Some(if self.squared.value() == 0.0 { 1.0 } else { 0.0 }),
        }
    }
}
